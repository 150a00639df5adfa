"""A whole run in an object store: a server that speaks S3, on loopback, started and ended here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs
from typer.testing import CliRunner, Result

from distcorr.cli import app, common
from distcorr.data.storage import Folder
from tests.stages.common import contents, run_all

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"
BUCKET = "s3://photos"
RUN = f"{BUCKET}/runs/toy"
KEY, SECRET = "AKIADISTINCTIVE", "hunter2/DISTINCTIVE+secret"


class Server:
    """The server, and the store as it is to somebody who does not know distcorr."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"127.0.0.1:{port}"
        self.fs = fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            endpoint_override=self.endpoint,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
            allow_delayed_open=True,
        )

    def names(self, prefix: str) -> list[str]:
        selector = fs.FileSelector(prefix, recursive=True)
        files = (i for i in self.fs.get_file_info(selector) if i.type == fs.FileType.File)
        return sorted(info.path.removeprefix(f"{prefix}/") for info in files)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """All of them; none may hold the credentials."""
        names = self.names(prefix)
        with ThreadPoolExecutor(8) as pool:
            contents = pool.map(lambda name: self.read(f"{prefix}/{name}"), names)
        found = dict(zip(names, contents, strict=True))
        assert [n for n, c in found.items() if KEY.encode() in c or SECRET.encode() in c] == []
        return found

    def read(self, path: str) -> bytes:
        with self.fs.open_input_file(path) as file:
            return bytes(file.read())

    def write(self, path: str, content: bytes) -> None:
        with self.fs.open_output_stream(path) as file:
            file.write(content)

    def authenticate(self, after: str) -> None:
        """Check credentials after so many requests; "inf": never."""
        url = f"http://{self.endpoint}/moto-api/reset-auth"
        request = urllib.request.Request(url, after.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()


def answers(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, "the object store's server has ended"
            assert time.monotonic() < deadline, "the object store's server does not answer"
            time.sleep(0.1)
        made = Server(port)
        made.fs.create_dir("photos")
        yield made
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module", autouse=True)
def environment(server: Server) -> Iterator[None]:
    """Everything that a user sets: nothing of it stands in a URI or a setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{server.endpoint}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield


@pytest.fixture(scope="module")
def stored(environment: None, toy_settings: Settings) -> str:
    """The run of ``finished``, in the object store: photographs, features, results."""
    run_all(RUN, toy_settings(INLINE))  # type: ignore[arg-type]
    return RUN


def distcorr(*arguments: str, code: int = 0) -> Result:
    common._shown.clear()  # a terminal writes to the streams that it found
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception  # a traceback is what users must never see
    assert done.exit_code == code, done.output
    said_of_it(done.output)
    return done


def said_of_it(text: str) -> None:
    """Nobody may say the credentials, in whole or in part."""
    assert KEY not in text
    assert "hunter2" not in text
    assert "DISTINCTIVE" not in text


def assert_same_as_disk(server: Server, folder: Path, but: tuple[str, ...] = ()) -> None:
    """Every object is the file, but for logs and the page, which tell the time, and ``but``."""
    ours, disk = server.objects("photos/runs/toy"), contents(folder)
    ours = {n: c for n, c in ours.items() if n.split("/")[0] not in ("logs", "config.toml")}
    ours.pop("report/index.html", None)
    assert sorted(ours) == sorted(disk)
    assert [name for name in disk if ours[name] != disk[name] and name not in but] == []


def test_every_object_is_the_file_of_the_same_run_on_disk(
    server: Server, stored: str, finished: Path
) -> None:
    assert_same_as_disk(server, finished)


def test_what_is_lost_or_cut_short_is_made_anew_and_nothing_else(
    server: Server, stored: str, finished: Path, toy_settings: Settings
) -> None:
    names = server.names("photos/runs/toy")
    grids = [n for n in names if n.startswith("store/grids-block10-") and n.endswith(".parquet")]
    cut = f"photos/runs/toy/{grids[0]}"
    server.write(cut, server.read(cut)[:100])  # a PUT that was not the store's to break off
    pairs = [n for n in names if n.startswith("transfer/") and "/pairs/" in n]
    server.fs.delete_file(f"photos/runs/toy/{pairs[1]}")
    for name in names:
        if name.endswith("_done.json"):
            server.fs.delete_file(f"photos/runs/toy/{name}")
    summaries = run_all(RUN, toy_settings(INLINE))  # type: ignore[arg-type]
    made_anew = {name: s.computed for name, s in summaries.items() if s.computed}
    assert made_anew == {"build-db": 1, "transfer": 1}
    assert_same_as_disk(server, finished)


def test_report_figures_and_page_are_those_of_the_run_on_disk(
    server: Server, stored: str, copy: Path
) -> None:
    done = distcorr("report", "-r", RUN, "--figures")
    assert "block10 flow" in done.output
    distcorr("report", "-r", str(copy), "--figures")
    # By design: definitions that need the sizes of photographs are left to distcorr pck.
    dialects = [f"report/table2-dialects{end}.csv" for end in ("", "-gap")]
    assert_same_as_disk(server, copy, but=(*dialects, "report/tables.json"))
    page = server.read("photos/runs/toy/report/index.html").decode()
    assert "data:image/" in page
    said_of_it(page)
    rows = json.loads(distcorr("status", "-r", RUN, "--json").stdout)
    assert [row["stage"] for row in rows if row["finished"]] == list(common.ORDER)
    same = distcorr("report", "-r", RUN, "--compare", str(copy))
    assert "block10 flow" in same.output
    by_file = distcorr("pck", f"{RUN}/report/predictions.parquet", "-d", "long2014", "--json")
    by_run = distcorr("pck", RUN, "-d", "long2014", "--json")
    values = [[r["value"] for r in json.loads(d.stdout)["rows"]] for d in (by_file, by_run)]
    assert values[0] == values[1] != []  # intervals differ: a run says how many resamples


def test_a_store_that_runs_share(
    server: Server, stored: str, finished: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    shared = f"{RUN}/store"
    listed = distcorr("store", "ls", "--store", shared).output
    assert "grids-block10-" in listed
    assert "is whole" in distcorr("store", "verify", "-r", RUN).output
    # Photographs and store over there, the run here: it finds every feature.
    sets = [w for s in toy_settings(INLINE) for w in ("--set", s)]
    where = ["-r", str(tmp_path / "run"), "--data", f"{RUN}/toy", "--store", shared]
    distcorr("build-db", "-p", "smoke", *where, *sets)
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())["stages"]["build-db"]
    own = json.loads((finished / "manifest.json").read_text())["stages"]["build-db"]
    assert manifest["tables"] == own["tables"]
    assert manifest["store"] == shared
    assert not (tmp_path / "run/store").exists()


def test_verify_finds_a_cut_object(server: Server, stored: str) -> None:
    [first, *_] = [n for n in server.names("photos/runs/toy/store") if n.endswith(".parquet")]
    name = f"photos/runs/toy/store/{first}"
    whole = server.read(name)
    server.write(name, whole[:-10])
    found = distcorr("store", "verify", "-r", RUN, code=3).output
    assert first.rpartition("/")[2] in found.replace("\n", "")
    server.write(name, whole)


@pytest.mark.parametrize("option", ["--run", "--data", "--weights", "--store"])
def test_a_password_in_a_uri_is_refused_and_not_repeated(
    server: Server, stored: str, tmp_path: Path, option: str
) -> None:
    before = server.names("photos")
    uri = f"s3://{KEY}:{SECRET}@photos/elsewhere"
    where = {"--run": str(tmp_path / "run"), "--address": "inline", option: uri}
    words = [word for pair in where.items() for word in pair]
    done = distcorr("build-db", "-p", "smoke", *words, code=2)
    assert "password" in done.output
    assert "AWS_SECRET_ACCESS_KEY" in done.output
    assert server.names("photos") == before
    for file in tmp_path.rglob("*"):
        if file.is_file():
            said_of_it(file.read_text("latin-1"))


# -- storage that fails ----------------------------------------------------------------------


@pytest.mark.timeout(60, func_only=True)  # seconds, not minutes
def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        done = distcorr("run", "-r", RUN, code=3)
    assert f"Cannot look into {RUN}" in done.output
    assert "can be reached" in done.output


@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize("command", ["run", "status"])
def test_there_is_no_such_bucket(command: str) -> None:
    done = distcorr(command, "-r", "s3://nobucket/runs/toy", code=3)
    assert "There is no bucket 'nobucket'" in done.output


@pytest.mark.timeout(60, func_only=True)
def test_credentials_that_are_refused(
    server: Server, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.authenticate("0")
    try:
        assert "ACCESS_DENIED" in distcorr("run", "-r", RUN, code=3).output
        denied = distcorr("pck", f"{RUN}/report/predictions.parquet", code=3)
        assert "Cannot look into" in denied.output
        folder = Folder(f"{BUCKET}/new")
        with pytest.raises(common.DistcorrError, match="not ours to read"):
            folder.read("x")
        with pytest.raises(common.DistcorrError, match="Cannot write"):
            folder.write("x", b"")
    finally:
        server.authenticate("inf")

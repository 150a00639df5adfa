"""Fetching from mirrors on loopback, good and bad ones, into the layout that --data expects."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from distcorr.data import archives, download, fetched
from distcorr.data.fetch import MIRROR, fetch
from distcorr.data.fetched import ITEMS, Fetched, find, verify
from distcorr.errors import MISSING, DistcorrError

NOISE = np.random.default_rng(0).bytes(400_000)


@dataclass
class Mirror:
    """A server on loopback; ``behave`` says how each request is answered.

    cut: bytes after which the connection ends, once; ranges: whether it knows Range.
    """

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers.get("Range", "")
        self.asked.append((name, wanted))
        content = self.files.get(name)
        if content is None or self.status != 200:
            request.send_error(404 if content is None else self.status)
            return
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start >= len(content) > 0:
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.send_header("Content-Range", place)
        for key, value in {"Content-Length": str(len(content) - start), **self.headers}.items():
            request.send_header(key, value)
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(content)
        with contextlib.suppress(ConnectionError):
            request.wfile.write(content[start:end])
        request.close_connection = True


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    monkeypatch.delenv(MIRROR, raising=False)
    servers = []

    def start(*arguments: object, **options: object) -> Mirror:
        mirror = Mirror(*arguments, **options)  # type: ignore[arg-type]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        mirror.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return mirror

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.last: dict[str, tuple[int, int]] = {}

    def say(self, message: str) -> None:
        self.said.append(message)

    def advance(self, doing: str, done: int, total: int) -> None:
        self.last[doing] = done, total


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as made:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


VOC = {f"TrainVal/VOCdevkit/VOC2011/JPEGImages/{i}.jpg": NOISE[: 900 * i] for i in range(1, 9)}
VOC |= {"TrainVal/VOCdevkit/VOC2011/ImageSets/Main/train.txt": b"1\n", "TrainVal/readme": b"hello"}
TAR = tar(VOC)
KEYPOINTS = tar({"annotations/bird/1_1.xml": b"<a/>", "annotations/README.txt": b"cite"}, "w:gz")
FILE = ITEMS["voc2011"].file


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny archive in place of the published one, and no mirror in the world."""
    published = {
        "voc2011": f"md5:{hashlib.md5(TAR).hexdigest()}",
        "keypoints": "",
        "caffenet": f"sha1:{hashlib.sha1(NOISE).hexdigest()}",
    }
    for name, digest in published.items():
        monkeypatch.setitem(ITEMS, name, replace(ITEMS[name], urls=(), digest=digest))


def get(tmp_path: Path, *mirrors: Mirror, name: str = "voc2011", **options: str) -> Fetched:
    urls = [f"{mirror.url}/{ITEMS[name].file}" for mirror in mirrors]
    return fetch(name, str(tmp_path / "data"), Listener(), urls, **options)


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data").iterdir()}


def refused(words: str, *arguments: object, **options: object) -> DistcorrError:
    with pytest.raises(DistcorrError, match=words) as caught:
        get(*arguments, **options)  # type: ignore[arg-type]
    return caught.value


# -- what is published ------------------------------------------------------------------------


def test_published_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert find("voc2011").digest == "md5:6c3384ef61512963050cb5d687e5bf1e"
    assert find("caffenet").digest == "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"
    assert find("keypoints").digest == ""
    for item in ITEMS.values():
        assert all(url.startswith("http") and url.endswith(item.file) for url in item.urls)


def test_unknown_name() -> None:
    with pytest.raises(DistcorrError, match="Did you mean 'voc2011'"):
        find("voc2012")


# -- the layout -------------------------------------------------------------------------------


def test_an_archive_becomes_the_layout(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    mirror = serve({FILE: TAR})
    found = get(tmp_path, mirror)
    base = tmp_path / "data" / "VOCdevkit" / "VOC2011"
    assert {
        f"TrainVal/VOCdevkit/VOC2011/{path.relative_to(base)}": path.read_bytes()
        for path in base.rglob("*")
        if path.is_file()
    } == {name: content for name, content in VOC.items() if "readme" not in name}
    assert left(tmp_path) == {"VOCdevkit", ".voc2011.json"}  # no archive, nothing half done
    assert (found.path, found.verified, found.present) == (str(base), True, False)
    assert (found.files, found.bytes) == (9, sum(map(len, VOC.values())) - 5)
    assert found.sha256 == hashlib.sha256(TAR).hexdigest()

    again = get(tmp_path, mirror)  # once
    assert (again.present, again.source, len(mirror.asked)) == (True, "", 1)
    assert again == replace(found, present=True, source="")
    assert verify("voc2011", str(tmp_path / "data")) == ([], 9)


def test_what_is_fetched_is_what_the_reader_reads(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    from distcorr.data import voc
    from distcorr.data.storage import Folder
    from distcorr.data.toy import write_toy

    toy = tmp_path / "toy"
    write_toy(Folder(toy), seed=1, train=1, val=1)
    files = {str(p.relative_to(toy)): p.read_bytes() for p in toy.rglob("*") if p.is_file()}
    images = tar({f"TrainVal/{n}": c for n, c in files.items() if n.startswith("VOCdevkit")})
    points = tar({n: c for n, c in files.items() if n.startswith("annotations")}, "w:gz")
    mirror = serve({FILE: images, ITEMS["keypoints"].file: points})
    ITEMS["voc2011"] = replace(ITEMS["voc2011"], digest="")
    get(tmp_path, mirror)
    get(tmp_path, mirror, name="keypoints")
    wanted, got = voc.load(str(toy)), voc.load(str(tmp_path / "data"))
    assert [i.id for i in got.instances] == [i.id for i in wanted.instances] != []
    assert got.warnings == wanted.warnings


def test_weights_are_one_file(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    file = ITEMS["caffenet"].file
    found = get(tmp_path, serve({file: NOISE}), name="caffenet")
    assert (tmp_path / "data" / file).read_bytes() == NOISE
    assert left(tmp_path) == {file}
    assert (found.verified, found.files, found.bytes) == (True, 1, len(NOISE))
    assert get(tmp_path, name="caffenet").present
    assert verify("caffenet", str(tmp_path / "data")) == ([], 1)
    (tmp_path / "data" / file).write_bytes(NOISE[:-1])
    problems, _ = verify("caffenet", str(tmp_path / "data"))
    assert "wrong sha1" in problems[0].what
    refused("is not the published", tmp_path, name="caffenet")


def test_an_unknown_checksum(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    mirror = serve({ITEMS["keypoints"].file: KEYPOINTS})
    found = get(tmp_path, mirror, name="keypoints")
    digest = hashlib.sha256(KEYPOINTS).hexdigest()
    assert (found.verified, found.sha256) == (False, digest)
    assert (tmp_path / "data/annotations/bird/1_1.xml").read_bytes() == b"<a/>"
    assert get(tmp_path, name="keypoints", sha256=digest.upper()).verified
    refused("another archive", tmp_path, name="keypoints", sha256="0" * 64)
    refused("64 hexadecimal digits", tmp_path, name="keypoints", sha256="abc")
    elsewhere = tmp_path / "other"
    refused("wrong sha256", elsewhere, mirror, name="keypoints", sha256="0" * 64)
    assert get(elsewhere, mirror, name="keypoints", sha256=digest).verified


# -- broken transfers -------------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_broke(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    mirror = serve({ITEMS["caffenet"].file: NOISE}, cuts=[150_000, 100_000])
    get(tmp_path, mirror, name="caffenet")
    starts = [int(wanted[6:-1] or 0) if wanted else 0 for _, wanted in mirror.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]
    assert starts[1] > 150_000 - 2 * download._BLOCK  # no more is lost than a block or two


def test_a_later_process_goes_on_too(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    file = ITEMS["caffenet"].file
    broken = serve({file: NOISE}, cuts=[200_000, 0, 0, 0])
    error = refused("1 of 1 mirrors failed", tmp_path, broken, name="caffenet")
    assert error.exit_code == MISSING
    assert "--from FILE" in error.hint
    part = tmp_path / "data" / f"{file}.part"
    assert NOISE.startswith(part.read_bytes())
    have = part.stat().st_size
    assert have > 0
    mirror = serve({file: NOISE})
    get(tmp_path, mirror, name="caffenet")
    assert mirror.asked == [(file, f"bytes={have}-")]
    assert left(tmp_path) == {file}


def test_a_server_without_ranges_starts_again(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    mirror = serve({ITEMS["caffenet"].file: NOISE}, cuts=[150_000], ranges=False)
    get(tmp_path, mirror, name="caffenet")
    assert len(mirror.asked) == 2


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    mirror = serve({ITEMS["caffenet"].file: NOISE}, cuts=[150_000] * 99, ranges=False)
    refused("mirrors failed", tmp_path, mirror, name="caffenet")
    assert len(mirror.asked) <= 2 + download._TRIES


@pytest.mark.parametrize("part", [b"something else", NOISE[:-1] + b"x", NOISE + b"too much", NOISE])
def test_a_part_of_another_file(serve: Callable[..., Mirror], tmp_path: Path, part: bytes) -> None:
    file = ITEMS["caffenet"].file
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{file}.part").write_bytes(part)
    get(tmp_path, serve({file: NOISE}), name="caffenet")
    assert (tmp_path / "data" / file).read_bytes() == NOISE


def test_halves_are_not_joined_without_a_checksum(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    file = ITEMS["keypoints"].file
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{file}.part").write_bytes(b"half of who knows what")
    mirror = serve({file: KEYPOINTS})
    get(tmp_path, mirror, name="keypoints")
    assert mirror.asked == [(file, "")]


def test_a_compressed_transfer_is_not_unpacked_on_the_way(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    """Apache calls a .tgz a gzipped transfer of a .tar."""
    mirror = serve({ITEMS["keypoints"].file: KEYPOINTS}, headers={"Content-Encoding": "x-gzip"})
    found = get(tmp_path, mirror, name="keypoints")
    assert found.sha256 == hashlib.sha256(KEYPOINTS).hexdigest()


# -- bad mirrors ------------------------------------------------------------------------------


def test_the_next_mirror_is_asked_and_each_reason_is_told(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    page = b"<!DOCTYPE html><p>moved</p>"
    missing, wrong, html = serve({}), serve({FILE: NOISE}), serve({FILE: page})
    typed = serve({FILE: b"moved"}, headers={"Content-Type": "text/html; charset=utf-8"})
    refusing = serve({FILE: TAR}, status=403)
    bad = missing, wrong, html, typed, refusing
    error = refused("5 of 5 mirrors failed", tmp_path, *bad)
    for words in ("404", "403", "wrong md5", "a web page"):
        assert words in error.message
    assert left(tmp_path) <= {f"{FILE}.part"}  # what was wrong is deleted
    found = get(tmp_path, *bad, good := serve({FILE: TAR}))
    assert found.source == f"{good.url}/{FILE}"


def test_nobody_listens(tmp_path: Path, serve: Callable[..., Mirror]) -> None:
    error = refused("mirrors failed", tmp_path, Mirror({}, url="http://127.0.0.1:1"))
    assert "refused" in error.message
    error = refused("neither http", tmp_path, Mirror({}, url="file:///etc"))
    error = refused("password", tmp_path, Mirror({}, url="https://me:secret@host"))
    assert "secret" not in str(error)


def test_a_mirror_in_the_environment(
    serve: Callable[..., Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = serve({f"papers/{FILE}": TAR})
    monkeypatch.setenv(MIRROR, f"{mirror.url}/papers/")
    assert get(tmp_path).source == f"{mirror.url}/papers/{FILE}"


# -- archives ---------------------------------------------------------------------------------


def test_ones_own_copy(tmp_path: Path) -> None:
    mine = tmp_path / "mine.tar"
    mine.write_bytes(TAR)
    found = get(tmp_path, file=str(mine))
    assert (found.source, found.verified) == (str(mine), True)
    assert mine.read_bytes() == TAR
    mine.write_bytes(TAR[:-1])
    error = refused("wrong md5", tmp_path / "two", file=str(mine))
    assert "left as it is" in error.hint
    assert mine.exists()
    refused("There is no file", tmp_path / "two", file=str(tmp_path / "nowhere"))
    weights = tmp_path / "w"
    weights.write_bytes(NOISE)
    get(tmp_path, name="caffenet", file=str(weights))
    assert (tmp_path / "data" / ITEMS["caffenet"].file).read_bytes() == NOISE
    assert weights.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar({"annotations/../../evil": b"x"}), "leads out"),
        (tar({"elsewhere/bird/1.xml": b"x"}), "holds 0"),
        (tar({"a/annotations/1.xml": b"x", "b/annotations/1.xml": b"x"}), "holds 2"),
        (KEYPOINTS[:-40], "broken one"),
    ],
)
def test_a_bad_archive_leaves_nothing(
    serve: Callable[..., Mirror], tmp_path: Path, content: bytes, words: str
) -> None:
    mirror = serve({ITEMS["keypoints"].file: content})
    refused(words, tmp_path, mirror, name="keypoints")
    assert left(tmp_path) == set()
    assert not (tmp_path / "evil").exists()


def test_what_was_there_before_is_left_alone(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    (tmp_path / "data" / "annotations").mkdir(parents=True)
    (tmp_path / "data" / "annotations" / "mine").write_text("mine")
    mirror = serve({ITEMS["keypoints"].file: KEYPOINTS})
    error = refused("did not unpack it", tmp_path, mirror, name="keypoints")
    assert "distcorr doctor --data" in error.hint
    assert mirror.asked == []
    with pytest.raises(DistcorrError, match="did not unpack it"):
        verify("keypoints", str(tmp_path / "data"))


def test_a_process_that_ended_while_unpacking(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    mirror = serve({FILE: TAR})
    get(tmp_path, mirror)
    (tmp_path / "data/VOCdevkit/VOC2011").rename(tmp_path / "data/.voc2011.unpacking")
    (tmp_path / "data" / FILE).write_bytes(TAR)  # whole, so it has its name
    found = get(tmp_path, mirror)
    assert (found.present, len(mirror.asked)) == (False, 1)
    assert verify("voc2011", str(tmp_path / "data")) == ([], 9)
    assert left(tmp_path) == {"VOCdevkit", ".voc2011.json"}


def test_verify_names_what_is_missing_and_damaged(
    serve: Callable[..., Mirror], tmp_path: Path
) -> None:
    with pytest.raises(DistcorrError, match="There is no VOCdevkit"):
        verify("voc2011", str(tmp_path / "data"))
    get(tmp_path, serve({FILE: TAR}))
    photographs = tmp_path / "data/VOCdevkit/VOC2011/JPEGImages"
    (photographs / "3.jpg").unlink()
    content = bytearray((photographs / "5.jpg").read_bytes())
    content[7] ^= 1
    (photographs / "5.jpg").write_bytes(content)  # of the same size
    (photographs / "more.jpg").write_bytes(b"one's own is no problem")
    problems, count = verify("voc2011", str(tmp_path / "data"))
    assert count == 9
    assert {(p.file.rpartition("/")[2], p.what) for p in problems} == {
        ("3.jpg", "missing"),
        ("5.jpg", "damaged"),
    }
    marker = tmp_path / "data/.voc2011.json"
    assert len(json.loads(marker.read_text())["files"]) == 9
    marker.write_text("{")
    with pytest.raises(DistcorrError, match="nothing says what belongs there"):
        verify("voc2011", str(tmp_path / "data"))


# -- the disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "times"), [("voc2011", 2), ("caffenet", 1)])
def test_no_room_is_said_before_anything_is_written(
    serve: Callable[..., Mirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    times: int,
) -> None:
    content = {"voc2011": TAR, "caffenet": NOISE}[name]
    mirror = serve({ITEMS[name].file: content})
    usage = type("Usage", (), {"free": times * len(content) - 1})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    refused("Not enough room to fetch", tmp_path, mirror, name=name)
    assert left(tmp_path) == set()
    usage.free += 1
    get(tmp_path, mirror, name=name)


def test_a_folder_that_cannot_be_written(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file is in the way")
    assert "--to DIR" in refused("Cannot fetch into", tmp_path, serve({FILE: TAR})).hint
    with pytest.raises(DistcorrError, match="a folder of this machine"):
        fetched.local("s3://bucket/x")

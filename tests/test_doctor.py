"""``distcorr doctor``: every check when all is well and when it is not; it never hangs or tells."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from distcorr import config as configuration
from distcorr.algorithms.extractors import Backbone
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.toy import write_toy
from distcorr.errors import DistcorrError
from distcorr.stages import doctor, jobserver, machine, nodes
from distcorr.stages.doctor import Asked, bounded, examine
from distcorr.stages.machine import Check
from tests.stages.common import write_alexnet
from tests.test_cli import distcorr


def ok(check: Check, *words: str) -> None:
    assert check.level == "ok", check
    assert all(word in check.detail for word in words), check


def bad(level: str, check: Check, *words: str) -> None:
    """Not well, and says what to do about it."""
    assert check.level == level, check
    said = f"{check.detail} {check.fix}"
    assert all(word in said for word in words), check


# -- the machine -------------------------------------------------------------------------------


def test_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ok(machine.python(), "Python 3.", "distcorr 0.")
    monkeypatch.setattr(machine.distcorr, "__file__", str(tmp_path / "distcorr" / "__init__.py"))
    assert "git" not in machine.python().detail  # installed, not a checkout
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    ok(machine.python())  # git is not needed


def test_libraries() -> None:
    ok(machine.libraries(), "torch", "ray")
    wanted = ["numpy>=99", "numpy", "no-such-library>=1", "also-none; extra == 'dev'"]
    found = machine.libraries(wanted)
    bad("fail", found, "numpy>=99 is 2", "no-such-library>=1 is not installed", "pip install")
    assert "also-none" not in found.detail


def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i}")
    ok(machine.gpu(), "Card 0, Card 1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    bad("warn", machine.gpu(), "sees no GPU")
    monkeypatch.setattr(machine.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    bad("warn", machine.gpu(), "for CPUs only", "pytorch.org")


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e8 < machine.total_memory() < 1e14
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(machine, "total_memory", lambda: 16e9)
    ok(machine.memory(), "2.0 GB each")
    monkeypatch.setattr(machine, "total_memory", lambda: 4e9)
    bad("warn", machine.memory(), "0.5 GB each", "compute.workers=2")


def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "total_memory", lambda: 10e9)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=4e9))
    ok(machine.shared_memory(str(tmp_path)), "4.0 GB")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=64e6))
    bad("warn", machine.shared_memory(str(tmp_path)), "would like 3.0", "--shm-size=3g")
    ok(machine.shared_memory(str(tmp_path / "none")), "does without")


@pytest.mark.parametrize(
    ("limits", "level", "words"),
    [
        ((65536, 65536), "ok", "65536"),
        ((-1, -1), "ok", ""),
        ((1024, 1 << 20), "warn", "ulimit -n 65536"),
        ((1024, 8192), "warn", "ulimit -n 8192"),
        ((256, 256), "warn", "administrator"),
    ],
)
def test_open_files(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], level: str, words: str
) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda _: limits)
    bad(level, machine.open_files(), words)


def test_threads() -> None:
    ok(machine.threads({}), "no variable set")
    ok(machine.threads({"OMP_NUM_THREADS": "4"}), "OMP_NUM_THREADS=4")
    wrong = machine.threads({"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": "0"})
    bad("warn", wrong, "unset OMP_NUM_THREADS MKL_NUM_THREADS")


def test_numba_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ok(machine.numba_cache({"NUMBA_CACHE_DIR": str(tmp_path / "new")}), str(tmp_path))
    blocked = machine.numba_cache({"NUMBA_CACHE_DIR": str(tmp_path / "file")})
    bad("warn", blocked, "compiled each time", "NUMBA_CACHE_DIR=")
    assert not (tmp_path / "new").exists()


# -- time and errors ---------------------------------------------------------------------------


def test_a_check_that_hangs_fails() -> None:
    never = threading.Event()
    began = time.monotonic()
    bad("fail", bounded("stuck", lambda: never.wait() and Check("", "ok", ""), 0.2), "no answer")
    assert time.monotonic() - began < 30
    never.set()


def test_a_check_that_raises_fails() -> None:
    def ours() -> Check:
        raise DistcorrError("it is broken", "mend it")

    def another() -> Check:
        raise ZeroDivisionError("by nothing")

    assert bounded("a", ours) == Check("a", "fail", "it is broken", "mend it")
    assert bounded("b", another) == Check("b", "fail", "ZeroDivisionError: by nothing")


# -- data, weights, run folder, disk, clock ----------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor") / "toy"
    write_toy(Folder(folder), seed=1, train=2, val=1)
    return folder


def test_data(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.chdir(tmp_path)
    needs: list[float] = []
    found = doctor.data(Asked(data=str(toy)), None, needs.append)
    ok(found, "6 training and 3 validation instances of 3 categories")
    assert needs[0] > 9 * 2 * 30 * 30 * 256  # conv5 at 500 px alone
    bad("warn", doctor.data(Asked(), None, needs.append), "distcorr fetch voc2011")
    shutil.copytree(toy, tmp_path / "data")  # where fetch puts it
    ok(doctor.data(Asked(), None, needs.append), "6 training")
    photographs = sorted((tmp_path / "data").rglob("*.jpg"))
    photographs[0].unlink()
    found = doctor.data(Asked(), None, needs.append)
    bad("warn", found, "1 of", "photographs are missing", "--verify")
    with pytest.raises(DistcorrError, match="has none of"):
        doctor.data(Asked(data=str(tmp_path / "nowhere")), None, needs.append)
    ok(doctor.data(Asked(), configuration.load("smoke"), needs.append), "draws its data itself")


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_alexnet(tmp_path / "alexnet.npz")
    asked = Asked(weights=str(path))
    bad("warn", doctor.weights(asked, None), "conv4 are right", "is unknown")
    real = Backbone.geometry

    def shifted(self: Backbone, tap: str, size: int | None = None) -> object:
        found = real(self, tap, size)
        return found._replace(offset=found.offset + found.stride)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "geometry", shifted)
        bad("fail", doctor.weights(asked, None), "does not look where it says")
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"conv4.weight": np.zeros_like(arrays["conv4.weight"])}))
    bad("fail", doctor.weights(asked, None), "the same for every image")
    np.savez(path, **(arrays | {"conv1.weight": np.full_like(arrays["conv1.weight"], 1e38)}))
    bad("fail", doctor.weights(asked, None), "not finite")
    with pytest.raises(DistcorrError, match="no such file"):
        doctor.weights(Asked(weights=str(tmp_path / "none.npz")), None)
    settings = configuration.load("smoke", ["features.network=my_feats:Edges"])
    ok(doctor.weights(Asked(), settings), "distcorr features my_feats:Edges")


def test_known_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ok(doctor.weights(Asked(), None), "EfficientNet-Lite0", "its checksum is known")


def test_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a" / "b"
    ok(doctor.run_folder(str(place)), "can be written")
    assert list(tmp_path.iterdir()) == []  # nothing is left
    (tmp_path / "mine").mkdir()
    ok(doctor.run_folder(str(tmp_path / "mine")))
    assert list((tmp_path / "mine").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DistcorrError, match="Cannot write"):
        doctor.run_folder(str(tmp_path / "file" / "run"))
    monkeypatch.setattr(Folder, "read", lambda *_: b"something else")
    bad("fail", doctor.run_folder(str(place)), "does not give back")
    assert not place.exists()


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    place = str(tmp_path / "not" / "there")
    ok(doctor.disk(place, 0), "5.0 GB free")
    ok(doctor.disk(place, 4e9), "take 4.0 GB")
    bad("warn", doctor.disk(place, 6e9), "too little", "--store")


def test_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ok(doctor.clock(str(tmp_path / "new")))
    ahead = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr(doctor, "time", ahead)
    bad("warn", doctor.clock(str(tmp_path)), "3600 s apart", "set-ntp")


# -- the job server ----------------------------------------------------------------------------

TOKEN = "0123456789abcdef-a-secret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Answers as Ray's dashboard does: 401 without a token, 403 with a wrong one."""
    state = SimpleNamespace(token=TOKEN, status=200)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = self.headers.get("Authorization", "")
            right = not state.token or sent == f"Bearer {state.token}"
            status = state.status if right else 403 if sent else 401
            self.send_response(status if self.path == "/api/jobs/" else 404)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{made.server_port}"
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", state.url)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nonexistent")
    yield state
    made.shutdown()
    made.server_close()


def test_a_job_server(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [jobserver.check()]
    bad("fail", found[-1], "wants a token, and there is none here", "RAY_AUTH_TOKEN_PATH=")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    found.append(jobserver.check())
    bad("fail", found[-1], "RAY_AUTH_MODE is not set", "export RAY_AUTH_MODE=token")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found.append(jobserver.check())
    ok(found[-1], "takes our token")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    found.append(jobserver.check())
    ok(found[-1])
    server.token = "another"
    found.append(jobserver.check())
    bad("fail", found[-1], "refuses our token")
    server.token, server.status = "", 500
    found.append(jobserver.check())
    bad("fail", found[-1], "answers 500", "8265")
    (tmp_path / "token").write_text(f"{TOKEN}\nand a second line")  # no header can be that
    found.append(jobserver.check())
    bad("fail", found[-1], "cannot be reached")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://me:{TOKEN}@127.0.0.1:1")
    found.append(jobserver.check())
    bad("fail", found[-1], "127.0.0.1:1 cannot be reached")
    assert TOKEN not in str(found)


def test_a_cluster_address(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    for value in ("", "auto", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert jobserver.address() == ""
    monkeypatch.setenv("RAY_ADDRESS", server.url.removeprefix("http://"))
    ok(jobserver.check(), "somebody listens")
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    bad("fail", jobserver.check(), "cannot be reached")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    bad("fail", jobserver.check(), "names no host and port")


# -- Ray ---------------------------------------------------------------------------------------


def test_ray_and_every_node(ray_local: None, toy: Path, tmp_path: Path) -> None:
    asked = Asked(data=str(toy), run=str(tmp_path / "run"), address="local", cluster=True)
    first, *rest = doctor.ray(asked)
    ok(first, "runs a task")
    assert {check.name for check in rest if check.node} == {*machine.MACHINE, "data", "run folder"}
    assert not [check for check in rest if check.level == "fail"]
    ok(rest[-1], "1 nodes, alike")
    lost = nodes.check_nodes(str(tmp_path / "nowhere"), str(toy / "toy.json" / "x"))
    failed = {check.name: check for check in lost if check.level == "fail"}
    bad("fail", failed["data"], "has none of", "shared storage")


def test_a_ray_that_cannot_be_reached() -> None:
    (found,) = doctor.ray(Asked(address="127.0.0.1:1"))
    bad("fail", found, "Cannot reach Ray at 127.0.0.1:1", "--address")


def test_a_task_that_fails(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_double", lambda x: x)
    (found,) = doctor.ray(Asked(address="local"))
    bad("fail", found, "a local Ray starts", "but a task fails", "--address inline")
    monkeypatch.setattr(doctor.room, "nodes", lambda: [{"CPU": 0.0}, {"memory": 1e9}])
    (found,) = doctor.ray(Asked(address="local"))  # a cluster that grows: nothing is waited for
    bad("warn", found, "no node has a CPU", "grows by itself")


def test_a_node_that_is_silent(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_SECONDS", 0.3)
    monkeypatch.setattr(nodes, "look_around", lambda *_: time.sleep(60))
    (found,) = nodes.check_nodes()
    bad("fail", found, "no answer within 0.3 s", "must be installed")
    assert found.node
    monkeypatch.setattr(nodes, "_SECONDS", 60)
    monkeypatch.setattr(nodes, "look_around", lambda *_: 1 // 0)
    bad("fail", nodes.check_nodes()[0], "ZeroDivisionError")


def test_a_clock_that_is_wrong(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    late = nodes.Node({"torch": "1"}, [], time.time() - 3600)
    monkeypatch.setattr(nodes, "look_around", lambda *_: late)
    skewed, same = nodes.check_nodes()
    bad("warn", skewed, "s apart from ours", "set-ntp")
    ok(same)


def test_nodes_that_differ() -> None:
    one = {"ray": "2.60.0", "torch": "2.13", "processor": "A"}
    ok(nodes.alike({"a": one, "b": dict(one)})[0], "2 nodes, alike")
    other = {"ray": "2.59.0", "torch": "2.12", "processor": "B"}
    found = {c.detail.split()[0]: c for c in nodes.alike({"a": one, "b": other, "c": one})}
    bad("fail", found["ray"], "2.60.0 on a, c; 2.59.0 on b", "one image")
    bad("warn", found["torch"], "2.13 on a, c; 2.12 on b")
    bad("warn", found["processor"], "bytes may differ")
    assert len(found) == 3
    missing = nodes.alike({"a": one, "b": {"ray": "2.60.0", "torch": "2.13"}})
    bad("warn", missing[0], "none on b")


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put checks in place of the real ones."""
    return lambda *given: monkeypatch.setattr(doctor, "examine", lambda _: iter(given))


GOOD = Check("memory", "ok", "plenty [of it]")
WARNING = Check("gpu", "warn", "none", "buy one")
PROBLEM = Check("data", "fail", "not found", "distcorr fetch voc2011", "10.0.0.2 ab12cd")


@pytest.mark.parametrize(
    ("given", "code", "last"),
    [
        ((GOOD,), 0, "no problems, no warnings"),
        ((GOOD, WARNING), 0, "no problems, 1 warning"),
        ((GOOD, PROBLEM, WARNING, PROBLEM), 5, "2 problems, 1 warning"),
    ],
)
def test_exit_codes(
    checks: Callable[..., None], given: tuple[Check, ...], code: int, last: str
) -> None:
    checks(*given)
    done = distcorr("doctor")
    assert done.returncode == code
    lines = done.stdout.splitlines()
    assert lines[-1] == last
    assert lines[0] == "✓ memory: plenty [of it]"
    assert "\x1b" not in done.stdout  # NO_COLOR
    if code:
        assert lines[1:3] == [
            "✗ 10.0.0.2 ab12cd  fail: data: not found",
            "    fix: distcorr fetch voc2011",
        ]
        assert "! warn: gpu: none" in lines


def test_json(checks: Callable[..., None]) -> None:
    checks(GOOD, WARNING, PROBLEM)
    done = distcorr("doctor", "--json")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    assert set(found) == {"checks", "problems", "warnings"}
    assert (found["problems"], found["warnings"]) == (1, 1)
    assert all(set(each) == {"name", "level", "detail", "fix", "node"} for each in found["checks"])
    assert Check(**found["checks"][2]) == PROBLEM


def test_all_checks_are_made_and_none_tells_the_token(
    server: SimpleNamespace, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(doctor, "weights", lambda *_: GOOD)  # tested above, takes seconds
    arguments = ["--data", str(toy), "-r", str(tmp_path / "run"), "--address", "inline"]
    done = distcorr("doctor", *arguments, "--json")
    names = [check["name"] for check in json.loads(done.stdout)["checks"]]
    wanted = [*machine.MACHINE, "job server", "data", "memory", "run folder", "disk", "clock"]
    assert names == wanted
    assert done.returncode == 5  # of the job server
    plain = distcorr("doctor", *arguments)
    assert plain.stdout.count("✗") == 1
    for text in (done.stdout, done.stderr, plain.stdout, plain.stderr):
        assert TOKEN not in text


def test_a_run_says_what_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MACHINE", {})
    monkeypatch.setattr(doctor, "weights", lambda *_: GOOD)
    run = Run(str(tmp_path / "run"))
    run.save_config(configuration.load("paper", [f"dataset.root={tmp_path}/lost"]))
    found = {c.name: c for c in examine(Asked(run=str(run), address="inline"))}
    bad("fail", found["data"], f"{tmp_path}/lost has none of")
    run.folder.write("config.toml", b"nonsense = [")
    found = {c.name: c for c in examine(Asked(run=str(run), address="inline"))}
    bad("fail", found["configuration"], "is not TOML")


def test_signs_of_a_plain_terminal() -> None:
    from rich.console import Console

    from distcorr.cli.doctor import _show

    with open(os.devnull, "w", encoding="ascii") as plain:
        console = Console(file=plain, record=True, width=80)
        _show(console, PROBLEM)
    assert console.export_text().startswith("X 10.0.0.2")

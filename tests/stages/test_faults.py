"""Real kills in the middle of a stage: the driver, a worker, a node. Then the same bytes.

The victim runs in a process of its own with a Ray of its own; only processes below it are killed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distcorr.cli.common import draw, write_page
from distcorr.data.run import Run
from distcorr.report import tables
from distcorr.stages.export import export
from tests.stages.common import assert_same, progress_of, run_all
from tests.stages.namespace import run_alone

Settings = Callable[..., list[str]]
# Many small shards, and enough work in each that a kill finds some of them undone.
SHARDS = [
    "features.shard=2",
    "features.batch=1",
    "dataset.toy_val=6",
    "flow.shard=1",
    "flow.iterations=40",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_settings: Settings) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_all(folder, toy_settings("compute.address=inline", *SHARDS))
    report_on(folder)
    return folder


def start(folder: Path, settings: list[str], **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distcorr", "run", "-p", "smoke", "-r", str(folder)]
    sets = [word for s in settings for word in ("--set", s)]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        return subprocess.Popen(
            command + sets, stdout=log, stderr=log, env=os.environ | environment
        )


def wait_for_progress(process: subprocess.Popen[bytes], folder: Path, stage: str, n: int) -> None:
    deadline = time.monotonic() + 300
    while len(progress_of(folder, stage)) < n:
        log = (folder.parent / f"{folder.name}.log").read_text()
        assert process.poll() is None, f"ended before {stage} had saved {n} files:\n{log}"
        assert time.monotonic() < deadline, f"{stage} is too slow:\n{log}"
        time.sleep(0.01)


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """(pid, command line) of every process below ``pid``."""
    for entry in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in entry.read_text().split():
            try:
                line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except FileNotFoundError:
                continue
            yield int(child), line
            yield from descendants(int(child))


def at_work(process: subprocess.Popen[bytes], name: str) -> int:
    """Pid of a worker that does a task of such a name; between two tasks there may be none."""
    deadline = time.monotonic() + 60
    while True:
        lines = dict(descendants(process.pid))
        for pid, line in lines.items():
            if "ray::" in line and name in line:
                return pid
        assert process.poll() is None, "ended before it could be disturbed"
        assert time.monotonic() < deadline, list(lines.values())
        time.sleep(0.005)


def report_on(folder: Path) -> None:
    """Tables, figures, page and detector files, as distcorr run leaves them."""
    run = Run(str(folder))
    export(run)
    built = tables.build(run)
    tables.save(built, run)
    draw(run)
    write_page(run, built)


@pytest.fixture
def halfway(
    undisturbed: Path, tmp_path: Path, toy_settings: Settings, stage: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A run with two workers in the middle of ``stage``, and its folder."""
    folder = tmp_path / "run"
    if stage == "visualize":  # the last one: what it builds on is there, which saves a minute
        shutil.copytree(undisturbed, folder, ignore=shutil.ignore_patterns(stage, "report"))
    process = start(folder, toy_settings("compute.address=local", "compute.workers=2", *SHARDS))
    try:
        wait_for_progress(process, folder, stage, 2)
        yield process, folder
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stage", ["build-db", "transfer", "detect", "visualize"])
def test_killed_driver(
    undisturbed: Path,
    toy_settings: Settings,
    halfway: tuple[subprocess.Popen[bytes], Path],
    stage: str,
) -> None:
    process, folder = halfway
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers end with it; what they were writing is whole or not there
    assert not list(folder.glob(f"{stage}/*/_done.json")), "the kill came too late to test anything"
    before = {path: path.stat().st_mtime_ns for path in progress_of(folder, stage)}
    summary = run_all(folder, toy_settings("compute.address=inline", *SHARDS))[stage]
    assert summary.computed > 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing is done twice
    export(Run(str(folder)))
    assert_same(undisturbed, folder, without="report")


@pytest.mark.parametrize("stage", ["build-db", "transfer", "detect", "visualize"])
def test_killed_worker(
    undisturbed: Path, halfway: tuple[subprocess.Popen[bytes], Path], stage: str
) -> None:
    process, folder = halfway
    name = "_Actor" if stage == "build-db" else "_attempt"
    os.kill(at_work(process, name), signal.SIGKILL)
    log = folder.parent / f"{folder.name}.log"
    assert process.wait(timeout=500) == 0, log.read_text()
    assert_same(undisturbed, folder)


@pytest.mark.cluster
@pytest.mark.parametrize("stage", ["build-db", "transfer", "detect"])
def test_killed_node(undisturbed: Path, tmp_path: Path, toy_settings: Settings, stage: str) -> None:
    words = [sys.executable, "-m", "tests.stages.lose_a_node", str(tmp_path / "run"), stage]
    done = run_alone(
        shlex.join(words + toy_settings(*SHARDS)),
        timeout=560,
        RAY_health_check_initial_delay_ms="500",
        RAY_health_check_period_ms="500",
        RAY_health_check_timeout_ms="1000",
        RAY_health_check_failure_threshold="3",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    export(Run(str(tmp_path / "run")))
    assert_same(undisturbed, tmp_path / "run", without="report")

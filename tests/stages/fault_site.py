"""A cluster to do harm to: three nodes, run folders that begin where a stage begins, and drivers.

The processes are those of a namespace of its own, so whatever is found at work is ours to kill.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from distcorr.stages.pipeline import Summary
from tests.stages.common import contents, progress_of, run_all
from tests.stages.fault_backbone import FAULTS

BEFORE = {  # what a stage builds on
    "build-db": [],
    "transfer": ["build-db", "neighbors"],
    "detect": ["build-db"],
    "visualize": ["build-db"],
}
STAGES = ("build-db", "neighbors", "transfer", "detect", "visualize")
# Many small shards, and a backbone that computes next to nothing.
SETTINGS = [
    "dataset.toy_train=4",
    "dataset.toy_val=4",
    "features.network=tests.stages.fault_backbone:Blocks",
    "features.points=[]",
    "features.cells=auto",
    "features.shard=2",
    "features.batch=1",
    "flow.shard=1",
    "flow.iterations=40",
    "detect.layers=auto",
    "detect.rounds=2",
    "detect.folds=2",
    "detect.etas=[0.0,0.1]",
    "detect.hardest=20",
    "visualize.photographs=4",
    "visualize.shown=1",
    "visualize.seeds=12",
    "visualize.averaged=[2,5]",
]
STORE = 80_000_000  # bytes of a node's object store; Ray takes no less than 75 MiB
LONG = 120.0  # s that anything may take


def undisturbed(folder: Path) -> None:
    """The run that all others must equal: in this process, one shard after the other."""
    run_all(folder, [*SETTINGS, "compute.address=inline"], STAGES)


@dataclass
class Site:
    """Where faults happen.

    Attributes:
        whole: the undisturbed run.
        base: where the disturbed ones go.
    """

    whole: Path
    base: Path
    nodes: list[Any] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self.faults = Path(os.environ[FAULTS])
        small = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
        # No handlers of signals, which only a main thread may set: nodes are added by others too.
        self.cluster = Cluster(True, head_node_args=small, shutdown_at_exit=False)
        for _ in range(2):
            self.add_node()
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def add_node(self, **more: Any) -> None:
        """A node more, of one CPU."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=STORE, **more))

    # -- run folders ---------------------------------------------------------------------------

    def prepared(self, stage: str, folder: Path | None = None) -> Path:
        """A new run folder with all that comes before a stage."""
        if folder is None:
            self.made += 1
            folder = self.base / f"{stage}-{self.made}"
            folder.mkdir()
        for name in ["toy", *BEFORE[stage], *(["store"] if BEFORE[stage] else [])]:
            shutil.copytree(self.whole / name, folder / name)
        if BEFORE[stage]:
            shutil.copy(self.whole / "config.toml", folder)
            manifest = json.loads((self.whole / "manifest.json").read_text())
            kept = {name: manifest["stages"][name] for name in BEFORE[stage]}
            (folder / "manifest.json").write_text(json.dumps(manifest | {"stages": kept}))
        return folder

    def expected(self, stage: str) -> dict[str, bytes]:
        """Files that the stage makes; those of other stages are in no folder of ours."""
        tops = {stage, "toy", "store", *BEFORE[stage]}
        return {n: c for n, c in contents(self.whole).items() if Path(n).parts[0] in tops}

    def require_same(self, folder: Path, stage: str) -> None:
        """Every file of the stage, and what the manifest says of it, is the undisturbed run's."""
        found, expected = contents(folder), self.expected(stage)
        manifests = [json.loads((f / "manifest.json").read_text()) for f in (folder, self.whole)]
        assert manifests[0]["stages"][stage] == manifests[1]["stages"][stage]
        found.pop("manifest.json")
        assert sorted(found) == sorted(expected)
        assert [name for name in found if found[name] != expected[name]] == []

    # -- drivers -------------------------------------------------------------------------------

    def run(self, folder: Path, stage: str, *settings: str) -> Summary:
        """The stage with this process as its driver."""
        where = f"compute.address={self.cluster.address}"
        return run_all(folder, [*SETTINGS, where, *settings], [stage])[stage]

    def run_again(self, folder: Path, stage: str) -> Summary:
        """What is left of a stage: what was there stays as it is, and something was left."""
        before = {path: path.stat().st_mtime_ns for path in progress_of(folder, stage)}
        summary = self.run(folder, stage)
        assert {path: path.stat().st_mtime_ns for path in before} == before, "done twice"
        assert summary.computed > 0, "the fault came too late to test anything"
        if stage != "detect":  # whose progress is counted in rounds
            assert summary.computed == summary.shards - len(before)
        return summary

    @contextmanager
    def driver(self, folder: Path, stage: str, *settings: str) -> Iterator[Driver]:
        """The stage with a driver of its own: the command line."""
        where = f"compute.address={self.cluster.address}"
        sets = [word for s in (*SETTINGS, where, *settings) for word in ("--set", s)]
        words = [sys.executable, "-m", "distcorr", stage, "-p", "smoke", "-r", str(folder)]
        driver = Driver(subprocess.Popen(words + sets, stderr=subprocess.PIPE, text=True))
        try:
            yield driver
        finally:
            driver.process.kill()
            driver.process.communicate()

    @contextmanager
    def disturbed(self, harm: Callable[[], None]) -> Iterator[None]:
        """Do harm in another thread while this one works; its failure is ours."""
        failures: list[BaseException] = []

        def attempt() -> None:
            try:
                harm()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        try:
            yield
        finally:
            thread.join(LONG)
            if failures:
                raise failures[0]
        assert not thread.is_alive(), "nothing could be harmed"

    # -- what goes on --------------------------------------------------------------------------

    def wait_for_progress(self, folder: Path, stage: str, driver: Driver | None = None) -> None:
        """Until the stage has saved two files, and is not yet done."""
        deadline = time.monotonic() + LONG
        while len(progress_of(folder, stage)) < 2:
            assert driver is None or driver.process.poll() is None, driver.end()
            assert time.monotonic() < deadline, f"{stage} is too slow"
            time.sleep(0.002)

    def catch(self, stage: str) -> int:
        """Pid of a worker, halted in the middle of a shard of the stage."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            for pid in at_work(stage):
                with_signal(pid, signal.SIGSTOP)
                if pid in at_work(stage):
                    return pid
                with_signal(pid, signal.SIGCONT)
            time.sleep(0.002)
        raise AssertionError(f"nobody works on {stage}")

    def node_of(self, pid: int) -> Any:
        """The node whose raylet has started a worker."""
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        for node in self.nodes:
            if node.all_processes["raylet"][0].process.pid == parent:
                return node
        raise AssertionError(f"{pid} belongs to no node")

    def wait_for_quiet(self, stage: str) -> None:
        """Until nobody works on the stage: workers end soon after their driver."""
        deadline = time.monotonic() + LONG
        while at_work(stage):
            assert time.monotonic() < deadline, "workers outlive their driver"
            time.sleep(0.05)


@dataclass
class Driver:
    """A command line at work."""

    process: subprocess.Popen[str]

    def end(self) -> tuple[int, str]:
        """Exit code and the end of standard error, once it has ended."""
        _, text = self.process.communicate(timeout=LONG)
        return self.process.returncode, text[-3000:]


def at_work(stage: str) -> list[int]:
    """Workers whose title says that they are in the middle of a task of ours."""
    name = "_Actor" if stage == "build-db" else "_attempt"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue  # it has ended
            if line.startswith("ray::") and name in line:
                found.append(int(entry.name))
    return found


def with_signal(pid: int, number: signal.Signals) -> None:
    """Send a signal, unless the process has ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)

"""The faults, each in the middle of a stage, and what must hold after it.

Every function does its harm in a ``Site``, asserts what distcorr promises, and says in a few words
what was tried again. Afterwards the stage's files are compared with the undisturbed run's.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import ray

from distcorr.config import load
from distcorr.data import datasets
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.errors import INTERRUPTED, DistcorrError
from distcorr.stages.pictures import crops
from tests.stages.common import contents, progress_of
from tests.stages.fault_backbone import CRASHES, POISON, Blocks, digest_of
from tests.stages.fault_site import SETTINGS, STORE, Site, at_work, with_signal

ALL = ("build-db", "transfer", "detect", "visualize")


class Fault(NamedTuple):
    """A row of the matrix.

    Attributes:
        when: it happens.
        harm: does it, in a run folder of a stage; says what was tried again.
        stages: that it is tried in.
    """

    when: str
    harm: Callable[[Site, Path, str], str]
    stages: tuple[str, ...]
    equal: str = "yes"  # the stage's files; anything but "yes" is compared by ``harm`` itself


def nothing(site: Site, folder: Path, stage: str) -> str:
    """No fault: what the others are compared with, also in time."""
    summary = site.run(folder, stage)
    assert summary.computed == summary.shards
    return "none"


def worker_killed(site: Site, folder: Path, stage: str) -> str:
    def harm() -> None:
        site.wait_for_progress(folder, stage)
        with_signal(site.catch(stage), signal.SIGKILL)

    with site.disturbed(harm):
        site.run(folder, stage)
    return "by Ray, once"


def slow_worker(site: Site, folder: Path, stage: str) -> str:
    def harm() -> None:
        site.wait_for_progress(folder, stage)
        pid = site.catch(stage)
        time.sleep(2)
        with_signal(pid, signal.SIGCONT)

    with site.disturbed(harm):
        site.run(folder, stage)
    return "none"


def node_killed(site: Site, folder: Path, stage: str) -> str:
    """The node does not come back while the stage lasts."""

    def harm() -> None:
        site.wait_for_progress(folder, stage)
        pid = site.catch(stage)
        node = site.node_of(pid)
        site.nodes.remove(node)
        site.cluster.remove_node(node, allow_graceful=False)
        with_signal(pid, signal.SIGKILL)  # it is halted, and cannot see that its raylet is gone

    try:
        with site.disturbed(harm):
            site.run(folder, stage)
    finally:
        site.add_node()
    return "by Ray, on the other node"


def node_replaced(site: Site, folder: Path, stage: str) -> str:
    def harm() -> None:
        site.wait_for_progress(folder, stage)
        node = site.nodes.pop()
        site.cluster.remove_node(node)
        site.add_node()

    with site.disturbed(harm):
        site.run(folder, stage)
    return "by Ray"


def driver_killed(site: Site, folder: Path, stage: str) -> str:
    with site.driver(folder, stage) as driver:
        site.wait_for_progress(folder, stage, driver)
        driver.process.kill()
        driver.process.wait()
    site.wait_for_quiet(stage)
    assert not list(folder.glob(f"{stage}/*/_done.json")), "too late to test anything"
    return _rest(site, folder, stage)


def interrupted(site: Site, folder: Path, stage: str) -> str:
    """Ctrl-C, once."""
    with site.driver(folder, stage) as driver:
        site.wait_for_progress(folder, stage, driver)
        driver.process.send_signal(signal.SIGINT)
        code, said = driver.end()
    assert code == INTERRUPTED, (code, said)
    assert "run the same command to continue" in said
    assert "Traceback" not in said
    site.wait_for_quiet(stage)
    return _rest(site, folder, stage)


def interrupted_twice(site: Site, folder: Path, stage: str) -> str:
    """Ctrl-C while a shard hangs, and again."""
    with site.driver(folder, stage) as driver:
        site.wait_for_progress(folder, stage, driver)
        pid = site.catch(stage)
        driver.process.send_signal(signal.SIGINT)
        time.sleep(1)
        driver.process.send_signal(signal.SIGINT)
        driver.process.wait(20)
        code, said = driver.end()
        with_signal(pid, signal.SIGCONT)
    assert code in (INTERRUPTED, -signal.SIGINT), (code, said)  # a shell says 130 to both
    assert "Traceback" not in said
    site.wait_for_quiet(stage)
    return _rest(site, folder, stage)


def two_drivers(site: Site, folder: Path, stage: str) -> str:
    """The second, told not to wait, does nothing; what it says names the first."""
    with site.driver(folder, stage) as first:
        site.wait_for_progress(folder, stage, first)
        pid = site.catch(stage)  # the first is not done before the second has come
        with site.driver(folder, stage) as second:
            code, said = second.end()
        with_signal(pid, signal.SIGCONT)
        ended, text = first.end()
    assert code not in (0, 1), said
    assert str(first.process.pid) in said
    assert ended == 0, text
    return "none; the second refused"


def store_full(site: Site, folder: Path, stage: str) -> str:
    """Others hold more than the object store takes; what the stage puts makes it spill."""
    before = _spilled()
    ballast = [ray.put(np.full(5_000_000, n, np.uint8)) for n in range(int(1.2 * STORE / 5e6))]
    site.run(folder, stage)
    assert _spilled() > before
    assert [int(ray.get(b)[-1]) for b in ballast] == list(range(len(ballast)))
    return "none"


def _spilled() -> int:
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.spilled_bytes_total)


def poisoned(site: Site, folder: Path, stage: str) -> str:
    """A photograph's object crashes every process that looks at it, however often it is tried."""
    config = load("smoke", SETTINGS)
    dataset = datasets.load(config.dataset, Run(str(folder)).folder, config.seed)
    instance = dataset.instances[len(dataset.instances) // 2]
    ((crop, *_),) = crops(Folder(dataset.root), [instance], "", [Blocks.geometry.input_size])
    poison, crashes = site.faults / POISON, site.faults / CRASHES
    poison.write_text(f"{digest_of(crop)} {int(signal.SIGSEGV)}")
    try:
        site.run(folder, stage, "compute.retries=1")
        count = len(crashes.read_text().splitlines())
        assert not site.run(folder, stage, "compute.retries=1").computed
        assert len(crashes.read_text().splitlines()) == count, "tried for ever"
    finally:
        poison.unlink()
        crashes.unlink(missing_ok=True)
    found = Run(str(folder)).finished(stage)
    assert found is not None
    assert {(d.id, d.file) for d in found.dead_letters()} == {(instance.id, instance.image)}
    marker = {i: m for i, m in found.markers().items() if m["dead"]}
    lacking = {f"store/{name}" for m in marker.values() for name in m["files"]}
    entries = {name.replace(".parquet", ".json") for name in lacking}
    expected = {n: c for n, c in site.expected(stage).items() if n.startswith("store/")}
    made = contents(folder)
    assert len(marker) == 1
    assert {n for n, c in expected.items() if made[n] != c} == lacking | entries
    return f"{count} crashes, then left out by name"


def disk_full(site: Site, folder: Path, stage: str) -> str:
    """The disk of the run folder is too small, until it is enlarged."""
    expected = contents(site.whole)
    shutil.rmtree(folder)
    folder.mkdir()
    _mount(folder, 100_000_000)
    try:
        site.prepared(stage, folder)
        used = shutil.disk_usage(folder).used
        output = sum(len(c) + 4096 for n, c in site.expected(stage).items()) - used
        _mount(folder, used + max(output // 2, 40_000), "remount,")
        with pytest.raises(DistcorrError, match="No space left on device"):
            site.run(folder, stage)
        assert not list(folder.rglob("*.tmp"))
        written = {n: c for n, c in contents(folder).items() if n != "manifest.json"}
        assert [n for n, c in written.items() if c != expected[n]] == []  # whole, or not there
        _mount(folder, 100_000_000, "remount,")
        said = _rest(site, folder, stage)
        shutil.copytree(folder, saved := folder.with_suffix(".saved"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()
    saved.rename(folder)
    return said


def _mount(folder: Path, size: int, remount: str = "") -> None:
    options = f"{remount}size={size}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def no_gpu(site: Site, folder: Path, stage: str) -> str:
    """A GPU is asked for where there is none: told, not waited for without end; then one joins."""
    lacking = pytest.raises(DistcorrError, match=r"No node of this Ray has .*1 GPU")
    with lacking as caught:
        site.run(folder, stage, GPU, "compute.patience=2")
    assert "gpus_per_worker=0" in caught.value.hint
    assert not progress_of(folder, stage)

    def harm() -> None:
        time.sleep(1)
        site.add_node(num_gpus=1)

    with site.disturbed(harm):
        site.run(folder, stage, GPU)
    site.cluster.remove_node(site.nodes.pop())
    return "none: refused, then waited for one that joined"


def one_cpu(site: Site, folder: Path, stage: str) -> str:
    """All of the cluster's CPUs are taken by one worker: nothing else may wait for one."""
    site.cluster.remove_node(site.nodes.pop())
    try:
        site.run(folder, stage)
    finally:
        site.add_node()
    return "none"


def many_cpus(site: Site, folder: Path, stage: str) -> str:
    """More places than shards."""
    node = site.cluster.add_node(num_cpus=64, object_store_memory=STORE)
    try:
        site.run(folder, stage)
    finally:
        site.cluster.remove_node(node)
    return "none"


def grown(site: Site, folder: Path, stage: str) -> str:
    """A node joins while the only worker hangs, and is given work at once."""
    site.cluster.remove_node(site.nodes.pop())

    def harm() -> None:
        site.wait_for_progress(folder, stage)
        pid = site.catch(stage)
        site.add_node()
        deadline = time.monotonic() + 60
        while not set(at_work(stage)) - {pid}:
            assert time.monotonic() < deadline, "the new node gets no work"
            time.sleep(0.01)
        with_signal(pid, signal.SIGCONT)

    with site.disturbed(harm):
        site.run(folder, stage)
    return "none"


def _rest(site: Site, folder: Path, stage: str) -> str:
    summary = site.run_again(folder, stage)
    return f"second command: {summary.computed} of {summary.shards} shards"


GPU = "compute.gpus_per_worker=1"  # Ray's, that is: this machine need not have any
FAULTS = {
    "nothing": Fault("-", nothing, ALL),
    "worker killed": Fault("in a shard", worker_killed, ALL),
    "worker slow": Fault("in a shard, for 2 s", slow_worker, ("build-db", "transfer")),
    "node killed": Fault("in a shard", node_killed, ALL),
    "node removed, another added": Fault("after 2 shards", node_replaced, ("build-db", "transfer")),
    "driver killed": Fault("after 2 shards", driver_killed, ALL),
    "Ctrl-C": Fault("after 2 shards", interrupted, ("build-db", "transfer")),
    "Ctrl-C twice": Fault("in a shard that hangs", interrupted_twice, ("transfer",)),
    "second driver": Fault("in a shard", two_drivers, ("transfer",)),
    "object store full": Fault("from the start", store_full, ("transfer",)),
    "photograph that crashes": Fault("always", poisoned, ("build-db",), "all but its shard"),
    "disk full": Fault("half-way", disk_full, ("build-db", "transfer")),
    "one CPU": Fault("from the start", one_cpu, ("build-db", "transfer")),
    "64 CPUs": Fault("from the start", many_cpus, ("detect",)),
    "node added": Fault("after 2 shards", grown, ("transfer",)),
    "no GPU, though asked for": Fault("at the start", no_gpu, ("build-db",)),
}
# By stage, as a cluster keeps the processes that have imported what a stage needs.
ROWS = [(name, stage) for stage in ALL for name, fault in FAULTS.items() if stage in fault.stages]

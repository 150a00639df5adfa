"""What the driver needs to plan a million instances and to find out what of them is done.

    .venv/bin/python benchmarks/planning.py [INSTANCES [FOLDER]]

Writes a generated run of INSTANCES (1,000,000: some minutes, 200,000 small files) and prints, for
build-db, neighbors and transfer, the time of the plan and of finding out what is left to do with
none, half and all shards done, the files that were listed, and the peak memory. Every line is a
process of its own, so that its memory is its own. Run it alone on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import synthetic

from distcorr.data.datasets import fingerprint
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.stages import neighbors, transfer
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import Context

Parts = dict[str, float]


@contextmanager
def timed(parts: Parts, name: str) -> Iterator[None]:
    """Wall time and processor time of what is done inside, into ``parts``."""
    began, used = time.perf_counter(), time.process_time()
    yield
    parts[name] = round(time.perf_counter() - began, 2)
    parts[f"{name}_cpu"] = round(time.process_time() - used, 2)


def reconcile(parts: Parts, stage: StageFolder, plan: list[Shard]) -> None:
    """What is left of the plan, by an object that has read no marker yet."""
    fresh = StageFolder(stage.name, stage.key, stage.folder, stage.files)
    with timed(parts, "todo"):
        left = len(fresh.todo(plan))
    parts |= {"shards": len(plan), "left": left}
    if not left:
        with timed(parts, "finish"):
            fresh.finish(plan)


def of_data(parts: Parts, run: Run, count: int) -> None:
    """The data set itself: what reading annotations comes to."""
    with timed(parts, "drawn"):
        data = synthetic.dataset(count)
    with timed(parts, "fingerprint"):
        fingerprint(data)
    with timed(parts, "plan"):
        synthetic.plan(data, synthetic.config())


def of_build_db(parts: Parts, run: Run, count: int) -> None:
    """build-db as a finished stage: its instances, its markers."""
    stage = run.current("build-db")
    assert stage is not None
    with timed(parts, "instances"):
        store = FeatureStore(stage)
        parts["instances"] = len(store.instances)
    plan = [Shard(n, str(m["inputs"]), ()) for n, m in stage.markers().items()]
    reconcile(parts, stage, plan)


def of_neighbors(parts: Parts, run: Run, count: int) -> None:
    """The plan of ``neighbors``."""
    asked = synthetic.config()
    with Session(asked.compute) as session, timed(parts, "plan"):
        _, stage, plan = neighbors._prepare(Context(asked, run, session))
    reconcile(parts, stage, plan)


def of_transfer(share: float) -> Callable[[Parts, Run, int], None]:
    """The plan of ``transfer``, of whose shards ``share`` are done."""

    def measure(parts: Parts, run: Run, count: int) -> None:
        asked = synthetic.config()
        with Session(asked.compute) as session, timed(parts, "plan"):
            job = transfer._prepare(Context(asked, run, session))
        parts["pairs"] = sum(job.neighbors.count(shard.items) for shard in job.plan)
        wanted = job.plan[: int(share * len(job.plan))]
        for shard in wanted:
            if not job.stage.folder.exists(f"shards/{shard.index:05d}.json"):
                synthetic.mark(job.stage, shard, ["pairs"])
        reconcile(parts, job.stage, job.plan)

    return measure


STEPS: dict[str, Callable[[Parts, Run, int], None]] = {
    "data set": of_data,
    "write": lambda parts, run, count: void(synthetic.write(run, count, hollow=True)),
    "build-db, all done": of_build_db,
    "neighbors, none done": of_neighbors,
    "write pairs": lambda parts, run, count: synthetic.write_pairs(run),
    "neighbors, all done": of_neighbors,
    "transfer, none done": of_transfer(0.0),
    "transfer, half done": of_transfer(0.5),
    "transfer, all done": of_transfer(1.0),
}


def void(_: object) -> None:
    """Drop a result."""


def step(name: str, count: int, folder: str) -> None:
    """One line: what was measured, and the peak memory of this process in GB."""
    os.fsync = lambda _: None  # what a benchmark writes need not survive a power cut
    parts: Parts = {}
    began, used = time.perf_counter(), time.process_time()
    STEPS[name](parts, Run(folder), count)
    parts["wall"] = round(time.perf_counter() - began, 1)
    parts["cpu"] = round(time.process_time() - used, 1)
    parts["peak_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)
    print(json.dumps({"step": name} | parts), flush=True)


def main(count: int, folder: str) -> None:
    """Every step in a process of its own."""
    for name in STEPS:
        subprocess.run([sys.executable, __file__, str(count), folder, name], check=True)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 3:
        step(sys.argv[3], number, sys.argv[2])
    elif len(sys.argv) > 2:
        main(number, sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(number, f"{place}/run")

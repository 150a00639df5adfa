"""How much of a bare forward pass build-db keeps: decoding, cropping, writing and Ray included.

    .venv/bin/python benchmarks/features.py DATA WEIGHTS [CATEGORY]

DATA is a data set in VOC layout, WEIGHTS those of AlexNet or CaffeNet, CATEGORY the one whose
photographs are taken, a few hundred for steady numbers. Run it alone on the machine, some minutes.
First the forward pass against the matrix products that it consists of, on one core. Then, for each
kind of feature, images per second of build-db through Ray against those of as many Ray actors that
only run the same network on arrays of the same sizes in the same batches; rounds alternate.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from distcorr import config as configuration
from distcorr.algorithms import extractors, nets
from distcorr.algorithms.batches import in_batches
from distcorr.data.images import read_image
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.weights import load_weights
from distcorr.stages import build_db
from distcorr.stages.cluster import Session, limit_threads
from distcorr.stages.pipeline import Context, run_stage

ROUNDS = 2
NONE: dict[str, tuple[str, ...]] = {"grids": (), "grids500": (), "points": (), "cells": ()}
WORKLOADS: dict[str, dict[str, tuple[str, ...]]] = {
    "227 px boxes: conv4 grid, pool5 vector": {},
    "and 500 px boxes: conv5": {"grids500": ("auto",)},
    "and whole photographs: conv1-5 at keypoints": {"grids500": ("auto",), "points": ("auto",)},
    "and every cell of conv3-5": {
        "grids500": ("auto",),
        "points": ("auto",),
        "cells": ("auto",),
    },
}
Pass = tuple[int, int, str, int]  # height, width, deepest tap, how many images


def multiplications(side: tuple[int, int], tap: str) -> float:
    """Multiply-adds x 2 of the convolutions up to a tap, for one image."""
    total, channels = 0.0, 3
    for layer in nets.ALEXNET:
        if isinstance(layer, nets.Conv):
            cells = [nets.geometry(nets.ALEXNET, layer.name, s).cells for s in side]
            inputs = channels // layer.groups
            total += 2 * cells[0] * cells[1] * layer.out * inputs * layer.kernel**2
            channels = layer.out
        if layer.name == tap:
            break
    return total


def bound(network: extractors.Backbone) -> None:
    """The forward pass to conv5 as a share of the rate of large matrix products."""
    rng = np.random.default_rng(0)
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    print("forward pass to conv5 against the GEMM rate, one core, float32")
    for height, width, count in ((227, 227, 16), (375, 500, 4), (500, 500, 3)):
        images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
        work = count * multiplications((height, width), "conv5")
        network(images, ["conv5"])
        shares, rates, times = [], [], []
        for _ in range(9):
            began = time.perf_counter()
            for _ in range(3):
                a @ b
            rates.append(3 * 2 * 1536**3 / (time.perf_counter() - began))
            began = time.perf_counter()
            network(images, ["conv5"])
            times.append(time.perf_counter() - began)
            shares.append(work / times[-1] / rates[-1])
        print(
            f"  {width} x {height}, {count:>2} at a time: "
            f"{1e3 * statistics.median(times) / count:6.1f} ms an image, "
            f"{statistics.median(rates) / 1e9:5.1f} GFLOP/s GEMM, "
            f"share {statistics.median(shares):.2f}"
        )


@ray.remote(num_cpus=1)
class Bare:
    """A process that does nothing but forward passes."""

    def __init__(self, path: str) -> None:
        limit_threads()
        weights = load_weights(path)
        self._network = extractors.build(weights.network, weights.arrays)

    def run(self, passes: list[Pass], batch: int) -> float:
        """Seconds for all passes."""
        rng = np.random.default_rng(0)
        spent = 0.0
        for height, width, tap, count in passes:
            images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
            began = time.perf_counter()
            in_batches(self._network, images, (tap,), batch)
            spent += time.perf_counter() - began
        return spent


def busy(run: Run) -> tuple[float, int]:
    """Seconds from the begin of a worker's second shard to the end of its last, and how many.

    Summed over the workers. Whatever happens between two shards counts; the start of Ray, of the
    workers, and each one's first shard do not.
    """
    (log,) = [name for name in run.folder.sizes("logs") if name.startswith("build-db")]
    results = [json.loads(line)["result"] for line in run.folder.read(f"logs/{log}").splitlines()]
    seconds, shards = 0.0, 0
    for worker in {result["worker"] for result in results}:
        mine = sorted((r["ended"], r["seconds"]) for r in results if r["worker"] == worker)
        seconds += mine[-1][0] - mine[0][0]
        shards += len(mine) - 1
    return seconds, shards


def passes_of(job: build_db._Job, wanted: dict[str, Any], sizes: dict[str, Any]) -> list[Any]:
    """For each shard the forward passes that its features need."""
    found = []
    for shard in job.plan:
        if shard.kind == build_db.INSTANCES:
            passes = [(227, 227, "pool5", len(shard.items))]
            if wanted.get("grids500"):
                passes.append((500, 500, "conv5", len(shard.items)))
        else:
            shapes = [sizes[image] for image in shard.items]
            passes = [(*s, "conv5", shapes.count(s)) for s in dict.fromkeys(shapes)]
        found.append(passes)
    return found


def main(data: str, path: str, category: str = "bird") -> None:
    """Measure and print."""
    workers = os.cpu_count() or 1
    limit_threads()
    weights = load_weights(path)
    bound(extractors.build(weights.network, weights.arrays))
    print(f"build-db through Ray against bare forward passes, {workers} workers of one core")
    with Session(configuration.load("paper").compute) as session:
        session.connect()  # one Ray for all
        for title, wanted in WORKLOADS.items():
            rounds = [
                measure(wanted, session, workers, data, path, category) for _ in range(ROUNDS)
            ]
            ratios = [bare / ours for ours, bare in rounds]
            rate = workers / statistics.median(ours for ours, _ in rounds)
            print(
                f"  {title:<46} {rate:6.1f} photographs/s   share of bare "
                f"{statistics.median(ratios):.2f}  ({', '.join(f'{r:.2f}' for r in ratios)})",
                flush=True,
            )


def measure(
    wanted: dict[str, tuple[str, ...]],
    session: Session,
    workers: int,
    data: str,
    path: str,
    category: str,
) -> tuple[float, float]:
    """Seconds of one core for one photograph: by build-db, and by bare passes."""
    settings = [
        f'dataset.root="{data}"',
        f'features.weights="{path}"',
        f'dataset.categories=["{category}"]',
        *(f"features.{k}={list(v)}" for k, v in (NONE | wanted).items()),
    ]
    config = configuration.load("paper", settings)
    with tempfile.TemporaryDirectory() as place:
        run = Run(str(Path(place) / "run"))
        context = Context(config, run, session)
        job = build_db._prepare(context)
        run_stage("build-db", context)
        seconds, shards = busy(run)
    photographs = len(job.dataset.instances)  # one instance each, in this data set
    ours = seconds / shards * len(job.plan) / photographs
    folder = Folder(data)
    sizes = {i.image: read_image(folder, i.image).shape[:2] for i in job.dataset.instances}
    return ours, bare(passes_of(job, wanted, sizes), workers, config, path) / photographs


def bare(passes: list[Any], workers: int, config: Any, path: str) -> float:
    """Seconds of one core for all passes, with every worker busy."""
    actors = [Bare.remote(path) for _ in range(workers)]
    batch = config.features.batch
    warm = [(227, 227, "conv5", batch)]
    ray.get([actor.run.remote(warm, batch) for actor in actors])
    shares = [[p for shard in passes[n::workers] for p in shard] for n in range(workers)]
    spent = ray.get([a.run.remote(s, batch) for a, s in zip(actors, shares, strict=True)])
    for actor in actors:
        ray.kill(actor)
    return float(sum(spent))


if __name__ == "__main__":
    main(*sys.argv[1:])

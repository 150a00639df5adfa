"""What a run will cost, before it is made: time, memory, disk and money of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distcorr.algorithms import networks
from distcorr.algorithms.costs import Wall, one_after_another, schedule
from distcorr.config import Config
from distcorr.report.rates import SOURCE, START, Rates, rows_of
from distcorr.report.workload import Counts, Layers, Phase, phases

# How many cores a GPU is worth to a stage that can use one. A guess: no GPU has been measured.
GPU_SPEED = 10.0

# s of the driver for each pair of transfer: it reads grids and hands them out (RESULTS.md, Scale).
DRIVER_PAIR = 1.2e-4

# Memory, MB: a process with its libraries, an instance and a shard in the driver, grids that travel
# together. Measured by benchmarks/planning.py, and transfer's HELD.
PROCESS, INSTANCE, SHARD, HELD = 500.0, 1.0e-3, 2.5e-3, 512.0
DIMENSIONS = 9216  # of a global vector, if it is pool5's


class Cluster(NamedTuple):
    """Where it would run, and what an hour of a core and of a GPU costs there."""

    cpus: int = 2
    gpus: int = 0
    price_cpu: float = 0.0
    price_gpu: float = 0.0

    def dollars(self, seconds: float) -> float:
        """All of it for so long."""
        return seconds / 3600 * (self.cpus * self.price_cpu + self.gpus * self.price_gpu)


class StageCost(NamedTuple):
    """One stage.

    Attributes:
        stage: its name.
        shards: of it.
        work: s of one worker, all shards together.
        wall: s until the last shard is done, start-up included.
        longest: s of its longest shard, below which no cluster comes.
        workers: that work at once.
        gigabytes: that it writes.
        worker_mb: memory of a worker.
        driver_mb: memory of the driver.
        dollars: for the whole cluster while it lasts.
        error: median relative error of a shard's time where the rates are the run's; else NaN.
        basis: "measured", "reference" or "guess".
        bound: what ends it: "work", "longest shard" or "driver".
    """

    stage: str
    shards: int
    work: float
    wall: float
    longest: float
    workers: int
    gigabytes: float
    worker_mb: float
    driver_mb: float
    dollars: float
    error: float
    basis: str
    bound: str


class TableSize(NamedTuple):
    """One table of the store; ``gigabytes`` is None where its size was never measured."""

    table: str
    rows_of: str
    rows: int
    gigabytes: float | None


class Forecast(NamedTuple):
    """The whole run."""

    stages: tuple[StageCost, ...]
    tables: tuple[TableSize, ...]
    cluster: Cluster
    instances: int
    photographs: int
    categories: int
    source: str
    notes: tuple[str, ...]

    @property
    def wall(self) -> float:
        """S of all stages, one after the other."""
        return sum(stage.wall for stage in self.stages)

    @property
    def dollars(self) -> float:
        """Of all stages."""
        return sum(stage.dollars for stage in self.stages)


def forecast(
    config: Config,
    counts: Counts,
    layers: Layers,
    tables: Sequence[str],
    rates: Rates,
    cluster: Cluster,
) -> Forecast:
    """What a run will cost.

    Args:
        config: of the run.
        counts: of its data.
        layers: by which each stage works.
        tables: names of the features that build-db keeps.
        rates: of work and bytes.
        cluster: where it will run.
    """
    sizes = tuple(_size(name, counts, rates) for name in tables)
    written = sum(size.gigabytes or 0.0 for size in sizes)
    every = phases(config, counts, layers)
    names = dict.fromkeys(phase.stage for phase in every)
    stages = tuple(
        _stage([p for p in every if p.stage == name], config, counts, rates, cluster, written)
        for name in names
    )
    notes = _notes(stages, sizes, rates, cluster, counts)
    many = len({category for category, _ in counts.groups})
    return Forecast(
        stages, sizes, cluster, counts.instances, counts.photographs, many, rates.source, notes
    )


def _stage(
    mine: Sequence[Phase],
    config: Config,
    counts: Counts,
    rates: Rates,
    cluster: Cluster,
    written: float,
) -> StageCost:
    name = mine[0].stage
    on_gpus = cluster.gpus > 0 and all(phase.gpu for phase in mine)
    workers, speed = (cluster.gpus, GPU_SPEED) if on_gpus else (cluster.cpus, 1.0)
    found = [rates.rate(phase, config) for phase in mine]
    took = [rate.seconds(p.sizes) / speed for p, (rate, _) in zip(mine, found, strict=True)]
    warm = max(rate.warm for rate, _ in found)
    if any(phase.alone for phase in mine):
        wall = one_after_another([schedule(each, workers, warm) for each in took])
    else:
        wall = schedule(np.concatenate(took), workers, warm)
    driver = DRIVER_PAIR * sum(p.sizes.sum() for p in mine) if name == "transfer" else 0.0
    span = max(wall.wall, driver) + rates.starts.get(name, START)
    units = sum(float(phase.sizes.sum()) for phase in mine)
    shards = sum(len(phase.sizes) for phase in mine)
    errors = [rate.error for rate, own in found if own]
    own = all(own for _, own in found)
    return StageCost(
        name,
        shards,
        wall.work,
        span,
        wall.longest,
        min(workers, max(len(phase.sizes) for phase in mine) if mine[0].alone else shards),
        written if name == "build-db" else rates.bytes.get(name, 0.0) * units / 1e9,
        rates.peaks.get(name, _memory(name, config, counts)),
        PROCESS + INSTANCE * counts.instances + SHARD * shards,
        cluster.dollars(span),
        float(np.nanmean(errors)) if errors and not np.isnan(errors).all() else float("nan"),
        "guess" if on_gpus else "measured" if own else "reference",
        _bound(wall, driver, workers),
    )


def _bound(wall: Wall, driver: float, workers: int) -> str:
    if driver > wall.wall:
        return "driver"
    return "longest shard" if wall.wall > 1.5 * wall.work / workers else "work"


def _memory(stage: str, config: Config, counts: Counts) -> float:
    """MB of a worker where no log says it: its libraries, and what grows with a category."""
    base = max((counts.of(c, "train").instances for c in counts.types), default=0)
    points = max((counts.of(c, "train").points for c in counts.types), default=0)
    grows = {
        "build-db": 700.0,
        # Float16 and float32 of the base, and its copy of unit length.
        "neighbors": base * DIMENSIONS * 10 / 1e6,
        "transfer": HELD,
        "classify": points * 384 * 10 / 1e6,
        "detect": min(base, config.detect.instances or base) * 0.46 / 4 + 400,
    }
    return PROCESS + grows.get(stage, 300.0)


def _size(name: str, counts: Counts, rates: Rates) -> TableSize:
    kind = name.partition("/")[0]
    what = {"cells": "photographs", "mirrored": "photographs", "points": "keypoints"}
    rows = rows_of(name, counts)
    like = name.replace("mirrored/", "cells/")  # mirror images take what photographs take
    each = rates.tables.get(name, rates.tables.get(like))
    known = None if each is None else each * rows / 1e9
    return TableSize(name, what.get(kind, "instances"), round(rows), known)


def _notes(
    stages: Sequence[StageCost],
    sizes: Sequence[TableSize],
    rates: Rates,
    cluster: Cluster,
    counts: Counts,
) -> tuple[str, ...]:
    notes = []
    if rates.source == SOURCE:
        notes.append(
            f"Rates are not yours ({SOURCE}): another processor may be twice as fast or as slow. "
            "A small run of your own gives better ones: distcorr run --limit 20, then --from it."
        )
    else:
        lacking = [stage.stage for stage in stages if stage.basis == "reference"]
        if lacking:
            notes.append(f"{', '.join(lacking)} not in the logs of {rates.source}: {SOURCE}.")
        if rates.partly:
            listed = ", ".join(rates.partly)
            notes.append(f"The logs of {listed} have the main part of the work alone: a low guess.")
    if cluster.gpus:
        notes.append(
            f"No GPU has been measured: one is taken for {GPU_SPEED:g} cores, and may be worth a "
            "third or three times that."
        )
    notes += [
        f"{stage.stage} ends when the driver has handed everything out, not when more workers "
        "could: more of them do not help."
        for stage in stages
        if stage.bound == "driver"
    ]
    unknown = [size.table for size in sizes if size.gigabytes is None]
    if unknown:
        notes.append(f"The size of {', '.join(unknown)} was never measured and is left out.")
    largest = max((counts.of(c, "train").instances for c in counts.types), default=0)
    if largest > 20_000:
        notes.append(
            f"The largest category has {largest:,} training instances: classifiers and detectors "
            "of so many are extrapolated from hundreds."
        )
    return tuple(notes)


def declared(config: Config, network: str) -> tuple[Layers, tuple[str, ...]]:
    """Layers and tables by what a network declares, where there is no run that has them.

    Args:
        config: whose lists of layers may hold "auto".
        network: a key of ``NETWORKS``.

    Raises:
        DistcorrError: no such network.
    """
    spec, features = networks.spec_of(network), config.features
    conv = spec.grid if features.conv == "auto" else features.conv
    vector = spec.vector[0] if features.vector == "auto" else features.vector
    purposes: Mapping[str, tuple[str, ...]] = {
        "grids": (spec.grid,),
        "grids500": spec.large,
        "points": spec.columns,
        "cells": spec.cells,
    }
    tables = [f"grids/{conv}", f"vectors/{vector}"]
    for kind, auto in purposes.items():
        for layer in getattr(features, kind):
            tables += [f"{kind}/{each}" for each in (auto if layer == "auto" else (layer,))]
    aligned = [conv if layer == "auto" else layer for layer in config.flow.features]
    tables += [f"{'grids500' if config.flow.side else 'grids'}/{layer}" for layer in aligned]
    tables += [f"points/{layer}" for layer in config.classify.layers]
    points = [t.partition("/")[2] for t in dict.fromkeys(tables) if t.startswith("points/")]
    cells = [t.partition("/")[2] for t in dict.fromkeys(tables) if t.startswith("cells/")]
    if config.visualize.mirrored:
        tables += [f"mirrored/{layer}" for layer in cells]
    classified = config.classify.layers or tuple(points)
    responses = [conv if layer == "auto" else layer for layer in config.responses.layers]
    large = (*spec.large, conv)[0]
    layers = Layers(
        tuple(aligned),
        classified,
        tuple(layer for layer in responses if layer in classified),
        tuple(large if layer == "auto" else layer for layer in config.detect.layers),
        tuple(cells),
    )
    return layers, tuple(dict.fromkeys(tables))

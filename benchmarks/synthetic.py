"""Generated runs: everything that a driver sees of a large data set, and no photograph.

    .venv/bin/python benchmarks/synthetic.py INSTANCES FOLDER

Writes a run of section 3 whose build-db is finished: boxes and keypoints at random, vectors of 16
numbers, grids of 3 x 3 cells with 4 channels, in files of 32 as build-db writes them, each with its
marker. A million instances take some minutes and 2 GB. The same numbers give the same bytes.
``benchmarks/planning.py`` measures on it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from distcorr import config as configuration
from distcorr.config import Config, digest
from distcorr.data import datasets
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.data.storage import Written
from distcorr.data.store import Feature, feature_table
from distcorr.stages import neighbors
from distcorr.stages.build_db import _plan
from distcorr.stages.cluster import Session
from distcorr.stages.extract import INSTANCES, PHOTOGRAPHS
from distcorr.stages.pipeline import Context, _identities
from distcorr.types import Box, Dataset, Geometry, Instance

PER_PHOTOGRAPH, CATEGORIES, TYPES, TRAIN = 2, 20, 12, 0.6
DIMENSIONS, CELLS, CHANNELS = 16, 3, 4
GEOMETRY = Geometry(input_size=227, stride=80, offset=33.0, rf=131, cells=CELLS)
GRIDS = tuple(Feature("grids", layer, {"drawn": True}) for layer in ("conv4", "sift20"))
VECTORS, POINTS = (Feature(k, n, {"drawn": True}) for k, n in (("vectors", "fc7"), ("points", "x")))


def config() -> Config:
    """The paper's section 3, in this process."""
    return configuration.load("paper", ["compute.address=inline"])


def dataset(count: int, categories: int = CATEGORIES) -> Dataset:
    """``count`` instances with ``TYPES`` keypoints, ``PER_PHOTOGRAPH`` in a photograph."""
    rng = np.random.default_rng(count)
    corner, side = rng.uniform(0, 200, (count, 2)), rng.uniform(60, 280, (count, 2))
    boxes = np.hstack([corner, corner + side]).round(1)
    within = rng.random((count, TYPES, 2))
    points = (corner[:, None] + within * side[:, None]).round(1).astype(np.float32)
    visible = rng.random((count, TYPES)) < 0.8
    train = rng.random(-(-count // PER_PHOTOGRAPH)) < TRAIN
    names = {
        f"category{c:02d}": tuple(f"part{k:02d}" for k in range(TYPES)) for c in range(categories)
    }
    known = sorted(names)
    instances = []
    for n in range(count):
        photograph, place = divmod(n, PER_PHOTOGRAPH)
        stem = f"{photograph:07d}"
        instances.append(
            Instance(
                id=f"{stem}#{place}",
                image=f"photographs/{stem}.jpg",
                category=known[photograph % categories],
                split="train" if train[photograph] else "val",
                box=Box(*map(float, boxes[n])),
                keypoints=points[n],
                visible=visible[n],
            )
        )
    instances.sort(key=lambda i: (i.category, i.split, i.id))
    return Dataset("drawn", "/nowhere", tuple(instances), names)


def plan(data: Dataset, asked: Config) -> tuple[list[Shard], dict[str, str], dict[str, str]]:
    """build-db's own plan: shards, stem of each instance's shard, checksums of photographs."""
    checksums = {i.image: digest(i.image) for i in data.instances}
    features = {INSTANCES: [*GRIDS, VECTORS], PHOTOGRAPHS: [POINTS]}
    shards, stems = _plan(data, checksums, asked.features.shard, features)
    return shards, stems, checksums


def write(run: Run, count: int, categories: int = CATEGORIES, hollow: bool = False) -> StageFolder:
    """A run whose build-db is finished; ``hollow``: its parts are empty files."""
    asked, data = config(), dataset(count, categories)
    shards, stems, checksums = plan(data, asked)
    stage = run.stage("build-db", digest(["drawn", count, categories])[:8], "store")
    facts = {
        "keypoint_names": {c: list(names) for c, names in data.keypoint_names.items()},
        "conv": "conv4",
        "vector": "fc7",
        "tables": {f.name: f.folder for f in (*GRIDS, VECTORS, POINTS)},
        "names": {},
        "root": data.root,
        "stamp": {"weights": "drawn", "data": f"{count} drawn instances"},
    }
    FeatureStore.write_instances(stage, datasets.to_table(data), stems, checksums, facts)
    for shard in shards:
        if hollow:
            tables = [f.folder for f in (*GRIDS, VECTORS)]
            mark(stage, shard, [POINTS.folder] if shard.kind == PHOTOGRAPHS else tables)
        else:
            _fill(stage, shard)
    run.save_config(asked)
    entry = {"key": stage.key, "shards": len(shards), "needs": {}, "store": "store"}
    run.record("build-db", entry | stage.finish(shards))
    return stage


def mark(stage: StageFolder, shard: Shard, tables: Sequence[str]) -> None:
    """Say that a shard is done, with an empty part in each table."""
    for table in tables:
        stage.files.write(f"{table}/{shard.part}", b"")
    nothing = Written(hashlib.sha256(b"").hexdigest(), 0)
    files = {f"{table}/{shard.part}": nothing for table in tables}
    stage.mark_done(shard, files, len(shard.items))


def write_pairs(run: Run, k: int = 25) -> None:
    """Finish ``neighbors`` with neighbours at random."""
    asked = config()
    with Session(asked.compute) as session:
        features, stage, plan = neighbors._prepare(Context(asked, run, session))
        needs = _identities(neighbors.NAME, Context(asked, run, session))
    store = FeatureStore(features)
    for shard in plan:
        category, start = shard.items
        base = pa.array([i.id for i in store.members(category, "train")])
        targets = [i.id for i in store.members(category, "val")][int(start) :]
        targets = targets[: neighbors.TARGETS]
        rng = np.random.default_rng(shard.index)
        drawn = (rng.integers(len(base), size=(len(targets), 1)) + np.arange(k)) % len(base)
        cosines = -np.sort(-rng.random((len(targets), k)), axis=1)
        columns = [
            pa.array(targets, pa.string()).take(pa.array(np.repeat(np.arange(len(targets)), k))),
            base.take(pa.array(drawn.reshape(-1))),
            pa.array(np.tile(np.arange(k), len(targets)), pa.int32()),
            pa.array(cosines.reshape(-1), pa.float32()),
        ]
        table = pa.table(columns, schema=neighbors.SCHEMA)
        name = f"pairs/{shard.part}"
        written = {name: stage.folder.write_table(name, table, row_group_size=65536)}
        stage.mark_done(shard, written, table.num_rows)
    entry = {"key": stage.key, "shards": len(plan), "needs": needs}
    entry["neighbors"] = asdict(asked.neighbors)
    run.record(neighbors.NAME, entry | stage.finish(plan))


def _fill(stage: StageFolder, shard: Shard) -> None:
    written = {}
    for feature, keys, values in _values(shard):
        name = f"{feature.folder}/{shard.part}"
        geometry = GEOMETRY if feature.kind == "grids" else None
        table = feature_table(feature, keys, values, geometry)
        written[name] = stage.files.write_table(name, table)
    stage.mark_done(shard, written, len(shard.items))


def _values(shard: Shard) -> Iterator[tuple[Feature, dict[str, list[str]], np.ndarray]]:
    rng = np.random.default_rng(shard.index)
    items = list(shard.items)
    if shard.kind == PHOTOGRAPHS:
        keys = {"id": [f"{i}#0" for i in items], "keypoint": ["part00"] * len(items)}
        yield POINTS, keys, rng.normal(size=(len(items), CHANNELS))
        return
    for feature in GRIDS:
        yield feature, {"id": items}, rng.random((len(items), CELLS, CELLS, CHANNELS))
    yield VECTORS, {"id": items}, rng.normal(size=(len(items), DIMENSIONS))


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a benchmark writes need not survive a power cut
    began = time.perf_counter()
    write(Run(sys.argv[2]), int(sys.argv[1]))
    print(f"{int(sys.argv[1]):,} instances written in {time.perf_counter() - began:.0f} s")

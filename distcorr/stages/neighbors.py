"""``neighbors``: for every target the training instances that look most like it (section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from distcorr.algorithms.knn import cosine_topk
from distcorr.config import NeighborsConfig, digest
from distcorr.data.features import FeatureStore
from distcorr.data.run import Shard, StageFolder
from distcorr.stages.cluster import Outcome
from distcorr.stages.pipeline import (
    Context,
    Forecast,
    Summary,
    foreseen,
    required,
    run_shards,
    stage_key,
)

VERSION = 1
NAME = "neighbors"


def run(context: Context) -> Summary:
    """Write one part per category: target, neighbor, rank, cosine."""
    store, stage, plan = _prepare(context)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        config = context.config.neighbors
        items = ((shard, (store, stage, shard, config)) for shard in todo)
        return context.session.map(find_neighbors, items)

    context.run.save_config(context.config)
    facts = {NAME: asdict(context.config.neighbors)}
    return run_shards(context, stage, plan, work, facts)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do."""
    _, stage, plan = _prepare(context)
    return foreseen(stage, plan)


def _prepare(context: Context) -> tuple[StageFolder, StageFolder, list[Shard]]:
    features = required("build-db", NAME, context.run)
    key = stage_key(NAME, VERSION, context)
    store = FeatureStore(features)
    plan = []
    for number, category in enumerate(sorted({i.category for i in store.instances})):
        splits = ("train", context.config.neighbors.split)
        members = [[i.id for i in store.members(category, split)] for split in splits]
        plan.append(Shard(number, digest(members)[:16], (category,)))
    return features, context.run.stage(NAME, key), plan


def find_neighbors(
    features: StageFolder, stage: StageFolder, shard: Shard, config: NeighborsConfig
) -> dict[str, int]:
    """Neighbours of all targets of one category, by cosine of the global vector.

    Training instances of the target's own photograph are never its neighbours (protocol O9).
    """
    (category,) = shard.items
    store = FeatureStore(features)
    targets = store.members(category, config.split)
    base = store.members(category, "train")
    rows: dict[str, list[Any]] = {"target": [], "neighbor": [], "rank": [], "cosine": []}
    if targets and base:
        kind = f"vectors/{store.vector}"
        base_ids, base_vectors, _ = store.read(kind, [i.id for i in base])
        target_ids, target_vectors, _ = store.read(kind, [i.id for i in targets])
        photographs = np.array([i.image for i in base])
        own = [np.flatnonzero(photographs == t.image) for t in targets]
        indices, cosines = cosine_topk(
            base_vectors.astype(np.float32), target_vectors.astype(np.float32), config.k, own
        )
        for target, found, values in zip(target_ids, indices, cosines, strict=True):
            for rank in np.flatnonzero(found >= 0):
                rows["target"].append(target)
                rows["neighbor"].append(base_ids[found[rank]])
                rows["rank"].append(int(rank))
                rows["cosine"].append(float(values[rank]))
    schema = pa.schema(
        [
            ("target", pa.string()),
            ("neighbor", pa.string()),
            ("rank", pa.int32()),
            ("cosine", pa.float32()),
        ]
    )
    name = f"pairs/{shard.part}"
    written = stage.folder.write_table(name, pa.table(rows, schema=schema), row_group_size=65536)
    stage.mark_done(shard, {name: written}, len(rows["target"]))
    return {"rows": len(rows["target"])}

"""``neighbors``: for every target the training instances that look most like it (section 3)."""

from __future__ import annotations

from collections import defaultdict
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

# Targets of a shard: no smaller category is cut, and of a large one no worker is left with all.
# Not in the paper.
TARGETS = 8192

SCHEMA = pa.schema(
    [
        ("target", pa.string()),
        ("neighbor", pa.string()),
        ("rank", pa.int32()),
        ("cosine", pa.float32()),
    ]
)


def run(context: Context) -> Summary:
    """Write a part per category, several of a large one: target, neighbor, rank, cosine."""
    features, stage, plan = _prepare(context)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        config = context.config.neighbors
        items = ((shard, (features, stage, shard, config)) for shard in todo)
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
    plan: list[Shard] = []
    for category in sorted({i.category for i in store.instances}):
        base = [i.id for i in store.members(category, "train")]
        targets = [i.id for i in store.members(category, context.config.neighbors.split)]
        for start in range(0, max(1, len(targets)), TARGETS):
            inputs = digest([base, targets[start : start + TARGETS]])[:16]
            plan.append(Shard(len(plan), inputs, (category, str(start))))
    return features, context.run.stage(NAME, key), plan


def find_neighbors(
    features: StageFolder, stage: StageFolder, shard: Shard, config: NeighborsConfig
) -> dict[str, int]:
    """Neighbours of the shard's targets in their category, by cosine of the global vector.

    Training instances of the target's own photograph are never its neighbours (protocol O9).
    """
    category, start = shard.items
    store = FeatureStore(features, category)
    targets = store.members(category, config.split)[int(start) : int(start) + TARGETS]
    base = store.members(category, "train")
    table = SCHEMA.empty_table()
    if targets and base:
        kind = f"vectors/{store.vector}"
        base_ids, base_vectors, _ = store.read(kind, [i.id for i in base])
        target_ids, target_vectors, _ = store.read(kind, [i.id for i in targets])
        shown: dict[str, list[int]] = defaultdict(list)  # photograph -> rows of the base
        for row, instance in enumerate(base):
            shown[instance.image].append(row)
        own = [np.array(shown.get(t.image, ()), np.intp) for t in targets]
        indices, cosines = cosine_topk(
            base_vectors.astype(np.float32), target_vectors.astype(np.float32), config.k, own
        )
        rows, ranks = np.nonzero(indices >= 0)  # by target, then by rank
        columns = [
            pa.array(target_ids, pa.string()).take(pa.array(rows)),
            pa.array(base_ids, pa.string()).take(pa.array(indices[rows, ranks])),
            pa.array(ranks, pa.int32()),
            pa.array(cosines[rows, ranks], pa.float32()),
        ]
        table = pa.table(columns, schema=SCHEMA)
    name = f"pairs/{shard.part}"
    written = stage.folder.write_table(name, table, row_group_size=65536)
    stage.mark_done(shard, {name: written}, table.num_rows)
    return {"rows": table.num_rows}

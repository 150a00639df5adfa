"""``transfer``: align every target with its neighbours and carry their keypoints (section 3).

One shard is a few targets of one category with all their neighbours. Each writes two parts: the
pairs (flow, energies and carried keypoints of every neighbour, so that any other way to combine
them needs no new alignment) and the predictions that PCK is computed from.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms.crop import from_square, to_square
from distcorr.algorithms.flow import align_many, unit_norm
from distcorr.algorithms.transfer import carry, order_by, predict_keypoints
from distcorr.config import FlowConfig, digest
from distcorr.data.features import FeatureStore
from distcorr.data.run import Shard, StageFolder
from distcorr.data.store import HalfArray
from distcorr.stages.cluster import Outcome
from distcorr.stages.pipeline import (
    Context,
    Forecast,
    Summary,
    required,
    run_shards,
    stage_key,
)
from distcorr.types import FloatArray, Geometry, Instance

VERSION = 1
NAME = "transfer"
COPY = "NN transfer"

PREDICTIONS = pa.schema(
    [
        ("method", pa.string()),
        ("category", pa.string()),
        ("instance", pa.string()),
        ("image", pa.string()),
        ("keypoint", pa.string()),
        ("x", pa.float64()),  # predicted, px in the photograph, 0-based; null: no prediction
        ("y", pa.float64()),
        ("true_x", pa.float64()),
        ("true_y", pa.float64()),
        ("scale", pa.float64()),  # max(h, w) of the box, px
    ]
)


_Neighbors = dict[str, list[tuple[str, float]]]


@dataclass(frozen=True)
class _Work:
    """One shard: its targets' neighbours, and what is needed of each instance of both kinds.

    The category's grids, which all of its shards share, travel beside it: one copy per node.
    """

    category: str
    keypoint_names: tuple[str, ...]
    neighbors: _Neighbors
    instances: dict[str, Instance]
    rows: dict[str, int]  # instance id -> row of the category's grids
    geometry: Geometry
    method: str


def run(context: Context) -> Summary:
    """Align, order, carry, predict."""
    store, stage, plan, neighbors = _prepare(context)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        return context.session.map(
            transfer_shard, _arguments(context, store, stage, todo, neighbors)
        )

    context.run.save_config(context.config)
    return run_shards(context, stage, plan, work)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do."""
    _, stage, plan, _ = _prepare(context)
    return Forecast(NAME, stage.key, len(plan), len(stage.todo(plan)))


def _prepare(context: Context) -> tuple[FeatureStore, StageFolder, list[Shard], _Neighbors]:
    features = required("build-db", NAME, context.run)
    pairs = required("neighbors", NAME, context.run)
    neighbors: _Neighbors = defaultdict(list)
    for table in pairs.folder.iter_tables(pairs.parts("pairs")):
        for row in table.to_pylist():  # in rank order
            neighbors[row["target"]].append((row["neighbor"], row["cosine"]))
    store = FeatureStore(features)
    plan: list[Shard] = []
    size = context.config.flow.shard
    for category in sorted(store.keypoint_names):
        targets = [i.id for i in store.members(category, "val")]
        if not store.members(category, "train"):
            continue  # nothing to learn from: the report says so
        for start in range(0, len(targets), size):
            chunk = targets[start : start + size]
            inputs = digest([[t, neighbors[t]] for t in chunk])[:16]
            plan.append(Shard(len(plan), inputs, tuple(chunk)))
    stage = context.run.stage(NAME, stage_key(NAME, VERSION, context))
    return store, stage, plan, neighbors


def _arguments(
    context: Context,
    store: FeatureStore,
    stage: StageFolder,
    todo: list[Shard],
    neighbors: _Neighbors,
) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
    """Arguments of the shards, category by category: the features of one are held at a time."""
    instances = {i.id: i for i in store.instances}
    by_category: dict[str, list[Shard]] = defaultdict(list)
    for shard in todo:
        by_category[instances[shard.items[0]].category].append(shard)
    for category, shards in by_category.items():
        ids = {t for s in shards for t in s.items}
        ids |= {n for i in tuple(ids) for n, _ in neighbors[i]}
        kept, grids, meta = store.read(f"grids/{store.conv}", sorted(ids))
        assert meta.geometry is not None  # grids are written with it
        shared = context.session.put(grids)
        rows = {i: row for row, i in enumerate(kept)}
        for shard in shards:
            members = {*shard.items, *(n for t in shard.items for n, _ in neighbors[t])}
            work = _Work(
                category,
                store.keypoint_names[category],
                {t: neighbors[t] for t in shard.items},
                {i: instances[i] for i in members},
                {i: rows[i] for i in members},
                meta.geometry,
                f"{store.conv} flow",
            )
            yield shard, (shared, work, stage, shard, context.config.flow)


# -- one shard ---------------------------------------------------------------------------------


@dataclass
class _Pairs:
    """Columns of the pairs table, and per-target arrays for the predictions."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    displacements: list[npt.NDArray[np.int8]] = field(default_factory=list)


def transfer_shard(
    grids: HalfArray, work: _Work, stage: StageFolder, shard: Shard, config: FlowConfig
) -> dict[str, int]:
    """Align the shard's targets with their neighbours; write pairs, predictions and marker."""
    pairs = _Pairs()

    @functools.cache  # the targets of a shard share many neighbours
    def grid(instance: str) -> FloatArray:
        values = grids[work.rows[instance]]
        return unit_norm(values) if config.feature_norm == "unit" else values.astype(np.float32)

    predictions: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for target in shard.items:
        instance = work.instances[target]
        found = work.neighbors[target]
        flowed, copied, orders = _align_target(work, instance, grid, config, pairs)
        shown = np.array([work.instances[n].visible for n, _ in found], bool)
        shown = shown.reshape(len(found), len(work.keypoint_names))
        rank = np.arange(len(found))
        for method, carried, order in (
            (work.method, flowed, orders),
            (COPY, copied, rank),  # copying has no energies: the most similar first (protocol O17)
        ):
            points = predict_keypoints(carried, shown, order, config.keep, strict=config.strict)
            _append_predictions(predictions, method, work, instance, points)
    files = {}
    for name, table in (
        (f"pairs/{shard.part}", _pairs_table(pairs, work.geometry.cells)),
        (f"predictions/{shard.part}", pa.table(predictions, schema=PREDICTIONS)),
    ):
        files[name] = stage.folder.write_table(name, table, row_group_size=65536)
    stage.mark_done(shard, files, len(pairs.displacements))
    return {"rows": len(pairs.displacements)}


def _align_target(
    work: _Work,
    instance: Instance,
    grid: Callable[[str], FloatArray],
    config: FlowConfig,
    pairs: _Pairs,
) -> tuple[Any, Any, Any]:
    """(N, K, 2) keypoints carried by flow and by copying, px in the photograph; (N,) order."""
    geometry, side = work.geometry, work.geometry.input_size
    found = work.neighbors[instance.id]
    flows = align_many(
        grid(instance.id),
        [grid(neighbor) for neighbor, _ in found],
        config.beta,
        iterations=config.iterations,
        reweighted=config.reweighted,
    )
    shape = (len(found), len(work.keypoint_names), 2)
    flowed, copied = np.full(shape, np.nan), np.full(shape, np.nan)
    energies = np.zeros((len(found), 2))
    for i, ((neighbor, cosine), flow) in enumerate(zip(found, flows, strict=True)):
        other = work.instances[neighbor]
        keypoints = to_square(other.keypoints, other.box, side)
        carried = carry(keypoints, flow.displacement, geometry)
        flowed[i] = from_square(carried, instance.box, side)
        copied[i] = from_square(keypoints, instance.box, side)
        energies[i] = flow.data_energy, flow.deformation_energy
        pairs.displacements.append(flow.displacement.astype(np.int8))
        for name, value in (
            ("target", instance.id),
            ("neighbor", neighbor),
            ("rank", i),
            ("cosine", cosine),
            ("data_energy", flow.data_energy),
            ("deformation_energy", flow.deformation_energy),
            ("carried", flowed[i].reshape(-1)),
        ):
            pairs.columns[name].append(value)
    data, deformation = energies.T
    key = {
        "deformation": deformation,
        "data": data,
        "total": data + config.beta * deformation,
        "similarity": np.zeros(len(found)),  # all equal: the rank decides
    }[config.order]
    return flowed, copied, order_by(key, np.arange(len(found)))


def _append_predictions(
    columns: dict[str, list[Any]],
    method: str,
    work: _Work,
    instance: Instance,
    points: npt.NDArray[np.float64],
) -> None:
    """One row per visible keypoint of the target: invisible ones are not scored (section 3)."""
    for k in np.flatnonzero(instance.visible):
        missing = bool(np.isnan(points[k]).any())
        for name, value in (
            ("method", method),
            ("category", work.category),
            ("instance", instance.id),
            ("image", instance.image),
            ("keypoint", work.keypoint_names[k]),
            ("x", None if missing else points[k, 0]),
            ("y", None if missing else points[k, 1]),
            ("true_x", float(instance.keypoints[k, 0])),
            ("true_y", float(instance.keypoints[k, 1])),
            ("scale", instance.box.max_side),
        ):
            columns[name].append(value)


def _pairs_table(pairs: _Pairs, cells: int) -> pa.Table:
    """The pairs; ``displacement`` is (cells, cells, 2) int8 (dx, dy) in cells, row by row."""
    length = cells * cells * 2
    flat = np.concatenate([d.reshape(-1) for d in pairs.displacements] or [np.zeros(0, np.int8)])
    get = pairs.columns.__getitem__
    return pa.table(
        {
            "target": pa.array(get("target"), pa.string()),
            "neighbor": pa.array(get("neighbor"), pa.string()),
            "rank": pa.array(get("rank"), pa.int32()),
            "cosine": pa.array(get("cosine"), pa.float32()),
            "data_energy": pa.array(get("data_energy"), pa.float64()),
            "deformation_energy": pa.array(get("deformation_energy"), pa.float64()),
            "carried": pa.array(get("carried"), pa.list_(pa.float64())),
            "displacement": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.int8()), length),
        }
    )

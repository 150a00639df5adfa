"""``transfer``: align every target with its neighbours and carry their keypoints (section 3).

One shard is a few targets of one category with all their neighbours, by one layer. It writes their
pairs: flow, energies and carried keypoints, so that any way to combine the neighbours is a matter
of the report and needs no new alignment.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms.crop import from_square, to_square
from distcorr.algorithms.flow import align_many, unit_norm
from distcorr.algorithms.transfer import carry, push
from distcorr.config import FlowConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.store import META, HalfArray
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.cluster import Outcome
from distcorr.stages.pairs import Neighbors, Pairs, chunks
from distcorr.stages.pipeline import (
    Context,
    Forecast,
    Summary,
    foreseen,
    required,
    run_shards,
    stage_key,
    without,
)
from distcorr.types import Box, FloatArray, Flow, Geometry

VERSION = 2
NAME = "transfer"

# Bytes of grids that are read at once and travel to the nodes together: what the stage holds does
# not grow with the data set. Not in the paper.
HELD = 512_000_000

_Doubles = npt.NDArray[np.float64]
_Neighbors = Mapping[str, Pairs]
_SIFT = re.compile(r"sift(\d+)")


@dataclass(frozen=True)
class _Job:
    """Everything about the stage that is known before anything is aligned.

    A shard's ``kind`` is its layer.
    """

    store: FeatureStore
    features: StageFolder
    stage: StageFolder
    plan: list[Shard]
    neighbors: Neighbors
    tables: dict[str, str]  # layer -> its feature table
    methods: dict[str, str]  # layer -> what its flow is called


@dataclass(frozen=True)
class _Work:
    """One shard: its targets' neighbours, and where each instance of both kinds is found.

    What several shards share travels beside it, as arrays that processes of a node share: the grids
    (n, rows, cols, C), the boxes (n, 4) and the keypoints (n, K, 2) of n instances.
    """

    method: str
    layer: str
    category: str
    neighbors: _Neighbors
    images: dict[str, str]  # instance id -> its photograph
    rows: dict[str, int]  # instance id -> row of what is shared
    lacking: dict[str, str]  # instance id -> why it has none
    geometry: Geometry


def run(context: Context) -> Summary:
    """Align and carry."""
    job = _prepare(context)

    flow = context.config.flow

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        gpus = context.session.gpus() if flow.solver == "decoupled" else 0.0
        arguments = _arguments(context, job, todo, "cuda" if gpus else "cpu")
        return context.session.map(transfer_shard, arguments, gpus)

    context.run.save_config(context.config)
    facts = {
        "flow": asdict(flow) | {"features": list(flow.features)},
        "methods": list(job.methods.values()),
    }
    pairs = sum(job.neighbors.count(shard.items) for shard in job.plan)
    return run_shards(context, job.stage, job.plan, work, facts, pairs)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do."""
    store = FeatureStore(required("build-db", NAME, context.run))
    if waiting := without(NAME, store, store.aligned(context.config.flow).values()):
        return waiting
    if _other_neighbors(context):
        return Forecast(NAME, "", None, None, "waits for neighbors with these settings")
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


def _other_neighbors(context: Context) -> dict[str, Any]:
    """The settings that the neighbours were found with, if they are not those asked for."""
    made: dict[str, Any] = context.run.manifest()["stages"]["neighbors"]["neighbors"]
    return made if made != asdict(context.config.neighbors) else {}


def _prepare(context: Context) -> _Job:
    features = required("build-db", NAME, context.run)
    pairs = required("neighbors", NAME, context.run)
    other = _other_neighbors(context)
    if other:
        asked = asdict(context.config.neighbors)
        differs = [key for key in asked if other[key] != asked[key]]
        changes = [f"neighbors.{key} = {other[key]}, not {asked[key]}" for key in differs]
        raise DistcorrError(
            f"transfer works on the neighbours that {context.run} holds: {'; '.join(changes)}.",
            "distcorr neighbors with the same settings finds others; distcorr run does both",
        )
    flow, store = context.config.flow, FeatureStore(features)
    found = pairs.folder.iter_tables(pairs.parts("pairs"), ("target", "neighbor", "cosine"))
    neighbors = Neighbors([i.id for i in store.instances], found)
    stage = context.run.stage(NAME, stage_key(NAME, VERSION, context))
    tables = store.aligned(flow)
    cut: list[tuple[tuple[str, ...], dict[str, str]]] = []
    for category in sorted(store.keypoint_names):
        if not store.members(category, "train"):
            continue  # nothing to learn from: the report says so
        members = store.members(category, context.config.neighbors.split)
        targets = neighbors.together([i.id for i in flow.chosen(members)])
        cut += chunks(targets, neighbors, flow.shard, list(tables))
    pieces = enumerate(itertools.product(tables, cut))
    plan = [Shard(n, inputs[layer], chunk, layer) for n, (layer, (chunk, inputs)) in pieces]
    return _Job(store, features, stage, plan, neighbors, tables, _methods(tables))


def _methods(layers: Iterable[str]) -> dict[str, str]:
    """Layer -> what its flow is called: "conv4 flow", "SIFT flow"."""
    radii = {layer: found[1] for layer in layers if (found := _SIFT.fullmatch(layer))}
    named = {layer: f"SIFT radius {radius} flow" for layer, radius in radii.items()}
    if len(radii) == 1:  # no other to tell it from; the report's notes name the radius
        named = dict.fromkeys(radii, "SIFT flow")
    return {layer: named.get(layer, f"{layer} flow") for layer in layers}


def _arguments(
    context: Context, job: _Job, todo: list[Shard], device: str
) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
    """Arguments of the shards, by layer and category, ``HELD`` bytes of features at a time."""
    store, neighbors = job.store, job.neighbors
    instances = {i.id: i for i in store.instances}
    letters = job.features.dead_letters()
    of_category: dict[tuple[str, str], list[Shard]] = defaultdict(list)
    for shard in todo:
        of_category[shard.kind, instances[shard.items[0]].category].append(shard)
    for (layer, category), shards in of_category.items():
        folder = store.folder_of(job.tables[layer])
        lacking = {d.id: d.error for d in letters if not d.tables or folder in d.tables}
        members = {i for shard in shards for i in _members(shard, neighbors)}
        if members <= lacking.keys():
            raise DistcorrError(
                f"No instance of {category} that is to be aligned has {job.tables[layer]}.",
                f"distcorr status -v -r {context.run} shows why; or leave {layer} out of "
                "flow.features",
                MISSING,
            )
        _, one, _ = store.read(job.tables[layer], [min(members - lacking.keys())])
        for group in _groups(shards, neighbors, max(1, HELD // one.nbytes)):
            members = {i for shard in group for i in _members(shard, neighbors)}
            kept, grids, meta = store.read(job.tables[layer], sorted(members - lacking.keys()))
            assert meta.geometry is not None  # grids are written with it
            boxes = np.array([store.framed(instances[i].box) for i in kept])  # what grids show
            keypoints = np.array([instances[i].keypoints for i in kept])
            shared = tuple(map(context.session.put, (grids, boxes, keypoints)))
            rows = {i: row for row, i in enumerate(kept)}
            for shard in group:
                members = _members(shard, neighbors)
                work = _Work(
                    job.methods[layer],
                    layer,
                    category,
                    {t: neighbors[t] for t in shard.items},
                    {i: instances[i].image for i in members},
                    {i: rows[i] for i in members if i in rows},
                    {i: lacking[i] for i in members if i in lacking},
                    meta.geometry,
                )
                yield shard, (*shared, work, job.stage, shard, context.config.flow, device)


def _members(shard: Shard, neighbors: _Neighbors) -> set[str]:
    """The shard's targets and all of their neighbours."""
    return {*shard.items, *(n for t in shard.items for n, _ in neighbors[t])}


def _groups(shards: Sequence[Shard], neighbors: _Neighbors, most: int) -> Iterator[list[Shard]]:
    """Consecutive shards that need ``most`` instances together, or one shard that needs more."""
    group: list[Shard] = []
    needed: set[str] = set()
    for shard in shards:
        more = needed | _members(shard, neighbors)
        if group and len(more) > most:
            yield group
            group, more = [], _members(shard, neighbors)
        group.append(shard)
        needed = more
    if group:
        yield group


# -- one shard ---------------------------------------------------------------------------------


@dataclass
class _Pairs:
    """Columns of the pairs table, and the pairs that could not be aligned."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    dead: list[DeadLetter] = field(default_factory=list)

    def add(
        self, target: str, rank: int, neighbor: str, cosine: float, flow: Flow, carried: _Doubles
    ) -> None:
        """A pair; ``carried`` (K, 2) px in the target's photograph."""
        for name, value in (
            ("target", target),
            ("neighbor", neighbor),
            ("rank", rank),
            ("cosine", cosine),
            ("data_energy", flow.data_energy),
            ("deformation_energy", flow.deformation_energy),
            ("carried", carried.reshape(-1)),
            ("displacement", flow.displacement),
        ):
            self.columns[name].append(value)

    def table(self, work: _Work, beta: float) -> pa.Table:
        """The pairs; ``displacement`` is (cells, cells, 2) (dx, dy) in cells, row by row."""
        shape = (work.geometry.cells, work.geometry.cells, 2)
        kind = pa.int8() if work.geometry.cells < 128 else pa.int16()
        flat = np.array(self.columns["displacement"], kind.to_pandas_dtype()).reshape(-1)
        count, get = len(self.columns["target"]), self.columns.__getitem__
        facts = {"shape": shape, "geometry": work.geometry._asdict(), "beta": beta}
        return pa.table(
            {
                "method": pa.array([work.method] * count, pa.string()),
                "category": pa.array([work.category] * count, pa.string()),
                "target": pa.array(get("target"), pa.string()),
                "neighbor": pa.array(get("neighbor"), pa.string()),
                "rank": pa.array(get("rank"), pa.int32()),
                "cosine": pa.array(get("cosine"), pa.float32()),
                "data_energy": pa.array(get("data_energy"), pa.float64()),
                "deformation_energy": pa.array(get("deformation_energy"), pa.float64()),
                "carried": pa.array(get("carried"), pa.list_(pa.float64())),
                "displacement": pa.FixedSizeListArray.from_arrays(
                    pa.array(flat, kind), int(np.prod(shape))
                ),
            }
        ).replace_schema_metadata({META: json.dumps(facts, sort_keys=True).encode()})


def transfer_shard(
    grids: HalfArray,
    boxes: _Doubles,
    keypoints: FloatArray,
    work: _Work,
    stage: StageFolder,
    shard: Shard,
    config: FlowConfig,
    device: str = "cpu",
) -> dict[str, float]:
    """Align the shard's targets with their neighbours; write the pairs and the marker."""
    pairs, stride = _Pairs(), work.geometry.stride
    beta = config.beta * (stride**2 if config.units == "px" else 1)  # per cell^2
    side = work.geometry.input_size
    move = carry if config.direction == "inverse" else push

    began = time.perf_counter()
    ready: dict[str, FloatArray] = {}  # made once: the targets of a shard share many neighbours
    for instance, row in work.rows.items():
        values = grids[row].astype(np.float32)
        if np.isfinite(values).all():
            ready[instance] = unit_norm(values) if config.feature_norm == "unit" else values
    alignable: list[tuple[str, list[tuple[int, str, float]]]] = []
    for target in shard.items:
        there = []
        for rank, (neighbor, cosine) in enumerate(work.neighbors[target]):
            if target in ready and neighbor in ready:
                there.append((rank, neighbor, cosine))
                continue
            broken = neighbor if target in ready else target
            why = work.lacking.get(broken, f"{work.layer} is not finite")
            file = work.images[broken]
            pairs.dead.append(DeadLetter(f"{target} <- {neighbor}", file, f"{broken}: {why}"))
        alignable.append((target, there))
    wanted = [(target, [n for _, n, _ in there]) for target, there in alignable]
    solved = _solve(wanted, ready, beta, config, device)
    for (target, there), flows in zip(alignable, solved, strict=True):
        for (rank, neighbor, cosine), flow in zip(there, flows, strict=True):
            one, other = work.rows[target], work.rows[neighbor]
            found = to_square(keypoints[other], Box(*boxes[other]), side)
            moved = move(found, flow.displacement, work.geometry)
            carried = from_square(moved, Box(*boxes[one]), side)
            pairs.add(target, rank, neighbor, cosine, flow, carried)
    aligning = time.perf_counter() - began
    name = f"pairs/{shard.part}"
    written = stage.folder.write_table(name, pairs.table(work, beta), row_group_size=65536)
    stage.mark_done(shard, {name: written}, len(pairs.columns["target"]), pairs.dead)
    rows = len(pairs.columns["target"])
    return {"rows": rows, "dead": len(pairs.dead), "aligning": round(aligning, 6)}


def _solve(
    wanted: Sequence[tuple[str, list[str]]],
    grids: Mapping[str, FloatArray],
    beta: float,
    config: FlowConfig,
    device: str,
) -> Iterator[list[Flow]]:
    """For each target the flows to its neighbours, or forward: from its neighbours to it."""
    inverse = config.direction == "inverse"
    if device == "cpu":
        align = functools.partial(
            align_many,
            beta=beta,
            solver=config.solver,
            iterations=config.iterations,
            window=config.window,
            truncation=config.truncation,
        )
        for target, neighbors in wanted:
            others = [grids[neighbor] for neighbor in neighbors]
            if inverse:
                yield align(grids[target], others) if others else []
            else:
                yield [align(other, [grids[target]])[0] for other in others]
        return
    from distcorr.algorithms.flow_torch import align_pairs  # torch takes seconds to import

    pairs = [(t, n) if inverse else (n, t) for t, neighbors in wanted for n in neighbors]
    used = {instance: row for row, instance in enumerate(dict.fromkeys(itertools.chain(*pairs)))}
    flows: Iterator[Flow] = iter(())
    if pairs:  # all at once: a GPU is busy with thousands
        displacements, energies = align_pairs(
            [grids[instance] for instance in used],
            [[used[i], used[j]] for i, j in pairs],
            beta,
            iterations=config.iterations,
            window=config.window,
            device=device,
        )
        flows = (Flow(w, *e) for w, e in zip(displacements, energies.tolist(), strict=True))
    for _, neighbors in wanted:
        yield list(itertools.islice(flows, len(neighbors)))

"""One shard of ``evaluate-pairs``: pairs in, where every point landed by every method out."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from distcorr.algorithms import pair_matching
from distcorr.algorithms.batches import SmallerBatchWarning
from distcorr.algorithms.crop import from_square, to_square
from distcorr.algorithms.flow import align, unit_norm
from distcorr.algorithms.matching import follow
from distcorr.algorithms.transfer import Points
from distcorr.config import Config
from distcorr.data.pairs import Pair
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.weights import Weights
from distcorr.errors import DistcorrError
from distcorr.stages.pair_features import Layer, Seen, Unit, grids_of, layer_of, looked_at
from distcorr.types import FloatArray

TABLE = "predictions"  # the folder of the parts
BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
PLACES = ("x", "y", "true_x", "true_y")
SCHEMA = pa.schema(
    [
        *((n, pa.string()) for n in ("method", "category", "instance", "image", "source")),
        ("keypoint", pa.string()),
        *((name, pa.float64()) for name in (*PLACES, *BOX)),
        *((name, pa.int32()) for name in ("image_width", "image_height")),
    ]
)
"""As ``distcorr pck`` reads it; instance is the pair, image its B, source its A."""

Method = Callable[[Points, FloatArray, FloatArray], Points]


def match_shard(
    weights: Weights | None,
    config: Config,
    root: str,
    pairs: Sequence[Pair],
    checksums: dict[str, str],
    name: str,
    identity: str,
    baselines: bool,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, Any]:
    """Carry the points of every pair by every method; write the part and the marker.

    Args:
        weights: of the network, None where the feature needs none.
        config: of the run.
        root: of the photographs.
        pairs: in the order of their rows.
        checksums: of their photographs, as they were planned.
        name: the feature, as it was asked for.
        identity: of the feature, as it was planned.
        baselines: whether the rows that no feature is needed for are this shard's.
        stage: where the part goes.
        shard: what the part is.

    Raises:
        DistcorrError: the feature is not the same here as in the process that planned the work.
        OSError: the storage does not answer, or a photograph has changed since.
    """
    layer = layer_of(name, config, weights)
    if layer.identity != identity:
        raise DistcorrError(
            f"{layer.name} is not the same here as in the process that planned the work.",
            "let every machine have the same distcorr, and the same file of an extractor",
        )
    units = [_units(pair, config.pairs.box) for pair in pairs]
    different = list(dict.fromkeys(unit for both in units for unit in both))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SmallerBatchWarning)
        seen = looked_at(Folder(root), different, checksums, layer.geometry.input_size)
        grids = grids_of(layer, seen, config.features.batch)
    raw = {unit: grid for unit, grid in grids.items() if np.isfinite(grid).all()}
    unit = {which: unit_norm(grid) for which, grid in raw.items()}
    methods = methods_of(layer, config)
    tables, dead = [], []
    for pair, both in zip(pairs, units, strict=True):
        lacking = next((which for which in both if which not in raw), None)
        if lacking is not None:
            why = seen[lacking]
            why = why if isinstance(why, str) else f"{layer.name} of it is not finite"
            dead.append(DeadLetter(pair.id, lacking[0], why))
            continue
        one, other = (seen[which] for which in both)
        assert isinstance(one, Seen)
        assert isinstance(other, Seen)
        side = layer.geometry.input_size
        start = to_square(pair.points_a, one.box, side)
        landed = {}
        for method, move in methods.items():
            known = raw if method == "flow" and config.flow.feature_norm == "raw" else unit
            landed[f"{layer.name} {method}"] = move(start, known[both[0]], known[both[1]])
        if baselines:
            seed = [config.seed, zlib.crc32(pair.id.encode())]
            landed[pair_matching.IDENTITY] = start
            landed[pair_matching.RANDOM] = pair_matching.random_cells(
                len(start), layer.geometry, seed
            )
        found = {method: from_square(xy, other.box, side) for method, xy in landed.items()}
        tables.append(_table(pair, other, found))
    file = f"{TABLE}/{shard.part}"
    table = pa.concat_tables([SCHEMA.empty_table(), *tables])
    written = stage.folder.write_table(file, table, row_group_size=65536)
    stage.mark_done(shard, {file: written}, table.num_rows, dead)
    notes = sorted({f"{w.message}; the last bits may differ" for w in caught})
    return {"rows": table.num_rows, "dead": len(dead), "notes": notes}


def methods_of(layer: Layer, config: Config) -> dict[str, Method]:
    """What carries points, (n, 2) px of A's square, by both grids to px of B's square."""
    geometry, asked = layer.geometry, config.pairs
    usual = pair_matching.usual_window(geometry.cells)
    known: Mapping[str, Method] = {
        "nn": partial(pair_matching.nearest_cell, geometry=geometry),
        "mutual": partial(pair_matching.by_mutual, geometry=geometry),
        "softargmax": partial(
            pair_matching.soft_argmax,
            geometry=geometry,
            window=usual if asked.window < 0 else asked.window,
            temperature=asked.temperature,
        ),
        "flow": partial(_by_flow, layer=layer, config=config),
    }
    return {method: known[method] for method in asked.methods}


def _by_flow(points: Points, a: FloatArray, b: FloatArray, layer: Layer, config: Config) -> Points:
    """By the alignment of A with B (section 3), as ``match`` follows it."""
    flow, geometry = config.flow, layer.geometry
    found = align(
        a,
        b,
        flow.beta * (geometry.stride**2 if flow.units == "px" else 1),  # per cell^2
        solver=flow.solver,
        iterations=flow.iterations,
        window=flow.window,
        truncation=flow.truncation,
    )
    return follow(points, found.displacement, geometry)


def _units(pair: Pair, box: bool) -> tuple[Unit, Unit]:
    return (pair.a, pair.box_a if box else None), (pair.b, pair.box_b if box else None)


def _table(pair: Pair, b: Seen, found: Mapping[str, Points]) -> pa.Table:
    """The rows of one pair, method by method."""
    points, count = len(pair.points_b), len(pair.points_b) * len(found)
    true = np.tile(np.asarray(pair.points_b, np.float64), (len(found), 1))
    at = np.concatenate(list(found.values()))
    same: dict[str, Any] = {"category": pair.category, "instance": pair.id, "image": pair.b}
    same |= {"source": pair.a, "image_width": b.size[0], "image_height": b.size[1]}
    same |= dict(zip(BOX, pair.box_b or [None] * 4, strict=True))
    columns: dict[str, Any] = {name: [value] * count for name, value in same.items()}
    columns |= {"method": np.repeat(np.array(list(found), object), points)}
    columns |= {"keypoint": list(pair.keypoints) * len(found)}
    columns |= dict(zip(PLACES, (*at.T, *true.T), strict=True))
    return pa.table({name: pa.array(columns[name], kind) for name, kind in _kinds()})


def _kinds() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in SCHEMA]

"""Receptive fields averaged over a random cell's neighbours, the last task of ``visualize``."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import rebuild
from distcorr.algorithms.rebuild import Picture, RunningMean
from distcorr.config import VisualizeConfig
from distcorr.data.run import Shard, StageFolder
from distcorr.data.visualized import AVERAGES, NEIGHBOURS, RANDOM
from distcorr.stages.copies import Contents, left_out
from distcorr.stages.gallery import Gallery, Ids, Layer, Sizes, cuts, view_of
from distcorr.stages.locality import Queries
from distcorr.stages.nearest import merged, sizes
from distcorr.stages.rebuilt import Parts

_FIGURE = 2


def average_fields(
    gallery: Gallery,
    layer: Layer,
    parts: Parts,
    config: VisualizeConfig,
    seed: int,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Average the fields of neighbours, and of random cells, for some random cells.

    Args:
        gallery: of the photographs.
        layer: of the cells.
        parts: what has been found.
        config: how many neighbours.
        seed: of the baseline.
        stage: where parts go.
        shard: its items are the places, numbers as text, that it averages.
    """
    queries, k = Queries.read(stage, parts.queries, values=False), max(config.averaged)
    far, base = merged(stage, parts.far, k), sizes(stage, parts.sizes)
    random = np.flatnonzero(queries.place >= 0)  # the rows of ``far``
    mine = np.isin(queries.place[random], [int(item) for item in shard.items])
    rows: list[dict[str, Any]] = []
    chosen = random[mine]
    if len(chosen):
        out = left_out(gallery, stage, parts.copies, np.unique(queries.number[chosen]).tolist())
        drawn = _random(gallery, layer, queries, chosen, base, out, k, seed)
        ids = np.stack([far.ids[mine], drawn])
        sums = _sums(gallery, layer, ids, config.averaged)
        own = _own(gallery, layer, queries, chosen)
        for n, row in enumerate(chosen):
            place = int(queries.place[row])
            facts = {"layer": layer.name, "place": place, "side": layer.field}
            facts |= {"image": gallery.images[queries.number[row]]}
            facts |= {"row": int(queries.cells[row, 0]), "col": int(queries.cells[row, 1])}
            for method, of_method, found in zip((NEIGHBOURS, RANDOM), sums, ids, strict=True):
                for most, total in zip(config.averaged, of_method[n], strict=True):
                    count = int((found[n, :most] >= 0).sum())
                    made = facts | {"method": method, "k": most, "found": count}
                    kept = place < config.drawn
                    rows.append(made | _measured(total) | (_pictures(total, own[n], kept)))
    rows.sort(key=lambda row: row["place"])
    name = f"averages/{shard.part}"
    table = pa.Table.from_pylist(rows, AVERAGES)
    stage.mark_done(shard, {name: stage.folder.write_table(name, table, 4)}, len(rows))
    return {"rows": len(rows), "dead": 0}


def _random(
    gallery: Gallery,
    layer: Layer,
    queries: Queries,
    chosen: npt.NDArray[np.intp],
    base: Sizes,
    out: dict[int, Contents],
    k: int,
    seed: int,
) -> Ids:
    """(s, k) random cells whose field may be averaged, for each of the chosen cells."""
    drawn = []
    for row in chosen:
        number = int(queries.number[row])
        name = zlib.crc32(gallery.images[number].encode())
        draw = [seed, _FIGURE, name, int(queries.place[row])]
        drawn.append(base.random(gallery, layer, out[number], (1, k), True, draw))
    return np.concatenate(drawn)


def _sums(
    gallery: Gallery, layer: Layer, ids: Ids, averaged: tuple[int, ...]
) -> list[list[list[RunningMean]]]:
    """Methods x random cells x ``averaged`` sums of the fields of ids (methods, s, k)."""
    side, methods = layer.field, ids.shape[:2]
    bands = list(itertools.pairwise((0, *averaged)))  # of ranks: 0-4, 5-49, 50-499
    rank = np.broadcast_to(np.arange(ids.shape[2]), ids.shape)
    band = np.searchsorted(averaged, rank, side="right")
    target = (np.arange(np.prod(methods)).reshape(*methods, 1) * len(bands) + band).ravel()
    sums = [RunningMean.blank(side) for _ in range(len(bands) * int(np.prod(methods)))]
    for view, _, where, cells in cuts(gallery, layer, ids.ravel()):
        boxes = layer.boxes(cells, view.picture.shape, side)
        picture = np.ascontiguousarray(view.picture)  # a mirror image is not, and compiles anew
        for at in np.unique(target[where]):
            sums[at].add(picture, boxes[target[where] == at])
    count = len(bands)
    nested = [list(itertools.accumulate(sums[s : s + count])) for s in range(0, len(sums), count)]
    return [nested[: methods[1]], nested[methods[1] :]]


def _own(
    gallery: Gallery, layer: Layer, queries: Queries, chosen: npt.NDArray[np.intp]
) -> list[Picture]:
    """The chosen cells' own fields."""
    crops: dict[int, Picture] = {}
    for scene, picture in gallery.visit(queries.number[chosen].tolist()):
        seen = view_of(layer, scene, picture).picture
        for n in np.flatnonzero(queries.number[chosen] == scene.place):
            cell = queries.cells[chosen[n]][None]
            box = layer.boxes(cell, seen.shape, layer.field)
            crops[int(n)] = rebuild.cut(seen, box, layer.field)[0]
    return [crops[n] for n in range(len(chosen))]


def _measured(total: RunningMean) -> dict[str, Any]:
    """Spread across the fields, radius by radius, and centre over periphery."""
    if total.count.max(initial=0) < 2:  # one field has no spread
        return {"ratio": None, "profile": []}
    std = total.std()
    ratio = rebuild.centre_ratio(std)
    profile = [None if np.isnan(v) else float(v) for v in rebuild.radial_profile(std)]
    return {"ratio": None if np.isnan(ratio) else ratio, "profile": profile}


def _pictures(total: RunningMean, own: Picture, kept: bool) -> dict[str, Any]:
    if not kept:
        return {"mean": None, "crop": None}
    return {"mean": total.mean().astype(np.float32).ravel(), "crop": own.tobytes()}

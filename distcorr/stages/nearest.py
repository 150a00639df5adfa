"""The second task of ``visualize``: the nearest neighbours of cells in a piece of the data base.

There are as many tasks as pieces, and a task holds one file at a time. What they find is merged by
whoever needs it (``merged``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import search
from distcorr.algorithms.search import Approximate, Found, Part
from distcorr.config import VisualizeConfig
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.store import read_values, require_same
from distcorr.data.visualized import COUNTS
from distcorr.errors import DistcorrError
from distcorr.stages.copies import banned, left_out
from distcorr.stages.gallery import Gallery, Ids, Layer, Sizes, ids_of
from distcorr.stages.locality import Queries
from distcorr.types import BoolArray, FloatArray

_ASKED = 200  # queries of a task that an approximate search is measured by; not in the paper


@dataclass(frozen=True)
class Piece:
    """Files of the data base that one task searches: (name in the store, whether mirrored)."""

    files: tuple[tuple[str, bool], ...]


@dataclass
class Hits:
    """What a task has found so far, and what it has seen.

    Attributes:
        near: (m, k) for all queries.
        far: (s, k) for the random cells of Figure 2, among cells whose field may be averaged.
        exact: what ``near`` should be for some of the queries; None for exact search.
        cells: searched.
        zeros: cells without a direction.
        whole: of ``cells`` those for Figure 2.
        sizes: photograph -> height and width, px.
    """

    near: Found
    far: Found
    exact: Found | None
    cells: int
    zeros: int
    whole: int
    sizes: dict[int, tuple[int, int]]


def find(
    gallery: Gallery,
    store: Folder,
    layer: Layer,
    piece: Piece,
    queries: str,
    copies: Sequence[str],
    config: VisualizeConfig,
    seed: int,
    counts: bool,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Search a piece of the data base, and write what was found.

    Args:
        gallery: of the photographs.
        store: where the files of the piece are.
        layer: of the cells.
        piece: of the data base.
        queries: name of their part.
        copies: names of the parts that say which photographs are near copies.
        config: how many neighbours, and how they are found.
        seed: of the approximate search.
        counts: whether this task also counts what the piece holds: one of those that search it.
        stage: where parts go.
        shard: names the parts.
    """
    asked = Queries.read(stage, queries)
    out = left_out(gallery, stage, copies, np.unique(asked.number).tolist())
    own = banned(asked.number, out)
    hits = search_piece(gallery, store, layer, piece, asked, own, config, seed)
    tables = {"found": hits.near, "far": hits.far}
    tables |= {"exact": hits.exact} if hits.exact else {}
    written = {}
    for kind, found in tables.items():
        name = f"{kind}-{layer.name}/{shard.part}"
        written[name] = stage.folder.write_table(name, _to_table(found), 65536)
    if counts:
        for kind, table in (
            ("counts", _count(layer, piece, hits)),
            (f"sizes-{layer.name}", _sizes(hits)),
        ):
            name = f"{kind}/{shard.part}"
            written[name] = stage.folder.write_table(name, table, 65536)
    stage.mark_done(shard, written, len(asked.number))
    return {"rows": len(asked.number), "dead": 0}


def search_piece(
    gallery: Gallery,
    store: Folder,
    layer: Layer,
    piece: Piece,
    asked: Queries,
    own: npt.NDArray[np.int32],
    config: VisualizeConfig,
    seed: int,
) -> Hits:
    """The nearest neighbours of queries in a piece of the data base, one file after the other.

    None is of a photograph whose content stands in the query's row of ``own`` (m, e).
    """
    queries, random = asked.values.astype(np.float32), asked.place >= 0
    k, most = max(config.ks), max(config.averaged)
    hits = Hits(_nothing(len(own), k), _nothing(int(random.sum()), most), None, 0, 0, 0, {})
    some = _some(len(own)) if config.search == "ivf" else np.zeros(0, np.intp)
    if config.search == "ivf":
        hits.exact = _nothing(len(some), k)
    for part, whole in _parts(gallery, store, layer, piece, config.search == "ivf", hits):
        if config.search == "ivf":
            lists = max(1, round(len(part) ** 0.5))
            index = Approximate(part, lists, seed)
            near = index.search(queries, k, own, config.probes)
            hits.near = search.merge([hits.near, near], k)
            far = Approximate(whole, lists, seed).search(
                queries[random], most, own[random], config.probes
            )
            hits.far = search.merge([hits.far, far], most)
        else:
            hits.near = _further(hits.near, part, queries, own)
            hits.far = _further(hits.far, whole, queries[random], own[random])
        if hits.exact is not None:
            hits.exact = _further(hits.exact, part, queries[some], own[some])
    return hits


def _further(so_far: Found, part: Part, queries: FloatArray, own: npt.NDArray[np.int32]) -> Found:
    k = so_far.ids.shape[1]
    found = search.search(part, queries, k, own, floor=so_far.cosines[:, -1])
    return search.merge([so_far, found], k)


def _some(count: int) -> npt.NDArray[np.intp]:
    """Places of the queries that are asked exactly as well, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, _ASKED)).round().astype(np.intp))


def _parts(
    gallery: Gallery, store: Folder, layer: Layer, piece: Piece, together: bool, hits: Hits
) -> Iterator[tuple[Part, Part]]:
    """The cells of each file (or of all ``together``), and those for Figure 2; counts them."""
    pending: list[tuple[FloatArray, Ids, npt.NDArray[np.int32], BoolArray]] = []
    for name, mirrored in piece.files:
        found = _read(gallery, store, layer, name, mirrored, hits.sizes)
        if found is not None:
            pending.append(found)
        if pending and (not together or name == piece.files[-1][0]):
            values, ids, contents, whole = (np.concatenate(c) for c in zip(*pending, strict=True))
            part = Part(values, ids, contents)
            wide = Part(values[whole], ids[whole], contents[whole])
            hits.cells += len(part)
            hits.zeros += len(part.zeros)
            hits.whole += len(wide)
            pending.clear()
            yield part, wide


def _read(
    gallery: Gallery,
    store: Folder,
    layer: Layer,
    name: str,
    mirrored: bool,
    sizes: dict[int, tuple[int, int]],
) -> tuple[FloatArray, Ids, npt.NDArray[np.int32], BoolArray] | None:
    """Features, ids, contents and whether for Figure 2, of a file's cells in the data base.

    Ascending by id; None if there are none.
    """
    table = store.read_table(name)
    require_same(table, layer.tables[mirrored], name)
    numbers = np.array([gallery.number.get(i, -1) for i in table["image"].to_pylist()], np.int64)
    row, col, height, width = (
        table[key].to_numpy().astype(np.int64) for key in ("row", "col", "height", "width")
    )
    keep, whole = np.zeros(len(table), bool), np.zeros(len(table), bool)
    based = (numbers >= 0) & gallery.base[numbers]
    for size in sorted(set(zip(height[based].tolist(), width[based].tolist(), strict=True))):
        mine = np.flatnonzero(based & (height == size[0]) & (width == size[1]))
        cells = np.stack([row[mine], col[mine]], axis=1)
        keep[mine] = layer.patched(cells, size)
        whole[mine] = layer.whole(cells, size)
        sizes.update((number, size) for number in np.unique(numbers[mine]).tolist())
    if not keep.any():
        return None
    ids = ids_of(numbers[keep], np.full(keep.sum(), mirrored), row[keep], col[keep])
    order = np.argsort(ids)
    values = read_values(table)[0][keep][order].astype(np.float32)
    return values, ids[order], gallery.contents[numbers[keep][order]], whole[keep][order]


# -- what was found ------------------------------------------------------------------------------


def _to_table(found: Found) -> pa.Table:
    k = found.ids.shape[1]
    return pa.table(
        {
            "ids": pa.FixedSizeListArray.from_arrays(pa.array(found.ids.ravel()), k),
            "cosines": pa.FixedSizeListArray.from_arrays(pa.array(found.cosines.ravel()), k),
        }
    )


def merged(stage: StageFolder, names: Sequence[str], k: int) -> Found:
    """The k best of what the pieces hold, in any order of them."""
    found: Found | None = None
    for table in stage.folder.iter_tables(names):
        columns = (table[n].combine_chunks() for n in ("ids", "cosines"))
        ids, cosines = (c.flatten().to_numpy(zero_copy_only=False) for c in columns)
        width = table.schema.field("ids").type.list_size
        part = Found(ids.reshape(-1, width), cosines.reshape(-1, width))
        found = search.merge([part] if found is None else [found, part], k)
    if found is None:
        raise DistcorrError("No piece of the data base was searched.", "distcorr visualize")
    return found


def _nothing(m: int, k: int) -> Found:
    return Found(np.full((m, k), -1, np.int64), np.full((m, k), np.nan, np.float32))


def _count(layer: Layer, piece: Piece, hits: Hits) -> pa.Table:
    row = {"layer": layer.name, "cells": hits.cells, "zeros": hits.zeros, "whole": hits.whole}
    row |= {"stride": layer.stride, "rf": layer.geometry.rf, "field": layer.field}
    mirrored = any(of_mirror for _, of_mirror in piece.files)  # of the same photographs
    return pa.Table.from_pylist([row | {"photographs": 0 if mirrored else len(hits.sizes)}], COUNTS)


def _sizes(hits: Hits) -> pa.Table:
    numbers = sorted(hits.sizes)
    columns = zip(*(hits.sizes[n] for n in numbers), strict=True) if numbers else ([], [])
    height, width = (pa.array(list(c), pa.int64()) for c in columns)
    return pa.table({"number": pa.array(numbers, pa.int64()), "height": height, "width": width})


def sizes(stage: StageFolder, names: Sequence[str]) -> Sizes:
    """All photographs of a layer's data base."""
    tables = list(stage.folder.iter_tables(names))
    columns = (
        np.concatenate([np.zeros(0, np.int64), *(t[key].to_numpy() for t in tables)])
        for key in ("number", "height", "width")
    )
    number, height, width = columns
    first = np.unique(number, return_index=True)[1]  # mirror images are of the same photographs
    return Sizes(number[first], height[first], width[first])


def recall(stage: StageFolder, exact: Sequence[str], near: Found, k: int) -> tuple[int, float]:
    """Queries that were asked exactly as well, and the share of their k neighbours found."""
    true = merged(stage, exact, k)
    some = _some(len(near.ids))
    chosen = Found(near.ids[some, :k], near.cosines[some, :k])
    return len(true.ids), search.recall(chosen, true)

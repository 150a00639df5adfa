"""The second task of ``visualize``: near copies of the photographs in a piece of the data base.

A photograph rebuilt from the next frame of its video shows how alike the frames are, and not what a
feature sees; so near copies are left out as the photograph itself is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import copies
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.store import read_values, require_same
from distcorr.data.visualized import COPIES
from distcorr.stages.gallery import Gallery, Ids, Layer
from distcorr.stages.locality import Queries
from distcorr.types import FloatArray

Contents = npt.NDArray[np.int32]


def compare(
    gallery: Gallery,
    store: Folder,
    layer: Layer,
    files: Sequence[str],
    queries: str,
    least: float,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Write which photographs of a piece are near copies of the shard's.

    Args:
        gallery: of the photographs.
        store: where the files of the piece are.
        layer: that compares them.
        files: of the data base.
        queries: name of the part with the cells of the photographs.
        least: agreement of near copies.
        stage: where parts go.
        shard: names the parts.
    """
    found = near_copies(gallery, store, layer, files, Queries.read(stage, queries), least)
    rows = [
        {"image": gallery.images[a], "other": gallery.images[b], "agreement": share}
        for a, b, share in found
    ]
    name = f"copies/{shard.part}"
    written = stage.folder.write_table(name, pa.Table.from_pylist(rows, COPIES), 4096)
    stage.mark_done(shard, {name: written}, len(rows))
    return {"rows": len(rows), "dead": 0}


def near_copies(
    gallery: Gallery,
    store: Folder,
    layer: Layer,
    files: Sequence[str],
    queries: Queries,
    least: float,
) -> list[tuple[int, int, float]]:
    """(number, number of its near copy in the data base, agreement), all of them."""
    asked = {
        int(n): _places(layer, queries, queries.number == n) for n in np.unique(queries.number)
    }
    if not asked:
        return []
    everything = np.concatenate([values for _, _, values in asked.values()])
    ends = np.cumsum([len(values) for _, _, values in asked.values()])
    found = []
    for name in files:
        for other, size, cells, values in _photographs(gallery, store, layer, name):
            grid = layer.axes[size[0]].cells, layer.axes[size[1]].cells
            if grid[0] * grid[1] < copies.FEWEST:
                continue
            best, there = copies.most_alike(everything, values)
            for (number, (own, at, mine)), end in zip(asked.items(), ends, strict=True):
                if gallery.contents[number] == gallery.contents[other]:
                    continue
                part = slice(end - len(mine), end)
                some = there[part]
                moved = copies.scaled(at[some], own, grid)
                share = copies.agreement(moved, cells[best[part][some]])
                if share >= least:
                    found.append((number, other, share))
    return sorted(found)


def _places(
    layer: Layer, queries: Queries, mine: npt.NDArray[np.bool_]
) -> tuple[tuple[int, int], Ids, FloatArray]:
    """A photograph's grid, (n, 2) places of it and (n, C) their features."""
    height, width = int(queries.height[mine][0]), int(queries.width[mine][0])
    grid = layer.axes[height].cells, layer.axes[width].cells
    values = queries.values[mine].reshape(*grid, -1)
    at = copies.places(*grid)
    return grid, at, values[at[:, 0], at[:, 1]].astype(np.float32)


def _photographs(
    gallery: Gallery, store: Folder, layer: Layer, name: str
) -> Iterator[tuple[int, tuple[int, int], Ids, FloatArray]]:
    """Number, size, (n, 2) cells and (n, C) values of a file's photographs in the data base."""
    table = store.read_table(name)
    require_same(table, layer.tables[0], name)
    values, _ = read_values(table)
    images = np.asarray(table["image"].to_pylist(), object)
    row, col, height, width = (
        table[key].to_numpy().astype(np.int64) for key in ("row", "col", "height", "width")
    )
    for image in dict.fromkeys(images):
        number = gallery.number.get(image, -1)
        if number >= 0 and gallery.base[number]:
            mine = np.flatnonzero(images == image)
            cells = np.stack([row[mine], col[mine]], axis=1)
            size = int(height[mine[0]]), int(width[mine[0]])
            yield number, size, cells, values[mine].astype(np.float32)


def left_out(
    gallery: Gallery, stage: StageFolder, names: Sequence[str], numbers: Sequence[int]
) -> dict[int, Contents]:
    """Photograph -> contents that none of its neighbours may have: its own, its near copies'."""
    found = {number: {int(gallery.contents[number])} for number in numbers}
    for table in stage.folder.iter_tables(names):
        for row in table.to_pylist():
            number = gallery.number[row["image"]]
            if number in found:
                found[number].add(int(gallery.contents[gallery.number[row["other"]]]))
    return {number: np.array(sorted(each), np.int32) for number, each in found.items()}


def banned(numbers: Ids, out: dict[int, Contents]) -> npt.NDArray[np.int32]:
    """(m, e) contents that the neighbours of m queries may not be of, padded with -1."""
    most = max((len(each) for each in out.values()), default=1)
    table = np.full((len(numbers), most), -1, np.int32)
    for number, each in out.items():
        table[numbers == number, : len(each)] = each
    return table

"""Photographs rebuilt from their cells' neighbours, the last but one task of ``visualize``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import rebuild
from distcorr.algorithms.rebuild import Picture
from distcorr.config import VisualizeConfig
from distcorr.data.run import Shard, StageFolder
from distcorr.data.visualized import (
    ERRORS,
    NEIGHBOURS,
    ORIGINAL,
    PICTURES,
    RANDOM,
    RECALL,
    UNIFORM,
    Rebuilt,
)
from distcorr.stages.copies import left_out
from distcorr.stages.gallery import Gallery, Ids, Layer, View, cuts, view_of
from distcorr.stages.locality import Queries
from distcorr.stages.nearest import merged, recall, sizes

_FIGURE = 1  # of the paper: its random draws differ from Figure 2's


@dataclass(frozen=True)
class Parts:
    """Names of the parts that the last tasks read, of one layer and one group of photographs.

    Attributes:
        queries: the cells.
        found: their neighbours, piece by piece of the data base.
        far: likewise, of the random cells of Figure 2.
        exact: what an approximate search should have found.
        copies: near copies of the photographs.
        sizes: of the photographs of the data base.
    """

    queries: str
    found: tuple[str, ...]
    far: tuple[str, ...]
    exact: tuple[str, ...]
    copies: tuple[str, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Subject:
    """A photograph to be rebuilt.

    Attributes:
        view: as the layer sees it.
        near: (n, k) ids of the neighbours of all its cells, in rows; -1 where there are fewer.
        random: (n, k) of random cells in their place.
        categories: (n,) a bit for each category that a cell lies in a box of.
    """

    view: View
    near: Ids
    random: Ids
    categories: Ids


def seeded(seed: int, image: str) -> list[int]:
    """Seed of a photograph's baselines (protocol, section 6.5); the cell is added to it."""
    return [seed, _FIGURE, zlib.crc32(image.encode())]


def rebuild_photographs(
    gallery: Gallery,
    layer: Layer,
    parts: Parts,
    shown: Sequence[str],
    config: VisualizeConfig,
    seed: int,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Rebuild a group of photographs; write how far they are from their originals.

    Args:
        gallery: of the photographs.
        layer: whose cells they are rebuilt by.
        parts: what has been found.
        shown: photographs whose pictures are kept.
        config: how many neighbours.
        seed: of the baselines.
        stage: where parts go.
        shard: names the parts.
    """
    queries, k = Queries.read(stage, parts.queries, values=False), max(config.ks)
    near, base = merged(stage, parts.found, k), sizes(stage, parts.sizes)
    out = left_out(gallery, stage, parts.copies, np.unique(queries.number).tolist())
    subjects, originals = [], []
    for scene, picture in gallery.visit(queries.number.tolist()):
        mine = queries.number == scene.place
        view, cells = view_of(layer, scene, picture), queries.cells[mine]
        draw = seeded(seed, scene.image)
        random = base.random(gallery, layer, out[scene.place], (len(cells), k), False, draw)
        categories = view.categories(gallery, layer, cells, mirrored=False)
        subjects.append(Subject(view, near.ids[mine], random, categories))
        originals.append(_kept("", scene.image, ORIGINAL, 0, picture))
    drawn = {image: n for n, image in enumerate(shard.items)}
    subjects.sort(key=lambda subject: drawn[subject.view.scene.image])
    errors: list[Rebuilt] = []
    pictures = [kept for kept in originals if kept["image"] in shown]
    for row, made in rebuilt(gallery, layer, subjects, config.ks, seed):
        errors.append(row)
        if row.image in shown:
            pictures.append(_kept(layer.name, row.image, row.method, row.k, made))
    tables = {
        "errors": pa.Table.from_pylist([_without_nan(row._asdict()) for row in errors], ERRORS),
        "pictures": pa.Table.from_pylist(pictures, PICTURES),
    }
    if parts.exact:
        of_k = [(most, *recall(stage, parts.exact, near, most)) for most in config.ks]
        columns = ("layer", "k", "queries", "recall")
        rows = [dict(zip(columns, (layer.name, *each), strict=True)) for each in of_k]
        tables["recall"] = pa.Table.from_pylist(rows, RECALL)
    names = {kind: f"{kind}/{shard.part}" for kind in tables}
    written = {
        name: stage.folder.write_table(name, tables[kind], 1 if kind == "pictures" else 4096)
        for kind, name in names.items()
    }
    stage.mark_done(shard, written, len(errors))
    return {"rows": len(errors), "dead": 0}


def rebuilt(
    gallery: Gallery, layer: Layer, subjects: Sequence[Subject], ks: Sequence[int], seed: int
) -> Iterator[tuple[Rebuilt, Picture]]:
    """Every subject by every method and k: how good the picture is, and the picture.

    Photographs of the data base are read once for all subjects.
    """
    if not subjects:  # none of the photographs can be seen
        return
    ids = [np.stack([each.near, each.random]) for each in subjects]  # (2, n, k) of each
    patches, found = _patches(gallery, layer, np.concatenate([each.ravel() for each in ids]))
    ends = np.cumsum([each.size for each in ids])
    side = layer.stride
    for subject, mine, end in zip(subjects, ids, ends, strict=True):
        there = slice(end - mine.size, end)
        own = patches[there].reshape(*mine.shape, side, side, 3)
        bits = found[there].reshape(mine.shape)
        scene, picture = subject.view
        boxes = layer.boxes(layer.cells(picture.shape), picture.shape, side)
        draw = seeded(seed, scene.image)
        around = rebuild.uniform_rf(
            picture, boxes, side, max(layer.geometry.rf, side), max(ks), draw
        )
        everywhere = np.full(len(boxes), max(ks))
        methods = {
            NEIGHBOURS: (own[0], (mine[0] >= 0).sum(axis=1), bits[0]),
            UNIFORM: (around, everywhere, None),
            RANDOM: (own[1], (mine[1] >= 0).sum(axis=1), bits[1]),
        }
        mask = rebuild.covered(boxes, side, picture.shape)
        for method, (some, counts, categories) in methods.items():
            for k in ks:
                made = rebuild.rebuild(picture.shape, boxes, some[:, :k], counts.clip(max=k))
                alike, boxed = _alike(subject.categories, categories, counts, k)
                yield (
                    Rebuilt(
                        *(layer.name, scene.image, method, k),
                        *rebuild.error(made, picture, mask),
                        *(len(boxes), int((counts < k).sum()), alike, boxed),
                    ),
                    made,
                )


def _patches(gallery: Gallery, layer: Layer, ids: Ids) -> tuple[Picture, Ids]:
    """(n, s, s, 3) patches of cells, and (n,) the categories whose boxes they are in; 0 for -1."""
    patches = np.zeros((len(ids), layer.stride, layer.stride, 3), np.uint8)
    categories = np.zeros(len(ids), np.int64)
    for view, mirrored, where, cells in cuts(gallery, layer, ids):
        at = layer.boxes(cells, view.picture.shape, layer.stride)
        patches[where] = rebuild.cut(view.picture, at, layer.stride)
        categories[where] = view.categories(gallery, layer, cells, mirrored)
    return patches, categories


def _alike(own: Ids, theirs: Ids | None, counts: npt.NDArray[np.intp], k: int) -> tuple[int, int]:
    """Patches in a box of a category that the cell lies in a box of; patches of cells in a box."""
    if theirs is None:
        return 0, 0
    there = (own != 0)[:, None] & (np.arange(k) < counts[:, None])
    return int(((own[:, None] & theirs[:, :k]) != 0)[there].sum()), int(there.sum())


def _kept(layer: str, image: str, method: str, k: int, picture: Picture) -> dict[str, Any]:
    height, width = picture.shape[:2]
    row = {"layer": layer, "image": image, "method": method, "k": k, "height": height}
    return row | {"width": width, "pixels": picture.tobytes()}


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """NaN as null."""
    return {name: None if value != value else value for name, value in row.items()}

"""Photographs that patches are cut from, and the names of their cells (section 2)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import rebuild
from distcorr.algorithms.rebuild import Boxes, Cells, Picture
from distcorr.data.features import FeatureStore
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import describe
from distcorr.stages.features import Wanted
from distcorr.stages.pictures import Scene, ahead, seen, squeezed
from distcorr.types import BoolArray, Box, Geometry

Ids = npt.NDArray[np.int64]

_READERS = 2  # threads that wait for the storage and decode
_CELL, _AXIS = 1 << 32, 1 << 16


class Places(NamedTuple):
    """What the ids of n cells say.

    Attributes:
        number: (n,) of the photograph.
        mirrored: (n,) whether the cell is one of its mirror image.
        cells: (n, 2) (row, col), in the mirror image if it is one.
    """

    number: Ids
    mirrored: BoolArray
    cells: Cells


def ids_of(
    number: npt.ArrayLike,
    mirrored: npt.ArrayLike,
    row: npt.NDArray[np.integer],
    col: npt.NDArray[np.integer],
) -> Ids:
    """(n,) ids: ascending by photograph, then mirror images, row and column.

    They depend on the data set alone, and so does which of two equal neighbours is the first.
    """
    photograph = 2 * np.asarray(number, np.int64) + np.asarray(mirrored, np.int64)
    return photograph * _CELL + row.astype(np.int64) * _AXIS + col.astype(np.int64)


def places(ids: Ids) -> Places:
    """What ids of cells say; none may be negative."""
    photograph, cell = np.divmod(ids, _CELL)
    cells = np.stack(np.divmod(cell, _AXIS), axis=1)
    return Places(photograph // 2, photograph % 2 == 1, cells)


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer, and where its cells lie in pictures of every size.

    Attributes:
        name: for people.
        tables: folders of its cells in the store; the second one's are of mirror images.
        side: px of the square that it sees; 0: photographs as they are.
        axes: px of a picture's side -> where the cells lie along it; not there: too short for one.
        longest: px, the longest side that it sees.
    """

    name: str
    tables: tuple[str, ...]
    side: int
    axes: Mapping[int, Geometry]
    longest: int

    @classmethod
    def of(cls, wanted: Wanted, tables: tuple[str, ...], longest: int) -> Layer:
        """
        Raises:
            DistcorrError: the layer has no cells in pictures of ``longest`` px either.
        """
        axes = {}
        for size in [wanted.side] if wanted.side else range(1, longest):
            try:
                axes[size] = wanted.source.geometry(wanted.tap, size)
            except DistcorrError:
                continue  # too short: what is missing here has no cells
        largest = wanted.side or longest
        axes[largest] = wanted.source.geometry(wanted.tap, largest)
        return cls(wanted.feature.layer, tables, wanted.side, axes, largest)

    @property
    def geometry(self) -> Geometry:
        """Along the longest side."""
        return self.axes[self.longest]

    @property
    def stride(self) -> int:
        """px, side of a patch of Figure 1."""
        return self.geometry.stride

    @property
    def field(self) -> int:
        """px, side of what Figure 2 averages: the receptive field, or all that the layer sees."""
        return min(self.geometry.rf, self.longest)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a picture of ``shape`` (H, W, ...) has a cell, and room for its patch."""
        height, width = shape[:2]
        return min(height, width) >= self.stride and {height, width} <= self.axes.keys()

    def cells(self, shape: Sequence[int]) -> Cells:
        """(n, 2) (row, col) of all cells of a picture."""
        return rebuild.every_cell(self.axes[shape[0]], self.axes[shape[1]])

    def boxes(self, cells: Cells, shape: Sequence[int], side: int) -> Boxes:
        """(n, 2) first (row, col) px of squares around cells of a picture."""
        return rebuild.boxes_around(self.axes[shape[0]], self.axes[shape[1]], cells, side)

    def patched(self, cells: Cells, shape: Sequence[int]) -> BoolArray:
        """(n,) which cells have their patch inside the picture: those of the data base."""
        return rebuild.inside(self.boxes(cells, shape, self.stride), self.stride, shape)

    def whole(self, cells: Cells, shape: Sequence[int]) -> BoolArray:
        """(n,) which cells have their receptive field inside the picture, for Figure 2.

        All of them where no picture could hold a field: then what lies inside is averaged.
        """
        if self.geometry.rf > self.longest:
            return np.ones(len(cells), bool)
        return rebuild.inside(self.boxes(cells, shape, self.field), self.field, shape)


@dataclass(frozen=True, eq=False)
class Gallery:
    """All photographs of a run, numbered in the order of the data set.

    Attributes:
        root: folder of the photographs.
        images: number -> name.
        checksums: number -> the sha256 that build-db saw.
        base: (n,) whether patches may come from it.
        validation: numbers of those with validation instances.
        longest: px, photographs are reduced to it.
        boxes: number -> category and box of the objects in it.
    """

    root: Folder
    images: tuple[str, ...]
    checksums: tuple[str, ...]
    base: BoolArray
    validation: frozenset[int]
    longest: int
    boxes: Mapping[int, list[tuple[str, Box]]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: FeatureStore, root: Folder, base: str, longest: int) -> Gallery:
        """Of a run whose photographs are in ``root``; ``base`` as ``visualize.base``."""
        checksums = store.checksums
        images = tuple(dict.fromkeys(i.image for i in store.instances))
        number = {image: n for n, image in enumerate(images)}
        mine = np.zeros(len(images), bool)
        boxes: dict[int, list[tuple[str, Box]]] = {}
        validation = frozenset(number[i.image] for i in store.instances if i.split == "val")
        for instance in store.instances:
            here = number[instance.image]
            mine[here] |= base == "all" or instance.split == base
            boxes.setdefault(here, []).append((instance.category, instance.box))
        shas = tuple(checksums[i] for i in images)
        return cls(root, images, shas, mine, validation, longest, boxes)

    def joined_by(self, image: str, sha256: str) -> Gallery:
        """With one more photograph, which has the last number and gives no patches."""
        return replace(
            self,
            images=(*self.images, image),
            checksums=(*self.checksums, sha256),
            base=np.append(self.base, False),
        )

    @cached_property
    def number(self) -> dict[str, int]:
        """Name -> number; a picture that has joined takes no photograph's name."""
        return {image: n for n, image in reversed([*enumerate(self.images)])}

    @cached_property
    def contents(self) -> npt.NDArray[np.int32]:
        """(n,) number of the first photograph of the same bytes."""
        first: dict[str, int] = {}
        found = [first.setdefault(sha256, n) for n, sha256 in enumerate(self.checksums)]
        return np.array(found, np.int32)

    def see(self, number: int) -> tuple[Scene, Picture] | str:
        """A photograph, reduced if it is too long, or why there is none."""
        return seen(self.root, number, self.images[number], self.checksums[number], self.longest)

    def visit(self, numbers: Iterable[int]) -> Iterator[tuple[Scene, Picture]]:
        """Photographs in ascending order, each read once, some ahead of need.

        Raises:
            DistcorrError: one of them cannot be read any more, or has changed.
        """
        wanted = sorted(set(numbers))
        with ThreadPoolExecutor(_READERS) as pool:
            for number, view in zip(wanted, ahead(pool, self._see_again, wanted), strict=True):
                if isinstance(view, str):
                    raise DistcorrError(
                        f"The photograph {self.images[number]} is not there as build-db saw it: "
                        f"{view} (put it back, or run distcorr build-db again)"
                    )
                yield view

    def _see_again(self, number: int) -> tuple[Scene, Picture] | str:
        try:
            return self.see(number)
        except OSError as error:  # it has changed, or the storage does not answer
            return describe(error)

    @cached_property
    def _bits(self) -> dict[str, int]:
        names = sorted({name for found in self.boxes.values() for name, _ in found})
        return {name: 1 << place for place, name in enumerate(names)}

    def categories(self, number: int, xy: npt.NDArray[np.float64]) -> Ids:
        """(n,) a bit for each category that points (n, 2), px, lie in a box of."""
        found = np.zeros(len(xy), np.int64)
        for name, box in self.boxes.get(number, ()):
            within = (xy >= (box.x0 - 0.5, box.y0 - 0.5)) & (xy <= (box.x1 + 0.5, box.y1 + 0.5))
            found[within.all(axis=1)] |= self._bits[name]
        return found


class View(NamedTuple):
    """A photograph as a layer sees it."""

    scene: Scene
    picture: Picture

    def categories(self, gallery: Gallery, layer: Layer, cells: Cells, mirrored: bool) -> Ids:
        """(n,) which categories' boxes the centres of cells lie in."""
        height, width = self.picture.shape[:2]
        x = layer.axes[width].centres()[cells[:, 1]]
        y = layer.axes[height].centres()[cells[:, 0]]
        at = np.stack([width - 1 - x if mirrored else x, y], axis=1)
        return gallery.categories(self.scene.place, self.scene.from_picture(at, width, height))


def view_of(layer: Layer, scene: Scene, picture: Picture) -> View:
    """A photograph as a layer sees it: squeezed, if it takes one size only."""
    return View(scene, squeezed(picture, layer.side) if layer.side else picture)


def cuts(
    gallery: Gallery, layer: Layer, ids: Ids
) -> Iterator[tuple[View, bool, npt.NDArray[np.intp], Cells]]:
    """Cells by the picture that they are in, each photograph read once.

    Args:
        gallery: of the photographs.
        layer: of the cells.
        ids: (n,) in any order; -1 is no cell.

    Yields:
        (view, mirrored, indices, cells): of a mirror image the view is mirrored; ``indices`` (m,)
        into ``ids``, ``cells`` (m, 2).
    """
    there = np.flatnonzero(ids >= 0)
    found = places(ids[there])
    order = np.lexsort((found.mirrored, found.number))
    key = 2 * found.number[order] + found.mirrored[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    groups = {int(key[s]): order[s:e] for s, e in itertools.pairwise([*starts, len(key)])}
    for scene, picture in gallery.visit(found.number.tolist()):
        view = view_of(layer, scene, picture)
        for mirrored in (False, True):
            mine = groups.get(2 * scene.place + mirrored)
            if mine is not None:
                shown = view._replace(picture=view.picture[:, ::-1]) if mirrored else view
                yield shown, mirrored, there[mine], found.cells[mine]


class Sizes(NamedTuple):
    """Photographs of the data base and the sizes at which a layer sees them.

    Attributes:
        number: (n,) ascending.
        height: (n,) px.
        width: (n,) px.
    """

    number: Ids
    height: Ids
    width: Ids

    def random(
        self,
        gallery: Gallery,
        layer: Layer,
        out: npt.NDArray[np.int32],
        shape: tuple[int, int],
        whole: bool,
        seed: list[int],
    ) -> Ids:
        """(n, k) ids of cells of the data base, uniform and independent.

        Args:
            gallery: of the photographs.
            layer: of the cells.
            out: contents of photographs that none may be of.
            shape: (n, k).
            whole: only cells for Figure 2.
            seed: of the draw.

        Returns:
            (n, k), of all cells whose patch lies inside a photograph of the data base; -1 where
            there are none.
        """
        among = ~np.isin(gallery.contents[self.number], out)
        number, height, width = (each[among] for each in self)
        sizes = list(zip(height.tolist(), width.tolist(), strict=True))
        cells = {size: _allowed(layer, whole, size) for size in set(sizes)}
        counts = np.array([len(cells[size]) for size in sizes], np.int64)
        ends = len(layer.tables) * counts.cumsum()  # a mirror image has as many
        if not counts.any():
            return np.full(shape, -1, np.int64)
        drawn = rebuild.random_cells(int(ends[-1]), *shape, seed).ravel()
        at = np.searchsorted(ends, drawn, side="right")
        mirrored, place = np.divmod(ends[at] - 1 - drawn, counts[at])
        chosen = np.array([cells[sizes[i]][p] for i, p in zip(at, place, strict=True)])
        return ids_of(number[at], mirrored, chosen[:, 0], chosen[:, 1]).reshape(shape)


def _allowed(layer: Layer, whole: bool, shape: tuple[int, int]) -> Cells:
    cells = layer.cells(shape)
    keep = layer.patched(cells, shape)
    return cells[keep & layer.whole(cells, shape)] if whole else cells[keep]

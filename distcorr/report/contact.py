"""A contact sheet: some objects or pairs of every category, with boxes and keypoints over them."""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.data.images import read_image
from distcorr.data.pairs import PairSet
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.report.sheet import Picture, Sheet, height, stem, wrapped
from distcorr.types import Box, Dataset, FloatArray, Instance

CATEGORIES = 12  # rows at most; of more categories evenly spaced ones
EACH = 6  # objects of a category, as many of each split as there are; or half as many pairs

_SIDE, _GAP, _EDGE = 200, 12, 16  # px
_MARGIN = 0.2  # around the box that is shown, of its longer side
_DOT, _BORDER = 4, 2  # px
_SIZE = 7.0  # pt of the legend


class _Entry(NamedTuple):
    """A keypoint type in the legend: where it begins and on which line."""

    x: float
    line: int
    name: str


class _Row(NamedTuple):
    """What the sheet says of a category: titled pictures, and the names behind the colours."""

    title: str
    pictures: list[tuple[str, Picture]]
    names: Sequence[str]


def draw(dataset: Dataset, seed: int = 0, kind: str = "png") -> bytes:
    """Draw the sheet; equal bytes for the same data and seed.

    A row per category: the surroundings of a box, the box in white, visible keypoints in a colour
    per type with the legend below.

    Args:
        dataset: with at least one object.
        seed: of the choice of objects.
        kind: ``"png"`` or ``"svg"``.
    """
    folder, rows = Folder(dataset.root), []
    for category, members in _chosen(dataset, seed).items():
        count = [sum(i.split == s for i in _of(dataset, category)) for s in ("train", "val")]
        title = f"{category}: {count[0]:,} in training, {count[1]:,} in validation"
        pictures = [(f"{stem(i.image)} ({i.split})", _picture(folder, i)) for i in members]
        rows.append(_Row(title, pictures, dataset.keypoint_names[category]))
    return _drawn(rows, kind)


def draw_pairs(found: PairSet, seed: int = 0, kind: str = "png") -> bytes:
    """Draw some pairs of every category side by side, equal keypoints in equal colours.

    Args:
        found: with at least one pair.
        seed: of the choice of pairs.
        kind: ``"png"`` or ``"svg"``.
    """
    folder, rows = Folder(found.root), []
    for category in _sampled({pair.category for pair in found.pairs}):
        members = [pair for pair in found.pairs if pair.category == category]
        names = sorted({name for pair in members for name in pair.keypoints}, key=_natural)
        order = np.random.default_rng([seed, zlib.crc32(category.encode())])
        chosen = sorted(order.permutation(len(members))[: EACH // 2])
        pictures = []
        for pair in (members[k] for k in chosen):
            colours = _colours(len(names))[[names.index(name) for name in pair.keypoints]]
            a = _view(folder, pair.a, pair.box_a, pair.points_a, colours)
            b = _view(folder, pair.b, pair.box_b, pair.points_b, colours)
            pictures += [(f"{stem(pair.a)} (A)", a), (f"{stem(pair.b)} (B)", b)]
        rows.append(_Row(f"{category}: {len(members):,} pairs", pictures, names))
    return _drawn(rows, kind)


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (sys.maxsize, name)


def _drawn(rows: Sequence[_Row], kind: str) -> bytes:
    width = 2 * _EDGE + EACH * _SIDE + (EACH - 1) * _GAP
    legends = [_legend(row.names, width - 2 * _EDGE) for row in rows]
    title, line = 24, height("x", _SIZE) + 2
    caption = height("x", 6) + 2
    heights = [title + _SIDE + caption + line * (each[-1].line + 1) + 14 for each in legends]
    sheet, y = Sheet(width, 2 * _EDGE + sum(heights)), float(_EDGE)
    for row, legend, tall in zip(rows, legends, heights, strict=True):
        sheet.text(_EDGE, y, row.title, 9, ha="left", weight="bold")
        for column, (name, picture) in enumerate(row.pictures):
            x = _EDGE + column * (_SIDE + _GAP)
            sheet.picture(x, y + title, _SIDE, _SIDE, picture)
            words = wrapped(name, _SIDE, 6).split("\n")[0]
            sheet.text(x + _SIDE / 2, y + title + _SIDE + 2, words, 6)
        below = y + title + _SIDE + caption + 4
        for entry, colour in zip(legend, _colours(len(legend)), strict=True):
            left, at = _EDGE + entry.x, below + (entry.line + 0.7) * line
            sheet.text(left, at, "●", _SIZE, ha="left", va="baseline", color=colour / 255)
            sheet.text(left + 13, at, entry.name, _SIZE, ha="left", va="baseline")
        y += tall
    return sheet.drawn(kind)


def _sampled(categories: Iterable[str]) -> list[str]:
    """All categories, or of more than ``CATEGORIES`` evenly spaced ones."""
    known = sorted(categories)
    count = min(CATEGORIES, len(known))
    return [known[i * len(known) // count] for i in range(count)]


def _of(dataset: Dataset, category: str) -> list[Instance]:
    return [instance for instance in dataset.instances if instance.category == category]


def _chosen(dataset: Dataset, seed: int) -> dict[str, list[Instance]]:
    """A seeded sample of every category, from both splits in turn, each from the start."""
    chosen = {}
    for category in _sampled({instance.category for instance in dataset.instances}):
        rng = np.random.default_rng([seed, zlib.crc32(category.encode())])
        groups: list[list[Instance]] = []
        for split in ("train", "val"):
            members = [i for i in _of(dataset, category) if i.split == split]
            groups.append([members[k] for k in rng.permutation(len(members))[:EACH]])
        mixed = [i for pair in itertools.zip_longest(*groups) for i in pair if i is not None]
        chosen[category] = sorted(mixed[:EACH], key=lambda i: i.split)
    return chosen


def _legend(names: Sequence[str], width: float) -> list[_Entry]:
    """Entries from left to right; a line is as wide as the sheet."""
    entries: list[_Entry] = []
    x, line = 0.0, 0
    for name in names:
        needed = 24 + len(name) * _SIZE * 1.05
        if x and x + needed > width:
            x, line = 0.0, line + 1
        entries.append(_Entry(x, line, name))
        x += needed
    return entries


def _colours(count: int) -> npt.NDArray[np.uint8]:
    """(n, 3) one colour per keypoint type."""
    from matplotlib import colormaps

    rgba = colormaps["turbo"](np.linspace(0.05, 0.95, count))
    rgb: npt.NDArray[np.uint8] = np.rint(255 * rgba[:, :3]).astype(np.uint8)
    return rgb


def _picture(folder: Folder, instance: Instance) -> Picture:
    """An object with its visible keypoints."""
    shown, colours = instance.visible, _colours(len(instance.keypoints))
    return _view(folder, instance.image, instance.box, instance.keypoints[shown], colours[shown])


def _view(
    folder: Folder, image: str, box: Box | None, points: FloatArray, colours: npt.NDArray[np.uint8]
) -> Picture:
    """What surrounds the box as a square of ``_SIDE`` px, with box and keypoints over it.

    Without a box the whole photograph.
    """
    from PIL import Image, ImageDraw

    try:
        pixels = read_image(folder, image)
    except DistcorrError:
        blank = Image.new("RGB", (_SIDE, _SIDE), (225, 225, 225))
        ImageDraw.Draw(blank).text((8, _SIDE // 2), "photograph cannot be read", "black")
        return np.asarray(blank)
    around = box or Box(0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1)
    side = max(around.width, around.height) * (1 + 2 * _MARGIN * (box is not None))
    start = (
        np.array([around.x0 + around.x1, around.y0 + around.y1]) / 2 + 0.5 - side / 2
    )  # edges: 0 is -0.5
    scale = _SIDE / side
    view = Image.new("RGB", (_SIDE, _SIDE), "white")
    size = [max(1, round(each * scale)) for each in pixels.shape[1::-1]]
    corner = np.rint(-start * scale).astype(int)
    shown = Image.fromarray(pixels)
    if max(size) <= 4 * _SIDE:
        view.paste(shown.resize((size[0], size[1]), Image.Resampling.BICUBIC), tuple(corner))
    else:  # a small object of a large photograph: cut first
        area = (start[0], start[1], start[0] + side, start[1] + side)
        view = shown.transform(
            (_SIDE, _SIDE),
            Image.Transform.EXTENT,
            area,
            Image.Resampling.BICUBIC,
            fillcolor="white",
        )
    pen = ImageDraw.Draw(view)
    if box:
        edges = (np.array([[box.x0, box.y0], [box.x1 + 1, box.y1 + 1]]) - start) * scale
        halo = edges + np.array([[-1], [1]])
        pen.rectangle([*halo.ravel()], outline="black", width=_BORDER + 2)
        pen.rectangle([*edges.ravel()], outline="white", width=_BORDER)
    for centre, colour in zip((points + 0.5 - start) * scale, colours, strict=True):
        (x, y), fill = np.clip(centre, 0, _SIDE - 1), tuple(map(int, colour))
        pen.ellipse([x - _DOT, y - _DOT, x + _DOT, y + _DOT], fill=fill, outline="white")
    return np.asarray(view)

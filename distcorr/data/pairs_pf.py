"""PF-PASCAL and PF-WILLOW (Proposal Flow), by the lists of pairs that everybody uses for them.

A list is a CSV, ``<test|val|trn|train>_pairs*.csv``, beside the photographs, one folder above them
or in ``image_pairs/``, in one of three forms:

    source_image, target_image, class, XA, YA, XB, YB    numbers with ";" between them
    source_image, target_image, class, flip              points in the .mat files alone
    imageA, imageB, XA1..XA10, YA1.., XB1.., YB1..       PF-WILLOW: a column per number

``class`` is the number of one of PASCAL's classes, from 1, or a name; without it the category is
the folder of the photograph, such as ``car(S)``.

PF-PASCAL's own annotations are ``Annotations/<class>/<photograph>.mat`` with ``kps`` (NaN where a
keypoint is absent) and ``bbox`` (corners). Where they are there they give boxes, points and the
types of keypoints; the lists only know the points that both photographs have, numbered anew in
every pair, and no boxes. PF-WILLOW has no boxes at all: its papers' threshold is by the extent of
the points.

Coordinates are MATLAB's, 1-based: the code of those who made the lists reads them so (x - 1 in
WeakAlign and NCNet). So 1 is taken off points and boxes. Later code often takes them as they stand,
a pixel to the right and below in both photographs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from distcorr.data import assemble, prediction_columns, tabular
from distcorr.data.pairs_mat import Annotation, read_mat
from distcorr.data.pairs_read import (
    SPLITS,
    AnnotatedPair,
    Found,
    Listing,
    Points,
    from_matlab,
    header,
    no_split,
)
from distcorr.data.prediction_columns import Column
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError

PASCAL_LAYOUT = (
    "give the folder with test_pairs.csv (source_image, target_image, class, XA, YA, XB, YB), "
    "JPEGImages/ and Annotations/<class>/*.mat"
)
WILLOW_LAYOUT = (
    "give the folder with test_pairs.csv (imageA, imageB, XA1 to YB10) and car(S)/*.png etc."
)

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""PASCAL's classes in their order: the first is 1."""

_BASES = ("", "PF-dataset-PASCAL/", "PF-PASCAL/", "PF-dataset/", "PF-WILLOW/", "image_pairs/")
_PHOTOGRAPHS = (*_BASES, "JPEGImages/", "PF-dataset-PASCAL/JPEGImages/")
_NAMES = (("source_image", "target_image"), ("imageA", "imageB"))
_SIDES = ("XA", "YA", "XB", "YB")
_READ = 4096  # annotations that are kept: PF-PASCAL has 1345
_TOLERANCE = 0.5  # px that a list may differ from the annotations: some are rounded


class _Row(NamedTuple):
    a: str
    b: str
    category: str
    flipped: bool
    points: tuple[Points, Points] | None  # 0-based


def guess(root: str) -> str:
    """pf-pascal or pf-willow, if the root is or holds a list of theirs, else ""."""
    kinds = {kind for _, _, kind in _lists(root)}
    return kinds.pop() if len(kinds) == 1 else ""


def read_pascal(root: str, split: str, categories: Sequence[str], notes: Notes) -> Found:
    """PF-PASCAL's pairs of a split; as ``_read``."""
    return _read("pf-pascal", PASCAL_LAYOUT, root, split, categories, notes)


def read_willow(root: str, split: str, categories: Sequence[str], notes: Notes) -> Found:
    """PF-WILLOW's pairs of a split; as ``_read``. It has only a test split."""
    return _read("pf-willow", WILLOW_LAYOUT, root, split, categories, notes)


def _read(
    name: str, layout: str, root: str, split: str, categories: Sequence[str], notes: Notes
) -> Found:
    """All pairs of a list; malformed rows are left out and counted in ``notes``.

    Raises:
        DistcorrError: no list, several of the split, or columns that are missing (exit code 3); an
            unknown category (exit code 2).
    """
    folder, file = _list_of(root, name, layout, split)
    rows = _rows(folder, file, notes)
    known = sorted({row.category for row in rows.values()})
    chosen = set(assemble.choose(known, categories, f"{folder}/{file}"))
    wanted = {number: row for number, row in rows.items() if row.category in chosen}
    return Found(name, folder, _pairs(folder, wanted, notes), layout)


def _lists(root: str) -> list[tuple[Folder, str, str]]:
    """(folder, file, layout) of every list of pairs that the root is or holds."""
    if root.partition("?")[0].lower().endswith(tabular.ENDINGS):
        folder, name = assemble.file_and_folder(root)
        files = [name] if folder.size(name) is not None else []
    else:
        folder = Folder(root)
        files = [
            base + name
            for base in _BASES
            for name in sorted(folder.sizes(base.rstrip("/")))
            if name.lower().endswith(".csv") and _split_in(name) and "pairs" in name
        ]
    return [(folder, file, kind) for file in files if (kind := _kind(header(folder, file)))]


def _split_in(name: str) -> str:
    words = re.split(r"[-_.]", name.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _kind(columns: Sequence[str]) -> str:
    """Whose list has such columns."""
    if not any(set(pair) <= set(columns) for pair in _NAMES):
        return ""
    if {"class", "flip"} & set(columns):
        return "pf-pascal"
    return "pf-willow" if {"XA", "XA1"} & set(columns) else ""


def _list_of(root: str, name: str, layout: str, split: str) -> tuple[Folder, str]:
    """The list of a split; a file that is given itself is that of whatever split is asked for."""
    lists = [each for each in _lists(root) if each[2] == name]
    if not lists:
        raise DistcorrError(f"{Folder(root)} has no list of pairs of {name}.", layout, MISSING)
    if root.partition("?")[0].lower().endswith(tabular.ENDINGS):
        return lists[0][:2]
    found = [(folder, file) for folder, file, _ in lists if _split_in(file) == split]
    if not found:
        raise no_split(Folder(root), split, {_split_in(file) for _, file, _ in lists})
    if len(found) > 1:
        files = Notes.first([file for _, file in found])
        raise DistcorrError(
            f"{Folder(root)} has {len(found)} lists of the split {split!r}: {files}",
            "give the folder with only one of them",
            MISSING,
        )
    return found[0]


def _rows(folder: Folder, file: str, notes: Notes) -> dict[int, _Row]:
    """Number, from 1 after the header -> what the row says."""
    where = f"{folder}/{file}"
    table = prediction_columns.columns(folder.read(file), where)
    names = next((pair for pair in _NAMES if set(pair) <= set(table)), _NAMES[0])
    cells = {side: _cells(table, side) for side in _SIDES}
    missing = [name for name in names if name not in table]
    missing += [side for side in _SIDES if any(cells.values()) and not cells[side]]
    if missing:
        raise DistcorrError(
            f"{where} lacks the columns {', '.join(missing)}; it has {', '.join(table)}.",
            f"{PASCAL_LAYOUT}; {WILLOW_LAYOUT}",
            MISSING,
        )
    told = {name: _strings(table[name]) for name in (*names, "class", "flip") if name in table}
    rows = {}
    for k in range(len(told[names[0]])):
        mine = {name: values[k].strip() for name, values in told.items()}
        try:
            rows[k + 1] = _row(mine, names, [cells[s][k] for s in _SIDES if cells[s]], where)
        except (ValueError, LookupError):
            notes.add(f"Malformed rows of {file}, left out", f"row {k + 1}")
    return rows


def _cells(table: Mapping[str, Column], side: str) -> list[str]:
    """Numbers with ";" between them for every row, whichever form the list has; [] without any."""
    numbered = [name for name in table if re.fullmatch(rf"{side}\d{{1,3}}", name)]
    chosen = [side] if side in table else sorted(numbered, key=lambda name: int(name[2:]))
    return [";".join(row) for row in zip(*(_strings(table[name]) for name in chosen), strict=True)]


def _strings(column: Column) -> list[str]:
    values = column if isinstance(column, list) else column.to_pylist()
    return ["" if value is None else str(value) for value in values]


def _row(told: Mapping[str, str], names: tuple[str, str], cells: Sequence[str], where: str) -> _Row:
    a, b = (assemble.inside(told[name], where) for name in names)
    if "class" not in told:
        category = a.rpartition("/")[0].rpartition("/")[2]
    elif told["class"].removesuffix(".0").isdecimal():
        category = dict(enumerate(CLASSES, 1))[int(told["class"].removesuffix(".0"))]
    else:
        category = told["class"]
    flipped = {"0": False, "1": True}[told.get("flip", "0").removesuffix(".0")]
    return _Row(a, b, assemble.plain(category, "category", where), flipped, _points(cells))


def _points(cells: Sequence[str]) -> tuple[Points, Points] | None:
    """(n, 2) of A and of B 0-based, from the cells XA, YA, XB, YB."""
    if not cells:
        return None
    xa, ya, xb, yb = ([float(text or "nan") for text in cell.split(";")] for cell in cells)
    if not len(xa) == len(ya) == len(xb) == len(yb):
        raise ValueError("different numbers of coordinates")
    a, b = np.array([xa, ya]).T, np.array([xb, yb]).T
    if np.isinf(a).any() or np.isinf(b).any():
        raise ValueError("a coordinate is infinite")
    return from_matlab(a), from_matlab(b)


def _pairs(folder: Folder, rows: Mapping[int, _Row], notes: Notes) -> Iterator[AnnotatedPair]:
    listing = Listing(folder)

    @lru_cache(_READ)
    def annotation(image: str, category: str) -> Annotation | None:
        places = (f"{base}Annotations/{category}/{_stem(image)}.mat" for base in _BASES)
        path = next(filter(listing.has, places), None)
        if path is None:
            return None
        try:
            return read_mat(folder.read(path))
        except ValueError:
            notes.add("Malformed .mat files, not used", path)
            return None

    for number, row in rows.items():
        pair_id = f"{number:06d}-{_stem(row.a)}-{_stem(row.b)}:{row.category}"
        a, b = (annotation(name, row.category) for name in (row.a, row.b))
        if row.flipped:
            notes.add("Pairs with mirrored photographs, left out", pair_id)
            continue
        points = _checked(row, a, b, pair_id, notes)
        if points is None:
            notes.add("Pairs without points, left out", pair_id)
            continue
        yield AnnotatedPair(
            id=pair_id,
            category=row.category,
            a=_photograph(listing, row.a),
            b=_photograph(listing, row.b),
            points_a=points[0],
            points_b=points[1],
            keypoints=tuple(str(k + 1) for k in range(len(points[0]))),
            box_a=a.box if a else None,
            box_b=b.box if b else None,
        )


def _checked(
    row: _Row, a: Annotation | None, b: Annotation | None, pair_id: str, notes: Notes
) -> tuple[Points, Points] | None:
    """Points by type from the annotations or, without those of both photographs, the list's own."""
    if a is None or b is None or len(a.points) != len(b.points):
        if row.category in CLASSES and row.points is not None:
            what = "Pairs without boxes and keypoint types: no .mat files of both photographs"
            notes.add(what, pair_id)
        return row.points
    if row.points is not None:
        there = np.isfinite(a.points).all(axis=1) & np.isfinite(b.points).all(axis=1)
        listed = np.hstack(row.points)
        listed = listed[np.isfinite(listed).all(axis=1)]
        known = np.hstack([a.points, b.points])[there]
        if known.shape != listed.shape or (np.abs(known - listed) > _TOLERANCE).any():
            notes.add("Pairs whose points are not those of the .mat files, which are used", pair_id)
    return a.points, b.points


def _photograph(listing: Listing, name: str) -> str:
    """Where a photograph lies, of whose path the list may name other beginnings."""
    parts = name.split("/")
    tails = ("/".join(parts[k:]) for k in range(len(parts)))
    places = (place + tail for tail in tails for place in _PHOTOGRAPHS)
    return next(filter(listing.has, places), name)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]

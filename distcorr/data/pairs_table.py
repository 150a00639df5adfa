"""Pairs in one table, Parquet, CSV or JSON: a row per keypoint of a pair, for pairs of one's own.

Columns in any order, others are ignored; coordinates are 0-based px, whole numbers the centres of
pixels.

    pair                its name; the same in all of its rows
    image_a, image_b    paths of the photographs, relative to the table's folder or to images/ in it
    keypoint            name of the keypoint type, once in a pair
    xa, ya              where it is in A
    xb, yb              where it is in B; NaN or nothing in any of the four: absent, and dropped
    category            of both objects; without it all are of one category, "object"
    split               train, val or test; without it all pairs are of whatever split is asked for
    box_a_x0, box_a_y0, box_a_x1, box_a_y1    centres of the first and last pixel of A's object
    box_b_x0, box_b_y0, box_b_x1, box_b_y1    of B's; all four, or none
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from distcorr.data import assemble, prediction_columns, tabular
from distcorr.data.assemble import Photographs
from distcorr.data.pairs_read import SPLITS, AnnotatedPair, Found, Points, absent, header, no_split
from distcorr.data.prediction_columns import Column
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box

LAYOUT = (
    "a row per keypoint of a pair with pair, image_a, image_b, keypoint, xa, ya, xb, yb, and as "
    "far as there are any category, split, box_a_x0 to box_a_y1 and box_b_x0 to box_b_y1; "
    "photographs beside the table or in images/"
)

_NAMES = ("pair", "image_a", "image_b", "keypoint")
_MAY = ("category", "split")
_POINT = ("xa", "ya", "xb", "yb")
_BOXES = {s: tuple(f"box_{s}_{c}" for c in ("x0", "y0", "x1", "y1")) for s in "ab"}
_SAME = ("image_a", "image_b", "category", "split")  # in all rows of a pair
_SHOWN = 5  # rows that a problem names


@dataclass(frozen=True)
class _Rows:
    names: dict[str, list[str]]
    points: dict[str, Points]  # side -> (n, 2)
    boxes: dict[str, Points]  # side -> (n, 4); NaN where there is none


@dataclass
class _Problems:
    """What is wrong with the rows, said at once."""

    found: list[str] = field(default_factory=list)

    def add(self, what: str, rows: Sequence[int] | npt.NDArray[np.intp]) -> None:
        """``rows`` counted from 0; people count the first after the header as 1."""
        if len(rows):
            shown = ", ".join(str(row + 1) for row in rows[:_SHOWN])
            more = ", ..." if len(rows) > _SHOWN else ""
            self.found.append(f"{what} in {prediction_columns.many(len(rows))} ({shown}{more})")

    def refuse(self, where: str) -> None:
        if self.found:
            raise DistcorrError(
                f"{where} cannot be read: {'; '.join(self.found)}.",
                "rows are counted from 1 after the header; " + LAYOUT,
                MISSING,
            )


def read(root: str, split: str, categories: Sequence[str], notes: Notes) -> Found:
    """All pairs of a split. Its rows must make sense: every problem is named with its rows.

    Args:
        root: path or URI of the table, or of a folder with one .csv or .parquet in it.
        split: train, val or test.
        categories: which ones to read; empty means all.
        notes: of what was noticed; nothing is, here.

    Raises:
        DistcorrError: no table, no such split, or rows that make no sense (exit code 3); an
            unknown category (exit code 2).
    """
    folder, file = tabular.find_file(root)
    where = f"{folder}/{file}"
    rows = _read(folder.read(file), where)
    chosen = set(assemble.choose(sorted(set(rows.names["category"])), categories, where))
    members: dict[str, list[int]] = {}
    told = [SPLITS[name.lower()] for name in rows.names.get("split", [])]
    for row, pair in enumerate(rows.names["pair"]):
        if rows.names["category"][row] in chosen and (not told or told[row] == split):
            members.setdefault(pair, []).append(row)
    if told and split not in told:
        raise no_split(where, split, set(told))
    return Found(PurePosixPath(file).stem, folder, _pairs(folder, where, rows, members), LAYOUT)


def is_one(root: str) -> bool:
    """Whether the root is a table with two photographs in a row, or a folder with only that one."""
    folder, file = assemble.file_and_folder(root)
    if not root.partition("?")[0].lower().endswith(tabular.ENDINGS):
        folder = Folder(root)
        tables = [name for name in folder.sizes() if name.lower().endswith(tabular.ENDINGS)]
        file = tables[0] if len(tables) == 1 else ""
    there = bool(file) and folder.size(file) is not None
    return there and {"image_a", "image_b"} <= set(header(folder, file))


def _read(content: bytes, where: str) -> _Rows:
    table = prediction_columns.columns(content, where)
    _require_columns(table, where)
    count = len(table["pair"])
    if not count:
        raise DistcorrError(f"{where} has no rows.", LAYOUT, MISSING)
    problems = _Problems()
    there = [name for name in (*_NAMES, *_MAY) if name in table]
    names = {name: _texts(table[name], name, problems) for name in there}
    numbers = {
        name: _numbers(table[name], name, problems)
        for name in (*_POINT, *_BOXES["a"], *_BOXES["b"])
        if name in table
    }
    problems.refuse(where)  # before anything is made of them
    for each in ("pair", "keypoint"):
        for name in set(names[each]):
            assemble.plain(name, each, where)
    names.setdefault("category", [tabular.ALONE] * count)
    for name in set(names["category"]):
        assemble.plain(name, "category", where)
    none = np.full(count, np.nan)
    rows = _Rows(
        names,
        {s: np.stack([numbers[f"x{s}"], numbers[f"y{s}"]], axis=1) for s in "ab"},
        {s: np.stack([numbers.get(c, none) for c in _BOXES[s]], axis=1) for s in "ab"},
    )
    _check(rows, problems)
    problems.refuse(where)
    return rows


def _require_columns(table: Mapping[str, Column], where: str) -> None:
    wanted = [*_NAMES, *_POINT]
    for sides in _BOXES.values():
        wanted += sides if set(sides) & set(table) else ()
    if missing := [name for name in wanted if name not in table]:
        near = "".join(did_you_mean(name, set(table) - set(wanted)) for name in missing)
        raise DistcorrError(
            f"{where} lacks {len(missing)} of {len(wanted)} required columns: "
            f"{', '.join(missing)}; it has {', '.join(table) or 'none'}.{near}",
            LAYOUT,
            MISSING,
        )


def _texts(column: Column, name: str, problems: _Problems) -> list[str]:
    coded = prediction_columns.texts(column, name, problems.found)
    if coded is None:
        return []
    known, codes = coded
    return [known[code].strip() for code in codes]


def _numbers(column: Column, name: str, problems: _Problems) -> npt.NDArray[np.float64]:
    found = prediction_columns.numbers(column, name, problems.found)
    return np.empty(0) if found is None else found


def _check(rows: _Rows, problems: _Problems) -> None:
    """What a row says by itself, then rows of a pair against its first."""
    for side in "ab":
        unbounded = np.isinf(rows.points[side]).any(axis=1)
        problems.add(f"x{side} or y{side} is infinite", np.flatnonzero(unbounded))
        box = rows.boxes[side]
        told, empty = np.isfinite(box).all(axis=1), np.isnan(box).all(axis=1)
        problems.add(f"the box of {side.upper()} is not whole", np.flatnonzero(~told & ~empty))
        turned = told & ((box[:, 2] < box[:, 0]) | (box[:, 3] < box[:, 1]))
        problems.add(f"the box of {side.upper()} ends before it begins", np.flatnonzero(turned))
        point = told & (box[:, 2] == box[:, 0]) & (box[:, 3] == box[:, 1])
        problems.add(f"the box of {side.upper()} is a single pixel", np.flatnonzero(point))
    unknown = [i for i, s in enumerate(rows.names.get("split", ())) if s.lower() not in SPLITS]
    problems.add("split is neither train nor val nor test", unknown)
    first: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    wrong: dict[str, list[int]] = {}
    for row, pair in enumerate(rows.names["pair"]):
        begin = first.setdefault(pair, row)
        for name in _SAME:
            if name in rows.names and rows.names[name][row] != rows.names[name][begin]:
                wrong.setdefault(f"the {name} is not that of the pair's first row", []).append(row)
        for side, box in rows.boxes.items():
            if not np.array_equal(box[row], box[begin], equal_nan=True):
                what = f"the box of {side.upper()} is not that of the pair's first row"
                wrong.setdefault(what, []).append(row)
        if (key := (pair, rows.names["keypoint"][row])) in seen:
            wrong.setdefault("the pair has that keypoint already", []).append(row)
        seen.add(key)
    for what, where in wrong.items():
        problems.add(what, where)


def _pairs(
    folder: Folder, where: str, rows: _Rows, members: Mapping[str, list[int]]
) -> Iterator[AnnotatedPair]:
    photographs = Photographs(folder, ("", "images"))
    for pair, mine in members.items():
        first = mine[0]
        a, b = (
            photographs.find(assemble.inside(rows.names[f"image_{side}"][first], where))
            for side in "ab"
        )
        points = {side: xy[mine].copy() for side, xy in rows.points.items()}
        for xy in points.values():
            xy[absent(xy)] = np.nan
        boxes = {side: box[first] for side, box in rows.boxes.items()}
        box_a, box_b = (
            None if np.isnan(boxes[s]).any() else Box(*map(float, boxes[s])) for s in "ab"
        )
        yield AnnotatedPair(
            id=pair,
            category=rows.names["category"][first],
            a=a,
            b=b,
            points_a=points["a"],
            points_b=points["b"],
            keypoints=tuple(rows.names["keypoint"][row] for row in mine),
            box_a=box_a,
            box_b=box_b,
        )

"""Boxes and keypoints in one table, Parquet, CSV or JSON: a row per keypoint of an object.

Columns in any order, others are ignored; coordinates are 0-based px, whole numbers the centres of
pixels.

    image             path of the photograph, relative to the table's folder or to images/ in it
    x0, y0            of the object's box: centre of its first pixel
    x1, y1            centre of its last pixel; or instead
    w, h              its size in pixels: x1 = x0 + w - 1
    keypoint          name of the keypoint type
    x, y              where it is; both empty: not visible
    visible           1 or true, 0 or false; without it all that have x and y are visible
    instance          the object, where a photograph shows several; unique in its photograph
    category          of the object; without it all are of one category, "object"
    split             train or val; without it ``assemble.split_of``
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from distcorr.data import assemble, prediction_columns
from distcorr.data.assemble import SPLITS, Annotated, Photographs
from distcorr.data.prediction_columns import Column
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, Dataset

ENDINGS = (".csv", ".parquet", ".pq")
LAYOUT = (
    "a row per keypoint with image, x0, y0, x1, y1 (or w, h), keypoint, x, y, and as far as there "
    "are any instance, category, split and visible; photographs beside the table or in images/"
)
ALONE = "object"  # the category where none is named

_PLACES = ("", "images")
_NAMES = ("image", "keypoint", "instance", "category", "split")
_NUMBERS = ("x0", "y0", "x1", "y1", "w", "h", "x", "y")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_ROWS = 5  # that a problem names

Floats = npt.NDArray[np.float64]


class _Problems:
    """What is wrong with the rows, said at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, what: str, rows: Sequence[int] | npt.NDArray[np.intp]) -> None:
        """``rows`` counted from 0; people count the first after the header as 1."""
        if len(rows):
            shown = ", ".join(str(row + 1) for row in rows[:_ROWS])
            more = ", ..." if len(rows) > _ROWS else ""
            self.found.append(f"{what} in {len(rows):,} rows ({shown}{more})")


@dataclass(frozen=True)
class _Rows:
    names: dict[str, list[str]]
    numbers: dict[str, Floats]
    visible: list[bool]

    def __len__(self) -> int:
        return len(self.visible)


def load(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """All objects of a table.

    Its rows must make sense: every problem is named with the number of its rows and the first of
    them, counted from 1 after the header. What ``assemble.build`` names is left out instead.

    Args:
        root: path or URI of the table, or of a folder with one .csv or .parquet in it.
        categories: which ones to read; empty means all.
        limit: when above 0, at most so many objects per category and split, evenly spaced.

    Raises:
        DistcorrError: no table, or rows that make no sense (exit code 3); an unknown category
            (exit code 2).
    """
    assemble.require_limit(limit)
    folder, file = find_file(root)
    rows = _read(folder, file)
    notes = Notes()
    if "split" not in rows.names:
        images = sorted(set(rows.names["image"]))
        held = [image for image in images if assemble.split_of(image) == "val"]
        what = (
            f"No split is given: of {len(images)} photographs these are validated, by their names"
        )
        notes.add(what, *held)
    where = f"{folder}/{file}"
    types: dict[str, list[str]] = {}
    for category, keypoint in zip(rows.names["category"], rows.names["keypoint"], strict=True):
        listed = types.setdefault(assemble.plain(category, "category", where), [])
        if keypoint not in listed:
            listed.append(assemble.plain(keypoint, "keypoint", where))
    chosen = assemble.choose(sorted(types), categories, where)
    return assemble.build(
        PurePosixPath(file).stem,
        folder,
        _objects(folder, where, rows, set(chosen)),
        {name: sorted(types[name]) for name in chosen},
        notes,
        limit,
        LAYOUT,
    )


def find_file(root: str) -> tuple[Folder, str]:
    """(folder, name of the table in it).

    Raises:
        DistcorrError: there is none, or several (exit code 3).
    """
    folder, name = assemble.file_and_folder(root)
    if name and folder.size(name) is not None:
        return folder, name
    folder = Folder(root)
    names = sorted(n for n in folder.sizes() if n.lower().endswith(ENDINGS))
    if len(names) != 1:
        held = f"{len(names)} tables ({Notes.first(names)})" if names else "no table"
        raise DistcorrError(f"{folder} has {held}, and one is needed.", LAYOUT, MISSING)
    return folder, names[0]


def _read(folder: Folder, file: str) -> _Rows:
    """The rows, checked."""
    where = f"{folder}/{file}"
    table = prediction_columns.columns(folder.read(file), where)
    _require_columns(table, where)
    count = len(table["image"])
    if not count:
        raise DistcorrError(f"{where} has no rows.", LAYOUT, MISSING)
    problems = _Problems()
    names = {name: _texts(table[name], name, problems) for name in _NAMES if name in table}
    numbers = {name: _numbers(table[name], name, problems) for name in _NUMBERS if name in table}
    _refuse(where, problems)  # before anything is made of them
    names.setdefault("instance", names["image"])
    names.setdefault("category", [ALONE] * count)
    for side, length in (("x", "w"), ("y", "h")):
        numbers.setdefault(f"{side}1", numbers[f"{side}0"] + numbers.get(length, np.ones(1)) - 1)
    shown = _shown(table.get("visible"), numbers["x"], numbers["y"], problems)
    _check_rows(names, numbers, problems)
    _refuse(where, problems)
    return _Rows(names, numbers, shown)


def _require_columns(table: Mapping[str, Column], where: str) -> None:
    wanted = ["image", "keypoint", "x", "y", "x0", "y0"]
    wanted += ["w", "h"] if {"w", "h"} & set(table) and "x1" not in table else ["x1", "y1"]
    if missing := [name for name in wanted if name not in table]:
        near = "".join(did_you_mean(name, set(table) - set(wanted)) for name in missing)
        raise DistcorrError(
            f"{where} lacks {len(missing)} of {len(wanted)} required columns: "
            f"{', '.join(missing)}; it has {', '.join(table) or 'none'}.{near}",
            LAYOUT,
            MISSING,
        )


def _texts(column: Column, name: str, problems: _Problems) -> list[str]:
    coded = prediction_columns.texts(column, name, [])
    if coded is not None:
        known, codes = coded
        return [known[code].strip() for code in codes]
    values = column if isinstance(column, list) else column.to_pylist()
    bad = [i for i, v in enumerate(values) if prediction_columns.texts([v], name, []) is None]
    problems.add(f"{name} is empty, or no name,", bad)
    return []


def _numbers(column: Column, name: str, problems: _Problems) -> Floats:
    found = prediction_columns.numbers(column, name, [])
    if found is not None:
        return found
    values = column if isinstance(column, list) else column.to_pylist()
    bad = [i for i, v in enumerate(values) if prediction_columns.numbers([v], name, []) is None]
    problems.add(f"{name} is no number", bad)
    return np.empty(0)


def _shown(column: Column | None, x: Floats, y: Floats, problems: _Problems) -> list[bool]:
    there = np.isfinite(x) & np.isfinite(y)
    empty = np.isnan(x) & np.isnan(y)
    problems.add("only one of x and y is a finite number", np.flatnonzero(~there & ~empty))
    if column is None:
        return list(map(bool, there))
    values = column if isinstance(column, list) else column.to_pylist()
    flags = [_FLAGS.get(str(v).strip().lower().removesuffix(".0")) for v in values]
    problems.add(
        "visible is neither 1 nor 0, true nor false", [i for i, f in enumerate(flags) if f is None]
    )
    problems.add(
        "visible is 1 where x and y are empty",
        [i for i, none in enumerate(empty) if none and flags[i]],
    )
    return [bool(flag) for flag in flags]


def _check_rows(
    names: Mapping[str, list[str]], numbers: Mapping[str, Floats], problems: _Problems
) -> None:
    """Rows against each other: what an object has more than one of."""
    box = np.stack([numbers[key] for key in ("x0", "y0", "x1", "y1")], axis=1)
    finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(box).all(axis=1))
    problems.add("the box is empty or not finite", np.flatnonzero(~finite))
    turned = finite & ((box[:, 2] < box[:, 0]) | (box[:, 3] < box[:, 1]))
    problems.add("the box ends before it begins", np.flatnonzero(turned))
    unknown = [i for i, s in enumerate(names.get("split", ())) if s.lower() not in SPLITS]
    problems.add("split is neither train nor val", unknown)
    first: dict[tuple[str, str], int] = {}
    keypoints: set[tuple[str, str, str]] = set()
    splits: dict[str, str] = {}
    wrong: dict[str, list[int]] = {name: [] for name in ("box", "category", "keypoint", "split")}
    for row, key in enumerate(zip(names["image"], names["instance"], strict=True)):
        begin = first.setdefault(key, row)
        if finite[row] and not np.array_equal(box[row], box[begin]):
            wrong["box"].append(row)
        if names["category"][row] != names["category"][begin]:
            wrong["category"].append(row)
        if (point := (*key, names["keypoint"][row])) in keypoints:
            wrong["keypoint"].append(row)
        keypoints.add(point)
        if (
            "split" in names
            and splits.setdefault(key[0], names["split"][row]) != names["split"][row]
        ):
            wrong["split"].append(row)
    problems.add("the box is not that of the same object's first row", wrong["box"])
    problems.add("the category is not that of the same object's first row", wrong["category"])
    problems.add("the object has that keypoint already", wrong["keypoint"])
    problems.add("the split is not that of the same photograph's first row", wrong["split"])


def _refuse(where: str, problems: _Problems) -> None:
    if problems.found:
        raise DistcorrError(
            f"{where} cannot be read: {'; '.join(problems.found)}.",
            "rows are counted from 1 after the header; " + LAYOUT,
            MISSING,
        )


def _objects(folder: Folder, where: str, rows: _Rows, chosen: set[str]) -> Iterator[Annotated]:
    photographs = Photographs(folder, _PLACES)
    members: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(rows.names["image"], rows.names["instance"], strict=True)):
        members.setdefault(key, []).append(row)
    for (image, instance), mine in members.items():
        first = mine[0]
        category = rows.names["category"][first]
        if category not in chosen:
            continue
        name = assemble.inside(image, where)
        told = rows.names.get("split")
        split = SPLITS[told[first].lower()] if told else assemble.split_of(image)
        stem = PurePosixPath(name).with_suffix("")
        x, y = (rows.numbers[key] for key in "xy")
        yield Annotated(
            id=f"{stem}#{0 if instance == image else instance}",
            image=photographs.find(name, split),
            category=category,
            split=split,
            box=Box(*(float(rows.numbers[key][first]) for key in ("x0", "y0", "x1", "y1"))),
            points={
                rows.names["keypoint"][i]: (float(x[i]), float(y[i])) if rows.visible[i] else None
                for i in mine
            },
            size=None,
        )

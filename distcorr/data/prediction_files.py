"""Predicted keypoints of any origin, read from Parquet, CSV or JSON and checked.

One row per annotated keypoint and method; columns in any order, others are ignored.

    image, keypoint           photograph and keypoint type that the row is about
    x, y                      predicted, px in the photograph; empty: nothing, which counts as wrong
    true_x, true_y            annotated, likewise; a row without them is no keypoint: left out
    method                    who predicts; all is one method without it
    category                  of the object; all is one category without it
    instance                  the object, or the pair of photographs; the image without it
    scale                     max(h, w) of the object's box, px
    box_x0 .. box_y1          box_x0, box_y0, box_x1, box_y1: the object's box, px
    image_width, image_height of the photograph, px
    score                     of the prediction; not used

JSON is a list of such rows as objects, or one object per line. What is wrong is named with counts;
what is merely left out or assumed is in the ``notes``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distcorr.algorithms.dialect_scores import Points
from distcorr.data.prediction_checks import BOX as BOX
from distcorr.data.prediction_checks import LENGTHS as LENGTHS
from distcorr.data.prediction_checks import SIZE as SIZE
from distcorr.data.prediction_checks import (
    Bools,
    Floats,
    annotated,
    duplicates,
    lengths,
    objects,
    truths,
    unequal,
)
from distcorr.data.prediction_columns import Coded, columns, kind, many, numbers, texts
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError, did_you_mean

NAMES = ("method", "category", "image", "instance", "keypoint")
PLACES = ("x", "y", "true_x", "true_y")
REQUIRED = ("image", "keypoint", *PLACES)
OPTIONAL = ("method", "category", "instance", *LENGTHS, "score")
ALONE = {"method": "predictions", "category": "all"}  # where there is no such column
WITHOUT = {
    "method": "all rows are of one method",
    "category": "all are one category, so none is averaged over",
    "instance": "an image counts as one",
}
LACK = {"scale": "scale or box_x0 to box_y1", "box": ", ".join(BOX), "size": ", ".join(SIZE)}
SCHEMA = f"columns {', '.join(REQUIRED)}, and as needed {', '.join(OPTIONAL)}"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Checked predictions, column by column.

    Attributes:
        file: where they come from.
        names: column -> (its distinct values, sorted; (n,) the number of each row's value).
        values: column -> (n,); of ``LENGTHS`` only those that every row has.
        methods: in the order of the file.
        partly: column -> how many rows lack it, where others have it.
        notes: one sentence each: what was left out or assumed, with counts.
    """

    file: str
    names: Mapping[str, Coded]
    values: Mapping[str, Floats]
    methods: tuple[str, ...]
    partly: Mapping[str, int]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.values["x"])

    def of(self, methods: Sequence[str] = ()) -> dict[str, Points]:
        """Method -> its points; all methods unless some are asked for.

        Raises:
            DistcorrError: there is no such method.
        """
        (known, code), points = self.names["method"], self._points()
        return {m: points.take(code == known.index(m)) for m in self._wanted(methods)}

    def shared(self, methods: Sequence[str] = ()) -> Predictions:
        """Only some methods, and of several the keypoints that all have: else they do not compare.

        Who leaves rows out would be scored without the ones that are hard. A note says so.

        Raises:
            DistcorrError: there is no such method, or they have no keypoint in common.
        """
        wanted, (known, code) = self._wanted(methods), self.names["method"]
        mine = np.isin(code, [known.index(method) for method in wanted])
        types = len(self.names["keypoint"][0])
        key = self.names["instance"][1] * types + self.names["keypoint"][1]
        _, of = np.unique(key, return_inverse=True)
        kept: Bools = mine & (np.bincount(of[mine], minlength=len(of))[of] == len(wanted))
        if kept.all():
            return self
        if not kept.any():
            raise DistcorrError(
                f"{', '.join(wanted)} have no keypoint in common in {self.file}.",
                f"--method {wanted[0]}   scores one by all that it has",
            )
        names = {name: _only(found, kept) for name, found in self.names.items()}
        values = {name: column[kept] for name, column in self.values.items()}
        found = replace(self, names=names, values=values, methods=tuple(wanted))
        if kept.sum() == mine.sum():
            return found
        gone = [c for c in self.names["category"][0] if c not in names["category"][0]]
        without = f", without {', '.join(gone)}" if gone else ""
        return found.having(
            {},
            f"Scored: the {many(int(kept.sum()) // len(wanted), 'keypoint')} that all "
            f"{len(wanted)} methods have{without}; --method scores one by all that it has.",
        )

    def _wanted(self, methods: Sequence[str]) -> list[str]:
        known = self.names["method"][0]
        for method in methods:
            if method not in known:
                raise DistcorrError(
                    f"{self.file} has no method {method!r}.{did_you_mean(method, known)}",
                    f"it has {', '.join(self.methods)}",
                )
        return [m for m in self.methods if not methods or m in methods]

    def lacks(self, needs: frozenset[str]) -> str:
        """Of what is needed ("scale", "box", "size"), which columns are not there; "" if none."""
        lacking = sorted(needs - self._points().knows)
        rows = {n: self.partly[n] for n in LENGTHS if n in self.partly}
        words = []
        for need in lacking:
            columns = {"scale": ("scale", *BOX), "box": BOX, "size": SIZE}[need]
            empty = [f"{name} is empty in {many(rows[name])}" for name in columns if name in rows]
            words.append(LACK[need] + (f" ({'; '.join(empty)})" if empty else ""))
        return ", ".join(words)

    def having(self, values: Mapping[str, Floats], *notes: str) -> Predictions:
        """With further columns of ``LENGTHS``, and notes."""
        partly = {name: n for name, n in self.partly.items() if name not in values}
        return replace(
            self, values={**self.values, **values}, partly=partly, notes=(*self.notes, *notes)
        )

    def _points(self) -> Points:
        def stacked(columns: Sequence[str]) -> Floats | None:
            found = [self.values[name] for name in columns if name in self.values]
            return np.stack(found, axis=1) if len(found) == len(columns) else None

        true, predicted = stacked(("true_x", "true_y")), stacked(("x", "y"))
        assert true is not None
        assert predicted is not None
        category, image, instance, keypoint = (self.names[name][1] for name in NAMES[1:])
        lengths = self.values.get("scale"), stacked(BOX), stacked(SIZE)
        return Points(true, predicted, category, image, instance, keypoint, *lengths)


def read(path: str) -> Predictions:
    """The predictions of a file, whatever its name ends in.

    Raises:
        DistcorrError: there is no such file, it is no Parquet, CSV or JSON, or what it says cannot
            be scored; exit code 3, each problem with its count.
    """
    return from_bytes(_content(path), path)


def from_bytes(content: bytes, path: str) -> Predictions:
    """The same of what such a file holds; ``path`` names it.

    Raises:
        DistcorrError: as ``read``.
    """
    table = columns(content, path)
    if missing := [name for name in REQUIRED if name not in table]:
        others = sorted(set(table) - {*REQUIRED, *OPTIONAL})
        near = "".join(dict.fromkeys(did_you_mean(name, others) for name in missing))
        raise _wrong(
            f"{path} lacks {len(missing)} of {len(REQUIRED)} required columns: "
            f"{', '.join(missing)}; it has {', '.join(table) or 'none'} (read as {kind(content)})."
            f"{near}"
        )
    rows = len(table["image"])
    if not rows:
        raise _wrong(f"{path} has no rows.")
    problems: list[str] = []
    names = {name: texts(table[name], name, problems) for name in NAMES if name in table}
    values = {n: numbers(table[n], n, problems) for n in (*PLACES, *LENGTHS) if n in table}
    _refuse(path, problems)
    notes = [
        f"There is no column {name}: {said}." for name, said in WITHOUT.items() if name not in names
    ]
    coded = {name: found for name, found in names.items() if found is not None}
    for name in ("method", "category"):
        coded.setdefault(name, ([ALONE[name]], np.zeros(rows, np.intp)))
    coded.setdefault("instance", coded["image"])
    return _checked(path, coded, {n: v for n, v in values.items() if v is not None}, notes)


def _checked(
    path: str, names: dict[str, Coded], values: dict[str, Floats], notes: list[str]
) -> Predictions:
    """What can be scored of the rows, and what is wrong or was left out."""
    kept = annotated(values, names, notes)
    if not kept.any():
        raise _wrong(f"{path} has no row with an annotation. {' '.join(notes)}")
    names = {name: _only(found, kept) for name, found in names.items()}
    values = {name: column[kept] for name, column in values.items()}
    problems = duplicates(names) + lengths(values, notes) + truths(names, values)
    problems = problems or objects(names, values)
    _refuse(path, problems)
    if none := int((~np.isfinite(values["x"] + values["y"])).sum()):
        notes.append(f"Nothing, or nothing finite, is predicted in {many(none)}: wrong.")
    notes += unequal(names)
    empty = {name: int(np.isnan(values[name]).sum()) for name in LENGTHS if name in values}
    partly = {name: n for name, n in empty.items() if n}
    known, first = np.unique(names["method"][1], return_index=True)
    methods = tuple(names["method"][0][m] for m in known[np.argsort(first)])
    values = {name: column for name, column in values.items() if name not in partly}
    return Predictions(path, names, values, methods, partly, tuple(notes))


def _only(coded: Coded, rows: Bools) -> Coded:
    """Some rows, and the names that they have."""
    codes, numbered = np.unique(coded[1][rows], return_inverse=True)
    return [coded[0][code] for code in codes], numbered.astype(np.intp)


def _content(path: str) -> bytes:
    if not path:
        raise DistcorrError("The name of the file of predictions is empty.", SCHEMA, MISSING)
    folder, name = os.path.split(path)
    try:
        return Folder(folder or ".").read(name)
    except OSError as error:
        raise DistcorrError(
            f"There is no file of predictions {path}, and no run.",
            "a Parquet, CSV or JSON file, or the folder of a run",
            MISSING,
        ) from error


def _refuse(path: str, problems: list[str]) -> None:
    if problems:
        raise _wrong(f"{path} cannot be scored: {'; '.join(problems)}.")


def _wrong(message: str) -> DistcorrError:
    return DistcorrError(message, SCHEMA, MISSING)

"""What the readers of pairs have in common: a pair as annotated, splits, where photographs lie."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from distcorr.data import prediction_columns
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box

SPLITS = {
    **{"train": "train", "trn": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test"},
}
"""What a split is called by those who publish pairs -> what it is called here."""

Points = npt.NDArray[np.float64]


class AnnotatedPair(NamedTuple):
    """One pair as annotated, in 0-based px.

    ``points_a`` and ``points_b`` are (n, 2) xy with NaN where a keypoint is absent; the sizes are
    (width, height) px of the photographs, as far as they are told.
    """

    id: str
    category: str
    a: str
    b: str
    points_a: Points
    points_b: Points
    keypoints: tuple[str, ...]
    box_a: Box | None
    box_b: Box | None
    size_a: tuple[int, int] | None = None
    size_b: tuple[int, int] | None = None


class Found(NamedTuple):
    """What a reader found: the set's name, the folder of all names, the pairs, how it looks."""

    name: str
    folder: Folder
    pairs: Iterable[AnnotatedPair]
    layout: str


class Listing:
    """Which files a folder holds; every folder inside it is looked into once."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._sizes: dict[str, dict[str, int]] = {}

    def has(self, path: str) -> bool:
        """Whether the file is there."""
        parent, _, file = path.rpartition("/")
        if parent not in self._sizes:
            self._sizes[parent] = self._folder.sizes(parent)
        return file in self._sizes[parent]


def canonical_split(split: str) -> str:
    """train, val or test, whatever a user calls it.

    Raises:
        DistcorrError: it is none of them (exit code 2).
    """
    if split.lower() not in SPLITS:
        raise DistcorrError(
            f"The split must be train, val or test, but is {split!r}.{did_you_mean(split, SPLITS)}"
        )
    return SPLITS[split.lower()]


def no_split(where: object, split: str, known: Iterable[str]) -> DistcorrError:
    """The error that a set has no such split (exit code 3)."""
    there = ", ".join(sorted(known)) or "none"
    return DistcorrError(
        f"{where} has no pairs of the split {split!r}.", f"its splits: {there}", MISSING
    )


def absent(points: Points) -> npt.NDArray[np.bool_]:
    """(n, 2) points as published -> (n,) which are not there: NaN in either, or -1 in both."""
    gone: npt.NDArray[np.bool_] = np.isnan(points).any(axis=1) | (points == -1).all(axis=1)
    return gone


def from_matlab(points: Points) -> Points:
    """(n, 2) points counted from 1 -> from 0, with NaN where they are absent."""
    return np.where(absent(points)[:, None], np.nan, points - 1)


def header(folder: Folder, file: str) -> list[str]:
    """The names of a table's columns, Parquet or CSV; [] if it is neither."""
    content = folder.read(file)
    if prediction_columns.kind(content) == "Parquet":
        try:
            return list(pq.read_schema(pa.BufferReader(content)).names)
        except (pa.ArrowException, OSError):
            return []
    first = content.lstrip(b"\xef\xbb\xbf\r\n").split(b"\n", 1)[0]
    try:
        return next(csv.reader([first.decode("utf-8", "replace").strip()]), [])
    except csv.Error:
        return []


def box_of(sides: Sequence[float], shift: float = 0.0) -> Box:
    """The box of x0, y0, x1, y1, moved by ``shift`` px.

    Raises:
        ValueError: it ends before it begins, or is a point.
    """
    box = Box(*(side + shift for side in sides))
    if not (box.x1 >= box.x0 and box.y1 >= box.y0 and box.max_side > 0):
        raise ValueError(f"{tuple(box)} is no box")
    return box

"""PCK by any of its published definitions (`dialects`), with bootstrap samples by photograph.

Every definition comes down to integer counts per photograph and column, as those of `pck`: a column
is a keypoint type, all points, or all instances, whose shares are kept to 2**-32 so that their sums
are exact in any order. Photographs are drawn within each category, and the same ones for every
method and definition, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.algorithms.dialects import Dialect

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.integer[Any]]
_UNIT = 1 << 32  # of a share: sums over two million instances are exact in float64
_DRAWN = 100  # replicates at once: their weights fit into memory


@dataclass(frozen=True, eq=False)
class Points:
    """The predictions of one method, one per row; what has a name is numbered from 0.

    Attributes:
        true: (n, 2) xy px in the photograph, finite.
        predicted: (n, 2) likewise; not finite: nothing was predicted.
        category, image, instance, keypoint: (n,) numbers; an instance is an object, or a pair of
            photographs, and lies in one image.
        scale: (n,) max(h, w) of the box, px; None: not known, or the box says it.
        box: (n, 4) x0, y0, x1, y1, px; None: not known.
        size: (n, 2) width and height of the photograph, px; None: not known.

    Raises:
        ValueError: shapes disagree, a truth is not finite (a keypoint that is not there must not be
            padded), or a length is not above 0.
    """

    true: Floats
    predicted: Floats
    category: Numbers
    image: Numbers
    instance: Numbers
    keypoint: Numbers
    scale: Floats | None = None
    box: Floats | None = None
    size: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.true)
        wanted = {"true": (n, 2), "predicted": (n, 2), "box": (n, 4), "size": (n, 2)}
        for name, array in vars(self).items():
            shape = wanted.get(name, (n,))
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} must be {shape}, got {array.shape}")
        if bad := int((~np.isfinite(self.true).all(axis=1)).sum()):
            raise ValueError(f"true must be finite, got {bad} of {n} rows that are not")
        for name, lengths in (("scale", self.scale), ("box", self.sides), ("size", self.size)):
            if lengths is not None and not (np.isfinite(lengths) & (lengths > 0)).all():
                raise ValueError(f"{name} must have finite lengths above 0 px")

    @property
    def sides(self) -> Floats | None:
        """(n, 2) width and height of the box, px, without + 1."""
        return None if self.box is None else self.box[:, 2:] - self.box[:, :2]

    @property
    def knows(self) -> frozenset[str]:
        """Of "scale", "box" and "size", which there are."""
        found = {name for name in ("scale", "box", "size") if getattr(self, name) is not None}
        return frozenset(found | ({"scale"} if "box" in found else set()))

    def take(self, rows: npt.NDArray[Any]) -> Points:
        """The rows of an index or mask."""
        found = {name: array for name, array in vars(self).items() if array is not None}
        return Points(**{name: array[rows] for name, array in found.items()})


def measure(points: Points, dialect: Dialect) -> tuple[Floats, Floats]:
    """How far predictions lie from annotations, and what alpha multiplies, in the dialect's frame.

    Returns:
        distance (n,), inf where nothing was predicted, and reach (n,), both px of the frame.

    Raises:
        ValueError: the points lack what the dialect needs.
    """
    if lacking := dialect.needs - points.knows:
        raise ValueError(f"{dialect.name} needs {', '.join(sorted(lacking))}, which is not there")
    factor = _factor(points, dialect)
    true = points.true * factor
    if dialect.whole:
        true = np.trunc(true)
    gap = points.predicted * factor - true
    distance = np.hypot(gap[:, 0], gap[:, 1])
    distance[~np.isfinite(points.predicted).all(axis=1)] = np.inf
    return distance, _reach(points, dialect, factor)


def _factor(points: Points, dialect: Dialect) -> Floats:
    """(n or 1, 2) what x and y are multiplied by to get into the frame, but for a shift."""
    if dialect.frame == "square":
        assert points.sides is not None
        return dialect.side / (points.sides + dialect.plus_one)
    if dialect.frame == "photo":
        return np.ones((1, 2))
    assert points.size is not None
    longest = dialect.frame == "longest"
    return dialect.side / (points.size.max(axis=1, keepdims=True) if longest else points.size)


def _reach(points: Points, dialect: Dialect, factor: Floats) -> Floats:
    """(n,) px of the frame."""
    if dialect.threshold == "side":
        return np.full(len(points.true), float(dialect.side))
    if dialect.threshold == "extent":
        return _extent(points.true * factor, points.instance, dialect.padded)
    if dialect.threshold == "photo":
        lengths = points.size
    elif points.sides is not None:
        lengths = points.sides + dialect.plus_one
    else:
        assert points.scale is not None
        lengths = (points.scale + dialect.plus_one)[:, None]
    assert lengths is not None
    return np.asarray((lengths * factor).max(axis=1), np.float64)


def _extent(true: Floats, instance: Numbers, padded: bool) -> Floats:
    """(n,) the larger extent of the keypoints of each row's instance."""
    _, inverse = np.unique(instance, return_inverse=True)
    count = int(inverse.max(initial=-1)) + 1
    first = -1.0 if padded else np.inf
    low, high = np.full((count, 2), first), np.full((count, 2), -np.inf)
    np.minimum.at(low, inverse, true)
    np.maximum.at(high, inverse, true)
    return np.asarray((high - low).max(axis=1)[inverse], np.float64)


class Scored(NamedTuple):
    """PCK of one method by one definition.

    Attributes:
        alphas: A tolerances.
        value: (A,) shares, 0 to 1; NaN where there is nothing to score.
        samples: (A, resamples) of the bootstrap.
        n: predictions scored.
    """

    alphas: tuple[float, ...]
    value: Floats
    samples: Floats
    n: int


def evaluate(
    methods: Mapping[str, Points],
    dialects: Sequence[Dialect],
    alphas: Sequence[float] = (),
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[tuple[str, str], Scored]:
    """PCK of every method by every definition.

    Args:
        methods: by name; numbers mean the same for all of them.
        dialects: definitions.
        alphas: tolerances; each dialect's own if there are none.
        resamples: bootstrap replicates; 0 for none.
        seed: of the bootstrap; category c draws as ``pck.bootstrap`` does with [seed, c].

    Returns:
        (method, name of the dialect) -> score.

    Raises:
        ValueError: points lack what a dialect needs, or an alpha is negative or not finite.
    """
    asked = [(name, d, tuple(alphas) or d.alphas) for name in methods for d in dialects]
    sums = [_Sum(dialect.pooled) for _, dialect, _ in asked]
    types = _numbers(p.keypoint for p in methods.values())
    for c, category in enumerate(_numbers(p.category for p in methods.values())):
        parts = {m: p.take(p.category == category) for m, p in methods.items()}
        images = _numbers(p.image for p in parts.values())
        own = _numbers(p.keypoint for p in parts.values())
        tables = [
            counts(parts[method], dialect, tolerances, images, types if dialect.pooled else own)
            for method, dialect, tolerances in asked
        ]
        drawn = _resampled(tables, len(images), resamples, [seed, c])
        for total, table in zip(sums, drawn, strict=True):
            total.add(*table)
    found = {}
    for (method, dialect, tolerances), total in zip(asked, sums, strict=True):
        shares = total.shares(len(tolerances), 1 + resamples)
        n = len(methods[method].true)
        found[method, dialect.name] = Scored(tolerances, shares[:, 0], shares[:, 1:], n)
    return found


def curve(points: Points, dialect: Dialect, alphas: Sequence[float]) -> Floats:
    """(A,) PCK of one method at many tolerances, 0 to 1."""
    return evaluate({"": points}, [dialect], alphas, resamples=0)["", dialect.name].value


def counts(
    points: Points, dialect: Dialect, alphas: Sequence[float], images: Numbers, types: Numbers
) -> tuple[pck.Counts, pck.Counts]:
    """Correct and total of one method, by photograph and column.

    Args:
        points: of one category.
        dialect: its averaging says what a column is: a keypoint type, or all there is.
        alphas: A tolerances.
        images: (P,) sorted numbers of the photographs.
        types: sorted numbers of the keypoint types.

    Returns:
        correct (A, P, K) and total (P, K), whose quotients are what is averaged; for shares of
        instances both in units of 2**-32.
    """
    distance, reach = measure(points, dialect)
    image, photographs = np.searchsorted(images, points.image), len(images)
    count = partial(pck.counts, distance, reach, alphas=alphas, le=dialect.inclusive)
    if dialect.averaging == "type":
        column = np.searchsorted(types, points.keypoint)
        return count(column, image, n_keypoints=len(types), n_photographs=photographs)
    alone = np.zeros(len(image), np.intp)
    if dialect.averaging == "point":
        return count(alone, image, n_keypoints=1, n_photographs=photographs)
    _, first, instance = np.unique(points.instance, return_index=True, return_inverse=True)
    correct, total = count(alone, instance, n_keypoints=1)
    lies_in = image[first]
    shares = np.zeros((len(alphas), photographs, 1), np.int64)
    for summed, share in zip(shares, np.rint(correct / total * _UNIT), strict=True):
        summed[:, 0] = np.bincount(lies_in, share[:, 0], photographs)
    instances = np.bincount(lies_in, minlength=photographs).astype(np.int64)
    return shares, (instances * _UNIT)[:, None]


def _numbers(columns: Iterable[Numbers]) -> Numbers:
    """Every number that is in one of the columns, sorted."""
    return np.unique(np.concatenate([*columns, np.zeros(0, np.intp)]))


def _resampled(
    tables: Sequence[tuple[pck.Counts, pck.Counts]],
    photographs: int,
    resamples: int,
    seed: Sequence[int],
) -> list[tuple[Floats, Floats]]:
    """Of every table correct (A, 1 + R, K) and total (1 + R, K): of all photographs, then drawn.

    The weights are those of ``pck.bootstrap`` in the same order, a few replicates at a time.
    """
    rows = 1 + resamples
    sums = [
        (np.empty((len(correct), rows, correct.shape[2])), np.empty((rows, correct.shape[2])))
        for correct, _ in tables
    ]
    rng = np.random.default_rng(seed)
    share = np.full(photographs, 1 / photographs)
    weights = np.ones((1, photographs))
    start = 0
    while start < rows:
        at = slice(start, start + len(weights))
        for (correct, total), (of_correct, of_total) in zip(tables, sums, strict=True):
            of_total[at] = weights @ total
            for counted, drawn in zip(correct, of_correct, strict=True):
                drawn[at] = weights @ counted
        start = at.stop
        weights = rng.multinomial(photographs, share, size=min(_DRAWN, rows - start)).astype(float)
    return sums


class _Sum:
    """What one method has in all categories by one definition, replicate by replicate."""

    def __init__(self, pooled: bool) -> None:
        self._pooled, self._categories = pooled, 0
        self._correct: Floats | float = 0.0
        self._total: Floats | float = 0.0
        self._shares: Floats | float = 0.0

    def add(self, correct: Floats, total: Floats) -> None:
        """A category: (A, R, K) and (R, K)."""
        if not total[0].any():
            return  # the method predicts nothing of it
        self._categories += 1
        if self._pooled:
            self._correct, self._total = self._correct + correct, self._total + total
        else:
            self._shares = self._shares + pck.mean_over_types(correct, total)

    def shares(self, alphas: int, rows: int) -> Floats:
        """(A, R) PCK; NaN without any category."""
        if not self._categories:
            return np.full((alphas, rows), np.nan)
        if self._pooled:
            return pck.mean_over_types(np.asarray(self._correct), np.asarray(self._total))
        return np.asarray(self._shares / self._categories)

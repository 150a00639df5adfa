"""PCK of small, large and truncated instances: counts slice by slice; not in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.algorithms.pck import Counts, Floats

SIZES = ("small", "medium", "large")
TRUNCATION = ("truncated", "whole", "unknown")  # by the annotations: PASCAL VOC's flag


def terciles(sizes: npt.ArrayLike) -> Floats:
    """(2,) the sizes that a third, and two thirds, of the instances do not exceed.

    Args:
        sizes: (I,) max(h, w) of every instance's box, px; each instance once.

    Raises:
        ValueError: there are none, or not all are finite.
    """
    sizes = np.asarray(sizes, np.float64)
    if sizes.ndim != 1 or not len(sizes) or not np.isfinite(sizes).all():
        raise ValueError(f"sizes must be (I,), at least one and finite, got {sizes}")
    edges: Floats = np.quantile(sizes, (1 / 3, 2 / 3), method="inverted_cdf")
    return edges


def size_class(sizes: npt.ArrayLike, edges: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Number in `SIZES` of each size; one that equals an edge of `terciles` lies below it."""
    return np.searchsorted(np.asarray(edges, np.float64), np.asarray(sizes, np.float64))


def truncation(flags: Iterable[bool | None]) -> npt.NDArray[np.intp]:
    """Number in `TRUNCATION` of each flag; None is what the annotations do not say."""
    number = {True: 0, False: 1, None: 2}
    return np.array([number[flag] for flag in flags], np.intp)


def counts_by_slice(
    distance: npt.NDArray[np.floating[Any]],
    scale: npt.NDArray[np.floating[Any]],
    keypoint: npt.NDArray[np.integer[Any]],
    photograph: npt.NDArray[np.integer[Any]],
    slice_of: npt.NDArray[np.integer[Any]],
    alphas: Sequence[float],
    n_keypoints: int,
    n_slices: int,
    *,
    le: bool = True,
) -> list[tuple[Counts, Counts]]:
    """`pck.counts` of each slice, for `pck.pck` and `pck.bootstrap`.

    A slice has the photographs that show any of it, and those alone are what its bootstrap draws.
    So PCKs of two slices are not paired; nor need a difference between them be one of size, for
    keypoint types and poses differ as well.

    Args:
        distance: (n,) px, as `pck.counts`.
        scale: (n,) px.
        keypoint: (n,) types, 0 to n_keypoints - 1.
        photograph: (n,) numbers.
        slice_of: (n,) 0 to n_slices - 1.
        alphas: A tolerances.
        n_keypoints: K.
        n_slices: S.
        le: whether what lies on a threshold is correct.

    Returns:
        S times correct (A, P_s, K) and total (P_s, K); P_s is 0 where a slice is empty.

    Raises:
        ValueError: as `pck.counts`, or a slice is out of range.
    """
    slice_of = np.asarray(slice_of, np.intp)
    if slice_of.shape != np.shape(distance):
        raise ValueError(f"slice_of must be (n,), got {slice_of.shape} for {np.shape(distance)}")
    if len(slice_of) and not (0 <= slice_of.min() and slice_of.max() < n_slices):
        found = f"{slice_of.min()} to {slice_of.max()}"
        raise ValueError(f"slice_of must lie in 0 to {n_slices - 1}, got {found}")
    counted = []
    for number in range(n_slices):
        of_slice = slice_of == number
        _, shown = np.unique(np.asarray(photograph)[of_slice], return_inverse=True)
        gap, size, of_type = (np.asarray(a)[of_slice] for a in (distance, scale, keypoint))
        counted.append(pck.counts(gap, size, of_type, shown, alphas, n_keypoints, le=le))
    return counted

"""How sharply a classifier's responses peak at a keypoint (paper, section 4, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.errors import DistcorrError
from distcorr.types import BoolArray

Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]


def peaks(scores: npt.ArrayLike) -> Points:
    """Where each square of scores is highest; maxima on the square's boundary are dropped.

    Args:
        scores: (n, 2r + 1, 2r + 1) of one classifier.

    Returns:
        (n, 2) px (dy, dx) from the keypoint, rows of NaN where dropped. Among equal scores the
        first in rows counts, so that constant ones are dropped; so are those with a NaN.

    Raises:
        DistcorrError: the squares are not squares of odd side.
    """
    squares = np.asarray(scores)
    if squares.ndim != 3 or squares.shape[1] != squares.shape[2] or squares.shape[1] % 2 == 0:
        raise DistcorrError(f"scores must be (n, 2r + 1, 2r + 1), got {squares.shape}")
    radius, flat = squares.shape[1] // 2, squares.reshape(len(squares), squares.shape[1] ** 2)
    at = np.stack(np.unravel_index(flat.argmax(axis=1), squares.shape[1:]), axis=1) - radius
    dropped = (abs(at) == radius).any(axis=1) | np.isnan(flat).any(axis=1)
    return np.where(dropped[:, None], np.nan, at)


def histogram(peaks: npt.ArrayLike, radius: int) -> Pixels:
    """(2 * radius + 1, 2 * radius + 1) number of ``peaks`` per (radius + dy, radius + dx)."""
    at = _kept(_pairs(peaks)).astype(np.int64) + radius
    counts = np.zeros((2 * radius + 1, 2 * radius + 1), np.int64)
    np.add.at(counts, (at[:, 0], at[:, 1]), 1)
    return counts


class Concentration(NamedTuple):
    """How close peaks come to the true position; shares are NaN where no peak is left.

    Attributes:
        kept: number of peaks off the boundary; the shares and the median are over these.
        dropped: share of all that lay on the boundary, NaN without any.
        within: share at most so many px from the true position, per distance asked for.
        uniform: the same if every pixel off the boundary were as likely.
        median: px from the true position.
        uniform_median: likewise as if uniform.
    """

    kept: int
    dropped: float
    within: tuple[float, ...]
    uniform: tuple[float, ...]
    median: float
    uniform_median: float


def concentration(
    peaks: npt.ArrayLike, radius: int = 10, within: Sequence[float] = (4, 8)
) -> Concentration:
    """The numbers of Figure 4 (not in the paper, which shows its histograms only).

    Args:
        peaks: (n, 2) px as ``peaks`` gives them.
        radius: of the squares in px.
        within: distances in px, Euclidean, inclusive.
    """
    found = _pairs(peaks)
    distances = np.hypot(*_kept(found).T)
    inner = np.arange(1 - radius, radius)
    uniform = np.hypot(*np.meshgrid(inner, inner)).ravel()
    return Concentration(
        kept=len(distances),
        dropped=_mean(np.isnan(found[:, 0])),
        within=tuple(_mean(distances <= limit) for limit in within),
        uniform=tuple(_mean(uniform <= limit) for limit in within),
        median=float(np.median(distances)) if len(distances) else np.nan,
        uniform_median=float(np.median(uniform)) if len(uniform) else np.nan,
    )


def _pairs(peaks: npt.ArrayLike) -> Points:
    found = np.asarray(peaks, np.float64)
    if found.ndim != 2 or found.shape[1] != 2:
        raise DistcorrError(f"peaks must be (n, 2) px (dy, dx), got {found.shape}")
    return found


def _kept(found: Points) -> Points:
    return found[~np.isnan(found[:, 0])]


def _mean(flags: BoolArray) -> float:
    return float(flags.mean()) if len(flags) else np.nan

"""From detector scores to keypoints: a prior, their product, its maximum (paper, section 5).

The prior is a Gaussian about the place that the keypoint has in the most similar training instance,
in px of the square crop. With scores s made positive by the logistic function (the paper does not
say how), the response is f = sigmoid(s)^(1 - eta) p^eta, here always as its logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.algorithms.knn import cosine_topk
from distcorr.types import FloatArray

Floats = npt.NDArray[np.float64]

SIGMA = 22.0  # px of the 500 px crop, section 5
ETA = 0.1  # section 5, by cross-validation


def neighbour_keypoints(
    base: FloatArray,
    keypoints: npt.ArrayLike,
    queries: FloatArray,
    exclude: Sequence[npt.NDArray[np.integer[Any]]] | None = None,
) -> Floats:
    """Where the nearest training instance *that shows it* has each keypoint (section 5).

    Args:
        base: (m, D) descriptors of the training instances (section 5: pool5), by cosine; ties go
            to the lower index.
        keypoints: (m, K, 2) px in their crops, NaN where not shown.
        queries: (n, D).
        exclude: per query, rows of ``base`` that do not count, as those of its own photograph.

    Returns:
        (n, K, 2) px; NaN where no instance shows the keypoint.
    """
    points = np.asarray(keypoints, np.float64)
    found = np.full((len(queries), *points.shape[1:]), np.nan)
    shown = np.logical_not(np.isnan(points).any(axis=2))
    for k in range(points.shape[1]):
        rows = np.flatnonzero(shown[:, k])
        if not len(rows) or not len(queries):
            continue
        banned = exclude and [np.flatnonzero(np.isin(rows, each)) for each in exclude]
        nearest = cosine_topk(base[rows], queries, 1, banned)[0][:, 0]
        there = nearest >= 0
        found[there, k] = points[rows[nearest[there]], k]
    return found


def log_prior(means: Floats, centres: Floats, sigma: float = SIGMA) -> Floats:
    """The prior: log p = -|x - mean|^2 / (2 sigma^2), and 0 where there is no mean.

    Args:
        means: (n, K, 2) px, of ``neighbour_keypoints``.
        centres: (rows, cols, 2) px, of ``windows.positions``.
        sigma: px.

    Returns:
        (n, K, rows, cols).
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be above 0 px, got {sigma}")
    away: Floats = np.square(means[:, :, None, None] - centres).sum(axis=-1)
    return np.nan_to_num(away, nan=0.0) / (-2 * sigma**2)


def combine(scores: FloatArray, prior: Floats, eta: float = ETA) -> Floats:
    """The response: log f = (1 - eta) log sigmoid(s) + eta log p, of the shape of both.

    Args:
        scores: (n, K, rows, cols), of ``windows.score``; only ``eta`` = 1 does not look at them.
        prior: likewise, of ``log_prior``.
        eta: 0, the detectors alone, to 1, the prior alone.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0 to 1, got {eta}")
    if eta == 1:
        return prior.astype(np.float64)
    return -(1 - eta) * np.logaddexp(0, -scores.astype(np.float64)) + eta * prior


def locate(
    responses: npt.NDArray[np.floating[Any]], centres: Floats, refine: bool = False
) -> Floats:
    """The position of the largest response, the first in rows where several are equal.

    Args:
        responses: (n, K, rows, cols).
        centres: (rows, cols, 2) px.
        refine: move it to the maximum of the parabola through it and its neighbours along each
            axis, half a stride at most. Not in the paper, which names the stride as a limit.

    Returns:
        (n, K, 2) px xy; NaN where a response is NaN or none is finite.
    """
    rows, cols = centres.shape[:2]
    flat = responses.reshape(*responses.shape[:2], rows * cols)
    best = flat.argmax(axis=2)
    peak = np.take_along_axis(flat, best[..., None], axis=2)[..., 0]  # NaN if any is
    found: Floats = centres.reshape(-1, 2)[best].astype(np.float64)
    if refine:
        row, col = np.unravel_index(best, (rows, cols))
        steps = ((col, 1, cols, 0), (row, cols, rows, 1))  # index, step to the next, count, axis
        for index, step, count, axis in steps:
            if count < 2:
                continue
            stride = np.ptp(centres[..., axis]) / (count - 1)
            found[..., axis] += stride * _vertex(
                flat, best, step, (index > 0) & (index < count - 1)
            )
    found[~np.isfinite(peak)] = np.nan
    return found


class Choice(NamedTuple):
    """An eta, and the PCK of all that were tried.

    Attributes:
        eta: the one of highest mean PCK, the smallest where they tie.
        pck: (E, F) in 0..1 of each eta and fold; NaN where a fold shows no keypoint.
    """

    eta: float
    pck: Floats


def choose_eta(
    etas: Sequence[float],
    predicted: Floats,
    truth: npt.ArrayLike,
    pixels: Floats,
    scale: Floats,
    folds: npt.NDArray[np.integer[Any]],
    alpha: float = 0.1,
) -> Choice:
    """The eta of highest mean PCK over folds (section 5: by cross-validation on training data).

    Args:
        etas: E of them.
        predicted: (E, n, K, 2) px in the crops, by detectors that have not seen the instance; NaN,
            no prediction, is wrong.
        truth: (n, K, 2) px in the crops, NaN where not shown.
        pixels: (n, 2) px of the photograph per px of the crop, along x and y.
        scale: (n,) PCK's max(h, w), px of the photograph.
        folds: (n,) from 0.
        alpha: PCK's.
    """
    known = np.asarray(truth, np.float64)
    instance, keypoint = np.nonzero(~np.isnan(known).any(axis=2))
    if not len(etas) == len(predicted) > 0 or not len(instance):
        raise ValueError("choosing eta needs a prediction for every eta and a keypoint to predict")
    rates = []
    for made in predicted:
        gap = (made - known)[instance, keypoint] * pixels[instance]
        distance = np.nan_to_num(np.hypot(*gap.T), nan=np.inf)
        correct, total = pck.counts(
            distance, scale[instance], keypoint, folds[instance], [alpha], known.shape[1]
        )
        each = zip(correct[0], total, strict=True)
        rates.append([pck.pck(c[None, None], t[None])[0] for c, t in each])
    found = np.array(rates)
    mean = np.nanmean(found, axis=1)
    eta = min(e for e, value in zip(etas, mean, strict=True) if value == mean.max())
    return Choice(eta, found)


def _vertex(flat: Any, best: Any, step: int, inner: Any) -> Floats:
    """(n, K) offset, in steps, of the parabola through a maximum; 0 at the border or if flat."""
    around = best[..., None] + np.where(inner, step, 0)[..., None] * np.array([-1, 0, 1])
    before, peak, after = np.moveaxis(np.take_along_axis(flat, around, axis=2), 2, 0)
    with np.errstate(invalid="ignore"):  # infinite scores
        bend = before - 2 * peak + after
        curved = np.isfinite(bend) & (bend < 0)
        offset = 0.5 * (before - after) / np.where(curved, bend, 1)
    return np.where(curved, np.clip(offset, -0.5, 0.5), 0.0)

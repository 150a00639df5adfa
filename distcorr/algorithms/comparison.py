"""Is one method better than another? Paired, by photograph, from the counts of `pck`.

The difference of two PCKs is a sum with one term for each photograph, for what counts is that both
methods predict the same keypoints. All that follows is about these terms. None of it is in the
paper.

What this does not say: whether a difference would hold on another data set, by other training
instances or another seed of a method. Photographs are what is random here, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from distcorr.algorithms.pck import Counts, Floats

PERMUTATIONS = 10_000  # not in the paper; no p below 1 / 10,001
POWER, LEVEL = 0.8, 0.05  # of `detectable`: what studies are usually planned by
_AT_ONCE = 2**22  # random signs that are held in memory
_TIE = 1e-9  # of the sum of all terms: rounding must not decide whether two sums are equal

Integers = npt.NDArray[np.integer[Any]]


def contributions(one: Counts, other: Counts, total: Counts) -> Floats:
    """(A, P) what each photograph adds to ``pck(one) - pck(other)``; a row sums to the difference.

    With T keypoint types that have instances, photograph p adds
    ``1 / T * sum over types k of (one[p, k] - other[p, k]) / total[k]``.

    Args:
        one: (A, P, K) correct predictions of a method at A tolerances, from `pck.counts`.
        other: likewise, of the other method.
        total: (P, K) of both.

    Raises:
        ValueError: shapes disagree, nothing is counted, or a method is right more often than it
            can be: the two were not scored on the same keypoints.
    """
    if total.ndim != 2 or one.ndim != 3 or not one.shape == other.shape == (len(one), *total.shape):
        shapes = f"{one.shape}, {other.shape} and {total.shape}"
        raise ValueError(f"one, other and total must be (A, P, K) twice and (P, K), got {shapes}")
    for name, counted in (("one", one), ("other", other)):
        if (counted > total).any() or (counted < 0).any():
            raise ValueError(f"{name} must lie in 0 to total, photograph by photograph")
    of_type = total.sum(axis=0)
    present = of_type > 0
    if not present.any():
        raise ValueError("total must count at least one keypoint, got none")
    weight = np.where(present, 1 / (np.where(present, of_type, 1) * present.sum()), 0.0)
    added: Floats = (one - other).astype(np.float64) @ weight
    return added


def over_categories(
    parts: Sequence[Floats], photographs: Sequence[Integers], n_photographs: int
) -> Floats:
    """(A, G) what each photograph adds to the mean of C categories' differences.

    Args:
        parts: C times (A, P_c), the `contributions` in a category.
        photographs: C times (P_c,), which photograph that is of all G, each at most once.
        n_photographs: G. A photograph of several categories is one photograph.

    Raises:
        ValueError: there is no category, or numbers disagree with it.
    """
    if not parts or [p.shape[-1] for p in parts] != [len(which) for which in photographs]:
        lengths = [p.shape for p in parts], [len(which) for which in photographs]
        raise ValueError(f"every part must have its photographs' numbers, got {lengths}")
    added = np.zeros((len(parts[0]), n_photographs))
    for part, which in zip(parts, photographs, strict=True):
        added[:, which] += part / len(parts)
    return added


def swap_test(
    contributions: Floats, *, permutations: int = PERMUTATIONS, seed: int | Sequence[int]
) -> Floats:
    """(A,) two-sided p-values of the paired permutation test by photograph.

    If it makes no difference which method is which, then swapping their results in any photograph
    is as likely as not, and turns the sign of what the photograph adds. p is the share of swaps
    whose difference is as far from 0 as the one found, or farther: of all of them where they are at
    most ``permutations`` (exact), else ``(1 + found) / (1 + permutations)`` of random ones.

    Source: Fisher, The Design of Experiments, 1935, section 21; the 1 is Phipson & Smyth, 2010.
    Assumes that photographs are independent, and that a method's results in a photograph could be
    the other's. A large p does not say that methods are equal: see `detectable`.

    Args:
        contributions: (A, P), from `contributions` or `over_categories`.
        permutations: random swaps. Photographs in which methods do not differ cannot be swapped.
        seed: of the random swaps. The p of a row does not depend on the other rows.

    Raises:
        ValueError: contributions are not (A, P) or not finite, or permutations below 1.
    """
    added = np.asarray(contributions, np.float64)
    if added.ndim != 2 or not np.isfinite(added).all():
        raise ValueError(f"contributions must be (A, P) and finite, got shape {added.shape}")
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    most = int(permutations).bit_length() - 1
    exact = (added != 0).sum(axis=1) <= most
    p = np.empty(len(added))
    for row in np.flatnonzero(exact):
        p[row] = _every_swap(added[row][added[row] != 0])
    if not exact.all():
        p[~exact] = _random_swaps(added[~exact], permutations, seed)
    return p


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values over the last axis: at most 0.05 where 5 % hold for all together.

    Sorted, the i-th of n (from 0) is multiplied by n - i, made no smaller than the one before, and
    cut at 1. Whatever the dependence of the tests, the chance of any false finding among those at
    most 0.05 is at most 5 %.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979. It holds for the
    tests that are passed in together, and for no others that were tried as well.

    Args:
        p: (..., n); NaN is no test, and stays NaN.

    Raises:
        ValueError: a p-value is below 0 or above 1.
    """
    p = np.asarray(p, np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values must lie in 0 to 1, got {p}")
    order = np.argsort(p, axis=-1, kind="stable")  # NaN last
    ordered = np.take_along_axis(p, order, axis=-1)
    left = (~np.isnan(p)).sum(axis=-1, keepdims=True) - np.arange(p.shape[-1])
    steps = np.where(np.isnan(ordered), -np.inf, ordered * left)
    adjusted = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    out = np.full(p.shape, np.nan)
    np.put_along_axis(out, order, np.where(np.isnan(ordered), np.nan, adjusted), axis=-1)
    return out


def detectable(samples: Floats, *, power: float = POWER, level: float = LEVEL) -> Floats:
    """The difference that as many photographs would show as significant, ``power`` of the time.

    ``(z(1 - level / 2) + z(power)) * se``: 2.80 standard errors by default. The standard error is
    the standard deviation of the bootstrap's differences, so this is for one two-sided test on
    photographs like these; over n categories with Holm's correction it takes up to ``level / n``.

    Source: Bloom, Minimum detectable effects, 1995. Assumes that the difference is normal, and as
    variable as it was found to be. With few photographs it is too small: in simulations `swap_test`
    found it in 79 % of cases with 30 photographs or more, 74 % with 20 and 63 % with 10. It says
    nothing about the difference that was found.

    Args:
        samples: (..., resamples) differences from the bootstrap; NaN are left out.
        power: chance of finding such a difference.
        level: of significance.

    Returns:
        (...), NaN where samples do not vary: photographs that never differ tell no spread.

    Raises:
        ValueError: power or level is not between 0 and 1.
    """
    if not (0 < power < 1 and 0 < level < 1):
        raise ValueError(f"power and level must lie between 0 and 1, got {power} and {level}")
    samples = np.asarray(samples, np.float64)
    valid = ~np.isnan(samples)
    n = valid.sum(axis=-1)
    mean = np.where(valid, samples, 0).sum(axis=-1) / np.maximum(n, 1)
    squares = np.where(valid, samples - mean[..., None], 0) ** 2
    error = np.sqrt(squares.sum(axis=-1) / np.maximum(n - 1, 1))
    factor = ndtri(1 - level / 2) + ndtri(power)
    found: Floats = np.where(error > 1e-12, factor * error, np.nan)
    return found


def _every_swap(added: Floats) -> float:
    """The exact p-value of (m,) terms, from all 2^m signs."""
    m = len(added)
    swapped = (np.arange(2**m)[:, None] >> np.arange(m)) & 1
    return float(_as_far(swapped.astype(np.float64), added[None])[0] / 2**m)


def _random_swaps(added: Floats, permutations: int, seed: int | Sequence[int]) -> Floats:
    """(A,) p-values of (A, P) terms, from random signs that all rows share."""
    rng = np.random.default_rng(seed)
    photographs = added.shape[1]
    width, block = -(-photographs // 8), max(1, _AT_ONCE // photographs)
    found = np.zeros(len(added), np.int64)
    for start in range(0, permutations, block):
        n = min(block, permutations - start)
        drawn = np.frombuffer(rng.bytes(n * width), np.uint8).reshape(n, width)
        swapped = np.unpackbits(drawn, axis=1, count=photographs)
        found += _as_far(swapped.astype(np.float64), added)
    return (1 + found) / (1 + permutations)


def _as_far(swapped: Floats, added: Floats) -> Counts:
    """(A,) how many of the (n, P) swaps, 0 or 1, lie as far from 0 as (A, P) as they are."""
    sums = added.sum(axis=1)
    limit = abs(sums) - _TIE * abs(added).sum(axis=1)
    reached: Counts = (abs(sums - 2 * (swapped @ added.T)) >= limit).sum(axis=0)
    return reached

"""Compiled loops of ``search``: exact scores, proposals above a rising floor, merging (numba).

BLAS gives approximate scores of a tile; what follows goes over them once, without a copy. A key is
an exact score and a row in one integer: ascending keys are descending scores, and ties go to the
lower row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

STEP = 2.0**24  # float32 holds every multiple of 1 / STEP from -1 to 1
ZERO = 1e-12  # the norm below which a vector has no direction (protocol, section 6)
BLOCK = 64  # scores that are compared with the floor at once


@njit(cache=True, nogil=True, error_model="numpy")
def normalise(rows: Array, unit: Array, norms: Array) -> None:
    for i in range(len(rows)):
        total = 0.0
        for value in rows[i]:
            total += float(value) * float(value)
        norms[i] = np.sqrt(total)
        scale = STEP / norms[i] if norms[i] >= ZERO else 0.0
        for d in range(rows.shape[1]):
            unit[i, d] = np.rint(rows[i, d] * scale) / STEP


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def key(cell: Array, query: Array, row: int) -> np.int64:
    total = 0.0
    for d in range(len(cell)):
        total += float(cell[d]) * float(query[d])  # below 2^53 steps of 2^-48: never rounded
    return (np.int64(STEP - np.rint(total * STEP)) << 32) | np.int64(row)


@njit(cache=True, nogil=True, error_model="numpy")
def score(
    features: Array, queries: Array, rows: Array, counts: Array, block: int, keys: Array
) -> None:
    """Keys of all proposals, a block of cells at a time, so that it stays in the cache."""
    at = np.zeros(len(queries), np.int64)
    for end in range(block, len(features) + block, block):
        for i in range(len(queries)):
            n = at[i]
            while n < counts[i] and rows[i, n] < end:
                keys[i, n] = key(features[rows[i, n]], queries[i], rows[i, n])
                n += 1
            at[i] = n


@njit(cache=True, nogil=True, error_model="numpy")
def propose(
    scores: Array,
    first: int,
    features: Array,
    queries: Array,
    photographs: Array,
    banned: Array,
    k: int,
    slack: float,
    floors: Array,
    rows: Array,
    guesses: Array,
    counts: Array,
) -> None:
    """Add a tile's cells that reach the floor, thinning a query's proposals where they are full."""
    hits = np.empty(BLOCK, np.int64)
    for i in range(len(scores)):
        line, floor, count = scores[i], floors[i], counts[i]
        query, never, at, guess = queries[i], banned[i], rows[i], guesses[i]
        for start in range(0, len(line), BLOCK):
            stop, any_ = min(start + BLOCK, len(line)), False
            for j in range(start, stop):
                any_ |= line[j] >= floor
            found = 0
            for j in range(start, stop if any_ else start):
                hits[found] = j
                found += 1 if line[j] >= floor else 0  # without a branch
            for n in range(found):
                j = hits[n]
                if line[j] < floor or is_banned(photographs[first + j], never):
                    continue
                if count == len(at):
                    count, bound = thin(features, query, k, slack, at, guess, count)
                    floor = np.float32(max(floor, bound))  # float64 would compare at half the speed
                at[count], guess[count] = first + j, line[j]
                count += 1
        floors[i], counts[i] = floor, count


@njit(cache=True, nogil=True, error_model="numpy")
def is_banned(photograph: int, banned: Array) -> bool:
    for other in banned:
        if photograph == other:
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def below_kth(values: Array, k: int) -> float:
    """A bound that at least k values reach, and few more: bisection is quicker than a selection."""
    low, high = values.min(), values.max()
    for _ in range(12):
        middle = (low + high) / np.float32(2)
        reached = np.int32(0)
        for value in values:
            reached += np.int32(value >= middle)
        if reached >= k:
            low = middle
        else:
            high = middle
    return float(low)


@njit(cache=True, nogil=True, error_model="numpy")
def thin(
    features: Array, query: Array, k: int, slack: float, rows: Array, guesses: Array, count: int
) -> tuple[int, float]:
    """Keep what may be among the first k, in order; its count and the new floor."""
    floor = below_kth(guesses[:count], k) - 2 * slack
    kept = 0
    for n in range(count):
        if guesses[n] >= floor:
            rows[kept], guesses[kept] = rows[n], guesses[n]
            kept += 1
    if kept <= max(k, len(rows) // 2):
        return kept, floor
    # Guesses do not tell so many near-ties apart.
    keys = np.empty(kept, np.int64)
    for n in range(kept):
        keys[n] = key(features[rows[n]], query, rows[n])
    worst, count, kept = np.partition(keys, k - 1)[k - 1], kept, 0
    for n in range(count):
        if keys[n] <= worst:
            rows[kept], guesses[kept] = rows[n], 1 - (keys[n] >> 32) / STEP
            kept += 1
    return kept, 1 - (worst >> 32) / STEP - slack


@njit(cache=True, nogil=True, error_model="numpy")
def thin_all(
    features: Array,
    queries: Array,
    k: int,
    slack: float,
    rows: Array,
    guesses: Array,
    counts: Array,
) -> None:
    for i in range(len(queries)):
        if counts[i] > k:
            counts[i], _ = thin(features, queries[i], k, slack, rows[i], guesses[i], counts[i])


@njit(cache=True, nogil=True, error_model="numpy")
def merge_sorted(
    ids_a: Array, cos_a: Array, ids_b: Array, cos_b: Array, ids: Array, cosines: Array
) -> None:
    for i in range(len(ids)):
        a, b = 0, 0
        for n in range(ids.shape[1]):
            left = a < ids_a.shape[1] and ids_a[i, a] >= 0
            right = b < ids_b.shape[1] and ids_b[i, b] >= 0
            if left and right:
                x, y = cos_a[i, a], cos_b[i, b]
                left = x > y or (x == y and ids_a[i, a] < ids_b[i, b])
            if left:
                ids[i, n], cosines[i, n] = ids_a[i, a], cos_a[i, a]
                a += 1
            elif right:
                ids[i, n], cosines[i, n] = ids_b[i, b], cos_b[i, b]
                b += 1

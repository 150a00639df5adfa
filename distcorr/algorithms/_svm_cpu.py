"""Products of many weight vectors with one feature matrix, over active rows alone (numba).

BLAS has no product that leaves out other rows for every classifier. Here a block of rows stays in
the cache while every classifier visits its own active rows in it, four at a time: their sums stay
in registers, and weights are loaded once for all four. The terms are written out because only then
does the compiler make vectors of the loops; for that ``fastmath`` lets it reorder sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
from numba import njit

Array = npt.NDArray[Any]

CACHED = 1 << 15  # features of a block: 128 kB of float32
TILE = 4


@njit(cache=True, nogil=True, error_model="numpy")
def pack(values: Array, rows: Array, found: Array) -> None:
    """For each k the places where ``values`` (K, N) is not 0: the first found[k] of rows[k]."""
    for k in range(len(values)):
        count = 0
        for i in range(values.shape[1]):
            rows[k, count] = i
            count += 1 if values[k, i] != 0 else 0  # without a branch
        found[k] = count


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def forward(x: Array, weights: Array, out: Array) -> None:
    """``out`` (K, N) = weights (K, D) . x (N, D), in the precision of the weights."""
    count, width = x.shape
    block, last, zero = _block(width), count - 1, weights.dtype.type(0)
    for begin in range(0, count, block):
        for k in range(0, len(weights), 2):
            m = min(k + 1, len(weights) - 1)
            w, v = weights[k], weights[m]
            for i in range(begin, min(begin + block, count), TILE):
                a, b, c, d = i, min(i + 1, last), min(i + 2, last), min(i + 3, last)
                xa, xb, xc, xd = x[a], x[b], x[c], x[d]
                sa, sb, sc, sd = zero, zero, zero, zero
                ta, tb, tc, td = zero, zero, zero, zero
                for j in range(width):
                    sa += xa[j] * w[j]
                    sb += xb[j] * w[j]
                    sc += xc[j] * w[j]
                    sd += xd[j] * w[j]
                    ta += xa[j] * v[j]
                    tb += xb[j] * v[j]
                    tc += xc[j] * v[j]
                    td += xd[j] * v[j]
                out[k, a], out[k, b], out[k, c], out[k, d] = sa, sb, sc, sd
                out[m, a], out[m, b], out[m, c], out[m, d] = ta, tb, tc, td


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def backward(x: Array, factors: Array, rows: Array, found: Array, out: Array) -> None:
    """``out`` (K, D) float64 += factors (K, N) . x (N, D), over the ``rows`` of ``pack``.

    Blocks are summed in the precision of the factors.
    """
    count, width = x.shape
    block, zero = _block(width), factors.dtype.type(0)
    at, total = np.zeros(len(factors), np.intp), np.empty(width, factors.dtype)
    for begin in range(0, count, block):
        for k in range(len(factors)):
            f, r, i, last = factors[k], rows[k], at[k], found[k] - 1
            total[:] = zero
            while i <= last and r[i] < begin + block:
                a, b, c, d = r[i], r[min(i + 1, last)], r[min(i + 2, last)], r[min(i + 3, last)]
                fa = f[a]
                fb = f[b] if i + 1 <= last else zero
                fc = f[c] if i + 2 <= last else zero
                fd = f[d] if i + 3 <= last else zero
                xa, xb, xc, xd = x[a], x[b], x[c], x[d]
                for j in range(width):
                    total[j] += fa * xa[j] + fb * xb[j] + fc * xc[j] + fd * xd[j]
                i += TILE
            if i > at[k]:
                for j in range(width):
                    out[k, j] += total[j]
            at[k] = i


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def hessian(
    x: Array,
    active: Array,
    rows: Array,
    found: Array,
    which: Array,
    weights: Array,
    constant: Array,
    out: Array,
) -> None:
    """``out`` (k, D + 1) += sum_i a_i (x_i . w + constant) (x_i, 1) over the ``rows`` of ``pack``.

    Classifier j of ``weights`` (k, D), ``constant`` (k,) and ``out`` has row ``which[j]`` of
    ``active`` (K, N), ``rows`` and ``found``.
    """
    count, width = x.shape
    block, zero = _block(width), weights.dtype.type(0)
    at = np.zeros(len(weights), np.intp)
    for begin in range(0, count, block):
        for k in range(len(weights)):
            w, o, i = weights[k], out[k], at[k]
            f, r, last = active[which[k]], rows[which[k]], found[which[k]] - 1
            while i <= last and r[i] < begin + block:
                a, b, c, d = r[i], r[min(i + 1, last)], r[min(i + 2, last)], r[min(i + 3, last)]
                xa, xb, xc, xd = x[a], x[b], x[c], x[d]
                sa, sb, sc, sd = constant[k], constant[k], constant[k], constant[k]
                for j in range(width):
                    sa += xa[j] * w[j]
                    sb += xb[j] * w[j]
                    sc += xc[j] * w[j]
                    sd += xd[j] * w[j]
                sa = sa * f[a]
                sb = sb * f[b] if i + 1 <= last else zero
                sc = sc * f[c] if i + 2 <= last else zero
                sd = sd * f[d] if i + 3 <= last else zero
                for j in range(width):
                    o[j] += sa * xa[j] + sb * xb[j] + sc * xc[j] + sd * xd[j]
                o[width] += sa + sb + sc + sd
                i += TILE
            at[k] = i


def add_square(hessian: Array, rows: Array) -> Array:
    """The lower triangle of ``hessian`` (D, D) + rows' rows, rows (n, D); float64.

    In place where the Hessian has Fortran's order. BLAS has a product of a matrix with itself, two
    to three times as fast as that of two.
    """
    sum_: Array = scipy.linalg.blas.dsyrk(1.0, rows.T, beta=1.0, c=hessian, lower=1, overwrite_c=1)
    return sum_


def solve(hessian: Array, right: Array) -> Array:
    """(D,) s with hessian s = right (D,), of whose lower triangle Cholesky factors are made."""
    factors = scipy.linalg.cho_factor(hessian, lower=True, overwrite_a=True, check_finite=False)
    solved: Array = scipy.linalg.cho_solve(factors, right, check_finite=False)
    return solved


@njit(cache=True, nogil=True, error_model="numpy")
def _block(width: int) -> int:
    """Rows of a block, a multiple of TILE."""
    return max(TILE, CACHED // width // TILE * TILE)

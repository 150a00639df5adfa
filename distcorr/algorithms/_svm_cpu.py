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
def look(
    margins: Array,
    signs: Array,
    cost: Array,
    factors: Array,
    rows: Array,
    found: Array,
    sums: Array,
) -> None:
    """``factors`` (K, N) = -2 y_i c_i max(0, 1 - m_i), packed, and their ``sums`` (4, K).

    Those are the loss, how far it is below that at margins of 0, of the factors, and of c_i where
    m_i < 1. ``cost`` is (1 or K, N).
    """
    count = margins.shape[1]
    for k in range(len(margins)):
        m, y, f, price = margins[k], signs[k], factors[k], cost[min(k, len(cost) - 1)]
        loss, saved, total, active = 0.0, 0.0, 0.0, 0.0
        for i in range(count):
            clipped = min(float(m[i]), 1.0)
            slack, c = 1.0 - clipped, price[i]
            signed = -2 * c * slack * y[i]
            loss += c * slack * slack
            saved += c * clipped * (2.0 - clipped)
            total += signed
            active += c if slack > 0 else 0.0
            f[i] = signed
        sums[0, k], sums[1, k], sums[2, k], sums[3, k] = loss, saved, total, active
    pack(factors, rows, found)


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def slopes(margins: Array, change: Array, cost: Array, t: Array, which: Array, out: Array) -> None:
    """``out`` (2, K): both derivatives by t of the loss at margins + t change, where ``which``."""
    count = margins.shape[1]
    for k in range(len(margins)):
        if not which[k]:
            continue
        m, d, price = margins[k], change[k], cost[min(k, len(cost) - 1)]
        first, second, at = 0.0, 0.0, t[k]
        for i in range(count):
            by = float(d[i])
            slack = 1.0 - float(m[i]) - at * by
            scaled = price[i] * by if slack > 0 else 0.0
            first += scaled * slack
            second += scaled * by
        out[0, k], out[1, k] = -2 * first, 2 * second


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

    Classifier j of ``weights`` (k, D or more: what is beyond D is left out), ``constant`` (k,) and
    ``out`` has row ``which[j]`` of ``active`` (1 or K, N), ``rows`` and ``found``.
    """
    count, width = x.shape
    block, zero = _block(width), weights.dtype.type(0)
    at = np.zeros(len(weights), np.intp)
    for begin in range(0, count, block):
        for k in range(len(weights)):
            w, o, i = weights[k], out[k], at[k]
            f, r = active[min(which[k], len(active) - 1)], rows[which[k]]
            last = found[which[k]] - 1
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


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def conjugate_gradients(
    x: Array,
    price: Array,
    rows: Array,
    found: Array,
    offset: float,
    penalised: bool,
    at: Array,
    gradient: Array,
    enough: Array,
    patience: Array,
    move: Array,
    left: Array,
) -> None:
    """Solve (P + A'A) s = -gradient for classifiers ``at``: s is added to ``move``.

    Arrays are (K, D + 1) and (K,), of all classifiers. One is ``left`` where its squared residual
    is above ``enough`` after ``patience`` iterations.
    """
    width = gradient.shape[1]
    live = at.copy()
    s = np.zeros(gradient.shape, np.float32)
    r = (-gradient).astype(np.float32)
    p, norm = r.copy(), np.zeros(len(gradient))
    for k in at:
        norm[k] = _dot(r[k], r[k])
    step = 0
    while True:
        count = 0
        for k in live:
            if norm[k] <= enough[k]:
                continue
            if step >= patience[k]:
                left[k] = True
                continue
            live[count] = k
            count += 1
        if count == 0:
            break
        live = live[:count]
        some = p[live]
        product = np.zeros((count, width), np.float32)
        constant = some[:, -1] * np.float32(offset)
        hessian(x, price, rows, found, live, some, constant, product)
        for j in range(count):
            k = live[j]
            pk, hk, rk, sk = p[k], product[j], r[k], s[k]
            hk[-1] *= np.float32(offset)
            for i in range(width - 1 if not penalised else width):
                hk[i] += pk[i]
            length = np.float32(norm[k] / _dot(pk, hk))
            for i in range(width):
                sk[i] += length * pk[i]
                rk[i] -= length * hk[i]
            new = _dot(rk, rk)
            factor = np.float32(new / norm[k])
            for i in range(width):
                pk[i] = rk[i] + factor * pk[i]
            norm[k] = new
        step += 1
    for k in at:
        for i in range(width):
            move[k, i] += s[k, i]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in range(len(a)):
        total += float(a[i]) * float(b[i])
    return total


def add_square(hessian: Array, rows: Array) -> Array:
    """The lower triangle of ``hessian`` (D, D) + rows' rows, rows (n, D); float64.

    In place where the Hessian has Fortran's order. BLAS has a product of a matrix with itself, two
    to three times as fast as that of two.
    """
    sum_: Array = scipy.linalg.blas.dsyrk(1.0, rows.T, beta=1.0, c=hessian, lower=1, overwrite_c=1)
    return sum_


def solve(hessian: Array, right: Array) -> Array:
    """(D,) or (D, m) s with hessian s = right, by Cholesky factors of its lower triangle."""
    factors = scipy.linalg.cho_factor(hessian, lower=True, overwrite_a=True, check_finite=False)
    solved: Array = scipy.linalg.cho_solve(factors, right, check_finite=False)
    return solved


@njit(cache=True, nogil=True, error_model="numpy")
def _block(width: int) -> int:
    """Rows of a block, a multiple of TILE."""
    return max(TILE, CACHED // width // TILE * TILE)

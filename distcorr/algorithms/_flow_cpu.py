"""Numba kernels that every CPU solver of the alignment shares (paper, section 3).

A label is an *absolute* target cell ``t_p = p + w(p)``, so no label ever leaves the target grid and
``w(p) - w(q) = t_p - t_q + (q - p)``: the deformation of an edge is a squared distance shifted by
the step ``q - p``.

Shapes: ``cost`` is (H, W, h', w') float32, the data cost of every target cell for every source
cell, padded with ``FORBIDDEN`` from (h, w) to multiples of ``BLOCK``; ``labels`` is (H, W, 2) int64
(row, col) of target cells; ``squares`` is what ``squares`` makes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

BLOCK = 16  # columns to a block: two AVX2 registers, and the 13 x 13 grid takes just one block
FORBIDDEN = np.float32(1e30)  # cost of a padded label: finite, so that no NaN can arise
NEVER = np.float32(1e20)  # the most that an edge or a message says; sums of it stay below that
DESCENT_PASSES = 50  # bound of the local descent, which needs fewer than ten in practice

# Directions: left, up, right, down as (dy, dx). The opposite of d is (d + 2) % 4.
STEP_Y = np.array([0, -1, 0, 1])
STEP_X = np.array([-1, 0, 1, 0])

# Without "reassoc" and "contract" a sum has one value whatever the width of the registers.
FAST = {"nnan", "ninf", "nsz"}


def padded(cells: int) -> int:
    """``cells`` rounded up to a multiple of ``BLOCK``."""
    return -(-cells // BLOCK) * BLOCK


def squares(reach: int, beta: float) -> Array:
    """(2 reach + 1,) float32: ``[reach + d] = beta * d^2``."""
    distance = np.arange(-reach, reach + 1, dtype=np.float64)
    table: Array = np.minimum(beta * distance**2, NEVER).astype(np.float32)
    return table


@njit(cache=True, error_model="numpy")
def to_unit_norm(values: Array, out: Array) -> bool:
    """Scale every row of ``values`` (n, C) float32 to unit norm; zeros stay. Whether all is finite.

    Sums are float64, in which no square of a float32 is too large or too small.
    """
    for n in range(values.shape[0]):
        row, scaled = values[n], out[n]
        total = 0.0
        for c in range(row.size):
            total += np.float64(row[c]) * np.float64(row[c])
        if not np.isfinite(total):
            return False
        norm = np.sqrt(total) if total > 0 else 1.0
        for c in range(row.size):
            scaled[c] = np.float32(np.float64(row[c]) / norm)
    return True


@njit(cache=True, fastmath=FAST, error_model="numpy")
def distances(product: Array, source: Array, target: Array, height: int, cost: Array) -> None:
    """Fill ``cost`` (H * W, h', w') with ``sqrt(|a|^2 + |b|^2 - 2 ab)``; the padding stays.

    ``product`` (H * W, h * w) holds ab, ``source`` (H * W) and ``target`` (h * w) squared norms.
    """
    width = target.size // height
    for p in range(product.shape[0]):
        norm = source[p]
        for i in range(height):
            line = cost[p, i, :width]
            dots = product[p, i * width : (i + 1) * width]
            norms = target[i * width : (i + 1) * width]
            for j in range(line.size):
                line[j] = np.sqrt(max(norm + norms[j] - (dots[j] + dots[j]), np.float32(0)))


@njit(cache=True, error_model="numpy")
def forbid_far(cost: Array, height: int, width: int, reach: int) -> None:
    """Forbid labels of more than ``reach`` rows or columns from where a cell stands still."""
    for y in range(cost.shape[0]):
        for x in range(cost.shape[1]):
            top, left = min(y, height - 1), min(x, width - 1)
            for i in range(height):
                for j in range(width):
                    if abs(i - top) > reach or abs(j - left) > reach:
                        cost[y, x, i, j] = FORBIDDEN


@njit(cache=True, fastmath=FAST, error_model="numpy")
def best_label(cost: Array, by_row: Array, by_column: Array, least: Array) -> tuple[int, int]:
    """The (row, col) with the least ``cost + by_row + by_column``; ties: lower column, then row.

    All are padded; ``least`` (w') is for the least of every column.
    """
    spread(by_row, cost, least)
    column, low = 0, FORBIDDEN
    for j in range(least.size):
        if least[j] + by_column[j] < low:
            column, low = j, least[j] + by_column[j]
    row, low = 0, FORBIDDEN
    for i in range(by_row.size):
        if cost[i, column] + by_row[i] < low:
            row, low = i, cost[i, column] + by_row[i]
    return row, column


@njit(cache=True, fastmath=FAST, error_model="numpy")
def spread(values: Array, table: Array, out: Array) -> None:
    """``out[x] = min_i values[i] + table[i, x]``, i over a multiple of 8.

    The terms are written out because only then does the compiler make vectors of the loop over x.
    """
    out[:] = FORBIDDEN
    for i in range(0, values.size, 8):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        e, f, g, h = values[i + 4], values[i + 5], values[i + 6], values[i + 7]
        rows = table[i : i + 8]
        for x in range(out.size):
            low = min(min(rows[0, x] + a, rows[1, x] + b), min(rows[2, x] + c, rows[3, x] + d))
            end = min(min(rows[4, x] + e, rows[5, x] + f), min(rows[6, x] + g, rows[7, x] + h))
            out[x] = min(out[x], min(low, end))


@njit(cache=True, error_model="numpy")
def condition(
    labels: Array,
    y: int,
    x: int,
    square: Array,
    directions: int,
    by_row: Array,
    by_column: Array,
) -> None:
    """Deformation cost of node (y, x) against its first ``directions`` neighbours, per axis."""
    middle = square.size // 2
    by_row[:] = 0
    by_column[:] = 0
    for direction in range(directions):
        dy, dx = STEP_Y[direction], STEP_X[direction]
        if 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]:
            rows = square[middle - labels[y + dy, x + dx, 0] + dy :]
            columns = square[middle - labels[y + dy, x + dx, 1] + dx :]
            for i in range(by_row.size):
                by_row[i] += rows[i]
            for j in range(by_column.size):
                by_column[j] += columns[j]


@njit(cache=True, error_model="numpy")
def descend(cost: Array, square: Array, labels: Array) -> None:
    """Iterated conditional modes, in place, until no label changes."""
    rows, columns, height, width = cost.shape
    by_row, by_column = np.empty(height, np.float32), np.empty(width, np.float32)
    least = np.empty(width, np.float32)
    stale = np.ones((rows, columns), np.bool_)  # a neighbour has changed since the last look
    for _ in range(DESCENT_PASSES):
        changed = False
        for y in range(rows):
            for x in range(columns):
                if not stale[y, x]:
                    continue
                stale[y, x] = False
                condition(labels, y, x, square, 4, by_row, by_column)
                row, column = best_label(cost[y, x], by_row, by_column, least)
                if row == labels[y, x, 0] and column == labels[y, x, 1]:
                    continue
                changed = True
                labels[y, x, 0], labels[y, x, 1] = row, column
                for direction in range(4):
                    qy, qx = y + STEP_Y[direction], x + STEP_X[direction]
                    if 0 <= qy < rows and 0 <= qx < columns:
                        stale[qy, qx] = True
        if not changed:
            return


@njit(cache=True, error_model="numpy")
def total_energy(cost: Array, beta: float, labels: Array) -> float:
    """Data plus beta times deformation energy of ``labels``, float64."""
    data = 0.0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            data += cost[y, x, labels[y, x, 0], labels[y, x, 1]]
    return data + beta * deformation(labels)


@njit(cache=True, error_model="numpy")
def deformation(labels: Array) -> int:
    """Sum over 4-neighbour edges of ``||w(p) - w(q)||^2``, cells^2."""
    total = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if x + 1 < labels.shape[1]:
                dy, dx = labels[y, x + 1] - labels[y, x]
                total += dy**2 + (dx - 1) ** 2
            if y + 1 < labels.shape[0]:
                dy, dx = labels[y + 1, x] - labels[y, x]
                total += (dy - 1) ** 2 + dx**2
    return total


@njit(cache=True, error_model="numpy")
def data_energy(source: Array, target: Array, labels: Array) -> float:
    """Sum over cells of ``||f_s(p) - f_t(t_p)||`` from the features themselves, in float64."""
    total = 0.0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            a, b = source[y, x], target[labels[y, x, 0], labels[y, x, 1]]
            square = 0.0
            for c in range(a.size):
                square += (np.float64(a[c]) - np.float64(b[c])) ** 2
            total += np.sqrt(square)
    return total

"""Numba kernels of the alignment: min-sum belief propagation on a grid (paper, section 3).

A label is an *absolute* target cell ``t_p = p + w(p)``, so no label ever leaves the target grid and
``w(p) - w(q) = t_p - t_q + (q - p)``: a message is a squared-Euclidean distance transform whose
quadratic is shifted by the step ``q - p``. It separates over rows and columns, and at 30 cells a
side the vectorised O(n^2) minimum beats the O(n) lower envelope of Felzenszwalb & Huttenlocher.

Shapes: ``cost`` is (H, W, h', w') float32, the data cost of every target cell for every source
cell, padded with ``FORBIDDEN`` from (h, w) to multiples of ``BLOCK``; ``message`` is
(H, W, 4, h', w'), slot d holding what the neighbour in direction d last sent; ``labels`` is
(H, W, 2) int64 (row, col) of target cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

BLOCK = 16  # columns to a block: two AVX2 registers, and the 13 x 13 grid takes just one block
FORBIDDEN = np.float32(1e30)  # cost of a padded label: finite, so that no NaN can arise
DESCENT_PASSES = 50  # bound of the local descent, which needs fewer than ten in practice

# Directions: left, up, right, down as (dy, dx). The opposite of d is (d + 2) % 4.
STEP_Y = np.array([0, -1, 0, 1])
STEP_X = np.array([-1, 0, 1, 0])

# Without "reassoc" and "contract" a sum has one value whatever the width of the registers.
FAST = {"nnan", "ninf", "nsz"}


def padded(cells: int) -> int:
    """``cells`` rounded up to a multiple of ``BLOCK``."""
    return -(-cells // BLOCK) * BLOCK


def shifted_quadratics(cells: int, beta: float) -> Array:
    """(3, n, n) float32: ``[s + 1, out, in] = beta * (in - out + s)^2`` for steps s = -1, 0, 1."""
    index = np.arange(padded(cells))
    difference = index[None, None, :] - index[None, :, None]
    step = np.arange(-1, 2)[:, None, None]
    table: Array = (beta * (difference + step) ** 2).astype(np.float32)
    return table


def node_weights(rows: int, columns: int, reweighted: bool) -> Array:
    """(rows, columns) float32: the share of its belief that a node passes on.

    Reweighted, 1 / max(neighbours before, neighbours after) in scan order (Kolmogorov 2006,
    TRW-S): 1/2 inside a grid, 1 along a chain, where both kinds are exact. Otherwise 1.
    """
    y, x = np.ogrid[:rows, :columns]
    before = (y > 0).astype(int) + (x > 0)
    after = (y + 1 < rows).astype(int) + (x + 1 < columns)
    most = np.maximum(before, after) if reweighted else np.ones((rows, columns))
    share: Array = (1 / np.maximum(1, most)).astype(np.float32)
    return share


@njit(cache=True, fastmath=FAST, error_model="numpy")
def min_plus(table: Array, rows: Array, out: Array) -> None:
    """``out[o, x] = min_i table[o, i] + rows[i, x]``, i over a multiple of ``BLOCK`` rows.

    The sixteen terms are written out because the loop over x then needs one store and one check
    for aliasing to sixteen minima; as a loop over i it is five times slower.
    """
    out[:] = FORBIDDEN
    for i in range(0, rows.shape[0], 16):
        r = rows[i : i + 16]
        for o in range(out.shape[0]):
            t, p = table[o, i : i + 16], out[o]
            a, b, c, d, e, f, g, h = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]
            j, k, m, n, q, s, u, v = t[8], t[9], t[10], t[11], t[12], t[13], t[14], t[15]
            for x in range(p.shape[0]):
                low = min(min(r[0, x] + a, r[1, x] + b), min(r[2, x] + c, r[3, x] + d))
                mid = min(min(r[4, x] + e, r[5, x] + f), min(r[6, x] + g, r[7, x] + h))
                low = min(low, mid)
                top = min(min(r[8, x] + j, r[9, x] + k), min(r[10, x] + m, r[11, x] + n))
                end = min(min(r[12, x] + q, r[13, x] + s), min(r[14, x] + u, r[15, x] + v))
                p[x] = min(min(p[x], low), min(top, end))


@njit(cache=True, fastmath=FAST, error_model="numpy")
def send(belief: Array, down: Array, across: Array, between: Array, out: Array) -> None:
    """One message: the distance transform of ``belief`` (h', w'), along columns, then rows.

    ``down`` is the (out, in) table of the step in y, ``across`` the (in, out) table of that in x.
    """
    height = between.shape[0]
    min_plus(down[:height], belief, between)
    min_plus(between, across, out[:height])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def sweep(
    cost: Array, message: Array, down: Array, across: Array, weight: Array, height: int, turn: int
) -> None:
    """Visit all nodes and send on: ``turn`` 0 to the right and down, 1 to the left and up.

    ``weight`` (H, W) scales each node's belief: ones are plain belief propagation.
    """
    rows, columns = cost.shape[:2]
    belief = np.empty(cost.shape[2:], np.float32)
    outgoing = np.empty(cost.shape[2:], np.float32)
    between = np.empty((height, cost.shape[3]), np.float32)
    for step in range(rows * columns):
        node = step if turn == 0 else rows * columns - 1 - step
        y, x = node // columns, node % columns
        total, data, heard = belief.ravel(), cost[y, x].ravel(), message[y, x]
        m0, m1, m2, m3 = heard[0].ravel(), heard[1].ravel(), heard[2].ravel(), heard[3].ravel()
        for i in range(total.size):
            total[i] = weight[y, x] * (data[i] + (m0[i] + m1[i]) + (m2[i] + m3[i]))
        for direction in range(2 - 2 * turn, 4 - 2 * turn):
            qy, qx = y + STEP_Y[direction], x + STEP_X[direction]
            if not (0 <= qy < rows and 0 <= qx < columns):
                continue
            back, sent = heard[direction].ravel(), outgoing.ravel()
            low = FORBIDDEN
            for i in range(sent.size):
                sent[i] = total[i] - back[i]
                low = min(low, sent[i])
            for i in range(sent.size):
                sent[i] -= low  # normalised: messages stay near zero however many iterations run
            send(
                outgoing,
                down[STEP_Y[direction] + 1],
                across[STEP_X[direction] + 1],
                between,
                message[qy, qx, (direction + 2) % 4],
            )


@njit(cache=True, fastmath=FAST, error_model="numpy")
def best_label(cost: Array, by_row: Array, by_column: Array) -> tuple[int, int]:
    """The (row, col) with the least ``cost + by_row + by_column``; ties go to the lower label."""
    row, best = 0, FORBIDDEN
    for i in range(by_row.size):
        line = cost[i]
        low = FORBIDDEN
        for j in range(by_column.size):
            low = min(low, line[j] + by_column[j])
        if low + by_row[i] < best:
            row, best = i, low + by_row[i]
    column, low = 0, FORBIDDEN
    for j in range(by_column.size):
        if cost[row, j] + by_column[j] < low:
            column, low = j, cost[row, j] + by_column[j]
    return row, column


@njit(cache=True, error_model="numpy")
def condition(
    labels: Array, y: int, x: int, beta: float, directions: int, by_row: Array, by_column: Array
) -> None:
    """Deformation cost of node (y, x) against its first ``directions`` neighbours, per axis."""
    by_row[:] = 0
    by_column[:] = 0
    for direction in range(directions):
        dy, dx = STEP_Y[direction], STEP_X[direction]
        if 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]:
            row, column = labels[y + dy, x + dx]
            for i in range(by_row.size):
                by_row[i] += np.float32(beta * (i - row + dy) ** 2)
            for j in range(by_column.size):
                by_column[j] += np.float32(beta * (j - column + dx) ** 2)


@njit(cache=True, error_model="numpy")
def decode(cost: Array, message: Array, beta: float, height: int, width: int) -> Array:
    """Labels in scan order: left and upper neighbours are fixed, right and lower ones heard."""
    labels = np.zeros((cost.shape[0], cost.shape[1], 2), np.int64)
    by_row, by_column = np.empty(height, np.float32), np.empty(width, np.float32)
    belief = np.empty(cost.shape[2:], np.float32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            condition(labels, y, x, beta, 2, by_row, by_column)
            for i in range(height):
                for j in range(width):
                    belief[i, j] = cost[y, x, i, j] + (
                        message[y, x, 2, i, j] + message[y, x, 3, i, j]
                    )
            labels[y, x] = best_label(belief, by_row, by_column)
    return labels


@njit(cache=True, error_model="numpy")
def descend(cost: Array, beta: float, height: int, width: int, labels: Array) -> None:
    """Iterated conditional modes, in place, until no label changes."""
    by_row, by_column = np.empty(height, np.float32), np.empty(width, np.float32)
    for _ in range(DESCENT_PASSES):
        changed = False
        for y in range(labels.shape[0]):
            for x in range(labels.shape[1]):
                condition(labels, y, x, beta, 4, by_row, by_column)
                row, column = best_label(cost[y, x], by_row, by_column)
                changed |= row != labels[y, x, 0] or column != labels[y, x, 1]
                labels[y, x] = row, column
        if not changed:
            return


@njit(cache=True, error_model="numpy")
def total_energy(cost: Array, beta: float, labels: Array) -> float:
    """Data plus beta times deformation energy of ``labels``, float64."""
    data, deformation = 0.0, 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            row, column = labels[y, x]
            data += cost[y, x, row, column]
            if x + 1 < labels.shape[1]:
                dy, dx = labels[y, x + 1] - labels[y, x]
                deformation += dy**2 + (dx - 1) ** 2
            if y + 1 < labels.shape[0]:
                dy, dx = labels[y + 1, x] - labels[y, x]
                deformation += (dy - 1) ** 2 + dx**2
    return data + beta * deformation


@njit(cache=True, error_model="numpy")
def solve(
    cost: Array,
    message: Array,
    down: Array,
    across: Array,
    weight: Array,
    beta: float,
    still: Array,
    height: int,
    width: int,
    iterations: int,
) -> Array:
    """The labels of least energy met: ``still``, its descent, then each iteration's descent.

    ``message`` is zeroed workspace. Ties go to the earlier candidate.
    """
    best, least = still.copy(), total_energy(cost, beta, still)
    labels = still.copy()
    for iteration in range(iterations + 1):
        if iteration > 0:
            sweep(cost, message, down, across, weight, height, 0)
            sweep(cost, message, down, across, weight, height, 1)
            labels = decode(cost, message, beta, height, width)
        descend(cost, beta, height, width, labels)
        energy = total_energy(cost, beta, labels)
        if energy < least:
            best, least = labels, energy
    return best

"""Tree-reweighted message passing on the joint graph (numba): slower, and exact along chains.

A message is the squared-Euclidean distance transform of h x w numbers, shifted by the step to the
neighbour; it separates over rows and columns. Shapes as in ``_flow_cpu``; ``message`` is
(H, W, 4, h', w'), slot d holding what the neighbour in direction d last sent.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from distcorr.algorithms._flow_cpu import (
    FAST,
    FORBIDDEN,
    NEVER,
    STEP_X,
    STEP_Y,
    Array,
    best_label,
    condition,
    descend,
    padded,
    squares,
    total_energy,
)


class Reweighted:
    """The solver for one pair of shapes and one beta, with its workspace.

    Attributes:
        cost: (H, W, h', w') float32 to be filled by the caller before every ``solve``; its padding
            is there already.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], beta: float, iterations: int
    ) -> None:
        """
        Args:
            source: H and W.
            target: h and w.
            beta: weight of the deformation, per cell^2.
            iterations: rounds of one sweep forth and one back.
        """
        height, width = padded(target[0]), padded(target[1])
        self.cost = np.full((*source, height, width), FORBIDDEN, np.float32)
        self._message = np.empty((*source, 4, height, width), np.float32)
        self._down = shifted_quadratics(target[0], beta)
        self._across = shifted_quadratics(target[1], beta).transpose(0, 2, 1).copy()
        self._weight = node_weights(*source)
        self._squares = squares(2 * max(height, width, *source) + 2, beta)
        self._height, self._beta, self._iterations = target[0], beta, iterations

    def solve(self, still: Array) -> Array:
        """The labels of least energy met: ``still``, its descent, each iteration's descent."""
        best: Array = still
        least = total_energy(self.cost, self._beta, still)
        self._message.fill(0)
        for iteration in range(self._iterations + 1):
            if iteration == 0:
                labels = still.copy()
            else:
                for turn in (0, 1):
                    sweep(
                        self.cost,
                        self._message,
                        self._down,
                        self._across,
                        self._weight,
                        self._height,
                        turn,
                    )
                labels = decode(self.cost, self._message, self._squares)
            descend(self.cost, self._squares, labels)
            energy = total_energy(self.cost, self._beta, labels)
            if energy < least:
                best, least = labels, energy
        return best


def shifted_quadratics(cells: int, beta: float) -> Array:
    """(3, n, n) float32: ``[s + 1, out, in] = beta * (in - out + s)^2`` for steps s = -1, 0, 1."""
    index = np.arange(padded(cells))
    difference = index[None, None, :] - index[None, :, None]
    step = np.arange(-1, 2)[:, None, None]
    table: Array = np.minimum(beta * (difference + step) ** 2.0, NEVER).astype(np.float32)
    return table


def node_weights(rows: int, columns: int) -> Array:
    """(rows, columns) float32: the share of its belief that a node passes on.

    1 / max(neighbours before, neighbours after) in scan order (Kolmogorov 2006): 1/2 inside a
    grid, 1 along a chain, where message passing is exact.
    """
    y, x = np.ogrid[:rows, :columns]
    before = (y > 0).astype(int) + (x > 0)
    after = (y + 1 < rows).astype(int) + (x + 1 < columns)
    share: Array = (1 / np.maximum(1, np.maximum(before, after))).astype(np.float32)
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
def decode(cost: Array, message: Array, square: Array) -> Array:
    """Labels in scan order: left and upper neighbours are fixed, right and lower ones heard."""
    rows, columns, height, width = cost.shape
    labels = np.zeros((rows, columns, 2), np.int64)
    by_row, by_column = np.empty(height, np.float32), np.empty(width, np.float32)
    belief, least = np.empty((height, width), np.float32), np.empty(width, np.float32)
    for y in range(rows):
        for x in range(columns):
            condition(labels, y, x, square, 2, by_row, by_column)
            total, data = belief.ravel(), cost[y, x].ravel()
            right, down = message[y, x, 2].ravel(), message[y, x, 3].ravel()
            for i in range(total.size):
                total[i] = data[i] + (right[i] + down[i])
            labels[y, x, 0], labels[y, x, 1] = best_label(belief, by_row, by_column, least)
    return labels

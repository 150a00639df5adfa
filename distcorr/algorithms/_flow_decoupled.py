"""The default solver: belief propagation on two planes, coarse to fine (numba).

``||w(p) - w(q)||^2`` separates into rows and columns, so each source cell becomes two nodes, one
for the row and one for the column of its label, and the data cost the edge between the two (as
SIFT flow does; Shekhovtsov, Kovtun and Hlavac 2007). The energy stays the same, and a message
shrinks from h x w numbers to h or w. Three levels hide that this graph has more loops, and decoding
both nodes of a cell together undoes most of what is left: a thousand labels cost what sixty do, at
energies next to those of the joint graph (``benchmarks/alignment.py``).

Shapes as in ``_flow_cpu``, and ``messages_x`` (H, W, 4, w'), ``messages_y`` (H, W, 4, h'): slot d
holds what the neighbour in direction d last sent, in the plane of columns and of rows; ``dual_x``
(H, W, w') and ``dual_y`` (H, W, h'): what a cell's other plane last said. ``step`` is the distance
of neighbouring nodes in cells, more than 1 on the coarse levels.
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
    spread,
    squares,
    total_energy,
)

LEVELS = 3  # of the pyramid, the paper's [29] on a 13 x 13 grid


class Decoupled:
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
            iterations: rounds of one sweep forth and one back, on every level.
        """
        self._target, self._beta, self._iterations = target, beta, iterations
        shapes = [source]
        while len(shapes) < LEVELS and max(shapes[-1]) > 1:
            rows, columns = shapes[-1]
            shapes.append((-(-rows // 2), -(-columns // 2)))
        height, width = padded(target[0]), padded(target[1])
        self._costs = [np.full((*s, height, width), FORBIDDEN, np.float32) for s in shapes]
        self._messages = [
            (
                np.empty((*s, 4, width), np.float32),
                np.empty((*s, 4, height), np.float32),
                np.empty((*s, width), np.float32),
                np.empty((*s, height), np.float32),
            )
            for s in shapes
        ]
        reach = max(height, width, *source) + 2**LEVELS
        self._squares = squares(2 * reach, beta)
        self.cost = self._costs[0]

    def solve(self, still: Array) -> Array:
        """Labels (H, W, 2) of an energy that is never above that of ``still``."""
        coarsest = len(self._costs) - 1
        for level in range(coarsest):
            coarsen(self._costs[level], *self._target, 2**level, self._costs[level + 1])
        for level in range(coarsest, -1, -1):
            messages = self._messages[level]
            if level == coarsest:
                start(*self._target, *messages)
            else:
                for parent, child in zip(self._messages[level + 1], messages, strict=True):
                    inherit(parent, child)
            for _ in range(self._iterations):
                for turn in (0, 1):
                    sweep(self._costs[level], *messages, self._squares, 2**level, turn)
        labels: Array = decode(self.cost, *self._messages[0][:2], self._squares)
        descend(self.cost, self._squares, labels)
        stood, moved = (total_energy(self.cost, self._beta, c) for c in (still, labels))
        if moved > stood:
            labels = still.copy()
            descend(self.cost, self._squares, labels)
        return labels


@njit(cache=True, fastmath=FAST, error_model="numpy")
def coarsen(cost: Array, height: int, width: int, step: int, out: Array) -> None:
    """Costs of the next level: what four children cost together if all move like their parent.

    A parent's label is the target cell of its upper left child, ``step`` cells from the next. Where
    a child would leave the target grid it takes the nearest cell of it.
    """
    for y in range(cost.shape[0]):
        for x in range(cost.shape[1]):
            parent, child = out[y // 2, x // 2], cost[y, x]
            down, right = step * (y % 2), min(step * (x % 2), width - 1)
            inside = width - right
            for i in range(height):
                line, values = parent[i], child[min(i + down, height - 1)]
                here, moved = line[:inside], values[right:width]
                if y % 2 + x % 2 == 0:  # the first child
                    here[:] = moved
                else:
                    for j in range(inside):
                        here[j] += moved[j]
                    for j in range(inside, width):
                        line[j] += values[width - 1]


@njit(cache=True, error_model="numpy")
def start(
    height: int, width: int, messages_x: Array, messages_y: Array, dual_x: Array, dual_y: Array
) -> None:
    """Nothing has been said yet, but that the padding is forbidden."""
    messages_x[:] = 0
    messages_y[:] = 0
    dual_x[:] = 0
    dual_y[:] = 0
    dual_x[:, :, width:] = NEVER
    dual_y[:, :, height:] = NEVER


@njit(cache=True, error_model="numpy")
def inherit(parent: Array, child: Array) -> None:
    """Every child begins with its parent's messages."""
    for y in range(child.shape[0]):
        for x in range(child.shape[1]):
            child[y, x] = parent[y // 2, x // 2]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def sweep(
    cost: Array,
    messages_x: Array,
    messages_y: Array,
    dual_x: Array,
    dual_y: Array,
    square: Array,
    step: int,
    turn: int,
) -> None:
    """Visit all cells and send on: ``turn`` 0 to the right and down, 1 to the left and up.

    On the way forth a cell's columns speak to its rows, on the way back its rows to its columns.
    """
    rows, columns, height, width = cost.shape
    middle = square.size // 2
    heard_x, heard_y = np.empty(width, np.float32), np.empty(height, np.float32)
    sent_x, sent_y = np.empty(width, np.float32), np.empty(height, np.float32)
    for visit in range(rows * columns):
        node = visit if turn == 0 else rows * columns - 1 - visit
        y, x = node // columns, node % columns
        hear(messages_x[y, x], heard_x)
        hear(messages_y[y, x], heard_y)
        if turn == 0:
            least_of_rows(cost[y, x], heard_x, dual_y[y, x])
            normalise(dual_y[y, x])
        else:
            spread(heard_y, cost[y, x], dual_x[y, x])
            normalise(dual_x[y, x])
        add(dual_x[y, x], heard_x)
        add(dual_y[y, x], heard_y)
        for d in range(2 - 2 * turn, 4 - 2 * turn):
            dy, dx = STEP_Y[d], STEP_X[d]
            if 0 <= y + dy < rows and 0 <= x + dx < columns:
                start_x, start_y = middle - step * dx, middle - step * dy
                pass_on(messages_x, y, x, y + dy, x + dx, d, heard_x, sent_x, square, start_x)
                pass_on(messages_y, y, x, y + dy, x + dx, d, heard_y, sent_y, square, start_y)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def pass_on(
    messages: Array,
    y: int,
    x: int,
    to_y: int,
    to_x: int,
    direction: int,
    belief: Array,
    sent: Array,
    square: Array,
    start: int,
) -> None:
    """Tell the neighbour in one direction what all others, and the own cell, say."""
    own = messages[y, x, direction]
    for i in range(sent.size):
        sent[i] = belief[i] - own[i]
    normalise(sent)
    transform(sent, square, start, messages[to_y, to_x, (direction + 2) % 4])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def add(values: Array, total: Array) -> None:
    """``total += values``."""
    for i in range(total.size):
        total[i] += values[i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def hear(messages: Array, total: Array) -> None:
    """The sum of the four incoming messages."""
    a, b, c, d = messages[0], messages[1], messages[2], messages[3]
    for i in range(total.size):
        total[i] = (a[i] + b[i]) + (c[i] + d[i])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def normalise(values: Array) -> None:
    """Subtract the least, so that messages stay near zero however many sweeps run."""
    low = FORBIDDEN
    for i in range(values.size):
        low = min(low, values[i])
    for i in range(values.size):
        values[i] = min(values[i] - low, NEVER)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def least_of_rows(cost: Array, by_column: Array, out: Array) -> None:
    """``out[i] = min_j cost[i, j] + by_column[j]``, four rows at a time."""
    for i in range(0, out.size, 4):
        a, b, c, d = cost[i], cost[i + 1], cost[i + 2], cost[i + 3]
        p = q = r = s = FORBIDDEN
        for j in range(by_column.size):
            v = by_column[j]
            p, q = min(p, a[j] + v), min(q, b[j] + v)
            r, s = min(r, c[j] + v), min(s, d[j] + v)
        out[i], out[i + 1], out[i + 2], out[i + 3] = p, q, r, s


@njit(cache=True, fastmath=FAST, error_model="numpy")
def transform(values: Array, square: Array, start: int, out: Array) -> None:
    """``out[x] = min_i values[i] + square[start + x - i]``: the distance transform of one axis.

    At 30 labels the vectorised O(n^2) minimum beats the O(n) lower envelope of Felzenszwalb and
    Huttenlocher several times over.
    """
    out[:] = FORBIDDEN
    for i in range(0, values.size, 8):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        e, f, g, h = values[i + 4], values[i + 5], values[i + 6], values[i + 7]
        s = square[start - i - 7 : start - i + out.size]
        for x in range(out.size):
            low = min(min(s[x + 7] + a, s[x + 6] + b), min(s[x + 5] + c, s[x + 4] + d))
            end = min(min(s[x + 3] + e, s[x + 2] + f), min(s[x + 1] + g, s[x] + h))
            out[x] = min(out[x], min(low, end))


@njit(cache=True, fastmath=FAST, error_model="numpy")
def decode(cost: Array, messages_x: Array, messages_y: Array, square: Array) -> Array:
    """Row and column together, in scan order: left and upper cells are fixed, the others heard."""
    rows, columns, height, width = cost.shape
    labels = np.zeros((rows, columns, 2), np.int64)
    by_row, by_column = np.empty(height, np.float32), np.empty(width, np.float32)
    least = np.empty(width, np.float32)
    for y in range(rows):
        for x in range(columns):
            condition(labels, y, x, square, 2, by_row, by_column)
            right, down = messages_x[y, x, 2], messages_x[y, x, 3]
            for j in range(width):
                by_column[j] += right[j] + down[j]
            right, down = messages_y[y, x, 2], messages_y[y, x, 3]
            for i in range(height):
                by_row[i] += right[i] + down[i]
            labels[y, x, 0], labels[y, x, 1] = best_label(cost[y, x], by_row, by_column, least)
    return labels

"""The paper's own alignment solver: min-sum belief propagation on displacements (section 3).

Multi-scale belief propagation with a checkerboard schedule (paper [29]) whose messages are squared
Euclidean distance transforms by the lower envelope of parabolas (Felzenszwalb & Huttenlocher,
paper [30]). It is the reference that faster solvers are measured against; its data flow is the
published one, settled in the protocol, sections 8.4 and 8.5.

A label is a displacement ``w = t - p``, ``dy`` from -(H - 1) to h - 1 and ``dx`` from -(W - 1) to
w - 1, in that order: L = H + h - 1 rows by M = W + w - 1 columns. ``data`` is (H, W, L, M) float32;
``message`` is (H, W, 4, L, M) float32, slot d holding what the neighbour in direction d last sent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
Workspace = tuple[Array, Array, Array, Array, Array]

LEVELS = 3  # protocol, section 8.5; not in the paper
ITERATIONS = 6  # to a level: protocol, section 8.5; not in the paper

# Directions: left, up, right, down as (dy, dx). The opposite of d is (d + 2) % 4.
STEP_Y = np.array([0, -1, 0, 1])
STEP_X = np.array([-1, 0, 1, 0])


def solve(
    cost: npt.NDArray[np.float32],
    beta: float,
    levels: int = LEVELS,
    iterations: int = ITERATIONS,
    truncation: float = math.inf,
) -> npt.NDArray[np.int64]:
    """The target cell of every source cell that the paper's belief propagation settles on.

    It looks for the least ``sum_p cost[p, t_p] + beta * sum_pq ||w(p) - w(q)||^2`` over 4-neighbour
    edges; it finds it on chains that are no longer than its steps, and comes near it elsewhere.
    Deterministic, one thread.

    Args:
        cost: (H, W, h, w) float32, finite: data cost of target cell (row, col) for a source cell.
        beta: weight of the deformation, per cell^2.
        levels: scales; every further one merges 2 x 2 nodes. 1 is a single scale.
        iterations: steps at each level; half of the nodes, as on a checkerboard, send at each.
        truncation: the most that an edge costs, in units of the energy; the paper has none.

    Returns:
        (H, W, 2) int64 (row, col) of target cells; ties go to the lower label.

    Raises:
        ValueError: cost is not a finite, non-empty (H, W, h, w) array; beta is not finite and
            positive; levels below 1; iterations below 0; truncation is not positive.
    """
    cost = np.ascontiguousarray(cost, np.float32)
    if cost.ndim != 4 or 0 in cost.shape or not np.isfinite(cost).all():
        raise ValueError(f"cost must be finite, non-empty and (H, W, h, w), got {cost.shape}")
    if not (math.isfinite(beta) and beta > 0 and truncation > 0):
        raise ValueError(f"beta and truncation must be positive, got {beta} and {truncation}")
    if levels < 1 or iterations < 0:
        raise ValueError(f"levels >= 1 and iterations >= 0 wanted, got {levels} and {iterations}")
    pyramid = [_displacement_costs(cost, _forbidden(cost, beta))]
    while len(pyramid) < levels:
        pyramid.append(_merged(pyramid[-1]))
    rows, columns, *labels = pyramid[-1].shape
    message = np.zeros((rows, columns, 4, *labels), np.float32)
    work = _workspace(max(labels), beta)
    for level, data in reversed(list(enumerate(pyramid))):
        if level + 1 < levels:  # every child starts with its parent's messages
            y, x = np.ogrid[: data.shape[0], : data.shape[1]]
            message = message[y // 2, x // 2]
        _pass_messages(data, message, work, iterations, float(truncation))
    result: npt.NDArray[np.int64] = _decoded(pyramid[0], message, *cost.shape[2:])
    return result


def smoothness(labels: npt.NDArray[np.integer[Any]], beta: float, truncation: float) -> float:
    """Sum over 4-neighbour edges of ``min(beta * ||w(p) - w(q)||^2, truncation)``, float64.

    Args:
        labels: (H, W, 2) (row, col) of target cells, as `solve` returns them.
        beta: weight of the deformation, per cell^2.
        truncation: the most that an edge costs, in units of the energy.
    """
    w = labels - np.moveaxis(np.indices(labels.shape[:2]), 0, -1)
    squares = [(np.diff(w, axis=axis) ** 2).sum(axis=-1) for axis in (0, 1)]
    return float(sum(np.minimum(beta * each, truncation).sum() for each in squares))


def distance_transform(values: npt.NDArray[np.floating[Any]], beta: float) -> Array:
    """(L, M) float64: ``out[i, j] = min_kl values[k, l] + beta * ((i - k)^2 + (j - l)^2)``.

    The lower envelope of parabolas along one axis, then along the other, in O(L M) (Felzenszwalb &
    Huttenlocher, "Distance transforms of sampled functions").

    Args:
        values: (L, M), finite.
        beta: of the parabolas, finite and positive.
    """
    values = np.ascontiguousarray(values, np.float64)
    out = np.empty_like(values)
    _transform(values, _workspace(max(values.shape), beta), np.empty(values.shape[::-1]), out)
    return out


def _forbidden(cost: Array, beta: float) -> float:
    """Cost of a displacement out of the target grid: more than standing still can cost.

    Number of cells times the largest data cost (protocol, section 8.4), plus the deformation that
    clamping w = 0 to a target grid smaller than the source's brings with it. Anything forbids
    where nothing costs.
    """
    rows, columns, height, width = cost.shape
    clamped = columns * max(rows - height, 0) + rows * max(columns - width, 0)
    return float(rows * columns * float(np.abs(cost).max()) + beta * clamped) or 1.0


def _displacement_costs(cost: Array, forbidden: float) -> Array:
    """``cost`` by displacement: (H, W, L, M) float32."""
    rows, columns, height, width = cost.shape
    shape = (rows, columns, rows + height - 1, columns + width - 1)
    data = np.full(shape, forbidden, np.float32)
    for y, x in np.ndindex(rows, columns):
        top, left = rows - 1 - y, columns - 1 - x
        data[y, x, top : top + height, left : left + width] = cost[y, x]
    return data


def _merged(data: Array) -> Array:
    """The next coarser level: the sum of 2 x 2 nodes, fewer at an odd border."""
    parents = data[::2, ::2].copy()
    for dy, dx in ((0, 1), (1, 0), (1, 1)):
        children = data[dy::2, dx::2]
        parents[: children.shape[0], : children.shape[1]] += children
    return parents


def _workspace(size: int, beta: float) -> Workspace:
    """What `_lines` needs for lines of up to ``size``: parabola, inverse, lifted, start, apex."""
    distance = np.arange(size, dtype=np.float64)
    inverse = np.zeros(size)
    inverse[1:] = 1 / (2 * beta * distance[1:])
    return beta * distance**2, inverse, np.empty(size), np.empty(size + 1), np.empty(size, np.int64)


@njit(cache=True, error_model="numpy")
def _lines(values: Array, work: Workspace, out: Array) -> None:
    """``out[q, line] = min_p values[line, p] + parabola[|q - p|]``: transposed, so that it chains.

    ``apex[:k + 1]`` are the parabolas of the lower envelope from left to right, ``start`` where
    each begins to be the lowest; ``last``, ``height`` and ``begin`` are those of parabola k.
    ``inverse[d]`` is 1 / (2 beta d): no division in the loop.
    """
    parabola, inverse, lifted, start, apex = work
    size = values.shape[1]
    for line in range(values.shape[0]):
        row = values[line]
        k, last, height, begin = 0, 0, row[0], -np.inf
        apex[0], lifted[0], start[0] = last, height, begin
        for q in range(1, size):
            lifted[q] = row[q] + parabola[q]
            meet = (lifted[q] - height) * inverse[q - last]
            while meet <= begin:
                k -= 1
                last, begin = apex[k], start[k]
                height = lifted[last]
                meet = (lifted[q] - height) * inverse[q - last]
            k, last, height, begin = k + 1, q, lifted[q], meet
            apex[k], start[k] = last, begin
        start[k + 1] = np.inf
        k = 0
        for q in range(size):
            while start[k + 1] < q:
                k += 1
            out[q, line] = row[apex[k]] + parabola[abs(q - apex[k])]


@njit(cache=True, error_model="numpy")
def _transform(values: Array, work: Workspace, between: Array, out: Array) -> None:
    """`distance_transform` into ``out``; ``between`` has the transposed shape."""
    _lines(values, work, between)
    _lines(between, work, out)


@njit(cache=True, error_model="numpy")
def _normalise(transformed: Array, truncation: float, out: Array) -> None:
    """``out``: ``transformed`` cut at its least value plus ``truncation``, less its mean."""
    values, sent = transformed.ravel(), out.ravel()
    low = np.inf
    for i in range(values.size):
        low = min(low, values[i])
    top, total = low + truncation, 0.0
    for i in range(values.size):
        values[i] = min(values[i], top)
        total += values[i]
    mean = total / values.size
    for i in range(values.size):
        sent[i] = values[i] - mean


@njit(cache=True, error_model="numpy")
def _pass_messages(
    data: Array, message: Array, work: Workspace, iterations: int, truncation: float
) -> None:
    """``iterations`` steps in place; at step t the nodes with an even x + y + t send."""
    rows, columns, height, width = data.shape
    belief, held = np.empty(height * width), np.empty((height, width))
    between, transformed = np.empty((width, height)), np.empty((height, width))
    for step in range(iterations):
        for y in range(rows):
            for x in range((y + step) % 2, columns, 2):
                _sum_up(data[y, x], message[y, x], belief)
                for direction in range(4):
                    qy, qx = y + STEP_Y[direction], x + STEP_X[direction]
                    if not (0 <= qy < rows and 0 <= qx < columns):
                        continue
                    heard, others = message[y, x, direction].ravel(), held.ravel()
                    for i in range(others.size):
                        others[i] = belief[i] - heard[i]
                    _transform(held, work, between, transformed)
                    _normalise(transformed, truncation, message[qy, qx, (direction + 2) % 4])


@njit(cache=True, error_model="numpy")
def _sum_up(data: Array, heard: Array, belief: Array) -> None:
    """``belief`` (L * M,) float64: data cost plus the messages from all four neighbours."""
    own, m0, m1 = data.ravel(), heard[0].ravel(), heard[1].ravel()
    m2, m3 = heard[2].ravel(), heard[3].ravel()
    for i in range(belief.size):
        belief[i] = np.float64(own[i]) + m0[i] + m1[i] + m2[i] + m3[i]


@njit(cache=True)
def _decoded(data: Array, message: Array, height: int, width: int) -> Array:
    """(H, W, 2) int64: the target cell of least belief, among those in the grid."""
    rows, columns = data.shape[:2]
    labels = np.empty((rows, columns, 2), np.int64)
    belief = np.empty(data.shape[2] * data.shape[3])
    for y in range(rows):
        for x in range(columns):
            _sum_up(data[y, x], message[y, x], belief)
            by_displacement = belief.reshape(data.shape[2:])
            top, left = rows - 1 - y, columns - 1 - x
            low = np.inf
            for row in range(height):
                for column in range(width):
                    value = by_displacement[top + row, left + column]
                    if value < low:
                        low = value
                        labels[y, x] = row, column
    return labels

"""A certified lower bound of the alignment's least energy (paper, section 3).

Every edge of the grid lies on one row or one column. If the data costs are split,
``cost = by_row + by_column``, the minima of all row chains with ``by_row`` and of all column chains
with ``by_column`` add up to at most the least energy, whatever the split: each chain's minimum is
below its share of any labelling's energy. Sequential tree-reweighted message passing (Kolmogorov
2006, TRW-S) looks for the split of the highest bound. Its messages are float32; the chains are
solved in float64, and what that can round off is subtracted, so the bound holds even if a message
were wrong.

A label is an absolute target cell ``t_p``, as ``w(p) - w(q) = t_p - t_q + (q - p)``. ``cost`` is
padded from (h, w) to multiples of ``BLOCK`` with ``FORBIDDEN``; ``message`` is (H, W, 4, h', w')
float32, slot d holding what the neighbour in direction d last sent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

ITERATIONS = 50  # not in the paper; 13 x 13 cells of conv4 take 9 (median), at ten times beta 18
STALLED = 1e-7  # relative gain of one iteration below which the next are not worth their time
BLOCK = 8  # labels to a block, on both axes
FORBIDDEN = np.float32(1e30)  # cost of a padded label: finite, so that no NaN can arise

# Directions: left, up, right, down as (dy, dx). The opposite of d is (d + 2) % 4.
STEP_Y = np.array([0, -1, 0, 1])
STEP_X = np.array([-1, 0, 1, 0])

FAST = {"nnan", "ninf", "nsz"}  # min as one instruction; sums keep their order


def lower_bound(
    cost: npt.NDArray[np.float32], beta: float, iterations: int = ITERATIONS
) -> tuple[float, npt.NDArray[np.float64]]:
    """A number that no labelling's energy is below, and how it rose.

    The energy is ``sum_p cost[p, t_p] + beta * sum_pq ||w(p) - w(q)||^2`` over 4-neighbour edges;
    on a chain (H or W = 1) the bound is its minimum. Deterministic, one thread.

    Args:
        cost: (H, W, h, w) float32, finite, below 1e30: data cost of target cell (row, col) for a
            source cell.
        beta: weight of the deformation, per cell^2.
        iterations: at most so many, of one sweep forth and one back; fewer once the bound stalls.

    Returns:
        The bound, in units of the energy, and the trace: the certified bound after each iteration,
        float64. The bound is the trace's maximum; on a loop it can stay below the least energy.

    Raises:
        ValueError: cost is not a finite, non-empty (H, W, h, w) array; beta is not finite and
            positive; iterations below 1.
    """
    cost = np.ascontiguousarray(cost, np.float32)
    if cost.ndim != 4 or 0 in cost.shape or not np.abs(cost).max() < FORBIDDEN:
        raise ValueError(f"cost must be finite, non-empty and (H, W, h, w), got {cost.shape}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be finite and positive, got {beta}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    rows, columns, height, width = cost.shape
    shape = (rows, columns, -(-height // BLOCK) * BLOCK, -(-width // BLOCK) * BLOCK)
    data = np.full(shape, FORBIDDEN, np.float32)
    data[:, :, :height, :width] = cost
    down = _shifted_quadratics(shape[2], beta)
    across = _shifted_quadratics(shape[3], beta).transpose(0, 2, 1).copy()
    tables = down.astype(np.float32), across.astype(np.float32)
    # Share of a node's belief that its row's chain gets; the column's gets the rest.
    share = 1.0 if rows == 1 else 0.0 if columns == 1 else 0.5
    message = np.zeros((rows, columns, 4, *shape[2:]), np.float32)
    trace: list[float] = []
    while len(trace) < iterations:
        for turn in (0, 1):
            _sweep(data, message, *tables, max(share, 1 - share), turn)
        bound = _chain_minima(data, message, down, across, share)
        trace.append(bound - _slack(cost, message[..., :height, :width], beta))
        if len(trace) > 1 and trace[-1] - trace[-2] <= STALLED * abs(trace[-1]):
            break
    return max(trace), np.array(trace)


def _shifted_quadratics(cells: int, beta: float) -> Array:
    """(3, n, n) float64: ``[s + 1, out, in] = beta * (in - out + s)^2`` for steps s = -1, 0, 1."""
    index = np.arange(cells)
    difference = index[None, None, :] - index[None, :, None]
    table: Array = beta * (difference + np.arange(-1, 2)[:, None, None]).astype(np.float64) ** 2
    return table


def _slack(cost: Array, message: Array, beta: float) -> float:
    """More than rounding can have added to the sum of the chains' minima: some 1e-12 of it.

    Follow the best labelling along a chain. A node takes fewer than 16 float64 operations; no
    result exceeds the chain's largest costs and messages plus the labelling's deformation. Over the
    row chains these add up to less than ``size``, and over the column chains as well: the best
    labelling's deformation is less than the energy of standing still, clamped, plus its own costs.
    """
    rows, columns, height, width = cost.shape
    clamped = columns * max(rows - height, 0) + rows * max(columns - width, 0)
    terms = np.abs(cost).max((2, 3)) + np.abs(message).max((3, 4)).sum(2)
    size = 4 * float(terms.sum(dtype=np.float64)) + beta * clamped
    return float(16 * (rows + columns) * np.finfo(np.float64).eps * size)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _min_plus(table: Array, rows: Array, out: Array) -> None:
    """``out[o, x] = min_i table[o, i] + rows[i, x]``, i over a multiple of ``BLOCK`` rows.

    The eight terms are written out so that the loop over x is vectorised.
    """
    out[:] = FORBIDDEN
    for i in range(0, rows.shape[0], 8):
        r = rows[i : i + 8]
        for o in range(out.shape[0]):
            t, p = table[o, i : i + 8], out[o]
            a, b, c, d, e, f, g, h = t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]
            for x in range(p.shape[0]):
                low = min(min(r[0, x] + a, r[1, x] + b), min(r[2, x] + c, r[3, x] + d))
                top = min(min(r[4, x] + e, r[5, x] + f), min(r[6, x] + g, r[7, x] + h))
                p[x] = min(p[x], min(low, top))


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _sweep(
    data: Array, message: Array, down: Array, across: Array, share: float, turn: int
) -> None:
    """Visit all nodes and send on: ``turn`` 0 to the right and down, 1 to the left and up."""
    rows, columns = data.shape[:2]
    belief, held = np.empty(data.shape[2:], np.float32), np.empty(data.shape[2:], np.float32)
    between, part = np.empty(data.shape[2:], np.float32), np.float32(share)
    for visit in range(rows * columns):
        node = visit if turn == 0 else rows * columns - 1 - visit
        y, x = node // columns, node % columns
        total, own, heard = belief.ravel(), data[y, x].ravel(), message[y, x]
        m0, m1, m2, m3 = heard[0].ravel(), heard[1].ravel(), heard[2].ravel(), heard[3].ravel()
        for i in range(total.size):
            total[i] = part * (own[i] + (m0[i] + m1[i]) + (m2[i] + m3[i]))
        for direction in range(2 - 2 * turn, 4 - 2 * turn):
            dy, dx = STEP_Y[direction], STEP_X[direction]
            if not (0 <= y + dy < rows and 0 <= x + dx < columns):
                continue
            back, sent = heard[direction].ravel(), held.ravel()
            low = FORBIDDEN
            for i in range(sent.size):
                sent[i] = total[i] - back[i]
                low = min(low, sent[i])
            for i in range(sent.size):
                sent[i] -= low  # messages stay near zero however many iterations run
            _min_plus(down[dy + 1], held, between)
            _min_plus(between, across[dx + 1], message[y + dy, x + dx, (direction + 2) % 4])


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _chain_minima(data: Array, message: Array, down: Array, across: Array, share: float) -> float:
    """The sum of all chains' least energies, float64, with the split that the messages imply."""
    rows, columns = data.shape[:2]
    best, between = np.empty(data.shape[2:]), np.empty(data.shape[2:])
    arriving = np.empty(data.shape[2:])
    total = 0.0
    for kind in range(2):  # rows from left to right, columns from top to bottom
        dy, dx = kind, 1 - kind
        for chain in range(columns if kind else rows):
            for place in range(rows if kind else columns):
                y, x = (place, chain) if kind else (chain, place)
                if place:
                    _min_plus(down[dy + 1], best, between)
                    _min_plus(between, across[dx + 1], arriving)
                _add_share(data[y, x], message[y, x], share, kind, place > 0, arriving, best)
            total += best.min()
    return total


@njit(cache=True, fastmath=FAST, error_model="numpy")
def _add_share(
    data: Array, heard: Array, share: float, kind: int, linked: bool, arriving: Array, out: Array
) -> None:
    """``out``: ``arriving``, where linked, plus a node's data cost for its row or column chain.

    The row's part is ``share`` of the belief less what its own neighbours sent; the column's is
    the rest of the data cost, so that both add up to it.
    """
    own, values, before = data.ravel(), out.ravel(), arriving.ravel()
    m0, m1, m2, m3 = heard[0].ravel(), heard[1].ravel(), heard[2].ravel(), heard[3].ravel()
    for i in range(values.size):
        cost, along = np.float64(own[i]), np.float64(m0[i]) + m2[i]
        part = share * (cost + along + (np.float64(m1[i]) + m3[i])) - along
        if kind == 1:
            part = cost - part
        part = part if own[i] < FORBIDDEN else np.float64(FORBIDDEN)  # lost in a share of it
        values[i] = part + before[i] if linked else part

"""Belief propagation on two planes (``_flow_decoupled``) for a whole chunk of pairs, in torch.

Step by step what the CPU solver does, with sums in the same order, so that the same costs give the
same labels. The CPU visits cells in scan order, where a cell waits for its left and upper
neighbours alone: all cells of an anti-diagonal ``y + x = d`` can be visited together.

Cells are therefore stored by diagonal and, along it, by row: a diagonal is a slice, and so are the
neighbours of its cells in each direction. Messages and labels are stored for a grid with a *ring*
of one more cell on every side, where what is sent over the border goes unread.

Shapes, for P pairs, source (H, W), target (h, w), n = max(h, w), K cells on a diagonal: ``cost``
(H * W, P, h, w) float32; ``state`` (5, ring, 2, P, n) float32: what the neighbours in the four
directions last sent and what the cell's other plane last said, for the planes of rows (0) and of
columns (1); ``labels`` (ring, 2, P) int64 (row, col), and n on the ring itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distcorr.algorithms._flow_cpu import (
    DESCENT_PASSES,
    NEVER,
    STEP_X,
    STEP_Y,
    squares,
)
from distcorr.algorithms._flow_decoupled import LEVELS

Shape = tuple[int, int]


def pyramid(source: Shape) -> list[Shape]:
    """Rows and columns of every level, the finest first."""
    shapes = [source]
    while len(shapes) < LEVELS and max(shapes[-1]) > 1:
        rows, columns = shapes[-1]
        shapes.append((-(-rows // 2), -(-columns // 2)))
    return shapes


def cells(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 2) the (row, col) of every cell in scan order, int64."""
    y, x = (torch.arange(n, device=device) for n in (rows, columns))
    return torch.cartesian_prod(y, x)


class _Diagonal(NamedTuple):
    top: int  # row of its first cell
    cost: slice  # of its cells in ``cost``
    here: slice  # of its cells in the ring's grid
    around: tuple[slice, ...]  # of their neighbours there, one slice per direction


class _Level:
    """Where the cells of a grid are stored: ``places`` and, with the ring, ``ring``."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = rows, columns
        self.places, self.ring = _places(rows, columns), _places(rows + 2, columns + 2)
        self.diagonals = [self._diagonal(d) for d in range(rows + columns - 1)]

    def _diagonal(self, d: int) -> _Diagonal:
        top = max(0, d - self.shape[1] + 1)
        count = min(d + 1, self.shape[0]) - top
        y, x = top + 1, d - top + 1  # of its first cell, in the ring's grid
        here, *around = (
            _slice(self.ring[y + dy, x + dx], count)
            for dy, dx in [(0, 0), *zip(STEP_Y, STEP_X, strict=True)]
        )
        return _Diagonal(top, _slice(self.places[top, d - top], count), here, tuple(around))

    def inner(self, device: torch.device) -> Tensor:
        """(rows * columns,) the places in the ring's grid of all cells, in scan order."""
        return torch.from_numpy(self.ring[1:-1, 1:-1].ravel()).to(device)

    def children(self, d: int, dy: int, dx: int, finer: _Level) -> tuple[slice, slice]:
        """The children (2 y + dy, 2 x + dx) of diagonal ``d``, and the cells that have one.

        Both are slices of the cost of their level.
        """
        diagonal = self.diagonals[d]
        y, x = diagonal.top, d - diagonal.top
        first, count = diagonal.cost.start, diagonal.cost.stop - diagonal.cost.start
        count -= 2 * (y + count - 1) + dy >= finer.shape[0]
        if 2 * x + dx >= finer.shape[1]:
            y, x, first, count = y + 1, x - 1, first + 1, count - 1
        if count < 1:
            return slice(0), slice(0)
        start = int(finer.places[2 * y + dy, 2 * x + dx])
        return slice(start, start + 2 * count - 1, 2), slice(first, first + count)


class Solver:
    """The solver for one pair of shapes and one beta, on one device.

    Attributes:
        order: (H * W,) the cells, as indices in scan order, in the order of ``cost``.
    """

    def __init__(
        self, source: Shape, target: Shape, beta: float, iterations: int, device: torch.device
    ) -> None:
        self._target, self._beta, self._iterations = target, beta, iterations
        self._levels = [_Level(*shape) for shape in pyramid(source)]
        self._device = device
        self.order = torch.from_numpy(np.argsort(self._levels[0].places.ravel())).to(device)
        side = max(target)
        reach = side + 2**LEVELS
        # Clamped, so that no beta makes an infinity, and of that a NaN.
        square = torch.from_numpy(squares(reach, beta)).to(device)
        way = torch.arange(side, device=device)
        apart = reach + way - way[:, None]  # [i, x] of x - i
        steps = np.stack([STEP_Y, STEP_X], 1).tolist()
        # For turn 0, to the right and down, and 1, to the left and up: (2, 1, 2, 1, n, n).
        self._transforms = [
            [
                torch.stack(
                    [torch.stack([square[apart - 2**level * s] for s in steps[k]]) for k in ways]
                )[:, None, :, None]
                for ways in ((2, 3), (0, 1))
            ]
            for level in range(len(self._levels))
        ]
        # A row for every step and label of a neighbour, and one of zeros where there is none.
        rows = [torch.cat([square[apart + s], square.new_zeros(1, side)]) for s in (-1, 0, 1)]
        self._conditions = torch.cat(rows)
        offsets = [[(s + 1) * (side + 1) for s in step] for step in steps]
        self._offsets = torch.tensor(offsets, device=device)[:, None, :, None]

    def solve(self, cost: Tensor, still: Tensor) -> Tensor:
        """Labels (H * W, 2, P), in scan order as ``still``, of no higher energy than ``still``."""
        state = self._propagate(cost)
        finest = self._levels[0]
        ring = finest.inner(self._device)
        labels = ring.new_full((finest.ring.size, 2, cost.shape[1]), max(self._target))
        self._decode(cost, state, labels)
        del state
        everyone = torch.arange(cost.shape[1], device=self._device)
        self._descend(cost, labels, everyone)
        found = labels[ring]
        worse = self._energy(cost, found) > self._energy(cost, still)
        again = everyone[worse]
        if len(again):
            labels[:, :, again] = labels[:, :, again].index_copy(0, ring, still[:, :, again])
            self._descend(cost, labels, again)
            found = labels[ring]
        return found

    def _propagate(self, cost: Tensor) -> Tensor:
        """The messages of the finest level after all sweeps."""
        costs = [cost]
        for level in range(len(self._levels) - 1):
            costs.append(self._coarsened(costs[level], level))
        height, width = self._target
        shape = (5, self._levels[-1].ring.size, 2, cost.shape[1], max(self._target))
        state = cost.new_zeros(shape)
        state[4, :, 0, :, height:] = float(NEVER)
        state[4, :, 1, :, width:] = float(NEVER)
        for level in range(len(self._levels) - 1, -1, -1):
            if level < len(self._levels) - 1:
                state = self._inherited(state, level)
            for _ in range(self._iterations):
                for turn in (0, 1):
                    self._sweep(costs[level], state, level, turn)
            costs.pop()
        return state

    def _coarsened(self, cost: Tensor, level: int) -> Tensor:
        """Costs of the next level: what four children cost together if all move as one."""
        finer, coarser = self._levels[level : level + 2]
        out = cost.new_empty((coarser.places.size, *cost.shape[1:]))
        for d in range(len(coarser.diagonals)):
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                children, parents = coarser.children(d, dy, dx, finer)
                values, sums = cost[children], out[parents]
                if dy + dx == 0:
                    sums.copy_(values)
                    continue
                for rows, from_rows in _shifts(cost.shape[2], dy * 2**level):
                    for columns, from_columns in _shifts(cost.shape[3], dx * 2**level):
                        sums[..., rows, columns] += values[..., from_rows, from_columns]
        return out

    def _inherited(self, state: Tensor, level: int) -> Tensor:
        """Every cell of ``level`` begins with the messages of its parent."""
        level_here, above = self._levels[level : level + 2]
        y, x = np.indices(level_here.shape) // 2
        parents = np.zeros(level_here.ring.size, np.int64)  # what the ring holds goes unread
        parents[level_here.ring[1:-1, 1:-1]] = above.ring[y + 1, x + 1]
        return state.index_select(1, torch.from_numpy(parents).to(self._device))

    def _sweep(self, cost: Tensor, state: Tensor, level: int, turn: int) -> None:
        """Visit all diagonals and send on: turn 0 to the right and down, 1 to the left and up."""
        diagonals = self._levels[level].diagonals
        ways = (0, 1) if turn else (2, 3)
        for diagonal in reversed(diagonals) if turn else diagonals:
            here = state[:, diagonal.here]
            heard = _heard(here[:4])
            here[4, :, turn, :, : cost.shape[2 + turn]] = _told(cost[diagonal.cost], heard, turn)
            own = here[ways[0] : ways[1] + 1]
            sent = _sent(heard, here[4], own, self._transforms[level][turn])
            for way, message in zip(ways, sent, strict=True):
                state[(way + 2) % 4, diagonal.around[way]] = message

    def _decode(self, cost: Tensor, state: Tensor, labels: Tensor) -> None:
        """Row and column together: left and upper cells are fixed, the others heard."""
        for diagonal in self._levels[0].diagonals:
            heard = state[2, diagonal.here] + state[3, diagonal.here]
            pull = self._condition(labels, diagonal, 2)
            labels[diagonal.here] = _best(cost[diagonal.cost], pull.add_(heard))

    def _descend(self, cost: Tensor, labels: Tensor, pairs: Tensor) -> None:
        """Iterated conditional modes of ``pairs``, in place, each until no label of it changes."""
        for _ in range(DESCENT_PASSES):
            if not len(pairs):
                return
            before = labels[:, :, pairs]
            after = before.clone()
            for diagonal in self._levels[0].diagonals:
                values = cost[diagonal.cost]
                if len(pairs) < cost.shape[1]:
                    values = values.index_select(1, pairs)
                after[diagonal.here] = _best(values, self._condition(after, diagonal, 4))
            labels[:, :, pairs] = after
            pairs = pairs[(after != before).any(0).any(0)]

    def _condition(self, labels: Tensor, diagonal: _Diagonal, directions: int) -> Tensor:
        """(K, 2, P, n) deformation cost against the first ``directions`` neighbours."""
        around = torch.stack([labels[there] for there in diagonal.around[:directions]])
        around += self._offsets[:directions]
        costs = self._conditions.index_select(0, around.flatten()).view(*around.shape, -1)
        pull: Tensor = costs[0]
        for more in costs[1:]:
            pull += more
        return pull

    def _energy(self, cost: Tensor, labels: Tensor) -> Tensor:
        """(P,) data plus beta times deformation energy, float64."""
        chosen = (labels[:, 0] * self._target[1] + labels[:, 1])[self.order]
        data = cost.flatten(2).gather(2, chosen[..., None])[..., 0].double()
        return _total(data) + self._beta * deformation(labels, *self._levels[0].shape)


def deformation(labels: Tensor, rows: int, columns: int) -> Tensor:
    """(P,) sum over edges of ``||w(p) - w(q)||^2``, int64; ``labels`` (H * W, 2, P)."""
    grid = labels.reshape(rows, columns, *labels.shape[1:])
    step = torch.eye(2, dtype=labels.dtype, device=labels.device)[..., None]
    down: Tensor = (grid[1:] - grid[:-1] - step[0]).square_().sum((0, 1, 2))
    right: Tensor = (grid[:, 1:] - grid[:, :-1] - step[1]).square_().sum((0, 1, 2))
    return down + right


# What follows has no side effects and could be given to torch.compile, which makes one kernel of a
# sum and its minimum. Each value is the same whatever P is.


def _heard(messages: Tensor) -> Tensor:
    """(K, 2, P, n) the sum of the four incoming messages."""
    halves = messages[0::2] + messages[1::2]
    return halves[0] + halves[1]


def _told(cost: Tensor, heard: Tensor, turn: int) -> Tensor:
    """What the cells' columns say to their rows (turn 0; (K, P, h)), or rows to columns (1)."""
    height, width = cost.shape[2:]
    if turn == 0:
        return _normalised((cost + heard[:, 1, :, None, :width]).amin(-1))
    return _normalised((cost + heard[:, 0, :, :height, None]).amin(-2))


def _sent(heard: Tensor, dual: Tensor, own: Tensor, transforms: Tensor) -> Tensor:
    """(2, K, 2, P, n) the messages in two directions.

    ``own`` is what came from there, ``transforms`` (2, 1, 2, 1, n, n) the deformation cost [i, x]
    of a neighbour's label x. The minimum over all i beats an envelope in O(n) at these n.
    """
    values = _normalised((heard + dual) - own)
    return (values[..., None] + transforms).amin(-2)


def _normalised(values: Tensor) -> Tensor:
    return (values - values.amin(-1, keepdim=True)).clamp(max=float(NEVER))


def _best(cost: Tensor, pull: Tensor) -> Tensor:
    """(K, 2, P) the label of least cost; ties: lower column, then lower row.

    ``pull`` (K, 2, P, n) is what every row and every column costs besides ``cost`` (K, P, h, w).
    """
    height, width = cost.shape[2:]
    by_row, by_column = pull[:, 0, :, :height], pull[:, 1, :, :width]
    column = ((cost + by_row[..., None]).amin(-2) + by_column).argmin(-1)
    chosen = column[..., None, None].expand(-1, -1, height, 1)
    row = (cost.gather(-1, chosen)[..., 0] + by_row).argmin(-1)
    return torch.stack([row, column], 1)


def _total(values: Tensor) -> Tensor:
    """The sum over the first axis, added up in an order that depends on its length alone."""
    while len(values) > 1:
        half = len(values) // 2
        rest = values[2 * half :]
        values = torch.cat([values[:half] + values[half : 2 * half], rest])
    return values[0]


# -- where cells are stored --------------------------------------------------------------------


def _places(rows: int, columns: int) -> npt.NDArray[np.int64]:
    """(rows, columns) the place of every cell in the order by diagonal, then by row."""
    y, x = np.indices((rows, columns)).reshape(2, -1)
    places = np.empty(rows * columns, np.int64)
    places[np.lexsort((y, y + x))] = np.arange(rows * columns)
    return places.reshape(rows, columns)


def _slice(start: np.int64, count: int) -> slice:
    return slice(int(start), int(start) + count)


def _shifts(size: int, shift: int) -> list[tuple[slice, slice]]:
    """Slices to and from, for ``to[i] = from[min(i + shift, size - 1)]``."""
    shift = min(shift, size - 1)
    moved = (slice(size - shift), slice(shift, size))
    return [moved, (slice(size - shift, size), slice(size - 1, size))] if shift else [moved]

"""Dense alignment of two feature grids (paper, section 3; protocol, section 8).

The alignment minimises, over displacements w(p) in whole cells,
``E(w) = sum_p ||f_s(p) - f_t(p + w(p))|| + beta * sum_pq ||w(p) - w(q)||^2``
with p and q 4-neighbours and p + w(p) anywhere in the target grid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import _flow_cpu as kernels
from distcorr.algorithms import _flow_paper
from distcorr.algorithms._flow_decoupled import Decoupled
from distcorr.algorithms._flow_trws import Reweighted
from distcorr.types import FloatArray, Flow

# Rounds of one sweep forth and one back; benchmarks/alignment.py shows what more of them bring.
ITERATIONS = {
    "decoupled": 2,  # on each of three levels; not in the paper
    "trws": 5,  # not in the paper
    "paper": 6,  # on each of three levels, of half a checkerboard (protocol, section 8.5)
}
SOLVERS = tuple(ITERATIONS)

IntArray = npt.NDArray[np.intp]


def unit_norm(values: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """``values`` (..., C) with every vector scaled to unit norm, float32; zero vectors stay zero.

    This is what gives the paper's beta its meaning for any feature (protocol, section 8.3).

    Raises:
        ValueError: a value is not finite.
    """
    values = np.asarray(values)
    if values.dtype == np.float64:  # whose squares may be too large, or too small
        largest = np.abs(values).max(axis=-1, keepdims=True, initial=0)
        values = values / np.where((largest > 0) & np.isfinite(largest), largest, 1)
    values = np.ascontiguousarray(values, np.float32)
    unit = np.empty_like(values)
    width = max(1, values.shape[-1])
    if not kernels.to_unit_norm(values.reshape(-1, width), unit.reshape(-1, width)):
        raise ValueError("features must be finite, got NaN or infinity")
    return unit


def align(
    source: FloatArray,
    target: FloatArray,
    beta: float,
    *,
    solver: str = "decoupled",
    iterations: int = 0,
    window: int = 0,
    truncation: float = 0,
) -> Flow:
    """The displacement field of least energy found from ``source`` to ``target``.

    Its energy is never above that of standing still, and along a chain (a grid of one row or
    column) it is the least there is. Deterministic, one thread.

    Args:
        source: (H, W, C) float32 features of the grid to align.
        target: (H', W', C) float32 features of the grid that it is aligned to.
        beta: weight of the deformation, per cell^2; the paper's is 3e-3, for unit-norm features.
        solver: "decoupled", belief propagation over rows and columns apart, coarse to fine: within
            some tenths of a per cent of the least energy, and the fastest; "trws", tree-reweighted
            messages over both together: nearer still, some ten times slower; or "paper", the
            paper's own belief propagation [29] with distance transforms [30].
        iterations: of the solver; 0 is its default, ``ITERATIONS``.
        window: largest displacement in cells along each axis; 0 for any, as the paper.
        truncation: the most that an edge, ``beta * ||w(p) - w(q)||^2``, costs, in units of the
            energy; 0 for any, as the paper. Of solver "paper" only, which then minimises the
            truncated energy: that one is never above standing still.

    Returns:
        The flow, ``displacement`` (H, W, 2) in cells. Standing still means w = 0, clamped into
        the target grid where that is the smaller one. Its deformation energy is the plain sum of
        squares, also where edges were truncated.

    Raises:
        ValueError: grids that are empty, not three-dimensional, not finite, of different channel
            counts; beta that is not finite and positive; iterations, window or truncation below 0;
            a solver that is not there, or that cannot truncate.
    """
    return align_many(
        source,
        [target],
        beta,
        solver=solver,
        iterations=iterations,
        window=window,
        truncation=truncation,
    )[0]


def align_many(
    source: FloatArray,
    targets: Sequence[FloatArray],
    beta: float,
    *,
    solver: str = "decoupled",
    iterations: int = 0,
    window: int = 0,
    truncation: float = 0,
) -> list[Flow]:
    """``[align(source, target, beta) for target in targets]``, bit for bit, in less time.

    Args and errors are those of `align`.
    """
    source = _checked(source, "source")
    targets = [_checked(target, "target") for target in targets]
    for target in targets:
        _check_pair(source, target, beta)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
    for name, value in (("iterations", iterations), ("window", window)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not (math.isfinite(truncation) and truncation >= 0):
        raise ValueError(f"truncation must be finite and at least 0, got {truncation}")
    if truncation and solver != "paper":
        raise ValueError(f"only the solver 'paper' has a truncation, got {solver!r}")
    rounds = iterations or ITERATIONS[solver]
    make = functools.partial(_Paper, truncation=truncation) if truncation else _SOLVERS[solver]
    if solver == "decoupled" and min(source.shape[:2]) == 1:
        make = Reweighted  # exact along a chain, which the two planes are not
    ready: dict[tuple[int, ...], Any] = {}  # workspaces
    flows = []
    for target in targets:
        shape = target.shape[:2]
        if shape not in ready:
            ready[shape] = make(source.shape[:2], shape, float(beta), rounds)
        flows.append(_align(source, target, float(beta), ready[shape], window, float(truncation)))
    return flows


def energy(
    source: FloatArray, target: FloatArray, displacement: npt.NDArray[np.integer[Any]], beta: float
) -> tuple[float, float]:
    """The data energy and the deformation energy (without beta) of a displacement field, float64.

    Their sum with weight beta is what `align` minimises; beta itself is only checked. Shapes and
    errors are those of `align`, and ``displacement`` (H, W, 2) must lead into the target grid.
    """
    source, target = _checked(source, "source"), _checked(target, "target")
    _check_pair(source, target, beta)
    displacement = np.asarray(displacement)
    if displacement.shape != (*source.shape[:2], 2):
        expected = (*source.shape[:2], 2)
        raise ValueError(f"displacement must be {expected}, got {displacement.shape}")
    labels = _cells(*source.shape[:2]) + displacement[..., ::-1].astype(np.intp)
    if (labels < 0).any() or (labels >= np.array(target.shape[:2])).any():
        raise ValueError(f"p + w(p) must stay in the target grid of {target.shape[:2]} cells")
    return _energy(source, target, labels)


def data_costs(source: FloatArray, target: FloatArray) -> FloatArray:
    """(H, W, H', W') distances between all cells of two grids, by one matrix product, float32."""
    source, target = _checked(source, "source"), _checked(target, "target")
    height, width = target.shape[:2]
    shape = (*source.shape[:2], kernels.padded(height), kernels.padded(width))
    cost = np.empty(shape, np.float32)
    _fill(cost, source, target)
    return np.ascontiguousarray(cost[:, :, :height, :width])


def _align(
    source: FloatArray,
    target: FloatArray,
    beta: float,
    solver: Any,
    window: int,
    truncation: float,
) -> Flow:
    cells = _cells(*source.shape[:2])
    height, width = target.shape[:2]
    still = np.minimum(cells, [height - 1, width - 1])
    _fill(solver.cost, source, target)
    if window:
        kernels.forbid_far(solver.cost, height, width, window)
    labels = solver.solve(still)
    # The costs came from a float32 product; the promise is about the energy of the features.
    found, stood = _energy(source, target, labels), _energy(source, target, still)
    smooth, level = beta * found[1], beta * stood[1]
    if truncation:
        smooth, level = (_flow_paper.smoothness(t, beta, truncation) for t in (labels, still))
    if stood[0] + level <= found[0] + smooth:
        labels, found = still, stood
    return Flow((labels - cells)[..., ::-1].astype(np.int16), *found)


def _fill(cost: FloatArray, source: FloatArray, target: FloatArray) -> None:
    """The padded distances between all cells, by one matrix product."""
    a, b = source.reshape(-1, source.shape[2]), target.reshape(-1, target.shape[2])
    ours, theirs = (np.einsum("ij,ij->i", values, values) for values in (a, b))
    out = cost.reshape(len(a), *cost.shape[2:])
    kernels.distances(a @ b.T, ours, theirs, target.shape[0], out)


def _energy(source: FloatArray, target: FloatArray, labels: IntArray) -> tuple[float, float]:
    data = kernels.data_energy(source, target, labels)
    return float(data), float(kernels.deformation(labels))


def _cells(rows: int, columns: int) -> IntArray:
    """(rows, columns, 2) the (row, col) of every cell."""
    return np.moveaxis(np.indices((rows, columns), np.intp), 0, -1)


def _checked(grid: FloatArray, name: str) -> FloatArray:
    grid = np.ascontiguousarray(grid, np.float32)
    if grid.ndim != 3 or 0 in grid.shape:
        raise ValueError(f"{name} must be a non-empty (H, W, C) grid, got shape {grid.shape}")
    if not np.isfinite(grid).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return grid


def _check_pair(source: FloatArray, target: FloatArray, beta: float) -> None:
    if source.shape[2] != target.shape[2]:
        channels = f"{source.shape[2]} and {target.shape[2]}"
        raise ValueError(f"source and target must have the same channels, got {channels}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be finite and positive, got {beta}")


class _Paper:
    """The paper's solver behind the interface of the others."""

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        beta: float,
        iterations: int,
        truncation: float = math.inf,
    ) -> None:
        height, width = (kernels.padded(n) for n in target)
        self.cost = np.full((*source, height, width), kernels.FORBIDDEN, np.float32)
        self._inside = self.cost[:, :, : target[0], : target[1]]
        self._solve = functools.partial(
            _flow_paper.solve, beta=beta, iterations=iterations, truncation=truncation
        )

    def solve(self, still: IntArray) -> IntArray:
        """Its labels; a cell whose label leaves the window, which the paper has none of, stays."""
        allowed = self._inside < kernels.FORBIDDEN
        dear = still[..., 0].size * self._inside[allowed].max()
        cost = np.where(allowed, self._inside, dear)
        labels = self._solve(cost)
        y, x = np.indices(labels.shape[:2])
        return np.where(allowed[y, x, labels[..., 0], labels[..., 1], None], labels, still)


_SOLVERS: dict[str, Any] = {"decoupled": Decoupled, "trws": Reweighted, "paper": _Paper}

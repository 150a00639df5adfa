"""Dense alignment of two feature grids (paper, section 3; protocol, section 8).

The alignment minimises, over displacements w(p) in whole cells,
``E(w) = sum_p ||f_s(p) - f_t(p + w(p))|| + beta * sum_pq ||w(p) - w(q)||^2``
with p and q 4-neighbours and p + w(p) anywhere in the target grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import _flow_cpu as kernels
from distcorr.types import FloatArray, Flow

# Mean (worst) energy above the best known, and time, of a pair on one AVX2 core; unit-norm AlexNet
# conv4 of photographs, 24 same-category pairs of 13 x 13 cells and 8 of 30 x 30:
#   iterations           0             1             3             5             8             15
#   13, beta 3e-3  .53 (2.5) %   .08 (.6) %    .06 (.6) %    .01 (.1) %    .001 (.0) %   .000 (.0) %
#   13, beta 3e-2  1.4 (5.1) %   .32 (1.4) %   .10 (.7) %    .09 (.7) %    .02 (.2) %    .01 (.1) %
#   30, beta 3e-3  3.5 (9.7) %   .79 (1.5) %   .55 (1.0) %   .46 (1.0) %   .30 (1.0) %   .05 (.3) %
#   30, beta 3e-2  6.2 (12.7) %  1.8 (3.5) %   .92 (2.8) %   .80 (2.7) %   .45 (1.7) %   .17 (1.2) %
# at 1.1 ms (13) and 28 ms (30) an iteration. Plain belief propagation stalls at .08, .38, .74 and
# 3.7 % after 15. Five are 6-9 ms for 13 x 13 cells; a 30 x 30 grid is worth ten (.3 s).
ITERATIONS = 5

IntArray = npt.NDArray[np.intp]


def unit_norm(values: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """``values`` (..., C) with every vector scaled to unit norm, float32; zero vectors stay zero.

    This is what gives the paper's beta its meaning for any feature (protocol, section 8.3).

    Raises:
        ValueError: a value is not finite.
    """
    values = np.asarray(values, np.float64)  # the square of a large float32 would overflow
    if not np.isfinite(values).all():
        raise ValueError("features must be finite, got NaN or infinity")
    largest = np.abs(values).max(axis=-1, keepdims=True, initial=0)
    values = values / np.where(largest > 0, largest, 1)  # first, so that no square underflows
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    return (values / np.where(norm > 0, norm, 1)).astype(np.float32)


def align(
    source: FloatArray,
    target: FloatArray,
    beta: float,
    *,
    iterations: int = ITERATIONS,
    reweighted: bool = True,
) -> Flow:
    """The displacement field of least energy found from ``source`` to ``target``.

    Min-sum belief propagation with distance-transform messages (paper [29], [30]); after every
    iteration the messages are decoded, improved by local descent, and the best field is kept.
    Its energy is never above that of standing still. Deterministic, one thread.

    Args:
        source: (H, W, C) float32 features of the grid to align.
        target: (H', W', C) float32 features of the grid that it is aligned to.
        beta: weight of the deformation, per cell^2; the paper's is 3e-3, for unit-norm features.
        iterations: of one sweep forth and one back.
        reweighted: pass on beliefs by TRW-S's shares, which finds lower energies; False is the
            plain belief propagation of the paper's wording.

    Returns:
        The flow, ``displacement`` (H, W, 2) in cells. Standing still means w = 0, clamped into
        the target grid where that is the smaller one.

    Raises:
        ValueError: grids that are empty, not three-dimensional, not finite, of different channel
            counts; beta that is not finite and positive; iterations below 0.
    """
    return align_many(source, [target], beta, iterations=iterations, reweighted=reweighted)[0]


def align_many(
    source: FloatArray,
    targets: Sequence[FloatArray],
    beta: float,
    *,
    iterations: int = ITERATIONS,
    reweighted: bool = True,
) -> list[Flow]:
    """``[align(source, target, beta) for target in targets]``, bit for bit, in less time.

    Args and errors are those of `align`.
    """
    source = _checked(source, "source")
    targets = [_checked(target, "target") for target in targets]
    for target in targets:
        _check_pair(source, target, beta)
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    weight = kernels.node_weights(source.shape[0], source.shape[1], reweighted)
    workspace: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}
    return [_align(source, t, float(beta), iterations, weight, workspace) for t in targets]


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


def _align(
    source: FloatArray,
    target: FloatArray,
    beta: float,
    iterations: int,
    weight: FloatArray,
    workspace: dict[tuple[int, ...], npt.NDArray[np.float32]],
) -> Flow:
    cells = _cells(*source.shape[:2])
    height, width = target.shape[:2]
    still = np.minimum(cells, [height - 1, width - 1])
    cost = _data_costs(source, target)
    shape = (*cost.shape[:2], 4, *cost.shape[2:])
    if shape not in workspace:
        workspace[shape] = np.empty(shape, np.float32)
    message = workspace[shape]
    message.fill(0)
    down = kernels.shifted_quadratics(height, beta)
    across = kernels.shifted_quadratics(width, beta).transpose(0, 2, 1).copy()
    labels = kernels.solve(
        cost, message, down, across, weight, beta, still, height, width, iterations
    )
    # The costs came from a float32 product; the promise is about the energy of the features.
    found, stood = _energy(source, target, labels), _energy(source, target, still)
    if stood[0] + beta * stood[1] <= found[0] + beta * found[1]:
        labels, found = still, stood
    return Flow((labels - cells)[..., ::-1].astype(np.int16), *found)


def _data_costs(source: FloatArray, target: FloatArray) -> npt.NDArray[np.float32]:
    """(H, W, h', w') padded distances between all cells, by one matrix product."""
    (rows, columns, channels), (height, width) = source.shape, target.shape[:2]
    a, b = source.reshape(-1, channels), target.reshape(-1, channels)
    distance = a @ b.T
    distance *= -2
    distance += np.einsum("ij,ij->i", a, a)[:, None]
    distance += np.einsum("ij,ij->i", b, b)
    np.maximum(distance, 0, out=distance)
    np.sqrt(distance, out=distance)
    shape = (rows, columns, kernels.padded(height), kernels.padded(width))
    cost = np.full(shape, kernels.FORBIDDEN, np.float32)
    cost[:, :, :height, :width] = distance.reshape(rows, columns, height, width)
    return cost


def _energy(source: FloatArray, target: FloatArray, labels: IntArray) -> tuple[float, float]:
    difference = source.astype(np.float64) - target[labels[..., 0], labels[..., 1]]
    data = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference)).sum()
    w = labels - _cells(*source.shape[:2])
    deformation = (np.diff(w, axis=0) ** 2).sum() + (np.diff(w, axis=1) ** 2).sum()
    return float(data), float(deformation)


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

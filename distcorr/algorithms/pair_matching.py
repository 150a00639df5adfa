"""Where points of one photograph lie in another, by their features alone; not in the paper.

What benchmarks of pairs do in place of an alignment: each point is looked for on its own, or with
the help of cells that agree. Both photographs are squares of ``geometry.input_size`` px; points are
(n, 2) xy px in the first, A, and what comes back is xy px in the second, B. Grids are
(cells, cells, C) float32 of unit norm (``flow.unit_norm``), so that products are cosines; a point's
feature is that of the cell nearest to it (paper, section 4). Ties go to the first cell, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.transfer import Points
from distcorr.types import BoolArray, FloatArray, Geometry

IDENTITY, RANDOM = "identity", "random"
BASELINES = (IDENTITY, RANDOM)  # what a feature must beat
_ROWS = 1024  # of cosines that are in memory at once

_Cells = npt.NDArray[np.intp]


def nearest_cell(points: Points, a: FloatArray, b: FloatArray, geometry: Geometry) -> Points:
    """(n, 2) the centre of the cell of B whose feature is most like the point's.

    Raises:
        ValueError: points are not (n, 2), or the grids do not suit the geometry and each other.
    """
    cosines = _cosines(points, a, b, geometry)
    return _centres(cosines.argmax(axis=1), geometry)


def soft_argmax(
    points: Points,
    a: FloatArray,
    b: FloatArray,
    geometry: Geometry,
    window: int,
    temperature: float = 0.02,
) -> Points:
    """(n, 2) the mean of the cells' centres around the best cell of B, weighted by likeness.

    As GeoAware-SC (Zhang et al. 2024) and those who follow it have it, whose softmax is that of
    SFNet (Lee et al. 2019): weights are ``exp(cosine / temperature)`` of the cells at most
    ``window`` rows and columns from the best one, and nothing of the others.

    Args:
        points: xy px in A's square.
        a: grid of A.
        b: grid of B.
        geometry: of both.
        window: in cells to each side; 0 is `nearest_cell`.
        temperature: in units of the cosine; the lower, the nearer to `nearest_cell`.

    Raises:
        ValueError: as `nearest_cell`; or window is below 0, or temperature not above 0.
    """
    if window < 0 or not temperature > 0:
        raise ValueError(
            f"window must be 0 or more and temperature above 0, got {window}, {temperature}"
        )
    cosines = _cosines(points, a, b, geometry).astype(np.float64)
    best = np.stack(np.divmod(cosines.argmax(axis=1), geometry.cells), axis=-1)
    cells = np.stack(np.divmod(np.arange(cosines.shape[1]), geometry.cells), axis=-1)
    apart = np.abs(cells[None] - best[:, None]).max(axis=-1)
    weight = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
    weight[apart > window] = 0
    found: Points = weight @ _centres(np.arange(len(cells)), geometry)
    found /= weight.sum(axis=1, keepdims=True)
    return found


def usual_window(cells: int) -> int:
    """The window of GeoAware-SC's code, 7 of 60 cells, in a grid of so many; at least 1."""
    return max(1, round(cells * 7 / 60))


def by_mutual(points: Points, a: FloatArray, b: FloatArray, geometry: Geometry) -> Points:
    """(n, 2) each point moved as the nearest cell of A is that can be trusted.

    Trusted is a cell of A that is the most similar one to its own most similar cell of B (best
    buddies). It moves from its centre to that of its partner, and every point moves as the trusted
    cell does whose centre is nearest to it, kept within B's square. There is always such a cell:
    that of the greatest cosine of all. Where features are all alike it is the first cell, which
    stays where it is, and so does every point.

    Raises:
        ValueError: as `nearest_cell`.
    """
    trusted, partner = mutual(a, b, geometry)
    start = _centres(np.flatnonzero(trusted), geometry)
    moves = _centres(partner[trusted], geometry) - start
    points = _checked(points, a, b, geometry)
    apart = ((points[:, None] - start[None]) ** 2).sum(axis=-1)
    moved: Points = points + moves[apart.argmin(axis=1)]
    return np.clip(moved, -0.5, geometry.input_size - 0.5)


def mutual(a: FloatArray, b: FloatArray, geometry: Geometry) -> tuple[BoolArray, _Cells]:
    """Which cells of A are trusted, and every cell's most similar cell of B, both (cells^2,).

    Raises:
        ValueError: the grids do not suit the geometry and each other.
    """
    _checked(np.zeros((0, 2)), a, b, geometry)
    rows, columns = (grid.reshape(-1, grid.shape[2]) for grid in (a, b))
    partner, back = np.zeros(len(rows), np.intp), np.zeros(len(columns), np.intp)
    greatest = np.full(len(columns), -np.inf, np.float32)
    for start in range(0, len(rows), _ROWS):
        cosines = rows[start : start + _ROWS] @ columns.T
        partner[start : start + _ROWS] = cosines.argmax(axis=1)
        first = cosines.argmax(axis=0)
        here = cosines[first, np.arange(len(columns))]
        better = here > greatest  # not >=, so that ties go to the first
        back[better], greatest[better] = start + first[better], here[better]
    trusted: BoolArray = back[partner] == np.arange(len(rows))
    return trusted, partner


def random_cells(count: int, geometry: Geometry, seed: Sequence[int]) -> Points:
    """(count, 2) centres of cells drawn at random, each as likely as any other."""
    drawn = np.random.default_rng(seed).integers(geometry.cells**2, size=count)
    return _centres(drawn, geometry)


def _cosines(points: Points, a: FloatArray, b: FloatArray, geometry: Geometry) -> FloatArray:
    """(n, cells^2) of the points' features with all of B's."""
    cells = geometry.nearest(_checked(points, a, b, geometry))
    found: FloatArray = a[cells[:, 0], cells[:, 1]] @ b.reshape(-1, b.shape[2]).T
    return found


def _centres(cells: npt.NDArray[np.integer[Any]], geometry: Geometry) -> Points:
    """(n,) numbers of cells, row by row -> (n, 2) xy px of their centres."""
    row, col = np.divmod(cells, geometry.cells)
    centres = geometry.centres()
    return np.stack([centres[col], centres[row]], axis=-1)


def _checked(points: Points, a: FloatArray, b: FloatArray, geometry: Geometry) -> Points:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (n, 2), got shape {points.shape}")
    square = (geometry.cells, geometry.cells)
    if a.ndim != 3 or a.shape != b.shape or a.shape[:2] != square:
        raise ValueError(f"grids must both be {(*square, 'C')}, got {a.shape} and {b.shape}")
    return points

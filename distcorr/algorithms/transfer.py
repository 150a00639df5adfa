"""From displacement fields to keypoints and warped pictures (paper, section 3; protocol, 8.6-8.8).

A flow leads from the cells of the *test* crop to those of its *neighbour*. Here it becomes a
displacement of every pixel p, so that neighbour(p + w(p)) looks like test(p). Both crops are
squares of ``geometry.input_size`` px; points are xy px in them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree

from distcorr.types import BoolArray, Geometry

Points = npt.NDArray[np.float64]
Displacement = npt.NDArray[np.number[Any]]

TIE = 1e-9  # px^2: squared distances closer than this differ by rounding only


def upsample(displacement: Displacement, geometry: Geometry, side: int | None = None) -> Points:
    """(cells, cells, 2) displacement in cells -> (side, side, 2) displacement in px, float64.

    The interpolating bicubic spline over the cell centres, as SciPy's ``RectBivariateSpline`` with
    ``s=0`` (paper, section 3), constant beyond the outermost centres. Fewer than four cells a side
    lower its degree. ``side`` defaults to the geometry's input size.

    Raises:
        ValueError: displacement is not (cells, cells, 2).
    """
    displacement = _checked(displacement, geometry)
    basis = _basis(geometry, geometry.input_size if side is None else side)
    return _upsample(displacement, basis, geometry.stride)


def carry(points: npt.ArrayLike, displacement: Displacement, geometry: Geometry) -> Points:
    """The neighbour's points in the test crop: inverse transfer (protocol, section 8.7).

    Point k goes to the pixel p of the test crop with the least ``||p + w(p) - k||``; ties go to
    the mean of the minimisers.

    Args:
        points: (K, 2) xy px in the neighbour's crop; NaN stays NaN.
        displacement: (cells, cells, 2) in cells, from the test grid to the neighbour's.
        geometry: of both grids.

    Returns:
        (K, 2) xy px in the test crop, float64.

    Raises:
        ValueError: points are not (K, 2), displacement is not (cells, cells, 2).
    """
    points = np.ascontiguousarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (K, 2), got shape {points.shape}")
    carried = np.full_like(points, np.nan)
    given = np.isfinite(points).all(axis=1)
    if given.any():
        w = upsample(displacement, geometry)
        landing_x, landing_y = _landing(w[..., 0], axis=1), _landing(w[..., 1], axis=0)
        carried[given] = _nearest(landing_x, landing_y, points[given])
    return carried


def push(points: npt.ArrayLike, displacement: Displacement, geometry: Geometry) -> Points:
    """The neighbour's points in the test crop: forward transfer (protocol, O15).

    Here the flow leads from the *neighbour's* grid to the test's, and point k goes to k + w(k),
    with w the spline of `upsample` at k itself.

    Args:
        points: (K, 2) xy px in the neighbour's crop; NaN stays NaN.
        displacement: (cells, cells, 2) in cells, from the neighbour's grid to the test's.
        geometry: of both grids.

    Returns:
        (K, 2) xy px in the test crop, float64; it may lie beyond its border.

    Raises:
        ValueError: points are not (K, 2), displacement is not (cells, cells, 2).
    """
    points = np.array(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be (K, 2), got shape {points.shape}")
    w = _checked(displacement, geometry).astype(np.float64) * geometry.stride
    given = np.isfinite(points).all(axis=1)
    across, down = (_basis_at(geometry, points[given, axis]) for axis in (0, 1))
    pushed = np.full_like(points, np.nan)
    pushed[given] = points[given] + np.einsum("ki,kj,ijc->kc", down, across, w)
    return pushed


def warp(
    image: npt.NDArray[np.uint8], displacement: Displacement, geometry: Geometry
) -> npt.NDArray[np.uint8]:
    """(S, S, 3) uint8 neighbour warped to the test crop: neighbour(p + w(p)), Figure 3.

    Bilinear, with the border's colour beyond it; rounded half up. S is the geometry's input size.

    Raises:
        ValueError: image is not (S, S, 3) uint8, displacement is not (cells, cells, 2).
    """
    expected = (geometry.input_size, geometry.input_size, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise ValueError(f"image must be {expected} uint8, got {image.shape} {image.dtype}")
    w = upsample(displacement, geometry)
    warped: npt.NDArray[np.uint8] = _bilinear(
        np.ascontiguousarray(image), _landing(w[..., 0], axis=1), _landing(w[..., 1], axis=0)
    )
    return warped


def warp_forward(
    image: npt.NDArray[np.uint8], displacement: Displacement, geometry: Geometry
) -> npt.NDArray[np.uint8]:
    """(S, S, 3) uint8 neighbour warped by a flow that leads from it to the test crop (`push`).

    Every pixel of the test crop shows the neighbour's pixel that lands nearest to it.

    Raises:
        ValueError: displacement is not (cells, cells, 2).
    """
    w = upsample(displacement, geometry)
    landing = np.stack([_landing(w[..., 0], axis=1), _landing(w[..., 1], axis=0)], axis=-1)
    pixels = np.stack(np.meshgrid(*[np.arange(len(w), dtype=np.float64)] * 2), axis=-1)
    _, nearest = cKDTree(landing.reshape(-1, 2)).query(pixels.reshape(-1, 2))
    warped: npt.NDArray[np.uint8] = image.reshape(-1, 3)[nearest].reshape(image.shape)
    return warped


def predict_keypoints(
    carried: Points,
    shown: BoolArray,
    order: npt.NDArray[np.integer[Any]],
    keep: int = 5,
    *,
    strict: bool = False,
) -> Points:
    """The coordinate-wise median of what the best neighbours say (protocol, section 8.8).

    Args:
        carried: (N, K, 2) keypoints of N neighbours in the test crop, xy px.
        shown: (N, K) whether the neighbour shows the keypoint type.
        order: (N,) the neighbours, best first.
        keep: how many neighbours that show the type are asked; fewer if there are fewer.
        strict: look at the first ``keep`` neighbours only, whether they show the type or not.

    Returns:
        (K, 2) xy px; NaN where no neighbour shows the type.

    Raises:
        ValueError: shapes disagree or keep is below 1.
    """
    carried, shown, order = np.asarray(carried), np.asarray(shown, bool), np.asarray(order)
    if carried.ndim != 3 or carried.shape != (*shown.shape, 2) or len(order) != len(carried):
        shapes = f"{carried.shape}, {shown.shape} and {order.shape}"
        raise ValueError(f"carried, shown, order must be (N, K, 2), (N, K), (N,), got {shapes}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    order = order[:keep] if strict else order
    carried = carried[order]
    asked = shown[order] & np.isfinite(carried).all(axis=2)
    asked &= np.cumsum(asked, axis=0) <= keep
    # All types at once: what is not asked is sorted to the end, and the middle of the rest taken.
    ordered = np.sort(np.where(asked[..., None], carried, np.inf), axis=0)[:keep]
    count, predicted = asked.sum(axis=0), np.full((carried.shape[1], 2), np.nan)
    found = np.flatnonzero(count)
    low, high = ordered[(count[found] - 1) // 2, found], ordered[count[found] // 2, found]
    predicted[found] = (low + high) / 2
    return predicted


def order_by(
    key: npt.NDArray[np.number[Any]], rank: npt.NDArray[np.number[Any]]
) -> npt.NDArray[np.intp]:
    """(N,) indices of the neighbours by ascending key, ties by ascending rank.

    Raises:
        ValueError: key and rank are not vectors of one length.
    """
    key, rank = np.asarray(key), np.asarray(rank)
    if key.ndim != 1 or key.shape != rank.shape:
        raise ValueError(f"key and rank must both be (N,), got {key.shape} and {rank.shape}")
    return np.lexsort((rank, key))


def _checked(displacement: Displacement, geometry: Geometry) -> Displacement:
    displacement, expected = np.asarray(displacement), (geometry.cells, geometry.cells, 2)
    if displacement.shape != expected:
        raise ValueError(f"displacement must be {expected}, got {displacement.shape}")
    return displacement


@lru_cache(maxsize=16)
def _basis(geometry: Geometry, side: int) -> Points:
    """(side, cells): the spline is linear in its data, so it is one matrix per axis."""
    return _basis_at(geometry, np.arange(side))


def _basis_at(geometry: Geometry, positions: npt.NDArray[np.number[Any]]) -> Points:
    """(n, cells) weights of the cells at n positions along an axis, px."""
    if geometry.cells == 1:
        return np.ones((len(positions), 1))
    centres = geometry.centres()
    spline = make_interp_spline(centres, np.eye(geometry.cells), k=min(3, geometry.cells - 1))
    basis: Points = spline(np.clip(positions, centres[0], centres[-1]))
    return basis


def _upsample(displacement: Displacement, basis: Points, stride: int) -> Points:
    w = displacement.astype(np.float64) * stride
    return np.stack([basis @ w[..., i] @ basis.T for i in range(2)], axis=-1)


def _landing(w: Points, axis: int) -> Points:
    """(S, S) one coordinate of p + w(p), contiguous."""
    p = np.arange(len(w), dtype=np.float64)
    return np.ascontiguousarray(w + (p if axis == 1 else p[:, None]))


@njit(cache=True, fastmath={"nnan", "ninf", "nsz"}, error_model="numpy")
def _nearest(landing_x: Points, landing_y: Points, points: Points) -> Points:
    """(K, 2) pixel whose landing lies nearest to each point, or the mean of several."""
    side = landing_x.shape[0]
    nearest = np.zeros(points.shape)
    lows = np.empty(side)
    for k in range(points.shape[0]):
        x, y = points[k]
        for i in range(side):
            line_x, line_y = landing_x[i], landing_y[i]
            low = 1e300
            for j in range(side):
                low = min(low, (line_x[j] - x) ** 2 + (line_y[j] - y) ** 2)
            lows[i] = low
        reach, count = lows.min() + TIE, 0
        for i in range(side):
            if lows[i] > reach:
                continue
            for j in range(side):
                if (landing_x[i, j] - x) ** 2 + (landing_y[i, j] - y) ** 2 <= reach:
                    nearest[k, 0] += j
                    nearest[k, 1] += i
                    count += 1
        nearest[k] /= count
    return nearest


@njit(cache=True, error_model="numpy")
def _bilinear(image: Any, landing_x: Points, landing_y: Points) -> Any:
    """Sample ``image`` (S, S, 3) uint8 at the landings, clamped to the image."""
    side = image.shape[0]
    out = np.empty_like(image)
    for i in range(side):
        for j in range(side):
            x = min(max(landing_x[i, j], 0.0), side - 1.0)
            y = min(max(landing_y[i, j], 0.0), side - 1.0)
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, side - 1), min(y0 + 1, side - 1)
            u, v = x - x0, y - y0
            for c in range(3):
                top = (1 - u) * image[y0, x0, c] + u * image[y0, x1, c]
                bottom = (1 - u) * image[y1, x0, c] + u * image[y1, x1, c]
                out[i, j, c] = np.uint8((1 - v) * top + v * bottom + 0.5)
    return out

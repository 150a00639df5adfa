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

BLOCK = 16  # px a side: landings of so many pixels are looked at, or passed over, together
TIE = 1e-9  # px^2: squared distances closer than this differ by rounding only


def upsample(displacement: Displacement, geometry: Geometry, side: int | None = None) -> Points:
    """(cells, cells, 2) displacement in cells -> (side, side, 2) displacement in px, float64.

    The interpolating bicubic spline over the cell centres, as SciPy's ``RectBivariateSpline`` with
    ``s=0`` (paper, section 3), constant beyond the outermost centres. Fewer than four cells a side
    lower its degree. ``side`` defaults to the geometry's input size.

    Raises:
        ValueError: displacement is not (cells, cells, 2).
    """
    return np.stack(_upsample(displacement, geometry, side), axis=-1)


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
        landings = _landings(displacement, geometry)
        carried[given] = _nearest(*landings, *_extents(*landings), points[given])
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
    landings = _landings(displacement, geometry)
    warped: npt.NDArray[np.uint8] = _bilinear(np.ascontiguousarray(image), *landings)
    return warped


def warp_forward(
    image: npt.NDArray[np.uint8], displacement: Displacement, geometry: Geometry
) -> npt.NDArray[np.uint8]:
    """(S, S, 3) uint8 neighbour warped by a flow that leads from it to the test crop (`push`).

    Every pixel of the test crop shows the neighbour's pixel that lands nearest to it.

    Raises:
        ValueError: displacement is not (cells, cells, 2).
    """
    landing = np.stack(_landings(displacement, geometry), axis=-1)
    pixels = np.stack(np.meshgrid(*[np.arange(len(landing), dtype=np.float64)] * 2), axis=-1)
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


def _upsample(
    displacement: Displacement, geometry: Geometry, side: int | None = None
) -> tuple[Points, Points]:
    """(S, S) dx and (S, S) dy of every pixel, px."""
    w = _checked(displacement, geometry).astype(np.float64) * geometry.stride
    basis = _basis(geometry, geometry.input_size if side is None else side)
    return basis @ w[..., 0] @ basis.T, basis @ w[..., 1] @ basis.T


def _landings(displacement: Displacement, geometry: Geometry) -> tuple[Points, Points]:
    """(S, S) x and (S, S) y of p + w(p)."""
    x, y = _upsample(displacement, geometry)
    p = np.arange(len(x), dtype=np.float64)
    x += p
    y += p[:, None]
    return x, y


@njit(cache=True, fastmath={"nnan", "ninf", "nsz"}, error_model="numpy")
def _extents(landing_x: Points, landing_y: Points) -> tuple[Points, Points, Points, Points]:
    """(n, n) least x, greatest x, least y and greatest y of the landings of every block of px."""
    side = landing_x.shape[0]
    n = (side + BLOCK - 1) // BLOCK
    left, right = np.full((n, n), 1e300), np.full((n, n), -1e300)
    top, bottom = np.full((n, n), 1e300), np.full((n, n), -1e300)
    for i in range(side):
        a = i // BLOCK
        for b in range(n):
            low_x, high_x, low_y, high_y = left[a, b], right[a, b], top[a, b], bottom[a, b]
            for j in range(b * BLOCK, min((b + 1) * BLOCK, side)):
                x, y = landing_x[i, j], landing_y[i, j]
                low_x, high_x = min(low_x, x), max(high_x, x)
                low_y, high_y = min(low_y, y), max(high_y, y)
            left[a, b], right[a, b], top[a, b], bottom[a, b] = low_x, high_x, low_y, high_y
    return left, right, top, bottom


@njit(cache=True, fastmath={"nnan", "ninf", "nsz"}, error_model="numpy")
def _nearest(
    landing_x: Points,
    landing_y: Points,
    left: Points,
    right: Points,
    top: Points,
    bottom: Points,
    points: Points,
) -> Points:
    """(K, 2) pixel whose landing lies nearest to each point, or the mean of several.

    A block whose extent lies farther away than a landing that is known to exist is not looked at.
    """
    side, n = landing_x.shape[0], left.shape[0]
    nearest = np.zeros(points.shape)
    least = np.empty((n, n))
    for k in range(points.shape[0]):
        x, y = points[k]
        reach = 1e300
        for a in range(n):
            for b in range(n):
                near_x = max(0.0, left[a, b] - x, x - right[a, b])
                near_y = max(0.0, top[a, b] - y, y - bottom[a, b])
                far_x = max(right[a, b] - x, x - left[a, b])
                far_y = max(bottom[a, b] - y, y - top[a, b])
                least[a, b] = near_x**2 + near_y**2
                reach = min(reach, far_x**2 + far_y**2)
        for a in range(n):
            for b in range(n):
                if least[a, b] > reach:
                    continue
                for i in range(a * BLOCK, min((a + 1) * BLOCK, side)):
                    for j in range(b * BLOCK, min((b + 1) * BLOCK, side)):
                        apart = (landing_x[i, j] - x) ** 2 + (landing_y[i, j] - y) ** 2
                        reach = min(reach, apart)
        reach += TIE
        count = 0
        for a in range(n):
            for b in range(n):
                if least[a, b] > reach:
                    continue
                for i in range(a * BLOCK, min((a + 1) * BLOCK, side)):
                    for j in range(b * BLOCK, min((b + 1) * BLOCK, side)):
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

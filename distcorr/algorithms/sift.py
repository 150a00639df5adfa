"""Upright SIFT at chosen points and on dense grids (paper, sections 3, 4 and 5).

One definition for everything, that of VLFeat's ``vl_dsift`` with the flat window: 4 x 4 spatial
bins of ``bin`` px and 8 orientations, in the order (bin row, bin column, orientation), orientation
growing from +x towards +y, which is down. A gradient is shared linearly between two orientations
and, by triangles of half-width ``bin`` about the bins' centres, between bins; each bin is weighted
by the mean of a Gaussian window of sigma 2 bins over it. The 128 values are scaled to unit norm,
clipped at 0.2, and scaled to norm 512; float32, not rounded. Without any gradient they are zeros.

The paper does not say what "descriptor radius" means; here it is half the side of the 4 x 4 bins,
``bin = radius / 2`` (not in the paper). It does not say how the image is smoothed either: here by
``sqrt((bin / 3)^2 - 0.25)`` px, what VLFeat's documentation gives to make ``vl_dsift`` equal SIFT.

Outside the image: smoothing repeats the edge's pixels and pooling the edge's gradients, which are
one-sided differences. That is VLFeat's rule. It holds at radius 160 too, where most of a descriptor
may lie outside: a linear ramp has the same descriptor everywhere, and as the smoothing grows with
the radius, what is repeated is an average along the edge and not single pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import _sift_cpu as kernels
from distcorr.algorithms import nets
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.types import FloatArray, Geometry

VERSION = 1  # of the definition: a change of any value that comes out must raise it
CHANNELS = 128
STRIDE = 8  # px, of the dense taps (not in the paper)

_BINS, _RADII = (1, 500), (2, 1000)  # px, least and most
CAFFENET_CONV4 = partial(nets.geometry, nets.CAFFENET, "conv4")

_TAP = re.compile(r"(d?sift)([1-9][0-9]{0,3})")
_Image = npt.NDArray[np.uint8] | FloatArray


def dense(image: _Image, step: int = 8, bin_size: int = 8, smooth: bool = True) -> FloatArray:
    """Descriptors on a regular grid; the first centre lies at ``1.5 * bin_size`` on both axes.

    Without ``smooth`` equal to VLFeat's ``vl_dsift`` (flat window) to 1e-5 of the norm.

    Args:
        image: (H, W, 3) uint8 RGB, taken to Rec. 601 luma, or (H, W) float32 grey.
        step: px between centres (8: not in the paper).
        bin_size: side of a spatial bin in px, 1 to 500 (8: not in the paper).
        smooth: smooth by ``sqrt((bin_size / 3)^2 - 0.25)`` px beforehand.

    Returns:
        (rows, cols, 128) float32 of norm 512, or zeros.

    Raises:
        DistcorrError: the image has another shape or type, is not finite, or is smaller than
            ``3 * bin_size + 1`` px; ``step`` or ``bin_size`` is not a whole number in range.
    """
    _require_whole("step", step, (1, 10**6))
    _require_whole("bin_size", bin_size, _BINS)
    gradients = _Gradients(image, smooth)
    rows, columns = (
        1.5 * bin_size + step * np.arange(_count(size, step, bin_size), dtype=np.float64)
        for size in gradients.shape
    )
    return gradients.grid(rows, columns, bin_size)


def at_points(image: _Image, xy: npt.ArrayLike, radius: int, smooth: bool = True) -> FloatArray:
    """Descriptors at any real-valued points; equal to ``dense`` at the centres of its grid.

    Points that form a lattice, in any order, cost as little as a grid. A point may lie outside.

    Args:
        image: as for ``dense``, of any size.
        xy: (n, 2) px.
        radius: half the side of the descriptor in px, 2 to 1000: ``bin_size = radius / 2``.
        smooth: smooth by ``sqrt((radius / 6)^2 - 0.25)`` px beforehand.

    Returns:
        (n, 128) float32 of norm 512, or zeros.

    Raises:
        DistcorrError: the image has another shape or type or is not finite; ``xy`` is not (n, 2)
            finite numbers; ``radius`` is not a whole number in range.
    """
    _require_whole("radius", radius, _RADII)
    return _Gradients(image, smooth).at_points(_points(xy), radius / 2)


class Sift:
    """SIFT as a source of features.

    Taps: ``"sift20"`` is SIFT of radius 20 at the centres of a convnet's cells, so that it can
    take that network's place (paper, section 3); ``"dsift8"`` the dense grid of bins of 8 px at
    stride 8. Any whole radius from 2 to 1000 and any bin from 1 to 500 px has a tap.

    Attributes:
        name: ``"sift"``.
        taps: the radii of the paper's Table 3 and one dense grid.
        input_size: CaffeNet's 227 px.
        any_size: True: images of any height and width, as far as the lattice allows.
    """

    name = "sift"
    taps: tuple[str, ...] = ("sift10", "sift20", "sift40", "sift80", "sift160", "dsift8")
    input_size = 227
    any_size = True

    def __init__(
        self,
        lattice: Callable[[int], Geometry] = CAFFENET_CONV4,
        smooth: bool = True,
    ) -> None:
        """
        Args:
            lattice: where the cells lie along an axis of so many px (default: CaffeNet's conv4,
                the layer that the paper compares with).
            smooth: as for ``dense``.
        """
        self._lattice = lattice
        self._smooth = smooth

    def require(self, tap: str) -> None:
        """Check that ``tap`` is available.

        Raises:
            DistcorrError: it is not.
        """
        _parse(tap)

    def channels(self, tap: str) -> int:
        """Always 128; DistcorrError if ``tap`` is not available."""
        self.require(tap)
        return CHANNELS

    def geometry(self, tap: str, size: int | None = None) -> Geometry:
        """Where the cells of ``tap`` lie along an axis of ``size`` px (default ``input_size``).

        ``rf`` is the side of the 4 x 4 bins; the triangles reach half a bin further.

        Raises:
            DistcorrError: the tap is not available, or the axis is too short for a cell.
        """
        kind, number = _parse(tap)
        size = self.input_size if size is None else size
        if kind == "sift":
            return self._lattice(size)._replace(rf=2 * number)
        return Geometry(size, STRIDE, 1.5 * number, 4 * number, _count(size, STRIDE, number))

    def __call__(self, images: npt.NDArray[np.uint8], taps: Sequence[str]) -> dict[str, FloatArray]:
        """Descriptors at the cells of every tap; taps with one bin size share their gradients.

        Args:
            images: (B, H, W, 3) uint8 RGB.
            taps: names as in the class's description.

        Returns:
            tap -> (B, h, w, 128) float32.

        Raises:
            DistcorrError: the images have another shape or type or are too small, or a tap is not
                available.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            raise DistcorrError(f"images must be (B, H, W, 3), got {images.shape}")
        height, width = images.shape[1:3]
        axes = {tap: (self.geometry(tap, height), self.geometry(tap, width)) for tap in taps}
        found = {
            tap: np.empty((len(images), rows.cells, columns.cells, CHANNELS), np.float32)
            for tap, (rows, columns) in axes.items()
        }
        for number, image in enumerate(images):
            gradients = _Gradients(image, self._smooth)
            for tap, (rows, columns) in axes.items():
                found[tap][number] = gradients.grid(
                    rows.centres(), columns.centres(), _bin_size(tap)
                )
        return found

    def columns(
        self, image: npt.NDArray[np.uint8], xy: npt.ArrayLike, taps: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Descriptors of every tap at the exact points, whatever its cells.

        Args:
            image: (H, W, 3) uint8 RGB.
            xy: (n, 2) px, real-valued.
            taps: names as in the class's description.

        Returns:
            tap -> (n, 128) float32.

        Raises:
            DistcorrError: as ``at_points``, or a tap is not available.
        """
        sizes = {tap: _bin_size(tap) for tap in taps}
        points, gradients = _points(xy), _Gradients(image, self._smooth)
        return {tap: gradients.at_points(points, size) for tap, size in sizes.items()}

    def identity(self, tap: str) -> dict[str, Any]:
        """What a descriptor depends on; where the cells lie is for whoever asks for a grid to say.

        Raises:
            DistcorrError: the tap is not available.
        """
        size = _bin_size(tap)
        return {"source": self.name, "version": VERSION, "bin_size": size, "smooth": self._smooth}


class _Gradients:
    """Gradients of one image, made once per bin size, and descriptors from them."""

    def __init__(self, image: _Image, smooth: bool) -> None:
        self._grey = _grey(image)
        self.shape = self._grey.shape
        self._smooth = smooth
        self._made: dict[float, tuple[FloatArray, FloatArray]] = {}  # sigma -> turn, strength

    def grid(
        self, ys: npt.NDArray[np.float64], xs: npt.NDArray[np.float64], bin_size: float
    ) -> FloatArray:
        """(len(ys), len(xs), 128): the descriptors at every pair of coordinates."""
        found = np.empty((len(ys), len(xs), CHANNELS), np.float32)
        height, width = self.shape
        rows, row_of = kernels.bin_lines(ys, bin_size, height)
        columns, column_of = kernels.bin_lines(xs, bin_size, width)
        pooled = kernels.pool(*self._of(bin_size), rows, columns)
        kernels.assemble(pooled, row_of, column_of, kernels.window(bin_size), found)
        return found

    def at_points(self, xy: npt.NDArray[np.float64], bin_size: float) -> FloatArray:
        """As the function of this name; ``xy`` is (n, 2) and finite."""
        if not len(xy):
            return np.empty((0, CHANNELS), np.float32)
        # Three bins outside, nothing but the edge is in sight: further out it is the same.
        reach = np.ceil(3 * bin_size)
        xy = np.clip(xy, -reach, np.array(self.shape[::-1]) - 1 + reach)
        xs, column = np.unique(xy[:, 0], return_inverse=True)
        ys, row = np.unique(xy[:, 1], return_inverse=True)
        if len(xs) * len(ys) <= len(xy):
            return self.grid(ys, xs, bin_size)[row, column]
        turn, strength = self._of(bin_size)
        offsets, window = bin_size * kernels.OFFSETS, kernels.window(bin_size)
        found: FloatArray = kernels.scattered(turn, strength, xy, offsets, bin_size, window)
        return found[:, 0]

    def _of(self, bin_size: float) -> tuple[FloatArray, FloatArray]:
        variance = (bin_size / 3) ** 2 - 0.25
        sigma = variance**0.5 if self._smooth and variance > 0 else 0.0
        if sigma not in self._made:
            image = kernels.smooth(self._grey, kernels.gaussian(sigma)) if sigma else self._grey
            self._made[sigma] = kernels.gradients(image)
        return self._made[sigma]


def _count(size: int, step: int, bin_size: int) -> int:
    """Centres along an axis: the outermost bins' centres lie inside the image."""
    if size < 3 * bin_size + 1:
        raise DistcorrError(
            f"Dense SIFT with bins of {bin_size} px needs an image of at least "
            f"{3 * bin_size + 1} px on both sides, got {size} px",
            "give a larger image or smaller bins",
        )
    return (size - 3 * bin_size - 1) // step + 1


def _parse(tap: str) -> tuple[str, int]:
    """Kind and number of a tap, ("sift", 20); DistcorrError if there is no such tap."""
    if match := _TAP.fullmatch(tap):
        low, high = _RADII if match[1] == "sift" else _BINS
        if low <= int(match[2]) <= high:
            return match[1], int(match[2])
    raise DistcorrError(
        f"SIFT has no tap {tap!r}.{did_you_mean(tap, Sift.taps)}",
        "it has sift<radius> for whole radii of 2 to 1000 px and dsift<bin> for bins of 1 to 500",
    )


def _bin_size(tap: str) -> float:
    kind, number = _parse(tap)
    return number / 2 if kind == "sift" else float(number)


def _grey(image: _Image) -> FloatArray:
    """(H, W) float32, of memory of its own kind: images from shared memory cannot be written."""
    array = np.require(image, requirements=["C", "W"])
    colour = array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3
    if not (colour or (array.dtype == np.float32 and array.ndim == 2)):
        raise DistcorrError(
            "SIFT needs an image (H, W, 3) uint8 RGB or (H, W) float32 grey, "
            f"got {array.shape} {array.dtype}"
        )
    if array.size == 0:
        raise DistcorrError(f"SIFT needs an image of at least one pixel, got {array.shape}")
    grey: FloatArray = kernels.grey(array) if colour else array.astype(np.float32, copy=False)
    if not (colour or np.isfinite(grey).all()):
        raise DistcorrError("SIFT needs finite grey values, got NaN or infinity")
    return grey


def _points(xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.array(xy, np.float64, order="C")
    if points.ndim != 2 or points.shape[1] != 2:
        raise DistcorrError(f"xy must be (n, 2) px, got {points.shape}")
    wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(wrong):
        raise DistcorrError(
            f"xy must be finite; row {wrong[0]} is {points[wrong[0]].tolist()}, "
            f"{len(wrong)} of {len(points)} rows are not",
            "leave absent keypoints out",
        )
    return points


def _require_whole(name: str, value: int, allowed: tuple[int, int]) -> None:
    low, high = allowed
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise DistcorrError(f"{name} must be a whole number from {low} to {high} px, got {value}")

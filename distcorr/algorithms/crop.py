"""Cutting a box out of a photograph and stretching it to a square (paper, sections 3 and 5).

Both axes are scaled on their own ("warped to a square bounding box"), without context around the
box. Coordinates are 0-based, a pixel's centre lies at the integer, in both frames.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distcorr.types import Box

_BAND = 32  # rows
_Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


def to_square(xy: npt.ArrayLike, box: Box, side: int) -> npt.NDArray[np.float64]:
    """(..., 2) xy px in the photograph -> (..., 2) px in the side x side crop of ``box``."""
    start, size = _span(box)
    return (np.asarray(xy, np.float64) - start + 0.5) * (side / size) - 0.5


def from_square(uv: npt.ArrayLike, box: Box, side: int) -> npt.NDArray[np.float64]:
    """(..., 2) px in the side x side crop of ``box`` -> (..., 2) xy px in the photograph."""
    start, size = _span(box)
    return (np.asarray(uv, np.float64) + 0.5) * (size / side) - 0.5 + start


def crop_square(image: npt.NDArray[np.uint8], box: Box, side: int) -> npt.NDArray[np.uint8]:
    """The box as a square picture: bilinear, half-pixel centres, no smoothing beforehand.

    Equals cutting the box out and resizing it: no sample looks beyond the box. Where the box
    reaches beyond the photograph, the photograph's edge is repeated.

    Args:
        image: (H, W, C) uint8.
        box: in the photograph, px; may be fractional and may reach beyond its edges.
        side: px of the result.

    Returns:
        (side, side, C) uint8.

    Raises:
        ValueError: the box is empty or misses the photograph entirely.
    """
    height, width = image.shape[:2]
    # Written so that NaN fails as well.
    if not (box.x0 <= box.x1 and box.y0 <= box.y1):
        raise ValueError(f"the box is empty: {tuple(box)}")
    if not (box.x1 >= 0 and box.y1 >= 0 and box.x0 <= width - 1 and box.y0 <= height - 1):
        raise ValueError(f"the box {tuple(box)} misses the photograph of {width} x {height} px")
    at = from_square(np.repeat(np.arange(side)[:, None], 2, axis=1), box, side)
    low, high = np.array(box[:2], np.float64), np.array(box[2:], np.float64)
    at = np.clip(np.clip(at, low, high), 0, (width - 1, height - 1))
    first = np.floor(at).astype(np.intp)
    second = np.minimum(first + 1, (width - 1, height - 1))
    weight = (at - first).astype(np.float32)

    # Two 1-D passes over the columns that are needed, a band of rows at a time: it stays in cache.
    left, right = first[0, 0], second[-1, 0] + 1
    strip = image[:, left:right]
    x0, x1 = first[:, 0] - left, second[:, 0] - left
    square = np.empty((side, side, *image.shape[2:]), np.uint8)
    for start in range(0, side, _BAND):
        band = slice(start, start + _BAND)
        rows = _mix(strip[first[band, 1]], strip[second[band, 1]], weight[band, 1, None, None])
        mixed = _mix(rows.take(x0, axis=1), rows.take(x1, axis=1), weight[:, 0, None])
        square[band] = np.rint(mixed)
    return square


def _mix(a: _Pixels, b: _Pixels, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mixed = b.astype(np.float32)
    mixed -= a
    mixed *= weight
    mixed += a
    return mixed


def _span(box: Box) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.array((box.x0, box.y0), np.float64), np.array((box.width, box.height), np.float64)

"""Cutting a box out of a photograph and stretching it to a square (paper, sections 3 and 5).

Both axes are scaled on their own ("warped to a square bounding box"). The paper cuts out the box
alone; `with_context` grows it first. Coordinates are 0-based, a pixel's centre lies at the integer,
in both frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from distcorr.types import Box

_Array = npt.NDArray[Any]


def to_square(xy: npt.ArrayLike, box: Box, side: int) -> npt.NDArray[np.float64]:
    """(..., 2) xy px in the photograph -> (..., 2) px in the side x side crop of ``box``."""
    start, size = _span(box)
    return (np.asarray(xy, np.float64) - start + 0.5) * (side / size) - 0.5


def from_square(uv: npt.ArrayLike, box: Box, side: int) -> npt.NDArray[np.float64]:
    """(..., 2) px in the side x side crop of ``box`` -> (..., 2) xy px in the photograph."""
    start, size = _span(box)
    return (np.asarray(uv, np.float64) + 0.5) * (size / side) - 0.5 + start


def with_context(box: Box, context: float) -> Box:
    """The box to cut out so that ``box`` fills its crop but for a margin all around.

    As R-CNN does (protocol, O8), which fills what lies beyond the photograph with the mean colour
    where `crop_square` repeats the edge. The paper has no context.

    Args:
        box: px in the photograph.
        context: the margin as a share of the crop's side, below 1/2: R-CNN's is 16 / 227.
    """
    grow = context / (1 - 2 * context)
    dx, dy = box.width * grow, box.height * grow
    return Box(box.x0 - dx, box.y0 - dy, box.x1 + dx, box.y1 + dy)


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

    (left, top), (right, bottom) = first[0], second[-1] + 1
    strip = np.ascontiguousarray(image[top:bottom, left:right])
    square = np.empty((side, side, *image.shape[2:]), np.uint8)
    (x0, y0), (x1, y1), (wx, wy) = (first - first[0]).T, (second - first[0]).T, weight.T
    _stretch(strip.reshape(bottom - top, -1), y0, y1, wy, x0, x1, wx, square)
    return square


def reduce_to(image: npt.NDArray[np.uint8], longest: int) -> npt.NDArray[np.uint8]:
    """The photograph, reduced until its longer side has ``longest`` px; a smaller one as it is.

    Bilinear with a support that grows with the reduction, so that every pixel counts: sections 4
    and 5 see photographs of at most 500 px, and a larger one must not alias.

    Args:
        image: (H, W, 3) uint8.
        longest: px of the longer side, at least 1.

    Returns:
        (h, w, 3) uint8, C-contiguous; the shorter side is rounded, but at least 1 px.
    """
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    import torch  # lazily: most who map coordinates need it for nothing else

    scale = longest / max(height, width)
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    last = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(last, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


@njit(cache=True, error_model="numpy")
def _stretch(
    strip: _Array,
    y0: _Array,
    y1: _Array,
    wy: _Array,
    x0: _Array,
    x1: _Array,
    wx: _Array,
    square: _Array,
) -> None:
    """Mix rows ``y0`` and ``y1``, then columns ``x0`` and ``x1``; one row at a time, in cache."""
    side, channels = square.shape[1:]
    row = np.empty(strip.shape[1], np.float32)
    for i in range(side):
        upper, lower, weight = strip[y0[i]], strip[y1[i]], wy[i]
        for j in range(row.size):
            a = np.float32(upper[j])
            row[j] = (np.float32(lower[j]) - a) * weight + a
        for j in range(side):
            left, right = x0[j] * channels, x1[j] * channels
            for c in range(channels):
                a = row[left + c]
                square[i, j, c] = np.uint8(np.rint((row[right + c] - a) * wx[j] + a))


def _span(box: Box) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return np.array((box.x0, box.y0), np.float64), np.array((box.width, box.height), np.float64)

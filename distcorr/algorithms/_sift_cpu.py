"""Numba kernels of SIFT: smoothing, gradients, pooling into spatial bins, normalisation.

A descriptor is separable: orientation plane by orientation plane it is ``Wy @ plane @ Wx.T`` with
four triangles a side as the rows of ``Wy`` and ``Wx``. So every *bin line* (the row or the column
that a triangle is centred on) is pooled once for all descriptors that share it: pixel rows are
added to the bin rows first, all eight orientations at a time, then columns to bin columns.

Shapes: ``turn`` and ``strength`` are (H, W) float32, the gradient's angle in eighths of a full
turn, 0 to 8, and its length; ``pooled`` is (bin rows, bin columns, 8). Bin lines come as ``Lines``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]
Lines = tuple[
    Array, Array, Array
]  # first pixel (n,), last pixel (n,), weights (n, taps) from first

# Without "reassoc" and "contract" a sum has one value whatever the width of the registers.
FAST = {"nnan", "ninf", "nsz"}

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
FOUR, EIGHT = np.float32(4), np.float32(8)
RED, GREEN, BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)  # Rec. 601

# Angle within a quadrant, as VLFeat approximates it: pi/4 - (0.9675 - 0.1821 r^2) r with
# r = (|x| - |y|) / (|x| + |y|), at most 0.01 rad off; here in eighths of a turn.
LINEAR, CUBIC = np.float32(0.9675 * 4 / np.pi), np.float32(0.1821 * 4 / np.pi)

OFFSETS = np.arange(4) - 1.5  # centres of the bins about the descriptor's, in bins
CLIP, LENGTH = np.float32(0.2), np.float32(512)


def gaussian(sigma: float) -> Array:
    """The right half of a Gaussian of unit sum, cut at 3 sigma as VLFeat's ``vl_imsmooth``."""
    half = np.exp(-0.5 * (np.arange(int(np.ceil(3 * sigma)) + 1) / sigma) ** 2)
    kernel: Array = (half / (2 * half.sum() - half[0])).astype(np.float32)
    return kernel


def window(bin_size: float) -> Array:
    """(128,): the mean of the Gaussian window over every bin, at every pixel under its triangle."""
    under = np.arange(1 - bin_size, bin_size) / bin_size
    mean = np.exp(-0.5 * ((under + OFFSETS[:, None]) / 2) ** 2).mean(axis=1)
    weights: Array = np.repeat(np.outer(mean, mean), 8).astype(np.float32)
    return weights


def bin_lines(centres: Array, bin_size: float, size: int) -> tuple[Lines, Array]:
    """The distinct bin lines of descriptors along an axis, and the four of each (n, 4)."""
    lines, index = np.unique(centres[:, None] + bin_size * OFFSETS, return_inverse=True)
    return triangles(lines, float(bin_size), size), index.reshape(-1, 4)


@njit(cache=True, fastmath=FAST, error_model="numpy")
def grey(image: Array) -> Array:
    """(H, W, 3) uint8 RGB -> (H, W) float32 luma, 0 to 255, not rounded."""
    out = np.empty((image.shape[0], image.shape[1]), np.float32)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            r, g, b = image[y, x, 0], image[y, x, 1], image[y, x, 2]
            out[y, x] = RED * np.float32(r) + GREEN * np.float32(g) + BLUE * np.float32(b)
    return out


@njit(cache=True, fastmath=FAST, error_model="numpy")
def smooth(image: Array, kernel: Array) -> Array:
    """Convolve (H, W) with ``kernel`` along both axes, the edge repeated.

    ``kernel`` (r + 1,) float32 is the right half, its centre first. Taps are taken in pairs that
    are equally far from the centre, so that a constant stays one to the bit.
    """
    height, width = image.shape
    reach = kernel.size - 1
    out = np.empty_like(image)
    line = np.empty(width + 2 * reach, np.float32)
    for y in range(height):
        middle = line[reach : reach + width]
        for x in range(width):
            middle[x] = kernel[0] * image[y, x]
        for t in range(1, reach + 1):
            above, below, k = image[max(y - t, 0)], image[min(y + t, height - 1)], kernel[t]
            for x in range(width):
                middle[x] += k * (above[x] + below[x])
        line[:reach] = middle[0]
        line[reach + width :] = middle[width - 1]
        target = out[y]
        for x in range(width):
            target[x] = kernel[0] * middle[x]
        for t in range(1, reach + 1):
            left, right, k = line[reach - t :], line[reach + t :], kernel[t]
            for x in range(width):
                target[x] += k * (left[x] + right[x])
    return out


@njit(cache=True, fastmath=FAST, error_model="numpy")
def gradients(image: Array) -> tuple[Array, Array]:
    """``turn`` and ``strength`` of (H, W) float32: central differences, one-sided at the border."""
    height, width = image.shape
    turn, strength = np.empty_like(image), np.empty_like(image)
    across = np.zeros(width, np.float32)
    for y in range(height):
        line, out, long = image[y], turn[y], strength[y]
        above, below = image[max(y - 1, 0)], image[min(y + 1, height - 1)]
        share = HALF if 0 < y < height - 1 else ONE
        for x in range(1, width - 1):
            across[x] = HALF * (line[x + 1] - line[x - 1])
        if width > 1:
            across[0] = line[1] - line[0]
            across[width - 1] = line[width - 1] - line[width - 2]
        for x in range(width):
            gx, gy = across[x], share * (below[x] - above[x])
            ax, ay = abs(gx), abs(gy)
            both = ax + ay
            r = (ax - ay) / (both if both > ZERO else ONE)
            t = max(ONE - (LINEAR - CUBIC * r * r) * r, ZERO)
            t = t if gx >= ZERO else FOUR - t
            out[x] = t if gy >= ZERO else EIGHT - t
            long[x] = np.sqrt(gx * gx + gy * gy)
    return turn, strength


@njit(cache=True, error_model="numpy")
def triangles(centres: Array, bin_size: float, size: int) -> Lines:
    """Weights ``max(0, 1 - |x - centre| / bin_size)`` of the pixels of an axis of ``size`` px.

    Pixels outside repeat the edge's gradient, so the edge takes their weights.
    """
    taps = min(int(np.ceil(2 * bin_size)), size)
    first, last = np.empty(centres.size, np.int64), np.empty(centres.size, np.int64)
    weights = np.zeros((centres.size, taps), np.float32)
    for i in range(centres.size):
        start = int(np.floor(centres[i] - bin_size)) + 1
        stop = int(np.ceil(centres[i] + bin_size))
        first[i], last[i] = min(max(start, 0), size - 1), min(max(stop - 1, 0), size - 1)
        for x in range(start, stop):
            at = min(max(x, 0), size - 1) - first[i]
            weights[i, at] += np.float32(1 - abs(x - centres[i]) / bin_size)
    return first, last, weights


@njit(cache=True, fastmath=FAST, error_model="numpy")
def pool(turn: Array, strength: Array, rows: Lines, columns: Lines) -> Array:
    """(bin rows, bin columns, 8): the orientation planes under every pair of triangles.

    ``rows`` and ``columns`` are in ascending order.
    """
    first, last, weights = rows
    left, right = columns[0].min(), columns[1].max() + 1
    width = right - left
    sums = np.zeros((first.size, width * 8), np.float32)
    planes = np.empty(width * 8, np.float32)
    begin = 0
    for y in range(first.min(), last.max() + 1):
        while begin < first.size and last[begin] < y:
            begin += 1
        if begin == first.size or first[begin] > y:
            continue
        angle, long = turn[y, left:right], strength[y, left:right]
        planes[:] = ZERO
        for x in range(width):
            low = np.int32(angle[x])
            above = (angle[x] - np.float32(low)) * long[x]
            planes[8 * x + (low & 7)] = long[x] - above
            planes[8 * x + ((low + 1) & 7)] = above
        for b in range(begin, first.size):
            if first[b] > y:
                break
            share, line = weights[b, y - first[b]], sums[b]
            for i in range(width * 8):
                line[i] += share * planes[i]
    first, last, weights = columns
    pooled = np.empty((sums.shape[0], first.size, 8), np.float32)
    for b in range(sums.shape[0]):
        line = sums[b].reshape(width, 8)
        for c in range(first.size):
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = ZERO
            for x in range(first[c], last[c] + 1):
                k, p = weights[c, x - first[c]], line[x - left]
                a0, a1, a2, a3 = a0 + k * p[0], a1 + k * p[1], a2 + k * p[2], a3 + k * p[3]
                a4, a5, a6, a7 = a4 + k * p[4], a5 + k * p[5], a6 + k * p[6], a7 + k * p[7]
            q = pooled[b, c]
            q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7] = a0, a1, a2, a3, a4, a5, a6, a7
    return pooled


@njit(cache=True, fastmath=FAST, error_model="numpy")
def inverse_norm(v: Array) -> Any:
    """``1 / ||v||`` of (128,), or 0 of zeros; eight sums, so that they fill a register."""
    a = b = c = d = e = f = g = h = ZERO
    for i in range(0, 128, 8):
        a, b, c, d = a + v[i] ** 2, b + v[i + 1] ** 2, c + v[i + 2] ** 2, d + v[i + 3] ** 2
        e, f = e + v[i + 4] ** 2, f + v[i + 5] ** 2
        g, h = g + v[i + 6] ** 2, h + v[i + 7] ** 2
    norm = np.sqrt(((a + b) + (c + d)) + ((e + f) + (g + h)))
    return ONE / norm if norm > ZERO else ZERO


@njit(cache=True, fastmath=FAST, error_model="numpy")
def assemble(pooled: Array, rows: Array, columns: Array, window: Array, out: Array) -> None:
    """Fill ``out`` (h, w, 128) from the bin lines ``rows`` (h, 4) and ``columns`` (w, 4).

    ``window`` (128,) weights the bins. Order: bin row, bin column, orientation, as VLFeat's.
    """
    v = np.empty(128, np.float32)
    for i in range(rows.shape[0]):
        for j in range(columns.shape[0]):
            for b in range(4):
                line = pooled[rows[i, b]]
                for c in range(4):
                    p, q = line[columns[j, c]], v[8 * (4 * b + c) :]
                    q[0], q[1], q[2], q[3] = p[0], p[1], p[2], p[3]
                    q[4], q[5], q[6], q[7] = p[4], p[5], p[6], p[7]
            for t in range(128):
                v[t] *= window[t]
            scale = inverse_norm(v)
            for t in range(128):
                v[t] = min(v[t] * scale, CLIP)
            scale, target = LENGTH * inverse_norm(v), out[i, j]
            for t in range(128):
                target[t] = v[t] * scale


@njit(cache=True, error_model="numpy")
def scattered(
    turn: Array, strength: Array, xy: Array, offsets: Array, bin_size: float, window: Array
) -> Array:
    """(n, 1, 128) descriptors at ``xy`` (n, 2); ``offsets`` (4,) are the bins' centres about it."""
    out = np.empty((xy.shape[0], 1, 128), np.float32)
    bins = np.arange(4).reshape(1, 4)
    for i in range(xy.shape[0]):
        rows = triangles(xy[i, 1] + offsets, bin_size, turn.shape[0])
        columns = triangles(xy[i, 0] + offsets, bin_size, turn.shape[1])
        pooled = pool(turn, strength, rows, columns)
        assemble(pooled, bins, bins, window, out[i : i + 1])
    return out

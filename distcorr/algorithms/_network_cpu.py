"""What a network does to every pixel and channel besides convolving, in one pass on a CPU.

In torch each step is a pass through memory of its own. ``fastmath`` stays off: the results are
those of IEEE arithmetic in the order that is written here, on every processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]

ALPHA = np.float32(1e-4 / 5)  # Krizhevsky et al. 2012, section 3.3, per channel of the five


@njit(cache=True, error_model="numpy")
def local_response_norm(x: Array, out: Array) -> None:
    """``out = x * s^-0.75``, ``s = 1 + ALPHA * sum of x^2 over 5 channels``.

    Args:
        x: (N, C) float32, a row per cell.
        out: likewise, in memory of its own: the loop has to know that to run in vectors.
    """
    channels = x.shape[1]
    one = np.float32(1)
    squares = np.zeros(channels + 4, np.float32)  # two zeros at either end: no case for the edges
    for i in range(x.shape[0]):
        for c in range(channels):
            squares[c + 2] = x[i, c] * x[i, c]
        for c in range(channels):
            total = squares[c + 2] + squares[c + 1] + squares[c + 3] + squares[c] + squares[c + 4]
            root = one / np.sqrt(total * ALPHA + one)
            out[i, c] = x[i, c] * (root * np.sqrt(root))


@njit(cache=True, error_model="numpy")
def standardise(pixels: Array, order: Array, mean: Array, scale: float, out: Array) -> None:
    """``out[:, c] = (pixels[:, order[c]] - mean[c]) / scale``.

    Args:
        pixels: (N, 3) uint8.
        order: (3,) int64, which channel of ``pixels`` comes first, second and third.
        mean: (3,) float32, in the new order.
        scale: taken as float32.
        out: (N, 3) float32.
    """
    divisor = np.float32(scale)
    for i in range(pixels.shape[0]):
        for c in range(3):
            out[i, c] = (np.float32(pixels[i, order[c]]) - mean[c]) / divisor

"""The compiled loop behind ``rebuild.RunningMean``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Array = npt.NDArray[Any]


@njit(cache=True, nogil=True)
def add(picture: Array, boxes: Array, count: Array, total: Array, squares: Array) -> None:
    """Add squares of a picture (H, W, 3) to sums (s, s, 3); pixels beyond it count for nothing."""
    height, width = picture.shape[:2]
    side = count.shape[0]
    for top, left in boxes:
        for y in range(max(0, -top), min(side, height - top)):
            for x in range(max(0, -left), min(side, width - left)):
                count[y, x] += 1
                for colour in range(3):
                    value = np.int64(picture[top + y, left + x, colour])
                    total[y, x, colour] += value
                    squares[y, x, colour] += value * value

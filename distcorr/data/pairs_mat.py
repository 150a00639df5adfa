"""PF-PASCAL's annotation of one photograph: a MATLAB file with ``kps`` and ``bbox``."""

from __future__ import annotations

import warnings
import zlib
from io import BytesIO
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from distcorr.data.pairs_read import Points, box_of, from_matlab
from distcorr.types import Box

_LARGEST = 1 << 20  # bytes; the published ones have less than 2 kB
_BROKEN = (
    *(MatReadError, ValueError, TypeError, LookupError, AttributeError, OSError),
    *(NotImplementedError, MemoryError, OverflowError, zlib.error),
)


class Annotation(NamedTuple):
    """(n, 2) 0-based xy px of every keypoint type, NaN where absent; the object's box."""

    points: Points
    box: Box


def read_mat(content: bytes) -> Annotation:
    """Read ``kps``, (n, 2), and ``bbox``, x0, y0, x1, y1; both as MATLAB counts, from 1.

    Raises:
        ValueError: the file is damaged, or says something else.
    """
    if len(content) > _LARGEST:
        raise ValueError(f"{len(content)} bytes are no annotation")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names twice: the arrays are looked at below
            told = loadmat(BytesIO(content), variable_names=("kps", "bbox"))
        points, sides = (np.asarray(told[name], np.float64) for name in ("kps", "bbox"))
    except _BROKEN as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if points.ndim != 2 or points.shape[1] != 2 or np.isinf(points).any():
        raise ValueError(f"kps has the shape {points.shape}, or is infinite")
    if sides.size != 4 or not np.isfinite(sides).all():
        raise ValueError(f"bbox has the shape {sides.shape}, or is not finite")
    return Annotation(from_matlab(points), box_of([float(side) for side in sides.flat], shift=-1))

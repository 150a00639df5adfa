"""Near copies: photographs of one scene from one place, as frames of a video are; not in the paper.

Most places of such a photograph look like the same place of the other, and like no other place of
it. In unrelated photographs, also of much sky, it is chance which place looks most alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.rebuild import Cells

SIDE = 8  # places along a side that are compared
FEWEST = 16  # places that say anything


def spread(cells: Cells, rows: int, cols: int) -> npt.NDArray[np.intp]:
    """Indices of at most ``SIDE`` x ``SIDE`` of the cells (n, 2), evenly spread over a grid.

    Cells may be a sample of the grid: each place takes the nearest one, the first where two tie.
    """
    if not len(cells):
        return np.zeros(0, np.intp)
    along = (np.arange(SIDE) + 0.5) / SIDE
    wanted = np.stack(np.meshgrid(along * rows, along * cols, indexing="ij"), axis=-1)
    apart = wanted.reshape(-1, 1, 2) - (cells + 0.5)
    return np.unique((apart**2).sum(axis=2).argmin(axis=1))


def same_place(cells: Cells, rows: int, cols: int, to_rows: int, to_cols: int) -> Cells:
    """(n, 2) cells of a grid of another size that lie in the same share of it."""
    scale = np.array([to_rows / rows, to_cols / cols])
    moved: Cells = np.floor((cells + 0.5) * scale).astype(np.int64)
    return moved


def agreement(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """The share of places of one photograph that look most like the same place of another.

    Of frames of one video it was 0.55 and more, of unrelated photographs at most 0.38 (CaffeNet's
    conv3, 306,000 pairs).

    Args:
        a: (n, C) features of n places.
        b: (n, C) of the same places in the other photograph.

    Returns:
        0 to 1; 0 for fewer than ``FEWEST`` places, and a place without features agrees with none.

    Raises:
        ValueError: shapes differ.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"both must be (n, C), got {a.shape} and {b.shape}")
    if len(a) < FEWEST:
        return 0.0
    norms = np.linalg.norm(np.asarray(b, np.float64), axis=1)
    unit = b / np.where(norms > 0, norms, 1)[:, None]
    best = (np.asarray(a, np.float64) @ unit.T).argmax(axis=1)
    return float(((best == np.arange(len(a))) & a.any(axis=1) & (norms > 0)).mean())

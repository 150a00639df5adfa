"""Near copies: photographs of one scene, as frames of a video are; not in the paper.

Most places of such a photograph look most like a place of the other that lies in one and the same
displacement from it. In unrelated photographs, also of much sky, chance says what looks most alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.rebuild import Cells
from distcorr.types import BoolArray

SIDE = 8  # places along a side that are compared
FEWEST = 25  # places, and cells to find them among: of fewer, many lie alike by chance


def places(rows: int, cols: int) -> Cells:
    """(n, 2) at most ``SIDE`` x ``SIDE`` cells (row, col), evenly spread over a grid."""
    along = [np.unique((2 * np.arange(SIDE) + 1) * each // (2 * SIDE)) for each in (rows, cols)]
    grid = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.int64)


def scaled(cells: Cells, grid: tuple[int, int], other: tuple[int, int]) -> Cells:
    """(n, 2) cells of a ``grid`` of (rows, cols) as those in the same share of another."""
    moved: Cells = np.floor((cells + 0.5) * np.divide(other, grid)).astype(np.int64)
    return moved


def agreement(at: Cells, best: Cells) -> float:
    """The largest share of places whose likeness lies in the same displacement, to a cell.

    Of frames of one video and of photographs of one scene it is 0.45 and more, of unrelated
    photographs seldom above 0.3 (CaffeNet's conv3, 45,000 pairs).

    Args:
        at: (n, 2) places of a photograph, as (row, col) in the other's grid.
        best: (n, 2) cell of the other that is most like each.

    Returns:
        0 to 1; 0 for fewer than ``FEWEST`` places.
    """
    if len(at) < FEWEST:
        return 0.0
    moved = best - at
    moved -= moved.min(axis=0)
    votes = np.zeros(moved.max(axis=0) + 3, np.int64)
    for row in range(3):
        for col in range(3):
            np.add.at(votes, (moved[:, 0] + row, moved[:, 1] + col), 1)
    return float(votes.max() / len(at))


def most_alike(
    a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.intp], BoolArray]:
    """For (n, C) features the index of the most similar, by cosine, of (m, C) others.

    Returns:
        (n,) indices, the lower where two tie, and (n,) whether there is one: zeros have none.
    """
    norms = np.linalg.norm(b.astype(np.float64), axis=1)
    unit = (b / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    scores = a.astype(np.float32) @ unit.T
    scores[:, norms == 0] = -np.inf
    return scores.argmax(axis=1), a.any(axis=1) & (norms > 0).any()

"""Near copies between training and validation, found without a network; not in the paper.

As ``visualize`` does for its own photographs, but cheap enough for a whole data set: places are
compared by dense SIFT of photographs reduced to ``SIDE`` px, and only with the ``CANDIDATES``
training photographs that look most alike as 8 x 8 grey cells. So a copy that is much brighter on
one side, mirrored or cut to another part is not found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.algorithms import copies, sift
from distcorr.errors import DistcorrError
from distcorr.types import FloatArray

SIDE = 160  # px, the longer side of what is compared
CANDIDATES = 25  # training photographs that each validation photograph is compared with
LEAST = 0.65
"""Agreement of near copies. On 1,130 photographs, 292,000 pairs: each validation photograph out of
a video has a frame with 0.67 or more in training; of unrelated ones the most is 0.62."""
MOST = 50_000  # photographs that are compared: 1 GB of descriptors

_STEP = _BIN = 8  # px of dense SIFT
_NARROW = 32  # px, the least side: two rows of descriptors
_THUMBNAIL = 8  # cells along a side


class Sketch(NamedTuple):
    """A photograph small: (64,) thumbnail of mean 0 and norm 1, (rows, cols, 128) uint8 SIFT."""

    thumbnail: FloatArray
    grid: npt.NDArray[np.uint8]


class Copy(NamedTuple):
    """A validation photograph, the training photograph most like it, and their agreement."""

    image: str
    other: str
    agreement: float


def sketch(image: npt.NDArray[np.uint8]) -> Sketch:
    """What a (H, W, 3) photograph is compared by."""
    picture = Image.fromarray(image)
    scale = SIDE / max(picture.size)
    size = [max(_NARROW, round(side * scale)) for side in picture.size]
    small = picture.resize((size[0], size[1]), Image.Resampling.BOX)
    grid = np.minimum(np.rint(sift.dense(np.asarray(small), _STEP, _BIN)), 255).astype(np.uint8)
    cells = (_THUMBNAIL, _THUMBNAIL)
    grey = np.asarray(small.convert("L").resize(cells, Image.Resampling.BOX), np.float32).ravel()
    grey = grey - grey.mean()
    return Sketch(grey / max(float(np.linalg.norm(grey)), 1e-6), grid)


def near_copies(
    sketches: Mapping[str, Sketch],
    asked: Sequence[str],
    among: Sequence[str],
    least: float = LEAST,
) -> list[Copy]:
    """For each asked photograph its nearest copy among the others, if it has one.

    Raises:
        DistcorrError: they are more than ``MOST``.
    """
    if len(asked) + len(among) > MOST:
        raise DistcorrError(
            f"Near copies are looked for among at most {MOST:,} photographs, and there are "
            f"{len(asked) + len(among):,}.",
            "one category at a time: --category NAME, or --limit N",
        )
    if not asked or not among:
        return []
    places = {name: _places(sketches[name].grid) for name in asked}
    best: dict[str, Copy] = {}
    for other, names in _candidates(sketches, asked, among).items():
        grid = sketches[other].grid
        cells = np.indices(grid.shape[:2]).reshape(2, -1).T
        values = np.concatenate([places[name][1] for name in names])
        others = grid.reshape(-1, grid.shape[-1]).astype(np.float32)
        nearest, there = copies.most_alike(values, others)
        start = 0
        for name in names:
            at, mine = places[name]
            part = slice(start, start := start + len(mine))
            some = there[part]
            moved = copies.scaled(at[some], sketches[name].grid.shape[:2], grid.shape[:2])
            share = copies.agreement(moved, cells[nearest[part][some]])
            if share >= least and (name not in best or share > best[name].agreement):
                best[name] = Copy(name, other, share)
    return [best[name] for name in asked if name in best]


def _places(grid: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int64], FloatArray]:
    at = copies.places(*grid.shape[:2])
    return at, grid[at[:, 0], at[:, 1]].astype(np.float32)


def _candidates(
    sketches: Mapping[str, Sketch], asked: Sequence[str], among: Sequence[str]
) -> dict[str, list[str]]:
    """Other photograph -> those that are compared with it; names in order, so ties are stable."""
    others = np.stack([sketches[name].thumbnail for name in among])
    found: dict[str, list[str]] = defaultdict(list)
    for name in asked:
        likeness = others @ sketches[name].thumbnail
        for index in np.argsort(-likeness, kind="stable")[:CANDIDATES]:
            found[among[index]].append(name)
    return {name: found[name] for name in among if name in found}

"""Keypoint detectors on feature grids: where they look, what is right there, scores (section 5).

A detector is a linear SVM on blocks of ``block x block`` cells of a grid over a square crop: 3 x 3
of conv5 at stride 16, single descriptors of SIFT at stride 8. It looks at every block that lies in
the grid; a *position* is the index of a block, in rows.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distcorr.algorithms import svm
from distcorr.types import FloatArray, Geometry

Grids = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which positions are positives of a keypoint, and which are negatives (paper, section 5).

    Attributes:
        beyond: px; a position so far from the keypoint, or farther, is a negative.
        square: by max(abs(dx), abs(dy)), as receptive fields are, and not by Euclidean distance.
        nearest: so many of the closest positions are positives; where it is 0:
        within: px; a position so close to the keypoint, or closer, is a positive.
    """

    beyond: float
    square: bool = False
    nearest: int = 0
    within: float = 0.0

    def __post_init__(self) -> None:
        far = not self.within < self.beyond
        if far or self.nearest < 0 or not (self.nearest or self.within > 0):
            raise ValueError(f"a rule needs positives, nearer than its negatives, got {self}")


FIELD = 195 / 500  # of the square: the field of 3 x 3 cells of conv5, section 5
SIFT_RULE = Rule(within=16, beyond=32)  # section 5


def field_rule(geometry: Geometry, block: int, nearest: int = 10) -> Rule:
    """Section 5's rule for a convnet: the ten closest, against fields without the keypoint.

    Fields of deep networks cover the whole square, and no position would be a negative. What is as
    far from the keypoint as the paper's fields reach is one, then (not in the paper).
    """
    field = geometry.rf + (block - 1) * geometry.stride
    return Rule(beyond=min(field, FIELD * geometry.input_size) / 2, square=True, nearest=nearest)


def positions(geometry: Geometry, block: int = 1) -> Floats:
    """(rows, cols, 2) px xy of the centres of all blocks that lie in the grid.

    Raises:
        ValueError: the grid is smaller than a block.
    """
    count = geometry.cells - block + 1
    if block < 1 or count < 1:
        raise ValueError(f"a block must be 1 to {geometry.cells} cells wide, got {block}")
    along = geometry.offset + geometry.stride * (np.arange(count) + (block - 1) / 2)
    return np.stack(np.meshgrid(along, along), axis=-1)


def labels(keypoints: npt.ArrayLike, centres: Floats, rule: Rule, *, absent: int = 0) -> Labels:
    """+1 where a position is a positive of a keypoint, -1 where a negative, else 0.

    A position that fits both (the keypoint lies outside the crop) is a negative.

    Args:
        keypoints: (n, K, 2) px in the crop, NaN where an instance does not show the keypoint.
        centres: (rows, cols, 2) px, of ``positions``.
        rule: what counts as which.
        absent: label of all positions where the keypoint is not shown: 0, or -1 (not in the paper).

    Returns:
        (n, K, rows, cols) int8.
    """
    points, at = np.asarray(keypoints, np.float64), centres.reshape(-1, 2)
    if points.ndim != 3 or points.shape[2] != 2:
        raise ValueError(f"keypoints must be (n, K, 2) px, got {points.shape}")
    gaps = np.abs(points[:, :, None] - at)
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    if rule.nearest:
        near = np.zeros(away.shape, bool)
        closest = np.argsort(away, axis=2, kind="stable")[..., : rule.nearest]
        np.put_along_axis(near, closest, True, axis=2)
    else:
        near = away <= rule.within
    far = (gaps.max(axis=3) if rule.square else away) >= rule.beyond
    found = np.where(far, -1, near).astype(np.int8)
    found[np.isnan(points).any(axis=2)] = absent
    return found.reshape(*points.shape[:2], *centres.shape[:2])


BATCH = 4  # grids of one product, which more would hardly speed up; not in the paper


@dataclass(frozen=True, eq=False)
class Detectors:
    """K linear detectors of blocks; a keypoint without positives scores -inf everywhere.

    Attributes:
        linear: on blocks in the order (dy, dx, channel), D = block * block * C, times ``scale``.
        block: side in cells.
        scale: factor that features are multiplied by before anything else.
    """

    linear: svm.Linear
    block: int = 1
    scale: float = 1.0


def score(grids: Grids, detectors: Detectors, device: str = "cpu") -> FloatArray:
    """Scores of every detector at every position; no block is ever stored.

    An instance's scores do not depend on what else is in the shard: every product has the same
    shape, whatever is in it.

    Args:
        grids: (n, rows, cols, C) float16 or float32.
        detectors: K of them.
        device: torch device.

    Returns:
        (n, K, rows - block + 1, cols - block + 1) float32.

    Raises:
        ValueError: the grids do not fit the detectors.
    """
    return np.ascontiguousarray(score_positions(grids, detectors, device).transpose(0, 3, 1, 2))


def score_positions(grids: Grids, detectors: Detectors, device: str = "cpu") -> FloatArray:
    """``score`` in the order of the positions: (n, rows - block + 1, cols - block + 1, K).

    A convolution with K channels would leave many lanes of a processor idle, as K is small. So
    each row of blocks is a convolution of its own, all of them are one with block * K channels
    along the rows of the grid, and a detector's score is the sum of what its rows say.
    """
    _fit_together(grids, detectors)
    block, count = detectors.block, len(detectors.linear.coef)
    rows, cols = (side - block + 1 for side in grids.shape[1:3])
    out = np.empty((len(grids), rows, cols, count), np.float32)
    with torch.inference_mode():
        kernel, bias = (each.to(device) for each in _row_kernels(detectors))
        x = torch.zeros((BATCH, *grids.shape[1:]), device=device)
        for start in range(0, len(grids), BATCH):
            some = torch.from_numpy(
                np.require(grids[start : start + BATCH], requirements=["C", "W"])
            )
            here = slice(start, start + len(some))
            x[: len(some)] = some.to(device)  # as float32; what is left of others is not looked at
            said = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel, bias)
            said = said.permute(0, 2, 3, 1)[: len(some)]
            said = said.reshape(*said.shape[:3], block, count)
            shifted = (said[:, dy : dy + rows, :, dy] for dy in range(block))
            out[here] = functools.reduce(torch.add, shifted).cpu().numpy()
    return out


def _fit_together(grids: Grids, detectors: Detectors) -> None:
    block, width = detectors.block, detectors.linear.coef.shape[1]
    if grids.ndim != 4 or block * block * grids.shape[3] != width or min(grids.shape[1:3]) < block:
        raise ValueError(
            f"grids must be (n, rows, cols, {width // block**2}) and hold a block of {block} x "
            f"{block} cells, got {grids.shape}"
        )


def _row_kernels(detectors: Detectors) -> tuple[torch.Tensor, torch.Tensor]:
    """(block * K, C, 1, block) weights in the order (dy, detector), and the bias of their first K.

    All of a detector's bias is with its first row.
    """
    linear, block = detectors.linear, detectors.block
    count = len(linear.coef)
    weights = torch.from_numpy((detectors.scale * linear.coef).astype(np.float32))
    weights = weights.reshape(count, block, block, -1).permute(1, 0, 3, 2).flatten(0, 1)[:, :, None]
    bias = torch.zeros(block * count)
    bias[:count] = torch.from_numpy(linear.intercept.astype(np.float32))
    return weights.contiguous(memory_format=torch.channels_last), bias


def blocks(grids: Grids, rows: npt.NDArray[Any], block: int) -> Grids:
    """(m, block * block * C) features at ``rows`` of all n * positions positions, as stored."""
    sides = [side - block + 1 for side in grids.shape[1:3]]
    instance, y, x = np.unravel_index(rows, (len(grids), *sides))
    out = np.empty((len(rows), block, block, grids.shape[3]), grids.dtype)
    for dy, dx in np.ndindex(block, block):
        out[:, dy, dx] = grids[instance, y + dy, x + dx]
    return out.reshape(len(rows), block * block * grids.shape[3])

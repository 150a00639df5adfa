"""Keypoint detectors on feature grids: where they look, what is right there, scores (section 5).

A detector is a linear SVM on blocks of ``block x block`` cells of a grid over a square crop: 3 x 3
of conv5 at stride 16, single descriptors of SIFT at stride 8. It looks at every block that lies in
the grid; a *position* is the index of a block, in rows.
"""

from __future__ import annotations

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
    """Scores of every detector at every position: one convolution, no block is ever stored.

    One instance at a time, so that its scores do not depend on what else is in the shard.

    Args:
        grids: (n, rows, cols, C) float16 or float32.
        detectors: K of them.
        device: torch device.

    Returns:
        (n, K, rows - block + 1, cols - block + 1) float32.

    Raises:
        ValueError: the grids do not fit the detectors.
    """
    linear, block = detectors.linear, detectors.block
    count, width = linear.coef.shape
    if grids.ndim != 4 or block * block * grids.shape[3] != width or min(grids.shape[1:3]) < block:
        raise ValueError(
            f"grids must be (n, rows, cols, {width // block**2}) and hold a block of {block} x "
            f"{block} cells, got {grids.shape}"
        )
    kernel = torch.from_numpy((detectors.scale * linear.coef).astype(np.float32))
    kernel = kernel.reshape(count, block, block, -1).permute(0, 3, 1, 2)
    kernel = kernel.contiguous(memory_format=torch.channels_last).to(device)
    bias = torch.from_numpy(linear.intercept.astype(np.float32)).to(device)
    sides = [side - block + 1 for side in grids.shape[1:3]]
    out = np.empty((len(grids), count, *sides), np.float32)
    with torch.inference_mode():
        for number, grid in enumerate(grids):
            x = torch.from_numpy(np.ascontiguousarray(grid, np.float32)).to(device)
            x = x[None].permute(0, 3, 1, 2)  # of channels-last memory
            out[number] = torch.nn.functional.conv2d(x, kernel, bias)[0].cpu().numpy()
    return out


def blocks(grids: Grids, rows: npt.NDArray[Any], block: int) -> Grids:
    """(m, block * block * C) features at ``rows`` of all n * positions positions, as stored."""
    sides = [side - block + 1 for side in grids.shape[1:3]]
    instance, y, x = np.unravel_index(rows, (len(grids), *sides))
    out = np.empty((len(rows), block, block, grids.shape[3]), grids.dtype)
    for dy, dx in np.ndindex(block, block):
        out[:, dy, dx] = grids[instance, y + dy, x + dx]
    return out.reshape(len(rows), block * block * grids.shape[3])

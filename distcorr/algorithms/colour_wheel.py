"""Colours for displacement fields and for positions.

A displacement's direction is its hue and its length its saturation, as is usual for optical flow
(Baker et al., "A Database and Evaluation Methodology for Optical Flow", 2011): white stands still.
Neither is in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]

_ACROSS = 4.8  # sixths of the hues from the left edge to the right one: red to violet
_LIGHT, _DARK = 0.45, 0.45  # share of white at the top edge, of black at the bottom one


def colour_flow(displacement: npt.ArrayLike, longest: float) -> Colours:
    """(..., 2) displacements (dx, dy) -> (..., 3) uint8 RGB.

    Hue is the angle from +x (red) towards +y, which is down (yellow-green); saturation is the
    length, full from ``longest`` on. The two have the same unit.

    Raises:
        ValueError: displacement is not (..., 2) or not finite, longest is not above 0.
    """
    w = np.asarray(displacement, np.float64)
    if w.shape[-1:] != (2,) or not np.isfinite(w).all():
        raise ValueError(f"displacement must be (..., 2) and finite, got shape {w.shape}")
    if not longest > 0:
        raise ValueError(f"longest must be above 0, got {longest}")
    pure = _hue(np.arctan2(w[..., 1], w[..., 0]) * (3 / np.pi))
    saturation = np.minimum(np.hypot(w[..., 0], w[..., 1]) / longest, 1)[..., None]
    return _to_uint8(255 * (1 - saturation * (1 - pure)))


def wheel(side: int) -> npt.NDArray[np.uint8]:
    """The legend of `colour_flow`: a (side, side, 4) uint8 RGBA disc, transparent around it.

    Its centre stands still, its edge moves by ``longest`` in the direction from the centre.
    """
    axis = (np.arange(side) + 0.5) * (2 / side) - 1
    w = np.stack(np.meshgrid(axis, axis), axis=-1)
    inside = np.hypot(w[..., 0], w[..., 1]) <= 1
    return np.dstack([colour_flow(w, 1.0), np.where(inside, 255, 0).astype(np.uint8)])


def colour_positions(uv: npt.ArrayLike) -> Colours:
    """(..., 2) positions (u, v) in the unit square -> (..., 3) uint8 RGB.

    Hues run from left to right, and every hue from light to dark from the top down.
    """
    u, v = np.moveaxis(np.clip(np.asarray(uv, np.float64), 0, 1), -1, 0)
    white = (_LIGHT * np.clip(1 - 2 * v, 0, 1))[..., None]
    black = (_DARK * np.clip(2 * v - 1, 0, 1))[..., None]
    return _to_uint8(255 * (1 - black) * (white + (1 - white) * _hue(_ACROSS * u)))


def _hue(sixths: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(...) hues in sixths of the circle from red -> (..., 3) pure colours in [0, 1], as HSV's."""
    offset = np.array([0.0, 4.0, 2.0])  # of red, green and blue along the hues
    pure: npt.NDArray[np.float64] = np.abs((sixths[..., None] + offset) % 6 - 3) - 1
    return np.clip(pure, 0, 1)


def _to_uint8(values: npt.NDArray[Any]) -> Colours:
    rounded: Colours = np.rint(values).astype(np.uint8)
    return rounded

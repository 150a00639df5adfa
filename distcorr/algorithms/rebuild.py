"""Photographs rebuilt from neighbours' patches, and averages of receptive fields (Figures 1 and 2).

A box is the corner of a square of whole pixels: its first row and column. Cells come in rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from distcorr.algorithms import _fields_cpu
from distcorr.types import BoolArray, Geometry

Array = npt.NDArray[Any]
Picture = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.int64]
Cells = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MEAN_COLOUR = (123, 117, 104)  # RGB; CaffeNet's mean pixel, rounded
GREY = np.array([0.299, 0.587, 0.114])  # Rec. 601


def every_cell(rows: Geometry, cols: Geometry) -> Cells:
    """(rows * cols, 2) (row, col) of all cells of a picture, in rows."""
    row, col = np.divmod(np.arange(rows.cells * cols.cells, dtype=np.int64), cols.cells)
    return np.stack([row, col], axis=1)


def boxes_around(rows: Geometry, cols: Geometry, cells: Cells, side: int) -> Boxes:
    """Squares around the centres of cells.

    Figure 1's patch of 16 px around centre c is c - 8 ... c + 7 (protocol, section 6.1).

    Args:
        rows: where the cells lie along the picture's height.
        cols: along its width.
        cells: (n, 2) (row, col).
        side: px; the stride for Figure 1's patches, the receptive field for Figure 2.

    Returns:
        (n, 2) first (row, col) px.
    """
    offset, stride = np.array([[a.offset, a.stride] for a in (rows, cols)]).T
    first: Boxes = np.ceil(offset + stride * cells - side / 2).astype(np.int64)
    return first


def inside(boxes: Boxes, side: int, shape: Sequence[int]) -> BoolArray:
    """(n,) which boxes of ``side`` px lie inside a picture of ``shape`` (H, W, ...)."""
    within: BoolArray = (boxes >= 0) & (boxes + side <= np.array(shape[:2]))
    return within[:, 0] & within[:, 1]


def cut(picture: Picture, boxes: Boxes, side: int) -> Picture:
    """(n, side, side, 3) of (H, W, 3); beyond the picture its edge is repeated."""
    rows, cols = _pixels(boxes, side)
    height, width = picture.shape[:2]
    rows, cols = rows.clip(0, height - 1), cols.clip(0, width - 1)
    return picture[rows[:, :, None], cols[:, None, :]]


def covered(boxes: Boxes, side: int, shape: Sequence[int]) -> BoolArray:
    """(H, W) the pixels that some box covers."""
    mask = np.zeros(shape[:2], bool)
    for row, col in boxes:
        mask[max(row, 0) : max(row + side, 0), max(col, 0) : max(col + side, 0)] = True
    return mask


def _pixels(boxes: Boxes, side: int) -> tuple[Boxes, Boxes]:
    rows, cols = boxes.T[:, :, None] + np.arange(side)
    return rows, cols


def rebuild(
    shape: Sequence[int],
    boxes: Boxes,
    patches: Picture,
    counts: npt.NDArray[np.integer[Any]] | None = None,
    colour: Sequence[int] = MEAN_COLOUR,
) -> Picture:
    """Every cell's patch replaced by the plain mean of its neighbours' patches (Figure 1).

    Args:
        shape: (H, W, ...) of the picture.
        boxes: (n, 2) the cells' places.
        patches: (n, k, s, s, 3); what sticks out of the picture is cut off.
        counts: (n,) only so many of the k are there; a cell with none gets ``colour``.
        colour: RGB, also of the pixels that no patch covers.

    Returns:
        (H, W, 3); halves are rounded up.

    Raises:
        ValueError: patches do not fit the cells.
    """
    cells, side = len(boxes), patches.shape[2] if patches.ndim == 5 else 0
    if patches.shape[:1] != (cells,) or patches.shape[2:] != (side, side, 3):
        raise ValueError(f"patches must be ({cells}, k, s, s, 3), got {patches.shape}")
    counts = np.full(cells, patches.shape[1]) if counts is None else counts
    if counts.shape != (cells,) or (counts < 0).any() or (counts > patches.shape[1]).any():
        raise ValueError(f"counts must be {cells} numbers from 0 to {patches.shape[1]}")
    low = np.minimum(boxes.min(axis=0, initial=0), 0)
    high = np.maximum(boxes.max(axis=0, initial=0) + side, shape[:2])
    canvas = np.empty((*(high - low), 3), np.uint8)
    canvas[:] = colour
    for (row, col), own, count in zip(boxes - low, patches, counts, strict=True):
        if count:
            total = own[:count].sum(axis=0, dtype=np.int64)
            canvas[row : row + side, col : col + side] = (2 * total + count) // (2 * count)
    top, left = -low
    return canvas[top : top + shape[0], left : left + shape[1]].copy()


def uniform_rf(
    picture: Picture, boxes: Boxes, side: int, rf: int, k: int, seed: Sequence[int]
) -> Picture:
    """Patches at random places in a receptive field, Figure 1's column "uniform rf".

    Offsets are whole pixels, uniform over at most (rf - side) / 2 along each axis, so that the
    patch lies in the field: 41 px for conv3 (protocol, section 6.5). A patch that would stick out
    of the picture is moved inside.

    Args:
        picture: (H, W, 3), where the cells are.
        boxes: (n, 2) all cells of the photograph, in rows: the draw depends on the place in them.
        side: px of a patch.
        rf: px of the field.
        k: patches for each cell; the first of them are those of a smaller k.
        seed: of the run and the photograph.

    Returns:
        (n, k, side, side, 3).

    Raises:
        ValueError: the field is smaller than the patch, or the picture is.
    """
    if rf < side or min(picture.shape[:2]) < side:
        raise ValueError(f"a patch of {side} px needs a larger field ({rf} px) or picture")
    reach, room = (rf - side) // 2, np.array(picture.shape[:2]) - side
    draws = [g.integers(-reach, reach + 1, (k, 2)) for g in _generators(len(boxes), seed)]
    at = boxes[:, None] + np.reshape(draws, (len(boxes), k, 2)).astype(np.int64)
    drawn = cut(picture, at.clip(0, room).reshape(-1, 2), side)
    return drawn.reshape(len(boxes), k, side, side, 3)


def random_cells(total: int, cells: int, k: int, seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """(cells, k) places in a data base of ``total`` cells, uniform and independent.

    The baseline of random patches (not in the paper). Seeded as ``uniform_rf``.
    """
    draws = [g.integers(0, total, k) for g in _generators(cells, seed)]
    return np.reshape(draws, (cells, k)).astype(np.int64)


def _generators(cells: int, seed: Sequence[int]) -> list[np.random.Generator]:
    return [np.random.default_rng([*seed, cell]) for cell in range(cells)]


class Error(NamedTuple):
    """How far a rebuilt picture is from its original; NaN where there is nothing to compare.

    Attributes:
        psnr: dB, 10 log10(255^2 / mean squared difference) over pixels and colours; inf if equal.
        colour: mean absolute difference over pixels and colours, levels of 255.
        ssim: structural similarity (Wang et al. 2004) of grey pictures (Rec. 601).
    """

    psnr: float
    colour: float
    ssim: float


def error(rebuilt: Picture, original: Picture, mask: BoolArray) -> Error:
    """Compare two (H, W, 3) pictures over the pixels of ``mask`` (H, W); not in the paper.

    SSIM = (2 m n + c)(2 s_xy + d) / ((m^2 + n^2 + c)(s_xx + s_yy + d)) with means m, n, variances
    and covariance under a Gaussian window of 11 px, sigma 1.5, c = (0.01 * 255)^2 and
    d = (0.03 * 255)^2. Its mean is over pixels whose whole window lies in the mask.

    Raises:
        ValueError: shapes disagree.
    """
    if rebuilt.shape != original.shape or rebuilt.shape != (*mask.shape, 3):
        shapes = f"{rebuilt.shape}, {original.shape} and {mask.shape}"
        raise ValueError(f"pictures must be (H, W, 3) and their mask (H, W), got {shapes}")
    difference = (rebuilt.astype(np.int64) - original)[mask]
    if not difference.size:
        return Error(np.nan, np.nan, np.nan)
    square = int(np.square(difference).sum()) / difference.size
    psnr = float(10 * np.log10(255**2 / square)) if square else np.inf
    # Beyond the picture counts as outside the mask.
    whole = ndimage.minimum_filter(mask.astype(np.uint8), 11, mode="constant", cval=0) > 0
    ssim = float(_ssim(rebuilt @ GREY, original @ GREY)[whole].mean()) if whole.any() else np.nan
    return Error(psnr, int(np.abs(difference).sum()) / difference.size, ssim)


def _ssim(x: Floats, y: Floats) -> Floats:
    def mean(values: Floats) -> Floats:
        blurred: Floats = ndimage.gaussian_filter(values, 1.5, radius=5)
        return blurred

    c, d = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    m, n = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - m * m, mean(y * y) - n * n, mean(x * y) - m * n
    ratio: Floats = (2 * m * n + c) * (2 * xy + d) / ((m * m + n * n + c) * (xx + yy + d))
    return ratio


@dataclass(frozen=True, eq=False)
class RunningMean:
    """Sums over squares of pictures, for their mean and standard deviation (Figure 2).

    They are whole numbers: squares may come in any order and grouping, and the bytes stay the same.
    Add two with ``+``.

    Attributes:
        count: (s, s) int64 squares that show the pixel.
        total: (s, s, 3) int64.
        squares: (s, s, 3) int64.
    """

    count: npt.NDArray[np.int64]
    total: npt.NDArray[np.int64]
    squares: npt.NDArray[np.int64]

    @classmethod
    def blank(cls, side: int) -> RunningMean:
        """Of nothing yet, ``side`` px wide."""
        sums = (np.zeros((side, side, 3), np.int64) for _ in range(2))
        return cls(np.zeros((side, side), np.int64), *sums)

    def add(self, picture: Picture, boxes: Boxes) -> None:
        """Add the squares at (n, 2) ``boxes`` of (H, W, 3); pixels beyond it are left out."""
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            found = f"{picture.dtype} {picture.shape}"
            raise ValueError(f"a picture must be (H, W, 3) uint8, got {found}")
        _fields_cpu.add(picture, boxes, self.count, self.total, self.squares)

    def __add__(self, other: RunningMean) -> RunningMean:
        return RunningMean(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def mean(self, colour: Sequence[int] = MEAN_COLOUR) -> Floats:
        """(h, w, 3) mean of the crops; ``colour`` where none shows the pixel."""
        count = self.count[:, :, None]
        return np.where(count > 0, self.total / np.maximum(count, 1), np.array(colour, np.float64))

    def std(self) -> Floats:
        """(h, w, 3) standard deviation across the crops; NaN where none shows the pixel."""
        count = self.count[:, :, None]
        spread: Floats = np.sqrt(count * self.squares - self.total**2)  # exact under the root
        return np.where(count > 0, spread / np.maximum(count, 1), np.nan)


def contrast(mean: Floats, clip: float = 0) -> Picture:
    """(h, w, 3) stretched to 0 ... 255, all colours together ("contrast expanded", Figure 2).

    Args:
        mean: finite.
        clip: per cent of the values cut off at either end: 0 stretches from the least to the
            largest; 1 is the protocol's variant.

    Returns:
        (h, w, 3); a picture of one value has no contrast and stays as it is.
    """
    low, high = np.percentile(mean, [clip, 100 - clip])
    if high <= low:
        low, high = 0, 255
    stretched: Floats = np.rint((mean - low) * (255 / (high - low)))
    return stretched.clip(0, 255).astype(np.uint8)


def radial_profile(std: Floats) -> Floats:
    """(R,) mean standard deviation at 0, 1, 2 ... px from the centre, to the nearest px.

    Args:
        std: (h, w) or (h, w, 3); colours are averaged, NaN is left out. As in ``patch_boxes`` the
            centre of an even side is its later middle pixel. A radius without a pixel is NaN.
    """
    flat = std.reshape(*std.shape[:2], -1).mean(axis=2)
    row, col = (np.arange(n) - n // 2 for n in flat.shape)
    radius = np.rint(np.hypot(row[:, None], col)).astype(np.intp)
    known = ~np.isnan(flat)
    totals = np.bincount(radius[known], flat[known], minlength=radius.max() + 1)
    counts = np.bincount(radius[known], minlength=radius.max() + 1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def centre_ratio(std: Floats, side: int = 16) -> float:
    """Mean standard deviation of the centre over that of the periphery; below 1 = sharp centre.

    The centre is the ``side`` px square of Figure 1's patch, the periphery the outermost frame of
    ``side`` px (not in the paper). NaN where they meet, or where the periphery has none.
    """
    flat = std.reshape(*std.shape[:2], -1).mean(axis=2)
    if min(flat.shape) < 3 * side:
        return np.nan
    top, left = (-(-(n - 1 - side) // 2) for n in flat.shape)
    centre = flat[top : top + side, left : left + side]
    frame = np.ones(flat.shape, bool)
    frame[side:-side, side:-side] = False
    inner, outer = (v[~np.isnan(v)] for v in (centre, flat[frame]))
    if not len(inner) or not len(outer) or not outer.any():
        return np.nan
    return float(inner.mean() / outer.mean())

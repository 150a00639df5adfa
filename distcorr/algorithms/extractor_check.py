"""Whether an extractor of the user's keeps its contract, and looks where it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.effective import pink_noise
from distcorr.algorithms.plugins import Plugin
from distcorr.errors import DistcorrError
from distcorr.types import FloatArray, Geometry


def check_extractor(extractor: Any, images: npt.NDArray[np.uint8] | None = None) -> list[str]:
    """Whether an extractor keeps the contract, and whether its cells look where it says.

    Shape and type; no NaN, not constant; the same images twice give the same bytes; an image alone
    gives what it gives in a batch, to a thousandth. Then a patch of noise as wide as a cell is put
    on the centres of 16 cells: where features change most must be, on a straight line through all
    of them, within 0.6 cells of the cell that was meant, unless that is within 3 standard errors.
    So an offset wrong by a cell is found; one wrong by half a cell may not be.

    Args:
        extractor: what a factory gives, or a ``Plugin``.
        images: (n, S, S, 3) uint8 RGB, n >= 2; four of ``effective.pink_noise`` if not given.

    Returns:
        a sentence for each problem; empty if there is none.
    """
    try:
        plugin = extractor if isinstance(extractor, Plugin) else Plugin(extractor, "extractor")
        images = pink_noise(4, plugin.input_size) if images is None else images
        return _problems(plugin, images)
    except DistcorrError as error:  # from any of the calls
        return [error.message]


def _problems(plugin: Plugin, images: npt.NDArray[np.uint8]) -> list[str]:
    first = plugin(images, plugin.taps)[plugin.name]
    if bad := int((~np.isfinite(first)).sum()):
        return [f"all features must be finite; {bad} of {first.size} values are NaN or infinite"]
    if not np.ptp(first.reshape(-1, first.shape[-1]), axis=0).any():
        return ["features must depend on the image; all cells of all images have the same"]
    largest = np.abs(first).max()
    again = np.abs(plugin(images, plugin.taps)[plugin.name] - first).max()
    if again != 0:
        return [
            "the same images must give the same bytes; a second call differs by up to "
            f"{again:.3g}, features being up to {largest:.3g}: is the network in training mode?"
        ]
    pair = np.stack([images[0], images[1] // 4])  # unlike each other in brightness and contrast
    singles = [plugin(image[None], plugin.taps)[plugin.name] for image in pair]
    apart = np.abs(np.concatenate(singles) - plugin(pair, plugin.taps)[plugin.name]).max()
    if apart > 1e-3 * largest:
        return [
            "an image must give the same features alone and in a batch; they differ by up to "
            f"{apart:.3g}, features being up to {largest:.3g}: are statistics of the batch used?"
        ]
    return _misplaced(plugin, images, first)


def _misplaced(plugin: Plugin, images: npt.NDArray[np.uint8], before: FloatArray) -> list[str]:
    geometry = plugin.geometry(plugin.name)
    ends = np.rint(np.array([0.15, 0.85]) * (geometry.cells - 1))
    if ends[0] == ends[1]:
        return []  # too few cells to have places
    rng = np.random.default_rng(0)
    rows = np.rint(np.linspace(ends[0], ends[1], 16))
    expected = np.stack([rows, rng.permutation(rows)], axis=1)
    measured = np.full((16, 2), np.nan)
    side = max(3, geometry.stride)
    for at, cell in zip(measured, expected, strict=True):
        start = np.ceil(geometry.offset + geometry.stride * cell - side / 2).astype(int)
        where = tuple(slice(max(s, 0), max(s + side, 0)) for s in start)
        changed = images.copy()
        changed[:, *where] = rng.integers(0, 256, changed[:, *where].shape)
        after = plugin(changed, plugin.taps)[plugin.name]
        energy = np.square(after - before, dtype=np.float64).sum(-1)
        total = energy.sum(axis=(1, 2), keepdims=True)
        mean = np.divide(energy, total, out=energy, where=total > 0).mean(0)
        if mean.any():
            mean[mean < mean.max() / 2] = 0
            at[:] = np.average(np.indices(mean.shape).reshape(2, -1), 1, mean.ravel())
    alive = np.isfinite(measured[:, 0])
    if alive.sum() < 12:
        return [
            f"features must change with the pixels at their centres; noise on {side} x {side} px "
            f"around 16 centres changed nothing in {16 - alive.sum()} cases"
        ]
    expected, measured = expected[alive], measured[alive]
    direct, swapped = (
        np.sqrt(np.square(measured - order).mean()) for order in (expected, expected[:, ::-1])
    )
    if direct > 1 and swapped < direct / 2:
        return [
            "rows and columns are swapped: noise on a cell (row, column) changes the cell "
            "(column, row); results must be (B, rows, columns, C)"
        ]
    problems = (
        _off(geometry, ends, axis, expected[:, number], measured[:, number])
        for number, axis in enumerate("yx")
    )
    return [problem for problem in problems if problem]


def _off(
    geometry: Geometry,
    ends: npt.NDArray[np.float64],
    axis: str,
    expected: npt.NDArray[np.float64],
    measured: npt.NDArray[np.float64],
) -> str:
    """What is wrong along one axis: a line through (expected, measured) cells must be y = x."""
    slope, start = np.polyfit(expected, measured, 1)
    spread = np.sqrt(np.square(measured - start - slope * expected).sum() / (len(expected) - 2))
    away = ends - expected.mean()
    error = spread * np.sqrt(1 / len(expected) + away**2 / (len(expected) * expected.var()))
    off = np.abs(start + slope * ends - ends)
    if spread > 0.2 * geometry.cells or abs(slope) < 0.1:
        return (
            f"along {axis} features must change most where the image does; the cells that change "
            f"most scatter by {spread:.1f} cells of {geometry.cells}"
        )
    if ((off > 0.6) & (off > 3 * error)).any():
        return (
            f"along {axis} features change up to {off.max():.1f} cells from the pixels that "
            f"changed: as if stride were {geometry.stride / slope:.3g} and offset "
            f"{geometry.offset - geometry.stride * start / slope:.3g} px, where the geometry says "
            f"{geometry.stride} and {geometry.offset:g}"
        )
    return ""

"""Figure 1: photographs rebuilt from the patches of their cells' nearest neighbours (section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from distcorr.data.run import Run
from distcorr.data.visualized import NEIGHBOURS, ORIGINAL, UNIFORM, Base, Rebuilt
from distcorr.errors import DistcorrError
from distcorr.report import locality
from distcorr.report.locality_notes import base, same
from distcorr.report.sheet import Picture, Sheet, height, stem, wrapped

MOST = 5  # photographs that are drawn; the paper has two
_LONGEST, _NARROWEST = 500, 180  # px of a picture's long side, and of a column
_MARGIN, _GAP, _BETWEEN = 14, 8, 16  # px around, between pictures, between photographs
_LABEL, _NUMBER = 24, 22  # px for "k = 1" and for "17.2 dB"

_Corners = tuple[float, float, float, float]


class _Column(NamedTuple):
    head: str
    layer: str
    method: str


class Shown(Protocol):
    """What is drawn: a run's ``Visualized``, or a picture of the user's."""

    bases: dict[str, Base]
    recall: dict[str, dict[int, float]]
    rebuilt: list[Rebuilt]
    layers: list[str]
    shown: list[str]

    def picture(self, layer: str, image: str, method: str, k: int) -> Picture:
        """(H, W, 3) as ``Visualized.picture``."""


class _Block(NamedTuple):
    """One photograph.

    Attributes:
        image: its name.
        original: (H, W, 3).
        size: px (width, height) that it and its rebuilt pictures are drawn in.
        rebuilt: (column, k) -> picture.
        errors: likewise.
    """

    image: str
    original: Picture
    size: tuple[int, int]
    rebuilt: dict[tuple[_Column, int], Picture]
    errors: dict[tuple[_Column, int], Rebuilt]


def figure1(run: Run) -> list[str]:
    """Figure 1: each photograph, and how each layer's neighbours and "uniform rf" rebuild it.

    A row for each k. On the photograph yellow is one patch, black the receptive fields about it;
    they are drawn about its middle, be there a cell or not. Below a rebuilt picture is its PSNR.

    Args:
        run: with a finished ``visualize``.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: ``visualize`` has not finished, or has kept no pictures.
    """
    made = locality.opened(run)
    found = made.visualized
    if not found.shown:
        raise DistcorrError(
            f"{run} keeps no rebuilt photographs for Figure 1.",
            "visualize.shown says of how many; " + " ".join(found.notes),
        )
    return sheet(found, made.asked).save(run, "figure1")


def sheet(found: Shown, asked: Mapping[str, Any]) -> Sheet:
    """Figure 1 of any pictures; ``asked`` are the settings that they were rebuilt with."""
    layers = found.layers
    columns = [_Column(layer, layer, NEIGHBOURS) for layer in layers]
    columns.append(_Column(f"uniform rf of {layers[0]}", layers[0], UNIFORM))
    ks = sorted({each.k for each in found.rebuilt})
    blocks = [_block(found, image, columns, ks) for image in found.shown[:MOST]]
    wide = max(_NARROWEST, *(block.size[0] for block in blocks))
    # The original, the words "k = 1", and the rest.
    lefts = [_MARGIN + n * (wide + _GAP) + (_LABEL if n else 0) for n in range(1 + len(columns))]
    width = lefts[-1] + wide + _MARGIN
    caption = wrapped(_caption(found, asked), width - 2 * _MARGIN, 9)
    heads = [wrapped(head, wide, 9) for head in ("original", *(c.head for c in columns))]
    legends = [wrapped(_legend(found, block), wide) for block in blocks]
    begin = _MARGIN + height(caption, 9) + _GAP + max(height(head, 9) for head in heads)
    depths = [_depth(*each, len(ks)) for each in zip(blocks, legends, strict=True)]

    paper = Sheet(width, begin + sum(depths) + _MARGIN - _BETWEEN)
    paper.text(_MARGIN, _MARGIN, caption, 9, ha="left")
    for left, head in zip(lefts, heads, strict=True):
        paper.text(left + wide / 2, begin - 5, head, 9, va="bottom")
    top = begin
    for block, legend, depth in zip(blocks, legends, depths, strict=True):
        at = [left + (wide - block.size[0]) // 2 for left in lefts]
        _draw_original(paper, found, block, at[0], top)
        paper.text(lefts[0], top + block.size[1] + _GAP, legend, ha="left")
        for row, k in enumerate(ks):
            y = top + row * (block.size[1] + _NUMBER)
            middle = lefts[1] - _LABEL / 2, y + block.size[1] / 2
            paper.text(*middle, f"k = {k}", 9, va="center", rotation=90)
            for column, x in zip(columns, at[1:], strict=True):
                _draw_rebuilt(paper, block, column, k, x, y)
        top += depth
    return paper


def _depth(block: _Block, legend: str, ks: int) -> int:
    """Px from one photograph to the next: its rows, or the original and the words below it."""
    rows = ks * (block.size[1] + _NUMBER)
    return max(rows, block.size[1] + _GAP + height(legend)) + _BETWEEN


def _block(found: Shown, image: str, columns: Sequence[_Column], ks: Sequence[int]) -> _Block:
    original = found.picture("", image, ORIGINAL, 0)
    known = {(x.layer, x.method, x.k): x for x in found.rebuilt if x.image == image}
    errors = {
        (column, k): known[column.layer, column.method, k]
        for column in columns
        for k in ks
        if (column.layer, column.method, k) in known
    }
    rebuilt = {
        (column, k): found.picture(column.layer, image, column.method, k) for column, k in errors
    }
    rows, cols = original.shape[:2]
    longest = max(rows, cols)
    # Otherwise a pixel is a pixel, or a square of them.
    zoom = _LONGEST / longest if longest > _LONGEST else max(1, _NARROWEST // longest)
    return _Block(image, original, (round(zoom * cols), round(zoom * rows)), rebuilt, errors)


def _caption(found: Shown, asked: Mapping[str, Any]) -> str:
    bases = found.bases
    patch = same({layer: f"{each.stride} px" for layer, each in bases.items()})
    return (
        f"Patches of {patch}, each replaced by the mean of its k nearest neighbours' patches: "
        f"{base(found, asked)}. Uniform rf: patches from anywhere in the receptive "
        "field, of the same photograph. Below each picture is its PSNR."
    )


def _legend(found: Shown, block: _Block) -> str:
    """What is drawn on the original."""
    bases = found.bases
    sides = _sides(block)
    if not sides:
        return stem(block.image)
    inputs = {
        layer: "" if side == block.original.shape[:2] else f" of its {side[1]} x {side[0]} input"
        for layer, side in sides.items()
    }
    patch = same({layer: f"{bases[layer].stride} px{inputs[layer]}" for layer in sides})
    fields = [
        f"{layer} {bases[layer].rf} px{inputs[layer]}"
        + (" (cut at the picture's edge)" if bases[layer].rf > min(side) else "")
        for layer, side in sides.items()
    ]
    lines = f"yellow: a patch, {patch}", f"black: receptive fields, {', '.join(fields)}"
    return "\n".join((stem(block.image), *lines))


def _sides(block: _Block) -> dict[str, tuple[int, int]]:
    """Layer -> (H, W) of the picture as the layer sees it."""
    return {
        column.layer: picture.shape[:2]
        for (column, _), picture in block.rebuilt.items()
        if column.method == NEIGHBOURS
    }


def _draw_original(sheet: Sheet, found: Shown, block: _Block, x: float, y: float) -> None:
    sheet.picture(x, y, *block.size, block.original)
    sides = _sides(block)
    fields = {_about(block, s, found.bases[layer].rf) for layer, s in sides.items()}
    for corners in sorted(fields):
        sheet.frame(_moved(corners, x, y), "black", "white", 1.2)
    patches = {_about(block, s, found.bases[layer].stride) for layer, s in sides.items()}
    for corners in sorted(patches):
        sheet.frame(_moved(corners, x, y), "yellow", "black", 1.4)


def _about(block: _Block, seen: tuple[int, int], side: int) -> _Corners:
    """A square of ``side`` px in the picture that a layer sees, on the one drawn; cut at its edge.

    As in the patches of the rebuilt pictures, the pixel at the centre is the later middle one.
    """
    found = []
    for length, drawn in zip(seen[::-1], block.size, strict=True):
        first = length // 2 - side / 2
        ends = np.clip([np.ceil(first), np.ceil(first) + side], 0, length)
        found.append(ends * drawn / length)
    (x0, x1), (y0, y1) = found
    return float(x0), float(y0), float(x1), float(y1)


def _moved(corners: _Corners, x: float, y: float) -> _Corners:
    return corners[0] + x, corners[1] + y, corners[2] + x, corners[3] + y


def _draw_rebuilt(sheet: Sheet, block: _Block, column: _Column, k: int, x: float, y: float) -> None:
    width, deep = block.size
    picture = block.rebuilt.get((column, k))
    if picture is None:
        sheet.text(x + width / 2, y + deep / 2, "not rebuilt", color="0.5", va="center")
        return
    sheet.picture(x, y, width, deep, picture)
    psnr = block.errors[column, k].psnr
    if not np.isnan(psnr):
        text = f"{psnr:.1f} dB" if np.isfinite(psnr) else "equal"
        sheet.text(x + width / 2, y + deep + 2, text, 7.5, color="0.3")

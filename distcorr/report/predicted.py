"""One picture of one prediction: the photograph around the box, and every keypoint by name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.crop import reduce_to
from distcorr.algorithms.matching import View
from distcorr.types import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
LONGEST, NAMES, LINE, GAP = 6.0, 2.2, 0.22, 0.12  # inches: picture, names' column, a line of text
MARGIN = 0.15  # of the box, shown around it
SHARP = 1000  # px: photographs are reduced to it, so that an .svg stays small
INK, SOFT = "#222222", "#666666"

Doubles = npt.NDArray[np.float64]


def draw(
    view: View,
    names: Sequence[str],
    points: Doubles,
    scores: Doubles,
    caption: str,
    kind: str = "png",
) -> bytes:
    """The picture as a file's content; equal predictions give equal bytes.

    Args:
        view: the photograph and the box.
        names: of the K keypoints.
        points: (K, 2) xy px in the photograph; NaN where nothing is predicted.
        scores: (K,) 0 to 1; NaN likewise.
        caption: below.
        kind: "png" or "svg".
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _around(view)
    aspect = float(np.clip(shown.width / shown.height, 0.25, 4))
    width, high = LONGEST * min(1, aspect), LONGEST / max(1, aspect)
    body = max(high, LINE * len(names))
    sheet = width + NAMES + 3 * GAP, body + LINE + 3 * GAP
    figure = Figure(figsize=sheet, facecolor="white")
    FigureCanvasAgg(figure)
    below = (2 * GAP + LINE + body - high) / sheet[1]
    picture = figure.add_axes((GAP / sheet[0], below, width / sheet[0], high / sheet[1]))
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    _picture(picture, view, shown)
    _points(picture, points, colours)
    left, bottom = (width + 2 * GAP) / sheet[0], (2 * GAP + LINE) / sheet[1]
    column = figure.add_axes((left, bottom, NAMES / sheet[0], body / sheet[1]))
    _names(column, names, scores, colours, body)
    at = GAP / sheet[0], GAP / sheet[1]
    figure.text(*at, caption, fontsize=8, color=SOFT, va="bottom", parse_math=False)
    out = io.BytesIO()
    # No date and no version, and names in the .svg that are the same each time.
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "distcorr"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # in names
        figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()


def _around(view: View) -> Box:
    """What is shown: the box and a margin, whole pixels of the photograph."""
    height, width = view.photograph.shape[:2]
    dx, dy = MARGIN * view.box.width, MARGIN * view.box.height
    x0, y0 = int(max(0, view.box.x0 - dx)), int(max(0, view.box.y0 - dy))
    x1, y1 = int(min(width - 1, view.box.x1 + dx + 1)), int(min(height - 1, view.box.y1 + dy + 1))
    return Box(x0, y0, x1, y1)


def _picture(axis: Axes, view: View, shown: Box) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = map(int, shown)
    pixels = reduce_to(view.photograph[y0 : y1 + 1, x0 : x1 + 1], SHARP)
    extent = (x0 - 0.5, x1 + 0.5, y1 + 0.5, y0 - 0.5)
    axis.imshow(pixels, extent=extent, aspect="auto", interpolation="bilinear")
    axis.axis("off")
    corner = view.box.x0 - 0.5, view.box.y0 - 0.5
    for colour, style in (("white", "-"), (INK, (0, (4, 4)))):
        outline = Rectangle(corner, view.box.width, view.box.height, fill=False)
        outline.set(edgecolor=colour, linestyle=style, linewidth=1.0)
        axis.add_patch(outline)


def _points(axis: Axes, points: Doubles, colours: Doubles) -> None:
    """Every keypoint, with its number."""
    from matplotlib.patheffects import withStroke

    limits = axis.get_xlim(), axis.get_ylim()
    there = np.isfinite(points).all(axis=1)
    x, y = points[there].T
    axis.scatter(x, y, s=46, c=colours[there], edgecolors="white", linewidths=1.0, zorder=4)
    for number in np.flatnonzero(there):
        axis.annotate(
            str(number + 1),
            (float(points[number, 0]), float(points[number, 1])),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )
    axis.set(xlim=limits[0], ylim=limits[1])


def _names(
    axis: Axes, names: Sequence[str], scores: Doubles, colours: Doubles, inches: float
) -> None:
    """Number, colour, name and score of every keypoint; hollow where it is not predicted."""
    axis.set(xlim=(0, NAMES), ylim=(inches, 0))
    axis.axis("off")
    for k, (name, score, colour) in enumerate(zip(names, scores, colours, strict=True)):
        y, none = LINE * (k + 0.5), bool(np.isnan(score))
        face = "none" if none else tuple(colour)
        axis.scatter([0.32], [y], s=40, facecolors=[face], edgecolors=[tuple(colour)])
        font: dict[str, Any] = {"fontsize": 8, "va": "center", "parse_math": False}
        axis.text(0.2, y, str(k + 1), ha="right", color=SOFT, **font)
        axis.text(0.46, y, _short(name), color=SOFT if none else INK, **font)
        axis.text(NAMES, y, "-" if none else f"{score:.2f}", ha="right", color=SOFT, **font)


def _short(name: str) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= 22 else f"{name[:20]}…"

"""One picture of one alignment: both views, one warped onto the other, the flow, and the points.

Drawn in inches on a sheet whose height follows from the photographs' shapes.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.colour_wheel import colour_flow, colour_positions, wheel
from distcorr.algorithms.crop import reduce_to, to_square
from distcorr.algorithms.matching import Match, View
from distcorr.algorithms.transfer import Points
from distcorr.types import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DPI = 110
SQUARE, LEGEND, GAP = 2.2, 0.9, 0.12  # inches: a square's side, the wheel's column, between them
TITLE, CAPTION = 0.27, 0.28  # inches: above every row, and below the last
WIDTH = 4 * SQUARE + LEGEND + 6 * GAP
TALLEST = 4.2  # inches, of the photographs
MESH = 9  # points a side that are drawn, at most: more cannot be told apart
NAMED = 20  # points that are numbered and joined by lines, at most
FAR = 2.0  # cells: points that return farther from their start are hollow
MARGIN = 0.08  # of the box, shown around it
SHARP = 1000  # px: photographs are reduced to it, so that an .svg stays small
INK, SOFT = "#222222", "#666666"


def draw(match: Match, kind: str = "png") -> bytes:
    """The picture as a file's content; equal matches give equal bytes.

    Above: A, B, B warped onto A, and the flow of A in colours with its legend. Below: both
    photographs around their boxes; points of one colour belong together, and those that the
    alignment of B with A brings back more than ``FAR`` cells from their start are hollow. All
    cells' centres are too many, so a regular mesh of them is drawn, and the same mesh in B.

    Args:
        match: what `distcorr.algorithms.matching.match` found.
        kind: one of ``FORMATS``.
    """
    import matplotlib

    views = [_Region.around(view) for view in (match.a, match.b)]
    height, widths = _second_row([region.aspect for region in views])
    sheet = _Sheet(2 * TITLE + SQUARE + height + CAPTION + GAP)
    _first_row(sheet, match)
    top = 2 * TITLE + SQUARE
    left = (WIDTH - sum(widths) - GAP) / 2
    names = (_short(view.name) for view in (match.a, match.b))
    panels = []
    for region, width, name, letter in zip(views, widths, names, "AB", strict=True):
        axis = sheet.axis(left, top, width, height)
        axis.imshow(region.pixels, extent=region.extent, aspect="auto", interpolation="bilinear")
        _title(axis, f"{letter}: {name}")
        _outline(axis, region)
        panels.append(axis)
        left += width + GAP
    _points(panels, match)
    sheet.text(_caption(match))
    out = io.BytesIO()
    # No date and no version, and names in the .svg that are the same each time.
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "distcorr"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # in file names
        sheet.figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()


class _Sheet:
    """A figure on which axes are placed in inches from its top left corner."""

    def __init__(self, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), facecolor="white")
        FigureCanvasAgg(self.figure)

    def axis(self, left: float, top: float, width: float, height: float) -> Axes:
        below = self.height - top - height
        sizes = WIDTH, self.height, WIDTH, self.height
        place = [v / s for v, s in zip((left, below, width, height), sizes, strict=True)]
        axis = self.figure.add_axes((place[0], place[1], place[2], place[3]))
        axis.axis("off")
        return axis

    def text(self, caption: str) -> None:
        self.figure.text(
            GAP / WIDTH,
            GAP / self.height,
            caption,
            fontsize=8,
            color=SOFT,
            va="bottom",
            parse_math=False,
        )


class _Region(NamedTuple):
    """What is shown of a photograph: its box and a margin."""

    pixels: npt.NDArray[np.uint8]
    box: Box
    shown: Box
    is_whole: bool  # the box is all of the photograph

    @classmethod
    def around(cls, view: View) -> _Region:
        height, width = view.photograph.shape[:2]
        box, whole = view.box, Box(0, 0, width - 1, height - 1)
        dx, dy = MARGIN * box.width, MARGIN * box.height
        x0, y0 = int(max(0, box.x0 - dx)), int(max(0, box.y0 - dy))
        x1, y1 = int(min(whole.x1, box.x1 + dx + 1)), int(min(whole.y1, box.y1 + dy + 1))
        pixels = reduce_to(view.photograph[y0 : y1 + 1, x0 : x1 + 1], SHARP)
        return cls(pixels, box, Box(x0, y0, x1, y1), tuple(box) == tuple(whole))

    @property
    def aspect(self) -> float:
        """Width to height, kept within 1:4 so that the sheet stays one."""
        return float(np.clip(self.shown.width / self.shown.height, 0.25, 4))

    @property
    def extent(self) -> tuple[float, float, float, float]:
        x0, y0, x1, y1 = self.shown
        return x0 - 0.5, x1 + 0.5, y1 + 0.5, y0 - 0.5


def _second_row(aspects: list[float]) -> tuple[float, list[float]]:
    """Height and widths (inches) of pictures of one height that fill the sheet's width."""
    height = min((WIDTH - 3 * GAP) / sum(aspects), TALLEST)
    return height, [height * aspect for aspect in aspects]


def _first_row(sheet: _Sheet, match: Match) -> None:
    side, w = match.geometry.input_size, match.displacement
    longest = max(1.0, float(np.hypot(w[..., 0], w[..., 1]).max()))
    pictures = (
        (match.a.square(side), "A"),
        (match.b.square(side), "B"),
        (match.warped, "B warped onto A"),
        (colour_flow(w, longest), "flow from A to B"),
    )
    for column, (picture, title) in enumerate(pictures):
        axis = sheet.axis(GAP + column * (SQUARE + GAP), TITLE, SQUARE, SQUARE)
        axis.imshow(picture, interpolation="bilinear")
        _title(axis, title)
    legend = sheet.axis(WIDTH - GAP - LEGEND, TITLE + (SQUARE - LEGEND) / 2, LEGEND, LEGEND)
    legend.imshow(wheel(256), interpolation="bilinear")
    legend.plot([127.5], [127.5], "+", color=SOFT, markersize=4)
    legend.text(128, 268, f"edge: {longest:.0f} of {side} px", ha="center", va="top", fontsize=7)


def _points(panels: list[Axes], match: Match) -> None:
    chosen = np.arange(len(match.points))
    if match.on_grid:
        cells = match.geometry.cells
        lines = _every(cells)
        chosen = (lines[:, None] * cells + lines).ravel()
        for axis, xy in zip(panels, (match.points, match.landings), strict=True):
            _mesh(axis, xy[chosen].reshape(len(lines), len(lines), 2))
    start, landing = match.points[chosen], match.landings[chosen]
    side = match.geometry.input_size
    colours = colour_positions((to_square(start, match.a.box, side) + 0.5) / side) / 255
    if not match.on_grid and len(chosen) <= NAMED:
        colours = _distinct(len(chosen))
        _named(panels, start, landing, colours)
    hollow = match.cycle_cells[chosen] > FAR
    for axis, xy, is_b in zip(panels, (start, landing), (False, True), strict=True):
        limits = axis.get_xlim(), axis.get_ylim()
        faces = np.column_stack([colours, np.where(hollow & is_b, 0.0, 1.0)])
        edges = np.where((hollow & is_b)[:, None], colours, 1.0)
        axis.scatter(
            xy[:, 0],
            xy[:, 1],
            s=30 if match.on_grid else 40,
            facecolors=list(map(tuple, faces)),
            edgecolors=list(map(tuple, edges)),
            linewidths=np.where(hollow & is_b, 1.8, 0.8).tolist(),
            clip_on=False,
            zorder=4,
        )
        axis.set_xlim(limits[0])
        axis.set_ylim(limits[1])


def _every(cells: int) -> npt.NDArray[np.intp]:
    """At most ``MESH`` of the cells along an axis, evenly and centred."""
    step = -(-cells // MESH)
    return np.arange((cells - 1) % step // 2, cells, step)


def _mesh(axis: Axes, xy: Points) -> None:
    from matplotlib.collections import LineCollection

    lines = [*xy, *xy.transpose(1, 0, 2)]
    for colour, width in ((INK, 1.8), ("white", 0.9)):  # to be seen on light and on dark
        mesh = LineCollection(lines, colors=colour, linewidths=width, alpha=0.6, zorder=3)
        axis.add_collection(mesh, autolim=False)


def _distinct(count: int) -> npt.NDArray[np.float64]:
    from matplotlib import colormaps

    colours: npt.NDArray[np.float64] = colormaps["turbo"](np.linspace(0.08, 0.92, count))[:, :3]
    return colours


def _named(
    panels: list[Axes], start: Points, landing: Points, colours: npt.NDArray[np.float64]
) -> None:
    """Numbers beside the points, and a line from each to where it lies in B."""
    from matplotlib.patches import ConnectionPatch
    from matplotlib.patheffects import withStroke

    figure = panels[0].figure
    for number, (a, b, colour) in enumerate(zip(start, landing, colours, strict=True), 1):
        line = ConnectionPatch(
            tuple(a), tuple(b), "data", "data", axesA=panels[0], axesB=panels[1], color=colour
        )
        line.set(linewidth=1.2, alpha=0.85)
        figure.add_artist(line)
        for axis, xy in zip(panels, (a, b), strict=True):
            axis.annotate(
                str(number),
                tuple(xy),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=INK,
                path_effects=[withStroke(linewidth=2, foreground="white")],
                zorder=5,
            )


def _outline(axis: Axes, region: _Region) -> None:
    from matplotlib.patches import Rectangle

    if region.is_whole:
        return
    corner = region.box.x0 - 0.5, region.box.y0 - 0.5
    for colour, style in (("white", "-"), (INK, (0, (4, 4)))):
        outline = Rectangle(corner, region.box.width, region.box.height, fill=False)
        outline.set(edgecolor=colour, linestyle=style, linewidth=1.0)
        axis.add_patch(outline)


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, fontsize=9, color=INK, pad=4, parse_math=False)


def _caption(match: Match) -> str:
    g, energy = match.geometry, match.flow.energy(match.beta)
    hollow = bool((match.cycle_cells > FAR).any())
    return (
        f"{match.feature}, {g.cells} x {g.cells} cells · beta {match.beta:g} · "
        f"energy {energy:.1f}, standing still {match.standing_still:.1f} · "
        f"{np.mean(match.cycle_cells <= 1):.0%} of the points return to within a cell"
        + (f" · hollow: beyond {FAR:g} cells" if hollow else "")
    )


def _short(name: str) -> str:
    """A file's name that fits above a picture."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= 40 else f"{name[:24]}…{name[-15:]}"

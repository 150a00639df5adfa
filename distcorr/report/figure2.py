"""Figure 2: receptive fields of nearest neighbours, averaged; and their spread about the centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from distcorr.algorithms import rebuild
from distcorr.data.run import Run
from distcorr.data.visualized import NEIGHBOURS, Average
from distcorr.errors import DistcorrError
from distcorr.report import charts, locality
from distcorr.report.locality import Opened, Rows
from distcorr.report.locality_notes import base
from distcorr.report.sheet import Sheet, height, stem, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE, _GAP, _BETWEEN = 150, 8, 30  # px of a picture, between pictures, between layers
_MARGIN, _NUMBER = 14, 22  # px around, and below a picture for its words

_Key = tuple[str, int, int]  # layer, place, k


def figure2(run: Run) -> list[str]:
    """Figure 2: a random cell's receptive field, and the means of its neighbours' fields.

    A row for each photograph that random cells are in, a group of columns for each layer: the
    cell's own field, then the mean of the fields of its k nearest neighbours, whose contrast is
    expanded. Fields of all sizes are drawn as large as each other. Below a mean is its ratio of
    the spread in the centre to that in the periphery.

    Args:
        run: with a finished ``visualize``.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: ``visualize`` has not finished, or has kept no averages.
    """
    made = locality.opened(run)
    kept: dict[_Key, Average] = {
        (each.layer, each.place, each.k): each
        for each in made.visualized.averages()
        if each.mean is not None and each.method == NEIGHBOURS
    }
    if not kept:
        raise DistcorrError(
            f"{run} keeps no averaged fields for Figure 2.",
            "visualize.drawn says of how many random cells; " + " ".join(made.visualized.notes),
        )
    layers = [x for x in made.visualized.layers if any(layer == x for layer, _, _ in kept)]
    places, ks = sorted({place for _, place, _ in kept}), sorted({k for _, _, k in kept})
    group = (1 + len(ks)) * (_SIDE + _GAP) - _GAP
    names = [_name(kept, place) for place in places]
    begin = _MARGIN + max(height(name, 7) for name in names) + _GAP
    lefts = [begin + n * (group + _BETWEEN) for n in range(len(layers))]
    width = lefts[-1] + group + _MARGIN

    caption = wrapped(_caption(made), width - 2 * _MARGIN, 9)
    heads = [wrapped(_head(made, layer), group, 9) for layer in layers]
    deep = height(caption, 9) + _GAP + max(height(head, 9) for head in heads) + height("one line")
    top = _MARGIN + deep
    sheet = Sheet(width, top + len(places) * (_SIDE + _NUMBER) + _MARGIN)
    sheet.text(_MARGIN, _MARGIN, caption, 9, ha="left")
    for head, left in zip(heads, lefts, strict=True):
        _draw_heads(sheet, head, ks, left, top)
    for row, (place, name) in enumerate(zip(places, names, strict=True)):
        y = top + row * (_SIDE + _NUMBER)
        middle = begin - _GAP, y + _SIDE / 2
        sheet.text(*middle, name, 7, rotation=90, ha="right", va="center")
        for layer, left in zip(layers, lefts, strict=True):
            _draw(sheet, [kept.get((layer, place, k)) for k in ks], left, y)
    return sheet.save(run, "figure2")


def figure2_profile(run: Run) -> list[str]:
    """Spread across neighbours' fields against the distance from the centre, a panel per layer.

    A line for each k, dashed for random cells; the means of table figure2-profile, up to the
    nearest edge. Dotted: the edge of Figure 1's patch.

    Args:
        run: with a finished ``visualize``.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: ``visualize`` has not finished, or averaged nothing.
    """
    made = locality.opened(run)
    rows = [row for row in locality.rows(made)[0] if row["table"] == "figure2-profile"]
    rows = [row for row in rows if row["spread"] is not None]
    if not rows:
        raise DistcorrError(
            f"{run} has averaged no fields to draw.", " ".join(made.visualized.notes)
        )
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure = charts.blank(max(5.6, 2.9 * len(layers) + 0.6), 3.7)
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for layer, axis in zip(layers, axes, strict=True):
        _profiles(axis, made, [row for row in rows if row["layer"] == layer])
    axes[0].set_ylabel("spread across fields, levels of 255")
    axes[0].set_ylim(bottom=0)
    axes[-1].legend(fontsize=8, loc="best", framealpha=0.8)
    title = "standard deviation across the fields of k neighbours; dashed: of k random cells"
    figure.suptitle(f"{title}{_also(made)}", fontsize=10, parse_math=False)
    return charts.save(run, "figure2-profile", figure)


def _profiles(axis: Axes, made: Opened, rows: Rows) -> None:
    about = made.visualized.bases[rows[0]["layer"]]
    ks = sorted({row["k"] for row in rows})
    for method, k in dict.fromkeys((row["method"], row["k"]) for row in rows):
        mine = [r for r in rows if (r["method"], r["k"]) == (method, k)]
        x, y = ([row[name] for row in mine] for name in ("radius", "spread"))
        style, label = ("-", f"k = {k}") if method == NEIGHBOURS else ("--", f"{k} random")
        colour = charts.colour_of(ks.index(k), len(ks))
        axis.plot(x, y, style, color=colour, linewidth=1.5 if style == "-" else 1, label=label)
    axis.axvline(about.stride / 2, color="0.5", linewidth=0.8, linestyle=":")
    axis.set(xlim=(0, about.field // 2), xlabel="px from the centre")
    axis.set_title(f"{rows[0]['layer']}: {about.field} px", fontsize=10, parse_math=False)
    axis.grid(color="0.9", linewidth=0.6)


# -- drawing -----------------------------------------------------------------------------------


def _draw_heads(sheet: Sheet, head: str, ks: Sequence[int], left: float, top: float) -> None:
    """Above the pictures of a layer: its name, and what is in each column."""
    group = (1 + len(ks)) * (_SIDE + _GAP) - _GAP
    above = top - height("one line") - 3
    sheet.text(left + group / 2, above, head, 9, va="bottom", weight="bold")
    for n, words in enumerate(("the cell's field", *(f"mean of {k}" for k in ks))):
        sheet.text(left + n * (_SIDE + _GAP) + _SIDE / 2, top - 4, words, va="bottom")


def _draw(sheet: Sheet, averages: Sequence[Average | None], left: float, y: float) -> None:
    """A random cell's field and the means about it; those that there are."""
    crop = next((x for x in averages if x is not None and x.crop is not None), None)
    if crop is not None and crop.crop is not None:
        sheet.picture(left, y, _SIDE, _SIDE, crop.crop, "antialiased")
        _below(sheet, left, y, f"row {crop.row}, column {crop.col}")
    for n, each in enumerate(averages, start=1):
        x = left + n * (_SIDE + _GAP)
        if each is None or each.mean is None:
            sheet.text(x + _SIDE / 2, y + _SIDE / 2, "none", color="0.5", va="center")
            continue
        expanded = rebuild.contrast(each.mean.astype(np.float64))
        sheet.picture(x, y, _SIDE, _SIDE, expanded, "antialiased")
        said = "" if np.isnan(each.ratio) else f"ratio {each.ratio:.2f}"
        short = f"only {each.found}" if each.found < each.k else ""
        _below(sheet, x, y, ", ".join(filter(None, (short, said))))


def _below(sheet: Sheet, x: float, y: float, text: str) -> None:
    sheet.text(x + _SIDE / 2, y + _SIDE + 2, text, 7, color="0.3")


def _name(kept: Mapping[_Key, Average], place: int) -> str:
    """Which photograph the random cells of a row are in."""
    images = dict.fromkeys(stem(x.image) for (_, at, _), x in kept.items() if at == place)
    return wrapped("\n".join(images), _SIDE, 7)


def _caption(made: Opened) -> str:
    return (
        "Receptive fields of random cells, and means of their k nearest neighbours' fields with "
        f"their contrast expanded: {base(made.visualized, made.asked)}. Ratio: the spread across "
        "the fields in the centre over that in the periphery; below 1 neighbours agree in the "
        "centre."
    )


def _head(made: Opened, layer: str) -> str:
    about = made.visualized.bases[layer]
    whole = f" as the picture; receptive field {about.rf} px" if about.field < about.rf else ""
    return f"{layer}: {about.field} px{whole}"


def _also(made: Opened) -> str:
    """What must not be forgotten."""
    found = ["mirror images among the cells"] if made.asked["mirrored"] else []
    found += [] if made.asked["search"] == "exact" else [f"{made.asked['search']} search"]
    return "\n" + ", ".join(found) if found else ""

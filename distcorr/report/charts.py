"""Charts of section 4 from saved answers: Figure 5, and which keypoint is taken for which."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from distcorr.config import EvaluationConfig
from distcorr.data.classified import Classified
from distcorr.data.run import Run
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report import classification
from distcorr.report.classification import MEAN, Rows, is_sift

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
_CELL = 0.42  # inches of a cell of a confusion matrix


class Opened(NamedTuple):
    """A run whose ``classify`` is finished and up to date."""

    classified: Classified
    evaluation: EvaluationConfig
    seed: int


def opened(run: Run, evaluation: EvaluationConfig | None = None) -> Opened:
    """What the charts are drawn from; ``evaluation`` in place of the run's own.

    Raises:
        DistcorrError: ``classify`` is unfinished or out of date, or had nothing to classify.
    """
    config, stage = run.config(), run.finished("classify")
    if config is None or stage is None:
        raise DistcorrError(
            f"{run} has no classify that is finished and up to date.",
            f"distcorr classify -r {run}   (or distcorr run, which does every stage in order)",
        )
    classified = Classified(stage)
    if not classified.pairs:
        raise DistcorrError(
            f"classify had nothing to classify in {run}. {' '.join(classified.notes)}".rstrip(),
            "distcorr build-db warns which categories lack what",
        )
    return Opened(classified, evaluation or config.evaluation, config.seed)


def figure5(run: Run, category: str = "", evaluation: EvaluationConfig | None = None) -> list[str]:
    """Figure 5: accuracy in cross-validation against C, layers of the network and SIFT.

    A dot marks the C that is chosen, a band the interval by photograph.

    Args:
        run: with a finished ``classify``.
        category: which, or ``"mean"``; by default cat as in the paper, else the one with most
            training keypoints.
        evaluation: in place of the run's own.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: nothing was classified, or not that category.
    """
    classified, config, seed = opened(run, evaluation)
    known = [*classified.categories, MEAN]
    category = category or _usual(classified)
    if category not in known:
        raise DistcorrError(
            f"Nothing was classified in {category!r}.{did_you_mean(category, known)}",
            f"there are {', '.join(known)}",
        )
    rows = classification.figure5(classified, config, seed)
    chosen = classified.choose(config.c, config.choose)
    shown = [row for row in rows if row["category"] == category]
    figure = _curves(shown, classified, chosen)
    name = "mean over categories" if category == MEAN else category
    title = f"{name} (dot: the chosen C; band: {100 * config.level:g} % by photograph)"
    figure.suptitle(title, fontsize=10, parse_math=False)
    return save(run, "figure5", figure)


def confusion(run: Run, evaluation: EvaluationConfig | None = None) -> list[str]:
    """Confusion of keypoint types, a picture per category, by the network's best layer.

    The best in cross-validation; SIFT where no network was classified.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: nothing was classified.
    """
    classified, config, _ = opened(run, evaluation)
    chosen = classified.choose(config.c, config.choose)
    layer = classification.best(classified, chosen, of_sift=False)
    layer = layer or classification.best(classified, chosen, of_sift=True)
    names = []
    for category in classified.categories:
        if (layer, category) in chosen:
            figure = _matrix(classified, layer, category, chosen[layer, category])
            names += save(run, f"confusion-{_plain(category)}", figure)
    return names


def _usual(classified: Classified) -> str:
    """The paper's cat, or the category with most training keypoints."""
    if "cat" in classified.categories:
        return "cat"
    counts: dict[str, int] = {}
    for layer, category in classified.pairs:
        count = len(classified.held_out(layer, category).truth)
        counts[category] = max(counts.get(category, 0), count)
    return max(sorted(counts), key=counts.__getitem__)


# -- drawing -----------------------------------------------------------------------------------


def _curves(rows: Rows, classified: Classified, chosen: dict[tuple[str, str], int]) -> Figure:
    """One panel for the layers of networks, one for SIFT; a panel without any is left out."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    panels = [
        ("convnet", [layer for layer in layers if not is_sift(layer)]),
        ("SIFT", [layer for layer in layers if is_sift(layer)]),
    ]
    panels = [(title, shown) for title, shown in panels if shown]
    figure = blank(4.6 * len(panels), 3.9)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, shown) in zip(axes, panels, strict=True):
        for place, layer in enumerate(shown):
            mine = [row for row in rows if row["layer"] == layer]
            colour = colour_of(place, len(shown))
            curve(axis, mine, colour, "c")
            marks = {i for (of, c), i in chosen.items() if of == layer and _shows(mine, c)}
            for row in mine:
                if row["c"] in {classified.cs[index] for index in marks}:
                    axis.plot(row["c"], row["value"], "o", color=colour, markersize=7)
        axis.set(xscale="log", xlabel="C", title=title)
        axis.grid(color="0.9", linewidth=0.6)
        for text in axis.legend(fontsize=8, loc="best", framealpha=0.8).get_texts():
            text.set_parse_math(False)
    axes[0].set(ylabel="accuracy in cross-validation, per cent", ylim=(0, 100))
    return figure


def curve(axis: Axes, rows: Rows, colour: Any, name: str) -> None:
    """A layer's value against ``name``, and the band of its interval."""
    x, value, low, high = ([row[n] for row in rows] for n in (name, "value", "low", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.plot(x, value, "-", color=colour, linewidth=1.5, label=rows[0]["layer"])


def _shows(rows: Rows, category: str) -> bool:
    """Whether a choice of C for that category is one for the curve of these rows."""
    return rows[0]["category"] in (category, MEAN)


def colour_of(place: int, count: int) -> Any:
    """From dark to light, in the order of depth or radius."""
    from matplotlib import colormaps

    return colormaps["viridis"](0.9 * place / max(1, count - 1))


def _matrix(classified: Classified, layer: str, category: str, index: int) -> Figure:
    """Rows are the truth and add up to 100; at their end is how many keypoints they are."""
    names, counts = classification.confused(classified, layer, category, index)
    total = counts.sum(axis=1, keepdims=True)
    share = 100 * counts / np.maximum(1, total)
    side = _CELL * len(names)
    figure = blank(side + 2.9, side + 2.2)
    axis = figure.subplots()
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(counts):
        dark = share[row, column] > 55
        text = f"{share[row, column]:.0f}"
        axis.text(
            column, row, text, ha="center", va="center", fontsize=8, color="w" if dark else "k"
        )
    at = np.arange(len(names))
    axis.set_xticks(at, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    rows = [f"{name} ({n})" for name, n in zip(names, total[:, 0], strict=True)]
    axis.set_yticks(at, rows, fontsize=8)
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set_parse_math(False)  # a name may hold a $
    axis.set(xlabel="predicted", ylabel="truth (keypoints)")
    right = np.trace(counts) / max(1, counts.sum())
    c = classified.cs[index]
    title = f"{category} by {layer}, C {c:g}: per cent of each row\n{100 * right:.1f} right in all"
    axis.set_title(title, fontsize=10, parse_math=False)
    return figure


def _plain(category: str) -> str:
    """A category's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", category)


def blank(width: float, height: float) -> Figure:
    """A figure of that many inches, apart from any that the user's own session has."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(run: Run, stem: str, figure: Figure) -> list[str]:
    """Write ``report/STEM.png`` and ``.svg``; returns their names."""
    figure.draw_without_rendering()  # lays it out, once for both
    figure.set_layout_engine("none")
    contents = {f"report/{stem}.{kind}": drawn(figure, kind) for kind in ("png", "svg")}
    for name, content in contents.items():
        run.folder.write(name, content)
    return list(contents)


def drawn(figure: Figure, kind: str) -> bytes:
    """A figure as ``"png"`` or ``"svg"``: no date, no version, no random ids, so equal bytes."""
    from matplotlib import rc_context

    metadata = {"png": {"Software": None}, "svg": {"Creator": None, "Date": None}}[kind]
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "distcorr"}):
        figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()

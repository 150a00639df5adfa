"""Figure 4 from saved maxima: where around a keypoint its classifier responds most (section 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.algorithms.concentration import Concentration, concentration, histogram
from distcorr.config import EvaluationConfig
from distcorr.data.classified import Classified
from distcorr.data.run import Run
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report import charts
from distcorr.report.score import per_cent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITHIN = (4, 8)  # px from the keypoint; not in the paper, which shows its histograms only
_INCHES = 2.5  # of a column

Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]


class Peaks(NamedTuple):
    """The maxima of one layer about one keypoint.

    Attributes:
        at: (n, 2) px (dy, dx) from the keypoint in the picture that the layer sees; NaN where the
            maximum lies on the square's border.
        image: (n,) photographs.
        inside: how many squares have all their receptive fields in the photograph.
    """

    at: Points
    image: npt.NDArray[np.str_]
    inside: int


class _Responses(NamedTuple):
    """What the stage has saved; keys are layer, category and keypoint, in its order."""

    peaks: dict[tuple[str, str, str], Peaks]
    radius: int
    cs: dict[str, float]  # "conv4/cat" -> C of its classifiers
    notes: list[str]


def figure4_rows(
    run: Run, classified: Classified, config: EvaluationConfig, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """The numbers of Figure 4, for every layer and keypoint that ``responses`` was asked for.

    Shares have intervals by photograph; what they would be if every pixel off the square's border
    were as likely stands beside them.

    Args:
        run: with a finished ``responses``.
        classified: the answers, to see whether ``config`` now chooses another C.
        config: how many resamples, which level, which C.
        seed: of the bootstrap; all layers see the same draws of photographs.

    Returns:
        rows with table, layer, category, keypoint, c, n (keypoints), inside (those whose receptive
        fields all lie in the photograph), kept (maxima off the border); dropped, within4 and
        within8 in per cent with their _low and _high, uniform4 and uniform8; median and
        uniform_median in px. None where nothing is left. And notes.

    Raises:
        DistcorrError: no ``responses`` has finished.
    """
    found = _responses(run)
    if other := _of_another_c(found, classified, config):
        return [], other
    rows = [
        {"table": "figure4", "layer": layer, "category": category, "keypoint": keypoint}
        | {"c": found.cs[f"{layer}/{category}"]}
        | _measured(peaks, found.radius, config, seed)
        for (layer, category, keypoint), peaks in found.peaks.items()
    ]
    return rows, found.notes


def figure4(
    run: Run, keypoints: Sequence[str] = (), evaluation: EvaluationConfig | None = None
) -> list[str]:
    """Figure 4: a histogram of the maxima for every keypoint (rows) and layer (columns).

    A row has one scale, from none to its fullest pixel. The cross is the true position.

    Args:
        run: with a finished ``responses``.
        keypoints: "cat/Nose": of these only; all if none is given.
        evaluation: in place of the run's own.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: no ``responses`` has finished, it found nothing, it has no such keypoint, or
            its classifiers are of another C than ``evaluation`` chooses.
    """
    found = _responses(run)
    if run.finished("classify"):
        opened = charts.opened(run, evaluation)
        if other := _of_another_c(found, opened.classified, opened.evaluation):
            raise DistcorrError(other[0], f"distcorr responses -r {run} with these settings")
    rows = list(dict.fromkeys(f"{category}/{keypoint}" for _, category, keypoint in found.peaks))
    for name in keypoints:
        if name not in rows:
            raise DistcorrError(
                f"Figure 4 of this run has no keypoint {name!r}.{did_you_mean(name, rows)}",
                f"it has {', '.join(rows) or 'none'}; others with responses.keypoints",
            )
    rows = list(keypoints) or rows
    if not rows:
        raise DistcorrError("There is nothing to draw in Figure 4.", " ".join(found.notes))
    layers = list(dict.fromkeys(layer for layer, _, _ in found.peaks))
    figure = charts.blank(_INCHES * len(layers), 1.25 * _INCHES * len(rows))
    axes = figure.subplots(len(rows), len(layers), squeeze=False)
    for row, of_row in zip(rows, axes, strict=True):
        category, _, keypoint = row.partition("/")
        shown = [found.peaks.get((layer, category, keypoint)) for layer in layers]
        fullest = max(_shares(peaks, found.radius).max() for peaks in shown if peaks)
        for layer, peaks, axis in zip(layers, shown, of_row, strict=True):
            if peaks is None:
                axis.axis("off")
            else:
                _draw(axis, f"{layer}: {category} {keypoint}", peaks, found.radius, fullest)
    return charts.save(run, "figure4", figure)


# -- what is saved -----------------------------------------------------------------------------


def _responses(run: Run) -> _Responses:
    stage = run.finished("responses")
    if stage is None:
        raise DistcorrError(
            f"{run} has no responses that are finished and up to date.",
            f"distcorr responses -r {run}   (or distcorr run, which does every stage in order)",
        )
    entry = run.manifest()["stages"]["responses"]
    columns: dict[tuple[str, str, str], dict[str, list[Any]]] = {}
    for part in stage.folder.iter_tables(stage.parts("peaks")):
        for row in part.to_pylist():
            key = row["layer"], row["category"], row["keypoint"]
            mine = columns.setdefault(key, defaultdict(list))
            mine["at"].append((row["dy"], row["dx"]))
            mine["image"].append(row["image"])
            mine["inside"].append(row["inside"])
    peaks = {
        key: Peaks(np.array(c["at"], np.float64), np.array(c["image"]), sum(c["inside"]))
        for key, c in columns.items()
    }
    letters = {letter.id: letter.error for letter in stage.dead_letters()}
    notes = list(entry["notes"])
    if letters:
        cause = f"for example {letters[min(letters)]}"
        notes.append(f"Figure 4 is without {len(letters)} photographs, {cause}.")
    return _Responses(peaks, entry["responses"]["radius"], entry["cs"], notes)


def _of_another_c(found: _Responses, classified: Classified, config: EvaluationConfig) -> list[str]:
    """What to say where the maxima were found with another C than the tables use."""
    chosen = classified.choose(config.c, config.choose)
    now = {f"{layer}/{c}": classified.cs[index] for (layer, c), index in chosen.items()}
    other = [
        f"{name} by C = {c:g}, not {now[name]:g}" for name, c in found.cs.items() if c != now[name]
    ]
    if not other:
        return []
    hint = "distcorr responses with these settings makes it anew"
    return [f"Figure 4 is left out, being by another C than Table 3: {'; '.join(other)} ({hint})."]


# -- numbers -----------------------------------------------------------------------------------


def _measured(peaks: Peaks, radius: int, config: EvaluationConfig, seed: int) -> dict[str, Any]:
    found = concentration(peaks.at, radius, WITHIN)
    distance = np.hypot(*peaks.at.T)  # NaN where dropped
    dropped = np.isnan(distance)
    near = [distance <= limit for limit in WITHIN]
    shares = {"dropped": found.dropped}
    shares |= {f"within{limit}": s for limit, s in zip(WITHIN, found.within, strict=True)}
    low, high = np.concatenate(
        [
            _interval([dropped], np.full(len(dropped), True), peaks.image, config, seed),
            _interval(near, ~dropped, peaks.image, config, seed),
        ],
        axis=1,
    )
    row: dict[str, Any] = {"n": len(peaks.at), "inside": peaks.inside, "kept": found.kept}
    for number, (name, share) in enumerate(shares.items()):
        ends = {"": share, "_low": low[number], "_high": high[number]}
        row |= {f"{name}{end}": _or_none(per_cent(value)) for end, value in ends.items()}
    for limit, share in zip(WITHIN, found.uniform, strict=True):
        row[f"uniform{limit}"] = _or_none(per_cent(share))
    medians = {"median": found.median, "uniform_median": found.uniform_median}
    return row | {name: _or_none(round(value, 2)) for name, value in medians.items()}


def _interval(
    right: Sequence[npt.NDArray[np.bool_]],
    counted: npt.NDArray[np.bool_],
    image: npt.NDArray[np.str_],
    config: EvaluationConfig,
    seed: int,
) -> Points:
    """(2, A) ends of the intervals of A shares ``right`` among those that are counted."""
    names, photograph = np.unique(image, return_inverse=True)

    def per_photograph(flags: npt.NDArray[np.bool_]) -> Pixels:
        return np.bincount(photograph, flags, len(names)).astype(np.int64)[:, None]

    correct = np.stack([per_photograph(flags & counted) for flags in right])
    total = per_photograph(counted)
    samples = pck.bootstrap(correct, total, resamples=config.resamples, seed=seed)
    return np.stack(pck.interval(samples, config.level))


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


# -- drawing -----------------------------------------------------------------------------------


def _draw(axis: Axes, title: str, peaks: Peaks, radius: int, fullest: float) -> None:
    """One histogram, its true position, and its numbers below."""
    edge = radius + 0.5
    axis.imshow(
        _shares(peaks, radius),
        cmap="magma",
        vmin=0,
        vmax=fullest or 1,
        extent=(-edge, edge, edge, -edge),
        interpolation="nearest",
    )
    axis.plot([0], [0], "+", color="white", markersize=8, markeredgewidth=0.9)
    axis.set_title(title, fontsize=9, parse_math=False)
    axis.set_xticks([-radius, 0, radius])
    axis.set_yticks([-radius, 0, radius])
    axis.tick_params(labelsize=7)
    numbers = _numbers(len(peaks.at), concentration(peaks.at, radius, WITHIN))
    axis.set_xlabel(numbers, fontsize=7)


def _shares(peaks: Peaks, radius: int) -> Points:
    """(2r + 1, 2r + 1) share of the maxima at each pixel."""
    counts = histogram(peaks.at, radius)
    return np.asarray(counts / max(1, counts.sum()))


def _numbers(n: int, found: Concentration) -> str:
    """What stands below a histogram; in brackets what uniform maxima would give."""
    lines = [f"{n} keypoints, {found.dropped:.0%} on the border"]
    if found.kept:
        near = zip(WITHIN, found.within, found.uniform, strict=True)
        lines.append(", ".join(f"{limit} px: {a:.0%} ({b:.0%})" for limit, a, b in near))
        lines.append(f"median {found.median:.1f} px ({found.uniform_median:.1f})")
    return "\n".join(lines)

"""Curves of section 5: PCK against the weight of the prior, and what mining finds, round by round.

Neither is in the paper, which names the weight that its cross-validation chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report import charts, counting, detection
from distcorr.report.detection import Opened, Rows
from distcorr.report.score import MEAN, Score, mean, per_cent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHA = 0.1  # section 5's, and what eta is chosen by


def eta_rows(made: Opened) -> Rows:
    """``table4-eta``: PCK@0.1 with every weight of the prior, 0 to 1, not refined.

    Returns:
        rows with table, layer, category (and "mean" over the layer's), eta, alpha, value, low, high
        (per cent) and n on the validation photographs, and cross_validated: the mean over folds, in
        per cent, on training photographs; None where it was not tried or there are no folds. The
        mean's is over the categories that have folds.
    """
    rows: Rows = []
    etas = sorted({eta for eta, refined in made.detected.variants if not refined})
    for layer in made.detected.layers:
        own = [category for of, category in made.detected.pairs if of == layer]
        values = {category: _sweep(made, layer, category, etas) for category in own}
        trained = {c: detection.held_out(made.detected, layer, c) for c in own}
        known = [rates for rates in trained.values() if rates is not None]
        values[MEAN] = mean(list(values.values()))
        trained[MEAN] = np.mean(known, axis=0) if known else None
        for category, score in values.items():
            rates = trained[category]
            by_eta = {} if rates is None else dict(zip(made.detected.etas, rates, strict=True))
            rows += [
                {"table": "table4-eta", "layer": layer, "category": category, "eta": eta}
                | {"alpha": ALPHA, **measured}
                | {"cross_validated": per_cent(by_eta[eta]) if eta in by_eta else None}
                for eta, measured in zip(
                    etas, counting.measures(score, made.evaluation), strict=True
                )
            ]
    return rows


def mining_rows(made: Opened) -> Rows:
    """``mining``: what each round of it found for the detectors of all training instances.

    Returns:
        rows with table, layer, category, round, found (negatives outside the cache that are above
        the margin before the round, over all keypoints; None in round 0, the random ones) and
        cache (samples that are then trained on).
    """
    rows: Rows = []
    for layer, category in made.detected.pairs:
        _, state = made.detected.model(layer, category)
        found = [None, *(sum(each) for each in state.found)]
        rows += [
            {"table": "mining", "layer": layer, "category": category, "round": number}
            | {"found": violators, "cache": size}
            for number, (violators, size) in enumerate(zip(found, state.sizes, strict=True))
        ]
    return rows


def figure_eta(
    run: Run, category: str = "", evaluation: EvaluationConfig | None = None
) -> list[str]:
    """PCK@0.1 against the weight of the prior, a curve per layer.

    A dot marks the weight that is chosen, a band the interval by photograph; the dashed line is
    cross-validation's, on training photographs.

    Args:
        run: with a finished ``detect``.
        category: which; by default the mean over categories.
        evaluation: in place of the run's own.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: nothing was detected, or not in that category.
    """
    made = _something(run, evaluation)
    known = [*made.detected.categories, MEAN]
    category = category or MEAN
    if category not in known:
        raise DistcorrError(
            f"Nothing was detected in {category!r}.{did_you_mean(category, known)}",
            f"there are {', '.join(known)}",
        )
    rows = [row for row in eta_rows(made) if row["category"] == category]
    figure = charts.blank(5.6, 3.9)
    axis = figure.subplots()
    layers = [x for x in made.detected.layers if any(row["layer"] == x for row in rows)]
    for place, layer in enumerate(layers):
        mine = [row for row in rows if row["layer"] == layer]
        chosen = {eta for (x, c), eta in made.etas.items() if x == layer and category in (c, MEAN)}
        _eta_curve(axis, mine, charts.colour_of(place, len(layers)), chosen)
    ticks = [row["eta"] for row in rows if row["layer"] == layers[0]]
    axis.set_xscale("function", functions=(np.sqrt, np.square))  # most are tried near 0
    axis.set_xticks(ticks, [f"{eta:g}" for eta in ticks], fontsize=8)
    axis.set(xlabel="eta: 0 the detectors alone, 1 the prior alone", ylabel="PCK@0.1, per cent")
    axis.set(ylim=(0, 100), xlim=(0, 1))
    _finish(axis)
    what = "mean over categories" if category == MEAN else category
    level = f"{100 * made.evaluation.level:g} % by photograph"
    title = f"{what} (dot: the chosen eta; band: {level};\ndashed: cross-validation)"
    figure.suptitle(_titled(made, title), fontsize=10, parse_math=False)
    return charts.save(run, "figure-eta", figure)


def figure_mining(run: Run, evaluation: EvaluationConfig | None = None) -> list[str]:
    """Negatives that each round of mining finds: a line per layer, a faint one per category.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: nothing was detected, or nothing mined (``detect.rounds`` is 0).
    """
    made = _something(run, evaluation)
    rows = [row for row in mining_rows(made) if row["round"]]
    if not rows:
        raise DistcorrError(
            f"No detector of {run} was mined for.", "detect.rounds says how many rounds there are"
        )
    figure = charts.blank(5.6, 3.9)
    axis = figure.subplots()
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for place, layer in enumerate(layers):
        colour = charts.colour_of(place, len(layers))
        mine = [row for row in rows if row["layer"] == layer]
        rounds = sorted({row["round"] for row in mine})
        curves = []
        for category in dict.fromkeys(row["category"] for row in mine):
            found = {row["round"]: row["found"] for row in mine if row["category"] == category}
            # Where mining has ended before the last round, nothing more is to be found.
            curves.append([found.get(number, 0) for number in rounds])
            axis.plot(rounds, curves[-1], "-", color=colour, linewidth=0.7, alpha=0.35)
        means = np.mean(curves, axis=0)
        axis.plot(rounds, means, "o-", color=colour, linewidth=2, markersize=4, label=layer)
    rounds = sorted({row["round"] for row in rows})
    axis.set(xlabel="round of mining", ylabel="negatives above the margin", xticks=rounds)
    axis.set_yscale("symlog", linthresh=10)  # layers and categories are powers of ten apart; 0 too
    axis.set_ylim(bottom=0)
    _finish(axis)
    title = _titled(made, "mean over categories (faint: each category)")
    figure.suptitle(title, fontsize=10, parse_math=False)
    return charts.save(run, "figure-mining", figure)


def _sweep(made: Opened, layer: str, category: str, etas: Sequence[float]) -> Score:
    """One score for every eta; all see the same draws of photographs."""
    tables = [made.detected.validation(layer, category, eta) for eta in etas]
    images, types = (counting.numbered(tables[0], name) for name in ("image", "keypoint"))
    tallies = [counting.tally(table, images, types, made.evaluation, (ALPHA,)) for table in tables]
    correct = np.concatenate([each for each, _ in tallies])
    seeds = [made.seed, made.detected.categories.index(category)]
    return counting.score(correct, tallies[0][1], made.evaluation, seeds)


def _something(run: Run, evaluation: EvaluationConfig | None) -> Opened:
    made = detection.opened(run, evaluation)
    if not made.detected.pairs:
        raise DistcorrError(
            f"detect had nothing to detect in {run}. {' '.join(made.detected.notes)}".rstrip(),
            "distcorr build-db warns which categories lack what",
        )
    return made


def _eta_curve(axis: Axes, rows: Rows, colour: object, chosen: set[float]) -> None:
    charts.curve(axis, rows, colour, "eta")
    trained = [row for row in rows if row["cross_validated"] is not None]
    points = [[row[name] for row in trained] for name in ("eta", "cross_validated")]
    axis.plot(*points, "--", color=colour, linewidth=1)
    for row in rows:
        if row["eta"] in chosen:
            axis.plot(row["eta"], row["value"], "o", color=colour, markersize=7)


def _titled(made: Opened, title: str) -> str:
    """With what must be said of a control."""
    control = made.trained["control"]
    return title if control == "none" else f"CONTROL, {control}: {title}"


def _finish(axis: Axes) -> None:
    axis.grid(color="0.9", linewidth=0.6)
    for text in axis.legend(fontsize=8, loc="best", framealpha=0.8).get_texts():
        text.set_parse_math(False)

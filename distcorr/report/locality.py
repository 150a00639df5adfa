"""Section 2 from saved errors and averages: the numbers that Figures 1 and 2 stand for.

The paper has pictures only. All methods, layers and k see the same draws of photographs, so that
their differences are paired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.run import Run, StageFolder
from distcorr.data.visualized import METHODS, NEIGHBOURS, RANDOM, UNIFORM, Average, Visualized
from distcorr.errors import DistcorrError
from distcorr.report.locality_notes import notes

MEASURES = ("psnr", "colour", "ssim", "same_class")  # of a rebuilt photograph
SPREADS = ("ratio", "centre", "periphery")  # of averaged fields
_PLACES = {"ssim": 4, "ratio": 4}  # that are written, of the others 2
_CENTRE, _FRAME = 8, 16  # px: radius of Figure 1's patch, width of the outermost frame

Floats = npt.NDArray[np.float64]
Rows = list[dict[str, Any]]
_Series = tuple[str, str, int]  # layer, method, k


class Opened(NamedTuple):
    """A run whose ``visualize`` is finished and up to date.

    Attributes:
        stage: it.
        visualized: what it left.
        asked: its settings, as the manifest has them.
        evaluation: how many resamples, and the level of intervals.
        seed: of the bootstrap.
    """

    stage: StageFolder
    visualized: Visualized
    asked: dict[str, Any]
    evaluation: EvaluationConfig
    seed: int


class _Tally(NamedTuple):
    """(M, P) each: sums of M measures by photograph, and what they are divided by."""

    total: Floats
    weight: Floats


def opened(run: Run, evaluation: EvaluationConfig | None = None) -> Opened:
    """What Figures 1 and 2 are made from; ``evaluation`` in place of the run's own.

    Raises:
        DistcorrError: ``visualize`` is unfinished or out of date, or a part of it is missing.
    """
    config, stage = run.config(), run.finished("visualize")
    if config is None or stage is None:
        raise DistcorrError(
            f"{run} has no visualize that is finished and up to date.",
            f"distcorr visualize -r {run}   (or distcorr run, which does every stage in order)",
        )
    # Of this stage, as its manifest says: the run may have been used with other settings since.
    entry = run.manifest()["stages"]["visualize"]
    asked = vars(config.visualize) | entry.get("visualize", {})
    return Opened(stage, Visualized(stage), asked, evaluation or config.evaluation, config.seed)


def rows(made: Opened) -> tuple[Rows, list[str]]:
    """Tables figure1, figure1-gain, figure2 and figure2-profile.

    figure1: means over n photographs that are rebuilt: psnr (dB; those that equal their original
    are left out), colour (mean absolute difference, levels of 255), ssim, and same_class: of all
    patches of cells in a box, the share in per cent that are centred in a box of such a category.
    figure1-gain: differences on the photographs that both have: of each layer's neighbours to those
    of the layer before, to random patches, and to places in the receptive field of the first layer,
    as in the paper, and of its own.
    figure2: n random cells: count (mean number of fields averaged), ratio (spread in the centre
    over that in the periphery), and both spreads by the radial profile: within 8 px of the centre,
    and from 16 px inside the field's edge to that edge, in levels of 255.
    figure2-profile: mean spread at each radius, to the corners of the field.

    Returns:
        rows, None where there is nothing; means have an interval by photograph, _low and _high.
        And notes.
    """
    averages = [each._replace(mean=None, crop=None) for each in made.visualized.averages()]
    said = notes(made.visualized, made.asked, made.stage.dead_letters(), averages)
    return _figure1(made) + _figure2(made, averages), said


# -- Figure 1 ----------------------------------------------------------------------------------


def _figure1(made: Opened) -> Rows:
    images = {image: n for n, image in enumerate(made.visualized.images)}
    tallies: dict[_Series, _Tally] = {}
    seen: Counter[_Series] = Counter()
    for each in made.visualized.rebuilt:
        key = each.layer, each.method, each.k
        seen[key] += 1
        blank = _Tally(*np.zeros((2, len(MEASURES), len(images))))
        total, weight = tallies.setdefault(key, blank)
        values = np.array([each.psnr, each.colour, each.ssim, each.alike])
        weights = np.array([1, 1, 1, each.boxed])
        there = np.isfinite(values) & (weights > 0)
        total[there, images[each.image]] = values[there]
        weight[there, images[each.image]] = weights[there]
    draws = _draws(len(images), made)
    found: Rows = [
        {"table": "figure1", "layer": layer, "method": method, "k": k, "n": seen[layer, method, k]}
        | _measured(MEASURES, _means(tallies[layer, method, k], draws), made)
        for layer, method, k in _ordered(made, tallies)
    ]
    for name, one, other in _compared(made, tallies):
        a, b = tallies[one], tallies[other]
        both = (a.weight > 0) & (b.weight > 0)
        means = [_means(_Tally(x.total * both, x.weight * both), draws) for x in (a, b)]
        row = {"table": "figure1-gain", "method": name, "k": one[2], "n": int(both[1].sum())}
        found.append(row | _measured(MEASURES, means[0] - means[1], made))
    return found


def _compared(made: Opened, known: Mapping[_Series, object]) -> list[tuple[str, _Series, _Series]]:
    """What is subtracted from what, by name."""
    layers, pairs = made.visualized.layers, []
    for layer, method, k in _ordered(made, known):
        if method != NEIGHBOURS:
            continue
        place = layers.index(layer)
        others = [(layers[place - 1], NEIGHBOURS)] if place else []
        others += [(layer, RANDOM), *((x, UNIFORM) for x in dict.fromkeys((layers[0], layer)))]
        for other, by in others:
            if (other, by, k) in known:
                what = other if by == NEIGHBOURS else f"{other} {by}"
                pairs.append((f"{layer} minus {what}", (layer, method, k), (other, by, k)))
    return pairs


# -- Figure 2 ----------------------------------------------------------------------------------


def _figure2(made: Opened, averages: Sequence[Average]) -> Rows:
    images = {each: n for n, each in enumerate(sorted({x.image for x in averages}))}
    of_series: dict[_Series, list[Average]] = {}
    for each in averages:
        of_series.setdefault((each.layer, each.method, each.k), []).append(each)
    draws = _draws(len(images), made)
    summary: Rows = []
    profiles: Rows = []
    for key in _ordered(made, of_series):
        mine = of_series[key]
        tally = _Tally(*np.zeros((2, len(SPREADS), len(images))))
        for each in mine:
            values = np.array([each.ratio, *_spreads(each)])
            there = np.isfinite(values)
            tally.total[there, images[each.image]] += values[there]
            tally.weight[there, images[each.image]] += 1
        series = dict(zip(("layer", "method", "k"), key, strict=True))
        count = round(float(np.mean([each.found for each in mine])), 2)
        row = {"table": "figure2", **series, "n": len(mine), "count": count}
        summary.append(row | _measured(SPREADS, _means(tally, draws), made))
        profiles += [
            {"table": "figure2-profile", **series, "radius": radius, "spread": _number(spread, 2)}
            for radius, spread in enumerate(_profile(mine))
        ]
    return summary + profiles


def _spreads(each: Average) -> tuple[float, float]:
    """In the centre and in the periphery; NaN where they meet, as the ratio is."""
    edge = each.side // 2
    if each.side < 3 * _FRAME:
        return np.nan, np.nan
    inner, outer = each.profile[:_CENTRE], each.profile[edge - _FRAME : edge + 1]
    return _mean(inner), _mean(outer)


def _profile(averages: Sequence[Average]) -> Floats:
    """(R,) mean of the radial profiles, of those that know a radius; NaN where none does."""
    length = max(len(each.profile) for each in averages)
    table = np.full((len(averages), length), np.nan)
    for row, each in zip(table, averages, strict=True):
        row[: len(each.profile)] = each.profile
    return np.array([_mean(column) for column in table.T])


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


# -- means and intervals -------------------------------------------------------------------------


def _draws(photographs: int, made: Opened) -> Floats:
    """(1 + resamples, P) how often each photograph counts: once, and then as it is drawn."""
    times = np.ones((1 + made.evaluation.resamples, photographs))
    if photographs:
        rng, share = np.random.default_rng(made.seed), np.full(photographs, 1 / photographs)
        times[1:] = rng.multinomial(photographs, share, size=len(times) - 1)
    return times


def _means(tally: _Tally, draws: Floats) -> Floats:
    """(M, 1 + resamples) the measures of each draw; NaN where it has nothing to divide by."""
    total, weight = tally.total @ draws.T, tally.weight @ draws.T
    means: Floats = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return means


def _measured(names: Sequence[str], means: Floats, made: Opened) -> dict[str, float | None]:
    """Columns of a row: each measure, and the ends of its interval."""
    row: dict[str, float | None] = {}
    ends = pck.interval(means[:, 1:], made.evaluation.level)
    for name, value, low, high in zip(names, means[:, 0], *ends, strict=True):
        # A share becomes per cent.
        scale, places = 100 if name == "same_class" else 1, _PLACES.get(name, 2)
        known = np.isfinite(value)
        for end, number in (("", value), ("_low", low), ("_high", high)):
            row[f"{name}{end}"] = _number(scale * number, places) if known else None
    return row


def _number(value: float, places: int) -> float | None:
    """JSON has no NaN; no minus zero."""
    return None if np.isnan(value) else round(float(value), places) + 0.0


def _ordered(made: Opened, known: Mapping[_Series, object]) -> list[_Series]:
    layers = made.visualized.layers
    return sorted(known, key=lambda key: (layers.index(key[0]), METHODS.index(key[1]), key[2]))

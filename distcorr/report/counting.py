"""PCK of saved predictions, method by method, with intervals: what Tables 2 and 4 are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.report.score import MEAN, Score, mean, per_cent

Floats = npt.NDArray[np.float64]
_Numbers = Mapping[str, int]
FEW = 20  # photographs: where intervals of 95 % covered 90 % in a trial (pck.interval)
_LISTED = 5


def scores(
    predictions: pa.Table, config: EvaluationConfig, seed: int
) -> tuple[dict[tuple[str, str], Score], list[str]]:
    """PCK of every method on every category and, as ``"mean"``, over those that it has.

    Samples resample photographs within each category; all methods see the same ones, so that the
    difference of two scores is a paired comparison.

    Args:
        predictions: rows of the schema ``PREDICTIONS``.
        config: thresholds, how many resamples.
        seed: of the bootstrap.

    Returns:
        (method, category) -> score, category by category and "mean" last; and notes about
        categories of few photographs, and keypoint types that no prediction exists for.
    """
    values: dict[tuple[str, str], Score] = {}
    notes = few(photographs_of(predictions))
    methods = list(dict.fromkeys(predictions["method"].to_pylist()))
    for c, (category, of_category) in enumerate(by(predictions, "category", in_order=True)):
        photographs, types = (numbered(of_category, name) for name in ("image", "keypoint"))
        for method, table in by(of_category, "method"):
            correct, total = tally(table, photographs, types, config)
            values[method, category] = score(correct, total, config, [seed, c])
        if names := never_predicted(of_category):
            notes.append(f"{category}: no prediction at all for {', '.join(names)}; they count 0.")
    for method in methods:
        values[method, MEAN] = mean([found for (of, _), found in values.items() if of == method])
    return values, notes


def photographs_of(predictions: pa.Table) -> dict[str, int]:
    """Category -> how many photographs show it."""
    pairs = zip(*(predictions[name].to_pylist() for name in ("category", "image")), strict=True)
    return Counter(category for category, _ in sorted(set(pairs)))


def few(photographs: Mapping[str, int]) -> list[str]:
    """A note about categories of so few photographs that their intervals are too narrow.

    Args:
        photographs: category -> how many are scored.
    """
    thin = sorted((n, category) for category, n in photographs.items() if n < FEW)
    if not thin:
        return []
    listed = ", ".join(f"{category} ({n})" for n, category in thin[:_LISTED])
    more = f" and {len(thin) - _LISTED} more" if len(thin) > _LISTED else ""
    alone = " One photograph has no interval: both ends are its value." if thin[0][0] == 1 else ""
    return [
        f"Intervals are too narrow with fewer than {FEW} photographs (in a trial, those of 95 % "
        f"covered 88 % with 10, and 72 % with 3): {listed}{more}.{alone}"
    ]


def by(table: pa.Table, name: str, in_order: bool = False) -> Iterator[tuple[str, pa.Table]]:
    """Each value of a column, as they come or sorted, and the rows that have it."""
    column = np.asarray(table[name].to_pylist(), object)
    values = list(dict.fromkeys(column))
    for value in sorted(values) if in_order else values:
        yield value, table.filter(pa.array((column == value).astype(bool)))


def numbered(table: pa.Table, name: str) -> dict[str, int]:
    """A number for each value of a column, by their order: the same for all methods."""
    return {value: n for n, value in enumerate(sorted(set(table[name].to_pylist())))}


def errors(table: pa.Table) -> Floats:
    """(n,) px in the photograph from predictions to annotations; inf where there is none."""
    get = {n: np.asarray(table[n].to_numpy(), np.float64) for n in ("x", "y", "true_x", "true_y")}
    distance = np.hypot(get["x"] - get["true_x"], get["y"] - get["true_y"])
    return np.where(np.isnan(distance), np.inf, distance)  # a missing prediction is wrong


def correct(table: pa.Table, alpha: float, config: EvaluationConfig) -> npt.NDArray[np.bool_]:
    """(n,) whether each prediction counts as correct at ``alpha``."""
    within = np.less_equal if config.inclusive else np.less
    right: npt.NDArray[np.bool_] = within(errors(table), alpha * table["scale"].to_numpy())
    return right


def tally(
    table: pa.Table,
    photographs: _Numbers,
    types: _Numbers,
    config: EvaluationConfig,
    alphas: Sequence[float] = (),
) -> tuple[pck.Counts, pck.Counts]:
    """Correct (A, P, K) and total (P, K) of one method in one category.

    Args:
        table: its predictions.
        photographs: their numbers, of all methods.
        types: likewise, of keypoints.
        config: thresholds, and whether what lies on one is correct.
        alphas: other thresholds.
    """
    return pck.counts(
        errors(table),
        table["scale"].to_numpy(),
        np.array([types[name] for name in table["keypoint"].to_pylist()], np.intp),
        np.array([photographs[name] for name in table["image"].to_pylist()], np.intp),
        alphas or config.alphas,
        len(types),
        n_photographs=len(photographs),
        le=config.inclusive,
    )


def score(
    correct: pck.Counts, total: pck.Counts, config: EvaluationConfig, seed: Sequence[int]
) -> Score:
    """PCK from counts, and its samples."""
    samples = pck.bootstrap(correct, total, resamples=config.resamples, seed=seed)
    return Score(pck.pck(correct, total), samples, int(total.sum()))


def rows(
    table: str,
    method: str,
    category: str,
    score: Score,
    config: EvaluationConfig,
    **more: Any,
) -> list[dict[str, Any]]:
    """One row per threshold; ``more`` stands before what is measured."""
    return [
        {"table": table, "method": method, "category": category, "alpha": alpha, **more} | measured
        for alpha, measured in zip(config.alphas, measures(score, config), strict=True)
    ]


def measures(score: Score, config: EvaluationConfig) -> list[dict[str, Any]]:
    """Value and interval in per cent, and n, for each of the score's settings."""
    low, high = pck.interval(score.samples, config.level)
    return [
        {"value": per_cent(v), "low": per_cent(a), "high": per_cent(b), "n": score.n}
        for v, a, b in zip(score.value, low, high, strict=True)
    ]


def never_predicted(table: pa.Table) -> list[str]:
    """Keypoint types of this table that no row has a prediction for."""
    shown = set(table["keypoint"].to_pylist())
    predicted = set(table.filter(table["x"].is_valid())["keypoint"].to_pylist())
    return sorted(shown - predicted)

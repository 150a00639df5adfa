"""Tables from saved predictions: PCK as integer counts, with intervals by photograph."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report.predictions import Finished, combine, finished

COLUMNS = ("table", "method", "category", "alpha", "value", "low", "high", "n")


@dataclass(frozen=True)
class Report:
    """Tidy rows of every table whose stage has run, and what made them.

    Attributes:
        rows: dicts with ``COLUMNS``: ``value``, ``low`` and ``high`` in per cent, ``n`` keypoints
            scored; category ``"mean"`` is the plain mean over categories, as the paper's.
        weights: which network weights made the numbers.
        data: which photographs.
        notes: what a reader must know before quoting a number.
        level: of the intervals.
        predictions: what the numbers are counted from; a file of its own.
    """

    rows: list[dict[str, Any]]
    weights: str
    data: str
    notes: list[str]
    level: float
    predictions: pa.Table | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> str:
        """The report as JSON, without predictions; equal runs give equal text."""
        said = {name: value for name, value in vars(self).items() if name != "predictions"}
        return json.dumps(said, indent=1, allow_nan=False) + "\n"

    def to_csv(self, table: str) -> str:
        """One table as CSV, with the stamp in every row so that it cannot be lost."""
        out = io.StringIO()
        writer = csv.DictWriter(out, (*COLUMNS, "weights", "data"), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            if row["table"] == table:
                writer.writerow(row | {"weights": self.weights, "data": self.data})
        return out.getvalue()

    @property
    def tables(self) -> list[str]:
        """Names of the tables, in order."""
        return list(dict.fromkeys(row["table"] for row in self.rows))


def build(run: Run, evaluation: EvaluationConfig | None = None) -> Report:
    """Every table of a run; ``evaluation`` in place of the run's own, nothing is aligned anew.

    Raises:
        DistcorrError: no stage that a table needs has finished, or there is nothing to score.
    """
    made = finished(run, evaluation)
    store, config = made.store, made.config
    predictions = combine(made)
    if not predictions.num_rows:
        raise DistcorrError(
            "No category has both training and validation instances, so there is nothing to score.",
            "distcorr build-db warns which of the two each category lacks",
        )
    rows, notes = table2(predictions, config.evaluation, config.seed)
    notes = [_settings(made), *_thin(store, made.asked.k), *_unscored(made), *notes]
    if store.dead:
        notes.append(f"{len(store.dead)} instances could not be read and are left out.")
    dead = {letter.id for letter in made.transfer.dead_letters()}
    if dead:
        notes.append(f"{len(dead)} pairs could not be aligned by every layer; they say nothing.")
    level = config.evaluation.level
    return Report(rows, store.stamp["weights"], store.stamp["data"], notes, level, predictions)


def _settings(made: Finished) -> str:
    """What the flows and their combination rest on, in one line."""
    flow, evaluation = made.flow, made.config.evaluation
    side = f"{flow.side} px" if flow.side else "the network's input size"
    unit = "cell" if flow.units == "cells" else flow.units
    features = "unit-norm" if flow.feature_norm == "unit" else flow.feature_norm
    asked = "first" if evaluation.strict else "first that show the keypoint"
    layers = " and ".join(made.store.aligned(flow))
    rounds = f" ({flow.iterations} iterations)" if flow.iterations else ""
    more = [
        f"Displacements of {flow.window} cells at most." if flow.window else "",
        f"At most {flow.targets} targets per category." if flow.targets else "",
        "Copying from the nearest alone." if evaluation.copying == "nearest" else "",
        "The targets are TRAINING instances." if made.asked.split == "train" else "",
    ]
    return (
        f"Flow by {layers} in boxes of {side}, beta {flow.beta:g} per {unit}^2 on {features} "
        f"features, {flow.solver} solver{rounds}, {flow.direction} transfer; neighbours by "
        f"{evaluation.order}, median of the {asked}, {evaluation.keep} at most. "
        + " ".join(filter(None, more))
    ).rstrip()


def save(report: Report, run: Run) -> list[str]:
    """Write ``report/tables.json``, one CSV per table and the predictions; returns their names."""
    names = ["report/tables.json"]
    run.folder.write(names[0], report.to_json().encode())
    if report.predictions is not None:
        names.append("report/predictions.parquet")
        run.folder.write_table(names[-1], report.predictions, row_group_size=65536)
    for table in report.tables:
        names.append(f"report/{table}.csv")
        run.folder.write(names[-1], report.to_csv(table).encode())
    return names


def _unscored(made: Finished) -> list[str]:
    store, splits = made.store, dict.fromkeys(("train", made.asked.split))
    lacking = {
        category: [s for s in splits if not store.members(category, s)]
        for category in store.keypoint_names
    }
    listed = ", ".join(f"{c} (no {' and no '.join(s)})" for c, s in sorted(lacking.items()) if s)
    return [f"Not scored, and not in the mean: {listed}."] if listed else []


def _thin(store: FeatureStore, k: int) -> list[str]:
    counts = {c: len(store.members(c, "train")) for c in store.keypoint_names}
    few = {c: n for c, n in counts.items() if 0 < n < k}
    if not few:
        return []
    listed = ", ".join(f"{c} ({n})" for c, n in sorted(few.items()))
    return [f"Fewer training instances than the {k} neighbours asked for: {listed}."]


def table2(
    predictions: pa.Table, config: EvaluationConfig, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Table 2: PCK of keypoint transfer per method and category, and their mean.

    ``table2-gain`` is a paired comparison: every method minus the last (copying), and the first
    minus the second (conv4 minus SIFT).

    Returns:
        rows, and notes about keypoint types that no prediction exists for.
    """
    values, notes = scores(predictions, config, seed)
    methods = list(dict.fromkeys(method for method, _ in values))
    categories = list(dict.fromkeys(category for _, category in values))
    scored = [("table2", m, {c: values[m, c] for c in categories}) for m in methods]
    compared = [(method, methods[-1]) for method in methods[:-1]]
    if len(methods) > 2:
        compared.append((methods[0], methods[1]))
    for method, other in compared:
        gains = {c: values[method, c] - values[other, c] for c in categories}
        scored.append(("table2-gain", f"{method} minus {other}", gains))
    rows = [
        row
        for table, method, found in scored
        for category, score in found.items()
        for row in _rows(table, method, category, score, config)
    ]
    return rows, notes


def scores(
    predictions: pa.Table, config: EvaluationConfig, seed: int
) -> tuple[dict[tuple[str, str], Score], list[str]]:
    """PCK of every method on every category and, as ``"mean"``, over them.

    Samples resample photographs within each category; all methods see the same ones, so that the
    difference of two scores is a paired comparison.

    Returns:
        (method, category) -> score, category by category and "mean" last; and notes about keypoint
        types that no prediction exists for.
    """
    categories = sorted(set(predictions["category"].to_pylist()))
    methods = list(dict.fromkeys(predictions["method"].to_pylist()))
    columns = {n: np.asarray(predictions[n].to_pylist(), object) for n in ("category", "method")}
    values: dict[tuple[str, str], Score] = {}
    notes: list[str] = []
    for c, category in enumerate(categories):
        of_category = columns["category"] == category
        for method in methods:
            chosen = of_category & (columns["method"] == method)
            table = predictions.filter(pa.array(chosen.astype(bool)))
            values[method, category] = _score(table, config, [seed, c])
        names = _never_predicted(predictions.filter(pa.array(of_category.astype(bool))))
        if names:
            notes.append(f"{category}: no prediction at all for {', '.join(names)}; they count 0.")
    for method in methods:
        parts = [values[method, category] for category in categories]
        values[method, "mean"] = Score(
            np.mean([p.value for p in parts], axis=0),
            np.mean([p.samples for p in parts], axis=0),
            sum(p.n for p in parts),
        )
    return values, notes


def _rows(
    table: str, method: str, category: str, score: Score, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """One row per threshold."""
    low, high = pck.interval(score.samples, config.level)
    return [
        {
            "table": table,
            "method": method,
            "category": category,
            "alpha": alpha,
            "value": per_cent(score.value[a]),
            "low": per_cent(low[a]),
            "high": per_cent(high[a]),
            "n": score.n,
        }
        for a, alpha in enumerate(config.alphas)
    ]


def per_cent(share: float) -> float:
    """A share in per cent, to two places."""
    return round(100 * float(share), 2) + 0.0  # no minus zero


@dataclass(frozen=True)
class Score:
    """PCK per alpha (A,), its bootstrap samples (A, resamples), and the keypoints scored.

    The difference of two scores is that of their values and of their samples, one by one.
    """

    value: npt.NDArray[np.float64]
    samples: npt.NDArray[np.float64]
    n: int

    def __sub__(self, other: Score) -> Score:
        return Score(self.value - other.value, self.samples - other.samples, self.n)


def _score(table: pa.Table, config: EvaluationConfig, seed: list[int]) -> Score:
    """One method on one category."""
    get = {n: np.asarray(table[n].to_numpy(), np.float64) for n in ("x", "y", "true_x", "true_y")}
    distance = np.hypot(get["x"] - get["true_x"], get["y"] - get["true_y"])
    distance[np.isnan(distance)] = np.inf  # a missing prediction is wrong
    names, keypoint = np.unique(table["keypoint"].to_pylist(), return_inverse=True)
    _, photograph = np.unique(table["image"].to_pylist(), return_inverse=True)
    correct, total = pck.counts(
        distance,
        table["scale"].to_numpy(),
        keypoint,
        photograph,
        config.alphas,
        len(names),
        le=config.inclusive,
    )
    samples = pck.bootstrap(correct, total, resamples=config.resamples, seed=seed)
    return Score(pck.pck(correct, total), samples, int(total.sum()))


def _never_predicted(table: pa.Table) -> list[str]:
    """Keypoint types of this table that no row has a prediction for."""
    shown = set(table["keypoint"].to_pylist())
    predicted = set(table.filter(table["x"].is_valid())["keypoint"].to_pylist())
    return sorted(shown - predicted)

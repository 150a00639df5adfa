"""Tables from saved predictions: PCK as integer counts, with intervals by photograph."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, StageFolder
from distcorr.errors import DistcorrError

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
    """

    rows: list[dict[str, Any]]
    weights: str
    data: str
    notes: list[str]

    def to_json(self) -> str:
        """The report as JSON; equal runs give equal text."""
        return json.dumps(vars(self), indent=1, allow_nan=False) + "\n"

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


def build(run: Run) -> Report:
    """Every table of a run.

    Raises:
        DistcorrError: no stage that a table needs has finished.
    """
    features, transfer = run.finished("build-db"), run.finished("transfer")
    config = run.config()
    if not (config and features and transfer):
        raise DistcorrError(
            f"{run} has no predictions that are finished and up to date.",
            f"distcorr run -r {run}   makes them",
        )
    store = FeatureStore(features)
    predictions = _predictions(transfer)
    rows, notes = table2(predictions, config.evaluation, config.seed)
    notes = [*_thin(store, config.neighbors.k), *_unscored(store), *notes]
    if store.dead:
        notes.append(f"{len(store.dead)} instances could not be read and are left out.")
    return Report(rows, store.stamp["weights"], store.stamp["data"], notes)


def save(report: Report, run: Run) -> list[str]:
    """Write ``report/tables.json`` and one CSV per table; returns their names."""
    names = ["report/tables.json"]
    run.folder.write(names[0], report.to_json().encode())
    for table in report.tables:
        names.append(f"report/{table}.csv")
        run.folder.write(names[-1], report.to_csv(table).encode())
    return names


def _predictions(transfer: StageFolder) -> pa.Table:
    parts = transfer.parts("predictions")
    if not parts:
        raise DistcorrError(
            "No category has both training and validation instances, so there is nothing to score.",
            "distcorr build-db warns which of the two each category lacks",
        )
    return pa.concat_tables(list(transfer.folder.iter_tables(parts)))


def _unscored(store: FeatureStore) -> list[str]:
    lacking = {
        category: [s for s in ("train", "val") if not store.members(category, s)]
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

    Intervals resample photographs within each category; all methods see the same resamples, so
    that ``table2-gain``, the first method minus the last (copying), is a paired comparison.

    Returns:
        rows, and notes about keypoint types that no prediction exists for.
    """
    categories = sorted(set(predictions["category"].to_pylist()))
    methods = list(dict.fromkeys(predictions["method"].to_pylist()))
    columns = {n: np.asarray(predictions[n].to_pylist(), object) for n in ("category", "method")}
    values: dict[tuple[str, str], _Score] = {}
    notes: list[str] = []
    for c, category in enumerate(categories):
        for method in methods:
            chosen = (columns["category"] == category) & (columns["method"] == method)
            table = predictions.filter(pa.array(chosen.astype(bool)))
            values[method, category] = _score(table, config, [seed, c])
        names = _never_predicted(table)
        if names:
            notes.append(f"{category}: no prediction at all for {', '.join(names)}; they count 0.")
    for method in methods:
        parts = [values[method, category] for category in categories]
        values[method, "mean"] = _Score(
            np.mean([p.value for p in parts], axis=0),
            np.mean([p.samples for p in parts], axis=0),
            sum(p.n for p in parts),
        )
    scored = [("table2", m, {c: values[m, c] for c in (*categories, "mean")}) for m in methods]
    copying = scored[-1][2]
    for _, method, scores in scored[:-1]:
        gains = {c: score - copying[c] for c, score in scores.items()}
        scored.append(("table2-gain", f"{method} minus {methods[-1]}", gains))
    rows = [
        row
        for table, method, scores in scored
        for category, score in scores.items()
        for row in _rows(table, method, category, score, config)
    ]
    return rows, notes


def _rows(
    table: str, method: str, category: str, score: _Score, config: EvaluationConfig
) -> list[dict[str, Any]]:
    """One row per threshold."""
    low, high = pck.interval(score.samples, config.level)
    return [
        {
            "table": table,
            "method": method,
            "category": category,
            "alpha": alpha,
            "value": _per_cent(score.value[a]),
            "low": _per_cent(low[a]),
            "high": _per_cent(high[a]),
            "n": score.n,
        }
        for a, alpha in enumerate(config.alphas)
    ]


def _per_cent(share: float) -> float:
    return round(100 * float(share), 2) + 0.0  # no minus zero


@dataclass(frozen=True)
class _Score:
    """PCK per alpha (A,), its bootstrap samples (A, resamples), and the keypoints scored."""

    value: npt.NDArray[np.float64]
    samples: npt.NDArray[np.float64]
    n: int

    def __sub__(self, other: _Score) -> _Score:
        return _Score(self.value - other.value, self.samples - other.samples, self.n)


def _score(table: pa.Table, config: EvaluationConfig, seed: list[int]) -> _Score:
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
    return _Score(pck.pck(correct, total), samples, int(total.sum()))


def _never_predicted(table: pa.Table) -> list[str]:
    """Keypoint types of this table that no row has a prediction for."""
    shown = set(table["keypoint"].to_pylist())
    predicted = set(table.filter(table["x"].is_valid())["keypoint"].to_pylist())
    return sorted(shown - predicted)

"""Tables of a run from saved predictions and answers; Table 2 itself, PCK with intervals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.config import Config, EvaluationConfig
from distcorr.data.classified import Classified
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, StageFolder
from distcorr.errors import DistcorrError
from distcorr.report import classification, concentration
from distcorr.report.predictions import Finished, combine, finished
from distcorr.report.score import Score as Score
from distcorr.report.score import mean
from distcorr.report.score import per_cent as per_cent

_OURS = re.compile(r"(table|figure|confusion)\S*\.csv|predictions\.parquet")
STAGES = {  # what each is for
    "transfer": "Table 2",
    "classify": "Table 3 and Figure 5",
    "responses": "Figure 4",
}


@dataclass(frozen=True)
class Report:
    """Tidy rows of every table whose stage has run, and what made them.

    Attributes:
        rows: dicts with ``table``, ``category`` and what else that table needs; where something is
            measured, ``value``, ``low`` and ``high`` in per cent and ``n`` keypoints scored.
            Category ``"mean"`` is the plain mean over categories, as the paper's.
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
        rows = [row for row in self.rows if row["table"] == table]
        stamp = {"weights": self.weights, "data": self.data}
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(out, [*names, *stamp], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | stamp for row in rows)
        return out.getvalue()

    @property
    def tables(self) -> list[str]:
        """Names of the tables, in order."""
        return list(dict.fromkeys(row["table"] for row in self.rows))


def build(run: Run, evaluation: EvaluationConfig | None = None) -> Report:
    """Every table whose stage has finished; nothing is aligned or trained anew.

    Args:
        run: with at least one of ``STAGES`` finished.
        evaluation: in place of the run's own.

    Raises:
        DistcorrError: no stage that a table needs has finished, or there is nothing to score.
    """
    config, features = run.config(), run.finished("build-db")
    stages = {name: run.finished(name) for name in STAGES}
    if config is None or features is None or not any(stages.values()):
        raise DistcorrError(
            f"{run} has nothing to report: none of {', '.join(STAGES)} is finished and up to date.",
            f"distcorr run -r {run}   makes all; distcorr transfer or distcorr classify makes one",
        )
    config = dataclasses.replace(config, evaluation=evaluation or config.evaluation)
    made = finished(run, evaluation) if stages["transfer"] else None
    sections = []
    if made:
        sections.append(_transferred(made))
    classified = None
    if classify := stages["classify"]:
        entry = run.manifest()["stages"]["classify"]
        classified = Classified(classify)
        sections.append(_answered(classify, classified, entry["classify"], config))
        if stages["responses"]:
            asked = run, classified, config.evaluation, config.seed
            sections.append(_Section(*concentration.figure4_rows(*asked)))
    rows = [row for section in sections for row in section.rows]
    if not rows:
        raise DistcorrError(
            "No category has both training and validation instances, so there is nothing to score. "
            + " ".join(classified.notes if classified else ()),
            "distcorr build-db warns which of the two each category lacks",
        )
    notes = [note for section in sections for note in section.notes]
    begun = run.manifest()["stages"].keys() & {name for name, stage in stages.items() if not stage}
    notes += [
        f"{STAGES[name]} left out: {name} is unfinished or out of date, distcorr {name} mends it."
        for name in sorted(begun)
    ]
    stamp = made.store.stamp if made else FeatureStore(features).stamp
    level, predictions = config.evaluation.level, sections[0].predictions
    return Report(rows, stamp["weights"], stamp["data"], notes, level, predictions)


class _Section(NamedTuple):
    """What one stage contributes."""

    rows: list[dict[str, Any]]
    notes: list[str]
    predictions: pa.Table | None = None


def _transferred(made: Finished) -> _Section:
    """Section 3."""
    store, config = made.store, made.config
    predictions = combine(made)
    rows, notes = table2(predictions, config.evaluation, config.seed)
    notes = [_settings(made), *_thin(store, made.asked.k), *_unscored(made), *notes]
    if store.dead:
        notes.append(f"{len(store.dead)} instances could not be read and are left out.")
    dead = {letter.id for letter in made.transfer.dead_letters()}
    if dead:
        notes.append(f"{len(dead)} pairs could not be aligned by every layer; they say nothing.")
    return _Section(rows, notes, predictions)


def _answered(
    stage: StageFolder, classified: Classified, trained: dict[str, Any], config: Config
) -> _Section:
    """Section 4 but for Figure 4; ``trained``: the settings of the classifiers."""
    if not classified.pairs:
        return _Section([], classified.notes)
    evaluation, seed = config.evaluation, config.seed
    rows, notes = classification.table3(classified, evaluation, seed)
    rows += classification.figure5(classified, evaluation, seed)
    rows += classification.confusion(classified, evaluation)
    said = [classification.settings(classified, trained, evaluation), *classified.notes]
    dead = {letter.id.rpartition(" (")[0] for letter in stage.dead_letters()}
    if dead:
        said.append(f"{len(dead)} keypoints could not be classified by every layer: left out.")
    return _Section(rows, said + notes)


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
        f"Edges cost {flow.truncation:g} at most." if flow.truncation else "",
        f"{made.store.context} px of context around the boxes." if made.store.context else "",
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
    """Write ``report/tables.json``, one CSV per table and the predictions; returns their names.

    Tables of an earlier report go: what is in the folder belongs together.
    """
    for old in run.folder.sizes("report"):
        if _OURS.fullmatch(old):
            run.folder.delete(f"report/{old}")
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
        values[method, "mean"] = mean([values[method, category] for category in categories])
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

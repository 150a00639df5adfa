"""Tables of a run from saved predictions and answers; Table 2 itself, PCK with intervals."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from distcorr.config import Config, EvaluationConfig
from distcorr.data.classified import Classified
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, StageFolder
from distcorr.errors import DistcorrError
from distcorr.report import (
    classification,
    comparison,
    concentration,
    counting,
    detection,
    detection_curves,
    dialects,
    locality,
    pairs,
)
from distcorr.report.counting import scores as scores
from distcorr.report.predictions import Finished, combine, finished, unfinished
from distcorr.report.score import Score as Score
from distcorr.report.score import gains
from distcorr.report.score import per_cent as per_cent

_OURS = re.compile(r"(table|figure|confusion|mining)\S*\.csv|predictions(-detect)?\.parquet")
STAGES = {  # what each is for
    "transfer": "Table 2",
    "classify": "Table 3 and Figure 5",
    "responses": "Figure 4",
    "detect": "Table 4 and Figure 6",
    "visualize": "Figures 1 and 2",
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
        predictions: what Table 2 is counted from; a file of its own.
        detections: likewise, of Table 4.
    """

    rows: list[dict[str, Any]]
    weights: str
    data: str
    notes: list[str]
    level: float
    predictions: pa.Table | None = field(default=None, repr=False, compare=False)
    detections: pa.Table | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> str:
        """The report as JSON, without predictions; equal runs give equal text."""
        files = ("predictions", "detections")
        said = {name: value for name, value in vars(self).items() if name not in files}
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
    matched = run.finished(pairs.NAME)
    if config is None or not (matched or (features and any(stages.values()))):
        raise unfinished(
            run,
            f"{run} has nothing to report: none of {', '.join(STAGES)} is finished and up to date",
            f"distcorr run -r {run}   makes all; distcorr transfer or distcorr classify makes one",
        )
    config = dataclasses.replace(config, evaluation=evaluation or config.evaluation)
    made = finished(run, evaluation) if stages["transfer"] else None
    sections = [_transferred(run, made)] if made else []
    classified = None
    if classify := stages["classify"]:
        entry = run.manifest()["stages"]["classify"]
        classified = Classified(classify)
        sections.append(_answered(classify, classified, entry["classify"], config))
        if stages["responses"]:
            asked = run, classified, config.evaluation, config.seed
            sections.append(_Section(*concentration.figure4_rows(*asked)))
    control, found = "", None
    if stages["detect"]:
        detected = detection.opened(run, config.evaluation)
        assert features is not None  # detect needs it
        sections.append(found := _detected(detected, FeatureStore(features)))
        control = detection.control(detected.trained)
    located = None
    if stages["visualize"]:
        located = _Section(*locality.rows(locality.opened(run, config.evaluation)))
        sections.append(located)
    if matched:
        sections.append(_Section(*pairs.section(run, config)))
    rows = [row for section in sections for row in section.rows]
    if not rows:
        notes = [n for each in (classified, found, located) if each for n in each.notes]
        raise DistcorrError(
            "No category has both training and validation instances, so there is nothing to score. "
            + " ".join(notes),
            "distcorr build-db warns which of the two each category lacks",
        )
    notes = [note for section in sections for note in section.notes]
    begun = run.manifest()["stages"].keys() & {name for name, stage in stages.items() if not stage}
    notes += [
        f"{STAGES[name]} left out: {name} is unfinished or out of date, distcorr {name} mends it."
        for name in sorted(begun)
    ]
    if made:
        stamp = made.store.stamp
    elif features:
        stamp = FeatureStore(features).stamp
    else:
        of_pairs = pairs.stamp(run)
        stamp = {"weights": of_pairs["features"], "data": of_pairs["data"]}
    return Report(
        rows,
        "; ".join(filter(None, (stamp["weights"], control))),
        stamp["data"],
        list(dict.fromkeys(notes)),  # Tables 2 and 4 rest on the same
        config.evaluation.level,
        sections[0].predictions if made else None,
        found.predictions if found and found.rows else None,
    )


class _Section(NamedTuple):
    """What one stage contributes."""

    rows: list[dict[str, Any]]
    notes: list[str]
    predictions: pa.Table | None = None


def _transferred(run: Run, made: Finished) -> _Section:
    """Section 3."""
    store, config = made.store, made.config
    predictions = combine(made)
    rows, notes = table2(predictions, config.evaluation, config.seed)
    notes = [_settings(made), *_thin(store, made.asked.k), *_unscored(made), *notes]
    if store.dead:
        notes.append(f"{len(store.dead)} instances could not be read and are left out.")
    dead = {letter.id for letter in made.transfer.dead_letters()}
    asked = comparison.pairs(rows), config.evaluation, config.seed, "table2"
    more, said = comparison.rows(predictions, *asked, _truncated(store))
    by = dialects.of_run(predictions, store, run, config.evaluation, config.seed)
    rows, notes = rows + more + by[0], [*notes, *said, *by[1]]
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


def _detected(made: detection.Opened, store: FeatureStore) -> _Section:
    """Section 5."""
    rows, notes, predictions = detection.table4(made)
    asked = comparison.pairs(rows), made.evaluation, made.seed, "table4"
    more, said = comparison.rows(predictions, *asked, _truncated(store))
    rows, notes = rows + more, [*notes, *counting.few(counting.photographs_of(predictions)), *said]
    rows += detection_curves.eta_rows(made) + detection_curves.mining_rows(made)
    return _Section(rows, notes, predictions)


def _truncated(store: FeatureStore) -> dict[str, bool | None]:
    """Instance -> whether it goes on beyond its box; None where the annotations do not say."""
    return {instance.id: instance.truncated for instance in store.instances}


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
    files = {"predictions": report.predictions, "predictions-detect": report.detections}
    for name, predictions in files.items():
        if predictions is not None:
            names.append(f"report/{name}.parquet")
            run.folder.write_table(names[-1], predictions, row_group_size=65536)
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
    rows = [
        row
        for method in methods
        for category in categories
        for row in counting.rows("table2", method, category, values[method, category], config)
    ]
    compared = [(method, methods[-1]) for method in methods[:-1]]
    if len(methods) > 2:
        compared.append((methods[0], methods[1]))
    rows += [
        row
        for one, other in compared
        for category, gain in gains(values, one, other).items()
        for row in counting.rows("table2-gain", f"{one} minus {other}", category, gain, config)
    ]
    return rows, notes

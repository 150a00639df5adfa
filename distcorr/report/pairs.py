"""What ``evaluate-pairs`` found: one file of predictions, and PCK beside what needs no feature."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.algorithms.dialect_scores import Points, Scored, evaluate
from distcorr.algorithms.dialects import DIALECTS, Dialect
from distcorr.algorithms.pair_matching import BASELINES
from distcorr.config import Config, EvaluationConfig
from distcorr.data import prediction_files
from distcorr.data.prediction_columns import many
from distcorr.data.prediction_files import Predictions
from distcorr.data.run import Run
from distcorr.data.storage import parquet
from distcorr.errors import DistcorrError
from distcorr.report.dialects import few
from distcorr.report.score import per_cent

NAME = "evaluate-pairs"
FILE = "report/predictions-pairs.parquet"
TABLE = "report/pairs.csv"
ALL = "all"  # categories together, as the definition has them

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Scores:
    """Every method by some definitions.

    Attributes:
        rows: dicts with table, category ("all" or one), dialect, alpha, method, value, low, high
            (per cent), n points, and gain, gain_low, gain_high: by how much it is above the better
            baseline, paired by photograph; None for the baselines.
        definitions: dialect -> in words, of those that could be scored.
        lacking: dialect -> what it would need.
        stamp: which features and pairs made the numbers.
        notes: what a reader must know.
        level: of the intervals.
    """

    rows: Rows
    definitions: dict[str, str]
    lacking: dict[str, str]
    stamp: dict[str, str]
    notes: list[str]
    level: float

    def to_csv(self) -> str:
        """The rows, with the stamp in each so that it cannot be lost."""
        out = io.StringIO()
        writer = csv.DictWriter(out, [*self.rows[0], *self.stamp], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | self.stamp for row in self.rows)
        return out.getvalue()


def gather(run: Run) -> pa.Table:
    """All predictions of a finished ``evaluate-pairs``, in the order of the shards.

    Raises:
        DistcorrError: it has not finished.
    """
    stage = run.finished(NAME)
    if stage is None:
        raise DistcorrError(
            f"{run} has no pairs that are all matched.", f"distcorr {NAME} -r {run}   goes on"
        )
    return pa.concat_tables(stage.folder.iter_tables(stage.parts("predictions")))


def score(
    run: Run,
    dialects: Sequence[Dialect],
    alphas: Sequence[float],
    evaluation: EvaluationConfig,
    seed: int,
) -> Scores:
    """Score a finished ``evaluate-pairs``; writes the file of predictions and the table.

    Raises:
        DistcorrError: it has not finished, or its pairs lack what every dialect needs.
    """
    content = parquet(gather(run), row_group_size=65536)
    run.folder.write(FILE, content)
    made = _scored(run, content, dialects, alphas, evaluation, seed)
    run.folder.write(TABLE, made.to_csv().encode())
    return made


def section(run: Run, config: Config) -> tuple[Rows, list[str]]:
    """Rows of the table ``pairs`` and notes, by the run's own settings; writes nothing.

    Raises:
        DistcorrError: it has not finished.
    """
    content, names = parquet(gather(run)), config.pairs.dialects
    by = [d for d in DIALECTS.values() if d.name in names or (ALL in names and not d.error)]
    try:
        made = _scored(run, content, by, config.evaluation.alphas, config.evaluation, config.seed)
    except DistcorrError as error:  # the other tables do not need boxes of these pairs
        return [], [f"{error.message} distcorr {NAME} {error.hint}"]
    return made.rows, [f"Pairs: {note}" for note in made.notes]


def stamp(run: Run) -> dict[str, str]:
    """Which features and pairs made the numbers."""
    entry = run.manifest()["stages"][NAME]
    labels = [f"{name}: {label}" for name, label in entry["features"].items()]
    return {"features": "; ".join(labels), "data": entry["data"]}


def _scored(
    run: Run,
    content: bytes,
    dialects: Sequence[Dialect],
    alphas: Sequence[float],
    evaluation: EvaluationConfig,
    seed: int,
) -> Scores:
    found = prediction_files.from_bytes(content, f"{run}/{FILE}").shared()
    lacking = {d.name: words for d in dialects if (words := found.lacks(d.needs))}
    usable = [dialect for dialect in dialects if dialect.name not in lacking]
    if not usable:
        raise DistcorrError(
            f"These pairs have too little for {', '.join(lacking)}: "
            f"{'; '.join(dict.fromkeys(lacking.values()))}.",
            "--dialect hpf-photo and --dialect pf need no boxes",
        )
    rows = _rows(found, usable, alphas, evaluation, seed)
    definitions = {dialect.name: dialect.definition for dialect in usable}
    notes = [*found.notes, *few(found), *_left_out(run), *_beaten(rows)]
    return Scores(rows, definitions, lacking, stamp(run), notes, evaluation.level)


def _rows(
    found: Predictions,
    dialects: Sequence[Dialect],
    alphas: Sequence[float],
    evaluation: EvaluationConfig,
    seed: int,
) -> Rows:
    """Of all categories together, and of each."""
    (names, _), points = found.names["category"], found.of()
    methods = {name: points[name] for name in sorted(points, key=BASELINES.__contains__)}
    groups: dict[str, Mapping[str, Points]] = {ALL: methods}
    if len(names) > 1:
        for number, name in enumerate(names):
            groups[name] = {m: p.take(p.category == number) for m, p in methods.items()}
    rows: Rows = []
    for category, members in groups.items():
        scores = evaluate(members, dialects, alphas, resamples=evaluation.resamples, seed=seed)
        for dialect in dialects:
            of = {method: scores[method, dialect.name] for method in members}
            rows += _of_methods(category, dialect.name, of, evaluation.level)
    return rows


def _of_methods(category: str, dialect: str, scores: Mapping[str, Scored], level: float) -> Rows:
    rows: Rows = []
    for at, alpha in enumerate(next(iter(scores.values())).alphas):
        best = max(BASELINES, key=lambda name: scores[name].value[at])
        for method, scored in scores.items():
            samples = scored.samples[at]
            row: dict[str, Any] = {"table": "pairs", "category": category, "dialect": dialect}
            row |= {"alpha": alpha, "method": method}
            row |= _interval("", scored.value[at], samples, level) | {"n": scored.n}
            gain = scored.value[at] - scores[best].value[at]
            apart = _interval("gain", gain, samples - scores[best].samples[at], level)
            rows.append(row | (dict.fromkeys(apart) if method in BASELINES else apart))
    return rows


def _interval(name: str, value: Any, samples: Any, level: float) -> dict[str, float | None]:
    low, high = pck.interval(np.asarray(samples)[None], level)
    keys = (name, f"{name}_low", f"{name}_high") if name else ("value", "low", "high")
    return dict(zip(keys, map(per_cent, (value, low[0], high[0])), strict=True))


def _beaten(rows: Rows) -> list[str]:
    """Methods that are not surely above what needs no feature."""
    weak = dict.fromkeys(
        f"{row['method']} ({row['dialect']}, {row['alpha']:g})"
        for row in rows
        if row["category"] == ALL and row["gain_low"] is not None and row["gain_low"] <= 0
    )
    return [f"Not surely above the better baseline: {', '.join(weak)}."] if weak else []


def _left_out(run: Run) -> list[str]:
    stage = run.current(NAME)
    letters = stage.dead_letters() if stage else []
    if not letters:
        return []
    pairs = many(len({letter.id for letter in letters}), "pair")
    files = sorted({letter.file for letter in letters})
    return [f"{pairs} left out for {many(len(files), 'photograph')}, for example {files[0]}."]

"""One file of predictions by many definitions of PCK: tidy rows, and how far they differ."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distcorr.algorithms import pck
from distcorr.algorithms.dialect_scores import Scored, evaluate
from distcorr.algorithms.dialects import DIALECTS, Dialect
from distcorr.config import EvaluationConfig
from distcorr.data import prediction_files, prediction_truth
from distcorr.data.features import FeatureStore
from distcorr.data.prediction_columns import many
from distcorr.data.prediction_files import Predictions
from distcorr.data.run import Run
from distcorr.data.storage import Folder, parquet
from distcorr.errors import DistcorrError
from distcorr.report import counting
from distcorr.report.score import per_cent

Rows = list[dict[str, Any]]


def rows(scores: Mapping[tuple[str, str], Scored], level: float) -> Rows:
    """One row per definition, tolerance and method; ``value``, ``low`` and ``high`` in per cent."""
    found = []
    for (method, dialect), score in scores.items():
        low, high = pck.interval(score.samples, level)
        for alpha, *shares in zip(score.alphas, score.value, low, high, strict=True):
            numbers = dict(zip(("value", "low", "high"), map(per_cent, shares), strict=True))
            found.append({"dialect": dialect, "alpha": alpha, "method": method} | numbers)
            found[-1]["n"] = score.n
    order = {name: n for n, name in enumerate(DIALECTS)}
    return sorted(found, key=lambda row: (row["alpha"], order[row["dialect"]]))  # stable: methods


def of_run(
    predictions: pa.Table, store: FeatureStore, run: Run, config: EvaluationConfig, seed: int
) -> tuple[Rows, list[str]]:
    """Tables table2-dialects and table2-dialects-gap: a run's predictions by all definitions.

    At the first tolerance. Definitions that need the sizes of photographs in an object store are
    left to ``distcorr pck``: a report does not fetch thousands of files.

    Args:
        predictions: rows of the schema ``PREDICTIONS``.
        store: of the run, for the boxes.
        run: whose photographs they are.
        config: tolerances, resamples, level.
        seed: of the bootstrap.
    """
    if not predictions.num_rows:
        return [], []
    found = prediction_files.from_bytes(parquet(predictions), f"{run}/report/predictions.parquet")
    found = prediction_truth.against(found, store, run)
    said = ""
    if Folder(store.root).is_local if store.root else run.folder.is_local:
        try:
            found = prediction_truth.with_sizes(found, store, run)
        except DistcorrError as error:
            said = f" {error.message}"
    chosen = [d for d in DIALECTS.values() if not d.error and not found.lacks(d.needs)]
    asked = {"resamples": config.resamples, "seed": seed}
    scored = rows(evaluate(found.of(), chosen, config.alphas[:1], **asked), config.level)
    gaps = spread(scored)
    notes = [
        f"{row['method']}, PCK@{row['alpha']:g}, is {row['least']:.1f} ({row['least_by']}) to "
        f"{row['most']:.1f} ({row['most_by']}) by {counted(chosen)} (distcorr pck): a number is to "
        "be quoted with its definition."
        for row in gaps[:1]
        if row["difference"] > 0
    ]
    if left := len([d for d in DIALECTS.values() if not d.error]) - len(chosen):
        notes.append(f"{left} definitions of PCK need sizes of photographs: distcorr pck.{said}")
    tables = {"table2-dialects": scored, "table2-dialects-gap": gaps}
    return [{"table": name} | row for name, of in tables.items() for row in of], notes


def counted(chosen: Sequence[Dialect]) -> str:
    """``"18 definitions, 15 of them different, 2 of those variants of ours"``."""
    rules = {dialect.rule: dialect.published for dialect in chosen}
    own = sum(not published for published in rules.values())
    said = [many(len(chosen), "definition")]
    if len(rules) < len(chosen):
        said.append(f"{len(rules)} of them different")
    if own:
        said.append(f"{own} of {'those' if len(said) > 1 else 'them'} variants of ours")
    return ", ".join(said)


def few(found: Predictions) -> list[str]:
    """A note about categories of so few photographs that their intervals are too narrow."""
    (categories, category), (images, image) = (found.names[name] for name in ("category", "image"))
    pairs = np.unique(category * len(images) + image)
    shown = np.bincount(pairs // len(images), minlength=len(categories))
    return counting.few(dict(zip(categories, shown.tolist(), strict=True)))


def spread(found: Sequence[Mapping[str, Any]]) -> Rows:
    """How far definitions differ: per tolerance and method, the least, the most and the gap.

    Definitions that are known to be wrong are left out, and tolerances of one definition alone.
    """
    right = [row for row in found if not DIALECTS[row["dialect"]].error]
    gaps = []
    for alpha in dict.fromkeys(row["alpha"] for row in right):
        at = [row for row in right if row["alpha"] == alpha]
        if len({row["dialect"] for row in at}) < 2:
            continue
        for method in dict.fromkeys(row["method"] for row in at):
            mine = [row for row in at if row["method"] == method]
            least, most = (pick(mine, key=lambda row: row["value"]) for pick in (min, max))
            gaps.append(
                {
                    "alpha": alpha,
                    "method": method,
                    "least": least["value"],
                    "least_by": least["dialect"],
                    "most": most["value"],
                    "most_by": most["dialect"],
                    "difference": round(most["value"] - least["value"], 2),
                }
            )
    return gaps


def swaps(found: Sequence[Mapping[str, Any]]) -> Rows:
    """Pairs of methods of which one is better by some definitions, and worse by others.

    As values are rounded; definitions that are known to be wrong are left out.
    """
    turned = []
    right = [row for row in found if not DIALECTS[row["dialect"]].error]
    for alpha in dict.fromkeys(row["alpha"] for row in right):
        value = {(r["dialect"], r["method"]): r["value"] for r in right if r["alpha"] == alpha}
        dialects = dict.fromkeys(dialect for dialect, _ in value)
        for one, other in itertools.combinations(dict.fromkeys(m for _, m in value), 2):
            gain = {d: value[d, one] - value[d, other] for d in dialects}
            above = [d for d in dialects if gain[d] > 0]
            below = [d for d in dialects if gain[d] < 0]
            if above and below:
                pair = {"alpha": alpha, "method": one, "other": other}
                turned.append(pair | {"above": above, "below": below})
    return turned


def to_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]) if found else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()

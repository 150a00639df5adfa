"""What a change of one factor does to PCK: every variant against the default, paired."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.report.predictions import predictions
from distcorr.report.tables import Score, per_cent, scores

MEAN = "mean"


def score(run: Run, evaluation: EvaluationConfig, seed: int) -> dict[str, Score]:
    """Method -> its PCK, the mean over categories."""
    found, _ = scores(predictions(run, evaluation), evaluation, seed)
    return {method: value for (method, category), value in found.items() if category == MEAN}


def compare(
    scored: Sequence[tuple[str, str, dict[str, Score]]], config: EvaluationConfig
) -> list[dict[str, Any]]:
    """One row for each variant, method and threshold, in per cent and per cent points.

    Args:
        scored: name, open point and ``score`` of each variant; the first is compared with.
        config: thresholds and the level of the intervals; the same for all variants.

    Returns:
        rows with variant, point, method, alpha, value; gain over the first, low, high and n. A
        method that a variant has no bearing on, as copying on a solver, has no row.
    """
    rows = []
    base = scored[0][2]
    for number, (name, point, methods) in enumerate(scored):
        gains = {m: value - base[m] for m, value in methods.items() if m in base}
        moved = {m for m, gain in gains.items() if gain.samples.any() or gain.value.any()}
        for method, gain in gains.items():
            if number and moved and method not in moved:
                continue  # the factor has no bearing on this method
            low, high = pck.interval(gain.samples, config.level)
            for a, alpha in enumerate(config.alphas):
                rows.append(
                    {
                        "variant": name,
                        "point": point,
                        "method": method,
                        "alpha": alpha,
                        "value": per_cent(methods[method].value[a]),
                        "gain": per_cent(gain.value[a]),
                        "low": per_cent(low[a]),
                        "high": per_cent(high[a]),
                        "n": gain.n,
                    }
                )
    return rows


def best(scored: Sequence[tuple[str, str, dict[str, Score]]]) -> dict[str, str]:
    """Method -> the variant of the highest PCK, the mean over thresholds; ties go to the first."""
    methods = scored[0][2]
    return {
        method: max(scored, key=lambda each: float(each[2][method].value.mean()))[0]
        for method in methods
    }


def save(rows: Sequence[dict[str, Any]], run: Run, name: str) -> list[str]:
    """Write ``report/NAME.json`` and ``.csv``; returns their names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    contents = {
        f"report/{name}.json": json.dumps(list(rows), indent=1) + "\n",
        f"report/{name}.csv": out.getvalue(),
    }
    for path, text in contents.items():
        run.folder.write(path, text.encode())
    return list(contents)


def wide(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For people: a row for each variant and method; * marks a gain whose interval is not at 0."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["variant"], row["method"]
        line = lines.setdefault(key, {k: row[k] for k in ("variant", "point", "method")})
        line[f"@{row['alpha']:g}"] = f"{row['value']:.1f}"
    for row in rows:
        line = lines[row["variant"], row["method"]]
        sure = "*" if row["low"] > 0 or row["high"] < 0 else " "
        first = row["variant"] == rows[0]["variant"]
        line[f"gain@{row['alpha']:g}"] = "" if first else f"{row['gain']:+.1f}{sure}"
    return list(lines.values())

"""What a change of one factor does to PCK: every variant against the default, paired."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.report.predictions import COPY, predictions
from distcorr.report.tables import Score, per_cent, scores

MEAN = "mean"
ENOUGH = 10  # targets per category below which no interval is trusted; not in the paper


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
        rows with variant, point, method, alpha, value; gain over the first, low, high and n.
        Copying has a row only where it changes, or nothing does.
    """
    rows = []
    base = scored[0][2]
    for number, (name, point, methods) in enumerate(scored):
        gains = {m: value - base[m] for m, value in methods.items() if m in base}
        moved = {m for m, gain in gains.items() if gain.samples.any() or gain.value.any()}
        for method, gain in gains.items():
            if number and moved and method == COPY and COPY not in moved:
                continue  # how flows are made has no bearing on copying
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


@dataclass(frozen=True)
class Ablation:
    """A comparison of variants, and what its numbers rest on.

    Attributes:
        rows: of ``compare``.
        weights: which network weights made the numbers.
        data: which photographs.
        targets: at most so many targets per category; 0 for all.
        level: of the intervals.
        settings: what differs from the run's preset, for all variants alike.
    """

    rows: list[dict[str, Any]]
    weights: str
    data: str
    targets: int
    level: float
    settings: list[str]

    def to_json(self) -> str:
        """All of it; equal runs give equal text."""
        return json.dumps(vars(self), indent=1) + "\n"

    def to_csv(self) -> str:
        """The rows, with the stamp in every row so that it cannot be lost."""
        stamp = {name: value for name, value in vars(self).items() if name != "rows"}
        stamp["settings"] = "; ".join(self.settings)
        out = io.StringIO()
        writer = csv.DictWriter(out, [*self.rows[0], *stamp], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | stamp for row in self.rows)
        return out.getvalue()

    @property
    def notes(self) -> list[str]:
        """What a reader must know before quoting a number."""
        count = sum(1 for row in self.rows if row["gain"] or row["low"] or row["high"])
        said = [
            f"Gains over the first row, in points; * where the paired {100 * self.level:g} % "
            f"interval excludes 0 ({count} comparisons, not corrected for their number).",
            f"At most {self.targets} targets per category." if self.targets else "All targets.",
        ]
        if not self.may_be_sure:
            said.append(f"No *: intervals by photograph want {ENOUGH} targets per category.")
        if self.settings:
            said.append(f"All with {'; '.join(self.settings)}.")
        return said

    @property
    def may_be_sure(self) -> bool:
        """Whether there are enough photographs for an interval to say something."""
        return not self.targets or self.targets >= ENOUGH

    def wide(self) -> list[dict[str, Any]]:
        """For people: a row for each variant and method; * marks an interval that excludes 0."""
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.rows:
            key = row["variant"], row["method"]
            line = lines.setdefault(key, {k: row[k] for k in ("variant", "point", "method")})
            line[f"@{row['alpha']:g}"] = f"{row['value']:.1f}"
        for row in self.rows:
            line = lines[row["variant"], row["method"]]
            sure = self.may_be_sure and (row["low"] > 0 or row["high"] < 0)
            first = row["variant"] == self.rows[0]["variant"]
            text = f"{row['gain']:+.1f}{'*' if sure else ' '}"
            line[f"gain@{row['alpha']:g}"] = "" if first else text
        return list(lines.values())


def save(ablation: Ablation, run: Run, name: str) -> list[str]:
    """Write ``report/NAME.json`` and ``.csv``; returns their names."""
    contents = {
        f"report/{name}.json": ablation.to_json(),
        f"report/{name}.csv": ablation.to_csv(),
    }
    for path, text in contents.items():
        run.folder.write(path, text.encode())
    return list(contents)

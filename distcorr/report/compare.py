"""Two runs beside each other: how their settings differ, and how both do on the same keypoints."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from distcorr.config import Config, EvaluationConfig, difference
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import charts, comparison, counting
from distcorr.report.answers import answers
from distcorr.report.score import MEAN
from distcorr.report.tables import Report, build

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[dict[str, Any]]
HERE, THERE = "here", "there"
_TABLES = ("table2", "table3", "table4")
_ALL = "all"  # stands for every keypoint type where types do not count
_KEY = ("category", "instance", "keypoint")
_NEAR = 0.01  # px; the same annotation, as read by two versions


@dataclass(frozen=True)
class Compared:
    """What two runs have in common, and what not.

    Attributes:
        here: the run that is looked at.
        there: the one that it is compared with.
        settings: lines ``flow.beta: there -> here`` of what differs.
        rows: per table: PCK of every method of either run (``table2``, ``table4``), or accuracy
            (``table3``, without alpha), and paired differences, here minus there
            (``table2-comparison``), as in ``comparison.paired``.
        notes: what a reader must know.
        level: of the intervals.
    """

    here: str
    there: str
    settings: list[str]
    rows: Rows
    notes: list[str]
    level: float
    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def to_json(self) -> str:
        """As JSON; equal runs give equal text."""
        return json.dumps(vars(self), indent=1, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """The rows as CSV."""
        out = io.StringIO()
        names = dict.fromkeys(name for row in self.rows for name in row)
        writer = csv.DictWriter(out, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return out.getvalue()


def compare(here: Run, there: Run, evaluation: EvaluationConfig | None = None) -> Compared:
    """Compare the PCKs and accuracies of two runs, photograph by photograph.

    Only keypoints that both have predicted, or classified, with the same annotation, are scored: so
    two networks or settings on one data set, and not two data sets.

    Args:
        here: with a finished transfer, classify or detect.
        there: likewise.
        evaluation: for both, in place of the first one's own.

    Raises:
        DistcorrError: they have no keypoint in common, or one has nothing to report.
    """
    configs = here.config(), there.config()
    evaluation = evaluation or (configs[0].evaluation if configs[0] else EvaluationConfig())
    reports = build(here, evaluation), build(there, evaluation)
    settings = _differing(*configs, evaluation)
    seed = configs[0].seed if configs[0] else 0
    rows: Rows = []
    notes = _stamps(reports)
    if configs[1] and configs[1].evaluation != evaluation:
        notes.append(
            "Both runs are combined and scored by the first one's evaluation settings, or those "
            "given; the other's own report has its own."
        )
    pairs: dict[str, list[tuple[str, str]]] = {}
    for table in _TABLES:
        both = [
            _predictions(table, run, report, evaluation)
            for run, report in zip((here, there), reports, strict=True)
        ]
        if both[0] is None or both[1] is None:
            notes.append(f"{table} is compared if both runs have it, which is not so.")
            continue
        joined, lost = _joined(both[0], both[1])
        if lost:
            notes.append(f"{table}: {lost:,} keypoints that only one of the runs has are left out.")
        if not joined.num_rows:
            continue
        pairs[table] = _pairs(*(_methods(each) for each in both))
        found, said = _compared(table, joined, pairs[table], evaluation, seed)
        rows += found
        notes += said
    if not rows:
        raise DistcorrError(
            f"{here} and {there} have no predicted keypoint in common. {' '.join(notes)}",
            "compare runs of one data set, both with a finished transfer, classify or detect",
        )
    names = str(here), str(there)
    return Compared(*names, settings, rows, list(dict.fromkeys(notes)), evaluation.level, pairs)


def _predictions(
    table: str, run: Run, report: Report, evaluation: EvaluationConfig
) -> pa.Table | None:
    """What a table is counted from, as rows of ``PREDICTIONS``."""
    if table == "table3":
        stage = run.finished("classify")
        return answers(stage, evaluation) if stage else None
    return report.predictions if table == "table2" else report.detections


def _compared(
    table: str,
    joined: pa.Table,
    pairs: list[tuple[str, str]],
    evaluation: EvaluationConfig,
    seed: int,
) -> tuple[Rows, list[str]]:
    """Rows of both runs and of their differences, and notes."""
    measure = ""
    if table == "table3":  # all keypoints of a category together, as there
        names = pa.array([_ALL] * joined.num_rows, pa.string())
        joined = joined.set_column(joined.schema.get_field_index("keypoint"), "keypoint", names)
        evaluation = dataclasses.replace(evaluation, alphas=(1.0,), inclusive=True)
        measure = "accuracy"
    scores, said = counting.scores(joined, evaluation, seed)
    rows = [
        row
        for (method, category), score in scores.items()
        for row in counting.rows(table, method, category, score, evaluation)
    ]
    more, about = comparison.paired(joined, pairs, evaluation, seed, table, measure)
    rows += more
    if table == "table3":
        thin = counting.few(counting.photographs_of(joined))
        return [{k: v for k, v in row.items() if k != "alpha"} for row in rows], thin + about
    return rows, said + about


def save(compared: Compared, run: Run) -> list[str]:
    """Write ``report/compare.json``, ``.csv``, and the bars; returns their names."""
    run.folder.write("report/compare.json", compared.to_json().encode())
    run.folder.write("report/compare.csv", compared.to_csv().encode())
    return ["report/compare.json", "report/compare.csv", *figure(compared, run)]


def figure(compared: Compared, run: Run) -> list[str]:
    """Bars of both runs with intervals: by category, a panel for each pair of methods; of Table 3
    the means, layer by layer.
    """
    panels = [
        panel
        for table, pairs in compared.pairs.items()
        for panel in (_by_layer if table == "table3" else _by_category)(compared, table, pairs)
    ]
    drawn = charts.blank(8, 2.6 * len(panels))
    axes = drawn.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, axis in zip(panels, axes, strict=True):
        _bars(axis, panel)
    return charts.save(run, "compare", drawn)


class _Panel(NamedTuple):
    """Bars of two methods or runs: name of each -> what stands below the axis -> row."""

    title: str
    bars: dict[str, dict[str, dict[str, Any]]]


def _by_category(
    compared: Compared, table: str, pairs: Sequence[tuple[str, str]]
) -> Iterator[_Panel]:
    rows = [row for row in compared.rows if row["table"] == table]
    first = [row for row in rows if row["alpha"] == rows[0]["alpha"]]
    for pair in pairs:
        bars = {
            name: {row["category"]: row for row in first if row["method"] == name} for name in pair
        }
        yield _Panel(f"{table}: PCK@{rows[0]['alpha']:g}, per cent", bars)


def _by_layer(compared: Compared, table: str, pairs: Sequence[tuple[str, str]]) -> Iterator[_Panel]:
    means = {r["method"]: r for r in compared.rows if (r["table"], r["category"]) == (table, MEAN)}
    bars = {
        which: {pair[n].removesuffix(f" ({which})"): means[pair[n]] for pair in pairs}
        for n, which in enumerate((HERE, THERE))
    }
    yield _Panel(f"{table}: accuracy, mean over categories, per cent", bars)


def _bars(axis: Axes, panel: _Panel) -> None:
    names = list(dict.fromkeys(name for rows in panel.bars.values() for name in rows))
    for n, (label, rows) in enumerate(panel.bars.items()):
        shown = [(place, rows[name]) for place, name in enumerate(names) if name in rows]
        at = np.array([place for place, _ in shown]) + 0.4 * n - 0.2
        value, low, high = (
            np.array([row[k] for _, row in shown]) for k in ("value", "low", "high")
        )
        spread = np.stack([value - low, high - value]).clip(0)
        colour = charts.colour_of(n, 2)
        axis.bar(at, value, 0.38, yerr=spread, label=label, color=colour, error_kw={"lw": 1})
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set_ylim(0, 100)
    axis.set_title(panel.title, fontsize=9, loc="left")
    axis.legend(fontsize=7, loc="lower right")


def _differing(here: Config | None, there: Config | None, by: EvaluationConfig) -> list[str]:
    """Settings in which the runs differ; both are evaluated alike."""
    if here is None or there is None:
        return []
    return difference(replace(there, evaluation=by), replace(here, evaluation=by))


def _stamps(reports: Sequence[Report]) -> list[str]:
    here, there = reports
    return [
        f"{what} differ: {one} {HERE}, {other} {THERE}."
        for what, one, other in (
            ("Weights", here.weights, there.weights),
            ("Data", here.data, there.data),
        )
        if one != other
    ]


def _methods(predictions: pa.Table) -> list[str]:
    return list(dict.fromkeys(predictions["method"].to_pylist()))


def _pairs(here: Sequence[str], there: Sequence[str]) -> list[tuple[str, str]]:
    """Methods of one name; then, in order, those that only one of the runs has."""
    alone = [m for m in here if m not in there], [m for m in there if m not in here]
    pairs = [(m, m) for m in here if m in there] + list(zip(*alone, strict=False))
    return [(f"{one} ({HERE})", f"{other} ({THERE})") for one, other in pairs]


def _joined(here: pa.Table, there: pa.Table) -> tuple[pa.Table, int]:
    """Both runs' predictions of the keypoints that both have; and how many keypoints are left out.

    Where a method has no prediction its row is there all the same, and counts as wrong.
    """
    truths = [_truths(table) for table in (here, there)]
    common = {
        key
        for key in truths[0].keys() & truths[1].keys()
        if np.allclose(truths[0][key], truths[1][key], rtol=0, atol=_NEAR)
    }
    kept = []
    for table, which in ((here, HERE), (there, THERE)):
        keys = zip(*(table[name].to_pylist() for name in _KEY), strict=True)
        part = table.filter(pa.array([key in common for key in keys], pa.bool_()))
        names = pa.array([f"{m} ({which})" for m in part["method"].to_pylist()], pa.string())
        kept.append(part.set_column(part.schema.get_field_index("method"), "method", names))
    return pa.concat_tables(kept), len(truths[0].keys() | truths[1].keys()) - len(common)


def _truths(table: pa.Table) -> dict[tuple[str, ...], tuple[float, ...]]:
    columns = (table[name].to_pylist() for name in (*_KEY, "true_x", "true_y", "scale"))
    return {row[:3]: row[3:] for row in zip(*columns, strict=True)}

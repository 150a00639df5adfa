"""Table 2 by hand, and the report of all stages that have finished."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import counting, dialects, tables
from distcorr.report.predictions import PREDICTIONS, combine, finished
from distcorr.report.tables import Report, table2
from distcorr.terminal import print_report

COLUMNS = ("table", "method", "category", "alpha", "value", "low", "high", "n")
CONFIG = EvaluationConfig(alphas=(0.1, 0.05), resamples=200)


def predictions(*rows: tuple[str, str, str, str, float | None, float]) -> pa.Table:
    """(method, category, image, keypoint, error in px or None, scale) -> a predictions table."""
    table: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for method, category, image, keypoint, error, scale in rows:
        values = (method, category, image + "#0", image, keypoint)
        values += (None, None) if error is None else (7.0 + error, 11.0)
        for name, value in zip(PREDICTIONS.names, (*values, 7.0, 11.0, scale), strict=True):
            table[name].append(value)
    return pa.table(table, schema=PREDICTIONS)


TABLE = predictions(
    # bird: eye 1 of 2 within 10 px and 0 of 2 within 5; tail 1 of 1 within both -> 75 and 50 %
    ("flow", "bird", "a", "eye", 9.0, 100.0),
    ("flow", "bird", "b", "eye", 11.0, 100.0),
    ("flow", "bird", "b", "tail", 1.0, 100.0),
    ("NN transfer", "bird", "a", "eye", 50.0, 100.0),
    ("NN transfer", "bird", "b", "eye", None, 100.0),
    ("NN transfer", "bird", "b", "tail", 10.0, 100.0),
    # cow: on the threshold counts; a smaller box has a smaller threshold
    ("flow", "cow", "c", "horn", 3.0, 30.0),
    ("NN transfer", "cow", "c", "horn", 3.5, 30.0),
)


FEW = (
    "Intervals are too narrow with fewer than 20 photographs (in a trial, those of 95 % covered "
    "88 % with 10, and 72 % with 3): cow (1), bird (2). One photograph has no interval: both ends "
    "are its value."
)


def value(rows: list[dict[str, Any]], table: str, method: str, category: str, alpha: float) -> Any:
    keys = {"table": table, "method": method, "category": category, "alpha": alpha}
    (row,) = (r for r in rows if keys.items() <= r.items())
    return row


def test_by_hand() -> None:
    rows, notes = table2(TABLE, CONFIG, seed=1)
    expected = {
        ("flow", "bird", 0.1): 75,
        ("flow", "bird", 0.05): 50,
        ("NN transfer", "bird", 0.1): 50,
        ("NN transfer", "bird", 0.05): 0,
        ("flow", "cow", 0.1): 100,
        ("flow", "cow", 0.05): 0,
        ("NN transfer", "cow", 0.1): 0,
        ("flow", "mean", 0.1): 87.5,
        ("NN transfer", "mean", 0.1): 25,
    }
    for (method, category, alpha), wanted in expected.items():
        assert value(rows, "table2", method, category, alpha)["value"] == wanted
    gain = value(rows, "table2-gain", "flow minus NN transfer", "mean", 0.1)
    assert gain["value"] == 62.5
    assert value(rows, "table2", "flow", "bird", 0.1)["n"] == 3
    assert value(rows, "table2", "flow", "mean", 0.1)["n"] == 4
    assert notes == [FEW]


def test_few_photographs_are_one_note() -> None:
    assert counting.photographs_of(TABLE) == {"bird": 2, "cow": 1}
    assert counting.few({"bird": 20, "cow": 100}) == []
    (note,) = counting.few({"bird": 19, "cow": 20})
    assert note.endswith("72 % with 3): bird (19).")
    (note,) = counting.few({f"c{n:02d}": 10 for n in range(20)})
    assert note.endswith("c00 (10), c01 (10), c02 (10), c03 (10), c04 (10) and 15 more.")


def test_gains_compare_every_flow_with_copying_and_the_first_two() -> None:
    other = predictions(
        ("SIFT flow", "bird", "a", "eye", 50.0, 100.0),
        ("SIFT flow", "bird", "b", "eye", 2.0, 100.0),
        ("SIFT flow", "bird", "b", "tail", 10.0, 100.0),
        ("SIFT flow", "cow", "c", "horn", 3.5, 30.0),
    )
    flows = TABLE.filter(pa.array([m == "flow" for m in TABLE["method"].to_pylist()]))
    copying = TABLE.filter(pa.array([m != "flow" for m in TABLE["method"].to_pylist()]))
    rows, _ = table2(pa.concat_tables([flows, other, copying]), CONFIG, 1)
    gains = [row for row in rows if row["table"] == "table2-gain"]
    assert list(dict.fromkeys(row["method"] for row in gains)) == [
        "flow minus NN transfer",
        "SIFT flow minus NN transfer",
        "flow minus SIFT flow",
    ]
    paired = value(rows, "table2-gain", "flow minus SIFT flow", "bird", 0.1)
    assert paired["value"] == 0
    # Drawn alone, photograph a favours the one by 100 and b the other by 50 (its tail is equal).
    assert (paired["low"], paired["high"]) == (-50, 100)
    paired = value(rows, "table2-gain", "flow minus SIFT flow", "mean", 0.1)
    assert paired["value"] == 50  # 0 for birds, 100 for cows


def test_every_row_has_the_columns_and_intervals_hold_the_value() -> None:
    rows, _ = table2(TABLE, CONFIG, seed=1)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    assert any(row["low"] < row["high"] for row in rows)


def test_the_order_of_rows_and_shards_changes_nothing() -> None:
    order = np.random.default_rng(3).permutation(5)
    shuffled = pa.concat_tables([TABLE.slice(0, 3).take(order[order < 3]), TABLE.slice(3)])
    assert table2(shuffled, CONFIG, 1) == table2(TABLE, CONFIG, 1)


def test_a_type_that_nothing_predicts_is_noted_and_counts_zero() -> None:
    more = predictions(
        ("flow", "cow", "c", "hoof", None, 30.0), ("NN transfer", "cow", "c", "hoof", None, 30.0)
    )
    rows, notes = table2(pa.concat_tables([TABLE, more]), CONFIG, 1)
    assert notes == [FEW, "cow: no prediction at all for hoof; they count 0."]
    assert value(rows, "table2", "flow", "cow", 0.1)["value"] == 50


@pytest.mark.parametrize(("inclusive", "wanted"), [(True, 100), (False, 0)])
def test_inclusive_decides_exact_ties(inclusive: bool, wanted: float) -> None:
    config = EvaluationConfig(alphas=(0.1,), resamples=10, inclusive=inclusive)
    rows, _ = table2(TABLE, config, 1)
    assert value(rows, "table2", "flow", "cow", 0.1)["value"] == wanted


def test_json_and_csv_carry_the_stamp() -> None:
    rows, _ = table2(TABLE, CONFIG, 1)
    report = Report(rows, "the weights", "the data", ["a note"], 0.9)
    parsed = json.loads(report.to_json())
    assert parsed["rows"] == rows
    assert (parsed["weights"], parsed["data"]) == ("the weights", "the data")
    assert parsed["level"] == 0.9
    lines = list(csv.DictReader(io.StringIO(report.to_csv("table2"))))
    assert len(lines) == sum(row["table"] == "table2" for row in rows)
    assert {line["weights"] for line in lines} == {"the weights"}
    assert float(lines[0]["value"]) == rows[0]["value"]


# -- a whole run -------------------------------------------------------------------------------


def unfinish(folder: Path, *stages: str) -> Run:
    for stage in stages:
        (marker,) = (folder / stage).glob("*/_done.json")
        marker.unlink()
    return Run(str(folder))


def of(report: Report, *names: str) -> list[dict[str, Any]]:
    return [row for row in report.rows if row["table"] in names]


OTHERS = ("table4", "mining", "figure1", "figure2")  # sections 5 and 2


def test_every_finished_stage_contributes(copy: Path) -> None:
    report = tables.build(Run(str(copy)))
    of_gains = ("comparison", "errors", "slices", "dialects", "dialects-gap")
    kept = ("table2", "table2-gain", *(f"table2-{name}" for name in of_gains))
    answers = ("table3", "table3-macro", "figure5", "confusion")  # no SIFT, so no gain
    found = [n for n in report.tables if n != "figure4" and not n.startswith(OTHERS)]
    assert found == [*kept, *answers]
    assert {"table4", "table4-gain", "mining", "figure1", "figure2"} <= set(report.tables)
    assert report.predictions is not None
    assert not any("unfinished or out of date" in note for note in report.notes)
    assert len(set(report.notes)) == len(report.notes)
    few = [note for note in report.notes if note.startswith("Intervals are too narrow")]
    assert len(few) == 1
    (said,) = (note for note in report.notes if "(distcorr pck)" in note)
    assert "by 18 definitions, 15 of them different, 2 of those variants of ours" in said
    names = tables.save(report, Run(str(copy)))
    saved = ["tables.json", "predictions.parquet", "predictions-detect.parquet"]
    assert names[:3] == [f"report/{name}" for name in saved]
    assert names[3:] == [f"report/{name}.csv" for name in report.tables]

    section3 = tables.build(unfinish(copy, "classify"))
    others = [n for n in report.tables if n.startswith(OTHERS)]
    assert section3.tables == [*kept, *others]
    assert section3.rows == of(report, *kept, *others)
    assert set(section3.notes) - set(report.notes) == {
        "Table 3 and Figure 5 left out: classify is unfinished or out of date, distcorr classify "
        "mends it.",
        "Figure 4 left out: responses is unfinished or out of date, distcorr responses mends it.",
    }
    assert set(tables.build(unfinish(copy, "transfer")).tables) == set(others)
    unfinish(copy, "detect")
    with pytest.raises(DistcorrError, match="finished and up to date") as caught:
        tables.build(unfinish(copy, "visualize"))
    assert "distcorr transfer or distcorr classify" in caught.value.hint
    assert "another version of distcorr" in caught.value.hint
    (copy / "config.toml").unlink()
    with pytest.raises(DistcorrError, match=r"up to date: there is no config\.toml"):
        tables.build(Run(str(copy)))


def test_a_number_that_does_not_depend_on_its_definition_has_no_note(copy: Path) -> None:
    run = Run(str(copy))
    made = finished(run)
    asked = made.store, run, EvaluationConfig(resamples=5), 1
    found = combine(made)
    perfect = found
    for name in ("x", "y"):
        at = perfect.schema.get_field_index(name)
        perfect = perfect.set_column(at, name, found[f"true_{name}"])
    notes = {table is found: dialects.of_run(table, *asked)[1] for table in (found, perfect)}
    assert [len(of) for of in (notes[True], notes[False])] == [1, 0]


def test_section_4_alone(copy: Path) -> None:
    report = tables.build(Run(str(copy)))
    alone = tables.build(unfinish(copy, "transfer"))
    assert alone.rows == [row for row in report.rows if not row["table"].startswith("table2")]
    assert (alone.weights, alone.data) == (report.weights, report.data)
    assert alone.predictions is None
    assert not any(note.startswith("Flow by") for note in alone.notes)
    assert any(note.startswith("Table 2 left out: transfer is") for note in alone.notes)
    names = tables.save(alone, Run(str(copy)))
    assert "report/predictions.parquet" not in names


def test_another_evaluation_reaches_every_table(copy: Path) -> None:
    report = tables.build(Run(str(copy)), EvaluationConfig(resamples=5, keep=1, c=1e-6))
    rows = of(report, "table3")
    assert {row["c"] for row in rows} == {1e-6, None}
    assert any("C 1e-06." in note for note in report.notes)
    assert any("1 at most" in note for note in report.notes)


def test_columns_of_a_csv_are_those_of_its_table(copy: Path) -> None:
    report = tables.build(Run(str(copy)))
    measured = ["value", "low", "high", "n", "weights", "data"]
    wanted = {
        "table2": ["table", "method", "category", "alpha", *measured],
        "table3": ["table", "method", "category", "c", *measured],
        "figure5": ["table", "layer", "category", "c", *measured],
        "confusion": ["table", "layer", "category", "c", "truth", "predicted", "count"],
    }
    for name, columns in wanted.items():
        lines = list(csv.reader(io.StringIO(report.to_csv(name))))
        assert lines[0][: len(columns)] == columns
        assert lines[0][-2:] == ["weights", "data"]
        assert len(lines) == 1 + len(of(report, name))
    assert json.loads(report.to_json())["rows"] == report.rows


def accuracies(**values: float) -> list[dict[str, Any]]:
    """Rows of Table 3, ``layer_category=value``."""
    return [
        {"table": "table3", "method": name.split("_")[0], "category": name.split("_")[1]}
        | {"c": 1e-6, "value": value, "low": value - 1, "high": value + 1, "n": 4}
        for name, value in values.items()
    ]


def test_table_3_as_people_see_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = accuracies(
        **{"conv1_bird": 20.04, "conv1_cat": 70, "conv1_mean": 45},
        **{"conv4_bird": 60, "conv4_cat": 69.96, "conv4_mean": 65},
        **{"sift20_bird": 50, "sift20_cat": 40, "sift20_mean": 45},
    )
    gain = {"method": "conv4 minus sift20", "category": "mean", "low": 1.0, "high": 30.0}
    rows.append({"table": "table3-gain", "value": 20.0, "n": 8} | gain)
    report = Report(rows, "the weights [a]", "the data", ["see [1]"], 0.9)
    print_report(report)
    plain = capsys.readouterr().out
    lines = plain.splitlines()
    assert lines[1].split() == ["bird", "cat", "mean"]
    assert [line.split() for line in lines[2:5]] == [
        ["conv1", "20.0", "70.0", "45.0"],
        ["conv4", "60.0", "70.0", "65.0"],
        ["sift20", "50.0", "40.0", "45.0"],
    ]
    assert len({len(line) for line in lines[1:5]}) == 1
    assert "the mean with its 90 % interval by photograph:" in plain
    assert re.search(r"conv4 +65\.0 \[64\.0, 66\.0\] +C 1e-06", plain)
    assert re.search(r"conv4 minus sift20 +20\.0 \[1\.0, 30\.0\]$", plain, re.MULTILINE)
    assert "weights: the weights [a]" in plain
    assert "note:    see [1]" in plain
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    print_report(report)
    shown = capsys.readouterr().out
    bold = [re.findall(r"\x1b\[1m([\d.]+)\x1b", line) for line in shown.splitlines()[2:5]]
    assert bold == [["70.0"], ["60.0", "70.0", "65.0"], ["50.0", "40.0", "45.0"]]  # ties: both


def test_twenty_categories_are_in_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    categories = [f"category{n:02d}" for n in range(20)]
    values = {f"conv4_{category}": float(n) for n, category in enumerate(categories)}
    print_report(Report(accuracies(**values, conv4_mean=9.5), "w", "d", [], 0.95))
    out = capsys.readouterr().out
    table = out[: out.index("the mean with")]
    assert max(map(len, table.splitlines())) <= 80
    assert re.findall(r"category\d\d|\bmean\b", table) == [*categories, "mean"]
    assert re.findall(r"\d+\.\d", table) == [f"{n}.0" for n in range(20)] + ["9.5"]


def test_a_terminal_shows_the_first_notes(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (0, 5, 6, 30):
        notes = [f"said {n}" for n in range(count)]
        print_report(Report(accuracies(conv4_mean=9.5), "w", "d", notes, 0.95))
        shown = re.findall(r"^note: +(.*)$", printed := capsys.readouterr().out, re.MULTILINE)
        assert shown == notes[:5]
        more = re.findall(
            r"^notes: +(\d+) more in report/index.html and tables.json", printed, re.M
        )
        assert more == ([str(count - 5)] if count > 5 else [])

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distcorr.config import EvaluationConfig
from distcorr.report.predictions import PREDICTIONS
from distcorr.report.tables import COLUMNS, Report, table2

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
    assert notes == []


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
    assert notes == ["cow: no prediction at all for hoof; they count 0."]
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

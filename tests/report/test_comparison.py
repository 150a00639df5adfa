"""Statistics of saved predictions by hand, and against Table 2 of the same predictions."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distcorr.algorithms import comparison as tests_of
from distcorr.config import EvaluationConfig
from distcorr.report import comparison
from distcorr.report.predictions import PREDICTIONS
from distcorr.report.tables import Report, table2

CONFIG = EvaluationConfig(alphas=(0.1, 0.05), resamples=100)
TYPES = {"bird": ("L_Eye", "R_Eye", "Beak"), "cow": ("Left_Horn", "Right_Horn"), "bus": ("Door",)}
METHODS = ("flow", "SIFT flow", "NN transfer")
PAIRS = [("flow", "NN transfer"), ("SIFT flow", "NN transfer"), ("flow", "SIFT flow")]
Row = dict[str, Any]


def drawn(
    seed: int = 0,
    photographs: int = 30,
    missing: float = 0.05,
    spread: tuple[float, ...] = (6.0, 20.0, 12.0),
) -> pa.Table:
    """Predictions of three methods in three categories; photographs show one or two instances."""
    rng = np.random.default_rng(seed)
    found = []
    for category, types in TYPES.items():
        for image in rng.choice(2 * photographs, photographs, replace=False):
            for number in range(int(rng.integers(1, 3))):
                scale = float(rng.integers(60, 300))
                for keypoint in types:
                    if rng.random() < 0.2:
                        continue
                    true = rng.integers(0, int(scale), 2)
                    for method, px in zip(METHODS, spread, strict=True):
                        at = true + rng.normal(0, px, 2)
                        x, y = (None, None) if rng.random() < missing else at.tolist()
                        found.append(
                            {"method": method, "category": category, "keypoint": keypoint}
                            | {"instance": f"{image}#{category}{number}", "image": f"{image}.jpg"}
                            | {"x": x, "y": y, "true_x": true[0], "true_y": true[1]}
                            | {"scale": scale}
                        )
    return table(found)


def table(found: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(found, PREDICTIONS)


def made(
    predictions: pa.Table, pairs: list[tuple[str, str]] = PAIRS, config: EvaluationConfig = CONFIG
) -> tuple[list[Row], list[str]]:
    return comparison.rows(predictions, pairs, config, 2014, "table2")


def only(rows: list[Row], **keys: Any) -> Row:
    (row,) = (r for r in rows if keys.items() <= r.items())
    return row


@pytest.fixture(scope="module")
def predictions() -> pa.Table:
    return drawn()


@pytest.fixture(scope="module")
def both(predictions: pa.Table) -> tuple[list[Row], list[str]]:
    return made(predictions)


# -- differences -------------------------------------------------------------------------------


def test_differences_are_the_gains_of_table_2(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    gains, _ = table2(predictions, CONFIG, 2014)
    expected = [r | {"table": "table2-comparison"} for r in gains if r["table"] == "table2-gain"]
    assert comparison.pairs(gains) == PAIRS
    found = [row for row in both[0] if row["table"] == "table2-comparison"]
    names = tuple(expected[0])
    assert [{name: row[name] for name in names} for row in found] == expected
    assert tuple(found[0]) == (*names, "photographs", "p", "p_holm", "mdd")


def test_p_by_brute_force_and_holm() -> None:
    """Two photographs of birds, one of them of a cow as well: all swaps by hand."""
    # 100 px boxes: an error of 0 is right, one of 50 is wrong.
    errors = {
        # category, image, keypoint: errors of the two methods
        ("bird", "a", "beak"): (0, 50),
        ("bird", "b", "beak"): (0, 50),
        ("bird", "b", "tail"): (0, 0),
        ("cow", "a", "horn"): (0, 50),
        ("cow", "c", "horn"): (50, 0),
        ("cow", "d", "horn"): (0, 50),
    }
    predictions = table(
        [
            {"method": method, "category": category, "instance": image + category, "image": image}
            | {"keypoint": keypoint, "x": 7.0 + error, "y": 9.0, "true_x": 7.0, "true_y": 9.0}
            | {"scale": 100.0}
            for (category, image, keypoint), both in errors.items()
            for method, error in zip(("one", "other"), both, strict=True)
        ]
    )
    rows, notes = made(predictions, [("one", "other")])
    bird, cow, mean = (
        only(rows, table="table2-comparison", category=c, alpha=0.1)
        for c in ("bird", "cow", "mean")
    )
    # bird: 1/4 + 1/4 is reached by 2 of 4 signs. cow: 1/3 - 1/3 + 1/3 by all 8.
    assert (bird["value"], bird["p"], bird["p_holm"], bird["photographs"]) == (50, 0.5, 1, 2)
    assert (cow["value"], cow["p"], cow["p_holm"], cow["photographs"]) == (33.33, 1, 1, 3)
    # a adds (1/4 + 1/3) / 2, b 1/8, c -1/6, d 1/6: of 24ths 7, 3, -4, 4, together 10.
    reached = sum(
        abs(7 * a + 3 * b - 4 * c + 4 * d) >= 10
        for a in (1, -1)
        for b in (1, -1)
        for c in (1, -1)
        for d in (1, -1)
    )
    assert (mean["value"], mean["p"], mean["photographs"]) == (41.67, reached / 16, 4)
    assert mean["p_holm"] is None
    assert "Of 2 categories, after Holm's correction: more in none; less in none." in notes[1]


def test_what_is_sure_is_said(both: tuple[list[Row], list[str]]) -> None:
    rows, notes = both
    row = only(rows, method="flow minus SIFT flow", category="mean", alpha=0.1)
    assert row["p"] == 0.0001
    assert row["photographs"] > 30
    for category in TYPES:
        assert only(rows, method=row["method"], category=category, alpha=0.1)["p_holm"] < 0.05
    (said,) = (note for note in notes if note.startswith("flow minus SIFT flow, PCK@0.1: "))
    assert f"{row['value']:+g} in the mean" in said
    assert said.endswith("more in bird, bus, cow; less in none.")
    (said,) = (note for note in notes if note.startswith("SIFT flow minus NN transfer"))
    assert "more in none; less in " in said
    assert sum("permutation test" in note for note in notes) == 1


def test_holm_is_over_the_categories_of_a_pair_and_threshold(
    both: tuple[list[Row], list[str]],
) -> None:
    compared = [row for row in both[0] if row["table"] == "table2-comparison"]
    for one, other in PAIRS:
        for alpha in CONFIG.alphas:
            own = [
                row
                for row in compared
                if row["method"] == f"{one} minus {other}"
                and row["alpha"] == alpha
                and row["category"] != "mean"
            ]
            expected = tests_of.holm([row["p"] for row in own])
            assert [row["p_holm"] for row in own] == pytest.approx(expected, abs=1e-4)


def test_a_pair_is_the_same_whatever_else_is_compared(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    rows, _ = made(predictions, PAIRS[2:])
    expected = [r for r in both[0] if r["table"] != "table2-comparison"]
    expected += [r for r in both[0] if r["method"] == "flow minus SIFT flow"]
    key = str
    assert sorted(rows, key=key) == sorted(expected, key=key)


def test_methods_of_which_one_lacks_a_category_or_keypoints(predictions: pa.Table) -> None:
    found = predictions.to_pylist()
    first = next(r for r in found if (r["method"], r["category"]) == ("flow", "bird"))
    kept = [
        r for r in found if (r["method"], r["category"]) != ("SIFT flow", "cow") and r is not first
    ]
    rows, notes = made(table(kept))
    compared = [r for r in rows if r["table"] == "table2-comparison"]
    by = {pair: {r["category"] for r in compared if r["method"] == pair} for pair in ALL}
    assert by == {
        "flow minus NN transfer": {"bus", "cow", "mean"},
        "SIFT flow minus NN transfer": {"bird", "bus", "mean"},
        "flow minus SIFT flow": {"bus", "mean"},
    }
    same = only(compared, method="flow minus SIFT flow", category="mean", alpha=0.1)
    bus = only(compared, method="flow minus SIFT flow", category="bus", alpha=0.1)
    assert (same["value"], same["n"]) == (bus["value"], bus["n"])
    assert notes[:2] == [
        "bird: flow and NN transfer predict different keypoints: not compared.",
        "bird: flow and SIFT flow predict different keypoints: not compared.",
    ]


ALL = [f"{one} minus {other}" for one, other in PAIRS]


# -- errors and sizes --------------------------------------------------------------------------


def test_correct_is_the_pck_of_table_2(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    expected, _ = table2(predictions, CONFIG, 2014)
    errors = [row for row in both[0] if row["table"] == "table2-errors"]
    for method in METHODS:
        for category in (*TYPES, "mean"):
            own = [r for r in errors if (r["method"], r["category"]) == (method, category)]
            assert [r["error"] for r in own] == [
                *("correct", "jitter", "left/right swap", "other keypoint", "miss"),
                "no prediction",
            ]
            assert sum(r["value"] for r in own) == pytest.approx(100, abs=0.04)
            assert {r["alpha"] for r in own} == {0.1}
            of = only(expected, table="table2", method=method, category=category, alpha=0.1)
            assert {n: own[0][n] for n in ("value", "low", "high", "n")} == {
                n: of[n] for n in ("value", "low", "high", "n")
            }


def test_eyes_taken_for_each_other() -> None:
    true = {"L_Eye": (10.0, 10.0), "R_Eye": (90.0, 10.0), "Nose": (50.0, 80.0)}
    asked = {"L_Eye": "R_Eye", "R_Eye": "Nose", "Nose": "Nose"}
    predictions = table(
        [
            {"method": "m", "category": "cat", "instance": "i", "image": "p", "keypoint": name}
            | {"x": true[asked[name]][0], "y": true[asked[name]][1]}
            | {"true_x": x, "true_y": y, "scale": 100.0}
            for name, (x, y) in true.items()
        ]
    )
    rows, _ = made(predictions, [])
    shares = {r["error"]: r["value"] for r in rows if r.get("error") and r["category"] == "cat"}
    assert {kind for kind, share in shares.items() if share == 33.33} == {
        *("correct", "left/right swap", "other keypoint")
    }


def test_sizes_are_thirds_of_all_instances(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    scale = {r["instance"]: r["scale"] for r in predictions.to_pylist()}
    ordered = sorted(scale.values())
    edges = [ordered[-(-len(ordered) * k // 3) - 1] for k in (1, 2)]
    note = both[1][-1]
    assert note == (
        f"Sizes are thirds of the {len(scale)} instances by max(h, w) of the box: small to "
        f"{edges[0]:g} px, medium to {edges[1]:g} px, large above."
    )
    bounds = {"small": (0, edges[0]), "medium": edges, "large": (edges[1], 1e9)}
    for size, (above, to) in bounds.items():
        mine = [above < s <= to for s in predictions["scale"].to_pylist()]
        expected, _ = table2(predictions.filter(pa.array(mine)), CONFIG, 2014)
        for row in expected:
            if row["table"] == "table2":
                keys = {n: row[n] for n in ("method", "category", "alpha", "value", "n")}
                found = only(both[0], table="table2-slices", slice=size, **keys)
                assert found["low"] <= row["value"] <= found["high"]


def test_categories_without_large_instances_are_named() -> None:
    predictions = drawn(3, 6)
    found = [
        r | ({"scale": 10.0} if r["category"] == "bus" else {}) for r in predictions.to_pylist()
    ]
    rows, notes = made(table(found))
    assert notes[-1].endswith("; medium: bus; large: bus.")
    sliced = [row for row in rows if row["table"] == "table2-slices" and row["category"] == "bus"]
    assert {row["slice"] for row in sliced} == {"small"}


def test_truncated_and_whole_instances_are_counted_apart(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    ids = sorted({r["instance"] for r in predictions.to_pylist()})
    flags = {name: [True, False, None][n % 3] for n, name in enumerate(ids)}
    rows, notes = comparison.rows(predictions, PAIRS, CONFIG, 2014, "table2", flags)
    count = {flag: list(flags.values()).count(flag) for flag in (True, False, None)}
    assert notes[-1] == (
        f"Truncated: {count[True]} of {count[True] + count[False]} instances, by the flag of their "
        f"annotations. {count[None]} instances are not marked either way."
    )
    others = [r for r in rows if r.get("slice") not in ("truncated", "whole", "unknown")]
    assert (others, notes[:-1]) == both  # nothing else has changed
    for name, flag in (("truncated", True), ("whole", False), ("unknown", None)):
        mine = [flags[i] is flag for i in predictions["instance"].to_pylist()]
        part = predictions.filter(pa.array(mine))
        expected, _ = table2(part, CONFIG, 2014)
        for row in (r for r in expected if r["table"] == "table2"):
            keys = {n: row[n] for n in ("method", "category", "alpha", "value", "n")}
            found = only(rows, table="table2-slices", slice=name, **keys)
            assert found["low"] <= row["value"] <= found["high"]
            shown = {
                r["instance"]
                for r in part.to_pylist()
                if row["category"] in ("mean", r["category"]) and r["method"] == row["method"]
            }
            assert found["instances"] == len(shown)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "No slices by truncation: the annotations, or the run's instances, have no flags."),
        (False, "No slices by truncation: none of 4 instances is marked as truncated."),
    ],
)
def test_no_slices_where_nothing_is_truncated(flags: dict | bool, said: str) -> None:
    predictions = drawn(1, 1)
    ids = set(predictions["instance"].to_pylist())
    known = flags if isinstance(flags, dict) else dict.fromkeys(ids, flags)
    rows, notes = comparison.rows(predictions, PAIRS, CONFIG, 2014, "table2", known)
    assert notes[-1] == said.replace("4", str(len(ids)))
    assert rows == made(predictions)[0]


def test_the_differences_alone(predictions: pa.Table, both: tuple[list[Row], list[str]]) -> None:
    rows, notes = comparison.paired(predictions, PAIRS, CONFIG, 2014, "table2")
    assert rows == [row for row in both[0] if row["table"] == "table2-comparison"]
    assert notes == both[1][: 1 + len(PAIRS)]


# -- all ---------------------------------------------------------------------------------------


def test_the_order_of_rows_and_shards_changes_nothing(
    predictions: pa.Table, both: tuple[list[Row], list[str]]
) -> None:
    order = np.random.default_rng(5).permutation(len(predictions))
    mixed = predictions.take(pa.array(order))
    parts = pa.concat_tables([mixed.slice(0, 100), mixed.slice(100)])
    methods = list(dict.fromkeys(parts["method"].to_pylist()))
    rows, notes = made(parts)
    assert notes == both[1]
    as_before = sorted(
        rows, key=lambda r: METHODS.index(r["method"]) if r["method"] in METHODS else -1
    )
    as_before.sort(key=lambda r: ["comparison", "errors", "slices"].index(r["table"][7:]))
    assert set(methods) == set(METHODS)
    assert as_before == both[0]


@pytest.mark.parametrize("photographs", [1, 2])
def test_few_photographs_make_rows_that_json_can_hold(photographs: int) -> None:
    predictions = drawn(1, photographs, missing=0.5)
    rows, notes = made(predictions)
    report = Report(rows, "weights", "data", notes, 0.95)
    assert json.loads(report.to_json())["rows"] == rows
    for name in ("comparison", "errors", "slices"):
        parsed = list(csv.DictReader(io.StringIO(report.to_csv(f"table2-{name}"))))
        assert len(parsed) == sum(row["table"] == f"table2-{name}" for row in rows)
    if photographs == 1:  # one photograph has no spread, and either way round is as far from 0
        own = [r for r in rows if r["table"].endswith("comparison") and r["category"] in TYPES]
        assert {(row["p"], row["mdd"]) for row in own} == {(1.0, None)}


def test_methods_that_never_differ() -> None:
    found = [r for r in drawn(2, 5).to_pylist() if r["method"] == "flow"]
    rows, notes = made(table(found + [r | {"method": "again"} for r in found]), [("flow", "again")])
    compared = [row for row in rows if row["table"] == "table2-comparison"]
    assert {(r["value"], r["low"], r["high"], r["p"], r["mdd"]) for r in compared} == {
        (0.0, 0.0, 0.0, 1.0, None)
    }
    assert "(+0 to +0, p 1, no mdd)" in notes[1]


def test_nothing_to_say() -> None:
    assert made(PREDICTIONS.empty_table()) == ([], [])
    rows, notes = made(drawn(1, 2), [("flow", "unheard of")])
    assert {row["table"] for row in rows} == {"table2-errors", "table2-slices"}
    assert len(notes) == 2


def test_thresholds_are_strict_if_asked_for(predictions: pa.Table) -> None:
    found = [
        {"method": "m", "category": "c", "instance": "i", "image": "p", "keypoint": "k"}
        | {"x": 25.0, "y": 0.0, "true_x": 0.0, "true_y": 0.0, "scale": 100.0}
    ]
    for inclusive, kind in ((True, "correct"), (False, "jitter")):
        config = EvaluationConfig(alphas=(0.25,), resamples=5, inclusive=inclusive)
        rows, _ = made(table(found), [], config)
        assert only(rows, category="c", error=kind)["value"] == 100
        pck = only(rows, category="c", slice="small")["value"]
        assert pck == (100 if inclusive else 0)

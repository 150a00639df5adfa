"""Two runs beside each other: the differences are those of their tables, and paired."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from distcorr.cli import app
from distcorr.data.classified import Classified
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import tables
from distcorr.report.answers import answers
from distcorr.report.compare import Compared, compare
from tests.stages.common import run_all

ALIKE = {name: (name, f"{name}-comparison") for name in ("table2", "table3", "table4")}


@pytest.fixture(scope="module")
def other(
    finished: Path,
    tmp_path_factory: pytest.TempPathFactory,
    toy_settings: Callable[..., list[str]],
) -> Path:
    """The toy run with a beta that holds nothing back and one C that is low; no section 5."""
    folder = tmp_path_factory.mktemp("compared") / "other"
    store = f'compute.store="{finished / "store"}"'
    settings = toy_settings(
        "compute.address=inline", "flow.beta=1e-9", "classify.cs=[1e-12]", store
    )
    run_all(folder, settings, ("build-db", "neighbors", "transfer", "classify"))
    return folder


@pytest.fixture(scope="module")
def found(finished: Path, other: Path) -> Compared:
    return compare(*runs(other, finished))


def runs(*folders: Path) -> list[Run]:
    return [Run(str(folder)) for folder in folders]


def of(found: Compared, **asked: object) -> list[dict]:
    return [r for r in found.rows if all(r.get(name) == value for name, value in asked.items())]


def test_the_settings_come_first_and_the_values_are_those_of_the_tables(
    found: Compared, finished: Path, other: Path
) -> None:
    assert "flow.beta: 0.003 -> 1e-09" in found.settings
    names = ("block10 flow", "SIFT flow", "NN transfer")
    assert found.pairs == {
        "table2": [(f"{n} (here)", f"{n} (there)") for n in names],
        "table3": [("block10 (here)", "block10 (there)")],
    }
    assert any(note.startswith("table4 is compared if both") for note in found.notes)
    for run, which in zip(runs(other, finished), ("here", "there"), strict=True):
        for row in tables.build(run).rows:
            if row["table"] == "table2":
                name = f"{row['method']} ({which})"
                (mine,) = of(found, method=name, category=row["category"], alpha=row["alpha"])
                assert mine | {"method": row["method"]} == row
    for one, another in found.pairs["table2"]:
        for row in of(found, table="table2-comparison", method=f"{one} minus {another}"):
            same = {"category": row["category"], "alpha": row["alpha"]}
            (a,), (b,) = of(found, method=one, **same), of(found, method=another, **same)
            assert row["value"] == pytest.approx(a["value"] - b["value"], abs=0.011)
            assert row["low"] <= row["value"] <= row["high"]
            assert 0 < row["p"] <= 1
    (copied,) = of(
        found, method="NN transfer (here) minus NN transfer (there)", category="mean", alpha=0.1
    )
    assert (copied["value"], copied["low"], copied["high"], copied["p"]) == (0, 0, 0, 1)


def test_table_3_is_compared_by_photograph(found: Compared, finished: Path, other: Path) -> None:
    for run, which in zip(runs(other, finished), ("here", "there"), strict=True):
        for row in tables.build(run).rows:
            if (row["table"], row.get("method")) == ("table3", "block10"):
                name = f"block10 ({which})"
                (mine,) = of(found, table="table3", method=name, category=row["category"])
                assert mine == {n: v for n, v in row.items() if n != "c"} | {"method": name}
    compared = of(found, table="table3-comparison")
    assert {row["category"] for row in compared} == {"mean", *(categories(found))}
    for row in compared:
        here, there = (
            of(found, table="table3", method=f"block10 ({w})", category=row["category"])[0]["value"]
            for w in ("here", "there")
        )
        assert row["value"] == pytest.approx(here - there, abs=0.011)
        assert row["low"] <= row["value"] <= row["high"]
        assert 0 < row["p"] <= 1
    assert any(row["value"] != 0 for row in compared)
    (said,) = (note for note in found.notes if "accuracy" in note)
    assert said.startswith("block10 (here) minus block10 (there), accuracy: ")


def categories(found: Compared) -> set[str]:
    return {row["category"] for row in found.rows if row["table"] == "table3"} - {"mean"}


def test_answers_are_those_that_the_classifiers_gave(finished: Path) -> None:
    (run,) = runs(finished)
    stage, config = run.finished("classify"), run.config()
    assert stage is not None
    assert config is not None
    table, classified = answers(stage, config.evaluation), Classified(stage)
    chosen = classified.choose(config.evaluation.c, config.evaluation.choose)
    for layer, category in classified.pairs:
        said = classified.validation(layer, category)
        own = [r for r in table.to_pylist() if (r["method"], r["category"]) == (layer, category)]
        right = said.predicted[:, chosen[layer, category]] == said.truth
        assert [row["x"] is not None for row in own] == right.tolist()
        assert [row["image"] for row in own] == said.image
        assert [row["keypoint"] for row in own] == [
            classified.names[category][k] for k in said.truth
        ]


def test_turned_round_it_is_the_negative(found: Compared, finished: Path, other: Path) -> None:
    turned = compare(*runs(finished, other))
    for row in of(found, table="table2-comparison", category="mean"):
        same = {"method": row["method"], "category": "mean", "alpha": row["alpha"]}
        (back,) = of(turned, table="table2-comparison", **same)
        assert back["value"] == -row["value"]
        np.testing.assert_allclose([back["low"], back["high"]], [-row["high"], -row["low"]])


def test_a_run_and_itself_have_both_sections(finished: Path) -> None:
    found = compare(*runs(finished, finished))
    assert found.settings == []
    assert {r["table"] for r in found.rows} == {n for names in ALIKE.values() for n in names}
    assert all(("alpha" in r) == (not r["table"].startswith("table3")) for r in found.rows)
    assert all(r["value"] == 0 for r in found.rows if r["table"].endswith("comparison"))


def test_only_keypoints_that_both_have_are_scored(
    finished: Path, tmp_path: Path, toy_settings: Callable[..., list[str]]
) -> None:
    settings = toy_settings("compute.address=inline", "dataset.limit=2")
    run_all(tmp_path / "few", settings, ("build-db", "neighbors", "transfer"))
    found = compare(*runs(tmp_path / "few", finished))
    whole = tables.build(Run(str(finished)))
    n = {r["n"] for r in found.rows if r["category"] == "mean"}
    assert n < {r["n"] for r in whole.rows if r["table"] == "table2"} or len(n) == 1
    assert max(n) < max(r["n"] for r in whole.rows if r["table"] == "table2")
    assert any("only one of the runs has" in note for note in found.notes)
    assert any(note.startswith("Data differ") for note in found.notes)


def test_the_command_writes_its_own_files(found: Compared, finished: Path, other: Path) -> None:
    done = CliRunner().invoke(app, ["report", "-r", str(other), "--compare", str(finished)])
    assert done.exit_code == 0, done.output
    assert done.stdout.index("flow.beta: 0.003 -> 1e-09") < done.stdout.index("table2: PCK")
    after = done.stdout[done.stdout.index("table3: accuracy in per cent") :].splitlines()
    assert after[1].split() == ["here", "n", "accuracy", "here", "there", "difference", "p"]
    assert after[2].split()[0] == "block10"
    report = other / "report"
    assert sorted(p.name for p in report.glob("compare*")) == [
        *("compare.csv", "compare.json", "compare.png", "compare.svg")
    ]
    assert (report / "compare.json").read_text() == found.to_json()
    assert json.loads(found.to_json())["settings"] == found.settings


def test_bad_input(finished: Path, other: Path, tmp_path: Path) -> None:
    nowhere = CliRunner().invoke(
        app, ["report", "-r", str(other), "--compare", str(tmp_path / "nothing")]
    )
    assert (nowhere.exit_code, nowhere.stdout) == (2, "")
    both = CliRunner().invoke(
        app, ["report", "-r", str(other), "--compare", str(finished), "--figures"]
    )
    assert both.exit_code == 2
    with pytest.raises(DistcorrError, match="nothing to report"):
        compare(*runs(finished, tmp_path))

"""``distcorr plan`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distcorr.cli.plan import duration
from tests.test_cli import distcorr


def test_a_plan_needs_no_data_and_no_run() -> None:
    given = ("plan", "-p", "paper", "--instances", "1000", "--photographs", "700")
    plan = json.loads(distcorr(*given, "--categories", "4", "--cpus", "8", "--json").stdout)
    assert (plan["instances"], plan["photographs"], plan["categories"]) == (1000, 700, 4)
    stages = {stage["stage"]: stage for stage in plan["stages"]}
    assert list(stages) == [
        *("build-db", "neighbors", "transfer", "classify", "responses", "detect", "visualize")
    ]
    assert stages["build-db"]["gigabytes"] == pytest.approx(
        sum(table["gigabytes"] for table in plan["tables"])
    )
    assert stages["build-db"]["error"] is None  # nothing of this machine was measured
    assert plan["wall"] == pytest.approx(sum(stage["wall"] for stage in stages.values()))
    shown = distcorr(*given, "--cpus", "8", "--price-cpu", "0.05")
    assert "1,000 instances in 700 photographs and 20 categories, on 8 CPUs" in shown.stdout
    assert "together" in shown.stdout
    assert "Rates are not yours" in shown.stderr


def test_a_run_lends_its_rates_and_its_data(finished: Path) -> None:
    plan = json.loads(distcorr("plan", "--from", str(finished), "--json").stdout)
    assert plan["source"] == str(finished)
    assert plan["instances"] == 24
    rates = {stage["stage"]: stage["basis"] for stage in plan["stages"]}
    assert rates["build-db"] == rates["transfer"] == rates["classify"] == "measured"
    given = ("plan", "--from", str(finished), "--instances", "240", "--categories", "3", "--json")
    more = json.loads(distcorr(*given).stdout)
    assert more["instances"] == 240
    assert more["stages"][0]["work"] > plan["stages"][0]["work"]


def test_what_there_is_nothing_to_count_is_refused(tmp_path: Path) -> None:
    done = distcorr("plan")
    assert done.returncode == 2
    assert "--instances 100000" in done.stderr
    assert "There is no run" in distcorr("plan", "--from", str(tmp_path / "no")).stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5s"), (45, "45s"), (725, "12m05s"), (12_000, "3h20m"), (4.2 * 86400, "4.2d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

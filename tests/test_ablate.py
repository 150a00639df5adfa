"""Ablation: one factor at a time, on the run's own features, and paired with the default."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distcorr import config as configuration
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import ablation, tables
from distcorr.report.predictions import COPY, predictions
from distcorr.stages.ablate import BETAS, DEFAULT, TRANSFER, Variant, chosen, of_betas, run_variants
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import Context, Silent, run_stage
from tests.test_cli import distcorr

Settings = Callable[..., list[str]]


class Heard(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, toy_settings: Settings) -> Context:
    """A finished toy run."""
    config = configuration.load("smoke", toy_settings("compute.address=inline"))
    run = Run(str(tmp_path_factory.mktemp("ablate") / "run"))
    context = Context(config, run, Session(config.compute))
    for stage in ("build-db", "neighbors", "transfer"):
        run_stage(stage, context)
    return context


def scored(context: Context, names: list[str], targets: int = 0) -> list:
    made = run_variants(context, chosen(names), targets)
    return [
        (m.variant.name, m.variant.point, ablation.score(m.run, m.config.evaluation, 7))
        for m in made
    ]


def test_every_variant_changes_one_known_thing() -> None:
    plain = configuration.load("paper")
    for variant in (*TRANSFER, *of_betas()):
        changed = configuration.load("paper", variant.settings)
        lines = configuration.difference(plain, changed)
        known = ("flow.", "evaluation.", "neighbors.", "features.context")
        assert all(line.startswith(known) for line in lines)
        assert bool(lines) == bool(variant.settings)
    assert len({v.name for v in TRANSFER}) == len(TRANSFER)
    assert len({v.settings for v in TRANSFER}) == len(TRANSFER)


def test_the_default_says_what_table_2_says(context: Context) -> None:
    """With all targets, the variant without a change is the run itself."""
    (name, _, methods), *_ = scored(context, [DEFAULT])
    assert name == DEFAULT
    rows = tables.build(context.run).rows
    expected = {
        (row["method"], row["alpha"]): row["value"]
        for row in rows
        if row["table"] == "table2" and row["category"] == "mean"
    }
    alphas = context.config.evaluation.alphas
    found = {
        (m, a): tables.per_cent(s.value[i])
        for m, s in methods.items()
        for i, a in enumerate(alphas)
    }
    assert found == expected


def test_variants_share_what_they_can_and_nothing_is_made_twice(context: Context) -> None:
    made = run_variants(context, chosen(["order-data", "strict-five", "forward"]), 2)
    folders = {m.variant.name: str(m.run) for m in made}
    assert folders["default"] == folders["order-data"] == folders["strict-five"]
    assert folders["forward"] != folders["default"]
    store = context.run.folder.sizes("store")
    before = [m.run.folder.sizes("logs") for m in made]
    again = run_variants(context, chosen(["order-data", "strict-five", "forward"]), 2)
    assert [m.run.folder.sizes("logs") for m in again] == before
    assert context.run.folder.sizes("store") == store
    assert all(len(set(predictions(m.run)["instance"].to_pylist())) <= 2 * 3 for m in made)


def test_gains_are_paired_and_rows_without_a_change_are_left_out(context: Context) -> None:
    rows = ablation.compare(scored(context, ["copy-nearest", "forward"]), context.config.evaluation)
    by_variant = {
        name: {r["method"] for r in rows if r["variant"] == name}
        for name in ("default", "copy-nearest", "forward")
    }
    assert by_variant["default"] == {"block10 flow", "SIFT flow", "NN transfer"}
    assert by_variant["copy-nearest"] == by_variant["default"]  # flows with a gain of 0
    assert by_variant["forward"] == {"block10 flow", "SIFT flow"}
    for row in rows:
        assert row["low"] <= row["gain"] <= row["high"]
        base = next(
            r
            for r in rows
            if (r["variant"], r["method"], r["alpha"]) == ("default", row["method"], row["alpha"])
        )
        assert row["gain"] == pytest.approx(row["value"] - base["value"], abs=0.011)


def test_every_variant_has_a_row_for_what_it_changes(context: Context) -> None:
    """Another radius of SIFT is still SIFT flow."""
    rows = ablation.compare(scored(context, ["sift-40"], 1), context.config.evaluation)
    changed = [r for r in rows if r["variant"] == "sift-40" and r["method"] == "SIFT flow"]
    assert len(changed) == 3
    assert any(r["gain"] for r in changed)


def test_what_a_network_does_not_allow_is_left_out_and_said(context: Context) -> None:
    heard = Heard()
    listening = Context(context.config, context.run, context.session, heard)
    made = run_variants(listening, chosen(["side-500"]), 1)
    assert [m.variant.name for m in made] == [DEFAULT]
    assert any("side-500 is left out" in warning for warning in heard.warnings)


def test_context_and_truncation_change_flows_and_not_copying(context: Context) -> None:
    """Neighbours are found by the boxes alone, and copied by them."""
    config = replace(context.config, flow=replace(context.config.flow, features=("auto",)))
    names = ["context-16", "truncation"]
    made = run_variants(replace(context, config=config), chosen(names), 1)
    assert [m.variant.name for m in made] == [DEFAULT, *names]
    tables_of = [predictions(m.run).to_pylist() for m in made]
    copied, flowed = (
        [[r for r in rows if (r["method"] == COPY) == copying] for rows in tables_of]
        for copying in (True, False)
    )
    assert copied[0] == copied[1] == copied[2]
    assert flowed[0] != flowed[1]
    energies = np.array([energies_of(m.run) for m in made])
    assert energies[2, 0] < energies[0, 0]  # less data energy
    assert energies[2, 1] > energies[0, 1]  # for more deformation


def energies_of(run: Run) -> list[float]:
    """Data and deformation energy of all pairs."""
    stage = run.current("transfer")
    assert stage is not None
    parts = [stage.folder.read_table(name) for name in stage.parts("pairs")]
    return [sum(p[f"{n}_energy"].to_numpy().sum() for p in parts) for n in ("data", "deformation")]


def test_beta_is_tried_on_training_instances_without_their_own_photograph(context: Context) -> None:
    (made,) = run_variants(context, of_betas([0.003]), 2)
    found = predictions(made.run)
    splits = {i.id: i.split for i in tables.finished(made.run).store.instances}
    assert {splits[i] for i in found["instance"].to_pylist()} == {"train"}
    images = {i.id: i.image for i in tables.finished(made.run).store.instances}
    neighbors = made.run.current("neighbors")
    assert neighbors is not None
    for part in neighbors.folder.iter_tables(neighbors.parts("pairs")):
        for row in part.to_pylist():
            assert images[row["target"]] != images[row["neighbor"]]
            assert splits[row["neighbor"]] == "train"


def test_the_best_beta_is_that_of_the_highest_mean() -> None:
    def score(*values: float) -> tables.Score:
        return tables.Score(np.array(values), np.zeros((len(values), 1)), 1)

    found = ablation.best(
        [
            ("a", "", {"m": score(0.5, 0.1)}),
            ("b", "", {"m": score(0.4, 0.3)}),
            ("c", "", {"m": score(0.4, 0.3)}),
        ]
    )
    assert found == {"m": "b"}
    assert [v.settings[0] for v in of_betas()] == [f"flow.beta={b!r}" for b in BETAS]


def test_the_command(context: Context) -> None:
    run = str(context.run)
    asked = ("ablate", "-r", run, "--targets", "2", "--only", "forward", "--address", "inline")
    done = distcorr(*asked, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {r["variant"] for r in said["rows"]} == {"default", "forward"}
    assert (said["targets"], said["level"]) == (2, 0.95)
    assert "EfficientNet" in said["weights"]
    assert "toy: 3 categories" in said["data"]
    assert json.loads(Path(run, "report/ablation-transfer.json").read_text()) == said
    header, *lines = Path(run, "report/ablation-transfer.csv").read_text().splitlines()
    assert header.startswith("variant,point,method,alpha,value,gain,low,high,n,weights,data")
    assert all("EfficientNet" in line for line in lines)
    text = distcorr(*asked).stdout
    assert "gain@0.025" in text
    assert "At most 2 targets per category." in text
    assert "No *: intervals by photograph want 10" in text


def test_the_command_for_beta(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    from distcorr.cli.ablate import ablate_command
    from distcorr.stages import ablate

    monkeypatch.setattr(ablate, "BETAS", (0.003, 0.03))
    mine = ["flow.beta=0.005"]
    ablate_command("beta", str(context.run), 2, None, mine, "inline", False, True)
    said = json.loads(Path(str(context.run), "report/ablation-beta.json").read_text())
    assert any("flow.beta" in line for line in said["settings"])
    names = list(dict.fromkeys(row["variant"] for row in said["rows"]))
    assert names[:3] == ["train beta-0.005", "train beta-0.003", "train beta-0.03"]
    assert "test default" in names
    assert all(name.startswith(("train beta-", "test ")) for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "There is no ablation 'nothing'"),
        (["--targets", "-1"], "--targets must be 0 or more, got -1"),
        (["--only", "foward"], "Did you mean 'forward'?"),
        (["beta", "--only", "forward"], "--only chooses among the variants of transfer"),
    ],
)
def test_wrong_arguments(context: Context, arguments: list[str], message: str) -> None:
    done = distcorr("ablate", *arguments, "-r", str(context.run))
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_run_without_features_and_an_unknown_variant(tmp_path: Path) -> None:
    done = distcorr("ablate", "-r", str(tmp_path / "no"))
    assert done.returncode == 2
    assert "There is no run" in done.stderr
    with pytest.raises(DistcorrError, match="There is no variant 'x'"):
        chosen(["x"])
    assert chosen([])[0] == Variant(DEFAULT)

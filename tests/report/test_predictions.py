"""Saved flows, combined in every way, against the same done pair by pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.report import tables
from distcorr.report.predictions import PREDICTIONS, finished, predictions
from tests.stages.common import contents, run_all, saved_pairs

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"
BETA = 3e-3


@pytest.fixture(scope="module")
def made(finished: Path) -> Run:
    return Run(str(finished))


def by_target(rows: list[dict]) -> dict[tuple[str, str, str], tuple[float | None, float | None]]:
    """(method, instance, keypoint) -> predicted xy."""
    return {(r["method"], r["instance"], r["keypoint"]): (r["x"], r["y"]) for r in rows}


def by_hand(made: Run, order: str, keep: int, strict: bool) -> dict:
    """What flow predicts, by plain loops over the saved pairs."""
    opened = finished(made)
    key = {
        "deformation": lambda p: (p["deformation_energy"], p["rank"]),
        "data": lambda p: (p["data_energy"], p["rank"]),
        "total": lambda p: (p["data_energy"] + BETA * p["deformation_energy"], p["rank"]),
        "similarity": lambda p: p["rank"],
    }[order]
    groups: dict[tuple[str, str], list[dict]] = {}
    for pair in saved_pairs(Path(str(made))).drop_columns(["displacement"]).to_pylist():
        groups.setdefault((pair["method"], pair["target"]), []).append(pair)
    found = {}
    for (method, target), pairs in groups.items():
        instance = opened.instances[target]
        pairs = sorted(pairs, key=key)
        for k, name in enumerate(opened.store.keypoint_names[instance.category]):
            if not instance.visible[k]:
                continue
            asked = pairs[:keep] if strict else pairs
            asked = [p for p in asked if opened.instances[p["neighbor"]].visible[k]][:keep]
            xy = np.array([p["carried"][2 * k : 2 * k + 2] for p in asked])
            median = tuple(np.median(xy, axis=0)) if len(asked) else (None, None)
            found[method, target, name] = median
    return found


@pytest.mark.parametrize("order", ["deformation", "data", "total", "similarity"])
@pytest.mark.parametrize(("keep", "strict"), [(5, False), (2, False), (2, True), (1, True)])
def test_every_way_to_combine_is_the_median_of_the_saved_pairs(
    made: Run, order: str, keep: int, strict: bool
) -> None:
    before = contents(Path(str(made)))
    table = predictions(made, EvaluationConfig(order=order, keep=keep, strict=strict))
    flows = [row for row in table.to_pylist() if row["method"] != "NN transfer"]
    assert by_target(flows) == by_hand(made, order, keep, strict)
    assert contents(Path(str(made))) == before  # nothing is aligned, nothing is written


@pytest.mark.parametrize(("copying", "asked"), [("median", 5), ("nearest", 1)])
def test_copying_stretches_the_most_similar(made: Run, copying: str, asked: int) -> None:
    opened = finished(made)
    table = predictions(made, EvaluationConfig(copying=copying))
    copied = [row for row in table.to_pylist() if row["method"] == "NN transfer"]
    pairs = pa.concat_tables(
        opened.neighbors.folder.iter_tables(opened.neighbors.parts("pairs"))
    ).to_pylist()
    for row in copied:
        target = opened.instances[row["instance"]]
        k = opened.store.keypoint_names[row["category"]].index(row["keypoint"])
        found = sorted((p for p in pairs if p["target"] == target.id), key=lambda p: p["rank"])
        others = [opened.instances[p["neighbor"]] for p in found]
        others = [other for other in others if other.visible[k]][:asked]
        assert others
        shares = [
            (other.keypoints[k] - other.box[:2] + 0.5) / (other.box.width, other.box.height)
            for other in others
        ]
        wanted = np.median(shares, axis=0) * (target.box.width, target.box.height)
        wanted = wanted + target.box[:2] - 0.5
        np.testing.assert_allclose((row["x"], row["y"]), wanted, atol=1e-4)  # float32 keypoints


def test_methods_have_the_same_rows_in_the_same_order(made: Run) -> None:
    table = predictions(made)
    assert table.schema == PREDICTIONS
    methods = list(dict.fromkeys(table["method"].to_pylist()))
    assert methods == ["block10 flow", "SIFT flow", "NN transfer"]
    keys = ["category", "instance", "image", "keypoint", "true_x", "true_y", "scale"]
    parts = [
        table.filter(pa.array([m == method for m in table["method"].to_pylist()])).select(keys)
        for method in methods
    ]
    assert parts[0].num_rows
    assert parts[0] == parts[1] == parts[2]
    instances = finished(made).instances
    assert parts[0].num_rows == sum(i.visible.sum() for i in finished(made).targets)
    for row in parts[0].to_pylist()[:20]:
        assert row["scale"] == instances[row["instance"]].box.max_side


def test_flows_are_not_read(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are by far the largest column, and memory must not grow with the number of pairs."""
    read = Folder.read_table

    def watched(self: Folder, name: str, columns: object = None) -> pa.Table:
        if "transfer" in self.uri:
            assert columns is not None, name
            assert "displacement" not in columns
        return read(self, name, columns)

    monkeypatch.setattr(Folder, "read_table", watched)
    assert predictions(made).num_rows


def test_the_report_says_how_its_flows_were_made(copy: Path, toy_settings: Settings) -> None:
    """Not how the run was last used: another stage may have been run with other settings."""
    run_all(copy, toy_settings(INLINE, "flow.beta=0.5", "flow.targets=1"), ["neighbors"])
    run = Run(str(copy))
    (note,) = (
        n for n in tables.build(run).notes if n.startswith("Flow by block10 and sift20 in boxes of")
    )
    assert "the network's input size, beta 0.003 per cell^2 on unit-norm features" in note
    assert "inverse transfer; neighbours by deformation" in note
    assert "At most" not in note
    other = EvaluationConfig(order="data", strict=True, copying="nearest")
    (note,) = (
        n
        for n in tables.build(run, other).notes
        if n.startswith("Flow by block10 and sift20 in boxes of")
    )
    assert "neighbours by data, median of the first, 5 at most" in note
    assert "Copying from the nearest alone." in note


def test_saved_predictions_are_those_of_the_tables(copy: Path) -> None:
    run = Run(str(copy))
    report = tables.build(run)
    assert tables.save(report, run)[:5] == [
        "report/tables.json",
        "report/predictions.parquet",
        "report/predictions-detect.parquet",
        "report/table2.csv",
        "report/table2-gain.csv",
    ]
    saved = pq.read_table(copy / "report" / "predictions.parquet")
    assert saved == predictions(run)
    config = finished(run).config
    rows = [row for row in report.rows if row["table"] in ("table2", "table2-gain")]
    assert tables.table2(saved, config.evaluation, config.seed)[0] == rows


def test_instances_without_keypoints_say_and_are_asked_nothing(
    finished: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    from distcorr.report.predictions import finished as opened

    loader = "dataset.name=tests.stages.common:load_with_blanks"
    data = f'dataset.root="{finished / "toy"}"'
    settings = toy_settings(INLINE, loader, data, "flow.features=auto")
    run_all(tmp_path / "run", settings)
    run = Run(str(tmp_path / "run"))
    blank = {i.id for i in opened(run).instances.values() if not i.visible.any()}
    assert len(blank) == 6  # a training and a validation instance of three categories
    table = predictions(run)
    assert not blank & set(table["instance"].to_pylist())
    assert len(set(table["instance"].to_pylist())) == 6
    pairs = saved_pairs(tmp_path / "run").to_pylist()
    assert {p["target"] for p in pairs} & blank  # it is aligned, and nothing of it is scored
    assert {p["neighbor"] for p in pairs} & blank
    for pair in pairs:
        assert np.isnan(pair["carried"]).all() == (pair["neighbor"] in blank)
    only = EvaluationConfig(keep=1, strict=True, order="similarity")
    for row in predictions(run, only).to_pylist():
        nearest = next(p for p in pairs if p["target"] == row["instance"] and p["rank"] == 0)
        if nearest["neighbor"] in blank:
            assert row["x"] is None
    assert tables.build(run).rows


# -- the command line --------------------------------------------------------------------------


def report(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distcorr", "report", "-r", str(folder), *arguments]
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_report_combines_anew_on_request(copy: Path) -> None:
    before = contents(copy)
    done = report(copy, "--json", "--set", "evaluation.order=data", "--set", "evaluation.keep=1")
    assert done.returncode == 0, done.stderr
    expected = tables.build(
        Run(str(copy)), EvaluationConfig(order="data", keep=1, resamples=50)
    ).to_json()
    assert done.stdout == expected
    assert json.loads(expected)["rows"] != tables.build(Run(str(copy))).rows
    assert contents(copy) == before


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("flow.beta=0.1", ["takes evaluation settings only, got flow.beta=0.1", "distcorr run"]),
        ("evaluation.ordr=data", ["Did you mean 'evaluation.order'"]),
    ],
)
def test_report_refuses_what_it_cannot_change(made: Run, setting: str, words: list[str]) -> None:
    done = report(Path(str(made)), "--set", setting)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr

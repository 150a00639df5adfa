"""The whole job on the toy set: the same bytes wherever it runs, and only what is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from distcorr.cli import app
from distcorr.cli.common import ORDER
from distcorr.data.features import FeatureStore
from distcorr.data.lock import Owner
from distcorr.data.run import Run, Shard
from distcorr.errors import DistcorrError
from distcorr.stages import log
from distcorr.stages.cluster import Outcome, Session
from distcorr.stages.pipeline import Context, forecast_stage, run_shards, run_stage
from tests.stages.common import (
    Recorder,
    assert_same,
    contents,
    run_all,
    stage_folder,
    toy_config,
)

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"


@pytest.mark.parametrize("workers", [1, 3])
def test_ray_gives_the_same_bytes_as_inline(
    finished: Path, tmp_path: Path, toy_settings: Settings, ray_local: None, workers: int
) -> None:
    run_all(tmp_path / "ray", toy_settings(f"compute.workers={workers}"))
    assert_same(finished, tmp_path / "ray")


def test_a_second_run_computes_nothing(copy: Path, toy_settings: Settings) -> None:
    before = contents(copy)
    summaries = run_all(copy, toy_settings(INLINE))
    assert not any(s.computed for s in summaries.values())
    assert contents(copy) == before


def test_a_second_run_starts_no_ray(
    copy: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "connect", lambda _: pytest.fail("Ray was started"))
    run_all(copy, toy_settings())


@pytest.mark.parametrize("address", ["inline", "local"])
def test_what_is_lost_is_done_again_and_nothing_else(
    finished: Path,
    copy: Path,
    toy_settings: Settings,
    ray_local: None,
    address: str,
) -> None:
    features, transfer = stage_folder(copy, "build-db"), stage_folder(copy, "transfer")
    marker = features / "shards" / "00002.json"
    of_it = {Path(name).name for name in json.loads(marker.read_text())["files"]}
    marker.unlink()  # its parts are in the store, so it is found again and not made
    grids = sorted((copy / "store").glob("grids-block10-*/*.parquet"))
    part = next(path for path in grids if path.name not in of_it)
    part.write_bytes(part.read_bytes()[:100])
    (transfer / "pairs" / "part-00000.parquet").unlink()
    for marker in copy.rglob("_done.json"):
        marker.unlink()
    summaries = run_all(copy, toy_settings(f"compute.address={address}"))
    made_anew = {name: s.computed for name, s in summaries.items() if s.computed}
    assert made_anew == {"build-db": 1, "transfer": 1}
    assert_same(finished, copy)


def test_another_beta_realigns_and_keeps_the_old_result(
    finished: Path, copy: Path, toy_settings: Settings
) -> None:
    before = contents(copy)
    summaries = run_all(copy, toy_settings(INLINE, "flow.beta=0.05"))
    assert [name for name, s in summaries.items() if s.computed] == ["transfer"]
    after = contents(copy)
    assert {n: after[n] for n in before if n != "manifest.json"} == {
        n: before[n] for n in before if n != "manifest.json"
    }
    run_all(copy, toy_settings(INLINE))  # and back, at no cost
    assert contents(copy)["manifest.json"] == before["manifest.json"]


def test_other_features_need_a_run_of_their_own(copy: Path, toy_settings: Settings) -> None:
    before = contents(copy)
    with pytest.raises(DistcorrError, match=r"other data, weights or features .*features\.conv"):
        run_all(copy, toy_settings(INLINE, "features.conv=block7"))
    assert contents(copy) == before


def test_a_layer_that_the_network_lacks(tmp_path: Path, toy_settings: Settings) -> None:
    with pytest.raises(DistcorrError, match="no layer 'conv4'"):
        run_all(tmp_path, toy_settings(INLINE, "features.conv=conv4"))


@pytest.mark.parametrize("stage", ["neighbors", "transfer"])
def test_a_stage_names_what_it_needs(tmp_path: Path, toy_settings: Settings, stage: str) -> None:
    with pytest.raises(DistcorrError, match=f"{stage} needs the output of build-db"):
        run_all(tmp_path / "new", toy_settings(INLINE), [stage])
    assert not (tmp_path / "new").exists()


def test_forecast_counts_and_writes_nothing(
    copy: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    def forecast(folder: Path) -> list[tuple[int | None, int | None]]:
        config = toy_config(toy_settings(INLINE))
        with Session(config.compute) as session:
            context = Context(config, Run(str(folder)), session, Recorder())
            found = [forecast_stage(n, context) for n in ("build-db", "neighbors", "transfer")]
        return [(f.shards, f.todo) for f in found]

    (stage_folder(copy, "transfer") / "shards" / "00001.json").unlink()
    before = contents(copy)
    assert forecast(copy) == [(18, 0), (3, 0), (12, 1)]
    assert contents(copy) == before


def test_the_store_says_what_it_holds(finished: Path) -> None:
    stage = Run(str(finished)).current("build-db")
    assert stage is not None
    store = FeatureStore(stage)
    ids, values, meta = store.read(f"grids/{store.conv}", [i.id for i in store.instances])
    assert ids == [i.id for i in store.instances]
    assert values.shape == (24, 14, 14, 112)
    assert np.isfinite(values).all()
    assert values.astype(np.float32).std() > 0
    assert meta.geometry is not None
    assert meta.geometry.stride == 16
    assert "EfficientNet" in store.stamp["weights"]


def test_neighbours_are_of_the_category_from_training_and_sorted(finished: Path) -> None:
    stage = Run(str(finished)).current("build-db")
    assert stage is not None
    by_id = {i.id: i for i in FeatureStore(stage).instances}
    files = sorted((stage_folder(finished, "neighbors") / "pairs").iterdir())
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len(rows) == 3 * 3 * 5  # fewer than 25 in training: all of them
    for row in rows:
        target, neighbor = by_id[row["target"]], by_id[row["neighbor"]]
        assert (target.split, neighbor.split) == ("val", "train")
        assert target.category == neighbor.category
        assert target.image != neighbor.image
    for target_id in {row["target"] for row in rows}:
        mine = [row for row in rows if row["target"] == target_id]
        assert [row["rank"] for row in mine] == list(range(5))
        assert [row["cosine"] for row in mine] == sorted((r["cosine"] for r in mine), reverse=True)


def test_flow_beats_copying_and_shuffled_weights(
    tmp_path: Path, finished: Path, toy_settings: Settings
) -> None:
    """The point of it all, on known warps: real features align, the same values permuted do not."""
    from distcorr.report import tables

    more = ["dataset.toy_train=12", "dataset.toy_val=6"]
    run_all(tmp_path / "real", toy_settings(INLINE, *more))
    run_all(tmp_path / "shuffled", toy_settings(INLINE, *more, "features.control=shuffled-weights"))

    def mean(folder: Path, method: str, alpha: float) -> float:
        rows = tables.build(Run(str(folder))).rows
        (row,) = (
            r
            for r in rows
            if r["table"] == "table2"
            and r["category"] == "mean"
            and r["method"] == method
            and r["alpha"] == alpha
        )
        return float(row["value"])

    for alpha in (0.1, 0.05):
        real = mean(tmp_path / "real", "block10 flow", alpha)
        assert real > mean(tmp_path / "real", "NN transfer", alpha) + 5
        assert real > mean(tmp_path / "shuffled", "block10 flow", alpha) + 5
        assert mean(tmp_path / "real", "SIFT flow", alpha) == mean(
            tmp_path / "shuffled", "SIFT flow", alpha
        )
    assert "SHUFFLED" in tables.build(Run(str(tmp_path / "shuffled"))).weights


# -- broken photographs ------------------------------------------------------------------------


@pytest.fixture
def voc(finished: Path, tmp_path: Path) -> Path:
    """The toy photographs as somebody's data set in VOC layout."""
    shutil.copytree(finished / "toy", tmp_path / "voc")
    (tmp_path / "voc" / "toy.json").unlink()
    return tmp_path / "voc"


def voc_settings(toy_settings: Settings, voc: Path, *more: str) -> list[str]:
    return toy_settings(INLINE, "dataset.name=voc", f'dataset.root="{voc}"', *more)


def test_broken_photographs_cost_their_instances_only_and_can_be_mended(
    voc: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    settings = voc_settings(toy_settings, voc)
    run_all(tmp_path / "whole", settings)
    photographs = sorted((voc / "VOCdevkit/VOC2011/JPEGImages").glob("*.jpg"))
    cut, gone = photographs[0], photographs[-1]
    kept = {path: path.read_bytes() for path in (cut, gone)}
    cut.write_bytes(kept[cut][: len(kept[cut]) // 2])
    gone.unlink()
    folder = tmp_path / "run"
    config = toy_config(settings)
    recorder = Recorder()
    with Session(config.compute) as session:
        run_stage("build-db", Context(config, Run(str(folder)), session, recorder))
    dead = pq.read_table(next(folder.rglob("dead_letters.parquet"))).to_pylist()
    assert {Path(row["file"]).name for row in dead} == {cut.name, gone.name}
    assert any(cut.name in w or gone.name in w for w in recorder.warnings)
    run_all(folder, settings)
    stage = Run(str(folder)).current("build-db")
    assert stage is not None
    images = {row["file"] for row in dead}  # each photograph, and its instances
    assert {row["id"] for row in dead} == FeatureStore(stage).dead | images
    for path, content in kept.items():
        path.write_bytes(content)
    again = run_all(folder, settings)
    assert 2 <= again["build-db"].computed <= 4  # shards of instances and of photographs
    mended, whole = contents(folder), contents(tmp_path / "whole")
    assert all(mended[name] == whole[name] for name in whole)


def test_too_many_broken_photographs_end_the_stage(
    voc: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    for path in sorted((voc / "VOCdevkit/VOC2011/JPEGImages").glob("*.jpg"))[::2]:
        path.write_bytes(b"not a photograph")
    with pytest.raises(DistcorrError, match="too many for the numbers to mean anything") as caught:
        run_all(tmp_path / "run", voc_settings(toy_settings, voc))
    assert caught.value.exit_code == 4


def test_a_photograph_mended_at_the_same_size_is_read_again(
    voc: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    settings = voc_settings(toy_settings, voc)
    path = min((voc / "VOCdevkit/VOC2011/JPEGImages").glob("*.jpg"))
    content = path.read_bytes()
    path.write_bytes(bytes(len(content)))
    assert run_all(tmp_path / "run", settings)["build-db"].dead > 0
    path.write_bytes(content)
    assert run_all(tmp_path / "run", settings)["build-db"].dead == 0
    run_all(tmp_path / "whole", settings)
    mended, whole = contents(tmp_path / "run"), contents(tmp_path / "whole")
    assert all(mended[name] == whole[name] for name in whole)


# -- nothing rests on what has changed ---------------------------------------------------------


def test_a_store_that_is_being_made_anew_is_not_used(
    copy: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the middle of a repair: neither neighbours nor a report until it is whole."""
    from distcorr.report import tables
    from distcorr.stages.extract import BuildShard

    min((copy / "store").glob("grids-block10-*/*.parquet")).unlink()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BuildShard, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run_all(copy, toy_settings(INLINE), ["build-db"])
    monkeypatch.undo()
    with pytest.raises(DistcorrError, match="finished and up to date"):
        run_all(copy, toy_settings(INLINE), ["neighbors"])
    with pytest.raises(DistcorrError, match="finished and up to date"):
        tables.build(Run(str(copy)))
    run_all(copy, toy_settings(INLINE))
    assert tables.build(Run(str(copy))).rows


def test_a_report_is_never_of_older_neighbours(copy: Path, toy_settings: Settings) -> None:
    from distcorr.report import tables

    run_all(copy, toy_settings(INLINE, "neighbors.k=2"), ["neighbors"])
    report = tables.build(Run(str(copy)))
    assert "table2" not in report.tables
    assert any(note.startswith("Table 2 left out") for note in report.notes)
    run_all(copy, toy_settings(INLINE, "neighbors.k=2"), ["transfer"])
    assert "table2" in tables.build(Run(str(copy))).tables


@pytest.mark.parametrize("setting", ["dataset.limit=1", "features.conv=block7"])
def test_later_stages_cannot_change_data_or_features(
    copy: Path, toy_settings: Settings, setting: str
) -> None:
    before = contents(copy), (copy / "config.toml").read_bytes()
    with pytest.raises(DistcorrError, match="cannot change them"):
        run_all(copy, toy_settings(INLINE, setting), ["transfer"])
    assert (contents(copy), (copy / "config.toml").read_bytes()) == before


def test_other_versions_are_noticed(copy: Path, toy_settings: Settings) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["stages"]["transfer"]["versions"]["numpy"] = "0.1"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (stage_folder(copy, "transfer") / "shards" / "00001.json").unlink()
    config, recorder = toy_config(toy_settings(INLINE)), Recorder()
    with Session(config.compute) as session:
        run_stage("transfer", Context(config, Run(str(copy)), session, recorder))
    assert any("numpy 0.1 ->" in warning for warning in recorder.warnings)


# -- unusual data ------------------------------------------------------------------------------


def only(voc: Path, category: str, split: str) -> None:
    """Take a category out of one split."""
    lists = voc / "VOCdevkit/VOC2011/ImageSets/Main"
    named = (lists / f"{category}_{split}.txt").read_text().splitlines()
    out = {line.split()[0] for line in named if line.split()[1] != "-1"}
    for name in out:
        for path in (voc / "annotations" / category).glob(f"{name}_*.xml"):
            path.unlink()


@pytest.mark.parametrize(("split", "word"), [("train", "no train"), ("val", "no val")])
def test_a_category_that_lacks_a_split_is_not_scored(
    voc: Path, tmp_path: Path, toy_settings: Settings, split: str, word: str
) -> None:
    from distcorr.report import tables

    only(voc, "house", split)
    run_all(tmp_path / "run", voc_settings(toy_settings, voc))
    report = tables.build(Run(str(tmp_path / "run")))
    named = {row["category"] for row in report.rows if "category" in row}  # not in section 2
    assert named == {"butterfly", "fish", "mean"}
    assert any(f"house ({word})" in note for note in report.notes)


def test_nothing_to_score_is_said(voc: Path, tmp_path: Path, toy_settings: Settings) -> None:
    from distcorr.report import tables

    for category in ("butterfly", "fish", "house"):
        only(voc, category, "val")
    stages = [name for name in ORDER if name != "visualize"]  # which needs no keypoints
    run_all(tmp_path / "run", voc_settings(toy_settings, voc), stages)
    with pytest.raises(DistcorrError, match="nothing to score"):
        tables.build(Run(str(tmp_path / "run")))


def test_one_layer_may_serve_as_grid_and_as_vector(tmp_path: Path, toy_settings: Settings) -> None:
    settings = toy_settings(INLINE, "features.conv=block15", "features.vector=block15")
    summaries = run_all(tmp_path / "run", settings)
    assert summaries["transfer"].rows == 2 * 45  # by the layer and by SIFT


def test_a_layer_without_cells_is_refused_at_once(tmp_path: Path, toy_settings: Settings) -> None:
    with pytest.raises(DistcorrError, match="fc"):
        run_all(tmp_path / "run", toy_settings(INLINE, "features.conv=fc"))
    assert not (tmp_path / "run" / "build-db").exists()


# -- one driver at a time, and the log ---------------------------------------------------------


def test_another_driver_is_refused_and_looking_is_not(
    copy: Path, toy_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    owner = Owner.me()  # as if of another process: this one holds nothing
    (copy / owner.name).write_text(json.dumps(asdict(owner)))
    with pytest.raises(DistcorrError, match=f"in use by .*process {os.getpid()}"):
        run_all(copy, toy_settings(INLINE), ["transfer"])
    for words in (["status"], ["run", "--dry-run"], ["store", "ls"]):
        assert CliRunner().invoke(app, [*words, "-r", str(copy)]).exit_code == 0
    refused = CliRunner().invoke(app, ["transfer", "-r", str(copy)])
    assert refused.exit_code == 2
    (copy / owner.name).unlink()
    assert contents(copy) == before


class Plan:
    """A stage of shards that do nothing."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(str(folder))
        config = toy_config([INLINE])
        self.context = Context(config, self.run, Session(config.compute))
        self.stage = self.run.stage("build-db", "key")
        self.plan = [Shard(n, "x", tuple("i" * n)) for n in range(5)]
        self.begun: list[int] = []

    def do(self, shard: Shard) -> dict[str, Any]:
        self.begun.append(shard.index)
        if shard.index == 3:
            raise KeyboardInterrupt
        self.stage.mark_done(shard, {}, 0)
        return {}

    def work(self, todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        yield from self.context.session.map(self.do, ((s, (s,)) for s in todo))

    def log(self) -> list[int]:
        files = [f.read_text() for f in Path(str(self.run)).glob("logs/*.jsonl")]
        return [json.loads(line)["shard"] for text in files for line in text.splitlines()]


def test_the_longest_shards_are_begun_first(tmp_path: Path) -> None:
    given = Plan(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_shards(
            *(given.context, given.stage, given.plan, given.work),
            weight=lambda shard: len(shard.items) // 2,
        )
    assert given.begun == [4, 2, 3]
    assert given.log() == [4, 2]


def test_the_log_is_saved_as_the_stage_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, saved = Plan(tmp_path), []
    do = given.do
    monkeypatch.setattr(given, "do", lambda shard: (saved.append(given.log()), do(shard))[1])
    monkeypatch.setattr(log, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run_shards(given.context, given.stage, given.plan, given.work)
    assert saved == [[], [0], [0, 1], [0, 1, 2]]
    monkeypatch.setattr(log, "EVERY", 1e9)
    saved.clear()
    with pytest.raises(KeyboardInterrupt):
        run_shards(given.context, given.stage, given.plan, given.work)
    assert all(len(lines) == 3 for lines in saved)  # of the first try; its own at the end


def test_a_signal_ends_a_run_in_order(tmp_path: Path, toy_settings: Settings) -> None:
    folder = tmp_path / "run"
    sets = [w for s in toy_settings(INLINE, "features.shard=1") for w in ("--set", s)]
    command = [sys.executable, "-m", "distcorr", "build-db", "-r", str(folder), *sets]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.glob("build-db/*/shards/*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)  # Ctrl-C goes the same way
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; run the same command to continue" in said
    assert "Traceback" not in said
    assert not list(folder.rglob(".*"))  # no lock, nothing half-written
    assert list(folder.glob("logs/*.jsonl"))


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["inline", "local"])
def test_a_shard_that_fails_is_reported_and_tried_again(
    finished: Path, tmp_path: Path, toy_settings: Settings, ray_local: None, address: str
) -> None:
    """A folder in the way of one part: the others are done, and a second run does the rest."""
    folder = tmp_path / "run"
    settings = toy_settings(f"compute.address={address}")
    run_all(folder, settings, ["build-db", "neighbors"])
    key = stage_folder(finished, "transfer").name
    obstacle = folder / "transfer" / key / "pairs" / "part-00002.parquet"
    (obstacle / "x").mkdir(parents=True)
    with pytest.raises(DistcorrError, match="1 of 12 shards of transfer failed: Cannot write") as e:
        run_all(folder, settings, ["transfer"])
    assert e.value.exit_code == 4
    text = next((folder / "logs").glob("transfer-*.jsonl")).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    (failed,) = [line for line in lines if line["error"]]
    assert failed["shard"] == 2
    assert failed["items"]
    for line in lines:
        assert line["seconds"] > 0
        assert abs(line["ended"] - time.time()) < 3600
        assert line["worker"].rpartition(":")[2].isdigit()
        assert line["peak_mb"] > 10
    (obstacle / "x").rmdir()
    obstacle.rmdir()
    assert run_all(folder, settings, ["transfer"])["transfer"].computed == 1
    run_all(folder, settings, ["classify", "responses", "detect", "visualize"])
    assert_same(finished, folder)

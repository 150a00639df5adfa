"""Benchmarks of pairs: landings by hand, the same bytes anywhere, faults, and the command."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from distcorr import config as configuration
from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.dialect_scores import evaluate
from distcorr.algorithms.dialects import DIALECTS
from distcorr.algorithms.flow import unit_norm
from distcorr.algorithms.sift import Sift
from distcorr.cli import app
from distcorr.config import load
from distcorr.data import prediction_files
from distcorr.data.images import read_image
from distcorr.data.pairs import Pair, PairSet
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.errors import PARTIAL, USAGE, DistcorrError
from distcorr.report import pairs as report
from distcorr.stages import evaluate_pairs, pair_shard
from distcorr.stages.cluster import Session
from distcorr.stages.evaluate_pairs import NAME, pairs_of
from distcorr.stages.match import match_photographs
from distcorr.stages.pair_features import layer_of
from distcorr.stages.pipeline import Context, Summary, forecast_stage, run_stage
from distcorr.types import Box
from tests.stages.common import Recorder, assert_same, contents

TOY = ("dataset.toy_train=1", "dataset.toy_val=3", "evaluation.resamples=50")
SIFT = (*TOY, "pairs.features=sift20", "pairs.shard=4", "compute.workers=2")
INLINE = "compute.address=inline"
PHOTOGRAPHS = "toy/VOCdevkit/VOC2011/JPEGImages"
METHODS = ("nn", "mutual", "softargmax", "flow")


def match_all(folder: Path, *settings: str) -> tuple[Summary, list[str]]:
    config = load("smoke", [*SIFT, *settings])
    with Session(config.compute) as session:
        shown = Recorder()
        done = run_stage(NAME, Context(config, Run(str(folder)), session, shown))
    return done, shown.warnings


def rows_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report.gather(Run(str(folder))).to_pylist()
    return found


def toy_pairs(folder: Path) -> PairSet:
    config = load("smoke", [*SIFT, INLINE])
    return pairs_of(Context(config, Run(str(folder)), Session(config.compute)))


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished inline run by SIFT: 18 pairs of drawn objects in 6 shards."""
    folder = tmp_path_factory.mktemp("pairs") / "run"
    assert match_all(folder, INLINE)[0].computed == 6
    return folder


@pytest.fixture
def copied(matched: Path, tmp_path: Path) -> Path:
    shutil.copytree(matched, tmp_path / "run")
    return tmp_path / "run"


# -- where points land -------------------------------------------------------------------------


def test_every_keypoint_that_both_show_is_looked_for_once_by_each_method(matched: Path) -> None:
    pairs, rows = toy_pairs(matched), rows_of(matched)
    assert len(pairs.pairs) == 3 * 3 * 2
    assert [pair.id for pair in pairs.pairs] == sorted(pair.id for pair in pairs.pairs)
    methods = [*(f"sift20 {method}" for method in METHODS), "identity", "random"]
    expected = {
        (method, pair.id, pair.b, pair.a, pair.category, keypoint, *map(float, xy), *pair.box_b)
        for method in methods
        for pair in pairs.pairs
        for keypoint, xy in zip(pair.keypoints, pair.points_b, strict=True)
        if pair.box_b is not None
    }
    names = ["method", "instance", "image", "source", "category", "keypoint"]
    names += ["true_x", "true_y", *pair_shard.BOX]
    found = [tuple(row[name] for name in names) for row in rows]
    assert len(found) == len(set(found))
    assert set(found) == expected
    for row in rows[:: len(rows) // 5]:
        photograph = read_image(Folder(pairs.root), row["image"])
        assert photograph.shape[:2] == (row["image_height"], row["image_width"])


def test_a_table_of_pairs_is_the_same_benchmark(matched: Path, tmp_path: Path) -> None:
    shutil.copytree(matched / "toy", tmp_path / "toy")
    names = ["pair", "image_a", "image_b", "category", "keypoint", "xa", "ya", "xb", "yb"]
    names += [f"box_{side}_{end}" for side in "ab" for end in ("x0", "y0", "x1", "y1")]
    rows = [
        [pair.id, pair.a, pair.b, pair.category, keypoint, *a, *b, *pair.box_a, *pair.box_b]
        for pair in toy_pairs(matched).pairs
        for keypoint, a, b in zip(pair.keypoints, pair.points_a, pair.points_b, strict=True)
        if pair.box_a and pair.box_b
    ]
    table = tmp_path / "toy" / "mine.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    match_all(tmp_path / "run", INLINE, f"pairs.root={table}")
    one, other = (sorted((r / NAME).rglob("*.parquet")) for r in (matched, tmp_path / "run"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    fewer = match_all(tmp_path / "fewer", INLINE, f"pairs.root={table}", "pairs.limit=2")[0]
    assert fewer.shards == 3
    with pytest.raises(DistcorrError, match="category"):
        match_all(tmp_path / "fewer", INLINE, f"pairs.root={table}", "pairs.categories=dog")


@pytest.mark.parametrize("box", [False, True])
def test_flow_is_what_match_says(matched: Path, tmp_path: Path, box: bool) -> None:
    folder = matched
    if box:
        shutil.copytree(matched / "toy", tmp_path / "run" / "toy")
        folder = tmp_path / "run"
        match_all(folder, INLINE, "pairs.box=true", "pairs.methods=flow")
    rows, pairs = rows_of(folder), toy_pairs(matched)
    config = load("smoke", ["features.conv=sift20"])
    for pair in pairs.pairs[::8]:
        files = (f"{pairs.root}/{pair.a}", f"{pairs.root}/{pair.b}")
        boxes = (pair.box_a, pair.box_b) if box else (None, None)
        points = np.asarray(pair.points_a, np.float64)
        single, _ = match_photographs(files, config, boxes, points=points)
        asked = [r for r in rows if (r["method"], r["instance"]) == ("sift20 flow", pair.id)]
        assert [r["keypoint"] for r in asked] == list(pair.keypoints)
        assert np.array_equal([[r["x"], r["y"]] for r in asked], single.landings)


def test_nearest_cells_and_baselines_by_hand(matched: Path) -> None:
    """Whole photographs, stretched to 227 px; cells of SIFT every 16 px."""
    rows, pairs = rows_of(matched), toy_pairs(matched)
    sift = Sift()
    g = sift.geometry("sift20")
    draws = []
    for pair in pairs.pairs[::5]:
        seen = [read_image(Folder(pairs.root), name) for name in (pair.a, pair.b)]
        size = np.array([[s.shape[1], s.shape[0]] for s in seen])
        squares = [crop_square(s, Box(0, 0, *(wh - 1)), 227) for s, wh in zip(seen, size)]  # noqa: B905
        a, b = unit_norm(sift(np.stack(squares), ["sift20"])["sift20"])
        by = {
            method: np.array(
                [
                    (r["x"], r["y"])
                    for r in rows
                    if (r["method"], r["instance"]) == (method, pair.id)
                ]
            )
            for method in ("sift20 nn", "identity", "random")
        }
        same = (pair.points_a.astype(float) + 0.5) / size[0] * size[1] - 0.5
        assert by["identity"] == pytest.approx(same, abs=1e-9)
        for xy, landed in zip(pair.points_a, by["sift20 nn"], strict=True):
            u, v = (xy + 0.5) * 227 / size[0] - 0.5
            col, row = (
                min(range(g.cells), key=lambda i, p=p: abs(g.centres()[i] - p)) for p in (u, v)
            )
            best = np.argmax(b.reshape(-1, b.shape[2]) @ a[row, col])
            centre = g.offset + g.stride * np.array([best % g.cells, best // g.cells])
            assert landed == pytest.approx((centre + 0.5) * size[1] / 227 - 0.5, abs=1e-9)
        cells = ((by["random"] + 0.5) * 227 / size[1] - 0.5 - g.offset) / g.stride
        assert cells == pytest.approx(np.rint(cells), abs=1e-6)
        assert (np.rint(cells) >= 0).all()
        assert (np.rint(cells) < g.cells).all()
        draws += np.rint(cells).tolist()
    assert len(np.unique(draws, axis=0)) > len(draws) / 2


def test_features_stand_alone(matched: Path, tmp_path: Path) -> None:
    """What else is asked for, and how pairs are cut, changes no landing; baselines come once."""
    shutil.copytree(matched / "toy", tmp_path / "toy")
    more = ('pairs.features=["sift10","sift20"]', "pairs.shard=64", 'pairs.methods=["nn","flow"]')
    match_all(tmp_path, INLINE, *more)

    def landed(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, ...], tuple[float, float]]:
        keys = [(r["method"], r["instance"], r["keypoint"]) for r in rows]
        assert len(set(keys)) == len(keys)
        return {k: (r["x"], r["y"]) for k, r in zip(keys, rows, strict=True)}

    one, other = landed(rows_of(matched)), landed(rows_of(tmp_path))
    shared = one.keys() & other.keys()
    assert {method for method, *_ in shared} == {"sift20 nn", "sift20 flow", "identity", "random"}
    assert {method for method, *_ in other} - {m for m, *_ in shared} == {
        "sift10 nn",
        "sift10 flow",
    }
    assert all(one[key] == other[key] for key in shared)


# -- the same bytes, whatever happens ----------------------------------------------------------


def test_ray_gives_the_same_bytes(matched: Path, tmp_path: Path, ray_local: None) -> None:
    match_all(tmp_path / "run", "compute.address=local")
    assert_same(matched, tmp_path / "run", without="report")


def test_what_is_lost_is_done_again_and_nothing_else(matched: Path, copied: Path) -> None:
    assert match_all(copied, INLINE)[0].computed == 0
    assert contents(copied) == contents(matched)
    (stage,) = (copied / NAME).iterdir()
    (stage / "shards" / "00003.json").unlink()
    (stage / "predictions" / "part-00001.parquet").write_bytes(b"cut short")
    (stage / "_done.json").unlink()
    config = load("smoke", [*SIFT, INLINE])
    waiting = forecast_stage(NAME, Context(config, Run(str(copied)), Session(config.compute)))
    assert (waiting.shards, waiting.todo) == (6, 2)
    assert match_all(copied, INLINE)[0].computed == 2
    assert contents(copied) == contents(matched)


def test_a_shard_that_fails_stops_no_other(
    matched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pair_shard.match_shard

    def failing(*arguments: Any) -> Any:
        if arguments[-1].index == 2:
            raise OSError("the disk is gone")
        return whole(*arguments)

    monkeypatch.setattr(evaluate_pairs, "match_shard", failing)
    with pytest.raises(DistcorrError, match="1 of 6 shards of evaluate-pairs failed") as caught:
        match_all(tmp_path / "run", INLINE)
    assert caught.value.exit_code == PARTIAL
    monkeypatch.setattr(evaluate_pairs, "match_shard", whole)
    assert match_all(tmp_path / "run", INLINE)[0].computed == 1
    assert_same(matched, tmp_path / "run", without="report")


def test_a_broken_photograph_costs_its_pairs(matched: Path, tmp_path: Path) -> None:
    shutil.copytree(matched / "toy", tmp_path / "toy")
    pairs = toy_pairs(matched).pairs
    image = min((p.a for p in pairs), key=lambda name: sum(name in (p.a, p.b) for p in pairs))
    path = next(tmp_path.rglob(Path(image).name))
    content = path.read_bytes()
    path.write_bytes(content[:200])
    done, warnings = match_all(tmp_path, INLINE)
    hit = {pair.id for pair in pairs if image in (pair.a, pair.b)}
    assert done.dead == len(hit)
    assert Path(image).name in warnings[-1]
    left = [row for row in rows_of(matched) if row["instance"] not in hit]
    assert rows_of(tmp_path) == left
    config = load("smoke", [*SIFT, INLINE])
    scored = report.score(Run(str(tmp_path)), [DIALECTS["hpf"]], [0.1], config.evaluation, 0)
    assert any(f"{len(hit)} pairs left out for 1 photograph" in note for note in scored.notes)
    path.write_bytes(content)
    again, warnings = match_all(tmp_path, INLINE)
    assert 0 < again.computed < 6
    assert not warnings
    assert_same(matched, tmp_path, without="report")


def test_a_photograph_that_changes_under_way_is_not_taken(
    matched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(matched / "toy", tmp_path / "toy")
    monkeypatch.setattr(evaluate_pairs, "checksum", lambda folder, name: "0" * 64)
    with pytest.raises(DistcorrError, match="not what it was when the work was planned"):
        match_all(tmp_path, INLINE)


def test_features_that_are_not_finite(
    matched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(matched / "toy", tmp_path / "toy")
    image = toy_pairs(matched).pairs[0].a

    def spoilt(layer: Any, seen: Any, batch: int) -> Any:
        found = whole(layer, seen, batch)
        return {u: g * (np.nan if u[0] == image else 1) for u, g in found.items()}

    whole = pair_shard.grids_of
    monkeypatch.setattr(pair_shard, "grids_of", spoilt)
    done, warnings = match_all(tmp_path, INLINE)
    assert done.dead
    assert "sift20 of it is not finite" in warnings[-1]
    assert not any(image in (row["image"], row["source"]) for row in rows_of(tmp_path))


def test_another_feature_in_a_worker_is_refused(matched: Path, tmp_path: Path) -> None:
    config = load("smoke", [*SIFT, INLINE])
    with pytest.raises(DistcorrError, match="not the same here"):
        pair_shard.match_shard(
            None,
            config,
            "",
            (),
            {},
            "sift20",
            "of another version",
            True,
            None,
            None,  # type: ignore[arg-type]
        )


# -- what is refused ---------------------------------------------------------------------------


def test_what_cannot_be_asked_for(matched: Path, copied: Path) -> None:
    for setting, words in (
        ("pairs.methods=best", "pairs.methods must be one of nn, mutual"),
        ('pairs.methods=["nn","nn"]', "names that differ"),
        ("pairs.features=[]", "one or more names"),
        ("pairs.temperature=0", "a finite number above 0"),
        ("pairs.shard=0", "1 or more"),
        ("pairs.side=12", "no cells at 12 px"),
        ("pairs.side=2000", "64 cells a side at most"),
        ("pairs.categories=dog", "has no pairs"),
        ('pairs.features=["sift20","conv77"]', "conv77"),
    ):
        with pytest.raises(DistcorrError, match=words):
            match_all(copied, INLINE, setting)
    assert contents(copied) == contents(matched)


def test_boxes_that_are_not_there(matched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = toy_pairs(matched)
    bare = replace(pairs, pairs=(replace(pairs.pairs[0], box_b=None), *pairs.pairs[1:]))
    monkeypatch.setattr(evaluate_pairs, "pairs_of", lambda context: bare)
    with pytest.raises(DistcorrError, match="1 of 18 pairs have none"):
        match_all(matched, INLINE, "pairs.box=true")


def test_a_run_with_other_features_keeps_them(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    run.save_config(load("smoke", [*SIFT, "features.batch=7"]))
    run.record("build-db", {"key": "0"})
    with pytest.raises(DistcorrError, match=r"features of its own.*features\.batch") as caught:
        match_all(tmp_path, INLINE)
    assert caught.value.exit_code == USAGE


def test_features_count_by_what_they_are() -> None:
    config = load("smoke", ["features.conv=sift20"])
    assert layer_of("auto", config, None).identity == layer_of("sift20", config, None).identity
    other = load("smoke", ["pairs.side=300"])
    assert layer_of("sift20", other, None).geometry.input_size == 300
    assert layer_of("sift20", other, None).identity != layer_of("sift20", config, None).identity


# -- scores and the command --------------------------------------------------------------------


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, [NAME, *arguments], env={"COLUMNS": "200"})


def options(folder: Path, *more: str) -> list[str]:
    sets = [word for text in SIFT for word in ("--set", text)]
    return ["-r", str(folder), "--address", "inline", "-q", *sets, *more]


def test_scores_are_those_of_the_file(copied: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "pairs.csv")
    done = command(*options(copied, "--json", "--csv", file, "-a", "0.1", "-a", "0.05"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    points = prediction_files.read(document["file"]).of()
    rows = [row for row in document["rows"] if row["category"] == "all"]
    asked = [DIALECTS[name] for name in ("hpf", "dift-point")]
    expected = evaluate(points, asked, [0.05, 0.1], resamples=0)
    assert len(rows) == len(points) * 4
    for row in rows:
        of = expected[row["method"], row["dialect"]]
        at = of.alphas.index(row["alpha"])
        assert row["value"] == pytest.approx(100 * of.value[at], abs=0.006)
        best = max(expected[name, row["dialect"]].value[at] for name in ("identity", "random"))
        if row["method"] in ("identity", "random"):
            assert row["gain"] is None
        else:
            assert row["gain"] == pytest.approx(100 * (of.value[at] - best), abs=0.006)
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert [row["method"] for row in rows[:6]][-2:] == ["identity", "random"]
    flow = next(row for row in rows if row["method"] == "sift20 flow" and row["alpha"] == 0.1)
    assert flow["gain_low"] > 0  # drawn objects are easy
    lines = list(csv.DictReader(io.StringIO(Path(file).read_text())))
    assert [float(line["value"]) for line in lines] == [r["value"] for r in document["rows"]]
    assert {line["data"] for line in lines} == {"drawn objects, toy, 18 pairs"}
    alone = CliRunner().invoke(app, ["pck", document["file"], "-d", "hpf", "--json"])
    assert alone.exit_code == 0, alone.output
    assert {row["method"] for row in json.loads(alone.stdout)["rows"]} == set(points)


def test_rows_of_the_report(copied: Path) -> None:
    run, config = Run(str(copied)), load("smoke", [*SIFT, "pairs.dialects=all"])
    rows, notes = report.section(run, config)
    assert {row["alpha"] for row in rows} == set(config.evaluation.alphas)
    assert {row["dialect"] for row in rows} == {d.name for d in DIALECTS.values() if not d.error}
    assert all(note.startswith("Pairs: ") for note in notes)
    asked = config.evaluation, config.seed
    saved = report.score(run, [DIALECTS["pf"]], config.evaluation.alphas, *asked)
    key = ("category", "dialect", "alpha", "method", "value", "low", "high")
    one, other = ({tuple(row[k] for k in key) for row in found} for found in (saved.rows, rows))
    assert one <= other
    assert report.stamp(run)["data"] == "drawn objects, toy, 18 pairs"


def test_the_tables_that_are_printed(copied: Path) -> None:
    done = command(*options(copied, "-d", "pf"))
    assert done.exit_code == 0, done.output
    assert "drawn objects, toy, 18 pairs; sift20: sift" in done.stdout
    assert done.stdout.count("sift20 flow") >= 2  # together, and by category
    assert "butterfly" in done.stdout
    assert "extent of the keypoints" in done.stdout
    planned = command(*options(copied, "-n", "--json"))
    assert json.loads(planned.stdout)[0]["todo"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-d", "hpff"), "Did you mean 'hpf'"),
        (("-a", "0"), "--alpha must be"),
        (("-m", "knn"), "pairs.methods must be one of"),
    ],
)
def test_wrong_options(copied: Path, arguments: tuple[str, ...], words: str) -> None:
    done = command(*options(copied, *arguments))
    assert done.exit_code == USAGE
    assert words in done.output
    assert "Traceback" not in done.output


def test_pairs_without_boxes_need_another_definition(
    matched: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = toy_pairs(matched)
    bare = tuple(replace(pair, box_a=None, box_b=None) for pair in pairs.pairs)
    monkeypatch.setattr(evaluate_pairs, "pairs_of", lambda context: replace(pairs, pairs=bare))
    done = command(*options(copied))
    assert done.exit_code == USAGE
    assert "--dialect hpf-photo" in done.output
    scored = command(*options(copied, "-d", "hpf", "-d", "hpf-photo"))
    assert scored.exit_code == 0, scored.output
    assert "not scored: hpf needs" in scored.stdout


def test_shuffled_truths_leave_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of B drawn anew: nobody can know where they are, so flow is no better than chance."""
    pairs, rng = toy_pairs(copied), np.random.default_rng(0)

    def moved(pair: Pair) -> Pair:
        height, width = read_image(Folder(pairs.root), pair.b).shape[:2]
        drawn = rng.uniform(0, 1, pair.points_b.shape) * (width - 1, height - 1)
        return replace(pair, points_b=drawn.astype(np.float32))

    shuffled = replace(pairs, pairs=tuple(map(moved, pairs.pairs)))
    monkeypatch.setattr(evaluate_pairs, "pairs_of", lambda context: shuffled)
    done = command(*options(copied, "--json", "-m", "flow"))
    rows = [r for r in json.loads(done.stdout)["rows"] if r["category"] == "all"]
    values = {r["method"]: r["value"] for r in rows if r["dialect"] == "dift-point"}
    width, height = 320, 260  # px, about; a disc of 0.1 of the box's side, at most of the width
    assert values["sift20 flow"] < 100 * 2 * math.pi * (0.1 * width) ** 2 / (width * height)


def test_the_configuration_knows_the_methods_and_definitions() -> None:
    config = load("smoke")
    assert config.pairs.methods == METHODS
    assert set(config.pairs.dialects) <= DIALECTS.keys()
    text = configuration.dump(config, comments=True)
    assert "[pairs]" in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    config = load("smoke")
    with pytest.raises(DistcorrError, match="no pairs that are all matched"):
        report.score(Run(str(tmp_path)), [DIALECTS["hpf"]], [0.1], config.evaluation, 0)

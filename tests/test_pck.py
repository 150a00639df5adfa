"""``distcorr pck``: one file by every definition; a run's own; every wrong input in two lines."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from distcorr.algorithms.dialects import DIALECTS
from distcorr.cli import app, common
from distcorr.cli.pck import DETECTED
from distcorr.config import load
from distcorr.data.features import FeatureStore
from distcorr.data.prediction_files import BOX
from distcorr.data.run import Run
from distcorr.errors import MISSING, USAGE
from distcorr.report.counting import scores
from distcorr.report.predictions import PREDICTIONS, predictions
from distcorr.report.score import per_cent
from tests.stages.common import run_all, toy_config

RIGHT = [name for name, dialect in DIALECTS.items() if not dialect.error]
SMALL = (
    *("dataset.toy_train=3", "dataset.toy_val=3", "evaluation.resamples=60"),
    *("neighbors.k=3", "evaluation.keep=1", "flow.features=sift20"),
    *(f"features.{key}=sift20" for key in ("conv", "points", "cells", "grids500")),
    "compute.address=inline",
)


SAVED = "guesses.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transfer of the toy set; and beside it a file of predictions that miss by some px."""
    folder = tmp_path_factory.mktemp("pck") / "toy"
    run_all(folder, SMALL, ("build-db", "neighbors", "transfer"))
    made = Run(str(folder))
    made.folder.write_table(SAVED, guesses(made))
    return folder


def guesses(made: Run) -> pa.Table:
    stage = made.finished("build-db")
    assert stage
    store, rng = FeatureStore(stage), np.random.default_rng(0)
    rows = []
    for method, sigma in (("good", 4.0), ("bad", 12.0)):
        for each in store.instances:
            for k in np.flatnonzero(each.visible):
                true = each.keypoints[k].astype(float)
                x, y = (true + rng.normal(0, sigma, 2)).tolist()
                rows.append(
                    {
                        "method": method,
                        "category": each.category,
                        "instance": each.id,
                        "image": each.image,
                        "keypoint": store.keypoint_names[each.category][k],
                        "x": None if k == 1 else x,
                        "y": None if k == 1 else y,
                        "true_x": true[0],
                        "true_y": true[1],
                        "scale": each.box.max_side,
                    }
                )
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def asked(*arguments: str | Path) -> Any:
    common._shown.clear()
    environment = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    return CliRunner().invoke(app, ["pck", *map(str, arguments)], env=environment)


def document(*arguments: str | Path) -> dict[str, Any]:
    done = asked(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(code: int, *words: str, arguments: list[str | Path]) -> None:
    done = asked(*arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    for word in words:
        assert word in done.stderr
    assert not done.stdout


# -- a run -------------------------------------------------------------------------------------


def test_long2014_is_table_2(run: Path) -> None:
    config = Run(str(run)).config()
    assert config
    wanted, _ = scores(predictions(Run(str(run))), config.evaluation, config.seed)
    alphas = [part for a in config.evaluation.alphas for part in ("-a", str(a))]
    found = document(run, "-d", "long2014", "-d", "vk", *alphas)["rows"]
    assert len(found) == 2 * 2 * 3
    for row in found:
        score = wanted[row["method"], "mean"]
        a = config.evaluation.alphas.index(row["alpha"])
        assert row["value"] == per_cent(score.value[a])
        ends = np.quantile(score.samples[a], [0.025, 0.975])
        assert [row["low"], row["high"]] == [per_cent(end) for end in ends]
        assert row["n"] == score.n


def test_a_run_knows_boxes_and_photographs(run: Path) -> None:
    found = document(run / SAVED, "--truth", run)
    assert not document(run)["lacking"]
    assert not found["lacking"]
    assert list(found["definitions"]) == RIGHT
    assert {row["alpha"] for row in found["rows"]} == {0.1}
    by = {(r["dialect"], r["method"]): r["value"] for r in found["rows"]}
    for row in found["spread"]:
        mine = [value for (_, method), value in by.items() if method == row["method"]]
        assert row["least"] == min(mine) == by[row["least_by"], row["method"]]
        assert row["most"] == max(mine) == by[row["most_by"], row["method"]]
        assert row["difference"] == pytest.approx(max(mine) - min(mine))
    assert by["dhpf", "good"] == by["cats", "good"]
    assert any("is predicted" in note for note in found["notes"])


def test_what_is_printed(run: Path, tmp_path: Path) -> None:
    guessed = run / SAVED, "--truth", run
    done = asked(*guessed, "-d", "all", "-m", "good", "--csv", tmp_path / "out" / "pck.csv")
    assert done.exit_code == 0, done.stderr
    assert "pck.csv" in done.stderr
    assert "PCK at 0.1 in per cent, with 95 % intervals by photograph" in done.stdout
    assert "long2014, vk: <= alpha * max(h, w) of the box" in done.stdout
    words = (
        "How far the definitions differ on this file (18 definitions, 15 of them different, 2 of"
    )
    assert f"{words} those variants of ours):" in done.stdout
    assert done.stdout.count("Intervals are too narrow with fewer than 20 photographs") == 1
    with open(tmp_path / "out" / "pck.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["dialect"] for row in found] == RIGHT
    assert {row["method"] for row in found} == {"good"}
    both = asked(*guessed)
    assert "Which method is better does not depend on the definition." in both.stdout
    assert "bad" in both.stdout


def test_the_same_bytes_in_any_order_of_the_rows(run: Path, tmp_path: Path) -> None:
    table = pq.read_table(run / SAVED)
    half = table.num_rows // 2  # of each method, so that the methods come in the same order
    order = np.r_[np.arange(half)[::-1], half + np.random.default_rng(0).permutation(half)]
    pq.write_table(table.take(pa.array(order)), tmp_path / "a.parquet")
    pq.write_table(table, tmp_path / "b.parquet")
    found = [document(tmp_path / name, "--truth", run) for name in ("a.parquet", "b.parquet")]
    assert found[0] | {"file": ""} == found[1] | {"file": ""}


def test_photographs_that_are_gone(copy: Path) -> None:
    next((copy / "toy").rglob("*.jpg")).unlink()
    found = document(copy)
    assert set(found["lacking"]) == {n for n in RIGHT if "size" in DIALECTS[n].needs}
    assert any("size of the photograph" in note for note in found["notes"])
    refused(MISSING, "size of the photograph", "image_width", arguments=[copy, "-d", "dhpf"])


def test_a_run_is_scored_as_it_is_whatever_report_was_made_of_it(run: Path, copy: Path) -> None:
    perfect = [row | {"x": row["true_x"], "y": row["true_y"]} for row in rows_of(run)]
    table = pa.Table.from_pylist(perfect, schema=PREDICTIONS)
    Run(str(copy)).folder.write_table("report/predictions.parquet", table)
    assert document(copy)["rows"] == document(run)["rows"]
    run_all(copy, (*SMALL, "flow.beta=3"), ("transfer",))
    other, _ = scores(predictions(Run(str(copy))), toy_config(SMALL).evaluation, 2014)
    found = {r["method"]: r["value"] for r in document(copy, "-d", "long2014")["rows"]}
    assert found == {m: per_cent(s.value[0]) for (m, c), s in other.items() if c == "mean"}


def test_a_run_whose_transfer_is_not_finished(copy: Path) -> None:
    Run(str(copy)).folder.write_table(DETECTED, pa.table({"x": [1.0]}))
    hint = f"distcorr pck {copy}/{DETECTED} --truth {copy}   scores Table 4's predictions"
    assert any(hint in note for note in document(copy)["notes"])
    for marker in (copy / "transfer").glob("*/_done.json"):
        marker.unlink()
    words = "no transfer that is finished and up to date", "distcorr run", "another version", hint
    refused(USAGE, *words, arguments=[copy])
    (copy / "config.toml").unlink()
    refused(USAGE, "there is no config.toml", arguments=[copy])


# -- a file ------------------------------------------------------------------------------------


def rows_of(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run / SAVED).to_pylist()
    return rows


def saved(rows: list[dict[str, Any]], tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows))
    return path


def test_a_file_has_too_little_for_some(run: Path) -> None:
    found = document(run / SAVED)
    assert set(found["lacking"]) == {n for n in RIGHT if DIALECTS[n].needs & {"box", "size"}}
    assert found["lacking"]["scnet"] == "image_width, image_height"
    done = asked(run / SAVED)
    assert "not scored: scnet needs image_width, image_height" in done.stdout
    whole = document(run / SAVED, "--truth", run)
    assert not whole["lacking"]
    own = {(r["dialect"], r["method"]): r["value"] for r in found["rows"]}
    for row in whole["rows"]:
        assert row["value"] == own.get((row["dialect"], row["method"]), row["value"])


def test_a_definition_that_turns_the_order(run: Path, tmp_path: Path) -> None:
    # Of each object one method has the first keypoint right, the other both others: the mean over
    # types of the rare and of the frequent ones is not that over points.
    rows = [
        {
            "method": method,
            "image": f"{i}",
            "keypoint": keypoint,
            "x": 0.0 if right else 99.0,
            "y": 5.0,
            "true_x": 0.0,
            "true_y": 5.0,
            "scale": 10.0,
        }
        for i in range(6)
        for keypoint in (("rare", "other", "often") if i < 1 else ("often",))
        for method, right in (("one", keypoint == "often"), ("two", keypoint != "often"))
    ]
    found = document(saved(rows, tmp_path), "-d", "long2014", "-d", "dift-point")
    assert found["swaps"] == [
        {
            "alpha": 0.1,
            "method": "one",
            "other": "two",
            "above": ["dift-point"],
            "below": ["long2014"],
        }
    ]
    done = asked(tmp_path / "mine.json", "-d", "long2014", "-d", "dift-point")
    assert "one is above two by dift-point; below by 1 others" in done.stdout


def test_methods_are_scored_on_the_keypoints_that_all_have(run: Path, tmp_path: Path) -> None:
    """Leaving out what one gets wrong must not pay."""
    rows = rows_of(run)
    near = [
        r
        for r in rows
        if r["method"] == "good"
        or (r["x"] is not None and abs(r["x"] - r["true_x"]) < 0.1 * r["scale"] / 2)
    ]
    both = document(saved(near, tmp_path), "-d", "dift-point")
    n = sum(row["method"] == "bad" for row in near)
    assert {row["n"] for row in both["rows"]} == {n}
    assert f"; {n} keypoints" in asked(tmp_path / "mine.json", "-d", "dift-point").stdout
    assert any(f"the {n} keypoints that all 2 methods have" in note for note in both["notes"])
    kept = {(r["instance"], r["keypoint"]) for r in near if r["method"] == "bad"}
    mine = [r for r in rows if (r["instance"], r["keypoint"]) in kept]
    wanted = document(saved(mine, tmp_path), "-d", "dift-point")
    assert both["rows"] == wanted["rows"]
    alone = document(saved(near, tmp_path), "-d", "dift-point", "-m", "good")
    assert {row["n"] for row in alone["rows"]} == {sum(r["method"] == "good" for r in near)}


def test_padding_does_not_count(run: Path, tmp_path: Path) -> None:
    rows = rows_of(run)
    honest = document(saved(rows, tmp_path), "-d", "dift-point")["rows"]
    pads = [
        row | {"keypoint": f"absent{n}", "x": -1, "y": -1, "true_x": -1, "true_y": -1}
        for row in rows
        for n in range(2)
    ]
    found = document(saved(rows + pads, tmp_path), "-d", "dift-point")
    assert found["rows"] == honest
    assert any(f"{len(pads)} rows have the truth (-1, -1)" in n for n in found["notes"])


def test_what_is_known_to_be_wrong_is_scored_by_name_alone(run: Path) -> None:
    done = asked(run, "-d", "willow-padded", "-d", "pf")
    assert "willow-padded:" in done.stdout
    assert "KNOWN TO BE WRONG" in done.stdout
    assert "differ" not in done.stdout  # that leaves one
    assert "willow-padded" not in asked(run).stdout


# -- wrong input -------------------------------------------------------------------------------


def test_wrong_words(run: Path, tmp_path: Path) -> None:
    refused(USAGE, "Did you mean 'long2014'", "known: all", arguments=[run, "-d", "long204"])
    guessed = run / SAVED
    refused(USAGE, "Did you mean 'good'", "it has good, bad", arguments=[guessed, "-m", "goud"])
    refused(USAGE, "above 0, got -1", arguments=[run, "-a", "-1"])
    refused(USAGE, "above 0, got nan", arguments=[run, "-a", "nan"])
    (tmp_path / "own" / "adir").mkdir(parents=True)
    for name in ("adir", "adir/"):
        refused(USAGE, "no run in", arguments=[f"{tmp_path}/own/{name}"])
        assert "Did you mean" not in asked(f"{tmp_path}/own/{name}").stderr  # itself
    refused(USAGE, "Did you mean 'adir'", arguments=[run / SAVED, "--truth", tmp_path / "own/adr"])
    refused(USAGE, "no run in", arguments=[run / SAVED, "--truth", tmp_path / "nowhere"])
    refused(MISSING, "no file of predictions", arguments=[tmp_path / "nowhere.csv"])
    refused(USAGE, "too little for dhpf", "box_x0", arguments=[run / SAVED, "-d", "dhpf"])


def test_another_data_set(run: Path, tmp_path: Path) -> None:
    rows = rows_of(run)
    images, instances = (len({row[name] for row in rows}) for name in ("image", "instance"))
    other = {"instance": "2008_000001#0", "image": "2008_000001.jpg"}
    strange = [rows[0] | other, rows[1] | {"keypoint": "wing"}]
    words = (
        "is not of the data set",
        f"1 of {images + 1} values of image are unknown, in 1 row (2008_000001.jpg)",
        "values of keypoint are unknown, in 1 row (wing)",
        f"1 of {instances + 1} values of instance are unknown, in 1 row (2008_000001#0)",
    )
    refused(MISSING, *words, arguments=[saved(strange + rows[2:], tmp_path), "--truth", run])


def test_annotations_that_are_not_the_run_s(run: Path, tmp_path: Path) -> None:
    rows = [row | {"true_x": row["true_x"] + 1} for row in rows_of(run)]  # counted from 1
    found = document(saved(rows, tmp_path), "--truth", run)
    note = f"{len(rows)} rows have another truth than the run, by up to 1.00 px."
    assert note in found["notes"]
    assert not any("another" in note for note in document(run / SAVED, "--truth", run)["notes"])


def test_the_boxes_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    honest = document(run / SAVED, "--truth", run)
    tripled = [row | {"scale": 3 * row["scale"]} for row in rows_of(run)]
    boxed = [row | dict(zip(BOX, (0.0, 0.0, 999.0, 999.0), strict=True)) for row in rows_of(run)]
    for name, rows in (("scale", tripled), ("box", boxed)):
        found = document(saved(rows, tmp_path), "--truth", run)
        assert found["rows"] == honest["rows"]
        words = f"{len(rows)} rows have another {name} than the run, by up to "
        (note,) = (note for note in found["notes"] if note.startswith(words))
        assert note.endswith("px: the run's boxes are used.")


def test_an_instance_of_another_category_or_image(run: Path, tmp_path: Path) -> None:
    rows = rows_of(run)
    first = rows[0]
    other = next(row for row in rows if row["category"] != first["category"])
    mine = [row for row in rows if row["instance"] == first["instance"]]
    for name in ("category", "image"):
        wrong = [row | {name: other[name]} if row in mine else row for row in rows]
        said = f"{first['instance']}: {other[name]}, not {first[name]}"
        words = f"{len(mine)} rows name another {name} of the instance ({said})"
        refused(MISSING, words, arguments=[saved(wrong, tmp_path), "--truth", run])
    # The name of all, where there is no such column, is none of a category.
    alone = [row | {"category": "all"} for row in rows]
    assert document(saved(alone, tmp_path), "--truth", run)["rows"]


def test_an_image_that_shows_one_object_is_that_object(run: Path, tmp_path: Path) -> None:
    shown: dict[str, set[str]] = {}
    for row in rows_of(run):
        shown.setdefault(row["image"], set()).add(row["instance"])
    single = [row for row in rows_of(run) if len(shown[row["image"]]) == 1]
    bare = [{k: v for k, v in row.items() if k not in ("instance", "scale")} for row in single]
    wanted = document(saved(single, tmp_path), "--truth", run)
    found = document(saved(bare, tmp_path), "--truth", run)
    assert (found["rows"], found["lacking"]) == (wanted["rows"], {})
    moved = [row | {"true_x": row["true_x"] + 50} for row in bare]
    found = document(saved(moved, tmp_path), "--truth", run)
    note = f"{len(moved)} rows have another truth than the run, by up to 50.00 px."
    assert note in found["notes"]
    names = sorted({row["category"] for row in bare})
    turned = [row | {"category": names[names.index(row["category"]) - 1]} for row in bare]
    words = f"{len(bare)} rows name another category"
    refused(MISSING, words, arguments=[saved(turned, tmp_path), "--truth", run])


def test_an_image_that_shows_several_objects_is_said_to(run: Path, tmp_path: Path) -> None:
    shown: dict[str, set[str]] = {}
    for row in rows_of(run):
        shown.setdefault(row["image"], set()).add(row["instance"])
    several = {image: min(names) for image, names in shown.items() if len(names) > 1}
    assert several
    one_each = [r for r in rows_of(run) if several.get(r["image"], r["instance"]) == r["instance"]]
    bare = [{k: v for k, v in row.items() if k not in ("instance", "category")} for row in one_each]
    moved = [row | {"true_x": row["true_x"] + 50} for row in bare if row["image"] not in several]
    found = document(
        saved([*moved, *(r for r in bare if r["image"] in several)], tmp_path), "--truth", run
    )
    assert any(f"{len(several)} image" in n and "several objects" in n for n in found["notes"])
    note = f"{len(moved)} rows have another truth than the run, by up to 50.00 px."
    assert note in found["notes"]
    assert "dhpf" in found["lacking"]  # no boxes


def test_wrong_files(run: Path, tmp_path: Path) -> None:
    """What can be wrong with a file is in tests/data/test_prediction_files.py."""
    rows = rows_of(run)
    refused(MISSING, "another row", arguments=[saved(rows + rows[:3], tmp_path)])
    broken = [row | {"scale": 0.0} for row in rows]
    refused(MISSING, "scale is not above 0", arguments=[saved(broken, tmp_path)])
    (tmp_path / "empty.csv").touch()
    refused(MISSING, "is empty", arguments=[tmp_path / "empty.csv"])


def test_without_a_run_the_usual_settings_hold(run: Path) -> None:
    found = document(run / SAVED, "-d", "hpf")
    assert found["level"] == load("paper").evaluation.level

"""Figure 4: its numbers by brute force, and a picture that is the same each time."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run, Shard
from distcorr.errors import DistcorrError
from distcorr.report import concentration
from distcorr.report.concentration import figure4, figure4_rows
from distcorr.report.tables import Report

RADIUS = 10
EVALUATION = EvaluationConfig(resamples=200)
CS = (1e-6, 1e-5)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("layer", "category", "keypoint", "image", "instance")),
        ("dy", pa.int16()),
        ("dx", pa.int16()),
        ("inside", pa.bool_()),
    ]
)
Row = dict[str, Any]


def rows_of(layer: str, keypoint: str, at: list[tuple[int, int] | None]) -> list[Row]:
    """Two maxima in each photograph; None: on the border."""
    return [
        {"layer": layer, "category": "cat", "keypoint": keypoint}
        | {"image": f"{n // 2}.jpg", "instance": f"{n}", "inside": n % 3 == 0}
        | ({} if peak is None else {"dy": peak[0], "dx": peak[1]})
        for n, peak in enumerate(at)
    ]


def written(folder: Path, rows: list[Row], notes: tuple[str, ...] = ()) -> Run:
    """A run whose responses are these, in two shards."""
    run = Run(str(folder))
    stage = run.stage("responses", "key")
    plan = [Shard(0, "a", ("x",)), Shard(1, "b", ("y",))]
    for shard, part in zip(plan, (rows[::2], rows[1::2]), strict=True):
        name = f"peaks/{shard.part}"
        written = stage.folder.write_table(name, pa.Table.from_pylist(part, SCHEMA))
        stage.mark_done(shard, {name: written}, len(part))
    cs = {f"{row['layer']}/cat": 1e-6 for row in rows}
    entry = {"key": "key", "needs": {}, "cs": cs, "notes": list(notes)}
    run.record("responses", entry | {"responses": {"radius": RADIUS}} | stage.finish(plan))
    return run


def classifiers(index: int = 0) -> Any:
    """The classifiers of a run, by which C they are chosen."""
    chosen = {(layer, "cat"): index for layer in ("conv4", "sift20")}
    return SimpleNamespace(cs=CS, choose=lambda c, by: chosen)


def numbers(run: Run, index: int = 0) -> tuple[list[Row], list[str]]:
    return figure4_rows(run, classifiers(index), EVALUATION, 3)


@pytest.fixture
def peaks() -> list[tuple[int, int] | None]:
    rng = np.random.default_rng(0)
    inner = rng.integers(-9, 10, (60, 2)).tolist()
    return [None if n % 5 == 0 else (dy, dx) for n, (dy, dx) in enumerate(inner)]


@pytest.fixture
def run(tmp_path: Path, peaks: list[tuple[int, int] | None]) -> Run:
    rows = rows_of("conv4", "Nose", [(0, 1)] * 20) + rows_of("sift20", "Nose", peaks)
    return written(tmp_path, rows + rows_of("conv4", "L_Eye", [(9, -9), None]))


def test_numbers_by_brute_force(run: Run, peaks: list[tuple[int, int] | None]) -> None:
    rows, notes = numbers(run)
    assert notes == []
    keys = [(r["table"], r["layer"], r["category"], r["keypoint"], r["c"]) for r in rows]
    assert sorted(keys) == [
        ("figure4", "conv4", "cat", "L_Eye", 1e-6),
        ("figure4", "conv4", "cat", "Nose", 1e-6),
        ("figure4", "sift20", "cat", "Nose", 1e-6),
    ]
    row = next(r for r in rows if r["layer"] == "sift20")
    kept = [np.hypot(*peak) for peak in peaks if peak]
    assert (row["n"], row["kept"], row["inside"]) == (60, 48, 20)
    assert row["dropped"] == 20.0
    assert row["within4"] == round(100 * np.mean(np.array(kept) <= 4), 2)
    assert row["within8"] == round(100 * np.mean(np.array(kept) <= 8), 2)
    assert row["median"] == round(float(np.median(kept)), 2)
    pixels = [np.hypot(dy, dx) for dy in range(-9, 10) for dx in range(-9, 10)]
    assert row["uniform4"] == round(100 * sum(p <= 4 for p in pixels) / 361, 2)
    assert row["uniform8"] == round(100 * sum(p <= 8 for p in pixels) / 361, 2)
    assert row["uniform_median"] == round(float(np.median(pixels)), 2)


def test_intervals_are_those_of_drawn_photographs(
    run: Run, peaks: list[tuple[int, int] | None]
) -> None:
    row = next(r for r in numbers(run)[0] if r["layer"] == "sift20")
    photographs = [peaks[2 * n : 2 * n + 2] for n in range(30)]
    rng = np.random.default_rng(1)
    samples = []
    for _ in range(4000):
        drawn = [peak for n in rng.integers(0, 30, 30) for peak in photographs[n]]
        kept = [np.hypot(*peak) for peak in drawn if peak]
        near = [np.mean(np.array(kept) <= limit) for limit in (4, 8)]
        samples.append([1 - len(kept) / len(drawn), *near])
    ends = 100 * np.quantile(samples, [0.025, 0.975], axis=0)
    for column, name in enumerate(("dropped", "within4", "within8")):
        found = row[f"{name}_low"], row[f"{name}_high"]
        np.testing.assert_allclose(found, ends[:, column], atol=3)  # of 200 draws


def test_certain_shares_have_no_width_and_nothing_is_no_number(run: Run, tmp_path: Path) -> None:
    sure, _, _ = sorted(numbers(run)[0], key=lambda r: (r["layer"], -r["n"]))
    assert sure["within4"] == sure["within4_low"] == sure["within4_high"] == 100.0
    assert sure["dropped"] == sure["dropped_low"] == sure["dropped_high"] == 0.0
    nothing = written(tmp_path / "other", rows_of("conv4", "Nose", [None] * 4))
    (row,), _ = numbers(nothing)
    assert (row["n"], row["kept"], row["dropped"]) == (4, 0, 100.0)
    assert {row[n] for n in ("within4", "within4_low", "within8_high", "median")} == {None}
    assert figure4(nothing)
    report = Report([row], "weights", "data", [], 0.95)
    assert json.loads(report.to_json())["rows"] == [row]
    (line,) = csv.DictReader(io.StringIO(report.to_csv("figure4")))
    assert (line["median"], line["keypoint"], line["weights"]) == ("", "Nose", "weights")


def test_notes_and_another_c_are_told(tmp_path: Path) -> None:
    run = written(tmp_path, rows_of("conv4", "Nose", [(1, 1)] * 4), ("Of the stage.",))
    assert numbers(run)[1] == ["Of the stage."]
    other = (
        "Figure 4 is left out, being by another C than Table 3: conv4/cat by C = 1e-06, not 1e-05 "
        "(distcorr responses with these settings makes it anew)."
    )
    assert numbers(run, 1) == ([], [other])


def test_the_picture(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    draw = concentration._draw

    def watched(axis: Any, title: str, *rest: Any) -> None:
        draw(axis, title, *rest)
        drawn[title] = axis

    monkeypatch.setattr(concentration, "_draw", watched)
    names = figure4(run)
    assert names == ["report/figure4.png", "report/figure4.svg"]
    assert sorted(drawn) == ["conv4: cat L_Eye", "conv4: cat Nose", "sift20: cat Nose"]
    image = drawn["conv4: cat Nose"].images[0]
    expected = np.zeros((21, 21))
    expected[RADIUS, RADIUS + 1] = 1
    np.testing.assert_array_equal(image.get_array(), expected)
    assert tuple(image.get_extent()) == (-10.5, 10.5, 10.5, -10.5)
    assert drawn["sift20: cat Nose"].images[0].get_clim() == image.get_clim()  # one per row
    assert drawn["conv4: cat Nose"].get_xlabel() == (
        "20 keypoints, 0% on the border\n4 px: 100% (14%), 8 px: 100% (55%)\nmedian 1.0 px (7.6)"
    )
    content = {name: run.folder.read(name) for name in names}
    assert np.asarray(Image.open(io.BytesIO(content[names[0]])).convert("L")).std() > 30
    ET.fromstring(content[names[1]])
    assert b"Matplotlib v" not in content[names[1]]
    monkeypatch.undo()
    figure4(run)
    assert {name: run.folder.read(name) for name in names} == content
    figure4(run, ["cat/Nose"])
    smaller = Image.open(io.BytesIO(run.folder.read(names[0])))
    assert smaller.height < Image.open(io.BytesIO(content[names[0]])).height


def test_what_there_is_not(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DistcorrError, match=r"no keypoint 'cat/Nos'\. Did you mean 'cat/Nose'\?"):
        figure4(run, ["cat/Nos"])
    with pytest.raises(DistcorrError, match="no responses that are finished"):
        figure4(Run(str(tmp_path / "none")))
    empty = written(tmp_path / "empty", [], ("No category.",))
    assert numbers(empty) == ([], ["No category."])
    with pytest.raises(DistcorrError, match="nothing to draw") as caught:
        figure4(empty)
    assert caught.value.hint == "No category."

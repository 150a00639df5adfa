"""Figures 1 and 2: their numbers by loops over drawn photographs, and the pictures themselves."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from distcorr import config as configuration
from distcorr.cli.common import draw
from distcorr.config import EvaluationConfig
from distcorr.data import datasets
from distcorr.data.classified import NOTES
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Run, Shard
from distcorr.data.visualized import (
    AVERAGES,
    COPIES,
    COUNTS,
    ERRORS,
    METHODS,
    NEIGHBOURS,
    ORIGINAL,
    PICTURES,
    RANDOM,
    RECALL,
    UNIFORM,
)
from distcorr.errors import DistcorrError
from distcorr.report import charts, locality, tables
from distcorr.report.figure1 import figure1
from distcorr.report.figure2 import figure2, figure2_profile
from distcorr.report.sheet import Sheet
from distcorr.terminal import print_report
from distcorr.types import Box, Dataset, Instance

Row = dict[str, Any]

SEED, LEVEL, RESAMPLES = 7, 0.9, 60
LAYERS = {"conv3": (16, 99), "conv4": (16, 131), "conv5": (16, 163)}
SCHEMAS = {"errors": ERRORS, "pictures": PICTURES, "averages": AVERAGES, "counts": COUNTS}
SCHEMAS |= {"recall": RECALL, "copies": COPIES}
EVALUATION = EvaluationConfig(resamples=RESAMPLES, level=LEVEL)


# -- a run ---------------------------------------------------------------------------------------


def name(number: int) -> str:
    return f"JPEGImages/2011_{number:06d}.jpg"


def error(layer: str, image: str, method: str, k: int, **values: Any) -> Row:
    """A row of errors with random numbers, some of which are given."""
    rng = np.random.default_rng(list(f"{layer}{image}{method}{k}".encode()))
    boxed = 0 if method == UNIFORM else int(rng.integers(1, 30))
    row = {"layer": layer, "image": image, "method": method, "k": k}
    row |= {"psnr": rng.uniform(10, 20), "colour": rng.uniform(5, 40), "ssim": rng.uniform(0, 1)}
    row |= {"cells": 40, "short": 0, "alike": int(rng.integers(0, boxed + 1)), "boxed": boxed}
    return row | values


def average(layer: str, place: int, method: str, k: int, **values: Any) -> Row:
    """A row of averages, likewise; its field is 60 px and its pictures are kept."""
    rng = np.random.default_rng(list(f"{layer}{place}{method}{k}".encode()))
    side = 60
    row = {"layer": layer, "place": place, "image": name(place % 3), "row": 2, "col": place}
    row |= {"method": method, "k": k, "side": side, "found": k, "ratio": rng.uniform(0.5, 1)}
    row["profile"] = rng.uniform(20, 60, 43).tolist()
    row["mean"] = rng.uniform(90, 140, side * side * 3).tolist() if method == NEIGHBOURS else None
    crop = np.random.default_rng(place).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return row | {"crop": crop.tobytes() if method == NEIGHBOURS else None} | values


def count(layer: str, **values: int) -> Row:
    stride, rf = LAYERS.get(layer, (16, 99))
    row = {"layer": layer, "cells": 7200, "zeros": 0, "whole": 900, "stride": stride, "rf": rf}
    return row | {"field": rf, "photographs": 30} | values


def kept(layer: str, image: str, method: str, k: int, pixels: np.ndarray) -> Row:
    row = {"layer": layer, "image": image, "method": method, "k": k}
    return row | {"height": len(pixels), "width": len(pixels[0]), "pixels": pixels.tobytes()}


def noise(*seed: Any, size: tuple[int, int] = (150, 200)) -> np.ndarray:
    rng = np.random.default_rng(list("".join(map(str, seed)).encode()))
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def errors(images: int = 8, ks: Sequence[int] = (1, 5)) -> list[Row]:
    return [
        error(layer, name(n), method, k)
        for layer in LAYERS
        for n in range(images)
        for method in METHODS
        for k in ks
    ]


def averages(places: int = 6, ks: Sequence[int] = (5, 50)) -> list[Row]:
    return [
        average(layer, place, method, k)
        for layer in LAYERS
        for place in range(places)
        for method in (NEIGHBOURS, RANDOM)
        for k in ks
    ]


def pictures(rows: Sequence[Row], shown: Sequence[str]) -> list[Row]:
    """Those of rows of errors, and the originals."""
    found = [kept("", image, ORIGINAL, 0, noise(image)) for image in shown]
    return found + [
        kept(*key, noise(*key))
        for row in rows
        if row["image"] in shown
        for key in [(row["layer"], row["image"], row["method"], row["k"])]
    ]


def write(
    folder: Path,
    notes: Sequence[str] = (),
    settings: Sequence[str] = (),
    dead: Sequence[DeadLetter] = (),
    **parts: list[Row],
) -> Run:
    """A run whose build-db and visualize are finished; each table is in two parts.

    Args:
        folder: of the run.
        notes: of the stage.
        settings: of the run's configuration.
        dead: what the stage left out.
        parts: rows of each table; counts default to all of ``LAYERS``.
    """
    run, stage = Run(str(folder)), Run(str(folder)).stage("visualize", "key")
    ends = [f"seed={SEED}", f"evaluation.resamples={RESAMPLES}", f"evaluation.level={LEVEL}"]
    config = configuration.load("smoke", [*ends, *settings])
    run.save_config(config)
    features = run.stage("build-db", "drawn", "store")
    facts = {"keypoint_names": {"cat": ["Ear"]}, "conv": "g", "vector": "v", "names": {}}
    facts |= {"root": "", "tables": {"grids/g": "g", "vectors/v": "v"}}
    points, seen = np.zeros((1, 2), np.float32), np.ones(1, bool)
    one = Instance("cat0", name(0), "cat", "train", Box(0, 0, 9, 9), points, seen)
    table = datasets.to_table(Dataset("drawn", "", (one,), {"cat": ("Ear",)}))
    stamp = {"stamp": {"weights": "the weights", "data": "the data"}}
    FeatureStore.write_instances(features, table, {"cat0": "x"}, {name(0): ""}, facts | stamp)
    features.finish([])
    run.record("build-db", {"key": "drawn", "store": "store"})

    parts = {"counts": [count(layer) for layer in LAYERS]} | parts
    plan = [Shard(n, "inputs", (str(n),)) for n in range(2)]
    for shard in plan:
        files = {}
        for table, rows in parts.items():
            half = len(rows) // 2
            mine = rows[half:] if shard.index else rows[:half]
            part = f"{table}/{shard.part}"
            content = pa.Table.from_pylist(mine, SCHEMAS[table])
            files[part] = stage.folder.write_table(part, content)
        stage.mark_done(shard, files, 0, [] if shard.index else dead)
    if notes:
        stage.folder.write_json(NOTES, list(notes))
    asked = vars(config.visualize)
    run.record("visualize", {"key": "key", "visualize": asked, "needs": {}} | stage.finish(plan))
    return run


def numbers(run: Run) -> tuple[list[Row], list[str]]:
    return locality.rows(locality.opened(run, EVALUATION))


def of(rows: list[Row], **keys: Any) -> Row:
    (found,) = (each for each in rows if keys.items() <= each.items())
    return found


def drawn_photographs(count: int) -> np.ndarray:
    """(resamples, count) how often each photograph is drawn."""
    share = np.full(count, 1 / count)
    return np.random.default_rng(SEED).multinomial(count, share, RESAMPLES)


def interval(samples: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


# -- Figure 1's numbers --------------------------------------------------------------------------


def test_means_and_intervals_by_loops(tmp_path: Path) -> None:
    written = errors()
    rows, _ = numbers(write(tmp_path, errors=written))
    table = [row for row in rows if row["table"] == "figure1"]
    assert [(row["layer"], row["method"], row["k"]) for row in table] == [
        (layer, method, k) for layer in LAYERS for method in METHODS for k in (1, 5)
    ]
    draws = drawn_photographs(8)
    for row in table:
        keys = {key: row[key] for key in ("layer", "method", "k")}
        mine = [of(written, image=name(n), **keys) for n in range(8)]
        assert row["n"] == 8
        for measure, places in (("psnr", 2), ("colour", 2), ("ssim", 4)):
            values = [each[measure] for each in mine]
            assert row[measure] == round(np.mean(values), places)
            samples = [
                np.mean([v for v, n in zip(values, times, strict=True) for _ in range(n)])
                for times in draws
            ]
            ends = row[f"{measure}_low"], row[f"{measure}_high"]
            assert ends == pytest.approx(interval(samples), abs=0.51 * 10**-places)
        if row["method"] == UNIFORM:  # it has no cells whose category could be the same
            assert row["same_class"] is row["same_class_low"] is row["same_class_high"] is None
            continue
        shares = []
        for times in [np.ones(8, int), *draws]:
            alike, boxed = (
                sum(n * each[what] for each, n in zip(mine, times, strict=True))
                for what in ("alike", "boxed")
            )
            shares.append(100 * alike / boxed)
        assert row["same_class"] == pytest.approx(shares[0], abs=0.0051)
        ends = row["same_class_low"], row["same_class_high"]
        assert ends == pytest.approx(interval(shares[1:]), abs=0.0051)


def test_differences_are_paired_on_what_both_have(tmp_path: Path) -> None:
    """conv5 lacks two photographs."""
    written = [
        row for row in errors() if row["layer"] != "conv5" or row["image"] not in (name(1), name(6))
    ]
    rows, notes = numbers(write(tmp_path, errors=written))
    gains = [row for row in rows if row["table"] == "figure1-gain"]
    assert [row["method"] for row in gains if row["k"] == 5] == [
        "conv3 minus conv3 random",
        "conv3 minus conv3 uniform-rf",
        "conv4 minus conv3",
        "conv4 minus conv4 random",
        "conv4 minus conv3 uniform-rf",
        "conv4 minus conv4 uniform-rf",
        "conv5 minus conv4",
        "conv5 minus conv5 random",
        "conv5 minus conv3 uniform-rf",
        "conv5 minus conv5 uniform-rf",
    ]
    both = [0, 2, 3, 4, 5, 7]
    for what, other, method in (
        ("conv4", "conv4", NEIGHBOURS),
        ("conv3 uniform-rf", "conv3", UNIFORM),
    ):
        row = of(gains, method=f"conv5 minus {what}", k=5)
        assert row["n"] == 6
        for measure, places in (("psnr", 2), ("colour", 2), ("ssim", 4)):
            a, b = (
                [of(written, layer=x, image=name(n), method=m, k=5)[measure] for n in both]
                for x, m in (("conv5", NEIGHBOURS), (other, method))
            )
            differences = np.subtract(a, b)
            assert row[measure] == pytest.approx(differences.mean(), abs=0.51 * 10**-places)
            samples = [np.average(differences, weights=d[both]) for d in drawn_photographs(8)]
            ends = row[f"{measure}_low"], row[f"{measure}_high"]
            assert ends == pytest.approx(interval(samples), abs=0.51 * 10**-places)
    assert of(gains, method="conv3 minus conv3 random", k=1)["same_class"] is not None
    assert of(gains, method="conv3 minus conv3 uniform-rf", k=1)["same_class"] is None
    assert of(rows, table="figure1", layer="conv5", method=RANDOM, k=1)["n"] == 6
    assert "Of 8 photographs some are not rebuilt by a layer: conv5: 2." in notes


def test_a_constant_difference_has_no_width(tmp_path: Path) -> None:
    written = errors(ks=(1,))
    for row in written:
        if (row["layer"], row["method"]) == ("conv4", NEIGHBOURS):
            keys = {"layer": "conv3", "image": row["image"], "method": NEIGHBOURS}
            row["psnr"] = of(written, **keys)["psnr"] - 1.5
    row = of(numbers(write(tmp_path, errors=written))[0], method="conv4 minus conv3")
    assert row["psnr"] == row["psnr_low"] == row["psnr_high"] == -1.5
    assert row["colour_low"] < row["colour"] < row["colour_high"]


def test_what_cannot_be_compared_is_left_out_and_counted(tmp_path: Path) -> None:
    """Of three photographs one equals its original, one has no pixel, in no box is any cell."""
    values = {0: {"psnr": np.inf, "colour": 0.0, "ssim": 1.0}, 1: {"psnr": 12.5, "colour": 8.0}}
    values[1]["ssim"] = None
    values[2] = dict.fromkeys(("psnr", "colour", "ssim"))
    written = [
        error("conv3", name(n), NEIGHBOURS, 1, **values[n], alike=0, boxed=0, short=n)
        for n in range(3)
    ]
    run = write(tmp_path, errors=written, counts=[count("conv3", zeros=4, rf=600, field=500)])
    (row,), notes = numbers(run)
    assert (row["n"], row["psnr"], row["colour"], row["ssim"]) == (3, 12.5, 4.0, 1.0)
    assert (row["psnr_low"], row["psnr_high"], row["ssim_high"]) == (12.5, 12.5, 1.0)
    assert (row["colour_low"], row["colour_high"]) == (0.0, 8.0)
    assert row["same_class"] is row["same_class_low"] is None
    assert notes[1:] == [
        "Cells that are no one's neighbour, their feature being zero: conv3: 4.",
        "Figure 2 is without conv3: no random cell has its field to show.",
        "Rebuilt pictures that equal their original: 1. Their PSNR is infinite and left out of its "
        "mean; colour and SSIM count them.",
        "Of 3 rebuilt pictures 1 have no pixel to compare and 2 no window of SSIM: those means are "
        "without them.",
        "Cells rebuilt from fewer than k neighbours: conv3 at k = 1: 3.",
    ]
    report = tables.build(run)
    assert json.loads(report.to_json())["rows"] == json.loads(json.dumps(report.rows))
    (line,) = csv.DictReader(io.StringIO(report.to_csv("figure1")))
    assert (line["psnr"], line["same_class"], line["weights"]) == ("12.5", "", "the weights")


def test_a_single_photograph(tmp_path: Path) -> None:
    written = [error("conv3", name(0), method, 1) for method in METHODS]
    fields = [average("conv3", 0, NEIGHBOURS, 5)]
    rows, _ = numbers(write(tmp_path, errors=written, averages=fields, counts=[count("conv3")]))
    for row in rows:
        for measure in ("psnr", "colour", "ssim", "same_class", "ratio", "centre"):
            if measure in row:
                assert row[measure] == row[f"{measure}_low"] == row[f"{measure}_high"]


# -- Figure 2's numbers --------------------------------------------------------------------------


def test_spreads_by_loops(tmp_path: Path) -> None:
    """Six random cells in three photographs; one has no ratio, one few neighbours."""
    written = averages()
    lacking = of(written, layer="conv4", place=2, method=NEIGHBOURS, k=50)
    lacking |= {"ratio": None, "found": 20}
    lacking["profile"][3] = None
    rows, notes = numbers(write(tmp_path, errors=errors(1), averages=written))
    table = [row for row in rows if row["table"] == "figure2"]
    assert [(row["layer"], row["method"], row["k"]) for row in table] == [
        (layer, method, k) for layer in LAYERS for method in (NEIGHBOURS, RANDOM) for k in (5, 50)
    ]
    for row in table:
        keys = {key: row[key] for key in ("layer", "method", "k")}
        mine = [of(written, place=place, **keys) for place in range(6)]
        assert (row["n"], row["count"]) == (6, np.mean([each["found"] for each in mine]))
        measures = {
            "ratio": [each["ratio"] for each in mine],
            "centre": [known(each["profile"][:8]) for each in mine],
            "periphery": [known(each["profile"][14:31]) for each in mine],  # the edge is at 30 px
        }
        for measure, values in measures.items():
            samples = []
            for times in [np.ones(3, int), *drawn_photographs(3)]:
                by = times[[place % 3 for place in range(6)]]
                there = [n for n in range(6) if values[n] is not None and by[n]]
                if there:
                    samples.append(np.average([values[n] for n in there], weights=by[there]))
            assert row[measure] == pytest.approx(samples[0], abs=0.0051)
            ends = row[f"{measure}_low"], row[f"{measure}_high"]
            assert ends == pytest.approx(interval(samples[1:]), abs=0.0051)
        for radius in (0, 3, 42):
            spread = of(rows, table="figure2-profile", radius=radius, **keys)["spread"]
            assert spread == round(known([each["profile"][radius] for each in mine]), 2)
    assert len(rows) == len([r for r in rows if r["table"].startswith("figure1")]) + 12 * (1 + 43)
    assert "Averages of fewer than k fields: conv4 at k = 50: 1." in notes


def known(values: Sequence[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def test_a_field_too_small_for_a_periphery_and_one_neighbour(tmp_path: Path) -> None:
    few = [
        average("conv3", 0, NEIGHBOURS, 5, side=40, profile=[3.0] * 29, ratio=None),
        average("conv3", 0, NEIGHBOURS, 50, found=1, profile=[], ratio=None),
    ]
    few = [row | {"mean": None, "crop": None} for row in few]
    rows, _ = numbers(write(tmp_path, averages=few, counts=[count("conv3")]))
    for k in (5, 50):
        row = of(rows, table="figure2", k=k)
        assert row["ratio"] is row["centre"] is row["periphery"] is row["periphery_low"] is None
    profile = [row for row in rows if row["table"] == "figure2-profile"]
    assert [(row["k"], row["radius"], row["spread"]) for row in profile] == [
        (5, radius, 3.0) for radius in range(29)
    ]


# -- notes and the whole report ------------------------------------------------------------------


def test_notes_say_what_the_base_is(tmp_path: Path) -> None:
    shown = {"errors": errors(4), "averages": averages()}
    _, notes = numbers(write(tmp_path / "a", **shown, notes=["Of the stage."]))
    assert notes == [
        "Figures 1 and 2: neighbours among 7,200 cells of 30 training photographs, by cosine, "
        "exact search; photographs rebuilt: 4; random cells whose neighbours' fields are averaged: "
        "6 per layer.",
        "Of the stage.",
    ]
    parts = [{"layer": "conv3", "k": 5, "queries": q, "recall": r} for q, r in ((3, 0.8), (1, 1))]
    counts = [count("conv3"), count("conv3", cells=800, photographs=4), count("conv4", rf=600)]
    settings = ["visualize.mirrored=true", "visualize.base=all", "visualize.search=ivf"]
    letters = [DeadLetter("a.jpg", "a.jpg", "it is too small for conv5", broken=False)] * 2
    run = write(tmp_path / "b", settings=settings, recall=parts, counts=counts, dead=letters)
    _, notes = numbers(run)
    assert notes[0].startswith(
        "Figures 1 and 2: neighbours among 8,000 (conv3), 7,200 (conv4) cells of 34 (conv3), 30 "
        "(conv4) photographs of both splits and of their MIRROR IMAGES (not in the paper), by "
        "cosine, approximate search (ivf, 16 probes; recall 0.850 at k = 5); "
    )
    assert "1 photographs lack something, for example a.jpg: it is too small for conv5." in notes
    whole = [count("conv3", rf=600, field=200)]
    copies = [{"image": name(n), "other": name(9 + n), "agreement": 0.8} for n in (0, 0, 1)]
    shown = {"counts": whole, "averages": averages(1)[:2]}
    _, notes = numbers(write(tmp_path / "c", **shown, copies=copies))
    assert notes[1:] == [
        "Near copies in the data base, left out as the photograph itself is (not in the paper): 3, "
        "of 2 photographs.",
        "conv3's receptive field (600 px) is larger than its picture: Figure 2 averages 200 px "
        "about each cell, the picture's side.",
    ]
    _, notes = numbers(write(tmp_path / "d", settings=["visualize.copies=0"], **shown))
    assert notes[1] == "Near copies of the photographs in the data base are NOT left out."


def test_the_report_has_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path, errors=errors(), averages=averages())
    report = tables.build(run)
    assert report.tables == ["figure1", "figure1-gain", "figure2", "figure2-profile"]
    assert (report.weights, report.data, report.level) == ("the weights", "the data", LEVEL)
    assert tables.save(report, run)[1:] == [f"report/{table}.csv" for table in report.tables]
    print_report(report)
    printed = capsys.readouterr().out
    row = of(report.rows, table="figure1", layer="conv4", method=NEIGHBOURS, k=5)
    ends = [f"{row[f'psnr{end}']:.1f}" for end in ("", "_low", "_high")]
    wanted = f"{ends[0]} [{ends[1]}, {ends[2]}]"
    (line,) = (line for line in printed.split("\n") if wanted in line)
    assert line.split()[:4] == ["conv4", "neighbours", "5", "8"]
    assert "90 % intervals by photograph" in printed
    assert "figure2-profile" not in printed
    assert all(len(line) <= 100 for line in printed.split("\n") if "note: " not in line)
    # Of a stage that has begun anew.
    (tmp_path / "visualize" / "key" / "_done.json").unlink()
    with pytest.raises(DistcorrError, match="nothing to report"):
        tables.build(run)


def test_without_layers_there_is_nothing(tmp_path: Path) -> None:
    run = write(tmp_path, counts=[], notes=["No layer's cells are kept."])
    assert numbers(run) == ([], ["No layer's cells are kept."])
    for draws in (figure1, figure2, figure2_profile):
        with pytest.raises(DistcorrError) as caught:
            draws(run)
        assert "No layer's cells are kept." in caught.value.hint
    run.record("visualize", {"key": "other", "needs": {}})
    for draws in (figure1, figure2, figure2_profile):
        with pytest.raises(DistcorrError, match="no visualize that is finished"):
            draws(run)


# -- drawing -------------------------------------------------------------------------------------


class Watched:
    """What is put on a sheet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures: list[tuple[tuple[float, ...], np.ndarray, str]] = []
        self.frames: list[tuple[tuple[float, ...], str]] = []
        self.words: list[str] = []
        picture, frame, text = Sheet.picture, Sheet.frame, Sheet.text

        def pictured(sheet: Sheet, *args: Any) -> None:
            self.pictures.append((args[:4], args[4], args[5] if args[5:] else "nearest"))
            picture(sheet, *args)

        def framed(sheet: Sheet, corners: Any, colour: str, *args: Any) -> None:
            self.frames.append((corners, colour))
            frame(sheet, corners, colour, *args)

        def said(sheet: Sheet, x: float, y: float, words: str, *args: Any, **style: Any) -> None:
            self.words.append(words)
            text(sheet, x, y, words, *args, **style)

        for what, call in {"picture": pictured, "frame": framed, "text": said}.items():
            monkeypatch.setattr(Sheet, what, call)


def pixels(run: Run, stem: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(run.folder.read(f"report/{stem}.png")))
    return np.asarray(picture.convert("RGB"))


def shown(run: Run, stem: str, where: Sequence[float]) -> np.ndarray:
    x, y, width, height = (round(each) for each in where)
    return pixels(run, stem)[y : y + height, x : x + width]


def test_figure_1_shows_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the pixel: nothing is blurred. One photograph lacks conv5."""
    images = [name(0), name(1)]
    rows = [r for r in errors(3) if (r["layer"], r["image"]) != ("conv5", name(1))]
    run = write(tmp_path, errors=rows, pictures=pictures(rows, images))
    watched = Watched(monkeypatch)
    assert figure1(run) == ["report/figure1.png", "report/figure1.svg"]
    wanted = []
    for image in images:
        wanted.append(noise(image))
        for k in (1, 5):
            keys = [*((layer, NEIGHBOURS) for layer in LAYERS), ("conv3", UNIFORM)]
            wanted += [
                noise(layer, image, method, k)
                for layer, method in keys
                if (layer, image) != ("conv5", name(1))
            ]
    assert len(watched.pictures) == len(wanted) == 2 * (1 + 2 * 4) - 2
    for (where, picture, interpolation), stored in zip(watched.pictures, wanted, strict=True):
        np.testing.assert_array_equal(picture, stored)
        assert interpolation == "nearest"
        assert where[2:] == (200, 150)
    for where, picture, _ in watched.pictures[1:9]:
        np.testing.assert_array_equal(shown(run, "figure1", where), picture)
    assert watched.words.count("not rebuilt") == 2
    assert "uniform rf of conv3" in watched.words
    assert [word for word in watched.words if word.startswith("k =")] == ["k = 1", "k = 5"] * 2
    psnr = of(rows, layer="conv4", image=name(0), method=NEIGHBOURS, k=5)["psnr"]
    assert f"{psnr:.1f} dB" in watched.words
    legends = [" ".join(word.split()) for word in watched.words if "yellow" in word]
    assert legends == [
        "2011_000000 yellow: a patch, 16 px black: receptive fields, conv3 99 px, conv4 131 px, "
        "conv5 163 px (cut at the picture's edge)",
        "2011_000001 yellow: a patch, 16 px black: receptive fields, conv3 99 px, conv4 131 px",
    ]


def test_frames_have_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = errors(1, (1,))
    watched = Watched(monkeypatch)
    figure1(write(tmp_path, errors=rows, pictures=pictures(rows, [name(0)])))
    x, y, width, height = watched.pictures[0][0]
    assert (width, height) == (200, 150)
    frames = {colour: [] for colour in ("black", "yellow")}
    for corners, colour in watched.frames:
        frames[colour].append(tuple(np.subtract(corners, (x, y, x, y))))
    # About pixel (100, 75): 100 - 8 to 100 + 7; a field of 99 px from 51 to 149.
    assert frames["yellow"] == [(92, 67, 108, 83)]
    assert sorted(frames["black"]) == [(19, 0, 182, 150), (35, 10, 166, 141), (51, 26, 150, 125)]


def test_squares_are_drawn_in_the_photographs_aspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of one input size sees 100 x 100 px of 400 x 300."""
    rows = [error("block4", name(0), method, 1) for method in (NEIGHBOURS, UNIFORM)]
    stored = [kept("", name(0), ORIGINAL, 0, noise("o", size=(300, 400)))]
    stored += [
        kept("block4", name(0), method, 1, noise(method, size=(100, 100)))
        for method in (NEIGHBOURS, UNIFORM)
    ]
    counts = [count("block4", stride=20, rf=120, field=100)]
    watched = Watched(monkeypatch)
    run = write(tmp_path, errors=rows, pictures=stored, counts=counts)
    figure1(run)
    assert [where[2:] for where, _, _ in watched.pictures] == [(400, 300)] * 3
    x, y = watched.pictures[0][0][:2]
    assert watched.frames == [
        ((x, y, x + 400, y + 300), "black"),
        ((x + 160, y + 120, x + 240, y + 180), "yellow"),
    ]
    legend = " ".join(next(word for word in watched.words if "yellow" in word).split())
    assert "20 px of its 100 x 100 input" in legend
    assert "block4 120 px of its 100 x 100 input (cut at the picture's edge)" in legend
    left = shown(run, "figure1", watched.pictures[1][0])
    np.testing.assert_array_equal(left[1::3, 2::4], noise(NEIGHBOURS, size=(100, 100)))


def test_figure_1_of_many_and_of_odd_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven are kept, five are drawn; a large one is reduced, a tiny one grows."""
    rows = [error("conv3", name(n), NEIGHBOURS, 1, psnr=np.inf) for n in range(7)]
    sizes = {0: (1000, 500), 1: (30, 40)}
    stored = [
        kept(layer, name(n), method, k, noise(n, method, size=sizes.get(n, (60, 200))))
        for n in range(7)
        for layer, method, k in (("", ORIGINAL, 0), ("conv3", NEIGHBOURS, 1))
    ]
    watched = Watched(monkeypatch)
    figure1(write(tmp_path, errors=rows, pictures=stored, counts=[count("conv3")]))
    drawn = [where[2:] for where, _, _ in watched.pictures]
    assert drawn == [each for each in ((250, 500), (160, 120), *[(200, 60)] * 3) for _ in range(2)]
    assert watched.words.count("equal") == 5
    assert watched.words.count("not rebuilt") == 5  # no uniform rf


def test_figure_2_shows_means_with_their_contrast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = averages(3)
    for row in written:
        if row["place"] == 2:
            row |= {"mean": None, "crop": None}
    written = [row for row in written if (row["layer"], row["place"]) != ("conv5", 1)]
    of(written, layer="conv4", place=0, method=NEIGHBOURS, k=50)["found"] = 12
    run = write(tmp_path, errors=errors(1), averages=written)
    watched = Watched(monkeypatch)
    assert figure2(run) == ["report/figure2.png", "report/figure2.svg"]
    wanted = []
    for place in (0, 1):
        for layer in LAYERS:
            if (layer, place) == ("conv5", 1):
                continue
            rows = [of(written, layer=layer, place=place, method=NEIGHBOURS, k=k) for k in (5, 50)]
            wanted.append(np.frombuffer(rows[0]["crop"], np.uint8).reshape(60, 60, 3))
            for row in rows:
                mean = np.array(row["mean"], np.float32).astype(float).reshape(60, 60, 3)
                low, high = mean.min(), mean.max()
                wanted.append(np.rint((mean - low) * 255 / (high - low)).astype(np.uint8))
    assert len(watched.pictures) == len(wanted) == 15
    for (_, picture, _), stored in zip(watched.pictures, wanted, strict=True):
        np.testing.assert_array_equal(picture, stored)
    ratio = of(written, layer="conv4", place=0, method=NEIGHBOURS, k=50)["ratio"]
    assert f"only 12, ratio {ratio:.2f}" in watched.words
    assert {"conv3: 99 px", "conv4: 131 px", "mean of 5", "mean of 50"} <= set(watched.words)
    assert watched.words.count("none") == 2
    assert {"2011_000000", "2011_000001"} <= set(watched.words)


def test_words_stay_on_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And off each other, however long the names."""
    figures: list[Any] = []
    monkeypatch.setattr(charts, "save", lambda run, stem, figure: figures.append(figure) or [])
    layers = ["a_network_of_one's_own:encoder.layer.11.output", "conv4"]
    image = "VOCdevkit/a_photograph_with_a_very_long_name_of_many_words_and_$digits$_0123456789.jpg"
    rows = [
        error(layer, image, m, k) for layer in layers for m in (NEIGHBOURS, UNIFORM) for k in (1, 5)
    ]
    fields = [average(layer, 0, NEIGHBOURS, 500, image=image, found=123) for layer in layers]
    run = write(
        *(tmp_path, (), ["visualize.mirrored=true", "visualize.search=ivf"]),
        errors=rows,
        pictures=pictures(rows, [image]),
        averages=fields,
        counts=[count(layer, rf=900, field=800) for layer in layers],
    )
    figure1(run)
    figure2(run)
    for figure in figures:
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [text.get_window_extent() for text in axes.texts]
        for n, (box, text) in enumerate(zip(boxes, axes.texts, strict=True)):
            assert (box.x0, box.y0) >= (0, 0), text
            assert box.x1 <= figure.bbox.width, text
            assert box.y1 <= figure.bbox.height, text
            assert not any(box.overlaps(other) for other in boxes[:n]), text
        for box in boxes:  # nor on a picture, in which words would be hard to read
            assert not any(box.overlaps(image.get_window_extent()) for image in axes.images)


def test_profiles_are_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(charts, "save", lambda run, stem, figure: figures.append(figure) or [])
    settings = ["visualize.mirrored=true"]
    run = write(tmp_path, errors=errors(1), averages=averages(), settings=settings)
    figure2_profile(run)
    rows = [row for row in numbers(run)[0] if row["table"] == "figure2-profile"]
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ["conv3: 99 px", "conv4: 131 px", "conv5: 163 px"]
    lines = {line.get_label(): line for line in axes[1].lines}
    for label, style, method, k in (("k = 50", "-", NEIGHBOURS, 50), ("5 random", "--", RANDOM, 5)):
        mine = [r for r in rows if (r["layer"], r["method"], r["k"]) == ("conv4", method, k)]
        assert lines[label].get_linestyle() == style
        assert lines[label].get_xdata().tolist() == list(range(43))
        assert lines[label].get_ydata().tolist() == [row["spread"] for row in mine]
    assert "mirror images" in figures[0].get_suptitle()


def test_all_figures_in_equal_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, images = errors(1, (1,)), [name(0)]
    parts = {"errors": rows, "pictures": pictures(rows, images), "averages": averages(1, (5,))}
    run = write(tmp_path / "a", **parts)
    draw(run)
    made = {stem: run.folder.read(f"report/{stem}") for stem in run.folder.sizes("report")}
    stems = ("figure1", "figure2", "figure2-profile")
    assert set(made) == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    for stem, content in made.items():
        if stem.endswith("svg"):
            ET.fromstring(content)
            assert b"Matplotlib v" not in content
    draw(run, None, ["cat"])  # they are of no category
    assert {stem: run.folder.read(f"report/{stem}") for stem in made} == made
    bare = write(tmp_path / "b", errors=rows)
    draw(bare, None, ["cat"])
    said = capsys.readouterr().err
    assert "keeps no rebuilt photographs" in said
    assert "keeps no averaged fields" in said
    assert not bare.folder.sizes("report")

"""What is read back of ``visualize``, from parts written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distcorr.data.classified import NOTES
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.data.visualized import (
    AVERAGES,
    COPIES,
    COUNTS,
    ERRORS,
    NEIGHBOURS,
    ORIGINAL,
    PICTURES,
    RANDOM,
    RECALL,
    UNIFORM,
    Base,
    Rebuilt,
    Visualized,
)
from distcorr.errors import MISSING, DistcorrError

SCHEMAS = {"errors": ERRORS, "pictures": PICTURES, "averages": AVERAGES, "counts": COUNTS}
SCHEMAS |= {"copies": COPIES, "recall": RECALL}
Row = dict[str, Any]


def write(folder: Path, *shards: dict[str, Sequence[Row]], notes: list[str] | None = None) -> Run:
    """A finished ``visualize`` of such parts, one dictionary per shard: table -> rows."""
    run = Run(str(folder))
    stage = run.stage("visualize", "key")
    plan = [Shard(n, "x", ("item",)) for n in range(len(shards))]
    for shard, tables in zip(plan, shards, strict=True):
        files = {
            f"{name}/{shard.part}": stage.folder.write_table(
                f"{name}/{shard.part}", pa.Table.from_pylist(list(rows), SCHEMAS[name])
            )
            for name, rows in tables.items()
        }
        stage.mark_done(shard, files, 1)
    stage.finish(plan)
    if notes:
        stage.folder.write_json(NOTES, notes)
    return run


def opened(run: Run) -> Visualized:
    return Visualized(stage_of(run))


def stage_of(run: Run) -> StageFolder:
    return run.stage("visualize", "key")


def count(layer: str, cells: int, **values: int) -> Row:
    row = {"layer": layer, "cells": cells, "zeros": 1, "whole": 2, "photographs": 3}
    return row | {"stride": 16, "rf": 99, "field": 99} | values


def error(layer: str, image: str, method: str = NEIGHBOURS, k: int = 1, **values: Any) -> Row:
    row = {"layer": layer, "image": image, "method": method, "k": k, "psnr": 20.5, "colour": 3.25}
    return row | {"ssim": 0.5, "cells": 9, "short": 1, "alike": 2, "boxed": 4} | values


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def kept(layer: str, image: str, method: str, k: int, pixels: np.ndarray) -> Row:
    row = {"layer": layer, "image": image, "method": method, "k": k}
    return row | {"height": len(pixels), "width": len(pixels[0]), "pixels": pixels.tobytes()}


# -- numbers -------------------------------------------------------------------------------------


def test_pieces_of_a_data_base_are_added_up_and_places_are_not(tmp_path: Path) -> None:
    run = write(
        tmp_path,
        {"counts": [count("conv3", 10)]},
        {"counts": [count("conv3", 2**33, zeros=5, whole=2**33, photographs=0)]},
        {"counts": [count("conv5", 7, rf=163, field=120, stride=8)]},
        {"counts": [count("conv3", 1)]},
    )
    made = opened(run)
    assert made.layers == ["conv3", "conv5"]
    assert made.bases == {
        "conv3": Base(2**33 + 11, 7, 2**33 + 4, 16, 99, 99, 6),
        "conv5": Base(7, 1, 2, 8, 163, 120, 3),
    }


def test_the_order_is_that_of_the_plan(tmp_path: Path) -> None:
    shards: list[dict[str, Sequence[Row]]] = [{} for _ in range(12)]
    shards[2] = {
        "counts": [count("conv5", 1)],
        "errors": [error("conv5", "b"), error("conv5", "a")],
    }
    shards[11] = {"counts": [count("conv3", 1)], "errors": [error("conv3", "c")]}
    made = opened(write(tmp_path, *shards))
    assert made.layers == ["conv5", "conv3"]
    assert made.images == ["b", "a", "c"]


def test_numbers_are_those_that_were_written_and_null_is_not_a_number(tmp_path: Path) -> None:
    rows = [
        error("conv3", "a", psnr=None, colour=0.0, ssim=None),
        error("conv3", "a", UNIFORM, 5, psnr=np.inf, short=0),
        error("conv3", "b", RANDOM, 5, colour=None),
    ]
    made = opened(write(tmp_path, {"errors": rows[:1]}, {"errors": rows[1:]}))
    blank, equal, plain = made.rebuilt
    assert np.isnan([blank.psnr, blank.ssim, plain.colour]).all()
    assert equal == Rebuilt("conv3", "a", UNIFORM, 5, np.inf, 3.25, 0.5, 9, 0, 2, 4)
    assert blank[:4] + blank[7:] == ("conv3", "a", NEIGHBOURS, 1, 9, 1, 2, 4)
    assert (plain.psnr, plain.ssim, blank.colour) == (20.5, 0.5, 0.0)
    assert made.images == ["a", "b"]
    assert (made.shown, made.copies, made.recall, made.notes) == ([], {}, {}, [])


def test_recall_is_a_mean_over_queries(tmp_path: Path) -> None:
    def row(layer: str, k: int, queries: int, recall: float | None) -> Row:
        return {"layer": layer, "k": k, "queries": queries, "recall": recall}

    made = opened(
        write(
            tmp_path,
            {"recall": [row("conv3", 1, 200, 0.5), row("conv3", 5, 200, 0.25)]},
            {"recall": [row("conv3", 1, 50, 1.0), row("conv3", 5, 50, 0.5)]},
            {"recall": [row("conv5", 1, 10, 0.125)]},
        )
    )
    assert made.recall == {"conv3": {1: 0.6, 5: 0.3}, "conv5": {1: 0.125}}


@pytest.mark.parametrize("nothing", [(0, np.nan), (7, np.nan), (0, None)])
def test_photographs_without_neighbours_do_not_spoil_the_recall(
    tmp_path: Path, nothing: tuple[int, float | None]
) -> None:
    """All of a group are missing, or all of its cells are zero: nothing could be found."""
    queries, recall = nothing
    blank = {"layer": "conv3", "k": 1, "queries": queries, "recall": recall}
    found = blank | {"queries": 8, "recall": 0.75}
    assert opened(write(tmp_path / "a", {"recall": [blank, found]})).recall == {"conv3": {1: 0.75}}
    assert opened(write(tmp_path / "b", {"recall": [blank]})).recall == {}


def test_near_copies_by_photograph(tmp_path: Path) -> None:
    rows = [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]
    tables = [
        [{"image": a, "other": b, "agreement": 0.5} for a, b in part] for part in (rows[:3], [])
    ]
    made = opened(write(tmp_path, *({"copies": table} for table in tables)))
    assert made.copies == {"a": ["x", "y"], "b": ["x"]}


def test_notes(tmp_path: Path) -> None:
    assert opened(write(tmp_path, {}, notes=["two of them", "no cells"])).notes == [
        "two of them",
        "no cells",
    ]


def test_nothing_at_all(tmp_path: Path) -> None:
    run = write(tmp_path)
    made = opened(run)
    assert (made.layers, made.images, made.shown, made.rebuilt) == ([], [], [], [])
    assert (made.bases, made.copies, made.recall) == ({}, {}, {})
    assert list(made.averages()) == []
    empty = {name: [] for name in SCHEMAS}
    assert opened(write(tmp_path / "empty", empty, empty)).bases == {}


# -- pictures ------------------------------------------------------------------------------------


def test_pictures_wherever_they_are(tmp_path: Path) -> None:
    keys = [
        ("", "a", ORIGINAL, 0),
        ("conv3", "a", NEIGHBOURS, 1),
        ("conv3", "a", NEIGHBOURS, 5),
        ("conv3", "a", RANDOM, 5),
        ("conv3", "b", NEIGHBOURS, 1),
        ("conv5", "a", NEIGHBOURS, 1),
    ]
    pictures = {key: noise(3 + n, 7 - n, seed=n) for n, key in enumerate(keys)}
    rows = [kept(*key, picture) for key, picture in pictures.items()]
    errors = [error("conv3", image) for image in ("c", "b", "a")]
    parts = [{"pictures": rows[:4], "errors": errors}, {"pictures": []}, {"pictures": rows[4:]}]
    made = opened(write(tmp_path, *parts))
    for _ in "twice":
        for key in reversed(keys):
            np.testing.assert_array_equal(made.picture(*key), pictures[key])
    assert made.images == ["c", "b", "a"]
    assert made.shown == ["b", "a"]  # as drawn, not as kept


@pytest.mark.parametrize(
    "key",
    [
        ("conv4", "a", NEIGHBOURS, 1),
        ("conv3", "b", NEIGHBOURS, 1),
        ("conv3", "a", UNIFORM, 1),
        ("conv3", "a", NEIGHBOURS, 2),
    ],
)
def test_a_picture_that_was_not_kept(tmp_path: Path, key: tuple[str, str, str, int]) -> None:
    made = opened(write(tmp_path, {"pictures": [kept("conv3", "a", NEIGHBOURS, 1, noise(2, 2))]}))
    layer, image, method, k = key
    words = rf"No picture of {image} by {layer} \({method}, k = {k}\) was kept"
    with pytest.raises(DistcorrError, match=words) as caught:
        made.picture(*key)
    assert caught.value.exit_code == MISSING
    assert "visualize.shown" in caught.value.hint


# -- averages ------------------------------------------------------------------------------------


def average(layer: str, place: int, side: int, pictured: bool, **values: Any) -> Row:
    row = {"layer": layer, "place": place, "image": "a", "row": 1, "col": 2, "k": 5, "side": side}
    row |= {"method": NEIGHBOURS, "found": 4, "ratio": 0.5, "profile": [1.0, None, 3.0]}
    mean = noise(side, side, seed=place).astype(np.float32) + np.float32(0.25)
    crop = noise(side, side, seed=place + 1)
    row |= {
        "mean": mean.ravel() if pictured else None,
        "crop": crop.tobytes() if pictured else None,
    }
    return row | values


def test_averages_are_those_that_were_written(tmp_path: Path) -> None:
    rows = [average("conv3", 0, 4, True), average("conv3", 1, 4, False, ratio=None, profile=[])]
    last = average("conv5", 0, 6, True, method=RANDOM, k=500, found=499)
    made = opened(write(tmp_path, {"averages": rows}, {"averages": [last]}))
    first, second, third = made.averages()
    assert first[:10] == ("conv3", 0, "a", 1, 2, NEIGHBOURS, 5, 4, 4, 0.5)
    np.testing.assert_array_equal(first.profile, [1, np.nan, 3])
    for found, place, side in ((first, 0, 4), (third, 0, 6)):
        assert found.mean is not None
        assert found.crop is not None
        assert (found.mean.dtype, found.crop.dtype) == (np.float32, np.uint8)
        np.testing.assert_array_equal(found.mean, noise(side, side, seed=place) + 0.25)
        np.testing.assert_array_equal(found.crop, noise(side, side, seed=place + 1))
    assert (second.mean, second.crop, len(second.profile)) == (None, None, 0)
    assert np.isnan(second.ratio)
    assert (third.layer, third.method, third.k, third.found) == ("conv5", RANDOM, 500, 499)
    assert [each.place for each in made.averages()] == [0, 1, 0]  # and again


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["counts", "errors", "pictures", "copies", "recall"])
@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_part_that_is_lost_or_torn_is_named(tmp_path: Path, table: str, fault: str) -> None:
    rows: dict[str, Sequence[Row]] = {name: [] for name in SCHEMAS}
    run = write(tmp_path, rows)
    (path,) = tmp_path.rglob(f"{table}/part-00000.parquet")
    path.unlink() if fault == "missing" else path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DistcorrError, match=f"{table}/part-00000.parquet") as caught:
        opened(run)
    assert caught.value.exit_code == MISSING


def test_a_part_that_is_lost_later_is_named_too(tmp_path: Path) -> None:
    run = write(
        tmp_path,
        {
            "pictures": [kept("conv3", "a", NEIGHBOURS, 1, noise(2, 2))],
            "averages": [average("conv3", 0, 4, True)],
        },
    )
    made = opened(run)
    for path in tmp_path.rglob("part-00000.parquet"):
        path.unlink()
    with pytest.raises(DistcorrError, match="pictures/part-00000"):
        made.picture("conv3", "a", NEIGHBOURS, 1)
    with pytest.raises(DistcorrError, match="averages/part-00000"):
        list(made.averages())

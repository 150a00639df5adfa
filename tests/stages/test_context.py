"""Context around the boxes: what grids show, where keypoints land, and what stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.transfer import carry
from distcorr.data import voc
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report.canvas import Canvas
from distcorr.report.figures import figure3
from distcorr.report.predictions import COPY, predictions
from distcorr.stages.features import load_network, wishes
from distcorr.stages.match import match_photographs
from distcorr.types import Box, Dataset
from tests.stages.common import contents, run_all, saved_pairs, stage_folder, toy_config

Settings = Callable[..., list[str]]
STAGES = ("build-db", "neighbors", "transfer")
SIDE, CONTEXT = 224, 16  # px of the network's input, and of the margin
FEW = ("features.points=[]", "features.cells=[]", "features.grids=[]", "flow.features=auto")
ASKED = ("compute.address=inline", f"features.context={CONTEXT}", *FEW)


def by_hand(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Corner and size of what R-CNN cuts out: the box enlarged about its centre, edge to edge."""
    size = np.array([box.width, box.height])
    centre = np.array(box[:2]) - 0.5 + size / 2
    size = size * SIDE / (SIDE - 2 * CONTEXT)
    return centre - size / 2, size


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory, toy_settings: Settings) -> Path:
    folder = tmp_path_factory.mktemp("framed") / "run"
    run_all(folder, toy_settings(*ASKED), STAGES)
    return folder


def opened(folder: Path) -> FeatureStore:
    stage = Run(str(folder)).current("build-db")
    assert stage is not None
    return FeatureStore(stage)


def photograph(folder: Path, image: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "toy" / image).convert("RGB"))


def test_grids_show_the_context_and_vectors_do_not(
    framed: Path, finished: Path, toy_settings: Settings
) -> None:
    ours, plain = opened(framed), opened(finished)
    assert (ours.context, plain.context) == (CONTEXT / SIDE, 0)
    assert ours.tables["grids/block10"] != plain.tables["grids/block10"]
    assert ours.main["vectors"] == plain.main["vectors"]
    vectors = f"store/{plain.main['vectors']}/"
    same = {n: c for n, c in contents(finished).items() if n.startswith(vectors)}
    assert same
    assert {n: c for n, c in contents(framed).items() if n.startswith(vectors)} == same
    config = toy_config(toy_settings(*ASKED))
    wanted = wishes(config, load_network(config.features)).wanted[0]
    assert wanted.feature.made["context"] == "16 of 224 px"
    instance = ours.instances[4]
    start, size = by_hand(instance.box)
    box = Box(*(start + 0.5), *(start + size - 0.5))
    crop = crop_square(photograph(framed, instance.image), box, SIDE)
    expected = wanted.source(crop[None], ("block10",))["block10"][0]
    _, (grid,), _ = ours.read("grids/block10", [instance.id])
    _, (other,), _ = plain.read("grids/block10", [instance.id])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(grid, expected, rtol=2e-3, atol=2e-3 * scale)
    assert np.abs(other - expected).max() > 0.1 * scale


def test_without_context_nothing_is_said_of_it(toy_settings: Settings, finished: Path) -> None:
    config = toy_config(toy_settings())
    network = load_network(config.features)
    for wanted in wishes(config, network).wanted:
        assert "context" not in wanted.feature.made
        assert opened(finished).tables[wanted.feature.name] == wanted.feature.folder
    table = (stage_folder(finished, "build-db") / "instances.parquet").read_bytes()
    assert b"context" not in table


def test_keypoints_are_carried_between_the_frames(framed: Path) -> None:
    store = opened(framed)
    by_id = {i.id: i for i in store.instances}
    _, _, meta = store.read("grids/block10", [store.instances[0].id])
    for row in saved_pairs(framed).to_pylist()[::9]:
        target, other = by_id[row["target"]], by_id[row["neighbor"]]
        (start, size), (first, extent) = by_hand(other.box), by_hand(target.box)
        points = (other.keypoints - start) / size * SIDE - 0.5
        displacement = np.array(row["displacement"], np.int16).reshape(14, 14, 2)
        moved = carry(points, displacement, meta.geometry)
        wanted = (moved + 0.5) / SIDE * extent + first
        np.testing.assert_allclose(np.reshape(row["carried"], (-1, 2)), wanted, atol=1e-4)


def test_copying_and_the_scale_of_pck_are_of_the_boxes(framed: Path, finished: Path) -> None:
    ours, plain = (predictions(Run(str(run))).to_pylist() for run in (framed, finished))
    copied = [[r for r in rows if r["method"] == COPY] for rows in (ours, plain)]
    assert copied[0] == copied[1]
    flows = [[r for r in rows if r["method"] == "block10 flow"] for rows in (ours, plain)]
    assert flows[0] != flows[1]
    scales = {i.id: max(i.box.width, i.box.height) - 1 for i in opened(framed).instances}
    assert all(r["scale"] == pytest.approx(scales[r["instance"]]) for r in ours)


def test_the_figure_shows_the_frames(
    framed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(framed, tmp_path / "run")
    drawn: dict[str, np.ndarray] = {}
    picture, points = Canvas.picture, Canvas.points

    def shown(self: Canvas, row: int, column: int, image: np.ndarray, title: str) -> None:
        drawn.setdefault(title, image)
        picture(self, row, column, image, title)

    def dots(self: Canvas, row: int, column: int, xy: np.ndarray, seen: np.ndarray) -> None:
        drawn.setdefault(f"points {column}", xy)
        points(self, row, column, xy, seen)

    monkeypatch.setattr(Canvas, "picture", shown)
    monkeypatch.setattr(Canvas, "points", dots)
    figure3(Run(str(tmp_path / "run")), rows=1)
    target = opened(framed).members("butterfly", "val")[1]
    start, size = by_hand(target.box)
    np.testing.assert_allclose(drawn["points 0"], (target.keypoints - start) / size)
    crop = drawn["butterfly: truth"]
    alone = crop_square(photograph(framed, target.image), target.box, SIDE - 2 * CONTEXT)
    inner = crop[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT].astype(int)
    assert np.abs(inner - alone)[2:-2, 2:-2].max() <= 1  # at its border it stretches the edge


def load_one_outside(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """The toy photographs; the first box lies beyond its photograph, but its context does not."""
    dataset = voc.load(root, categories=["fish"], limit=1)
    first, *rest = dataset.instances
    return replace(dataset, instances=(replace(first, box=Box(-101.0, 5.0, -2.0, 90.0)), *rest))


def test_who_is_left_out_does_not_depend_on_what_else_is_made(
    finished: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    loader = f"dataset.name={__name__}:load_one_outside"
    settings = toy_settings(*ASKED, loader, f'dataset.root="{finished / "toy"}"')
    run_all(tmp_path / "run", settings, ["build-db"])
    store = opened(tmp_path / "run")
    assert store.dead == {store.instances[0].id}
    before = contents(tmp_path / "run")
    folder = tmp_path / "run" / "store" / store.tables["grids/block10"]
    for file in folder.iterdir():
        file.unlink()
    assert run_all(tmp_path / "run", settings, ["build-db"])["build-db"].computed
    assert contents(tmp_path / "run") == before


def test_a_run_has_one_context(framed: Path, toy_settings: Settings) -> None:
    with pytest.raises(DistcorrError, match=r"features\.context: 16 -> 8"):
        run_all(framed, toy_settings(*ASKED, "features.context=8"), ["build-db"])


def test_context_must_leave_something_to_the_box(tmp_path: Path, toy_settings: Settings) -> None:
    settings = toy_settings(*ASKED, "features.context=112")
    with pytest.raises(DistcorrError, match="leave something of 224 px to the box, got 112 px"):
        run_all(tmp_path / "run", settings, ["build-db"])


def test_match_takes_boxes_as_they_are() -> None:
    with pytest.raises(DistcorrError, match=r"features\.context must be 0, got 16") as caught:
        match_photographs(("a.png", "b.png"), toy_config(["features.context=16"]))
    assert "larger boxes" in caught.value.hint

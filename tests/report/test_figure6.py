"""Figure 6, the score maps behind it and the curves: what is drawn, in equal bytes."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distcorr.algorithms.crop import from_square
from distcorr.cli.common import draw
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import charts, detection_curves, figure6
from distcorr.report.canvas import Canvas
from distcorr.types import Instance
from tests.report.test_detection import BOTH, NAMES, ROWS, SIDE, errors, instances, write

SVG = "{http://www.w3.org/2000/svg}image"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write(tmp_path_factory.mktemp("drawn"), BOTH)


class Watched:
    """Canvas calls, by the picture that they are about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.titles: dict[tuple[int, int], str] = {}
        self.dots: dict[tuple[int, int], np.ndarray] = {}
        self.marks: dict[tuple[int, int, str], np.ndarray] = {}
        self.images: dict[tuple[int, int], np.ndarray] = {}

        def picture(canvas: Canvas, row: int, column: int, image: np.ndarray, title: str) -> None:
            self.titles[row, column], self.images[row, column] = title, image

        def points(canvas: Canvas, row: int, column: int, xy: np.ndarray, shown: Any) -> None:
            self.dots[row, column] = np.where(np.array(shown)[:, None], xy, np.nan)

        def mark(canvas: Canvas, row: int, column: int, xy: np.ndarray, marker: str) -> None:
            self.marks[row, column, marker] = xy

        for name, call in {"picture": picture, "points": points, "mark": mark}.items():
            monkeypatch.setattr(Canvas, name, call)


def val(category: str) -> list[Instance]:
    return [i for i in instances() if (i.category, i.split) == (category, "val")]


def test_all_figures_in_equal_bytes(run: Run) -> None:
    draw(run)
    stems = ("figure6", "figure6-scores", "figure-eta", "figure-mining")
    names = {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert set(run.folder.sizes("report")) == names
    made = {name: run.folder.read(f"report/{name}") for name in names}
    for name, content in made.items():
        if name.endswith("png"):
            assert np.asarray(Image.open(io.BytesIO(content)).convert("L")).std() > 10
    assert len(ET.fromstring(made["figure6.svg"]).findall(f".//{SVG}")) == 2 * 2 * 3
    run.folder.write("report/figure6-old.png", b"of an earlier report")
    draw(run)
    assert {name: run.folder.read(f"report/{name}") for name in run.folder.sizes("report")} == made


def test_truth_then_every_layer_of_two_instances(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    assert figure6.figure6(run) == ["report/figure6.png", "report/figure6.svg"]
    titles = ["truth", "dsift8 + prior", "conv5 + prior"] * 2  # SIFT first, as in the paper
    for row, category in enumerate(("cat", "bird")):  # the paper's cat first
        wanted = [f"{category}: truth" if t == "truth" else t for t in titles]
        assert [watched.titles[row, column] for column in range(6)] == wanted
        for n, instance in enumerate((val(category)[1], val(category)[3])):  # evenly spaced
            for column, layer, eta in ((0, "", 0.0), (1, "dsift8", 0.5), (2, "conv5", 0.1)):
                shares = watched.dots[row, 3 * n + column]
                there = from_square(shares - 0.5, instance.box, 1)
                truth = np.where(instance.visible[:, None], instance.keypoints, np.nan)
                if layer:
                    etas = (0.0, 0.1, 0.5, 1.0)
                    truth[:, 0] += errors(layer, instance, etas)[:, etas.index(eta)]
                np.testing.assert_allclose(there, truth, atol=1e-4)


def test_categories_that_are_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    figure6.figure6(run, ["bird"])
    assert {row for row, _ in watched.titles} == {0}
    for draws in (figure6.figure6, figure6.figure6_scores):
        with pytest.raises(DistcorrError, match=r"Nothing was detected in 'brid'\. Did you mean"):
            draws(run, ["brid"])
    with pytest.raises(DistcorrError, match="Nothing was detected in 'brid'"):
        detection_curves.figure_eta(run, "brid")
    with pytest.raises(DistcorrError, match="Nothing was detected in 'brid'"):
        draw(run, None, ["brid"])


def test_score_maps_show_their_maxima(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    figure6.figure6_scores(run, ["cat"])
    instance = val("cat")[1]
    shown = [name for name, v in zip(NAMES["cat"], instance.visible, strict=True) if v]
    assert [watched.titles[row, 0] for row in range(len(shown))] == [f"cat: {n}" for n in shown]
    assert [watched.titles[0, column] for column in range(1, 6)] == [
        *("prior", "dsift8", "dsift8 + prior, eta 0.5", "conv5", "conv5 + prior, eta 0.1")
    ]
    along = 50 + 80 * np.arange(ROWS)
    for row, name in enumerate(shown):
        k = NAMES["cat"].index(name)
        for column, layer, eta in ((2, "dsift8", 0), (3, "dsift8", 0.5), (5, "conv5", 0.1)):
            scores = np.random.default_rng([k, *layer.encode()]).normal(size=(ROWS, ROWS))
            best = {}
            for (y, x), s in np.ndenumerate(scores.astype(np.float32)):
                away = 0 if k else (along[x] - 130) ** 2 + (along[y] - 290) ** 2
                best[x, y] = -(1 - eta) * np.log1p(np.exp(-s)) - eta * away / (2 * 22**2)
            at = np.array(max(best, key=best.__getitem__))
            wanted = (along[at] + 0.5) / SIDE
            np.testing.assert_allclose(watched.marks[row, column, "x"], wanted)
            truth = from_square(watched.marks[row, column, "o"] - 0.5, instance.box, 1)
            np.testing.assert_allclose(truth, instance.keypoints[k], atol=1e-4)
    if len(shown) > 1:
        assert watched.titles[1, 1] == "no prior"


def test_heat_lies_where_its_cells_are() -> None:
    picture = np.full((100, 100, 3), 200, np.uint8)
    along = np.array([30.0, 50.0])  # px of a square of 100: cells from 20 to 60
    centres = np.stack(np.meshgrid(along, along), axis=-1)
    drawn = figure6.overlaid(picture, np.array([[0.0, 0.0], [0.0, 1.0]]), centres, 100)
    bare = (drawn == 200).all(axis=2)
    assert not bare[21:60, 21:60].any()
    assert bare[:20].all()
    assert bare[:, 61:].all()
    bright = drawn.astype(int).sum(axis=2)
    assert (bright[41:60, 41:60] == bright[50, 50]).all()
    assert bright[50, 50] > bright[30, 30] == bright[30, 50]


def test_without_score_maps_the_rest_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path, BOTH, maps=False)
    with pytest.raises(DistcorrError, match="keeps no score maps") as caught:
        figure6.figure6_scores(run)
    assert "detect.maps" in caught.value.hint
    draw(run, None, ["cat"])  # asked for by name, and still no error
    assert "keeps no score maps" in capsys.readouterr().err
    assert {name.split(".")[0] for name in run.folder.sizes("report")} == {
        *("figure6", "figure-eta", "figure-mining")
    }


def test_a_layer_that_lacks_a_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"conv5": ("bird", "cat"), "dsift8": ("cat",)}
    run = write(tmp_path, layers, blind=[("conv5", "Nose")])
    watched = Watched(monkeypatch)
    figure6.figure6(run, ["bird"])
    assert watched.titles[0, 1] == "dsift8: not detected"
    assert np.isnan(watched.dots[0, 2][NAMES["bird"].index("Nose")]).all()
    figure6.figure6_scores(run, ["bird"])
    assert watched.titles[0, 3] == "dsift8: not detected"


def test_a_control_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path, {"conv5": ("bird",)}, etas=[0.1], control="shuffled-labels")
    watched = Watched(monkeypatch)
    figure6.figure6(run)
    assert watched.titles[0, 1] == "CONTROL conv5 + prior"
    monkeypatch.setattr(charts, "save", lambda run, stem, figure: [figure.get_suptitle()])
    for draws in (detection_curves.figure_eta, detection_curves.figure_mining):
        assert draws(run)[0].startswith("CONTROL, shuffled-labels: ")


def test_curves_are_the_rows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(charts, "save", lambda run, stem, figure: figures.append(figure) or [])
    detection_curves.figure_eta(run, "cat")
    detection_curves.figure_mining(run)
    rows = detection_curves.eta_rows(detection_curves.detection.opened(run))
    (axis,) = figures[0].axes
    for layer, chosen in (("conv5", 0.1), ("dsift8", 0.5)):
        mine = [row for row in rows if (row["layer"], row["category"]) == (layer, "cat")]
        (curve,) = (line for line in axis.lines if line.get_label() == layer)
        assert curve.get_xdata().tolist() == [0, 0.1, 0.5, 1]
        assert curve.get_ydata().tolist() == [row["value"] for row in mine]
        dots = {tuple(np.ravel(x.get_xydata())) for x in axis.lines if x.get_marker() == "o"}
        assert {(row["eta"], row["value"]) for row in mine if row["eta"] == chosen} <= dots
    (axis,) = figures[1].axes
    (mean,) = (line for line in axis.lines if line.get_label() == "conv5")
    assert mean.get_xydata().tolist() == [[1, 12.5], [2, 5]]  # 5 and 2 for each of 3 or 2 types


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    run = write(tmp_path, {})
    for draws in (
        *(figure6.figure6, figure6.figure6_scores),
        *(detection_curves.figure_eta, detection_curves.figure_mining),
    ):
        with pytest.raises(DistcorrError, match="nothing to detect"):
            draws(run)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["stages"].pop("detect")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DistcorrError, match="no detect that is finished"):
        figure6.figure6(run)


def test_a_photograph_that_has_gone_is_named(tmp_path: Path) -> None:
    run = write(tmp_path, {"conv5": ("cat",)}, etas=[0.1])
    gone = val("cat")[1].image
    (tmp_path / "toy" / gone).unlink()
    with pytest.raises(DistcorrError, match=f"{gone} is missing"):
        figure6.figure6(run)

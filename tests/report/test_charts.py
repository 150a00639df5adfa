"""Figure 5 and confusion matrices: what is drawn is what was counted, in equal bytes."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import charts, classification
from tests.report.test_classification import (
    ANSWERS,
    CONFIG,
    CS,
    LAYERS,
    NAMES,
    SEED,
    chosen_c,
    drawn_answers,
    opened,
    write,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write(tmp_path_factory.mktemp("charts"), ANSWERS)


def content(run: Run, names: list[str]) -> dict[str, bytes]:
    return {name: run.folder.read(name) for name in names}


def test_png_and_svg_in_equal_bytes(run: Run) -> None:
    names = charts.figure5(run) + charts.confusion(run)
    stems = ("figure5", "confusion-bird", "confusion-cat")
    assert names == [f"report/{stem}.{kind}" for stem in stems for kind in ("png", "svg")]
    made = content(run, names)
    for name, data in made.items():
        if name.endswith("png"):
            assert np.asarray(Image.open(io.BytesIO(data)).convert("L")).std() > 10
        else:
            ET.fromstring(data)
            assert not re.search(rb"\d{4}-\d\d-\d\dT|Matplotlib v", data)
    assert charts.figure5(run) + charts.confusion(run) == names
    assert content(run, names) == made


def test_names_may_hold_anything(tmp_path: Path) -> None:
    odd = "../a$x_{$b/c"
    answers = {(layer, odd): found for (layer, c), found in ANSWERS.items() if c == "cat"}
    run = write(tmp_path / "run", answers, names={odd: ("$a_{$", "/eye", "nose", "paw")})
    names = charts.figure5(run) + charts.confusion(run)
    assert "report/confusion-.._a_x___b_c.png" in names
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_the_curves_are_the_rows_and_the_dots_the_chosen_c(run: Run) -> None:
    classified = opened(run)
    rows = classification.figure5(classified, CONFIG, SEED)
    rows = [row for row in rows if row["category"] == "cat"]
    figure = charts._curves(rows, classified, classified.choose(0, "layer"))
    titles = {axis.get_title(): axis for axis in figure.axes}
    assert list(titles) == ["convnet", "SIFT"]
    for axis, layers in zip(figure.axes, (LAYERS[:2], LAYERS[2:]), strict=True):
        assert axis.get_xscale() == "log"
        assert [text.get_text() for text in axis.get_legend().get_texts()] == list(layers)
        for layer in layers:
            (curve,) = (line for line in axis.lines if line.get_label() == layer)
            mine = [row for row in rows if row["layer"] == layer]
            assert curve.get_xdata().tolist() == [row["c"] for row in mine] == sorted(CS)
            assert curve.get_ydata().tolist() == [row["value"] for row in mine]
        dots = {
            tuple(np.ravel(line.get_xydata())) for line in axis.lines if line.get_marker() == "o"
        }
        assert dots == {
            (row["c"], row["value"])
            for row in rows
            if row["layer"] in layers and row["c"] == CS[chosen_c(row["layer"])]
        }


def test_a_dot_for_every_c_that_is_chosen(run: Run) -> None:
    """With one C per category, the curve of the mean has several."""
    classified = opened(run)
    chosen = classified.choose(0, "category")
    rows = classification.figure5(classified, CONFIG, SEED)
    rows = [row for row in rows if row["category"] == "mean"]
    figure = charts._curves(rows, classified, chosen)
    dots = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "o"]
    assert len(dots) == sum(len({chosen[layer, c] for c in NAMES}) for layer in LAYERS)


def test_which_category(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "save", lambda run, stem, figure: [figure.get_suptitle()])
    for asked, shown in (("", "cat"), ("bird", "bird"), ("mean", "mean over categories")):
        (title,) = charts.figure5(run, asked)  # without a wish, the paper's cat
        assert title == f"{shown} (dot: the chosen C; band: 95 % by photograph)"
    with pytest.raises(
        DistcorrError, match=r"Nothing was classified in 'brid'\. Did you mean 'bird'"
    ):
        charts.figure5(run, "brid")


def test_without_a_cat_the_one_with_most_keypoints(tmp_path: Path) -> None:
    answers = drawn_answers(["conv1"])
    renamed = {
        ("conv1", "bird"): answers["conv1", "bird"],
        ("conv1", "dog"): answers["conv1", "cat"],
    }
    names = {"bird": NAMES["bird"], "dog": NAMES["cat"]}
    classified = opened(write(tmp_path, renamed, names=names))
    counts = {c: sum(s[0] != -1 for s in renamed["conv1", c]) for c in names}
    assert charts._usual(classified) == max(counts, key=counts.__getitem__)
    assert len(set(counts.values())) == 2


def test_a_matrix_says_what_scikit_learn_counts(run: Run) -> None:
    samples = [s for s in ANSWERS["conv4", "bird"] if s[0] == -1]
    index = chosen_c("conv4")
    truth, predicted = [t for *_, t, _ in samples], [p[index] for *_, p in samples]
    figure = charts._matrix(opened(run), "conv4", "bird", index)
    (axis,) = figure.axes
    share = 100 * confusion_matrix(truth, predicted, labels=range(3), normalize="true")
    said = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in axis.texts}
    assert said == {
        (t, p): f"{share[t, p]:.0f}" for t in range(3) for p in range(3) if share[t, p] > 0
    }
    np.testing.assert_allclose(axis.images[0].get_array(), share)
    counts = [label.get_text() for label in axis.get_yticklabels()]
    assert counts == [f"{name} ({truth.count(k)})" for k, name in enumerate(NAMES["bird"])]
    right = 100 * np.mean(np.array(truth) == predicted)
    assert f"conv4, C {CS[index]:g}" in axis.get_title()
    assert f"{right:.1f} right in all" in axis.get_title()


def test_confusion_is_of_the_networks_best_layer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[object, ...]] = []
    matrix = charts._matrix
    monkeypatch.setattr(charts, "_matrix", lambda *asked: drawn.append(asked[1:]) or matrix(*asked))
    charts.confusion(run)
    assert drawn == [("conv4", category, chosen_c("conv4")) for category in NAMES]
    drawn.clear()
    sift = write(tmp_path, {pair: s for pair, s in ANSWERS.items() if pair[0] == "sift10"})
    charts.confusion(sift, EvaluationConfig(c=1e-5))
    assert drawn == [("sift10", category, CS.index(1e-5)) for category in NAMES]


def test_one_c_one_layer_one_answer(tmp_path: Path) -> None:
    samples = [(0, "t1", 1, [1]), (1, "t2", 0, [1]), (-1, "a", 0, [0])]
    run = write(tmp_path, {("sift20", "bird"): samples}, cs=[1e-6])
    assert len(charts.figure5(run) + charts.confusion(run)) == 4


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    run = write(tmp_path, {})
    for draw in (charts.figure5, charts.confusion):
        with pytest.raises(DistcorrError, match="nothing to classify"):
            draw(run)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["stages"].pop("classify")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DistcorrError, match="no classify that is finished") as caught:
        charts.figure5(run)
    assert "distcorr classify" in caught.value.hint

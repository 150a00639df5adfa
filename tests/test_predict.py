"""``distcorr predict``: what the run predicted comes back, by run and file; bad input is named."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.algorithms.crop import from_square
from distcorr.algorithms.matching import View
from distcorr.cli import app, common
from distcorr.config import EvaluationConfig
from distcorr.data.detectors import Detected
from distcorr.data.features import FeatureStore
from distcorr.data.portable import Portable, from_bytes, to_bytes
from distcorr.data.run import Run
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.report import predicted
from distcorr.stages import locate
from distcorr.stages.cluster import Session
from distcorr.stages.export import export, of_category, of_run
from distcorr.stages.pipeline import Context, run_stage
from distcorr.types import Box, Instance
from tests.stages.common import run_all, write_alexnet

CATEGORY = "fish"
LAYERS = ("block10", "dsift8")  # of boxes of 224 px, and made from photographs at 500 px
SETTINGS = [
    "compute.address=inline",
    "dataset.toy_train=3",
    "dataset.toy_val=2",
    "features.shard=6",
    "features.points=[]",
    "features.cells=[]",
    "features.grids=[]",
    "flow.features=auto",
    "detect.rounds=0",
    "detect.first=5",
    "detect.etas=[0.1]",
]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished inline ``detect`` by the embedded network; copy it before changing it."""
    folder = tmp_path_factory.mktemp("predict") / "toy"
    run_all(folder, [*SETTINGS, 'dataset.categories=["fish", "house"]'], ("build-db", "detect"))
    return folder


@pytest.fixture(scope="module")
def portable(toy: Path) -> Portable:
    return of_run(Run(str(toy)), categories=[CATEGORY])[CATEGORY]


@pytest.fixture(scope="module")
def file(portable: Portable, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(portable, tmp_path_factory.mktemp("files"))


@pytest.fixture
def copy(toy: Path, tmp_path: Path) -> Path:
    shutil.copytree(toy, tmp_path / "copy")
    return tmp_path / "copy"


def written(portable: Portable, folder: Path) -> str:
    path = folder / f"{portable.category}.npz"
    path.write_bytes(to_bytes(portable))
    return str(path)


def members(toy: Path, split: str = "val") -> list[tuple[str, Instance]]:
    """Photographs and instances."""
    stage = Run(str(toy)).finished("build-db")
    assert stage is not None
    return [(f"{toy}/toy/{i.image}", i) for i in FeatureStore(stage).members(CATEGORY, split)]


def box_of(box: Box) -> str:
    return ",".join(map(str, box))


def call(*arguments: str) -> Any:
    common._shown.clear()  # a terminal writes to the streams that it found
    return CliRunner().invoke(app, ["predict", *arguments], prog_name="distcorr")


def document(*arguments: str) -> dict[str, Any]:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- what is right -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_a_photograph_of_the_data_set_gets_what_the_run_predicted(
    toy: Path, portable: Portable, layer: str
) -> None:
    """For every weight of the prior, between positions too: from the photograph to the pixel."""
    stage = Run(str(toy)).finished("detect")
    assert stage is not None
    detected, by, compared = Detected(stage), portable.layers[layer], 0
    config = locate.settings(portable)
    for number, (path, instance) in enumerate(members(toy)):
        others = [(0.0, False), (0.1, True), (1.0, False)]
        for eta, refine in [(0.1, False), *(() if number else others)]:
            found = locate.locate_keypoints(path, instance.box, portable, by, config, eta, refine)
            rows = detected.validation(layer, CATEGORY, eta, refine).to_pylist()
            rows = [row for row in rows if row["instance"] == instance.id]
            theirs = np.array([[row["x"], row["y"]] for row in rows], float)
            ours = found.points[[portable.names.index(row["keypoint"]) for row in rows]]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.01 if refine else 1e-9)
            compared += len(rows)
    assert compared > 40


def test_the_score_is_the_paper_s(toy: Path, portable: Portable) -> None:
    """sigmoid(s)^(1 - eta) p^eta at the place that is predicted, s by a plain loop."""
    stage = Run(str(toy)).finished("build-db")
    assert stage is not None
    (path, instance), by = members(toy)[0], portable.layers["block10"]
    _, grids, _ = FeatureStore(stage).read("grids/block10", [instance.id])
    found = locate.locate_keypoints(
        path, instance.box, portable, by, locate.settings(portable), 0.1
    )
    side = by.geometry.input_size
    for k in range(len(portable.names)):
        best = -1.0
        for row, col in np.ndindex(12, 12):
            block = grids[0, row : row + 3, col : col + 3].astype(np.float64).ravel()
            s = block @ by.coef[k].astype(np.float64) + by.intercept[k]
            at = by.geometry.offset + by.geometry.stride * np.array([col + 1, row + 1])
            there = from_square(at, instance.box, side)
            away = (there - found.expected[k]) * side / (instance.box.width, instance.box.height)
            p = np.exp(-np.square(away).sum() / (2 * (22 * side / 500) ** 2))
            best = max(best, (1 / (1 + np.exp(-s))) ** 0.9 * p**0.1)
        assert found.scores[k] == pytest.approx(best, abs=1e-4)


def test_the_layers_of_a_network_that_takes_any_size(tmp_path: Path) -> None:
    """conv5 on boxes of 500 px, by a network whose weights are a file."""
    weights = write_alexnet(tmp_path / "alexnet.npz")
    small = ['dataset.categories=["fish"]', "dataset.toy_train=2", "dataset.toy_val=1"]
    more = ["features.network=alexnet", f'features.weights="{weights}"', "detect.layers=auto"]
    run_all(tmp_path / "run", [*SETTINGS, *small, *more], ("build-db", "detect"))
    run = Run(str(tmp_path / "run"))
    stage = run.finished("detect")
    assert stage is not None
    (path, instance), out = members(tmp_path / "run")[0], str(tmp_path / "x.png")
    asked = [path, "--box", box_of(instance.box), "-o", out]
    by_run = document(*asked, "-c", CATEGORY, "-r", str(run))
    assert (by_run["feature"], by_run["side"], by_run["eta"]) == ("conv5", 500, 0.1)
    at = {k["keypoint"]: (k["x"], k["y"]) for k in by_run["keypoints"]}
    for row in Detected(stage).validation("conv5", CATEGORY, 0.1).to_pylist():
        assert at[row["keypoint"]] == pytest.approx((row["x"], row["y"]), abs=1e-3)
    alone = written(of_category(run, CATEGORY), tmp_path)
    by_file = document(*asked, "--detectors", alone, "--weights", str(weights))
    assert by_file == by_run
    assert str(tmp_path).encode() not in Path(alone).read_bytes()
    refused(MISSING, ["needs weights", "--weights FILE", "alexnet"], *asked, "--detectors", alone)
    weights.unlink()
    words = ["no such file", "--weights FILE"]
    refused(MISSING, words, *asked, "-c", CATEGORY, "-r", str(run))


def test_the_command(toy: Path, file: str, tmp_path: Path) -> None:
    (path, instance), out = members(toy)[0], str(tmp_path / "fish.png")
    asked = [path, "--box", box_of(instance.box), "-o", out]
    by_run = document(*asked, "-c", CATEGORY, "-r", str(toy))
    picture = Path(out).read_bytes()
    with Image.open(io.BytesIO(picture)) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 20
    assert document(*asked, "--detectors", file) == by_run
    assert Path(out).read_bytes() == picture
    assert (by_run["feature"], by_run["eta"], by_run["trained_on"]) == ("block10", 0.1, 3)
    assert 0 <= by_run["pck"] <= 1
    assert "EfficientNet-Lite0" in by_run["source"]
    done = call(*asked, "-c", CATEGORY, "-r", str(toy))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["keypoint", "x", "y", "score"]
    assert [line[0] for line in lines[1:]] == [k["keypoint"] for k in by_run["keypoints"]]
    assert "on 3 objects" in done.stderr
    assert out in done.stderr
    assert call(*asked, "-c", CATEGORY, "-r", str(toy), "-q").stderr == ""


def test_all_of_the_picture_is_a_box(toy: Path, file: str, tmp_path: Path) -> None:
    path, _ = members(toy)[0]
    with Image.open(path) as picture:
        whole = f"0,0,{picture.width - 1},{picture.height - 1}"
    asked = [path, "--detectors", file, "-o", str(tmp_path / "x.png"), "--eta", "0"]
    asked += ["--feature", "dsift8"]
    assert document(*asked, "--box", "all") == document(*asked, "--box", whole)


def test_what_cannot_be_predicted_is_said_to_be_so(
    toy: Path, portable: Portable, tmp_path: Path
) -> None:
    by = portable.layers["dsift8"]
    keypoints, intercept = by.keypoints.copy(), by.intercept.copy()
    intercept[0], keypoints[:, 1] = -np.inf, np.nan
    layers = {"dsift8": replace(by, intercept=intercept, keypoints=keypoints)}
    path, instance = members(toy)[0]
    out, name = str(tmp_path / "x.svg"), written(replace(portable, layers=layers), tmp_path)
    asked = [path, "--box", box_of(instance.box), "--detectors", name, "-o", out]
    for eta, absent in (("0.1", [0]), ("1", [1])):
        found = document(*asked, "--eta", eta)["keypoints"]
        for key in ("x", "y", "score"):
            assert [n for n, k in enumerate(found) if k[key] is None] == absent
        assert [n for n, k in enumerate(found) if k["prior_x"] is None] == [1]
    assert "<svg" in Path(out).read_text()
    assert call(*asked).exit_code == 0


# -- files of a run ----------------------------------------------------------------------------


def test_a_run_exports_every_category(copy: Path, toy: Path) -> None:
    names = export(Run(str(copy)))
    assert names == ["detectors/fish.npz", "detectors/house.npz"]
    contents = [(copy / name).read_bytes() for name in names]
    assert export(Run(str(copy))) == names
    assert [(copy / name).read_bytes() for name in names] == contents
    assert to_bytes(of_run(Run(str(toy)))["fish"]) == contents[0]
    assert str(copy).encode() not in contents[0]


def test_a_file_out_of_date_is_not_taken(copy: Path, portable: Portable) -> None:
    run = Run(str(copy))
    export(run, EvaluationConfig(eta=0))
    stale = from_bytes((copy / "detectors/fish.npz").read_bytes(), "fish.npz")
    assert {by.eta for by in stale.layers.values()} == {0}
    assert to_bytes(of_category(run, CATEGORY)) == to_bytes(portable)
    export(run)
    current = replace(portable, origin={**portable.origin, "data": "of the file"})
    (copy / "detectors/fish.npz").write_bytes(to_bytes(current))
    assert of_category(run, CATEGORY).origin["data"] == "of the file"


def test_the_pck_is_that_of_validation(toy: Path, portable: Portable) -> None:
    stage = Run(str(toy)).finished("detect")
    assert stage is not None
    rows = Detected(stage).validation("dsift8", CATEGORY, 0.1).to_pylist()
    right: dict[str, list[bool]] = {}
    for r in rows:
        gap = np.hypot(r["x"] - r["true_x"], r["y"] - r["true_y"])
        right.setdefault(r["keypoint"], []).append(bool(gap <= 0.1 * r["scale"]))
    expected = np.mean([np.mean(each) for each in right.values()])
    assert portable.layers["dsift8"].pck == pytest.approx(expected)


def test_a_control_finds_nobody_keypoints(copy: Path, tmp_path: Path) -> None:
    """Its detectors are not exported, and who asks for them is told what they are."""
    run = Run(str(copy))
    export(run)
    config = run.config()
    assert config is not None
    config = replace(config, detect=replace(config.detect, control="shuffled-labels"))
    with Session(config.compute) as session:
        run_stage("detect", Context(config, run, session))
    kept = (copy / "detectors/fish.npz").read_bytes()
    assert export(run) == []
    assert (copy / "detectors/fish.npz").read_bytes() == kept
    path, _ = members(copy)[0]
    out = str(tmp_path / "x.png")
    done = call(path, "--box", "all", "-o", out, "-c", CATEGORY, "-r", str(copy))
    assert "CONTROL (shuffled-labels)" in done.output


def test_an_eta_that_was_not_tried_is_refused(toy: Path) -> None:
    with pytest.raises(DistcorrError, match="eta must be one that was tried"):
        of_run(Run(str(toy)), EvaluationConfig(eta=0.07))


# -- wrong input -------------------------------------------------------------------------------


def refused(code: int, words: list[str], *arguments: str) -> None:
    done = call(*arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--box", ""], USAGE, ["needs the box around the object", "--box all"]),
        (["--box", "1,2,3"], USAGE, ["four numbers X0,Y0,X1,Y1"]),
        (["--box", "0,0,9999,9"], USAGE, ["The box must lie in its picture", "all of"]),
        (["--box", "9,9,5,20"], USAGE, ["X0 <= X1"]),
        (["--eta", "1.5"], USAGE, ["from 0", "got 1.5", "the run chose --eta 0.1"]),
        (["--eta", "nan"], USAGE, ["from 0", "got nan"]),
        (["--feature", "blok10"], USAGE, ["Did you mean 'block10'", "dsift8"]),
        (["--category", "house"], USAGE, ["has detectors of fish, not of house"]),
        (["--out", "nowhere/x.png"], USAGE, ["There is no folder"]),
        (["--out", "x.gif"], USAGE, ["a .png or .svg file"]),
        (["--run", "runs/smoke"], USAGE, ["both --run and --detectors"]),
        (["--set", "flow.beta=1"], USAGE, ["takes settings of features", "flow.beta=1"]),
        (["--set", "features.bath=1"], USAGE, ["Did you mean 'features.batch'"]),
        (["--set", "features.control=shuffled-weights"], MISSING, ["trained on block10 of"]),
        (["--weights", "nowhere.npz"], MISSING, ["no such file", "--weights FILE"]),
        (["--weights", "nowhere.npz", "--feature", "dsift8"], MISSING, ["--eta 0 leaves"]),
        (["--detectors", "nowhere.npz"], MISSING, ["no file of detectors nowhere.npz"]),
    ],
)
def test_wrong_words(
    toy: Path,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path, instance = members(toy)[0]
    usual = {"--box": box_of(instance.box), "--detectors": file}
    usual |= dict(zip(arguments[::2], arguments[1::2], strict=True))
    refused(code, words, path, *(word for pair in usual.items() for word in pair))
    assert not list(tmp_path.iterdir())


def test_other_features_are_refused(toy: Path, file: str, tmp_path: Path) -> None:
    weights = str(write_alexnet(tmp_path / "alexnet.npz"))
    path, instance = members(toy)[0]
    asked = [path, "--box", box_of(instance.box), "--detectors", file, "--weights", weights]
    asked += ["-o", str(tmp_path / "x.png")]
    refused(USAGE, ["has no layer 'block15'", "were trained with EfficientNet-Lite0"], *asked)
    assert document(*asked, "--feature", "dsift8", "--eta", "0")["eta"] == 0


def test_sift_of_another_making_is_refused(toy: Path, portable: Portable, tmp_path: Path) -> None:
    by = portable.layers["dsift8"]
    other = replace(by.feature, made={**by.feature.made, "version": -1})
    name = written(replace(portable, layers={"dsift8": replace(by, feature=other)}), tmp_path)
    path, _ = members(toy)[0]
    refused(
        MISSING, ["were trained on dsift8"], path, "--box", "all", "--detectors", name, "--eta=0"
    )


def test_photographs_that_are_none(file: str, tmp_path: Path) -> None:
    asked = ["--box", "all", "--detectors", file, "-o", str(tmp_path / "x.png")]
    refused(MISSING, ["nowhere.jpg is missing"], str(tmp_path / "nowhere.jpg"), *asked)
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    refused(MISSING, ["text.jpg cannot be read"], str(text), *asked)
    mine = tmp_path / "x.png"
    Image.new("RGB", (80, 60)).save(mine)
    refused(USAGE, ["would replace"], str(mine), *asked)


def test_runs_and_files_that_are_none(toy: Path, copy: Path, tmp_path: Path) -> None:
    path, _ = members(toy)[0]
    asked = [path, "--box", "all", "-o", str(tmp_path / "x.png")]
    refused(USAGE, ["There is no run"], *asked, "-c", CATEGORY, "-r", str(tmp_path / "none"))
    refused(USAGE, ["Did you mean 'fish'", "fish, house"], *asked, "-c", "fihs", "-r", str(toy))
    refused(USAGE, ["needs the category", "fish, house"], *asked, "-r", str(toy))
    torn = tmp_path / "torn.npz"
    torn.write_bytes(b"torn")
    refused(MISSING, ["torn.npz is damaged"], *asked, "--detectors", str(torn))
    (copy / "detectors").mkdir(exist_ok=True)
    (copy / "detectors" / "fish.npz").write_bytes(b"torn")
    done = call(*asked, "-c", CATEGORY, "-r", str(copy))  # the run's tables have it all
    assert done.exit_code == 0, done.output
    (tmp_path / "x.png").unlink()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "detect" / manifest["stages"]["detect"]["key"] / "_done.json").unlink()
    words = ["needs the output of detect", "distcorr detect -r"]
    refused(USAGE, words, *asked, "-c", CATEGORY, "-r", str(copy))
    assert not (tmp_path / "x.png").exists()


# -- the picture -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("shape", [(60, 80), (4, 400), (400, 3), (1, 1)])
def test_pictures_of_every_shape(kind: str, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    view = View("$x^$.jpg", pixels, Box(0, 0, shape[1] - 1, shape[0] - 1))
    names = ["L_Eye", "$a_b$", "long " * 20]
    points = np.array([[0, 0], [shape[1] - 1, shape[0] - 1], [np.nan, np.nan]], float)
    scores = np.array([0.5, 1, np.nan])
    content, again = (predicted.draw(view, names, points, scores, "cat", kind) for _ in "ab")
    assert content == again
    assert content[:4] == (b"\x89PNG" if kind == "png" else b"<?xm")


def test_an_extractor_of_ones_own_with_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes are grown and keypoints mapped back from there; the network finds the neighbours."""
    (tmp_path / "predict_feats.py").write_text(
        """
import numpy as np
from distcorr.types import Geometry


class Means:
    geometry, channels = Geometry(64, 8, 3.5, 8, 8), 3

    def __call__(self, images):
        return images.reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4), dtype=np.float32)
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    small = ['dataset.categories=["fish"]', "dataset.toy_train=2", "dataset.toy_val=1"]
    own = ["features.conv=predict_feats:Means", "features.context=6"]
    run_all(tmp_path / "run", [*SETTINGS, *small, *own], ("build-db", "detect"))
    run = Run(str(tmp_path / "run"))
    stage = run.finished("detect")
    assert stage is not None
    alone = written(of_category(run, CATEGORY), tmp_path)
    path, instance = members(tmp_path / "run")[0]
    asked = [path, "--box", box_of(instance.box), "--detectors", alone, "-o", "x.png"]
    for layer in ("Means", "dsift8"):
        found = document(*asked, "--feature", layer)["keypoints"]
        at = {k["keypoint"]: (k["x"], k["y"]) for k in found}
        for row in Detected(stage).validation(layer, CATEGORY, 0.1).to_pylist():
            assert at[row["keypoint"]] == pytest.approx((row["x"], row["y"]), abs=1e-3)
    assert document(*asked, "--feature", "predict_feats:Means")["feature"] == "Means"

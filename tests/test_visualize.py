"""``distcorr visualize --image``: a picture of the user's, rebuilt; bad input is named."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.cli import app, common
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.data.visualized import METHODS
from distcorr.errors import MISSING, USAGE
from tests.stages.common import contents, run_all

EXTRACTOR = """
import numpy as np
from distcorr.types import Geometry


class Means:
    geometry, channels = Geometry(128, 16, 7.5, 48, 8), 48

    def __call__(self, images):
        means = images.reshape(-1, 8, 4, 4, 8, 4, 4, 3).mean(axis=(3, 6), dtype=np.float32)
        return means.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 48) - 128
"""
SETTINGS = [
    "compute.address=inline",
    "dataset.toy_train=3",
    "dataset.toy_val=1",
    'dataset.categories=["fish"]',
    "features.network=own_feats:Means",
    "features.cells=auto",
    "features.cells_per_photo=0",
    "features.points=[]",
    "features.grids=[]",
    "features.grids500=[]",
    "flow.features=auto",
]


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("here")
    (folder / "own_feats.py").write_text(EXTRACTOR)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        yield folder
    sys.modules.pop("own_feats", None)


@pytest.fixture(scope="module")
def toy(here: Path) -> Path:
    """A finished inline build-db; ``visualize --image`` must not change it."""
    run_all(here / "toy", SETTINGS, ("build-db",))
    return here / "toy"


def photograph(toy: Path, split: str) -> Path:
    stage = Run(str(toy)).finished("build-db")
    assert stage is not None
    return toy / "toy" / min(i.image for i in FeatureStore(stage).instances if i.split == split)


def call(*arguments: object) -> Any:
    common._shown.clear()  # a terminal writes to the streams that it found
    return CliRunner().invoke(app, ["visualize", *map(str, arguments)], prog_name="distcorr")


def document(*arguments: object) -> dict[str, Any]:
    done = call(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)  # no Infinity
    return found


# -- what is right -----------------------------------------------------------------------------


def test_the_command(toy: Path, tmp_path: Path) -> None:
    before = contents(toy)
    image, out = photograph(toy, "val"), tmp_path / "fish.png"
    found = document("--image", image, "-r", toy, "-o", out)
    assert (found["file"], found["picture"]) == (str(image), str(out))
    assert (found["copies"], found["notes"]) == ([], [])
    assert found["bases"]["Means"]["photographs"] == 3
    assert found["bases"]["Means"]["cells"] == 3 * 64
    keys = [(row["layer"], row["method"], row["k"]) for row in found["rebuilt"]]
    assert keys == [("Means", method, k) for method in METHODS for k in (1, 5)]
    assert all(row["cells"] == 64 and row["short"] == 0 for row in found["rebuilt"])
    assert all(5 < row["psnr"] < 60 for row in found["rebuilt"])
    drawing = out.read_bytes()
    with Image.open(io.BytesIO(drawing)) as drawn:
        assert np.asarray(drawn.convert("L")).std() > 20
    assert document("--image", image, "-r", toy, "-o", out) == found
    assert out.read_bytes() == drawing
    assert contents(toy) == before

    done = call("--image", image, "-r", toy, "-o", tmp_path / "x.svg")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    columns = ["layer", "method", "k", "psnr", "colour", "ssim", "cells", "short"]
    assert lines[0] == columns
    for line, row in zip(lines[1:], found["rebuilt"], strict=True):
        assert line[:3] == [row["layer"], row["method"], str(row["k"])]
        assert float(line[3]) == pytest.approx(row["psnr"], abs=0.006)
    assert str(tmp_path / "x.svg") in done.stderr
    assert "<svg" in (tmp_path / "x.svg").read_text()
    assert call("--image", image, "-r", toy, "-o", out, "-q").stderr == ""


def test_settings_of_the_search(toy: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "x.png")
    asked = ["--image", photograph(toy, "val"), "-r", toy, *out]
    few = document(*asked, "--set", "visualize.ks=[2]", "--set", "visualize.base=all")
    assert {row["k"] for row in few["rebuilt"]} == {2}
    assert few["bases"]["Means"]["photographs"] == 4
    assert few["copies"] == [str(photograph(toy, "val").relative_to(toy / "toy"))]


def test_a_near_copy_is_said_to_be_left_out(toy: Path, tmp_path: Path) -> None:
    image = photograph(toy, "train")
    with Image.open(image) as picture:
        picture.save(tmp_path / "again.jpg", quality=50)
    asked = ["--image", tmp_path / "again.jpg", "-r", toy, "-o", tmp_path / "x.png"]
    name = str(image.relative_to(toy / "toy"))
    assert document(*asked)["copies"] == [name]
    assert name in call(*asked).stderr
    assert document(*asked, "--set", "visualize.copies=0")["copies"] == []


def test_the_picture_itself_rebuilds_nothing_of_itself(toy: Path, tmp_path: Path) -> None:
    """A photograph of the data base equals its own patches, were they not left out."""
    found = document("--image", photograph(toy, "train"), "-r", toy, "-o", tmp_path / "x.png")
    assert len(found["copies"]) == 1
    assert all(row["psnr"] is not None and row["psnr"] < 60 for row in found["rebuilt"])


def test_a_relative_picture_beside_the_user(
    toy: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the drawing is called visualize.png unless the user says otherwise."""
    (tmp_path / "mine.jpg").write_bytes(photograph(toy, "val").read_bytes())
    (tmp_path / "own_feats.py").write_text(EXTRACTOR)
    monkeypatch.chdir(tmp_path)
    found = document("--image", "mine.jpg", "-r", toy)
    assert (found["file"], found["picture"]) == ("mine.jpg", "visualize.png")
    assert (tmp_path / "visualize.png").stat().st_size > 1000


# -- wrong input -------------------------------------------------------------------------------


def refused(code: int, words: list[str], *arguments: object) -> None:
    """Two lines on the terminal: what is wrong, and what to do."""
    done = call(*arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.stdout == ""
    error, hint = (" ".join(part.split()) for part in done.stderr.split("hint:"))
    assert error.startswith("error:"), done.stderr
    assert hint
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in f"{error} {hint}", done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--image", "nowhere.jpg"], MISSING, ["nowhere.jpg is missing"]),
        (["--image", "text.jpg"], MISSING, ["text.jpg cannot be read"]),
        (["--image", "cut.jpg"], MISSING, ["cut.jpg cannot be read"]),
        (["--image", "folder"], MISSING, ["folder"]),
        (["--preset", "smoke"], USAGE, ["--image works on the photographs that a run has"]),
        (["--data", "voc"], USAGE, ["got --data as well", "--run says which run"]),
        (["--category", "fish"], USAGE, ["got --category as well"]),
        (["--limit", "3"], USAGE, ["got --limit as well"]),
        (["--store", "shared"], USAGE, ["got --store as well"]),
        (["--dry-run"], USAGE, ["got --dry-run as well"]),
        (["--set", "flow.beta=1"], USAGE, ["takes settings of visualize", "flow.beta=1"]),
        (["--set", "features.photo_side=9"], USAGE, ["takes settings of visualize"]),
        (["--set", "visualize.base=trian"], USAGE, ["train, all", "trian"]),
        (["--set", "visualize.shwn=1"], USAGE, ["Did you mean 'visualize.shown'"]),
        (["--set", "visualize.mirrored=true"], MISSING, ["no mirrored/Means"]),
        (["--set", 'visualize.layers=["conv3"]'], MISSING, ["no cells/conv3"]),
        (["--out", "nowhere/x.png"], USAGE, ["There is no folder"]),
        (["--out", "x.gif"], USAGE, ["a .png or .svg file"]),
        (["--out", "mine.png"], USAGE, ["would replace"]),
        (["--run", "runs/nowhere"], USAGE, ["There is no run"]),
    ],
)
def test_wrong_words(
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    content = photograph(toy, "val").read_bytes()
    (tmp_path / "mine.png").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 3])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "folder").mkdir()
    (tmp_path / "own_feats.py").write_text(EXTRACTOR)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.chdir(tmp_path)
    usual = {"--image": "mine.png", "--run": str(toy), "--out": "drawn.png"}
    flags = [word for word in arguments if word == "--dry-run"]
    given = [word for word in arguments if word != "--dry-run"]
    usual |= dict(zip(given[::2], given[1::2], strict=True))
    refused(code, words, *(word for pair in usual.items() for word in pair), *flags)
    left = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert left == before


def test_a_drawing_needs_a_picture(toy: Path) -> None:
    refused(USAGE, ["--out is the drawing of --image", "give --image"], "-r", toy, "-o", "x.png")


def test_a_run_without_build_db(toy: Path, tmp_path: Path) -> None:
    asked = ["--image", photograph(toy, "val"), "-o", tmp_path / "x.png"]
    shutil.copytree(toy, tmp_path / "begun")
    (done,) = (tmp_path / "begun" / "build-db").glob("*/_done.json")
    done.unlink()
    words = ["visualize needs the output of build-db", "distcorr build-db -r"]
    refused(USAGE, words, *asked, "-r", tmp_path / "begun")
    assert not (tmp_path / "x.png").exists()


def test_a_picture_of_a_few_pixels(toy: Path, tmp_path: Path) -> None:
    """An extractor of one size sees it enlarged; a square of one colour equals what rebuilds it."""
    Image.new("RGB", (5, 5), "red").save(tmp_path / "tiny.png")
    found = document("--image", tmp_path / "tiny.png", "-r", toy, "-o", tmp_path / "x.png")
    rows = {(row["method"], row["k"]): row for row in found["rebuilt"]}
    assert rows["uniform-rf", 1]["colour"] == 0
    assert rows["uniform-rf", 1]["psnr"] is None
    assert rows["neighbours", 1]["colour"] > 0
    assert found["notes"] == []

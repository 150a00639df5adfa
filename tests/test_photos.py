"""The main job on real photographs, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.photos
Table2 = dict[tuple[str, str, float], float]  # (method, category, alpha) -> PCK in per cent


def run(folder: Path, photos: Path, *more: str) -> Table2:
    """Table 2 of birds and faces."""
    weights = photos / "weights" / "bvlc_alexnet_conv1-5.npz"
    command = [sys.executable, "-m", "distcorr", "run", "-p", "paper", "--json", "-r", str(folder)]
    command += ["--data", str(photos / "data" / "voc-photos"), "--weights", str(weights)]
    command += ["-c", "bird", "-c", "person", "--limit", "60", *more]
    for kind in ("grids", "grids500", "points", "cells"):  # sections 2, 4, 5 have their own tests
        command += ["--set", f"features.{kind}=[]"]
    for setting in ("layers=dsift8", "etas=0.1", "rounds=0"):
        command += ["--set", f"detect.{setting}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert "BVLC AlexNet conv1-5, 8 bit" in report["weights"]
    assert "120 training and 120 validation" in report["data"]
    return {
        (row["method"], row["category"], row["alpha"]): row["value"]
        for row in report["rows"]
        if row["table"] == "table2"
    }


@pytest.fixture(scope="module")
def real(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Table2]:
    """A run, and its Table 2."""
    folder = tmp_path_factory.mktemp("photos") / "real"
    return folder, run(folder, photos, "--address", "inline")


def test_flow_beats_copying_and_shuffled_weights(
    real: tuple[Path, Table2], photos: Path, tmp_path: Path
) -> None:
    folder, real_pck = real
    for category in ("bird", "person"):
        assert real_pck["conv4 flow", category, 0.1] > real_pck["NN transfer", category, 0.1]
        for alpha, margin in ((0.05, 5), (0.025, 2)):
            copying = real_pck["NN transfer", category, alpha]
            assert real_pck["conv4 flow", category, alpha] > copying + margin
    picture = np.asarray(Image.open(folder / "report" / "figure3.png").convert("L"))
    assert picture.std() > 30
    control = ("--set", "features.control=shuffled-weights", "--set", "flow.features=auto")
    control += ("--address", "inline")
    shuffled = run(tmp_path / "shuffled", photos, *control)
    for alpha in (0.1, 0.05, 0.025):
        assert shuffled["conv4 flow", "mean", alpha] < real_pck["conv4 flow", "mean", alpha] - 8


def test_energies_are_next_to_the_certified_bound(real: tuple[Path, Table2]) -> None:
    """Saved alignments of photographs: at most 0.4 % above the bound, in the median."""
    from distcorr.algorithms._flow_bound import lower_bound
    from distcorr.algorithms.flow import data_costs, unit_norm
    from distcorr.data.features import FeatureStore
    from distcorr.data.run import Run

    opened = Run(str(real[0]))
    features, transfer = opened.finished("build-db"), opened.finished("transfer")
    assert features is not None
    assert transfer is not None
    store = FeatureStore(features)
    layers = {"conv4 flow": "conv4", "SIFT flow": "sift20"}
    gaps: dict[str, list[float]] = {method: [] for method in layers}
    names = ["method", "target", "neighbor", "data_energy", "deformation_energy"]
    for part in transfer.folder.iter_tables(transfer.parts("pairs"), names):
        row = part.slice(0, 1).to_pylist()[0]
        ids = [row["target"], row["neighbor"]]
        grids = map(unit_norm, store.read(f"grids/{layers[row['method']]}", ids)[1])
        bound, _ = lower_bound(data_costs(*grids), 3e-3)
        found = row["data_energy"] + 3e-3 * row["deformation_energy"]
        gaps[row["method"]].append(100 * (found / bound - 1))
    for method, gap in gaps.items():
        assert len(gap) >= 10, method
        assert min(gap) > -1e-3, gap  # nothing is below the bound but by the costs' float32
        assert np.median(gap) < 0.4, (method, gap)


def test_detectors_find_the_parts_of_a_bird(photos: Path, tmp_path: Path) -> None:
    """Section 5 in small: SIFT < conv5 < conv5 with the prior, which is above the prior alone."""

    def pck(*more: str) -> dict[str, float]:
        command = [sys.executable, "-m", "distcorr", "detect", "-r", str(tmp_path), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        command = [sys.executable, "-m", "distcorr", "report", "--json", "-r", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {
            row["method"]: row["value"]
            for row in json.loads(done.stdout)["rows"]
            if row["table"] == "table4" and row["category"] == "bird" and row["alpha"] == 0.1
        }

    options = ["-p", "paper", "--data", str(photos / "data" / "voc-photos"), "-c", "bird"]
    options += ["--weights", str(photos / "weights" / "bvlc_alexnet_conv1-5.npz")]
    options += ["--limit", "60", "--address", "inline"]
    for kind in ("grids", "points", "cells"):
        options += ["--set", f"features.{kind}=[]"]
    command = [sys.executable, "-m", "distcorr", "build-db", *options, "-r", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    settings = ("--address", "inline", "--set", "detect.etas=0.1", "--set", "detect.rounds=1")
    found = pck(*settings)
    assert found["conv5"] > found["dsift8"] + 25, found
    assert found["conv5 + prior"] > found["conv5"] + 3, found
    assert found["conv5 + prior"] > found["prior only"] + 4, found
    assert found["conv5"] > found["conv5, random negatives"] - 1, found
    assert found["dsift8"] > found["dsift8, random negatives"] - 2, found
    shuffled = pck(*settings, "--set", "detect.control=shuffled-labels")
    assert shuffled["conv5 + prior"] < found["conv5 + prior"] / 2, shuffled


def test_columns_at_keypoints_tell_the_parts_of_a_bird(photos: Path, tmp_path: Path) -> None:
    """Section 4 in small: conv4 above SIFT above chance, and conv1 far below conv4."""
    from sklearn.svm import LinearSVC

    from distcorr.data.features import FeatureStore
    from distcorr.data.run import Run
    from distcorr.data.store import read_values

    def distcorr(*arguments: str) -> str:
        command = [sys.executable, "-m", "distcorr", *arguments, "-r", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def rows(table: str) -> list[dict[str, Any]]:
        found = json.loads(distcorr("report", "--json"))["rows"]
        return [row for row in found if row["table"] == table and row["category"] == "bird"]

    sets = ['features.points=["conv1", "conv4", "sift40"]']
    sets += [f"features.{kind}=[]" for kind in ("grids", "grids500", "cells")]
    # Keypoints that stand out in a photograph, as the paper's eye and nose do.
    sets += ["responses.keypoints=bird/Beak", "responses.layers=auto"]
    options = ["-p", "paper", "--data", str(photos / "data" / "voc-photos"), "-c", "bird"]
    options += ["--weights", str(photos / "weights" / "bvlc_alexnet_conv1-5.npz")]
    options += ["--limit", "70", "--address", "inline"]
    for setting in sets:
        options += ["--set", setting]
    distcorr("build-db", *options)
    distcorr("classify", "--address", "inline")
    table3 = {row["method"]: row for row in rows("table3")}
    found = {method: row["value"] for method, row in table3.items()}
    assert found["conv4"] > found["sift40"] + 8, found
    assert found["conv4"] > found["conv1"] + 15, found
    assert found["conv1"] > found["most frequent type"] + 2, found

    stage = Run(str(tmp_path)).current("build-db")
    assert stage is not None
    store = FeatureStore(stage)
    parts = list(store.parts("points/conv4"))
    x = np.concatenate([read_values(part)[0] for part in parts]).astype(np.float32)
    y = np.array([name for part in parts for name in part["keypoint"].to_pylist()])
    training = {i.id for i in store.instances if i.split == "train"}
    fit = np.array([i in training for part in parts for i in part["id"].to_pylist()])
    theirs = LinearSVC(C=table3["conv4"]["c"], dual=False, tol=1e-8).fit(x[fit], y[fit])
    assert abs(found["conv4"] - 100 * theirs.score(x[~fit], y[~fit])) < 0.2

    distcorr("responses", "--address", "inline")
    (peaks,) = rows("figure4")
    assert peaks["within8"] > peaks["uniform8"] + 5, peaks
    distcorr("report", "--figures")
    picture = np.asarray(Image.open(tmp_path / "report" / "figure4.png").convert("L"))
    assert picture.std() > 30

    control = "classify.control=shuffled-labels"
    distcorr("classify", "--address", "inline", "--set", control)
    (shuffled,) = [row for row in rows("table3") if row["method"] == "conv4"]
    assert shuffled["value"] < found["most frequent type"] + 5, shuffled

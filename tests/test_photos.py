"""The main job on real photographs, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.photos


def run(folder: Path, photos: Path, *more: str) -> dict[tuple[str, str, float], float]:
    """Table 2 of birds and faces: (method, category, alpha) -> PCK in per cent."""
    weights = photos / "weights" / "bvlc_alexnet_conv1-5.npz"
    command = [sys.executable, "-m", "distcorr", "run", "-p", "paper", "--json", "-r", str(folder)]
    command += ["--data", str(photos / "data" / "voc-photos"), "--weights", str(weights)]
    command += ["-c", "bird", "-c", "person", "--limit", "60", *more]
    for kind in ("grids", "grids500", "points", "cells"):  # sections 2, 4, 5 have their own tests
        command += ["--set", f"features.{kind}=[]"]
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


def test_flow_beats_copying_and_shuffled_weights(photos: Path, tmp_path: Path) -> None:
    real = run(tmp_path / "real", photos, "--address", "inline")
    for category in ("bird", "person"):
        assert real["conv4 flow", category, 0.1] > real["NN transfer", category, 0.1]
        for alpha, margin in ((0.05, 5), (0.025, 2)):
            copying = real["NN transfer", category, alpha]
            assert real["conv4 flow", category, alpha] > copying + margin
    picture = np.asarray(Image.open(tmp_path / "real" / "report" / "figure3.png").convert("L"))
    assert picture.std() > 30
    control = ("--set", "features.control=shuffled-weights", "--set", "flow.features=auto")
    control += ("--address", "inline")
    shuffled = run(tmp_path / "shuffled", photos, *control)
    for alpha in (0.1, 0.05, 0.025):
        assert shuffled["conv4 flow", "mean", alpha] < real["conv4 flow", "mean", alpha] - 8


def test_columns_at_keypoints_tell_the_parts_of_a_bird(photos: Path, tmp_path: Path) -> None:
    """Section 4 in small: conv4 above SIFT above chance, and conv1 far below conv4."""
    from sklearn.svm import LinearSVC

    from distcorr.data.features import FeatureStore
    from distcorr.data.run import Run
    from distcorr.data.store import read_values

    command = [sys.executable, "-m", "distcorr", "build-db", "-p", "paper", "-r", str(tmp_path)]
    command += ["--data", str(photos / "data" / "voc-photos"), "--address", "inline"]
    command += ["--weights", str(photos / "weights" / "bvlc_alexnet_conv1-5.npz")]
    command += ["-c", "bird", "--limit", "70"]
    command += ["--set", 'features.points=["conv1", "conv4", "sift40"]']
    for kind in ("grids", "grids500", "cells"):
        command += ["--set", f"features.{kind}=[]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stage = Run(str(tmp_path)).current("build-db")
    assert stage is not None
    store = FeatureStore(stage)
    training = {i.id for i in store.instances if i.split == "train"}

    def accuracy(layer: str, shuffle: bool = False) -> float:
        parts = list(store.parts(f"points/{layer}"))
        x = np.concatenate([read_values(part)[0] for part in parts]).astype(np.float32)
        y = np.array([name for part in parts for name in part["keypoint"].to_pylist()])
        fit = np.array([i in training for part in parts for i in part["id"].to_pylist()])
        labels = np.random.default_rng(0).permutation(y[fit]) if shuffle else y[fit]
        c = 1 / np.mean((x[fit] ** 2).sum(axis=1))
        return float(LinearSVC(C=c, dual=False).fit(x[fit], labels).score(x[~fit], y[~fit]))

    found = {layer: accuracy(layer) for layer in ("conv1", "conv4", "sift40")}
    assert found["conv4"] > found["sift40"] + 0.08, found
    assert found["conv4"] > found["conv1"] + 0.15, found
    assert found["conv1"] > 0.12, found
    assert accuracy("conv4", shuffle=True) < 0.12  # 15 parts

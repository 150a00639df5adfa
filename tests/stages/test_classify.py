"""The predictions that ``classify`` saves: against scikit-learn, on drawn columns and bad ones."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.svm import LinearSVC

from distcorr import config as configuration
from distcorr.data import datasets
from distcorr.data.classified import VALIDATION, Classified
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Run, Shard
from distcorr.data.store import Feature, TableStore, feature_table
from distcorr.errors import DistcorrError
from distcorr.stages import classify
from distcorr.stages.cluster import Session
from distcorr.stages.extract import mark_done
from distcorr.stages.pipeline import Context, Summary, forecast_stage, run_stage
from distcorr.stages.samples import Samples, read_columns
from distcorr.types import Box, Dataset, Instance
from tests.stages.common import Recorder, assert_same, contents, stage_folder

INLINE = "compute.address=inline"
CS = (1e-7, 1e-6, 1e-5)
WIDTH = 12
TYPES = ("Eye", "Nose", "Tail")


@dataclass
class Drawn:
    """What is drawn: which keypoints each instance shows, and columns that tell them apart."""

    types: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"bird": TYPES, "car": ("Wheel", "Lamp")}
    )
    layers: tuple[str, ...] = ("conv4",)
    train: int = 9
    val: int = 4
    shows: Callable[[str, int], Iterable[int]] = lambda category, number: range(9)
    spoil: Callable[[str, str, np.ndarray], None] = lambda instance, keypoint, column: None
    dead: tuple[str, ...] = ()  # photographs without columns of the first layer

    def instances(self) -> Iterable[Instance]:
        for category, names in self.types.items():
            for number in range(self.train + self.val):
                visible = np.isin(np.arange(len(names)), list(self.shows(category, number)))
                yield Instance(
                    f"{category}{number}",
                    f"{category}{number // 2}.jpg" if number < self.train else f"v{number}.jpg",
                    category,
                    "train" if number < self.train else "val",
                    Box(0, 0, 9, 9),
                    np.zeros((len(names), 2), np.float32),
                    visible,
                )

    def columns(self, layer: str) -> tuple[list[str], list[str], np.ndarray]:
        """Instances, keypoints and columns; each sample's is its own draw."""
        ids, keypoints, columns = [], [], []
        for instance in self.instances():
            if layer == self.layers[0] and instance.image in self.dead:
                continue
            names = self.types[instance.category]
            for k in np.flatnonzero(instance.visible):
                key = f"{layer} {instance.id} {names[k]}".encode()
                rng = np.random.default_rng(list(key))
                column = 100 * np.maximum(
                    0, rng.normal(size=WIDTH) + 1.2 * (np.arange(WIDTH) % 3 == k)
                )
                self.spoil(instance.id, names[k], column)
                ids.append(instance.id)
                keypoints.append(names[k])
                columns.append(column)
        return ids, keypoints, np.array(columns).reshape(-1, WIDTH)


def build(folder: Path, drawn: Drawn) -> None:
    """A run folder as ``build-db`` leaves it, with the columns of ``drawn``."""
    run, instances = Run(str(folder)), tuple(drawn.instances())
    run.save_config(configuration.load("smoke", [INLINE]))
    stage = run.stage("build-db", "drawn", "store")
    features = [Feature("points", layer, {}) for layer in drawn.layers]
    main = {"grids/g": "grids-g", "vectors/v": "vectors-v"}
    facts = {
        "keypoint_names": {c: list(names) for c, names in drawn.types.items()},
        "conv": "g",
        "vector": "v",
        "tables": main | {feature.name: feature.folder for feature in features},
        "names": {},
        "root": "",
        "stamp": {},
    }
    FeatureStore.write_instances(
        stage,
        datasets.to_table(Dataset("drawn", "", instances, drawn.types)),
        {i.id: "s" for i in instances},
        {i.image: "" for i in instances},
        facts,
    )
    shard, entries = Shard(0, "x", (), "photographs", "0" * 20), {}
    for number, feature in enumerate(features):
        ids, keypoints, columns = drawn.columns(feature.layer)
        keys = {"id": ids, "keypoint": keypoints}
        dead = [DeadLetter(i, i, "broken") for i in drawn.dead if number == 0]
        table = feature_table(feature, keys, columns)
        entries[feature.folder] = TableStore(stage.files).add(feature, shard.stem, table, dead, {})
    mark_done(stage, shard, entries)
    run.record("build-db", {"key": "drawn", "store": "store"} | stage.finish([shard]))


def go(folder: Path, *settings: str, address: str = "inline") -> tuple[Summary, list[str]]:
    """Run ``classify``; the summary and the warnings."""
    cs = f"classify.cs=[{', '.join(map(str, CS))}]"
    config = configuration.load("smoke", [f"compute.address={address}", cs, *settings])
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, Recorder())
        summary = run_stage("classify", context)
        return summary, context.progress.warnings


def opened(folder: Path) -> Classified:
    stage = Run(str(folder)).finished("classify")
    assert stage is not None
    return Classified(stage)


def parts(folder: Path, table: str) -> list[dict]:
    names = sorted((stage_folder(folder, "classify") / table).iterdir())
    return [row for name in names for row in pq.read_table(name).to_pylist()]


def liblinear(x: np.ndarray, labels: np.ndarray, test: np.ndarray, c: float) -> np.ndarray:
    """Predictions of one ``LinearSVC`` per class."""
    scores = np.full((len(test), labels.max() + 1), -np.inf)
    for k in np.unique(labels):
        model = LinearSVC(C=c, dual=False, tol=1e-8, max_iter=5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x, labels == k)
        scores[:, k] = model.decision_function(test)
    return scores.argmax(axis=1)


@pytest.mark.parametrize("norm", ["raw", "unit"])
def test_equals_a_plain_loop_of_scikit_learn(tmp_path: Path, norm: str) -> None:
    drawn = Drawn(layers=("conv4", "sift20"), train=14)
    build(tmp_path, drawn)
    cs = CS if norm == "raw" else tuple(c * 1e5 for c in CS)
    listed = f"classify.cs=[{', '.join(map(str, cs))}]"
    go(tmp_path, listed, f"classify.feature_norm={norm}", "classify.folds=3")
    made, accuracy = opened(tmp_path), {}
    assert made.layers == ["conv4", "sift20"]
    by_id = {i.id: i for i in drawn.instances()}
    for layer in drawn.layers:
        ids, keypoints, columns = drawn.columns(layer)
        x = columns.astype(np.float16).astype(np.float64)
        if norm == "unit":
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        for category, names in drawn.types.items():
            mine = np.array([by_id[i].category == category for i in ids])
            train = np.array([by_id[i].split == "train" for i in ids])
            label = np.array([names.index(k) if k in names else -1 for k in keypoints])
            image = np.array([by_id[i].image for i in ids])
            folds = made.held_out(layer, category)
            fold_of = dict(zip(folds.image, folds.fold.tolist(), strict=True))
            right = np.zeros(len(cs), int)
            for fold in range(3):
                out = mine & train & np.array([fold_of.get(i) == fold for i in image])
                rest = mine & train & ~out
                for n, c in enumerate(cs):
                    wanted = liblinear(x[rest], label[rest], x[out], c)
                    np.testing.assert_array_equal(folds.predicted[folds.fold == fold, n], wanted)
                    right[n] += (wanted == label[out]).sum()
            accuracy[layer, category] = right / (mine & train).sum()
            validation = made.validation(layer, category)
            np.testing.assert_array_equal(validation.truth, label[mine & ~train])
            for n, c in enumerate(cs):
                wanted = liblinear(x[mine & train], label[mine & train], x[mine & ~train], c)
                np.testing.assert_array_equal(validation.predicted[:, n], wanted)
    for layer in drawn.layers:
        mean = np.mean([accuracy[layer, c] for c in drawn.types], axis=0)
        assert {made.choose(0, "layer")[layer, c] for c in drawn.types} == {mean.argmax()}
        assert 0.5 < mean.max() < 1  # neither chance nor trivial
    chosen = {key: value.argmax() for key, value in accuracy.items()}
    assert made.choose(0, "category") == chosen


def test_a_photograph_is_in_one_fold(tmp_path: Path) -> None:
    build(tmp_path, Drawn(layers=("conv4", "sift20")))
    go(tmp_path)
    folds: dict[str, set[int]] = {}
    for row in parts(tmp_path, "predictions"):
        folds.setdefault(row["image"], set()).add(row["fold"])  # by whichever layer
    assert all(len(found) == 1 for found in folds.values())
    assert {f for found in folds.values() for f in found} == {0, 1, 2, 3, 4, VALIDATION}


def test_saved_classifiers_give_the_saved_predictions(tmp_path: Path) -> None:
    # No bird shows its tail in training.
    drawn = Drawn(shows=lambda category, number: range(3 if number >= 9 else 2))
    build(tmp_path, drawn)
    _, warned = go(tmp_path)
    made = opened(tmp_path)
    ids, _, columns = drawn.columns("conv4")
    x = columns.astype(np.float16).astype(np.float32)
    x = x[[i.startswith("bird") and int(i[4:]) >= 9 for i in ids]]
    for index in range(len(CS)):
        names, coef, intercept = made.model("conv4", "bird", index)
        assert names == TYPES
        assert intercept[2] == -np.inf
        assert not coef[2].any()
        predicted = (x @ coef.T + intercept).argmax(axis=1)
        np.testing.assert_array_equal(
            made.validation("conv4", "bird").predicted[:, index], predicted
        )
    note = "bird, validation: no sample to learn Tail from; never predicted."
    assert warned == [note] == made.notes


def test_bytes_depend_neither_on_workers_nor_on_order(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "inline", Drawn(layers=("conv4", "sift20")))
    for name in ("ray", "order"):
        shutil.copytree(tmp_path / "inline", tmp_path / name)
    go(tmp_path / "inline")
    go(tmp_path / "ray", "compute.workers=2", address="local")
    assert_same(tmp_path / "inline", tmp_path / "ray")
    forward = classify._arguments

    def backward(context, job, todo, device):
        return forward(context, job, todo[::-1], device)

    monkeypatch.setattr(classify, "_arguments", backward)
    go(tmp_path / "order")
    assert_same(tmp_path / "inline", tmp_path / "order")


def test_resuming_does_the_rest_and_reads_only_its_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, Drawn(layers=("conv4", "sift20")))
    assert go(tmp_path)[0].computed == 2 * 2 * 6
    before = contents(tmp_path)
    kept = stage_folder(tmp_path, "classify")
    (kept / "shards/00020.json").unlink()
    (kept / "predictions/part-00013.parquet").unlink()
    (kept / "_done.json").unlink()
    read = []
    monkeypatch.setattr(
        classify,
        "read_columns",
        lambda store, table, w, f=classify.read_columns: (
            read.append((table, sorted(w))) or f(store, table, w)
        ),
    )
    summary, _ = go(tmp_path)
    assert summary.computed == 2
    assert read == [("points/sift20", ["bird", "car"])]
    assert contents(tmp_path) == before
    assert go(tmp_path)[0].computed == 0


def test_a_category_does_not_depend_on_others(tmp_path: Path) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    build(both, Drawn())
    build(alone, Drawn(types={"car": ("Wheel", "Lamp")}))
    for folder in (both, alone):
        go(folder)
    for table in ("predictions", "models"):
        of_car = [row for row in parts(both, table) if row["category"] == "car"]
        assert of_car == parts(alone, table)


def test_shuffled_labels_fall_to_chance(tmp_path: Path) -> None:
    accuracy = {}
    for control in ("none", "shuffled-labels"):
        folder = tmp_path / control
        build(folder, Drawn(types={"bird": TYPES}, train=150, val=2))
        go(folder, f"classify.control={control}")
        held_out = opened(folder).held_out("conv4", "bird")
        accuracy[control] = (held_out.predicted == held_out.truth[:, None]).mean(axis=0)
        assert np.bincount(held_out.truth).tolist() == [150] * 3  # the truth stays
    assert accuracy["none"].max() > 0.6
    # 450 samples of three types: chance is a third, with a standard deviation of 0.022.
    assert (abs(accuracy["shuffled-labels"] - 1 / 3) < 0.1).all()


def facts(folder: Path) -> list[dict]:
    names = sorted((stage_folder(folder, "classify") / "predictions").iterdir())
    return [json.loads(pq.read_schema(name).metadata[b"distcorr"]) for name in names]


def test_parts_say_what_they_are(tmp_path: Path) -> None:
    build(tmp_path, Drawn(types={"bird": TYPES}, shows=lambda _, n: range(3 if n % 3 else 1)))
    go(tmp_path)
    for fact, fold in zip(facts(tmp_path), (0, 1, 2, 3, 4, VALIDATION), strict=True):
        assert (fact["layer"], fact["category"], fact["fold"]) == ("conv4", "bird", fold)
        assert fact["cs"] == list(CS)
        assert fact["names"] == list(TYPES)
        rows = [r for r in parts(tmp_path, "predictions") if r["fold"] == fold]
        # Every instance shows its eye, so the eye is what learns most.
        assert fact["chance"] == sum(r["keypoint"] == "Eye" for r in rows) / len(rows)
    entry = Run(str(tmp_path)).manifest()["stages"]["classify"]
    assert entry["classify"]["cs"] == list(CS)
    assert entry["layers"] == ["conv4"]
    assert entry["samples"] == {"bird": sum(3 if n % 3 else 1 for n in range(13))}


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        (Drawn(shows=lambda c, n: [0] if c == "car" else range(3)), "Wheel is the only keypoint"),
        (Drawn(shows=lambda c, n: [] if c == "car" else range(3)), "no training sample"),
        (
            Drawn(shows=lambda c, n: [] if c == "car" and n < 9 else range(3)),
            "no training sample",
        ),
        (
            Drawn(shows=lambda c, n: [] if c == "car" and n >= 9 else range(3)),
            "no validation sample",
        ),
        (
            Drawn(shows=lambda c, n: [] if c == "car" and 2 <= n < 9 else range(3)),
            "cross-validation needs two",
        ),
    ],
)
def test_a_category_that_teaches_nothing_is_left_out(
    tmp_path: Path, drawn: Drawn, why: str
) -> None:
    build(tmp_path, drawn)
    summary, warned = go(tmp_path)
    made = opened(tmp_path)
    assert made.pairs == [("conv4", "bird")]
    assert summary.shards == 6
    (note,) = warned
    assert note.startswith("car is not classified: ")
    assert why in note
    assert made.notes == [note]


def test_no_category_teaches_anything(tmp_path: Path) -> None:
    build(tmp_path, Drawn(shows=lambda c, n: [0]))
    summary, warned = go(tmp_path)
    assert (summary.shards, len(warned)) == (0, 2)
    assert opened(tmp_path).pairs == []
    assert opened(tmp_path).notes == warned


def test_no_layer_is_kept(tmp_path: Path) -> None:
    build(tmp_path, Drawn(layers=()))
    summary, warned = go(tmp_path)
    assert summary.shards == 0
    assert "features.points" in warned[0]


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    build(tmp_path, Drawn())
    with pytest.raises(DistcorrError, match="no points/conv5") as raised:
        go(tmp_path, "classify.layers=conv5")
    assert "features.points" in raised.value.hint
    config = configuration.load("smoke", [INLINE, "classify.layers=conv5"])
    context = Context(config, Run(str(tmp_path)), Session(config.compute))
    assert forecast_stage("classify", context).note == "waits for build-db to make points/conv5"


def test_fewer_photographs_than_folds(tmp_path: Path) -> None:
    build(tmp_path, Drawn(types={"bird": TYPES}, train=5))  # three photographs
    _, warned = go(tmp_path)
    made = opened(tmp_path)
    assert sorted(set(made.held_out("conv4", "bird").fold.tolist())) == [0, 1, 2]
    assert warned == ["bird: 3 folds, one for each of its training photographs."] == made.notes


def test_a_rare_type_is_never_predicted_by_its_own_fold(tmp_path: Path) -> None:
    # One photograph shows tails: two birds of it.
    build(tmp_path, Drawn(types={"bird": TYPES}, shows=lambda _, n: range(3 if n < 2 else 2)))
    _, warned = go(tmp_path)
    held_out = opened(tmp_path).held_out("conv4", "bird")
    (fold,) = set(held_out.fold[held_out.truth == 2].tolist())
    assert (held_out.predicted[held_out.fold == fold] != 2).all()
    assert warned == [f"bird, fold {fold}: no sample to learn Tail from; never predicted."]
    assert warned == opened(tmp_path).notes


def test_a_fold_with_one_type_to_learn(tmp_path: Path) -> None:
    # Two photographs: one of eyes, one of noses.
    build(tmp_path, Drawn(types={"bird": TYPES}, train=4, shows=lambda _, n: [n // 2 % 2]))
    _, warned = go(tmp_path)
    held_out = opened(tmp_path).held_out("conv4", "bird")
    np.testing.assert_array_equal(held_out.predicted, np.repeat(1 - held_out.truth[:, None], 3, 1))
    assert "bird, fold 0: Eye is all there is to learn." in warned or (
        "bird, fold 0: Nose is all there is to learn." in warned
    )


def test_constant_columns_train_and_are_noted(tmp_path: Path) -> None:
    def spoil(instance: str, keypoint: str, column: np.ndarray) -> None:
        column[:] = 7

    build(tmp_path, Drawn(types={"bird": TYPES}, spoil=spoil))
    _, warned = go(tmp_path)
    assert "bird, validation: conv4 is the same in every training sample." in warned
    predicted = opened(tmp_path).validation("conv4", "bird").predicted
    assert (predicted == predicted[0]).all()


def test_broken_columns_cost_themselves(tmp_path: Path) -> None:
    def spoil(instance: str, keypoint: str, column: np.ndarray) -> None:
        if (instance, keypoint) in (("bird3", "Nose"), ("bird10", "Eye")):
            column[5] = np.nan

    build(tmp_path / "whole", Drawn())
    build(tmp_path / "broken", Drawn(spoil=spoil))
    assert go(tmp_path / "whole")[0].dead == 0
    summary, warned = go(tmp_path / "broken")
    assert summary.dead == 2
    assert any("conv4 is not finite" in w and "2 item(s)" in w for w in warned)
    rows = {name: parts(tmp_path / name, "predictions") for name in ("whole", "broken")}
    keys = {
        name: {(r["instance"], r["keypoint"], r["fold"]) for r in found}
        for name, found in rows.items()
    }
    lost = {(i, k) for i, k, _ in keys["whole"] - keys["broken"]}
    assert lost == {("bird3", "Nose"), ("bird10", "Eye")}
    assert keys["broken"] < keys["whole"]
    of_car = [[r for r in found if r["category"] == "car"] for found in rows.values()]
    assert of_car[0] == of_car[1]


def test_nothing_to_learn_is_finite(tmp_path: Path) -> None:
    def spoil(instance: str, keypoint: str, column: np.ndarray) -> None:
        if instance.startswith("car"):
            column[0] = np.inf

    build(tmp_path, Drawn(spoil=spoil))
    with pytest.raises(DistcorrError, match="6 of 12 shards of classify failed") as raised:
        go(tmp_path)
    assert "conv4 is not finite in any training sample of car" in raised.value.message


def test_photographs_that_a_layer_lacks(tmp_path: Path) -> None:
    dead = ("bird1.jpg", *(f"car{n}.jpg" for n in range(5)))
    build(tmp_path, Drawn(layers=("conv4", "sift20"), dead=dead))
    _, warned = go(tmp_path)
    made = opened(tmp_path)
    assert made.pairs == [("conv4", "bird"), ("sift20", "bird"), ("sift20", "car")]
    first, *others = made.notes
    assert first.startswith("bird: ")
    assert first.endswith("keypoints lack conv4, build-db says why.")
    assert others[-1] == "car is not classified by conv4: no training sample."
    assert warned == made.notes
    fold = {}
    for layer in made.layers:
        held_out = made.held_out(layer, "bird")
        fold[layer] = dict(zip(held_out.image, held_out.fold.tolist(), strict=True))
    assert fold["sift20"].pop("bird1.jpg") in range(5)
    assert fold["conv4"] == fold["sift20"]  # so that layers can be compared sample by sample


def test_instances_that_share_an_id_are_an_error() -> None:
    eye = Samples(("Eye",), ("a",), ("a.jpg",), np.zeros(1, int), np.zeros(1, int))
    with pytest.raises(DistcorrError, match="keypoints of a are not its alone"):
        read_columns(None, "points/conv4", {"bird": eye, "car": eye})


def test_photographs_of_both_splits_are_told() -> None:
    images = ("a.jpg", "b.jpg", "a.jpg")
    fold = np.array([0, 1, -1])
    samples = Samples(("Eye",), ("a", "b", "c"), images, np.zeros(3, int), fold)
    assert samples.in_both_splits() == ["a.jpg"]


def test_columns_that_vanished_are_an_error(tmp_path: Path) -> None:
    build(tmp_path, Drawn())
    table = next((tmp_path / "store").glob("points-conv4-*/*.parquet"))
    whole = pq.read_table(table)
    pq.write_table(whole.slice(1), table)
    with pytest.raises(DistcorrError, match="points/conv4 lacks 1 keypoints"):
        go(tmp_path)


def test_the_toy_run_classifies_its_keypoints(finished: Path) -> None:
    made = opened(finished)
    assert made.categories == sorted({i for _, i in made.pairs})
    assert not made.notes
    for pair in made.pairs:
        right = made.validation(*pair)
        assert len(right.truth)

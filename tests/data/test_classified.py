"""Which C is chosen, and what is read back, from predictions written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.data.classified import NOTES, VALIDATION, Classified
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.data.store import META
from distcorr.errors import DistcorrError

NAMES = ("Nose", "Tail", "Wing")
CS = (1.0, 0.01, 0.1)  # in the order of the settings, which need not rise


def write(
    folder: Path,
    accuracy: dict[tuple[str, str], Sequence[int]],
    count: int = 10,
    cs: Sequence[float] = CS,
    notes: Sequence[str] = (),
) -> StageFolder:
    """For every (layer, category) two folds of ``count`` and as many validation samples.

    The first ``accuracy[i]`` samples of each fold are right for the i-th C. Truth is always Nose.
    """
    stage = Run(str(folder)).stage("classify", "key")
    plan: list[Shard] = []
    for layer, category in accuracy:
        for fold in (0, 1, VALIDATION):
            facts = {"layer": layer, "category": category, "fold": fold, "names": NAMES, "cs": cs}
            facts["notes"] = [*notes, f"{category} {fold}"]
            meta = {META: json.dumps(facts).encode()}
            predicted = [
                [int(i >= right) for right in accuracy[layer, category]] for i in range(count)
            ]
            table = pa.table(
                {
                    "layer": [layer] * count,
                    "category": [category] * count,
                    "fold": pa.array([fold] * count, pa.int8()),
                    "image": [f"{fold}-{i // 2}.jpg" for i in range(count)],
                    "instance": [f"{fold}-{i}" for i in range(count)],
                    "keypoint": pa.array(["Nose"] * count, pa.string()),
                    "predicted": pa.array(predicted, pa.list_(pa.int16())),
                }
            ).replace_schema_metadata(meta)
            plan.append(Shard(len(plan), "x", (category, str(fold)), layer))
            names = [f"predictions/{plan[-1].part}"]
            files = {names[0]: stage.folder.write_table(names[0], table)}
            if fold == VALIDATION:
                rows = [(c, k) for c in range(len(cs)) for k in range(len(NAMES))]
                models = pa.table(
                    {
                        "c": [cs[c] for c, _ in rows],
                        "keypoint": [NAMES[k] for _, k in rows],
                        "coef": pa.array([[c, k] for c, k in rows], pa.list_(pa.float32())),
                        "intercept": [None if k == 2 else 10.0 * c + k for c, k in rows],
                    }
                )
                name = f"models/{plan[-1].part}"
                files[name] = stage.folder.write_table(name, models)
            stage.mark_done(plan[-1], files, count)
    stage.finish(plan)
    return stage


def test_answers_are_those_that_were_written(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {("conv4", "bird"): [3, 5, 0], ("sift20", "car"): [1, 1, 1]}))
    assert made.layers == ["conv4", "sift20"]
    assert made.categories == ["bird", "car"]
    assert made.pairs == [("conv4", "bird"), ("sift20", "car")]
    assert made.cs == CS
    assert made.names == {"bird": NAMES, "car": NAMES}
    held_out = made.held_out("conv4", "bird")
    assert held_out.fold.tolist() == [0] * 10 + [1] * 10
    assert held_out.image[:3] == ["0-0.jpg", "0-0.jpg", "0-1.jpg"]
    assert held_out.image[10] == "1-0.jpg"
    assert (held_out.truth == 0).all()
    assert (held_out.predicted == 0).sum(axis=0).tolist() == [6, 10, 0]
    validation = made.validation("conv4", "bird")
    assert set(validation.fold.tolist()) == {VALIDATION}
    assert validation.predicted.shape == (10, 3)
    assert made.held_out("sift20", "car").predicted.sum() == 2 * 3 * 9


def test_layers_without_a_category_are_named(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {("conv4", "bird"): [3, 5, 0], ("sift20", "car"): [1, 1, 1]}))
    for ask in (made.held_out, made.validation, lambda *key: made.model(*key, 0)):
        with pytest.raises(DistcorrError, match="conv4 was not classified in car"):
            ask("conv4", "car")


def test_notes_come_once_those_of_the_plan_first(tmp_path: Path) -> None:
    stage = write(
        tmp_path, {("conv4", "bird"): [1, 1, 1], ("conv5", "bird"): [1, 1, 1]}, notes=["a"]
    )
    stage.folder.write_json(NOTES, ["cow is not classified."])
    notes = Classified(stage).notes
    assert notes == ["cow is not classified.", "a", "bird 0", "bird 1", "bird -1"]


ACCURACY = {
    ("conv4", "bird"): [2, 9, 5],
    ("conv4", "car"): [2, 0, 7],
    ("conv5", "bird"): [9, 1, 1],
    ("conv5", "car"): [9, 8, 1],
}


@pytest.mark.parametrize(
    ("by", "chosen"),
    [
        ("category", [1, 2, 0, 0]),
        ("layer", [2, 2, 0, 0]),  # conv4: means 2, 4.5, 6
        ("all", [0, 0, 0, 0]),  # means 5.5, 4.5, 3.5
    ],
)
def test_what_shares_a_c(tmp_path: Path, by: str, chosen: list[int]) -> None:
    made = Classified(write(tmp_path, ACCURACY))
    assert made.choose(0, by) == dict(zip(ACCURACY, chosen, strict=True))


def test_the_smaller_c_wins_a_tie(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {("conv4", "bird"): [7, 3, 7], ("conv5", "bird"): [4, 4, 4]}))
    assert made.choose(0, "layer") == {("conv4", "bird"): 2, ("conv5", "bird"): 1}


def test_a_given_c_must_have_been_trained(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, ACCURACY))
    assert made.choose(0.1, "layer") == dict.fromkeys(ACCURACY, 2)
    assert made.choose(0.1 * (1 + 1e-12), "all") == dict.fromkeys(ACCURACY, 2)
    with pytest.raises(DistcorrError, match=r"got 0\.2") as raised:
        made.choose(0.2, "layer")
    assert "trained: 1, 0.01, 0.1" in raised.value.hint


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=4),
    st.permutations(CS),
)
def test_the_choice_is_the_best_mean(
    tmp_path_factory: pytest.TempPathFactory, rights: list[list[int]], cs: list[float]
) -> None:
    accuracy = {("conv4", f"c{i}"): right for i, right in enumerate(rights)}
    made = Classified(write(tmp_path_factory.mktemp("c"), accuracy, count=6, cs=cs))
    total = np.sum(rights, axis=0)
    smallest = min(c for c, t in zip(cs, total, strict=True) if t == total.max())
    assert {made.cs[i] for i in made.choose(0, "layer").values()} == {smallest}


def test_classifiers_are_those_of_the_c(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {("conv4", "bird"): [1, 1, 1]}))
    for index in range(3):
        names, coef, intercept = made.model("conv4", "bird", index)
        assert names == NAMES
        assert coef.dtype == np.float32
        assert coef.tolist() == [[index, 0], [index, 1], [index, 2]]
        assert intercept.tolist() == [10 * index, 10 * index + 1, -np.inf]


def test_nothing_was_classified(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {}))
    assert (made.layers, made.categories, made.cs, made.notes) == ([], [], (), [])
    assert made.choose(0, "layer") == {}
    assert made.choose(1e-6, "layer") == {}


def test_folds_without_samples(tmp_path: Path) -> None:
    made = Classified(write(tmp_path, {("conv4", "bird"): [0, 0, 0]}, count=0))
    assert made.held_out("conv4", "bird").predicted.shape == (0, 3)
    assert made.choose(0, "layer") == {("conv4", "bird"): 1}


def test_a_damaged_part_is_an_error_that_names_it(tmp_path: Path) -> None:
    stage = write(tmp_path, {("conv4", "bird"): [1, 1, 1]})
    (tmp_path / "classify/key/predictions/part-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DistcorrError, match=r"part-00001\.parquet"):
        Classified(stage)

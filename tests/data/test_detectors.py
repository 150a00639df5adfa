"""Which eta is chosen, and what is read back, from predictions written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import svm
from distcorr.algorithms.windows import Detectors
from distcorr.data.classified import NOTES, VALIDATION
from distcorr.data.detectors import Detected, State, metadata
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.report.predictions import PREDICTIONS

NAMES = ("Eye", "Nose")
ETAS = (0.5, 0.0, 0.1)  # in the order of the settings, which need not rise
VARIANTS = [(eta, refined) for eta in sorted(ETAS) for refined in (False, True)]
FOLDS = (0, 1, VALIDATION)

# (layer, category) -> fold -> per instance and keypoint: the error of every variant, px; the box
# has 100 px. None: the keypoint is not shown.
Errors = Mapping[tuple[str, str], Mapping[int, Sequence[Sequence[Sequence[float] | None]]]]


def state(seed: int = 0, found: tuple[tuple[int, ...], ...] = ((3, 4), (0, 1))) -> State:
    rng = np.random.default_rng(seed)
    linear = svm.Linear(
        rng.normal(size=(2, 9)),
        np.array([rng.normal(), -np.inf]),
        *rng.random((3, 2)),
        np.array([4, 0]),
    )
    first, mined = np.array([2, 5, 2**40]), np.arange(0)
    return State(
        2,
        Detectors(linear, 3, 0.1 + seed),
        first,
        mined,
        True,
        False,
        found,
        (3, 3, 3),
        (7,),
        ("n",),
    )


def write(folder: Path, errors: Errors, etas: Sequence[float] = ETAS) -> StageFolder:
    stage = Run(str(folder)).stage("detect", "key")
    plan: list[Shard] = []
    for (layer, category), folds in errors.items():
        for fold, instances in folds.items():
            facts = {"layer": layer, "category": category, "fold": fold, "names": NAMES}
            facts |= {"etas": etas, "variants": VARIANTS, "notes": [f"{category} {fold}"]}
            rows = [
                (f"{fold}-{n}", NAMES[k], each)
                for n, keypoints in enumerate(instances)
                for k, each in enumerate(keypoints)
                if each is not None
            ]
            table = pa.table(
                {
                    "category": pa.array([category] * len(rows), pa.string()),
                    "fold": pa.array([fold] * len(rows), pa.int8()),
                    "instance": pa.array([r[0] for r in rows], pa.string()),
                    "image": pa.array([f"{r[0]}.jpg" for r in rows], pa.string()),
                    "keypoint": pa.array([r[1] for r in rows], pa.string()),
                    "x": pa.array(
                        [[10 + e for e in r[2]] for r in rows], pa.list_(pa.float64(), 6)
                    ),
                    "y": pa.array(
                        [[20 + 0 * e for e in r[2]] for r in rows], pa.list_(pa.float64(), 6)
                    ),
                    "true_x": pa.array([10.0] * len(rows)),
                    "true_y": pa.array([20.0] * len(rows)),
                    "scale": pa.array([100.0] * len(rows)),
                }
            ).replace_schema_metadata(metadata(facts))
            shard = Shard(len(plan), "x", (category, str(fold)), layer)
            plan.append(shard)
            files = {
                f"predictions/{shard.part}": stage.folder.write_table(
                    f"predictions/{shard.part}", table
                )
            }
            files[f"detectors/{shard.part}"] = state(len(plan)).save(
                stage.folder, f"detectors/{shard.part}"
            )
            stage.mark_done(shard, files, len(rows))
    stage.finish(plan)
    return stage


def right(*etas: float) -> list[float]:
    """Errors of the variants: within 10 px for these etas, whether refined or not."""
    return [3.0 if eta in etas else 30.0 for eta, _ in VARIANTS]


ONE: Errors = {("conv5", "bird"): {fold: [[right(0.1), right(0.1, 0.5)]] for fold in FOLDS}}


def test_predictions_are_those_that_were_written(tmp_path: Path) -> None:
    rows = [[[1.0, 2.0, 3.0, 4.0, np.nan, 6.0], None], [None, right(0.1)]]
    stage = write(tmp_path, {("conv5", "bird"): {0: rows, 1: rows[1:], VALIDATION: rows}})
    stage.folder.write_json(NOTES, ["car is not detected"])
    made = Detected(stage)
    assert (made.layers, made.categories, made.pairs) == (["conv5"], ["bird"], [("conv5", "bird")])
    assert (made.names, made.etas) == ({"bird": NAMES}, ETAS)
    assert made.variants == VARIANTS
    assert made.notes == ["car is not detected", "bird 0", "bird 1", "bird -1"]
    table = made.validation("conv5", "bird", 0.1, True)
    assert table.column_names == [*PREDICTIONS.names[1:], "fold"]
    assert table.to_pylist()[0] == {
        **{"category": "bird", "instance": "-1-0", "image": "-1-0.jpg", "keypoint": "Eye"},
        **{"true_x": 10.0, "true_y": 20.0, "scale": 100.0, "fold": -1, "x": 14.0, "y": 20.0},
    }
    assert made.validation("conv5", "bird", 0.5)["x"].to_pylist() == [None, 40.0]
    assert made.held_out("conv5", "bird", 0)["fold"].to_pylist() == [0, 0, 1]


def test_what_was_not_detected_or_tried_is_refused(tmp_path: Path) -> None:
    made = Detected(write(tmp_path, ONE))
    with pytest.raises(DistcorrError, match=r"conv4 was not detected in bird\."):
        made.validation("conv4", "bird", 0)
    with pytest.raises(DistcorrError, match=r"conv4 was not detected in bird\."):
        made.held_out("conv4", "bird", 0)
    with pytest.raises(DistcorrError, match=r"eta must be one that was tried, got 0\.3") as caught:
        made.validation("conv5", "bird", 0.3)
    assert "tried: 0, 0.1, 0.5;" in caught.value.hint


def test_a_state_is_read_back_to_the_bit(tmp_path: Path) -> None:
    made = Detected(write(tmp_path, ONE))
    for fold, seed in zip(FOLDS, (1, 2, 3), strict=True):
        names, found = made.model("conv5", "bird", fold)
        assert names == NAMES
        wanted = state(seed)
        for name, value in vars(wanted.detectors.linear).items():
            read = getattr(found.detectors.linear, name)
            assert (read.dtype, read.shape, read.tobytes()) == (
                *(value.dtype, value.shape),
                value.tobytes(),
            )
        assert found.first.tobytes() == wanted.first.tobytes()
        assert (found.mined.dtype, len(found.mined)) == (np.int64, 0)
        plain = ("round", "full", "ended", "found", "sizes", "broken", "notes")
        assert [getattr(found, n) for n in plain] == [getattr(wanted, n) for n in plain]
        assert (found.detectors.block, found.detectors.scale) == (3, 0.1 + seed)
        found.detectors.linear.coef[:] = 0  # ours to write to


def test_a_damaged_state_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("x.parquet", b"torn")
    with pytest.raises(DistcorrError, match="Cannot read the table"):
        State.load(folder, "x.parquet")


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_accuracy_is_counted_by_hand(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Per fold and type the share within 10 px; the mean over types, then over folds."""
    error = st.sampled_from([0.0, 10.0, 10.5, 30.0, float("nan")])
    shown = st.lists(error, min_size=6, max_size=6)
    instance = st.tuples(shown, st.none() | shown)
    errors = {
        ("conv5", "bird"): {f: data.draw(st.lists(instance, min_size=1, max_size=3)) for f in FOLDS}
    }
    made = Detected(write(tmp_path_factory.mktemp("run"), errors))
    for refined in (False, True):
        wanted = []
        for eta in ETAS:
            column = VARIANTS.index((eta, refined))
            folds = []
            for fold in (0, 1):
                instances = errors["conv5", "bird"][fold]
                types = [
                    [each[k][column] <= 10 for each in instances if each[k] is not None]
                    for k in (0, 1)
                ]
                folds.append(np.mean([np.mean(t) for t in types if t]))
            wanted.append(np.mean(folds))
        found = made.accuracy("conv5", "bird", refined)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_eta_is_chosen_for_what_shares_it(tmp_path: Path) -> None:
    def everywhere(*keypoints: list[float]) -> dict[int, list[list[list[float]]]]:
        return {fold: [list(keypoints)] for fold in FOLDS}

    made = Detected(
        write(
            tmp_path,
            {
                ("conv5", "bird"): everywhere(right(0.5), right(0.5)),
                ("conv5", "car"): everywhere(right(0.1), right(0.1, 0.5)),
                ("dsift8", "bird"): everywhere(right(0.0), right(0.1, 0.0)),
                ("dsift8", "car"): {VALIDATION: [[right(0.5)]]},
            },
        )
    )
    assert list(made.choose("category").values()) == [0.5, 0.1, 0.0, 0.1]  # the last: the paper's
    assert list(made.choose("layer").values()) == [0.5, 0.5, 0.0, 0.0]
    assert set(made.choose("all").values()) == {0.1}  # as good as 0.5, and smaller


def test_ties_go_to_the_smaller_eta(tmp_path: Path) -> None:
    same = {fold: [[right(0.5, 0.1), right(0.1, 0.5)]] for fold in FOLDS}
    made = Detected(write(tmp_path, {("conv5", "bird"): same}))
    assert made.choose("layer") == {("conv5", "bird"): 0.1}


def test_one_eta_is_the_one(tmp_path: Path) -> None:
    only = {("conv5", "bird"): {VALIDATION: [[right(0.1)]]}}
    made = Detected(write(tmp_path, only, etas=(0.5,)))
    assert made.choose("category") == {("conv5", "bird"): 0.5}


def test_metadata_is_the_same_for_the_same_facts() -> None:
    one, other = metadata({"a": 1, "b": (2,)}), metadata({"b": [2], "a": 1})
    assert one == other
    assert json.loads(next(iter(one.values()))) == {"a": 1, "b": [2]}

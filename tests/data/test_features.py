"""What a run knows of its features."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcorr.data import datasets
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Run, Shard
from distcorr.data.store import Feature, feature_table
from distcorr.errors import DistcorrError
from distcorr.types import Box, Dataset, Geometry, Instance

GEOMETRY = Geometry(input_size=227, stride=16, offset=17.0, rf=131, cells=3)
CONV4, POINTS = Feature("grids", "conv4", {}), Feature("points", "conv4", {})
NAMES = {"bird": ("eye", "tail")}
FACTS = {
    "keypoint_names": {"bird": ["eye", "tail"]},
    "conv": "conv4",
    "vector": "fc7",
    "tables": {f.name: f.folder for f in (CONV4, POINTS)} | {"vectors/fc7": "vectors-fc7-0"},
    "names": {},
    "root": "",
    "stamp": {"weights": "w", "data": "d"},
}
SHAS = {"p.jpg": "abc"}
SHARDS = {"i0": "s0", "i1": "s0", "i2": "s1", "i3": "s1"}


def instance(k: int) -> Instance:
    points = np.array([[1.5 + k, 2], [np.nan, np.nan]], np.float32)
    box = Box(0, 1, 30 + k, 40)
    return Instance(f"i{k}", "p.jpg", "bird", "train", box, points, np.array([True, False]))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    stage = Run(str(tmp_path)).stage("build-db", "k", "store")
    dataset = Dataset("d", "", tuple(instance(k) for k in range(4)), NAMES)
    FeatureStore.write_instances(stage, datasets.to_table(dataset), SHARDS, SHAS, FACTS)
    plan = [
        Shard(0, "x", ("i0", "i1"), "instances", "s0"),
        Shard(1, "x", ("i2", "i3"), "instances", "s1"),
        Shard(2, "x", ("p.jpg",), "photographs", "p0"),
    ]
    for shard in plan[:2]:
        kept = [i for i in shard.items if i != "i2"]
        values = np.stack([np.full((3, 3, 5), int(i[1])) for i in kept]).astype(np.float32)
        name = f"{CONV4.folder}/{shard.part}"
        dead = [DeadLetter(i, "p.jpg", "bad") for i in shard.items if i == "i2"]
        table = feature_table(CONV4, {"id": kept}, values, GEOMETRY)
        stage.mark_done(shard, {name: stage.files.write_table(name, table)}, len(kept), dead)
    name = f"{POINTS.folder}/{plan[2].part}"
    table = feature_table(POINTS, {"id": ["i0"], "keypoint": ["eye"]}, np.ones((1, 5)))
    letter = DeadLetter("q.jpg", "q.jpg", "too small")
    stage.mark_done(plan[2], {name: stage.files.write_table(name, table)}, 1, [letter])
    stage.finish(plan)
    return FeatureStore(stage)


def test_instances_come_back_equal(store: FeatureStore) -> None:
    for k, read in enumerate(store.instances):
        wanted = instance(k)
        fields = ("id", "image", "category", "split", "box")
        assert [getattr(read, f) for f in fields] == [getattr(wanted, f) for f in fields]
        np.testing.assert_array_equal(read.keypoints, wanted.keypoints)
        np.testing.assert_array_equal(read.visible, wanted.visible)
    assert store.keypoint_names == NAMES


def test_features_come_in_the_order_asked_for_without_the_dead(store: FeatureStore) -> None:
    ids, values, meta = store.read("grids/conv4", ["i3", "i2", "i0"])
    assert ids == ["i3", "i0"]
    assert values[:, 0, 0, 0].tolist() == [3, 0]
    assert meta.geometry == GEOMETRY
    assert [i.id for i in store.members("bird", "train")] == ["i0", "i1", "i3"]


def test_a_photograph_too_small_for_a_layer_costs_no_instance(store: FeatureStore) -> None:
    assert store.dead == {"i2"}
    assert store.checksums == {"p.jpg": "abc"}


def test_rows_of_photographs_come_part_by_part(store: FeatureStore) -> None:
    (part,) = store.parts("points/conv4")
    assert part["keypoint"].to_pylist() == ["eye"]


def test_instances_are_read_when_asked_for_and_travel_as_they_are(store: FeatureStore) -> None:
    assert "instances" not in vars(store)
    assert store.main["grids"] == CONV4.folder  # needs none
    assert "instances" not in vars(store)
    with pytest.raises(AttributeError, match="nothing"):
        _ = store.nothing  # type: ignore[attr-defined]
    assert len(store.instances) == 4
    lean = copy.copy(store)
    lean.instances = []
    sent = pickle.loads(pickle.dumps(lean))
    assert sent.instances == sent.members("bird", "train") == []
    assert sent.read("grids/conv4", ["i3"])[0] == ["i3"]
    assert len(store.instances) == 4


def test_a_category_and_a_split_are_found_wherever_they_stand(store: FeatureStore) -> None:
    stage = store._stage
    groups = [("cat", "val"), ("bird", "train"), ("cat", "val"), ("bird", "val"), ("bird", "train")]
    drawn = [
        replace(instance(k), category=category, split=split)
        for k, (category, split) in enumerate(groups)
    ]
    table = datasets.to_table(Dataset("d", "", tuple(drawn), NAMES))
    FeatureStore.write_instances(stage, table, SHARDS | {"i4": "s1"}, SHAS, FACTS)
    every, birds = FeatureStore(stage), FeatureStore(stage, "bird")
    for group in {*groups, ("cow", "val")}:
        wanted = [i.id for i in drawn if (i.category, i.split) == group and i.id != "i2"]
        assert [i.id for i in every.members(*group)] == wanted
        here = wanted if group[0] == "bird" else []
        assert [i.id for i in birds.members(*group)] == here
    assert birds.checksums == {"p.jpg": "abc"}
    assert set(birds._stems) == {"i1", "i3", "i4"}


def test_what_is_not_there_is_an_error(store: FeatureStore) -> None:
    with pytest.raises(DistcorrError, match="has no grids/conv4 for 0 of the 0 instances"):
        store.read("grids/conv4", ["i2"])  # a dead one
    store.dead = frozenset()
    with pytest.raises(DistcorrError, match="has no grids/conv4 for 1 of the 2 instances"):
        store.read("grids/conv4", ["i2", "i3"])
    with pytest.raises(DistcorrError, match="Cannot read the table"):
        store.read("vectors/fc7", ["i3"])
    with pytest.raises(DistcorrError, match=r"no grids/conv5\. Did you mean 'grids/conv4'") as no:
        store.read("grids/conv5", ["i3"])
    assert "features.grids" in no.value.hint


def test_the_instance_table_is_written_only_when_it_changes(store: FeatureStore) -> None:
    stage = store._stage
    path = Path(stage.folder.uri) / "instances.parquet"
    before = path.stat().st_mtime_ns
    dataset = Dataset("d", "", tuple(instance(k) for k in range(4)), NAMES)
    FeatureStore.write_instances(stage, datasets.to_table(dataset), SHARDS, SHAS, FACTS)
    assert path.stat().st_mtime_ns == before
    FeatureStore.write_instances(
        stage, datasets.to_table(dataset), SHARDS | {"i0": "s7"}, SHAS, FACTS
    )
    assert path.stat().st_mtime_ns != before
    assert stage.done() is None  # until its shards agree with the table


def test_the_fingerprint_is_of_the_annotations_not_of_the_place() -> None:
    one = Dataset("a", "/x", (instance(0),), NAMES)
    moved = Dataset("b", "/y", (instance(0),), NAMES)
    other = Dataset("a", "/x", (instance(1),), NAMES)
    assert datasets.fingerprint(one) == datasets.fingerprint(moved)
    assert datasets.fingerprint(one) != datasets.fingerprint(other)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"keypoints": np.array([[-0.0, 2.00004], [-np.nan, np.nan]])}, True),
        ({"keypoints": np.array([[0.0, 2.0001], [np.nan, np.nan]])}, False),
        ({"keypoints": np.array([[np.nan, np.nan], [0.0, 2.0]])}, False),
        ({"visible": np.array([True, True])}, False),
        ({"box": Box(0, 0, 9, 9.5)}, False),
        ({"split": "train"}, False),
    ],
)
def test_the_fingerprint_is_of_numbers_to_a_ten_thousandth(change: Any, same: bool) -> None:
    points = np.array([[0.0, 2.0], [np.nan, np.nan]], np.float32)
    before = Instance("i", "a.jpg", "cat", "val", Box(0, 0, 9, 9), points, ~np.isnan(points[:, 0]))
    change = {k: v.astype(np.float32) if k == "keypoints" else v for k, v in change.items()}
    of = [
        datasets.fingerprint(Dataset("a", "/x", (each,), {"cat": ("nose", "eye")}))
        for each in (before, replace(before, **change))
    ]
    assert (of[0] == of[1]) is same


def test_unknown_readers_are_refused(tmp_path: Path) -> None:
    from distcorr.config import DatasetConfig
    from distcorr.data.storage import Folder

    folder = Folder(tmp_path)
    with pytest.raises(DistcorrError, match="Did you mean 'voc'"):
        datasets.load(DatasetConfig(name="vocs", root="x"), folder, 0)
    with pytest.raises(DistcorrError, match="Cannot import"):
        datasets.load(DatasetConfig(name="nowhere_to_be_found:load", root="x"), folder, 0)
    with pytest.raises(DistcorrError, match="needs a folder"):
        datasets.load(DatasetConfig(name="voc"), folder, 0)

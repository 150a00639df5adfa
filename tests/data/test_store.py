from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcorr.data import datasets
from distcorr.data.run import DeadLetter, Run, Shard
from distcorr.data.store import FeatureMeta, FeatureStore, feature_table, read_features
from distcorr.errors import DistcorrError
from distcorr.types import Box, Dataset, Geometry, Instance

GEOMETRY = Geometry(input_size=227, stride=16, offset=17.0, rf=131, cells=3)
META = FeatureMeta("conv4", (3, 3, 5), GEOMETRY, "abc")


def instance(k: int) -> Instance:
    points = np.array([[1.5 + k, 2], [np.nan, np.nan]], np.float32)
    box = Box(0, 1, 30 + k, 40)
    return Instance(f"i{k}", "p.jpg", "bird", "train", box, points, np.array([True, False]))


def test_values_survive_as_float16_with_shape_and_geometry(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(4, 3, 3, 5)).astype(np.float32)
    table = feature_table(["a", "b", "c", "d"], values, META)
    pq.write_table(table, tmp_path / "x.parquet")
    ids, read, meta = read_features(pq.read_table(tmp_path / "x.parquet"))
    assert ids == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(read, values.astype(np.float16))
    assert meta == META


def test_other_readers_open_the_file(tmp_path: Path) -> None:
    values = np.arange(2 * 45, dtype=np.float32).reshape(2, 3, 3, 5)
    pq.write_table(feature_table(["a", "b"], values, META), tmp_path / "x.parquet")
    frame = pd.read_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(np.stack(frame["conv4"]), values.reshape(2, 45))


def test_an_empty_shard_is_a_table_too() -> None:
    ids, read, _ = read_features(feature_table([], np.zeros((0, 3, 3, 5)), META))
    assert (ids, read.shape) == ([], (0, 3, 3, 5))


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(1, 3, 3, 5\), got \(1, 3, 5\)"):
        feature_table(["a"], np.zeros((1, 3, 5)), META)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    stage = Run(str(tmp_path)).stage("build-db", "k")
    dataset = Dataset("d", "", tuple(instance(k) for k in range(4)), {"bird": ("eye", "tail")})
    facts = {
        "keypoint_names": {"bird": ["eye", "tail"]},
        "conv": "conv4",
        "vector": "fc7",
        "stamp": {"weights": "w", "data": "d"},
    }
    plan = [Shard(0, "x", ("i0", "i1")), Shard(1, "x", ("i2", "i3"))]
    FeatureStore.write_instances(stage, datasets.to_table(dataset), [0, 0, 1, 1], facts)
    for shard in plan:
        kept = [i for i in shard.items if i != "i2"]
        values = np.stack([np.full((3, 3, 5), int(i[1])) for i in kept]).astype(np.float32)
        name = f"grids/conv4/{shard.part}"
        dead = [DeadLetter(i, "p.jpg", "bad") for i in shard.items if i == "i2"]
        written = stage.folder.write_table(name, feature_table(kept, values, META))
        stage.mark_done(shard, {name: written}, len(kept), dead)
    stage.finish(plan)
    return FeatureStore(stage)


def test_instances_come_back_equal(store: FeatureStore) -> None:
    for k, read in enumerate(store.instances):
        wanted = instance(k)
        assert (read.id, read.image, read.category, read.split, read.box) == (
            wanted.id,
            wanted.image,
            wanted.category,
            wanted.split,
            wanted.box,
        )
        np.testing.assert_array_equal(read.keypoints, wanted.keypoints)
        np.testing.assert_array_equal(read.visible, wanted.visible)
    assert store.keypoint_names == {"bird": ("eye", "tail")}


def test_features_come_in_the_order_asked_for_without_the_dead(store: FeatureStore) -> None:
    ids, values, meta = store.read("grids/conv4", ["i3", "i2", "i0"])
    assert ids == ["i3", "i0"]
    assert values[:, 0, 0, 0].tolist() == [3, 0]
    assert meta.geometry == GEOMETRY
    assert [i.id for i in store.members("bird", "train")] == ["i0", "i1", "i3"]


def test_what_is_not_there_is_an_error(store: FeatureStore) -> None:
    with pytest.raises(DistcorrError, match="has no grids/conv4 for 0 of the 0 instances"):
        store.read("grids/conv4", ["i2"])  # a dead one
    store.dead = frozenset()
    with pytest.raises(DistcorrError, match="has no grids/conv4 for 1 of the 2 instances"):
        store.read("grids/conv4", ["i2", "i3"])
    with pytest.raises(DistcorrError, match="Cannot read the table"):
        store.read("vectors/fc7", ["i3"])


def test_the_fingerprint_is_of_the_annotations_not_of_the_place() -> None:
    names = {"bird": ("eye", "tail")}
    one = Dataset("a", "/x", (instance(0),), names)
    moved = Dataset("b", "/y", (instance(0),), names)
    other = Dataset("a", "/x", (instance(1),), names)
    assert datasets.fingerprint(one) == datasets.fingerprint(moved)
    assert datasets.fingerprint(one) != datasets.fingerprint(other)


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


def test_tables_are_equal_bytes(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2]})
    from distcorr.data.storage import Folder

    folder = Folder(tmp_path)
    assert folder.write_table("x", table) == folder.write_table("y", table)

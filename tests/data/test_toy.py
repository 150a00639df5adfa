import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from distcorr.algorithms.crop import from_square, to_square
from distcorr.data import toy, voc
from distcorr.data.check import check
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError

SMALL = {"seed": 3, "train": 4, "val": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = Folder(tmp_path_factory.mktemp("toy") / "set")
    toy.write_toy(made, **SMALL)
    return made


@pytest.fixture(scope="module")
def dataset(folder):
    return voc.load(folder.uri)


def contents(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.sizes(recursive=True)}


def test_the_voc_reader_reads_it_without_a_complaint(dataset):
    assert dataset.warnings == ()
    assert check(dataset) == []
    counts = {(c, s): 0 for c in toy.CATEGORIES for s in ("train", "val")}
    for instance in dataset.instances:
        counts[instance.category, instance.split] += 1
    assert all(count == SMALL[split] for (_, split), count in counts.items())
    for category, names in dataset.keypoint_names.items():
        assert 8 <= len(names) <= 12
        assert set(names) == set(toy.canonical_keypoints(category))


def test_some_photographs_hold_two_objects(dataset):
    images = [instance.image for instance in dataset.instances]
    assert len(set(images)) < len(images)


def test_keypoints_are_the_warp_of_the_canonical_ones(folder, dataset):
    warps = folder.read_json("warps.json")
    assert set(warps) == {instance.id for instance in dataset.instances}
    files = [f for f in folder.sizes("annotations", recursive=True) if f.endswith(".xml")]
    seen = 0
    for file in files:
        category, name = file.split("/")
        tree = ElementTree.fromstring(folder.read(f"annotations/{file}"))
        voc_id = int(tree.findtext("voc_id"))
        parameters = warps[f"{name.rsplit('_', 1)[0]}#{voc_id - 1}"]
        assert parameters["category"] == category
        canonical = toy.canonical_keypoints(category)
        for node in tree.iter("keypoint"):
            there = toy.warp_points(parameters, canonical[node.get("name")])
            written = np.array([float(node.get("x")), float(node.get("y"))]) - 1
            assert np.abs(there - written).max() < 1e-4
            seen += 1
    assert seen > 150


def test_the_reader_sees_the_same_keypoints(folder, dataset):
    """Whichever object each annotation was matched to, its keypoints are that object's."""
    warps = folder.read_json("warps.json")
    for instance in dataset.instances:
        names = dataset.keypoint_names[instance.category]
        canonical = [toy.canonical_keypoints(instance.category)[name] for name in names]
        there = toy.warp_points(warps[instance.id], canonical)
        shown = instance.visible
        assert instance.keypoints[shown] == pytest.approx(there[shown], abs=1e-3)
        low, high = np.array(instance.box[:2]), np.array(instance.box[2:])
        assert ((there >= low) & (there <= high)).all()


def test_photographs_have_the_size_that_is_annotated(folder, dataset):
    for instance in dataset.instances[:6]:
        height, width, _ = read_image(folder, instance.image).shape
        assert 240 <= min(height, width) <= max(height, width) <= 320
        assert instance.box.x1 < width
        assert instance.box.y1 < height


def test_copying_a_neighbours_keypoints_is_clearly_imperfect(tmp_path):
    folder = Folder(tmp_path)
    toy.write_toy(folder, seed=0, train=6, val=3)
    dataset = voc.load(folder.uri)
    hits = []
    for val in (i for i in dataset.instances if i.split == "val"):
        for train in dataset.instances:
            if (train.category, train.split) == (val.category, "train"):
                square = to_square(train.keypoints, train.box, 227)
                error = np.linalg.norm(from_square(square, val.box, 227) - val.keypoints, axis=1)
                both = train.visible & val.visible
                hits.append((error[both] <= 0.1 * val.box.max_side).mean())
    assert 0.4 < np.mean(hits) < 0.7


def test_the_warp_never_folds(folder):
    axis = np.linspace(-1, 1, 41)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    for parameters in folder.read_json("warps.json").values():
        down, right = np.gradient(toy.warp_points(parameters, grid), axis, axis, axis=(0, 1))
        area = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        assert area.min() > 0


def test_equal_arguments_give_equal_bytes(folder, tmp_path):
    again = Folder(tmp_path)
    toy.write_toy(again, **SMALL)
    assert contents(again) == contents(folder)


def test_another_seed_gives_another_data_set(folder, tmp_path):
    other = Folder(tmp_path)
    toy.write_toy(other, seed=4, train=1, val=1)
    name = "VOCdevkit/VOC2011/JPEGImages/2011_000001.jpg"
    assert other.read(name) != folder.read(name)


def test_a_finished_data_set_is_left_alone(folder, monkeypatch):
    def fail(*_):
        raise AssertionError("written again")

    monkeypatch.setattr(Folder, "write", fail)
    toy.write_toy(folder, **SMALL)


def test_an_interrupted_one_is_finished(folder, tmp_path, monkeypatch):
    broken = Folder(tmp_path / "broken")
    write = Folder.write

    def stop(self, name, content):
        if name.endswith("2011_000005.jpg"):
            raise KeyboardInterrupt
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            toy.write_toy(broken, **SMALL)
    assert not broken.exists("toy.json")
    with pytest.raises(DistcorrError, match="other parameters"):
        toy.write_toy(broken, **{**SMALL, "train": 2})
    toy.write_toy(broken, **SMALL)
    assert contents(broken) == contents(folder)


def test_other_data_is_not_overwritten(folder, tmp_path):
    with pytest.raises(DistcorrError, match="other parameters"):
        toy.write_toy(folder, **{**SMALL, "val": 3})
    foreign = Folder(shutil.copytree(folder.uri, tmp_path / "foreign"))
    foreign.delete("toy.json")
    with pytest.raises(DistcorrError, match="not the toy's"):
        toy.write_toy(foreign, **SMALL)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"train": 0}, {"val": 0}])
def test_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(DistcorrError, match="needs seed >= 0"):
        toy.write_toy(Folder(tmp_path), **{**SMALL, **wrong})

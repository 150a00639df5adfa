"""The reader against small data sets written here, each with one trap of the real one."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from distcorr.data import datasets, voc
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.voc_writer import BASE, Voc, good


@pytest.fixture
def data(tmp_path):
    """One good bird in training; each test adds its trap."""
    made = Voc(tmp_path / "set")
    good(made)
    return made


def test_coordinates_become_zero_based(data):
    dataset = data.load()
    (bird,) = dataset.instances
    assert bird.id == "2011_000001#0"
    assert bird.image == f"{BASE}/JPEGImages/2011_000001.jpg"
    assert (bird.category, bird.split) == ("bird", "train")
    assert bird.box == Box(10, 20, 59, 89)
    assert bird.keypoints.tolist() == [[29, 39]]
    assert bird.keypoints.dtype == np.float32
    assert bird.visible.tolist() == [True]
    assert (dataset.name, dataset.root) == ("set", str(data.root))
    assert dataset.keypoint_names == {"bird": ("Left_Eye",)}
    assert dataset.warnings == ()


@pytest.mark.parametrize(
    ("base", "annotations"),
    [
        ("TrainVal/VOCdevkit/VOC2011", "annotations"),
        ("TrainVal/VOCdevkit/VOC2011", "TrainVal/annotations"),
        ("VOC2011", "annotations"),
        ("VOCdevkit/VOC2011", "VOCdevkit/annotations"),
        ("", "annotations"),
    ],
)
def test_layouts(tmp_path, base, annotations):
    made = Voc(tmp_path, base, annotations)
    good(made)
    (bird,) = made.load().instances
    assert (tmp_path / bird.image).is_file()


def test_matching_is_by_overlap_not_by_suffix(data):
    left, right = (1, 1, 50, 80), (101, 1, 150, 80)
    data.lists("val.txt", "2011_000002")
    data.photo("2011_000002", ("bird", right), ("cow", left), ("bird", left))
    # _0 would be read as the last object by "suffix - 1", and both numbers are swapped.
    data.keypoints("2011_000002_0", "bird", right, {"Left_Eye": (120, 9)}, voc_id=3)
    data.keypoints("2011_000002_2", "bird", left, {"Left_Eye": (20, 9)}, voc_id=1)
    found = {i.id: i for i in data.load().instances}
    assert found["2011_000002#0"].keypoints.tolist() == [[119, 8]]
    assert found["2011_000002#2"].keypoints.tolist() == [[19, 8]]
    assert len(found) == 3


def test_matching_is_one_to_one_with_the_greatest_total_overlap(data):
    data.photo("2011_000001", ("bird", (1, 1, 100, 80)), ("bird", (21, 1, 120, 80)))
    (data.annotations / "bird/2011_000001_1.xml").unlink()
    # Both overlap the second object best; only one may have it.
    data.keypoints("2011_000001_1", "bird", (16, 1, 115, 80), {"Left_Eye": (30, 9)})
    data.keypoints("2011_000001_2", "bird", (21, 1, 120, 80), {"Left_Eye": (40, 9)})
    found = {i.id: i.keypoints[0, 0] for i in data.load().instances}
    assert found == {"2011_000001#0": 29, "2011_000001#1": 39}


@pytest.mark.parametrize("first", [1, 2])
def test_voc_id_decides_between_equal_boxes(data, first):
    box = (11, 21, 60, 90)
    data.photo("2011_000001", ("bird", box), ("bird", box))
    data.keypoints("2011_000001_1", "bird", box, {"Left_Eye": (30, 40)}, voc_id=first)
    data.keypoints("2011_000001_2", "bird", box, {"Left_Eye": (31, 40)}, voc_id=3 - first)
    found = {i.id: i.keypoints[0, 0] for i in data.load().instances}
    assert found[f"2011_000001#{first - 1}"] == 29


def test_the_category_of_the_object_must_agree(data):
    data.photo("2011_000001", ("cow", (11, 21, 60, 90)))
    with pytest.raises(DistcorrError, match=r"no usable instance of bird.*no VOC object") as caught:
        data.load()
    assert caught.value.exit_code == MISSING


def add(data, box=(11, 21, 60, 90), difficult=(), points=None, bounds=None, **photo):
    """A second photograph, 2011_000002 in val, with something odd about it."""
    data.lists("val.txt", "2011_000002")
    data.photo("2011_000002", ("bird", box, *difficult), **photo)
    data.keypoints("2011_000002_1", "bird", bounds or box, points or {"Left_Eye": (30, 40)})


def left_out(data, words):
    dataset = data.load()
    assert [i.id for i in dataset.instances] == ["2011_000001#0"]
    (warning,) = dataset.warnings
    assert words in warning
    assert ": 1 (" in warning
    assert "2011_000002" in warning


def test_difficult_objects_are_matched_then_dropped(data):
    add(data, difficult=(True,))
    left_out(data, "difficult")


def test_instances_that_show_nothing_are_dropped(data):
    add(data, points={"Left_Eye": (30, 40, 0)})
    left_out(data, "without a visible keypoint")


def test_too_little_overlap_is_dropped(data):
    add(data, bounds=(40, 21, 89, 90))
    left_out(data, "no VOC object overlaps")


@pytest.mark.parametrize("box", [(201, 1, 240, 90), (1, 101, 9, 140), (-40, 1, 0, 90)])
def test_a_box_outside_is_dropped(data, box):
    add(data, box=box)
    left_out(data, "outside the photograph")


def test_photographs_of_no_split_are_left_out(data):
    add(data)
    data.lists("val.txt")
    left_out(data, "in neither split")


@pytest.mark.parametrize("text", ["<annotation><im", "", "<annotation/>", "\x00"])
def test_malformed_keypoint_files(data, text):
    add(data)
    (data.annotations / "bird/2011_000002_1.xml").write_text(text)
    left_out(data, "Malformed keypoint files")


@pytest.mark.parametrize("number", ["nan", "", "12,5", "inf"])
def test_malformed_numbers(data, number):
    add(data, points={"Left_Eye": (number, 40)})
    left_out(data, "Malformed keypoint files")


@pytest.mark.parametrize("text", ["<annotation>", "<annotation><object/></annotation>"])
def test_malformed_voc_files(data, text):
    add(data)
    (data.base / "Annotations/2011_000002.xml").write_text(text)
    left_out(data, "Malformed VOC files")


def test_a_missing_voc_file(data):
    add(data)
    (data.base / "Annotations/2011_000002.xml").unlink()
    left_out(data, "without a VOC file")


def test_decimals_and_clipping(data):
    add(data, box=(-3.5, 10.25, 220, 100.5), bounds=(1, 10, 200, 100))
    box = data.load().instances[1].box
    assert box == Box(0, 9.25, 199, 99)


def test_the_size_comes_from_the_photograph_if_the_file_has_none(data):
    add(data, box=(101, 1, 260, 90), declared=False)
    assert data.load().instances[1].box == Box(100, 0, 199, 89)


def test_a_missing_photograph_stays_and_is_named(data):
    add(data, pixels=False)
    dataset = data.load()
    assert len(dataset.instances) == 2
    (warning,) = dataset.warnings
    assert warning.startswith("1 of 2 photographs are missing")
    assert "2011_000002.jpg" in warning


def test_all_photographs_missing(data):
    (data.base / "JPEGImages/2011_000001.jpg").unlink()
    with pytest.raises(DistcorrError, match="All 1 photographs are missing") as caught:
        data.load()
    assert caught.value.exit_code == MISSING


@pytest.mark.parametrize("part", ["JPEGImages", "Annotations", "ImageSets/Main"])
def test_a_missing_folder_is_named(data, part):
    (data.base / part).rename(data.root / "away")
    with pytest.raises(DistcorrError, match=part) as caught:
        data.load()
    assert caught.value.exit_code == MISSING
    assert "VOCdevkit/VOC2011" in caught.value.hint


def test_missing_roots_keypoints_and_lists(tmp_path, data):
    with pytest.raises(DistcorrError, match="has none of VOCdevkit/VOC2011/JPEGImages"):
        voc.load(str(tmp_path / "nowhere"))
    (data.base / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(DistcorrError, match=r"neither val\.txt nor <class>_val\.txt"):
        data.load()
    data.annotations.rename(data.root / "away")
    with pytest.raises(DistcorrError, match="has no keypoints"):
        data.load()


def test_splits_by_the_lists_per_class(data):
    for split in ("train", "val"):
        (data.base / f"ImageSets/Main/{split}.txt").unlink()
    data.lists("bird_train.txt", "2011_000001  0", "2011_000002 -1")
    data.lists("cow_train.txt", "2011_000001 -1", "2011_000002 -1")
    data.lists("bird_val.txt", "2011_000002  1", "")
    data.photo("2011_000002", ("bird", (11, 21, 60, 90)))
    data.keypoints("2011_000002_1", "bird", (11, 21, 60, 90), {"Left_Eye": (30, 40)})
    assert [i.split for i in data.load().instances] == ["train", "val"]


def test_a_photograph_in_both_lists_trains(data):
    data.lists("val.txt", "2011_000001")
    dataset = data.load()
    assert [i.split for i in dataset.instances] == ["train"]
    assert "used for train: 1 (2011_000001)" in dataset.warnings[0]


def test_keypoint_types_in_pascals_order_then_by_name(data):
    points = {"Zeta": (1, 1), "Alpha": (2, 2), "Right_Eye": (3, 3, 0), "Beak_Tip": (4, 4)}
    add(data, points=points)
    dataset = data.load()
    assert dataset.keypoint_names["bird"] == ("Beak_Tip", "Left_Eye", "Right_Eye", "Alpha", "Zeta")
    assert "bird has 2 keypoint types" in dataset.warnings[0]
    assert dataset.warnings[0].endswith("Alpha, Zeta")
    second = dataset.instances[1]
    assert second.visible.tolist() == [True, False, False, True, True]
    assert np.isnan(second.keypoints[1:3]).all()


def test_a_data_set_with_its_own_names_is_no_surprise(data):
    add(data, points={"crown": (1, 1), "wing": (2, 2)})
    assert data.load().warnings == ()


def test_choosing_categories(data):
    good(data, "2011_000003", "cow", "val.txt")
    assert [i.category for i in data.load().instances] == ["bird", "cow"]
    chosen = data.load("cow")
    assert [i.category for i in chosen.instances] == ["cow"]
    assert list(chosen.keypoint_names) == ["cow"]
    with pytest.raises(DistcorrError, match=r"'brid'\. Did you mean 'bird'\?") as caught:
        data.load("brid")
    assert caught.value.exit_code == USAGE
    assert "bird, cow" in caught.value.hint


def test_limit_is_even_and_per_split(data):
    names = [f"2011_{k:06d}" for k in range(10, 20)]
    data.lists("val.txt", *names)
    for name in names:
        data.photo(name, ("bird", (11, 21, 60, 90)))
        data.keypoints(f"{name}_1", "bird", (11, 21, 60, 90), {"Left_Eye": (30, 40)})
    ids = [i.id for i in data.load(limit=3).instances]
    assert ids == ["2011_000001#0", "2011_000010#0", "2011_000013#0", "2011_000016#0"]
    with pytest.raises(DistcorrError, match="limit must be 0"):
        data.load(limit=-1)


def test_truncated_is_as_voc_says(data):
    names = {"2011_000010": "1", "2011_000011": " 0 ", "2011_000012": "", "2011_000013": "yes"}
    data.lists("val.txt", *names)
    for name, flag in names.items():
        good(data, name, split="other.txt")
        path = data.base / f"Annotations/{name}.xml"
        told = f"<difficult>0</difficult><truncated>{flag}</truncated>"
        path.write_text(path.read_text().replace("<difficult>0</difficult>", told))
    dataset = data.load()
    flags = {i.id: i.truncated for i in dataset.instances}
    assert flags == {
        **{"2011_000001#0": None, "2011_000010#0": True, "2011_000011#0": False},
        **{"2011_000012#0": None, "2011_000013#0": None},
    }
    table = datasets.to_table(dataset)
    assert [i.truncated for i in datasets.from_table(table)] == list(flags.values())


def test_without_flags_the_instance_table_is_as_ever(data):
    dataset = data.load()
    table = datasets.to_table(dataset)
    assert table.column_names == [
        *("id", "image", "category", "split", "box", "keypoints", "visible")
    ]
    assert datasets.from_table(table)[0].truncated is None
    told = replace(dataset.instances[0], truncated=True)
    more = replace(dataset, instances=(told,))
    assert datasets.fingerprint(more) == datasets.fingerprint(dataset)  # no key changes
    assert datasets.to_table(more).drop_columns("truncated").equals(table)


@pytest.mark.photos
def test_the_published_photographs(photos):
    dataset = voc.load(str(photos / "data" / "voc-photos"))
    both = {"bird": (220, 160), "cow": (110, 80), "horse": (110, 50), "sheep": (110, 50)}
    both |= {"person": (100, 80), "car": (10, 10), "motorbike": (10, 10), "bottle": (10, 10)}
    assert Counter((i.category, i.split) for i in dataset.instances) == {
        (category, split): count
        for category, counts in both.items()
        for split, count in zip(("train", "val"), counts, strict=True)
    }
    assert len(dataset.instances) == 1130
    assert not any("left out" in w or "missing" in w for w in dataset.warnings)
    keys = [(i.category, i.split, i.id) for i in dataset.instances]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)

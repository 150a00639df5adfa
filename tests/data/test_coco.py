"""COCO's JSON: what its numbers become, which files are read, and what is left out or refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from distcorr.config import load
from distcorr.data import assemble, coco
from distcorr.data.check import check
from distcorr.data.run import Run
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.drawn import photo

CATEGORIES = [{"id": 7, "name": "fox", "keypoints": ["nose", "tail"]}, {"id": 8, "name": "tree"}]
BOX = [10, 5, 30, 20]


def image(number, **more):
    return {"id": number, "file_name": f"{number}.png", "width": 60, "height": 40, **more}


def note(number, keypoints=(12, 8, 2, 30.5, 20, 1), **more):
    usual = {"id": 100 + number, "image_id": number, "category_id": 7, "bbox": BOX}
    return usual | {"keypoints": list(keypoints)} | more


def write(path: Path, images=None, annotations=None, categories=CATEGORIES, pixels=True) -> str:
    images = [image(1, split="train")] if images is None else images
    document = {"images": images, "categories": categories}
    document["annotations"] = [note(1)] if annotations is None else annotations
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    for each in images if pixels and isinstance(images, list) else ():
        photo(path.parent / each["file_name"], seed=each["id"])
    return str(path)


def test_numbers(tmp_path):
    dataset = coco.load(write(tmp_path / "animals.json"))
    (fox,) = dataset.instances
    assert (fox.id, fox.image, fox.category, fox.split) == ("1#101", "1.png", "fox", "train")
    assert fox.box == Box(10, 5, 39, 24)  # 30 x 20 pixels
    assert (fox.box.width, fox.box.height) == (30, 20)
    assert fox.visible.tolist() == [True, False]  # v = 1 is labelled but hidden
    assert fox.keypoints[0].tolist() == [12, 8]
    assert np.isnan(fox.keypoints[1]).all()
    assert dataset.keypoint_names == {"fox": ("nose", "tail")}
    assert (dataset.name, dataset.root, dataset.warnings) == ("animals", str(tmp_path), ())


def test_boxes_are_clipped(tmp_path):
    file = write(tmp_path / "a.json", annotations=[note(1, bbox=[-4.5, 30, 100, 100])])
    assert coco.load(file).instances[0].box == Box(0, 30, 59, 39)


def test_where_nothing_is_flagged_2_1_is_visible(tmp_path):
    file = write(tmp_path / "a.json", annotations=[note(1, (1, 2, 1, 0, 0, 0))])
    dataset = coco.load(file)
    assert dataset.instances[0].visible.tolist() == [True, False]
    assert "1 counts as visible" in dataset.warnings[0]


def test_animal_pose_itself(tmp_path):
    photo(tmp_path / "images" / "dog.png")
    annotation = note(1, bbox=[3, 4, 30, 35], keypoints=[[5, 6, 1], [0, 0, 0]])
    del annotation["id"]
    file = write(tmp_path / "keypoints.json", {"1": "dog.png"}, [annotation])
    (dog,) = coco.load(file).instances
    assert (dog.id, dog.image, dog.box) == ("dog#0", "images/dog.png", Box(3, 4, 30, 35))
    assert dog.visible.tolist() == [True, False]


@pytest.mark.parametrize(
    ("place", "photographs", "names"),
    [
        ("", "images", ("train.json", "val.json")),
        ("annotations", "data", ("ap10k-train-split1.json", "ap10k-val-split1.json")),
        ("annotations", "", ("person_keypoints_train2017.json", "person_keypoints_val2017.json")),
    ],
)
def test_a_pair_by_folder_and_by_either_file(tmp_path, place, photographs, names):
    for number, name in enumerate(names):
        write(tmp_path / place / name, [image(number)], [note(number)], pixels=False)
        where = photographs or ("train2017", "val2017")[number]
        photo(tmp_path / where / f"{number}.png", seed=number)
    write(tmp_path / place / "instances_test.json", [image(9)], [note(9)], pixels=False)
    files = [tmp_path, *(tmp_path / place / name for name in names)]
    found = [coco.load(str(file)) for file in files]
    for dataset in found:
        assert dataset.root == str(tmp_path)
        assert [(i.id, i.split) for i in dataset.instances] == [
            ("0#100", "train"),
            ("1#101", "val"),
        ]
        assert all((tmp_path / i.image).is_file() for i in dataset.instances)


def test_the_same_name_in_both_splits_folders(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"annotations/{split}.json", pixels=False)
        photo(tmp_path / f"images/{split}/1.png", seed=len(split))
    found = {i.split: i.image for i in coco.load(str(tmp_path)).instances}
    # Both objects are called 1#101: the second is left out, and said so.
    assert found == {"train": "images/train/1.png"}
    assert "id of another" in coco.load(str(tmp_path)).warnings[0]


def test_one_file_without_splits_is_split_by_name(tmp_path):
    numbers = range(40)
    file = write(tmp_path / "a.json", [image(n) for n in numbers], [note(n) for n in numbers])
    dataset = coco.load(file)
    splits = {i.image: i.split for i in dataset.instances}
    assert splits == {f"{n}.png": assemble.split_of(f"{n}.png") for n in numbers}
    assert 4 <= sum(s == "val" for s in splits.values()) <= 18
    assert dataset.warnings[0].startswith("No split is given: of 40 photographs")
    shorter = write(
        tmp_path / "b.json", [image(n) for n in range(20)], [note(n) for n in range(20)]
    )
    assert {i.image: i.split for i in coco.load(shorter).instances}.items() <= splits.items()


def test_split_of_is_the_stated_share():
    share = np.mean([assemble.split_of(f"{n}.jpg") == "val" for n in range(4000)])
    assert abs(share - assemble.VAL_SHARE) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_the_images_own_splits(tmp_path):
    images = [image(n, split=s) for n, s in enumerate(("train", "Validation", "test"))]
    dataset = coco.load(write(tmp_path / "a.json", images, [note(n) for n in range(3)]))
    assert [(i.image, i.split) for i in dataset.instances] == [("0.png", "train"), ("1.png", "val")]
    assert "neither train nor val, left out: 1 (2.png)" in dataset.warnings[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"iscrowd": 1}, "Crowds"),
        ({"bbox": [1, 2, 3]}, "Malformed"),
        ({"bbox": None}, "Malformed"),
        ({"keypoints": [1, 2, 2]}, "Malformed"),
        ({"keypoints": [1, float("nan"), 2, 1, 1, 2]}, "Malformed"),
        ({"keypoints": [1, "x", 2, 1, 1, 2]}, "Malformed"),
        ({"keypoints": [0, 0, 0, 9, 9, 1]}, "without a visible keypoint"),
        ({"bbox": [70, 5, 10, 10]}, "outside the photograph"),
        ({"bbox": [7, 5, 0, 10]}, "empty"),
        ({"image_id": 55}, "not listed"),
        ({"category_id": 8}, "without keypoints"),
        ({"id": 101}, "id of another"),
    ],
)
def test_what_is_left_out_is_counted(tmp_path, change, words):
    file = write(tmp_path / "a.json", annotations=[note(1), note(1, id=102) | change])
    dataset = coco.load(file)
    assert [i.id for i in dataset.instances] == ["1#101"]
    (warning,) = dataset.warnings
    assert words in warning
    assert "left out: 1 (" in warning


@pytest.mark.parametrize(
    "name", ["../1.png", "a/../../1.png", "/etc/1.png", "C:/1.png", "a\\1.png", "", "s3://b/1.png"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    file = write(tmp_path / "a.json", [image(1) | {"file_name": name}], pixels=False)
    with pytest.raises(DistcorrError, match="no path below the data set's folder") as caught:
        coco.load(file)
    assert caught.value.exit_code == MISSING


@pytest.mark.parametrize("name", ["a/b", "..", "", "x\ny"])
@pytest.mark.parametrize("what", ["name", "keypoints"])
def test_names_that_files_cannot_have(tmp_path, what, name):
    category = CATEGORIES[0] | {what: name if what == "name" else ["nose", name]}
    with pytest.raises(DistcorrError, match="cannot be part of a file's name"):
        coco.load(write(tmp_path / "a.json", categories=[category]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no COCO keypoint file"),
        ("[]", "no COCO keypoint file"),
        ('{"images": [], "categories": []}', "KeyError: 'annotations'"),
        ('{"images": [], "categories": [], "annotations": {}}', "no COCO keypoint file"),
        ('{"images": [], "categories": [], "annotations": []}', "no category with keypoints"),
        ('{"images": [3], "categories": [], "annotations": []}', "no COCO keypoint file"),
    ],
)
def test_other_json(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DistcorrError, match=words) as caught:
        coco.load(str(tmp_path))
    assert caught.value.exit_code == MISSING


def test_files_to_choose_from(tmp_path):
    with pytest.raises(DistcorrError, match="no JSON file"):
        coco.load(str(tmp_path))
    with pytest.raises(DistcorrError, match="There is no file"):
        coco.load(str(tmp_path / "x.json"))
    for split in ("train", "val"):
        for number in (1, 2):
            write(tmp_path / f"ap-{split}-split{number}.json")
    with pytest.raises(DistcorrError, match="4 JSON files to choose from") as caught:
        coco.load(str(tmp_path))
    assert caught.value.hint == f"name one: {tmp_path}/ap-train-split1.json"


def test_types_must_agree_and_differ(tmp_path):
    write(tmp_path / "train.json")
    other = [CATEGORIES[0] | {"keypoints": ["tail", "nose"]}]
    write(tmp_path / "val.json", categories=other)
    with pytest.raises(DistcorrError, match="differ in the keypoints of fox"):
        coco.load(str(tmp_path))
    twice = [CATEGORIES[0] | {"keypoints": ["nose", "nose"]}]
    with pytest.raises(DistcorrError, match="nose more than once"):
        coco.load(write(tmp_path / "one" / "a.json", categories=twice))


def test_categories_limit_and_missing_photographs(tmp_path):
    images = [image(n, split="train") for n in range(10)]
    file = write(tmp_path / "a.json", images, [note(n) for n in range(10)])
    assert [i.id for i in coco.load(file, limit=2).instances] == ["0#100", "5#105"]
    with pytest.raises(DistcorrError, match="Did you mean 'fox'") as caught:
        coco.load(file, ("fux",))
    assert caught.value.exit_code == USAGE
    with pytest.raises(DistcorrError, match="limit must be 0"):
        coco.load(file, limit=-1)
    (tmp_path / "3.png").unlink()
    dataset = coco.load(file)
    assert len(dataset.instances) == 10
    assert dataset.warnings == ("1 of 10 photographs are missing: 3.png",)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DistcorrError, match="All 10 photographs are missing"):
        coco.load(file)


def test_from_the_file_to_transferred_keypoints(tmp_path):
    """Four drawn photographs, by SIFT alone: keypoints of the neighbour land on its copy's."""
    from tests.stages.common import run_all, saved_pairs

    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        notes = [note(n, (12, 8, 2, 35, 20, 2)) for n in numbers]
        write(tmp_path / f"data/{split}.json", [image(n) for n in numbers], notes)
    for n in (2, 3):  # the same pictures again
        photo(tmp_path / f"data/{n}.png", seed=n - 2)
    settings = (
        *("dataset.name=distcorr.data.coco:load", f'dataset.root="{tmp_path}/data"'),
        *("features.conv=sift20", "flow.features=auto", "compute.address=inline"),
        *(f"features.{key}=[]" for key in ("points", "cells", "grids", "grids500")),
    )
    assert load("smoke", settings).dataset.name == "distcorr.data.coco:load"
    run_all(tmp_path / "run", settings, ("build-db", "neighbors", "transfer"))
    assert Run(str(tmp_path / "run")).finished("transfer")
    rows = saved_pairs(tmp_path / "run").to_pylist()
    assert {(row["target"], row["neighbor"]) for row in rows} >= {("2#102", "0#100")}
    own = next(r for r in rows if (r["target"], r["neighbor"]) == ("2#102", "0#100"))
    carried = np.array(own["carried"]).reshape(-1, 2)
    assert np.abs(carried - [[12, 8], [35, 20]]).max() < 0.5
    assert check(coco.load(str(tmp_path / "data"))) == []

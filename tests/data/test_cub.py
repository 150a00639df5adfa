"""CUB-200-2011's files: coordinates, splits, one category or species, what is left out."""

import numpy as np
import pytest

from distcorr.data import cub
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.cub_writer import FILES, write_cub


@pytest.mark.parametrize("base", ["", "CUB_200_2011"])
def test_all_species_are_birds(tmp_path, base):
    write_cub(tmp_path / base)
    dataset = cub.load(str(tmp_path))
    assert [(i.id, i.category, i.split) for i in dataset.instances] == [
        ("Auk_1#0", "bird", "train"),
        ("Jay_3#0", "bird", "train"),
        ("Auk_2#0", "bird", "val"),
    ]
    first, _, clipped = dataset.instances
    assert dataset.keypoint_names == {"bird": ("back", "left eye")}
    assert (first.box, clipped.box) == (Box(10, 5, 39, 24), Box(0, 0, 59, 19))
    assert first.keypoints[0].tolist() == [12, 8]
    assert np.isnan(first.keypoints[1]).all()
    assert first.visible.tolist() == [True, False]
    assert clipped.keypoints.tolist() == [[3, 4], [5.5, 6]]
    assert all((tmp_path / i.image).is_file() for i in dataset.instances)
    assert dataset.warnings == ()


def test_species(tmp_path):
    root = write_cub(tmp_path)
    dataset = cub.load(root, ("001.Auk", "002.Jay"))
    assert [i.category for i in dataset.instances] == ["001.Auk", "001.Auk", "002.Jay"]
    assert [i.id for i in cub.load(root, ("002.Jay",)).instances] == ["Jay_3#0"]
    assert len(cub.load(root, ("bird",)).instances) == 3
    with pytest.raises(DistcorrError, match=r"Did you mean '002\.Jay'") as caught:
        cub.load(root, ("002.Hay",))
    assert caught.value.exit_code == USAGE
    with pytest.raises(DistcorrError, match="bird is all species together"):
        cub.load(root, ("bird", "001.Auk"))
    assert [i.id for i in cub.load(root, limit=1).instances] == ["Auk_1#0", "Auk_2#0"]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("bounding_boxes.txt", "1 10 5 30 x\n2 0 0 9 9\n3 1 1 9 9", "missing or malformed: 1"),
        ("bounding_boxes.txt", "2 0 0 9 9\n3 1 1 9 9", "missing or malformed: 1"),
        ("train_test_split.txt", "1 7\n2 0\n3 1", "missing or malformed: 1"),
        ("parts/part_locs.txt", "1 9 1 1 1\n2 1 3 4 1\n3 1 2 2 1", "missing or malformed: 1"),
        ("parts/part_locs.txt", "2 1 3 4 1\n3 1 2 2 1", "without a visible keypoint"),
    ],
)
def test_what_is_left_out_is_counted(tmp_path, file, text, words):
    dataset = cub.load(write_cub(tmp_path, **{file: text}))
    assert {i.id for i in dataset.instances} == {"Auk_2#0", "Jay_3#0"}
    (warning,) = dataset.warnings
    assert words in warning
    assert "Auk_1" in warning


def test_a_missing_file_and_names_that_lead_out(tmp_path):
    root = write_cub(tmp_path / "set")
    (tmp_path / "set" / "classes.txt").unlink()
    with pytest.raises(DistcorrError, match=r"has no classes\.txt") as caught:
        cub.load(root)
    assert caught.value.exit_code == MISSING
    with pytest.raises(DistcorrError, match=r"has no images\.txt"):
        cub.load(str(tmp_path))
    names = FILES["images.txt"].replace("001.Auk/Auk_1", "../../Auk_1")
    with pytest.raises(DistcorrError, match="no path below"):
        cub.load(write_cub(tmp_path / "other", **{"images.txt": names}))

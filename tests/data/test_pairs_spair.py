"""SPair-71k's files: coordinates, lists, and one wrong field of each kind."""

import json

import pytest

from distcorr.data.pairs import load_pairs
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box
from tests.data.pairs_writer import write_spair

FIRST = "000001-a-b:cat"


@pytest.mark.parametrize(("base", "listed"), [("", True), ("SPair-71k", False)])
def test_boxes_count_from_one_and_keypoints_from_zero(tmp_path, base, listed):
    write_spair(tmp_path / base, listed=listed)
    found = load_pairs(str(tmp_path), "spair-71k")
    first = found.pairs[0]
    assert (first.id, first.category) == (FIRST, "cat")
    assert first.keypoints == ("0", "7")
    assert first.points_a.tolist() == [[4, 5], [39, 29]]
    assert first.points_b.tolist() == [[0, 0], [10, 9]]
    assert (first.box_a, first.box_b) == (Box(2, 3, 39, 29), Box(0, 0, 19, 10))
    assert first.box_a.max_side == 40 - 3  # as the published code has it
    assert (tmp_path / first.a).name == "a.jpg"
    assert found.warnings == ()


def test_the_list_says_what_pairs_there_are(tmp_path):
    root = write_spair(tmp_path)
    listing = tmp_path / "Layout/large/test.txt"
    listing.write_text("000009-x-y:dog\n" + listing.read_text().replace("000002-b-a:cat\n", ""))
    found = load_pairs(root)
    assert [p.id[:6] for p in found.pairs] == ["000001", "000003"]
    assert (
        "without a file in PairAnnotation/test, left out: 1 (000009-x-y:dog)" in found.warnings[0]
    )
    assert "does not name, left out: 1 (000002-b-a:cat.json)" in found.warnings[1]


def test_names_without_colons(tmp_path):
    root = write_spair(tmp_path)
    for file in (tmp_path / "PairAnnotation/test").iterdir():
        file.rename(file.with_name(file.name.replace(":", "_")))
    assert [p.category for p in load_pairs(root).pairs] == ["cat", "cat", "car"]


def test_splits_by_their_usual_names(tmp_path):
    root = write_spair(tmp_path, listed=False)
    (tmp_path / "PairAnnotation/test").rename(tmp_path / "PairAnnotation/trn")
    assert len(load_pairs(root, split="train").pairs) == len(load_pairs(root, split="trn").pairs)
    with pytest.raises(DistcorrError) as caught:
        load_pairs(root)
    assert caught.value.hint == "its splits: train"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category": "dog"}, "Malformed"),
        ({"category": 3}, "Malformed"),
        ({"src_kps": None}, "Malformed"),
        ({"src_kps": [[1, 2]]}, "Malformed"),
        ({"src_kps": [[1, 2], [3, "x"]]}, "Malformed"),
        ({"trg_kps": [[1, 2], [3, None]]}, "Malformed"),
        ({"trg_kps": [[1, 2], [float("nan"), 4]]}, "Malformed"),
        ({"trg_bndbox": [1, 2, 3]}, "Malformed"),
        ({"trg_bndbox": [9, 2, 3, 4]}, "Malformed"),
        ({"src_bndbox": [9, 2, 9, 2]}, "Malformed"),
        ({"kps_ids": ["7", "7"]}, "Malformed"),
        ({"kps_ids": 5}, "Malformed"),
        ({"src_imname": 5}, "Malformed"),
        ({"src_imsize": [40, float("inf")]}, "Malformed"),
        ({"mirror": 1}, "Pairs with a mirrored photograph, left out"),
        ({"kps_ids": [], "src_kps": [], "trg_kps": []}, "Malformed"),
    ],
)
def test_wrong_fields_cost_their_pair(tmp_path, change, words):
    found = load_pairs(write_spair(tmp_path, {FIRST: change}))
    assert [p.id[:6] for p in found.pairs] == ["000002", "000003"]
    (warning,) = found.warnings
    assert words in warning
    assert FIRST in warning


@pytest.mark.parametrize("text", ["", "[1]", "7", "{", "[" * 100_000, "\xff"])
def test_files_that_are_something_else(tmp_path, text):
    root = write_spair(tmp_path)
    (tmp_path / f"PairAnnotation/test/{FIRST}.json").write_text(text, "latin-1")
    assert len(load_pairs(root).pairs) == 2


@pytest.mark.parametrize("change", [{"src_imname": "../../a.jpg"}, {"trg_imname": "/a.jpg"}])
def test_names_that_lead_out_are_refused(tmp_path, change):
    with pytest.raises(DistcorrError, match="no path below") as caught:
        load_pairs(write_spair(tmp_path, {FIRST: change}))
    assert caught.value.exit_code == MISSING


def test_sizes_that_are_not_told_are_read(tmp_path):
    change = {"src_imsize": None, "src_kps": [[40, 3], [1, 1]]}
    found = load_pairs(write_spair(tmp_path, {FIRST: change, "000002-b-a:cat": {"trg_imsize": 3}}))
    assert found.warnings == (f"Keypoints outside their photograph: 1 ({FIRST} 0 in A)",)


def test_nothing_is_left(tmp_path):
    root = write_spair(tmp_path)
    for file in (tmp_path / "PairAnnotation/test").iterdir():
        file.write_text(json.dumps({}))
    with pytest.raises(DistcorrError, match=r"no usable pair. Malformed files of pairs.*: 3 \("):
        load_pairs(root)

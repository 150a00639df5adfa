"""PF-PASCAL and PF-WILLOW: forms of their lists, MATLAB's coordinates, boxes, wrong input."""

import numpy as np
import pytest
from scipy.io import savemat

from distcorr.data.pairs import load_pairs
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.pairs_writer import (
    PASCAL_BOXES,
    PASCAL_LIST,
    PASCAL_POINTS,
    willow_list,
    write_pascal,
    write_willow,
)

HEADER, ROW, *_ = PASCAL_LIST.splitlines()
ID = "000001-p-q:cat"


def only(root, *arguments):
    found = load_pairs(root, *arguments)
    (pair,) = found.pairs
    return pair, list(found.warnings)


def test_annotations_give_types_and_boxes_counted_from_one(tmp_path):
    pair, warnings = only(write_pascal(tmp_path))
    assert (pair.id, pair.category) == (ID, "cat")
    assert (pair.a, pair.b) == ("JPEGImages/p.jpg", "JPEGImages/q.jpg")
    assert pair.keypoints == ("1", "3")  # the second is absent in A
    assert pair.points_a.tolist() == [[4, 5], [19.5, 9]]
    assert pair.points_b.tolist() == [[0, 1], [29, 28]]
    assert (pair.box_a, pair.box_b) == (Box(1, 2, 39, 29), Box(0, 0, 32, 29))
    assert warnings == [
        f"Keypoints that are absent in one of the two photographs, dropped: 1 ({ID} 2)"
    ]


def test_without_annotations_the_list_gives_points(tmp_path):
    root = write_pascal(tmp_path)
    (tmp_path / "Annotations/cat/q.mat").unlink()
    pair, warnings = only(root)
    assert pair.keypoints == ("1", "2")
    assert pair.points_a.tolist() == [[4, 5], [19.5, 9]]
    assert pair.points_b.tolist() == [[0, 1], [29, 28]]
    assert (pair.box_a, pair.box_b) == (Box(1, 2, 39, 29), None)
    (warning,) = warnings
    assert "without boxes and keypoint types" in warning


def test_a_list_without_points(tmp_path):
    text = "source_image,target_image,class,flip\nJPEGImages/p.jpg,JPEGImages/q.jpg,8,0\n"
    text += "JPEGImages/q.jpg,JPEGImages/p.jpg,8,1\n"
    root = write_pascal(tmp_path, text, "trn_pairs.csv")
    pair, warnings = only(root, "", "train")
    assert pair.points_a.tolist() == [[4, 5], [19.5, 9]]
    assert warnings[1] == "Pairs with mirrored photographs, left out: 1 (000002-q-p:cat)"
    (tmp_path / "Annotations/cat/q.mat").unlink()
    with pytest.raises(DistcorrError, match="Pairs without points, left out: 1"):
        load_pairs(root, split="trn")


def test_a_list_that_says_something_else_than_the_annotations(tmp_path):
    pair, warnings = only(write_pascal(tmp_path, PASCAL_LIST.replace("30,2;29", "30,2;27")))
    assert pair.points_b.tolist() == [[0, 1], [29, 28]]
    assert any("are not those of the .mat files, which are used: 1" in w for w in warnings)
    _, warnings = only(write_pascal(tmp_path, PASCAL_LIST.replace("30,2;29", "30,2;29.4")))
    assert len(warnings) == 1  # rounded only


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no mat file" * 50,
        "cut",
        "no kps",
        "three columns",
        "infinite",
        "no box",
        "turned box",
    ],
)
def test_damaged_annotations_are_not_used(tmp_path, content):
    root = write_pascal(tmp_path)
    file = tmp_path / "Annotations/cat/p.mat"
    good = {"kps": np.array(PASCAL_POINTS["p"]), "bbox": np.array([PASCAL_BOXES["p"]])}
    changes = {
        "no kps": {"kps": "text"},
        "three columns": {"kps": np.ones((3, 3))},
        "infinite": {"kps": np.full((3, 2), np.inf)},
        "no box": {"bbox": np.ones(3)},
        "turned box": {"bbox": np.array([[9.0, 9, 1, 1]])},
    }
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-30])
    elif isinstance(content, str):
        savemat(file, good | changes[content])
    else:
        file.write_bytes(content)
    pair, warnings = only(root)
    assert pair.box_a is None
    assert pair.points_a.tolist() == [[4, 5], [19.5, 9]]  # the list's
    assert warnings[0] == "Malformed .mat files, not used: 1 (Annotations/cat/p.mat)"


@pytest.mark.parametrize(
    "row",
    [
        "p.jpg,q.jpg,21,5,6,1,2",
        "p.jpg,q.jpg,0,5,6,1,2",
        "p.jpg,q.jpg,8,5;x,6;7,1;2,2;3",
        "p.jpg,q.jpg,8,5;6,6,1;2,2;3",
        "p.jpg,q.jpg,8,5;6,6;7,1,2",
        "p.jpg,q.jpg,8,5;inf,6;7,1;2,2;3",
    ],
)
def test_malformed_rows_are_left_out_by_number(tmp_path, row):
    pair, warnings = only(write_pascal(tmp_path, f"{HEADER}\n{ROW}\n{row}\n"))
    assert pair.id == ID
    assert warnings[0] == "Malformed rows of test_pairs.csv, left out: 1 (row 2)"


def test_padding_is_no_point(tmp_path):
    text = f"{HEADER}\np.jpg,q.jpg,zebra,5;-1;nan;-1,6;-1;7;9,1;-1;3;30,2;-1;4;29\n"
    pair, warnings = only(write_pascal(tmp_path, text))
    assert (pair.category, pair.a) == ("zebra", "JPEGImages/p.jpg")
    assert pair.points_a.tolist() == [[4, 5], [-2, 8]]  # -1 in x alone is a point
    assert pair.keypoints == ("1", "4")
    assert "dropped: 2 (000001-p-q:zebra 2, 000001-p-q:zebra 3)" in warnings[0]
    assert "outside their photograph: 1 (000001-p-q:zebra 4 in A)" in warnings[1]


@pytest.mark.parametrize("place", ["", "PF-dataset"])
@pytest.mark.parametrize("form", ["columns", "semicolons"])
def test_willow(tmp_path, place, form):
    text = willow_list()
    if form == "semicolons":
        names = "PF-dataset/car(S)/m.png,PF-dataset/car(S)/n.png"
        text = "source_image,target_image,XA,YA,XB,YB\n"
        text += f"{names},1;2;3,11;12;13,21;22;23,21;22;23\n"
    pair, warnings = only(write_willow(tmp_path, text, "test_pairs_pf.csv", place))
    assert (pair.id, pair.category) == ("000001-m-n:car(S)", "car(S)")
    assert pair.a == f"{place}/car(S)/m.png".lstrip("/")
    assert pair.points_a.tolist() == [[0, 10], [1, 11], [2, 12]]
    assert pair.points_b.tolist() == [[20, 20], [21, 21], [22, 22]]
    assert (pair.keypoints, pair.box_a, pair.box_b) == (("1", "2", "3"), None, None)
    assert warnings == []


def test_ten_columns_are_in_the_order_of_their_numbers(tmp_path):
    lines = [line.split(",") for line in willow_list(10).splitlines()]
    order = [0, 1, *sorted(range(2, 42), key=lambda k: lines[0][k])]  # XA1, XA10, XA2
    text = "\n".join(",".join(line[k] for k in order) for line in lines)
    pair, _ = only(write_willow(tmp_path, text))
    assert pair.points_a[:, 0].tolist() == list(range(10))


def test_lists_that_cannot_be_used(tmp_path):
    def refused(words, *arguments, **how):
        with pytest.raises(DistcorrError, match=words) as caught:
            load_pairs(*arguments, **how)
        return caught.value

    root = write_willow(tmp_path / "w")
    refused("no list of pairs of pf-pascal", root, "pf-pascal")
    assert refused("of the split 'val'", root, split="val").hint == "its splits: test"
    assert refused("no category 'car'", root, categories=["car"]).exit_code == USAGE
    (tmp_path / "w/test_pairs_2.csv").write_text(willow_list())
    refused("2 lists of the split 'test'", root)
    assert len(load_pairs(f"{root}/test_pairs_2.csv").pairs) == 1
    broken = write_willow(tmp_path / "v", willow_list().replace("YB", "ZB"))
    assert refused("lacks the columns YB", broken).exit_code == MISSING
    out = write_willow(tmp_path / "u", willow_list().replace("PF-dataset/car(S)/m", "../m"))
    refused("no path below", out)

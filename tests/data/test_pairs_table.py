"""Pairs in a table of one's own: what rows become, and every problem by its rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcorr.data.pairs import load_pairs
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box
from tests.data.pairs_writer import COLUMNS, ROWS, write_table

BOX = {f"box_b_{side}": ["2", "2", ""] for side in ("x0", "y0")}
BOX |= {f"box_b_{side}": ["20", "20", ""] for side in ("x1", "y1")}


def test_rows_become_pairs(tmp_path):
    found = load_pairs(write_table(tmp_path, category=["cup", "cup", "mug"], **BOX))
    one, two = found.pairs
    assert (found.name, found.warnings) == ("pairs", ())
    assert (one.id, one.category, one.a, one.b) == ("one", "cup", "s.png", "images/t.png")
    assert one.keypoints == ("ear", "nose")
    assert one.points_a.tolist() == [[1, 2], [5.5, 6]]
    assert one.points_b.tolist()[0] == [3, 4]
    assert (one.box_a, one.box_b) == (None, Box(2, 2, 20, 20))
    assert (two.id, two.category, two.box_b) == ("two", "mug", None)
    assert [p.id for p in load_pairs(str(tmp_path), categories=["mug"]).pairs] == ["two"]


def test_parquet_gives_the_same(tmp_path):
    expected = load_pairs(write_table(tmp_path))
    (tmp_path / "pairs.csv").unlink()
    columns = dict(zip(COLUMNS, map(list, zip(*ROWS, strict=True)), strict=True))
    columns |= {name: [float(v) for v in columns[name]] for name in COLUMNS[4:]}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    found = load_pairs(str(tmp_path))
    assert [p.points_b.tolist() for p in found.pairs] == [
        p.points_b.tolist() for p in expected.pairs
    ]


def test_splits(tmp_path):
    root = write_table(tmp_path, split=["trn", "trn", "Test"])
    assert [p.id for p in load_pairs(root).pairs] == ["two"]
    assert [p.id for p in load_pairs(root, split="train").pairs] == ["one"]
    with pytest.raises(DistcorrError, match="no pairs of the split 'val'") as caught:
        load_pairs(root, split="val")
    assert caught.value.hint == "its splits: test, train"


def test_absent_keypoints_are_dropped(tmp_path):
    change = {(0, "xb"): "", (2, "xa"): -1, (2, "ya"): -1}
    found = load_pairs(write_table(tmp_path, change))
    assert [p.keypoints for p in found.pairs] == [("nose",)]
    assert found.warnings == (
        "Keypoints that are absent in one of the two photographs, dropped: 2 (one ear, two ear)",
        "Pairs without a keypoint in both photographs, left out: 1 (two)",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({(1, "xa"): "wide"}, r"xa is no number in 1 row \('wide'\)"),
        ({(1, "yb"): "inf"}, r"xb or yb is infinite in 1 row \(2\)"),
        ({(0, "pair"): ""}, "pair is empty, or no name, in 1 row"),
        ({(1, "image_a"): "t.png"}, r"image_a is not that of the pair's first row in 1 row \(2\)"),
        ({(1, "keypoint"): "ear"}, r"the pair has that keypoint already in 1 row \(2\)"),
        ({(2, "image_b"): "../s.png"}, "no path below"),
        ({(2, "pair"): "a/b"}, "cannot be part of a file's name"),
        ({(2, "keypoint"): "a/b"}, "cannot be part of a file's name"),
    ],
)
def test_every_problem_has_its_rows(tmp_path, change, words):
    with pytest.raises(DistcorrError, match=words) as caught:
        load_pairs(write_table(tmp_path, change))
    assert caught.value.exit_code == MISSING


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"split": ["test", "test", "dev"]}, r"neither train nor val nor test in 1 row \(3\)"),
        ({"split": ["test", "val", "test"]}, r"split is not that of the pair's first row"),
        ({"category": ["cup", "mug", "cup"]}, r"category is not that of the pair's first row"),
        (BOX | {"box_b_x1": ["20", "21", ""]}, r"box of B is not that of the pair's first row"),
        (BOX | {"box_b_x1": ["20", "20", "5"]}, r"the box of B is not whole in 1 row \(3\)"),
        (BOX | {"box_b_x1": ["1", "1", ""]}, r"the box of B ends before it begins in 2 rows \(1,"),
        (
            BOX | {"box_b_x1": ["2", "2", ""], "box_b_y1": ["2", "2", ""]},
            r"the box of B is a single pixel in 2 rows \(1, 2\)",
        ),
        ({"box_a_x0": [1, 1, 1]}, "lacks 3 of 12 required columns: box_a_y0, box_a_x1, box_a_y1"),
    ],
)
def test_problems_of_columns_that_may_be_there(tmp_path, more, words):
    with pytest.raises(DistcorrError, match=words):
        load_pairs(write_table(tmp_path, **more))


def test_missing_columns_and_rows(tmp_path):
    root = write_table(tmp_path)
    text = (tmp_path / "pairs.csv").read_text()
    (tmp_path / "pairs.csv").write_text(text.replace("keypoint", "keypoints", 1))
    with pytest.raises(DistcorrError, match=r"lacks 1 of 8.*keypoint;.*Did you mean 'keypoints'"):
        load_pairs(root)
    (tmp_path / "pairs.csv").write_text(text.splitlines()[0] + "\n")
    with pytest.raises(DistcorrError, match="has no rows"):
        load_pairs(root)

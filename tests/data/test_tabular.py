"""A table of boxes and keypoints: what its rows become, and every problem by its rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcorr.data import assemble, tabular
from distcorr.data.check import check
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.drawn import photo

COLUMNS = ("image", "instance", "category", "split", "x0", "y0", "x1", "y1", "keypoint", "x", "y")
ROWS = [
    ("a.png", "0", "cup", "train", 2, 3, 41, 32, "rim", 5.5, 6),
    ("a.png", "0", "cup", "train", 2, 3, 41, 32, "handle", 40, 20),
    ("a.png", "1", "cup", "train", 10, 3, 90, 32, "rim", 12, 6),
    ("b.png", "0", "cup", "val", 0, 0, 9, 9, "rim", 1, 1),
]


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(("a.png", "images/b.png")):
        photo(tmp_path / name, seed=seed)
    return tmp_path


def table(change=None, drop=(), **more):
    """The rows with some values changed, {(row, column): value}, columns dropped or added."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    for (row, column), value in (change or {}).items():
        rows[row][column] = value
    for column, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    return [{k: v for k, v in row.items() if k not in drop} for row in rows]


def csv(folder, rows, name="cups.csv"):
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def refused(folder, *words, **how):
    with pytest.raises(DistcorrError) as caught:
        tabular.load(csv(folder, table(**how)))
    assert caught.value.exit_code == MISSING
    for word in words:
        assert word in caught.value.message
    return caught.value


def test_rows_become_objects(folder):
    dataset = tabular.load(csv(folder, table()))
    assert [i.id for i in dataset.instances] == ["a#0", "a#1", "b#0"]
    first, second, third = dataset.instances
    assert dataset.keypoint_names == {"cup": ("handle", "rim")}
    assert first.keypoints.tolist() == [[40, 20], [5.5, 6]]
    assert (first.box, second.box) == (Box(2, 3, 41, 32), Box(10, 3, 59, 32))  # clipped to 60 px
    assert second.visible.tolist() == [False, True]
    assert (third.image, third.split, dataset.warnings) == ("images/b.png", "val", ())
    assert check(dataset) == []


def test_parquet_and_a_folder_give_the_same(folder):
    expected = tabular.load(csv(folder, table()))
    (folder / "cups.csv").rename(folder / "other.txt")
    pq.write_table(pa.Table.from_pylist(table()), folder / "cups.parquet")
    found = tabular.load(str(folder))
    assert [i.id for i in found.instances] == [i.id for i in expected.instances]
    assert found.root == expected.root == str(folder)


def test_width_and_height(folder):
    rows = table(drop=("x1", "y1"), w=[40, 40, 60, 10], h=[30, 30, 30, 10])
    assert tabular.load(csv(folder, rows)).instances[0].box == Box(2, 3, 41, 32)


def test_the_least_that_is_needed(folder):
    rows = table(drop=("instance", "category", "split"))
    del rows[2]
    dataset = tabular.load(csv(folder, rows))
    assert {(i.id, i.category, i.split) for i in dataset.instances} == {
        (f"{n}#0", "object", assemble.split_of(f"{n}.png")) for n in "ab"
    }


def test_visibility(folder):
    rows = table({(1, "x"): "", (1, "y"): ""}, visible=[1, "false", "TRUE", "1.0"])
    first = tabular.load(csv(folder, rows)).instances[0]
    assert first.visible.tolist() == [False, True]
    rows = table(visible=[0, 1, 1, 1])
    assert tabular.load(csv(folder, rows)).instances[0].visible.tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({(1, "x"): "wide"}, "x is no number in 1 rows (2)"),
        ({(1, "x"): ""}, "only one of x and y is a finite number in 1 rows (2)"),
        ({(1, "x"): "inf"}, "only one of x and y is a finite number in 1 rows (2)"),
        ({(2, "x0"): "nan"}, "the box is empty or not finite in 1 rows (3)"),
        ({(3, "x1"): -5}, "the box ends before it begins in 1 rows (4)"),
        ({(1, "x1"): 42}, "not that of the same object's first row in 1 rows (2)"),
        ({(1, "keypoint"): "rim"}, "has that keypoint already in 1 rows (2)"),
        ({(1, "category"): "mug"}, "category is not that of the same object's first row"),
        ({(2, "split"): "val"}, "split is not that of the same photograph's first row in 1 rows"),
        ({(3, "split"): "test"}, "split is neither train nor val in 1 rows (4)"),
        ({(0, "image"): ""}, "image is empty, or no name, in 1 rows (1)"),
    ],
)
def test_every_problem_has_its_rows(folder, change, words):
    refused(folder, words, change=change)


def test_problems_are_said_at_once(folder):
    change = {(3, "split"): "test", (1, "x1"): 42, (2, "x0"): "nan"}
    refused(
        folder, "split is neither", "not that of the same object's", "not finite", change=change
    )
    visible = ["1", "maybe", "1", "1"]
    refused(folder, "visible is neither 1 nor 0, true nor false in 1 rows (2)", visible=visible)
    change = {(1, "x"): "", (1, "y"): ""}
    words = "visible is 1 where x and y are empty in 1 rows (2)"
    refused(folder, words, change=change, visible=[1] * 4)


def test_missing_columns(folder):
    error = refused(folder, "lacks 1 of 8", "keypoint", drop=("keypoint",), keypoints=["a"] * 4)
    assert "Did you mean 'keypoints'?" in error.message
    assert "a row per keypoint" in error.hint
    refused(folder, "lacks 2 of 8 required columns: x1, y1", drop=("x1", "y1"))
    refused(folder, "lacks 1 of 8 required columns: h", drop=("x1", "y1"), w=[1] * 4)


def test_boxes_outside_and_photographs_that_are_missing_are_counted(folder):
    rows = table({(2, "x0"): 70})
    (warning,) = tabular.load(csv(folder, rows)).warnings
    assert "outside the photograph, left out: 1 (a#1)" in warning
    rows = table({(3, "image"): "c.png"})
    dataset = tabular.load(csv(folder, rows))
    assert len(dataset.instances) == 3
    assert dataset.warnings == ("1 of 2 photographs are missing: c.png",)


def test_only_one_split_is_said_by_the_check(folder):
    dataset = tabular.load(csv(folder, table({(3, "split"): "train"})))
    assert "no validation example" in check(dataset)[0]


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x\\a.png"])
def test_names_that_lead_out_are_refused(folder, name):
    refused(folder, "no path below", change={(3, "image"): name})


def test_files_and_arguments(folder):
    with pytest.raises(DistcorrError, match="has no table"):
        tabular.load(str(folder))
    file = csv(folder, table())
    csv(folder, table(), "more.csv")
    with pytest.raises(DistcorrError, match=r"2 tables \(cups.csv, more.csv\)"):
        tabular.load(str(folder))
    with pytest.raises(DistcorrError, match="no category 'mug'") as caught:
        tabular.load(file, ("mug",))
    assert caught.value.exit_code == USAGE
    (folder / "empty.csv").write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(DistcorrError, match="has no rows"):
        tabular.load(str(folder / "empty.csv"))

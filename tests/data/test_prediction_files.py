"""Anyone's predictions: three kinds of file say the same; what is wrong is named and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distcorr.data.prediction_files import BOX, REQUIRED, SIZE, read
from distcorr.errors import MISSING, DistcorrError
from distcorr.report.predictions import PREDICTIONS

Rows = list[dict[str, Any]]


def rows(methods: tuple[str, ...] = ("flow", "copy"), objects: int = 4) -> Rows:
    """Three keypoints of every object by every method; boxes of 30 x 40 px in photographs."""
    return [
        {
            "method": method,
            "category": "cat" if i % 2 else "dog",
            "image": f"photo{i}.jpg",
            "instance": f"photo{i}#0",
            "keypoint": keypoint,
            "x": 10.0 + k + m,
            "y": 20.0 + i,
            "true_x": 10.0 + k,
            "true_y": 20.0 + i,
            "scale": 40.0,
        }
        for m, method in enumerate(methods)
        for i in range(objects)
        for k, keypoint in enumerate(("eye", "nose", "tail"))
    ]


def framed(found: Rows) -> Rows:
    lengths = dict(zip((*BOX, *SIZE), (0.0, 10.0, 30.0, 50.0, 300, 200), strict=True))
    return [row | lengths for row in found]


def write(found: Rows, path: Path) -> str:
    if path.suffix == ".parquet":
        pd.DataFrame(found).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(found).to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        pd.DataFrame(found).to_json(path, orient="records", lines=True)
    else:
        path.write_text(json.dumps(found))
    return str(path)


def refused(found: Rows | bytes | str, tmp_path: Path, *words: str, name: str = "p.json") -> str:
    path = tmp_path / name
    if isinstance(found, list):
        write(found, path)
    else:
        path.write_bytes(found.encode() if isinstance(found, str) else found)
    with pytest.raises(DistcorrError) as error:
        read(str(path))
    assert error.value.exit_code == MISSING
    assert error.value.hint
    for word in (name, *words):
        assert word in error.value.message
    return error.value.message


def changed(found: Rows, at: dict[int, dict[str, Any]]) -> Rows:
    return [row | at.get(n, {}) for n, row in enumerate(found)]


def str_of(value: Any) -> str:
    return str(value)[:9]


# -- what can be read --------------------------------------------------------------------------


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    found = changed(framed(rows()), {1: {"x": None, "y": None}})
    whole = read(write(found, tmp_path / "p.json"))
    assert whole.methods == ("flow", "copy")
    assert len(whole) == 24
    for name in ("p.parquet", "p.csv", "p.jsonl", "a.table"):
        other = read(write(found, tmp_path / name))
        assert other.methods == whole.methods
        assert other.notes == whole.notes
        assert other.names.keys() == whole.names.keys()
        for column, (values, codes) in whole.names.items():
            assert other.names[column][0] == values
            np.testing.assert_array_equal(other.names[column][1], codes)
        for column, numbers in whole.values.items():
            np.testing.assert_array_equal(other.values[column], numbers)
    points = whole.of(["copy"])
    assert list(points) == ["copy"]
    assert points["copy"].knows == {"scale", "box", "size"}
    assert points["copy"].box is not None
    assert points["copy"].box[0].tolist() == [0, 10, 30, 50]
    assert np.isnan(whole.of()["flow"].predicted[1]).all()


def test_our_own_predictions_are_read_as_they_are(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(changed(rows(), {0: {"x": None, "y": None}}), schema=PREDICTIONS)
    pq.write_table(table, tmp_path / "predictions.parquet")
    found = read(str(tmp_path / "predictions.parquet"))
    assert found.methods == ("flow", "copy")
    assert found.notes == ("Nothing, or nothing finite, is predicted in 1 row: wrong.",)
    assert not found.lacks(frozenset({"scale"}))


def test_the_least_that_a_file_needs(tmp_path: Path) -> None:
    least = [{name: row[name] for name in REQUIRED} for row in rows(("flow",))]
    found = read(write(least, tmp_path / "p.csv"))
    assert found.methods == ("predictions",)
    assert found.names["category"][0] == ["all"]
    np.testing.assert_array_equal(found.names["instance"][1], found.names["image"][1])
    assert [note.split(":")[0] for note in found.notes] == [
        f"There is no column {name}" for name in ("method", "category", "instance")
    ]
    assert found.lacks(frozenset({"scale"})) == "scale or box_x0 to box_y1"
    assert found.lacks(frozenset({"box", "size"})) == (
        "box_x0, box_y0, box_x1, box_y1, image_width, image_height"
    )


def test_numbers_as_names_and_names_of_numbers(tmp_path: Path) -> None:
    found = changed(rows(), {n: {"keypoint": n % 3, "image": n % 12 // 3} for n in range(24)})
    for name in ("p.json", "p.csv", "p.parquet"):
        read_again = read(write(found, tmp_path / name))
        assert read_again.names["keypoint"][0] == ["0", "1", "2"]
    texts = [{k: str(v) for k, v in row.items()} for row in rows()]
    for name in ("p.json", "p.parquet"):
        assert read(write(texts, tmp_path / name)).values["x"].tolist() == [r["x"] for r in rows()]


def test_a_dictionary_column_and_a_byte_order_mark(tmp_path: Path) -> None:
    table = pd.DataFrame(rows()).astype({"method": "category", "keypoint": "category"})
    table.to_parquet(tmp_path / "p.parquet")
    assert read(str(tmp_path / "p.parquet")).methods == ("flow", "copy")
    table.to_csv(tmp_path / "p.csv", index=False, encoding="utf-8-sig")
    assert read(str(tmp_path / "p.csv")).methods == ("flow", "copy")


def test_other_columns_are_ignored(tmp_path: Path) -> None:
    found = [row | {"score": "high", "mine": [1, 2]} for row in rows()]
    assert len(read(write(found, tmp_path / "p.json"))) == 24


# -- what is left out or assumed ---------------------------------------------------------------


def test_rows_without_annotation_are_left_out(tmp_path: Path) -> None:
    nothing = {"true_x": None, "true_y": None}
    half = {"true_x": float("inf")}
    found = read(
        write(changed(rows(), {0: nothing, 12: nothing, 5: half, 17: half}), tmp_path / "p.csv")
    )
    assert len(found) == 20
    assert found.notes == ("4 rows have no finite true_x and true_y: left out.",)


def test_padding_is_left_out(tmp_path: Path) -> None:
    pad = {"true_x": -1, "true_y": -1, "x": -1, "y": -1}
    found = read(write(changed(rows(), {2: pad, 14: pad}), tmp_path / "p.csv"))
    assert len(found) == 22
    assert found.notes == ("2 rows have the truth (-1, -1), which is padding: left out.",)


def test_zeros_are_padding_where_two_keypoints_share_the_corner(tmp_path: Path) -> None:
    zero = {"true_x": 0, "true_y": 0}
    two = changed(rows(), {n: zero for n in (1, 2, 13, 14)})
    found = read(write(two, tmp_path / "p.csv"))
    assert len(found) == 20
    assert found.notes == ("4 rows have the truth (0, 0), which is padding: left out.",)
    one = changed(rows(), {n: zero for n in (2, 14)})
    found = read(write(one, tmp_path / "p.csv"))
    assert len(found) == 24
    assert found.notes == ("2 rows have the truth (0, 0): leave them out if that is padding.",)
    same = changed(one, {2: zero | {"x": 0, "y": 0}})  # pad compared with pad
    assert len(read(write(same, tmp_path / "p.csv"))) == 22


def test_what_is_not_finite_is_no_prediction(tmp_path: Path) -> None:
    at = {0: {"x": float("nan")}, 1: {"y": float("inf")}, 2: {"x": None}}
    found = read(write(changed(rows(), at), tmp_path / "p.csv"))
    assert len(found) == 24
    assert found.notes == ("Nothing, or nothing finite, is predicted in 3 rows: wrong.",)


def test_lengths_that_some_rows_lack_are_not_there(tmp_path: Path) -> None:
    found = read(write(changed(framed(rows()), {3: {"image_width": None}}), tmp_path / "p.csv"))
    assert found.lacks(frozenset({"size"})) == (
        "image_width, image_height (image_width is empty in 1 row)"
    )
    assert not found.lacks(frozenset({"box"}))


def test_a_scale_that_is_not_the_box(tmp_path: Path) -> None:
    whole = {n: {"scale": 41.0} for n in (*range(6), *range(12, 18))}
    at = whole | {n: {"scale": 7.0} for n in (*range(6, 9), *range(18, 21))}
    found = read(write(changed(framed(rows()), at), tmp_path / "p.csv"))
    assert found.notes == (
        "scale is not max(h, w) of the box in 18 rows, larger by 1 px in 12: the box is used.",
    )


def test_methods_on_other_keypoints(tmp_path: Path) -> None:
    found = read(write(rows()[:-2], tmp_path / "p.csv"))
    lacking = "Methods lack rows that others have, of 12: copy 2."
    assert found.notes == (lacking,)
    assert {name: len(points.true) for name, points in found.of().items()} == {
        "flow": 12,
        "copy": 10,
    }
    shared = found.shared()
    assert {len(points.true) for points in shared.of().values()} == {10}
    words = (
        "Scored: the 10 keypoints that all 2 methods have; --method scores one by all that it has."
    )
    assert shared.notes == (lacking, words)
    for name in ("instance", "keypoint", "category"):
        flow, copy = (getattr(shared.of()[method], name).tolist() for method in ("flow", "copy"))
        assert flow == copy
    alone = found.shared(["flow"])
    assert (alone.methods, len(alone), alone.notes) == (("flow",), 12, (lacking,))


def test_methods_with_the_same_keypoints_keep_all_of_them(tmp_path: Path) -> None:
    found = read(write(rows(), tmp_path / "p.csv"))
    assert found.shared() is found
    three = read(write(rows(("a", "b", "c"))[:-2], tmp_path / "q.csv"))
    assert len(three.shared(["a", "b"])) == 24  # what c lacks does not matter
    assert three.shared(["a", "b"]).notes == three.notes


def test_a_category_that_one_method_leaves_out(tmp_path: Path) -> None:
    found = rows()
    without = [row for row in found if (row["method"], row["category"]) != ("copy", "dog")]
    shared = read(write(without, tmp_path / "p.csv")).shared()
    assert shared.names["category"][0] == ["cat"]
    assert "the 6 keypoints that all 2 methods have, without dog" in shared.notes[-1]
    apart = [row for row in found if (row["method"] == "flow") == (row["category"] == "dog")]
    with pytest.raises(DistcorrError, match="no keypoint in common"):
        read(write(apart, tmp_path / "q.csv")).shared()
    with pytest.raises(DistcorrError, match="Did you mean 'flow'"):
        read(write(apart, tmp_path / "q.csv")).shared(["flwo"])


# -- what is wrong -----------------------------------------------------------------------------


def test_missing_columns(tmp_path: Path) -> None:
    renamed = [{k.replace("true_x", "truex"): v for k, v in row.items()} for row in rows()]
    refused(renamed, tmp_path, "lacks 1 of 6 required columns: true_x", "Did you mean 'truex'?")
    refused("a;b\n1;2\n", tmp_path, "lacks 6 of 6", "it has a;b", name="p.csv")


def test_several_problems_are_named_at_once(tmp_path: Path) -> None:
    at = {0: {"x": "left"}, 1: {"x": "right"}, 2: {"scale": "big"}, 4: {"keypoint": ""}}
    message = refused(changed(rows(), at), tmp_path)
    assert "x is no number in 2 rows ('left', 'right')" in message
    assert "scale is no number in 1 row ('big')" in message
    assert "keypoint is empty, or no name, in 1 row" in message
    refused(changed(rows(), at), tmp_path, "x is no number in 2 rows", name="p.csv")


def test_parquet_with_a_column_twice(tmp_path: Path) -> None:
    table = pa.table([pa.array([1.0])] * 2, names=["x", "x"])
    pq.write_table(table, tmp_path / "q.parquet")
    content = (tmp_path / "q.parquet").read_bytes()
    refused(content, tmp_path, "Multiple matches", name="p.parquet")


def test_half_a_character(tmp_path: Path) -> None:
    found = read(
        write(
            changed(rows(), {0: {"keypoint": "\ud800"}, 12: {"keypoint": "\ud800"}}),
            tmp_path / "p.json",
        )
    )
    assert "?" in found.names["keypoint"][0]


@pytest.mark.parametrize("value", [True, [1.0], {"a": 1}, 10**400, "1_0", "1,5"], ids=str_of)
def test_what_is_no_number(value: Any, tmp_path: Path) -> None:
    refused(changed(rows(), {0: {"y": value}}), tmp_path, "y is no number in 1 row")


def test_a_column_of_another_type(tmp_path: Path) -> None:
    table = pd.DataFrame(rows())
    table["x"] = pd.Timestamp("2014-01-01")
    table["image"] = True
    table.to_parquet(tmp_path / "p.parquet")
    content = (tmp_path / "p.parquet").read_bytes()
    words = "x is no number in 24 rows", "image is empty, or no name, in 24 rows"
    refused(content, tmp_path, *words, name="q.parquet")


def test_mixed_methods(tmp_path: Path) -> None:
    refused(
        changed(rows(), {3: {"method": None}}), tmp_path, "method is empty, or no name, in 1 row"
    )


def test_duplicates(tmp_path: Path) -> None:
    twice = rows() + rows()[:2]
    refused(
        twice,
        tmp_path,
        "2 rows have the method, instance and keypoint of another row",
        "photo0#0 eye, photo0#0 nose",
    )
    pairs = [{k: v for k, v in row.items() if k != "instance"} for row in rows(("flow",))]
    refused(pairs + pairs, tmp_path, "12 rows have the method")


def test_an_instance_in_two_places(tmp_path: Path) -> None:
    refused(
        changed(rows(), {0: {"image": "other.jpg"}, 3: {"category": "cow"}}),
        tmp_path,
        "1 instance has more than one image; 1 instance has more than one category",
    )


def test_methods_with_different_annotations(tmp_path: Path) -> None:
    refused(
        changed(rows(), {12: {"true_x": 11.0}}),
        tmp_path,
        "methods have different annotations in 1 row",
    )


def test_methods_with_their_own_lengths(tmp_path: Path) -> None:
    """One that is scored by larger boxes than another would seem the better one."""
    larger = [row | {"scale": 60.0} if row["method"] == "copy" else row for row in rows()]
    for name in ("p.csv", "p.parquet", "p.json"):
        write(larger, path := tmp_path / name)
        words = "scale differs within an instance in 12 rows"
        refused(path.read_bytes(), tmp_path, words, name=f"q{path.suffix}")
    at = {12: {"box_x1": 33.0}, 1: {"image_width": 301}}
    refused(
        changed(framed(rows()), at),
        tmp_path,
        "box_x1 differs within an instance in 1 row; image_width differs within an instance in 1",
    )
    near = {12: {"scale": 40.0 + 4e-6}}  # as float32 has it
    assert len(read(write(changed(rows(), near), tmp_path / "near.csv"))) == 24


@pytest.mark.parametrize("scale", [0.0, -3.0, float("inf")])
def test_lengths_that_are_none(scale: float, tmp_path: Path) -> None:
    at = {0: {"scale": scale}, 5: {"scale": scale}}
    words = "scale is not above 0 px, or not finite, in 2 rows"
    refused(changed(rows(), at), tmp_path, words, name="p.csv")
    at = {0: {"box_x1": scale - 1 if scale < 9 else scale}, 1: {"image_height": scale}}
    refused(
        changed(framed(rows()), at),
        tmp_path,
        "box_x1 is not above box_x0 in 1 row",
        "image_height is not above 0 px",
        name="p.csv",
    )
    ends = dict.fromkeys(("box_x0", "box_x1"), np.inf)
    words = "box_x1 is not above box_x0 in 1 row"
    refused(changed(framed(rows()), {0: ends}), tmp_path, words, name="p.csv")


def test_nothing_to_score(tmp_path: Path) -> None:
    refused(b"", tmp_path, "is empty")
    refused(b" \n", tmp_path, "is empty")
    refused("[]", tmp_path, "lacks 6 of 6 required columns", "it has none")
    refused(",".join(REQUIRED) + "\n", tmp_path, "has no rows", name="p.csv")
    nothing = [row | {"true_x": None} for row in rows()]
    refused(nothing, tmp_path, "no row with an annotation", "24 rows have no finite")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "neither Parquet nor CSV nor JSON"),
        (b"\xff\xfe\xfa", "its byte 0 is not UTF-8"),
        ("image,keypoint\nmüsli.jpg,eye\n".encode("latin-1"), "its byte 16 is not UTF-8"),
        ("x,y\n".encode("utf-16"), "neither Parquet nor CSV nor JSON"),
        (b"\xef\xbb\xbf", "cannot be read as CSV"),
        (b"PAR1 and then nothing", "cannot be read as Parquet"),
        (b"[{", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"x": 1}\n{"x"', "cannot be read as JSON"),
        (b"[1, 2]", "2 of its 2 rows are no objects"),
        (b'{"x": {"0": 1.5}}', "JSON by columns"),
        (b'{"x": [1.5, 2.5]}', "JSON by columns"),
        (b'{"predictions": [{"x": 1}]}', "JSON with its rows in 'predictions'"),
        (b"a,b\n1,2,3\n", "cannot be read as CSV"),
        (b"x,y,x\n1,2,3\n", "1 columns more than once: 'x'"),
        (b"a shopping list", "it has a shopping list (read as CSV)."),
        (b'[{"a": 1}]', "it has a (read as JSON)."),
        (b"\r\n,\n", "1 columns more than once: ''"),
        (b"x" * 1_000_000, "cannot be read as CSV"),
    ],
)
def test_no_table(content: bytes, words: str, tmp_path: Path) -> None:
    refused(content, tmp_path, words)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DistcorrError, match="no file of predictions") as error:
        read(str(tmp_path / "nowhere.csv"))
    assert error.value.exit_code == MISSING
    with pytest.raises(DistcorrError, match="no file of predictions"):
        read(str(tmp_path))
    with pytest.raises(DistcorrError, match="name of the file of predictions is empty"):
        read("")


def test_an_unknown_method(tmp_path: Path) -> None:
    found = read(write(rows(), tmp_path / "p.csv"))
    with pytest.raises(DistcorrError, match="Did you mean 'flow'"):
        found.of(["flwo"])

"""Small sets of pairs in the layouts that are published, and photographs for them."""

import json

import numpy as np
from scipy.io import savemat

from tests.data.drawn import photo

SIZE = (40, 30)


def write_spair(base, change=None, listed=True):
    """Two pairs of cats and one of cars; ``change``: {id: {field: value}}; None takes it away."""
    names = {
        "000001-a-b:cat": ("a", "b", "cat"),
        "000002-b-a:cat": ("b", "a", "cat"),
        "000003-c-d:car": ("c", "d", "car"),
    }
    place = base / "PairAnnotation" / "test"
    place.mkdir(parents=True)
    for seed, (name, (a, b, category)) in enumerate(names.items()):
        told = {
            "src_imname": f"{a}.jpg",
            "trg_imname": f"{b}.jpg",
            "src_imsize": [40, 30, 3],
            "trg_imsize": [40, 30, 3],
            "src_bndbox": [3, 4, 40, 30],
            "trg_bndbox": [1, 1, 20, 11],
            "category": category,
            "src_kps": [[4, 5], [39, 29]],
            "trg_kps": [[0, 0], [10, 9]],
            "kps_ids": ["0", "7"],
            "mirror": 0,
        }
        told |= (change or {}).get(name, {})
        told = {field: value for field, value in told.items() if value is not None}
        (place / f"{name}.json").write_text(json.dumps(told))
        for k, image in enumerate((a, b)):
            photo(base / "JPEGImages" / category / f"{image}.jpg", SIZE, seed=2 * seed + k)
    if listed:
        layout = base / "Layout" / "large" / "test.txt"
        layout.parent.mkdir(parents=True)
        layout.write_text("\n".join(names) + "\n")
    return str(base)


PASCAL_LIST = (
    "source_image,target_image,class,XA,YA,XB,YB\n"
    "PF-dataset-PASCAL/JPEGImages/p.jpg,PF-dataset-PASCAL/JPEGImages/q.jpg,8,5;20.5,6;10,1;30,2;29\n"
)
PASCAL_POINTS = {
    "p": [[5, 6], [np.nan, np.nan], [20.5, 10]],
    "q": [[1, 2], [7, 7], [30, 29]],
}
PASCAL_BOXES = {"p": [2, 3, 40, 30], "q": [1, 1, 33, 30]}


def write_pascal(base, text=PASCAL_LIST, name="test_pairs.csv", points=None, boxes=None):
    """One pair of cats; its second keypoint is absent in the first photograph."""
    base.mkdir(parents=True, exist_ok=True)
    (base / name).write_text(text)
    for seed, image in enumerate("pq"):
        photo(base / "JPEGImages" / f"{image}.jpg", SIZE, seed=seed)
        told = {
            "kps": np.array((points or PASCAL_POINTS)[image], np.float64),
            "bbox": np.array([(boxes or PASCAL_BOXES)[image]], np.uint16),
        }
        place = base / "Annotations" / "cat"
        place.mkdir(parents=True, exist_ok=True)
        savemat(place / f"{image}.mat", told)
    return str(base)


def willow_list(points=3):
    """The form of a column per number: x of A is 1, 2, 3, y 11, 12, 13; B's is 20 more."""
    header = [f"{s}{k + 1}" for s in ("XA", "YA", "XB", "YB") for k in range(points)]
    values = [start + k for start in (1, 11, 21, 21) for k in range(points)]
    names = "PF-dataset/car(S)/m.png,PF-dataset/car(S)/n.png"
    rows = (",".join(["imageA", "imageB", *header]), ",".join([names, *map(str, values)]))
    return "\n".join(rows) + "\n"


def write_willow(base, text=None, name="test_pairs.csv", place=""):
    base.mkdir(parents=True, exist_ok=True)
    (base / name).write_text(willow_list() if text is None else text)
    for seed, image in enumerate("mn"):
        photo(base / place / "car(S)" / f"{image}.png", SIZE, seed=seed)
    return str(base)


COLUMNS = ("pair", "image_a", "image_b", "keypoint", "xa", "ya", "xb", "yb")
ROWS = (
    ("one", "s.png", "t.png", "ear", 1, 2, 3, 4),
    ("one", "s.png", "t.png", "nose", 5.5, 6, 39.4, 29.4),
    ("two", "t.png", "s.png", "ear", 3, 4, 1, 2),
)


def write_table(base, change=None, name="pairs.csv", **more):
    """``change``: {(row, column): value}; ``more``: columns."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    for column, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    for (row, column), value in (change or {}).items():
        rows[row][column] = value
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    base.mkdir(parents=True, exist_ok=True)
    (base / name).write_text("\n".join(lines) + "\n")
    photo(base / "s.png", SIZE, seed=1)
    photo(base / "images" / "t.png", SIZE, seed=2)
    return str(base)

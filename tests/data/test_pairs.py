"""Pairs of any layout: recognised, chosen, and what is noticed about them."""

import numpy as np
import pytest

from distcorr.data.pairs import LAYOUTS, load_pairs
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box
from tests.data.drawn import photo
from tests.data.pairs_writer import (
    write_pascal,
    write_spair,
    write_table,
    write_willow,
)


def refused(code, words, *arguments, **how):
    with pytest.raises(DistcorrError, match=words) as caught:
        load_pairs(*arguments, **how)
    assert caught.value.exit_code == code
    return caught.value


@pytest.mark.parametrize(
    ("write", "layout", "file"),
    [
        (write_spair, "spair-71k", None),
        (write_pascal, "pf-pascal", "test_pairs.csv"),
        (write_willow, "pf-willow", "test_pairs.csv"),
        (write_table, "table", "pairs.csv"),
    ],
)
def test_each_layout_is_recognised(tmp_path, write, layout, file):
    root = write(tmp_path / "set")
    guessed, named = load_pairs(root), load_pairs(root, layout)
    assert guessed.name == ("pairs" if layout == "table" else layout)
    assert [p.id for p in guessed.pairs] == sorted(p.id for p in named.pairs)
    for pair in guessed.pairs:
        assert (tmp_path / "set" / pair.a).is_file()
        assert (tmp_path / "set" / pair.b).is_file()
        assert pair.points_a.dtype == pair.points_b.dtype == np.float32
        assert pair.points_a.shape == pair.points_b.shape == (len(pair.keypoints), 2)
        assert np.isfinite(pair.points_a).all()
    if file:
        assert len(load_pairs(f"{root}/{file}").pairs) == len(guessed.pairs)


def test_nothing_that_is_known(tmp_path):
    error = refused(MISSING, "holds no pairs", str(tmp_path))
    assert all(name in error.hint for name in LAYOUTS)
    refused(MISSING, "does not exist, or holds", str(tmp_path / "nowhere"))
    refused(MISSING, "holds no pairs", str(tmp_path / "nothing.csv"))
    (tmp_path / "objects.csv").write_text("image,x0,y0,x1,y1,keypoint,x,y\n")
    refused(MISSING, "holds no pairs", str(tmp_path))
    for layout in LAYOUTS:
        refused(MISSING, "has no|lacks 7 of 8", str(tmp_path), layout)


def test_arguments(tmp_path):
    root = write_spair(tmp_path)
    refused(USAGE, "Did you mean 'spair-71k'", root, "spair-71")
    refused(USAGE, "train, val or test, but is 'tset'", root, split="tset")
    refused(USAGE, "limit must be 0", root, limit=-1)
    refused(USAGE, r"no category 'cta'. Did you mean 'cat'", root, categories=["cta"])
    refused(MISSING, "no pairs of the split 'val'", root, split="val")


def test_categories_and_limit(tmp_path):
    root = write_spair(tmp_path)
    assert [p.id for p in load_pairs(root, categories=["car"]).pairs] == ["000003-c-d:car"]
    assert [p.id[:6] for p in load_pairs(root, limit=1).pairs] == ["000001", "000003"]
    assert len(load_pairs(root, limit=5).pairs) == 3


def test_limit_is_even_over_sorted_ids(tmp_path):
    lines = ["pair,image_a,image_b,keypoint,xa,ya,xb,yb,category"]
    lines += [f"p{k:02d},s.png,t.png,ear,1,1,1,1,{'xy'[k % 2]}" for k in reversed(range(12))]
    for name in "st":
        photo(tmp_path / f"{name}.png")
    (tmp_path / "many.csv").write_text("\n".join(lines))
    # Of x's p00, p02 .. p10 the first, third and fifth; of y's p01 .. p11 likewise.
    found = [p.id for p in load_pairs(str(tmp_path), limit=3).pairs]
    assert found == ["p00", "p01", "p04", "p05", "p08", "p09"]


def test_missing_photographs_are_named_and_their_pairs_stay(tmp_path):
    root = write_spair(tmp_path)
    (tmp_path / "JPEGImages/cat/a.jpg").unlink()
    found = load_pairs(root)
    assert len(found.pairs) == 3
    assert found.warnings == ("1 of 4 photographs are missing: JPEGImages/cat/a.jpg",)
    refused(MISSING, "All 2 photographs are missing", write_gone(tmp_path / "gone"))


def write_gone(base):
    root = write_table(base)
    (base / "s.png").unlink()
    (base / "images/t.png").unlink()
    return root


def test_what_lies_outside_is_noticed_and_stays(tmp_path):
    # The last centres of 40 x 30 px are 39 and 29; their edges reach to 39.5 and 29.5.
    change = {(0, "xa"): 39.6, (1, "xa"): 39.4, (1, "yb"): 29.6, (2, "xb"): -0.6}
    boxes = {f"box_a_{side}": [value] * 3 for side, value in zip(("x0", "y0"), (0, 0), strict=True)}
    boxes |= {"box_a_x1": [39, 39, 40], "box_a_y1": [29, 29, 29]}
    found = load_pairs(write_table(tmp_path, change, **boxes))
    assert found.pairs[0].box_a == Box(0, 0, 39, 29)
    assert found.pairs[0].box_b is None
    assert found.warnings == (
        "Keypoints outside their photograph: 3 (one ear in A, one nose in B, two ear in B)",
        "Boxes that reach beyond their photograph: 1 (two in A)",
    )


def test_damaged_photographs_say_nothing_about_what_lies_outside(tmp_path):
    root = write_table(tmp_path, {(0, "xa"): 99})
    (tmp_path / "s.png").write_bytes(b"no photograph")
    assert load_pairs(root).warnings == ()


def test_a_photograph_with_itself(tmp_path):
    root = write_table(tmp_path, {(2, "image_b"): "t.png"})
    assert load_pairs(root).warnings == ("Pairs of a photograph with itself: 1 (two)",)

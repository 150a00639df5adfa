"""``distcorr data check`` of pairs: counts, problems, and the sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.cli import app, common
from distcorr.data.pairs import Pair, PairSet
from distcorr.errors import MISSING, USAGE
from distcorr.report import contact
from distcorr.types import Box
from tests.data.pairs_writer import write_pascal, write_spair, write_table


def asked(*arguments: str | Path) -> Any:
    common._shown.clear()
    done = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_counts_and_problems(tmp_path: Path) -> None:
    write_spair(tmp_path)
    (tmp_path / "JPEGImages/cat/a.jpg").unlink()
    (tmp_path / "JPEGImages/car/c.jpg").write_bytes(b"no photograph")
    document = json.loads(asked(tmp_path, "--json").stdout)
    assert (document["layout"], document["split"]) == ("spair-71k", "test")
    assert document["counts"] == [
        {
            "category": category,
            "pairs": pairs,
            "photographs": 2,
            "keypoints": 2 * pairs,
            "types": 2,
            "boxes": pairs,
        }
        for category, pairs in (("car", 1), ("cat", 2))
    ]
    assert document["keypoints"] == {"car": {"0": 1, "7": 1}, "cat": {"0": 2, "7": 2}}
    assert document["photographs"]["readable"] == 2
    missing, damaged = document["problems"]
    assert "1 of 4 photographs are missing: JPEGImages/cat/a.jpg" in missing
    assert "1 photographs cannot be read" in damaged
    assert "c.jpg" in damaged


def test_as_text_by_category_and_split(tmp_path: Path) -> None:
    root = write_table(tmp_path, split=["val"] * 3, category=["cup", "cup", "mug"])
    done = asked(root, "--split", "val", "-c", "cup")
    header, cup, *_ = done.stdout.splitlines()
    assert header.split() == ["category", "pairs", "photographs", "keypoints", "types", "boxes"]
    assert cup.split() == ["cup", "1", "2", "2", "2", "0"]
    assert "2 of 2 photographs, 40x30 to 40x30 px" in done.stdout
    assert "nothing looks wrong" in done.stdout
    assert asked(root).exit_code == MISSING
    assert asked(root, "--name", "pairs", "--split", "tset").exit_code == USAGE
    refused = asked(root, "--split", "val", "--copies")
    assert refused.exit_code == USAGE
    assert "--copies compares splits" in refused.stderr


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_sheets_repeat(tmp_path: Path, kind: str) -> None:
    root = write_pascal(tmp_path / "set")
    files = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for file in files:
        assert asked(root, "--sheet", file, "-q").exit_code == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    if kind == "png":
        with Image.open(files[0]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for colour in contact._colours(2):
            assert (pixels == colour).all(axis=2).any()


def test_equal_keypoints_have_equal_colours_where_they_are(tmp_path: Path) -> None:
    """On photographs of one grey; without a box the whole photograph is shown."""
    for name in "ab":
        Image.new("RGB", (100, 100), (128, 128, 128)).save(tmp_path / f"{name}.png")
    two = np.array([[20, 20], [80, 80]], np.float32)
    pair = Pair("p", "cup", "a.png", "b.png", two, two[::-1].copy(), ("10", "2"))
    drawn: list[Any] = []
    found = PairSet("toy", str(tmp_path), (pair,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contact, "_drawn", lambda rows, kind: drawn.extend(rows) or b"")
        contact.draw_pairs(found)
    (row,) = drawn
    assert (row.title, row.names) == ("cup: 1 pairs", ["2", "10"])
    (a_title, a), (b_title, b) = row.pictures
    assert (a_title, b_title) == ("a (A)", "b (B)")
    of = dict(zip(row.names, contact._colours(2).tolist(), strict=True))
    for picture, near, far in ((a, "10", "2"), (b, "2", "10")):
        assert picture[41, 41].tolist() == of[near]  # (20 + 0.5) * 200 / 100
        assert picture[161, 161].tolist() == of[far]
        assert not (picture == 255).all(axis=2)[:, :3].any()  # no box
    boxed = contact._view(
        contact.Folder(tmp_path), "a.png", Box(20, 20, 79, 79), two, contact._colours(2)
    )
    assert (np.asarray(boxed) == 255).all(axis=2).sum() > 4 * 100

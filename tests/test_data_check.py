"""``distcorr data check``: counts, problems, copies and the sheet; bad input in two lines."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.cli import app, common
from distcorr.data import near_copies, survey, tabular, voc
from distcorr.data.storage import Folder
from distcorr.data.toy import write_toy
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.report import contact
from distcorr.types import Box, Dataset, Instance

SIZE = (200, 150)


def scene(seed: int, shift: int = 0) -> Image.Image:
    """Clouds; ``shift`` moves the camera by so many px and adds noise, as the next frame has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (16, 20, 3), np.uint8))
    wide = coarse.resize((260, 200), Image.Resampling.BICUBIC)
    view = np.asarray(wide.crop((shift, 0, shift + SIZE[0], SIZE[1])), np.float64)
    noise = np.random.default_rng(seed + shift + 1).normal(0, 4, view.shape) * bool(shift)
    return Image.fromarray(np.clip(view + noise, 0, 255).astype(np.uint8))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six photographs of cups: v1 is a later frame of t1, v2 the same file as t2."""
    pictures = {"t0": scene(0), "t1": scene(1), "t2": scene(2), "v0": scene(3)}
    pictures |= {"v1": scene(1, 16), "v2": scene(2)}
    rows = ["image,split,category,x0,y0,w,h,keypoint,x,y"]
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        split = "train" if name[0] == "t" else "val"
        for keypoint, xy in (("rim", "20,30"), ("handle", "60,70")):
            rows.append(f"{name}.png,{split},cup,10,20,80,60,{keypoint},{xy}")
    (tmp_path / "cups.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def asked(*arguments: str | Path) -> Any:
    common._shown.clear()
    done = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_counts_problems_and_copies(table: Path) -> None:
    document = json.loads(asked(table, "--copies", "--json").stdout)
    assert (document["layout"], document["name"], document["root"]) == ("table", "cups", str(table))
    usual = {"category": "cup", "photographs": 3, "objects": 3, "keypoints": 6, "types": 2}
    assert document["counts"] == [{**usual, "split": s, "side": 80.0} for s in ("train", "val")]
    assert document["keypoints"] == {
        "cup": {name: {"train": 3, "val": 3} for name in ("handle", "rim")}
    }
    sizes = {"all": 6, "readable": 6, "smallest": [200, 150], "largest": [200, 150]}
    assert document["photographs"] == sizes
    found = {copy["image"]: copy["other"] for copy in document["copies"]}
    assert found == {"v1.png": "t1.png", "v2.png": "t2.png"}
    same, near = document["problems"]
    assert "1 validation photographs are the same files" in same
    assert "v2.png = t2.png" in same
    assert "cup: 2 of 3 validation photographs have a near copy" in near


def test_as_text_and_without_copies(table: Path) -> None:
    done = asked(table / "cups.csv")
    assert done.exit_code == 0
    header, train, val, *_ = done.stdout.splitlines()
    words = "category split photographs objects keypoints types side"
    assert header.split() == words.split()
    assert train.split() == ["cup", "train", "3", "3", "6", "2", "80"]
    assert val.split()[:2] == ["cup", "val"]
    assert "6 of 6 photographs, 200x150 to 200x150 px" in done.stdout
    assert "near copy" not in done.stdout
    assert f"--data {table}" in done.stdout
    (table / "v2.png").unlink()
    scene(9).save(table / "v2.png")
    assert "nothing looks wrong" in asked(table).stdout


def test_damaged_photographs_and_what_lies_outside(table: Path) -> None:
    (table / "t0.png").write_bytes((table / "t0.png").read_bytes()[:900])
    (table / "v0.png").unlink()
    rows = (
        (table / "cups.csv")
        .read_text()
        .replace("cup,10,20,80,60,rim,20,30", "cup,10,20,80,60,rim,250,30", 2)
    )
    (table / "cups.csv").write_text(rows)
    done = asked(table, "--json")
    assert done.exit_code == 0  # the rest can be used
    document = json.loads(done.stdout)
    assert document["photographs"]["readable"] == 4
    problems = "\n".join(document["problems"])
    assert "1 of 6 photographs are missing: v0.png" in problems
    assert "1 photographs cannot be read" in problems
    assert "t0.png" in problems
    assert "cup: 1 keypoints lie outside their photograph: t1#0 rim" in problems


def test_boxes_that_reach_beyond_a_smaller_photograph(table: Path) -> None:
    dataset = tabular.load(str(table))
    scene(0).resize((60, 50)).save(table / "t0.png")
    found = survey.check_photographs(dataset, survey.photographs(dataset))
    assert any("cup: 1 boxes reach beyond their photograph" in text for text in found)


def test_the_reader_can_be_named(tmp_path: Path) -> None:
    write_toy(Folder(tmp_path), seed=0, train=2, val=1)
    guessed, own = (
        json.loads(asked(tmp_path, *more, "--json", "-c", "fish", "--limit", "1").stdout)
        for more in ((), ("--name", "tests.stages.common:load_with_blanks"))
    )
    assert (guessed["layout"], guessed["reader"]) == ("voc", "voc")
    assert own["reader"] == "tests.stages.common:load_with_blanks"
    assert [row["objects"] for row in guessed["counts"]] == [1, 1]
    assert [row["keypoints"] for row in own["counts"]] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("{}/nowhere",), MISSING, "does not exist, or holds no annotations"),
        (("{}/cups.csv", "--name", "coco"), MISSING, "is no COCO keypoint file"),
        (("{}", "--name", "cocoa"), USAGE, "Unknown data set 'cocoa'"),
        (("{}", "-c", "mug"), USAGE, "no category 'mug'"),
        (("{}", "--limit", "-1"), USAGE, "dataset.limit"),
        (("{}", "--sheet", "a.gif"), USAGE, ".png or .svg"),
        (("{}", "--sheet", "{}/none/a.png"), USAGE, "There is no folder"),
    ],
)
def test_bad_input(table: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = asked(*(word.format(table) for word in arguments))
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_the_sheet_shows_boxes_and_keypoints_where_they_are(tmp_path: Path) -> None:
    """A photograph of one grey: all that is not grey on its picture is what was drawn."""
    Image.new("RGB", (400, 400), (128, 128, 128)).save(tmp_path / "a.png")
    xy = np.array([[150, 150], [249, 249]], np.float32)
    box = Box(100, 100, 299, 299)
    one = Instance("a#0", "a.png", "cup", "train", box, xy, np.array([True, False]))
    picture = contact._picture(Folder(tmp_path), one).astype(int)
    scale = 200 / 280  # a box of 200 px and a margin of 0.2 on both sides
    at = np.rint((np.array([150, 249]) + 0.5 - 60) * scale).astype(int)
    assert picture[at[0], at[0]].tolist() == contact._colours(2)[0].tolist()
    assert picture[at[1], at[1]].tolist() == [128, 128, 128]  # not visible: not drawn
    white = np.argwhere((picture == 255).all(axis=2) & (np.indices((200, 200)).min(axis=0) < 40))
    assert abs(white.min() - 40 * scale) <= 1.5
    drawn = np.argwhere((picture != 128).any(axis=2))
    assert drawn.min() >= 40 * scale - 3
    assert drawn.max() <= 240 * scale + 3


def test_sheets_repeat_and_survive_missing_photographs(table: Path) -> None:
    (table / "t0.png").unlink()
    for name in ("one.png", "two.png", "sheet.svg"):
        assert asked(table, "--sheet", table / name, "-q").exit_code == 0
    one = (table / "one.png").read_bytes()
    assert one == (table / "two.png").read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))
    assert pixels.shape[1] == 1292
    for colour in contact._colours(2):
        assert (pixels == colour).all(axis=2).any()  # of keypoints, and of the legend
    assert b"handle" not in one
    assert (table / "sheet.svg").read_text().startswith("<?xml")


def test_many_categories_are_sampled() -> None:
    xy, shown = np.ones((1, 2), np.float32), np.ones(1, bool)
    instances = [
        Instance(f"{c}-{s}-{k}", "a.png", f"c{c:02d}", s, Box(0, 0, 9, 9), xy, shown)
        for c in range(30)
        for s in ("train", "val")
        for k in range(9 if s == "train" else 2)
    ]
    names = {f"c{c:02d}": ("x",) for c in range(30)}
    chosen = contact._chosen(Dataset("d", "/", tuple(instances), names), seed=0)
    assert len(chosen) == contact.CATEGORIES
    for members in chosen.values():
        assert [i.split for i in members] == ["train"] * 4 + ["val"] * 2
        assert len({i.id for i in members}) == 6
    other = contact._chosen(Dataset("d", "/", tuple(instances), names), seed=1)
    assert any([i.id for i in other[c]] != [i.id for i in chosen[c]] for c in chosen)


def test_near_copies_have_a_limit_and_need_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    sketches = {name: near_copies.sketch(np.asarray(scene(k))) for k, name in enumerate("ab")}
    assert near_copies.near_copies(sketches, ["a"], []) == []
    assert near_copies.near_copies(sketches, ["a"], ["b"]) == []
    monkeypatch.setattr(near_copies, "MOST", 1)
    with pytest.raises(DistcorrError, match="at most 1 photographs, and there are 2"):
        near_copies.near_copies(sketches, ["a"], ["b"])


def test_sketches_of_odd_photographs() -> None:
    """Black, tiny and narrow ones; nothing is a copy of a photograph without any structure."""
    shapes = ((1, 1), (500, 3), (3, 500), (150, 200))
    made = {str(s): near_copies.sketch(np.zeros((*s, 3), np.uint8)) for s in shapes}
    made["scene"] = near_copies.sketch(np.asarray(scene(0)))
    assert near_copies.near_copies(made, ["scene"], [str(s) for s in shapes]) == []
    assert near_copies.near_copies(made, [str(s) for s in shapes], ["scene"]) == []


@pytest.mark.photos
def test_the_videos_among_the_photographs_are_found(photos: Path) -> None:
    """All horses and sheep for validation are frames of videos that training has others of."""
    dataset = voc.load(str(photos / "data" / "voc-photos"))
    seen = survey.photographs(dataset, copies=True)
    sketches = {name: p.sketch for name, p in seen.items() if p.sketch}
    splits = survey.splits_of(dataset)
    found = near_copies.near_copies(sketches, splits["val"], splits["train"])
    category = {i.image: i.category for i in dataset.instances}
    counts = {c: sum(category[f.image] == c for f in found) for c in dataset.keypoint_names}
    assert counts["horse"] == counts["sheep"] == 50
    assert sum(counts.values()) <= 102
    assert all(category[f.image] == category[f.other] for f in found)

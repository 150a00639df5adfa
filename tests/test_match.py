"""``distcorr match``: known displacements come back, JSON and picture agree, bad input is named."""

from __future__ import annotations

import colorsys
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distcorr.algorithms.colour_wheel import colour_flow, colour_positions, wheel
from distcorr.algorithms.crop import to_square
from distcorr.algorithms.matching import Match, follow
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.transfer import carry, upsample
from distcorr.cli import app
from distcorr.config import load
from distcorr.data.storage import Folder
from distcorr.data.toy import write_toy
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.report import match as report
from distcorr.stages.match import MOST_CELLS, match_photographs
from distcorr.types import Box, Geometry

SIFT = load("smoke", ["features.conv=sift20"])
SIDE, STRIDE = 227, 16  # px, of SIFT's default cells


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Clouds of 400 x 360 px with detail at the size of a cell."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (45, 50, 3), np.uint8))
    path = tmp_path_factory.mktemp("match") / "noise.png"
    coarse.resize((400, 360), Image.Resampling.BICUBIC).save(path)
    return str(path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("toy")
    write_toy(Folder(folder), seed=0, train=2, val=1)
    return tuple(map(str, sorted(folder.rglob("*.jpg"))[:2]))


def pixels(file: str | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as picture:
        return np.asarray(picture.convert("RGB"))


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["match", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# -- where points go ---------------------------------------------------------------------------


def test_a_picture_matches_itself(noise: str) -> None:
    found, label = match_photographs((noise, noise), SIFT)
    assert label == "sift"
    assert not found.flow.displacement.any()
    assert np.array_equal(found.points, found.landings)
    assert not found.cycle_error.any()
    assert not found.cycle_cells.any()
    assert found.similarity == pytest.approx(1)
    assert found.flow.energy(found.beta) == pytest.approx(found.standing_still)
    assert np.array_equal(found.warped, found.a.square(SIDE))
    assert found.on_grid
    assert len(found.points) == found.geometry.cells**2
    centres = to_square(found.points, found.a.box, SIDE)[:, 0][: found.geometry.cells]
    assert centres == pytest.approx(found.geometry.centres())


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -3), (3, 2)])
def test_known_shifts_come_back(noise: str, dx: int, dy: int) -> None:
    """Two boxes of one photograph, whole cells apart: a point lies where it lies."""
    a = Box(80, 70, 80 + SIDE - 1, 70 + SIDE - 1)
    b = Box(a.x0 + STRIDE * dx, a.y0 + STRIDE * dy, a.x1 + STRIDE * dx, a.y1 + STRIDE * dy)
    found, _ = match_photographs((noise, noise), SIFT, (a, b))
    row, col = np.mgrid[: found.geometry.cells, : found.geometry.cells]
    last = found.geometry.cells - 2  # the outermost cells see beyond the box
    there = (1 <= row - dy) & (row - dy <= last) & (1 <= col - dx) & (col - dx <= last)
    there &= (row >= 1) & (row <= last) & (col >= 1) & (col <= last)
    assert there.sum() >= 40
    error = np.abs(found.landings - found.points).max(axis=1)[there.ravel()]
    assert (error <= STRIDE).all()
    assert np.median(error) < 0.5
    assert np.median(found.cycle_error[there.ravel()]) < 0.5
    grids = Sift()(np.stack([v.square(SIDE) for v in (found.a, found.b)]), ["sift20"])["sift20"]
    norm = np.linalg.norm(grids, axis=-1, keepdims=True)
    source, target = grids / np.where(norm > 0, norm, 1)
    lands = target[row + found.flow.displacement[..., 1], col + found.flow.displacement[..., 0]]
    assert found.similarity == pytest.approx((source * lands).sum(axis=-1).ravel(), abs=1e-5)
    distance = np.linalg.norm(source - lands, axis=-1).sum()
    assert found.flow.data_energy == pytest.approx(distance, rel=1e-4)
    chosen = found.points[there.ravel()][:5]
    only, _ = match_photographs((noise, noise), SIFT, (a, b), points=chosen)
    assert not only.on_grid
    for name in ("landings", "returns", "similarity"):
        expected = getattr(found, name)[there.ravel()][:5]
        assert getattr(only, name) == pytest.approx(expected, abs=1e-9)


def test_a_moved_box_moves_the_points(tmp_path: Path, noise: str) -> None:
    """The same content at another place of B: landings move with it, and nothing else changes."""
    picture = pixels(noise)
    names = []
    for number, (dx, dy) in enumerate([(0, 0), (37, 21)]):
        canvas = np.full((300, 340, 3), 128, np.uint8)
        canvas[10 + dy : 10 + dy + 200, 20 + dx : 20 + dx + 250] = picture[50:250, 60:310]
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(canvas).save(names[-1])
    box = Box(20, 10, 269, 209)
    moved = Box(box.x0 + 37, box.y0 + 21, box.x1 + 37, box.y1 + 21)
    first, _ = match_photographs((noise, names[0]), SIFT, (None, box))
    second, _ = match_photographs((noise, names[1]), SIFT, (None, moved))
    assert np.array_equal(first.flow.displacement, second.flow.displacement)
    assert second.landings - first.landings == pytest.approx(np.tile([37, 21], (169, 1)))
    assert np.array_equal(first.points, second.points)
    assert second.cycle_error == pytest.approx(first.cycle_error)
    inside = (first.landings >= (box.x0 - 0.5, box.y0 - 0.5)) & (
        first.landings <= (box.x1 + 0.5, box.y1 + 0.5)
    )
    assert inside.all()


def test_the_settings_of_the_flow_are_honoured(noise: str) -> None:
    boxes = Box(20, 20, 246, 246), Box(52, 20, 278, 246)

    def found(*sets: str) -> Match:
        return match_photographs(
            (noise, noise), load("smoke", ["features.conv=sift20", *sets]), boxes
        )[0]

    default, px = found(), found("flow.units=px")
    assert px.beta == default.beta * STRIDE**2
    assert px.flow.deformation_energy <= default.flow.deformation_energy
    near = found("flow.window=1", "flow.solver=trws")
    assert np.abs(near.flow.displacement).max() == 1 < np.abs(default.flow.displacement).max()
    assert np.abs(near.back.displacement).max() == 1
    raw = found("flow.feature_norm=raw")
    assert raw.standing_still == pytest.approx(512 * default.standing_still, rel=1e-3)
    assert raw.similarity.max() <= 1.0001
    assert found("flow.side=500").geometry.cells == 30


def test_follow_is_the_upsampled_displacement_and_undoes_carry() -> None:
    geometry = Geometry(100, 10, 9.5, 20, 9)
    rng = np.random.default_rng(0)
    displacement = rng.integers(-1, 2, (9, 9, 2)).astype(np.int16)
    xy = rng.integers(10, 90, (40, 2))
    w = upsample(displacement, geometry)
    expected = np.clip(xy + w[xy[:, 1], xy[:, 0]], -0.5, 99.5)
    assert follow(xy, displacement, geometry) == pytest.approx(expected)
    constant = np.full((9, 9, 2), (1, -1), np.int16)
    landing = follow(xy[:5], constant, geometry)
    assert landing == pytest.approx(np.clip(np.add(xy[:5], (10, -10)), -0.5, 99.5))
    assert carry(landing, constant, geometry) == pytest.approx(xy[:5])
    with pytest.raises(ValueError, match="points must be"):
        follow(np.zeros(2), constant, geometry)


# -- the command -------------------------------------------------------------------------------


def test_json_is_consistent(drawn: tuple[str, ...], tmp_path: Path) -> None:
    out = str(tmp_path / "a b.PNG")
    settings = ["--set", "flow.beta=0.02", "--feature", "sift20", "--side", "300"]
    found = run(*drawn, "--box-b", "10,20,150,130", *settings, "--out", out)
    height, width = pixels(drawn[0]).shape[:2]
    assert found["files"] == list(drawn)
    assert found["boxes"] == [[0, 0, width - 1, height - 1], [10, 20, 150, 130]]
    assert (found["feature"], found["source"], found["side"]) == ("sift20", "sift", 300)
    assert found["picture"] == out
    assert pixels(out).std() > 20
    cells, w = found["cells"], np.array(found["displacement"])
    assert w.shape == (cells, cells, 2)
    assert found["beta"] == 0.02
    edges = sum((np.diff(w, axis=axis) ** 2).sum() for axis in (0, 1))
    assert found["deformation_energy"] == edges
    assert found["energy"] == pytest.approx(found["data_energy"] + 0.02 * edges)
    assert found["energy"] <= found["energy_standing_still"]
    assert len(found["points"]) == cells**2
    a, b = (np.array([p[key] for p in found["points"]]) for key in "ab")
    # The centre of a cell goes to the centre of another, which are px apart in the photographs.
    across = STRIDE * np.array([width, height]) / 300
    assert np.diff(a[:cells, 0]) == pytest.approx(across[0], abs=2e-3)
    assert np.diff(a[::cells, 1]) == pytest.approx(across[1], abs=2e-3)
    expected = to_square(a, Box(0, 0, width - 1, height - 1), 300) + STRIDE * w.reshape(-1, 2)
    assert to_square(b, Box(10, 20, 150, 130), 300) == pytest.approx(expected, abs=0.3)
    assert all(0 <= p["cycle_error"] and abs(p["similarity"]) <= 1.0001 for p in found["points"])


def test_points_and_summary_are_printed(noise: str, tmp_path: Path) -> None:
    out = str(tmp_path / "x.svg")
    arguments = ["match", noise, noise, "--feature", "sift20", "--out", out]
    done = CliRunner().invoke(app, [*arguments, "--points", "120,80 64.5,200"])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [
        ["a", "b", "similarity", "cycle_error"],
        ["120.0,80.0", "120.0,80.0", "1", "0"],
        ["64.5,200.0", "64.5,200.0", "1", "0"],
    ]
    for word in ("energy", "standing still", "median cycle error 0.0 px", "100%", out):
        assert word in done.stderr
    content = Path(out).read_text()
    assert "<svg" in content
    done = CliRunner().invoke(app, [*arguments, "--points", "120,80 64.5,200"])
    assert Path(out).read_text() == content  # equal matches draw equal bytes


def test_the_default_network_needs_no_weights(drawn: tuple[str, ...], tmp_path: Path) -> None:
    found = run(drawn[0], drawn[0], "--out", str(tmp_path / "m.png"))
    assert (found["feature"], found["side"], found["cells"]) == ("block10", 224, 14)
    assert "EfficientNet-Lite0" in found["source"]
    assert not np.any(found["displacement"])


# -- the picture -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted(noise: str) -> Match:
    boxes = Box(20, 20, 246, 246), Box(52, 20, 278, 246)
    return match_photographs((noise, noise), SIFT, boxes)[0]


def test_the_picture_has_its_size_and_its_parts(shifted: Match) -> None:
    picture = pixels(report.draw(shifted))
    # Regions: the box of 227 px and 18 px around it, cut at no edge, so both are square.
    photographs = (report.WIDTH - 3 * report.GAP) / 2
    height = min(photographs, report.TALLEST)
    inches = 2 * report.TITLE + report.SQUARE + height + report.CAPTION + report.GAP
    assert picture.shape[1] == pytest.approx(report.WIDTH * report.DPI, abs=1)
    assert picture.shape[0] == pytest.approx(inches * report.DPI, abs=1)
    column = report.SQUARE + report.GAP
    for number in range(4):
        left = int((report.GAP + number * column) * report.DPI)
        top, size = int(report.TITLE * report.DPI), int(report.SQUARE * report.DPI)
        assert picture[top : top + size, left : left + size].std() > 20, number
    below = picture[int((2 * report.TITLE + report.SQUARE) * report.DPI) :]
    assert below.std() > 30
    assert report.draw(shifted) == report.draw(shifted)


def test_points_that_do_not_return_look_different(shifted: Match) -> None:
    lost = replace(shifted, returns=shifted.points + 3 * STRIDE)
    assert report.draw(lost) != report.draw(shifted)
    assert "hollow" in report._caption(lost)
    faithful = replace(shifted, returns=shifted.points)
    assert "hollow" not in report._caption(faithful)
    assert "100% of the points" in report._caption(faithful)


@pytest.mark.parametrize("name", ["$x^$ $.jpg", "日本語.jpg", "a\nb\udcff.jpg", "long" * 60])
def test_file_names_of_every_kind(shifted: Match, name: str) -> None:
    view = shifted.a._replace(name=name, photograph=shifted.a.photograph[:, :300])
    assert report.draw(replace(shifted, a=view))[:4] == b"\x89PNG"


def test_extreme_shapes_and_one_point(noise: str) -> None:
    boxes = Box(0, 0, 399, 3), Box(7, 7, 7, 7)
    found, _ = match_photographs((noise, noise), SIFT, boxes, points=np.array([[5.0, 2.0]]))
    assert np.isfinite(found.landings).all()
    assert (np.abs(found.landings - 7) <= 0.5).all()
    height, width = pixels(report.draw(found)).shape[:2]
    assert width == pytest.approx(report.WIDTH * report.DPI, abs=1)
    assert 200 < height < 1000


# -- colours -----------------------------------------------------------------------------------


def test_hues_are_directions_and_white_stands_still() -> None:
    assert colour_flow([0, 0], 5).tolist() == [255, 255, 255]
    angles = np.linspace(-np.pi, np.pi, 721)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    colours = colour_flow(7 * ring, 7)
    for angle, colour in zip(angles, colours, strict=True):
        expected = colorsys.hsv_to_rgb(angle / (2 * np.pi) % 1, 1, 1)
        assert colour / 255 == pytest.approx(expected, abs=0.003)
    steps = np.abs(np.diff(colours.astype(int), axis=0)).max(axis=1)
    assert steps.max() <= 3  # half a degree; continuous over -pi = pi too
    assert np.array_equal(colours[0], colours[-1])
    beyond = colour_flow(70 * ring, 7).astype(int)  # full, and no further
    assert np.abs(beyond - colours).max() <= 1
    saturation = [255 - colour_flow([length, 0], 1)[1] for length in np.linspace(0, 1, 20)]
    assert (np.diff(saturation) > 0).all()
    assert colour_flow(np.zeros((2, 3, 2)), 1).shape == (2, 3, 3)
    for wrong in ([1, 2, 3], [np.nan, 0]):
        with pytest.raises(ValueError, match="finite"):
            colour_flow(wrong, 1)
    with pytest.raises(ValueError, match="above 0"):
        colour_flow([0, 0], 0)


def test_the_wheel_shows_the_colours_of_the_flow() -> None:
    legend = wheel(101)
    assert legend.shape == (101, 101, 4)
    assert legend[50, 50].tolist() == [255, 255, 255, 255]
    assert legend[0, 0, 3] == 0
    assert abs((legend[..., 3] > 0).mean() - np.pi / 4) < 0.01
    for x, y in ((90, 50), (50, 90), (20, 30)):
        w = np.array([x - 50, y - 50]) * (2 / 101)
        assert np.array_equal(legend[y, x, :3], colour_flow(w, 1))


def test_positions_have_colours_of_their_own() -> None:
    uv = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), axis=-1)
    colours = colour_positions(uv).reshape(-1, 3).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=-1) + 255 * np.eye(81, dtype=int)
    assert apart.min() >= 20
    assert np.array_equal(colour_positions([-1, 2]), colour_positions([0, 1]))


# -- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--box-a", "1,2,3"], USAGE, ["four numbers X0,Y0,X1,Y1", "'1,2,3'"]),
        (["--box-a", "1,2,3,x"], USAGE, ["four numbers", "--box-a"]),
        (["--box-b", "1,2,inf,9"], USAGE, ["four numbers", "--box-b"]),
        (["--box-a", "50,10,40,90"], USAGE, ["X0 <= X1", "for A"]),
        (["--box-b", "0,0,400,359"], USAGE, ["box of B", "400 x 360 px", "0,0,399,359"]),
        (["--box-b", "-1,0,99,99"], USAGE, ["box of B", "must lie in its picture"]),
        (["--points", "1,2 3"], USAGE, ["A point is two numbers", "'3'"]),
        (["--points", "nan,2"], USAGE, ["A point is two numbers", "nan,2"]),
        (["--points", " "], USAGE, ["names no point"]),
        (["--points", "400,10"], USAGE, ["Points must lie in the box of A", "400,10"]),
        (["--points", "5,5", "--box-a", "9,9,99,99"], USAGE, ["box of A, 9,9,99,99"]),
        (["--feature", "sift0"], USAGE, ["SIFT has no tap 'sift0'"]),
        (["--feature", "no_such_module:Net"], MISSING, ["There is no module 'no_such_module'"]),
        (["--weights", "nowhere.npz"], MISSING, ["Cannot read the weights", "no such file"]),
        (["--out", "nowhere/x.png"], USAGE, ["There is no folder", "nowhere"]),
        (["--out", "x.pgn"], USAGE, ["a .png or .svg file", "Did you mean '.png'"]),
        (["--out", "x"], USAGE, ["a .png or .svg file"]),
        (["--side", "20"], USAGE, ["sift20 has no cells at 20 px", "larger --side"]),
        (["--side", "-3"], USAGE, ["has no cells at -3 px"]),
        (["--side", "35"], USAGE, ["two or more cells", "larger --side"]),
        (["--side", "100000"], USAGE, [f"{MOST_CELLS} cells a side at most", "smaller --side"]),
        (["--set", "flow.bta=1"], USAGE, ["Did you mean 'flow.beta'"]),
        (["--set", "flow.beta=0"], USAGE, ["flow.beta"]),
        (["--set", "features.network=alexnet", "--feature", "conv4"], MISSING, ["needs weights"]),
    ],
)
def test_wrong_words(
    noise: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    feature = [] if "--feature" in arguments else ["--feature", "sift20"]
    refused(code, words, noise, noise, *feature, *arguments)
    assert not list(tmp_path.iterdir())


def refused(code: int, words: list[str], *arguments: str) -> None:
    done = CliRunner().invoke(app, ["match", *arguments])
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_photographs_that_are_none(noise: str, tmp_path: Path) -> None:
    out = ["--feature", "sift20", "--out", str(tmp_path / "x.png")]
    refused(MISSING, ["nowhere.jpg is missing"], noise, str(tmp_path / "nowhere.jpg"), *out)
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    refused(MISSING, ["text.jpg cannot be read"], str(text), noise, *out)
    refused(MISSING, [tmp_path.name], str(tmp_path), noise, *out)
    refused(MISSING, ["cannot be read"], noise, str(text / "x.jpg"), *out)
    refused(MISSING, ["too long"], noise, "x" * 300, *out)
    assert not (tmp_path / "x.png").exists()


def test_layers_and_sides_that_a_network_has_not(drawn: tuple[str, ...]) -> None:
    def raised(*sets: str, side: int | None = None) -> str:
        with pytest.raises(DistcorrError) as caught:
            match_photographs((drawn[0], drawn[0]), load("smoke", sets), side=side)
        return str(caught.value)

    assert "Did you mean 'block10'" in raised("features.conv=blok10")
    assert "224 px only, got 500" in raised(side=500)
    assert f"{MOST_CELLS} cells a side at most; block0" in raised("features.conv=block0")


def test_features_that_are_not_finite_are_named(
    drawn: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "match_feats.py").write_text(
        """
import numpy as np
from distcorr.types import Geometry


class Means:
    geometry, channels = Geometry(32, 8, 3.5, 8, 4), 3

    def __call__(self, images):
        return images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4), dtype=np.float32)


class Broken(Means):
    def __call__(self, images):
        values = super().__call__(images)
        values[1, 2, 3] = np.nan
        return values
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = run(*drawn, "--feature", "match_feats:Means", "--out", str(tmp_path / "x.png"))
    assert (found["feature"], found["cells"], found["side"]) == ("Means", 4, 32)
    words = ["must be finite", Path(drawn[1]).name, "1 of 16 cells"]
    refused(USAGE, words, *drawn, "--feature", "match_feats:Broken")
    refused(
        USAGE,
        ["32 px only", "leave --side and"],
        *drawn,
        "--feature=match_feats:Means",
        "--side=64",
    )


def test_nothing_alike_is_no_evidence(noise: str, tmp_path: Path) -> None:
    """Both alignments stand still, and so agree."""
    Image.new("RGB", (80, 60)).save(tmp_path / "black.png")
    out = str(tmp_path / "x.png")
    asked = ["match", str(tmp_path / "black.png"), noise, "--feature", "sift20", "-o", out]
    text = CliRunner().invoke(app, asked).stderr
    assert "trust    none" in text
    text = CliRunner().invoke(app, ["match", noise, noise, *asked[3:]]).stderr
    assert "trust    median cycle error" in text


def test_a_picture_is_upright_as_in_a_viewer(noise: str, tmp_path: Path) -> None:
    with Image.open(noise) as picture:
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right to see it
        turned.save(tmp_path / "phone.png", exif=exif)
    found, _ = match_photographs((noise, str(tmp_path / "phone.png")), SIFT)
    np.testing.assert_array_equal(found.b.photograph, found.a.photograph)


def test_files_and_settings_that_would_be_lost(noise: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(Path(noise).read_bytes())
    (tmp_path / "folder.png").mkdir()
    for more, message in (
        (("-o", str(mine)), "would replace"),
        (("-o", str(tmp_path / "folder.png")), "is a folder"),
        (("--set", "neighbors.k=3"), "takes settings of features and flow, got neighbors.k=3"),
    ):
        done = CliRunner().invoke(app, ["match", str(mine), noise, *more])
        assert done.exit_code == USAGE
        assert message in " ".join(done.stderr.split())
    assert mine.read_bytes() == Path(noise).read_bytes()

"""The Python interface: equal to the pipeline, by independent counts; errors; types; the tour."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import distcorr
from distcorr import align, extract, load_instances, open_run, pck, transfer
from distcorr.config import FlowConfig
from distcorr.data.run import Run
from distcorr.errors import MISSING, USAGE, DistcorrError
from distcorr.types import Box, Dataset, Flow, Geometry, Instance
from tests.stages.common import saved_pairs, stage_folder

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "examples" / "tour.py"
GRID = Geometry(input_size=64, stride=8, offset=3.5, rf=20, cells=8)
STILL = Flow(np.zeros((8, 8, 2), np.int16), 0.0, 0.0)


@pytest.fixture(scope="module")
def run(finished: Path) -> Any:
    return open_run(finished)


@pytest.fixture(scope="module")
def drawn() -> Dataset:
    return load_instances(limit=1)


def paths(root: str, instances: list[Instance]) -> list[str]:
    return [f"{root}/{instance.image}" for instance in instances]


# -- the names ---------------------------------------------------------------------------------


def test_the_seven_names() -> None:
    names = {"open_run", "load_instances", "extract", "align", "transfer", "pck", "Flow"}
    assert set(distcorr.__all__) == names
    assert names <= set(dir(distcorr))
    assert distcorr.Flow is Flow
    for name in names:
        assert getattr(distcorr, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'aline'"):
        _ = distcorr.aline  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import distcorr; dir(distcorr)", ("numpy", "torch", "ray", "pyarrow")),
        ("from distcorr import align, pck, transfer", ("torch", "ray", "pyarrow")),
        ("from distcorr import *", ("torch", "ray", "matplotlib")),
    ],
)
def test_names_load_what_they_need(code: str, heavy: tuple[str, ...]) -> None:
    code += f"; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_script_of_the_users_is_typed(tmp_path: Path) -> None:
    """Strict mypy agrees with a right script and finds what is wrong in another."""
    assert (ROOT / "distcorr" / "py.typed").is_file()
    right = (
        "import numpy as np\n"
        "from distcorr import Flow, align, extract, load_instances, open_run, pck, transfer\n"
        "run = open_run('runs/smoke')\n"
        "ids = [instance.id for instance in load_instances(limit=2).instances]\n"
        "grids, geometry = run.features('auto', ids)\n"
        "other, where = extract(['a.jpg', np.zeros((9, 9, 3), np.uint8)], 'sift20')\n"
        "flow: Flow = align(grids[0], grids[1], beta=0.01, solver='trws')\n"
        "share: float = pck(transfer(np.ones((2, 2)), flow, geometry), np.ones((2, 2)), 9)\n"
        "names: list[str] = run.table_names() + list(run.stages())\n"
    )
    wrong = "from distcorr import align, pck\nalign([], [], solver='trw')\nalign(1).flow\npck(1)\n"
    (tmp_path / "right.py").write_text(right)
    (tmp_path / "wrong.py").write_text(wrong)
    heavy = ("torch", "ray", "scipy", "pyarrow", "numba", "faiss", "sklearn", "matplotlib", "PIL")
    skipped = "".join(
        f"[mypy-{m}.*]\nfollow_imports = skip\nignore_missing_imports = True\n" for m in heavy
    )
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nfollow_imports = silent\nmypy_path = {ROOT}\n{skipped}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "right.py", "wrong.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    found = {re.sub(r":.* \[", " [", line) for line in lines}
    assert found == {"wrong.py [arg-type]", "wrong.py [call-arg]", "wrong.py [attr-defined]"}, (
        done.stdout + done.stderr
    )


# -- equal to the pipeline -----------------------------------------------------------------------


def test_stored_features_give_the_flows_and_points_of_transfer(run: Any, finished: Path) -> None:
    """Every pair of the run again, bit for bit: its flow, its energies, its keypoints."""
    known = {instance.id: instance for instance in run.instances}
    pairs = saved_pairs(finished).to_pylist()
    assert {pair["method"] for pair in pairs} == {"block10 flow", "SIFT flow"}
    for pair in pairs[::6] + pairs[-1:]:
        test, other = known[pair["target"]], known[pair["neighbor"]]
        layer = "sift20" if pair["method"] == "SIFT flow" else "auto"
        grids, geometry = run.features(layer, [test.id, other.id])
        flow = align(*grids)
        assert flow.displacement.ravel().tolist() == pair["displacement"]
        assert flow.data_energy == pair["data_energy"]
        assert flow.deformation_energy == pair["deformation_energy"]
        carried = transfer(
            other.keypoints, flow, geometry, source_box=test.box, target_box=other.box
        )
        assert np.array_equal(carried.ravel(), pair["carried"], equal_nan=True)


def test_extracted_features_are_the_stores(run: Any, finished: Path) -> None:
    """Of one shard, which is one batch there: all float16 values; alone nearly so."""
    table = run.table("instances", ["id", "shard"]).to_pylist()
    ids = [row["id"] for row in table if row["shard"] == table[0]["shard"]]
    members = [instance for instance in run.instances if instance.id in ids]
    assert len(members) == 3
    files, boxes = paths(run.root, members), [instance.box for instance in members]
    stored, geometry = run.features(ids=[instance.id for instance in members])
    found, cells = extract(files, boxes=boxes)
    assert cells == geometry
    assert found.dtype == stored.dtype == np.float32
    assert np.array_equal(found.astype(np.float16), stored.astype(np.float16))
    assert not np.array_equal(found, stored)  # the store has rounded
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    again, _ = extract(pixels, "block10", boxes=boxes, network="efficientnet-lite0")
    assert np.array_equal(again, found)
    alone, _ = extract([Path(files[1])], boxes=[tuple(boxes[1])])
    assert alone[0] == pytest.approx(found[1], rel=1e-3, abs=1e-3)
    sift, where = extract(files, "sift20", boxes=boxes, cells=geometry)
    stored, geometry = run.features("sift20", [instance.id for instance in members])
    assert where == geometry
    assert np.array_equal(sift.astype(np.float16), stored.astype(np.float16))


def test_torch_has_its_threads_again(drawn: Dataset) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        extract(paths(drawn.root, list(drawn.instances[:1])))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_whole_pictures_agree_with_match(drawn: Dataset) -> None:
    from distcorr.config import load
    from distcorr.stages.match import match_photographs

    files = paths(drawn.root, [i for i in drawn.instances if i.category == "fish"][:2])
    for layer in ("auto", "sift20"):
        config = load("smoke", [f"features.conv={layer}"])
        expected, _ = match_photographs((files[0], files[1]), config)
        grids, geometry = extract(files, layer)
        flow = align(*grids)
        assert geometry == expected.geometry
        # The features may differ in their last bits, by the threads that made them.
        assert np.mean(flow.displacement == expected.flow.displacement) > 0.99
        assert flow.energy(3e-3) == pytest.approx(expected.flow.energy(expected.beta), rel=1e-3)
        if layer == "sift20":
            assert np.array_equal(flow.displacement, expected.flow.displacement)
            moved = transfer(
                expected.points[:5], flow, geometry, to="target",
                source_box=expected.a.box, target_box=expected.b.box,
            )  # fmt: skip
            inside = np.clip(moved, -0.5, np.array(expected.b.photograph.shape[1::-1]) - 0.5)
            assert inside == pytest.approx(expected.landings[:5])


def test_defaults_are_the_pipelines() -> None:
    flow = FlowConfig()
    assert align.__kwdefaults__ == {
        "beta": flow.beta,
        "norm": flow.feature_norm,
        "solver": flow.solver,
        "iterations": flow.iterations,
        "window": flow.window,
        "truncation": flow.truncation,
    }


def test_pck_is_table_2(run: Any) -> None:
    """Of every method and tolerance, and by a count of our own."""
    predictions = run.table("predictions").to_pandas()
    rows = [r for r in run.tables()["rows"] if r["table"] == "table2" and r["category"] == "mean"]
    assert len(rows) == 9
    for row in rows:
        mine = predictions[predictions["method"] == row["method"]]
        points = mine[["x", "y"]].to_numpy(), mine[["true_x", "true_y"]].to_numpy()
        labels = {"keypoint": mine["keypoint"], "category": mine["category"]}
        share = pck(*points, mine["scale"], row["alpha"], **labels)
        assert round(100 * share, 2) == row["value"]
        far = np.hypot(mine["x"] - mine["true_x"], mine["y"] - mine["true_y"])
        right = (far <= row["alpha"] * mine["scale"]).groupby([mine["category"], mine["keypoint"]])
        assert share == pytest.approx(right.mean().groupby(level=0).mean().mean(), abs=1e-12)


# -- runs ----------------------------------------------------------------------------------------


def test_a_run_is_read_and_left_alone(run: Any, finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    again = open_run(str(finished))
    assert "visualize finished" in repr(again)
    states = again.stages()
    assert states.pop("evaluate-pairs") == "not begun", "a stage of its own, never part of a run"
    assert set(states.values()) == {"finished"}
    assert again.config == Run(str(finished)).config()
    assert len(again.instances) == 24
    assert set(again.keypoint_names) == {"butterfly", "fish", "house"}
    assert all((Path(again.root) / i.image).is_file() for i in again.instances)
    for name in again.table_names():
        table = again.table(name)
        assert table.num_rows > 0, name
        first = table.column_names[:1]
        assert again.table(name, first).column_names == first
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_tables_are_the_files(run: Any, finished: Path) -> None:
    from distcorr.report import tables

    built = tables.build(Run(str(finished)))
    assert run.tables()["rows"] == built.rows
    assert set(run.tables()) == {"rows", "weights", "data", "notes", "level"}
    assert run.table("predictions").equals(built.predictions)
    assert run.table("predictions-detect").equals(built.detections)
    pairs = run.table("transfer")
    expected = saved_pairs(finished)
    assert pairs.column_names == expected.column_names
    for name in pairs.column_names:  # as text: NaN is not equal to itself
        assert str(pairs[name].to_pylist()) == str(expected[name].to_pylist())
    neighbors = run.table("neighbors")
    assert neighbors.num_rows == 45
    assert set(neighbors["target"].to_pylist()) == {i.id for i in run.instances if i.split == "val"}


def test_features_of_any_order_and_repeated(run: Any) -> None:
    ids = [instance.id for instance in run.instances]
    every, _ = run.features()
    some, _ = run.features("block10", [ids[5], ids[0], ids[5]])
    assert np.array_equal(some, every[[5, 0, 5]])


def test_a_run_under_way(copy: Path) -> None:
    run = open_run(copy)
    (stage_folder(copy, "transfer") / "_done.json").unlink()
    assert run.stages()["transfer"] == "begun"
    assert run.stages()["classify"] == "finished"
    assert "transfer" not in run.table_names()
    with pytest.raises(DistcorrError, match="no transfer that is finished"):
        run.table("predictions")
    with pytest.raises(DistcorrError, match="no table 'transfer'"):
        run.table("transfer")
    shutil.rmtree(stage_folder(copy, "neighbors"))
    assert run.stages()["neighbors"] == "begun"
    assert run.stages()["responses"] == "finished"


def test_what_cannot_be_opened(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(DistcorrError, match=r"There is no run in .*Did you mean 'inline'") as said:
        open_run(finished.parent / "inlin")
    assert said.value.exit_code == USAGE
    assert "distcorr run -r" in said.value.hint
    with pytest.raises(DistcorrError, match="There is no run"):
        open_run(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DistcorrError, match="is not the manifest of a run"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99, "stages": {}}')
    with pytest.raises(DistcorrError, match="newer distcorr"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.table("transfr"), "no table 'transfr'. Did you mean 'transfer'"),
        (lambda run: run.table("transfer", ["targt"]), "no column 'targt'. Did you mean 'target'"),
        (lambda run: run.features("blok10"), "no grids/blok10. Did you mean 'grids/block10'"),
        (lambda run: run.features("vectors/block15"), "features are of boxes"),
        (lambda run: run.features("auto", ["2011_000001#7"]), "no instance .* Did you mean"),
    ],
)
def test_what_a_run_has_not(run: Any, ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(DistcorrError, match=message):
        ask(run)


# -- data sets and photographs -------------------------------------------------------------------


def test_drawn_instances_are_those_of_a_run(run: Any, tmp_path: Path) -> None:
    drawn = load_instances()
    assert len(drawn.instances) == 3 * (16 + 8)
    kept = load_instances(tmp_path, "toy", ["fish"], 2)
    assert {(i.category, i.split) for i in kept.instances} == {("fish", "train"), ("fish", "val")}
    assert Path(kept.root) == tmp_path / "toy"
    # The layout is recognised, and a run's own drawings are read like any others.
    read = load_instances(run.root)
    assert [i.id for i in read.instances] == [i.id for i in run.instances]
    for one, other in zip(read.instances, run.instances, strict=True):
        assert np.array_equal(one.keypoints, other.keypoints, equal_nan=True)
    with pytest.raises(DistcorrError, match=r"no category 'fisch'. Did you mean 'fish'"):
        load_instances(run.root, categories=["fisch"])
    with pytest.raises(DistcorrError, match=r"Unknown data set 'coc'. Did you mean 'coco'"):
        load_instances(run.root, "coc")
    with pytest.raises(DistcorrError, match="does not exist"):
        load_instances(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="the string 'fish'"):
        load_instances(categories="fish")


def test_drawn_photographs_go_with_the_process() -> None:
    code = "import distcorr; print(distcorr.load_instances(limit=1).root)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()


PICTURE = np.zeros((40, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([PICTURE], "conv4"), DistcorrError, "no layer 'conv4'"),
        (([PICTURE], "blok10"), DistcorrError, "Did you mean 'block10'"),
        (([PICTURE], "sift1"), DistcorrError, "sift1"),
        (([PICTURE], "no_module:Net"), DistcorrError, "no_module"),
        ((["nowhere.jpg"],), DistcorrError, "nowhere.jpg is missing"),
        (([], "sift20"), ValueError, "got 0"),
        (([PICTURE.astype(float)], "sift20"), ValueError, "uint8"),
        (([PICTURE[..., 0]], "sift20"), ValueError, r"\(40, 30\)"),
        ((PICTURE, "sift20"), TypeError, r"extract\(\[image\]\)"),
        (("a.jpg", "sift20"), TypeError, r"extract\(\[image\]\)"),
        (([3], "sift20"), TypeError, "a path or an array, got int"),
    ],
)
def test_what_cannot_be_extracted(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        extract(*arguments)


def test_options_of_extract_that_do_not_suit(tmp_path: Path) -> None:
    with pytest.raises(DistcorrError, match=r"weights=FILE"):
        extract([PICTURE], "conv4")
    with pytest.raises(DistcorrError, match="has cells of its own"):
        extract([PICTURE], cells=GRID)
    with pytest.raises(DistcorrError, match="224 x 224"):
        extract([PICTURE], size=300)
    with pytest.raises(ValueError, match="1 and 2 boxes"):
        extract([PICTURE], "sift20", boxes=[None, None])
    with pytest.raises(ValueError, match="misses the photograph"):
        extract([PICTURE], "sift20", boxes=[(50, 50, 60, 60)])
    with pytest.raises(DistcorrError, match="no such file") as said:
        extract([PICTURE], weights=tmp_path / "gone.npz")
    assert said.value.exit_code == MISSING
    larger, geometry = extract([PICTURE, PICTURE], "sift20", size=300, boxes=[None, (0, 0, 9, 9)])
    assert geometry.input_size == 300
    assert larger.shape == (2, geometry.cells, geometry.cells, 128)


def test_an_extractor_of_ones_own(monkeypatch: pytest.MonkeyPatch, drawn: Dataset) -> None:
    class Grey:
        geometry, channels = Geometry(32, 4, 1.5, 4, 8), 1
        fingerprint = "grey"

        def __init__(self, device: str) -> None:
            assert device

        def __call__(self, images: Any) -> Any:
            blocks = images.mean(axis=-1).reshape(len(images), 8, 4, 8, 4)
            return blocks.mean(axis=(2, 4), dtype=np.float32)[..., None]

    module = types.ModuleType("grey_feats")
    vars(module)["Grey"] = Grey
    monkeypatch.setitem(sys.modules, "grey_feats", module)
    picture = np.repeat(np.arange(32, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)
    found, geometry = extract([picture], "grey_feats:Grey")
    assert geometry == Grey.geometry
    assert np.allclose(found[0, :, :, 0], np.arange(8) * 4 + 1.5)


# -- points --------------------------------------------------------------------------------------


def test_points_go_against_the_flow_and_along_it() -> None:
    """A flow of two cells to the right: the source's x is the target's x - 16 px."""
    flow = STILL._replace(displacement=np.full((8, 8, 2), (2, 0), np.int16))
    points = np.array([[40, 20], [np.nan, np.nan], [33, 50]])
    assert transfer(points, flow, GRID) == pytest.approx(points - [16, 0], nan_ok=True)
    there = transfer(points - [16, 0], flow, GRID, to="target")
    assert there == pytest.approx(points, nan_ok=True)
    # In photographs: the source's square is a box of half its size, the target's one elsewhere.
    source, target = Box(10, 20, 41, 51), Box(100, 200, 163, 263)
    in_photo = points + np.array([100, 200])
    found = transfer(in_photo, flow, GRID, source_box=source, target_box=target)
    expected = (points - [16, 0] + 0.5) / 2 - 0.5 + [10, 20]
    assert found == pytest.approx(expected, nan_ok=True)
    back = transfer(found, flow, GRID, to="target", source_box=source, target_box=tuple(target))
    assert back == pytest.approx(in_photo, nan_ok=True)


def test_points_that_cannot_be_carried() -> None:
    for points in ([1, 2], np.zeros((2, 3))):
        with pytest.raises(ValueError, match="points must be"):
            transfer(points, STILL, GRID)
    assert np.array_equal(transfer([[-31, 94]], STILL, GRID), [[0, 63]])  # a little outside
    with pytest.raises(ValueError, match="got 200, 20; target_box"):
        transfer([[1, 2], [200, 20]], STILL, GRID)
    with pytest.raises(ValueError, match="got 200, 20; source_box"):
        transfer([[200, 20]], STILL, GRID, to="target")
    with pytest.raises(ValueError, match="to must be"):
        transfer([[1, 2]], STILL, GRID, to="neighbour")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cells, as the geometry"):
        transfer([[1, 2]], STILL, GRID._replace(cells=7))


def test_grids_that_cannot_be_aligned() -> None:
    grid = np.random.default_rng(0).normal(size=(4, 5, 3))
    assert align(grid, grid).deformation_energy == 0
    assert align(grid.astype(np.float16), grid[:3]).displacement.shape == (4, 5, 2)
    with pytest.raises(ValueError, match=r"source must be \(H, W, C\).*a grid per image"):
        align(grid[None], grid)
    with pytest.raises(ValueError, match="same channels, got 3 and 2"):
        align(grid, grid[..., :2])
    with pytest.raises(ValueError, match="norm must be"):
        align(grid, grid, norm="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="solver must be one of"):
        align(grid, grid, solver="trw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta"):
        align(grid, grid, beta=0)
    for norm in ("unit", "raw"):
        with pytest.raises(ValueError, match="finite"):
            align(grid, grid * np.nan, norm=norm)  # type: ignore[arg-type]


def test_beta_and_norm_matter() -> None:
    """The least energy of all flows of a chain of four cells, by trying them all."""
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(2, 1, 4, 2)).astype(np.float32)
    for norm, beta in (("raw", 0.2), ("unit", 0.2), ("unit", 0.02)):
        grids = (source, target)
        if norm == "unit":
            grids = tuple(g / np.linalg.norm(g, axis=-1, keepdims=True) for g in grids)
        one, other = (g[0] for g in grids)

        def cost(to: tuple[int, ...], one: Any = one, other: Any = other, b: float = beta) -> float:
            bent = np.diff(np.array(to) - np.arange(4)) ** 2
            return float(np.linalg.norm(one - other[list(to)], axis=1).sum() + b * bent.sum())

        least = min(cost(to) for to in itertools.product(range(4), repeat=4))
        found = align(source, target, beta=beta, norm=norm)  # type: ignore[arg-type]
        assert found.energy(beta) == pytest.approx(least, rel=1e-5)


# -- PCK -----------------------------------------------------------------------------------------


def test_pck_by_hand() -> None:
    true = np.array([[[0, 0], [50, 0], [np.nan, np.nan]], [[0, 0], [50, 0], [9, 9]]], float)
    guess = true + 0.0
    guess[0, 0] = [6, 8]  # ten px: on the threshold, which counts
    guess[1, 0] = [6.1, 8]
    guess[1, 1] = np.nan  # nothing predicted: wrong
    guess[0, 2] = [1, 1]  # nothing there: not counted
    assert pck(guess, true, [100, 100]) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert pck(guess, true, 100, 0.05) == pytest.approx((0 + 1 / 2 + 1) / 3)
    assert pck(guess, true, 100, category=["a", "b"]) == pytest.approx((1 + 1 / 3) / 2)
    assert pck(guess, true, 100, dialect="dift-point") == pytest.approx(3 / 5)
    assert pck(guess, true, 100, dialect="dift-image") == pytest.approx((1 + 1 / 3) / 2)
    assert pck(guess, true, 100, dialect="long2014-less") == pytest.approx((0 + 1 / 2 + 1) / 3)
    rows = guess.reshape(-1, 2), true.reshape(-1, 2)
    assert pck(*rows, 100) == pytest.approx(3 / 5)
    types = ["x", "y", "z"] * 2
    assert pck(*rows, [100] * 6, keypoint=types) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_what_cannot_be_scored() -> None:
    points = np.ones((2, 3, 2))
    with pytest.raises(DistcorrError, match=r"Unknown dialect 'dift-imag'. Did you mean"):
        pck(points, points, 9, dialect="dift-imag")
    with pytest.raises(DistcorrError, match=r"dhpf needs the box.*sizes"):
        pck(points, points, 9, dialect="dhpf")
    with pytest.raises(DistcorrError, match="which points are of one object"):
        pck(points[0], points[0], 9, dialect="dift-image")
    for guess, true in ((points, points[:1]), (points[0, 0], points[0, 0])):
        with pytest.raises(ValueError, match="predicted and truth must both be"):
            pck(guess, true, 9)
    with pytest.raises(ValueError, match="keypoint is for points"):
        pck(points, points, 9, keypoint=["a", "b"])
    with pytest.raises(ValueError, match=r"must be \(2,\), got \(1,\)"):
        pck(points, points, 9, category=["a"])
    with pytest.raises(ValueError, match="truth must have a finite point"):
        pck(points, points * np.nan, 9)
    with pytest.raises(ValueError, match=r"size must be one number or \(2,\)"):
        pck(points, points, [9, 9, 9])
    with pytest.raises(ValueError, match="above 0"):
        pck(points, points, 0)
    with pytest.raises(ValueError, match="alpha must be"):
        pck(points, points, 9, 0)


# -- the tour ------------------------------------------------------------------------------------


def test_the_tour(finished: Path, tmp_path: Path) -> None:
    """As a user starts it: what it prints is what the run's files say."""
    used = re.search(r"^from distcorr import (.*)$", TOUR.read_text(), re.MULTILINE)
    assert used
    assert set(used[1].split(", ")) == set(distcorr.__all__)
    done = subprocess.run(
        [sys.executable, str(TOUR), str(finished), "out.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    from distcorr.report import tables

    means = {
        row["method"]: row["value"]
        for row in tables.build(Run(str(finished))).rows
        if row["table"] == "table2" and row["category"] == "mean" and row["alpha"] == 0.1
    }
    printed = re.findall(r"^PCK@0.1 of (.*): (.*)$", said, re.MULTILINE)
    assert {method: float(value) for method, value in printed} == means
    pairs = saved_pairs(finished).to_pandas()
    least = pairs["deformation_energy"].min()
    assert f"deformation: {least:g}, saved {least:g} cells^2" in said
    assert "furthest from the saved: 0 px" in said
    shares = re.findall(r"PCK@0.1 of one neighbour: (.*)$", said, re.MULTILINE)
    assert float(shares[0]) >= float(shares[1]) > 0
    assert np.asarray(Image.open(tmp_path / "out.png").convert("L")).std() > 30

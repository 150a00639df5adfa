"""What build-db puts into the store: every kind of feature, shared, and refused when broken."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distcorr.algorithms import extractors, nets, sift
from distcorr.algorithms.crop import crop_square, reduce_to, to_square
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.store import TableStore, read_values
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import Session
from distcorr.stages.features import load_network, wishes
from distcorr.stages.pipeline import Context, run_stage
from distcorr.types import Box
from tests.stages.common import Recorder, contents, run_all, toy_config

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"
FEW = ("dataset.toy_train=2", "dataset.toy_val=1", 'dataset.categories=["fish"]')
TABLES = ("grids", "grids500", "points", "cells")


def build(folder: Path, settings: list[str]) -> Recorder:
    """Run build-db; its warnings."""
    config, recorder = toy_config(settings), Recorder()
    with Session(config.compute) as session:
        run_stage("build-db", Context(config, Run(str(folder)), session, recorder))
    return recorder


def opened(folder: Path) -> FeatureStore:
    stage = Run(str(folder)).current("build-db")
    assert stage is not None
    return FeatureStore(stage)


def rows_of(store: FeatureStore, name: str) -> tuple[pa.Table, np.ndarray]:
    table = pa.concat_tables(list(store.parts(name)))
    return table, read_values(table)[0].astype(np.float32)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet with random weights: a network that takes images of any size."""
    rng = np.random.default_rng(3)
    modules, _ = nets.skeleton(nets.ALEXNET, 227)
    arrays = {
        name: rng.normal(0, 1 / np.sqrt(np.prod(value.shape[1:]) or 100), value.shape)
        for name, value in modules.state_dict().items()
        if not name.startswith("fc")
    }
    path = tmp_path_factory.mktemp("weights") / "alexnet.npz"
    np.savez(path, **{name: value.astype(np.float32) for name, value in arrays.items()})
    return path


@pytest.fixture(scope="module")
def everything(
    tmp_path_factory: pytest.TempPathFactory, toy_settings: Settings, alexnet: Path
) -> Path:
    """One build-db with every kind of table."""
    folder = tmp_path_factory.mktemp("runs") / "everything"
    build(
        folder,
        toy_settings(
            INLINE,
            *FEW,
            "features.network=alexnet",
            f'features.weights="{alexnet}"',
            'features.grids=["sift20", "conv3"]',
            'features.grids500=["auto"]',
            'features.points=["auto", "sift10", "sift160"]',
            'features.cells=["conv1", "conv4", "sift20"]',
            "features.cells_per_photo=50",
        ),
    )
    return folder


@pytest.fixture(scope="module")
def network(alexnet: Path) -> extractors.Backbone:
    with np.load(alexnet) as arrays:
        return extractors.build("alexnet", dict(arrays))


def photograph(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "toy" / name))


def close(stored: np.ndarray, wanted: np.ndarray) -> None:
    """Equal but for float16 and the order of sums."""
    np.testing.assert_allclose(stored, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())


def test_one_command_fills_the_store(everything: Path) -> None:
    store = opened(everything)
    convs = [f"conv{n}" for n in range(1, 6)]
    assert sorted(store.tables) == sorted(
        ["grids/conv4", "grids/sift20", "grids/conv3", "vectors/pool5", "grids500/conv5"]
        + [f"points/{layer}" for layer in (*convs, "sift10", "sift160")]
        + ["cells/conv1", "cells/conv4", "cells/sift20"]
    )
    listed = {info.table: info for info in TableStore(store._stage.files).tables()}
    assert sorted(listed) == sorted(store.tables.values())
    assert all(info.shards == 2 and info.rows for info in listed.values())
    assert not [p for _, found in TableStore(store._stage.files).verify() for p in found]


def test_grids_are_of_the_boxes(everything: Path, network: extractors.Backbone) -> None:
    store = opened(everything)
    instance = store.instances[0]
    picture = photograph(everything, instance.image)
    for kind, tap, side in (("grids", "conv3", 227), ("grids500", "conv5", 500)):
        _, values, meta = store.read(f"{kind}/{tap}", [instance.id])
        close(values[0], network(crop_square(picture, instance.box, side)[None], [tap])[tap][0])
        assert meta.geometry == network.geometry(tap, side)
    _, values, meta = store.read("grids/sift20", [instance.id])
    at = np.stack(np.meshgrid(*[network.geometry("conv4").centres()] * 2), axis=-1)
    crop = crop_square(picture, instance.box, 227)
    close(values[0].reshape(-1, 128), sift.at_points(crop, at.reshape(-1, 2), 20))
    assert meta.geometry == network.geometry("conv4")._replace(rf=40)
    _, values, _ = store.read("vectors/pool5", [instance.id])
    close(values[0], network(crop[None], ["pool5"])["pool5"].reshape(-1))


def test_points_are_columns_of_whole_photographs(
    everything: Path, network: extractors.Backbone
) -> None:
    store = opened(everything)
    by_id = {i.id: i for i in store.instances}
    names = store.keypoint_names["fish"]
    for layer in ("conv1", "conv4", "sift160"):
        table, values = rows_of(store, f"points/{layer}")
        keys = table.select(["id", "keypoint", "x", "y"]).to_pylist()
        shown = {(i.id, names[k]) for i in store.instances for k in np.flatnonzero(i.visible)}
        assert {(key["id"], key["keypoint"]) for key in keys} == shown
        assert len(keys) == len(shown)
        for key, value in zip(keys[::5], values[::5], strict=True):
            instance = by_id[key["id"]]
            xy = instance.keypoints[names.index(key["keypoint"])]
            assert (key["x"], key["y"]) == tuple(xy)
            picture = photograph(everything, instance.image)
            if layer == "sift160":
                close(value, sift.at_points(picture, xy[None], 160)[0])
                continue
            height, width = picture.shape[:2]
            ys = network.geometry(layer, height).centres()
            xs = network.geometry(layer, width).centres()
            row, col = np.abs(ys - xy[1]).argmin(), np.abs(xs - xy[0]).argmin()
            close(value, network(picture[None], [layer])[layer][0, row, col])


def test_cells_are_a_seeded_sample_that_says_where_it_is_from(
    everything: Path, network: extractors.Backbone
) -> None:
    store = opened(everything)
    table, values = rows_of(store, "cells/conv4")
    keys = table.select(["image", "row", "col", "x", "y"]).to_pylist()
    images = {i.image for i in store.instances}
    assert len(keys) == 50 * len(images)
    picture = photograph(everything, keys[0]["image"])
    grid = network(picture[None], ["conv4"])["conv4"][0]
    for key, value in zip(keys[:50], values[:50], strict=True):
        close(value, grid[key["row"], key["col"]])
        assert (key["x"], key["y"]) == (17 + 16 * key["col"], 17 + 16 * key["row"])
    assert len({(key["row"], key["col"]) for key in keys[:50]}) == 50
    other, _ = rows_of(store, "cells/sift20")
    assert other.select(["image", "row", "col"]) == table.select(["image", "row", "col"])


@pytest.mark.parametrize("layer", ["conv4", "block10"])
def test_cells_of_mirror_images_are_those_of_the_flipped_picture(
    tmp_path: Path, toy_settings: Settings, alexnet: Path, layer: str
) -> None:
    """And say where their centres lie in the photograph that is not flipped."""
    settings = toy_settings(INLINE, *FEW, f"features.cells={layer}", "features.cells_per_photo=40")
    settings += ["features.points=[]", "features.grids=[]", "flow.features=auto"]
    settings += ["visualize.mirrored=true"]
    if layer == "conv4":
        settings += ["features.network=alexnet", f'features.weights="{alexnet}"']
    build(tmp_path, [*settings, "features.grids500=[]"])
    store, config = opened(tmp_path), toy_config(settings)
    network = wishes(config, load_network(config.features)).wanted[0].source
    table, values = rows_of(store, f"mirrored/{layer}")
    keys = table.to_pylist()
    plain, others = rows_of(store, f"cells/{layer}")
    names = ["image", "row", "col", "height", "width", "y"]
    assert plain.select(names) == table.select(names)  # the same sample, counted in each picture
    assert not np.array_equal(values, others)
    for image in {i.image for i in store.instances}:
        mine = [n for n, key in enumerate(keys) if key["image"] == image]
        assert len(mine) == 40
        picture = photograph(tmp_path, image)
        high, wide = picture.shape[:2]
        if layer == "block10":
            picture = crop_square(picture, Box(0, 0, wide - 1, high - 1), 224)
        height, width = picture.shape[:2]
        grid = network(picture[None, :, ::-1], [layer])[layer][0]
        rows, cols = ([keys[n][axis] for n in mine] for axis in ("row", "col"))
        close(values[mine], grid[rows, cols])
        assert {(keys[n]["height"], keys[n]["width"]) for n in mine} == {(height, width)}
        x = width - 1 - network.geometry(layer, width).centres()[cols]
        y = network.geometry(layer, height).centres()[rows]
        np.testing.assert_allclose(
            [(keys[n]["x"], keys[n]["y"]) for n in mine],
            np.stack([(x + 0.5) * wide / width - 0.5, (y + 0.5) * high / height - 0.5], axis=1),
            atol=1e-3,
        )


def test_a_source_of_one_size_sees_the_photograph_squeezed(
    tmp_path: Path, toy_settings: Settings
) -> None:
    build(tmp_path, toy_settings(INLINE, *FEW, "features.cells_per_photo=5"))
    store = opened(tmp_path)
    from distcorr.data.weights import load_weights

    network = extractors.build("efficientnet-lite0", load_weights("", "efficientnet-lite0").arrays)
    table, values = rows_of(store, "points/block10")
    key = table.select(["id", "x", "y"]).to_pylist()[3]
    picture = photograph(tmp_path, next(i.image for i in store.instances if i.id == key["id"]))
    whole = Box(0, 0, picture.shape[1] - 1, picture.shape[0] - 1)
    grid = network(crop_square(picture, whole, 224)[None], ["block10"])["block10"][0]
    row, col = network.geometry("block10").nearest(to_square([key["x"], key["y"]], whole, 224))
    close(values[3], grid[row, col])
    cells, values = rows_of(store, "cells/block10")
    key = cells.select(["image", "row", "col", "x", "y"]).to_pylist()[0]
    centre = network.geometry("block10").centres()[key["col"]]
    width = photograph(tmp_path, key["image"]).shape[1]
    assert key["x"] == pytest.approx((centre + 0.5) * width / 224 - 0.5, abs=1e-3)


def test_long_photographs_are_reduced(
    tmp_path: Path, toy_settings: Settings, alexnet: Path, network: extractors.Backbone
) -> None:
    """Keypoints stay where they are in the photograph; the network sees the small one."""
    build(
        tmp_path,
        toy_settings(
            INLINE,
            *FEW,
            "features.network=alexnet",
            f'features.weights="{alexnet}"',
            'features.points=["conv4"]',
            "features.cells=[]",
            "features.grids500=[]",
            "features.photo_side=150",
        ),
    )
    store = opened(tmp_path)
    table, values = rows_of(store, "points/conv4")
    key = table.select(["id", "x", "y"]).to_pylist()[4]
    picture = photograph(tmp_path, next(i.image for i in store.instances if i.id == key["id"]))
    small = reduce_to(picture, 150)
    assert max(small.shape) == 150 < max(picture.shape)
    scale = np.array(small.shape[1::-1]) / picture.shape[1::-1]
    x, y = (np.array([key["x"], key["y"]]) + 0.5) * scale - 0.5
    row = np.abs(network.geometry("conv4", small.shape[0]).centres() - y).argmin()
    col = np.abs(network.geometry("conv4", small.shape[1]).centres() - x).argmin()
    close(values[4], network(small[None], ["conv4"])["conv4"][0, row, col])


# -- sharing -----------------------------------------------------------------------------------


def test_runs_share_what_is_made_alike(tmp_path: Path, toy_settings: Settings) -> None:
    store = f'compute.store="{tmp_path / "shared"}"'
    more = (INLINE, "dataset.toy_train=2", "dataset.toy_val=1", 'features.points=["sift20"]')
    first = run_all(tmp_path / "one", toy_settings(*more, store))
    assert first["build-db"].computed == first["build-db"].shards
    before = contents(tmp_path / "shared")
    again = run_all(tmp_path / "two", toy_settings(*more, store))
    assert again["build-db"].computed == 0
    assert contents(tmp_path / "shared") == before
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert [name for name in one if one[name] != two[name]] == []
    fish = run_all(tmp_path / "fish", toy_settings(*more, store, 'dataset.categories=["fish"]'))
    assert fish["build-db"].computed == 0
    assert contents(tmp_path / "shared") == before
    control = toy_settings(*more, store, "features.control=shuffled-weights")
    assert run_all(tmp_path / "control", control)["build-db"].computed > 0
    tables = [info.table for info in TableStore(Folder(tmp_path / "shared")).tables()]
    assert sum(table.startswith("points-sift20") for table in tables) == 1
    assert sum(table.startswith("grids-block10") for table in tables) == 2


def test_features_can_be_added_to_a_run(tmp_path: Path, toy_settings: Settings) -> None:
    few = (INLINE, *FEW)
    run_all(tmp_path, toy_settings(*few))
    transfer = sorted((tmp_path / "transfer").rglob("*.json"))
    times = [path.stat().st_mtime_ns for path in transfer]
    grids = {p: p.stat().st_mtime_ns for p in (tmp_path / "store").glob("grids-*/*")}
    added = run_all(tmp_path, toy_settings(*few, 'features.points=["block4", "sift20"]'))
    assert added["build-db"].computed > 0
    assert [added[stage].computed for stage in ("neighbors", "transfer")] == [0, 0]
    assert [path.stat().st_mtime_ns for path in transfer] == times
    assert {p: p.stat().st_mtime_ns for p in grids} == grids
    store = opened(tmp_path)
    assert "points/block4" in store.tables
    with pytest.raises(DistcorrError, match="no points/block10"):
        next(store.parts("points/block10"))


def test_a_changed_keypoint_changes_the_points_and_not_the_grids(
    everything: Path, tmp_path: Path, toy_settings: Settings
) -> None:
    shutil.copytree(everything / "toy", tmp_path / "voc")
    (tmp_path / "voc" / "toy.json").unlink()
    store = f'compute.store="{tmp_path / "shared"}"'
    settings = toy_settings(INLINE, store, "dataset.name=voc", f'dataset.root="{tmp_path / "voc"}"')
    build(tmp_path / "one", settings)
    before = contents(tmp_path / "shared")
    annotation = min((tmp_path / "voc" / "annotations" / "fish").glob("*.xml"))
    text = annotation.read_text()
    name = text[text.index('x="') :].split('"')[1]
    annotation.write_text(text.replace(f'x="{name}"', f'x="{float(name) + 1}"', 1))
    build(tmp_path / "two", settings)
    new = contents(tmp_path / "shared").keys() - before.keys()
    assert {name.split("-")[0] for name in new} == {"points", "cells"}


# -- extractors of the user's --------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder for modules of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in ("my_feats", "my_broken"):
        sys.modules.pop(name, None)


BROKEN = """
import numpy as np
from distcorr.types import Geometry

class Broken:
    geometry = Geometry(input_size=64, stride=8, offset=3.5, rf=8, cells=8)
    channels = 3

    def __call__(self, images):
        maps = images.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4)).astype(np.float32)
        maps[:: {every}] = np.nan
        return maps
"""


@pytest.mark.parametrize("every", [1, 9])
def test_features_that_are_not_finite_are_named(
    here: Path, toy_settings: Settings, every: int
) -> None:
    (here / "my_broken.py").write_text(BROKEN.format(every=every))
    settings = toy_settings(INLINE, "features.conv=my_broken:Broken", "features.shard=9")
    settings += ["dataset.toy_train=9", "dataset.toy_val=9", "features.batch=1000"]
    if every == 1:
        with pytest.raises(DistcorrError, match=r"too many .* Broken of Broken is not finite") as e:
            build(here / "run", settings)
        assert e.value.exit_code == 4
        return
    warnings = build(here / "run", settings).warnings
    assert any("Broken of Broken is not finite" in text for text in warnings)
    assert len(opened(here / "run").dead) == 6


def test_a_control_needs_a_network(here: Path, toy_settings: Settings) -> None:
    (here / "my_broken.py").write_text(BROKEN.format(every=9))
    settings = toy_settings(
        INLINE, "features.network=my_broken:Broken", "features.control=shuffled-weights"
    )
    with pytest.raises(DistcorrError, match="keeps its own"):
        build(here / "run", settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("features.conv=nowhere:Net", "nowhere"),
        ('features.points=["conv9"]', "no layer 'conv9'"),
        ('features.grids500=["block10"]', "sees 224 px only"),
        ('features.cells=["fc"]', "fc"),
        ('features.points=["sift0"]', "sift0"),
    ],
)
def test_a_layer_that_cannot_be_had_is_refused_at_once(
    tmp_path: Path, toy_settings: Settings, setting: str, message: str
) -> None:
    with pytest.raises(DistcorrError, match=message):
        build(tmp_path / "run", toy_settings(INLINE, setting))
    assert not (tmp_path / "run" / "build-db").exists()


# -- faults ------------------------------------------------------------------------------------


def test_photographs_too_small_for_a_layer_are_named(
    everything: Path, tmp_path: Path, alexnet: Path
) -> None:
    shutil.copytree(everything / "toy", tmp_path / "voc")
    (tmp_path / "voc" / "toy.json").unlink()
    path = min((tmp_path / "voc/VOCdevkit/VOC2011/JPEGImages").glob("*.jpg"))
    settings = [
        INLINE,
        "dataset.name=voc",
        f'dataset.root="{tmp_path / "voc"}"',
        "features.network=alexnet",
        f'features.weights="{alexnet}"',
        "features.grids500=[]",
        'features.points=["conv1", "conv4", "sift20"]',
        'features.cells=["conv4"]',
        "features.photo_side=40",
    ]
    Image.open(path).resize((200, 20)).save(path)
    build(tmp_path / "run", settings)
    dead = pq.read_table(next((tmp_path / "run").rglob("dead_letters.parquet"))).to_pylist()
    reasons = [row["error"] for row in dead if row["id"].endswith(path.name)]
    assert reasons
    assert all("seen at 40 x 4 px, is too small for" in reason for reason in reasons), reasons


def test_memory_that_runs_out_halves_the_batch_and_is_said_once(
    tmp_path: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy_settings(INLINE, *FEW, "features.batch=8", "dataset.toy_train=4")
    build(tmp_path / "plain", settings)
    call = extractors.Backbone.__call__

    def scarce(self: extractors.Backbone, images: np.ndarray, taps: object) -> object:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, images, taps)  # type: ignore[arg-type]

    monkeypatch.setattr(extractors.Backbone, "__call__", scarce)
    warnings = build(tmp_path / "scarce", settings).warnings
    assert sum("ran out of memory" in text for text in warnings) == 1
    plain, scarce_store = opened(tmp_path / "plain"), opened(tmp_path / "scarce")
    ids = [i.id for i in plain.instances]
    close(scarce_store.read("grids/block10", ids)[1], plain.read("grids/block10", ids)[1])


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    settings = toy_settings(INLINE, *FEW)
    fsync, calls = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises((DistcorrError, OSError), match="No space left on device"):
            build(tmp_path / "run", settings)
    left = [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert left == []
    for part in (tmp_path / "run" / "store").glob("*/*.parquet"):
        pq.read_table(part)
    build(tmp_path / "run", settings)
    build(tmp_path / "whole", settings)
    mended, whole = contents(tmp_path / "run"), contents(tmp_path / "whole")
    assert sorted(mended) == sorted(whole)
    assert [name for name in whole if mended[name] != whole[name]] == []


def test_the_manifest_says_where_the_store_is(everything: Path) -> None:
    manifest = json.loads((everything / "manifest.json").read_text())
    assert manifest["stages"]["build-db"]["store"] == "store"


# -- a store serves nothing that was made differently ------------------------------------------


def folders(settings: list[str]) -> dict[str, str]:
    """Name of every table -> its folder, without making any."""
    from distcorr.stages.features import load_network, wishes

    config = toy_config(settings)
    found = wishes(config, load_network(config.features)).wanted
    return {w.feature.name: w.feature.folder for w in found}


def test_what_changes_values_changes_the_folder(
    toy_settings: Settings, alexnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = toy_settings(
        "features.network=alexnet",
        f'features.weights="{alexnet}"',
        'features.grids=["sift20", "conv3"]',
        'features.points=["conv4", "sift20"]',
        'features.cells=["conv4", "sift20"]',
        "features.vector=sift20",
    )
    before = folders(base)

    def changed(*more: str) -> set[str]:
        after = folders([*base, *more])
        return {name for name in before if after.get(name, "") != before[name]} - {"grids/conv4"}

    networks = {name for name in before if "conv" in name} - {"grids/conv4"}
    latticed = {"grids/sift20", "vectors/sift20", "cells/sift20"}
    assert changed() == set()
    assert changed("features.control=shuffled-weights") == networks
    assert changed("features.precision=bfloat16") == networks
    assert changed("features.batch=5") == networks
    assert changed("features.conv=conv1") == latticed
    # conv3 to conv5 lie alike wherever they have cells; pool5 does not.
    assert changed("features.conv=conv5") == set()
    assert changed("features.conv=pool5") == latticed
    assert changed("features.photo_side=400") >= {"points/conv4", "points/sift20", "cells/sift20"}
    assert changed("features.cells_per_photo=5") == {"cells/conv4", "cells/sift20"}
    monkeypatch.setattr("distcorr.stages.features.OF_CELLS", 99)
    assert changed() == {"cells/conv4", "cells/sift20"}
    monkeypatch.setattr("distcorr.stages.features.VERSION", 99)
    assert changed() == before.keys() - {"grids/conv4"}


def test_a_photograph_that_changes_under_way_fails_its_shard(
    tmp_path: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distcorr.stages import build_db

    settings = toy_settings(INLINE, *FEW)
    checksum = build_db.checksum

    def planned(folder: Folder, name: str) -> str:
        found = checksum(folder, name)
        return found[::-1]

    with monkeypatch.context() as patched:
        patched.setattr(build_db, "checksum", planned)
        with pytest.raises(DistcorrError, match="not what it was when the work was planned") as e:
            build(tmp_path / "run", settings)
    assert e.value.exit_code == 4
    build(tmp_path / "run", settings)
    assert opened(tmp_path / "run").dead == frozenset()


def test_a_broken_extra_layer_changes_no_result(here: Path, toy_settings: Settings) -> None:
    """What section 3 reads decides who takes part in it."""
    from distcorr.report import tables

    (here / "my_broken.py").write_text(BROKEN.format(every=9))
    settings = toy_settings(INLINE, "features.batch=1000")
    run_all(here / "run", settings)
    rows = tables.build(Run(str(here / "run"))).rows
    more = run_all(here / "run", [*settings, "features.grids=my_broken:Broken"])
    assert more["build-db"].dead > 0
    assert [more[stage].computed for stage in ("neighbors", "transfer")] == [0, 0]
    assert tables.build(Run(str(here / "run"))).rows == rows


def test_small_photographs_are_not_broken_ones(
    tmp_path: Path, toy_settings: Settings, alexnet: Path
) -> None:
    """All of them too small for the network: SIFT is there, and nothing is refused."""
    build(
        tmp_path,
        toy_settings(
            INLINE,
            "features.network=alexnet",
            f'features.weights="{alexnet}"',
            'features.points=["conv4", "sift20"]',
            "features.cells=conv4",
            "features.grids500=[]",
            "features.photo_side=20",
        ),
    )
    store = opened(tmp_path)
    assert rows_of(store, "points/conv4")[0].num_rows == 0
    assert rows_of(store, "points/sift20")[0].num_rows == sum(
        int(i.visible.sum()) for i in store.instances
    )


def test_a_worker_that_cannot_start_says_why(
    here: Path, toy_settings: Settings, ray_local: None
) -> None:
    """This Ray was started elsewhere, so that its workers do not see the user's file."""
    (here / "my_broken.py").write_text(BROKEN.format(every=99))
    with pytest.raises(DistcorrError, match="shards of build-db failed: There is no module") as e:
        build(here / "run", toy_settings("features.conv=my_broken:Broken"))
    assert e.value.exit_code == 4


def test_an_extractor_that_differs_from_process_to_process_is_refused(
    here: Path, toy_settings: Settings
) -> None:
    init = "    def __init__(self):\n        self.own = np.random.default_rng().random()\n\n"
    (here / "my_broken.py").write_text(
        BROKEN.format(every=99).replace("    def __call__", init + "    def __call__")
    )
    with pytest.raises(DistcorrError, match="not the same here as in the process that planned"):
        build(here / "run", toy_settings(INLINE, "features.conv=my_broken:Broken"))


def test_a_store_is_where_the_user_stands(
    here: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(here / "run", toy_settings(INLINE, *FEW, "compute.store=mine"))
    assert any((here / "mine").glob("grids-*/*.parquet"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(DistcorrError, match="would vanish"):
        build(here / "two", toy_settings(INLINE, *FEW, "compute.store=mine"))

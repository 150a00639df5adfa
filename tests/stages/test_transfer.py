"""The flows that ``transfer`` saves: by which layers, of which boxes, in which direction."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.interpolate import RectBivariateSpline

from distcorr.algorithms.crop import crop_square, from_square, to_square
from distcorr.algorithms.flow import align, energy, unit_norm
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, Shard
from distcorr.data.store import META
from distcorr.errors import DistcorrError
from distcorr.report import tables
from distcorr.report.figures import figure3
from distcorr.stages import transfer
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import Context, forecast_stage
from distcorr.stages.transfer import _groups, _members, _methods, transfer_shard
from distcorr.types import Instance
from tests.stages.common import (
    Recorder,
    contents,
    run_all,
    saved_pairs,
    stage_folder,
    toy_config,
    write_alexnet,
)

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"
ONE = ("flow.targets=1", "flow.features=auto")


def opened(folder: Path) -> FeatureStore:
    stage = Run(str(folder)).current("build-db")
    assert stage is not None
    return FeatureStore(stage)


def facts(folder: Path) -> dict:
    part = min((stage_folder(folder, "transfer") / "pairs").iterdir())
    return dict(json.loads(pq.read_schema(part).metadata[META]))


def test_pairs_say_what_they_are(finished: Path) -> None:
    store, pairs = opened(finished), saved_pairs(finished)
    rows = pairs.to_pylist()
    assert [r["method"] for r in rows] == ["block10 flow"] * 45 + ["SIFT flow"] * 45
    by_id = {i.id: i for i in store.instances}
    assert all(by_id[r["target"]].category == r["category"] for r in rows)
    assert facts(finished)["shape"] == [14, 14, 2]
    assert facts(finished)["beta"] == 3e-3
    for row in (rows[0], rows[44], rows[89]):
        layer = "block10" if row["method"] == "block10 flow" else "sift20"
        ids, grids, meta = store.read(f"grids/{layer}", [row["target"], row["neighbor"]])
        assert ids == [row["target"], row["neighbor"]]
        assert facts(finished)["geometry"]["cells"] == meta.geometry.cells
        displacement = np.array(row["displacement"]).reshape(14, 14, 2)
        test, neighbor = map(unit_norm, grids)
        np.testing.assert_allclose(
            energy(test, neighbor, displacement, 3e-3),
            (row["data_energy"], row["deformation_energy"]),
        )


def test_forward_carries_by_the_neighbours_own_flow(copy: Path, toy_settings: Settings) -> None:
    run_all(copy, toy_settings(INLINE, *ONE, "flow.direction=forward"), ["transfer"])
    store, pairs = opened(copy), saved_pairs(copy)
    by_id = {i.id: i for i in store.instances}
    assert pairs.num_rows == 3 * 5
    for row in pairs.to_pylist()[::4]:
        target, other = by_id[row["target"]], by_id[row["neighbor"]]
        _, grids, meta = store.read("grids/block10", [other.id, target.id])
        flow = align(*map(unit_norm, grids), beta=3e-3)
        displacement = np.array(row["displacement"]).reshape(flow.displacement.shape)
        np.testing.assert_array_equal(displacement, flow.displacement)
        assert row["deformation_energy"] == flow.deformation_energy
        side, centres = meta.geometry.input_size, meta.geometry.centres()
        points = to_square(other.keypoints, other.box, side)[other.visible]
        at = np.clip(points, centres[0], centres[-1])
        w = [
            RectBivariateSpline(centres, centres, 16.0 * displacement[..., axis]).ev(*at.T[::-1])
            for axis in (0, 1)
        ]
        wanted = from_square(points + np.transpose(w), target.box, side)
        carried = np.array(row["carried"]).reshape(-1, 2)
        np.testing.assert_allclose(carried[other.visible], wanted, atol=1e-8)
    assert figure3(Run(str(copy)), rows=1)
    (note,) = (n for n in tables.build(Run(str(copy))).notes if n.startswith("Flow by"))
    assert "forward transfer" in note
    assert "At most 1 targets per category" in note


def test_pixels_as_units_scale_beta_by_the_stride(copy: Path, toy_settings: Settings) -> None:
    run_all(copy, toy_settings(INLINE, *ONE, "flow.units=px"), ["transfer"])
    pixels = saved_pairs(copy)
    assert facts(copy)["beta"] == pytest.approx(3e-3 * 16**2)
    run_all(copy, toy_settings(INLINE, *ONE, f"flow.beta={3e-3 * 16**2}"), ["transfer"])
    assert str(saved_pairs(copy).to_pylist()) == str(pixels.to_pylist())  # equal where NaN


def test_raw_features_are_not_scaled(copy: Path, toy_settings: Settings) -> None:
    run_all(copy, toy_settings(INLINE, *ONE, "flow.feature_norm=raw"), ["transfer"])
    row = saved_pairs(copy).to_pylist()[0]
    _, grids, _ = opened(copy).read("grids/block10", [row["target"], row["neighbor"]])
    displacement = np.array(row["displacement"]).reshape(14, 14, 2)
    raw = [grid.astype(np.float32) for grid in grids]
    assert energy(*raw, displacement, 3e-3)[0] == pytest.approx(row["data_energy"])


def test_some_targets_stand_for_all(copy: Path, toy_settings: Settings) -> None:
    run_all(copy, toy_settings(INLINE, *ONE), ["transfer"])
    store = opened(copy)
    middle = [store.members(c, "val")[1].id for c in sorted(store.keypoint_names)]
    assert list(dict.fromkeys(saved_pairs(copy)["target"].to_pylist())) == middle
    report = tables.build(Run(str(copy)))
    scored = report.predictions.to_pylist()
    assert {row["instance"] for row in scored} == set(middle)
    assert {row["method"] for row in scored} == {"block10 flow", "NN transfer"}


def test_what_flows_are_called() -> None:
    assert _methods(["conv4", "sift20"]) == {"conv4": "conv4 flow", "sift20": "SIFT flow"}
    assert _methods(["sift20", "Edges", "sift40"]) == {
        "sift20": "SIFT radius 20 flow",
        "Edges": "Edges flow",
        "sift40": "SIFT radius 40 flow",
    }
    assert _methods(["conv4", "sift40"]) == {"conv4": "conv4 flow", "sift40": "SIFT flow"}
    assert _methods(["dsift8"]) == {"dsift8": "dsift8 flow"}


# -- the tables that it reads --------------------------------------------------------------------


def test_other_tables_come_and_go_and_its_own_do_not(copy: Path, toy_settings: Settings) -> None:
    settings = toy_settings(INLINE, *ONE)
    run_all(copy, settings)
    more = run_all(copy, [*settings, 'features.grids=["sift20", "block7"]'])
    assert more["build-db"].computed > 0
    assert more["transfer"].computed == 0
    key = more["transfer"].key
    added = run_all(copy, toy_settings(INLINE, "flow.targets=1", 'flow.features=["block7"]'))
    assert added["transfer"].key != key
    assert set(saved_pairs(copy)["method"].to_pylist()) == {"block7 flow"}
    manifest = json.loads((copy / "manifest.json").read_text())
    _, _, *read = manifest["stages"]["transfer"]["needs"]["build-db"]
    assert [name.rpartition("-")[0] for name in read] == ["grids-block7"]


def test_a_layer_that_is_not_in_the_store_is_asked_of_build_db(
    copy: Path, toy_settings: Settings
) -> None:
    settings = toy_settings(INLINE, "flow.side=500", "flow.features=sift20")
    before = contents(copy)
    with pytest.raises(DistcorrError, match="This run has no grids500/sift20") as caught:
        run_all(copy, settings, ["transfer"])
    assert "distcorr run, which adds what flow.features and flow.side ask for" in caught.value.hint
    config = toy_config(settings)
    with Session(config.compute) as session:
        forecast = forecast_stage("transfer", Context(config, Run(str(copy)), session, Recorder()))
    assert (forecast.shards, forecast.note) == (None, "waits for build-db to make grids500/sift20")
    assert contents(copy) == before


def test_a_network_of_one_size_only_cannot_see_large_boxes(
    copy: Path, toy_settings: Settings
) -> None:
    with pytest.raises(DistcorrError, match=r"sees 224 px only, and .*flow\.side wants 500 px"):
        run_all(copy, toy_settings(INLINE, "flow.side=500"))


def test_large_boxes_from_build_db_to_the_figure(tmp_path: Path, toy_settings: Settings) -> None:
    network = f'features.weights="{write_alexnet(tmp_path / "alexnet.npz")}"'
    settings = toy_settings(
        INLINE,
        "features.network=alexnet",
        network,
        "features.points=conv1",
        "features.cells=[]",
        "features.grids=[]",
        "features.grids500=[]",
        "dataset.toy_train=2",
        "dataset.toy_val=1",
        'dataset.categories=["fish"]',
    )
    run_all(tmp_path / "run", [*settings, "flow.side=500"])
    pairs = saved_pairs(tmp_path / "run")
    assert pairs["method"].to_pylist() == ["conv4 flow"] * 2 + ["SIFT flow"] * 2
    assert facts(tmp_path / "run")["shape"] == [30, 30, 2]
    assert facts(tmp_path / "run")["geometry"]["input_size"] == 500
    store = opened(tmp_path / "run")
    assert {"grids/conv4", "grids500/conv4", "grids500/sift20"} <= store.tables.keys()
    assert "grids/sift20" not in store.tables
    for row in pairs.to_pylist():
        layer = {"conv4 flow": "conv4", "SIFT flow": "sift20"}[row["method"]]
        _, grids, _ = store.read(f"grids500/{layer}", [row["target"], row["neighbor"]])
        displacement = np.array(row["displacement"]).reshape(30, 30, 2)
        data, deformation = energy(*map(unit_norm, grids), displacement, 3e-3)
        assert data == pytest.approx(row["data_energy"])
        assert deformation == row["deformation_energy"]
    run = Run(str(tmp_path / "run"))
    report = tables.build(run)
    assert "Flow by conv4 and sift20 in boxes of 500 px" in report.notes[0]
    assert figure3(run)
    run_all(tmp_path / "run", settings)  # and back to the network's size
    assert facts(tmp_path / "run")["shape"] == [13, 13, 2]


# -- what cannot be aligned ----------------------------------------------------------------------

PARTLY = """
import numpy as np
from distcorr.types import Geometry

class Partly:
    geometry = Geometry(input_size=64, stride=8, offset=3.5, rf=8, cells=8)
    channels = 3

    def __call__(self, images):
        maps = images.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4)).astype(np.float32)
        total = images.astype(int).sum(axis=(1, 2, 3))
        maps[{poisoned}] = np.nan
        return maps
"""


@pytest.fixture
def partly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes an extractor that gives NaN where a condition on a picture's ``total`` holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(poisoned: str) -> str:
        (tmp_path / "my_partly.py").write_text(PARTLY.format(poisoned=poisoned))
        return "my_partly:Partly"

    yield write
    sys.modules.pop("my_partly", None)


def total(folder: Path, instance: Instance) -> int:
    """What ``Partly`` sees of an instance."""
    picture = np.asarray(Image.open(folder / "toy" / instance.image).convert("RGB"))
    return int(crop_square(picture, instance.box, 64).astype(int).sum())


def test_features_that_are_not_finite_cost_their_pairs_only(
    copy: Path, toy_settings: Settings, partly: Callable[[str], str]
) -> None:
    store = opened(copy)
    of_butterflies, of_fish = store.members("butterfly", "val"), store.members("fish", "train")
    broken = {of_butterflies[1].id, of_fish[1].id}
    by_id = {i.id: i for i in store.instances}
    layer = partly(f"np.isin(total, {[total(copy, by_id[i]) for i in sorted(broken)]})")
    settings = toy_settings(INLINE, f'flow.features=["auto", "{layer}"]')
    before = tables.build(Run(str(copy))).rows
    summaries = run_all(copy, settings)
    assert summaries["build-db"].dead == 2
    assert not opened(copy).dead  # they take part by the other layers
    pairs = saved_pairs(copy).to_pylist()
    whole = {(p["target"], p["neighbor"]) for p in pairs if p["method"] == "block10 flow"}
    left = {(p["target"], p["neighbor"]) for p in pairs if p["method"] == "Partly flow"}
    assert len(whole) == 45
    assert left == {pair for pair in whole if not set(pair) & broken}
    dead = Run(str(copy)).current("transfer").dead_letters()
    assert {d.id for d in dead} == {f"{t} <- {n}" for t, n in whole - left}
    for letter in dead:
        target, neighbor = letter.id.split(" <- ")
        culprit = target if target in broken else neighbor
        assert letter.file == by_id[culprit].image
        assert letter.error.startswith(f"{culprit}: Partly of Partly is not finite")
    assert summaries["transfer"].dead == len(dead) == 45 - len(left)
    report = tables.build(Run(str(copy)))
    same = ("block10 flow", "NN transfer")
    assert [r for r in report.rows if r.get("method") in same] == [
        r for r in before if r.get("method") in same
    ]
    unpredicted = {
        row["instance"]
        for row in report.predictions.to_pylist()
        if row["method"] == "Partly flow" and row["x"] is None
    }
    assert of_butterflies[1].id in unpredicted
    assert any(f"{len(whole - left)} pairs could not be aligned" in note for note in report.notes)
    assert figure3(Run(str(copy)), rows=1)  # of the target that has no pairs


def test_a_layer_that_nothing_has_is_refused(
    copy: Path, toy_settings: Settings, partly: Callable[[str], str]
) -> None:
    small = ["dataset.toy_train=2", "dataset.toy_val=1", 'dataset.categories=["fish"]']
    settings = toy_settings(INLINE, *small, f"flow.features={partly('total > 0')}")
    with pytest.raises(DistcorrError, match=r"No instance of fish .* has grids/Partly") as caught:
        run_all(copy.parent / "run", settings)
    assert caught.value.exit_code == 3


def test_too_many_pairs_that_cannot_be_aligned_end_the_stage(
    copy: Path, toy_settings: Settings, partly: Callable[[str], str]
) -> None:
    store = opened(copy)
    firsts = [store.members(c, s)[0] for c in store.keypoint_names for s in ("train", "val")]
    layer = partly(f"np.isin(total, {[total(copy, first) for first in firsts]})")
    settings = toy_settings(INLINE, f"flow.features={layer}")
    with pytest.raises(DistcorrError, match="too many for the numbers to mean anything") as caught:
        run_all(copy, settings)
    assert caught.value.exit_code == 4
    assert "21 of 45 items of transfer" in caught.value.message


def test_features_are_held_a_few_at_a_time_and_give_the_same_bytes(
    finished: Path, copy: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy)
    shutil.rmtree(stage_folder(copy, "transfer"))
    read: list[int] = []
    whole = FeatureStore.read

    def counting(store: FeatureStore, name: str, ids: list[str]) -> object:
        read.append(len(ids))
        return whole(store, name, ids)

    monkeypatch.setattr(FeatureStore, "read", counting)
    monkeypatch.setattr(transfer, "HELD", 1)  # every shard by itself
    run_all(copy, toy_settings(INLINE), ["transfer"])
    assert contents(copy) == before
    shards = len(list((stage_folder(copy, "transfer") / "shards").iterdir()))
    assert len([n for n in read if n > 1]) == shards


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_groups_are_consecutive_and_small(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    neighbors = {
        f"t{t}": [(f"n{n}", 1.0) for n in rng.choice(30, rng.integers(0, 8), replace=False)]
        for t in range(20)
    }
    shards = [Shard(i, "", (f"t{2 * i}", f"t{2 * i + 1}")) for i in range(10)]
    groups = list(_groups(shards, neighbors, most))
    assert [shard for group in groups for shard in group] == shards
    for group in groups:
        needed = set.union(*(_members(shard, neighbors) for shard in group))
        assert len(needed) <= most or len(group) == 1
    for one, two in itertools.pairwise(groups):  # none could have been larger
        assert len(set.union(*(_members(s, neighbors) for s in [*one, two[0]]))) > most


@pytest.mark.parametrize("direction", ["inverse", "forward"])
def test_the_torch_solver_gives_the_same_pairs(
    copy: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """On the device "cpu:0", which takes the way of a GPU."""
    asked = toy_settings(INLINE, *ONE, f"flow.direction={direction}")
    run_all(copy, asked, ["transfer"])
    expected = saved_pairs(copy)
    shutil.rmtree(stage_folder(copy, "transfer"))

    def elsewhere(*arguments: object) -> object:
        return transfer_shard(*arguments[:-1], "cpu:0")

    monkeypatch.setattr(transfer, "transfer_shard", elsewhere)
    run_all(copy, asked, ["transfer"])
    found = saved_pairs(copy)
    for name in expected.column_names:
        if name in ("data_energy", "deformation_energy"):
            np.testing.assert_allclose(found[name].to_numpy(), expected[name].to_numpy(), rtol=1e-6)
        else:
            np.testing.assert_equal(found[name].to_pylist(), expected[name].to_pylist())


def test_targets_that_share_neighbours_stand_together(finished: Path) -> None:
    """So that what several targets need is read together."""
    nearest: dict[tuple[str, str], list[str]] = {}
    for row in saved_pairs(finished).to_pylist():
        if row["rank"] == 0:
            nearest.setdefault((row["method"], row["category"]), []).append(row["neighbor"])
    assert nearest
    for ids in nearest.values():
        assert ids == sorted(ids)


def test_other_neighbours_than_those_found_are_refused(copy: Path, toy_settings: Settings) -> None:
    """Targets without pairs would count as wrong."""
    before = contents(copy)
    for setting in ("neighbors.split=train", "neighbors.k=2"):
        with pytest.raises(
            DistcorrError, match=r"transfer works on the neighbours .* not"
        ) as caught:
            run_all(copy, toy_settings(INLINE, setting), ["transfer"])
        assert "distcorr neighbors" in caught.value.hint
    assert contents(copy) == before
    with Session(toy_config(toy_settings(INLINE)).compute) as session:
        config = toy_config(toy_settings(INLINE, "neighbors.k=2"))
        forecast = forecast_stage("transfer", Context(config, Run(str(copy)), session))
    assert forecast.note == "waits for neighbors with these settings"


def test_training_instances_as_targets_are_said_to_be_so(
    copy: Path, toy_settings: Settings
) -> None:
    asked = toy_settings(INLINE, *ONE, "neighbors.split=train")
    run_all(copy, asked, ["neighbors", "transfer"])
    notes = tables.build(Run(str(copy))).notes
    assert any("TRAINING instances" in note for note in notes)
    assert any("decoupled solver" in note for note in notes)


def test_instances_of_another_version_are_asked_for_anew(copy: Path) -> None:
    path = stage_folder(copy, "build-db") / "instances.parquet"
    table = pq.read_table(path)
    said = json.loads(table.schema.metadata[META])
    del said["root"]
    pq.write_table(table.replace_schema_metadata({META: json.dumps(said).encode()}), path)
    with pytest.raises(DistcorrError, match="not of this version of distcorr: it lacks root"):
        opened(copy)

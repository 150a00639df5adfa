"""What ``detect`` saves: against mining in one piece, on drawn grids and bad ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcorr import config as configuration
from distcorr.algorithms import detection, mining, windows
from distcorr.algorithms.crop import from_square, to_square
from distcorr.data import datasets
from distcorr.data.classified import VALIDATION
from distcorr.data.detectors import Detected, Map
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Run, Shard
from distcorr.data.store import Feature, TableStore, feature_table
from distcorr.errors import PARTIAL, DistcorrError
from distcorr.stages import mine, objects
from distcorr.stages.cluster import Session, limit_threads
from distcorr.stages.extract import mark_done
from distcorr.stages.objects import Objects, Work, detected
from distcorr.stages.pipeline import Context, Summary, forecast_stage, run_stage
from distcorr.types import Box, Dataset, Geometry, Instance
from tests.stages.common import Recorder, assert_same, contents, run_all, write_alexnet

GEOMETRY = Geometry(500, 48, 10.0, 48, 11)
TYPES = {"bird": ("Eye", "Nose", "Tail"), "car": ("Wheel", "Lamp")}
ETAS = (0.0, 0.1, 1.0)
PLACES = np.array([[120, 380], [380, 120], [250, 250]])  # px of the square


@dataclass
class Drawn:
    """What is drawn: every keypoint leaves a pattern about its place in the grids."""

    layers: tuple[str, ...] = ("conv5",)
    train: int = 12
    val: int = 6
    shows: Callable[[str, int, str], bool] = lambda category, number, name: True
    spoil: Callable[[str, str, np.ndarray], None] = lambda layer, instance, grid: None
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()  # instances without grids
    geometry: Geometry = GEOMETRY

    def instances(self) -> list[Instance]:
        found = []
        for category, names in TYPES.items():
            for number in range(self.train + self.val):
                rng = np.random.default_rng([len(category), number])
                split = "train" if number < self.train else "val"
                if split not in self.splits.get(category, ("train", "val")):
                    continue
                x, y, width, height = rng.uniform(20, 200, 4)
                box = Box(x, y, x + width, y + height)
                square = rng.normal(np.roll(PLACES, number % 3, axis=0), 15)
                points = from_square(square[: len(names)], box, 500).astype(np.float32)
                shown = np.array([self.shows(category, number, name) for name in names])
                shown &= rng.random(len(names)) < 0.9
                points[~shown] = np.nan
                image = f"{category}{number // 2}.jpg" if split == "train" else f"v{number}.jpg"
                key = f"{category}{number:02d}"
                found.append(Instance(key, image, category, split, box, points, shown))
        return found

    def grids(self, layer: str) -> np.ndarray:
        """(n, 11, 11, 8) float16."""
        patterns = np.random.default_rng(1).normal(size=(3, 8))
        centres = windows.positions(self.geometry)
        out = []
        for instance in self.instances():
            rng = np.random.default_rng([*layer.encode(), *instance.id.encode()])
            grid = rng.normal(size=(self.geometry.cells, self.geometry.cells, 8))
            points = to_square(instance.keypoints, instance.box, 500)
            for point, pattern in zip(points, patterns, strict=False):
                away = np.square(centres - point).sum(axis=-1)
                grid += np.nan_to_num(np.exp(-away / (2 * 40**2)))[..., None] * 3 * pattern
            grid = grid.astype(np.float16)
            self.spoil(layer, instance.id, grid)
            out.append(grid)
        return np.array(out)

    def vectors(self) -> np.ndarray:
        """(n, 3) float16: which way round an instance is, which a neighbour shares."""
        numbers = [int(i.id[-2:]) for i in self.instances()]
        noise = [np.random.default_rng(list(i.id.encode())).random(3) for i in self.instances()]
        return (np.eye(3)[np.mod(numbers, 3)] + 0.3 * np.array(noise)).astype(np.float16)


def build(folder: Path, drawn: Drawn) -> None:
    """A run folder as ``build-db`` leaves it, seven instances to a part."""
    run, instances = Run(str(folder)), drawn.instances()
    run.save_config(configuration.load("smoke", ["compute.address=inline"]))
    stage = run.stage("build-db", "drawn", "store")
    features = [Feature("vectors", "v", {}), *(Feature("grids500", x, {}) for x in drawn.layers)]
    tables = {"grids/g": "grids-g"} | {f.name: f.folder for f in features}
    stems = [f"{row // 7:020d}" for row in range(len(instances))]
    FeatureStore.write_instances(
        stage,
        datasets.to_table(Dataset("drawn", "", tuple(instances), TYPES)),
        {i.id: stem for i, stem in zip(instances, stems, strict=True)},
        {i.image: "" for i in instances},
        {
            "keypoint_names": {c: list(names) for c, names in TYPES.items()},
            **{"conv": "g", "vector": "v", "tables": tables},
            **{"names": {}, "root": "", "stamp": {}},
        },
    )
    values = [drawn.vectors(), *(drawn.grids(layer) for layer in drawn.layers)]
    plan = [Shard(n, "x", (), "instances", stem) for n, stem in enumerate(dict.fromkeys(stems))]
    for shard in plan:
        entries = {}
        for feature, every in zip(features, values, strict=True):
            rows = [
                row
                for row, stem in enumerate(stems)
                if stem == shard.stem
                and (feature.kind == "vectors" or instances[row].id not in drawn.lost)
            ]
            dead = [
                DeadLetter(i.id, i.image, "torn")
                for i, stem in zip(instances, stems, strict=True)
                if stem == shard.stem and i.id in drawn.lost and feature.kind == "grids500"
            ]
            keys = {"id": [instances[row].id for row in rows]}
            geometry = drawn.geometry if feature.kind == "grids500" else None
            table = feature_table(feature, keys, every[rows], geometry)
            entries[feature.folder] = TableStore(stage.files).add(
                feature, shard.stem, table, dead, {}
            )
        mark_done(stage, shard, entries)
    run.record("build-db", {"key": "drawn", "store": "store"} | stage.finish(plan))


def settings(*more: str, address: str = "inline") -> list[str]:
    return [
        "detect.layers=conv5",
        "detect.rounds=2",
        "detect.hardest=15",
        "detect.first=4",
        "detect.c=0.01",
        "detect.folds=2",
        f"detect.etas={list(ETAS)}",
        f"compute.address={address}",
        *more,
    ]


def go(folder: Path, *more: str, address: str = "inline") -> tuple[Summary, list[str]]:
    """Run ``detect``; the summary and the warnings."""
    config, recorder = configuration.load("smoke", settings(*more, address=address)), Recorder()
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, recorder)
        return run_stage("detect", context), recorder.warnings


def opened(folder: Path) -> Detected:
    stage = Run(str(folder)).finished("detect")
    assert stage is not None
    return Detected(stage)


def rates(folder: Path, eta: float, **options: Any) -> float:
    """PCK@0.1 of validation keypoints, all types together."""
    rows = [
        row
        for category in TYPES
        for row in opened(folder).validation("conv5", category, eta, **options).to_pylist()
    ]
    gaps = [np.hypot(r["x"] - r["true_x"], r["y"] - r["true_y"]) / r["scale"] for r in rows]
    return float(np.mean(np.array(gaps) <= 0.1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "built"
    build(folder, Drawn())
    return folder


@pytest.fixture(scope="module")
def mined(built: Path) -> Path:
    """A finished inline run; copy it before changing it."""
    shutil.copytree(built, built.parent / "mined")
    go(built.parent / "mined")
    return built.parent / "mined"


@pytest.fixture
def fresh(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "fresh")
    return tmp_path / "fresh"


# -- what is right -----------------------------------------------------------------------------


def in_one_piece(category: str, fold: int, folds: np.ndarray) -> tuple[Any, np.ndarray, Any]:
    """The loop of ``mining``'s description on arrays: detectors, predictions, what is predicted."""
    limit_threads()
    drawn = Drawn()
    every = drawn.instances()
    grids, vectors = drawn.grids("conv5"), drawn.vectors()
    train = [n for n, i in enumerate(every) if i.category == category and i.split == "train"]
    rows = [n for n, f in zip(train, folds, strict=True) if f != fold]
    numbers = np.flatnonzero(folds != fold)
    if fold == VALIDATION:
        held = [n for n, i in enumerate(every) if i.category == category and i.split == "val"]
    else:
        held = [n for n, f in zip(train, folds, strict=True) if f == fold]
    points = {n: to_square(i.keypoints, i.box, 500) for n, i in enumerate(every)}
    learnt = np.array([points[n] for n in rows])
    at = windows.positions(GEOMETRY, 3)
    labels = windows.labels(learnt, at, windows.field_rule(GEOMETRY, 3))
    first = mining.first_samples(grids[rows], labels, numbers, block=3, count=4, seed=2014)
    cache = mining.Cache.of(first, seed=2014)
    made = {"block": 3, "scale": mining.feature_scale(first), "c": 0.01}
    detectors = mining.refit(cache, **made)
    for _ in range(2):
        found, _ = mining.hardest(grids[rows], labels, numbers, detectors, cache.ids, 15)
        cache = cache.evict(detectors).add(found)
        detectors = mining.refit(cache, **made, start=detectors)
    scores = windows.score(grids[held], detectors)
    means = detection.neighbour_keypoints(
        vectors[rows].astype(np.float32), learnt, vectors[held].astype(np.float32)
    )
    prior = detection.log_prior(means, at)
    predicted = detection.locate(detection.combine(scores, prior, 0.1), at)
    there = [from_square(p, every[n].box, 500) for p, n in zip(predicted, held, strict=True)]
    return detectors, np.array(there), [every[n] for n in held]


@pytest.mark.parametrize(("category", "fold"), [("bird", VALIDATION), ("bird", 1), ("car", 0)])
def test_it_is_mining_in_one_piece(mined: Path, category: str, fold: int) -> None:
    made = opened(mined)
    read = made.validation if fold == VALIDATION else made.held_out
    of = {r["instance"]: r["fold"] for r in made.held_out("conv5", category, 0).to_pylist()}
    folds = np.array([of[i.id] for i in Drawn().instances() if i.id in of])
    photographs = [i.image for i in Drawn().instances() if i.id in of]
    assert len(set(zip(photographs, folds, strict=True))) == len(set(photographs))  # together
    detectors, points, held = in_one_piece(category, fold, folds)
    names, state = made.model("conv5", category, fold)
    assert names == TYPES[category]
    for name in ("coef", "intercept", "gap"):
        theirs = getattr(detectors.linear, name)
        assert getattr(state.detectors.linear, name).tobytes() == theirs.tobytes()
    assert state.detectors.scale == detectors.scale
    rows = [r for r in read("conv5", category, 0.1).to_pylist() if r["fold"] == fold]
    wanted = [
        (i.id, i.image, names[k], *p[k], *i.keypoints[k].astype(float), i.box.max_side)
        for i, p in zip(held, points, strict=True)
        for k in np.flatnonzero(i.visible)
    ]
    columns = ("instance", "image", "keypoint", "x", "y", "true_x", "true_y", "scale")
    assert [tuple(r[c] for c in columns[:3]) for r in rows] == [w[:3] for w in wanted]
    found = [[r[c] for c in columns[3:]] for r in rows]
    np.testing.assert_allclose(found, [w[3:] for w in wanted], rtol=1e-12)
    assert len(state.found) == 2
    assert state.sizes[-1] == len(state.first) + len(state.mined)


def test_the_bytes_are_the_same_over_chunks_and_on_ray(
    mined: Path, fresh: Path, tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(fresh, tmp_path / "ray")
    with monkeypatch.context() as patch:
        patch.setattr(objects, "CHUNK", 5)
        go(fresh)
    assert_same(mined, fresh)
    monkeypatch.setattr(objects, "CHUNK", 4)
    go(tmp_path / "ray", address="local")
    assert_same(mined, tmp_path / "ray")


def test_a_killed_run_goes_on_at_its_last_round(
    mined: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, seen = mine.fit, []

    def killed(*arguments: Any) -> Any:
        state, shard = arguments[4], arguments[3]
        seen.append((shard.index, state.round + 1 if state else 0))
        if seen[-1] == (2, 2):
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(mine, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        go(fresh)
    monkeypatch.setattr(mine, "fit", lambda *a: seen.append("again") or fit(*a))
    again = len(seen)
    summary, _ = go(fresh)
    assert summary.computed == summary.shards == 6
    assert len(seen) - again == 4  # shards 2 to 5, the last round alone
    assert_same(mined, fresh)


def test_mined_detectors_find_what_was_drawn_and_the_control_does_not(
    mined: Path, fresh: Path
) -> None:
    alone, both, prior = (rates(mined, eta) for eta in ETAS)
    assert alone > 0.7
    assert both > max(alone, 0.9)
    assert prior > 0.7
    go(fresh, "detect.control=shuffled-labels")
    assert max(rates(fresh, eta) for eta in ETAS) < 0.55


def test_refined_predictions_are_near_the_others(mined: Path) -> None:
    made = opened(mined)
    plain, refined = (made.validation("conv5", "bird", 0.1, r).to_pylist() for r in (False, True))
    boxes = {i.id: i.box for i in Drawn().instances()}
    moved = [
        (b[c] - a[c])
        * 500
        / (boxes[a["instance"]].width if c == "x" else boxes[a["instance"]].height)
        for a, b in zip(plain, refined, strict=True)
        for c in "xy"
    ]
    assert 0 < np.abs(moved).max() <= GEOMETRY.stride / 2 + 1e-9


def test_what_mining_is_worth_can_be_told(mined: Path, fresh: Path) -> None:
    go(fresh, "detect.rounds=0")
    without = opened(fresh)
    for category in TYPES:
        for eta in ETAS:
            before = opened(mined).validation("conv5", category, eta, mined=False)
            assert before.equals(without.validation("conv5", category, eta))
        assert opened(mined).mined("conv5", category)
        assert not without.mined("conv5", category)
    with pytest.raises(DistcorrError, match="Nothing was mined for conv5 in bird"):
        without.validation("conv5", "bird", 0.0, mined=False)


def test_more_rounds_go_on_where_fewer_ended_and_another_prior_mines_nothing(
    mined: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    fit = mine.fit

    def seen(*arguments: Any) -> Any:
        trained.append(arguments[4].round + 1 if arguments[4] else 0)
        return fit(*arguments)

    monkeypatch.setattr(mine, "fit", seen)
    go(fresh, "detect.rounds=1")
    assert sorted(trained) == [0] * 6 + [1] * 6
    trained.clear()
    go(fresh)  # two rounds
    assert trained == [2] * 6
    made = Run(str(fresh)).finished("detect")
    assert made is not None
    as_mined = Run(str(mined)).finished("detect")
    assert as_mined is not None
    assert contents(Path(made.folder.uri)) == contents(Path(as_mined.folder.uri))
    trained.clear()
    go(fresh, "detect.sigma=30", "detect.etas=[0.0, 0.2]", "detect.refine=false", "detect.maps=0")
    assert trained == []
    assert opened(fresh).etas == (0.0, 0.2)
    go(fresh, "detect.c=0.02")
    assert len(trained) == 18


def test_instances_without_the_keypoint_may_be_negatives(tmp_path: Path) -> None:
    drawn = Drawn(shows=lambda category, number, name: name != "Nose" or number % 2 == 0)
    build(tmp_path / "run", drawn)
    places = []
    for absent in ("ignore", "negative"):
        go(tmp_path / "run", f"detect.absent={absent}", "detect.etas=0.1", "detect.rounds=1")
        _, state = opened(tmp_path / "run").model("conv5", "bird")
        places.append(state.found[0][1])
    assert places[1] > places[0]


def test_the_photograph_itself_is_not_asked_for_a_prior(tmp_path: Path) -> None:
    """A photograph in both splits, whose own training twin would give the keypoint away."""
    plain = Drawn()

    class Twin(Drawn):
        def vectors(self) -> np.ndarray:
            ids, vectors = [i.id for i in plain.instances()], plain.vectors()
            vectors[ids.index("bird12")] = vectors[ids.index("bird00")]
            return vectors

    class Twice(Twin):
        def instances(self) -> list[Instance]:
            return [
                replace(i, image="bird0.jpg") if i.id == "bird12" else i for i in plain.instances()
            ]

    every = {i.id: i for i in plain.instances()}
    own = to_square(every["bird00"].keypoints, every["bird00"].box, 500)
    for name, drawn in (("own", Twice()), ("other", Twin())):
        build(tmp_path / name, drawn)
        go(tmp_path / name, "detect.etas=0.1", "detect.rounds=0", "detect.maps=6")
        means = {m.keypoint: m.mean for m in made_maps(tmp_path / name) if m.instance == "bird12"}
        given_away = [
            np.allclose(means[k], p, atol=1e-3) for k, p in zip(TYPES["bird"], own, strict=True)
        ]
        shown = every["bird00"].visible
        assert np.array_equal(given_away, shown & (name == "other"))


def made_maps(folder: Path) -> list[Map]:
    return opened(folder).maps("conv5", "bird")


def test_one_eta_needs_no_folds(fresh: Path) -> None:
    summary, warnings = go(fresh, "detect.etas=0.1")
    assert summary.shards == len(TYPES)
    assert warnings == []
    made = opened(fresh)
    assert made.choose("layer") == {("conv5", category): 0.1 for category in TYPES}
    with pytest.raises(DistcorrError, match="by cross-validation"):
        made.held_out("conv5", "bird", 0.1)


def test_mining_ends_when_nothing_is_left_to_find(fresh: Path) -> None:
    go(fresh, "detect.rounds=30", "detect.hardest=300", "detect.etas=0.1")
    made = opened(fresh)
    for category in TYPES:
        _, state = made.model("conv5", category)
        assert state.ended
        assert not state.full
        assert len(state.found) == state.round < 30
        assert set(state.found[-1]) == {0}
        assert max(state.found[0]) > 0
        assert state.sizes[0] < state.sizes[-1] == len(state.first) + len(state.mined)


def test_a_cache_has_a_bound(fresh: Path) -> None:
    go(fresh, "detect.cache=10", "detect.etas=0.1")
    for category in TYPES:
        _, state = opened(fresh).model("conv5", category)
        assert state.full
        assert len(state.mined) == 10


def test_some_instances_stand_for_all(fresh: Path) -> None:
    go(fresh, "detect.instances=4")
    ids = set(opened(fresh).held_out("conv5", "bird", 0)["instance"].to_pylist())
    assert ids == {"bird01", "bird04", "bird07", "bird10"}


def test_nothing_is_done_twice_and_other_settings_are_kept_apart(mined: Path, fresh: Path) -> None:
    before = contents(mined)
    summary, _ = go(mined)
    assert (summary.computed, contents(mined)) == (0, before)
    go(fresh, "detect.sigma=30")
    assert len(list((fresh / "detect").glob("*/_done.json"))) == 1
    go(fresh)
    assert len(list((fresh / "detect").glob("*/_done.json"))) == 2
    manifest = json.loads((fresh / "manifest.json").read_text())["stages"]["detect"]
    assert manifest["detect"]["etas"] == list(ETAS)
    assert (manifest["layers"], manifest["prior"]) == (["conv5"], "vectors/v")


# -- what is bad -------------------------------------------------------------------------------


def test_a_failure_costs_its_category(
    mined: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = mine.find

    def failing(store: FeatureStore, work: Work, *rest: Any) -> Any:
        if work.category == "bird":
            raise OSError("the disk is gone")
        return find(store, work, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(mine, "find", failing)
        with pytest.raises(DistcorrError, match="3 of 6 shards of detect failed") as caught:
            go(fresh)
    assert caught.value.exit_code == PARTIAL
    assert "the disk is gone" in caught.value.message
    summary, _ = go(fresh)
    assert summary.computed == 3
    assert_same(mined, fresh)


def test_a_damaged_round_costs_its_shard(fresh: Path) -> None:
    go(fresh)
    stage = Run(str(fresh)).current("detect")
    assert stage is not None
    inputs = stage.markers()[1]["inputs"]
    for number in (0, 1):
        stage.folder.delete(f"shards/{number:05d}.json")
    newest = f"{inputs}-2.parquet"
    rounds = next((fresh / "detect").glob("rounds-*"))
    (rounds / newest).write_bytes(b"torn")
    with pytest.raises(DistcorrError, match=r"1 of 6 shards.*Cannot read the table"):
        go(fresh)
    (rounds / newest).unlink()
    assert go(fresh)[0].computed == 1


def test_keypoints_and_categories_that_cannot_be_learnt_are_named(tmp_path: Path) -> None:
    drawn = Drawn(
        shows=lambda category, number, name: name != "Nose" or number >= 12,
        splits={"car": ("train",)},
    )
    build(tmp_path / "run", drawn)
    _, warnings = go(tmp_path / "run")
    assert "car is not detected by conv5: no validation instance shows a keypoint." in warnings
    assert "bird: no positive to learn from by conv5, not detected: Nose." in warnings
    made = opened(tmp_path / "run")
    assert made.categories == ["bird"]
    assert set(warnings) == set(made.notes)
    for eta in (0.0, 0.1, 1.0):
        for row in made.validation("conv5", "bird", eta).to_pylist():
            assert (row["x"] is None) == (row["keypoint"] == "Nose")


def test_where_everything_is_near_there_is_no_negative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = windows.Rule(beyond=2000, nearest=10)
    monkeypatch.setattr(Work, "rule", property(lambda self: rule))
    build(tmp_path / "run", Drawn())
    summary, warnings = go(tmp_path / "run")
    assert summary.shards == 6
    assert "car: no negative to learn from by conv5, not detected: Wheel, Lamp." in warnings
    rows = opened(tmp_path / "run").validation("conv5", "car", 0).to_pylist()
    assert rows
    assert all(row["x"] is None for row in rows)
    prior = opened(tmp_path / "run").validation("conv5", "car", 1).to_pylist()
    assert all(row["x"] is not None for row in prior)


def test_a_field_that_covers_everything_has_negatives_all_the_same(tmp_path: Path) -> None:
    build(tmp_path / "run", Drawn(geometry=GEOMETRY._replace(rf=2000)))
    assert go(tmp_path / "run")[1] == []
    build(tmp_path / "other", Drawn(geometry=GEOMETRY._replace(rf=99)))  # 195 for 3 x 3 cells
    go(tmp_path / "other")
    states = [opened(tmp_path / name).model("conv5", "car")[1] for name in ("run", "other")]
    assert np.array_equal(states[0].mined, states[1].mined)


def test_grids_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    def spoil(layer: str, instance: str, grid: np.ndarray) -> None:
        if instance in ("bird03", "bird13"):
            grid[4, 4, 0] = np.nan

    build(tmp_path / "run", Drawn(spoil=spoil, lost=("car13", "car02")))
    summary, _ = go(tmp_path / "run")
    assert summary.dead == 2
    stage = Run(str(tmp_path / "run")).finished("detect")
    assert stage is not None
    letters = {d.id: d.error for d in stage.dead_letters()}
    assert letters == dict.fromkeys(("bird03 (conv5)", "bird13 (conv5)"), "conv5 is not finite")
    made = opened(tmp_path / "run")
    _, state = made.model("conv5", "bird")
    assert state.broken == (3,)
    assert 3 not in np.concatenate([state.first, state.mined]) // 81
    for category, lost in (("bird", "bird13"), ("car", "car13")):
        rows = made.validation("conv5", category, 0).to_pylist()
        assert {r["instance"] for r in rows if r["x"] is None} == {lost}
    assert "car02" not in made.held_out("conv5", "car", 0)["instance"].to_pylist()


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "is not finite in any training"), (0, "is zero in every training")],
)
def test_nothing_to_learn_from_costs_the_category(tmp_path: Path, value: float, words: str) -> None:
    def spoil(layer: str, instance: str, grid: np.ndarray) -> None:
        if instance.startswith("bird"):
            grid[:] = value

    build(tmp_path / "run", Drawn(spoil=spoil))
    with pytest.raises(DistcorrError, match=f"3 of 6 shards.*conv5 {words}"):
        go(tmp_path / "run")


def test_a_layer_that_is_missing(fresh: Path) -> None:
    with pytest.raises(DistcorrError, match="no grids500/conv3"):
        go(fresh, "detect.layers=conv3")


def test_a_grid_smaller_than_a_block_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "run", Drawn(geometry=Geometry(500, 240, 10.0, 48, 2)))
    with pytest.raises(DistcorrError, match="conv5 has 2 x 2 cells"):
        go(tmp_path / "run")


def test_the_layers_of_a_run(tmp_path: Path, toy_settings: Callable[..., list[str]]) -> None:
    """From photographs: conv5 and dense SIFT of large boxes, while others are aligned."""
    wanted = toy_settings(
        "compute.address=inline",
        "features.network=alexnet",
        f'features.weights="{write_alexnet(tmp_path / "alexnet.npz")}"',
        'features.grids500=["auto", "dsift8"]',
        "features.grids=[]",
        "features.points=[]",
        "features.cells=[]",
        "flow.side=500",
        'dataset.categories=["fish"]',
        "dataset.toy_train=2",
        "dataset.toy_val=1",
        'detect.layers=["auto", "dsift8"]',
        "detect.etas=0.1",
        "detect.rounds=1",
    )
    run = Run(str(tmp_path / "run"))
    run_all(tmp_path / "run", wanted, ("build-db",))
    config = configuration.load("smoke", wanted)
    with Session(config.compute) as session:
        context = Context(config, run, session)
        assert forecast_stage("detect", context).shards == 2
        run_stage("detect", context)
        assert forecast_stage("detect", context).todo == 0
    stage = run.finished("build-db")
    assert stage is not None
    store = FeatureStore(stage)
    assert {"grids500/conv4", "grids500/sift20"} <= store.tables.keys()  # of the alignment
    assert list(detected(store, config)) == ["conv5", "dsift8"]
    made = opened(tmp_path / "run")
    assert [(m.instance, m.keypoint) for m in made.maps("conv5", "fish")] == [
        (store.members("fish", "val")[0].id, name) for name in store.keypoint_names["fish"]
    ]
    assert made.model("conv5", "fish")[1].detectors.linear.coef.shape[1] == 9 * 256
    assert made.model("dsift8", "fish")[1].detectors.linear.coef.shape[1] == 128


@pytest.fixture
def toy(copy: Path, toy_settings: Callable[..., list[str]]) -> Callable[..., Detected]:
    """Detects in a toy run of a network that sees 224 px only."""

    def detect(*more: str) -> Detected:
        wanted = ("compute.address=inline", "detect.etas=0.1", "detect.rounds=1", *more)
        config = configuration.load("smoke", toy_settings(*wanted))
        with Session(config.compute) as session:
            run_stage("detect", Context(config, Run(str(copy)), session, Recorder()))
        return opened(copy)

    return detect


def test_a_network_of_one_input_size_is_taken_at_that(toy: Callable[..., Detected]) -> None:
    made = toy("detect.layers=auto", "detect.maps=3")
    assert made.layers == ["block10"]
    assert any("block10 looks at boxes of its network's own size" in n for n in made.notes)
    every = made.maps("block10", "fish")
    assert len({m.instance for m in every}) == 3
    assert {m.side for m in every} == {224}
    assert every[0].sigma == pytest.approx(22 * 224 / 500)
    assert every[0].centres[0, 0].tolist() == [every[0].centres.min()] * 2


def test_dense_sift_is_the_same_from_photographs_and_from_the_store(
    copy: Path, tmp_path: Path, toy: Callable[..., Detected], toy_settings: Callable[..., list[str]]
) -> None:
    streamed = toy("detect.layers=dsift8")
    kept = tmp_path / "kept"
    wanted = toy_settings(
        "compute.address=inline",
        "features.network=alexnet",
        f'features.weights="{write_alexnet(tmp_path / "alexnet.npz")}"',
        "features.grids500=dsift8",
        "features.points=[]",
        "features.cells=[]",
        "detect.etas=0.1",
        "detect.rounds=1",
        "detect.layers=dsift8",
    )
    run_all(kept, wanted, ("build-db", "detect"))
    for category in streamed.categories:
        # The prior's networks differ; what SIFT alone says does not.
        pair = [made.validation("dsift8", category, 0.0) for made in (streamed, opened(kept))]
        assert pair[0].num_rows
        assert pair[0].equals(pair[1])


def test_a_photograph_that_is_gone_is_named(copy: Path, toy: Callable[..., Detected]) -> None:
    gone = sorted((copy / "toy").rglob("*.jpg"))[0]
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DistcorrError, match=f"1 of 3 shards.*{gone.name} is not what it was"):
        toy("detect.layers=dsift8")
    gone.write_bytes(content)
    assert toy("detect.layers=dsift8").layers == ["dsift8"]


def test_what_an_instance_is_changes_the_shard() -> None:
    one = Objects(
        ("a",),
        ("a.jpg",),
        np.zeros((1, 4)),
        np.ones(1),
        np.zeros((1, 2, 2)),
        np.zeros(1, np.int64),
        np.ones(1, bool),
    )
    assert one.at(np.array([0])).identity == one.identity
    assert one.at(np.array([], int)).identity != one.identity


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("detect.layers=[]", "one or more layers"),
        ("detect.rounds=-1", "0 or more"),
        ("detect.hardest=0", "1 or more"),
        ("detect.folds=1", "2 or more"),
        ("detect.c=0", "a finite number above 0"),
        ("detect.sigma=nan", "a finite number above 0"),
        ("detect.etas=[]", "numbers from 0 to 1"),
        ("detect.etas=[0.1, 1.1]", "numbers from 0 to 1"),
        ("detect.etas=[0.1, 0.1]", "numbers that differ"),
        ("detect.control=shuffled", "one of none, shuffled-labels"),
        ("detect.absent=positive", "one of ignore, negative"),
    ],
)
def test_wrong_settings_say_what_was_expected(override: str, words: str) -> None:
    with pytest.raises(DistcorrError, match=words) as caught:
        configuration.load("smoke", [override])
    assert override.partition("=")[0] in caught.value.message

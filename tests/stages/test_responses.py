"""The maxima that ``responses`` saves: against shifted photographs, planted ones, and faults."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from distcorr.algorithms import dense, extractors
from distcorr.algorithms.concentration import peaks
from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.sift import Sift
from distcorr.config import ResponsesConfig
from distcorr.data.classified import Classified
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.stages import respond, responses
from distcorr.stages.cluster import Session
from distcorr.stages.features import load_network
from distcorr.stages.pipeline import Context, Summary, forecast_stage, run_stage
from distcorr.types import Box
from tests.stages.common import (
    Recorder,
    assert_same,
    contents,
    stage_folder,
    toy_config,
    write_alexnet,
)

Settings = Callable[..., list[str]]
INLINE = "compute.address=inline"
RADIUS = 3
KEYPOINTS = ("fish/mouth", "fish/eye")


def run(folder: Path, settings: list[str], *stages: str) -> tuple[dict[str, Summary], list[str]]:
    """Run stages; their summaries and warnings."""
    config, recorder = toy_config(settings), Recorder()
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, recorder)
        done = {name: run_stage(name, context) for name in stages or ("responses",)}
    return done, recorder.warnings


def opened(folder: Path) -> tuple[FeatureStore, Classified]:
    stages = [Run(str(folder)).finished(name) for name in ("build-db", "classify")]
    assert all(stages)
    return FeatureStore(stages[0]), Classified(stages[1])


def saved(folder: Path) -> pa.Table:
    stage = Run(str(folder)).current("responses")
    assert stage is not None
    return pa.concat_tables(list(stage.folder.iter_tables(stage.parts("peaks"))))


@pytest.fixture(scope="module", autouse=True)
def small_shards() -> Iterator[None]:
    """Two shards per layer: three validation photographs, two at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "PHOTOGRAPHS", 2)
        yield


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_alexnet(tmp_path_factory.mktemp("weights") / "alexnet.npz")


@pytest.fixture(scope="module")
def wanted(alexnet: Path, toy_settings: Settings) -> list[str]:
    return toy_settings(
        "features.network=alexnet",
        f'features.weights="{alexnet}"',
        'features.points=["conv2", "sift20"]',
        "features.cells=[]",
        "features.grids=[]",
        "features.grids500=[]",
        "flow.features=auto",
        'dataset.categories=["fish"]',
        "dataset.toy_train=4",
        "classify.cs=[1e-5, 1e-3]",
        "classify.folds=2",
        'responses.layers=["conv2", "sift20"]',
        f"responses.keypoints={json.dumps(KEYPOINTS)}",
        f"responses.radius={RADIUS}",
    )


@pytest.fixture(scope="module")
def responded(tmp_path_factory: pytest.TempPathFactory, wanted: list[str]) -> Path:
    """A finished inline run; copy it before changing it."""
    folder = tmp_path_factory.mktemp("runs") / "responded"
    run(folder, [*wanted, INLINE], "build-db", "classify", "responses")
    return folder


@pytest.fixture
def copy(responded: Path, tmp_path: Path) -> Path:
    shutil.copytree(responded, tmp_path / "copy")
    return tmp_path / "copy"


def photograph(folder: Path, image: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "toy" / image))


# -- what is right -----------------------------------------------------------------------------


def shifted(source: extractors.Backbone, picture: np.ndarray, x: int, y: int) -> np.ndarray:
    """(C,) conv2's column at a pixel: the photograph loses what brings a cell's centre there.

    And what lies far beyond the pixel, so that it takes less time.
    """
    geometry = source.geometry("conv2")
    cut_x, cut_y = ((p - int(geometry.offset)) % geometry.stride for p in (x, y))
    crop = np.ascontiguousarray(picture[cut_y : y + 40, cut_x : x + 40])
    return source.columns(crop, [(x - cut_x, y - cut_y)], ("conv2",))["conv2"][0]


@pytest.mark.parametrize("layer", ["conv2", "sift20"])
def test_a_maximum_is_where_shifted_photographs_have_it(
    responded: Path, alexnet: Path, wanted: list[str], layer: str
) -> None:
    store, classified = opened(responded)
    by_id = {i.id: i for i in store.instances}
    rows = saved(responded).to_pylist()
    shown = [i for i in store.instances if i.split == "val"]
    columns = [store.keypoint_names["fish"].index(name) for name in ("mouth", "eye")]
    count = sum(int(i.visible[columns].sum()) for i in shown)
    assert [r["layer"] for r in rows] == ["conv2"] * count + ["sift20"] * count
    assert all(by_id[r["instance"]].split == "val" for r in rows)
    assert {f"{r['category']}/{r['keypoint']}" for r in rows} == set(KEYPOINTS)
    config = toy_config(wanted)
    chosen = classified.choose(config.evaluation.c, config.evaluation.choose)
    names, coef, intercept = classified.model(layer, "fish", chosen[layer, "fish"])
    with np.load(alexnet) as arrays:
        network = extractors.build("alexnet", dict(arrays))
    offsets = range(-RADIUS, RADIUS + 1)
    checked = 0
    for row in (r for r in rows if r["layer"] == layer and r["inside"]):
        instance = by_id[row["instance"]]
        k = names.index(row["keypoint"])
        at = instance.keypoints[store.keypoint_names["fish"].index(row["keypoint"])]
        picture = photograph(responded, row["image"])
        x, y = np.ceil(at.astype(float) - 0.5).astype(int) if layer == "conv2" else at.astype(float)
        around = [
            shifted(network, picture, x + dx, y + dy)
            if layer == "conv2"
            else Sift().columns(picture, np.array([(x + dx, y + dy)]), (layer,))[layer][0]
            for dy in offsets
            for dx in offsets
        ]
        scores = np.array(around, np.float64) @ coef[k] + intercept[k]
        (peak,) = peaks(scores.reshape(1, 2 * RADIUS + 1, 2 * RADIUS + 1))
        found = np.array([row["dy"], row["dx"]], float)
        np.testing.assert_array_equal(found, peak)
        checked += 1
        if checked == 2:
            return
    raise AssertionError("no square lies inside its photograph")


@pytest.mark.parametrize("layer", ["conv2", "sift20"])
def test_a_planted_peak_is_found(
    copy: Path, wanted: list[str], monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """Of all unit vectors, the response itself answers a response most (Cauchy and Schwarz)."""
    settings = [*wanted, INLINE, "classify.feature_norm=unit", "classify.cs=1.0"]
    run(copy, settings, "classify")
    store, _ = opened(copy)
    config = toy_config(settings)
    k = store.keypoint_names["fish"].index("eye")
    instance = next(i for i in store.instances if i.split == "val" and i.visible[k])
    weights, table = load_network(config.features), store.folder_of(f"points/{layer}")
    source = responses.sources(config, weights, {table}, "cpu")[table].source
    picture = photograph(copy, instance.image)
    around = dense.responses(source, picture, instance.keypoints[k, None], layer, RADIUS)[0]
    there = around[RADIUS + 2, RADIUS - 1]
    model = Classified.model

    def planted(self: Classified, *key: object) -> object:
        names, coef, intercept = model(self, *key)  # type: ignore[arg-type]
        coef = coef.copy()
        if key[0] == layer:
            coef[names.index("eye")] = there / np.linalg.norm(there)
        return names, coef, intercept

    monkeypatch.setattr(Classified, "model", planted)
    run(copy, settings)
    (row,) = (
        row
        for row in saved(copy).to_pylist()
        if (row["layer"], row["keypoint"], row["instance"]) == (layer, "eye", instance.id)
    )
    assert (row["dy"], row["dx"]) == (2, -1)


COLOURS = """
import numpy as np
from distcorr.types import Geometry

class Colours:
    geometry = Geometry(input_size=64, stride=8, offset=3.5, rf=8, cells=8)
    channels = 3

    def __call__(self, images):
        return images.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4)).astype(np.float32)
"""


def test_an_extractor_sees_the_photograph_as_its_square(
    tmp_path: Path, toy_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "my_colours.py").write_text(COLOURS)
    settings = toy_settings(
        INLINE,
        "features.conv=my_colours:Colours",
        'features.points=["my_colours:Colours"]',
        "features.cells=[]",
        "features.grids=[]",
        "flow.features=auto",
        'dataset.categories=["fish", "house"]',
        "classify.cs=1e-3",
        "classify.folds=2",
        'responses.layers=["auto", "sift20"]',
        f"responses.radius={RADIUS}",
    )
    _, warnings = run(tmp_path / "run", settings, "build-db", "classify", "responses")
    sys.modules.pop("my_colours", None)
    assert any("Figure 4 has no sift20" in warning for warning in warnings)
    store, classified = opened(tmp_path / "run")
    rows = saved(tmp_path / "run").to_pylist()
    shown = {
        category: sum(
            int(i.visible.sum())
            for i in store.instances
            if i.category == category and i.split == "val"
        )
        for category in store.keypoint_names
    }
    assert {row["category"] for row in rows} == {max(shown, key=shown.__getitem__)}  # auto
    assert len({row["keypoint"] for row in rows}) == 2
    assert {row["layer"] for row in rows} == {"Colours"}
    by_id = {i.id: i for i in store.instances}
    for row in rows[:4]:
        instance = by_id[row["instance"]]
        picture = photograph(tmp_path / "run", row["image"])
        height, width = picture.shape[:2]
        square = crop_square(picture, Box(0, 0, width - 1, height - 1), 64)
        names, coef, intercept = classified.model("Colours", row["category"], 0)
        k = names.index(row["keypoint"])
        at = instance.keypoints[store.keypoint_names[row["category"]].index(row["keypoint"])]
        x, y = (at.astype(float) + 0.5) * (64 / width, 64 / height) - 0.5
        scores = box_means(square, x, y) @ coef[k] + intercept[k]
        expected = peaks(scores[None])[0]
        np.testing.assert_array_equal(np.array([row["dy"], row["dx"]], float), expected)


def box_means(square: np.ndarray, x: float, y: float) -> np.ndarray:
    """(side, side, 3) mean of the 8 x 8 px about every pixel, the edge's pixels repeated."""
    padded = np.pad(square.astype(float), ((40, 40), (40, 40), (0, 0)), "edge")
    left, top = (int(np.ceil(v - 0.5)) + 40 - 4 for v in (x, y))
    offsets = range(-RADIUS, RADIUS + 1)
    means = [
        padded[top + dy : top + dy + 8, left + dx : left + dx + 8].mean(axis=(0, 1))
        for dy in offsets
        for dx in offsets
    ]
    return np.reshape(means, (len(offsets), len(offsets), 3))


def test_the_same_bytes_on_ray(
    copy: Path, responded: Path, wanted: list[str], ray_local: None
) -> None:
    shutil.rmtree(copy / "responses")
    done, _ = run(copy, [*wanted, "compute.workers=2"])
    assert done["responses"].computed == 4
    assert_same(responded, copy)


def test_a_second_run_computes_nothing_and_another_c_all(copy: Path, wanted: list[str]) -> None:
    before = contents(copy)
    _, classified = opened(copy)
    config = toy_config(wanted)
    chosen = classified.choose(0, "layer")
    assert config.evaluation.c == 0
    assert run(copy, [*wanted, INLINE])[0]["responses"].computed == 0
    assert contents(copy) == before
    other = {classified.cs[1 - index] for index in chosen.values()}
    for c in other:
        changed = 2 * sum(classified.cs[index] != c for index in chosen.values())
        settings = [*wanted, INLINE, f"evaluation.c={c}"]
        context = Context(toy_config(settings), Run(str(copy)), Session(config.compute))
        forecast = forecast_stage("responses", context)
        assert (forecast.shards, forecast.todo) == (4, changed)
        assert run(copy, settings)[0]["responses"].computed == changed
        entry = json.loads((copy / "manifest.json").read_text())["stages"]["responses"]
        assert entry["cs"] == {"conv2/fish": c, "sift20/fish": c}
        run(copy, [*wanted, INLINE])
    assert contents(copy) == before


# -- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_a_photograph_costs_itself_and_comes_back(
    copy: Path, wanted: list[str], fault: str
) -> None:
    before, store = contents(copy), opened(copy)[0]
    whole = saved(copy).to_pylist()
    image = next(i.image for i in store.instances if i.split == "val")
    path = copy / "toy" / image
    content = path.read_bytes()
    path.unlink()
    if fault == "changed":
        Image.new("RGB", (300, 300)).save(path)
    _, warnings = run(copy, [*wanted, INLINE])
    assert saved(copy).to_pylist() == [row for row in whole if row["image"] != image]
    letters = Run(str(copy)).current("responses").dead_letters()
    assert {letter.id for letter in letters} == {image}
    reason = {"missing": "is missing", "changed": "is not the one that build-db saw"}[fault]
    assert all(letter.error.endswith(f"{image} {reason}") for letter in letters)
    assert any("1 item(s) were left out of responses" in warning for warning in warnings)
    path.write_bytes(content)
    run(copy, [*wanted, INLINE])
    assert contents(copy) == before


def test_what_is_not_finite_costs_its_photograph(
    copy: Path, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, calls = dense.scores, []

    def spoilt(*arguments: object, **more: object) -> np.ndarray:
        found = scores(*arguments, **more)  # type: ignore[arg-type]
        calls.append(found)
        if len(calls) == 2:
            found[0, 1, 1] = np.nan
        return found

    monkeypatch.setattr(respond.dense, "scores", spoilt)
    whole = saved(copy).to_pylist()
    shutil.rmtree(stage_folder(copy, "responses"))
    run(copy, [*wanted, INLINE])
    (letter,) = Run(str(copy)).current("responses").dead_letters()
    assert letter.error == "conv2 is not finite at a keypoint"
    lost = [r for r in whole if (r["layer"], r["image"]) == ("conv2", letter.id)]
    assert saved(copy).to_pylist() == [row for row in whole if row not in lost]


def test_a_photograph_that_is_too_small_for_a_layer(alexnet: Path, wanted: list[str]) -> None:
    config = toy_config(wanted)
    weights = load_network(config.features)
    found = responses.sources(config, weights, set(), "cpu").values()
    source = {w.feature.name: w for w in found}
    assert respond._fits(source["points/sift20"], 9, 9)
    assert respond._fits(source["points/conv2"], 300, 300)
    assert not respond._fits(source["points/conv2"], 10, 300)


@pytest.mark.parametrize("fault", ["gone", "other"])
def test_weights_that_are_gone_or_changed(
    copy: Path, wanted: list[str], alexnet: Path, fault: str
) -> None:
    shutil.rmtree(stage_folder(copy, "responses"))
    content = alexnet.read_bytes()
    try:
        alexnet.unlink()
        if fault == "other":
            with np.load(_written(alexnet, content)) as arrays:
                found = dict(arrays)
            np.savez(alexnet, **found | {"conv2.bias": found["conv2.bias"] + 1})
        with pytest.raises(DistcorrError) as caught:
            run(copy, [*wanted, INLINE])
    finally:
        alexnet.write_bytes(content)
    assert caught.value.exit_code == 3
    if fault == "gone":
        assert "there is no such file" in caught.value.message
        assert "distcorr build-db" in caught.value.hint
    else:
        assert "points-conv2" in caught.value.message
        assert "made with other weights" in caught.value.message
    assert not Run(str(copy)).finished("responses")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('responses.keypoints=["fsh/eye"]', r"no category 'fsh'\. Did you mean 'fish'\?"),
        ('responses.keypoints=["fish/eyes"]', r"no keypoint 'eyes'\. Did you mean 'eye'\?"),
        ('responses.layers=["conv3"]', r"classified, got 'conv3'\. Did you mean 'conv2'\?"),
        ("evaluation.c=0.5", r"a C that was trained, got 0\.5"),
        ("classify.feature_norm=unit", r"classify\.feature_norm = raw, not unit"),
    ],
)
def test_what_there_is_not_is_refused(
    copy: Path, wanted: list[str], setting: str, message: str
) -> None:
    with pytest.raises(DistcorrError, match=message) as caught:
        run(copy, [*wanted, INLINE, setting])
    assert caught.value.exit_code == 2
    assert caught.value.hint
    if setting.startswith("classify"):
        config = toy_config([*wanted, INLINE, setting])
        context = Context(config, Run(str(copy)), Session(config.compute))
        assert "waits for classify" in forecast_stage("responses", context).note


def test_a_type_without_a_classifier_is_noted(
    copy: Path, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Classified.model

    def without(self: Classified, *key: object) -> object:
        names, coef, intercept = model(self, *key)  # type: ignore[arg-type]
        return names, coef, np.where(np.array(names) == "eye", -np.inf, intercept)

    monkeypatch.setattr(Classified, "model", without)
    _, warnings = run(copy, [*wanted, INLINE])
    note = "conv2 has no classifier of fish/eye: no training sample shows it."
    assert note in warnings
    assert {row["keypoint"] for row in saved(copy).to_pylist()} == {"mouth"}
    assert note in Run(str(copy)).manifest()["stages"]["responses"]["notes"]


# -- what is asked for -------------------------------------------------------------------------


def fakes(counts: dict[str, dict[str, int]], layers: tuple[str, ...] = ()) -> tuple:
    """A store and its classifiers: category -> keypoint -> validation instances that show it."""
    instances = [
        SimpleNamespace(
            id=f"{category}{name}{n}",
            image=f"{n}.jpg",
            category=category,
            split="val",
            keypoints=np.full((len(names), 2), 5, np.float32),
            visible=np.array([other == name for other in names]),
        )
        for category, names in counts.items()
        for name, count in names.items()
        for n in range(count)
    ]
    store = SimpleNamespace(
        instances=instances,
        keypoint_names={category: tuple(names) for category, names in counts.items()},
        checksums={f"{n}.jpg": "a" for n in range(99)},
        conv="conv4",
        names={"my:Edges": "Edges"},
    )
    return store, SimpleNamespace(categories=sorted(counts), layers=list(layers))


CAT = {"Nose": 2, "L_Eye": 1, "Tail": 9}
DOG = {"Nose": 3, "Ear": 5, "Tail": 5}


@pytest.mark.parametrize(
    ("counts", "keypoints", "asked"),
    [
        ({"cat": CAT, "dog": DOG}, ["auto"], {"cat": ["L_Eye", "Nose"]}),
        ({"cat": CAT | {"L_Eye": 0}, "dog": DOG}, ["auto"], {"dog": ["Ear", "Tail"]}),
        ({"cow": {"Ear": 1}}, ["auto"], {"cow": ["Ear"]}),
        ({"cow": {"Ear": 0}}, ["auto"], {}),
        ({}, ["auto"], {}),
        (
            {"cat": CAT, "dog": DOG},
            ["dog/Tail", "auto", "cat/Nose", "cat/Tail"],
            {"dog": ["Tail"], "cat": ["L_Eye", "Nose", "Tail"]},
        ),
    ],
)
def test_keypoints_that_are_asked_for(counts: dict, keypoints: list, asked: dict) -> None:
    notes: list[str] = []
    config = ResponsesConfig(keypoints=tuple(keypoints))
    assert responses._asked(config, *fakes(counts), notes) == asked
    assert bool(notes) == (not asked)


def test_layers_that_are_asked_for() -> None:
    notes: list[str] = []
    store, classified = fakes({}, ("conv4", "Edges", "sift40"))
    default = ResponsesConfig()
    assert responses._layers(default, store, classified, notes) == ["conv4"]  # what there is
    assert notes == [
        "Figure 4 has no sift20, which was not classified (classified: conv4, Edges, sift40; "
        "others with features.points and classify.layers)."
    ]
    named = ResponsesConfig(layers=("my:Edges", "auto", "sift40", "conv4"))
    assert responses._layers(named, store, classified, notes) == ["Edges", "conv4", "sift40"]
    assert len(notes) == 1


def test_a_type_that_no_validation_photograph_shows_is_noted_once() -> None:
    store, _ = fakes({"dog": DOG | {"Ear": 0}})
    found = respond.Classifiers(
        "conv4", "dog", 1.0, ("Ear", "Tail"), np.zeros((2, 3), np.float32), np.zeros(2)
    )
    now, notes = {f"{n}.jpg": "b" if n == 2 else "a" for n in range(5)}, []
    for _ in range(2):
        photographs = responses._photographs(found, store, now, notes)
    assert notes == ["No validation photograph shows dog/Ear: no Figure 4 of it."]
    assert [p.image for p in photographs] == [f"{n}.jpg" for n in range(5)]
    assert [p.changed for p in photographs] == [n == 2 for n in range(5)]
    for photo in photographs:
        (xy,) = photo.instances.values()
        np.testing.assert_array_equal(xy, [[np.nan, np.nan], [5, 5]])


@pytest.mark.parametrize("unit", [False, True])
def test_scores_are_of_unit_vectors_if_the_samples_were(
    monkeypatch: pytest.MonkeyPatch, unit: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 3, 4)).astype(np.float32)
    values[0, 0, 0] = 0
    values[0, 1, 2, 3] = np.inf
    monkeypatch.setattr(dense, "_windows", lambda *_: enumerate(values))
    source = SimpleNamespace(channels=lambda tap: 4)
    weights, bias = np.eye(2, 4), np.array([0.5, -1])
    picture = np.zeros((9, 9, 3), np.uint8)
    found = dense.scores(source, picture, [(4, 4)], "conv4", weights, bias, 1, unit=unit)
    for y, x in np.ndindex(3, 3):
        norm = np.linalg.norm(values[0, y, x].astype(float)) if unit else 1.0
        expected = values[0, y, x, :2] / (norm or 1.0) + bias
        expected = np.full(2, np.nan) if (y, x) == (1, 2) else expected
        np.testing.assert_allclose(found[0, y, x], expected, rtol=1e-5)

"""Table 4 and its curves from saved predictions, against plain loops."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from distcorr import config as configuration
from distcorr.algorithms import svm
from distcorr.algorithms.windows import Detectors
from distcorr.config import EvaluationConfig
from distcorr.data import datasets
from distcorr.data.classified import NOTES, VALIDATION
from distcorr.data.detectors import State, metadata
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, Shard
from distcorr.errors import DistcorrError
from distcorr.report import detection, detection_curves, tables
from distcorr.report.detection import PRIOR, opened, table4
from distcorr.terminal import print_report
from distcorr.types import Box, Dataset, Instance
from tests.stages import test_detect as staged

NAMES = {"bird": ("Eye", "Nose", "Tail"), "cat": ("Ear", "Paw")}
ETAS = (0.0, 0.1, 0.5)
SEED = 7
CONFIG = EvaluationConfig(resamples=40, alphas=(0.1, 0.05))
SIDE, ROWS = 500, 6  # of the score maps

# px of the photograph that predictions are off by, for eta 0, 0.1, 0.5, 1: by layer
OFF = {"conv5": (9, 3, 6, 14), "dsift8": (30, 20, 8, 14), "conv4": (12, 5, 3, 14)}


def instances() -> list[Instance]:
    """Six training and four validation instances of each category; not all show everything."""
    found = []
    for category, names in NAMES.items():
        for n in range(10):
            rng = np.random.default_rng([len(category), n])
            box = Box(*rng.uniform(5, 20, 2), *rng.uniform(90, 120, 2))
            points = rng.uniform(25, 85, (len(names), 2)).astype(np.float32)
            visible = rng.random(len(names)) < 0.8
            visible[n % len(names)] = True
            points[~visible] = np.nan
            split = "train" if n < 6 else "val"
            image = f"{category}{n // 2}.png"
            found.append(Instance(f"{category}{n}", image, category, split, box, points, visible))
    return found


def errors(layer: str, instance: Instance, etas: Sequence[float]) -> np.ndarray:
    """(K, V) px along x that predictions are off by."""
    rng = np.random.default_rng(list(f"{layer}{instance.id}".encode()))
    usual = np.array([OFF[layer][[0.0, 0.1, 0.5, 1.0].index(eta)] for eta in etas])
    shared = np.random.default_rng(list(instance.id.encode())).exponential(1, len(instance.visible))
    own = rng.exponential(1, (len(instance.visible), len(etas))) * usual
    own[:, np.array(etas) == 1] = OFF[layer][3] * shared[:, None]  # all layers share the prior
    return own


def write(
    folder: Path,
    layers: Mapping[str, Sequence[str]],
    etas: Sequence[float] = ETAS,
    blind: Sequence[tuple[str, str]] = (),
    refined: bool = True,
    maps: bool = True,
    control: str = "none",
    notes: Sequence[str] = (),
) -> Run:
    """A run whose build-db and detect are finished.

    Args:
        folder: of the run.
        layers: layer -> its categories.
        etas: that were tried.
        blind: (layer, keypoint) that is never detected.
        refined: whether there are predictions between positions: half the error.
        maps: whether scores are kept.
        control: of the stage's settings.
        notes: of the stage.
    """
    run, every = Run(str(folder)), instances()
    run.save_config(configuration.load("smoke", [f"seed={SEED}", "evaluation.resamples=40"]))
    features = run.stage("build-db", "drawn", "store")
    facts = {"keypoint_names": NAMES, "conv": "g", "vector": "v", "names": {}, "root": ""}
    facts |= {"tables": {"grids/g": "g", "vectors/v": "v"}}
    FeatureStore.write_instances(
        features,
        datasets.to_table(Dataset("drawn", "", tuple(every), NAMES)),
        {i.id: "x" for i in every},
        {i.image: "" for i in every},
        facts | {"stamp": {"weights": "the weights", "data": "the data"}},
    )
    features.finish([])
    run.record("build-db", {"key": "drawn", "store": "store"})
    for n, image in enumerate(sorted({i.image for i in every})):
        picture = np.random.default_rng(n).integers(0, 256, (130, 140, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "png")
        run.folder.write(f"toy/{image}", out.getvalue())

    stage, plan = run.stage("detect", "key"), []
    tried = sorted({0.0, 1.0, *etas})
    variants = [(eta, r) for eta in tried for r in ((False, True) if refined else (False,))]
    for layer, categories in layers.items():
        for category in categories:
            names = NAMES[category]
            for fold in (VALIDATION, 0, 1) if len(etas) > 1 else (VALIDATION,):
                shard = Shard(len(plan), "", (category, str(fold)), layer)
                split = "val" if fold == VALIDATION else "train"
                held = [i for i in every if (i.category, i.split) == (category, split)]
                held = [i for i in held if fold in (VALIDATION, int(i.id[-1]) // 2 % 2)]
                said = {"layer": layer, "category": category, "fold": fold, "names": names}
                said |= {"etas": etas, "variants": variants, "notes": []}
                rows: dict[str, list[Any]] = {}
                for instance in held:
                    off = errors(layer, instance, tried)
                    for k in np.flatnonzero(instance.visible):
                        x, y = instance.keypoints[k].astype(float)
                        found = [
                            x + off[k, tried.index(eta)] / (1 + r)
                            if eta == 1 or (layer, names[k]) not in blind
                            else np.nan
                            for eta, r in variants
                        ]
                        row = {"layer": layer, "category": category, "fold": fold}
                        row |= {"instance": instance.id, "image": instance.image}
                        row |= {"keypoint": names[k], "x": found}
                        row |= {"y": np.where(np.isnan(found), np.nan, y).tolist()}
                        row |= {"true_x": x, "true_y": y, "scale": instance.box.max_side}
                        for name, value in row.items():
                            rows.setdefault(name, []).append(value)
                points = pa.list_(pa.float64(), len(variants))
                columns = {n: pa.array(v, points if n in "xy" else None) for n, v in rows.items()}
                table = pa.table(columns).replace_schema_metadata(metadata(said))
                files = {f"predictions/{shard.part}": table}
                if maps and fold == VALIDATION:
                    files[f"maps/{shard.part}"] = score_maps(layer, held[1:3])
                written = {n: stage.folder.write_table(n, t) for n, t in files.items()}
                part = f"detectors/{shard.part}"
                written[part] = state(len(names)).save(stage.folder, part)
                stage.mark_done(shard, written, len(table))
                plan.append(shard)
    stage.folder.write_json(NOTES, list(notes))
    stage.finish(plan)
    settings = configuration.load("smoke", ["detect.folds=2", f"detect.control={control}"]).detect
    run.record(
        "detect",
        {"key": "key", "detect": vars(settings), "prior": "vectors/pool5", "needs": {}},
    )
    return run


def state(keypoints: int) -> State:
    zero = np.zeros(keypoints)
    linear = svm.Linear(
        np.zeros((keypoints, 2)), zero, zero, zero, np.zeros(keypoints), zero.astype(np.int64)
    )
    ids = np.arange(3)
    found = ((5,) * keypoints, (2,) * keypoints)
    return State(2, Detectors(linear), ids, ids + 3, found=found, sizes=(10, 14, 15))


def score_maps(layer: str, shown: Sequence[Instance]) -> pa.Table:
    facts = {"rows": ROWS, "cols": ROWS, "side": SIDE, "offset": 50.0, "stride": 80, "sigma": 22.0}
    rows = []
    for instance in shown:
        for k, name in enumerate(NAMES[instance.category]):
            scores = np.random.default_rng([k, *layer.encode()]).normal(size=ROWS * ROWS)
            row = {"layer": layer, "category": instance.category, "instance": instance.id}
            row |= {"image": instance.image, "keypoint": name, "scores": scores.tolist()}
            rows.append(row | {"prior_x": None if k else 130.0, "prior_y": None if k else 290.0})
    schema = {"prior_x": pa.float64(), "prior_y": pa.float64()}
    columns = {n: pa.array([row[n] for row in rows], schema.get(n)) for n in rows[0]}
    return pa.table(columns).replace_schema_metadata(metadata(facts))


BOTH = {"conv5": ("bird", "cat"), "dsift8": ("bird", "cat")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write(tmp_path_factory.mktemp("detected"), BOTH, notes=["a note of the stage"])


def of(rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    (found,) = (each for each in rows if keys.items() <= each.items())
    return found


def right(layer: str, category: str, eta: float, alpha: float, scale: float = 1) -> dict[str, list]:
    """Keypoint -> (photograph, right?) of the validation instances, by a plain loop."""
    answers: dict[str, list] = {}
    etas = sorted({0.0, 1.0, *ETAS})
    for i in instances():
        if (i.category, i.split) == (category, "val"):
            off = errors(layer, i, etas)[:, etas.index(eta)] * scale
            for k in np.flatnonzero(i.visible):
                ok = off[k] <= alpha * i.box.max_side
                answers.setdefault(NAMES[category][k], []).append((i.image, ok))
    return answers


def rate(answers: dict[str, list]) -> float:
    return 100 * float(np.mean([np.mean([ok for _, ok in each]) for each in answers.values()]))


# -- Table 4 -----------------------------------------------------------------------------------


def test_table_4_by_a_loop(run: Run) -> None:
    made = opened(run, CONFIG)
    rows, notes, found = table4(made)
    for layer in BOTH:
        assert len({made.etas[layer, c] for c in NAMES}) == 1  # one for each layer
        eta = made.etas[layer, "bird"]
        methods = {layer: 0.0, f"{layer} + prior": eta, PRIOR: 1.0}
        for method, used in methods.items():
            for alpha in CONFIG.alphas:
                shares = {c: rate(right(layer, c, used, alpha)) for c in NAMES}
                shares["mean"] = float(np.mean(list(shares.values())))
                for category, share in shares.items():
                    keys = {"method": method, "category": category, "alpha": alpha}
                    row = of(rows, table="table4", **keys)
                    assert row["value"] == pytest.approx(share, abs=0.0051)
                    assert row["low"] <= row["value"] <= row["high"]
                    assert row["eta"] == used
        better = rate(right(layer, "bird", eta, 0.1, 0.5))
        row = of(
            rows, table="table4-refined", method=f"{layer} + prior refined", category="bird",
            alpha=0.1,
        )  # fmt: skip
        assert row["value"] == pytest.approx(better, abs=0.0051)
    assert "a note of the stage" in notes
    assert made.etas["conv5", "bird"] == 0.1
    assert any("eta conv5 0.1, dsift8 0.5, one for each layer by 2-fold" in n for n in notes)
    methods = list(dict.fromkeys(found["method"].to_pylist()))
    shown = ("", " + prior", " refined", " + prior refined")
    assert methods == [f"{layer}{end}" for layer in BOTH for end in shown] + [PRIOR]


def test_gains_are_paired(run: Run) -> None:
    rows, _, _ = table4(opened(run, CONFIG))
    gains = [row for row in rows if row["table"] == "table4-gain"]
    assert list(dict.fromkeys(row["method"] for row in gains)) == [
        "conv5 + prior minus conv5",
        "dsift8 + prior minus dsift8",
        "conv5 + prior minus prior only",
        "conv5 + prior minus dsift8 + prior",
        "conv5 refined minus conv5",
        "conv5 + prior refined minus conv5 + prior",
        "dsift8 refined minus dsift8",
        "dsift8 + prior refined minus dsift8 + prior",
    ]
    # By loops, with the photographs that numpy draws.
    row = of(gains, method="conv5 + prior minus prior only", category="cat", alpha=0.1)
    both = [right("conv5", "cat", eta, 0.1) for eta in (0.1, 1.0)]
    photographs = sorted({image for each in both[0].values() for image, _ in each})
    share = np.full(len(photographs), 1 / len(photographs))
    draws = np.random.default_rng([SEED, 1]).multinomial(len(photographs), share, 40)
    samples = []
    for draw in draws:
        times = dict(zip(photographs, draw.tolist(), strict=True))
        drawn = [
            {k: [(i, ok) for i, ok in each for _ in range(times[i])] for k, each in one.items()}
            for one in both
        ]
        a, b = (rate({k: each for k, each in one.items() if each}) for one in drawn)
        samples.append(a - b)
    low, high = np.quantile(samples, [0.025, 0.975])
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.0051)
    assert row["value"] == pytest.approx(rate(both[0]) - rate(both[1]), abs=0.0051)


def test_keypoints_by_a_loop(run: Run) -> None:
    made = opened(run, CONFIG)
    rows, _, _ = table4(made)
    for category, names in NAMES.items():
        for k, name in enumerate(names):
            off = [
                errors("conv5", i, (0.0, 0.1, 0.5, 1.0))[k, 1] / (0.1 * i.box.max_side)
                for i in instances()
                if (i.category, i.split) == (category, "val") and i.visible[k]
            ]
            row = of(
                rows, table="table4-keypoints", method="conv5 + prior", category=category,
                keypoint=name,
            )  # fmt: skip
            assert (row["n"], row["alpha"]) == (len(off), 0.1)
            assert row["value"] == pytest.approx(100 * np.mean(np.array(off) <= 1), abs=0.0051)
            assert row["median"] == pytest.approx(np.median(off), abs=6e-4)


def test_another_eta_is_looked_up(run: Run) -> None:
    rows, notes, _ = table4(opened(run, replace(CONFIG, eta=0.5)))
    row = of(rows, table="table4", method="conv5 + prior", category="bird", alpha=0.1)
    assert row["value"] == pytest.approx(rate(right("conv5", "bird", 0.5, 0.1)), abs=0.0051)
    assert row["eta"] == 0.5
    assert any("eta 0.5 as asked for" in note for note in notes)
    with pytest.raises(DistcorrError, match=r"eta must be one that was tried, got 0.3"):
        table4(opened(run, replace(CONFIG, eta=0.3)))


def test_what_is_never_detected_counts_0_and_is_named(tmp_path: Path) -> None:
    made = opened(write(tmp_path, BOTH, blind=[("conv5", "Nose")]), CONFIG)
    rows, notes, _ = table4(made)
    assert "bird: conv5 never predicts Nose; they count 0." in notes
    assert not any("dsift8 never" in note or "prior only never" in note for note in notes)
    row = of(rows, table="table4-keypoints", method="conv5", category="bird", keypoint="Nose")
    assert (row["value"], row["median"]) == (0, None)
    answers = right("conv5", "bird", 0.0, 0.1)
    answers["Nose"] = [(image, False) for image, _ in answers["Nose"]]
    row = of(rows, table="table4", method="conv5", category="bird", alpha=0.1)
    assert row["value"] == pytest.approx(rate(answers), abs=0.0051)


def test_a_category_that_a_layer_lacks(tmp_path: Path) -> None:
    run = write(tmp_path, {"dsift8": ("cat",), "conv5": ("bird", "cat")})
    rows, notes, _ = table4(opened(run, CONFIG))
    assert "dsift8 detects nothing in bird; its mean is over the others." in notes
    mean, cat = (
        of(rows, table="table4", method="dsift8", category=c, alpha=0.1) for c in ("mean", "cat")
    )
    assert mean["value"] == cat["value"]
    assert {r["category"] for r in rows if r["table"] == "table4" and r["method"] == PRIOR} == {
        *NAMES,
        "mean",
    }
    gain = "conv5 + prior minus dsift8 + prior"
    assert {r["category"] for r in rows if r["method"] == gain} == {"cat", "mean"}
    assert detection_curves.eta_rows(opened(run, CONFIG))


def test_one_eta_one_layer_nothing_refined(tmp_path: Path) -> None:
    run = write(tmp_path, {"conv5": ("bird",)}, etas=[0.1], refined=False)
    made = opened(run, CONFIG)
    rows, notes, _ = table4(made)
    assert list(dict.fromkeys(row["method"] for row in rows if row["table"] == "table4-gain")) == [
        "conv5 + prior minus conv5",
        "conv5 + prior minus prior only",
    ]
    assert "table4-refined" not in {row["table"] for row in rows}
    assert any("eta 0.1, the only one tried" in note for note in notes)
    sweep = [row for row in detection_curves.eta_rows(made) if row["category"] == "bird"]
    assert [row["eta"] for row in sweep] == [0, 0.1, 1]
    assert {row["cross_validated"] for row in sweep} == {None}


def test_the_best_of_its_kind_is_cross_validations(tmp_path: Path) -> None:
    layers = {"conv5": ("bird", "cat"), "conv4": ("bird", "cat"), "dsift8": ("cat",)}
    detected = opened(write(tmp_path, layers), CONFIG).detected
    rates = {x: [detected.accuracy(x, c) for c in NAMES] for x in ("conv5", "conv4")}
    wanted = max(rates, key=lambda layer: np.mean(rates[layer], axis=0).max())
    assert detection.best(detected, of_sift=False) == wanted
    assert detection.best(detected, of_sift=True) == "dsift8"


def test_a_control_is_named_wherever_the_numbers_stand(tmp_path: Path) -> None:
    run = write(tmp_path, BOTH, control="shuffled-labels")
    report = tables.build(run)
    words = "CONTROL in Table 4 (detect.control = shuffled-labels): PCK must fall"
    assert report.weights == f"the weights; {words}"
    assert any(words in note for note in report.notes)
    assert words in report.to_csv("table4").splitlines()[1]


# -- curves ------------------------------------------------------------------------------------


def test_the_sweep_and_what_mining_found(run: Run) -> None:
    made = opened(run, replace(CONFIG, alphas=(0.05,)))
    sweep = detection_curves.eta_rows(made)
    for category in NAMES:
        for e, eta in enumerate((0.0, 0.1, 0.5, 1.0)):
            row = of(sweep, layer="dsift8", category=category, eta=eta)
            assert row["value"] == pytest.approx(
                rate(right("dsift8", category, eta, 0.1)), abs=0.0051
            )
            trained = made.detected.accuracy("dsift8", category)
            held = round(100 * trained[e], 2) if eta in ETAS else None
            assert row["cross_validated"] == pytest.approx(held)
    rows, _, _ = table4(opened(run, replace(CONFIG, eta=0.5)))
    one = of(rows, table="table4", method="conv5 + prior", category="mean", alpha=0.1)
    other = of(sweep, layer="conv5", category="mean", eta=0.5)
    assert [one[n] for n in ("value", "low", "high", "n")] == [
        other[n] for n in ("value", "low", "high", "n")
    ]
    mined = detection_curves.mining_rows(made)
    mine = [row for row in mined if (row["layer"], row["category"]) == ("conv5", "bird")]
    assert [(row["round"], row["found"], row["cache"]) for row in mine] == [
        (0, None, 10),
        (1, 15, 14),
        (2, 6, 15),
    ]


# -- the report --------------------------------------------------------------------------------


def test_a_report_of_section_5_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    report = tables.build(run)
    assert report.tables == [
        *("table4", "table4-refined", "table4-gain", "table4-keypoints"),
        *("table4-comparison", "table4-errors", "table4-slices", "table4-eta", "mining"),
    ]
    assert report.predictions is None
    names = tables.save(report, run)
    assert names[:2] == ["report/tables.json", "report/predictions-detect.parquet"]
    content = {name: run.folder.read(name) for name in names}
    run.folder.write("report/mining-old.csv", b"of an earlier report")
    assert tables.save(tables.build(run), run) == names
    assert {f"report/{name}" for name in run.folder.sizes("report")} == set(names)
    assert {name: run.folder.read(name) for name in names} == content
    assert json.loads(content["report/tables.json"])["rows"] == report.rows
    lines = list(csv.reader(io.StringIO(report.to_csv("table4"))))
    measured = ["value", "low", "high", "n", "weights", "data"]
    assert lines[0] == ["table", "method", "category", "alpha", "eta", *measured]
    print_report(report)
    out = capsys.readouterr().out
    assert "table4: PCK in per cent, at 0.1, 0.05, 0.025" in out
    assert "table4-gain: PCK in per cent points, paired" in out
    (line,) = (x for x in out.splitlines() if x.startswith("  conv5 + prior  ") and "eta" in x)
    assert line.endswith("eta 0.1")


def test_nothing_detected_is_said(tmp_path: Path) -> None:
    run = write(tmp_path, {}, notes=["bird is not detected by conv5: too little."])
    with pytest.raises(DistcorrError, match=r"nothing to score\. bird is not detected by conv5"):
        tables.build(run)
    (tmp_path / "detect" / "key" / "_done.json").unlink()
    with pytest.raises(DistcorrError, match="no detect that is finished"):
        opened(run)


def test_what_the_stage_itself_leaves(tmp_path: Path) -> None:
    staged.build(tmp_path / "run", staged.Drawn())
    staged.go(tmp_path / "run")
    made = opened(Run(str(tmp_path / "run")), CONFIG)
    rows, _, found = table4(made)
    shown = sum(i.visible.sum() for i in staged.Drawn().instances() if i.split == "val")
    for method in ("conv5", "conv5 + prior", PRIOR):
        row = of(rows, table="table4", method=method, category="mean", alpha=0.1)
        assert row["n"] == shown
        assert row["value"] > 70
    mean = {"category": "mean", "alpha": 0.1}
    alone, unmined = (
        of(rows, table="table4", method=method, **mean)
        for method in ("conv5", "conv5, random negatives")
    )
    gain = of(rows, table="table4-gain", method="conv5 minus conv5, random negatives", **mean)
    assert gain["value"] == pytest.approx(alone["value"] - unmined["value"], abs=0.011)
    assert len(found) == 6 * shown
    mined = detection_curves.mining_rows(made)
    assert {row["round"] for row in mined} == {0, 1, 2}
    assert len(detection_curves.eta_rows(made)) == 3 * 3

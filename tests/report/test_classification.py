"""Table 3, Figure 5 and confusion from saved answers, against plain loops and scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import confusion_matrix

from distcorr import config as configuration
from distcorr.config import EvaluationConfig
from distcorr.data.classified import Classified
from distcorr.data.run import Run, Shard
from distcorr.data.store import META
from distcorr.errors import DistcorrError
from distcorr.report.classification import (
    BASELINE,
    best,
    confused,
    confusion,
    figure5,
    is_sift,
    settings,
    table3,
)

NAMES = {"bird": ("beak", "eye", "tail"), "cat": ("ear", "eye", "nose", "paw")}
LAYERS = ("conv1", "conv4", "sift10", "sift20")
CS = (1e-3, 1e-6, 1e-5, 1e-4)  # in no order
SEED = 7
CONFIG = EvaluationConfig(resamples=60)

Sample = tuple[int, str, int, Sequence[int]]  # fold, photograph, truth, predicted for each C


def write(
    folder: Path,
    answers: dict[tuple[str, str], list[Sample]],
    cs: Sequence[float] = CS,
    names: dict[str, tuple[str, ...]] = NAMES,
) -> Run:
    """A run whose classify has given these answers."""
    run = Run(str(folder))
    run.save_config(configuration.load("smoke", [f"seed={SEED}", "evaluation.resamples=60"]))
    stage, plan = run.stage("classify", "key"), []
    for (layer, category), samples in answers.items():
        for fold in sorted({sample[0] for sample in samples} | {-1}):
            shard = Shard(len(plan), "", (category, str(fold)), layer)
            mine = [sample for sample in samples if sample[0] == fold]
            facts = {"layer": layer, "category": category, "fold": fold, "cs": cs}
            facts |= {"names": names[category], "notes": [], "chance": 0.0}
            table = pa.table(
                {
                    "layer": [layer] * len(mine),
                    "category": [category] * len(mine),
                    "fold": pa.array([fold] * len(mine), pa.int8()),
                    "image": [image for _, image, _, _ in mine],
                    "instance": [f"{image}#0" for _, image, _, _ in mine],
                    "keypoint": [names[category][truth] for _, _, truth, _ in mine],
                    "predicted": pa.array(
                        [list(p) for *_, p in mine], pa.list_(pa.int16(), len(cs))
                    ),
                }
            ).replace_schema_metadata({META: json.dumps(facts).encode()})
            name = f"predictions/{shard.part}"
            stage.mark_done(shard, {name: stage.folder.write_table(name, table)}, len(mine))
            plan.append(shard)
    stage.finish(plan)
    trained = {"folds": 3, "intercept": "scaled", "feature_norm": "raw", "control": "none"}
    run.record("classify", {"key": "key", "classify": trained, "needs": {}})
    return run


def drawn_answers(layers: Sequence[str] = LAYERS) -> dict[tuple[str, str], list[Sample]]:
    """Better layers and some C are right more often; photographs hold one to five keypoints."""
    answers: dict[tuple[str, str], list[Sample]] = {}
    for number, category in enumerate(NAMES):
        rng, types = np.random.default_rng(number), len(NAMES[category])
        samples = [
            (fold, f"{category}{fold}-{photograph}", int(truth))
            for fold in (0, 1, 2, -1)
            for photograph in range(6 + 3 * (fold < 0))
            for truth in rng.integers(0, types, 1 + rng.integers(5))
        ]
        for place, layer in enumerate(layers):
            rng = np.random.default_rng([number, place])
            chance = 0.3 + 0.1 * place + np.array([0, 0.05, 0.2, 0.1])
            answers[layer, category] = [
                (f, i, t, np.where(rng.random(4) < chance, t, rng.integers(0, types, 4)).tolist())
                for f, i, t in samples
            ]
    return answers


ANSWERS = drawn_answers()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return opened(write(tmp_path_factory.mktemp("classified"), ANSWERS))


def opened(run: Run) -> Classified:
    stage = run.finished("classify")
    assert stage
    return Classified(stage)


def row(rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    (found,) = (each for each in rows if keys.items() <= each.items())
    return found


def accuracy(layer: str, category: str, index: int, validation: bool = False) -> float:
    samples = [s for s in ANSWERS[layer, category] if (s[0] == -1) == validation]
    return sum(p[index] == truth for *_, truth, p in samples) / len(samples)


def chosen_c(layer: str) -> int:
    """By a loop over every C: best mean over categories, the smaller on a tie."""
    order = sorted(range(len(CS)), key=CS.__getitem__)
    return max(order, key=lambda i: sum(accuracy(layer, c, i) for c in NAMES))


# -- Table 3 -----------------------------------------------------------------------------------


def test_micro_and_macro_by_hand(tmp_path: Path) -> None:
    train = [(0, "t1", 1, [1]), (0, "t1", 1, [1]), (1, "t2", 2, [2]), (1, "t2", 0, [2])]
    bird = [*train, (-1, "a", 0, [0]), (-1, "a", 0, [0]), (-1, "b", 0, [1]), (-1, "b", 1, [2])]
    cat = [(0, "t1", 3, [3]), (1, "t2", 3, [0]), (-1, "c", 3, [3]), (-1, "c", 1, [3])]
    run = write(tmp_path, {("conv4", "bird"): bird, ("conv4", "cat"): cat}, cs=[1e-6])
    rows, notes = table3(opened(run), CONFIG, SEED)
    wanted = {
        ("table3", "conv4", "bird"): 50,  # 2 of 4
        ("table3-macro", "conv4", "bird"): 33.33,  # 2 of 3 beaks, 0 of 1 eye
        ("table3", "conv4", "cat"): 50,
        ("table3-macro", "conv4", "cat"): 50,
        ("table3", "conv4", "mean"): 50,
        ("table3-macro", "conv4", "mean"): 41.67,
        ("table3", BASELINE, "bird"): 25,  # eye is commonest in training: 1 of 4
        ("table3-macro", BASELINE, "bird"): 50,
        ("table3", BASELINE, "cat"): 50,
        ("table3", BASELINE, "mean"): 37.5,
    }
    for (table, method, category), value in wanted.items():
        assert row(rows, table=table, method=method, category=category)["value"] == value
    assert row(rows, table="table3", method="conv4", category="mean")["n"] == 6
    assert not [each for each in rows if each["table"] == "table3-gain"]  # there is no SIFT
    assert notes == []


def loop(category: str, right: dict[str, list[tuple[str, int, bool]]]) -> list[float]:
    """Bootstrap of the mean over groups by plain loops, with the photographs that numpy draws.

    Args:
        category: seeds the draw.
        right: what all methods have, then one method's (photograph, group, right?).
    """
    photographs = sorted({image for each in right.values() for image, _, _ in each})
    seed = [SEED, sorted(NAMES).index(category)]
    share = np.full(len(photographs), 1 / len(photographs))
    drawn = np.random.default_rng(seed).multinomial(len(photographs), share, CONFIG.resamples)
    samples = []
    for counts in drawn:
        times = dict(zip(photographs, counts.tolist(), strict=True))
        groups: dict[int, list[bool]] = {}
        for image, group, ok in right["method"]:
            groups.setdefault(group, []).extend([ok] * times[image])
        samples.append(float(np.mean([np.mean(g) for g in groups.values() if g])))
    return samples


def of_validation(layer: str, category: str, macro: bool) -> list[tuple[str, int, bool]]:
    index = chosen_c(layer)
    samples = [s for s in ANSWERS[layer, category] if s[0] == -1]
    return [(image, t if macro else 0, p[index] == t) for _, image, t, p in samples]


@pytest.mark.parametrize("table", ["table3", "table3-macro"])
def test_intervals_are_those_of_a_plain_loop(made: Classified, table: str) -> None:
    rows, _ = table3(made, CONFIG, SEED)
    for layer in LAYERS:
        means = []
        for category in NAMES:
            method = of_validation(layer, category, table == "table3-macro")
            means.append(loop(category, {"method": method}))
            found = row(rows, table=table, method=layer, category=category)
            wanted = 100 * np.quantile(means[-1], [0.025, 0.975])
            np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)
        found = row(rows, table=table, method=layer, category="mean")
        wanted = 100 * np.quantile(np.mean(means, axis=0), [0.025, 0.975])
        np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)


def test_gain_is_paired_and_of_the_best_in_cross_validation(made: Classified) -> None:
    rows, notes = table3(made, CONFIG, SEED)
    mean_of = {m: np.mean([accuracy(m, c, chosen_c(m)) for c in NAMES]) for m in LAYERS}
    conv, sift = (max(LAYERS[n : n + 2], key=mean_of.__getitem__) for n in (0, 2))
    assert (conv, sift) == ("conv4", "sift20")
    gains = [each for each in rows if each["table"] == "table3-gain"]
    assert [each["category"] for each in gains] == ["bird", "cat", "mean"]
    assert {each["method"] for each in gains} == {"conv4 minus sift20"}
    pairs = []
    for category in NAMES:
        one, other = (
            np.array(loop(category, {"method": of_validation(layer, category, False)}))
            for layer in (conv, sift)
        )
        pairs.append(one - other)
        found = row(gains, category=category)
        value = accuracy(conv, category, chosen_c(conv), True)
        value -= accuracy(sift, category, chosen_c(sift), True)
        assert found["value"] == pytest.approx(100 * value, abs=0.00501)
        wanted = 100 * np.quantile(pairs[-1], [0.025, 0.975])
        np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)
    wanted = 100 * np.quantile(np.mean(pairs, axis=0), [0.025, 0.975])
    found = row(gains, category="mean")
    np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)
    assert any(note.startswith("conv4 minus sift20") for note in notes)


def test_every_row_says_which_c(made: Classified) -> None:
    rows, _ = table3(made, CONFIG, SEED)
    for layer in LAYERS:
        for category in (*NAMES, "mean"):
            found = row(rows, table="table3", method=layer, category=category)
            assert found["c"] == CS[chosen_c(layer)]
    assert row(rows, table="table3", method=BASELINE, category="mean")["c"] is None
    fixed, notes = table3(made, EvaluationConfig(resamples=5, c=1e-6), SEED)
    assert {each.get("c") for each in fixed} == {1e-6, None}
    index = CS.index(1e-6)
    found = row(fixed, table="table3", method="conv1", category="cat")
    assert found["value"] == pytest.approx(100 * accuracy("conv1", "cat", index, True), abs=0.01)
    assert not any("smallest or largest" in note for note in notes)  # it was asked for


def test_a_mean_over_several_c_names_none(made: Classified) -> None:
    chosen = made.choose(0, "category")
    split = [m for m in LAYERS if chosen[m, "bird"] != chosen[m, "cat"]]
    assert split
    rows, _ = table3(made, EvaluationConfig(resamples=5, choose="category"), SEED)
    for layer in LAYERS:
        mean_c = row(rows, table="table3", method=layer, category="mean")["c"]
        assert (mean_c is None) == (layer in split)
        for category in NAMES:
            found = row(rows, table="table3", method=layer, category=category)
            assert found["c"] == CS[chosen[layer, category]]


def test_a_c_that_was_not_trained_is_refused(made: Classified) -> None:
    with pytest.raises(DistcorrError, match="1e-06") as caught:
        table3(made, EvaluationConfig(c=0.5), SEED)
    assert caught.value.exit_code == 2


def test_a_c_at_the_end_of_those_trained_is_noted(tmp_path: Path) -> None:
    answers = {
        pair: [(f, i, t, [t, *p[1:]]) for f, i, t, p in samples]  # 1e-3, the largest, is all right
        for pair, samples in ANSWERS.items()
    }
    _, notes = table3(opened(write(tmp_path, answers)), CONFIG, SEED)
    said = [note for note in notes if "smallest or largest" in note]
    assert said == [
        "The chosen C is the smallest or largest that was trained for conv1, conv4, sift10, sift20."
    ]


def test_layers_that_lack_photographs_or_a_category(tmp_path: Path) -> None:
    """Others draw the same photographs as before, and the difference is said."""
    answers = {pair: list(samples) for pair, samples in ANSWERS.items()}
    answers["conv1", "bird"] = [s for s in answers["conv1", "bird"] if s[1] != "bird-1-0"]
    lost = len(ANSWERS["conv1", "bird"]) - len(answers["conv1", "bird"])
    assert lost
    del answers["sift10", "cat"]
    answers["conv4", "cat"] = [s for s in answers["conv4", "cat"] if s[0] != -1]  # all broken
    rows, notes = table3(opened(write(tmp_path / "less", answers)), CONFIG, SEED)
    whole, _ = table3(opened(write(tmp_path / "whole", ANSWERS)), CONFIG, SEED)

    def of(table: list[dict[str, Any]], layer: str, category: str) -> dict[str, Any]:
        return row(table, table="table3", method=layer, category=category)

    for category in NAMES:
        assert of(rows, "sift20", category) == of(whole, "sift20", category)
    assert of(rows, "conv1", "bird")["n"] == of(whole, "conv1", "bird")["n"] - lost
    images = {"others": of_validation("conv4", "bird", False)}
    kept = [s for s in of_validation("conv1", "bird", False) if s[0] != "bird-1-0"]
    wanted = 100 * np.quantile(loop("bird", {**images, "method": kept}), [0.025, 0.975])
    found = of(rows, "conv1", "bird")
    np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)
    for layer in ("sift10", "conv4"):
        values = [of(rows, layer, c)["value"] for c in ("bird", "mean")]
        assert values[0] == values[1]
        assert f"{layer} has no answers in cat; its mean is over the others." in notes
    total = of(whole, "conv1", "bird")["n"]
    assert f"bird: of {total} validation keypoints, fewer have conv1 ({total - lost})." in notes
    gains = [each["category"] for each in rows if each["table"] == "table3-gain"]
    assert gains == ["bird", "mean"]


def test_the_same_photographs_in_another_order_give_the_same_rows(
    made: Classified, tmp_path: Path
) -> None:
    turned = {pair: samples[::-1] for pair, samples in ANSWERS.items()}
    other = opened(write(tmp_path, turned))
    assert table3(other, CONFIG, SEED) == table3(made, CONFIG, SEED)
    assert figure5(other, CONFIG, SEED) == figure5(made, CONFIG, SEED)


@pytest.mark.parametrize(
    ("layer", "sift"),
    [("sift20", True), ("dsift8", True), ("conv4", False), ("block10", False), ("x:sift1", False)],
)
def test_what_is_sift(layer: str, sift: bool) -> None:
    assert is_sift(layer) == sift


def test_best_of_a_kind_that_is_not_there(tmp_path: Path) -> None:
    found = opened(write(tmp_path, drawn_answers(["conv1"])))
    chosen = found.choose(0, "layer")
    assert best(found, chosen, of_sift=False) == "conv1"
    assert best(found, chosen, of_sift=True) == ""


# -- Figure 5 and confusion --------------------------------------------------------------------


def test_curves_are_means_over_folds(made: Classified) -> None:
    rows = figure5(made, CONFIG, SEED)
    assert len(rows) == len(LAYERS) * (len(NAMES) + 1) * len(CS)
    for layer in LAYERS:
        curve = [r for r in rows if (r["layer"], r["category"]) == (layer, "mean")]
        assert [each["c"] for each in curve] == sorted(CS)
        for index, c in enumerate(CS):
            values, samples = [], []
            for category in NAMES:
                held = [s for s in ANSWERS[layer, category] if s[0] != -1]
                folds = [[p[index] == t for f, _, t, p in held if f == n] for n in range(3)]
                values.append(100 * np.mean([np.mean(fold) for fold in folds]))
                found = row(rows, layer=layer, category=category, c=c)
                assert found["value"] == pytest.approx(values[-1], abs=0.00501)
                assert found["n"] == len(held)
                right = [(image, fold, p[index] == t) for fold, image, t, p in held]
                samples.append(loop(category, {"method": right}))
                wanted = 100 * np.quantile(samples[-1], [0.025, 0.975])
                np.testing.assert_allclose([found["low"], found["high"]], wanted, atol=0.00501)
            found = row(curve, c=c)
            assert found["value"] == pytest.approx(np.mean(values), abs=0.00501)


def test_confusion_is_scikit_learns(made: Classified) -> None:
    rows = confusion(made, CONFIG)
    for layer in LAYERS:
        for category, names in NAMES.items():
            index = chosen_c(layer)
            samples = [s for s in ANSWERS[layer, category] if s[0] == -1]
            wanted = confusion_matrix(
                [t for *_, t, _ in samples],
                [p[index] for *_, p in samples],
                labels=range(len(names)),
            )
            given, counts = confused(made, layer, category, index)
            assert given == names
            np.testing.assert_array_equal(counts, wanted)
            mine = [r for r in rows if (r["layer"], r["category"]) == (layer, category)]
            assert {(r["truth"], r["predicted"]): r["count"] for r in mine} == {
                (names[t], names[p]): wanted[t, p] for t, p in np.argwhere(wanted)
            }
            assert {r["c"] for r in mine} == {CS[index]}


def test_settings_say_how_c_was_chosen_and_that_it_is_a_control(made: Classified) -> None:
    trained = {"folds": 5, "intercept": "free", "feature_norm": "unit", "control": "none"}
    said = settings(made, trained, CONFIG)
    assert "one C for each layer by 5-fold cross-validation, out of 1e-06, 1e-05" in said
    assert "free intercept" in said
    assert "unit features" in said
    assert "CONTROL" not in said
    fixed = settings(made, trained | {"control": "shuffled-labels"}, EvaluationConfig(c=1e-5))
    assert "features, C 1e-05." in fixed
    assert "CONTROL, shuffled-labels" in fixed

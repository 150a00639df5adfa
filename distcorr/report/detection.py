"""Section 5 from saved predictions: Table 4, its gains, its keypoint types, and what it rests on.

Every keypoint is predicted for every weight of the prior, so a choice of eta is a look-up here. PCK
and its intervals are Table 2's: photographs are drawn within each category, the same ones for all
methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distcorr.config import EvaluationConfig
from distcorr.data.detectors import Detected
from distcorr.data.run import Run, StageFolder
from distcorr.errors import DistcorrError
from distcorr.report import counting
from distcorr.report.classification import is_sift
from distcorr.report.counting import Floats
from distcorr.report.predictions import PREDICTIONS
from distcorr.report.score import MEAN, Score, gains, per_cent

PRIOR = "prior only"
WITH, REFINED = " + prior", " refined"
RANDOM = ", random negatives"  # as a detector is before anything is mined

Rows = list[dict[str, Any]]
_Pair = tuple[str, str]  # layer or method, category
_Scores = Mapping[_Pair, Score]


class Opened(NamedTuple):
    """A run whose ``detect`` is finished and up to date.

    Attributes:
        stage: it.
        detected: what it predicted.
        trained: the settings of its detectors, as the manifest has them.
        prior: name of the table that the prior found neighbours by.
        etas: (layer, category) -> the weight that the report uses.
        evaluation: thresholds and intervals.
        seed: of the bootstrap.
    """

    stage: StageFolder
    detected: Detected
    trained: dict[str, Any]
    prior: str
    etas: dict[_Pair, float]
    evaluation: EvaluationConfig
    seed: int


def opened(run: Run, evaluation: EvaluationConfig | None = None) -> Opened:
    """What Table 4 and its figures are made from; ``evaluation`` in place of the run's own.

    Raises:
        DistcorrError: ``detect`` is unfinished or out of date, or nothing was predicted with
            ``evaluation.eta``.
    """
    config, stage = run.config(), run.finished("detect")
    if config is None or stage is None:
        raise DistcorrError(
            f"{run} has no detect that is finished and up to date.",
            f"distcorr detect -r {run}   (or distcorr run, which does every stage in order)",
        )
    # Of this stage, as its manifest says: the run may have been used with other settings since.
    entry = run.manifest()["stages"]["detect"]
    detected, wanted = Detected(stage), evaluation or config.evaluation
    etas = dict.fromkeys(detected.pairs, wanted.eta)
    if wanted.eta == -1:
        etas = detected.choose(wanted.choose)
    return Opened(stage, detected, entry["detect"], entry["prior"], etas, wanted, config.seed)


def table4(made: Opened) -> tuple[Rows, list[str], pa.Table]:
    """Table 4: PCK of detected keypoints by layer, without and with the prior, and their mean.

    ``table4-refined`` has the same methods with predictions between positions. ``table4-gain`` is
    paired: what the prior adds to each layer, what a convnet's layer adds to the prior, the best
    convnet's layer against the best SIFT, each by cross-validation, and what refinement adds. A
    mean is over the categories that a method has, a gain's over those that both have.
    ``table4-keypoints`` has every keypoint type.

    Returns:
        rows with table, method, category, alpha, eta (of the mean where its categories share one;
        a gain has none), value, low, high (per cent) and n; for ``table4-keypoints`` table, method,
        category, keypoint, alpha (the first), n, value and median (of the errors, in units of alpha
        times max(h, w); None where most have no prediction). Notes. And all predictions.

    Raises:
        DistcorrError: nothing was predicted with ``evaluation.eta``.
    """
    found, config = predictions(made.detected, made.etas), made.evaluation
    if not found.num_rows:
        return [], made.detected.notes, found
    values, _ = counting.scores(found, config, made.seed)
    etas = _etas(made)
    rows = [
        row
        for (method, category), score in _by_method(values)
        for row in counting.rows(
            "table4-refined" if method.endswith(REFINED) else "table4",
            *(method, category, score, config),
            eta=etas.get((method.removesuffix(REFINED), category)),
        )
    ]
    rows.sort(key=lambda row: str(row["table"]))
    rows += [
        row
        for one, other in _compared(made, values)
        for category, gain in gains(values, one, other).items()
        for row in counting.rows("table4-gain", f"{one} minus {other}", category, gain, config)
    ]
    rows += _keypoints(found, config)
    notes = [settings(made), *made.detected.notes, *_left_out(made), *_unended(made)]
    return rows, [*notes, *_lacking(made.detected), *_unpredicted(found)], found


def predictions(detected: Detected, etas: Mapping[_Pair, float]) -> pa.Table:
    """Every prediction of every method on the validation photographs, in Table 2's columns.

    Args:
        detected: what was predicted.
        etas: (layer, category) -> weight of the prior.

    Raises:
        DistcorrError: nothing was predicted with one of ``etas``.
    """
    tables = [PREDICTIONS.empty_table()]

    def add(
        method: str, layer: str, category: str, eta: float, refined: bool, mined: bool = True
    ) -> None:
        table = detected.validation(layer, category, eta, refined, mined)
        names = pa.array([method] * len(table), pa.string())
        columns = {n: table[n] for n in PREDICTIONS.names[1:]}
        tables.append(pa.table({"method": names} | columns).cast(PREDICTIONS))

    for layer in detected.layers:
        own = [category for of, category in detected.pairs if of == layer]
        for category in own if all(detected.mined(layer, c) for c in own) else ():
            add(layer + RANDOM, layer, category, 0.0, False, mined=False)
        for refined in sorted({refined for _, refined in detected.variants}):
            end = REFINED if refined else ""
            for category in own:
                add(layer + end, layer, category, 0.0, refined)
            for category in own:
                add(layer + WITH + end, layer, category, etas[layer, category], refined)
    layer = of_prior(detected)
    for category in [category for of, category in detected.pairs if of == layer]:
        add(PRIOR, layer, category, 1.0, False)
    return pa.concat_tables(tables)


def of_prior(detected: Detected) -> str:
    """The layer whose prior stands for all, as they share it: the first with most categories."""
    layers = [layer for layer, _ in detected.pairs]
    return max(detected.layers, key=layers.count, default="")


def best(detected: Detected, *, of_sift: bool) -> str:
    """The SIFT, or the layer of a network, that cross-validation finds best; "" if there is none.

    By the mean PCK over the categories that all of its kind have, with the best eta. Without folds
    the first in the plan.
    """
    layers = [layer for layer in detected.layers if is_sift(layer) == of_sift]
    rates: dict[str, list[Floats]] = {layer: [] for layer in layers}
    for category in detected.categories if len(layers) > 1 else ():
        if all((layer, category) in detected.pairs for layer in layers):
            found = [held_out(detected, layer, category) for layer in layers]
            for layer, pck in zip(layers, found, strict=True):
                if pck is not None and all(each is not None for each in found):
                    rates[layer].append(pck)
    means = {layer: np.mean(each, axis=0).max() if each else 0.0 for layer, each in rates.items()}
    return max(layers, key=lambda layer: float(means[layer]), default="")


def held_out(detected: Detected, layer: str, category: str) -> Floats | None:
    """(E,) PCK@0.1, 0 to 1, of each of ``etas`` in cross-validation; None where it has no folds."""
    return detected.accuracy(layer, category) if detected.folds(layer, category) else None


# -- rows --------------------------------------------------------------------------------------


def _by_method(values: _Scores) -> list[tuple[_Pair, Score]]:
    """Method by method, the categories as they come."""
    methods = list(dict.fromkeys(method for method, _ in values))
    return sorted(values.items(), key=lambda each: methods.index(each[0][0]))


def _etas(made: Opened) -> dict[_Pair, float]:
    """(method, category) -> eta; of the mean, where its categories share one."""
    etas: dict[_Pair, float] = {}
    for (layer, category), eta in made.etas.items():
        etas |= {(layer + RANDOM, category): 0.0, (layer, category): 0.0}
        etas |= {(layer + WITH, category): eta, (PRIOR, category): 1.0}
    for method in {method for method, _ in etas}:
        shared = {eta for (of, _), eta in etas.items() if of == method}
        if len(shared) == 1:
            etas[method, MEAN] = shared.pop()
    return etas


def _compared(made: Opened, values: _Scores) -> list[tuple[str, str]]:
    """The pairs of methods of ``table4-gain``."""
    layers, methods = made.detected.layers, {method for method, _ in values}
    pairs = [(layer, layer + RANDOM) for layer in layers]
    pairs += [(layer + WITH, layer) for layer in layers]
    pairs += [(layer + WITH, PRIOR) for layer in layers if not is_sift(layer)]
    conv, sift = (best(made.detected, of_sift=each) for each in (False, True))
    if conv and sift:
        pairs.append((conv + WITH, sift + WITH))
    pairs += [(layer + end + REFINED, layer + end) for layer in layers for end in ("", WITH)]
    return [(one, other) for one, other in pairs if {one, other} <= methods]


def _keypoints(found: pa.Table, config: EvaluationConfig) -> Rows:
    """PCK and error of every keypoint type, by the first threshold."""
    rows: Rows = []
    alpha = config.alphas[0]
    for method, of_method in counting.by(found, "method"):
        for category, of_category in counting.by(of_method, "category"):
            error = counting.errors(of_category) / (alpha * of_category["scale"].to_numpy())
            of_type = np.array(of_category["keypoint"].to_pylist())
            right = counting.correct(of_category, alpha, config)
            for keypoint in dict.fromkeys(of_type.tolist()):
                mine = of_type == keypoint
                median = float(np.median(error[mine]))
                rows.append(
                    {"table": "table4-keypoints", "method": method, "category": category}
                    | {"keypoint": keypoint, "alpha": alpha, "n": int(mine.sum())}
                    | {"value": per_cent(right[mine].mean())}
                    | {"median": round(median, 3) if np.isfinite(median) else None}
                )
    return rows


# -- notes -------------------------------------------------------------------------------------


def control(trained: Mapping[str, Any]) -> str:
    """What must be said wherever the numbers stand, if they are of a control; else ""."""
    if trained["control"] == "none":
        return ""
    return f"CONTROL in Table 4 (detect.control = {trained['control']}): PCK must fall"


def settings(made: Opened) -> str:
    """What the numbers rest on, in one line."""
    t = made.trained
    few = f", {t['instances']} training instances per category at most" if t["instances"] else ""
    said = (
        f"Keypoints detected by {' and '.join(made.detected.layers)}: linear SVMs, C {t['c']:g}, "
        f"positives {t['positive_weight']:g} times, {t['first']} random negatives per instance, "
        f"{t['rounds']} rounds of mining at {t['hardest']} per keypoint, {t['cache']} mined at "
        f"most{few}; prior of {t['sigma']:g} px of 500 about the neighbour's by "
        f"{made.prior.partition('/')[2]}, alone at the positions of {of_prior(made.detected)}; "
        f"{_chosen(made)}."
    )
    return f"{said} {text}." if (text := control(t)) else said


def _chosen(made: Opened) -> str:
    """Which eta, and why."""
    tried = ", ".join(f"{eta:g}" for eta in sorted(made.detected.etas))
    if made.evaluation.eta != -1:
        return f"eta {made.evaluation.eta:g} as asked for (tried: {tried})"
    if len(made.detected.etas) == 1:
        return f"eta {tried}, the only one tried"
    of_layer = {
        layer: sorted({eta for (of, _), eta in made.etas.items() if of == layer})
        for layer in made.detected.layers
    }
    listed = ", ".join(f"{x} {' to '.join(_ends(etas))}" for x, etas in of_layer.items())
    shared = {"layer": "each layer", "category": "each layer and category", "all": "everything"}
    by = f"one for {shared[made.evaluation.choose]} by {made.trained['folds']}-fold"
    return f"eta {listed}, {by} cross-validation, out of {tried}"


def _ends(etas: list[float]) -> list[str]:
    return [f"{eta:g}" for eta in dict.fromkeys((etas[0], etas[-1]))]


def _left_out(made: Opened) -> list[str]:
    dead = {letter.id.rpartition(" (")[0] for letter in made.stage.dead_letters()}
    if not dead:
        return []
    return [f"{len(dead)} instances have features that are not finite: neither learnt nor found."]


def _unended(made: Opened) -> list[str]:
    """Layers whose mining its limits ended, and what it had not looked at by then."""
    notes, rounds = [], made.trained["rounds"]
    for layer in made.detected.layers if rounds else ():
        pairs = [pair for pair in made.detected.pairs if pair[0] == layer]
        states = [made.detected.model(*pair)[1] for pair in pairs]
        open_ = [state for state in states if state.found and not state.ended]
        if open_:
            last = sum(sum(state.found[-1]) for state in open_)
            notes.append(
                f"{layer}: mining ended at its limit of {rounds} rounds in {len(open_)} of "
                f"{len(states)} categories; before the last, {last} negatives outside the caches "
                "were above the margin."
            )
        full = [category for (_, category), state in zip(pairs, states, strict=True) if state.full]
        if full:
            notes.append(f"{layer}: detect.cache was full in {', '.join(full)}.")
    return notes


def _lacking(detected: Detected) -> list[str]:
    notes = []
    for layer in detected.layers:
        without = [c for c in detected.categories if (layer, c) not in detected.pairs]
        if without:
            listed = ", ".join(without)
            notes.append(f"{layer} detects nothing in {listed}; its mean is over the others.")
    return notes


def _unpredicted(found: pa.Table) -> list[str]:
    """Keypoints without a prediction, which count as wrong: whole types, and instances."""
    notes = []
    for method, of_method in counting.by(found, "method"):
        if method.endswith((WITH, REFINED)):
            continue  # as without
        for category, table in counting.by(of_method, "category"):
            if never := counting.never_predicted(table):
                listed = ", ".join(never)
                notes.append(f"{category}: {method} never predicts {listed}; they count 0.")
            other = ~np.isin(table["keypoint"].to_pylist(), never)
            lost = int((np.isinf(counting.errors(table)) & other).sum())
            if lost:
                of = f"{lost} of {len(table)} validation keypoints"
                notes.append(f"{category}: {method} predicts nothing for {of}; they are wrong.")
    return notes

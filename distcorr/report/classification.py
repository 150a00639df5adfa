"""Section 4 from saved answers: Table 3, the curves of Figure 5, confusion of keypoint types.

Every classifier was trained for every C, so a choice of C is a look-up here. A right answer counts
as a distance of 0 and a wrong one as inf: counts, bootstrap and intervals are those of PCK.
Photographs are drawn within each category, the same ones for every layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.data.classified import Answers, Classified
from distcorr.report.score import MEAN as MEAN
from distcorr.report.score import Score, gains, mean, per_cent

BASELINE = "most frequent type"

_SIFT = re.compile(r"d?sift\d+")

Rows = list[dict[str, Any]]
_Pair = tuple[str, str]  # layer or method, category


def table3(classified: Classified, config: EvaluationConfig, seed: int) -> tuple[Rows, list[str]]:
    """Table 3: accuracy on the validation photographs by layer and category, and the mean.

    ``table3`` counts right answers over all keypoints of a category, ``table3-macro`` is the mean
    over keypoint types. Both have a row that always answers the commonest type of the training
    photographs. ``table3-gain`` is paired: the best layer of a network minus the best SIFT, each by
    cross-validation, so that the validation photographs choose nothing.

    Args:
        classified: the answers.
        config: which C, how many resamples, which level.
        seed: of the bootstrap.

    Returns:
        rows with table, method (the layer), category, c, value, low, high (per cent) and n; the
        mean has a c where all categories share it, a gain has none. And notes.

    Raises:
        DistcorrError: the C that is asked for was not trained.
    """
    chosen = classified.choose(config.c, config.choose)
    answers = _by_chosen(classified, chosen)
    micro = _scores(answers, lambda each: np.zeros_like(each.truth), config, seed)
    macro = _scores(answers, lambda each: each.truth, config, seed)
    cs = _cs(classified, chosen)
    rows: Rows = [
        {"table": table, "method": method, "category": category, "c": cs.get((method, category))}
        | _measured(score, config)[0]
        for table, scores in (("table3", micro), ("table3-macro", macro))
        for (method, category), score in scores.items()
    ]
    notes = [*_lacking(classified, micro), *_unlike(classified, micro)]
    if not config.c:
        notes += _at_the_end(classified, chosen)
    conv, sift = (best(classified, chosen, of_sift=of_sift) for of_sift in (False, True))
    if conv and sift:
        rows += [
            {"table": "table3-gain", "method": f"{conv} minus {sift}", "category": category}
            | _measured(gain, config)[0]
            for category, gain in gains(micro, conv, sift).items()
        ]
        notes.append(f"{conv} minus {sift}: each the best of its kind in cross-validation.")
    return rows, notes


def figure5(classified: Classified, config: EvaluationConfig, seed: int) -> Rows:
    """Figure 5: accuracy in cross-validation for every C, the mean over folds.

    Returns:
        rows with table, layer, category (and ``"mean"`` over categories), c, value, low, high (per
        cent) and n, by rising c.
    """
    answers = {pair: classified.held_out(*pair) for pair in classified.pairs}
    scores = _scores(answers, lambda each: each.fold, config, seed)
    return [
        {"table": "figure5", "layer": layer, "category": category, "c": c} | measured
        for (layer, category), score in scores.items()
        for c, measured in sorted(
            zip(classified.cs, _measured(score, config), strict=True), key=lambda each: each[0]
        )
    ]


def confusion(classified: Classified, config: EvaluationConfig) -> Rows:
    """What each layer takes for what on the validation photographs, by its chosen C.

    Returns:
        rows with table, layer, category, c, truth, predicted, count; pairs that never occur have
        none.
    """
    rows: Rows = []
    for (layer, category), index in classified.choose(config.c, config.choose).items():
        names, counts = confused(classified, layer, category, index)
        rows += [
            {"table": "confusion", "layer": layer, "category": category, "c": classified.cs[index]}
            | {"truth": names[t], "predicted": names[p], "count": int(counts[t, p])}
            for t, p in np.argwhere(counts)
        ]
    return rows


def confused(
    classified: Classified, layer: str, category: str, index: int
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Names of the K keypoint types, and (K, K) how often the row's was taken for the column's.

    Args:
        classified: the answers; those on the validation photographs count.
        layer: of the features.
        category: of the keypoints.
        index: of C in ``classified.cs``.
    """
    names, answers = classified.names[category], classified.validation(layer, category)
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (answers.truth, answers.predicted[:, index]), 1)
    return names, counts


def is_sift(layer: str) -> bool:
    """Whether a layer is SIFT; all others are of a network."""
    return _SIFT.fullmatch(layer) is not None


def best(classified: Classified, chosen: Mapping[_Pair, int], *, of_sift: bool) -> str:
    """The SIFT, or the layer of a network, that cross-validation finds best; "" if there is none.

    By the mean share of right answers, each with its chosen C, over the categories that all of its
    kind have.
    """
    layers = [layer for layer in classified.layers if is_sift(layer) == of_sift]
    shares: dict[str, list[float]] = {layer: [] for layer in layers}
    for category in classified.categories:
        if all((layer, category) in chosen for layer in layers):
            for layer in layers:
                answers = classified.held_out(layer, category)
                right = answers.predicted[:, chosen[layer, category]] == answers.truth
                shares[layer].append(float(np.mean(right)))
    return max(layers, key=lambda layer: sum(shares[layer]), default="")


# -- counting ----------------------------------------------------------------------------------


def _by_chosen(classified: Classified, chosen: Mapping[_Pair, int]) -> dict[_Pair, Answers]:
    """The answers to validation by the chosen C alone, (n, 1), and those of the baseline."""
    found: dict[_Pair, Answers] = {}
    for pair in classified.pairs:
        answers = classified.validation(*pair)
        if len(answers.truth):  # else all were broken, and left out
            found[pair] = answers._replace(predicted=answers.predicted[:, [chosen[pair]]])
    for category in sorted({category for _, category in found}):
        layers = [layer for layer, of in found if of == category]
        most = max(layers, key=lambda layer: len(found[layer, category].truth))
        commonest = np.bincount(classified.held_out(most, category).truth).argmax()
        answers = found[most, category]
        always = np.full_like(answers.predicted, commonest)
        found[BASELINE, category] = answers._replace(predicted=always)
    return found


def _scores(
    answers: Mapping[_Pair, Answers],
    group: Callable[[Answers], npt.NDArray[np.integer[Any]]],
    config: EvaluationConfig,
    seed: int,
) -> dict[_Pair, Score]:
    """Accuracy for each C: the share of right answers in each group, and the mean over groups.

    Returns:
        method by method, for each of its categories and, last, their mean.
    """
    categories = sorted({category for _, category in answers})
    images: dict[str, set[str]] = defaultdict(set)
    for (_, category), each in answers.items():
        images[category].update(each.image)
    # Numbered alike for all methods, also for one that lacks some: so they draw the same ones.
    photographs = {c: {name: n for n, name in enumerate(sorted(images[c]))} for c in categories}
    scores: dict[_Pair, Score] = {}
    for method in dict.fromkeys(method for method, _ in answers):
        own = [category for category in categories if (method, category) in answers]
        for category in own:
            found, number = answers[method, category], photographs[category]
            photograph = np.array([number[image] for image in found.image])
            seeds = [seed, categories.index(category)]
            scores[method, category] = _score(
                found, group(found), photograph, len(number), config.resamples, seeds
            )
        scores[method, MEAN] = mean([scores[method, category] for category in own])
    return scores


def _score(
    answers: Answers,
    group: npt.NDArray[np.integer[Any]],
    photograph: npt.NDArray[np.integer[Any]],
    photographs: int,
    resamples: int,
    seed: list[int],
) -> Score:
    """One method in one category; ``group`` stands where PCK has the keypoint type."""
    distance = np.where(answers.predicted == answers.truth[:, None], 0.0, np.inf)
    scale, groups = np.ones(len(distance)), int(group.max()) + 1
    counted = [
        pck.counts(column, scale, group, photograph, [1.0], groups, n_photographs=photographs)
        for column in distance.T
    ]
    correct, total = np.concatenate([each for each, _ in counted]), counted[0][1]
    samples = pck.bootstrap(correct, total, resamples=resamples, seed=seed)
    return Score(pck.pck(correct, total), samples, len(distance))


def _measured(score: Score, config: EvaluationConfig) -> Rows:
    """Value, interval and n for each C; where no draw has a keypoint, the value is all there is."""
    bounds = (
        np.where(np.isnan(b), score.value, b) for b in pck.interval(score.samples, config.level)
    )
    return [
        {"value": per_cent(v), "low": per_cent(a), "high": per_cent(b), "n": score.n}
        for v, a, b in zip(score.value, *bounds, strict=True)
    ]


def _cs(classified: Classified, chosen: Mapping[_Pair, int]) -> dict[_Pair, float]:
    """(layer, category) -> the chosen C; for the mean, where its categories share one."""
    cs = {pair: classified.cs[index] for pair, index in chosen.items()}
    for layer in classified.layers:
        shared = {c for (of, _), c in cs.items() if of == layer}
        if len(shared) == 1:
            cs[layer, MEAN] = shared.pop()
    return cs


# -- notes -------------------------------------------------------------------------------------


def settings(classified: Classified, trained: Mapping[str, Any], config: EvaluationConfig) -> str:
    """What the numbers rest on, in one line; ``trained``: the settings of ``classify``."""
    shared = {
        "layer": "each layer",
        "category": "each layer and category",
        "all": "all layers and categories",
    }
    by = shared[config.choose]
    tried = ", ".join(f"{c:g}" for c in sorted(classified.cs))
    c = f"one C for {by} by {trained['folds']}-fold cross-validation, out of {tried}"
    said = (
        f"One-vs-rest linear SVMs (squared hinge, {trained['intercept']} intercept) on "
        f"{trained['feature_norm']} features, {f'C {config.c:g}' if config.c else c}."
    )
    if trained["control"] != "none":
        said += f" CONTROL, {trained['control']}: accuracy must fall to chance."
    return said


def _lacking(classified: Classified, scores: Mapping[_Pair, Score]) -> list[str]:
    notes = []
    for layer in classified.layers:
        without = [c for c in classified.categories if (layer, c) not in scores]
        if without:
            listed = ", ".join(without)
            notes.append(f"{layer} has no answers in {listed}; its mean is over the others.")
    return notes


def _unlike(classified: Classified, scores: Mapping[_Pair, Score]) -> list[str]:
    notes = []
    for category in classified.categories:
        layers = [layer for layer in classified.layers if (layer, category) in scores]
        counts = {layer: scores[layer, category].n for layer in layers}
        most = max(counts.values(), default=0)
        fewer = ", ".join(f"{layer} ({n})" for layer, n in counts.items() if n < most)
        if fewer:
            notes.append(f"{category}: of {most} validation keypoints, fewer have {fewer}.")
    return notes


def _at_the_end(classified: Classified, chosen: Mapping[_Pair, int]) -> list[str]:
    """A C at an end of those trained may not be the best there is."""
    ends = {min(classified.cs, default=0.0), max(classified.cs, default=0.0)}
    found = [layer for (layer, _), index in chosen.items() if classified.cs[index] in ends]
    if len(ends) < 2 or not found:
        return []
    listed = ", ".join(dict.fromkeys(found))
    return [f"The chosen C is the smallest or largest that was trained for {listed}."]

"""Scores of what is counted of several methods in one category, and their means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from distcorr.algorithms import pck
from distcorr.config import EvaluationConfig
from distcorr.report import counting
from distcorr.report.score import MEAN, Score, mean

Counted = tuple[pck.Counts, pck.Counts]  # correct (A, P, K) and total (P, K)


def scores(
    counted: Mapping[str, Counted], config: EvaluationConfig, seed: Sequence[int]
) -> dict[str, Score]:
    """Method -> its score. Those of the same keypoints are drawn together, which is what costs."""
    alike: dict[bytes, list[str]] = defaultdict(list)
    for method, (_, total) in counted.items():
        alike[total.tobytes()].append(method)
    found: dict[str, Score] = {}
    for methods in alike.values():
        total = counted[methods[0]][1]
        correct = np.concatenate([counted[method][0] for method in methods])
        score = counting.score(correct, total, config, seed)
        value, samples = (np.split(a, len(methods)) for a in (score.value, score.samples))
        for method, own, drawn in zip(methods, value, samples, strict=True):
            found[method] = Score(own, drawn, score.n)
    return found


def with_mean(scores: Mapping[tuple[str, str], Score], method: str) -> dict[str, Score]:
    """Category -> a method's score, and the mean."""
    own = {category: score for (of, category), score in scores.items() if of == method}
    return {**own, MEAN: mean(list(own.values()))} if own else {}

"""PCK of small, large and truncated instances, from saved predictions; not in the paper."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from distcorr.algorithms import pck, slices
from distcorr.config import EvaluationConfig
from distcorr.report import comparison_notes, counting
from distcorr.report.counted import scores as scores_of
from distcorr.report.counted import with_mean
from distcorr.report.points import Integers, Numbered, Points
from distcorr.report.score import MEAN, Score

_OF_SLICES = 2  # added to the seed: other random numbers than Table 2's, and than the swaps'
_SLICES = (*slices.SIZES, *slices.TRUNCATION)  # each draws its own random numbers


def sliced(
    data: Numbered, config: EvaluationConfig, seed: int, table: str, with_truncation: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """PCK by size and by truncation, and what these are.

    Args:
        data: the predictions.
        config: thresholds, and how many resamples.
        seed: of the bootstrap.
        table: name of these rows.
        with_truncation: whether the notes are to tell of it.

    Returns:
        rows with table, method, category, alpha, slice, value, low, high, n (keypoints) and
        instances; and notes.
    """
    edges = slices.terciles(data.sizes)
    scores: dict[str, dict[tuple[str, str], Score]] = {}
    instances: Counter[tuple[str, str, str]] = Counter()
    for names, numbers in _cuts(data, edges):
        for c, category in enumerate(data.categories):
            counted = {
                method: slices.counts_by_slice(
                    *(p.distance, p.scale, p.keypoint, p.photograph),
                    *(numbers(p), config.alphas, len(category.types), len(names)),
                    le=config.inclusive,
                )
                for method, p in category.points.items()
            }
            for s, name in enumerate(names):
                own = {method: each[s] for method, each in counted.items() if each[s][1].any()}
                found = scores_of(own, config, [seed, c, _OF_SLICES + _SLICES.index(name)])
                of = {(method, category.name): score for method, score in found.items()}
                scores.setdefault(name, {}).update(of)
                for method in own:
                    p = category.points[method]
                    many = len(np.unique(p.instance[numbers(p) == s]))
                    instances[method, name, category.name] = many
                    instances[method, name, MEAN] += many
    rows = [
        row | {"instances": instances[method, name, category]}
        for method in data.methods
        for name, of in scores.items()
        for category, score in with_mean(of, method).items()
        for row in counting.rows(table, method, category, score, config, slice=name)
    ]
    notes = [comparison_notes.sizes(data, edges, {n: scores[n] for n in slices.SIZES})]
    return rows, notes + [comparison_notes.truncation(data)] * with_truncation


def _cuts(
    data: Numbered, edges: pck.Floats
) -> list[tuple[tuple[str, ...], Callable[[Points], Integers]]]:
    """Names of slices, and what numbers them; by truncation only where something is truncated."""
    found: list[tuple[tuple[str, ...], Callable[[Points], Integers]]] = [
        (slices.SIZES, lambda p: slices.size_class(p.scale, edges))
    ]
    if (data.truncated == slices.TRUNCATION.index("truncated")).any():
        found.append((slices.TRUNCATION, lambda p: p.truncated))
    return found

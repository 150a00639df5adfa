"""Which differences there are, which errors, and where: statistics of saved predictions.

Three tables beside a table of PCK and its gains: how sure the difference of two methods is, which
kinds of error a method makes, and its PCK on small, large and truncated instances. Not in the
paper.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distcorr.algorithms import comparison, error_types, pck
from distcorr.config import EvaluationConfig
from distcorr.report import comparison_notes, counting
from distcorr.report.counted import Counted, scores, with_mean
from distcorr.report.points import Category, Integers, Numbered, Points, numbered
from distcorr.report.score import MEAN, Score, gains, per_cent
from distcorr.report.sliced import sliced

Rows = list[dict[str, Any]]
Pair = tuple[str, str]  # of methods
_OF_SWAPS = 1  # added to the seed: other random numbers than Table 2's; slices add 2 and more


def rows(
    predictions: pa.Table,
    pairs: Iterable[Pair],
    config: EvaluationConfig,
    seed: int,
    table: str,
    truncated: Mapping[str, bool | None] | None = None,
) -> tuple[Rows, list[str]]:
    """The three tables; values are in per cent, or per cent points, and n is of keypoints.

    - ``<table>-comparison``: as of ``paired``.
    - ``<table>-errors``: of every method and category, and of the mean, the share of each kind of
      error at the first threshold. They sum to 100, and "correct" is PCK.
    - ``<table>-slices``: PCK of every method and category, and of the mean, by size of the box and,
      if any instance is truncated, of these and of the whole ones; with how many instances.

    Args:
        predictions: rows of the schema ``PREDICTIONS``.
        pairs: methods that are compared, the first minus the second.
        config: thresholds, and how many resamples.
        seed: of the bootstrap, and of the swaps.
        table: that these stand beside, "table2" or "table4".
        truncated: instance -> whether it is, None where the annotations do not say; without it
            there is no word of truncation.

    Returns:
        rows, and what a reader must know. A pair is compared in the categories that both methods
        have; every mean is over the categories that there are.
    """
    if not predictions.num_rows:
        return [], []
    data = numbered(predictions, truncated)
    counted = [
        {method: _counted(points, category, config) for method, points in category.points.items()}
        for category in data.categories
    ]
    scored = _by_category(data, counted, config, seed)
    pcks = {key: _part(score, slice(len(config.alphas))) for key, score in scored.items()}
    kinds = {key: _part(score, slice(len(config.alphas), None)) for key, score in scored.items()}
    terms, notes = _terms(data, counted, list(pairs), len(config.alphas))
    compared, said = _compared(terms, pcks, config, seed, f"{table}-comparison")
    of_slices, about = sliced(data, config, seed, f"{table}-slices", truncated is not None)
    errors = _errors(data.methods, kinds, config, f"{table}-errors")
    notes += [*said, comparison_notes.errors(config.alphas[0]), *about]
    return compared + errors + of_slices, notes


def paired(
    predictions: pa.Table,
    pairs: Iterable[Pair],
    config: EvaluationConfig,
    seed: int,
    table: str,
    measure: str = "",
) -> tuple[Rows, list[str]]:
    """``<table>-comparison``: how sure the differences of pairs of methods are.

    Of every pair, category and threshold, and of the mean, the row of ``<table>-gain`` with how
    many photographs; p of the permutation test; p_holm, corrected for all categories (None for the
    mean); and mdd, the difference that would be found 4 times out of 5 (None where methods never
    differ).

    Args:
        predictions: as of ``rows``, like the others.
        pairs: likewise.
        config: likewise.
        seed: likewise.
        table: likewise.
        measure: what is compared, for the notes; PCK at the first threshold if not given.

    Returns:
        as ``rows``.
    """
    if not predictions.num_rows:
        return [], []
    data = numbered(predictions)
    counted = [
        {method: _tallied(points, category, config) for method, points in category.points.items()}
        for category in data.categories
    ]
    scored = _by_category(data, counted, config, seed)
    terms, notes = _terms(data, counted, list(pairs), len(config.alphas))
    compared, said = _compared(terms, scored, config, seed, f"{table}-comparison", measure)
    return compared, notes + said


def pairs(rows: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """The pairs of methods that the rows of ``table2-gain`` and ``table4-gain`` compare."""
    names = dict.fromkeys(str(r["method"]) for r in rows if str(r["table"]).endswith("-gain"))
    return [(one, other) for one, _, other in (name.partition(" minus ") for name in names)]


def _tallied(points: Points, category: Category, config: EvaluationConfig) -> Counted:
    """(A, P, K) correct at each threshold; (P, K) in total."""
    p = points
    return pck.counts(
        *(p.distance, p.scale, p.keypoint, p.photograph, config.alphas, len(category.types)),
        n_photographs=len(category.photographs),
        le=config.inclusive,
    )


def _counted(points: Points, category: Category, config: EvaluationConfig) -> Counted:
    """(A + 6, P, K) correct at each threshold, then of each kind at the first; (P, K) in total."""
    p, shape = points, (len(category.types), len(category.photographs))
    correct, total = _tallied(points, category, config)
    partners = error_types.mirror_partners(category.types)
    kinds = error_types.classify(
        *(p.found, p.true, p.scale, p.instance, p.keypoint, partners, config.alphas[0]),
        le=config.inclusive,
    )
    of_kind = error_types.counts(kinds, p.keypoint, p.photograph, *shape)
    return np.concatenate([correct, of_kind]), total


def _by_category(
    data: Numbered, counted: Sequence[Mapping[str, Counted]], config: EvaluationConfig, seed: int
) -> dict[Pair, Score]:
    """(method, category) -> score. Seeds and counts are Table 2's: so are PCKs and intervals."""
    return {
        (method, category.name): score
        for c, (category, own) in enumerate(zip(data.categories, counted, strict=True))
        for method, score in scores(own, config, [seed, c]).items()
    }


def _part(score: Score, which: slice) -> Score:
    return Score(score.value[which], score.samples[which], score.n)


# -- differences -------------------------------------------------------------------------------


class _Term(NamedTuple):
    """(A, P) what photographs add to a difference, and which of all photographs they are."""

    added: pck.Floats
    photographs: Integers


_Terms = dict[str, dict[Pair, _Term]]  # by category, the mean last


def _terms(
    data: Numbered, counted: Sequence[Mapping[str, Counted]], pairs: Sequence[Pair], settings: int
) -> tuple[_Terms, list[str]]:
    """Of the pairs whose methods predict the same keypoints; and notes about those that do not."""
    terms: _Terms = {category.name: {} for category in data.categories}
    notes = []
    for category, of_method in zip(data.categories, counted, strict=True):
        for pair in pairs:
            if not of_method.keys() >= set(pair):
                continue
            (one, total), (other, of_other) = (of_method[method] for method in pair)
            if not np.array_equal(total, of_other):
                both = " and ".join(pair)
                notes.append(f"{category.name}: {both} predict different keypoints: not compared.")
                continue
            shown = total.any(axis=1)
            one, other = one[:settings, shown], other[:settings, shown]
            added = comparison.contributions(one, other, total[shown])
            terms[category.name][pair] = _Term(added, category.photographs[shown])
    terms[MEAN] = _of_mean(terms, pairs, data.photographs)
    return terms, notes


def _of_mean(terms: _Terms, pairs: Sequence[Pair], n_photographs: int) -> dict[Pair, _Term]:
    means = {}
    for pair in pairs:
        own = [of[pair] for of in terms.values() if pair in of]
        if own:
            shown = [each.photographs for each in own]
            added = comparison.over_categories([each.added for each in own], shown, n_photographs)
            means[pair] = _Term(added, np.unique(np.concatenate(shown)))
    return means


def _compared(
    terms: _Terms,
    values: Mapping[Pair, Score],
    config: EvaluationConfig,
    seed: int,
    table: str,
    measure: str = "",
) -> tuple[Rows, list[str]]:
    """Rows of all pairs, and what they say."""
    rows: Rows = []
    notes: list[str] = []
    p = _tested(terms, seed)
    for pair in terms[MEAN]:
        names = [category for category, of in terms.items() if pair in of]
        found = gains({(m, name): values[m, name] for name in names[:-1] for m in pair}, *pair)
        holm = comparison.holm(np.stack([p[pair, name] for name in names[:-1]], axis=-1)).T
        adjusted = dict(zip(names, [*holm, [None] * len(config.alphas)], strict=True))
        own: Rows = []
        for name, gain in found.items():
            said = counting.rows(table, " minus ".join(pair), name, gain, config)
            mdd = comparison.detectable(gain.samples)
            for a, row in enumerate(said):
                row["photographs"] = len(terms[name][pair].photographs)
                row["p"], row["p_holm"] = _rounded(p[pair, name][a]), _rounded(adjusted[name][a])
                row["mdd"] = per_cent(mdd[a]) if np.isfinite(mdd[a]) else None
            own += said
        rows += own
        notes.append(comparison_notes.pair(own, config.alphas[0], measure))
    return rows, [comparison_notes.tests(), *notes] if rows else []


def _tested(terms: _Terms, seed: int) -> dict[tuple[Pair, str], pck.Floats]:
    """(pair, category) -> (A,) p. Pairs are swapped together, as drawing is what costs."""
    p: dict[tuple[Pair, str], pck.Floats] = {}
    for c, (category, of) in enumerate(terms.items()):
        alike: dict[int, list[Pair]] = defaultdict(list)
        for pair, (added, _) in of.items():
            alike[added.shape[1]].append(pair)
        for pairs in alike.values():
            added = np.concatenate([of[pair].added for pair in pairs])
            found = comparison.swap_test(added, seed=[seed, c, _OF_SWAPS])
            each = np.split(found, len(pairs))
            p |= {(pair, category): own for pair, own in zip(pairs, each, strict=True)}
    return p


def _rounded(p: float | None) -> float | None:
    return None if p is None else round(float(p), 5)


# -- errors --------------------------------------------------------------------------------------


def _errors(
    methods: Sequence[str], kinds: Mapping[Pair, Score], config: EvaluationConfig, table: str
) -> Rows:
    """Shares of the kinds of error, method by method."""
    return [
        {"table": table, "method": method, "category": category, "alpha": config.alphas[0]}
        | {"error": kind}
        | measured
        for method in methods
        for category, score in with_mean(kinds, method).items()
        for kind, measured in zip(error_types.KINDS, counting.measures(score, config), strict=True)
    ]

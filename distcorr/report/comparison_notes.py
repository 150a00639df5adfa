"""What the statistics of a run's predictions say, and rest on, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distcorr.algorithms import comparison, error_types, slices
from distcorr.algorithms.pck import Floats
from distcorr.report.points import Numbered
from distcorr.report.score import Score


def tests() -> str:
    """What p and mdd are of."""
    return (
        f"p is of a paired permutation test: {comparison.PERMUTATIONS:,} random swaps of the two "
        "methods' results, photograph by photograph, or all where there are fewer. p_holm holds "
        "for all categories of a pair together, not for all pairs and thresholds. mdd is the "
        "difference that so many photographs would show 4 times out of 5, in one test at 0.05."
    )


def pair(rows: Sequence[Mapping[str, Any]], alpha: float, measure: str = "") -> str:
    """What is sure about a pair of methods: its mean, and the categories that survive Holm."""
    *categories, mean = (row for row in rows if row["alpha"] == alpha)
    sure = [row for row in categories if row["p_holm"] <= comparison.LEVEL]
    better, worse = (
        ", ".join(row["category"] for row in sure if sign * row["value"] > 0) or "none"
        for sign in (1, -1)
    )
    mdd = "no mdd" if mean["mdd"] is None else f"mdd {mean['mdd']:g}"
    return (
        f"{mean['method']}, {measure or f'PCK@{alpha:g}'}: {mean['value']:+g} in the mean "
        f"({mean['low']:+g} to {mean['high']:+g}, p {mean['p']:g}, {mdd}). Of "
        f"{len(categories)} categories, after Holm's correction: more in {better}; less in {worse}."
    )


def errors(alpha: float) -> str:
    """What the kinds of error are."""
    return (
        f"Errors, the first that holds: left/right swap, within {alpha:g} max(h, w) of the mirror "
        f"partner, and nothing nearer; jitter, within {error_types.REACH * alpha:g} of the truth; "
        f"other keypoint, within {alpha:g} of one of the same instance; miss. Partners are told by "
        "names, and only those in view count. Near other keypoints also by chance, where dense."
    )


def sizes(
    data: Numbered, edges: Floats, scores: Mapping[str, Mapping[tuple[str, str], Score]]
) -> str:
    """What small, medium and large are, and which categories have none."""
    said = (
        f"Sizes are thirds of the {len(data.sizes)} instances by max(h, w) of the box: small to "
        f"{edges[0]:g} px, medium to {edges[1]:g} px, large above."
    )
    lacking = {
        size: [c.name for c in data.categories if c.name not in {name for _, name in of}]
        for size, of in scores.items()
    }
    listed = "; ".join(f"{size}: {', '.join(names)}" for size, names in lacking.items() if names)
    more = f" Categories without such instances, not in that mean: {listed}." if listed else ""
    return said + more


def truncation(data: Numbered) -> str:
    """Which instances go on beyond their boxes, as far as the annotations say."""
    cut, whole, unknown = (
        int((data.truncated == number).sum()) for number in range(len(slices.TRUNCATION))
    )
    if not cut + whole:
        return "No slices by truncation: the annotations, or the run's instances, have no flags."
    if not cut:
        return f"No slices by truncation: none of {whole} instances is marked as truncated."
    more = f" {unknown} instances are not marked either way." if unknown else ""
    return f"Truncated: {cut} of {cut + whole} instances, by the flag of their annotations.{more}"

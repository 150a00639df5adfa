"""A measured share with its bootstrap samples: what tables are made of, and how they subtract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MEAN = "mean"  # over categories, where a category stands


@dataclass(frozen=True)
class Score:
    """PCK or accuracy for each of A settings, its bootstrap samples, and the keypoints scored.

    The difference of two scores is that of their values and of their samples, one by one.

    Attributes:
        value: (A,) shares, 0 to 1.
        samples: (A, resamples).
        n: keypoints.
    """

    value: npt.NDArray[np.float64]
    samples: npt.NDArray[np.float64]
    n: int

    def __sub__(self, other: Score) -> Score:
        return Score(self.value - other.value, self.samples - other.samples, self.n)


def mean(scores: Sequence[Score]) -> Score:
    """The plain mean, as the paper's over categories; ``n`` is that of all together."""
    return Score(
        np.mean([score.value for score in scores], axis=0),
        np.mean([score.samples for score in scores], axis=0),
        sum(score.n for score in scores),
    )


def gains(scores: Mapping[tuple[str, str], Score], one: str, other: str) -> dict[str, Score]:
    """Category -> method ``one`` minus the other, and the mean of the categories that both have."""
    found = {
        category: score - scores[other, category]
        for (method, category), score in scores.items()
        if method == one and category != MEAN and (other, category) in scores
    }
    return found | ({MEAN: mean(list(found.values()))} if found else {})


def per_cent(share: float) -> float:
    """A share in per cent, to two places."""
    return round(100 * float(share), 2) + 0.0  # no minus zero

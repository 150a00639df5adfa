"""What kind of error a predicted keypoint is; not in the paper.

Adapted from Ronchi & Perona, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation,
2017, section 3.1. There a keypoint is good at a similarity of 0.85, jitter down to 0.5, an
inversion where its mirror partner is nearer than itself, and else a miss. Here PCK says what is
correct, and misses near another keypoint of the instance are told apart. Confusion with another
instance in the photograph (their "swap") is not looked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.pck import Counts, Floats

KINDS = ("correct", "jitter", "left/right swap", "other keypoint", "miss", "no prediction")
CORRECT, JITTER, SWAP, OTHER, MISS, NONE = range(len(KINDS))
# Their similarity falls with the square of the distance, exp(-d^2 / 2s^2): it is 0.5 at 2.07 times
# the distance at which it is 0.85.
REACH = 2.0
_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l"}
# A word, wherever it stands, or a letter of its own: L_Eye, eye_l, LEye, EyeL.
_SIDE = re.compile(r"(?i:left|right)|(?<![A-Za-z])[LRlr](?![a-z])|(?<=[a-z])[LR](?![A-Za-z])")

Indices = npt.NDArray[np.intp]


def mirror_partners(names: Sequence[str]) -> Indices:
    """(K,) the number of the keypoint on the other side, -1 where there is none.

    Two are partners if one name becomes the other when left and right are exchanged in it: L_Eye
    and R_Eye, Left_Wing_Tip, legLeft, ear_l. Names do not say whose left it is, the object's or the
    viewer's.

    Args:
        names: of the K keypoints.
    """
    number = {name: k for k, name in enumerate(names)}
    found = [number.get(_SIDE.sub(_exchanged, name), -1) for name in names]
    return np.array([-1 if k == own else k for own, k in enumerate(found)], np.intp)


def classify(
    predicted: npt.NDArray[np.floating[Any]],
    truth: npt.NDArray[np.floating[Any]],
    scale: npt.NDArray[np.floating[Any]],
    instance: npt.NDArray[np.integer[Any]],
    keypoint: npt.NDArray[np.integer[Any]],
    partners: npt.NDArray[np.integer[Any]],
    alpha: float,
    *,
    le: bool = True,
) -> npt.NDArray[np.int8]:
    """Which of `KINDS` each prediction is; every one is the first of these that holds.

    1. *no prediction*;
    2. *correct*: within ``alpha * scale`` of the truth, as in PCK;
    3. *left/right swap*: within ``alpha * scale`` of the mirror partner, and no visible keypoint of
       the instance is nearer;
    4. *jitter*: within ``2 * alpha * scale`` of the truth;
    5. *other keypoint*: within ``alpha * scale`` of another visible keypoint of the instance;
    6. *miss*: whatever is left.

    What this does not say: why. Where keypoints are dense, or alpha is large, points that fell
    anywhere on the object lie near some keypoint. Partners that are hidden take no swaps, and
    partners within alpha of each other are both correct.

    Args:
        predicted: (n, 2) xy px in the photograph, one for each *visible* keypoint; NaN where
            nothing was predicted.
        truth: (n, 2) likewise, annotated.
        scale: (n,) max(h, w) of the box, px.
        instance: (n,) number of the instance, from 0.
        keypoint: (n,) keypoint type, 0 to K - 1; an instance has each at most once.
        partners: (K,) from `mirror_partners`.
        alpha: tolerance.
        le: whether what lies on a threshold is within.

    Returns:
        (n,) int8.

    Raises:
        ValueError: shapes disagree, a number is out of range, an instance has a keypoint twice, or
            a truth is not finite.
    """
    found, true = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    size, sides = np.asarray(scale, np.float64), np.asarray(partners, np.intp)
    of, kind = np.asarray(instance, np.intp), np.asarray(keypoint, np.intp)
    _check(found, true, size, of, kind, len(sides))
    row, tolerance = np.arange(len(size)), alpha * size
    distance = _to_every_keypoint(found, true, of, kind, len(sides))
    own = distance[row, kind]
    partner = sides[kind]
    mirror = np.where(partner >= 0, distance[row, partner], np.inf)
    nearest = distance.min(axis=1, initial=np.inf)  # the truth counts among the keypoints
    distance[row, kind] = np.inf
    another = distance.min(axis=1, initial=np.inf)
    within = np.less_equal if le else np.less
    rules = {
        NONE: np.isnan(found).any(axis=1),
        CORRECT: within(own, tolerance),
        SWAP: within(mirror, tolerance) & (mirror <= nearest),
        JITTER: within(own, REACH * tolerance),
        OTHER: within(another, tolerance),
    }
    return np.select(list(rules.values()), list(rules), MISS).astype(np.int8)


def counts(
    kinds: npt.NDArray[np.integer[Any]],
    keypoint: npt.NDArray[np.integer[Any]],
    photograph: npt.NDArray[np.integer[Any]],
    n_keypoints: int,
    n_photographs: int,
) -> Counts:
    """(6, P, K) predictions of each kind; they sum to the ``total`` of `pck.counts`.

    `pck.pck` of them is the share of each kind, which for `CORRECT` is PCK itself, and
    `pck.bootstrap` gives its samples.

    Args:
        kinds: (n,) from `classify`.
        keypoint: (n,) keypoint type, 0 to K - 1.
        photograph: (n,) number of the photograph, 0 to P - 1.
        n_keypoints: K.
        n_photographs: P.

    Raises:
        ValueError: lengths disagree or a number is out of range.
    """
    shape = (len(KINDS), n_photographs, n_keypoints)
    index = tuple(np.asarray(a, np.intp) for a in (kinds, photograph, keypoint))
    bin_of = np.ravel_multi_index(index, shape)
    found: Counts = np.bincount(bin_of, minlength=int(np.prod(shape))).reshape(shape)
    return found.astype(np.int64)


def _exchanged(side: re.Match[str]) -> str:
    """The other side, written alike."""
    other = _SIDES[side[0].lower()]
    if side[0].isupper():
        return other.upper()
    return other.capitalize() if side[0][0].isupper() else other


def _to_every_keypoint(
    predicted: Floats, truth: Floats, instance: Indices, keypoint: Indices, n_keypoints: int
) -> Floats:
    """(n, K) px from predictions to the keypoints of their instance; inf where not visible."""
    places = np.full((2, int(instance.max(initial=-1)) + 1, n_keypoints), np.nan)
    places[:, instance, keypoint] = truth.T
    x, y = (of[instance] - own[:, None] for of, own in zip(places, predicted.T, strict=True))
    distance = np.hypot(x, y)
    return np.where(np.isnan(distance), np.inf, distance)


def _check(
    predicted: Floats,
    truth: Floats,
    scale: Floats,
    instance: Indices,
    keypoint: Indices,
    n_keypoints: int,
) -> None:
    n = len(scale)
    shapes = [a.shape for a in (predicted, truth, scale, instance, keypoint)]
    if shapes != [(n, 2), (n, 2), (n,), (n,), (n,)]:
        raise ValueError(
            f"predicted, truth, scale, instance, keypoint must be (n, 2) twice and (n,), "
            f"got {shapes}"
        )
    if not np.isfinite(truth).all():
        raise ValueError("truth must be finite: only visible keypoints are predicted")
    if n and not (0 <= keypoint.min() and keypoint.max() < n_keypoints and instance.min() >= 0):
        raise ValueError(
            f"keypoint must lie in 0 to {n_keypoints - 1} and instance be at least 0, "
            f"got {keypoint.min()} to {keypoint.max()} and {instance.min()}"
        )
    if len(np.unique(instance * n_keypoints + keypoint)) != n:
        raise ValueError("an instance must have each keypoint at most once")

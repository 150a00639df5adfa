"""Wrong predictions: which there are, a guess of why, and which are worth a look.

The causes are guesses from places alone: the kinds of ``error_types``, but that misses are told
apart by whether copying, or the prior alone, errs alike. Not in the paper.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distcorr.algorithms import error_types
from distcorr.types import Instance

NONE, SWAP, JITTER, OTHER, MISS = (
    error_types.KINDS[kind]
    for kind in (
        *(error_types.NONE, error_types.SWAP, error_types.JITTER),
        *(error_types.OTHER, error_types.MISS),
    )
)
COPIED, PULLED = "as copying errs", "as the prior errs"  # of what would be a miss
CAUSES = {  # in the order in which they are tried
    NONE: "nothing was predicted",
    SWAP: "within α of the keypoint's mirror, as L_Eye for R_Eye, and nothing is nearer",
    JITTER: f"within {error_types.REACH:g} α of the truth",
    OTHER: "within α of another keypoint's true place; by chance, too, where they are dense",
    COPIED: "within α of what copying from neighbours predicts, which errs too",
    PULLED: "within α of what the prior alone predicts, which errs too",
    MISS: "none of these",
}

Point = tuple[float, float]


class Case(NamedTuple):
    """One prediction that is wrong.

    Attributes:
        method: whose.
        instance: id of the object.
        keypoint: type.
        at: px in the photograph, predicted.
        true: likewise.
        allowed: px that count as right: alpha * max(h, w).
        error: in units of ``allowed``; above 1. Inf where nothing was predicted.
        cause: key of ``CAUSES``.
        near: the other keypoint, where that is the cause.
        others: method -> what it predicts for the same keypoint.
        kind: "worst" or "typical".
    """

    method: str
    instance: str
    keypoint: str
    at: Point
    true: Point
    allowed: float
    error: float
    cause: str
    near: str = ""
    others: tuple[tuple[str, Point], ...] = ()
    kind: str = "worst"


def wrong(
    predictions: pa.Table,
    methods: Sequence[str],
    instances: Mapping[str, Instance],
    names: Mapping[str, Sequence[str]],
    alpha: float,
    misled: Mapping[str, str],
    *,
    le: bool = True,
) -> list[Case]:
    """Every wrong prediction of some methods; ``others`` are left empty.

    Args:
        predictions: rows of ``predictions.PREDICTIONS``.
        methods: of whom.
        instances: by id.
        names: category -> its keypoint types.
        alpha: threshold.
        misled: method (copying, or the prior alone) -> cause of those who err as it does.
        le: whether what lies on the threshold is right.
    """
    within = operator.le if le else operator.lt
    partners = {category: error_types.mirror_partners(known) for category, known in names.items()}
    bad = {method: _placed(predictions, method) for method in misled}
    found = []
    for method in methods:
        own = predictions.filter(pc.equal(predictions["method"], method))
        at, true = _points(own, "x", "y"), _points(own, "true_x", "true_y")
        allowed = alpha * own["scale"].to_numpy()
        errors = np.hypot(*(at - true).T) / allowed
        errors[np.isnan(errors)] = np.inf
        ids, types = own["instance"].to_pylist(), own["keypoint"].to_pylist()
        for row in np.flatnonzero(~within(errors, 1)).tolist():
            instance, keypoint = instances[ids[row]], types[row]
            places = _pair(at[row]), _pair(true[row])
            case = Case(
                *(method, instance.id, keypoint, *places),
                *(float(allowed[row]), float(errors[row]), MISS),
            )
            others = {
                cause: bad[other][instance.id, keypoint]
                for other, cause in misled.items()
                if (instance.id, keypoint) in bad[other]
            }
            known, pairs = names[instance.category], partners[instance.category]
            cause, near = _guess(case, instance, known, pairs, others, within)
            found.append(case._replace(cause=cause, near=near))
    return found


def with_others(found: Sequence[Case], predictions: pa.Table) -> list[Case]:
    """Cases with what the other methods predict for the same keypoints."""
    ids = pa.array(sorted({case.instance for case in found}), pa.string())
    near = predictions.filter(pc.is_in(predictions["instance"], ids))
    known = {m: _placed(near, m) for m in dict.fromkeys(near["method"].to_pylist())}
    return [
        case._replace(
            others=tuple(
                (method, placed[case.instance, case.keypoint])
                for method, placed in known.items()
                if method != case.method and (case.instance, case.keypoint) in placed
            )
        )
        for case in found
    ]


def _placed(predictions: pa.Table, method: str) -> dict[tuple[str, str], Point]:
    """(instance, keypoint) -> where a method predicts it, if it does."""
    own = predictions.filter(pc.equal(predictions["method"], method))
    keys = zip(own["instance"].to_pylist(), own["keypoint"].to_pylist(), strict=True)
    points = _points(own, "x", "y")
    return {
        key: _pair(point)
        for key, point, known in zip(keys, points, np.isfinite(points[:, 0]), strict=True)
        if known
    }


def _points(table: pa.Table, x: str, y: str) -> npt.NDArray[np.float64]:
    """(n, 2); NaN where there is none."""
    return np.stack([table[name].to_numpy() for name in (x, y)], axis=1).astype(np.float64)


def _pair(point: npt.NDArray[np.float64]) -> Point:
    return float(point[0]), float(point[1])


def _guess(
    case: Case,
    instance: Instance,
    names: Sequence[str],
    partners: npt.NDArray[np.intp],
    misled: Mapping[str, Point],
    within: Callable[[float, float], bool],
) -> tuple[str, str]:
    """Cause, and the other keypoint where that is it; ``misled``: cause -> who errs there, too."""
    if not np.isfinite(case.error):
        return NONE, ""
    away = np.hypot(*(instance.keypoints - np.array(case.at)).T)
    away = np.where(instance.visible, away, np.inf)
    kind = list(names).index(case.keypoint)
    partner = int(partners[kind])
    if partner >= 0 and within(away[partner], case.allowed) and away[partner] <= away.min():
        return SWAP, names[partner]
    if within(case.error, error_types.REACH):
        return JITTER, ""
    away[kind] = np.inf
    if within(away.min(), case.allowed):
        return OTHER, names[int(away.argmin())]
    for cause, point in misled.items():
        if np.hypot(point[0] - case.at[0], point[1] - case.at[1]) <= case.allowed:
            return cause, ""
    return MISS, ""


def chosen(cases: Iterable[Case], instances: Mapping[str, Instance], count: int) -> list[Case]:
    """The worst and typical cases of one method: two thirds and a third of ``count``.

    Worst: the highest errors. Typical: the errors next to the median of all wrong ones. Categories
    take turns, and an object is shown once, so that neither a category nor an object is all there
    is. Nothing is drawn at random; ties go to the first name.
    """
    known = [case for case in cases if np.isfinite(case.error)]
    if not known:
        return []
    count = min(count, len({case.instance for case in known}))
    middle = float(np.median([case.error for case in known]))
    worst = sorted(known, key=lambda c: (-c.error, c.instance, c.keypoint))
    typical = sorted(known, key=lambda c: (abs(c.error - middle), c.instance, c.keypoint))
    found: list[Case] = []
    seen: set[str] = set()
    for kind, ranked, most in (("worst", worst, count - count // 3), ("typical", typical, count)):
        for case in _in_turn(ranked, instances):
            if len(found) >= most:
                break
            if case.instance not in seen:
                seen.add(case.instance)
                found.append(case._replace(kind=kind))
    return found


def _in_turn(ranked: Sequence[Case], instances: Mapping[str, Instance]) -> list[Case]:
    """Each category's first, then each one's second, and so on."""
    nth: Counter[str] = Counter()
    turns = []
    for place, case in enumerate(ranked):
        category = instances[case.instance].category
        turns.append((nth[category], place, case))
        nth[category] += 1
    return [case for _, _, case in sorted(turns, key=lambda turn: turn[:2])]

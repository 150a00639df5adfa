"""What is wrong with predictions that were read, what is left out of them, and what is odd.

Of every check: ``names`` and ``values`` as `prediction_files.Predictions` has them. Problems and
notes are sentences with counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from distcorr.data.prediction_columns import Coded, have, many

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
SIZE = ("image_width", "image_height")
LENGTHS = ("scale", *BOX, *SIZE)
_SAME = 1e-3  # px: float32 of another file is nearer
_EXAMPLES = 3


def annotated(values: dict[str, Floats], names: dict[str, Coded], notes: list[str]) -> Bools:
    """(n,) the rows whose keypoint is annotated: not empty, and no padding.

    Padding compared with padding is always right, and inflates PCK where it is counted.
    """
    true = np.stack([values["true_x"], values["true_y"]], axis=1)
    predicted = np.stack([values["x"], values["y"]], axis=1)
    finite = np.asarray(np.isfinite(true).all(axis=1), np.bool_)
    if count := int((~finite).sum()):
        notes.append(f"{have(count)} no finite true_x and true_y: left out.")
    minus = np.asarray((true == -1).all(axis=1), np.bool_)
    if count := int(minus.sum()):
        notes.append(f"{have(count)} the truth (-1, -1), which is padding: left out.")
    kept: Bools = finite & ~minus
    zero = np.asarray((true == 0).all(axis=1), np.bool_)
    if count := int(zero.sum()):
        objects = names["method"][1] * len(names["instance"][0]) + names["instance"][1]
        corner = len(np.unique(objects[zero])) == count  # one keypoint of an object may lie there
        if corner and not (predicted[zero] == 0).all(axis=1).any():
            notes.append(f"{have(count)} the truth (0, 0): leave them out if that is padding.")
        else:
            notes.append(f"{have(count)} the truth (0, 0), which is padding: left out.")
            kept[zero] = False
    return kept


def duplicates(names: dict[str, Coded]) -> list[str]:
    """Rows that are there twice, and instances that are in two places."""
    (_, method), (instances, instance), (types, keypoint) = (
        names[name] for name in ("method", "instance", "keypoint")
    )
    key = (method * len(instances) + instance) * len(types) + keypoint
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    problems = []
    if extra := int((counts - 1).sum()):
        at = first[counts > 1][:_EXAMPLES]
        shown = ", ".join(f"{instances[instance[i]]} {types[keypoint[i]]}" for i in at)
        same = "the method, instance and keypoint of another row"
        problems.append(f"{have(extra)} {same} ({shown})")
    for name in ("image", "category"):
        others, other = names[name]
        if extra := len(np.unique(instance * len(others) + other)) - len(np.unique(instance)):
            problems.append(f"{have(extra, 'instance')} more than one {name}")
    return problems


def lengths(values: dict[str, Floats], notes: list[str]) -> list[str]:
    """Lengths that are none; where they are empty is another matter."""
    problems = []
    for name in ("scale", *SIZE):
        lengths = values.get(name, np.ones(1))
        if bad := int(((lengths <= 0) | np.isinf(lengths)).sum()):
            problems.append(f"{name} is not above 0 px, or not finite, in {many(bad)}")
    sides = []
    for low, high in (BOX[0::2], BOX[1::2]):
        if low in values and high in values:
            with np.errstate(invalid="ignore"):  # inf - inf
                sides.append(values[high] - values[low])
            empty = np.isnan(values[low]) | np.isnan(values[high])
            if bad := int((~((sides[-1] > 0) & np.isfinite(sides[-1])) & ~empty).sum()):
                problems.append(f"{high} is not above {low} in {many(bad)}")
    if len(sides) == 2 and "scale" in values:
        gap = values["scale"] - np.maximum(*sides)
        if other := int((np.abs(gap) > _SAME).sum()):
            one = int((np.abs(gap - 1) < _SAME).sum())
            notes.append(
                f"scale is not max(h, w) of the box in {many(other)}, larger by 1 px in {one:,}:"
                " the box is used."
            )
    return problems


def truths(names: dict[str, Coded], values: dict[str, Floats]) -> list[str]:
    """Keypoints whose annotation is not the same for all methods."""
    key = names["instance"][1] * len(names["keypoint"][0]) + names["keypoint"][1]
    _, first, of = np.unique(key, return_index=True, return_inverse=True)
    gap = np.maximum(*(np.abs(values[n] - values[n][first][of]) for n in ("true_x", "true_y")))
    other = int((gap > _SAME).sum())
    return [f"methods have different annotations in {many(other)}"] if other else []


def objects(names: Mapping[str, Coded], values: Mapping[str, Floats]) -> list[str]:
    """Lengths that are not the same in all rows of an instance, whatever the method.

    A method with larger boxes than another would have larger thresholds.
    """
    _, first, of = np.unique(names["instance"][1], return_index=True, return_inverse=True)
    problems = []
    for name in LENGTHS:
        if name in values:
            gap = np.abs(values[name] - values[name][first][of])
            if other := int((gap > _SAME).sum()):
                problems.append(f"{name} differs within an instance in {many(other)}")
    return problems


def unequal(names: dict[str, Coded]) -> list[str]:
    """Methods that are not scored on the same keypoints."""
    known, code = names["method"]
    key = names["instance"][1] * len(names["keypoint"][0]) + names["keypoint"][1]
    every = len(np.unique(key))
    lacking = {m: every - n for m, n in zip(known, np.bincount(code), strict=True) if n < every}
    listed = ", ".join(f"{method} {n:,}" for method, n in lacking.items())
    return [f"Methods lack rows that others have, of {every:,}: {listed}."] if lacking else []

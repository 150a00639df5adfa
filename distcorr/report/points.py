"""Saved predictions with numbers in place of names, category by category: what is counted from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import slices
from distcorr.algorithms.pck import Floats
from distcorr.report import counting

Integers = npt.NDArray[np.intp]


class Points(NamedTuple):
    """n predictions.

    Attributes:
        distance: (n,) px from the annotation; inf where nothing is predicted.
        scale: (n,) max(h, w) of the box, px.
        keypoint: (n,) number of the type.
        photograph: (n,) number of the photograph.
        instance: (n,) number of the instance.
        found: (n, 2) xy px; NaN where nothing is predicted.
        true: (n, 2) xy px, annotated.
        truncated: (n,) number in ``slices.TRUNCATION`` of the instance.
    """

    distance: Floats
    scale: Floats
    keypoint: Integers
    photograph: Integers
    instance: Integers
    found: Floats
    true: Floats
    truncated: Integers


class Category(NamedTuple):
    """One category; types, photographs and instances are numbered within it, the same for all.

    Attributes:
        name: of the category.
        types: its keypoints' names, sorted.
        photographs: (P,) the number of each of its photographs among those of all categories.
        points: method -> its predictions.
    """

    name: str
    types: list[str]
    photographs: Integers
    points: dict[str, Points]


class Numbered(NamedTuple):
    """All predictions.

    Attributes:
        methods: as they come.
        categories: sorted by name.
        photographs: how many there are.
        sizes: (I,) max(h, w) of every instance's box, px.
        truncated: (I,) number of every instance in ``slices.TRUNCATION``.
    """

    methods: list[str]
    categories: list[Category]
    photographs: int
    sizes: Floats
    truncated: Integers


def numbered(predictions: pa.Table, truncated: Mapping[str, bool | None] | None = None) -> Numbered:
    """Rows of the schema ``PREDICTIONS``, at least one, by category and method.

    Args:
        predictions: the rows.
        truncated: instance -> whether it is, as far as that is known.
    """
    method, methods = _numbers(predictions["method"], sort=False)
    category, categories = _numbers(predictions["category"])
    keypoint, keypoints = _numbers(predictions["keypoint"])
    photograph, photographs = _numbers(predictions["image"])
    instance, instances = _numbers(predictions["instance"])
    cut = slices.truncation((truncated or {}).get(name) for name in instances)
    x, y, true_x, true_y, scale = (
        predictions[name].to_numpy() for name in ("x", "y", "true_x", "true_y", "scale")
    )
    points = Points(
        *(counting.errors(predictions), scale, keypoint, photograph, instance),
        *(np.stack([x, y], axis=1), np.stack([true_x, true_y], axis=1), cut[instance]),
    )
    found = [
        _category(name, _rows(points, category == c), method[category == c], methods, keypoints)
        for c, name in enumerate(categories)
    ]
    sizes = scale[np.unique(instance, return_index=True)[1]]
    return Numbered(methods, found, len(photographs), sizes, cut)


def _category(
    name: str, points: Points, method: Integers, methods: Sequence[str], keypoints: Sequence[str]
) -> Category:
    # Numbered by name among the category's own, as counting.scores does: the same draws.
    types, keypoint = np.unique(points.keypoint, return_inverse=True)
    photographs, photograph = np.unique(points.photograph, return_inverse=True)
    instance = np.unique(points.instance, return_inverse=True)[1]
    own = points._replace(keypoint=keypoint, photograph=photograph, instance=instance)
    by_method = {methods[m]: _rows(own, method == m) for m in np.unique(method)}
    return Category(name, [keypoints[k] for k in types], photographs, by_method)


def _rows(points: Points, which: npt.NDArray[np.bool_]) -> Points:
    return Points._make(column[which] for column in points)


def _numbers(column: pa.ChunkedArray, sort: bool = True) -> tuple[Integers, list[str]]:
    """A number for each value of a column, sorted or as they come; and the values."""
    encoded = column.combine_chunks().dictionary_encode()
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.intp)
    if not sort:
        return codes, names
    order = sorted(range(len(names)), key=names.__getitem__)
    return np.argsort(order)[codes], [names[n] for n in order]

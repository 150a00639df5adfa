"""The samples of section 4: every visible keypoint, and the column of features at it."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import svm
from distcorr.config import digest
from distcorr.data.classified import VALIDATION
from distcorr.data.features import FeatureStore
from distcorr.data.store import HalfArray, read_values
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import BoolArray

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Samples:
    """The visible keypoints of one category: training and validation, in the data set's order.

    Attributes:
        names: the category's keypoint types.
        instance: the n samples' instances.
        image: their photographs.
        label: (n,) which keypoint: an index into ``names``.
        fold: (n,) which fold holds it out; ``VALIDATION`` for validation samples.
    """

    names: tuple[str, ...]
    instance: tuple[str, ...]
    image: tuple[str, ...]
    label: Integers
    fold: Integers

    @functools.cached_property
    def digest(self) -> str:
        """Changes with whatever changes a prediction, besides features and settings."""
        return digest(
            [self.names, self.instance, self.image, self.label.tolist(), self.fold.tolist()]
        )

    def in_both_splits(self) -> list[str]:
        """Photographs with both training and validation samples."""
        images = np.array(self.image, str)
        validation = self.fold == VALIDATION
        found: list[str] = np.intersect1d(images[validation], images[~validation]).tolist()
        return found

    def where(self, keep: BoolArray) -> Samples:
        """Some of them."""
        rows = np.flatnonzero(keep)
        return replace(
            self,
            instance=tuple(self.instance[i] for i in rows),
            image=tuple(self.image[i] for i in rows),
            label=self.label[rows],
            fold=self.fold[rows],
        )


def samples_of(store: FeatureStore, category: str, folds: int, seed: int) -> Samples:
    """The category's samples, photographs dealt to folds: for every layer the same.

    There are fewer folds where there are fewer photographs.
    """
    shown = [
        (i.id, i.image, k, i.split)
        for i in store.instances
        if i.category == category
        for k in np.flatnonzero(i.visible).tolist()
    ]
    train = np.array([split == "train" for *_, split in shown], bool)
    image = tuple(image for _, image, _, _ in shown)
    fold = np.full(len(shown), VALIDATION, np.int64)
    groups = np.array(image, str)[train]
    photographs = len(set(groups.tolist()))
    few = photographs < 2
    fold[train] = 0 if few else svm.folds_by_group(groups, min(folds, photographs), seed)
    return Samples(
        store.keypoint_names[category],
        tuple(instance for instance, *_ in shown),
        image,
        np.array([k for _, _, k, _ in shown], np.int64),
        fold,
    )


def too_little(samples: Samples) -> str:
    """Why nothing can be learnt from the samples, or scored; "" if it can."""
    train = samples.fold != VALIDATION
    if not train.any():
        return "no training sample"
    if train.all():
        return "no validation sample"
    if len(set(samples.label[train].tolist())) == 1:
        return f"{samples.names[samples.label[train][0]]} is the only keypoint to learn"
    if len(set(samples.fold[train].tolist())) == 1:
        return "all training photographs are in one fold, and cross-validation needs two"
    return ""


def read_columns(
    store: FeatureStore, table: str, wanted: Mapping[str, Samples]
) -> dict[str, HalfArray]:
    """Category -> (n, D) columns of its samples, in their order.

    Raises:
        DistcorrError: the table lacks some of them, or two instances have one id.
    """
    place = {
        (instance, samples.names[label]): (category, row)
        for category, samples in wanted.items()
        for row, (instance, label) in enumerate(zip(samples.instance, samples.label, strict=True))
    }
    if len(place) < sum(len(samples.label) for samples in wanted.values()):
        ids = [set(samples.instance) for samples in wanted.values()]
        counts = Counter(i for found in ids for i in found)
        twice = next((i for i, count in sorted(counts.items()) if count > 1), "an instance")
        raise DistcorrError(
            f"The keypoints of {twice} are not its alone: instances of this data set share an id.",
            "give every instance an id of its own, also across categories",
        )
    out: dict[str, HalfArray] = {}
    for part in store.parts(table):
        values, meta = read_values(part)
        keys = zip(part["id"].to_pylist(), part["keypoint"].to_pylist(), strict=True)
        for key, value in zip(keys, values, strict=True):
            if key in place:
                category, row = place.pop(key)
                if category not in out:
                    out[category] = np.empty((len(wanted[category].label), *meta.shape), np.float16)
                out[category][row] = value
    if place:
        instance, keypoint = min(place)
        raise DistcorrError(
            f"{table} lacks {len(place)} keypoints, for example {keypoint} of {instance}.",
            "distcorr store verify finds damaged files; distcorr build-db makes them anew",
            MISSING,
        )
    return out

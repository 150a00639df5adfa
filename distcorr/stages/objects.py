"""What section 5 learns from and predicts: which layers, which instances, and their grids."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distcorr.algorithms import windows
from distcorr.algorithms.crop import to_square
from distcorr.algorithms.windows import Labels, Rule
from distcorr.config import Config
from distcorr.data.classified import VALIDATION
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter
from distcorr.data.store import HalfArray
from distcorr.stages import streamed
from distcorr.stages.features import LARGE
from distcorr.stages.streamed import Photographs, can_stream
from distcorr.types import BoolArray, Box, Geometry, Instance

CHUNK = 64  # instances whose grids a task holds at once: 30 MB of conv5; not in the paper
BLOCK = 3  # cells, section 5
KIND = "grids500"  # of tables; section 5: boxes of 500 px
_SIFT = re.compile(r"d?sift\d+")

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]


def is_sift(layer: str) -> bool:
    """Whether section 5's rules for SIFT hold: single descriptors, distances in px."""
    return bool(_SIFT.fullmatch(layer))


def detected(store: FeatureStore, config: Config) -> dict[str, str]:
    """Layer -> name of its table, for every layer that is asked for (section 5).

    "" says that the store does not keep it, and that it is made from the photographs instead.
    """
    large = _large(store, config)
    asked: list[str] = []
    for layer in config.detect.layers:
        asked += large or [store.conv] if layer == "auto" else [store.names.get(layer, layer)]

    def table(layer: str) -> str:
        if can_stream(layer) and f"{KIND}/{layer}" not in store.tables:
            return ""
        # A network that sees squares of one size is taken at that.
        own = not large and f"grids/{layer}" in store.tables
        return f"grids/{layer}" if own else f"{KIND}/{layer}"

    return {layer: table(layer) for layer in asked}


def _large(store: FeatureStore, config: Config) -> list[str]:
    """The network's layers on large boxes that are not there for an alignment alone."""
    there = [name.removeprefix(f"{KIND}/") for name in store.tables if name.startswith(f"{KIND}/")]
    own = [layer for layer in there if not is_sift(layer)]
    aligned = set(store.aligned(config.flow)) if config.flow.side else set()
    kept = aligned - {store.names.get(layer, layer) for layer in config.features.grids500}
    return [layer for layer in own if layer not in kept] or own


def prior_of(store: FeatureStore) -> str:
    """The table that the prior finds neighbours by: pool5's (section 5), else section 3's."""
    return "vectors/pool5" if "vectors/pool5" in store.tables else f"vectors/{store.vector}"


def block_of(layer: str) -> int:
    """Side in cells of what a detector looks at: single descriptors of SIFT (section 5)."""
    return 1 if is_sift(layer) else BLOCK


@dataclass(frozen=True, eq=False)
class Objects:
    """Some instances of one category, in the order of the data set.

    Attributes:
        ids: of the n instances.
        images: their photographs.
        framed: (n, 4) px, what their grids show of the photographs.
        scale: (n,) PCK's max(h, w), px.
        keypoints: (n, K, 2) px in the photographs, NaN where not visible.
        fold: (n,) that holds the instance out; ``VALIDATION`` for validation instances.
        readable: (n,) whether the layer has their features.
    """

    ids: tuple[str, ...]
    images: tuple[str, ...]
    framed: Doubles
    scale: Doubles
    keypoints: Doubles
    fold: npt.NDArray[np.int64]
    readable: BoolArray

    @property
    def identity(self) -> list[Any]:
        """Changes with whatever changes a prediction, besides features and settings."""
        arrays = (self.framed, self.scale, self.keypoints, self.fold, self.readable)
        return [self.ids, self.images, *(array.tolist() for array in arrays)]

    def at(self, rows: npt.NDArray[Any]) -> Objects:
        """Those rows alone."""
        ids, images = (tuple(column[i] for i in rows) for column in (self.ids, self.images))
        arrays = (self.framed, self.scale, self.keypoints, self.fold, self.readable)
        return Objects(ids, images, *(array[rows] for array in arrays))


@dataclass(frozen=True, eq=False)
class Work:
    """One layer and category; a training instance is known by its row in ``train``.

    Attributes:
        layer: of the features.
        category: of the keypoints.
        table: name of the layer's table; "": made from ``photographs``.
        prior: name of the table that neighbours are found by.
        geometry: where the cells lie.
        names: the K keypoint types.
        train: instances to learn from, all of them readable.
        val: instances to predict.
        learnt: (n, K, 2) px in the squares of ``train``: what is to be learnt.
        photographs: that the instances are in.
        absent: what the positions of instances are that do not show a keypoint: "ignore" or
            "negative".
    """

    layer: str
    category: str
    table: str
    prior: str
    geometry: Geometry
    names: tuple[str, ...]
    train: Objects
    val: Objects
    learnt: Doubles
    photographs: Photographs
    absent: str = "ignore"

    @property
    def block(self) -> int:
        """Side in cells of what a detector looks at."""
        return block_of(self.layer)

    @property
    def rule(self) -> Rule:
        """What is a positive, and what a negative."""
        if is_sift(self.layer):
            px, rule = self.geometry.input_size / LARGE, windows.SIFT_RULE
            return replace(rule, within=rule.within * px, beyond=rule.beyond * px)
        return windows.field_rule(self.geometry, self.block)

    @property
    def centres(self) -> Doubles:
        """(rows, cols, 2) px of all positions."""
        return windows.positions(self.geometry, self.block)

    def labels(self, rows: npt.NDArray[Any]) -> Labels:
        """(n, K, rows, cols) of some training instances."""
        absent = -1 if self.absent == "negative" else 0
        return windows.labels(self.learnt[rows], self.centres, self.rule, absent=absent)

    def read(
        self, store: FeatureStore, objects: Objects, rows: npt.NDArray[Any]
    ) -> tuple[Rows, HalfArray]:
        """Those of some rows of ``train`` or ``val`` whose grids are finite, and the grids.

        Raises:
            DistcorrError: the table lacks one, or a photograph is missing or damaged.
        """
        if self.table:
            return read_finite(store, self.table, objects, rows)
        images = [objects.images[i] for i in rows]
        return rows, self.photographs.grids(self.layer, images, objects.framed[rows])

    def shuffled(self, seed: int) -> Work:
        """The control: an instance's visible keypoints exchange their names, by what it is."""
        learnt = self.learnt.copy()
        for points, instance in zip(learnt, self.train.ids, strict=True):
            shown = np.flatnonzero(~np.isnan(points).any(axis=1))
            draw = np.random.default_rng([seed, zlib.crc32(instance.encode())])
            points[shown] = points[draw.permutation(shown)]
        return replace(self, learnt=learnt)


def objects_of(
    store: FeatureStore, members: Sequence[Instance], folds: Sequence[int] | None, lost: set[str]
) -> Objects:
    """Objects of one category and split.

    Args:
        store: that the members are of.
        members: in the order of the data set.
        folds: of the members; None for validation.
        lost: ids of instances that lack a feature.
    """
    count = len(members)
    keypoints = np.array([i.keypoints for i in members], np.float64)
    visible = np.array([i.visible for i in members], bool)
    if count:
        keypoints[~visible] = np.nan
    return Objects(
        tuple(i.id for i in members),
        tuple(i.image for i in members),
        np.array([store.framed(i.box) for i in members], np.float64),
        np.array([i.box.max_side for i in members], np.float64),
        keypoints,
        np.full(count, VALIDATION) if folds is None else np.array(folds, np.int64),
        np.array([i.id not in lost for i in members], bool),
    )


def without(letters: Iterable[DeadLetter], folders: set[str]) -> set[str]:
    """Ids of the instances that lack a feature of one of these folders of the store."""
    return {d.id for d in letters if not d.tables or folders & set(d.tables)}


def geometry_of(store: FeatureStore, layer: str, table: str, instance: str) -> Geometry:
    """Where the cells of a layer of ``detected`` lie, by any instance that has it."""
    if not table:
        return streamed.geometry(layer)
    _, _, meta = store.read(table, [instance])
    assert meta.geometry is not None  # grids are written with it
    return meta.geometry


def too_little(train: Objects, val: Objects) -> str:
    """Why nothing can be learnt or scored; "" if it can."""
    if not len(train.ids) or np.isnan(train.keypoints).all():
        return "no training instance shows a keypoint"
    if not len(val.ids) or np.isnan(val.keypoints).all():
        return "no validation instance shows a keypoint"
    if not val.readable.any():
        return "no validation instance has such features"
    return ""


def in_square(objects: Objects, side: int) -> Doubles:
    """(n, K, 2) px in the squares that the grids show."""
    points = np.full(objects.keypoints.shape, np.nan)
    for i, box in enumerate(objects.framed):
        points[i] = to_square(objects.keypoints[i], Box(*box), side)
    return points


def chunks(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """``CHUNK`` rows at a time."""
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def read_finite(
    store: FeatureStore, table: str, objects: Objects, rows: npt.NDArray[Any]
) -> tuple[Rows, HalfArray]:
    """Those of the rows whose features are finite, and the features.

    Raises:
        DistcorrError: the table lacks one of them, or is damaged.
    """
    _, values, _ = store.read(table, [objects.ids[i] for i in rows])
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return rows[finite], values if finite.all() else values[finite]


def float32_products() -> None:
    """float32 means float32 on a GPU too, as on a CPU: scores that are close decide."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False

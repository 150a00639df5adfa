"""What a configuration makes of a data set: the tasks of every stage, by size.

Nothing is read here but counts, so a data set that nobody has yet can be planned for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.config import Config
from distcorr.types import Instance

Floats = npt.NDArray[np.float64]

# Of a data set of which only totals are known. Not in the paper: as the photographs of RESULTS.md,
# whose categories have 9 to 18 keypoint types, of which an instance shows 13.5.
TRAIN_SHARE, TYPES, SHOWN = 0.6, 14, 13.5

NEIGHBORS_TARGETS = 8192  # targets of a shard of ``neighbors``
RESPONSES_FILES = 8  # photographs of a shard of ``responses``
VISUALIZE_FILES = 32  # of the data base's files that a photograph's search is cut into, at most


class Group(NamedTuple):
    """One category and split.

    Attributes:
        instances: annotated objects.
        photographs: that show one of them first, in the order of the data set.
        points: visible keypoints.
        shown: photographs that show one of them at all.
    """

    instances: int
    photographs: int
    points: float
    shown: int


@dataclass(frozen=True)
class Counts:
    """A data set in numbers: (category, split) -> what there is; category -> keypoint types."""

    groups: Mapping[tuple[str, str], Group]
    types: Mapping[str, int]

    @property
    def instances(self) -> int:
        """Of all groups."""
        return sum(group.instances for group in self.groups.values())

    @property
    def photographs(self) -> int:
        """Of all groups."""
        return sum(group.photographs for group in self.groups.values())

    @property
    def points(self) -> float:
        """Of all groups."""
        return sum(group.points for group in self.groups.values())

    def of(self, category: str, split: str) -> Group:
        """A group, empty if there is none."""
        return self.groups.get((category, split), Group(0, 0, 0, 0))


class Layers(NamedTuple):
    """By which layers each stage works."""

    aligned: tuple[str, ...]
    classified: tuple[str, ...]
    responses: tuple[str, ...]
    detected: tuple[str, ...]
    visualized: tuple[str, ...]


class Phase(NamedTuple):
    """Tasks of one kind, in the order in which they are given out.

    Attributes:
        stage: whose they are.
        kind: layer, or what build-db reads.
        unit: what sizes count; a task's time grows with it.
        sizes: (n,) of the shards.
        alone: the phase waits for those before it.
        gpu: whether a GPU can do it.
    """

    stage: str
    kind: str
    unit: str
    sizes: Floats
    alone: bool = False
    gpu: bool = False


def counted(instances: Sequence[Instance]) -> Counts:
    """The numbers of a data set."""
    of: dict[tuple[str, str], list[Instance]] = {}
    for each in instances:
        of.setdefault((each.category, each.split), []).append(each)
    groups: dict[tuple[str, str], Group] = {}
    types: dict[str, int] = {}
    seen: set[str] = set()
    for key, members in of.items():
        images = {each.image for each in members}
        points = sum(int(each.visible.sum()) for each in members)
        groups[key] = Group(len(members), len(images - seen), points, len(images))
        types[key[0]] = len(members[0].visible)
        seen |= images
    return Counts(groups, types)


def assumed(instances: int, photographs: int, categories: int) -> Counts:
    """Equal categories of which ``TRAIN_SHARE`` is for training; the numbers add up exactly."""
    shares = (("train", TRAIN_SHARE), ("val", 1 - TRAIN_SHARE))
    names = [f"category {n + 1:03d}" for n in range(categories)]
    weights = np.array([share for _ in names for _, share in shares]) / categories
    objects, pictures = _dealt(instances, weights), _dealt(photographs, weights)
    keys = [(name, split) for name in names for split, _ in shares]
    groups = {
        key: Group(a, b, SHOWN * a, b) for key, a, b in zip(keys, objects, pictures, strict=True)
    }
    return Counts(groups, dict.fromkeys(names, TYPES))


def _dealt(total: int, weights: Floats) -> list[int]:
    return [int(n) for n in np.diff(np.floor(np.append(0, np.cumsum(weights)) * total + 1e-6))]


def phases(config: Config, counts: Counts, layers: Layers) -> list[Phase]:
    """Every stage's shards, in order."""
    found = [*_build_db(config, counts), _neighbors(config, counts)]
    found += _transfer(config, counts, layers.aligned)
    found += _classify(config, counts, layers.classified)
    found += _responses(counts, layers.responses)
    found += _detect(config, counts, layers.detected)
    found += _visualize(config, counts, layers.visualized)
    return [phase for phase in found if len(phase.sizes)]


def chunked(total: int, size: int) -> list[int]:
    """``total`` things ``size`` at a time."""
    full, rest = divmod(total, size)
    return [size] * full + ([rest] if rest else [])


def _phase(stage: str, kind: str, unit: str, sizes: Sequence[float], **more: bool) -> Phase:
    return Phase(stage, kind, unit, np.array(sizes, np.float64), **more)


def _build_db(config: Config, counts: Counts) -> Iterator[Phase]:
    size, groups = config.features.shard, counts.groups.values()
    # Whole photographs are given out first.
    if config.features.points or config.features.cells:
        images = [n for group in groups for n in chunked(group.photographs, size)]
        yield _phase("build-db", "photographs", "photographs", images, gpu=True)
    boxes = [n for group in groups for n in chunked(group.instances, size)]
    yield _phase("build-db", "instances", "instances", boxes, gpu=True)


def _neighbors(config: Config, counts: Counts) -> Phase:
    sizes = [
        n * counts.of(category, "train").instances
        for category in counts.types
        for n in chunked(_targets(config, counts, category), NEIGHBORS_TARGETS)
    ]
    return _phase("neighbors", "cosine", "comparisons", sizes)


def _targets(config: Config, counts: Counts, category: str) -> int:
    return counts.of(category, config.neighbors.split).instances


def _transfer(config: Config, counts: Counts, layers: Sequence[str]) -> Iterator[Phase]:
    sizes: list[float] = []
    for category in counts.types:
        base, targets = counts.of(category, "train").instances, _targets(config, counts, category)
        targets = min(targets, config.flow.targets or targets)
        pairs = min(config.neighbors.k, base)
        sizes += [pairs * n for n in chunked(targets, config.flow.shard)] if base else []
    for layer in layers:
        yield _phase("transfer", layer, "pairs", sizes, gpu=config.flow.solver == "decoupled")


def _classify(config: Config, counts: Counts, layers: Sequence[str]) -> Iterator[Phase]:
    folds = config.classify.folds
    sizes: list[float] = []
    for category, types in counts.types.items():
        train, val = (counts.of(category, split) for split in ("train", "val"))
        if train.points and val.points and train.shown > 1 and types > 1:
            most = min(folds, train.shown)
            every = types * train.points
            sizes += [every * (1 - 1 / most)] * most + [every]
    for layer in layers:
        yield _phase("classify", layer, "keypoints x types", sizes)


def _responses(counts: Counts, layers: Sequence[str]) -> Iterator[Phase]:
    """Photographs of the category with most validation keypoints, as Figure 4's."""
    most = max((counts.of(c, "val").points for c in counts.types), default=0)
    named = [c for c in counts.types if counts.of(c, "val").points == most > 0][:1]
    sizes = [n for c in named for n in chunked(counts.of(c, "val").instances, RESPONSES_FILES)]
    for layer in layers:
        yield _phase("responses", layer, "photographs", sizes, gpu=True)


def _detect(config: Config, counts: Counts, layers: Sequence[str]) -> Iterator[Phase]:
    folds = config.detect.folds if len(config.detect.etas) > 1 else 0
    sizes: list[float] = []
    for category, types in counts.types.items():
        train = counts.of(category, "train")
        number = min(train.instances, config.detect.instances or train.instances)
        if train.points and counts.of(category, "val").points:
            most = min(folds, train.shown)
            most = most if most > 1 else 0
            # Every round each shard's detectors look at every instance.
            rounds = (1 + config.detect.rounds) / 4
            sizes += [number * types * rounds] * (most + 1)
    for layer in layers:
        yield _phase("detect", layer, "instances x types", sizes, alone=True, gpu=True)


def _visualize(config: Config, counts: Counts, layers: Sequence[str]) -> Iterator[Phase]:
    asked = config.visualize
    base = sum(
        group.photographs
        for (_, split), group in counts.groups.items()
        if asked.base == "all" or split == "train"
    ) * (1 + asked.mirrored)
    validation = sum(g.photographs for (_, split), g in counts.groups.items() if split == "val")
    rebuilt = min(asked.photographs, validation)
    files = -(-base // config.features.shard)
    pieces = max(1, min(files // 4, VISUALIZE_FILES * 64))
    for layer in layers:
        sizes = [rebuilt * base / pieces] * pieces if rebuilt and base else []
        yield _phase("visualize", layer, "photographs searched for x in", sizes, gpu=False)

"""Training keypoint detectors with hard negatives (paper, section 5).

There are far more positions than memory holds, so training works on a cache: all positives, some
random negatives, and the hard negatives that each round finds.

    cache = Cache.of(join(first_samples(...) of every shard))
    detectors = refit(cache)
    while the rounds last:
        found = merge(hardest(..., detectors, cache.ids, ...) of every shard)
        if not len(found.samples): break     the detectors are the SVMs on all negatives
        cache = cache.evict(detectors).add(found.samples)
        detectors = refit(cache, start=detectors)

The loss is the squared hinge (the paper names none), so a negative costs something exactly if its
score exceeds -1: with none of these outside the cache, its optimum is that of all negatives. All
keypoints of a category share one cache, and a sample counts for every keypoint that it is labelled
for. So the positives of one keypoint are negatives of others, near misses at no cost; they and the
random negatives never leave. Where keypoints cannot be separated, as with SIFT, this matters: with
a cache for each keypoint, or the very hardest alone in a full one, mining makes detectors worse
than random negatives do; so, better (measured on photographs; not in the paper).

A sample's id is ``instance * positions + position``; ties go to the lower id. With that, and with
scores that depend on their instance alone, nothing depends on the shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import svm
from distcorr.algorithms.windows import Detectors, Grids, Labels, blocks, score_positions
from distcorr.types import FloatArray

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

# R-CNN's values (its reference code, which section 5 follows; not in the paper).
C = 1e-3  # for features of mean norm NORM
NORM = 20.0
POSITIVE = 2.0  # weight of a positive
BIAS = 10.0  # value of the constant feature that makes the intercept
MOST = 100_000  # mined samples of a cache: 0.46 GB of conv5 as stored (not in the paper)
_ROWS = 4096  # samples at a time, of what needs no more
HARD, EASY = -1.0, -1.2  # a negative above the first costs; one below the second is evicted


@dataclass(frozen=True, eq=False)
class Samples:
    """Some positions of some instances, by ascending id.

    Attributes:
        ids: (m,) int64.
        features: (m, D) as stored.
        labels: (m, K) int8 as of ``labels``.
        scores: (m, K) float32 by the detectors that found them; 0 where none did.
    """

    ids: Ids
    features: Grids
    labels: Labels
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: npt.NDArray[Any]) -> Samples:
        """Those rows alone."""
        return Samples(*(array[rows] for array in vars(self).values()))


class Found(NamedTuple):
    """What one pass over a shard, or over all of them, has found.

    Attributes:
        samples: the hardest.
        violations: (K,) int64, all negatives outside the cache that score above -1, the hardest
            among them.
    """

    samples: Samples
    violations: npt.NDArray[np.int64]


def join(parts: Iterable[Samples]) -> Samples:
    """All samples of one or more parts, each id once, by ascending id."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    together = Samples(*(np.concatenate(arrays) for arrays in columns))
    return together.at(np.unique(together.ids, return_index=True)[1])


def first_samples(
    grids: Grids, labels: Labels, instances: Sequence[int], *, block: int, count: int, seed: int
) -> Samples:
    """All positives of a shard, and ``count`` random positions of every instance.

    Args:
        grids: (n, rows, cols, C) of the shard.
        labels: (n, K, rows', cols') of the shard.
        instances: (n,) ascending numbers of the instances within the category.
        block: side in cells.
        count: positions that are negatives of at least one keypoint, drawn for all together.
        seed: of the draw; what is drawn of an instance depends on its number and on this alone.
    """
    rows, ids = _by_position(labels, instances)
    positive, negative = (rows == 1).any(axis=1), (rows == -1).any(axis=1)
    each = labels[0, 0].size if len(labels) else 0
    drawn = np.where(negative, _noise(ids, seed), np.inf).reshape(len(labels), each)
    order = np.argsort(drawn, axis=1, kind="stable")[:, :count]
    random = np.zeros(drawn.shape, bool)
    np.put_along_axis(random, order, True, axis=1)
    kept = np.flatnonzero(positive | (random.ravel() & negative))
    scores = np.zeros((len(kept), rows.shape[1]), np.float32)
    return Samples(ids[kept], blocks(grids, kept, block), rows[kept], scores)


def hardest(
    grids: Grids,
    labels: Labels,
    instances: Sequence[int],
    detectors: Detectors,
    held: Ids,
    most: int,
    device: str = "cpu",
    *,
    features: bool = True,
) -> Found:
    """The ``most`` negatives of highest score above -1 of every keypoint that are not yet held.

    Args:
        grids, labels, instances: of a shard, as for ``first_samples``.
        detectors: of all keypoints of the category.
        held: ids in the cache, of this shard or of all.
        most: per keypoint.
        device: torch device.
        features: take them along; without them ``D`` is 0.
    """
    rows, ids = _by_position(labels, instances)
    found = score_positions(grids, detectors, device).reshape(rows.shape)
    free = np.flatnonzero(~np.isin(ids, held))
    kept = free[_top(ids[free], rows[free], found[free], most)]
    seen = grids if features else grids[..., :0]
    samples = Samples(ids[kept], blocks(seen, kept, detectors.block), rows[kept], found[kept])
    return Found(samples, ((rows[free] == -1) & (found[free] > HARD)).sum(axis=0))


def merge(parts: Iterable[Found], most: int) -> Found:
    """The ``most`` hardest of every keypoint among those of all shards, and all violations."""
    every = list(parts)
    found = join(each.samples for each in every)
    hardest_of_all = found.at(_top(found.ids, found.labels, found.scores, most))
    return Found(hardest_of_all, np.sum([each.violations for each in every], axis=0))


def _by_position(labels: Labels, instances: Sequence[int]) -> tuple[Labels, Ids]:
    """Labels as (n * positions, K), and the ids of these rows."""
    count, keypoints = labels.shape[:2]
    flat = labels.reshape(count, keypoints, -1)
    each = np.arange(flat.shape[2], dtype=np.int64)
    ids = np.asarray(instances, np.int64)[:, None] * len(each) + each
    return flat.transpose(0, 2, 1).reshape(-1, keypoints), ids.ravel()


def _top(ids: Ids, labels: Labels, scores: FloatArray, most: int) -> Rows:
    """Rows, ascending, that are among the ``most`` hardest of a keypoint; ids break ties."""
    kept = np.zeros(len(ids), bool)
    for k in range(labels.shape[1]):
        hard = np.flatnonzero((labels[:, k] == -1) & (scores[:, k] > HARD))
        kept[hard[np.lexsort((ids[hard], -scores[hard, k]))[:most]]] = True
    return np.flatnonzero(kept)


def _noise(ids: Ids, seed: int) -> npt.NDArray[np.uint64]:
    """(m,) a random number for every id (splitmix64, public domain), whatever else is asked."""
    start = np.random.default_rng(seed).integers(2**64, dtype=np.uint64)
    z = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


# -- the cache, and training on it -------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cache:
    """The samples of one category that its detectors are trained on.

    Attributes:
        first: what never leaves: positives and random negatives.
        mined: hard negatives that came later; none of them is in ``first``.
        most: so many ``mined`` at most.
        seed: of the choice of those that stay when there are more.
        full: whether any were left out for that; mining then ends short of the SVM on all.
    """

    first: Samples
    mined: Samples
    most: int = MOST
    seed: int = 0
    full: bool = False

    @classmethod
    def of(cls, first: Samples, most: int = MOST, seed: int = 0) -> Cache:
        """A cache with nothing mined yet."""
        return cls(first, first.at(np.zeros(0, np.intp)), most, seed)

    @property
    def ids(self) -> Ids:
        """(N,) of all samples."""
        return np.concatenate([self.first.ids, self.mined.ids])

    def evict(self, detectors: Detectors) -> Cache:
        """Without the mined samples that score below -1.2 by all detectors they are negatives of.

        They cost nothing, so the cache's optimum stays as it is, and mining comes to an end. The
        others keep their new scores.
        """
        scores = detectors.linear.scores(_scaled(self.mined.features, detectors.scale))
        kept = np.flatnonzero(_hardness(self.mined.labels, scores) >= EASY)
        return replace(self, mined=replace(self.mined, scores=scores).at(kept))

    def add(self, found: Samples) -> Cache:
        """With these; if they become too many, without a seeded choice of the mined ones.

        Not without the easiest: a cache of the very hardest alone leads SIFT's detectors astray
        (measured; not in the paper).
        """
        mined = join([self.mined, found])
        if len(mined) <= self.most:
            return replace(self, mined=mined)
        kept = np.argsort(_noise(mined.ids, self.seed), kind="stable")[: self.most]
        return replace(self, mined=mined.at(np.sort(kept)), full=True)


def feature_scale(samples: Samples) -> float:
    """The factor that brings the samples' features to mean norm 20 (R-CNN's; protocol, 10.3).

    Raises:
        ValueError: all of them are zero, or one is not finite.
    """
    norms = [
        np.linalg.norm(samples.features[start : start + _ROWS].astype(np.float32), axis=1)
        for start in range(0, len(samples), _ROWS)  # a whole copy would double the memory
    ]
    norm = float(np.concatenate(norms).mean()) if norms else 0.0
    if not (np.isfinite(norm) and norm > 0):
        raise ValueError(f"features must be finite and not all zero, got a mean norm of {norm}")
    return NORM / norm


def refit(
    cache: Cache,
    *,
    block: int,
    scale: float,
    c: float = C,
    positive: float = POSITIVE,
    start: Detectors | None = None,
    tolerance: float = 1e-3,
    device: str = "cpu",
) -> Detectors:
    """Train all detectors on the cache, each on the samples that are labelled for it.

    Args:
        cache: of the category.
        block: side in cells.
        scale: ``feature_scale`` of the samples that mining began with.
        c: price of a negative that is misjudged by 1.
        positive: how many times that a positive costs.
        start: the last round's detectors.
        tolerance: ``svm.train``'s (1e-3: exact enough to rank positions; not in the paper).
        device: torch device.

    Raises:
        ValueError: no keypoint has both a positive and a negative, or a feature is not finite.
    """
    parts = (cache.first, cache.mined)
    known = np.concatenate([part.labels for part in parts])
    features = np.empty((len(known), cache.first.features.shape[1]), np.float32)
    start_row = 0
    for part in parts:  # straight into place: at full size there is no room for another copy
        np.multiply(part.features, np.float32(scale), out=features[start_row:][: len(part)])
        start_row += len(part)
    linear = svm.train(
        features,
        np.where(known == 1, 1, -1),
        c,
        start=start.linear if start else None,
        intercept_scaling=BIAS,
        weights=np.choose(known + 1, [1.0, 0.0, positive]).astype(np.float32),
        tolerance=tolerance,
        device=device,
    )
    return Detectors(linear, block, scale)


def _scaled(features: Grids, scale: float) -> FloatArray:
    out: FloatArray = features.astype(np.float32)
    out *= np.float32(scale)
    return out


def _hardness(labels: Labels, scores: FloatArray) -> FloatArray:
    """(m,) the highest score by a detector that a sample is a negative of."""
    hardness: FloatArray = np.where(labels == -1, scores, -np.inf).max(axis=1)
    return hardness

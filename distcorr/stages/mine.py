"""The tasks of ``detect`` that mine: find hard negatives, train on the cache (section 5).

Every task reads the grids that it needs from the store, a few instances at a time, so that nothing
large passes through the driver. What it returns are ids of samples: their features are read again
by the task that trains on them, which is also what a run does that was killed between two rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from distcorr.algorithms import mining, svm, windows
from distcorr.algorithms.mining import Cache, Found, Samples
from distcorr.algorithms.windows import Detectors
from distcorr.config import DetectConfig
from distcorr.data.classified import VALIDATION
from distcorr.data.detectors import Ids, State
from distcorr.data.features import FeatureStore
from distcorr.data.run import Shard
from distcorr.data.storage import Folder
from distcorr.data.store import HalfArray
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.objects import Work, chunks, float32_products
from distcorr.types import BoolArray


def find(
    store: FeatureStore,
    work: Work,
    states: Mapping[int, tuple[int, State]],
    start: int,
    stop: int,
    most: int,
    device: str = "cpu",
) -> dict[int, Found]:
    """The hardest negatives of the training instances ``start`` to ``stop``, without features.

    Args:
        store: of the features.
        work: layer and category.
        states: number of a shard -> its fold, and how far it is: each sees the grids once read.
        start: first row.
        stop: row after the last one.
        most: per keypoint.
        device: torch device.

    Returns:
        Number of a shard -> what was found outside its fold.
    """
    float32_products()
    rows, grids = work.read(store, work.train, np.arange(start, stop))
    found: dict[int, Found] = {}
    if not len(rows):
        return found
    labels = work.labels(rows)
    for shard, (fold, state) in states.items():
        seen = work.train.fold[rows] != fold
        if not seen.any():
            continue
        held = np.concatenate([state.first, state.mined])
        inputs = (grids, labels) if seen.all() else (grids[seen], labels[seen])
        found[shard] = mining.hardest(
            *(*inputs, rows[seen].tolist(), state.detectors, held, most, device), features=False
        )
    return found


def fit(
    store: FeatureStore,
    work: Work,
    rounds: Folder,
    shard: Shard,
    state: State | None,
    found: Found | None,
    config: DetectConfig,
    seed: int,
    device: str = "cpu",
) -> State:
    """Train on the cache with what was found; write how far this is, and return it.

    Without a ``state``, on positives and random negatives: round 0.

    Raises:
        DistcorrError: no training instance has features that can be learnt from.
    """
    if state is None:
        state = _begin(store, work, int(shard.items[1]), config, seed, device)
    elif found is None or not len(found.samples):
        nothing = (0,) * len(work.names)
        state = replace(
            state,
            round=state.round + 1,
            ended=True,
            found=(*state.found, nothing),
            sizes=(*state.sizes, state.sizes[-1]),
        )
    else:
        state = _go_on(store, work, state, found, config, seed, device)
    state.save(rounds, round_file(shard, state.round))
    return state


def round_file(shard: Shard, number: int) -> str:
    """Name of what a round leaves; other input has other names."""
    return f"{shard.inputs}-{number}.parquet"


def _begin(
    store: FeatureStore, work: Work, fold: int, config: DetectConfig, seed: int, device: str
) -> State:
    samples, broken = _gather(store, work, _first(work, fold, config.first, seed))
    if not len(samples):
        raise DistcorrError(
            f"{work.layer} is not finite in any training instance of {work.category}"
            + ("." if fold == VALIDATION else f", fold {fold}."),
            "distcorr store verify finds damaged files; an extractor of your own may be at fault",
            MISSING,
        )
    has = [(samples.labels == sign).any(axis=0) for sign in (1, -1)]
    notes = _undetected(work, fold, has[0], has[1])
    samples = _without(samples, ~(has[0] & has[1]))
    facts: dict[str, Any] = {"sizes": (len(samples),), "broken": broken, "notes": notes}
    none = samples.ids[:0]
    if not (has[0] & has[1]).any():
        count = len(work.names)
        nothing, steps = np.zeros(count), np.zeros(count, np.int64)
        coef = np.zeros((count, samples.features.shape[1]))
        linear = svm.Linear(coef, np.full(count, -np.inf), nothing, nothing, nothing, steps)
        blind = Detectors(linear, work.block, 1.0)
        return State(0, blind, samples.ids, none, ended=True, **facts)
    try:
        scale = mining.feature_scale(samples)
    except ValueError:
        raise DistcorrError(
            f"{work.layer} is zero in every training instance of {work.category}.",
            "leave the layer out of detect.layers",
            MISSING,
        ) from None
    cache = Cache.of(samples, config.cache, seed)
    detectors = _refit(cache, work, scale, config, None, device)
    return State(0, detectors, samples.ids, none, **facts)


def _undetected(work: Work, fold: int, positive: BoolArray, negative: BoolArray) -> tuple[str, ...]:
    """Which of the K keypoints a fold lacks; those that all instances lack are told of once."""
    which = work.category
    if fold != VALIDATION:
        which += f", fold {fold}"
        ever = [
            np.stack([(work.labels(some) == sign).any(axis=(0, 2, 3)) for sign in (1, -1)])
            for some in chunks(np.arange(len(work.train.ids)))
        ]
        all_positive, all_negative = np.any(ever, axis=0)
        positive, negative = positive | ~all_positive, negative | ~all_negative
    lacking = {"positive": ~positive, "negative": positive & ~negative}
    return tuple(
        f"{which}: no {what} to learn from by {work.layer}, not detected: "
        + ", ".join(name for name, absent in zip(work.names, without, strict=True) if absent)
        + "."
        for what, without in lacking.items()
        if without.any()
    )


def _go_on(
    store: FeatureStore,
    work: Work,
    state: State,
    found: Found,
    config: DetectConfig,
    seed: int,
    device: str,
) -> State:
    samples, _ = _gather(store, work, np.concatenate([state.first, state.mined, found.samples.ids]))
    samples = _without(samples, np.isneginf(state.detectors.linear.intercept))
    ends = np.cumsum([0, len(state.first), len(state.mined), len(found.samples)])
    first, mined, new = (  # slices, not rows: views of what was read
        Samples(*(array[a:b] for array in vars(samples).values()))
        for a, b in itertools.pairwise(ends)
    )
    cache = Cache(first, mined, config.cache, seed, state.full).evict(state.detectors).add(new)
    detectors = _refit(cache, work, state.detectors.scale, config, state.detectors, device)
    return replace(
        state,
        round=state.round + 1,
        detectors=detectors,
        mined=cache.mined.ids,
        full=cache.full,
        found=(*state.found, tuple(found.violations.tolist())),
        sizes=(*state.sizes, len(cache.ids)),
    )


def _refit(
    cache: Cache,
    work: Work,
    scale: float,
    config: DetectConfig,
    start: Detectors | None,
    device: str,
) -> Detectors:
    return mining.refit(
        cache,
        block=work.block,
        scale=scale,
        c=config.c,
        positive=config.positive_weight,
        start=start,
        device=device,
    )


def _first(work: Work, fold: int, count: int, seed: int) -> Ids:
    """Ids of all positives outside the fold and of random negatives; needs no features."""
    ids: list[Ids] = []
    rows = np.flatnonzero(work.train.fold != fold)
    for some in chunks(rows):
        empty = np.empty((len(some), work.geometry.cells, work.geometry.cells, 0), np.float16)
        drawn = mining.first_samples(
            empty, work.labels(some), some.tolist(), block=work.block, count=count, seed=seed
        )
        ids.append(drawn.ids)
    return np.concatenate(ids)


def _gather(store: FeatureStore, work: Work, ids: Ids) -> tuple[Samples, tuple[int, ...]]:
    """The samples of these ids, in their order, and the instances that are not finite.

    Those have no samples.
    """
    each = work.centres[..., 0].size
    owner = ids // each
    kept = np.zeros(len(ids), bool)
    labels = np.zeros((len(ids), len(work.names)), np.int8)
    features: HalfArray | None = None
    broken: list[int] = []
    for some in chunks(np.unique(owner)):
        rows, grids = work.read(store, work.train, some)
        broken += np.setdiff1d(some, rows).tolist()
        if features is None:
            features = np.empty((len(ids), work.block**2 * grids.shape[3]), np.float16)
        mine = np.flatnonzero(np.isin(owner, rows))
        place = np.searchsorted(rows, owner[mine]) * each + ids[mine] % each
        features[mine] = windows.blocks(grids, place, work.block)
        flat = work.labels(rows).reshape(len(rows), len(work.names), each).transpose(0, 2, 1)
        labels[mine] = flat.reshape(-1, len(work.names))[place]
        kept[mine] = True
    if features is None:
        features = np.empty((0, 0), np.float16)
    samples = Samples(ids, features, labels, np.zeros(labels.shape, np.float32))
    return samples if kept.all() else samples.at(np.flatnonzero(kept)), tuple(broken)


def _without(samples: Samples, unknown: BoolArray) -> Samples:
    """Keypoints that cannot be learnt have no samples."""
    return replace(samples, labels=np.where(unknown, 0, samples.labels).astype(np.int8))

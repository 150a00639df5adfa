"""``evaluate-pairs``: points of one photograph looked for in another, by several methods.

A shard is a few pairs of one category by one feature. Pairs that share a photograph stand together,
and the features of each photograph of a shard are made once. What is written is where every point
landed, so that any definition of PCK is a matter of scoring.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from distcorr.config import Config, PairsConfig, difference, digest
from distcorr.data import datasets
from distcorr.data.images import checksum
from distcorr.data.pairs import Pair, PairSet, load_pairs
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.weights import Weights
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.cluster import Outcome
from distcorr.stages.pair_features import Layer, layer_of, network_for
from distcorr.stages.pair_shard import match_shard
from distcorr.stages.pipeline import Context, Forecast, Summary, foreseen, run_shards
from distcorr.types import Dataset

VERSION = 1
NAME = "evaluate-pairs"
_READERS = 16  # threads that compute checksums of photographs
_SMALL = 500_000_000  # bytes that any node has for a task; not in the paper


@dataclass(frozen=True)
class _Job:
    """Everything about the stage that is known before any photograph is matched.

    A shard's ``kind`` is its feature.
    """

    pairs: PairSet
    checksums: dict[str, str]
    stage: StageFolder
    plan: list[Shard]
    layers: dict[str, Layer]
    names: dict[str, str]  # layer -> what it was asked for by
    weights: Weights | None


def run(context: Context) -> Summary:
    """Match every pair by every feature and method.

    Raises:
        DistcorrError: the run holds other features; as the reader of the pairs; or what
            ``run_shards`` raises.
    """
    _refuse_other_features(context)
    job = _prepare(context)
    for warning in job.pairs.warnings:
        context.progress.warn(warning)
    context.run.save_config(context.config)
    pairs = context.config.pairs
    facts = {
        "pairs": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(pairs).items()},
        "data": f"{job.pairs.name}, {len(job.pairs.pairs):,} pairs",
        "features": {name: layer.label for name, layer in job.layers.items()},
        "photographs": len(job.checksums),
    }
    work = partial(_work, context, job)
    return run_shards(context, job.stage, job.plan, work, facts, len(job.pairs.pairs))


def forecast(context: Context) -> Forecast:
    """What ``run`` would do; reads photographs for their checksums, and matches nothing."""
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


def _refuse_other_features(context: Context) -> None:
    """A run folder's settings are one: another network would leave its other stages outdated."""
    saved = context.run.config()
    if saved is None or "build-db" not in context.run.manifest()["stages"]:
        return
    changed = [
        line
        for line in difference(saved, context.config)
        if line.startswith(("dataset.", "features.", "seed:"))
    ]
    if changed:
        raise DistcorrError(
            f"{context.run} holds features of its own, made with other settings: "
            f"{'; '.join(changed)}",
            "leave these settings out, or use another run folder: --run runs/pairs",
        )


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    config = context.config
    pairs = pairs_of(context)
    if not pairs.pairs:
        raise DistcorrError(
            f"{pairs.name} in {pairs.root} has no pairs. {' '.join(pairs.warnings)}".rstrip(),
            "another --split, --category or --data",
            MISSING,
        )
    _require_boxes(pairs, config)
    weights = network_for(config.pairs.features, config)
    found = [layer_of(name, config, weights) for name in config.pairs.features]
    layers = {layer.name: layer for layer in found}
    if len(layers) < len(found):
        raise DistcorrError(
            f"pairs.features names a feature twice: {', '.join(layer.name for layer in found)}.",
            "leave one of them out; auto is the network's own layer",
        )
    chunks = list(_chunks(pairs.pairs, config.pairs.shard))
    stage = context.run.stage(NAME, _key(config, list(layers), chunks))
    images = sorted({image for pair in pairs.pairs for image in (pair.a, pair.b)})
    with ThreadPoolExecutor(_READERS) as pool:
        found_sums = pool.map(partial(checksum, Folder(pairs.root)), images)
        checksums = dict(zip(images, found_sums, strict=True))
    plan: list[Shard] = []
    for layer in layers.values():
        for chunk in chunks:
            seen = [[_words(pair), checksums[pair.a], checksums[pair.b]] for pair in chunk]
            ids = tuple(pair.id for pair in chunk)
            plan.append(Shard(len(plan), digest([layer.identity, seen])[:16], ids, layer.name))
    names = dict(zip(layers, config.pairs.features, strict=True))
    return _Job(pairs, checksums, stage, plan, layers, names, weights)


def pairs_of(context: Context) -> PairSet:
    """The pairs that are asked for; those of drawn objects if no data is."""
    asked = context.config.pairs
    if not asked.root:
        dataset = replace(context.config.dataset, name="toy", root="", categories=(), limit=0)
        return drawn(datasets.load(dataset, context.run.folder, context.config.seed), asked)
    return load_pairs(
        asked.root,
        layout=asked.layout,
        split=asked.split,
        categories=asked.categories,
        limit=asked.limit,
    )


def drawn(dataset: Dataset, asked: PairsConfig) -> PairSet:
    """Every two validation objects of a category, both ways, by the keypoints that both show."""
    kept: list[Pair] = []
    for category, types in dataset.keypoint_names.items():
        if asked.categories and category not in asked.categories:
            continue
        members = [i for i in dataset.instances if (i.category, i.split) == (category, "val")]
        found = []
        for a, b in itertools.permutations(members, 2):
            both = np.flatnonzero(a.visible & b.visible)
            if len(both) and a.image != b.image:
                names = tuple(types[k] for k in both)
                points = a.keypoints[both], b.keypoints[both]
                where = a.image, b.image
                found.append(Pair(f"{a.id}-{b.id}", category, *where, *points, names, a.box, b.box))
        kept += found[: asked.limit or None]
    kept.sort(key=lambda pair: pair.id)
    return PairSet(f"drawn objects, {dataset.name}", dataset.root, tuple(kept))


def _require_boxes(pairs: PairSet, config: Config) -> None:
    lacking = [pair.id for pair in pairs.pairs if pair.box_a is None or pair.box_b is None]
    if config.pairs.box and lacking:
        raise DistcorrError(
            f"pairs.box = true matches boxes, and {len(lacking)} of {len(pairs.pairs)} pairs have "
            f"none, for example {lacking[0]}.",
            "--set pairs.box=false matches whole photographs",
        )


def _chunks(pairs: Sequence[Pair], size: int) -> Iterator[tuple[Pair, ...]]:
    """Pairs of one category, ``size`` at a time; those of the same photographs stand together."""
    ordered = sorted(pairs, key=lambda pair: (pair.category, pair.a, pair.b, pair.id))
    for _, group in itertools.groupby(ordered, key=lambda pair: pair.category):
        members = tuple(group)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _key(config: Config, layers: list[str], chunks: Sequence[Sequence[Pair]]) -> str:
    """Of the settings, and of the annotations wherever they lie."""
    settings = asdict(config.pairs)
    for name in ("root", "layout", "split", "categories", "limit", "features", "dialects"):
        del settings[name]  # pairs and features count by what they are, dialects only in scoring
    asked: list[Any] = [NAME, VERSION, settings, config.seed, layers]
    asked += [asdict(config.flow)] if "flow" in config.pairs.methods else []
    return digest([asked, [[_words(pair) for pair in chunk] for chunk in chunks]])[:8]


def _words(pair: Pair) -> list[Any]:
    """A pair as JSON."""
    points = [xy.tolist() for xy in (pair.points_a, pair.points_b)]
    boxes = [None if box is None else list(box) for box in (pair.box_a, pair.box_b)]
    return [pair.id, pair.category, pair.a, pair.b, points, list(pair.keypoints), boxes]


# -- working -----------------------------------------------------------------------------------


def _work(context: Context, job: _Job, todo: Sequence[Shard]) -> Iterator[Outcome[Shard, Any]]:
    """What is left to do, feature by feature, so that a process loads each network once."""
    session, config = context.session, context.config
    weights, shared = session.put(job.weights), session.put(config)
    of = {pair.id: pair for pair in job.pairs.pairs}
    first = next(iter(job.layers))

    def arguments(shard: Shard, layer: Layer) -> tuple[Any, ...]:
        pairs = [of[name] for name in shard.items]
        sums = {image: job.checksums[image] for pair in pairs for image in (pair.a, pair.b)}
        asked = job.names[layer.name], layer.identity, layer.name == first
        return (weights, shared, job.pairs.root, pairs, sums, *asked, job.stage, shard)

    for layer in job.layers.values():
        mine = [shard for shard in todo if shard.kind == layer.name]
        gpus = session.gpus() if mine and not layer.alone else 0.0
        needs = layer.bytes_of(2 * config.pairs.shard)
        memory = float(needs) if needs > _SMALL else 0.0
        yield from session.map(
            match_shard, ((shard, arguments(shard, layer)) for shard in mine), gpus, memory
        )

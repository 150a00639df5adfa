"""``responses``: where around a keypoint its classifier responds most (section 4, Figure 4).

One shard is a few validation photographs of one category, seen by one layer. Each photograph passes
once for all keypoints that are asked for, and only the places of the maxima are kept. The C that is
used is the report's, so another one makes other shards and nothing is trained.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from distcorr.config import PRESETS, ResponsesConfig, digest
from distcorr.data.classified import Classified
from distcorr.data.features import FeatureStore
from distcorr.data.images import checksum
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.stages.cluster import Outcome
from distcorr.stages.loaded import network_of, sources
from distcorr.stages.pipeline import (
    Context,
    Forecast,
    Summary,
    foreseen,
    required,
    run_shards,
    stage_key,
)
from distcorr.stages.respond import Classifiers, Doubles, Photograph, Work, respond
from distcorr.types import FloatArray, Instance

VERSION = 1
NAME = "responses"
PHOTOGRAPHS = 8  # per part file; not in the paper
_READERS = 16  # threads that compute checksums of photographs


@dataclass
class _Job:
    """Everything about the stage that is known before any photograph is seen."""

    root: Folder
    stage: StageFolder
    plan: list[Shard] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)  # of the shards
    cs: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(context: Context) -> Summary:
    """Find the maxima.

    Raises:
        DistcorrError: an unknown keypoint or layer; classifiers that were trained with other
            settings, a C that was not trained; weights that are gone or have changed; or what
            ``run_shards`` raises.
    """
    job = _prepare(context)
    for note in job.notes:
        context.progress.warn(note)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        session = context.session
        weights = network_of(NAME, context.run, context.config)
        sources(context.config, weights, {job.work[shard.index].table for shard in todo}, "cpu")
        shared = session.put(weights)
        arguments = (
            (shard, (shared, context.config, job.work[shard.index], job.root, job.stage, shard))
            for shard in todo
        )
        return session.map(respond, arguments, session.gpus())

    context.run.save_config(context.config)
    asked = asdict(context.config.responses)
    facts = {"responses": asked, "cs": job.cs, "notes": job.notes}
    return run_shards(context, job.stage, job.plan, work, json.loads(json.dumps(facts)))


def forecast(context: Context) -> Forecast:
    """What ``run`` would do; reads photographs for their checksums, and computes nothing."""
    if _other_settings(context):
        return Forecast(NAME, "", None, None, "waits for classify with these settings")
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


# -- planning ----------------------------------------------------------------------------------


def _other_settings(context: Context) -> list[str]:
    """How the settings of the classifiers differ from those asked for."""
    made = context.run.manifest()["stages"]["classify"]["classify"]
    asked = json.loads(json.dumps(asdict(context.config.classify)))
    return [
        f"classify.{key} = {made.get(key)}, not {asked[key]}"
        for key in asked
        if made.get(key) != asked[key]
    ]


def _prepare(context: Context) -> _Job:
    store = FeatureStore(required("build-db", NAME, context.run))
    classified = Classified(required("classify", NAME, context.run))
    if other := _other_settings(context):
        raise DistcorrError(
            f"responses works on the classifiers that {context.run} holds: {'; '.join(other)}.",
            "distcorr classify with the same settings trains others",
        )
    root = Folder(store.root) if store.root else context.run.folder / "toy"
    job = _Job(root, context.run.stage(NAME, stage_key(NAME, VERSION, context)))
    asked = _asked(context.config.responses, store, classified, job.notes)
    layers = _layers(context.config.responses, store, classified, job.notes)
    chosen = classified.choose(context.config.evaluation.c, context.config.evaluation.choose)
    images = {i.image: "" for i in store.instances if i.split == "val" and i.category in asked}
    with ThreadPoolExecutor(_READERS) as pool:
        images = dict(zip(images, pool.map(partial(checksum, root), images), strict=True))
    for layer in layers:
        for category, keypoints in asked.items():
            if (layer, category) not in chosen:
                job.notes.append(f"{layer} has no classifiers in {category}: no Figure 4 of them.")
                continue
            index = chosen[layer, category]
            model = classified.model(layer, category, index)
            found = _select(layer, category, classified.cs[index], keypoints, model, job.notes)
            photographs = _photographs(found, store, images, job.notes)
            _add(job, found, photographs, store.folder_of(f"points/{layer}"))
    return job


def _asked(
    config: ResponsesConfig, store: FeatureStore, classified: Classified, notes: list[str]
) -> dict[str, list[str]]:
    """Category -> keypoints that are asked for.

    Raises:
        DistcorrError: there is no such category or keypoint.
    """
    asked: dict[str, list[str]] = defaultdict(list)
    for name in config.keypoints:
        category, _, keypoint = name.partition("/")
        if name == "auto":
            found = _commonest(store, classified)
            if not found:
                notes.append("No classified category has validation keypoints: no Figure 4.")
        elif category not in store.keypoint_names:
            known = sorted(store.keypoint_names)
            raise DistcorrError(
                f"responses.keypoints names {name}, and this run has no category "
                f"{category!r}.{did_you_mean(category, known)}",
                f"it has {', '.join(known)}",
            )
        elif keypoint not in store.keypoint_names[category]:
            types = store.keypoint_names[category]
            raise DistcorrError(
                f"responses.keypoints names {name}, and {category} has no keypoint "
                f"{keypoint!r}.{did_you_mean(keypoint, types)}",
                f"it has {', '.join(types)}",
            )
        else:
            found = {category: [keypoint]}
        for each, keypoints in found.items():
            asked[each] += [k for k in keypoints if k not in asked[each]]
    return dict(asked)


def _commonest(store: FeatureStore, classified: Classified) -> dict[str, list[str]]:
    """Figure 4's own keypoints, else the two commonest of the category with most keypoints."""
    counts: dict[str, Counter[str]] = {category: Counter() for category in classified.categories}
    for instance in store.instances:
        if instance.split == "val" and instance.category in counts:
            names = store.keypoint_names[instance.category]
            counts[instance.category].update(names[k] for k in np.flatnonzero(instance.visible))
    if all(counts.get("cat", Counter())[keypoint] for keypoint in ("L_Eye", "Nose")):
        return {"cat": ["L_Eye", "Nose"]}
    most = max(counts, key=lambda category: counts[category].total(), default="")
    if not most or not counts[most]:
        return {}
    types = sorted(counts[most], key=lambda name: (-counts[most][name], name))
    return {most: types[:2]}


def _layers(
    config: ResponsesConfig, store: FeatureStore, classified: Classified, notes: list[str]
) -> list[str]:
    """The layers that are asked for.

    Raises:
        DistcorrError: one that is asked for by name was not classified.
    """
    own = {"auto": store.conv, **store.names}
    asked = list(dict.fromkeys(own.get(layer, layer) for layer in config.layers))
    missing = [layer for layer in asked if layer not in classified.layers]
    hint = (
        f"classified: {', '.join(classified.layers) or 'none'}; others with features.points and "
        "classify.layers"
    )
    presets = [preset.responses.layers for preset in PRESETS.values()]
    named = [own.get(layer, layer) for layer in config.layers if layer != "auto"]
    named = [layer for layer in named if layer in missing]
    if named and config.layers not in presets:  # of those, and for auto, what there is
        guess = did_you_mean(named[0], classified.layers)
        raise DistcorrError(
            f"responses.layers must be layers that were classified, got {named[0]!r}.{guess}",
            hint,
        )
    notes += [f"Figure 4 has no {layer}, which was not classified ({hint})." for layer in missing]
    return [layer for layer in asked if layer not in missing]


def _select(
    layer: str,
    category: str,
    c: float,
    keypoints: Sequence[str],
    model: tuple[Sequence[str], FloatArray, Doubles],
    notes: list[str],
) -> Classifiers:
    """The classifiers of some keypoints; those without a training sample are noted."""
    names, coef, intercept = model
    row = {name: k for k, name in enumerate(names) if np.isfinite(intercept[k])}
    notes += [
        f"{layer} has no classifier of {category}/{name}: no training sample shows it."
        for name in keypoints
        if name not in row
    ]
    kept = tuple(name for name in keypoints if name in row)
    rows = [row[name] for name in kept]
    return Classifiers(layer, category, c, kept, coef[rows], intercept[rows])


def _photographs(
    found: Classifiers, store: FeatureStore, now: Mapping[str, str], notes: list[str]
) -> list[Photograph]:
    """Validation photographs that show one of the keypoints, in the order of the data set."""
    types = store.keypoint_names[found.category]
    columns = [types.index(name) for name in found.keypoints]
    shown: dict[str, dict[str, Doubles]] = defaultdict(dict)
    counts = np.zeros(len(columns), int)
    for instance in store.instances:
        if instance.category == found.category and instance.split == "val":
            xy = _visible(instance, columns)
            if np.isfinite(xy).any():
                shown[instance.image][instance.id] = xy
                counts += np.isfinite(xy[:, 0])
    for name, count in zip(found.keypoints, counts, strict=True):
        if not count:
            note = f"No validation photograph shows {found.category}/{name}: no Figure 4 of it."
            notes += [note] if note not in notes else []
    return [
        Photograph(image, now[image], now[image] != store.checksums[image], instances)
        for image, instances in shown.items()
    ]


def _visible(instance: Instance, columns: Sequence[int]) -> Doubles:
    """(K, 2) xy px in the photograph; NaN where not visible."""
    xy = instance.keypoints[columns].astype(np.float64)
    xy[~instance.visible[columns]] = np.nan
    return xy


def _add(job: _Job, found: Classifiers, photographs: Sequence[Photograph], table: str) -> None:
    """The shards of one layer and category."""
    if photographs:
        job.cs[f"{found.layer}/{found.category}"] = found.c
    for start in range(0, len(photographs), PHOTOGRAPHS):
        chunk = tuple(photographs[start : start + PHOTOGRAPHS])
        seen_as = [[p.image, p.sha256, p.changed] for p in chunk]
        inputs = digest([found.identity, seen_as])[:16]
        items = tuple(p.image for p in chunk)
        job.plan.append(Shard(len(job.plan), inputs, items, found.layer))
        job.work.append(Work(found, chunk, table))

"""``classify``: which keypoint is this? Linear SVMs on the columns at keypoints (section 4).

One shard is one layer, one category and one fold. It trains the whole path of C without the fold
and predicts the fold for every C, so that which C is chosen, and every accuracy, is a matter of the
report. One more fold, ``VALIDATION``, is trained on all training samples, predicts the validation
samples and keeps its classifiers.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import svm
from distcorr.algorithms.flow import unit_norm
from distcorr.config import ClassifyConfig, digest
from distcorr.data.classified import NOTES, VALIDATION
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.store import META, HalfArray
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.cluster import Outcome
from distcorr.stages.pipeline import (
    Context,
    Forecast,
    Summary,
    foreseen,
    required,
    run_shards,
    stage_key,
    without,
)
from distcorr.stages.samples import Integers, Samples, read_columns, samples_of, too_little
from distcorr.types import FloatArray

VERSION = 1
NAME = "classify"

# Relative duality gap of the classifiers. Not in the paper; measured: at 1e-5 up to one prediction
# in 150 is another where C is small and scores are close, at 1e-8 none or one in 2,000.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class _Job:
    """Everything about the stage that is known before anything is trained.

    A shard's ``kind`` is its layer, its ``items`` are category and fold.
    """

    store: FeatureStore
    stage: StageFolder
    plan: list[Shard]
    tables: dict[str, str]  # layer -> its feature table
    samples: dict[tuple[str, str], Samples]  # by layer and category
    notes: list[str]


def run(context: Context) -> Summary:
    """Train and predict."""
    job, classify = _prepare(context), context.config.classify

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        # Small problems: a core is better used than a GPU is, unless one is asked for.
        gpus = max(0.0, context.config.compute.gpus_per_worker)
        arguments = _arguments(context, job, todo, "cuda" if gpus else "cpu")
        return context.session.map(classify_shard, arguments, gpus)

    context.run.save_config(context.config)
    for note in job.notes:
        context.progress.warn(note)
    if job.notes:
        job.stage.folder.write_json(NOTES, job.notes)
    counts: dict[str, int] = defaultdict(int)
    for (_, category), samples in job.samples.items():
        counts[category] = max(counts[category], len(samples.label))
    facts = {
        NAME: asdict(classify) | {"layers": list(classify.layers), "cs": list(classify.cs)},
        "layers": list(job.tables),
        "samples": counts,
    }
    items = sum(len(samples.label) for samples in job.samples.values())

    def weight(shard: Shard) -> float:
        return len(job.samples[shard.kind, shard.items[0]].label)

    return run_shards(context, job.stage, job.plan, work, facts, items, weight)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do."""
    store = FeatureStore(required("build-db", NAME, context.run))
    if waiting := without(NAME, store, store.classified(context.config.classify).values()):
        return waiting
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    features = required("build-db", NAME, context.run)
    config, store = context.config.classify, FeatureStore(features)
    stage = context.run.stage(NAME, stage_key(NAME, VERSION, context))
    tables = store.classified(config)
    letters = features.dead_letters()
    notes = [] if tables else ["No layer is kept at keypoints (features.points): nothing to name."]
    every: dict[str, Samples] = {}
    for category in sorted(store.keypoint_names) if tables else ():
        samples = samples_of(store, category, config.folds, context.config.seed)
        why = too_little(samples)
        if why:
            notes.append(f"{category} is not classified: {why}.")
            continue
        every[category] = samples
        if both := samples.in_both_splits():
            listed = f"{len(both)} photographs, for example {both[0]},"
            notes.append(f"{category}: {listed} are in both splits: its accuracy is too high.")
        if (folds := int(samples.fold.max()) + 1) < config.folds:
            notes.append(f"{category}: {folds} folds, one for each of its training photographs.")
    plan: list[Shard] = []
    kept: dict[tuple[str, str], Samples] = {}
    for layer, table in tables.items():
        folder = store.folder_of(table)
        lost = {d.id for d in letters if not d.tables or folder in d.tables}
        for category, samples in every.items():
            seen = np.array([image not in lost for image in samples.image])
            here = samples if seen.all() else samples.where(seen)
            if not seen.all():
                left_out = f"{(~seen).sum()} of its {len(seen)} keypoints"
                notes.append(f"{category}: {left_out} lack {layer}, build-db says why.")
            why = too_little(here)
            if why:
                notes.append(f"{category} is not classified by {layer}: {why}.")
                continue
            kept[layer, category] = here
            for fold in (*range(int(samples.fold.max()) + 1), VALIDATION):
                inputs = digest([layer, category, fold, here.digest])[:16]
                plan.append(Shard(len(plan), inputs, (category, str(fold)), layer))
    return _Job(store, stage, plan, tables, kept, notes)


def _arguments(
    context: Context, job: _Job, todo: Sequence[Shard], device: str
) -> Iterator[tuple[Shard, tuple[Any, ...]]]:
    """Arguments of the shards; one layer's columns are held, a category's folds share them."""
    config, seed = context.config.classify, context.config.seed
    of_layer: dict[str, dict[str, list[Shard]]] = defaultdict(lambda: defaultdict(list))
    for shard in todo:
        of_layer[shard.kind][shard.items[0]].append(shard)
    for layer, of_category in of_layer.items():
        wanted = {category: job.samples[layer, category] for category in of_category}
        columns = read_columns(job.store, job.tables[layer], wanted)
        for category, shards in of_category.items():
            shared = context.session.put(columns.pop(category))
            samples = context.session.put(wanted[category])
            for shard in shards:
                yield shard, (shared, samples, job.stage, shard, config, seed, device)


# -- one shard ---------------------------------------------------------------------------------


def classify_shard(
    columns: HalfArray,
    samples: Samples,
    stage: StageFolder,
    shard: Shard,
    config: ClassifyConfig,
    seed: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train without one fold, predict that fold for every C; write the parts and the marker."""
    layer, category, fold = shard.kind, shard.items[0], int(shard.items[1])
    finite = np.isfinite(columns).all(axis=1)
    learnt = finite & (samples.fold != fold) & (samples.fold != VALIDATION)
    asked = samples.fold == fold
    labels = samples.label[learnt]
    if not len(labels):
        raise DistcorrError(
            f"{layer} is not finite in any training sample of {category}, fold {fold}.",
            "distcorr store verify finds damaged files; an extractor of your own may be at fault",
            MISSING,
        )
    if config.control == "shuffled-labels":
        # By what the samples are, not by who works on them; every layer gets the same nonsense.
        draw = np.random.default_rng([seed, zlib.crc32(category.encode()), fold + 1])
        labels = draw.permutation(labels)
    began = time.perf_counter()
    x = _scaled(columns[learnt], config)
    models = _train(x, labels, len(samples.names), config, device)
    training = time.perf_counter() - began
    held = samples.where(asked & finite)
    test = _scaled(columns[asked & finite], config)
    predicted = np.stack([model.predict(test) for model in models], axis=1)
    commonest = np.bincount(labels).argmax()
    notes = _notes(layer, category, fold, x, labels, held)
    facts = {
        "layer": layer,
        "category": category,
        "fold": fold,
        "cs": config.cs,
        "names": samples.names,
        "notes": notes,
        "chance": float(np.mean(held.label == commonest)) if len(held.label) else 0.0,
    }
    tables = {"predictions": _predictions(held, predicted, facts)}
    if fold == VALIDATION:
        tables["models"] = _classifiers(models, facts)
    files = {
        f"{name}/{shard.part}": stage.folder.write_table(f"{name}/{shard.part}", table, 65536)
        for name, table in tables.items()
    }
    dead = [
        DeadLetter(
            f"{samples.instance[i]} {samples.names[samples.label[i]]} ({layer})",
            samples.image[i],
            f"{layer} is not finite",
        )
        for i in np.flatnonzero(asked & ~finite)  # left out of every fold, told by its own
    ]
    stage.mark_done(shard, files, len(held.label), dead)
    return {
        "rows": len(held.label),
        "dead": len(dead),
        "notes": notes,
        "training": round(training, 6),
        "steps": [int(model.iterations.max()) for model in models],
    }


def _scaled(columns: HalfArray, config: ClassifyConfig) -> FloatArray:
    values = columns.astype(np.float32)
    return unit_norm(values) if config.feature_norm == "unit" else values


def _train(
    x: FloatArray, labels: Integers, classes: int, config: ClassifyConfig, device: str
) -> list[svm.Linear]:
    """Classifiers for every C; where there is one type to learn, those that always name it."""
    targets = svm.one_vs_rest(labels, classes)
    if (labels == labels[0]).all():
        nothing = np.zeros(classes)
        intercept = np.where(np.arange(classes) == labels[0], 0.0, -np.inf)
        coef, steps = np.zeros((classes, x.shape[1])), np.zeros(classes, np.int64)
        return [svm.Linear(coef, intercept, nothing, nothing, nothing, steps)] * len(config.cs)
    scaling = 1.0 if config.intercept == "scaled" else None
    return svm.train_path(
        x, targets, config.cs, intercept_scaling=scaling, tolerance=TOLERANCE, device=device
    )


def _notes(
    layer: str, category: str, fold: int, x: FloatArray, labels: Integers, held: Samples
) -> list[str]:
    """What is odd about the samples that were learnt."""
    which = "validation" if fold == VALIDATION else f"fold {fold}"
    known = set(labels.tolist())
    unknown = [held.names[k] for k in sorted(set(held.label.tolist()) - known)]
    notes = []
    if unknown:
        listed = ", ".join(unknown)
        notes.append(f"{category}, {which}: no sample to learn {listed} from; never predicted.")
    if len(known) == 1:
        notes.append(f"{category}, {which}: {held.names[labels[0]]} is all there is to learn.")
    if (x == x[0]).all():
        notes.append(f"{category}, {which}: {layer} is the same in every training sample.")
    return notes


def _predictions(held: Samples, predicted: npt.NDArray[np.intp], facts: dict[str, Any]) -> pa.Table:
    """A row per held-out sample; ``predicted`` has an index into the names for every C."""
    count, cs = predicted.shape
    flat = pa.array(predicted.astype(np.int16).reshape(-1), pa.int16())
    return pa.table(
        {
            "layer": pa.array([facts["layer"]] * count, pa.string()),
            "category": pa.array([facts["category"]] * count, pa.string()),
            "fold": pa.array([facts["fold"]] * count, pa.int8()),
            "image": pa.array(held.image, pa.string()),
            "instance": pa.array(held.instance, pa.string()),
            "keypoint": pa.array([held.names[k] for k in held.label], pa.string()),
            "predicted": pa.FixedSizeListArray.from_arrays(flat, cs),
        }
    ).replace_schema_metadata(_metadata(facts))


def _classifiers(models: Sequence[svm.Linear], facts: dict[str, Any]) -> pa.Table:
    """A row per C and keypoint: score = coef . column + intercept; no intercept: no classifier."""
    coef = np.concatenate([model.coef for model in models]).astype(np.float32)
    intercept = np.concatenate([model.intercept for model in models])
    never = np.isneginf(intercept)
    names, cs, count = facts["names"], facts["cs"], len(intercept)
    flat = pa.array(coef.reshape(-1), pa.float32())
    return pa.table(
        {
            "layer": pa.array([facts["layer"]] * count, pa.string()),
            "category": pa.array([facts["category"]] * count, pa.string()),
            "c": pa.array(np.repeat(cs, len(names)), pa.float64()),
            "keypoint": pa.array(list(names) * len(cs), pa.string()),
            "coef": pa.FixedSizeListArray.from_arrays(flat, coef.shape[1]),
            "intercept": pa.array(intercept, pa.float64(), mask=never),
        }
    ).replace_schema_metadata(_metadata(facts))


def _metadata(facts: dict[str, Any]) -> dict[bytes, bytes]:
    return {META: json.dumps(facts, sort_keys=True).encode()}

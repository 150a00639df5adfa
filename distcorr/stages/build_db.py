"""``build-db``: photographs through networks and SIFT, into the feature store (paper, section 2).

There are two kinds of shards: of instances, whose boxes are seen, and of photographs, which are
seen whole. One row of a Ray Data pipeline is one shard. An actor decodes the shard's own
photographs, so that pixels never cross the object store, and writes one Parquet file per feature
and then the shard's marker. Which actor does which shard changes nothing, and what the store
already holds is not made again.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from distcorr.config import difference, digest
from distcorr.data import datasets
from distcorr.data.check import check
from distcorr.data.features import FeatureStore
from distcorr.data.images import checksum
from distcorr.data.run import Shard, StageFolder, inside_ray_job
from distcorr.data.storage import Folder
from distcorr.data.store import Entry, Feature, TableStore
from distcorr.data.weights import Weights
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import Outcome, attempt, limit_threads
from distcorr.stages.extract import INSTANCES, PHOTOGRAPHS, BuildShard, kind_of, mark_done
from distcorr.stages.features import VERSION, load_network, wishes
from distcorr.stages.pipeline import Context, Forecast, Summary, run_shards
from distcorr.stages.pool import work_on_ray
from distcorr.types import Dataset, Instance

NAME = "build-db"
OWN_STORE = "store"  # folder of the feature tables inside a run that shares none
_READERS = 16  # threads that compute checksums of photographs


@dataclass(frozen=True)
class _Job:
    """Everything about the stage that is known before any feature is computed."""

    dataset: Dataset
    weights: Weights | None
    features: dict[str, list[Feature]]  # kind of shard -> its features
    stage: StageFolder
    plan: list[Shard]
    shards: dict[str, str]  # instance id -> stem of its shard
    checksums: dict[str, str]  # photograph -> sha256
    facts: dict[str, Any]


def run(context: Context) -> Summary:
    """Fill the store.

    Raises:
        DistcorrError: data or weights missing or damaged; the run folder holds features of other
            data or networks; or what ``run_shards`` raises.
    """
    job = _prepare(context)
    for warning in (*job.dataset.warnings, *check(job.dataset)):
        context.progress.warn(warning)
    _refuse_other_store(context, job)
    table = datasets.to_table(job.dataset)
    FeatureStore.write_instances(job.stage, table, job.shards, job.checksums, job.facts)
    context.run.save_config(context.config)
    for feature in itertools.chain(*job.features.values()):
        TableStore(job.stage.files).describe(feature)
    _adopt(job)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        make = partial(BuildShard, job.stage, job.dataset.root, context.config)
        # Whole photographs take longest: first, so that no worker is left with one at the end.
        todo = sorted(todo, key=lambda shard: (shard.kind != PHOTOGRAPHS, shard.index))
        if context.session.inline:
            build = make(job.weights)
            for shard in todo:
                yield attempt(build, shard, (shard,))
        else:
            yield from work_on_ray(context.session, todo, make, job.weights)

    return run_shards(context, job.stage, job.plan, work, {"store": _store_of(context)})


def forecast(context: Context) -> Forecast:
    """What ``run`` would do; reads annotations, weights and photographs, computes no feature."""
    if context.config.dataset.name == "toy" and not context.run.folder.exists("toy"):
        return Forecast(NAME, "", None, None, "draws the toy set first")
    job = _prepare(context)
    todo = job.stage.todo(job.plan)
    left = len(todo) - sum(1 for _ in _in_store(job, todo))
    return Forecast(NAME, job.stage.key, len(job.plan), left)


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    limit_threads()  # as in the workers: an extractor may compute its weights
    config = context.config.features
    weights = load_network(config)
    wished = wishes(context.config, weights)
    dataset = datasets.load(context.config.dataset, context.run.folder, context.config.seed)
    features: dict[str, list[Feature]] = {INSTANCES: [], PHOTOGRAPHS: []}
    for wanted in wished.wanted:
        features[kind_of(wanted)].append(wanted.feature)
    # The network, its use and the data: features may be added to a run, these may not change.
    used = {w.feature.name: w.feature.folder for w in wished.wanted}
    identity = {
        "version": VERSION,
        "dataset": datasets.fingerprint(dataset),
        "aligned": [used[f"grids/{wished.conv}"], used[f"vectors/{wished.vector}"]],
        "network": weights.sha256 if weights else config.network,
        "precision": config.precision,
    }
    stage = context.run.stage(NAME, digest(identity)[:8], _store_of(context))
    checksums = _checksums(dataset)
    plan, shards = _plan(dataset, checksums, config.shard, features)
    train = sum(i.split == "train" for i in dataset.instances)
    facts = {
        "keypoint_names": {c: list(names) for c, names in dataset.keypoint_names.items()},
        "conv": wished.conv,
        "vector": wished.vector,
        "tables": used,
        "names": wished.names,
        "root": "" if context.config.dataset.name == "toy" else dataset.root,
        **({"context": wished.wanted[0].context} if config.context else {}),
        "stamp": {
            "weights": _stamp(features[INSTANCES][:2], weights),
            "data": f"{dataset.name}: {len(dataset.keypoint_names)} categories, {train} training "
            f"and {len(dataset.instances) - train} validation instances",
        },
    }
    return _Job(dataset, weights, features, stage, plan, shards, checksums, facts)


def _stamp(main: Sequence[Feature], weights: Weights | None) -> str:
    """Whose features are aligned, and whose find the neighbours if it is another's."""
    labels = list(dict.fromkeys(feature.label for feature in main))
    if weights:
        checksum = f", sha256 {weights.sha256[:12]}"
        labels = [a + checksum if a.startswith(weights.label) else a for a in labels]
    return "; neighbours by ".join(labels)


def _store_of(context: Context) -> str:
    """Where the run's tables are: a name inside the run folder, an absolute path, or a URI."""
    store = context.config.compute.store
    if not store or "://" in store or os.path.isabs(store):
        return store or OWN_STORE
    if inside_ray_job():
        raise DistcorrError(
            f"The store {store} is relative, and would vanish with the cluster of this Ray job.",
            "give an absolute path on shared storage or a URI: --store s3://bucket/features",
        )
    return os.path.abspath(store)


def _plan(
    dataset: Dataset, checksums: dict[str, str], size: int, features: dict[str, list[Feature]]
) -> tuple[list[Shard], dict[str, str]]:
    """Shards of instances, then of photographs; and the stem of each instance's shard.

    No shard spans categories or splits, so that a run of one category finds its instances' shards
    in a store that a run of all has filled (and its photographs', where each shows one category).
    """
    plan: list[Shard] = []
    stems: dict[str, str] = {}
    made = {kind: digest([f.folder for f in found]) for kind, found in features.items()}

    def add(kind: str, items: list[str], holds: list[Any]) -> str:
        stem = digest(holds)[:20]
        inputs = digest([stem, made[kind]])[:16]
        plan.append(Shard(len(plan), inputs, tuple(items), kind, stem))
        return stem

    for members in _chunks(dataset.instances, size):
        holds = [[i.id, checksums[i.image], list(i.box)] for i in members]
        stem = add(INSTANCES, [i.id for i in members], holds)
        stems |= dict.fromkeys((i.id for i in members), stem)
    if not features[PHOTOGRAPHS]:
        return plan, stems
    shown: dict[str, list[Instance]] = defaultdict(list)
    for instance in dataset.instances:
        shown[instance.image].append(instance)
    for firsts in _chunks([members[0] for members in shown.values()], size):
        images = [first.image for first in firsts]
        content = [
            [i, checksums[i], [_keypoints(each, dataset) for each in shown[i]]] for i in images
        ]
        add(PHOTOGRAPHS, images, content)
    return plan, stems


def _chunks(instances: Sequence[Instance], size: int) -> Iterator[list[Instance]]:
    for _, group in itertools.groupby(instances, key=lambda i: (i.category, i.split)):
        members = list(group)
        for start in range(0, len(members), size):
            yield members[start : start + size]


def _keypoints(instance: Instance, dataset: Dataset) -> list[Any]:
    names = itertools.compress(dataset.keypoint_names[instance.category], instance.visible)
    # As bytes: to write a million objects' numbers as decimals takes longer than all the rest.
    return [instance.id, list(names), instance.keypoints[instance.visible].tobytes().hex()]


def _checksums(dataset: Dataset) -> dict[str, str]:
    """What every photograph holds."""
    folder = Folder(dataset.root)

    images = sorted({i.image for i in dataset.instances})
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(images, pool.map(partial(checksum, folder), images), strict=True))


def _refuse_other_store(context: Context, job: _Job) -> None:
    """A run has one set of features: numbers from two data sets or networks must not mix."""
    entry = context.run.manifest()["stages"].get(NAME)
    if entry is None or entry["key"] == job.stage.key:
        return
    before = context.run.config()
    changes = difference(before, context.config) if before else []
    unseen = "files behind the same paths, or the way in which distcorr makes features"
    raise DistcorrError(
        f"{context.run} was made with other data, weights or features"
        + f" ({'; '.join(changes) or unseen}).",
        "give this configuration a run folder of its own: --run runs/another; nothing was changed",
    )


def _adopt(job: _Job) -> None:
    """Mark the shards done whose parts are all in the store, made by whichever run."""
    todo = job.stage.todo(job.plan)
    for shard, entries in _in_store(job, todo):
        job.stage.begin()
        mark_done(job.stage, shard, entries)


def _in_store(job: _Job, todo: Sequence[Shard]) -> Iterator[tuple[Shard, dict[str, Entry]]]:
    """Those of the shards that the store holds whole, with the entries of their parts."""
    store = TableStore(job.stage.files)
    for kind, features in job.features.items():
        mine = [shard for shard in todo if shard.kind == kind]
        found = {f.folder: store.entries(f.folder, [s.stem for s in mine]) for f in features}
        for shard in mine:
            entries = {t: e[shard.stem] for t, e in found.items() if shard.stem in e}
            if len(entries) == len(features):
                yield shard, entries

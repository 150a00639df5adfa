"""``build-db``: box crops through the network, into the sharded feature store (paper, section 2).

One row of a Ray Data pipeline is one shard: a fixed list of instances. An actor decodes the shard's
own photographs, so that pixels never cross the object store, runs the network, and writes one
Parquet file per feature and then the shard's marker. Which actor does which shard changes nothing.
"""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distcorr.algorithms import extractors
from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.extractors import Backbone
from distcorr.config import Config, FeaturesConfig, difference, digest
from distcorr.data import datasets
from distcorr.data.check import check
from distcorr.data.images import read_image
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Folder, Written
from distcorr.data.store import INSTANCES, FeatureMeta, FeatureStore, feature_table
from distcorr.data.weights import Weights, load_weights
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import Outcome, Session, attempt, describe, limit_threads
from distcorr.stages.pipeline import Context, Forecast, Summary, run_shards
from distcorr.types import Array, Dataset, Instance

VERSION = 1
NAME = "build-db"


@dataclass(frozen=True)
class _Job:
    """Everything about the stage that is known before any photograph is opened."""

    dataset: Dataset
    weights: Weights
    network: Backbone
    conv: str
    vector: str
    stage: StageFolder
    plan: list[Shard]
    facts: dict[str, Any]


def run(context: Context) -> Summary:
    """Fill the store.

    Raises:
        DistcorrError: data or weights missing or damaged; the run folder holds another store;
            or what ``run_shards`` raises.
    """
    job = _prepare(context)
    for warning in (*job.dataset.warnings, *check(job.dataset)):
        context.progress.warn(warning)
    _refuse_other_store(context, job)
    _write_instances(job)
    context.run.save_config(context.config)

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        make = functools.partial(
            BuildShard, job.stage, job.dataset.root, context.config, job.conv, job.vector
        )
        if context.session.inline:
            build = make(job.weights)
            for shard in todo:
                yield attempt(build, shard, (shard,))
        else:
            yield from _work_on_ray(context.session, todo, make, job.weights)

    return run_shards(context, job.stage, job.plan, work)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do; reads annotations and weights, opens no photograph."""
    if context.config.dataset.name == "toy" and not context.run.folder.exists("toy"):
        return Forecast(NAME, "", None, None, "draws the toy set first")
    job = _prepare(context)
    return Forecast(NAME, job.stage.key, len(job.plan), len(job.stage.todo(job.plan)))


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    config = context.config.features
    weights = load_weights(config.weights, config.network, config.weights_sha256)
    network = _network(weights, config, context.config.seed)
    conv = network.grid if config.conv == "auto" else config.conv
    vector = network.vector if config.vector == "auto" else config.vector
    for tap in (conv, vector):
        network.require(tap)
    network.geometry(conv)  # refuses a layer without cells
    dataset = datasets.load(context.config.dataset, context.run.folder, context.config.seed)
    identity = {
        "version": VERSION,
        "dataset": datasets.fingerprint(dataset),
        "weights": weights.sha256,
        "network": weights.network,
        "features": [conv, vector, config.control, config.batch, config.shard],
        "seed": context.config.seed if config.control != "none" else 0,
    }
    stage = context.run.stage(NAME, digest(identity)[:8])
    train = sum(i.split == "train" for i in dataset.instances)
    label = weights.label + (" SHUFFLED (control)" if config.control != "none" else "")
    facts = {
        "keypoint_names": {c: list(names) for c, names in dataset.keypoint_names.items()},
        "conv": conv,
        "vector": vector,
        "stamp": {
            "weights": f"{label}, sha256 {weights.sha256[:12]}",
            "data": f"{dataset.name}: {len(dataset.keypoint_names)} categories, {train} training "
            f"and {len(dataset.instances) - train} validation instances",
        },
    }
    plan = _plan(dataset, config.shard)
    return _Job(dataset, weights, network, conv, vector, stage, plan, facts)


def _plan(dataset: Dataset, size: int) -> list[Shard]:
    """Shards of ``size`` instances; a photograph that has changed in size changes its shard."""
    folder = Folder(dataset.root)
    parents = {i.image.rpartition("/")[0] for i in dataset.instances}
    sizes = {f"{p}/{n}".lstrip("/"): s for p in parents for n, s in folder.sizes(p).items()}
    plan = []
    for start in range(0, len(dataset.instances), size):
        members = dataset.instances[start : start + size]
        inputs = digest([[i.id, i.image, sizes.get(i.image, -1)] for i in members])
        plan.append(Shard(start // size, inputs[:16], tuple(i.id for i in members)))
    return plan


def _refuse_other_store(context: Context, job: _Job) -> None:
    """A run holds one feature store: numbers from two data sets or networks must not mix."""
    entry = context.run.manifest()["stages"].get(NAME)
    if entry is None or entry["key"] == job.stage.key:
        return
    before = context.run.config()
    changes = difference(before, context.config) if before else []
    raise DistcorrError(
        f"{context.run} was made with other data, weights or features"
        + (f" ({'; '.join(changes)})" if changes else " (files behind the same paths changed)")
        + ".",
        "give this configuration a run folder of its own: --run runs/another; nothing was changed",
    )


def _write_instances(job: _Job) -> None:
    if job.stage.folder.exists(INSTANCES):
        return
    shard = [s.index for s in job.plan for _ in s.items]
    FeatureStore.write_instances(job.stage, datasets.to_table(job.dataset), shard, job.facts)


def _network(weights: Weights, config: FeaturesConfig, seed: int, device: str = "cpu") -> Backbone:
    arrays = weights.arrays
    if config.control == "shuffled-weights":
        arrays = extractors.shuffled(arrays, seed)
    return extractors.build(weights.network, arrays, device)


# -- building one shard ------------------------------------------------------------------------


class BuildShard:
    """Builds shards; one per process, so that the network is loaded once."""

    def __init__(
        self,
        stage: StageFolder,
        root: str,
        config: Config,
        conv: str,
        vector: str,
        weights: Weights,
    ) -> None:
        import torch

        limit_threads()
        # The device that torch sees, not the one that Ray promises: its GPUs may be logical.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as on a CPU
        self._stage, self._photographs = stage, Folder(root)
        self._batch: int = config.features.batch
        self._network = _network(weights, config.features, config.seed, device)
        self._taps = {"grids": conv, "vectors": vector}
        self._sha256 = weights.sha256
        self._instances = {i.id: i for i in FeatureStore(stage).instances}

    def __call__(self, shard: Shard) -> dict[str, Any]:
        """Write the shard's parts and marker.

        Returns:
            rows, dead letters and seconds, for the log.
        """
        began = time.monotonic()
        instances = [self._instances[i] for i in shard.items]
        crops, kept, dead = self._crops(instances)
        features = self._features(crops)
        finite = np.ones(len(kept), bool)
        for tap, values in features.items():
            # float16 is the store's type: what overflows it is as useless as a NaN.
            with np.errstate(over="ignore"):
                good = np.isfinite(values.astype(np.float16)).reshape(len(kept), -1).all(axis=1)
            for i in np.flatnonzero(finite & ~good):
                message = f"the network's {tap} is not finite, or too large for float16"
                dead.append(DeadLetter(kept[i].id, kept[i].image, message))
            finite &= good
        ids = [instance.id for instance, ok in zip(kept, finite, strict=True) if ok]
        files: dict[str, Written] = {}
        for kind, tap in self._taps.items():
            values = features[tap][finite] if tap in features else np.zeros((0,))
            table = self._table(ids, kind, values)
            name = f"{kind}/{tap}/{shard.part}"
            files[name] = self._stage.folder.write_table(name, table)
        self._stage.mark_done(shard, files, len(ids), dead)
        return {
            "rows": len(ids),
            "dead": len(dead),
            "seconds": round(time.monotonic() - began, 2),
        }

    def _crops(
        self, instances: Sequence[Instance]
    ) -> tuple[list[Array], list[Instance], list[DeadLetter]]:
        # Instances of one photograph stand together, so a cache of one decodes each file once.
        read = functools.lru_cache(maxsize=1)(functools.partial(read_image, self._photographs))
        crops: list[Array] = []
        kept: list[Instance] = []
        dead: list[DeadLetter] = []
        for instance in instances:
            try:
                side = self._network.input_size
                crops.append(crop_square(read(instance.image), instance.box, side))
                kept.append(instance)
            except (DistcorrError, ValueError) as error:
                # Not an OSError: when storage does not answer, the shard fails and is tried again.
                dead.append(DeadLetter(instance.id, instance.image, describe(error)))
        return crops, kept, dead

    def _features(self, crops: Sequence[Array]) -> dict[str, Any]:
        taps = tuple(dict.fromkeys(self._taps.values()))
        batches = [
            self._network(np.stack(crops[i : i + self._batch]), taps)
            for i in range(0, len(crops), self._batch)
        ]
        return {tap: np.concatenate([b[tap] for b in batches]) for tap in taps} if batches else {}

    def _table(self, ids: list[str], kind: str, values: Any) -> Any:
        tap, is_grid = self._taps[kind], kind == "grids"
        shape = values.shape[1:] if is_grid else (int(np.prod(values.shape[1:])),)
        geometry = self._network.geometry(tap) if is_grid else None
        meta = FeatureMeta(tap, shape, geometry, self._sha256)
        return feature_table(ids, values.reshape(len(ids), *shape), meta)


# -- on Ray ------------------------------------------------------------------------------------

_Make = Callable[[Weights], BuildShard]


class _Actor:
    """``BuildShard`` as Ray Data wants it: batches of columns in, batches of columns out."""

    def __init__(self, make: _Make, weights: Any) -> None:
        import ray

        self._build = make(ray.get(weights))

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes = []
        for index, inputs, items in zip(
            batch["index"], batch["inputs"], batch["items"], strict=True
        ):
            shard = Shard(int(index), str(inputs), tuple(map(str, items)))
            outcomes.append(json.dumps(asdict(attempt(self._build, shard, (shard,)))))
        return {"outcome": outcomes}


def _work_on_ray(
    session: Session, todo: list[Shard], make: _Make, weights: Weights
) -> Iterator[Outcome[Shard, Any]]:
    import pyarrow as pa
    import ray
    import ray.data.exceptions

    session.connect()
    pool = session.pool()
    rows = [
        pa.table({"index": [s.index], "inputs": [s.inputs], "items": [list(s.items)]}) for s in todo
    ]
    with warnings.catch_warnings():
        # Bounding the replacements of a process that dies has no other way yet; Ray's default is
        # to replace it for ever. The two arguments go in Ray 2.64, which pyproject.toml excludes.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        results = ray.data.from_arrow(rows).map_batches(
            _Actor,
            batch_size=1,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.actors),
            fn_constructor_args=(make, session.put(weights)),
            max_restarts=session.compute.retries,
            max_task_retries=session.compute.retries,
        )
    shards = {shard.index: shard for shard in todo}
    try:
        for row in results.iter_rows():
            outcome = json.loads(row["outcome"])
            shard = shards.pop(outcome["item"]["index"])
            yield Outcome(shard, outcome["result"], outcome["error"], outcome["details"])
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        reason = f"Ray gave up: {str(error).strip().splitlines()[0]}"
        for shard in shards.values():
            yield Outcome(shard, None, reason, str(error))

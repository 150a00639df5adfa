"""``detect``: where is this keypoint? Detectors with mined negatives, and a prior (section 5).

One shard is one layer, one category and one fold: detectors of all keypoints are trained without
the fold and predict it, for every weight of the prior. One more fold, ``VALIDATION``, is trained on
all training instances and predicts the validation instances. So which weight is chosen, and every
PCK, is a matter of the report.

A layer's shards go through the rounds of mining together: tasks of a few instances each find the
hardest negatives for all folds at once, then a task for each shard trains. What a shard has come to
after a round is a file, from which a run that was killed goes on.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from distcorr.algorithms import mining, svm
from distcorr.config import Config, DetectConfig, digest
from distcorr.data.classified import NOTES, VALIDATION
from distcorr.data.detectors import State
from distcorr.data.features import FeatureStore
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages import mine, objects, predict
from distcorr.stages.cluster import Outcome, Session, attempt
from distcorr.stages.objects import (
    Objects,
    Work,
    detected,
    objects_of,
    prior_of,
    too_little,
)
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
from distcorr.stages.streamed import Photographs, wanted
from distcorr.types import Geometry, Instance

VERSION = 2
NAME = "detect"


@dataclass
class _Job:
    """Everything about the stage that is known before anything is mined.

    A shard's ``kind`` is its layer, its ``items`` are category and fold.
    """

    store: FeatureStore
    stage: StageFolder
    folder: Folder  # of the photographs
    rounds: Folder  # of mining
    tables: dict[str, str]  # layer -> its feature table; "": made from photographs
    plan: list[Shard] = field(default_factory=list)
    objects: dict[tuple[str, str], tuple[Objects, Objects]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(context: Context) -> Summary:
    """Mine and predict."""
    job, detect = _prepare(context), context.config.detect

    def work(todo: list[Shard]) -> Iterator[Outcome[Shard, Any]]:
        for layer in job.tables:
            shards = [shard for shard in todo if shard.kind == layer]
            if shards:
                yield from _Mining(context, job, shards).run()

    context.run.save_config(context.config)
    for note in job.notes:
        context.progress.warn(note)
    if job.notes:
        job.stage.folder.write_json(NOTES, job.notes)
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(detect).items()}
    facts = {NAME: settings, "layers": list(job.tables), "prior": prior_of(job.store)}
    items = sum(len(some.ids) for pair in job.objects.values() for some in pair)

    def weight(shard: Shard) -> float:
        return len(job.objects[shard.kind, shard.items[0]][0].ids)

    return run_shards(context, job.stage, job.plan, work, facts, items, weight)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do."""
    store = FeatureStore(required("build-db", NAME, context.run))
    if waiting := without(NAME, store, detected(store, context.config).values()):
        return waiting
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    features = required("build-db", NAME, context.run)
    config, store = context.config, FeatureStore(features)
    stage = context.run.stage(NAME, stage_key(NAME, VERSION, context))
    _require_tried(config)
    folder = Folder(store.root) if store.root else context.run.folder / "toy"
    job = _Job(store, stage, folder, _rounds(context), detected(store, config))
    for layer, table in job.tables.items():
        if table.startswith("grids/"):
            what = f"{layer} looks at boxes of its network's own size, not 500 px"
            job.notes.append(f"{what} (features.grids500).")
    letters = features.dead_letters()
    prior = store.folder_of(prior_of(store))
    for layer, category in itertools.product(job.tables, sorted(store.keypoint_names)):
        table = job.tables[layer]
        # What the store would keep it in stands for what is made when it is needed.
        kept = store.folder_of(table) if table else wanted(config, layer).feature.folder
        lost = objects.without(letters, {kept, prior})
        members = config.detect.chosen(store.members(category, "train"))
        train = objects_of(store, members, _folds(members, config), lost)
        train = train.at(np.flatnonzero(train.readable))
        val = objects_of(store, store.members(category, "val"), None, lost)
        why = too_little(train, val)
        if why:
            job.notes.append(f"{category} is not detected by {layer}: {why}.")
            continue
        job.objects[layer, category] = train, val
        job.notes += _rare(category, store.keypoint_names[category], train, config.detect.folds)
        folds = _cross_validated(train, config.detect)
        if len(config.detect.etas) > 1 and len(folds) < config.detect.folds:
            job.notes.append(f"{category}: {len(folds)} folds, too few training photographs.")
        for fold in (*folds, VALIDATION):
            names = store.keypoint_names[category]
            inputs = [layer, kept, category, fold, names, train.identity, val.identity]
            items = (category, str(fold))
            job.plan.append(Shard(len(job.plan), digest(inputs)[:16], items, layer))
    job.notes = list(dict.fromkeys(job.notes))
    return job


def _rounds(context: Context) -> Folder:
    """Where rounds of mining are kept: a place of their own for whatever changes them.

    So more rounds go on where fewer ended, and another prior needs no training.
    """
    same = DetectConfig()
    others = {key: getattr(same, key) for key in ("rounds", "etas", "sigma", "refine", "maps")}
    mined = replace(context.config, detect=replace(context.config.detect, **others))
    key = stage_key(NAME, VERSION, replace(context, config=mined))
    return context.run.folder / f"{NAME}/rounds-{key}"


def _rare(category: str, names: Sequence[str], train: Objects, few: int) -> list[str]:
    """Keypoints that so few instances show that some fold may have none to learn from."""
    shown = np.isfinite(train.keypoints).all(axis=2).sum(axis=0)
    rare = [f"{name} ({n})" for name, n in zip(names, shown, strict=True) if n < few]
    if not rare:
        return []
    return [f"{category}: fewer than {few} training instances show {', '.join(rare)}."]


def _require_tried(config: Config) -> None:
    """DistcorrError if the report is to use a weight of the prior that is not tried."""
    eta, tried = config.evaluation.eta, {eta for eta, _ in predict.variants(config.detect)}
    if eta != -1 and eta not in tried:
        raise DistcorrError(
            f"evaluation.eta must be one of detect.etas, got {eta:g}.",
            f"tried: {', '.join(f'{each:g}' for each in sorted(tried))}; -1 chooses one by "
            "cross-validation",
        )


def _folds(members: Sequence[Instance], config: Config) -> list[int]:
    """Fold of every training instance, photographs together; 0 where there is nothing to deal."""
    photographs = len({i.image for i in members})
    if photographs < 2 or len(config.detect.etas) < 2:
        return [0] * len(members)
    images = np.array([i.image for i in members])
    dealt = svm.folds_by_group(images, min(config.detect.folds, photographs), config.seed)
    return [int(fold) for fold in dealt]


def _cross_validated(train: Objects, config: DetectConfig) -> list[int]:
    """The folds to hold out; none where one eta is given, or one fold is all there is."""
    folds = sorted(set(train.fold.tolist()))
    return folds if len(config.etas) > 1 and len(folds) > 1 else []


# -- rounds ------------------------------------------------------------------------------------


class _Mining:
    """The shards of one layer, in lockstep; a failure costs the shards that it touches."""

    def __init__(self, context: Context, job: _Job, shards: Sequence[Shard]) -> None:
        self.config, self.seed = context.config.detect, context.config.seed
        self.session: Session = context.session
        self.gpus = self.session.gpus()
        self.device = "cuda" if self.gpus else "cpu"
        self.job = job
        self.alive = {shard.index: shard for shard in shards}
        self.states: dict[int, State] = {}
        lean = copy.copy(job.store)
        lean.instances = []  # tasks read tables by id: the instances would only travel with them
        self.store = self.session.put(lean)
        self.layer = layer = shards[0].kind
        self.say = context.progress.say
        geometry = _geometry(job, layer)
        categories = dict.fromkeys(shard.items[0] for shard in shards)
        self.size = {c: len(job.objects[layer, c][0].ids) for c in categories}
        self.work = {c: self.session.put(self._work(layer, c, geometry)) for c in categories}

    def _work(self, layer: str, category: str, geometry: Geometry) -> Work:
        train, val = self.job.objects[layer, category]
        table, prior = self.job.tables[layer], prior_of(self.job.store)
        names = self.job.store.keypoint_names[category]
        learnt = objects.in_square(train, geometry.input_size)
        checksums = {i: self.job.store.checksums[i] for i in {*train.images, *val.images}}
        work = Work(
            *(layer, category, table, prior, geometry, names, train, val, learnt),
            Photographs(self.job.folder, checksums),
            self.config.absent,
        )
        return work if self.config.control == "none" else work.shuffled(self.seed)

    def run(self) -> Iterator[Outcome[Shard, Any]]:
        """All rounds that are left, then the predictions: an outcome for every shard."""
        yield from self._resume()
        for number in range(self.config.rounds + 1):
            waiting = sum(len(shards) for shards in self._waiting(number).values())
            if waiting:
                which = f"round {number} of {self.config.rounds}" if number else "random negatives"
                self.say(f"{NAME:<10} {self.layer}: {which}, {waiting} shards train")
            found: dict[int, mining.Found] = {}
            if number:
                yield from self._find(number, found)
            yield from self._fit(number, found)
        arguments = (
            (
                shard,
                (self.store, self.work[shard.items[0]], self.job.stage, self.job.rounds, shard),
            )
            for shard in list(self.alive.values())
        )
        rest = ((s, (*a, self.states[s.index], self.config, self.device)) for s, a in arguments)
        yield from self.session.map(predict.predict, rest, self.gpus)

    def _resume(self) -> Iterator[Outcome[Shard, Any]]:
        """Take up what an earlier run has left of its rounds."""
        folder = self.job.rounds
        there = folder.sizes()
        for shard in list(self.alive.values()):
            names = [mine.round_file(shard, n) for n in range(self.config.rounds + 1)]
            left = [name for name in names if name in there]
            if left:
                outcome = attempt(State.load, shard, (folder, left[-1]))
                yield from self._settle(outcome)

    def _waiting(self, number: int) -> dict[str, list[Shard]]:
        """Category -> its shards that have come to the round before."""
        waiting: dict[str, list[Shard]] = defaultdict(list)
        for index, shard in self.alive.items():
            state = self.states.get(index)
            before = state.round if state else -1
            if before == number - 1 and not (state and state.ended):
                waiting[shard.items[0]].append(shard)
        return waiting

    def _find(self, number: int, found: dict[int, mining.Found]) -> Iterator[Outcome[Shard, Any]]:
        """The hardest negatives of every waiting shard, into ``found``."""
        waiting, most = self._waiting(number), self.config.hardest

        def arguments() -> Iterator[tuple[str, tuple[Any, ...]]]:
            for category, shards in waiting.items():
                states = self.session.put(
                    {s.index: (int(s.items[1]), self.states[s.index]) for s in shards}
                )
                for start in range(0, self.size[category], objects.CHUNK):
                    stop = min(start + objects.CHUNK, self.size[category])
                    shared = (self.store, self.work[category], states)
                    yield category, (*shared, start, stop, most, self.device)

        for outcome in self.session.map(mine.find, arguments(), self.gpus):
            if outcome.error:
                for shard in waiting[outcome.item]:
                    yield from self._settle(Outcome(shard, None, outcome.error, outcome.details))
            # Merged as they come: what waits here is the hardest so far, not all that was found.
            for index, more in (outcome.result or {}).items():
                parts = [found[index], more] if index in found else [more]
                found[index] = mining.merge(parts, most)

    def _fit(self, number: int, found: dict[int, mining.Found]) -> Iterator[Outcome[Shard, Any]]:
        """Train every waiting shard."""
        arguments = (
            (
                shard,
                (
                    *(self.store, self.work[category], self.job.rounds, shard),
                    *(self.states.get(shard.index), found.get(shard.index)),
                    *(self.config, self.seed, self.device),
                ),
            )
            for category, shards in self._waiting(number).items()
            for shard in shards
        )
        for outcome in self.session.map(mine.fit, arguments, self.gpus):
            yield from self._settle(outcome)

    def _settle(self, outcome: Outcome[Shard, State]) -> Iterator[Outcome[Shard, Any]]:
        """Keep a shard's state, or give the shard up."""
        index = outcome.item.index
        if outcome.result is not None:
            self.states[index] = outcome.result
        elif self.alive.pop(index, None):
            yield outcome


def _geometry(job: _Job, layer: str) -> Geometry:
    """Where the layer's cells lie.

    Raises:
        DistcorrError: the grid is smaller than what a detector looks at.
    """
    train = next(train for (each, _), (train, _) in job.objects.items() if each == layer)
    found = objects.geometry_of(job.store, layer, job.tables[layer], train.ids[0])
    block = objects.block_of(layer)
    if found.cells < block:
        raise DistcorrError(
            f"{layer} has {found.cells} x {found.cells} cells on boxes of 500 px, "
            f"and detectors look at {block} x {block} of them.",
            "leave it out of detect.layers",
            MISSING,
        )
    return found

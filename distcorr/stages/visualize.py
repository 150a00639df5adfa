"""``visualize``: what a feature sees, by its nearest neighbours (section 2, Figures 1 and 2).

Four kinds of shards, one after the other, since each reads what the one before has written: the
cells of a group of photographs, their neighbours in one piece of the data base, the photographs
rebuilt from all pieces' best, and receptive fields averaged over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from distcorr.config import Config, VisualizeConfig, digest
from distcorr.data.classified import NOTES
from distcorr.data.features import FeatureStore
from distcorr.data.images import checksum
from distcorr.data.run import Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.weights import Weights
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.stages.averaged import average_fields
from distcorr.stages.cluster import Outcome
from distcorr.stages.copies import compare
from distcorr.stages.gallery import Gallery, Layer
from distcorr.stages.loaded import network_of, sources
from distcorr.stages.locality import look
from distcorr.stages.nearest import Piece, find
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
from distcorr.stages.rebuilt import Parts, rebuild_photographs

VERSION = 1
NAME = "visualize"
LOOK, COPY, FIND, REBUILD, AVERAGE = "look", "copies", "find", "rebuild", "average"
GROUP = 10  # photographs that are searched for together; not in the paper
FILES = 4  # of the data base in a piece; not in the paper
FIELDS = 5  # random cells that are averaged together; not in the paper
_READERS = 16  # threads that compute checksums of photographs


@dataclass(frozen=True)
class DataBase:
    """Photographs, and where the cells of their layers are.

    Attributes:
        gallery: of all photographs of the run.
        store: where the cells are.
        tables: layer -> folders of its cells.
        files: folder -> its parts.
    """

    gallery: Gallery
    store: Folder
    tables: dict[str, tuple[str, ...]]
    files: dict[str, list[str]]

    @classmethod
    def of(cls, context: Context) -> DataBase:
        """The run's, as ``visualize`` is to use it.

        Raises:
            DistcorrError: build-db is unfinished, or a layer that is asked for is not kept.
        """
        features, config = required("build-db", NAME, context.run), context.config
        store = FeatureStore(features)
        root = Folder(store.root) if store.root else context.run.folder / "toy"
        gallery = Gallery.of(store, root, config.visualize.base, config.features.photo_side)
        tables = {
            layer: tuple(store.folder_of(name) for name in names)
            for layer, names in store.visualized(config.visualize).items()
        }
        files = {name: features.parts(name) for names in tables.values() for name in names}
        return cls(gallery, features.files, tables, files)

    def pieces(self, layer: str, mirrored: bool = True) -> list[Piece]:
        """The cells of a layer in as many pieces as there are tasks, or without mirror images."""
        return [
            Piece(tuple((name, bool(kind)) for name in self.files[table][start : start + FILES]))
            for kind, table in enumerate(self.tables[layer][: 1 + mirrored])
            for start in range(0, len(self.files[table]), FILES)
        ]

    def layers(self, config: Config, weights: Weights | None) -> dict[str, Layer]:
        """Where the cells of each layer lie.

        Raises:
            DistcorrError: the features were made with other weights.
        """
        found = sources(config, weights, set(self.files), "cpu")
        longest = config.features.photo_side
        return {name: Layer.of(found[of[0]], of, longest) for name, of in self.tables.items()}


@dataclass(frozen=True)
class _Task:
    """What a shard is about, besides its kind and items."""

    group: int
    layer: str = ""
    piece: Piece | None = None


@dataclass
class _Job:
    """Everything about the stage that is known before any photograph is seen."""

    base: DataBase
    stage: StageFolder
    config: VisualizeConfig
    photographs: list[str]  # to be rebuilt, in the order drawn
    asked: dict[int, list[int]]  # number of a photograph -> places of Figure 2
    plan: list[Shard] = field(default_factory=list)
    tasks: list[_Task] = field(default_factory=list)  # of the shards
    notes: list[str] = field(default_factory=list)

    _files: dict[tuple[str, int, str], list[str]] = field(default_factory=dict)

    def add(self, kind: str, items: Sequence[str], inputs: Any, task: _Task) -> None:
        """One more shard."""
        made_from = digest([kind, inputs])[:16]
        shard = Shard(len(self.plan), made_from, tuple(items), kind)
        self.plan.append(shard)
        self.tasks.append(task)
        self._files.setdefault((kind, task.group, task.layer), []).append(shard.part)

    def parts(self, task: _Task) -> Parts:
        """What is there for one layer and group of photographs, once all before it is done."""
        group, layer = task.group, task.layer
        found = self._files.get((FIND, group, layer), [])
        counted = self._files.get((FIND, 0, layer), [])  # the first group's tasks count as well
        return Parts(
            f"queries-{layer}/{self._files[LOOK, group, ''][0]}",
            tuple(f"found-{layer}/{part}" for part in found),
            tuple(f"far-{layer}/{part}" for part in found),
            tuple(f"exact-{layer}/{part}" for part in found if self.config.search != "exact"),
            tuple(f"copies/{part}" for part in self._files.get((COPY, group, self.first), [])),
            tuple(f"sizes-{layer}/{part}" for part in counted),
        )

    @property
    def first(self) -> str:
        """The shallowest layer, which tells places apart best."""
        return next(iter(self.base.tables))


def run(context: Context) -> Summary:
    """Search, rebuild and average.

    Raises:
        DistcorrError: an unknown photograph; weights that are gone or have changed; or what
            ``run_shards`` raises.
    """
    job = _prepare(context)
    for note in job.notes:
        context.progress.warn(note)
    context.run.save_config(context.config)
    if job.notes:
        job.stage.folder.write_json(NOTES, job.notes)
    else:
        job.stage.folder.delete(NOTES)  # of photographs that are back as they were
    asked = {name: list(v) if isinstance(v, tuple) else v for name, v in _asked(context).items()}
    facts = {NAME: asked, "layers": list(job.base.tables), "photographs": len(job.photographs)}
    return run_shards(context, job.stage, job.plan, partial(_work, context, job), facts)


def forecast(context: Context) -> Forecast:
    """What ``run`` would do; reads photographs for their checksums, and computes nothing."""
    store = FeatureStore(required("build-db", NAME, context.run))
    tables = store.visualized(context.config.visualize).values()
    if waiting := without(NAME, store, (name for names in tables for name in names)):
        return waiting
    job = _prepare(context)
    return foreseen(job.stage, job.plan)


def _asked(context: Context) -> dict[str, Any]:
    return asdict(context.config.visualize)


# -- planning ----------------------------------------------------------------------------------


def _prepare(context: Context) -> _Job:
    config, base = context.config.visualize, DataBase.of(context)
    stage = context.run.stage(NAME, stage_key(NAME, VERSION, context))
    notes: list[str] = []
    photographs = _photographs(context, base.gallery, notes)
    if not base.tables:
        notes.append("No layer's cells are kept (features.cells): no Figures 1 and 2.")
    asked: dict[int, list[int]] = {}
    for place in range(config.seeds if photographs else 0):
        number = base.gallery.number[photographs[place % len(photographs)]]
        asked.setdefault(number, []).append(place)
    job = _Job(base, stage, config, photographs, asked, notes=notes)
    if base.tables:
        _plan(job)
    return job


def _photographs(context: Context, gallery: Gallery, notes: list[str]) -> list[str]:
    """Names of the photographs to rebuild, in the order drawn.

    Raises:
        DistcorrError: there is no photograph of such a name.
    """
    config = context.config.visualize
    validation = sorted({gallery.images[number] for number in gallery.validation})
    draw = np.random.default_rng(context.config.seed).permutation(len(validation))
    drawn = [validation[i] for i in draw]
    stems: dict[str, list[str]] = {}
    for image in gallery.images:
        stems.setdefault(PurePosixPath(image).stem, []).append(image)
    chosen: list[str] = []
    for name in config.images:
        known = stems.get(name, [name] if name in gallery.number else [])
        if name != "auto" and len(known) != 1:
            some = f"{len(known)} photographs of that name" if known else "no such photograph"
            raise DistcorrError(
                f"visualize.images names {name!r}, and this run has {some}."
                + ("" if known else did_you_mean(name, stems)),
                "2008_000123, or the path below the data set's root; distcorr visualize --image "
                "PATH takes pictures of your own",
            )
        chosen += drawn if name == "auto" else known
    chosen = list(dict.fromkeys(chosen))[: config.photographs]
    with ThreadPoolExecutor(_READERS) as pool:
        now = list(pool.map(partial(checksum, gallery.root), chosen))
    seen = [gallery.checksums[gallery.number[image]] for image in chosen]
    changed = [c for c, a, b in zip(chosen, now, seen, strict=True) if a != b]
    if changed:
        notes.append(
            f"{len(changed)} photographs are not as build-db saw them and are left out, for "
            f"example {changed[0]}; distcorr build-db takes them in."
        )
    if len(changed) == len(chosen) > 0:
        raise DistcorrError(
            f"None of the {len(chosen)} photographs to rebuild is as build-db saw it, for example "
            f"{changed[0]}.",
            f"distcorr build-db -r {context.run} takes in what has changed; are they all there?",
            MISSING,
        )
    chosen = [image for image in chosen if image not in changed]
    if len(chosen) < config.photographs and "auto" in config.images:
        notes.append(f"{len(chosen)} photographs are rebuilt; {config.photographs} were asked for.")
    return chosen


def _plan(job: _Job) -> None:
    """Every shard, in the order in which they can be done."""
    gallery, tables = job.base.gallery, job.base.tables
    now = {image: gallery.checksums[gallery.number[image]] for image in job.photographs}
    starts = range(0, len(job.photographs), GROUP)
    groups = [job.photographs[start : start + GROUP] for start in starts]
    for group, images in enumerate(groups):
        job.add(LOOK, images, [[image, now[image]] for image in images], _Task(group))
    for group, images in enumerate(groups if job.config.copies else ()):
        for piece in job.base.pieces(job.first, mirrored=False):
            items = tuple(name for name, _ in piece.files)
            inputs = [job.first, items, [now[i] for i in images]]
            job.add(COPY, items, inputs, _Task(group, job.first))
    for layer in tables:
        for group, images in enumerate(groups):
            for piece in job.base.pieces(layer):
                task = _Task(group, layer, piece)
                items = tuple(name for name, _ in piece.files)
                job.add(FIND, items, [layer, items, [now[i] for i in images]], task)
    for kind in (REBUILD, AVERAGE):
        for layer in tables:
            for group, images in enumerate(groups):
                numbers = [gallery.number[image] for image in images]
                asked = sorted(p for n in numbers for p in job.asked.get(n, ()))
                places = [str(place) for place in asked]
                batches = [places[s : s + FIELDS] for s in range(0, len(places), FIELDS)]
                for batch in batches if kind == AVERAGE else [images]:
                    inputs = [layer, batch, [now[i] for i in images]]
                    job.add(kind, batch, inputs, _Task(group, layer))


# -- working -----------------------------------------------------------------------------------


def _work(context: Context, job: _Job, todo: Sequence[Shard]) -> Iterator[Outcome[Shard, Any]]:
    """What is left to do, kind by kind; none is begun while one before it lacks something."""
    session, config = context.session, context.config
    weights = network_of(NAME, context.run, config)
    layers, store = job.base.layers(config, weights), job.base.store
    gallery, shown = session.put(job.base.gallery), job.photographs[: config.visualize.shown]
    looking = session.put(weights), session.put(config), gallery, list(layers.values())

    def arguments(shard: Shard) -> tuple[Any, ...]:
        task = job.tasks[shard.index]
        ends, settings = (job.stage, shard), (config.visualize, config.seed)
        if shard.kind == LOOK:
            asked = {
                n: job.asked.get(n, []) for n in (job.base.gallery.number[i] for i in shard.items)
            }
            return (*looking, asked, *ends)
        layer = layers[task.layer]
        parts = job.parts(task)
        if shard.kind == COPY:
            least = config.visualize.copies
            return (gallery, store, layer, shard.items, parts.queries, least, *ends)
        if task.piece:
            where = store, layer, task.piece, parts.queries, parts.copies
            return (gallery, *where, *settings, task.group == 0, *ends)
        return (
            gallery,
            layer,
            parts,
            *([shown] if shard.kind == REBUILD else []),
            *settings,
            *ends,
        )

    for kind, function in _FUNCTIONS.items():
        mine = [shard for shard in todo if shard.kind == kind]
        if mine:
            context.progress.say(f"visualize: {_SAID[kind]}")
        failed = False
        gpus = session.gpus() if kind == LOOK and mine else 0.0
        for outcome in session.map(function, ((s, arguments(s)) for s in mine), gpus):
            failed |= bool(outcome.error)
            yield outcome
        if failed:
            return


_FUNCTIONS: dict[str, Callable[..., dict[str, int]]] = {
    LOOK: look,
    COPY: compare,
    FIND: find,
    REBUILD: rebuild_photographs,
    AVERAGE: average_fields,
}
_SAID = {
    LOOK: "cells of the photographs",
    COPY: "near copies of them",
    FIND: "their nearest neighbours",
    REBUILD: "photographs rebuilt from them",
    AVERAGE: "receptive fields averaged",
}

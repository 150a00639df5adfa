"""One shard of ``build-db``: photographs in, one Parquet file per feature out."""

from __future__ import annotations

import importlib.metadata
import itertools
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.batches import SmallerBatchWarning, in_batches
from distcorr.algorithms.crop import with_context
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Images, Source, to_vector
from distcorr.config import Config
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Folder, Written
from distcorr.data.store import CELLS, OF_INSTANCES, Entry, TableStore
from distcorr.data.weights import Weights
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import limit_threads
from distcorr.stages.features import Wanted, wishes
from distcorr.stages.pictures import Scene, ahead, batches_alike, crops, seen, squeezed
from distcorr.stages.rows import Rows
from distcorr.types import FloatArray, Instance

INSTANCES, PHOTOGRAPHS = "instances", "photographs"  # kinds of shards


class BuildShard:
    """Builds shards; one per process, so that networks are loaded once."""

    def __init__(
        self, stage: StageFolder, root: str, config: Config, weights: Weights | None
    ) -> None:
        import torch

        limit_threads()
        # The device that torch sees, not the one that Ray promises: its GPUs may be logical.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as on a CPU
        self._stage, self._photographs = stage, Folder(root)
        self._store = TableStore(stage.files)
        # On a CPU these wait for the storage and decode in the gaps; a GPU would starve with few.
        self._readers = ThreadPoolExecutor(2 if device == "cpu" else 8)
        self._config = config
        self._wanted = wishes(config, weights, device).wanted
        features = FeatureStore(stage)
        _require_same(features, self._wanted)
        self._instances = {i.id: i for i in features.instances}
        self._keypoint_names = features.keypoint_names
        self._checksums = features.checksums
        self._of_photograph: dict[str, list[Instance]] = defaultdict(list)
        for instance in features.instances:
            self._of_photograph[instance.image].append(instance)
        versions = {name: importlib.metadata.version(name) for name in ("distcorr", "torch")}
        self._made_with = versions | {"device": device}

    def __call__(self, shard: Shard, killers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Write those of the shard's parts that the store lacks, then the shard's marker.

        Args:
            shard: what to build.
            killers: items that are left out, and why: nobody looks at them.

        Returns:
            For the log: rows, parts that were there, dead letters, notes.
        """
        mine = [w for w in self._wanted if kind_of(w) == shard.kind]
        entries = {w.feature.folder: self._store.find(w.feature.folder, shard.stem) for w in mine}
        missing = [w for w in mine if entries[w.feature.folder] is None]
        notes: list[str] = []
        if missing:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", SmallerBatchWarning)
                made = self._make(shard, missing, killers or {})
            notes = [f"{w.message}; the last bits may differ" for w in caught]
            made_with = self._made_with | ({"note": notes[0]} if notes else {})
            for rows in made:
                feature = rows.wanted.feature
                entries[feature.folder] = self._store.add(
                    feature, shard.stem, rows.table(), rows.dead, made_with
                )
        found = {folder: entry for folder, entry in entries.items() if entry is not None}
        mark_done(self._stage, shard, found)
        return {
            "rows": sum(entry.rows for entry in found.values()),
            "reused": len(mine) - len(missing),
            "dead": sum(len(entry.dead) for entry in found.values()),
            "notes": sorted(set(notes)),
        }

    def try_alone(self, shard: Shard, item: str) -> None:
        """All that ``__call__`` would do with one item of the shard, but for writing it."""
        mine = [w for w in self._wanted if kind_of(w) == shard.kind]
        missing = [w for w in mine if self._store.find(w.feature.folder, shard.stem) is None]
        self._make(replace(shard, items=(item,)), missing, {})

    def _make(
        self, shard: Shard, wanted: Sequence[Wanted], killers: Mapping[str, str]
    ) -> list[Rows]:
        make = self._of_instances if shard.kind == INSTANCES else self._of_photographs
        return make(shard, wanted, killers)

    # -- boxes ---------------------------------------------------------------------------------

    def _of_instances(
        self, shard: Shard, wanted: Sequence[Wanted], killers: Mapping[str, str]
    ) -> list[Rows]:
        sides = sorted({w.side for w in wanted})
        # Without context too: the box itself says who is left out, whatever else is missing.
        contexts = sorted({0.0, *(w.context for w in wanted)})
        views = list(itertools.product(contexts, sides))
        cuts: dict[tuple[float, int], list[Images]] = {view: [] for view in views}
        kept: list[Instance] = []
        instances = [self._instances[i] for i in shard.items]
        dead = [DeadLetter(i.id, i.image, killers[i.id]) for i in instances if i.id in killers]
        instances = [i for i in instances if i.id not in killers]

        def cut(members: list[Instance]) -> list[list[Images] | str]:
            shown = [replace(i, box=with_context(i.box, c)) for c in contexts for i in members]
            found = crops(self._photographs, shown, self._checksums[members[0].image], sides)
            return [_joined(found[at :: len(members)]) for at in range(len(members))]

        # Instances of one photograph stand together, so each file is decoded once.
        groups = [list(g) for _, g in itertools.groupby(instances, key=lambda i: i.image)]
        for group, found in zip(groups, ahead(self._readers, cut, groups), strict=True):
            for instance, each in zip(group, found, strict=True):
                if isinstance(each, str):
                    dead.append(DeadLetter(instance.id, instance.image, each))
                    continue
                kept.append(instance)
                for view, crop in zip(views, each, strict=True):
                    cuts[view].append(crop)
        rows = {w: Rows(w, list(dead)) for w in wanted}
        for (source, side, context), mine in _by_source(wanted) if kept else ():
            images = np.stack(cuts[context, side])
            features = in_batches(source, images, _taps(mine), self._config.features.batch)
            for w in mine:
                values = features[w.tap]
                values = to_vector(values) if w.feature.kind == "vectors" else values
                ids, images_of = [i.id for i in kept], [i.image for i in kept]
                rows[w].add_instances(ids, images_of, values)
        return list(rows.values())

    # -- whole photographs -----------------------------------------------------------------------

    def _of_photographs(
        self, shard: Shard, wanted: Sequence[Wanted], killers: Mapping[str, str]
    ) -> list[Rows]:
        dead = [
            DeadLetter(image, image, killers[image]) for image in shard.items if image in killers
        ]
        rows = {w: Rows(w, list(dead)) for w in wanted}
        photographs: list[tuple[Scene, Images]] = []

        def see(place_and_image: tuple[int, str]) -> tuple[Scene, Images] | str:
            place, image = place_and_image
            longest = self._config.features.photo_side
            return seen(self._photographs, place, image, self._checksums[image], longest)

        places = [(n, image) for n, image in enumerate(shard.items) if image not in killers]
        for (_, image), found in zip(places, ahead(self._readers, see, places), strict=True):
            if not isinstance(found, str):
                photographs.append(found)
                continue
            for each in rows.values():
                each.dead.append(DeadLetter(image, image, found))
        for (source, side, _), group in _by_source(wanted):
            views = [(s, squeezed(p, side) if side else p) for s, p in photographs]
            mirrored = [w for w in group if w.feature.kind == "mirrored"]
            for alike in batches_alike(views, self._config.features.batch):
                self._look(alike, source, [w for w in group if w not in mirrored], rows)
                if mirrored:
                    self._look([(s, p[:, ::-1]) for s, p in alike], source, mirrored, rows)
        return list(rows.values())

    def _look(
        self,
        views: Sequence[tuple[Scene, Images]],
        source: Source,
        group: Sequence[Wanted],
        rows: Mapping[Wanted, Rows],
    ) -> None:
        """Features of photographs that a source sees at one size, into ``rows``."""
        height, width = views[0][1].shape[:2]
        fitting = [w for w in group if _fits(w, height, width)]
        for w in group:
            if w not in fitting:
                rows[w].dead += [_too_small(w, scene, height, width) for scene, _ in views]
        gridded = [w for w in fitting if w.feature.kind in CELLS or not isinstance(source, Sift)]
        grids: dict[str, FloatArray] = {}
        if gridded:
            images = np.stack([picture for _, picture in views])
            grids = in_batches(source, images, _taps(gridded), self._config.features.batch)
        points = [w for w in fitting if w.feature.kind == "points"]
        for number, (scene, picture) in enumerate(views):
            keys, xy = self._keypoints(scene.image)
            here = scene.to_picture(xy, width, height)
            exact = source.columns(picture, here, _taps(points)) if isinstance(source, Sift) else {}
            for w in points:
                grid = None if exact else grids[w.tap][number]
                values = exact[w.tap] if grid is None else _nearest(grid, w, here, width, height)
                rows[w].add_photograph(scene.place, scene.image, keys, values)
            for w in (w for w in fitting if w.feature.kind in CELLS):
                keys, values = self._cells(scene, w, grids[w.tap][number], width, height)
                rows[w].add_photograph(scene.place, scene.image, keys, values)

    def _keypoints(self, image: str) -> tuple[dict[str, Any], npt.NDArray[np.float64]]:
        """Columns id, keypoint, x, y of every visible keypoint in a photograph, and its xy."""
        ids, names, at = [], [], []
        for instance in self._of_photograph[image]:
            types = self._keypoint_names[instance.category]
            for k in np.flatnonzero(instance.visible):
                ids.append(instance.id)
                names.append(types[k])
                at.append(instance.keypoints[k])
        xy = np.array(at, np.float64).reshape(-1, 2)
        x, y = xy.astype(np.float32).T
        return {"id": ids, "keypoint": names, "x": x, "y": y}, xy

    def _cells(
        self, scene: Scene, w: Wanted, grid: FloatArray, width: int, height: int
    ) -> tuple[dict[str, Any], FloatArray]:
        """What the cells of a picture are called, and their values.

        Columns image; row, col; height and width of the picture that the source sees, px; x, y, px
        in the photograph. Rows and columns of a mirror image are counted in it.
        """
        count, sample = grid.shape[0] * grid.shape[1], self._config.features.cells_per_photo
        chosen = np.arange(count)
        if 0 < sample < count:
            # By the photograph's name: who makes the shard, and with what else, plays no part.
            draw = np.random.default_rng([self._config.seed, zlib.crc32(scene.image.encode())])
            chosen = np.sort(draw.choice(count, sample, replace=False))
        row, col = np.divmod(chosen, grid.shape[1])
        rows, cols = w.source.geometry(w.tap, height), w.source.geometry(w.tap, width)
        at = np.stack([cols.centres()[col], rows.centres()[row]], axis=1)
        if w.feature.kind == "mirrored":
            at[:, 0] = width - 1 - at[:, 0]
        x, y = scene.from_picture(at, width, height).astype(np.float32).T
        keys = {
            "image": [scene.image] * len(chosen),
            "row": row.astype(np.int16),
            "col": col.astype(np.int16),
            "height": np.full(len(chosen), height, np.int16),
            "width": np.full(len(chosen), width, np.int16),
            "x": x,
            "y": y,
        }
        return keys, grid.reshape(count, -1)[chosen]


def _require_same(features: FeatureStore, wanted: Iterable[Wanted]) -> None:
    """What is made here must be what the driver has announced; else its files would not be found.

    Raises:
        DistcorrError: an extractor differs from process to process.
    """
    other = [w for w in wanted if features.tables.get(w.feature.name) != w.feature.folder]
    if other:
        raise DistcorrError(
            f"{other[0].source.name} is not the same here as in the process that planned the work: "
            "its weights or its source differ.",
            "seed what it draws at random, let every machine have the same file, "
            "or give it a fingerprint of its own",
        )


def kind_of(wanted: Wanted) -> str:
    """Which kind of shard a feature belongs to."""
    return INSTANCES if wanted.feature.kind in OF_INSTANCES else PHOTOGRAPHS


def mark_done(stage: StageFolder, shard: Shard, entries: Mapping[str, Entry]) -> None:
    """Write a shard's marker from the entries of its parts."""
    files = {f"{folder}/{shard.part}": Written(e.sha256, e.bytes) for folder, e in entries.items()}
    lacking: dict[DeadLetter, list[str]] = defaultdict(list)
    for folder, entry in entries.items():
        for letter in entry.dead:
            lacking[letter].append(folder)
    dead = [replace(letter, tables=tuple(tables)) for letter, tables in lacking.items()]
    stage.mark_done(shard, files, sum(e.rows for e in entries.values()), dead)


def _joined(found: Sequence[list[Images] | str]) -> list[Images] | str:
    """The crops of one instance, or why it lacks some."""
    whole: list[Images] = []
    for each in found:
        if isinstance(each, str):
            return each
        whole += each
    return whole


def _by_source(
    wanted: Sequence[Wanted],
) -> Iterable[tuple[tuple[Source, int, float], list[Wanted]]]:
    """Together what one pass gives: the features of one source at one size and context."""
    groups: dict[tuple[int, int, float], list[Wanted]] = defaultdict(list)
    for w in wanted:
        groups[id(w.source), w.side, w.context].append(w)
    return [((g[0].source, g[0].side, g[0].context), g) for g in groups.values()]


def _taps(wanted: Iterable[Wanted]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(w.tap for w in wanted))


def _fits(w: Wanted, height: int, width: int) -> bool:
    if isinstance(w.source, Sift) and w.feature.kind == "points":
        return True  # at exact locations, without cells
    try:
        return bool(w.source.geometry(w.tap, height) and w.source.geometry(w.tap, width))
    except DistcorrError:
        return False


def _too_small(w: Wanted, scene: Scene, height: int, width: int) -> DeadLetter:
    at = f"a photograph, seen at {width} x {height} px, is too small for"
    message = f"{at} {w.feature.layer} of {w.source.name}"
    return DeadLetter(scene.image, scene.image, message, broken=False)


def _nearest(
    grid: FloatArray, w: Wanted, xy: npt.NDArray[np.float64], width: int, height: int
) -> FloatArray:
    """(n, C) columns of the cells nearest to xy (paper, section 4)."""
    col = w.source.geometry(w.tap, width).cell(xy[:, 0])
    row = w.source.geometry(w.tap, height).cell(xy[:, 1])
    return grid[row, col]

"""``open_run``: what a run folder holds, for Python. Reads only, and takes no lock."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distcorr.config import Config
from distcorr.data.features import INSTANCES, FeatureStore
from distcorr.data.prediction_truth import opened
from distcorr.data.run import MANIFEST, Run, StageFolder
from distcorr.data.store import GRIDS
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.report import predictions
from distcorr.stages.pipeline import STAGES
from distcorr.types import FloatArray, Geometry, Instance

_COMBINED = {"predictions": "transfer", "predictions-detect": "detect"}  # table -> its stage


def open_run(path: str | os.PathLike[str]) -> RunView:
    """A run folder, finished or under way, read where it is: a path, or a URI of an object store.

    Raises:
        DistcorrError: there is no run, or it is of a newer distcorr.
    """
    uri = os.fspath(path)
    run = Run(uri)
    if not run.folder.exists(MANIFEST):
        parent, own = os.path.split(uri.rstrip("/"))
        others = Run(parent or ".").folder.folders() if "://" not in uri else []
        guess = did_you_mean(own, [name for name in others if name != own])
        raise DistcorrError(
            f"There is no run in {run}.{guess}", f"distcorr run -r {uri}   makes one"
        )
    return RunView(run)


class RunView:
    """What a run holds. Nothing is written; what is asked for is read when it is asked for."""

    def __init__(self, run: Run) -> None:
        """Of a run that is there; `open_run` makes one."""
        self._run = run
        run.manifest()  # refuses what is not a manifest, and one of a newer version

    def __repr__(self) -> str:
        finished = [name for name, state in self.stages().items() if state == "finished"]
        return f"<run {self._run}: {', '.join(finished) or 'nothing'} finished>"

    @property
    def config(self) -> Config:
        """Every setting that the run was last used with.

        Raises:
            DistcorrError: they are not there, or not of this version of distcorr.
        """
        config = self._run.config()
        if config is None:
            raise DistcorrError(
                f"{self._run} has no config.toml.", f"distcorr run -r {self._run}", MISSING
            )
        return config

    @functools.cached_property
    def _store(self) -> FeatureStore:
        return opened(self._run)

    @property
    def instances(self) -> list[Instance]:
        """Every annotated object, in the order of the data set; boxes and keypoints in px.

        Raises:
            DistcorrError: ``build-db`` has not finished; so for the next two.
        """
        return self._store.instances

    @property
    def keypoint_names(self) -> dict[str, tuple[str, ...]]:
        """Category -> its keypoint types, in the order of ``Instance.keypoints``."""
        return self._store.keypoint_names

    @property
    def root(self) -> str:
        """Path or URI of the photographs: ``Instance.image`` is relative to it."""
        return self._store.root or (self._run.folder / "toy").uri

    def stages(self) -> dict[str, str]:
        """Stage -> "finished", "begun", "out of date" (what it rests on has changed), "not begun".

        ``distcorr status`` says more.
        """
        return {name: self._state(name) for name in STAGES}

    def _state(self, name: str) -> str:
        stage = self._run.current(name)
        if stage is None:
            return "not begun"
        if self._run.finished(name):
            return "finished"
        return "out of date" if stage.done() else "begun"

    def features(
        self, layer: str = "auto", ids: Sequence[str] | None = None
    ) -> tuple[FloatArray, Geometry]:
        """Stored features of some objects' boxes, ready for `align`.

        Args:
            layer: "auto", what the run aligns by; "sift20" or another layer of ``features.grids``;
                or "grids500/conv5", of boxes stretched to 500 px.
            ids: of the instances; all that have features, in the order of ``instances``, if not
                given.

        Returns:
            (n, H, W, C) float32, exactly the float16 values of the store, not normalised, one row
            per id; and where the cells lie in the square.

        Raises:
            DistcorrError: there is no such layer or instance, or an instance was left out because
                its photograph could not be read.
        """
        if isinstance(ids, str):
            raise TypeError(f"ids must be a sequence of ids, got the string {ids!r}")
        store = self._store
        layer = store.conv if layer == "auto" else store.names.get(layer, layer)
        name = layer if "/" in layer else f"grids/{layer}"
        if name.partition("/")[0] not in GRIDS:
            raise DistcorrError(
                f"features are of boxes, in grids, and {name} is not.",
                f'table("{name}") has it row by row',
            )
        known = {instance.id for instance in store.instances}
        wanted = [i.id for i in store.instances if i.id not in store.dead] if ids is None else ids
        for each in wanted:
            if each not in known:
                raise DistcorrError(
                    f"{self._run} has no instance {each!r}.{did_you_mean(each, known)}",
                    ".instances has them all",
                )
            if each in store.dead:
                raise DistcorrError(
                    f"{each} has no features: its photograph could not be read.",
                    f"distcorr status -v -r {self._run} says why; leave it out",
                    MISSING,
                )
        unique = list(dict.fromkeys(wanted))
        _, values, meta = store.read(name, unique)
        assert meta.geometry is not None  # grids are written with it
        row = {each: n for n, each in enumerate(unique)}
        return values[[row[each] for each in wanted]].astype(np.float32), meta.geometry

    def table_names(self) -> list[str]:
        """What `table` knows: instances, features, and what the finished stages have saved."""
        states, found = self.stages(), []
        for name in STAGES:
            if states[name] != "finished":
                continue
            if name == "build-db":
                found += ["instances", *sorted(self._store.tables)]
                continue
            folders = _folders(self._finished(name))
            found += [name] if len(folders) == 1 else [f"{name}/{each}" for each in folders]
            found += [combined for combined, stage in _COMBINED.items() if stage == name]
        return found

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of the run, whole.

        Args:
            name: "instances"; "neighbors", with each target's neighbours in order; "transfer", a
                row per aligned pair: flow, energies, carried keypoints (px in the photograph);
                "predictions", what Table 2 counts, and "predictions-detect", Table 4;
                "classify/predictions" and so on for the other stages; "points/conv4" or
                "vectors/fc7", features. ``table_names`` has them all.
            columns: only these; all of them if not given.

        Returns:
            Parts in the order of their shards. Where they differ in their cells, as the pairs of
            two layers do, lists have no fixed length and the schema no metadata.

        Raises:
            DistcorrError: there is no such table or column, or its stage is not finished.
        """
        if isinstance(columns, str):
            raise TypeError(f"columns must be a sequence of names, got the string {columns!r}")
        found = self._whole(name) if name in _COMBINED else None
        if found is None and name not in (names := self.table_names()):
            raise DistcorrError(
                f"{self._run} has no table {name!r}.{did_you_mean(name, names)}",
                f"it has {', '.join(names) or 'none: nothing is finished'}",
                MISSING,
            )
        if found is None:
            found = _joined(self._parts(name))
        for each in columns or ():
            if each not in found.column_names:
                raise DistcorrError(
                    f"{name} has no column {each!r}.{did_you_mean(each, found.column_names)}",
                    f"it has {', '.join(found.column_names)}",
                )
        return found if columns is None else found.select(list(columns))

    def _whole(self, name: str) -> pa.Table:
        if name == "predictions":
            return predictions.predictions(self._run)
        from distcorr.report import detection  # lazily, as in tables: it loads torch

        return detection.table4(detection.opened(self._run, self.config.evaluation))[2]

    def _parts(self, name: str) -> Iterable[pa.Table]:
        if name == "instances":
            return [self._finished("build-db").folder.read_table(INSTANCES)]
        if name in self._store.tables:
            return self._store.parts(name)
        stage, _, folder = name.partition("/")
        made = self._finished(stage)
        return made.folder.iter_tables(made.parts(folder or _folders(made)[0]))

    def _finished(self, name: str) -> StageFolder:
        stage = self._run.finished(name)
        assert stage is not None  # its state has been asked
        return stage

    def tables(self) -> dict[str, Any]:
        """Tables 2, 3 and 4 and the figures' numbers, computed from what is saved.

        Returns:
            What ``report/tables.json`` holds: ``rows``, each with ``table``, ``category`` and where
            something is measured ``value``, ``low`` and ``high`` in per cent; ``weights``,
            ``data``, ``notes`` and ``level``.

        Raises:
            DistcorrError: no stage that a table needs has finished.
        """
        from distcorr.report import tables

        found: dict[str, Any] = json.loads(tables.build(self._run).to_json())
        return found


def _folders(stage: StageFolder) -> list[str]:
    """Names of the folders of a stage's Parquet parts."""
    names = (name for marker in stage.markers().values() for name in marker["files"])
    return sorted({name.rpartition("/")[0] for name in names if name.endswith(".parquet")})


def _joined(parts: Iterable[pa.Table]) -> pa.Table:
    """The parts below each other, also where their lists are of several lengths."""
    read = list(parts)
    if all(part.schema.equals(read[0].schema, check_metadata=True) for part in read):
        return pa.concat_tables(read)
    return pa.concat_tables(
        [part.cast(_loose(part.schema)) for part in read], promote_options="permissive"
    )


def _loose(schema: pa.Schema) -> pa.Schema:
    """Without metadata, and with lists of any length, of int16 where they are of smaller ones."""
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_fixed_size_list(kind):
            value = pa.int16() if kind.value_type == pa.int8() else kind.value_type
            kind = pa.list_(value)
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)

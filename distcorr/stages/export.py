"""The detectors of a finished run as portable files, one per category (section 5)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

import distcorr
from distcorr.algorithms import pck
from distcorr.config import Config, DetectConfig, EvaluationConfig
from distcorr.data.detectors import Detected
from distcorr.data.features import FeatureStore
from distcorr.data.portable import LayerDetectors, Portable, Prior, from_bytes, to_bytes
from distcorr.data.run import Run
from distcorr.data.store import FEATURE, Feature, HalfArray
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.stages import streamed
from distcorr.stages.features import LARGE
from distcorr.stages.objects import (
    Work,
    detected,
    geometry_of,
    in_square,
    objects_of,
    prior_of,
    without,
)
from distcorr.stages.pipeline import required
from distcorr.stages.streamed import Photographs

FOLDER = "detectors"  # of the run's files
ALPHA = 0.1  # of the PCK that a file tells, section 5


def export(run: Run, evaluation: EvaluationConfig | None = None) -> list[str]:
    """Write ``detectors/CATEGORY.npz`` below the run folder for every category.

    Args:
        run: with a finished ``detect``.
        evaluation: says which eta the files name; the run's own if not given.

    Returns:
        The files' names; none of a control. Those of categories that are gone are deleted.

    Raises:
        DistcorrError: ``detect`` is unfinished or damaged, that eta was not tried, or the folder
            cannot be written.
    """
    made = _Finished(run, evaluation)
    names: list[str] = []
    if made.config.detect.control != "none":
        return names  # nobody is to find keypoints by a control
    for category in made.detected.categories:
        names.append(name := file_of(category))
        if not made.kept(category):
            run.folder.write(name, to_bytes(made.portable(category)))
    for old in run.folder.sizes(FOLDER):
        if old.endswith(".npz") and f"{FOLDER}/{old}" not in names:
            run.folder.delete(f"{FOLDER}/{old}")
    return names


def of_run(
    run: Run, evaluation: EvaluationConfig | None = None, categories: Sequence[str] = ()
) -> dict[str, Portable]:
    """Category -> its detectors; of all categories unless some are named.

    Args:
        run: as of ``export``.
        evaluation: likewise.
        categories: of the run.

    Raises:
        DistcorrError: as ``export``; or the run has no such category.
    """
    made = _Finished(run, evaluation)
    for category in categories:
        made.require(category)
    return {each: made.portable(each) for each in categories or made.detected.categories}


def of_category(run: Run, category: str) -> Portable:
    """A category's detectors: from the run's file if that is up to date, else from its tables.

    Raises:
        DistcorrError: as ``of_run``.
    """
    made = _Finished(run, None)
    made.require(category)
    return made.kept(category) or made.portable(category)


def file_of(category: str) -> str:
    """Name of a category's file in a run folder."""
    return f"{FOLDER}/{re.sub(r'[^A-Za-z0-9._-]', '_', category)}.npz"


class _Finished:
    """A finished ``detect`` and what it was made from."""

    def __init__(self, run: Run, evaluation: EvaluationConfig | None) -> None:
        self.run, self.stage = run, required("detect", "predict", run)
        self.features = required("build-db", "predict", run)
        config = run.config()
        assert config is not None  # stages save it before they begin
        # Its own settings: those of the run may have changed since.
        settings = run.manifest()["stages"]["detect"]["detect"]
        made_with: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        try:
            self.config: Config = replace(config, detect=DetectConfig(**made_with))
        except TypeError as error:
            raise DistcorrError(
                f"The detectors of {run} were made by another version of distcorr ({error}).",
                f"distcorr detect -r {run}   makes them anew",
                MISSING,
            ) from error
        self.evaluation = evaluation or config.evaluation
        self.store = FeatureStore(self.features)
        self.detected = Detected(self.stage)
        self.tables = detected(self.store, self.config)
        self._etas: dict[tuple[str, str], float] = {}

    @property
    def identity(self) -> list[Any]:
        """JSON: changes with whatever changes the detectors or the eta that is chosen."""
        e = self.evaluation
        return [distcorr.__version__, *self.stage.identity(), e.eta, e.choose, e.inclusive]

    def kept(self, category: str) -> Portable | None:
        """The run's file of a category, if it is there, whole and up to date."""
        name = file_of(category)
        if not self.run.folder.exists(name):
            return None
        try:
            found = from_bytes(self.run.folder.read(name), f"{self.run}/{name}")
        except DistcorrError:  # damaged: the run's tables have all that it had
            return None
        same = found.category == category and found.origin.get("made_from") == self.identity
        return found if same else None

    def require(self, category: str) -> None:
        """DistcorrError if the run has no detectors of the category."""
        known = self.detected.categories
        if not category:
            raise DistcorrError(
                "predict needs the category of the object.",
                f"the run has {', '.join(known) or 'none'}: --category {(*known, 'NAME')[0]}",
            )
        if category not in known:
            raise DistcorrError(
                "The category must be one that the run has detectors of, got "
                f"{category!r}.{did_you_mean(category, known)}",
                f"it has {', '.join(known) or 'none'}: --category {(*known, 'NAME')[0]}",
            )

    def portable(self, category: str) -> Portable:
        """The category's detectors."""
        layers = [layer for layer, each in self.detected.pairs if each == category]
        works = {layer: self._work(layer, category) for layer in layers}
        prior = prior_of(self.store)
        # Layers may lack instances that others have: all that any has, and which each has.
        ids = sorted({i for work in works.values() for i in work.train.ids})
        vectors, kept = self._vectors(prior, ids)
        made = {layer: self._layer(work, kept) for layer, work in works.items()}
        feature = self._feature(prior)
        return Portable(
            category,
            self.detected.names[category],
            made,
            Prior(feature, self._asked(feature.layer), vectors),
            self.store.context,
            asdict(self.config.features) | {"weights": ""},
            self.config.seed,
            self._origin(),
        )

    def _origin(self) -> dict[str, Any]:
        features = self.config.features
        return {
            "distcorr": distcorr.__version__,
            "weights_file": os.path.basename(features.weights),
            **self.store.stamp,
            "detect": asdict(self.config.detect),
            "made_from": self.identity,
        }

    def _work(self, layer: str, category: str) -> Work:
        """What the layer learnt from."""
        table, prior = self.tables[layer], prior_of(self.store)
        needed = {self._feature(each).folder for each in (table or layer, prior)}
        lost = without(self.features.dead_letters(), needed)
        members = self.config.detect.chosen(self.store.members(category, "train"))
        train = objects_of(self.store, members, None, lost)
        train = train.at(np.flatnonzero(train.readable))
        geometry = geometry_of(self.store, layer, table, train.ids[0])
        learnt = in_square(train, geometry.input_size)
        work = Work(
            *(layer, category, table, prior, geometry, self.detected.names[category], train, train),
            learnt,
            Photographs(self.features.folder, {}),
        )
        shuffled = self.config.detect.control != "none"
        return work.shuffled(self.config.seed) if shuffled else work

    def _vectors(self, prior: str, ids: list[str]) -> tuple[HalfArray, dict[str, int]]:
        """(n, D) descriptors that are finite, and the row of each instance."""
        kept, values, _ = self.store.read(prior, ids)
        values = values.reshape(len(values), -1)
        finite = np.flatnonzero(np.isfinite(values).all(axis=1))
        return values[finite], {kept[row]: i for i, row in enumerate(finite)}

    def _layer(self, work: Work, kept: dict[str, int]) -> LayerDetectors:
        layer, category = work.layer, work.category
        _, state = self.detected.model(layer, category)
        linear, scale = state.detectors.linear, state.detectors.scale
        here = [i for i, each in enumerate(work.train.ids) if each in kept]
        eta = self._eta(layer, category)
        feature = self._feature(work.table or layer)
        return LayerDetectors(
            feature,
            self._asked(feature.layer),
            work.geometry,
            work.block,
            (scale * linear.coef).astype(np.float32),
            linear.intercept.astype(np.float32),
            scale,
            eta,
            self.config.detect.sigma * work.geometry.input_size / LARGE,
            np.array([kept[work.train.ids[i]] for i in here], np.int32),
            work.learnt[here],
            self._pck(layer, category, eta),
        )

    def _eta(self, layer: str, category: str) -> float:
        if self.evaluation.eta >= 0:
            return self.evaluation.eta
        if not self._etas:
            self._etas = self.detected.choose(self.evaluation.choose)
        return self._etas[layer, category]

    def _pck(self, layer: str, category: str, eta: float) -> float:
        """PCK on validation instances, as the report has it."""
        table = self.detected.validation(layer, category, eta)
        if not table.num_rows:
            return np.nan
        columns = ("x", "y", "true_x", "true_y", "scale")
        x, y, true_x, true_y, scale = (table[c].to_numpy().astype(np.float64) for c in columns)
        gap = np.nan_to_num(np.hypot(x - true_x, y - true_y), nan=np.inf)
        names = {name: k for k, name in enumerate(self.detected.names[category])}
        k = np.array([names[name] for name in table["keypoint"].to_pylist()])
        one = np.zeros(len(k), np.int64)
        le = self.evaluation.inclusive
        return float(pck.pck(*pck.counts(gap, scale, k, one, [ALPHA], len(names), le=le))[0])

    def _feature(self, table: str) -> Feature:
        """How a feature is made: of a table, or of a layer that no store keeps."""
        if table not in self.store.tables and streamed.can_stream(table):
            return streamed.wanted(self.config, table).feature
        name = f"{self.store.folder_of(table)}/{FEATURE}"
        try:
            said = self.features.files.read_json(name)
            return Feature(**{each.name: said[each.name] for each in fields(Feature)})
        except (OSError, TypeError, KeyError) as error:
            raise DistcorrError(
                f"{self.features.files}/{name} is missing or damaged.",
                "distcorr build-db writes it anew once it is deleted",
                MISSING,
            ) from error

    def _asked(self, layer: str) -> str:
        """The layer as settings have it: an extractor's has another name in the store."""
        return next((name for name, kept in self.store.names.items() if kept == layer), layer)

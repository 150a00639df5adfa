"""Predicted keypoints: saved flows combined by the settings of ``evaluation`` (paper, section 3).

Nothing is aligned here. Whatever order, count or baseline is asked for, the pairs that ``transfer``
has saved say it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr import config as configuration
from distcorr.algorithms.crop import from_square, to_square
from distcorr.algorithms.transfer import order_by, predict_keypoints
from distcorr.config import Config, EvaluationConfig, FlowConfig, NeighborsConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import CONFIG, Run, StageFolder
from distcorr.data.store import META
from distcorr.errors import DistcorrError
from distcorr.types import Instance

COPY = "NN transfer"

PREDICTIONS = pa.schema(
    [
        ("method", pa.string()),
        ("category", pa.string()),
        ("instance", pa.string()),
        ("image", pa.string()),
        ("keypoint", pa.string()),
        ("x", pa.float64()),  # predicted, px in the photograph, 0-based; null: no prediction
        ("y", pa.float64()),
        ("true_x", pa.float64()),
        ("true_y", pa.float64()),
        ("scale", pa.float64()),  # max(h, w) of the box, px
    ]
)

Points = npt.NDArray[np.float64]
# Flows are by far the largest column of a pair, and only figures show them.
_LIGHT = (
    *("target", "neighbor", "rank", "cosine"),
    *("data_energy", "deformation_energy", "carried"),
)


@dataclass(frozen=True)
class Finished:
    """A run whose transfer is finished and up to date.

    Attributes:
        config: of the run, ``evaluation`` as asked for.
        flow: what the flows were made with.
        methods: what flows are called, in order; copying is not among them.
        asked: what the neighbours were found with: how many, and whose.
    """

    config: Config
    store: FeatureStore
    neighbors: StageFolder
    transfer: StageFolder
    flow: FlowConfig
    methods: tuple[str, ...]
    asked: NeighborsConfig

    @functools.cached_property
    def targets(self) -> list[Instance]:
        """The instances that are scored, by category."""
        return [
            instance
            for category in sorted(self.store.keypoint_names)
            if self.store.members(category, "train")
            for instance in self.flow.chosen(self.store.members(category, self.asked.split))
        ]

    @functools.cached_property
    def instances(self) -> dict[str, Instance]:
        """Every instance by its id."""
        return {i.id: i for i in self.store.instances}


def finished(run: Run, evaluation: EvaluationConfig | None = None) -> Finished:
    """What a report reads; ``evaluation`` in place of the run's own.

    Raises:
        DistcorrError: a stage that it needs is unfinished or out of date.
    """
    config = run.config()
    features, neighbors, transfer = map(run.finished, ("build-db", "neighbors", "transfer"))
    if not (config and features and neighbors and transfer):
        raise unfinished(
            run,
            f"{run} has no transfer that is finished and up to date",
            f"distcorr run -r {run}   makes it",
        )
    if evaluation:
        config = dataclasses.replace(config, evaluation=evaluation)
    # Of this transfer, as its manifest says: the run may have been used with other settings since.
    stages = run.manifest()["stages"]
    entry, asked = stages["transfer"], NeighborsConfig(**stages["neighbors"]["neighbors"])
    flow = configuration.load(document={"flow": entry["flow"]}).flow
    store = FeatureStore(features)
    methods = tuple(entry["methods"])
    return Finished(config, store, neighbors, transfer, flow, methods, asked)


def unfinished(run: Run, words: str, hint: str) -> DistcorrError:
    """That nothing can be read of a run, and why that may be, as far as its folder tells.

    Args:
        run: that lacks its settings or its stages.
        words: what there is not.
        hint: what makes it.
    """
    if not run.folder.exists(CONFIG):
        words += f": there is no {CONFIG}"
    elif run.manifest()["stages"]:
        hint += "; if another version of distcorr made the run, this makes it anew"
    return DistcorrError(f"{words}.", hint)


def predictions(run: Run, evaluation: EvaluationConfig | None = None) -> pa.Table:
    """Every prediction of every method, copying last; one row per visible keypoint.

    Methods have the same rows in the same order, so that they can be compared keypoint by keypoint.

    Raises:
        DistcorrError: as ``finished``.
    """
    return combine(finished(run, evaluation))


def combine(made: Finished) -> pa.Table:
    """``predictions`` of an opened run."""
    found = _flowed(made) | {COPY: _copied(made)}
    columns: dict[str, list[Any]] = {name: [] for name in PREDICTIONS.names}
    for method, points in found.items():
        for instance in made.targets:
            shown = np.flatnonzero(instance.visible)  # others are not scored (section 3)
            names = made.store.keypoint_names[instance.category]
            x, y = points.get(instance.id, np.full(instance.keypoints.shape, np.nan))[shown].T
            true_x, true_y = instance.keypoints[shown].astype(np.float64).T
            for name, values in (
                ("method", [method] * len(shown)),
                ("category", [instance.category] * len(shown)),
                ("instance", [instance.id] * len(shown)),
                ("image", [instance.image] * len(shown)),
                ("keypoint", [names[k] for k in shown]),
                ("x", x.tolist()),
                ("y", y.tolist()),
                ("true_x", true_x.tolist()),
                ("true_y", true_y.tolist()),
                ("scale", [instance.box.max_side] * len(shown)),
            ):
                columns[name] += values
    arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in PREDICTIONS]  # NaN: null
    return pa.table(arrays, schema=PREDICTIONS)


def ordered(pairs: pa.Table, evaluation: EvaluationConfig) -> npt.NDArray[np.intp]:
    """(N,) the rows of one target's pairs, best first; ties go to the more similar neighbour."""
    rank = pairs["rank"].to_numpy()
    if evaluation.order == "similarity":
        return order_by(rank, rank)
    data, deformation = (pairs[f"{n}_energy"].to_numpy() for n in ("data", "deformation"))
    if evaluation.order == "total":
        beta = json.loads(pairs.schema.metadata[META])["beta"]
        return order_by(data + beta * deformation, rank)
    return order_by(data if evaluation.order == "data" else deformation, rank)


def vote(pairs: pa.Table, made: Finished) -> Points:
    """(K, 2) xy px in the photograph: what one target's pairs say by flow; NaN: nothing."""
    neighbors = [made.instances[i] for i in pairs["neighbor"].to_pylist()]
    shown = np.stack([n.visible for n in neighbors])
    carried = pairs["carried"].combine_chunks().flatten().to_numpy().reshape(*shown.shape, 2)
    wanted = made.config.evaluation
    order = ordered(pairs, wanted)
    return predict_keypoints(carried, shown, order, wanted.keep, strict=wanted.strict)


def _flowed(made: Finished) -> dict[str, dict[str, Points]]:
    """Method -> target -> its keypoints; pairs are read part by part."""
    found: dict[str, dict[str, Points]] = {method: {} for method in made.methods}
    for part in made.transfer.folder.iter_tables(made.transfer.parts("pairs"), ("method", *_LIGHT)):
        for target, pairs in of_each_target(part):
            found[pairs["method"][0].as_py()][target] = vote(pairs, made)
    return found


def of_each_target(part: pa.Table) -> list[tuple[str, pa.Table]]:
    """The pairs of a part by target: they stand together."""
    targets = np.array(part["target"].to_pylist(), object)
    starts = np.flatnonzero(np.r_[len(targets) > 0, targets[1:] != targets[:-1]])
    bounds = itertools.pairwise([*starts, len(targets)])
    return [(targets[a], part.slice(a, b - a)) for a, b in bounds]


def _copied(made: Finished) -> dict[str, Points]:
    """Target -> its neighbours' keypoints, stretched with their boxes; no flow at all.

    They have no energies: the most similar come first (protocol, O17).
    """
    wanted = made.config.evaluation
    keep = wanted.keep if wanted.copying == "median" else 1

    @functools.cache
    def in_box(neighbor: str) -> Points:
        other = made.instances[neighbor]
        return to_square(other.keypoints, other.box, 1)  # any side: it cancels

    scored = {i.id for i in made.targets}
    found: dict[str, Points] = {}
    names = made.neighbors.parts("pairs")
    for part in made.neighbors.folder.iter_tables(names, ("target", "neighbor", "rank")):
        for target, pairs in of_each_target(part):
            if target not in scored:
                continue
            neighbors = pairs["neighbor"].to_pylist()
            points = np.stack([in_box(n) for n in neighbors])
            shown = np.stack([made.instances[n].visible for n in neighbors])
            rank = pairs["rank"].to_numpy()
            points = from_square(points, made.instances[target].box, 1)
            order = order_by(rank, rank)
            found[target] = predict_keypoints(points, shown, order, keep, strict=wanted.strict)
    return found

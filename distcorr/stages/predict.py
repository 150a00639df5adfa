"""The last task of ``detect``: predict what a shard holds out, by every weight of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distcorr.algorithms import detection, windows
from distcorr.algorithms.crop import from_square
from distcorr.algorithms.windows import Detectors
from distcorr.config import DetectConfig
from distcorr.data.classified import VALIDATION
from distcorr.data.detectors import State, metadata
from distcorr.data.features import FeatureStore
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.stages.features import LARGE
from distcorr.stages.mine import round_file
from distcorr.stages.objects import (
    Doubles,
    Objects,
    Rows,
    Work,
    chunks,
    float32_products,
    read_finite,
)
from distcorr.types import Box, FloatArray


def variants(config: DetectConfig) -> list[tuple[float, bool]]:
    """(eta, refined) of all predictions: the detectors alone and the prior alone among them."""
    refined = (False, True) if config.refine else (False,)
    return [(eta, each) for eta in sorted({0.0, 1.0, *config.etas}) for each in refined]


def predict(
    store: FeatureStore,
    work: Work,
    stage: StageFolder,
    rounds: Folder,
    shard: Shard,
    state: State,
    config: DetectConfig,
    device: str = "cpu",
) -> dict[str, Any]:
    """Predict the shard's fold, or validation; write its parts and its marker."""
    float32_products()
    fold, folder = int(shard.items[1]), stage.folder
    learning = work.train.fold != fold
    held = work.val if fold == VALIDATION else work.train.at(np.flatnonzero(~learning))
    detectors = {"predictions": state.detectors}
    if fold == VALIDATION and config.rounds:  # what mining is worth
        detectors["unmined"] = State.load(rounds, round_file(shard, 0)).detectors
    shown = config.maps if fold == VALIDATION else 0
    means = _means(store, work, held, np.flatnonzero(learning))
    found = _find(store, work, held, detectors, means, shown, config, device)
    facts = {
        "layer": work.layer,
        "category": work.category,
        "fold": fold,
        "names": work.names,
        "etas": config.etas,
        "variants": variants(config),
        "notes": state.notes,
    }
    tables = {name: _table(held, points, facts) for name, points in found.points.items()}
    if found.maps:
        tables["maps"] = _maps(work, held, found.maps, means, _sigma(work, config))
    files = {
        f"{name}/{shard.part}": folder.write_table(f"{name}/{shard.part}", table, 65536)
        for name, table in tables.items()
    }
    files[f"detectors/{shard.part}"] = state.save(folder, f"detectors/{shard.part}")
    dead: list[DeadLetter] = []
    if fold == VALIDATION:  # which also learns from all the others: it tells of them
        dead = [_letter(work, work.train, i) for i in state.broken]
        dead += [_letter(work, held, i) for i in found.broken]
    rows = tables["predictions"].num_rows
    stage.mark_done(shard, files, rows, dead)
    return {
        "rows": rows,
        "dead": len(dead),
        "notes": list(state.notes),
        "found": [sum(each) for each in state.found],
        "cache": list(state.sizes),
    }


class _Found(NamedTuple):
    """What was made of n instances.

    Attributes:
        points: name of some detectors -> (n, K, 2, V) px in the photographs of every variant.
        maps: row -> (K, rows, cols) scores, of the few that are kept.
        broken: rows whose features are not finite.
    """

    points: dict[str, Doubles]
    maps: dict[int, FloatArray]
    broken: list[int]


def _find(
    store: FeatureStore,
    work: Work,
    held: Objects,
    detectors: Mapping[str, Detectors],
    means: Doubles,
    shown: int,
    config: DetectConfig,
    device: str,
) -> _Found:
    made, readable = variants(config), np.flatnonzero(held.readable)
    shape = (*means.shape, len(made))
    found = _Found({name: np.full(shape, np.nan) for name in detectors}, {}, [])
    kept = _spread(readable, shown)
    for some in chunks(readable):
        rows, grids = work.read(store, held, some)
        found.broken.extend(np.setdiff1d(some, rows).tolist())
        prior = detection.log_prior(means[rows], work.centres, _sigma(work, config))
        # The prior alone says nothing where it has no mean.
        nothing = np.isnan(means[rows])[..., None] & np.array([eta == 1 for eta, _ in made])
        for name, points in found.points.items():
            scores = windows.score(grids, detectors[name], device)
            each = [_located(scores, prior, work, *variant) for variant in made]
            points[rows] = np.where(nothing, np.nan, np.stack(each, axis=-1))
            if name == "predictions":
                kept_here = [(i, n) for n, i in enumerate(rows.tolist()) if i in kept]
                found.maps.update({i: scores[n].copy() for i, n in kept_here})
    for points in found.points.values():
        for i in readable:
            square = np.moveaxis(points[i], -1, 0)  # (V, K, 2)
            there = from_square(square, Box(*held.framed[i]), work.geometry.input_size)
            points[i] = np.moveaxis(there, 0, -1)
    return found


def _sigma(work: Work, config: DetectConfig) -> float:
    """Px in the square, of the prior."""
    return config.sigma * work.geometry.input_size / LARGE


def _located(scores: FloatArray, prior: Doubles, work: Work, eta: float, refined: bool) -> Doubles:
    # Without the prior the scores themselves: the same maximum, and no rounding of probabilities.
    responses = scores if eta == 0 else detection.combine(scores, prior, eta)
    return detection.locate(responses, work.centres, refined)


def _means(store: FeatureStore, work: Work, held: Objects, learning: Rows) -> Doubles:
    """(n, K, 2) px in the square: where the prior expects the keypoints of those held out."""
    out = np.full((len(held.ids), len(work.names), 2), np.nan)
    readable = np.flatnonzero(held.readable)
    if not len(readable):
        return out
    learnt, base = read_finite(store, work.prior, work.train, learning)
    rows, queries = read_finite(store, work.prior, held, readable)
    flat = [v.reshape(len(v), -1).astype(np.float32) for v in (base, queries)]
    # A photograph may be in both splits: it says nothing about itself, as in section 3.
    images = np.array(work.train.images)[learnt]
    own = [np.flatnonzero(images == held.images[row]) for row in rows]
    out[rows] = detection.neighbour_keypoints(flat[0], work.learnt[learnt], flat[1], own)
    return out


def _spread(rows: Rows, count: int) -> set[int]:
    """``count`` of the rows, evenly spaced and so chosen without a look at any result."""
    at = (np.arange(min(count, len(rows))) + 0.5) * len(rows) / max(min(count, len(rows)), 1)
    return set(rows[at.astype(np.intp)].tolist())


def _maps(
    work: Work, held: Objects, maps: Mapping[int, FloatArray], means: Doubles, sigma: float
) -> pa.Table:
    """A row per keypoint type of some instances: what the detector and the prior say."""
    pairs = [(i, k) for i in sorted(maps) for k in range(len(work.names))]
    rows, cols = work.centres.shape[:2]
    facts = {"rows": rows, "cols": cols, "side": work.geometry.input_size, "sigma": sigma}
    facts |= {"offset": work.centres[0, 0, 0], "stride": work.geometry.stride, "names": work.names}
    x, y = np.array([means[pair] for pair in pairs]).T
    columns = {
        "layer": pa.array([work.layer] * len(pairs)),
        "category": pa.array([work.category] * len(pairs)),
        "instance": pa.array([held.ids[i] for i, _ in pairs]),
        "image": pa.array([held.images[i] for i, _ in pairs]),
        "keypoint": pa.array([work.names[k] for _, k in pairs]),
        "scores": pa.array([maps[pair[0]][pair[1]].ravel() for pair in pairs]),
        "prior_x": pa.array(x, from_pandas=True),  # NaN: null
        "prior_y": pa.array(y, from_pandas=True),
    }
    return pa.table(columns).replace_schema_metadata(metadata(facts))


def _letter(work: Work, objects: Objects, row: int) -> DeadLetter:
    what = f"{objects.ids[row]} ({work.layer})"
    return DeadLetter(what, objects.images[row], f"{work.layer} is not finite")


def _table(held: Objects, points: Doubles, facts: dict[str, Any]) -> pa.Table:
    """A row per visible keypoint; x and y px in the photograph, for every variant."""
    i, k = np.nonzero(~np.isnan(held.keypoints).any(axis=2))
    count, true = len(i), held.keypoints[i, k]

    def strings(values: Sequence[str]) -> pa.Array:
        return pa.array(values, pa.string())

    def every(axis: int) -> pa.Array:
        flat = points[i, k, axis].reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), points.shape[3])

    return pa.table(
        {
            "layer": strings([facts["layer"]] * count),
            "category": strings([facts["category"]] * count),
            "fold": pa.array([facts["fold"]] * count, pa.int8()),
            "instance": strings([held.ids[row] for row in i]),
            "image": strings([held.images[row] for row in i]),
            "keypoint": strings([facts["names"][column] for column in k]),
            "x": every(0),
            "y": every(1),
            "true_x": pa.array(true[:, 0]),
            "true_y": pa.array(true[:, 1]),
            "scale": pa.array(held.scale[i]),
        }
    ).replace_schema_metadata(metadata(facts))

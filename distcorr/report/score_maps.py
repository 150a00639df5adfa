"""Score maps and priors behind single predictions of section 5.

A map that ``detect`` has kept is taken as it is. Where it kept none, the saved detectors score the
one box, if its features are in the store: nothing is trained, and no feature is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import detection, windows
from distcorr.algorithms.crop import from_square
from distcorr.data.features import FeatureStore
from distcorr.data.portable import from_bytes
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report.cases import Case, Point
from distcorr.report.detection import WITH, Opened
from distcorr.types import Box

_NEAR = 1e-3  # px; the same position, as computed twice

Floats = npt.NDArray[np.float64]
_Key = tuple[str, str]  # instance, keypoint


class _Said(NamedTuple):
    """Of one keypoint of one box: scores (rows, cols), None where they are not known; centres
    (rows, cols, 2), mean (2,) and sigma of the prior, and side, all px in the square.
    """

    scores: Any
    centres: Floats
    mean: Floats
    sigma: float
    side: int


class Heat(NamedTuple):
    """What a detector and the prior say of one box.

    Attributes:
        box: what the maps cover, px in the photograph.
        side: px of the square that the box becomes.
        centres: (rows, cols, 2) px in the square.
        scores: (rows, cols) the detector's probability, 0 to 1; None where it is not known.
        prior: likewise, 0 to 1; None where no training object shows the keypoint, or where the one
            that the prior is from cannot be told any more.
        response: likewise, of both with the weight ``eta``: what is largest is predicted; None as
            ``scores``.
        peak: px in the photograph, where the prior alone predicts it; None if it does not.
        eta: of the prior.
    """

    box: Box
    side: int
    centres: Floats
    scores: Floats | None
    prior: Floats | None
    response: Floats | None
    peak: Point | None
    eta: float


def heats(
    run: Run, made: Opened, store: FeatureStore, found: Sequence[Case]
) -> tuple[dict[tuple[str, str, str], Heat], list[str]]:
    """(method, instance, keypoint) of each case -> its maps, where there are any.

    Args:
        run: with its portable detectors, which hold what the prior rests on.
        made: its ``detect``.
        store: of the run.
        found: cases of methods with the prior.

    Returns:
        the maps, and sentences about those that are missing.
    """
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    instances = {each.id: each for each in store.instances}
    for case in found:
        layer = case.method.removesuffix(WITH)
        groups[instances[case.instance].category, layer].append(case)
    known: dict[tuple[str, str, str], Heat] = {}
    lacking = []
    for (category, layer), cases in sorted(groups.items()):
        said = _kept(made, layer, category)
        try:
            if missing := sorted({c.instance for c in cases} - {name for name, _ in said}):
                table = _table(run, store, layer)
                said |= _anew(run, made, store, table, (layer, category), missing)
                if not table:
                    lacking.append(f"The store has no {layer}: most of its cards show the prior.")
        except DistcorrError as error:
            lacking.append(f"Maps of {layer} in {category} are not shown: {error.message}")
        peaks = _peaks(made, layer, category)
        for case in cases:
            key = case.instance, case.keypoint
            if key in said:
                box, eta = store.framed(instances[case.instance].box), made.etas[layer, category]
                known[case.method, *key] = _heat(said[key], box, peaks.get(key), eta)
    return known, list(dict.fromkeys(lacking))


def _kept(made: Opened, layer: str, category: str) -> dict[_Key, _Said]:
    """The few that ``detect`` keeps."""
    return {
        (m.instance, m.keypoint): _Said(m.scores, m.centres, m.mean, m.sigma, m.side)
        for m in made.detected.maps(layer, category)
    }


def _table(run: Run, store: FeatureStore, layer: str) -> str:
    """The table that the layer's detectors have learnt from; "" if the store does not keep it."""
    read = run.manifest()["stages"]["detect"].get("needs", {}).get("build-db", [])[2:]
    names = (f"{kind}/{layer}" for kind in ("grids500", "grids"))
    return next((n for n in names if n in store.tables and store.folder_of(n) in read), "")


def _anew(
    run: Run,
    made: Opened,
    store: FeatureStore,
    table: str,
    of: tuple[str, str],
    ids: Sequence[str],
) -> dict[_Key, _Said]:
    """Some boxes scored by the saved detectors of a layer and category; "": the priors alone.

    Raises:
        DistcorrError: the store or the detectors cannot be read.
    """
    layer, category = of
    name = f"detectors/{category}.npz"
    if not run.folder.exists(name):
        raise DistcorrError(f"{name} is not there.", f"distcorr detect -r {run}   writes it")
    portable = from_bytes(run.folder.read(name), name)
    by = portable.layers[layer]
    kept, vectors, _ = store.read(made.prior, ids)
    queries, base = (
        v.reshape(len(v), -1).astype(np.float32) for v in (vectors, portable.prior.vectors[by.rows])
    )
    means = detection.neighbour_keypoints(base, by.keypoints, queries)
    scores: Any = np.full(means.shape[:2], None)
    if table:
        _, grids, _ = store.read(table, kept)
        scores = windows.score(grids, made.detected.model(*of)[1].detectors)
    return {
        (instance, keypoint): _Said(
            scores[i][k], by.centres, means[i, k], by.sigma, by.geometry.input_size
        )
        for i, instance in enumerate(kept)
        for k, keypoint in enumerate(portable.names)
    }


def _peaks(made: Opened, layer: str, category: str) -> dict[_Key, Point]:
    """Where the prior alone predicts each keypoint, px in the photograph."""
    table = made.detected.validation(layer, category, 1.0)
    columns = (table[name].to_pylist() for name in ("instance", "keypoint", "x", "y"))
    return {(i, k): (x, y) for i, k, x, y in zip(*columns, strict=True) if x is not None}


def _heat(said: _Said, box: Box, peak: Point | None, eta: float) -> Heat:
    scores, centres, mean, sigma, side = said
    log_prior = detection.log_prior(mean[None, None], centres, sigma)
    at = from_square(detection.locate(log_prior, centres)[0, 0], box, side)
    sure = peak is None or bool(np.hypot(*(at - peak)) < _NEAR)  # else its mean is another's
    prior = np.exp(log_prior[0, 0]) if sure and peak else None
    if scores is None:
        return Heat(box, side, centres, None, prior, None, peak, eta)
    alone, both = (
        np.exp(detection.combine(scores[None, None], log_prior, weight)[0, 0])
        for weight in (0.0, eta)
    )
    return Heat(box, side, centres, alone, prior, both if sure else None, peak, eta)

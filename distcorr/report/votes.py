"""What the neighbours of section 3 said, one by one: where each carries a keypoint.

Nothing is aligned here: ``transfer`` has saved every pair, and the report's settings say which of
them are asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distcorr.report.cases import Case, Point
from distcorr.report.predictions import Finished, of_each_target, ordered

_COLUMNS = ("method", "target", "neighbor", "rank", "data_energy", "deformation_energy", "carried")


class Vote(NamedTuple):
    """One neighbour of one target.

    Attributes:
        neighbor: id of the training object.
        energy: of deformation, cells^2: sum over neighbouring cells of the squared difference of
            their displacements.
        at: px in the target's photograph, where it carries the keypoint; None if it does not show
            it.
        error: in units of alpha * max(h, w); NaN likewise.
        asked: whether the prediction is made of it.
    """

    neighbor: str
    energy: float
    at: Point | None
    error: float
    asked: bool


def votes(made: Finished, found: Sequence[Case]) -> dict[tuple[str, str, str], list[Vote]]:
    """(method, instance, keypoint) of each case -> its neighbours, in the order of ``evaluation``.

    Args:
        made: the run, with the ``evaluation`` that predicted.
        found: cases of methods that align; of others, as copying, there are no votes.

    Raises:
        DistcorrError: a part of ``transfer`` is missing or damaged.
    """
    asked: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in found:
        asked[case.method, case.instance].append(case)
    targets = pa.array(sorted({case.instance for case in found}), pa.string())
    said = {}
    for part in made.transfer.folder.iter_tables(made.transfer.parts("pairs"), _COLUMNS):
        wanted = part.filter(pc.is_in(part["target"], targets))
        for target, pairs in of_each_target(wanted):
            for case in asked[pairs["method"][0].as_py(), target]:
                said[case.method, target, case.keypoint] = _votes(pairs, case, made)
    return said


def _votes(pairs: pa.Table, case: Case, made: Finished) -> list[Vote]:
    """Of one target and keypoint, best first."""
    wanted, category = made.config.evaluation, made.instances[case.instance].category
    names = made.store.keypoint_names[category]
    k, neighbors = names.index(case.keypoint), pairs["neighbor"].to_pylist()
    carried = pairs["carried"].combine_chunks().flatten().to_numpy()
    points = carried.reshape(len(neighbors), len(names), 2)[:, k]
    shown = np.array([made.instances[neighbor].visible[k] for neighbor in neighbors])
    order = ordered(pairs, wanted)
    says = (shown & np.isfinite(points).all(axis=1))[order]
    first = np.arange(len(order)) if wanted.strict else np.cumsum(says) - 1
    asked = says & (first < wanted.keep)  # as predict_keypoints has it
    energies = pairs["deformation_energy"].to_numpy()
    errors = np.hypot(*(points - case.true).T) / case.allowed
    return [
        Vote(
            neighbors[row],
            float(energies[row]),
            (float(points[row, 0]), float(points[row, 1])) if there else None,
            float(errors[row]) if there else np.nan,
            bool(of_few),
        )
        for row, there, of_few in zip(order.tolist(), says, asked, strict=True)
    ]

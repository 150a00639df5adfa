"""Figures of a finished run, drawn from its saved flows and predictions."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.transfer import warp, warp_forward
from distcorr.config import EvaluationConfig
from distcorr.data.images import read_image
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.store import META
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report.canvas import Canvas, share
from distcorr.report.predictions import Finished, finished, of_each_target, ordered, vote
from distcorr.types import Geometry, Instance

NEIGHBORS = 5  # warped neighbours per row, as the paper's Figure 3
COLUMNS = NEIGHBORS + 3  # with the truth, the prediction, and the average of all neighbours


def figure3(
    run: Run,
    rows: int = 5,
    evaluation: EvaluationConfig | None = None,
    categories: Sequence[str] = (),
) -> list[str]:
    """Figure 3: targets, and their neighbours warped onto them with the keypoints they carry.

    For each category (of those named, or the first ``rows``) one row per method: the target with
    its true keypoints, the prediction (joined to the truth by a line), the five first neighbours in
    the order of ``evaluation`` (by default the run's, which is that of deformation energy), and the
    average of all neighbours, aligned.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: no transfer has finished, a category has no targets, or a photograph has
            gone.
    """
    made = finished(run, evaluation)
    root = Folder(made.store.root) if made.store.root else run.folder / "toy"
    targets = _targets(made, categories) if categories else _targets(made)[:rows]
    pairs = _pairs_of(made, [target.id for target in targets])
    canvas = Canvas(len(targets) * len(made.methods), COLUMNS)
    row = 0
    for target in targets:

        @functools.cache  # methods share the neighbours
        def photograph(image: str) -> npt.NDArray[np.uint8]:
            return read_image(root, image)

        for method in made.methods:
            drawn = _Row(canvas, row, method, target, made, photograph)
            drawn.draw(pairs.get((method, target.id)))
            row += 1
    return canvas.save(run, "figure3")


def _targets(made: Finished, categories: Sequence[str] = ()) -> list[Instance]:
    """One target per category: the middle one, not the best."""
    of_category: dict[str, list[Instance]] = {}
    for target in made.targets:
        of_category.setdefault(target.category, []).append(target)
    for category in categories:
        if category not in of_category:
            raise DistcorrError(
                f"This run has no targets of {category!r}.{did_you_mean(category, of_category)}",
                f"it has {', '.join(of_category)}",
            )
    return [of_category[c][len(of_category[c]) // 2] for c in categories or of_category]


def _pairs_of(made: Finished, targets: Sequence[str]) -> dict[tuple[str, str], pa.Table]:
    """(method, target) -> all columns of its pairs; only the parts that hold one are read whole."""
    found: dict[tuple[str, str], pa.Table] = {}
    folder = made.transfer.folder
    for name in made.transfer.parts("pairs"):
        if not set(folder.read_table(name, ["target"])["target"].to_pylist()) & set(targets):
            continue
        for target, pairs in of_each_target(folder.read_table(name)):
            if target in targets:
                found[pairs["method"][0].as_py(), target] = pairs
    return found


@dataclass(frozen=True)
class _Row:
    """One row of the figure: a target by one method."""

    canvas: Canvas
    row: int
    method: str
    target: Instance
    made: Finished
    photograph: Callable[[str], npt.NDArray[np.uint8]]

    def draw(self, pairs: pa.Table | None) -> None:
        """All of it; without pairs, the truth alone."""
        facts = {} if pairs is None else json.loads(pairs.schema.metadata[META])
        geometry = Geometry(**facts["geometry"]) if facts else None
        side = geometry.input_size if geometry else 227
        target, canvas, row = self.target, self.canvas, self.row
        picture = self._crop(target, side)
        box = self.made.store.framed(target.box)
        truth = share(target.keypoints, box)
        canvas.picture(row, 0, picture, f"{target.category}: truth")
        canvas.points(row, 0, truth, target.visible)
        if pairs is None or geometry is None:
            canvas.picture(row, 1, picture, f"{self.method}: nothing to align")
            return
        predicted = share(vote(pairs, self.made), box)
        predicted[~target.visible] = np.nan
        canvas.picture(row, 1, picture, self.method)
        canvas.lines(row, 1, predicted, truth)
        canvas.points(row, 1, predicted, target.visible)
        order = ordered(pairs, self.made.config.evaluation)
        total = np.zeros((side, side, 3))
        for column, i in enumerate(order, start=2):
            pair = pairs.slice(int(i), 1).to_pylist()[0]
            neighbor = self.made.instances[pair["neighbor"]]
            flow = np.array(pair["displacement"], np.int16).reshape(facts["shape"])
            move = warp if self.made.flow.direction == "inverse" else warp_forward
            aligned = move(self._crop(neighbor, side), flow, geometry)
            total += aligned
            if column < 2 + NEIGHBORS:
                carried = np.array(pair["carried"], float).reshape(-1, 2)
                title = f"deformation {pair['deformation_energy']:.0f}"
                canvas.picture(row, column, aligned, title)
                canvas.points(row, column, share(carried, box), neighbor.visible)
        average = np.rint(total / len(order)).astype(np.uint8)
        canvas.picture(row, COLUMNS - 1, average, f"average of {len(order)}")

    def _crop(self, instance: Instance, side: int) -> npt.NDArray[np.uint8]:
        box = self.made.store.framed(instance.box)
        return crop_square(self.photograph(instance.image), box, side)

"""Figures of a finished run, drawn from its saved flows and predictions."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from distcorr.algorithms.crop import crop_square, to_square
from distcorr.algorithms.transfer import warp, warp_forward
from distcorr.config import EvaluationConfig
from distcorr.data.images import read_image
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.store import META
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report.predictions import Finished, finished, of_each_target, ordered, vote
from distcorr.types import Box, Geometry, Instance

NEIGHBORS = 5  # warped neighbours per row, as the paper's Figure 3
COLUMNS = NEIGHBORS + 3  # with the truth, the prediction, and the average of all neighbours
_Array = npt.NDArray[Any]
_INCHES, _HEIGHT, _DPI = 1.5, 1.12, 130  # of a column; of a row, in columns; of both files


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
    canvas = _Canvas(len(targets) * len(made.methods))
    row = 0
    for target in targets:

        @functools.cache  # methods share the neighbours
        def photograph(image: str) -> npt.NDArray[np.uint8]:
            return read_image(root, image)

        for method in made.methods:
            drawn = _Row(canvas, row, method, target, made, photograph)
            drawn.draw(pairs.get((method, target.id)))
            row += 1
    names = {"report/figure3.png": canvas.png(), "report/figure3.svg": canvas.svg()}
    for name, content in names.items():
        run.folder.write(name, content)
    return list(names)


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

    canvas: _Canvas
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
        truth = _share(target.keypoints, box)
        canvas.picture(row, 0, picture, f"{target.category}: truth")
        canvas.points(row, 0, truth, target.visible)
        if pairs is None or geometry is None:
            canvas.picture(row, 1, picture, f"{self.method}: nothing to align")
            return
        predicted = _share(vote(pairs, self.made), box)
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
                canvas.points(row, column, _share(carried, box), neighbor.visible)
        average = np.rint(total / len(order)).astype(np.uint8)
        canvas.picture(row, COLUMNS - 1, average, f"average of {len(order)}")

    def _crop(self, instance: Instance, side: int) -> npt.NDArray[np.uint8]:
        box = self.made.store.framed(instance.box)
        return crop_square(self.photograph(instance.image), box, side)


def _share(xy: npt.ArrayLike, box: Box) -> npt.NDArray[np.float64]:
    """(K, 2) px in the photograph -> shares of the box, 0 to 1 from edge to edge."""
    return to_square(xy, box, 1) + 0.5


class _Canvas:
    """A grid of square pictures with keypoints over them; points are in shares of a picture."""

    def __init__(self, rows: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(_INCHES * COLUMNS, _INCHES * _HEIGHT * max(rows, 1)))
        FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1))  # ticks and layout of 80 take seconds
        self._axes.axis("off")
        self._limits = (0, COLUMNS), (_HEIGHT * max(rows, 1), 0)

    def picture(self, row: int, column: int, image: _Array, title: str) -> None:
        """A square picture and the words above it."""
        (left, top), (right, bottom) = self._at(row, column, np.array([[0, 0], [1, 1]]))
        self._axes.imshow(image, extent=(left, right, bottom, top), aspect="auto")
        self._axes.text((left + right) / 2, top - 0.03, title, fontsize=8, ha="center")

    def points(self, row: int, column: int, xy: _Array, shown: npt.NDArray[np.bool_]) -> None:
        """(K, 2) keypoints, one colour per type across the row."""
        from matplotlib import colormaps

        colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(xy)))
        ok = np.asarray(shown, bool) & np.isfinite(xy).all(axis=1)
        x, y = self._at(row, column, xy[ok]).T
        self._axes.scatter(x, y, s=16, c=colours[ok], edgecolors="white", linewidths=0.6, zorder=3)

    def lines(self, row: int, column: int, a: _Array, b: _Array) -> None:
        """From every point of ``a`` to that of ``b``."""
        ok = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        ends = self._at(row, column, a[ok]), self._at(row, column, b[ok])
        self._axes.plot(*np.stack(ends).transpose(2, 0, 1), color="white", linewidth=1)

    def _at(self, row: int, column: int, share: _Array) -> _Array:
        """Where (n, 2) points of a picture are; those beyond its border are drawn on it."""
        start = column + 0.02, (row + 1) * _HEIGHT - 0.98
        return np.array(start) + 0.96 * np.clip(share, 0, 1)

    def png(self) -> bytes:
        """The figure as PNG."""
        return self._saved("png", {"Software": None})

    def svg(self) -> bytes:
        """The figure as SVG; pictures inside it are JPEG, a fifth of the size of PNG."""
        found = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
        return found.sub(_as_jpeg, self._saved("svg", {"Creator": None, "Date": None}))

    def _saved(self, kind: str, metadata: dict[str, None]) -> bytes:
        """No date, no version and no random ids: equal runs draw equal bytes."""
        from matplotlib import rc_context

        out = io.BytesIO()
        self._axes.set(xlim=self._limits[0], ylim=self._limits[1])
        with rc_context({"svg.hashsalt": "distcorr", "image.composite_image": False}):
            self._figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
        return out.getvalue()


def _as_jpeg(found: re.Match[bytes]) -> bytes:
    picture, out = Image.open(io.BytesIO(base64.b64decode(found[1]))), io.BytesIO()
    picture.convert("RGB").save(out, format="jpeg", quality=85)
    return b"data:image/jpeg;base64," + base64.b64encode(out.getvalue())

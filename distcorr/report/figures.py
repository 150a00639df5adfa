"""Figures of a finished run, drawn from its saved flows and predictions."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distcorr.algorithms.crop import crop_square, to_square
from distcorr.algorithms.transfer import order_by, warp
from distcorr.data.features import FeatureStore
from distcorr.data.images import read_image
from distcorr.data.run import Run, StageFolder
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.types import Array, Instance

COLUMNS = 5  # warped neighbours per row, as the paper's Figure 3


def figure3(run: Run, rows: int = 5) -> list[str]:
    """Figure 3: targets, and their neighbours warped onto them with the keypoints they carry.

    One row per category (the first ``rows``): the target with its true keypoints, the prediction
    (joined to the truth by a line), and the five neighbours of least deformation energy.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: no transfer has finished, or a photograph has gone.
    """
    features, transfer, config = run.finished("build-db"), run.finished("transfer"), run.config()
    if not (features and transfer and config):
        raise DistcorrError(
            f"{run} has no transfer that is finished and up to date.", f"distcorr run -r {run}"
        )
    store = FeatureStore(features)
    root = Folder(config.dataset.root) if config.dataset.name != "toy" else run.folder / "toy"
    targets = _targets(store)[:rows]
    canvas = _Canvas(len(targets))
    for row, target in enumerate(targets):
        _draw_row(canvas, row, target, store, transfer, root)
    run.folder.write("report/figure3.png", canvas.png())
    return ["report/figure3.png"]


def _targets(store: FeatureStore) -> list[Instance]:
    """One validation instance per category that has neighbours: the middle one, not the best."""
    chosen = []
    for category in sorted(store.keypoint_names):
        members = store.members(category, "val")
        if members and store.members(category, "train"):
            chosen.append(members[len(members) // 2])
    return chosen


def _draw_row(
    canvas: _Canvas,
    row: int,
    target: Instance,
    store: FeatureStore,
    transfer: StageFolder,
    root: Folder,
) -> None:
    by_id = {i.id: i for i in store.instances}
    names = store.keypoint_names[target.category]
    pairs, predictions = _rows_of(transfer, target.id)
    _, _, meta = store.read(f"grids/{store.conv}", [target.id])
    assert meta.geometry is not None  # grids are written with it
    geometry, side = meta.geometry, meta.geometry.input_size

    def crop(instance: Instance) -> npt.NDArray[np.uint8]:
        return crop_square(read_image(root, instance.image), instance.box, side)

    picture = crop(target)
    truth = to_square(np.asarray(target.keypoints, float), target.box, side)
    canvas.picture(row, 0, picture, f"{target.category}: truth")
    canvas.points(row, 0, truth, target.visible)
    predicted = np.full_like(truth, np.nan)
    for name, x, y in zip(
        *(predictions[c].to_pylist() for c in ("keypoint", "x", "y")), strict=True
    ):
        if x is not None:
            predicted[names.index(name)] = x, y
    predicted = to_square(predicted, target.box, side)
    canvas.picture(row, 1, picture, store.conv + " flow")
    canvas.lines(row, 1, predicted, truth)
    canvas.points(row, 1, predicted, target.visible)
    energy = pairs["deformation_energy"].to_numpy()
    order = order_by(energy, pairs["rank"].to_numpy())[:COLUMNS]
    for column, i in enumerate(order, start=2):
        neighbor = by_id[pairs["neighbor"][int(i)].as_py()]
        flow = np.array(pairs["displacement"][int(i)].as_py(), np.int16)
        flow = flow.reshape(geometry.cells, geometry.cells, 2)
        carried = np.array(pairs["carried"][int(i)].as_py(), float).reshape(-1, 2)
        title = f"deformation {energy[i]:.0f}"
        canvas.picture(row, column, warp(crop(neighbor), flow, geometry), title)
        canvas.points(row, column, to_square(carried, target.box, side), neighbor.visible)


def _rows_of(transfer: StageFolder, target: str) -> tuple[pa.Table, pa.Table]:
    """The target's pairs, and its predictions by flow."""
    for pairs, predictions in zip(
        transfer.parts("pairs"), transfer.parts("predictions"), strict=True
    ):
        table = transfer.folder.read_table(pairs)
        table = table.filter(pc.equal(table["target"], target))
        if table.num_rows:
            mine = transfer.folder.read_table(predictions)
            mine = mine.filter(pc.equal(mine["instance"], target))
            first = mine["method"][0].as_py() if mine.num_rows else ""
            return table, mine.filter(pc.equal(mine["method"], first))
    raise DistcorrError(f"{target} has no saved pairs.", "distcorr transfer   makes them")


class _Canvas:
    """A grid of pictures with keypoints drawn over them."""

    def __init__(self, rows: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns = COLUMNS + 2
        self._figure = Figure(figsize=(1.9 * columns, 2.1 * max(rows, 1)), layout="constrained")
        FigureCanvasAgg(self._figure)
        self._axes = self._figure.subplots(max(rows, 1), columns, squeeze=False)
        for axis in self._axes.flat:
            axis.axis("off")

    def picture(self, row: int, column: int, image: Array, title: str) -> None:
        self._axes[row, column].imshow(image)
        self._axes[row, column].set_title(title, fontsize=8)

    def points(
        self, row: int, column: int, xy: npt.NDArray[np.floating], shown: npt.NDArray[np.bool_]
    ) -> None:
        """Keypoints, one colour per type across the row."""
        from matplotlib import colormaps

        colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(xy)))
        ok = np.asarray(shown, bool) & np.isfinite(xy).all(axis=1)
        style: dict[str, Any] = {"s": 18, "edgecolors": "white", "linewidths": 0.7}
        self._axes[row, column].scatter(*xy[ok].T, c=colours[ok], **style)

    def lines(self, row: int, column: int, a: Array, b: Array) -> None:
        for (x0, y0), (x1, y1) in zip(a, b, strict=True):
            if np.isfinite([x0, y0, x1, y1]).all():
                self._axes[row, column].plot([x0, x1], [y0, y1], color="white", linewidth=1)

    def png(self) -> bytes:
        out = io.BytesIO()
        # No date and no version: equal runs draw equal bytes.
        self._figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
        return out.getvalue()

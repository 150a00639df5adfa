"""Figure 6: detected keypoints beside the truth, and the score maps behind them (section 5)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import detection as responses
from distcorr.algorithms.crop import crop_square
from distcorr.config import EvaluationConfig
from distcorr.data.detectors import Map
from distcorr.data.features import FeatureStore
from distcorr.data.images import read_image
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.report import detection
from distcorr.report.canvas import Canvas, share
from distcorr.report.classification import is_sift
from distcorr.report.detection import WITH, Opened
from distcorr.types import Instance

PAPER = ("aeroplane", "cat", "cow", "pottedplant", "horse")  # section 5, Figure 6
COUNT = len(PAPER)  # of categories that are shown unless others are asked for
EACH = 2  # instances of a category; not in the paper's words
TYPES = 2  # keypoint types of an instance whose score maps are shown; not in the paper
_SIDE = 260  # px of a picture
_HEAT = 0.6  # of a score over the photograph
_INCHES = 1.9

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]


def figure6(
    run: Run, categories: Sequence[str] = (), evaluation: EvaluationConfig | None = None
) -> list[str]:
    """Figure 6: boxes with their true keypoints, and with those that each layer and prior predict.

    A colour for each keypoint type, a line from every prediction to the truth. A row for each
    category, of two validation instances that are chosen by their place in the data set alone.

    Args:
        run: with a finished ``detect``.
        categories: which; by default five, the paper's first where they are there.
        evaluation: in place of the run's own.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: nothing was detected, or not in one of ``categories``; a photograph has gone.
    """
    sheet = _Sheet(run, detection.opened(run, evaluation))
    shown, layers = sheet.categories(categories), sheet.layers
    canvas = Canvas(len(shown), EACH * (1 + len(layers)), _INCHES)
    for row, category in enumerate(shown):
        tables = {
            layer: sheet.made.detected.validation(layer, category, eta)
            for layer in layers
            if (eta := sheet.made.etas.get((layer, category))) is not None
        }
        ids = list(dict.fromkeys(next(iter(tables.values()))["instance"].to_pylist()))
        count = min(EACH, len(ids))
        for n in range(count):
            instance = sheet.instances[ids[(2 * n + 1) * len(ids) // (2 * count)]]
            column, picture = n * (1 + len(layers)), sheet.picture(instance)
            truth = sheet.share(instance, instance.keypoints)
            canvas.picture(row, column, picture, f"{category}: truth")
            canvas.points(row, column, truth, instance.visible)
            for beside, layer in enumerate(layers, start=column + 1):
                if layer not in tables:
                    canvas.picture(row, beside, picture, f"{layer}: not detected")
                    continue
                points = sheet.predicted(tables[layer], instance)
                canvas.picture(row, beside, picture, sheet.title(layer))
                canvas.lines(row, beside, points, truth)
                canvas.points(row, beside, points, instance.visible)
    return canvas.save(run, "figure6")


def figure6_scores(
    run: Run, categories: Sequence[str] = (), evaluation: EvaluationConfig | None = None
) -> list[str]:
    """What Figure 6's predictions are made of: score maps, the prior, and their product.

    For some of the instances whose scores are kept, and two keypoint types of each that it shows:
    the box; the prior; and for each layer the detector's probabilities and the response with the
    prior, every picture from its lowest to its highest value. A ring marks the truth, a cross the
    maximum.

    Args:
        run: with a finished ``detect``.
        categories: as for ``figure6``.
        evaluation: in place of the run's own.

    Returns:
        Names of the files written below the run.

    Raises:
        DistcorrError: as ``figure6``; also where no scores are kept (``detect.maps`` is 0).
    """
    sheet = _Sheet(run, detection.opened(run, evaluation))
    rows = [row for category in sheet.categories(categories) for row in _kept(sheet, category)]
    if not rows:
        raise DistcorrError(
            f"{run} keeps no score maps of these categories.",
            "detect.maps says of how many instances per category",
        )
    canvas = Canvas(len(rows), 2 + 2 * len(sheet.layers), _INCHES)
    for row, maps in enumerate(rows):
        _draw(canvas, row, sheet, maps)
    return canvas.save(run, "figure6-scores")


@dataclass
class _Sheet:
    """What both figures look up."""

    run: Run
    made: Opened

    def __post_init__(self) -> None:
        features = self.run.finished("build-db")
        assert features is not None  # else detect is not finished either
        self.store = FeatureStore(features)
        root = Folder(self.store.root) if self.store.root else self.run.folder / "toy"
        self.instances: dict[str, Instance] = {i.id: i for i in self.store.instances}
        self._photograph: Callable[[str], Picture] = functools.lru_cache(maxsize=2)(
            functools.partial(read_image, root)
        )

    @property
    def layers(self) -> list[str]:
        """SIFT first, as in the paper."""
        return sorted(self.made.detected.layers, key=lambda layer: not is_sift(layer))

    def title(self, layer: str) -> str:
        """Of what a layer and the prior predict; a control is named as one."""
        control = self.made.trained["control"] != "none"
        return f"{'CONTROL ' if control else ''}{layer}{WITH}"

    def categories(self, asked: Sequence[str]) -> list[str]:
        """Those that are shown."""
        known = self.made.detected.categories
        for category in asked:
            if category not in known:
                raise DistcorrError(
                    f"Nothing was detected in {category!r}.{did_you_mean(category, known)}",
                    f"there are {', '.join(known) or 'none'}",
                )
        if not known:
            raise DistcorrError(
                f"detect had nothing to detect in {self.run}. "
                + " ".join(self.made.detected.notes),
                "distcorr build-db warns which categories lack what",
            )
        papers = [category for category in PAPER if category in known]
        return list(asked) or list(dict.fromkeys((*papers, *known)))[:COUNT]

    def picture(self, instance: Instance) -> Picture:
        """(side, side, 3) what the grids show."""
        photograph = self._photograph(instance.image)
        return crop_square(photograph, self.store.framed(instance.box), _SIDE)

    def share(self, instance: Instance, xy: npt.ArrayLike) -> Floats:
        """(..., 2) px in the photograph -> shares of the picture."""
        return share(xy, self.store.framed(instance.box))

    def predicted(self, table: pa.Table, instance: Instance) -> Floats:
        """(K, 2) shares of the picture; NaN where nothing is predicted."""
        names = self.store.keypoint_names[instance.category]
        points = np.full((len(names), 2), np.nan)
        for row in _of(table, instance.id).to_pylist():
            if row["x"] is not None:
                points[names.index(row["keypoint"])] = row["x"], row["y"]
        return self.share(instance, points)


def _of(table: pa.Table, instance: str) -> pa.Table:
    return table.filter(pa.array([each == instance for each in table["instance"].to_pylist()]))


# -- score maps ----------------------------------------------------------------------------------


def _kept(sheet: _Sheet, category: str) -> list[dict[str, Map]]:
    """Layer -> its map, for some keypoints of the first instance that any layer keeps."""
    kept: dict[tuple[str, str], dict[str, Map]] = {}
    for layer in sheet.layers:
        if (layer, category) in sheet.made.etas:
            for each in sheet.made.detected.maps(layer, category):
                kept.setdefault((each.instance, each.keypoint), {})[layer] = each
    first = next((instance for instance, _ in kept), "")
    names = sheet.store.keypoint_names[category]
    types = [
        type_
        for (instance, type_), _ in kept.items()
        if instance == first and sheet.instances[first].visible[names.index(type_)]
    ]
    count = min(TYPES, len(types))
    types = [types[(2 * n + 1) * len(types) // (2 * count)] for n in range(count)]
    return [kept[first, type_] for type_ in types]


def _draw(canvas: Canvas, row: int, sheet: _Sheet, maps: dict[str, Map]) -> None:
    """One keypoint of one instance."""
    any_map = next(iter(maps.values()))
    instance, keypoint = sheet.instances[any_map.instance], any_map.keypoint
    k = sheet.store.keypoint_names[instance.category].index(keypoint)
    picture, truth = sheet.picture(instance), sheet.share(instance, instance.keypoints[k])

    def panel(column: int, title: str, heat: Floats, centres: Floats, side: int) -> None:
        at = responses.locate(heat[None, None], centres)[0, 0]
        canvas.picture(row, column, overlaid(picture, np.exp(heat), centres, side), title)
        canvas.mark(row, column, truth, "o")
        canvas.mark(row, column, (at + 0.5) / side, "x")

    canvas.picture(row, 0, picture, f"{instance.category}: {keypoint}")
    canvas.mark(row, 0, truth, "o")
    prior = _prior(any_map)
    title = "prior" if np.isfinite(any_map.mean).all() else "no prior"
    panel(1, title, prior, any_map.centres, any_map.side)
    for n, layer in enumerate(sheet.layers):
        column, found = 2 + 2 * n, maps.get(layer)
        if found is None or not np.isfinite(found.scores).any():
            for beside in (column, column + 1):
                canvas.picture(row, beside, picture, f"{layer}: not detected")
            continue
        eta, scores = sheet.made.etas[layer, instance.category], found.scores[None, None]
        for beside, title, weight in (
            (column, layer, 0.0),
            (column + 1, f"{sheet.title(layer)}, eta {eta:g}", eta),
        ):
            heat = responses.combine(scores, _prior(found)[None, None], weight)[0, 0]
            panel(beside, title, heat, found.centres, found.side)


def _prior(found: Map) -> Floats:
    """(rows, cols) its logarithm."""
    prior = responses.log_prior(found.mean[None, None], found.centres, found.sigma)
    return np.asarray(prior[0, 0])


def overlaid(picture: Picture, heat: Floats, centres: Floats, side: int) -> Picture:
    """A grey picture with values over it in colours, from their lowest to their highest.

    Args:
        picture: (S, S, 3) of a box.
        heat: (rows, cols) finite values at ``centres``.
        centres: (rows, cols, 2) px of the square; beyond their cells the picture is bare.
        side: px of the square that ``picture`` shows.
    """
    from matplotlib import colormaps

    grey = picture.mean(axis=2, keepdims=True).repeat(3, axis=2)
    low, high = heat.min(), heat.max()
    colours = colormaps["inferno"]((heat - low) / (high - low or 1))[..., :3] * 255
    pixel = (np.arange(len(picture)) + 0.5) * side / len(picture) - 0.5
    index, inside = zip(
        *(_nearest(pixel, along) for along in (centres[:, 0, 1], centres[0, :, 0])), strict=True
    )
    drawn = colours[np.ix_(*index)] * _HEAT + grey * (1 - _HEAT)
    there = inside[0][:, None, None] & inside[1][None, :, None]
    mixed: Picture = np.rint(np.where(there, drawn, grey)).astype(np.uint8)
    return mixed


def _nearest(pixel: Floats, along: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The position next to each pixel, and whether the pixel lies in its cell."""
    stride = np.diff(along).mean() if len(along) > 1 else np.inf
    index = np.abs(pixel[:, None] - along).argmin(axis=1)
    return index, np.abs(pixel - along[index]) <= stride / 2

"""What ``visualize`` leaves in a run: rebuilt photographs, averaged fields, and how good they are.

Of every layer ``queries-LAYER`` holds the cells that are looked for and ``found-LAYER`` their
neighbours in each piece of the data base. What a report needs is in ``errors`` (how far rebuilt
photographs are from their originals), ``pictures`` (Figure 1), ``averages`` (Figure 2), ``counts``
(the data base), ``copies`` (near copies, which were left out) and ``recall`` (what an approximate
search missed).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.data.classified import NOTES
from distcorr.data.run import StageFolder
from distcorr.errors import MISSING, DistcorrError

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

# Where patches come from: the nearest neighbours; Figure 1's baseline, places within the receptive
# field; any place of the data base (not in the paper).
NEIGHBOURS, UNIFORM, RANDOM = METHODS = ("neighbours", "uniform-rf", "random")
ORIGINAL = "original"

ERRORS = pa.schema(
    [
        *((name, pa.string()) for name in ("layer", "image", "method")),
        ("k", pa.int16()),
        *((name, pa.float64()) for name in ("psnr", "colour", "ssim")),
        *((name, pa.int32()) for name in ("cells", "short", "alike", "boxed")),
    ]
)
PICTURES = pa.schema(
    [
        *((name, pa.string()) for name in ("layer", "image", "method")),
        *((name, pa.int16()) for name in ("k", "height", "width")),
        ("pixels", pa.binary()),  # rows of RGB
    ]
)
AVERAGES = pa.schema(
    [
        ("layer", pa.string()),
        ("place", pa.int16()),
        ("image", pa.string()),
        *((name, pa.int16()) for name in ("row", "col")),
        ("method", pa.string()),
        *((name, pa.int16()) for name in ("k", "side")),
        ("found", pa.int32()),
        ("ratio", pa.float64()),
        ("profile", pa.list_(pa.float64())),
        ("mean", pa.list_(pa.float32())),  # side x side x RGB; null for those that are only counted
        ("crop", pa.binary()),  # likewise: the random cell's own field
    ]
)
COUNTS = pa.schema(
    [
        ("layer", pa.string()),
        *((name, pa.int64()) for name in ("cells", "zeros", "whole")),
        *((name, pa.int32()) for name in ("stride", "rf", "field", "photographs")),
    ]
)
COPIES = pa.schema(
    [*((name, pa.string()) for name in ("image", "other")), ("agreement", pa.float64())]
)
RECALL = pa.schema(
    [("layer", pa.string()), ("k", pa.int16()), ("queries", pa.int32()), ("recall", pa.float64())]
)


class Rebuilt(NamedTuple):
    """One photograph, rebuilt from k patches a cell; NaN where nothing can be compared.

    Attributes:
        layer: whose cells and whose receptive field.
        image: the photograph.
        method: one of ``METHODS``.
        k: patches that are averaged.
        psnr: dB.
        colour: mean absolute difference, levels of 255.
        ssim: structural similarity, at most 1.
        cells: of the photograph.
        short: of them had fewer than k neighbours.
        alike: patches centred in a box of a category that the cell itself lies in a box of.
        boxed: patches of cells that lie in a box at all.
    """

    layer: str
    image: str
    method: str
    k: int
    psnr: float
    colour: float
    ssim: float
    cells: int
    short: int
    alike: int
    boxed: int


class Average(NamedTuple):
    """The mean receptive field of a random cell's k neighbours (Figure 2).

    Attributes:
        layer: of the cell.
        place: number of the random cell, from 0; the same place in every layer is one photograph.
        image: where it is.
        row: of the cell.
        col: likewise.
        method: ``NEIGHBOURS`` or ``RANDOM``.
        k: asked for.
        side: px of the field.
        found: fields that were averaged; fewer than k where there were no more.
        ratio: spread in the centre over that in the periphery; NaN where it cannot be told.
        profile: (R,) spread at 0, 1, ... px from the centre; NaN where there is no pixel.
        mean: (side, side, 3) before its contrast is expanded; None if it was not kept.
        crop: (side, side, 3) the random cell's own field; likewise.
    """

    layer: str
    place: int
    image: str
    row: int
    col: int
    method: str
    k: int
    side: int
    found: int
    ratio: float
    profile: Floats
    mean: npt.NDArray[np.float32] | None
    crop: Picture | None


class Base(NamedTuple):
    """The data base of one layer.

    Attributes:
        cells: that patches are taken from.
        zeros: further cells whose feature is zero; they have no cosine and are left out.
        whole: of ``cells``, those whose receptive field may be averaged.
        stride: px, the side of a patch.
        rf: px, side of the theoretical receptive field.
        field: px, side of what is averaged: rf, or the whole picture where that is smaller.
        photographs: that the cells are from.
    """

    cells: int
    zeros: int
    whole: int
    stride: int
    rf: int
    field: int
    photographs: int


class Visualized:
    """The pictures and numbers of a finished ``visualize``.

    Attributes:
        layers: in the order of the plan.
        images: photographs that were rebuilt, in the order drawn.
        shown: of them those whose pictures were kept.
        rebuilt: every photograph, layer, method and k.
        bases: layer -> its data base.
        copies: photograph -> its near copies in the data base, which were left out.
        recall: layer -> k -> share of the exact neighbours that were found; {} for exact search.
        notes: what a reader must know before quoting a number.
    """

    def __init__(self, stage: StageFolder) -> None:
        """
        Args:
            stage: ``visualize``, finished.

        Raises:
            DistcorrError: a part is missing or damaged.
        """
        self._stage = stage
        self._kept: dict[str, pa.Table] = {}
        self.notes: list[str] = (
            list(stage.folder.read_json(NOTES)) if stage.folder.exists(NOTES) else []
        )
        self.bases: dict[str, Base] = _bases(self._rows("counts"))
        self.layers: list[str] = list(self.bases)
        self.rebuilt: list[Rebuilt] = [
            Rebuilt(**{name: _number(value) for name, value in row.items()})
            for row in self._rows("errors")
        ]
        self.images: list[str] = list(dict.fromkeys(each.image for each in self.rebuilt))
        kept = self._rows("pictures", ("layer", "image", "method", "k"))
        self._pictures = {tuple(row.values()): place for place, row in enumerate(kept)}
        there = {image for _, image, _, _ in self._pictures}
        self.shown: list[str] = [image for image in self.images if image in there]
        self.copies: dict[str, list[str]] = {}
        for row in self._rows("copies"):
            self.copies.setdefault(row["image"], []).append(row["other"])
        self.recall: dict[str, dict[int, float]] = _recall(self._rows("recall"))

    def picture(self, layer: str, image: str, method: str, k: int) -> Picture:
        """(H, W, 3) a rebuilt photograph; ``ORIGINAL`` of layer "" and k 0 is the photograph.

        A network of one input size sees a square, and so is what is rebuilt by it.

        Raises:
            DistcorrError: that picture was not kept.
        """
        place = self._pictures.get((layer, image, method, k))
        if place is None:
            raise DistcorrError(
                f"No picture of {image} by {layer} ({method}, k = {k}) was kept.",
                "visualize.shown and visualize.images say which are",
                MISSING,
            )
        for name in self._stage.parts("pictures"):
            if name not in self._kept:  # a few photographs; each is asked for many times
                self._kept[name] = self._stage.folder.read_table(name)
            table = self._kept[name]
            if place < len(table):
                row = table.slice(place, 1).to_pylist()[0]
                flat: Picture = np.frombuffer(row["pixels"], np.uint8)
                return flat.reshape(row["height"], row["width"], 3)
            place -= len(table)
        raise DistcorrError("A part of visualize is gone.", "distcorr visualize", MISSING)

    def averages(self) -> Iterator[Average]:
        """Every averaged field, layer by layer."""
        for row in self._rows("averages"):
            side, mean, crop = row["side"], row.pop("mean"), row.pop("crop")
            shape = (side, side, 3)
            profile: Floats = np.array(
                [np.nan if v is None else v for v in row.pop("profile")], np.float64
            )
            yield Average(
                **{name: _number(value) for name, value in row.items()},
                profile=profile,
                mean=None if mean is None else np.array(mean, np.float32).reshape(shape),
                crop=None if crop is None else np.frombuffer(crop, np.uint8).reshape(shape),
            )

    def _rows(self, table: str, columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
        tables = self._stage.folder.iter_tables(self._stage.parts(table), columns)
        return [row for part in tables for row in part.to_pylist()]


def _number(value: Any) -> Any:
    """NaN is null in a table."""
    return np.nan if value is None else value


def _bases(rows: list[dict[str, Any]]) -> dict[str, Base]:
    """Pieces of a data base together; what says where its cells lie is the same in all."""
    bases: dict[str, Base] = {}
    for row in rows:
        layer = row.pop("layer")
        piece, old = Base(**row), bases.get(layer)
        if old is not None:
            counted = ("cells", "zeros", "whole", "photographs")
            sums = {name: getattr(piece, name) + getattr(old, name) for name in counted}
            piece = piece._replace(**sums)
        bases[layer] = piece
    return bases


def _recall(rows: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Means over all queries that were asked exactly as well."""
    hits: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        recall = _number(row["recall"])
        if np.isnan(recall):
            continue  # none of these has a neighbour: photographs that are missing, or all zero
        of_k = hits.setdefault(row["layer"], {}).setdefault(row["k"], [0.0, 0.0])
        of_k[0] += row["queries"] * recall
        of_k[1] += row["queries"]
    return {
        layer: {k: total / count for k, (total, count) in of_layer.items()}
        for layer, of_layer in hits.items()
    }

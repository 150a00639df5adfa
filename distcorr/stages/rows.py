"""Rows of a feature table, gathered picture by picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from distcorr.data.run import DeadLetter
from distcorr.data.store import CELLS, OF_INSTANCES, OF_PHOTOGRAPHS, HalfArray, feature_table
from distcorr.stages.features import Wanted
from distcorr.types import FloatArray

_XY = {"x": pa.float32(), "y": pa.float32()}  # px in the photograph
_KEYS: dict[str, dict[str, pa.DataType]] = {
    **{kind: {"id": pa.string()} for kind in OF_INSTANCES},
    "points": {"id": pa.string(), "keypoint": pa.string(), **_XY},
    **{
        kind: {
            "image": pa.string(),
            **{name: pa.int16() for name in ("row", "col", "height", "width")},
            **_XY,
        }
        for kind in CELLS
    },
}


@dataclass
class Rows:
    """Rows of one table, and the items that have none.

    Attributes:
        wanted: what the table is.
        dead: items that could not be processed.
    """

    wanted: Wanted
    dead: list[DeadLetter] = field(default_factory=list)
    _pieces: dict[int, tuple[Mapping[str, Any], HalfArray]] = field(default_factory=dict)

    def add_instances(self, ids: list[str], images: list[str], values: FloatArray) -> None:
        """A row per instance; those that are not finite become dead letters."""
        half = to_half(values)
        fine = finite(half.reshape(len(ids), -1)).all(axis=1)
        for broken in np.flatnonzero(~fine):
            self.dead.append(self._not_finite(ids[broken], images[broken]))
        self._pieces[0] = {"id": [ids[i] for i in np.flatnonzero(fine)]}, half[fine]

    def add_photograph(
        self, place: int, image: str, keys: Mapping[str, Any], values: FloatArray
    ) -> None:
        """The rows of a photograph, in the table at its place; none if one is not finite."""
        half = to_half(values)
        if not finite(half).all():
            self.dead.append(self._not_finite(image, image))
            return
        self._pieces[place] = keys, half

    def table(self) -> pa.Table:
        """The table, also of no rows."""
        kind = self.wanted.feature.kind
        empty = np.zeros((0, *_shape(self.wanted)), np.float16)
        pieces = [self._pieces[place] for place in sorted(self._pieces)]
        values = np.concatenate([values for _, values in pieces]) if pieces else empty
        keys = {
            name: pa.array([key for piece, _ in pieces for key in piece[name]], of)
            for name, of in _KEYS[kind].items()
        }
        geometry = self.wanted.geometry if kind in ("grids", "grids500") else None
        return feature_table(self.wanted.feature, keys, values, geometry)

    def _not_finite(self, item: str, image: str) -> DeadLetter:
        whose = f"{self.wanted.feature.layer} of {self.wanted.source.name}"
        return DeadLetter(item, image, f"{whose} is not finite, or too large for float16")


def _shape(wanted: Wanted) -> tuple[int, ...]:
    """Shape of one row's value, for a table without rows."""
    channels = wanted.source.channels(wanted.tap)
    if wanted.feature.kind in OF_PHOTOGRAPHS:
        return (channels,)
    if wanted.feature.kind == "vectors":
        return ()
    return (wanted.geometry.cells, wanted.geometry.cells, channels)


def to_half(values: FloatArray) -> HalfArray:
    """As float16; what is too large becomes infinite. Torch is ten times as fast as numpy here."""
    half: HalfArray = torch.from_numpy(np.ascontiguousarray(values)).half().numpy()
    return half


def finite(half: HalfArray) -> npt.NDArray[np.bool_]:
    """``np.isfinite``, five times as fast: an exponent of ones means infinite or NaN."""
    return np.asarray((half.view(np.uint16) & 0x7C00) != 0x7C00)

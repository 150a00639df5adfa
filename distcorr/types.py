"""The nouns that every layer shares.

One pixel convention holds everywhere: coordinates are ``xy``, in pixels, 0-based, and a pixel's
centre lies at the integer. A cell is indexed ``(row, col)``; its centre lies at
``offset + stride * (col, row)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


class Box(NamedTuple):
    """A box by the centres of its first and last pixel, 0-based px: VOC's ``xmin - 1`` etc."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Number of pixel columns covered, both ends included (px)."""
        return self.x1 - self.x0 + 1

    @property
    def height(self) -> float:
        """Number of pixel rows covered, both ends included (px)."""
        return self.y1 - self.y0 + 1

    @property
    def max_side(self) -> float:
        """PCK's ``max(h, w)``, in px: ``max(xmax - xmin, ymax - ymin)``."""
        return max(self.x1 - self.x0, self.y1 - self.y0)


@dataclass(frozen=True, eq=False, slots=True)
class Instance:
    """One annotated object: the unit that features are extracted for.

    Attributes:
        id: unique and stable, ``"2008_000123#0"`` for the first object of that VOC annotation.
        image: path of the photograph relative to the data set's root, with forward slashes.
        category: for example ``"bird"``.
        split: ``"train"`` or ``"val"``.
        box: the object's box in the photograph.
        keypoints: (K, 2) float32 xy px in the photograph; NaN where absent. K and the order are
            the category's keypoint types (``Dataset.keypoint_names``).
        visible: (K,) bool.
        truncated: whether the object goes on beyond its box; None where the annotations do not say.
    """

    id: str
    image: str
    category: str
    split: str
    box: Box
    keypoints: FloatArray
    visible: BoolArray
    truncated: bool | None = None


@dataclass(frozen=True)
class Dataset:
    """Instances in a fixed order, with what was noticed while reading them.

    Attributes:
        name: for the tables' stamp, for example ``"voc-photos"``.
        root: path or URI that ``Instance.image`` is relative to.
        instances: sorted by (category, split, id).
        keypoint_names: category -> its K keypoint types in column order.
        warnings: one sentence each: what was dropped or looks wrong, with counts and names.
    """

    name: str
    root: str
    instances: tuple[Instance, ...]
    keypoint_names: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...] = ()


class Geometry(NamedTuple):
    """Where the cells of a feature grid lie in the square input, all in px (paper, Table 1)."""

    input_size: int
    stride: int
    offset: float  # centre of cell (0, 0) on both axes
    rf: int  # side of the theoretical receptive field
    cells: int  # grid side: the grid is cells x cells for an input_size x input_size input

    def centres(self) -> npt.NDArray[np.float64]:
        """(cells,) px position of the cell centres along one axis."""
        return self.offset + self.stride * np.arange(self.cells, dtype=np.float64)

    def cell(self, position: npt.ArrayLike) -> npt.NDArray[np.intp]:
        """Px along one axis -> nearest cell along it; ties go to the lower index."""
        index = np.ceil((np.asarray(position, np.float64) - self.offset) / self.stride - 0.5)
        return np.clip(index, 0, self.cells - 1).astype(np.intp)

    def nearest(self, xy: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
        """(..., 2) px xy -> (..., 2) (row, col) of the nearest cell; ties go to the lower index."""
        return self.cell(xy)[..., ::-1]


class Flow(NamedTuple):
    """Displacement field from a source grid to a target grid (paper, section 3).

    Attributes:
        displacement: (H, W, 2) int16 (dx, dy) in cells: source cell p goes to target cell p + w(p).
        data_energy: sum over p of ``||f_s(p) - f_t(p + w(p))||``, unsquared.
        deformation_energy: sum over 4-neighbour edges of ``||w(p) - w(q)||^2`` in cells^2,
            without beta; neighbours are ordered by it.
    """

    displacement: npt.NDArray[np.int16]
    data_energy: float
    deformation_energy: float

    def energy(self, beta: float) -> float:
        """The energy of section 3: data + beta * deformation."""
        return self.data_energy + beta * self.deformation_energy

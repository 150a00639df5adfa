"""Two views of the user's, aligned: where every point of one lies in the other.

The alignment is that of section 3; what is not in the paper is the check of it: every point is
carried on to B and back by the alignment of B with A, and the distance from where it set out tells
how far the two agree. Where the features say nothing both alignments stand still and agree as well,
so the similarity of what is matched counts beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.crop import crop_square, from_square, to_square
from distcorr.algorithms.flow import energy, unit_norm
from distcorr.algorithms.transfer import Displacement, Points, push, upsample, warp
from distcorr.types import Box, FloatArray, Flow, Geometry

LITTLE = 0.1  # mean cosine below which features have nothing in common; not in the paper


class View(NamedTuple):
    """A box in a photograph.

    Attributes:
        name: of the photograph, for people.
        photograph: (H, W, 3) uint8 RGB.
        box: px in it.
    """

    name: str
    photograph: npt.NDArray[np.uint8]
    box: Box

    def square(self, side: int) -> npt.NDArray[np.uint8]:
        """(side, side, 3) uint8: the box as features see it."""
        return crop_square(self.photograph, self.box, side)


@dataclass(frozen=True, eq=False)
class Match:
    """Two views and the alignment of the first, A, with the second, B.

    Attributes:
        a: the test view; its cells are the source of ``flow``.
        b: the neighbour.
        feature: layer that was aligned.
        geometry: of the grids of both.
        beta: weight of the deformation, per cell^2.
        flow: from A's cells to B's.
        back: from B's cells to A's.
        standing_still: the energy of w = 0.
        points: (n, 2) xy px in A's photograph.
        landings: (n, 2) xy px in B's photograph: where the points lie there.
        returns: (n, 2) xy px in A's photograph: where ``back`` carries the landings.
        similarity: (n,) cosine of the features at the cells nearest to point and landing.
        on_grid: whether the points are the cells' centres, row by row.
    """

    a: View
    b: View
    feature: str
    geometry: Geometry
    beta: float
    flow: Flow
    back: Flow
    standing_still: float
    points: Points
    landings: Points
    returns: Points
    similarity: Points
    on_grid: bool

    @property
    def cycle_error(self) -> Points:
        """(n,) px in A's photograph between a point and where it returns to."""
        return _length(self.returns - self.points)

    @property
    def evidence(self) -> bool:
        """Whether what is matched is alike at all; else agreement means nothing."""
        return bool(np.mean(self.similarity) >= LITTLE)

    @property
    def cycle_cells(self) -> Points:
        """(n,) the same distance in cells."""
        side, box = self.geometry.input_size, self.a.box
        apart = to_square(self.returns, box, side) - to_square(self.points, box, side)
        return _length(apart) / self.geometry.stride

    @property
    def displacement(self) -> Points:
        """(S, S, 2) displacement of every pixel of A's square, px of the square."""
        return upsample(self.flow.displacement, self.geometry)

    @property
    def warped(self) -> npt.NDArray[np.uint8]:
        """(S, S, 3) uint8: B's square warped onto A's."""
        square = self.b.square(self.geometry.input_size)
        return warp(square, self.flow.displacement, self.geometry)


def match(
    a: View,
    b: View,
    grids: FloatArray,
    geometry: Geometry,
    align: Callable[[FloatArray, FloatArray], Flow],
    beta: float,
    *,
    feature: str = "",
    points: Points | None = None,
) -> Match:
    """Align two views by their features, and carry points from the first to the second.

    Args:
        a: the test view.
        b: the neighbour.
        grids: (2, cells, cells, C) float32 features of both squares, normalised as wanted.
        geometry: of the grids.
        align: `distcorr.algorithms.flow.align` with this beta and further options.
        beta: weight of the deformation, per cell^2.
        feature: what the features are called.
        points: (n, 2) xy px in A's photograph; the centres of all cells if not given.

    Raises:
        ValueError: as `align`; or points are not (n, 2).
    """
    source, target = grids
    flow, back = align(source, target), align(target, source)
    still = energy(source, target, np.zeros_like(flow.displacement), beta)
    side, on_grid = geometry.input_size, points is None
    start = _cell_centres(geometry) if points is None else to_square(points, a.box, side)
    landing = follow(start, flow.displacement, geometry)
    returned = follow(landing, back.displacement, geometry)
    cells = geometry.nearest(start), geometry.nearest(landing)
    at_a, at_b = (
        unit_norm(grid[cell[:, 0], cell[:, 1]]) for grid, cell in zip(grids, cells, strict=True)
    )
    return Match(
        a=a,
        b=b,
        feature=feature,
        geometry=geometry,
        beta=beta,
        flow=flow,
        back=back,
        standing_still=still[0] + beta * still[1],
        points=from_square(start, a.box, side),
        landings=from_square(landing, b.box, side),
        returns=from_square(returned, a.box, side),
        similarity=np.einsum("ij,ij->i", at_a, at_b, dtype=np.float64),
        on_grid=on_grid,
    )


def follow(points: Points, displacement: Displacement, geometry: Geometry) -> Points:
    """Where points of the source square lie in the target square, and never beyond its border.

    Args:
        points: (n, 2) xy px in the source square.
        displacement: (cells, cells, 2) in cells.
        geometry: of both grids.

    Returns:
        (n, 2) xy px, kept within the target square.

    Raises:
        ValueError: points are not (n, 2), displacement is not (cells, cells, 2).
    """
    landing: Points = np.clip(push(points, displacement, geometry), -0.5, geometry.input_size - 0.5)
    return landing


def _cell_centres(geometry: Geometry) -> Points:
    """(cells^2, 2) xy px, row by row."""
    x, y = np.meshgrid(geometry.centres(), geometry.centres())
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _length(xy: Points) -> Points:
    length: Points = np.hypot(xy[..., 0], xy[..., 1])
    return length

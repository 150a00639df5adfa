"""Where features come from: a network's layers, SIFT, or an extractor of the user's, in one shape.

A layer is called "conv4" if it is the network's; "sift20" or "dsift8" for SIFT of a radius at the
convnet's cells, or on its own dense grid; "my_file:MyNet" for an extractor (``plugins``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from distcorr.algorithms import nets, plugins
from distcorr.algorithms.sift import Sift
from distcorr.types import FloatArray, Geometry

Images = npt.NDArray[np.uint8]
VECTOR_CELLS = 7  # most cells a side that a global descriptor keeps; not in the paper
_SIFT = re.compile(r"d?sift\d+")
_conv4 = partial(nets.geometry, nets.CAFFENET, "conv4")


class Source(Protocol):
    """What gives features of images.

    Attributes:
        name: for people and for error messages.
        input_size: side in px of the square that boxes are stretched to.
        any_size: whether it takes images of any height and width; else only that square.
    """

    name: str
    input_size: int
    any_size: bool

    @property
    def taps(self) -> tuple[str, ...]:
        """What it gives, shallow to deep."""

    def require(self, tap: str) -> None:
        """DistcorrError if ``tap`` is not available."""

    def channels(self, tap: str) -> int:
        """Number of channels of a tap."""

    def geometry(self, tap: str, size: int | None = None) -> Geometry:
        """Cells along an axis of ``size`` px; DistcorrError if it is too short for one."""

    def __call__(self, images: Images, taps: Sequence[str]) -> dict[str, FloatArray]:
        """(B, H, W, 3) uint8 RGB -> tap -> (B, h, w, C) float32, or (B, C)."""

    def columns(
        self, image: Images, xy: npt.NDArray[np.floating], taps: Sequence[str]
    ) -> dict[str, FloatArray]:
        """(H, W, 3) uint8 RGB and (n, 2) px xy -> tap -> (n, C) float32."""

    def identity(self, tap: str) -> Mapping[str, Any]:
        """JSON: everything that the values of a tap depend on besides the image."""


class Sources:
    """The sources of one configuration; extractors are loaded once, when first asked for."""

    def __init__(self, network: Source, device: str = "cpu", known_as: str = "") -> None:
        """
        Args:
            network: where plain layer names come from.
            device: "cpu", "cuda" or "cuda:1", for extractors.
            known_as: the name by which ``network`` was loaded, if it is an extractor itself.
        """
        self.network = network
        self.sift = Sift(_conv4)
        self._device = device
        self._plugins: dict[str, Source] = {known_as: network} if known_as else {}

    def find(self, layer: str) -> tuple[Source, str]:
        """The source of a layer and the tap's name there.

        Raises:
            DistcorrError: there is no such layer.
        """
        if _SIFT.fullmatch(layer):
            self.sift.require(layer)
            return self.sift, layer
        if is_extractor(layer):
            if layer not in self._plugins:
                self._plugins[layer] = plugins.load(layer, self._device)
            return self._plugins[layer], self._plugins[layer].taps[0]
        if re.match(r"d?sift", layer):
            self.sift.require(layer)  # says how such names are written
        self.network.require(layer)
        return self.network, layer

    def align_sift(self, source: Source, tap: str) -> None:
        """Let SIFT look where the cells of ``tap`` lie (paper, section 3: alike for both)."""
        self.sift = Sift(_lattice(source, tap))


def _lattice(source: Source, tap: str) -> Callable[[int], Geometry]:
    if source.any_size and not isinstance(source, Sift):
        return partial(source.geometry, tap)

    def lattice(size: int) -> Geometry:
        # Of other sizes such a source knows nothing, so the paper's cells stand in.
        return source.geometry(tap, size) if size == source.input_size else _conv4(size)

    return lattice


def is_extractor(name: str) -> bool:
    """Whether a name is one of the user's extractors: "module:attribute", or an entry point."""
    return ":" in name or name in {point.name for point in entry_points(group=plugins.GROUP)}


def to_vector(values: FloatArray) -> FloatArray:
    """Global descriptors (B, D) from grids (B, h, w, C) or vectors (B, C).

    They keep the layout, as fc7 does: a descriptor pooled over the whole box finds neighbours that
    face the other way. Grids of more than ``VECTOR_CELLS`` a side are average-pooled to that.
    """
    if values.ndim == 4 and max(values.shape[1:3]) > VECTOR_CELLS:
        grid = torch.from_numpy(values).permute(0, 3, 1, 2)
        pooled = torch.nn.functional.adaptive_avg_pool2d(grid, VECTOR_CELLS)
        values = pooled.permute(0, 2, 3, 1).contiguous().numpy()
    return values.reshape(len(values), -1)

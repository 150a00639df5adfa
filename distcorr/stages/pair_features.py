"""Features of the photographs that pairs are of: where they come from, each made once a shard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from distcorr.algorithms.batches import in_batches
from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Images, Source, Sources, is_extractor
from distcorr.config import Config, digest
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.data.weights import Weights
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import describe
from distcorr.stages.features import load_network, wishes
from distcorr.stages.match import grid_geometry
from distcorr.stages.photograph import device
from distcorr.stages.pictures import ahead
from distcorr.types import Box, FloatArray, Geometry

VERSION = 1  # of how photographs become grids here
_SIFT = re.compile(r"d?sift\d+")
_READERS = 2  # threads that read and decode photographs

Unit = tuple[str, Box | None]  # a photograph, and the box in it; None: all of it
_found: dict[str, Layer] = {}  # of this process: the network is loaded once


@dataclass(frozen=True, eq=False)
class Layer:
    """A feature that pairs are matched by.

    Attributes:
        name: for tables: "conv4".
        source: where it comes from.
        tap: its name there.
        label: whose features they are.
        geometry: of a photograph's grid.
        identity: digest of all that its values depend on besides the photograph.
    """

    name: str
    source: Source
    tap: str
    label: str
    geometry: Geometry
    identity: str

    @property
    def alone(self) -> bool:
        """Whether it needs no network, and so no GPU."""
        return isinstance(self.source, Sift)

    def bytes_of(self, photographs: int) -> int:
        """About what so many take in memory: their squares, their grids and a copy of these."""
        side, cells = self.geometry.input_size, self.geometry.cells
        grid = 4 * cells**2 * self.source.channels(self.tap)
        return photographs * (3 * side**2 + 2 * grid)


@dataclass(frozen=True, eq=False, slots=True)
class Seen:
    """What there is of a unit.

    Attributes:
        size: width and height of the photograph, px.
        box: that the square shows, px.
        square: (side, side, 3) uint8.
    """

    size: tuple[int, int]
    box: Box
    square: Images


def network_for(names: Iterable[str], config: Config) -> Weights | None:
    """The weights that some of the layers need; None if they need none.

    Raises:
        DistcorrError: as ``load_network``.
    """
    names = [config.features.conv if name == "auto" else name for name in names]
    needed = any(not (_SIFT.fullmatch(name) or is_extractor(name)) for name in names)
    return load_network(config.features) if needed else None


def layer_of(name: str, config: Config, weights: Weights | None) -> Layer:
    """A layer, as `match` has it: whatever else is asked for plays no part.

    Raises:
        DistcorrError: there is no such layer, or ``pairs.side`` does not suit it.
    """
    key = digest([name, config.pairs.side, vars(config.features), weights and weights.sha256])
    if key not in _found:
        _found.clear()  # one network at a time in memory
        _found[key] = _layer(name, config, weights)
    return _found[key]


def _layer(name: str, config: Config, weights: Weights | None) -> Layer:
    name = config.features.conv if name == "auto" else name
    source, tap, label = _source(name, config, weights)
    try:
        geometry = grid_geometry(source, tap, config.pairs.side or source.input_size)
    except DistcorrError as error:
        hint = "--set pairs.side=0 is the layer's own side; or choose another layer"
        raise DistcorrError(error.message, hint, error.exit_code) from error
    made: list[Any] = [VERSION, source.identity(tap), list(geometry)]
    if not isinstance(source, Sift):
        made.append(config.features.batch)  # the last bits of a product may depend on it
    return Layer(tap, source, tap, label, geometry, digest(made)[:16])


def _source(name: str, config: Config, weights: Weights | None) -> tuple[Source, str, str]:
    if _SIFT.fullmatch(name):
        source, tap = Sources(Sift()).find(name)
        return source, tap, source.name
    features = replace(config.features, conv=name, grids=(), grids500=(), points=(), cells=())
    if is_extractor(name):  # which stands in for a network
        features, weights = replace(features, network=name, weights="", vector="auto"), None
    config = replace(
        config,
        features=features,
        flow=replace(config.flow, features=("auto",), side=0),
        classify=replace(config.classify, layers=()),
        visualize=replace(config.visualize, layers=("auto",)),
    )
    _deterministic()
    wanted = wishes(config, weights, device()).wanted[0]
    return wanted.source, wanted.tap, wanted.feature.label


def _deterministic() -> None:
    import torch

    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as on a CPU


def looked_at(
    folder: Folder, units: Sequence[Unit], checksums: dict[str, str], side: int
) -> dict[Unit, Seen | str]:
    """What each unit shows, or why it shows nothing.

    Raises:
        OSError: the storage does not answer, or a photograph has changed; another try may succeed.
    """

    def look(unit: Unit) -> Seen | str:
        image, box = unit
        try:
            photograph = read_image(folder, image, checksums[image])
            height, width = photograph.shape[:2]
            shown = Box(0, 0, width - 1, height - 1) if box is None else box
            return Seen((width, height), shown, crop_square(photograph, shown, side))
        except (DistcorrError, ValueError) as error:
            return describe(error)

    with ThreadPoolExecutor(_READERS) as threads:
        return dict(zip(units, ahead(threads, look, units), strict=True))


def grids_of(layer: Layer, seen: dict[Unit, Seen | str], batch: int) -> dict[Unit, FloatArray]:
    """(cells, cells, C) float32 of every unit that shows something."""
    shown = {unit: found.square for unit, found in seen.items() if not isinstance(found, str)}
    grids = in_batches(layer.source, list(shown.values()), (layer.tap,), batch)[layer.tap]
    return dict(zip(shown, grids, strict=True))

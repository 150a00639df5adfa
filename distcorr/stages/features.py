"""Which features a configuration asks for, and where each comes from."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from distcorr.algorithms import extractors, plugins
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Source, Sources, is_extractor
from distcorr.config import Config, FeaturesConfig, digest
from distcorr.data.store import CELLS, GRIDS, OF_INSTANCES, Feature
from distcorr.data.weights import Weights, load_weights
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

VERSION = 1  # of everything that turns photographs into values outside the sources
OF_CELLS = 2  # the same, of cells in whole photographs
LARGE = 500  # px, paper section 5


@dataclass(frozen=True, eq=False)
class Wanted:
    """A feature, and how to get it.

    Attributes:
        feature: what it is called and how it is made.
        source: where it comes from.
        tap: its name there.
        side: px of the square that the source sees; 0: photographs as they are.
        context: share of the square that is kept around the box, on each side.
    """

    feature: Feature
    source: Source
    tap: str
    side: int
    context: float = 0.0

    @property
    def geometry(self) -> Geometry:
        """Where the cells lie in the square."""
        return self.source.geometry(self.tap, self.side)


@dataclass(frozen=True)
class Wishes:
    """Everything that one configuration asks for.

    Attributes:
        wanted: one entry per table; the first two are what is aligned and what finds neighbours.
        conv: layer that is aligned.
        vector: layer that neighbours are found by.
        names: layers whose table has another name than they were asked for by: "my_feats:Edges".
    """

    wanted: tuple[Wanted, ...]
    conv: str
    vector: str
    names: dict[str, str]


def load_network(config: FeaturesConfig) -> Weights | None:
    """The weights that the configuration names; None where extractors need none.

    Raises:
        DistcorrError: as ``load_weights``.
    """
    if _own_extractor(config):
        return None
    return load_weights(config.weights, config.network, config.weights_sha256)


def _own_extractor(config: FeaturesConfig) -> str:
    """The user's extractor that stands in for a network; "" if there is a network."""
    if is_extractor(config.network):
        return config.network
    alone = config.network == "auto" and not config.weights
    return config.conv if alone and is_extractor(config.conv) else ""


def wishes(config: Config, weights: Weights | None, device: str = "cpu") -> Wishes:
    """Resolve the layers of a configuration; the same in the driver and in every worker.

    Raises:
        DistcorrError: a layer that is not there, or one that cannot be had for its purpose.
    """
    features = config.features
    sources = _sources(config, weights, device)
    network = sources.network
    stands_in = ("auto", _own_extractor(features))
    conv = _declared(network, "grid")[0] if features.conv in stands_in else features.conv
    vector = _declared(network, "vector")[0] if features.vector in stands_in else features.vector
    source, tap = sources.find(conv)
    sources.align_sift(source, tap)
    asked = [("grids", conv), ("vectors", vector)]
    for kind, layers, purpose in (
        ("grids", features.grids, "grid"),
        ("grids500", features.grids500, "large"),
        ("points", features.points, "columns_of"),
        ("cells", features.cells, "cells"),
    ):
        for layer in layers:
            named = _declared(network, purpose) if layer == "auto" else (layer,)
            asked += [(kind, each) for each in named]
    boxes = "grids500" if config.flow.side else "grids"
    asked += [(boxes, conv if layer == "auto" else layer) for layer in config.flow.features]
    asked += [("points", layer) for layer in config.classify.layers]
    own = [layer for kind, layer in asked if kind == "cells"]
    seen = [e for layer in config.visualize.layers for e in (own if layer == "auto" else [layer])]
    asked += [(kind, e) for e in seen for kind in CELLS[: 1 + config.visualize.mirrored]]
    label = network.name if weights is None else weights.label
    if features.control != "none":
        label += " SHUFFLED (control)"
    side = source.input_size
    if 2 * features.context >= side:
        raise DistcorrError(
            f"features.context must leave something of {side} px to the box, got "
            f"{features.context} px on each side.",
            "--set features.context=16 is R-CNN's, 0 the paper's",
        )
    # By what it is and not by what it was called: an extractor has a long and a short name.
    distinct: dict[tuple[str, Source, str], str] = {}
    for kind, layer in asked:
        distinct.setdefault((kind, *sources.find(layer)), layer)
    found = [
        _wanted(kind, layer, sources, side, config, label)
        for (kind, _, _), layer in distinct.items()
    ]
    twice = [n for n, count in Counter(w.feature.name for w in found).items() if count > 1]
    if twice:
        raise DistcorrError(
            f"Two layers would be called {twice[0]}.", "give one of the extractors another name"
        )
    taps = {layer: _slug(sources.find(layer)[1]) for _, layer in asked}
    names = {layer: name for layer, name in taps.items() if name != layer}
    return Wishes(tuple(found), tap, sources.find(vector)[1], names)


def dense_sift(config: Config, layer: str) -> Wanted:
    """Dense SIFT on squares of 500 px (section 5), which needs no network.

    What of the photograph the square shows is not part of it: boxes may have context around them.
    """
    config = replace(config, features=replace(config.features, context=0))
    return _wanted("grids500", layer, Sources(Sift()), LARGE, config, "")


def _declared(network: Source, purpose: str) -> tuple[str, ...]:
    """Layers that a network declares for a purpose; an extractor has one, for all but large."""
    otherwise = () if purpose == "large" else network.taps[:1]
    found: str | tuple[str, ...] = getattr(network, purpose, otherwise)
    return (found,) if isinstance(found, str) else found


def _sources(config: Config, weights: Weights | None, device: str) -> Sources:
    features = config.features
    if weights is None:
        if features.control != "none":
            raise DistcorrError(
                f"features.control={features.control} shuffles the weights of a network, and "
                f"{_own_extractor(features)} keeps its own.",
                "leave features.control out, or write a second extractor with shuffled weights",
            )
        name = _own_extractor(features)
        return Sources(plugins.load(name, device), device, known_as=name)
    arrays = weights.arrays
    made: dict[str, Any] = {"weights_sha256": weights.sha256}
    if features.control == "shuffled-weights":
        arrays = extractors.shuffled(arrays, config.seed)
        made |= {"control": features.control, "seed": config.seed}
    network = extractors.build(
        weights.network, arrays, device, precision=features.precision, provenance=made
    )
    return Sources(network, device)


def _wanted(
    kind: str, layer: str, sources: Sources, boxes: int, config: Config, label: str
) -> Wanted:
    source, tap = sources.find(layer)
    whose = label if source is sources.network else source.name
    is_sift = isinstance(source, Sift)
    if kind in OF_INSTANCES:
        side = LARGE if kind == "grids500" else boxes if is_sift else source.input_size
    else:
        side = 0 if source.any_size else source.input_size
    if side == LARGE != source.input_size and not source.any_size:
        raise DistcorrError(
            f"{layer} of {source.name} sees {source.input_size} px only, and features.grids500 "
            f"or flow.side wants {LARGE} px.",
            "leave it out: --set 'features.grids500=[]', --set flow.side=0",
        )
    if kind != "vectors":
        source.geometry(tap, side or 8 * source.input_size)  # refuses fc7
    made: dict[str, Any] = {"version": VERSION, "side": side, "source": source.identity(tap)}
    if not is_sift:
        made["batch"] = config.features.batch  # the last bits of a product may depend on it
    elif (
        kind != "points"
    ):  # these are at exact locations, the others at the cells of another source
        made["lattice"] = _lattice(source, tap, side, config.features.photo_side)
    if kind not in OF_INSTANCES:
        made["photo_side"] = config.features.photo_side
    if kind in CELLS:
        made["cells"] = OF_CELLS
    if kind in CELLS and config.features.cells_per_photo:
        made |= {"sample": config.features.cells_per_photo, "seed": config.seed}
    context = 0.0
    if kind in GRIDS and config.features.context:
        context = config.features.context / boxes
        made["context"] = f"{config.features.context} of {boxes} px"
    return Wanted(Feature(kind, _slug(tap), made, whose), source, tap, side, context)


def _lattice(source: Source, tap: str, side: int, longest: int) -> list[Any]:
    """Where the cells lie, for every size that can occur."""
    found: list[Any] = []
    for size in [side] if side else range(1, longest + 1):
        try:
            geometry = source.geometry(tap, size)
            found.append([geometry.stride, geometry.offset, geometry.cells])
        except DistcorrError:
            found.append(None)  # too small
    return [digest(found)[:16]]


def _slug(tap: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", tap)

"""Which features there are, and where their cells look: Table 1, for any network."""

from __future__ import annotations

import json
from importlib import resources
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from distcorr.algorithms import nets, plugins
from distcorr.algorithms.effective import effective, effective_side, pink_noise
from distcorr.algorithms.extractor_check import check_extractor
from distcorr.algorithms.extractors import Backbone, build
from distcorr.algorithms.networks import NETWORKS, NetworkSpec, spec_of
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import is_extractor
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

_IMAGES = 4  # of noise, for an effective field; not in the paper
_UNSEEDED = "its weights differ each time it is made: seed what it draws at random"
Row = dict[str, Any]


def sources() -> list[Row]:
    """Every registered source of features, with the layer that it aligns by."""
    rows = []
    for name, spec in NETWORKS.items():
        shape, geometry = _outline(name, spec)
        rows.append(
            _row(name, spec.grid, shape, geometry)
            | {"weights": spec.source, "licence": spec.licence}
        )
    conv4 = nets.geometry(nets.CAFFENET, "conv4", 227)
    sift = {"weights": "none; any radius, at the cells of the layer that is aligned"}
    rows.append(_row("sift", "sift20", 128, conv4._replace(rf=40)) | sift | {"licence": ""})
    for point in entry_points(group=plugins.GROUP):
        rows.append(_extractor(point.name))
    return rows


def layers(name: str, weights: str = "") -> list[Row]:
    """Every layer of a network or extractor: receptive field, stride and where the cells lie.

    Args:
        name: key of ``NETWORKS``, "module:attribute", or an entry point.
        weights: file of the network's weights; then effective receptive fields are measured.

    Returns:
        Rows of layer, channels, rf, stride, offset, cells, and, where known, what the paper's
        Table 1 says (``paper``, rf/stride) and the side of the square that holds 90 % of the
        gradient's energy (``effective``), all in px.

    Raises:
        DistcorrError: there is no such network or extractor, or its weights are not to be had.
    """
    if is_extractor(name):
        return [_extractor(name)]
    if name == Sift.name:
        return [
            {"layer": tap, "channels": Sift().channels(tap), **_where(Sift().geometry(tap))}
            for tap in Sift.taps
        ]
    spec = spec_of(name)
    if weights or not spec.layers:
        loaded = load_weights(weights, name)
        backbone = build(name, loaded.arrays)
        taps = {tap: backbone.channels(tap) for tap in backbone.taps}
        at = {tap: backbone.geometry(tap) for tap in taps if _is_spatial(backbone, tap)}
        fields = {tap: _effective(backbone, tap) for tap in at}
    else:
        shapes = nets.skeleton(spec.layers, spec.input_size)[1]
        at = {
            tap: nets.geometry(spec.layers, tap, spec.input_size)
            for tap, shape in shapes.items()
            if len(shape) == 3
        }
        taps = {tap: shape[0] for tap, shape in shapes.items()}
        fields = {}
    paper = _paper() if name == "caffenet" else {}
    rows = []
    for tap, geometry in at.items():
        row: Row = {"layer": tap, "channels": taps[tap], **_where(geometry)}
        if paper:
            row["paper"] = paper.get(tap, "")
        if fields:
            row["effective"] = fields[tap]
        rows.append(row)
    return rows


def notes(name: str, measured: bool) -> list[str]:
    """What the columns mean, and what was left out."""
    if not name:
        return ["distcorr features NAME shows every layer; all lengths are in px of the input"]
    if is_extractor(name):
        return ["checked: shapes, the same bytes twice, and that cells look where they say"]
    said = ["rf, stride and offset (of the first cell's centre) are in px of the input"]
    if name == "caffenet":
        said.append("paper: Table 1, rf/stride")
    if name in NETWORKS and (measured or not NETWORKS[name].layers):
        said.append(
            f"effective: the square that holds 90 % of the gradient's energy, over {_IMAGES} "
            "images of 1/f noise (not in the paper)"
        )
    elif name in NETWORKS:
        said.append("--weights FILE adds effective receptive fields")
    return said


def problems(name: str) -> list[str]:
    """What is wrong with an extractor of the user's; nothing is with a network.

    Besides ``check_extractor``: made twice it must be the same, since every worker makes its own.
    """
    if not name or not is_extractor(name):
        return []
    first, second = plugins.load(name), plugins.load(name)
    tap = first.name
    made = first.identity(tap)
    same = made == second.identity(tap)  # before any call, which may change it
    if found := check_extractor(first):
        return found
    if same and "fingerprint" in made:  # which may be a constant
        image = pink_noise(1, first.input_size)
        one, other = (plugin(image, [tap])[tap] for plugin in (first, second))
        same = bool(np.abs(one - other).max() <= 1e-3 * np.abs(one).max())
    return [] if same else [_UNSEEDED]


def _outline(name: str, spec: NetworkSpec) -> tuple[int | None, Geometry | None]:
    """Channels and geometry of the layer that a network aligns by, without weights if possible."""
    if spec.layers:
        shapes = nets.skeleton(spec.layers, spec.input_size)[1]
        return shapes[spec.grid][0], nets.geometry(spec.layers, spec.grid, spec.input_size)
    try:
        backbone = build(name, load_weights("", name).arrays)
    except DistcorrError:  # its package is not installed
        return None, None
    return backbone.channels(spec.grid), backbone.geometry(spec.grid)


def _row(name: str, layer: str, channels: int | None, geometry: Geometry | None) -> Row:
    where = _where(geometry) if geometry else dict.fromkeys(("rf", "stride", "offset", "cells"))
    size = geometry.input_size if geometry else None
    return {"name": name, "layer": layer, "channels": channels, "input": size, **where}


def _where(geometry: Geometry) -> Row:
    return {
        "rf": geometry.rf,
        "stride": geometry.stride,
        "offset": geometry.offset,
        "cells": geometry.cells,
    }


def _extractor(name: str) -> Row:
    plugin = plugins.load(name)
    row = _row(name, plugin.name, plugin.channels(plugin.name), plugin.geometry(plugin.name))
    return row | {"weights": plugin.weights, "licence": plugin.licence}


def _is_spatial(backbone: Backbone, tap: str) -> bool:
    try:
        backbone.geometry(tap)
    except DistcorrError:
        return False
    return True


def _effective(backbone: Backbone, tap: str) -> int:
    """Side of the effective receptive field, in px."""
    geometry = backbone.geometry(tap)
    network, prepare = backbone.differentiable(tap)
    images = pink_noise(_IMAGES, geometry.input_size)
    return effective_side(effective(network, geometry, prepare(images)))


def _paper() -> dict[str, str]:
    """Table 1 as published: layer -> "rf/stride"."""
    text = (resources.files("distcorr.report") / "paper.json").read_text()
    return {tap: f"{rf}/{stride}" for tap, (rf, stride) in json.loads(text)["table1"]["rf"].items()}

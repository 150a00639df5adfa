"""Two photographs of the user's: read, made into features and aligned, here and without Ray."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np

from distcorr.algorithms.batches import in_batches
from distcorr.algorithms.flow import align, unit_norm
from distcorr.algorithms.matching import Match, View, match
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Source, Sources, is_extractor
from distcorr.algorithms.transfer import Points
from distcorr.config import Config
from distcorr.errors import DistcorrError
from distcorr.stages.features import load_network, wishes
from distcorr.stages.photograph import device, look, numbers
from distcorr.types import Box, Geometry

# Memory and time grow with the fourth power: 64 cells a side take seconds and some hundred MB.
# Not in the paper, whose largest grid has 30.
MOST_CELLS = 64


def match_photographs(
    files: tuple[str, str],
    config: Config,
    boxes: tuple[Box | None, Box | None] = (None, None),
    side: int | None = None,
    points: Points | None = None,
) -> tuple[Match, str]:
    """Align two photographs by the layer ``config.features.conv`` (paper, section 3).

    Args:
        files: A and B, paths or URIs.
        config: of the features and of the alignment.
        boxes: in A and in B, px; None is the whole photograph.
        side: px of the square that both boxes are stretched to; the network's own if not given.
        points: (n, 2) xy px in A's photograph; the centres of all cells if not given.

    Returns:
        The match, and whose features it was made with.

    Raises:
        DistcorrError: a photograph or the weights cannot be read, there is no such layer, a box or
            a point is not where it can be, the side does not suit the layer, or context is asked
            for around the boxes.
    """
    if config.features.context:
        raise DistcorrError(
            "match aligns the boxes as they are given, so features.context must be 0, got "
            f"{config.features.context}",
            "leave it out, and give larger boxes",
        )
    a, b = (look(file, box, name) for file, box, name in zip(files, boxes, "AB", strict=True))
    _require_inside(points, a)
    source, tap, label = _source(config)
    flow = config.flow
    default = flow.side or source.input_size
    geometry = grid_geometry(source, tap, default if side is None else side)
    squares = np.stack([view.square(geometry.input_size) for view in (a, b)])
    grids = in_batches(source, squares, (tap,), config.features.batch)[tap]
    for view, grid in zip((a, b), grids, strict=True):
        broken = ~np.isfinite(grid).all(axis=-1)
        if broken.any():
            raise DistcorrError(
                f"Features must be finite; {tap} of {view.name} has NaN or infinity in "
                f"{broken.sum()} of {broken.size} cells",
                f"mend it in {tap}, or leave that picture out",
            )
    grids = unit_norm(grids) if flow.feature_norm == "unit" else grids
    beta = flow.beta * (geometry.stride**2 if flow.units == "px" else 1)  # per cell^2
    aligned = partial(
        align,
        beta=beta,
        solver=flow.solver,
        iterations=flow.iterations,
        window=flow.window,
        truncation=flow.truncation,
    )
    return match(a, b, grids, geometry, aligned, beta, feature=tap, points=points), label


def _require_inside(points: Points | None, a: View) -> None:
    for x, y in () if points is None else points:
        if not (a.box.x0 <= x <= a.box.x1 and a.box.y0 <= y <= a.box.y1):
            raise DistcorrError(
                f"Points must lie in the box of A, {numbers(a.box)}, got {x:g},{y:g}",
                "they are px in the photograph A, 0-based, also where a box is given",
            )


def _source(config: Config) -> tuple[Source, str, str]:
    """Where the layer comes from, its name there, and whose features they are."""
    # Only the layer that is aligned: the stages' other tables play no part.
    features = replace(config.features, grids=(), grids500=(), points=(), cells=())
    layer = features.conv
    if is_extractor(layer):  # which stands in for a network, so that no weights are needed
        features = replace(features, network=layer, weights="", vector="auto")
    elif re.match(r"d?sift", layer) and not features.weights:
        source, tap = Sources(Sift()).find(layer)
        return source, tap, source.name
    flow = replace(config.flow, features=("auto",), side=0)
    config = replace(config, features=features, flow=flow)
    wanted = wishes(config, load_network(features), device()).wanted[0]
    return wanted.source, wanted.tap, wanted.feature.label


def grid_geometry(source: Source, tap: str, side: int) -> Geometry:
    """Where the cells of a square of ``side`` px lie; DistcorrError if it cannot be aligned."""
    source.require(tap)
    if side != source.input_size and not source.any_size:
        raise DistcorrError(
            f"{tap} of {source.name} sees squares of {source.input_size} px only, got {side} px",
            "leave --side and flow.side out",
        )
    try:
        geometry = source.geometry(tap, side)
    except DistcorrError as error:
        too_small = side < source.input_size
        hint = "give a larger --side" if too_small else "give a layer that has cells"
        raise DistcorrError(f"{tap} has no cells at {side} px: {error.message}", hint) from error
    if geometry.cells < 2:
        raise DistcorrError(
            f"An alignment needs two or more cells a side; {tap} has {geometry.cells} at {side} px",
            "give a larger --side",
        )
    if geometry.cells > MOST_CELLS:
        raise DistcorrError(
            f"An alignment takes {MOST_CELLS} cells a side at most; {tap} has {geometry.cells} "
            f"at {side} px",
            "give a smaller --side, or a deeper layer",
        )
    return geometry

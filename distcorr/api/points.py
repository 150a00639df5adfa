"""``align``, ``transfer`` and ``pck``: section 3 of the paper on arrays, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import flow as flows
from distcorr.algorithms.crop import from_square, to_square
from distcorr.algorithms.dialect_scores import Points, evaluate
from distcorr.algorithms.dialects import DIALECTS
from distcorr.algorithms.transfer import carry, push
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.types import Box, Flow, Geometry

Floats = npt.NDArray[np.float64]
Labels = Sequence[Any] | npt.NDArray[Any]

FAR = 0.5  # sides beyond the square: points there are px of something else; not in the paper


def align(
    source: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    beta: float = 3e-3,
    norm: Literal["unit", "raw"] = "unit",
    solver: Literal["decoupled", "trws", "paper"] = "decoupled",
    iterations: int = 0,
    window: int = 0,
    truncation: float = 0,
) -> Flow:
    """Align a grid of features with another: where does every source cell lie in the target?

    Minimises ``sum_p ||f_s(p) - f_t(p + w(p))|| + beta * sum_pq ||w(p) - w(q)||^2`` over whole
    cells by belief propagation (paper, section 3). The defaults are the pipeline's, and give its
    flows bit for bit from the grids that its store holds. Deterministic, one thread.

    Args:
        source: (H, W, C) floats, as one of `extract`: in the paper the test object, that keypoints
            are predicted for.
        target: (H', W', C), in the paper its neighbour, whose keypoints are known.
        beta: weight of the deformation, per cell^2; 3e-3 is the paper's.
        norm: "unit" scales every cell's features to norm 1, which gives beta its meaning for any
            feature (not in the paper, measured); "raw" leaves them.
        solver: "decoupled" (rows and columns apart, the fastest), "trws" (both together), or
            "paper", the paper's own.
        iterations: of the solver; 0 is its default.
        window: largest displacement along an axis, cells; 0 for any, as the paper.
        truncation: most that an edge costs, of solver "paper" only; 0 for any, as the paper.

    Returns:
        `Flow`: ``displacement`` (H, W, 2) int16 (dx, dy) in cells, ``data_energy``, and
        ``deformation_energy`` in cells^2, by which neighbours are ordered.

    Raises:
        ValueError: grids that are not (H, W, C), of other channels or not finite; a setting out of
            its range.
    """
    grids = [np.asarray(grid) for grid in (source, target)]
    if norm not in ("unit", "raw"):
        raise ValueError(f"norm must be 'unit' or 'raw', got {norm!r}")
    for name, grid in zip(("source", "target"), grids, strict=True):
        if grid.ndim != 3 or 0 in grid.shape:
            more = "; extract gives (n, H, W, C), a grid per image" if grid.ndim == 4 else ""
            raise ValueError(f"{name} must be (H, W, C), got {grid.shape}{more}")
    one, other = (
        flows.unit_norm(grid) if norm == "unit" else grid.astype(np.float32) for grid in grids
    )
    return flows.align(
        one,
        other,
        beta,
        solver=solver,
        iterations=iterations,
        window=window,
        truncation=truncation,
    )


def transfer(
    points: npt.ArrayLike,
    flow: Flow,
    geometry: Geometry,
    *,
    to: Literal["source", "target"] = "source",
    source_box: Sequence[float] | None = None,
    target_box: Sequence[float] | None = None,
) -> Floats:
    """Points of the flow's *target*, carried back to its *source*; ``to="target"``: the other way.

    To the source is the paper's way (section 3): align the test object with its neighbour, and the
    neighbour's keypoint k goes to the pixel p of the test object with the least
    ``||p + w(p) - k||``. To the target, a point p of the source goes to ``p + w(p)``. Between the
    cells, w is the bicubic spline over their displacements.

    Args:
        points: (K, 2) xy px, 0-based, NaN for none; in the target, or with ``to="target"`` in the
            source.
        flow: from `align`, between grids of one geometry.
        geometry: of both grids, as `extract` gives it.
        to: which of the two the points are wanted in.
        source_box: x0, y0, x1, y1 px in its photograph: what the source's square shows. Then
            points in the source are px of that photograph, else of the square.
        target_box: likewise of the target.

    Returns:
        (K, 2) float64 xy px; NaN where the point is. Carried to the target it may lie beyond the
        border.

    Raises:
        ValueError: points are not (K, 2), or lie half a side or more outside of what they are in,
            as px of another picture do; the flow is not of this geometry; ``to`` is something else.
    """
    if to not in ("source", "target"):
        raise ValueError(f"to must be 'source' or 'target', got {to!r}")
    shape, side = (geometry.cells, geometry.cells, 2), geometry.input_size
    if flow.displacement.shape != shape:
        raise ValueError(
            f"the flow must be of {shape[:2]} cells, as the geometry, got "
            f"{flow.displacement.shape[:2]}"
        )
    whole = Box(0, 0, side - 1, side - 1)
    boxes = {
        "source": Box(*source_box) if source_box is not None else whole,
        "target": Box(*target_box) if target_box is not None else whole,
    }
    begin = boxes["target" if to == "source" else "source"]
    given = np.asarray(points, np.float64)
    if given.ndim != 2 or given.shape[1] != 2:
        raise ValueError(f"points must be (K, 2), got {given.shape}")
    start = to_square(given, begin, side)
    far = (np.abs(start - (side - 1) / 2) > (0.5 + FAR) * side).any(axis=1)
    if far.any():
        x, y = given[far][0]
        where = ", ".join(f"{value:g}" for value in begin)
        raise ValueError(
            f"points must be xy px in or near the box ({where}), got {x:g}, {y:g}; "
            f"{'target' if to == 'source' else 'source'}_box says where in a photograph it lies"
        )
    move = carry if to == "source" else push
    return from_square(move(start, flow.displacement, geometry), boxes[to], side)


def pck(
    predicted: npt.ArrayLike,
    truth: npt.ArrayLike,
    size: npt.ArrayLike,
    alpha: float = 0.1,
    *,
    keypoint: Labels | None = None,
    category: Labels | None = None,
    dialect: str = "long2014",
) -> float:
    """PCK, the share of keypoints that are predicted correctly, 0 to 1.

    Correct iff the distance is at most ``alpha * max(h, w)`` of the object's box; the mean over
    keypoint types, then the plain mean over categories (Long, Zhang & Darrell 2014, section 3,
    Table 2). A missing prediction counts as wrong, a keypoint that is not annotated not at all.

    Args:
        predicted: (n, K, 2) xy px in the photograph, n objects with K keypoint types each; NaN
            where nothing is predicted. Or (n, 2), a row per keypoint.
        truth: of the same shape; NaN where the keypoint is not there.
        size: (n,) px or one number: max(h, w) of the object's box, ``Box.max_side``.
        alpha: tolerance, above 0.
        keypoint: (n,) the type of each row, for points of shape (n, 2); all are one type without.
        category: (n,) of each object or row; all are one category without.
        dialect: another definition, "dift-point": `distcorr.algorithms.dialects` has them and their
            sources. Those that ask for more than ``size`` are for ``distcorr pck``; those that
            average over objects want (n, K, 2).

    Raises:
        DistcorrError: there is no such dialect, or it asks for what is not given.
        ValueError: shapes disagree, no truth is finite, a size or alpha is not above 0.
    """
    guess, true = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if guess.shape != true.shape or guess.ndim not in (2, 3) or guess.shape[-1] != 2:
        shapes = f"{guess.shape} and {true.shape}"
        raise ValueError(f"predicted and truth must both be (n, K, 2) or (n, 2), got {shapes}")
    if not (np.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be finite and above 0, got {alpha}")
    if keypoint is not None and guess.ndim == 3:
        raise ValueError("keypoint is for points of (n, 2); of (n, K, 2) the second axis is types")
    definition, each = _definition(dialect, guess.ndim), len(guess)
    count = guess.shape[1] if guess.ndim == 3 else 1
    types = np.tile(np.arange(count), each) if keypoint is None else _numbers(keypoint, each)
    objects = np.repeat(np.arange(each), count)
    kept = np.isfinite(true).all(axis=-1).ravel()
    if not kept.any():
        raise ValueError("truth must have a finite point, got none")
    sizes = np.asarray(size, np.float64)
    if sizes.shape not in ((), (each,)):
        raise ValueError(f"size must be one number or ({each},), got {sizes.shape}")
    rows = Points(
        true.reshape(-1, 2)[kept],
        guess.reshape(-1, 2)[kept],
        category=_numbers(np.zeros(each) if category is None else category, each)[objects][kept],
        image=objects[kept],
        instance=objects[kept],
        keypoint=types[kept],
        scale=np.broadcast_to(sizes, each)[objects][kept],
    )
    ((_, score),) = evaluate({"": rows}, [definition], [alpha], resamples=0).items()
    return float(score.value[0])


def _definition(name: str, dimensions: int) -> Any:
    """A dialect that sizes of boxes suffice for, and points of so many dimensions."""
    if name not in DIALECTS:
        raise DistcorrError(
            f"Unknown dialect {name!r}.{did_you_mean(name, DIALECTS)}",
            f"known: {', '.join(DIALECTS)}",
        )
    found = DIALECTS[name]
    if more := sorted(found.needs - {"scale"}):
        words = {"box": "the boxes", "size": "the sizes of the photographs"}
        raise DistcorrError(
            f"{name} needs {' and '.join(words[need] for need in more)}, which pck is not given.",
            f"distcorr pck FILE --dialect {name}   scores a file that has them",
        )
    if dimensions == 2 and (found.averaging == "image" or found.threshold == "extent"):
        raise DistcorrError(
            f"{name} must know which points are of one object, got a row per keypoint.",
            "give points of (n, K, 2), n objects with K keypoint types each",
        )
    return found


def _numbers(labels: Labels, count: int) -> npt.NDArray[np.intp]:
    """(n,) a number for each label."""
    given = np.asarray(labels)
    if given.shape != (count,):
        raise ValueError(f"keypoint and category must be ({count},), got {given.shape}")
    return np.unique(given, return_inverse=True)[1].reshape(-1)

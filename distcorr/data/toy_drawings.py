"""The toy data set's three drawn objects: outlines and named points in the square [-1, 1]^2.

x points right, y down. A drawing is a list of shapes, painted in order; curves are given by so
many points that warping the points warps the drawing.
"""

from __future__ import annotations

import colorsys
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

FINE = 2  # drawn so many times larger, then averaged down


class Shape(NamedTuple):
    """points (N, 2); closed shapes are filled by the palette's ``fill``, open ones are lines."""

    points: Points
    fill: str
    closed: bool = True
    line: float = 0.03  # width of the line or outline in canonical units; 0: no outline


class Drawing(NamedTuple):
    """keypoints: name -> canonical (x, y); hue of the family's body, accent and light."""

    shapes: tuple[Shape, ...]
    keypoints: dict[str, tuple[float, float]]
    hues: tuple[float, float, float]


def palette(drawing: Drawing, rng: np.random.Generator) -> dict[str, Colour]:
    """One instance's colours within the drawing's family."""
    body, accent, light = (hue + rng.uniform(-0.035, 0.035) for hue in drawing.hues)
    value = rng.uniform(0.78, 0.98)
    return {
        "body": _rgb(body, rng.uniform(0.6, 0.85), value),
        "shade": _rgb(body - 0.02, 0.85, value * 0.72),
        "accent": _rgb(accent, rng.uniform(0.65, 0.9), rng.uniform(0.7, 0.95)),
        "light": _rgb(light, rng.uniform(0.12, 0.35), 0.98),
        "white": (250, 250, 245),
        "ink": (38, 34, 48),
    }


def background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Clouds of three sizes between two soft colours."""
    cloud = np.zeros((height, width))
    for cells, weight in ((3, 0.55), (9, 0.3), (40, 0.15)):
        coarse = Image.fromarray(rng.random((cells, cells + 1)).astype(np.float32))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        cloud += weight * np.asarray(smooth, np.float64)
    tint = rng.uniform(-1, 1, (2, 3))
    first = rng.uniform(150, 200) + 22 * tint[0]
    second = rng.uniform(120, 225) + 22 * (tint[0] + 0.6 * tint[1])
    mixed = first + np.clip(cloud, 0, 1)[..., None] * (second - first)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def blob(pen: ImageDraw.ImageDraw, centre: Points, radius: float, rng: np.random.Generator) -> None:
    """A pebble or leaf that belongs to nothing."""
    angle = np.linspace(0, 2 * np.pi, 40)
    lobes, depth = int(rng.integers(2, 6)), rng.uniform(0, 0.2)
    reach = radius * (1 - depth * (1 + np.cos(lobes * angle + rng.uniform(0, 6))) / 2)
    points = centre + np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    red, green, blue = (int(v) for v in rng.uniform(70, 180, 3))
    pen.polygon(on_canvas(points), fill=(red, green, blue))


def on_canvas(xy: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (xy + 0.5) * FINE - 0.5]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _polygon(*corners: tuple[float, float], closed: bool = True, step: float = 0.08) -> Points:
    """Straight edges, filled up with points so that a warp can bend them."""
    ends = np.array([*corners, corners[0]] if closed else corners, np.float64)
    pieces = []
    for start, end in pairwise(ends):
        count = max(2, round(float(np.hypot(*(end - start))) / step))
        pieces.append(start + (end - start) * np.linspace(0, 1, count, endpoint=False)[:, None])
    return np.concatenate([*pieces, ends[-1:]])


def _spline(*knots: tuple[float, float], closed: bool = True, count: int = 8) -> Points:
    """Catmull-Rom curve through the knots."""
    k = np.array(knots, np.float64)
    k = np.concatenate([k[-1:], k, k[:2]] if closed else [k[:1], k, k[-1:]])
    t = np.linspace(0, 1, count, endpoint=False)[:, None]
    pieces = [
        b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(k[:-3], k[1:-2], k[2:-1], k[3:], strict=True)
    ]
    return np.concatenate([*pieces, k[-2:-1]])


def _disc(x: float, y: float, radius: float, tall: float = 1.0) -> Points:
    angle = np.linspace(0, 2 * np.pi, 25)
    return np.stack([x + radius * np.cos(angle), y + tall * radius * np.sin(angle)], axis=1)


def _mirrored(points: Points) -> Points:
    return points * (-1, 1)


def _fish() -> Drawing:
    scales = [
        Shape(
            _spline((x, y - 0.07), (x + 0.06, y), (x, y + 0.07), closed=False),
            "shade",
            closed=False,
            line=0.02,
        )
        for x, y in ((0.12, -0.22), (0.12, 0.3), (0.34, 0.0), (-0.02, -0.05), (0.42, 0.14))
    ]
    body = _spline(
        (-0.86, 0.03), (-0.6, -0.28), (-0.1, -0.42), (0.35, -0.24), (0.6, -0.07),
        (0.6, 0.09), (0.35, 0.27), (-0.1, 0.43), (-0.6, 0.32),
    )  # fmt: skip
    band = [(0.16, -0.36), (0.3, -0.27), (0.26, 0.02), (0.3, 0.3), (0.16, 0.36), (0.11, 0.0)]
    front = [(-0.25, -0.43), (-0.1, -0.42), (-0.15, 0.0), (-0.1, 0.43), (-0.25, 0.43), (-0.3, 0.0)]
    shapes = (
        Shape(_polygon((0.52, 0.0), (0.98, -0.55), (0.8, 0.0), (0.98, 0.55)), "accent"),
        Shape(_polygon((0.6, 0.0), (0.88, -0.28), (0.78, 0.0)), "shade", line=0),
        Shape(_spline((-0.35, -0.36), (0.02, -0.86), (0.2, -0.6), (0.42, -0.2)), "accent"),
        Shape(_polygon((-0.08, -0.45), (0.08, -0.72), closed=False), "shade", False, 0.025),
        Shape(_polygon((0.1, -0.4), (0.2, -0.56), closed=False), "shade", False, 0.025),
        Shape(_polygon((-0.1, 0.38), (0.22, 0.82), (0.3, 0.28)), "accent"),
        Shape(body, "body"),
        Shape(
            _spline((-0.7, 0.18), (-0.1, 0.24), (0.45, 0.12), (0, 0.38), (-0.5, 0.33)),
            "light",
            line=0,
        ),
        *scales,
        Shape(_spline(*front), "white", line=0.025),
        Shape(_spline(*band), "white", line=0.025),
        Shape(_polygon((-0.12, 0.08), (0.16, 0.06), (0.1, 0.24)), "accent", line=0.025),
        Shape(_spline((-0.38, -0.3), (-0.31, 0.05), (-0.4, 0.33), closed=False), "ink", False),
        Shape(_disc(-0.58, -0.08, 0.13), "white", line=0.025),
        Shape(_disc(-0.6, -0.07, 0.065), "ink", line=0),
        Shape(_spline((-0.86, 0.03), (-0.74, 0.09), (-0.64, 0.08), closed=False), "ink", False),
    )
    keypoints = {
        "mouth": (-0.86, 0.03), "eye": (-0.58, -0.08), "gill": (-0.31, 0.05),
        "dorsal_tip": (0.02, -0.86), "belly_fin_tip": (0.22, 0.82), "side_fin_tip": (0.16, 0.06),
        "band_top": (0.23, -0.32), "band_bottom": (0.23, 0.33), "tail_top": (0.98, -0.55),
        "tail_notch": (0.8, 0.0), "tail_bottom": (0.98, 0.55),
    }  # fmt: skip
    return Drawing(shapes, keypoints, (0.08, 0.02, 0.13))


def _house() -> Drawing:
    tiles = [
        Shape(_polygon((-reach, y), (reach, y), closed=False), "shade", False, 0.025)
        for y, reach in ((-0.2, 0.72), (-0.36, 0.53))
    ]
    left = [(-0.58, 0.2), (-0.24, 0.2), (-0.24, 0.54), (-0.58, 0.54)]
    shapes = (
        Shape(_polygon((0.42, -0.86), (0.64, -0.86), (0.64, -0.2), (0.42, -0.2)), "accent"),
        Shape(_polygon((0.37, -0.92), (0.69, -0.92), (0.69, -0.8), (0.37, -0.8)), "shade"),
        Shape(_polygon((-0.74, -0.05), (0.74, -0.05), (0.74, 0.92), (-0.74, 0.92)), "light"),
        Shape(_polygon((-0.74, 0.78), (0.74, 0.78), (0.74, 0.92), (-0.74, 0.92)), "shade"),
        Shape(_polygon((-0.95, -0.02), (0.0, -0.8), (0.95, -0.02)), "body", line=0.035),
        *tiles,
        Shape(_disc(0.0, -0.42, 0.13), "white"),
        Shape(_polygon((-0.13, -0.42), (0.13, -0.42), closed=False), "ink", False, 0.025),
        Shape(_polygon((0.0, -0.55), (0.0, -0.29), closed=False), "ink", False, 0.025),
        Shape(_polygon(*left), "white", line=0.04),
        Shape(_polygon((-0.41, 0.2), (-0.41, 0.54), closed=False), "ink", False),
        Shape(_polygon((-0.58, 0.37), (-0.24, 0.37), closed=False), "ink", False),
        Shape(_polygon((-0.62, 0.56), (-0.2, 0.56), (-0.25, 0.7), (-0.57, 0.7)), "accent"),
        Shape(
            _spline(
                (-0.08, 0.92), (-0.08, 0.45), (0.08, 0.26), (0.24, 0.45), (0.24, 0.92), closed=False
            ),
            "body",
        ),
        Shape(_disc(0.17, 0.62, 0.04), "white", line=0.02),
        Shape(_disc(0.52, 0.34, 0.16), "white", line=0.04),
        Shape(_disc(0.52, 0.34, 0.08), "accent", line=0.02),
    )
    keypoints = {
        "roof_top": (0.0, -0.8), "left_eave": (-0.95, -0.02), "right_eave": (0.95, -0.02),
        "chimney_top": (0.53, -0.92), "attic_window": (0.0, -0.42), "left_window": (-0.41, 0.37),
        "flower_box": (-0.41, 0.63), "right_window": (0.52, 0.34), "door_top": (0.08, 0.26),
        "door_knob": (0.17, 0.62), "left_corner": (-0.74, 0.92), "right_corner": (0.74, 0.92),
    }  # fmt: skip
    return Drawing(shapes, keypoints, (0.99, 0.4, 0.12))


def _butterfly() -> Drawing:
    upper = _spline(
        (-0.06, -0.1), (-0.35, -0.55), (-0.94, -0.82), (-0.95, -0.4), (-0.72, -0.02), (-0.3, 0.08)
    )
    lower = _spline(
        (-0.05, 0.05), (-0.4, 0.06), (-0.76, 0.22), (-0.7, 0.5), (-0.52, 0.92), (-0.3, 0.62)
    )
    veins = [_polygon((-0.12, -0.12), end, closed=False) for end in ((-0.8, -0.7), (-0.8, -0.2))]
    half = [
        Shape(lower, "accent"),
        Shape(_disc(-0.42, 0.42, 0.15), "light", line=0.025),
        Shape(_disc(-0.42, 0.42, 0.07), "shade", line=0),
        Shape(upper, "body"),
        *(Shape(vein, "shade", False, 0.025) for vein in veins),
        Shape(_disc(-0.64, -0.42, 0.17), "white", line=0.025),
        Shape(_disc(-0.64, -0.42, 0.08), "ink", line=0),
        Shape(_spline((-0.02, -0.42), (-0.12, -0.7), (-0.3, -0.92), closed=False), "ink", False),
        Shape(_disc(-0.3, -0.92, 0.05), "ink", line=0),
    ]
    shapes = (
        *half,
        *(shape._replace(points=_mirrored(shape.points)) for shape in half),
        Shape(
            _spline((0, -0.4), (0.1, -0.1), (0.05, 0.35), (0, 0.6), (-0.05, 0.35), (-0.1, -0.1)),
            "shade",
        ),
        Shape(_polygon((-0.08, 0.02), (0.08, 0.02), closed=False), "light", False, 0.04),
        Shape(_polygon((-0.07, 0.2), (0.07, 0.2), closed=False), "light", False, 0.04),
        Shape(_disc(0, -0.4, 0.1), "ink", line=0),
    )
    keypoints = {
        "head": (0.0, -0.4), "abdomen_tip": (0.0, 0.6),
        "left_antenna": (-0.3, -0.92), "right_antenna": (0.3, -0.92),
        "left_upper_tip": (-0.94, -0.82), "right_upper_tip": (0.94, -0.82),
        "left_upper_spot": (-0.64, -0.42), "right_upper_spot": (0.64, -0.42),
        "left_lower_tip": (-0.52, 0.92), "right_lower_tip": (0.52, 0.92),
        "left_lower_spot": (-0.42, 0.42), "right_lower_spot": (0.42, 0.42),
    }  # fmt: skip
    return Drawing(shapes, keypoints, (0.6, 0.78, 0.5))


DRAWINGS = {"butterfly": _butterfly(), "fish": _fish(), "house": _house()}

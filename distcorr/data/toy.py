"""A drawn data set with exact keypoints, for trying everything without a download.

Each instance is one of three drawings under a known smooth warp: its own stretch, a small
rotation and a few low-frequency waves. Drawing and keypoints go through the same map, so the
keypoints are exact, and so is the correspondence between any two instances of a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from distcorr.data.storage import Folder
from distcorr.data.toy_drawings import (
    DRAWINGS,
    FINE,
    Colour,
    Points,
    background,
    blob,
    on_canvas,
    palette,
)
from distcorr.errors import DistcorrError

CATEGORIES = tuple(DRAWINGS)

_VERSION = 1  # to be raised with every change of what is drawn
_DONE, _STARTED = "toy.json", "toy.started.json"
_VOC = "VOCdevkit/VOC2011"
_WAVES = 3
_AMPLITUDE = 0.14  # of one wave on one axis at most, canonical units (the drawing spans 2)


class _Placed(NamedTuple):
    """An instance in its photograph; box is (xmin, ymin, xmax, ymax), 0-based px."""

    category: str
    warp: dict[str, Any]
    colours: dict[str, Colour]
    box: tuple[int, int, int, int]
    cover: tuple[float, float, float] | None  # x, y, radius px of a disc that hides a part


def write_toy(folder: Folder, *, seed: int, train: int, val: int) -> None:
    """Write the data set in the layout of VOC 2011 and Berkeley, so that ``voc.load`` reads it.

    Every fourth drawing of a category shares its photograph with one of another category, and
    some have a part hidden, whose keypoints are marked invisible. ``warps.json`` maps instance
    ids to the parameters that ``warp_points`` takes. Equal arguments give equal bytes. The file
    ``toy.json`` is written last: with it there, nothing is done; without it all is written again.

    Args:
        folder: empty, not there yet, or holding an earlier ``write_toy``.
        seed: 0 or more.
        train: instances per category in training, 1 or more.
        val: instances per category in validation, 1 or more.

    Raises:
        DistcorrError: an argument is out of range, the folder holds another data set or cannot
            be written.
    """
    if seed < 0 or train < 1 or val < 1:
        raise DistcorrError(
            f"The toy data set needs seed >= 0, train >= 1 and val >= 1, but got "
            f"seed={seed}, train={train}, val={val}"
        )
    arguments = {"version": _VERSION, "seed": seed, "train": train, "val": val}
    for marker in (_DONE, _STARTED):
        if folder.exists(marker) and folder.read_json(marker) != arguments:
            raise DistcorrError(
                f"{folder} holds a toy data set of other parameters ({folder.read_json(marker)}) "
                f"than {arguments}",
                "choose another run folder: --run runs/another",
            )
    if folder.exists(_DONE):
        return
    if not folder.exists(_STARTED) and folder.exists("VOCdevkit"):
        raise DistcorrError(
            f"{folder} holds a data set that is not the toy's", "choose another folder"
        )
    folder.write_json(_STARTED, arguments)
    lists: dict[str, dict[str, set[str]]] = {"train": {}, "val": {}}
    warps = {}
    for number, (split, members) in enumerate(_plan(train, val), start=1):
        name = f"2011_{number:06d}"
        lists[split][name] = {category for category, _ in members}
        for index, warp in enumerate(_write_photograph(folder, name, members, seed, number)):
            warps[f"{name}#{index}"] = warp
    _write_lists(folder, lists)
    folder.write_json("warps.json", warps)
    folder.write_json(_DONE, arguments)
    folder.delete(_STARTED)


def canonical_keypoints(category: str) -> dict[str, tuple[float, float]]:
    """Keypoint name -> its place (x, y) in the unwarped drawing, within [-1, 1]^2.

    Raises:
        KeyError: the category is none of ``CATEGORIES``.
    """
    return dict(DRAWINGS[category].keypoints)


def warp_points(parameters: Mapping[str, Any], points: npt.ArrayLike) -> Points:
    """Where an instance shows points of its drawing.

    Args:
        parameters: the instance's entry in ``warps.json``: ``matrix`` (2, 2) and ``centre`` (2,)
            in px, ``waves`` (n, 5): amplitude x, y, frequency x, y (half periods per canonical
            unit), phase.
        points: (..., 2) canonical xy.

    Returns:
        (..., 2) xy px in the photograph, 0-based.
    """
    at = np.asarray(points, np.float64)
    waves = np.asarray(parameters["waves"], np.float64)
    swing = np.sin(np.pi * (at @ waves[:, 2:4].T) + waves[:, 4])
    moved = at + swing @ waves[:, :2]
    return np.asarray(moved @ np.array(parameters["matrix"]).T + parameters["centre"])


def _plan(train: int, val: int) -> list[tuple[str, list[tuple[str, int]]]]:
    """The photographs: (split, [(category, instance number)])."""
    photos: list[tuple[str, list[tuple[str, int]]]] = []
    for k in range(train + val):
        split = "train" if k < train else "val"
        alone = list(CATEGORIES)
        if k % 4 == 3:
            single = alone.pop(k // 4 % len(alone))
            photos.append((split, [(category, k) for category in alone]))
            alone = [single]
        photos += [(split, [(category, k)]) for category in alone]
    return photos


def _write_photograph(
    folder: Folder, name: str, members: Sequence[tuple[str, int]], seed: int, number: int
) -> list[dict[str, Any]]:
    """Draw and annotate one photograph; the warps in the order of its VOC objects."""
    rng = np.random.default_rng([seed, len(CATEGORIES), number])
    width, height = (320, int(rng.integers(240, 281)))
    if len(members) == 1 and rng.random() < 0.35:
        width, height = height, width
    slots = np.linspace(0, width, len(members) + 1)
    placed = [
        _place(category, k, seed, (slots[i], 0.0, slots[i + 1], float(height)))
        for i, (category, k) in enumerate(members)
    ]
    placed = [placed[i] for i in rng.permutation(len(placed))]
    picture = _paint(placed, width, height, rng)
    content = BytesIO()
    picture.save(content, "JPEG", quality=90)
    folder.write(f"{_VOC}/JPEGImages/{name}.jpg", content.getvalue())
    folder.write(f"{_VOC}/Annotations/{name}.xml", _voc_xml(name, width, height, placed).encode())
    for index, item in enumerate(placed, start=1):
        file = f"annotations/{item.category}/{name}_{index}.xml"
        folder.write(file, _berkeley_xml(name, index, item).encode())
    return [item.warp for item in placed]


def _place(category: str, k: int, seed: int, slot: tuple[float, float, float, float]) -> _Placed:
    """Instance ``k`` of the category, fitted into a part of the photograph."""
    rng = np.random.default_rng([seed, CATEGORIES.index(category), k])
    drawing = DRAWINGS[category]
    colours = palette(drawing, rng)
    warp = _random_warp(rng)
    outline = np.concatenate([shape.points for shape in drawing.shapes])
    shown = warp_points(warp, outline)
    low, high = shown.min(axis=0), shown.max(axis=0)
    room = np.array(slot[2:]) - slot[:2] - 8  # px, for outlines and a margin
    scale = rng.uniform(0.72, 0.98) * (room / (high - low)).min()
    corner = np.array(slot[:2]) + 4 + rng.random(2) * (room - scale * (high - low))
    warp["matrix"] = (scale * np.array(warp["matrix"])).tolist()
    warp["centre"] = (corner - scale * low).tolist()
    shown = warp_points(warp, outline)
    x0, y0 = (int(v) for v in np.floor(shown.min(axis=0)))
    x1, y1 = (int(v) for v in np.ceil(shown.max(axis=0)))
    cover = None
    if rng.random() < 0.2:
        points = warp_points(warp, list(drawing.keypoints.values()))
        x, y = points[rng.integers(len(points))] + rng.normal(0, 3, 2)
        cover = (float(x), float(y), 0.08 * max(x1 - x0, y1 - y0))
    return _Placed(category, {"category": category, **warp}, colours, (x0, y0, x1, y1), cover)


def _random_warp(rng: np.random.Generator) -> dict[str, Any]:
    """A warp of unit size around the origin that nowhere folds over or squeezes too much."""
    axis = np.linspace(-1, 1, 15)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    while True:
        angle = rng.uniform(-0.3, 0.3)
        stretch = np.exp(rng.uniform(-0.2, 0.2))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        direction = rng.uniform(0, 2 * np.pi, _WAVES)
        frequency = rng.uniform(0.4, 1.0, _WAVES)
        waves = np.stack(
            [
                *rng.uniform(-_AMPLITUDE, _AMPLITUDE, (2, _WAVES)),
                frequency * np.cos(direction),
                frequency * np.sin(direction),
                rng.uniform(0, 2 * np.pi, _WAVES),
            ],
            axis=1,
        )
        warp = {
            "matrix": (turn @ np.diag([stretch, 1 / stretch])).tolist(),
            "centre": [0.0, 0.0],
            "waves": waves.tolist(),
        }
        down, right = np.asarray(np.gradient(warp_points(warp, grid), axis, axis, axis=(0, 1)))
        area = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        if area.min() > 0.35:
            return warp


def _paint(
    placed: Sequence[_Placed], width: int, height: int, rng: np.random.Generator
) -> Image.Image:
    # Nearest, because averaging down gives exactly this background back.
    large = (width * FINE, height * FINE)
    canvas = background(width, height, rng).resize(large, Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 4)):
        blob(pen, rng.random(2) * (width, height), rng.uniform(6, 16), rng)
    for item in placed:
        scale = np.sqrt(np.linalg.det(np.array(item.warp["matrix"]))) * FINE
        for shape in DRAWINGS[item.category].shapes:
            points = on_canvas(warp_points(item.warp, shape.points))
            colour = item.colours[shape.fill]
            if shape.closed:
                pen.polygon(points, fill=colour)
            if shape.line:
                edge = item.colours["ink"] if shape.closed else colour
                pen.line(points, fill=edge, width=max(2, round(shape.line * scale)), joint="curve")
        if item.cover:
            blob(pen, np.array(item.cover[:2]), item.cover[2], rng)
    pixels = np.asarray(canvas.reduce(FINE), np.float64)
    grain = rng.normal(0, 2.5, (height, width, 1))
    return Image.fromarray(np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8))


def _voc_xml(name: str, width: int, height: int, placed: Sequence[_Placed]) -> str:
    objects = "".join(
        f"\t<object>\n\t\t<name>{item.category}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<occluded>{int(item.cover is not None)}</occluded>\n"
        "\t\t<difficult>0</difficult>\n\t\t<bndbox>"
        + "".join(
            f"<{side}>{value + 1}</{side}>"
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)
        )
        + "</bndbox>\n\t</object>\n"
        for item in placed
    )
    return (
        f"<annotation>\n\t<folder>VOC2011</folder>\n\t<filename>{name}.jpg</filename>\n"
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"\t<segmented>0</segmented>\n{objects}</annotation>\n"
    )


def _berkeley_xml(name: str, voc_id: int, item: _Placed) -> str:
    keypoints = DRAWINGS[item.category].keypoints
    points = warp_points(item.warp, list(keypoints.values()))
    rows = []
    for keypoint, (x, y) in zip(keypoints, points, strict=True):
        hidden = item.cover and np.hypot(x - item.cover[0], y - item.cover[1]) < item.cover[2]
        rows.append(
            f'\t\t<keypoint name="{keypoint}" visible="{int(not hidden)}" '
            f'x="{x + 1:.4f}" y="{y + 1:.4f}" z="0"/>\n'
        )
    x0, y0, x1, y1 = item.box
    return (
        f"<annotation>\n\t<image>{name}</image>\n\t<voc_id>{voc_id}</voc_id>\n"
        f"\t<category>{item.category}</category>\n\t<subcategory/>\n"
        f'\t<visible_bounds height="{y1 - y0}" width="{x1 - x0}" xmin="{x0 + 1}" '
        f'ymin="{y0 + 1}"/>\n\t<keypoints>\n{"".join(rows)}\t</keypoints>\n</annotation>\n'
    )


def _write_lists(folder: Folder, lists: Mapping[str, Mapping[str, set[str]]]) -> None:
    main = f"{_VOC}/ImageSets/Main"
    for split, photos in lists.items():
        folder.write(f"{main}/{split}.txt", "".join(f"{name}\n" for name in photos).encode())
        for category in CATEGORIES:
            rows = (
                f"{name} {1 if category in shown else -1:2d}\n" for name, shown in photos.items()
            )
            folder.write(f"{main}/{category}_{split}.txt", "".join(rows).encode())

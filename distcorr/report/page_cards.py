"""A card of the gallery of failures: part of the photograph, the truth, and what was predicted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.data.images import read_image
from distcorr.report.cases import CAUSES, Case, Point
from distcorr.report.page_figures import jpeg
from distcorr.report.page_html import Html, data_uri, join, number, tag
from distcorr.report.page_source import Source
from distcorr.types import Box

_SIDE, _QUALITY = 520, 72  # px of a card's longer side, and of its JPEG
_MARGIN = 0.12  # of the box, shown around it

Picture = npt.NDArray[np.uint8]


class Crop(NamedTuple):
    """Part of a photograph: a data URI, its size in px, and where it lies in the photograph."""

    uri: str
    width: int
    height: int
    left: float
    top: float
    zoom: float

    def place(self, point: Point) -> tuple[str, str]:
        """Px of the photograph -> px of the picture, as SVG has them: the pixel's centre."""
        x, y = (point[0] + 0.5 - self.left) * self.zoom, (point[1] + 0.5 - self.top) * self.zoom
        return f"{x:.1f}", f"{y:.1f}"

    @property
    def unit(self) -> float:
        """Px: a hundredth of the longer side."""
        return max(self.width, self.height) / 100

    @property
    def view(self) -> str:
        """SVG's ``viewBox``."""
        return f"0 0 {self.width} {self.height}"


def around(source: Source, case: Case) -> Crop:
    """The box, with the truth and the prediction, cut from the photograph.

    Raises:
        DistcorrError: the photograph is missing or damaged.
    """
    instance = source.instances[case.instance]
    points = np.array([case.at, case.true])
    photograph = read_image(source.photographs, instance.image)
    return cut(photograph, instance.box, points, _MARGIN, _SIDE)


def cut(
    photograph: Picture, box: Box, points: npt.NDArray[np.float64], margin: float, side: int
) -> Crop:
    """A box and some points, with a margin (share of the box), of ``side`` px at most."""
    pad = margin * max(box.width, box.height)
    low = np.minimum([box.x0, box.y0], points.min(axis=0)) - pad
    high = np.maximum([box.x1, box.y1], points.max(axis=0)) + pad + 1
    size = np.array(photograph.shape[1::-1])
    (left, top), (right, bottom) = (
        np.clip(np.rint(ends), 0, size).astype(int) for ends in (low, high)
    )
    part: Picture = photograph[top : max(bottom, top + 1), left : max(right, left + 1)]
    picture = Image.fromarray(part)
    zoom = min(1.0, side / max(picture.size))
    width, height = (max(1, round(zoom * length)) for length in picture.size)
    if zoom < 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    uri = data_uri(jpeg(picture, _QUALITY), "jpeg")
    return Crop(uri, width, height, float(left), float(top), zoom)


def card(
    source: Source, case: Case, crop: Crop, name: str, votes: Html, beside: Html, below: Html
) -> Html:
    """The card, and after it what its dialog shows.

    Args:
        source: of the run.
        case: the failure.
        crop: the picture.
        name: id of the picture, which the dialog shows again.
        votes: marks in the picture that only the dialog shows.
        beside: what only the dialog says, beside the picture.
        below: likewise, below it.
    """
    instance = source.instances[case.instance]
    title = f"{instance.category} · {case.keypoint}"
    cause = f"{case.cause} ({case.near})" if case.near else case.cause
    caption = tag(
        "span",
        tag("b", title),
        tag("span", f"error {number(case.error)} · {cause}"),
        tag("small", f"{case.method}, {case.kind}"),
        class_="words",
    )
    button = tag(
        "button",
        _drawing(case, crop, name, votes, f"{title}: {case.method} errs by {number(case.error)}"),
        caption,
        type="button",
        class_="card",
        data_method=case.method,
        data_category=instance.category,
        data_keypoint=case.keypoint,
        data_cause=case.cause,
        data_kind=case.kind,
    )
    facts = tag("div", _facts(source, case, cause), class_="facts")
    return join((button, tag("template", tag("div", facts, beside, class_="more"), below)))


def _drawing(case: Case, crop: Crop, name: str, votes: Html, words: str) -> Html:
    """The photograph and, over it, points; those of others show in the dialog alone."""
    others = []
    for method, point in case.others:
        ox, oy = crop.place(point)
        dot = tag("circle", tag("title", method), cx=ox, cy=oy, r=f"{1.3 * crop.unit:.1f}")
        others.append(dot)
    tx, ty = crop.place(case.true)
    radius = f"{case.allowed * crop.zoom:.1f}"
    parts = [
        tag("image", href=crop.uri, width=crop.width, height=crop.height, id=name),
        tag("circle", cx=tx, cy=ty, r=radius, class_="allowed"),
        tag("g", *others, class_="others"),
        votes,
        marks(case, crop),
    ]
    return tag("svg", *parts, viewBox=crop.view, role="img", aria_label=words, class_="photo")


def marks(case: Case, crop: Crop, scale: float = 1.0) -> Html:
    """A ring at the truth, a cross at the prediction, and a line between them."""
    (x, y), (tx, ty) = crop.place(case.at), crop.place(case.true)
    arm = 2.2 * crop.unit * scale
    cross = f"M{x} {y}m-{arm:.1f} -{arm:.1f}l{2 * arm:.1f} {2 * arm:.1f}"
    cross += f"m0 -{2 * arm:.1f}l-{2 * arm:.1f} {2 * arm:.1f}"
    ring = {"cx": tx, "cy": ty, "r": f"{2.4 * crop.unit * scale:.1f}"}
    drawn = [("path", {"d": f"M{tx} {ty}L{x} {y}"}), ("path", {"d": cross}), ("circle", ring)]
    return join(tag(n, **where, class_=c) for n, where in drawn for c in ("halo", "ink"))


def _facts(source: Source, case: Case, cause: str) -> Html:
    """What the dialog says first."""
    instance = source.instances[case.instance]
    facts = {
        "category": instance.category,
        "keypoint": case.keypoint,
        "method": case.method,
        "error": f"{number(case.error, 2)} × α · max(h, w), {case.error * case.allowed:.0f} px",
        "cause": f"{cause}: {CAUSES[case.cause]}",
        "photograph": instance.image,
        "object": case.instance,
        "box": f"{instance.box.width:.0f} × {instance.box.height:.0f} px",
    }
    if instance.truncated is not None:
        facts["box"] += ", truncated" if instance.truncated else ", not truncated"
    if case.others:
        facts["blue dots"] = "the same keypoint by other methods, and how far they are off:"
    for method, point in case.others:
        error = np.hypot(*(np.array(point) - case.true)) / case.allowed
        facts[method] = f"{number(float(error), 2)}{'' if error > 1 else ' ✓ right'}"
    rows = (tag("span", tag("i", name), tag("span", value)) for name, value in facts.items())
    return join(rows)

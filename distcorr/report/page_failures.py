"""The gallery of failures: cards with the photograph, the truth and what was predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from distcorr.data.images import read_image
from distcorr.errors import DistcorrError
from distcorr.report import cases
from distcorr.report.cases import CAUSES, Case
from distcorr.report.classification import is_sift
from distcorr.report.detection import PRIOR, WITH
from distcorr.report.page_figures import jpeg
from distcorr.report.page_html import Content, Html, data_uri, join, number, table, tag
from distcorr.report.page_source import Source
from distcorr.report.predictions import COPY

CARDS = 60
_SIDE, _QUALITY = 520, 72  # px of a card's longer side, and of its JPEG
_MARGIN = 0.12  # of the box, shown around it


class _Crop(NamedTuple):
    """Part of a photograph: a data URI, its size in px, and where it lies in the photograph."""

    uri: str
    width: int
    height: int
    left: float
    top: float
    zoom: float

    def place(self, point: tuple[float, float]) -> tuple[str, str]:
        """Px of the photograph -> px of the picture, as SVG has them: the pixel's centre."""
        x, y = (point[0] + 0.5 - self.left) * self.zoom, (point[1] + 0.5 - self.top) * self.zoom
        return f"{x:.1f}", f"{y:.1f}"


def failures(source: Source) -> Html:
    """Worst and typical wrong predictions of sections 3 and 5, and what all of them are."""
    found, picked = _wrong(source)
    if not found:
        words = "Nothing is predicted yet, or nothing wrongly: sections 3 and 5 say what to run."
        return tag("p", words, class_="missing")
    cards, lost = [], []
    for case in sorted(picked, key=lambda c: (-c.error, c.method, c.instance, c.keypoint)):
        try:
            cards.append(_card(source, case, _crop(source, case)))
        except (DistcorrError, OSError) as error:
            lost.append(f"{source.instances[case.instance].image}: {error}")
    words = (
        "○ truth, ✕ predicted; error in units of α · max(h, w): up to 1.0 is right. The cause is a "
        "guess from places alone. Categories take turns; an object is shown once for each method."
    )
    parts: list[Content] = [tag("p", words), _causes(found), _filters(source, picked)]
    if lost:
        said = f"{len(lost)} photographs cannot be shown, for example {lost[0]}"
        parts.append(tag("p", said, class_="missing"))
    return join((*parts, tag("div", *cards, class_="cards", id="cards")))


def _wrong(source: Source) -> tuple[dict[str, list[Case]], list[Case]]:
    """Method -> all of its wrong predictions, of the main methods of both sections; and cards."""
    alpha = source.config.evaluation.alphas[0]
    saved = [(of, source.predictions(of_transfer=of)) for of in (True, False)]
    asked = [(made, *_asked(made, of)) for of, made in saved if made is not None]
    each = CARDS // max(1, sum(len(methods) for _, methods, _ in asked))
    found: dict[str, list[Case]] = {}
    picked: list[Case] = []
    known = source.instances, source.store.keypoint_names, alpha
    for made, methods, misled in asked:
        wrong = cases.wrong(made, methods, *known, misled, le=source.config.evaluation.inclusive)
        own = {m: [case for case in wrong if case.method == m] for m in methods}
        found |= {method: of for method, of in own.items() if of}
        cards = [c for of in own.values() for c in cases.chosen(of, source.instances, each)]
        picked += cases.with_others(cards, made)
    return found, picked


def _asked(made: pa.Table, of_transfer: bool) -> tuple[list[str], dict[str, str]]:
    """The methods that are looked at, and who may have misled them."""
    known = list(dict.fromkeys(made["method"].to_pylist()))
    if of_transfer:
        return [method for method in known if method != COPY], {COPY: cases.COPIED}
    return _with_prior(known), {PRIOR: cases.PULLED}


def _with_prior(known: Sequence[str]) -> list[str]:
    """The first layer of a network and the first SIFT, with the prior."""
    own = [method for method in known if method.endswith(WITH)]
    of_kind = {is_sift(method.removesuffix(WITH)): method for method in reversed(own)}
    return [of_kind[kind] for kind in sorted(of_kind)]


def _causes(found: dict[str, list[Case]]) -> Html:
    """Share of each cause, of all wrong predictions."""
    body = []
    for method, own in found.items():
        count = Counter(case.cause for case in own)
        shares = [number(100 * count[cause] / len(own)) for cause in CAUSES]
        body.append([method, f"{len(own):,}", *shares])
    heads: list[Content] = ["method", "wrong"]
    heads += [tag("abbr", cause, title=words) for cause, words in CAUSES.items()]
    return table(heads, body, "Of all wrong predictions, the share of each cause, per cent.")


def _filters(source: Source, picked: Sequence[Case]) -> Html:
    values = {
        "method": dict.fromkeys(case.method for case in picked),
        "category": sorted({source.instances[case.instance].category for case in picked}),
        "keypoint": sorted({case.keypoint for case in picked}),
        "cause": [cause for cause in CAUSES if any(case.cause == cause for case in picked)],
        "kind": ["worst", "typical"],
    }
    parts = []
    for name, options in values.items():
        whole = tag("option", f"all {_PLURALS[name]}", value="")
        choices = join(tag("option", value, value=value) for value in options)
        parts.append(tag("label", f"{name} ", tag("select", whole, choices, data_filter=name)))
    count = tag("output", f"{len(picked)} shown", id="count", aria_live="polite")
    return tag("form", *parts, count, class_="filters", hidden=True)


_PLURALS = {"method": "methods", "category": "categories", "keypoint": "keypoints"}
_PLURALS |= {"cause": "causes", "kind": "kinds"}


# -- cards ---------------------------------------------------------------------------------------


def _crop(source: Source, case: Case) -> _Crop:
    """The box, with the truth and the prediction, cut from the photograph."""
    instance = source.instances[case.instance]
    photograph = read_image(source.photographs, instance.image)
    box = instance.box
    pad = _MARGIN * max(box.width, box.height)
    points = np.array([case.at, case.true])
    low = np.minimum([box.x0, box.y0], points.min(axis=0)) - pad
    high = np.maximum([box.x1, box.y1], points.max(axis=0)) + pad + 1
    size = np.array(photograph.shape[1::-1])
    (left, top), (right, bottom) = (
        np.clip(np.rint(ends), 0, size).astype(int) for ends in (low, high)
    )
    part: npt.NDArray[np.uint8] = photograph[
        top : max(bottom, top + 1), left : max(right, left + 1)
    ]
    picture = Image.fromarray(part)
    zoom = min(1.0, _SIDE / max(picture.size))
    width, height = (max(1, round(zoom * length)) for length in picture.size)
    if zoom < 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    uri = data_uri(jpeg(picture, _QUALITY), "jpeg")
    return _Crop(uri, width, height, float(left), float(top), zoom)


def _card(source: Source, case: Case, crop: _Crop) -> Html:
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
    more = tag("span", _details(source, case, cause), class_="more", hidden=True)
    return tag(
        "button",
        _drawing(case, crop, f"{title}: {case.method} errs by {number(case.error)}"),
        caption,
        more,
        type="button",
        class_="card",
        data_method=case.method,
        data_category=instance.category,
        data_keypoint=case.keypoint,
        data_cause=case.cause,
        data_kind=case.kind,
    )


def _drawing(case: Case, crop: _Crop, words: str) -> Html:
    """The photograph and, over it, points; those of other methods show in the dialog alone."""
    unit = max(crop.width, crop.height) / 100
    (x, y), (tx, ty) = crop.place(case.at), crop.place(case.true)
    size = {"width": crop.width, "height": crop.height}
    radius = f"{case.allowed * crop.zoom:.1f}"
    arm = 2.2 * unit
    cross = f"M{x} {y}m-{arm:.1f} -{arm:.1f}l{2 * arm:.1f} {2 * arm:.1f}"
    cross += f"m0 -{2 * arm:.1f}l-{2 * arm:.1f} {2 * arm:.1f}"
    line = f"M{tx} {ty}L{x} {y}"
    others = []
    for method, point in case.others:
        ox, oy = crop.place(point)
        dot = tag("circle", tag("title", method), cx=ox, cy=oy, r=f"{1.3 * unit:.1f}")
        others.append(dot)
    parts = [
        tag("image", href=crop.uri, **size),
        tag("circle", cx=tx, cy=ty, r=radius, class_="allowed"),
        tag("g", *others, class_="others"),
        *(tag("path", d=line, class_=c) for c in ("halo", "ink")),
        *(tag("path", d=cross, class_=c) for c in ("halo", "ink")),
        *(tag("circle", cx=tx, cy=ty, r=f"{2.4 * unit:.1f}", class_=c) for c in ("halo", "ink")),
    ]
    box = f"0 0 {crop.width} {crop.height}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=words, class_="photo")


def _details(source: Source, case: Case, cause: str) -> Html:
    """What the dialog says."""
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
    if case.others:
        facts["blue dots"] = "the same keypoint by other methods, and how far they are off:"
    for method, point in case.others:
        error = np.hypot(*(np.array(point) - case.true)) / case.allowed
        facts[method] = f"{number(float(error), 2)}{'' if error > 1 else ' ✓ right'}"
    rows = (tag("span", tag("i", name), tag("span", value)) for name, value in facts.items())
    return join(rows)

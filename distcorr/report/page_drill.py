"""What the dialog of a failure adds: the neighbours' votes of section 3, the maps of section 5."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.algorithms.crop import from_square, to_square
from distcorr.data.images import read_image
from distcorr.errors import DistcorrError
from distcorr.report import detection, predictions
from distcorr.report.cases import Case
from distcorr.report.detection import WITH
from distcorr.report.page_cards import Crop, cut, marks
from distcorr.report.page_html import Content, Html, data_uri, join, number, tag
from distcorr.report.page_source import Source
from distcorr.report.score_maps import Floats, Heat, heats
from distcorr.report.votes import Vote, votes

_THUMB = 88  # px of the longer side of a neighbour
_KEY = tuple[str, str, str]  # method, instance, keypoint


class _Panel(NamedTuple):
    """One heat map: its name, and values at the centres."""

    title: str
    values: Floats


@dataclass(frozen=True)
class Drill:
    """What is known behind some cases.

    Attributes:
        votes: (method, instance, keypoint) -> the neighbours' votes.
        heats: likewise, score maps and priors.
        order: what the neighbours are ordered by.
        notes: what a reader must know.
    """

    votes: dict[_KEY, list[Vote]] = field(default_factory=dict)
    heats: dict[_KEY, Heat] = field(default_factory=dict)
    order: str = "deformation"
    notes: list[str] = field(default_factory=list)


def drill(source: Source, found: Sequence[Case]) -> Drill:
    """Everything that the run has saved behind these cases; what cannot be read is noted."""
    detected = [case for case in found if case.method.endswith(WITH)]
    aligned = [case for case in found if not case.method.endswith(WITH)]
    evaluation, notes = source.config.evaluation, []
    said: dict[_KEY, list[Vote]] = {}
    shown: dict[_KEY, Heat] = {}
    try:
        if aligned:
            said = votes(predictions.finished(source.run, evaluation), aligned)
    except DistcorrError as error:
        notes.append(f"Votes of neighbours are not shown: {error.message}")
    try:
        if detected:
            made = detection.opened(source.run, evaluation)
            shown, lacking = heats(source.run, made, source.store, detected)
            notes += lacking
    except DistcorrError as error:
        notes.append(f"Score maps are not shown: {error.message}")
    return Drill(said, shown, evaluation.order, notes)


def shown(
    source: Source, case: Case, crop: Crop, name: str, known: Drill
) -> tuple[Html, Html, Html]:
    """Marks for the picture, and what stands beside it or, maps, below it; empty if not known.

    Args:
        source: of the run.
        case: the failure.
        crop: its picture.
        name: id of the picture.
        known: of ``drill``.
    """
    key = case.method, case.instance, case.keypoint
    if said := known.votes.get(key):
        return _marks(said, crop), _votes(source, case, said, known.order), Html("")
    if heat := known.heats.get(key):
        return Html(""), Html(""), _maps(case, crop, name, heat)
    return Html(""), Html(""), Html("")


# -- votes ---------------------------------------------------------------------------------------


def _marks(said: Sequence[Vote], crop: Crop) -> Html:
    """A dot for every vote, those that are asked last and so on top."""
    dots = []
    for n, vote in sorted(enumerate(said), key=lambda each: (each[1].asked, -each[0])):
        if vote.at is not None:
            x, y = crop.place(vote.at)
            kind, r = ("asked", 1.5) if vote.asked else (None, 1.1)
            size = f"{r * crop.unit:.1f}"
            dots.append(tag("circle", cx=x, cy=y, r=size, class_=kind, data_vote=n))
    return tag("g", *dots, class_="votes")


def _votes(source: Source, case: Case, said: Sequence[Vote], order: str) -> Html:
    few = sum(vote.asked for vote in said)
    heads = [("", None), ("neighbour", None), ("deformation", "n"), ("error", "n")]
    caption = (
        f"{len(said)} neighbours by {order}{' energy' * (order != 'similarity')}. Bold, and filled "
        f"dots: the {few} that are asked, whose median is ✕. Deformation in cells²; error as above."
    )
    rows = [_row(source, case, n, vote) for n, vote in enumerate(said)]
    return tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", h, scope="col", class_=c) for h, c in heads))),
        tag("tbody", *rows),
        class_="votes",
    )


def _row(source: Source, case: Case, n: int, vote: Vote) -> Html:
    """A neighbour; pointed at, or reached by the keyboard, its dot stands out."""
    says = vote.at is not None
    off = number(vote.error, 2) if says else "does not show it"
    return tag(
        "tr",
        tag("td", _thumb(source, case, vote) if vote.asked else None),
        tag("th", vote.neighbor, scope="row"),
        tag("td", f"{vote.energy:,.0f}", class_="n"),
        tag("td", off, class_="n"),
        data_vote=n if says else None,
        tabindex=0 if says else None,
        class_="asked" if vote.asked else None if says else "mute",
    )


def _thumb(source: Source, case: Case, vote: Vote) -> Html | None:
    """The neighbour with its own keypoint; None where the photograph cannot be read."""
    neighbor = source.instances[vote.neighbor]
    names = source.store.keypoint_names[neighbor.category]
    at = neighbor.keypoints[names.index(case.keypoint)].astype(np.float64)
    try:
        photograph = read_image(source.photographs, neighbor.image)
    except DistcorrError:
        return None  # the row says the rest, and the report counts what cannot be read
    crop = cut(photograph, neighbor.box, at[None], 0.05, _THUMB)
    x, y = crop.place((float(at[0]), float(at[1])))
    ring = {"cx": x, "cy": y, "r": f"{6 * crop.unit:.1f}"}
    words = f"{vote.neighbor} and its {case.keypoint}"
    return tag(
        "svg",
        tag("image", href=crop.uri, width=crop.width, height=crop.height),
        *(tag("circle", **ring, class_=kind) for kind in ("halo", "ink")),
        viewBox=crop.view,
        role="img",
        aria_label=words,
        class_="thumb",
    )


# -- score maps ----------------------------------------------------------------------------------


def _maps(case: Case, crop: Crop, name: str, heat: Heat) -> Html:
    """The detector, the prior and their product over the picture, and their values in words."""
    layer = case.method.removesuffix(WITH)
    both = f"both, η {heat.eta:g}"
    known = ((layer, heat.scores), ("prior", heat.prior), (both, heat.response))
    panels = [_Panel(title, values) for title, values in known if values is not None]
    figures = [
        tag(
            "figure",
            _map(case, crop, name, heat, panel),
            tag("figcaption", tag("b", panel.title), " ", _values(case, heat, panel.values)),
        )
        for panel in panels
    ]
    words = "Each map from its lowest value, dark, to its highest, light. ○ truth, ✕ predicted"
    words += ", ◇ where the prior alone predicts it." if heat.peak else "."
    if heat.peak is None:
        words += " No training object shows this keypoint: there is no prior."
    if heat.scores is None:
        words += f" Its scores are not kept, and the store has no {layer} to score it anew."
    return tag("div", tag("p", words), tag("div", *figures, class_="row"), class_="maps")


def _map(case: Case, crop: Crop, name: str, heat: Heat, panel: _Panel) -> Html:
    """One map over the picture that the card shows."""
    half = (heat.centres[-1, -1] - heat.centres[0, 0]) / (np.array(panel.values.shape[::-1]) - 1)
    ends = [heat.centres[0, 0] - half / 2, heat.centres[-1, -1] + half / 2]
    low, high = (from_square(end, heat.box, heat.side) for end in ends)
    x, y = crop.place((float(low[0]), float(low[1])))
    size = (high - low) * crop.zoom
    values = tag(
        "image",
        href=data_uri(_png(panel.values), "png"),
        x=x,
        y=y,
        width=f"{size[0]:.1f}",
        height=f"{size[1]:.1f}",
        preserveAspectRatio="none",
    )
    return tag(
        "svg",
        tag("use", href=f"#{name}"),
        values,
        marks(case, crop, 2.0),
        _diamond(crop, heat),
        viewBox=crop.view,
        role="img",
        aria_label=f"{panel.title}: {_values(case, heat, panel.values)}",
        class_="heat",
    )


def _diamond(crop: Crop, heat: Heat) -> Html | None:
    if heat.peak is None:
        return None
    x, y = crop.place(heat.peak)
    r = f"{4 * crop.unit:.1f}"
    path = f"M{x} {y}m0 -{r}l{r} {r}l-{r} {r}l-{r} -{r}z"
    return join(tag("path", d=path, class_=kind) for kind in ("halo", "ink"))


def _values(case: Case, heat: Heat, values: Floats) -> str:
    """A map at the prediction and at the truth: at the positions nearest to them."""
    points = to_square(np.array([case.at, case.true]), heat.box, heat.side)
    away = np.square(points[:, None, None] - heat.centres).sum(axis=-1)
    at, true = values.ravel()[away.reshape(2, -1).argmin(axis=1)]
    return f"{_share(at)} at ✕, {_share(true)} at ○"


def _share(value: float) -> str:
    return number(value, 2) if value >= 0.005 else "<0.01"


def _png(values: Floats) -> bytes:
    """A pixel for each value, in colours from the lowest to the highest."""
    from matplotlib import colormaps

    low, high = values.min(), values.max()
    steps = np.rint(255 * (values - low) / (high - low or 1)).astype(np.uint8)
    colours: npt.NDArray[np.uint8] = colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    picture = Image.fromarray(steps)
    picture.putpalette(colours.tobytes())
    out = io.BytesIO()
    picture.save(out, format="png", optimize=True)
    return out.getvalue()


def missing(known: Drill) -> list[Content]:
    """What of this cannot be shown."""
    return [tag("p", " ".join(known.notes), class_="missing")] if known.notes else []

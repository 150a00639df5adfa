"""``match``: where every point of one photograph lies in another."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    PICTURES,
    JsonOption,
    Options,
    QuietOption,
    SetOption,
    WeightsOption,
    absolute,
    app,
    terminal,
)
from distcorr.cli.pictures import parse_box, parse_numbers, refuse_other_settings, writable
from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from distcorr.algorithms.matching import Match

POINT = "X,Y, for example --points '120,80 64,200'"


@app.command("match", rich_help_panel=PICTURES)
def match_command(
    a: Annotated[str, typer.Argument(metavar="A", help="The photograph whose points are matched.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The photograph that they are found in.")],
    box_a: Annotated[
        str,
        typer.Option("--box-a", metavar="X0,Y0,X1,Y1", help="Box in A, 0-based px; else all of A."),
    ] = "",
    box_b: Annotated[
        str,
        typer.Option("--box-b", metavar="X0,Y0,X1,Y1", help="Box in B, 0-based px; else all of B."),
    ] = "",
    points: Annotated[
        str, typer.Option("--points", metavar="'X,Y X,Y'", help="Match only these points of A, px.")
    ] = "",
    feature: Annotated[
        str, typer.Option("--feature", metavar="NAME", help="conv4, sift20, module:attribute, ...")
    ] = "",
    weights: WeightsOption = "",
    side: Annotated[
        int | None,
        typer.Option(
            "--side", metavar="PX", help="Square that both are stretched to; else the network's."
        ),
    ] = None,
    settings: SetOption = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The picture, .png or .svg.")
    ] = "match.png",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Align two photographs of yours; draw where every point of A lies in B (§3).

    The cycle error says how far to trust it: the px in A by which a point misses its start when it
    is carried to B and, by the alignment of B with A, back again.

    Example:  distcorr match robin.jpg wren.jpg --box-a 40,32,310,290 --box-b 12,50,205,300
    """
    boxes = parse_box("--box-a", box_a), parse_box("--box-b", box_b)
    chosen = _points(points)
    folder, name = writable(out, "match.png", (a, b))
    sets = list(settings or ())
    refuse_other_settings("match", ("features", "flow"), sets, "flow.beta=0.01")
    if feature:
        sets.append(f"features.conv={json.dumps(feature)}")
    config, _ = Options(preset="smoke", settings=sets, weights=weights).resolve()

    import numpy as np

    from distcorr.report.match import draw
    from distcorr.stages.match import match_photographs
    from distcorr.terminal import print_rows
    from distcorr.types import Box

    found, label = match_photographs(
        (absolute(a), absolute(b)),
        config,
        tuple(Box(*box) if box else None for box in boxes),  # type: ignore[arg-type]
        side,
        np.array(chosen, float) if chosen else None,
    )
    folder.write(name, draw(found, os.path.splitext(name)[1][1:].lower()))
    document = _document(found, label, (a, b), out)
    if as_json:
        print(json.dumps(document))
        return
    if chosen:
        print_rows([{key: _short(value) for key, value in p.items()} for p in document["points"]])
    shown = terminal(quiet)
    for line in _summary(found, label):
        shown.say(line)
    shown.say(f"picture  {out}")


def _document(found: Match, label: str, files: tuple[str, str], out: str) -> dict[str, Any]:
    """A match as JSON: points in px of the photographs, displacements in cells."""
    rows = zip(
        found.points.round(3).tolist(),
        found.landings.round(3).tolist(),
        found.similarity.round(6).tolist(),
        found.cycle_error.round(3).tolist(),
        strict=True,
    )
    return {
        "files": list(files),
        "boxes": [list(map(float, view.box)) for view in (found.a, found.b)],
        "feature": found.feature,
        "source": label,
        "side": found.geometry.input_size,
        "cells": found.geometry.cells,
        "beta": found.beta,
        "data_energy": found.flow.data_energy,
        "deformation_energy": found.flow.deformation_energy,
        "energy": found.flow.energy(found.beta),
        "energy_standing_still": found.standing_still,
        "displacement": found.flow.displacement.tolist(),
        "points": [
            {"a": at_a, "b": at_b, "similarity": similarity, "cycle_error": error}
            for at_a, at_b, similarity, error in rows
        ],
        "picture": out,
    }


def _summary(found: Match, label: str) -> list[str]:
    import numpy as np

    g, w = found.geometry, found.displacement
    return [
        f"feature  {found.feature} of {label}, {g.cells} x {g.cells} cells in {g.input_size} px",
        f"energy   {found.flow.energy(found.beta):.2f}, standing still {found.standing_still:.2f}"
        f" (beta {found.beta:g})",
        f"moved    {np.hypot(w[..., 0], w[..., 1]).mean():.1f} of {g.input_size} px in the mean",
        f"alike    {found.similarity.mean():.2f} in the mean, cosine of what is matched",
        f"trust    median cycle error {np.median(found.cycle_error):.1f} px in A; "
        f"{np.mean(found.cycle_cells <= 1):.0%} of the points return to within a cell"
        if found.evidence
        else "trust    none: what is matched is not alike, so that agreement means nothing",
    ]


def _short(value: Any) -> Any:
    """A cell of the table of points."""
    if isinstance(value, list):
        return ",".join(f"{number:.1f}" for number in value)
    return round(value, 3)


def _points(text: str) -> list[list[float]]:
    found = []
    for word in text.split():
        numbers = parse_numbers(word)
        if numbers is None or len(numbers) != 2:
            raise DistcorrError(f"A point is two numbers, got {word!r}", POINT)
        found.append(numbers)
    if text and not found:
        raise DistcorrError(f"--points names no point, got {text!r}", POINT)
    return found

"""``visualize``: the stage, or a picture of the user's in place of the run's photographs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    PIPELINE,
    AddressOption,
    CategoryOption,
    DataOption,
    DryOption,
    JsonOption,
    LimitOption,
    Options,
    PresetOption,
    QuietOption,
    RunOption,
    SetOption,
    StoreOption,
    WeightsOption,
    absolute,
    app,
    existing,
    terminal,
)
from distcorr.cli.pictures import refuse_other_settings, writable
from distcorr.cli.pipeline import WaitOption, run_stages
from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from distcorr.stages.own import OwnPicture

USUAL = "visualize.png"


@app.command("visualize", rich_help_panel=PIPELINE)
def visualize_command(
    image: Annotated[
        str,
        typer.Option(
            "--image", metavar="PATH", help="Rebuild this picture of yours, and nothing else."
        ),
    ] = "",
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="FILE", help=f"Its drawing, .png or .svg; {USUAL} if not given."
        ),
    ] = "",
    run: RunOption = "",
    preset: PresetOption = "",
    settings: SetOption = None,
    data: DataOption = "",
    weights: WeightsOption = "",
    category: CategoryOption = None,
    limit: LimitOption = None,
    store: StoreOption = "",
    address: AddressOption = "",
    dry_run: DryOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    wait: WaitOption = False,
) -> None:
    """Rebuild photographs from nearest neighbours, average receptive fields (§2, Figures 1, 2).

    Example:  distcorr visualize -r runs/paper --image robin.jpg
    """
    if not image:
        if out:
            raise DistcorrError(
                "--out is the drawing of --image; the run's figures are in its report folder.",
                "leave it out, or give --image PATH",
            )
        options = Options(run, preset, settings, data, weights, category, limit, address, store)
        run_stages(("visualize",), options, dry_run, as_json, quiet, wait)
        return
    refused = {"--preset": preset, "--data": data, "--category": category, "--limit": limit}
    refused |= {"--store": store, "--dry-run": dry_run, "--wait": wait}
    if given := [name for name, value in refused.items() if value not in ("", None, False)]:
        raise DistcorrError(
            f"--image works on the photographs that a run has, got {', '.join(given)} as well.",
            "leave it out; --run says which run",
        )
    sets = list(settings or ())
    allowed = ("visualize", "compute", "features.weights")
    refuse_other_settings("visualize --image", allowed, sets, "visualize.mirrored=true")
    _rebuild(image, out or USUAL, run or "runs/smoke", weights, sets, address, as_json, quiet)


def _rebuild(
    image: str,
    out: str,
    uri: str,
    weights: str,
    settings: list[str],
    address: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """The picture, its drawing and its numbers."""
    folder, name = writable(out, USUAL, (image,))
    existing(uri)
    options = Options(uri, settings=settings, weights=weights, address=address or "inline")
    config, run = options.resolve()

    from distcorr.report import figure1
    from distcorr.stages.cluster import Session
    from distcorr.stages.own import rebuild_own
    from distcorr.stages.pipeline import Context
    from distcorr.terminal import print_rows

    shown = terminal(quiet)
    with Session(config.compute) as session:
        made = rebuild_own(Context(config, run, session, shown), absolute(image))
    for note in made.notes:
        shown.warn(note)
    kind = name.rpartition(".")[2].lower()
    folder.write(name, figure1.sheet(made, vars(config.visualize)).drawn(kind))
    if as_json:
        print(json.dumps(_document(made) | {"file": image, "picture": out}))
        return
    rows = (_row(row) for row in _document(made)["rebuilt"])
    print_rows(list(rows))
    if made.copies:
        shown.say(f"left out  {len(made.copies)} near copies, {made.copies[0]} for one")
    shown.say(f"picture  {out}")


def _document(made: OwnPicture) -> dict[str, Any]:
    """The numbers as JSON; None for nothing."""
    rows = [row._asdict() for row in made.rebuilt]
    keys = ("layer", "method", "k", "psnr", "colour", "ssim", "cells", "short")
    return {
        "bases": {layer: base._asdict() for layer, base in made.bases.items()},
        "copies": made.copies,
        "notes": made.notes,
        "rebuilt": [{key: _finite(row[key]) for key in keys} for row in rows],
    }


def _finite(value: Any) -> Any:
    """JSON has neither NaN (nothing to compare) nor infinity (equal, so that colour is 0)."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(row: dict[str, Any]) -> dict[str, Any]:
    places = {"psnr": 2, "colour": 1, "ssim": 3}
    return {
        key: round(value, places[key]) if key in places and value is not None else value
        for key, value in row.items()
    }

"""``predict``: the keypoints of one object in a photograph of the user's."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    PICTURES,
    JsonOption,
    QuietOption,
    RunOption,
    SetOption,
    WeightsOption,
    absolute,
    app,
    existing,
    terminal,
)
from distcorr.cli.pictures import parse_box, refuse_other_settings, writable
from distcorr.errors import MISSING, DistcorrError, did_you_mean

if TYPE_CHECKING:
    from distcorr.data.portable import LayerDetectors, Portable
    from distcorr.stages.locate import Located
    from distcorr.types import Box

ALL = "all"  # of the picture, as a box


@app.command("predict", rich_help_panel=PICTURES)
def predict_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The photograph.")],
    category: Annotated[
        str, typer.Option("--category", "-c", metavar="NAME", help="What the object is.")
    ] = "",
    box: Annotated[
        str,
        typer.Option(
            "--box", metavar="X0,Y0,X1,Y1", help="Box around the object, 0-based px; or all."
        ),
    ] = "",
    run: RunOption = "",
    detectors: Annotated[
        str,
        typer.Option("--detectors", metavar="FILE", help="RUN/detectors/NAME.npz, without a run."),
    ] = "",
    feature: Annotated[
        str, typer.Option("--feature", metavar="LAYER", help="conv5, dsift8, ...; else the first.")
    ] = "",
    eta: Annotated[
        float | None,
        typer.Option("--eta", metavar="0..1", help="Weight of the prior; else the run's choice."),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Predict between the cells as well.")
    ] = False,
    weights: WeightsOption = "",
    settings: SetOption = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The picture, .png or .svg.")
    ] = "predict.png",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the keypoints of one object in a photograph of yours, by a run's detectors (§5).

    The score, 0 to 1, is what detector and prior make of the place together.

    Example:  distcorr predict cat.jpg --category cat --box 40,32,310,290 -r runs/paper
    """
    around = _box(box)
    folder, name = writable(out, "predict.png", (image,))
    sets = list(settings or ())
    refuse_other_settings("predict", ("features",), sets, "features.weights_sha256=...")
    if run and detectors:
        raise DistcorrError(
            "Detectors are those of a run or of a file, got both --run and --detectors.",
            "leave one of them out",
        )

    from distcorr.report.predicted import draw
    from distcorr.stages import locate
    from distcorr.terminal import print_rows

    if detectors:
        portable, path = _of_file(detectors, category), ""
    else:
        portable, path = _of_run(run or "runs/smoke", category)
    by = locate.choose(portable, feature)
    config = locate.settings(portable, absolute(weights) if weights else path, sets)
    chosen = by.eta if eta is None else eta
    found = locate.locate_keypoints(absolute(image), around, portable, by, config, chosen, refine)
    document = _document(found, portable, by, chosen, refine) | {"file": image, "picture": out}
    control = portable.origin.get("detect", {}).get("control", "none")
    mark = f"CONTROL ({control}): " if control != "none" else ""
    caption = f"{mark}{portable.category} by {by.feature.layer}, eta {chosen:g}"
    document["control"] = control
    kind = os.path.splitext(name)[1][1:].lower()
    folder.write(name, draw(found.view, portable.names, found.points, found.scores, caption, kind))
    if as_json:
        print(json.dumps(document))
        return
    rows = ({k: _short(v) for k, v in each.items()} for each in document["keypoints"])
    print_rows([{k: each[k] for k in ("keypoint", "x", "y", "score")} for each in rows])
    shown = terminal(quiet)
    shown.say(f"feature  {mark}{found.label}, prior of weight {chosen:g}")
    shown.say(f"trained  on {document['trained_on']} objects; {portable.origin.get('data', '')}")
    if document["pck"] is not None:  # of this very eta
        shown.say(f"trust    PCK@0.1 of {document['pck']:.1%} on the run's validation objects")
    shown.say(f"picture  {out}")


def _of_run(uri: str, category: str) -> tuple[Portable, str]:
    """A run's detectors, and the path of its weights."""
    from distcorr.stages.export import of_category

    made = existing(uri)
    portable = of_category(made, category)
    config = made.config()
    return portable, config.features.weights if config else ""


def _of_file(file: str, category: str) -> Portable:
    from distcorr.data.portable import from_bytes
    from distcorr.data.storage import Folder

    path = absolute(file)
    try:
        content = Folder(os.path.dirname(path)).read(os.path.basename(path))
    except OSError as error:
        raise DistcorrError(
            f"There is no file of detectors {file}.",
            "distcorr detect writes RUN/detectors/CATEGORY.npz for every category of a run",
            MISSING,
        ) from error
    portable = from_bytes(content, file)
    if category and category != portable.category:
        guess = did_you_mean(category, [portable.category])
        raise DistcorrError(
            f"{file} has detectors of {portable.category}, not of {category}.{guess}",
            f"--category {portable.category}, or give the file of {category}",
        )
    return portable


def _box(text: str) -> Box | None:
    """None is all of the picture, which has to be asked for."""
    from distcorr.types import Box

    if text == ALL:
        return None
    numbers = parse_box("--box", text)
    if numbers is None:
        raise DistcorrError(
            "predict needs the box around the object: its first and last column and row of pixels.",
            "--box X0,Y0,X1,Y1 in px from 0, as --box 40,32,310,290; or --box all where the object "
            "fills the picture",
        )
    return Box(*numbers)


def _document(
    found: Located, portable: Portable, by: LayerDetectors, eta: float, refine: bool
) -> dict[str, Any]:
    """A prediction as JSON: px in the photograph, sigma in the square; None for nothing."""
    import numpy as np

    def numbers(values: Any, digits: int) -> list[Any]:
        return [None if np.isnan(v) else round(float(v), digits) for v in values]

    rows = zip(
        portable.names,
        numbers(found.points[:, 0], 3),
        numbers(found.points[:, 1], 3),
        numbers(found.scores, 6),
        numbers(found.expected[:, 0], 3),
        numbers(found.expected[:, 1], 3),
        strict=True,
    )
    keys = ("keypoint", "x", "y", "score", "prior_x", "prior_y")
    return {
        "category": portable.category,
        "box": list(map(float, found.view.box)),
        "feature": by.feature.layer,
        "source": found.label,
        "eta": eta,
        "refined": refine,
        "sigma": by.sigma,
        "side": by.geometry.input_size,
        "trained_on": len(by.rows),
        "pck": None if np.isnan(by.pck) or eta != by.eta or refine else by.pck,
        "origin": dict(portable.origin),
        "keypoints": [dict(zip(keys, row, strict=True)) for row in rows],
    }


def _short(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value

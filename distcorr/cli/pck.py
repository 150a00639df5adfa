"""``pck``: one file of predictions by the definitions of PCK that papers use."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    RESULTS,
    JsonOption,
    QuietOption,
    app,
    existing,
    terminal,
)
from distcorr.errors import DistcorrError, did_you_mean

if TYPE_CHECKING:
    from distcorr.algorithms.dialects import Dialect
    from distcorr.config import Config
    from distcorr.data.prediction_files import Predictions
    from distcorr.data.run import Run

ALL = "all"
USUAL = 0.1  # what all of them report
DETECTED = "report/predictions-detect.parquet"  # of a run, what Table 4 is counted from


@app.command("pck", rich_help_panel=RESULTS)
def pck_command(
    predictions: Annotated[
        str,
        typer.Argument(metavar="FILE|RUN", help="Predictions, .parquet, .csv or .json; or a run."),
    ],
    dialect: Annotated[
        list[str] | None,
        typer.Option(
            "--dialect", "-d", metavar="NAME", help="A definition, or all; repeat for more."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", metavar="NAME", help="Only this method; repeat for more."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option("--alpha", "-a", metavar="A", help="Tolerance, 0.1 if none; repeat for more."),
    ] = None,
    truth: Annotated[
        str,
        typer.Option(
            "--truth", metavar="RUN", help="Check against its data set, and take its boxes."
        ),
    ] = "",
    as_json: JsonOption = False,
    csv: Annotated[
        str, typer.Option("--csv", metavar="FILE", help="Write the table there as CSV.")
    ] = "",
    quiet: QuietOption = False,
) -> None:
    """Score one file of predictions by the definitions of PCK that papers use.

    A row per keypoint: image, keypoint, x, y, true_x, true_y (px); method
    and category; scale (max(h, w) of the box) or box_x0 to box_y1, and
    image_width, image_height, as a definition needs them; instance where an
    image shows several objects, or belongs to several pairs.

    Example:  distcorr pck predictions.csv -a 0.1 -a 0.05
    """
    chosen = chosen_dialects(dialect or [ALL])
    alphas = tolerances(alpha or [USUAL])

    from distcorr.algorithms.dialect_scores import evaluate
    from distcorr.config import Config
    from distcorr.report.dialects import counted, few, rows, spread, swaps, to_csv

    named = bool(dialect) and ALL not in (dialect or [])
    read, config = _read(predictions, truth, chosen, named)
    config = config or Config()
    read = read.shared(method or [])
    methods = read.of()
    lacking = {d.name: words for d in chosen if (words := read.lacks(d.needs))}
    scored = [d for d in chosen if d.name not in lacking]
    if not scored:
        needed = "; ".join(dict.fromkeys(lacking.values()))
        raise DistcorrError(
            f"{predictions} has too little for {', '.join(lacking)}.", f"it needs {needed}"
        )
    evaluation = config.evaluation
    scores = evaluate(methods, scored, alphas, resamples=evaluation.resamples, seed=config.seed)
    found = rows(scores, evaluation.level)
    if csv:
        from distcorr.data.storage import Folder

        folder, name = os.path.split(csv)
        Folder(folder or ".").write(name, to_csv(found).encode())
    document = {
        "file": read.file,
        "level": evaluation.level,
        "rows": found,
        "spread": spread(found),
        "swaps": swaps(found),
        "lacking": lacking,
        "definitions": {d.name: _said(d) for d in scored},
        "counted": counted(scored),
        "notes": [*read.notes, *few(read)],
    }
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _print(document)
    if csv:
        terminal(quiet).say(f"wrote {csv}")


def _read(
    path: str, truth: str, chosen: Sequence[Dialect], named: bool
) -> tuple[Predictions, Config | None]:
    """The predictions, with what a run knows of their objects; and that run's settings."""
    from distcorr.data.prediction_files import read
    from distcorr.data.run import MANIFEST, Run

    own = "://" not in path and os.path.isdir(path)
    if own or ("://" in path and Run(path).folder.exists(MANIFEST)):
        run = existing(path)
        found = _transferred(run)
        return _of_run(found, existing(truth) if truth else run, chosen, named), run.config()
    found = read(path)
    return (_of_run(found, existing(truth), chosen, named) if truth else found), None


def _transferred(run: Run) -> Predictions:
    """Table 2's predictions by the run's own settings, whatever report was made of it last."""
    from distcorr.data.prediction_files import from_bytes
    from distcorr.data.storage import parquet
    from distcorr.report.predictions import predictions

    other = f"distcorr pck {run}/{DETECTED} --truth {run}   scores Table 4's predictions"
    detected = run.folder.exists(DETECTED)
    try:
        table = predictions(run)
    except DistcorrError as error:
        hint = f"{error.hint}; {other}" if detected else error.hint
        raise DistcorrError(error.message, hint, error.exit_code) from error
    found = from_bytes(parquet(table), str(run))
    return found.having({}, f"Scored: Table 2's predictions. {other}.") if detected else found


def _of_run(found: Predictions, run: Run, chosen: Sequence[Dialect], named: bool) -> Predictions:
    from distcorr.data.prediction_truth import against, opened, with_sizes

    store = opened(run)
    found = against(found, store, run)
    if not any("size" in d.needs for d in chosen) or not found.lacks(frozenset({"size"})):
        return found
    try:
        return with_sizes(found, store, run)
    except DistcorrError as error:
        if named:
            raise
        return found.having({}, error.message)


def chosen_dialects(names: Sequence[str]) -> list[Dialect]:
    """Definitions by name; all are those that nothing is known to be wrong with."""
    from distcorr.algorithms.dialects import DIALECTS

    for name in names:
        if name not in DIALECTS and name != ALL:
            raise DistcorrError(
                f"Unknown dialect {name!r}.{did_you_mean(name, [*DIALECTS, ALL])}",
                f"known: {ALL}, {', '.join(DIALECTS)}",
            )
    return [d for d in DIALECTS.values() if d.name in names or (ALL in names and not d.error)]


def tolerances(alphas: Sequence[float]) -> list[float]:
    """Ascending, each once."""
    for alpha in alphas:
        if not (math.isfinite(alpha) and alpha > 0):
            raise DistcorrError(
                f"--alpha must be a finite number above 0, got {alpha:g}.",
                "a share of the box's longer side, for example --alpha 0.1",
            )
    return sorted(set(alphas))


def _said(dialect: Dialect) -> dict[str, str]:
    said = {"definition": dialect.definition, "source": dialect.source}
    said["alphas"] = ", ".join(f"{alpha:g}" for alpha in dialect.alphas)
    return said | ({"error": dialect.error} if dialect.error else {})


def _print(document: dict[str, Any]) -> None:
    """A table per tolerance, what the definitions are, and how far they differ."""
    from distcorr.terminal import print_rows

    found = document["rows"]
    for alpha in dict.fromkeys(row["alpha"] for row in found):
        at = [row for row in found if row["alpha"] == alpha]
        print(
            f"PCK at {alpha:g} in per cent, with {100 * document['level']:g} % intervals by"
            f" photograph; {at[0]['n']:,} keypoints"
        )
        table: dict[str, dict[str, Any]] = {}
        for row in at:
            cell = f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
            table.setdefault(row["dialect"], {"dialect": row["dialect"]})[row["method"]] = cell
        print_rows(list(table.values()))
        print()
    _print_definitions(document["definitions"])
    if document["spread"]:
        print(f"\nHow far the definitions differ on this file ({document['counted']}):")
        print_rows(document["spread"])
        _print_order(document)
    for name, words in document["lacking"].items():
        print(f"not scored: {name} needs {words}")
    for note in document["notes"]:
        print(f"note: {note}")


def _print_definitions(definitions: dict[str, dict[str, str]]) -> None:
    """In words, each once."""
    alike: dict[str, list[str]] = {}
    for name, said in definitions.items():
        wrong = f"; KNOWN TO BE WRONG: {said['error']}" if "error" in said else ""
        alike.setdefault(said["definition"] + wrong, []).append(name)
    for words, names in alike.items():
        print(f"{', '.join(names)}: {words}")


def _print_order(document: dict[str, Any]) -> None:
    """Whether it depends on the definition which method is the better one."""
    if len({row["method"] for row in document["spread"]}) < 2:
        return
    if not document["swaps"]:
        print("Which method is better does not depend on the definition.")
    for turn in document["swaps"]:
        sides = sorted(("above", "below"), key=lambda side: len(turn[side]))  # the fewer by name
        few, many = (turn[side] for side in sides)
        print(
            f"At {turn['alpha']:g}, {turn['method']} is {sides[0]} {turn['other']} by "
            f"{', '.join(few)}; {sides[1]} by {len(many)} others."
        )

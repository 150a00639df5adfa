"""``evaluate-pairs``: a benchmark of pairs, matched by several methods and scored."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    PIPELINE,
    AddressOption,
    DryOption,
    JsonOption,
    Options,
    PresetOption,
    QuietOption,
    SetOption,
    WeightsOption,
    absolute,
    app,
    terminal,
)
from distcorr.cli.pck import ALL, USUAL, chosen_dialects, tolerances
from distcorr.cli.pipeline import WaitOption, run_stages

if TYPE_CHECKING:
    from distcorr.report.pairs import Scores

NAME = "evaluate-pairs"
RUN = "runs/pairs"


@app.command(NAME, rich_help_panel=PIPELINE)
def evaluate_pairs_command(
    data: Annotated[
        str,
        typer.Option("--data", metavar="PATH|URI", help="The pairs; drawn objects if not given."),
    ] = "",
    run: Annotated[
        str, typer.Option("--run", "-r", metavar="DIR|URI", help=f"Run folder; else {RUN}.")
    ] = "",
    layout: Annotated[
        str,
        typer.Option(
            "--layout", metavar="NAME", help="pf-willow, pf-pascal, spair-71k, table; else found."
        ),
    ] = "",
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Of the pairs; test if not given.")
    ] = "",
    category: Annotated[
        list[str] | None,
        typer.Option("--category", "-c", metavar="NAME", help="Only this one; repeat for more."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="At most N pairs per category.")
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            "-f",
            metavar="NAME",
            help="conv4, sift20, module:attribute, ...; repeat for more.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="nn, mutual, softargmax, flow; repeat for more, all if none.",
        ),
    ] = None,
    weights: WeightsOption = "",
    dialect: Annotated[
        list[str] | None,
        typer.Option(
            "--dialect", "-d", metavar="NAME", help="A definition of PCK, or all; repeat for more."
        ),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option("--alpha", "-a", metavar="A", help="Tolerance, 0.1 if none; repeat for more."),
    ] = None,
    preset: PresetOption = "",
    settings: SetOption = None,
    address: AddressOption = "",
    dry_run: DryOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
    csv: Annotated[
        str, typer.Option("--csv", metavar="FILE", help="Write the table there as CSV.")
    ] = "",
    quiet: QuietOption = False,
) -> None:
    """Match given pairs of photographs by several methods, and score them beside baselines.

    The pairs are those of PF-WILLOW, PF-PASCAL, SPair-71k or a table of
    yours; distcorr pck RUN/report/predictions-pairs.parquet scores them by
    every definition.

    Example:  distcorr evaluate-pairs --data PF-PASCAL -r runs/pairs -f conv4 --weights net.npz
    """
    alphas = tolerances(alpha or [USUAL])
    asked = {
        "root": absolute(data) if data else "",
        "layout": layout,
        "split": split,
        "categories": category,
        "limit": limit,
        "features": feature,
        "methods": method,
        "dialects": dialect,
    }
    given = {key: value for key, value in asked.items() if value not in ("", None, [])}
    sets = [f"pairs.{key}={json.dumps(value)}" for key, value in given.items()]
    options = Options(
        run or RUN, preset, [*(settings or ()), *sets], weights=weights, address=address
    )
    config, folder = options.resolve()
    chosen = chosen_dialects(config.pairs.dialects)

    run_stages((NAME,), options, dry_run, as_json and dry_run, quiet, wait)
    if dry_run:
        return

    from distcorr.report.pairs import FILE, score

    found = score(folder, chosen, alphas, config.evaluation, config.seed)
    if csv:
        from distcorr.data.storage import Folder

        at, name = os.path.split(csv)
        Folder(at or ".").write(name, found.to_csv().encode())
    if as_json:
        print(json.dumps(asdict(found) | {"file": f"{folder}/{FILE}"}, indent=1, allow_nan=False))
    else:
        _print(found)
    shown = terminal(quiet)
    shown.say(f"predictions  {folder}/{FILE}")
    if csv:
        shown.say(f"wrote {csv}")


def _print(found: Scores) -> None:
    """A table per definition and tolerance, then the first of them by category."""
    from distcorr.terminal import print_rows

    first = found.rows[0]["dialect"], found.rows[0]["alpha"]
    print(f"{found.stamp['data']}; {found.stamp['features']}")
    for dialect, alpha in dict.fromkeys((row["dialect"], row["alpha"]) for row in found.rows):
        at = [row for row in found.rows if (row["dialect"], row["alpha"]) == (dialect, alpha)]
        mine = [row for row in at if row["category"] == ALL]
        print(
            f"\nPCK at {alpha:g} in per cent by {dialect}, with {100 * found.level:g} % intervals"
            f" by photograph; {mine[0]['n']:,} points"
        )
        print_rows([_line(row) for row in mine])
        if (dialect, alpha) == first and len(at) > len(mine):
            print("\nby category:")
            _print_categories([row for row in at if row["category"] != ALL])
    print()
    for name, words in found.definitions.items():
        print(f"{name}: {words}")
    for name, words in found.lacking.items():
        print(f"not scored: {name} needs {words}")
    for note in found.notes:
        print(f"note: {note}")


def _print_categories(rows: list[dict[str, Any]]) -> None:
    from distcorr.terminal import print_rows

    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(row["method"], {"method": row["method"]})
        line[row["category"]] = f"{row['value']:.1f}"
    print_rows(list(table.values()))


def _line(row: dict[str, Any]) -> dict[str, Any]:
    above = ""
    if row["gain"] is not None:
        above = f"{row['gain']:+.1f} [{row['gain_low']:+.1f}, {row['gain_high']:+.1f}]"
    return {
        "method": row["method"],
        "PCK": f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
        "above the better baseline": above,
    }

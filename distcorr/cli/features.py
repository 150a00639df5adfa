"""What features there are, and what a store holds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from distcorr.cli.common import (
    RESULTS,
    START,
    JsonOption,
    RunOption,
    WeightsOption,
    absolute,
    app,
    existing,
    terminal,
)
from distcorr.errors import MISSING, DistcorrError

store_app = typer.Typer(no_args_is_help=True, help="Look into a feature store, and check it.")
app.add_typer(store_app, name="store", rich_help_panel=RESULTS)

StoreFolder = Annotated[
    str, typer.Option("--store", metavar="PATH|URI", help="The store; or give its run with -r.")
]


@app.command("features", rich_help_panel=START)
def features_command(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A network, or module:attribute of your own.")
    ] = "",
    weights: WeightsOption = "",
    as_json: JsonOption = False,
) -> None:
    """Which features there are; of one of them, every layer's receptive field (Table 1).

    With --weights, or for an extractor, the effective receptive field is measured as well.

    Example:  distcorr features caffenet
    """
    from distcorr.report import catalogue
    from distcorr.terminal import print_rows

    rows = catalogue.layers(name, weights) if name else catalogue.sources()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(rows)
        for note in catalogue.notes(name, bool(weights)):
            terminal().say(note)
    if problems := catalogue.problems(name):
        raise DistcorrError(
            f"{name} does not keep its contract: {'; '.join(problems)}",
            "python -c 'import distcorr.algorithms.plugins as p; help(p)' states the contract",
        )


@store_app.command("ls")
def store_ls(run: RunOption = "", store: StoreFolder = "", as_json: JsonOption = False) -> None:
    """Every table of a store: shards, rows and bytes.

    Example:  distcorr store ls --store s3://bucket/features
    """
    from distcorr.data.store import TableStore
    from distcorr.terminal import print_rows

    opened = TableStore(_folder(run, store))
    rows: list[dict[str, Any]] = [info._asdict() for info in opened.tables()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_rows(rows)
    total = sum(row["bytes"] for row in rows)
    terminal().say(f"{len(rows)} tables, {total / 1e9:.2f} GB in {opened.folder}")


@store_app.command("verify")
def store_verify(
    run: RunOption = "",
    store: StoreFolder = "",
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete the store's own among them, to be made anew.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Recompute every checksum; name truncated, damaged, unfinished and foreign files.

    Example:  distcorr store verify -r runs/paper
    """
    from distcorr.data.store import TableStore

    opened = TableStore(_folder(run, store))
    problems = [problem for _, found in opened.verify() for problem in found]
    if as_json:
        print(json.dumps([problem._asdict() for problem in problems], indent=1))
    else:
        for problem in problems:
            print(f"{problem.file}: {problem.what}")
    if remove:
        ours = [problem for problem in problems if problem.ours]
        for problem in ours:
            opened.folder.delete(problem.file)
        left = f"; {len(problems) - len(ours)} that are not the store's own are left alone"
        terminal().say(f"deleted {len(ours)} files{left if len(ours) < len(problems) else ''}")
    elif problems:
        raise DistcorrError(
            f"{len(problems)} files of {opened.folder} are not what they should be.",
            "--remove deletes those that are the store's own; distcorr build-db makes them anew",
            MISSING,
        )
    else:
        terminal().say(f"{opened.folder} is whole")


def _folder(run: str, store: str) -> Any:
    from distcorr.data.storage import Folder

    if store:
        folder = Folder(absolute(store))
        if not folder.exists():
            raise DistcorrError(f"There is no store {folder}.", "give its folder: --store PATH")
        return folder
    stage = existing(run or "runs/smoke").current("build-db")
    if stage is None:
        raise DistcorrError("This run has no features yet.", "distcorr build-db makes them")
    return stage.files

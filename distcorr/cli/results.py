"""What a run holds and says: status, report, config."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr import config as configuration
from distcorr.cli.common import (
    ORDER,
    RESULTS,
    START,
    JsonOption,
    Options,
    PresetOption,
    RunOption,
    SetOption,
    VerboseOption,
    app,
    draw,
    existing,
    print_tables,
    terminal,
    write_page,
)
from distcorr.config import EvaluationConfig
from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from distcorr.data.run import Run
    from distcorr.report.tables import Report


@app.command(rich_help_panel=RESULTS)
def status(
    run: RunOption = "runs/smoke", as_json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """How far is a run? Reads the folder only; works while the run is going on.

    Example:  distcorr status -r runs/paper -v
    """
    from distcorr.terminal import print_status

    rows = _status(existing(run))
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_status(rows, verbose)


@app.command(rich_help_panel=RESULTS)
def report(
    run: RunOption = "runs/smoke",
    as_json: JsonOption = False,
    csv: Annotated[
        str, typer.Option("--csv", metavar="DIR", help="Write one CSV per table there.")
    ] = "",
    figures: Annotated[
        bool, typer.Option("--figures", help="Draw all figures anew, for the page.")
    ] = False,
    category: Annotated[
        list[str] | None,
        typer.Option(
            "--category",
            "-c",
            metavar="NAME",
            help="Figure 3, and of the first Figure 5; repeatable.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Combine and score anew: evaluation.*"),
    ] = None,
    compare: Annotated[
        str,
        typer.Option(
            "--compare", metavar="RUN", help="PCKs and accuracies beside those of another run."
        ),
    ] = "",
) -> None:
    """Tables and one HTML page from what is saved; aligns and trains nothing.

    Example:  distcorr report -r runs/paper --set evaluation.order=similarity
    """
    from distcorr.report import tables

    opened = existing(run)
    evaluation = _evaluation(opened, settings or [])
    if compare:
        if csv or figures or category:
            raise DistcorrError(
                "--compare has a table and a figure of its own, got --csv, --figures or -c too.",
                f"distcorr report -r {run} --compare {compare}",
            )
        _compare(opened, existing(compare), evaluation, as_json)
        return
    built = tables.build(opened, evaluation)
    if csv:
        from distcorr.data.storage import Folder

        for name in built.tables:
            Folder(csv).write(f"{name}.csv", built.to_csv(name).encode())
            terminal().say(f"wrote {csv}/{name}.csv")
    print_tables(built, as_json)
    asked = figures or bool(category)
    if settings and not asked:
        return  # a look at other settings leaves the folder alone
    try:
        if asked or not _saved(opened, built):
            tables.save(built, opened)  # so that what is in the folder belongs together
            draw(opened, evaluation, category or ())
        write_page(opened, built, evaluation)
    except DistcorrError as error:
        if asked:
            raise
        terminal().warn(f"no page: {error.message}")  # the tables have been shown


def _compare(run: Run, other: Run, evaluation: EvaluationConfig | None, as_json: bool) -> None:
    from distcorr.report import compare
    from distcorr.terminal import print_comparison

    found = compare.compare(run, other, evaluation)
    names = compare.save(found, run)
    if as_json:
        print(found.to_json(), end="")
        return
    print_comparison(found)
    for name in names:
        terminal().say(f"wrote {run}/{name}")


def _saved(run: Run, built: Report) -> bool:
    """Whether the tables in the run's report folder are these."""
    name = "report/tables.json"
    return run.folder.exists(name) and run.folder.read(name) == built.to_json().encode()


def _evaluation(run: Run, settings: list[str]) -> EvaluationConfig | None:
    """The run's way to combine and score what is saved, with the changes asked for."""
    other = [text for text in settings if not text.strip().startswith("evaluation.")]
    if other:
        raise DistcorrError(
            "distcorr report aligns and trains nothing and takes evaluation settings only, got "
            f"{other[0]}.",
            f"distcorr run -r {run} --set {other[0]}   computes what is missing, and reports",
        )
    config = run.config()
    if config is None:
        return None  # a run that has begun nothing: the report says so
    document = configuration.parse_toml(configuration.dump(config).encode(), "configuration")
    return configuration.load(overrides=settings, document=document).evaluation


@app.command("config", rich_help_panel=START)
def config_command(
    run: RunOption = "",
    preset: PresetOption = "",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every setting, its value and where it comes from, as TOML that --preset reads back.

    Example:  distcorr config -p paper > mine.toml
    """
    config, _ = Options(run, preset, settings).resolve()
    if as_json:
        print(json.dumps(asdict(config), indent=1))
    else:
        print(configuration.dump(config, comments=True), end="")


def _status(run: Run) -> list[dict[str, Any]]:
    rows = []
    others = run.manifest()["stages"].keys() - {*ORDER}  # evaluate-pairs
    for name in (*ORDER, *sorted(others)):
        entry = run.manifest()["stages"].get(name, {})
        stage = run.current(name)
        done = len(stage.markers()) if stage else 0
        finished = run.finished(name) is not None
        rows.append(
            {
                "stage": name,
                "key": entry.get("key", ""),
                "shards": entry.get("shards", 0),
                "done": min(done, entry.get("shards", 0)),
                "finished": finished,
                "outdated": bool(stage and stage.done()) and not finished,
                "dead": [vars(letter) for letter in stage.dead_letters()] if stage else [],
                "failed": [] if finished else _last_failures(run, name, entry.get("key", "")),
            }
        )
    return rows


def _last_failures(run: Run, name: str, key: str) -> list[dict[str, Any]]:
    """Failed shards of the newest log of a stage."""
    logs = sorted(n for n in run.folder.sizes("logs") if re.match(f"{name}-{key}-", n))
    if not key or not logs:
        return []
    lines = run.folder.read(f"logs/{logs[-1]}").decode().splitlines()
    return [line for line in map(json.loads, lines) if line["error"]]

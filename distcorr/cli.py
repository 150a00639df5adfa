"""The command line: parse, call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from distcorr import config as configuration
from distcorr.config import PRESETS, Config
from distcorr.errors import INTERRUPTED, USAGE, DistcorrError, did_you_mean

if TYPE_CHECKING:
    from distcorr.data.run import Run
    from distcorr.stages.pipeline import Context
    from distcorr.terminal import Terminal

ORDER = ("build-db", "neighbors", "transfer")


class _Group(TyperGroup):
    """Turns our errors into two lines and an exit code, for every command in one place."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DistcorrError as error:
            _terminal().error(error)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as stop:
            _terminal().close()
            print("stopped; run the same command to continue", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from stop


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Do convnets learn correspondence? Long, Zhang & Darrell (NIPS 2014), as Ray batch jobs."
    "\n\nExample:  distcorr run -p smoke        the whole job on drawn data, about a minute",
    epilog="Exit codes: 0 done · 2 usage · 3 data or weights missing · 4 some shards failed · "
    "130 stopped",
)

RunOption = Annotated[
    str,
    typer.Option("--run", "-r", metavar="DIR|URI", help="Run folder; runs/PRESET if not given."),
]
PresetOption = Annotated[
    str,
    typer.Option("--preset", "-p", metavar="NAME|FILE", help="smoke, paper, or a .toml file."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting; distcorr config lists them."),
]
DataOption = Annotated[
    str, typer.Option("--data", metavar="PATH|URI", help="VOCdevkit/ and annotations/ are here.")
]
WeightsOption = Annotated[
    str, typer.Option("--weights", metavar="PATH", help="Network weights, .npz or .caffemodel.")
]
CategoryOption = Annotated[
    list[str] | None,
    typer.Option("--category", "-c", metavar="NAME", help="Only this category; repeat for more."),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", help="At most N instances per category and split."),
]
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="WHERE", help="inline, local, auto, or a Ray address."),
]
DryOption = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Every item and failure.")]

START, PIPELINE, RESULTS = "Start here", "Pipeline", "Results"


def main() -> None:
    """Entry point of ``distcorr`` and ``python -m distcorr``."""
    app(prog_name="distcorr")


# -- commands ----------------------------------------------------------------------------------


def _stage_command(name: str, stages: tuple[str, ...], text: str) -> None:
    """``run`` and the single stages take the same options."""

    def command(
        run: RunOption = "",
        preset: PresetOption = "",
        settings: SetOption = None,
        data: DataOption = "",
        weights: WeightsOption = "",
        category: CategoryOption = None,
        limit: LimitOption = None,
        address: AddressOption = "",
        dry_run: DryOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        options = _Options(run, preset, settings, data, weights, category, limit, address)
        _run_stages(stages, options, dry_run, as_json, quiet)

    app.command(name, rich_help_panel=PIPELINE, help=text)(command)


_stage_command(
    "run",
    ORDER,
    "All stages in order, skipping what is done, then the report.\n\n"
    "Example:  distcorr run -p paper --data VOC --weights bvlc_reference_caffenet.caffemodel",
)
_stage_command(
    "build-db",
    ("build-db",),
    "Extract features into the sharded Parquet store (§2).\n\n"
    "Example:  ray job submit -- distcorr build-db -p paper --data s3://b/voc -r s3://b/runs/paper",
)
_stage_command(
    "neighbors",
    ("neighbors",),
    "Find the 25 training instances most like every target (§3).\n\n"
    "Example:  distcorr neighbors -r runs/paper",
)
_stage_command(
    "transfer",
    ("transfer",),
    "Align by belief propagation and transfer keypoints (§3, Table 2).\n\n"
    "Example:  distcorr transfer -r runs/paper --set flow.beta=0.01",
)


@app.command(rich_help_panel=RESULTS)
def status(
    run: RunOption = "runs/smoke", as_json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """How far is a run? Reads the folder only; works while the run is going on.

    Example:  distcorr status -r runs/paper -v
    """
    from distcorr.terminal import print_status

    rows = _status(_existing(run))
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
        bool, typer.Option("--figures", help="Draw Figure 3 into the run's report folder.")
    ] = False,
) -> None:
    """PCK tables from the saved predictions.

    Example:  distcorr report -r runs/paper --csv tables
    """
    from distcorr.report import tables

    opened = _existing(run)
    built = tables.build(opened)
    if csv:
        from distcorr.data.storage import Folder

        for name in built.tables:
            Folder(csv).write(f"{name}.csv", built.to_csv(name).encode())
            _terminal().say(f"wrote {csv}/{name}.csv")
    _print_report(built, as_json)
    if figures:
        _draw(opened)


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
    config, _ = _Options(run, preset, settings).resolve()
    if as_json:
        print(json.dumps(asdict(config), indent=1))
    else:
        print(configuration.dump(config, comments=True), end="")


# -- what the commands share -------------------------------------------------------------------


class _Options:
    """The shared options, and the configuration and run folder that they amount to."""

    def __init__(
        self,
        run: str = "",
        preset: str = "",
        settings: list[str] | None = None,
        data: str = "",
        weights: str = "",
        category: list[str] | None = None,
        limit: int | None = None,
        address: str = "",
    ) -> None:
        self.run, self.preset, self.data, self.weights = run, preset, data, weights
        sets = list(settings or ())
        if data:
            sets.append(f"dataset.root={json.dumps(_absolute(data))}")
        if weights:
            sets.append(f"features.weights={json.dumps(_absolute(weights))}")
        if category:
            sets.append(f"dataset.categories={json.dumps(category)}")
        if limit is not None:
            sets.append(f"dataset.limit={limit}")
        if address:
            sets.append(f"compute.address={json.dumps(address)}")
        self.sets = sets

    def resolve(self) -> tuple[Config, Run]:
        """Configuration and run: a preset if one is named, else the run's own, else smoke."""
        from distcorr.data.run import Run

        if self.preset.endswith(".toml"):
            path = Path(self.preset)
            if not path.is_file():
                raise DistcorrError(
                    f"There is no configuration file {path}.", f"presets: {', '.join(PRESETS)}"
                )
            document = configuration.parse_toml(path.read_bytes(), self.preset)
            config = configuration.load(document=document)
            run = Run(self.run or f"runs/{path.stem}")
        elif self.preset:
            config = configuration.load(self.preset)
            run = Run(self.run or f"runs/{self.preset}")
        else:
            run = Run(self.run or "runs/smoke")
            config = run.config() or configuration.load("smoke")
        sets = list(self.sets)
        # Data and weights of one's own make the smoke preset's stand-ins meaningless.
        if self.data and config.dataset.name == "toy":
            sets.insert(0, "dataset.name=voc")
        if self.weights and config.features.network == "efficientnet-lite0":
            sets.insert(0, "features.network=auto")
        document = configuration.parse_toml(configuration.dump(config).encode(), "configuration")
        return configuration.load(overrides=sets, document=document), run


def _run_stages(
    names: tuple[str, ...],
    options: _Options,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    from distcorr.stages.cluster import Session
    from distcorr.stages.pipeline import Context, forecast_stage, run_stage
    from distcorr.terminal import print_forecasts

    terminal = _terminal(quiet)
    config, run = options.resolve()
    with Session(config.compute) as session:
        context = Context(config, run, session, terminal)
        if dry_run:
            forecasts = [forecast_stage(name, context) for name in names]
            if as_json:
                print(json.dumps([f._asdict() for f in forecasts], indent=1))
            else:
                print_forecasts(forecasts)
            return
        _announce_changes(context, terminal)
        terminal.say(f"distcorr · {config.preset} preset · run {run} · on {session.address}")
        summaries = [run_stage(name, context) for name in names]
    if names == ORDER:
        from distcorr.report import tables

        built = tables.build(run)
        tables.save(built, run)
        _print_report(built, as_json)
        _draw(run)
        terminal.say(f"report  {run}/report")
    elif as_json:
        print(json.dumps([asdict(summary) for summary in summaries], indent=1))


def _announce_changes(context: Context, terminal: Terminal) -> None:
    before = context.run.config()
    if before:
        # Other data or features are refused by build-db, in its own words.
        changes = [
            line
            for line in configuration.difference(before, context.config)
            if not line.startswith(("dataset.", "features."))
        ]
        if changes:
            terminal.say(
                f"{context.run} was last used with other settings ({'; '.join(changes)}); "
                "results made with those are kept"
            )


def _status(run: Run) -> list[dict[str, Any]]:
    rows = []
    for name in ORDER:
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


def _existing(uri: str) -> Run:
    from distcorr.data.run import MANIFEST, Run

    run = Run(uri)
    if not run.folder.exists(MANIFEST):
        others = Run(os.path.dirname(uri) or ".").folder.folders() if "://" not in uri else []
        guess = did_you_mean(os.path.basename(uri), others)
        raise DistcorrError(
            f"There is no run in {run}.{guess}", f"distcorr run -r {uri}   makes one", USAGE
        )
    return run


def _draw(run: Run) -> None:
    from distcorr.report.figures import figure3

    for name in figure3(run):
        _terminal().say(f"figure  {run}/{name}")


def _print_report(built: Any, as_json: bool) -> None:
    from distcorr.terminal import print_report

    if as_json:
        print(built.to_json(), end="")
    else:
        print_report(built)


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


_shown: list[Terminal] = []


def _terminal(quiet: bool = False) -> Terminal:
    """The one terminal of this process."""
    from distcorr.terminal import Terminal

    if not _shown:
        _shown.append(Terminal(quiet))
    return _shown[0]

"""What the commands share: the application, its options, the terminal, and how errors end."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from distcorr import config as configuration
from distcorr.config import PRESETS, Config
from distcorr.errors import INTERRUPTED, MISSING, USAGE, DistcorrError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distcorr.config import EvaluationConfig
    from distcorr.data.run import Run
    from distcorr.report.tables import Report
    from distcorr.terminal import Terminal

ORDER = ("build-db", "neighbors", "transfer", "classify", "responses", "detect", "visualize")
START, PIPELINE, RESULTS = "Start here", "Pipeline", "Results"
PICTURES = "Your pictures"
_START = ("doctor", "fetch", "data", "plan", "config", "features")
_RESULTS = ("status", "report", "pck", "ablate", "store")
# As --help lists them: panels in the order in which a newcomer needs them.
_SHOWN = (*_START, "run", *ORDER, "evaluate-pairs", *_RESULTS, "match", "predict")


class Group(TyperGroup):
    """Turns our errors into two lines and an exit code, for every command in one place."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: _SHOWN.index(name) if name in _SHOWN else -1)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DistcorrError as error:
            terminal().error(error)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            from distcorr.data.object_store import first_line, is_outage

            if not is_outage(error):
                raise
            hint = "run the same command again once it answers; what is done stays"
            said = DistcorrError(f"The object store failed: {first_line(error)}", hint, MISSING)
            terminal().error(said)
            raise typer.Exit(said.exit_code) from error
        except KeyboardInterrupt as stop:
            terminal().close()
            print("stopped; run the same command to continue", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from stop


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Do convnets learn correspondence? Long, Zhang & Darrell (NIPS 2014), as Ray batch jobs."
    "\n\nExample:  distcorr run -p smoke        the whole job on drawn data, two minutes",
    epilog="Exit codes: 0 done · 2 usage · 3 data or weights missing · 4 some shards failed · "
    "5 doctor found a problem · 130 stopped",
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
StoreOption = Annotated[
    str,
    typer.Option("--store", metavar="PATH|URI", help="Feature store that several runs share."),
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


class Options:
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
        store: str = "",
    ) -> None:
        self.run, self.preset, self.data, self.weights = run, preset, data, weights
        sets = list(settings or ())
        if data:
            sets.append(f"dataset.root={json.dumps(absolute(data))}")
        if weights:
            sets.append(f"features.weights={json.dumps(absolute(weights))}")
        if category:
            sets.append(f"dataset.categories={json.dumps(category)}")
        if limit is not None:
            sets.append(f"dataset.limit={limit}")
        if store:
            sets.append(f"compute.store={json.dumps(store)}")
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


def existing(uri: str) -> Run:
    from distcorr.data.run import MANIFEST, Run

    run = Run(uri)
    if not run.folder.exists(MANIFEST):
        parent, own = os.path.split(uri.rstrip("/"))
        others = Run(parent or ".").folder.folders() if "://" not in uri else []
        guess = did_you_mean(own, [name for name in others if name != own])
        raise DistcorrError(
            f"There is no run in {run}.{guess}", f"distcorr run -r {uri}   makes one", USAGE
        )
    return run


def draw(
    run: Run, evaluation: EvaluationConfig | None = None, categories: Sequence[str] = ()
) -> None:
    """Every figure whose stage has finished, into the run's report folder.

    Args:
        run: with a finished stage.
        evaluation: in place of the run's own.
        categories: of Figures 3 and 6 and, the first of them, of Figure 5 and the curves over
            eta; the usual ones if there are none.

    Raises:
        DistcorrError: a figure of one of ``categories`` cannot be drawn.
    """
    from distcorr.report import (
        charts,
        concentration,
        detection_curves,
        figure1,
        figure2,
        figure6,
        figures,
    )

    first = categories[0] if categories else ""
    # Whether a figure is of the categories: then one that cannot be drawn is an error.
    drawings: dict[str, list[tuple[bool, Callable[[], list[str]]]]] = {
        "transfer": [
            (True, lambda: figures.figure3(run, evaluation=evaluation, categories=categories))
        ],
        "classify": [
            (True, lambda: charts.figure5(run, first, evaluation)),
            (True, lambda: charts.confusion(run, evaluation)),
        ],
        "responses": [(False, lambda: concentration.figure4(run, evaluation=evaluation))],
        "detect": [
            (True, lambda: figure6.figure6(run, categories, evaluation)),
            (False, lambda: figure6.figure6_scores(run, categories, evaluation)),
            (True, lambda: detection_curves.figure_eta(run, first, evaluation)),
            (False, lambda: detection_curves.figure_mining(run, evaluation)),
        ],
        "visualize": [
            (False, lambda: figure1.figure1(run)),
            (False, lambda: figure2.figure2(run)),
            (False, lambda: figure2.figure2_profile(run)),
        ],
    }
    drawn: list[str] = []
    for stage, of_stage in drawings.items():
        for asked, figure in of_stage if run.finished(stage) else ():
            try:
                names = figure()
            except DistcorrError as error:
                if categories and asked:
                    raise
                terminal().warn(error.message)  # there is nothing to draw: the rest is there
                continue
            drawn += names
    if drawn:
        terminal().say(f"figures {len(drawn)} files in {run}/report, .png and .svg")
    for old in run.folder.sizes("report"):  # of an earlier report, which had others
        if re.fullmatch(r"(figure|confusion)\S*\.(png|svg)", old) and f"report/{old}" not in drawn:
            run.folder.delete(f"report/{old}")


def write_page(run: Run, built: Report, evaluation: EvaluationConfig | None = None) -> None:
    """The report as one HTML file, last of all: it shows the figures that are there."""
    from distcorr.report import page

    name, *_ = page.save(run, built, evaluation)
    terminal().say(f"page    {run}/{name}")


def print_tables(built: Any, as_json: bool) -> None:
    from distcorr.terminal import print_report

    if as_json:
        print(built.to_json(), end="")
    else:
        print_report(built)


def absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


_shown: list[Terminal] = []


def terminal(quiet: bool = False) -> Terminal:
    """The one terminal of this process."""
    from distcorr.terminal import Terminal

    if not _shown:
        _shown.append(Terminal(quiet))
    return _shown[0]

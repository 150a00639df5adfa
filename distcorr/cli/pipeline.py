"""``run`` and the single stages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from distcorr import config as configuration
from distcorr.cli.common import (
    ORDER,
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
    app,
    draw,
    print_tables,
    terminal,
    write_page,
)

if TYPE_CHECKING:
    from distcorr.config import Config
    from distcorr.data.run import Run
    from distcorr.stages.pipeline import Context
    from distcorr.terminal import Terminal

WaitOption = Annotated[
    bool, typer.Option("--wait", help="If another process works on the run, wait until it ends.")
]


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
        store: StoreOption = "",
        address: AddressOption = "",
        dry_run: DryOption = False,
        wait: WaitOption = False,
        as_json: JsonOption = False,
        quiet: QuietOption = False,
    ) -> None:
        options = Options(run, preset, settings, data, weights, category, limit, address, store)
        run_stages(stages, options, dry_run, as_json, quiet, wait)

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
_stage_command(
    "classify",
    ("classify",),
    "Name keypoints by linear SVMs on single columns, for every C (§4, Table 3, Figure 5).\n\n"
    "Example:  distcorr classify -r runs/paper --set classify.feature_norm=unit",
)
_stage_command(
    "responses",
    ("responses",),
    "Find where around a keypoint its classifier responds most (§4, Figure 4).\n\n"
    "Example:  distcorr responses -r runs/paper --set responses.keypoints=cat/L_Eye",
)
_stage_command(
    "detect",
    ("detect",),
    "Mine keypoint detectors and predict by them and a prior (§5, Table 4, Figure 6).\n\n"
    "Example:  distcorr detect -r runs/paper --set detect.rounds=2",
)


def run_stages(
    names: tuple[str, ...],
    options: Options,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    wait: bool = False,
) -> None:
    """Run some stages in order, then what goes with them."""
    from distcorr.data import lock
    from distcorr.stages.cluster import Session
    from distcorr.stages.pipeline import Context, forecast_stage
    from distcorr.terminal import print_forecasts

    shown = terminal(quiet)
    config, run = options.resolve()
    if dry_run:
        with Session(config.compute) as session:
            forecasts = [forecast_stage(n, Context(config, run, session, shown)) for n in names]
        if as_json:
            print(json.dumps([f._asdict() for f in forecasts], indent=1))
        else:
            print_forecasts(forecasts)
        return
    with _stoppable(), lock.held(run.folder, wait, shown.say):
        _work(names, config, run, shown, as_json)


def _work(names: tuple[str, ...], config: Config, run: Run, shown: Terminal, as_json: bool) -> None:
    from distcorr.stages.cluster import Session
    from distcorr.stages.pipeline import Context, run_stage

    with Session(config.compute) as session:
        context = Context(config, run, session, shown)
        _announce_changes(context, shown)
        shown.say(f"distcorr · {config.preset} preset · run {run} · on {session.address}")
        summaries = [run_stage(name, context) for name in names]
    if "detect" in names:
        _export(run)
    if names == ORDER:
        from distcorr.report import tables

        built = tables.build(run)
        tables.save(built, run)
        print_tables(built, as_json)
        draw(run)
        write_page(run, built)
        shown.say(f"report  {run}/report")
    elif as_json:
        print(json.dumps([asdict(summary) for summary in summaries], indent=1))


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does: in order, within seconds. The second one at once.

    A cloud that takes a machine back and ``ray job stop`` send SIGTERM some time before they kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are for the main thread
        return

    def stop(*_: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
        # Not by print, which may be at work just now.
        os.write(2, b"\nstopping; once more kills at once\n")
        raise KeyboardInterrupt

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _export(run: Run) -> None:
    """The detectors as files of their own, which ``predict`` takes anywhere."""
    from distcorr.stages.export import export

    names = export(run)
    what = f"{len(names)} files in {run}/detectors" if names else "none kept of a control"
    terminal().say(f"detectors  {what}")


def _announce_changes(context: Context, shown: Terminal) -> None:
    before = context.run.config()
    if before:
        # Other data or features are refused by build-db, in its own words.
        changes = [
            line
            for line in configuration.difference(before, context.config)
            if not line.startswith(("dataset.", "features."))
        ]
        if changes:
            shown.say(
                f"{context.run} was last used with other settings ({'; '.join(changes)}); "
                "results made with those are kept"
            )

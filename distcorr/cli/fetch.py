"""``fetch``: the paper's data and weights, from where they are published into one folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from distcorr.cli.common import START, JsonOption, QuietOption, app, terminal
from distcorr.errors import MISSING, DistcorrError

_EVERY = 10.0  # s between lines where there is no terminal
_SHOWN = 5  # damaged files that are named


@app.command("fetch", rich_help_panel=START)
def fetch_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="voc2011, keypoints or caffenet.")],
    to: Annotated[
        str, typer.Option("--to", metavar="DIR", help="Where it goes; this is then --data.")
    ] = "data",
    file: Annotated[
        str, typer.Option("--from", metavar="FILE", help="Your own copy of the file or archive.")
    ] = "",
    url: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="Ask this mirror first; repeat for more."),
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HASH", help="Refuse a file with another checksum.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--verify", help="Only recompute the checksums of what is there.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download, verify and unpack PASCAL VOC 2011, its keypoints, or the paper's network.

    A broken download goes on where it broke. DISTCORR_MIRROR=URL names a folder of your own that
    has the same files.

    Example:  distcorr fetch voc2011
    """
    shown = terminal(quiet)
    if check:
        _verify(name, to, sha256, as_json)
        return
    from distcorr.data.fetch import fetch

    listener = _Listener(quiet)
    try:
        found = fetch(name, to, listener, url or (), file, sha256)
    finally:
        listener.close()
    if not found.verified:
        shown.warn(
            f"nobody has published a checksum of {name}, so this copy is unverified. Its sha256 "
            f"is {found.sha256}: compare it with a colleague's, and give it as --sha256 next time"
        )
    following = _next(to)
    if as_json:
        print(json.dumps(asdict(found) | {"next": following}, indent=1))
        return
    there = "is there already" if found.present else f"from {found.source}"
    shown.say(f"{found.path}  {found.files} files  {found.bytes / 1e6:.1f} MB  {there}")
    shown.say(f"next:  {following}")


def _verify(name: str, to: str, sha256: str, as_json: bool) -> None:
    from distcorr.data.fetched import verify

    problems, count = verify(name, to, sha256)
    if as_json:
        found = [asdict(problem) for problem in problems]
        print(json.dumps({"files": count, "problems": found}, indent=1))
    if not problems:
        terminal().say(f"{name} in {to}: all {count} files are whole")
        return
    for problem in problems[:_SHOWN] if not as_json else ():
        print(f"{problem.file}: {problem.what}")
    raise DistcorrError(
        f"{len(problems)} of {count} files of {name} are missing or damaged.",
        f"move {problems[0].file.split('/')[0]} in {to} away and fetch again: "
        f"distcorr fetch {name} --to {to}",
        MISSING,
    )


def _next(to: str) -> str:
    """The command to paste next."""
    from distcorr.data.fetched import ITEMS, local

    folder = local(to)
    missing = [item.name for item in ITEMS.values() if not (folder / item.target).exists()]
    if missing:
        return f"distcorr fetch {missing[0]}" + (f" --to {to}" if to != "data" else "")
    weights = f"{to}/{ITEMS['caffenet'].target}"
    return f"distcorr run -p paper --data {to} --weights {weights} -r runs/paper --dry-run"


class _Listener:
    """A bar on a terminal, plain lines elsewhere, nothing when quiet; on standard error."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._quiet = quiet
        self._bar: Any = None
        self._last = time.monotonic()

    def say(self, message: str) -> None:
        """A line for people."""
        self.close()
        if not self._quiet:
            terminal().say(message)

    def advance(self, doing: str, done: int, total: int) -> None:
        """So many bytes of so many."""
        if self._quiet:
            return
        if self._console.is_terminal:
            self._draw(doing, done, total)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            of = f"/{total / 1e6:.0f} MB  {done / total:.0%}" if total else " MB"
            terminal().say(f"{doing}  {done / 1e6:.0f}{of}")

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _draw(self, doing: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.tasks[0].description != doing:
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self.close()
            self._bar = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(doing, total=total or None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done)

"""``doctor``: will it work here, and what to do where it will not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from distcorr.cli.common import (
    START,
    AddressOption,
    DataOption,
    JsonOption,
    RunOption,
    WeightsOption,
    absolute,
    app,
)
from distcorr.errors import UNFIT

if TYPE_CHECKING:
    from rich.console import Console

    from distcorr.stages.machine import Check

# A sign and a word: colour alone says nothing to those who do not see it.
_SIGNS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
_PLAIN = {"ok": "ok", "warn": "!", "fail": "X"}  # where the terminal has no such letters


@app.command("doctor", rich_help_panel=START)
def doctor_command(
    data: DataOption = "",
    weights: WeightsOption = "",
    run: RunOption = "",
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at every node of the cluster as well.")
    ] = False,
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """Check this machine, data, weights and Ray, or a cluster; print what to do.

    Ends with 5 if a check fails, with 0 if there are warnings only.

    Example:  distcorr doctor --data data --cluster --address auto
    """
    from rich.console import Console

    from distcorr.stages.doctor import Asked, examine

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    place, file, folder = (absolute(path) if path else "" for path in (data, weights, run))
    asked = Asked(place, file, folder, address, cluster)
    checks = []
    for check in examine(asked):
        checks.append(check)
        if not as_json:
            _show(console, check)
    failed = sum(check.level == "fail" for check in checks)
    warned = sum(check.level == "warn" for check in checks)
    if as_json:
        found = [check._asdict() for check in checks]
        print(json.dumps({"checks": found, "problems": failed, "warnings": warned}, indent=1))
    else:
        console.print(f"{_count(failed, 'problem')}, {_count(warned, 'warning')}")
    if failed:
        raise typer.Exit(UNFIT)


def _show(console: Console, check: Check) -> None:
    """One line, and one with what to do about it."""
    from rich.markup import escape

    sign, colour = _SIGNS[check.level]
    try:
        sign.encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        sign = _PLAIN[check.level]
    word = "" if check.level == "ok" else f"{check.level}: "
    where = f"{check.node}  " if check.node else ""
    text = escape(f"{where}{word}{check.name}: {check.detail}")
    console.print(f"[{colour}]{sign}[/] {text}")
    if check.fix and check.level != "ok":
        console.print(f"    fix: {escape(check.fix)}")


def _count(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"

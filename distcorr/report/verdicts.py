"""Whether a claim holds for measured numbers: verdicts, and the rules by which intervals decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distcorr.algorithms.comparison import LEVEL

Rows = Sequence[Mapping[str, Any]]

HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "cannot be told", "not run"


class Verdict(NamedTuple):
    """Whether a claim holds for our rows, and the numbers and intervals that decide it."""

    state: str
    evidence: str = ""


class Claim(NamedTuple):
    """A sentence of the paper.

    Attributes:
        section: of the paper.
        text: the claim, shortened.
        source: where the paper has it.
        rule: when we say that it holds.
        check: that rule.
    """

    section: str
    text: str
    source: str
    rule: str
    check: Callable[[Rows], Verdict]


def above(rows: Rows, least: float = 0.0, value: str = "value", unit: str = "points") -> Verdict:
    """Whether all of ``rows`` are above ``least``: by their intervals, for each alone.

    Holds if every interval is above; does not if any is below; else it cannot be told. Where rows
    have the ``p`` of no difference, it must be at most 0.05 too, but for what is above a ``least``
    below 0: intervals are too narrow with few photographs. An interval without width, as of one
    photograph, says nothing unless ``p`` does.
    """
    if not rows:
        return Verdict(NOT_RUN)
    prefix = "" if value == "value" else f"{value}_"
    known = [row for row in rows if row[value] is not None]
    said = "; ".join(
        f"{_named(row)} {_signed(row[value])} [{_signed(row[prefix + 'low'])}, "
        f"{_signed(row[prefix + 'high'])}] {unit}".rstrip()
        + _p(row)
        for row in known
    )

    def tells(row: Mapping[str, Any], by_p: bool) -> bool:
        p = row.get("p")
        wide = bool(row[f"{prefix}low"] < row[f"{prefix}high"])
        return wide if p is None else p <= LEVEL or (wide and not by_p)

    if any(row[f"{prefix}high"] < least and tells(row, by_p=least <= 0) for row in known):
        return Verdict(FAILS, said)
    clear = [row for row in known if row[f"{prefix}low"] > least and tells(row, by_p=least >= 0)]
    sure = len(clear) == len(rows)
    return Verdict(HOLDS if sure else OPEN, said)


def apart(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Verdict:
    """Whether one row is above another, by intervals that do not meet: no paired one is saved.

    An interval without width says nothing.
    """
    if one is None or other is None:
        return Verdict(NOT_RUN)
    said = " against ".join(
        f"{r['method']} {r['value']:.1f} [{r['low']:.1f}, {r['high']:.1f}]" for r in (one, other)
    )
    if any(row["low"] == row["high"] for row in (one, other)):  # as of one photograph
        return Verdict(OPEN, said)
    state = HOLDS if one["low"] > other["high"] else FAILS if one["high"] < other["low"] else OPEN
    return Verdict(state, said)


def _p(row: Mapping[str, Any]) -> str:
    return "" if row.get("p") is None else f", p {row['p']:.2g}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _named(row: Mapping[str, Any]) -> str:
    words = str(row.get("method", "")).replace(" minus ", " − ")
    if "alpha" in row:
        words += f" at α = {row['alpha']:g}"
    return f"{words}, k = {row['k']}:" if "k" in row else f"{words}:"

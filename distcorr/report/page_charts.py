"""Charts of the report page: SVG whose colours are the page's, so that they follow its theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distcorr.report.page_html import Content, Html, join, number, tag

SERIES = 5  # colours that the page has


class Bar(NamedTuple):
    """One method in one category, per cent; None for what is not there."""

    value: float | None
    low: float | None = None
    high: float | None = None
    paper: float | None = None


def strip(bar: Bar) -> Html:
    """0 to 100 on a line: a dot for ours within its interval, a mark for the paper's."""
    width, middle = 200, 9

    def at(value: float) -> str:
        return f"{5 + (width - 10) * min(max(value, 0), 100) / 100:.1f}"

    parts: list[Content] = [tag("rect", x=5, y=7, width=width - 10, height=4, rx=2, class_="rail")]
    if bar.low is not None and bar.high is not None:
        parts.append(
            tag("line", x1=at(bar.low), x2=at(bar.high), y1=middle, y2=middle, class_="range")
        )
    if bar.paper is not None:
        parts.append(tag("line", x1=at(bar.paper), x2=at(bar.paper), y1=2, y2=16, class_="mark"))
    if bar.value is not None:
        parts.append(tag("circle", cx=at(bar.value), cy=middle, r=4.5, class_="dot"))
    return tag("svg", *parts, viewBox=f"0 0 {width} 18", class_="strip", aria_hidden="true")


def bars(
    categories: Sequence[str],
    methods: Sequence[str],
    values: dict[tuple[str, str], Bar],
    words: str,
) -> Html:
    """Groups of bars with whiskers for intervals, and the paper's numbers as diamonds.

    Args:
        categories: as they are written below the groups.
        methods: a bar each.
        values: (method, category) -> its bar.
        words: for who does not see it.
    """
    left, top, height, bottom = 40, 12, 220, 34
    group = max(34, 13 * len(methods) + 10)
    width = left + group * len(categories) + 8
    known = [
        x for bar in values.values() for x in (bar.value, bar.high, bar.paper) if x is not None
    ]
    most = 10 * -(-max(known, default=10) // 10)

    def y(value: float) -> float:
        return top + height * (1 - value / most)

    step = 20 if most > 50 else 10
    parts: list[Content] = [tag("title", words)]
    for tick in range(0, int(most) + 1, step):
        parts.append(tag("line", x1=left, x2=width, y1=f"{y(tick):.1f}", y2=f"{y(tick):.1f}"))
        parts.append(tag("text", tick, x=left - 6, y=f"{y(tick) + 4:.1f}", class_="tick"))
    wide = (group - 10) / len(methods)
    for n, category in enumerate(categories):
        start = left + n * group + 5
        for m, method in enumerate(methods):
            bar = values.get((method, category), Bar(None))
            parts += _bar(bar, start + m * wide, wide, y, f"s{m % SERIES}", f"{category}, {method}")
        middle = start + (group - 10) / 2
        parts.append(tag("text", category, x=f"{middle:.1f}", y=top + height + 18, class_="name"))
    size = f"0 0 {width} {top + height + bottom}"
    return tag(
        "div",
        _legend(methods, any(bar.paper is not None for bar in values.values())),
        tag("svg", *parts, viewBox=size, class_="bars", role="img", width=1.25 * width),
        class_="wide chart",
        tabindex=0,
    )


def _bar(bar: Bar, x: float, wide: float, y: object, colour: str, words: str) -> list[Content]:
    assert callable(y)
    found: list[Content] = []
    middle = x + wide / 2
    if bar.value is not None:
        said = f"{words}: {number(bar.value)}"
        said += f" [{number(bar.low)}, {number(bar.high)}]" if bar.low is not None else ""
        said += f", paper {number(bar.paper)}" if bar.paper is not None else ""
        place = {"x": f"{x + 0.5:.1f}", "y": f"{y(bar.value):.1f}"}
        size = {"width": f"{wide - 1:.1f}", "height": f"{y(0) - y(bar.value):.1f}"}
        found.append(tag("rect", tag("title", said), class_=colour, rx=1, **place, **size))
    if bar.low is not None and bar.high is not None:
        at = {"x1": f"{middle:.1f}", "x2": f"{middle:.1f}"}
        ends = {"y1": f"{y(bar.low):.1f}", "y2": f"{y(bar.high):.1f}"}
        found.append(tag("line", class_="whisker", **at, **ends))
    if bar.paper is not None:
        high, r = y(bar.paper), 4
        points = f"M{middle:.1f} {high - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"
        found.append(tag("path", d=points, class_="paper"))
    return found


def _legend(methods: Sequence[str], with_paper: bool) -> Html:
    shown = [
        tag("span", tag("i", class_=f"key s{n % SERIES}"), method)
        for n, method in enumerate(methods)
    ]
    if with_paper:
        shown.append(tag("span", tag("i", "◇", class_="key"), "paper"))
    return tag("p", join(shown), class_="legend")


class Span(NamedTuple):
    """Work of one worker on one stage, in seconds since the beginning."""

    lane: str
    name: str
    start: float
    end: float


def timeline(spans: Sequence[Span], words: str) -> Html:
    """A lane for each worker, time to the right."""
    lanes = list(dict.fromkeys(span.lane for span in spans))
    names = list(dict.fromkeys(span.name for span in spans))
    total = max((span.end for span in spans), default=1.0) or 1.0
    left, deep, width = 120, 16, 880
    parts: list[Content] = [tag("title", words)]
    for n, lane in enumerate(lanes):
        parts.append(tag("text", lane, x=left - 8, y=n * deep + 12, class_="tick"))
        parts.append(
            tag("rect", x=left, y=n * deep + 3, width=width, height=deep - 6, class_="rail")
        )
    for span in spans:
        x, wide = left + width * span.start / total, width * (span.end - span.start) / total
        y, width_ = lanes.index(span.lane) * deep + 3, f"{max(wide, 0.6):.1f}"
        said = tag("title", f"{span.name}: {span.end - span.start:.0f} s")
        colour = f"s{names.index(span.name) % SERIES}"
        size = {"width": width_, "height": f"{deep - 6}"}
        parts.append(tag("rect", said, class_=colour, x=f"{x:.1f}", y=y, **size))
    drawn = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {left + width} {len(lanes) * deep + 4}",
        class_="timeline",
        role="img",
    )
    return tag("div", _legend(names, False), drawn, class_="wide chart", tabindex=0)

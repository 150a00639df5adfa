"""Tables of the report page: the paper's, with its numbers beside ours, and any other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from distcorr.report.page_charts import Bar, bars
from distcorr.report.page_html import Content, Html, details, interval, join, links, number, tag
from distcorr.report.page_html import table as html_table
from distcorr.report.page_source import Row, Source
from distcorr.report.paper import SHORT, UNSURE, Printed
from distcorr.report.score import MEAN

MOST = 600  # rows of a table that the page shows; the CSV has all
_STEPS = (1.0, 3.0)  # points between ours and the paper's: three tints
_HEADS = {"psnr": "PSNR, dB", "colour": "colour, levels of 255", "ssim": "SSIM", "alpha": "α"}
_HEADS |= {"same_class": "same class, %", "value": "per cent", "c": "C"}
_DIFFERENCES = ("-gain", "-comparison")  # how tables end whose values are points


def paper_table(
    source: Source,
    name: str,
    title: Content,
    groups: Callable[[str], object],
    places: int = 1,
    methods: Sequence[str] = (),
) -> Html:
    """Methods by categories: ours large, the paper's small, the best of each group bold.

    Args:
        source: of the run.
        name: "table2", "table3" or "table4"; of the first threshold, where there are several.
        title: above.
        groups: of a method: which others it competes with for bold.
        places: after the decimal point.
        methods: which; all by default.
    """
    rows = at_first(source.rows(name))
    cells = {(row["method"], row["category"]): row for row in rows}
    shown = list(methods) or list(dict.fromkeys(row["method"] for row in rows))
    columns = source.categories(name)
    best = _bests(cells, shown, columns, groups, places)
    body = []
    for method in shown:
        own = source.printed(name, method)
        label = join((method, _stands_for(own)))
        line: list[Content] = [label]
        for category in columns:
            row = cells.get((method, category))
            line.append(_cell(source, row, own, columns, (method, category) in best, places))
        body.append(line)
    heads: list[Content] = [""]
    heads += [tag("abbr", SHORT.get(c, c), title=_head(cells, shown, c)) for c in columns]
    caption = join((title, " ", links([f for f in _files(name) if f in source.files])))
    return html_table(heads, body, caption, class_="paper")


def _files(name: str) -> list[str]:
    return [f"{name}.csv", f"{name}.tex"]


def at_first(rows: Sequence[Row]) -> list[Row]:
    """Rows of the first threshold."""
    if not rows or "alpha" not in rows[0]:
        return list(rows)
    return [row for row in rows if row["alpha"] == rows[0]["alpha"]]


def _stands_for(own: Printed | None) -> Html | None:
    if own is None or own.same:
        return None
    return tag("small", f"paper: {own.name}")


def _head(cells: dict[tuple[str, str], Row], methods: Sequence[str], category: str) -> str:
    counts = [cells[m, category]["n"] for m in methods if (m, category) in cells]
    more = "; order of the paper's column inferred" if category in UNSURE else ""
    return f"{category}, {max(counts, default=0):,} keypoints{more}"


def _bests(
    cells: dict[tuple[str, str], Row],
    methods: Sequence[str],
    columns: Sequence[str],
    groups: Callable[[str], object],
    places: int,
) -> set[tuple[str, str]]:
    """Cells that are bold: the best of their group as printed; several where they tie."""
    found = set()
    for category in columns:
        for group in dict.fromkeys(groups(m) for m in methods):
            mine = {
                (m, category): round(cells[m, category]["value"], places)
                for m in methods
                if group is not None and groups(m) == group and (m, category) in cells
            }
            if len(mine) > 1:
                found |= {key for key, value in mine.items() if value == max(mine.values())}
    return found


def _cell(
    source: Source,
    row: Row | None,
    own: Printed | None,
    columns: Sequence[str],
    bold: bool,
    places: int,
) -> Html:
    """One number; its interval, n and difference are said in words when pointed at."""
    if row is None:
        return tag("td", "–", class_="n")
    value = number(row["value"], places)
    category = row["category"]
    beside = None
    if own:
        beside = own.over(columns) if category == MEAN else own.categories.get(category)
    said = f"{category}: {number(row['value'])}"
    if row.get("low") is not None:
        said += f" [{number(row['low'])}, {number(row['high'])}], n = {row['n']:,}"
    tint = None
    if beside is not None and own:
        delta = row["value"] - beside
        said += f"; paper {number(beside)}, difference {number(delta, 1, sign=True)}"
        tint = tinted(source, delta, own.same)
    small = tag("small", number(beside, places)) if beside is not None else None
    classes = " ".join(filter(None, ("n", tint)))
    content = tag("b", value) if bold else tag("span", value)
    return tag("td", content, small, class_=classes, title=said, data_v=f"{row['value']:g}")


def tinted(source: Source, delta: float, same: bool = True) -> str | None:
    """How far from the paper's, in three steps; nothing where that says nothing."""
    if not (source.same_weights and source.same_data and same):
        return None
    return f"d{sum(abs(delta) > step for step in _STEPS) + 1}"


def by_category(
    source: Source, name: str, methods: Sequence[str], words: str, places: int = 1
) -> Html:
    """The bars of a paper's table."""
    rows, columns = at_first(source.rows(name)), source.categories(name)
    values = {}
    for row in rows:
        own = source.printed(name, row["method"])
        beside = None
        if own:
            mean = row["category"] == MEAN
            beside = own.over(columns) if mean else own.categories.get(row["category"])
        category = str(row["category"])
        key = str(row["method"]), SHORT.get(category, category)
        values[key] = Bar(row["value"], row.get("low"), row.get("high"), beside)
    shown = [SHORT.get(c, c) for c in columns]
    return bars(shown, methods, {k: v for k, v in values.items() if k[0] in methods}, words)


def tidy(source: Source, name: str, caption: Content = None, keep: Iterable[Row] = ()) -> Html:
    """Any rows as a table that sorts: intervals beside their values, at most ``MOST`` rows."""
    rows = list(keep) or source.rows(name)
    if not rows:
        return Html("")
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "table"))
    ends = {f"{c}_{e}" for c in columns for e in ("low", "high") if f"{c}_{e}" in columns}
    ends |= {"low", "high"} if {"value", "low", "high"} <= set(columns) else set()
    shown = [c for c in columns if c not in ends]
    right = [all(isinstance(r.get(c), int | float | None) for r in rows) for c in shown]
    body = [[_shown(row, c, ends) for c in shown] for row in rows[:MOST]]
    files = links([f for f in _files(name) if f in source.files])
    more = f" The first {MOST} of {len(rows):,} rows; the CSV has all." if len(rows) > MOST else ""
    words = _HEADS | ({"value": "points"} if name.endswith(_DIFFERENCES) else {})
    heads = [words.get(c, c.replace("_", " ")) for c in shown]
    title = join((caption or name, more, " ", files))
    return html_table(heads, body, title, numbers=right, sort=True)


def _shown(row: Row, column: str, ends: set[str]) -> Content:
    value = row.get(column)
    if value is None:
        return "–"
    if f"{column}_low" in ends or (column == "value" and "low" in ends):
        places = 3 if column in ("ssim", "ratio") else 1
        cell = interval(row, column, places) if _has_ends(row, column) else number(value, places)
        return tag("td", cell, class_="n", data_v=f"{value:g}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:g}".replace("-", "−")
    return tag("td", text, class_="n", data_v=f"{value:g}")


def _has_ends(row: Row, column: str) -> bool:
    prefix = "" if column == "value" else f"{column}_"
    return all(row.get(f"{prefix}{end}") is not None for end in ("low", "high"))


def folded(source: Source, name: str, words: str, caption: Content = None) -> Html:
    """A table of tidy rows that opens by a click; nothing where there is none."""
    rows = source.rows(name)
    return details(words, tidy(source, name, caption)) if rows else Html("")

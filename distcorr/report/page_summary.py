"""The first part of the report page: how close we are, the paper's claims, and what differs."""

from __future__ import annotations

from collections.abc import Iterator

from distcorr.config import settings
from distcorr.report.classification import is_sift
from distcorr.report.detection import WITH
from distcorr.report.page_charts import Bar, strip
from distcorr.report.page_html import Content, Html, interval, join, number, table, tag
from distcorr.report.page_source import Row, Source
from distcorr.report.page_tables import tinted
from distcorr.report.paper import Printed, categories
from distcorr.report.paper_claims import judged
from distcorr.report.score import MEAN
from distcorr.report.verdicts import FAILS, HOLDS, NOT_RUN, OPEN

_SIGNS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", NOT_RUN: "–"}
_MANY = {HOLDS: "hold", FAILS: "do not hold", OPEN: "cannot be told", NOT_RUN: "not run"}


def stamp(source: Source) -> Html | None:
    """What is not the paper's, said before any number."""
    other = []
    if not source.same_weights:
        other.append(("Other weights.", source.report.weights, "the paper: BVLC CaffeNet"))
    if not source.same_data:
        wanted = "the paper: PASCAL VOC 2011, 20 categories, Berkeley keypoints"
        other.append(("Other data.", source.report.data, wanted))
    if not other:
        return None
    lines = [
        tag("p", tag("b", head), " ", tag("strong", ours), " (", theirs, ")")
        for head, ours, theirs in other
    ]
    end = tag(
        "p",
        "The paper's numbers stand beside ours for orientation. Differences between them say how "
        "unlike the tasks are, not how well the paper is reproduced.",
    )
    return tag("div", *lines, end, class_="stamp", role="note")


def summary(source: Source, table1: list[Row]) -> Html:
    """Headline numbers, claims and departures.

    Args:
        source: of the run.
        table1: rows of layer, rf and stride of the run's network; [] if it has none to tell.
    """
    return join(
        (
            tag("h2", "How close are we?"),
            _headlines(source),
            tag("h3", "Do the paper's claims hold?"),
            _claims(source, table1),
            tag("h3", "What is not as in the paper"),
            _departures(source),
            _notes(source),
        )
    )


# -- headline numbers ----------------------------------------------------------------------------


def _headlines(source: Source) -> Html:
    found = list(_headline_rows(source))
    if not found:
        return tag("p", "Nothing is scored yet: sections 3 to 5 say what to run.", class_="missing")
    own = [c for c in source.store.keypoint_names if c in categories()]
    partial = 0 < len(own) < len(categories())
    body = []
    for name, row, printed in found:
        beside = printed.over(own) if printed and own and row.get("alpha", 0.1) == 0.1 else None
        if printed and not partial and own:
            beside = printed.means.get(row.get("alpha", 0.1), printed.mean)
        delta = row["value"] - beside if beside is not None else None
        mean = printed.means.get(row.get("alpha", 0.1), printed.mean) if printed else None
        tint = tinted(source, delta, printed.same) if delta is not None and printed else None
        unlike = "" if source.same_weights and source.same_data else "unlike"
        label = join((row["method"], _paper_name(printed)))
        line: list[Content] = [name, tag("td", label), interval(row), number(mean)]
        line += [number(beside)] if partial else []
        line.append(tag("td", number(delta, 1, sign=True), class_=f"n {tint or unlike}".strip()))
        bar = Bar(row["value"], row["low"], row["high"], beside if beside is not None else mean)
        line.append(tag("td", strip(bar)))
        body.append(line)
    percent = f"ours [{100 * source.report.level:g} %]"
    heads: list[Content] = ["result", "method", percent, "paper"]
    heads += [tag("abbr", f"paper, our {len(own)}", title=", ".join(own))] if partial else []
    scale = join(
        ("0 to 100 %: ", tag("i", class_="key dot"), "ours, ", tag("i", class_="key mark"))
    )
    heads += ["Δ", join((scale, "paper"))]
    right = [False, False, *[True] * (len(heads) - 3), False]
    return table(heads, body, numbers=right, class_="headline")


def _paper_name(printed: Printed | None) -> Html | None:
    if printed is None or printed.same:
        return None
    return tag("small", f" paper: {printed.name}")


def _headline_rows(source: Source) -> Iterator[tuple[str, Row, Printed | None]]:
    """Means: of every flow at every threshold, of each kind's best layer, of the detectors."""
    for row in sorted(_means(source, "table2"), key=lambda row: -float(row["alpha"])):
        own = source.printed("table2", row["method"])
        yield f"Table 2, α = {row['alpha']:g}", row, own
    for kind in (False, True):
        rows = [r for r in _means(source, "table3") if is_sift(r["method"]) == kind]
        rows = [row for row in rows if row["method"] != "most frequent type"]
        if rows:
            best = max(rows, key=lambda row: float(row["value"]))
            own = source.printed("table3", best["method"])
            yield "Table 3, best " + ("SIFT" if kind else "layer"), best, own
    rows = _means(source, "table4")
    for row in rows:
        plain = row["method"].removesuffix(WITH)
        if row["alpha"] == rows[0]["alpha"] and "," not in plain:
            yield f"Table 4, α = {row['alpha']:g}", row, source.printed("table4", row["method"])


def _means(source: Source, name: str) -> list[Row]:
    return [row for row in source.rows(name) if row["category"] == MEAN]


# -- claims --------------------------------------------------------------------------------------


def _claims(source: Source, table1: list[Row]) -> Html:
    found = judged([*source.report.rows, *table1])
    count = {state: sum(v.state == state for _, v in found) for state in _SIGNS}
    words = ", ".join(f"{n} {state if n == 1 else _MANY[state]}" for state, n in count.items() if n)
    words = f"Of {len(found)} claims: {words}"
    items = []
    for claim, verdict in found:
        sign = tag("span", _SIGNS[verdict.state], class_="sign", aria_hidden="true")
        state = tag("b", verdict.state)
        evidence = tag("span", verdict.evidence, class_="evidence") if verdict.evidence else None
        where = tag("small", f"{claim.source}. Holds if {claim.rule}.")
        link = tag("a", f"§{claim.section}", href=f"#s{claim.section}")
        line = (sign, tag("div", claim.text, " ", state, " ", evidence, where), link)
        items.append(tag("li", *line, class_=f"claim {verdict.state.split()[0]}"))
    rest = "Intervals are bootstraps by photograph; each claim is judged alone."
    return join((tag("p", f"{words}. {rest}"), tag("ul", *items, class_="claims")))


# -- what differs --------------------------------------------------------------------------------


def _departures(source: Source) -> Html:
    found = source.departures()
    rows: list[list[Content]] = []
    if not source.same_weights:
        rows.append(["weights", "BVLC CaffeNet", tag("td", source.report.weights), "section 1.2"])
    if not source.same_data:
        data = "PASCAL VOC 2011, 20 categories"
        rows.append(["data", data, tag("td", source.report.data), "sections 3 to 5"])
    rows += [list(each) for each in found]
    link = tag("a", "Set-up", href="#setup")
    ours = sum("not in the paper" in source_ for _, _, source_ in settings(source.config))
    open_ = (f" The paper leaves {ours} settings open, which are our choices: see ", link, ".")
    if not rows:
        said = "Nothing: weights, data and every setting are the paper preset's."
        return tag("p", said, *open_)
    heads = ["setting", "paper preset", "here", "where the preset's comes from"]
    words = tag("p", f"{len(rows)} {'departure' if len(rows) == 1 else 'departures'}.", *open_)
    return join((words, table(heads, rows, numbers=[False] * 4, class_="departures")))


def _notes(source: Source) -> Html | None:
    """What the report itself says before a number is quoted."""
    if not source.report.notes:
        return None
    return tag(
        "details",
        tag("summary", f"Before you quote a number: {len(source.report.notes)} notes"),
        tag("ul", *(tag("li", note) for note in source.report.notes)),
    )

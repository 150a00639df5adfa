"""Sections 3 to 5 of the report page, and whatever else a report has."""

from __future__ import annotations

from distcorr.report import paper
from distcorr.report.classification import BASELINE, is_sift
from distcorr.report.detection import PRIOR, RANDOM, WITH
from distcorr.report.page_figures import figure, figures
from distcorr.report.page_html import Content, Html, details, join, number, table, tag
from distcorr.report.page_section2 import missing
from distcorr.report.page_source import Row, Source
from distcorr.report.page_tables import at_first, by_category, folded, paper_table, tidy
from distcorr.report.score import MEAN

_SHOWN = (  # tables that have a place; any other is shown as it comes
    *("table2", "table2-gain", "table3", "table3-gain", "table3-macro", "table4", "table4-gain"),
    *("table4-refined", "table4-keypoints", "table4-eta", "mining", "confusion"),
    *("figure1", "figure1-gain", "figure2", "figure2-profile", "figure4", "figure5"),
)
_READ = "Large: ours. Small: the paper; below the mean, its mean over the same categories."

_SECTIONS = ("table2", "table3", "table4")  # whose further tables stand with them


# -- section 3 -----------------------------------------------------------------------------------


def section3(source: Source) -> Html:
    """Table 2, its bars, the stricter thresholds and Figure 3."""
    lack = missing(source, "transfer")
    rows = source.rows("table2")
    if not rows:
        return lack or tag("p", "transfer had nothing to score.", class_="missing")
    alpha = rows[0]["alpha"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    words = f"Keypoint transfer by category: PCK at α = {alpha:g}, per cent."
    title = f"Table 2. {words} {_READ}"
    shown = figure(
        source,
        "figure3",
        "Figure 3.",
        "Targets, predictions joined to the truth, the first neighbours warped onto them, and the "
        "average of all, a row for each method.",
        "Rows of photographs: a target and its neighbours aligned with it, with keypoints.",
    )
    parts = (
        by_category(source, "table2", methods, words),
        paper_table(source, "table2", title, lambda method: 0),
        _stricter(source),
        folded(source, "table2-gain", "Differences between methods, paired by photograph"),
        _further(source, "table2"),
        shown,
    )
    return join(parts)


def _stricter(source: Source) -> Html:
    """The lower half of Table 2: means by threshold."""
    rows = [row for row in source.rows("table2") if row["category"] == MEAN]
    alphas = list(dict.fromkeys(row["alpha"] for row in rows))
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own, line = source.printed("table2", method), [method]
        for row in (row for row in rows if row["method"] == method):
            beside = own.means.get(row["alpha"]) if own else None
            ours = tag("span", number(row["value"]))
            ends = f"[{number(row['low'])}, {number(row['high'])}]"
            words = f"{ends} · paper {number(beside, 2 if (beside or 9) < 5 else 1)}"
            line.append(tag("td", ours, tag("small", words), class_="n"))
        body.append(line)
    heads = ["mean over categories", *(f"α = {alpha:g}" for alpha in alphas)]
    caption = (
        "Table 2, lower half. Means at all thresholds; the paper's are over its 20 categories."
    )
    return table(heads, body, caption, class_="paper means")


# -- section 4 -----------------------------------------------------------------------------------


def section4(source: Source) -> Html:
    """Table 3, Figures 4 and 5, confusion."""
    rows = source.rows("table3")
    if not rows:
        lack = missing(source, "classify")
        return lack or tag("p", "classify had nothing to classify.", class_="missing")

    def kind(method: str) -> object:
        return None if method == BASELINE else is_sift(method)

    inferred = [c for c in source.categories("table3") if c in paper.UNSURE]
    title = f"Table 3. Keypoint classification, per cent of all keypoints. {_READ}"
    if inferred:
        title += f" The order of the paper's columns {', '.join(inferred)} is inferred."
    stems = sorted(
        name.removesuffix(".png")
        for name in source.files
        if name.startswith("confusion-") and name.endswith(".png")
    )
    parts: list[Content] = [
        paper_table(source, "table3", title, kind, places=0),
        folded(source, "table3-gain", "Best layer minus best SIFT, paired by photograph"),
        folded(source, "table3-macro", "Accuracy as the mean over keypoint types"),
        _further(source, "table3"),
        missing(source, "responses"),
    ]
    if source.rows("figure4"):
        parts += [
            figure(
                source,
                "figure4",
                "Figure 4.",
                "Where around a keypoint its classifier responds most; maxima on the boundary are "
                "left out.",
                "Histograms of the place of the maximum response, convnet beside SIFT.",
            ),
            folded(source, "figure4", "Shares of maxima within 4 and 8 px, against uniform ones"),
        ]
    parts.append(
        figure(
            source,
            "figure5",
            "Figure 5.",
            "Accuracy in cross-validation against C; a dot marks the chosen C.",
            "Curves of accuracy against C, one panel for layers, one for SIFT.",
        )
    )
    if stems:
        words = "what the best layer takes for what, per cent of each row"
        alt = "A confusion matrix of keypoint types."
        shown = figures(source, stems, "Confusion", words, alt)
        parts.append(details(f"Confusion of keypoint types: {len(stems)} categories", shown))
    return join(parts)


# -- section 5 -----------------------------------------------------------------------------------


def section5(source: Source) -> Html:
    """Table 4, keypoint types, eta, mining, Figure 6 and score maps."""
    lack = missing(source, "detect")
    rows = source.rows("table4")
    if not rows:
        return lack or tag("p", "detect had nothing to detect.", class_="missing")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    main = sorted((m for m in methods if not m.endswith(RANDOM)), key=_place)
    rest = [m for m in methods if m.endswith(RANDOM)]
    words = f"Keypoint prediction by category: PCK at α = {rows[0]['alpha']:g}, per cent."
    title = f"Table 4. {words} {_READ}"
    charted = [m for m in main if m != PRIOR]
    drawn: list[tuple[str, str, str, str]] = [
        (
            "figure6",
            "Figure 6.",
            "The truth, and what each layer and the prior predict; lines lead to the truth.",
            "Photographs of objects with keypoints, true and predicted.",
        ),
        (
            "figure6-scores",
            "Score maps.",
            "What predictions are made of: prior, detector, and both. Ring: truth. Cross: maximum.",
            "Heat maps over objects, with the true and the predicted keypoint.",
        ),
        (
            "figure-eta",
            "Sweep of eta.",
            "PCK against the weight of the prior.",
            "Curves of PCK against the weight of the prior.",
        ),
        (
            "figure-mining",
            "Mining.",
            "Hard negatives found in each round.",
            "Curves of hard negatives by round.",
        ),
    ]
    parts = (
        by_category(source, "table4", charted, words),
        paper_table(source, "table4", title, lambda m: m == PRIOR, methods=[*main, *rest]),
        folded(source, "table4-gain", "Differences between methods, paired by photograph"),
        _further(source, "table4"),
        _keypoints(source, main),
        *(figure(source, *each) for each in drawn),
        folded(source, "table4-eta", "Every weight of the prior"),
        folded(source, "mining", "Every round of mining"),
        folded(source, "table4-refined", "Predictions between positions (not in the paper)"),
    )
    return join(parts)


def _place(method: str) -> tuple[bool, bool, str, bool]:
    """As in the paper: SIFT first, with the prior after without; the prior alone last."""
    layer = method.removesuffix(WITH)
    return method == PRIOR, not is_sift(layer), layer, method.endswith(WITH)


def _keypoints(source: Source, methods: list[str]) -> Html:
    """A row for each keypoint type, PCK and median error of each method."""
    rows = at_first(source.rows("table4-keypoints"))
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row["category"], row["keypoint"]), {})[row["method"]] = row
    body = []
    for (category, keypoint), of_method in found.items():
        line: list[Content] = [category, keypoint, max(r["n"] for r in of_method.values())]
        for method in methods:
            own = of_method.get(method)
            if own is None:
                line.append("–")
                continue
            small = tag("small", number(own["median"], 2))
            line.append(tag("td", number(own["value"]), small, class_="n", data_v=own["value"]))
        body.append(line)
    heads = ["category", "keypoint", "n", *methods]
    caption = "PCK of every keypoint type; small: median error, in units of α · max(h, w)."
    right = [False, False, *[True] * (1 + len(methods))]
    shown = table(heads, body, caption, numbers=right, sort=True)
    return details(f"Every keypoint type: {len(body)}", shown) if body else Html("")


# -- anything else -------------------------------------------------------------------------------

_WORDS = {  # of tables that have no place of their own, by what their names add to the section's
    "comparison": "How sure the differences between methods are",
    "errors": "Kinds of errors",
    "slices": "By size of the object, and by truncation",
    "dialects": "By other definitions of PCK",
    "dialects-gap": "How far definitions of PCK lie apart",
}


def _further(source: Source, section: str) -> Html:
    """Tables of a section that have no place of their own."""
    names = [n for n in _unplaced(source) if n.startswith(f"{section}-")]
    return join(folded(source, n, _WORDS.get(n.partition("-")[2], n), n) for n in names)


def _unplaced(source: Source) -> list[str]:
    return [name for name in source.report.tables if name not in _SHOWN]


def others(source: Source) -> Html | None:
    """Tables of the report that belong to no section."""
    names = [n for n in _unplaced(source) if n.partition("-")[0] not in _SECTIONS]
    return join(tidy(source, name) for name in names) if names else None

"""Tables as LaTeX, for papers: booktabs, the best of a column bold, and what made the numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.report.classification import BASELINE, is_sift
from distcorr.report.detection import PRIOR
from distcorr.report.page_source import Row, Source, opened
from distcorr.report.page_tables import at_first
from distcorr.report.paper import SHORT
from distcorr.report.tables import Report

_OURS = re.compile(r"(table[234]|figure1)\.tex")
_PLACES = {"table2": 1, "table3": 0, "table4": 1}
_LETTERS = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
}


def save(run: Run, report: Report, evaluation: EvaluationConfig | None = None) -> list[str]:
    """Write ``report/TABLE.tex`` for Tables 2, 3 and 4 and Figure 1's numbers, as far as they are.

    Those of an earlier report go. Returns the names of the files written below the run.
    """
    source, names = opened(run, report, evaluation), []
    for old in run.folder.sizes("report"):
        if _OURS.fullmatch(old):
            run.folder.delete(f"report/{old}")
    for table in (*_PLACES, "figure1"):
        if source.rows(table):
            names.append(f"report/{table}.tex")
            run.folder.write(names[-1], to_latex(source, table).encode())
    return names


def to_latex(source: Source, table: str) -> str:
    """One table, to be used with the package booktabs.

    Tables 2 to 4 have methods by categories, of the first threshold, and their mean; figure1 a row
    for each layer, method and k.
    """
    lines = _figure1(source) if table == "figure1" else _by_category(source, table)
    stamp = [
        f"% {table} of distcorr",
        f"% weights: {source.report.weights}",
        f"% data: {source.report.data}",
        *(["% NOT THE PAPER'S WEIGHTS OR DATA"] if not _same(source) else []),
        "% needs \\usepackage{booktabs}",
    ]
    return "\n".join([*stamp, *lines]) + "\n"


def _same(source: Source) -> bool:
    return source.same_weights and source.same_data


def _by_category(source: Source, table: str) -> list[str]:
    rows, columns = at_first(source.rows(table)), source.categories(table)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["method"], row["category"]): row for row in rows}
    best = {c: _best(cells, methods, c, table) for c in columns}
    body = []
    for method in methods:
        words = [escaped(method)]
        for category in columns:
            row = cells.get((method, category))
            text = "--" if row is None else f"{row['value']:.{_PLACES[table]}f}"
            words.append(rf"\textbf{{{text}}}" if method in best[category] else text)
        body.append(" & ".join(words) + r" \\")
    heads = ["", *(escaped(SHORT.get(category, category)) for category in columns)]
    return _tabular(heads, body)


def _best(
    cells: dict[tuple[str, str], Row], methods: Sequence[str], category: str, table: str
) -> set[str]:
    """Methods that are best in a column as printed; in Table 3, of SIFT and of layers apart."""
    found: set[str] = set()
    known = [m for m in methods if (m, category) in cells and m not in (BASELINE, PRIOR)]
    kinds = (True, False) if table == "table3" else (None,)
    for kind in kinds:
        mine = {
            m: round(cells[m, category]["value"], _PLACES[table])
            for m in known
            if kind is None or is_sift(m) == kind
        }
        found |= {m for m, value in mine.items() if value == max(mine.values())}
    return found


def _figure1(source: Source) -> list[str]:
    rows = source.rows("figure1")
    body = []
    for row in rows:
        shown = [escaped(row["layer"]), escaped(row["method"]), str(row["k"])]
        for name, places in (("psnr", 1), ("colour", 1), ("ssim", 3), ("same_class", 1)):
            value = row[name]
            shown.append("--" if value is None else f"{value:.{places}f}")
        body.append(" & ".join(shown) + r" \\")
    heads = ["layer", "method", "$k$", "PSNR, dB", "colour", "SSIM", r"same class, \%"]
    return _tabular(heads, body, left=2)


def _tabular(heads: Sequence[str], body: Sequence[str], left: int = 1) -> list[str]:
    columns = "l" * left + "r" * (len(heads) - left)
    top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    return [*top, *body, r"\bottomrule", r"\end{tabular}"]


def escaped(text: str) -> str:
    """Words as LaTeX prints them."""
    return "".join(_LETTERS.get(letter, letter) for letter in text)

"""The report page: ``report/index.html``, one file without anything from elsewhere.

Made from what a run has saved, so it can be made again at any time; equal runs give equal bytes.
"""

from __future__ import annotations

from importlib import resources

from distcorr import __version__
from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.report import latex, paper
from distcorr.report.page_cost import cost, last_day
from distcorr.report.page_failures import failures
from distcorr.report.page_html import Content, Html, join, links, tag
from distcorr.report.page_section2 import section2, table1
from distcorr.report.page_sections import others, section3, section4, section5
from distcorr.report.page_setup import setup
from distcorr.report.page_source import Source, opened
from distcorr.report.page_summary import stamp, summary
from distcorr.report.tables import Report

NAME = "report/index.html"


def build(run: Run, report: Report, evaluation: EvaluationConfig | None = None) -> bytes:
    """The page.

    Args:
        run: with ``build-db`` finished; its figures are shown as they lie in its report folder.
        report: of the run, from ``tables.build``.
        evaluation: that the report was built with, in place of the run's own.

    Returns:
        HTML that stands alone: it opens from a disk, and needs no script but to filter, sort and
        copy. A figure that is missing or broken is said to be.

    Raises:
        DistcorrError: the run has no finished ``build-db``, or is of another version.
    """
    return _page(opened(run, report, evaluation)).encode()


def save(run: Run, report: Report, evaluation: EvaluationConfig | None = None) -> list[str]:
    """Write the page and the LaTeX tables beside it; arguments as of ``build``.

    Returns:
        Names of the files written below the run, the page first.
    """
    names = latex.save(run, report, evaluation)
    run.folder.write(NAME, build(run, report, evaluation))
    return [NAME, *names]


def _page(source: Source) -> Html:
    fields = table1(source)
    more = others(source)
    sections: list[tuple[str, str, Content]] = [
        ("summary", "Summary", summary(source, fields)),
        ("s2", "§2 Visualization", section2(source, fields)),
        ("s3", "§3 Alignment", section3(source)),
        ("s4", "§4 Classification", section4(source)),
        ("s5", "§5 Prediction", section5(source)),
        *([("more", "More tables", more)] if more else []),
        ("failures", "Failures", failures(source)),
        ("cost", "Cost", cost(source)),
        ("setup", "Set-up", setup(source)),
    ]
    nav = tag(
        "nav",
        *(tag("a", title, href=f"#{name}") for name, title, _ in sections),
        aria_label="Sections",
    )
    body = [
        tag(
            "section",
            None if name == "summary" else tag("h2", _LONG.get(name, title)),
            content,
            id=name,
        )
        for name, title, content in sections
    ]
    stamped = stamp(source)
    about = "distcorr report", source.name, last_day(source), f"distcorr {_version(source)}"
    head = tag(
        "header",
        tag("h1", paper.TITLE),
        tag("p", " · ".join(filter(None, about)), class_="sub"),
        stamped,
    )
    end = tag(
        "footer",
        "Every number is in ",
        links([n for n in ("tables.json",) if n in source.files]),
        " beside this page and in a CSV per table. Intervals: bootstrap by photograph.",
    )
    dialog = tag(
        "dialog",
        tag("button", "×", type="button", class_="close", aria_label="close"),
        tag("div", id="shown"),
        id="dialog",
        aria_label="A failure in detail",
    )
    mark = tag("div", "not the paper's weights or data", class_="ribbon") if stamped else None
    whole = tag(
        "body",
        _skip(),
        mark,
        head,
        nav,
        tag("main", *body, id="main"),
        end,
        dialog,
        tag("script", Html(_asset("page.js"))),
    )
    title = tag("title", f"{source.name} · distcorr report")
    return join((Html("<!doctype html>\n"), tag("html", _head(title), whole, lang="en")))


_LONG = {
    "s2": "§2 Feature visualization",
    "s3": "§3 Intraclass alignment",
    "s4": "§4 Keypoint classification",
    "s5": "§5 Keypoint prediction",
}


def _version(source: Source) -> str:
    """That the features were made with; else this one."""
    made = source.stages.get("build-db", {}).get("versions", {})
    return str(made.get("distcorr", __version__))


def _skip() -> Html:
    return tag("a", "to the content", href="#main", class_="skip")


def _head(title: Html) -> Html:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        title,
        tag("style", Html(_asset("page.css"))),
    )


def _asset(name: str) -> str:
    return (resources.files("distcorr.report") / "assets" / name).read_text(encoding="utf-8")

"""The gallery of failures: cards with the photograph, the truth and what was predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from distcorr.errors import DistcorrError
from distcorr.report import cases, page_drill
from distcorr.report.cases import CAUSES, Case
from distcorr.report.classification import is_sift
from distcorr.report.detection import PRIOR, WITH
from distcorr.report.page_cards import around, card
from distcorr.report.page_html import Content, Html, join, number, table, tag
from distcorr.report.page_source import Source
from distcorr.report.predictions import COPY

CARDS = 60


def failures(source: Source) -> Html:
    """Worst and typical wrong predictions of sections 3 and 5, and what all of them are."""
    found, picked = _wrong(source)
    if not found:
        words = "Nothing is predicted yet, or nothing wrongly: sections 3 and 5 say what to run."
        return tag("p", words, class_="missing")
    cards, lost, known = [], [], page_drill.drill(source, picked)
    ranked = sorted(picked, key=lambda c: (-c.error, c.method, c.instance, c.keypoint))
    for n, case in enumerate(ranked):
        try:
            crop, name = around(source, case), f"case{n}"
            shown = page_drill.shown(source, case, crop, name, known)
            cards.append(card(source, case, crop, name, *shown))
        except (DistcorrError, OSError) as error:
            lost.append(f"{source.instances[case.instance].image}: {error}")
    words = (
        "○ truth, ✕ predicted; error in units of α · max(h, w): up to 1.0 is right. The cause is a "
        "guess from places alone. Categories take turns; an object is shown once for each method. "
        "A card opens to what is behind it: its neighbours' votes, or its score maps."
    )
    parts: list[Content] = [tag("p", words), _causes(found), _filters(source, picked)]
    parts += page_drill.missing(known)
    if lost:
        said = f"{len(lost)} photographs cannot be shown, for example {lost[0]}"
        parts.append(tag("p", said, class_="missing"))
    return join((*parts, tag("div", *cards, class_="cards", id="cards")))


def _wrong(source: Source) -> tuple[dict[str, list[Case]], list[Case]]:
    """Method -> all of its wrong predictions, of the main methods of both sections; and cards."""
    alpha = source.config.evaluation.alphas[0]
    saved = [(of, source.predictions(of_transfer=of)) for of in (True, False)]
    asked = [(made, *_asked(made, of)) for of, made in saved if made is not None]
    each = CARDS // max(1, sum(len(methods) for _, methods, _ in asked))
    found: dict[str, list[Case]] = {}
    picked: list[Case] = []
    known = source.instances, source.store.keypoint_names, alpha
    for made, methods, misled in asked:
        wrong = cases.wrong(made, methods, *known, misled, le=source.config.evaluation.inclusive)
        own = {m: [case for case in wrong if case.method == m] for m in methods}
        found |= {method: of for method, of in own.items() if of}
        cards = [c for of in own.values() for c in cases.chosen(of, source.instances, each)]
        picked += cases.with_others(cards, made)
    return found, picked


def _asked(made: pa.Table, of_transfer: bool) -> tuple[list[str], dict[str, str]]:
    """The methods that are looked at, and who may have misled them."""
    known = list(dict.fromkeys(made["method"].to_pylist()))
    if of_transfer:
        return [method for method in known if method != COPY], {COPY: cases.COPIED}
    return _with_prior(known), {PRIOR: cases.PULLED}


def _with_prior(known: Sequence[str]) -> list[str]:
    """The first layer of a network and the first SIFT, with the prior."""
    own = [method for method in known if method.endswith(WITH)]
    of_kind = {is_sift(method.removesuffix(WITH)): method for method in reversed(own)}
    return [of_kind[kind] for kind in sorted(of_kind)]


def _causes(found: dict[str, list[Case]]) -> Html:
    """Share of each cause, of all wrong predictions."""
    body = []
    for method, own in found.items():
        count = Counter(case.cause for case in own)
        shares = [number(100 * count[cause] / len(own)) for cause in CAUSES]
        body.append([method, f"{len(own):,}", *shares])
    heads: list[Content] = ["method", "wrong"]
    heads += [tag("abbr", cause, title=words) for cause, words in CAUSES.items()]
    return table(heads, body, "Of all wrong predictions, the share of each cause, per cent.")


def _filters(source: Source, picked: Sequence[Case]) -> Html:
    values = {
        "method": dict.fromkeys(case.method for case in picked),
        "category": sorted({source.instances[case.instance].category for case in picked}),
        "keypoint": sorted({case.keypoint for case in picked}),
        "cause": [cause for cause in CAUSES if any(case.cause == cause for case in picked)],
        "kind": ["worst", "typical"],
    }
    parts = []
    for name, options in values.items():
        whole = tag("option", f"all {_PLURALS[name]}", value="")
        choices = join(tag("option", value, value=value) for value in options)
        parts.append(tag("label", f"{name} ", tag("select", whole, choices, data_filter=name)))
    count = tag("output", f"{len(picked)} shown", id="count", aria_live="polite")
    return tag("form", *parts, count, class_="filters", hidden=True)


_PLURALS = {"method": "methods", "category": "categories", "keypoint": "keypoints"}
_PLURALS |= {"cause": "causes", "kind": "kinds"}

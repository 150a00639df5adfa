"""The paper's claims, each a predicate on our rows that intervals decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distcorr.algorithms.comparison import LEVEL
from distcorr.report.classification import BASELINE, is_sift
from distcorr.report.detection import WITH
from distcorr.report.paper import table1
from distcorr.report.predictions import COPY
from distcorr.report.score import MEAN
from distcorr.report.verdicts import FAILS, HOLDS, OPEN, Claim, Rows, Verdict, above, apart

MARGIN = 2.0  # points that "at least as well as" allows; not in the paper


def judged(rows: Rows) -> list[tuple[Claim, Verdict]]:
    """Every claim and its verdict.

    Args:
        rows: of a ``tables.Report``, and of ``table1`` (layer, rf, stride) where a network's are
            known.
    """
    return [(claim, claim.check(rows)) for claim in CLAIMS]


def _means(rows: Rows, table: str, keep: Callable[[str], bool]) -> list[dict[str, Any]]:
    """A table's rows of the mean over categories, or of all of section 2, that are kept."""
    return [
        dict(row)
        for row in rows
        if row["table"] == table and row.get("category", MEAN) == MEAN and keep(row["method"])
    ]


def _split(name: str) -> tuple[str, str]:
    one, _, other = name.partition(" minus ")
    return one, other


def _first_alpha(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["alpha"] == rows[0]["alpha"]]


# -- section 2 -----------------------------------------------------------------------------------


def _fields(rows: Rows) -> Verdict:
    found = {r["layer"]: (r["rf"], r["stride"]) for r in rows if r["table"] == "table1"}
    paper = table1()
    if not paper.keys() <= found.keys():
        return Verdict(OPEN, "another network, of other layers")
    other = [layer for layer, printed in paper.items() if found[layer] != printed]
    said = ", ".join(f"{layer} {found[layer][0]}/{found[layer][1]}" for layer in other or paper)
    return Verdict(FAILS if other else HOLDS, said)


def _against_uniform(rows: Rows) -> Verdict:
    """Of each layer against random places in its own receptive field."""
    found = _means(
        rows,
        "figure1-gain",
        lambda name: _split(name)[1] == f"{_split(name)[0]} uniform-rf",
    )
    return above(_last_k(found), value="psnr", unit="dB")


def _less_visual(rows: Rows) -> Verdict:
    """Of each layer against the one before: neither has a word for how it was rebuilt."""
    found = _last_k(_means(rows, "figure1-gain", lambda name: " " not in _split(name)[1]))
    turned = [
        row | {"psnr": -row["psnr"], "psnr_low": -row["psnr_high"], "psnr_high": -row["psnr_low"]}
        for row in found
        if row["psnr"] is not None
    ]
    for row in turned:
        row["method"] = f"loss of {row['method']}"
    return above(turned, value="psnr", unit="dB")


def _centred(rows: Rows) -> Verdict:
    """The spread in the centre below that in the periphery: their ratio below 1."""
    found = [
        row
        | {"method": f"1 − ratio of {row['layer']}", "ratio": 1 - row["ratio"]}
        | {"ratio_low": 1 - row["ratio_high"], "ratio_high": 1 - row["ratio_low"]}
        for row in _means(rows, "figure2", lambda name: name == "neighbours")
        if row["ratio"] is not None
    ]
    return above(_last_k(found), value="ratio", unit="")


def _last_k(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    most = max((row["k"] for row in rows), default=0)
    return [row for row in rows if row["k"] == most]


# -- sections 3 to 5 -----------------------------------------------------------------------------


def _flows(rows: Rows) -> list[dict[str, Any]]:
    """Convnet flow minus SIFT flow, by threshold."""
    return _means(rows, "table2-comparison", lambda name: _split(name)[1] == "SIFT flow")


def _as_well(rows: Rows) -> Verdict:
    return above(_first_alpha(_flows(rows)), -MARGIN)


def _stricter(rows: Rows) -> Verdict:
    found = _flows(rows)
    return above([row for row in found if row["alpha"] < found[0]["alpha"]])


def _copying(of_sift: bool) -> Callable[[Rows], Verdict]:
    def check(rows: Rows) -> Verdict:
        wanted = _means(
            rows,
            "table2-comparison",
            lambda name: _split(name)[1] == COPY and name.startswith("SIFT") == of_sift,
        )
        return above(_first_alpha(wanted))

    return check


def _classified(rows: Rows) -> Verdict:
    return above(_means(rows, "table3-gain", lambda name: True))


def _deep(rows: Rows) -> Verdict:
    """The better of conv4 and conv5 against the best of the layers below."""
    found = _means(rows, "table3", lambda name: not is_sift(name) and name != BASELINE)
    if found and not {"conv4", "conv5"} <= {row["method"] for row in found}:
        return Verdict(OPEN, "another network: it has no conv4 and conv5")
    deep = [row for row in found if row["method"] in ("conv4", "conv5")]
    below = [row for row in found if row["method"] not in ("conv4", "conv5")]
    return apart(*(max(x, key=lambda row: row["value"], default=None) for x in (deep, below)))


def _fine(rows: Rows) -> Verdict:
    """Share of maxima within 8 px, above that of uniform ones."""
    found = [row for row in rows if row["table"] == "figure4" and not is_sift(row["layer"])]
    turned = [
        {"method": f"{row['layer']}, {row['keypoint']}"}
        | {f"over{end}": row[f"within8{end}"] - row["uniform8"] for end in ("", "_low", "_high")}
        for row in found
        if row["within8"] is not None
    ]
    return above(turned, value="over")


def _detectors(rows: Rows) -> Verdict:
    found = _means(rows, "table4", lambda name: "," not in name and not name.endswith(WITH))
    found = [row for row in _first_alpha(found) if row["method"] != "prior only"] if found else []
    sift = [row for row in found if is_sift(row["method"])]
    conv = [row for row in found if not is_sift(row["method"])]
    return apart(*(max(x, key=lambda row: row["value"], default=None) for x in (conv, sift)))


def _prior(rows: Rows) -> Verdict:
    found = _means(
        rows, "table4-comparison", lambda name: _split(name)[0] == f"{_split(name)[1]}{WITH}"
    )
    return above(_first_alpha(found))


def _with_prior(rows: Rows) -> Verdict:
    def kept(name: str) -> bool:
        one, other = _split(name)
        both = one.endswith(WITH) and other.endswith(WITH)
        return both and is_sift(other.removesuffix(WITH)) and not is_sift(one.removesuffix(WITH))

    return above(_first_alpha(_means(rows, "table4-comparison", kept)))


_ABOVE = f"the paired interval is above 0, and p at most {LEVEL:g}"
CLAIMS = (
    Claim("2", "Receptive fields and strides are those of Table 1.", "Table 1", "equal", _fields),
    Claim(
        "2",
        "Features carry information at a finer scale than their receptive fields.",
        "Figure 1",
        "pictures rebuilt from neighbours are nearer than from random places in the field (PSNR)",
        _against_uniform,
    ),
    Claim(
        "2",
        "Replacement becomes less visually specific as the layer deepens.",
        "section 2",
        "each layer's pictures are farther off than those of the layer before (PSNR)",
        _less_visual,
    ),
    Claim(
        "2",
        "Similar features respond to similar colours in the centres of their receptive fields.",
        "section 2, Figure 2",
        "neighbours' fields spread less in the centre than in the periphery",
        _centred,
    ),
    Claim(
        "3",
        "On average, convnet flow performs at least as well as SIFT flow.",
        "Table 2",
        f"the paired interval is above −{MARGIN:g} points; the margin is ours",
        _as_well,
    ),
    Claim("3", "It performs a bit better for stricter tolerances.", "Table 2", _ABOVE, _stricter),
    Claim("3", "Convnet flow beats copying from neighbours.", "Table 2", _ABOVE, _copying(False)),
    Claim("3", "SIFT flow beats copying from neighbours.", "Table 2", _ABOVE, _copying(True)),
    Claim(
        "4",
        "Convnet features classify keypoints better than SIFT.",
        "section 4, Table 3",
        "best layer minus best SIFT, each by cross-validation: the paired interval is above 0",
        _classified,
    ),
    Claim(
        "4",
        "The highest performance comes from conv4 and conv5.",
        "section 4, Table 3",
        "the interval of the better is above that of the best other layer",
        _deep,
    ),
    Claim(
        "4",
        "Convnet classifiers localise finer than their strides.",
        "section 4, Figure 4",
        "share of maxima within 8 px above that of uniform ones",
        _fine,
    ),
    Claim(
        "5",
        "Detectors on conv5 outperform SIFT.",
        "section 5, Table 4",
        "without prior, the convnet's interval is above that of SIFT",
        _detectors,
    ),
    Claim("5", "The prior helps in both cases.", "section 5, Table 4", _ABOVE, _prior),
    Claim(
        "5",
        "With the prior, too, conv5 outperforms SIFT.",
        "Table 4, Figure 6",
        _ABOVE,
        _with_prior,
    ),
)

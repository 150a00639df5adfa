"""What the paper prints, and what may be compared with it; its claims are in ``paper_claims``.

Source of every number: J. Long, N. Zhang, T. Darrell, "Do Convnets Learn Correspondence?", NIPS
2014, Tables 1 to 4, kept in ``paper.json``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, NamedTuple

from distcorr.report.classification import is_sift
from distcorr.report.detection import WITH
from distcorr.report.predictions import COPY

TITLE = "Do Convnets Learn Correspondence?"
BIBTEX = """@inproceedings{long2014convnets,
  title     = {Do Convnets Learn Correspondence?},
  author    = {Long, Jonathan and Zhang, Ning and Darrell, Trevor},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2014}
}"""
SHORT = {  # the heads of the paper's tables
    **{"aeroplane": "aero", "bicycle": "bike", "bottle": "bttl", "diningtable": "table"},
    **{"motorbike": "mbike", "person": "prsn", "pottedplant": "plant", "tvmonitor": "tv"},
}
# Table 3 of the electronic text has lost the order of these columns; the means are certain.
UNSURE = frozenset(
    ("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa")
)
NETWORKS = ("caffenet", "alexnet")  # whose layers of the same name have the same receptive fields
# Berkeley's keypoints of VOC 2011 are on 11,502 photographs of the list that graph matching uses.
LEAST_PHOTOGRAPHS = 10_000
_COLUMNS = {"table2": "alpha0.1_per_category", "table3": "rows", "table4": "alpha0.1_per_category"}


class Printed(NamedTuple):
    """A row of a table of the paper, in per cent.

    Attributes:
        name: as the paper has it.
        mean: over its 20 categories, as printed.
        categories: category -> number, at alpha 0.1 where there is one.
        means: alpha -> mean, for Table 2's three.
        same: False if ours is another network's layer in the same place.
    """

    name: str
    mean: float
    categories: dict[str, float]
    means: dict[float, float]
    same: bool

    def over(self, categories: Iterable[str]) -> float | None:
        """The mean over those of ``categories`` that the paper has; None if it has none."""
        known = [self.categories[c] for c in categories if c in self.categories]
        return sum(known) / len(known) if known else None


@functools.cache
def numbers() -> dict[str, Any]:
    """All of ``paper.json``."""
    found = json.loads((resources.files("distcorr.report") / "paper.json").read_text())
    return dict(found)


def categories() -> list[str]:
    """The paper's 20, in its order."""
    return list(numbers()["categories"])


def table1() -> dict[str, tuple[int, int]]:
    """Layer -> side of the receptive field and stride, px (Table 1)."""
    return {layer: (rf, stride) for layer, (rf, stride) in numbers()["table1"]["rf"].items()}


def printed(table: str, method: str, methods: Sequence[str], network: str) -> Printed | None:
    """The paper's row for one of ours, or None where it has none.

    Args:
        table: "table2", "table3" or "table4".
        method: ours, for example "conv4 flow" or "dsift8 + prior".
        methods: all of ours; the first of a network stands for the paper's.
        network: key of the networks, "" if it is not known.
    """
    known = {"table2": _flow, "table3": _column, "table4": _detector}
    found = known[table](method, methods, network)
    if found is None:
        return None
    key, name, same = found
    content = numbers()[table]
    own = content[_COLUMNS[table]][key]
    means: dict[float, float] = {}
    if table == "table2":
        at = content["mean_alpha_0.1_0.05_0.025"][key]
        means = dict(zip((0.1, 0.05, 0.025), at, strict=True))
    mean = means[0.1] if means else content["mean"][key]
    return Printed(name, mean, dict(zip(categories(), own, strict=True)), means, same)


_Key = tuple[str, str, bool] | None


def _flow(method: str, methods: Sequence[str], network: str) -> _Key:
    fixed = {"SIFT flow": "sift_flow", COPY: "nn_transfer"}
    if method in fixed:
        return fixed[method], method, True
    first = next((m for m in methods if m not in fixed), "")
    same = method == "conv4 flow" and network in NETWORKS
    return ("conv4_flow", "conv4 flow", same) if same or method == first else None


def _column(method: str, methods: Sequence[str], network: str) -> _Key:
    radius = re.fullmatch(r"sift(10|20|40|80|160)", method)
    if radius:
        return f"sift_{radius[1]}", f"SIFT {radius[1]}", True
    same = network in NETWORKS and method in numbers()["table3"]["rows"]
    return (method, method, True) if same else None


def _detector(method: str, methods: Sequence[str], network: str) -> _Key:
    layer, prior = method.removesuffix(WITH), method.endswith(WITH)
    end, words = ("_prior", "+prior") if prior else ("", "")
    if layer == "dsift8":
        return f"sift{end}", f"SIFT{words}", True
    of_nets = [m for m in methods if not is_sift(m.removesuffix(WITH)) and "," not in m]
    same = layer == "conv5" and network in NETWORKS
    if same or (of_nets and layer == of_nets[0].removesuffix(WITH)):
        return f"conv5{end}", f"conv5{words}", same
    return None


# -- what may be compared ------------------------------------------------------------------------


def same_weights(stamp: str) -> bool:
    """Whether a report's weights are the published CaffeNet's, all of it and not a control."""
    return re.match(r"BVLC CaffeNet(,|;|$)", stamp) is not None and "CONTROL" not in stamp


def same_data(found: Iterable[str], images: Iterable[str]) -> bool:
    """Whether photographs may be the paper's: its 20 categories, names as in PASCAL VOC, all there.

    Args:
        found: categories.
        images: photographs, also several times.
    """
    name, shown = re.compile(r"(.*/)?20\d\d_\d{6}\.jpg"), set(images)
    if set(found) != set(categories()) or len(shown) < LEAST_PHOTOGRAPHS:
        return False
    return all(name.fullmatch(image) for image in shown)

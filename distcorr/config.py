"""Every setting, its value and where it comes from; presets, TOML files and ``--set``.

Frozen dataclasses, two levels deep. Layers, the last wins: a preset (or a TOML file, which may name
a preset), then ``--set section.key=value``. ``compute`` says where work runs and never changes a
result; everything else is part of the keys that stage outputs are filed under.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_type_hints

from distcorr.errors import DistcorrError, did_you_mean
from distcorr.uris import refuse_password

T = TypeVar("T")


def setting(default: Any, source: str) -> Any:
    """A field with its default and where that default comes from."""
    return field(default=default, metadata={"source": source})


def _bad(path: str, wanted: str, value: Any) -> DistcorrError:
    return DistcorrError(f"{path} must be {wanted}, got {value!r}", f"--set {path}=...")


def _at_least(path: str, value: int, least: int) -> None:
    if value < least:
        raise _bad(path, f"{least} or more", value)


def _one_of(path: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise DistcorrError(
            f"{path} must be one of {', '.join(known)}, got {value!r}.{did_you_mean(value, known)}",
            f"--set {path}={known[0]}",
        )


def _evenly(members: Sequence[T], most: int) -> list[T]:
    """``most`` of them, evenly spaced; 0: all."""
    count = min(most or len(members), len(members))
    return [members[(2 * i + 1) * len(members) // (2 * count)] for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which photographs and annotations."""

    name: str = setting("voc", "reader: voc, coco, cub, table, toy, or module:function of your own")
    root: str = setting("", "folder, file or URI of the annotations (--data)")
    categories: tuple[str, ...] = setting((), "empty: all of them, as the paper (--category)")
    limit: int = setting(0, "instances per category and split, 0 = all, as the paper (--limit)")
    toy_train: int = setting(16, "drawn training instances per category; not in the paper")
    toy_val: int = setting(8, "drawn validation instances per category; not in the paper")

    def __post_init__(self) -> None:
        refuse_password(self.root)  # it would be kept in config.toml
        _at_least("dataset.limit", self.limit, 0)
        _at_least("dataset.toy_train", self.toy_train, 1)
        _at_least("dataset.toy_val", self.toy_val, 1)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Which features are kept in the store: layers of a network, SIFT, extractors of your own.

    A layer is one of the network's ("conv4"), SIFT with its radius in px ("sift20"), SIFT on a
    dense grid with its bin ("dsift8"), or an extractor, "module:attribute". In a list, "auto"
    stands for the layers that the network declares for that purpose.
    """

    network: str = setting("auto", "sec. 2: caffenet; auto = what the weights file is known to be")
    weights: str = setting("", "path of .npz or .caffemodel (--weights)")
    weights_sha256: str = setting("", "refuse weights with any other checksum; empty: no demand")
    conv: str = setting("auto", "sec. 3: conv4; auto = the network's declared layer")
    vector: str = setting("auto", "sec. 3: fc7; auto = fc7, else the network's spatial descriptor")
    grids: tuple[str, ...] = setting(("sift20",), "further layers on the boxes; sec. 3: SIFT")
    grids500: tuple[str, ...] = setting(("auto",), "layers on 500 px boxes; sec. 5: conv5")
    points: tuple[str, ...] = setting(
        ("auto", "sift10", "sift20", "sift40", "sift80", "sift160"),
        "layers at the keypoints of whole photographs; sec. 4: conv1-conv5, SIFT at five radii",
    )
    cells: tuple[str, ...] = setting(
        ("auto",), "layers whose cells in whole photographs are kept; sec. 2: conv3-conv5"
    )
    cells_per_photo: int = setting(0, "a seeded sample of so many cells; sec. 2, dense: 0 = all")
    photo_side: int = setting(500, "longer photographs are reduced to it; VOC's longest is 500 px")
    context: int = setting(
        0, "px of the network's input around the boxes of grids, as R-CNN's 16; sec. 3: 0"
    )
    control: str = setting("none", "none, or shuffled-weights: a net that must lose")
    precision: str = setting("float32", "of the network: float32 or bfloat16; not in the paper")
    batch: int = setting(16, "227 px images per forward pass; not in the paper")
    shard: int = setting(32, "instances or photographs per part file; not in the paper")

    def __post_init__(self) -> None:
        refuse_password(self.weights)
        for key in ("batch", "shard", "photo_side"):
            _at_least(f"features.{key}", getattr(self, key), 1)
        _at_least("features.cells_per_photo", self.cells_per_photo, 0)
        _at_least("features.context", self.context, 0)
        _one_of("features.precision", self.precision, ("float32", "bfloat16"))
        _one_of("features.control", self.control, ("none", "shuffled-weights"))


@dataclass(frozen=True, kw_only=True)
class NeighborsConfig:
    """Section 3: who is aligned with whom."""

    k: int = setting(25, "sec. 3: 25 neighbours")
    split: str = setting("val", "sec. 3: val is predicted; or train, own photograph left out")

    def __post_init__(self) -> None:
        _one_of("neighbors.split", self.split, ("val", "train"))
        _at_least("neighbors.k", self.k, 1)


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Section 3: alignment by belief propagation; everything here changes the saved flows."""

    beta: float = setting(3e-3, "sec. 3, 'from validation experiments', for every feature")
    units: str = setting("cells", "of w in the energy: cells or px; not in the paper, measured")
    feature_norm: str = setting("unit", "unit or raw; not in the paper, measured to matter")
    side: int = setting(0, "px of the boxes: 0 = the network's input, sec. 3's 227; or 500")
    features: tuple[str, ...] = setting(
        ("auto", "sift20"), "layers that are aligned, auto = features.conv; sec. 3: conv4, SIFT"
    )
    direction: str = setting("inverse", "sec. 3: align the test with its neighbour; or forward")
    targets: int = setting(0, "at most so many test instances per category; sec. 3: 0 = all")
    solver: str = setting("decoupled", "decoupled, trws, or sec. 3's own: paper")
    iterations: int = setting(0, "of the solver, 0 = its default; not in the paper")
    window: int = setting(0, "largest displacement along an axis, cells; sec. 3: 0 = any")
    truncation: float = setting(
        0.0, "most that an edge, beta ||w(p) - w(q)||^2, costs, by solver paper; sec. 3: 0 = none"
    )
    shard: int = setting(8, "targets per part file; not in the paper")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise _bad("flow.beta", "a finite number above 0", self.beta)
        _one_of("flow.units", self.units, ("cells", "px"))
        _one_of("flow.feature_norm", self.feature_norm, ("unit", "raw"))
        _one_of("flow.direction", self.direction, ("inverse", "forward"))
        if self.side not in (0, 500):
            raise _bad("flow.side", "0 (the network's input) or 500", self.side)
        if not self.features:
            raise _bad("flow.features", "one or more layers", self.features)
        _at_least("flow.targets", self.targets, 0)
        _one_of("flow.solver", self.solver, ("decoupled", "trws", "paper"))
        for key, least in (("iterations", 0), ("window", 0), ("shard", 1)):
            _at_least(f"flow.{key}", getattr(self, key), least)
        if not (math.isfinite(self.truncation) and self.truncation >= 0):
            raise _bad("flow.truncation", "0, or a finite number above 0", self.truncation)
        if self.truncation and self.solver != "paper":
            raise DistcorrError(
                f"flow.truncation = {self.truncation:g} needs flow.solver = 'paper', "
                f"got {self.solver!r}",
                "--set flow.solver=paper as well, or --set flow.truncation=0",
            )

    def chosen(self, members: Sequence[T]) -> list[T]:
        """The ``targets`` that are aligned out of a category's test instances, evenly spaced."""
        return _evenly(members, self.targets)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Section 4: which keypoint is this? One-vs-rest linear SVMs on the columns at keypoints."""

    layers: tuple[str, ...] = setting((), 'by name, "conv4"; sec. 4, empty: all of features.points')
    cs: tuple[float, ...] = setting(
        tuple(10.0**e for e in range(-9, 1)), "prices of an error; sec. 4, Figure 5: 1e-9 to 1"
    )
    folds: int = setting(5, "sec. 4: five-fold cross-validation, photographs stay together")
    feature_norm: str = setting("raw", "raw, which sec. 4's C of 1e-6 goes with; or unit")
    intercept: str = setting("scaled", "regularised as liblinear does, or free; not in the paper")
    control: str = setting("none", "none, or shuffled-labels: classifiers that must fail")

    def __post_init__(self) -> None:
        if not self.cs or not all(math.isfinite(c) and c > 0 for c in self.cs):
            raise _bad("classify.cs", "one or more finite numbers above 0", self.cs)
        if len(set(self.cs)) < len(self.cs):
            raise _bad("classify.cs", "numbers that differ", self.cs)
        _at_least("classify.folds", self.folds, 2)
        _one_of("classify.feature_norm", self.feature_norm, ("raw", "unit"))
        _one_of("classify.intercept", self.intercept, ("scaled", "free"))
        _one_of("classify.control", self.control, ("none", "shuffled-labels"))


@dataclass(frozen=True, kw_only=True)
class ResponsesConfig:
    """Section 4, Figure 4: where around a keypoint its classifier responds most."""

    keypoints: tuple[str, ...] = setting(
        ("auto",),
        "category/keypoint; sec. 4, auto: cat/L_Eye and cat/Nose, else the category with most of "
        "them and its two commonest",
    )
    layers: tuple[str, ...] = setting(
        ("auto", "sift20"), "of classify.layers, auto = features.conv; sec. 4: conv4 and SIFT"
    )
    radius: int = setting(10, "px; sec. 4: a 21 x 21 window")

    def __post_init__(self) -> None:
        _at_least("responses.radius", self.radius, 1)
        for name in self.keypoints:
            if name != "auto" and not all(name.partition("/")):
                raise _bad("responses.keypoints", "auto or CATEGORY/KEYPOINT", name)


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Section 5: where is this keypoint? Linear SVMs with mined negatives, and a prior."""

    layers: tuple[str, ...] = setting(
        ("auto", "dsift8"),
        "kept on 500 px boxes, auto = the network's; sec. 5: conv5, SIFT of 8 px",
    )
    rounds: int = setting(3, "of mining after the random negatives; not in the paper")
    hardest: int = setting(500, "negatives per keypoint and round; not in the paper")
    first: int = setting(20, "random positions of every instance to begin with; R-CNN's")
    absent: str = setting(
        "ignore", "who lacks a keypoint: ignore (our reading of sec. 5), negative"
    )
    c: float = setting(1e-3, "price of a negative, features brought to mean norm 20; R-CNN's")
    positive_weight: float = setting(2.0, "times that a positive costs; R-CNN's")
    cache: int = setting(100_000, "mined negatives of a category at most; not in the paper")
    instances: int = setting(0, "at most so many training instances per category; sec. 5: 0 = all")
    sigma: float = setting(22.0, "px of the 500 px box, of the prior; sec. 5")
    etas: tuple[float, ...] = setting(
        (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
        "weights of the prior that are tried; sec. 5, by cross-validation: 0.1; one: no folds",
    )
    folds: int = setting(5, "of that, photographs stay together; not in the paper")
    refine: bool = setting(True, "predict between positions as well; not in the paper")
    maps: int = setting(1, "validation instances per category to keep scores of; not in the paper")
    control: str = setting("none", "none, or shuffled-labels: detectors and a prior that must fail")

    def __post_init__(self) -> None:
        if not self.layers:
            raise _bad("detect.layers", "one or more layers", self.layers)
        for key in ("rounds", "instances", "cache", "maps"):
            _at_least(f"detect.{key}", getattr(self, key), 0)
        for key in ("hardest", "first"):
            _at_least(f"detect.{key}", getattr(self, key), 1)
        _at_least("detect.folds", self.folds, 2)
        for key in ("c", "positive_weight", "sigma"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value > 0):
                raise _bad(f"detect.{key}", "a finite number above 0", value)
        if not self.etas or not all(0 <= eta <= 1 for eta in self.etas):
            raise _bad("detect.etas", "one or more numbers from 0 to 1", self.etas)
        if len(set(self.etas)) < len(self.etas):
            raise _bad("detect.etas", "numbers that differ", self.etas)
        _one_of("detect.absent", self.absent, ("ignore", "negative"))
        _one_of("detect.control", self.control, ("none", "shuffled-labels"))

    def chosen(self, members: Sequence[T]) -> list[T]:
        """The ``instances`` that are learnt from out of a category's, evenly spaced."""
        return _evenly(members, self.instances)


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """Section 2, Figures 1 and 2: what does a feature see? Nearest neighbours' patches."""

    layers: tuple[str, ...] = setting(
        ("auto",), "auto = all whose cells are kept; sec. 2: conv3, conv4, conv5"
    )
    base: str = setting("train", "photographs that patches are from: train (our reading), or all")
    mirrored: bool = setting(False, "and from their mirror images; not in the paper")
    images: tuple[str, ...] = setting(
        ("auto",), "validation photographs to rebuild first, by name; auto = a seeded draw"
    )
    photographs: int = setting(20, "that are rebuilt, for the numbers; not in the paper")
    shown: int = setting(5, "of them whose pictures are kept for Figure 1; not in the paper")
    ks: tuple[int, ...] = setting((1, 5), "neighbours of a patch; sec. 2, Figure 1: 1 and 5")
    seeds: int = setting(20, "random cells of Figure 2, for the numbers; not in the paper")
    averaged: tuple[int, ...] = setting(
        (5, 50, 500), "neighbours of a random cell; sec. 2, Figure 2: 5, 50 and 500"
    )
    drawn: int = setting(4, "random cells that Figure 2 shows; sec. 2: some")
    copies: float = setting(
        0.45, "agreement of near copies, left out as the photograph itself; 0 = none; measured"
    )
    search: str = setting("exact", "exact, or ivf: quicker, misses some; not in the paper")
    probes: int = setting(16, "lists that ivf looks through, of sqrt(cells); not in the paper")

    def __post_init__(self) -> None:
        if not self.layers:
            raise _bad("visualize.layers", "one or more layers", self.layers)
        if not self.images:
            raise _bad("visualize.images", "one or more names, or auto", self.images)
        _one_of("visualize.base", self.base, ("train", "all"))
        _one_of("visualize.search", self.search, ("exact", "ivf"))
        for key in ("photographs", "seeds", "probes"):
            _at_least(f"visualize.{key}", getattr(self, key), 1)
        for key in ("shown", "drawn"):
            _at_least(f"visualize.{key}", getattr(self, key), 0)
        if not 0 <= self.copies <= 1:
            raise _bad("visualize.copies", "a number from 0 to 1", self.copies)
        for key in ("ks", "averaged"):
            ks = getattr(self, key)
            if not ks or min(ks) < 1 or max(ks) > 10_000 or sorted(set(ks)) != list(ks):
                raise _bad(f"visualize.{key}", "whole numbers from 1 to 10000 that ascend", ks)


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Benchmarks that say which two photographs to match (``evaluate-pairs``); not in the paper."""

    root: str = setting("", "folder, file or URI of the pairs (--data); empty: of drawn objects")
    layout: str = setting("", "pf-willow, pf-pascal, spair-71k or table; empty: recognised")
    split: str = setting("test", "of the pairs; what papers report")
    categories: tuple[str, ...] = setting((), "empty: all of them (--category)")
    limit: int = setting(0, "pairs per category, 0 = all (--limit)")
    features: tuple[str, ...] = setting(("auto",), "layers, auto = features.conv (--feature)")
    methods: tuple[str, ...] = setting(
        ("nn", "mutual", "softargmax", "flow"), "by which points are carried over (--method)"
    )
    side: int = setting(0, "px of the squares: 0 = the layer's own input, as match")
    box: bool = setting(False, "boxes in place of whole photographs, which benchmarks match")
    window: int = setting(
        -1, "cells around the best, of softargmax; -1: GeoAware-SC's share of the grid, 7 of 60"
    )
    temperature: float = setting(0.02, "of softargmax, for cosines; GeoAware-SC's code, as SFNet")
    dialects: tuple[str, ...] = setting(
        ("hpf", "dift-point"), "definitions of PCK; SPair-71k's per image and per point (--dialect)"
    )
    shard: int = setting(64, "pairs per part file; memory grows with it")

    def __post_init__(self) -> None:
        refuse_password(self.root)
        for key, least in (("limit", 0), ("side", 0), ("window", -1), ("shard", 1)):
            _at_least(f"pairs.{key}", getattr(self, key), least)
        for key in ("features", "methods", "dialects"):
            names = getattr(self, key)
            if not names or len(set(names)) < len(names):
                raise _bad(f"pairs.{key}", "one or more names that differ", names)
        for method in self.methods:
            _one_of("pairs.methods", method, ("nn", "mutual", "softargmax", "flow"))
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise _bad("pairs.temperature", "a finite number above 0", self.temperature)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """From what is saved to PCK, accuracy and their intervals; nothing here computes it anew."""

    order: str = setting("deformation", "sec. 3: deformation; or data, total, similarity")
    keep: int = setting(5, "sec. 3: median of the top five aligned keypoints")
    strict: bool = setting(False, "look at the first `keep` neighbours only; not in the paper")
    copying: str = setting("median", "of the `keep` most similar, or nearest; not in the paper")
    alphas: tuple[float, ...] = setting((0.1, 0.05, 0.025), "sec. 3: Table 2's three thresholds")
    inclusive: bool = setting(
        True, "distance <= threshold, as the authors' predictions were scored"
    )
    c: float = setting(0.0, "of the classifiers, 0 = by cross-validation; sec. 4: 1e-6")
    eta: float = setting(-1.0, "weight of the prior, -1 = by cross-validation; sec. 5: 0.1")
    choose: str = setting("layer", "one C or eta per layer, category (and layer), all; sec. 4: all")
    resamples: int = setting(1000, "bootstrap by photograph; not in the paper")
    level: float = setting(0.95, "of the intervals; not in the paper")

    def __post_init__(self) -> None:
        _one_of("evaluation.order", self.order, ("deformation", "data", "total", "similarity"))
        _one_of("evaluation.copying", self.copying, ("median", "nearest"))
        _at_least("evaluation.keep", self.keep, 1)
        if not self.alphas or not all(math.isfinite(a) and a > 0 for a in self.alphas):
            raise _bad("evaluation.alphas", "one or more finite numbers above 0", self.alphas)
        if not (math.isfinite(self.c) and self.c >= 0):
            raise _bad("evaluation.c", "0, or a finite number above 0", self.c)
        if self.eta != -1 and not 0 <= self.eta <= 1:
            raise _bad("evaluation.eta", "-1, or a number from 0 to 1", self.eta)
        _one_of("evaluation.choose", self.choose, ("layer", "category", "all"))
        _at_least("evaluation.resamples", self.resamples, 1)
        if not 0 < self.level < 1:
            raise _bad("evaluation.level", "a number between 0 and 1", self.level)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Where the work runs. Nothing here changes a result, so nothing here is part of a key."""

    address: str = setting("", "inline, local, auto or URL; empty: auto in a Ray job, else local")
    store: str = setting("", "folder or URI of a store that runs share (--store); empty: the run's")
    workers: int = setting(0, "processes at once, 0 = one per CPU of the machine or cluster")
    gpus_per_worker: float = setting(-1.0, "fractions allowed; -1 = 1 where Ray sees a GPU, else 0")
    retries: int = setting(3, "times that a shard whose process died is tried again")
    memory_gb: float = setting(
        0.0, "that Ray keeps free for each process, 0 = not asked for; the log's peak_mb is a guide"
    )
    patience: float = setting(600.0, "s that a cluster gets to bring a node that is asked for")

    def __post_init__(self) -> None:
        refuse_password(self.store)
        gpus = self.gpus_per_worker
        if gpus != -1 and not (0 <= gpus <= 1 or gpus == int(gpus) > 0):
            raise _bad("compute.gpus_per_worker", "-1, 0 to 1, or a whole number", gpus)
        _at_least("compute.workers", self.workers, 0)
        _at_least("compute.retries", self.retries, 0)
        if self.memory_gb < 0:
            raise _bad("compute.memory_gb", "0 or more", self.memory_gb)
        if self.patience <= 0:
            raise _bad("compute.patience", "more than 0", self.patience)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration."""

    preset: str = setting("smoke", "what this configuration started from")
    seed: int = setting(2014, "of every random draw; not in the paper")
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    neighbors: NeighborsConfig = field(default_factory=NeighborsConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    responses: ResponsesConfig = field(default_factory=ResponsesConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    visualize: VisualizeConfig = field(default_factory=VisualizeConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        c, trained = self.evaluation.c, self.classify.cs
        if c and not any(math.isclose(c, each) for each in trained):
            raise DistcorrError(
                f"evaluation.c must be a C that was trained, got {c:g}.",
                f"classify.cs has {', '.join(f'{each:g}' for each in trained)}",
            )


PRESETS: dict[str, Config] = {
    # Drawn objects and a network that installs as a package: nothing is downloaded, two minutes.
    "smoke": Config(
        preset="smoke",
        dataset=DatasetConfig(name="toy"),
        features=FeaturesConfig(
            network="efficientnet-lite0", points=("auto", "sift20"), cells_per_photo=64, shard=12
        ),
        flow=FlowConfig(shard=4),
        # The network sees one input size: a pass for each shift, the fewer the finer its stride.
        responses=ResponsesConfig(layers=("block4", "sift20")),
        visualize=VisualizeConfig(photographs=4, shown=3, seeds=4),
    ),
    # The paper's settings; data and weights are the user's (--data, --weights).
    "paper": Config(preset="paper"),
}


# -- making a configuration --------------------------------------------------------------------


def load(
    preset: str = "smoke", overrides: Sequence[str] = (), document: Mapping[str, Any] | None = None
) -> Config:
    """A preset or a TOML document, with overrides.

    Args:
        preset: name in ``PRESETS``; ignored when ``document`` names one itself.
        overrides: ``"flow.beta=0.01"``; the value is TOML, or else a plain string.
        document: parsed TOML, for example a run's ``config.toml``.

    Raises:
        DistcorrError: unknown preset, unknown setting, or a value out of its range.
    """
    name = str((document or {}).get("preset", preset))
    if name not in PRESETS:
        raise DistcorrError(
            f"Unknown preset {name!r}.{did_you_mean(name, PRESETS)}",
            f"presets: {', '.join(PRESETS)}, or the path of a .toml file",
        )
    config = PRESETS[name]
    changes: dict[str, Any] = {}
    for section, value in (document or {}).items():
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        changes |= {f"{section}.{key}".rstrip("."): entry for key, entry in entries}
    for text in overrides:
        path, separator, value = text.partition("=")
        if not separator:
            raise DistcorrError(
                f"--set takes KEY=VALUE, got {text!r}", "for example --set flow.beta=0.01"
            )
        changes[path.strip()] = _parse(value.strip())
    return _replace(config, changes)


def parse_toml(content: bytes, where: str) -> dict[str, Any]:
    """A TOML document; ``where`` names it in the error."""
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # neither UTF-8 nor TOML
        raise DistcorrError(f"{where} is not TOML: {error}", "mend that line") from error


def _parse(value: str) -> Any:
    try:
        return tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return value  # a bare word is a string: --set features.conv=conv5


def _replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """All settings of a section at once: some are only right together."""
    known = [name for name, _, _ in settings(config)]
    sections: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        if path not in known:
            section = path.partition(".")[0]
            parts = list(dict.fromkeys(name.partition(".")[0] for name in known))
            guess = did_you_mean(path, known)
            if not guess and section not in parts:
                guess = did_you_mean(section, parts)
            raise DistcorrError(
                f"Unknown setting {path!r}.{guess}",
                "distcorr config lists them all",
            )
        section, _, key = path.rpartition(".")
        owner = getattr(config, section) if section else config
        sections.setdefault(section, {})[key] = _coerce(owner, key, path, value)
    inner = {
        section: dataclasses.replace(getattr(config, section), **found)
        for section, found in sections.items()
        if section
    }
    return dataclasses.replace(config, **sections.get("", {}), **inner)


def _coerce(owner: Any, key: str, path: str, value: Any) -> Any:
    wanted = get_type_hints(type(owner))[key]
    if wanted == tuple[str, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if all(isinstance(item, str) for item in items):
            return tuple(items)
    elif wanted == tuple[int, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if all(type(item) is int for item in items):
            return tuple(items)
    elif wanted == tuple[float, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        if all(_is_number(item) for item in items):
            return tuple(float(item) for item in items)
    elif wanted is float and _is_number(value):
        return float(value)
    elif wanted is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    elif type(value) is wanted:
        return value
    name = getattr(wanted, "__name__", str(wanted))
    raise _bad(
        path, f"a value of type {name if wanted in (int, float, bool, str) else wanted}", value
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# -- showing a configuration -------------------------------------------------------------------


def settings(config: Config) -> list[tuple[str, Any, str]]:
    """Every setting as (dotted name, value, where the default comes from)."""
    rows: list[tuple[str, Any, str]] = []
    for top in dataclasses.fields(config):
        value = getattr(config, top.name)
        if dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                source = inner.metadata["source"]
                rows.append((f"{top.name}.{inner.name}", getattr(value, inner.name), source))
        else:
            rows.append((top.name, value, top.metadata["source"]))
    return rows


def dump(config: Config, comments: bool = False) -> str:
    """The configuration as TOML; ``comments`` adds each setting's source."""
    lines: list[str] = []
    section = ""
    for path, value, source in settings(config):
        head, _, key = path.rpartition(".")
        if head != section:
            lines += ["", f"[{head}]"]
            section = head
        text = f"{key} = {_toml(value)}"
        lines.append(f"{text:<44} # {source}" if comments else text)
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)  # TOML's basic strings escape as JSON's do
    return repr(value)


def difference(old: Config, new: Config) -> list[str]:
    """Lines ``flow.beta: 0.003 -> 0.01`` for what differs, ``compute`` left out."""
    return [
        f"{path}: {_toml(before)} -> {_toml(after)}"
        for (path, before, _), (_, after, _) in zip(settings(old), settings(new), strict=True)
        if before != after and not path.startswith("compute.") and path != "preset"
    ]


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()

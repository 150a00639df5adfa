"""``ablate``: what the points of section 3 that the paper leaves open are worth.

A variant is the run's configuration with one factor changed (protocol, section 11; O9, neighbours
of any class, is not among them). Each distinct alignment is a run of its own below the run folder,
over the same feature store: it is resumed like any other, and variants that only combine neighbours
differently share one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from distcorr import config as configuration
from distcorr.config import Config, digest
from distcorr.data.run import Run
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.stages.pipeline import Context, Progress, Silent, required, run_stage

DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """One factor changed.

    Attributes:
        name: what it is called.
        point: of the protocol's register; "" if it is not one of them.
        settings: as ``--set`` takes them.
    """

    name: str
    point: str = ""
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A variant whose flows are there, and how they are to be combined and scored."""

    variant: Variant
    run: Run
    config: Config


TRANSFER = (
    Variant(DEFAULT),
    Variant("side-500", "O7", ("flow.side=500",)),
    Variant("context-16", "O8", ("features.context=16",)),
    Variant("raw-px", "O10", ("flow.feature_norm=raw", "flow.units=px")),
    Variant("beta-0.001", "O11", ("flow.beta=0.001",)),
    Variant("beta-0.01", "O11", ("flow.beta=0.01",)),
    Variant("beta-0.03", "O11", ("flow.beta=0.03",)),
    Variant("solver-paper", "O12", ("flow.solver=paper",)),
    Variant("solver-trws", "O12", ("flow.solver=trws",)),
    Variant("window-3", "O13", ("flow.window=3",)),
    # To be read beside solver-paper. What a jump of six cells, half of the paper's 13, costs at the
    # paper's beta, so that neighbours still count; not in the paper.
    Variant("truncation", "O14", ("flow.solver=paper", "flow.truncation=0.108")),
    Variant("forward", "O15", ("flow.direction=forward",)),
    Variant("strict-five", "O16", ("evaluation.strict=true",)),
    Variant("copy-nearest", "O17", ("evaluation.copying=nearest",)),
    Variant("sift-10", "O18", ('flow.features=["auto", "sift10"]',)),
    Variant("sift-40", "O18", ('flow.features=["auto", "sift40"]',)),
    Variant("below-threshold", "O22", ("evaluation.inclusive=false",)),
    Variant("order-data", "", ("evaluation.order=data",)),
    Variant("order-total", "", ("evaluation.order=total",)),
    Variant("order-similarity", "", ("evaluation.order=similarity",)),
)
BETAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # protocol, section 8.4

# What alignment reads, and nothing else: the features of other sections play no part.
_ALONE = tuple(f"features.{kind}=[]" for kind in ("grids", "grids500", "points", "cells"))


def chosen(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of these names, and the default to compare with; all if none is given.

    Raises:
        DistcorrError: there is no such variant.
    """
    known = {variant.name: variant for variant in TRANSFER}
    for name in names:
        if name not in known:
            raise DistcorrError(
                f"There is no variant {name!r}.{did_you_mean(name, known)}",
                f"variants: {', '.join(known)}",
            )
    wanted = {DEFAULT, *names} if names else known.keys()
    return tuple(variant for variant in TRANSFER if variant.name in wanted)


def of_betas(betas: Iterable[float] = BETAS) -> tuple[Variant, ...]:
    """Every beta, tried on training instances: their own photograph is never their neighbour."""
    return tuple(
        Variant(f"beta-{beta:g}", "O11", (f"flow.beta={beta!r}", "neighbors.split=train"))
        for beta in betas
    )


def run_variants(
    context: Context, variants: Sequence[Variant], targets: int, progress: Progress | None = None
) -> list[Made]:
    """Make what is missing of each variant.

    Args:
        context: of the run whose settings are varied; its features must be there.
        variants: which ones.
        targets: at most so many targets per category; 0 for all.
        progress: told of every variant as of a shard.

    Raises:
        DistcorrError: the run has no features yet, or the default cannot be made. Another variant
            that these features or this network do not allow is left out, with a warning.
    """
    required("build-db", "ablate", context.run)
    shown = progress or Silent()
    shown.start("ablate", len(variants), 0)
    made = []
    for variant in variants:
        try:
            made.append(_make(context, variant, targets))
        except DistcorrError as error:
            if variant.name == DEFAULT:
                raise
            context.progress.warn(f"{variant.name} is left out: {error.message}")
        shown.advance(False)
    return made


def _make(context: Context, variant: Variant, targets: int) -> Made:
    base = configuration.parse_toml(configuration.dump(context.config).encode(), "configuration")
    store = context.config.compute.store or f"{context.run}/store"
    if "://" not in store:
        store = os.path.abspath(store)
    sets = [*_ALONE, f"flow.targets={targets}", f"compute.store={json.dumps(store)}"]
    config = configuration.load(overrides=[*sets, *variant.settings], document=base)
    aligned = {k: v for k, v in asdict(config).items() if k not in ("evaluation", "compute")}
    run = Run(f"{context.run}/ablation/{digest(aligned)[:8]}")
    inner = replace(context, config=config, run=run, progress=_Warnings(context.progress))
    for stage in ("build-db", "neighbors", "transfer"):
        run_stage(stage, inner)
    return Made(variant, run, config)


class _Warnings(Silent):
    """Passes on what the user should know; the many stages of many variants say nothing else."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def warn(self, message: str) -> None:
        self._progress.warn(message)

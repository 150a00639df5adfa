"""How long a unit of work takes and how many bytes it leaves: ours, or those of the user's run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from distcorr.algorithms.costs import Rate, cold_starts, fit
from distcorr.config import Config
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, StageFolder
from distcorr.errors import DistcorrError
from distcorr.report.workload import Counts, Layers, Phase, counted, phases

_LOG = re.compile(r"(.+)-([0-9a-f]{8})-(\d{8}-\d{6})\.jsonl")
_SECONDS = ("seconds", "aligning", "training")  # of a shard; logs of older versions have the last
_START_AT_MOST = 120.0  # s; a longer gap before the first shard is no start-up

# Measured with BVLC AlexNet on 1,130 photographs (RESULTS.md), two workers on the two cores of an
# AMD EPYC (AVX2); seconds of one core. Neighbours and visualize are coarser than the others.
SOURCE = "reference: BVLC AlexNet, 1,130 photographs, AMD EPYC, 2 workers"
REFERENCE = {
    ("build-db", "photographs"): Rate(0.0, 0.117, 2.0),
    ("build-db", "instances"): Rate(0.0, 0.027, 2.0),  # with grids500 GRIDS500 more
    ("neighbors", ""): Rate(0.5, 6e-7),  # 9,216 dimensions
    ("transfer", ""): Rate(0.05, 2.6e-3, 0.8),
    ("transfer", "sift"): Rate(0.05, 1.8e-3, 0.8),
    ("classify", ""): Rate(0.14, 2.4e-5, 8.0),
    ("responses", ""): Rate(0.0, 0.175, 2.0),
    ("detect", ""): Rate(0.0, 9.1e-3),
    ("detect", "dsift"): Rate(0.0, 6.7e-3),
    ("visualize", ""): Rate(0.0, 2.3e-3),
}
GRIDS500 = 0.116  # s of an instance more, where build-db looks at 500 px boxes
SOLVERS = {"decoupled": 1.0, "trws": 6.0, "paper": 15.0}  # times the default's time of a pair
LARGE = 9.0  # times that of a pair of 30 x 30 cells in place of 13 x 13

# Bytes in the files, of an instance, a photograph or a visible keypoint; AlexNet's sizes, whose
# float16 are compressed. Vectors: pool5; fc7 has 4,096 numbers in place of 9,216.
TABLES = {
    "grids/conv4": 55_900,
    "grids/sift20": 37_600,
    "grids500/conv5": 56_800,
    "grids500/conv4": 300_000,
    "vectors/pool5": 6_760,
    "vectors/fc7": 6_000,
    "cells/conv3": 173_000,
    "cells/conv4": 167_000,
    "cells/conv5": 34_300,
    "points/conv1": 130,
    "points/conv2": 155,
    "points/conv3": 296,
    "points/conv4": 300,
    "points/conv5": 109,
} | {f"points/sift{radius}": 240 for radius in (10, 20, 40, 80, 160)}
BYTES = {  # of a unit of work
    "neighbors": 0.0,
    "transfer": 352.0,
    "classify": 0.5,
    "responses": 300.0,
    "detect": 200.0,
    "visualize": 900.0,
}
START = 5.0  # s from the beginning of a stage to its first shard: Ray, and reading what is planned


class Line(NamedTuple):
    """A finished shard in a log: s, when it ended (Unix time), who did it, MB; NaN: not known."""

    shard: int
    seconds: float
    ended: float
    worker: str
    peak: float
    begun: float  # of the log


@dataclass
class Rates:
    """What work costs.

    Attributes:
        source: where the numbers are from, for people.
        of: (stage, kind) -> rate.
        tables: feature -> bytes of a row.
        bytes: stage -> bytes of a unit of its work.
        starts: stage -> s before its first shard.
        peaks: stage -> MB, the most that one worker had.
        partly: stages whose logs have the main part of the work alone.
    """

    source: str = SOURCE
    of: dict[tuple[str, str], Rate] = field(default_factory=dict)
    tables: dict[str, float] = field(default_factory=lambda: dict(TABLES))
    bytes: dict[str, float] = field(default_factory=lambda: dict(BYTES))
    starts: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    partly: list[str] = field(default_factory=list)

    def rate(self, phase: Phase, config: Config) -> tuple[Rate, bool]:
        """A phase's rate, and whether it is the run's own."""
        own = self.of.get((phase.stage, phase.kind)) or self.of.get((phase.stage, ""))
        return (own, True) if own else (reference(phase, config), False)


def reference(phase: Phase, config: Config) -> Rate:
    """The built-in rate of a phase, as its settings change it."""
    family = next((f for f in ("dsift", "sift") if phase.kind.startswith(f)), phase.kind)
    found = REFERENCE.get((phase.stage, family)) or REFERENCE[phase.stage, ""]
    times = 1.0
    if phase.stage == "transfer":
        times = SOLVERS[config.flow.solver] * (LARGE if config.flow.side else 1.0)
    if phase.stage == "build-db" and phase.kind == "instances" and config.features.grids500:
        found = found._replace(per_unit=found.per_unit + GRIDS500)
    return found._replace(per_unit=times * found.per_unit)


def layers_of(store: FeatureStore, config: Config) -> Layers:
    """By which layers a run's stages work."""
    own = {"auto": store.conv, **store.names}
    kept = [n.partition("/")[2] for n in store.tables if n.startswith("grids500/")]
    large = [layer for layer in kept if not layer.startswith("sift")][:1] or [store.conv]
    named = [large[0] if layer == "auto" else layer for layer in config.detect.layers]
    classified = tuple(store.classified(config.classify))
    responses = [own.get(layer, layer) for layer in config.responses.layers]
    return Layers(
        tuple(store.aligned(config.flow)),
        classified,
        tuple(layer for layer in responses if layer in classified),
        tuple(named),
        tuple(store.visualized(config.visualize)),
    )


def measured(run: Run) -> Rates:
    """The rates of a run, of as many stages as its logs tell of.

    Raises:
        DistcorrError: the run has no configuration, no instances or no log that says how long.
    """
    config, features = run.config(), run.current("build-db")
    if config is None or features is None:
        raise DistcorrError(
            f"{run} has no build-db that rates could be measured by.",
            f"distcorr run --limit 20 -r {run}   makes a small run of your data on your machine",
        )
    store = FeatureStore(features)
    counts = counted(store.instances)
    every = phases(config, counts, layers_of(store, config))
    stages = run.manifest()["stages"]
    rates = Rates(f"{run}")
    for name, entry in stages.items():
        lines, partly = logged(run, name, entry["key"])
        mine = [phase for phase in every if phase.stage == name]
        if lines and mine:
            _add(rates, name, mine, lines)
            rates.partly += [name] if partly else []
        units = sum(phase.sizes.sum() for phase in mine)
        if units and name != "build-db" and "bytes" in entry:
            rates.bytes[name] = entry["bytes"] / units
    if not rates.of:
        raise DistcorrError(
            f"The logs of {run} do not say how long a shard took.",
            "leave --from out for our reference rates, or make a run with this version",
        )
    rates.tables |= _bytes_of_tables(features, store, counts)
    return rates


def _add(rates: Rates, name: str, mine: Sequence[Phase], lines: Mapping[int, Line]) -> None:
    """Rates of a stage by its shards; of all together where the log has others than expected."""
    done = list(lines.values())
    starts = [min(w.ended - w.seconds for w in done) - done[0].begun]
    if 0 <= starts[0] <= _START_AT_MOST:
        rates.starts[name] = starts[0]
    if peaks := [w.peak for w in done if w.peak == w.peak]:
        rates.peaks[name] = max(peaks)
    if name == "detect":
        rates.of |= _of_rounds(mine, lines)
        return
    # Shards have numbers in the order of the plan; build-db plans its instances first.
    planned = sorted(mine, key=lambda phase: phase.kind) if name == "build-db" else mine
    bounds = np.cumsum([0, *(len(phase.sizes) for phase in planned)])
    if name == "visualize" or max(lines) >= bounds[-1]:
        units = sum(phase.sizes.sum() for phase in mine)
        work = sum(line.seconds for line in done)
        rates.of[name, ""] = Rate(0.0, work / units, tasks=len(done))
        return
    first = cold_starts(
        [w.seconds for w in done], [w.worker for w in done], [w.ended for w in done]
    )
    cold = dict(zip(lines, first, strict=True))
    for phase, start, stop in zip(planned, bounds, bounds[1:], strict=False):
        own = [line for shard, line in lines.items() if start <= shard < stop]
        if own:
            sizes = [phase.sizes[line.shard - start] for line in own]
            took = [line.seconds for line in own]
            rates.of[name, phase.kind] = fit(sizes, took, [cold[line.shard] for line in own])


def _of_rounds(mine: Sequence[Phase], lines: Mapping[int, Line]) -> dict[tuple[str, str], Rate]:
    """Of ``detect``, whose shards share rounds of mining: all workers' time, layer by layer."""
    workers = len({line.worker for line in lines.values() if line.worker})
    now = min(line.begun for line in lines.values())
    found: dict[tuple[str, str], Rate] = {}
    first = 0
    for phase in mine:
        own = [line for n, line in lines.items() if first <= n < first + len(phase.sizes)]
        first += len(phase.sizes)
        ends = [line.ended for line in own if line.ended == line.ended]
        if workers and len(ends) == len(phase.sizes) and max(ends) > now:
            each = (max(ends) - now) * workers / phase.sizes.sum()
            found["detect", phase.kind] = Rate(0.0, each, tasks=len(own))
            now = max(ends)
    return found


def logged(run: Run, stage: str, key: str) -> tuple[dict[int, Line], bool]:
    """Shard -> its last finished try, in the order of the logs; whether times are in part only.

    Shards that were taken over from a store took no time and are left out.
    """
    found: dict[int, Line] = {}
    partly = False
    for name in sorted(run.folder.sizes("logs"), key=lambda n: n[-21:]):
        parts = _LOG.fullmatch(name)
        if not parts or (parts[1], parts[2]) != (stage, key):
            continue
        begun = time.mktime(time.strptime(parts[3], "%Y%m%d-%H%M%S"))
        for text in run.folder.read(f"logs/{name}").decode(errors="replace").splitlines():
            said = _object(text)
            result = said.get("result") or {}
            both = result | {
                k: said[k] for k in ("seconds", "ended", "worker", "peak_mb") if k in said
            }
            named = next((k for k in _SECONDS if k in both), None)
            if said.get("error") or "shard" not in said or named is None:
                continue
            partly |= named != "seconds"
            number = [float(both.get(k, np.nan)) for k in (named, "ended", "peak_mb")]
            seconds, ended, peak = number
            shard = int(said["shard"])
            found.pop(shard, None)
            found[shard] = Line(shard, seconds, ended, str(both.get("worker", "")), peak, begun)
    return found, partly


def _object(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except ValueError:
        return {}  # a line that is cut short
    return said if isinstance(said, dict) else {}


def _bytes_of_tables(stage: StageFolder, store: FeatureStore, counts: Counts) -> dict[str, float]:
    """Bytes of a row of each feature, by the sizes in the markers."""
    sizes: dict[str, int] = {}
    for marker in stage.markers().values():
        for name, written in marker["files"].items():
            table = name.rpartition("/")[0]
            sizes[table] = sizes.get(table, 0) + written["bytes"]
    found = {}
    for name, folder in store.tables.items():
        if rows := rows_of(name, counts):
            found[name] = sizes.get(folder, 0) / rows
    return found


def rows_of(table: str, counts: Counts) -> float:
    """Of what a table's size is counted: instances, photographs or visible keypoints."""
    kind = table.partition("/")[0]
    if kind in ("cells", "mirrored"):
        return counts.photographs
    return counts.points if kind == "points" else counts.instances

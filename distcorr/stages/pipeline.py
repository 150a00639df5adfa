"""What all stages share: the table of stages, their keys, and the loop over shards."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

import distcorr
from distcorr.config import Config, difference, digest
from distcorr.data import lock
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, Shard, StageFolder
from distcorr.errors import PARTIAL, DistcorrError
from distcorr.stages.cluster import Outcome, Session
from distcorr.stages.log import ShardLog


class Stage(NamedTuple):
    """A row of the pipeline.

    Attributes:
        module: imported on use, so that ``--help`` never loads torch.
        needs: stages whose output it reads.
        reads: top-level configuration entries that change its output.
        features: names of the feature tables that it reads; other tables may come and go.
    """

    module: str
    needs: tuple[str, ...]
    reads: tuple[str, ...]
    features: Callable[[FeatureStore, Config], Iterable[str]] = lambda store, config: ()


def _of_detect(store: FeatureStore, config: Config) -> list[str]:
    from distcorr.stages.objects import detected, prior_of  # lazily: it loads torch

    kept = [table for table in detected(store, config).values() if table]
    return [*kept, prior_of(store)]


STAGES = {
    "build-db": Stage(
        "distcorr.stages.build_db",
        (),
        (),  # names its own key: data and weights count by content, not by path
    ),
    "neighbors": Stage(
        "distcorr.stages.neighbors",
        ("build-db",),
        ("neighbors",),
        features=lambda store, config: [f"vectors/{store.vector}"],
    ),
    "transfer": Stage(
        "distcorr.stages.transfer",
        ("build-db", "neighbors"),
        ("flow",),
        features=lambda store, config: store.aligned(config.flow).values(),
    ),
    "classify": Stage(
        "distcorr.stages.classify",
        ("build-db",),
        ("classify", "seed"),
        features=lambda store, config: store.classified(config.classify).values(),
    ),
    "responses": Stage(
        "distcorr.stages.responses",
        ("build-db", "classify"),
        ("responses",),  # and the C that is chosen, by its shards
        features=lambda store, config: store.classified(config.classify).values(),
    ),
    "detect": Stage(
        "distcorr.stages.detect",
        ("build-db",),
        ("detect", "seed"),
        features=_of_detect,
    ),
    "visualize": Stage(
        "distcorr.stages.visualize",
        ("build-db",),
        ("visualize", "seed"),
        features=lambda store, config: itertools.chain(
            *store.visualized(config.visualize).values()
        ),
    ),
    "evaluate-pairs": Stage(
        "distcorr.stages.evaluate_pairs",
        (),
        (),  # names its own key: pairs count by content, not by path
    ),
}


MAX_DEAD, MAX_DEAD_SHARE = 10, 0.1  # broken items that a stage bears: 10, or a tenth of all


class Progress(Protocol):
    """Listens to a stage; the stages themselves print nothing."""

    def start(self, stage: str, total: int, done: int) -> None:
        """A stage begins; ``done`` of its ``total`` shards are there already."""

    def advance(self, failed: bool) -> None:
        """One more shard has finished, or failed."""

    def finish(self, summary: Summary) -> None:
        """The stage is complete."""

    def say(self, message: str) -> None:
        """Where the work is; for stages whose shards all finish late."""

    def warn(self, message: str) -> None:
        """Something that the user should know and that stops nothing."""


class Silent:
    """A ``Progress`` that listens and says nothing; for the Python interface and tests."""

    def start(self, stage: str, total: int, done: int) -> None:
        """Ignore it."""

    def advance(self, failed: bool) -> None:
        """Ignore it."""

    def finish(self, summary: Summary) -> None:
        """Ignore it."""

    def say(self, message: str) -> None:
        """Ignore it."""

    def warn(self, message: str) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class Summary:
    """What a finished stage amounts to."""

    stage: str
    key: str
    shards: int
    computed: int
    rows: int
    bytes: int
    dead: int
    seconds: float


@dataclass
class Context:
    """Everything that a stage gets."""

    config: Config
    run: Run
    session: Session
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        self.session.warn = self.progress.warn


class Forecast(NamedTuple):
    """What a stage would do: shards in all and left to do; None while its needs are unmet."""

    stage: str
    key: str
    shards: int | None
    todo: int | None
    note: str = ""


def run_stage(name: str, context: Context) -> Summary:
    """Run one stage, or only what is left of it.

    Raises:
        DistcorrError: a stage that it needs is unfinished, or another process works on the run
            (exit code 2); or some shards failed (exit code 4) after all the others were done.
    """
    with lock.held(context.run.folder, say=context.progress.say):
        if STAGES[name].needs:
            _refuse_other_features(name, context)
        summary: Summary = importlib.import_module(STAGES[name].module).run(context)
    return summary


def _refuse_other_features(name: str, context: Context) -> None:
    """The store was made with the run's saved settings; others here would only be ignored."""
    saved = context.run.config()
    changes = [
        line
        for line in (difference(saved, context.config) if saved else [])
        if line.startswith(("dataset.", "features.", "seed:"))
    ]
    if changes:
        raise DistcorrError(
            f"{name} works on the features that {context.run} holds, and cannot change them: "
            f"{'; '.join(changes)}",
            "leave these settings out, or use another run folder and start with distcorr build-db",
        )


def forecast_stage(name: str, context: Context) -> Forecast:
    """What ``run_stage`` would do; reads, and writes nothing."""
    missing = [need for need in STAGES[name].needs if context.run.finished(need) is None]
    if missing:
        return Forecast(name, "", None, None, f"waits for {', '.join(missing)}")
    forecast: Forecast = importlib.import_module(STAGES[name].module).forecast(context)
    return forecast


def stage_key(name: str, version: int, context: Context) -> str:
    """Key of a stage that builds on others: settings, version and the content that it builds on."""
    stage = STAGES[name]
    asked = asdict(context.config)
    settings = {entry: asked[entry] for entry in stage.reads}
    needs = _identities(name, context)
    return digest([name, version, settings, needs])[:8]


def _identities(name: str, context: Context) -> dict[str, list[str]]:
    """What the stage builds on, by content.

    Raises:
        DistcorrError: it is unfinished, or lacks a feature that the stage reads.
    """
    identities = {}
    for need in STAGES[name].needs:
        stage = required(need, name, context.run)
        tables: list[str] = []
        if need == "build-db":
            store = FeatureStore(stage)
            tables = [store.folder_of(n) for n in STAGES[name].features(store, context.config)]
        identities[need] = stage.identity(*tables)
    return identities


def required(name: str, by: str, run: Run) -> StageFolder:
    """A finished stage that another builds on.

    Raises:
        DistcorrError: it is unfinished, or out of date.
    """
    stage = run.finished(name)
    if stage is None:
        raise DistcorrError(
            f"{by} needs the output of {name}, and {run} has none that is finished and up to date.",
            f"distcorr {name} -r {run}   (or distcorr run, which does every stage in order)",
        )
    return stage


def foreseen(stage: StageFolder, plan: Sequence[Shard]) -> Forecast:
    """What a plan comes to."""
    return Forecast(stage.name, stage.key, len(plan), len(stage.todo(plan)))


def without(name: str, store: FeatureStore, tables: Iterable[str]) -> Forecast | None:
    """That a stage waits for tables (of any name but "") that the store lacks; None if not."""
    lacking = sorted(set(tables) - {"", *store.tables})
    if not lacking:
        return None
    return Forecast(name, "", None, None, f"waits for build-db to make {', '.join(lacking)}")


def run_shards(
    context: Context,
    stage: StageFolder,
    plan: Sequence[Shard],
    work: Callable[[list[Shard]], Iterator[Outcome[Shard, Any]]],
    facts: Mapping[str, Any] | None = None,
    items: int = 0,
    weight: Callable[[Shard], float] | None = None,
) -> Summary:
    """Do what is left of a plan, then mark the stage done.

    Args:
        context: run, session and progress.
        stage: where markers and parts go.
        plan: every shard of the stage.
        work: does the given shards, and yields an outcome for each as it finishes.
        facts: what else the manifest is to say of the stage.
        items: of which some may be left out; as many as the shards name, if not given.
        weight: how long a shard takes, in any unit. The longest are begun first, so that no worker
            is left alone with one at the end; the plan's order, if not given.

    Raises:
        DistcorrError: some shards failed; the others are done and stay (exit code 4).
    """
    began = time.monotonic()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    todo = stage.todo(plan)
    if weight:
        todo.sort(key=lambda shard: (-weight(shard), shard.index))
    entry = {
        "key": stage.key,
        "shards": len(plan),
        "needs": _identities(stage.name, context),
        "versions": _versions(context, stage, anything_done=len(todo) < len(plan)),
        **(facts or {}),
    }
    if todo:
        stage.begin()
        context.run.record(stage.name, entry)
    context.progress.start(stage.name, len(plan), len(plan) - len(todo))
    failures: list[Outcome[Shard, Any]] = []
    log = ShardLog(context.run.folder, f"logs/{stage.name}-{stage.key}-{stamp}.jsonl")
    said: set[str] = set()
    try:
        for outcome in work(todo) if todo else ():
            lock.check(context.run.folder)
            if outcome.error:
                failures.append(outcome)
            log.add(outcome)
            context.progress.advance(bool(outcome.error))
            for note in (outcome.result or {}).get("notes", ()):
                if note not in said:
                    said.add(note)
                    context.progress.warn(note)
    finally:
        log.save()
    if failures:
        causes = sorted({f.error: _named(f) for f in failures}.values())
        raise DistcorrError(
            f"{len(failures)} of {len(plan)} shards of {stage.name} failed: {'; '.join(causes[:3])}"
            + (f" and {len(causes) - 3} other causes" if len(causes) > 3 else ""),
            "what is done stays; the same command tries the rest again, "
            f"distcorr status -v -r {context.run} shows each failure",
            PARTIAL,
        )
    refuse_too_many_dead(stage, items or sum(len(shard.items) for shard in plan))
    done = stage.finish(plan)
    context.run.record(stage.name, entry | done)
    summary = Summary(
        stage.name,
        stage.key,
        len(plan),
        len(todo),
        done["rows"],
        done["bytes"],
        done["dead"],
        round(time.monotonic() - began, 1),
    )
    context.progress.finish(summary)
    if done["dead"]:
        letters = stage.dead_letters()
        count = len({letter.id for letter in letters})
        context.progress.warn(
            f"{count} item(s) were left out of {stage.name}, for example {letters[0].file}: "
            f"{letters[0].error} (all of them: distcorr status -v -r {context.run})"
        )
    return summary


def _named(failure: Outcome[Shard, Any]) -> str:
    """Why a shard failed; where its process died, which items it had, as one of them may kill."""
    items = failure.item.items
    if failure.effort or not items:
        return failure.error
    which = items[0] + (f" to {items[-1]}" if len(items) > 1 else "")
    return f"{failure.error} (shard {failure.item.index}: {which})"


def refuse_too_many_dead(stage: StageFolder, items: int) -> None:
    """A few broken photographs cost themselves; many mean that something else is wrong.

    Raises:
        DistcorrError: more than ``MAX_DEAD`` items and ``MAX_DEAD_SHARE`` of all were left out.
    """
    letters = [letter for letter in stage.dead_letters() if letter.broken]
    if len({letter.id for letter in letters}) > max(MAX_DEAD, MAX_DEAD_SHARE * items):
        causes = Counter(letter.error for letter in letters).most_common(2)
        raise DistcorrError(
            f"{len({letter.id for letter in letters})} of {items} items of {stage.name} could not "
            "be processed, too many for the numbers to mean anything: "
            + "; ".join(f"{error} ({count} times)" for error, count in causes),
            "distcorr status -v names them all; mend what is broken and run the same command again",
            PARTIAL,
        )


def _versions(context: Context, stage: StageFolder, anything_done: bool) -> dict[str, str]:
    """Versions of what a result depends on; warns when earlier shards were made with others."""
    names = ("torch", "numpy", "scipy", "faiss-cpu", "numba", "pyarrow", "ray")
    now = {
        "distcorr": distcorr.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    } | {name: importlib.metadata.version(name) for name in names}
    before = context.run.manifest()["stages"].get(stage.name, {})
    if not (anything_done and before.get("key") == stage.key):
        return now
    earlier: dict[str, str] = before.get("versions", now)
    changed = [f"{n} {earlier.get(n)} -> {v}" for n, v in now.items() if earlier.get(n) != v]
    if changed:
        context.progress.warn(
            f"parts of {stage.name} were made with other versions ({', '.join(changed)}) and may "
            "differ in their bytes; a new run folder makes all of them with one"
        )
    return earlier

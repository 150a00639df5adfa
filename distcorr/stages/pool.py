"""``build-db`` on Ray: a Ray Data pool of actors, and what is done with shards that kill them."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from distcorr.data.run import Shard
from distcorr.data.weights import Weights
from distcorr.stages.cluster import Effort, Outcome, Resources, Session, attempt
from distcorr.stages.extract import BuildShard
from distcorr.stages.room import Room

Make = Callable[[Weights | None], BuildShard]

KILLERS = 3  # items of one shard; not in the paper: where more kill, something else is at fault


class _Actor:
    """``BuildShard`` as Ray Data wants it: batches of columns in, batches of columns out."""

    def __init__(self, make: Make, weights: Any) -> None:
        import ray

        # What a constructor raises, Ray tells in its own way: each shard raises it instead.
        self._made = attempt(lambda: make(ray.get(weights[0])), "", ())

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        outcomes = []
        for text in batch["shard"]:
            fields = json.loads(str(text))
            shard = Shard(**(fields | {"items": tuple(fields["items"])}))
            outcomes.append(json.dumps(asdict(self.build(shard, {}))))
        return {"outcome": outcomes}

    def build(self, shard: Shard, killers: Mapping[str, str]) -> Outcome[Shard, Any]:
        """The shard, without the items that kill."""
        if self._made.result is None:
            return Outcome(shard, None, self._made.error, self._made.details)
        return attempt(self._made.result, shard, (shard, killers))

    def try_alone(self, shard: Shard, item: str) -> None:
        """One item of it; only death matters here, ``build`` reports what it raises."""
        if self._made.result is not None:
            attempt(self._made.result.try_alone, item, (shard, item))


def work_on_ray(
    session: Session, todo: list[Shard], make: Make, weights: Weights | None
) -> Iterator[Outcome[Shard, Any]]:
    """Build shards on as many actors as there is room for; an outcome for each as it finishes.

    A shard whose process died ``compute.retries`` times more is built again item by item, and
    without those that kill alone: they are dead letters.

    Raises:
        DistcorrError: no node has what an actor takes, and none comes.
    """
    import ray.data.exceptions

    session.connect()
    pool = session.pool()
    room = session.room(pool.cpus, pool.gpus)
    room.wait()
    # In a list, as Ray resolves what is passed to an actor of our own, and Ray Data does not.
    shared = [session.put(weights)]
    left = {shard.index: shard for shard in todo}
    try:
        for outcome in _pooled(session, pool, room, todo, make, shared):
            del left[outcome.item.index]
            yield outcome
    except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
        reason = f"Ray gave up: {str(error).strip().splitlines()[0]}"
        for shard in left.values():
            yield Outcome(shard, None, reason, str(error))
        return
    if left:
        gc.collect()  # Ray Data's actors end, and free what they hold, when nothing refers to them
    for shard in left.values():
        yield _without_killers(shard, room, session.compute.retries, make, shared)


def _pooled(
    session: Session,
    pool: Resources,
    room: Room,
    todo: list[Shard],
    make: Make,
    shared: list[Any],
) -> Iterator[Outcome[Shard, Any]]:
    """Outcomes of the shards that no process died of."""
    import pyarrow as pa
    import ray

    retries = session.compute.retries
    rows = [pa.table({"shard": [json.dumps(asdict(shard))]}) for shard in todo]
    # A Ray of our own has room for all of them at once; a cluster may have to grow first.
    local = session.address == "local"
    least = min(pool.actors, len(todo)) if local else 1
    most = pool.actors if local or session.compute.workers else None
    with warnings.catch_warnings():
        # Bounding the replacements of a process that dies has no other way yet; Ray's default is
        # to replace it for ever. The two arguments go in Ray 2.64, which pyproject.toml excludes.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        results = ray.data.from_arrow(rows).map_batches(
            _Actor,
            batch_size=1,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            memory=room.need.get("memory"),
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            fn_constructor_args=(make, shared),
            # An actor outlives some shards that kill, but not a constructor that does.
            max_restarts=(retries + 1) * (KILLERS + 2),
            max_task_retries=retries,
        )
    results.context.max_errored_blocks = -1  # a shard that kills costs itself
    shards = {shard.index: shard for shard in todo}
    for row in results.iter_rows():
        said = json.loads(row["outcome"])
        effort = Effort(*said["effort"]) if said["effort"] else None
        shard = shards[said["item"]["index"]]
        yield Outcome(shard, said["result"], said["error"], said["details"], effort)


def _without_killers(
    shard: Shard, room: Room, retries: int, make: Make, shared: list[Any]
) -> Outcome[Shard, Any]:
    """Try each item of a shard alone, then build it without those whose process died each time."""
    import ray

    # What a pool leaves of a CPU will do: its actors may not have ended yet.
    options = room.options() | {"num_cpus": 0.01}
    actors: list[Any] = []

    def ask(method: str, *arguments: Any) -> Any:
        """Each death is met by a new actor: one that is restarting would refuse the next call."""
        for last in (*[False] * retries, True):
            if not actors:
                actors.append(ray.remote(**options)(_Actor).remote(make, shared))
            try:
                return ray.get(getattr(actors[0], method).remote(*arguments))
            except ray.exceptions.RayActorError:
                actors.clear()
                if last:
                    raise

    killers: dict[str, str] = {}
    times = f"its process died {retries + 1} times" if retries else "its process died"
    try:
        for item in shard.items:
            try:
                ask("try_alone", shard, item)
            except ray.exceptions.RayActorError:
                killers[item] = f"{times} with it alone"
                if len(killers) > KILLERS:
                    why = f"{times}, and so it does with each of {len(killers)} of its items alone"
                    return Outcome(shard, None, why)
        outcome: Outcome[Shard, Any] = ask("build", shard, killers)
        return outcome
    except ray.exceptions.RayError as error:
        why = f"{times}, though none of its other items kills one alone: memory may be short"
        return Outcome(shard, None, why, str(error))
    finally:
        for actor in actors:
            ray.kill(actor)

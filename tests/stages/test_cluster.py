"""Where work runs: sizes of pools, bounds of what is in flight, and failures of items."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distcorr.config import ComputeConfig
from distcorr.data.run import Shard
from distcorr.errors import DistcorrError
from distcorr.stages import cluster, pool, room
from distcorr.stages.cluster import Outcome, Resources, Session
from distcorr.stages.room import Room


@pytest.mark.parametrize(
    ("total", "settings", "wanted"),
    [
        # as many actors as CPUs would leave none for Ray Data itself: a tenth is left
        ({"CPU": 2}, {}, Resources(2, 0.9, 0)),
        ({"CPU": 2}, {"workers": 1}, Resources(1, 1.0, 0)),
        ({"CPU": 2}, {"workers": 3}, Resources(3, 0.6, 0)),
        ({"CPU": 16, "GPU": 4}, {}, Resources(4, 1.0, 1)),
        ({"CPU": 16, "GPU": 4}, {"gpus_per_worker": 0.5}, Resources(8, 1.0, 0.5)),
        ({"CPU": 16, "GPU": 4}, {"gpus_per_worker": 0}, Resources(16, 0.9, 0)),
        # a cluster that scales up from nothing
        ({}, {"gpus_per_worker": 1, "workers": 8}, Resources(8, 1.0, 1)),
        ({}, {"address": "auto", "workers": 8}, Resources(8, 1.0, 0)),
    ],
)
def test_pool(
    monkeypatch: pytest.MonkeyPatch,
    total: dict[str, float],
    settings: dict[str, Any],
    wanted: Resources,
) -> None:
    monkeypatch.setattr(cluster, "_resources", lambda: total)
    found = Session(ComputeConfig(**{"address": "local", **settings})).pool()
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("job", "address", "wanted"),
    [(False, "", "local"), (True, "", "auto"), (True, "inline", "inline")],
)
def test_the_default_address_is_the_jobs_cluster_or_a_ray_of_our_own(
    monkeypatch: pytest.MonkeyPatch, job: bool, address: str, wanted: str
) -> None:
    if job:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert Session(ComputeConfig(address=address)).address == wanted


def square(shared: int, x: int) -> int:
    if x == 3:
        raise DistcorrError("three is not welcome")
    if x == 5:
        raise ZeroDivisionError
    if x == 7:
        os._exit(1)
    return shared * x * x


@pytest.mark.parametrize("address", ["inline", "local"])
def test_map_keeps_what_succeeds_and_says_why_the_rest_failed(
    ray_local: None, address: str
) -> None:
    session = Session(ComputeConfig(address=address, retries=1))
    items = range(7 if address == "inline" else 8)  # the last one kills its process
    shared = session.put(10)
    outcomes = {o.item: o for o in session.map(square, ((x, (shared, x)) for x in items))}
    assert sorted(outcomes) == list(items)
    assert {x: o.result for x, o in outcomes.items() if not o.error} == {
        x: 10 * x * x for x in (0, 1, 2, 4, 6)
    }
    assert outcomes[3].error == "three is not welcome"
    assert outcomes[5].error == "ZeroDivisionError"
    assert "Traceback" in outcomes[5].details
    if 7 in outcomes:
        assert outcomes[7].error.startswith("its process died")


def test_map_takes_work_lazily(ray_local: None) -> None:
    taken: list[int] = []

    def work() -> Iterator[tuple[int, tuple[int, int]]]:
        for x in range(20):
            taken.append(x)
            yield x, (1, 0)

    results = Session(ComputeConfig(address="local", workers=2)).map(square, work())
    next(results)
    assert len(taken) <= 3
    assert len(list(results)) == 19


# -- what a try took ---------------------------------------------------------------------------


def rest(seconds: float) -> int:
    time.sleep(seconds)
    if seconds == 0.02:
        raise ZeroDivisionError
    return os.getpid()


@pytest.mark.parametrize("address", ["inline", "local"])
def test_the_effort_is_measured_where_the_work_is(ray_local: None, address: str) -> None:
    before = time.time()
    session = Session(ComputeConfig(address=address))
    done, failed = sorted(
        session.map(rest, [(x, (x,)) for x in (0.01, 0.02)]), key=lambda o: bool(o.error)
    )
    for outcome in (done, failed):
        assert outcome.effort
        assert outcome.effort.seconds >= outcome.item
        assert before - 0.001 <= outcome.effort.ended <= time.time() + 0.001  # it is rounded
        assert 10 < outcome.effort.peak_mb < 100_000
    assert done.effort
    assert done.effort.worker.endswith(f":{done.result}")
    assert (done.result == os.getpid()) == (address == "inline")


# -- room --------------------------------------------------------------------------------------


class Cluster:
    """Nodes that come and go, and a clock, in place of Ray's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
        self.nodes, self.now = list(nodes), 0.0
        self.warnings: list[str] = []
        monkeypatch.setattr(room, "nodes", lambda: [dict(n) for n in self.nodes])
        monkeypatch.setattr(room.time, "monotonic", lambda: self.now)

    def room(self, patience: float = 600.0, **need: float) -> Room:
        return Room(need, patience, self.warnings.append)


@pytest.mark.parametrize(
    ("need", "wanted"),
    [
        ({"CPU": 1}, 12),
        ({"CPU": 1, "GPU": 0.5}, 4),
        ({"CPU": 1, "GPU": 0}, 12),
        ({"CPU": 1, "GPU": 2}, 1),
        ({"CPU": 1, "memory": 5e9}, 3 + 1),  # 16 GB and 8 GB
        ({"CPU": 5}, 1),
        ({"CPU": 9}, 1),  # nowhere: one is asked for all the same
    ],
)
def test_places(monkeypatch: pytest.MonkeyPatch, need: dict[str, float], wanted: int) -> None:
    nodes = {"CPU": 8.0, "GPU": 2.0, "memory": 16e9}, {"CPU": 4.0, "memory": 8e9}
    assert Cluster(monkeypatch, *nodes).room(**need).places() == wanted


def test_two_gpus_on_two_nodes_are_not_room_for_a_task_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = Cluster(monkeypatch, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1})
    with pytest.raises(DistcorrError, match="2 of 8 CPU and 1 GPU"):
        here.room(patience=0, CPU=1, GPU=2).check()


def test_a_ray_of_our_own_says_at_once_what_it_lacks(ray_local: None) -> None:
    session = Session(ComputeConfig(address="local", gpus_per_worker=1))
    with pytest.raises(DistcorrError, match=r"has 1 CPU and 1 GPU.*it has 1 of 2 CPU") as caught:
        next(session.map(square, [(1, (1, 1))], gpus=session.gpus()))
    assert "gpus_per_worker=0" in caught.value.hint
    assert caught.value.exit_code == 2


def test_a_cluster_gets_time_to_grow_as_long_as_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Cluster(monkeypatch, {"CPU": 0.0})
    asking = here.room(CPU=1, GPU=1)
    for here.now in range(9):
        asking.check()
    assert here.warnings == []
    for here.now in range(11, 500, 10):
        asking.check()
    assert len(here.warnings) == 1
    assert (
        "waiting for a node with 1 CPU and 1 GPU; the cluster has 1 of nothing" in here.warnings[0]
    )
    here.nodes.append({"CPU": 8.0})  # another joins, of the wrong kind: others may follow
    for here.now in range(510, 1100, 10):
        asking.check()
    here.nodes.append({"CPU": 8.0, "GPU": 1.0})
    asking.check()
    here.nodes.pop()  # and is taken away again, long after
    here.now = 5000.0
    asking.check()
    here.now += 600
    asking.check()
    here.now += 1
    with pytest.raises(DistcorrError, match="1 of nothing, 1 of 8 CPU"):
        asking.check()
    assert len(here.warnings) == 2


def test_no_more_memory_is_asked_for_than_a_node_has(ray_local: None) -> None:
    session, said = Session(ComputeConfig(address="local")), list[str]()
    session.warn = said.append
    most = max(node["memory"] for node in room.nodes())
    assert session.room(memory=most / 2).need["memory"] == most / 2
    assert said == []
    (outcome,) = session.map(square, [(1, (5, 1))], memory=1e15)  # else it would wait for ever
    assert outcome.result == 5
    assert len(said) == 1
    assert said[0].startswith("one task may need 1000000.0 GB of memory, and the largest node")


# -- the pool of build-db ----------------------------------------------------------------------


class Builder:
    """In the place of ``BuildShard``: notes what it is asked, and dies of some items."""

    def __init__(self, folder: Path, weights: object) -> None:
        assert weights == "weights"
        self._folder = folder

    def _see(self, item: str) -> None:
        with (self._folder / item).open("a") as file:
            file.write("x")
        if item.startswith("killer"):
            os._exit(1)
        if item == "bad":
            raise ValueError("bad")

    def __call__(self, shard: Shard, killers: Mapping[str, str]) -> dict[str, Any]:
        for item in shard.items:
            if item not in killers:
                self._see(item)
        return {"killers": dict(killers)}

    def try_alone(self, shard: Shard, item: str) -> None:
        self._see(item)


def test_an_item_that_kills_costs_itself(ray_local: None, tmp_path: Path) -> None:
    items = "a", "b,killer,c", "bad"
    todo = [Shard(n, "", tuple(each.split(","))) for n, each in enumerate(items)]
    session, make = Session(ComputeConfig(address="local", retries=0)), partial(Builder, tmp_path)
    work = pool.work_on_ray(session, todo, make, "weights")  # type: ignore[arg-type]
    found = {outcome.item.index: outcome for outcome in work}
    assert sorted(found) == [0, 1, 2]
    assert found[0].result == {"killers": {}}
    assert found[1].result == {"killers": {"killer": "its process died with it alone"}}
    assert found[2].error == "ValueError: bad"
    assert all(outcome.effort for outcome in found.values())
    assert (tmp_path / "killer").stat().st_size == 2  # with its shard, and alone


class Deaths:
    """In the place of ray: actors that die of what they are asked, by a list of deaths to come."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayActorError(RayError):
            pass

    def __init__(self, **deaths: int) -> None:
        self.deaths, self.asked, self.started, self.killed = deaths, [], 0, 0

    def remote(self, **_: Any) -> Any:
        def start(*_: Any) -> Any:
            self.started += 1
            ask = SimpleNamespace(remote=lambda *words: words)
            return SimpleNamespace(try_alone=ask, build=ask)

        return lambda _: SimpleNamespace(remote=start)

    def get(self, words: tuple[Shard, Any]) -> Any:
        shard, item = words
        name = item if isinstance(item, str) else "build"
        self.asked.append(name)
        if self.deaths.get(name, 0):
            self.deaths[name] -= 1
            raise self.exceptions.RayActorError("it died")
        return Outcome(shard, {"killers": item})

    def kill(self, _: Any) -> None:
        self.killed += 1

    def outcome(self, monkeypatch: pytest.MonkeyPatch, items: str) -> Outcome[Shard, Any]:
        monkeypatch.setitem(sys.modules, "ray", self)  # type: ignore[arg-type]
        need = Room({"CPU": 1.0}, 0, print)
        return pool._without_killers(Shard(0, "", tuple(items)), need, 2, None, [])  # type: ignore[arg-type]


def test_an_item_is_given_up_after_as_many_deaths_as_a_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = Deaths(b=2, d=9)
    outcome = ray.outcome(monkeypatch, "abcde")
    assert outcome.result == {"killers": {"d": "its process died 3 times with it alone"}}
    assert ray.asked == [*"abbbcddde", "build"]
    assert (ray.started, ray.killed) == (1 + 2 + 3, 1)


def test_where_many_items_kill_something_else_is_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Deaths(**dict.fromkeys("bcdef", 9))
    outcome = ray.outcome(monkeypatch, "abcdefg")
    of_four = "its process died 3 times, and so it does with each of 4 of its items alone"
    assert outcome.error == of_four
    assert ray.asked == [*"abbbcccdddeee"]


def test_a_shard_that_dies_only_as_a_whole_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Deaths(build=9)
    assert "memory may be short" in ray.outcome(monkeypatch, "ab").error
    assert ray.asked == [*"ab", *["build"] * 3]

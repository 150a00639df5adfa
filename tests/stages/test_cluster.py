"""Where work runs: sizes of pools, bounds of what is in flight, and failures of items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from distcorr.config import ComputeConfig
from distcorr.errors import DistcorrError
from distcorr.stages import cluster
from distcorr.stages.cluster import Resources, Session


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
    pool = Session(ComputeConfig(**{"address": "local", **settings})).pool()
    assert pool == pytest.approx(wanted)


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

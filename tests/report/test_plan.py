"""``distcorr plan``: counts, the shards of every stage, rates from logs, and what they come to."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from distcorr import config as configuration
from distcorr.algorithms.costs import Rate
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import rates
from distcorr.report.plan import GPU_SPEED, Cluster, declared, forecast
from distcorr.report.rates import Rates, layers_of, measured
from distcorr.report.workload import Counts, Group, Phase, assumed, chunked, counted, phases

PAPER = configuration.load("paper")
RATE = Rate(0.25, 0.5)  # planted: s of a shard, and of a unit


def planned(folder: Path) -> tuple[Run, list[Phase], Counts]:
    run = Run(str(folder))
    config, stage = run.config(), run.current("build-db")
    assert config
    assert stage
    store = FeatureStore(stage)
    counts = counted(store.instances)
    return run, phases(config, counts, layers_of(store, config)), counts


def of_stage(every: list[Phase], name: str) -> list[Phase]:
    """In the order of the plan: build-db has its instances first."""
    mine = [phase for phase in every if phase.stage == name]
    return sorted(mine, key=lambda phase: phase.kind) if name == "build-db" else mine


def plant(run: Run, every: list[Phase], stage: str, old: bool = False) -> list[float]:
    """Logs as if every shard had taken ``RATE``; two workers, whose first shards take 3 s more."""
    key = run.manifest()["stages"][stage]["key"]
    for name in run.folder.sizes("logs"):
        if name.startswith(f"{stage}-"):
            run.folder.delete(f"logs/{name}")
    sizes = np.concatenate([phase.sizes for phase in of_stage(every, stage)])
    begun = time.mktime(time.strptime("20260101-120000", "%Y%m%d-%H%M%S"))
    free, lines = [begun + 4.0] * 2, []
    for shard, seconds in enumerate(RATE.seconds(sizes)):
        cold = 3.0 * (shard < 2)
        free[shard % 2] += seconds + cold
        line = {"shard": shard, "error": ""}
        said = {"seconds": seconds + cold, "ended": free[shard % 2], "worker": f"h:{shard % 2}"}
        if old:
            line["result"] = {"aligning": seconds + cold}
        else:
            line |= said | {"peak_mb": 700.0 + shard, "result": {}}
        lines.append(json.dumps(line))
    lines += ["{cut", json.dumps({"shard": 0, "error": "no", "seconds": 1e9, "result": None})]
    text = "\n".join(lines).encode()
    run.folder.write(f"logs/{stage}-{key}-20260101-120000.jsonl", text)
    return sizes.tolist()


def test_the_shards_are_those_of_a_real_run(finished: Path) -> None:
    run, every, _ = planned(finished)
    stages = run.manifest()["stages"]
    for name in ("build-db", "neighbors", "transfer", "classify", "responses", "detect"):
        mine = of_stage(every, name)
        assert sum(len(phase.sizes) for phase in mine) == stages[name]["shards"], name
    pairs = sum(phase.sizes.sum() for phase in of_stage(every, "transfer"))
    assert pairs == stages["transfer"]["rows"]


def test_planted_rates_are_found_and_give_their_times_back(copy: Path) -> None:
    run, every, counts = planned(copy)
    config = run.config()
    assert config
    sizes = {stage: plant(run, every, stage) for stage in ("build-db", "transfer", "classify")}
    found = measured(run)
    for phase in every:
        if phase.stage in ("build-db", "classify"):
            rate, own = found.rate(phase, config)
            assert own
            np.testing.assert_allclose(rate.seconds(phase.sizes), RATE.seconds(phase.sizes))
    assert found.of["build-db", "instances"].warm == pytest.approx(3.0)
    assert found.starts["classify"] == pytest.approx(4.0)
    assert found.peaks["transfer"] == 700.0 + len(sizes["transfer"]) - 1
    layers = layers_of(FeatureStore(run.current("build-db")), config)  # type: ignore[arg-type]
    plan = forecast(config, counts, layers, (), found, Cluster(cpus=1, price_cpu=3.6))
    stages = {stage.stage: stage for stage in plan.stages}
    built = stages["build-db"]
    assert built.work == pytest.approx(RATE.seconds(sizes["build-db"]).sum() + 3.0)
    assert built.wall == pytest.approx(built.work + 4.0)  # one worker: all of it, one by one
    assert built.dollars == pytest.approx(1e-3 * built.wall)
    assert (built.basis, built.bound) == ("measured", "work")
    assert plan.wall == pytest.approx(sum(stage.wall for stage in plan.stages))


def test_logs_of_older_versions_give_a_part_and_say_so(copy: Path) -> None:
    run, every, counts = planned(copy)
    for name in run.folder.sizes("logs"):
        run.folder.delete(f"logs/{name}")
    with pytest.raises(DistcorrError, match="do not say how long"):
        measured(run)
    plant(run, every, "transfer", old=True)
    found = measured(run)
    assert found.partly == ["transfer"]
    assert {stage for stage, _ in found.of} == {"transfer"}
    assert not found.starts
    config = run.config()
    assert config
    layers = layers_of(FeatureStore(run.current("build-db")), config)  # type: ignore[arg-type]
    plan = forecast(config, counts, layers, (), found, Cluster())
    assert any("main part" in note for note in plan.notes)
    assert any("not in the logs" in note for note in plan.notes)


def test_rounds_of_mining_share_the_time_between_layers(copy: Path) -> None:
    run, every, _ = planned(copy)
    (mine,) = of_stage(every, "detect")
    plant(run, every, "detect")
    lines, _ = rates.logged(run, "detect", run.manifest()["stages"]["detect"]["key"])
    span = max(line.ended for line in lines.values()) - lines[0].begun
    rate = measured(run).of["detect", mine.kind]
    assert rate.seconds(mine.sizes).sum() == pytest.approx(2 * span)  # two workers, all the time


def test_bytes_of_tables_are_those_on_disk(finished: Path) -> None:
    run, _, counts = planned(finished)
    store = FeatureStore(run.current("build-db"))  # type: ignore[arg-type]
    found = measured(run).tables
    for name in ("grids/block10", "points/block10", "cells/block10"):
        files = (finished / "store" / store.tables[name]).glob("*.parquet")
        size = sum(path.stat().st_size for path in files)
        assert found[name] * rates.rows_of(name, counts) == pytest.approx(size)


def test_assumed_numbers_add_up() -> None:
    counts = assumed(1_000_001, 70_003, 7)
    assert (counts.instances, counts.photographs, len(counts.types)) == (1_000_001, 70_003, 7)
    sizes = [group.instances for (_, split), group in counts.groups.items() if split == "train"]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == pytest.approx(0.6 * counts.instances, rel=1e-4)


def test_the_papers_section_3_in_closed_form() -> None:
    groups = {("a", "train"): Group(100, 90, 1000, 90), ("a", "val"): Group(50, 50, 500, 50)}
    groups |= {("b", "train"): Group(3, 3, 20, 3), ("b", "val"): Group(9, 9, 60, 9)}
    counts = Counts(groups, {"a": 10, "b": 8})
    layers, tables = declared(PAPER, "caffenet")
    every = phases(PAPER, counts, layers)
    by_kind = {(p.stage, p.kind): p.sizes.tolist() for p in every}
    assert by_kind["neighbors", "cosine"] == [5000, 27]
    assert by_kind["transfer", "conv4"] == by_kind["transfer", "sift20"]
    assert by_kind["transfer", "conv4"] == [200] * 6 + [50] + [24, 3]  # 25 neighbours, or 3
    assert by_kind["build-db", "instances"] == [32, 32, 32, 4, 32, 18, 3, 9]
    assert by_kind["classify", "conv1"][:6] == [8000] * 5 + [10000]
    assert len(by_kind["detect", "conv5"]) == 6 + 4  # b has photographs for three folds
    assert by_kind["responses", "sift20"] == [8] * 6 + [2]
    assert set(layers.classified) == {*(f"conv{n}" for n in range(1, 6))} | {
        f"sift{r}" for r in (10, 20, 40, 80, 160)
    }
    assert {"grids/conv4", "vectors/fc7", "grids500/conv5", "cells/conv3"} <= set(tables)
    assert chunked(0, 4) == []


def test_more_workers_help_until_the_driver_or_the_longest_shard() -> None:
    counts = assumed(1_000_000, 500_000, 20)
    layers, tables = declared(PAPER, "caffenet")

    def walls(cluster: Cluster) -> dict[str, float]:
        plan = forecast(PAPER, counts, layers, tables, Rates(), cluster)
        assert plan.source.startswith("reference")
        return {s.stage: s.wall for s in plan.stages} | {
            f"{s.stage} by": s.bound for s in plan.stages
        }

    few, many = walls(Cluster(cpus=8)), walls(Cluster(cpus=10_000))
    assert all(many[name] <= few[name] for name in ("build-db", "transfer", "classify"))
    assert many["transfer by"] == "driver"
    assert many["classify by"] == "longest shard"
    on_gpus = forecast(PAPER, counts, layers, tables, Rates(), Cluster(cpus=64, gpus=8))
    built = on_gpus.stages[0]
    assert (built.workers, built.basis) == (8, "guess")
    assert built.work == pytest.approx(
        sum(
            Rates().rate(p, PAPER)[0].seconds(p.sizes).sum() / GPU_SPEED
            for p in phases(PAPER, counts, layers)
            if p.stage == "build-db"
        )
        + 8 * 2.0
    )
    assert any("No GPU has been measured" in note for note in on_gpus.notes)


def test_other_solvers_and_larger_boxes_cost_more() -> None:
    (phase,) = [Phase("transfer", "conv4", "pairs", np.array([200.0]))]

    def seconds(*settings: str) -> float:
        config = configuration.load("paper", settings)
        return float(rates.reference(phase, config).seconds(phase.sizes)[0])

    assert seconds() < seconds("flow.solver=trws") < seconds("flow.solver=paper")
    assert seconds() < seconds("flow.side=500")
    unknown = forecast(
        PAPER, assumed(10, 10, 1), declared(PAPER, "caffenet")[0], ["grids/x"], Rates(), Cluster()
    )
    assert unknown.tables[0].gigabytes is None
    assert any("grids/x was never measured" in note for note in unknown.notes)

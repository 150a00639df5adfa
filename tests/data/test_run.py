from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from distcorr import config as configuration
from distcorr.data.run import DeadLetter, Run, Shard, StageFolder
from distcorr.errors import DistcorrError

PLAN = [Shard(i, f"input{i}", (f"a{i}", f"b{i}")) for i in range(3)]


def build(stage: StageFolder, shard: Shard, rows: int = 2, dead: list[DeadLetter] | None = None):
    name = f"grids/x/{shard.part}"
    written = stage.folder.write_table(name, pa.table({"id": list(range(rows))}))
    stage.mark_done(shard, {name: written}, rows, dead or [])
    return stage.folder, name


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    return Run(str(tmp_path / "run")).stage("build-db", "k0")


def test_todo_is_what_has_no_marker(stage: StageFolder) -> None:
    assert stage.todo(PLAN) == PLAN
    build(stage, PLAN[1])
    assert stage.todo(PLAN) == [PLAN[0], PLAN[2]]


def test_a_part_without_its_marker_is_not_done(stage: StageFolder) -> None:
    stage.folder.write_table("grids/x/part-00000.parquet", pa.table({"id": [1]}))
    assert PLAN[0] in stage.todo(PLAN)


def test_other_inputs_mean_do_it_again(stage: StageFolder) -> None:
    for shard in PLAN:
        build(stage, shard)
    changed = [PLAN[0], Shard(1, "other", PLAN[1].items), PLAN[2]]
    assert stage.todo(PLAN) == []
    assert stage.todo(changed) == [changed[1]]


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_part_is_done_again(stage: StageFolder, damage: str) -> None:
    for shard in PLAN:
        folder, name = build(stage, shard)
    path = Path(folder.uri) / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.unlink()
    assert stage.todo(PLAN) == [PLAN[2]]


def test_finish_sums_and_its_digest_is_of_the_content(stage: StageFolder, tmp_path: Path) -> None:
    other = Run(str(tmp_path / "other")).stage("build-db", "k1")
    for shard in PLAN:
        build(stage, shard)
    for shard in reversed(PLAN):
        build(other, shard)
    assert stage.done() is None
    done = stage.finish(PLAN)
    assert (done["shards"], done["rows"], done["dead"]) == (3, 6, 0)
    assert stage.done() == done == other.finish(PLAN)
    build(other, PLAN[0], rows=3)
    fresh = Run(str(tmp_path / "other")).stage("build-db", "k1")
    assert fresh.finish(PLAN)["tables"] != done["tables"]


def test_markers_of_a_longer_plan_go(stage: StageFolder) -> None:
    for shard in PLAN:
        build(stage, shard)
    stage.finish(PLAN[:2])
    assert stage.parts("grids/x") == ["grids/x/part-00000.parquet", "grids/x/part-00001.parquet"]
    assert stage.todo(PLAN) == PLAN[2:]


def test_the_identity_is_of_the_tables_that_count(stage: StageFolder) -> None:
    shard = PLAN[0]

    def finish(**tables: int) -> None:
        names = {f"{t}/{shard.part}": pa.table({"id": [v]}) for t, v in tables.items()}
        files = {name: stage.files.write_table(name, table) for name, table in names.items()}
        stage.mark_done(shard, files, 1)
        stage._markers.clear()
        stage.finish([shard])

    finish(x=1, y=1)
    of_x, of_all = stage.identity("x"), stage.identity()
    finish(x=1, y=2, z=1)
    assert stage.identity("x") == of_x
    assert stage.identity() != of_all
    finish(x=2, y=2)
    assert stage.identity("x") != of_x


def test_parts_may_be_in_another_folder(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    run.record("build-db", {"key": "k0", "store": str(tmp_path / "shared")})
    run.record("other", {"key": "k1", "store": "inside"})
    stage, other = run.current("build-db"), run.current("other")
    assert stage
    assert other
    name = f"x/{PLAN[0].part}"
    written = stage.files.write_table(name, pa.table({"id": [1]}))
    stage.mark_done(PLAN[0], {name: written}, 1)
    assert (tmp_path / "shared" / name).is_file()
    assert stage.todo(PLAN) == PLAN[1:]
    assert other.files.uri == str(tmp_path / "run" / "inside")


def test_dead_letters_become_a_table_and_go_when_mended(stage: StageFolder) -> None:
    letter = DeadLetter("a0", "a.jpg", "cut short")
    for shard in PLAN:
        build(stage, shard, dead=[letter] if shard.index == 0 else [])
    assert stage.finish(PLAN)["dead"] == 1
    assert stage.dead_letters() == [letter]
    assert stage.folder.read_table("dead_letters.parquet")["file"].to_pylist() == ["a.jpg"]
    mended = [Shard(0, "mended", PLAN[0].items), *PLAN[1:]]
    assert stage.todo(mended) == mended[:1]
    build(stage, mended[0])
    assert stage.finish(mended)["dead"] == 0
    assert not stage.folder.exists("dead_letters.parquet")


def test_parts_are_in_shard_order(stage: StageFolder) -> None:
    for shard in reversed(PLAN):
        build(stage, shard)
    assert stage.parts("grids/x") == [f"grids/x/part-0000{i}.parquet" for i in range(3)]
    assert stage.parts("grids/y") == []


def test_config_and_manifest_round_trip(tmp_path: Path) -> None:
    run = Run(str(tmp_path / "run"))
    assert run.config() is None
    assert run.manifest() == {"stages": {}}
    assert run.current("build-db") is None
    config = configuration.load("paper", ["flow.beta=0.01"])
    run.save_config(config)
    run.record("build-db", {"key": "k0"})
    run.record("transfer", {"key": "k1"})
    assert run.config() == config
    stages = {"build-db": {"key": "k0"}, "transfer": {"key": "k1"}}
    assert run.manifest() == {"format": 1, "stages": stages}
    current = run.current("transfer")
    assert current is not None
    assert current.key == "k1"


def test_a_relative_run_folder_is_refused_inside_a_ray_job(monkeypatch: pytest.MonkeyPatch) -> None:
    Run("runs/x")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(DistcorrError, match="would vanish with the cluster"):
        Run("runs/x")
    Run("/runs/x")


def test_an_unwritable_run_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    run = Run(os.fspath(tmp_path / "file" / "run"))
    with pytest.raises(DistcorrError, match=r"Cannot write .*file/run"):
        run.save_config(configuration.load("smoke"))


def test_more_shards_than_five_digits(tmp_path: Path) -> None:
    stage = Run(str(tmp_path)).stage("build-db", "k0")
    plan = [Shard(i, "x", ("a",)) for i in (10_000, 100_000)]
    for shard in plan:
        build(stage, shard)
    assert stage.todo(plan) == []
    assert stage.finish(plan)["shards"] == 2


def test_a_stage_is_finished_while_what_it_was_made_from_stands(tmp_path: Path) -> None:
    run = Run(str(tmp_path))
    first, second = run.stage("build-db", "k0"), run.stage("transfer", "k1")
    for shard in PLAN:
        build(first, shard)
        build(second, shard)
    run.record("build-db", {"key": "k0"})
    assert run.finished("build-db") is None
    first.finish(PLAN)
    second.finish(PLAN)
    run.record("transfer", {"key": "k1", "needs": {"build-db": first.identity()}})
    assert run.finished("build-db") is not None
    assert run.finished("transfer") is not None
    first.begin()  # being made anew: neither can be relied on
    assert run.finished("build-db") is None
    assert run.finished("transfer") is None
    build(first, PLAN[0], rows=3)
    run.stage("build-db", "k0").finish(PLAN)  # complete again, with another content
    assert run.finished("build-db") is not None
    assert run.finished("transfer") is None


def test_a_foreign_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DistcorrError, match="not the manifest of a run"):
        Run(str(tmp_path)).manifest()

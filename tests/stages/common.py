"""Runs of the toy set, and comparisons of run folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distcorr import config as configuration
from distcorr.algorithms import nets
from distcorr.cli.common import ORDER
from distcorr.config import Config
from distcorr.data import voc
from distcorr.data.run import Run
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import Context, Silent, Summary, run_stage
from distcorr.types import Dataset, Instance


class Recorder(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def toy_config(settings: Sequence[str]) -> Config:
    return configuration.load("smoke", settings)


def run_all(
    folder: Path, settings: Sequence[str], stages: Sequence[str] = ORDER
) -> dict[str, Summary]:
    """Run stages in a folder; ``settings`` must say where (compute.address)."""
    config = toy_config(settings)
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, Recorder())
        return {name: run_stage(name, context) for name in stages}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a run must reproduce: all but the logs and the page, which tell the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(folder).parts[0] not in ("logs", "config.toml")
        and path.name != "index.html"
        # config.toml says where the work ran
        # What a killed process was writing: nothing reads it, store verify --remove deletes it.
        and not (path.name.startswith(".") and path.suffix == ".tmp")
    }


def assert_same(one: Path, two: Path, without: str = "") -> None:
    """Two runs have the same files, but for those in the folder ``without``."""
    a, b = (
        {name: content for name, content in contents(run).items() if Path(name).parts[0] != without}
        for run in (one, two)
    )
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []


def progress_of(folder: Path, stage: str) -> list[Path]:
    """What a stage has saved so far: finished shards, or of ``detect``, rounds of mining."""
    saved = "rounds-*/*.parquet" if stage == "detect" else "*/shards/*.json"
    return sorted(folder.glob(f"{stage}/{saved}"))


def stage_folder(folder: Path, name: str) -> Path:
    """Where the current outputs of a stage are."""
    key = json.loads((folder / "manifest.json").read_text())["stages"][name]["key"]
    return folder / name / key


def saved_pairs(folder: Path) -> pa.Table:
    """All pairs that the run's transfer has saved."""
    parts = sorted((stage_folder(folder, "transfer") / "pairs").iterdir())
    tables = [pq.read_table(part) for part in parts]
    flows = pa.list_(pa.int8())  # layers may differ in their cells
    at = tables[0].schema.names.index("displacement")
    return pa.concat_tables(
        [t.set_column(at, "displacement", t["displacement"].cast(flows)) for t in tables]
    ).replace_schema_metadata()


def write_alexnet(path: Path) -> Path:
    """AlexNet with random weights: a network that takes images of any size."""
    rng = np.random.default_rng(3)
    modules, _ = nets.skeleton(nets.ALEXNET, 227)
    arrays = {
        name: rng.normal(0, 1 / np.sqrt(np.prod(value.shape[1:]) or 100), value.shape)
        for name, value in modules.state_dict().items()
        if not name.startswith("fc")
    }
    np.savez(path, **{name: value.astype(np.float32) for name, value in arrays.items()})
    return path


def load_with_blanks(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """The toy photographs; the first instance of every category and split shows no keypoint."""
    dataset = voc.load(root, categories=categories, limit=limit)
    seen: set[tuple[str, str]] = set()

    def blanked(instance: Instance) -> Instance:
        kind = instance.category, instance.split
        if kind in seen:
            return instance
        seen.add(kind)
        absent = np.full_like(instance.keypoints, np.nan)
        return replace(instance, keypoints=absent, visible=np.zeros(len(absent), bool))

    return replace(dataset, instances=tuple(map(blanked, dataset.instances)))

"""Runs of the toy set, and comparisons of run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distcorr import config as configuration
from distcorr.config import Config
from distcorr.data.run import Run
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import STAGES, Context, Silent, Summary, run_stage


class Recorder(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def toy_config(settings: Sequence[str]) -> Config:
    return configuration.load("smoke", settings)


def run_all(
    folder: Path, settings: Sequence[str], stages: Sequence[str] = tuple(STAGES)
) -> dict[str, Summary]:
    """Run stages in a folder; ``settings`` must say where (compute.address)."""
    config = toy_config(settings)
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, Recorder())
        return {name: run_stage(name, context) for name in stages}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that a run must reproduce: all but the logs, which tell the time."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("logs", "config.toml")
        # config.toml says where the work ran
    }


def assert_same(one: Path, two: Path) -> None:
    a, b = contents(one), contents(two)
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []

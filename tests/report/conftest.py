"""A toy run with its report, drawn once for the tests of the page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distcorr.cli.common import draw
from distcorr.data.run import Run
from distcorr.report import page, tables
from distcorr.stages.export import export


@pytest.fixture(scope="session")
def drawn(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy run with tables, figures and page; copy it before changing it."""
    folder = tmp_path_factory.mktemp("drawn") / "toy run"  # a blank in its path
    shutil.copytree(finished, folder)
    run = Run(str(folder))
    export(run)
    built = tables.build(run)
    tables.save(built, run)
    draw(run)
    page.save(run, built)
    return folder

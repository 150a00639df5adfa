"""The README's commands, files and Python example are real."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distcorr import config as configuration

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)", TEXT))
    assert named >= {"demo", "test", "setup", "check", "bench"}
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)


def test_commands_exist() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distcorr", "--help"], capture_output=True, text=True, check=True
    )
    named = set(re.findall(r"(?:`|-- )distcorr ([a-z-]+)", TEXT))
    assert named >= {"run", "build-db", "status", "report", "config"}
    assert all(f" {name} " in done.stdout for name in named), named


def test_settings_exist() -> None:
    named = set(re.findall(r"\b((?:flow|compute|features|dataset)\.[a-z_]+) ?=", TEXT))
    assert len(named) >= 5
    assert named <= {path for path, _, _ in configuration.settings(configuration.Config())}


def test_files_of_the_tree_and_links_exist() -> None:
    tree = re.findall(r"^[├└]── (\S+)", TEXT, re.MULTILINE)
    assert len(tree) >= 8
    assert all((ROOT / "distcorr" / name).exists() for name in tree), tree
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_settings: object
) -> None:
    from tests.stages.common import run_all

    assert callable(toy_settings)
    run_all(tmp_path / "runs" / "smoke", toy_settings("compute.address=inline"))
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})

"""The README's commands, files and Python example are real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
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
    assert named >= {"run", "build-db", "status", "report", "config", "features", "store"}
    assert all(f" {name} " in done.stdout for name in named), named


def test_settings_exist() -> None:
    named = set(re.findall(r"\b((?:flow|compute|features|dataset)\.[a-z_]+) ?=", TEXT))
    assert len(named) >= 5
    assert named <= {path for path, _, _ in configuration.settings(configuration.Config())}


def test_files_of_the_tree_and_links_exist() -> None:
    layout = TEXT[TEXT.index("## Where things are") :]
    tree = re.findall(r"^[├└]── (\S+)", layout, re.MULTILINE)
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
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_backbone_example_works_from_build_db_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_settings: Callable[..., list[str]]
) -> None:
    """As a user does it: a file of 25 lines in the working folder, and the commands; on Ray."""
    (block,) = re.findall(r"^  ```python\n(.*?)^  ```", TEXT, re.DOTALL | re.MULTILINE)
    code = textwrap.dedent(block)
    assert sum(bool(line.strip()) for line in code.splitlines()[1:]) <= 25
    (tmp_path / "my_feats.py").write_text(code)
    monkeypatch.chdir(tmp_path)

    def distcorr(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "distcorr"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (row,) = json.loads(distcorr("features", "my_feats:Edges", "--json"))
    assert (row["channels"], row["stride"], row["rf"], row["cells"]) == (64, 8, 29, 28)
    sets = toy_settings("features.conv=my_feats:Edges", 'features.points=["my_feats:Edges"]')
    options = [word for setting in sets for word in ("--set", setting)]
    report = json.loads(distcorr("run", "-p", "smoke", "-r", "runs/edges", "--json", *options))
    assert report["weights"].startswith("Edges; neighbours by EfficientNet")
    means = {
        (row["method"], row["alpha"]): row["value"]
        for row in report["rows"]
        if row["table"] == "table2" and row["category"] == "mean"
    }
    assert means["Edges flow", 0.05] > means["NN transfer", 0.05] + 10

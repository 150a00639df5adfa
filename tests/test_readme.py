"""What README.md and docs/ name is real: settings, messages, files, links; and the backbone works.

test_docs runs their blocks.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from distcorr import config as configuration
from distcorr.algorithms.dialects import DIALECTS
from distcorr.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)", TEXT))
    assert named >= {"demo", "test", "setup", "check", "bench"}
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in named)


def test_the_tree_is_that_of_the_folder() -> None:
    layout = TEXT[TEXT.index("```text\ndistcorr/") :]
    layout = layout[: layout.index("```\n")]
    tree = re.findall(r"^[├└]── (\S+)", layout, re.MULTILINE)
    there = {path.name + "/" * path.is_dir() for path in (ROOT / "distcorr").glob("[a-z]*")}
    assert set(tree) == there - {"py.typed"}
    beside = re.findall(r"^(\w[\w.]*/?) +\S", layout, re.MULTILINE)
    assert len(beside) >= 6
    assert all((ROOT / name).exists() for name in beside), beside


def prose(page: Path) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_in_prose_exist(page: Path) -> None:
    known = {path for path, _, _ in configuration.settings(configuration.Config())}
    sections = {path.partition(".")[0] for path in known if "." in path}
    code = " ".join(re.findall(r"`([^`\n]+)`", prose(page)))
    named = set(re.findall(rf"(?<![\w/.])((?:{'|'.join(sections)})\.[a-z_0-9]+)\b(?![./(])", code))
    files = {name for name in named if name.endswith((".py", ".toml"))}
    assert named - files <= known, named - files - known
    for text in re.findall(r"`[^`]*--set [^`]+`", prose(page)):
        configuration.load(overrides=_sets(shlex.split(text.strip("`"))))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_prose_exist(page: Path) -> None:
    """As much of them as is said: placeholders in capitals, options by name."""
    command = typer.main.get_command(app)
    known = dict(command.commands)  # type: ignore[attr-defined]
    for text in re.findall(
        r"`(?:ray job submit \S+ \S+ -- python -m )?(distcorr [a-z][^`]*)`", prose(page)
    ):
        words = text.replace("\n", " ").split()
        found = known.get(words[1].rstrip(".,:"))
        assert found or words[1] == "COMMAND", text
        names = [name for p in found.params for name in p.opts] if found else []
        if hasattr(found, "commands") and len(words) > 2:
            assert words[2] in found.commands, text
            names = [name for p in found.commands[words[2]].params for name in p.opts]
        assert set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", text)) <= {*names, "--help"}, text


def test_every_command_has_a_row_in_the_readme() -> None:
    rows = re.findall(r"^\| `distcorr ([a-z-]+)", PAGES[0].read_text(), re.MULTILINE)
    assert sorted(set(rows)) == sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _sets(words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == "--set"]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_in_prose_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:distcorr|tests|jobs|docs|benchmarks)/[\w./]+)`", prose(page)))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    links = re.findall(r"\((docs/[\w-]+\.md)", PAGES[0].read_text())
    assert {ROOT / link for link in links} == set(PAGES[1:])


def messages() -> str:
    """Every text of the package, with the sign that pages have for what is filled in."""
    found = []
    for path in (ROOT / "distcorr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_are_those_of_the_code() -> None:
    """Messages may be put together from several texts: each piece between … is looked for."""
    page = ROOT / "docs/troubleshooting.md"
    said = re.findall(r'^\| "(.+?)"', page.read_text(), re.MULTILINE)
    assert len(said) > 25
    code = messages()
    missing = []
    for message in said:
        for piece in message.split("…"):
            text = piece.strip(" .,:;()")
            if len(text) > 3 and text not in code:
                missing.append((message, text))
    assert missing == []


def test_the_definitions_of_pck_are_all_named() -> None:
    table = (ROOT / "docs/protocol.md").read_text().partition("## Whose PCK?")[2]
    named = set(
        re.findall(
            r"`([a-z0-9-]+)`",
            "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `")),
        )
    )
    assert named == set(DIALECTS)


def test_the_open_points_are_all_named() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    assert {int(n) for n in re.findall(r"\bO(\d+)\b", text)} == set(range(1, 31))


# -- as a user does it ---------------------------------------------------------------------------


def test_the_backbone_example_works_from_build_db_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_settings: Callable[..., list[str]]
) -> None:
    """As a user does it: a file of 25 lines in the working folder, and the commands; on Ray."""
    page = (ROOT / "docs" / "backbone.md").read_text()
    code, *_ = re.findall(r"^```python\n(# my_feats.*?)^```", page, re.DOTALL | re.MULTILINE)
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

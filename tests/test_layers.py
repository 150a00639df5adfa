"""Rules that the import linter cannot see."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALGORITHMS = sorted((ROOT / "distcorr" / "algorithms").glob("*.py"))
PACKAGE = sorted((ROOT / "distcorr").rglob("*.py"))


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda p: p.name)
def test_algorithms_open_no_files_and_print_nothing(path: Path) -> None:
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "Path", "print"}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_and_documented(path: Path) -> None:
    text = path.read_text()
    most = 640 if path.name == "config.py" else 430  # that is a list of settings
    assert len(text.splitlines()) <= most
    assert ast.get_docstring(ast.parse(text))


def test_nothing_is_swallowed() -> None:
    """No handler of every exception that drops it."""
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                body = ast.unparse(ast.Module(node.body, []))
                broad = node.type is None or ast.unparse(node.type) == "Exception"
                assert not (broad and node.name is None and "raise" not in body), (path, body)
                assert body.strip() != "pass", (path, node.lineno)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("distcorr", ("numpy", "torch", "ray")),
        ("distcorr.cli", ("numpy", "torch", "ray", "pyarrow", "scipy")),
    ],
)
def test_light_imports(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

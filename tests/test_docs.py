"""Every fenced block of README.md and docs/ runs; test_readme looks at what stands around them.

Commands run in this process on a copy of the toy run. What cannot run here is parsed by the real
command line, by ``PARSED`` with a reason for each kind; a block or a line of an unknown kind fails.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import sys
import textwrap
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from distcorr import config as configuration
from distcorr.cli import app, common
from distcorr.data.storage import Folder
from distcorr.data.toy import write_toy
from tests.stages.common import write_alexnet

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MAKEFILE = (ROOT / "Makefile").read_text()
STAGES = ("run", *common.ORDER)

# What a page says -> what it is in the working folder of these tests.
STANDS_FOR = {
    r"^cat$": "fish",
    r"^cat\.npz$": "runs/paper/detectors/fish.npz",
    r"2008_000123": "2011_000013",
    r"conv4": "block10",
}

# Commands that are only parsed, and why.
PARSED = {
    r"s3://": "there is no such bucket; whole runs on s3:// are tested in stages/test_object_store",
    r"^distcorr fetch": "it downloads; tested with a server on loopback in test_fetch",
    r"^distcorr doctor": "it starts a Ray and looks at this machine; tested in test_doctor",
    r"^distcorr ablate": "it makes dozens of runs; tested in test_ablate",
    r"^distcorr evaluate-pairs --data": "it needs a published data set",
    r"^distcorr report .*--figures": "it draws every figure; tested in test_cli",
    r"=my_feats:Edges": "test_readme runs it from build-db to the table",
}

# Programs other than distcorr, none of which can run here, and what is looked at instead.
PROGRAMS: dict[str, Callable[[list[str]], bool]] = {
    "make": lambda words: re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE) is not None,
    "docker": lambda words: (ROOT / "Dockerfile").is_file() and words[1] in ("build", "push"),
    "kubectl": lambda words: all((ROOT / word).is_file() for word in _after(words, "-f")),
    "ray": lambda words: all((ROOT / word).is_file() for word in words if ".yaml" in word),
    "export": lambda words: all(re.fullmatch(r"RAY_\w+=\S+", word) for word in words[1:]),
}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
        line = text[: found.start()].count("\n") + 1
        yield Block(page, line, found[2], textwrap.dedent(found[3]))
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) % 2 == 0, page


def commands(block: Block) -> Iterator[list[str]]:
    """Words of every command of a shell block."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def _after(words: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


BLOCKS = [block for page in PAGES for block in blocks(page)]


# -- commands ------------------------------------------------------------------------------------


def parse(words: list[str]) -> None:
    """By the real command line: command, options and settings; raises where one is wrong."""
    command = typer.main.get_command(app)
    context = command.make_context("distcorr", words[1:], resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(
            context, context._protected_args + context.args
        )
        context = command.make_context(name, list(rest), parent=context)
    configuration.load(overrides=_after(words, "--set"))


def test_parsing_refuses_what_is_wrong() -> None:
    parse(shlex.split("distcorr run -p paper --set flow.beta=0.01 -r s3://b/x"))
    parse(shlex.split("distcorr store verify --remove"))
    for wrong in ("run --sett a=b", "rum", "run --set flow.bta=1", "store very", "match a"):
        with pytest.raises(Exception, match=r"(?i)no such|unknown|missing"):
            parse(shlex.split(f"distcorr {wrong}"))


@pytest.fixture(scope="module")
def work(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages take it for granted: a finished run, data, weights and pictures."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("paper", "smoke"):
        shutil.copytree(finished, folder / "runs" / name)
    from distcorr.data.run import Run
    from distcorr.report import tables
    from distcorr.stages.export import export

    run = Run(str(folder / "runs/paper"))
    tables.save(tables.build(run), run)
    export(run)
    write_toy(Folder(folder / "data"), seed=0, train=3, val=2)
    pictures = sorted((folder / "data").rglob("*.jpg"))
    for name, picture in zip(
        ("robin.jpg", "wren.jpg", "fish.jpg", "cat.jpg"), pictures, strict=False
    ):
        with Image.open(picture) as opened:
            opened.resize((400, 360)).save(folder / name)
    write_alexnet(folder / "net.npz")
    shutil.copy(folder / "runs/paper/report/predictions.parquet", folder / "predictions.parquet")
    duckdb.sql(f"copy (from '{folder}/predictions.parquet') to '{folder}/predictions.csv' (header)")
    return folder


def _stands_for(word: str) -> str:
    for pattern, replacement in STANDS_FOR.items():
        word = re.sub(pattern, replacement, word)
    return word


def here(words: list[str]) -> list[str]:
    """The command for the working folder: the run is of drawn objects, by another network."""
    words = [_stands_for(word) for word in words]
    if "--weights" in words and words[1] == "predict":
        at = words.index("--weights")  # the detectors are of the packaged network
        words = words[:at] + words[at + 2 :]
    elif "--weights" in words:
        words[words.index("--weights") + 1] = "net.npz"
        words += ["--set", "features.network=alexnet"]  # random: no checksum says whose they are
    if (
        words[1] in STAGES and "paper" in words
    ):  # the preset: another network than that of the run which is there
        words = ["runs/fresh" if word == "runs/paper" else word for word in words]
    if words[1] in STAGES and "--image" not in words:
        words += ["--address", "inline", "--dry-run"]
    return words


def run(words: list[str]) -> None:
    common._shown.clear()
    done = CliRunner().invoke(app, words[1:], prog_name="distcorr")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"


def one(words: list[str]) -> None:
    """Run or check one command of a shell block."""
    line = shlex.join(words)
    if words[:3] == ["ray", "job", "submit"]:
        rest = words[words.index("--") + 1 :]
        if rest[0] == "python" and rest[1] != "-m":
            assert (ROOT / rest[1]).is_file(), line
            usage = (ROOT / rest[1]).read_text()
            count = len(re.search(r"jobs/\w+\.py (.*?) \[OPTIONS\]", usage)[1].split())  # type: ignore[index]
            assert len(rest) == 2 + count, line
            return
        parse(rest if rest[0] == "distcorr" else rest[2:])
        assert rest[0] == "distcorr" or rest[:3] == ["python", "-m", "distcorr"], line
    elif words[0] == "distcorr":
        parse(words)
        if not any(re.search(pattern, line) for pattern in PARSED):
            run(here(words))
    elif words[0] == "duckdb":
        assert duckdb.sql(_stands_for(words[2])).fetchall(), line
    else:
        assert PROGRAMS[words[0]](words), line


SHELL = [block for block in BLOCKS if block.language == "sh"]


@pytest.mark.parametrize(
    "page",
    sorted({b.page for b in SHELL} | {b.page for b in BLOCKS if b.language == "python"}),
    ids=lambda p: p.name,
)
def test_every_block_of_a_page_runs(
    page: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, as a reader would: a python block that is a file is there for what follows."""
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    before = set(sys.modules)
    for block in (b for b in BLOCKS if b.page == page):
        if block.language == "python":
            file = re.match(r"# (\w+\.py)\n", block.text)
            if file:
                (work / file[1]).write_text(block.text)
            module = types.ModuleType("page")
            exec(compile(block.text, str(block), "exec"), module.__dict__)
        elif block.language == "sh":
            for words in commands(block):
                one(words)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(work) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


def test_no_block_is_of_an_unknown_kind() -> None:
    odd = [
        str(b)
        for b in BLOCKS
        if b.language not in ("sh", "python", "toml", "json", "text", "bibtex")
    ]
    assert odd == []
    assert len(SHELL) > 15
    for block in BLOCKS:
        if block.language == "toml":
            assert tomllib.loads(block.text), str(block)
        elif block.language == "json":
            assert json.loads(block.text), str(block)


def test_every_exception_is_used() -> None:
    lines = [shlex.join(words) for block in SHELL for words in commands(block)]
    assert [p for p in PARSED if not any(re.search(p, line) for line in lines)] == []
    said = [word for block in SHELL for words in commands(block) for word in words]
    assert [p for p in STANDS_FOR if not any(re.search(p, word) for word in said)] == []
    assert [p for p in PROGRAMS if not any(line.startswith(p + " ") for line in lines)] == []

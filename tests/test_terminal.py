"""Tables as a terminal shows them."""

from __future__ import annotations

import os
import shutil

import pytest

from distcorr.terminal import print_rows

ROWS = [
    {"layer": "conv4", "k": k, **{f"measure{n}": f"{k}{n}.0 [1.0, 2.0]" for n in range(6)}}
    for k in (1, 5)
]


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> list[str]:
    monkeypatch.setattr("sys.stdout.isatty", lambda: columns > 0, raising=False)
    size = os.terminal_size((columns, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: size)
    print_rows(ROWS)
    return capsys.readouterr().out.splitlines()


def test_a_file_gets_a_line_per_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(monkeypatch, capsys, 0)
    assert len(lines) == 1 + len(ROWS)
    assert lines == shown(monkeypatch, capsys, 200)


@pytest.mark.parametrize("columns", [30, 47, 80, 100])
def test_a_narrow_terminal_gets_blocks_that_fit_and_name_their_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    lines = shown(monkeypatch, capsys, columns)
    assert max(map(len, lines)) <= columns
    blocks = "\n".join(lines).split("\n\n")
    assert len(blocks) > 1
    seen: list[str] = []
    for block in blocks:
        head, *rows = block.splitlines()
        assert head.split()[:2] == ["layer", "k"]
        assert [row.split()[:2] for row in rows] == [["conv4", "1"], ["conv4", "5"]]
        seen += head.split()[2:]
    assert seen == [f"measure{n}" for n in range(6)]  # each once, in order
    for row in ROWS:
        assert all(str(value) in "\n".join(lines) for value in row.values())


def test_what_is_wider_than_the_terminal_stands_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(monkeypatch, capsys, 10)
    assert len("\n".join(lines).split("\n\n")) == 6

"""Figure 3: complete, reproducible, small; and what happens without its photographs."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distcorr.config import EvaluationConfig
from distcorr.data.run import Run
from distcorr.errors import DistcorrError
from distcorr.report import figures
from distcorr.report.predictions import finished

COLUMNS = 8  # truth, prediction, five neighbours, average


def test_a_row_per_category_and_method_as_png_and_svg(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int, np.ndarray, str]] = []
    picture = figures.Canvas.picture

    def watched(self: figures.Canvas, *arguments: object) -> None:
        drawn.append(arguments)  # type: ignore[arg-type]
        picture(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(figures.Canvas, "picture", watched)
    names = figures.figure3(Run(str(copy)))
    assert names == ["report/figure3.png", "report/figure3.svg"]
    titles = {(row, column): title for row, column, _, title in drawn}
    assert sorted(titles) == [(row, column) for row in range(6) for column in range(COLUMNS)]
    for row in range(6):
        category = ("butterfly", "fish", "house")[row // 2]
        assert titles[row, 0] == f"{category}: truth"
        assert titles[row, 1] == ("block10 flow", "SIFT flow")[row % 2]
        energies = [float(titles[row, column].split()[1]) for column in range(2, 7)]
        assert energies == sorted(energies)
        assert titles[row, 7] == "average of 5"
    shown = {(row, column): image for row, column, image, _ in drawn}
    for row in range(6):  # five neighbours are all there are: their mean is the average
        five = np.mean([shown[row, column] for column in range(2, 7)], axis=0)
        assert np.abs(shown[row, 7] - five).max() <= 0.5 + 1e-9
    content = {name: (copy / name).read_bytes() for name in names}
    assert np.asarray(Image.open(io.BytesIO(content[names[0]])).convert("L")).std() > 30
    svg = ET.fromstring(content[names[1]])
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}image")) == 6 * COLUMNS
    assert len(content[names[1]]) < 2e6
    assert not re.search(rb"\d{4}-\d\d-\d\dT|Matplotlib v", content[names[1]])
    monkeypatch.undo()
    figures.figure3(Run(str(copy)))
    assert {name: (copy / name).read_bytes() for name in names} == content


def test_fewer_rows_in_another_order(copy: Path) -> None:
    run = Run(str(copy))
    figures.figure3(run, rows=1)
    first = (copy / "report/figure3.png").read_bytes()
    height = Image.open(io.BytesIO(first)).height
    figures.figure3(run, rows=1, evaluation=EvaluationConfig(order="similarity"))
    other = (copy / "report/figure3.png").read_bytes()
    assert Image.open(io.BytesIO(other)).height == height
    assert other != first


def test_rows_of_chosen_categories(copy: Path) -> None:
    run = Run(str(copy))
    figures.figure3(run, rows=1)
    first = (copy / "report/figure3.png").read_bytes()
    figures.figure3(run, categories=["butterfly"])  # the first
    assert (copy / "report/figure3.png").read_bytes() == first
    figures.figure3(run, categories=["house"])
    assert (copy / "report/figure3.png").read_bytes() != first
    with pytest.raises(DistcorrError, match=r"no targets of 'hose'\. Did you mean 'house'\?"):
        figures.figure3(run, categories=["hose"])


def test_a_photograph_that_has_gone_is_named(copy: Path) -> None:
    run = Run(str(copy))
    target = finished(run).targets[1]  # the middle one of the first category
    (copy / "toy" / target.image).unlink()
    with pytest.raises(DistcorrError, match=rf"{re.escape(target.image)} is missing") as caught:
        figures.figure3(run)
    assert caught.value.exit_code == 3

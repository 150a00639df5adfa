"""A sheet of pictures of any size with words about them, laid out in px: Figures 1 and 2."""

from __future__ import annotations

import math
import textwrap
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.data.run import Run
from distcorr.report import charts
from distcorr.report.canvas import with_jpeg

Picture = npt.NDArray[np.uint8]

LINE = 1.3  # of a line of words, in heights of its letters
_WIDE = 0.6  # of a letter, in heights: those of most words are narrower
_POINT = charts.DPI / 72  # px


class Sheet:
    """White paper; x and y are px of the PNG, from its upper left."""

    def __init__(self, width: float, height: float) -> None:
        """
        Args:
            width: px.
            height: px.
        """
        self._size = round(width), round(height)
        # A hundredth more: a figure's px are rounded down.
        self.figure = charts.blank(*((each + 0.01) / charts.DPI for each in self._size))
        self.figure.set_layout_engine("none")
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.axis("off")

    def picture(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        image: Picture,
        interpolation: str = "nearest",
    ) -> None:
        """A picture stretched to that size; by default every pixel keeps its colour."""
        where = (x, x + width, y + height, y)
        self._axes.imshow(image, extent=where, aspect="auto", interpolation=interpolation)

    def frame(
        self, corners: tuple[float, float, float, float], colour: str, halo: str, width: float
    ) -> None:
        """The outline of a rectangle (x0, y0, x1, y1) within a halo, to be seen on any picture."""
        from matplotlib import patheffects
        from matplotlib.patches import Rectangle

        x0, y0, x1, y1 = corners
        around = [patheffects.withStroke(linewidth=width + 1.6, foreground=halo)]
        self._axes.add_patch(
            Rectangle(
                *((x0, y0), x1 - x0, y1 - y0),
                fill=False,
                edgecolor=colour,
                linewidth=width,
                joinstyle="miter",
                path_effects=around,
                zorder=3,
            )
        )

    def text(self, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
        """Words whose upper middle is at (x, y), unless ``style`` says otherwise."""
        usual: dict[str, Any] = {
            "ha": "center",
            "va": "top",
            "linespacing": LINE,
            "parse_math": False,
        }
        self._axes.text(x, y, text, fontsize=size, **(usual | style))

    def save(self, run: Run, stem: str) -> list[str]:
        """Write ``report/STEM.png`` and ``.svg``; returns their names."""
        contents = {f"report/{stem}.{kind}": self.drawn(kind) for kind in ("png", "svg")}
        for name, content in contents.items():
            run.folder.write(name, content)
        return list(contents)

    def drawn(self, kind: str) -> bytes:
        """As ``"png"``, where every pixel is as it was, or ``"svg"``, which holds JPEG."""
        self._axes.set(xlim=(0, self._size[0]), ylim=(self._size[1], 0))
        content = charts.drawn(self.figure, kind)
        return with_jpeg(content) if kind == "svg" else content


def wrapped(text: str, width: float, size: float = 8) -> str:
    """Words in lines of at most ``width`` px; a word that is longer is broken."""
    letters = max(4, int(width / (_WIDE * size * _POINT)))
    return "\n".join(textwrap.fill(line, letters) for line in text.split("\n"))


def height(text: str, size: float = 8) -> int:
    """Whole px that wrapped words take."""
    return math.ceil((text.count("\n") + 1) * size * _POINT * LINE * 1.1)


def stem(image: str) -> str:
    """A photograph's name without folders and ending."""
    return PurePosixPath(image).stem

"""A sheet of square pictures with keypoints over them: Figures 3 and 6."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.algorithms.crop import to_square
from distcorr.data.run import Run
from distcorr.types import Box

_Array = npt.NDArray[Any]
_HEIGHT, _DPI = 1.12, 130  # of a row, in columns; of both files


def share(xy: npt.ArrayLike, box: Box) -> npt.NDArray[np.float64]:
    """(K, 2) px in the photograph -> shares of the box, 0 to 1 from edge to edge."""
    return to_square(xy, box, 1) + 0.5


class Canvas:
    """A grid of square pictures with keypoints over them; points are in shares of a picture."""

    def __init__(self, rows: int, columns: int, inches: float = 1.5) -> None:
        """
        Args:
            rows: of pictures.
            columns: likewise.
            inches: width of a column.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(inches * columns, inches * _HEIGHT * max(rows, 1)))
        FigureCanvasAgg(self._figure)
        self._axes = self._figure.add_axes((0, 0, 1, 1))  # ticks and layout of 80 take seconds
        self._axes.axis("off")
        self._limits = (0, columns), (_HEIGHT * max(rows, 1), 0)

    def picture(self, row: int, column: int, image: _Array, title: str) -> None:
        """A square picture and the words above it."""
        (left, top), (right, bottom) = self._at(row, column, np.array([[0, 0], [1, 1]]))
        self._axes.imshow(image, extent=(left, right, bottom, top), aspect="auto")
        self._axes.text(
            (left + right) / 2, top - 0.03, title, fontsize=8, ha="center", parse_math=False
        )

    def points(self, row: int, column: int, xy: _Array, shown: npt.NDArray[np.bool_]) -> None:
        """(K, 2) keypoints, one colour per type across the row."""
        from matplotlib import colormaps

        colours = colormaps["turbo"](np.linspace(0.05, 0.95, len(xy)))
        ok = np.asarray(shown, bool) & np.isfinite(xy).all(axis=1)
        x, y = self._at(row, column, xy[ok]).T
        self._axes.scatter(x, y, s=16, c=colours[ok], edgecolors="white", linewidths=0.6, zorder=3)

    def lines(self, row: int, column: int, a: _Array, b: _Array) -> None:
        """From every point of ``a`` to that of ``b``."""
        ok = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        ends = self._at(row, column, a[ok]), self._at(row, column, b[ok])
        self._axes.plot(*np.stack(ends).transpose(2, 0, 1), color="white", linewidth=1)

    def mark(self, row: int, column: int, xy: _Array, marker: str) -> None:
        """A point (2,) as a ring "o" or a cross "x"; none where it is NaN."""
        from matplotlib import patheffects

        if not np.isfinite(xy).all():
            return
        around = [patheffects.withStroke(linewidth=2.6, foreground="black")]
        x, y = self._at(row, column, xy)
        self._axes.plot(
            *(x, y, marker),
            markersize=9 if marker == "o" else 6,
            markeredgewidth=1.3,
            markerfacecolor="none",
            markeredgecolor="white",
            path_effects=around,
            zorder=3,
        )

    def _at(self, row: int, column: int, shares: _Array) -> _Array:
        """Where (n, 2) points of a picture are; those beyond its border are drawn on it."""
        start = column + 0.02, (row + 1) * _HEIGHT - 0.98
        return np.array(start) + 0.96 * np.clip(shares, 0, 1)

    def save(self, run: Run, stem: str) -> list[str]:
        """Write ``report/STEM.png`` and ``.svg``; returns their names."""
        contents = {f"report/{stem}.png": self.png(), f"report/{stem}.svg": self.svg()}
        for name, content in contents.items():
            run.folder.write(name, content)
        return list(contents)

    def png(self) -> bytes:
        """The figure as PNG."""
        return self._saved("png", {"Software": None})

    def svg(self) -> bytes:
        """The figure as SVG; pictures inside it are JPEG, a fifth of the size of PNG."""
        return with_jpeg(self._saved("svg", {"Creator": None, "Date": None}))

    def _saved(self, kind: str, metadata: dict[str, None]) -> bytes:
        """No date, no version and no random ids: equal runs draw equal bytes."""
        from matplotlib import rc_context

        out = io.BytesIO()
        self._axes.set(xlim=self._limits[0], ylim=self._limits[1])
        with rc_context({"svg.hashsalt": "distcorr", "image.composite_image": False}):
            self._figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
        return out.getvalue()


def with_jpeg(svg: bytes) -> bytes:
    """An SVG whose pictures are JPEG, a fifth of the size of PNG."""
    found = re.compile(rb"data:image/png;base64,([A-Za-z0-9+/=\s]+)")
    return found.sub(_as_jpeg, svg)


def _as_jpeg(found: re.Match[bytes]) -> bytes:
    picture, out = Image.open(io.BytesIO(base64.b64decode(found[1]))), io.BytesIO()
    picture.convert("RGB").save(out, format="jpeg", quality=85)
    return b"data:image/jpeg;base64," + base64.b64encode(out.getvalue())

"""Figures that a run has drawn, inside the page: of a sensible width, with links to the files."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from distcorr.report.page_html import Html, command, data_uri, join, links, tag
from distcorr.report.page_source import Source

WIDTH, QUALITY = 1500, 80  # px of a picture in the page, and of its JPEG
SMALL = 400_000  # bytes of a PNG that is taken as it is
_CHART = 0.75  # px on the page for each of its own: sharp on fine screens
# What Pillow raises for a file that is missing, cut short, damaged or no picture.
_BROKEN = (OSError, ValueError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)


def figure(source: Source, stem: str, title: str, caption: str, alt: str) -> Html:
    """A figure with its caption and files; if it cannot be shown, that and what draws it.

    Args:
        source: of the run.
        stem: of its files, for example "figure3".
        title: "Figure 3".
        caption: what it shows, in the paper's words shortened.
        alt: what a reader who does not see it should know.
    """
    names = [f"{stem}.{kind}" for kind in ("svg", "png") if f"{stem}.{kind}" in source.files]
    words = tag("figcaption", tag("b", title), " ", caption, " ", links(names))
    try:
        uri, width, height = embedded(source.run.folder.read(f"report/{stem}.png"))
    except _BROKEN as error:
        there = f"{stem}.png" in source.files
        why = f"cannot be read ({type(error).__name__})" if there else "has not been drawn"
        lack = tag(
            "p",
            f"{stem}.png {why}. ",
            command(f"distcorr report --figures -r {source.name}"),
            f" draws it, in the folder that holds {source.name}/.",
            class_="missing",
        )
        return tag("figure", lack, words, id=stem)
    picture = tag("img", src=uri, alt=alt, width=width, height=height, loading="lazy")
    linked = tag("a", picture, href=names[0], title=f"open {names[0]}")
    return tag("figure", tag("div", linked, class_="sheet"), words, id=stem)


def figures(source: Source, stems: list[str], title: str, caption: str, alt: str) -> Html:
    """Several alike, beside each other."""
    shown = join(figure(source, s, f"{title}: {s.partition('-')[2]}", caption, alt) for s in stems)
    return tag("div", shown, class_="beside")


def embedded(content: bytes) -> tuple[str, int, int]:
    """A picture as a data URI, and the width and height in px that it is shown in.

    A chart stays a PNG; what holds photographs becomes JPEG.
    """
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        picture = opened.convert("RGB")
    width, height = picture.size
    if len(content) <= SMALL and width <= WIDTH:
        return data_uri(content, "png"), round(width * _CHART), round(height * _CHART)
    if width > WIDTH:
        height, width = round(height * WIDTH / width), WIDTH
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return data_uri(jpeg(picture, QUALITY), "jpeg"), width, height


def jpeg(picture: Image.Image, quality: int) -> bytes:
    """A picture as JPEG."""
    out = io.BytesIO()
    picture.save(out, format="jpeg", quality=quality, optimize=True)
    return out.getvalue()

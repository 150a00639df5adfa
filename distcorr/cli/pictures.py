"""What the commands for single pictures share: boxes, numbers, and where the drawing goes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distcorr.cli.common import absolute
from distcorr.errors import DistcorrError, did_you_mean

if TYPE_CHECKING:
    from distcorr.data.storage import Folder

FORMATS = (".png", ".svg")


def parse_box(option: str, text: str) -> list[float] | None:
    """Four numbers, None where nothing is given.

    Raises:
        DistcorrError: it is something else.
    """
    if not text:
        return None
    numbers = parse_numbers(text)
    if numbers is None or len(numbers) != 4:
        raise DistcorrError(
            f"A box is four numbers X0,Y0,X1,Y1 in px, got {text!r}",
            f"the first and the last pixel, 0-based: {option} 40,32,310,290",
        )
    return numbers


def parse_numbers(text: str) -> list[float] | None:
    """Finite numbers between commas, or None."""
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def refuse_other_settings(
    command: str, sections: Sequence[str], settings: Sequence[str], example: str
) -> None:
    """DistcorrError if a setting is not of one of the sections."""
    for text in settings:
        if not text.strip().startswith(tuple(f"{section}." for section in sections)):
            raise DistcorrError(
                f"distcorr {command} takes settings of {' and '.join(sections)}, got {text}.",
                f"for example --set {example}",
            )


def writable(out: str, usual: str, photographs: Sequence[str]) -> tuple[Folder, str]:
    """The folder and name of the drawing, before anything is computed.

    Args:
        out: what is asked for.
        usual: what it is called unless asked otherwise.
        photographs: that it must not replace.

    Raises:
        DistcorrError: it cannot be written there, or should not.
    """
    suffix = os.path.splitext(out)[1].lower()
    if suffix not in FORMATS:
        raise DistcorrError(
            f"The picture is a .png or .svg file, got {out!r}.{did_you_mean(suffix, FORMATS)}",
            f"for example --out {usual}",
        )
    from distcorr.data.storage import Folder

    folder = Folder(os.path.dirname(absolute(out)))
    if folder.is_folder(os.path.basename(out)):
        raise DistcorrError(f"{out} is a folder.", f"give the name of a file: --out {usual}")
    if not folder.is_folder(""):
        raise DistcorrError(
            f"There is no folder {folder} for {os.path.basename(out)}.",
            "make it first, or give another --out",
        )
    for given in photographs:
        if os.path.realpath(absolute(given)) == os.path.realpath(absolute(out)):
            raise DistcorrError(f"The picture would replace {given}.", "give another --out")
    return folder, os.path.basename(out)

"""A photograph of the user's and a box in it, for commands that look at single pictures."""

from __future__ import annotations

import os

from distcorr.algorithms.matching import View
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box

_GIVE = "give the path of a picture: JPEG, PNG or what else Pillow reads"


def device() -> str:
    """Where networks run."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def look(file: str, box: Box | None, which: str = "") -> View:
    """A photograph as viewers show it, and the box that is looked at.

    Args:
        file: path or URI.
        box: px in it; None is the whole photograph.
        which: of several photographs, for messages: "A".

    Raises:
        DistcorrError: it cannot be read, or the box is not inside it.
    """
    folder, base = Folder(os.path.dirname(file) or "."), os.path.basename(file)
    try:
        photograph = read_image(folder, base, upright=True)
    except DistcorrError as error:  # whose hint is for photographs of a data set
        raise DistcorrError(error.message, _GIVE, error.exit_code) from error
    except OSError as error:
        raise DistcorrError(
            f"The photograph {file} cannot be read: {error.strerror or error}",
            _GIVE,
            MISSING,
        ) from error
    height, width = photograph.shape[:2]
    whole = Box(0, 0, width - 1, height - 1)
    box = whole if box is None else box
    if not (box.x0 <= box.x1 and box.y0 <= box.y1):
        raise DistcorrError(
            f"A box must have X0 <= X1 and Y0 <= Y1, got {numbers(box)}"
            + (f" for {which}" if which else ""),
            f"all of {base} is {numbers(whole)}",
        )
    if box.x0 < 0 or box.y0 < 0 or box.x1 > whole.x1 or box.y1 > whole.y1:
        raise DistcorrError(
            f"The box{f' of {which}' if which else ''} must lie in its picture of "
            f"{width} x {height} px, got {numbers(box)}",
            f"all of {base} is {numbers(whole)}",
        )
    return View(base, photograph, box)


def numbers(box: Box) -> str:
    """A box as options have it."""
    return ",".join(f"{value:g}" for value in box)

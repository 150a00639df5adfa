"""Photographs as arrays."""

from __future__ import annotations

import hashlib
import re
import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError

MAX_PIXELS = 89_478_485
"""Largest photograph that is decoded, in px: 0.27 GB as an array. It is where Pillow begins to warn
of files that are made to exhaust memory."""

# The limit is checked here instead. Once for the process, because photographs are also read in
# threads, where warnings.catch_warnings is not safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def checksum(folder: Folder, name: str) -> str:
    """sha256 of a photograph, or why it has none: "missing" or "not readable".

    Raises:
        DistcorrError: the storage does not answer (exit code 3).
    """
    try:
        return _content(folder, name)[1]
    except OSError as error:
        raise DistcorrError(
            f"The photograph {name} in {folder} cannot be read: {_reason(error)}",
            "check that the storage answers, and run the same command again",
            MISSING,
        ) from error


def read_image(
    folder: Folder, name: str, sha256: str = "", *, upright: bool = False
) -> npt.NDArray[np.uint8]:
    """A photograph of any mode as RGB; transparency is laid over white.

    The pixels stay as they are stored: an EXIF rotation is not applied unless asked for, because
    boxes and keypoints are annotated in stored pixels.

    Args:
        folder: where it is.
        name: of the file.
        sha256: what ``checksum`` said of it when the work was planned; "" for no demand.
        upright: apply the EXIF rotation, as viewers do.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DistcorrError: the file is missing, not ours to read, cut short, damaged, no image, or an
            image of more than ``MAX_PIXELS`` (exit code 3).
        MemoryError: there is no room for the pixels.
        OSError: the storage does not answer, or not as when the work was planned; another try may
            succeed.
    """
    content, found = _content(folder, name)
    if sha256 and found != sha256:
        raise OSError(
            f"the photograph {name} is not what it was when the work was planned: it has changed, "
            "or not every machine sees the same files; run the same command again"
        )
    if content is None:
        raise DistcorrError(
            f"The photograph {name} is {found}", f"mend that in {folder} and run again", MISSING
        )
    try:
        with Image.open(BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return np.array(_to_rgb(ImageOps.exif_transpose(picture) if upright else picture))
    except MemoryError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DistcorrError(
            f"The photograph {name} is too large: more than {MAX_PIXELS:,} px",
            "scale it down together with its boxes and keypoints, or leave it out",
            MISSING,
        ) from error
    except Exception as error:  # damaged bytes make decoders fail in many ways
        raise DistcorrError(
            f"The photograph {name} cannot be read: {_reason(error)}",
            f"replace the file in {folder} by a whole copy and run again",
            MISSING,
        ) from error


def _content(folder: Folder, name: str) -> tuple[bytes | None, str]:
    """The file, if it is there and ours to read, and its ``checksum``."""
    try:
        content = folder.read(name)
    except FileNotFoundError:
        return None, "missing"
    except DistcorrError:
        return None, "not readable"
    except OSError:
        if folder.is_folder(name):
            return None, "not readable"
        raise
    return content, hashlib.sha256(content).hexdigest()


def _reason(error: Exception) -> str:
    """Without the address of the buffer, which differs from run to run."""
    return re.sub(r" <_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error)) or type(error).__name__


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # grey of 16 bits, which convert() would clip at 255
        grey = np.clip(np.asarray(picture, np.float32) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # it would copy

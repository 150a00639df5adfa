"""Photographs as arrays."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.algorithms.crop import crop_square, from_square, to_square
from distcorr.data.storage import Folder
from distcorr.types import MISSING, DistcorrError

__all__ = ["crop_square", "from_square", "read_image", "to_square"]


def read_image(folder: Folder, name: str) -> npt.NDArray[np.uint8]:
    """A photograph of any mode as RGB; transparency is laid over white.

    The pixels stay as they are stored: an EXIF rotation is not applied, because boxes and
    keypoints are annotated in stored pixels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DistcorrError: the file is missing, cut short, damaged or no image (exit code 3).
    """
    try:
        with Image.open(BytesIO(folder.read(name))) as picture:
            return np.array(_to_rgb(picture))
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise DistcorrError(
            f"The photograph {folder}/{name} is missing", "put it there and run again", MISSING
        ) from error
    except Exception as error:  # damaged bytes make decoders fail in many ways
        raise DistcorrError(
            f"Cannot read the photograph {folder}/{name}: {str(error) or type(error).__name__}",
            "replace the file by a whole copy and run again",
            MISSING,
        ) from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # grey of 16 bits, which convert() would clip at 255
        grey = np.clip(np.asarray(picture, np.float64) / 257, 0, 255)
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")

"""An extractor that computes next to nothing, and goes wrong where a fault asks it to.

What it is asked to do comes from outside (a folder named by the environment), so that its features
and its digest are the same with a fault and without one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distcorr.types import FloatArray, Geometry

FAULTS = "DISTCORR_TEST_FAULTS"  # environment: a folder with what is to go wrong, or nothing
POISON, CRASHES = "poison", "crashes"  # files: checksum and signal; a line for every crash


class Blocks:
    """Means of 4 x 4 px and their products with a fixed random matrix."""

    geometry = Geometry(input_size=52, stride=4, offset=1.5, rf=4, cells=13)
    channels = 16
    fingerprint = "fault_backbone 1"

    def __init__(self) -> None:
        self._matrix = np.random.default_rng(0).normal(size=(48, 16)).astype(np.float32)

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """(B, 52, 52, 3) uint8 -> (B, 13, 13, 16) float32."""
        if folder := os.environ.get(FAULTS):
            for image in images:
                _go_wrong(Path(folder), image)
        blocks = images.reshape(-1, 13, 4, 13, 4, 3).transpose(0, 1, 3, 2, 4, 5)
        values = blocks.reshape(*blocks.shape[:3], 48).astype(np.float32) / 255 - 0.5
        return np.maximum(values @ self._matrix, 0)


def digest_of(image: npt.NDArray[np.uint8]) -> str:
    """By which a picture is told to be poisoned."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def _go_wrong(folder: Path, image: npt.NDArray[np.uint8]) -> None:
    if not (folder / POISON).exists():
        return
    checksum, number = (folder / POISON).read_text().split()
    if digest_of(image) == checksum:
        with (folder / CRASHES).open("a") as crashes:
            crashes.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), int(number))

"""Small photographs for the readers' tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, size=(60, 40), seed=0) -> Path:
    """Noise, so that no two seeds give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path

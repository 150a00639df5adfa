"""Dense SIFT of boxes, made when it is needed: 3,600 descriptors of every box (section 5).

They take a megabyte a box, and ten milliseconds with reading the photograph. Every round makes them
anew; who would rather have the disk full names them in ``features.grids500``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.sift import Sift
from distcorr.algorithms.sources import Source, Sources
from distcorr.config import Config
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.data.store import HalfArray
from distcorr.stages.features import LARGE, Wanted, dense_sift
from distcorr.stages.rows import to_half
from distcorr.types import Box, Geometry

_DENSE = re.compile(r"dsift\d+")
_AT_ONCE = 8  # boxes: 6 MB of pixels


def can_stream(layer: str) -> bool:
    """Whether a layer needs nothing but photographs."""
    return bool(_DENSE.fullmatch(layer))


def wanted(config: Config, layer: str) -> Wanted:
    """What the layer is, as ``build-db`` would keep it."""
    return dense_sift(config, layer)


def geometry(layer: str) -> Geometry:
    """Where its cells lie on boxes of 500 px."""
    source, tap = _source(layer)
    return source.geometry(tap, LARGE)


@dataclass(frozen=True, eq=False)
class Photographs:
    """Where boxes are cut out of.

    Attributes:
        folder: of the photographs.
        checksums: photograph -> the sha256 that build-db saw.
    """

    folder: Folder
    checksums: Mapping[str, str]

    def grids(
        self, layer: str, images: Sequence[str], framed: npt.NDArray[np.float64]
    ) -> HalfArray:
        """(n, cells, cells, 128) float16 of boxes, to the bit what the store would hold.

        Args:
            layer: "dsift8".
            images: the n photographs; each is decoded once where its boxes follow one another.
            framed: (n, 4) px, the boxes.

        Raises:
            DistcorrError: a photograph is missing or damaged.
            OSError: one is not what build-db saw, or the storage does not answer.
        """
        source, tap = _source(layer)
        cells, channels = geometry(layer).cells, source.channels(tap)
        out = np.empty((len(images), cells, cells, channels), np.float16)
        photograph = functools.lru_cache(maxsize=1)(self._photograph)
        for start in range(0, len(images), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(images)))
            cut = [crop_square(photograph(images[i]), Box(*framed[i]), LARGE) for i in some]
            out[some.start : some.stop] = to_half(source(np.stack(cut), (tap,))[tap])
        return out

    def _photograph(self, image: str) -> npt.NDArray[np.uint8]:
        return read_image(self.folder, image, self.checksums[image])


@functools.cache
def _source(layer: str) -> tuple[Source, str]:
    return Sources(Sift()).find(layer)

"""Photographs as sources see them: cut out, reduced, and read ahead of need."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from distcorr.algorithms.batches import batch_size
from distcorr.algorithms.crop import crop_square, reduce_to
from distcorr.algorithms.sources import Images
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import describe
from distcorr.types import Box, Instance

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4  # photographs that are read and decoded before they are needed


@dataclass(frozen=True)
class Scene:
    """A photograph by its name and size; the picture that a source sees may be smaller.

    Attributes:
        place: among the photographs of its shard.
        image: its name.
        width: px.
        height: px.
    """

    place: int
    image: str
    width: int
    height: int

    def to_picture(
        self, xy: npt.NDArray[np.float64], width: int, height: int
    ) -> npt.NDArray[np.float64]:
        """(n, 2) px in the photograph -> px in a picture of it of another size."""
        scale = np.array([width / self.width, height / self.height])
        return np.asarray((xy + 0.5) * scale - 0.5)

    def from_picture(
        self, xy: npt.NDArray[np.float64], width: int, height: int
    ) -> npt.NDArray[np.float64]:
        """(n, 2) px in a picture of the photograph -> px in the photograph."""
        scale = np.array([self.width / width, self.height / height])
        return np.asarray((xy + 0.5) * scale - 0.5)


def crops(
    folder: Folder, members: Sequence[Instance], sha256: str, sides: Sequence[int]
) -> list[list[Images] | str]:
    """The boxes of one photograph at every side, or why there are none."""
    try:
        photograph = read_image(folder, members[0].image, sha256)
    except DistcorrError as error:
        # Not an OSError: when storage does not answer, the shard fails and is tried again.
        return [describe(error)] * len(members)
    found: list[list[Images] | str] = []
    for instance in members:
        try:
            found.append([crop_square(photograph, instance.box, side) for side in sides])
        except ValueError as error:
            found.append(describe(error))
    return found


def seen(
    folder: Folder, place: int, image: str, sha256: str, longest: int
) -> tuple[Scene, Images] | str:
    """A photograph, reduced if it is too long, or why there is none."""
    try:
        photograph = read_image(folder, image, sha256)
    except DistcorrError as error:
        return describe(error)
    height, width = photograph.shape[:2]
    return Scene(place, image, width, height), reduce_to(photograph, longest)


def squeezed(image: Images, side: int) -> Images:
    """The whole picture as a square, for a source that sees no other shape."""
    whole = Box(0, 0, image.shape[1] - 1, image.shape[0] - 1)
    return crop_square(image, whole, side)


def batches_alike(
    views: Sequence[tuple[Scene, Images]], batch: int
) -> Iterator[Sequence[tuple[Scene, Images]]]:
    """Pictures of one size together, no more at once than a batch of their area."""
    by_shape: dict[tuple[int, ...], list[tuple[Scene, Images]]] = defaultdict(list)
    for view in views:
        by_shape[view[1].shape].append(view)
    for (height, width, _), alike in by_shape.items():
        size = batch_size(batch, height, width)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def ahead(
    threads: ThreadPoolExecutor, function: Callable[[T], R], items: Sequence[T]
) -> Iterator[R]:
    """``map(function, items)``, a few items ahead: reading overlaps with computing."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

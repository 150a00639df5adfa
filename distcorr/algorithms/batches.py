"""Images through a source, as many at a time as memory holds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from distcorr.errors import PARTIAL, DistcorrError
from distcorr.types import FloatArray

_UNIT = 227 * 227  # px that count as one image of a batch: CaffeNet's input
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed")  # torch, lower case


class SmallerBatchWarning(UserWarning):
    """Memory did not hold the batch that was asked for, so smaller ones were taken."""


class _Source(Protocol):
    name: str
    input_size: int

    def __call__(
        self, images: npt.NDArray[np.uint8], taps: Sequence[str]
    ) -> dict[str, FloatArray]: ...


def batch_size(batch: int, height: int, width: int) -> int:
    """How many images of a size have the area of ``batch`` images of 227 x 227 px; at least one."""
    return max(1, batch * _UNIT // max(1, height * width))


def in_batches(
    source: _Source,
    images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]],
    taps: Sequence[str],
    batch: int,
) -> dict[str, FloatArray]:
    """``source(images, taps)``, a batch at a time.

    A batch that does not fit in memory is halved until it does, and what follows is no larger; a
    ``SmallerBatchWarning`` says so at the end.

    Args:
        source: anything that gives features of images.
        images: (n, H, W, 3) uint8 RGB, or n images of one size.
        taps: what to get from it.
        batch: images of 227 x 227 px at a time; of larger ones as many as have that area, but
            always one.

    Returns:
        tap -> (n, ...) float32.

    Raises:
        DistcorrError: a single image does not fit; or as the source raises.
    """
    if not len(images):
        side = source.input_size
        return source(np.zeros((0, side, side, 3), np.uint8), taps)
    height, width = images[0].shape[:2]
    asked = size = batch_size(batch, height, width)
    done: list[dict[str, FloatArray]] = []
    start = 0
    while start < len(images):
        part = np.asarray(images[start : start + size])
        found = _attempt(source, part, taps)
        if found is not None:
            done.append(found)
            start += len(part)
        elif len(part) > 1:
            size = len(part) // 2
        else:
            raise DistcorrError(
                f"An image of {width} x {height} px does not fit in memory with {source.name}",
                "leave the image out, scale it down, or give the worker more memory",
                PARTIAL,
            )
    if size < asked:
        message = f"{source.name} ran out of memory; images went through {size} at a time"
        warnings.warn(f"{message} instead of {asked}", SmallerBatchWarning, stacklevel=2)
    if len(done) == 1:
        return done[0]
    return {tap: np.concatenate([found[tap] for found in done]) for tap in done[0]}


def _attempt(
    source: _Source, images: npt.NDArray[np.uint8], taps: Sequence[str]
) -> dict[str, FloatArray] | None:
    """None when memory ran out; by then all that the attempt held is free again."""
    try:
        return source(images, taps)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice, on the host or the device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)

"""Batches: the same features whatever the size, and what happens when memory runs out."""

import warnings

import numpy as np
import pytest
import torch

from distcorr.algorithms.batches import SmallerBatchWarning, in_batches
from distcorr.errors import PARTIAL, DistcorrError


class Fake:
    """Gives the mean and the first pixel of each image; above ``room`` images memory runs out."""

    name = "fake"
    input_size = 227

    def __init__(self, room=10**9, error=None):
        self.room, self.error, self.calls = room, error, []

    def __call__(self, images, taps):
        assert images.ndim == 4
        assert images.dtype == np.uint8
        self.calls.append(len(images))
        if len(images) > self.room:
            raise self.error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        whole = {
            "mean": images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32),
            "grid": images[:, :1, :1].astype(np.float32),
        }
        return {tap: whole[tap] for tap in taps}


def images(count, height=227, width=227):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def same(found, expected):
    return list(found) == list(expected) and all(
        np.array_equal(found[tap], expected[tap]) for tap in expected
    )


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_batches_are_the_whole(batch):
    source, all_of_them = Fake(), images(7)
    expected = Fake()(all_of_them, ["mean", "grid"])
    assert same(in_batches(source, all_of_them, ["mean", "grid"], batch), expected)
    assert max(source.calls) <= batch
    assert sum(source.calls) == 7
    assert same(in_batches(source, list(all_of_them), ["mean", "grid"], batch), expected)


@pytest.mark.parametrize(
    ("height", "width", "calls"),
    [(227, 227, [4, 4, 1]), (454, 227, [2, 2, 2, 2, 1]), (500, 500, [1] * 9), (100, 100, [9])],
)
def test_larger_images_count_by_their_area(height, width, calls):
    source = Fake()
    in_batches(source, images(9, height, width), ["mean"], 4)
    assert source.calls == calls


def test_no_images_give_empty_features():
    found = in_batches(Fake(), [], ["mean", "grid"], 4)
    assert {tap: values.shape for tap, values in found.items()} == {
        "mean": (0, 3),
        "grid": (0, 1, 1, 3),
    }


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_batch_that_does_not_fit_is_halved_and_the_result_is_the_same(error):
    source, all_of_them = Fake(room=2, error=error), images(37)
    with pytest.warns(
        SmallerBatchWarning, match="fake ran out of memory.*2 at a time instead of 16"
    ):
        found = in_batches(source, all_of_them, ["mean", "grid"], 16)
    assert same(found, Fake()(all_of_them, ["mean", "grid"]))
    assert source.calls == [16, 8, 4, *[2] * 18, 1]  # what did not fit is not tried again


def test_a_short_last_batch_is_halved_by_its_own_length():
    source = Fake(room=2)
    with pytest.warns(SmallerBatchWarning):
        in_batches(source, images(3), ["mean"], 100)
    assert source.calls == [3, 1, 1, 1]


def test_what_the_failed_attempt_held_is_free_before_the_next():
    """An exception holds its frames, and they the tensors that made memory run out."""
    alive = []

    class Tracked:
        def __del__(self):
            alive.remove(self.number)

    class Greedy(Fake):
        def __call__(self, images, taps):
            held = Tracked()
            held.number = len(images)
            alive.append(held.number)
            assert alive == [len(images)]
            return super().__call__(images, taps)

    with pytest.warns(SmallerBatchWarning):
        in_batches(Greedy(room=1), images(8), ["mean"], 8)


def test_a_single_image_that_does_not_fit_is_an_error():
    source = Fake(room=0)
    with pytest.raises(DistcorrError, match="An image of 300 x 227 px does not fit") as caught:
        in_batches(source, images(5, 227, 300), ["mean"], 5)
    assert caught.value.exit_code == PARTIAL
    assert len(source.calls) <= 4


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("no"), OSError("no")])
def test_other_errors_are_not_retried(error):
    source = Fake(room=2, error=error)
    with pytest.raises(type(error), match=str(error)):
        in_batches(source, images(9), ["mean"], 9)
    assert source.calls == [9]


def test_nothing_is_said_when_memory_holds():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_batches(Fake(), images(9), ["mean"], 2)

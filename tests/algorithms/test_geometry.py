"""Receptive fields against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.geometry import chain
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

PRIMES = (2, 3, 5, 7)


@st.composite
def layers(draw):
    kernel = draw(st.sampled_from((1, *PRIMES)))
    pad = draw(st.integers(0, kernel - 1))  # Caffe demands pad < kernel of its pools
    return kernel, draw(st.sampled_from((1, 2, 3))), pad, draw(st.booleans())


def cells_by_counting(size, kernel, stride, pad, ceil):
    """Slide a window over the padded image."""
    first = count = 0
    while True:
        start = first * stride - pad
        before_ends_at = start - stride + kernel  # one past the last pixel of the window before
        if ceil:
            goes_on = before_ends_at < size + pad or first == 0
            goes_on = goes_on and start < size
        else:
            goes_on = start + kernel <= size + pad
        if not goes_on:
            return count
        first, count = first + 1, count + 1


def seen_by(cell, stack):
    """Pixels that a cell of the last layer sees, padding included."""
    seen = {cell}
    for kernel, stride, pad, _ in reversed(stack):
        seen = {i * stride - pad + k for i in seen for k in range(kernel)}
    return seen


@settings(max_examples=150, deadline=None)
@given(st.lists(layers(), min_size=1, max_size=3), st.integers(41, 71))
def test_chain_agrees_with_enumerating_the_pixels(stack, size):
    cells = size
    for layer in stack:
        if cells < layer[0]:
            return  # a window wider than its image
        cells = cells_by_counting(cells, *layer)
    geometry = chain(stack, size)
    assert geometry.cells == cells
    for cell in (0, 1, 5):
        seen = seen_by(cell, stack)
        assert geometry.offset + geometry.stride * cell == (min(seen) + max(seen)) / 2
        assert geometry.rf == max(seen) - min(seen) + 1


def test_primes_by_hand():
    # 3/2 then 5/3, pads 1 and 2: offset 0 + (2 - 2) * 2, rf 1 + 2 + 4 * 2, cells 101 -> 51 -> 17.
    assert chain([(3, 2, 1), (5, 3, 2)], 101) == Geometry(101, 6, 0.0, 11, 17)


def test_pooling_rounds_up_and_convolution_down():
    assert chain([(3, 2, 0)], 6).cells == 2
    assert chain([(3, 2, 0, True)], 6).cells == 3


def test_the_last_pooling_window_starts_inside_the_image():
    # Rounding up alone gives ceil((4 + 2 - 2) / 3) + 1 = 3, and the third starts at pixel 5.
    assert chain([(2, 3, 1, True)], 4).cells == 2


def test_no_layers_is_the_image_itself():
    assert chain([], 7) == Geometry(7, 1, 0.0, 1, 7)


@pytest.mark.parametrize("layer", [(0, 1, 0), (3, 0, 1), (3, 1, -1)])
def test_impossible_layers_are_refused(layer):
    with pytest.raises(DistcorrError, match="layer 2"):
        chain([(3, 1, 1), layer], 20)


def test_an_input_too_small_is_refused():
    with pytest.raises(DistcorrError, match="10 px is too small: layer 1"):
        chain([(11, 4, 0)], 10)

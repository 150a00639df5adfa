import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from distcorr.algorithms.crop import (
    crop_square,
    from_square,
    reduce_to,
    to_square,
    with_context,
)
from distcorr.types import Box


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_box_of_the_crops_own_size_is_copied():
    image = noise(40, 50)
    assert np.array_equal(crop_square(image, Box(7, 5, 26, 24), 20), image[5:25, 7:27])


@pytest.mark.parametrize("side", [1, 13, 64, 227])
@pytest.mark.parametrize("box", [Box(0, 0, 59, 44), Box(3, 10, 50, 22), Box(8, 8, 8, 8)])
def test_equals_resizing_the_cut_out_box(box, side):
    image = noise(45, 60)
    x0, y0, x1, y1 = (int(v) for v in box)
    cut = torch.from_numpy(image[y0 : y1 + 1, x0 : x1 + 1]).permute(2, 0, 1)[None].float()
    oracle = torch.nn.functional.interpolate(
        cut, (side, side), mode="bilinear", align_corners=False, antialias=False
    )
    ours = crop_square(image, box, side)
    assert ours.shape == (side, side, 3)
    assert ours.dtype == np.uint8
    assert np.abs(ours - oracle[0].permute(1, 2, 0).numpy()).max() <= 1


def slow_crop(image, box, side):
    """The definition, whole arrays at a time in float32: what the kernel must give bit for bit."""
    height, width = image.shape[:2]
    at = from_square(np.repeat(np.arange(side)[:, None], 2, axis=1), box, side)
    at = np.clip(np.clip(at, box[:2], box[2:]), 0, (width - 1, height - 1))
    first = np.floor(at).astype(int)
    second = np.minimum(first + 1, (width - 1, height - 1))
    weight = (at - first).astype(np.float32)

    def mix(a, b, share):
        return (b.astype(np.float32) - a.astype(np.float32)) * share + a.astype(np.float32)

    rows = mix(image[first[:, 1]], image[second[:, 1]], weight[:, 1, None, None])
    square = mix(rows[:, first[:, 0]], rows[:, second[:, 0]], weight[:, 0, None])
    return np.rint(square).astype(np.uint8)


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corner=st.tuples(st.floats(-20, 89), st.floats(-20, 89)),
    extent=st.tuples(st.floats(0, 120), st.floats(0, 120)),
    whole=st.booleans(),
    side=st.sampled_from([1, 2, 31, 64]),
)
def test_equals_the_definition_bit_for_bit(size, corner, extent, whole, side):
    height, width = size
    box = Box(*corner, corner[0] + extent[0], corner[1] + extent[1])
    box = Box(*map(round, box)) if whole else box
    assume(box.x1 >= 0 and box.y1 >= 0 and box.x0 <= width - 1 and box.y0 <= height - 1)
    image = noise(height, width, seed=height)
    assert np.array_equal(crop_square(image, box, side), slow_crop(image, box, side))


def test_any_memory_layout_is_welcome():
    image = noise(40, 50)
    expected = crop_square(image, Box(3, 4, 30, 35), 20)
    read_only = image.copy()
    read_only.flags.writeable = False
    padded = np.zeros((40, 50, 4), np.uint8)
    padded[..., :3] = image
    for other in (read_only, padded[..., :3], np.asfortranarray(image)):
        assert np.array_equal(crop_square(other, Box(3, 4, 30, 35), 20), expected)


@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((301, 777), (194, 500)),
        ((640, 480), (500, 375)),
        ((1, 900), (1, 500)),
        ((501, 3), (500, 3)),
    ],
)
def test_a_long_photograph_is_reduced_as_pillow_reduces_it(size, reduced):
    image = noise(*size)
    small = reduce_to(image, 500)
    oracle = Image.fromarray(image).resize(reduced[::-1], Image.Resampling.BILINEAR)
    assert small.shape == (*reduced, 3)
    assert small.dtype == np.uint8
    assert small.flags.c_contiguous
    assert np.abs(small.astype(int) - np.asarray(oracle)).max() <= 1


def test_a_short_photograph_stays_as_it_is():
    image = noise(500, 333)
    assert reduce_to(image, 500) is image


def test_crop_and_coordinates_agree():
    """A ramp shows at each pixel of the crop the photograph's x, which from_square tells."""
    image = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 30, 0).repeat(3, 2)
    box = Box(20.25, 3, 163.5, 22)
    x = from_square(np.stack([np.arange(64), np.zeros(64)], 1), box, 64)[:, 0]
    shown = crop_square(image, box, 64)[0, :, 0]
    assert np.abs(shown - np.clip(x, box.x0, box.x1)).max() <= 0.5 + 1e-4


def test_a_box_beyond_the_photograph_repeats_its_edge():
    image = noise(20, 20)
    padded = np.pad(image, ((5, 5), (5, 5), (0, 0)), mode="edge")
    assert np.array_equal(crop_square(image, Box(-5, -5, 24, 24), 30), padded)


@pytest.mark.parametrize(
    ("box", "word"),
    [
        (Box(20, 0, 30, 10), "misses"),
        (Box(-9, 0, -1, 10), "misses"),
        (Box(0, 25, 5, 30), "misses"),
        (Box(0, -8, 5, -2), "misses"),
        (Box(5, 5, 4, 9), "empty"),
        (Box(0, 0, float("nan"), 5), "empty"),
    ],
)
def test_a_box_without_pixels_is_refused(box, word):
    with pytest.raises(ValueError, match=word):
        crop_square(noise(20, 20), box, 8)


def test_corners_of_the_box_are_corners_of_the_square():
    box = Box(10, 20, 109, 69)  # 100 x 50 px
    edges = [[9.5, 19.5], [109.5, 69.5]]
    assert to_square(edges, box, 500) == pytest.approx(np.array([[-0.5, -0.5], [499.5, 499.5]]))


def test_context_leaves_a_margin_around_the_box():
    box = Box(10, 20, 109, 69)  # 100 x 50 px
    edges = [[9.5, 19.5], [109.5, 69.5]]
    framed = with_context(box, 16 / 227)
    margin = [[15.5, 15.5], [210.5, 210.5]]  # 16 px of 227 on each side, between px centres
    assert to_square(edges, framed, 227) == pytest.approx(np.array(margin))
    large = np.array([[16, 16], [211, 211]]) * 500 / 227 - 0.5
    assert to_square(edges, framed, 500) == pytest.approx(large)
    # R-CNN enlarges a box about its centre by 227 / (227 - 2 * 16)
    centre, half = np.array([59.5, 44.5]), np.array([50, 25]) * 227 / 195
    assert framed == pytest.approx(Box(*(centre - half + 0.5), *(centre + half - 0.5)))
    assert with_context(box, 0) == box


@pytest.mark.parametrize("box", [Box(30, 40, 329, 279), Box(50.25, 60.5, 299.75, 300)])
def test_within_its_margin_the_box_is_seen_as_without_context(box):
    """Its 195 px are those of a crop of 195 px; where the photograph ends, its edge goes on."""
    image = noise(330, 360)
    framed = crop_square(image, with_context(box, 16 / 227), 227)
    alone = crop_square(image, box, 195)
    assert np.abs(framed[16:-16, 16:-16].astype(int) - alone).max() <= 1  # rounding
    outside = crop_square(image[40:280, 30:330], with_context(Box(0, 0, 299, 239), 16 / 227), 227)
    assert (outside[:16] == outside[:1]).all()
    assert (outside[:, -16:] == outside[:, -1:]).all()


@given(
    xy=hnp.arrays(np.float64, (4, 2), elements=st.floats(-1e4, 1e4)),
    corner=st.tuples(st.floats(0, 500), st.floats(0, 500)),
    extent=st.tuples(st.floats(0, 500), st.floats(0, 500)),
    context=st.integers(0, 100),
    side=st.sampled_from([227, 500]),
)
def test_context_scales_about_the_centre(xy, corner, extent, context, side):
    box = Box(*corner, corner[0] + extent[0], corner[1] + extent[1])
    framed = with_context(box, context / 227)
    there = to_square(xy, framed, side)
    assert np.allclose(from_square(there, framed, side), xy, atol=1e-6)
    middle = (side - 1) / 2
    shrunk = (to_square(xy, box, side) - middle) * (227 - 2 * context) / 227 + middle
    assert np.allclose(there, shrunk, rtol=1e-9, atol=1e-6)


@given(
    xy=hnp.arrays(np.float64, (4, 2), elements=st.floats(-1e4, 1e4)),
    corner=st.tuples(st.floats(0, 500), st.floats(0, 500)),
    size=st.tuples(st.floats(1, 500), st.floats(1, 500)),
    side=st.sampled_from([13, 227, 500]),
)
def test_from_square_inverts_to_square(xy, corner, size, side):
    box = Box(*corner, corner[0] + size[0], corner[1] + size[1])
    there = to_square(xy, box, side)
    assert there.dtype == np.float64
    assert np.allclose(from_square(there, box, side), xy, atol=1e-6)

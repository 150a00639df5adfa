"""SIFT against its definition written out, VLFeat's own output, OpenCV, and closed forms.

``sift_vlfeat.npz`` holds a small grey picture and what VLFeat 0.9.21's ``vl_dsift`` (flat window)
and ``vl_imsmooth`` made of it. With VLFeat's C library installed (Debian: libvlfeat1) it is written
again by ``python benchmarks/sift.py --golden tests/algorithms/sift_vlfeat.npz``.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from distcorr.algorithms import nets, sift
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

TOLERANCE = 512e-5  # of values whose norm is 512: float32 against float64


def picture(height, width, seed=0):
    """(H, W, 3) uint8 with structure at several scales, also at the border."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    layers = [ndimage.gaussian_filter(noise, (s, s, 0)) * s for s in (0.7, 2, 5)]
    return np.clip(128 + 120 * sum(layers), 0, 255).astype(np.uint8)


def grey(height, width, seed=0):
    return picture(height, width, seed)[..., 1].astype(np.float32)


def polynomial_angle(gy, gx):
    """VLFeat's arctangent, in radians."""
    if gx == gy == 0:
        return 0.0
    r = (abs(gx) - abs(gy)) / (abs(gx) + abs(gy))
    acute = np.pi / 4 - (0.9675 - 0.1821 * r * r) * r
    angle = acute if gx >= 0 else np.pi - acute
    return angle if gy >= 0 else -angle


def reference(image, x, y, bin_size, angle_of=polynomial_angle):
    """One descriptor, pixel by pixel, from the definition; float64 grey, no smoothing."""
    height, width = image.shape
    histogram = np.zeros((4, 4, 8))
    reach = 2.5 * bin_size
    for py in range(int(np.floor(y - reach)), int(np.ceil(y + reach)) + 1):
        for px in range(int(np.floor(x - reach)), int(np.ceil(x + reach)) + 1):
            cy, cx = min(max(py, 0), height - 1), min(max(px, 0), width - 1)
            up, down = max(cy - 1, 0), min(cy + 1, height - 1)
            left, right = max(cx - 1, 0), min(cx + 1, width - 1)
            gy = (image[down, cx] - image[up, cx]) / max(down - up, 1)
            gx = (image[cy, right] - image[cy, left]) / max(right - left, 1)
            eighth = (angle_of(gy, gx) / (2 * np.pi) * 8) % 8
            low = int(eighth)
            for row in range(4):
                wy = max(0, 1 - abs(py - (y + bin_size * (row - 1.5))) / bin_size)
                for column in range(4):
                    wx = max(0, 1 - abs(px - (x + bin_size * (column - 1.5))) / bin_size)
                    share = wy * wx * np.hypot(gx, gy)
                    histogram[row, column, low % 8] += share * (1 - (eighth - low))
                    histogram[row, column, (low + 1) % 8] += share * (eighth - low)
    return finish(histogram * np.outer(means(bin_size), means(bin_size))[..., None])


def means(bin_size):
    """The mean of the Gaussian window over the pixels under each of the four triangles."""
    result = []
    for number in range(4):
        under = [d for d in np.arange(-bin_size, bin_size + 0.25, 0.5) if abs(d) < bin_size]
        under = [d for d in under if (d - bin_size) % 1 == 0]
        away = [(bin_size * (number - 1.5) + d) / (2 * bin_size) for d in under]
        result.append(np.mean([np.exp(-0.5 * z**2) for z in away]))
    return np.array(result)


def finish(histogram):
    v = histogram.ravel()
    if not v.any():
        return v
    v = np.minimum(v / np.linalg.norm(v), 0.2)
    return 512 * v / np.linalg.norm(v)


def cosine(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


# Other implementations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "bin_size", "smooth"),
    [("plain", 4, 4, False), ("odd", 7, 5, False), ("smooth", 8, 8, True)],
)
def test_dense_equals_vlfeat(name, step, bin_size, smooth):
    with np.load(Path(__file__).with_name("sift_vlfeat.npz")) as golden:
        image, theirs = golden["image"], golden[name]
    ours = sift.dense(image.astype(np.float32), step, bin_size, smooth)
    assert ours.shape == theirs.shape
    # VLFeat's reciprocal root is an approximation (5e-6); its angles are ours.
    assert np.abs(ours - theirs).max() < 1e-5 * 512


def test_opencv_agrees_up_to_its_window_and_smoothing():
    # OpenCV measures y upwards, so its orientations run the other way; it weights every pixel by
    # the Gaussian, interpolates by the pixel rounded, and smooths by 1.6 * 2^(level / 3).
    image = picture(200, 240, 3)
    xy = np.stack(np.meshgrid(np.arange(60, 190, 10), np.arange(60, 150, 10)), -1).reshape(-1, 2)
    order = (np.arange(16)[:, None] * 8 + -np.arange(8) % 8).ravel()
    for radius, level in ((10, 0), (20, 3)):
        keypoints = [cv2.KeyPoint(float(x), float(y), radius / 3, 0, 1, level << 8) for x, y in xy]
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        kept, theirs = cv2.SIFT_create().compute(pixels, keypoints)
        assert [k.pt for k in kept] == [tuple(p) for p in xy.astype(float)]
        ours = sift.at_points(image, xy, radius)
        agreement = cosine(ours, theirs[:, order])
        assert agreement.mean() > 0.99
        assert agreement.min() > 0.98
        assert cosine(ours, theirs).mean() < 0.6  # without the permutation it does not


# The definition -------------------------------------------------------------------------------

POINTS = [(14, 15), (20.3, 11.8), (0, 0), (33.5, 2.25), (-4.6, 31), (60, -50)]


@pytest.mark.parametrize("radius", [2, 7, 10])
def test_at_points_follows_the_definition(radius):
    image = grey(31, 34)
    ours = sift.at_points(image, POINTS, radius, smooth=False)
    for (x, y), descriptor in zip(POINTS, ours, strict=True):
        expected = reference(image.astype(np.float64), x, y, radius / 2)
        np.testing.assert_allclose(descriptor, expected, atol=TOLERANCE)
        exact = reference(image.astype(np.float64), x, y, radius / 2, np.arctan2)
        np.testing.assert_allclose(descriptor, exact, atol=512 * 0.015)  # 0.01 rad of 1/8 turn
        assert cosine(descriptor, exact) > 0.9998


def test_dense_follows_the_definition():
    image = grey(31, 34)
    ours = sift.dense(image, 6, 5, smooth=False)
    assert ours.shape == (3, 4, 128)
    assert ours.dtype == np.float32
    for row in range(3):
        for column in range(4):
            expected = reference(image.astype(np.float64), 7.5 + 6 * column, 7.5 + 6 * row, 5)
            np.testing.assert_allclose(ours[row, column], expected, atol=TOLERANCE)


def test_smoothing_is_a_gaussian_of_the_stated_sigma():
    image = grey(60, 70)
    sigma = np.sqrt((8 / 3) ** 2 - 0.25)
    smoothed = ndimage.gaussian_filter(image, sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
    np.testing.assert_allclose(
        sift.dense(image, 8, 8), sift.dense(smoothed, 8, 8, smooth=False), atol=2 * TOLERANCE
    )


def test_bins_too_small_to_smooth_are_not_smoothed():
    image = grey(20, 20)
    assert np.array_equal(sift.dense(image, 4, 1), sift.dense(image, 4, 1, smooth=False))


def test_grey_is_rec_601():
    image = picture(40, 40)
    luma = (image @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
    np.testing.assert_allclose(sift.dense(image), sift.dense(luma), atol=TOLERANCE)


# Closed forms ---------------------------------------------------------------------------------


def test_a_ramp_has_one_descriptor_everywhere_even_outside():
    y, x = np.mgrid[:60, :80].astype(np.float32)
    points = [(40, 30), (3, 55.5), (-20, 30), (500, 500)]
    for slope, orientation in ((x, 0), (y, 2), (-x, 4), (-y, 6)):
        for radius in (20, 160):
            found = sift.at_points(slope, points, radius, smooth=False)
            histogram = np.zeros((4, 4, 8))
            histogram[..., orientation] = np.outer(means(radius / 2), means(radius / 2))
            expected = finish(histogram)
            # Clipping comes before the last scaling: the result may exceed 0.2 of its norm.
            assert expected.max() > 0.2 * 512
            np.testing.assert_allclose(found, np.tile(expected, (4, 1)), atol=0.02)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_a_constant_picture_gives_zeros(value):
    image = np.full((70, 80, 3), value, np.uint8)
    assert not sift.dense(image).any()
    assert not sift.at_points(image, [(10, 10), (35.5, 60.1)], 160).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_pictures_have_descriptors(shape):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = sift.at_points(image, [(0, 0), (3.5, 100), (-7, 2)], 40)
    norm = 0 if shape == (1, 1) else 512
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), norm, rtol=1e-5)


# Properties -----------------------------------------------------------------------------------


def test_norm_is_512_and_no_value_is_negative():
    found = sift.dense(picture(90, 90, 1), 4, 8)
    assert (found >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 512, rtol=1e-5)


def test_dense_is_equivariant_to_translation():
    image = grey(120, 130)
    whole = sift.dense(image, 4, 6)[2:, 3:]
    part = sift.dense(np.ascontiguousarray(image[8:, 12:]), 4, 6)
    inner = slice(5, -5)  # where neither the border's gradients nor its smoothing reach
    np.testing.assert_allclose(whole[inner, inner], part[inner, inner], atol=TOLERANCE)


def test_a_quarter_turn_permutes_bins_and_orientations():
    image = grey(57, 57)
    ours = sift.dense(image, 8, 8).reshape(5, 5, 4, 4, 8)
    turned = sift.dense(np.rot90(image).copy(), 8, 8).reshape(5, 5, 4, 4, 8)
    # rot90 turns from +x towards -y: orientation, which grows towards +y, loses a quarter.
    expected = np.rot90(np.rot90(np.roll(ours, -2, axis=-1), axes=(0, 1)), axes=(2, 3))
    np.testing.assert_allclose(turned, expected, atol=2 * TOLERANCE)


def test_mirroring_reverses_columns_and_orientations():
    image = grey(57, 57)
    ours = sift.dense(image, 8, 8).reshape(5, 5, 4, 4, 8)
    mirrored = sift.dense(image[:, ::-1].copy(), 8, 8).reshape(5, 5, 4, 4, 8)
    expected = ours[:, ::-1, :, ::-1][..., (4 - np.arange(8)) % 8]
    np.testing.assert_allclose(mirrored, expected, atol=2 * TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 50), st.floats(-200, 200), st.booleans())
def test_brightness_and_contrast_do_not_matter(gain, bias, negative):
    image = grey(40, 40)
    changed = ((-gain if negative else gain) * image + bias).astype(np.float32)
    found = sift.dense(changed, 5, 5).reshape(-1, 16, 8)
    expected = sift.dense(image, 5, 5).reshape(-1, 16, 8)
    found = np.roll(found, 4, axis=-1) if negative else found
    tolerance = 0.05 * max(1, abs(bias) / gain / 100)  # rounding of the changed picture
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_a_sub_pixel_shift_of_the_picture_is_one_of_the_point():
    def waves(shift):
        y, x = np.mgrid[:120, :120].astype(np.float64)
        x = x - shift
        total = np.sin(0.31 * x + 0.2 * y) + np.cos(0.23 * y - 0.11 * x) + np.sin(0.05 * x * y / 9)
        return total.astype(np.float32)

    points = np.random.default_rng(5).uniform(45, 75, (20, 2)).round()
    shift = 0.37
    here = sift.at_points(waves(0), points, 20)
    moved = sift.at_points(waves(shift), points + np.array([shift, 0]), 20)
    unmoved = sift.at_points(waves(shift), points, 20)
    error = np.linalg.norm(here - moved, axis=1)
    assert (error < 0.25 * np.linalg.norm(here - unmoved, axis=1)).all()


def test_descriptors_move_smoothly_with_the_point():
    image = picture(80, 80)
    x = np.linspace(30, 34, 401)
    found = sift.at_points(image, np.stack([x, np.full_like(x, 40.3)], -1), 20)
    steps = np.linalg.norm(np.diff(found, axis=0), axis=1)
    total = np.linalg.norm(found[-1] - found[0])
    assert steps.max() < 4 * steps.mean()
    assert steps.max() < 0.05 * total


@pytest.mark.parametrize("bin_size", [4, 5])
def test_at_points_equals_dense_at_its_centres_in_any_order(bin_size):
    image = picture(50, 61)
    grid = sift.dense(image, 6, bin_size)
    at = np.stack(np.meshgrid(np.arange(grid.shape[1]), np.arange(grid.shape[0])), -1)
    cells = np.random.default_rng(0).permutation(at.reshape(-1, 2))
    xy = 1.5 * bin_size + 6.0 * cells
    lattice = sift.at_points(image, xy, 2 * bin_size)
    single = np.concatenate([sift.at_points(image, p[None], 2 * bin_size) for p in xy])
    some = sift.at_points(image, xy[: len(xy) // 2], 2 * bin_size)
    for found in (lattice, single):
        assert np.array_equal(found, grid[cells[:, 1], cells[:, 0]])
    assert np.array_equal(some, lattice[: len(some)])


# As a source ----------------------------------------------------------------------------------


def test_cells_lie_where_the_lattice_says():
    source = sift.Sift()
    conv4 = nets.geometry(nets.CAFFENET, "conv4", 227)
    assert source.geometry("sift20") == conv4._replace(rf=40)
    assert source.geometry("dsift8", 500) == Geometry(500, 8, 12.0, 32, 60)
    assert source.channels("sift20") == source.channels("dsift8") == 128


def test_grids_and_columns_agree():
    source = sift.Sift(partial(nets.geometry, nets.CAFFENET, "conv3"), smooth=True)
    images = np.stack([picture(131, 163, seed) for seed in (0, 1)])
    images.flags.writeable = False
    taps = ("sift10", "sift37", "sift16", "dsift8", "dsift5")
    found = source(images, taps)
    assert tuple(found) == taps
    for tap in taps:
        rows, columns = source.geometry(tap, 131), source.geometry(tap, 163)
        assert found[tap].shape == (2, rows.cells, columns.cells, 128)
        assert found[tap].dtype == np.float32
        xy = np.stack(np.meshgrid(columns.centres(), rows.centres()), -1).reshape(-1, 2)
        for image, grid in zip(images, found[tap], strict=True):
            columns_of = source.columns(image, xy, (tap,))[tap]
            assert np.array_equal(columns_of, grid.reshape(-1, 128))
    for image, grid in zip(images, found["dsift8"], strict=True):
        assert np.array_equal(grid, sift.dense(image))
    assert source(images[:0], ("sift10",))["sift10"].shape[0] == 0


def test_columns_are_at_the_exact_points():
    image, xy = picture(90, 70), np.array([(10.25, 40.5), (69, 89), (33.3, -2)])
    found = sift.Sift(smooth=False).columns(image, xy, ("sift20", "dsift8"))
    assert np.array_equal(found["sift20"], sift.at_points(image, xy, 20, smooth=False))
    assert np.array_equal(found["dsift8"], sift.at_points(image, xy, 16, smooth=False))
    none = sift.Sift().columns(image, np.zeros((0, 2)), ("sift20",))
    assert none["sift20"].shape == (0, 128)


def test_identity_tells_apart_what_gives_other_values():
    sources = [sift.Sift(), sift.Sift(smooth=False)]
    seen = [str(s.identity(tap)) for s in sources for tap in ("sift20", "sift40")]
    assert len(set(seen)) == len(seen)
    conv1 = partial(nets.geometry, nets.CAFFENET, "conv1")
    assert sift.Sift().identity("sift20") == sift.Sift(conv1).identity("sift20")


# Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["sift", "sift1", "sift1001", "sift020", "dsift501", "sift2.5", ""])
def test_unknown_taps_are_refused(tap):
    for call in (sift.Sift().require, sift.Sift().channels, sift.Sift().identity):
        with pytest.raises(DistcorrError, match="no tap"):
            call(tap)


def test_a_misspelt_tap_is_corrected():
    with pytest.raises(DistcorrError, match="Did you mean 'sift20'"):
        sift.Sift().require("sitf20")


@pytest.mark.parametrize("shape", [(24, 100, 3), (100, 24, 3)])
def test_a_picture_without_a_dense_cell_is_refused(shape):
    image = np.zeros(shape, np.uint8)
    for call in (sift.dense, lambda i: sift.Sift()(i[None], ("dsift8",))):
        with pytest.raises(DistcorrError, match="at least 25 px on both sides, got 24"):
            call(image)
    assert sift.dense(np.zeros((25, 25, 3), np.uint8)).shape == (1, 1, 128)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((50, 50), np.uint8),
        np.zeros((50, 50), np.float64),
        np.zeros((50, 50, 3), np.float32),
        np.zeros((50, 50, 4), np.uint8),
        np.zeros((0, 50, 3), np.uint8),
        np.full((50, 50), np.nan, np.float32),
    ],
)
def test_other_pictures_are_refused(image):
    with pytest.raises(DistcorrError, match="SIFT needs"):
        sift.at_points(image, [(1, 1)], 10)


@pytest.mark.parametrize(
    ("xy", "match"),
    [
        ([(1, np.nan)], "row 0"),
        ([(1, 2), (np.inf, 3)], "row 1"),
        ([1, 2], r"\(n, 2\)"),
        (np.zeros((2, 3)), r"\(n, 2\)"),
    ],
)
def test_other_points_are_refused(xy, match):
    with pytest.raises(DistcorrError, match=match):
        sift.at_points(np.zeros((9, 9), np.float32), xy, 10)


def test_parameters_out_of_range_are_refused():
    image = np.zeros((99, 99), np.float32)
    for call in (
        lambda: sift.dense(image, 0),
        lambda: sift.dense(image, 8, 0),
        lambda: sift.dense(image, 8, 2.5),
        lambda: sift.at_points(image, [(1, 1)], 1),
        lambda: sift.at_points(image, [(1, 1)], 20.5),
    ):
        with pytest.raises(DistcorrError, match="whole number"):
            call()
    with pytest.raises(DistcorrError, match=r"\(B, H, W, 3\)"):
        sift.Sift()(np.zeros((50, 50, 3), np.uint8), ("dsift8",))

"""Spline, carrying, warping and voting against SciPy, brute force and sums done by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RectBivariateSpline

from distcorr.algorithms.transfer import (
    carry,
    order_by,
    predict_keypoints,
    push,
    upsample,
    warp,
    warp_forward,
)
from distcorr.types import Geometry

CONV4 = Geometry(input_size=227, stride=16, offset=17.0, rf=163, cells=13)
SMALL = Geometry(input_size=23, stride=4, offset=3.0, rf=7, cells=5)


def random_flow(seed, geometry, reach=3):
    shape = (geometry.cells, geometry.cells, 2)
    return np.random.default_rng(seed).integers(-reach, reach + 1, shape).astype(np.int16)


def constant_flow(geometry, dx, dy):
    return np.full((geometry.cells, geometry.cells, 2), (dx, dy), np.int16)


@pytest.mark.parametrize("cells", [2, 3, 4, 5, 13])
@pytest.mark.parametrize("side", [None, 31])
def test_upsample_is_scipys_bivariate_spline(cells, side):
    geometry = Geometry(17 + 16 * cells, 16, 17.0, 163, cells)
    flow = random_flow(cells, geometry)
    centres = geometry.centres()
    pixels = np.clip(np.arange(side or geometry.input_size), centres[0], centres[-1])
    k = min(3, cells - 1)
    up = upsample(flow, geometry, side)
    assert up.dtype == np.float64
    for axis in (0, 1):
        oracle = RectBivariateSpline(centres, centres, 16.0 * flow[..., axis], kx=k, ky=k, s=0)
        np.testing.assert_allclose(up[..., axis], oracle(pixels, pixels), atol=1e-9)


def test_upsample_of_one_cell_is_constant():
    one = Geometry(10, 8, 4.0, 9, 1)
    np.testing.assert_array_equal(
        upsample(np.array([[[2, -1]]]), one), np.full((10, 10, 2), (16, -8))
    )


def test_no_flow_carries_every_pixel_to_itself():
    points = np.array([[0, 0], [226, 226], [113, 7], [5, 200]], float)
    carried = carry(points, constant_flow(CONV4, 0, 0), CONV4)
    np.testing.assert_array_equal(carried, points)


def test_a_constant_flow_moves_points_back_by_it():
    points = np.array([[100, 120], [60.2, 90.8]])
    carried = carry(points, constant_flow(CONV4, 1, -2), CONV4)
    np.testing.assert_array_equal(carried, [[84, 152], [44, 123]])


def test_ties_go_to_the_mean_and_nan_stays():
    points = np.array([[10.5, 11], [np.nan, 3], [7.5, 8.5], [np.nan, np.nan]])
    carried = carry(points, constant_flow(SMALL, 0, 0), SMALL)
    np.testing.assert_array_equal(carried[[0, 2]], points[[0, 2]])
    assert np.isnan(carried[[1, 3]]).all()
    shifted = carry(points, constant_flow(SMALL, 1, 0), SMALL)
    np.testing.assert_array_equal(shifted[[0, 2]], points[[0, 2]] - (4, 0))
    assert np.isnan(carry(np.full((2, 2), np.nan), constant_flow(SMALL, 0, 0), SMALL)).all()
    assert carry(np.zeros((0, 2)), constant_flow(SMALL, 0, 0), SMALL).shape == (0, 2)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_carry_is_the_brute_force_minimiser(seed):
    flow = random_flow(seed, SMALL, reach=2)
    points = np.random.default_rng(seed).uniform(-3, 26, (4, 2)).round(1)
    w = upsample(flow, SMALL)
    carried = carry(points, flow, SMALL)
    for point, got in zip(points, carried, strict=True):
        distance = {
            (x, y): (x + w[y, x, 0] - point[0]) ** 2 + (y + w[y, x, 1] - point[1]) ** 2
            for y, x in np.ndindex(23, 23)
        }
        least = min(distance.values())
        ties = [p for p, d in distance.items() if d <= least + 1e-9]
        np.testing.assert_allclose(got, np.mean(ties, axis=0), atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_carry_over_many_blocks_is_the_brute_force_minimiser(seed, reach):
    flow = random_flow(seed, CONV4, reach)
    points = np.random.default_rng(seed).uniform(-60, 280, (6, 2))
    y, x = np.indices((227, 227))
    landing = upsample(flow, CONV4) + np.stack([x, y], axis=-1)
    for point, got in zip(points, carry(points, flow, CONV4), strict=True):
        distance = ((landing - point) ** 2).sum(axis=-1)
        rows, columns = np.nonzero(distance <= distance.min() + 1e-9)
        np.testing.assert_allclose(got, (columns.mean(), rows.mean()), atol=1e-12)


@pytest.mark.parametrize("cells", [2, 5, 13])
def test_push_adds_scipys_spline_at_the_point_itself(cells):
    geometry = Geometry(17 + 16 * cells, 16, 17.0, 163, cells)
    flow, centres = random_flow(cells, geometry), geometry.centres()
    points = np.random.default_rng(1).uniform(-5, geometry.input_size + 5, (20, 2))
    at = np.clip(points, centres[0], centres[-1])
    k = min(3, cells - 1)
    splines = [
        RectBivariateSpline(centres, centres, 16.0 * flow[..., axis], kx=k, ky=k, s=0)
        for axis in (0, 1)
    ]
    w = np.stack([spline.ev(at[:, 1], at[:, 0]) for spline in splines], axis=-1)
    np.testing.assert_allclose(push(points, flow, geometry), points + w, atol=1e-9)


def test_push_by_a_constant_flow_is_the_inverse_of_carry():
    points = np.array([[100, 120], [np.nan, 3], [60, 90], [np.nan, np.nan]])
    pushed = push(points, constant_flow(CONV4, 1, -2), CONV4)
    np.testing.assert_allclose(pushed[[0, 2]], [[116, 88], [76, 58]], atol=1e-9)
    assert np.isnan(pushed[[1, 3]]).all()
    np.testing.assert_allclose(
        carry(pushed, constant_flow(CONV4, 1, -2), CONV4)[[0, 2]], points[[0, 2]], atol=1e-9
    )
    assert push(np.zeros((0, 2)), constant_flow(SMALL, 0, 0), SMALL).shape == (0, 2)
    with pytest.raises(ValueError, match=r"points must be \(K, 2\)"):
        push(np.zeros(2), constant_flow(SMALL, 0, 0), SMALL)


def test_warp_forward_shows_what_lands_nearest():
    image = np.random.default_rng(0).integers(0, 256, (23, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_forward(image, constant_flow(SMALL, 0, 0), SMALL), image)
    shifted = warp_forward(image, constant_flow(SMALL, 1, -1), SMALL)
    rows, columns = np.clip(np.arange(23) + 4, 0, 22), np.clip(np.arange(23) - 4, 0, 22)
    np.testing.assert_array_equal(shifted, image[rows][:, columns])
    flow = random_flow(5, SMALL, reach=1)
    w, warped = upsample(flow, SMALL), warp_forward(image, flow, SMALL)
    y, x = np.mgrid[:23, :23]
    for to_y, to_x in ((3, 5), (11, 11), (0, 22), (19, 8)):
        distance = (x + w[..., 0] - to_x) ** 2 + (y + w[..., 1] - to_y) ** 2
        nearest = image[distance <= distance.min() + 1e-9]
        assert (nearest == warped[to_y, to_x]).all(axis=1).any()


def test_warp_without_flow_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (23, 23, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(image, constant_flow(SMALL, 0, 0), SMALL), image)


def test_warp_by_a_constant_flow_fetches_from_there_and_clamps():
    image = np.random.default_rng(1).integers(0, 256, (23, 23, 3), dtype=np.uint8)
    warped = warp(image, constant_flow(SMALL, 1, -1), SMALL)
    rows, columns = np.clip(np.arange(23) - 4, 0, 22), np.clip(np.arange(23) + 4, 0, 22)
    np.testing.assert_array_equal(warped, image[rows][:, columns])


def test_warp_is_bilinear():
    flow = random_flow(3, SMALL, reach=1)
    image = np.random.default_rng(2).integers(0, 256, (23, 23, 3), dtype=np.uint8)
    w, warped = upsample(flow, SMALL), warp(image, flow, SMALL)
    for y, x in ((3, 5), (11, 11), (0, 22), (19, 8)):
        u, v = np.clip([x + w[y, x, 0], y + w[y, x, 1]], 0, 22)
        x0, y0 = int(min(u, 21)), int(min(v, 21))
        corner = image[y0 : y0 + 2, x0 : x0 + 2].astype(float)
        by_y, by_x = np.array([1 - (v - y0), v - y0]), np.array([1 - (u - x0), u - x0])
        expected = np.einsum("i,j,ijc->c", by_y, by_x, corner)
        assert np.abs(warped[y, x] - expected).max() <= 0.5 + 1e-9


def test_median_of_the_first_five_that_show_the_type():
    carried = np.zeros((7, 3, 2))
    carried[:, 0] = np.array([[2, 3], [5, 7], [11, 13], [17, 19], [23, 29], [31, 37], [41, 43]])
    carried[:, 1] = carried[:, 0] + 100
    shown = np.ones((7, 3), bool)
    shown[:, 1] = [True, False, False, False, True, False, False]
    shown[:, 2] = False
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    predicted = predict_keypoints(carried, shown, order)
    np.testing.assert_array_equal(predicted[0], [23, 29])  # of 41, 31, 23, 17, 11
    np.testing.assert_array_equal(predicted[1], [112.5, 116])  # of 123 and 102; 129 and 103
    assert np.isnan(predicted[2]).all()
    np.testing.assert_array_equal(predict_keypoints(carried, shown, order, 2)[0], [36, 40])


def test_neighbours_that_do_not_show_the_type_are_walked_past_unless_strict():
    carried = np.array([[[2.0, 3]], [[5, 7]], [[11, 13]]])
    shown = np.array([[False], [True], [True]])
    order = np.arange(3)
    np.testing.assert_array_equal(predict_keypoints(carried, shown, order, 2), [[8, 10]])
    np.testing.assert_array_equal(
        predict_keypoints(carried, shown, order, 2, strict=True), [[5, 7]]
    )
    assert np.isnan(predict_keypoints(carried, shown, order, 1, strict=True)).all()


def test_no_neighbours_predict_nothing():
    predicted = predict_keypoints(np.zeros((0, 4, 2)), np.zeros((0, 4), bool), np.zeros(0, int))
    assert np.isnan(predicted).all()
    assert predicted.shape == (4, 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_prediction_is_numpys_median_of_those_asked(seed, keep, strict):
    rng = np.random.default_rng(seed)
    n, types = rng.integers(0, 9), rng.integers(1, 5)
    carried = rng.normal(0, 100, (n, types, 2))
    carried[rng.random((n, types)) < 0.1] = np.nan
    shown, order = rng.random((n, types)) < 0.6, rng.permutation(n)
    predicted = predict_keypoints(carried, shown, order, keep, strict=strict)
    for k in range(types):
        asked = [i for i in (order[:keep] if strict else order)]
        asked = [i for i in asked if shown[i, k] and not np.isnan(carried[i, k]).any()][:keep]
        wanted = np.median(carried[asked, k], axis=0) if asked else np.full(2, np.nan)
        np.testing.assert_array_equal(predicted[k], wanted)


def test_order_is_by_key_then_rank():
    key = np.array([3.0, 1.0, 3.0, 2.0, 1.0])
    np.testing.assert_array_equal(order_by(key, np.array([4, 3, 0, 1, 2])), [4, 1, 3, 2, 0])


def test_bad_input_is_refused():
    flow = constant_flow(SMALL, 0, 0)
    with pytest.raises(ValueError, match=r"displacement must be \(5, 5, 2\)"):
        upsample(flow[:4], SMALL)
    with pytest.raises(ValueError, match=r"points must be \(K, 2\)"):
        carry(np.zeros(2), flow, SMALL)
    with pytest.raises(ValueError, match="uint8"):
        warp(np.zeros((23, 23, 3), np.float32), flow, SMALL)
    with pytest.raises(ValueError, match="carried, shown, order"):
        predict_keypoints(np.zeros((2, 3, 2)), np.zeros((2, 2), bool), np.arange(2))
    with pytest.raises(ValueError, match="keep"):
        predict_keypoints(np.zeros((2, 3, 2)), np.zeros((2, 3), bool), np.arange(2), 0)
    with pytest.raises(ValueError, match="key and rank"):
        order_by(np.zeros(2), np.zeros(3))

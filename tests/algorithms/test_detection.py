"""The prior, its product with scores, maxima and the choice of eta, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import detection, windows
from distcorr.types import Geometry

CENTRES = windows.positions(Geometry(500, 16, 17.0, 163, 30), 3)


def test_the_neighbour_is_the_nearest_that_shows_the_keypoint():
    rng = np.random.default_rng(0)
    base, queries = (rng.normal(size=(n, 6)).astype(np.float32) for n in (12, 5))
    points = rng.uniform(0, 499, (12, 4, 2))
    points[rng.random((12, 4)) < 0.6] = np.nan
    points[:, 3] = np.nan  # nobody shows it
    exclude = [rng.choice(12, size, replace=False) for size in (0, 1, 4, 11, 12)]
    for banned in (None, exclude):
        found = detection.neighbour_keypoints(base, points, queries, banned)
        for i, k in np.ndindex(5, 4):
            best, expected = -np.inf, np.full(2, np.nan)
            for j in range(12):
                cosine = base[j] @ queries[i] / np.linalg.norm(base[j])
                ruled_out = banned is not None and j in banned[i]
                if cosine > best and not ruled_out and not np.isnan(points[j, k]).any():
                    best, expected = cosine, points[j, k]
            np.testing.assert_array_equal(found[i, k], expected)
    alike = detection.neighbour_keypoints(np.ones((3, 2), np.float32), points[:3], np.ones((1, 2)))
    for k in range(3):
        shown = [p for p in points[:3, k] if not np.isnan(p).any()]
        if shown:
            np.testing.assert_array_equal(alike[0, k], shown[0])  # ties: the lower index
    assert detection.neighbour_keypoints(base, points, queries[:0]).shape == (0, 4, 2)


def test_the_prior_is_a_gaussian_and_1_where_nobody_shows_the_keypoint():
    means = np.array([[[33, 33], [np.nan, np.nan]]], float)
    p = np.exp(detection.log_prior(means, CENTRES))
    assert p[0, 0, 0, 0] == 1
    assert p[0, 0, 2, 1] == pytest.approx(np.exp(-(16**2 + 32**2) / (2 * 22**2)))
    np.testing.assert_array_equal(p[0, 1], 1)
    with pytest.raises(ValueError, match="sigma"):
        detection.log_prior(means, CENTRES, 0)


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.5, 1.0])
def test_responses_are_the_papers_product(eta):
    rng = np.random.default_rng(1)
    s = rng.normal(size=(2, 3, 28, 28)).astype(np.float32)
    prior = detection.log_prior(rng.uniform(100, 400, (2, 3, 2)), CENTRES)
    product = (1 / (1 + np.exp(-s.astype(float)))) ** (1 - eta) * np.exp(prior) ** eta
    np.testing.assert_allclose(np.exp(detection.combine(s, prior, eta)), product, rtol=1e-9)


def test_responses_survive_extreme_scores():
    s = np.array([-np.inf, -1e4, 0, 1e4], np.float32).reshape(1, 1, 2, 2)
    prior = np.zeros((1, 1, 2, 2))
    found = detection.combine(s, prior, 0.5).ravel()
    np.testing.assert_allclose(found, [-np.inf, -5e3, -0.5 * np.log(2), 0])
    np.testing.assert_array_equal(detection.combine(s, prior, 1.0), 0)
    for eta in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="0 to 1"):
            detection.combine(s, prior, eta)


def test_the_ends_of_eta_are_the_detector_alone_and_the_prior_alone():
    rng = np.random.default_rng(2)
    s = rng.normal(size=(3, 2, 28, 28)).astype(np.float32)
    prior = detection.log_prior(
        CENTRES[rng.integers(0, 28, (3, 2)), rng.integers(0, 28, (3, 2))], CENTRES
    )
    alone = detection.locate(s, CENTRES)
    np.testing.assert_array_equal(detection.locate(detection.combine(s, prior, 0), CENTRES), alone)
    best = CENTRES.reshape(-1, 2)[prior.reshape(3, 2, -1).argmax(-1)]
    np.testing.assert_array_equal(detection.locate(detection.combine(s, prior, 1), CENTRES), best)


def test_the_first_of_equal_responses_wins_and_none_is_nan():
    responses = np.zeros((1, 4, 28, 28))
    responses[0, 1, 5, 7] = responses[0, 1, 5, 9] = responses[0, 1, 6, 0] = 1
    responses[0, 2] = -np.inf
    responses[0, 3, 4, 4] = np.nan
    for refine in (False, True):
        found = detection.locate(responses, CENTRES, refine)
        np.testing.assert_array_equal(found[0, 0], [33, 33])
        np.testing.assert_array_equal(found[0, 1], CENTRES[5, 7])
        assert np.isnan(found[0, 2:]).all()


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(45, 453),
    y=st.floats(45, 453),
    width=st.floats(20, 80),
    height=st.floats(0.1, 10),
)
def test_a_paraboloid_is_located_exactly(x, y, width, height):
    away = np.square((CENTRES - [x, y]) / [width, 1.5 * width]).sum(-1)
    responses = (3 - height * away)[None, None]
    coarse = detection.locate(responses, CENTRES)[0, 0]
    fine = detection.locate(responses, CENTRES, refine=True)[0, 0]
    np.testing.assert_allclose(fine, [x, y], atol=1e-4)
    assert (np.abs(fine - coarse) <= 8 + 1e-9).all()


def test_refining_stays_within_half_a_stride_and_in_the_grid():
    rng = np.random.default_rng(3)
    responses = rng.normal(size=(40, 3, 28, 28)).astype(np.float32)
    responses[0, 0, 0, 0] = responses[1, 1, 27, 27] = 9  # corners
    responses[2, 2, 3, 2:5] = [-np.inf, 8, -np.inf]
    coarse = detection.locate(responses, CENTRES)
    fine = detection.locate(responses, CENTRES, refine=True)
    assert np.isfinite(fine).all()
    assert (np.abs(fine - coarse) <= 8).all()
    np.testing.assert_array_equal(fine[[0, 1], [0, 1]], coarse[[0, 1], [0, 1]])
    assert fine[2, 2, 0] == coarse[2, 2, 0]
    lone = detection.locate(responses[:, :, :1, :1], CENTRES[:1, :1], refine=True)
    np.testing.assert_array_equal(lone, np.broadcast_to(CENTRES[0, 0], lone.shape))


def test_eta_is_that_of_the_highest_mean_pck_over_folds():
    rng = np.random.default_rng(4)
    etas, folds = [0.3, 0.1, 0.2, 0.0], np.arange(12) % 3
    truth = rng.uniform(50, 450, (12, 5, 2))
    truth[rng.random((12, 5)) < 0.3] = np.nan
    truth[folds == 0, 4] = np.nan  # a fold that does not show a keypoint
    predicted = (
        truth + rng.normal(size=(4, 12, 5, 2)) * np.array([60, 20, 20, 90])[:, None, None, None]
    )
    predicted[2] = predicted[1]
    predicted[0, 3] = np.nan
    pixels, scale = rng.uniform(0.2, 2, (12, 2)), rng.uniform(100, 500, 12)
    made = detection.choose_eta(etas, predicted, truth, pixels, scale, folds)
    for e, f in np.ndindex(4, 3):
        shares = []
        for k in range(5):
            right = [
                np.linalg.norm((predicted[e, i, k] - truth[i, k]) * pixels[i]) <= 0.1 * scale[i]
                for i in np.flatnonzero(folds == f)
                if not np.isnan(truth[i, k]).any()
            ]
            shares += [np.mean(right)] if right else []
        assert made.pck[e, f] == pytest.approx(np.mean(shares))
    assert made.eta == 0.1  # as good as 0.2, and smaller
    with pytest.raises(ValueError, match="every eta"):
        detection.choose_eta([], predicted[:0], truth, pixels, scale, folds)
    with pytest.raises(ValueError, match="keypoint to predict"):
        detection.choose_eta(etas, predicted, truth * np.nan, pixels, scale, folds)

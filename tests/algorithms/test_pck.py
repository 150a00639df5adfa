"""PCK by hand, its invariances, and the bootstrap against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.pck import bootstrap, counts, interval, pck

ALPHAS = (0.025, 0.05, 0.1)


def random_points(seed, n=97, photographs=13, types=5):
    rng = np.random.default_rng(seed)
    distance = rng.exponential(10, n)
    distance[rng.random(n) < 0.1] = np.inf
    scale = rng.integers(50, 400, n).astype(float)
    return distance, scale, rng.integers(0, types, n), rng.integers(0, photographs, n)


def test_by_hand():
    # Type 0: 2 of 3 right; type 1: 0 of 2 (one is missing); type 2: never visible; type 3: 5 of 5.
    distance = np.array([7, 13, 11, np.inf, 17, 0, 1, 2, 3, 5], float)
    keypoint = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3, 3])
    photograph = np.array([0, 1, 1, 0, 2, 0, 0, 1, 2, 2])
    correct, total = counts(distance, np.full(10, 113.0), keypoint, photograph, (0.1, 0.01), 4)
    np.testing.assert_array_equal(total, [[1, 1, 0, 2], [2, 0, 0, 1], [0, 1, 0, 2]])
    np.testing.assert_array_equal(correct[0], [[1, 0, 0, 2], [1, 0, 0, 1], [0, 0, 0, 2]])
    np.testing.assert_array_equal(correct[1].sum(0), [0, 0, 0, 2])
    np.testing.assert_allclose(pck(correct, total), [(2 / 3 + 0 + 1) / 3, (2 / 5) / 3])
    assert correct.dtype == total.dtype == np.int64


def test_an_exact_tie_counts_only_within():
    arguments = (np.array([25.0]), np.array([100.0]), np.array([0]), np.array([0]), (0.25,), 1)
    assert counts(*arguments)[0].sum() == 1
    assert counts(*arguments, le=False)[0].sum() == 0


def test_a_missing_prediction_is_wrong_at_any_tolerance():
    zero = np.array([0])
    correct, total = counts(np.array([np.inf]), np.array([1e300]), zero, zero, (1e5,), 1)
    assert (correct.sum(), total.sum()) == (0, 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_any_partition_into_shards_sums_to_the_whole(seed, shards):
    points = random_points(seed)
    whole = counts(*points, ALPHAS, 5, n_photographs=13)
    shard = np.random.default_rng(seed).integers(0, shards, len(points[0]))
    parts = [
        counts(*(a[shard == s] for a in points), ALPHAS, 5, n_photographs=13) for s in range(shards)
    ]
    for i in (0, 1):
        np.testing.assert_array_equal(sum(p[i] for p in parts), whole[i])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_neither_units_nor_the_order_of_points_matter(seed):
    distance, scale, keypoint, photograph = random_points(seed)
    expected = counts(distance, scale, keypoint, photograph, ALPHAS, 5)
    shuffle = np.random.default_rng(seed).permutation(len(distance))
    scaled = (4 * distance, 4 * scale, keypoint, photograph)
    for points in (scaled, tuple(a[shuffle] for a in scaled)):
        for got, want in zip(counts(*points, ALPHAS, 5), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_bootstrap_is_the_plain_loop_with_the_same_weights():
    correct, total = counts(*random_points(3, n=29, photographs=7), ALPHAS, 5)
    photographs = len(total)
    samples = bootstrap(correct, total, resamples=50, seed=17)
    share = np.full(photographs, 1 / photographs)
    draws = np.random.default_rng(17).multinomial(photographs, share, size=50)
    for r, weights in enumerate(draws):
        for a in range(len(ALPHAS)):
            accuracies = []
            for k in range(5):
                seen = sum(int(w) * int(total[p, k]) for p, w in enumerate(weights))
                right = sum(int(w) * int(correct[a, p, k]) for p, w in enumerate(weights))
                if seen:
                    accuracies.append(right / seen)
            assert samples[a, r] == pytest.approx(sum(accuracies) / len(accuracies), abs=1e-12)


def test_bootstrap_repeats_and_centres_on_the_estimate():
    correct, total = counts(*random_points(5, n=2000, photographs=200), ALPHAS, 5)
    samples = bootstrap(correct, total, resamples=500, seed=1)
    np.testing.assert_array_equal(samples, bootstrap(correct, total, resamples=500, seed=[1]))
    assert (samples != bootstrap(correct, total, resamples=500, seed=2)).any()
    estimate = pck(correct, total)
    np.testing.assert_allclose(samples.mean(axis=1), estimate, atol=0.01)
    low, high = interval(samples)
    assert (low < estimate).all()
    assert (estimate < high).all()


def test_one_photograph_has_no_spread():
    correct, total = counts(*random_points(7, photographs=1), ALPHAS, 5)
    low, high = interval(bootstrap(correct, total, resamples=10, seed=0))
    np.testing.assert_allclose(low, pck(correct, total))
    np.testing.assert_allclose(high, pck(correct, total))


def test_nothing_to_score_is_nan():
    none = np.zeros(0)
    correct, total = counts(none, none, none.astype(int), none.astype(int), ALPHAS, 3)
    assert total.shape == (0, 3)
    assert np.isnan(pck(correct, total)).all()
    samples = bootstrap(correct, total, resamples=4, seed=0)
    assert samples.shape == (3, 4)
    assert np.isnan(samples).all()
    assert np.isnan(interval(samples)).all()


def test_interval_is_the_central_share():
    low, high = interval(np.arange(101.0), level=0.9)
    assert (low, high) == (pytest.approx(5), pytest.approx(95))
    low, high = interval(np.array([[1, np.nan, 3], [2, 2, 2]]), level=0.5)
    np.testing.assert_allclose(low, [1.5, 2])
    np.testing.assert_allclose(high, [2.5, 2])


def test_bad_input_is_refused():
    one, index = np.ones(1), np.zeros(1, int)
    with pytest.raises(ValueError, match=r"must be \(n,\)"):
        counts(np.ones(2), one, index, index, ALPHAS, 1)
    with pytest.raises(ValueError, match="keypoint must lie in 0 to 0"):
        counts(one, one, index + 1, index, ALPHAS, 1)
    with pytest.raises(ValueError, match="photograph must lie in"):
        counts(one, one, index, index - 1, ALPHAS, 1)
    with pytest.raises(ValueError, match="distance"):
        counts(one * np.nan, one, index, index, ALPHAS, 1)
    with pytest.raises(ValueError, match="scale"):
        counts(one, one * np.inf, index, index, ALPHAS, 1)
    with pytest.raises(ValueError, match="alphas"):
        counts(one, one, index, index, (-0.1,), 1)
    correct, total = counts(one, one, index, index, ALPHAS, 1)
    with pytest.raises(ValueError, match="correct and total"):
        pck(correct[:, :, 0], total)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap(correct, total, resamples=0, seed=0)
    with pytest.raises(ValueError, match="level"):
        interval(np.ones(3), 1.0)
    with pytest.raises(ValueError, match="samples"):
        interval(np.ones((3, 0)))

"""Paired tests against enumeration, scipy, and data sets drawn from what they assume."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distcorr.algorithms import pck
from distcorr.algorithms.comparison import contributions, detectable, holm, over_categories
from distcorr.algorithms.comparison import swap_test as p_values

seeds = st.integers(0, 2**32 - 1)


def random_counts(seed, photographs=7, types=4, settings=3, most=3):
    """Correct predictions of two methods (A, P, K), and how many there are (P, K)."""
    rng = np.random.default_rng(seed)
    total = rng.integers(0, most + 1, (photographs, types))
    total[0, 0] = 1
    one, other = rng.binomial(total, rng.random((2, settings, 1, 1)), (2, settings, *total.shape))
    return one, other, total


# -- terms -------------------------------------------------------------------------------------


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_terms_add_up_to_the_difference(seed):
    one, other, total = random_counts(seed)
    added = contributions(one, other, total)
    assert added.shape == (3, 7)
    difference = pck.pck(one, total) - pck.pck(other, total)
    np.testing.assert_allclose(added.sum(axis=1), difference, atol=1e-12)
    np.testing.assert_allclose(contributions(other, one, total), -added)


def test_terms_by_hand():
    # Type 0 is shown twice, type 1 never, type 2 once: a keypoint of type 0 is worth 1/4.
    total = np.array([[1, 0, 0], [1, 0, 1]])
    one, other = np.array([[[1, 0, 0], [0, 0, 1]]]), np.array([[[0, 0, 0], [1, 0, 0]]])
    np.testing.assert_allclose(contributions(one, other, total), [[0.25, 0.25]])


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_terms_of_the_mean_over_categories(seed):
    rng = np.random.default_rng(seed)
    counted = [random_counts([seed, c], photographs=3 + c) for c in range(3)]
    shown = [rng.permutation(6)[: 3 + c] for c in range(3)]
    parts = [contributions(*each) for each in counted]
    added = over_categories(parts, shown, 6)
    differences = [pck.pck(one, n) - pck.pck(other, n) for one, other, n in counted]
    np.testing.assert_allclose(added.sum(axis=1), np.mean(differences, axis=0), atol=1e-12)
    for photograph in range(6):
        own = [part[:, which == photograph].sum(axis=1) for part, which in zip(parts, shown)]  # noqa: B905
        np.testing.assert_allclose(added[:, photograph], np.sum(own, axis=0) / 3, atol=1e-12)


# -- the permutation test ----------------------------------------------------------------------


def by_swapping(one, other, total):
    """(A,) p by PCK of every one of the 2^P ways to swap the counts of two methods."""
    found = pck.pck(one, total) - pck.pck(other, total)
    reached = np.zeros(len(found))
    for swapped in itertools.product((False, True), repeat=len(total)):
        swap = np.array(swapped)[None, :, None]
        a, b = np.where(swap, other, one), np.where(swap, one, other)
        reached += abs(pck.pck(a, total) - pck.pck(b, total)) >= abs(found) - 1e-12
    return reached / 2 ** len(total)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_is_exact_for_few_photographs(seed):
    one, other, total = random_counts(seed)
    p = p_values(contributions(one, other, total), seed=0)
    np.testing.assert_allclose(p, by_swapping(one, other, total), atol=1e-12)


def test_of_the_mean_swaps_a_photograph_in_all_its_categories():
    a, b = np.array([[0.5, 0.25]]), np.array([[0.5, -0.125]])
    p = p_values(over_categories([a, b], [np.array([0, 1]), np.array([0, 2])], 3), seed=0)
    # Terms 1/2, 1/8, -1/16, whose sum is 9/16: only 11/16 and 9/16, of either sign, are as far.
    assert p == pytest.approx(4 / 8)


@given(seeds, st.integers(2, 9))
@settings(max_examples=30, deadline=None)
def test_is_what_scipy_finds(seed, photographs):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-8, 9, (2, photographs)) / 8
    expected = stats.permutation_test(
        (x, y),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert p_values((x - y)[None], seed=0)[0] == pytest.approx(expected.pvalue)


def test_random_swaps_come_close_to_all_swaps():
    rng = np.random.default_rng(3)
    added = rng.normal(0.2, 1, (4, 14))
    signs = np.array(list(itertools.product((1, -1), repeat=14)))
    exact = (abs(signs @ added.T) >= abs(added.sum(axis=1)) - 1e-9).mean(axis=0)
    assert not set(exact * 2**14) & {0}
    sampled = p_values(added, seed=5)  # 2^14 are more than 10,000
    np.testing.assert_allclose(p_values(added, permutations=2**14, seed=5), exact, atol=1e-12)
    error = np.sqrt(exact * (1 - exact) / 10_000)
    assert (sampled != exact).any()
    assert (abs(sampled - exact) < 4 * error + 1e-4).all()


def test_random_swaps_are_counted_with_the_one_that_is():
    added = np.full((1, 60), 1.0)  # no random swap comes near all 60 alike
    assert p_values(added, permutations=99, seed=0) == pytest.approx(1 / 100)


def test_photographs_that_do_not_differ_do_not_matter():
    added = np.zeros((2, 400))
    added[0, [3, 90, 301]] = 1, 1, 0.5
    np.testing.assert_allclose(p_values(added, seed=0), [2 / 8, 1])


def test_ties_are_not_decided_by_rounding():
    # All 2^20 sums of twenty terms of 1/10 are ties of some other, but for the two ends.
    added = np.full((1, 20), 0.1)
    added[0, :4] = -0.1
    p = p_values(added, seed=0)[0]
    assert p == pytest.approx(stats.binomtest(16, 20).pvalue, abs=0.002)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_p_does_not_depend_on_the_other_rows_nor_on_which_is_which(seed):
    added = np.random.default_rng(seed).normal(0.1, 1, (5, 40))
    added[1, 6:] = 0  # exact
    p = p_values(added, permutations=500, seed=[seed, 1])
    for row in range(5):
        assert p_values(added[[row]], permutations=500, seed=[seed, 1]) == p[row]
    np.testing.assert_array_equal(p_values(-added, permutations=500, seed=[seed, 1]), p)
    np.testing.assert_array_equal(p_values(8 * added, permutations=500, seed=[seed, 1]), p)


def test_p_does_not_depend_on_how_many_swaps_are_held_at_once(monkeypatch):
    added = np.random.default_rng(1).normal(0.1, 1, (2, 64))
    whole = p_values(added, permutations=300, seed=2)
    monkeypatch.setattr("distcorr.algorithms.comparison._AT_ONCE", 7 * 64)
    np.testing.assert_array_equal(p_values(added, permutations=300, seed=2), whole)


def simulated(seed, photographs, types, chance, better=0.0):
    """Two methods whose results share how hard a photograph is; one is right more often."""
    rng = np.random.default_rng(seed)
    total = rng.integers(1, 3, (photographs, types))
    hard = rng.normal(0, 0.15, (photographs, 1))
    rates = np.clip(np.stack([chance + better + hard, chance + hard]), 0, 1)
    one, other = rng.binomial(total, rates)[:, None]
    return one, other, total


def test_under_the_null_p_is_uniform():
    p = np.array(
        [
            p_values(contributions(*simulated([7, n], 40, 5, 0.5)), permutations=400, seed=n)[0]
            for n in range(400)
        ]
    )
    assert stats.kstest(p, "uniform").pvalue > 0.05
    for level in (0.01, 0.05, 0.2):  # a test of level l rejects l of them
        assert stats.binomtest(int((p <= level).sum()), 400, level).pvalue > 0.01


# -- what could be found -----------------------------------------------------------------------


def test_the_detectable_difference_is_found_four_times_out_of_five():
    mdds = []
    for n in range(30):  # one estimate scatters by 7 %
        one, other, total = simulated([11, n], 120, 5, 0.5, better=0.03)
        drawn = [pck.bootstrap(each, total, resamples=400, seed=1) for each in (one, other)]
        mdds.append(detectable(drawn[0] - drawn[1])[0])
    mdd = np.mean(mdds)
    found, values = 0, []
    for n in range(400):
        added = contributions(*simulated([13, n], 120, 5, 0.5, better=mdd))
        values.append(added.sum())
        found += p_values(added, permutations=400, seed=n)[0] <= 0.05
    assert np.mean(values) == pytest.approx(mdd, abs=0.004)
    assert np.std(values) * 2.8016 == pytest.approx(mdd, rel=0.1)
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_detectable_by_hand():
    samples = np.array([[0.0, 0.1, 0.2], [0.5, 0.5, 0.5], [np.nan, -0.1, 0.1]])
    z = stats.norm.ppf
    factor = z(0.975) + z(0.8)
    assert factor == pytest.approx(2.8016, abs=1e-4)
    expected = [0.1 * factor, np.nan, 0.1 * np.sqrt(2) * factor]
    np.testing.assert_allclose(detectable(samples), expected)
    harder = z(0.995) + z(0.9)
    np.testing.assert_allclose(detectable(samples[0], power=0.9, level=0.01), 0.1 * harder)
    assert np.isnan(detectable(np.full(3, np.nan)))


# -- many tests --------------------------------------------------------------------------------


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 raised to 0.06.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.4]), [0.8, 0.8])
    np.testing.assert_allclose(holm([0.2]), [0.2])
    assert holm([]).shape == (0,)


def step_down(p, level):
    """Which are rejected at a level, as Holm writes it: one by one, until the first is not."""
    rejected = [False] * len(p)
    for done, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - done) > level:
            break
        rejected[i] = True
    return rejected


@given(st.lists(st.integers(0, 64), min_size=1, max_size=12), st.integers(0, 63))
def test_holm_rejects_what_the_step_down_procedure_rejects(sixtyfourths, level):
    p = np.array(sixtyfourths) / 64
    np.testing.assert_array_equal(holm(p) <= level / 64, step_down(p, level / 64))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), seeds)
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(values, seed):
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, len(p) * p) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()
    shuffle = np.random.default_rng(seed).permutation(len(p))
    np.testing.assert_array_equal(holm(p[shuffle]), adjusted[shuffle])


def test_holm_of_rows_and_of_tests_that_were_not_made():
    p = np.array([[0.01, np.nan, 0.04], [0.5, 0.02, 0.03], [np.nan] * 3])
    expected = [[0.02, np.nan, 0.04], [0.5, 0.06, 0.06], [np.nan] * 3]
    np.testing.assert_allclose(holm(p), expected)


def test_holm_makes_few_false_findings():
    """Twelve categories without a difference: at most 1 family in 20 has any finding."""
    p = np.array(
        [
            [
                p_values(contributions(*simulated([17, n, c], 12, 3, 0.6)), seed=0)[0]
                for c in range(12)
            ]
            for n in range(150)
        ]
    )
    uncorrected, corrected = (each.min(axis=1) <= 0.05 for each in (p, holm(p)))
    assert uncorrected.mean() > 0.25
    assert stats.binomtest(int(corrected.sum()), 150, 0.05, alternative="greater").pvalue > 0.01


# -- faults ------------------------------------------------------------------------------------


def test_faults():
    one, other, total = random_counts(1)
    for wrong in ((one[0], other, total), (one, other[:2], total), (one, other, total[:3])):
        with pytest.raises(ValueError, match=r"must be \(A, P, K\) twice and \(P, K\), got"):
            contributions(*wrong)
    with pytest.raises(ValueError, match="other must lie in 0 to total"):
        contributions(one, other + 9, total)
    with pytest.raises(ValueError, match="at least one keypoint"):
        contributions(0 * one, 0 * other, 0 * total)
    for parts, shown in (([], []), ([np.ones((1, 2))], [np.arange(3)])):
        with pytest.raises(ValueError, match="photographs' numbers"):
            over_categories(parts, shown, 5)
    for wrong in (np.ones(3), np.full((1, 3), np.nan)):
        with pytest.raises(ValueError, match=r"\(A, P\) and finite"):
            p_values(wrong, seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        p_values(np.ones((1, 3)), permutations=0, seed=0)
    with pytest.raises(ValueError, match="0 to 1"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1 and 0\.05"):
        detectable(np.ones(3), power=1)

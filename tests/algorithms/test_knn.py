"""Nearest neighbours against a sort of all cosines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.knn import cosine_topk


def brute_force(base, queries, k, exclude):
    """Sorted by (zero vectors last, -cosine, index), padded with -1 and NaN."""
    indices = np.full((len(queries), k), -1)
    cosines = np.full((len(queries), k), np.nan, np.float32)
    for q, query in enumerate(queries.astype(float)):
        keys = []
        for i, row in enumerate(base.astype(float)):
            if i not in exclude[q]:
                norms = np.sqrt((row**2).sum()) * np.sqrt((query**2).sum())
                cosine = np.float32((row * query).sum() / norms) if norms else np.float32(0)
                keys.append((not row.any(), -cosine, i))
        for r, (_, negative, i) in enumerate(sorted(keys)[:k]):
            indices[q, r], cosines[q, r] = i, -negative
    return indices, cosines


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.booleans())
@settings(max_examples=150, deadline=None)
def test_equals_brute_force_with_ties_duplicates_and_exclusions(seed, n, k, sparse):
    rng = np.random.default_rng(seed)
    width = 2 if sparse else 3  # few values, so that rows repeat and cosines tie
    base = rng.integers(0 if sparse else -1, 2, (n, width)).astype(np.float32)
    queries = rng.integers(-1, 2, (5, width)).astype(np.float32)
    exclude = [rng.choice(n, rng.integers(0, n + 1), replace=False) for _ in queries]
    indices, cosines = cosine_topk(base, queries, k, exclude)
    expected, values = brute_force(base, queries, k, exclude)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, values, atol=1e-6)
    assert indices.dtype == np.intp
    assert cosines.dtype == np.float32


def test_random_features():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(300, 64)).astype(np.float32)
    queries = rng.normal(size=(11, 64)).astype(np.float32)
    indices, cosines = cosine_topk(base, queries, 25)
    expected, values = brute_force(base, queries, 25, [()] * 11)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, values, atol=1e-6)


def test_many_identical_rows_come_by_index_even_when_the_boundary_cuts_them():
    rng = np.random.default_rng(1)
    base = np.repeat(rng.normal(size=(4, 33)), 100, axis=0).astype(np.float32)
    base = base[rng.permutation(400)]
    indices, _ = cosine_topk(base, base[:7], 130, [np.array([i]) for i in range(7)])
    for i, found in enumerate(indices):
        same = np.flatnonzero((base == base[i]).all(1))
        np.testing.assert_array_equal(found[:99], same[same != i])
        assert (np.diff(found[99:]) > 0).all()


def test_zero_vectors_come_last_even_behind_negative_cosines():
    base = np.array([[0, 0], [-1, 0], [0, 0], [1, 0]], np.float32)
    indices, cosines = cosine_topk(base, np.array([[2, 0]], np.float32), 5)
    np.testing.assert_array_equal(indices, [[3, 1, 0, 2, -1]])
    np.testing.assert_array_equal(cosines, [[1, -1, 0, 0, np.nan]])


def test_an_empty_base_gives_padding():
    indices, cosines = cosine_topk(np.zeros((0, 3), np.float32), np.ones((2, 3), np.float32), 2)
    assert (indices == -1).all()
    assert np.isnan(cosines).all()


@pytest.mark.parametrize(
    ("base", "queries", "k", "exclude", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1, None, "must be"),
        (np.ones((2, 3)), np.ones(3), 1, None, "must be"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, None, "k must be"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), 1, None, "finite"),
        (np.ones((2, 3)), np.ones((2, 3)), 1, [np.array([0])], "name 2 queries"),
        (np.ones((2, 3)), np.ones((1, 3)), 1, [np.array([2])], "rows of base"),
    ],
)
def test_bad_input_is_refused(base, queries, k, exclude, message):
    with pytest.raises(ValueError, match=message):
        cosine_topk(base, queries, k, exclude)

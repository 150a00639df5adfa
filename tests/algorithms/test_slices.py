"""Sizes by hand, and counts of slices that are those of the whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import pck
from distcorr.algorithms.slices import (
    SIZES,
    TRUNCATION,
    counts_by_slice,
    size_class,
    terciles,
    truncation,
)

seeds = st.integers(0, 2**32 - 1)


def test_thirds():
    sizes = [10, 60, 20, 50, 30, 40]
    edges = terciles(sizes)
    assert edges.tolist() == [20, 40]
    assert [SIZES[s] for s in size_class(sizes, edges)] == [
        *("small", "large", "small", "large", "medium", "medium")
    ]
    assert size_class([1, 20, 20.5, 40, 41, 1e9], edges).tolist() == [0, 0, 1, 1, 2, 2]


def test_equal_sizes_are_of_one_class():
    assert set(size_class([7, 7, 7], terciles([7, 7, 7])).tolist()) == {0}
    assert size_class([5], terciles([5])).tolist() == [0]


def test_truncation_is_what_the_annotations_say():
    assert [TRUNCATION[n] for n in truncation([True, None, False])] == [
        *("truncated", "unknown", "whole")
    ]
    assert truncation([]).tolist() == []


@given(st.lists(st.integers(1, 500), min_size=3, max_size=80, unique=True))
def test_thirds_are_thirds_where_no_sizes_tie(sizes):
    found = np.bincount(size_class(sizes, terciles(sizes)), minlength=3)
    assert (abs(found - len(sizes) / 3) < 1).all()


def random_points(seed, n=80, photographs=9, types=4):
    rng = np.random.default_rng(seed)
    distance = rng.exponential(10, n)
    distance[rng.random(n) < 0.1] = np.inf
    scale = rng.integers(50, 400, n).astype(float)
    keypoint, photograph = rng.integers(0, types, n), rng.integers(0, photographs, n)
    return distance, scale, keypoint, photograph, rng.integers(0, 3, n)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_slices_are_counted_apart_and_sum_to_the_whole(seed):
    *points, of = random_points(seed)
    found = counts_by_slice(*points, of, (0.1, 0.05), 4, 3)
    whole = pck.counts(*points, (0.1, 0.05), 4)
    for number, (correct, total) in enumerate(found):
        mine = of == number
        expected = pck.pck(*pck.counts(*(a[mine] for a in points), (0.1, 0.05), 4))
        np.testing.assert_allclose(pck.pck(correct, total), expected)
        assert total.shape == (len(set(points[3][mine].tolist())), 4)
        assert total.any(axis=1).all()
    for which in (0, 1):
        parts = sum(each[which].sum(axis=-2) for each in found)
        np.testing.assert_array_equal(parts, whole[which].sum(axis=-2))


def test_an_empty_slice_has_no_photographs():
    *points, of = random_points(1)
    small, none = counts_by_slice(*points, 0 * of, (0.1,), 4, 2)
    assert small[1].sum() == 80
    assert none[1].shape == (0, 4)
    assert np.isnan(pck.pck(*none)).all()
    assert np.isnan(pck.bootstrap(*none, resamples=3, seed=0)).all()


def test_thresholds_may_be_strict():
    one = np.array([1])
    points = (np.array([25.0]), np.array([100.0]), 0 * one, 0 * one, 0 * one, (0.25,), 1, 1)
    assert counts_by_slice(*points)[0][0].sum() == 1
    assert counts_by_slice(*points, le=False)[0][0].sum() == 0


def test_faults():
    *points, of = random_points(1)
    with pytest.raises(ValueError, match="slice_of must lie in 0 to 1, got 0 to 2"):
        counts_by_slice(*points, of, (0.1,), 4, 2)
    with pytest.raises(ValueError, match=r"slice_of must be \(n,\)"):
        counts_by_slice(*points, of[1:], (0.1,), 4, 3)
    for wrong in ([], [1.0, np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="at least one and finite"):
            terciles(wrong)

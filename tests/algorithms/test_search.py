"""Search in parts against a sort of all cosines."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import search as module
from distcorr.algorithms.knn import cosine_topk
from distcorr.algorithms.search import Approximate, Found, Part, merge, recall, search

seeds = st.integers(0, 2**32 - 1)


def brute_force(part, queries, k, exclude):
    """Integer arithmetic: the rounded unit vectors as whole numbers, sorted by (-cosine, id)."""
    steps = np.rint(part.features.astype(float) * 2**24).astype(np.int64)
    unit = Part(queries, np.arange(len(queries)), np.zeros(len(queries), int))
    own = dict(zip(unit.ids, np.rint(unit.features.astype(float) * 2**24), strict=True))
    ids = np.full((len(queries), k), -1)
    cosines = np.full((len(queries), k), np.nan, np.float32)
    for q in range(len(queries)):
        if q not in own:
            continue
        keys = []
        for row, id_, photograph in zip(steps, part.ids, part.photographs, strict=True):
            if photograph not in exclude[q]:
                exact = sum(int(a) * int(b) for a, b in zip(row, own[q], strict=True))
                keys.append((-np.rint(exact / 2**24), id_))
        for r, (negative, id_) in enumerate(sorted(keys)[:k]):
            ids[q, r], cosines[q, r] = id_, -negative / 2**24
    return Found(ids, cosines)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.cosines, expected.cosines)
    assert found.ids.dtype == np.int64
    assert found.cosines.dtype == np.float32


def drawn(seed, n, m=5, width=3):
    """Few values, so that rows repeat, vanish, and cosines tie; ids with gaps."""
    rng = np.random.default_rng(seed)
    base = rng.integers(-1, 2, (n, width)).astype(np.float32)
    ids = np.sort(rng.choice(2**40, n, replace=False))
    queries = rng.integers(-1, 2, (m, width)).astype(np.float32)
    return base, ids, np.arange(n) // 4, queries, rng.integers(-1, n // 4 + 1, (m, 2))


@given(seeds, st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force_with_ties_zeros_and_exclusions(seed, n, k):
    base, ids, photographs, queries, exclude = drawn(seed, n)
    part = Part(base, ids, photographs)
    assert_same(search(part, queries, k, exclude), brute_force(part, queries, k, exclude))
    np.testing.assert_array_equal(part.zeros, ids[~base.any(1)])


@given(seeds, st.lists(st.integers(0, 700), max_size=4), st.integers(1, 9), st.booleans())
@settings(max_examples=30, deadline=None)
def test_neither_cuts_nor_batches_nor_floors_change_the_answer(seed, cuts, k, floors):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(700, 19)).astype(np.float32)
    base[rng.integers(0, 700, 300)] = base[rng.integers(0, 9, 300)]
    ids, photographs = np.arange(700) * 3, np.arange(700) // 50
    queries = np.concatenate([base[:4], rng.normal(size=(5, 19)), np.zeros((1, 19))])
    exclude = rng.integers(-1, 14, (10, 2))
    whole = search(Part(base, ids, photographs), queries, k, exclude)
    found, floor = [], None
    for at in np.split(np.arange(700), sorted(cuts)):
        part = Part(base[at], ids[at], photographs[at])
        batches = [
            search(part, queries[b], k, exclude[b], None if floor is None else floor[b])
            for b in np.array_split(np.arange(10), rng.integers(1, 10))
        ]
        found.append(Found(*map(np.concatenate, zip(*batches, strict=True))))
        if floors:
            floor = merge(found, k).cosines[:, -1]
    assert_same(merge(found, k), whole)
    assert_same(merge(found[::-1], k), whole)


@pytest.mark.parametrize("k", [1, 7, 300])
def test_thousands_of_equal_or_nearly_equal_cells(k):
    rng = np.random.default_rng(0)
    base = np.ones((5000, 40), np.float32)
    base[::3] += rng.normal(scale=1e-6, size=base[::3].shape).astype(np.float32)
    part = Part(base, np.arange(5000), np.zeros(5000, int))
    queries = np.ones((1, 40)) + rng.normal(scale=0.1, size=(1, 40))
    assert_same(search(part, queries, k), brute_force(part, queries, k, [()]))


def test_similarity_that_rises_along_the_part():
    angle = np.linspace(3, 0.1, 4000)
    base = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = search(Part(base, np.arange(4000), np.zeros(4000, int)), np.array([[2.0, 0]]), 600)
    np.testing.assert_array_equal(found.ids, [np.arange(3999, 3399, -1)])
    np.testing.assert_allclose(found.cosines[0], np.cos(angle[:3399:-1]), atol=1.2e-7)


def test_agrees_with_the_search_of_rows():
    rng = np.random.default_rng(3)
    base, queries = rng.normal(size=(900, 64)), rng.normal(size=(30, 64))
    found = search(Part(base, np.arange(900), np.zeros(900, int)), queries, 25)
    indices, cosines = cosine_topk(base, queries, 25)
    np.testing.assert_array_equal(found.ids, indices)
    np.testing.assert_allclose(found.cosines, cosines, atol=1.2e-7)


def test_float64_sums_of_the_rounded_vectors_are_exact():
    rng = np.random.default_rng(1)
    base = np.maximum(rng.normal(size=(40, 384)), 0)
    unit = Part(base, np.arange(40), np.zeros(40, int)).features
    steps = np.rint(unit.astype(float) * 2**24)
    np.testing.assert_array_equal(unit * np.float64(2**24), steps)
    np.testing.assert_allclose(unit, base / np.linalg.norm(base, axis=1)[:, None], atol=6e-8)
    for a, b in itertools.combinations(range(12), 2):
        exact = sum(int(x) * int(y) for x, y in zip(steps[a], steps[b], strict=True))
        for order in (np.arange(384), rng.permutation(384)):
            total = 0.0
            for d in order:
                total += float(unit[a, d]) * float(unit[b, d])
            assert total * 2.0**48 == exact


def test_half_precision_is_scaled_to_norm_1_again():
    half = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float16)
    part = Part(half, np.arange(50), np.zeros(50, int))
    np.testing.assert_allclose(np.linalg.norm(part.features, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(search(part, half, 1).ids[:, 0], np.arange(50))


def test_few_proposals_at_a_time_give_the_same(monkeypatch):
    base, ids, photographs, queries, exclude = drawn(5, 60, m=9)
    part = Part(base, ids, photographs)
    expected = search(part, queries, 4, exclude)
    monkeypatch.setattr(module, "PROPOSALS", 1)
    monkeypatch.setattr(module, "TILE", 7)
    monkeypatch.setattr(module, "CACHED", 1)
    assert_same(search(part, queries, 4, exclude), expected)


@given(seeds, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_merging_is_associative_and_commutative(seed, k):
    rng = np.random.default_rng(seed)
    parts = []
    for n in range(3):
        keys = sorted((-rng.integers(0, 3), 3 * i + n) for i in range(rng.integers(0, 7)))
        ids, cosines = np.full((1, 7), -1), np.full((1, 7), np.nan, np.float32)
        for r, (negative, id_) in enumerate(keys):
            ids[0, r], cosines[0, r] = id_, -negative / 4
        parts.append(Found(ids, cosines))
    a, b, c = parts
    expected = merge([a, b, c], k)
    assert_same(merge([merge([a, b], k), c], k), expected)
    assert_same(merge([a, merge([c, b], k)], k), expected)
    pairs = [(-v, i) for p in parts for v, i in zip(p.cosines[0], p.ids[0], strict=True) if i >= 0]
    assert expected.ids[0].tolist() == ([i for _, i in sorted(pairs)] + [-1] * k)[:k]


def test_nothing_to_find():
    part = Part(np.zeros((3, 4), np.float32), np.arange(3), np.zeros(3, int))
    assert len(part) == 0
    found = search(part, np.ones((2, 4)), 3)
    assert (found.ids == -1).all()
    assert np.isnan(found.cosines).all()
    assert (Approximate(part).search(np.ones((2, 4)), 3).ids == -1).all()
    assert search(part, np.ones((0, 4)), 3).ids.shape == (0, 3)
    assert np.isnan(recall(found, found))


def test_an_approximate_index_finds_most_and_with_all_its_lists_everything():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2000, 16)).astype(np.float32)
    part = Part(base, np.arange(2000) * 2, np.arange(2000) // 40)
    queries = np.concatenate([rng.normal(size=(20, 16)), np.zeros((1, 16))])
    exclude = rng.integers(-1, 50, (21, 2))
    exact = search(part, queries, 10, exclude)
    index = Approximate(part, lists=20)
    assert_same(index.search(queries, 10, exclude, probes=20), exact)
    some = index.search(queries, 10, exclude, probes=4)
    assert 0.3 < recall(some, exact) < 1
    assert_same(Approximate(part, lists=20).search(queries, 10, exclude, probes=4), some)


def test_bad_input_is_refused():
    ids, photographs, rows = np.arange(2), np.zeros(2, int), np.ones((2, 3))
    part = Part(rows, ids, photographs)
    for bad, message in [
        (lambda: Part(rows, ids[:1], photographs), "as many"),
        (lambda: Part(rows, ids[::-1], photographs), "ascending"),
        (lambda: Part(rows, ids, photographs - 1), "negative"),
        (lambda: Part(rows * np.nan, ids, photographs), "finite"),
        (lambda: Part(rows[0, :2], ids, photographs), "n, D"),
        (lambda: search(part, rows, 0), "k must be"),
        (lambda: search(part, rows[:, :2], 1), "must be"),
        (lambda: search(part, rows * np.inf, 1), "finite"),
        (lambda: search(part, rows, 1, np.zeros((1, 1), int)), "exclude"),
        (lambda: merge([], 1), "same queries"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()

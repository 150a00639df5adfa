"""Near copies: closed cases, plain loops, and properties of the places that are compared."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.copies import FEWEST, SIDE, agreement, same_place, spread
from distcorr.algorithms.rebuild import every_cell
from distcorr.types import Geometry

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)


def grid_cells(rows, cols):
    return every_cell(*(Geometry(0, 16, 8.0, 16, n) for n in (rows, cols)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def waves(shift, side=SIDE, channels=24, seed=0):
    """(side^2, C) features of a picture of slow waves, seen ``shift`` cells to the right."""
    rng = np.random.default_rng(seed)
    frequency, phase = rng.normal(0, 0.8, (channels, 2)), rng.uniform(0, 2 * np.pi, channels)
    at = grid_cells(side, side) + [0, shift]
    return np.sin(at @ frequency.T + phase).astype(np.float32)


# -- agreement ---------------------------------------------------------------------------------


def by_loops(a, b):
    """Cosines one by one in float64; the first of equal ones."""
    right = 0
    for n, own in enumerate(a.astype(float)):
        scores = [own @ other / np.linalg.norm(other) if other.any() else 0.0 for other in b]
        right += bool(scores.index(max(scores)) == n and own.any() and b[n].any())
    return right / len(a)


@given(seeds, st.integers(FEWEST, 30), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_is_what_loops_find_with_ties_and_zeros(seed, n, channels):
    # Of norms that are powers of 2, so that neither sum nor quotient is rounded and ties are ties.
    rng = np.random.default_rng(seed)
    a, b = (rng.choice([0, 0, 1, -1, 2], (2, n, 1)) * np.eye(5)[rng.integers(0, 5, (2, n))])[
        ..., :channels
    ].astype(np.float32)
    assert agreement(a, b) == by_loops(a, b)


def test_of_a_picture_and_itself():
    a = noise(64, 48)
    assert agreement(a, a) == 1
    assert agreement(a, a[::-1]) == 0


def test_a_shift_by_a_part_of_a_cell_is_seen_through_and_by_two_cells_is_not():
    still = waves(0)
    assert agreement(still, waves(0.1)) > 0.95
    assert agreement(still, waves(0.3)) > 0.8
    assert agreement(still, waves(2.0)) < 0.1
    assert agreement(still, waves(0, seed=1)) < 0.1


def test_unrelated_pictures_agree_by_chance_only():
    """1 in 64; 200 pairs of 64 places are a binomial count."""
    hits = sum(64 * agreement(noise(64, 9, seed=n), noise(64, 9, seed=n + 999)) for n in range(200))
    expected, spread_of_it = 200.0, np.sqrt(200 * 64 * (1 / 64) * (63 / 64))
    assert abs(hits - expected) < 4 * spread_of_it


@pytest.mark.parametrize("kind", ["flat", "half flat"])
def test_flat_pictures_are_not_alike(kind):
    """All sky: every place looks like every other, and the first of them is best."""
    a = np.ones((64, 5), np.float32)
    if kind == "half flat":
        a[32:] = noise(32, 5)
        assert agreement(a, a) == pytest.approx(33 / 64)
    else:
        assert agreement(a, a) == 1 / 64


def test_a_place_without_features_agrees_with_none():
    a, b = noise(64, 7), noise(64, 7)
    assert agreement(a, b) == 1
    a[:10] = 0
    b[5:20] = 0
    assert agreement(a, b) == 44 / 64
    assert agreement(np.zeros((64, 7)), np.zeros((64, 7))) == 0


def test_too_few_places_say_nothing():
    a = noise(FEWEST, 20)
    assert agreement(a, a) == 1
    assert agreement(a[1:], a[1:]) == 0
    assert agreement(a[:0], a[:0]) == 0


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_brightness_and_the_order_of_places_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    a, b = noise(20, 6, seed=seed), noise(20, 6, seed=seed) + noise(20, 6, seed=seed + 1) / 2
    expected = agreement(a, b)
    scales = 2.0 ** rng.integers(-3, 4, (2, 20, 1)).astype(np.float32)
    assert agreement(a * scales[0], b * scales[1]) == expected
    order = rng.permutation(20)
    assert agreement(a[order], b[order]) == expected


def test_half_precision_is_not_compared_in_half_precision():
    a = noise(64, 384)
    assert agreement(a.astype(np.float16), a.astype(np.float16)) == 1
    large = (a * 3000).astype(np.float16)  # products and squares are beyond float16
    assert np.isfinite(large).all()
    assert agreement(large, large) == 1


def test_shapes_that_do_not_fit_are_refused():
    for a, b in [((20, 3), (20, 4)), ((20, 3), (21, 3)), ((20,), (20,))]:
        with pytest.raises(ValueError, match=r"both must be \(n, C\)"):
            agreement(np.zeros(a), np.zeros(b))


# -- the places that are compared ----------------------------------------------------------------


@given(sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_a_place_in_each_block_of_a_grid(rows, cols):
    cells = grid_cells(rows, cols)
    chosen = spread(cells, rows, cols)
    assert len(chosen) == min(rows, SIDE) * min(cols, SIDE)
    assert (np.diff(chosen) > 0).all()
    for axis, count in enumerate((rows, cols)):
        blocks = {int((cell + 0.5) * SIDE / count) for cell in cells[chosen][:, axis]}
        assert len(blocks) == min(count, SIDE)


@given(seeds, sizes, sizes, st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_of_a_sample_each_place_takes_the_nearest(seed, rows, cols, count):
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.choice(rows * cols, min(count, rows * cols), replace=False))
    cells = np.stack(np.divmod(cells, cols), axis=1)
    expected = set()
    for i, j in itertools.product(range(SIDE), repeat=2):
        wanted = (i + 0.5) / SIDE * rows, (j + 0.5) / SIDE * cols
        apart = [(r + 0.5 - wanted[0]) ** 2 + (c + 0.5 - wanted[1]) ** 2 for r, c in cells]
        expected.add(apart.index(min(apart)))
    np.testing.assert_array_equal(spread(cells, rows, cols), sorted(expected))


def test_no_cells_no_places():
    assert spread(np.zeros((0, 2), int), 5, 5).tolist() == []


@given(sizes, sizes, sizes, sizes)
@settings(max_examples=100, deadline=None)
def test_the_same_share_of_another_grid(rows, cols, to_rows, to_cols):
    cells = grid_cells(rows, cols)
    moved = same_place(cells, rows, cols, to_rows, to_cols)
    assert moved.dtype == np.int64
    for axis, (count, to) in enumerate([(rows, to_rows), (cols, to_cols)]):
        here, there = cells[:, axis], moved[:, axis]
        assert there.min() >= 0
        assert there.max() < to
        exact, rest = np.divmod((2 * here + 1) * to, 2 * count)  # floor((c + 1/2) to / count)
        clear = rest != 0  # else it lies between two cells, and either will do
        np.testing.assert_array_equal(there[clear], exact[clear])
        assert (np.abs(there - exact) <= (~clear)).all()
    if (rows, cols) == (to_rows, to_cols):
        np.testing.assert_array_equal(moved, cells)


def test_a_picture_on_a_finer_grid_is_found_again():
    """Half the stride: every other place, as a smaller or larger photograph of the same scene."""
    coarse, fine = waves(0).reshape(8, 8, -1), np.repeat(np.repeat(waves(0).reshape(8, 8, -1), 2, 0), 2, 1)
    cells = grid_cells(16, 16)
    some = cells[spread(cells, 16, 16)]
    there = same_place(some, 16, 16, 8, 8)
    assert agreement(coarse[tuple(there.T)], fine[tuple(some.T)]) == 1

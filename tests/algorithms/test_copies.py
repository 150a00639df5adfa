"""Near copies: closed cases, plain loops, and properties of the places that are compared."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.copies import FEWEST, SIDE, agreement, most_alike, places, scaled
from distcorr.algorithms.rebuild import every_cell
from distcorr.types import Geometry

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 40)


def grid_cells(rows, cols):
    return every_cell(*(Geometry(0, 16, 8.0, 16, n) for n in (rows, cols)))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def waves(rows, cols, down=0.0, right=0.0, stride=1.0, seed=0):
    """(rows * cols, C) features of a scene of waves, by a camera moved by so many cells."""
    rng = np.random.default_rng(seed)
    frequency, phase = rng.normal(0, 0.7, (40, 2)), rng.uniform(0, 2 * np.pi, 40)
    at = stride * (grid_cells(rows, cols) + 0.5) + [down, right]
    return np.sin(at @ frequency.T + phase).astype(np.float32)


def compared(a, b, own, other):
    """Agreement of all features of two grids, as two photographs are compared."""
    at = places(*own)
    best, there = most_alike(a[at[:, 0] * own[1] + at[:, 1]], b)
    return agreement(scaled(at[there], own, other), grid_cells(*other)[best[there]])


# -- two photographs -----------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (23, 30), (6, 40)])
def test_of_a_picture_and_itself(grid):
    a = noise(grid[0] * grid[1], 48)
    assert compared(a, a, grid, grid) == 1
    assert compared(a, noise(*a.shape, seed=1), grid, grid) < 0.35


@pytest.mark.parametrize(("down", "right"), [(0, 0.1), (0.5, -0.3), (0.7, 0.7)])
def test_a_shift_by_a_part_of_a_cell_is_seen_through(down, right):
    still, moved = waves(14, 14), waves(14, 14, down, right)
    assert compared(still, moved, (14, 14), (14, 14)) > 0.9


@pytest.mark.parametrize(("down", "right"), [(0, 3), (2, -3), (4, 4)])
def test_a_camera_that_has_moved_shows_the_rest(down, right):
    """What both show is (14 - down) (14 - right) cells: all of it agrees, the rest by chance."""
    shared = (14 - abs(down)) * (14 - abs(right)) / 14**2
    found = compared(waves(14, 14), waves(14, 14, down, right), (14, 14), (14, 14))
    assert shared - 0.1 < found < shared + 0.2


def test_a_picture_on_a_grid_of_another_size_is_found_again():
    """Half and twice the stride: the same scene smaller or larger, to a cell."""
    fine = waves(28, 28, stride=0.5)
    for coarse in (waves(14, 14), waves(14, 14, 0.2, -0.1)):
        assert compared(coarse, fine, (14, 14), (28, 28)) > 0.45
        assert compared(fine, coarse, (28, 28), (14, 14)) > 0.9


def test_another_scene_and_flat_pictures_are_not_alike():
    still = waves(14, 14)
    assert compared(still, waves(14, 14, seed=1), (14, 14), (14, 14)) < 0.35
    flat = np.ones_like(still)
    for a, b in [(flat, flat), (still, flat), (flat, still)]:
        assert compared(a, b, (14, 14), (14, 14)) < 0.35  # the first of equal ones is best


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (23, 30)])
def test_unrelated_pictures_stay_far_below(grid):
    """The default of visualize.copies is 0.45."""
    found = [
        compared(
            noise(grid[0] * grid[1], 9, seed=n),
            noise(grid[0] * grid[1], 9, seed=n + 99),
            grid,
            grid,
        )
        for n in range(60)
    ]
    assert max(found) < 0.4


# -- the share of places -------------------------------------------------------------------------


def by_loops(at, best):
    """Every displacement in turn, the nine around it."""
    moved = [(int(b[0] - a[0]), int(b[1] - a[1])) for a, b in zip(at, best, strict=True)]
    reach = range(-45, 46)
    most = max(
        sum(abs(down - row) <= 1 and abs(right - col) <= 1 for down, right in moved)
        for row, col in itertools.product(reach, reach)
    )
    return most / len(moved)


@given(seeds, st.integers(FEWEST, 40), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_is_what_loops_count(seed, n, rows, cols):
    rng = np.random.default_rng(seed)
    at, best = rng.integers(0, [rows, cols], (2, n, 2))
    before = at.copy(), best.copy()
    assert agreement(at, best) == pytest.approx(by_loops(at, best))
    np.testing.assert_array_equal(at, before[0])
    np.testing.assert_array_equal(best, before[1])


@given(seeds, st.integers(-30, 30), st.integers(-30, 30))
@settings(max_examples=30, deadline=None)
def test_neither_the_displacement_nor_the_order_matters(seed, down, right):
    rng = np.random.default_rng(seed)
    at, best = rng.integers(0, 9, (2, 30, 2))
    expected = agreement(at, best)
    assert agreement(at, best + np.array([down, right])) == expected
    order = rng.permutation(30)
    assert agreement(at[order], best[order]) == expected
    assert agreement(best, at) == expected
    assert agreement(at[:, ::-1], best[:, ::-1]) == expected


def test_a_displacement_counts_to_a_cell():
    at = np.stack([np.arange(40), np.arange(40)[::-1]], axis=1)
    assert agreement(at, at) == 1
    step = np.zeros((40, 2), int)
    for by, share in [(1, 1), (2, 1), (3, 0.5)]:  # apart by 2: the one between has both
        step[::2] = by
        assert agreement(at, at + step) == share


def test_too_few_places_say_nothing():
    at = np.stack([np.arange(FEWEST), np.arange(FEWEST)], axis=1)
    assert agreement(at, at) == 1
    assert agreement(at[1:], at[1:]) == 0
    assert agreement(at[:0], at[:0]) == 0


# -- likeness ------------------------------------------------------------------------------------


@given(seeds, st.integers(0, 20), st.integers(1, 20), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_the_most_similar_is_what_loops_find_with_ties_and_zeros(seed, n, m, channels):
    # Of norms that are powers of 2, so that neither sum nor quotient is rounded and ties are ties.
    rng = np.random.default_rng(seed)
    a, b = (
        (rng.choice([0, 0, 1, -1, 2], (k, 1)) * np.eye(5)[rng.integers(0, 5, k)])[:, :channels]
        for k in (n, m)
    )
    best, there = most_alike(a.astype(np.float16), b.astype(np.float32))
    assert best.shape == there.shape == (n,)
    for own, found, known in zip(a, best, there, strict=True):
        cosines = [own @ x / np.linalg.norm(x) if x.any() else -np.inf for x in b]
        assert known == (own.any() and b.any())
        if known:
            assert cosines.index(max(cosines)) == found


def test_a_zero_is_never_the_most_similar():
    """Also where all others point away."""
    best, there = most_alike(np.array([[1.0, 0]]), np.array([[0, 0], [-2, 1], [0, 0], [-1, 0.0]]))
    assert (best.tolist(), there.tolist()) == ([1], [True])
    assert most_alike(np.ones((3, 2)), np.zeros((2, 2)))[1].tolist() == [False] * 3
    assert most_alike(np.zeros((3, 2)), np.ones((2, 2)))[1].tolist() == [False] * 3


def test_half_precision_is_not_compared_in_half_precision():
    """Products and squares are beyond float16."""
    large = (noise(64, 384) * 3000).astype(np.float16)
    assert np.isfinite(large).all()
    best, there = most_alike(large, large)
    assert best.tolist() == list(range(64))
    assert there.all()


# -- the places that are compared ----------------------------------------------------------------


@given(sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_a_place_in_each_block_of_a_grid(rows, cols):
    chosen = places(rows, cols)
    assert chosen.dtype == np.int64
    assert len(chosen) == min(rows, SIDE) * min(cols, SIDE)
    assert {tuple(cell) for cell in chosen} <= {tuple(cell) for cell in grid_cells(rows, cols)}
    for axis, count in enumerate((rows, cols)):
        blocks = {int((cell + 0.5) * SIDE / count) for cell in chosen[:, axis]}
        assert len(blocks) == min(count, SIDE)


@given(sizes, sizes, sizes, sizes)
@settings(max_examples=100, deadline=None)
def test_the_same_share_of_another_grid(rows, cols, to_rows, to_cols):
    cells = grid_cells(rows, cols)
    moved = scaled(cells, (rows, cols), (to_rows, to_cols))
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

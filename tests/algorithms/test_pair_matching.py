"""Points carried between two grids, against plain loops, and what must not change them."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import pair_matching
from distcorr.algorithms.flow import unit_norm
from distcorr.algorithms.pair_matching import (
    by_mutual,
    mutual,
    nearest_cell,
    random_cells,
    soft_argmax,
    usual_window,
)
from distcorr.types import Geometry

Array = npt.NDArray[Any]
GEOMETRY = Geometry(40, 7, 6.0, 20, 5)
SIDE, CELLS = GEOMETRY.input_size, GEOMETRY.cells


def drawn(seed: int, channels: int = 4) -> tuple[Array, Array, Array]:
    """Two grids of unit norm, and points in and beyond the square."""
    rng = np.random.default_rng(seed)
    grids = unit_norm(rng.normal(size=(2, CELLS, CELLS, channels)))
    return rng.uniform(-5, SIDE + 5, (6, 2)), grids[0], grids[1]


def centre(row: int, col: int) -> tuple[float, float]:
    return GEOMETRY.offset + GEOMETRY.stride * col, GEOMETRY.offset + GEOMETRY.stride * row


def cells() -> list[tuple[int, int]]:
    return [(row, col) for row in range(CELLS) for col in range(CELLS)]


def closest(x: float, y: float, among: list[tuple[int, int]]) -> tuple[int, int]:
    return min(among, key=lambda cell: math.dist(centre(*cell), (x, y)))


def likest(feature: Array, grid: Array) -> tuple[int, int]:
    return max(cells(), key=lambda cell: float(feature @ grid[cell]))


# -- against plain loops -----------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_every_method_is_what_its_words_say(seed: int) -> None:
    points, a, b = drawn(seed)
    window, temperature = seed % 4, 0.1
    there = {cell: likest(a[cell], b) for cell in cells()}
    trusted = [c for c in cells() if likest(b[there[c]], a) == c]
    for (x, y), by_nn, by_soft, by_trust in zip(
        points,
        nearest_cell(points, a, b, GEOMETRY),
        soft_argmax(points, a, b, GEOMETRY, window, temperature),
        by_mutual(points, a, b, GEOMETRY),
        strict=True,
    ):
        feature = a[closest(x, y, cells())]
        best = likest(feature, b)
        assert tuple(by_nn) == centre(*best)
        near = [c for c in cells() if max(abs(c[0] - best[0]), abs(c[1] - best[1])) <= window]
        weights = [math.exp(float(feature @ b[c]) / temperature) for c in near]
        mean = [
            sum(w * centre(*c)[axis] for w, c in zip(weights, near, strict=True)) / sum(weights)
            for axis in (0, 1)
        ]
        assert by_soft == pytest.approx(mean, abs=1e-4)  # cosines are float32
        leader = closest(x, y, trusted)
        moved = np.array([x, y]) + np.array(centre(*there[leader])) - centre(*leader)
        assert by_trust == pytest.approx(np.clip(moved, -0.5, SIDE - 0.5))


def test_pieces_of_the_cosines_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    _, a, b = drawn(3)
    whole = mutual(a, b, GEOMETRY)
    monkeypatch.setattr(pair_matching, "_ROWS", 7)
    assert all(map(np.array_equal, whole, mutual(a, b, GEOMETRY)))
    alike = np.ones_like(a)  # ties across pieces
    trusted, partner = mutual(alike, alike, GEOMETRY)
    assert np.flatnonzero(trusted).tolist() == [0]
    assert not partner.any()


# -- what must hold ----------------------------------------------------------------------------


def test_a_grid_with_itself() -> None:
    points, a, _ = drawn(1)
    near = [centre(*closest(x, y, cells())) for x, y in points]
    assert nearest_cell(points, a, a, GEOMETRY).tolist() == np.array(near).tolist()
    assert mutual(a, a, GEOMETRY)[0].all()
    inside = np.clip(points, 0, SIDE - 1)
    assert by_mutual(inside, a, a, GEOMETRY) == pytest.approx(inside)


def test_a_shifted_grid_is_followed() -> None:
    _, a, _ = drawn(2, channels=32)
    b = np.roll(a, (1, 2), axis=(0, 1))
    points = np.array([centre(1, 1), centre(2, 0)])
    expected = points + np.array([2, 1]) * GEOMETRY.stride
    assert nearest_cell(points, a, b, GEOMETRY) == pytest.approx(expected)
    assert by_mutual(points + 0.25, a, b, GEOMETRY) == pytest.approx(expected + 0.25)
    assert soft_argmax(points, a, b, GEOMETRY, 2, 1e-3) == pytest.approx(expected)


def test_the_limits_of_soft_argmax() -> None:
    points, a, b = drawn(4)
    hard = nearest_cell(points, a, b, GEOMETRY)
    assert np.array_equal(soft_argmax(points, a, b, GEOMETRY, 0, 5.0), hard)
    assert soft_argmax(points, a, b, GEOMETRY, CELLS, 1e-6) == pytest.approx(hard)
    middle = GEOMETRY.offset + GEOMETRY.stride * (CELLS - 1) / 2
    flat = soft_argmax(points, a, b, GEOMETRY, CELLS, 1e9)
    assert flat == pytest.approx(np.full((6, 2), middle))


def test_features_that_say_nothing() -> None:
    points, a, _ = drawn(5)
    nothing = np.zeros_like(a)
    inside = np.clip(points, 0, SIDE - 1)
    assert by_mutual(inside, nothing, nothing, GEOMETRY) == pytest.approx(inside)
    assert np.isfinite(soft_argmax(points, nothing, nothing, GEOMETRY, 7)).all()


def test_the_window_grows_with_the_grid() -> None:
    assert [usual_window(cells) for cells in (2, 13, 30, 60)] == [1, 2, 4, 7]


def test_random_cells_are_seeded_and_even() -> None:
    one = random_cells(5000, GEOMETRY, [2014, 1])
    assert np.array_equal(one, random_cells(5000, GEOMETRY, [2014, 1]))
    assert not np.array_equal(one, random_cells(5000, GEOMETRY, [2014, 2]))
    known, counts = np.unique(one, axis=0, return_counts=True)
    assert {tuple(c) for c in known} == {centre(*c) for c in cells()}
    assert counts.min() > 0.7 * 5000 / CELLS**2  # 4 standard deviations


def test_no_points_and_wrong_shapes() -> None:
    points, a, b = drawn(6)
    for method in (nearest_cell, partial(soft_argmax, window=1), by_mutual):
        assert method(np.zeros((0, 2)), a, b, GEOMETRY).shape == (0, 2)
        with pytest.raises(ValueError, match="points must be"):
            method(points[0], a, b, GEOMETRY)
        with pytest.raises(ValueError, match="grids must both"):
            method(points, a, b[:-1], GEOMETRY)
    for window, temperature in ((-1, 1.0), (1, 0.0), (1, math.nan)):
        with pytest.raises(ValueError, match="window must be"):
            soft_argmax(points, a, b, GEOMETRY, window, temperature)

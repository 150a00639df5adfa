"""The paper's belief propagation against brute force, and against its own definition in numpy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import _flow_paper as paper

BETAS = (3e-3, 3e-2, 0.3)
seeds = st.integers(0, 2**32 - 1)


def costs(seed, source, target):
    return np.random.default_rng(seed).random((*source, *target), np.float32)


def energies(cost, labels, beta, truncation=math.inf):
    """Energy of each of (..., H, W, 2) labellings, by the definition."""
    y, x = np.indices(cost.shape[:2])
    w = labels - np.stack([y, x], -1)
    data = cost[y, x, labels[..., 0], labels[..., 1]].astype(float).sum((-1, -2))
    down = np.minimum(beta * (np.diff(w, axis=-3) ** 2).sum(-1), truncation).sum((-1, -2))
    across = np.minimum(beta * (np.diff(w, axis=-2) ** 2).sum(-1), truncation).sum((-1, -2))
    return data + down + across


def least_energy(cost, beta, truncation=math.inf):
    """Over all labellings, one by one."""
    cells = np.array(list(np.ndindex(cost.shape[2:])))
    nodes = cost.shape[0] * cost.shape[1]
    every = np.array(list(itertools.product(range(len(cells)), repeat=nodes)))
    labellings = cells[every].reshape(-1, *cost.shape[:2], 2)
    return energies(cost, labellings, beta, truncation).min()


def viterbi(cost, beta, truncation=math.inf):
    """Least energy of a chain, (1, N) or (N, 1)."""
    nodes = list(np.ndindex(cost.shape[:2]))
    cells = np.array(list(np.ndindex(cost.shape[2:])))
    best = cost[nodes[0]].ravel().astype(float)
    for before, node in itertools.pairwise(nodes):
        w, v = cells - np.array(before), cells - np.array(node)
        edge = np.minimum(beta * ((w[:, None] - v[None]) ** 2).sum(-1), truncation)
        best = (best[:, None] + edge).min(0) + cost[node].ravel()
    return best.min()


def brute_transform(values, beta):
    i, j = (np.arange(n) for n in values.shape)
    down = beta * (i[:, None] - i) ** 2
    across = beta * (j[:, None] - j) ** 2
    between = (down[:, :, None] + values[None]).min(1)
    return (across[None] + between[:, None, :]).min(2)


def literal(cost, beta, levels, iterations, truncation):
    """Protocol, sections 8.4 and 8.5, in words of numpy and float64; dictionaries hold messages."""
    rows, columns, height, width = cost.shape
    shape = (rows + height - 1, columns + width - 1)
    forbidden = rows * columns * cost.max()  # where the target is no smaller than the source
    data = {}
    for y, x in np.ndindex(rows, columns):
        data[y, x] = np.full(shape, forbidden, float)
        for row, column in np.ndindex(height, width):
            data[y, x][row - y + rows - 1, column - x + columns - 1] = cost[y, x, row, column]
    pyramid = [data]
    for _ in range(levels - 1):
        parents = {}
        for (y, x), values in pyramid[-1].items():
            parents[y // 2, x // 2] = parents.get((y // 2, x // 2), 0) + values
        pyramid.append(parents)
    message = {}
    for level, data in reversed(list(enumerate(pyramid))):
        inherited = {}
        for y, x in data:
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                if (y + dy, x + dx) in data:
                    old = (y // 2, x // 2, dy, dx)
                    first = level == levels - 1
                    inherited[y, x, dy, dx] = np.zeros(shape) if first else message.get(old, 0)
        message = inherited  # message[y, x, dy, dx]: what (y, x) heard from (y + dy, x + dx)
        for step in range(iterations):
            for y, x in data:
                if (x + y + step) % 2 == 0:
                    heard = {k: m for k, m in message.items() if k[:2] == (y, x)}
                    for _, _, dy, dx in heard:
                        held = data[y, x] + sum(m for k, m in heard.items() if k[2:] != (dy, dx))
                        sent = np.minimum(brute_transform(held, beta), held.min() + truncation)
                        message[y + dy, x + dx, -dy, -dx] = sent - sent.mean()
    labels = np.empty((rows, columns, 2), int)
    for y, x in np.ndindex(rows, columns):
        belief = pyramid[0][y, x] + sum(m for k, m in message.items() if k[:2] == (y, x))
        top, left = rows - 1 - y, columns - 1 - x
        allowed = belief[top : top + height, left : left + width]
        labels[y, x] = np.unravel_index(allowed.argmin(), allowed.shape)
    return labels


@given(
    seeds,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1e-6, 3e-3, 0.3, 10, 1e4]),
    st.sampled_from([1e-3, 1, 300]),
)
@settings(max_examples=150, deadline=None)
def test_the_distance_transform_is_the_brute_force_minimum(seed, height, width, beta, scale):
    values = np.random.default_rng(seed).normal(scale=scale, size=(height, width))
    values[values > 1.5 * scale] = 237 * scale  # plateaus, as forbidden displacements are
    found = paper.distance_transform(values, beta)
    np.testing.assert_allclose(found, brute_transform(values, beta), rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("truncation", [0.01, 0.5, 1e6, math.inf])
def test_a_message_is_the_truncated_transform_less_its_mean(truncation):
    rng = np.random.default_rng(1)
    data = rng.random((1, 2, 5, 7), np.float32)
    message = np.zeros((1, 2, 4, 5, 7), np.float32)
    message[0, 0, 1] = rng.random((5, 7))
    message[0, 0, 2] = 100  # what the receiver itself once sent must not come back
    paper._pass_messages(data, message, paper._workspace(7, 0.05), 1, truncation)
    held = data[0, 0].astype(float) + message[0, 0, 1]
    expected = np.minimum(brute_transform(held, 0.05), held.min() + truncation)
    np.testing.assert_allclose(message[0, 1, 0], expected - expected.mean(), atol=1e-6)
    assert (expected.max() == held.min() + truncation) == (truncation < 1)


@pytest.mark.parametrize("truncation", [math.inf, 0.05])
@pytest.mark.parametrize(
    ("source", "target"),
    [((5, 5), (5, 5)), ((3, 6), (4, 6)), ((5, 2), (7, 4)), ((4, 1), (4, 3)), ((1, 1), (3, 3))],
)
def test_it_is_the_protocols_algorithm(source, target, truncation):
    for seed, levels in enumerate((1, 2, 3, 4)):
        cost = costs(seed, source, target)
        for beta, iterations in ((3e-3, 3), (0.1, 4)):
            expected = literal(cost, beta, levels, iterations, truncation)
            found = paper.solve(cost, beta, levels, iterations, truncation)
            np.testing.assert_array_equal(found, expected)


@given(seeds, st.integers(1, 9), st.booleans(), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_chain_is_solved_exactly(seed, n, upright, height, width):
    cost = costs(seed, (n, 1) if upright else (1, n), (height, width))
    for beta in (*BETAS, 5.0):
        labels = paper.solve(cost, beta, levels=1, iterations=2 * n)
        assert energies(cost, labels, beta) == pytest.approx(viterbi(cost, beta), rel=1e-5)


@pytest.mark.parametrize(
    ("source", "target"), [((2, 2), (2, 2)), ((2, 2), (3, 3)), ((2, 3), (2, 2)), ((2, 2), (1, 3))]
)
def test_a_loop_is_nearly_always_solved_exactly(source, target):
    gaps = []
    for seed, beta in itertools.product(range(20), BETAS):
        cost = costs(seed, source, target)
        gaps.append(energies(cost, paper.solve(cost, beta), beta) - least_energy(cost, beta))
    assert min(gaps) > -1e-9
    assert np.mean(np.array(gaps) < 1e-6) >= 0.95  # 57 of 60 at 3 x 3 labels, else 60


@given(
    seeds,
    *[st.integers(1, 6)] * 4,
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from([1e-6, 3e-3, 1, 1e4]),
    st.sampled_from([1e-3, 0.3, math.inf]),
)
@settings(max_examples=150, deadline=None)
def test_labels_never_leave_the_target_grid(seed, h, w, th, tw, levels, iterations, beta, cut):
    cost = costs(seed, (h, w), (th, tw))
    labels = paper.solve(cost, beta, levels, iterations, cut)
    assert labels.shape == (h, w, 2)
    assert labels.dtype == np.int64
    assert (labels >= 0).all()
    assert (labels < [th, tw]).all()
    assert paper.solve(cost, beta, levels, iterations, cut).tobytes() == labels.tobytes()
    if cut == math.inf:
        assert (paper.solve(cost, beta, levels, iterations, 1e30) == labels).all()


@given(seeds, st.integers(1, 7), st.booleans(), *[st.integers(1, 5)] * 2)
@settings(max_examples=40, deadline=None)
def test_a_chain_with_truncated_edges_is_solved_exactly(seed, n, upright, height, width):
    cost = costs(seed, (n, 1) if upright else (1, n), (height, width))
    for beta, cut in itertools.product((0.03, 0.3), (0.05, 0.4)):
        labels = paper.solve(cost, beta, levels=1, iterations=2 * n, truncation=cut)
        assert energies(cost, labels, beta, cut) == pytest.approx(viterbi(cost, beta, cut))


def test_a_loop_with_truncated_edges_is_nearly_always_solved_exactly():
    gaps = []
    for seed, cut in itertools.product(range(12), (0.02, 0.1, 0.5)):
        cost = costs(seed, (2, 3), (2, 2))
        labels = paper.solve(cost, 0.3, truncation=cut)
        gaps.append(energies(cost, labels, 0.3, cut) - least_energy(cost, 0.3, cut))
    assert min(gaps) > -1e-6
    assert np.mean(np.array(gaps) < 1e-6) >= 0.9


@given(seeds, *[st.integers(1, 6)] * 4, st.sampled_from([0.01, 0.3, 5]))
@settings(max_examples=60, deadline=None)
def test_smoothness_is_the_sum_over_edges(seed, h, w, th, tw, cut):
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, th, (h, w)), rng.integers(0, tw, (h, w))], -1)
    expected = 0.0
    for y, x in np.ndindex(h, w):
        for qy, qx in ((y, x + 1), (y + 1, x)):
            if qy < h and qx < w:
                jump = labels[qy, qx] - labels[y, x] - (qy - y, qx - x)
                expected += min(0.05 * float(jump @ jump), cut)
    assert paper.smoothness(labels, 0.05, cut) == pytest.approx(expected)


def test_equal_costs_tie_and_no_cost_at_all_is_allowed():
    for value in (0, 1):
        cost = np.full((3, 4, 3, 4), value, np.float32)
        assert energies(cost, paper.solve(cost, 0.1), 0.1) == 12 * value
    np.testing.assert_array_equal(paper.solve(np.ones((1, 1, 3, 2), np.float32), 1.0), [[[0, 0]]])


def test_a_planted_translation_is_found_between_grids_of_different_shape():
    target = np.random.default_rng(3).random((9, 12, 24))
    source = target[2:8, 4:11]
    apart = source[:, :, None, None] - target
    cost = np.sqrt((apart**2).sum(-1)).astype(np.float32)
    labels = paper.solve(cost, 3e-3)
    expected = np.moveaxis(np.indices((6, 7)), 0, -1) + np.array([2, 4])
    np.testing.assert_array_equal(labels, expected)


def test_bad_input_is_refused():
    good = np.ones((2, 2, 2, 2), np.float32)
    for bad in (good[0], good[:0], good * np.nan, good * np.inf):
        with pytest.raises(ValueError, match="cost must be finite"):
            paper.solve(bad, 1.0)
    for beta in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta"):
            paper.solve(good, beta)
    for options in ({"levels": 0}, {"iterations": -1}, {"truncation": 0}, {"truncation": math.nan}):
        with pytest.raises(ValueError, match=next(iter(options))):
            paper.solve(good, 1.0, **options)

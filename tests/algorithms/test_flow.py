"""Alignment: messages and energies against brute force, the promises against random grids."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import _flow_cpu as kernels
from distcorr.algorithms import _flow_decoupled as decoupled
from distcorr.algorithms import _flow_trws as trws
from distcorr.algorithms.flow import SOLVERS, align, align_many, data_costs, energy, unit_norm

STEPS = ((0, -1), (-1, 0), (0, 1), (1, 0))
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 5)


def grid(seed, rows, columns, channels=6):
    values = np.random.default_rng(seed).normal(size=(rows, columns, channels))
    return unit_norm(np.maximum(values, 0))


def loop_energy(source, target, w, beta):
    """(data, deformation) by the definition, one term at a time."""
    rows, columns = source.shape[:2]
    data = deformation = 0.0
    for y, x in np.ndindex(rows, columns):
        dx, dy = int(w[y, x, 0]), int(w[y, x, 1])
        assert 0 <= y + dy < target.shape[0]
        assert 0 <= x + dx < target.shape[1]
        difference = source[y, x].astype(float) - target[y + dy, x + dx].astype(float)
        data += float(np.sqrt((difference**2).sum()))
        for qy, qx in ((y, x + 1), (y + 1, x)):
            if qy < rows and qx < columns:
                deformation += float(((w[y, x].astype(int) - w[qy, qx].astype(int)) ** 2).sum())
    return data, deformation


def total(source, target, w, beta):
    data, deformation = loop_energy(source, target, w, beta)
    return data + beta * deformation


def still(source, target):
    rows, columns = source.shape[:2]
    y, x = np.indices((rows, columns))
    dx = np.minimum(x, target.shape[1] - 1) - x
    dy = np.minimum(y, target.shape[0] - 1) - y
    return np.stack([dx, dy], -1)


def exhaustive(source, target, beta):
    """The least energy over all labellings."""
    rows, columns = source.shape[:2]
    cells = list(np.ndindex(target.shape[:2]))
    nodes = list(np.ndindex(rows, columns))
    data = np.array(
        [[np.linalg.norm(source[p].astype(float) - target[t]) for t in cells] for p in nodes]
    )
    labels = np.array(list(itertools.product(range(len(cells)), repeat=len(nodes))))
    values = data[np.arange(len(nodes)), labels].sum(axis=1)
    for (i, p), (j, q) in itertools.combinations(enumerate(nodes), 2):
        if abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1:
            w, v = np.array(cells) - p, np.array(cells) - q
            deformation = ((w[:, None] - v[None]) ** 2).sum(-1)
            values += beta * deformation[labels[:, i], labels[:, j]]
    return values.min()


def viterbi(source, target, beta):
    """The least energy of a chain (1, N) or (N, 1)."""
    rows, columns = source.shape[:2]
    nodes = list(np.ndindex(rows, columns))
    cells = np.array(list(np.ndindex(target.shape[:2])))
    features = target.reshape(-1, target.shape[2]).astype(float)
    best = np.zeros(len(cells))
    for i, p in enumerate(nodes):
        if i:
            w, before = cells - np.array(p), cells - np.array(nodes[i - 1])
            cost = beta * ((before[:, None] - w[None]) ** 2).sum(-1)
            best = (best[:, None] + cost).min(0)
        best = best + np.linalg.norm(source[p].astype(float) - features, axis=1)
    return best.min()


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.sampled_from(STEPS))
@settings(max_examples=60, deadline=None)
def test_a_joint_message_is_the_brute_force_minimum(seed, height, width, step):
    rng = np.random.default_rng(seed)
    beta = float(rng.choice([0.003, 0.3, 10]))
    shape = (kernels.padded(height), kernels.padded(width))
    belief = np.full(shape, kernels.FORBIDDEN, np.float32)
    belief[:height, :width] = rng.random((height, width))
    out = np.zeros(shape, np.float32)
    dy, dx = step
    trws.send(
        belief,
        trws.shifted_quadratics(height, beta)[dy + 1],
        trws.shifted_quadratics(width, beta)[dx + 1].T.copy(),
        np.empty((height, shape[1]), np.float32),
        out,
    )
    for y, x in np.ndindex(height, width):
        expected = min(
            belief[i, j] + beta * ((i - y + dy) ** 2 + (j - x + dx) ** 2)
            for i, j in np.ndindex(height, width)
        )
        assert out[y, x] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_message_longer_than_one_block_is_the_brute_force_minimum():
    rng = np.random.default_rng(11)
    table, rows = rng.random((37, 32), np.float32), rng.random((32, 32), np.float32)
    out = np.empty((37, 32), np.float32)
    trws.min_plus(table, rows, out)
    np.testing.assert_array_equal(out, (table[:, :, None] + rows[None]).min(1))


@given(seeds, st.integers(1, 40), st.integers(-4, 4), st.sampled_from([0.003, 0.3, 10]))
@settings(max_examples=60, deadline=None)
def test_a_message_of_one_axis_is_the_brute_force_minimum(seed, cells, shift, beta):
    values = np.full(kernels.padded(cells), decoupled.NEVER, np.float32)
    values[:cells] = np.random.default_rng(seed).random(cells)
    square, out = kernels.squares(100, beta), np.empty_like(values)
    decoupled.transform(values, square, 100 - shift, out)
    i, x = np.arange(cells)[:, None], np.arange(cells)
    expected = (values[:cells, None] + beta * (i - x + shift) ** 2).min(0)
    np.testing.assert_allclose(out[:cells], expected, rtol=1e-5, atol=1e-6)


@given(seeds, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_planes_of_a_cell_hear_the_brute_force_minimum(seed, height, width):
    rng = np.random.default_rng(seed)
    shape = (kernels.padded(height), kernels.padded(width))
    cost = np.full(shape, kernels.FORBIDDEN, np.float32)
    cost[:height, :width] = rng.random((height, width))
    by_row, by_column = rng.random(shape[0], np.float32), rng.random(shape[1], np.float32)
    rows, columns = np.empty(shape[0], np.float32), np.empty(shape[1], np.float32)
    decoupled.least_of_rows(cost, by_column, rows)
    kernels.spread(by_row, cost, columns)
    np.testing.assert_array_equal(rows, (cost + by_column).min(1))
    np.testing.assert_array_equal(columns, (cost + by_row[:, None]).min(0))
    row, column = kernels.best_label(cost, by_row, by_column, columns)
    total = cost + by_row[:, None] + by_column
    assert total[row, column] == pytest.approx(total.min(), abs=1e-6)


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_a_parent_costs_what_its_children_cost_if_they_move_alike(seed, h, w, th, tw):
    source, target = grid(seed, h, w), grid(seed + 1, th, tw)
    fine = decoupled.Decoupled((h, w), (th, tw), 1.0, 1)
    fine.cost[:, :, :th, :tw] = data_costs(source, target)
    levels = fine._costs
    for step, (child, parent) in zip((1, 2), itertools.pairwise(levels), strict=False):
        decoupled.coarsen(child, th, tw, step, parent)
        for y, x, i, j in np.ndindex(*parent.shape[:2], th, tw):
            expected = sum(
                child[y2, x2, min(i + step * (y2 % 2), th - 1), min(j + step * (x2 % 2), tw - 1)]
                for y2 in range(2 * y, min(2 * y + 2, child.shape[0]))
                for x2 in range(2 * x, min(2 * x + 2, child.shape[1]))
            )
            assert parent[y, x, i, j] == pytest.approx(expected, rel=1e-5)
        assert (parent[:, :, th:] == kernels.FORBIDDEN).all()
        assert (parent[:, :, :, tw:] == kernels.FORBIDDEN).all()


def test_data_costs_are_the_distances():
    source, target = grid(1, 3, 4), grid(2, 5, 2)
    expected = np.linalg.norm(source[:, :, None, None].astype(float) - target, axis=-1)
    np.testing.assert_allclose(data_costs(source, target), expected, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@given(seeds, st.integers(1, 9), st.booleans(), sides, sides)
@settings(max_examples=60, deadline=None)
def test_a_chain_is_solved_exactly(solver, seed, n, upright, height, width):
    rows, columns = (n, 1) if upright else (1, n)
    source, target = grid(seed, rows, columns), grid(seed + 1, height, width)
    for beta in (3e-3, 0.1, 1.0):
        flow = align(source, target, beta, solver=solver, iterations=20 * (solver == "paper"))
        assert flow.energy(beta) == pytest.approx(viterbi(source, target, beta), abs=2e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("source_shape", "target_shape"), [((2, 2), (2, 3)), ((2, 3), (2, 2))])
def test_a_loop_is_nearly_always_solved_exactly(source_shape, target_shape, solver):
    gaps = []
    for seed, beta in itertools.product(range(20), (3e-3, 3e-2, 0.3)):
        source, target = grid(seed, *source_shape), grid(seed + 100, *target_shape)
        best = exhaustive(source, target, beta)
        gaps.append(align(source, target, beta, solver=solver).energy(beta) / best - 1)
    assert min(gaps) > -1e-6  # nothing beats the optimum
    assert max(gaps) < 0.1
    assert np.mean(np.array(gaps) < 1e-4) >= 0.9


@given(seeds, sides, sides, sides, sides, st.sampled_from([1e-6, 3e-3, 3e-2, 1, 10, 1000]))
@settings(max_examples=150, deadline=None)
def test_never_above_standing_still_and_energies_are_those_of_the_field(seed, h, w, th, tw, beta):
    source, target = grid(seed, h, w), grid(seed + 1, th, tw)
    for solver, iterations in itertools.product(SOLVERS, (0, 1)):
        flow = align(source, target, beta, solver=solver, iterations=iterations)
        expected = loop_energy(source, target, flow.displacement, beta)
        assert (flow.data_energy, flow.deformation_energy) == pytest.approx(expected, rel=1e-12)
        assert energy(source, target, flow.displacement, beta) == flow[1:]
        at_rest = energy(source, target, still(source, target), beta)
        assert flow.energy(beta) <= at_rest[0] + beta * at_rest[1]


@given(seeds, sides, sides, sides, sides, st.sampled_from([3e-3, 0.1, 10]))
@settings(max_examples=50, deadline=None)
def test_the_truncated_energy_is_never_above_standing_still(seed, h, w, th, tw, beta):
    source, target = grid(seed, h, w), grid(seed + 1, th, tw)

    def truncated(displacement, cut):
        w = displacement.astype(int)
        edges = [beta * (np.diff(w, axis=axis) ** 2).sum(-1) for axis in (0, 1)]
        data = loop_energy(source, target, displacement, beta)[0]
        return data + sum(np.minimum(each, cut).sum() for each in edges)

    for cut, iterations in itertools.product((1e-3, 0.05, 0.5), (0, 1)):
        flow = align(source, target, beta, solver="paper", iterations=iterations, truncation=cut)
        rest = truncated(still(source, target), cut)
        assert truncated(flow.displacement, cut) <= rest + 1e-9
        expected = loop_energy(source, target, flow.displacement, beta)
        assert flow[1:] == pytest.approx(expected, rel=1e-12)  # of plain squares
    plain = align(source, target, beta, solver="paper")
    far = align(source, target, beta, solver="paper", truncation=beta * 1e6)
    assert far.displacement.tobytes() == plain.displacement.tobytes()


def test_truncation_lets_go_where_a_part_has_moved_on_its_own():
    """Half of the cells are six apart: that costs too much, unless edges cost little at most."""
    target = grid(3, 10, 16, channels=32)
    source = np.concatenate([target[:, :5], target[:, 11:]], axis=1)
    beta, planted = 0.3, np.repeat([0, 6], [5, 5])
    free = align(source, target, beta, solver="paper", truncation=0.2)
    np.testing.assert_array_equal(free.displacement[..., 0], np.tile(planted, (10, 1)))
    assert free.data_energy == 0
    assert free.deformation_energy == 10 * 6**2
    held = align(source, target, beta, solver="paper")
    assert held.data_energy > 0
    assert held.energy(beta) < free.energy(beta)


def test_shapes_and_dtypes():
    flow = align(grid(0, 3, 5), grid(1, 7, 2), 3e-3)
    assert flow.displacement.shape == (3, 5, 2)
    assert flow.displacement.dtype == np.int16
    assert isinstance(flow.data_energy, float)
    assert isinstance(flow.deformation_energy, float)


def test_a_planted_translation_is_found_between_grids_of_different_shape():
    target = grid(3, 17, 20, channels=32)
    flow = align(target[4:13, 7:18], target, 3e-3)
    assert (flow.displacement == [7, 4]).all()
    assert flow.deformation_energy == 0
    assert flow.data_energy == 0


def test_a_planted_smooth_warp_is_found():
    target = grid(5, 13, 13, channels=48)
    y, x = np.indices((13, 13))
    dx = np.clip(x + np.round(2 * np.sin(y / 4)).astype(int), 0, 12) - x
    dy = np.clip(y + np.round(1.5 * np.cos(x / 5)).astype(int), 0, 12) - y
    noise = np.random.default_rng(6).normal(scale=0.05, size=(13, 13, 48))
    source = unit_norm(target[y + dy, x + dx] + noise)
    flow = align(source, target, 3e-3)
    planted = np.stack([dx, dy], -1)
    assert np.mean((flow.displacement == planted).all(-1)) > 0.98
    assert flow.energy(3e-3) <= total(source, target, planted, 3e-3) + 1e-9


def test_a_grid_aligned_with_itself_stands_still():
    values = grid(7, 13, 13)
    flow = align(values, values, 3e-3)
    assert flow.energy(3e-3) == 0
    assert not flow.displacement.any()


def test_identical_cells_tie_and_stand_still():
    flow = align(np.ones((4, 4, 3), np.float32), np.ones((4, 4, 3), np.float32), 1e-3)
    assert not flow.displacement.any()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("beta", [1e4, 1e38, 1e300])
def test_a_large_beta_leaves_no_deformation(solver, beta):
    flow = align(grid(8, 6, 6), grid(9, 6, 6), beta, solver=solver)
    assert flow.deformation_energy == 0


@given(seeds, sides, sides, sides, sides, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_window_bounds_the_displacement(seed, h, w, th, tw, window):
    source, target = grid(seed, h, w), grid(seed + 1, th, tw)
    for solver in SOLVERS:
        flow = align(source, target, 1e-6, solver=solver, window=window)
        assert np.abs(flow.displacement - still(source, target)).max() <= window
        open_flow = align(source, target, 1e-6, solver=solver)
        wide = align(source, target, 1e-6, solver=solver, window=99)
        assert wide.displacement.tobytes() == open_flow.displacement.tobytes()


def test_a_window_around_the_planted_translation_does_not_hide_it():
    target = grid(3, 17, 20, channels=32)
    flow = align(target[4:13, 7:18], target, 3e-3, window=7)
    assert (flow.displacement == [7, 4]).all()
    assert align(target[4:13, 7:18], target, 3e-3, window=6).data_energy > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_align_many_equals_singles_bit_for_bit_and_runs_repeat(solver):
    source = grid(1, 13, 13, channels=24)
    targets = [
        grid(s, *shape, channels=24) for s, shape in enumerate([(13, 13), (5, 18), (13, 13)])
    ]
    found = align_many(source, targets, 3e-3, solver=solver)
    for many, target in zip(found, targets, strict=True):
        for one in [align(source, target, 3e-3, solver=solver) for _ in range(2)]:
            assert many.displacement.tobytes() == one.displacement.tobytes()
            assert many[1:] == one[1:]
    assert align_many(source, [], 3e-3) == []


def test_more_iterations_never_raise_the_energy():
    source, target = grid(20, 13, 13), grid(21, 13, 13)
    energies = [
        align(source, target, 3e-2, solver="trws", iterations=i).energy(3e-2) for i in (1, 3, 8)
    ]
    assert energies == sorted(energies, reverse=True)


@pytest.mark.parametrize(("target", "beta"), [((13, 13), 3e-3), ((13, 13), 3e-2), ((9, 17), 0.1)])
def test_the_default_solver_comes_near_the_slow_one(target, beta):
    """On noise, which is harder than photographs."""
    gaps = []
    for seed in range(8):
        a, b = grid(seed, 13, 13, channels=24), grid(seed + 50, *target, channels=24)
        near = align(a, b, beta, solver="trws", iterations=15).energy(beta)
        gaps.append(align(a, b, beta).energy(beta) / near - 1)
    assert np.median(gaps) < 0.02


def test_unit_norm():
    values = np.array([[[3, 4], [0, 0]], [[-5e30, 12e30], [1e-30, 0]]], np.float32)
    unit = unit_norm(values)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(
        unit, [[[0.6, 0.8], [0, 0]], [[-5 / 13, 12 / 13], [1, 0]]], rtol=1e-6
    )
    with pytest.raises(ValueError, match="finite"):
        unit_norm(np.array([[1, np.nan]]))


@pytest.mark.parametrize(
    ("source", "target", "beta", "message"),
    [
        (np.full((2, 2, 3), np.nan), np.ones((2, 2, 3)), 1.0, "source must be finite"),
        (np.ones((2, 2, 3)), np.full((2, 2, 3), np.inf), 1.0, "target must be finite"),
        (np.ones((2, 2, 3)), np.ones((2, 2, 4)), 1.0, "got 3 and 4"),
        (np.ones((0, 2, 3)), np.ones((2, 2, 3)), 1.0, "non-empty"),
        (np.ones((2, 2, 3)), np.ones((2, 2)), 1.0, "non-empty"),
        (np.ones((2, 2, 3)), np.ones((2, 2, 3)), 0.0, "beta"),
        (np.ones((2, 2, 3)), np.ones((2, 2, 3)), -1.0, "beta"),
        (np.ones((2, 2, 3)), np.ones((2, 2, 3)), np.nan, "beta"),
        (np.ones((2, 2, 3)), np.ones((2, 2, 3)), np.inf, "beta"),
    ],
)
def test_bad_input_is_refused(source, target, beta, message):
    for call in (align, lambda s, t, b: energy(s, t, np.zeros((2, 2, 2), int), b)):
        with pytest.raises(ValueError, match=message):
            call(source, target, beta)


def test_bad_settings_are_refused():
    ones = np.ones((2, 2, 3), np.float32)
    with pytest.raises(ValueError, match="iterations"):
        align(ones, ones, 1.0, iterations=-1)
    with pytest.raises(ValueError, match="window"):
        align(ones, ones, 1.0, window=-1)
    for truncation in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="truncation must be finite and at least 0"):
            align(ones, ones, 1.0, solver="paper", truncation=truncation)
    with pytest.raises(ValueError, match="only the solver 'paper' has a truncation, got 'trws'"):
        align(ones, ones, 1.0, solver="trws", truncation=0.1)
    with pytest.raises(ValueError, match="decoupled, trws, paper, got 'bp'"):
        align(ones, ones, 1.0, solver="bp")
    with pytest.raises(ValueError, match="displacement must be"):
        energy(ones, ones, np.zeros((2, 3, 2), int), 1.0)
    with pytest.raises(ValueError, match="stay in the target grid"):
        energy(ones, ones, np.ones((2, 2, 2), int), 1.0)

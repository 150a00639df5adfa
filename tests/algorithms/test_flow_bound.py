"""The lower bound: never above the optimum, equal to it on trees, whatever the messages are."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import _flow_bound as bounds
from distcorr.algorithms._flow_bound import lower_bound
from distcorr.algorithms._flow_paper import solve
from tests.algorithms.test_flow_paper import BETAS, costs, energies, least_energy, viterbi

seeds = st.integers(0, 2**32 - 1)
LOOPS = [((2, 2), (2, 2)), ((2, 2), (3, 3)), ((2, 3), (2, 2)), ((3, 2), (1, 3)), ((2, 2), (1, 4))]


@given(seeds, st.integers(1, 9), st.booleans(), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_on_a_chain_it_is_the_optimum(seed, n, upright, height, width):
    cost = costs(seed, (n, 1) if upright else (1, n), (height, width))
    for beta in (1e-6, *BETAS, 10.0, 1e4):
        bound, _ = lower_bound(cost, beta)
        optimum = viterbi(cost, beta)
        assert bound <= optimum * (1 + 1e-15)
        assert bound == pytest.approx(optimum, rel=1e-9, abs=1e-9 * beta)


@pytest.mark.parametrize(("source", "target"), LOOPS)
def test_on_a_loop_it_is_never_above_the_optimum_and_mostly_equal(source, target):
    gaps = []
    for seed, beta in itertools.product(range(12), BETAS):
        cost = costs(seed, source, target)
        gaps.append(least_energy(cost, beta) - lower_bound(cost, beta)[0])
    assert min(gaps) >= 0
    assert np.mean(np.array(gaps) < 1e-5) >= 0.9


def test_a_frustrated_loop_has_the_relaxations_bound():
    """Every node may be at +v or -v, and v turns by 45 degrees from node to node along the loop.

    An edge costs |v|^2 + |v'|^2 - 2 v v' = 1 or 5. At most three of the four can cost 1, as the
    last v is turned by 135 degrees against the first; each chain alone has no such trouble.
    """
    cost = np.full((2, 2, 4, 4), 100, np.float32)
    turn = {(0, 0): (0, 1), (0, 1): (1, 1), (1, 1): (1, 0), (1, 0): (1, -1)}
    for (y, x), (dy, dx) in turn.items():
        cost[y, x, y + 1 + dy, x + 1 + dx] = cost[y, x, y + 1 - dy, x + 1 - dx] = 0
    bound, _ = lower_bound(cost, 1.0)
    assert least_energy(cost, 1.0) == 8
    assert bound <= 4
    assert bound == pytest.approx(4)


@given(seeds, st.sampled_from(LOOPS), st.sampled_from([0, 1e-2, 1, 1e4]))
@settings(max_examples=60, deadline=None)
def test_no_message_however_wrong_lifts_it_above_the_optimum(seed, shapes, scale):
    cost, beta = costs(seed, *shapes), 0.1
    rows, columns, height, width = cost.shape
    padded = np.full((rows, columns, 8, 8), bounds.FORBIDDEN, np.float32)
    padded[:, :, :height, :width] = cost
    rng = np.random.default_rng(seed)
    message = rng.normal(scale=scale, size=(rows, columns, 4, 8, 8)).astype(np.float32)
    down = bounds._shifted_quadratics(8, beta)
    for share in (0.0, 0.3, 0.5, 1.0):
        sum_of_minima = bounds._chain_minima(
            padded, message, down, down.transpose(0, 2, 1).copy(), share
        )
        slack = bounds._slack(cost, message[..., :height, :width], beta)
        assert sum_of_minima - slack <= least_energy(cost, beta)
        assert slack < 1e-9 * (1 + scale)


@given(seeds, *[st.integers(1, 10)] * 4, st.sampled_from([1e-6, 3e-3, 0.3, 1e4]))
@settings(max_examples=100, deadline=None)
def test_below_every_labelling_and_the_best_of_its_trace(seed, h, w, th, tw, beta):
    cost = costs(seed, (h, w), (th, tw))
    bound, trace = lower_bound(cost, beta, 12)
    labels = np.random.default_rng(seed).integers(0, [th, tw], (50, h, w, 2))
    assert (bound <= energies(cost, labels, beta)).all()
    assert bound <= energies(cost, solve(cost, beta), beta)
    assert bound == trace.max()
    assert trace.dtype == np.float64
    assert 1 <= len(trace) <= 12
    assert trace[-1] >= trace[0] - 1e-6 * (1 + abs(bound))  # between, it may fall a little
    again, same = lower_bound(cost, beta, 12)
    assert again == bound
    assert same.tobytes() == trace.tobytes()


def test_a_planted_translation_and_an_offset_of_the_costs_are_certified():
    """The optimum is known: all data costs are least, and nothing deforms."""
    target = np.random.default_rng(3).random((9, 12, 24))
    apart = target[2:8, 4:11][:, :, None, None] - target
    cost = np.sqrt((apart**2).sum(-1)).astype(np.float32)
    for offset in (0, -2, 7):
        bound, _ = lower_bound(cost + np.float32(offset), 3e-3)
        assert bound == pytest.approx(42 * offset, abs=1e-5)
        assert bound <= 42 * offset


def test_it_is_close_to_the_solution_of_a_smooth_problem():
    y, x = np.indices((11, 11))
    target = np.random.default_rng(5).normal(size=(11, 11, 16))
    bent = target[np.clip(y + (x > 5), 0, 10), np.clip(x - (y > 4), 0, 10)]
    noisy = bent + np.random.default_rng(6).normal(scale=0.7, size=bent.shape)
    cost = np.sqrt(((noisy[:, :, None, None] - target) ** 2).sum(-1)).astype(np.float32)
    for beta in (3e-2, 0.3):
        energy = energies(cost, solve(cost, beta), beta)
        bound, _ = lower_bound(cost, beta)
        assert bound <= energy <= bound * 1.01


def test_it_stops_where_more_iterations_are_in_vain():
    cost = costs(2, (4, 4), (4, 4))
    bound, trace = lower_bound(cost, 0.01, 1000)
    assert len(trace) < 200
    assert lower_bound(cost, 0.01, len(trace))[0] == bound
    assert len(lower_bound(cost, 0.01, 1)[1]) == 1


def test_bad_input_is_refused():
    good = np.ones((2, 2, 2, 2), np.float32)
    for bad in (good[0], good[:0], good * np.nan, good * np.inf, good * 1e31):
        with pytest.raises(ValueError, match="cost must be finite"):
            lower_bound(bad, 1.0)
    for beta in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta"):
            lower_bound(good, beta)
    with pytest.raises(ValueError, match="iterations"):
        lower_bound(good, 1.0, 0)

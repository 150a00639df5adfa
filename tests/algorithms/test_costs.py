from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms.costs import Rate, Wall, cold_starts, fit, one_after_another, schedule


def by_hand(tasks: list[float], workers: int, warm: float) -> float:
    """List scheduling as a simulation in small steps of time: whole seconds."""
    waiting, left, used = list(tasks), [0] * workers, [False] * workers
    clock = 0
    while waiting or any(left):
        for w in range(workers):
            if not left[w] and waiting:
                left[w] = int(waiting.pop(0) + (0 if used[w] else warm))
                used[w] = True
        clock += 1
        left = [max(0, each - 1) for each in left]
    return clock


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 4), st.integers(0, 3))
def test_the_schedule_is_that_of_a_simulation(tasks: list[int], workers: int, warm: int) -> None:
    found = schedule(tasks, workers, warm)
    assert found.wall == by_hand(tasks, workers, warm)
    assert found.work == sum(tasks) + warm * min(workers, len(tasks))
    assert found.longest == max(tasks, default=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 3))
def test_no_list_is_worse_than_grahams_bound(tasks: list[int], workers: int) -> None:
    best = min(
        max(sum(t for t, w in zip(tasks, who, strict=True) if w == each) for each in range(workers))
        for who in itertools.product(range(workers), repeat=len(tasks))
    )
    assert best <= schedule(tasks, workers).wall <= (2 - 1 / workers) * best


def test_equal_tasks_have_a_closed_form() -> None:
    for count, workers in ((1, 1), (10, 3), (12, 3), (2, 64), (100_000, 64)):
        assert schedule([2.0] * count, workers).wall == 2.0 * math.ceil(count / workers)


def test_one_long_task_at_the_end_is_the_tail() -> None:
    assert schedule([1.0] * 8 + [50.0], 8) == Wall(58.0, 51.0, 50.0)
    assert schedule([50.0] + [1.0] * 8, 8).wall == 50.0
    phases = [schedule([3.0, 1.0], 2), schedule([2.0], 2)]
    assert one_after_another(phases) == Wall(6.0, 5.0, 3.0)
    assert schedule([], 3) == one_after_another([]) == Wall(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="at least 1"):
        schedule([1.0], 0)


def test_a_planted_rate_is_found_with_its_warm_up() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.uniform(1, 100, 40)
    took = 0.5 + 0.02 * sizes
    first = np.arange(40) < 2
    rate = fit(sizes, took + 3.0 * first, first)
    np.testing.assert_allclose(rate[:4], (0.5, 0.02, 3.0, 0), atol=1e-9)
    assert rate.tasks == 38
    np.testing.assert_allclose(rate.seconds([0, 50]), [0.5, 1.5])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e3)), min_size=1, max_size=20),
)
def test_a_rate_is_never_negative_and_conserves_the_total(
    tasks: list[tuple[int, float]],
) -> None:
    sizes, took = np.array(tasks).T
    rate = fit(sizes, took, [False] * len(tasks))
    assert min(rate.fixed, rate.per_unit) >= 0
    assert rate.warm == 0
    if np.ptp(sizes) == 0:
        assert rate.seconds(sizes).sum() == pytest.approx(took.sum())
    elif rate.fixed > 0:  # the normal equation of the constant
        assert rate.seconds(sizes).sum() == pytest.approx(took.sum(), rel=1e-6, abs=1e-6)


def test_equal_sizes_give_their_mean_and_zero_sizes_a_constant() -> None:
    assert fit([8, 8], [1.0, 3.0], [False, False])[:2] == (0.0, 0.25)
    assert fit([0, 0], [1.0, 3.0], [False, False])[:2] == (2.0, 0.0)
    assert fit([8], [4.0], [True])[:3] == (0.0, 0.5, 0.0)  # no other task: it counts as one


@pytest.mark.parametrize(
    ("sizes", "seconds", "first"),
    [([], [], []), ([1], [1, 2], [False]), ([1], [-1], [False]), ([np.nan], [1], [False])],
)
def test_what_is_no_measurement_is_refused(sizes: list, seconds: list, first: list) -> None:
    with pytest.raises(ValueError, match="must be"):
        fit(sizes, seconds, first)


def test_first_tasks_are_known_by_the_worker_or_by_their_time() -> None:
    # b ended before a, but began after it.
    assert cold_starts([5, 1, 1, 1], ["a", "b", "a", "b"], [5, 4.5, 6, 7]) == [
        True,
        True,
        False,
        False,
    ]
    nobody, never = [""] * 5, [np.nan] * 5
    assert cold_starts([9, 8, 1, 1, 3], nobody, never) == [True, True, False, False, False]
    assert cold_starts([], [], []) == []
    assert Rate(1.0, 0.0).seconds([]).shape == (0,)

"""What work will take: rates from measured tasks, and how long workers need for many tasks.

A task takes ``fixed + per_unit * size`` seconds of one worker, and a worker's first task ``warm``
more (it compiles and loads). Tasks go to whoever is free, in order, as schedulers do.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Floats = npt.NDArray[np.float64]


class Rate(NamedTuple):
    """Seconds of a task by its size.

    Attributes:
        fixed: s of any task.
        per_unit: s for each unit of its size.
        warm: s that a worker's first task takes more.
        error: |predicted - measured| / measured, median over the tasks; NaN if none was measured.
        tasks: that were measured.
    """

    fixed: float
    per_unit: float
    warm: float = 0.0
    error: float = np.nan
    tasks: int = 0

    def seconds(self, sizes: npt.ArrayLike) -> Floats:
        """(n,) s of tasks of these sizes, warm-up apart."""
        return self.fixed + self.per_unit * np.asarray(sizes, np.float64)


class Wall(NamedTuple):
    """Time that workers need for tasks together, s.

    Attributes:
        work: of all tasks, warm-up included.
        wall: until the last one ends.
        longest: of the longest task; no number of workers makes ``wall`` shorter.
    """

    work: float
    wall: float
    longest: float


def fit(sizes: npt.ArrayLike, seconds: npt.ArrayLike, first: npt.ArrayLike) -> Rate:
    """The rate that comes nearest to measured tasks by least squares, no part of it negative.

    Args:
        sizes: (n,) of the tasks.
        seconds: (n,) that they took.
        first: (n,) bool, a worker's first task. They give ``warm``, and nothing else unless there
            are no others.

    Raises:
        ValueError: lengths differ, there is no task, or a number is negative or not finite.
    """
    size, took = np.asarray(sizes, np.float64), np.asarray(seconds, np.float64)
    cold = np.asarray(first, bool)
    if not (size.ndim == 1 and size.shape == took.shape == cold.shape and len(size)):
        shapes = f"{size.shape}, {took.shape}, {cold.shape}"
        raise ValueError(f"sizes, seconds and first must be (n,) with n > 0, got {shapes}")
    if not all(np.isfinite(v).all() and (v >= 0).all() for v in (size, took)):
        raise ValueError("sizes and seconds must be finite and at least 0")
    if cold.all():
        cold = np.zeros(len(size), bool)
    x, y = size[~cold], took[~cold]
    if np.ptp(x) <= 0.1 * x.max(initial=0):  # equal sizes tell nothing of a part that is fixed
        fixed, unit = (0.0, y.sum() / x.sum()) if x.sum() else (y.mean(), 0.0)
    else:
        scale = x.max()
        (fixed, unit), _ = nnls(np.stack([np.ones(len(x)), x / scale], axis=1), y)
        unit /= scale
    made = Rate(float(fixed), float(unit))
    warm = max(0.0, float((took - made.seconds(size))[cold].mean())) if cold.any() else 0.0
    positive = y > 1e-6  # what is shorter than a clock's tick has no relative error
    off = np.abs(made.seconds(x) - y)[positive] / y[positive]
    return made._replace(warm=warm, error=float(np.median(off)) if len(off) else 0.0, tasks=len(y))


def cold_starts(seconds: npt.ArrayLike, workers: Sequence[str], ended: npt.ArrayLike) -> list[bool]:
    """Which tasks were their worker's first.

    Args:
        seconds: (n,) s of the tasks, in the order in which they ended.
        workers: (n,) who did them; "" where that is not known.
        ended: (n,) when; NaN where that is not known.

    Returns:
        n bools. Where no worker is known, the tasks at the beginning that took more than twice the
        median of all.
    """
    took, end = np.asarray(seconds, np.float64), np.asarray(ended, np.float64)
    first = [False] * len(took)
    if not any(workers):
        slow = took > 2 * np.median(took) if len(took) else took > 0
        for n in range(len(first) if slow.all() else int(np.argmin(slow)) if len(slow) else 0):
            first[n] = True
        return first
    seen: set[str] = set()
    for n in np.argsort(np.where(np.isnan(end), np.inf, end - took), kind="stable"):
        first[n] = workers[n] not in seen
        seen.add(workers[n])
    return first


def schedule(tasks: npt.ArrayLike, workers: int, warm: float = 0.0) -> Wall:
    """List scheduling: each task, in order, to the worker that is free first (Graham, 1966).

    Args:
        tasks: (n,) s.
        workers: at least 1.
        warm: s that each worker's first task takes more.

    Raises:
        ValueError: no worker.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    took = np.asarray(tasks, np.float64)
    if not len(took):
        return Wall(0.0, 0.0, 0.0)
    busy = min(workers, len(took))
    free = [warm + each for each in took[:busy].tolist()]
    heapq.heapify(free)
    for each in took[busy:].tolist():
        heapq.heapreplace(free, free[0] + each)
    return Wall(float(took.sum()) + busy * warm, max(free), float(took.max()))


def one_after_another(walls: Sequence[Wall]) -> Wall:
    """Phases of which each begins when the one before it has ended."""
    return Wall(
        sum(w.work for w in walls),
        sum(w.wall for w in walls),
        max((w.longest for w in walls), default=0.0),
    )

"""Paired timings for the benchmarks: ours and its peers take turns in one process.

Call ``distcorr.stages.cluster.limit_threads`` before anything is timed: idle threads of OpenBLAS
spin, on the core that is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

ROUNDS = 9  # odd, so that the median of ratios is the inverse of that of the inverse ratios
LONG = 0.2  # s; a longer call brings its own data into the caches


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and its result.

    A short one is called twice, and what others left in the caches and in the allocator is not
    timed. The first call of anything that compiles is the caller's.
    """
    began = time.perf_counter()
    result = call()
    spent = time.perf_counter() - began
    if spent < LONG:
        began = time.perf_counter()
        result = call()
        spent = time.perf_counter() - began
    return spent, result


def ratio(peer: Sequence[float], ours: Sequence[float]) -> float:
    """The median of how many times the peer takes, round by round."""
    return statistics.median(b / a for a, b in zip(ours, peer, strict=True))


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object], of: str) -> None:
    """Print the median times of both, ours / peer, and how many times the peer takes."""
    ours(), peer()  # compile
    rounds = [(timed(ours)[0], timed(peer)[0]) for _ in range(ROUNDS)]
    mine, theirs = zip(*rounds, strict=True)
    a, b, times = statistics.median(mine), statistics.median(theirs), ratio(theirs, mine)
    print(
        f"{name:<42} {1e3 * a:9.3f} ms   {of:<34} {1e3 * b:9.3f} ms   "
        f"{1 / times:7.3f} ({times:.3g} x)",
        flush=True,
    )


def optional(make: Callable[[], Any]) -> Any:
    """What ``make`` returns, or None where it is not installed."""
    try:
        return make()
    except (ImportError, OSError) as error:
        print(f"left out: {error}")
        return None

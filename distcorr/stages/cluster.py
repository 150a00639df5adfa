"""Where work runs: in this process, on a local Ray, or on a Ray cluster.

The same functions run in all three, so results can be compared byte for byte. Ray is started only
when there is work left to do.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import platform
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from distcorr.config import ComputeConfig
from distcorr.data.run import inside_ray_job
from distcorr.errors import DistcorrError
from distcorr.stages import joining
from distcorr.stages.room import Room, affordable

T = TypeVar("T")
R = TypeVar("R")

_AGAIN = 1.0  # s after which a cluster is asked for its size again; not in the paper


class Effort(NamedTuple):
    """What one try took, and where it was made; for logs, never for results.

    Attributes:
        seconds: of work.
        ended: Unix time, by the clock of the worker's machine.
        worker: "host:pid".
        peak_mb: most memory that the worker has had so far, this item and those before it; MB.
    """

    seconds: float
    ended: float
    worker: str
    peak_mb: float


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one item: a result, or the reason why there is none.

    ``effort`` is None where the process died.
    """

    item: T
    result: R | None = None
    error: str = ""
    details: str = ""
    effort: Effort | None = None


class Resources(NamedTuple):
    """What one actor of a pool asks for, and how many actors there may be."""

    actors: int
    cpus: float
    gpus: float


def limit_threads() -> None:
    """One thread for every numerical library of this process: parallelism belongs to the shards.

    It also makes results independent of the number of cores: a BLAS product on two threads may
    differ from the same product on one in its last bits.
    """
    import faiss
    import threadpoolctl
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    _keep_freed_memory()


@functools.cache  # looking for the libraries takes milliseconds, which many short tasks would pay
def _limit_threads_once() -> None:
    limit_threads()


def _keep_freed_memory() -> None:
    """Let large buffers be used again instead of being given back and fetched page by page.

    Networks free and allocate the same megabytes for every batch; the page faults cost about a
    tenth of a forward pass. Only glibc has the switch.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_threshold = -1, -3  # of malloc.h; the largest that it takes
        libc.mallopt(m_trim_threshold, 1 << 30)
        libc.mallopt(m_mmap_threshold, 1 << 25)


class Session:
    """A connection to wherever the work runs; use it as a context manager."""

    def __init__(self, compute: ComputeConfig) -> None:
        """
        Args:
            compute: ``address`` is ``inline`` (this process), ``local`` (a Ray of our own),
                ``auto`` (the cluster that this machine belongs to) or an address.
        """
        self.compute = compute
        self.address = compute.address or ("auto" if inside_ray_job() else "local")
        self.warn: Callable[[str], None] = _silent  # whoever shows warnings sets it
        self._connected = False

    @property
    def inline(self) -> bool:
        """Whether everything runs in this process, without Ray."""
        return self.address == "inline"

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    def connect(self) -> None:
        """Start or join Ray, once.

        Raises:
            DistcorrError: no cluster answers at the address, or it refuses us.
        """
        if self._connected or self.inline:
            return
        self._connected = joining.join(self.address, self.compute.workers)

    def pool(self) -> Resources:
        """Actors for a Ray Data pool: one per worker asked for, per GPU, or per CPU."""
        total = _resources()
        gpus = self.compute.gpus_per_worker
        if gpus < 0:
            gpus = 1.0 if total.get("GPU", 0) >= 1 else 0.0
        cpus = int(total.get("CPU", 1)) or 1
        actors = self.compute.workers or max(1, int(total.get("GPU", 0) / gpus) if gpus else cpus)
        if gpus or actors < cpus or (actors > cpus and self.address != "local"):
            return Resources(actors, 1.0, gpus)  # on a cluster that has fewer, it is to grow
        # A pool that takes every CPU leaves none for Ray Data's own work, and waits for ever.
        return Resources(actors, 0.9 * cpus / actors, gpus)

    def gpus(self) -> float:
        """Share of a GPU for a task that can use one; 0 where Ray sees none."""
        if self.inline:
            return max(0.0, self.compute.gpus_per_worker)
        self.connect()
        return self.pool().gpus

    def put(self, value: R) -> Any:
        """Share a value with every worker; inline, the value itself."""
        if self.inline:
            return value
        self.connect()
        import ray

        # Put by the driver: what a worker puts is lost with its node.
        return ray.put(value)

    def map(
        self,
        function: Callable[..., R],
        work: Iterable[tuple[T, tuple[Any, ...]]],
        gpus: float = 0.0,
        memory: float = 0.0,
    ) -> Iterator[Outcome[T, R]]:
        """Run ``function(*arguments)`` for every ``(item, arguments)`` and yield as they finish.

        ``work`` is consumed lazily: as many items are in flight as workers are asked for, or two
        per CPU, so that arguments that ``put`` shares can be made one group at a time. An exception
        costs its item only; a process that dies is replaced ``compute.retries`` times. ``gpus`` is
        the share of a GPU that each item takes, ``memory`` how many bytes it may need: Ray starts
        no more of them on a node than fit; 0 if that is too little to matter.

        Raises:
            DistcorrError: no node has what an item takes, and none comes.
        """
        if self.inline:
            limit_threads()
            for item, arguments in work:
                yield attempt(function, item, arguments)
            return
        self.connect()
        import ray

        room = self.room(gpus=gpus, memory=memory)
        options = room.options() | {"max_retries": self.compute.retries}
        remote = ray.remote(**options)(_remote_attempt)
        pending = iter(work)
        running: dict[Any, T] = {}
        limit, asked = 0, -math.inf
        try:
            while True:
                if time.monotonic() > asked + _AGAIN:  # a cluster grows and shrinks
                    asked = time.monotonic()
                    room.check()
                    limit = self.compute.workers or 2 * room.places()
                for item, arguments in itertools.islice(pending, max(0, limit - len(running))):
                    running[remote.remote(function, *arguments)] = item
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1, timeout=_AGAIN)
                for reference in ready:
                    yield _outcome(running.pop(reference), reference)
        finally:
            # A Ray that is ours to leave ends them with us. To cancel what may end at the same
            # moment crashes Ray 2.60: "Tried to complete task that was not pending".
            for reference in running if not self._connected else ():
                ray.cancel(reference, force=True)

    def room(self, cpus: float = 1.0, gpus: float = 0.0, memory: float = 0.0) -> Room:
        """Where tasks that take so much find room; of memory no more than the largest node has."""
        self.connect()
        need = {"CPU": cpus, "GPU": gpus}
        memory = max(memory, self.compute.memory_gb * 1e9)
        if memory:
            need["memory"] = affordable(memory, {k: v for k, v in need.items() if v}, self.warn)
        patience = self.compute.patience if self.address != "local" else 0.0
        return Room(need, patience, self.warn)


def _outcome(item: T, reference: Any) -> Outcome[T, Any]:
    """What became of an item whose task has ended."""
    import ray

    try:
        return replace(ray.get(reference), item=item)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        return Outcome(item, None, f"its process died: {reason}", str(error))


def attempt(function: Callable[..., R], item: T, arguments: tuple[Any, ...]) -> Outcome[T, R]:
    """``function(*arguments)``; whatever it raises costs this item and is reported with it."""
    began = time.monotonic()
    try:
        result = function(*arguments)
    except Exception as error:
        return Outcome(item, None, describe(error), traceback.format_exc(), _effort(began))
    return Outcome(item, result, effort=_effort(began))


def _effort(began: float) -> Effort:
    unit = 1e6 if sys.platform == "darwin" else 1e3  # of ru_maxrss: bytes there, kB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    worker = f"{socket.gethostname()}:{os.getpid()}"
    seconds = time.monotonic() - began
    return Effort(round(seconds, 3), round(time.time(), 3), worker, round(peak, 1))


def _remote_attempt(function: Callable[..., R], *arguments: Any) -> Outcome[None, R]:
    """``attempt`` in a worker: shared arguments arrive as values only at the top level."""
    _limit_threads_once()
    return attempt(function, None, arguments)


def _silent(_: str) -> None:
    """Nobody listens."""


def _resources() -> dict[str, float]:
    import ray

    total: dict[str, float] = ray.cluster_resources()
    return total


def describe(error: BaseException) -> str:
    """One line for a message: our own errors as they are, others with their type."""
    if isinstance(error, DistcorrError):
        return error.message
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

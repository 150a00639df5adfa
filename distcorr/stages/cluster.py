"""Where work runs: in this process, on a local Ray, or on a Ray cluster.

The same functions run in all three, so results can be compared byte for byte. Ray is started only
when there is work left to do.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import math
import os
import platform
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from distcorr.config import ComputeConfig
from distcorr.data.run import inside_ray_job
from distcorr.errors import DistcorrError

T = TypeVar("T")
R = TypeVar("R")

_AGAIN = 1.0  # s after which a cluster is asked for its size again; not in the paper


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of one item: a result, or the reason why there is none."""

    item: T
    result: R | None = None
    error: str = ""
    details: str = ""


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
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        # Every actor pool logs an "error" about its constructor arguments to the terminal
        # (ray#53727); what really fails reaches us as an exception.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if self.address == "local":
            _prepare_local()
            options |= {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": self.compute.workers or os.cpu_count() or 1,
            }
        else:
            options |= {"address": self.address}
        import ray
        import ray.data

        try:
            _knock(self.address)
            if ray.is_initialized():  # by whoever uses distcorr as a library: theirs to shut down
                return
            ray.init(**options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise DistcorrError(
                f"Cannot reach Ray at {self.address}: {str(error).splitlines()[0]}",
                "--address local starts a Ray of its own, --address inline works without Ray; "
                "a cluster with a token wants RAY_AUTH_MODE=token and the head node's token",
            ) from error
        context = ray.data.DataContext.get_current()
        context.print_on_execution_start = False
        context.enable_progress_bars = False
        context.execution_options.preserve_order = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        self._connected = True

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
    ) -> Iterator[Outcome[T, R]]:
        """Run ``function(*arguments)`` for every ``(item, arguments)`` and yield as they finish.

        ``work`` is consumed lazily: as many items are in flight as workers are asked for, or two
        per CPU, so that arguments that ``put`` shares can be made one group at a time. An exception
        costs its item only; a process that dies is replaced ``compute.retries`` times. ``gpus`` is
        the share of a GPU that each item takes.
        """
        if self.inline:
            limit_threads()
            for item, arguments in work:
                yield attempt(function, item, arguments)
            return
        self.connect()
        import ray

        retries = self.compute.retries
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=retries)(_remote_attempt)
        pending = iter(work)
        running: dict[Any, T] = {}
        limit, asked = 0, -math.inf
        try:
            while True:
                if time.monotonic() > asked + _AGAIN:  # a cluster grows and shrinks
                    asked = time.monotonic()
                    limit = self.compute.workers or 2 * self._at_once(gpus)
                for item, arguments in itertools.islice(pending, max(0, limit - len(running))):
                    running[remote.remote(function, *arguments)] = item
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1)
                for reference in ready:
                    item = running.pop(reference)
                    try:
                        outcome = ray.get(reference)
                        yield Outcome(item, outcome.result, outcome.error, outcome.details)
                    except ray.exceptions.RayError as error:
                        reason = str(error).strip().splitlines()[0]
                        yield Outcome(item, None, f"its process died: {reason}", str(error))
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _at_once(self, gpus: float) -> int:
        """How many items the cluster can work on at once."""
        total = _resources()
        places = total.get("GPU", 0) / gpus if gpus else total.get("CPU", 1)
        return max(1, int(places))


def attempt(function: Callable[..., R], item: T, arguments: tuple[Any, ...]) -> Outcome[T, R]:
    """``function(*arguments)``; whatever it raises costs this item and is reported with it."""
    try:
        return Outcome(item, function(*arguments))
    except Exception as error:
        return Outcome(item, None, describe(error), traceback.format_exc())


def _remote_attempt(function: Callable[..., R], *arguments: Any) -> Outcome[None, R]:
    """``attempt`` in a worker: shared arguments arrive as values only at the top level."""
    _limit_threads_once()
    return attempt(function, None, arguments)


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens; Ray would try for many minutes.

    Raises:
        OSError: no connection to the ``host:port`` of the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


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


def _prepare_local() -> None:
    """Settings of a Ray of our own: on loopback, with a token that lives in this process only.

    Without a token Ray writes one to the user's home folder, which changes how their next
    ``ray start`` behaves.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    configured = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"} & os.environ.keys()
    if not configured and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

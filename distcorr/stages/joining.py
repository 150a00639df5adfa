"""Starting a Ray of our own, or joining a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distcorr.errors import DistcorrError


def join(address: str, workers: int) -> bool:
    """Start or join Ray.

    Args:
        address: ``local`` for a Ray of our own, ``auto`` or an address for a cluster.
        workers: logical CPUs of a Ray of our own; 0 for as many as this machine has.

    Returns:
        Whether it is ours to leave: not if whoever uses distcorr as a library had joined before.

    Raises:
        DistcorrError: no cluster answers at the address, or it refuses us.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Every actor pool logs an "error" about its constructor arguments to the terminal
    # (ray#53727); what really fails reaches us as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        _prepare_local()
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": workers or os.cpu_count() or 1,
        }
    else:
        options |= {"address": address}
    import ray
    import ray.data

    try:
        _knock(address)
        if ray.is_initialized():
            return False
        with _own_signals():
            ray.init(**options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise DistcorrError(
            f"Cannot reach Ray at {address}: {str(error).splitlines()[0]}",
            "--address local starts a Ray of its own, --address inline works without Ray; "
            "a cluster with a token wants RAY_AUTH_MODE=token and the head node's token",
        ) from error
    context = ray.data.DataContext.get_current()
    context.print_on_execution_start = False
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails, we say ourselves
    return True


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM that a command has set: Ray puts one of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Fail within seconds where nobody listens; Ray would try for many minutes.

    Raises:
        OSError: no connection to the ``host:port`` of the address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _prepare_local() -> None:
    """Settings of a Ray of our own: on loopback, with a token that lives in this process only.

    Without a token Ray writes one to the user's home folder, which changes how their next
    ``ray start`` behaves.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    configured = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"} & os.environ.keys()
    if not configured and not Path("~/.ray/auth_token").expanduser().exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)

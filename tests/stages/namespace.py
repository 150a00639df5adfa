"""Run a command where a Ray cluster cannot meet another: a network namespace with loopback only."""

from __future__ import annotations

import shlex
import subprocess
from typing import IO

import pytest

ENTER = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
PRIVATE = "ip link set lo up; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; "


def denied() -> str:
    """Why there can be no namespace of our own here; "" where there can."""
    try:
        subprocess.run([*ENTER, "bash", "-ec", PRIVATE], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespace for a cluster of our own here: {error}"
    return ""


def run_alone(script: str, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script with private network, processes and /tmp/ray; skip where that is denied."""
    if why := denied():
        pytest.skip(why)
    command = _command(script, environment)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def start_alone(script: str, log: IO[str], **environment: str) -> subprocess.Popen[str]:
    """Start one likewise, to be spoken with; what ends it ends everything that it has started."""
    command = _command(script, environment)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True)


def _command(script: str, environment: dict[str, str]) -> list[str]:
    exports = "".join(f"export {k}={shlex.quote(v)}; " for k, v in environment.items())
    return [*ENTER, "bash", "-ec", PRIVATE + exports + script]

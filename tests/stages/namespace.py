"""Run a command where a Ray cluster cannot meet another: a network namespace with loopback only."""

from __future__ import annotations

import shlex
import subprocess

import pytest


def run_alone(script: str, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script with private network, processes and /tmp/ray; skip where that is denied."""
    enter = ["unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "bash", "-ec"]
    private = "ip link set lo up; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; "
    try:
        subprocess.run([*enter, private], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace for a cluster of our own here: {error}")
    exports = "".join(f"export {k}={shlex.quote(v)}; " for k, v in environment.items())
    return subprocess.run(
        [*enter, private + exports + script], capture_output=True, text=True, timeout=timeout
    )

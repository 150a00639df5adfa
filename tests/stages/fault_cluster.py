"""A cluster in a namespace of its own that does one fault after the other, as it is asked.

python -m tests.stages.fault_cluster UNDISTURBED BASE: a JSON line in, a JSON line out.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.stages.fault_backbone import FAULTS as FOLDER
from tests.stages.namespace import start_alone

LIMIT = 180  # s that a row may take
HEALTH = {  # a node is missed after two seconds, not fourteen
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Client:
    """Asks for a row of the matrix."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def suffer(self, fault: str, stage: str) -> dict[str, Any]:
        """Do it; AssertionError, with the traceback, where something does not hold."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([fault, stage]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the cluster is gone:\n{self._log.read_text()[-3000:]}"
        row: dict[str, Any] = json.loads(answer)
        assert not row["error"], row["error"]
        return row


@contextmanager
def cluster(undisturbed: Path, base: Path) -> Iterator[Client]:
    """A cluster as long as it is needed; start it only where ``namespace.denied`` is ""."""
    faults, log = base / "faults", base / "cluster.log"
    faults.mkdir()
    words = [sys.executable, "-m", __name__, str(undisturbed), str(base)]
    environment = {FOLDER: str(faults), "OPENBLAS_NUM_THREADS": "1", **HEALTH}
    with log.open("w") as stream:
        process = start_alone(shlex.join(words), stream, **environment)
    try:
        yield Client(process, log)
    finally:
        process.kill()  # and with it all that it has started, Ray too: it is the namespace's first
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def main(undisturbed: Path, base: Path) -> None:
    """Serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints is no answer
    from tests.stages.fault_matrix import FAULTS
    from tests.stages.fault_site import Site

    def too_long(*_: object) -> None:
        raise TimeoutError(f"{LIMIT} s were not enough")

    signal.signal(signal.SIGALRM, too_long)
    site = Site(undisturbed, base)
    for line in sys.stdin:
        name, stage = json.loads(line)
        fault = FAULTS[name]
        row: dict[str, Any] = {"when": fault.when, "equal": fault.equal, "error": ""}
        signal.alarm(LIMIT)
        try:
            folder = site.prepared(stage)
            began = time.monotonic()
            row["retries"] = fault.harm(site, folder, stage)
            row["seconds"] = time.monotonic() - began
            if fault.equal == "yes":
                site.require_same(folder, stage)
        except Exception:
            row["error"] = traceback.format_exc()
        finally:
            signal.alarm(0)
        print(json.dumps(row), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

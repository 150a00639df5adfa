"""``ray job submit`` against a head of our own, in a network namespace, with a token."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.namespace import run_alone

ROOT = Path(__file__).parents[2]

SCRIPT = """
cd {root}
ray start --head --port=6379 --num-cpus=2 --dashboard-host=127.0.0.1 >/dev/null
trap 'ray stop >/dev/null 2>&1' EXIT
submit() {{ echo "== $*"; ray job submit "$@" 2>&1 || echo "== failed"; }}
submit --working-dir . -- python -m distcorr build-db {sets} -r {run}
submit -- distcorr build-db {sets} -r {run}
submit -- distcorr build-db {sets} -r relative/run
"""


@pytest.mark.cluster
def test_job_submit(tmp_path: Path, toy_settings: Callable[..., list[str]]) -> None:
    """Shipped and installed forms give one store; a relative run folder is refused."""
    sets = " ".join(f"--set {s}" for s in toy_settings("dataset.toy_train=3", "dataset.toy_val=2"))
    done = run_alone(
        SCRIPT.format(root=ROOT, sets=sets, run=tmp_path / "run"),
        timeout=560,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        HOME=str(tmp_path),  # Ray's command line would leave files in the user's
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:8265",
    )
    shipped, installed, relative = done.stdout.split("== --working-dir")[-1].split("== --")
    assert "succeeded" in shipped, done.stdout + done.stderr
    assert "done build-db   12 shards" in shipped
    assert "succeeded" in installed, installed
    assert "(nothing to do)" in installed
    assert "would vanish with the cluster" in relative
    assert "Traceback" not in relative
    assert "== failed" in relative
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["stages"]["build-db"]["shards"] == 12

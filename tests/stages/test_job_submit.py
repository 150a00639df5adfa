"""``ray job submit`` against a head of our own, in a network namespace, with a token.

One head serves all cases; photographs, store and run are in an object store beside it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from distcorr.cli.common import ORDER
from tests.stages.namespace import run_alone

ROOT = Path(__file__).parents[2]
RUN = "s3://photos/runs/smoke"
KEY, SECRET = "AKIADISTINCTIVE", "hunter2/DISTINCTIVE+secret"

# PATH=/usr/bin:/bin is a head without our console script.
SCRIPT = """
cd {root}
python -m moto.server -H 127.0.0.1 -p 5055 >/dev/null 2>&1 &
trap "ray stop >/dev/null 2>&1; kill $!" EXIT
ray start --head --port=6379 --num-cpus=2 --dashboard-host=127.0.0.1 >/dev/null
python -c "
from pyarrow.fs import S3FileSystem
S3FileSystem(
    endpoint_override='127.0.0.1:5055', scheme='http', allow_bucket_creation=True
).create_dir('photos')"
attempt() {{ echo "== $*"; "$@" 2>&1 || echo "== failed $?"; }}
attempt ray job submit --working-dir . -- python -m distcorr run -p smoke {sets} -r {run}
attempt ray job submit -- distcorr build-db {sets} -r {run}
attempt ray job submit -- distcorr build-db {sets} -r relative/run
attempt ray job submit -- env PATH=/usr/bin:/bin distcorr build-db
export RAY_AUTH_TOKEN={wrong}
attempt ray job submit -- distcorr build-db {sets} -r {run}
attempt distcorr build-db --address 127.0.0.1:6379 {sets} -r {folder}/denied
unset RAY_AUTH_TOKEN
attempt ray job submit -- distcorr build-db {sets} -r {run}
attempt distcorr build-db --address 127.0.0.1:6379 {sets} -r {folder}/denied
echo "== status"
distcorr status -r {run} --json
"""


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_job_submit(tmp_path: Path, toy_settings: Callable[..., list[str]]) -> None:
    """The paper in one job against an object store, and what is said to those who get it wrong."""
    small = ["dataset.toy_train=4", "dataset.toy_val=2", "classify.cs=[0.001]"]
    sets = " ".join(["-c fish", *(f"--set {s}" for s in toy_settings(*small))])
    done = run_alone(
        SCRIPT.format(root=ROOT, sets=sets, run=RUN, folder=tmp_path, wrong=secrets.token_hex(32)),
        timeout=840,
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        HOME=str(tmp_path),  # Ray's command line would leave files in the user's
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_API_SERVER_ADDRESS="http://127.0.0.1:8265",
        AWS_ENDPOINT_URL="http://127.0.0.1:5055",
        AWS_ACCESS_KEY_ID=KEY,
        AWS_SECRET_ACCESS_KEY=SECRET,
    )
    *said, status = done.stdout.replace("== failed", "failed").split("== ")[1:]
    shipped, installed, relative, nowhere, wrong, wrong_ours, without, without_ours = said
    assert "succeeded" in shipped, done.stdout + done.stderr
    assert "block10 flow" in shipped
    assert f"report  {RUN}/report" in shipped
    assert "succeeded" in installed, installed
    assert "(nothing to do)" in installed
    assert "would vanish with the cluster" in relative
    assert "failed 1" in relative
    assert "exit code 127" in nowhere, nowhere
    for refused in (wrong, without):
        assert "failed 1" in refused, refused
        assert "oken" in refused, refused
    for refused in (wrong_ours, without_ours):
        assert "Cannot reach Ray at 127.0.0.1:6379" in refused, refused
        assert "the head node's token" in refused
        assert "failed 2" in refused
    for ours in (shipped, installed, relative, wrong_ours, without_ours):
        assert "Traceback" not in ours, ours
    assert KEY not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    rows = json.loads(status.removeprefix("status\n"))
    assert [row["stage"] for row in rows if row["finished"]] == list(ORDER)

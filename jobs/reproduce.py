"""Every stage and the report in one job: one start of Ray instead of one per stage.

    ray job submit --working-dir . -- python jobs/reproduce.py RUN DATA WEIGHTS

RUN, DATA and WEIGHTS are absolute paths on storage that every node sees, or URIs (s3://bucket/...).
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: python {sys.argv[0]} RUN DATA WEIGHTS\n{__doc__}")
    run, data, weights = sys.argv[1:]
    app(["run", "-p", "paper", "--run", run, "--data", data, "--weights", weights])

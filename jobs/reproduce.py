"""The whole paper in one job, every stage and the report: one start of Ray instead of seven.

    ray job submit --working-dir . -- python jobs/reproduce.py RUN DATA WEIGHTS [OPTIONS]

RUN, DATA and WEIGHTS are absolute paths on storage that every node sees, or URIs
(s3://bucket/...). OPTIONS are those of distcorr run.

Resources: CPUs, or GPUs for build-db, transfer, responses and detect. The driver runs where the
job is submitted to, and needs some GB of memory.
Duration: measured 15 min 13 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5, sections
3 to 5 and the report, without section 2's pictures. Estimated in proportion to the photographs.
Cost: estimated 0.025 USD per 1,000 photographs: 0.5 core hours at an assumed 0.05 USD each. Nodes
that wait for the longest shard cost the same and are not counted.
Safe to submit again: finished shards are skipped, results made with other settings are kept.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: python {sys.argv[0]} RUN DATA WEIGHTS [OPTIONS]\n{__doc__}")
    run, data, weights, *options = sys.argv[1:]
    where = ["--run", run, "--data", data, "--weights", weights]
    app(["run", "-p", "paper", *where, *options])

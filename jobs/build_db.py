"""Fill the feature store (section 2 of the paper): what all other stages read.

    ray job submit --working-dir . -- python jobs/build_db.py RUN DATA WEIGHTS [OPTIONS]

RUN, DATA and WEIGHTS are absolute paths on storage that every node sees, or URIs
(s3://bucket/...). OPTIONS are those of distcorr build-db.

Resources: CPUs, or GPUs, one worker on each.
Duration: measured 2 min 44 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5; no GPU
was measured. Estimated in proportion to the photographs, and to one over the cores.
Cost: estimated 0.004 USD per 1,000 photographs: 0.08 core hours at an assumed 0.05 USD each.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(f"usage: python {sys.argv[0]} RUN DATA WEIGHTS [OPTIONS]\n{__doc__}")
    run, data, weights, *options = sys.argv[1:]
    where = ["--run", run, "--data", data, "--weights", weights]
    app(["build-db", "-p", "paper", *where, *options])

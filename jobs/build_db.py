"""Fill the feature store on a cluster.

    ray job submit --working-dir . -- python jobs/build_db.py RUN DATA WEIGHTS

RUN, DATA and WEIGHTS are absolute paths on storage that every node sees, or URIs (s3://bucket/...).
Measured on 2 CPU cores, no GPU: every table of 1,130 photographs with AlexNet conv1-5 in 3.5
minutes.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: python {sys.argv[0]} RUN DATA WEIGHTS\n{__doc__}")
    run, data, weights = sys.argv[1:]
    app(["build-db", "-p", "paper", "--run", run, "--data", data, "--weights", weights])

"""Find the 25 training instances most like every target (section 3).

    ray job submit --working-dir . -- python jobs/neighbors.py RUN [OPTIONS]

RUN is the run that jobs/build_db.py filled. OPTIONS are those of distcorr neighbors.

Resources: CPUs only; a category's vectors are in memory while it is searched.
Duration: measured 6 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5.
Cost: estimated below 0.001 USD per 1,000 photographs, at an assumed 0.05 USD per core hour.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["neighbors", "--run", *sys.argv[1:]])

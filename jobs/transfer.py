"""Find neighbours, align and transfer keypoints: Table 2 from a finished feature store.

    ray job submit --working-dir . -- python jobs/transfer.py RUN

RUN is the run that jobs/build_db.py filled. Needs CPUs only.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    (run,) = sys.argv[1:]
    app(["neighbors", "--run", run], standalone_mode=False)
    app(["transfer", "--run", run])

"""Classify keypoints: Table 3, Figures 4 and 5 from a finished feature store.

    ray job submit --working-dir . -- python jobs/classify.py RUN

RUN is the run that jobs/build_db.py filled. CPUs are enough: only Figure 4 runs the network again,
and asks for the weights where jobs/build_db.py found them.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN\n{__doc__}")
    (run,) = sys.argv[1:]
    for stage in ("classify", "responses"):
        try:
            app([stage, "--run", run])
        except SystemExit as end:  # how a finished command line ends, well or not
            if end.code:
                raise

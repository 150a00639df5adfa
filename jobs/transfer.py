"""Find neighbours, align and transfer keypoints: Table 2 from a finished feature store.

    ray job submit --working-dir . -- python jobs/transfer.py RUN

RUN is the run that jobs/build_db.py filled. Needs CPUs only.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN\n{__doc__}")
    (run,) = sys.argv[1:]
    for stage in ("neighbors", "transfer"):
        try:
            app([stage, "--run", run])
        except SystemExit as end:  # how a finished command line ends, well or not
            if end.code:
                raise

"""Rebuild photographs and average receptive fields: Figures 1 and 2 from a finished feature store.

    ray job submit --working-dir . -- python jobs/visualize.py RUN

RUN is the run that jobs/build_db.py filled. CPUs are enough; the photographs must be where
jobs/build_db.py found them. Safe to submit again: what is found stays.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN\n{__doc__}")
    app(["visualize", "--run", sys.argv[1]])

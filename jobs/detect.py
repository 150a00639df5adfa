"""Predict keypoints: Table 4 and Figure 6 from a finished feature store.

    ray job submit --working-dir . -- python jobs/detect.py RUN

RUN is the run that jobs/build_db.py filled. CPUs are enough; dense SIFT is made from the
photographs, which must be where jobs/build_db.py found them.
Safe to submit again: a killed run goes on at its last round of mining.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN\n{__doc__}")
    app(["detect", "--run", sys.argv[1]])

"""Rebuild photographs and average receptive fields: Figures 1 and 2 (section 2).

    ray job submit --working-dir . -- python jobs/visualize.py RUN [OPTIONS]

RUN is the run that jobs/build_db.py filled. OPTIONS are those of distcorr visualize.

Resources: CPUs only; photographs must be where jobs/build_db.py found them.
Duration: estimated a few minutes on 2 CPU cores for 1,000 photographs; it grows with the cells of
the data base times those of the photographs that are rebuilt.
Cost: estimated below 0.01 USD per 1,000 photographs, at an assumed 0.05 USD per core hour.
Safe to submit again: what is found stays.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["visualize", "--run", *sys.argv[1:]])

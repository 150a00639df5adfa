"""Align every target with its neighbours and carry keypoints: Table 2, Figure 3 (section 3).

    ray job submit --working-dir . -- python jobs/transfer.py RUN [OPTIONS]

RUN is the run that jobs/neighbors.py has finished. OPTIONS are those of distcorr transfer.

Resources: CPUs only, or GPUs by options; a category's grids are in memory, 512 MB at once.
Duration: measured 28 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5:
21,600 alignments of 13 x 13 cells. Boxes of 500 px (flow.side=500) take some ten times that.
Cost: estimated 0.001 USD per 1,000 photographs, at an assumed 0.05 USD per core hour.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["transfer", "--run", *sys.argv[1:]])

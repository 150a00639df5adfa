"""Mine keypoint detectors and predict by them and a prior: Table 4, Figure 6 (section 5).

    ray job submit --working-dir . -- python jobs/detect.py RUN [OPTIONS]

RUN is the run that jobs/build_db.py filled. OPTIONS are those of distcorr detect.

Resources: CPUs, or GPUs; all positives of a category are in memory, some 10 kB each. Dense SIFT
is made from the photographs, which must be where jobs/build_db.py found them.
Duration: measured 8 min 12 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5.
Cost: estimated 0.012 USD per 1,000 photographs: 0.24 core hours at an assumed 0.05 USD each.
Safe to submit again: a killed run goes on at its last round of mining.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["detect", "--run", *sys.argv[1:]])

"""Name keypoints by linear SVMs on single columns: Table 3, Figure 5 (section 4).

    ray job submit --working-dir . -- python jobs/classify.py RUN [OPTIONS]

RUN is the run that jobs/build_db.py filled. OPTIONS are those of distcorr classify.

Resources: CPUs only.
Duration: measured 2 min 13 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5.
Cost: estimated 0.003 USD per 1,000 photographs, at an assumed 0.05 USD per core hour.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["classify", "--run", *sys.argv[1:]])

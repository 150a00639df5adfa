"""Find where around a keypoint its classifier responds most: Figure 4 (section 4).

    ray job submit --working-dir . -- python jobs/responses.py RUN [OPTIONS]

RUN is the run that jobs/classify.py has finished. OPTIONS are those of distcorr responses.

Resources: CPUs, or GPUs: it runs the network again, and asks for photographs and weights
where jobs/build_db.py found them.
Duration: measured 33 s on 2 CPU cores for 1,130 photographs with AlexNet conv1-5.
Cost: estimated 0.001 USD per 1,000 photographs, at an assumed 0.05 USD per core hour.
Safe to submit again: finished shards are skipped.
"""

import sys

from distcorr.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python {sys.argv[0]} RUN [OPTIONS]\n{__doc__}")
    app(["responses", "--run", *sys.argv[1:]])

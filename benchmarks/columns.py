"""Do the columns at keypoints know their parts? Linear SVMs on the ``points`` of a run.

    .venv/bin/python benchmarks/columns.py RUN CATEGORY

RUN is a folder that ``distcorr build-db -p paper`` has filled. A check of the store, not Table 3:
one C, 1 / mean squared norm. Prints accuracy on the validation photographs, per cent, and the share
of the most frequent part.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
from sklearn.svm import LinearSVC

from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.data.store import read_values


def main(run: str, category: str) -> None:
    """Measure every layer of the run."""
    stage = Run(run).current("build-db")
    assert stage is not None, f"no features in {run}"
    store = FeatureStore(stage)
    split = {i.id: i.split for i in store.instances if i.category == category}
    for name in sorted(name for name in store.tables if name.startswith("points/")):
        x, y, training = [], [], []
        for part in store.parts(name):
            values, _ = read_values(part)
            keys = zip(part["id"].to_pylist(), part["keypoint"].to_pylist(), values, strict=True)
            for instance, keypoint, value in keys:
                if instance in split:
                    x.append(value.astype(np.float32))
                    y.append(keypoint)
                    training.append(split[instance] == "train")
        features, labels, fit = np.array(x), np.array(y), np.array(training)
        c = 1 / np.mean((features[fit] ** 2).sum(axis=1))
        score = LinearSVC(C=c, dual=False).fit(features[fit], labels[fit])
        most = Counter(labels[~fit]).most_common(1)[0][1] / (~fit).sum()
        accuracy = score.score(features[~fit], labels[~fit])
        print(f"{name:<16} {100 * accuracy:5.1f}   most frequent {100 * most:4.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

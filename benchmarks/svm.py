"""Linear SVMs against scikit-learn's LinearSVC (liblinear), as ratios within one run; one core.

    .venv/bin/python benchmarks/svm.py [--features FILE.npz] [--rounds 3]

Run it alone on the machine. Features are drawn: clusters behind a ReLU, of norm 400 as raw convnet
columns are; or read from ``features`` (N, D) and ``labels`` (N,) of a file. LinearSVC gets them as
the float64 that it computes in, so that its own copy is not timed, and trains a few of the classes,
one at a time, with its tolerance (default 1e-4). Ours trains all of them. Each line is one C, given
as C times the mean squared norm of the features: the paper's C is about 0.2. Times are per
classifier, the median of rounds in which the two take turns. "gap" is how far the objective of
either is above the best that is known, relative to it, the mean over the classes that both trained.
The last line trains the whole row of C, ours as a path from the smallest to the largest.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from timing import ratio

from distcorr.algorithms import svm
from distcorr.stages.cluster import limit_threads

STRENGTHS = [10.0**e for e in range(-4, 3)]  # C times the mean squared norm
DRAWN = ((4_000, 384, 15), (16_000, 384, 32))  # samples, dimensions, classes
CLASSES = 3  # that LinearSVC trains in each round


def main() -> None:
    """One table for each matrix of features."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", metavar="FILE", help=".npz with features and labels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="LinearSVC's")
    arguments = parser.parse_args()
    limit_threads()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if arguments.features:
        with np.load(arguments.features) as file:
            table(file["features"], file["labels"], arguments.rounds, arguments.tolerance)
        return
    for count, width, classes in DRAWN:
        table(*drawn(count, width, classes), arguments.rounds, arguments.tolerance)


def drawn(count: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) float32 of norm 400 and labels (N,), rarer the higher they are."""
    rng, hidden = np.random.default_rng(0), 64
    mix = rng.normal(size=(hidden, width)).astype(np.float32) / hidden**0.5
    centres = rng.normal(size=(classes, hidden))
    share = 1 / np.arange(2, classes + 2) ** 0.5
    labels = rng.choice(classes, count, p=share / share.sum())
    x = (centres[labels] + 1.5 * rng.normal(size=(count, hidden))).astype(np.float32) @ mix
    x = np.maximum(x + 0.7 * rng.normal(size=x.shape).astype(np.float32) - 0.5, 0)
    x *= np.exp(0.3 * rng.normal(size=(count, 1)))
    x *= 400 / np.sqrt(np.square(x).sum(1).mean())
    return x.astype(np.float32), labels


def table(features: np.ndarray, labels: np.ndarray, rounds: int, tolerance: float) -> None:
    """All strengths, then the path over them."""
    x, doubles = np.asarray(features, np.float32), np.asarray(features, np.float64)
    targets = svm.one_vs_rest(labels, int(labels.max()) + 1)
    square = np.square(doubles).sum(1).mean()
    print(f"\n{len(x)} x {x.shape[1]} of norm {square**0.5:.0f}, {targets.shape[1]} classes")
    print("  C|x|^2   ours  LinearSVC (ms per classifier)  times      gap  of LinearSVC")
    svm.train(x[:100], labels[:100], 1 / square)  # compile
    together: list[list[float]] = [[], []]
    for strength in STRENGTHS:
        c = strength / square
        classes = np.linspace(0, targets.shape[1] - 1, CLASSES).astype(int)

        def peer(c: float = c, classes: np.ndarray = classes) -> list[LinearSVC]:
            model = [LinearSVC(C=c, dual=False, tol=tolerance) for _ in classes]
            return [m.fit(doubles, targets[:, k]) for m, k in zip(model, classes, strict=True)]

        ours_s, peer_s = [], []
        for _ in range(rounds):
            seconds, made = clocked(lambda c=c: svm.train(x, targets, c))
            ours_s.append(seconds / targets.shape[1])
            seconds, models = clocked(peer)
            peer_s.append(seconds / CLASSES)
        best = svm.train(x, targets, c, tolerance=1e-8, start=made).objective[classes]
        values = np.array(
            [
                objective(doubles, targets[:, k], m.coef_[0], m.intercept_[0], c)
                for m, k in zip(models, classes, strict=True)
            ]
        )
        gaps = [(found / best - 1).mean() for found in (made.objective[classes], values)]
        a, b = statistics.median(ours_s), statistics.median(peer_s)
        together[0].append(a), together[1].append(b)
        print(
            f"  {strength:6g} {1e3 * a:6.1f} {1e3 * b:10.1f} {ratio(peer_s, ours_s):26.1f} x "
            f"{gaps[0]:9.1e} {gaps[1]:9.1e}",
            flush=True,
        )
    cs = [strength / square for strength in STRENGTHS]
    spent = [clocked(lambda: svm.train_path(x, targets, cs))[0] for _ in range(rounds)]
    a, b = statistics.median(spent) / targets.shape[1], sum(together[1])
    print(
        f"  the row as a path {1e3 * a:.1f} ms, one by one {1e3 * sum(together[0]):.1f} ms, "
        f"LinearSVC {1e3 * b:.1f} ms: {b / a:.1f} x"
    )


def objective(x: np.ndarray, signs: np.ndarray, w: np.ndarray, b: float, c: float) -> float:
    """LinearSVC's, in float64."""
    slack = np.maximum(0, 1 - signs * (x @ w + b))
    return float(0.5 * (w @ w + b * b) + c * (slack @ slack))


def clocked(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()

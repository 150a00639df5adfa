"""Mining of section 5 against LinearSVC in its place, as ratios within one run; one core.

    .venv/bin/python benchmarks/mining.py [--features FILE.npz] [--rounds 3] [--peers 3]

Run it alone on the machine. Features are drawn: conv5 of 500 px boxes (30 x 30 x 256, half of it
zeros), in which every keypoint leaves a pattern; or read from ``grids`` (n, rows, cols, C) float16
and ``labels`` (n, K, rows - 2, cols - 2) int8 of a file. Both solvers work on the cache that ours
makes. Ours trains all detectors, each round from the last one's; LinearSVC (primal) starts anew, as
it cannot do otherwise, trains a few, one at a time, and gets its samples as float64 beforehand. Its
tolerance is the loosest that comes within 1e-3 of the best known objective. Times are per
detector. Scoring is one pass over all positions; its rate is that of the products that blocks of
features would take, as a share of a float32 product of two 1024 x 1024 matrices in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from svm import clocked
from timing import timed

from distcorr.algorithms import mining, windows
from distcorr.stages.cluster import limit_threads
from distcorr.types import Geometry

GEOMETRY = Geometry(500, 16, 17.0, 163, 30)  # conv5 of a 500 px box
BLOCK, MOST = 3, 500
TOLERANCES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)  # of LinearSVC, the loosest first


def main() -> None:
    """A line for each round, then the rate of scoring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", metavar="FILE", help=".npz with grids and labels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=int, default=3, help="detectors that LinearSVC trains")
    parser.add_argument("--instances", type=int, default=60, help="that are drawn")
    parser.add_argument("--keypoints", type=int, default=12, help="that are drawn")
    arguments = parser.parse_args()
    limit_threads()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    if arguments.features:
        with np.load(arguments.features) as file:
            grids, labels = file["grids"], file["labels"]
    else:
        grids, labels = drawn(arguments.instances, arguments.keypoints)
    rounds(grids, labels, arguments.rounds, arguments.peers)


def drawn(count: int, keypoints: int) -> tuple[np.ndarray, np.ndarray]:
    """Grids like conv5's after its ReLU, and the labels of keypoints that show in them."""
    rng = np.random.default_rng(0)
    points = rng.uniform(40, 460, (count, keypoints, 2))
    cells = windows.positions(GEOMETRY)
    away = np.square(points[:, :, None, None] - cells).sum(-1)
    grids = np.einsum(
        "nkyx,kc->nyxc", np.exp(-away / (2 * 24**2)), 2 * rng.normal(size=(keypoints, 256))
    )
    grids = np.maximum(grids + rng.normal(size=grids.shape), 0)
    rule = windows.field_rule(GEOMETRY, BLOCK)
    return grids.astype(np.float16), windows.labels(
        points, windows.positions(GEOMETRY, BLOCK), rule
    )


def rounds(grids: np.ndarray, labels: np.ndarray, count: int, peers: int) -> None:
    """The mining loop; LinearSVC in its place after each round."""
    numbers = range(len(grids))
    first = mining.first_samples(grids, labels, numbers, block=BLOCK, count=20, seed=2014)
    cache, scale = mining.Cache.of(first), mining.feature_scale(first)
    positions, keypoints = labels[0, 0].size, labels.shape[1]
    print(
        f"{len(grids)} x {positions} positions, {keypoints} detectors of {first.features.shape[1]}"
    )
    mining.refit(mining.Cache.of(first.at(np.arange(0, len(first), 9))), block=BLOCK, scale=scale)
    detectors = None
    print(
        "round  samples   ours  LinearSVC (ms per detector)  times     gap  of LinearSVC  score s"
    )
    for number in range(count + 1):
        spent, detectors = clocked(
            lambda: mining.refit(cache, block=BLOCK, scale=scale, start=detectors)  # noqa: B023
        )
        ours = 1e3 * spent / keypoints
        theirs, gaps = peer(cache, scale, detectors, peers)
        seconds, found = clocked(
            lambda: mining.hardest(grids, labels, numbers, detectors, cache.ids, MOST)  # noqa: B023
        )
        print(
            f"{number:5d} {len(cache.ids):8d} {ours:6.1f} {theirs:10.1f} {theirs / ours:24.1f} x "
            f"{gaps[0]:9.1e} {gaps[1]:9.1e} {seconds:12.2f}",
            flush=True,
        )
        if not len(found):
            break
        cache = cache.evict(detectors).add(found)
    rate(grids, detectors, positions)


def peer(
    cache: mining.Cache, scale: float, detectors: windows.Detectors, count: int
) -> tuple[float, tuple[float, float]]:
    """What LinearSVC takes per detector (ms), and how far ours and its objective are off."""
    known = np.concatenate([cache.first.labels, cache.mined.labels])
    features = np.concatenate([cache.first.features, cache.mined.features])
    x = features.astype(np.float64) * scale
    best = mining.refit(cache, block=BLOCK, scale=scale, start=detectors, tolerance=1e-7).linear
    spent, gaps = [], []
    for k in np.linspace(0, known.shape[1] - 1, count).astype(int):
        used = known[:, k] != 0
        rows, signs = x[used], known[used, k]
        weights = np.where(signs == 1, mining.POSITIVE, 1.0)
        ours = detectors.linear.objective[k] / best.objective[k] - 1
        for tolerance in TOLERANCES:
            model = LinearSVC(C=mining.C, dual=False, tol=tolerance, intercept_scaling=mining.BIAS)
            seconds, model = clocked(lambda: model.fit(rows, signs, sample_weight=weights))  # noqa: B023
            size = 0.5 * (np.square(model.coef_).sum() + (model.intercept_[0] / mining.BIAS) ** 2)
            slack = np.maximum(0, 1 - signs * (rows @ model.coef_[0] + model.intercept_[0]))
            gap = (size + mining.C * weights @ slack**2) / best.objective[k] - 1
            if gap <= 1e-3:
                break
        spent.append(1e3 * seconds)
        gaps.append((ours, gap))
    return statistics.median(spent), tuple(np.mean(gaps, axis=0))


def rate(grids: np.ndarray, detectors: windows.Detectors, positions: int) -> None:
    """The scoring pass as a share of a matrix product's rate."""
    width, count = detectors.linear.coef.shape[::-1]
    grids = grids[: max(1, len(grids) // 4)]
    a = torch.rand(1024, 1024)
    windows.score(grids, detectors), a @ a
    shares, rates = [], []
    for _ in range(5):
        product = 2 * 1024**3 / timed(lambda: a @ a)[0]
        made = 2 * len(grids) * positions * width * count
        rates.append(made / timed(lambda: windows.score(grids, detectors))[0])
        shares.append(rates[-1] / product)
    print(
        f"scoring {statistics.median(rates) / 1e9:.0f} GFLOP/s, "
        f"{statistics.median(shares):.2f} of a matrix product's rate"
    )


if __name__ == "__main__":
    main()

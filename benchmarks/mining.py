"""Mining of section 5 against LinearSVC in its place, as ratios within one run; one core.

    .venv/bin/python benchmarks/mining.py [--features FILE.npz] [--rounds 3] [--peers 3]

Run it alone on the machine. Features are drawn: conv5 of 500 px boxes (30 x 30 x 256, half of it
zeros), in which every keypoint leaves a pattern; or read from ``grids`` (n, rows, cols, C) float16
and ``labels`` (n, K, rows - 2, cols - 2) int8 of a file. Both solvers work on the cache that ours
makes. Ours trains all detectors, each round from the last one's; LinearSVC (primal) starts anew, as
it cannot do otherwise, trains a few, one at a time, and gets its samples as float64 beforehand. Its
tolerance is the loosest that comes within 1e-3 of the best known objective. Times are wall clock.

Scoring is one pass over all positions, from float16 grids to float32 scores. Its rate is that of
the products that blocks of features would take, padding and overlap not counted, as a share of a
float32 product of two 1024 x 1024 matrices in the same run; and so is that of torch's 3 x 3
convolution, which gets the same grids as float32 in the layout that it likes best.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from svm import clocked
from timing import ROUNDS, timed

from distcorr.algorithms import mining, svm, windows
from distcorr.stages.cluster import limit_threads
from distcorr.types import Geometry

GEOMETRY = Geometry(500, 16, 17.0, 163, 30)  # conv5 of a 500 px box
BLOCK, MOST = 3, 500
DETECTORS = (18, 108, 256)  # of a category of many keypoints, of six such, and more
TOLERANCES = (1.0, 0.1, 1e-2, 1e-3, 1e-4)  # of LinearSVC, the loosest first


def main() -> None:
    """A line for each round and their medians, then the rates of scoring."""
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
    for detectors in DETECTORS:
        rate(grids[:16], detectors)


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
        "round  samples   ours  LinearSVC (ms per detector)  times     gap  of LinearSVC"
        "  ours (s per round)  LinearSVC  scoring"
    )
    every = []
    for number in range(count + 1):
        spent, detectors = clocked(
            lambda: mining.refit(cache, block=BLOCK, scale=scale, start=detectors)  # noqa: B023
        )
        ours = 1e3 * spent / keypoints
        theirs, gaps = peer(cache, scale, detectors, peers)
        seconds, (found, _) = clocked(
            lambda: mining.hardest(grids, labels, numbers, detectors, cache.ids, MOST)  # noqa: B023
        )
        every.append((ours, theirs, theirs / ours, *gaps, spent, theirs * keypoints / 1e3, seconds))
        print(f"{number:5d} {len(cache.ids):8d} {line(every[-1])}", flush=True)
        if not len(found):
            break
        cache = cache.evict(detectors).add(found)
    print(f"median {'':7} {line(np.median(every, axis=0))}")


def line(of: Sequence[float]) -> str:
    """The numbers of one round."""
    return "{:6.1f} {:10.1f} {:24.1f} x {:9.1e} {:9.1e} {:16.2f} {:12.2f} {:8.2f}".format(*of)


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


def rate(grids: np.ndarray, count: int) -> None:
    """The scoring pass, and a convolution alone, as shares of a matrix product's rate."""
    n, rows, cols, channels = grids.shape
    width = BLOCK**2 * channels
    rng = np.random.default_rng(0)
    nothing = np.zeros(count)
    linear = svm.Linear(rng.normal(size=(count, width)), *[nothing] * 5)
    detectors = windows.Detectors(linear, BLOCK)
    made = 2 * n * (rows - BLOCK + 1) * (cols - BLOCK + 1) * width * count
    a = torch.rand(1024, 1024)
    x = torch.from_numpy(grids).float().permute(0, 3, 1, 2)
    kernel = torch.from_numpy(linear.coef).float().reshape(count, BLOCK, BLOCK, channels)
    kernel = kernel.permute(0, 3, 1, 2)  # of channels-last memory, as x is
    calls: tuple[Callable[[], object], ...] = (
        lambda: a @ a,
        lambda: windows.score_positions(grids, detectors),
        lambda: [torch.nn.functional.conv2d(some, kernel) for some in x.split(windows.BATCH)],
    )
    work = np.array([2 * 1024**3, made, made])
    with torch.inference_mode():
        for call in calls:
            call()
        spent = np.array([[timed(call)[0] for call in calls] for _ in range(ROUNDS)])
    rates = work / spent
    gemm, ours, alone = np.median(rates, axis=0) / 1e9
    shares = np.median(rates[:, 1:] / rates[:, :1], axis=0)
    print(
        f"{count:3d} detectors: scoring {ours:.0f} GFLOP/s, {shares[0]:.2f} of a matrix product's "
        f"{gemm:.0f}; conv2d alone {alone:.0f}, {shares[1]:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""PCK by every definition, with its bootstrap: time, against plain numpy.

    .venv/bin/python benchmarks/pck.py [--points 500000] [--small 20000] [--resamples 1000]

Run it alone on the machine, one core, some two minutes. Predictions are drawn: 10 keypoints of each
object, one object in each photograph, so that there are as many photographs to draw as there can
be, in 20 categories. First they are scored with samples by one definition of each kind of average,
and by all at once; then files of them are read. Then, on fewer points, against plain numpy: for
every replicate, photographs are drawn with replacement within each category, their predictions
gathered and averaged anew. Both give the same value; their intervals agree up to the draw.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from timing import ratio, timed

from distcorr.algorithms import pck
from distcorr.algorithms.dialect_scores import Points, evaluate, measure
from distcorr.algorithms.dialects import DIALECTS, Dialect
from distcorr.data.prediction_files import BOX, SIZE, read
from distcorr.stages.cluster import limit_threads

CATEGORIES, KEYPOINTS, ALPHA = 20, 10, 0.1
KINDS = ("long2014", "dift-point", "dift-image")  # by keypoint type, point and image
ROUNDS = 3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--points", type=int, default=500_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--resamples", type=int, default=1000)
    arguments = parser.parse_args()
    limit_threads()
    points = drawn(arguments.points)
    every = [dialect for dialect in DIALECTS.values() if not dialect.error]
    for asked in (*([DIALECTS[name]] for name in KINDS), every):
        began = time.process_time()  # of one core
        evaluate({"": points}, asked, [ALPHA], resamples=arguments.resamples)
        name = asked[0].name if len(asked) == 1 else f"all {len(asked)} definitions"
        print(
            f"{name:<24} {arguments.points:,} points, {arguments.resamples:,} replicates"
            f" {time.process_time() - began:7.2f} s",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'largest memory':<24} {peak:,.0f} MB")
    reading(points)
    small = drawn(arguments.small)
    for name in KINDS:
        against_numpy(name, small, arguments.resamples)


def reading(points: Points) -> None:
    """How long a Parquet and a CSV file of the points take to be read and checked."""
    table = tabled(points)
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(table, path := os.path.join(folder, "p.parquet"))
        print(
            f"{'reading Parquet':<24} {table.num_rows:,} rows {timed(lambda: read(path))[0]:.2f} s"
        )
        pa.csv.write_csv(table, path := os.path.join(folder, "p.csv"))
        print(f"{'reading CSV':<24} {table.num_rows:,} rows {timed(lambda: read(path))[0]:.2f} s")


def against_numpy(name: str, points: Points, resamples: int) -> None:
    """Ours and plain numpy in turn."""
    dialect, ours, plain = DIALECTS[name], [], []
    for n in range(ROUNDS):
        spent, found = timed(
            lambda n=n: evaluate({"": points}, [dialect], [ALPHA], resamples=resamples, seed=n)
        )
        ours.append(spent)
        spent, wanted = timed(lambda n=n: by_numpy(points, dialect, resamples, n))
        plain.append(spent)
    score = found["", name]
    low, high = pck.interval(score.samples)
    shares = [
        "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * share for share in each))
        for each in ((score.value[0], low[0], high[0]), wanted)
    ]
    print(
        f"{name:<24} {len(points.true):,} points: {min(ours):.3f} s, plain numpy"
        f" {min(plain):.2f} s, {ratio(plain, ours):.0f} x; {' and '.join(shares)}",
        flush=True,
    )


def by_numpy(
    points: Points, dialect: Dialect, resamples: int, seed: int
) -> tuple[float, float, float]:
    """PCK and the ends of its interval: the average of the rows of the photographs drawn."""
    distance, reach = measure(points, dialect)
    right = distance <= ALPHA * reach
    rng, rows_of = np.random.default_rng(seed), {}
    for category in range(CATEGORIES):
        mine = np.flatnonzero(points.category == category)
        by_image = mine[np.argsort(points.image[mine], kind="stable")]
        rows_of[category] = by_image.reshape(-1, KEYPOINTS)  # one object in each photograph

    def average(drawn: dict[int, np.ndarray]) -> float:
        if dialect.averaging == "type":
            of = [[right[r[:, k]].mean() for k in range(KEYPOINTS)] for r in drawn.values()]
            return float(np.mean([np.mean(shares) for shares in of]))
        rows = np.concatenate(list(drawn.values()))
        by_object = right[rows].mean(axis=1)  # all show as many keypoints
        return float(by_object.mean() if dialect.averaging == "image" else right[rows].mean())

    samples = [
        average({c: r[rng.integers(0, len(r), len(r))] for c, r in rows_of.items()})
        for _ in range(resamples)
    ]
    low, high = np.quantile(samples, [0.025, 0.975])
    return average(rows_of), float(low), float(high)


def drawn(count: int) -> Points:
    """So many predictions."""
    rng = np.random.default_rng(0)
    objects = count // KEYPOINTS

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, KEYPOINTS, axis=0)

    corner = rng.uniform(0, 80, (objects, 2))
    box = each(np.hstack([corner, corner + rng.uniform(60, 110, (objects, 2))]))
    true = box[:, :2] + rng.random((len(box), 2)) * (box[:, 2:] - box[:, :2])
    return Points(
        true,
        true + rng.normal(0, 9, true.shape),
        each(rng.integers(0, CATEGORIES, objects)),
        each(np.arange(objects)),
        each(np.arange(objects)),
        np.tile(np.arange(KEYPOINTS), objects),
        box=box,
        size=each(rng.integers(200, 500, (objects, 2)).astype(float)),
    )


def tabled(points: Points) -> pa.Table:
    """As somebody would save them."""
    names = {
        "method": np.full(len(points.true), "ours"),
        "category": np.char.add("category", points.category.astype(str)),
        "image": np.char.add("JPEGImages/", points.image.astype(str)),
        "instance": np.char.add("object#", points.instance.astype(str)),
        "keypoint": np.char.add("keypoint", points.keypoint.astype(str)),
    }
    assert points.box is not None
    assert points.size is not None
    xy = np.hstack([points.predicted, points.true, points.box, points.size]).T
    return pa.table(names | dict(zip(("x", "y", "true_x", "true_y", *BOX, *SIZE), xy, strict=True)))


if __name__ == "__main__":
    main()

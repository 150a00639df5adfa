"""Exact search in parts against faiss IndexFlatIP on the whole matrix: ratios in one run, one core.

    .venv/bin/python benchmarks/knn.py [--cells 200000] [--width 256] [--queries 961] [--parts 8]

Run it alone on the machine. Features are drawn: clusters behind a ReLU, of norm 1. Ours searches
the parts one after the other and merges, as a worker does; "in turn" passes on what was found as a
floor, "alone" does not, as workers of their own would. faiss gets the whole matrix at once and its
index is built beforehand; so are our parts. Both return the k best of each query; ours are ranked
by cosines without rounding error, with ties by id. For a smaller size: --cells 20000.
With few queries (200) faiss itself leaves BLAS and is several times slower than with 500.
"""

from __future__ import annotations

import argparse

import faiss
import numpy as np
from timing import compare

from distcorr.algorithms.search import Found, Part, merge, search
from distcorr.stages.cluster import limit_threads


def main() -> None:
    """One line for each k and way to search the parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=961)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--k", type=int, nargs="*", default=[1, 5, 50, 500])
    arguments = parser.parse_args()
    limit_threads()
    base, queries = drawn(arguments.cells, arguments.queries, arguments.width)
    index = faiss.IndexFlatIP(arguments.width)
    index.add(base)
    parts = [
        Part(base[at], at, at // 690)  # cells of a photograph of 500 x 375 px
        for at in np.array_split(np.arange(len(base)), arguments.parts)
    ]
    for k in arguments.k:
        for way in ("in turn", "alone"):

            def ours(k: int = k, in_turn: bool = way == "in turn") -> Found:
                return in_parts(parts, queries, k, in_turn)

            agree = (ours().ids == index.search(queries, k)[1]).mean()
            compare(
                f"k = {k}, {arguments.parts} parts {way}, {100 * agree:.2f} % alike",
                ours,
                lambda k=k: index.search(queries, k),
                "IndexFlatIP, whole",
            )


def in_parts(parts: list[Part], queries: np.ndarray, k: int, in_turn: bool) -> Found:
    """Search all parts and merge."""
    best = search(parts[0], queries, k)
    for part in parts[1:]:
        floor = best.cosines[:, -1] if in_turn else None
        best = merge([best, search(part, queries, k, floor=floor)], k)
    return best


def drawn(cells: int, queries: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (cells, width) and (queries, width) float32 around 2,000 common centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, width)).astype(np.float32)

    def draw(count: int) -> np.ndarray:
        noise = rng.normal(size=(count, width)).astype(np.float32)
        x = np.maximum(centres[rng.integers(0, len(centres), count)] + noise, 0)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return draw(cells), draw(queries)


if __name__ == "__main__":
    main()

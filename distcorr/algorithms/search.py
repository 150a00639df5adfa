"""Exact nearest neighbours by cosine in a data base cut into parts (paper, Figures 1 and 2).

BLAS multiplies a tile of queries with a tile of cells; what exceeds a query's floor is a proposal,
and the floor rises with the proposals. Those left at the end are scored again, exactly: unit
vectors are rounded to multiples of 2^-24, so that float64 sums of their products have no rounding
error and come out the same in any order, on any machine. No answer depends on how the data base is
cut into parts or the queries into batches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from distcorr.algorithms import _search_cpu
from distcorr.types import FloatArray

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]

TILE = 1024  # queries and cells of one product: 4 MB of scores
CACHED = 1 << 16  # features of a block of cells that are scored together: 256 kB
PROPOSALS = 1 << 22  # kept at a time: 64 MB with their keys
_ROW = (1 << 32) - 1  # the half of a key that holds the row


class Found(NamedTuple):
    """Neighbours of m queries, best first, ties by lower id.

    Attributes:
        ids: (m, k) int64 global ids of cells; -1 where there are fewer.
        cosines: (m, k) float32, multiples of 2^-24; NaN where there are fewer.
    """

    ids: Ids
    cosines: FloatArray


class Part:
    """The cells of one shard of the data base, as unit vectors.

    Cells whose feature is zero have no cosine and are left out.

    Attributes:
        features: (n, D) float32 of norm 1, components rounded to multiples of 2^-24.
        ids: (n,) int64 global ids, ascending.
        photographs: (n,) int32 the number of each cell's photograph.
        zeros: (z,) int64 ids of the cells left out.
    """

    def __init__(
        self,
        features: npt.NDArray[np.floating[Any]],
        ids: npt.NDArray[np.integer[Any]],
        photographs: npt.NDArray[np.integer[Any]],
    ) -> None:
        """Of (n, D) features of any norm, float16 or float32, (n,) ids and (n,) photographs.

        Raises:
            ValueError: shapes disagree, a value is not finite, ids are negative or not strictly
                ascending, a photograph's number is negative.
        """
        if not len(features) == len(ids) == len(photographs):
            lengths = f"{len(features)}, {len(ids)} and {len(photographs)}"
            raise ValueError(f"features, ids and photographs must be as many, got {lengths}")
        if len(ids) and (ids[0] < 0 or photographs.min() < 0 or (np.diff(ids) <= 0).any()):
            raise ValueError("ids must be ascending, and none negative, nor any photograph")
        unit, solid = _unit(features)
        self.zeros: Ids = ids[~solid].astype(np.int64)
        self.features = unit if solid.all() else unit[solid]
        self.ids: Ids = ids[solid].astype(np.int64)
        self.photographs: npt.NDArray[np.int32] = photographs[solid].astype(np.int32)

    def __len__(self) -> int:
        return len(self.ids)


def search(
    part: Part,
    queries: npt.NDArray[np.floating[Any]],
    k: int,
    exclude: npt.NDArray[np.integer[Any]] | None = None,
    floor: FloatArray | None = None,
) -> Found:
    """The k cells of a part with the largest cosine to each query.

    Exact. Who searches parts one after the other passes the k-th cosines of what is found so far
    as ``floor`` and saves work; ``merge`` gives the same with it and without.

    Args:
        part: n cells.
        queries: (m, D) of any norm; a zero vector gets no neighbours.
        k: neighbours per query.
        exclude: (m, e) numbers of photographs none of whose cells count, padded with -1.
        floor: (m,) cosines; a cell below may be left out. NaN leaves out nothing.

    Raises:
        ValueError: shapes disagree, a query is not finite, k is below 1.
    """
    unit, solid, banned = _checked(part, queries, k, exclude)
    slack = _slack(part.features.shape[1])
    floors = np.full(len(unit), -np.inf, np.float32)
    if floor is not None:
        floors = np.where(np.isnan(floor), floors, floor - slack).astype(np.float32)
    floors[~solid] = np.inf
    capacity = min(len(part), 4 * k + 256)  # more proposals: seldom thinned out, but more memory
    size = max(1, min(TILE, PROPOSALS // max(1, capacity)))
    blocks = [slice(start, start + size) for start in range(0, len(unit), size)]
    return _stacked(
        [_search(part, unit[at], k, banned[at], floors[at], capacity) for at in blocks], k
    )


def _search(
    part: Part, unit: FloatArray, k: int, banned: Array, floors: Array, capacity: int
) -> Found:
    """``search`` of a block of queries."""
    slack = _slack(unit.shape[1])
    rows = np.empty((len(unit), capacity), np.int32)
    guesses = np.empty((len(unit), capacity), np.float32)
    counts = np.zeros(len(unit), np.int64)
    memory = np.empty(len(unit) * TILE, np.float32)
    for first in range(0, len(part), TILE):
        tile = part.features[first : first + TILE]
        scores = memory[: len(unit) * len(tile)].reshape(len(unit), len(tile))
        np.matmul(unit, tile.T, out=scores)
        _search_cpu.propose(
            *(scores, first, part.features, unit, part.photographs, banned),
            *(k, slack, floors, rows, guesses, counts),
        )
    _search_cpu.thin_all(part.features, unit, k, slack, rows, guesses, counts)
    return _ranked(part, unit, k, rows, counts)


def merge(parts: Sequence[Found], k: int) -> Found:
    """The best k of what was found in parts that share no cell; exact, in any order or grouping.

    Raises:
        ValueError: nothing to merge, or parts for different numbers of queries.
    """
    if not parts or len({len(found.ids) for found in parts}) != 1:
        counts = [len(found.ids) for found in parts]
        raise ValueError(f"merge needs parts found for the same queries, got {counts} of them")
    m = len(parts[0].ids)
    return functools.reduce(functools.partial(_merge, k=k), parts, _nothing(m, 0))


def _merge(a: Found, b: Found, k: int) -> Found:
    merged = _nothing(len(a.ids), k)
    _search_cpu.merge_sorted(*a, *b, *merged)
    return merged


class Approximate:
    """An inverted file of a part (faiss IVF-Flat): quicker, and it may miss neighbours.

    The cosines of those that it finds are exact, and ``merge`` takes them. Not in the paper.
    """

    def __init__(self, part: Part, lists: int | None = None, seed: int = 0) -> None:
        """Clusters the cells into ``lists``; None: 4 sqrt(n), as faiss recommends."""
        self._part = part
        lists = lists or max(1, int(4 * len(part) ** 0.5))
        width = part.features.shape[1]
        faiss.omp_set_num_threads(1)  # parallelism belongs to the parts
        self._index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, min(lists, len(part)), faiss.METRIC_INNER_PRODUCT
        )
        self._index.cp.seed = seed
        self._index.cp.min_points_per_centroid = 1  # or faiss prints a warning
        if len(part):
            self._index.train(part.features)
            self._index.add(part.features)

    def search(
        self,
        queries: npt.NDArray[np.floating[Any]],
        k: int,
        exclude: npt.NDArray[np.integer[Any]] | None = None,
        probes: int = 32,
    ) -> Found:
        """As ``search``, among the cells of the ``probes`` lists nearest to each query."""
        part = self._part
        unit, solid, banned = _checked(part, queries, k, exclude)
        if not len(part) or not len(unit):
            return _nothing(len(unit), k)
        photographs, cells = np.unique(part.photographs, return_counts=True)
        spare = (cells * (banned[:, :, None] == photographs).any(1)).sum(1).max()
        self._index.nprobe = probes
        _, rows = self._index.search(unit, int(min(len(part), k + spare)))
        rows[~solid] = -1
        rows[(part.photographs[rows][:, :, None] == banned[:, None, :]).any(2)] = -1
        counts = (rows >= 0).sum(1)
        rows = np.sort(np.where(rows < 0, _ROW, rows), axis=1)
        return _ranked(part, unit, k, rows, counts)


def recall(found: Found, exact: Found) -> float:
    """The share of the exact neighbours that were found; NaN where there are none."""
    there = [
        np.isin(known[known >= 0], some) for some, known in zip(found.ids, exact.ids, strict=True)
    ]
    hits: Array = np.concatenate([*there, np.zeros(0, bool)])
    return float(hits.mean()) if len(hits) else np.nan


def _slack(width: int) -> float:
    """More than a float32 inner product of unit vectors can be wrong by, and a step besides."""
    return (width + 8) * float(np.finfo(np.float32).eps)


def _unit(features: npt.NDArray[np.floating[Any]]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(n, D) unit vectors in multiples of 2^-24, zero vectors as zeros; (n,) which are not."""
    rows = np.ascontiguousarray(features, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"features must be (n, D), got {rows.shape}")
    unit, norms = np.empty_like(rows), np.empty(len(rows))
    _search_cpu.normalise(rows, unit, norms)
    if not np.isfinite(norms).all():
        raise ValueError("features must be finite, got NaN or infinity")
    return unit, norms >= _search_cpu.ZERO


def _checked(
    part: Part,
    queries: npt.NDArray[np.floating[Any]],
    k: int,
    exclude: npt.NDArray[np.integer[Any]] | None,
) -> tuple[FloatArray, npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    unit, solid = _unit(queries)
    if unit.shape[1] != part.features.shape[1]:
        shapes = f"{part.features.shape} and {unit.shape}"
        raise ValueError(f"cells and queries must be (n, D) and (m, D), got {shapes}")
    banned = np.full((len(unit), 0), -1) if exclude is None else np.asarray(exclude)
    if banned.ndim != 2 or len(banned) != len(unit):
        raise ValueError(f"exclude must be ({len(unit)}, e), got {banned.shape}")
    return unit, solid, np.ascontiguousarray(banned, np.int32)


def _nothing(m: int, k: int) -> Found:
    return Found(np.full((m, k), -1, np.int64), np.full((m, k), np.nan, np.float32))


def _stacked(blocks: list[Found], k: int) -> Found:
    ids, cosines = zip(*[_nothing(0, k), *blocks], strict=True)
    return Found(np.concatenate(ids), np.concatenate(cosines))


def _ranked(part: Part, unit: FloatArray, k: int, rows: Array, counts: Array) -> Found:
    """The best k of the first ``counts`` (m,) of the proposed ``rows`` (m, f), which ascend."""
    keys = np.full((len(unit), max(k, counts.max(initial=0))), np.iinfo(np.int64).max)
    _search_cpu.score(part.features, unit, rows, counts, max(1, CACHED // unit.shape[1]), keys)
    keys.sort(axis=1)
    keys, found = keys[:, :k], np.arange(k) < counts[:, None]
    ids, cosines = _nothing(len(unit), k)
    ids[found] = part.ids[keys[found] & _ROW]
    cosines[found] = 1 - (keys[found] >> 32) / _search_cpu.STEP
    return Found(ids, cosines)


# --- Loops, compiled. A key holds 1 - cosine in its upper half and the row in its lower one. ---

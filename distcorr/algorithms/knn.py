"""Exact nearest neighbours by cosine (paper, section 3; protocol, section 8.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from distcorr.types import FloatArray

Indices = npt.NDArray[np.intp]

SPARE = 8  # candidates fetched beyond the k asked for, to see that no tie is cut
SLACK = 1e-4  # more than a float32 inner product of unit vectors can be wrong by


def cosine_topk(
    base: FloatArray,
    queries: FloatArray,
    k: int,
    exclude: Sequence[npt.NDArray[np.integer[Any]]] | None = None,
) -> tuple[Indices, FloatArray]:
    """The k rows of ``base`` with the largest cosine to each query, ties by lower index.

    Exact: faiss proposes by float32 inner product, the proposals are scored in float64 and more
    are fetched until no row left out can come into the first k. A zero vector has cosine 0 with
    everything and comes after every other row.

    Args:
        base: (n, D) float32.
        queries: (m, D) float32.
        k: neighbours per query.
        exclude: per query, rows of ``base`` never returned; None excludes nothing.

    Returns:
        indices (m, k) intp and cosines (m, k) float32, best first; where fewer than k rows are
        left the rest is -1 and NaN.

    Raises:
        ValueError: shapes disagree, a value is not finite, k is below 1.
    """
    base, queries = np.asarray(base, np.float32), np.asarray(queries, np.float32)
    if base.ndim != 2 or queries.ndim != 2 or base.shape[1] != queries.shape[1]:
        shapes = f"{base.shape} and {queries.shape}"
        raise ValueError(f"base and queries must be (n, D) and (m, D), got {shapes}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not (np.isfinite(base).all() and np.isfinite(queries).all()):
        raise ValueError("base and queries must be finite, got NaN or infinity")
    if exclude is not None and len(exclude) != len(queries):
        raise ValueError(f"exclude must name {len(queries)} queries, got {len(exclude)}")
    nothing: list[Indices] = [np.zeros(0, np.intp)] * len(queries)
    banned = [np.unique(np.asarray(e, np.intp)) for e in (nothing if exclude is None else exclude)]
    if any(len(e) and (e[0] < 0 or e[-1] >= len(base)) for e in banned):
        raise ValueError(f"exclude must hold rows of base, 0 to {len(base) - 1}")
    return _topk(base, queries, k, banned)


def _topk(
    base: FloatArray, queries: FloatArray, k: int, banned: list[Indices]
) -> tuple[Indices, FloatArray]:
    indices = np.full((len(queries), k), -1, np.intp)
    cosines = np.full((len(queries), k), np.nan, np.float32)
    base_norm, query_norm = _norm(base), _norm(queries)
    solid, zero = np.flatnonzero(base_norm), np.flatnonzero(base_norm == 0)
    faiss.omp_set_num_threads(1)  # parallelism belongs to the shards
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(_unit(base[solid], base_norm[solid]))
    unit = _unit(queries, query_norm)
    pending = np.arange(len(queries))
    fetch = k + max(map(len, banned), default=0) + SPARE
    while len(pending):
        fetch = min(fetch, len(solid))
        proposed = np.empty((len(pending), 0), np.float32)
        rows = np.empty((len(pending), 0), np.intp)
        if fetch:
            proposed, rows = index.search(unit[pending], fetch)
        unsure = []
        for query, row, score in zip(pending, rows, proposed, strict=True):
            found = np.setdiff1d(solid[row], banned[query])  # ascending: ties go to the lower index
            norms = base_norm[found] * (query_norm[query] or 1)
            exact = np.einsum("nd,d->n", base[found], queries[query], dtype=np.float64) / norms
            cosine = exact.astype(np.float32)
            best = np.argsort(-cosine, kind="stable")[:k]
            complete = fetch == len(solid)
            if not complete and (len(best) < k or score[-1] + SLACK >= cosine[best[-1]]):
                unsure.append(query)
                continue
            rest = np.setdiff1d(zero, banned[query])[: k - len(best)]
            count = len(best) + len(rest)
            indices[query, :count] = np.concatenate([found[best], rest])
            cosines[query, :count] = np.concatenate([cosine[best], np.zeros(len(rest))])
        pending = np.array(unsure, np.intp)
        fetch *= 4
    return indices, cosines


def _norm(rows: FloatArray) -> npt.NDArray[np.float64]:
    norm: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return norm


def _unit(rows: FloatArray, norm: npt.NDArray[np.float64]) -> FloatArray:
    unit: FloatArray = rows / np.where(norm > 0, norm, 1).astype(np.float32)[:, None]
    return unit

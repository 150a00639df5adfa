"""Who is aligned with whom: every target's neighbours, and the shards of ``transfer``.

A large data set has tens of millions of pairs, so they are columns of numbers here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Pairs = list[tuple[str, float]]
_Integers = npt.NDArray[np.int32]


class Neighbors(Mapping[str, Pairs]):
    """Instance -> its neighbours and their cosines, best first; [] for those that have none."""

    def __init__(self, ids: Sequence[str], tables: Iterable[pa.Table]) -> None:
        """
        Args:
            ids: of all instances.
            tables: with target, neighbor and cosine, the pairs of a target in rank order.

        Raises:
            KeyError: a pair of an instance that is not among ``ids``.
        """
        self._ids = ids
        self._row = {name: row for row, name in enumerate(ids)}
        found = [
            (self._rows(table["target"]), self._rows(table["neighbor"]), table["cosine"].to_numpy())
            for table in tables
        ]
        nothing = np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
        target, neighbor, cosine = map(np.concatenate, zip(nothing, *found, strict=True))
        order = np.argsort(target, kind="stable")
        self._neighbor: _Integers = neighbor[order]
        self._cosine: npt.NDArray[np.float32] = cosine[order]
        counts = np.bincount(target, minlength=len(ids))
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def _rows(self, column: pa.ChunkedArray) -> _Integers:
        encoded = column.combine_chunks().dictionary_encode()
        rows = np.array([self._row[name] for name in encoded.dictionary.to_pylist()], np.int32)
        found: _Integers = rows[encoded.indices.to_numpy(zero_copy_only=False)]
        return found

    def __getitem__(self, target: str) -> Pairs:
        start, stop = self._starts[(row := self._row[target]) : row + 2]
        names = [self._ids[n] for n in self._neighbor[start:stop]]
        return list(zip(names, self._cosine[start:stop].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def count(self, targets: Iterable[str]) -> int:
        """How many pairs they have together."""
        rows = np.array([self._row[target] for target in targets], np.intp)
        return int((self._starts[rows + 1] - self._starts[rows]).sum())

    def together(self, targets: Sequence[str]) -> list[str]:
        """The targets, sorted by the names of their neighbours, the nearest first, and their own.

        So those that share their nearest neighbours stand together, and are read together.
        """
        rows = np.array([self._row[target] for target in targets], np.intp)
        first = self._starts[rows]
        counts = self._starts[rows + 1] - first
        near = np.full((len(rows), counts.max(initial=0)), -1, np.int64)  # who has fewer is first
        place = np.arange(near.shape[1]) < counts[:, None]
        near[place] = self._neighbor[(first[:, None] + np.arange(near.shape[1]))[place]]
        every = np.unique(np.append(near[place], rows))
        names = np.array([self._ids[n] for n in every], object)
        rank = np.empty(len(every), np.int64)
        rank[np.argsort(names, kind="stable")] = np.arange(len(every))
        near[place] = rank[np.searchsorted(every, near[place])]
        own = rank[np.searchsorted(every, rows)]
        order = np.lexsort((own, *near.T[::-1]))
        return [targets[n] for n in order]


def chunks(
    targets: Sequence[str], neighbors: Mapping[str, Pairs], size: int, layers: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Targets ``size`` at a time, and by layer the digest of what such a shard is made from.

    The digest is that of ``[layer, [[target, neighbours], ...]]``; the long part is written once.
    """
    for start in range(0, len(targets), size):
        chunk = tuple(targets[start : start + size])
        body = json.dumps([[t, neighbors[t]] for t in chunk], separators=(",", ":"))
        yield chunk, {layer: _digest(layer, body) for layer in layers}


def _digest(layer: str, body: str) -> str:
    return hashlib.sha256(f"[{json.dumps(layer)},{body}]".encode()).hexdigest()[:16]

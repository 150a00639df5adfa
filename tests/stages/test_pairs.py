"""Who is aligned with whom, as columns: against dictionaries of lists."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.config import digest
from distcorr.stages.pairs import Neighbors, chunks

IDS = [f"i{n}" for n in (10, 2, 33, 4, 51, 6, 7)]  # whose order is not that of their numbers
Found = dict[str, list[tuple[str, float]]]


def tables(found: Found, parts: int) -> list[pa.Table]:
    rows = [(t, n, c) for t, pairs in found.items() for n, c in pairs]
    cuts = np.linspace(0, len(rows), parts + 1).astype(int)
    names = ("target", "neighbor", "cosine")
    kinds = (pa.string(), pa.string(), pa.float32())
    return [
        pa.table(
            {
                name: pa.array([row[k] for row in rows[a:b]], kind)
                for k, (name, kind) in enumerate(zip(names, kinds, strict=True))
            }
        )
        for a, b in itertools.pairwise(cuts)
    ]


pairs_of = st.lists(st.sampled_from(IDS), unique=True, max_size=4)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(IDS), pairs_of), st.integers(1, 3), st.integers(1, 3))
def test_columns_say_what_the_lists_say(drawn: dict[str, list[str]], parts: int, size: int) -> None:
    cosine = float(np.float32(0.7))
    found: Found = {t: [(n, cosine / (k + 1)) for k, n in enumerate(of)] for t, of in drawn.items()}
    found = {t: [(n, float(np.float32(c))) for n, c in of] for t, of in found.items()}
    neighbors = Neighbors(IDS, tables(found, parts))
    assert list(neighbors) == IDS
    assert {t: neighbors[t] for t in IDS} == {t: found.get(t, []) for t in IDS}
    assert neighbors.count(IDS[1:4]) == sum(len(found.get(t, [])) for t in IDS[1:4])
    together = neighbors.together(IDS)
    assert together == sorted(IDS, key=lambda t: ([n for n, _ in found.get(t, [])], t))
    cut = list(chunks(together, neighbors, size, ["conv4", 'a "b"']))
    assert [t for chunk, _ in cut for t in chunk] == together
    for chunk, inputs in cut:
        assert len(chunk) <= size
        for layer in ("conv4", 'a "b"'):
            whole = [layer, [[t, found.get(t, [])] for t in chunk]]
            assert inputs[layer] == digest(whole)[:16]


def test_a_pair_of_a_stranger_is_refused() -> None:
    with pytest.raises(KeyError, match="nobody"):
        Neighbors(IDS, tables({"i2": [("nobody", 0.5)]}, 1))
    assert Neighbors(IDS, []).together(IDS[:2]) == ["i10", "i2"]
    assert Neighbors([], []).together([]) == []

"""``neighbors``: against a table made row by row, and large categories in several parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.data.storage import parquet
from distcorr.stages import neighbors
from tests.stages.common import run_all, stage_folder

INLINE = "compute.address=inline"


def by_hand(run: Run, category: str, k: int) -> list[dict[str, object]]:
    """Rows of one category: cosines in float64, ties to the earlier instance."""
    store = FeatureStore(run.current("build-db"))  # type: ignore[arg-type]
    name, rows = f"vectors/{store.vector}", []
    base = store.members(category, "train")
    _, known, _ = store.read(name, [i.id for i in base])
    for target in store.members(category, "val"):
        _, (own,), _ = store.read(name, [target.id])
        a, b = own.astype(float).reshape(-1), known.astype(float).reshape(len(known), -1)
        cosine = (b @ a / np.linalg.norm(b, axis=1) / np.linalg.norm(a)).astype(np.float32)
        allowed = [n for n, i in enumerate(base) if i.image != target.image]
        best = sorted(allowed, key=lambda n: (-cosine[n], n))[:k]
        rows += [
            {"target": target.id, "neighbor": base[n].id, "rank": r, "cosine": cosine[n]}
            for r, n in enumerate(best)
        ]
    return rows


def test_a_part_is_that_of_rows_one_by_one(copy: Path) -> None:
    run = Run(str(copy))
    categories = sorted(FeatureStore(run.current("build-db")).keypoint_names)  # type: ignore[arg-type]
    parts = sorted((stage_folder(copy, "neighbors") / "pairs").iterdir())
    assert len(parts) == len(categories)
    for category, part in zip(categories, parts, strict=True):
        rows = by_hand(run, category, 25)
        columns = {name: [row[name] for row in rows] for name in neighbors.SCHEMA.names}
        table = pa.table(columns, schema=neighbors.SCHEMA)
        assert part.read_bytes() == parquet(table, 65536)


def test_a_large_category_has_several_parts_and_the_same_pairs(
    copy: Path, toy_settings: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pairs() -> list[dict[str, object]]:
        stage = Run(str(copy)).current("neighbors")
        assert stage
        tables = stage.folder.iter_tables(stage.parts("pairs"))
        return [row for table in tables for row in table.to_pylist()]

    before = pairs()
    monkeypatch.setattr(neighbors, "TARGETS", 2)  # of three
    done = run_all(copy, toy_settings(INLINE), ["neighbors"])
    assert done["neighbors"].shards == 6
    assert pairs() == before

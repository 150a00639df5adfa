"""Feature tables: one Parquet file per shard and feature, readable by any Parquet reader.

Values are one FixedSizeList<float16> column, so pyarrow, pandas, polars and duckdb open them as
they are; the shape, the geometry and the checksum of the weights stand in the schema's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.data import datasets
from distcorr.data.run import DEAD, StageFolder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Geometry, Instance

HalfArray = npt.NDArray[np.float16]
INSTANCES = "instances.parquet"
_META = b"distcorr"


@dataclass(frozen=True)
class FeatureMeta:
    """What a feature table says about itself.

    Attributes:
        tap: name of the layer.
        shape: of one row: (H, W, C) of a grid, (D,) of a vector.
        geometry: where the cells lie; None for a vector.
        weights: sha256 of the weights file.
    """

    tap: str
    shape: tuple[int, ...]
    geometry: Geometry | None
    weights: str


def feature_table(
    ids: Sequence[str], values: npt.NDArray[np.floating], meta: FeatureMeta
) -> pa.Table:
    """A feature table.

    Args:
        ids: n instance ids.
        values: (n, *meta.shape) floats, stored as float16.
        meta: goes to the schema's metadata as JSON.

    Raises:
        ValueError: the values' shape is not ``(n, *meta.shape)``.
    """
    if values.shape != (len(ids), *meta.shape):
        raise ValueError(f"values must be {(len(ids), *meta.shape)}, got {values.shape}")
    half = np.ascontiguousarray(values, np.float16)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(half.reshape(-1)), int(np.prod(meta.shape, dtype=np.int64))
    )
    text = json.dumps(
        {
            "tap": meta.tap,
            "shape": list(meta.shape),
            "geometry": meta.geometry._asdict() if meta.geometry else None,
            "weights_sha256": meta.weights,
        },
        sort_keys=True,
    )
    table = pa.table({"id": pa.array(list(ids), pa.string()), meta.tap: column})
    return table.replace_schema_metadata({_META: text.encode()})


def read_features(table: pa.Table) -> tuple[list[str], HalfArray, FeatureMeta]:
    """ids, (n, *shape) float16 values and metadata of a feature table; no copy if possible."""
    raw = json.loads((table.schema.metadata or {})[_META])
    geometry = Geometry(**raw["geometry"]) if raw["geometry"] else None
    meta = FeatureMeta(raw["tap"], tuple(raw["shape"]), geometry, raw["weights_sha256"])
    flat = table[meta.tap].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table["id"].to_pylist(), flat.reshape(-1, *meta.shape), meta


class FeatureStore:
    """The output of ``build-db``: instances, grids and global vectors."""

    def __init__(self, stage: StageFolder) -> None:
        self._stage = stage
        table = stage.folder.read_table(INSTANCES)
        self.instances: list[Instance] = datasets.from_table(table)
        self._shard = dict(zip(table["id"].to_pylist(), table["shard"].to_pylist(), strict=True))
        facts = json.loads(table.schema.metadata[_META])
        self.keypoint_names: dict[str, tuple[str, ...]] = {
            category: tuple(names) for category, names in facts["keypoint_names"].items()
        }
        self.conv: str = facts["conv"]
        self.vector: str = facts["vector"]
        self.stamp: dict[str, str] = facts["stamp"]
        dead = stage.folder.read_table(DEAD, ["id"]) if stage.folder.exists(DEAD) else None
        self.dead = frozenset(dead["id"].to_pylist() if dead else ())

    @staticmethod
    def write_instances(
        stage: StageFolder, table: pa.Table, shard: Sequence[int], facts: dict[str, object]
    ) -> None:
        """Write the instance table, with each instance's shard and the facts that readers need."""
        table = table.append_column("shard", pa.array(list(shard), pa.int32()))
        text = json.dumps(facts, sort_keys=True).encode()
        stage.folder.write_table(INSTANCES, table.replace_schema_metadata({_META: text}))

    def members(self, category: str, split: str) -> list[Instance]:
        """Instances with features, in the order of the data set."""
        return [
            i
            for i in self.instances
            if i.category == category and i.split == split and i.id not in self.dead
        ]

    def read(self, kind: str, ids: Sequence[str]) -> tuple[list[str], HalfArray, FeatureMeta]:
        """Features of some instances, each part file read once.

        Args:
            kind: ``"grids/conv4"`` or ``"vectors/fc7"``.
            ids: which instances; those that build-db had to leave out are left out here too.

        Returns:
            (ids, values, meta): the ids in the order asked for, (n, *shape) float16.

        Raises:
            DistcorrError: some of the others have no such feature.
        """
        kept = [i for i in ids if i not in self.dead]
        row = {name: n for n, name in enumerate(kept)}
        out: HalfArray | None = None  # made once, and filled part by part
        meta: FeatureMeta | None = None
        for index in sorted({self._shard[i] for i in kept}):
            part = self._stage.folder.read_table(f"{kind}/part-{index:05d}.parquet")
            names, values, meta = read_features(part)
            if out is None:
                out = np.empty((len(kept), *meta.shape), np.float16)
            for name, value in zip(names, values, strict=True):
                if name in row:
                    out[row.pop(name)] = value
        if out is None or meta is None or row:
            raise DistcorrError(
                f"{self._stage.folder} has no {kind} for {len(row)} of the {len(kept)} instances "
                "asked for.",
                "distcorr status -v shows what was left out, and why; distcorr run mends the rest",
                MISSING,
            )
        return kept, out, meta

"""The feature store: a folder of Parquet tables that any number of runs can share.

    store/
    ├── grids-conv4-3f9c1ab20d5e/         one folder per feature and way of making it
    │   ├── feature.json                  what it is and how it is made, in words
    │   ├── 0a1b2c3d4e5f60718293.parquet  one file per shard, named by what it holds
    │   └── 0a1b2c3d4e5f60718293.json     its entry: checksum, rows, what was left out
    └── points-sift20-90ab12cd34ef/ ...

A folder's name ends in a digest of everything that the values depend on besides the items:
weights, preprocessing, precision, geometry. A file's name is a digest of what it holds: the
photographs' checksums, boxes and keypoints. So whoever asks for the same shard made in the same way
finds it, and nothing ever needs to be marked out of date. An entry is written after its file.

Values are one FixedSizeList<float16> column, so pyarrow, pandas, polars and duckdb open the files
as they are; shape, geometry and the way of making stand in the schema's metadata.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.config import digest
from distcorr.data.run import FORMAT, DeadLetter, refuse_newer
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Geometry

HalfArray = npt.NDArray[np.float16]
META = b"distcorr"
FEATURE = "feature.json"
_ROW_GROUP = 1 << 21  # bytes that a reader takes at once
_READERS = 16  # threads that read small files: they wait for the storage, not for a core

# What a store writes, and therefore may delete.
_TABLE = re.compile(r"(grids|grids500|vectors|points|cells|mirrored)-.+-[0-9a-f]{12}")
_OURS = re.compile(r"[0-9a-f]{20}\.(parquet|json)|\.([0-9a-f]{20}|feature)\.\w+\.[0-9a-f]{8}\.tmp")

GRIDS = ("grids", "grids500")  # what is aligned: it may show context around the boxes
OF_INSTANCES = (*GRIDS, "vectors")  # one row per instance
CELLS = ("cells", "mirrored")  # of photographs, and of their mirror images
OF_PHOTOGRAPHS = ("points", *CELLS)  # rows per photograph


@dataclass(frozen=True)
class Feature:
    """One table of the store.

    Attributes:
        kind: one of ``OF_INSTANCES`` or ``OF_PHOTOGRAPHS``.
        layer: name of the layer, which is also the name of the values' column.
        made: JSON, everything that the values depend on besides the items themselves.
        label: whose features they are, for people.
    """

    kind: str
    layer: str
    made: Mapping[str, Any]
    label: str = ""

    @property
    def name(self) -> str:
        """``"grids/conv4"``: how a run calls it."""
        return f"{self.kind}/{self.layer}"

    @property
    def folder(self) -> str:
        """``"grids-conv4-3f9c1ab20d5e"``: where it is in a store."""
        return f"{self.kind}-{self.layer}-{digest([self.kind, self.layer, self.made])[:12]}"


class FeatureMeta(NamedTuple):
    """What a feature table says about itself.

    Attributes:
        layer: name of the layer and of the values' column.
        shape: of one row's value: (H, W, C) of a grid, (D,) of anything else.
        geometry: where the cells of a grid lie; None for the rest.
    """

    layer: str
    shape: tuple[int, ...]
    geometry: Geometry | None


def feature_table(
    feature: Feature,
    keys: Mapping[str, Any],
    values: npt.NDArray[np.floating],
    geometry: Geometry | None = None,
) -> pa.Table:
    """A feature table.

    Args:
        feature: what it is; goes to the schema's metadata as JSON.
        keys: the columns that say what each of the n rows is about.
        values: (n, *shape) floats, stored as float16.
        geometry: where the cells of a grid lie.

    Raises:
        ValueError: values and keys differ in length.
    """
    length = int(np.prod(values.shape[1:], dtype=np.int64))
    element = pa.field("element", pa.float16(), nullable=False)  # twice as fast to write
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values, np.float16).reshape(-1)),
        type=pa.list_(element, length),
    )
    text = json.dumps(
        {
            "name": feature.name,
            "layer": feature.layer,
            "shape": list(values.shape[1:]),
            "geometry": geometry._asdict() if geometry else None,
            "made": feature.made,
        },
        sort_keys=True,
    )
    if any(len(key) != len(column) for key in keys.values()):
        raise ValueError(
            f"{len(column)} values for { ({k: len(v) for k, v in keys.items()}) } keys of {feature}"
        )
    table = pa.table({**keys, feature.layer: column})
    fields = [field.with_nullable(False) for field in table.schema]
    return table.cast(pa.schema(fields, metadata={META: text.encode()}))


def read_values(table: pa.Table) -> tuple[HalfArray, FeatureMeta]:
    """(n, *shape) float16 values and metadata of a feature table; no copy if possible."""
    raw = json.loads((table.schema.metadata or {})[META])
    geometry = Geometry(**raw["geometry"]) if raw["geometry"] else None
    meta = FeatureMeta(raw["layer"], tuple(raw["shape"]), geometry)
    flat = table[meta.layer].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, *meta.shape), meta


def require_same(table: pa.Table, folder: str, name: str) -> None:
    """Refuse a part that was copied from another folder: values of two networks do not compare.

    Args:
        table: what was read.
        folder: that it should belong to.
        name: of the file, for the message.

    Raises:
        DistcorrError: what the table says of itself does not give that folder's name.
    """
    raw = json.loads((table.schema.metadata or {}).get(META, b"{}"))
    kind, _, layer = str(raw.get("name", "")).partition("/")
    if folder != Feature(kind, layer, raw.get("made", {})).folder:
        raise DistcorrError(
            f"{name} was made with other weights or settings than {folder} says: one data base "
            "must be of one network.",
            "delete that file; distcorr build-db makes it anew",
            MISSING,
        )


@dataclass(frozen=True)
class Entry:
    """A finished file of the store.

    Attributes:
        sha256: of the file.
        bytes: its size.
        rows: of the table.
        dead: items that could not be processed and have no row.
        made_with: versions and device; the same way of making may differ in its last bits there.
    """

    sha256: str
    bytes: int
    rows: int
    dead: tuple[DeadLetter, ...]
    made_with: Mapping[str, str]


class Problem(NamedTuple):
    """Something in a store that should not be there, or not so."""

    file: str
    what: str
    ours: bool = True  # written by a store, so that it may be deleted and made anew


class TableInfo(NamedTuple):
    """A line of ``distcorr store ls``."""

    table: str
    label: str
    shards: int
    rows: int
    bytes: int


class TableStore:
    """A folder of feature tables. Picklable; several writers may work at once."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    # -- one shard ---------------------------------------------------------------------------

    def find(self, table: str, stem: str) -> Entry | None:
        """The entry of a shard if it is there and whole (by its size), else None."""
        entry = self._read_entry(table, stem)
        if entry is None or self.folder.size(f"{table}/{stem}.parquet") != entry.bytes:
            return None
        return entry

    def add(
        self,
        feature: Feature,
        stem: str,
        table: pa.Table,
        dead: Iterable[DeadLetter],
        made_with: Mapping[str, str],
    ) -> Entry:
        """Write a shard's table, then its entry.

        Raises:
            DistcorrError: the store cannot be written.
        """
        name = f"{feature.folder}/{stem}.parquet"
        written = self.folder.write_table(
            name,
            table,
            row_group_size=max(1, _ROW_GROUP * table.num_rows // max(1, table.nbytes)),
            statistics=[key for key in table.column_names if key != feature.layer],
        )
        entry = Entry(written.sha256, written.size, table.num_rows, tuple(dead), dict(made_with))
        self.folder.write_json(f"{feature.folder}/{stem}.json", asdict(entry))
        return entry

    def describe(self, feature: Feature) -> None:
        """Say in the feature's folder what it is.

        Raises:
            DistcorrError: a newer distcorr has said it.
        """
        name = f"{feature.folder}/{FEATURE}"
        if not self.folder.exists(name):
            self.folder.write_json(name, asdict(feature) | {"format": FORMAT})
        else:
            refuse_newer(self.folder.read_json(name), f"{self.folder}/{name}")

    # -- many shards -------------------------------------------------------------------------

    def entries(self, table: str, stems: Iterable[str]) -> dict[str, Entry]:
        """The entries of those of ``stems`` that are there and whole."""
        sizes = self.folder.sizes(table)
        there = [s for s in stems if f"{s}.parquet" in sizes and f"{s}.json" in sizes]
        with ThreadPoolExecutor(_READERS) as pool:
            found = list(pool.map(lambda stem: self._read_entry(table, stem), there))
        return {
            stem: entry
            for stem, entry in zip(there, found, strict=True)
            if entry is not None and sizes[f"{stem}.parquet"] == entry.bytes
        }

    def tables(self) -> list[TableInfo]:
        """Every table of the store by name, with its finished shards."""
        infos = []
        for table in self.folder.folders():
            if not self.folder.exists(f"{table}/{FEATURE}"):
                continue
            stems = [n.removesuffix(".parquet") for n in self.folder.sizes(table) if _is_part(n)]
            entries = self.entries(table, stems).values()
            label = str(self.folder.read_json(f"{table}/{FEATURE}").get("label", ""))
            rows, size = sum(e.rows for e in entries), sum(e.bytes for e in entries)
            infos.append(TableInfo(table, label, len(entries), rows, size))
        return infos

    def verify(self) -> Iterator[tuple[str, list[Problem]]]:
        """Check every file against its entry, table by table.

        Yields:
            (table, problems): truncated, damaged, unfinished and foreign files.

        Raises:
            DistcorrError: there is no table here, so this is no store.
        """
        folders = self.folder.folders()
        if not any(_TABLE.fullmatch(folder) for folder in folders):
            raise DistcorrError(
                f"{self.folder} is no feature store: it holds no table.",
                "a run's own store is the folder store/ inside it; -r RUN finds it",
                MISSING,
            )
        foreign = "is no part of a store"
        yield "", [Problem(name, foreign, ours=False) for name in self.folder.sizes()]
        for table in folders:
            sizes = self.folder.sizes(table, recursive=True)
            if _TABLE.fullmatch(table):
                found = self._check(table, sizes)
            else:
                found = [Problem(name, foreign, ours=False) for name in sizes]
            yield table, [p._replace(file=f"{table}/{p.file}") for p in found]

    def _check(self, table: str, sizes: Mapping[str, int]) -> list[Problem]:
        problems = []
        try:
            raw = self.folder.read_json(f"{table}/{FEATURE}")
            if Feature(raw["kind"], raw["layer"], raw["made"]).folder != table:
                problems.append(Problem(FEATURE, "describes another feature"))
        except FileNotFoundError:
            problems.append(Problem(FEATURE, "is missing", ours=False))
        except (DistcorrError, KeyError, TypeError):
            problems.append(Problem(FEATURE, "is damaged"))
        for name in sorted(sizes.keys() - {FEATURE}):
            stem = name.rpartition(".")[0]
            if _is_part(name):
                what = self._check_part(table, stem, sizes)
            elif name.endswith(".json") and self._read_entry(table, stem) is None:
                what = "is damaged"
            elif name.endswith(".json"):
                what = "" if f"{stem}.parquet" in sizes else "names a file that is not there"
            else:
                what = "is no part of a store, or was left by a writer that was killed"
            if what:
                problems.append(Problem(name, what, ours=bool(_OURS.fullmatch(name))))
        return problems

    def _check_part(self, table: str, stem: str, sizes: Mapping[str, int]) -> str:
        entry = self._read_entry(table, stem) if f"{stem}.json" in sizes else None
        size = sizes[f"{stem}.parquet"]
        if entry is None:
            return "has no entry: it is foreign, or its writer was killed"
        if size != entry.bytes:
            return f"has {size} bytes instead of {entry.bytes}"
        content = self.folder.read(f"{table}/{stem}.parquet")
        same = hashlib.sha256(content).hexdigest() == entry.sha256
        return "" if same else "is damaged: its checksum is not the one that was written"

    def _read_entry(self, table: str, stem: str) -> Entry | None:
        """The entry, or None if it is not there or not one: then the shard is made anew."""
        try:
            raw = self.folder.read_json(f"{table}/{stem}.json")
            letters = [letter | {"tables": ()} for letter in raw.pop("dead")]
            dead = tuple(DeadLetter(**letter) for letter in letters)
            return Entry(dead=dead, **raw)
        except (FileNotFoundError, DistcorrError, TypeError, KeyError, AttributeError):
            return None


def _is_part(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")

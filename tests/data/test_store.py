"""The feature store: tables any reader opens, entries, sharing, and what verify finds."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from distcorr.data.run import DeadLetter
from distcorr.data.storage import Folder
from distcorr.data.store import Feature, TableStore, feature_table, read_values
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

GEOMETRY = Geometry(input_size=227, stride=16, offset=17.0, rf=131, cells=3)
CONV4 = Feature("grids", "conv4", {"weights": "abc", "side": 227}, "a network")
VALUES = np.random.default_rng(1).normal(size=(4, 3, 3, 5)).astype(np.float32)
IDS = {"id": ["a", "b", "c", "d"]}
LETTER = DeadLetter("e", "e.jpg", "cut short")


@pytest.fixture
def store(tmp_path: Path) -> TableStore:
    store = TableStore(Folder(tmp_path / "store"))
    store.describe(CONV4)
    for stem in ("s0", "s1"):
        store.add(
            CONV4, stem, feature_table(CONV4, IDS, VALUES, GEOMETRY), [LETTER], {"torch": "2"}
        )
    return store


def folder_of(store: TableStore) -> Path:
    return Path(store.folder.uri) / CONV4.folder


def problems(store: TableStore) -> dict[str, str]:
    return {p.file.rpartition("/")[2]: p.what for _, found in store.verify() for p in found}


def test_values_survive_as_float16_with_shape_and_geometry(tmp_path: Path) -> None:
    pq.write_table(feature_table(CONV4, IDS, VALUES, GEOMETRY), tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    values, meta = read_values(table)
    assert table["id"].to_pylist() == IDS["id"]
    np.testing.assert_array_equal(values, VALUES.astype(np.float16))
    assert meta == ("conv4", (3, 3, 5), GEOMETRY)
    assert json.loads(table.schema.metadata[b"distcorr"])["made"] == CONV4.made


def test_every_reader_opens_the_file(store: TableStore) -> None:
    path = folder_of(store) / "s0.parquet"
    wanted = VALUES.astype(np.float16).reshape(4, 45)
    np.testing.assert_array_equal(np.stack(pd.read_parquet(path)["conv4"]), wanted)
    np.testing.assert_array_equal(pl.read_parquet(path)["conv4"].to_numpy(), wanted)
    rows = duckdb.sql(f"select id, conv4 from '{path}' order by id").fetchall()
    assert [row[0] for row in rows] == IDS["id"]
    np.testing.assert_array_equal(np.array([row[1] for row in rows]), wanted)
    read = pq.read_table(path)["conv4"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(read.reshape(4, 45), wanted)


def test_an_empty_shard_is_a_table_too() -> None:
    table = feature_table(CONV4, {"id": []}, np.zeros((0, 3, 3, 5)), GEOMETRY)
    assert read_values(table)[0].shape == (0, 3, 3, 5)


def test_keys_and_values_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 values for"):
        feature_table(CONV4, IDS, VALUES[:1])


def test_the_folder_names_how_it_is_made() -> None:
    assert CONV4.name == "grids/conv4"
    assert CONV4.folder.startswith("grids-conv4-")
    relabelled = Feature("grids", "conv4", {"side": 227, "weights": "abc"}, "other words")
    assert relabelled.folder == CONV4.folder
    others = [
        Feature("grids", "conv4", {"weights": "abd", "side": 227}),
        Feature("cells", "conv4", CONV4.made),
        Feature("grids", "conv5", CONV4.made),
    ]
    assert len({CONV4.folder, *(o.folder for o in others)}) == 4


def test_an_entry_says_what_its_file_is(store: TableStore) -> None:
    entry = store.find(CONV4.folder, "s0")
    assert entry is not None
    content = (folder_of(store) / "s0.parquet").read_bytes()
    assert (entry.bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (entry.rows, entry.dead, entry.made_with) == (4, (LETTER,), {"torch": "2"})
    assert store.entries(CONV4.folder, ["s1", "s0", "s9"]) == {
        "s1": store.find(CONV4.folder, "s1"),
        "s0": entry,
    }
    again = pickle.loads(pickle.dumps(store))
    assert again.find(CONV4.folder, "s0") == entry


@pytest.mark.parametrize("damage", ["cut", "gone", "no entry", "bad entry"])
def test_what_is_not_whole_is_not_found(store: TableStore, damage: str) -> None:
    part, entry = folder_of(store) / "s0.parquet", folder_of(store) / "s0.json"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-7])
    elif damage == "gone":
        part.unlink()
    elif damage == "no entry":
        entry.unlink()
    else:
        entry.write_text('{"sha256": 1}')
    assert store.find(CONV4.folder, "s0") is None
    assert list(store.entries(CONV4.folder, ["s0", "s1"])) == ["s1"]


def test_a_listing_counts_what_is_finished(store: TableStore) -> None:
    (folder_of(store) / "s1.json").unlink()
    (info,) = store.tables()
    assert (info.table, info.label, info.shards, info.rows) == (
        CONV4.folder,
        "a network",
        1,
        4,
    )
    assert info.bytes == (folder_of(store) / "s0.parquet").stat().st_size
    assert TableStore(Folder("/nowhere/at/all")).tables() == []


def test_a_whole_store_has_no_problems(store: TableStore) -> None:
    assert problems(store) == {}


def test_verify_finds_every_kind_of_problem(store: TableStore) -> None:
    folder = folder_of(store)
    table = feature_table(CONV4, IDS, VALUES, GEOMETRY)
    flipped, cut, unfinished, lost, words = (letter * 20 for letter in "fcabe")
    for stem in (flipped, cut, unfinished, lost, words):
        store.add(CONV4, stem, table, [], {})
    content = bytearray((folder / f"{flipped}.parquet").read_bytes())
    content[100] ^= 1
    (folder / f"{flipped}.parquet").write_bytes(content)
    os.truncate(folder / f"{cut}.parquet", 50)
    (folder / f"{unfinished}.json").unlink()
    (folder / f"{lost}.parquet").unlink()
    (folder / f"{words}.json").write_text("no JSON")
    half = f".{lost}.parquet.1234abcd.tmp"
    (folder / half).write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder.parent / "readme.txt").write_text("mine")
    (folder.parent / "holiday" / "in").mkdir(parents=True)
    (folder.parent / "holiday" / "in" / "a.jpg").write_bytes(b"x")
    other = Feature("grids", "conv5", {})
    store.describe(other)
    (folder.parent / other.folder / "feature.json").write_text(json.dumps(vars(CONV4)))
    found = problems(store)
    wanted = {
        f"{flipped}.parquet": "checksum",
        f"{cut}.parquet": "has 50 bytes instead of",
        f"{unfinished}.parquet": "no entry",
        f"{lost}.json": "names a file that is not there",
        f"{words}.json": "damaged",
        f"{words}.parquet": "no entry",
        half: "no part of a store",
        "notes.txt": "no part of a store",
        "readme.txt": "no part of a store",
        "a.jpg": "no part of a store",
        "feature.json": "describes another feature",
    }
    assert sorted(found) == sorted(wanted)
    assert {n: w for n, w in wanted.items() if w not in found[n]} == {}
    kept = {p.file.rpartition("/")[2] for _, all_ in store.verify() for p in all_ if not p.ours}
    assert kept == {"notes.txt", "readme.txt", "a.jpg"}  # what nobody's store has written


def test_what_is_no_store_is_not_verified(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DistcorrError, match="is no feature store"):
        list(TableStore(Folder(tmp_path)).verify())


def test_a_lost_description_costs_nothing(store: TableStore) -> None:
    (folder_of(store) / "feature.json").unlink()
    (problem,) = [p for _, found in store.verify() for p in found]
    assert (problem.what, problem.ours) == ("is missing", False)
    store.describe(CONV4)
    assert problems(store) == {}


def test_equal_tables_are_equal_bytes(store: TableStore) -> None:
    folder = folder_of(store)
    assert (folder / "s0.parquet").read_bytes() == (folder / "s1.parquet").read_bytes()

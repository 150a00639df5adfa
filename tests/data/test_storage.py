import os
import pickle
import threading

import pyarrow as pa
import pytest

from distcorr.data import storage
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, USAGE, DistcorrError


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def table(n: int = 5) -> pa.Table:
    return pa.table({"id": [f"i{k}" for k in range(n)], "x": [k / 2 for k in range(n)]})


def test_bytes_round_trip(folder):
    folder.write("a/b.bin", b"one")
    folder.write("a/b.bin", b"two")
    assert folder.read("a/b.bin") == b"two"
    assert (folder / "a").read("b.bin") == b"two"


def test_json_round_trip_and_equal_bytes(folder):
    folder.write_json("x.json", {"b": 1, "a": [2.5, None]})
    folder.write_json("y.json", {"a": [2.5, None], "b": 1})
    assert folder.read_json("x.json") == {"a": [2.5, None], "b": 1}
    assert folder.read("x.json") == folder.read("y.json")


def test_table_round_trip(folder):
    folder.write_table("t.parquet", table())
    assert folder.read_table("t.parquet").equals(table())
    assert folder.read_table("t.parquet", ["x"]).column_names == ["x"]
    folder.write_table("u.parquet", table(2))
    assert [t.num_rows for t in folder.iter_tables(["t.parquet", "u.parquet"])] == [5, 2]


def test_equal_tables_have_equal_sums(folder):
    first = folder.write_table("a.parquet", table())
    assert folder.write_table("b.parquet", table()) == first
    assert folder.read("a.parquet") == folder.read("b.parquet")
    assert folder.write_table("c.parquet", table(6)) != first


def test_a_failed_write_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    folder.write("x", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "replace", fail)
    with pytest.raises(DistcorrError, match="No space left"):
        folder.write("x", b"new")
    assert os.listdir(folder.uri) == ["x"]
    assert folder.read("x") == b"old"


def test_an_unwritable_path(folder):
    folder.write("file", b"")
    with pytest.raises(DistcorrError, match="Cannot write"):
        folder.write("file/below", b"x")  # also for a superuser, whom no permission stops


def test_looking(folder):
    assert folder.sizes("none") == {}
    assert folder.folders("none") == []
    assert not folder.exists("none")
    folder.write("d/one", b"1")
    folder.write("d/e/two", b"22")
    assert folder.exists("d/one")
    assert folder.exists("d/e")
    assert folder.sizes("d") == {"one": 1}
    assert folder.sizes("d", recursive=True) == {"one": 1, "e/two": 2}
    assert folder.folders("d") == ["e"]
    folder.delete("d/one")
    folder.delete("d/one")
    assert folder.sizes("d") == {}


def test_damaged_files(folder):
    folder.write_table("t.parquet", table())
    folder.write("t.parquet", folder.read("t.parquet")[:-9])
    for name in ("t.parquet", "none.parquet"):
        with pytest.raises(DistcorrError, match=name) as caught:
            folder.read_table(name)
        assert caught.value.exit_code == MISSING
    folder.write("x.json", b'{"a": ')
    with pytest.raises(DistcorrError, match=r"x\.json is not JSON"):
        folder.read_json("x.json")
    with pytest.raises(FileNotFoundError):
        folder.read("none")


def test_a_folder_pickles(folder):
    folder.write("x", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.uri == folder.uri
    assert copy.read("x") == b"1"


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder("sub").uri == str(tmp_path / "sub")
    assert Folder(f"file://{tmp_path}").uri == str(tmp_path)


def test_an_unknown_scheme_hides_its_query():
    with pytest.raises(DistcorrError, match="Cannot open") as caught:
        Folder("nosuch://user@host/x?key=secret")
    assert caught.value.exit_code == USAGE
    assert "//host/x" in caught.value.message
    assert "secret" not in str(caught.value)


def test_an_object_store_is_read_ahead_and_in_order(tmp_path):
    folder = Folder(tmp_path)
    names = [f"{n:02d}" for n in range(30)]
    for name in names:
        folder.write(name, name.encode())
    assert list(folder.each(folder.read, names)) == [name.encode() for name in names]
    folder.is_local = False  # as if it were one
    asked, together = [], threading.Barrier(2, timeout=30)

    def read(name):
        asked.append(name)
        if name in names[:2]:
            together.wait()  # two at once, or never
        return folder.read(name)

    found = folder.each(read, [*names, "gone"])
    assert next(found) == b"00"
    assert len(asked) < len(names)  # and no more than are needed soon
    assert [next(found) for _ in names[1:]] == [name.encode() for name in names[1:]]
    with pytest.raises(FileNotFoundError):
        next(found)


NOWHERE = "region=us-east-1&scheme=http&endpoint_override=127.0.0.1:1"


def test_s3_uris_show_no_query_and_keep_it():
    folder = Folder(f"s3://bucket/a?{NOWHERE}")
    assert str(folder) == "s3://bucket/a"
    assert not folder.is_local
    assert str(folder / "b") == "s3://bucket/a/b"
    assert (folder / "b").uri == f"s3://bucket/a/b?{NOWHERE}"
    assert pickle.loads(pickle.dumps(folder)).uri == folder.uri


def test_options_of_an_s3_uri_are_known_or_refused(monkeypatch):
    with pytest.raises(DistcorrError, match=r"unknown option 'regoin'. Did you mean 'region'"):
        Folder("s3://bucket/a?regoin=secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    assert Folder("s3://bucket/a?region=eu-west-1")._fs.region == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert Folder("s3://other/a")._fs.region == "eu-west-2"
    assert Folder("s3://bucket/my%20runs")._root == "bucket/my runs"


@pytest.mark.parametrize("uri", [f"s3://?{NOWHERE}", "s3:///a", "gs://"])
def test_a_uri_without_a_bucket(uri):
    with pytest.raises(DistcorrError, match=r"names no bucket|Cannot open"):
        Folder(uri)


def test_what_does_not_answer_is_said(tmp_path):
    folder = Folder(f"s3://bucket/a?{NOWHERE}&anonymous=true")
    with pytest.raises(DistcorrError, match=r"Cannot look into s3://bucket/a: .*NETWORK") as caught:
        folder.exists()
    assert caught.value.exit_code == MISSING
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):  # another try may succeed
        folder.read("x")


def test_google_cloud_storage_as_far_as_it_goes_without_it():
    """Its URIs, and that it gives up; that it stores anything is not tested."""
    where = "scheme=http&endpoint_override=127.0.0.1:1"
    folder = Folder(f"gs://anonymous@bucket/a?{where}&retry_limit_seconds=1")
    assert not folder.is_local
    assert str(folder / "b") == "gs://bucket/a/b"
    with pytest.raises(DistcorrError, match="Cannot look into gs://bucket/a: ") as caught:
        folder.exists("x")
    assert len(caught.value.message) < 400
    with pytest.raises(DistcorrError, match="Cannot open"):
        Folder("gs://bucket/a?nosuch=option")

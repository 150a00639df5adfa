"""Archives: what is in them comes out, and nothing lands where it should not."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from distcorr.data import archives
from distcorr.data.archives import require_room, unpack
from distcorr.errors import MISSING, DistcorrError

FILES = {"a/b/one.txt": b"one", "a/two.bin": bytes(range(256)) * 9000, "empty": b""}


def entry(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def write(path: Path, *entries: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_what_is_in_comes_out(tmp_path: Path, mode: str) -> None:
    folder = entry("a/", type=tarfile.DIRTYPE)
    path = write(tmp_path / "x.tar", folder, *(entry(n, c) for n, c in FILES.items()), mode=mode)
    told: list[tuple[int, int]] = []
    found = unpack(path, tmp_path / "out", lambda *at: told.append(at))
    assert {n: (tmp_path / "out" / n).read_bytes() for n in found} == FILES
    for name, content in FILES.items():
        assert found[name] == (len(content), hashlib.sha256(content).hexdigest())
    total = sum(map(len, FILES.values()))
    assert told == sorted(told)
    assert told[-1] == (total, total)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (entry("../evil", b"x"), "leads out"),
        (entry("a/../../evil", b"x"), "leads out"),
        (entry("/etc/evil", b"x"), "leads out"),
        (entry("..\\evil", b"x"), "leads out"),
        (entry("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "is a link"),
        (entry("link", type=tarfile.SYMTYPE, linkname="good"), "is a link"),
        (entry("hard", type=tarfile.LNKTYPE, linkname="../good"), "is a link"),
        (entry("null", type=tarfile.CHRTYPE), "neither a file nor a folder"),
        (entry("disk", type=tarfile.BLKTYPE), "neither a file nor a folder"),
        (entry("pipe", type=tarfile.FIFOTYPE), "neither a file nor a folder"),
        (entry("good", b"again"), "there twice"),
        (entry("./good", b"again"), "there twice"),
        (entry("good/inside", b"x"), "a file and a folder"),
    ],
)
def test_a_dangerous_archive_is_refused_before_anything_is_written(
    tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], words: str
) -> None:
    path = write(tmp_path / "x.tar", entry("good", b"good"), bad)
    with pytest.raises(DistcorrError, match=words) as caught:
        unpack(path, tmp_path / "deep" / "out")
    assert caught.value.exit_code == MISSING
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A link followed by a file "inside" it: the usual way out."""
    link = entry("door", type=tarfile.SYMTYPE, linkname=str(tmp_path / "outside"))
    path = write(tmp_path / "x.tar", link, entry("door/evil", b"x"))
    (tmp_path / "outside").mkdir()
    with pytest.raises(DistcorrError, match="is a link"):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_archive(tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(0).bytes(300_000)
    path = write(tmp_path / "x.tar", entry("one", noise), entry("two", noise), mode=mode)
    path.write_bytes(path.read_bytes()[:400_000])
    with pytest.raises(DistcorrError, match="no archive or a broken one"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x1f\x8b nonsense"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tgz").write_bytes(content)
    with pytest.raises(DistcorrError, match=r"x\.tgz is no archive or a broken one"):
        unpack(tmp_path / "x.tgz", tmp_path / "out")


def test_a_damaged_gzip_is_noticed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    path = write(tmp_path / "x.tgz", entry("one", noise), mode="w:gz")
    content = bytearray(path.read_bytes())
    content[100_000] ^= 255
    path.write_bytes(content)
    with pytest.raises(DistcorrError, match="broken"):
        unpack(path, tmp_path / "out")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.tar", entry("one", b"x" * 1000), entry("two", b"y" * 500))
    usage = type("Usage", (), {"free": 1499})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DistcorrError, match="Not enough room to unpack"):
        unpack(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    require_room(tmp_path, 1499, "anything")

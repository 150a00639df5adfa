"""Unpacking archives that come from elsewhere: nothing outside the folder, nothing but files."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from distcorr.errors import MISSING, DistcorrError

_BLOCK = 1 << 20  # bytes
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class Unpacked(NamedTuple):
    """One file of an archive: its size in bytes, and its checksum."""

    size: int
    sha256: str


def unpack(
    archive: Path, into: Path, advance: Callable[[int, int], None] | None = None
) -> dict[str, Unpacked]:
    """Unpack a tar archive, compressed or not; all members are looked at before any is written.

    Owners, modes and times are not restored.

    Args:
        archive: the file.
        into: a folder, made if it is not there.
        advance: told how many bytes are unpacked, and how many there are.

    Returns:
        name, with forward slashes -> what was written.

    Raises:
        DistcorrError: no tar archive or a broken one; a member that would land elsewhere, is
            there twice, or is neither file nor folder; not enough room on the disk.
    """
    into.mkdir(parents=True, exist_ok=True)
    try:
        members = _members(archive, into)
    except _BROKEN as error:
        raise _broken(archive, error) from error
    total = sum(member.size for member in members)
    require_room(into, total, f"unpack {archive.name}")
    done, written = 0, {}
    for name, member, blocks in _contents(archive, members):
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
                done += len(block)
                if advance:
                    advance(done, total)
        written[name] = Unpacked(member.size, digest.hexdigest())
    return written


def require_room(folder: Path, need: int, purpose: str) -> None:
    """Check that a disk has room, before anything is written.

    Args:
        folder: on that disk.
        need: bytes.
        purpose: for the message.

    Raises:
        DistcorrError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DistcorrError(
            f"Not enough room to {purpose}: it takes {need / 1e9:.2f} GB, and {folder} has "
            f"{free / 1e9:.2f} GB free.",
            "make room, or choose a folder on another disk: --to DIR",
            MISSING,
        )


def _members(archive: Path, into: Path) -> list[tarfile.TarInfo]:
    """The files of an archive, all of them harmless."""
    files: dict[PurePosixPath, tarfile.TarInfo] = {}
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if why := _harm(member, into):
                raise _refused(archive, member.name, why)
            path = PurePosixPath(member.name)
            if path in files:
                raise _refused(archive, member.name, "is there twice")
            if member.isfile():
                files[path] = member
        while tar.fileobj and tar.fileobj.read(_BLOCK):
            pass  # to the end, where compressed files have their checksum
    if clash := next((p for path in files for p in path.parents if p in files), None):
        raise _refused(archive, str(clash), "is a file and a folder")
    return list(files.values())


def _harm(member: tarfile.TarInfo, into: Path) -> str:
    """Why a member must not be unpacked; "" if it may."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        return "leads out of the folder"
    if member.issym() or member.islnk():
        return f"is a link, to {member.linkname!r}"
    if not (member.isfile() or member.isdir()):
        return "is neither a file nor a folder"
    standard = getattr(tarfile, "data_filter", None)  # not in Python 3.11.0 to 3.11.3
    if standard:
        try:
            standard(member, str(into))
        except tarfile.FilterError as error:  # what Python's own check knows besides
            return str(error)
    return ""


def _contents(
    archive: Path, members: list[tarfile.TarInfo]
) -> Iterator[tuple[str, tarfile.TarInfo, Iterator[bytes]]]:
    """Name, member and blocks of every file; the blocks have to be used up before the next."""
    with tarfile.open(archive, "r:*") as tar:
        for member in members:
            name = str(PurePosixPath(member.name))
            yield name, member, _blocks(archive, tar, member)


def _blocks(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    try:
        source = tar.extractfile(member)
        left = member.size
        while source and left:
            block = source.read(min(_BLOCK, left))
            if not block:
                raise EOFError(f"{member.name} ends too early")
            left -= len(block)
            yield block
    except _BROKEN as error:
        raise _broken(archive, error) from error


def _refused(archive: Path, name: str, why: str) -> DistcorrError:
    return DistcorrError(
        f"{archive.name} is not unpacked: its member {name!r} {why}.",
        "this is not the archive that its authors made; get it from another place",
        MISSING,
    )


def _broken(archive: Path, error: BaseException) -> DistcorrError:
    return DistcorrError(
        f"{archive.name} is no archive or a broken one: {error or type(error).__name__}",
        "get it anew, or from another place",
        MISSING,
    )

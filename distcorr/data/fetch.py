"""The paper's data and weights: fetched from where their authors publish them, verified, unpacked
into the layout that ``--data`` expects.

    data/
    ├── VOCdevkit/VOC2011/                       fetch voc2011
    ├── annotations/<category>/*.xml             fetch keypoints
    ├── bvlc_reference_caffenet.caffemodel       fetch caffenet
    └── .voc2011.json, .keypoints.json           what was unpacked, with checksums

An archive is unpacked into a temporary folder that is renamed when it is whole, so what has its
final name is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from distcorr.data import fetched
from distcorr.data.archives import Unpacked, unpack
from distcorr.data.download import Progress, check, download
from distcorr.data.fetched import Fetched, Item
from distcorr.errors import MISSING, DistcorrError
from distcorr.uris import refuse_password

MIRROR = "DISTCORR_MIRROR"  # environment: a folder's URL with the files under their own names


def fetch(
    name: str,
    to: str,
    progress: Progress,
    urls: Sequence[str] = (),
    file: str = "",
    sha256: str = "",
) -> Fetched:
    """Have an item in a folder: fetch it if it is not there, verify and unpack it.

    Args:
        name: key of ``ITEMS``.
        to: a local folder.
        progress: listens.
        urls: further mirrors, asked first.
        file: the user's own copy, taken in place of a download and left alone.
        sha256: that the file must have besides its published checksum.

    Raises:
        DistcorrError: unknown name; no mirror serves it; a wrong checksum; a broken or dangerous
            archive; no room; or there is something else of its name.
    """
    item, folder = fetched.find(name), fetched.local(to)
    digests = [digest for digest in (item.digest, fetched.sha256_hash(sha256)) if digest]
    for url in urls:
        refuse_password(url)
    with _writing(folder):
        if found := fetched.present(item, folder, digests):
            return found
        if (folder / item.target).exists():
            raise fetched.in_the_way(item, folder)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / item.file if not file else Path(file).expanduser().absolute()
        if file:
            origin = str(source)
            _require(source, digests)
        else:
            origin = _downloaded(item, source, urls, digests, progress)
        digest = fetched.sha256_of(source)
        if item.is_archive:
            try:
                _unpacked(item, folder, source, digest, bool(digests), progress)
            finally:  # an archive that a checksum has proved is kept where there was no room
                if not file and not (digests and not (folder / item.target).exists()):
                    source.unlink()
        elif file:
            _copied(source, folder / item.target)
        size = fetched.sizes(item, folder)
    return Fetched(
        name, str(folder / item.target), origin, digest, bool(digests), *size, present=False
    )


# -- getting it ----------------------------------------------------------------------------


def _downloaded(
    item: Item, archive: Path, urls: Sequence[str], digests: Sequence[str], progress: Progress
) -> str:
    """Where the file came from; it is there afterwards."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if mirror:
        refuse_password(mirror)
    ours = [f"{mirror}/{item.file}"] if mirror else []
    if archive.is_file():  # whole, since only whole files get that name; the process ended then
        if not check(archive, digests):
            return str(archive)
        archive.unlink()
    return download((*urls, *ours, *item.urls), archive, digests, progress, item.is_archive)


def _require(file: Path, digests: Sequence[str]) -> None:
    if not file.is_file():
        raise DistcorrError(f"There is no file {file}.", "--from FILE is your copy of it", MISSING)
    if why := check(file, digests):
        raise DistcorrError(
            f"{file} is not the published file: {why}",
            "it is damaged or another; it is left as it is. Get it anew, or without --from",
            MISSING,
        )


def _copied(source: Path, target: Path) -> None:
    temporary = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def _unpacked(
    item: Item, folder: Path, archive: Path, digest: str, verified: bool, progress: Progress
) -> None:
    """The target from the archive; the marker is written first and counts with the target only."""
    temporary = folder / f".{item.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was ended
    try:
        files = unpack(archive, temporary, lambda *done: progress.advance("unpacking", *done))
        inner = _inner(item, files)
        chosen = {n.removeprefix(inner): f for n, f in files.items() if n.startswith(inner)}
        marker = {"archive": item.file, "sha256": digest, "verified": verified, "files": chosen}
        fetched.marker(item, folder).write_text(json.dumps(marker))
        (folder / item.target).parent.mkdir(parents=True, exist_ok=True)
        (temporary / inner).rename(folder / item.target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _inner(item: Item, files: dict[str, Unpacked]) -> str:
    """Where in the archive the target is, with a slash at the end: some have folders around it."""
    found = {m[0] for name in files if (m := re.match(rf"(?:.*?/)?{item.target}/", name))}
    if len(found) != 1:
        raise DistcorrError(
            f"{item.file} must hold one folder {item.target}, it holds {len(found)}.",
            "it is another archive of that name; get it from another place",
            MISSING,
        )
    return found.pop()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """A folder that cannot be written, as our error."""
    try:
        yield
    except OSError as error:
        raise DistcorrError(
            f"Cannot fetch into {folder}: {error.strerror or error}",
            "check that the folder is yours to write and the disk is not full: --to DIR chooses "
            "another; the same command goes on where it stopped",
        ) from error

"""What can be fetched, what an earlier fetch has left, and whether it is still whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distcorr.data.download import check
from distcorr.data.weights import _KNOWN
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.uris import without_secrets


@dataclass(frozen=True)
class Item:
    """Something that can be fetched.

    Attributes:
        name: on the command line.
        file: as its authors call it.
        target: what it becomes in the data folder; for an archive the path that ends so in it.
        urls: where it is, or was, published.
        digest: ``algorithm:hexadecimal`` as published; "" where nobody has published one.
    """

    name: str
    file: str
    target: str
    urls: tuple[str, ...]
    digest: str = ""

    @property
    def is_archive(self) -> bool:
        """Whether it is unpacked."""
        return self.file != self.target


def _caffenet() -> str:
    return next(known.digest for known in _KNOWN if known.label == "BVLC CaffeNet")


_POSELETS = "www2.eecs.berkeley.edu/Research/Projects/CS/vision/shape/poselets"
ITEMS = {
    item.name: item
    for item in (
        Item(
            "voc2011",
            "VOCtrainval_25-May-2011.tar",
            "VOCdevkit/VOC2011",
            ("http://host.robots.ox.ac.uk/pascal/VOC/voc2011/VOCtrainval_25-May-2011.tar",),
            "md5:6c3384ef61512963050cb5d687e5bf1e",  # as in torchvision's table of VOC
        ),
        Item(
            "keypoints",
            "voc2011_keypoints_Feb2012.tgz",
            "annotations",
            (  # the second is a copy of the first at the Internet Archive
                f"https://{_POSELETS}/voc2011_keypoints_Feb2012.tgz",
                "https://web.archive.org/web/20240416142946id_/"
                f"https://{_POSELETS}/voc2011_keypoints_Feb2012.tgz",
            ),
        ),
        Item(
            "caffenet",
            "bvlc_reference_caffenet.caffemodel",
            "bvlc_reference_caffenet.caffemodel",
            ("http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",),
            f"sha1:{_caffenet()}",
        ),
    )
}


@dataclass(frozen=True)
class Fetched:
    """What is there now.

    Attributes:
        name: of the item.
        path: absolute, of the folder or file.
        source: URL or file that it came from; "" if it was there.
        sha256: of the file or archive.
        verified: whether it has a checksum that was known before.
        files: number of files.
        bytes: of them together.
        present: whether it was there already.
    """

    name: str
    path: str
    source: str
    sha256: str
    verified: bool
    files: int
    bytes: int
    present: bool


def find(name: str) -> Item:
    """The item of that name.

    Raises:
        DistcorrError: there is none.
    """
    if name not in ITEMS:
        raise DistcorrError(
            f"There is nothing to fetch called {name!r}.{did_you_mean(name, ITEMS)}",
            f"there are {', '.join(ITEMS)}",
        )
    return ITEMS[name]


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be."""

    file: str
    what: str


def verify(name: str, to: str, sha256: str = "") -> tuple[list[Problem], int]:
    """Recompute every checksum of what ``fetch`` has put into a folder.

    Returns:
        missing and damaged files, and how many were looked at.

    Raises:
        DistcorrError: the item is not there, or ``fetch`` did not unpack it.
    """
    item, folder = find(name), local(to)
    target = folder / item.target
    if not item.is_archive and target.is_file():
        digests = [digest for digest in (item.digest, sha256_hash(sha256)) if digest]
        why = check(target, digests)
        return ([Problem(item.target, why)] if why else []), 1
    if not target.exists():
        raise DistcorrError(
            f"There is no {item.target} in {folder}.", f"distcorr fetch {name} --to {to}", MISSING
        )
    files = _manifest(item, folder)
    if files is None:
        raise in_the_way(item, folder)
    problems = []
    for file, (size, digest) in files.items():
        path = target / file
        if not path.is_file():
            problems.append(Problem(f"{item.target}/{file}", "missing"))
        elif path.stat().st_size != size or sha256_of(path) != digest:
            problems.append(Problem(f"{item.target}/{file}", "damaged"))
    return problems, len(files)


# -- what is there -------------------------------------------------------------------------


def marker(item: Item, folder: Path) -> Path:
    """Where a fetch notes what it has unpacked."""
    return folder / f".{item.name}.json"


def _read_marker(item: Item, folder: Path) -> dict[str, object]:
    try:
        found = json.loads(marker(item, folder).read_text())
    except (OSError, ValueError):  # none, or cut short by a crash: as good as none
        return {}
    return found if isinstance(found, dict) else {}


def _manifest(item: Item, folder: Path) -> dict[str, tuple[int, str]] | None:
    files = _read_marker(item, folder).get("files")
    return files if isinstance(files, dict) else None


def present(item: Item, folder: Path, digests: Sequence[str]) -> Fetched | None:
    """What an earlier fetch has left; None if there is nothing of it."""
    target = folder / item.target
    if not item.is_archive:
        if not target.is_file() or check(target, digests):
            return None
        digest, verified = sha256_of(target), bool(digests)
    else:
        marker = _read_marker(item, folder)
        if not marker or not target.is_dir():
            return None
        digest, verified = str(marker["sha256"]), bool(marker["verified"])
        wanted = [known for known in digests if known.startswith("sha256:")]
        if wanted and wanted != [f"sha256:{digest}"]:
            raise DistcorrError(
                f"{target} was unpacked from another archive: {wanted[0]} is asked for, and "
                f"it is of sha256:{digest}.",
                f"move {target} away and fetch again, or choose another folder: --to DIR",
                MISSING,
            )
        verified |= bool(wanted)
    count = sizes(item, folder)
    return Fetched(item.name, str(target), "", digest, verified, *count, present=True)


def sizes(item: Item, folder: Path) -> tuple[int, int]:
    """How many files, and their bytes."""
    files = _manifest(item, folder)
    if files is None:
        return 1, (folder / item.target).stat().st_size
    return len(files), sum(size for size, _ in files.values())


def in_the_way(item: Item, folder: Path) -> DistcorrError:
    """There is something of the item's name that no fetch has made."""
    target = folder / item.target
    if not item.is_archive:
        why, hint = f"is not the published {item.file}", "move it away and fetch again"
    else:
        why = "is there, and distcorr fetch did not unpack it, so nothing says what belongs there"
        hint = (
            f"distcorr doctor --data {folder} reads it as it is; or move it away and fetch again, "
            "or choose another folder: --to DIR"
        )
    return DistcorrError(f"{target} {why}.", hint, MISSING)


def sha256_of(file: Path) -> str:
    """Checksum of a file, hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sha256_hash(text: str) -> str:
    """A checksum that the user gives as ``sha256:...``; "" for none."""
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise DistcorrError(
            f"--sha256 takes 64 hexadecimal digits, got {text!r}", "sha256sum FILE prints them"
        )
    return f"sha256:{text.lower()}" if text else ""


def local(to: str) -> Path:
    """The absolute path of a data folder; DistcorrError for a URI."""
    if "://" in to:
        raise DistcorrError(
            f"fetch unpacks into a folder of this machine, got {without_secrets(to)}.",
            "fetch into a folder, then copy that to the storage",
        )
    return Path(to).expanduser().absolute()

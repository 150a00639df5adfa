"""What a data set's photographs are like: sizes, files that cannot be read, copies."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from distcorr.data.images import checksum, read_image
from distcorr.data.near_copies import Copy, Sketch, sketch
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import DistcorrError
from distcorr.types import Dataset, Instance

_READERS = 8  # threads that read photographs


class Photograph(NamedTuple):
    """What a photograph's file is like.

    Attributes:
        size: (width, height) px; None if it cannot be read.
        sha256: of the file; "missing" or "not readable" where there is none.
        problem: why it cannot be read, or "".
        sketch: what near copies are found by; None unless they are looked for.
    """

    size: tuple[int, int] | None
    sha256: str
    problem: str
    sketch: Sketch | None


def photographs(dataset: Dataset, copies: bool = False) -> dict[str, Photograph]:
    """Read every photograph once, in order of their names.

    Args:
        dataset: whose.
        copies: make what near copies are found by.

    Raises:
        DistcorrError: the storage does not answer (exit code 3).
    """
    names = {instance.image for instance in dataset.instances}
    return read_photographs(Folder(dataset.root), names, copies)


def read_photographs(
    folder: Folder, names: Iterable[str], copies: bool = False
) -> dict[str, Photograph]:
    """Read every photograph of a folder once, in order of their names; as ``photographs``."""

    def look(name: str) -> Photograph:
        sha256 = checksum(folder, name)
        try:
            pixels = read_image(folder, name)
        except DistcorrError as error:
            return Photograph(None, sha256, error.message, None)
        height, width = pixels.shape[:2]
        return Photograph((width, height), sha256, "", sketch(pixels) if copies else None)

    names = sorted(names)
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(names, pool.map(look, names), strict=True))


def sizes(seen: Mapping[str, Photograph]) -> dict[str, Any]:
    """How many photographs there are and can be read; the smallest and largest by area, px."""
    known = sorted((p.size for p in seen.values() if p.size), key=lambda s: (s[0] * s[1], s))
    return {
        "all": len(seen),
        "readable": len(known),
        "smallest": list(known[0]) if known else None,
        "largest": list(known[-1]) if known else None,
    }


def check_photographs(dataset: Dataset, seen: Mapping[str, Photograph]) -> list[str]:
    """One sentence per suspicion about the files; [] if all is well."""
    found = [*unreadable(seen), *_duplicates(dataset, seen)]
    groups: dict[str, list[Instance]] = defaultdict(list)
    for instance in dataset.instances:
        groups[instance.category].append(instance)
    for category, instances in sorted(groups.items()):
        found += _outside(category, instances, dataset.keypoint_names[category], seen)
    return found


def check_copies(dataset: Dataset, copies: Iterable[Copy]) -> list[str]:
    """One sentence per category that has near copies in both splits."""
    of = {copy.image: copy for copy in copies}
    shown: dict[str, set[str]] = defaultdict(set)
    for instance in dataset.instances:
        if instance.split == "val":
            shown[instance.category].add(instance.image)
    found = []
    for category, images in sorted(shown.items()):
        if pairs := [_pair(n, "~", of[n].other) for n in sorted(images) if n in of]:
            found.append(
                f"{category}: {len(pairs)} of {len(images)} validation photographs have a near "
                f"copy in training, which flatters the scores: {Notes.first(pairs)}"
            )
    return found


def splits_of(dataset: Dataset) -> dict[str, list[str]]:
    """Split -> its photographs, sorted; one that is in both counts as training."""
    train = {i.image for i in dataset.instances if i.split == "train"}
    val = {i.image for i in dataset.instances if i.split == "val"}
    return {"train": sorted(train), "val": sorted(val - train)}


def unreadable(seen: Mapping[str, Photograph]) -> Iterator[str]:
    """A sentence if some photographs are there and cannot be read."""
    # Missing ones the reader has named.
    if bad := [p.problem for p in seen.values() if p.problem and p.sha256 != "missing"]:
        yield (
            f"{len(bad)} photographs cannot be read, so their objects will be left out: "
            f"{Notes.first(bad)}"
        )


def _duplicates(dataset: Dataset, seen: Mapping[str, Photograph]) -> Iterator[str]:
    """Files of the same bytes: across the splits, and within one."""
    splits = splits_of(dataset)
    first: dict[str, dict[str, str]] = {"train": {}, "val": {}}
    twins: dict[str, list[str]] = {"train": [], "val": []}
    for split, names in splits.items():
        for name in names:
            photograph = seen[name]
            if photograph.size is None:
                continue
            before = first[split].setdefault(photograph.sha256, name)
            if before != name:
                twins[split].append(_pair(name, "=", before))
    across = [
        _pair(name, "=", first["train"][seen[name].sha256])
        for name in splits["val"]
        if seen[name].size and seen[name].sha256 in first["train"]
    ]
    if across:
        yield (
            f"{len(across)} validation photographs are the same files as training photographs, "
            f"which flatters the scores: {Notes.first(across)}"
        )
    for split, pairs in twins.items():
        if pairs:
            yield f"{len(pairs)} photographs of {split} are the same files: {Notes.first(pairs)}"


def _pair(name: str, sign: str, other: str) -> str:
    """Two photographs, without the folders that both are in."""
    common = posixpath.commonpath(["/" + posixpath.dirname(n) for n in (name, other)])
    return (
        f"{posixpath.relpath('/' + name, common)} {sign} {posixpath.relpath('/' + other, common)}"
    )


def _outside(
    category: str,
    instances: Iterable[Instance],
    types: Sequence[str],
    seen: Mapping[str, Photograph],
) -> Iterator[str]:
    """What lies beyond the edges of its photograph, by half a pixel or more."""
    boxes, points = [], []
    for instance in instances:
        size = seen[instance.image].size
        if size is None:
            continue
        last = np.array(size) - 0.5
        box = np.array(instance.box).reshape(2, 2)
        if (box < -0.5).any() or (box > last).any():
            boxes.append(instance.id)
        xy = instance.keypoints
        beyond = ((xy < -0.5) | (xy > last)).any(axis=1) & instance.visible
        points += [f"{instance.id} {types[int(column)]}" for column in np.flatnonzero(beyond)]
    if boxes:
        yield (
            f"{category}: {len(boxes)} boxes reach beyond their photograph, which is smaller than "
            f"annotated: {Notes.first(boxes)}"
        )
    if points:
        yield (
            f"{category}: {len(points)} keypoints lie outside their photograph: "
            f"{Notes.first(points)}"
        )

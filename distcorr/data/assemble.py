"""From annotations of any layout to a data set: what the readers have in common."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, Dataset, Instance

VAL_SHARE = 0.25
"""Of the photographs that ``split_of`` puts into validation; not in the paper, which has VOC's."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
"""What annotations call a split -> what it is called here."""

_LISTED = 10  # categories that a message names
Point = tuple[float, float]


class Annotated(NamedTuple):
    """One object as annotated; ``points`` has None for keypoints that are not visible."""

    id: str
    image: str
    category: str
    split: str
    box: Box
    points: Mapping[str, Point | None]
    size: tuple[int, int] | None  # (width, height) px of the photograph, as far as it is told


def split_of(name: str) -> str:
    """A photograph's split where the annotations name none: by the sha256 of its name.

    The same file is in the same split on every machine, whatever other files there are; about
    ``VAL_SHARE`` of many files are in validation, and of a handful perhaps none.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return "val" if number < VAL_SHARE * 2**64 else "train"


def inside(name: str, where: str) -> str:
    """The name of a photograph, unless it leads out of the data set's folder.

    Raises:
        DistcorrError: it is absolute, has ``..`` or a backslash in it, or is a URI (exit code 3).
    """
    parts = name.split("/")
    drive = len(parts[0]) == 2 and parts[0][1] == ":"
    if not name or not parts[0] or ".." in parts or drive or any(c in name for c in "\\\0"):
        broken = True
    else:
        broken = "://" in name
    if broken:
        raise DistcorrError(
            f"{where} names the photograph {name!r}, which is no path below the data set's folder.",
            "mend the annotations: relative paths with forward slashes, without '..'",
            MISSING,
        )
    return "/".join(part for part in parts if part not in ("", "."))


def plain(name: str, what: str, where: str) -> str:
    """The name of a category or keypoint type, which also names files.

    Raises:
        DistcorrError: it is empty, begins with a dot, or has a slash or control character in it
            (exit code 3).
    """
    text = name.strip()
    if not text or text.startswith(".") or any(c in "/\\" or not c.isprintable() for c in text):
        raise DistcorrError(
            f"{where} names the {what} {name!r}, which cannot be part of a file's name.",
            "rename it in the annotations: no slash, no leading dot, nothing unprintable",
            MISSING,
        )
    return text


def choose(known: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """The categories to read: the wanted ones in the order of ``known``, all if none is wanted.

    Raises:
        DistcorrError: one is not known (exit code 2).
    """
    for name in wanted:
        if name not in known:
            more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
            raise DistcorrError(
                f"{where} has no category {name!r}.{did_you_mean(name, known)}",
                f"known are: {', '.join(known[:_LISTED])}{more}",
            )
    return [name for name in known if name in wanted or not wanted]


def require_limit(limit: int) -> None:
    """Refuse a negative limit (exit code 2)."""
    if limit < 0:
        raise DistcorrError(f"limit must be 0 (all) or more, but is {limit}")


class Photographs:
    """Where a data set's photographs lie: its folder is searched, nothing is downloaded."""

    def __init__(self, folder: Folder, places: Sequence[str]) -> None:
        """
        Args:
            folder: of the data set.
            places: folders inside it that names may be relative to, in order; "" is itself.
        """
        self._folder, self._places = folder, places
        self._listed: dict[str, dict[str, int]] = {}

    def find(self, name: str, split: str = "") -> str:
        """Path below the folder; of a photograph that is nowhere, its name.

        Where several places have it, one that is called after the split is preferred.
        """
        for place in sorted(self._places, key=lambda p: not (split and split in p)):
            path = f"{place}/{name}" if place else name
            parent, _, file = path.rpartition("/")
            if parent not in self._listed:
                self._listed[parent] = self._folder.sizes(parent)
            if file in self._listed[parent]:
                return path
        return name


def build(
    name: str,
    folder: Folder,
    objects: Iterable[Annotated],
    types: Mapping[str, Sequence[str]],
    notes: Notes,
    limit: int,
    hint: str,
) -> Dataset:
    """The data set of all objects that can be used.

    Boxes are clipped to the photograph. Left out and counted: objects without a visible keypoint,
    boxes that are empty or outside the photograph, ids that are there twice. An object whose
    photograph is missing stays in, so that the stage which needs it reports it by name.

    Args:
        name: of the data set.
        folder: that ``Annotated.image`` is relative to.
        objects: in any order.
        types: category -> its keypoint types in column order.
        notes: what was noticed so far; more is added.
        limit: when above 0, at most so many per category and split, evenly spaced over sorted ids.
        hint: how the layout looks, for errors.

    Raises:
        DistcorrError: nothing usable is left, or all photographs are missing (exit code 3).
    """
    found: dict[str, Instance] = {}
    sizes: dict[str, tuple[int, int] | None] = {}
    for each in objects:
        if each.size is None and each.image not in sizes:
            sizes[each.image] = header_size(folder, each.image)
        box = clip(each.box, each.size or sizes[each.image])
        if each.id in found:
            notes.add("Objects with the id of another, left out", each.id)
        elif not any(each.points.values()):
            notes.add("Objects without a visible keypoint, left out", each.id)
        elif not (min(box.width, box.height) >= 1 and box.max_side > 0):
            notes.add("Boxes that are empty or outside the photograph, left out", each.id)
        else:
            found[each.id] = _instance(each, box, types[each.category])
    instances = sorted(found.values(), key=lambda i: (i.category, i.split, i.id))
    warnings = notes.sentences()
    if not instances:
        reasons = f". {'. '.join(warnings)}" if warnings else "."
        raise DistcorrError(f"{folder} has no usable object{reasons}", hint, MISSING)
    warnings += missing_photographs(folder, instances)
    return Dataset(
        name=name,
        root=folder.uri,
        instances=tuple(evenly(instances, limit) if limit else instances),
        keypoint_names={category: tuple(names) for category, names in sorted(types.items())},
        warnings=tuple(warnings),
    )


def _instance(each: Annotated, box: Box, types: Sequence[str]) -> Instance:
    points = [each.points.get(name) for name in types]
    return Instance(
        id=each.id,
        image=each.image,
        category=each.category,
        split=each.split,
        box=box,
        keypoints=np.array([p or (math.nan, math.nan) for p in points], np.float32),
        visible=np.array([p is not None for p in points], bool),
    )


def clip(box: Box, size: tuple[int, int] | None) -> Box:
    """The part of a box that lies in a photograph of (width, height) px; None: of any size."""
    width, height = size or (math.inf, math.inf)
    return Box(
        max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, width - 1.0), min(box.y1, height - 1.0)
    )


def header_size(folder: Folder, path: str) -> tuple[int, int] | None:
    """(width, height) px by the photograph itself; None if it is missing or damaged."""
    try:
        with Image.open(BytesIO(folder.read(path))) as picture:
            return picture.size
    except (OSError, DistcorrError, Image.DecompressionBombError):
        return None


def missing_photographs(
    folder: Folder,
    instances: Iterable[Instance],
    hint: str = "put the photographs beside the annotations; nothing is downloaded",
) -> list[str]:
    """A sentence if some photographs are missing, with their number and first names.

    Raises:
        DistcorrError: all are (exit code 3).
    """
    images = sorted({instance.image for instance in instances})
    listed: dict[str, dict[str, int]] = {}
    missing = []
    for image in images:
        parent, _, file = image.rpartition("/")
        if parent not in listed:
            listed[parent] = folder.sizes(parent)
        if file not in listed[parent]:
            missing.append(image)
    if len(missing) == len(images):
        raise DistcorrError(
            f"All {len(images)} photographs are missing: {Notes.first(missing)} below {folder}",
            hint,
            MISSING,
        )
    if not missing:
        return []
    return [f"{len(missing)} of {len(images)} photographs are missing: {Notes.first(missing)}"]


def evenly(instances: Iterable[Instance], limit: int) -> Iterator[Instance]:
    """At most ``limit`` of each category and split, evenly spaced; the order stays."""
    groups: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for instance in instances:
        groups[instance.category, instance.split].append(instance)
    for group in groups.values():
        count = min(limit, len(group))
        yield from (group[i * len(group) // count] for i in range(count))


def file_and_folder(path: str) -> tuple[Folder, str]:
    """(folder that holds it, name in it) of the path or URI of a file."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    parent, slash, name = base.rstrip("/").rpartition("/")
    return Folder(f"{parent or slash or '.'}{mark}{query}"), name


def numbers(values: Iterable[object]) -> list[float]:
    """Finite numbers.

    Raises:
        ValueError: one is none, or not finite.
    """
    found = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"{value!r} is no number")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{value} is not finite")
        found.append(number)
    return found

"""SPair-71k as its authors publish it.

``JPEGImages/<category>/*.jpg``, ``PairAnnotation/<trn|val|test>/<id>-<a>-<b>:<category>.json``
and, where it is there, ``Layout/large/<split>.txt``, which says what pairs a split has; here or
in ``SPair-71k/``.

Boxes are copies of PASCAL VOC's, 1-based (xmax may equal the width), so 1 is taken off them.
Keypoints are SPair-71k's own; nothing says where they begin, everybody uses them as they stand,
and so they are taken as 0-based. The longer side of a box, and so the threshold, is the same
either way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distcorr.data import assemble
from distcorr.data.pairs_read import SPLITS, AnnotatedPair, Found, Points, box_of, no_split
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box

LAYOUT = "give the folder SPair-71k, with PairAnnotation/<split>/*.json and JPEGImages/"

_BASES = ("", "SPair-71k/")


def find_base(folder: Folder) -> str | None:
    """Prefix of the set's files below the folder, None if it holds no SPair-71k."""
    return next((b for b in _BASES if folder.is_folder(f"{b}PairAnnotation")), None)


def read(root: str, split: str, categories: Sequence[str], notes: Notes) -> Found:
    """All pairs of a split; malformed files are left out and counted in ``notes``.

    Args:
        root: path or URI of the folder, or of the one above it.
        split: train, val or test.
        categories: which ones to read; empty means all.
        notes: of what was noticed.

    Raises:
        DistcorrError: no such folder or split (exit code 3); an unknown category (exit code 2).
    """
    folder = Folder(root)
    base = find_base(folder)
    if base is None:
        raise DistcorrError(f"{folder} has no PairAnnotation", LAYOUT, MISSING)
    names = {SPLITS.get(name, name): name for name in folder.folders(f"{base}PairAnnotation")}
    if split not in names:
        raise no_split(folder, split, names)
    place = f"{base}PairAnnotation/{names[split]}"
    files = _files(folder, base, names[split], notes)
    known = sorted({_category(file) for file in files})
    chosen = set(assemble.choose(known, categories, str(folder)))
    wanted = [file for file in files if _category(file) in chosen]
    return Found("spair-71k", folder, _pairs(folder, base, place, wanted, notes), LAYOUT)


def _files(folder: Folder, base: str, split: str, notes: Notes) -> list[str]:
    """The files of a split: those that its list names, or all where there is no list."""
    place = f"{base}PairAnnotation/{split}"
    there = sorted(n for n in folder.sizes(place) if n.endswith(".json") and n[0] != ".")
    list_file = f"{base}Layout/large/{split}.txt"
    if folder.size(list_file) is None:
        return there
    text = folder.read(list_file).decode("utf-8", "replace")
    # Where a file's name cannot have a colon, unpacking puts something else in its place.
    listed = {_plain_name(line.strip()): line.strip() for line in text.splitlines() if line.strip()}
    found = {_plain_name(file.removesuffix(".json")): file for file in there}
    notes.add(
        f"Pairs of {list_file} without a file in {place}, left out",
        *[name for key, name in listed.items() if key not in found],
    )
    notes.add(
        f"Files in {place} that {list_file} does not name, left out",
        *[file for key, file in found.items() if key not in listed],
    )
    return [file for key, file in found.items() if key in listed]


def _plain_name(name: str) -> str:
    return name.replace(":", "_")


def _category(file: str) -> str:
    """By its file's name: what it says itself is compared with it."""
    stem = file.removesuffix(".json")
    return stem.rpartition(":" if ":" in stem else "_")[2]


def _pairs(
    folder: Folder, base: str, place: str, files: Sequence[str], notes: Notes
) -> Iterator[AnnotatedPair]:
    contents = folder.each(lambda file: folder.read(f"{place}/{file}"), files)
    for file, content in zip(files, contents, strict=True):
        try:
            told = json.loads(content)
            if told.get("mirror"):
                notes.add("Pairs with a mirrored photograph, left out", file)
            else:
                yield _pair(base, place, file, told)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            notes.add("Malformed files of pairs, left out", f"{place}/{file}")


def _pair(base: str, place: str, file: str, told: Mapping[str, Any]) -> AnnotatedPair:
    where = f"{place}/{file}"
    category = assemble.plain(told["category"], "category", where)
    if category != _category(file):
        raise ValueError(f"it is a {category}")
    keypoints = tuple(assemble.plain(str(k), "keypoint", where) for k in told["kps_ids"])
    if len(set(keypoints)) != len(keypoints):
        raise ValueError("a keypoint is there twice")
    a, b = (assemble.inside(told[f"{side}_imname"], where) for side in ("src", "trg"))
    points = [_points(told[f"{side}_kps"], len(keypoints)) for side in ("src", "trg")]
    boxes = [_box(told[f"{side}_bndbox"]) for side in ("src", "trg")]
    sizes = [_size(told.get(f"{side}_imsize")) for side in ("src", "trg")]
    return AnnotatedPair(
        id=file.removesuffix(".json"),
        category=category,
        a=f"{base}JPEGImages/{category}/{a}",
        b=f"{base}JPEGImages/{category}/{b}",
        points_a=points[0],
        points_b=points[1],
        keypoints=keypoints,
        box_a=boxes[0],
        box_b=boxes[1],
        size_a=sizes[0],
        size_b=sizes[1],
    )


def _points(told: Any, count: int) -> Points:
    points = np.array([assemble.numbers(each) for each in told], np.float64)
    if points.shape != (count, 2):
        raise ValueError(f"{points.shape} for {count} keypoints")
    return points


def _box(told: Any) -> Box:
    sides = assemble.numbers(told)
    if len(sides) != 4:
        raise ValueError(f"a box has {len(sides)} sides")
    return box_of(sides, shift=-1)


def _size(told: Any) -> tuple[int, int] | None:
    if not isinstance(told, list) or len(told) < 2:
        return None
    width, height = assemble.numbers(told[:2])
    return (int(width), int(height)) if min(width, height) >= 1 else None

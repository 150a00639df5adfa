"""The files of PASCAL VOC 2011 and of the Berkeley keypoints: where they lie, what they say."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box

LAYOUT = "give the folder that holds VOCdevkit/VOC2011 and annotations/<category>/*.xml"

_BASES = ("VOCdevkit/VOC2011/", "TrainVal/VOCdevkit/VOC2011/", "VOC2011/", "")
_PARTS = ("JPEGImages", "Annotations", "ImageSets/Main")
_READERS = 8  # reading threads: an object store answers slowly but many at once


class Notes:
    """What was noticed while reading, with the names it was noticed for."""

    _SHOWN = 3

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, *names: str) -> None:
        """Remember ``names`` under the sentence ``what``."""
        self._names[what] += names

    def sentences(self) -> list[str]:
        """One per kind: what, how many, the first names."""
        return [f"{what}: {len(n)} ({self.first(n)})" for what, n in self._names.items() if n]

    @classmethod
    def first(cls, names: Sequence[str]) -> str:
        """The first few names, and dots where there are more."""
        return ", ".join(names[: cls._SHOWN]) + (", ..." if len(names) > cls._SHOWN else "")


class VocObject(NamedTuple):
    """One object of a VOC annotation; the box is 0-based and not clipped.

    ``truncated``: whether the object goes on beyond its box; None where the file does not say.
    """

    name: str
    box: Box
    difficult: bool
    truncated: bool | None = None


class Photograph(NamedTuple):
    """A VOC annotation; size is (width, height) px, None where the file does not say."""

    size: tuple[int, int] | None
    objects: list[VocObject]


@dataclass(frozen=True)
class Annotation:
    """One Berkeley file: keypoint type -> 0-based xy px, or None where it is not visible."""

    file: str
    category: str
    image: str
    voc_id: int | None  # 1-based index of the VOC object, as far as it is given
    bounds: Box
    keypoints: dict[str, tuple[float, float] | None]


def find_layout(folder: Folder) -> tuple[str, str]:
    """(prefix of the VOC folder with its slash or "", folder of the Berkeley annotations).

    Raises:
        DistcorrError: a folder of the layout is missing.
    """
    base = next((b for b in _BASES if any(folder.exists(b + part) for part in _PARTS)), None)
    if base is None:
        looked = ", ".join(f"{b}JPEGImages" for b in _BASES)
        raise DistcorrError(f"{folder} has none of {looked}", LAYOUT, MISSING)
    for part in _PARTS:
        if not folder.exists(base + part):
            raise DistcorrError(f"{folder} has no {base}{part}", LAYOUT, MISSING)
    steps = base.split("/")[:-1]
    places = ["/".join([*steps[:depth], "annotations"]) for depth in range(len(steps) + 1)]
    # Only a folder of folders: where case does not count, VOC's own Annotations answers as well.
    found = next((place for place in places if folder.folders(place)), None)
    if found is None:
        raise DistcorrError(
            f"{folder} has no keypoints: {' and '.join(places)} hold no folder per category",
            "unpack voc2011_keypoints_Feb2012.tgz there",
            MISSING,
        )
    return base, found


def read_splits(folder: Folder, base: str, notes: Notes) -> dict[str, str]:
    """Photograph -> split, by train.txt and val.txt or, without them, the lists per class.

    Raises:
        DistcorrError: a split has neither.
    """
    main = f"{base}ImageSets/Main"
    present = folder.sizes(main)
    splits: dict[str, str] = {}
    for split in ("train", "val"):
        whole = f"{split}.txt"
        lists = [whole] if whole in present else [n for n in present if n.endswith(f"_{whole}")]
        if not lists:
            raise DistcorrError(
                f"{folder}/{main} has neither {whole} nor <class>_{whole}", LAYOUT, MISSING
            )
        twice = set()
        for name in lists:
            for line in folder.read(f"{main}/{name}").decode("utf-8", "replace").splitlines():
                image, *flag = line.split() or [""]
                # In a list per class 1 means shown, 0 shown but difficult, -1 not shown.
                if image and flag[:1] != ["-1"] and splits.setdefault(image, split) != split:
                    twice.add(image)
        notes.add("Photographs listed for train and for val, used for train", *sorted(twice))
    return splits


def read_berkeley(
    folder: Folder, place: str, categories: Iterable[str], notes: Notes
) -> list[Annotation]:
    """All well-formed keypoint files of the categories, in order of their names."""
    files = [
        f"{category}/{name}"
        for category in categories
        for name in sorted(folder.sizes(f"{place}/{category}"))
        if name.endswith(".xml") and not name.startswith(".")
    ]
    found = []
    for file, content in zip(files, _read_all(folder, place, files), strict=True):
        try:
            found.append(_parse_berkeley(file, content))
        except (ElementTree.ParseError, ValueError, LookupError):
            notes.add("Malformed keypoint files, left out", f"{place}/{file}")
    return found


def read_photographs(
    folder: Folder, base: str, wanted: Mapping[str, Sequence[Annotation]], notes: Notes
) -> dict[str, Photograph]:
    """The VOC annotation of each wanted photograph, sorted by name, each parsed once."""
    place = f"{base}Annotations"
    present = folder.sizes(place)
    there = []
    for image in sorted(wanted):
        if f"{image}.xml" in present:
            there.append(image)
        else:
            files = [annotation.file for annotation in wanted[image]]
            notes.add(f"Keypoint files without a VOC file in {place}, left out", *files)
    photos = {}
    contents = _read_all(folder, place, [f"{image}.xml" for image in there])
    for image, content in zip(there, contents, strict=True):
        try:
            photos[image] = _parse_voc(content)
        except (ElementTree.ParseError, ValueError, LookupError):
            notes.add(
                "Malformed VOC files, left out with all their instances", f"{place}/{image}.xml"
            )
    return photos


def _read_all(folder: Folder, place: str, names: Sequence[str]) -> list[bytes]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda name: folder.read(f"{place}/{name}"), names))


def _parse_voc(content: bytes) -> Photograph:
    tree = ElementTree.fromstring(content)
    objects = []
    for node in tree.iterfind("object"):
        sides = (node.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
        box = Box(*(_number(side) - 1 for side in sides))
        difficult = (node.findtext("difficult") or "").strip() == "1"
        truncated = {"0": False, "1": True}.get((node.findtext("truncated") or "").strip())
        objects.append(VocObject(_text(node.findtext("name")), box, difficult, truncated))
    width, height = (tree.findtext(f"size/{side}") for side in ("width", "height"))
    size = (int(_number(width)), int(_number(height))) if width and height else (0, 0)
    return Photograph(size if min(size) > 0 else None, objects)


def _parse_berkeley(file: str, content: bytes) -> Annotation:
    tree = ElementTree.fromstring(content)
    bounds = tree.find("visible_bounds")
    if bounds is None:
        raise ValueError("visible_bounds is missing")
    keys = ("xmin", "ymin", "width", "height")
    xmin, ymin, width, height = (_number(bounds.get(key)) for key in keys)
    keypoints: dict[str, tuple[float, float] | None] = {}
    for node in tree.iterfind("keypoints/keypoint"):
        shown = (node.get("visible") or "").strip() == "1"
        xy = (_number(node.get("x")) - 1, _number(node.get("y")) - 1) if shown else None
        keypoints[_text(node.get("name"))] = xy
    category, _, name = file.partition("/")
    voc_id = tree.findtext("voc_id")  # some categories have none
    return Annotation(
        file=file,
        category=category,
        image=(tree.findtext("image") or "").strip() or name.rsplit("_", 1)[0],
        voc_id=int(_number(voc_id)) if voc_id else None,
        # width is xmax - xmin in this release, so both corners are centres of pixels
        bounds=Box(xmin - 1, ymin - 1, xmin + width - 1, ymin + height - 1),
        keypoints=keypoints,
    )


def _text(value: str | None) -> str:
    if not value or not value.strip():
        raise ValueError("a value is missing")
    return value.strip()


def _number(value: str | None) -> float:
    number = float(_text(value))
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number

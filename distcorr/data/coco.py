"""Keypoints in COCO's JSON, as COCO, AP-10K and Animal-Pose publish them.

``images`` (id, file_name, width, height), ``categories`` (id, name, keypoints) and ``annotations``
(image_id, category_id, bbox, keypoints), where ``keypoints`` is x, y, v of every type in turn:

* v = 2 is visible. v = 1, which is labelled but hidden, counts as not visible and v = 0 as absent,
  as the VOC reader takes Berkeley's. Where no keypoint of the files has 2, 1 is their visible.
* x and y are 0-based pixels, so that whole numbers are the centres of pixels, as here: nothing is
  added. Data whose pixels' centres lie at .5 are half a pixel off by that.
* bbox is x, y, width, height from the first pixel on: pixels x to x + width - 1.

Animal-Pose's own file differs: ``images`` is an object of id and name, keypoints are nested, and
bbox is xmin, ymin, xmax, ymax.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from distcorr.data import assemble
from distcorr.data.assemble import SPLITS, Annotated, Photographs, Point
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box, Dataset

LAYOUT = (
    "give the JSON file, or a folder with one (or one called train and one val) in it or in its "
    "annotations/, and the photographs in images/, data/, train2017/, val2017/ or beside the JSON"
)

_ANNOTATIONS = "annotations"
_PLACES = (
    *("", "images", "data", "train2017", "val2017", "train", "val"),
    *("images/train2017", "images/val2017", "images/train", "images/val"),
)
_SPLIT = re.compile(r"(?<![a-z])(training|train|validation|valid|val)(?![a-z])", re.IGNORECASE)
_TEST = re.compile(r"(?<![a-z])test(?![a-z])", re.IGNORECASE)


class Source(NamedTuple):
    """A JSON file: its path below the folder, and the split that its name says, or ""."""

    name: str
    split: str


class _Image(NamedTuple):
    name: str  # as the file has it
    path: str  # below the data set's folder
    split: str
    size: tuple[int, int] | None


@dataclass(frozen=True)
class _Document:
    """One JSON file, its ids as text."""

    file: str
    images: dict[str, _Image]
    categories: dict[str, tuple[str, tuple[str, ...]]]  # id -> name, keypoint types
    annotations: list[Any]
    corners: bool  # whether bbox is xmin, ymin, xmax, ymax


def load(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """All annotated objects of a COCO keypoint file, or of a pair of train and val.

    The split is what the names of two files say; in one file what the images' ``split`` says
    (train or val, others are left out), and without it ``assemble.split_of``. Crowds, malformed
    annotations and what ``assemble.build`` names are left out and counted in ``Dataset.warnings``.
    ``coco_url`` is never followed.

    Args:
        root: path or URI of the JSON file, beside whose ``*train*`` its ``*val*`` is read too and
            the other way round, or of a folder that holds it and the photographs.
        categories: which ones to read; empty means all.
        limit: when above 0, at most so many objects per category and split, evenly spaced.

    Raises:
        DistcorrError: no file or several to choose from, it is no such JSON, a name leads out of
            the folder, nothing usable is left (exit code 3); an unknown category (exit code 2).
    """
    assemble.require_limit(limit)
    folder, sources = find_files(root)
    notes = Notes()
    documents = [_read(folder, source, notes) for source in sources]
    types = _types(documents)
    chosen = assemble.choose(list(types), categories, str(folder))
    shown = _visible_flag(documents, notes)
    objects = [
        each for document in documents for each in _objects(document, set(chosen), shown, notes)
    ]
    here = {each.category for each in objects}
    return assemble.build(
        PurePosixPath(root.partition("?")[0]).stem,
        folder,
        objects,
        {name: types[name] for name in chosen if name in here},
        notes,
        limit,
        LAYOUT,
    )


def find_files(root: str) -> tuple[Folder, list[Source]]:
    """The data set's folder, and one file or one of train and one of val.

    Raises:
        DistcorrError: there is none, or more than one to choose from (exit code 3).
    """
    folder, name = assemble.file_and_folder(root)
    there = bool(name) and folder.size(name) is not None
    if there or name.lower().endswith(".json"):
        if not there:
            raise DistcorrError(f"There is no file {root}.", LAYOUT, MISSING)
        place = ""
        if str(folder).rsplit("/", 1)[-1] == _ANNOTATIONS:
            place, folder = f"{_ANNOTATIONS}/", assemble.file_and_folder(folder.uri)[0]
        pair = next((p for p in _pairs(folder, place) if place + name in p.values()), {})
        return folder, _sources(pair) if len(pair) == 2 else [Source(place + name, "")]
    folder = Folder(root)
    files = [name for place in ("", f"{_ANNOTATIONS}/") for name in _json_files(folder, place)]
    pairs = [p for place in ("", f"{_ANNOTATIONS}/") for p in _pairs(folder, place) if len(p) == 2]
    if len(pairs) == 1:
        return folder, _sources(pairs[0])
    if len(files) == 1:
        return folder, [Source(files[0], "")]
    if not files:
        raise DistcorrError(f"{folder} has no JSON file of annotations.", LAYOUT, MISSING)
    first = pairs[0]["train"] if pairs else files[0]
    raise DistcorrError(
        f"{folder} has {len(files)} JSON files to choose from: {Notes.first(files)}",
        f"name one: {folder}/{first}",
        MISSING,
    )


def _json_files(folder: Folder, place: str) -> list[str]:
    """Those of keypoints if some are called so; never those of a test set, unless alone."""
    names = sorted(n for n in folder.sizes(place.rstrip("/")) if n.lower().endswith(".json"))
    names = [n for n in names if "keypoint" in n.lower()] or names
    names = [n for n in names if not _TEST.search(n)] or names
    return [place + name for name in names]


def _pairs(folder: Folder, place: str) -> list[dict[str, str]]:
    """Files whose names differ in the split alone: split -> file."""
    pairs: dict[str, dict[str, str]] = defaultdict(dict)
    for path in _json_files(folder, place):
        name = path[len(place) :]
        if found := _SPLIT.search(name):
            pairs[_SPLIT.sub("*", name, count=1)][SPLITS[found[1].lower()]] = path
    return list(pairs.values())


def _sources(pair: dict[str, str]) -> list[Source]:
    return [Source(pair[split], split) for split in ("train", "val")]


def _read(folder: Folder, source: Source, notes: Notes) -> _Document:
    where = f"{folder}/{source.name}"
    try:
        document = json.loads(folder.read(source.name))
        images, categories = document["images"], document["categories"]
        annotations = document["annotations"]
        if not isinstance(annotations, list):
            raise TypeError("annotations must be a list")
        corners = isinstance(images, dict)
        if isinstance(images, dict):
            images = [{"id": key, "file_name": name} for key, name in images.items()]
        listed = _images(folder, source, images, notes)
        named = _categories(categories, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DistcorrError(
            f"{where} is no COCO keypoint file: {type(error).__name__}: {error}",
            "it needs images, categories with their keypoints, and annotations",
            MISSING,
        ) from error
    if not named:
        raise DistcorrError(
            f"{where} has no category with keypoints.",
            "give the file of keypoints, as person_keypoints_train2017.json",
            MISSING,
        )
    return _Document(source.name, listed, named, annotations, corners)


def _images(
    folder: Folder, source: Source, images: list[dict[str, Any]], notes: Notes
) -> dict[str, _Image]:
    beside = source.name.rpartition("/")[0]
    photographs = Photographs(folder, list(dict.fromkeys((*_PLACES, beside))))
    told = not source.split and any("split" in image for image in images)
    found, hashed = {}, []
    for image in images:
        name = assemble.inside(image["file_name"], f"{folder}/{source.name}")
        split = source.split
        if told:
            split = SPLITS.get(str(image.get("split")).lower(), "")
            if not split:
                notes.add("Photographs whose split is neither train nor val, left out", name)
                continue
        elif not split:
            split = assemble.split_of(name)
            hashed += [name] if split == "val" else []
        width, height = image.get("width"), image.get("height")
        size = (int(width), int(height)) if width and height else None
        path = photographs.find(name, split)
        found[str(image["id"])] = _Image(name, path, split, size)
    if not told and not source.split:
        notes.add(
            f"No split is given: of {len(found)} photographs these are validated, by their names",
            *hashed,
        )
    return found


def _categories(
    categories: list[dict[str, Any]], where: str
) -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for category in categories:
        if not category.get("keypoints"):
            continue
        name = assemble.plain(category["name"], "category", where)
        types = [assemble.plain(t, "keypoint", where) for t in category["keypoints"]]
        twice = sorted({t for t in types if types.count(t) > 1})
        if twice or name in {other for other, _ in found.values()}:
            what = f"keypoints of {name} {', '.join(twice)}" if twice else f"category {name}"
            raise DistcorrError(
                f"{where} has the {what} more than once.", "names must differ", MISSING
            )
        found[str(category["id"])] = name, tuple(types)
    return found


def _types(documents: Sequence[_Document]) -> dict[str, tuple[str, ...]]:
    """Category -> its keypoint types, which all files must agree on."""
    found: dict[str, tuple[str, ...]] = {}
    for document in documents:
        for name, types in document.categories.values():
            if found.setdefault(name, types) != types:
                raise DistcorrError(
                    f"{documents[0].file} and {document.file} differ in the keypoints of {name}.",
                    "both must list the same ones in the same order",
                    MISSING,
                )
    return dict(sorted(found.items()))


def _visible_flag(documents: Sequence[_Document], notes: Notes) -> int:
    """The least v that is visible: 2, or 1 where the files have no 2."""
    for document in documents:
        for annotation in document.annotations:
            try:
                if any(v == 2 for _, _, v in _triples(annotation)):
                    return 2
            except (ValueError, KeyError, TypeError):
                continue  # _objects counts it
    notes.add("No keypoint is flagged 2, so 1 counts as visible", documents[0].file)
    return 1


def _objects(
    document: _Document, chosen: set[str], shown: int, notes: Notes
) -> Iterator[Annotated]:
    for index, annotation in enumerate(document.annotations):
        where = f"{document.file} annotation {index}"
        try:
            category = document.categories.get(str(annotation["category_id"]))
            image = document.images.get(str(annotation["image_id"]))
            if category is None:
                notes.add("Annotations of categories without keypoints, left out", where)
            elif category[0] not in chosen:
                continue
            elif image is None:
                notes.add("Annotations of photographs that are not listed, left out", where)
            elif annotation.get("iscrowd"):
                notes.add("Crowds, left out", where)
            else:
                stem = PurePosixPath(image.name).with_suffix("")
                yield Annotated(
                    id=f"{stem}#{annotation.get('id', index)}",
                    image=image.path,
                    category=category[0],
                    split=image.split,
                    box=_box(annotation["bbox"], document.corners),
                    points=_points(annotation, category[1], shown),
                    size=image.size,
                )
        except (ValueError, KeyError, TypeError, AttributeError):
            notes.add("Malformed annotations, left out", where)


def _box(bbox: list[Any], corners: bool) -> Box:
    x, y, a, b = assemble.numbers(bbox)
    return Box(x, y, a, b) if corners else Box(x, y, x + a - 1, y + b - 1)


def _points(
    annotation: dict[str, Any], types: Sequence[str], shown: int
) -> dict[str, Point | None]:
    triples = _triples(annotation)
    return {
        name: (x, y) if v >= shown else None for name, (x, y, v) in zip(types, triples, strict=True)
    }


def _triples(annotation: dict[str, Any]) -> list[tuple[float, float, float]]:
    values = annotation["keypoints"]
    flat = (
        [v for each in values for v in each] if values and isinstance(values[0], list) else values
    )
    found = assemble.numbers(flat)
    return list(zip(found[0::3], found[1::3], found[2::3], strict=True))

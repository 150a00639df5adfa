"""PASCAL VOC 2011 with the Berkeley keypoint annotations, as their authors publish them.

The layout is ``[TrainVal/]VOCdevkit/VOC2011/{JPEGImages,Annotations,ImageSets/Main}`` and
``annotations/<category>/<image>_<k>.xml`` (release ``voc2011_keypoints_Feb2012``).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

import numpy as np
from scipy.optimize import linear_sum_assignment

from distcorr.data import assemble
from distcorr.data.storage import Folder
from distcorr.data.voc_files import (
    LAYOUT,
    Annotation,
    Notes,
    Photograph,
    VocObject,
    find_layout,
    read_berkeley,
    read_photographs,
    read_splits,
)
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box, Dataset, Instance

_MIN_IOU = 0.5


def load(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """All annotated instances of the train and val photographs.

    Berkeley's instances are matched to VOC's objects of the same category by overlap
    (IoU >= 0.5, one to one), because a file's suffix is not always VOC's object index. What
    cannot be used is left out and counted in ``Dataset.warnings``; an instance whose photograph
    is missing stays in, so that the stage which needs the photograph reports it by name.

    Args:
        root: path or URI of the folder with ``VOCdevkit/VOC2011`` (or ``TrainVal/...``) and
            ``annotations``.
        categories: which ones to read; empty means all.
        limit: when above 0, at most so many instances per category and split, evenly spaced
            over the sorted ids.

    Raises:
        DistcorrError: a folder is missing, nothing usable is left or all photographs are missing
            (exit code 3); a category is unknown or the limit negative (exit code 2).
    """
    assemble.require_limit(limit)
    folder = Folder(root)
    base, place = find_layout(folder)
    chosen = assemble.choose(folder.folders(place), categories, str(folder))
    notes = Notes()
    splits = read_splits(folder, base, notes)
    annotations = read_berkeley(folder, place, chosen, notes)
    wanted: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.image in splits:
            wanted[annotation.image].append(annotation)
        else:
            notes.add("Keypoint files of photographs in neither split, left out", annotation.file)

    names = _keypoint_names(annotations)
    instances: list[Instance] = []
    for image, photo in read_photographs(folder, base, wanted, notes).items():
        path = f"{base}JPEGImages/{image}.jpg"
        size = photo.size or assemble.header_size(folder, path)
        for annotation, index, box in _usable(wanted[image], photo, size, notes):
            points = [annotation.keypoints.get(name) for name in names[annotation.category]]
            instances.append(
                Instance(
                    id=f"{image}#{index}",
                    image=path,
                    category=annotation.category,
                    split=splits[image],
                    box=box,
                    keypoints=np.array([p or (math.nan, math.nan) for p in points], np.float32),
                    visible=np.array([p is not None for p in points], bool),
                    truncated=photo.objects[index].truncated,
                )
            )
    warnings = notes.sentences()
    if not instances:
        reasons = f". {'. '.join(warnings)}" if warnings else ""
        raise DistcorrError(
            f"{folder} has no usable instance of {', '.join(chosen)}{reasons}", LAYOUT, MISSING
        )
    warnings += assemble.missing_photographs(
        folder,
        instances,
        f"put the photographs (of VOCtrainval_25-May-2011.tar) into {base}JPEGImages",
    )
    instances.sort(key=lambda instance: (instance.category, instance.split, instance.id))
    return Dataset(
        name=str(folder).rsplit("/", 1)[-1],
        root=folder.uri,
        instances=tuple(assemble.evenly(instances, limit) if limit else instances),
        keypoint_names=names,
        warnings=(*warnings, *_surprising_names(names)),
    )


def _usable(
    annotations: Sequence[Annotation],
    photo: Photograph,
    size: tuple[int, int] | None,
    notes: Notes,
) -> Iterator[tuple[Annotation, int, Box]]:
    """(annotation, index of its VOC object, clipped box) of one photograph's good instances."""
    for annotation, index in zip(annotations, _match(annotations, photo.objects), strict=True):
        if index is None:
            what = f"Keypoint files that no VOC object overlaps by {_MIN_IOU}, left out"
            notes.add(what, annotation.file)
            continue
        box = assemble.clip(photo.objects[index].box, size)
        if photo.objects[index].difficult:
            notes.add("Objects marked difficult, left out", annotation.file)
        elif not any(annotation.keypoints.values()):
            notes.add("Instances without a visible keypoint, left out", annotation.file)
        elif min(box.width, box.height) < 1 or box.max_side <= 0:
            notes.add("Boxes that are empty or outside the photograph, left out", annotation.file)
        else:
            yield annotation, index, box


def _match(annotations: Sequence[Annotation], objects: Sequence[VocObject]) -> list[int | None]:
    """For each annotation the index of its VOC object: the greatest total overlap, one to one."""
    overlap = np.zeros((len(annotations), len(objects)))
    for row, annotation in enumerate(annotations):
        for column, candidate in enumerate(objects):
            iou = _iou(annotation.bounds, candidate.box)
            if candidate.name == annotation.category and iou >= _MIN_IOU:
                # voc_id only decides between equal overlaps
                overlap[row, column] = iou + 1e-9 * (annotation.voc_id == column + 1)
    matched: list[int | None] = [None] * len(annotations)
    for row, column in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
        if overlap[row, column] > 0:
            matched[row] = int(column)
    return matched


def _iou(a: Box, b: Box) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0) + 1
    height = min(a.y1, b.y1) - max(a.y0, b.y0) + 1
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (a.width * a.height + b.width * b.height - common)


def _pascal_names() -> dict[str, list[str]]:
    text = resources.files("distcorr.data").joinpath("keypoint_names.json").read_text("utf-8")
    classes: dict[str, list[str]] = json.loads(text)["classes"]
    return classes


def _keypoint_names(annotations: Iterable[Annotation]) -> dict[str, tuple[str, ...]]:
    """Category -> its keypoint types: PASCAL's in their usual order, then others by name."""
    seen: dict[str, set[str]] = defaultdict(set)
    for annotation in annotations:
        seen[annotation.category].update(annotation.keypoints)
    names = {}
    for category in sorted(seen):
        listed = [name for name in _pascal_names().get(category, []) if name in seen[category]]
        names[category] = (*listed, *sorted(seen[category].difference(listed)))
    return names


def _surprising_names(names: dict[str, tuple[str, ...]]) -> Iterator[str]:
    pascal = _pascal_names()
    for category, types in names.items():
        others = [name for name in types if name not in pascal.get(category, [])]
        # Where fewer than half are PASCAL's, this is another data set with its own names.
        if others and 2 * len(others) <= len(types):
            yield (
                f"{category} has {len(others)} keypoint types that PASCAL's list does not name: "
                f"{', '.join(others)}"
            )

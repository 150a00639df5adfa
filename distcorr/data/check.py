"""What looks wrong in a data set, said before hours are spent on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from distcorr.data.pairs import Pair, PairSet
from distcorr.data.voc_files import Notes
from distcorr.types import Dataset, Instance


def check(dataset: Dataset) -> list[str]:
    """One sentence per suspicion, with category, count and the first names; [] if all is well.

    Nothing here stops a run: it tells what will make its numbers wrong or surprising.
    """
    groups: dict[str, list[Instance]] = {name: [] for name in dataset.keypoint_names}
    for instance in dataset.instances:
        groups.setdefault(instance.category, []).append(instance)
    found = [*_duplicate_ids(dataset.instances), *_both_splits(dataset.instances)]
    for category, instances in sorted(groups.items()):
        found += _boxes(category, instances)
        found += _far_keypoints(category, instances, dataset.keypoint_names.get(category, ()))
        found += _splits(category, instances, dataset.keypoint_names.get(category, ()))
    return found


def _duplicate_ids(instances: Iterable[Instance]) -> Iterator[str]:
    counts = Counter(instance.id for instance in instances)
    if names := [name for name, count in counts.items() if count > 1]:
        yield f"{len(names)} instance ids occur more than once: {Notes.first(names)}"


def _both_splits(instances: Iterable[Instance]) -> Iterator[str]:
    splits: dict[str, set[str]] = defaultdict(set)
    for instance in instances:
        splits[instance.image].add(instance.split)
    if names := [name for name, kinds in splits.items() if len(kinds) > 1]:
        yield (
            f"{len(names)} photographs are in training and in validation, which flatters the "
            f"scores: {Notes.first(names)}"
        )


def _boxes(category: str, instances: Iterable[Instance]) -> Iterator[str]:
    places: dict[object, list[str]] = defaultdict(list)
    empty = []
    for instance in instances:
        places[instance.image, instance.box].append(instance.id)
        box = instance.box
        # Written so that NaN counts as empty too.
        if not (min(box.width, box.height) >= 1 and box.max_side > 0):
            empty.append(instance.id)
    if twins := [" = ".join(ids) for ids in places.values() if len(ids) > 1]:
        yield (
            f"{category}: {len(twins)} boxes are annotated more than once in the same photograph: "
            f"{Notes.first(twins)}"
        )
    if empty:
        yield f"{category}: {len(empty)} boxes are empty: {Notes.first(empty)}"


def _far_keypoints(
    category: str, instances: Iterable[Instance], types: tuple[str, ...]
) -> Iterator[str]:
    far = []
    for instance in instances:
        box = instance.box
        low, high = np.array(box[:2]), np.array(box[2:])
        outside = np.maximum(low - instance.keypoints, instance.keypoints - high).max(axis=-1)
        columns = np.flatnonzero(instance.visible & (outside > box.max_side / 2))
        far += [f"{instance.id} {types[column]}" for column in columns]
    if far:
        yield (
            f"{category}: {len(far)} keypoints lie farther outside their box than half its longer "
            f"side, where no prediction can reach them: {Notes.first(far)}"
        )


def _splits(category: str, instances: list[Instance], types: tuple[str, ...]) -> Iterator[str]:
    shown = {}
    for split, name in (("train", "training"), ("val", "validation")):
        chosen = [instance for instance in instances if instance.split == split]
        shown[split] = np.zeros(len(types), bool)
        for instance in chosen:
            shown[split] |= instance.visible
        if not chosen:
            count = f"{len(instances)} of the other split" if instances else "none at all"
            yield f"{category}: no {name} example ({count}), so it is not scored"
    never = np.flatnonzero(shown["val"] & ~shown["train"])
    if never.size and shown["train"].any():
        names = [types[column] for column in never]
        yield (
            f"{category}: {len(names)} keypoint types are in validation but never in training, so "
            f"all their predictions count as wrong: {', '.join(names)}"
        )


def counts(dataset: Dataset) -> list[dict[str, Any]]:
    """A row per category and split: photographs, objects, visible keypoints, their types, side.

    ``side`` is the median of the boxes' longer sides, px.
    """
    groups: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for instance in dataset.instances:
        groups[instance.category, instance.split].append(instance)
    return [
        {
            "category": category,
            "split": split,
            "photographs": len({i.image for i in members}),
            "objects": len(members),
            "keypoints": sum(int(i.visible.sum()) for i in members),
            "types": int(np.any([i.visible for i in members], axis=0).sum()),
            "side": float(round(np.median([max(i.box.width, i.box.height) for i in members]), 1)),
        }
        for (category, split), members in sorted(groups.items())
    ]


def keypoint_counts(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Category -> keypoint type -> split -> in how many objects it is visible."""
    return {
        category: {
            name: {
                split: sum(
                    bool(i.visible[column])
                    for i in dataset.instances
                    if (i.category, i.split) == (category, split)
                )
                for split in ("train", "val")
            }
            for column, name in enumerate(names)
        }
        for category, names in sorted(dataset.keypoint_names.items())
    }


def pair_counts(found: PairSet) -> list[dict[str, Any]]:
    """A row per category of pairs: pairs, photographs, keypoints, their types, pairs with boxes.

    ``keypoints`` counts those that both photographs of a pair have.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in found.pairs:
        groups[pair.category].append(pair)
    return [
        {
            "category": category,
            "pairs": len(members),
            "photographs": len({name for pair in members for name in (pair.a, pair.b)}),
            "keypoints": sum(len(pair.keypoints) for pair in members),
            "types": len({name for pair in members for name in pair.keypoints}),
            "boxes": sum(bool(pair.box_a and pair.box_b) for pair in members),
        }
        for category, members in sorted(groups.items())
    ]


def pair_keypoint_counts(found: PairSet) -> dict[str, dict[str, int]]:
    """Category -> keypoint type -> in how many pairs it is."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for pair in found.pairs:
        counted[pair.category].update(pair.keypoints)
    return {category: dict(sorted(types.items())) for category, types in sorted(counted.items())}

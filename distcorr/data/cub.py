"""Caltech-UCSD Birds 200-2011 with its parts, as its authors publish it.

``images.txt``, ``bounding_boxes.txt``, ``train_test_split.txt``, ``image_class_labels.txt``,
``classes.txt``, ``parts/parts.txt``, ``parts/part_locs.txt`` and ``images/``, here or in
``CUB_200_2011/``. The test split is our validation.

Its notes say "pixel coordinates" and not where they begin; they are taken as 0-based, as they
stand, which is at most a pixel off. A box is x, y, width, height: pixels x to x + width - 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from distcorr.data import assemble
from distcorr.data.assemble import Annotated, Point
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Box, Dataset

BIRD = "bird"  # the category of all species together
LAYOUT = "give the folder CUB_200_2011, with images.txt, images/ and parts/part_locs.txt"

_BASES = ("", "CUB_200_2011/")
_FILES = (
    *("images.txt", "bounding_boxes.txt", "train_test_split.txt", "image_class_labels.txt"),
    *("classes.txt", "parts/parts.txt", "parts/part_locs.txt"),
)


def load(root: str, categories: Sequence[str] = (), limit: int = 0) -> Dataset:
    """All birds: as one category, or by species.

    Malformed lines, and what ``assemble.build`` names, are left out and counted in
    ``Dataset.warnings``.

    Args:
        root: path or URI of the folder with ``images.txt``, or of the one above it.
        categories: species as ``classes.txt`` has them ("001.Black_footed_Albatross"), each a
            category of its own; empty, or "bird": one category of all.
        limit: when above 0, at most so many birds per category and split, evenly spaced.

    Raises:
        DistcorrError: a file is missing, a photograph's name leads out of the folder, nothing
            usable is left (exit code 3); an unknown category (exit code 2).
    """
    assemble.require_limit(limit)
    folder = Folder(root)
    base = find_base(folder)
    if base is None:
        raise DistcorrError(f"{folder} has no images.txt and parts/part_locs.txt", LAYOUT, MISSING)
    notes = Notes()
    tables = {name: _lines(folder, base + name, notes) for name in _FILES}
    species = {key: values[0] for key, values in _by_id(tables["classes.txt"], 1).items()}
    chosen = assemble.choose([BIRD, *species.values()], categories or [BIRD], str(folder))
    if BIRD in chosen and len(chosen) > 1:
        raise DistcorrError(
            f"{BIRD} is all species together, and cannot be beside {chosen[1]}.",
            "-c bird, or only species",
        )
    parts = {
        key: assemble.plain(" ".join(words), "part", str(folder))
        for key, words in _by_id(tables["parts/parts.txt"]).items()
    }
    return assemble.build(
        str(folder).rsplit("/", 1)[-1],
        folder,
        _objects(base, tables, chosen, parts, species, notes),
        {name: list(parts.values()) for name in chosen},
        notes,
        limit,
        LAYOUT,
    )


def find_base(folder: Folder) -> str | None:
    """Prefix of the files below the folder, None if it holds no such data set."""
    needed = ("images.txt", "parts/part_locs.txt")
    found = (base for base in _BASES if all(folder.exists(base + name) for name in needed))
    return next(found, None)


def _lines(folder: Folder, name: str, notes: Notes) -> list[list[str]]:
    """The words of every line; the first is an id."""
    try:
        content = folder.read(name)
    except FileNotFoundError as error:
        raise DistcorrError(f"{folder} has no {name}", LAYOUT, MISSING) from error
    lines = [line.split() for line in content.decode("utf-8", "replace").splitlines()]
    notes.add(
        f"Lines of {name} with too few words, left out", *[w[0] for w in lines if len(w) == 1]
    )
    return [words for words in lines if len(words) > 1]


def _by_id(lines: Sequence[Sequence[str]], count: int = 0) -> dict[str, list[str]]:
    """Id -> its other words; only lines with ``count`` of them, if it is above 0."""
    return {key: words for key, *words in lines if not count or len(words) == count}


def _objects(
    base: str,
    tables: Mapping[str, list[list[str]]],
    chosen: Sequence[str],
    parts: Mapping[str, str],
    species: Mapping[str, str],
    notes: Notes,
) -> Iterator[Annotated]:
    boxes = _by_id(tables["bounding_boxes.txt"], 4)
    splits = _by_id(tables["train_test_split.txt"], 1)
    classes = _by_id(tables["image_class_labels.txt"], 1)
    located: dict[str, list[list[str]]] = defaultdict(list)
    for key, *words in tables["parts/part_locs.txt"]:
        located[key].append(words)
    for key, words in _by_id(tables["images.txt"]).items():
        name = assemble.inside(" ".join(words), f"{base}images.txt")
        kind = BIRD if chosen[0] == BIRD else species.get(classes.get(key, [""])[0], "")
        if kind not in chosen:
            continue
        try:
            x, y, width, height = assemble.numbers(boxes[key])
            split = {"1": "train", "0": "val"}[splits[key][0]]
            yield Annotated(
                id=f"{name.rsplit('/', 1)[-1].rpartition('.')[0]}#0",
                image=f"{base}images/{name}",
                category=kind,
                split=split,
                box=Box(x, y, x + width - 1, y + height - 1),
                points=dict(_point(parts, *words) for words in located[key]),
                size=None,
            )
        except (KeyError, ValueError, TypeError):
            notes.add("Photographs whose box, split or parts are missing or malformed", name)


def _point(
    parts: Mapping[str, str], part: str, x: str, y: str, visible: str
) -> tuple[str, Point | None]:
    px, py = assemble.numbers([x, y])
    return parts[part], (px, py) if {"1": True, "0": False}[visible] else None

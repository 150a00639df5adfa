"""Pairs of photographs with the same keypoints in both: PF-WILLOW, PF-PASCAL, SPair-71k.

Where PASCAL's protocol finds the neighbours of every object, these data sets say which two
photographs to match.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from distcorr.data import assemble, pairs_pf, pairs_spair, pairs_table, tabular
from distcorr.data.pairs_read import AnnotatedPair, Found, Listing, canonical_split
from distcorr.data.storage import Folder
from distcorr.data.voc_files import Notes
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, FloatArray

LAYOUTS = {
    "pf-willow": pairs_pf.WILLOW_LAYOUT,
    "pf-pascal": pairs_pf.PASCAL_LAYOUT,
    "spair-71k": pairs_spair.LAYOUT,
    "table": pairs_table.LAYOUT,
}
"""Layout -> how it looks."""

_READERS: dict[str, Callable[[str, str, Sequence[str], Notes], Found]] = {
    "pf-willow": pairs_pf.read_willow,
    "pf-pascal": pairs_pf.read_pascal,
    "spair-71k": pairs_spair.read,
    "table": pairs_table.read,
}
_THREADS = 8  # that read the sizes of photographs


@dataclass(frozen=True, eq=False, slots=True)
class Pair:
    """Two photographs, and where the same keypoints lie in both.

    Attributes:
        id: unique and stable in its set.
        category: of both objects, or of the pair where the set has no categories.
        a: path of the photograph whose points are given, relative to the set's root.
        b: path of the photograph that they are looked for in.
        points_a: (n, 2) float32 xy px in A, 0-based, all finite.
        points_b: (n, 2) float32 xy px in B: the truth.
        keypoints: n names, in the order of the points.
        box_a: the object's box in A; None where the set has none.
        box_b: the object's box in B; None where the set has none.
    """

    id: str
    category: str
    a: str
    b: str
    points_a: FloatArray
    points_b: FloatArray
    keypoints: tuple[str, ...]
    box_a: Box | None = None
    box_b: Box | None = None


@dataclass(frozen=True)
class PairSet:
    """Pairs in a fixed order, with what was noticed while reading them.

    Attributes:
        name: for the tables' stamp, for example ``"spair-71k"``.
        root: path or URI that ``Pair.a`` and ``Pair.b`` are relative to.
        pairs: sorted by id.
        warnings: one sentence each: what was dropped or looks wrong, with counts and names.
    """

    name: str
    root: str
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...] = ()


def load_pairs(
    root: str,
    layout: str = "",
    split: str = "test",
    categories: Sequence[str] = (),
    limit: int = 0,
) -> PairSet:
    """The pairs of one split.

    Left out and counted in ``PairSet.warnings``: keypoints that are absent in one of the two
    photographs, pairs without any other, malformed annotations, ids that are there twice. Only
    counted: photographs that are missing, pairs of a photograph with itself, keypoints and boxes
    outside their photograph. A pair whose photograph is missing stays in, so that whoever needs
    the photograph reports it by name, and no score is silently over fewer pairs.

    Args:
        root: path or URI of the set's folder, or of the table.
        layout: a key of ``LAYOUTS``; "" recognises it by the files.
        split: train, val or test.
        categories: which ones to read; empty means all.
        limit: when above 0, at most so many pairs per category, evenly spaced over sorted ids.

    Raises:
        DistcorrError: files or the split are missing, a name leads out of the folder, nothing
            usable is left, or all photographs are missing (exit code 3); an unknown layout, split
            or category, or a negative limit (exit code 2).
    """
    assemble.require_limit(limit)
    split = canonical_split(split)
    if layout and layout not in LAYOUTS:
        raise DistcorrError(
            f"Unknown layout of pairs {layout!r}.{did_you_mean(layout, LAYOUTS)}",
            f"known are: {', '.join(LAYOUTS)}",
        )
    notes = Notes()
    reader = _READERS[layout or recognise(root)]
    name, folder, annotated, hint = reader(root, split, categories, notes)
    usable = sorted(_usable(annotated, notes), key=lambda pair: pair.id)
    if not usable:
        reasons = f". {'. '.join(notes.sentences())}" if notes.sentences() else "."
        raise DistcorrError(f"{folder} has no usable pair{reasons}", hint, MISSING)
    chosen = sorted(_evenly(usable, limit), key=lambda pair: pair.id) if limit else usable
    missing = _missing(folder, chosen)
    _look(folder, chosen, notes)
    pairs = tuple(_pair(each) for each in chosen)
    return PairSet(name, folder.uri, pairs, (*notes.sentences(), *missing))


def recognise(root: str) -> str:
    """The layout of a file or folder, by its names and columns: a key of ``LAYOUTS``.

    Raises:
        DistcorrError: it holds no pairs that are known (exit code 3).
    """
    found = guess(root)
    if not found:
        hints = "; ".join(f"{name}: {text}" for name, text in LAYOUTS.items())
        there = "" if Folder(root).exists() else " does not exist, or"
        raise DistcorrError(
            f"{Folder(root)}{there} holds no pairs of a layout that distcorr knows.", hints, MISSING
        )
    return found


def guess(root: str) -> str:
    """The layout of a file or folder if it holds pairs, else ""."""
    is_table = root.partition("?")[0].lower().endswith(tabular.ENDINGS)
    if not is_table and pairs_spair.find_base(Folder(root)) is not None:
        return "spair-71k"
    if found := pairs_pf.guess(root):
        return found
    return "table" if pairs_table.is_one(root) else ""


def _usable(annotated: Iterable[AnnotatedPair], notes: Notes) -> Iterator[AnnotatedPair]:
    """Pairs with the keypoints that are in both photographs; no id twice."""
    seen: set[str] = set()
    for each in annotated:
        both = np.hstack([each.points_a, each.points_b])
        there = [bool(np.isfinite(row).all()) for row in both]
        gone = [name for name, kept in zip(each.keypoints, there, strict=True) if not kept]
        notes.add(
            "Keypoints that are absent in one of the two photographs, dropped",
            *[f"{each.id} {name}" for name in gone],
        )
        if each.id in seen:
            notes.add("Pairs with the id of another, left out", each.id)
        elif not any(there):
            notes.add("Pairs without a keypoint in both photographs, left out", each.id)
        else:
            seen.add(each.id)
            yield each._replace(
                points_a=each.points_a[there],
                points_b=each.points_b[there],
                keypoints=tuple(itertools.compress(each.keypoints, there)),
            )


def _evenly(pairs: Iterable[AnnotatedPair], limit: int) -> Iterator[AnnotatedPair]:
    """At most ``limit`` of each category, evenly spaced."""
    groups: dict[str, list[AnnotatedPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.category].append(pair)
    for group in groups.values():
        count = min(limit, len(group))
        yield from (group[i * len(group) // count] for i in range(count))


def _missing(folder: Folder, pairs: Iterable[AnnotatedPair]) -> list[str]:
    """A sentence if some photographs are missing.

    Raises:
        DistcorrError: all are (exit code 3).
    """
    listing = Listing(folder)
    images = sorted({name for pair in pairs for name in (pair.a, pair.b)})
    missing = [image for image in images if not listing.has(image)]
    if len(missing) == len(images):
        raise DistcorrError(
            f"All {len(images)} photographs are missing: {Notes.first(missing)} below {folder}",
            "put the photographs beside the annotations; nothing is downloaded",
            MISSING,
        )
    if not missing:
        return []
    return [f"{len(missing)} of {len(images)} photographs are missing: {Notes.first(missing)}"]


def _look(folder: Folder, pairs: Sequence[AnnotatedPair], notes: Notes) -> None:
    """What lies beyond the edges of its photograph, by half a pixel or more."""
    sizes = {p.a: p.size_a for p in pairs} | {p.b: p.size_b for p in pairs}
    untold = [image for image, size in sizes.items() if size is None]
    with ThreadPoolExecutor(_THREADS) as pool:
        read = pool.map(lambda image: assemble.header_size(folder, image), untold)
        sizes |= dict(zip(untold, read, strict=True))
    for pair in pairs:
        if pair.a == pair.b:
            notes.add("Pairs of a photograph with itself", pair.id)
        sides = (("A", pair.a, pair.points_a, pair.box_a), ("B", pair.b, pair.points_b, pair.box_b))
        for side, image, points, box in sides:
            if (size := sizes[image]) is None:
                continue
            last = np.array(size) - 0.5
            beyond = ((points < -0.5) | (points > last)).any(axis=1)
            notes.add(
                "Keypoints outside their photograph",
                *[f"{pair.id} {pair.keypoints[k]} in {side}" for k in np.flatnonzero(beyond)],
            )
            corners = np.array(box or (0, 0, 0, 0)).reshape(2, 2)
            if (corners < -0.5).any() or (corners > last).any():
                notes.add("Boxes that reach beyond their photograph", f"{pair.id} in {side}")


def _pair(each: AnnotatedPair) -> Pair:
    return Pair(
        id=each.id,
        category=each.category,
        a=each.a,
        b=each.b,
        points_a=each.points_a.astype(np.float32),
        points_b=each.points_b.astype(np.float32),
        keypoints=each.keypoints,
        box_a=each.box_a,
        box_b=each.box_b,
    )

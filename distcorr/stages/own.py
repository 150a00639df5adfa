"""A picture of the user's, rebuilt from the photographs of a run (section 2, Figure 1).

The steps of ``visualize``, but what they find stays in memory: it is little for one picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from distcorr.algorithms import search
from distcorr.algorithms.crop import reduce_to
from distcorr.algorithms.rebuild import Picture
from distcorr.data.images import checksum
from distcorr.data.run import DeadLetter
from distcorr.data.storage import Folder
from distcorr.data.visualized import ORIGINAL, Base, Rebuilt
from distcorr.errors import MISSING, PARTIAL, DistcorrError
from distcorr.stages.cluster import Session
from distcorr.stages.copies import banned, near_copies
from distcorr.stages.gallery import Layer, Sizes, view_of
from distcorr.stages.loaded import network_of, source_of
from distcorr.stages.locality import Queries, look_at
from distcorr.stages.nearest import Hits, search_piece
from distcorr.stages.photograph import look
from distcorr.stages.pictures import Scene
from distcorr.stages.pipeline import Context
from distcorr.stages.rebuilt import Subject, rebuilt, seeded
from distcorr.stages.visualize import NAME, DataBase

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class OwnPicture:
    """A picture, rebuilt by every layer.

    Attributes:
        image: its name.
        original: (H, W, 3) as layers of any size see it.
        copies: names of its near copies and of photographs of the same bytes, all left out.
        notes: what a reader must know.
        bases: layer -> its data base.
        rebuilt: how good every rebuilt picture is.
        layers: that could rebuild it.
        shown: the one picture.
    """

    image: str
    original: Picture
    copies: list[str]
    notes: list[str]
    bases: dict[str, Base] = field(default_factory=dict)
    rebuilt: list[Rebuilt] = field(default_factory=list)
    recall: dict[str, dict[int, float]] = field(default_factory=dict)  # not measured
    layers: list[str] = field(default_factory=list)
    shown: list[str] = field(init=False)
    _pictures: dict[tuple[str, str, int], Picture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shown = [self.image]

    def add(self, row: Rebuilt, picture: Picture) -> None:
        """One more rebuilt picture."""
        self.rebuilt.append(row)
        self._pictures[row.layer, row.method, row.k] = picture

    def picture(self, layer: str, image: str, method: str, k: int) -> Picture:
        """(H, W, 3) as ``Visualized.picture``; ``image`` is the one there is."""
        return self.original if method == ORIGINAL else self._pictures[layer, method, k]


def rebuild_own(context: Context, file: str) -> OwnPicture:
    """Rebuild a picture.

    Args:
        context: of a run whose build-db has finished; layers and data base as ``visualize`` has
            them.
        file: path or URI of the picture; seen as viewers show it.

    Raises:
        DistcorrError: the picture cannot be read or is too small for every layer; the run lacks
            the cells; its weights are gone or have changed; a part of the search failed.
    """
    base, config = DataBase.of(context), context.config
    if not base.tables:
        raise DistcorrError(
            f"{context.run} keeps no cells of whole photographs, which patches are taken from.",
            "distcorr build-db --set 'features.cells=[\"auto\"]' adds them",
            MISSING,
        )
    folder, name = Folder(os.path.dirname(file) or "."), os.path.basename(file)
    picture = look(file, None).photograph
    gallery = base.gallery.joined_by(name, checksum(folder, name))
    base = replace(base, gallery=gallery)
    scene = Scene(len(gallery.images) - 1, name, picture.shape[1], picture.shape[0])
    seen = reduce_to(picture, config.features.photo_side)
    weights = network_of(NAME, context.run, config)
    layers = base.layers(config, weights)
    queries: dict[str, Queries] = {}
    notes: list[str] = []
    for layer in layers.values():
        found = look_at(layer, source_of(config, weights, layer.tables[0]), scene, seen)
        if isinstance(found, DeadLetter):
            notes.append(f"{name}: {found.error}.")
        else:
            queries[layer.name] = _queries(*found)
    if not queries:
        raise DistcorrError(" ".join(notes), "give a larger picture", MISSING)
    out = _left_out(context, base, layers, queries)
    made = OwnPicture(name, seen, [gallery.images[n] for n in out], notes)
    for which, asked in queries.items():
        layer = layers[which]
        view = view_of(layer, scene, seen)
        made.layers.append(which)
        subject, made.bases[which] = _subject(context, base, layer, asked, out, view)
        for row, rebuilt_as in rebuilt(gallery, layer, [subject], config.visualize.ks, config.seed):
            made.add(row, rebuilt_as)
    return made


def _queries(keys: dict[str, Any], values: Any) -> Queries:
    wide = {name: column.astype(np.int64) for name, column in keys.items()}
    cells = np.stack([wide["row"], wide["col"]], axis=1)
    nowhere = np.full(len(values), -1, np.int64)
    return Queries(wide["number"], cells, wide["height"], wide["width"], nowhere, values)


def _left_out(
    context: Context, base: DataBase, layers: dict[str, Layer], queries: dict[str, Queries]
) -> list[int]:
    """Numbers of the data base's photographs that are the picture itself, or nearly."""
    gallery, least = base.gallery, context.config.visualize.copies
    own = len(gallery.images) - 1
    same = gallery.contents[:own] == gallery.contents[own]
    found = set(np.flatnonzero(same & gallery.base[:own]).tolist())
    first = next(iter(layers))
    if least and first in queries:
        session = context.session
        shared = session.put(gallery), base.store, layers[first]
        asked = session.put(queries[first])
        work = (
            (piece, (*shared, [name for name, _ in piece.files], asked, least))
            for piece in base.pieces(first, mirrored=False)
        )
        for pairs in _all(session, near_copies, work):
            found |= {other for _, other, _ in pairs}
    return sorted(found)


def _subject(
    context: Context, base: DataBase, layer: Layer, asked: Queries, out: list[int], view: Any
) -> tuple[Subject, Base]:
    """The picture with its cells' neighbours, and what they were searched in."""
    session, config = context.session, context.config
    gallery, k = base.gallery, max(config.visualize.ks)
    own = len(gallery.images) - 1
    contents = np.unique([int(gallery.contents[n]) for n in (own, *out)]).astype(np.int32)
    barred = banned(asked.number, {own: contents})
    shared = session.put(gallery), base.store, layer
    rest = session.put(asked), barred, config.visualize, config.seed
    work = ((piece, (*shared, piece, *rest)) for piece in base.pieces(layer.name))
    hits: list[Hits] = list(_all(session, search_piece, work))
    near = search.merge([each.near for each in hits], k)
    sizes = {number: size for each in hits for number, size in each.sizes.items()}
    numbers = np.array(sorted(sizes), np.int64)
    shapes = np.array([sizes[n] for n in numbers.tolist()], np.int64).reshape(-1, 2)
    draw = seeded(config.seed, view.scene.image)
    random = Sizes(numbers, shapes[:, 0], shapes[:, 1]).random(
        gallery, layer, contents, (len(asked.number), k), False, draw
    )
    subject = Subject(view, near.ids, random, np.zeros(len(asked.number), np.int64))
    return subject, Base(
        sum(each.cells for each in hits),
        sum(each.zeros for each in hits),
        sum(each.whole for each in hits),
        *(layer.stride, layer.geometry.rf, layer.field, len(sizes)),
    )


def _all(
    session: Session, function: Callable[..., R], work: Iterable[tuple[T, tuple[Any, ...]]]
) -> Iterable[R]:
    """Every result, in any order.

    Raises:
        DistcorrError: one of them failed.
    """
    for outcome in session.map(function, work):
        if outcome.error or outcome.result is None:
            raise DistcorrError(
                f"The search in the data base failed: {outcome.error}",
                "distcorr store verify finds damaged files; run the same command again",
                PARTIAL,
            )
        yield outcome.result

"""The first task of ``visualize``: all cells of a few photographs, whose neighbours are wanted."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms.batches import in_batches
from distcorr.config import Config
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Written
from distcorr.data.store import HalfArray, feature_table, read_values
from distcorr.data.weights import Weights
from distcorr.stages.features import Wanted
from distcorr.stages.gallery import Gallery, Ids, Layer, view_of
from distcorr.stages.loaded import source_of
from distcorr.stages.pictures import Scene
from distcorr.stages.rows import finite, to_half


@dataclass(frozen=True, eq=False)
class Queries:
    """Cells that neighbours are looked for: all of a photograph, in rows, photograph by photograph.

    Attributes:
        number: (m,) of the photograph.
        cells: (m, 2) (row, col).
        height: (m,) px of the picture that the layer sees.
        width: (m,).
        place: (m,) number of the random cell of Figure 2 that it is; -1: it is none.
        values: (m, C), or (m, 0) where only the keys were read.
    """

    number: Ids
    cells: Ids
    height: Ids
    width: Ids
    place: Ids
    values: HalfArray

    @classmethod
    def read(cls, stage: StageFolder, name: str, values: bool = True) -> Queries:
        """Those that ``look`` has written."""
        keys = ("number", "row", "col", "height", "width", "place")
        table = stage.folder.read_table(name, None if values else keys)
        number, row, col, height, width, place = (
            table[key].to_numpy().astype(np.int64) for key in keys
        )
        found = read_values(table)[0] if values else np.zeros((len(number), 0), np.float16)
        return cls(number, np.stack([row, col], axis=1), height, width, place, found)


# -- the cells of a few photographs ------------------------------------------------------------


def look(
    weights: Weights | None,
    config: Config,
    gallery: Gallery,
    layers: Sequence[Layer],
    asked: Mapping[int, Sequence[int]],
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Write the cells of some photographs, layer by layer.

    Args:
        weights: of the network.
        config: what the features were made with.
        gallery: of the photographs.
        layers: that look at them.
        asked: number of a photograph -> places of Figure 2 that random cells of it take.
        stage: where parts go.
        shard: its items are photographs.
    """
    pieces: dict[str, list[tuple[dict[str, Any], HalfArray]]] = {each.name: [] for each in layers}
    dead: list[DeadLetter] = []
    for image in shard.items:
        number = gallery.number[image]
        view = gallery.see(number)
        if isinstance(view, str):
            dead.append(DeadLetter(image, image, view))
            continue
        for layer in layers:
            wanted = source_of(config, weights, layer.tables[0])
            found = look_at(layer, wanted, *view)
            if isinstance(found, DeadLetter):
                dead.append(found)
                continue
            places, reason = _draw(layer, found, asked.get(number, ()), config.seed, image)
            dead += [reason] if reason else []
            pieces[layer.name].append(({**found[0], "place": places}, found[1]))
    written = {}
    for layer in layers:
        wanted = source_of(config, weights, layer.tables[0])
        name = f"queries-{layer.name}/{shard.part}"
        written[name] = _write_queries(stage, name, wanted, pieces[layer.name])
    rows = sum(len(values) for found in pieces.values() for _, values in found)
    stage.mark_done(shard, written, rows, dead)
    return {"rows": rows, "dead": len(dead)}


def look_at(
    layer: Layer, wanted: Wanted, scene: Scene, picture: npt.NDArray[np.uint8]
) -> tuple[dict[str, Any], HalfArray] | DeadLetter:
    """All cells of a photograph: their keys and (n, C) values, or why there are none."""
    seen = view_of(layer, scene, picture).picture
    height, width = seen.shape[:2]
    if not layer.fits(seen.shape):
        small = f"seen at {width} x {height} px, it is too small for {layer.name}"
        return DeadLetter(scene.image, scene.image, small, broken=False)
    grid = in_batches(wanted.source, seen[None], (wanted.tap,), 1)[wanted.tap][0]
    values = to_half(grid.reshape(-1, grid.shape[-1]))
    if not finite(values).all():
        wrong = f"{layer.name} is not finite, or too large for float16"
        return DeadLetter(scene.image, scene.image, wrong)
    row, col = layer.cells(seen.shape).T
    count = len(values)
    return {
        "number": np.full(count, scene.place, np.int32),
        "row": row.astype(np.int16),
        "col": col.astype(np.int16),
        "height": np.full(count, height, np.int16),
        "width": np.full(count, width, np.int16),
    }, values


def _draw(
    layer: Layer,
    found: tuple[dict[str, Any], HalfArray],
    asked: Sequence[int],
    seed: int,
    image: str,
) -> tuple[npt.NDArray[np.int16], DeadLetter | None]:
    """(n,) which of a photograph's cells take the places that it is asked for; -1 for the others.

    Without a feature of zero, which has no neighbours (protocol, section 7).
    """
    keys, values = found
    height, width = int(keys["height"][0]), int(keys["width"][0])
    places = np.full(len(values), -1, np.int16)
    size = height, width
    fit = layer.whole(layer.cells(size), size) & values.any(axis=1)
    among = np.random.default_rng([seed, zlib.crc32(image.encode())]).permutation(
        np.flatnonzero(fit)
    )
    count = min(len(asked), len(among))
    places[among[:count]] = asked[:count]
    if count == len(asked):
        return places, None
    lacks = (
        f"{layer.name}: {len(asked) - count} random cells less in Figure 2, for want of a feature "
        f"that is not zero and a receptive field of {layer.field} px inside the picture of "
        f"{width} x {height} px"
    )
    return places, DeadLetter(image, image, lacks, broken=False)


def _write_queries(
    stage: StageFolder, name: str, wanted: Wanted, pieces: list[tuple[dict[str, Any], HalfArray]]
) -> Written:
    keys = ("number", "row", "col", "height", "width", "place")
    channels = wanted.source.channels(wanted.tap)
    values = np.concatenate([np.zeros((0, channels), np.float16), *(v for _, v in pieces)])
    none = np.zeros(0, np.int16)
    columns = {
        key: pa.array(
            np.concatenate([none, *(k[key] for k, _ in pieces)]).astype(np.int32), pa.int32()
        )
        for key in keys
    }
    return stage.folder.write_table(name, feature_table(wanted.feature, columns, values), 4096)

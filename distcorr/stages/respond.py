"""One shard of ``responses``: photographs in, the places of the highest scores out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import dense
from distcorr.algorithms.concentration import peaks
from distcorr.algorithms.sift import Sift
from distcorr.config import Config
from distcorr.data.run import DeadLetter, Shard, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.store import META
from distcorr.data.weights import Weights
from distcorr.errors import DistcorrError
from distcorr.stages.features import Wanted
from distcorr.stages.loaded import source_of
from distcorr.stages.pictures import seen, squeezed
from distcorr.types import FloatArray

ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("layer", "category", "keypoint", "image", "instance")),
        ("dy", pa.int16()),  # px of the picture that the layer sees; null: on the square's border
        ("dx", pa.int16()),
        ("inside", pa.bool_()),  # all receptive fields of the square lie in the photograph
    ]
)

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Classifiers:
    """Those of one layer and category for the keypoints that are asked for, by their C.

    Attributes:
        c: price of an error that they were trained with.
        keypoints: the K types.
        coef: (K, D).
        intercept: (K,).
    """

    layer: str
    category: str
    c: float
    keypoints: tuple[str, ...]
    coef: FloatArray
    intercept: Doubles

    @property
    def identity(self) -> list[Any]:
        """JSON: what the scores depend on."""
        content = hashlib.sha256(self.coef.tobytes() + self.intercept.tobytes()).hexdigest()
        return [self.layer, self.category, self.c, list(self.keypoints), content]


@dataclass(frozen=True)
class Photograph:
    """A photograph, its checksum, and the (K, 2) keypoints of its instances; NaN: not visible."""

    image: str
    sha256: str
    changed: bool  # since build-db
    instances: dict[str, Doubles]


@dataclass(frozen=True)
class Work:
    """What a shard needs besides what all shards share."""

    classifiers: Classifiers
    photographs: tuple[Photograph, ...]
    table: str  # folder of the layer's features in the store: who makes others must not answer


# -- one shard ---------------------------------------------------------------------------------


def respond(
    weights: Weights | None,
    config: Config,
    work: Work,
    root: Folder,
    stage: StageFolder,
    shard: Shard,
) -> dict[str, int]:
    """Find the maxima in the shard's photographs; write them and the marker."""
    wanted = source_of(config, weights, work.table)
    rows: list[dict[str, Any]] = []
    dead: list[DeadLetter] = []
    for photograph in work.photographs:
        found = _rows(photograph, work.classifiers, wanted, root, config)
        if isinstance(found, DeadLetter):
            dead.append(found)
        else:
            rows += found
    facts = {"c": work.classifiers.c, "radius": config.responses.radius}
    schema = ROWS.with_metadata({META: json.dumps(facts, sort_keys=True).encode()})
    name = f"peaks/{shard.part}"
    table = pa.Table.from_pylist(rows, schema)
    written = stage.folder.write_table(name, table, row_group_size=65536)
    stage.mark_done(shard, {name: written}, len(rows), dead)
    return {"rows": len(rows), "dead": len(dead)}


def _rows(
    photograph: Photograph, by: Classifiers, wanted: Wanted, root: Folder, config: Config
) -> list[dict[str, Any]] | DeadLetter:
    """A row per visible keypoint, or why the photograph has none."""
    image, radius = photograph.image, config.responses.radius
    view = seen(root, 0, image, photograph.sha256, config.features.photo_side)
    if isinstance(view, str):
        return DeadLetter(image, image, view)
    if photograph.changed:
        changed = f"The photograph {image} is not the one that build-db saw"
        return DeadLetter(image, image, changed)
    scene, picture = view
    picture = squeezed(picture, wanted.side) if wanted.side else picture
    height, width = picture.shape[:2]
    if not _fits(wanted, height, width):
        small = f"a photograph, seen at {width} x {height} px, is too small for"
        return DeadLetter(image, image, f"{small} {wanted.feature.layer}", broken=False)
    shown = [
        (instance, k, xy[k])
        for instance, xy in photograph.instances.items()
        for k in np.flatnonzero(np.isfinite(xy[:, 0]))
    ]
    at = scene.to_picture(np.array([xy for _, _, xy in shown]), width, height)
    asked = wanted.source, picture, at, wanted.tap
    unit = config.classify.feature_norm == "unit"
    scores = dense.scores(*asked, by.coef, by.intercept, radius, unit=unit)
    own = scores[np.arange(len(shown)), :, :, [k for _, k, _ in shown]]
    if not np.isfinite(own).all():
        return DeadLetter(image, image, f"{wanted.feature.layer} is not finite at a keypoint")
    whole = dense.inside(*asked, radius)
    return [
        {"layer": by.layer, "category": by.category, "keypoint": by.keypoints[k]}
        | {"image": image, "instance": instance, "inside": bool(whole[n])}
        | ({} if np.isnan(peak[0]) else {"dy": int(peak[0]), "dx": int(peak[1])})
        for n, ((instance, k, _), peak) in enumerate(zip(shown, peaks(own), strict=True))
    ]


def _fits(wanted: Wanted, height: int, width: int) -> bool:
    if isinstance(wanted.source, Sift):
        return True  # at exact locations, without cells
    try:
        return bool(wanted.source.geometry(wanted.tap, min(height, width)))
    except DistcorrError:
        return False

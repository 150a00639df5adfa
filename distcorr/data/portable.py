"""Detectors of one category as one file, to predict with where neither run nor data set is.

An ``.npz`` archive that numpy alone opens: an array for each part, and ``facts.json`` with the
rest. It holds the detectors of every layer (paper, section 5), what the prior compares an object
with, and how the features are made, so that other features are refused. Equal detectors give equal
bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.algorithms import svm
from distcorr.algorithms.windows import Detectors, positions
from distcorr.data.store import Feature, HalfArray
from distcorr.data.weights import MALFORMED
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import FloatArray, Geometry

FORMAT, VERSION = "distcorr detectors", 1
FACTS = "facts.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can have

Doubles = npt.NDArray[np.float64]
_MALFORMED = (*MALFORMED, TypeError)  # and facts of another shape


@dataclass(frozen=True, eq=False)
class LayerDetectors:
    """Detectors of all K keypoints of a category by one layer.

    Attributes:
        feature: the layer, and how it is made.
        asked: the layer as the settings have it: "my_feats:Edges".
        geometry: where its cells lie in the square.
        block: side in cells of what a detector looks at.
        coef: (K, block * block * C) float32, on features as they are: ``scale`` is in it.
        intercept: (K,) float32; -inf where a keypoint cannot be predicted.
        scale: that features were multiplied by when the detectors were trained.
        eta: weight of the prior that the run chose.
        sigma: of the prior, px of the square.
        rows: (m,) int32, the instances of the prior that this layer learnt from.
        keypoints: (m, K, 2) px in their squares; NaN where not shown.
        pck: PCK@0.1 in 0..1 on the run's validation instances with that eta; NaN: not known.
    """

    feature: Feature
    asked: str
    geometry: Geometry
    block: int
    coef: FloatArray
    intercept: FloatArray
    scale: float
    eta: float
    sigma: float
    rows: npt.NDArray[np.int32]
    keypoints: Doubles
    pck: float = np.nan

    @property
    def detectors(self) -> Detectors:
        """What ``windows.score`` takes."""
        nothing = np.zeros(len(self.intercept))
        coef, intercept = self.coef.astype(np.float64), self.intercept.astype(np.float64)
        linear = svm.Linear(coef, intercept, nothing, nothing, nothing, nothing.astype(np.int64))
        return Detectors(linear, self.block)

    @property
    def centres(self) -> Doubles:
        """(rows, cols, 2) px of all positions."""
        return positions(self.geometry, self.block)


@dataclass(frozen=True, eq=False)
class Prior:
    """The training instances that an object is compared with.

    Attributes:
        feature: the descriptor, and how it is made.
        asked: its layer as the settings have it.
        vectors: (n, D) float16 descriptors.
    """

    feature: Feature
    asked: str
    vectors: HalfArray


@dataclass(frozen=True, eq=False)
class Portable:
    """Everything that predicts the keypoints of one category.

    Attributes:
        category: of the objects.
        names: its K keypoint types.
        layers: by name, in the order of the run.
        prior: of all layers.
        context: share of the square that is kept around the box, on each side.
        features: the settings of ``features`` that the run had, but where its weights were.
        seed: of the run.
        origin: where it comes from, for people and for the run that wrote it: distcorr's version,
            weights, data, settings of ``detect``.
    """

    category: str
    names: tuple[str, ...]
    layers: Mapping[str, LayerDetectors]
    prior: Prior
    context: float
    features: Mapping[str, Any]
    seed: int
    origin: Mapping[str, Any]


# -- writing ---------------------------------------------------------------------------------------


def to_bytes(portable: Portable) -> bytes:
    """The file's content."""
    arrays: dict[str, npt.NDArray[Any]] = {"prior.vectors": portable.prior.vectors}
    layers = []
    for name, layer in portable.layers.items():
        arrays |= {f"{name}.{part}": getattr(layer, part) for part in _ARRAYS}
        layers.append(
            {
                "feature": asdict(layer.feature),
                "geometry": layer.geometry._asdict(),
                "pck": None if np.isnan(layer.pck) else layer.pck,
                **{key: getattr(layer, key) for key in _NUMBERS},
            }
        )
    prior = portable.prior
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "category": portable.category,
        "names": portable.names,
        "layers": layers,
        "prior": {"feature": asdict(prior.feature), "asked": prior.asked},
        **{key: getattr(portable, key) for key in ("context", "features", "seed", "origin")},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, FACTS, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(array), allow_pickle=False)
            _add(archive, f"{name}.npy", content.getvalue())
    return out.getvalue()


_ARRAYS = ("coef", "intercept", "rows", "keypoints")
_NUMBERS = ("asked", "block", "scale", "eta", "sigma")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """An entry that tells neither the time nor the machine."""
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


# -- reading ---------------------------------------------------------------------------------------


def from_bytes(content: bytes, name: str) -> Portable:
    """Detectors from a file's content.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        DistcorrError: it is damaged, another file, or of a later version.
    """
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is no archive")
        with archive:
            facts = json.loads(bytes(archive[FACTS])) if FACTS in archive.files else {}
            arrays = {key: archive[key] for key in archive.files if key != FACTS}
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"it has no {FACTS} of detectors")
        if facts["version"] == VERSION:
            return _portable(facts, arrays)
    except _MALFORMED as error:
        raise DistcorrError(
            f"{name} is damaged, or no file of detectors: {_reason(error)}",
            "distcorr detect writes such files: RUN/detectors/CATEGORY.npz; copy it again",
            MISSING,
        ) from error
    raise DistcorrError(
        f"{name} must be of version {VERSION} of the format, got {facts['version']!r}.",
        "use the distcorr that wrote it, or a newer one",
        MISSING,
    )


def _portable(facts: dict[str, Any], arrays: dict[str, Any]) -> Portable:
    names = tuple(facts["names"])
    read = facts["prior"]
    prior = Prior(
        _feature(read["feature"]),
        str(read["asked"]),
        _array(arrays, "prior.vectors", np.float16, (None, None)),
    )
    layers = {}
    for each in facts["layers"]:
        layer = _layer(each, arrays, len(names), len(prior.vectors))
        layers[layer.feature.layer] = layer
    _require(bool(layers), "there is a layer")
    return Portable(
        str(facts["category"]),
        names,
        layers,
        prior,
        float(facts["context"]),
        dict(facts["features"]),
        int(facts["seed"]),
        dict(facts["origin"]),
    )


def _layer(facts: dict[str, Any], arrays: dict[str, Any], count: int, most: int) -> LayerDetectors:
    feature, block = _feature(facts["feature"]), int(facts["block"])
    name = feature.layer
    pck = facts["pck"]
    layer = LayerDetectors(
        feature,
        str(facts["asked"]),
        Geometry(**facts["geometry"]),
        block,
        _array(arrays, f"{name}.coef", np.float32, (count, None)),
        _array(arrays, f"{name}.intercept", np.float32, (count,), minus=True),
        float(facts["scale"]),
        float(facts["eta"]),
        float(facts["sigma"]),
        _array(arrays, f"{name}.rows", np.int32, (None,)),
        _array(arrays, f"{name}.keypoints", np.float64, (None, count, 2), nan=True),
        np.nan if pck is None else float(pck),
    )
    _require(layer.centres.size > 0, "a block fits in the grid")
    _require(layer.coef.shape[1] % block**2 == 0, f"{name}.coef is of blocks")
    _require(0 <= layer.eta <= 1, "eta lies in 0 to 1")
    _require(layer.sigma > 0, "sigma is above 0")
    _require(len(layer.rows) == len(layer.keypoints), f"{name}.keypoints are of {name}.rows")
    inside = bool(((layer.rows >= 0) & (layer.rows < most)).all())
    _require(inside, f"{name}.rows are of the prior")
    return layer


def _feature(facts: dict[str, Any]) -> Feature:
    return Feature(str(facts["kind"]), str(facts["layer"]), facts["made"], str(facts["label"]))


def _array(
    arrays: dict[str, Any],
    name: str,
    kind: type[np.generic],
    shape: tuple[int | None, ...],
    nan: bool = False,
    minus: bool = False,
) -> Any:
    """An array of that type and shape; finite, unless NaN or minus infinity has a meaning."""
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    _require(fits and array.dtype == kind, f"{name} is {np.dtype(kind)} of its shape")
    finite = np.isfinite(array) | (nan & np.isnan(array)) | (minus & np.isneginf(array))
    _require(bool(finite.all()), f"{name} is finite")
    return array


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"not true that {what}")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error).splitlines()[0] if str(error) else type(error).__name__

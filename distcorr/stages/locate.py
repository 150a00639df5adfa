"""One photograph of the user's: where its object has its keypoints (section 5), without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distcorr import config as configuration
from distcorr.algorithms import detection, windows
from distcorr.algorithms.batches import in_batches
from distcorr.algorithms.crop import crop_square, from_square, with_context
from distcorr.algorithms.matching import View
from distcorr.algorithms.sources import to_vector
from distcorr.config import Config
from distcorr.data.portable import LayerDetectors, Portable
from distcorr.data.store import Feature, HalfArray
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.stages import streamed
from distcorr.stages.cluster import limit_threads
from distcorr.stages.features import Wanted, load_network, wishes
from distcorr.stages.objects import float32_products
from distcorr.stages.photograph import device, look
from distcorr.stages.rows import to_half
from distcorr.types import Box

Doubles = npt.NDArray[np.float64]
NO_NETWORK = "--eta 0 leaves the prior out, and with it the network"


@dataclass(frozen=True, eq=False)
class Located:
    """The keypoints of one object.

    Attributes:
        view: the photograph and the box.
        points: (K, 2) xy px in the photograph; NaN where nothing is predicted.
        scores: (K,) section 5's f at its maximum, 0 to 1; NaN likewise.
        expected: (K, 2) xy px in the photograph where the prior has its mean; NaN: it has none.
        label: whose features they were found by.
    """

    view: View
    points: Doubles
    scores: Doubles
    expected: Doubles
    label: str


def settings(portable: Portable, weights: str = "", overrides: Sequence[str] = ()) -> Config:
    """The configuration that makes the features of some detectors.

    Args:
        portable: the detectors.
        weights: path of the network's weights.
        overrides: ``"features.weights_sha256=..."``.

    Raises:
        DistcorrError: a setting is unknown, or out of its range.
    """
    features = dict(portable.features) | {"weights": weights}
    if weights and features.get("network") == "efficientnet-lite0":
        features["network"] = "auto"  # its own weights are a package
    document = {"features": features, "seed": portable.seed}
    return configuration.load("smoke", overrides, document)


def choose(portable: Portable, layer: str = "") -> LayerDetectors:
    """The detectors of a layer; of the first one if none is named.

    Raises:
        DistcorrError: there is no such layer.
    """
    by_name = dict(portable.layers) | {each.asked: each for each in portable.layers.values()}
    if not layer:
        return next(iter(portable.layers.values()))
    if layer not in by_name:
        raise DistcorrError(
            f"There are no detectors of {portable.category} by {layer}."
            f"{did_you_mean(layer, by_name)}",
            f"there are by {', '.join(portable.layers)}; the first is taken where none is named",
        )
    return by_name[layer]


def locate_keypoints(
    file: str,
    box: Box | None,
    portable: Portable,
    by: LayerDetectors,
    config: Config,
    eta: float,
    refine: bool = False,
) -> Located:
    """Find the keypoints of one object, as ``detect`` does of its validation instances.

    Args:
        file: the photograph, a path or URI.
        box: around the object, px in the photograph; None is the whole photograph.
        portable: detectors of the object's category.
        by: the layer of them.
        config: of ``settings``.
        eta: weight of the prior: 0, the detectors alone, to 1, the prior alone.
        refine: predict between positions as well; not in the paper.

    Raises:
        DistcorrError: the photograph or the weights cannot be read, the box is not inside the
            photograph, eta is out of its range, or the features are not those of the detectors.
    """
    if not 0 <= eta <= 1:
        raise DistcorrError(
            f"eta must be a number from 0, the detectors alone, to 1, the prior alone, got {eta:g}",
            f"the run chose --eta {by.eta:g}, which is taken if none is given",
        )
    view = look(file, box)
    limit_threads()  # as in the run: the last bits may depend on it
    float32_products()
    grid, vector = _sources(portable, by, config, prior=eta > 0)
    side, framed = by.geometry.input_size, with_context(view.box, portable.context)
    grids = _values(grid, view, framed, config)
    scores = windows.score(grids, by.detectors, device())
    means = np.full((1, len(portable.names), 2), np.nan)
    if vector:
        query = to_vector(_values(vector, view, view.box, config).astype(np.float32))
        base = portable.prior.vectors[by.rows].astype(np.float32)
        means = detection.neighbour_keypoints(base, by.keypoints, query)
    prior = detection.log_prior(means, by.centres, by.sigma)
    responses = detection.combine(scores, prior, eta)
    # Scores without a prior: the same maximum, and no rounding of probabilities.
    found = detection.locate(scores if eta == 0 else responses, by.centres, refine)[0]
    if eta == 1:  # the prior alone says nothing where it has no mean
        found[np.isnan(means[0])] = np.nan
    best = np.exp(responses[0].reshape(len(found), -1).max(axis=1))
    best[np.isnan(found).any(axis=1)] = np.nan
    points, expected = (from_square(each, framed, side) for each in (found, means[0]))
    return Located(view, points, best, expected, _whose(by.feature))


def _values(wanted: Wanted, view: View, box: Box, config: Config) -> HalfArray:
    """(1, ...) float16 features of the box, rounded as a store has them."""
    square = crop_square(view.photograph, box, wanted.side)[None]
    values = in_batches(wanted.source, square, (wanted.tap,), config.features.batch)[wanted.tap]
    half = to_half(values)
    if not np.isfinite(half).all():
        raise DistcorrError(
            f"Features must be finite and fit in float16; {wanted.tap} of {view.name} has others.",
            f"mend it in {wanted.tap}, or choose another --feature",
        )
    return half


# -- whose features --------------------------------------------------------------------------------


def _sources(
    portable: Portable, by: LayerDetectors, config: Config, prior: bool
) -> tuple[Wanted, Wanted | None]:
    """Where the grid comes from, and the prior's descriptor if there is to be a prior."""
    dense = streamed.can_stream(by.feature.layer)
    wanted = [streamed.wanted(config, by.feature.layer)] if dense else []
    if prior or by.feature.folder not in {w.feature.folder for w in wanted}:
        wanted += _of_network(portable, by, config, dense)
    found = {w.feature.name: w for w in wanted}
    same = {w.feature.folder: w for w in wanted}
    for feature in (by.feature, *([portable.prior.feature] if prior else [])):
        if feature.folder not in same:
            here = found.get(feature.name)
            raise DistcorrError(
                f"The detectors of {portable.category} were trained on {_whose(feature)}; here it "
                f"would be {_whose(here.feature) if here else 'another layer'}, or made otherwise.",
                "give the weights and settings that the run had, or detectors of these features",
                MISSING,
            )
    return same[by.feature.folder], same[portable.prior.feature.folder] if prior else None


def _of_network(
    portable: Portable, by: LayerDetectors, config: Config, dense: bool
) -> Sequence[Wanted]:
    """Grid and descriptor of the network that the settings name; the other tables play no part."""
    features = replace(
        config.features, vector=portable.prior.asked, grids=(), grids500=(), points=(), cells=()
    )
    if by.feature.kind == "grids500":
        features = replace(features, grids500=(by.asked,))
    else:
        features = replace(features, grids=(by.asked,))
    flow = replace(config.flow, features=("auto",), side=0)
    try:
        weights = load_network(features)
        config = replace(config, features=features, flow=flow)
        return wishes(config, weights, device()).wanted
    except DistcorrError as error:
        trained = portable.origin.get("weights", "the weights that the run had")
        hint = f"--weights FILE: the detectors were trained with {trained}"
        hint += f"; {NO_NETWORK}" if dense else ""
        raise DistcorrError(error.message, hint, error.exit_code) from error


def _whose(feature: Feature) -> str:
    """A feature for people: layer, network, checksum of the weights."""
    source = feature.made.get("source", {})
    weights = source.get("weights", {}) if isinstance(source, dict) else {}
    checksum = weights.get("weights_sha256", "") if isinstance(weights, dict) else ""
    label = f" of {feature.label}" if feature.label else ""
    return f"{feature.layer}{label}" + (f", sha256 {checksum[:12]}" if checksum else "")

"""What float16 storage and a bfloat16 network cost: PCK and neighbours of section 3.

    .venv/bin/python benchmarks/precision.py RUN WEIGHTS CATEGORY ...

RUN is a finished run of ``distcorr build-db``, WEIGHTS the file that it was made with. PCK is over
points, per cent; the neighbours are compared with those of float32.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from distcorr.algorithms.crop import crop_square, from_square, to_square
from distcorr.algorithms.extractors import build, in_batches
from distcorr.algorithms.flow import align_many, unit_norm
from distcorr.algorithms.knn import cosine_topk
from distcorr.algorithms.transfer import carry, predict_keypoints
from distcorr.data.features import FeatureStore
from distcorr.data.images import read_image
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.weights import load_weights
from distcorr.stages.cluster import limit_threads

ALPHAS = (0.1, 0.05, 0.025)
Features = dict[str, dict[str, Any]]  # split -> tap -> array


def as_stored(features: Features) -> Features:
    """Through float16 and back."""
    return {
        split: {tap: v.astype(np.float16).astype(np.float32) for tap, v in taps.items()}
        for split, taps in features.items()
    }


def transfer(members: dict[str, Any], features: Features, geometry: Any) -> tuple[Any, list[float]]:
    """Neighbours of every target, and PCK at every alpha."""
    base, targets = (features[split]["pool5"] for split in ("train", "val"))
    none = [np.zeros(0, int)] * len(targets)
    flat = (values.reshape(len(values), -1) for values in (base, targets))
    nearest, _ = cosine_topk(*flat, 25, none)
    hits: list[Any] = []
    side = geometry.input_size
    for number, target in enumerate(members["val"]):
        ranked = [n for n in nearest[number] if n >= 0]  # -1 fills up where there are fewer than 25
        chosen = [members["train"][n] for n in ranked]
        grids = [unit_norm(features["train"]["conv4"][n]) for n in ranked]
        flows = align_many(unit_norm(features["val"]["conv4"][number]), grids, 3e-3)
        carried = [
            carry(to_square(other.keypoints, other.box, side), flow.displacement, geometry)
            for other, flow in zip(chosen, flows, strict=True)
        ]
        energies = [flow.deformation_energy for flow in flows]
        order = np.lexsort((np.arange(len(flows)), energies))
        shown = np.array([other.visible for other in chosen])
        found = from_square(np.stack(carried), target.box, side)
        points = predict_keypoints(found, shown, order, 5, strict=False)
        apart = np.linalg.norm(points - target.keypoints, axis=1)[target.visible]
        hits += list(np.nan_to_num(apart / target.box.max_side, nan=np.inf))
    return nearest, [100 * float(np.mean(np.array(hits) <= alpha)) for alpha in ALPHAS]


def main(run: str, path: str, *categories: str) -> None:
    """Measure and print."""
    limit_threads()
    opened = Run(run)
    stage, config, weights = opened.current("build-db"), opened.config(), load_weights(path)
    assert stage is not None, f"no features in {run}"
    assert config is not None
    store, root = FeatureStore(stage), Folder(config.dataset.root)
    for category in categories:
        members = {split: store.members(category, split) for split in ("train", "val")}
        made = {}
        for precision in ("float32", "bfloat16"):
            network = build(weights.network, weights.arrays, precision=precision)
            made[precision] = {
                split: in_batches(
                    network,
                    [crop_square(read_image(root, i.image), i.box, 227) for i in instances],
                    ("conv4", "pool5"),
                    16,
                )
                for split, instances in members.items()
            }
            geometry = network.geometry("conv4")
        plain = None
        for title, features in (
            ("float32", made["float32"]),
            ("stored as float16", as_stored(made["float32"])),
            ("bfloat16 network", as_stored(made["bfloat16"])),
        ):
            nearest, pck = transfer(members, features, geometry)
            plain = nearest if plain is None else plain
            common = [
                len({*a} & {*b} - {-1}) / max(1, len({*a} - {-1}))
                for a, b in zip(plain, nearest, strict=True)
            ]
            numbers = " ".join(f"{value:5.1f}" for value in pck)
            print(
                f"{category:<10} {title:<18} {numbers}   {100 * np.mean(common):5.1f} % neighbours"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What alignment and transfer cost beyond their kernels; drawn data, one core.

    make bench        (or: .venv/bin/python benchmarks/stages.py)

Run it alone on the machine. Every line is "ours / peer" of the same work in the same process (in
parentheses how many times the peer takes), the median of several rounds that alternate between the
two.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from timing import compare

from distcorr import config as configuration
from distcorr.algorithms.flow import align, unit_norm
from distcorr.algorithms.transfer import carry, upsample
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.stages.cluster import Session, limit_threads
from distcorr.stages.pipeline import Context, run_stage


def main() -> None:
    """Draw data, fill a store, measure."""
    limit_threads()
    with tempfile.TemporaryDirectory() as place:
        config = configuration.load("smoke", ["compute.address=inline", "features.shard=16"])
        run = Run(str(Path(place) / "run"))
        with Session(config.compute) as session:
            run_stage("build-db", Context(config, run, session))
        stage = run.current("build-db")
        assert stage is not None
        alignment(FeatureStore(stage))


def alignment(store: FeatureStore) -> None:
    """A pair of 14 x 14 grids; against its data term, and transfer against numpy."""
    _, grids, meta = store.read(f"grids/{store.conv}", [i.id for i in store.instances[:2]])
    assert meta.geometry is not None
    geometry = meta.geometry
    a, b = unit_norm(grids[0]), unit_norm(grids[1])
    flat_a, flat_b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])

    def data_term() -> object:
        return np.sqrt(np.maximum(2 - 2 * flat_a @ flat_b.T, 0))

    compare("align, a pair at 14 x 14", lambda: align(a, b, 3e-3), data_term, "its data term")
    flow = align(a, b, 3e-3)
    points = np.random.default_rng(2).uniform(20, 200, (18, 2))
    y, x = np.mgrid[: geometry.input_size, : geometry.input_size]

    def brute_force() -> object:
        moved = np.stack([x, y], -1) + upsample(flow.displacement, geometry)
        return [((moved - p) ** 2).sum(-1).argmin() for p in points]

    compare(
        "carry 18 keypoints",
        lambda: carry(points, flow.displacement, geometry),
        brute_force,
        "the same search in numpy",
    )


if __name__ == "__main__":
    main()

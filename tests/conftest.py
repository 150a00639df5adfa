"""What the tests share: the photographs, a Ray of our own, and a small toy configuration."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Ray keeps a token file in the home folder unless it is given a token; the tests leave it alone.
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on loopback
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.pop("RAY_ADDRESS", None)


SLOW = (
    "test_job_submit",
    "test_photos",
    "test_readme",
    "test_docs",
    "test_faults",
    "test_build_db",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that two processes end together."""
    items.sort(key=lambda item: item.path.stem not in SLOW)  # stable: the order in a file stays


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder with data/ and weights/; without it such tests are skipped, but never in CI."""
    root = os.environ.get("DISTCORR_DATA", "")
    if not root:
        if os.environ.get("CI"):
            pytest.fail("DISTCORR_DATA must name the photographs in CI")
        pytest.skip("DISTCORR_DATA is not set: no photographs to test on")
    path = Path(root)
    assert (path / "data" / "voc-photos").is_dir(), f"no data/voc-photos in DISTCORR_DATA={root}"
    return path


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray for all tests of this process; sessions join it."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=300_000_000,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def toy_settings() -> Callable[..., list[str]]:
    """Settings of a toy run that takes seconds: 3 categories x (5 + 3) instances."""

    def settings(*more: str) -> list[str]:
        return [
            "dataset.toy_train=5",
            "dataset.toy_val=3",
            "features.shard=3",
            "features.batch=3",
            "features.points=block10",
            "features.cells=block10",
            "flow.shard=2",
            "responses.layers=auto",
            "responses.radius=2",
            "evaluation.resamples=50",
            "detect.layers=auto",
            "detect.rounds=1",
            "detect.folds=2",
            "detect.etas=[0.0,0.1]",  # no blank: some tests go through a shell
            "detect.hardest=20",
            "visualize.photographs=2",
            "visualize.shown=1",
            "visualize.seeds=2",
            "visualize.averaged=[2,5]",
            *more,
        ]

    return settings


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, toy_settings: Callable[..., list[str]]
) -> Path:
    """A finished inline toy run; copy it before changing it."""
    from tests.stages.common import run_all

    folder = tmp_path_factory.mktemp("runs") / "inline"
    run_all(folder, toy_settings("compute.address=inline"))
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"

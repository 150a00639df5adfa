"""Real faults in the middle of a stage, and damage found at its start. Then the same bytes.

The faults of ``fault_matrix`` happen on a cluster of three nodes in a namespace of its own, which
all of them share; what kills, fills and unplugs there can touch nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from distcorr.errors import MISSING, DistcorrError
from tests.stages import fault_cluster, fault_site, namespace
from tests.stages.common import contents, run_all, stage_folder
from tests.stages.fault_matrix import ROWS
from tests.stages.fault_site import SETTINGS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    fault_site.undisturbed(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(
    undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[fault_cluster.Client]:
    if why := namespace.denied():
        pytest.skip(why)
    with fault_cluster.cluster(undisturbed, tmp_path_factory.mktemp("faults")) as client:
        yield client


@pytest.mark.cluster
@pytest.mark.parametrize(("fault", "stage"), [row for row in ROWS if row[0] != "nothing"])
def test_the_stage_survives(cluster: fault_cluster.Client, fault: str, stage: str) -> None:
    cluster.suffer(fault, stage)


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    shutil.copytree(undisturbed, tmp_path / "copy")
    return tmp_path / "copy"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("stage", ["build-db", "transfer", "visualize"])
def test_a_truncated_part_is_made_anew_and_nothing_else(
    undisturbed: Path, copy: Path, stage: str
) -> None:
    folder = stage_folder(copy, stage)
    marker = json.loads((folder / "shards" / "00001.json").read_text())
    name = sorted(marker["files"])[0]
    cut((copy / "store" if stage == "build-db" else folder) / name)
    (folder / "_done.json").unlink()
    summary = run_all(copy, [*SETTINGS, "compute.address=inline"], [stage])[stage]
    assert summary.computed == 1
    assert contents(copy) == contents(undisturbed)


def test_a_truncated_marker_is_refused_with_what_to_do(undisturbed: Path, copy: Path) -> None:
    """No write of ours leaves one half done; a disk may."""
    settings = [*SETTINGS, "compute.address=inline"]
    marker = stage_folder(copy, "transfer") / "shards" / "00001.json"
    cut(marker)
    (marker.parents[1] / "_done.json").unlink()
    with pytest.raises(DistcorrError, match=r"shards/00001\.json is not JSON") as caught:
        run_all(copy, settings, ["transfer"])
    assert "delete it and run again" in caught.value.hint
    assert caught.value.exit_code == MISSING
    marker.unlink()
    assert run_all(copy, settings, ["transfer"])["transfer"].computed == 1
    assert contents(copy) == contents(undisturbed)


def test_a_marker_of_an_earlier_version_is_made_anew(undisturbed: Path, copy: Path) -> None:
    marker = stage_folder(copy, "transfer") / "shards" / "00001.json"
    said = json.loads(marker.read_text())
    marker.write_text(json.dumps({key: said[key] for key in ("shard", "rows")}))
    (marker.parents[1] / "_done.json").unlink()
    settings = [*SETTINGS, "compute.address=inline"]
    assert run_all(copy, settings, ["transfer"])["transfer"].computed == 1
    assert contents(copy) == contents(undisturbed)


@pytest.mark.parametrize("what", ["manifest.json", "store/grids-*/feature.json"])
def test_what_a_newer_version_has_written_is_left_alone(copy: Path, what: str) -> None:
    path = sorted(copy.glob(what))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    before = contents(copy)
    with pytest.raises(DistcorrError, match="written by a newer distcorr: format 2") as caught:
        run_all(copy, [*SETTINGS, "compute.address=inline"], ["build-db"])
    assert path.name in caught.value.message
    assert "install that version" in caught.value.hint
    assert contents(copy) == before

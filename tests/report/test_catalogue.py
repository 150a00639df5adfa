"""Table 1 from the code, and the list of features."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcorr.errors import DistcorrError
from distcorr.report import catalogue

# The paper's Table 1: receptive field and stride in px.
TABLE1 = {
    "conv1": (11, 4),
    "conv2": (51, 8),
    "conv3": (99, 16),
    "conv4": (131, 16),
    "conv5": (163, 16),
    "pool5": (195, 32),
}


def test_table_1_is_the_papers() -> None:
    rows = {row["layer"]: row for row in catalogue.layers("caffenet")}
    assert {tap: (rows[tap]["rf"], rows[tap]["stride"]) for tap in TABLE1} == TABLE1
    for tap, (rf, stride) in TABLE1.items():
        assert rows[tap]["paper"] == f"{rf}/{stride}"
    assert rows["pool1"]["paper"] == ""
    assert "fc7" not in rows


def test_every_source_is_listed() -> None:
    rows = {row["name"]: row for row in catalogue.sources()}
    assert {"caffenet", "alexnet", "squeezenet", "efficientnet-lite0", "sift"} <= rows.keys()
    assert (rows["caffenet"]["channels"], rows["caffenet"]["rf"]) == (384, 131)
    lite = rows["efficientnet-lite0"]
    assert (lite["channels"], lite["cells"]) == (112, 14)
    assert all(rows[name]["licence"] for name in rows.keys() - {"sift"})
    keys = [list(row) for row in rows.values()]
    assert all(key == keys[0] for key in keys)


def test_sift_has_layers_too() -> None:
    rows = {row["layer"]: row for row in catalogue.layers("sift")}
    assert rows["sift20"]["rf"] == 40
    assert (rows["dsift8"]["stride"], rows["dsift8"]["offset"]) == (8, 12)


def test_a_name_that_is_nothing() -> None:
    with pytest.raises(DistcorrError, match="Did you mean 'caffenet'"):
        catalogue.layers("cafenet")
    with pytest.raises(DistcorrError, match="no_such_module"):
        catalogue.layers("no_such_module:Net")


@pytest.mark.photos
def test_effective_fields_are_within_theoretical_ones_and_grow(photos: Path) -> None:
    path = photos / "weights" / "bvlc_alexnet_conv1-5.npz"
    rows = {row["layer"]: row for row in catalogue.layers("alexnet", str(path))}
    convs = [rows[f"conv{n}"] for n in range(1, 6)]
    assert all(0 < row["effective"] <= row["rf"] for row in rows.values())
    fields = [row["effective"] for row in convs]
    assert fields == sorted(fields)
    assert fields[-1] < 0.7 * convs[-1]["rf"]  # Luo et al.: much smaller in deep layers

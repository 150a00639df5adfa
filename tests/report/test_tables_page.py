"""What the page says around its tables: units of their heads, and what a missing one needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from distcorr.report.page_section2 import missing
from distcorr.report.page_tables import tidy

ENDS = {"value": -2.0, "low": -3.0, "high": 1.0, "n": 9}


@pytest.mark.parametrize(
    ("name", "unit", "other"),
    [
        ("table2", "per cent", "points"),
        ("table2-slices", "per cent", "points"),
        ("table2-gain", "points", "per cent"),
        ("table4-comparison", "points", "per cent"),
    ],
)
def test_a_difference_of_per_cent_is_in_points(name: str, unit: str, other: str) -> None:
    row = {"table": name, "method": "a minus b", **ENDS}
    source: Any = SimpleNamespace(rows=lambda _: [row], files={})
    page = str(tidy(source, name))
    assert f">{unit}<" in page
    assert other not in page


def test_what_makes_a_section_is_said_with_the_folder_that_it_works_in() -> None:
    source: Any = SimpleNamespace(name="full", finished=lambda _: False, stages={})
    page = str(missing(source, "visualize"))
    assert "visualize has not run." in page
    assert "distcorr visualize -r full" in page
    assert page.endswith(" makes it, in the folder that holds full/.</p>")

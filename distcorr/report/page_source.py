"""What a report page is made from: what a run has saved, read once."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distcorr import config as configuration
from distcorr.config import Config, EvaluationConfig
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.store import FEATURE
from distcorr.errors import DistcorrError
from distcorr.report import paper
from distcorr.report.score import MEAN
from distcorr.report.tables import Report
from distcorr.types import Instance

Row = dict[str, Any]
# The manifest has the settings that a stage was made with: the run may have been used with others.
_SECTIONS = {
    "neighbors": "neighbors",
    "transfer": "flow",
    "classify": "classify",
    "responses": "responses",
    "detect": "detect",
    "visualize": "visualize",
}


@dataclass(frozen=True)
class Source:
    """A run and its report.

    Attributes:
        run: with ``build-db`` finished.
        report: its tables.
        config: what the finished stages were made with, and ``evaluation`` as asked for.
        stages: entry of the manifest for each stage that was begun.
        store: the instances.
    """

    run: Run
    report: Report
    config: Config
    stages: dict[str, Row]
    store: FeatureStore

    @property
    def name(self) -> str:
        """Of the run's folder: the page must not tell where it lies."""
        return str(self.run).rstrip("/").rpartition("/")[2]

    def finished(self, stage: str) -> bool:
        """Whether a stage is finished and up to date."""
        return self.run.finished(stage) is not None

    def rows(self, table: str) -> list[Row]:
        """The report's rows of a table."""
        return self._by_table.get(table, [])

    @functools.cached_property
    def _by_table(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.report.rows:
            found.setdefault(row["table"], []).append(row)
        return found

    @functools.cached_property
    def files(self) -> dict[str, int]:
        """Name and size of each file beside the page."""
        return self.run.folder.sizes("report")

    @functools.cached_property
    def instances(self) -> dict[str, Instance]:
        """By id."""
        return {each.id: each for each in self.store.instances}

    @functools.cached_property
    def photographs(self) -> Folder:
        """Where the photographs are."""
        return Folder(self.store.root) if self.store.root else self.run.folder / "toy"

    @functools.cached_property
    def network(self) -> str:
        """Key of the network whose layer is aligned; "" for an extractor of the user's."""
        stage = self.run.finished("build-db")
        name = f"{self.store.tables.get(f'grids/{self.store.conv}', '')}/{FEATURE}"
        if stage is None or not stage.files.exists(name):
            return ""
        source = stage.files.read_json(name).get("made", {}).get("source", {})
        return str(source.get("network", "")) if isinstance(source, dict) else ""

    @functools.cached_property
    def same_weights(self) -> bool:
        """Whether the weights are the paper's."""
        return paper.same_weights(self.report.weights)

    @functools.cached_property
    def same_data(self) -> bool:
        """Whether the photographs may be the paper's."""
        whole = not self.config.dataset.limit
        images = (each.image for each in self.store.instances)
        return whole and paper.same_data(self.store.keypoint_names, images)

    def predictions(self, of_transfer: bool) -> pa.Table | None:
        """Every predicted keypoint of section 3 or 5: of the report, else of the file beside it."""
        found = self.report.predictions if of_transfer else self.report.detections
        name = "predictions.parquet" if of_transfer else "predictions-detect.parquet"
        if found is None and name in self.files:
            return self.run.folder.read_table(f"report/{name}")
        return found

    def printed(self, table: str, method: str) -> paper.Printed | None:
        """The paper's row for one of ours."""
        methods = list(dict.fromkeys(row["method"] for row in self.rows(table)))
        return paper.printed(table, method, methods, self.network)

    def categories(self, table: str) -> list[str]:
        """Those of a table in the paper's order, then others, and the mean last."""
        own = dict.fromkeys(row["category"] for row in self.rows(table))
        known = [category for category in paper.categories() if category in own]
        others = sorted(category for category in own if category not in (*known, MEAN))
        return [*known, *others, *([MEAN] if MEAN in own else [])]

    def departures(self) -> list[tuple[str, str, str, str]]:
        """Settings that are not the paper preset's: name, the preset's, ours, source."""
        preset = configuration.PRESETS["paper"]
        own = {"dataset.root", "features.weights", "features.weights_sha256", "preset"}
        own |= {"features.shard", "flow.shard"}  # size of part files
        return [
            (name, shown(before), shown(now), source)
            for (name, before, source), (_, now, _) in zip(
                configuration.settings(preset), configuration.settings(self.config), strict=True
            )
            if before != now
            and name not in own
            and not name.startswith(("compute.", "dataset.toy"))
        ]

    def counts(self) -> list[Row]:
        """Per category: instances and photographs of both splits, visible keypoints, types."""
        found = []
        for category, names in sorted(self.store.keypoint_names.items()):
            mine = [each for each in self.store.instances if each.category == category]
            split = Counter(each.split for each in mine)
            found.append(
                {"category": category, "train": split["train"], "val": split["val"]}
                | {"photographs": len({each.image for each in mine})}
                | {"keypoint types": len(names)}
                | {"visible keypoints": sum(int(each.visible.sum()) for each in mine)}
            )
        return found


def shown(value: Any) -> str:
    """A setting as TOML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if value != "" else '""'


def opened(run: Run, report: Report, evaluation: EvaluationConfig | None = None) -> Source:
    """A run and its report, ready to be shown.

    Args:
        run: whose tables they are.
        report: of ``tables.build``.
        evaluation: that they were built with, in place of the run's own.

    Raises:
        DistcorrError: the run has no finished ``build-db``, or is of another version.
    """
    config, features = run.config(), run.finished("build-db")
    if config is None or features is None:
        raise DistcorrError(
            f"{run} has no build-db that is finished and up to date.",
            f"distcorr run -r {run}   makes it",
        )
    config = dataclasses.replace(config, evaluation=evaluation or config.evaluation)
    stages = run.manifest()["stages"]
    return Source(run, report, _as_made(config, stages), stages, FeatureStore(features))


def _as_made(config: Config, stages: dict[str, Row]) -> Config:
    """The configuration with every stage's own settings, where this version knows them."""
    for stage, section in _SECTIONS.items():
        made = stages.get(stage, {}).get(section)
        try:
            loaded = configuration.load(document={"preset": "paper", section: made or {}})
        except DistcorrError:
            continue  # of an older version: the run's configuration is the nearest
        if made:
            config = dataclasses.replace(config, **{section: getattr(loaded, section)})
    return config

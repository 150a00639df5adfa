"""What ``build-db`` leaves in a run: its instances, and which tables of the store are theirs."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distcorr.algorithms.crop import with_context
from distcorr.config import ClassifyConfig, FlowConfig, VisualizeConfig
from distcorr.data import datasets
from distcorr.data.run import DEAD, StageFolder
from distcorr.data.storage import parquet
from distcorr.data.store import CELLS, META, FeatureMeta, HalfArray, read_values
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, Instance

INSTANCES = "instances.parquet"
_OF_INSTANCES = ("instances", "checksums", "dead", "_stems", "_spans")
_ROW_GROUP = 65536  # rows; few groups, which are read as quickly as they can be


def _natural(name: str) -> list[str | int]:
    """Sorts "conv4" before "conv10"."""
    return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def _shared(column: pa.ChunkedArray) -> list[str]:
    """A column's strings; those that are equal are one object."""
    encoded = column.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return [words[index] for index in encoded.indices.to_numpy(zero_copy_only=False).tolist()]


def _spans(instances: Sequence[Instance]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """(category, split) -> where its instances stand: one stretch, as data sets are sorted."""
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    groups = itertools.groupby(range(len(instances)), lambda n: _group(instances[n]))
    for group, members in groups:
        first, *rest = members
        spans[group].append((first, first + len(rest) + 1))
    return dict(spans)


def _group(instance: Instance) -> tuple[str, str]:
    return instance.category, instance.split


class FeatureStore:
    """A run's instances and their features.

    Attributes:
        instances: in the order of the data set.
        keypoint_names: category -> its keypoint types.
        conv: layer that is aligned: ``f"grids/{conv}"``.
        vector: layer that neighbours are found by: ``f"vectors/{vector}"``.
        tables: name of a feature (``"points/conv4"``) -> its folder in the store.
        root: path or URI of the photographs; "" for drawn ones, which are in the run.
        names: layers that were asked for by another name than they have in ``tables``.
        context: share of a grid's square that is kept around the box, on each side.
        stamp: which weights and data, for people.
        checksums: photograph -> its sha256 when the work was planned, or why there is none.
        dead: ids of instances that lack what is aligned or what finds neighbours.
    """

    instances: list[Instance]
    checksums: dict[str, str]
    dead: frozenset[str]
    _stems: dict[str, str]  # instance id -> stem of the file with its grids and vectors
    _spans: dict[tuple[str, str], list[tuple[int, int]]]

    def __init__(self, stage: StageFolder, category: str = "") -> None:
        """
        Args:
            stage: ``build-db``, begun or finished.
            category: for a task that needs the instances of this one only; "": all.

        Raises:
            DistcorrError: its instance table is missing or damaged.
        """
        self._stage, self._category = stage, category
        about = stage.folder.read_table(INSTANCES, ())  # the instances are read when asked for
        facts = json.loads(about.schema.metadata[META])
        if missing := {"names", "root"} - facts.keys():
            raise DistcorrError(
                f"{stage.folder}/{INSTANCES} is not of this version of distcorr: it lacks "
                f"{', '.join(sorted(missing))}.",
                "distcorr build-db   writes it anew; the features themselves stay",
                MISSING,
            )
        self.keypoint_names: dict[str, tuple[str, ...]] = {
            category: tuple(names) for category, names in facts["keypoint_names"].items()
        }
        self.conv: str = facts["conv"]
        self.vector: str = facts["vector"]
        self.tables: dict[str, str] = facts["tables"]
        self.names: dict[str, str] = facts["names"]
        self.root: str = facts["root"]
        self.context: float = facts.get("context", 0.0)
        self.stamp: dict[str, str] = facts["stamp"]

    if not TYPE_CHECKING:  # which would believe that every name is there

        def __getattr__(self, name: str) -> Any:
            """What is not read yet: a million instances are a gigabyte, and most need none."""
            if name not in _OF_INSTANCES:
                raise AttributeError(name)
            self._read_instances()
            return self.__dict__[name]

    def _read_instances(self) -> None:
        self.instances = datasets.from_table(self._table())
        self._spans = _spans(self.instances)
        table = self._table(("category", "shard", "sha256"))  # once the other is gone
        stems, shas = (_shared(table[name]) for name in ("shard", "sha256"))
        self._stems = dict(zip((i.id for i in self.instances), stems, strict=True))
        self.checksums = dict(zip((i.image for i in self.instances), shas, strict=True))
        main, folder = set(self.main.values()), self._stage.folder
        letters = folder.read_table(DEAD).to_pylist() if folder.exists(DEAD) else []
        dead = {each["id"] for each in letters if not each["tables"] or main & set(each["tables"])}
        self.dead = frozenset(dead) & self._stems.keys()
        pa.default_memory_pool().release_unused()  # as much again as a third of the instances

    def _table(self, columns: Sequence[str] | None = None) -> pa.Table:
        folder = self._stage.folder
        table = folder.read_table(INSTANCES, columns)
        wanted = columns or ("id", "image", "category", "split", "box", "keypoints", "visible")
        if missing := sorted(set(wanted) - set(table.column_names)):
            raise DistcorrError(
                f"{folder}/{INSTANCES} is not of this version of distcorr: it lacks "
                f"{', '.join(missing)}.",
                "distcorr build-db   writes it anew; the features themselves stay",
                MISSING,
            )
        if self._category:
            table = table.filter(pc.equal(table["category"], self._category))
        return table

    @staticmethod
    def write_instances(
        stage: StageFolder,
        table: pa.Table,
        shards: Mapping[str, str],
        checksums: Mapping[str, str],
        facts: Mapping[str, object],
    ) -> None:
        """Write the instance table if it is not there, or says something else.

        Then the stage is unfinished until its shards agree with the new table.

        Args:
            stage: ``build-db``.
            table: as ``datasets.to_table`` makes it.
            shards: instance id -> stem of the file in which its grids and vectors are.
            checksums: photograph -> sha256.
            facts: the attributes of this class that are not in the table.
        """
        stems = [shards[i] for i in table["id"].to_pylist()]
        shas = [checksums[image] for image in table["image"].to_pylist()]
        table = table.append_column("shard", pa.array(stems, pa.string()))
        table = table.append_column("sha256", pa.array(shas, pa.string()))
        text = json.dumps(facts, sort_keys=True).encode()
        content = parquet(table.replace_schema_metadata({META: text}), _ROW_GROUP)
        if not (stage.folder.exists(INSTANCES) and stage.folder.read(INSTANCES) == content):
            stage.begin()
            stage.folder.write(INSTANCES, content)

    def members(self, category: str, split: str) -> list[Instance]:
        """Instances with features, in the order of the data set."""
        spans = self._spans.get((category, split), ())
        return [i for a, b in spans for i in self.instances[a:b] if i.id not in self.dead]

    def framed(self, box: Box) -> Box:
        """What the grids show of a photograph: the box, and the context around it."""
        return with_context(box, self.context)

    @property
    def main(self) -> dict[str, str]:
        """The tables that section 3 reads: kind -> folder in the store."""
        return {
            "grids": self.folder_of(f"grids/{self.conv}"),
            "vectors": self.folder_of(f"vectors/{self.vector}"),
        }

    def aligned(self, flow: FlowConfig) -> dict[str, str]:
        """Layer -> name of its table, for every layer whose flow is asked for (section 3)."""
        kind = "grids500" if flow.side else "grids"
        own = {"auto": self.conv, **self.names}
        return {own.get(layer, layer): f"{kind}/{own.get(layer, layer)}" for layer in flow.features}

    def classified(self, classify: ClassifyConfig) -> dict[str, str]:
        """Layer -> name of its table, for every layer whose columns are classified (section 4)."""
        layers = [self.names.get(layer, layer) for layer in classify.layers]
        return {layer: f"points/{layer}" for layer in layers or self._kept("points")}

    def visualized(self, visualize: VisualizeConfig) -> dict[str, tuple[str, ...]]:
        """Layer -> names of the tables that hold its data base of cells (section 2)."""
        layers: list[str] = []
        for layer in visualize.layers:
            layers += self._kept("cells") if layer == "auto" else [self.names.get(layer, layer)]
        kinds = CELLS[: 1 + visualize.mirrored]
        return {layer: tuple(f"{kind}/{layer}" for kind in kinds) for layer in layers}

    def _kept(self, kind: str) -> list[str]:
        """Layers that have a table of that kind, shallow to deep as far as their names tell."""
        layers = [n.partition("/")[2] for n in self.tables if n.startswith(f"{kind}/")]
        return sorted(layers, key=_natural)

    def folder_of(self, name: str) -> str:
        """Folder of a feature in the store.

        Raises:
            DistcorrError: the run has no such feature.
        """
        if name not in self.tables:
            kind, _, layer = name.partition("/")
            asks = f"'features.{kind}=[\"{layer}\"]'"
            asks = "visualize.mirrored=true" if kind == "mirrored" else asks
            raise DistcorrError(
                f"This run has no {name}.{did_you_mean(name, self.tables)}",
                f"it has {', '.join(sorted(self.tables))}; add others with distcorr build-db "
                f"--set {asks}, or with distcorr run, which adds what flow.features and flow.side "
                "ask for",
                MISSING,
            )
        return self.tables[name]

    def read(self, name: str, ids: Sequence[str]) -> tuple[list[str], HalfArray, FeatureMeta]:
        """Features of some instances, each part file read once.

        Args:
            name: ``"grids/conv4"`` or ``"vectors/fc7"``.
            ids: which instances; those that build-db had to leave out are left out here too.

        Returns:
            (ids, values, meta): the ids in the order asked for, (n, *shape) float16.

        Raises:
            DistcorrError: the run has no such feature, or some of the others lack it.
        """
        folder = self.folder_of(name)
        kept = [i for i in ids if i not in self.dead]
        row = {name: n for n, name in enumerate(kept)}
        out: HalfArray | None = None  # made once, and filled part by part
        meta: FeatureMeta | None = None
        stems = sorted({self._stems[i] for i in kept})
        for part in self._stage.files.iter_tables([f"{folder}/{stem}.parquet" for stem in stems]):
            values, meta = read_values(part)
            if out is None:
                out = np.empty((len(kept), *meta.shape), np.float16)
            for instance, value in zip(part["id"].to_pylist(), values, strict=True):
                if instance in row:
                    out[row.pop(instance)] = value
        if out is None or meta is None or row:
            raise DistcorrError(
                f"{self._stage.files} has no {name} for {len(row)} of the {len(kept)} instances "
                "asked for.",
                "distcorr status -v shows what was left out, and why; distcorr run mends the rest",
                MISSING,
            )
        return kept, out, meta

    def parts(self, name: str) -> Iterator[pa.Table]:
        """The tables of a feature, one part at a time, in the order of the shards.

        Args:
            name: any feature, for example ``"points/conv4"``: columns id, keypoint, x, y (px in the
                photograph), conv4; or ``"cells/conv4"``: image, row, col, x, y, conv4.

        Raises:
            DistcorrError: the run has no such feature, or a file of it is damaged.
        """
        parts = self._stage.parts(self.folder_of(name))
        if not parts:
            raise DistcorrError(
                f"{self._stage.files} has no finished part of {name}.",
                "distcorr build-db makes them",
                MISSING,
            )
        return self._stage.files.iter_tables(parts)

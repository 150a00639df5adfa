"""Data sets by name, and the instance table that every later stage reads."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from distcorr.config import DatasetConfig, digest
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, Dataset, Instance

Loader = Callable[..., Dataset]  # load(root, categories=(), limit=0) -> Dataset

DATASETS = {
    "voc": "distcorr.data.voc:load",
    "coco": "distcorr.data.coco:load",
    "cub": "distcorr.data.cub:load",
    "table": "distcorr.data.tabular:load",
    "toy": "distcorr.data.voc:load",  # drawn into the run folder in VOC layout, then read as VOC
}


def load(config: DatasetConfig, run: Folder, seed: int) -> Dataset:
    """The data set that the configuration names.

    Args:
        config: ``name`` is a key of ``DATASETS`` or ``"module:function"``.
        run: the run's folder, where the toy set is drawn.
        seed: of the toy set.

    Raises:
        DistcorrError: unknown name, no root, or whatever the reader finds wrong.
    """
    root = config.root
    if config.name == "toy":
        from distcorr.data.toy import write_toy

        toy = run / "toy"
        write_toy(toy, seed=seed, train=config.toy_train, val=config.toy_val)
        root = toy.uri
    if not root:
        raise DistcorrError(
            f"The data set {config.name!r} needs a folder, and none is given.",
            "--data PATH, the folder or file of the annotations",
            MISSING,
        )
    dataset = _loader(config.name)(root, categories=config.categories, limit=config.limit)
    if "mean" in dataset.keypoint_names:
        raise DistcorrError(
            "A category must not be called 'mean', which every table has as its last.",
            "rename it in the annotations",
        )
    return dataset


def _loader(name: str) -> Loader:
    target = DATASETS.get(name, name)
    module, separator, attribute = target.partition(":")
    if not separator:
        raise DistcorrError(
            f"Unknown data set {name!r}.{did_you_mean(name, DATASETS)}",
            f"known: {', '.join(DATASETS)}, or module:function",
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not have it
    try:
        loader: Loader = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DistcorrError(
            f"Cannot import the data set reader {name!r}: {error}",
            "the module must be importable here and on every worker",
        ) from error
    return loader


def fingerprint(dataset: Dataset) -> str:
    """sha256 over every instance: the same annotations give the same value wherever they lie."""
    return digest(
        {
            "keypoints": {c: list(names) for c, names in dataset.keypoint_names.items()},
            "instances": [
                [i.id, i.image, i.category, i.split, list(i.box), i.visible.tolist()]
                + [None if np.isnan(v) else round(float(v), 4) for v in i.keypoints.reshape(-1)]
                for i in dataset.instances
            ],
        }
    )


def to_table(dataset: Dataset) -> pa.Table:
    """The instance table: one row per instance, in the data set's order.

    It has a column ``truncated`` only if some annotation says so much.
    """
    instances = dataset.instances
    flat = [i.keypoints.reshape(-1).astype(np.float32) for i in instances]
    table = pa.table(
        {
            "id": [i.id for i in instances],
            "image": [i.image for i in instances],
            "category": [i.category for i in instances],
            "split": [i.split for i in instances],
            "box": pa.array([list(map(float, i.box)) for i in instances], pa.list_(pa.float64())),
            "keypoints": pa.array(flat, pa.list_(pa.float32())),
            "visible": pa.array([i.visible.tolist() for i in instances], pa.list_(pa.bool_())),
        }
    )
    truncated = pa.array([i.truncated for i in instances], pa.bool_())
    if truncated.null_count == len(instances):
        return table
    return table.append_column("truncated", truncated)


def from_table(table: pa.Table) -> list[Instance]:
    """The instances of an instance table, with or without the column ``truncated``."""
    return [
        Instance(
            id=row["id"],
            image=row["image"],
            category=row["category"],
            split=row["split"],
            box=Box(*row["box"]),
            keypoints=np.array(row["keypoints"], np.float32).reshape(-1, 2),
            visible=np.array(row["visible"], bool),
            truncated=row.get("truncated"),
        )
        for row in table.to_pylist()
    ]

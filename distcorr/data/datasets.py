"""Data sets by name, and the instance table that every later stage reads."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.config import DatasetConfig
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import Box, Dataset, Instance

Loader = Callable[..., Dataset]  # load(root, categories=(), limit=0) -> Dataset

_ROWS = 65536  # of a table that become instances at once

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
    loader, root = _loader(config.name), config.root
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
    dataset = loader(root, categories=config.categories, limit=config.limit)
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
    names = {c: list(names) for c, names in dataset.keypoint_names.items()}
    sha = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
    for start in range(0, len(dataset.instances), _ROWS):  # a large data set is not one string
        part = dataset.instances[start : start + _ROWS]
        words = [[i.id, i.image, i.category, i.split, len(i.visible)] for i in part]
        sha.update(json.dumps(words).encode())
        sha.update(np.concatenate([i.visible for i in part]).tobytes())
        sha.update(_plain(np.array([i.box for i in part])))
        sha.update(_plain(np.concatenate([i.keypoints for i in part]).astype(np.float64)))
    return sha.hexdigest()


def _plain(px: npt.NDArray[np.float64]) -> bytes:
    """To 1/10,000 px, with one kind of NaN and of 0: equal numbers are equal bytes."""
    rounded = px.round(4) + 0.0
    rounded[np.isnan(rounded)] = np.nan
    return rounded.astype("<f8").tobytes()


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
    # A part at a time: lists of numbers on the way take many times what they become.
    parts = (table.slice(start, _ROWS) for start in range(0, table.num_rows, _ROWS))
    return [instance for part in parts for instance in _instances(part)]


def _instances(table: pa.Table) -> Iterator[Instance]:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    shared = {name: columns[name].dictionary_encode() for name in ("image", "category", "split")}
    words = {name: column.dictionary.to_pylist() for name, column in shared.items()}
    image, category, split = (
        map(words[name].__getitem__, column.indices.to_pylist()) for name, column in shared.items()
    )
    boxes = columns["box"].flatten().to_numpy().reshape(-1, 4).tolist()
    truncated = (
        columns["truncated"].to_pylist() if "truncated" in columns else itertools.repeat(None)
    )
    rows = zip(
        columns["id"].to_pylist(),
        image,
        map(sys.intern, category),
        map(sys.intern, split),
        itertools.starmap(Box, boxes),
        _pieces(columns["keypoints"], 2),
        _pieces(columns["visible"]),
        truncated,
        strict=False,  # the last may repeat for ever
    )
    return itertools.starmap(Instance, rows)


def _pieces(column: pa.ListArray, width: int = 0) -> Iterator[npt.NDArray[Any]]:
    """The lists of a column as parts of one array, or as rows of ``width`` numbers each."""
    values = np.array(column.flatten().to_numpy(zero_copy_only=False))  # a copy: arrow's are const
    starts = (column.offsets.to_numpy() - column.offsets[0].as_py()).tolist()
    for start, stop in itertools.pairwise(starts):
        yield values[start:stop].reshape(-1, width) if width else values[start:stop]

"""``load_instances`` and ``extract``: annotated objects, and features of any photograph."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distcorr.config import Config, DatasetConfig
from distcorr.data import datasets, sniff
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError
from distcorr.types import Box, Dataset, FloatArray, Geometry

Picture = str | os.PathLike[str] | npt.NDArray[np.uint8]
_PACKAGED = "efficientnet-lite0"  # the network whose weights install as a package
_OTHER = "layers of another network need its weights: weights=FILE"


def load_instances(
    root: str | os.PathLike[str] = "",
    name: str = "",
    categories: Sequence[str] = (),
    limit: int = 0,
) -> Dataset:
    """The annotated objects of a data set; without arguments, drawn ones with exact keypoints.

    Args:
        root: folder, file or URI of the annotations, as ``--data``. Of the drawn set where to draw
            it; a temporary folder, that goes with the process, if not given.
        name: "voc", "coco", "cub", "table", "toy" or "module:function", a reader of your own; if
            not given, what the names of the files say, or "toy" without a root.
        categories: only these; all of them if there are none.
        limit: instances per category and split at most; 0 for all.

    Returns:
        `distcorr.types.Dataset`: ``instances`` with box and keypoints in px of the photograph,
        ``root``, which ``Instance.image`` is relative to, ``keypoint_names`` and ``warnings``.

    Raises:
        DistcorrError: there is no such folder, reader or category, or the annotations are damaged.
    """
    if isinstance(categories, str):
        raise TypeError(f"categories must be a sequence of names, got the string {categories!r}")
    place = os.fspath(root)
    if place and "://" not in place:
        place = os.path.abspath(os.path.expanduser(place))
    reader = name or (sniff.recognise(place) if place else "toy")
    folder = Folder(place or _temporary() if reader == "toy" else ".")
    config = DatasetConfig(name=reader, root=place, categories=tuple(categories), limit=limit)
    return datasets.load(config, folder, Config().seed)


@functools.cache
def _temporary() -> str:
    folder = tempfile.mkdtemp(prefix="distcorr-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def extract(
    images: Sequence[Picture] | npt.NDArray[np.uint8],
    layer: str = "auto",
    *,
    weights: str | os.PathLike[str] = "",
    network: str = "auto",
    boxes: Sequence[Sequence[float] | None] | None = None,
    size: int | None = None,
    cells: Geometry | None = None,
    batch: int = 16,
) -> tuple[FloatArray, Geometry]:
    """Features of photographs, or of boxes in them, each stretched to a square (paper, section 3).

    What ``build-db`` stores as ``grids``, before that is rounded to float16; its last bits may
    depend on which images make a batch. Equal calls give equal bytes. On a CPU one thread works, as
    in the pipeline, whose many workers ``distcorr build-db`` has.

    Args:
        images: paths, URIs, or (H, W, 3) uint8 RGB arrays of any sizes. Pixels are taken as they
            are stored, without an EXIF rotation, because annotations count them so.
        layer: "auto", the one that the network is aligned by (conv4 of CaffeNet); another of its
            layers; "sift20", SIFT of that radius in px; "dsift8", dense SIFT; "module:attribute",
            an extractor of your own.
        weights: file of the network, .npz or .caffemodel; EfficientNet-Lite0, which installs as a
            package, if not given.
        network: whose weights these are; "auto": what the file is known to hold.
        boxes: per image x0, y0, x1, y1 in its px, or None for all of it; all whole if not given.
        size: px of the square; if not given the network's own, which some insist on.
        cells: of another layer, for "sift20": its descriptors then lie where those cells do, as in
            the pipeline. CaffeNet's conv4 if not given.
        batch: images of 227 px at a time.

    Returns:
        (n, H, W, C) float32, not normalised (`align` does that), and where the cells lie in the
        square.

    Raises:
        DistcorrError: a photograph or the weights cannot be read, there is no such layer, it is
            fully connected, or does not take that size.
        ValueError: an array is not (H, W, 3) uint8, a box is empty or misses its image, there are
            not as many boxes as images, or none.
        TypeError: images are not a sequence of paths or arrays.
    """
    if isinstance(images, (str, os.PathLike)) or getattr(images, "ndim", 4) == 3:
        raise TypeError("images must be a sequence, got one; extract([image]) takes a single one")
    wanted = [None] * len(images) if boxes is None else list(boxes)
    if not len(images) or len(wanted) != len(images):
        raise ValueError(
            f"there must be images, and a box for each, got {len(images)} and {len(wanted)} boxes"
        )
    from distcorr.algorithms.batches import in_batches  # torch takes a second to import
    from distcorr.algorithms.crop import crop_square

    source, tap = _source(layer, os.fspath(weights), network, cells)
    size = size or (cells.input_size if cells else source.input_size)
    geometry: Geometry = source.geometry(tap, size)
    squares = np.empty((len(images), size, size, 3), np.uint8)
    for square, image, box in zip(squares, images, wanted, strict=True):
        pixels = _pixels(image)
        height, width = pixels.shape[:2]
        square[:] = crop_square(pixels, Box(*(box or (0, 0, width - 1, height - 1))), size)
    with _as_workers():
        return in_batches(source, squares, (tap,), batch)[tap], geometry


@contextlib.contextmanager
def _as_workers() -> Iterator[None]:
    """Torch as the workers of ``build-db`` have it, for the same bytes; then as it was."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more add up in another order
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)


def _pixels(image: Picture) -> npt.NDArray[np.uint8]:
    if isinstance(image, (str, os.PathLike)):
        folder, file = os.path.split(os.fspath(image))
        return read_image(Folder(folder or "."), file)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a path or an array, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    return image


@functools.lru_cache(maxsize=4)
def _source(layer: str, weights: str, network: str, cells: Geometry | None) -> tuple[Any, str]:
    """Where a layer comes from and its name there; loaded once per process."""
    import torch

    from distcorr.algorithms import extractors
    from distcorr.algorithms.sift import Sift
    from distcorr.algorithms.sources import Sources, is_extractor
    from distcorr.data.weights import load_weights

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if cells and not re.fullmatch(r"sift\d+", layer):
        raise DistcorrError(
            f"cells say where SIFT's descriptors lie; {layer} has cells of its own.",
            'leave cells out, or give layer="sift20"',
        )
    if re.fullmatch(r"d?sift\d+", layer):
        sift = Sift(lambda size: cells) if cells else Sift()
        sift.require(layer)
        return sift, layer
    if is_extractor(layer):
        return Sources(Sift(), device).find(layer)
    loaded = load_weights(weights, _PACKAGED if network == "auto" and not weights else network)
    backbone = extractors.build(loaded.network, loaded.arrays, device)
    tap = backbone.grid if layer == "auto" else layer
    try:
        backbone.require(tap)
    except DistcorrError as error:
        hint = error.hint if weights else f"{error.hint}; {_OTHER}"
        raise DistcorrError(error.message, hint, error.exit_code) from error
    return backbone, tap

"""SIFT against other implementations, as ratios within one run; drawn pictures, one core.

    .venv/bin/python benchmarks/sift.py

Run it alone on the machine. Every line is "ours / peer" of the same descriptors in one process (in
parentheses how many times the peer takes), the median of several rounds that alternate between the
two. Peers that are not installed are left out:
VLFeat's C library (Debian: libvlfeat1) through ctypes, OpenCV, and kornia, whose descriptor is its
own. With ``--golden FILE`` it writes VLFeat's own descriptors of a small picture, which the tests
compare with.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timing import compare, optional

from distcorr.algorithms import sift
from distcorr.stages.cluster import limit_threads

GOLDEN = {"plain": (4, 4, False), "odd": (7, 5, False), "smooth": (8, 8, True)}  # step, bin, smooth


class VLFeat:
    """``vl_dsift`` with the flat window, and ``vl_imsmooth``, from the C library."""

    class _Filter(ctypes.Structure):  # the start of VlDsiftFilter, vl/dsift.h
        _fields_ = (
            *((name, ctypes.c_int) for name in ("width", "height", "step_x", "step_y")),
            *((name, ctypes.c_int) for name in ("min_x", "min_y", "max_x", "max_y")),
            *((name, ctypes.c_int) for name in ("bins_t", "bins_x", "bins_y", "bin_x", "bin_y")),
            ("flat", ctypes.c_int),
            ("window", ctypes.c_double),
            ("frames", ctypes.c_int),
            ("size", ctypes.c_int),
            ("positions", ctypes.c_void_p),
            ("descriptors", ctypes.POINTER(ctypes.c_float)),
        )

    def __init__(self) -> None:
        """OSError where the library is not installed."""
        name = ctypes.util.find_library("vl")
        if name is None:
            raise OSError("libvl is not installed")
        self._library = ctypes.CDLL(name)
        real, size, filter_ = ctypes.POINTER(ctypes.c_float), ctypes.c_size_t, self._Filter
        self._library.vl_dsift_new_basic.restype = ctypes.POINTER(filter_)
        self._library.vl_dsift_process.argtypes = [ctypes.POINTER(filter_), real]
        self._library.vl_dsift_delete.argtypes = [ctypes.POINTER(filter_)]
        self._library.vl_imsmooth_f.argtypes = [
            *(real, size, real, size, size, size),
            *(ctypes.c_double, ctypes.c_double),
        ]

    def dense(self, image: np.ndarray, step: int, bin_size: int, smooth: bool) -> np.ndarray:
        """(rows, cols, 128) of norm 512, as ``sift.dense`` of a grey image."""
        height, width = image.shape
        if smooth:
            image = self._smooth(image, ((bin_size / 3) ** 2 - 0.25) ** 0.5)
        made = self._library.vl_dsift_new_basic(width, height, step, bin_size)
        made[0].flat = 1
        self._library.vl_dsift_process(made, self._pointer(image))
        found = np.ctypeslib.as_array(made[0].descriptors, (made[0].frames, 128)) * np.float32(512)
        self._library.vl_dsift_delete(made)
        return found.reshape(-1, (width - 3 * bin_size - 1) // step + 1, 128)

    def _smooth(self, image: np.ndarray, sigma: float) -> np.ndarray:
        smoothed, (height, width) = np.empty_like(image), image.shape
        pointers = self._pointer(smoothed), width, self._pointer(image)
        self._library.vl_imsmooth_f(*pointers, width, height, width, sigma, sigma)
        return smoothed

    @staticmethod
    def _pointer(array: np.ndarray) -> Any:
        return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8 of blobs at several scales: noise, enlarged and added up."""
    random, total = np.random.default_rng(seed), np.zeros((height, width, 3))
    for side in (2, 4, 8, 16, 32):
        noise = random.normal(size=(height // side + 1, width // side + 1, 3))
        total += np.kron(noise, np.ones((side, side, 1)))[:height, :width]
    return np.clip(128 + 25 * total, 0, 255).astype(np.uint8)


def main() -> None:
    """Compare with every peer that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", metavar="FILE", help="write VLFeat's descriptors and stop")
    arguments = parser.parse_args()
    if arguments.golden:
        write_golden(arguments.golden)
        return
    limit_threads()
    vlfeat = optional(VLFeat)
    cv2 = optional(lambda: importlib.import_module("cv2"))
    kornia = optional(lambda: importlib.import_module("kornia.feature"))
    if cv2:
        cv2.setNumThreads(1)
    for step, smooth in ((8, False), (8, True), (1, False)):
        grids(step, 8, smooth, vlfeat, cv2, kornia)
    points(cv2)


def grids(step: int, bin_size: int, smooth: bool, vlfeat: Any, cv2: Any, kornia: Any) -> None:
    """A 500 x 500 picture; OpenCV's pyramid belongs to its descriptors and is always timed."""
    image = picture(500, 500, 1)
    grey = np.ascontiguousarray(image[..., 1], np.float32)
    name = f"dense, step {step}, bin {bin_size}{', smoothed' if smooth else ''}"

    def ours() -> np.ndarray:
        return sift.dense(grey, step, bin_size, smooth)

    if vlfeat:
        compare(
            name, ours, lambda: vlfeat.dense(grey, step, bin_size, smooth), "VLFeat, flat window"
        )
        error = np.abs(ours() - vlfeat.dense(grey, step, bin_size, smooth)).max() / 512
        print(f"    largest difference of unit-norm descriptors {error:.1e}")
    if cv2 and step > 1:
        at = 1.5 * bin_size + step * np.arange(ours().shape[0])
        xy = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
        compare(name, ours, opencv(cv2, image[..., 1], xy, 2 * bin_size), "OpenCV, same points")
    if kornia and step > 1:
        describe = kornia.DenseSIFTDescriptor(spatial_bin_size=bin_size, stride=step)
        batch = torch.from_numpy(grey)[None, None]
        compare(name, ours, lambda: describe(batch), "kornia, its own definition")


def points(cv2: Any) -> None:
    """The two uses in the paper: the cells of conv4, and a few keypoints at five radii."""
    crop, photo = picture(227, 227, 2), picture(375, 500, 3)
    cells = 17.0 + 16 * np.arange(13)
    lattice = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2)
    keypoints = np.random.default_rng(4).uniform(40, 335, (12, 2))
    source = sift.Sift()
    radii = (10, 20, 40, 80, 160)
    if not cv2:
        print("without OpenCV there is no peer for chosen points")
        return
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    compare(
        "169 cells of a 227 px crop, radius 20",
        lambda: sift.at_points(crop, lattice, 20),
        opencv(cv2, grey, lattice, 20),
        "OpenCV, same points",
    )
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    peers = [opencv(cv2, grey, keypoints, radius) for radius in radii]
    compare(
        "12 keypoints at 5 radii, 500 x 375 px",
        lambda: source.columns(photo, keypoints, source.taps[:5]),
        lambda: [peer() for peer in peers],
        "OpenCV, one call for each radius",
    )


def opencv(cv2: Any, grey: np.ndarray, xy: np.ndarray, radius: int) -> Callable[[], object]:
    """``SIFT.compute`` of upright keypoints of that radius, from the level of nearest smoothing."""
    bin_size = radius / 2
    level = max(0, round(3 * np.log2(bin_size / 3 / 1.6)))
    octave = level // 3 | level % 3 << 8
    made = [cv2.KeyPoint(x, y, 2 * bin_size / 3, 0, 1, octave) for x, y in xy.tolist()]
    describe, pixels = cv2.SIFT_create(), np.ascontiguousarray(grey)
    return lambda: describe.compute(pixels, made)


def write_golden(path: str) -> None:
    """VLFeat's descriptors of a 40 x 48 picture, in three settings."""
    vlfeat, image = VLFeat(), picture(40, 48, 0)[..., 1]
    grey = image.astype(np.float32)
    found = {name: vlfeat.dense(grey, *setting) for name, setting in GOLDEN.items()}
    np.savez_compressed(path, image=image, **found)


if __name__ == "__main__":
    main()

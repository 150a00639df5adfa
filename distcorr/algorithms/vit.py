"""Patch tokens of any vision transformer as a grid of features.

Whoever has the weights of DINOv2, DINOv3 or a diffusion model needs only this adapter: the tokens
are ordered row by row, one per patch, after the class and register tokens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from distcorr.errors import MISSING, DistcorrError
from distcorr.types import FloatArray, Geometry

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of values in 0-1


class PatchTokens:
    """A module that returns patch tokens, with the contract of ``distcorr.algorithms.plugins``.

    The receptive field is the whole input, since attention is global; a cell is centred on its
    patch: stride ``patch / upsample``, offset ``(stride - 1) / 2``.

    Attributes:
        geometry: where the cells lie.
        channels: length of a token.
    """

    def __init__(
        self,
        module: Callable[[Tensor], Any],
        input_size: int,
        patch: int,
        prefix_tokens: int = 1,
        channels: int | None = None,
        upsample: int = 1,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        device: str = "cpu",
        select: Callable[[Any], Any] | None = None,
    ) -> None:
        """Runs the module once, on a black image.

        Args:
            module: called through its ``forward_features`` if it has one, with (B, 3, S, S)
                float32 RGB, ``(pixel / 255 - mean) / std``. Its result, or what ``select`` makes
                of it, is (B, prefix + N, C), a mapping with DINOv2's "x_norm_patchtokens"
                (B, N, C), an object with ``last_hidden_state`` as transformers has it, or a map
                (B, C, h, h), as diffusion features are.
            input_size: S in px, a multiple of ``patch``.
            patch: side of a patch in px.
            prefix_tokens: class and register tokens before the patches'.
            channels: C, if it is to be checked.
            upsample: factor by which the grid is enlarged, bilinear with half-pixel centres; a
                divisor of ``patch``. 1, none, is not in the paper.
            mean: of the colours, of values in 0-1; ImageNet's.
            std: likewise.
            device: where the module runs; it is moved there if it is a torch module.
            select: picks the tokens out of the module's result.

        Raises:
            DistcorrError: sizes that do not divide, or tokens that do not make the grid.
        """
        if patch < 1 or input_size % patch or input_size < patch:
            raise DistcorrError(
                f"input_size must be a multiple of patch, got {input_size} px for {patch} px",
                f"the nearest is {max(1, round(input_size / max(patch, 1))) * patch}",
            )
        if upsample < 1 or patch % upsample:
            raise DistcorrError(
                f"upsample must divide patch, got {upsample} for {patch} px",
                "the stride in px is a whole number",
            )
        if isinstance(module, nn.Module):
            module = module.to(device).eval().requires_grad_(False)
        self._run: Callable[[Tensor], Any] = getattr(module, "forward_features", module)
        self.module = module  # in sight, so that its weights become part of the identity
        self._select, self._prefix, self._upsample = select, prefix_tokens, upsample
        self._mean, self._std, self._device = mean, std, device
        self._side = input_size // patch
        stride = patch // upsample
        self.geometry = Geometry(
            input_size, stride, (stride - 1) / 2, input_size, self._side * upsample
        )
        black = np.zeros((1, input_size, input_size, 3), np.uint8)
        self.channels = self(black).shape[-1]
        if channels not in (None, self.channels):
            raise DistcorrError(
                f"tokens must have {channels} channels as given, got {self.channels}"
            )

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatArray:
        """(B, S, S, 3) uint8 RGB -> (B, h, h, C) float32; DistcorrError if tokens do not fit."""
        with torch.inference_mode():
            x = torch.from_numpy(np.array(images, order="C")).to(self._device).float() / 255
            x = ((x - x.new_tensor(self._mean)) / x.new_tensor(self._std)).permute(0, 3, 1, 2)
            found = self._run(x.contiguous())
            maps = self._map(self._select(found) if self._select else found).float()
            if self._upsample > 1:
                maps = functional.interpolate(
                    maps, scale_factor=self._upsample, mode="bilinear", align_corners=False
                )
            return maps.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def _map(self, found: Any) -> Tensor:
        """(B, C, side, side) out of whatever the module returned."""
        side, prefix = self._side, self._prefix
        if isinstance(found, Mapping) and "x_norm_patchtokens" in found:
            found, prefix = found["x_norm_patchtokens"], 0
        found = getattr(found, "last_hidden_state", found)
        if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (side, side):
            return found
        if not isinstance(found, Tensor) or found.ndim != 3:
            got = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
            raise DistcorrError(
                "a module must return tokens (B, N, C), a map (B, C, "
                f"{side}, {side}), or what holds x_norm_patchtokens or last_hidden_state; got a "
                f"{type(found).__name__} {got}".rstrip(),
                "select=function(result) picks the tokens",
            )
        if found.shape[1] != prefix + side * side:
            spare = found.shape[1] - side * side
            raise DistcorrError(
                f"expected {prefix} prefix tokens + a grid of {side} x {side} = "
                f"{prefix + side * side} tokens, got {found.shape[1]}",
                f"prefix_tokens={spare} would fit" if spare >= 0 else "check patch and input_size",
            )
        return found[:, prefix:].transpose(1, 2).reshape(len(found), -1, side, side)


def timm_vit(
    name: str, input_size: int, *, upsample: int = 1, device: str = "cpu", pretrained: bool = True
) -> PatchTokens:
    """A vision transformer of the package timm by its name there, for example a DINOv2.

    Raises:
        DistcorrError: timm is not installed, or as ``PatchTokens``.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise DistcorrError(
            f"{name!r} needs the package timm, which is optional and not installed",
            "pip install timm",
            MISSING,
        ) from error
    model = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=input_size)
    return PatchTokens(
        model,
        input_size,
        model.patch_embed.patch_size[0],
        model.num_prefix_tokens,
        upsample=upsample,
        mean=model.pretrained_cfg["mean"],
        std=model.pretrained_cfg["std"],
        device=device,
    )

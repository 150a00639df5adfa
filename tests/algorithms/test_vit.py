"""Patch tokens of vision transformers: a random one, and modules whose answers are known."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from distcorr.algorithms.extractor_check import check_extractor
from distcorr.algorithms.plugins import Plugin
from distcorr.algorithms.vit import PatchTokens, timm_vit
from distcorr.errors import DistcorrError
from distcorr.types import Geometry


class SmallViT(nn.Module):
    """112 px, patches of 8 px, a class token and two registers, two layers; not trained."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Conv2d(3, 32, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, 3, 32))
        self.position = nn.Parameter(torch.randn(1, 14 * 14, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.layers(torch.cat([self.prefix.expand(len(x), -1, -1), tokens], dim=1))


def mean_colours(x, patch=8):
    """(B, N, 3) tokens that are their patches' mean colours."""
    return functional.avg_pool2d(x, patch).flatten(2).transpose(1, 2)


def ramp(size):
    """An image whose red is x and green y, in px."""
    y, x = np.mgrid[:size, :size]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)[None]


PLAIN = {"prefix_tokens": 0, "mean": (0, 0, 0), "std": (1 / 255,) * 3}  # tokens in pixel values


@pytest.mark.parametrize("upsample", [1, 2])
def test_a_random_vit_passes_the_check(upsample):
    extractor = PatchTokens(SmallViT(), 112, 8, prefix_tokens=3, upsample=upsample, channels=32)
    stride = 8 // upsample
    assert extractor.geometry == Geometry(112, stride, (stride - 1) / 2, 112, 14 * upsample)
    assert extractor.channels == 32
    assert check_extractor(extractor) == []


def test_a_wrong_order_of_tokens_fails_the_check():
    def columns_first(tokens):
        grid = tokens[:, 3:].unflatten(1, (14, 14))
        return grid.transpose(1, 2).flatten(1, 2)

    extractor = PatchTokens(SmallViT(), 112, 8, prefix_tokens=0, select=columns_first)
    assert "swapped" in check_extractor(extractor)[0]


@pytest.mark.parametrize("upsample", [1, 2, 4, 8])
def test_cells_are_where_the_geometry_says(upsample):
    extractor = PatchTokens(mean_colours, 64, 8, upsample=upsample, **PLAIN)
    maps = extractor(ramp(64))
    inner = slice(upsample, -upsample)  # bilinear interpolation is exact on a ramp but for the rim
    at = extractor.geometry.centres()
    np.testing.assert_allclose(maps[0, 3, inner, 0], at[inner], atol=1e-3)
    np.testing.assert_allclose(maps[0, inner, 3, 1], at[inner], atol=1e-3)


def test_colours_are_normalised_in_rgb():
    image = np.full((1, 16, 16, 3), (255, 0, 128), np.uint8)
    found = PatchTokens(mean_colours, 16, 8, prefix_tokens=0)(image)[0, 0, 0]
    expected = (np.array([1, 0, 128 / 255]) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (lambda x: {"x_norm_patchtokens": mean_colours(x), "x_norm_clstoken": 0}, {}),
        (lambda x: SimpleNamespace(last_hidden_state=mean_colours(x)), {"prefix_tokens": 0}),
        (lambda x: functional.avg_pool2d(x, 8), {}),
        (lambda x: [0, mean_colours(x)], {"prefix_tokens": 0, "select": lambda found: found[1]}),
        (SimpleNamespace(forward_features=mean_colours), {"prefix_tokens": 0}),
        (lambda x: mean_colours(x).half(), {"prefix_tokens": 0}),
    ],
)
def test_every_form_of_result(module, options):
    found = PatchTokens(module, 64, 8, **{**PLAIN, "prefix_tokens": 5, **options})(ramp(64))
    assert (found.shape, found.dtype) == ((1, 8, 8, 3), np.float32)
    np.testing.assert_allclose(found[0, 2, :, 0], 3.5 + 8 * np.arange(8), atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_tokens": 1}, r"1 prefix tokens \+ a grid of 14 x 14 = 197 tokens, got 199 .*=3"),
        ({"channels": 64}, "tokens must have 64 channels as given, got 32"),
        ({"input_size": 110}, r"multiple of patch, got 110 px for 8 px .*nearest is 112"),
        ({"upsample": 3}, "upsample must divide patch, got 3 for 8 px"),
        ({"select": lambda found: found[0]}, r"got a Tensor of shape \(199, 32\)"),
        ({"select": lambda found: "tokens"}, "got a str .*picks the tokens"),
        ({"select": lambda found: found[:, :100]}, "199 tokens, got 100 .check patch and input"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(DistcorrError, match=message):
        PatchTokens(SmallViT(), **{"input_size": 112, "patch": 8, "prefix_tokens": 3, **options})


def test_weights_are_part_of_the_identity():
    def arrays(seed):
        extractor = PatchTokens(SmallViT(seed), 112, 8, prefix_tokens=3)
        return Plugin(extractor, "vit").identity("vit")["arrays"]

    assert arrays(0) == arrays(0) != arrays(1)


def test_timm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DistcorrError, match=r"needs the package timm.*pip install timm"):
        timm_vit("vit_small_patch14_dinov2", 224)


def test_what_timm_says_of_a_model_is_used(monkeypatch):
    model = SmallViT()
    model.patch_embed = SimpleNamespace(patch_size=(8, 8))
    model.num_prefix_tokens = 3
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    timm = SimpleNamespace(create_model=lambda name, **options: model)
    monkeypatch.setitem(sys.modules, "timm", timm)
    extractor = timm_vit("small", 112)
    assert extractor.geometry.cells == 14
    by_hand = PatchTokens(model, 112, 8, 3, mean=(0.5,) * 3, std=(0.5,) * 3)
    image = np.full((1, 112, 112, 3), 200, np.uint8)
    np.testing.assert_array_equal(extractor(image), by_hand(image))

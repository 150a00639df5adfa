"""Receptive fields by probing, against layer arithmetic; effective ones, against convolutions."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from distcorr.algorithms import nets
from distcorr.algorithms.effective import effective, effective_side, pink_noise
from distcorr.algorithms.extractors import build
from distcorr.algorithms.geometry import chain
from distcorr.algorithms.receptive import derive
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.types import Geometry


def conv(kernel, stride=1, pad=0, dilation=1, channels=(3, 4)):
    torch.manual_seed(0)
    return nn.Conv2d(*channels, kernel, stride, pad, dilation).eval()


def narrow(layers):
    """The network's spatial layers at a fraction of the width: the same geometry, less work."""
    spatial = [layer for layer in layers if not isinstance(layer, nets.Linear)]
    layers = [
        layer._replace(out=layer.out // 48 * 2)
        if isinstance(layer, nets.Conv)
        else layer._replace(squeeze=layer.squeeze // 16, expand=layer.expand // 16)
        if isinstance(layer, nets.Fire)
        else layer
        for layer in spatial
    ]
    modules, _ = nets.skeleton(layers, 227)
    rng = np.random.default_rng(0)
    weights = {
        key.replace(".", "/", key.count(".") - 1): rng.standard_normal(tuple(value.shape))
        for key, value in modules.state_dict().items()
    }
    return nets.Network(layers, {k: v.astype(np.float32) / 9 for k, v in weights.items()})


# -- theoretical ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "taps"),
    [
        (nets.CAFFENET, ["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"]),
        (nets.ALEXNET, ["norm2", "conv5"]),
        (nets.SQUEEZENET, ["conv1", "pool4", "fire8", "pool9", "conv_final"]),
    ],
)
def test_the_caffe_networks(layers, taps):
    net = narrow(layers)
    for tap in taps:
        assert derive(lambda x, tap=tap: net(x, [tap])[tap], 227) == net.geometry(tap, 227)


@pytest.mark.parametrize("tap", ["block1", "block10"])
def test_same_padding_of_efficientnet(tap):
    backbone = build("efficientnet-lite0", load_weights("", "efficientnet-lite0").arrays)
    assert derive(lambda x: backbone._net(x, [tap])[tap], 224) == backbone.geometry(tap)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 2)),
        min_size=1,
        max_size=3,
    ),
    st.integers(60, 80),
)
def test_random_chains(steps, size):
    steps = [(kernel, stride, min(pad, kernel // 2)) for kernel, stride, pad in steps]
    expected = chain(steps, size)
    assume(expected.cells > 3 and expected.stride <= expected.rf)
    channels = [(3, 2), *[(2, 2)] * len(steps)]
    net = nn.Sequential(*(conv(*s, channels=c) for s, c in zip(steps, channels, strict=False)))
    assert derive(net.eval(), size) == expected


def test_dilation_and_pooling_by_hand():
    # 3x3 dilated by 4 spans 9; stride 2, then 2x2 average pooling at stride 2 adds 2.
    net = nn.Sequential(conv(3, 2, 4, dilation=4), nn.ReLU(), nn.AvgPool2d(2)).eval()
    assert derive(net, 64) == Geometry(64, 4, 1.0, 11, 16)


def test_uneven_padding_shifts_the_field():
    net = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv(3, 2))
    assert derive(net, 32) == Geometry(32, 2, 1.0, 3, 16)


def test_zero_weights_still_see():
    layer = conv(5)
    nn.init.zeros_(layer.weight)
    assert derive(layer, 20).rf == 5


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU6(), nn.Threshold(0, 0), nn.Hardswish(), nn.GELU(), nn.Hardtanh(), nn.Softshrink()],
)
def test_activations_keep_nan(activation):
    net = nn.Sequential(conv(3, 2, 1), activation, nn.MaxPool2d(3, 2, 1)).eval()
    assert derive(net, 40) == Geometry(40, 4, 0.0, 7, 10)


def test_a_field_wider_than_the_input_is_measured_on_a_larger_one():
    net = nn.Sequential(*(conv(7, 1, 3, channels=(3, 3)) for _ in range(4)), nn.AvgPool2d(4))
    expected = chain([*[(7, 1, 3)] * 4, (4, 4, 0)], 12)
    assert expected.rf == 28
    assert derive(net, 12) == expected
    assert derive(net, 12, probe_size=60) == expected


def test_what_sees_everything_tiles_the_input():
    def attention(x):
        tokens = functional.avg_pool2d(x, 8)
        return tokens + tokens.mean(dim=(2, 3), keepdim=True)

    assert derive(attention, 64) == Geometry(64, 8, 3.5, 64, 8)
    with pytest.raises(DistcorrError, match=r"8 cells do not tile 70 px: 8.75 px each"):
        derive(attention, 70)


def test_a_network_of_one_size_is_taken_to_tile_it():
    layers = nn.Sequential(*(conv(7, 1, 3, channels=(3, 3)) for _ in range(4)), nn.AvgPool2d(4))

    def net(x):
        assert x.shape[-1] == 12
        return layers(x)

    assert derive(net, 12) == Geometry(12, 4, 1.5, 12, 3)
    with pytest.raises(AssertionError):
        derive(net, 12, probe_size=60)


def test_upsampled_maps_have_no_common_stride():
    net = nn.Sequential(conv(3, 4, 1), nn.Upsample(scale_factor=2))
    with pytest.raises(DistcorrError, match="common whole stride, but their fields begin at px"):
        derive(net, 64)


def test_axes_must_agree():
    layer = nn.Conv2d(3, 2, (3, 5), padding=(1, 2)).eval()
    with pytest.raises(DistcorrError, match=r"alike on both axes.*rf=5.* along x.*rf=3.* along y"):
        derive(layer, 24)


def test_training_mode_is_refused_before_it_spoils_the_statistics():
    net = nn.Sequential(conv(3), nn.BatchNorm2d(4))
    with pytest.raises(DistcorrError, match=r"training mode \(call module.eval\(\) first\)"):
        derive(net, 20)
    assert torch.equal(net[1].running_mean, torch.zeros(4))
    assert derive(nn.Sequential(net[0], net[1].eval()), 20).rf == 3  # whatever the wrapper's mode
    with pytest.raises(DistcorrError, match="images of a batch must not touch"):
        derive(lambda x: functional.batch_norm(x, None, None, training=True), 20)


def test_lost_nan_is_noticed():
    first, second = conv(3, 2, 1), conv(7, 2, 3)
    with pytest.raises(DistcorrError, match="must make the middle cell NaN"):
        derive(lambda x: torch.where(first(x) > 0, first(x), 0), 32)
    with pytest.raises(DistcorrError, match="must not see beyond its field, found to be 3 px"):
        derive(lambda x: first(x) + second(x).nan_to_num(0), 32)


@pytest.mark.parametrize(
    ("module", "got"),
    [
        (lambda x: x.mean(dim=(2, 3)), r"\(2, 3\)"),
        (lambda x: {"maps": x}, "dict"),
        (lambda x: x[..., :10, :], r"\(2, 3, 10, 20\)"),
    ],
)
def test_a_network_must_give_a_map(module, got):
    with pytest.raises(DistcorrError, match=rf"square map \(B, C, h, h\), got {got}"):
        derive(module, 20)


# -- effective ------------------------------------------------------------------------------


def test_uniform_weights_give_uniform_energy():
    layer = conv(5, channels=(3, 1))
    nn.init.ones_(layer.weight)
    energy = effective(layer, chain([(5, 1, 0)], 15), torch.zeros(1, 3, 15, 15), projections=1)
    expected = np.zeros((15, 15))
    expected[5:10, 5:10] = 1 / 25
    np.testing.assert_allclose(energy, expected, atol=1e-12)
    assert effective_side(energy, 1) == 5
    assert effective_side(energy, 9 / 25) == 3
    assert effective_side(energy, 0.9) == 5


def test_a_linear_chain_is_its_convolved_kernels():
    from scipy.signal import convolve2d

    layers = [conv(3, 1, 1, channels=(1, 1)) for _ in range(3)]
    net = nn.Sequential(conv(1, channels=(3, 1)), *layers)
    kernel = np.ones((1, 1))
    for layer in layers:
        kernel = convolve2d(kernel, layer.weight.detach().numpy()[0, 0])
    energy = effective(net, chain([(3, 1, 1)] * 3, 21), torch.randn(2, 3, 21, 21), projections=2)
    expected = np.pad(kernel**2 / np.sum(kernel**2), 7)
    np.testing.assert_allclose(energy, expected, atol=1e-6)


def test_random_signs_sum_over_channels():
    layer = conv(3, channels=(3, 4))
    exact = layer.weight.detach().square().sum(dim=(0, 1)).numpy()
    energy = effective(layer, chain([(3, 1, 0)], 3), torch.zeros(1, 3, 3, 3), projections=1500)
    np.testing.assert_allclose(energy, exact / exact.sum(), atol=0.015)


def test_the_map_is_centred_on_its_cell_also_between_pixels():
    # Average of 4 px at stride 4: cell 2 of 5 is centred on 9.5 = the middle of 20 px; of 22, not.
    for size, side in ((20, 20), (22, 24)):
        geometry = chain([(4, 4, 0)], size)
        images = torch.zeros(1, 3, size, size)
        energy = effective(lambda x: functional.avg_pool2d(x, 4), geometry, images)
        assert energy.shape == (side, side)
        np.testing.assert_allclose(energy, energy[::-1, ::-1])
        assert effective_side(energy, 1) == 4


def test_effective_is_within_theoretical_and_repeatable():
    net = narrow(nets.CAFFENET)
    sides = []
    for tap in ("conv1", "conv3", "conv5"):
        geometry = net.geometry(tap, 259)
        images = torch.from_numpy(pink_noise(2, 259)).permute(0, 3, 1, 2).float() - 127

        def features(x, tap=tap):
            return net(x, [tap])[tap]

        energy = effective(features, geometry, images)
        assert energy.sum() == pytest.approx(1)
        assert effective_side(energy, 1) <= geometry.rf
        np.testing.assert_array_equal(energy, effective(features, geometry, images))
        sides.append(effective_side(energy))
    assert sides == sorted(sides)
    assert sides[-1] < 0.8 * geometry.rf  # Luo et al.: a fraction of the theoretical one


def test_effective_says_what_does_not_fit():
    geometry = chain([(3, 1, 0)], 9)
    with pytest.raises(DistcorrError, match=r"must be \(n, 3, 9, 9\).*got \(1, 3, 8, 8\)"):
        effective(conv(3), geometry, torch.zeros(1, 3, 8, 8))
    with pytest.raises(DistcorrError, match=r"must be \(B, C, 7, 7\).*got \(1, 4, 5, 5\)"):
        effective(conv(5), geometry, torch.zeros(1, 3, 9, 9))
    with pytest.raises(DistcorrError, match="no finite gradient that is not zero"):
        effective(lambda x: conv(3)(x) * 0, geometry, torch.zeros(1, 3, 9, 9))


# -- images ---------------------------------------------------------------------------------


def test_pink_noise_has_the_spectrum_of_photographs():
    images = pink_noise(8, 128)
    assert images.shape == (8, 128, 128, 3)
    assert images.dtype == np.uint8
    assert images.mean() == pytest.approx(127.5, abs=2)
    amplitude = np.abs(np.fft.rfft2(images.mean(-1))).mean(0)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(128), np.fft.fftfreq(128)))
    band = (frequency > 0.02) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[band]), np.log(amplitude[band]), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


def test_pink_noise_depends_on_seed_and_number_alone():
    np.testing.assert_array_equal(pink_noise(3, 32, 5)[:2], pink_noise(2, 32, 5))
    assert (pink_noise(1, 32, 5) != pink_noise(1, 32, 6)).any()
    assert pink_noise(1, 33).shape == (1, 33, 33, 3)

"""The networks: Table 1, Caffe's own activations, and what happens with the wrong weights."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from distcorr.algorithms import nets
from distcorr.algorithms.nets import ALEXNET, CAFFENET, SQUEEZENET, Network, geometry, skeleton
from distcorr.errors import DistcorrError

SMALL = (
    nets.Conv("conv1", 6, 3, stride=2),
    nets.Pool("pool1"),
    nets.Norm("norm1"),
    nets.Fire("fire2", 2, 4),
    nets.Pool("pool2", side=True),
    nets.Conv("conv3", 10, 3, pad=1, groups=2),
    nets.Linear("fc4", 7),
)


def arrays_of(layers, input_size=227, value=None, seed=0):
    """Random arrays of the right shapes, or all of one value with zero biases."""
    random = np.random.default_rng(seed)
    modules, _ = skeleton(layers, input_size)
    arrays = {}
    for key, tensor in modules.state_dict().items():
        name = key.replace(".", "/", key.count(".") - 1)
        if value is None:
            arrays[name] = random.normal(0, 0.2, tuple(tensor.shape)).astype(np.float32)
        else:
            fill = 0.0 if name.endswith("bias") else value
            arrays[name] = np.full(tuple(tensor.shape), fill, np.float32)
    return arrays


# -- layer lists ----------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [CAFFENET, ALEXNET], ids=["caffenet", "alexnet"])
def test_table_1(layers):
    taps = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")
    found = [(geometry(layers, t, 227).rf, geometry(layers, t, 227).stride) for t in taps]
    assert found == [(11, 4), (51, 8), (99, 16), (131, 16), (163, 16), (195, 32)]


@pytest.mark.parametrize("tap", ["conv3", "conv4", "conv5"])
def test_cells_and_offset_of_conv3_to_conv5(tap):
    for size, cells in ((227, 13), (500, 30)):
        found = geometry(CAFFENET, tap, size)
        assert (found.offset, found.cells) == (17, cells)


@pytest.mark.parametrize("layers", [CAFFENET, ALEXNET, SQUEEZENET])
@pytest.mark.parametrize("size", [227, 251])
def test_the_modules_give_as_many_cells_as_the_geometry_says(layers, size):
    _, shapes = skeleton(layers, size)
    for tap, shape in shapes.items():
        if len(shape) == 3:
            assert shape[1:] == (geometry(layers, tap, size).cells,) * 2


def test_parameter_count_of_the_whole_caffenet():
    modules, shapes = skeleton(CAFFENET, 227)
    assert sum(p.numel() for p in modules.parameters()) == 60_965_224
    assert all(p.is_meta for p in modules.parameters())
    assert shapes["fc7"] == (4096,)


def test_squeezenet_shapes():
    _, shapes = skeleton(SQUEEZENET, 227)
    assert shapes["pool8"] == shapes["fire9"] == (512, 13, 13)
    assert shapes["pool9"] == (512, 6, 6)
    assert shapes["conv_final"] == (1000, 15, 15)  # its pool9 stands aside


@pytest.mark.parametrize("layers", [CAFFENET, ALEXNET, SQUEEZENET])
def test_rows_and_columns_follow_the_geometry_at_any_size(layers):
    sizes = [(500, 375), (333, 500), (500, 500), (227, 227), (67, 300), (91, 68), (100, 131)]
    with torch.device("meta"):
        modules, _ = skeleton(layers, 227)
        for height, width in sizes:
            x = torch.empty(1, 3, height, width)
            for layer in layers:
                if isinstance(layer, nets.Linear):
                    break
                y = modules[layer.name](x)
                cells = [geometry(layers, layer.name, side).cells for side in (height, width)]
                assert list(y.shape[2:]) == cells, (layer.name, height, width)
                x = x if nets._is_side(layer) else y


@pytest.mark.parametrize("layers", [CAFFENET, SQUEEZENET])
def test_where_the_geometry_refuses_a_size_the_modules_do_too(layers):
    with torch.device("meta"):
        modules, _ = skeleton(layers, 227)
        for side in range(1, 100):
            x = torch.empty(1, 3, side, side)
            for layer in layers:
                if isinstance(layer, nets.Linear):
                    break
                try:
                    y = modules[layer.name](x)
                except RuntimeError:
                    with pytest.raises(DistcorrError, match="too small"):
                        geometry(layers, layer.name, side)
                    if not nets._is_side(layer):
                        break
                    continue
                assert y.shape[2] == geometry(layers, layer.name, side).cells
                x = x if nets._is_side(layer) else y


def test_geometry_of_a_fully_connected_layer_is_refused():
    with pytest.raises(DistcorrError, match=r"'fc7' has no cells in space; these have: conv1"):
        geometry(CAFFENET, "fc7", 227)


def test_receptive_field_of_conv3_by_gradient():
    # Positive weights, and a ramp so small that normalisation is the identity. A max pool passes
    # the gradient to the largest of its inputs: the rising ramp shows where the field ends, the
    # falling one where it begins.
    net = Network(CAFFENET[:7], arrays_of(CAFFENET[:7], value=1e-3))
    ramp = torch.linspace(1e-3, 1, 227)
    expected = geometry(CAFFENET, "conv3", 227)
    centre = int(expected.offset + 6 * expected.stride)
    ends = []
    for rising in (ramp, ramp.flip(0)):
        x = (rising[:, None] + rising[None, :]).expand(1, 3, -1, -1).clone().requires_grad_()
        net(x, ["conv3"])["conv3"][0, 0, 6, 6].backward()
        rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
        assert rows.unique().tolist() == columns.unique().tolist()
        ends.append((int(rows.min()), int(rows.max())))
    assert max(last for _, last in ends) == centre + expected.rf // 2
    assert min(first for first, _ in ends) == centre - expected.rf // 2


# -- running --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [1, 2, 5, 17])
def test_local_response_norm_agrees_with_torch(channels, memory_format):
    x = 300 * torch.rand(2, channels, 5, 7, generator=torch.Generator().manual_seed(1))
    x = x.to(memory_format=memory_format)
    expected = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(x)
    torch.testing.assert_close(nets.local_response_norm(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 96, 5, 7), (1, 7, 1, 1), (3, 1, 4, 2), (0, 6, 3, 3)])
def test_the_kernel_of_a_cpu_is_the_definition_in_float64(shape):
    x = 300 * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    x = x.contiguous(memory_format=torch.channels_last)
    squares = np.pad(x.numpy().astype(np.float64) ** 2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + shape[1]] for i in range(5))
    before, found = x.clone(), nets.local_response_norm(x)
    expected = x.numpy() / (1 + 1e-4 / 5 * total) ** 0.75
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert torch.equal(x, before)  # it may be a tap
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_has_a_gradient():
    x = torch.rand(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(nets.local_response_norm, (200 * x,))


def test_normalisation_of_bfloat16_sums_in_float32():
    x = 200 * torch.rand(2, 96, 4, 4, generator=torch.Generator().manual_seed(3))
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    found, expected = nets._Norm()(x), nets.local_response_norm(x.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=0, atol=0)


def test_forward_stops_at_the_deepest_tap():
    net = Network(SMALL, arrays_of(SMALL, 31), 31)
    net.body["conv3"].forward = None  # would fail if it ran
    assert list(net(torch.rand(1, 3, 31, 31), ["fire2", "conv1"])) == ["fire2", "conv1"]


def test_a_side_pool_does_not_feed_the_next_layer():
    net = Network(SMALL, arrays_of(SMALL, 31), 31)
    found = net(torch.rand(1, 3, 31, 31), ["fire2", "pool2", "conv3"])
    assert found["pool2"].shape[-1] == 3
    assert found["conv3"].shape[-2:] == found["fire2"].shape[-2:] == (7, 7)


def test_taps_are_after_the_relu_and_fully_connected_layers_read_channels_first():
    arrays = arrays_of(SMALL, 31)
    found = Network(SMALL, arrays, 31)(torch.rand(2, 3, 31, 31), ["conv3", "fc4"])
    assert found["conv3"].min() == 0 < found["conv3"].max()
    flat = found["conv3"].contiguous().numpy().reshape(2, -1)
    expected = np.maximum(flat @ arrays["fc4.weight"].T + arrays["fc4.bias"], 0)
    np.testing.assert_allclose(found["fc4"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_layers_without_arrays_are_not_available():
    arrays = {k: v for k, v in arrays_of(SMALL, 31).items() if k != "conv3.weight"}
    assert list(Network(SMALL, arrays, 31).shapes) == ["conv1", "pool1", "norm1", "fire2", "pool2"]


def test_read_only_arrays_are_welcome():
    arrays = arrays_of(SMALL, 31)
    for array in arrays.values():
        array.flags.writeable = False
    Network(SMALL, arrays, 31)


def test_a_network_survives_pickling():
    net = Network(SMALL, arrays_of(SMALL, 31), 31)
    again, x = pickle.loads(pickle.dumps(net)), torch.rand(1, 3, 31, 31)
    torch.testing.assert_close(again(x, ["fc4"]), net(x, ["fc4"]), rtol=0, atol=0)


def test_wrong_shape_is_the_wrong_network():
    arrays = {"conv2.weight": np.zeros((192, 64, 5, 5), np.float32)}
    message = (
        r"weights of the wrong network: conv2.weight must be \(256, 48, 5, 5\), "
        r"got \(192, 64, 5, 5\)"
    )
    with pytest.raises(DistcorrError, match=message):
        Network(CAFFENET, arrays)


def test_unknown_array_is_the_wrong_network():
    arrays = {"features.0.weight": np.zeros(1, np.float32)}
    with pytest.raises(DistcorrError, match=r"no features.0.weight .* begins with conv1.weight"):
        Network(CAFFENET, arrays)


def test_weights_without_a_first_layer_are_refused():
    arrays = {"conv2.bias": np.zeros(256, np.float32)}
    with pytest.raises(DistcorrError, match=r"lack conv1.weight .* hold conv2.bias") as caught:
        Network(CAFFENET, arrays)
    assert caught.value.exit_code == 3


# -- against Caffe --------------------------------------------------------------------------


def run_like_caffe(folder, layers):
    weights = dict(np.load(folder / "caffenet_conv1-2.npz"))
    stored = dict(np.load(folder / "caffenet_activations.npz"))
    net = Network(layers, weights)
    assert list(net.shapes)[-1] in ("norm2", "pool2")  # conv3 has a bias only
    x = torch.from_numpy(stored["input_bgr"])[None].contiguous(memory_format=torch.channels_last)
    found = net(x, list(net.shapes))
    return {tap: y[0].numpy() for tap, y in found.items()}, stored


@pytest.mark.photos
def test_caffenet_gives_caffes_activations(photos):
    found, stored = run_like_caffe(photos / "weights", CAFFENET)
    assert list(found) == ["conv1", "pool1", "norm1", "conv2", "pool2", "norm2"]
    for tap, values in found.items():
        np.testing.assert_allclose(values, stored[tap], rtol=1e-5, atol=5e-3, err_msg=tap)


@pytest.mark.photos
def test_alexnets_order_does_not_give_caffes_activations(photos):
    found, stored = run_like_caffe(photos / "weights", ALEXNET)
    np.testing.assert_allclose(found["conv1"], stored["conv1"], atol=5e-3)
    assert found["conv2"].shape == stored["conv2"].shape
    assert np.abs(found["conv2"] - stored["conv2"]).max() > 1

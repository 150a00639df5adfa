"""Features at every pixel about a keypoint: against crops, whole photographs and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch

from distcorr.algorithms import dense, extractors, nets
from distcorr.algorithms.concentration import concentration, histogram, peaks
from distcorr.algorithms.dense import inside, responses, scores
from distcorr.algorithms.plugins import Plugin
from distcorr.algorithms.sift import Sift, at_points
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.types import Geometry


def thin(layers):
    """The same geometry with an eighth of the channels."""
    slim = {nets.Conv: ("out",), nets.Fire: ("squeeze", "expand")}
    return tuple(
        layer._replace(**{name: getattr(layer, name) // 8 for name in slim.get(type(layer), ())})
        for layer in layers
        if not isinstance(layer, nets.Linear)
    )


LISTS = {
    "alexnet": thin(nets.ALEXNET),
    "caffenet": thin(nets.CAFFENET),
    "squeezenet": thin(nets.SQUEEZENET),
}
MEAN = np.array([104, 117, 123], np.float32)  # B, G, R: exact in float32, unlike CaffeNet's own


def random_arrays(layers, seed=0):
    """He-scaled weights, and biases that tell one rule for the border from another."""
    random, arrays = np.random.default_rng(seed), {}
    for key, tensor in nets.skeleton(layers, 227)[0].state_dict().items():
        fan_in = max(1, tensor[0].numel())
        spread = (2 / fan_in) ** 0.5 if tensor.ndim > 1 else 5.0
        name = key.replace(".", "/", key.count(".") - 1)
        arrays[name] = random.normal(0, spread, tuple(tensor.shape)).astype(np.float32)
    return arrays


@pytest.fixture(scope="module")
def backbone_of():
    """Name of a thin network, or its layers and arrays -> backbone."""
    with pytest.MonkeyPatch.context() as patch:
        made = {}

        def build(name, layers=None, arrays=None, precision="float32"):
            key = name if layers is None else None
            if key in made and precision == "float32":
                return made[key]
            layers = LISTS[name] if layers is None else layers
            spec = extractors.NetworkSpec(
                227, layers[-1].name, (), tuple(MEAN.tolist()), layers, any_size=True
            )
            patch.setitem(extractors.NETWORKS, "thin", spec)
            arrays = random_arrays(layers) if arrays is None else arrays
            backbone = extractors.build("thin", arrays, precision=precision)
            if key and precision == "float32":
                made[key] = backbone
            return backbone

        yield build


def picture(height, width, seed=0):
    """Smooth noise, so that neighbouring pixels are alike but no two windows are."""
    noise = np.random.default_rng(seed).normal(0, 1, (height + 6, width + 6, 3)).cumsum(0).cumsum(1)
    small = noise[6:, 6:] - noise[:-6, 6:] - noise[6:, :-6] + noise[:-6, :-6]
    return np.clip(small / small.std() * 60 + 128, 0, 255).astype(np.uint8)


def outermost(backbone, tap, size):
    """First and last centre that a cell has when the photograph is cropped to any phase."""
    stride = backbone.geometry(tap).stride
    last = max(c + backbone.geometry(tap, size - c).centres()[-1] for c in range(stride))
    return backbone.geometry(tap, size).offset, last


def naive(backbone, image, xy, tap, radius):
    """The layers with their strides on crops of the size of the receptive field.

    Trimmed where a crop ends, zeros where the whole photograph has no cells.
    """
    half = backbone.geometry(tap).rf // 2
    margin = half + radius + 40
    mean_free = image[..., ::-1].astype(np.float32) - MEAN
    extended = np.pad(mean_free, ((margin, margin), (margin, margin), (0, 0)))
    found = []
    for px, py in xy:
        window = list(itertools.product(range(-radius, radius + 1), repeat=2))
        places = np.add(window, (py, px))
        crops = [
            extended[y - half : y + half + 1, x - half : x + half + 1] for y, x in places + margin
        ]
        y = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            found.append(_trimmed(backbone, y, places - half, image.shape, tap).numpy())
    side = 2 * radius + 1
    return np.stack(found).reshape(len(xy), side, side, -1)


def _trimmed(backbone, y, starts, shape, tap):
    exists = None  # (crops, 1, rows, columns): of y, whether the photograph has such cells
    for layer in backbone._net.layers:
        name = layer.name
        if isinstance(layer, nets.Pool) and layer.side and name != tap:
            continue
        module = backbone._net.body[name]
        if isinstance(layer, nets.Fire):
            y = module.conv1x1_1(y) * exists
            y = torch.cat([module.conv1x1_2(y), module.conv3x3_2(y)], dim=1)
        else:
            y = module(y)
        trim = 1 if isinstance(layer, nets.Fire) else getattr(layer, "pad", 0)
        y = y[:, :, trim : y.shape[2] - trim, trim : y.shape[3] - trim]
        if name == tap:
            assert y.shape[2:] == (1, 1)
            return y[:, :, 0, 0]
        geometry = backbone.geometry(name)
        cells = geometry.rf // 2 + geometry.stride * np.arange(y.shape[2])
        masks = []
        for axis in (0, 1):
            first, last = outermost(backbone, name, shape[axis])
            centres = starts[:, axis, None] + cells
            masks.append((centres >= first) & (centres <= last))
        exists = torch.from_numpy(masks[0][:, None, :, None] & masks[1][:, None, None, :])
        y = y * exists
    raise AssertionError(tap)


# even and odd, near each other, far apart, at the border, in the corners, outside
PLACES = [(80, 60), (81, 60), (83, 67), (150, 91), (0, 50), (209, 149), (3, 147), (-7, 160)]
SPATIAL = [
    *((name, f"conv{i}") for name in ("alexnet", "caffenet") for i in range(1, 6)),
    *(("alexnet", tap) for tap in ("pool1", "norm1", "pool2", "norm2", "pool5")),
    *(("squeezenet", tap) for tap in ("conv1", "fire3", "pool4", "fire9", "pool9", "conv_final")),
]


# -- networks -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tap"), SPATIAL)
def test_one_pass_equals_a_crop_per_pixel(backbone_of, name, tap):
    backbone, image = backbone_of(name), picture(150, 210)
    found = responses(backbone, image, PLACES, tap, radius=1)
    expected = naive(backbone, image, PLACES, tap, radius=1)
    assert found.shape == (8, 3, 3, backbone.channels(tap))
    assert found.dtype == np.float32
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_the_paper_s_window_equals_441_crops(backbone_of):
    backbone, image = backbone_of("alexnet"), picture(160, 140)
    found = responses(backbone, image, [(70, 75)], "conv4")
    expected = naive(backbone, image, [(70, 75)], "conv4", 10)
    assert found.shape == (1, 21, 21, 48)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("size", [(230, 301), (211, 187)])  # caught by rounding down and up
@pytest.mark.parametrize(("name", "tap"), SPATIAL)
def test_every_cell_of_a_photograph_has_its_column(backbone_of, name, tap, size):
    backbone, image = backbone_of(name), picture(*size, seed=1)
    rows, columns = (backbone.geometry(tap, length).centres() for length in size)
    step = max(1, 64 // backbone.geometry(tap).stride)
    rows, columns = ({*axis[:2], *axis[2::step], *axis[-2:]} for axis in (rows, columns))
    centres = np.array(list(itertools.product(columns, rows)))
    expected = backbone.columns(image, centres, (tap,))[tap]
    found = responses(backbone, image, centres, tap, radius=0)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize(("name", "tap"), [("alexnet", "conv4"), ("squeezenet", "fire9")])
def test_a_shifted_photograph_has_the_same_columns(backbone_of, name, tap):
    """Cropped at the left and the top by (dx, dy), as the figure's definition has it."""
    backbone, image = backbone_of(name), picture(270, 250, seed=2)
    reach = backbone.geometry(tap).rf // 2
    for dx, dy in [(1, 0), (7, 11), (15, 4)]:
        rows = backbone.geometry(tap, 270 - dy).centres()
        columns = backbone.geometry(tap, 250 - dx).centres()
        rows, columns = rows[rows >= reach], columns[columns >= reach]  # what was cropped is unseen
        centres = np.array(list(itertools.product(columns[-2:], rows[-2:])))  # with the far border
        expected = backbone.columns(image[dy:, dx:], centres, (tap,))[tap]
        found = responses(backbone, image, np.add(centres, (dx, dy)), tap, radius=0)[:, 0, 0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_inside_means_that_what_is_outside_does_not_matter(backbone_of):
    backbone = backbone_of("alexnet")
    image = picture(200, 220)
    reach = 49 + 2  # half of conv3's 99 px, and the radius
    xy = [(reach, reach), (219 - reach, 199 - reach), (reach - 1, 90), (90, 200 - reach)]
    assert inside(backbone, image, xy, "conv3", 2).tolist() == [True, True, False, False]
    larger = np.pad(image, ((9, 9), (9, 9), (0, 0)), mode="edge")
    found = responses(backbone, image, xy, "conv3", 2)
    moved = responses(backbone, larger, np.add(xy, 9), "conv3", 2)
    same = abs(found - moved).max(axis=(1, 2, 3)) <= 1e-5 * abs(found).max()
    assert same.tolist() == [True, True, False, False]


def test_a_keypoint_between_pixels_is_taken_to_the_nearest_the_lower_of_two(backbone_of):
    backbone, image = backbone_of("alexnet"), picture(60, 60)
    whole = responses(backbone, image, [(30, 20), (30, 20), (31, 19)], "conv1", 1)
    between = responses(backbone, image, [(30.5, 20.4), (29.6, 19.51), (30.51, 19.5)], "conv1", 1)
    np.testing.assert_array_equal(between, whole)


def test_a_photograph_smaller_than_the_receptive_field(backbone_of):
    backbone, image = backbone_of("alexnet"), picture(60, 50)
    found = responses(backbone, image, [(10, 12), (30, 30)], "conv5", 1)
    expected = naive(backbone, image, [(10, 12), (30, 30)], "conv5", 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_without_cells_in_sight_there_is_only_the_bias(backbone_of):
    backbone = backbone_of("alexnet")
    bias = np.maximum(random_arrays(LISTS["alexnet"])["conv5.bias"], 0)
    far = responses(backbone, picture(90, 90), [(10**6, -(10**6))], "conv5", 1)
    tiny = responses(backbone, picture(9, 14), [(4, 4)], "conv5", 1)
    for found in (far, tiny):
        np.testing.assert_allclose(found, np.broadcast_to(bias, found.shape), rtol=1e-5)


def test_bfloat16_comes_close(backbone_of):
    image = picture(100, 100)
    exact = responses(backbone_of("alexnet"), image, [(50, 50)], "conv4", 1)
    rough = responses(backbone_of("alexnet", precision="bfloat16"), image, [(50, 50)], "conv4", 1)
    assert rough.dtype == np.float32
    assert 0 < np.linalg.norm(exact - rough) < 0.03 * np.linalg.norm(exact)


# -- where things are -----------------------------------------------------------------------


def dot_at(x, y, size=260):
    image = np.broadcast_to(MEAN[::-1].astype(np.uint8), (size, size, 3)).copy()
    image[y, x] = 255
    return image


def test_a_copied_pixel_is_found_where_it_is(backbone_of):
    layers = LISTS["alexnet"][:1]
    weight = np.zeros((12, 3, 11, 11), np.float32)
    weight[0, :, 5, 5] = 1
    arrays = {"conv1.weight": weight, "conv1.bias": np.zeros(12, np.float32)}
    copy = backbone_of("alexnet", layers, arrays)
    for x, y in [(40, 30), (41, 30), (38, 39)]:
        found = responses(copy, dot_at(x, y), [(40, 30)], "conv1")[..., 0]
        assert np.flatnonzero(found).tolist() == [(10 + y - 30) * 21 + 10 + x - 40]


def test_a_symmetric_network_answers_a_dot_symmetrically(backbone_of):
    """So no layer moves the response; a dilation or margin that is off by one would."""
    arrays = random_arrays(LISTS["alexnet"])
    arrays = {k: v + v[..., ::-1, ::-1] if v.ndim == 4 else v for k, v in arrays.items()}
    backbone = backbone_of("alexnet", LISTS["alexnet"], arrays)
    for tap in ("conv2", "conv5", "pool5"):
        found = responses(backbone, dot_at(131, 126), [(131, 126)], tap)
        assert found.std(axis=(1, 2)).max() > 0
        np.testing.assert_allclose(found, found[:, ::-1, ::-1], atol=1e-5 * abs(found).max())


@pytest.mark.parametrize("tap", ["conv3", "conv4", "conv5"])
def test_a_classifier_of_a_dot_peaks_at_the_dot_and_follows_it(backbone_of, tap):
    backbone, here = backbone_of("alexnet"), (128, 133)
    columns = responses(backbone, dot_at(*here), [here], tap)[0].reshape(441, -1)
    label = np.zeros(441)
    label[220] = 1
    centred = columns - columns.mean(axis=0)
    ridge = 1e-4 * np.mean(centred**2) * len(centred)
    normal = centred.T @ centred + ridge * np.eye(columns.shape[1])
    weights = np.linalg.solve(normal, centred.T @ (label - label.mean()))[None]
    for dx, dy in [(0, 0), (1, 0), (0, 1), (-1, 0), (-3, 5)]:
        image = dot_at(here[0] + dx, here[1] + dy)
        found = scores(backbone, image, [here], tap, weights, np.zeros(1))[..., 0]
        assert peaks(found).tolist() == [[dy, dx]]


# -- sharing of passes ----------------------------------------------------------------------


def test_sharing_a_pass_changes_nothing(backbone_of):
    backbone, image = backbone_of("alexnet"), picture(170, 240)
    xy = np.random.default_rng(3).uniform(0, (240, 170), (25, 2))
    together = responses(backbone, image, xy, "conv3", 2)
    apart = np.concatenate([responses(backbone, image, [point], "conv3", 2) for point in xy])
    np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5 * abs(apart).max())


def test_passes_are_shared_where_it_saves_and_stay_small(backbone_of):
    net = backbone_of("alexnet")
    network = dense._StrideFree(net._net, "conv5", 163)
    near = np.array([(100, 100), (130, 90), (110, 120)])
    far = np.array([(0, 0), (2000, 0), (0, 2000)])
    assert dense._groups(near, 21, network) == [[0, 1, 2]]
    assert dense._groups(far, 21, network) == [[0], [1], [2]]
    many = np.random.default_rng(0).integers(0, 400, (300, 2))
    groups = dense._groups(many, 21, network)
    assert sorted(itertools.chain(*groups)) == list(range(300))
    sizes = [np.ptp(many[members], axis=0) + 21 for members in groups]
    assert np.max(sizes) <= 128
    assert sum(network.cost(*size.tolist()) for size in sizes) < 300 * network.cost(21, 21) / 4


def test_cost_counts_multiplications(backbone_of):
    network = dense._StrideFree(backbone_of("alexnet")._net, "conv2", 51)
    conv1 = (3 * 121 * 12 + 12) * (7 + 40) * (9 + 40)  # with biases; 51 px less the kernel's 11
    conv2 = (6 * 25 * 32 + 32) * 7 * 9
    assert network.cost(7, 9) == conv1 + conv2


@pytest.mark.parametrize("tap", ["conv3", "sift20"])
def test_scores_are_a_product_with_the_responses(backbone_of, tap):
    source = Sift() if tap == "sift20" else backbone_of("alexnet")
    image, random = picture(90, 120), np.random.default_rng(0)
    weights = random.normal(size=(4, source.channels(tap)))
    bias = random.normal(size=4)
    xy = [(40.3, 50), (60, 20), (110, 80)]
    found = scores(source, image, xy, tap, weights, bias, 3)
    expected = responses(source, image, xy, tap, 3) @ weights.T + bias
    assert found.shape == (3, 7, 7, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())


# -- other sources --------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [True, False])
def test_sift_is_exact_between_pixels(smooth):
    image, xy = picture(80, 100), np.array([(40.25, 30.5), (3.1, 77.9)])
    found = responses(Sift(smooth=smooth), image, xy, "sift10", 4)
    for number, dy, dx in [(0, 0, 0), (0, -4, 3), (1, 4, -4), (1, 1, 2)]:
        expected = at_points(image, [xy[number] + (dx, dy)], 10, smooth)[0]
        np.testing.assert_allclose(found[number, 4 + dy, 4 + dx], expected, atol=1e-3)


class Colours:
    """Gives the pixel at each cell's centre, or above and to the left of it; counts the images."""

    channels = 3

    def __init__(self, size, stride, offset):
        cells = (size - 1 - math.floor(offset)) // stride + 1
        self.geometry, self.seen = Geometry(size, stride, offset, 1, cells), 0

    def __call__(self, images):
        self.seen += len(images)
        at = np.floor(self.geometry.centres()).astype(int)
        return images[:, at][:, :, at].astype(np.float32)


@pytest.mark.parametrize(("stride", "offset"), [(1, 0), (4, 2), (5, 2), (7, 0), (16, 15)])
def test_an_extractor_sees_shifted_photographs(stride, offset):
    image = picture(64, 64)
    extractor = Colours(64, stride, offset)
    xy = np.array([(30, 31), (12, 40), (12, 41), (63, 0), (-2, 70)])
    source = Plugin(extractor, "colours")
    found = responses(source, image, xy, "colours", 9)
    side = np.arange(-9, 10)
    for (x, y), window in zip(xy, found, strict=True):
        rows, columns = np.clip(y + side, 0, 63), np.clip(x + side, 0, 63)  # edges are repeated
        np.testing.assert_array_equal(window, image[rows[:, None], columns])
    extractor.seen = 0
    responses(source, image, [(30, 31), (34, 27)], "colours", 9)
    assert extractor.seen <= stride**2


def test_centres_between_pixels_answer_for_the_pixel_below_and_to_the_right():
    image = picture(56, 56)
    source = Plugin(Colours(56, 14, 6.5), "colours")  # as patches of 14 px have them
    found = responses(source, image, [(30, 20)], "colours", 3)
    # The centre lies half a pixel before the pixel that it answers for, and shows that before it.
    np.testing.assert_array_equal(found[0], image[16:23, 26:33])


def test_an_extractor_and_a_network_without_padding_agree(backbone_of):
    layers = tuple(
        layer._replace(pad=0) if isinstance(layer, nets.Conv) else layer
        for layer in LISTS["alexnet"][:7]
    )
    backbone = backbone_of("alexnet", layers, random_arrays(layers))

    class Wrapped:
        geometry, channels = backbone.geometry("conv3", 227), backbone.channels("conv3")

        def __call__(self, images):
            return backbone(images, ("conv3",))["conv3"]

    image, xy = picture(227, 227), [(110, 121), (90, 83)]
    expected = responses(backbone, image, xy, "conv3", 2)
    found = responses(Plugin(Wrapped(), "wrapped"), image, xy, "wrapped", 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_efficientnet_is_shifted():
    source = extractors.build("efficientnet-lite0", load_weights("", "efficientnet-lite0").arrays)
    image, geometry = picture(224, 224), source.geometry("block4")
    x, y = geometry.centres()[[12, 9]]
    found = responses(source, image, [(x, y)], "block4", 1)
    there = source.columns(image, [(x, y)], ("block4",))["block4"][0]
    np.testing.assert_allclose(found[0, 1, 1], there, rtol=0, atol=1e-4 * abs(there).max())
    right = np.concatenate([image[:, 1:], image[:, -1:]], axis=1)  # what was right of it comes here
    there = source.columns(right, [(x, y)], ("block4",))["block4"][0]
    np.testing.assert_allclose(found[0, 1, 2], there, rtol=0, atol=1e-4 * abs(there).max())
    with pytest.raises(DistcorrError, match="no cells in space"):
        responses(source, image, [(x, y)], "fc", 1)
    with pytest.raises(DistcorrError, match="needs an input of 224 x 224 px"):
        responses(source, picture(200, 224), [(x, y)], "block4", 1)


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("tap", ["conv2", "sift20"])
def test_no_keypoints_no_windows(backbone_of, tap):
    source = Sift() if tap == "sift20" else backbone_of("alexnet")
    empty, channels = np.empty((0, 2)), source.channels(tap)
    assert responses(source, picture(50, 50), empty, tap, 2).shape == (0, 5, 5, channels)
    weights = np.zeros((2, channels))
    assert scores(source, picture(50, 50), empty, tap, weights, [0, 0], 2).shape == (0, 5, 5, 2)
    assert inside(source, picture(50, 50), empty, tap, 2).shape == (0,)
    plugin = Plugin(Colours(20, 4, 1), "colours")
    assert responses(plugin, picture(20, 20), empty, "colours", 2).shape == (0, 5, 5, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"xy": [(1, np.nan)]}, "finite"),
        ({"xy": [1, 2]}, "xy must be"),
        ({"radius": -1}, "radius must be"),
        ({"image": np.zeros((9, 9, 3))}, "uint8 RGB"),
        ({"image": np.zeros((9, 9), np.uint8)}, "uint8 RGB"),
        ({"image": np.zeros((0, 9, 3), np.uint8)}, "uint8 RGB"),
        ({"tap": "conv9"}, "no layer 'conv9'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(backbone_of, change, words):
    arguments = {"image": picture(50, 50), "xy": [(1, 1)], "tap": "conv1", "radius": 1} | change
    with pytest.raises(DistcorrError, match=words):
        responses(backbone_of("alexnet"), **arguments)


def test_fully_connected_layers_are_refused(backbone_of):
    layers = (nets.Conv("conv1", 4, 11, stride=4), nets.Linear("fc7", 5))
    backbone = backbone_of("alexnet", layers, random_arrays(layers))
    with pytest.raises(DistcorrError, match="no cells in space"):
        responses(backbone, picture(227, 227), [(9, 9)], "fc7", 1)


@pytest.mark.parametrize(("weights", "bias"), [((2, 11), (2,)), ((2, 12), (3,)), ((12,), (1,))])
def test_classifiers_of_another_shape_are_refused(backbone_of, weights, bias):
    with pytest.raises(DistcorrError, match=r"weights must be \(K, 12\)"):
        scores(
            backbone_of("alexnet"),
            picture(50, 50),
            [(9, 9)],
            "conv1",
            np.zeros(weights),
            np.zeros(bias),
            1,
        )


# -- Figure 4's measures --------------------------------------------------------------------


def test_peaks_by_brute_force():
    squares = np.random.default_rng(0).normal(size=(300, 7, 7)).astype(np.float32)
    found = peaks(squares)
    for square, (dy, dx) in zip(squares, found, strict=True):
        best = max(
            itertools.product(range(-3, 4), repeat=2), key=lambda d: square[d[0] + 3][d[1] + 3]
        )
        if 3 in map(abs, best):
            assert np.isnan([dy, dx]).all()
        else:
            assert (dy, dx) == best
    share = np.isnan(found[:, 0]).mean()
    assert abs(share - 24 / 49) < 0.1


def test_80_of_the_441_positions_are_dropped():
    squares = np.eye(441).reshape(441, 21, 21)
    found = peaks(squares)
    assert np.isnan(found).any(axis=1).sum() == 80
    counts = histogram(found, 10)
    assert counts[1:-1, 1:-1].tolist() == np.ones((19, 19), int).tolist()
    assert counts.sum() == 361
    assert counts.dtype == np.int64


def test_scores_that_tell_nothing_are_dropped():
    squares = np.zeros((2, 5, 5))
    squares[1, 2, 2], squares[1, 0, 3] = 1, np.nan
    assert np.isnan(peaks(squares)).all()
    assert peaks(np.zeros((0, 5, 5))).shape == (0, 2)


def test_rows_are_dy_and_columns_dx():
    square = np.zeros((1, 21, 21))
    square[0, 10 - 4, 10 + 7] = 1
    assert peaks(square).tolist() == [[-4, 7]]
    assert np.argwhere(histogram(peaks(square), 10)).tolist() == [[6, 17]]


def test_concentration_by_brute_force():
    random = np.random.default_rng(1)
    found = random.integers(-9, 10, (200, 2)).astype(float)
    found[random.random(200) < 0.3] = np.nan
    kept = [math.hypot(*pair) for pair in found if not np.isnan(pair[0])]
    square = [math.hypot(y, x) for y in range(-9, 10) for x in range(-9, 10)]
    result = concentration(found)
    assert result.kept == len(kept)
    assert result.dropped == pytest.approx(1 - len(kept) / 200)
    for index, limit in enumerate((4, 8)):
        expected = sum(d <= limit for d in kept) / len(kept)
        assert result.within[index] == pytest.approx(expected)
        assert result.uniform[index] == sum(d <= limit for d in square) / 361
    assert result.uniform == (49 / 361, 197 / 361)  # Gauss's circle problem: N(4), N(8)
    assert result.median == pytest.approx(np.median(kept))
    assert result.uniform_median == pytest.approx(np.median(square))


def test_uniform_peaks_have_the_uniform_numbers():
    result = concentration(peaks(np.eye(441).reshape(441, 21, 21)))
    assert result.within == result.uniform
    assert result.median == result.uniform_median
    assert result.dropped == 80 / 441


def test_no_peak_is_no_number():
    for nothing in (np.empty((0, 2)), np.full((3, 2), np.nan)):
        result = concentration(nothing)
        assert result.kept == 0
        assert np.isnan([*result.within, result.median]).all()
        assert result.dropped == 1 or len(nothing) == 0
        assert histogram(nothing, 10).sum() == 0


@pytest.mark.parametrize("shape", [(5, 5), (2, 5, 6), (2, 4, 4)])
def test_squares_must_have_a_middle(shape):
    with pytest.raises(DistcorrError, match="scores must be"):
        peaks(np.zeros(shape))


def test_peaks_must_be_pairs():
    with pytest.raises(DistcorrError, match="peaks must be"):
        histogram(np.zeros(4), 10)

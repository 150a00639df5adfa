"""The user's own extractors: loading, the contract, identity, and what the check finds."""

import functools
import importlib.metadata
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

from distcorr.algorithms import plugins
from distcorr.algorithms.batches import SmallerBatchWarning, in_batches
from distcorr.algorithms.effective import pink_noise
from distcorr.algorithms.extractor_check import check_extractor
from distcorr.algorithms.extractors import build
from distcorr.algorithms.plugins import Plugin, load
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.report import catalogue
from distcorr.types import Geometry

GEOMETRY = Geometry(64, 4, 1.5, 4, 16)
MINE = """
    import numpy as np
    import torch
    from distcorr.types import Geometry

    class Blocks:
        geometry = Geometry(64, 4, 1.5, 4, 16)
        channels = 3
        licence = "BSD"

        def __init__(self, device="cpu"):
            self.device = device
            torch.manual_seed(0)
            self.net = torch.nn.Linear(3, 3).requires_grad_(False)

        def __call__(self, images):
            blocks = images.reshape(len(images), 16, 4, 16, 4, 3).astype(np.float32)
            return self.net(torch.from_numpy(blocks.mean(axis=(2, 4))))
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module of a new name into the current folder; gives its name."""
    numbers = itertools.count()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    modules = set(sys.modules)

    def write(source=MINE, name=None):
        name = name or f"mine_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        sys.modules.pop(name, None)
        return name

    yield write
    for name in set(sys.modules) - modules:
        if name.startswith("mine_"):
            del sys.modules[name]


class Blocks:
    """Mean colour of 4 x 4 px blocks, an extractor that is right; options make it wrong."""

    def __init__(self, geometry=GEOMETRY, channels=3, change=lambda maps: maps):
        self.geometry, self.channels, self.change = geometry, channels, change

    def __call__(self, images):
        blocks = images.reshape(len(images), 16, 4, 16, 4, 3).astype(np.float32)
        return self.change(blocks.mean(axis=(2, 4)))


class OfBackbone:
    """One tap of a network that distcorr knows, as a user's extractor."""

    def __init__(self, backbone, tap):
        self.backbone, self.tap = backbone, tap
        self.geometry, self.channels = backbone.geometry(tap), backbone.channels(tap)

    def __call__(self, images):
        return self.backbone(images, [self.tap])[self.tap]


# -- loading --------------------------------------------------------------------------------


def test_a_class_in_the_current_folder(write):
    plugin = load(f"{write()}:Blocks")
    assert (plugin.name, plugin.taps, plugin.input_size) == ("Blocks", ("Blocks",), 64)
    assert (plugin.any_size, plugin.licence, plugin.weights) == (False, "BSD", "")
    assert plugin.channels("Blocks") == 3
    assert plugin.geometry("Blocks") == plugin.geometry("Blocks", 64) == GEOMETRY
    maps = plugin(pink_noise(2, 64), ["Blocks"])["Blocks"]
    assert (maps.shape, maps.dtype) == ((2, 16, 16, 3), np.float32)
    assert check_extractor(plugin) == []


def test_the_device_goes_to_those_who_take_it(write):
    source = MINE + "\n    def plain():\n        return Blocks('as made')\n"
    name = write(source)
    assert load(f"{name}:Blocks", "cuda:1")._extractor.device == "cuda:1"
    assert load(f"{name}:plain", "cuda:1")._extractor.device == "as made"


def test_an_entry_point(write, monkeypatch):
    point = importlib.metadata.EntryPoint("my-blocks.v2", f"{write()}:Blocks", plugins.GROUP)
    found = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **kw: found.select(**kw))
    assert load("my-blocks.v2").taps == ("my-blocks.v2",)
    with pytest.raises(
        DistcorrError, match=r"no extractor 'my-block'. Did you mean 'my-blocks.v2'"
    ):
        load("my-block")


def test_its_own_name_wins(write):
    name = write(MINE.replace('licence = "BSD"', 'name = "Blocks-4px"'))
    assert load(f"{name}:Blocks").taps == ("Blocks-4px",)
    with pytest.raises(DistcorrError, match=r"letters, digits.*got 'a/b'"):
        load(f"{write(MINE.replace('licence', 'name').replace('BSD', 'a/b'))}:Blocks")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module_here:X", "no module 'no_such_module_here' here or installed"),
        ("{}x:Blocks", "Did you mean '{}'"),
        ("{}:Block", "has no 'Block'. Did you mean 'Blocks'"),
        ("{}:GEOMETRY", "must be a class or function that makes an extractor, got a Geometry"),
        ("{}:made", "must be a class or function that makes an extractor, got a Blocks"),
        ("{}:needy", r"needy\(weights\) must be callable with no argument but device"),
        ("{}:empty", "empty: geometry must be a distcorr.types.Geometry, got None"),
    ],
)
def test_what_cannot_be_loaded(write, target, message):
    more = "\n    made = Blocks()\n    GEOMETRY = Blocks.geometry\n    needy = lambda weights: 0\n"
    name = write(MINE + more + "    empty = lambda: 0\n")
    with pytest.raises(DistcorrError, match=message.replace("{}", name)):
        load(target.replace("{}", name))


@pytest.mark.parametrize("where", ["above", "inside"])
def test_a_missing_package_is_named(write, where):
    line = "import no_such_package.models"
    source = (
        f"    {line}\n{MINE}" if where == "above" else MINE.replace("self.device =", f"{line};")
    )
    with pytest.raises(DistcorrError, match="needs the package no_such_package") as error:
        load(f"{write(source)}:Blocks")
    assert error.value.hint == "pip install no_such_package"
    assert error.value.exit_code == 3


def test_another_import_error_is_told(write):
    with pytest.raises(DistcorrError, match="cannot import name 'nothing'"):
        load(f"{write('from math import nothing')}:X")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("def f(:", "f", r"SyntaxError: invalid syntax \({}.py:1\)"),
        ("x = 1\0", "x", "(SyntaxError|ValueError): source code string cannot contain null bytes"),
        ("\n1 / 0", "f", r"ZeroDivisionError: division by zero \({}.py:2\)"),
        ("raise SystemExit(3)", "f", r"SystemExit: 3 \({}.py:1\)"),
        ("def f():\n  raise ValueError('one\\ntwo')", "f", r"ValueError: one \({}.py:2\)"),
        (
            "import json\ndef f():\n  json.loads('')",
            "f",
            r"JSONDecodeError: Expecting value.*\({}.py:3\)",
        ),
        (
            "class F:\n  @property\n  def geometry(self):\n    raise KeyError('k')",
            "F",
            r"KeyError: 'k' \({}.py:4\)",
        ),
        ("class F:\n  geometry = channels = 1\n  name = 1 / 1", "F", "geometry must be a distcorr"),
    ],
)
def test_broken_files_are_told_with_the_line(write, source, target, message):
    name = write(source)
    with pytest.raises(DistcorrError, match=message.replace("{}", name)) as error:
        load(f"{name}:{target}")
    if "geometry must" not in message:
        assert error.value.message.startswith(f"{name}:{target}: ")
        assert error.value.hint == f"mend it there; distcorr features {name}:{target} checks it"


@pytest.mark.parametrize("name", [":X", ".good:X", "good:", "a..b:X", "a:b..c"])
def test_odd_names(name):
    with pytest.raises(DistcorrError, match="must be named module:attribute, got"):
        load(name)
    with pytest.raises(DistcorrError, match="how it is called cannot be told"):
        load("builtins:dict")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
def test_interrupts_and_lack_of_memory_pass_as_they_are(stop):
    def fail(maps):
        raise stop("x")

    with pytest.raises(stop):
        Plugin(Blocks(change=fail), "x")(pink_noise(1, 64), ["x"])


def test_a_batch_that_the_allocator_refuses_is_halved():
    def fail(maps):
        if len(maps) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return maps

    plugin, images = Plugin(Blocks(change=fail), "x"), pink_noise(2, 64)
    with pytest.raises(RuntimeError, match="can't allocate"):
        plugin(images, ["x"])
    with pytest.warns(SmallerBatchWarning):
        assert len(in_batches(plugin, images, ["x"], 1)["x"]) == 2


@pytest.mark.parametrize("good", [0, 1, 2, 5])
def test_a_call_that_fails_is_a_problem(good):
    calls = itertools.count()

    def fail(maps):
        if next(calls) >= good:
            raise RuntimeError("oh\nno")
        return maps

    (problem,) = check_extractor(Blocks(change=fail))
    assert problem.startswith("extractor: RuntimeError: oh (")
    assert re.search(r"test_plugins\.py:\d+\)$", problem)


# -- the contract ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be a positive int, got 0"),
        ({"channels": "3"}, "channels must be a positive int, got '3'"),
        ({"geometry": (64, 4, 1.5, 4, 16)}, "geometry must be a distcorr.types.Geometry"),
        ({"geometry": GEOMETRY._replace(cells=0)}, "geometry must be positive"),
        ({"geometry": GEOMETRY._replace(input_size=64.0)}, "geometry must be of ints"),
        ({"geometry": GEOMETRY._replace(cells=True)}, "geometry must be of ints"),
        ({"geometry": GEOMETRY._replace(offset=np.nan)}, "geometry must be of finite numbers"),
        ({"geometry": GEOMETRY._replace(offset="1")}, "geometry must be of finite numbers"),
        ({"channels": True}, "channels must be a positive int, got True"),
    ],
)
def test_attributes_are_checked(options, message):
    with pytest.raises(DistcorrError, match=message):
        Plugin(Blocks(**options), "x")
    assert message in check_extractor(Blocks(**options))[0]
    assert "help(" not in check_extractor(Blocks(**options))[0]  # the command line says that


def test_numbers_of_numpy_will_do():
    geometry = Geometry(np.int64(64), np.int32(4), np.float32(1.5), np.int64(4), np.int64(16))
    plugin = Plugin(Blocks(geometry, np.int64(3)), "x")
    assert json.loads(json.dumps(plugin.identity("x")))["geometry"] == list(GEOMETRY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps[:, :15], r"\(2, 16, 16, 3\) by its geometry.*got \(2, 15, 16, 3\)"),
        (lambda maps: maps[..., :2], r"got \(2, 16, 16, 2\)"),
        (lambda maps: maps.astype(int), r"an array of floats, got dtype\('int64'\)"),
        (lambda maps: maps.tolist(), "an array of floats, got <class 'list'>"),
    ],
)
def test_results_are_checked_on_every_batch(change, message):
    with pytest.raises(DistcorrError, match=message):
        Plugin(Blocks(change=change), "x")(pink_noise(2, 64), ["x"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_become_float32(dtype):
    plugin = Plugin(Blocks(change=lambda maps: torch.from_numpy(maps).to(dtype)), "x")
    assert plugin(pink_noise(1, 64), ["x"])["x"].dtype == np.float32


def test_not_a_number_is_left_to_the_caller():
    plugin = Plugin(Blocks(change=lambda maps: maps * np.float32(np.nan)), "x")
    assert np.isnan(plugin(pink_noise(1, 64), ["x"])["x"]).all()


def test_images_are_checked_and_never_changed():
    def spoil(images):
        images[:] = 0
        return np.zeros((len(images), 16, 16, 3), np.float32)

    spoil.geometry, spoil.channels = GEOMETRY, 3
    plugin, images = Plugin(spoil, "x"), pink_noise(1, 64)
    images.flags.writeable = False
    plugin(images, ["x"])
    assert images.any()
    assert plugin(images[:0], ["x"])["x"].shape == (0, 16, 16, 3)
    assert plugin(images, []) == {}
    for wrong in (images[:, :60], images[0], images.astype(np.float32)):
        with pytest.raises(DistcorrError, match=r"must be \(B, 64, 64, 3\) uint8 RGB, got"):
            plugin(wrong, ["x"])
    with pytest.raises(DistcorrError, match="has no 'y'"):
        plugin(images, ["y"])
    with pytest.raises(DistcorrError, match="needs an input of 64 px, got 65"):
        plugin.geometry("x", 65)


def test_columns_are_those_of_the_nearest_cells():
    plugin, image = Plugin(Blocks(), "x"), pink_noise(1, 64)[0]
    xy = np.array([[0, 0], [3.4, 3.6], [3.5, 62], [63, 0], [30.2, 9.9]])
    maps = plugin(image[None], ["x"])["x"][0]
    expected = [maps[0, 0], maps[1, 0], maps[15, 0], maps[0, 15], maps[2, 7]]
    np.testing.assert_array_equal(plugin.columns(image, xy, ["x"])["x"], expected)


# -- identity -------------------------------------------------------------------------------


def test_identity_is_by_content(write):
    name = write()
    first = load(f"{name}:Blocks").identity("Blocks")
    assert first == load(f"{name}:Blocks", "cuda").identity("Blocks")  # not where it runs
    assert first["geometry"] == [64, 4, 1.5, 4, 16]

    elsewhere = load(f"{write()}:Blocks").identity("Blocks")
    assert elsewhere["source"] == first["source"]
    assert elsewhere["factory"] != first["factory"]

    write(MINE.replace("axis=(2, 4)", "axis=(2,  4)"), name)
    edited = load(f"{name}:Blocks").identity("Blocks")
    assert edited["source"] != first["source"]
    assert edited["arrays"] == first["arrays"]

    write(name=name)
    plugin = load(f"{name}:Blocks")
    plugin._extractor.net.bias[0] += 1e-6
    changed = plugin.identity("Blocks")
    assert changed["arrays"] != first["arrays"]
    assert changed["source"] == first["source"]


@pytest.mark.parametrize(
    "hide",
    [
        lambda net: net,
        lambda net: {"a": [1, (net,)]},
        lambda net: lambda x: net(x),
        lambda net: lambda x, net=net: net(x),
        lambda net: net.forward,
        lambda net: Blocks(change=net),
        lambda net: net.weight,
        lambda net: net.weight.detach().numpy(),
        lambda net: net.to(torch.bfloat16),
    ],
)
def test_weights_are_found_wherever_they_are(hide):
    def arrays(seed):
        torch.manual_seed(seed)
        return Plugin(Blocks(change=hide(nn.Linear(2, 2))), "x").identity("x")["arrays"]

    assert arrays(0) == arrays(0)
    assert arrays(0) != arrays(1)


def test_an_extractor_may_be_a_module_with_more_than_its_state():
    class Net(nn.Module):
        geometry, channels = GEOMETRY, 3

        def __init__(self, value):
            super().__init__()
            self.extra = [np.full(3, value)]

    first, second = (Plugin(Net(value), "x").identity("x") for value in (1, 2))
    assert first["arrays"] != second["arrays"]


def arrays_of(held):
    blocks = Blocks()
    blocks.held = held
    return Plugin(blocks, "x").identity("x")["arrays"]


class Slotted:
    __slots__ = ("__private", "public")

    def __init__(self, private, public):
        self.__private, self.public = private, public


class Buffered(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("unsaved", torch.full((2,), value), persistent=False)


def conv(stride, net=nn.Conv2d):
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(net(1, 1, 3, stride=stride)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (1, True),
        (0, None),
        ("a", "b"),
        ("a", b"a"),
        ({1, 2}, {1, 3}),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}),
        ({1: 0}, {"1": 0}),
        ([1, [2]], [1, [3]]),
        (Slotted(1, 0), Slotted(2, 0)),
        (Slotted(0, 1), Slotted(0, 2)),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (np.float32(1), np.float32(2)),
        (torch.float16, torch.float32),
        (np.array(["a", None], object), np.array(["b", None], object)),
        (np.sin, np.cos),
        (functools.partial(max, 1), functools.partial(min, 1)),
        (conv(1), conv(2)),
        (nn.ReLU(), nn.GELU()),
        (Buffered(1.0), Buffered(2.0)),
    ],
    ids=lambda value: type(value).__name__,  # an address would differ from process to process
)
def test_whatever_it_holds_is_part_of_the_identity(one, other):
    assert arrays_of(one) != arrays_of(other)
    assert arrays_of(one) == arrays_of(one)


def test_neither_order_nor_device_nor_mode_nor_cycles_matter():
    assert arrays_of({"a": 1, "b": 2}) == arrays_of({"b": 2, "a": 1})
    assert arrays_of(["cpu", torch.device("cpu")]) == arrays_of(["cuda:1", torch.device("cuda", 0)])
    assert arrays_of(conv(1).train()) == arrays_of(conv(1).eval())
    ring = [1]
    ring.append(ring)
    assert arrays_of(ring) != arrays_of([1])
    assert arrays_of(threading.Lock()) == arrays_of(threading.Lock())  # opaque, without address
    assert arrays_of(object()) == arrays_of(object())


def test_factories_of_one_class_differ(write):
    name = write(MINE + "\n    def low():\n        return Blocks()\n    high = lambda: Blocks()\n")
    low, high = (load(f"{name}:{of}")._extractor for of in ("low", "high"))
    low.name = high.name = "same"
    assert Plugin(low, "x", f"{name}:low").identity("same") != Plugin(
        high, "x", f"{name}:high"
    ).identity("same")


def test_identity_is_the_same_in_every_process(write):
    source = MINE.replace(
        "self.device = device",
        "self.device, self.held = device, [{'b', 'a', 'c'}, {len: 1, str: 2}, lambda: {'x', 'y'}]",
    )
    code = (
        "from distcorr.algorithms.plugins import load; import sys; "
        "print(load(sys.argv[1]).identity('Blocks'))"
    )
    name = f"{write(source)}:Blocks"
    expected = str(load(name).identity("Blocks"))
    for seed in "12":
        told = subprocess.run(
            [sys.executable, "-c", code, name],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == expected


SEED = "torch.manual_seed(0)"
FINGERPRINT = "fingerprint = 'v1'; channels = 3"


@pytest.mark.parametrize("channels", ["channels = 3", FINGERPRINT])
def test_weights_without_a_seed_are_noticed(write, channels):
    seeded = MINE.replace("channels = 3", channels)
    assert catalogue.problems(f"{write(seeded)}:Blocks") == []
    problems = catalogue.problems(f"{write(seeded.replace(SEED, 'pass'))}:Blocks")
    assert problems == ["its weights differ each time it is made: seed what it draws at random"]
    assert catalogue.problems("") == catalogue.problems("caffenet") == []


def test_only_what_was_measured_is_said_to_be():
    assert not any("effective" in note for note in catalogue.notes("sift", True))
    assert any("effective:" in note for note in catalogue.notes("caffenet", True))
    assert not any("effective:" in note for note in catalogue.notes("caffenet", False))


def test_a_fingerprint_that_fails_is_told():
    blocks = Blocks()
    blocks.fingerprint = lambda: 1 / 0
    with pytest.raises(DistcorrError, match=r"x: ZeroDivisionError: .*test_plugins.py:\d+"):
        Plugin(blocks, "x").identity("x")


def test_a_fingerprint_is_taken_at_its_word():
    blocks = Blocks()
    blocks.fingerprint = lambda: "v1"
    assert Plugin(blocks, "x").identity("x")["fingerprint"] == "v1"
    blocks.fingerprint = ""
    with pytest.raises(DistcorrError, match="fingerprint must be a str that is not empty, got ''"):
        Plugin(blocks, "x").identity("x")


def test_without_source_a_fingerprint_is_asked_for():
    space = {"__name__": "nowhere"}
    exec("class Nowhere:\n    pass", space)
    nowhere = space["Nowhere"]()
    nowhere.geometry, nowhere.channels = GEOMETRY, 3
    type(nowhere).__call__ = lambda self, images: None
    with pytest.raises(DistcorrError, match=r"source of nowhere.*give the extractor a fingerprint"):
        Plugin(nowhere, "x").identity("x")


# -- the check ------------------------------------------------------------------------------


def shifted(rows, columns):
    return Blocks(change=lambda maps: np.roll(maps, (rows, columns), axis=(1, 2)))


def test_what_is_right_passes():
    assert check_extractor(Blocks()) == []
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), "u1")
    assert check_extractor(Blocks(), images) == []
    quarter = GEOMETRY._replace(offset=2.5)  # of a cell: within what can be told
    assert check_extractor(Blocks(quarter)) == []


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (Blocks(change=lambda maps: maps.swapaxes(1, 2)), "rows and columns are swapped"),
        (
            shifted(1, 0),
            "along y features change up to 1.0 cells from.*stride were 4 and offset -2.5",
        ),
        (shifted(0, -1), "along x features change up to 1.0 cells.*stride were 4 and offset 5.5"),
        (Blocks(GEOMETRY._replace(offset=5.5)), "as if stride were 4 and offset 1.5 px.*4 and 5.5"),
        (
            Blocks(GEOMETRY._replace(stride=3)),
            r"as if stride were (3.[89]|4)\d* and.*says 3 and 1.5",
        ),
        (Blocks(change=lambda maps: maps[:, :, ::-1]), "along x.*stride were -4 and offset 61.5"),
        (Blocks(change=lambda maps: maps * 0 + 1), "must depend on the image"),
        (Blocks(change=lambda maps: maps / 0), "must be finite; 3072 of 3072 values"),
        (
            Blocks(channels=4),
            r"\(4, 16, 16, 4\) by its geometry and channels, got \(4, 16, 16, 3\)",
        ),
        (Blocks(change=lambda maps: maps - maps.mean(0)), "the same features alone and in a batch"),
        (
            Blocks(change=lambda maps: maps.mean(axis=(1, 2), keepdims=True) + 0 * maps),
            "change most scatter by",
        ),
        (
            Blocks(change=lambda maps: maps[:, :1, :1] + np.arange(16.0)[:, None, None] + 0 * maps),
            "noise on 4 x 4 px around 16 centres changed nothing in 16 cases",
        ),
        (
            Blocks(change=lambda maps: (maps - maps.mean()) / maps.std()),
            "the same features alone and in a batch; they differ by up to",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_wrong_is_named(extractor, message):
    problems = check_extractor(extractor)
    assert problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_dice_are_noticed():
    rng = np.random.default_rng(0)
    dice = Blocks(change=lambda maps: maps + rng.random(maps.shape, np.float32))
    assert "a second call differs by up to" in check_extractor(dice)[0]


def test_overlapping_fields_pass():
    """As SIFT has it: a descriptor of 4 x 4 bins around every cell, far wider than the stride."""

    class Bins:
        geometry, channels = Geometry(96, 8, 3.5, 17, 10), 16

        def __call__(self, images):
            grey = np.pad(images.mean(-1), ((0, 0), (4, 24), (4, 24)), "edge")
            bins = np.square(np.diff(grey, axis=2, append=0)).reshape(len(images), 31, 4, 31, 4)
            bins = bins.sum(axis=(2, 4))
            columns = [bins[:, r : r + 20 : 2, c : c + 20 : 2] for r in range(4) for c in range(4)]
            return np.sqrt(np.stack(columns, axis=-1))

    assert check_extractor(Bins()) == []


def test_efficientnet_passes_and_a_shifted_one_does_not():
    backbone = build("efficientnet-lite0", load_weights("", "efficientnet-lite0").arrays)
    extractor = OfBackbone(backbone, "block10")
    images = pink_noise(2, 224)
    assert check_extractor(extractor, images) == []
    extractor.geometry = extractor.geometry._replace(offset=extractor.geometry.offset + 16)
    assert "from the pixels that changed" in check_extractor(extractor, images)[0]


@pytest.mark.photos
def test_alexnet_passes_and_a_transposed_one_does_not(photos):
    arrays = load_weights(str(photos / "weights/bvlc_alexnet_conv1-5.npz")).arrays
    extractor = OfBackbone(build("alexnet", arrays), "conv4")
    images = pink_noise(2, 227)
    assert check_extractor(extractor, images) == []
    plain = extractor.__call__

    class Transposed:
        geometry, channels = extractor.geometry, extractor.channels

        def __call__(self, images):
            return plain(images).swapaxes(1, 2)

    assert "swapped" in check_extractor(Transposed(), images)[0]

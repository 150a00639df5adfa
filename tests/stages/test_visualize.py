"""Figures 1 and 2 against plain loops over the store and the photographs, and against faults."""

from __future__ import annotations

import functools
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from distcorr.algorithms import rebuild
from distcorr.algorithms.crop import crop_square
from distcorr.data.features import FeatureStore
from distcorr.data.run import Run, StageFolder
from distcorr.data.storage import Folder
from distcorr.data.store import Feature, feature_table, read_values
from distcorr.data.toy import write_toy
from distcorr.data.visualized import NEIGHBOURS, ORIGINAL, RANDOM, UNIFORM, Visualized
from distcorr.errors import MISSING, PARTIAL, USAGE, DistcorrError
from distcorr.report import locality, tables
from distcorr.stages import locality as locality_tasks
from distcorr.stages import visualize
from distcorr.stages.cluster import Session
from distcorr.stages.copies import near_copies
from distcorr.stages.features import Wanted, load_network, wishes
from distcorr.stages.gallery import Gallery, Layer, Sizes, ids_of, places
from distcorr.stages.locality import Queries
from distcorr.stages.own import rebuild_own
from distcorr.stages.pipeline import Context, Summary, forecast_stage, run_stage
from distcorr.types import Box, Geometry
from tests.stages.common import (
    Recorder,
    assert_same,
    contents,
    stage_folder,
    toy_config,
    write_alexnet,
)

Settings = Callable[..., list[str]]
Array = npt.NDArray[Any]
INLINE = "compute.address=inline"
STAGES = ("build-db", "visualize")
PHOTOGRAPHS = "VOCdevkit/VOC2011/JPEGImages"

# Photographs as squares of 128 px, 64 cells, rf 48. A cell is its patch in little: 16 mean colours.
EXTRACTORS = """
import numpy as np
from distcorr.types import Geometry


class Blocks:
    geometry, channels = Geometry(128, 16, 7.5, 48, 8), 48

    def __call__(self, images):
        means = images.reshape(-1, 8, 4, 4, 8, 4, 4, 3).mean(axis=(3, 6), dtype=np.float32)
        return means.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 48) - 128


class Other(Blocks):
    name = "Blocks"

    def __call__(self, images):
        return super().__call__(images)[..., ::-1] + 1


class Light(Blocks):  # zero where a patch is dark
    def __call__(self, images):
        features = super().__call__(images)
        return features * (features.mean(axis=-1, keepdims=True) > 40)


class Nothing(Blocks):
    def __call__(self, images):
        return 0 * super().__call__(images)
"""


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with extractors of the user's."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "seen_feats.py").write_text(EXTRACTORS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr(visualize, "FILES", 2)  # more pieces of the data base
        patch.setattr(visualize, "GROUP", 2)  # more groups of photographs
        yield folder
    sys.modules.pop("seen_feats", None)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn photographs: 3 categories x (3 + 3)."""
    folder = tmp_path_factory.mktemp("photographs") / "toy"
    write_toy(Folder(folder), seed=2014, train=3, val=3)
    return folder


@pytest.fixture(scope="module")
def blocks(toy_settings: Settings) -> list[str]:
    """Settings by which build-db takes a second."""
    return toy_settings(
        INLINE,
        "features.network=seen_feats:Blocks",
        "features.cells=auto",
        "features.cells_per_photo=0",
        "features.points=[]",
        "features.grids=[]",
        "features.grids500=[]",
        "features.batch=1",
        "flow.features=auto",
        "dataset.toy_train=3",
        "visualize.photographs=3",
        "visualize.shown=3",
        "visualize.seeds=5",
        "visualize.averaged=[1,6]",
        "visualize.drawn=4",
    )


def run(folder: Path, settings: list[str], *stages: str) -> tuple[dict[str, Summary], list[str]]:
    """Run stages; their summaries and warnings."""
    config, recorder = toy_config(settings), Recorder()
    with Session(config.compute) as session:
        context = Context(config, Run(str(folder)), session, recorder)
        done = {name: run_stage(name, context) for name in stages or ("visualize",)}
    return done, recorder.warnings


def begun(folder: Path, toy: Path) -> Path:
    """A run folder whose photographs are drawn already."""
    shutil.copytree(toy, folder / "toy")
    return folder


def made(folder: Path) -> tuple[StageFolder, Visualized]:
    stage = Run(str(folder)).finished("visualize")
    assert stage is not None
    return stage, Visualized(stage)


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Every row of a table of the stage, in the order of its shards."""
    stage, _ = made(folder)
    return [r for t in stage.folder.iter_tables(stage.parts(table)) for r in t.to_pylist()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, toy: Path, blocks: list[str]) -> Path:
    """A finished run by Blocks; copy it before changing it."""
    folder = begun(tmp_path_factory.mktemp("runs") / "plain", toy)
    run(folder, blocks, *STAGES)
    return folder


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    shutil.copytree(plain, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_alexnet(tmp_path_factory.mktemp("weights") / "alexnet.npz")


@pytest.fixture(scope="module")
def native(
    tmp_path_factory: pytest.TempPathFactory, toy: Path, blocks: list[str], alexnet: Path
) -> tuple[Path, list[str]]:
    """A finished run by layers that see photographs at their own sizes, and its settings."""
    settings = [*blocks, "features.network=alexnet", f'features.weights="{alexnet}"']
    settings += ['features.cells=["conv3","sift20"]', 'dataset.categories=["fish"]']
    folder = begun(tmp_path_factory.mktemp("runs") / "native", toy)
    run(folder, settings, *STAGES)
    return folder, settings


@pytest.fixture(scope="module")
def embedded(
    tmp_path_factory: pytest.TempPathFactory, toy: Path, toy_settings: Settings
) -> tuple[Path, list[str]]:
    """A finished run by the embedded network, whose field is larger than its picture."""
    settings = toy_settings(INLINE, "features.points=[]", "features.grids=[]", "flow.features=auto")
    settings += ["features.cells_per_photo=0", "visualize.averaged=[1,6]"]
    settings += ['dataset.categories=["fish"]', "dataset.toy_train=3"]
    folder = begun(tmp_path_factory.mktemp("runs") / "embedded", toy)
    run(folder, settings, *STAGES)
    return folder, settings


# -- the oracle ----------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One cell of the store; ``id`` by the rule that ids have."""

    image: str
    mirrored: bool
    row: int
    col: int
    value: Array
    id: int


class Plain:
    """A run's data base and photographs, read in the plainest way."""

    def __init__(self, folder: Path, settings: list[str], layer: str, base: str = "train") -> None:
        self.folder, self.layer = folder, layer
        self.geometry = functools.cache(self._geometry)
        self.photograph = functools.cache(self._photograph)
        self._pictures: dict[str, Array] = {}
        self._padded: dict[tuple[str, bool, int], Array] = {}
        build = Run(str(folder)).finished("build-db")
        assert build is not None
        self.store = FeatureStore(build)
        self.root = Path(self.store.root or folder / "toy")
        self.images = list(dict.fromkeys(i.image for i in self.store.instances))
        kept = {i.image for i in self.store.instances if base in ("all", i.split)}
        config = toy_config(settings)
        wanted = wishes(config, load_network(config.features)).wanted
        self.wanted: Wanted = next(w for w in wanted if w.feature.name == f"cells/{layer}")
        self.longest = self.wanted.side or config.features.photo_side
        self.stride = self.geometry(self.longest).stride
        self.rf = self.geometry(self.longest).rf
        self.field = min(self.rf, self.longest)
        kinds = ("cells", "mirrored")[: 1 + config.visualize.mirrored]
        self.cells = [
            cell
            for number, kind in enumerate(kinds)
            for cell in self._read(kind, bool(number), kept)
            if self.inside(cell, self.stride)
        ]

    def _geometry(self, size: int) -> Geometry:
        return self.wanted.source.geometry(self.wanted.tap, size)

    def _read(self, kind: str, mirrored: bool, kept: set[str]) -> Iterator[Cell]:
        for table in self.store.parts(f"{kind}/{self.layer}"):
            values = read_values(table)[0].astype(np.float64)
            keys = table.select(["image", "row", "col"]).to_pylist()
            for key, value in zip(keys, values, strict=True):
                if key["image"] in kept:
                    number = 2 * self.images.index(key["image"]) + mirrored
                    row, col = key["row"], key["col"]
                    id_ = (number << 32) + (row << 16) + col
                    yield Cell(key["image"], mirrored, row, col, value, id_)

    def _photograph(self, image: str) -> Array:
        with Image.open(self.root / image) as picture:
            return np.asarray(picture.convert("RGB"))

    def picture(self, image: str, mirrored: bool = False) -> Array:
        """What the layer sees."""
        if image not in self._pictures:
            whole = self.photograph(image)
            box = Box(0, 0, whole.shape[1] - 1, whole.shape[0] - 1)
            side = self.wanted.side
            self._pictures[image] = crop_square(whole, box, side) if side else whole
        found = self._pictures[image]
        return found[:, ::-1] if mirrored else found

    def centre(self, image: str, row: int, col: int) -> tuple[float, float]:
        """(y, x) px in what the layer sees."""
        height, width = self.picture(image).shape[:2]
        y, x = self.geometry(height), self.geometry(width)
        return y.offset + y.stride * row, x.offset + x.stride * col

    def corner(self, cell: Any, side: int) -> tuple[int, int]:
        """Of the square about a cell's centre c: the first pixel is c - side / 2, rounded up."""
        y, x = self.centre(cell.image, cell.row, cell.col)
        return math.ceil(y - side / 2), math.ceil(x - side / 2)

    def inside(self, cell: Any, side: int) -> bool:
        top, left = self.corner(cell, side)
        height, width = self.picture(cell.image).shape[:2]
        return 0 <= top <= height - side and 0 <= left <= width - side

    def whole(self, cell: Any) -> bool:
        """Whether Figure 2 may show it."""
        return self.rf > self.longest or self.inside(cell, self.field)

    def crop(self, cell: Cell, side: int) -> Array:
        """(side, side, 3) float64, NaN beyond the picture."""
        key = cell.image, cell.mirrored, side
        if key not in self._padded:
            picture, around = self.picture(*key[:2]).astype(np.float64), (side, side)
            self._padded[key] = np.pad(picture, (around, around, (0, 0)), constant_values=np.nan)
        top, left = (place + side for place in self.corner(cell, side))
        return self._padded[key][top : top + side, left : left + side]

    @functools.cached_property
    def by_id(self) -> dict[int, Cell]:
        return {cell.id: cell for cell in self.cells}

    def boxes(self, image: str, mirrored: bool, row: int, col: int) -> set[str]:
        """Categories in a box of which a cell's centre lies."""
        height, width = self.picture(image).shape[:2]
        y, x = self.centre(image, row, col)
        x = width - 1 - x if mirrored else x
        high, wide = self.photograph(image).shape[:2]
        x, y = (x + 0.5) * (wide / width) - 0.5, (y + 0.5) * (high / height) - 0.5
        return {
            i.category
            for i in self.store.instances
            if i.image == image
            and i.box.x0 - 0.5 <= x <= i.box.x1 + 0.5
            and i.box.y0 - 0.5 <= y <= i.box.y1 + 0.5
        }


class Query(NamedTuple):
    """A cell that was looked for."""

    image: str
    row: int
    col: int
    place: int
    value: Array


def queries(folder: Path, plain: Plain) -> list[Query]:
    """All cells of the photographs, in the order of the parts."""
    stage, _ = made(folder)
    found = []
    for table in stage.folder.iter_tables(stage.parts(f"queries-{plain.layer}")):
        values = read_values(table)[0].astype(np.float64)
        for key, value in zip(table.to_pylist(), values, strict=True):
            image = plain.images[key["number"]]
            found.append(Query(image, key["row"], key["col"], key["place"], value))
    return found


def merged(folder: Path, plain: Plain, kind: str) -> tuple[Array, Array]:
    """(m, k) ids and cosines of all pieces, sorted by (-cosine, id); groups follow each other."""
    stage, _ = made(folder)
    looked = [
        len(t) for t in stage.folder.iter_tables(stage.parts(f"queries-{plain.layer}"), ["place"])
    ]
    parts = [
        (np.array(t["ids"].to_pylist()), np.array(t["cosines"].to_pylist(), float))
        for t in stage.folder.iter_tables(stage.parts(f"{kind}-{plain.layer}"))
    ]
    count = len(parts) // len(looked)  # pieces of a group
    ids, cosines = [], []
    for start in range(0, len(parts), count):
        mine = parts[start : start + count]
        k = mine[0][0].shape[1] if mine[0][0].ndim == 2 else 0
        if not k:
            continue
        for row in range(len(mine[0][0])):
            some = [
                (-cosine, id_)
                for part in mine
                for id_, cosine in zip(part[0][row], part[1][row], strict=True)
                if id_ >= 0
            ]
            some = sorted(some)[:k] + [(np.nan, -1)] * max(0, k - len(some))
            ids.append([id_ for _, id_ in some])
            cosines.append([-negative for negative, _ in some])
    return np.array(ids), np.array(cosines)


def nearest(
    asked: Sequence[Query], cells: Sequence[Cell], k: int, out: dict[str, set[str]]
) -> tuple[Array, Array]:
    """(m, k) ids and cosines by a sort of all cosines in float64; -1 where there are fewer."""
    solid = [cell for cell in cells if cell.value.any()]
    base = np.stack([cell.value / np.linalg.norm(cell.value) for cell in solid])
    numbers = np.array([cell.id for cell in solid])
    ids, cosines = np.full((len(asked), k), -1), np.full((len(asked), k), np.nan)
    for row, query in enumerate(asked):
        if not query.value.any():
            continue
        scores = base @ (query.value / np.linalg.norm(query.value))
        allowed = np.array([cell.image not in out[query.image] for cell in solid])
        order = [n for n in np.lexsort((numbers, -scores)) if allowed[n]][:k]
        ids[row, : len(order)], cosines[row, : len(order)] = numbers[order], scores[order]
    return ids, cosines


def assert_nearest(found: tuple[Array, Array], expected: tuple[Array, Array]) -> None:
    """Equal, but for ties in the last bits of a float32."""
    np.testing.assert_array_equal(found[0] < 0, expected[0] < 0)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=1e-6)
    other = found[0] != expected[0]
    assert other.mean() < 0.02
    np.testing.assert_allclose(found[1][other], expected[1][other], rtol=0, atol=1e-6)


def excluded(folder: Path, plain: Plain) -> dict[str, set[str]]:
    """Photograph -> those that give it no patches: itself, the same bytes, its near copies."""
    _, visualized = made(folder)
    sha256 = {image: (plain.root / image).read_bytes() for image in plain.images}
    return {
        image: {
            *visualized.copies.get(image, []),
            *(other for other in plain.images if sha256[other] == sha256[image]),
        }
        for image in plain.images
    }


LAYERS = ["Blocks", "conv3", "sift20", "block10"]


@pytest.fixture(params=LAYERS)
def oracle(request: pytest.FixtureRequest) -> Plain:
    name = {"Blocks": "plain", "block10": "embedded"}.get(request.param, "native")
    found = request.getfixturevalue(name)
    folder, settings = found if name != "plain" else (found, request.getfixturevalue("blocks"))
    if (request.param, folder) not in _oracles:
        _oracles[request.param, folder] = Plain(folder, settings, request.param)
    return _oracles[request.param, folder]


_oracles: dict[tuple[str, Path], Plain] = {}  # read once for all tests


# -- what is right -------------------------------------------------------------------------------


def test_neighbours_are_those_of_a_sort_of_all_cosines(oracle: Plain) -> None:
    asked = queries(oracle.folder, oracle)
    out = excluded(oracle.folder, oracle)
    found = merged(oracle.folder, oracle, "found")
    assert_nearest(found, nearest(asked, oracle.cells, 5, out))
    for query, ids in zip(asked, found[0], strict=True):
        assert all(oracle.by_id[id_].image not in out[query.image] for id_ in ids if id_ >= 0)


def test_random_cells_and_their_neighbours_are_whole(oracle: Plain) -> None:
    asked = [query for query in queries(oracle.folder, oracle) if query.place >= 0]
    whole = [cell for cell in oracle.cells if oracle.whole(cell)]
    expected = nearest(asked, whole, 6, excluded(oracle.folder, oracle))
    assert_nearest(merged(oracle.folder, oracle, "far"), expected)
    assert all(oracle.whole(query) and query.value.any() for query in asked)
    _, visualized = made(oracle.folder)
    seeds = len({each.place for each in visualized.averages()})
    assert sorted(query.place for query in asked) == list(range(seeds))
    drawn = visualized.images
    assert [q.image for q in sorted(asked, key=lambda q: q.place)] == [
        drawn[n % len(drawn)] for n in range(seeds)
    ]


def rebuilt_by_loops(plain: Plain, image: str, ids: Array, k: int) -> Array:
    """A cell after the other: the mean of its neighbours' patches, halves rounded up."""
    shape, side = plain.picture(image).shape, plain.stride
    made = np.empty(shape, np.uint8)
    made[:] = rebuild.MEAN_COLOUR
    for (row, col), neighbours in zip(grid(plain, image), ids, strict=True):
        found = [plain.crop(plain.by_id[id_], side) for id_ in neighbours[:k] if id_ >= 0]
        if not found:
            continue
        patch = np.floor(np.mean(found, axis=0) + 0.5)
        top, left = plain.corner(SimpleNamespace(image=image, row=row, col=col), side)
        there = made[max(top, 0) : top + side, max(left, 0) : left + side]
        y, x = max(-top, 0), max(-left, 0)
        there[:] = patch[y : y + len(there), x : x + len(there[0])]
    return made


def grid(plain: Plain, image: str) -> list[tuple[int, int]]:
    height, width = plain.picture(image).shape[:2]
    return list(np.ndindex(plain.geometry(height).cells, plain.geometry(width).cells))


def tiled(plain: Plain, image: str) -> Array:
    """(H, W) the pixels that patches of its cells cover."""
    mask = np.zeros(plain.picture(image).shape[:2], bool)
    for row, col in grid(plain, image):
        top, left = plain.corner(SimpleNamespace(image=image, row=row, col=col), plain.stride)
        mask[max(top, 0) : top + plain.stride, max(left, 0) : left + plain.stride] = True
    return mask


def structural(a: Array, b: Array, mask: Array) -> float:
    """SSIM by the formula, window by window."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(window, window) / window.sum() ** 2
    grey = [picture @ np.array([0.299, 0.587, 0.114]) for picture in (a, b)]
    views = [np.lib.stride_tricks.sliding_window_view(g, (11, 11)) for g in grey]
    full = np.lib.stride_tricks.sliding_window_view(mask, (11, 11)).all(axis=(2, 3))
    x, y = (view[full] for view in views)
    m, n = ((weights * v).sum(axis=(1, 2)) for v in (x, y))
    xx, yy, xy = ((weights * u * v).sum(axis=(1, 2)) for u, v in ((x, x), (y, y), (x, y)))
    c, d = 2.55**2, 7.65**2
    value = (2 * m * n + c) * (2 * (xy - m * n) + d)
    value /= (m * m + n * n + c) * (xx - m * m + yy - n * n + d)
    return float(value.mean())


def test_rebuilt_photographs_are_those_of_plain_loops(oracle: Plain) -> None:
    _, visualized = made(oracle.folder)
    asked = queries(oracle.folder, oracle)
    ids = merged(oracle.folder, oracle, "found")[0]
    errors = {(e.image, e.method, e.k): e for e in visualized.rebuilt if e.layer == oracle.layer}
    assert len(errors) == 6 * len(visualized.images)
    for n, image in enumerate(visualized.images):
        mine = np.array([query.image == image for query in asked])
        cells = [(q.row, q.col) for q in asked if q.image == image]
        assert cells == grid(oracle, image)
        original, mask = oracle.picture(image), tiled(oracle, image)
        for k in (1, 5):
            expected = rebuilt_by_loops(oracle, image, ids[mine], k)
            if image in visualized.shown:
                picture = visualized.picture(oracle.layer, image, NEIGHBOURS, k)
                np.testing.assert_array_equal(picture, expected)
            error = errors[image, NEIGHBOURS, k]
            apart = (expected.astype(float) - original)[mask]
            psnr = 10 * np.log10(255**2 / (apart**2).mean()) if apart.any() else np.inf
            assert error.psnr == pytest.approx(psnr)
            assert error.colour == pytest.approx(np.abs(apart).mean())
            if n == 0:
                assert error.ssim == pytest.approx(structural(expected, original, mask))
            assert (error.cells, error.short) == (len(cells), 0)
            alike, boxed = 0, 0
            for (row, col), found in zip(cells, ids[mine][:, :k], strict=True):
                if own := oracle.boxes(image, False, row, col):
                    boxed += k
                    there = [oracle.by_id[id_] for id_ in found]
                    alike += sum(bool(own & oracle.boxes(*c[:4])) for c in there)
            assert (error.alike, error.boxed) == (alike, boxed)
            assert boxed > 0


def test_the_original_is_the_photograph(oracle: Plain) -> None:
    _, visualized = made(oracle.folder)
    for image in visualized.shown:
        found = visualized.picture("", image, ORIGINAL, 0)
        np.testing.assert_array_equal(found, oracle.photograph(image))


def blocks_of(plain: Plain, image: str, picture: Array) -> Iterator[tuple[int, int, Array]]:
    """(top, left, patch) of the cells whose patch lies inside."""
    height, width = picture.shape[:2]
    for row, col in grid(plain, image):
        top, left = plain.corner(SimpleNamespace(image=image, row=row, col=col), plain.stride)
        if 0 <= top <= height - plain.stride and 0 <= left <= width - plain.stride:
            yield top, left, picture[top : top + plain.stride, left : left + plain.stride]


def test_random_patches_are_of_the_data_base_but_not_of_the_photograph_itself(
    oracle: Plain,
) -> None:
    _, visualized = made(oracle.folder)
    known: dict[bytes, set[str]] = {}
    for cell in oracle.cells:
        patch = oracle.crop(cell, oracle.stride).astype(np.uint8)
        known.setdefault(patch.tobytes(), set()).add(cell.image)
    out = excluded(oracle.folder, oracle)
    for image in visualized.shown:
        found = visualized.picture(oracle.layer, image, RANDOM, 1)
        sources = [known[block.tobytes()] for *_, block in blocks_of(oracle, image, found)]
        assert all(source - out[image] for source in sources)
        everyone = {cell.image for cell in oracle.cells} - out[image]
        assert set.union(*sources) - out[image] == everyone
        five = visualized.picture(oracle.layer, image, RANDOM, 5)
        assert five.std() < found.std()  # means of five


def test_uniform_patches_are_of_the_receptive_field(oracle: Plain) -> None:
    _, visualized = made(oracle.folder)
    side, reach = oracle.stride, (max(oracle.rf, oracle.stride) - oracle.stride) // 2
    image = visualized.shown[0]
    original, found = oracle.picture(image), visualized.picture(oracle.layer, image, UNIFORM, 1)
    height, width = original.shape[:2]
    moves = set()
    for top, left, block in list(blocks_of(oracle, image, found))[::17]:
        rows_ = slice(max(0, top - reach), min(height, top + reach + side))
        cols = slice(max(0, left - reach), min(width, left + reach + side))
        around = np.lib.stride_tricks.sliding_window_view(original[rows_, cols, 1], (side, side))
        at = np.argwhere((around == block[..., 1]).all(axis=(2, 3)))
        assert len(at)
        moves.add((int(at[0][0]) + rows_.start - top, int(at[0][1]) + cols.start - left))
    assert len(moves) > 1


def test_averages_are_means_of_crops(oracle: Plain) -> None:
    _, visualized = made(oracle.folder)
    asked = [query for query in queries(oracle.folder, oracle) if query.place >= 0]
    ids = merged(oracle.folder, oracle, "far")[0]
    of_place = {query.place: (query, row) for query, row in zip(asked, ids, strict=True)}
    averages = [each for each in visualized.averages() if each.layer == oracle.layer]
    assert len(averages) == 4 * len(asked)
    for each in averages:
        query, found = of_place[each.place]
        assert (each.image, each.row, each.col) == query[:3]
        assert each.side == oracle.field
        if each.crop is not None:
            own = oracle.crop(
                Cell(query.image, False, query.row, query.col, query.value, 0), each.side
            )
            there = ~np.isnan(own)
            np.testing.assert_array_equal(each.crop[there], own[there])
        assert (each.crop is None) == (each.mean is None) == (each.place >= 4)
        if each.method == RANDOM:
            assert each.found == each.k
            continue
        crops = np.stack([oracle.crop(oracle.by_id[id_], each.side) for id_ in found[: each.k]])
        assert each.found == len(crops)
        seen = (~np.isnan(crops[..., 0])).sum(axis=0)
        if each.mean is not None:
            mean = np.nansum(crops, axis=0) / np.maximum(seen, 1)[..., None]
            mean[seen == 0] = rebuild.MEAN_COLOUR
            np.testing.assert_allclose(each.mean, mean, atol=1e-4)
        if each.k == 1:
            assert np.isnan(each.ratio)
            assert len(each.profile) == 0
            continue
        spread = np.full(crops.shape[1:], np.nan)
        spread[seen > 0] = np.nanstd(crops[:, seen > 0], axis=0)
        np.testing.assert_allclose(each.profile, rebuild.radial_profile(spread), atol=1e-6)
        np.testing.assert_allclose(each.ratio, rebuild.centre_ratio(spread), atol=1e-9)


@pytest.mark.parametrize("oracle", ["Blocks", "conv3"], indirect=True)
def test_random_fields_are_whole_and_not_of_the_photograph_itself(oracle: Plain) -> None:
    known = {
        oracle.crop(cell, oracle.field).astype(np.uint8).tobytes(): cell.image
        for cell in oracle.cells
        if oracle.whole(cell)
    }
    _, visualized = made(oracle.folder)
    out = excluded(oracle.folder, oracle)
    single = [e for e in visualized.averages() if (e.layer, e.k) == (oracle.layer, 1)]
    random = [e for e in single if e.method == RANDOM and e.mean is not None]
    assert len(random) > 1
    for each in random:
        assert known[each.mean.astype(np.uint8).tobytes()] not in out[each.image]


# -- cells and their names -----------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**30 - 1),
            st.booleans(),
            st.integers(0, 2**16 - 1),
            st.integers(0, 2**16 - 1),
        ),
        max_size=20,
    )
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_ids_say_where_a_cell_is_and_ascend_with_it(
    cells: list[tuple[int, bool, int, int]],
) -> None:
    columns = [np.array(column) for column in zip(*cells, strict=True)] or [np.zeros(0, int)] * 4
    number, mirrored, row, col = columns
    ids = ids_of(number, mirrored, row, col)
    assert ids.dtype == np.int64
    assert (ids >= 0).all()
    found = places(ids)
    back = zip(found.number, found.mirrored, *found.cells.T, strict=True)
    assert [(int(a), bool(b), int(c), int(d)) for a, b, c, d in back] == cells
    assert [cells[n] for n in np.argsort(ids, kind="stable")] == sorted(cells)


def test_small_integers_do_not_overflow() -> None:
    """The store has rows and columns as int16."""
    row, col = np.array([500, 0], np.int16), np.array([499, 3], np.int16)
    ids = ids_of(np.array([20_000, 0], np.int32), False, row, col)
    assert ids.tolist() == [(40_000 << 32) + (500 << 16) + 499, 3]


def gallery_of(contents: str, base: Sequence[bool] | None = None) -> Gallery:
    """Photographs 0.jpg, 1.jpg ... with such contents."""
    images = tuple(f"{n}.jpg" for n in range(len(contents)))
    there = np.array(base if base is not None else [True] * len(images))
    return Gallery(Folder("nowhere"), images, tuple(contents), there, frozenset(), 100)


def test_equal_bytes_are_one_content() -> None:
    gallery = gallery_of("abcabd")
    assert gallery.contents.tolist() == [0, 1, 2, 0, 1, 5]
    joined = gallery.joined_by("mine.jpg", "c")
    assert joined.contents.tolist() == [0, 1, 2, 0, 1, 5, 2]
    assert (joined.images[-1], joined.base.tolist()) == ("mine.jpg", [True] * 6 + [False])
    assert len(gallery.images) == 6


def test_a_picture_that_joins_takes_no_photographs_name() -> None:
    joined = gallery_of("ab").joined_by("1.jpg", "other")
    assert joined.number == {"0.jpg": 0, "1.jpg": 1}


def axis(size: int) -> Geometry:
    """Cells of 16 px, of which the last may stick out."""
    return Geometry(size, 16, 9.0, 40, max(1, size // 16))


SIZES = [(64, 48), (48, 48), (80, 100), (20, 16), (64, 48)]  # (height, width) of five photographs


def sized(tables: tuple[str, ...] = ("cells",)) -> tuple[Layer, Sizes]:
    axes = {size: axis(size) for size in range(16, 101)}
    heights, widths = np.array(SIZES).T
    return Layer("x", tables, 0, axes, 100), Sizes(np.arange(5), heights, widths)


def allowed(whole: bool) -> dict[int, list[tuple[int, int]]]:
    """Photograph -> its cells with their patch inside, and for Figure 2 their field too."""
    found = {}
    for number, size in enumerate(SIZES):
        reach = [8] + [20] * whole
        found[number] = [
            cell
            for cell in np.ndindex(*(axis(side).cells for side in size))
            if all(
                0 <= 9 + 16 * at - half and 9 + 16 * at + half <= side
                for at, side in zip(cell, size, strict=True)
                for half in reach
            )
        ]
    return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("tables", [("cells",), ("cells", "mirrored")])
def test_random_cells_are_uniform_over_the_data_base(whole: bool, tables: tuple[str, ...]) -> None:
    layer, sizes = sized(tables)
    ids = sizes.random(gallery_of("abcde"), layer, np.zeros(0, np.int32), (150, 200), whole, [3])
    assert ids.shape == (150, 200)
    expected = {
        int(ids_of(number, mirrored, np.array(row), np.array(col)))
        for number, cells in allowed(whole).items()
        for mirrored in range(len(tables))
        for row, col in cells
    }
    found, counts = np.unique(ids, return_counts=True)
    assert set(found.tolist()) == expected
    assert len(expected) > 8
    assert stats.chisquare(counts).pvalue > 0.001
    repeated = (ids[:, :-1] == ids[:, 1:]).mean()  # by chance only
    assert repeated == pytest.approx(1 / len(expected), rel=0.25)


def test_random_cells_are_of_no_content_that_is_left_out() -> None:
    layer, sizes = sized()
    gallery = gallery_of("abaca")  # 0, 2 and 4 are one photograph
    ids = sizes.random(gallery, layer, np.array([0], np.int32), (40, 40), False, [1])
    assert set(places(ids.ravel()).number.tolist()) == {1}  # 3 is too small for a patch
    nothing = sizes.random(gallery, layer, np.array([0, 1], np.int32), (2, 3), False, [1])
    assert nothing.tolist() == [[-1] * 3] * 2
    nobody = Sizes(*np.zeros((3, 0), np.int64))
    assert (nobody.random(gallery, layer, np.zeros(0, np.int32), (2, 3), True, [1]) == -1).all()


def test_random_cells_are_seeded_cell_by_cell() -> None:
    layer, sizes = sized()
    draw = functools.partial(sizes.random, gallery_of("abcde"), layer, np.zeros(0, np.int32))
    ids = draw((30, 8), False, [5, 1])
    np.testing.assert_array_equal(draw((30, 8), False, [5, 1]), ids)
    np.testing.assert_array_equal(draw((9, 8), False, [5, 1]), ids[:9])
    assert (draw((30, 8), False, [5, 2]) != ids).any()
    assert (draw((30, 8), False, [6, 1]) != ids).any()


# -- the data base -------------------------------------------------------------------------------


def assert_as_sorted(folder: Path, settings: list[str], base: str = "train") -> Plain:
    """Neighbours, errors and random patches as plain loops have them."""
    oracle = Plain(folder, settings, "Blocks", base)
    out = excluded(folder, oracle)
    asked = queries(folder, oracle)
    assert_nearest(merged(folder, oracle, "found"), nearest(asked, oracle.cells, 5, out))
    whole = [cell for cell in oracle.cells if oracle.whole(cell)]
    seeds = [query for query in asked if query.place >= 0]
    assert_nearest(merged(folder, oracle, "far"), nearest(seeds, whole, 6, out))
    test_rebuilt_photographs_are_those_of_plain_loops(oracle)
    test_random_patches_are_of_the_data_base_but_not_of_the_photograph_itself(oracle)
    return oracle


def test_the_data_base_may_hold_validation_photographs_too(copy: Path, blocks: list[str]) -> None:
    _, before = made(copy)
    settings = [*blocks, "visualize.base=all"]
    run(copy, settings)
    oracle = assert_as_sorted(copy, settings, "all")
    _, visualized = made(copy)
    train = {i.image for i in oracle.store.instances if i.split == "train"}
    assert before.bases["Blocks"].photographs == len(train)
    assert before.bases["Blocks"].cells == 64 * len(train)
    assert visualized.bases["Blocks"].photographs == len(oracle.images) > len(train)
    assert visualized.bases["Blocks"].cells == 64 * len(oracle.images)
    assert visualized.bases["Blocks"].whole == 36 * len(oracle.images)
    assert set(visualized.images).isdisjoint(train)
    ids = merged(copy, oracle, "found")[0]
    assert {oracle.by_id[id_].image for id_ in ids.ravel()} - train


@pytest.fixture
def voc(toy: Path, tmp_path: Path) -> Path:
    """The photographs as somebody's data set."""
    shutil.copytree(toy, tmp_path / "voc")
    (tmp_path / "voc" / "toy.json").unlink()
    return tmp_path / "voc"


def of_voc(settings: list[str], voc: Path, *more: str) -> list[str]:
    return [*settings, "dataset.name=voc", f'dataset.root="{voc}"', *more]


def pairs(plain: Path, count: int) -> list[tuple[str, str]]:
    """A validation and a training photograph, whose boxes lie in a picture of the other's size."""
    build = Run(str(plain)).finished("build-db")
    assert build is not None
    instances = FeatureStore(build).instances
    of_split = {s: sorted({i.image for i in instances if i.split == s}) for s in ("val", "train")}
    found: list[tuple[str, str]] = []
    for val in of_split["val"]:
        with Image.open(plain / "toy" / val) as picture:
            width, height = picture.size
        for train in of_split["train"]:
            boxes = [i.box for i in instances if i.image == train]
            fits = all(box.x1 < width and box.y1 < height for box in boxes)
            if fits and train not in [other for _, other in found]:
                found.append((val, train))
                break
    assert len(found) >= count
    return found[:count]


def agreement_by_loops(oracle: Plain, asked: Sequence[Query], a: str, b: str) -> float:
    """Of all 64 places: how many are most like one that lies as far from them, to a cell."""
    theirs = {
        (c.row, c.col): c.value / np.linalg.norm(c.value) for c in oracle.cells if c.image == b
    }
    moves = []
    for query in asked:
        if query.image == a:
            cosines = {place: query.value @ value for place, value in theirs.items()}
            row, col = max(cosines, key=cosines.__getitem__)
            moves.append((row - query.row, col - query.col))
    return max(
        sum(abs(row - down) <= 1 and abs(col - right) <= 1 for row, col in moves)
        for down in range(-8, 9)
        for right in range(-8, 9)
    ) / len(moves)


def shares(folder: Path, oracle: Plain, image: str, other: str) -> float:
    """Share of a photograph's cells whose nearest neighbour is in another photograph."""
    ids = merged(folder, oracle, "found")[0]
    mine = [row for q, row in zip(queries(folder, oracle), ids, strict=True) if q.image == image]
    return float(np.mean([oracle.by_id[row[0]].image == other for row in mine]))


def test_near_copies_are_left_out(
    plain: Path, voc: Path, tmp_path: Path, blocks: list[str]
) -> None:
    """The same bytes always; a picture compressed again or shifted by a pixel unless asked for."""
    same, again, shifted = pairs(plain, 3)
    shutil.copy(voc / same[0], voc / same[1])
    with Image.open(voc / again[0]) as picture:
        picture.save(voc / again[1], "JPEG", quality=60)
    with Image.open(voc / shifted[0]) as picture:
        moved = np.pad(np.asarray(picture), ((0, 0), (1, 0), (0, 0)), "edge")[:, :-1]
        Image.fromarray(moved).save(voc / shifted[1], "PNG")
    images = [same[0], again[0], shifted[0]]
    settings = of_voc(blocks, voc, f"visualize.images={json.dumps(images)}")
    folder = tmp_path / "run"
    run(folder, settings, *STAGES)
    oracle = assert_as_sorted(folder, settings)
    asked, (_, visualized) = queries(folder, oracle), made(folder)
    assert visualized.images == images
    expected = {
        (a, b): agreement_by_loops(oracle, asked, a, b)
        for a in images
        for b in {cell.image for cell in oracle.cells} - {same[1]}
    }
    found = {(row["image"], row["other"]): row["agreement"] for row in rows(folder, "copies")}
    assert found == {key: share for key, share in expected.items() if share >= 0.45}
    assert found.keys() == {again, shifted}
    ids = merged(folder, oracle, "found")[0]
    for query, mine in zip(asked, ids, strict=True):
        there = {oracle.by_id[id_].image for id_ in mine}
        assert there.isdisjoint({query.image, dict([same, again, shifted])[query.image]})

    run(folder, [*settings, "visualize.copies=0"])
    assert rows(folder, "copies") == []
    assert shares(folder, oracle, *same) == 0
    assert shares(folder, oracle, *again) > 0.9
    assert shares(folder, oracle, *shifted) > 0.9
    _, visualized = made(folder)
    errors = {e.image: e.psnr for e in visualized.rebuilt if (e.method, e.k) == (NEIGHBOURS, 1)}
    assert min(errors[again[0]], errors[shifted[0]]) > errors[same[0]] + 3
    assert any(
        "NOT left out" in note for note in locality.rows(locality.opened(Run(str(folder))))[1]
    )


def test_near_copies_are_photographs_of_enough_cells_in_the_data_base(tmp_path: Path) -> None:
    """Of 4 x 4 cells and fewer, most lie within a cell of anywhere."""
    feature = Feature("cells", "x", {"of": "noise"})
    sides = [12, 2, 3, 4, 12, 12, 12, 12]  # cells; photograph 0 is the one that is looked for
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(side**2, 20)).astype(np.float16) for side in sides]
    values[4] = values[6] = values[7] = values[0]  # 6 is the same file, 7 not in the data base
    gallery = gallery_of("abcdefah", [False] + [True] * 6 + [False])
    cells = [np.array(list(np.ndindex(side, side))) for side in sides]
    keys = {
        "image": [image for image, at in zip(gallery.images, cells, strict=True) for _ in at],
        "row": np.concatenate(cells)[:, 0].astype(np.int16),
        "col": np.concatenate(cells)[:, 1].astype(np.int16),
        "height": np.repeat(16 * np.array(sides), [len(at) for at in cells]).astype(np.int16),
    }
    table = feature_table(feature, keys | {"width": keys["height"]}, np.concatenate(values))
    Folder(tmp_path).write_table("part.parquet", table)
    axes = {16 * side: axis(16 * side) for side in sides}
    layer = Layer("x", (feature.folder,), 0, axes, 192)
    wide, nowhere = np.full(144, 192), np.full(144, -1)
    asked = Queries(np.zeros(144, np.int64), cells[0], wide, wide, nowhere, values[0])
    arguments = gallery, Folder(tmp_path), layer, ["part.parquet"]
    assert near_copies(*arguments, asked, 0.45) == [(0, 4, 1.0)]
    nobody = Queries(*(column[:0] for column in vars(asked).values()))
    assert near_copies(*arguments, nobody, 0.45) == []
    blank = replace(asked, values=np.zeros_like(asked.values))
    assert near_copies(*arguments, blank, 0.45) == []


def test_mirror_images_in_the_data_base(
    plain: Path, voc: Path, tmp_path: Path, blocks: list[str]
) -> None:
    ((val, train),) = pairs(plain, 1)
    with Image.open(voc / train) as picture:
        mirror = np.asarray(picture)[:, ::-1]
    Image.fromarray(mirror).save(voc / val, "PNG")
    settings = of_voc(blocks, voc, f"visualize.images={json.dumps([val, 'auto'])}")
    folder = tmp_path / "run"
    run(folder, settings, *STAGES)
    _, before = made(folder)
    settings += ["visualize.mirrored=true"]
    run(folder, settings, *STAGES)
    oracle = assert_as_sorted(folder, settings)
    _, visualized = made(folder)
    for key in ("cells", "whole"):
        assert getattr(visualized.bases["Blocks"], key) == 2 * getattr(before.bases["Blocks"], key)
    assert visualized.bases["Blocks"].photographs == before.bases["Blocks"].photographs
    assert visualized.copies == before.copies == {}
    ids, cosines = merged(folder, oracle, "found")
    asked = queries(folder, oracle)
    mine = [n for n, query in enumerate(asked) if query.image == val]
    first = [oracle.by_id[ids[n][0]] for n in mine]
    assert np.mean([cell[:2] == (train, True) for cell in first]) > 0.98  # flat patches tie
    assert np.mean([cell[2:4] == asked[n][1:3] for n, cell in zip(mine, first, strict=True)]) > 0.98
    assert cosines[mine, 0].min() > 1 - 1e-6

    def psnr(of: Visualized) -> float:
        return next(e.psnr for e in of.rebuilt if e[:4] == ("Blocks", val, NEIGHBOURS, 1))

    assert psnr(visualized) > 40 > psnr(before) + 10
    assert {oracle.by_id[id_].mirrored for id_ in ids.ravel()} == {False, True}


def test_cells_of_mirror_images_that_were_not_kept(copy: Path, blocks: list[str]) -> None:
    settings = [*blocks, "visualize.mirrored=true"]
    with pytest.raises(DistcorrError, match="no mirrored/Blocks") as caught:
        run(copy, settings)
    assert caught.value.exit_code == MISSING
    assert "distcorr build-db --set visualize.mirrored=true" in caught.value.hint
    context = Context(toy_config(settings), Run(str(copy)), Session(toy_config(settings).compute))
    assert "waits for build-db to make mirrored/Blocks" in forecast_stage("visualize", context).note


# -- the same, whichever way it is found ---------------------------------------------------------


def numbers(folder: Path) -> list[dict[str, Any]]:
    """Everything that a report reads, without where it stands."""
    averages = sorted(
        rows(folder, "averages"), key=lambda r: (r["layer"], r["place"], r["method"], r["k"])
    )
    pictures = [row for row in rows(folder, "pictures") if row["layer"]]
    return [*rows(folder, "errors"), *averages, *pictures]


def test_neither_part_files_nor_pieces_nor_groups_change_anything(
    plain: Path, tmp_path: Path, toy: Path, blocks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visualize, "FILES", 99)
    monkeypatch.setattr(visualize, "GROUP", 10)
    monkeypatch.setattr(visualize, "FIELDS", 1)
    folder = begun(tmp_path / "run", toy)
    run(folder, [*blocks, "features.shard=7"], *STAGES)
    assert len(rows(folder, "counts")) == 1 < len(rows(plain, "counts"))
    assert numbers(folder) == numbers(plain)
    a, b = made(plain)[1], made(folder)[1]
    assert (a.bases, a.images, a.shown, a.copies) == (b.bases, b.images, b.shown, b.copies)


def test_another_seed_draws_others(
    plain: Path, tmp_path: Path, blocks: list[str], voc: Path
) -> None:
    run(tmp_path / "run", of_voc(blocks, voc, "seed=3"), *STAGES)
    found, before = made(tmp_path / "run")[1], made(plain)[1]
    assert found.bases == before.bases
    assert set(found.images) != set(before.images)


@pytest.mark.parametrize("probes", [1, 1000])
def test_an_approximate_search_says_what_it_misses(
    copy: Path, plain: Path, blocks: list[str], probes: int
) -> None:
    settings = [*blocks, "visualize.search=ivf", f"visualize.probes={probes}"]
    run(copy, settings)
    if probes == 1:
        before = contents(copy)
        shutil.rmtree(stage_folder(copy, "visualize"))
        run(copy, settings)
        assert contents(copy) == before
    _, visualized = made(copy)
    oracle = Plain(copy, settings, "Blocks")
    asked, found = queries(copy, oracle), merged(copy, oracle, "found")[0]
    out = excluded(copy, oracle)
    exact = nearest(asked, oracle.cells, 5, out)[0]
    assert all(
        oracle.by_id[i].image not in out[q.image]
        for q, r in zip(asked, found, strict=True)
        for i in r
        if i >= 0
    )
    recall = visualized.recall["Blocks"]
    assert recall.keys() == {1, 5}
    for k, share in recall.items():  # all of these queries are measured: 128 and 64 of a task
        hits = [np.isin(e[:k], f[:k]).mean() for e, f in zip(exact, found, strict=True)]
        assert share == pytest.approx(np.mean(hits), abs=0.01)
    if probes == 1:
        assert 0.1 < recall[5] < 1
        return
    assert min(recall.values()) > 0.995  # float32 decides which of two near ties is the fifth
    cosines = merged(copy, oracle, "found")[1]
    np.testing.assert_allclose(cosines, merged(plain, oracle, "found")[1], rtol=0, atol=1e-6)
    for mine, other in zip(visualized.rebuilt, made(plain)[1].rebuilt, strict=True):
        assert mine[:4] == other[:4]
        assert mine[4:7] == pytest.approx(other[4:7], rel=0.01)
    assert made(plain)[1].recall == {}


KINDS = {"queries-Blocks": "look", "copies": "copies", "found-Blocks": "find"}
KINDS |= {"errors": "rebuild", "averages": "average"}


def test_what_is_lost_is_done_again_and_nothing_else(
    plain: Path, copy: Path, blocks: list[str]
) -> None:
    assert run(copy, blocks)[0]["visualize"].computed == 0
    stage = stage_folder(copy, "visualize")
    lost = [max((stage / table).iterdir()) for table in KINDS]
    before = {path: path.stat().st_mtime_ns for path in stage.rglob("*.parquet")}
    for path in lost:
        path.unlink()
    (stage / "_done.json").unlink()
    config = toy_config(blocks)
    context = Context(config, Run(str(copy)), Session(config.compute))
    forecast = forecast_stage("visualize", context)
    assert forecast.todo == len(KINDS)
    done = run(copy, blocks)[0]["visualize"]
    assert (done.computed, done.shards) == (len(KINDS), forecast.shards)
    assert_same(plain, copy)
    parts = {path.name for path in lost}
    anew = {p for p in before if p.stat().st_mtime_ns != before[p]}
    assert {path.name for path in anew} == parts


def test_another_setting_is_kept_beside_the_first(
    plain: Path, copy: Path, blocks: list[str]
) -> None:
    before = contents(copy)
    other = run(copy, [*blocks, "visualize.ks=[2]"])[0]["visualize"]
    assert other.computed == other.shards
    assert {e.k for e in made(copy)[1].rebuilt} == {2}
    assert run(copy, blocks)[0]["visualize"].computed == 0
    after = contents(copy)
    assert {name: after[name] for name in before} == before


# -- faults ----------------------------------------------------------------------------------------


def test_a_data_base_of_fewer_cells_than_k(tmp_path: Path, toy: Path, blocks: list[str]) -> None:
    """One photograph of 64 cells: a hundred neighbours are all of them, wherever one looks."""
    folder = begun(tmp_path / "run", toy)
    settings = [*blocks, "dataset.limit=1", 'dataset.categories=["fish"]']
    settings += ["visualize.ks=[1,100]", "visualize.averaged=[2,100]", "visualize.photographs=1"]
    run(folder, settings, *STAGES)
    _, visualized = made(folder)
    assert visualized.bases["Blocks"][:3] == (64, 0, 36)
    errors = {(e.method, e.k): e.short for e in visualized.rebuilt}
    assert errors[NEIGHBOURS, 1] == errors[UNIFORM, 1] == errors[UNIFORM, 100] == 0
    assert errors[NEIGHBOURS, 100] == 64
    assert errors[RANDOM, 100] == 0  # drawn with replacement
    oracle = Plain(folder, settings, "Blocks")
    mean = np.mean([oracle.crop(cell, 16) for cell in oracle.cells], axis=0)
    picture = visualized.picture("Blocks", visualized.images[0], NEIGHBOURS, 100)
    np.testing.assert_array_equal(picture, np.tile(np.floor(mean + 0.5), (8, 8, 1)))
    found = {(a.method, a.k): a.found for a in visualized.averages() if a.place == 0}
    assert found == {
        (NEIGHBOURS, 2): 2,
        (NEIGHBOURS, 100): 36,
        (RANDOM, 2): 2,
        (RANDOM, 100): 100,
    }
    all_fields = [oracle.crop(cell, 48) for cell in oracle.cells if oracle.whole(cell)]
    (wide,) = (a for a in visualized.averages() if a.place == 0 and a[5:7] == (NEIGHBOURS, 100))
    np.testing.assert_allclose(wide.mean, np.mean(all_fields, axis=0), atol=1e-4)


@pytest.mark.parametrize("extractor", ["Light", "Nothing"])
def test_features_of_zero_have_no_neighbours(
    tmp_path: Path, toy: Path, blocks: list[str], extractor: str
) -> None:
    folder = begun(tmp_path / "run", toy)
    settings = [*blocks, f"features.network=seen_feats:{extractor}"]
    _, warnings = run(folder, settings, *STAGES)
    oracle = Plain(folder, settings, extractor)
    stage, visualized = made(folder)
    solid = [cell for cell in oracle.cells if cell.value.any()]
    dark = len(oracle.cells) - len(solid)
    assert visualized.bases[extractor][:2] == (len(solid), dark)
    assert visualized.bases[extractor].whole == sum(map(oracle.whole, solid))
    asked = queries(folder, oracle)
    blank = [query for query in asked if not query.value.any()]
    assert blank
    for image in visualized.images:
        short = sum(query.image == image for query in blank)
        known = {(e.method, e.k): e.short for e in visualized.rebuilt if e.image == image}
        assert known == {
            (method, k): short if method == NEIGHBOURS else 0
            for method in (NEIGHBOURS, UNIFORM, RANDOM)
            for k in (1, 5)
        }
        picture = visualized.picture(extractor, image, NEIGHBOURS, 5)
        for query in blank:
            if query.image == image:
                block = picture[16 * query.row :, 16 * query.col :][:16, :16]
                assert (block == rebuild.MEAN_COLOUR).all()
    letters = stage.dead_letters()
    if extractor == "Light":
        assert 0 < len(solid) < len(oracle.cells)
        assert all(query.value.any() for query in asked if query.place >= 0)
        assert letters == []
        assert_nearest(
            merged(folder, oracle, "found"),
            nearest(asked, oracle.cells, 5, excluded(folder, oracle)),
        )
        return
    assert solid == []
    assert list(visualized.averages()) == []
    assert {letter.id for letter in letters} == set(visualized.images)
    assert all("feature" in letter.error for letter in letters)
    assert not any(letter.broken for letter in letters)
    assert any("left out of visualize" in warning for warning in warnings)
    _, notes = locality.rows(locality.opened(Run(str(folder))))
    assert any("no random cell" in note for note in notes)


def test_photographs_too_small_for_a_layer_or_a_field(
    tmp_path: Path, voc: Path, blocks: list[str], alexnet: Path, native: tuple[Path, list[str]]
) -> None:
    """conv3 sees 99 px: of 20 px there is no cell, of 80 px none whose field is inside."""
    build = Run(str(native[0])).finished("build-db")
    assert build is not None
    images = sorted({i.image for i in FeatureStore(build).instances if i.split == "val"})[:3]
    train = min(i.image for i in FeatureStore(build).instances if i.split == "train")
    for image, height in ((images[0], 20), (images[1], 80), (train, 20)):
        with Image.open(voc / image) as picture:
            picture.resize((260, height)).save(voc / image, "PNG")
    settings = of_voc(blocks, voc, "features.network=alexnet", f'features.weights="{alexnet}"')
    settings += ['features.cells=["conv3"]', 'dataset.categories=["fish"]']
    settings += [f"visualize.images={json.dumps(images)}", "visualize.seeds=6"]
    folder = tmp_path / "run"
    run(folder, settings, *STAGES)
    stage, visualized = made(folder)
    letters = {letter.id: letter for letter in stage.dead_letters()}
    assert letters.keys() == {images[0], images[1]}
    assert letters[images[0]].error == "seen at 260 x 20 px, it is too small for conv3"
    assert "2 random cells less in Figure 2" in letters[images[1]].error
    assert "99 px inside the picture of 260 x 80 px" in letters[images[1]].error
    assert not any(letter.broken for letter in letters.values())
    assert visualized.images == images[1:]
    assert {each.image for each in visualized.averages()} == {images[2]}
    oracle = Plain(folder, settings, "conv3")
    out, asked = excluded(folder, oracle), queries(folder, oracle)
    assert_nearest(merged(folder, oracle, "found"), nearest(asked, oracle.cells, 5, out))
    assert train not in {cell.image for cell in oracle.cells}
    _, notes = locality.rows(locality.opened(Run(str(folder))))
    assert any(note.startswith("2 photographs lack something") for note in notes)


def test_a_part_of_other_weights_is_refused_by_name(
    plain: Path, tmp_path: Path, toy: Path, blocks: list[str]
) -> None:
    other = begun(tmp_path / "other", toy)
    run(other, [*blocks, "features.network=seen_feats:Other"], "build-db")
    folder = begun(tmp_path / "run", toy)
    run(folder, blocks, "build-db")
    victim = max((folder / "store").glob("cells-Blocks-*/*.parquet"))
    (foreign,) = (other / "store").glob(f"cells-Blocks-*/{victim.name}")
    shutil.copy(foreign, victim)
    with pytest.raises(DistcorrError, match="shards of visualize failed") as caught:
        run(folder, blocks)
    assert caught.value.exit_code == PARTIAL
    assert f"{victim.parent.name}/{victim.name} was made with other weights" in caught.value.message
    assert not Run(str(folder)).finished("visualize")
    done = sorted((stage_folder(folder, "visualize") / "shards").iterdir())
    assert done  # the cells of the photographs, and what other files of the data base say
    times = {path: path.stat().st_mtime_ns for path in done}
    victim.unlink()
    assert run(folder, blocks, "build-db")[0]["build-db"].computed == 1
    run(folder, blocks)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert_same(plain, folder)


@pytest.mark.parametrize("fault", ["gone", "other"])
def test_weights_that_are_gone_or_changed(
    native: tuple[Path, list[str]], tmp_path: Path, fault: str
) -> None:
    folder, settings = tmp_path / "copy", native[1]
    shutil.copytree(native[0], folder)
    shutil.rmtree(stage_folder(folder, "visualize"))
    path = tmp_path / "weights.npz"
    if fault == "other":
        with np.load(toy_config(settings).features.weights) as arrays:
            found = dict(arrays)
        np.savez(path, **found | {"conv2.bias": found["conv2.bias"] + 1})
    config = toy_config(settings)
    config = replace(config, features=replace(config.features, weights=str(path)))
    (folder / "config.toml").unlink()  # or the other path would be refused at once
    with Session(config.compute) as session, pytest.raises(DistcorrError) as caught:
        run_stage("visualize", Context(config, Run(str(folder)), session))
    assert caught.value.exit_code == MISSING
    if fault == "gone":
        assert "visualize looks at photographs again and needs the network" in caught.value.message
        assert "distcorr build-db" in caught.value.hint
    else:
        assert "cells-conv3" in caught.value.message
        assert "made with other weights" in caught.value.message
    assert not Run(str(folder)).finished("visualize")


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_a_photograph_costs_itself_and_comes_back(
    plain: Path, copy: Path, blocks: list[str], fault: str
) -> None:
    (_, whole), (_, warnings) = made(plain), run(copy, blocks)
    assert not any("build-db saw" in warning for warning in warnings)
    lost, *others = whole.images
    path = copy / "toy" / lost
    content = path.read_bytes()
    path.unlink()
    if fault == "changed":
        Image.new("RGB", (300, 300)).save(path)
    _, warnings = run(copy, blocks)
    _, visualized = made(copy)
    (note,) = (n for n in visualized.notes if "not as build-db saw" in n)
    assert note in warnings
    assert lost in note
    assert visualized.images == others
    assert visualized.rebuilt == [e for e in whole.rebuilt if e.image != lost]
    path.write_bytes(content)
    _, warnings = run(copy, blocks)
    assert warnings == []
    assert made(copy)[1].notes == []
    after, before = contents(copy), contents(plain)
    assert {name: after[name] for name in before} == before


def test_all_photographs_are_missing(plain: Path, copy: Path, blocks: list[str]) -> None:
    """Refused before anything is lost: with the photographs back, nothing is left to do."""
    _, before = made(copy)
    for image in before.images:
        (copy / "toy" / image).unlink()
    with pytest.raises(DistcorrError, match="None of the 3 photographs to rebuild") as caught:
        run(copy, blocks)
    assert caught.value.exit_code == 3
    for image in before.images:
        shutil.copy(plain / "toy" / image, copy / "toy" / image)
    run(copy, blocks)
    assert_same(plain, copy)


def test_a_group_without_a_cell(
    plain: Path, copy: Path, blocks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the first two photographs is finite: the third does not suffer from it."""
    first, second, third = made(copy)[1].images
    looked, oracle = locality_tasks.in_batches, Plain(plain, blocks, "Blocks")

    def spoilt(source: Any, images: Array, *more: Any) -> Any:
        found = looked(source, images, *more)
        broken = any((images[0] == oracle.picture(i)).all() for i in (first, second))
        return {tap: np.full_like(v, np.inf) if broken else v for tap, v in found.items()}

    monkeypatch.setattr(locality_tasks, "in_batches", spoilt)
    shutil.rmtree(stage_folder(copy, "visualize"))
    for more in ([], ["visualize.search=ivf", "visualize.probes=1000"]):
        run(copy, [*blocks, *more])
        stage, visualized = made(copy)
        letters = {letter.id: letter.error for letter in stage.dead_letters()}
        reason = "Blocks is not finite, or too large for float16"
        assert letters == {first: reason, second: reason}
        assert visualized.images == [third]
        assert visualized.bases == made(plain)[1].bases
        assert {each.image for each in visualized.averages()} == {third}
        assert all(share > 0.99 for share in visualized.recall.get("Blocks", {}).values())
        if not more:
            of_third = [e for e in made(plain)[1].rebuilt if e.image == third]
            assert visualized.rebuilt == of_third
    assert visualized.recall.keys() == {"Blocks"}


def test_a_photograph_of_the_data_base_that_is_gone_is_named(
    plain: Path, copy: Path, blocks: list[str]
) -> None:
    shutil.rmtree(stage_folder(copy, "visualize"))
    store = Plain(plain, blocks, "Blocks").store
    for image in {i.image for i in store.instances if i.split == "train"}:
        (copy / "toy" / image).rename(copy / "toy" / image.replace(".jpg", ".away"))
    with pytest.raises(DistcorrError, match=r"2011_\d+\.jpg is not what it was") as caught:
        run(copy, blocks)
    assert caught.value.exit_code == PARTIAL
    done = run_markers(copy)
    for path in (copy / "toy").rglob("*.away"):
        path.rename(path.with_suffix(".jpg"))
    run(copy, blocks)
    assert {name: time for name, time in run_markers(copy).items() if name in done} == done
    assert_same(plain, copy)


def run_markers(folder: Path) -> dict[str, int]:
    shards = (stage_folder(folder, "visualize") / "shards").iterdir()
    return {path.name: path.stat().st_mtime_ns for path in shards}


# -- what is asked for ---------------------------------------------------------------------------


def test_photographs_that_are_asked_for_come_first(copy: Path, blocks: list[str]) -> None:
    store = Plain(copy, blocks, "Blocks").store
    train = max(i.image for i in store.instances if i.split == "train")
    last = max(i.image for i in store.instances if i.split == "val")
    drawn = made(copy)[1].images
    names = [Path(train).stem, last, "auto", last]
    run(copy, [*blocks, f"visualize.images={json.dumps(names)}", "visualize.photographs=4"])
    _, visualized = made(copy)
    expected = [train, last, *(image for image in drawn if image != last)]
    assert visualized.images == expected[:4]
    assert visualized.shown == expected[:3]
    oracle = Plain(copy, blocks, "Blocks")
    ids, out = merged(copy, oracle, "found")[0], excluded(copy, oracle)
    for query, mine in zip(queries(copy, oracle), ids, strict=True):
        assert out[query.image].isdisjoint(oracle.by_id[id_].image for id_ in mine)


def test_an_unknown_photograph(copy: Path, blocks: list[str]) -> None:
    stem = Path(made(copy)[1].images[0]).stem
    names = json.dumps(["auto", f"{stem}x"])
    with pytest.raises(DistcorrError, match=f"names '{stem}x'.*Did you mean '{stem}'") as caught:
        run(copy, [*blocks, f"visualize.images={names}"])
    assert caught.value.exit_code == USAGE
    assert caught.value.hint


def test_more_photographs_than_there_are(copy: Path, blocks: list[str]) -> None:
    _, warnings = run(copy, [*blocks, "visualize.photographs=500"])
    validation = {
        i.image for i in Plain(copy, blocks, "Blocks").store.instances if i.split == "val"
    }
    note = f"{len(validation)} photographs are rebuilt; 500 were asked for."
    assert note in warnings
    _, visualized = made(copy)
    assert set(visualized.images) == validation
    assert visualized.notes == [note]
    assert len(visualized.shown) == 3


def test_no_layer_whose_cells_are_kept(tmp_path: Path, toy: Path, blocks: list[str]) -> None:
    folder = begun(tmp_path / "run", toy)
    settings = [*blocks, "features.cells=[]"]
    done, warnings = run(folder, settings, *STAGES, "neighbors", "transfer")
    note = "No layer's cells are kept (features.cells): no Figures 1 and 2."
    assert note in warnings
    assert done["visualize"].shards == 0
    _, visualized = made(folder)
    assert (visualized.layers, visualized.notes) == ([], [note])
    report = tables.build(Run(str(folder)))
    assert note in report.notes
    assert not any(table.startswith(("figure1", "figure2")) for table in report.tables)
    assert "table2" in report.tables
    with pytest.raises(DistcorrError, match="keeps no cells of whole photographs"):
        own(folder, settings, folder / "toy" / visualized_image(folder))
    done, _ = run(folder, blocks, *STAGES)  # and with them
    assert done["visualize"].shards > 0
    assert made(folder)[1].layers == ["Blocks"]


def visualized_image(folder: Path) -> str:
    build = Run(str(folder)).finished("build-db")
    assert build is not None
    return FeatureStore(build).instances[0].image


def test_pictures_may_be_few_or_none(copy: Path, blocks: list[str]) -> None:
    run(copy, [*blocks, "visualize.shown=0", "visualize.drawn=0", "visualize.seeds=1"])
    _, visualized = made(copy)
    assert visualized.shown == []
    assert len(visualized.images) == 3
    assert {each.place for each in visualized.averages()} == {0}
    assert all(each.mean is None and each.crop is None for each in visualized.averages())
    assert rows(copy, "pictures") == []


# -- a picture of the user's ---------------------------------------------------------------------


def own(folder: Path, settings: list[str], file: Path) -> Any:
    config = toy_config(settings)
    with Session(config.compute) as session:
        return rebuild_own(Context(config, Run(str(folder)), session, Recorder()), str(file))


@pytest.mark.parametrize("base", ["train", "all"])
def test_a_photograph_of_the_run_is_rebuilt_as_the_stage_has_it(
    copy: Path, blocks: list[str], base: str
) -> None:
    """It is left out as a copy of itself; what depends on its name and its boxes may differ."""
    settings = [*blocks, f"visualize.base={base}"]
    run(copy, settings)
    _, visualized = made(copy)
    for image in visualized.images[:2]:
        before = contents(copy)
        found = own(copy, settings, copy / "toy" / image)
        assert contents(copy) == before
        assert found.copies == ([image] if base == "all" else [])
        assert found.bases == visualized.bases
        assert (found.image, found.shown, found.layers) == (
            Path(image).name,
            [Path(image).name],
            ["Blocks"],
        )
        np.testing.assert_array_equal(
            found.picture("", "", ORIGINAL, 0), visualized.picture("", image, ORIGINAL, 0)
        )
        assert [e[2:4] for e in found.rebuilt] == [
            e[2:4] for e in visualized.rebuilt if e.image == image
        ]
        for mine in found.rebuilt:
            if mine.method == NEIGHBOURS:
                (stage,) = (
                    e for e in visualized.rebuilt if (e.image, *e[2:4]) == (image, *mine[2:4])
                )
                assert mine[4:9] == stage[4:9]
                key = mine.layer, image, mine.method, mine.k
                np.testing.assert_array_equal(found.picture(*key), visualized.picture(*key))


@pytest.mark.parametrize("layer", ["conv3", "sift20"])
def test_layers_of_any_size_rebuild_it_too(native: tuple[Path, list[str]], layer: str) -> None:
    folder, settings = native
    _, visualized = made(folder)
    image = visualized.images[0]
    found = own(folder, settings, folder / "toy" / image)
    assert found.bases == visualized.bases
    mine = {e[2:4]: e for e in found.rebuilt if e.layer == layer}
    for stage in visualized.rebuilt:
        if (stage.layer, stage.image, stage.method) == (layer, image, NEIGHBOURS):
            assert mine[stage[2:4]][4:9] == stage[4:9]


def test_near_copies_and_mirror_images_of_a_picture(
    plain: Path, tmp_path: Path, blocks: list[str]
) -> None:
    store = Plain(plain, blocks, "Blocks").store
    image = min(i.image for i in store.instances if i.split == "train")
    with Image.open(plain / "toy" / image) as picture:
        picture.save(tmp_path / "again.jpg", quality=50)
    found = own(plain, blocks, tmp_path / "again.jpg")
    assert found.copies == [image]
    kept = own(plain, [*blocks, "visualize.copies=0"], tmp_path / "again.jpg")
    assert kept.copies == []

    def psnr(of: Any) -> float:
        return next(e.psnr for e in of.rebuilt if e[2:4] == (NEIGHBOURS, 1))

    assert psnr(kept) > psnr(found) + 5


def test_a_picture_turned_by_its_camera_is_seen_upright(
    plain: Path, tmp_path: Path, blocks: list[str]
) -> None:
    image = made(plain)[1].images[0]
    with Image.open(plain / "toy" / image) as picture:
        pixels = np.asarray(picture)
    turned, exif = Image.fromarray(np.ascontiguousarray(np.rot90(pixels))), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by whoever shows it
    turned.save(tmp_path / "turned.png", exif=exif)
    found = own(plain, blocks, tmp_path / "turned.png")
    np.testing.assert_array_equal(found.original, pixels)


def test_a_picture_too_small_for_some_layers(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    Image.new("RGB", (5, 5)).save(tmp_path / "tiny.png")
    with pytest.raises(DistcorrError, match="5 x 5 px, it is too small for conv3") as caught:
        own(folder, settings, tmp_path / "tiny.png")
    assert (caught.value.exit_code, caught.value.hint) == (MISSING, "give a larger picture")

"""Files of detectors: what is written comes back, and nothing else is taken for one."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from distcorr.data.portable import (
    FACTS,
    VERSION,
    LayerDetectors,
    Portable,
    Prior,
    from_bytes,
    to_bytes,
)
from distcorr.data.store import Feature
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Geometry

NAMES = ("Eye", "Nose", "Tail")


def layer(name: str, block: int, cells: int, rows: list[int]) -> LayerDetectors:
    rng = np.random.default_rng(len(name))
    keypoints = rng.uniform(0, 500, (len(rows), 3, 2))
    keypoints[0, 1] = np.nan
    return LayerDetectors(
        Feature("grids500", name, {"side": 500, "source": {"weights": {}}}, "AlexNet"),
        name,
        Geometry(500, 16, 17.0, 163, cells),
        block,
        rng.normal(size=(3, block**2 * 4)).astype(np.float32),
        np.array([0.5, -np.inf, -1], np.float32),
        0.1234567890123,
        0.1,
        22.0,
        np.array(rows, np.int32),
        keypoints,
        0.75 if block == 1 else np.nan,
    )


@pytest.fixture
def portable() -> Portable:
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float16)
    return Portable(
        "bird",
        NAMES,
        {"conv5": layer("conv5", 3, 5, [0, 1, 3]), "dsift8": layer("dsift8", 1, 6, [2])},
        Prior(Feature("vectors", "pool5", {"side": 227}, "AlexNet"), "pool5", vectors),
        0.05,
        {"network": "alexnet", "grids": ["sift20"], "weights": ""},
        2014,
        {"weights": "AlexNet", "made_from": ["key", 0.1]},
    )


def assert_equal(one: Any, two: Any) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
        elif isinstance(a, float):
            np.testing.assert_equal(a, b)
        else:
            assert a == b, field.name


def test_what_is_written_comes_back(portable: Portable) -> None:
    found = from_bytes(to_bytes(portable), "bird.npz")
    assert list(found.layers) == ["conv5", "dsift8"]
    for name, each in portable.layers.items():
        assert_equal(each, found.layers[name])
    assert_equal(portable.prior, found.prior)
    assert_equal(replace(portable, layers={}, prior=None), replace(found, layers={}, prior=None))


def test_equal_detectors_are_equal_bytes(
    portable: Portable, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = to_bytes(portable)
    now = time.localtime(86400 * 365 * 40)
    monkeypatch.setattr(time, "localtime", lambda *_: now)
    assert to_bytes(portable) == content
    assert to_bytes(from_bytes(content, "x")) == content


def test_numpy_alone_opens_it(portable: Portable) -> None:
    with np.load(io.BytesIO(to_bytes(portable)), allow_pickle=False) as archive:
        assert archive["conv5.coef"].shape == (3, 36)
        assert json.loads(archive[FACTS])["names"] == list(NAMES)


def test_the_scale_is_in_the_coefficients(portable: Portable) -> None:
    detectors = portable.layers["conv5"].detectors
    assert (detectors.scale, detectors.block) == (1, 3)
    assert detectors.linear.coef.astype(np.float32).tobytes() == (
        portable.layers["conv5"].coef.tobytes()
    )


# -- what is none ------------------------------------------------------------------------------


def changed(content: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The archive with other facts or arrays, whole and in order."""
    with np.load(io.BytesIO(content)) as archive:
        facts = json.loads(archive[FACTS])
        arrays = {name: archive[name] for name in archive.files if name != FACTS}
    change(facts, arrays)
    out = io.BytesIO()
    np.savez(out, allow_pickle=True, **arrays)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(FACTS, json.dumps(facts))
    return out.getvalue()


def refused(content: bytes, *words: str) -> None:
    with pytest.raises(DistcorrError) as caught:
        from_bytes(content, "bird.npz")
    assert caught.value.exit_code == MISSING
    assert caught.value.hint
    for word in ("bird.npz", *words):
        assert word in caught.value.message, caught.value.message


def test_damaged_files_are_refused(portable: Portable) -> None:
    content = to_bytes(portable)
    refused(b"", "is damaged")
    refused(b"words", "is damaged")
    for end in (10, 300, len(content) // 2, len(content) - 1):
        refused(content[:end], "is damaged")
    for at in range(60, len(content), len(content) // 25):
        torn = bytearray(content)
        torn[at] ^= 255
        try:  # a byte that no reader looks at may change
            same = to_bytes(from_bytes(bytes(torn), "bird.npz")) == content
        except DistcorrError:
            same = True
        assert same


def test_foreign_files_are_refused() -> None:
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    refused(out.getvalue(), "no archive")
    out = io.BytesIO()
    np.savez(out, **{"conv1.weight": np.zeros(3)})
    refused(out.getvalue(), "no facts.json of detectors")


def test_another_version_is_refused(portable: Portable) -> None:
    newer = changed(to_bytes(portable), lambda facts, _: facts.update(version=VERSION + 1))
    refused(newer, f"version {VERSION}", f"got {VERSION + 1}")


def test_nothing_is_unpickled(portable: Portable) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("unpickled",)

    def trap(_: Any, arrays: dict[str, Any]) -> None:
        arrays["conv5.coef"] = np.array([Trap()], object)

    refused(changed(to_bytes(portable), trap), "is damaged")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, a: f.pop("names"), "'names' is missing"),
        (lambda f, a: a.pop("conv5.coef"), "conv5.coef"),
        (lambda f, a: f["names"].append("Wing"), "conv5.coef"),
        (lambda f, a: f.update(layers=[]), "there is a layer"),
        (lambda f, a: f["layers"][0].update(eta=1.5), "eta lies in 0 to 1"),
        (lambda f, a: f["layers"][0].update(sigma=0), "sigma is above 0"),
        (lambda f, a: f["layers"][0].update(block=6), "block"),
        (lambda f, a: f["layers"][0].update(block=5), "blocks"),
        (lambda f, a: f["layers"][0]["geometry"].pop("rf"), "rf"),
        (lambda f, a: a.update({"conv5.coef": np.zeros((3, 36))}), "conv5.coef is float32"),
        (lambda f, a: a["conv5.coef"].fill(np.nan), "conv5.coef is finite"),
        (lambda f, a: a["conv5.intercept"].fill(np.inf), "conv5.intercept is finite"),
        (lambda f, a: a["conv5.rows"].fill(4), "conv5.rows"),
        (lambda f, a: a.update({"conv5.rows": np.zeros(2, np.int32)}), "conv5.rows"),
        (lambda f, a: a["prior.vectors"].fill(np.inf), "prior.vectors is finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    portable: Portable, change: Callable[[Any, Any], Any], words: str
) -> None:
    def both(facts: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays |= {name: array.copy() for name, array in arrays.items()}
        change(facts, arrays)

    refused(changed(to_bytes(portable), both), words)

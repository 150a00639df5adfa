"""Caffemodels in both layouts, encoded here."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.data.caffemodel import read_caffemodel
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError

CONV = np.arange(5 * 2 * 3 * 3, dtype=np.float32).reshape(5, 2, 3, 3) / 7
CONV_BIAS = np.arange(5, dtype=np.float32) - 2
FC = np.arange(3 * 20, dtype=np.float32).reshape(3, 20) / 11
FC_BIAS = np.array([0.5, -1, 2], np.float32)
EXPECTED = {"conv1.weight": CONV, "conv1.bias": CONV_BIAS, "fc6.weight": FC, "fc6.bias": FC_BIAS}


# -- a protocol buffer writer ---------------------------------------------------------------


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def message(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def single(field, value):
    return varint(field << 3 | 5) + struct.pack("<f", value)


def blob(array, *, shape=None, packed=True, legacy=False, double=False):
    shape = array.shape if shape is None else shape
    if legacy:
        head = b"".join(number(field, dim) for field, dim in zip((1, 2, 3, 4), shape, strict=True))
    elif packed:
        head = message(7, message(1, b"".join(varint(dim) for dim in shape)))
    else:
        head = message(7, b"".join(number(1, dim) for dim in shape))
    if double:
        return head + message(8, array.astype("<f8").tobytes())
    if not packed:
        return head + b"".join(single(5, value) for value in array.ravel())
    data = array.astype("<f4").tobytes()
    # Two packed runs, which a reader has to join, between fields that it has to skip.
    return message(6, data) + message(5, data[:8]) + head + message(5, data[8:])


def old_layout(**how):
    """V1LayerParameter, with 4-D blobs for everything."""
    four = {"conv1.weight": CONV.shape, "conv1.bias": (1, 1, 1, 5)}
    four |= {"fc6.weight": (1, 1, 3, 20), "fc6.bias": (1, 1, 1, 3)}
    blobs = {k: message(6, blob(EXPECTED[k], shape=s, legacy=True, **how)) for k, s in four.items()}
    conv = number(5, 4) + message(4, b"conv1") + blobs["conv1.weight"] + blobs["conv1.bias"]
    fc = message(4, b"fc6") + number(5, 14) + blobs["fc6.weight"] + blobs["fc6.bias"]
    relu = message(2, b"conv1") + message(3, b"conv1") + message(4, b"relu1") + number(5, 18)
    return message(1, b"net") + b"".join(message(2, layer) for layer in (conv, relu, fc))


def new_layout(**how):
    """LayerParameter, with BlobShape."""
    blobs = {name: message(7, blob(array, **how)) for name, array in EXPECTED.items()}
    conv = message(1, b"conv1") + message(2, b"Convolution")
    conv += blobs["conv1.weight"] + single(5, 1.0) + blobs["conv1.bias"]
    fc = message(2, b"InnerProduct") + message(1, b"fc6") + blobs["fc6.weight"] + blobs["fc6.bias"]
    unknown = varint(99 << 3 | 1) + b"8 bytes." + single(98, 1.0) + number(97, 2**40)
    return message(1, b"net") + unknown + message(100, conv) + message(100, fc)


LAYOUTS = [
    pytest.param(layout(**how), id=f"{layout.__name__} {how}")
    for layout in (old_layout, new_layout)
    for how in ({}, {"packed": False}, {"double": True})
]


@pytest.mark.parametrize("content", LAYOUTS)
def test_both_layouts_give_the_same_arrays(content, tmp_path):
    (tmp_path / "my_caffenet.caffemodel").write_bytes(content)
    found = load_weights(str(tmp_path / "my_caffenet.caffemodel"))
    assert list(found.arrays) == list(EXPECTED)
    for name, array in EXPECTED.items():
        assert found.arrays[name].dtype == np.float32
        np.testing.assert_array_equal(found.arrays[name], array)
    assert (found.network, found.label) == ("caffenet", "caffenet from my_caffenet.caffemodel")


@pytest.mark.parametrize("content", LAYOUTS)
def test_a_truncated_caffemodel_is_refused(content, tmp_path):
    path = tmp_path / "caffenet.caffemodel"
    for length in (len(content) - 1, len(content) // 2, 9):
        path.write_bytes(content[:length])
        with pytest.raises(DistcorrError, match="damaged") as caught:
            load_weights(str(path))
        assert caught.value.exit_code == 3


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(content):
    try:
        assert isinstance(read_caffemodel(content), dict)
    except ValueError:
        pass


@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"\xff" * 30])
def test_what_is_not_a_caffemodel_is_refused(content, tmp_path):
    (tmp_path / "caffenet.caffemodel").write_bytes(content)
    with pytest.raises(DistcorrError, match="damaged or not what their name says"):
        load_weights(str(tmp_path / "caffenet.caffemodel"))


def test_a_blob_whose_shape_does_not_fit_is_refused():
    layer = message(1, b"conv1") + message(7, blob(CONV, shape=(5, 2, 3, 4)))
    with pytest.raises(ValueError, match=r"shape \[5, 2, 3, 4\] holds 90 numbers"):
        read_caffemodel(message(100, layer))

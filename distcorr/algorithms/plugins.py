"""Extractors of the user's own: a class in a file, no change to distcorr.

The contract: a class or function, called as ``factory(device=device)`` if it takes ``device`` and
as ``factory()`` otherwise, that gives an object with

* ``geometry``: a ``Geometry`` for square inputs of ``geometry.input_size`` px,
* ``channels``: an int,
* ``__call__``: images (B, S, S, 3) uint8 RGB -> (B, h, h, C) floats, numpy or torch;

and, if it likes, ``name``, ``licence`` and ``weights`` (labels for the tables) and ``fingerprint``,
a str, or a function that gives one, that changes whenever the features do.
Random weights need a seed: every worker makes the object anew. ``check_extractor`` tells whether
an object keeps the contract.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import FloatArray, Geometry

GROUP = "distcorr.extractors"  # of entry points
_SHORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # becomes part of file names


def load(name: str, device: str = "cpu") -> Plugin:
    """An extractor by name, made on a device.

    Args:
        name: "module:attribute", where the current folder is searched first, or the name of an
            entry point in the group "distcorr.extractors".
        device: "cpu", "cuda" or "cuda:1"; for factories that take it.

    Raises:
        DistcorrError: the module, a package that it imports, or the attribute is not there; it
            cannot be called so; what it gives breaks the contract.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not have it
    module, separator, attribute = name.partition(":")
    short = attribute
    if not separator:
        points = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
        if name not in points:
            raise DistcorrError(
                f"There is no extractor {name!r}.{did_you_mean(name, points)}",
                f"give module:class, or one of those installed: {', '.join(points) or 'none'}",
            )
        module, attribute, short = points[name].module, points[name].attr, name
    try:
        factory = _attribute(module, attribute)
        arguments = _arguments(factory, f"{module}:{attribute}", device)
        return Plugin(factory(**arguments), short, module)
    except ImportError as error:
        raise _not_imported(module, error) from error


class Plugin:
    """An extractor of the user's as a source with one tap, which is called like the source.

    Attributes:
        name: the extractor's ``name``, or the short name it was loaded by.
        taps: (name,).
        input_size: side of the square input in px.
        any_size: False.
        licence: label, may be empty.
        weights: likewise.
    """

    any_size = False

    def __init__(self, extractor: Any, short: str, module: str = "") -> None:
        """
        Args:
            extractor: keeps the contract above.
            short: its name, unless it has one itself.
            module: where its factory is defined.

        Raises:
            DistcorrError: it does not keep the contract, or the name does not suit file names.
        """
        geometry, channels = (getattr(extractor, key, None) for key in ("geometry", "channels"))
        self.name = str(getattr(extractor, "name", "") or short)
        if not _SHORT.fullmatch(self.name):
            raise DistcorrError(
                f"An extractor's name must be of letters, digits, '.', '_' and '-', "
                f"got {self.name!r}"
            )
        if not isinstance(geometry, Geometry):
            raise self._broken("geometry", "a distcorr.types.Geometry", geometry)
        if min(geometry.input_size, geometry.stride, geometry.rf, geometry.cells) < 1:
            raise self._broken("geometry", "positive", geometry)
        if not isinstance(channels, int | np.integer) or channels < 1:
            raise self._broken("channels", "a positive int", channels)
        if not callable(extractor):
            raise self._broken("__call__", "a method", extractor)
        self._extractor, self._geometry, self._channels = extractor, geometry, int(channels)
        self._modules = sorted({type(extractor).__module__, module or type(extractor).__module__})
        self.taps = (self.name,)
        self.input_size = geometry.input_size
        self.licence = str(getattr(extractor, "licence", ""))
        self.weights = str(getattr(extractor, "weights", ""))

    def require(self, tap: str) -> None:
        """Check that ``tap`` is the one there is; DistcorrError if not."""
        if tap not in self.taps:
            raise DistcorrError(
                f"{self.name} has no {tap!r}.{did_you_mean(tap, self.taps)}", f"it has {self.name}"
            )

    def channels(self, tap: str) -> int:
        """Number of channels; DistcorrError if there is no such tap."""
        self.require(tap)
        return self._channels

    def geometry(self, tap: str, size: int | None = None) -> Geometry:
        """Where the cells lie; DistcorrError if there is no such tap or size."""
        self.require(tap)
        if size not in (None, self.input_size):
            raise DistcorrError(f"{self.name} needs an input of {self.input_size} px, got {size}")
        return self._geometry

    def __call__(self, images: npt.NDArray[np.uint8], taps: Sequence[str]) -> dict[str, FloatArray]:
        """Features of a batch; values are not looked at, NaN passes.

        Args:
            images: (B, S, S, 3) uint8 RGB, S = ``input_size``.
            taps: the one there is, or none.

        Returns:
            tap -> (B, h, h, C) float32.

        Raises:
            DistcorrError: images or features have another shape or type.
        """
        for tap in taps:
            self.require(tap)
        images, size, cells = np.asarray(images), self.input_size, self._geometry.cells
        if images.shape != (len(images), size, size, 3) or images.dtype != np.uint8:
            raise DistcorrError(
                f"images must be (B, {size}, {size}, 3) uint8 RGB, "
                f"got {images.shape} {images.dtype}"
            )
        expected = (len(images), cells, cells, self._channels)
        if not taps or not len(images):
            return {tap: np.empty(expected, np.float32) for tap in taps}
        found = self._extractor(np.array(images, order="C"))  # writable, and no one else's
        if isinstance(found, torch.Tensor):
            found = found.detach().cpu()
            found = (found.float() if found.is_floating_point() else found).numpy()
        if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating):
            raise self._broken("result", "an array of floats", getattr(found, "dtype", type(found)))
        if found.shape != expected:
            raise self._broken("result", f"{expected} by its geometry and channels", found.shape)
        return {self.name: np.ascontiguousarray(found, np.float32)}

    def columns(
        self, image: npt.NDArray[np.uint8], xy: npt.NDArray[np.floating], taps: Sequence[str]
    ) -> dict[str, FloatArray]:
        """Features (n, C) of the cells nearest to points.

        Args:
            image: (S, S, 3) uint8 RGB.
            xy: (n, 2) px in it.
            taps: as above; errors too.
        """
        rows, columns = self._geometry.nearest(xy).reshape(-1, 2).T
        return {tap: maps[0, rows, columns] for tap, maps in self(image[None], taps).items()}

    def identity(self, tap: str) -> dict[str, Any]:
        """What the features depend on, by content.

        The extractor's ``fingerprint`` if it has one. Otherwise the source of the modules that
        define the factory and the class, and every array and state dict that the object holds, in
        attributes, containers, closures and default arguments. Not seen, and so in need of a
        fingerprint: helper modules, a module's globals, data read from files during a call.

        Raises:
            DistcorrError: no such tap, no source, or an empty fingerprint.
        """
        self.require(tap)
        return {
            "extractor": self.name,
            "geometry": list(self._geometry),
            "channels": self._channels,
            **self._content,
        }

    @functools.cached_property
    def _content(self) -> dict[str, str]:
        if (given := getattr(self._extractor, "fingerprint", None)) is not None:
            given = given() if callable(given) else given
            if not isinstance(given, str) or not given:
                raise self._broken("fingerprint", "a str that is not empty", given)
            return {"fingerprint": given}
        source, arrays = hashlib.sha256(), hashlib.sha256()
        for module in self._modules:
            try:
                source.update(inspect.getsource(sys.modules[module]).encode())
            except (OSError, TypeError, KeyError) as error:
                raise DistcorrError(
                    f"The source of {module}, where {self.name} is defined, cannot be read",
                    "give the extractor a fingerprint: a str that changes when its features do",
                ) from error
        for path, array in _arrays(self._extractor, "", set()):
            arrays.update(f"{path} {array.dtype} {array.shape}\n".encode())
            arrays.update(np.ascontiguousarray(array).data)
        return {"source": source.hexdigest(), "arrays": arrays.hexdigest()}

    def _broken(self, what: str, expected: str, got: object) -> DistcorrError:
        return DistcorrError(
            f"{self.name}: {what} must be {expected}, got {got!r}",
            "help(distcorr.algorithms.plugins) states the contract",
        )


def _attribute(module: str, attribute: str) -> Any:
    importlib.invalidate_caches()
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise DistcorrError(
                f"{module} has no {attribute!r}.{did_you_mean(part, public)}",
                "name a class or a function of that module",
            )
        found = getattr(found, part)
    return found


def _arguments(factory: Any, name: str, device: str) -> dict[str, str]:
    if not callable(factory) or (hasattr(factory, "geometry") and not inspect.isclass(factory)):
        raise DistcorrError(
            f"{name} must be a class or function that makes an extractor, got a "
            f"{type(factory).__name__}",
            "help(distcorr.algorithms.plugins) states the contract",
        )
    signature = inspect.signature(factory)
    arguments = {"device": device} if "device" in signature.parameters else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise DistcorrError(
            f"{name}{signature} must be callable with no argument but device: {error}",
            "give the others defaults",
        ) from error
    return arguments


def _not_imported(module: str, error: ImportError) -> DistcorrError:
    missing = error.name or ""
    if not isinstance(error, ModuleNotFoundError):
        return DistcorrError(f"{module} cannot be imported: {error}", "", MISSING)
    if missing == module or module.startswith(missing + "."):
        here = [found.name for found in pkgutil.iter_modules([os.getcwd()])]
        return DistcorrError(
            f"There is no module {missing!r} here or installed.{did_you_mean(missing, here)}",
            f"searched first: {os.getcwd()}",
            MISSING,
        )
    package = missing.partition(".")[0]
    return DistcorrError(
        f"{module} needs the package {package}, which is not installed; distcorr itself does not "
        "need it",
        f"pip install {package}",
        MISSING,
    )


def _arrays(thing: Any, path: str, seen: set[int]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Every array that ``thing`` holds, with where: in an order that depends on names alone."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    inside: Mapping[Any, Any] = {}
    if isinstance(thing, torch.Tensor):
        flat = thing.detach().cpu().contiguous().reshape(-1)
        yield f"{path} {thing.dtype} {tuple(thing.shape)}", flat.view(torch.uint8).numpy()
    elif isinstance(thing, np.ndarray):
        if not thing.dtype.hasobject:
            yield path, thing
    elif isinstance(thing, Mapping):
        inside = thing
    elif isinstance(thing, list | tuple):
        inside = dict(enumerate(thing))
    elif isinstance(thing, functools.partial):
        inside = {"func": thing.func, "args": thing.args, "keywords": thing.keywords}
    elif inspect.ismethod(thing):
        inside = {"self": thing.__self__, "func": thing.__func__}
    elif inspect.isfunction(thing):
        closure = inspect.getclosurevars(thing).nonlocals
        inside = {"closure": closure, "defaults": (thing.__defaults__, thing.__kwdefaults__)}
    elif hasattr(thing, "__dict__") and not inspect.isclass(thing) and not inspect.ismodule(thing):
        inside = vars(thing)
        if isinstance(thing, nn.Module):
            for key, value in sorted(thing.state_dict().items()):
                yield from _arrays(value, f"{path}.{key}", set())  # a set: these are short-lived
            inside = {key: inside[key] for key in inside.keys() - vars(nn.Module()).keys()}
    for key in sorted(inside, key=str):
        yield from _arrays(inside[key], f"{path}.{key}", seen)

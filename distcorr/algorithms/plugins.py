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

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import math
import os
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distcorr.algorithms._state import contents
from distcorr.algorithms.batches import is_out_of_memory
from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.types import FloatArray, Geometry

GROUP = "distcorr.extractors"  # of entry points
_SHORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # becomes part of file names
_CONTRACT = "help(distcorr.algorithms.plugins) states the contract"
_NOT_THE_USERS = (  # folders: of distcorr, of Python and of the packages installed
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    *(sysconfig.get_path(scheme) for scheme in ("stdlib", "purelib", "platlib")),
)


def load(name: str, device: str = "cpu") -> Plugin:
    """An extractor by name, made on a device.

    Args:
        name: "module:attribute", where the current folder is searched first, or the name of an
            entry point in the group "distcorr.extractors".
        device: "cpu", "cuda" or "cuda:1"; for factories that take it.

    Raises:
        DistcorrError: the module, a package that it imports, or the attribute is not there; it
            cannot be called so; the file or the factory fails; what it gives breaks the contract.
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
    where = f"{module}:{attribute}"
    if not all(module.split(".")) or not all(attribute.split(".")):
        raise DistcorrError(
            f"An extractor must be named module:attribute, got {where!r}",
            "for example my_file:MyNet, for the class MyNet of my_file.py in this folder",
        )
    with _users_code(where):
        try:
            factory = _attribute(module, attribute)
            arguments = _arguments(factory, where, device)
            return Plugin(factory(**arguments), short, where)
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

    def __init__(self, extractor: Any, short: str, factory: str = "") -> None:
        """
        Args:
            extractor: keeps the contract above.
            short: its name, unless it has one itself.
            factory: "module:attribute" of what made it.

        Raises:
            DistcorrError: it does not keep the contract, or the name does not suit file names.
        """
        self._extractor, self._factory = extractor, factory
        with _users_code(factory or short):
            self.name = str(getattr(extractor, "name", "") or short)
            if not _SHORT.fullmatch(self.name):
                raise DistcorrError(
                    f"An extractor's name must be of letters, digits, '.', '_' and '-', "
                    f"got {self.name!r}"
                )
            self._geometry = self._checked(getattr(extractor, "geometry", None))
            channels: Any = getattr(extractor, "channels", None)
            if not _is_int(channels) or channels < 1:
                raise self._broken("channels", "a positive int", channels)
            if not callable(extractor):
                raise self._broken("__call__", "a method", extractor)
            self._channels = int(channels)
            self.licence = str(getattr(extractor, "licence", ""))
            self.weights = str(getattr(extractor, "weights", ""))
        self.taps = (self.name,)
        self.input_size = self._geometry.input_size

    def _checked(self, geometry: Any) -> Geometry:
        """The geometry in Python's own numbers: an identity is JSON."""
        if not isinstance(geometry, Geometry):
            raise self._broken("geometry", "a distcorr.types.Geometry", geometry)
        input_size, stride, offset, rf, cells = geometry
        if not all(map(_is_int, (input_size, stride, rf, cells))):
            raise self._broken("geometry", "of ints, but for its offset", geometry)
        if not isinstance(offset, int | float | np.number) or not math.isfinite(offset):
            raise self._broken("geometry", "of finite numbers", geometry)
        if min(input_size, stride, rf, cells) < 1:
            raise self._broken("geometry", "positive", geometry)
        return Geometry(int(input_size), int(stride), float(offset), int(rf), int(cells))

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
            DistcorrError: images or features have another shape or type; or the extractor fails,
                unless memory runs out: that is raised as it is.
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
        with _users_code(self._factory or self.name):
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

        The extractor's ``fingerprint`` if it has one. Otherwise the factory's name, the source of
        the modules that define the factory and the class, and what the object holds when this is
        first asked for: arrays, state dicts, numbers, strings and names of functions, in
        attributes, slots, containers, closures and default arguments, and in every part of a torch
        module. Devices are left out, and so is whether a module is in training mode.

        Not seen, and so in need of a fingerprint: helper modules, a module's globals, data read
        from files during a call, the inside of objects that are written in C or belong to the
        standard library. An attribute that calls change, such as a counter, changes the identity.

        Raises:
            DistcorrError: no such tap, no source, or an empty fingerprint; or the extractor fails.
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
        with _users_code(self._factory or self.name):
            if (given := getattr(self._extractor, "fingerprint", None)) is not None:
                given = given() if callable(given) else given
                if not isinstance(given, str) or not given:
                    raise self._broken("fingerprint", "a str that is not empty", given)
                return {"fingerprint": given}
            source, state = self._source(), hashlib.sha256()
            for path, value in contents(self._extractor, "", {}):
                state.update(f"{path}\n{len(value)}\n".encode())
                state.update(value)
        return {"factory": self._factory, "source": source, "arrays": state.hexdigest()}

    def _source(self) -> str:
        """Of the modules where the extractor and its factory are defined, as a digest."""
        source, own = hashlib.sha256(), type(self._extractor).__module__
        for module in sorted({own, self._factory.partition(":")[0] or own}):
            try:
                source.update(inspect.getsource(sys.modules[module]).encode())
            except (OSError, TypeError, KeyError) as error:
                raise DistcorrError(
                    f"The source of {module}, where {self.name} is defined, cannot be read",
                    "give the extractor a fingerprint: a str that changes when its features do",
                ) from error
        return source.hexdigest()

    def _broken(self, what: str, expected: str, got: object) -> DistcorrError:
        return DistcorrError(
            f"{self.name}: {what} must be {expected}, got {got!r}",
            _CONTRACT,
        )


@contextlib.contextmanager
def _users_code(name: str) -> Iterator[None]:
    """What fails in here is the user's to mend: a ``DistcorrError`` says what and where.

    Those pass, and so do interrupts and the lack of memory, which smaller batches may mend.
    """
    try:
        yield
    except (DistcorrError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        first = message.strip().partition("\n")[0]
        what = f"{type(error).__name__}: {first}" if first else type(error).__name__
        check = f"; distcorr features {name} checks it" if ":" in name else ""
        raise DistcorrError(f"{name}: {what}{_where(error)}", f"mend it there{check}") from error


def _where(error: BaseException) -> str:
    """`` (file:line)`` of the innermost frame in the user's own code, if there is one."""
    frames = [(at.f_code.co_filename, line) for at, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 1))
    for file, line in reversed(frames):
        if os.path.isabs(file) and not file.startswith(
            tuple(f"{at}{os.sep}" for at in _NOT_THE_USERS)
        ):
            return f" ({file.removeprefix(os.getcwd() + os.sep)}:{line})"
    return ""


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
            _CONTRACT,
        )
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise DistcorrError(
            f"{name} must be a class or function that makes an extractor; how it is called cannot "
            "be told",
            _CONTRACT,
        ) from error
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


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)

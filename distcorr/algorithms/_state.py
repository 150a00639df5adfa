"""Everything that an object holds, as bytes: what an extractor of the user's is told apart by."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Set
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_LEAVES = (
    str,
    int,
    float,
    complex,
    bytes,
    type(None),
    range,
    slice,
    PurePath,
    np.dtype,
    torch.dtype,
)
_PLAIN = {"types", "argparse"}  # whose namespaces hold what the user put there


def contents(thing: Any, path: str, seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Every value that ``thing`` holds: where and of what type, and its bytes.

    The order depends on names alone. ``seen`` keeps what was met alive, so that ids stay unique.
    """
    if isinstance(thing, np.generic):
        thing = thing.item()
    if isinstance(thing, torch.device) or (isinstance(thing, str) and _DEVICE.fullmatch(thing)):
        return
    if isinstance(thing, (*_LEAVES, Set)) or inspect.isroutine(thing) or inspect.isclass(thing):
        yield path, _text(thing).encode()
    if isinstance(thing, (*_LEAVES, Set)) or inspect.isclass(thing) or inspect.ismodule(thing):
        return
    if id(thing) in seen:
        yield f"{path} again", b""
        return
    seen[id(thing)] = thing
    if isinstance(thing, torch.Tensor):
        flat = thing.detach().cpu().contiguous().reshape(-1)
        yield f"{path} {thing.dtype} {tuple(thing.shape)}", flat.view(torch.uint8).numpy().data
    elif isinstance(thing, np.ndarray) and not thing.dtype.hasobject:
        flat_bytes = np.ascontiguousarray(thing).reshape(-1).view(np.uint8)
        yield f"{path} {thing.dtype} {thing.shape}", flat_bytes.data
    else:
        yield path, _text(thing).encode()
        for key, value in sorted(_inside(thing), key=lambda item: item[0]):
            yield from contents(value, f"{path}.{key}", seen)


def _inside(thing: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, by names that are the same in every process."""
    inside: Mapping[Any, Any] = {}
    if isinstance(thing, Mapping):
        inside = thing
    elif isinstance(thing, list | tuple | deque | np.ndarray):
        inside = dict(enumerate(thing))
    elif isinstance(thing, functools.partial):
        inside = {"func": thing.func, "args": thing.args, "keywords": thing.keywords}
    elif inspect.ismethod(thing):
        inside = {"self": thing.__self__, "func": thing.__func__}
    elif inspect.isfunction(thing):
        closure = inspect.getclosurevars(thing).nonlocals
        inside = {"closure": closure, "defaults": (thing.__defaults__, thing.__kwdefaults__)}
    elif isinstance(thing, nn.Module):
        yield from (("state_dict." + key, value) for key, value in thing.state_dict().items())
        for path, module in thing.named_modules():
            plain = {
                key: vars(module)[key] for key in vars(module).keys() - vars(nn.Module()).keys()
            }
            unsaved = {key: module._buffers[key] for key in module._non_persistent_buffers_set}
            yield path, {"type": type(module), **plain, **unsaved, **_slots(module)}
    elif type(thing).__module__.partition(".")[0] not in sys.stdlib_module_names - _PLAIN:
        inside = {**getattr(thing, "__dict__", {}), **_slots(thing)}
    yield from ((_text(key), value) for key, value in inside.items())


def _slots(thing: Any) -> dict[str, Any]:
    found = {}
    for base in type(thing).__mro__:
        slots = vars(base).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if name not in ("__dict__", "__weakref__") and hasattr(thing, name):
                found[name] = getattr(thing, name)
    return found


def _text(thing: Any) -> str:
    """What can be said of an object without addresses, ids or the order of a set."""
    if isinstance(thing, PurePath):
        return thing.as_posix()
    if isinstance(thing, _LEAVES):
        return repr(thing)
    if isinstance(thing, Set):
        return f"{{{', '.join(sorted(map(_text, thing)))}}}"
    if isinstance(thing, tuple):
        return f"({', '.join(map(_text, thing))})"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    line = f":{thing.__code__.co_firstlineno}" if "<lambda>" in named.__qualname__ else ""
    return f"{named.__module__}.{named.__qualname__}{line}"

"""Does a feature know which point here corresponds to which point there?

The Python interface is seven names: ``open_run`` and ``load_instances`` open what is on disk,
``extract``, ``align``, ``transfer`` and ``pck`` are the steps of section 3 one by one, and a
``Flow`` is what an alignment gives. They are loaded when first asked for, so importing the package
costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distcorr.api.images import extract, load_instances
    from distcorr.api.points import align, pck, transfer
    from distcorr.api.runs import open_run
    from distcorr.types import Flow

__version__ = "0.1.0"
__all__ = ["Flow", "align", "extract", "load_instances", "open_run", "pck", "transfer"]

_HOMES = {
    "Flow": "distcorr.types",
    "align": "distcorr.api.points",
    "extract": "distcorr.api.images",
    "load_instances": "distcorr.api.images",
    "open_run": "distcorr.api.runs",
    "pck": "distcorr.api.points",
    "transfer": "distcorr.api.points",
}


def __getattr__(name: str) -> Any:
    """One of the seven, loaded now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'distcorr' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

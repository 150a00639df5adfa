"""Where features come from, in a task that looks at photographs again: loaded once per process."""

from __future__ import annotations

from distcorr.config import Config
from distcorr.data.weights import Weights
from distcorr.errors import MISSING, DistcorrError
from distcorr.stages.features import Wanted, load_network, wishes

Loaded = dict[str, Wanted]  # folder of a feature in the store -> where it comes from
_loaded: Loaded = {}  # of this process


def sources(config: Config, weights: Weights | None, tables: set[str], device: str) -> Loaded:
    """Where features come from.

    Raises:
        DistcorrError: some of ``tables`` do not come from here.
    """
    found = {w.feature.folder: w for w in wishes(config, weights, device).wanted}
    if missing := sorted(tables - found.keys()):
        here = f"; here they are {weights.file}, sha256 {weights.sha256}" if weights else ""
        raise DistcorrError(
            f"The features {missing[0]} were made with other weights, another extractor or another "
            f"version of distcorr{here}.",
            "give back the file that build-db saw, or make a new run with this one",
            MISSING,
        )
    return found


def source_of(config: Config, weights: Weights | None, table: str) -> Wanted:
    """Where a feature comes from.

    Raises:
        DistcorrError: as ``sources``.
    """
    import torch

    if table not in _loaded:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as on a CPU
        _loaded.clear()
        _loaded.update(sources(config, weights, {table}, device))
    return _loaded[table]


def network_of(stage: str, run: object, config: Config) -> Weights | None:
    """The weights that the features of a run were made with.

    Raises:
        DistcorrError: they are gone.
    """
    try:
        return load_network(config.features)
    except DistcorrError as error:
        raise DistcorrError(
            f"{stage} looks at photographs again and needs the network for it. {error.message}",
            f"put the file back; or distcorr build-db -r {run} --weights PATH says where "
            "it is now, and makes nothing anew",
            MISSING,
        ) from error

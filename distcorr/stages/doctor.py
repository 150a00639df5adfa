"""Will it work here? Checks of this machine, the data, the weights, the run folder and Ray.

No check may hang: each has its time, after which it counts as failed.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from distcorr.config import ComputeConfig, Config
from distcorr.data.check import check as suspicions
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.data.weights import load_weights
from distcorr.errors import DistcorrError
from distcorr.stages import jobserver, room
from distcorr.stages.cluster import Session, describe
from distcorr.stages.machine import FAIL, MACHINE, OK, WARN, Check
from distcorr.stages.nodes import check_nodes

if TYPE_CHECKING:
    from distcorr.algorithms.extractors import Backbone

SECONDS = 60.0  # for a check of this machine
_LONG = 300.0  # of a cluster or a large data set
_DATA = "data"  # where distcorr fetch puts it
_CAFFENET = "bvlc_reference_caffenet.caffemodel"
_SKEW = 2.0  # s between this clock and the file system's
_PROBE = b"distcorr doctor was here"
# Bytes as float16 by the shapes of -p paper: conv4, SIFT and fc7 of a box, its conv5 at 500 px;
# conv3 to conv5 of a photograph of 500 x 375 px; conv1 to conv5 and SIFT at a keypoint.
_OF_BOX = 2 * (13 * 13 * (384 + 128) + 4096 + 30 * 30 * 256)
_OF_PHOTO = 2 * 31 * 23 * (384 + 384 + 256)
_OF_KEYPOINT = 2 * (96 + 256 + 384 + 384 + 256 + 5 * 128)


@dataclass(frozen=True)
class Asked:
    """What to look at; "" for what a run or the current folder has.

    Attributes:
        data: folder or URI of the data set.
        weights: file of the network.
        run: folder or URI of a run, which need not be there.
        address: where work is to run, as ``compute.address``.
        cluster: whether to look at every node.
    """

    data: str = ""
    weights: str = ""
    run: str = ""
    address: str = ""
    cluster: bool = False


def examine(asked: Asked) -> Iterator[Check]:
    """Every check, as it is made."""
    for name, each in MACHINE.items():
        yield bounded(name, each)
    if jobserver.address():  # before a Ray of our own, which makes itself a token
        yield bounded("job server", jobserver.check)
    settings = _settings(asked)
    if isinstance(settings, Check):
        yield settings
        settings = None
    needs = [0.0]  # bytes; more when the data set has been read
    yield bounded("data", partial(data, asked, settings, needs.append), _LONG)
    yield bounded("weights", partial(weights, asked, settings), _LONG)
    place = asked.run or "runs"
    yield bounded("run folder", partial(run_folder, place))
    if "://" not in place:
        yield bounded("disk", partial(disk, place, needs[-1]))
        yield bounded("clock", partial(clock, place))
    if asked.address != "inline":
        yield from ray(asked)


def bounded(name: str, check: Callable[[], Check], seconds: float = SECONDS) -> Check:
    """The check, or its failure when it raises or does not come back in time."""
    (found,) = _bounded(name, lambda: [check()], seconds)
    return found


def _bounded(name: str, checks: Callable[[], list[Check]], seconds: float) -> list[Check]:
    done: queue.SimpleQueue[list[Check]] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put(checks())
        except DistcorrError as error:
            done.put([Check(name, FAIL, error.message, error.hint)])
        except Exception as error:  # whatever it is: the other checks are made all the same
            done.put([Check(name, FAIL, describe(error))])

    threading.Thread(target=work, daemon=True).start()  # a process may end without it
    try:
        return done.get(timeout=seconds)
    except queue.Empty:
        detail = f"no answer within {seconds:g} s"
        return [Check(name, FAIL, detail, "whatever it waits for, network or disk, is stuck")]


# -- data, weights, run folder -------------------------------------------------------------


def _settings(asked: Asked) -> Config | Check | None:
    """The configuration of the run, if it has one."""
    try:
        return Run(asked.run).config() if asked.run else None
    except DistcorrError as error:
        return Check("configuration", FAIL, error.message, error.hint)


def data(asked: Asked, settings: Config | None, need: Callable[[float], None]) -> Check:
    """Whether the data set can be read, what it holds, and which photographs are missing.

    Args:
        asked: says where.
        settings: of the run.
        need: told how many bytes the paper's features of it take at most.
    """
    from distcorr.data import datasets, voc

    root = asked.data or (settings.dataset.root if settings else "")
    if not root and settings and settings.dataset.name == "toy":
        return Check("data", OK, "this run draws its data itself")
    if not root and os.path.isdir(_DATA):
        root = _DATA
    if not root:
        detail = "no data set is given; -p smoke needs none"
        fix = "distcorr fetch voc2011 && distcorr fetch keypoints, or --data PATH"
        return Check("data", WARN, detail, fix)
    if settings and settings.dataset.name not in datasets.DATASETS:
        dataset = datasets.load(settings.dataset, Folder(asked.run), settings.seed)
    else:
        dataset = voc.load(root)
    photos = {instance.image for instance in dataset.instances}
    points = int(sum(instance.visible.sum() for instance in dataset.instances))
    need(float(len(dataset.instances) * _OF_BOX + len(photos) * _OF_PHOTO + points * _OF_KEYPOINT))
    splits = [instance.split for instance in dataset.instances]
    detail = (
        f"{dataset.name}: {splits.count('train')} training and {splits.count('val')} validation "
        f"instances of {len(dataset.keypoint_names)} categories on {len(photos)} photographs"
    )
    if strange := [*dataset.warnings, *suspicions(dataset)]:
        more = f"; and {len(strange) - 1} more" if len(strange) > 1 else ""
        lost = any("missing" in each for each in strange)
        fix = f"distcorr fetch voc2011 --to {root} --verify" if lost else "look at these files"
        return Check("data", WARN, f"{detail}. {strange[0]}{more}", fix)
    return Check("data", OK, detail)


def weights(asked: Asked, settings: Config | None) -> Check:
    """Whether the network's file is a known one, and a forward pass gives what it should.

    On noise, features must be finite and differ from cell to cell; and a pixel that is NaN must
    reach the cells whose receptive field it lies in, and no other.
    """
    path = asked.weights or (settings.features.weights if settings else "")
    network = settings.features.network if settings and not asked.weights else "auto"
    if not path and network == "auto":
        fetched = Path(_DATA) / _CAFFENET
        path, network = (str(fetched), "auto") if fetched.is_file() else ("", "efficientnet-lite0")
    if ":" in network:
        return Check("weights", OK, f"{network} is an extractor: distcorr features {network}")
    loaded = load_weights(path, network)

    from distcorr.algorithms.effective import pink_noise
    from distcorr.algorithms.extractors import build

    backbone = build(loaded.network, loaded.arrays)
    values = backbone(pink_noise(2, backbone.input_size), [backbone.grid])[backbone.grid]
    if not np.isfinite(values).all():
        return _bad_weights(loaded.label, "a forward pass gives values that are not finite")
    if not np.ptp(values.reshape(-1, values.shape[-1]), axis=0).any():
        return _bad_weights(loaded.label, "a forward pass gives the same for every image")
    if not _looks_where_it_says(backbone):
        return _bad_weights(loaded.label, f"{backbone.grid} does not look where it says")
    detail = f"{loaded.label}: a forward pass and the receptive field of {backbone.grid} are right"
    if loaded.label == f"{loaded.network} from {loaded.file}":
        fix = "distcorr fetch caffenet has the paper's; your own need none"
        return Check("weights", WARN, f"{detail}; its checksum {loaded.sha256} is unknown", fix)
    return Check("weights", OK, f"{detail}; its checksum is known")


def _bad_weights(label: str, why: str) -> Check:
    return Check("weights", FAIL, f"{label}: {why}", "distcorr fetch caffenet, or other weights")


def _looks_where_it_says(backbone: Backbone) -> bool:
    """Whether one NaN in the middle reaches exactly the cells that the geometry says."""
    import torch

    features, _ = backbone.differentiable(backbone.grid)
    geometry = backbone.geometry(backbone.grid)
    pixel = backbone.input_size // 2
    image = torch.zeros(1, 3, backbone.input_size, backbone.input_size)
    image[0, :, pixel, pixel] = torch.nan
    with torch.no_grad():
        reached = features(image)[0].isnan().any(0).cpu().numpy()
    centres = geometry.offset + geometry.stride * np.arange(geometry.cells)
    sees = np.abs(centres - pixel) <= (geometry.rf - 1) / 2
    return bool(np.array_equal(reached, sees[:, None] & sees[None, :]))


def run_folder(place: str) -> Check:
    """Whether files can be written there, read back and deleted."""
    made = _missing(place)
    folder, name = Folder(place), f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        folder.write(name, _PROBE)
        back = folder.read(name)
        folder.delete(name)
    finally:
        for each in made:  # what the probe made is taken away again
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()
    if back != _PROBE:
        return Check("run folder", FAIL, f"{folder} does not give back what was written")
    return Check("run folder", OK, f"{folder} can be written, read and deleted from")


def _missing(place: str) -> list[Path]:
    """The folders of a path that are not there, the innermost first."""
    if "://" in place:
        return []
    path = Path(place).expanduser().absolute()
    return [each for each in (path, *path.parents) if not each.exists()]


def _existing(place: str) -> Path:
    path = Path(place).expanduser().absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def disk(place: str, need: float) -> Check:
    """Whether the features of the data set fit beside the run; ``need`` in bytes, 0: unknown."""
    free = shutil.disk_usage(_existing(place)).free
    detail = f"{free / 1e9:.1f} GB free for {place}"
    if need:
        detail += f"; the paper's features of this data take {need / 1e9:.1f} GB at most"
    if free >= max(need, 1e9):
        return Check("disk", OK, detail)
    return Check("disk", WARN, f"{detail}: too little", "choose another disk: -r DIR, --store DIR")


def clock(place: str) -> Check:
    """Whether this clock agrees with the file system's, which may be another machine's."""
    folder = _existing(place)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            before = time.time()
            file.write(_PROBE)
            file.flush()
            apart = abs(os.stat(file.name).st_mtime - before)
    except OSError as error:
        return Check("clock", WARN, f"cannot be compared: {error.strerror} in {folder}")
    if apart > _SKEW:
        fix = "set the clock: timedatectl set-ntp true"
        return Check("clock", WARN, f"{apart:.0f} s apart from the clock of {folder}", fix)
    return Check("clock", OK, f"agrees with the clock of {folder}")


# -- Ray -----------------------------------------------------------------------------------


def ray(asked: Asked) -> list[Check]:
    """Whether Ray starts or can be joined, and runs a task; with ``cluster``, on every node."""
    return _bounded("ray", partial(_ray, asked), _LONG if asked.cluster else 2 * SECONDS)


def _ray(asked: Asked) -> list[Check]:
    began = time.monotonic()
    with Session(ComputeConfig(address=asked.address, workers=1)) as session:
        session.connect()
        seconds = time.monotonic() - began
        what = "a local Ray starts" if session.address == "local" else f"joined {session.address}"
        what += f" ({seconds:.1f} s)"
        found = [bounded("ray", partial(_task, session, what))]
        if asked.cluster:
            found += check_nodes(asked.data, asked.run)
        return found


def _task(session: Session, what: str) -> Check:
    if not any(node.get("CPU", 0) >= 1 for node in room.nodes()):
        fix = "none needed where the cluster grows by itself; else start a node"
        return Check("ray", WARN, f"{what}; no node has a CPU for a task so far", fix)
    (outcome,) = session.map(_double, [(None, (21,))])
    if outcome.error or outcome.result != 42:
        fix = "look into /tmp/ray/session_latest/logs; --address inline works without Ray"
        return Check("ray", FAIL, f"{what}, but a task fails: {outcome.error}", fix)
    return Check("ray", OK, f"{what} and runs a task")


def _double(x: int) -> int:
    return 2 * x

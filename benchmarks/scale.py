"""The whole of section 3 at scale: memory, and what scheduling costs beside the alignment.

    .venv/bin/python benchmarks/scale.py [INSTANCES [FOLDER]]

Writes a data set of INSTANCES objects (100,000: a million pairs, some ten minutes on two cores) as
small photographs of noise, and runs build-db, neighbors, transfer and report on a local Ray with a
cheap extractor of 13 x 13 cells, 32 channels. Prints for each stage the time and the peak memory of
all processes together, pages that they share counted once; and for transfer its workers' time
beside the time that they spent aligning and carrying. Run it alone on the machine.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from distcorr import config as configuration
from distcorr.data.run import Run
from distcorr.report import tables
from distcorr.stages.cluster import Session
from distcorr.stages.pipeline import Context, run_stage

PER_PHOTOGRAPH, CATEGORIES, SIDE = 25, 2, 160
MODULE = '''
import numpy as np
from pathlib import Path
from distcorr.types import Box, Dataset, Geometry, Instance

PER, CATEGORIES, SIDE = {per}, {categories}, {side}
NAMES = ("a", "b", "c", "d", "e")


def load(root, categories=(), limit=0):
    """Boxes at random in photographs of noise; three of five are for training."""
    instances = []
    for number, path in enumerate(sorted((Path(root) / "photographs").iterdir())):
        rng = np.random.default_rng(number)
        for n in range(PER):
            x, y = rng.integers(0, SIDE - 60, 2)
            box = Box(float(x), float(y), float(x + 56), float(y + 56))
            points = rng.uniform(0, 56, (5, 2)) + [x, y]
            instances.append(
                Instance(
                    id=f"{{path.stem}}#{{n:02d}}",
                    image=f"photographs/{{path.name}}",
                    category=f"category{{number % CATEGORIES}}",
                    split="val" if n % 5 < 2 else "train",
                    box=box,
                    keypoints=points.astype(np.float32),
                    visible=rng.random(5) < 0.8,
                )
            )
    instances.sort(key=lambda i: (i.category, i.split, i.id))
    names = {{f"category{{c}}": NAMES for c in range(CATEGORIES)}}
    return Dataset("noise", str(root), tuple(instances), names)


class Patches:
    """Means of 4 x 4 px and their products with a fixed random matrix."""

    geometry = Geometry(input_size=52, stride=4, offset=1.5, rf=4, cells=13)
    channels, licence, weights = 32, "", "random"

    def __init__(self):
        self.matrix = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)

    def __call__(self, images):
        blocks = images.reshape(-1, 13, 4, 13, 4, 3).transpose(0, 1, 3, 2, 4, 5)
        values = blocks.reshape(*blocks.shape[:3], 48).astype(np.float32) / 255 - 0.5
        return np.maximum(values @ self.matrix, 0)
'''


def write(folder: Path, instances: int) -> None:
    """Photographs, and the module that reads them and makes features of them."""
    (folder / "photographs").mkdir(parents=True)
    for number in range(-(-instances // PER_PHOTOGRAPH)):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (SIDE // 4, SIDE // 4, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        picture.save(folder / "photographs" / f"{number:06d}.png", compress_level=1)
    text = MODULE.format(per=PER_PHOTOGRAPH, categories=CATEGORIES, side=SIDE)
    (folder / "noise_data.py").write_text(text)


class Memory:
    """The peak of all processes below this one, sampled; a page that several share counts once."""

    def __init__(self) -> None:
        self.peak = 0
        self.driver = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(10.0):  # reading takes milliseconds of every process
            mine = _share(os.getpid())
            self.driver = max(self.driver, mine)
            self.peak = max(self.peak, mine + sum(map(_share, _descendants())))


def _descendants() -> list[int]:
    """Processes of this session: Ray's daemons leave the tree of parents, not the session."""
    session, mine = os.getsid(0), os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != mine:
            try:
                command = (entry / "cmdline").read_bytes()
                same = os.getsid(int(entry.name)) == session
            except OSError:
                continue  # it has ended
            if same or b"ray" in command:
                found.append(int(entry.name))
    return found


def _share(pid: int) -> int:
    """Proportional set size in bytes; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def main(instances: int, folder: Path) -> None:
    """Write, run, print."""
    began = time.perf_counter()
    write(folder, instances)
    os.chdir(folder)  # where workers look for the module
    sys.path.insert(0, str(folder))
    print(f"{instances:,} instances written in {time.perf_counter() - began:.0f} s", flush=True)
    config = configuration.load(
        "paper",
        [
            f'dataset.root="{folder}"',
            "dataset.name=noise_data:load",
            "features.conv=noise_data:Patches",
            *(f"features.{kind}=[]" for kind in ("grids", "grids500", "points", "cells")),
            "features.shard=256",
            "features.batch=64",
            'flow.features=["auto"]',
        ],
    )
    run = Run(str(folder / "run"))
    with Session(config.compute) as session:
        session.connect()
        for stage in ("build-db", "neighbors", "transfer"):
            with Memory() as memory:
                summary = run_stage(stage, Context(config, run, session))
            print(
                f"{stage:<10} {summary.seconds:7.1f} s   {summary.rows:>9,} rows   "
                f"{summary.bytes / 1e6:8.0f} MB written   peak memory "
                f"{memory.peak / 2**30:.2f} GiB, of the driver {memory.driver / 2**30:.2f}",
                flush=True,
            )
    with Memory() as memory:
        began = time.perf_counter()
        tables.build(run)
        spent = time.perf_counter() - began
    print(f"report     {spent:7.1f} s   peak memory {memory.driver / 2**30:.2f} GiB")
    workers = os.cpu_count() or 1
    (log,) = [name for name in run.folder.sizes("logs") if name.startswith("transfer")]
    results = [json.loads(line)["result"] for line in run.folder.read(f"logs/{log}").splitlines()]
    kernel = sum(result["aligning"] for result in results)
    pairs = sum(result["rows"] for result in results)
    print(
        f"transfer   {pairs:,} pairs, {1e3 * kernel / pairs:.2f} ms each; {workers} workers spent "
        f"{100 * (workers * summary.seconds / kernel - 1):.1f} % more than on aligning and carrying"
    )


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    if len(sys.argv) > 2:
        main(count, Path(sys.argv[2]).resolve())
    else:
        with tempfile.TemporaryDirectory() as place:
            main(count, Path(place) / "noise")

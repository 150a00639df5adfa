"""``evaluate-pairs`` on pairs of real photographs, and on pairs whose truth is another pair's.

    .venv/bin/python benchmarks/pairs.py DATA WEIGHTS [FOLDER]

Draws 90 pairs of validation photographs of each of CATEGORIES from DATA (VOC layout with Berkeley's
keypoints), writes them as a table, and matches whole photographs and boxes by conv4 and SIFT. In
the control, points of B lie where other points of another pair's B do, relative to the box: what is
above the baselines there is knowledge of where an object is, not of its parts.
"""

from __future__ import annotations

import csv
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np

from distcorr.data import voc
from distcorr.types import Instance

CATEGORIES = ("bird", "bottle", "car", "motorbike")
MOST = 90  # pairs of a category
SIDES = ("x0", "y0", "x1", "y1")
BOXES = [f"box_{which}_{side}" for which in "ab" for side in SIDES]
COLUMNS = ["pair", "image_a", "image_b", "category", *BOXES, "keypoint", "xa", "ya", "xb", "yb"]
Both = tuple[Instance, Instance, np.ndarray]  # and which keypoints both show


def drawn(data: str) -> Iterator[list[Both]]:
    """The pairs of each category."""
    dataset = voc.load(data, CATEGORIES)
    rng = np.random.default_rng(0)
    for category in CATEGORIES:
        members = [i for i in dataset.instances if (i.category, i.split) == (category, "val")]
        found = [
            (a, b, both)
            for a, b in itertools.permutations(members, 2)
            if a.image != b.image and len(both := np.flatnonzero(a.visible & b.visible)) > 1
        ]
        yield [found[n] for n in sorted(rng.permutation(len(found))[:MOST])]


def rows(pairs: list[Both], control: bool) -> Iterator[list[object]]:
    """A row per keypoint."""
    rng = np.random.default_rng(1)
    for number, other in enumerate(rng.permutation(len(pairs))):
        a, b, both = pairs[number]
        truth = b.keypoints[both]
        if control:
            _, foreign, seen = pairs[other]
            relative = _relative(foreign.keypoints[rng.choice(seen, len(both))], foreign)
            truth = relative * [b.box.width, b.box.height] + [b.box.x0, b.box.y0]
        fixed = [f"{a.id}-{b.id}", a.image, b.image, a.category, *a.box, *b.box]
        for k, xy in zip(both, truth, strict=True):
            yield [*fixed, f"keypoint {k}", *a.keypoints[k].tolist(), *xy.tolist()]


def _relative(points: np.ndarray, instance: Instance) -> np.ndarray:
    box = instance.box
    return (points - [box.x0, box.y0]) / [box.width, box.height]


def main(data: str, weights: str, folder: str) -> None:
    """Write both tables, and run the command on whole photographs and on boxes."""
    os.symlink(os.path.abspath(f"{data}/VOCdevkit"), f"{folder}/VOCdevkit")
    pairs = list(drawn(data))
    for name in ("pairs", "control"):
        with open(f"{folder}/{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for of_category in pairs:
                writer.writerows(rows(of_category, control=name == "control"))
        for box in ("false", "true"):
            print(f"\n## {name}, pairs.box={box}\n", flush=True)
            words = f"--data {folder}/{name}.csv --layout table -f conv4 -f sift20 --quiet"
            words += f" --weights {weights} --set pairs.box={box} -r {folder}/{name}-{box}"
            command = [sys.executable, "-m", "distcorr", "evaluate-pairs", *words.split()]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        os.makedirs(sys.argv[3])
        main(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(*sys.argv[1:3], place)

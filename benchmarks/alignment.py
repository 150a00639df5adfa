"""The solvers of the alignment: energy above a certified bound, and time; real photographs.

    .venv/bin/python benchmarks/alignment.py DATA WEIGHTS [--category NAME ...]

DATA is a data set in VOC layout, WEIGHTS those of AlexNet or CaffeNet. Run it alone on the machine:
one core, some six minutes. Pairs are a validation photograph of each category and its nearest
training photographs by pool5; conv4 and SIFT of radius 20 at the same cells, unit norm; 13 x 13
cells of 227 px boxes and 30 x 30 of 500 px boxes; the paper's beta and ten times as much.

Every solver gets the same data costs, which are not timed, and its labels the same energy, in
float64. "x ours" is how many times the default solver's time it takes, the median over the pairs,
which all solvers take in turn; "not below" counts the pairs where its energy is not below the
default's. On 13 x 13 cells, libraries that can minimise this energy join in where they are
installed (``alignment_peers.py``), which takes a quarter of an hour more.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import alignment_peers
import numpy as np
from alignment_peers import Labels, Solver
from numba import njit
from timing import compare, ratio, timed

from distcorr.algorithms import _flow_cpu, _flow_paper
from distcorr.algorithms._flow_bound import lower_bound
from distcorr.algorithms._flow_decoupled import Decoupled, transform
from distcorr.algorithms._flow_trws import Reweighted
from distcorr.algorithms.batches import in_batches
from distcorr.algorithms.crop import crop_square
from distcorr.algorithms.extractors import build
from distcorr.algorithms.flow import ITERATIONS, align_many, data_costs, unit_norm
from distcorr.algorithms.knn import cosine_topk
from distcorr.algorithms.sources import Sources
from distcorr.data import voc
from distcorr.data.images import read_image
from distcorr.data.storage import Folder
from distcorr.data.weights import load_weights
from distcorr.stages.cluster import limit_threads
from distcorr.types import FloatArray

BETAS = (3e-3, 3e-2)
LAYERS = ("conv4", "sift20")
PAIRS = {227: 3, 500: 1}  # px of a box -> pairs of each category
TRAINING = 60  # photographs of a category among which its neighbours are sought
STACKED = 25  # neighbours of a target, the paper's
BOUND = 200  # iterations; it stops once it stalls
LINES = 4096  # distance transforms in one call
PATIENCE = 20  # s; another library that has spent as much on a combination gets no further pair
SHORT = ((1, 0), (1, 1), (3, 1), (3, 2))  # levels and steps of the paper's, against time


Count = Counter[str]


class Pairs(NamedTuple):
    """Grids of one layer and one size of boxes: a target and its neighbours, nearest first."""

    pairs: list[tuple[FloatArray, FloatArray]]
    stack: list[FloatArray]  # one target and STACKED neighbours


def photographs(data: str, path: str, categories: list[str]) -> dict[tuple[str, int], Pairs]:
    """(layer, px of the boxes) -> grids."""
    weights, root = load_weights(path), Folder(data)
    network = build(weights.network, weights.arrays)
    sources = Sources(network)
    sources.align_sift(network, "conv4")
    dataset = voc.load(data, categories, TRAINING)
    kept: dict[tuple[str, int], Pairs] = {}
    for category in sorted(dataset.keypoint_names):
        members = [i for i in dataset.instances if i.category == category]
        training = [i for i in members if i.split == "train"]
        validation = [i for i in members if i.split == "val"]
        target = validation[len(validation) // 2]

        def grids(chosen: Any, layer: str, side: int) -> FloatArray:
            source, tap = sources.find(layer)
            crops = [crop_square(read_image(root, i.image), i.box, side) for i in chosen]
            return in_batches(source, crops, (tap,), 16)[tap]

        vectors = [grids(group, "pool5", 227) for group in (training, [target])]
        base, query = (values.reshape(len(values), -1) for values in vectors)
        (ranked,), _ = cosine_topk(base, query, STACKED, [np.zeros(0, int)])
        nearest = [training[n] for n in ranked if n >= 0]
        for side, count in PAIRS.items():
            for layer in LAYERS:
                found = kept.setdefault((layer, side), Pairs([], []))
                wanted = nearest[: count if found.stack else STACKED]
                first, *others = unit_norm(grids([target, *wanted], layer, side))
                found.pairs.extend((first, other) for other in others[:count])
                if len(others) == STACKED:
                    found.stack.extend((first, *others))
    return kept


def energy(cost: FloatArray, labels: Labels | None, beta: float) -> float:
    """Of a labelling, float64; infinite if there is none."""
    if labels is None:
        return float("inf")
    cells = np.stack(np.indices(cost.shape[:2]), -1)
    data = cost[cells[..., 0], cells[..., 1], labels[..., 0], labels[..., 1]].sum(dtype=np.float64)
    w = labels - cells
    deformation = (np.diff(w, axis=0) ** 2).sum() + (np.diff(w, axis=1) ** 2).sum()
    return float(data + beta * deformation)


def own(make: Any, rounds: int, beta: float, cost: FloatArray) -> Callable[[], Labels]:
    """A solver of the library, as ``align_many`` uses it."""
    rows, columns, height, width = cost.shape
    solver = make((rows, columns), (height, width), beta, rounds)
    solver.cost[:, :, :height, :width] = cost
    cells = np.moveaxis(np.indices((rows, columns)), 0, -1)
    still = np.minimum(cells, [height - 1, width - 1])
    return lambda: solver.solve(still)


def paper(levels: int, steps: int, beta: float, cost: FloatArray) -> Callable[[], Labels]:
    """The paper's belief propagation."""
    return lambda: _flow_paper.solve(cost, beta, levels, steps)


def solvers(beta: float) -> dict[str, Solver]:
    """By name, the default first."""
    default = ITERATIONS["decoupled"]
    found: dict[str, Solver] = {}
    for rounds in (default, 1, 5):
        name = f"decoupled, {rounds} rounds{' (default)' if rounds == default else ''}"
        found[name] = partial(own, Decoupled, rounds, beta)
    for rounds in (ITERATIONS["trws"], 15):
        found[f"trws, {rounds} rounds"] = partial(own, Reweighted, rounds, beta)
    for levels, steps in ((_flow_paper.LEVELS, _flow_paper.ITERATIONS), *SHORT):
        found[paper_name(levels, steps)] = partial(paper, levels, steps, beta)
    return found


def paper_name(levels: int, steps: int) -> str:
    """Of the paper's solver at so many levels, and steps on each."""
    return f"paper, {levels} x {steps} steps" if steps else "paper, no message passed"


def table(
    pairs: list[tuple[FloatArray, FloatArray]], beta: float, foreign: dict[str, Solver]
) -> Count:
    """One row for each solver; the labels of all pairs by all solvers are made in turn."""
    ours = solvers(beta)
    default = next(iter(ours))
    spent: dict[str, list[float]] = {name: [] for name in ours | foreign}
    found: dict[str, list[float]] = {name: [] for name in ours | foreign}
    bounds = []
    for pair in pairs:
        cost = data_costs(*pair)
        bounds.append(lower_bound(cost, beta, BOUND)[0])
        patient = {name: it for name, it in foreign.items() if sum(spent[name]) < PATIENCE}
        for name, solver in (ours | patient).items():
            seconds, labels = timed(solver(cost))
            spent[name].append(seconds)
            found[name].append(energy(cost, labels, beta))
    for name, energies in found.items():
        count = len(energies)
        above = [100 * (e / bound - 1) for e, bound in zip(energies, bounds, strict=False)]
        not_below = sum(e >= o for e, o in zip(energies, found[default], strict=False))
        print(
            f"  {name:<38} {statistics.median(above):8.3f} {max(above):8.3f} "
            f"{1e3 * statistics.median(spent[name]):11.2f} "
            f"{ratio(spent[name], spent[default][:count]):9.2f}   {not_below} of {count}",
            flush=True,
        )
    return equal_time(spent, found, default)


def equal_time(spent: dict[str, Any], found: dict[str, Any], default: str) -> Count:
    """What of the paper's solver fits into the default's time, pair by pair; the best of it."""
    settings = [paper_name(*setting) for setting in SHORT]
    fitting = below = 0
    for number, limit in enumerate(spent[default]):
        fits = [found[name][number] for name in settings if spent[name][number] <= limit]
        fitting += bool(fits)
        below += bool(fits) and min(fits) < found[default][number]
    speaking = [paper_name(*setting) for setting in SHORT if setting[1]]
    least = min(ratio(spent[name], spent[default]) for name in speaking)
    print(
        f"  paper at equal time: fits for {fitting} of {len(spent[default])} pairs, of less energy "
        f"for {below} of them; a single step takes {least:.1f} x ours"
    )
    return Counter(pairs=len(spent[default]), fitting=fitting, below=below)


def whole(stack: list[FloatArray], name: str) -> None:
    """``align_many`` against the matrix product of its data term, all neighbours stacked."""
    source, *targets = stack
    rows = source.reshape(-1, source.shape[2])
    columns = np.concatenate([target.reshape(-1, target.shape[2]) for target in targets]).T
    out = np.empty((len(rows), columns.shape[1]), np.float32)
    compare(
        f"  {name}, {len(targets)} neighbours",
        lambda: align_many(source, targets, BETAS[0]),
        lambda: np.matmul(rows, columns, out=out),
        "the product alone",
    )


@njit
def transforms(lines: Any, square: Any, out: Any) -> None:
    """The default solver's distance transform of every line."""
    for line in range(lines.shape[0]):
        transform(lines[line], square, square.size // 2, out[line])


def transforms_alone() -> None:
    """Of one axis, drawn costs: the vectorised O(n^2) minimum against the O(n) lower envelope."""
    print(f"distance transform of one axis, {LINES} lines of n labels, against the lower envelope")
    for beta in BETAS:
        for labels in (13, 30, 60, 120):
            padded = _flow_cpu.padded(labels)
            lines = np.full((LINES, padded), _flow_cpu.FORBIDDEN, np.float32)
            lines[:, :labels] = np.random.default_rng(labels).random((LINES, labels))
            inside = lines[:, :labels].astype(np.float64)
            square, out = _flow_cpu.squares(2 * padded, beta), np.empty_like(lines)
            work, other = _flow_paper._workspace(labels, beta), np.empty((labels, LINES))
            compare(
                f"  n = {labels}, beta {beta}",
                partial(transforms, lines, square, out),
                partial(_flow_paper._lines, inside, work, other),
                "lower envelope",
            )
            assert np.allclose(out[:, :labels], other.T, atol=1e-5)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="data set in VOC layout")
    parser.add_argument("weights", help="of AlexNet or CaffeNet")
    parser.add_argument("--category", action="append", default=[], help="default: all")
    arguments = parser.parse_args()
    one_core = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", one_core)  # for pgmax
    limit_threads()
    transforms_alone()
    kept = photographs(arguments.data, arguments.weights, arguments.category)
    print("align_many, data costs included")
    for (layer, _), grids in kept.items():
        if grids.stack:
            whole(grids.stack, f"{layer}, {len(grids.stack[0])} x {len(grids.stack[0])} cells")
    tiny = np.random.default_rng(0).random((4, 4, 4, 4)).astype(np.float32)
    for solver in solvers(1.0).values():
        solver(tiny)()  # compile
    total: Count = Counter()
    for beta in BETAS:
        foreign = alignment_peers.installed(beta)
        for (layer, side), grids in kept.items():
            cells = len(grids.pairs[0][0])
            print(f"{layer}, {cells} x {cells} cells, beta {beta}, {len(grids.pairs)} pairs")
            print(
                f"  {'':<38} {'above the bound, %':>18}     ms a pair    x ours   not below\n"
                f"  {'':<38} {'median':>8} {'max':>8}"
            )
            total += table(grids.pairs, beta, foreign if side == min(PAIRS) else {})
    print(
        f"paper at equal time, all {total['pairs']} pairs: fits for {total['fitting']}, of less "
        f"energy than ours for {total['below']}"
    )


if __name__ == "__main__":
    main()

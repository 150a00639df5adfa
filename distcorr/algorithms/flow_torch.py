"""The default solver for thousands of pairs at once, on any device of torch (paper, section 3).

Does what ``flow.align(solver="decoupled")`` does; features go up once, displacements and energies
come down, and everything between stays on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distcorr.algorithms import flow
from distcorr.algorithms._flow_cpu import FORBIDDEN
from distcorr.algorithms._flow_torch_solver import Shape, Solver, cells, deformation, pyramid

Grids = Tensor | npt.NDArray[Any] | Sequence[Any]

MEMORY_SHARE = 0.6  # of the free memory of a GPU that a chunk may take; not in the paper
CPU_BYTES = 64 * 2**20  # of a chunk without a GPU, next to the caches; not in the paper
# Pairs to a matrix product. Always so many, the last group filled up: the choice of a GPU's kernel,
# and with it the last bit of a cost, must not depend on how many pairs there are.
GROUP = {"cpu": 1, "cuda": 32}


def align_pairs(
    grids: Grids,
    pairs: npt.ArrayLike,
    beta: float,
    *,
    targets: Grids | None = None,
    iterations: int = 0,
    window: int = 0,
    device: str | torch.device = "cpu",
    chunk: int = 0,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """``flow.align(grids[i], targets[j], beta)`` for every pair (i, j), on a device.

    Deterministic, and a pair's result does not depend on the other pairs. With the CPU solver's
    costs it has the CPU solver's labels; the costs themselves may differ in their last bits. A
    source of one row or column is aligned by ``flow.align`` itself, on the CPU, pair by pair.

    Args:
        grids: (n, H, W, C) features, array or tensor, or n grids (H, W, C). Half floats stay half
            on the device and are widened where they are used; anything else becomes float32.
        pairs: (N, 2) integers (i, j): ``grids[i]`` is aligned to ``targets[j]``.
        beta: weight of the deformation, per cell^2.
        targets: (m, h, w, C) features; without them ``grids`` are the targets too.
        iterations: rounds of one sweep forth and one back, on every level; 0 is flow's default.
        window: largest displacement in cells along each axis; 0 for any.
        device: that torch names, "cpu" or "cuda".
        chunk: pairs at once; 0 for as many as fit into a share of the free memory of a GPU
            (``MEMORY_SHARE``), or into ``CPU_BYTES``.

    Returns:
        displacement: (N, H, W, 2) int16 (dx, dy) in cells.
        energies: (N, 2) float64 data and deformation energy, as in ``Flow``.

    Raises:
        ValueError: grids of different or empty shapes, of different channels, or not finite; pairs
            that are not (N, 2) integers of grids that are there; beta that is not finite and
            positive; iterations, window or chunk below 0; a device that is not there.
    """
    pairs = np.asarray(pairs)
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be finite and positive, got {beta}")
    for name, value in (("iterations", iterations), ("window", window), ("chunk", chunk)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    device = _available(device)
    with torch.inference_mode(), _full_precision():
        here = _uploaded(grids, "grid", device)
        there = here if targets is None else _uploaded(targets, "target", device)
        if here.shape[3] != there.shape[3]:
            channels = f"{here.shape[3]} and {there.shape[3]}"
            raise ValueError(f"grids and targets must have the same channels, got {channels}")
        _check_pairs(pairs, len(here), len(there))
        rounds = iterations or flow.ITERATIONS["decoupled"]
        if min(here.shape[1:3]) == 1:
            return _chains(here, there, pairs, beta, rounds, window)
        return _align(here, there, pairs, beta, rounds, window, chunk)


def bytes_per_pair(source: Shape, target: Shape) -> int:
    """Upper bound of the memory that one more pair of a chunk takes, in bytes.

    Costs of all levels; messages of the finest level and of the one above it; labels with their
    copies; and the largest intermediate, the distance transforms of a diagonal, with what is
    beside it.
    """
    height, width = target
    side, longest, shapes = max(target), min(source), pyramid(source)
    costs = 4 * height * width * sum(rows * columns for rows, columns in shapes)
    state = 4 * 5 * 2 * side * sum((r + 2) * (c + 2) for r, c in shapes[:2])
    labels = 8 * 2 * 12 * (source[0] + 2) * (source[1] + 2)
    diagonal = 4 * longest * 4 * (side**2 + 12 * side)
    return costs + state + labels + diagonal


def group_bytes(source: Shape, target: Shape, channels: int) -> int:
    """Upper bound of the memory that one pair of a group's matrix product takes, in bytes.

    The product; or features and their squares, which the energies need as float64.
    """
    ours, theirs = math.prod(source), math.prod(target)
    return 4 * ours * theirs + channels * (24 * ours + 8 * max(ours, theirs))


def _align(
    sources: Tensor,
    targets: Tensor,
    pairs: npt.NDArray[Any],
    beta: float,
    iterations: int,
    window: int,
    chunk: int,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    device = sources.device
    rows, columns, height, width = *sources.shape[1:3], *targets.shape[1:3]
    solver = Solver((rows, columns), (height, width), beta, iterations, device)
    displacement = np.empty((len(pairs), rows, columns, 2), np.int16)
    energies = np.empty((len(pairs), 2), np.float64)
    chunk = max(1, min(chunk or _chunk(sources, targets), len(pairs)))
    here = cells(rows, columns, device)[..., None]
    still = torch.minimum(here, torch.tensor([[height - 1], [width - 1]], device=device))
    for begin in range(0, len(pairs), chunk):
        part = slice(begin, begin + chunk)
        first, second = torch.from_numpy(pairs[part].astype(np.int64).T.copy()).to(device)
        features = _Features(sources, targets, first, second)
        cost = features.costs(solver.order, window)
        stand = still.expand(-1, -1, len(first))
        labels = solver.solve(cost, stand)
        del cost
        # The costs came from a float32 product; the promise is about the energy of the features.
        found, stood = features.energies(labels), features.energies(stand)
        stay = stood[0] + beta * stood[1] <= found[0] + beta * found[1]
        labels = torch.where(stay, stand, labels)
        moved = (labels - here).flip(1).permute(2, 0, 1).to(torch.int16)
        displacement[part] = moved.reshape(-1, rows, columns, 2).cpu().numpy()
        energies[part] = torch.where(stay, stood, found).T.cpu().numpy()
    return displacement, energies


def _chunk(sources: Tensor, targets: Tensor) -> int:
    """Pairs at once that fit, and few enough that no intermediate needs 64-bit indices."""
    source, target = _shape(sources), _shape(targets)
    free = CPU_BYTES
    if sources.is_cuda:
        cached = torch.cuda.memory_reserved(sources.device)
        cached -= torch.cuda.memory_allocated(sources.device)
        free = int((torch.cuda.mem_get_info(sources.device)[0] + cached) * MEMORY_SHARE)
        free -= group_bytes(source, target, sources.shape[3]) * GROUP["cuda"]
    largest = 4 * min(source) * max(target) ** 2
    return min(free // bytes_per_pair(source, target), (2**31 - 1) // largest)


def _chains(
    sources: Tensor,
    targets: Tensor,
    pairs: npt.NDArray[Any],
    beta: float,
    iterations: int,
    window: int,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    ours, theirs = (values.float().cpu().numpy() for values in (sources, targets))
    displacement = np.empty((len(pairs), *ours.shape[1:3], 2), np.int16)
    energies = np.empty((len(pairs), 2), np.float64)
    for k, (i, j) in enumerate(pairs):
        found = flow.align(ours[i], theirs[j], beta, iterations=iterations, window=window)
        displacement[k] = found.displacement
        energies[k] = found.data_energy, found.deformation_energy
    return displacement, energies


# -- features ----------------------------------------------------------------------------------


class _Features:
    """The features of a chunk's pairs, read group by group so that few copies exist at once."""

    def __init__(self, sources: Tensor, targets: Tensor, first: Tensor, second: Tensor) -> None:
        self._sources, self._targets = sources.flatten(0, 2), targets.flatten(0, 2)
        self._source, self._target = _shape(sources), _shape(targets)
        self._size = math.prod(self._target)
        self._first = first * math.prod(self._source)  # of the pairs: where their cells begin
        self._second = second * self._size

    def costs(self, order: Tensor, window: int) -> Tensor:
        """``cost``: ``sqrt(|a|^2 + |b|^2 - 2 ab)``, forbidden beyond the window."""
        device = order.device
        cost = torch.empty((len(order), len(self._first), self._size), device=device)
        all_targets = torch.arange(self._size, device=device)
        for part, members in self._groups():
            a = _take(self._sources, self._first[members, None] + order)
            b = _take(self._targets, self._second[members, None] + all_targets)
            ours, theirs = ((values * values).sum(2)[: len(part)] for values in (a, b))
            product = torch.bmm(a, b.transpose(1, 2))[: len(part)]
            out = cost[:, part.start : part.stop]
            torch.add(ours.T[:, :, None], theirs, out=out)
            out.sub_(product.transpose(0, 1), alpha=2).clamp_(min=0).sqrt_()
        cost = cost.view(*cost.shape[:2], *self._target)
        if window:
            labels = cells(*self._target, device)
            stand = torch.minimum(cells(*self._source, device)[order], labels[-1])
            far = ((labels - stand[:, None]).abs() > window).any(2)
            cost.masked_fill_(far.view(-1, 1, *self._target), float(FORBIDDEN))
        return cost

    def energies(self, labels: Tensor) -> Tensor:
        """(2, P) data and deformation energy, float64; ``labels`` (H * W, 2, P) in scan order."""
        chosen = labels[:, 0] * self._target[1] + labels[:, 1]
        all_sources = torch.arange(len(labels), device=labels.device)
        data = torch.empty(labels.shape[2], dtype=torch.float64, device=labels.device)
        for part, members in self._groups():
            a = _take(self._sources, self._first[members, None] + all_sources).double()
            a -= _take(self._targets, self._second[members, None] + chosen[:, members].T)
            data[part.start : part.stop] = a.square_().sum(2).sqrt_().sum(1)[: len(part)]
        return torch.stack([data, deformation(labels, *self._source).double()])

    def _groups(self) -> Iterator[tuple[range, Tensor]]:
        """The pairs of a group, and the indices of as many as always make one."""
        count, size = len(self._first), GROUP[self._first.device.type]
        for begin in range(0, count, size):
            members = torch.arange(begin, begin + size, device=self._first.device)
            yield range(begin, min(begin + size, count)), members.clamp_(max=count - 1)


def _take(features: Tensor, cells: Tensor) -> Tensor:
    """(G, cells, C) float32 rows of ``features`` at ``cells`` (G, cells)."""
    return features.index_select(0, cells.flatten()).float().view(*cells.shape, -1)


def _shape(grids: Tensor) -> Shape:
    rows, columns = grids.shape[1:3]
    return rows, columns


# -- input -------------------------------------------------------------------------------------


def _uploaded(grids: Grids, name: str, device: torch.device) -> Tensor:
    """(n, H, W, C) on the device, float32 or a half float, checked to be finite there."""
    if isinstance(grids, Sequence):
        shapes = sorted({tuple(grid.shape) for grid in grids})
        if len(shapes) != 1:
            raise ValueError(f"{name}s must be of one shape, got {shapes or 'none'}")
        grids = torch.stack([_tensor(grid) for grid in grids])
    values = _tensor(grids)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"{name}s must be non-empty (n, H, W, C), got {tuple(values.shape)}")
    if values.dtype not in (torch.float16, torch.bfloat16):
        values = values.to(torch.float32)
    values = values.to(device).contiguous()
    for begin in range(0, len(values), 256):
        finite = values[begin : begin + 256].isfinite().flatten(1).all(1)
        if not finite.all():
            index = begin + int(finite.int().argmin())
            raise ValueError(f"{name} {index} must be finite, got NaN or infinity")
    return values


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # torch writes nowhere


def _available(device: str | torch.device) -> torch.device:
    kind = str(device).partition(":")[0]
    if kind not in GROUP or (kind == "cuda" and not torch.cuda.is_available()):
        raise ValueError(f"device must be cpu, or cuda where torch sees a GPU, got {device}")
    return torch.device(device)


def _check_pairs(pairs: npt.NDArray[Any], sources: int, targets: int) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"pairs must be (N, 2) integers, got {pairs.dtype} {pairs.shape}")
    wrong = ((pairs < 0) | (pairs >= [sources, targets])).any(1)
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(
            f"pair {index} must name one of {sources} sources and one of {targets} targets, "
            f"got {tuple(pairs[index].tolist())}"
        )


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 and no bfloat16 inside matrix products, whatever the process has chosen."""
    backends: Any = torch.backends
    switches = [backends.cuda.matmul, backends.mkldnn.matmul]
    before, chosen = "", list[str]()
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # chosen by the newer switches, which the older ones cannot name
        chosen = [switch.fp32_precision for switch in switches]
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before:
            torch.set_float32_matmul_precision(before)
        for switch, precision in zip(switches, chosen, strict=False):
            switch.fp32_precision = precision

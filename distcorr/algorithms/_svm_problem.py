"""The objective of K squared-hinge SVMs over one feature matrix, and its products (see ``_svm``).

On the CPU everything that goes over samples is compiled (``_svm_cpu``); on other devices it is
torch. Both pass over the features a block at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from distcorr.algorithms import _svm_cpu

ROWS = 1024  # features at a time: 1.5 MB of 384 dimensions stay in the cache
MANY, DENSE = 16, 0.6  # BLAS is faster for so many classifiers with such a share of active rows


@dataclass(frozen=True, eq=False)
class Factors:
    """values (K, N); where they are not 0 as ``_svm_cpu.pack`` writes it, None off the CPU."""

    values: Tensor
    rows: _svm_cpu.Array | None = None
    found: _svm_cpu.Array | None = None

    @classmethod
    def of(cls, values: Tensor) -> Factors:
        """Packed on the CPU."""
        if not compiled(values):
            return cls(values)
        rows, found = np.empty(values.shape, np.int32), np.empty(len(values), np.intp)
        _svm_cpu.pack(values.numpy(), rows, found)
        return cls(values, rows, found)

    def subset(self, keep: Tensor) -> Factors:
        """The classifiers ``keep`` alone."""
        if self.rows is None or self.found is None:
            return Factors(self.values[keep])
        at = keep.numpy()
        return Factors(self.values[keep], self.rows[at], self.found[at])

    def active(self, k: int) -> Tensor:
        """Rows where classifier k has a factor."""
        if self.rows is None or self.found is None:
            return self.values[k].nonzero()[:, 0]
        return torch.from_numpy(self.rows[k, : self.found[k]]).long()

    def counts(self) -> Tensor:
        """(K,) how many rows have a factor."""
        if self.found is None:
            return (self.values != 0).sum(1)
        return torch.from_numpy(self.found)

    @property
    def packed(self) -> tuple[_svm_cpu.Array, _svm_cpu.Array] | None:
        """Rows and their numbers; None where BLAS, with all rows, is faster."""
        if self.rows is None or self.found is None:
            return None
        dense = len(self.values) >= MANY and self.found.sum() > DENSE * self.values.numel()
        return None if dense else (self.rows, self.found)


@dataclass(frozen=True, eq=False)
class View:
    """What f is at some weights: float64 but for the factors."""

    objective: Tensor  # f, (K,)
    gain: Tensor  # f(0) - f, (K,)
    gradient: Tensor  # (K, D + 1)
    convexity: Tensor  # (K,) f'' by the intercept where only that is not penalised, else 1
    factors: Factors  # -2 c_i y_i max(0, 1 - m_i): the gradient is P w plus these times x

    def subset(self, keep: Tensor) -> View:
        """The classifiers ``keep`` alone."""
        return View(
            self.objective[keep],
            self.gain[keep],
            self.gradient[keep],
            self.convexity[keep],
            self.factors.subset(keep),
        )

    @property
    def gap(self) -> Tensor:
        """(K,) duality gap."""
        gradient = self.gradient
        return 0.5 * (gradient[:, :-1].square().sum(1) + gradient[:, -1] ** 2 / self.convexity)


@dataclass(frozen=True, eq=False)
class Problem:
    """x (N, D) float32; signs (K, N) +-1 float32; cost (1 or K, N) float64."""

    x: Tensor
    signs: Tensor
    cost: Tensor
    offset: float
    penalised: bool  # the intercept, too

    @cached_property
    def curvature(self) -> Tensor:
        """(1 or K, N) float32 2 c."""
        return (2 * self.cost).float()

    def subset(self, keep: Tensor) -> Problem:
        """The classifiers ``keep`` alone."""
        cost = self.cost if len(self.cost) == 1 else self.cost[keep]
        return replace(self, signs=self.signs[keep], cost=cost)

    def sample(self, rows: Tensor) -> Problem:
        """The rows alone, at a cost that makes up for the others."""
        cost = self.cost[:, rows] * (len(self.x) / len(rows))
        return replace(self, x=self.x[rows], signs=self.signs[:, rows], cost=cost)

    def margins(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """(K, N) y_i x_i . w, multiplied in ``dtype``."""
        weights = weights.to(dtype)
        out = forward(self.x, weights[:, :-1])
        return out.add_(weights[:, -1:] * self.offset).mul_(self.signs)

    def penalty(self, weights: Tensor) -> Tensor:
        """P * w, (K, D + 1)."""
        if self.penalised:
            return weights
        return torch.cat([weights[:, :-1], torch.zeros_like(weights[:, -1:])], 1)

    def view(self, weights: Tensor, margins: Tensor) -> View:
        """What f is there; products in the margins' precision, their blocks added in float64."""
        factors, sums = _look(margins, self.signs, self.cost)
        size = 0.5 * (weights * self.penalty(weights)).sum(1)
        constant = self.offset * sums[2, :, None]
        gradient = self.penalty(weights) + torch.cat([backward(self.x, factors), constant], 1)
        convexity = torch.ones_like(size)
        if not self.penalised:
            convexity = (2 * self.offset**2 * sums[3]).clamp(min=1e-300)
        return View(size + sums[0], sums[1] - size, gradient, convexity, factors)

    def steepness(self) -> Tensor:
        """(K,) norm of the gradient at 0."""
        if len(self.cost) > 1:
            factors = -2 * self.cost * self.signs
        else:  # y = 2 [y > 0] - 1: positive samples are few, and all classifiers share the rest
            factors = torch.cat([-4 * self.cost * (self.signs > 0), 2 * self.cost])
        constant = self.offset * factors.sum(1, keepdim=True)
        sums = torch.cat([backward(self.x, Factors.of(factors.float())), constant], 1)
        if len(self.cost) == 1:
            sums = sums[:-1] + sums[-1]
        norms: Tensor = sums.norm(dim=1)
        return norms

    def slopes(self, margins: Tensor, change: Tensor, t: Tensor, which: Tensor) -> Tensor:
        """(2, K) first and second derivative by t of the loss at margins + t change.

        Of the classifiers ``which`` (K,) alone; 0 for others.
        """
        if compiled(margins):
            out = torch.zeros(2, len(t), dtype=torch.float64)
            arrays = (margins, change, self.cost, t, which, out)
            _svm_cpu.slopes(*(a.numpy() for a in arrays))
            return out
        price = self.cost.to(margins.dtype)
        gap = (1 - margins).sub_(t[:, None].to(margins.dtype) * change).clamp_(min=0)
        first = (price * gap).mul_(change).sum(1, dtype=torch.float64)
        second = (price * (gap > 0)).mul_(change).mul_(change).sum(1, dtype=torch.float64)
        return torch.stack([-2 * first, 2 * second]) * which


def compiled(x: Tensor) -> bool:
    """Whether ``_svm_cpu`` can compute with it."""
    return x.device.type == "cpu"


def _look(margins: Tensor, signs: Tensor, cost: Tensor) -> tuple[Factors, Tensor]:
    """Factors, and (4, K) float64 loss, what it is less than at 0, sum of factors, active cost."""
    if compiled(margins):
        values = torch.empty_like(margins)
        rows, found = np.empty(values.shape, np.int32), np.empty(len(values), np.intp)
        sums = torch.empty(4, len(values), dtype=torch.float64)
        arrays = (margins.numpy(), signs.numpy(), cost.numpy(), values.numpy())
        _svm_cpu.look(*arrays, rows, found, sums.numpy())
        return Factors(values, rows, found), sums
    price, clipped = cost.to(margins.dtype), margins.clamp(max=1)
    priced = price * (1 - clipped)
    values = -2 * signs * priced
    parts = (priced * (1 - clipped), price * clipped * (2 - clipped), values, price * (margins < 1))
    return Factors(values), torch.stack([a.sum(1, dtype=torch.float64) for a in parts])


def forward(x: Tensor, weights: Tensor) -> Tensor:
    """(K, N) weights . x, in the precision of the weights."""
    out = torch.empty(len(weights), len(x), dtype=weights.dtype, device=x.device)
    if compiled(x):
        _svm_cpu.forward(x.numpy(), weights.contiguous().numpy(), out.numpy())
    else:
        for rows, part in _blocks(x, weights.dtype):
            out[:, rows] = weights @ part.T
    return out


def backward(x: Tensor, factors: Factors) -> Tensor:
    """(K, D) float64 factors . x: blocks in the precision of the factors, added in float64."""
    values = factors.values
    out = torch.zeros(len(values), x.shape[1], dtype=torch.float64, device=x.device)
    if packed := factors.packed:
        _svm_cpu.backward(x.numpy(), values.numpy(), *packed, out.numpy())
    else:
        for rows, part in _blocks(x, values.dtype):
            out += values[:, rows] @ part
    return out


class Hessian:
    """p (k, D + 1) -> sum_i a_i (x_i . p) x_i over the rows with a factor, for k of K classifiers.

    a is (1 or K, N).
    """

    def __init__(self, x: Tensor, a: Tensor, factors: Factors, offset: float) -> None:
        self.x, self.a, self.offset, self.packed = x, a, offset, factors.packed
        if self.packed is None:
            self.a = torch.where(factors.values != 0, a, 0)

    def __call__(self, p: Tensor, at: Tensor) -> Tensor:
        out, weights, constant = torch.zeros_like(p), p[:, :-1].contiguous(), self.offset * p[:, -1]
        if self.packed:
            arrays = (at.numpy(), weights.numpy(), constant.numpy(), out.numpy())
            _svm_cpu.hessian(self.x.numpy(), self.a.numpy(), *self.packed, *arrays)
        else:
            a = self.a if len(at) == len(self.a) else self.a[at]
            for rows, part in _blocks(self.x, p.dtype):
                weighted = (weights @ part.T).add_(constant[:, None]).mul_(a[:, rows])
                out[:, :-1].addmm_(weighted, part)
                out[:, -1] += weighted.sum(1)
        out[:, -1] *= self.offset
        return out


def _blocks(x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """ROWS rows at a time, in ``dtype``."""
    for begin in range(0, len(x), ROWS):
        rows = slice(begin, begin + ROWS)
        yield rows, x[rows].to(dtype)

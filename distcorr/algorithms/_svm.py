"""Truncated Newton for K squared-hinge SVMs over one feature matrix, in torch (see ``svm``).

A weight vector is (D + 1,): the last entry multiplies a constant feature of value ``offset``. With
margins m_i = y_i x_i . w and p = 1 (0 for an intercept that is not penalised), every classifier
minimises

    f(w) = 1/2 sum_j p_j w_j^2 + sum_i c_i max(0, 1 - m_i)^2.

f is piecewise quadratic with Hessian diag(p) + 2 sum_{m_i < 1} c_i x_i x_i', so a Newton step is a
linear system, which conjugate gradients solve as well as the step deserves. Its dual is
d(a) = sum_i a_i - 1/2 |sum_i a_i y_i x_i|^2 - sum_i a_i^2 / (4 c_i); the point
a_i = 2 c_i max(0, 1 - m_i) >= 0 is feasible and its duality gap is 1/2 |grad f|^2: every gradient
is a certificate.

What is subtracted is f(0) - f, the *gain*, and not f: where C is small they agree to many digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distcorr.algorithms import _svm_cpu

ROWS = 1024  # features at a time: 1.5 MB of 384 dimensions stay in the cache
FORCING = 0.05  # a Newton step is solved until its residual is this share of the gradient
PATIENCE = 64  # iterations of conjugate gradients; beyond, factorising is cheaper
MANY, DENSE = 16, 0.6  # BLAS is faster for so many classifiers with such a share of active rows
LARGEST = 4096  # D of a Hessian that may be factorised (128 MB)
STEPS = 200  # Newton steps at most in either precision; a dozen is usual
SLOPE = 0.1  # a line search ends at this share of the slope that it began with


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights (K, D + 1) and, for each classifier, what they are worth; float64 on the device."""

    weights: Tensor
    objective: Tensor  # f, (K,)
    gap: Tensor  # bound on f - min f, (K,)
    gradient: Tensor  # |grad f| / |grad f(0)|, (K,)
    steps: Tensor  # Newton steps, (K,) int64


@dataclass(frozen=True, eq=False)
class Problem:
    """x (N, D) float32; signs (K, N) +-1 float32; cost (1 or K, N) float64."""

    x: Tensor
    signs: Tensor
    cost: Tensor
    offset: float
    penalised: bool  # the intercept, too

    def subset(self, keep: Tensor) -> Problem:
        """The classifiers ``keep`` alone."""
        cost = self.cost if len(self.cost) == 1 else self.cost[keep]
        return replace(self, signs=self.signs[keep], cost=cost)

    def margins(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        """(K, N) y_i x_i . w, multiplied in ``dtype``."""
        weights = weights.to(dtype)
        out = _forward(self.x, weights[:, :-1])
        return out.add_(weights[:, -1:] * self.offset).mul_(self.signs)

    def penalty(self, weights: Tensor) -> Tensor:
        """P * w, (K, D + 1)."""
        if self.penalised:
            return weights
        return torch.cat([weights[:, :-1], torch.zeros_like(weights[:, -1:])], 1)

    def price(self, margins: Tensor) -> Tensor:
        """(1 or K, N) c in the precision of the margins."""
        return self.cost.to(margins.dtype)

    def value(self, weights: Tensor, margins: Tensor) -> tuple[Tensor, Tensor]:
        """f(w) and the gain f(0) - f(w), each to its own relative precision: (K,), (K,) float64."""
        price, clipped = self.price(margins), margins.clamp(max=1)
        size = 0.5 * (weights * self.penalty(weights)).sum(1)
        loss = (price * (1 - clipped).square_()).sum(1, dtype=torch.float64)
        saved = (price * clipped * (2 - clipped)).sum(1, dtype=torch.float64)
        return size + loss, saved - size

    def gradient(self, weights: Tensor, margins: Tensor) -> Tensor:
        """(K, D + 1) float64; products in the margins' precision, their blocks added in float64."""
        factors = (1 - margins).clamp_(min=0).mul_(self.price(margins)).mul_(self.signs).mul_(-2)
        constant = self.offset * factors.sum(1, keepdim=True, dtype=torch.float64)
        return self.penalty(weights) + torch.cat([_backward(self.x, factors), constant], 1)

    def convexity(self, margins: Tensor) -> Tensor:
        """(K, 1) second derivative of f by the intercept where only that is not penalised, or 1."""
        if self.penalised:
            return torch.ones(len(margins), 1, dtype=torch.float64, device=margins.device)
        active = (self.cost * (margins < 1)).sum(1, keepdim=True)
        return (2 * self.offset**2 * active).clamp(min=1e-300)


def minimise(problem: Problem, weights: Tensor, tolerance: float) -> Solution:
    """Newton's method in float32 products, then in float64 for those that need it.

    A classifier is done when its gap is ``tolerance`` times the lesser of f and f(0) - f, or when
    rounding lets it come no closer.

    Args:
        problem: what to minimise.
        weights: (K, D + 1) float64 to start from; scaled by the best factor first.
        tolerance: relative gap.
    """
    zero = torch.zeros_like(weights)
    nothing = torch.zeros_like(problem.signs)
    at_zero = problem.gradient(zero, nothing)
    if weights.any():
        margins, slope = problem.margins(weights, torch.float32), (at_zero * weights).sum(1)
        factor = _line_search(problem, zero, nothing, weights, margins, slope)
        weights = weights * torch.where(slope < 0, factor, 0)[:, None]
    first = _descend(problem, weights, tolerance, torch.float32)
    last = _descend(problem, first.weights, tolerance, torch.float64)
    scale = at_zero.norm(dim=1).clamp(min=1e-300)
    return replace(last, steps=first.steps + last.steps, gradient=last.gradient / scale)


def _descend(problem: Problem, weights: Tensor, tolerance: float, dtype: torch.dtype) -> Solution:
    count, device = len(weights), weights.device
    found = torch.zeros(3, count, dtype=torch.float64, device=device)
    made, steps = weights.clone(), torch.zeros(count, dtype=torch.int64, device=device)
    todo = torch.arange(count, device=device)
    hard = torch.zeros(count, dtype=torch.bool, device=device)
    last = torch.full((2, count), -torch.inf, dtype=torch.float64, device=device)
    margins = problem.margins(weights, dtype)
    for step in range(STEPS + 1):
        objective, gain = problem.value(weights, margins)
        gradient, convexity = problem.gradient(weights, margins), problem.convexity(margins)
        gap = 0.5 * (gradient[:, :-1].square().sum(1) + gradient[:, -1] ** 2 / convexity[:, 0])
        found[:, todo] = torch.stack([objective, gap, gradient.norm(dim=1)])
        made[todo], steps[todo] = weights, step
        bound = tolerance * torch.minimum(objective, gain).clamp(min=0)
        value = torch.stack([-objective, gain])
        better = ((value - last) > torch.finfo(dtype).eps * value.abs()).any(0)
        open_ = (gap > bound) & better
        if step == STEPS or not open_.any():
            break
        if not open_.all():
            keep = open_.nonzero()[:, 0]
            problem, todo, hard = problem.subset(keep), todo[keep], hard[keep]
            weights, margins, gradient, bound, convexity = (
                a[keep] for a in (weights, margins, gradient, bound, convexity)
            )
            value = value[:, keep]
        last, enough = value, 0.5 * bound * convexity[:, 0].clamp(max=1)
        move = _newton_step(problem, margins, gradient, enough, hard)
        change = problem.margins(move, dtype)
        slope = (gradient * move).sum(1)
        length = _line_search(problem, weights, margins, move, change, slope)
        weights = weights + length[:, None] * move
        if dtype == torch.float32:
            margins += length[:, None].to(dtype) * change
        else:
            margins = problem.margins(weights, dtype)
    return Solution(made, found[0], found[1], found[2], steps)


def _newton_step(
    problem: Problem, margins: Tensor, gradient: Tensor, enough: Tensor, hard: Tensor
) -> Tensor:
    """(K, D + 1) s with H s = -gradient, to a squared residual of ``enough`` or FORCING.

    A classifier that conjugate gradients do not bring home is marked as ``hard`` and factorised,
    then and from then on.
    """
    active = (2 * problem.cost * (margins < 1)).float()
    enough = torch.maximum(enough, FORCING**2 * gradient.square().sum(1))
    move = torch.zeros_like(gradient)
    easy = (~hard).nonzero()[:, 0]
    if len(easy):
        found, hard[easy] = _conjugate_gradients(
            problem, active[easy], gradient[easy], enough[easy]
        )
        move[easy] = found.double()
    for k in hard.nonzero()[:, 0].tolist():
        move[k] = _factorised(problem, active[k], gradient[k])
    return move


def _conjugate_gradients(
    problem: Problem, active: Tensor, gradient: Tensor, enough: Tensor
) -> tuple[Tensor, Tensor]:
    """Steps (K, D + 1) float32 and which of them are not good enough, (K,).

    ``active`` (K, N) holds 2 c_i of the rows with m_i < 1, else 0.
    """
    many = problem.x.shape[1] > LARGEST
    move = torch.zeros_like(gradient, dtype=torch.float32)
    multiply = _Hessian(problem.x, active, problem.offset)
    at = torch.arange(len(move), device=move.device)
    p = residual = -gradient.float()
    norm = _dot(residual, residual)
    for _ in range(10 * PATIENCE if many else PATIENCE):
        live = norm > enough
        if not live.all():  # those that are done take no more part
            at, residual, p = at[live], residual[live], p[live]
            norm, enough = norm[live], enough[live]
        if not len(at):
            break
        product = problem.penalty(p) + multiply(p, at)
        length = (norm / _dot(p, product))[:, None].float()
        move[at] += length * p
        residual = residual - length * product
        new = _dot(residual, residual)
        p, norm = residual + (new / norm)[:, None].float() * p, new
    left = torch.zeros(len(move), dtype=torch.bool, device=move.device)
    left[at] = (norm > enough) & (not many)
    return move, left


def _factorised(problem: Problem, active: Tensor, gradient: Tensor) -> Tensor:
    """(D + 1,) the Newton step by Cholesky factors of the Hessian, in float64."""
    penalty = problem.penalty(torch.ones_like(gradient)[None])[0]
    chosen = active.nonzero()[:, 0]
    x, active = problem.x[chosen], active[chosen].double()
    if x.device.type == "cpu":
        hessian = np.asfortranarray(np.diag(penalty.numpy()))
        for full in _weighted(x, active.sqrt(), problem.offset):
            hessian = _svm_cpu.add_square(hessian, full.numpy())
        return torch.from_numpy(_svm_cpu.solve(hessian, -gradient.numpy()))
    full_hessian = torch.diag(penalty)
    for full in _weighted(x, active.sqrt(), problem.offset):
        full_hessian += full.T @ full
    return torch.cholesky_solve(-gradient[:, None], torch.linalg.cholesky(full_hessian))[:, 0]


def _weighted(x: Tensor, factors: Tensor, offset: float) -> Iterator[Tensor]:
    """ROWS rows at a time of (x, offset), each times its factor, float64."""
    for rows, part in _blocks(x, torch.float64):
        full = torch.cat([part, torch.full_like(part[:, :1], offset)], 1)
        yield full.mul_(factors[rows, None])


def _line_search(
    problem: Problem, weights: Tensor, margins: Tensor, move: Tensor, change: Tensor, slope: Tensor
) -> Tensor:
    """(K,) t > 0 with |f'(w + t move)| <= SLOPE |f'(w)|; from cached margins, without x.

    The derivative rises with t and is piecewise linear: Newton's method on it, kept in a bracket.
    """
    penalised, price = problem.penalty(move), problem.price(margins)
    constant, linear = (penalised * weights).sum(1), (penalised * move).sum(1)
    t = torch.ones_like(slope)
    low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
    for _ in range(50):
        gap = (1 - margins).sub_(t[:, None].to(margins.dtype) * change).clamp_(min=0)
        first = (price * gap).mul_(change).sum(1, dtype=torch.float64)
        first = constant + t * linear - 2 * first
        moving = first.abs() > SLOPE * slope.abs()
        if not moving.any():
            break
        second = (price * (gap > 0)).mul_(change).mul_(change).sum(1, dtype=torch.float64)
        low, high = torch.where(first < 0, t, low), torch.where(first > 0, t, high)
        newton = t - first / (linear + 2 * second).clamp(min=1e-300)
        middle = torch.where(high.isinf(), 2 * t, 0.5 * (low + high))
        t = torch.where(moving, torch.where((newton > low) & (newton < high), newton, middle), t)
    return t


def _forward(x: Tensor, weights: Tensor) -> Tensor:
    """(K, N) weights . x, in the precision of the weights."""
    out = torch.empty(len(weights), len(x), dtype=weights.dtype, device=x.device)
    if x.device.type == "cpu":
        _svm_cpu.forward(x.numpy(), weights.contiguous().numpy(), out.numpy())
    else:
        for rows, part in _blocks(x, weights.dtype):
            out[:, rows] = weights @ part.T
    return out


def _backward(x: Tensor, factors: Tensor) -> Tensor:
    """(K, D) float64 factors . x: blocks in the precision of the factors, added in float64."""
    out = torch.zeros(len(factors), x.shape[1], dtype=torch.float64, device=x.device)
    if packed := _pack(factors):
        _svm_cpu.backward(x.numpy(), factors.numpy(), *packed, out.numpy())
    else:
        for rows, part in _blocks(x, factors.dtype):
            out += factors[:, rows] @ part
    return out


class _Hessian:
    """p (k, D + 1) -> sum_i a_i (x_i . p) x_i, where a is (K, N), for k of K classifiers."""

    def __init__(self, x: Tensor, active: Tensor, offset: float) -> None:
        self.x, self.active, self.offset = x, active, offset
        self.packed = _pack(active)

    def __call__(self, p: Tensor, at: Tensor) -> Tensor:
        out, weights, constant = torch.zeros_like(p), p[:, :-1].contiguous(), self.offset * p[:, -1]
        if self.packed:
            arrays = (at.numpy(), weights.numpy(), constant.numpy(), out.numpy())
            _svm_cpu.hessian(self.x.numpy(), self.active.numpy(), *self.packed, *arrays)
        else:
            active = self.active if len(at) == len(self.active) else self.active[at]
            for rows, part in _blocks(self.x, p.dtype):
                weighted = (weights @ part.T).add_(constant[:, None]).mul_(active[:, rows])
                out[:, :-1].addmm_(weighted, part)
                out[:, -1] += weighted.sum(1)
        out[:, -1] *= self.offset
        return out


def _pack(factors: Tensor) -> tuple[_svm_cpu.Array, _svm_cpu.Array] | None:
    """Where factors (K, N) are not 0, for ``_svm_cpu``; None where BLAS, with all, is faster."""
    if factors.device.type != "cpu":
        return None
    rows, found = np.empty(factors.shape, np.int32), np.empty(len(factors), np.intp)
    _svm_cpu.pack(factors.numpy(), rows, found)
    dense = len(factors) >= MANY and found.sum() > DENSE * factors.numel()
    return None if dense else (rows, found)


def _blocks(x: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """ROWS rows at a time, in ``dtype``."""
    for begin in range(0, len(x), ROWS):
        rows = slice(begin, begin + ROWS)
        yield rows, x[rows].to(dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, dtype=torch.float64)

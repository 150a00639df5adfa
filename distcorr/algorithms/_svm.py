"""Truncated Newton for K squared-hinge SVMs over one feature matrix, in torch (see ``svm``).

A weight vector is (D + 1,): the last entry multiplies a constant feature of value ``offset``. With
margins m_i = y_i x_i . w and p = 1 (0 for an intercept that is not penalised), every classifier
minimises

    f(w) = 1/2 sum_j p_j w_j^2 + sum_i c_i max(0, 1 - m_i)^2.

f is piecewise quadratic with Hessian diag(p) + 2 sum_{m_i < 1} c_i x_i x_i', so a Newton step is a
linear system, which is solved as well as the step deserves (``_svm_newton``). Its dual is
d(a) = sum_i a_i - 1/2 |sum_i a_i y_i x_i|^2 - sum_i a_i^2 / (4 c_i); the point
a_i = 2 c_i max(0, 1 - m_i) >= 0 is feasible and its duality gap is 1/2 |grad f|^2: every gradient
is a certificate.

What is subtracted is f(0) - f, the *gain*, and not f: where C is small they agree to many digits.

The first steps, where most rows are active, are the dearest. With many samples they are made on a
few of them; that only moves the start.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from distcorr.algorithms._svm_newton import newton_step
from distcorr.algorithms._svm_problem import Problem

STEPS = 200  # Newton steps at most in either precision; a dozen is usual
SLOPE = 0.1  # a line search ends at this share of the slope that it began with
SAMPLE = 8  # a cold start is made on one of so many rows, where that leaves at least D
NEAR = 1e-2  # tolerance on the sample: its optimum is no nearer to that of all
FEW = 5  # Newton steps on the sample at most: where C is large its optimum is far from that of all
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights (K, D + 1) and, for each classifier, what they are worth; float64 on the device."""

    weights: Tensor
    objective: Tensor  # f, (K,)
    gap: Tensor  # bound on f - min f, (K,)
    gradient: Tensor  # |grad f| / |grad f(0)|, (K,)
    steps: Tensor  # Newton steps, (K,) int64


def minimise(problem: Problem, weights: Tensor, tolerance: float) -> Solution:
    """Newton's method in float32 products, then in float64 for those that need it.

    A classifier is done when its gap is ``tolerance`` times the lesser of f and f(0) - f, or when
    rounding lets it come no closer.

    Args:
        problem: what to minimise.
        weights: (K, D + 1) float64 to start from; scaled by the best factor first.
        tolerance: relative gap.
    """
    count, width = problem.x.shape
    nothing = torch.zeros_like(problem.signs)
    if not weights.any() and count >= SAMPLE * width:
        few = problem.sample(_spread(count, problem.x.device))
        start = torch.zeros_like(few.signs)
        weights = _descend(few, weights, start, max(tolerance, NEAR), FEW).weights
    margins = nothing
    if weights.any():
        margins = problem.margins(weights, torch.float32)
        slope = -2 * (problem.cost * margins).sum(1)
        zero = torch.zeros_like(weights)
        factor = _line_search(problem, zero, nothing, weights, margins, slope)
        factor = torch.where(slope < 0, factor, 0)[:, None]
        weights, margins = weights * factor, margins * factor.float()
    first = _descend(problem, weights, margins, tolerance)
    margins = problem.margins(first.weights, torch.float64)
    last = _descend(problem, first.weights, margins, tolerance)
    scale = problem.steepness().clamp(min=1e-300)
    return replace(last, steps=first.steps + last.steps, gradient=last.gradient / scale)


def _spread(count: int, device: torch.device) -> Tensor:
    """Rows of a sample, spread evenly without a period, which labels might share."""
    place = np.arange(count) * GOLDEN % 1
    return torch.from_numpy(np.flatnonzero(place < 1 / SAMPLE)).to(device)


def _descend(
    problem: Problem, weights: Tensor, margins: Tensor, tolerance: float, most: int = STEPS
) -> Solution:
    """``most`` steps at most, in the precision of the margins, which are those of the weights."""
    count, device, dtype = len(weights), weights.device, margins.dtype
    found = torch.zeros(3, count, dtype=torch.float64, device=device)
    made, steps = weights.clone(), torch.zeros(count, dtype=torch.int64, device=device)
    todo = torch.arange(count, device=device)
    hard = torch.zeros(count, dtype=torch.bool, device=device)
    last = torch.full((2, count), -torch.inf, dtype=torch.float64, device=device)
    for step in range(most + 1):
        view = problem.view(weights, margins)
        found[:, todo] = torch.stack([view.objective, view.gap, view.gradient.norm(dim=1)])
        made[todo], steps[todo] = weights, step
        bound = tolerance * torch.minimum(view.objective, view.gain).clamp(min=0)
        value = torch.stack([-view.objective, view.gain])
        better = ((value - last) > torch.finfo(dtype).eps * value.abs()).any(0)
        open_ = (view.gap > bound) & better
        if step == most or not open_.any():
            break
        if not open_.all():
            keep = open_.nonzero()[:, 0]
            problem, view, todo, hard = (
                problem.subset(keep),
                view.subset(keep),
                todo[keep],
                hard[keep],
            )
            weights, margins, bound, value = (
                weights[keep],
                margins[keep],
                bound[keep],
                value[:, keep],
            )
        last, enough = value, 0.5 * bound * view.convexity.clamp(max=1)
        move = newton_step(problem, weights, view, enough, hard)
        change = problem.margins(move, dtype)
        slope = (view.gradient * move).sum(1)
        length = _line_search(problem, weights, margins, move, change, slope)[:, None]
        weights = weights + length * move
        if dtype == torch.float32:
            margins = margins.addcmul(length.float(), change)
        else:
            margins = problem.margins(weights, dtype)
    return Solution(made, found[0], found[1], found[2], steps)


def _line_search(
    problem: Problem, weights: Tensor, margins: Tensor, move: Tensor, change: Tensor, slope: Tensor
) -> Tensor:
    """(K,) t > 0 with |f'(w + t move)| <= SLOPE |f'(w)|; from cached margins, without x.

    The derivative rises with t and is piecewise linear: Newton's method on it, kept in a bracket.
    """
    penalised = problem.penalty(move)
    constant, linear = (penalised * weights).sum(1), (penalised * move).sum(1)
    t = torch.ones_like(slope)
    low, high = torch.zeros_like(t), torch.full_like(t, torch.inf)
    moving = torch.ones_like(t, dtype=torch.bool)
    for _ in range(50):
        first, second = problem.slopes(margins, change, t, moving)
        first = first + constant + t * linear
        moving = moving & (first.abs() > SLOPE * slope.abs())
        if not moving.any():
            break
        low, high = torch.where(first < 0, t, low), torch.where(first > 0, t, high)
        newton = t - first / (linear + second).clamp(min=1e-300)
        middle = torch.where(high.isinf(), 2 * t, 0.5 * (low + high))
        t = torch.where(moving, torch.where((newton > low) & (newton < high), newton, middle), t)
    return t

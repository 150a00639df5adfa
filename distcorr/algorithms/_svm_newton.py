"""Newton steps of K squared-hinge SVMs: conjugate gradients, or factors of the Hessian.

The Hessian is P + A'A, where A holds the active rows (x_i, offset), each times sqrt(2 c_i).
Conjugate gradients solve for all classifiers together. Where they have cost a classifier as much as
factorising would, it is factorised, then and from then on. Of P + A'A, (D + 1, D + 1), and
I + A A', (n, n) for n active rows, that is the smaller one: either gives the exact step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from distcorr.algorithms import _svm_cpu
from distcorr.algorithms._svm_problem import ROWS, Hessian, Problem, View, compiled

FORCING = 0.05  # a Newton step is solved until its residual is this share of the gradient
PATIENCE = 64  # iterations of conjugate gradients at most where the Hessian may be factorised
LARGEST = 4096  # side of a matrix that may be factorised (128 MB)


def newton_step(
    problem: Problem, weights: Tensor, view: View, enough: Tensor, hard: Tensor
) -> Tensor:
    """(K, D + 1) s with H s = -gradient, to a squared residual of ``enough`` or FORCING.

    Classifiers that are better factorised are marked as ``hard`` (K,).
    """
    enough = torch.maximum(enough, FORCING**2 * view.gradient.square().sum(1))
    move = torch.zeros_like(weights)
    easy = (~hard).nonzero()[:, 0]
    if len(easy):
        hard |= _conjugate_gradients(problem, view, easy, enough, move)
    for k in hard.nonzero()[:, 0].tolist():
        rows = view.factors.active(k)
        root = (2 * problem.cost[k if len(problem.cost) > 1 else 0, rows]).sqrt()
        if len(rows) < weights.shape[1]:
            move[k] = _optimum(problem, rows, root, problem.signs[k, rows]) - weights[k]
        else:
            move[k] = _factorised(problem, rows, root, view.gradient[k])
    return move


def _conjugate_gradients(
    problem: Problem, view: View, at: Tensor, enough: Tensor, move: Tensor
) -> Tensor:
    """Add the steps of classifiers ``at`` (k,) to ``move``; (K,) which are better factorised.

    On the CPU it is compiled: between products, vectors are so short that calls would take longer.
    """
    counts, width = view.factors.counts(), move.shape[1]
    patience = _patience(counts, width)
    left = torch.zeros(len(move), dtype=torch.bool, device=move.device)
    if packed := view.factors.packed:
        _svm_cpu.conjugate_gradients(
            problem.x.numpy(),
            problem.curvature.numpy(),
            *packed,
            problem.offset,
            problem.penalised,
            at.numpy(),
            view.gradient.numpy(),
            enough.numpy(),
            patience.numpy(),
            move.numpy(),
            left.numpy(),
        )
        return left & (_cost(counts, width) < torch.inf)
    enough, patience = enough[at], patience[at]
    multiply = Hessian(problem.x, problem.curvature, view.factors, problem.offset)
    found = torch.zeros_like(move, dtype=torch.float32)
    p = residual = -view.gradient[at].float()
    norm = _dot(residual, residual)
    for step in range(10 * PATIENCE + 1):
        wrong = norm > enough
        tired = wrong & (patience <= step)
        left[at[tired]] = True
        live = wrong & ~tired
        if not live.all():  # those that are done take no more part
            at, residual, p, patience = at[live], residual[live], p[live], patience[live]
            norm, enough = norm[live], enough[live]
        if not len(at):
            break
        product = problem.penalty(p) + multiply(p, at)
        length = (norm / _dot(p, product))[:, None].float()
        found[at] += length * p
        residual = residual - length * product
        new = _dot(residual, residual)
        p, norm = residual + (new / norm)[:, None].float() * p, new
    move += found
    return left & (_cost(counts, width) < torch.inf)


def _patience(counts: Tensor, width: int) -> Tensor:
    """(k,) iterations of conjugate gradients before factorising is cheaper."""
    cost = _cost(counts, width)
    iterations = (cost / (2.0 * width * counts.clamp(min=1))).clamp(1, PATIENCE)
    return torch.where(cost < torch.inf, iterations, 10 * PATIENCE)


def _cost(counts: Tensor, width: int) -> Tensor:
    """(k,) multiplications that factorising takes with so many active rows; inf: too large."""
    rows = counts.double()
    small, large = rows.clamp(max=width), rows.clamp(min=width)
    cost = small**2 * large / 2 + small**3 / 6
    possible = (small <= LARGEST) & ((rows >= width) | (rows * width <= LARGEST**2))
    return torch.where(possible, cost, torch.inf)


def _optimum(problem: Problem, rows: Tensor, root: Tensor, signs: Tensor) -> Tensor:
    """(D + 1,) minimum of f if these rows are the active ones, by factors of I + A A', float64.

    It is A' (I + A A')^-1 b, where A w = b puts every row on its margin. What an intercept that is
    not penalised adds to A w is taken off b, at the intercept that is best.
    """
    a = problem.x[rows].double().mul_(root[:, None])
    constant, b = problem.offset * root, root * signs
    parts = torch.cat([a, constant[:, None]], 1) if problem.penalised else a
    solved = _solve([parts.T], torch.ones_like(root), torch.stack([b, constant], 1))
    if problem.penalised:
        return solved[:, 0] @ parts
    intercept = (constant @ solved[:, 0]) / (constant @ solved[:, 1]).clamp(min=1e-300)
    dual = solved[:, 0] - intercept * solved[:, 1]
    return torch.cat([dual @ a, intercept[None]])


def _factorised(problem: Problem, rows: Tensor, root: Tensor, gradient: Tensor) -> Tensor:
    """(D + 1,) the Newton step by factors of P + A'A, float64."""
    penalty = problem.penalty(torch.ones_like(gradient)[None])[0]
    return _solve(_weighted(problem, rows, root), penalty, -gradient[:, None])[:, 0]


def _weighted(problem: Problem, rows: Tensor, root: Tensor) -> Iterator[Tensor]:
    """A, float64, some rows at a time."""
    for some, factor in zip(torch.split(rows, ROWS), torch.split(root, ROWS), strict=True):
        part = problem.x[some].double()
        constant = torch.full_like(part[:, :1], problem.offset)
        yield torch.cat([part, constant], 1).mul_(factor[:, None])


def _solve(parts: Iterable[Tensor], diagonal: Tensor, right: Tensor) -> Tensor:
    """(m, r) s with (diag + sum of part'part) s = right; parts are (n, m); float64."""
    if compiled(right):
        total = np.asfortranarray(np.diag(diagonal.numpy()))
        for part in parts:
            total = _svm_cpu.add_square(total, part.numpy())
        return torch.from_numpy(_svm_cpu.solve(total, right.numpy()))
    full = torch.diag(diagonal)
    for part in parts:
        full += part.T @ part
    return torch.cholesky_solve(right, torch.linalg.cholesky(full))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, dtype=torch.float64)

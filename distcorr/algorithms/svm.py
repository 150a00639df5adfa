"""One-vs-rest linear SVMs, many at once over one feature matrix (paper, sections 4 and 5).

The problem is liblinear's, as scikit-learn's ``LinearSVC(C, loss="squared_hinge", dual=False)``
poses it, with labels y = +-1, features x, C = ``c``:

    min_{w, b} 1/2 (|w|^2 + (b / s)^2) + C sum_i max(0, 1 - y_i (x_i . w + b))^2

for every classifier; s is ``intercept_scaling``. Classifiers share the features and hence every
matrix product. What counts is C times the mean squared norm of the features: the paper's C of 1e-6
goes with raw features of norm 300 to 500.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distcorr.algorithms._svm import minimise
from distcorr.algorithms._svm_problem import Problem
from distcorr.types import FloatArray

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]

LIMIT = 1e15  # largest feature: squares of larger ones overflow float32


@dataclass(frozen=True, eq=False)
class Linear:
    """K linear classifiers, and how near each of them came to the optimum.

    A class without positive samples is never predicted: its ``coef`` is 0, its ``intercept`` -inf
    and its objective 0.

    Attributes:
        coef: (K, D) float64.
        intercept: (K,) float64.
        objective: (K,) value of the objective, computed in float64.
        gap: (K,) the objective is at most this above the optimum (duality gap in float64; an
            estimate where the intercept is not regularised).
        gradient: (K,) norm of the gradient, in units of that at w = 0, b = 0.
        iterations: (K,) Newton steps over all samples.
    """

    coef: Floats
    intercept: Floats
    objective: Floats
    gap: Floats
    gradient: Floats
    iterations: npt.NDArray[np.int64]

    def scores(self, features: FloatArray) -> FloatArray:
        """(N, K) float32 x . w + b of features (N, D).

        Raises:
            ValueError: features are not (N, D).
        """
        features = np.asarray(features, np.float32)
        if features.ndim != 2 or features.shape[1] != self.coef.shape[1]:
            shape = features.shape
            raise ValueError(f"features must be (N, {self.coef.shape[1]}), got {shape}")
        scores: FloatArray = features @ self.coef.T.astype(np.float32)
        scores += self.intercept.astype(np.float32)
        return scores

    def predict(self, features: FloatArray) -> npt.NDArray[np.intp]:
        """(N,) classifier of the largest score, the lowest where scores tie.

        Raises:
            ValueError: features are not (N, D).
        """
        return np.asarray(self.scores(features).argmax(axis=1), np.intp)


def train(
    features: FloatArray,
    targets: Integers | FloatArray,
    c: float,
    *,
    start: Linear | None = None,
    intercept_scaling: float | None = 1.0,
    weights: FloatArray | None = None,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> Linear:
    """Train one classifier per class, or per column of ``targets``.

    Truncated Newton, all classifiers together; products in float32, in float64 where that does not
    reach the tolerance. The result does not depend on chance. It uses torch's threads.

    Args:
        features: (N, D) finite, used as float32.
        targets: (N,) labels from 0, one classifier for each label up to the largest; or (N, K) of
            +-1, one for each column.
        c: C > 0, the price of an error.
        start: classifiers to start from, for instance those of a smaller C.
        intercept_scaling: s (default 1, as scikit-learn's); None leaves the intercept out of the
            regularisation.
        weights: (N,) or (N, K) at least 0: factors of C for each sample; None for 1.
        tolerance: a classifier is done when its duality gap is at most this share both of the
            objective and of what training took off it (default: not in the paper).
        device: torch device of the computation.

    Raises:
        ValueError: shapes disagree or are empty, a feature is not finite or beyond 1e15, a label
            is negative, a target is not +-1, fewer than two classes occur, c, intercept_scaling,
            weights or tolerance are out of range.
    """
    return train_path(
        features,
        targets,
        [c],
        start=start,
        intercept_scaling=intercept_scaling,
        weights=weights,
        tolerance=tolerance,
        device=device,
    )[0]


def train_path(
    features: FloatArray,
    targets: Integers | FloatArray,
    cs: Sequence[float],
    *,
    start: Linear | None = None,
    intercept_scaling: float | None = 1.0,
    weights: FloatArray | None = None,
    tolerance: float = 1e-5,
    device: str = "cpu",
) -> list[Linear]:
    """`train` for every C of ``cs``, in their order; each starts from the next smaller one.

    Args and errors as for `train`; ``start`` serves the smallest C.
    """
    x, signs = _features(features), _signs(targets)
    count, width = x.shape
    if len(signs) != count:
        raise ValueError(f"targets must be for {count} samples, got {len(signs)}")
    cost = _weights(weights, signs.shape)
    _positive("tolerance", [tolerance])
    _positive("c", cs)
    if intercept_scaling is not None:
        _positive("intercept_scaling", [intercept_scaling])
    if start is not None and start.coef.shape != (signs.shape[1], width):
        shape, wanted = start.coef.shape, (signs.shape[1], width)
        raise ValueError(f"start must have coef {wanted}, got {shape}")
    used = (cost > 0) if cost.shape[1] == signs.shape[1] else np.repeat(cost > 0, signs.shape[1], 1)
    positive, negative = ((signs == s) & used for s in (1, -1))
    known = positive.any(axis=0)
    if not (known & negative.any(axis=0)).any():
        raise ValueError("targets must hold at least two classes, got one")
    x_device = torch.from_numpy(x).to(device)
    signs_device = torch.from_numpy(np.ascontiguousarray(signs[:, known].T)).to(device)
    cost = cost if cost.shape[1] == 1 else cost[:, known]
    found: dict[float, Linear] = {}
    for c in sorted(set(cs)):
        price = torch.from_numpy(np.ascontiguousarray(c * cost.T)).to(device)
        offset = intercept_scaling or _offset(x, price)
        problem = Problem(x_device, signs_device, price, offset, intercept_scaling is not None)
        solution = minimise(problem, _initial(start, known, width, offset, device), tolerance)
        made = solution.weights.cpu().numpy()
        start = found[c] = Linear(
            coef=_scatter(made[:, :-1], known, 0.0),
            intercept=_scatter(made[:, -1] * offset, known, -np.inf),
            objective=_scatter(solution.objective.cpu().numpy(), known, 0.0),
            gap=_scatter(solution.gap.cpu().numpy(), known, 0.0),
            gradient=_scatter(solution.gradient.cpu().numpy(), known, 0.0),
            iterations=_scatter(solution.steps.cpu().numpy(), known, 0),
        )
    return [found[c] for c in cs]


def one_vs_rest(labels: Integers, n_classes: int) -> FloatArray:
    """(N, K) float32: +1 in the column of a sample's label, -1 elsewhere.

    Args:
        labels: (N,) integers in 0 to n_classes - 1.
        n_classes: K.

    Raises:
        ValueError: labels are not (N,) integers or out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be (N,) integers, got {labels.dtype} {labels.shape}")
    if len(labels) and not (0 <= labels.min() and labels.max() < n_classes):
        found = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels must lie in 0 to {n_classes - 1}, got {found}")
    targets: FloatArray = np.where(labels[:, None] == np.arange(n_classes), 1, -1)
    return targets.astype(np.float32)


def folds_by_group(groups: npt.NDArray[Any], n_folds: int, seed: int) -> npt.NDArray[np.intp]:
    """(N,) fold of every sample, 0 to n_folds - 1: samples of one group (photograph) stay together.

    Groups go, the largest first and in drawn order where they tie, to the fold that holds fewest
    samples. No fold is empty, and sizes differ by no more than the largest group. The fold of a
    group depends on the groups and their sizes, not on the order of samples.

    Args:
        groups: (N,) name or number of the group of every sample.
        n_folds: at least 2.
        seed: of the drawn order.

    Raises:
        ValueError: groups are not (N,), n_folds is below 2 or above the number of groups.
    """
    groups = np.asarray(groups)
    if groups.ndim != 1:
        raise ValueError(f"groups must be (N,), got {groups.shape}")
    names, of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if not 2 <= n_folds <= len(names):
        raise ValueError(f"n_folds must lie in 2 to {len(names)} (the groups), got {n_folds}")
    order = np.random.default_rng(seed).permutation(len(names))
    fold, filled = np.empty(len(names), np.intp), np.zeros(n_folds, np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold[group] = filled.argmin()
        filled[fold[group]] += sizes[group]
    return fold[of]


def _features(features: FloatArray) -> FloatArray:
    x: FloatArray = np.ascontiguousarray(features, np.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"features must be (N, D) with N, D > 0, got {x.shape}")
    if not -LIMIT <= x.min() <= x.max() <= LIMIT:  # NaN passes through both
        bad = ~((x >= -LIMIT) & (x <= LIMIT)).all(axis=1)
        row = int(bad.argmax())
        raise ValueError(
            f"features must be finite and at most {LIMIT:g} in magnitude, "
            f"got otherwise in {bad.sum()} rows, the first is row {row}"
        )
    return x


def _signs(targets: npt.NDArray[Any]) -> FloatArray:
    targets = np.asarray(targets)
    if targets.ndim == 1:
        return one_vs_rest(targets, int(targets.max(initial=0)) + 1)
    if targets.ndim != 2 or targets.shape[1] == 0:
        raise ValueError(f"targets must be (N,) labels or (N, K) of +-1, got {targets.shape}")
    if not ((targets == 1) | (targets == -1)).all():
        raise ValueError("targets of shape (N, K) must be +1 or -1, got other values")
    return targets.astype(np.float32)


def _weights(weights: npt.NDArray[Any] | None, shape: tuple[int, ...]) -> Floats:
    """(N, 1 or K) float64."""
    if weights is None:
        return np.ones((shape[0], 1))
    factors = np.asarray(weights, np.float64)
    if factors.shape not in (shape[:1], shape):
        raise ValueError(f"weights must be {shape[:1]} or {shape}, got {factors.shape}")
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        found = f"{factors.min()} to {factors.max()}"
        raise ValueError(f"weights must be finite and at least 0, got {found}")
    return factors.reshape(shape[0], -1)


def _positive(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and above 0, got {value}")


def _offset(x: FloatArray, cost: torch.Tensor) -> float:
    """The constant feature of an intercept without penalty: any value gives the same classifier.

    With one as large as the features are, and a curvature of at least 1, the Hessian is as well
    conditioned as theirs.
    """
    squares = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    least = 0.5 / float(cost.sum(1).min())
    return float(np.sqrt(max(squares.mean(), least)))


def _initial(
    start: Linear | None, known: npt.NDArray[np.bool_], width: int, offset: float, device: str
) -> torch.Tensor:
    weights = np.zeros((int(known.sum()), width + 1))
    if start is not None:
        weights[:, :-1] = start.coef[known]
        weights[:, -1] = np.nan_to_num(start.intercept[known], neginf=0.0) / offset
    return torch.from_numpy(weights).to(device)


def _scatter(values: Any, known: npt.NDArray[np.bool_], missing: float) -> Any:
    """The values of the classifiers that were trained, and ``missing`` for the others."""
    out = np.full((len(known), *values.shape[1:]), missing, values.dtype)
    out[known] = values
    return out

"""Other libraries that can minimise the energy of the alignment, for ``alignment.py``.

All get the same data costs. Two want one symmetric table for all edges, so their labels are
displacements; the others take a table for each direction, and target cells as labels. Making their
inputs is not timed, except pytoulbar2's, which solves a problem only once.

    PyMaxflow    pip install PyMaxflow
    gco          pip install gco-wrapper
    pytoulbar2   pip install pytoulbar2
    pgmax        pip install pgmax, then jax==0.4.35 and jaxlib==0.4.35
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from timing import optional

from distcorr.algorithms import _flow_paper
from distcorr.types import FloatArray

TOULBAR2 = 20  # s
Labels = np.ndarray  # (H, W, 2) target cells
Solver = Callable[[FloatArray], Callable[[], Labels | None]]  # given the data costs, what is timed


@cache
def imported(name: str) -> Any:
    """A module, or None."""
    return optional(partial(importlib.import_module, name))


def installed(beta: float) -> dict[str, Solver]:
    """By name, the solvers of every library that is installed."""
    found: dict[str, Solver] = {}
    for module, makers in {
        "maxflow": {
            "PyMaxflow, alpha-expansion, 1 cycle": lambda it: partial(maxflow, it, 1, beta),
            "PyMaxflow, until it stalls": lambda it: partial(maxflow, it, None, beta),
        },
        "gco": {"gco, alpha-beta swap until it stalls": lambda it: partial(gco, it, beta)},
        "pgmax": {"pgmax, 10 steps": lambda _: PGMax(10, beta)},
        "pytoulbar2": {f"pytoulbar2, {TOULBAR2} s": lambda it: partial(toulbar2, it, beta)},
    }.items():
        needed = "jax.lib.xla_bridge" if module == "pgmax" else module  # gone from later releases
        library = imported(needed)
        if library:
            found |= {name: make(library) for name, make in makers.items()}
    return found


class Displacements:
    """The energy for libraries that want one symmetric table for all edges: labels are w(p)."""

    def __init__(self, cost: FloatArray, beta: float) -> None:
        """``unary`` (H * W, L * M), ``table`` (L * M, L * M), ``still``: the label w = 0."""
        self.rows, self.columns = cost.shape[:2]
        volume = _flow_paper._displacement_costs(cost, _flow_paper._forbidden(cost, beta))
        self._across = volume.shape[3]
        self.unary = volume.reshape(self.rows * self.columns, -1).astype(np.float64)
        w = np.stack(np.indices(volume.shape[2:]), -1).reshape(-1, 2)
        self.table = beta * ((w[:, None] - w) ** 2).sum(-1).astype(np.float64)
        self.still = (self.rows - 1) * self._across + self.columns - 1

    def cells(self, labels: np.ndarray) -> Labels:
        """The target cells of displacement labels."""
        w = np.divmod(labels.reshape(self.rows, self.columns), self._across)
        y, x = np.indices((self.rows, self.columns))
        return np.stack([w[0] + y - (self.rows - 1), w[1] + x - (self.columns - 1)], -1)


def edges(rows: int, columns: int) -> dict[tuple[int, int], np.ndarray]:
    """(dy, dx) -> (n, 2) cells p and p + (dy, dx), in scan order."""
    cells = np.arange(rows * columns).reshape(rows, columns)
    return {
        (0, 1): np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], -1),
        (1, 0): np.stack([cells[:-1].ravel(), cells[1:].ravel()], -1),
    }


def edge_table(cost: FloatArray, beta: float, step: tuple[int, int]) -> np.ndarray:
    """(h * w, h * w) deformation of an edge for target cells as labels."""
    cells = np.stack(np.indices(cost.shape[2:]), -1).reshape(-1, 2)
    return beta * ((cells - cells[:, None] - np.array(step)) ** 2).sum(-1).astype(np.float64)


def maxflow(
    library: Any, cycles: int | None, beta: float, cost: FloatArray
) -> Callable[[], Labels]:
    """PyMaxflow's alpha-expansion, from standing still; squared distances are no metric."""
    given = Displacements(cost, beta)
    shape = (given.rows, given.columns)
    unary = given.unary.reshape(*shape, -1)

    def solve() -> Labels:
        start = np.full(shape, given.still, np.int_)
        return given.cells(library.fastmin.aexpansion_grid(unary, given.table, cycles, start))

    return solve


def gco(library: Any, beta: float, cost: FloatArray) -> Callable[[], Labels]:
    """Alpha-beta swap by gco, from standing still, in steps of 1e-4; it refuses expansion."""
    given = Displacements(cost, beta)
    pairs = np.concatenate(list(edges(given.rows, given.columns).values())).astype(np.int32)
    weights, start = np.ones(len(pairs), np.int32), np.full(len(given.unary), given.still, np.int32)
    unary = np.rint(1e4 * given.unary).astype(np.int32)
    table = np.rint(1e4 * given.table).astype(np.int32)

    def solve() -> Labels:
        return given.cells(
            library.cut_general_graph(pairs, weights, unary, table, -1, "swap", start, 1)
        )

    return solve


class PGMax:
    """Max-product belief propagation by pgmax, half damped, all pairs of labels enumerated."""

    def __init__(self, steps: int, beta: float) -> None:
        self._steps, self._beta = steps, beta
        self._made: tuple[Any, Any] | None = None
        self._compiled: Any = None

    def __call__(self, cost: FloatArray) -> Callable[[], Labels]:
        """Graph and compiled code are made once, in minutes."""
        import jax
        from pgmax import infer

        variables, inferer = self._made = self._made or self._graph(cost)
        evidence = {variables: -cost.reshape(*cost.shape[:2], -1)}
        given = inferer.init(evidence_updates=evidence)
        if self._compiled is None:
            self._compiled = jax.jit(inferer.run, static_argnums=1)
            self._compiled(given, self._steps)

        def solve() -> Labels:
            beliefs = inferer.get_beliefs(self._compiled(given, self._steps))
            found = infer.decode_map_states(beliefs)[variables]
            return np.stack(np.divmod(np.asarray(found), cost.shape[3]), -1)

        return solve

    def _graph(self, cost: FloatArray) -> tuple[Any, Any]:
        from pgmax import fgraph, fgroup, infer, vgroup

        variables = vgroup.NDVarArray(num_states=cost[0, 0].size, shape=cost.shape[:2])
        graph = fgraph.FactorGraph(variables)
        for step, pairs in edges(*cost.shape[:2]).items():
            places = np.stack(np.unravel_index(pairs, cost.shape[:2]), -1).tolist()
            graph.add_factors(
                fgroup.PairwiseFactorGroup(
                    variables_for_factors=[[variables[tuple(p)] for p in pair] for pair in places],
                    log_potential_matrix=-edge_table(cost, self._beta, step).astype(np.float32),
                )
            )
        return variables, infer.build_inferer(graph.bp_state, backend="bp")


def toulbar2(library: Any, beta: float, cost: FloatArray) -> Callable[[], Labels | None]:
    """pytoulbar2's branch and bound, costs in steps of 1e-4; None if it finds nothing in time."""
    rows, columns, height, width = cost.shape
    tables = {step: edge_table(cost, beta, step).ravel().tolist() for step in ((0, 1), (1, 0))}
    unary = cost.reshape(rows * columns, -1).tolist()

    def solve() -> Labels | None:
        problem = library.CFN(1e6, 4)
        nodes = [problem.AddVariable(f"p{p}", range(height * width)) for p in range(len(unary))]
        for node, costs in zip(nodes, unary, strict=True):
            problem.AddFunction([node], costs)
        for step, pairs in edges(rows, columns).items():
            for p, q in pairs.tolist():
                problem.AddFunction([nodes[p], nodes[q]], tables[step])
        found = problem.Solve(timeLimit=TOULBAR2)
        if not found:
            return None
        return np.stack(np.divmod(np.array(found[0]).reshape(rows, columns), width), -1)

    return solve

"""Alignment in torch: the CPU solver's labels on the same costs, and the promise of batches."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from distcorr.algorithms import _flow_cpu as kernels
from distcorr.algorithms import flow, flow_torch
from distcorr.algorithms._flow_decoupled import Decoupled
from distcorr.algorithms._flow_torch_solver import Solver
from distcorr.algorithms.flow_torch import align_pairs, bytes_per_pair

CPU = torch.device("cpu")
SHAPES = [(2, 2), (2, 3), (5, 2), (4, 4), (3, 8), (7, 9), (13, 13), (14, 14)]
TARGETS = [(1, 1), (1, 6), (6, 1), (9, 5), (13, 13)]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(seed, count, rows, columns, channels=6):
    values = np.random.default_rng(seed).normal(size=(count, rows, columns, channels))
    return flow.unit_norm(values)


def related(seed, count, rows, columns, channels=6):
    """Windows into one random field, each with noise of its own: true displacements are found."""
    random = np.random.default_rng(seed)
    field = random.normal(size=(rows + 4, columns + 4, channels))
    corners = random.integers(0, 5, (count, 2))
    windows = np.array([field[y : y + rows, x : x + columns] for y, x in corners])
    return flow.unit_norm(windows + random.normal(size=windows.shape) / 2)


def all_pairs(count):
    return np.stack(np.indices((count, count)), -1).reshape(-1, 2)


def one_by_one(sources, targets, pairs, beta, **options):
    flows = [flow.align(sources[i], targets[j], beta, **options) for i, j in pairs]
    energies = np.array([(found.data_energy, found.deformation_energy) for found in flows])
    return np.array([found.displacement for found in flows]), energies


def solve_both(cost, beta, iterations, window=0):
    """Labels (P, H, W, 2) of the CPU solver and of the torch solver for (P, H, W, h, w) costs."""
    source, target = cost.shape[1:3], cost.shape[3:]
    on_cpu = Decoupled(source, target, beta, iterations)
    still = np.minimum(np.moveaxis(np.indices(source), 0, -1), np.array(target) - 1)
    cost, expected = cost.copy(), []
    for values in cost:
        on_cpu.cost[:, :, : target[0], : target[1]] = values
        if window:
            kernels.forbid_far(on_cpu.cost, *target, window)
            values[:] = on_cpu.cost[:, :, : target[0], : target[1]]
        expected.append(on_cpu.solve(still))
    solver = Solver(source, target, beta, iterations, CPU)
    ours = torch.from_numpy(cost).flatten(1, 2).transpose(0, 1)[solver.order]
    stand = torch.from_numpy(still.reshape(-1, 2, 1)).expand(-1, -1, len(cost))
    labels = solver.solve(ours, stand).permute(2, 0, 1).reshape(len(cost), *source, 2)
    return np.array(expected), labels.numpy()


# -- the same labels as the CPU solver ---------------------------------------------------------


@pytest.mark.parametrize("source", SHAPES, ids=str)
@pytest.mark.parametrize("target", [None, *TARGETS], ids=str)
@pytest.mark.parametrize(("beta", "iterations", "window"), [(3e-3, 2, 0), (0.05, 1, 2), (1, 3, 1)])
def test_labels_are_those_of_the_cpu_solver(source, target, beta, iterations, window):
    random = np.random.default_rng(sum(source) + iterations)
    cost = random.random((3, *source, *(target or source)), np.float32)
    cost[1] = np.round(2 * cost[1])  # ties
    expected, labels = solve_both(cost, beta, iterations, window)
    np.testing.assert_array_equal(labels, expected)


def test_labels_are_those_of_the_cpu_solver_where_standing_still_is_better(monkeypatch):
    descents = []
    descend = Solver._descend

    def counted(self, cost, labels, pairs):
        descents.append(len(pairs))
        descend(self, cost, labels, pairs)

    monkeypatch.setattr(Solver, "_descend", counted)
    # A strong deformation: the messages often end above standing still, but not for every pair.
    cost = np.random.default_rng(0).random((24, 6, 6, 6, 6), np.float32)
    expected, labels = solve_both(cost, 2, 1)
    np.testing.assert_array_equal(labels, expected)
    assert descents[0] == 24 > descents[1] > 0


@pytest.mark.parametrize("beta", [1e-20, 1e20, 1e35])
def test_no_beta_leads_out_of_the_target(beta):
    grids = features(0, 2, 5, 4)
    moved, energies = align_pairs(grids, [(0, 1)], beta)
    stood = flow.energy(grids[0], grids[1], np.zeros((5, 4, 2), int), beta)
    found = flow.energy(grids[0], grids[1], moved[0], beta)
    np.testing.assert_allclose(energies[0], found, rtol=1e-12)
    assert found[0] + beta * found[1] <= stood[0] + beta * stood[1]


# -- end to end --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [features, related])
@pytest.mark.parametrize("shape", [(2, 5), (6, 4), (13, 13)], ids=str)
@pytest.mark.parametrize(("iterations", "window"), [(2, 0), (1, 3)])
def test_flows_are_those_of_align(make, shape, iterations, window):
    grids = make(3, 3, *shape)
    options = {"iterations": iterations, "window": window}
    moved, energies = align_pairs(grids, all_pairs(3), 3e-3, **options)
    expected = one_by_one(grids, grids, all_pairs(3), 3e-3, **options)
    # The last bit of a cost may differ, and with it a label, but hardly the energy.
    total, least = (values @ [1, 3e-3] for values in (energies, expected[1]))
    np.testing.assert_allclose(total, least, rtol=1e-5)
    assert (moved == expected[0]).mean() > 0.99
    for (i, j), displacement, found in zip(all_pairs(3), moved, energies, strict=True):
        exact = flow.energy(grids[i], grids[j], displacement, 3e-3)
        np.testing.assert_allclose(found, exact, rtol=1e-12)
        assert not window or np.abs(displacement).max() <= window
    assert moved.dtype == np.int16
    assert energies.dtype == np.float64


def test_the_fine_grid_of_500_px_boxes():
    grids = related(5, 2, 30, 30, 16)
    moved, energies = align_pairs(grids, [(0, 1)], 3e-3)
    expected, exact = one_by_one(grids, grids, [(0, 1)], 3e-3)
    np.testing.assert_allclose(energies, exact, rtol=1e-5)
    assert (moved == expected).mean() > 0.99


@pytest.mark.parametrize(
    ("source", "target"), [((5, 7), (9, 3)), ((6, 6), (2, 1)), ((2, 2), (8, 8))]
)
@pytest.mark.parametrize("window", [0, 2])
def test_targets_of_another_shape(source, target, window):
    sources, targets = features(1, 2, *source), features(2, 3, *target)
    pairs = [(0, 2), (1, 0), (1, 2)]
    moved, energies = align_pairs(sources, pairs, 0.01, targets=targets, window=window)
    expected, exact = one_by_one(sources, targets, pairs, 0.01, window=window)
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_allclose(energies, exact, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1)], ids=str)
def test_chains_are_those_of_align(shape):
    grids = features(4, 3, *shape)
    moved, energies = align_pairs(grids, all_pairs(3), 0.02)
    expected, exact = one_by_one(grids, grids, all_pairs(3), 0.02)
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(energies, exact)


def test_a_grid_aligned_to_itself_stands_still():
    moved, energies = align_pairs(features(6, 1, 8, 8), [(0, 0)], 3e-3)
    assert not moved.any()
    assert not energies.any()


def test_the_iterations_of_flow_are_the_default():
    grids = features(7, 2, 7, 7)
    moved, _ = align_pairs(grids, [(0, 1)], 3e-3, iterations=0)
    np.testing.assert_array_equal(moved[0], flow.align(grids[0], grids[1], 3e-3).displacement)


# -- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [1, 4])
def test_a_pair_does_not_depend_on_its_batch(monkeypatch, group):
    monkeypatch.setitem(flow_torch.GROUP, "cpu", group)
    grids, pairs = related(8, 3, 9, 7, 5), np.concatenate([all_pairs(3), [(2, 0), (2, 0)]])
    together = align_pairs(grids, pairs, 3e-3)
    assert together[0].any()
    for chunk in (1, 2, 7, 100):
        for ours, expected in zip(
            align_pairs(grids, pairs, 3e-3, chunk=chunk), together, strict=True
        ):
            np.testing.assert_array_equal(ours, expected)
    for k, pair in enumerate(pairs):
        moved, energies = align_pairs(grids[pair], [(0, 1)], 3e-3)
        np.testing.assert_array_equal(moved[0], together[0][k])
        np.testing.assert_array_equal(energies[0], together[1][k])


def test_costs_are_the_same_in_every_group(monkeypatch):
    grids = torch.from_numpy(features(9, 4, 5, 6, 7))
    first, second = torch.from_numpy(all_pairs(4)).T
    order = Solver((5, 6), (5, 6), 1, 1, CPU).order
    monkeypatch.setitem(flow_torch.GROUP, "cpu", 5)
    together = flow_torch._Features(grids, grids, first, second).costs(order, 0)
    for k in range(16):
        one = slice(k, k + 1)
        alone = flow_torch._Features(grids, grids, first[one], second[one]).costs(order, 0)
        np.testing.assert_array_equal(alone[:, 0], together[:, k])
        exact = flow.data_costs(grids[first[k]].numpy(), grids[second[k]].numpy())
        ours = alone[:, 0][order.argsort()].reshape(5, 6, 5, 6)
        np.testing.assert_allclose(ours, exact, atol=1e-3)  # the root of a difference near zero


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_floats_are_widened_on_the_device(dtype):
    half = torch.from_numpy(features(10, 3, 6, 6)).to(dtype)
    moved, energies = align_pairs(half, all_pairs(3), 3e-3)
    expected, exact = align_pairs(half.float(), all_pairs(3), 3e-3)
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(energies, exact)


def test_arrays_tensors_and_lists_are_the_same():
    grids = features(11, 2, 5, 5)
    frozen = grids.copy()
    frozen.setflags(write=False)
    expected, _ = align_pairs(grids, [(0, 1)], 3e-3)
    for given in (
        frozen,
        grids.astype(np.float64),
        grids[::-1][::-1],
        torch.from_numpy(grids),
        list(frozen),
        [torch.from_numpy(grid) for grid in grids],
    ):
        np.testing.assert_array_equal(align_pairs(given, [(0, 1)], 3e-3)[0], expected)


def test_no_pairs_are_no_flows():
    moved, energies = align_pairs(features(0, 1, 4, 3), np.empty((0, 2), int), 3e-3)
    assert moved.shape == (0, 4, 3, 2)
    assert energies.shape == (0, 2)


@pytest.mark.parametrize(
    ("source", "target", "counts"),
    [((13, 13), (13, 13), (1, 3)), ((5, 5), (20, 2), (2, 6))],
    ids=str,
)
def test_a_pair_takes_no_more_memory_than_is_reckoned(source, target, counts):
    sources, targets = features(0, 2, *source), features(1, 2, *target)

    def peak(count):
        pairs = np.zeros((count, 2), int)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            align_pairs(sources, pairs, 3e-3, targets=targets, chunk=count)
        events = record.profiler.kineto_results.events()
        taken = [(event.start_ns(), event.nbytes()) for event in events if event.nbytes()]
        return max(np.cumsum([size for _, size in sorted(taken, key=lambda item: item[0])]))

    few, many = counts
    a_pair = (peak(many) - peak(few)) / (many - few)
    assert 0.4 * bytes_per_pair(source, target) < a_pair < bytes_per_pair(source, target)


@pytest.mark.parametrize("choose", ["legacy", "switch"])
def test_products_are_precise_whatever_was_chosen(monkeypatch, choose):
    chosen = []
    product = torch.bmm

    def watched(*args):
        chosen.append(torch.get_float32_matmul_precision())
        return product(*args)

    monkeypatch.setattr(torch, "bmm", watched)
    matmul = torch.backends.cuda.matmul
    try:
        if choose == "legacy":
            torch.set_float32_matmul_precision("medium")
        elif not hasattr(matmul, "fp32_precision"):
            pytest.skip("this torch has only the older way")
        else:
            matmul.fp32_precision = "tf32"
        align_pairs(features(0, 2, 3, 3), [(0, 1)], 3e-3)
        if choose == "legacy":
            assert torch.get_float32_matmul_precision() == "medium"
        else:
            assert matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert chosen == ["highest"]


# -- bad input ---------------------------------------------------------------------------------


def with_nan(count, index):
    grids = features(0, count, 3, 3)
    grids[index, 1, 2, 0] = np.nan
    return grids


@pytest.mark.parametrize(
    ("grids", "options", "message"),
    [
        (with_nan(300, 258), {}, "grid 258 must be finite"),
        (np.full((2, 3, 3, 2), 1e300), {}, "grid 0 must be finite"),
        (features(0, 2, 3, 3), {"targets": with_nan(2, 1)}, "target 1 must be finite"),
        (features(0, 2, 3, 3)[0], {}, r"grids must be non-empty \(n, H, W, C\), got \(3, 3, 6\)"),
        (np.empty((2, 0, 3, 4)), {}, "grids must be non-empty"),
        ([], {}, "grids must be of one shape, got none"),
        ([np.ones((2, 3, 4)), np.ones((3, 2, 4))], {}, "grids must be of one shape"),
        (features(0, 2, 3, 3), {"targets": features(0, 2, 3, 3, 5)}, "same channels, got 6 and 5"),
        (features(0, 2, 3, 3), {"pairs": [(0, 1), (0, 2)]}, "pair 1 must name .* got \\(0, 2\\)"),
        (features(0, 2, 3, 3), {"pairs": [(-1, 1)]}, "pair 0 must name"),
        (features(0, 2, 3, 3), {"pairs": [(0.0, 1.0)]}, "pairs must be .* got float64"),
        (features(0, 2, 3, 3), {"pairs": [0, 1]}, r"pairs must be \(N, 2\) integers"),
        (features(0, 2, 3, 3), {"beta": 0}, "beta must be finite and positive"),
        (features(0, 2, 3, 3), {"beta": np.nan}, "beta must be finite and positive"),
        (features(0, 2, 3, 3), {"iterations": -1}, "iterations must be at least 0"),
        (features(0, 2, 3, 3), {"window": -1}, "window must be at least 0"),
        (features(0, 2, 3, 3), {"chunk": -1}, "chunk must be at least 0"),
        (features(0, 2, 3, 3), {"device": "tpu"}, "device must be cpu, or cuda"),
    ],
)
def test_bad_input_is_refused(grids, options, message):
    options = {"pairs": [(0, 1)], "beta": 3e-3} | options
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
        align_pairs(grids, options.pop("pairs"), options.pop("beta"), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(ValueError, match="where torch sees a GPU, got cuda"):
        align_pairs(features(0, 2, 3, 3), [(0, 1)], 3e-3, device="cuda")


# -- on a GPU ----------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("shape", [(13, 13), (30, 30), (9, 6)], ids=str)
def test_a_gpu_finds_the_same_flows(shape):
    grids, pairs = related(12, 9, *shape, 64), all_pairs(9)
    moved, energies = align_pairs(grids, pairs, 3e-3, device="cuda")
    again = align_pairs(grids, pairs, 3e-3, device="cuda", chunk=7)
    np.testing.assert_array_equal(again[0], moved)
    np.testing.assert_array_equal(again[1], energies)
    expected, exact = align_pairs(grids, pairs, 3e-3)
    np.testing.assert_allclose(energies @ [1, 3e-3], exact @ [1, 3e-3], rtol=1e-4)
    assert (moved == expected).mean() > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_chunk_on_a_gpu_takes_no_more_memory_than_is_reckoned():
    grids, pairs = torch.from_numpy(features(13, 2, 30, 30)), np.zeros((64, 2), int)
    align_pairs(grids, pairs[:1], 3e-3, device="cuda")  # what the libraries keep
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    align_pairs(grids, pairs, 3e-3, device="cuda", chunk=64)
    reckoned = 64 * bytes_per_pair((30, 30), (30, 30))
    reckoned += flow_torch.GROUP["cuda"] * flow_torch.group_bytes((30, 30), (30, 30), 6)
    assert torch.cuda.max_memory_allocated() - before < reckoned

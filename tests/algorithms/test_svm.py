"""Linear SVMs against scikit-learn's LinearSVC, closed forms and finite differences."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC

from distcorr.algorithms import _svm, _svm_newton, _svm_problem, svm


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(count, width, classes, norm, seed=0, sign=False):
    """Clustered features, ReLU-like unless ``sign``, of that root mean squared norm."""
    rng = np.random.default_rng(seed)
    hidden = max(2, width // 4)
    labels = np.arange(count) % classes
    centres, mix = rng.normal(size=(classes, hidden)), rng.normal(size=(hidden, width))
    x = (centres[labels] + 1.5 * rng.normal(size=(count, hidden))) @ mix / hidden**0.5
    x += rng.normal(size=x.shape)
    x = x if sign else np.maximum(x, 0)
    x *= norm / np.sqrt((x**2).sum(1).mean())
    return x.astype(np.float32), rng.permutation(labels) if sign else labels


def objective(x, signs, coef, intercept, c, scaling=1.0, weights=1.0):
    slack = np.maximum(0, 1 - signs * (x.astype(float) @ coef + intercept))
    bias = 0 if scaling is None else (intercept / scaling) ** 2
    return 0.5 * (coef @ coef + bias) + c * (weights * slack**2).sum()


def liblinear(x, signs, c, scaling=1.0, weights=None):
    model = LinearSVC(C=c, dual=False, tol=1e-9, max_iter=1000, intercept_scaling=scaling)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may not converge; then it is an upper bound
        model.fit(x.astype(float), signs, sample_weight=weights)
    return model.coef_[0], model.intercept_[0]


@pytest.mark.parametrize(
    ("count", "width", "classes", "norm", "sign"),
    [
        (300, 40, 3, 1.0, False),
        (300, 40, 3, 400.0, False),
        (90, 200, 4, 400.0, False),  # more dimensions than samples
        (90, 200, 3, 1.0, True),
        (501, 7, 2, 300.0, True),  # labels that say nothing
        (1300, 96, 3, 500.0, False),  # more than one block of rows
    ],
)
@pytest.mark.parametrize("c", [1e-9, 1e-6, 1e-3, 1e2])
def test_reaches_the_objective_of_liblinear(count, width, classes, norm, sign, c):
    x, labels = drawn(count, width, classes, norm, sign=sign)
    made = svm.train(x, labels, c, tolerance=1e-9)
    scores, peer = made.scores(x), np.empty((count, classes))
    for k in range(classes):
        signs = np.where(labels == k, 1, -1)
        ours = objective(x, signs, made.coef[k], made.intercept[k], c)
        coef, intercept = liblinear(x, signs, c)
        theirs = objective(x, signs, coef, intercept, c)
        peer[:, k] = x.astype(float) @ coef + intercept
        assert ours <= theirs * (1 + 1e-6)
        assert made.objective[k] == pytest.approx(ours, rel=1e-9)
        assert theirs >= made.objective[k] - made.gap[k] - 1e-9 * ours  # the certificate holds
        assert made.gap[k] <= 1e-8 * ours
    first, second = np.sort(peer, axis=1)[:, ::-1][:, :2].T
    clear = first - second > 1e-4 * max(1e-9, np.abs(peer).max())
    if c * norm**2 < 1e4:  # beyond, liblinear itself is not at the optimum
        assert (peer.argmax(1) == made.predict(x))[clear].all()
        np.testing.assert_allclose(scores, peer, atol=2e-3 * np.abs(peer).max())


@pytest.mark.parametrize("scaling", [1.0, 10.0, None])
@pytest.mark.parametrize("c", [1e-7, 1e-5, 1e-2])
def test_no_direction_descends(scaling, c):
    x, labels = drawn(200, 12, 3, 350.0)
    weights = np.random.default_rng(5).uniform(0, 3, 200)
    made = svm.train(x, labels, c, intercept_scaling=scaling, weights=weights, tolerance=1e-13)
    for k in range(3):
        signs = np.where(labels == k, 1, -1)
        at = np.append(made.coef[k], made.intercept[k])

        def slopes(w, signs=signs):
            def f(w):
                return objective(x, signs, w[:-1], w[-1], c, scaling, weights)

            steps = np.diag(np.append(np.full(12, 1e-7), 1e-4))
            return np.array([(f(w + e) - f(w - e)) / 2 / e.max() for e in steps])

        steep, flat = np.abs(slopes(0 * at)), np.abs(slopes(at))
        assert flat[:-1].max() <= 1e-5 * steep[:-1].max()
        assert flat[-1] <= 1e-4 * steep[-1]


@pytest.mark.parametrize("scaling", [0.1, 10.0, 400.0])
def test_intercept_scaling_is_that_of_liblinear(scaling):
    x, labels = drawn(300, 20, 2, 300.0)
    signs = np.where(labels == 1, 1, -1)
    made = svm.train(x, labels, 1e-5, intercept_scaling=scaling, tolerance=1e-9)
    coef, intercept = liblinear(x, signs, 1e-5, scaling)
    ours = objective(x, signs, made.coef[1], made.intercept[1], 1e-5, scaling)
    assert ours <= objective(x, signs, coef, intercept, 1e-5, scaling) * (1 + 1e-7)
    assert made.intercept[1] == pytest.approx(intercept, rel=1e-2)


@pytest.mark.parametrize("norm", [1.0, 400.0])
@pytest.mark.parametrize("c", [1e-9, 1e-6, 1e-2, 10.0])
def test_intercept_without_regularisation_is_the_limit_of_a_large_scaling(norm, c):
    x, labels = drawn(240, 15, 3, norm)
    free = svm.train(x, labels, c, intercept_scaling=None, tolerance=1e-10)
    for k in range(3):
        signs = np.where(labels == k, 1, -1)
        slack = np.maximum(0, 1 - signs * (x.astype(float) @ free.coef[k] + free.intercept[k]))
        assert abs((signs * slack).sum()) <= 1e-4 * slack.sum()  # the derivative by the intercept
        coef, intercept = liblinear(x, signs, c, 1e6)
        theirs = objective(x, signs, coef, intercept, c, None)
        assert free.objective[k] <= theirs * (1 + 1e-8)


def test_sample_weights_repeat_samples_and_may_differ_by_classifier():
    x, labels = drawn(150, 10, 3, 1.0)
    rng = np.random.default_rng(3)
    times = rng.integers(0, 4, 150)
    weighted = svm.train(x, labels, 0.3, weights=times, tolerance=1e-10)
    repeated = svm.train(np.repeat(x, times, 0), np.repeat(labels, times), 0.3, tolerance=1e-10)
    np.testing.assert_allclose(weighted.objective, repeated.objective, rtol=1e-8)
    np.testing.assert_allclose(weighted.coef, repeated.coef, atol=1e-4)
    each = np.stack([times, times[::-1], np.ones(150)], 1)
    together = svm.train(x, labels, 0.3, weights=each, tolerance=1e-10)
    for k in range(3):
        single = svm.train(x, labels, 0.3, weights=each[:, k], tolerance=1e-10)
        assert together.objective[k] == pytest.approx(single.objective[k], rel=1e-8)
    signs = np.where(labels == 2, 1, -1)
    coef, intercept = liblinear(x, signs, 0.3, weights=times)
    theirs = objective(x, signs, coef, intercept, 0.3, weights=times)
    assert weighted.objective[2] == pytest.approx(theirs, rel=1e-7)


@pytest.mark.parametrize("c", [1e-7, 1e-5, 1e-3])
def test_a_batch_is_its_singles_in_any_order_of_rows(c):
    x, labels = drawn(1100, 33, 5, 300.0)
    targets = svm.one_vs_rest(labels, 5)
    batch = svm.train(x, targets, c, tolerance=1e-9)
    order = np.random.default_rng(1).permutation(1100)
    other = svm.train(x[order], targets[order], c, tolerance=1e-9)
    np.testing.assert_allclose(other.objective, batch.objective, rtol=1e-8)
    bound = 1e-3 * np.abs(batch.scores(x)).max()
    np.testing.assert_allclose(other.scores(x), batch.scores(x), atol=bound)
    for k in range(5):
        single = svm.train(x, targets[:, [k]], c, tolerance=1e-9)
        assert single.objective[0] == pytest.approx(batch.objective[k], rel=1e-8)
        np.testing.assert_allclose(single.scores(x)[:, 0], batch.scores(x)[:, k], atol=bound)


def test_the_same_call_gives_the_same_bytes():
    x, labels = drawn(1100, 33, 5, 300.0)
    one, two = (svm.train(x, labels, 1e-5) for _ in range(2))
    for name in ("coef", "intercept", "objective", "gap"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


@pytest.mark.parametrize("scaling", [1.0, None])
def test_a_path_reaches_the_optima_of_cold_starts(scaling):
    x, labels = drawn(400, 30, 4, 1.0)
    cs = [1.0, 1e-6, 1e-2, 30.0, 1e-2]
    path = svm.train_path(x, labels, cs, intercept_scaling=scaling, tolerance=1e-9)
    for c, made in zip(cs, path, strict=True):
        cold = svm.train(x, labels, c, intercept_scaling=scaling, tolerance=1e-9)
        np.testing.assert_allclose(made.objective, cold.objective, rtol=1e-8)
        np.testing.assert_allclose(made.scores(x), cold.scores(x), atol=1e-3)
    assert path[2] is path[4]
    again = svm.train(x, labels, 30.0, start=path[3], intercept_scaling=scaling, tolerance=1e-8)
    assert (again.iterations <= 1).all()


def test_a_start_in_the_wrong_direction_does_no_harm():
    x, labels = drawn(400, 30, 4, 1.0)
    cold = svm.train(x, labels, 1.0, tolerance=1e-9)
    away = svm.Linear(**{**vars(cold), "coef": -1e6 * cold.coef})
    made = svm.train(x, labels, 1.0, start=away, tolerance=1e-9)
    np.testing.assert_allclose(made.objective, cold.objective, rtol=1e-8)


@pytest.mark.parametrize(("count", "width"), [(300, 40), (60, 90)])  # either Hessian is smaller
@pytest.mark.parametrize("times", [None, "shared", "each"])
def test_factorising_and_conjugate_gradients_agree(count, width, times, monkeypatch):
    x, labels = drawn(count, width, 3, 400.0)
    x[:, 0], x[:, 1], x[:, 2] = x[:, 3], x[:, 4], 7  # two features twice, one constant
    drawing = np.random.default_rng(0).integers(0, 3, (count, 3)).astype(float)
    weights = {None: None, "shared": drawing[:, 0], "each": drawing}[times]
    for scaling in (1.0, None):
        for c in (1e-7, 1e-4):
            made = []
            for patience in (10_000, 0):
                monkeypatch.setattr(_svm_newton, "PATIENCE", patience)
                monkeypatch.setattr(
                    _svm_newton, "_cost", lambda n, _: 1e9 * n.double().clamp(min=1)
                )
                made.append(
                    svm.train(
                        x,
                        labels,
                        c,
                        intercept_scaling=scaling,
                        weights=weights,
                        tolerance=1e-9,
                    )
                )
                monkeypatch.undo()
            iterated, direct = made
            np.testing.assert_allclose(direct.objective, iterated.objective, rtol=1e-8)
            assert direct.iterations.max() < 40


@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize(("count", "width"), [(50, 8), (9, 30)])
def test_every_way_to_a_newton_step_solves_the_system(count, width, penalised, monkeypatch):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32))
    signs = torch.from_numpy(rng.choice([-1, 1], (2, count)).astype(np.float32))
    cost = torch.from_numpy(rng.random((2, count)) * (rng.random((2, count)) < 0.8))
    problem = _svm_problem.Problem(x, signs, cost, 1.5, penalised)
    weights = torch.from_numpy(rng.normal(size=(2, width + 1)))
    margins = problem.margins(weights, torch.float64)
    view = problem.view(weights, margins)
    full = torch.cat([x, torch.full((count, 1), 1.5)], 1).double()
    diagonal = torch.ones(width + 1).double()
    diagonal[-1] = float(penalised)
    expected = torch.empty_like(weights)
    for k in range(2):
        active = 2 * cost[k] * (margins[k] < 1)
        hessian = torch.diag(diagonal) + full.T @ (active[:, None] * full)
        expected[k] = torch.linalg.solve(hessian, -view.gradient[k])
    patient, tired, none = 1000, 0, torch.zeros(2).double()
    for many, patience in ((1000, patient), (1, patient), (1000, tired)):
        monkeypatch.setattr(_svm_problem, "MANY", many)
        monkeypatch.setattr(_svm_problem, "DENSE", 0)
        monkeypatch.setattr(_svm_newton, "FORCING", 1e-6)
        monkeypatch.setattr(_svm_newton, "PATIENCE", patience)
        monkeypatch.setattr(_svm_newton, "_patience", lambda n, _, p=patience: 0 * n.double() + p)
        hard = torch.zeros(2, dtype=torch.bool)
        found = _svm_newton.newton_step(problem, weights, view, none, hard)
        assert (found - expected).norm() <= (1e-9 if patience == tired else 1e-4) * expected.norm()
        assert hard.all() == (patience == tired)


@pytest.mark.parametrize("penalised", [True, False])
def test_without_active_rows_the_step_goes_to_zero(penalised):
    problem = _svm_problem.Problem(
        torch.ones(4, 2), torch.ones(1, 4), torch.ones(1, 4).double(), 1.0, penalised
    )
    weights = torch.tensor([[2.0, 1.0, 3.0]]).double()
    view = problem.view(weights, problem.margins(weights, torch.float64))
    hard = torch.zeros(1, dtype=torch.bool)
    found = _svm_newton.newton_step(problem, weights, view, torch.zeros(1).double(), hard)
    np.testing.assert_allclose(found, [[-2.0, -1.0, -3.0 if penalised else 0.0]], rtol=1e-6)


def test_a_sample_moves_only_the_start(monkeypatch):
    x, labels = drawn(1300, 40, 3, 400.0)
    cases = (
        {},
        {"intercept_scaling": None},
        {"weights": np.arange(1300) % 3},
        {"weights": 1.0 * (np.arange(3900).reshape(1300, 3) % 4 > 0)},
        {
            "weights": 1.0 * (np.arange(1300) * _svm.GOLDEN % 1 >= 1 / _svm.SAMPLE)
        },  # all drawn are 0
    )
    for options in cases:
        for c in (1e-9, 1e-6, 1e-3):
            few = svm.train(x, labels, c, tolerance=1e-9, **options)
            monkeypatch.setattr(_svm, "SAMPLE", 10**9)
            cold = svm.train(x, labels, c, tolerance=1e-9, **options)
            monkeypatch.undo()
            np.testing.assert_allclose(few.objective, cold.objective, rtol=1e-8)
            np.testing.assert_allclose(few.gradient, cold.gradient, atol=1e-3)


def test_a_sample_has_no_period():
    rows = _svm._spread(10_000, torch.device("cpu")).numpy()
    assert len(rows) == pytest.approx(10_000 / _svm.SAMPLE, abs=2)
    assert np.diff(rows).max() <= 2 * _svm.SAMPLE
    for period in range(2, 40):
        met = np.bincount(rows % period, minlength=period)
        assert met.max() <= 3 * met.min()


def test_derivatives_along_a_line_are_those_of_torch():
    rng = np.random.default_rng(0)
    margins, change = (torch.from_numpy(rng.normal(size=(4, 70))) for _ in range(2))
    t, which = torch.from_numpy(rng.random(4)), torch.tensor([True, False, True, True])
    for rows in (1, 4):
        cost = torch.from_numpy(rng.random((rows, 70)))
        problem = _svm_problem.Problem(torch.zeros(70, 3), torch.ones(4, 70), cost, 1.0, True)
        at = t.clone().requires_grad_()
        loss = (cost * (1 - margins - at[:, None] * change).clamp(min=0).square()).sum(1)
        (first,) = torch.autograd.grad(loss.sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), at)
        found = problem.slopes(margins, change, t, which)
        expected = torch.stack([first.detach(), second]) * which
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_view_and_the_steepness_are_those_of_torch(rows):
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(70, 5)).astype(np.float32))
    signs = torch.from_numpy(rng.choice([-1, 1], (3, 70)).astype(np.float32))
    cost = torch.from_numpy(rng.random((rows, 70)) * (rng.random((rows, 70)) < 0.7))
    full = torch.cat([x, torch.full((70, 1), 1.5)], 1).double()
    for penalised in (True, False):
        problem = _svm_problem.Problem(x, signs, cost, 1.5, penalised)
        diagonal = torch.tensor([1.0] * 5 + [float(penalised)]).double()
        for weights in (torch.zeros(3, 6), torch.from_numpy(rng.normal(size=(3, 6)))):
            w = weights.double().requires_grad_()
            f = 0.5 * (diagonal * w**2).sum(1)
            f = f + (cost * (1 - signs * (w @ full.T)).clamp(min=0).square()).sum(1)
            (slope,) = torch.autograd.grad(f.sum(), w)
            view = problem.view(w.detach(), problem.margins(w.detach(), torch.float64))
            np.testing.assert_allclose(view.objective, f.detach(), rtol=1e-12)
            np.testing.assert_allclose(view.gain, cost.sum(1) - f.detach(), atol=1e-12)
            np.testing.assert_allclose(view.gradient, slope, atol=1e-12)
            if not weights.any():
                np.testing.assert_allclose(problem.steepness(), slope.norm(dim=1), rtol=1e-6)


@pytest.mark.parametrize("many", [1, 1000])
def test_products_are_exact_in_numba_and_in_blas(many, monkeypatch):
    monkeypatch.setattr(_svm_problem, "MANY", many)
    monkeypatch.setattr(_svm_problem, "DENSE", 0)
    rng = np.random.default_rng(0)
    for count, width, k in ((1, 1, 1), (5, 3, 2), (1500, 70, 3), (70, 2304, 5)):
        x = torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32))
        w = torch.from_numpy(rng.normal(size=(k, width + 1)).astype(np.float32))
        factors = torch.from_numpy(rng.random((k, count)).astype(np.float32))
        factors[rng.random((k, count)) < 0.6] = 0
        full = torch.cat([x, torch.full((count, 1), 1.5)], 1).double()
        for dtype, near in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            expected = w[:, :-1].double() @ x.double().T
            found = _svm_problem.forward(x, w[:, :-1].to(dtype))
            assert (found - expected).abs().max() <= near * expected.abs().max()
            expected = factors.double() @ x.double()
            found = _svm_problem.backward(x, _svm_problem.Factors.of(factors.to(dtype)))
            assert (found - expected).abs().max() <= near * (
                factors.double() @ x.abs().double()
            ).max()
        at = torch.arange(k)[rng.permutation(k)[: max(1, k - 1)]]
        p = w[at]
        expected = ((p.double() @ full.T) * factors[at]) @ full
        packed = _svm_problem.Factors.of(factors)
        found = _svm_problem.Hessian(x, factors, packed, 1.5)(p, at)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("without", ["packing", "numba"])
@pytest.mark.parametrize("patience", [_svm_newton.PATIENCE, 1])
def test_blas_and_torch_reach_the_objective_of_numba(without, patience, monkeypatch):
    x, labels = drawn(1100, 33, 5, 300.0)
    weights = np.random.default_rng(0).integers(0, 3, (1100, 5))
    for scaling, c, each in ((1.0, 1e-7, None), (None, 1e-6, None), (1.0, 1e-3, weights)):
        options = {"intercept_scaling": scaling, "weights": each, "tolerance": 1e-9}
        fast = svm.train(x, labels, c, **options)
        if without == "packing":
            monkeypatch.setattr(_svm_problem.Factors, "packed", None)
        else:  # what other devices do
            monkeypatch.setattr(_svm_problem, "compiled", lambda x: False)
            monkeypatch.setattr(_svm_newton, "compiled", lambda x: False)
        monkeypatch.setattr(_svm_newton, "PATIENCE", patience)
        slow = svm.train(x, labels, c, **options)
        monkeypatch.undo()
        np.testing.assert_allclose(slow.objective, fast.objective, rtol=1e-8)
        np.testing.assert_allclose(slow.gradient, fast.gradient, atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_reaches_the_same_objective():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    x, labels = drawn(3000, 96, 5, 300.0)
    for scaling, c in ((1.0, 1e-6), (None, 1e-6), (1.0, 1e-3), (1.0, 10.0)):
        cpu = svm.train(x, labels, c, intercept_scaling=scaling, tolerance=1e-9)
        gpu = svm.train(x, labels, c, intercept_scaling=scaling, tolerance=1e-9, device="cuda")
        np.testing.assert_allclose(gpu.objective, cpu.objective, rtol=1e-8)


@pytest.mark.parametrize("scaling", [1.0, None])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_features(value, scaling):
    labels = np.arange(60) % 3
    x = np.full((60, 4), value, np.float32)
    made = svm.train(x, labels, 0.5, intercept_scaling=scaling, tolerance=1e-9)
    signs = np.where(labels == 0, 1, -1)
    if scaling is None:
        # the best constant score: mean of signs, at no cost
        np.testing.assert_allclose(made.scores(x)[:, 0], signs.mean(), atol=1e-4)
    else:
        theirs = objective(x, signs, *liblinear(x, signs, 0.5), 0.5)
        assert made.objective[0] == pytest.approx(theirs, rel=1e-7)
    assert np.isfinite(made.scores(x)).all()


def test_balanced_classes_without_any_feature_stay_at_zero():
    made = svm.train(np.zeros((40, 3), np.float32), np.arange(40) % 2, 1.0)
    np.testing.assert_array_equal(made.scores(np.ones((2, 3), np.float32)), 0)
    np.testing.assert_array_equal(made.gap, 0)


def test_a_class_without_samples_is_never_predicted_and_changes_nothing():
    x, labels = drawn(200, 10, 3, 1.0)
    present = np.array([0, 2, 4])[labels]
    made = svm.train(x, svm.one_vs_rest(present, 6), 1e3, tolerance=1e-9)
    known = svm.train(x, labels, 1e3, tolerance=1e-9)
    np.testing.assert_array_equal(made.predict(x), np.array([0, 2, 4])[known.predict(x)])
    np.testing.assert_array_equal(made.scores(x)[:, [1, 3, 5]], -np.inf)
    np.testing.assert_array_equal(made.coef[[0, 2, 4]], known.coef)
    np.testing.assert_array_equal(made.objective[[1, 3, 5]], 0)
    again = svm.train(x, svm.one_vs_rest(present, 6), 1e3, start=made)
    assert np.isfinite(again.coef).all()
    absent = svm.train(x, labels, 1.0, weights=(labels != 1).astype(float))  # by weights alone
    assert not (absent.predict(x) == 1).any()


def test_bad_input_is_named():
    x, labels = drawn(30, 4, 3, 1.0)
    bad = x.copy()
    bad[[7, 9], 1] = np.nan, np.inf
    cold = svm.train(x, labels, 1.0)
    cases = [
        ((x[:0], labels[:0], 1.0), {}, r"features must be \(N, D\).*\(0, 4\)"),
        ((x[0], labels, 1.0), {}, r"features must be \(N, D\).*\(4,\)"),
        ((bad, labels, 1.0), {}, "2 rows, the first is row 7"),
        ((x * np.float32(1e20), labels, 1.0), {}, "at most 1e\\+15"),
        ((x, labels[:-1], 1.0), {}, "for 30 samples, got 29"),
        ((x, labels - 1, 1.0), {}, "labels must lie in 0 to 1, got -1 to 1"),
        ((x, labels * 0, 1.0), {}, "at least two classes"),
        ((x, labels.astype(float), 1.0), {}, "integers, got float64"),
        ((x, np.zeros((30, 2)), 1.0), {}, r"\+1 or -1"),
        ((x, np.zeros((30, 0)), 1.0), {}, r"\(30, 0\)"),
        ((x, -np.ones((30, 2)), 1.0), {}, "at least two classes"),
        ((x, labels, 0.0), {}, "c must be finite and above 0, got 0.0"),
        ((x, labels, np.nan), {}, "c must be finite and above 0, got nan"),
        ((x, labels, np.inf), {}, "c must be finite"),
        ((x, labels, 1.0), {"tolerance": 0.0}, "tolerance must be"),
        ((x, labels, 1.0), {"intercept_scaling": 0.0}, "intercept_scaling must be"),
        ((x, labels, 1.0), {"weights": -np.ones(30)}, "at least 0, got -1.0"),
        ((x, labels, 1.0), {"weights": np.ones(29)}, r"got \(29,\)"),
        ((x, labels, 1.0), {"weights": np.zeros(30)}, "at least two classes"),
        ((x, svm.one_vs_rest(labels, 4), 1.0), {"start": cold}, r"start must have coef \(4, 4\)"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            svm.train(*arguments, **options)
    with pytest.raises(ValueError, match=r"must be \(N, 4\)"):
        cold.predict(x[:, :3])
    with pytest.raises(ValueError, match="0 to 1, got 0 to 2"):
        svm.one_vs_rest(labels, 2)


def test_one_vs_rest():
    expected = np.array([[-1, -1, 1], [1, -1, -1], [-1, -1, 1]], np.float32)
    np.testing.assert_array_equal(svm.one_vs_rest(np.array([2, 0, 2]), 3), expected)
    assert svm.one_vs_rest(np.zeros(0, int), 3).shape == (0, 3)


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=30),
    st.integers(2, 6),
    st.integers(0, 100),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_folds_keep_groups_together_and_are_balanced(sizes, n_folds, seed, order):
    n_folds = min(n_folds, len(sizes))
    groups = np.repeat([f"photo{i:03}" for i in range(len(sizes))], sizes)
    folds = svm.folds_by_group(groups, n_folds, seed)
    assert set(folds) == set(range(n_folds))
    for name in np.unique(groups):
        assert len(set(folds[groups == name])) == 1
    held = np.bincount(folds)
    assert held.max() - held.min() <= max(sizes)
    shuffled = np.random.default_rng(order).permutation(len(groups))
    again = svm.folds_by_group(groups[shuffled], n_folds, seed)
    np.testing.assert_array_equal(again, folds[shuffled])


def test_folds_depend_on_the_seed_and_need_enough_groups():
    groups = np.arange(40)
    a, b = (svm.folds_by_group(groups, 5, seed) for seed in (0, 1))
    assert (a != b).any()
    np.testing.assert_array_equal(np.bincount(a), 8)
    for n_folds in (1, 41):
        with pytest.raises(ValueError, match=r"2 to 40 .*got"):
            svm.folds_by_group(groups, n_folds, 0)
    with pytest.raises(ValueError, match="groups must be"):
        svm.folds_by_group(groups[None], 2, 0)

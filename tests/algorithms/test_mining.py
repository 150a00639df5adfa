"""Mining against the SVM on all negatives, against brute force, and over shards."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from distcorr.algorithms import mining, windows
from distcorr.types import Geometry

GEOMETRY = Geometry(100, 8, 4.0, 8, 12)
BLOCK, KEYPOINTS = 2, 3
RULE = windows.Rule(beyond=24, nearest=4, square=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(count=20, noise=1.0, seed=0):
    """Grids in which every keypoint leaves a pattern about its place, and their labels."""
    rng = np.random.default_rng(seed)
    at = windows.positions(GEOMETRY, BLOCK)
    keypoints = rng.uniform(12, 88, (count, KEYPOINTS, 2))
    keypoints[rng.random((count, KEYPOINTS)) < 0.2] = np.nan
    patterns = rng.normal(size=(KEYPOINTS, 6))
    cells = windows.positions(GEOMETRY)
    away = np.square(keypoints[:, :, None, None] - cells).sum(-1)
    shape = np.nan_to_num(np.exp(-away / (2 * 12**2)))
    grids = np.einsum("nkyx,kc->nyxc", shape, 4 * patterns) + noise * rng.normal(
        size=(count, 12, 12, 6)
    )
    return grids.astype(np.float16), windows.labels(keypoints, at, RULE)


def parts_of(count, shards):
    return np.array_split(np.arange(count), shards)


def first_of(grids, labels, shards=1, count=5):
    return mining.join(
        mining.first_samples(grids[i], labels[i], i, block=BLOCK, count=count, seed=7)
        for i in parts_of(len(grids), shards)
    )


def mined(grids, labels, shards=1, most=40, rounds=100, c=0.05, tolerance=1e-7, room=10**6):
    """The loop of the module's description: (cache, detectors, samples of the last round)."""
    cache = mining.Cache.of(first_of(grids, labels, shards), room)
    settings = {"block": BLOCK, "scale": mining.feature_scale(cache.first), "c": c}
    detectors = mining.refit(cache, **settings, tolerance=tolerance)
    found = cache.first
    for _ in range(rounds):
        found, _ = mining.merge(
            (
                mining.hardest(grids[i], labels[i], i, detectors, cache.ids, most)
                for i in parts_of(len(grids), shards)
            ),
            most,
        )
        if not len(found):
            break
        cache = cache.evict(detectors).add(found)
        detectors = mining.refit(cache, **settings, start=detectors, tolerance=tolerance)
    return cache, detectors, found


def everything(grids, labels, scale):
    """All blocks (N, D) float64 scaled, and their labels (N, K)."""
    count = len(grids) * labels[0, 0].size
    features = windows.blocks(grids, np.arange(count), BLOCK).astype(float) * scale
    return features, labels.reshape(len(grids), KEYPOINTS, -1).transpose(0, 2, 1).reshape(count, -1)


def objective(features, signs, coef, intercept, c):
    cost = np.where(signs == 1, mining.POSITIVE, 1.0) * c
    slack = np.maximum(0, 1 - signs * (features @ coef + intercept))
    return 0.5 * (coef @ coef + (intercept / mining.BIAS) ** 2) + cost @ slack**2


@pytest.mark.parametrize(("noise", "shards"), [(0.3, 1), (0.3, 7), (1.5, 3)])
def test_until_nothing_is_found_it_is_the_svm_on_all_negatives(noise, shards):
    grids, labels = drawn(noise=noise)
    cache, detectors, found = mined(grids, labels, shards)
    assert len(found) == 0
    features, known = everything(grids, labels, detectors.scale)
    if noise < 1:
        assert len(cache.ids) < 0.7 * len(features)  # separable: most need never be held
    for k in range(KEYPOINTS):
        used = known[:, k] != 0
        x, signs = features[used], known[used, k]
        model = LinearSVC(C=0.05, dual=False, tol=1e-8, intercept_scaling=mining.BIAS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(x, signs, sample_weight=np.where(signs == 1, mining.POSITIVE, 1.0))
        best = objective(x, signs, model.coef_[0], model.intercept_[0], 0.05)
        linear = detectors.linear
        ours = objective(x, signs, linear.coef[k], linear.intercept[k], 0.05)
        assert ours <= best * (1 + 1e-3)
        assert linear.objective[k] == pytest.approx(ours, rel=1e-3)  # the cache saw all that costs


def test_the_bytes_are_the_same_over_any_shards():
    grids, labels = drawn()
    cache, detectors, _ = mined(grids, labels, 1, rounds=3)
    for shards in (4, 20):
        other_cache, other, _ = mined(grids, labels, shards, rounds=3)
        assert other_cache.ids.tobytes() == cache.ids.tobytes()
        assert other.linear.coef.tobytes() == detectors.linear.coef.tobytes()
    backwards = [
        mining.first_samples(grids[i], labels[i], i, block=BLOCK, count=5, seed=7)
        for i in parts_of(20, 4)[::-1]
    ]
    for a, b in zip(vars(mining.join(backwards)).values(), vars(cache.first).values(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_first_samples_are_all_positives_and_so_many_random_negatives():
    grids, labels = drawn()
    found = first_of(grids, labels, count=5)
    features, known = everything(grids, labels, 1.0)
    np.testing.assert_array_equal(found.labels, known[found.ids])
    np.testing.assert_array_equal(found.features, features[found.ids])
    positive = (known == 1).any(axis=1)
    assert np.isin(np.flatnonzero(positive), found.ids).all()
    more = first_of(grids, labels, count=60)
    assert np.isin(found.ids, more.ids).all()  # a larger draw holds the smaller one
    instance = np.arange(len(known)) // labels[0, 0].size
    for i in range(len(grids)):
        random = (instance[found.ids] == i) & ~positive[found.ids]
        assert random.sum() <= 5
        assert (known[found.ids[random]] == -1).any(axis=1).all()
    none = mining.first_samples(grids, np.zeros_like(labels), range(20), block=2, count=5, seed=7)
    assert len(none) == 0
    # Uniform: every position is about as likely over many instances.
    flat = np.full((400, 1, 5, 5), -1, np.int8)
    drawn_ids = mining.first_samples(
        np.zeros((400, 5, 5, 1), np.float16), flat, range(400), block=1, count=5, seed=1
    ).ids
    times = np.bincount(drawn_ids % 25, minlength=25)
    assert times.sum() == 2000
    assert np.square(times - 80).sum() / 80 < 50  # chi square of 24 degrees, p about 1e-3


def test_the_hardest_are_found_by_brute_force():
    grids, labels = drawn(noise=2.0)
    cache, detectors, _ = mined(grids, labels, rounds=0)
    most = 9
    found, violations = mining.hardest(grids, labels, range(20), detectors, cache.ids, most)
    features, known = everything(grids, labels, detectors.scale)
    scores = features @ detectors.linear.coef.T + detectors.linear.intercept
    expected = set()
    for k in range(KEYPOINTS):
        hard = [i for i in range(len(known)) if known[i, k] == -1 and scores[i, k] > -1]
        hard = sorted(set(hard) - set(cache.ids.tolist()), key=lambda i: -scores[i, k])
        expected |= set(hard[:most])
        assert violations[k] == len(hard)
    assert found.ids.tolist() == sorted(expected)
    np.testing.assert_allclose(found.scores, scores[found.ids], atol=1e-3)
    bare, _ = mining.hardest(grids, labels, range(20), detectors, cache.ids, most, features=False)
    assert bare.features.shape == (len(found), 0)
    for name in ("ids", "labels", "scores"):
        assert getattr(bare, name).tobytes() == getattr(found, name).tobytes()


def test_ties_go_to_the_lower_id_in_any_shards():
    grids = np.ones((6, 12, 12, 6), np.float16)
    labels = np.full((6, 1, 11, 11), -1, np.int8)
    first = mining.first_samples(
        *(a[:1] for a in (grids, drawn()[1])), [0], block=2, count=2, seed=0
    )
    detectors = mining.refit(mining.Cache.of(first), block=2, scale=1.0)
    one = replace(detectors.linear, coef=np.zeros((1, 24)), intercept=np.zeros(1))
    flat = replace(detectors, linear=one)
    held = np.array([0, 2], np.int64)
    for shards in (1, 2, 6):
        parts = [mining.hardest(grids[i], labels[i], i, flat, held, 4) for i in parts_of(6, shards)]
        found, violations = mining.merge(parts, 4)
        assert found.ids.tolist() == [1, 3, 4, 5]
        assert violations.tolist() == [6 * 121 - 2]


def test_only_the_easy_are_evicted():
    grids, labels = drawn(noise=1.5)
    cache, detectors, _ = mined(grids, labels, rounds=2, most=60)
    linear = detectors.linear
    easier = replace(detectors, linear=replace(linear, intercept=linear.intercept - 0.1))
    left = cache.evict(easier)
    assert 0 < len(left.mined) < len(cache.mined)
    assert left.first is cache.first
    scores = easier.linear.scores(cache.mined.features.astype(np.float32) * easier.scale)
    easy = ((cache.mined.labels != -1) | (scores < -1.2)).all(axis=1)
    np.testing.assert_array_equal(left.mined.ids, cache.mined.ids[~easy])
    small = replace(left, most=5).add(left.mined.at(np.zeros(0, int)))
    assert small.full
    assert not left.full
    assert len(small.mined) == 5
    assert np.isin(small.mined.ids, left.mined.ids).all()
    assert (np.diff(small.mined.ids) > 0).all()


def test_what_a_full_cache_keeps_is_drawn_and_not_chosen_by_score():
    grids, labels = drawn(count=60, noise=3.0)
    cache, _, found = mined(grids, labels, rounds=1, most=400)
    drawn_from, room = len(found), len(found) // 3
    parts = [replace(cache, mined=found.at(np.zeros(0, int)), most=room, seed=s) for s in range(40)]
    kept = [part.add(found).mined.ids for part in parts]
    assert all(len(ids) == room for ids in kept)
    assert len({ids.tobytes() for ids in kept}) == 40  # by the seed
    assert parts[3].add(found).mined.ids.tobytes() == kept[3].tobytes()
    times = np.isin(found.ids, kept[0]).astype(int)
    for ids in kept[1:]:
        times = times + np.isin(found.ids, ids)
    share = room / drawn_from
    assert np.square(times - 40 * share).sum() / (40 * share * (1 - share)) < 1.2 * drawn_from
    hardness = found.scores.max(axis=1)
    assert abs(np.corrcoef(times, hardness)[0, 1]) < 4 / drawn_from**0.5


def test_a_bounded_cache_still_trains_and_says_so():
    grids, labels = drawn(noise=2.0)
    cache, detectors, _ = mined(grids, labels, rounds=4, room=25, most=60)
    assert cache.full
    assert len(cache.mined) <= 25
    assert np.isfinite(detectors.linear.coef).all()


def test_a_keypoint_without_positives_is_left_out_and_found_nothing_for():
    grids, labels = drawn()
    labels[:, 1] = 0
    _, detectors, found = mined(grids, labels, rounds=50)
    assert len(found) == 0
    scores = windows.score(grids, detectors)
    assert (scores[:, 1] == -np.inf).all()
    assert np.isfinite(scores[:, [0, 2]]).all()


def test_bad_features_are_named():
    grids, labels = drawn()
    first = first_of(grids, labels)
    for value in (0, np.nan):
        bad = replace(first, features=np.full_like(first.features, value))
        with pytest.raises(ValueError, match="finite and not all zero"):
            mining.feature_scale(bad)
    scaled = mining.feature_scale(first) * first.features.astype(float)
    assert np.linalg.norm(scaled, axis=1).mean() == pytest.approx(20, rel=1e-4)

"""Kinds of errors by hand, by plain loops, and as shares that are PCK's."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import distcorr.data
from distcorr.algorithms import error_types, pck
from distcorr.algorithms.error_types import KINDS, classify, counts, mirror_partners

seeds = st.integers(0, 2**32 - 1)


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("L_Eye", "R_Eye"),
        ("left_eye", "right_eye"),
        ("Left_Wing_Tip", "Right_Wing_Tip"),
        ("LeftEye", "RightEye"),
        ("LEFT EYE", "RIGHT EYE"),
        ("ear-l", "ear-r"),
        ("ear_L", "ear_R"),
        ("LEye", "REye"),
        ("lEye", "rEye"),
        ("EyeL", "EyeR"),
        ("Hull_Mid_Left_Bot", "Hull_Mid_Right_Bot"),
        ("lefteye", "righteye"),
        ("L_Leg_Left", "R_Leg_Right"),
    ],
)
def test_names_that_differ_in_the_side_are_partners(left, right):
    assert mirror_partners([left, "Nose", right]).tolist() == [2, -1, 0]


@pytest.mark.parametrize(
    "names",
    [
        ("Nose", "Tail"),
        ("L_Eye", "R_Ear"),
        ("L_Eye", "Right_Eye"),  # not of one data set
        ("Leg", "Reg"),
        ("all", "arr"),
        ("FL", "FR"),  # could be any two letters
        ("Upright", "Nose"),
        ("L_Eye", "L_Ear"),
    ],
)
def test_others_are_not(names):
    assert mirror_partners(names).tolist() == [-1, -1]


def test_no_names():
    assert mirror_partners([]).shape == (0,)


def test_partners_of_the_paper_s_keypoints():
    file = Path(distcorr.data.__file__).with_name("keypoint_names.json")
    found = {}
    for category, names in json.loads(file.read_text())["classes"].items():
        partners = mirror_partners(names)
        assert all(k < 0 or (partners[k] == own != k) for own, k in enumerate(partners))
        found[category] = {names[k] for k in np.flatnonzero(partners < 0)}
    assert found["cat"] == {"Nose", "TailBase", "Throat", "Withers"}
    assert found["bus"] == found["chair"] == found["tvmonitor"] == set()
    assert found["train"] == {"Roof_Front_Middle"}
    assert found["motorbike"] == {
        *("B_WheelCenter", "B_WheelEnd", "ExhaustPipeEnd", "F_WheelCenter", "F_WheelEnd"),
        *("HandleCenter", "SeatBase", "TailLight"),
    }


@given(st.lists(st.text("LRlr_eEyleftrighLR0-", max_size=12), unique=True, max_size=8))
def test_partners_are_mutual(names):
    partners = mirror_partners(names)
    for own, partner in enumerate(partners):
        assert partner == -1 or (partner != own and partners[partner] == own)


# -- kinds -------------------------------------------------------------------------------------

# One instance, thresholds 10 px and, for jitter, 20: its eyes lie 26 px apart, the nose 15 below.
TRUTH = {"L_Eye": (100.0, 100.0), "R_Eye": (126.0, 100.0), "Nose": (113.0, 115.0)}
PARTNERS = np.array([1, 0, -1, 4, 3])


def kind(x, y, keypoint=0, shown=(0, 1, 2), le=True):
    truth = np.array([*TRUTH.values(), (300.0, 300.0), (400.0, 400.0)])[list(shown)]
    predicted = np.where(np.array(shown)[:, None] == keypoint, (x, y), truth)
    ones = np.ones(len(shown))
    arguments = (predicted, truth, 100 * ones, 0 * ones, shown, PARTNERS, 0.1)
    return KINDS[classify(*arguments, le=le)[shown.index(keypoint)]]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (103, 104, "correct"),
        (110, 100, "correct"),  # on the threshold
        (100, 85, "jitter"),
        (126, 100, "left/right swap"),
        (119, 94, "left/right swap"),  # 20 px from the truth as well, but the partner explains it
        (113, 115, "jitter"),  # on the nose, 19.8 px from the truth
        (113, 117, "other keypoint"),  # 21.4 px
        (126, 109, "left/right swap"),  # the nose is 14.3 px away
        (121, 108, "left/right swap"),  # the partner is 9.4 px away, the nose 10.6
        (120, 109, "other keypoint"),  # the nose is 9.2 px away, the partner 10.8
        (100, 150, "miss"),
        (np.nan, np.nan, "no prediction"),
        (np.nan, 100, "no prediction"),
    ],
)
def test_by_hand(x, y, expected):
    assert kind(x, y) == expected


def test_only_visible_keypoints_can_be_taken_for_one():
    assert kind(126, 100) == "left/right swap"
    assert kind(126, 100, shown=(0, 2)) == "miss"
    assert kind(113, 117, shown=(0, 1)) == "miss"
    assert kind(400, 400, keypoint=3, shown=(3, 4)) == "left/right swap"
    assert kind(400, 400, keypoint=3, shown=(0, 3)) == "miss"
    assert kind(126, 100, keypoint=2) == "jitter"  # the nose has no partner


def test_strict_thresholds():
    assert kind(110, 100, le=False) == "jitter"
    assert kind(100, 80, le=True) == "jitter"
    assert kind(100, 80, le=False) == "miss"


def test_another_instance_does_not_count():
    truth = np.array([[100.0, 100.0], [300.0, 100.0]])
    arguments = (truth[::-1], truth, np.full(2, 100.0), [0, 1], [0, 1], [1, 0], 0.1)
    assert [KINDS[k] for k in classify(*arguments)] == ["miss", "miss"]


def by_loops(predicted, truth, scale, instance, keypoint, partners, alpha, le):
    found = []
    for n, (x, y) in enumerate(predicted.tolist()):
        if math.isnan(x) or math.isnan(y):
            found.append("no prediction")
            continue
        near = {}
        for m in range(len(truth)):
            if instance[m] == instance[n]:
                near[keypoint[m]] = float(np.hypot(x - truth[m, 0], y - truth[m, 1]))
        limit = float(alpha * scale[n])
        within = (lambda d, r: d <= r) if le else (lambda d, r: d < r)
        own, partner = near.pop(keypoint[n]), partners[keypoint[n]]
        mirror = near.get(partner, math.inf) if partner >= 0 else math.inf
        if within(own, limit):
            found.append("correct")
        elif within(mirror, limit) and mirror <= min(own, *near.values()):
            found.append("left/right swap")
        elif within(own, 2 * limit):
            found.append("jitter")
        elif any(within(d, limit) for d in near.values()):
            found.append("other keypoint")
        else:
            found.append("miss")
    return found


def random_points(seed, instances=12, types=6, side=60):
    """Predictions on a grid of px, so that distances tie; some are missing."""
    rng = np.random.default_rng(seed)
    instance, keypoint = np.nonzero(rng.random((instances, types)) < 0.7)
    shuffle = rng.permutation(len(instance))
    instance, keypoint = instance[shuffle], keypoint[shuffle]
    truth, predicted = rng.integers(0, side, (2, len(instance), 2)).astype(float)
    predicted[rng.random(len(instance)) < 0.1] = np.nan
    scale = rng.choice([50.0, 80.0, 130.0], instances)[instance]
    return predicted, truth, scale, instance, keypoint, np.array([1, 0, -1, 4, 3, -1])


@given(seeds, st.sampled_from([0.05, 0.1, 0.2]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_is_what_loops_find(seed, alpha, le):
    points = random_points(seed)
    assert [KINDS[k] for k in classify(*points, alpha, le=le)] == by_loops(*points, alpha, le)


def test_loops_meet_every_kind():
    found = classify(*random_points(3, instances=60), 0.1)
    assert sorted(set(found.tolist())) == list(range(len(KINDS)))
    assert found.dtype == np.int8


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_neither_units_nor_order_nor_numbers_of_instances_matter(seed):
    predicted, truth, scale, instance, keypoint, partners = random_points(seed)
    expected = classify(predicted, truth, scale, instance, keypoint, partners, 0.1)
    shuffle = np.random.default_rng(seed).permutation(len(scale))
    points = (4 * predicted + 64, 4 * truth + 64, 4 * scale, 30 - instance, keypoint)
    found = classify(*(a[shuffle] for a in points), partners, 0.1)
    np.testing.assert_array_equal(found, expected[shuffle])


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_shares_sum_to_one_and_correct_is_pck(seed):
    predicted, truth, scale, instance, keypoint, partners = random_points(seed)
    photograph = instance // 2
    kinds = classify(predicted, truth, scale, instance, keypoint, partners, 0.1)
    of_kind = counts(kinds, keypoint, photograph, 6, 6)
    distance = np.nan_to_num(np.hypot(*(predicted - truth).T), nan=np.inf)
    correct, total = pck.counts(
        distance, scale, keypoint, photograph, (0.1,), 6, n_photographs=6, le=True
    )
    assert of_kind.dtype == np.int64
    np.testing.assert_array_equal(of_kind.sum(axis=0), total)
    np.testing.assert_array_equal(of_kind[error_types.CORRECT], correct[0])
    assert pck.pck(of_kind, total).sum() == pytest.approx(1)
    samples = pck.bootstrap(of_kind, total, resamples=20, seed=1)
    np.testing.assert_allclose(samples.sum(axis=0), 1)
    assert of_kind[error_types.NONE].sum() == np.isnan(predicted[:, 0]).sum()


def test_no_predictions():
    none = np.zeros(0)
    assert classify(np.zeros((0, 2)), np.zeros((0, 2)), none, none, none, [1, 0], 0.1).shape == (0,)
    assert counts(none, none, none, 2, 3).shape == (6, 3, 2)


def test_faults():
    points = list(random_points(1))
    with pytest.raises(ValueError, match=r"\(n, 2\) twice and \(n,\), got"):
        classify(points[0][1:], *points[1:], 0.1)
    with pytest.raises(ValueError, match="keypoint must lie in 0 to 1"):
        classify(*points[:5], [1, 0], 0.1)
    with pytest.raises(ValueError, match="instance be at least 0"):
        classify(*points[:3], points[3] - 1, *points[4:], 0.1)
    with pytest.raises(ValueError, match="at most once"):
        classify(*points[:4], 0 * points[4], points[5], 0.1)
    with pytest.raises(ValueError, match="truth must be finite"):
        classify(points[0], points[1] * np.nan, *points[2:], 0.1)
    with pytest.raises(ValueError, match="invalid entry"):
        counts(np.array([9]), np.array([0]), np.array([0]), 1, 1)

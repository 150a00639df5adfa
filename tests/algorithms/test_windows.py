"""Positions, labels and scores of sliding windows against brute force."""

import numpy as np
import pytest

from distcorr.algorithms import svm, windows
from distcorr.types import Geometry

CONV5 = Geometry(500, 16, 17.0, 163, 30)
SIFT = Geometry(500, 8, 12.0, 32, 60)


def linear(coef, intercept):
    nothing = np.zeros(len(coef))
    return svm.Linear(coef, intercept, nothing, nothing, nothing, nothing.astype(int))


def test_positions_are_the_protocols():
    at = windows.positions(CONV5, 3)
    assert at.shape == (28, 28, 2)
    np.testing.assert_array_equal(at[0, 0], [33, 33])
    np.testing.assert_array_equal(at[2, 5], [33 + 5 * 16, 33 + 2 * 16])
    np.testing.assert_array_equal(at[-1, -1], [465, 465])
    np.testing.assert_array_equal(windows.positions(SIFT)[[0, -1], [0, -1]], [[12, 12], [484, 484]])
    assert windows.positions(CONV5, 30).shape == (1, 1, 2)
    for block in (0, 31):
        with pytest.raises(ValueError, match="1 to 30 cells"):
            windows.positions(CONV5, block)


def test_the_field_of_a_block_is_table_1s_195_px():
    assert windows.field_rule(CONV5, 3).beyond == 195 / 2


def brute_force(point, at, rule):
    """The label of every position, one by one."""
    if np.isnan(point).any():
        return np.zeros(len(at))
    away = [((x - point[0]) ** 2 + (y - point[1]) ** 2) ** 0.5 for x, y in at]
    closest = sorted(range(len(at)), key=lambda p: (away[p], p))[: rule.nearest]
    out = []
    for p, (x, y) in enumerate(at):
        far = max(abs(x - point[0]), abs(y - point[1])) if rule.square else away[p]
        near = p in closest if rule.nearest else away[p] <= rule.within
        out.append(-1 if far >= rule.beyond else int(near))
    return np.array(out)


@pytest.mark.parametrize(
    ("geometry", "block", "rule"),
    [(CONV5, 3, windows.field_rule(CONV5, 3)), (SIFT, 1, windows.SIFT_RULE)],
)
def test_labels_are_those_of_the_definition(geometry, block, rule):
    at = windows.positions(geometry, block)
    # Generic, on a position, halfway between positions (ties), in corners, outside, absent.
    points = np.array(
        [[201.3, 77.7], [113, 129], [105, 97], [0, 0], [499, 250], [-130, 620], [np.nan, 3]]
    )
    found = windows.labels(points.reshape(1, -1, 2), at, rule)
    assert found.shape == (1, 7, *at.shape[:2])
    assert found.dtype == np.int8
    for k, point in enumerate(points):
        expected = brute_force(point, at.reshape(-1, 2), rule)
        np.testing.assert_array_equal(found[0, k].ravel(), expected)
    count = (found[0] == 1).sum(axis=(1, 2))
    if rule.nearest:
        assert (count[:5] == 10).all()
    else:
        assert (count[:3] >= 12).all()
        assert count[3] == 0  # section 5's 16 px do not reach from a corner to the grid
    all_negative = windows.labels(points.reshape(1, -1, 2), at, rule, absent=-1)
    assert (all_negative[0, 6] == -1).all()
    np.testing.assert_array_equal(all_negative[0, :6], found[0, :6])


def test_a_rule_without_sense_is_refused():
    for bad in ({"beyond": 10}, {"beyond": 10, "within": 10}, {"beyond": 9, "nearest": -1}):
        with pytest.raises(ValueError, match="a rule needs positives"):
            windows.Rule(**bad)
    with pytest.raises(ValueError, match=r"\(n, K, 2\)"):
        windows.labels(np.zeros((3, 2)), windows.positions(SIFT), windows.SIFT_RULE)


@pytest.mark.parametrize(("block", "dtype"), [(1, np.float16), (2, np.float32), (3, np.float16)])
def test_scores_are_products_with_blocks(block, dtype):
    rng = np.random.default_rng(0)
    grids = rng.normal(size=(4, 7, 9, 5)).astype(dtype)
    coef, intercept = rng.normal(size=(3, block * block * 5)), rng.normal(size=3)
    detectors = windows.Detectors(linear(coef, intercept), block, 0.7)
    found = windows.score(grids, detectors)
    rows, cols = 8 - block, 10 - block
    assert found.shape == (4, 3, rows, cols)
    for i, k, y, x in np.ndindex(*found.shape):
        cut = grids[i, y : y + block, x : x + block].astype(float).ravel()
        assert found[i, k, y, x] == pytest.approx(0.7 * cut @ coef[k] + intercept[k], abs=1e-4)
    every = windows.blocks(grids, np.arange(4 * rows * cols), block)
    assert every.dtype == dtype
    cut = grids[2, 1 : 1 + block, 3 : 3 + block].ravel()
    np.testing.assert_array_equal(every[(2 * rows + 1) * cols + 3], cut)


@pytest.mark.parametrize(
    ("side", "channels", "block", "count"),
    [(12, 32, 3, 2), (7, 5, 3, 3), (12, 6, 2, 5), (9, 128, 1, 8), (30, 256, 3, 18)],
)
def test_scores_do_not_depend_on_the_rest_of_the_shard(side, channels, block, count):
    rng = np.random.default_rng(1)
    grids = rng.normal(size=(9, side, side, channels)).astype(np.float16)
    coef, intercept = rng.normal(size=(count, block**2 * channels)), rng.normal(size=count)
    detectors = windows.Detectors(linear(coef, intercept), block)
    together = windows.score(grids, detectors)
    for size in (1, 3, 8):
        parts = [windows.score(grids[i : i + size], detectors) for i in range(0, 9, size)]
        assert np.concatenate(parts).tobytes() == together.tobytes()
    for order in (np.arange(9)[::-1], np.array([4, 0, 4, 8, 4, 4])):
        assert windows.score(grids[order], detectors).tobytes() == together[order].tobytes()
    huge = grids.copy()
    huge[1:] = np.inf  # what others say stays with them
    assert windows.score(huge, detectors)[0].tobytes() == together[0].tobytes()


def test_scores_by_position_are_the_same():
    rng = np.random.default_rng(2)
    grids = rng.normal(size=(6, 8, 7, 5)).astype(np.float16)
    grids.setflags(write=False)
    detectors = windows.Detectors(linear(rng.normal(size=(3, 45)), rng.normal(size=3)), 3)
    found = windows.score_positions(grids, detectors)
    assert found.shape == (6, 6, 5, 3)
    scores = windows.score(grids, detectors)
    assert scores.flags.c_contiguous
    np.testing.assert_array_equal(found, scores.transpose(0, 2, 3, 1))
    wide = windows.score(np.repeat(grids, 2, axis=2)[:, :, ::2].astype(np.float32), detectors)
    assert wide.tobytes() == scores.tobytes()  # whatever the type and the layout
    assert windows.score(grids[:0], detectors).shape == (0, 3, 6, 5)


def test_a_keypoint_that_was_never_seen_scores_minus_infinity():
    detectors = windows.Detectors(linear(np.zeros((2, 3)), np.array([0.5, -np.inf])))
    found = windows.score(np.ones((1, 2, 2, 3), np.float32), detectors)
    np.testing.assert_array_equal(found[0, 0], 0.5)
    np.testing.assert_array_equal(found[0, 1], -np.inf)


@pytest.mark.parametrize("shape", [(1, 4, 4, 5), (4, 4, 3), (1, 2, 4, 3)])
def test_grids_that_do_not_fit_are_refused(shape):
    detectors = windows.Detectors(linear(np.zeros((2, 27)), np.zeros(2)), 3)
    with pytest.raises(ValueError, match="a block of 3 x 3"):
        windows.score(np.zeros(shape, np.float32), detectors)

"""Rebuilt photographs and averaged fields against plain loops and closed forms."""

import numpy as np
import pytest

from distcorr.algorithms.rebuild import (
    MEAN_COLOUR,
    RunningMean,
    boxes_around,
    centre_ratio,
    contrast,
    covered,
    cut,
    error,
    every_cell,
    inside,
    radial_profile,
    random_cells,
    rebuild,
    uniform_rf,
)
from distcorr.types import Geometry

CONV3 = Geometry(227, 16, 17.0, 99, 13)
SMALL = Geometry(20, 4, 5.0, 9, 4)  # patches start at 3, 7, 11, ...


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def boxes_of(geometry, rows, cols, side=0):
    """Of all cells of a picture; patches unless a side is given."""
    axes = geometry._replace(cells=rows), geometry._replace(cells=cols)
    return boxes_around(*axes, every_cell(*axes), side or geometry.stride)


def test_patches_and_fields_lie_around_the_centres():
    boxes = boxes_of(CONV3, 23, 30)
    np.testing.assert_array_equal(boxes[0], [9, 9])  # 17 - 8
    np.testing.assert_array_equal(boxes[31], [25, 25])
    np.testing.assert_array_equal(boxes[29], [9, 473])  # cells in rows
    np.testing.assert_array_equal(boxes_of(CONV3, 2, 2, 99)[0], [17 - 49, 17 - 49])
    tiles = boxes_of(Geometry(224, 16, 7.5, 224, 14), 14, 14)
    np.testing.assert_array_equal(tiles[15], [16, 16])


def test_rows_and_columns_may_lie_differently():
    rows, cols = Geometry(0, 4, 5.0, 9, 2), Geometry(0, 8, 3.0, 9, 2)
    cells = every_cell(rows, cols)
    np.testing.assert_array_equal(cells, [[0, 0], [0, 1], [1, 0], [1, 1]])
    expected = [[3, 1], [3, 9], [7, 1], [7, 9]]
    np.testing.assert_array_equal(boxes_around(rows, cols, cells, 4), expected)


def test_which_cells_have_their_patch_inside_a_photograph_of_500_by_375():
    boxes = boxes_of(CONV3, 23, 30)
    there = inside(boxes, 16, (375, 500, 3)).reshape(23, 30)
    assert there[:22].all()
    assert not there[22].any()  # centre 369, last row 376
    assert covered(boxes, 16, (375, 500)).sum() == (375 - 9) * 480
    fields = inside(boxes_of(CONV3, 23, 30, 99), 99, (375, 500)).reshape(23, 30)
    rows, cols = np.flatnonzero(fields.any(1)), np.flatnonzero(fields.any(0))
    assert (rows[0], 17 + 16 * rows[-1] + 49 <= 374 < 17 + 16 * (rows[-1] + 1) + 49) == (2, True)
    assert (cols[0], 17 + 16 * cols[-1] + 49 <= 499 < 17 + 16 * (cols[-1] + 1) + 49) == (2, True)


def test_cutting_repeats_the_edge():
    picture, boxes = noise(12, 15, 3), np.array([[-3, 4], [9, 13], [2, 2]])
    padded = np.pad(picture, ((9, 9), (9, 9), (0, 0)), mode="edge")
    for patch, (row, col) in zip(cut(picture, boxes, 5), boxes, strict=True):
        np.testing.assert_array_equal(patch, padded[row + 9 : row + 14, col + 9 : col + 14])


def test_a_photographs_own_patches_rebuild_it():
    picture = noise(23, 26, 3)
    boxes = boxes_of(SMALL, 5, 6)
    patches = cut(picture, boxes, 4)[:, None]
    mask = covered(boxes, 4, picture.shape)
    rebuilt = rebuild(picture.shape, boxes, patches)
    np.testing.assert_array_equal(rebuilt[mask], picture[mask])
    assert (rebuilt[~mask] == MEAN_COLOUR).all()
    assert error(rebuilt, picture, mask)[:2] == (np.inf, 0)
    assert error(rebuilt, picture, mask).ssim == pytest.approx(1)


@pytest.mark.parametrize("shape", [(23, 26), (18, 20), (9, 40), (60, 60)])
def test_rebuilding_equals_a_loop_over_pixels(shape):
    rows, cols, k = 5, 6, 3
    patches, counts = noise(30, k, 4, 4, 3, seed=1), np.arange(30) % (k + 1)
    rebuilt = rebuild((*shape, 3), boxes_of(SMALL, rows, cols), patches, counts, colour=(1, 2, 3))
    expected = np.full((*shape, 3), (1, 2, 3), np.uint8)
    for cell in range(rows * cols):
        row, col = 3 + 4 * (cell // cols), 3 + 4 * (cell % cols)
        for y in range(row, min(row + 4, shape[0])):
            for x in range(col, min(col + 4, shape[1])):
                if counts[cell]:
                    mean = patches[cell, : counts[cell], y - row, x - col].mean(axis=0)
                    expected[y, x] = np.floor(mean + 0.5)
    np.testing.assert_array_equal(rebuilt, expected)


def test_patches_beyond_the_top_left_are_cut_off():
    patches = noise(4, 1, 4, 4, 3)
    rebuilt = rebuild((4, 4, 3), np.array([[-3, -3], [-3, 1], [1, -3], [1, 1]]), patches)
    np.testing.assert_array_equal(rebuilt[0, 0], patches[0, 0, 3, 3])
    np.testing.assert_array_equal(rebuilt[1:, 1:], patches[3, 0, :3, :3])


def test_uniform_rf_draws_every_place_of_the_field_and_no_other():
    y, x = np.mgrid[:200, :250]
    picture = np.stack([y, x, 0 * y], axis=2).astype(np.uint8)
    boxes = np.full((800, 2), (90, 100))
    drawn = uniform_rf(picture, boxes, 16, 99, 5, [0, 7])
    offsets = drawn[:, :, 0, 0, :2].reshape(-1, 2).astype(int) - (90, 100)
    assert (offsets.min(), offsets.max()) == (-41, 41)
    for axis in range(2):
        counts = np.bincount(offsets[:, axis] + 41, minlength=83)
        assert (counts > 0).all()
        assert ((counts - 4000 / 83) ** 2 / (4000 / 83)).sum() < 140  # chi-square, 82 degrees
    np.testing.assert_array_equal(
        drawn[:, :, 15, 15, :2].reshape(-1, 2) - offsets, boxes[0] + 15 + np.zeros((4000, 2), int)
    )


def test_uniform_rf_is_seeded_by_photograph_and_cell_and_stays_inside():
    picture, boxes = noise(60, 70, 3), boxes_of(SMALL, 14, 17)
    five = uniform_rf(picture, boxes, 4, 99, 5, [3, 1])
    np.testing.assert_array_equal(uniform_rf(picture, boxes, 4, 99, 1, [3, 1]), five[:, :1])
    np.testing.assert_array_equal(uniform_rf(picture, boxes[:20], 4, 99, 5, [3, 1]), five[:20])
    assert (uniform_rf(picture, boxes, 4, 99, 5, [3, 2]) != five).any()
    windows = np.lib.stride_tricks.sliding_window_view(picture, (4, 4), axis=(0, 1))
    known = {w.tobytes() for w in windows.transpose(0, 1, 3, 4, 2).reshape(-1, 4, 4, 3)}
    assert {p.tobytes() for p in five.reshape(-1, 4, 4, 3)} <= known
    assert uniform_rf(picture, boxes[:0], 4, 99, 5, [3]).shape == (0, 5, 4, 4, 3)


def test_random_cells():
    places = random_cells(11, 400, 5, [2])
    assert set(places.ravel()) == set(range(11))
    np.testing.assert_array_equal(random_cells(11, 30, 2, [2]), places[:30, :2])


def test_errors_against_plain_formulas():
    a, b = noise(25, 31, 3), noise(25, 31, 3, seed=1)
    b = (0.5 * a + 0.5 * b).astype(np.uint8)
    mask = np.zeros((25, 31), bool)
    mask[2:20, 3:29] = True
    found = error(a, b, mask)
    difference = a[mask].astype(float) - b[mask]
    assert found.psnr == pytest.approx(20 * np.log10(255 / np.sqrt((difference**2).mean())))
    assert found.colour == pytest.approx(abs(difference).mean())
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for y in range(5, 20):
        for x in range(5, 26):
            if mask[y - 5 : y + 6, x - 5 : x + 6].all():
                grey = [0.299 * p[..., 0] + 0.587 * p[..., 1] + 0.114 * p[..., 2] for p in (a, b)]
                p, q = (g[y - 5 : y + 6, x - 5 : x + 6] for g in grey)
                m, n = (window * p).sum(), (window * q).sum()
                pp, qq = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
                pq = (window * (p - m) * (q - n)).sum()
                values.append(
                    (2 * m * n + 2.55**2)
                    * (2 * pq + 7.65**2)
                    / ((m * m + n * n + 2.55**2) * (pp + qq + 7.65**2))
                )
    assert len(values) == 8 * 16
    assert found.ssim == pytest.approx(np.mean(values))
    assert np.isnan(error(a, b, np.zeros((25, 31), bool))).all()
    mask[:] = False
    mask[:5, :5] = True
    assert np.isnan(error(a, b, mask).ssim)


def test_a_running_mean_is_the_mean_in_any_order_and_grouping():
    pictures = [noise(*shape, 3, seed=n) for n, shape in enumerate([(20, 30), (9, 40), (60, 5)])]
    at = np.random.default_rng(2).integers(-8, 30, (3, 15, 2))
    sums = [RunningMean.blank(7) for _ in range(4)]
    for n in (0, 1, 2):
        sums[0].add(pictures[n], at[n])
    for n in (2, 0, 1):
        sums[1 + n].add(pictures[n], at[n, ::-1])
    sums[1] += sums[3] + sums[2]
    for name in ("count", "total", "squares"):
        np.testing.assert_array_equal(getattr(sums[0], name), getattr(sums[1], name))
    assert sums[0].mean().tobytes() == sums[1].mean().tobytes()
    assert sums[0].std().tobytes() == sums[1].std().tobytes()
    padded = [np.full((120, 120, 3), np.nan) for _ in pictures]
    for around, picture in zip(padded, pictures, strict=True):
        around[40 : 40 + picture.shape[0], 40 : 40 + picture.shape[1]] = picture
    crops = np.array([padded[n][y : y + 7, x : x + 7] for n in range(3) for y, x in at[n] + 40])
    there = ~np.isnan(crops).all(axis=(0, 3))
    assert there.any()
    np.testing.assert_allclose(sums[0].mean()[there], np.nanmean(crops, axis=0)[there])
    np.testing.assert_allclose(sums[0].std()[there], np.nanstd(crops, axis=0)[there], atol=1e-9)
    same = RunningMean.blank(7)
    same.add(pictures[0], np.repeat([[3, 4]], 9, axis=0))
    np.testing.assert_array_equal(same.mean(), pictures[0][3:10, 4:11])
    np.testing.assert_array_equal(same.std(), 0)


def test_what_no_square_shows_has_no_spread():
    none = RunningMean.blank(3)
    none.add(noise(9, 9, 3), np.array([[-2, 0], [-9, -9], [30, 2]]))
    assert none.count.tolist() == [[0] * 3, [0] * 3, [1] * 3]
    assert (none.mean()[:2] == MEAN_COLOUR).all()
    assert np.isnan(none.std()[:2]).all()


def test_contrast_stretches_all_colours_together():
    mean = np.array([[[10.0, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(contrast(mean), [[[0, 51, 102], [153, 204, 255]]])
    np.testing.assert_array_equal(contrast(np.full((2, 2, 3), 77.4)), 77)
    values = np.arange(10000.0).reshape(100, 100)[..., None].repeat(3, axis=2) / 100
    clipped = contrast(values, clip=1)
    assert (clipped == 0).mean() == pytest.approx(0.01, abs=0.003)
    assert (clipped == 255).mean() == pytest.approx(0.01, abs=0.003)


def test_the_radial_profile_of_a_cone_is_a_line():
    y, x = np.mgrid[-20:21, -20:21]
    profile = radial_profile(np.hypot(y, x)[..., None].repeat(3, axis=2))
    np.testing.assert_allclose(profile, np.arange(29), atol=0.51)
    np.testing.assert_allclose(radial_profile(np.rint(np.hypot(y, x))), np.arange(29))
    holed = np.rint(np.hypot(y, x))
    holed[20, 20] = np.nan
    np.testing.assert_allclose(radial_profile(holed), [np.nan, *range(1, 29)])


def test_the_ratio_of_centre_and_periphery():
    std = np.full((99, 99, 3), 50.0)
    std[16:-16, 16:-16] = 999
    std[41:57, 41:57] = 20  # the patch of the centre, 49 - 8 ... 49 + 7
    assert centre_ratio(std) == pytest.approx(0.4)
    assert np.isnan(centre_ratio(std[:40]))
    assert np.isnan(centre_ratio(np.zeros((99, 99))))


def test_bad_input_is_refused():
    picture, corner = noise(9, 9, 3), np.zeros((1, 2), int)
    for bad, message in [
        (lambda: rebuild((9, 9), corner, noise(1, 1, 5, 4, 3)), "patches must be"),
        (lambda: rebuild((9, 9), corner, noise(1, 1, 4, 4, 3), np.array([2])), "counts"),
        (lambda: uniform_rf(picture, corner, 4, 3, 1, [0]), "larger"),
        (lambda: error(picture, picture, np.ones((9, 8), bool)), "mask"),
        (lambda: RunningMean.blank(2).add(picture[..., 0], corner), "a picture must be"),
        (lambda: RunningMean.blank(2).add(np.zeros((2, 2, 3)), corner), "uint8"),
    ]:
        with pytest.raises(ValueError, match=message):
            bad()

"""Every definition of PCK on a table computed by hand, against plain loops, and its invariances."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from math import hypot, inf, isfinite, nan, trunc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcorr.algorithms import pck
from distcorr.algorithms.dialect_scores import Points, counts, curve, evaluate, measure
from distcorr.algorithms.dialects import DIALECTS, Dialect

ALPHAS = (0.1, 0.05, 0.2)
SEEDS = st.integers(0, 2**32 - 1)

# Photographs: p0 is 500 x 200 px, p1 200 x 200, p2 300 x 300; one instance in each.
# Boxes: i0 200 x 100, i1 100 x 60, both of category 0; i2 50 x 150 of category 1.
# category, image, instance, keypoint, true xy, predicted xy
ROWS = [
    (0, 0, 0, 0, (110, 60), (130, 60)),  # 20 to the right, exactly a tenth of 200
    (0, 0, 0, 1, (290, 140), (290, 155)),  # 15 below
    (0, 0, 0, 2, (200, 100), (nan, nan)),  # nothing predicted
    (0, 1, 1, 0, (30, 30), (30, 39)),  # 9 below
    (0, 1, 1, 1, (110, 70), (110, 70.5)),  # 0.5 below
    (1, 2, 2, 0, (25, 25), (25, 40.05)),  # 15.05 below
    (1, 2, 2, 1, (25, 130), (25, 130)),  # exact
]
BOXES = [(100, 50, 300, 150), (20, 20, 120, 80), (0, 0, 50, 150)]
SIZES = [(500, 200), (200, 200), (300, 300)]


def points(rows=ROWS, boxes=BOXES, sizes=SIZES, scale=False) -> Points:
    category, image, instance, keypoint = (np.array([r[i] for r in rows]) for i in range(4))
    true, predicted = (np.array([r[i] for r in rows], float).reshape(-1, 2) for i in (4, 5))
    box = np.array(boxes, float)[instance]
    known = {"scale": (box[:, 2:] - box[:, :2]).max(axis=1)} if scale else {"box": box}
    size = {} if scale else {"size": np.array(sizes, float)[image]}
    return Points(true, predicted, category, image, instance, keypoint, **known, **size)


def third(i0: Fraction | int, i1: Fraction | int, i2: Fraction | int) -> Fraction:
    return (Fraction(i0) + i1 + i2) / 3


HALF = Fraction(1, 2)
EXPECTED = {
    # Reach 20, 10, 15. Category 0: type 0 2/2, type 1 2/2, type 2 0/1; category 1: 0/1 and 1/1.
    "long2014": (Fraction(2, 3) + HALF) / 2,
    "vk": (Fraction(2, 3) + HALF) / 2,
    # The tie is wrong: category 0 has 1/2, 2/2, 0/1.
    "long2014-less": (HALF + HALF) / 2,
    # Reach 20.1, 10.1, 15.1: the 15.05 of category 1 is right as well.
    "long2014-plus1": (Fraction(2, 3) + 1) / 2,
    # Boxes stretched by (2.5, 5), (5, 8.33), (10, 3.33), reach 50: the errors are 50 (right), 75;
    # 75, 4.2; 50.2, 0. Category 0: 1/2, 1/2, 0/1; category 1: 0/1, 1/1.
    "long2014-500": (Fraction(1, 3) + HALF) / 2,
    # As long2014, by instance: 2/3, 2/2, 1/2.
    "hpf": third(Fraction(2, 3), 1, HALF),
    "dift-image": third(Fraction(2, 3), 1, HALF),
    "dift-point": Fraction(5, 7),
    # Reach 50, 20, 30: all but the missing one.
    "hpf-photo": third(Fraction(2, 3), 1, 1),
    # Stretched by (0.48, 1.2), (1.2, 1.2), (0.8, 0.8). Boxes 96 x 120, 120 x 72, 40 x 120: reach
    # 12 each. Errors 9.6, 18; 10.8, 0.6; 12.04, 0.
    "dhpf": third(Fraction(1, 3), 1, HALF),
    "cats": third(Fraction(1, 3), 1, HALF),
    "unified-point": Fraction(4, 7),
    # As hpf, but the tie is wrong.
    "geoaware-image": third(Fraction(1, 3), 1, HALF),
    "geoaware-point": Fraction(4, 7),
    # Resized by 1.6, 4, 2.67: reach 32, 40, 40. Errors 32 (not below), 24; 36, 2; the annotation
    # (66.7, 66.7) is cut to (66, 66): hypot(0.67, 40.8) = 40.8; hypot(0.67, 0.67). Points right:
    # 3/5, 1/2.
    "probe3d": (Fraction(3, 5) + HALF) / 2,
    # Stretched by (0.448, 1.12), (1.12, 1.12), (0.75, 0.75), reach 22.4: errors 9.0, 16.8; 10.1,
    # 0.56; 11.2, 0.
    "scnet": third(Fraction(2, 3), 1, 1),
    # Extents 180 x 80, 80 x 40, 0 x 105: reach 18, 8, 10.5. Errors 20, 15; 9, 0.5; 15.05, 0.
    "pf": third(Fraction(1, 3), HALF, HALF),
    # As geoaware, types of both categories together: 1/3, 3/3, 0/1.
    "mmpose": third(Fraction(1, 3), 1, 0),
    # As dhpf's frame. The largest coordinates are 168, 132, 104, and 1 more to the padding: reach
    # 16.9, 13.3, 10.5. Errors 9.6, 18; 10.8, 0.6; 12.04, 0. Without padding i1 has 9.6: 1/2.
    "willow-padded": third(Fraction(1, 3), 1, HALF),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_by_hand(name: str) -> None:
    found = curve(points(), DIALECTS[name], [0.1])
    assert found == pytest.approx([float(EXPECTED[name])], abs=1e-9)


def test_every_definition_says_where_it_comes_from() -> None:
    for dialect in DIALECTS.values():
        assert "code" in dialect.source or "Long, Zhang & Darrell 2014" in dialect.source
        assert dialect.alphas
        assert dialect.definition.startswith("<")
    assert [d.name for d in DIALECTS.values() if d.error] == ["willow-padded"]


def test_dialects_of_equal_rules_score_alike_and_others_do_not() -> None:
    """Over random points: as many different results as there are rules."""
    every = list(DIALECTS.values())
    found = evaluate({"": drawn(3, 80)}, every, (0.1, 0.2, 0.3, 0.4, 0.5), resamples=0)
    rules: dict[Dialect, set[tuple[float, ...]]] = {}
    for dialect in every:
        values = tuple(np.round(found["", dialect.name].value, 9).tolist())
        rules.setdefault(dialect.rule, set()).add(values)
    assert all(len(values) == 1 for values in rules.values())
    right = [d for d in every if not d.error]
    assert (len(right), len({d.rule for d in right})) == (18, 15)
    assert [d.name for d in every if not d.published] == ["long2014-plus1", "long2014-500"]
    assert "Yang & Ramanan 2013" in DIALECTS["vk"].source
    # What a side changes: whole px, and a padding of 1 px.
    for name in ("probe3d", "willow-padded"):
        assert replace(DIALECTS[name], side=100).rule != DIALECTS[name].rule


# -- against plain loops -----------------------------------------------------------------------


def drawn(seed: int, n: int = 60) -> Points:
    """Random points of 3 categories; instances of several rows, two of them in some photographs."""
    rng = np.random.default_rng(seed)
    instances = 14
    category_of = rng.integers(0, 3, instances)
    image_of = 10 * category_of + rng.integers(0, 3, instances)
    corner, side = rng.uniform(0, 80, (instances, 2)), rng.uniform(30, 200, (instances, 2))
    size_of = rng.integers(100, 500, (40, 2)).astype(float)
    key = rng.choice(instances * 6, n, replace=False)
    instance, keypoint = np.divmod(key, 6)
    box = np.hstack([corner, corner + side])[instance]
    true = box[:, :2] + rng.random((n, 2)) * (box[:, 2:] - box[:, :2])
    predicted = true + rng.exponential(12, (n, 2)) * rng.choice([-1, 1], (n, 2))
    predicted[(rng.random(n) < 0.1) | (np.arange(n) == 0)] = nan
    predicted[rng.random(n) < 0.05, 0] = inf
    image, category = image_of[instance], category_of[instance]
    return Points(
        true, predicted, category, image, instance, keypoint, box=box, size=size_of[image]
    )


def is_right(p: Points, i: int, d: Dialect, alpha: float) -> bool:
    (x, y), (px, py) = p.true[i].tolist(), p.predicted[i].tolist()
    x0, y0, x1, y1 = p.box[i].tolist()
    w, h = p.size[i].tolist()
    columns, lines = x1 - x0 + d.plus_one, y1 - y0 + d.plus_one
    fx, fy = {
        "photo": (1, 1),
        "stretched": (d.side / w, d.side / h),
        "longest": (d.side / max(w, h),) * 2,
        "square": (d.side / columns, d.side / lines),
    }[d.frame]
    if not (isfinite(px) and isfinite(py)):
        return False
    cut = trunc if d.whole else float
    gap = hypot(px * fx - cut(x * fx), py * fy - cut(y * fy))
    mine = [j for j in range(len(p.true)) if p.instance[j] == p.instance[i]]
    xs, ys = ([p.true[j][a] * f for j in mine] for a, f in ((0, fx), (1, fy)))
    if d.padded:
        xs, ys = [*xs, -1], [*ys, -1]
    reach = {
        "box": max(columns * fx, lines * fy),
        "photo": max(w * fx, h * fy),
        "extent": max(max(xs) - min(xs), max(ys) - min(ys)),
        "side": d.side,
    }[d.threshold]
    return gap <= alpha * reach if d.inclusive else gap < alpha * reach


def by_loops(p: Points, d: Dialect, alpha: float, times: dict[int, int] | None = None) -> float:
    """PCK where each photograph counts ``times`` (once, if not given)."""
    of_group: dict[tuple, list] = defaultdict(list)
    for i in range(len(p.true)):
        label = {"type": p.keypoint[i], "point": 0, "image": p.instance[i]}[d.averaging]
        right = is_right(p, i, d, alpha)
        weight = 1 if times is None else times.get(int(p.image[i]), 0)
        category = 0 if d.pooled else int(p.category[i])
        of_group[category, int(label)].append((right, weight))
    shares: dict[int, list] = defaultdict(list)
    for (category, _), found in of_group.items():
        total = sum(weight for _, weight in found)
        if total and d.averaging == "image":  # an instance lies in one photograph
            share = sum(right for right, _ in found) / len(found)
            shares[category] += [share] * found[0][1]
        elif total:
            shares[category].append(sum(right * weight for right, weight in found) / total)
    return float(np.mean([np.mean(each) for each in shares.values()]))


@pytest.mark.parametrize("name", DIALECTS)
def test_plain_loops_say_the_same(name: str) -> None:
    for seed in range(3):
        found = curve(drawn(seed), DIALECTS[name], ALPHAS)
        wanted = [by_loops(drawn(seed), DIALECTS[name], alpha) for alpha in ALPHAS]
        assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["long2014", "dift-point", "dhpf", "probe3d", "mmpose"])
def test_samples_are_the_plain_loop_with_the_same_photographs(name: str) -> None:
    p, dialect, resamples = drawn(5), DIALECTS[name], 120  # more than are drawn at once
    found = evaluate({"m": p}, [dialect], [0.1], resamples=resamples, seed=17)["m", name]
    times: list[dict[int, int]] = [{} for _ in range(resamples)]
    for c, category in enumerate(np.unique(p.category)):
        images = np.unique(p.image[p.category == category])
        share = np.full(len(images), 1 / len(images))
        draws = np.random.default_rng([17, c]).multinomial(len(images), share, size=resamples)
        for each, draw in zip(times, draws, strict=True):
            each.update(zip(images.tolist(), draw.tolist(), strict=True))
    wanted = [by_loops(p, dialect, 0.1, each) for each in times]
    assert found.samples[0] == pytest.approx(wanted, abs=1e-9)


def test_long2014_is_pck() -> None:
    p, everything = drawn(8), slice(None)
    found = evaluate({"m": p}, [DIALECTS["long2014"]], ALPHAS, resamples=150, seed=3)
    values, samples = [], []
    for c, category in enumerate(np.unique(p.category)):
        part = p.take(p.category == category)
        _, image = np.unique(part.image, return_inverse=True)
        distance = np.hypot(*(part.predicted - part.true).T)
        distance = np.where(np.isnan(distance), inf, distance)
        scale = (part.box[everything, 2:] - part.box[everything, :2]).max(axis=1)
        table = pck.counts(distance, scale, part.keypoint, image, ALPHAS, 6)
        values.append(pck.pck(*table))
        samples.append(pck.bootstrap(*table, resamples=150, seed=[3, c]))
    np.testing.assert_array_equal(found["m", "long2014"].value, np.mean(values, axis=0))
    np.testing.assert_array_equal(found["m", "long2014"].samples, np.mean(samples, axis=0))


# -- properties --------------------------------------------------------------------------------


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_monotone_in_alpha(seed: int) -> None:
    alphas = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 1e9]
    for dialect in DIALECTS.values():
        found = curve(drawn(seed), dialect, alphas)
        assert (np.diff(found) >= 0).all()
        assert found[-1] < 1  # what is missing is never right


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_less_differs_from_less_or_equal_on_ties_alone(seed: int) -> None:
    p = drawn(seed)
    whole = replace(p, true=np.rint(p.true), predicted=np.rint(p.predicted), box=np.rint(p.box))
    for points_, may_tie in ((p, False), (whole, True)):
        dialect = DIALECTS["dift-point"]
        distance, reach = measure(points_, dialect)
        ties = int((distance == 0.1 * reach).sum())
        both = [curve(points_, replace(dialect, inclusive=i), [0.1])[0] for i in (True, False)]
        assert round((both[0] - both[1]) * len(p.true)) == ties
        assert may_tie or not ties


@given(SEEDS, st.floats(3, 3000))
@settings(max_examples=15, deadline=None)
def test_a_resized_photograph_is_no_other_definition(seed: int, side: float) -> None:
    p = drawn(seed)
    for threshold in ("box", "photo", "extent"):
        plain = Dialect("plain", "image", True, threshold)
        resized = replace(plain, frame="longest", side=side)
        np.testing.assert_array_equal(curve(p, plain, ALPHAS), curve(p, resized, ALPHAS))
    for name in ("dhpf", "scnet"):  # nor is a square of another side
        stretched = replace(DIALECTS[name], side=side)
        np.testing.assert_array_equal(curve(p, DIALECTS[name], ALPHAS), curve(p, stretched, ALPHAS))


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_neither_the_order_of_rows_nor_the_numbers_of_instances_matter(seed: int) -> None:
    p = drawn(seed)
    shuffle = np.random.default_rng(seed).permutation(len(p.true))
    renumbered = replace(p, instance=1000 - 7 * p.instance)
    wanted = evaluate({"m": p}, list(DIALECTS.values()), resamples=20)
    for other in (p.take(shuffle), renumbered):
        found = evaluate({"m": other}, list(DIALECTS.values()), resamples=20)
        for key, score in wanted.items():
            np.testing.assert_array_equal(found[key].value, score.value)
            np.testing.assert_array_equal(found[key].samples, score.samples)


def test_methods_and_definitions_are_drawn_the_same_photographs() -> None:
    p = drawn(4)
    pair = [DIALECTS["long2014"], DIALECTS["vk"]]
    found = evaluate({"one": p, "other": p}, pair, [0.1], resamples=30)
    alone = evaluate({"one": p}, pair[:1], [0.1], resamples=30)["one", "long2014"]
    for score in found.values():
        np.testing.assert_array_equal(score.samples, alone.samples)
        assert score.n == len(p.true)


def test_a_method_without_a_category_is_averaged_over_its_own() -> None:
    p = points()
    part = p.take(p.category == 0)
    found = evaluate({"all": p, "part": part}, [DIALECTS["long2014"]], [0.1], resamples=5)
    assert found["part", "long2014"].value == pytest.approx([2 / 3])
    assert found["all", "long2014"].value == pytest.approx([7 / 12])
    none = evaluate({"all": p, "none": p.take(p.category == 9)}, [DIALECTS["dhpf"]], resamples=5)
    assert np.isnan(none["none", "dhpf"].value).all()


def test_annotations_in_whole_px() -> None:
    # 10.6 px are cut to 10: an error of 0.4 becomes 1, which the reach of 0.5 px does not allow.
    p = Points(
        *(np.array([[10.6, 5.0]]), np.array([[11.0, 5.0]])),
        *(np.zeros(1, int),) * 4,
        scale=np.array([5.0]),
        size=np.array([[800.0, 600.0]]),
    )
    cut = DIALECTS["probe3d"]
    assert curve(p, cut, [0.1])[0] == 0
    assert curve(p, replace(cut, whole=False), [0.1])[0] == 1


# -- the padding error -------------------------------------------------------------------------


def test_padding_that_is_counted_inflates_pck() -> None:
    """Absent keypoints, filled with -1 and compared with predictions that are filled likewise."""
    p = drawn(2)
    distance, reach = measure(p, DIALECTS["dift-point"])
    honest = (distance <= 0.1 * reach).mean()
    pads = 40
    true, predicted = (np.vstack([xy, np.full((pads, 2), -1.0)]) for xy in (p.true, p.predicted))
    gap = np.hypot(*(true - predicted).T)
    inflated = (gap <= 0.1 * np.r_[reach, np.full(pads, reach.mean())]).mean()
    assert inflated > honest + 0.1
    assert curve(p, DIALECTS["dift-point"], [0.1])[0] == pytest.approx(honest)
    with pytest.raises(ValueError, match="true must be finite, got 1 of 7 rows"):
        points([*ROWS[:-1], (*ROWS[-1][:4], (nan, 25), (25, 25))])


@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_padding_that_stretches_the_extent_inflates_pck(seed: int) -> None:
    p, wrong = drawn(seed), DIALECTS["willow-padded"]
    mended = replace(wrong, padded=False)
    assert (measure(p, wrong)[1] > measure(p, mended)[1]).all()
    assert (curve(p, wrong, ALPHAS) >= curve(p, mended, ALPHAS)).all()


# -- what does not fit -------------------------------------------------------------------------


def test_what_a_definition_needs() -> None:
    needs = {name: set(d.needs) for name, d in DIALECTS.items()}
    assert needs["long2014"] == needs["geoaware-point"] == {"scale"}
    assert needs["long2014-500"] == {"box"}
    assert needs["dhpf"] == {"box", "size"}
    assert needs["probe3d"] == {"scale", "size"}
    assert needs["scnet"] == needs["hpf-photo"] == {"size"}
    assert needs["pf"] == set()
    scaled = points(scale=True)
    assert curve(scaled, DIALECTS["long2014"], [0.1])[0] == pytest.approx(7 / 12)
    assert curve(scaled, DIALECTS["long2014-plus1"], [0.1])[0] == pytest.approx(5 / 6)
    for name, words in (("dhpf", "box, size"), ("scnet", "size"), ("long2014-500", "box")):
        with pytest.raises(ValueError, match=f"{name} needs {words}"):
            curve(scaled, DIALECTS[name], [0.1])


def test_bad_points_and_definitions_are_refused() -> None:
    p = points()
    with pytest.raises(ValueError, match=r"keypoint must be \(7,\)"):
        replace(p, keypoint=p.keypoint[:3])
    with pytest.raises(ValueError, match="box must have finite lengths"):
        replace(p, box=p.box[:, [2, 1, 0, 3]])
    with pytest.raises(ValueError, match="scale must have finite lengths"):
        replace(p, scale=np.zeros(7))
    with pytest.raises(ValueError, match="alphas"):
        curve(p, DIALECTS["long2014"], [-1])
    with pytest.raises(ValueError, match="needs a side above 0"):
        Dialect("x", "point", True, frame="stretched")
    with pytest.raises(ValueError, match="only an extent"):
        Dialect("x", "point", True, padded=True)


def test_shares_of_instances_are_counted_in_whole_units() -> None:
    correct, total = counts(points(), DIALECTS["hpf"], [0.1], np.arange(3), np.arange(3))
    assert correct.dtype == total.dtype == np.int64
    assert correct[0, :, 0] / total[:, 0] == pytest.approx([2 / 3, 1, 1 / 2], abs=1e-9)

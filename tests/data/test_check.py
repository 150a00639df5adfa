import numpy as np

from distcorr.data.check import check
from distcorr.types import Box, Dataset, Instance

TYPES = ("eye", "tail")
BOX = Box(0, 0, 99, 49)


def instance(name, split="train", image=None, box=BOX, points=((5, 5), (90, 40))):
    xy = np.array([p or (np.nan, np.nan) for p in points], np.float32)
    shown = np.array([p is not None for p in points])
    return Instance(name, image or f"{name}.jpg", "bird", split, box, xy, shown)


def found(*instances, names=None):
    return check(Dataset("toy", "/", instances, {"bird": TYPES} if names is None else names))


def test_a_good_data_set_has_nothing_to_say():
    assert found(instance("a"), instance("b", "val")) == []


def only(sentences, *words):
    assert len(sentences) == 1, sentences
    for word in words:
        assert word in sentences[0]


def test_duplicate_ids():
    a = instance("a", box=Box(0, 0, 98, 49))
    only(found(a, instance("a"), instance("b", "val")), "1 instance ids", "more than once: a")


def test_duplicate_boxes():
    twins = instance("a", image="x.jpg"), instance("b", image="x.jpg")
    only(found(*twins, instance("c", "val")), "bird: 1 boxes", "a = b")


def test_empty_boxes():
    for box in (Box(5, 5, 4, 9), Box(5, 5, 5, 5), Box(0, 0, float("nan"), 9)):
        sentences = found(instance("a"), instance("b", box=box), instance("c", "val"))
        assert "bird: 1 boxes are empty: b" in sentences


def test_far_keypoints():
    near = instance("a", points=((-49, 5), (90, 40)))
    assert found(near, instance("b", "val")) == []
    far = instance("a", points=((-51, 5), None))
    sentences = found(far, instance("b", "val", points=((1, 1), None)))
    only(sentences, "bird: 1 keypoints", "a eye")


def test_a_split_is_missing():
    only(found(instance("a")), "bird", "no validation example", "1 of the other split")
    only(found(instance("a", "val")), "bird", "no training example")
    sentences = found(instance("a"), instance("b", "val"), names={"bird": TYPES, "cow": TYPES})
    assert len(sentences) == 2
    assert all("cow" in sentence for sentence in sentences)


def test_a_type_never_trained():
    blind = instance("a", points=((5, 5), None))
    only(found(blind, instance("b", "val")), "bird: 1 keypoint types", "count as wrong: tail")


def test_a_photograph_in_both_splits():
    box = Box(1, 0, 99, 49)
    sentences = found(instance("a", image="x.jpg"), instance("b", "val", image="x.jpg", box=box))
    only(sentences, "1 photographs", "x.jpg")


def test_only_the_first_names_are_listed():
    many = [instance(f"a{i}", box=Box(9, 9, 8, 8), points=((9, 9), (9, 9))) for i in range(9)]
    good = instance("z"), instance("v", "val")
    sentence = next(s for s in found(*many, *good) if "empty" in s)
    assert sentence.endswith("9 boxes are empty: a0, a1, a2, ...")

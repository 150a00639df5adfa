"""Definitions of PCK, the percentage of correct keypoints, as data: published, and two variants.

All ask whether a prediction lies within alpha times a length of the annotation; they differ in the
length, in the frame that both are measured in, in ``<`` or ``<=``, and in what is averaged. Each is
a `Dialect`; `dialect_scores` scores by them.

Their ``source`` says what a definition rests on: "code" was read in the public evaluation code,
"recalled" was not. Those codes compute in float32 and on whole padded images; here it is float64,
so only exact ties can fall differently. Common to all: a missing prediction counts as wrong, and
keypoints that are not annotated are not there at all (a row whose truth is not finite is refused).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Averaging = Literal["type", "point", "image"]
Threshold = Literal["box", "photo", "extent", "side"]
Frame = Literal["photo", "stretched", "longest", "square"]


@dataclass(frozen=True)
class Dialect:
    """One definition of PCK.

    A frame that is resized without changing the aspect ratio scales distance and threshold alike,
    so it is no other definition; and of the photograph stretched to a square, any side is the same.

    Attributes:
        name: for tables.
        averaging: "type": correct / total of each keypoint type, then the plain mean over types;
            "point": correct / total of all; "image": the share of each instance (of each pair,
            where an instance is one), then the plain mean over instances.
        pooled: over all categories together; else of each category, then the plain mean.
        threshold: what alpha multiplies: max(h, w) of the box, max(h, w) of the photograph, the
            larger extent of the instance's annotated keypoints, or ``side`` px.
        frame: where distance and threshold are measured: the photograph as it is; "stretched" to
            ``side`` x ``side`` px; its longest side resized to ``side`` px; or the box stretched to
            a "square" of ``side`` px.
        side: px.
        inclusive: correct iff distance <= threshold, else iff <.
        plus_one: a box has xmax - xmin + 1 columns, as VOC counts, else xmax - xmin.
        whole: annotations are cut to whole px of the frame.
        padded: the extent counts a padding of -1 px, which makes thresholds too large.
        alphas: that are usually reported, the first most often.
        source: where it comes from and how surely.
        published: False for a variant that is scored beside the others to see what it changes.
        error: what is known to be wrong with it, "" if nothing is.
    """

    name: str
    averaging: Averaging
    pooled: bool
    threshold: Threshold = "box"
    frame: Frame = "photo"
    side: float = 0
    inclusive: bool = True
    plus_one: bool = False
    whole: bool = False
    padded: bool = False
    alphas: tuple[float, ...] = (0.1,)
    source: str = ""
    published: bool = True
    error: str = ""

    def __post_init__(self) -> None:
        if (self.frame != "photo" or self.threshold == "side") and not self.side > 0:
            raise ValueError(f"{self.name} needs a side above 0 px, got {self.side}")
        if self.padded and self.threshold != "extent":
            raise ValueError(f"{self.name}: only an extent counts a padding")

    @property
    def needs(self) -> frozenset[str]:
        """What points must have: "scale" (a box will do), "box", "size"; truth they always have."""
        found = {"scale"} if self.threshold == "box" else set()
        if self.frame == "square" or (self.frame == "stretched" and found):
            found = {"box"}
        if self.frame in ("stretched", "longest") or self.threshold == "photo":
            found.add("size")
        return frozenset(found)

    @property
    def rule(self) -> Dialect:
        """What of it decides a score: dialects of equal rules always score alike."""
        any_side = self.frame != "photo" and not (self.whole or self.padded)
        side = 1.0 if any_side else self.side
        return replace(self, name="", side=side, alphas=(), source="", published=True, error="")

    @property
    def definition(self) -> str:
        """In words."""
        frame = {
            "photo": "px of the photograph",
            "stretched": f"photograph stretched to {self.side:g} x {self.side:g} px",
            "longest": f"longest side resized to {self.side:g} px",
            "square": f"box stretched to {self.side:g} x {self.side:g} px",
        }[self.frame]
        length = {
            "box": "max(h, w) of the box" + (" + 1" if self.plus_one else ""),
            "photo": "max(h, w) of the photograph",
            "extent": "extent of the keypoints" + (" and of -1 px" if self.padded else ""),
            "side": f"{self.side:g} px",
        }[self.threshold]
        over = {"type": "mean over keypoint types", "point": "per point", "image": "per image"}
        pooled = "all categories together" if self.pooled else "mean over categories"
        sign = "<=" if self.inclusive else "<"
        cut = ", annotations in whole px" if self.whole else ""
        return f"{sign} alpha * {length}; {frame}{cut}; {over[self.averaging]}, {pooled}"


_STRETCHED = "a square of any other side is the same definition"
_LONG = Dialect(
    "long2014",
    averaging="type",
    pooled=False,
    alphas=(0.1, 0.05, 0.025),
    source="Long, Zhang & Darrell 2014, section 3 ('within'), and how their predictions were scored"
    " since; Table 2 of a run",
)
_DHPF = Dialect(
    "dhpf",
    averaging="image",
    pooled=True,
    frame="stretched",
    side=240,
    source=f"DHPF (Min et al. 2020), code, SPair-71k; {_STRETCHED}",
)
_DIFT = Dialect(
    "dift-image",
    averaging="image",
    pooled=True,
    source="DIFT (Tang et al. 2023), code, SPair-71k: 'All per image'",
)
_GEOAWARE = Dialect(
    "geoaware-image",
    averaging="image",
    pooled=True,
    inclusive=False,
    alphas=(0.1, 0.05, 0.01),
    source="GeoAware-SC (Zhang et al. 2024), code: per image, categories weighted by their pairs;"
    " the longest side is resized to 840 px, which cancels",
)
_PF = Dialect(
    "pf",
    averaging="image",
    pooled=True,
    threshold="extent",
    source="Proposal Flow as NCNet (Rocco et al. 2018) evaluates it, code: procedure 'pf'",
)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        _LONG,
        replace(
            _LONG,
            name="vk",
            alphas=(0.1,),
            source="Tulsiani & Malik 2015, 'Viewpoints and Keypoints', code, which scored the"
            " authors' own predictions: max(h, w) of the box, as Yang & Ramanan 2013's followers"
            " have it; the same definition as long2014",
        ),
        replace(
            _LONG,
            name="long2014-less",
            inclusive=False,
            source="Long, Zhang & Darrell 2014, section 5 by its words: 'less than'",
        ),
        replace(
            _LONG,
            name="long2014-plus1",
            plus_one=True,
            published=False,
            source="Long, Zhang & Darrell 2014, h and w counted as VOC's devkit counts them; not in"
            " the paper",
        ),
        replace(
            _LONG,
            name="long2014-500",
            frame="square",
            threshold="side",
            side=500,
            published=False,
            source="Long, Zhang & Darrell 2014, section 5: in the 500 px boxes that keypoints were"
            " predicted in, without + 1, as Viewpoints and Keypoints maps back from them (crops of"
            " distcorr have + 1 columns); a variant, not what was scored",
        ),
        replace(
            _DIFT,
            name="hpf",
            source="HPF (Min et al. 2019), code, SPair-71k; longest sides above 300 px are resized"
            " to 300 px, which cancels",
        ),
        replace(
            _DIFT,
            name="hpf-photo",
            threshold="photo",
            source="HPF (Min et al. 2019), code, PF-PASCAL: threshold 'img'",
        ),
        _DHPF,
        replace(
            _DHPF,
            name="cats",
            side=256,
            source=f"CATs (Cho et al. 2021), code; that shares are averaged over all pairs is"
            f" recalled; {_STRETCHED}, so it is dhpf's",
        ),
        _DIFT,
        replace(
            _DIFT,
            name="dift-point",
            averaging="point",
            source="DIFT (Tang et al. 2023), code, SPair-71k: 'All per point'",
        ),
        _GEOAWARE,
        replace(
            _GEOAWARE,
            name="geoaware-point",
            averaging="point",
            source="GeoAware-SC (Zhang et al. 2024), code: option KPT_RESULT, as SD+DINO before it",
        ),
        Dialect(
            "probe3d",
            averaging="point",
            pooled=False,
            frame="longest",
            side=800,
            inclusive=False,
            whole=True,
            source="Probe3D (El Banani et al. 2024), code: recall on SPair-71k, whole photographs;"
            " it scores 200 drawn pairs of each category, here all that are given",
        ),
        Dialect(
            "scnet",
            averaging="image",
            pooled=True,
            threshold="side",
            frame="stretched",
            side=224,
            source="SCNet's procedure as NCNet (Rocco et al. 2018) evaluates it, code, PF-PASCAL:"
            f" 'scnet'; {_STRETCHED}, so DHPF and CATs have it there",
        ),
        _PF,
        replace(
            _DHPF,
            name="unified-point",
            averaging="point",
            side=840,
            source="unified benchmark of the survey by Visual-AI (2025), code: by 'point'; by"
            f" 'image' it is dhpf's; {_STRETCHED}",
        ),
        Dialect(
            "mmpose",
            averaging="type",
            pooled=True,
            inclusive=False,
            alphas=(0.05, 0.1, 0.2),
            source="MMPose's PCKAccuracy by 'bbox', code; one set of keypoint types for all",
        ),
        replace(
            _PF,
            name="willow-padded",
            frame="stretched",
            side=240,
            padded=True,
            source="DHPF and CATs (256 px) on PF-WILLOW, code, as published",
            error="absent keypoints, filled with -1, count in the extent: thresholds too large",
        ),
    )
}

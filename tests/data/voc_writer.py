"""Writes small data sets in the layout of VOC 2011 and Berkeley, file by file."""

from pathlib import Path

from PIL import Image

from distcorr.data import voc

BASE = "VOCdevkit/VOC2011"


class Voc:
    def __init__(self, root: Path, base: str = BASE, annotations: str = "annotations") -> None:
        self.root, self.base, self.annotations = root, root / base, root / annotations
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self.base / part).mkdir(parents=True)
        self.annotations.mkdir(parents=True, exist_ok=True)
        self.lists("train.txt")
        self.lists("val.txt")

    def lists(self, name, *rows):
        text = "".join(f"{row}\n" for row in rows)
        (self.base / "ImageSets/Main" / name).write_text(text)

    def photo(self, name, *objects, size=(200, 100), declared=True, pixels=True):
        """objects: (category, (xmin, ymin, xmax, ymax)[, difficult])."""
        if pixels:
            Image.new("RGB", size).save(self.base / f"JPEGImages/{name}.jpg")
        text = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" * declared
        for category, box, *difficult in objects:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            text += f"<object><name>{category}</name><difficult>{int(bool(difficult))}</difficult>"
            text += f"<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in sides)}</bndbox></object>"
        (self.base / f"Annotations/{name}.xml").write_text(f"<annotation>{text}</annotation>")

    def keypoints(self, file, category, bounds, points, voc_id=None):
        """points: name -> (x, y[, visible]), 1-based."""
        x0, y0, x1, y1 = bounds
        rows = "".join(
            f'<keypoint name="{name}" visible="{visible[0] if visible else 1}" x="{x}" y="{y}"/>'
            for name, (x, y, *visible) in points.items()
        )
        number = "" if voc_id is None else f"<voc_id>{voc_id}</voc_id>"
        (self.annotations / category).mkdir(exist_ok=True)
        (self.annotations / category / f"{file}.xml").write_text(
            f"<annotation><image>{file.rsplit('_', 1)[0]}</image>{number}"
            f"<category>{category}</category>"
            f'<visible_bounds xmin="{x0}" ymin="{y0}" width="{x1 - x0}" height="{y1 - y0}"/>'
            f"<keypoints>{rows}</keypoints></annotation>"
        )

    def load(self, *categories, limit=0):
        return voc.load(str(self.root), categories, limit)


def good(made, name="2011_000001", category="bird", split="train.txt"):
    """A photograph with one instance that nothing is wrong with."""
    made.lists(split, name)
    made.photo(name, (category, (11, 21, 60, 90)))
    made.keypoints(f"{name}_1", category, (11, 21, 60, 90), {"Left_Eye": (30, 40)})

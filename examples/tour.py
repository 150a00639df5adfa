"""A tour of the Python interface: what a finished run holds, and its steps one by one.

    make demo                               # leaves runs/smoke
    .venv/bin/python examples/tour.py       # or: tour.py RUN PICTURE

Flow, the seventh of the names, is the type of what ``align`` returns.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.compute as pc
from PIL import Image

from distcorr import Flow, align, extract, load_instances, open_run, pck, transfer

folder, picture = [*sys.argv[1:], *("runs/smoke", "tour.png")[len(sys.argv) - 1 :]]

# What the run found: Table 2, counted anew from its predictions.
run = open_run(folder)
found = run.table("predictions")
for method in pc.unique(found["method"]).to_pylist():
    rows = found.filter(pc.field("method") == method)
    guess, true = (np.stack([rows[x], rows[y]], 1) for x, y in (("x", "y"), ("true_x", "true_y")))
    kinds = {"keypoint": rows["keypoint"].to_pylist(), "category": rows["category"].to_pylist()}
    print(f"PCK@0.1 of {method}: {100 * pck(guess, true, rows['scale'], **kinds):.2f}")

# One aligned pair again: a target, and the neighbour that needs the least deformation.
pair = run.table("transfer").sort_by("deformation_energy").slice(0, 1).to_pylist()[0]
instances = {instance.id: instance for instance in run.instances}
test, neighbour = instances[pair["target"]], instances[pair["neighbor"]]
layer = pair["method"].removesuffix(" flow").replace("SIFT", "sift20")
grids, geometry = run.features(layer, [test.id, neighbour.id])
flow: Flow = align(*grids, beta=run.config.flow.beta)
print(f"{test.id} <- {neighbour.id} by {layer}, {geometry.cells} x {geometry.cells} cells")
print(f"deformation: {flow.deformation_energy:g}, saved {pair['deformation_energy']:g} cells^2")

# The neighbour's keypoints, px of its photograph, are carried to the target, px of that one.
boxes = {"source_box": test.box, "target_box": neighbour.box}
carried = transfer(neighbour.keypoints, flow, geometry, **boxes)
print(f"furthest from the saved: {np.nanmax(abs(carried.ravel() - pair['carried'])):g} px")

# The same from photographs that no run has seen; SIFT lies where the network's cells do.
data = load_instances(categories=[test.category], limit=2)
one, other = data.instances[:2]
files, both = [f"{data.root}/{i.image}" for i in (one, other)], [one.box, other.box]
deep, cells = extract(files, boxes=both)
sift, _ = extract(files, "sift20", boxes=both, cells=cells)
for name, features in (("network", deep), ("SIFT", sift)):
    flow = align(*features)
    back = transfer(other.keypoints, flow, cells, source_box=one.box, target_box=other.box)
    share = pck(back[None], one.keypoints[None], one.box.max_side)
    print(f"drawn {test.category} by {name}, PCK@0.1 of one neighbour: {100 * share:.2f}")

# Both boxes as features see them, and every keypoint of the neighbour where it was carried.
figure, axes = plt.subplots(1, 2, figsize=(9, 4.8), layout="constrained")
for axis, instance, points in ((axes[0], test, carried), (axes[1], neighbour, neighbour.keypoints)):
    axis.imshow(Image.open(f"{run.root}/{instance.image}"), aspect="auto")
    axis.set(xlim=instance.box[::2], ylim=instance.box[::-2], xticks=[], yticks=[], box_aspect=1)
    axis.scatter(*points.T, c=np.arange(len(points)), cmap="tab20", s=60, ec="w", clip_on=False)
axes[0].scatter(*test.keypoints.T, s=170, facecolors="none", edgecolors="k", clip_on=False)
axes[0].set_title(f"{test.id}: carried, and true (circles)")
axes[1].set_title(f"{neighbour.id}: annotated")
figure.savefig(picture, dpi=100)
print(f"picture: {picture}")

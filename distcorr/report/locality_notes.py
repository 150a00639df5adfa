"""What must be said beside the numbers of section 2, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from distcorr.data.run import DeadLetter
from distcorr.data.visualized import NEIGHBOURS, Average, Base, Visualized

_SPLITS = {"train": "training photographs", "all": "photographs of both splits"}


class Based(Protocol):
    """What has data bases, and perhaps the recall of an approximate search in them."""

    bases: dict[str, Base]
    recall: dict[str, dict[int, float]]


def base(visualized: Based, asked: Mapping[str, Any]) -> str:
    """What neighbours are looked for in and how, for captions: no capital, no dot at its end."""
    bases = visualized.bases
    cells = same({layer: f"{each.cells:,}" for layer, each in bases.items()})
    photographs = same({layer: f"{each.photographs:,}" for layer, each in bases.items()})
    mirrored = " and of their MIRROR IMAGES (not in the paper)" if asked["mirrored"] else ""
    search = "exact search"
    if asked["search"] != "exact":
        recall = {
            layer: " and ".join(f"{share:.3f} at k = {k}" for k, share in of_layer.items())
            for layer, of_layer in visualized.recall.items()
        }
        measured = f"recall {same(recall)}" if recall else "recall not measured"
        search = f"approximate search ({asked['search']}, {asked['probes']} probes; {measured})"
    found = f"{cells} cells of {photographs} {_SPLITS[asked['base']]}{mirrored}"
    return f"{found}, by cosine, {search}"


def same(values: Mapping[str, object]) -> str:
    """A value of every layer: said once if all have it, else with their names."""
    if len(set(values.values())) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{value} ({layer})" for layer, value in values.items())


def notes(
    visualized: Visualized,
    asked: Mapping[str, Any],
    letters: Sequence[DeadLetter],
    averages: Sequence[Average],
) -> list[str]:
    """What the numbers rest on, and what they are without.

    Args:
        visualized: what the stage left.
        asked: its settings.
        letters: what it had to leave out.
        averages: all of Figure 2.
    """
    if not visualized.bases:
        return visualized.notes
    rebuilt = len(visualized.images)
    seeds = len({each.place for each in averages})
    found = [
        f"Figures 1 and 2: neighbours among {base(visualized, asked)}; photographs rebuilt: "
        f"{rebuilt}; random cells whose neighbours' fields are averaged: {seeds} per layer."
    ]
    if zeros := _counted({layer: each.zeros for layer, each in visualized.bases.items()}):
        found.append(f"Cells that are no one's neighbour, their feature being zero: {zeros}.")
    if visualized.copies:
        copies = sum(len(others) for others in visualized.copies.values())
        found.append(
            f"Near copies in the data base, left out as the photograph itself is (not in the "
            f"paper): {copies:,}, of {len(visualized.copies)} photographs."
        )
    elif not asked["copies"]:
        found.append("Near copies of the photographs in the data base are NOT left out.")
    found += [*_fields(visualized, averages), *_unrebuilt(visualized)]
    found += _few(visualized, averages)
    if letters:
        example = f"{letters[0].id}: {letters[0].error}"
        count = len({letter.id for letter in letters})
        found.append(f"{count} photographs lack something, for example {example}.")
    return [*found, *visualized.notes]


def _fields(visualized: Visualized, averages: Sequence[Average]) -> list[str]:
    found = []
    averaged = {each.layer for each in averages}
    for layer, each in visualized.bases.items():
        if layer not in averaged:
            found.append(f"Figure 2 is without {layer}: no random cell has its field to show.")
        elif each.field < each.rf:
            found.append(
                f"{layer}'s receptive field ({each.rf} px) is larger than its picture: Figure 2 "
                f"averages {each.field} px about each cell, the picture's side."
            )
    return found


def _unrebuilt(visualized: Visualized) -> list[str]:
    """Photographs that some means are without."""
    rebuilt, found = visualized.rebuilt, []
    has = Counter(layer for layer, _ in {(each.layer, each.image) for each in rebuilt})
    images = len(visualized.images)
    if lacking := _counted({x: images - has[x] for x in visualized.layers}):
        found.append(f"Of {images} photographs some are not rebuilt by a layer: {lacking}.")
    if equal := sum(np.isposinf(each.psnr) for each in rebuilt):
        found.append(
            f"Rebuilt pictures that equal their original: {equal}. Their PSNR is infinite and left "
            "out of its mean; colour and SSIM count them."
        )
    blank = {name: sum(np.isnan(getattr(x, name)) for x in rebuilt) for name in ("colour", "ssim")}
    if any(blank.values()):
        found.append(
            f"Of {len(rebuilt)} rebuilt pictures {blank['colour']} have no pixel to compare and "
            f"{blank['ssim']} no window of SSIM: those means are without them."
        )
    return found


def _few(visualized: Visualized, averages: Sequence[Average]) -> list[str]:
    """Cells with fewer neighbours than k, and averages of fewer fields."""
    short: Counter[str] = Counter()
    thin: Counter[str] = Counter()
    for each in visualized.rebuilt:
        if each.method == NEIGHBOURS:
            short[f"{each.layer} at k = {each.k}"] += each.short
    for average in averages:
        if average.method == NEIGHBOURS and average.found < average.k:
            thin[f"{average.layer} at k = {average.k}"] += 1
    found = []
    if listed := _counted(short):
        found.append(f"Cells rebuilt from fewer than k neighbours: {listed}.")
    if listed := _counted(thin):
        found.append(f"Averages of fewer than k fields: {listed}.")
    return found


def _counted(counts: Mapping[str, int]) -> str:
    """Such as conv3: 5, conv5: 12 - what is not 0."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items() if count)

"""Section 2 of the report page: Table 1, Figures 1 and 2."""

from __future__ import annotations

from distcorr.algorithms import nets
from distcorr.algorithms.networks import NETWORKS
from distcorr.errors import DistcorrError
from distcorr.report import paper
from distcorr.report.page_figures import figure
from distcorr.report.page_html import Content, Html, command, join, table, tag
from distcorr.report.page_source import Row, Source
from distcorr.report.page_tables import folded, tidy


def missing(source: Source, *stages: str) -> Html | None:
    """What to run for a section; None if all of its stages are finished."""
    lacking = [stage for stage in stages if not source.finished(stage)]
    if not lacking:
        return None
    begun = [stage for stage in lacking if stage in source.stages]
    state = "is unfinished or out of date" if begun else "has not run"
    words = [command(f"distcorr {stage} -r {source.name}") for stage in lacking]
    return tag(
        "p",
        f"{lacking[0]} {state}. ",
        join(words),
        f" makes it, in the folder that holds {source.name}/.",
        class_="missing",
    )


def table1(source: Source) -> list[Row]:
    """Receptive fields computed from the run's network; [] where it has no list of layers."""
    spec = NETWORKS.get(source.network)
    if spec is None or not spec.layers:
        return []
    found = []
    for layer in paper.table1() if source.network in paper.NETWORKS else spec.columns:
        try:
            at = nets.geometry(spec.layers, layer, spec.input_size)
        except DistcorrError:
            continue
        field = {"rf": at.rf, "stride": at.stride, "cells": at.cells}
        found.append({"table": "table1", "layer": layer, **field})
    return found


def section2(source: Source, fields: list[Row]) -> Html:
    """Table 1, Figures 1 and 2, and the numbers behind them."""
    parts: list[Content] = [_table1(source, fields), missing(source, "visualize")]
    if source.rows("figure1"):
        parts += [
            figure(
                source,
                "figure1",
                "Figure 1.",
                "Photographs whose patches are replaced by averages of their nearest neighbours' "
                "patches, by layer; on the right the best that could be expected if features "
                "discarded all spatial information within their fields.",
                "Photographs beside what is rebuilt from each layer's nearest patches.",
            ),
            tidy(source, "figure1", "How near rebuilt photographs come to their originals"),
            folded(source, "figure1-gain", "Differences between layers, paired by photograph"),
        ]
    if source.rows("figure2"):
        parts += [
            figure(
                source,
                "figure2",
                "Figure 2.",
                "A random cell's receptive field and the means of its neighbours' fields, contrast "
                "expanded: similar features have similar centres.",
                "Averages of receptive fields, sharper in the middle the fewer are averaged.",
            ),
            figure(
                source,
                "figure2-profile",
                "Profile of Figure 2.",
                "Spread across the averaged fields against the distance from their centre.",
                "Curves of spread against distance from the centre, one panel for each layer.",
            ),
            folded(source, "figure2", "Spread in the centre and in the periphery"),
        ]
    return join(parts)


def _table1(source: Source, fields: list[Row]) -> Html:
    if not fields:
        words = f"{source.network or 'This extractor'} has no list of layers to compute Table 1 of."
        return tag("p", f"{words} ", command(f"distcorr features {source.network}".strip()))
    printed, body = paper.table1(), []
    for row in fields:
        own = printed.get(row["layer"]) if source.network in paper.NETWORKS else None
        same = "–" if own is None else "✓ equal" if own == (row["rf"], row["stride"]) else "✗"
        beside = f"{own[0]} / {own[1]}" if own else "–"
        body.append([row["layer"], f"{row['rf']} / {row['stride']}", beside, same, row["cells"]])
    heads = ["layer", "ours: rf / stride, px", "paper", "", "cells a side"]
    words = f"Table 1. Receptive fields and strides, computed from the layers of {source.network}."
    return table(heads, body, words, class_="small")

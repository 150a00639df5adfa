"""``data check``: what a data set holds and what looks wrong, before hours are spent on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distcorr.cli.common import (
    START,
    CategoryOption,
    JsonOption,
    LimitOption,
    QuietOption,
    absolute,
    app,
    terminal,
)
from distcorr.cli.pictures import writable
from distcorr.errors import DistcorrError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distcorr.data.storage import Folder

data_app = typer.Typer(no_args_is_help=True, help="Look at a data set of your own.")
app.add_typer(data_app, name="data", rich_help_panel=START)


@data_app.command("check")
def data_check(
    path: Annotated[str, typer.Argument(metavar="PATH|URI", help="Its folder or file.")],
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="voc, coco, table, cub, module:function, or of pairs spair-71k, pf-pascal, "
            "pf-willow, pairs; else guessed.",
        ),
    ] = "",
    category: CategoryOption = None,
    limit: LimitOption = None,
    split: Annotated[
        str, typer.Option("--split", metavar="NAME", help="Of pairs: train, val or test.")
    ] = "test",
    sheet: Annotated[
        str, typer.Option("--sheet", metavar="FILE", help="Draw a contact sheet, .png or .svg.")
    ] = "",
    copies: Annotated[
        bool, typer.Option("--copies", help="Look for near copies across the splits as well.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Count objects and keypoints, read all photographs, say what looks wrong.

    voc is VOC 2011 with Berkeley's keypoints, coco a COCO keypoint file, cub
    CUB-200-2011 with its parts, table a CSV or Parquet file with a row per
    keypoint: image, x0, y0, x1, y1 (box; or w, h), keypoint, x, y, and
    instance, category, split and visible where there are any; 0-based px.

    Of pairs with the same keypoints in both photographs, pairs is a table with
    a row per keypoint: pair, image_a, image_b, keypoint, xa, ya, xb, yb, and
    category, split, box_a_x0 to box_b_y1 where there are any.

    Example:  distcorr data check birds.csv --sheet sheet.png --copies
    """
    drawing = writable(sheet, "sheet.png", ()) if sheet else None

    from distcorr.config import DatasetConfig
    from distcorr.data import check, datasets, sniff, survey
    from distcorr.data.near_copies import near_copies
    from distcorr.data.storage import Folder

    shown = terminal(quiet)
    root = absolute(path)
    layout = name or sniff.recognise(root)
    if layout in sniff.PAIRS:
        if copies:
            raise DistcorrError(
                "--copies compares splits, and pairs are read of one.", "leave it out"
            )
        _check_pairs(root, layout, split, category or (), limit or 0, drawing, as_json, quiet)
        return
    config = DatasetConfig(
        name=layout if layout in datasets.DATASETS else sniff.READERS.get(layout, layout),
        root=root,
        categories=tuple(category or ()),
        limit=limit or 0,
    )
    dataset = datasets.load(config, Folder("."), 0)
    images = len({instance.image for instance in dataset.instances})
    shown.say(f"read as {layout}; reading {images:,} photographs")
    seen = survey.photographs(dataset, copies)
    problems = [*dataset.warnings, *check.check(dataset), *survey.check_photographs(dataset, seen)]
    found = []
    if copies:
        sketches = {name: p.sketch for name, p in seen.items() if p.sketch is not None}
        splits = survey.splits_of(dataset)
        val, train = ([n for n in splits[split] if n in sketches] for split in ("val", "train"))
        found = near_copies(sketches, val, train)
        problems += survey.check_copies(dataset, found)
    if drawing:
        from distcorr.report import contact

        folder, file = drawing
        folder.write(file, contact.draw(dataset, kind=file.rpartition(".")[2].lower()))
    document = {
        "name": dataset.name,
        "layout": layout,
        "reader": config.name,
        "root": dataset.root,
        "counts": check.counts(dataset),
        "keypoints": check.keypoint_counts(dataset),
        "photographs": survey.sizes(seen),
        "copies": [copy._asdict() for copy in found],
        "problems": problems,
    }
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _print(document)
        print(f"use it with --data {dataset.root} --set dataset.name={config.name}")
    if sheet:
        shown.say(f"sheet  {sheet}")


def _check_pairs(
    root: str,
    layout: str,
    split: str,
    categories: Sequence[str],
    limit: int,
    drawing: tuple[Folder, str] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from distcorr.data import check, pairs, sniff, survey
    from distcorr.data.storage import Folder

    shown = terminal(quiet)
    found = pairs.load_pairs(root, sniff.PAIRS[layout], split, categories, limit)
    images = {name for pair in found.pairs for name in (pair.a, pair.b)}
    shown.say(f"read as {layout}, {split}; reading {len(images):,} photographs")
    seen = survey.read_photographs(Folder(found.root), images)
    if drawing:
        from distcorr.report import contact

        folder, file = drawing
        folder.write(file, contact.draw_pairs(found, kind=file.rpartition(".")[2].lower()))
    document = {
        "name": found.name,
        "layout": layout,
        "split": split,
        "root": found.root,
        "counts": check.pair_counts(found),
        "keypoints": check.pair_keypoint_counts(found),
        "photographs": survey.sizes(seen),
        "problems": [*found.warnings, *survey.unreadable(seen)],
    }
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
    else:
        _print(document)
    if drawing:
        shown.say(f"sheet  {drawing[0]}/{drawing[1]}")


def _print(document: dict[str, Any]) -> None:
    from distcorr.terminal import print_rows

    print_rows(document["counts"])
    sizes = document["photographs"]
    if sizes["readable"]:
        small, large = ("x".join(map(str, sizes[key])) for key in ("smallest", "largest"))
        print(f"\n{sizes['readable']:,} of {sizes['all']:,} photographs, {small} to {large} px")
    else:
        print(f"\nnone of {sizes['all']:,} photographs can be read")
    for problem in document["problems"]:
        print(f"problem: {problem}")
    if not document["problems"]:
        print("nothing looks wrong")

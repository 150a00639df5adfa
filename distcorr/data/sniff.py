"""Which layout is this? VOC with Berkeley's keypoints, COCO, CUB-200-2011, one table, or pairs."""

from __future__ import annotations

from distcorr.data import coco, cub, pairs, tabular, voc_files
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError

READERS = {
    "voc": "distcorr.data.voc:load",
    "coco": "distcorr.data.coco:load",
    "cub": "distcorr.data.cub:load",
    "table": "distcorr.data.tabular:load",
}
"""Layout -> its reader, as ``dataset.name`` takes it."""

PAIRS = {
    "spair-71k": "spair-71k",
    "pf-pascal": "pf-pascal",
    "pf-willow": "pf-willow",
    "pairs": "table",
}
"""Layout of pairs -> what ``pairs.load_pairs`` calls it; a table of objects is another thing."""

LAYOUTS = {
    "voc": voc_files.LAYOUT,
    "coco": coco.LAYOUT,
    "cub": cub.LAYOUT,
    "table": tabular.LAYOUT,
    **{name: pairs.LAYOUTS[layout] for name, layout in PAIRS.items()},
}


def recognise(root: str) -> str:
    """The layout of a file or folder, by the names of what it holds: a key of ``READERS`` or of
    ``PAIRS``.

    Folders of VOC and CUB say more than the ending of a file that lies beside them. Pairs come
    first: their photographs are in folders that are called as VOC's.

    Raises:
        DistcorrError: there is nothing, none is recognised, or more than one (exit code 3).
    """
    lower = root.partition("?")[0].lower()
    if lower.endswith(".json"):
        return "coco"
    if found_pairs := pairs.guess(root):
        return next(name for name, layout in PAIRS.items() if layout == found_pairs)
    if lower.endswith(tabular.ENDINGS):
        return "table"
    folder = Folder(root)
    found = [name for name, has in _FOLDERS.items() if has(folder)]
    found = found or [name for name, has in _FILES.items() if has(folder)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DistcorrError(
            f"{folder} may be read as {' or as '.join(found)}.",
            f"--name {found[0]}, or give the file itself",
            MISSING,
        )
    there = "" if folder.exists() else " does not exist, or"
    raise DistcorrError(
        f"{folder}{there} holds no annotations of a layout that distcorr knows.",
        "; ".join(f"{name}: {layout}" for name, layout in LAYOUTS.items())
        + "; or --name module:function, a reader of your own",
        MISSING,
    )


def _is_voc(folder: Folder) -> bool:
    signs = ("VOCdevkit", "TrainVal/VOCdevkit", "VOC2011/JPEGImages", "JPEGImages")
    return any(folder.exists(name) for name in signs)


def _is_cub(folder: Folder) -> bool:
    return cub.find_base(folder) is not None


def _is_coco(folder: Folder) -> bool:
    places = ("", "annotations")
    return any(n.lower().endswith(".json") for place in places for n in folder.sizes(place))


def _is_table(folder: Folder) -> bool:
    return any(name.lower().endswith(tabular.ENDINGS) for name in folder.sizes())


_FOLDERS = {"voc": _is_voc, "cub": _is_cub}
_FILES = {"coco": _is_coco, "table": _is_table}

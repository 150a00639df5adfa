"""Predictions held against a run's data set: its ids, annotations, boxes and photographs."""

from __future__ import annotations

import warnings
from collections.abc import Container
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.data.features import FeatureStore
from distcorr.data.prediction_files import ALONE, BOX, SIZE, Predictions
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError

_NEAR = 0.01  # px: annotations that differ by less are the same, rounded
_EXAMPLES = 3


def opened(run: Run) -> FeatureStore:
    """A run's instances.

    Raises:
        DistcorrError: it has none, or of other settings.
    """
    stage = run.finished("build-db")
    if stage is None:
        raise DistcorrError(
            f"{run} has no instances that are finished and up to date.",
            f"distcorr build-db -r {run}   makes them",
            MISSING,
        )
    return FeatureStore(stage)


def against(predictions: Predictions, store: FeatureStore, run: Run) -> Predictions:
    """The same predictions, with the boxes of the run's instances unless they have their own.

    Where an image counts as an instance, images are all that can be looked up.

    Raises:
        DistcorrError: instances, images, categories or keypoints are not of the run's data set.
    """
    known = {instance.id: instance for instance in store.instances}
    names: dict[str, Container[str]] = {
        "image": {instance.image for instance in store.instances},
        "keypoint": {name for types in store.keypoint_names.values() for name in types},
        "category": store.keypoint_names.keys() | {ALONE["category"]},
    }
    objects = predictions.names["instance"][0] != predictions.names["image"][0]
    if objects:
        names["instance"] = known
    if problems := [text for n in names if (text := _unknown(predictions, n, names[n]))]:
        raise DistcorrError(
            f"{predictions.file} is not of the data set of {run}: {'; '.join(problems)}.",
            "the ids must be those of that run's instances.parquet; or give another run",
            MISSING,
        )
    if not objects:
        return predictions
    instances, code = predictions.names["instance"]
    boxes = np.array([known[name].box for name in instances], np.float64)[code]
    values = {} if BOX[0] in predictions.values else dict(zip(BOX, boxes.T, strict=True))
    return predictions.having(values, *_compared(predictions, store))


def with_sizes(predictions: Predictions, store: FeatureStore, run: Run) -> Predictions:
    """The same predictions, with the sizes of their photographs, read from the files' headers.

    Raises:
        DistcorrError: a photograph is not there or no image.
    """
    folder = Folder(store.root) if store.root else run.folder / "toy"
    images, code = predictions.names["image"]
    sizes = np.array([_size(folder, name) for name in images], np.float64)[code]
    return predictions.having(dict(zip(SIZE, sizes.T, strict=True)))


def _unknown(predictions: Predictions, name: str, known: Container[str]) -> str:
    values, code = predictions.names[name]
    absent = np.array([value not in known for value in values])
    if not absent.any():
        return ""
    examples = [value for value, away in zip(values, absent, strict=True) if away][:_EXAMPLES]
    return (
        f"{int(absent.sum()):,} of {len(values):,} values of {name} are unknown, in "
        f"{int(absent[code].sum()):,} rows ({', '.join(examples)})"
    )


def _compared(predictions: Predictions, store: FeatureStore) -> list[str]:
    """Notes about annotations that are not those of the run."""
    annotated = _annotations(predictions, store)
    true = np.stack([predictions.values["true_x"], predictions.values["true_y"]], axis=1)
    gap = np.abs(true - annotated).max(axis=1)
    notes = []
    if count := int(np.isnan(gap).sum()):
        notes.append(f"{count:,} rows are about keypoints that the run's data set does not show.")
    if count := int((gap > _NEAR).sum()):
        most = float(np.nanmax(gap))
        notes.append(f"{count:,} rows have another truth than the run, by up to {most:.2f} px.")
    return notes


def _annotations(predictions: Predictions, store: FeatureStore) -> npt.NDArray[np.float64]:
    """(n, 2) what the run says of each row; NaN where it shows no such keypoint."""
    (instances, instance), (types, keypoint) = (
        predictions.names[name] for name in ("instance", "keypoint")
    )
    found = np.full((len(instances), len(types), 2), np.nan)
    number = {name: n for n, name in enumerate(instances)}
    column = {name: n for n, name in enumerate(types)}
    for each in store.instances:
        if each.id in number:
            for k, name in enumerate(store.keypoint_names[each.category]):
                if each.visible[k] and name in column:
                    found[number[each.id], column[name]] = each.keypoints[k]
    return found[instance, keypoint]


def _size(folder: Folder, name: str) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # nothing is decoded
            with Image.open(BytesIO(folder.read(name))) as picture:
                return picture.size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DistcorrError(
            f"The size of the photograph {name} cannot be read in {folder}.",
            "mend the file, or give the columns image_width and image_height",
            MISSING,
        ) from error

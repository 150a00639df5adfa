"""Predictions held against a run's data set: its ids, annotations, boxes and photographs."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from distcorr.data.features import FeatureStore
from distcorr.data.prediction_columns import have, many
from distcorr.data.prediction_files import ALONE, BOX, SIZE, Predictions
from distcorr.data.run import Run
from distcorr.data.storage import Folder
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import Instance

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
    """The same predictions with the boxes of the run's instances, whatever boxes they had.

    Where an image counts as an instance, it is the only one of its category that the image shows;
    if an image shows several, boxes stay as they are. Notes say what differs from the run.

    Raises:
        DistcorrError: instances, images, categories or keypoints are not of the run's data set, or
            instances are of another category or in another image there.
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
        raise _foreign(predictions, run, problems)
    owners = [[known[n]] for n in predictions.names["instance"][0]] if objects else []
    owners = owners or _shown(predictions, store)
    if problems := _misplaced(predictions, owners):
        raise _foreign(predictions, run, problems)
    alone = [own[0] if len(own) == 1 else None for own in owners]
    notes = _compared(predictions, alone, store)
    several = sum(each is None for each in alone)
    if several:
        shows = "image shows" if several == 1 else "images show"
        return predictions.having(
            {},
            f"{several:,} {shows} several objects of the run, and no column instance says which: "
            "not checked, and no boxes are taken from the run.",
            *notes,
        )
    boxes = np.array([each.box for each in alone if each], np.float64)
    code = predictions.names["instance"][1]
    return predictions.having(dict(zip(BOX, boxes[code].T, strict=True)), *notes)


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
        f"{many(int(absent[code].sum()))} ({', '.join(examples)})"
    )


def _foreign(predictions: Predictions, run: Run, problems: Sequence[str]) -> DistcorrError:
    return DistcorrError(
        f"{predictions.file} is not of the data set of {run}: {'; '.join(problems)}.",
        "the ids must be those of that run's instances.parquet; or give another run",
        MISSING,
    )


def _shown(predictions: Predictions, store: FeatureStore) -> list[list[Instance]]:
    """Of each image that counts as an instance, those of the run that it may be."""
    of_image: dict[str, list[Instance]] = defaultdict(list)
    for each in store.instances:
        of_image[each.image].append(each)
    found = []
    for image, said in zip(
        predictions.names["image"][0], _said(predictions, "category"), strict=True
    ):
        mine = of_image[image]
        found.append([i for i in mine if said in (ALONE["category"], i.category)] or mine)
    return found


def _said(predictions: Predictions, name: str) -> list[str]:
    """Of each instance of the file, what its rows say, which is the same in all."""
    _, first = np.unique(predictions.names["instance"][1], return_index=True)
    values, code = predictions.names[name]
    return [values[n] for n in code[first]]


def _misplaced(predictions: Predictions, owners: Sequence[Sequence[Instance]]) -> list[str]:
    """Instances that are of another category, or in another image, than in the run."""
    problems = []
    code = predictions.names["instance"][1]
    for name in ("category", "image"):
        said = _said(predictions, name)
        wrong = np.array(
            [
                word != ALONE.get(name) and all(getattr(each, name) != word for each in own)
                for word, own in zip(said, owners, strict=True)
            ]
        )
        if wrong.any():
            n = int(np.flatnonzero(wrong)[0])
            example = f"{owners[n][0].id}: {said[n]}, not {getattr(owners[n][0], name)}"
            rows = many(int(wrong[code].sum()))
            problems.append(f"{rows} name another {name} of the instance ({example})")
    return problems


def _compared(
    predictions: Predictions, owners: Sequence[Instance | None], store: FeatureStore
) -> list[str]:
    """Notes about annotations, scales and boxes that are not those of the run."""
    values, code = predictions.values, predictions.names["instance"][1]
    checked = np.array([each is not None for each in owners])[code]
    true = np.stack([values["true_x"], values["true_y"]], axis=1)
    gap = np.abs(true - _annotations(predictions, owners, store)).max(axis=1)[checked]
    notes = []
    if count := int(np.isnan(gap).sum()):
        is_about = "is about a keypoint" if count == 1 else "are about keypoints"
        notes.append(f"{many(count)} {is_about} that the run's data set does not show.")
    if count := int((gap > _NEAR).sum()):
        most = float(np.nanmax(gap))
        notes.append(f"{have(count)} another truth than the run, by up to {most:.2f} px.")
    nothing = (np.nan,) * 4
    boxes = np.array([each.box if each else nothing for each in owners], np.float64)[code]
    own = {"scale": (boxes[:, 2:] - boxes[:, :2]).max(axis=1)}
    own |= dict(zip(BOX, boxes.T, strict=True))
    used = "" if np.isnan(boxes).any() else ": the run's boxes are used"
    for name, columns in {"scale": ["scale"], "box": BOX}.items():
        gaps = [np.abs(values[column] - own[column]) for column in columns if column in values]
        gap = np.max([np.zeros(len(code)), *gaps], axis=0)
        if count := int((gap > _NEAR).sum()):
            most = float(np.nanmax(gap))
            words = f"another {name} than the run, by up to {most:.2f} px{used}"
            notes.append(f"{have(count)} {words}.")
    return notes


def _annotations(
    predictions: Predictions, owners: Sequence[Instance | None], store: FeatureStore
) -> npt.NDArray[np.float64]:
    """(n, 2) what the run says of each row; NaN where it shows no such keypoint."""
    (_, instance), (types, keypoint) = (predictions.names[n] for n in ("instance", "keypoint"))
    found = np.full((len(owners), len(types), 2), np.nan)
    column = {name: n for n, name in enumerate(types)}
    for of_instance, each in zip(found, owners, strict=True):
        if each is not None:
            for k, name in enumerate(store.keypoint_names[each.category]):
                if each.visible[k] and name in column:
                    of_instance[column[name]] = each.keypoints[k]
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

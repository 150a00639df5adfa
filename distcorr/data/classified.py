"""What ``classify`` leaves in a run: every sample predicted for every C, and the classifiers.

Which C is used, and every accuracy, follows from these predictions; nothing is trained for it.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.data.run import StageFolder
from distcorr.data.store import META
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import FloatArray

NOTES = "notes.json"  # what no part can say: which categories have none
VALIDATION = -1  # as a fold: trained on all training samples, predicts the validation samples

Integers = npt.NDArray[np.int16]


class Answers(NamedTuple):
    """Predictions of one layer in one category, fold by fold, in the order of the data set.

    Attributes:
        truth: (n,) index into the category's keypoint names.
        predicted: (n, C) the same, for every C.
        image: the n samples' photographs.
        fold: (n,) fold that held the sample out; ``VALIDATION``.
    """

    truth: Integers
    predicted: Integers
    image: list[str]
    fold: Integers


class _Part(NamedTuple):
    truth: Integers
    predicted: Integers
    image: pa.ChunkedArray  # as Arrow keeps them: a tenth of a list's memory


class Classified:
    """The predictions of a finished ``classify``.

    Attributes:
        layers: in the order of the plan.
        categories: those that were classified, sorted.
        pairs: (layer, category), by layer: not every layer need have every category.
        cs: every C that was trained, in the order of the settings.
        names: category -> its keypoint names.
        notes: what a reader must know before quoting a number.
    """

    def __init__(self, stage: StageFolder) -> None:
        """
        Args:
            stage: ``classify``, finished.

        Raises:
            DistcorrError: a part is missing or damaged.
        """
        self._stage = stage
        self.cs: tuple[float, ...] = ()
        self.names: dict[str, tuple[str, ...]] = {}
        notes = list(stage.folder.read_json(NOTES)) if stage.folder.exists(NOTES) else []
        self._parts: dict[tuple[str, str], dict[int, _Part]] = defaultdict(dict)
        self._models: dict[tuple[str, str], str] = {}
        parts = stage.parts("predictions")
        tables = stage.folder.iter_tables(parts, ("image", "keypoint", "predicted"))
        for name, table in zip(parts, tables, strict=True):
            facts = json.loads(table.schema.metadata[META])
            layer, category, fold = facts["layer"], facts["category"], facts["fold"]
            self.cs, self.names[category] = tuple(facts["cs"]), tuple(facts["names"])
            self._parts[layer, category][fold] = _part(table, facts)
            if fold == VALIDATION:
                self._models[layer, category] = name.replace("predictions/", "models/", 1)
            notes += facts["notes"]
        self.notes: list[str] = list(dict.fromkeys(notes))
        self.pairs: list[tuple[str, str]] = list(self._parts)
        self.layers: list[str] = list(dict.fromkeys(layer for layer, _ in self._parts))
        self.categories: list[str] = sorted({category for _, category in self._parts})

    def held_out(self, layer: str, category: str) -> Answers:
        """Training samples, each predicted by classifiers that never saw its photograph.

        Raises:
            DistcorrError: the layer was not classified in that category.
        """
        return self._answers(layer, category, lambda fold: fold != VALIDATION)

    def validation(self, layer: str, category: str) -> Answers:
        """Validation samples, predicted by classifiers of all training samples.

        Raises:
            DistcorrError: the layer was not classified in that category.
        """
        return self._answers(layer, category, lambda fold: fold == VALIDATION)

    def choose(self, c: float, by: str) -> dict[tuple[str, str], int]:
        """(layer, category) -> index into ``cs`` of the C to use.

        Args:
            c: that one; 0: the one of best cross-validated accuracy (keypoints named rightly of all
                the category's), the smaller where two tie.
            by: what shares a C: ``"layer"`` by the mean over its categories, ``"category"`` each by
                itself and its layer, ``"all"`` by the mean over everything.

        Raises:
            DistcorrError: that C was not trained.
        """
        if c:
            near = [i for i, trained in enumerate(self.cs) if math.isclose(trained, c)]
            if not near and self._parts:
                raise DistcorrError(
                    f"evaluation.c must be a C that was trained, got {c:g}.",
                    f"trained: {', '.join(f'{trained:g}' for trained in self.cs)}; others with "
                    "--set classify.cs=[...]",
                )
            return {key: near[0] for key in self._parts}
        groups: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for key in self._parts:
            groups[{"layer": key[0], "category": key, "all": None}[by]].append(key)
        best = {group: self._best(keys) for group, keys in groups.items()}
        return {key: best[group] for group, keys in groups.items() for key in keys}

    def model(
        self, layer: str, category: str, index: int
    ) -> tuple[tuple[str, ...], FloatArray, npt.NDArray[np.float64]]:
        """The classifiers of all training samples for one C.

        Args:
            layer: of the features.
            category: of the keypoints.
            index: into ``cs``.

        Returns:
            names of the K keypoints, coef (K, D) float32, intercept (K,) float64; -inf where a type
            had no training sample.

        Raises:
            DistcorrError: the layer was not classified in that category, or the part is damaged.
        """
        self._require(layer, category)
        table = self._stage.folder.read_table(self._models[layer, category])
        table = table.filter(pa.array(table["c"].to_numpy() == self.cs[index]))
        coef = table["coef"].combine_chunks().flatten().to_numpy()
        intercept = table["intercept"].fill_null(-np.inf).to_numpy()
        names = tuple(table["keypoint"].to_pylist())
        return names, coef.reshape(len(names), -1), intercept

    def _best(self, keys: Iterable[tuple[str, str]]) -> int:
        # In fractions: sums of floats that tie may differ by a rounding.
        totals = [
            sum(shares) for shares in zip(*(self._accuracy(*key) for key in keys), strict=True)
        ]
        return min(range(len(self.cs)), key=lambda i: (-totals[i], self.cs[i]))

    def _accuracy(self, layer: str, category: str) -> list[Fraction]:
        """For every C, the share of the held-out samples that are named rightly."""
        held_out = self.held_out(layer, category)
        right = (held_out.predicted == held_out.truth[:, None]).sum(axis=0)
        return [Fraction(int(count), max(1, len(held_out.truth))) for count in right]

    def _answers(self, layer: str, category: str, wanted: Callable[[int], bool]) -> Answers:
        self._require(layer, category)
        parts = {f: p for f, p in sorted(self._parts[layer, category].items()) if wanted(f)}
        return Answers(
            np.concatenate([p.truth for p in parts.values()]),
            np.concatenate([p.predicted for p in parts.values()]),
            [image for p in parts.values() for image in p.image.to_pylist()],
            np.concatenate([np.full(len(p.truth), f, np.int16) for f, p in parts.items()]),
        )

    def _require(self, layer: str, category: str) -> None:
        if (layer, category) not in self._parts:
            raise DistcorrError(
                f"{layer} was not classified in {category}.",
                "its notes say why: distcorr report; or add the layer to classify.layers",
                MISSING,
            )


def _part(table: pa.Table, facts: dict[str, Any]) -> _Part:
    index = {name: i for i, name in enumerate(facts["names"])}
    truth = np.array([index[name] for name in table["keypoint"].to_pylist()], np.int16)
    predicted = table["predicted"].combine_chunks().flatten().to_numpy().astype(np.int16)
    return _Part(truth, predicted.reshape(len(truth), len(facts["cs"])), table["image"])

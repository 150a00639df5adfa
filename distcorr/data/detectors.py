"""What ``detect`` leaves in a run: mined detectors, and keypoints predicted by every eta.

Which eta is used, and every PCK, follows from these predictions; nothing is mined for it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distcorr.algorithms import detection, svm
from distcorr.algorithms.windows import Detectors
from distcorr.data.classified import NOTES, VALIDATION
from distcorr.data.run import StageFolder
from distcorr.data.storage import Folder, Written
from distcorr.data.store import META
from distcorr.errors import MISSING, DistcorrError
from distcorr.types import FloatArray

# The report's predictions, but for the method; and the fold.
_COLUMNS = ("category", "instance", "image", "keypoint", "x", "y", "true_x", "true_y", "scale")

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class State:
    """Detectors of one layer, category and fold after a round, and the cache behind them.

    Attributes:
        round: 0 after the random negatives.
        detectors: of all the category's keypoints; a score of -inf where one cannot be learnt.
        first: ids of the samples that never leave the cache.
        mined: ids of the hard negatives in it.
        full: whether any were left out for the size of the cache.
        ended: nothing more is to be found; unless ``full`` these are the SVMs on all negatives.
        found: per round of mining, per keypoint, how many negatives outside the cache cost
            something before it; of them the hardest were taken in.
        sizes: samples in the cache after each round, the first one's first.
        broken: rows of the training instances whose features are not finite.
        notes: what a reader must know.
    """

    round: int
    detectors: Detectors
    first: Ids
    mined: Ids
    full: bool = False
    ended: bool = False
    found: tuple[tuple[int, ...], ...] = ()
    sizes: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def save(self, folder: Folder, name: str) -> Written:
        """Write it as one file, so that a round is there as a whole or not at all."""
        facts = {n: getattr(self, n) for n in _FACTS}
        facts |= {"block": self.detectors.block, "scale": self.detectors.scale}
        linear = self.detectors.linear
        arrays = {"first": self.first, "mined": self.mined}
        arrays |= {field.name: getattr(linear, field.name) for field in fields(linear)}
        table = pa.table({n: pa.array([value.ravel()]) for n, value in arrays.items()})
        return folder.write_table(name, table.replace_schema_metadata(metadata(facts)))

    @classmethod
    def load(cls, folder: Folder, name: str) -> State:
        """What was saved, to the bit.

        Raises:
            DistcorrError: the file is damaged.
        """
        table = folder.read_table(name)
        facts = json.loads(table.schema.metadata[META])
        # Copies: arrays of Arrow are not ours to write to.
        row = {n: np.array(table[n].chunk(0).values) for n in table.column_names}
        arrays = {field.name: row[field.name] for field in fields(svm.Linear)}
        arrays["coef"] = arrays["coef"].reshape(len(arrays["intercept"]), -1)
        detectors = Detectors(svm.Linear(**arrays), facts["block"], facts["scale"])
        return cls(
            facts["round"],
            detectors,
            row["first"],
            row["mined"],
            full=facts["full"],
            ended=facts["ended"],
            found=tuple(tuple(each) for each in facts["found"]),
            sizes=tuple(facts["sizes"]),
            broken=tuple(facts["broken"]),
            notes=tuple(facts["notes"]),
        )


_FACTS = ("round", "full", "ended", "found", "sizes", "broken", "notes")


@dataclass(frozen=True, eq=False)
class Map:
    """What was made of one keypoint in one validation instance.

    Attributes:
        instance: its id.
        image: the photograph.
        keypoint: the type.
        scores: (rows, cols) float32 of the detector; -inf where it could not be learnt.
        centres: (rows, cols, 2) px in the square.
        mean: (2,) px in the square, of the prior; NaN where no training instance shows it.
        sigma: px in the square, of the prior.
        side: px of the square.
    """

    instance: str
    image: str
    keypoint: str
    scores: FloatArray
    centres: Floats
    mean: Floats
    sigma: float
    side: int


def metadata(facts: dict[str, Any]) -> dict[bytes, bytes]:
    """Metadata of a table's schema."""
    return {META: json.dumps(facts, sort_keys=True).encode()}


# -- reading it all --------------------------------------------------------------------------------


class Detected:
    """The predictions and detectors of a finished ``detect``.

    Attributes:
        layers: in the order of the plan.
        categories: those that have predictions, sorted.
        pairs: (layer, category), by layer: not every layer need have every category.
        names: category -> its keypoint names.
        etas: those that an eta may be chosen from.
        variants: (eta, refined) of every prediction: 0 is the detectors alone, 1 the prior alone.
        notes: what a reader must know before quoting a number.
    """

    def __init__(self, stage: StageFolder) -> None:
        """
        Args:
            stage: ``detect``, finished.

        Raises:
            DistcorrError: a part is missing or damaged.
        """
        self._stage = stage
        self.names: dict[str, tuple[str, ...]] = {}
        self.etas: tuple[float, ...] = ()
        self.variants: list[tuple[float, bool]] = []
        notes = list(stage.folder.read_json(NOTES)) if stage.folder.exists(NOTES) else []
        self._parts: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        parts = stage.parts("predictions")
        for name, table in zip(parts, stage.folder.iter_tables(parts, ("fold",)), strict=True):
            facts = json.loads(table.schema.metadata[META])
            layer, category = facts["layer"], facts["category"]
            self._parts[layer, category][facts["fold"]] = name.removeprefix("predictions/")
            self.names[category], self.etas = tuple(facts["names"]), tuple(facts["etas"])
            self.variants = [(eta, refined) for eta, refined in facts["variants"]]
            notes += facts["notes"]
        self._tables: dict[str, pa.Table] = {}
        self._others = {*stage.parts("maps"), *stage.parts("unmined")}
        self.notes: list[str] = list(dict.fromkeys(notes))
        self.pairs: list[tuple[str, str]] = list(self._parts)
        self.layers: list[str] = list(dict.fromkeys(layer for layer, _ in self._parts))
        self.categories: list[str] = sorted({category for _, category in self._parts})

    def validation(
        self, layer: str, category: str, eta: float, refined: bool = False, mined: bool = True
    ) -> pa.Table:
        """Validation keypoints, predicted by detectors of all training instances.

        Args:
            layer: of the features.
            category: of the keypoints.
            eta: one of ``variants``: 0 the detectors alone, 1 the prior alone.
            refined: between positions as well.
            mined: by the last detectors, or else by those of random negatives alone.

        Returns:
            One row per visible keypoint: the report's columns but ``method``, and ``fold``; x and y
            are px in the photograph, null where nothing is predicted.

        Raises:
            DistcorrError: the layer was not detected in that category, or not with that eta, or
                nothing was mined.
        """
        kind = "predictions" if mined else "unmined"
        return self._read(layer, category, [VALIDATION], eta, refined, kind)

    def mined(self, layer: str, category: str) -> bool:
        """Whether anything was mined, so that there are predictions from before."""
        return f"unmined/{self._part(layer, category, VALIDATION)}" in self._others

    def held_out(self, layer: str, category: str, eta: float, refined: bool = False) -> pa.Table:
        """Training keypoints, each predicted by detectors that never saw its photograph.

        As ``validation``; also an error where there were no folds.
        """
        return self._read(layer, category, self.folds(layer, category) or [0], eta, refined)

    def choose(self, by: str, refined: bool = False) -> dict[tuple[str, str], float]:
        """(layer, category) -> eta of highest PCK on held-out training keypoints (section 5).

        Args:
            by: "layer", "category" (and layer), or "all": what shares an eta. PCK@0.1 is the mean
                over categories; ties go to the smaller eta.
            refined: of predictions between positions.

        Returns:
            An eta for every pair: the only one that was tried; where a group has no folds, the
            paper's 0.1 or else the smallest.
        """
        groups: dict[Any, list[tuple[str, str]]] = defaultdict(list)
        for key in self.pairs:
            groups[{"layer": key[0], "category": key, "all": None}[by]].append(key)
        best = {group: self._best(keys, refined) for group, keys in groups.items()}
        return {key: best[group] for group, keys in groups.items() for key in keys}

    def accuracy(self, layer: str, category: str, refined: bool = False) -> Floats:
        """(E,) PCK@0.1 in 0..1 of each eta of ``etas`` on held-out keypoints: mean over folds.

        Raises:
            DistcorrError: as ``held_out``.
        """
        tables = [self.held_out(layer, category, eta, refined) for eta in self.etas]
        names = {name: k for k, name in enumerate(self.names[category])}
        k = np.array([names[name] for name in tables[0]["keypoint"].to_pylist()], np.intp)
        _, one, row = np.unique(
            tables[0]["instance"].to_pylist(), return_index=True, return_inverse=True
        )

        def spread(values: Floats) -> Floats:
            out = np.full((len(one), len(names), 2), np.nan)
            out[row, k] = values
            return out

        predicted = np.stack([spread(_points(table, "x", "y")) for table in tables])
        truth = spread(_points(tables[0], "true_x", "true_y"))
        fold = np.unique(tables[0]["fold"].to_numpy()[one], return_inverse=True)[1]
        scale = tables[0]["scale"].to_numpy()[one]
        pixels = np.ones((len(one), 2))  # predictions are in the photograph already
        choice = detection.choose_eta(self.etas, predicted, truth, pixels, scale, fold)
        mean: Floats = np.nanmean(choice.pck, axis=1)
        return mean

    def model(
        self, layer: str, category: str, fold: int = VALIDATION
    ) -> tuple[tuple[str, ...], State]:
        """Names of the K keypoints, and the last state of mining: detectors, cache, curve.

        Args:
            layer: of the features.
            category: of the keypoints.
            fold: that they have not seen; ``VALIDATION``: of all training instances.

        Raises:
            DistcorrError: the layer was not detected in that category, or the part is damaged.
        """
        part = self._part(layer, category, fold)
        return self.names[category], State.load(self._stage.folder, f"detectors/{part}")

    def maps(self, layer: str, category: str) -> list[Map]:
        """Scores that were kept (``detect.maps``), instance by instance; none if none were.

        Args:
            layer: of the features.
            category: of the keypoints.

        Raises:
            DistcorrError: the layer was not detected in that category, or the part is damaged.
        """
        name = f"maps/{self._part(layer, category, VALIDATION)}"
        if name not in self._others:
            return []
        table = self._stage.folder.read_table(name)
        facts = json.loads(table.schema.metadata[META])
        along = [facts["offset"] + facts["stride"] * np.arange(facts[n]) for n in ("cols", "rows")]
        centres = np.stack(np.meshgrid(*along), axis=-1).astype(np.float64)
        shape = facts["rows"], facts["cols"]
        return [
            Map(
                *(row["instance"], row["image"], row["keypoint"]),
                np.array(row["scores"], np.float32).reshape(shape),
                centres,
                np.array([row["prior_x"], row["prior_y"]], np.float64),
                facts["sigma"],
                facts["side"],
            )
            for row in table.to_pylist()
        ]

    def _best(self, keys: Iterable[tuple[str, str]], refined: bool) -> float:
        if len(self.etas) == 1:
            return self.etas[0]
        rates = [self.accuracy(*key, refined) for key in keys if self.folds(*key)]
        if not rates:
            return detection.ETA if detection.ETA in self.etas else min(self.etas)
        mean = np.mean(rates, axis=0).round(12)  # sums of floats that tie may differ by a rounding
        return min(eta for eta, rate in zip(self.etas, mean, strict=True) if rate == mean.max())

    def folds(self, layer: str, category: str) -> list[int]:
        """The folds of cross-validation; none where one eta was tried, or photographs are few."""
        return sorted(self._parts.get((layer, category), {}).keys() - {VALIDATION})

    def _part(self, layer: str, category: str, fold: int) -> str:
        if fold not in self._parts.get((layer, category), {}):
            raise DistcorrError(
                f"{layer} was not detected in {category}"
                + ("." if (layer, category) not in self._parts else " by cross-validation."),
                "its notes say why; add the layer to detect.layers, or several detect.etas",
                MISSING,
            )
        return self._parts[layer, category][fold]

    def _read(
        self,
        layer: str,
        category: str,
        folds: list[int],
        eta: float,
        refined: bool,
        kind: str = "predictions",
    ) -> pa.Table:
        parts = [self._part(layer, category, fold) for fold in folds]
        if kind == "unmined" and not self.mined(layer, category):
            raise DistcorrError(
                f"Nothing was mined for {layer} in {category}.", "set detect.rounds above 0"
            )
        if (eta, refined) not in self.variants:
            more = " and detect.refine" if refined else ""
            raise DistcorrError(
                f"eta must be one that was tried, got {eta:g}{', refined' if refined else ''}.",
                f"tried: {', '.join(f'{e:g}' for e, r in self.variants if r == refined)}; "
                "evaluation.eta=-1 chooses one of them; others by distcorr detect --set "
                f"detect.etas=[...]{more}, which mines nothing anew",
            )
        index = self.variants.index((eta, refined))
        names = [f"{kind}/{part}" for part in parts]
        new = [name for name in names if name not in self._tables]  # each is read once
        self._tables |= dict(zip(new, self._stage.folder.iter_tables(new), strict=True))
        table = pa.concat_tables([self._tables[name] for name in names])
        columns = {name: table[name] for name in (*_COLUMNS, "fold")}
        for name in ("x", "y"):
            values = columns[name].combine_chunks().flatten().to_numpy()
            here = values.reshape(-1, len(self.variants))[:, index]
            columns[name] = pa.array(here, pa.float64(), from_pandas=True)  # NaN: null
        return pa.table(columns)


def _points(table: pa.Table, x: str, y: str) -> Floats:
    found: Floats = np.stack([table[name].to_numpy().astype(np.float64) for name in (x, y)], axis=1)
    return found

"""Answers of section 4's classifiers in the columns of predicted keypoints: compared alike."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from distcorr.config import EvaluationConfig
from distcorr.data.classified import VALIDATION, Classified
from distcorr.data.run import StageFolder
from distcorr.data.store import META
from distcorr.report.predictions import PREDICTIONS

_COLUMNS = ("fold", "instance", "image", "keypoint", "predicted")


def answers(stage: StageFolder, evaluation: EvaluationConfig) -> pa.Table:
    """Every validation keypoint by every layer, with the C that the report uses.

    A right answer is a prediction at the keypoint and a wrong one is none, so that PCK with all
    types as one is Table 3's accuracy.

    Args:
        stage: ``classify``, finished.
        evaluation: which C.

    Returns:
        rows of the schema ``PREDICTIONS``, the layer as their method; places are 0, scale is 1.

    Raises:
        DistcorrError: the C that is asked for was not trained, or a part is damaged.
    """
    chosen = Classified(stage).choose(evaluation.c, evaluation.choose)
    tables = [PREDICTIONS.empty_table()]
    for part in stage.folder.iter_tables(stage.parts("predictions"), _COLUMNS):
        facts = json.loads(part.schema.metadata[META])
        if facts["fold"] == VALIDATION:
            tables.append(_answers(part, facts["layer"], facts["category"], facts["names"], chosen))
    return pa.concat_tables(tables)


def _answers(
    part: pa.Table,
    layer: str,
    category: str,
    names: list[str],
    chosen: dict[tuple[str, str], int],
) -> pa.Table:
    count, keypoints = part.num_rows, part["keypoint"].to_pylist()
    predicted = part["predicted"].combine_chunks().flatten().to_numpy()
    said = predicted.reshape(count, -1)[:, chosen[layer, category]] if count else predicted
    right = said == np.array([names.index(keypoint) for keypoint in keypoints], np.int64)
    at = pa.array(np.zeros(count), mask=~right)
    zero = pa.array(np.zeros(count))
    columns = {
        "method": pa.array([layer] * count, pa.string()),
        "category": pa.array([category] * count, pa.string()),
        **{name: part[name] for name in ("instance", "image", "keypoint")},
        **{"x": at, "y": at, "true_x": zero, "true_y": zero},
        "scale": pa.array(np.ones(count)),
    }
    return pa.table(columns, schema=PREDICTIONS)

"""Conversion of a trained ensemble into the ONNX model that is served. Needs the `train` extra."""

from __future__ import annotations

import re

import lightgbm
import numpy as np
from onnx import ModelProto, TensorProto, helper
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from services.errors import ModelInvalid
from services.models.ranker.ensemble import FUSED, Ensemble
from services.rankers.base import Rows
from services.rankers.features import NAMES
from services.rankers.onnx import OnnxRanker

PARITY_TOLERANCE = 1e-4
"""Largest difference allowed between the scores of the trained ensemble and of the served model."""
_NAME = "ranker"
"""Name of the graph; a random default would make equal trainings give different bytes."""
_OBJECTIVE = re.compile(r"^(objective=|\[objective: )[a-z_]+", re.MULTILINE)
"""The objective in LightGBM's model text."""


def convert(ensemble: Ensemble) -> bytes:
    """The ensemble as serialised ONNX: input `rows` float32 [items, features], one score per item. Equal ensembles give
    equal bytes."""
    text = round_thresholds(ensemble.trees.model_to_string())
    converted: ModelProto = convert_lightgbm(
        lightgbm.Booster(model_str=_OBJECTIVE.sub(r"\1lambdarank", text)),  # raw scores, no sigmoid
        initial_types=[("rows", FloatTensorType([None, len(NAMES)]))],
        target_opset=15,
        name=_NAME,
    )
    _add_fused(converted, ensemble.slope)
    data: bytes = converted.SerializeToString()
    return data


def _add_fused(model: ModelProto, slope: float) -> None:
    """Add `slope` times the fused score to the scores of the trees."""
    graph = model.graph
    (scores,) = graph.output
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == scores.name:
                node.output[place] = "trees"
    graph.initializer.append(helper.make_tensor("fused_column", TensorProto.INT64, [1], [FUSED]))
    graph.initializer.append(helper.make_tensor("fused_slope", TensorProto.FLOAT, [1], [slope]))
    graph.node.append(helper.make_node("Gather", ["rows", "fused_column"], ["fused"], axis=1))
    graph.node.append(helper.make_node("Mul", ["fused", "fused_slope"], ["begin"]))
    graph.node.append(helper.make_node("Add", ["trees", "begin"], [scores.name]))


def round_thresholds(model: str) -> str:
    """LightGBM's model text with every threshold rounded down to float32.

    Trained thresholds are float64, served ones float32. For float32 features `value <= threshold` stays the same when
    the threshold is rounded down; rounded to the nearest, a value just above the threshold would become equal to it.
    """
    lines = []
    for line in model.splitlines():
        if line.startswith("threshold="):
            values = (_round_down(float(value)) for value in line.removeprefix("threshold=").split())
            line = "threshold=" + " ".join(map(repr, values))
        if not line.startswith("tree_sizes="):  # optional lengths of the trees' texts, now outdated
            lines.append(line)
    return "\n".join(lines) + "\n"


def _round_down(value: float) -> float:
    rounded = np.float32(value)
    return float(np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > value else rounded)


def parity(ensemble: Ensemble, ranker: OnnxRanker, table: Rows) -> dict[str, float]:
    """The largest difference of both models' scores on `table` [rows, features]. Raises ModelInvalid above
    PARITY_TOLERANCE."""
    difference = float(np.abs(ensemble.score(table) - ranker.score(table)).max(initial=0.0))
    if difference > PARITY_TOLERANCE:
        raise ModelInvalid(f"the converted model differs by {difference:.2g} from the trained one")
    return {"largest_difference": difference, "rows": len(table)}

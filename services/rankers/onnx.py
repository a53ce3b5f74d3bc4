"""A trained tree ensemble, served by ONNX Runtime on the calling thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.errors import ModelInvalid
from services.onnx_session import onnx_session
from services.rankers.base import Rows
from services.rankers.features import NAMES

FILE = "model.onnx"
"""Name of the model's file in the model store."""
FORMAT = 1
"""Version of the metadata that training writes and this class reads: format, features, reference, depth."""
MAX_MODEL_BYTES = 32 * 2**20
"""Maximum size of a model file; a thousand trees of 31 leaves take about 3 MB."""


class OnnxRanker:
    """`model`: ONNX bytes with one float32 input [n, features] and a first output of n scores.

    `meta["features"]` are names in `NAMES`, each once: the columns that the model was trained on and is given, in its
    order, whatever else a row has by now. `meta["reference"]` has one typical value each; `meta["depth"]`, if there,
    is a whole number from 1. Raises ModelInvalid for anything else, and for a model that does not run or that names
    files outside itself.
    """

    name = "onnx"

    def __init__(self, model: bytes, meta: Mapping[str, Any], version: str) -> None:
        self.version = version
        names = meta.get("features")
        if meta.get("format") != FORMAT:
            raise ModelInvalid(f"ranker {version}: format {meta.get('format')!r}, expected {FORMAT}")
        self._columns = _columns(names, version)
        self._width = len(self._columns)
        self.depth = _depth(meta.get("depth"), version)
        self._reference = _reference(meta.get("reference"), self._width, version)
        if len(model) > MAX_MODEL_BYTES:
            raise ModelInvalid(f"ranker {version}: {len(model)} bytes, more than {MAX_MODEL_BYTES}")
        try:
            self._session = onnx_session(model)
        except ModelInvalid as error:
            raise ModelInvalid(f"ranker {version}: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or inputs[0].shape[1:] != [self._width]:
            raise ModelInvalid(f"ranker {version}: input is not one float32 table of {self._width} columns")
        self._input, self._output = inputs[0].name, self._session.get_outputs()[0].name
        if not np.isfinite(self._run(self._reference[None, :])).all():
            raise ModelInvalid(f"ranker {version}: does not give a finite score")

    def score(self, rows: Rows) -> NDArray[np.float32]:
        """float32 [n], for rows [n, len(NAMES)]. Raises ModelInvalid when the model fails."""
        return self._run(rows[:, self._columns])

    def _run(self, table: Rows) -> NDArray[np.float32]:
        """float32 [n]; table: [n, width], the model's own columns."""
        if not len(table):
            return np.zeros(0, dtype=np.float32)
        table = np.ascontiguousarray(table, dtype=np.float32)
        try:
            scores = self._session.run([self._output], {self._input: table})[0]
        except Exception as error:  # the runtime's own exceptions have no common base but this
            raise ModelInvalid(f"ranker {self.version}: {type(error).__name__} while scoring") from error
        if scores.size != len(table):
            raise ModelInvalid(f"ranker {self.version}: {scores.size} scores for {len(table)} rows")
        flat: NDArray[np.float32] = scores.reshape(-1).astype(np.float32, copy=False)
        return flat

    def contributions(self, rows: Rows) -> list[Mapping[str, float]]:
        """Contributions by occlusion: the drop in score when the feature alone takes its typical value in the training
        data.

        Features of a tree ensemble interact, so these do not add up to the score. Costs one scoring of n x features
        rows; only explanations use it.
        """
        if not len(rows):
            return []
        n, width = len(rows), self._width
        table = rows[:, self._columns]
        occluded = np.repeat(table[:, None, :], width, axis=1)
        each = np.arange(width)
        occluded[:, each, each] = self._reference
        fall = self._run(table)[:, None] - self._run(occluded.reshape(n * width, width)).reshape(n, width)
        names = [NAMES[column] for column in self._columns]
        return [{names[i]: float(row[i]) for i in np.flatnonzero(np.abs(row) > 1e-6)} for row in fall]


def _columns(names: object, version: str) -> list[int]:
    """Indices of the columns of these names in NAMES."""
    listed = names if isinstance(names, list | tuple) else ()
    found = [NAMES.index(name) for name in listed if name in NAMES]
    if not found or len(found) != len(listed) or len(set(found)) != len(found):
        raise ModelInvalid(f"ranker {version}: trained on other features than this release computes; retrain it")
    return found


def _depth(value: object, version: str) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ModelInvalid(f"ranker {version}: `depth` is not a whole number from 1")
    return value


def _reference(values: object, width: int, version: str) -> Rows:
    try:
        reference = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        reference = np.zeros(0, dtype=np.float32)
    if reference.shape != (width,) or not np.isfinite(reference).all():
        raise ModelInvalid(f"ranker {version}: `reference` is not {width} finite numbers")
    return reference

"""The ranker without a model: the fused order as it is. Always available, so that search never waits for a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from services.rankers.base import Rows
from services.rankers.features import ARMS, NAMES
from services.rankers.fusion import FUSION_WEIGHTS, adapt

_FUSED = NAMES.index("fused")
_COVERAGE = NAMES.index("query_explained")
_FULL_COVERAGE = NAMES.index("query_explained_whole")
_SCALED = tuple((f"{arm}_scaled", arm, NAMES.index(f"{arm}_scaled")) for arm in ARMS)


class PassthroughRanker:
    """Ranker whose scores are the fused ones."""

    name = "passthrough"
    version = "passthrough"
    depth = None

    def score(self, rows: Rows) -> NDArray[np.float32]:
        """float32 [n]: the fused scores."""
        return rows[:, _FUSED].copy()

    def contributions(self, rows: Rows) -> list[Mapping[str, float]]:
        """Per arm its weight x scaled score; `fused` takes the remainder, so that the sum is the score.

        That remainder is 0 for a convex mix of a whole pool. It is not for items that no arm had, for rank fusion, and
        when an arm's best or worst item has left the catalogue.
        """
        return [self._contributions(row) for row in rows]

    def _contributions(self, row: NDArray[np.float32]) -> Mapping[str, float]:
        weights = adapt(FUSION_WEIGHTS, float(row[_COVERAGE]), float(row[_FULL_COVERAGE]))
        parts = {feature: weights.get(arm, 0.0) * float(row[column]) for feature, arm, column in _SCALED}
        rest = float(row[_FUSED]) - sum(parts.values())
        if abs(rest) > _ROUNDING:
            parts["fused"] = rest
        return {feature: value for feature, value in parts.items() if value != 0.0}


_ROUNDING = 1e-6
"""Rounding error of float32 between a score and the sum of its parts."""

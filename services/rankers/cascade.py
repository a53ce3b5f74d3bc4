"""Scores a whole pool with a ranker that may be limited to its first items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.rankers.base import Ranker, Rows
from services.rankers.features import NAMES

_FUSED = NAMES.index("fused")


def pool_scores(ranker: Ranker, rows: Rows) -> NDArray[np.float32]:
    """float32 [n]: the ranker's scores for the first `ranker.depth` items by fused score; the others stay below them in
    fused order (a cascade: Wang, Lin and Metzler, SIGIR 2011).

    A ranker trained on clicks has only seen items that pages showed. Items far down were never among them, and differ
    from them: deep in the list of one arm, in no list of the others.
    """
    depth = ranker.depth
    if depth is None or len(rows) <= depth:
        return ranker.score(rows)
    fused = rows[:, _FUSED]
    first = np.argsort(-fused, kind="stable")
    judged, rest = first[:depth], first[depth:]
    found = np.empty(len(rows), dtype=np.float32)
    found[judged] = ranker.score(rows[judged])
    found[rest] = found[judged].min() - (fused[judged[-1]] - fused[rest])
    return found

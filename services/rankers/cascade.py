"""A whole pool put in order by a ranker that may see no further than its first items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from services.rankers.base import Ranker, Rows
from services.rankers.features import NAMES

_FUSED = NAMES.index("fused")


def pool_scores(ranker: Ranker, rows: Rows) -> NDArray[np.float32]:
    """float32 [n]: of the first `ranker.depth` by fused score those of the ranker; the others stay below them, as the
    fused order has them (a cascade: Wang, Lin and Metzler, SIGIR 2011).

    A ranker that learned from clicks knows of what pages showed. What stands far down was never among it, and differs
    from what was: deep in the list of one arm, in no list of the others.
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

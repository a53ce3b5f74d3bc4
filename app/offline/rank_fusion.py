"""Reciprocal rank fusion: the baseline that fusion by scores is compared with. It is not used in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.rankers.fusion import combine
from services.types import Candidate, Pooled

RRF_K = 60
"""Constant of the formula (Cormack, Clarke, Büttcher, SIGIR 2009)."""


def reciprocal_rank_fusion(lists: Mapping[str, Sequence[Candidate]]) -> list[Pooled]:
    """The union of the arms' lists, each item once, with its provenance, best first; every arm counts the same. The
    score is the sum over arms of 1 / (RRF_K + rank), with ranks from 1."""
    return combine(lists, dict.fromkeys(lists, 1.0), _parts)


def _parts(arm: str, scores: Sequence[float]) -> list[float]:
    return [1.0 / (RRF_K + rank) for rank in range(1, len(scores) + 1)]

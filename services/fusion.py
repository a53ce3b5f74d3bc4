"""From the arms' lists to one union: check each list, fuse the scores, order with one tie rule.

Scores of different arms are on different scales (BM25 against cosine), so they are never added raw: each list is
scaled to 0..1 first, then mixed by weights. Convex mixing of min-max scores beats reciprocal rank fusion in and out of
domain (Bruch, Gai, Ingber 2023, arXiv 2210.11934); unweighted rank fusion over arms of unequal quality is worse than
the best arm alone, so weights are never optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from services.errors import ArmFailed
from services.types import Candidate, Found, Pooled

FUSION_WEIGHTS: Mapping[str, float] = {
    "lexical": 0.59,
    "structured": 0.17,
    "vector": 0.18,
    "memory": 0.5,
    "personal": 0.05,
    "explore": 0.01,
}
"""Default share of each arm in the fused score; an arm that is not named here weighs nothing."""

RRF_K = 60
"""Constant of reciprocal rank fusion (Cormack, Clarke, Büttcher, SIGIR 2009)."""

_LARGEST = 1e300
"""Scores beyond this (infinity and NaN with them) are garbage; below it no difference of two scores overflows."""


def clean(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """`candidates` as a list, after checking that an arm kept its contract.

    Raises ArmFailed("garbage") for more than `count` candidates, wrong types, an empty or repeated id, or a score that
    is not a finite number of sane size: one broken list must not decide the order of a whole answer.
    """
    if not isinstance(candidates, (list, tuple)) or len(candidates) > count:
        raise ArmFailed("garbage")
    seen: set[str] = set()
    for candidate in candidates:
        if not isinstance(candidate, Candidate):
            raise ArmFailed("garbage")
        object_id, score = candidate.object_id, candidate.score
        if not isinstance(object_id, str) or not object_id or object_id in seen:
            raise ArmFailed("garbage")
        if isinstance(score, bool) or not isinstance(score, (float, int)) or not -_LARGEST < score < _LARGEST:
            raise ArmFailed("garbage")
        seen.add(object_id)
    return list(candidates)


def scale(scores: Sequence[float]) -> list[float]:
    """Min-max: each score's place between the worst (0) and the best (1) of its own list.

    A list of one item, or of equal scores, gives 1 to all: the arm stands behind every one of them alike.
    """
    if not scores:
        return []
    low = min(scores)
    width = max(scores) - low
    return [(score - low) / width for score in scores] if width > 0.0 else [1.0] * len(scores)


def fuse(
    lists: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
    method: Literal["convex", "rrf"] = "convex",
) -> list[Pooled]:
    """The union of the arms' lists (as `clean` leaves them), each item once, with its provenance, best first.

    convex: sum over arms of weight x scaled score; rrf: sum over arms of weight / (60 + rank). An arm that does not
    have the item adds 0. Weights are not renormalised over the arms that answered: that would multiply all scores of
    an answer by the same number, which changes no order and hides how much evidence there was.
    """
    pool: dict[str, Pooled] = {}
    for name, candidates in lists.items():
        weight = weights.get(name, 0.0)
        if method == "rrf":
            parts = [1.0 / (RRF_K + rank) for rank in range(1, len(candidates) + 1)]
        else:
            parts = scale([candidate.score for candidate in candidates])
        for rank, (candidate, part) in enumerate(zip(candidates, parts, strict=True), 1):
            pooled = pool.get(candidate.object_id)
            if pooled is None:
                pooled = pool[candidate.object_id] = Pooled(candidate.object_id, {})
            pooled.arms[name] = Found(rank, candidate.score)
            pooled.score += weight * part
    union = list(pool.values())
    return [union[i] for i in order(union)]


def order(pool: Sequence[Pooled]) -> list[int]:
    """Indices of `pool`, best first: score descending, then object id ascending. The one tie rule of the product."""
    return [i for _, _, i in sorted([(-pooled.score, pooled.object_id, i) for i, pooled in enumerate(pool)])]

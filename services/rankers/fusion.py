"""Fusion of the arms' lists into one pool: check each list, fuse the scores, order with one tie rule.

Scores of different arms are on different scales (BM25 against cosine), so they are never added raw: each list is
scaled to 0..1 first, then mixed by weights. Convex mixing of min-max scores beats reciprocal rank fusion in and out of
domain (Bruch, Gai, Ingber 2023, arXiv 2210.11934); unweighted rank fusion over arms of unequal quality is worse than
the best arm alone, so weights are never optional.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.arm_profiles import ScoreKind, SlotResponse, by_number
from services.errors import ArmFailed
from services.types import Candidate, DegradedReason, Found, Interpretation, Pooled, Understanding

FUSION_WEIGHTS: Mapping[str, float] = {profile.name: profile.fusion_weight for profile in by_number()}
"""Default weight of each arm in the fused score; an arm that is not named here weighs nothing."""
LAST_ITEM_SCORE = 0.2
"""Scaled score of the last item of a list: being retrieved is evidence, and the length of the list is the policy's
choice, not a property of the item. Films, validation, 10 candidates an arm: NDCG@10 .597 against .585 with 0."""

COVERED_TEXT_FACTOR = 0.4
COVERED_PERSONAL_WEIGHT = 0.7
UNCOVERED_STRUCTURE_FACTOR = 0.2
"""Factors by which `adapt` scales the weights at the extremes of slot coverage. Films, validation, 180 queries of each
kind, traffic mix: NDCG@10 .668 with these, .640 without adapting (facet .967 and .944, personal .173 and .025, title
.885 and .881)."""

_SCORE_KINDS: Mapping[str, ScoreKind] = {profile.name: profile.score_kind for profile in by_number()}
_RESPONSES: Mapping[str, SlotResponse] = {profile.name: profile.slot_response for profile in by_number()}
_MAX_SCORE = 1e300
"""Scores beyond this (infinity and NaN with them) are garbage; below it no difference of two scores overflows."""


def slot_coverage(understanding: Understanding, title: str | None) -> tuple[float, float]:
    """(share of the query that its slots cover, the same if they cover all of it, else 0), each in 0..1.

    Titles named in the query do not count: words find them best. `title` is the field that names an item.
    """
    likeliest = understanding.interpretations[0] if understanding.interpretations else Interpretation(0.0, (), ())
    if all(slot.field == title for slot in likeliest.slots):
        return 0.0, 0.0
    parts = len(likeliest.slots) + len(likeliest.rest)
    share = likeliest.likelihood * len(likeliest.slots) / parts
    return share, 0.0 if likeliest.rest else share


def adapt(weights: Mapping[str, float], share: float, whole: float) -> dict[str, float]:
    """`weights` adapted to a query of which slots cover `share` and `whole` (see `slot_coverage`).

    If slots cover the whole query ("80s horror films"), words add little, and among the many matching items the user's
    taste decides, not other users' clicks; if they cover it in part, or not at all, structure is trusted less.
    """
    adapted = dict(weights)
    for arm, weight in weights.items():
        match _RESPONSES.get(arm):
            case SlotResponse.FALLS:
                adapted[arm] = weight * (1.0 - (1.0 - COVERED_TEXT_FACTOR) * whole)
            case SlotResponse.RISES:
                adapted[arm] = weight * (UNCOVERED_STRUCTURE_FACTOR + (1.0 - UNCOVERED_STRUCTURE_FACTOR) * share)
            case SlotResponse.DECIDES:
                adapted[arm] = weight + (COVERED_PERSONAL_WEIGHT - weight) * whole
    return adapted


def clean(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """`candidates` as a list, after checking that an arm kept its contract.

    Raises ArmFailed("garbage") for more than `count` candidates, wrong types, an empty or repeated id, or a score that
    is not a finite number of sane size: one broken list must not decide the order of a whole answer.
    """
    if not isinstance(candidates, (list, tuple)) or len(candidates) > count:
        raise ArmFailed(DegradedReason.GARBAGE)
    seen: set[str] = set()
    for candidate in candidates:
        if not isinstance(candidate, Candidate):
            raise ArmFailed(DegradedReason.GARBAGE)
        object_id, score = candidate.object_id, candidate.score
        if not isinstance(object_id, str) or not object_id or object_id in seen:
            raise ArmFailed(DegradedReason.GARBAGE)
        if isinstance(score, bool) or not isinstance(score, (float, int)) or not -_MAX_SCORE < score < _MAX_SCORE:
            raise ArmFailed(DegradedReason.GARBAGE)
        seen.add(object_id)
    return list(candidates)


def scale(arm: str, scores: Sequence[float]) -> list[float]:
    """Scores of one arm's list, scaled to 0..1 so that they are comparable with those of other arms.

    Min-max between LAST_ITEM_SCORE (the worst of the list) and 1 (the best; all of them when all score the same). For
    confidences the best item gets its own score in place of 1. Probabilities are kept as they are: a single doubtful
    click must not count as certainty because nothing else is remembered.
    """
    if not scores:
        return []
    kind = _SCORE_KINDS.get(arm, ScoreKind.RELATIVE)
    if kind is ScoreKind.PROBABILITY:
        return [min(max(score, 0.0), 1.0) for score in scores]
    low, high = min(scores), max(scores)
    sure = min(max(high, 0.0), 1.0) if kind is ScoreKind.CONFIDENCE else 1.0
    if high <= low:
        return [sure] * len(scores)
    slope = sure * (1.0 - LAST_ITEM_SCORE) / (high - low)
    return [sure * LAST_ITEM_SCORE + slope * (score - low) for score in scores]


def shortened(arm: str, parts: NDArray[np.float64], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Contributions of an arm's items had its list ended with the last of `kept`; 0 for the others.

    parts: per item weight x scaled score in the whole list. Scaled scores are relative to the list's best and worst,
    so those of a shorter list follow from them.
    """
    if _SCORE_KINDS.get(arm) is ScoreKind.PROBABILITY or not kept.any():
        return np.where(kept, parts, 0.0)
    low, high = float(parts[kept].min()), float(parts[kept].max())
    if high <= low:
        return np.where(kept, high, 0.0)
    return np.where(kept, high * (LAST_ITEM_SCORE + (1.0 - LAST_ITEM_SCORE) * (parts - low) / (high - low)), 0.0)


def fuse(
    lists: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
) -> list[Pooled]:
    """The union of the arms' lists (as `clean` leaves them), each item once, with its provenance, best first.

    The score is the sum over arms of weight x scaled score; an arm that does not have the item adds 0. Weights are not
    renormalised over the arms that answered: that would multiply all scores of an answer by the same number, which
    changes no order and hides how much evidence there was.
    """
    return combine(lists, weights, scale)


def combine(
    lists: Mapping[str, Sequence[Candidate]],
    weights: Mapping[str, float],
    parts_of: Callable[[str, Sequence[float]], Sequence[float]],
) -> list[Pooled]:
    """Like `fuse`, with contributions given by `parts_of`: (arm, the scores of its list, best first) -> one per
    item."""
    pool: dict[str, Pooled] = {}
    for name, candidates in lists.items():
        weight = weights.get(name, 0.0)
        parts = parts_of(name, [candidate.score for candidate in candidates])
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

"""Relevance measures of a ranking or of a set of candidates. Pure.

`ranked` is a sequence of distinct ids, best first; `grades` are those of all judged items of the query. An item is
relevant when its grade is above 0; an unjudged item counts as irrelevant, and `judged` measures their share. For a
query without a relevant item every measure but `judged` is 0: leave it out of a mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from services.errors import InvalidRequest

Grades = Mapping[str, float]
"""object_id -> grade; larger is better."""
Measure = Callable[[Sequence[str], Grades], float]
"""(ranked ids, grades) -> value, 0..1."""


def exponential(grade: float) -> float:
    """Gain 2^grade - 1 (Burges et al., ICML 2005): grade 2 is worth three times grade 1."""
    return float(2.0**grade - 1.0)


def linear(grade: float) -> float:
    """Gain = grade, for grades that already are gains (weights of actions); negative grades count as 0."""
    return max(grade, 0.0)


def dcg(gains: Iterable[float], k: int = 10) -> float:
    """Sum of gain / log2(1 + rank) over the first k (Järvelin and Kekäläinen, TOIS 2002)."""
    return sum(gain / math.log2(1 + rank) for rank, gain in zip(range(1, k + 1), gains, strict=False))


def ndcg(
    grades: Sequence[float],
    scores: Sequence[float],
    ids: Sequence[str],
    k: int = 10,
    ideal_grades: Iterable[float] | None = None,
    gain: Callable[[float], float] = exponential,
) -> float:
    """DCG@k of the ranking by score (ties by id, ascending) over the DCG@k of the ideal ranking; 0..1.

    grades, scores, ids: one each per ranked item; an unjudged item has grade 0. ideal_grades: of all judged items of
    the query, ranked or not (default: `grades`), so that missing relevant items lower the value. 0 when no item is
    relevant: leave such queries out of a mean."""
    best = dcg(sorted((gain(g) for g in (grades if ideal_grades is None else ideal_grades)), reverse=True), k)
    if best <= 0.0:
        return 0.0
    ranked = sorted(zip((-score for score in scores), ids, grades, strict=True))
    return dcg((gain(grade) for _, _, grade in ranked[:k]), k) / best


def ranked_ndcg(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """NDCG@k of a ranking against the ideal ranking of all judged items, 0..1."""
    return ndcg([grades.get(i, 0.0) for i in ranked], range(len(ranked), 0, -1), ranked, k, grades.values())


def reciprocal_rank(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / rank of the first relevant item, 0 when none is in the top k; its mean over queries is MRR@k (Voorhees,
    TREC-8 1999)."""
    ranks = (rank for rank, i in enumerate(ranked[:k], 1) if grades.get(i, 0.0) > 0.0)
    return 1.0 / next(ranks, math.inf)


def average_precision(ranked: Sequence[str], grades: Grades, k: int | None = None) -> float:
    """Sum of the precision at the rank of each relevant item in the top k (default: all), over the number of relevant
    items, retrieved or not; its mean over queries is MAP (Buckley and Voorhees, SIGIR 2000)."""
    found, total = 0, 0.0
    for rank, i in enumerate(ranked[:k], 1):
        if grades.get(i, 0.0) > 0.0:
            found += 1
            total += found / rank
    return total / _relevant(grades) if found else 0.0


def recall(ranked: Sequence[str], grades: Grades, k: int = 100) -> float:
    """Share of the relevant items that are in the top k (Manning, Raghavan, Schütze 2008, section 8.3)."""
    found = sum(grades.get(i, 0.0) > 0.0 for i in ranked[:k])
    return found / _relevant(grades) if found else 0.0


def capped_recall(candidates: Collection[str], grades: Grades, k: int = 10) -> float:
    """min(relevant candidates, k) / min(relevant items, k): whether an unordered set allows a perfect top k.

    The capped recall of Thakur et al. (BEIR, NeurIPS 2021), where a query with more than k relevant items can reach 1,
    computed on a whole set instead of a list's top k. Each candidate counts once.
    """
    found = sum(grades.get(i, 0.0) > 0.0 for i in set(candidates))
    return min(found, k) / min(_relevant(grades), k) if found else 0.0


def judged(ranked: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Share of the top k that is judged; 0 for an empty ranking. The lower it is, the less reliable are the other
    measures (1 - Hole@k of Thakur et al., NeurIPS 2021)."""
    first = ranked[:k]
    return sum(i in grades for i in first) / len(first) if first else 0.0


def _relevant(grades: Grades) -> int:
    return sum(grade > 0.0 for grade in grades.values())


_FAMILIES: Mapping[str, Callable[[Sequence[str], Grades, int], float]] = {
    "ndcg": ranked_ndcg,
    "mrr": reciprocal_rank,
    "map": average_precision,
    "recall": recall,
    "capped_recall": capped_recall,
    "judged": judged,
}
NAMES = tuple(f"{family}@k" for family in _FAMILIES)
_NAME = re.compile(r"([a-z_]+)@([1-9][0-9]{0,3})")


def named(name: str) -> Measure:
    """The measure called, for example, `ndcg@10`. Raises InvalidRequest when there is none."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] not in _FAMILIES:
        raise InvalidRequest(f"no measure {name!r}; the measures are {', '.join(NAMES)}, with a number for k")
    function, k = _FAMILIES[match[1]], int(match[2])
    return lambda ranked, grades: function(ranked, grades, k)

"""Repeated queries, and how much of the gap to a perfect ranking the click memory closes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.datasets.folder import DatasetQuery
from services.evaluation.intervals import Interval, bootstrap
from services.simulation.traffic import Search, SearchBehaviour

DEFAULT_SLICES = ("title", "typo", "topic")
"""Slices of films-mixed whose queries belong to no user and leave room for learning."""
REPEAT_COUNTS = (0, 1, 5, 20, 50)
"""Impressions per query before the one that is measured."""
GOAL_REPEATS, GOAL_SHARE = 20, 0.4
"""The goal: close this share of the gap after so many impressions per query."""
DAY = 86400.0


def sample_queries(
    queries: Iterable[DatasetQuery], each: int, slices: Sequence[str] = DEFAULT_SLICES
) -> list[DatasetQuery]:
    """Up to `each` queries per slice, spread evenly over it; from all slices when none of the named ones exists.
    Queries that belong to a user are left out."""
    found: dict[str, list[DatasetQuery]] = {}
    for query in queries:
        if query.user_id is None:
            found.setdefault(query.slice, []).append(query)
    chosen = [name for name in slices if name in found] or sorted(found)
    return [
        found[name][place * len(found[name]) // min(each, len(found[name]))]
        for name in chosen
        for place in range(min(each, len(found[name])))
    ]


class RepeatTraffic:
    """Cycles through `queries` at equal time intervals, each time from a new anonymous session: user history and caps
    on a user's clicks play no role, only the memory of the query."""

    def __init__(self, queries: Sequence[DatasetQuery], behaviour: SearchBehaviour | None = None) -> None:
        self._queries = queries
        self._behaviour = behaviour or SearchBehaviour()

    def since(self, index: int = 0) -> Iterator[Search]:
        """Searches from `index` on, without end."""
        pause = DAY / self._behaviour.searches_per_day
        while True:
            query, at = self._queries[index % len(self._queries)], self._behaviour.start + index * pause
            yield Search(index, at, query, None, f"round-{index}", {"device": "desktop"})
            index += 1


@dataclass(frozen=True, slots=True)
class RepeatResult:
    """Results on the queries of one slice, or `all`, after a number of impressions per query."""

    part: str
    queries: int
    after: int
    remembering: Interval
    """NDCG@10 of the service with click memory, as served (including its exploration)."""
    forgetful: Interval
    """NDCG@10 of the service without click memory."""
    closed: Interval
    """Share of the gap between the service without memory and a perfect ranking that memory closes."""


def repeat_results(
    remembering: NDArray[np.float64],
    forgetful: NDArray[np.float64],
    slices: Sequence[str],
    after: Sequence[int] = REPEAT_COUNTS,
) -> list[RepeatResult]:
    """Results by part and number of impressions. remembering, forgetful: NDCG@10 with and without memory, [rounds,
    queries], means over seeds; slices: one per query. Means over queries are unweighted."""
    found = []
    kinds = np.array(slices)
    for part in ("all", *dict.fromkeys(slices)):
        members = np.ones(len(kinds), bool) if part == "all" else kinds == part
        for times in after:
            if times < len(remembering):
                ours, theirs = remembering[times, members], forgetful[times, members]
                means = bootstrap(ours.tolist()), bootstrap(theirs.tolist())
                found.append(RepeatResult(part, int(members.sum()), times, *means, gap_closed(ours, theirs)))
    return found


def gap_closed(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """sum(ours - theirs) / sum(1 - theirs) over queries, with its 95 % bootstrap interval over queries; 0 where there
    is no gap."""
    gained, missing = ours - theirs, 1.0 - theirs
    drawn = np.random.default_rng(seed).integers(0, len(ours), (resamples, len(ours)))
    low, high = np.percentile(_share(gained[drawn].sum(axis=1), missing[drawn].sum(axis=1)), [2.5, 97.5])
    return Interval(float(_share(gained.sum(), missing.sum())), float(low), float(high))


def _share(gained: NDArray[np.float64], missing: NDArray[np.float64]) -> NDArray[np.float64]:
    gained, missing = np.asarray(gained, dtype=np.float64), np.asarray(missing, dtype=np.float64)
    return np.divide(gained, missing, out=np.zeros_like(gained), where=missing > 1e-9)

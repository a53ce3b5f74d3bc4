"""The same queries asked over and over, and how much of what an order lacks is made up for by remembering. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.datasets.folder import DatasetQuery
from services.evaluation.intervals import Interval, bootstrap
from services.simulation.users import Habits, Search

SLICES = ("title", "typo", "topic")
"""Of films-mixed: those that anybody may ask, and that leave something to learn."""
AFTER = (0, 1, 5, 20, 50)
"""Impressions a query before the one that is measured."""
GOAL_AFTER, GOAL = 20, 0.4
"""Share of the gap that is to be closed after so many impressions."""
DAY = 86400.0


def sample(queries: Iterable[DatasetQuery], each: int, slices: Sequence[str] = SLICES) -> list[DatasetQuery]:
    """Up to `each` queries of every slice, spread evenly over it; of all slices where none of these is there. Queries
    of persons are left out."""
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


class Rounds:
    """Searches for each of `queries` in turn, again and again, at even times, by somebody else each time: nobody's
    history and nobody's share of the clicks counts, only what is remembered of the query."""

    def __init__(self, queries: Sequence[DatasetQuery], habits: Habits | None = None) -> None:
        self._queries = queries
        self._habits = habits or Habits()

    def since(self, index: int = 0) -> Iterator[Search]:
        pause = DAY / self._habits.per_day
        while True:
            query, at = self._queries[index % len(self._queries)], self._habits.start + index * pause
            yield Search(index, at, query, None, f"round-{index}", {"device": "desktop"})
            index += 1


@dataclass(frozen=True, slots=True)
class Repeated:
    """Queries of one slice, or all of them."""

    part: str
    queries: int
    after: int
    remembering: Interval
    """NDCG@10 of the service that remembers, as served (its exploration included)."""
    forgetful: Interval
    """The same of the service without memory."""
    closed: Interval
    """Share of the gap between the forgetful service and the perfect order that remembering closes."""


def repeated(
    remembering: NDArray[np.float64],
    forgetful: NDArray[np.float64],
    slices: Sequence[str],
    after: Sequence[int] = AFTER,
) -> list[Repeated]:
    """remembering, forgetful: NDCG@10 [rounds, queries], means over seeds; slices: one a query. Figures are means over
    queries, all of the same weight."""
    found = []
    kinds = np.array(slices)
    for part in ("all", *dict.fromkeys(slices)):
        inside = np.ones(len(kinds), bool) if part == "all" else kinds == part
        for times in after:
            if times < len(remembering):
                ours, theirs = remembering[times, inside], forgetful[times, inside]
                means = bootstrap(ours.tolist()), bootstrap(theirs.tolist())
                found.append(Repeated(part, int(inside.sum()), times, *means, closed(ours, theirs)))
    return found


def closed(ours: NDArray[np.float64], theirs: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """sum(ours - theirs) / sum(1 - theirs) over queries, with its 95 % interval over resamples of the queries; 0 where
    nothing is missing."""
    gained, missing = ours - theirs, 1.0 - theirs
    drawn = np.random.default_rng(seed).integers(0, len(ours), (resamples, len(ours)))
    low, high = np.percentile(_share(gained[drawn].sum(axis=1), missing[drawn].sum(axis=1)), [2.5, 97.5])
    return Interval(float(_share(gained.sum(), missing.sum())), float(low), float(high))


def _share(gained: NDArray[np.float64], missing: NDArray[np.float64]) -> NDArray[np.float64]:
    gained, missing = np.asarray(gained, dtype=np.float64), np.asarray(missing, dtype=np.float64)
    return np.divide(gained, missing, out=np.zeros_like(gained), where=missing > 1e-9)

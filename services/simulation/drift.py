"""Drift during a simulation: items that arrive, user intents that shift, arms that fail and recover. Pure.

Times are indices of searches: a change at `at` applies to the search with that index and all later ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.datasets.folder import DatasetQuery
from services.errors import InvalidRequest
from services.simulation.traffic import uniforms

Grades = Mapping[str, float]
"""object_id -> grade."""
EMPTY: frozenset[str] = frozenset()
COMMON_WORD_SHARE = 0.2
"""A word in at least this share of the personal queries carries no intent ("good", "movies")."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Items that enter the catalogue at search `at`."""

    at: int
    items: frozenset[str]


@dataclass(frozen=True, slots=True)
class IntentSwap:
    """From search `at` on, users who issue a query want what they wanted from its partner before: nothing in the words
    of the query reveals it."""

    at: int
    partners: Mapping[str, str]
    """query_id -> query_id."""


@dataclass(frozen=True, slots=True)
class Outage:
    """An arm that fails from search `start` until before search `end`. Raises InvalidRequest unless start < end."""

    arm: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise InvalidRequest(f"the outage of {self.arm} ends at {self.end}, but starts at {self.start}")


@dataclass(frozen=True)
class Drift:
    """A schedule of changes; swaps at the same time are applied in the order given."""

    arrivals: tuple[Arrival, ...] = ()
    swaps: tuple[IntentSwap, ...] = ()
    outages: tuple[Outage, ...] = ()
    _arrival_times: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _missing: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)
    _ordered_swaps: tuple[IntentSwap, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        missing: list[frozenset[str]] = [EMPTY]
        arrivals = sorted(self.arrivals, key=lambda arrival: arrival.at)
        for arrival in reversed(arrivals):
            missing.append(missing[-1] | arrival.items)
        object.__setattr__(self, "_arrival_times", tuple(arrival.at for arrival in arrivals))
        object.__setattr__(self, "_missing", tuple(reversed(missing)))
        object.__setattr__(self, "_ordered_swaps", tuple(sorted(self.swaps, key=lambda swap: swap.at)))

    def missing_items(self, index: int) -> frozenset[str]:
        """Items that are not in the catalogue yet at search `index`."""
        return self._missing[bisect_right(self._arrival_times, index)]

    def failed_arms(self, index: int) -> frozenset[str]:
        """Arms that do not answer at search `index`."""
        if not self.outages:
            return EMPTY
        return frozenset(outage.arm for outage in self.outages if outage.start <= index < outage.end)

    def era(self, index: int) -> int:
        """Number of swaps up to search `index`: grades are constant within an era."""
        return bisect_right(self._ordered_swaps, index, key=lambda swap: swap.at)

    def grades(self, judgments: Mapping[str, Grades], query_id: str, index: int) -> Grades:
        """Grades of a query at search `index`, given the original `judgments` (query_id -> object_id -> grade); empty
        for an unjudged query."""
        for swap in reversed(self._ordered_swaps[: self.era(index)]):
            query_id = swap.partners.get(query_id, query_id)
        return judgments.get(query_id, {})


def schedule_arrivals(ids: Iterable[str], share: float, times: Sequence[int], seed: int = 0) -> tuple[Arrival, ...]:
    """A share (0..1) of the catalogue, chosen by the seed regardless of the order of `ids`, arrives at the given times
    in waves of about equal size. Raises InvalidRequest for a share out of range, or without times."""
    if not 0.0 <= share <= 1.0 or not times:
        raise InvalidRequest(f"a share of 0..1 arrives at one or more times, not {share} at {list(times)}")
    waves: defaultdict[int, set[str]] = defaultdict(set)
    ids = list(ids)
    for object_id, uniform in zip(ids, uniforms(seed, 0, ids), strict=True):
        if uniform < share:
            waves[int(uniform / share * len(times))].add(object_id)
    return tuple(Arrival(at, frozenset(waves[wave])) for wave, at in enumerate(times))


def swap_queries(queries: Iterable[DatasetQuery], at: int, seed: int = 0) -> IntentSwap:
    """Random pairs of queries of the same slice swap what is wanted from them; of an odd number one is unchanged.
    Queries that belong to a user are left out."""
    slices: defaultdict[str, list[str]] = defaultdict(list)
    for query in queries:
        if query.user_id is None:
            slices[query.slice].append(query.query_id)
    partners: dict[str, str] = {}
    for members in slices.values():
        for one, other in _pairs(members, seed):
            partners |= {one: other, other: one}
    return IntentSwap(at, partners)


def swap_users(queries: Iterable[DatasetQuery], at: int, seed: int = 0) -> IntentSwap:
    """Random pairs of users swap their tastes: each now wants from a query what the other wanted from their most
    similar query (by shared words, weighted by rarity; words in a fifth of the queries or more do not count). Queries
    without a similar one are unchanged."""
    by_user: defaultdict[str, list[DatasetQuery]] = defaultdict(list)
    for query in queries:
        if query.user_id is not None:
            by_user[query.user_id].append(query)
    words = {query.query_id: set(query.text.lower().split()) for own in by_user.values() for query in own}
    counts = Counter(word for own in words.values() for word in own)
    distinctive = {word for word, count in counts.items() if count < COMMON_WORD_SHARE * len(words)}
    partners: dict[str, str] = {}
    for one, other in _pairs(list(by_user), seed):
        by_similarity = (
            (
                -sum(1.0 / counts[word] for word in words[a.query_id] & words[b.query_id] & distinctive),
                a.query_id,
                b.query_id,
            )
            for a in by_user[one]
            for b in by_user[other]
        )
        for negative_similarity, a_id, b_id in sorted(by_similarity):
            if negative_similarity < 0.0 and a_id not in partners and b_id not in partners:
                partners |= {a_id: b_id, b_id: a_id}
    return IntentSwap(at, partners)


def _pairs(names: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """Random pairs, regardless of the order of `names`."""
    order = [name for _, name in sorted(zip(uniforms(seed, 0, names), names, strict=True))]
    return list(zip(order[::2], order[1::2], strict=False))

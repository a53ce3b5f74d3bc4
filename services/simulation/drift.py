"""What changes while a simulation runs: items that come, tastes that turn, arms that die and return. Pure.

Moments are indices of searches: a change at `at` is in force for the search of that number and all after it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.datasets.folder import DatasetQuery
from services.errors import InvalidRequest
from services.simulation.users import uniforms

Grades = Mapping[str, float]
"""object_id -> grade."""
NOTHING: frozenset[str] = frozenset()
_EMPTY = 0.2
"""A word that more than this share of the personal queries have says nothing of what is wanted ("good", "movies")."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Items that the catalogue does not have before `at`."""

    at: int
    items: frozenset[str]


@dataclass(frozen=True, slots=True)
class Exchange:
    """From `at` on people want of a query what they wanted of its partner: nothing in the words leads there."""

    at: int
    partners: Mapping[str, str]
    """query_id -> query_id."""

    def grades(self, before: _Before, query_id: str) -> Grades:
        return before(self.partners.get(query_id, query_id))


@dataclass(frozen=True, slots=True)
class Reversal:
    """From `at` on the grades of a query's judged items are dealt out in the opposite order (best first, ties by id):
    another of the items that answer to its words is wanted. Changes nothing where all grades are the same."""

    at: int
    queries: frozenset[str]

    def grades(self, before: _Before, query_id: str) -> Grades:
        found = before(query_id)
        if query_id not in self.queries:
            return found
        order = sorted(found, key=lambda object_id: (-found[object_id], object_id))
        return dict(zip(order, sorted(found.values()), strict=True))


@dataclass(frozen=True, slots=True)
class Outage:
    """An arm that does not answer from `start` on, and does again from `end` on."""

    arm: str
    start: int
    end: int

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise InvalidRequest(f"the outage of {self.arm} ends at {self.end}, but starts at {self.start}")


@dataclass(frozen=True, slots=True)
class _Before:
    """Grades as they were before change number `number`."""

    given: Mapping[str, Grades]
    changes: Sequence[Exchange | Reversal]
    number: int

    def __call__(self, query_id: str) -> Grades:
        if self.number == 0:
            return self.given.get(query_id, {})
        earlier = _Before(self.given, self.changes, self.number - 1)
        return self.changes[self.number - 1].grades(earlier, query_id)


@dataclass(frozen=True)
class Drift:
    """A schedule; changes of taste at the same moment happen in the order given."""

    arrivals: tuple[Arrival, ...] = ()
    changes: tuple[Exchange | Reversal, ...] = ()
    outages: tuple[Outage, ...] = ()
    _arrive: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _absent: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)
    _in_order: tuple[Exchange | Reversal, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        absent: list[frozenset[str]] = [NOTHING]
        arrivals = sorted(self.arrivals, key=lambda arrival: arrival.at)
        for arrival in reversed(arrivals):
            absent.append(absent[-1] | arrival.items)
        object.__setattr__(self, "_arrive", tuple(arrival.at for arrival in arrivals))
        object.__setattr__(self, "_absent", tuple(reversed(absent)))
        object.__setattr__(self, "_in_order", tuple(sorted(self.changes, key=lambda change: change.at)))

    def absent(self, index: int) -> frozenset[str]:
        """Items that the catalogue does not have yet."""
        return self._absent[bisect_right(self._arrive, index)]

    def dead(self, index: int) -> frozenset[str]:
        """Arms that do not answer."""
        if not self.outages:
            return NOTHING
        return frozenset(outage.arm for outage in self.outages if outage.start <= index < outage.end)

    def era(self, index: int) -> int:
        """How many changes of taste have happened: grades are the same within an era."""
        return bisect_right(self._in_order, index, key=lambda change: change.at)

    def grades(self, judgments: Mapping[str, Grades], query_id: str, index: int) -> Grades:
        """What `judgments` (query_id -> object_id -> grade) have become; empty for a query that nobody judged."""
        return _Before(judgments, self._in_order, self.era(index))(query_id)

    @property
    def moments(self) -> tuple[int, ...]:
        """Indices at which anything changes, ascending."""
        happens = {change.at for change in (*self.arrivals, *self.changes)}
        return tuple(sorted(happens | {at for outage in self.outages for at in (outage.start, outage.end)}))


def new_items(ids: Iterable[str], share: float, moments: Sequence[int], seed: int = 0) -> tuple[Arrival, ...]:
    """A share (0..1) of the catalogue, chosen by the seed whatever the order of `ids`, arrives in waves of about one
    size at the given moments. Raises InvalidRequest for another share, or without moments."""
    if not 0.0 <= share <= 1.0 or not moments:
        raise InvalidRequest(f"a share of 0..1 arrives at one moment or more, not {share} at {list(moments)}")
    waves: defaultdict[int, set[str]] = defaultdict(set)
    ids = list(ids)
    for object_id, uniform in zip(ids, uniforms(seed, 0, ids), strict=True):
        if uniform < share:
            waves[int(uniform / share * len(moments))].add(object_id)
    return tuple(Arrival(at, frozenset(waves[wave])) for wave, at in enumerate(moments))


def swapped(queries: Iterable[DatasetQuery], at: int, seed: int = 0) -> Exchange:
    """Pairs of queries of the same slice, by chance, want what the other wanted; of an odd number one stays as it is.
    Queries of persons are left out."""
    slices: defaultdict[str, list[str]] = defaultdict(list)
    for query in queries:
        if query.user_id is None:
            slices[query.slice].append(query.query_id)
    partners: dict[str, str] = {}
    for members in slices.values():
        for one, other in _pairs(members, seed):
            partners |= {one: other, other: one}
    return Exchange(at, partners)


def persons_swapped(queries: Iterable[DatasetQuery], at: int, seed: int = 0) -> Exchange:
    """Pairs of persons, by chance, get each other's taste: each wants of a query what the other wanted of the most
    alike of theirs (shared words, rare ones count more, and those of every fifth query or more nothing). Queries that
    the other has nothing alike to stay."""
    persons: defaultdict[str, list[DatasetQuery]] = defaultdict(list)
    for query in queries:
        if query.user_id is not None:
            persons[query.user_id].append(query)
    words = {query.query_id: set(query.text.lower().split()) for theirs in persons.values() for query in theirs}
    counts = Counter(word for own in words.values() for word in own)
    telling = {word for word, count in counts.items() if count < _EMPTY * len(words)}
    partners: dict[str, str] = {}
    for one, other in _pairs(list(persons), seed):
        alike = (
            (
                -sum(1.0 / counts[word] for word in words[a.query_id] & words[b.query_id] & telling),
                a.query_id,
                b.query_id,
            )
            for a in persons[one]
            for b in persons[other]
        )
        for likeness, a_id, b_id in sorted(alike):
            if likeness < 0.0 and a_id not in partners and b_id not in partners:
                partners |= {a_id: b_id, b_id: a_id}
    return Exchange(at, partners)


def _pairs(names: Sequence[str], seed: int) -> list[tuple[str, str]]:
    """By chance, whatever the order of `names`."""
    order = [name for _, name in sorted(zip(uniforms(seed, 0, names), names, strict=True))]
    return list(zip(order[::2], order[1::2], strict=False))

"""Simulated traffic: who searches for what and when. An endless sequence, a function of its seed and the index.

Searches are made in blocks of BLOCK; a block depends on the seed and its own number alone, so that any search can be
had without those before it, a run can be resumed anywhere, and two policies meet the very same people. Nothing here
knows how well an item answers a query.

Sources: arrivals are an inhomogeneous Poisson process by time rescaling (Cinlar, "Introduction to Stochastic
Processes", 1975, ch. 4), given its number of arrivals a block; users repeat and reword their queries within a session
(Jansen et al., "Real life, real users, and real needs", IP&M 2000); how much each user searches is Zipf's law.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.datasets.folder import DatasetQuery
from services.errors import InvalidRequest
from services.types import Scalar

MIX = {"title": 0.35, "typo": 0.15, "topic": 0.15, "facet": 0.20, "personal": 0.15}
"""Share of traffic per slice of films-mixed (its README)."""
BLOCK = 1024
SESSION = 1800.0
"""Seconds from a session's first search to its last, at most."""
DEVICES = (("mobile", 0.5), ("desktop", 0.3), ("tv", 0.12), ("tablet", 0.08))
_OWN_DEVICE = 0.8
"""Share of sessions on the device that the user prefers."""
_STAYS = 0.5
"""Chance that a further search of a session is of the slice of the one before."""
_COMMON = 200
"""A word of more queries than this says nothing about what two of them have in common."""
_DAY = 86400.0
_KEPT = 4
"""Blocks kept in memory."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How people search. Probabilities are within 0..1. Raises InvalidRequest for what cannot be."""

    start: float = 1_767_571_200.0
    """Unix seconds at which the virtual clock starts: Monday, 5 January 2026, midnight UTC."""
    per_day: float = 5000.0
    """Searches a day, on average."""
    rhythm: float = 0.6
    """Traffic at time t is 1 + rhythm × cos(2π (t - peak)) of its mean, t in days UTC; 0: the same all day."""
    peak_hour: float = 20.0
    goes_on: float = 0.5
    """Chance that a session has one more search."""
    longest: int = 8
    """Searches of a session, at most."""
    pause: float = 90.0
    """Mean seconds between two searches of a session."""
    again: float = 0.1
    """Chance that a further search of a session is the same query once more."""
    near: float = 0.4
    """Chance that another one shares a word with the query before it, when there is such a query."""
    anonymous: float = 0.4
    """Share of the sessions of nobody in particular among those that are not of the data's own persons."""
    visitors: int = 2000
    """Users who return; the r-th searches in proportion to r^-zipf."""
    zipf: float = 0.7
    focus: float = 0.6
    """Share of personal queries in what the data's persons ask for."""

    def __post_init__(self) -> None:
        for name in ("rhythm", "goes_on", "again", "near", "anonymous", "focus"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidRequest(f"{name} {getattr(self, name)} is not within 0..1")
        for name in ("per_day", "pause", "longest", "visitors"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name} {getattr(self, name)} is not a number above 0")


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the traffic."""

    index: int
    at: float
    """Unix seconds of the virtual clock, never before the search of the index before."""
    query: DatasetQuery
    user_id: str | None
    session_id: str
    context: Mapping[str, Scalar]
    """As POST /v1/search takes it."""
    follows: int | None = None
    """Index of the search before it in its session."""


class _Group(NamedTuple):
    """Queries to draw from: their numbers and cumulated shares of traffic."""

    queries: Sequence[int]
    cumulated: Sequence[float]

    def draw(self, uniform: float) -> int:
        return self.queries[_place(self.cumulated, uniform)]


@dataclass(slots=True)
class _Session:
    session_id: str
    user_id: str | None
    person: _Group | None
    """Personal queries of one of the data's persons."""
    context: Mapping[str, Scalar]
    last: tuple[int, int, int | None] | None = None
    """Index, query and slice (None: personal) of the search before."""


class _Draws(NamedTuple):
    """Independent numbers of [0, 1), of one search."""

    goes_on: float
    pause: float
    person: float
    user: float
    device: float
    again: float
    stays: float
    slice: float
    near: float
    query: float


class Traffic:
    """The searches of `seed` (any integer) over `queries`, by `mix` (slice -> share, scaled to sum to 1; default:
    `mix_of`) and within a slice by weight. Shares hold on average for every search, whatever its place in a session.

    A query with a user_id is asked by that person only; persons ask other things, too. Further searches of a session
    may be the same query again or one that shares a word, which favours queries that have such neighbours a little. A
    session never goes beyond the block in which it started.

    Raises InvalidRequest when a slice of the mix has no query with a weight above 0.
    """

    def __init__(
        self,
        queries: Iterable[DatasetQuery],
        seed: int,
        mix: Mapping[str, float] | None = None,
        habits: Habits | None = None,
    ) -> None:
        self.habits = habits or Habits()
        self.seed = seed
        self._queries = tuple(query for query in queries if query.weight > 0.0)
        self.mix = dict(mix_of(self._queries) if mix is None else mix)
        shares = _shares(self._queries, self.mix)
        slices: defaultdict[str, list[int]] = defaultdict(list)
        persons: defaultdict[str, list[int]] = defaultdict(list)
        for i, query in enumerate(self._queries):
            if shares[i] > 0.0:
                (slices[query.slice] if query.user_id is None else persons[query.user_id]).append(i)
        self._slices = [_group(members, shares) for members in slices.values()]
        self._slice_shares = list(accumulate(group.cumulated[-1] for group in self._slices))
        self._persons = list(persons)
        self._personal = [_group(members, shares) for members in persons.values()]
        self._person_shares = list(accumulate(group.cumulated[-1] for group in self._personal))
        personal = self._person_shares[-1] if self._persons else 0.0
        self._focus = max(self.habits.focus, personal) if slices else 1.0
        self._of_persons = personal / self._focus if slices else 1.0
        self._words, self._sharing = self._neighbours(list(slices.values()), shares)
        self._visitors = list(accumulate(rank**-self.habits.zipf for rank in range(1, self.habits.visitors + 1)))
        self._blocks: dict[int, tuple[Search, ...]] = {}

    def search(self, index: int) -> Search:
        """The search number `index`, from 0. Raises IndexError below 0."""
        if index < 0:
            raise IndexError(f"searches are numbered from 0, not {index}")
        number, place = divmod(index, BLOCK)
        block = self._blocks.get(number)
        if block is None:
            block = tuple(self._block(number))
            self._blocks[number] = block
            if len(self._blocks) > _KEPT:
                del self._blocks[next(iter(self._blocks))]
        return block[place]

    def since(self, index: int = 0) -> Iterator[Search]:
        """Searches from number `index` on, without end."""
        while True:
            yield self.search(index)
            index += 1

    def _block(self, number: int) -> Iterator[Search]:
        table = _generator(self.seed, number).random((BLOCK, len(_Draws._fields) + 1))
        times = self._times(number, table[:, -1])
        draws = [_Draws(*row) for row in table[:, :-1].tolist()]
        sessions: list[_Session | None] = [None] * BLOCK
        for place, at in enumerate(times):
            index = number * BLOCK + place
            session = sessions[place]
            if session is None:
                session = self._session(index, draws[place])
                for taken in self._course(place, times, draws, sessions):
                    sessions[taken] = session
            query, of = self._query(session, draws[place])
            follows = None if session.last is None else session.last[0]
            session.last = (index, query, of)
            yield Search(index, at, self._queries[query], session.user_id, session.session_id, session.context, follows)

    def _times(self, number: int, uniforms: NDArray[np.float64]) -> list[float]:
        """Arrivals of a block: of even traffic within its stretch of time, then bent so that they follow the day."""
        habits = self.habits
        grid = np.linspace(0.0, 1.0, 1441)
        peak = habits.peak_hour / 24.0
        swing = np.sin(2 * np.pi * (grid - peak)) + math.sin(2 * math.pi * peak)
        passed = grid + habits.rhythm / (2 * np.pi) * swing
        midnight, into = divmod(habits.start, _DAY)
        even = (number + np.sort(uniforms)) * BLOCK / habits.per_day + np.interp(into / _DAY, grid, passed)
        days = np.floor(even)
        bent = days + np.interp(even - days, passed, grid)
        times: list[float] = np.round((midnight + bent) * _DAY, 3).tolist()
        return times

    def _course(
        self, place: int, times: Sequence[float], draws: Sequence[_Draws], taken: Sequence[_Session | None]
    ) -> list[int]:
        """Places in the block of the searches of a session that starts at `place`, among those not taken."""
        course = [place]
        while len(course) < self.habits.longest and draws[course[-1]].goes_on < self.habits.goes_on:
            last = course[-1]
            wanted = times[last] - self.habits.pause * math.log1p(-draws[last].pause)
            following = max(bisect_left(times, wanted), last + 1)
            while following < BLOCK and taken[following] is not None:
                following += 1
            if following >= BLOCK or times[following] - times[place] > SESSION:
                break
            course.append(following)
        return course

    def _session(self, index: int, draw: _Draws) -> _Session:
        user_id, person = None, None
        if draw.person < self._of_persons:
            who = _place(self._person_shares, draw.user)
            user_id, person = self._persons[who], self._personal[who]
        elif (draw.person - self._of_persons) / (1.0 - self._of_persons) >= self.habits.anonymous:
            user_id = f"visitor-{_place(self._visitors, draw.user) + 1}"
        device = draw.device / _OWN_DEVICE
        if device >= 1.0:
            device = (draw.device - _OWN_DEVICE) / (1.0 - _OWN_DEVICE)
        elif user_id is not None:
            device = uniforms(self.seed, 0, (f"device of {user_id}",))[0]
        return _Session(f"session-{self.seed}-{index}", user_id, person, {"device": _device(device)})

    def _query(self, session: _Session, draw: _Draws) -> tuple[int, int | None]:
        """Number of a query and of its slice (None: personal). Every step leaves the mix as it is: a query is repeated
        as it stands, a slice is kept, or drawn anew."""
        last = session.last
        if last is not None and draw.again < self.habits.again:
            return last[1], last[2]
        if last is not None and draw.stays < _STAYS:
            of = last[2]
        elif session.person is not None and draw.slice < self._focus:
            of = None
        else:
            rest = draw.slice if session.person is None else (draw.slice - self._focus) / (1.0 - self._focus)
            of = _place(self._slice_shares, rest)
        if of is None and session.person is not None:
            return session.person.draw(draw.query), None
        assert of is not None  # noqa: S101  (sessions of nobody have no personal search before)
        if last is not None and draw.near < self.habits.near:
            for word in self._words[last[1]]:
                sharing = self._sharing.get((word, of))
                if sharing is not None and (len(sharing.queries) > 1 or sharing.queries[0] != last[1]):
                    found = _place(sharing.cumulated, draw.query)
                    if sharing.queries[found] == last[1]:
                        found = (found + 1) % len(sharing.queries)
                    return sharing.queries[found], of
        return self._slices[of].draw(draw.query), of

    def _neighbours(
        self, slices: Sequence[Sequence[int]], shares: Sequence[float]
    ) -> tuple[list[tuple[str, ...]], dict[tuple[str, int], _Group]]:
        """Per query its telling words, rarest first; per word and slice the queries that have it."""
        words = [set(query.text.lower().split()) for query in self._queries]
        counts: defaultdict[str, int] = defaultdict(int)
        sharing: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for of, members in enumerate(slices):
            for i in members:
                for word in words[i]:
                    counts[word] += 1
                    sharing[word, of].append(i)
        telling = [
            tuple(sorted((w for w in own if 1 < counts.get(w, 0) <= _COMMON), key=lambda w: (counts[w], w)))
            for own in words
        ]
        return telling, {
            (word, of): _group(members, shares)
            for (word, of), members in sharing.items()
            if 1 < counts[word] <= _COMMON
        }


def uniforms(seed: int, index: int, ids: Sequence[str]) -> list[float]:
    """One number of [0, 1) per id, which depends on seed, index and id alone: common random numbers, so that the same
    item of the same search has the same luck under every policy, in whatever order. The first 53 bits of BLAKE2b-64
    (RFC 7693) over "seed:index:id"."""
    common = blake2b(f"{seed}:{index}:".encode(), digest_size=8)
    found = []
    for object_id in ids:
        digest = common.copy()
        digest.update(object_id.encode("utf-8", "surrogatepass"))
        found.append((int.from_bytes(digest.digest(), "big") >> 11) * 2.0**-53)
    return found


def mix_of(queries: Iterable[DatasetQuery]) -> dict[str, float]:
    """Share of traffic per slice: MIX when the slices are those of films-mixed, else in proportion to weights."""
    weights: defaultdict[str, float] = defaultdict(float)
    for query in queries:
        weights[query.slice] += query.weight
    total = sum(weights.values())
    return dict(MIX) if weights.keys() == MIX.keys() else {name: weight / total for name, weight in weights.items()}


def _shares(queries: Sequence[DatasetQuery], mix: Mapping[str, float]) -> list[float]:
    """Every query's share of traffic; they sum to 1."""
    weights = dict.fromkeys(mix, 0.0)
    for query in queries:
        if query.slice in weights:
            weights[query.slice] += query.weight
    for name, share in mix.items():
        if not 0.0 <= share < math.inf:
            raise InvalidRequest(f"share {share} of slice {name!r} is not a number from 0")
        if share > 0.0 and not weights[name] > 0.0:
            raise InvalidRequest(f"the mix has slice {name!r}, but there is no such query with a weight above 0")
    total = sum(mix.values())
    if not total > 0.0:
        raise InvalidRequest("there are no queries to search for")
    return [
        mix[query.slice] / total * query.weight / weights[query.slice] if mix.get(query.slice, 0.0) > 0.0 else 0.0
        for query in queries
    ]


def _group(members: Sequence[int], shares: Sequence[float]) -> _Group:
    return _Group(tuple(members), tuple(accumulate(shares[i] for i in members)))


def _place(cumulated: Sequence[float], uniform: float) -> int:
    """The place whose stretch of the cumulated shares holds `uniform` of their sum."""
    return min(bisect_right(cumulated, uniform * cumulated[-1]), len(cumulated) - 1)


def _device(uniform: float) -> str:
    return DEVICES[_place(tuple(accumulate(share for _, share in DEVICES)), uniform)][0]


def _generator(seed: int, block: int) -> np.random.Generator:
    """Numbers of a block, by a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011)."""
    key = blake2b(f"traffic:{seed}:{block}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))

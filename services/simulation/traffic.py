"""Simulated traffic: who searches for what and when. An endless sequence, a pure function of seed and index.

Searches are generated in blocks of BLOCK_SIZE. A block depends only on the seed and its own number, so any search can
be computed without those before it, a run can resume anywhere, and two policies see exactly the same users. Nothing
here knows how relevant an item is to a query.

Sources: arrivals are an inhomogeneous Poisson process by time rescaling (Cinlar, "Introduction to Stochastic
Processes", 1975, ch. 4), conditioned on the number of arrivals per block; users repeat and reformulate their queries
within a session (Jansen et al., "Real life, real users, and real needs", IP&M 2000); search frequency per user follows
Zipf's law.
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

FILMS_MIX = {"title": 0.35, "typo": 0.15, "topic": 0.15, "facet": 0.20, "personal": 0.15}
"""Share of traffic per slice of the data set films-mixed (from its README)."""
BLOCK_SIZE = 1024
MAX_SESSION_SECONDS = 1800.0
"""Maximum time from a session's first search to its last."""
DEVICES = (("mobile", 0.5), ("desktop", 0.3), ("tv", 0.12), ("tablet", 0.08))
PREFERRED_DEVICE_SHARE = 0.8
"""Share of a user's sessions that are on the device they prefer."""
SAME_SLICE_PROBABILITY = 0.5
"""Probability that a further search of a session stays in the slice of the previous one."""
MAX_WORD_QUERIES = 200
"""A word found in more queries than this does not relate two of them."""
DAY = 86400.0
CACHED_BLOCKS = 4
"""Number of blocks kept in memory."""


@dataclass(frozen=True, slots=True)
class SearchBehaviour:
    """How users search. Probabilities and shares are within 0..1. Raises InvalidRequest for a value out of range."""

    start: float = 1_767_571_200.0
    """Unix seconds at which the virtual clock starts: Monday, 5 January 2026, midnight UTC."""
    searches_per_day: float = 5000.0
    """Mean number of searches per day."""
    daily_swing: float = 0.6
    """Traffic at time t is 1 + daily_swing × cos(2π (t - peak)) times its mean, t in days UTC; 0: constant all day."""
    peak_hour: float = 20.0
    """Hour of the day (UTC) with the most traffic."""
    continue_probability: float = 0.5
    """Probability that a session has one more search."""
    max_session_searches: int = 8
    mean_pause: float = 90.0
    """Mean seconds between two searches of a session."""
    repeat_probability: float = 0.1
    """Probability that a further search of a session repeats the previous query."""
    reformulate_probability: float = 0.4
    """Probability that a further search that does not repeat it shares a word with the previous query, where such a
    query exists."""
    anonymous_share: float = 0.4
    """Share of sessions without a user id, among those that do not belong to the data set's own users."""
    returning_users: int = 2000
    """Number of generated users who come back; the r-th of them searches in proportion to r^-zipf_exponent."""
    zipf_exponent: float = 0.7
    personal_share: float = 0.6
    """Share of personal queries among the searches of the data set's own users."""

    def __post_init__(self) -> None:
        shares = ("daily_swing", "continue_probability", "repeat_probability", "reformulate_probability")
        for name in (*shares, "anonymous_share", "personal_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidRequest(f"{name} {getattr(self, name)} is not within 0..1")
        for name in ("searches_per_day", "mean_pause", "max_session_searches", "returning_users"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name} {getattr(self, name)} is not a number above 0")


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the traffic."""

    index: int
    at: float
    """Unix seconds of the virtual clock; never decreases with the index."""
    query: DatasetQuery
    user_id: str | None
    session_id: str
    context: Mapping[str, Scalar]
    """The `context` of POST /v1/search."""
    follows: int | None = None
    """Index of the previous search in the session; None for the first one."""


class _QueryPool(NamedTuple):
    """Queries to draw from: their indices and cumulative shares of traffic."""

    queries: Sequence[int]
    cumulated: Sequence[float]

    def draw(self, uniform: float) -> int:
        """Index of the query that `uniform`, a number of [0, 1), selects."""
        return self.queries[_interval(self.cumulated, uniform)]


@dataclass(slots=True)
class _Session:
    session_id: str
    user_id: str | None
    user_queries: _QueryPool | None
    """Personal queries, when the session belongs to one of the data set's own users."""
    context: Mapping[str, Scalar]
    last: tuple[int, int, int | None] | None = None
    """Index, query and slice (None: personal) of the previous search."""


class _Draws(NamedTuple):
    """Independent uniform numbers of [0, 1) for one search."""

    proceed: float
    pause: float
    data_user: float
    user: float
    device: float
    repeat: float
    keep_slice: float
    slice: float
    reformulate: float
    query: float


class Traffic:
    """The searches of `seed` (any integer) over `queries`, drawn by `mix` (slice -> share, scaled to sum to 1; default:
    `traffic_mix`) and by weight within a slice. Shares hold in expectation for every search, whatever its position in a
    session.

    A query with a user_id is issued by that user only; such users issue other queries, too. Further searches of a
    session may repeat the query or share a word with it, which slightly favours queries with such neighbours. A session
    never extends beyond the block in which it started.

    Raises InvalidRequest when a slice of the mix has no query with a weight above 0.
    """

    def __init__(
        self,
        queries: Iterable[DatasetQuery],
        seed: int,
        mix: Mapping[str, float] | None = None,
        behaviour: SearchBehaviour | None = None,
    ) -> None:
        self.behaviour = behaviour or SearchBehaviour()
        self.seed = seed
        self._queries = tuple(query for query in queries if query.weight > 0.0)
        self.mix = dict(traffic_mix(self._queries) if mix is None else mix)
        shares = _shares(self._queries, self.mix)
        slices: defaultdict[str, list[int]] = defaultdict(list)
        by_user: defaultdict[str, list[int]] = defaultdict(list)
        for i, query in enumerate(self._queries):
            if shares[i] > 0.0:
                (slices[query.slice] if query.user_id is None else by_user[query.user_id]).append(i)
        self._slices = [_pool(members, shares) for members in slices.values()]
        self._slice_shares = list(accumulate(group.cumulated[-1] for group in self._slices))
        self._data_users = list(by_user)
        self._data_user_pools = [_pool(members, shares) for members in by_user.values()]
        self._data_user_shares = list(accumulate(group.cumulated[-1] for group in self._data_user_pools))
        personal = self._data_user_shares[-1] if self._data_users else 0.0
        self._personal_share = max(self.behaviour.personal_share, personal) if slices else 1.0
        self._data_user_session_share = personal / self._personal_share if slices else 1.0
        self._distinctive_words, self._queries_sharing = self._neighbours(list(slices.values()), shares)
        ranks = range(1, self.behaviour.returning_users + 1)
        self._user_shares = list(accumulate(rank**-self.behaviour.zipf_exponent for rank in ranks))
        self._blocks: dict[int, tuple[Search, ...]] = {}

    def search(self, index: int) -> Search:
        """The search with the given index, from 0. Raises IndexError below 0."""
        if index < 0:
            raise IndexError(f"searches are numbered from 0, not {index}")
        number, place = divmod(index, BLOCK_SIZE)
        block = self._blocks.get(number)
        if block is None:
            block = tuple(self._block(number))
            self._blocks[number] = block
            if len(self._blocks) > CACHED_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
        return block[place]

    def since(self, index: int = 0) -> Iterator[Search]:
        """Searches from `index` on, without end."""
        while True:
            yield self.search(index)
            index += 1

    def _block(self, number: int) -> Iterator[Search]:
        table = _generator(self.seed, number).random((BLOCK_SIZE, len(_Draws._fields) + 1))
        times = self._times(number, table[:, -1])
        draws = [_Draws(*row) for row in table[:, :-1].tolist()]
        sessions: list[_Session | None] = [None] * BLOCK_SIZE
        for place, at in enumerate(times):
            index = number * BLOCK_SIZE + place
            session = sessions[place]
            if session is None:
                session = self._session(index, draws[place])
                for position in self._session_positions(place, times, draws, sessions):
                    sessions[position] = session
            query, slice_index = self._query(session, draws[place])
            follows = None if session.last is None else session.last[0]
            session.last = (index, query, slice_index)
            yield Search(index, at, self._queries[query], session.user_id, session.session_id, session.context, follows)

    def _times(self, number: int, uniforms: NDArray[np.float64]) -> list[float]:
        """Arrival times of a block in Unix seconds: uniform at first, then rescaled to follow the daily cycle."""
        behaviour = self.behaviour
        grid = np.linspace(0.0, 1.0, 1441)
        peak = behaviour.peak_hour / 24.0
        swing = np.sin(2 * np.pi * (grid - peak)) + math.sin(2 * math.pi * peak)
        warped = grid + behaviour.daily_swing / (2 * np.pi) * swing
        midnight, into = divmod(behaviour.start, DAY)
        even = (number + np.sort(uniforms)) * BLOCK_SIZE / behaviour.searches_per_day
        even += np.interp(into / DAY, grid, warped)
        days = np.floor(even)
        rescaled = days + np.interp(even - days, warped, grid)
        times: list[float] = np.round((midnight + rescaled) * DAY, 3).tolist()
        return times

    def _session_positions(
        self, place: int, times: Sequence[float], draws: Sequence[_Draws], sessions: Sequence[_Session | None]
    ) -> list[int]:
        """Positions in the block of the searches of a session that starts at `place`, among those without a session."""
        positions = [place]
        limit, probability = self.behaviour.max_session_searches, self.behaviour.continue_probability
        while len(positions) < limit and draws[positions[-1]].proceed < probability:
            last = positions[-1]
            wanted = times[last] - self.behaviour.mean_pause * math.log1p(-draws[last].pause)
            following = max(bisect_left(times, wanted), last + 1)
            while following < BLOCK_SIZE and sessions[following] is not None:
                following += 1
            if following >= BLOCK_SIZE or times[following] - times[place] > MAX_SESSION_SECONDS:
                break
            positions.append(following)
        return positions

    def _session(self, index: int, draw: _Draws) -> _Session:
        user_id, user_queries = None, None
        of_data, anonymous = self._data_user_session_share, self.behaviour.anonymous_share
        if draw.data_user < of_data:
            who = _interval(self._data_user_shares, draw.user)
            user_id, user_queries = self._data_users[who], self._data_user_pools[who]
        elif (draw.data_user - of_data) / (1.0 - of_data) >= anonymous:
            user_id = f"visitor-{_interval(self._user_shares, draw.user) + 1}"
        device = draw.device / PREFERRED_DEVICE_SHARE
        if device >= 1.0:
            device = (draw.device - PREFERRED_DEVICE_SHARE) / (1.0 - PREFERRED_DEVICE_SHARE)
        elif user_id is not None:
            device = uniforms(self.seed, 0, (f"device of {user_id}",))[0]
        return _Session(f"session-{self.seed}-{index}", user_id, user_queries, {"device": _device(device)})

    def _query(self, session: _Session, draw: _Draws) -> tuple[int, int | None]:
        """Indices of a query and of its slice (None: personal). Every step preserves the mix: the query is repeated,
        the slice is kept, or a new slice is drawn."""
        last = session.last
        if last is not None and draw.repeat < self.behaviour.repeat_probability:
            return last[1], last[2]
        if last is not None and draw.keep_slice < SAME_SLICE_PROBABILITY:
            slice_index = last[2]
        elif session.user_queries is not None and draw.slice < self._personal_share:
            slice_index = None
        else:
            personal = 0.0 if session.user_queries is None else self._personal_share
            slice_index = _interval(self._slice_shares, (draw.slice - personal) / (1.0 - personal))
        if slice_index is None and session.user_queries is not None:
            return session.user_queries.draw(draw.query), None
        assert slice_index is not None  # noqa: S101  (anonymous sessions have no earlier personal search)
        if last is not None and draw.reformulate < self.behaviour.reformulate_probability:
            for word in self._distinctive_words[last[1]]:
                sharing = self._queries_sharing.get((word, slice_index))
                if sharing is not None and (len(sharing.queries) > 1 or sharing.queries[0] != last[1]):
                    found = _interval(sharing.cumulated, draw.query)
                    if sharing.queries[found] == last[1]:
                        found = (found + 1) % len(sharing.queries)
                    return sharing.queries[found], slice_index
        return self._slices[slice_index].draw(draw.query), slice_index

    def _neighbours(
        self, slices: Sequence[Sequence[int]], shares: Sequence[float]
    ) -> tuple[list[tuple[str, ...]], dict[tuple[str, int], _QueryPool]]:
        """Per query its distinctive words, rarest first; per word and slice the queries that contain it."""
        words = [set(query.text.lower().split()) for query in self._queries]
        counts: defaultdict[str, int] = defaultdict(int)
        sharing: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for slice_index, members in enumerate(slices):
            for i in members:
                for word in words[i]:
                    counts[word] += 1
                    sharing[word, slice_index].append(i)
        distinctive = [
            tuple(sorted((w for w in own if 1 < counts.get(w, 0) <= MAX_WORD_QUERIES), key=lambda w: (counts[w], w)))
            for own in words
        ]
        return distinctive, {
            (word, slice_index): _pool(members, shares)
            for (word, slice_index), members in sharing.items()
            if 1 < counts[word] <= MAX_WORD_QUERIES
        }


def uniforms(seed: int, index: int, ids: Sequence[str]) -> list[float]:
    """One number of [0, 1) per id, which depends only on seed, index and id: common random numbers, so that an item of
    a search gets the same draw under every policy, in any order. The first 53 bits of BLAKE2b-64 (RFC 7693) over
    "seed:index:id"."""
    common = blake2b(f"{seed}:{index}:".encode(), digest_size=8)
    found = []
    for object_id in ids:
        digest = common.copy()
        digest.update(object_id.encode("utf-8", "surrogatepass"))
        found.append((int.from_bytes(digest.digest(), "big") >> 11) * 2.0**-53)
    return found


def traffic_mix(queries: Iterable[DatasetQuery]) -> dict[str, float]:
    """Slice -> share of traffic: FILMS_MIX when the slices are those of films-mixed, else in proportion to weights."""
    weights: defaultdict[str, float] = defaultdict(float)
    for query in queries:
        weights[query.slice] += query.weight
    total = sum(weights.values())
    return (
        dict(FILMS_MIX)
        if weights.keys() == FILMS_MIX.keys()
        else {name: weight / total for name, weight in weights.items()}
    )


def _shares(queries: Sequence[DatasetQuery], mix: Mapping[str, float]) -> list[float]:
    """Each query's share of traffic; they sum to 1."""
    weights = dict.fromkeys(mix, 0.0)
    for query in queries:
        if query.slice in weights:
            weights[query.slice] += query.weight
    for name, share in mix.items():
        if not 0.0 <= share < math.inf:
            raise InvalidRequest(f"share {share} of slice {name!r} is not a number from 0")
        if share > 0.0 and not weights[name] > 0.0:
            raise InvalidRequest(f"the mix has slice {name!r}, but it has no query with a weight above 0")
    total = sum(mix.values())
    if not total > 0.0:
        raise InvalidRequest("there are no queries to draw searches from")
    return [
        mix[query.slice] / total * query.weight / weights[query.slice] if mix.get(query.slice, 0.0) > 0.0 else 0.0
        for query in queries
    ]


def _pool(members: Sequence[int], shares: Sequence[float]) -> _QueryPool:
    return _QueryPool(tuple(members), tuple(accumulate(shares[i] for i in members)))


def _interval(cumulated: Sequence[float], uniform: float) -> int:
    """Index of the interval of the cumulative shares in which the fraction `uniform` of their sum falls."""
    return min(bisect_right(cumulated, uniform * cumulated[-1]), len(cumulated) - 1)


def _device(uniform: float) -> str:
    return DEVICES[_interval(tuple(accumulate(share for _, share in DEVICES)), uniform)][0]


def _generator(seed: int, block: int) -> np.random.Generator:
    """The random generator of a block, counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011)."""
    key = blake2b(f"traffic:{seed}:{block}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big")))

"""The values that flow through a search and a feedback event. Standard library only, no behaviour but derivations.

A search: Query -> Understanding -> Context -> Decision -> {arm: [Candidate]} -> [Pooled] -> Answer; logged: Impression
Feedback: Interaction -> (joined with its Impression by the learner) -> reward
Times are seconds: `Deadline` on the monotonic clock, every `at` on the server's wall clock (Unix epoch).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Scalar = str | int | float | bool
Document = Mapping[str, Any]
"""A catalogue item as its owner sent it; `id` is always present and a non-empty string."""


# --- time ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock by which an answer must be out; passed down to every arm and backend."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment in `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def enforced(self) -> asyncio.Timeout:
        """A context that ends with TimeoutError when time is up: backends keep deadlines by themselves, but one that
        hangs must not hang the answer."""
        return asyncio.timeout(self.remaining())

    def less(self, seconds: float) -> Deadline:
        """An earlier deadline that reserves `seconds` for the work that comes after."""
        return Deadline(self.at - seconds)


# --- who acts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Actor:
    """Who searched, or acted on an answer, as the caller identified them; all None for an anonymous one."""

    user_id: str | None = None
    client_id: str | None = None
    session_id: str | None = None

    @property
    def principal(self) -> str | None:
        """Whose influence this is: user, else client, else session (prefixed so that the three never collide)."""
        for prefix, value in (("u", self.user_id), ("c", self.client_id), ("s", self.session_id)):
            if value is not None:
                return f"{prefix}:{value}"
        return None

    @property
    def person(self) -> str | None:
        """Whose history personalises a search: the user, else the session."""
        if self.user_id is not None:
            return f"u:{self.user_id}"
        return f"s:{self.session_id}" if self.session_id is not None else None


# --- catalogue ----------------------------------------------------------------------------------------------------


class Role(StrEnum):
    """The role of a catalogue field. Every role but TEXT and STORED can be filtered, sorted and faceted."""

    TEXT = "text"
    KEYWORD = "keyword"
    NUMBER = "number"
    DATE = "date"
    POPULARITY = "popularity"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the catalogue and its role."""

    name: str
    role: Role
    weight: float = 1.0
    """Relative weight of a TEXT or KEYWORD field in lexical matching."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Roles of the catalogue's fields and the constants that scale its priors (see services/schema/schema.py)."""

    fields: tuple[Field, ...] = ()
    title: str | None = None
    """The TEXT field that names an item."""
    popularity: str | None = None
    """The POPULARITY field; larger is more popular."""
    rating: str | None = None
    votes: str | None = None
    """NUMBER fields: average rating, and by how many."""
    created: str | None = None
    """The field (DATE, or NUMBER such as a year) that says how new an item is."""
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Everyday phrase -> keyword values it is a synonym of."""
    inferred: bool = True
    """Inferred schemas grow by themselves when items have new fields; schemas set by the owner do not."""
    stats: Mapping[str, float] = field(default_factory=dict)
    """Constants for priors, measured on the catalogue: popularity_scale, votes_median, rating_mean, rating_max."""

    def of(self, *roles: Role) -> tuple[Field, ...]:
        """The fields of these roles, in order."""
        return tuple(f for f in self.fields if f.role in roles)

    def get(self, name: str) -> Field | None:
        """The field of this name; None when there is none."""
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter on one field: any of some values, or a range. Conditions of a request are joined by AND."""

    field: str
    any_of: tuple[Scalar, ...] | None = None
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


Filters = tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Sort:
    """An order by one field."""

    field: str
    descending: bool = False


# --- query and its understanding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """A search request, already validated. `text` is the user's own words and only ever a value."""

    text: str
    filters: Filters = ()
    facets: tuple[str, ...] = ()
    sort: Sort | None = None
    limit: int = 10
    offset: int = 0
    user_id: str | None = None
    session_id: str | None = None
    client_id: str | None = None
    context: Mapping[str, Scalar] = field(default_factory=dict)
    timeout: float = 0.3
    explain: bool = False
    learn: bool = True
    page_of: str | None = None
    """query_id of an earlier answer whose frozen list this request pages through."""

    @property
    def actor(self) -> Actor:
        """The actor of the search."""
        return Actor(self.user_id, self.client_id, self.session_id)


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of the query that names a value of a catalogue field. Offsets are characters of `normalized`."""

    field: str
    value: str
    start: int
    end: int
    confidence: float
    low: float | None = None
    high: float | None = None
    """Inclusive bounds when the slot is a number or a range ("80s" -> 1980..1989); `value` is then its text."""


@dataclass(frozen=True, slots=True)
class Interpretation:
    """One reading of the query; the likelihoods of a query's interpretations sum to at most 1."""

    likelihood: float
    slots: tuple[Slot, ...]
    rest: tuple[str, ...]
    """Tokens that no slot covers, stopwords and empty intent words ("movies", "with") left out."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A spelling of one query token and how likely it is meant."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Understanding:
    """The meaning of a query in the catalogue's terms."""

    normalized: str
    tokens: tuple[str, ...]
    words: tuple[tuple[Alternative, ...], ...]
    """Per token, the spellings to look for, likeliest first; the token itself is always among them."""
    corrected: str | None
    """The whole query in its likeliest spelling when that differs from `normalized`."""
    language: str
    """ISO 639-1 guess, or "und"."""
    interpretations: tuple[Interpretation, ...]
    """Likeliest first; never empty (the fallback has no slots)."""
    rarity: tuple[float, ...] = ()
    """Per token, its inverse document frequency scaled to 0..1 (1: in no item)."""
    unknown: float = 0.0
    """Share of tokens that are not in the catalogue's vocabulary."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Slots of the likeliest interpretation."""
        return self.interpretations[0].slots if self.interpretations else ()


# --- context of a decision ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remembered:
    """One query -> item score of the memory index (Q2E)."""

    object_id: str
    score: float
    clicks: float
    """Position-debiased, decayed weight of the actions behind the score; 0 for a predicted one."""
    predicted: bool
    similarity: float
    """1 for the very same query, less for a neighbouring one."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user's or session's recent history; empty for anonymous requests."""

    key: str | None = None
    recent: tuple[tuple[str, float, float], ...] = ()
    """(object_id, weight, at), newest first; a dislike has a negative weight."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that is known about a search before anything is retrieved: the input of the policy, the arms and the
    ranker."""

    query: Query
    understanding: Understanding
    at: float
    person: Person = field(default_factory=Person)
    memory: tuple[Remembered, ...] = ()
    """Items that pass the request's filters, best first."""


CANDIDATE_COUNTS = (0, 5, 10, 25, 50, 100)
"""Candidate counts that an arm offers the policy unless it has a reason to offer others."""


# --- decision -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ArmOption:
    """An arm as the policy sees it."""

    name: str
    counts: tuple[int, ...]
    """Ascending, starting at 0; (0,) when the arm cannot answer this request."""
    features: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmChoice:
    """The number of candidates to take from an arm, and how it was drawn."""

    count: int
    propensity: float
    distribution: tuple[tuple[int, float], ...]
    """(count, probability) over all counts of the arm, masked ones with probability 0; sums to 1."""


class PolicyMode(StrEnum):
    """Which policy decides (services/policies/modes.py)."""

    LEARNED = "learned"
    STATIC = "static"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Decision:
    """The choices for a request, and everything needed to draw them again."""

    policy: str
    mode: PolicyMode
    model_version: str | None
    seed: int
    arms: Mapping[str, ArmChoice]
    """Every arm that exists, in decision order."""
    shadow: Mapping[str, ArmChoice] | None = None
    """The learned policy's choices (shadow mode only)."""


# --- candidates and answer ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Candidate:
    """One item of one arm's list; its rank is its place in the list. `score` is finite, larger is better."""

    object_id: str
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """Where an arm had a pooled item: rank from 1, and the arm's own score."""

    rank: int
    score: float


@dataclass(slots=True)
class Pooled:
    """An item of the union with its provenance."""

    object_id: str
    arms: dict[str, Found]
    score: float = 0.0
    """Fused score, then the ranker's."""


class DegradedReason(StrEnum):
    """Why an answer went out without one of its parts."""

    TIMEOUT = "timeout"
    ERROR = "error"
    GARBAGE = "garbage"
    """It returned something that is not a valid list of candidates."""
    UNAVAILABLE = "unavailable"
    CIRCUIT_OPEN = "circuit_open"
    """It was not called because it kept failing."""


@dataclass(frozen=True, slots=True)
class Degraded:
    """A part (an arm, or another engine by its name) that is missing from an answer."""

    arm: str
    reason: DegradedReason


@dataclass(frozen=True, slots=True)
class FacetCount:
    """A value of a facet and how many matching items have it."""

    value: Scalar
    count: int


@dataclass(frozen=True, slots=True)
class Hit:
    """One item of an answer."""

    object_id: str
    position: int
    score: float
    document: Document
    arms: Mapping[str, Found]
    highlights: Mapping[str, str]
    tail: bool = False
    explanation: Mapping[str, float] | None = None
    """Feature -> contribution to the score; only when requested."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a search."""

    query_id: str
    took: float
    total: int
    hits: tuple[Hit, ...]
    facets: Mapping[str, Sequence[FacetCount]]
    understanding: Understanding
    decision: Decision
    degraded: tuple[Degraded, ...]


# --- log records --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Impression:
    """Log record of one answer: the items shown and everything needed to learn from it, explain it and page it."""

    query_id: str
    root_id: str
    """query_id of the first page; equal to `query_id` there."""
    at: float
    text: str
    normalized: str
    memory_key: str
    """Key of the memory index this query reads and writes; "" for browsing."""
    signature: str
    """Digest of query text, filters and sort: a later page must carry the same."""
    user_id: str | None
    session_id: str | None
    client_id: str | None
    learn: bool
    understanding: Mapping[str, Any]
    features: Mapping[str, float]
    """Policy features of the context."""
    options: tuple[ArmOption, ...]
    decision: Decision
    lists: Mapping[str, tuple[tuple[str, float], ...]]
    """Per arm queried, its (object_id, score) list in rank order."""
    degraded: tuple[Degraded, ...]
    ranking: tuple[str, ...]
    """The whole ranked list, frozen (first page); empty on later pages."""
    scores: tuple[float, ...]
    offset: int
    shown: tuple[str, ...]
    """Items of this answer; the first stands at position offset + 1."""
    total: int
    ranker: str
    """Version of the ranker that ordered the list."""
    rows: tuple[tuple[float, ...], ...] = ()
    """Ranker features of `shown` as served, one row an item (see services/rankers/features.py NAMES)."""

    @property
    def actor(self) -> Actor:
        """The actor of the search."""
        return Actor(self.user_id, self.client_id, self.session_id)


@dataclass(frozen=True, slots=True)
class Survey:
    """The full lists of all arms for a logged answer, recorded after the answer was sent: from them a policy can learn
    about counts that it did not choose. Its items are the union of these lists in fused order, without their ids.
    """

    query_id: str
    at: float
    ranks: Mapping[str, tuple[int, ...]]
    """Per available arm, each item's rank in its list, from 1; 0 where the arm does not have it."""
    facts: Mapping[str, tuple[float, ...]]
    """Columns of the ranker's table (services/rankers/features.py), a value an item."""
    shown: tuple[int, ...]
    """Per item that the answer showed, its index among the items, from 0; -1 for one that no list has."""


class EventStatus(StrEnum):
    """Outcome of a feedback event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN_QUERY = "unknown_query"
    NOT_SHOWN = "not_shown"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Interaction:
    """One accepted (or late) feedback event, as logged."""

    event_id: str
    query_id: str | None
    object_id: str | None
    action_name: str
    at: float
    """Server time of acceptance."""
    timestamp: float | None
    """The client's clock, kept for audit only."""
    position: int | None
    """The position at which the item was shown, whatever the client sent."""
    value: float | None
    user_id: str | None
    client_id: str | None
    session_id: str | None
    status: EventStatus
    """In the log ACCEPTED or LATE (late ones are kept for audit and never learned from)."""

    @property
    def actor(self) -> Actor:
        """The actor of the event."""
        return Actor(self.user_id, self.client_id, self.session_id)

"""What the engines must do. One Protocol per part that has an embedded and a production implementation.

Every method is async and every read carries a Deadline, so that a remote engine fits without a change elsewhere: an
implementation must not start work whose deadline has passed, hands the remaining time to its engine, and raises
`TimeoutError` when it is spent. Blocking engines run in their own thread. Values in and out are those of
services.types; no client type leaks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.types import (
    Alternative,
    Candidate,
    Deadline,
    Document,
    EventStatus,
    FacetCount,
    Filters,
    Impression,
    Interaction,
    Person,
    Remembered,
    Schema,
    Sort,
    Survey,
)

# --- text and structure -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextMatch:
    """What to look for in words. An item matches when it has at least one of the words (see `ngrams_match`)."""

    words: tuple[tuple[Alternative, ...], ...]
    raw: str
    """The normalised query, for character n-grams of the title."""
    ngram_weight: float = 0.0
    """Weight of character n-gram evidence beside words; 0 leaves it out."""
    ngrams_match: bool = False
    """Whether an item also matches without any of the words, when its title is much like `raw`."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A keyword field (or the title, or with ANY_KEYWORD any keyword field) holding `value`, compared as
    services.text.normalize does, or a number field within [low, high]."""

    field: str
    weight: float
    value: str | None = None
    low: float | None = None
    high: float | None = None
    group: int | None = None
    """Constraints of one group are readings of the same words: an item meets the best of them, and no more than one."""


ANY_KEYWORD = "*"


@dataclass(frozen=True, slots=True)
class SlotMatch:
    """What to look for in structure. An item matches when it meets at least `need` of the constraints (a group counts
    as one); items that meet more (by weight) come first, and those that meet the same are ordered by quality."""

    constraints: tuple[Constraint, ...]
    need: int = 1


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """Items that satisfy `text` OR `slots` (everything when both are None), under all `filters`.

    Order: `sort` if given; else the sum of the parts' scores; browsing (no parts) by popularity, most popular first.
    Ties by object id.
    """

    text: TextMatch | None = None
    slots: SlotMatch | None = None
    filters: Filters = ()
    facets: tuple[str, ...] = ()
    sort: Sort | None = None
    limit: int = 10
    offset: int = 0
    newest: bool = False
    """Browse by newness instead of popularity."""


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What a LexicalIndex found."""

    candidates: tuple[Candidate, ...]
    total: int
    """All matching items, not only those returned."""
    facets: Mapping[str, tuple[FacetCount, ...]] = field(default_factory=dict)
    """Per facet field asked for, the most frequent values over all matching items."""


class LexicalIndex(Protocol):
    """Text, structure, filters, facets and sort over the catalogue."""

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """Items that match, in order, with facets. Raises StorageFailed, TimeoutError."""
        ...

    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """Titles (as written) with a word sequence that starts with `prefix`, most popular first, with their prior."""
        ...

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Index and forget items; searches that start after the return see it. Idempotent."""
        ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Replace the whole index under a new schema; searches go on against the old one until the swap."""
        ...

    async def stale(self) -> bool:
        """Whether it has to be rebuilt before anything else: it is not there, or not of its schema."""
        ...

    async def refresh(self) -> None:
        """Search what another process has activated; nothing where the index belongs to this process."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- vectors ------------------------------------------------------------------------------------------------------


class VectorIndex(Protocol):
    """Nearest neighbours by cosine under filters."""

    async def nearest(
        self, vector: Sequence[float], filters: Filters, limit: int, deadline: Deadline
    ) -> list[Candidate]:
        """The `limit` items nearest to `vector` that meet all filters, best first, ties by object id."""
        ...

    async def vectors(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, list[float]]:
        """Stored vectors of those of the items that have one."""
        ...

    async def apply(self, upserts: Sequence[tuple[Document, Sequence[float]]], deletes: Sequence[str]) -> None:
        """Index vectors and forget items; searches that start after the return see it. Idempotent."""
        ...

    async def rebuild(
        self,
        schema: Schema,
        size: int,
        points: Iterable[tuple[Document, Sequence[float]]],
        version: str | None = None,
    ) -> None:
        """Replace the whole index (another encoder, another dimension); searches see the old one until the swap.
        `version` is that of the encoder: a shared index says by it whose vectors it holds."""
        ...

    async def stale(self) -> bool:
        """Whether it has to be rebuilt before anything else: it is not there, or not of its size and schema."""
        ...

    def adopt(self, schema: Schema, size: int, version: str) -> None:
        """Use the index as another process has rebuilt it; nothing where the index belongs to this process."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- catalogue ----------------------------------------------------------------------------------------------------


class ItemStore(Protocol):
    """The catalogue itself: the source of truth from which every index can be rebuilt."""

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The documents of those of the items that exist, by id."""
        ...

    async def put(self, documents: Sequence[Document]) -> None:
        """Durable when it returns. Each document replaces an earlier one of the same id."""
        ...

    async def delete(self, object_ids: Sequence[str]) -> int:
        """How many were there."""
        ...

    async def count(self) -> int:
        """How many items there are."""
        ...

    def scan(self) -> AsyncIterator[Document]:
        """Every document, in id order."""
        ...

    async def schema(self) -> Schema | None:
        """The catalogue's schema; None before the first item and `set_schema`."""
        ...

    async def set_schema(self, schema: Schema) -> None:
        """Durable when it returns. Another schema than before takes every index's confirmation back."""
        ...

    async def sequence(self) -> int:
        """Number of the last change; 0 when there never was one."""
        ...

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        """(sequence, upserts, deletes) of the changes after number `after`, oldest first, each item once in its latest
        state, at most some hundreds: ask again from `sequence` on until there are none. Other processes' writes are
        among them, and no cache of `get` is older than they are, or than the last scan. Deletions that every index
        confirmed may be missing after some hours."""
        ...

    async def confirmed(self, index: str) -> int | None:
        """What `index` last confirmed with `applied`; None when never under the current schema: rebuild it."""
        ...

    async def applied(self, index: str, sequence: int) -> None:
        """`index` has every change up to number `sequence` (see `confirmed`)."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- event log ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passing without traffic, so that reward windows close in log order."""

    at: float


@dataclass(frozen=True, slots=True)
class Forget:
    """A person asked to be forgotten; consumers drop what they keep of the user."""

    user_id: str
    at: float


Record = Impression | Interaction | Tick | Forget | Survey


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as the log keeps it, to be put into another log just so."""

    offset: int
    at: float
    kind: int
    """As in services.backends.log_codec."""
    query_id: str
    user_id: str
    """Both "" for none; a blanked record has no user."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """An event id that must not count again."""

    event_id: str
    digest: str
    left: float
    """Seconds for which it is still to be remembered."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What counted on an answer and must not count again, whatever the event id."""

    query_id: str
    object_id: str
    """"" for actions without an object."""
    action_name: str
    left: float
    """Seconds for which it is still to be remembered."""


class EventLog(Protocol):
    """The one durable, ordered log of what was shown and what people did. Offsets ascend by 1 from 1, without gaps."""

    async def append(self, record: Record) -> int:
        """Durable when it returns; the record's offset."""
        ...

    async def accept(self, interactions: Sequence[tuple[Interaction, str]]) -> list[EventStatus]:
        """Append feedback, each (interaction, digest of the event's body) at most once, all or nothing durable.

        Returns the status of each: `duplicate` when the event id is known with the same digest or
        when (query_id, object_id, action_name) already counted; `invalid` when the event id is known with another
        digest; else the interaction's own status. Only accepted and late ones are stored: an event that was refused
        for another reason passes through here so that a retry of a known event id is recognised first.
        Raises StorageFailed, having accepted nothing.
        """
        ...

    async def impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        """What the answer with this id showed; None when the log does not have it (any more). Raises RecordDamaged."""
        ...

    async def interactions(self, query_id: str, deadline: Deadline) -> list[Interaction]:
        """Feedback on an answer (accepted, and late ones kept for audit), in log order."""
        ...

    async def read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        """Records with offset > after, in order; those that are gone by retention are passed over."""
        ...

    async def end(self) -> tuple[int, float]:
        """Offset and time of the last record; (0, 0.0) when empty."""
        ...

    async def dead_letter(self, offset: int, reason: str) -> None:
        """Note among the dead letters that the record at `offset` could not be applied; once per offset."""
        ...

    async def dead_letters(self, limit: int) -> list[tuple[int, str]]:
        """The newest dead letters, (offset, reason), newest first."""
        ...

    async def consumed(self, consumer: str, offset: int) -> None:
        """`consumer` will not read records up to `offset` again. What every consumer that ever said so is done with,
        and what is older than the log's retention by log time, may go, but never the last record."""
        ...

    async def forget_consumer(self, consumer: str) -> None:
        """`consumer` will not read any more, and nothing waits for it from now on; whoever never was one is none."""
        ...

    async def forget(self, user_id: str, at: float) -> int:
        """Blank the user's id and query text in past records and append a Forget; how many records were blanked."""
        ...

    # For backups: what goes out here goes into an empty log, of this kind or another, and is the same log again.

    async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
        """Hand what counts every event once to `take`, portion by portion (some of it perhaps twice). Returns an
        offset: of the events up to there all was handed out, of later ones nothing."""
        ...

    async def entries(self, after: int, until: int) -> list[Entry]:
        """Some of the records with after < offset <= until, in order; none when there are none."""
        ...

    async def consumers(self) -> dict[str, int]:
        """What every consumer last said to `consumed`."""
        ...

    async def put_known(self, known: Sequence[Known | Counted]) -> None:
        """Take over what `known` of another log handed out."""
        ...

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """Behind the last record; durable when it returns."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- memory -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """What one log record does to the memory index and the histories; all fields optional."""

    shown: tuple[str, str] | None = None
    """(memory key, normalised text) of an impression."""
    shown_to: str = ""
    """Principal that asked, with `shown`; "" when nobody is known."""
    action: tuple[str, str, str, float] | None = None
    """(memory key, object_id, principal, debiased weight)."""
    history: tuple[str, str, float] | None = None
    """(person, object_id, weight)."""
    forget_user: str | None = None
    at: float = 0.0


MemoryRow = tuple[Any, ...]
"""One thing that a memory keeps, as a name and its values:

    query         key, shown, at, used                  text      text, key, asked, at
    asker         text, principal, weight, at, used     score     key, object_id, clicks, at
    contribution  key, object_id, principal, weight, at, used
    person        person, used                          history   person, used, object_id, weight, at
    state         offset, used, at

`used` numbers changes, the later the higher; `state` tells the last of all. What is predicted is not among them: it
comes from the catalogue."""


class MemoryIndex(Protocol):
    """Q2E scores and people's histories. Scores decay by log time, are capped per query, and survive a restart."""

    async def remembered(self, key: str, limit: int, deadline: Deadline) -> list[Remembered]:
        """Items that the memory has for the query behind `key` (see services/memory/scores.py) and its neighbours."""
        ...

    async def person(self, person: str, limit: int, deadline: Deadline) -> Person:
        """The last `limit` items of a person's history; an empty one for strangers."""
        ...

    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """Past queries (normalised text) that begin with `prefix`, most asked first, with how often."""
        ...

    async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
        """Apply in order and commit `offset` with them, atomically. Offsets up to the committed one are ignored."""
        ...

    async def offset(self) -> int:
        """Last log record whose changes are committed; 0 for an empty memory."""
        ...

    async def predict(self, predictions: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        """Replace the predicted queries of items: object_id -> [(query text, score in 0..1)]. Actual scores stay."""
        ...

    async def forget_items(self, object_ids: Sequence[str]) -> None:
        """Drop what is kept of items that left the catalogue."""
        ...

    def rows(self) -> AsyncGenerator[list[MemoryRow], None]:
        """Everything that came from the log, as it was at one moment; every row after those that it belongs to, the
        state last. Raises StorageFailed when no such moment can be had; what was handed out is then worth nothing."""
        ...

    async def put_rows(self, rows: Sequence[MemoryRow]) -> None:
        """Into an empty memory, in the order of `rows()`; durable when it returns."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- small shared state -------------------------------------------------------------------------------------------


class StateStore(Protocol):
    """A few durable switches that every worker reads (policy mode, operator's notes); values are JSON."""

    async def get(self, key: str) -> Any | None:
        """The value last set; None when there never was one."""
        ...

    async def set(self, key: str, value: Any) -> None:
        """Durable and visible to every reader when it returns."""
        ...

    async def all(self) -> dict[str, Any]:
        """Everything that was ever set."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


# --- one at a time ------------------------------------------------------------------------------------------------


class Locks(Protocol):
    """Work that only one process may do at a time, by name."""

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Waits until nobody else holds `name`; held until the context ends, however that happens. A holder that died
        is taken over from after some seconds. Raises StorageFailed when nobody can say who holds it."""
        ...

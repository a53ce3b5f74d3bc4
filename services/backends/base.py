"""Interfaces of the engines: one Protocol per part that has an embedded and a production implementation.

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
    """The words to search for. An item matches when it has at least one of them (see `ngrams_match`)."""

    words: tuple[tuple[Alternative, ...], ...]
    raw: str
    """The normalised query, for character n-grams of the title."""
    ngram_weight: float = 0.0
    """Weight of character n-gram evidence beside words; 0 leaves it out."""
    ngrams_match: bool = False
    """Whether an item also matches without any of the words, when its title closely resembles `raw`."""


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
    """The field values to search for. An item matches when it meets at least `need` of the constraints (a group counts
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
    """Result of one search of the lexical index."""

    candidates: tuple[Candidate, ...]
    total: int
    """Number of all matching items, not only those returned."""
    facets: Mapping[str, tuple[FacetCount, ...]] = field(default_factory=dict)
    """Per requested facet field, the most frequent values over all matching items."""


class LexicalIndex(Protocol):
    """Text, structure, filters, facets and sort over the catalogue."""

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """The items that match `query`. Raises TimeoutError, StorageFailed."""
        ...

    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """Titles (as written) with a word sequence that starts with `prefix`, most popular first, with their prior."""
        ...

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Index and remove items; searches that start after it returns see the change. Idempotent."""
        ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """Replace the whole index under a new schema; searches use the old one until the swap."""
        ...

    async def stale(self) -> bool:
        """Whether it has to be rebuilt before anything else: it does not exist, or has another schema."""
        ...

    async def refresh(self) -> None:
        """Switch to the index that another process has activated; does nothing where the index belongs to this one."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the engine."""
        ...


# --- vectors ------------------------------------------------------------------------------------------------------


class VectorIndex(Protocol):
    """Nearest neighbours by cosine under filters."""

    async def nearest(
        self, vector: Sequence[float], filters: Filters, limit: int, deadline: Deadline
    ) -> list[Candidate]:
        """The `limit` items whose vectors have the highest cosine with `vector`, best first, ties by object id. A
        zero vector is near nothing. Raises TimeoutError, StorageFailed, and ValueError for a vector of another size."""
        ...

    async def vectors(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, list[float]]:
        """Stored vectors of the given items that have one."""
        ...

    async def apply(self, upserts: Sequence[tuple[Document, Sequence[float]]], deletes: Sequence[str]) -> None:
        """Index the vectors of items and remove those of others; searches that start after the return see it. An item
        with a zero vector has none."""
        ...

    async def rebuild(
        self,
        schema: Schema,
        size: int,
        points: Iterable[tuple[Document, Sequence[float]]],
        version: str | None = None,
    ) -> None:
        """Replace the whole index (another encoder, another dimension); searches see the old one until the swap.
        `version` is that of the encoder: a shared index records it beside its vectors."""
        ...

    async def stale(self) -> bool:
        """Whether it has to be rebuilt before anything else: it does not exist, or has another size and schema."""
        ...

    def adopt(self, schema: Schema, size: int, version: str) -> None:
        """Use the index as another process has rebuilt it; does nothing where the index belongs to this process."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the engine."""
        ...


# --- catalogue ----------------------------------------------------------------------------------------------------


class ItemStore(Protocol):
    """The catalogue itself: the source of truth from which every index can be rebuilt."""

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The items with these ids that exist, in the order given. Raises TimeoutError, StorageFailed."""
        ...

    async def put(self, documents: Sequence[Document]) -> None:
        """Store items; durable when it returns. Each document replaces an earlier one with the same id."""
        ...

    async def delete(self, object_ids: Sequence[str]) -> int:
        """Delete items; returns the number that existed."""
        ...

    async def count(self) -> int:
        """Number of items."""
        ...

    def scan(self) -> AsyncIterator[Document]:
        """Every document, in id order."""
        ...

    async def schema(self) -> Schema | None:
        """The schema stored with the items; None when none was."""
        ...

    async def set_schema(self, schema: Schema) -> None:
        """Store the schema; durable when it returns. A different schema from the stored one revokes the confirmations
        of all indexes."""
        ...

    async def sequence(self) -> int:
        """Number of the last change; 0 when there never was one."""
        ...

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        """(sequence, upserts, deletes) of the changes after number `after`, oldest first, each item once in its latest
        state, at most some hundreds: call it again from `sequence` on until there are none. Other processes' writes are
        included, and no cache of `get` is older than they are, or than the last scan. Deletions that every index
        confirmed may be missing after some hours."""
        ...

    async def confirmed(self, index: str) -> int | None:
        """The number that `index` last confirmed with `applied`; None when it never did under the active schema:
        rebuild it."""
        ...

    async def applied(self, index: str, sequence: int) -> None:
        """Confirm that `index` holds every change up to number `sequence`."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the store."""
        ...


# --- event log ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passing without traffic, so that reward windows close in log order."""

    at: float


@dataclass(frozen=True, slots=True)
class Forget:
    """A user asked to be forgotten; consumers drop what they store about the user."""

    user_id: str
    at: float


Record = Impression | Interaction | Tick | Forget | Survey


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in its stored form, to be copied unchanged into another log."""

    offset: int
    at: float
    kind: int
    """Kind of record, as in services.backends.log_codec."""
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
    """Remaining seconds for which it has to be remembered."""


@dataclass(frozen=True, slots=True)
class Counted:
    """An action that counted on an answer and must not count again, whatever the event id."""

    query_id: str
    object_id: str
    """"" for actions without an object."""
    action_name: str
    left: float
    """Remaining seconds for which it has to be remembered."""


class EventLog(Protocol):
    """The one durable, ordered log of what was shown and what users did. Offsets ascend by 1 from 1, without gaps."""

    async def append(self, record: Record) -> int:
        """Append a record; durable when it returns. Returns its offset."""
        ...

    async def accept(self, interactions: Sequence[tuple[Interaction, str]]) -> list[EventStatus]:
        """Append feedback, each (interaction, digest of the event's body) at most once, all or nothing durable.

        Returns the status of each: `duplicate` when the event id is known with the same digest or
        when (query_id, object_id, action_name) already counted; `invalid` when the event id is known with another
        digest; else the interaction's own status. Only accepted and late ones are stored: an event that was rejected
        for another reason passes through here so that a retry of a known event id is recognised first.
        Raises StorageFailed, having accepted nothing.
        """
        ...

    async def impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        """The impression with this query id; None when it is not in the log (any more)."""
        ...

    async def interactions(self, query_id: str, deadline: Deadline) -> list[Interaction]:
        """Feedback on an answer (accepted, and late ones kept for audit), in log order."""
        ...

    async def read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        """Records with offset > after, in order; those dropped by retention are skipped."""
        ...

    async def end(self) -> tuple[int, float]:
        """Offset and time of the last record; (0, 0.0) when empty."""
        ...

    async def dead_letter(self, offset: int, reason: str) -> None:
        """Record as a dead letter that the record at `offset` could not be applied; once per offset."""
        ...

    async def dead_letters(self, limit: int) -> list[tuple[int, str]]:
        """The newest dead letters, (offset, reason), newest first."""
        ...

    async def consumed(self, consumer: str, offset: int) -> None:
        """Declare that `consumer` will not read records up to `offset` again. Records that every consumer has consumed
        and that are older than the log's retention, by log time, may be dropped, but never the last one."""
        ...

    async def forget_consumer(self, consumer: str) -> None:
        """Stop retaining records for `consumer`, which will not read any more; unknown names are ignored."""
        ...

    async def forget(self, user_id: str, at: float) -> int:
        """Blank the user's id and query text in past records and append a Forget; returns the number of blanked
        records.
        """
        ...

    # For backups: copied into an empty log, of this kind or another, the content gives the same log again.

    async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
        """Hand the event ids and counted actions to `take`, in batches (some perhaps twice). Returns an offset: those
        of the events up to there were handed out, those of later ones were not."""
        ...

    async def entries(self, after: int, until: int) -> list[Entry]:
        """Some of the records with after < offset <= until, in order; none when there are none."""
        ...

    async def consumers(self) -> dict[str, int]:
        """Consumer -> the offset that it last passed to `consumed`."""
        ...

    async def put_known(self, known: Sequence[Known | Counted]) -> None:
        """Store what `known` of another log returned; durable when it returns."""
        ...

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """Append entries of another log; durable when it returns."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the store."""
        ...


# --- memory -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemoryChange:
    """The changes of one log record to the memory index and the histories; all fields optional."""

    shown: tuple[str, str] | None = None
    """(memory key, normalised text) of an impression."""
    shown_to: str = ""
    """Principal of the query, with `shown`; "" when unknown."""
    action: tuple[str, str, str, float] | None = None
    """(memory key, object_id, principal, debiased weight)."""
    history: tuple[str, str, float] | None = None
    """(person, object_id, weight)."""
    forget_user: str | None = None
    at: float = 0.0


MemoryRow = tuple[Any, ...]
"""One entry of a memory, as a name and its values:

    query         key, shown, at, used                  text      text, key, asked, at
    asker         text, principal, weight, at, used     score     key, object_id, clicks, at
    contribution  key, object_id, principal, weight, at, used
    person        person, used                          history   person, used, object_id, weight, at
    state         offset, used, at

`used` numbers changes, later ones higher; `state` has the last of all. Predictions are not among them: they come from
the catalogue."""


class MemoryIndex(Protocol):
    """Q2E scores and users' histories. Scores decay by log time, are capped per query, and survive a restart."""

    async def remembered(self, key: str, limit: int, deadline: Deadline) -> list[Remembered]:
        """Items that the memory has for the query behind `key` (see services/memory/scores.py) and its neighbours."""
        ...

    async def person(self, person: str, limit: int, deadline: Deadline) -> Person:
        """The latest `limit` entries of a user's or session's history, newest first."""
        ...

    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """Past queries (normalised text) that begin with `prefix`, most frequent first, with their counts."""
        ...

    async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
        """Apply in order and commit `offset` with them, atomically. Offsets up to the committed one are ignored."""
        ...

    async def offset(self) -> int:
        """The committed offset of the event log; 0 at first."""
        ...

    async def predict(self, predictions: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        """Replace the predicted queries of items: object_id -> [(query text, score in 0..1)]. Actual scores stay."""
        ...

    async def forget_items(self, object_ids: Sequence[str]) -> None:
        """Drop the actual and predicted scores of these items."""
        ...

    def rows(self) -> AsyncGenerator[list[MemoryRow], None]:
        """A consistent copy of everything that came from the log; every row after those that it belongs to, the state
        last. Raises StorageFailed when no consistent copy is possible; the rows returned so far are then invalid."""
        ...

    async def put_rows(self, rows: Sequence[MemoryRow]) -> None:
        """Fill an empty memory, in the order of `rows()`; durable when it returns."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the store."""
        ...


# --- small shared state -------------------------------------------------------------------------------------------


class StateStore(Protocol):
    """A few durable values that every worker reads (policy mode, operator's notes), as JSON."""

    async def get(self, key: str) -> Any | None:
        """The value of `key`; None when it was never set."""
        ...

    async def set(self, key: str, value: Any) -> None:
        """Set the value of `key`; durable and visible to every reader when it returns."""
        ...

    async def all(self) -> dict[str, Any]:
        """Everything that was ever set."""
        ...

    async def close(self) -> None:
        """Finish pending work and release the store."""
        ...


# --- one at a time ------------------------------------------------------------------------------------------------


class Locks(Protocol):
    """Named locks for work that only one process may do at a time."""

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Wait until nobody else holds `name`, and hold it until the context ends, however that happens. A holder that
        died loses it after some seconds. Raises StorageFailed when it is unknown who holds it."""
        ...

"""What people searched and did, mirrored for tools that know User Behavior Insights (UBI 1.3): workbench, dashboards.

The mirror is a consumer of the event log, off the path of every request, with a place of its own. Documents go by ids
that come from the log, and the place moves on once they are acknowledged: what is written twice counts once.

- A search for words is a query, and every item it showed is an `impression` event; click models need both.
- A later page is the same search, not another one: its impressions, and what was done on it, go under the query id of
  the first page, at positions that go on from there.
- What was done on a listing without words, or outside of any answer, is an event without query and position: nobody
  asked for anything, and clicks at positions without impressions there would distort every rate by position.
- Left out are searches that are not to be learned from, with all that was done on them, and people who were forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from services import metrics
from services.backends.base import EventLog, Forget, Record, StateStore
from services.errors import RecordDamaged, StorageFailed
from services.types import Deadline, EventStatus, Impression, Interaction

logger = logging.getLogger(__name__)

CONSUMER = "ubi"
PLACE = "ubi_offset"
"""In the StateStore: the last record that is mirrored."""
OBJECT_ID_FIELD = "_id"
"""Where the lexical index has the id of an item."""
CONVERSIONS = ("add_to_cart", "purchase")
LONGEST_KEY = 512
"""Bytes of an id that OpenSearch takes."""

POLL_SECONDS = 1.0
RETRY_SECONDS = 2.0
STEP_RECORDS = 250
LOOKUP_SECONDS = 5.0
_KNOWN = 10_000
"""Answers kept at hand for what is done on them."""

Document = dict[str, Any]
Entry = tuple[str, Mapping[str, Any]]
"""Id and document."""


class Sink(Protocol):
    """Where the documents go."""

    async def put(self, queries: Sequence[Entry], events: Sequence[Entry]) -> Counter[str]:
        """Write documents, each in place of the one of the same id; how many were refused for good, per type of error.
        Raises StorageFailed: then put all of them again."""
        ...

    async def forget(self, application: str, user_id: str) -> int:
        """Remove the documents of a person; how many. Raises StorageFailed: then call it again."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of an answer when something is done on it."""

    query_id: str
    """Of its first page."""
    text: str
    user_id: str | None
    searched: bool
    """For words; a listing without is none."""
    mirrored: bool


@dataclass(slots=True)
class _Documents:
    queries: list[Entry] = field(default_factory=list)
    events: list[Entry] = field(default_factory=list)


def asked(impression: Impression) -> Asked:
    return Asked(
        query_id=impression.root_id,
        text=impression.text,
        user_id=impression.user_id,
        searched=impression.normalized != "",
        # Of a forgotten person nothing is left in `understanding`, which always says something else.
        mirrored=impression.learn and bool(impression.understanding),
    )


def query(application: str, impression: Impression) -> Entry:
    """The query that a first page answers, under its id."""
    degraded = [f"{part.arm} {part.reason}" for part in impression.degraded]
    attributes = {
        "user_id": impression.user_id,
        "session_id": impression.session_id,
        "offset": impression.offset or None,
        "total": impression.total,
        "policy": impression.decision.policy,
        "mode": impression.decision.mode,
        "model_version": impression.decision.model_version,
        "ranker": impression.ranker,
        "degraded": degraded or None,
    }
    return impression.query_id, _without_none(
        {
            "application": application,
            "query_id": impression.query_id,
            "client_id": impression.client_id,
            "user_query": impression.text,
            "query_attributes": _without_none(attributes),
            "object_id_field": OBJECT_ID_FIELD,
            "query_response_id": impression.query_id,
            "query_response_hit_ids": list(impression.shown),
            "timestamp": _time(impression.at),
        }
    )


def impressions(application: str, impression: Impression) -> list[Entry]:
    """An event for every item that a page showed."""
    return [
        (
            f"{impression.query_id}:{position}",
            _event(application, impression, asked(impression), "impression", object_id, position),
        )
        for position, object_id in enumerate(impression.shown, impression.offset + 1)
    ]


def event(application: str, done: Interaction, answer: Asked | None) -> Entry | None:
    """What was done on `answer` (None when the log has it no more, or it was on none); None when it is left out."""
    if answer is None and done.query_id is None and done.user_id is None:
        return None  # Only what a person did is taken without an answer: this one was forgotten.
    if answer is not None and (not answer.mirrored or done.user_id != answer.user_id):
        return None  # An event is of who was answered; another one is about to be forgotten, or has been.
    key = f"{application}:{done.event_id}"
    if len(key.encode()) > LONGEST_KEY:
        key = f"{application}:{hashlib.sha256(key.encode()).hexdigest()}"
    position = done.position if answer is not None and answer.searched else None
    document = _event(application, done, answer, done.action_name, done.object_id, position)
    if done.value is not None and done.object_id is not None:
        document["event_attributes"]["value"] = done.value
    if done.status == EventStatus.LATE:
        document["message"] = "late: not learned from"
    return key, document


def _event(
    application: str,
    record: Impression | Interaction,
    answer: Asked | None,
    action_name: str,
    object_id: str | None,
    position: int | None,
) -> Document:
    query_id = record.query_id
    if answer is not None:
        query_id = answer.query_id if answer.searched else None
    attributes: Document = {}
    if object_id is not None:
        attributes["object"] = {"object_id": object_id, "object_id_field": OBJECT_ID_FIELD}
        if position is not None:
            attributes["position"] = {"ordinal": position}
        if query_id is not None and record.query_id != query_id:
            attributes["answer_id"] = record.query_id
    if action_name == "impression":
        message_type = "IMPRESSION"
    else:
        message_type = "CONVERSION" if action_name in CONVERSIONS else "INTERACTION"
    return _without_none(
        {
            "application": application,
            "action_name": action_name,
            "query_id": query_id,
            "user_query": answer.text if answer is not None and answer.searched else None,
            "session_id": record.session_id,
            "client_id": record.client_id,
            "user_id": record.user_id,
            "timestamp": _time(record.at),
            "message_type": message_type,
            "event_attributes": attributes or None,
        }
    )


def _without_none(document: Mapping[str, Any]) -> Document:
    return {name: value for name, value in document.items() if value is not None}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class UbiMirror:
    """One per log. `application` tells our documents from those of others in the same indexes; guard is awaited before
    anything is written and raises when another process has taken over."""

    def __init__(
        self,
        log: EventLog,
        state: StateStore,
        sink: Sink,
        application: str,
        guard: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._state = state
        self._sink = sink
        self._application = application
        self._guard = guard
        self._place: int | None = None
        self._answers: OrderedDict[str, Asked] = OrderedDict()

    async def run(self, stop: asyncio.Event) -> None:
        """Mirror until `stop` is set; failures are logged and tried again. Ends at once then, also where a store hangs:
        what was under way comes again. May be run again, and goes on from where others got."""
        self._place = None
        self._answers.clear()
        tasks = [asyncio.create_task(self._go_on()), asyncio.create_task(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def step(self, limit: int = STEP_RECORDS) -> int:
        """Mirror the next records, at most `limit`; how many. Raises StorageFailed, TimeoutError: then they come again
        with the next step."""
        if self._place is None:
            self._place = await self._begin()
        records = await self._read(self._place, limit)
        if not records:
            return 0
        documents = _Documents()
        for offset, record in records:
            if isinstance(record, Forget):  # The person is blanked in all records up to this one by now.
                await self._forget(record)
                continue
            try:
                await self._add(record, documents)
            except (StorageFailed, TimeoutError):
                raise
            except Exception as error:
                self._pass_over(offset, error)
        await self._put(documents)
        await self._advance(records[-1][0])
        return len(records)

    async def _go_on(self) -> None:
        waiting = False
        while True:
            pause = POLL_SECONDS
            try:
                if await self.step():
                    pause = 0.0
                waiting = False
            except (StorageFailed, TimeoutError) as error:
                if not waiting:  # said once: a store may be away for long
                    logger.warning("ubi_waits offset=%s error=%s", self._place, type(error).__name__)
                waiting, pause = True, RETRY_SECONDS
            except Exception:
                logger.exception("ubi_failed offset=%s", self._place)
                pause = RETRY_SECONDS
            await self._measure()
            await asyncio.sleep(pause)

    async def _begin(self) -> int:
        """Where to go on: at first from the beginning of what the log still has. Retention waits from now on."""
        place = int(await self._state.get(PLACE) or 0)
        end, _ = await self._log.end()
        if place > end:
            logger.warning("ubi_begins_again offset=%d end=%d: another log than before", place, end)
            place = 0
        await self._log.consumed(CONSUMER, place)
        return place

    async def _read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        while True:
            try:
                return await self._log.read(after, limit)
            except RecordDamaged as error:
                after = after + 1 if error.offset is None else error.offset
                self._pass_over(after, error)
                await self._advance(after)

    async def _add(self, record: Record, documents: _Documents) -> None:
        if isinstance(record, Impression):
            answer = asked(record)
            self._remember(record.query_id, answer)
            if answer.mirrored and answer.searched:
                if record.query_id == record.root_id:
                    documents.queries.append(query(self._application, record))
                documents.events.extend(impressions(self._application, record))
        elif isinstance(record, Interaction):
            found = None if record.query_id is None else await self._answer(record.query_id)
            entry = event(self._application, record, found)
            if entry is not None:
                documents.events.append(entry)

    async def _answer(self, query_id: str) -> Asked | None:
        known = self._answers.get(query_id)
        if known is not None:
            return known
        try:
            impression = await self._log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
        except RecordDamaged:
            return None
        if impression is None:
            return None
        self._remember(query_id, asked(impression))
        return self._answers[query_id]

    def _remember(self, query_id: str, answer: Asked) -> None:
        self._answers[query_id] = answer
        if len(self._answers) > _KNOWN:
            self._answers.popitem(last=False)

    async def _put(self, documents: _Documents) -> None:
        if not documents.queries and not documents.events:
            return
        await self._ours()
        refused = await self._sink.put(documents.queries, documents.events)
        for kind, count in refused.items():
            metrics.LEARNER_ERRORS.inc(count)
            logger.error("ubi_refused documents=%d error=%s after=%s", count, kind, self._place)

    async def _forget(self, record: Forget) -> None:
        """What was mirrored before goes; what comes later is blanked in the log, and left out."""
        await self._ours()
        removed = await self._sink.forget(self._application, record.user_id)
        self._answers.clear()
        logger.info("ubi_forgot documents=%d", removed)

    async def _advance(self, offset: int) -> None:
        await self._ours()
        await self._state.set(PLACE, offset)
        self._place = offset
        await self._log.consumed(CONSUMER, offset)

    async def _ours(self) -> None:
        if self._guard is not None:
            await self._guard()

    def _pass_over(self, offset: int, error: Exception) -> None:
        metrics.LEARNER_ERRORS.inc()
        logger.error("ubi_passed_over offset=%d error=%s", offset, type(error).__name__)

    async def _measure(self) -> None:
        try:
            end, _ = await self._log.end()
        except (StorageFailed, TimeoutError):
            return
        if self._place is not None:
            metrics.LEARNER_LAG.labels(CONSUMER).set(max(0, end - self._place))

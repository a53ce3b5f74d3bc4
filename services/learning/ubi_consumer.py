"""The consumer that mirrors the log for tools that read User Behavior Insights (UBI 1.3): workbench, dashboards.

It is outside the request path, and its position in the log is in the shared state: it advances once the documents
(ubi_documents.py) are acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services import metrics
from services.backends.base import EventLog, Forget, Record, StateStore
from services.backends.log_reader import Numbered
from services.errors import RecordDamaged, StorageFailed
from services.learning.consumer import BATCH, AnswerCache, LogConsumer
from services.learning.ubi_documents import Entry, LoggedAnswer, event, impressions, logged_answer, query
from services.resilience.polling import poll, type_and_text
from services.types import Impression, Interaction

logger = logging.getLogger(__name__)

CONSUMER = "ubi"
PLACE = "ubi_offset"
"""Key in the StateStore of the last mirrored record's offset."""
POLL_SECONDS = 1.0
RETRY_SECONDS = 2.0


class Sink(Protocol):
    """Destination of the documents."""

    async def put(self, queries: Sequence[Entry], events: Sequence[Entry]) -> Counter[str]:
        """Write documents, replacing those with the same id; returns how many were permanently rejected, per type of
        error. Raises StorageFailed: then put all of them again."""
        ...

    async def forget(self, application: str, user_id: str) -> int:
        """Remove the documents of a user; returns their number. Raises StorageFailed: then call it again."""
        ...


@dataclass(slots=True)
class _Documents:
    queries: list[Entry] = field(default_factory=list)
    events: list[Entry] = field(default_factory=list)


class UbiConsumer(LogConsumer):
    """One per log. `application`: distinguishes our documents from those of others in the same indexes; guard: awaited
    before anything is written, raises when another process has taken over."""

    name = CONSUMER

    def __init__(
        self,
        log: EventLog,
        state: StateStore,
        sink: Sink,
        application: str,
        guard: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(log)
        self._state = state
        self._sink = sink
        self._application = application
        self._guard = guard
        self._begun = False
        self._answers = AnswerCache(log, logged_answer)

    async def run(self, stop: asyncio.Event) -> None:
        """Mirror until `stop` is set; failures are logged and retried. Then it ends at once, even when a store hangs:
        unacknowledged records are mirrored again. May be run again, and continues where other processes stopped."""
        self._begun = False
        self._answers.clear()
        polling = poll(
            self._advance,
            stop,
            interval=POLL_SECONDS,
            retry_interval=RETRY_SECONDS,
            on_failure=self._failed,
            identity=_failure_identity,
        )
        tasks = [asyncio.ensure_future(polling), asyncio.ensure_future(stop.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def step(self, limit: int = BATCH) -> int:
        """Mirror the next records, at most `limit`; returns their number. Raises StorageFailed, TimeoutError: then they
        are delivered again in the next step."""
        if not self._begun:
            await self._begin()
        return await super().step(limit)

    async def take(self, records: Sequence[Numbered]) -> None:
        """Mirror `records`, all of which come after `place`."""
        documents = _Documents()
        for offset, record in records:
            if isinstance(record, Forget):  # The user is blanked in all records up to this one by now.
                await self._forget(record)
                continue
            try:
                await self._add(record, documents)
            except (StorageFailed, TimeoutError):
                raise
            except Exception as error:
                self._leave_out(offset, error)
        await self._put(documents)
        await self._commit(records[-1][0])

    async def pass_over(self, offset: int, error: RecordDamaged) -> None:
        """Skip the record, and commit the position after it."""
        self._leave_out(offset, error)
        await self._commit(offset)

    async def _advance(self) -> float | None:
        """One iteration of `run`; returns 0.0 when there may be more work right away."""
        try:
            return 0.0 if await self.step() else None
        finally:
            await self._measure()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StorageFailed | TimeoutError):
            logger.warning("ubi_waits offset=%d error=%s", self.place, type(error).__name__)
        else:
            logger.error("ubi_failed offset=%d", self.place, exc_info=error)

    async def _begin(self) -> None:
        """Continue from the stored position; the first time from the oldest record in the log. Retention waits for this
        consumer from now on."""
        place = int(await self._state.get(PLACE) or 0)
        end, _ = await self._log.end()
        if place > end:
            logger.warning("ubi_begins_again offset=%d end=%d: another log than before", place, end)
            place = 0
        await self._log.consumed(self.name, place)
        self._place, self._begun = place, True

    async def _add(self, record: Record, documents: _Documents) -> None:
        if isinstance(record, Impression):
            answer = self._answers.add(record)
            if answer.mirrored and answer.searched:
                if record.query_id == record.root_id:
                    documents.queries.append(query(self._application, record))
                documents.events.extend(impressions(self._application, record))
        elif isinstance(record, Interaction):
            found = None if record.query_id is None else await self._answer(record.query_id)
            entry = event(self._application, record, found)
            if entry is not None:
                documents.events.append(entry)

    async def _answer(self, query_id: str) -> LoggedAnswer | None:
        try:
            return await self._answers.get(query_id)
        except RecordDamaged:
            return None

    async def _put(self, documents: _Documents) -> None:
        if not documents.queries and not documents.events:
            return
        await self._check_guard()
        refused = await self._sink.put(documents.queries, documents.events)
        for kind, count in refused.items():
            metrics.LEARNER_ERRORS.inc(count)
            logger.error("ubi_refused documents=%d error=%s after=%s", count, kind, self.place)

    async def _forget(self, record: Forget) -> None:
        """Remove the user's mirrored documents; later records are blanked in the log, and left out."""
        await self._check_guard()
        removed = await self._sink.forget(self._application, record.user_id)
        self._answers.clear()
        logger.info("ubi_forgot documents=%d", removed)

    async def _commit(self, offset: int) -> None:
        """Store `offset` as the last mirrored record."""
        await self._check_guard()
        await self._state.set(PLACE, offset)
        self._place = offset
        await self.report_consumed()

    async def _check_guard(self) -> None:
        if self._guard is not None:
            await self._guard()

    def _leave_out(self, offset: int, error: Exception) -> None:
        metrics.LEARNER_ERRORS.inc()
        logger.error("ubi_passed_over offset=%d error=%s", offset, type(error).__name__)

    async def _measure(self) -> None:
        try:
            end, _ = await self._log.end()
        except (StorageFailed, TimeoutError):
            return
        if self._begun:
            metrics.LEARNER_LAG.labels(self.name).set(max(0, end - self.place))


def _failure_identity(error: Exception) -> Hashable:
    """Identity of a failure. An unreachable store fails with varying messages; it is logged once."""
    return StorageFailed if isinstance(error, StorageFailed | TimeoutError) else type_and_text(error)

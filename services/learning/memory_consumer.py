"""The consumer that keeps click memory and histories: every record at once, its place in the memory index, committed
with what was written there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.backends.base import EventLog, Forget, MemoryChange, MemoryIndex, Record
from services.backends.log_reader import Numbered
from services.errors import RecordDamaged, StorageFailed
from services.learning.consumer import AnswerCache, DeadLetters, LogConsumer
from services.memory.scores import debiased
from services.rewards.rewards import examination, strength
from services.types import EventStatus, Impression, Interaction


@dataclass(frozen=True, slots=True)
class RememberedQuery:
    """What an event says of the memory depends on the query it belongs to."""

    key: str
    """Key of the memory index; "" for browsing."""
    learn: bool


NO_QUERY = RememberedQuery("", True)


class MemoryConsumer(LogConsumer):
    """weights: per action (services.rewards.rewards)."""

    name = "memory"

    def __init__(
        self, log: EventLog, memory: MemoryIndex, dead_letters: DeadLetters, weights: Mapping[str, float]
    ) -> None:
        super().__init__(log)
        self._memory = memory
        self._dead_letters = dead_letters
        self._weights = dict(weights)
        self._queries = AnswerCache(log, lambda impression: RememberedQuery(impression.memory_key, impression.learn))
        self._place_unsure = False

    async def restore(self) -> None:
        """Go on from the place that the memory index holds."""
        self._place = await self._memory.offset()

    async def take(self, records: Sequence[Numbered]) -> None:
        """Raises StorageFailed: then they come again, and the memory says itself whether it has them."""
        if self._place_unsure:
            # What failed or was broken off may have been committed all the same.
            self._place = await self._memory.offset()
            self._place_unsure = False
        fresh = [(offset, record) for offset, record in records if offset > self._place]
        if not fresh:
            return
        changes = [(offset, change) for offset, r in fresh if (change := await self._change(offset, r)) is not None]
        last = fresh[-1][0]
        self._place_unsure = True
        try:
            await self._memory.apply([change for _, change in changes], last)
        except StorageFailed:
            raise
        except Exception:
            await self._apply_singly(changes, last)
        self._place, self._place_unsure = last, False

    async def pass_over(self, offset: int, error: RecordDamaged) -> None:
        """Commit a place behind it."""
        if self._place < offset:
            await self._memory.apply([], offset)
            self._place = offset

    async def _apply_singly(self, changes: Sequence[tuple[int, MemoryChange]], last: int) -> None:
        """One of the changes cannot be applied: leave that one out."""
        for offset, change in changes:
            try:
                await self._memory.apply([change], offset)
            except StorageFailed:
                raise
            except Exception as error:
                await self._dead_letters.add(offset, error)
        await self._memory.apply([], last)

    async def _change(self, offset: int, record: Record) -> MemoryChange | None:
        match record:
            case Impression():
                query = self._queries.add(record)
                if query.learn and query.key and record.root_id == record.query_id:
                    shown = (query.key, record.normalized)
                    return MemoryChange(shown=shown, shown_to=record.actor.principal or "", at=record.at)
            case Interaction() if record.status is EventStatus.ACCEPTED and record.object_id is not None:
                return await self._action(offset, record, record.object_id)
            case Forget():
                self._queries.clear()
                return MemoryChange(forget_user=record.user_id, at=record.at)
        return None

    async def _action(self, offset: int, event: Interaction, object_id: str) -> MemoryChange | None:
        """Events outside of an answer, and on answers without a query to remember, go to the history alone."""
        query = NO_QUERY if event.query_id is None else await self._query(offset, event.query_id)
        weight = self._weights.get(event.action_name, 0.0) * strength(event)
        if not query.learn or weight == 0.0:
            return None
        actor = event.actor
        action = None
        if query.key:
            action = (query.key, object_id, actor.principal or "", debiased(weight, examination(event.position or 1)))
        history = None if actor.person is None else (actor.person, object_id, weight)
        return MemoryChange(action=action, history=history, at=event.at)

    async def _query(self, offset: int, query_id: str) -> RememberedQuery:
        """Of an answer; of one that cannot be had, nothing may be learned. `offset`: of the event."""
        try:
            found = await self._queries.get(query_id)
        except RecordDamaged as error:
            await self._dead_letters.add(offset, error)
            found = None
        return RememberedQuery("", False) if found is None else found

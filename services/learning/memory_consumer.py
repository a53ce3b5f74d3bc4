"""The consumer that updates click memory and histories. Records are applied immediately; its position is in the memory
index, committed together with the changes."""

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
    """The query of an answer, which decides how an event on it changes the memory."""

    key: str
    """Key of the memory index; "" for browsing."""
    learn: bool


NO_QUERY = RememberedQuery("", True)


class MemoryConsumer(LogConsumer):
    """Applies events to the memory index. weights: per action (services.rewards.rewards)."""

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
        """Continue from the position stored in the memory index."""
        self._place = await self._memory.offset()

    async def take(self, records: Sequence[Numbered]) -> None:
        """Apply `records`. Raises StorageFailed: then they are delivered again, and the memory knows whether it has
        them."""
        if self._place_unsure:
            # A failed or interrupted call may have been committed all the same.
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
        """Skip the record and commit the position after it."""
        if self._place < offset:
            await self._memory.apply([], offset)
            self._place = offset

    async def _apply_singly(self, changes: Sequence[tuple[int, MemoryChange]], last: int) -> None:
        """Apply changes one by one, leaving out the one that cannot be applied."""
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
        """The change that an event causes. Events outside an answer, and on answers without a query to remember, only
        go into the history."""
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
        """The query of an answer; nothing may be learned from an answer that cannot be read. `offset`: of the event."""
        try:
            found = await self._queries.get(query_id)
        except RecordDamaged as error:
            await self._dead_letters.add(offset, error)
            found = None
        return RememberedQuery("", False) if found is None else found

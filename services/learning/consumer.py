"""Shared parts of the event log's consumers: a position in the log, dead letters for records that cannot be applied,
and a cache of answers."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, Generic, TypeVar

from services import metrics
from services.backends.base import EventLog
from services.backends.log_reader import Numbered, read_batch
from services.errors import RecordDamaged
from services.types import Deadline, Impression

logger = logging.getLogger(__name__)

BATCH = 250
"""Records processed at once: a shared memory serves nobody while it applies them."""
LOOKUP_SECONDS = 5.0
CACHED_ANSWERS = 10_000

Facts = TypeVar("Facts")


class LogConsumer(ABC):
    """Processes the records of a log in order. Its position is stored together with its results, so that after a crash
    every record counts exactly once."""

    name: ClassVar[str]
    """Name of the consumer in the log (EventLog.consumed) and in the reported lag."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._place = 0

    @property
    def place(self) -> int:
        """Offset of the last processed record."""
        return self._place

    @abstractmethod
    async def take(self, records: Sequence[Numbered]) -> None:
        """Process the `records` after `place`. Raises StorageFailed: then they are delivered again."""

    @abstractmethod
    async def pass_over(self, offset: int, error: RecordDamaged) -> None:
        """Skip the record at `offset`, which cannot be read."""

    async def step(self, limit: int = BATCH) -> int:
        """Process the next records, at most `limit`; returns their number. Raises StorageFailed, TimeoutError: then
        they are delivered again in the next step."""
        records = await read_batch(self._log, self.place, limit, self.pass_over)
        if records:
            await self.take(records)
        return len(records)

    async def report_consumed(self) -> None:
        """Let the log drop records that this consumer does not need any more, not even after a crash."""
        await self._log.consumed(self.name, self.place)


class DeadLetters:
    """Records that could not be applied: counted, logged, and recorded in the event log for operators to inspect."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.count = 0
        """Number of dead letters since this process started."""

    async def add(self, offset: int, error: Exception) -> None:
        """Record the skipped record at `offset`. Raises StorageFailed."""
        self.count += 1
        metrics.LEARNER_ERRORS.inc()
        logger.error("record_skipped offset=%d error=%s", offset, type(error).__name__)
        await self._log.dead_letter(offset, type(error).__name__)


class AnswerCache(Generic[Facts]):
    """Facts about answers that a consumer needs for the events on them: cached for the newest, else from the log.

    extract: returns the facts of an impression.
    """

    def __init__(self, log: EventLog, extract: Callable[[Impression], Facts], size: int = CACHED_ANSWERS) -> None:
        self._log = log
        self._extract = extract
        self._size = size
        self._facts: OrderedDict[str, Facts] = OrderedDict()

    def add(self, impression: Impression) -> Facts:
        """Cache and return the facts of an impression."""
        facts = self._facts[impression.query_id] = self._extract(impression)
        if len(self._facts) > self._size:
            self._facts.popitem(last=False)
        return facts

    async def get(self, query_id: str) -> Facts | None:
        """The facts of an answer; None when it is no longer in the log. Raises RecordDamaged, StorageFailed,
        TimeoutError."""
        facts = self._facts.get(query_id)
        if facts is not None:
            return facts
        impression = await self._log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
        return None if impression is None else self.add(impression)

    def clear(self) -> None:
        """Drop everything, because a user was forgotten: from now on only the log says what is left of answers."""
        self._facts.clear()

"""What all consumers of the event log have in common: a place in the log, one rule for records that cannot be applied,
and what they need of answers at hand."""

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
"""Records taken in at once: where the memory is shared, it serves nobody while it takes them in."""
LOOKUP_SECONDS = 5.0
CACHED_ANSWERS = 10_000

Facts = TypeVar("Facts")


class LogConsumer(ABC):
    """Takes in the records of a log in order. Its place is kept with what it writes, so that after a crash every record
    counts once."""

    name: ClassVar[str]
    """Under which the log knows it (EventLog.consumed) and its lag is reported."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._place = 0

    @property
    def place(self) -> int:
        """Offset of the last record taken in."""
        return self._place

    @abstractmethod
    async def take(self, records: Sequence[Numbered]) -> None:
        """Take in those of `records` that lie behind `place`. Raises StorageFailed: then they come again."""

    @abstractmethod
    async def pass_over(self, offset: int, error: RecordDamaged) -> None:
        """Go on behind the record at `offset`, which cannot be read."""

    async def step(self, limit: int = BATCH) -> int:
        """Take in the next records, at most `limit`; how many. Raises StorageFailed, TimeoutError: then they come
        again with the next step."""
        records = await read_batch(self._log, self.place, limit, self.pass_over)
        if records:
            await self.take(records)
        return len(records)

    async def report_consumed(self) -> None:
        """Let the log drop what this consumer does not need any more, nor would need after a crash."""
        await self._log.consumed(self.name, self.place)


class DeadLetters:
    """Records that could not be applied: counted, logged, and noted in the log, where people look for them."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.count = 0
        """Since this process started."""

    async def add(self, offset: int, error: Exception) -> None:
        """Pass over the record at `offset`. Raises StorageFailed."""
        self.count += 1
        metrics.LEARNER_ERRORS.inc()
        logger.error("record_skipped offset=%d error=%s", offset, type(error).__name__)
        await self._log.dead_letter(offset, type(error).__name__)


class AnswerCache(Generic[Facts]):
    """What a consumer needs of answers when something is done on them: of the newest at hand, of others from the log.

    extract: the facts of an impression.
    """

    def __init__(self, log: EventLog, extract: Callable[[Impression], Facts], size: int = CACHED_ANSWERS) -> None:
        self._log = log
        self._extract = extract
        self._size = size
        self._facts: OrderedDict[str, Facts] = OrderedDict()

    def add(self, impression: Impression) -> Facts:
        """Its facts, at hand from now on."""
        facts = self._facts[impression.query_id] = self._extract(impression)
        if len(self._facts) > self._size:
            self._facts.popitem(last=False)
        return facts

    async def get(self, query_id: str) -> Facts | None:
        """The facts of an answer; None when the log has it no more. Raises RecordDamaged, StorageFailed,
        TimeoutError."""
        facts = self._facts.get(query_id)
        if facts is not None:
            return facts
        impression = await self._log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
        return None if impression is None else self.add(impression)

    def clear(self) -> None:
        """Somebody was forgotten: from now on only the log says what is left of answers."""
        self._facts.clear()

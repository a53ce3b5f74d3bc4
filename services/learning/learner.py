"""The learner: reads the event log in order and brings memory, histories and policy up to date, each exactly once.

One reading feeds two consumers, each with its own position in the log: memory and histories (memory_consumer.py) and
the policy (policy_consumer.py). Only the times of snapshots and Ticks depend on the clock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping

from services.backends.base import EventLog, MemoryIndex, Tick
from services.backends.log_reader import Numbered, read_batch
from services.errors import RecordDamaged, StorageFailed
from services.learning.consumer import BATCH, DeadLetters
from services.learning.memory_consumer import MemoryConsumer
from services.learning.policy_consumer import PolicyConsumer
from services.learning.progress import Progress, set_gauges
from services.models.store import ModelStore
from services.policies.base import LearningPolicy
from services.resilience.polling import poll, type_and_text

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
CONSUMED_SECONDS = 60.0
"""Seconds between reports to the log of the records that it may drop."""


class Learner:
    """One per log. Call `restore` first, then `run`.

    snapshot_seconds: minimum time between two snapshots; for the other arguments see MemoryConsumer and PolicyConsumer.
    """

    def __init__(
        self,
        log: EventLog,
        memory: MemoryIndex,
        store: ModelStore,
        policy: LearningPolicy,
        load_policy: Callable[[bytes], LearningPolicy],
        *,
        attribution: float,
        weights: Mapping[str, float],
        principal_cap: int,
        snapshot_seconds: float,
        on_publish: Callable[[str, bytes], None] = lambda version, model: None,
        guard: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._dead_letters = DeadLetters(log)
        self.memory = MemoryConsumer(log, memory, self._dead_letters, weights)
        self.policy = PolicyConsumer(
            log,
            store,
            policy,
            load_policy,
            self._dead_letters,
            attribution=attribution,
            weights=weights,
            principal_cap=principal_cap,
            on_publish=on_publish,
            guard=guard,
            clock=clock,
        )
        self._snapshot_seconds = snapshot_seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._consumed_at = clock()

    async def restore(self) -> None:
        """Continue from the newest intact snapshot, or from the beginning of the log when there is none.

        Raises StorageFailed when the memory or the model has read further than the log reaches: it belongs to another
        log.
        """
        async with self._lock:
            await self.memory.restore()
            end, _ = await self._log.end()
            await self.policy.restore(end)
            if self.memory.place > end:
                raise StorageFailed(f"the memory has read to {self.memory.place}, but the log ends at {end}")

    async def run(self, stop: asyncio.Event) -> None:
        """Learn until `stop` is set; then write a last snapshot. Failures are logged and retried."""
        await poll(
            self._advance,
            stop,
            interval=POLL_SECONDS,
            retry_interval=RETRY_SECONDS,
            on_failure=self._failed,
            identity=_failure_identity,
            wake=self._wake,
        )
        try:
            await self.publish()
        except Exception as error:
            logger.warning("last_snapshot_failed offset=%d error=%s", self.policy.place, type(error).__name__)

    def notify(self) -> None:
        """Wake the learner, because the log has new records. Call it from the learner's event loop."""
        self._wake.set()

    async def step(self, limit: int = BATCH) -> int:
        """Process the next records, at most `limit`, and learn some of the decisions whose window has closed. Returns
        the amount of work done; 0 when there is nothing to do."""
        async with self._lock:
            records = [] if self.policy.full else await self._read(limit)
            await self.memory.take(records)
            await self.policy.take(records)
            return len(records) + await self.policy.learn()

    async def catch_up(self, policy: bool = True) -> None:
        """Process all current records of the log; without `policy`, return once memory and histories are up to date."""
        end, _ = await self._log.end()
        while self.memory.place < end or (policy and self.offset < end):
            await self.step()

    async def publish(self) -> str | None:
        """Write a snapshot now if there is anything new; returns the version of the newest one."""
        async with self._lock:
            if self.policy.snapshot is not None and not self.policy.changed:
                return self.policy.snapshot
            version = await self.policy.publish("snapshot")
            await self._report_consumed()
            return version

    async def adopt(self, version: str) -> str:
        """Continue from the model of an earlier snapshot, at the current position in the log: what was learned since is
        dropped. Returns the version of the new snapshot. Raises NotFound, ModelInvalid, StorageFailed."""
        async with self._lock:
            adopted = await self.policy.adopt(version)
            await self._report_consumed()
            return adopted

    @property
    def offset(self) -> int:
        """Offset up to which the policy has learned everything."""
        return self.policy.offset

    async def observe(self) -> Progress:
        """The learner's progress; also updates its gauges."""
        end, _ = await self._log.end()
        policy = self.policy
        progress = Progress(
            lag={self.memory.name: max(0, end - self.memory.place), policy.name: max(0, end - policy.offset)},
            open=policy.waiting,
            learned=policy.learned,
            skipped=self._dead_letters.count,
            snapshot=policy.snapshot,
            snapshot_age=None if policy.snapshot is None else max(0.0, policy.snapshot_age),
        )
        set_gauges(progress)
        return progress

    async def _advance(self) -> float | None:
        """One iteration of `run`; returns 0.0 when there may be more work right away."""
        done = await self.step()
        if not done:
            await self._tick()
        if self.policy.changed and self.policy.snapshot_age >= self._snapshot_seconds:
            await self.publish()
        if self._clock() - self._consumed_at >= CONSUMED_SECONDS:
            await self._report_consumed()
        return 0.0 if done else None

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StorageFailed):
            logger.warning("learner_waits offset=%d error=%s", self.policy.place, type(error).__name__)
        else:
            logger.error("learner_failed offset=%d", self.policy.place, exc_info=error)

    async def _read(self, limit: int) -> list[Numbered]:
        """Records that some consumer has not processed; a damaged one is skipped by both."""
        return await read_batch(self._log, min(self.memory.place, self.policy.place), limit, self._pass_over)

    async def _pass_over(self, offset: int, error: RecordDamaged) -> None:
        await self._dead_letters.add(offset, error)
        await self.memory.pass_over(offset, error)
        await self.policy.pass_over(offset, error)

    async def _tick(self) -> None:
        """Append a Tick to a log without traffic once an open window is over: every Tick closes at least one."""
        if self.policy.overdue:
            await self._log.append(Tick(self._clock()))
            self.notify()

    async def _report_consumed(self) -> None:
        await self.policy.report_consumed()
        await self.memory.report_consumed()
        self._consumed_at = self._clock()


def _failure_identity(error: Exception) -> Hashable:
    """Identity of a failure. An unreachable store fails with varying messages; it is logged once."""
    return StorageFailed if isinstance(error, StorageFailed) else type_and_text(error)

"""The learner: reads the event log in order and brings memory, histories and policy up to date, each exactly once.

One reading feeds two consumers, each with its own place in the log: memory and histories (memory_consumer.py) and the
policy (policy_consumer.py). Nothing here depends on the clock but when to write snapshots and Ticks.
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
"""How often the log is told what it may drop."""


class Learner:
    """One per log. `restore` first, then `run`.

    snapshot_seconds: least time between two snapshots; the others are those of MemoryConsumer and PolicyConsumer."""

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

        Raises StorageFailed when the log is behind what was learned from it: it is not the log that this memory or
        model belongs to.
        """
        async with self._lock:
            await self.memory.restore()
            end, _ = await self._log.end()
            await self.policy.restore(end)
            if self.memory.place > end:
                raise StorageFailed(f"the memory has read to {self.memory.place}, but the log ends at {end}")

    async def run(self, stop: asyncio.Event) -> None:
        """Learn until `stop` is set; then write a last snapshot. Failures are logged and tried again."""
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
        """There is something new in the log. Call it from the learner's event loop."""
        self._wake.set()

    async def step(self, limit: int = BATCH) -> int:
        """Take in the next records, at most `limit`, and learn some of the decisions whose time is up. How much was
        done; 0 when there is nothing to do."""
        async with self._lock:
            records = [] if self.policy.full else await self._read(limit)
            await self.memory.take(records)
            await self.policy.take(records)
            return len(records) + await self.policy.learn()

    async def catch_up(self, policy: bool = True) -> None:
        """Take in all that is in the log by now; without `policy`, return once memory and histories have."""
        end, _ = await self._log.end()
        while self.memory.place < end or (policy and self.offset < end):
            await self.step()

    async def publish(self) -> str | None:
        """Write a snapshot now when there is anything new to write; the newest one's version."""
        async with self._lock:
            if self.policy.snapshot is not None and not self.policy.changed:
                return self.policy.snapshot
            version = await self.policy.publish("snapshot")
            await self._report_consumed()
            return version

    async def adopt(self, version: str) -> str:
        """Go on from the model of an earlier snapshot, at the present place in the log: what was learned since is
        dropped. The version of the snapshot that says so. Raises NotFound, ModelInvalid, StorageFailed."""
        async with self._lock:
            adopted = await self.policy.adopt(version)
            await self._report_consumed()
            return adopted

    @property
    def offset(self) -> int:
        """Last record of which the policy has learned all there is to learn."""
        return self.policy.offset

    async def observe(self) -> Progress:
        """Where the learner stands; brings its gauges up to date."""
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
        """One turn of `run`; 0.0 when there may be more to do at once."""
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
        """Records that a consumer has not had; a damaged one is passed over by both."""
        return await read_batch(self._log, min(self.memory.place, self.policy.place), limit, self._pass_over)

    async def _pass_over(self, offset: int, error: RecordDamaged) -> None:
        await self._dead_letters.add(offset, error)
        await self.memory.pass_over(offset, error)
        await self.policy.pass_over(offset, error)

    async def _tick(self) -> None:
        """Let time pass in a log without traffic, once a window's end has come: every Tick closes one at least."""
        if self.policy.overdue:
            await self._log.append(Tick(self._clock()))
            self.notify()

    async def _report_consumed(self) -> None:
        await self.policy.report_consumed()
        await self.memory.report_consumed()
        self._consumed_at = self._clock()


def _failure_identity(error: Exception) -> Hashable:
    """A store that is away fails in changing words; it is logged once."""
    return StorageFailed if isinstance(error, StorageFailed) else type_and_text(error)

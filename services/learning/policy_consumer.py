"""The consumer that teaches the policy.

It learns from a decision when its reward window closes (services/rewards/windows.py), whether it was clicked or not.

Its position is in the snapshot, beside the model. State outside the snapshot (open windows) is read again from the log,
so that learning gives the same bytes with and without a crash.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services import metrics
from services.backends.base import EventLog
from services.backends.log_reader import Numbered, read_batches
from services.errors import ModelInvalid, RecordDamaged, StorageFailed
from services.learning import snapshots
from services.learning.consumer import LOOKUP_SECONDS, DeadLetters, LogConsumer
from services.learning.snapshots import ADOPTED, KIND, Snapshot
from services.models.store import ModelStore
from services.policies.base import LearningPolicy, Outcome
from services.rewards.quota import PrincipalQuota
from services.rewards.rewards import clicked, examination, principal_weight, reward
from services.rewards.windows import Window, Windows
from services.types import Deadline, Impression, Survey

logger = logging.getLogger(__name__)

OUTCOMES_A_STEP = 64
"""Decisions learned before the log is read again: the memory must not wait for all of them."""
MAX_PENDING = 20_000
"""Maximum number of closed windows waiting to be learned; then reading pauses."""
REOPEN_BATCH = 1000
"""Records per read when the open windows are restored."""


class PolicyConsumer(LogConsumer):
    """load_policy: loads a policy from a snapshot's bytes; attribution: length of a reward window in seconds of log
    time; weights: per action (services.rewards.rewards); principal_cap: decisions per hour of one principal that count
    in full; on_publish: called with (version, bytes) of every snapshot, in a thread; guard: called before a snapshot is
    written, raises when another process has become the learner."""

    name = "policy"

    def __init__(
        self,
        log: EventLog,
        store: ModelStore,
        policy: LearningPolicy,
        load_policy: Callable[[bytes], LearningPolicy],
        dead_letters: DeadLetters,
        *,
        attribution: float,
        weights: Mapping[str, float],
        principal_cap: int,
        on_publish: Callable[[str, bytes], None] = lambda version, model: None,
        guard: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(log)
        self._store = store
        self._policy = policy
        self._load_policy = load_policy
        self._dead_letters = dead_letters
        self._weights = dict(weights)
        self._principal_cap = principal_cap
        self._on_publish = on_publish
        self._guard = guard
        self._clock = clock

        self._windows = Windows(attribution)
        self._closed: deque[tuple[int, Window]] = deque()
        """(offset of the record that closed it, window), waiting to be learned."""
        self._quota = PrincipalQuota(0, {})
        self._learned = 0
        self._changed = False
        self._snapshot: str | None = None
        self._snapshot_at = clock()
        self._needed = 1
        """Offset of the first record that is needed after a crash."""

    # --- progress ---

    @property
    def policy(self) -> LearningPolicy:
        """The policy that learns."""
        return self._policy

    @property
    def offset(self) -> int:
        """Offset up to which the policy has learned everything."""
        return self._closed[0][0] - 1 if self._closed else self._place

    @property
    def waiting(self) -> int:
        """Number of decisions not learned yet, in open and in closed windows."""
        return len(self._windows) + len(self._closed)

    @property
    def learned(self) -> int:
        """Number of decisions that the model has learned in total."""
        return self._learned

    @property
    def snapshot(self) -> str | None:
        """Version of the newest snapshot; None before the first."""
        return self._snapshot

    @property
    def snapshot_age(self) -> float:
        """Seconds since the newest snapshot was written or loaded (before the first: since the start)."""
        return self._clock() - self._snapshot_at

    @property
    def changed(self) -> bool:
        """Whether there is anything that is not in a snapshot yet."""
        return self._changed

    @property
    def full(self) -> bool:
        """Whether so many decisions wait to be learned that reading should pause."""
        return len(self._closed) >= MAX_PENDING

    @property
    def overdue(self) -> bool:
        """Whether an open window is over by the clock: a record at or after its end would close it."""
        oldest = self._windows.oldest
        return oldest is not None and oldest.ends <= self._clock()

    # --- reading ---

    async def restore(self, end: int) -> None:
        """Continue from the newest intact snapshot, or from the beginning of the log when there is none. end: last
        offset of the log.

        Raises StorageFailed when the snapshot has read further than `end`: it belongs to another log."""
        stored = await asyncio.to_thread(self._store.current, KIND)
        if stored is None:
            return
        try:
            snapshot = snapshots.read(stored)
            policy = self._load_policy(snapshot.model)
        except ModelInvalid as error:
            logger.error("snapshot_unusable version=%s error=%s", stored.version, type(error).__name__)
            return
        if snapshot.offset > end:
            raise StorageFailed(f"policy {stored.version} has read to {snapshot.offset}, but the log ends at {end}")
        self._policy, self._learned, self._quota = policy, snapshot.learned, snapshot.quota
        self._snapshot, self._snapshot_at = stored.version, self._clock()
        await self._reopen(snapshot.low, snapshot.offset)
        await asyncio.to_thread(self._on_publish, stored.version, snapshot.model)

    async def take(self, records: Sequence[Numbered]) -> None:
        """Add events to their windows, and queue the windows that close for `learn`."""
        for offset, record in records:
            if offset > self._place:
                self._place = offset
                self._closed.extend((offset, window) for window in self._windows.take(offset, record))

    async def pass_over(self, offset: int, error: RecordDamaged) -> None:
        """Skip the record."""
        self._place = max(self._place, offset)

    async def report_consumed(self) -> None:
        """Let the log drop records up to the last snapshot: later ones would be learned again after a crash."""
        if not self._changed:
            self._needed = self._low()
        await self._log.consumed(self.name, self._needed - 1)

    async def _reopen(self, low: int, offset: int) -> None:
        """Restore the windows that were open when the snapshot was written, without learning anything again."""
        self._place = low - 1
        async for records in read_batches(self._log, low - 1, offset, REOPEN_BATCH, self.pass_over):
            for at, record in records:
                self._windows.take(at, record)
                self._place = at

    # --- learning ---

    async def learn(self) -> int:
        """Learn some of the closed windows; returns their number. State is consistent between any two of them. Raises
        StorageFailed, TimeoutError."""
        count = 0
        while self._closed and count < OUTCOMES_A_STEP:
            offset, window = self._closed[0]
            impression = await self._impression(offset, window.query_id)
            if impression is not None:
                await self._learn_one(offset, impression, window)
            self._closed.popleft()
            self._changed = True
            count += 1
            await asyncio.sleep(0)  # searches share this thread
        return count

    async def _learn_one(self, offset: int, impression: Impression, window: Window) -> None:
        survey = await self._survey(window)
        weight = principal_weight(self._quota.count(impression), self._principal_cap)
        try:
            self._policy.learn(
                Outcome(
                    features=impression.features,
                    survey=survey,
                    examination=tuple(examination(position) for position in range(1, len(impression.shown) + 1)),
                    clicked=clicked(impression, window.interactions, self._weights),
                    weight=weight,
                )
            )
        except Exception as error:
            await self._dead_letters.add(offset, error)
            return
        self._learned += 1
        metrics.LEARNED.inc()
        metrics.REWARD.observe(reward(window.interactions, self._weights))

    async def _impression(self, offset: int, query_id: str) -> Impression | None:
        try:
            return await self._log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
        except RecordDamaged as error:
            await self._dead_letters.add(offset, error)
            return None

    async def _survey(self, window: Window) -> Survey | None:
        if window.survey is None:
            return None
        try:
            found = await self._log.read(window.survey - 1, 1)
        except RecordDamaged as error:
            await self._dead_letters.add(window.survey, error)
            return None
        return next((record for _, record in found if isinstance(record, Survey)), None)

    # --- snapshots ---

    async def publish(self, reason: str, more: Mapping[str, str] | None = None) -> str:
        """Write a snapshot of the current state; returns its version. more: additional metadata. Raises what the guard
        and the store raise."""
        snapshot = Snapshot(self.offset, self._low(), self._learned, self._quota, self._policy.dump())
        version = snapshot.version
        meta = {"policy": self._policy.name, "offset": snapshot.offset, "learned": self._learned, **(more or {})}
        if self._guard is not None:
            await self._guard()
        await asyncio.to_thread(snapshots.write, self._store, snapshot, meta, reason)
        self._changed = False
        self._snapshot, self._snapshot_at = version, self._clock()
        metrics.SNAPSHOT_TIME.set(self._snapshot_at)
        await asyncio.to_thread(self._on_publish, version, snapshot.model)
        return version

    async def adopt(self, version: str) -> str:
        """Continue from the model of an earlier snapshot, at the current position in the log; returns the version of
        the new snapshot. Raises NotFound, ModelInvalid, and as `publish` does: then it continues as before."""
        stored = await asyncio.to_thread(self._store.load, KIND, version)
        before = self._policy
        self._policy = self._load_policy(snapshots.read(stored).model)
        try:
            return await self.publish(f"adopted {version}", {ADOPTED: version})
        except BaseException:  # rejected, so it must not get into the next snapshot
            self._policy = before
            raise

    def _low(self) -> int:
        """Offset of the first record that is needed to continue learning. Windows close in log order, so those that the
        record after `offset` closed and that are learned already lie before it."""
        oldest = self._closed[0][1] if self._closed else self._windows.oldest
        return self.offset + 1 if oldest is None else oldest.offset

"""The learner: reads the event log in order and brings memory, histories and policy up to date, each exactly once.

Two consumers, each with its own place in the log, kept with what it wrote:

- memory and histories take every record at once; their place is in the memory index, written with them;
- the policy learns a decision when its reward window closes (services/rewards/windows.py), clicked or not at the same
  moment; its place is in the snapshot, beside the model. What is not in the snapshot (open windows) is read again from
  the log, so that learning after a crash ends in the same bytes as learning without.

Nothing here depends on the clock but when to write snapshots and Ticks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from services import metrics
from services.backends.base import EventLog, Forget, MemoryChange, MemoryIndex, Record, Tick
from services.errors import ModelInvalid, RecordDamaged, StorageFailed
from services.learning import snapshots
from services.learning.progress import Progress, gauges
from services.learning.snapshots import ADOPTED, KIND, Snapshot
from services.memory.scores import debiased
from services.models.store import ModelStore
from services.policies.base import LearningPolicy, Outcome
from services.rewards.quota import Shares
from services.rewards.rewards import examination, principal_weight, reward, strength, taken
from services.rewards.windows import Window, Windows
from services.types import Deadline, EventStatus, Impression, Interaction, Survey

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STEP_RECORDS = 250
"""Records taken in at once: where the memory is shared, it serves nobody while it takes them in."""
RETRY_SECONDS = 1.0
CONSUMED_SECONDS = 60.0
"""How often the log is told what it may drop."""
LOOKUP_SECONDS = 5.0
OUTCOMES_A_STEP = 64
"""Decisions learned before the log is read again: memory must not wait for them all."""
MOST_PENDING = 20_000
"""Closed windows that may wait to be learned before reading pauses."""
_KNOWN = 10_000
"""Impressions whose key is at hand."""


class Learner:
    """One per log. `restore` first, then `run`.

    load_policy makes a policy of a snapshot's bytes; attribution: seconds of log time of a reward window; weights: per
    action (services.rewards.rewards); principal_cap: decisions an hour of one principal that count in full; on_publish
    is told (version, bytes) of every snapshot, in a thread; guard raises, before a snapshot is written, when another
    process has become the learner."""

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
        self._memory = memory
        self._store = store
        self._policy = policy
        self._load_policy = load_policy
        self._weights = dict(weights)
        self._principal_cap = principal_cap
        self._snapshot_seconds = snapshot_seconds
        self._on_publish = on_publish
        self._guard = guard
        self._clock = clock

        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._memory_offset = 0
        self._memory_doubtful = False
        self._known: OrderedDict[str, tuple[str, bool]] = OrderedDict()
        self._windows = Windows(attribution)
        self._taken = 0
        """Last record that the windows have taken in."""
        self._closed: deque[tuple[int, Window]] = deque()
        """(offset of the record that closed it, window), waiting to be learned."""
        self._shares = Shares(0, {})
        self._learned = 0
        self._skipped = 0
        self._changed = False
        self._snapshot: str | None = None
        self._snapshot_at = clock()
        self._told_at = clock()
        self._needed = 1
        """First record that is needed after a crash."""

    async def restore(self) -> None:
        """Continue from the newest intact snapshot, or from the beginning of the log when there is none.

        Raises StorageFailed when the log is behind what was learned from it: it is not the log that this memory or
        model belongs to.
        """
        async with self._lock:
            self._memory_offset = await self._memory.offset()
            end, _ = await self._log.end()
            stored = await asyncio.to_thread(self._store.current, KIND)
            if stored is not None:
                try:
                    snapshot = snapshots.read(stored)
                    policy = self._load_policy(snapshot.model)
                except ModelInvalid as error:
                    logger.error("snapshot_unusable version=%s error=%s", stored.version, type(error).__name__)
                else:
                    if snapshot.offset > end:
                        raise StorageFailed(
                            f"policy {stored.version} has read to {snapshot.offset}, but the log ends at {end}"
                        )
                    self._policy, self._learned, self._shares = policy, snapshot.learned, snapshot.shares
                    self._snapshot, self._snapshot_at = stored.version, self._clock()
                    await self._reopen(snapshot.low, snapshot.offset)
                    await asyncio.to_thread(self._on_publish, stored.version, snapshot.model)
            if self._memory_offset > end:
                raise StorageFailed(f"the memory has read to {self._memory_offset}, but the log ends at {end}")

    async def run(self, stop: asyncio.Event) -> None:
        """Learn until `stop` is set; then write a last snapshot. Failures are logged and tried again."""
        failing = False
        while not stop.is_set():
            self._wake.clear()
            pause = POLL_SECONDS
            try:
                if await self.step():
                    pause = 0.0
                else:
                    await self._tick()
                if self._changed and self._clock() - self._snapshot_at >= self._snapshot_seconds:
                    await self.publish()
                if self._clock() - self._told_at >= CONSUMED_SECONDS:
                    await self._tell_consumed()
                failing = False
            except StorageFailed as error:
                if not failing:  # said once: a store may be away for long
                    logger.warning("learner_waits offset=%d error=%s", self._taken, type(error).__name__)
                failing, pause = True, RETRY_SECONDS
            except Exception:
                logger.exception("learner_failed offset=%d", self._taken)
                pause = RETRY_SECONDS
            if pause:
                with suppress(TimeoutError):
                    await asyncio.wait_for((stop if pause == RETRY_SECONDS else self._wake).wait(), pause)
        try:
            await self.publish()
        except Exception as error:
            logger.warning("last_snapshot_failed offset=%d error=%s", self._taken, type(error).__name__)

    def notify(self) -> None:
        """There is something new in the log. Call it from the learner's event loop."""
        self._wake.set()

    async def step(self, limit: int = STEP_RECORDS) -> int:
        """Take in the next records, at most `limit`, and learn some of the decisions whose time is up. How much was
        done; 0 when there is nothing to do."""
        async with self._lock:
            records = await self._read(limit) if len(self._closed) < MOST_PENDING else []
            await self._remember(records)
            for offset, record in records:
                if offset > self._taken:
                    self._take(offset, record)
            return len(records) + await self._learn()

    async def catch_up(self, policy: bool = True) -> None:
        """Take in all that is in the log by now; without `policy`, return once memory and histories have."""
        end, _ = await self._log.end()
        while self._memory_offset < end or (policy and self.offset < end):
            await self.step()

    async def publish(self) -> str | None:
        """Write a snapshot now when there is anything new to write; the newest one's version."""
        async with self._lock:
            if self._snapshot is not None and not self._changed:
                return self._snapshot
            return await self._publish("snapshot")

    async def adopt(self, version: str) -> str:
        """Go on from the model of an earlier snapshot, at the present place in the log: what was learned since is
        dropped. The version of the snapshot that says so."""
        async with self._lock:
            stored = await asyncio.to_thread(self._store.load, KIND, version)
            before = self._policy
            self._policy = self._load_policy(snapshots.read(stored).model)
            try:
                return await self._publish(f"adopted {version}", {ADOPTED: version})
            except BaseException:  # refused, so it must not come with the next snapshot
                self._policy = before
                raise

    @property
    def offset(self) -> int:
        """Last record of which the policy has learned all there is to learn."""
        return self._closed[0][0] - 1 if self._closed else self._taken

    async def observe(self) -> Progress:
        """Where the learner stands; brings its gauges up to date."""
        end, _ = await self._log.end()
        lag = {"memory": max(0, end - self._memory_offset), "policy": max(0, end - self.offset)}
        waiting = len(self._windows) + len(self._closed)
        age = None if self._snapshot is None else max(0.0, self._clock() - self._snapshot_at)
        progress = Progress(lag, waiting, self._learned, self._skipped, self._snapshot, age)
        gauges(progress)
        return progress

    async def _read(self, limit: int) -> list[tuple[int, Record]]:
        """Records that a consumer has not had; a damaged one is passed over by both."""
        while True:
            after = min(self._memory_offset, self._taken)
            try:
                return await self._log.read(after, limit)
            except RecordDamaged as error:
                damaged = after + 1 if error.offset is None else error.offset
                await self._skip(damaged, error)
                if self._memory_offset < damaged:
                    await self._memory.apply([], damaged)
                    self._memory_offset = damaged
                self._taken = max(self._taken, damaged)

    async def _skip(self, offset: int, error: Exception) -> None:
        """Pass over a record that cannot be applied, and say so where people look for such records."""
        self._skipped += 1
        metrics.LEARNER_ERRORS.inc()
        logger.error("record_skipped offset=%d error=%s", offset, type(error).__name__)
        await self._log.bury(offset, type(error).__name__)

    async def _reopen(self, low: int, offset: int) -> None:
        """Open the windows that were open when the snapshot was written, learning nothing again."""
        self._taken = low - 1
        while self._taken < offset:
            try:
                records = await self._log.read(self._taken, 1000)
            except RecordDamaged as error:
                self._taken = self._taken + 1 if error.offset is None else error.offset
                continue
            for at, record in records:
                if at > offset:
                    break
                self._windows.take(at, record)
                self._taken = at

    async def _tick(self) -> None:
        """Let time pass in a log without traffic, once a window's end has come: every Tick closes one at least."""
        oldest = self._windows.oldest
        now = self._clock()
        if oldest is not None and oldest.ends <= now:
            await self._log.append(Tick(now))
            self.notify()

    # --- memory and histories ---

    async def _remember(self, records: Sequence[tuple[int, Record]]) -> None:
        if self._memory_doubtful:
            # What failed or was broken off may have been committed all the same: the memory itself knows.
            self._memory_offset = await self._memory.offset()
            self._memory_doubtful = False
        fresh = [(offset, record) for offset, record in records if offset > self._memory_offset]
        if not fresh:
            return
        changes = [(offset, change) for offset, r in fresh if (change := await self._change(offset, r)) is not None]
        last = fresh[-1][0]
        self._memory_doubtful = True
        try:
            await self._memory.apply([change for _, change in changes], last)
        except StorageFailed:
            raise
        except Exception:
            await self._remember_singly(changes, last)
        self._memory_offset, self._memory_doubtful = last, False

    async def _remember_singly(self, changes: Sequence[tuple[int, MemoryChange]], last: int) -> None:
        """One of the changes cannot be applied: leave that one out."""
        for offset, change in changes:
            try:
                await self._memory.apply([change], offset)
            except StorageFailed:
                raise
            except Exception as error:
                await self._skip(offset, error)
        await self._memory.apply([], last)

    async def _change(self, offset: int, record: Record) -> MemoryChange | None:
        match record:
            case Impression():
                self._known[record.query_id] = (record.memory_key, record.learn)
                if len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
                if record.learn and record.memory_key and record.root_id == record.query_id:
                    shown = (record.memory_key, record.normalized)
                    return MemoryChange(shown=shown, shown_to=record.actor.principal or "", at=record.at)
            case Interaction() if record.status == EventStatus.ACCEPTED and record.object_id is not None:
                return await self._acted(offset, record, record.object_id)
            case Forget():
                self._known.clear()
                return MemoryChange(forget_user=record.user_id, at=record.at)
        return None

    async def _acted(self, offset: int, event: Interaction, object_id: str) -> MemoryChange | None:
        """Events outside of an answer, and on answers without a query to remember, go to the history alone."""
        key, learn = "", True
        if event.query_id is not None:
            key, learn = await self._answer(offset, event.query_id)
        weight = self._weights.get(event.action_name, 0.0) * strength(event)
        if not learn or weight == 0.0:
            return None
        who = event.actor
        action = None
        if key:
            action = (key, object_id, who.principal or "", debiased(weight, examination(event.position or 1)))
        history = None if who.person is None else (who.person, object_id, weight)
        return MemoryChange(action=action, history=history, at=event.at)

    async def _answer(self, offset: int, query_id: str) -> tuple[str, bool]:
        """(memory key, whether it may be learned from) of an answer."""
        known = self._known.get(query_id)
        if known is not None:
            return known
        impression = await self._impression(offset, query_id)
        return ("", False) if impression is None else (impression.memory_key, impression.learn)

    async def _impression(self, offset: int, query_id: str) -> Impression | None:
        try:
            return await self._log.impression(query_id, Deadline.after(LOOKUP_SECONDS))
        except RecordDamaged as error:
            await self._skip(offset, error)
            return None

    def _take(self, offset: int, record: Record) -> None:
        self._taken = offset
        self._closed.extend((offset, window) for window in self._windows.take(offset, record))

    async def _learn(self) -> int:
        """Learn some of the closed windows; how many. State is whole between any two of them."""
        count = 0
        while self._closed and count < OUTCOMES_A_STEP:
            offset, window = self._closed[0]
            impression = await self._impression(offset, window.query_id)
            if impression is not None:
                await self._learn_one(offset, impression, window)
            self._closed.popleft()
            self._changed = True
            count += 1
            await asyncio.sleep(0)  # searches share it
        return count

    async def _learn_one(self, offset: int, impression: Impression, window: Window) -> None:
        survey = await self._surveyed(window)
        weight = principal_weight(self._shares.next(impression), self._principal_cap)
        try:
            self._policy.learn(
                Outcome(
                    features=impression.features,
                    survey=survey,
                    looked=tuple(examination(position) for position in range(1, len(impression.shown) + 1)),
                    taken=taken(impression, window.interactions, self._weights),
                    weight=weight,
                )
            )
        except Exception as error:
            await self._skip(offset, error)
            return
        self._learned += 1
        metrics.LEARNED.inc()
        metrics.REWARD.observe(reward(impression, window.interactions, self._weights))

    async def _surveyed(self, window: Window) -> Survey | None:
        if window.survey is None:
            return None
        try:
            found = await self._log.read(window.survey - 1, 1)
        except RecordDamaged as error:
            await self._skip(window.survey, error)
            return None
        return next((record for _, record in found if isinstance(record, Survey)), None)

    async def _publish(self, reason: str, said: Mapping[str, str] | None = None) -> str:
        snapshot = Snapshot(self.offset, self._low(), self._learned, self._shares, self._policy.dump())
        version = snapshot.version
        meta = {"policy": self._policy.name, "offset": snapshot.offset, "learned": self._learned, **(said or {})}
        if self._guard is not None:
            await self._guard()
        await asyncio.to_thread(snapshots.write, self._store, snapshot, meta, reason)
        self._changed = False
        self._snapshot, self._snapshot_at = version, self._clock()
        metrics.SNAPSHOT_TIME.set(self._snapshot_at)
        await asyncio.to_thread(self._on_publish, version, snapshot.model)
        await self._tell_consumed()
        return version

    async def _tell_consumed(self) -> None:
        """Let the log drop what neither consumer needs, nor would need after a crash: what a policy has learned since
        its last snapshot would be learned again."""
        if not self._changed:
            self._needed = self._low()
        await self._log.consumed("policy", self._needed - 1)
        await self._log.consumed("memory", self._memory_offset)
        self._told_at = self._clock()

    def _low(self) -> int:
        """The first record that is needed to learn on. Windows close in log order, so those that the record after
        `offset` closed and that are learned already lie before it."""
        oldest = self._closed[0][1] if self._closed else self._windows.oldest
        return self.offset + 1 if oldest is None else oldest.offset

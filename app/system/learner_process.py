"""The learner as a process of its own: it waits for the lease, learns while it holds it, and repeats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from app.settings import Settings
from app.system.background import background
from app.system.learner import new_learner
from app.system.stores import Stores, model_store, open_stores
from app.system.ubi import Work, mirroring
from services.backends.redis.locks import Lease
from services.errors import LtrrError, StorageFailed
from services.learning.learner import Learner
from services.learning.learner_link import attend
from services.resilience.polling import poll

logger = logging.getLogger(__name__)

LEASE = "learner"
RETRY_SECONDS = 1.0
"""Seconds before the next attempt after a failure."""
OBSERVE_SECONDS = 2.0
"""Seconds that a probe or a scrape may wait for Redis."""


class LearnerSystem:
    """`run` learns until it is stopped; the other methods may be called meanwhile."""

    def __init__(self, settings: Settings, stores: Stores, lease: Lease, mirror: Work) -> None:
        self._settings = settings
        self._lease = lease
        self._mirror = mirror
        # A learner that was suspended while another took over must not write a model when it resumes.
        fenced = model_store(settings, lambda: (self._lease.epoch_key, self._lease.epoch))
        self._stores = replace(stores, models=fenced)
        self._learner: Learner | None = None

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """(whether it is ready, state by part). It is ready while it learns, and also while it waits for another
        process to give up the lease."""
        try:
            async with asyncio.timeout(OBSERVE_SECONDS):
                await self._stores.log.end()
            log = "ok"
        except (StorageFailed, TimeoutError) as error:
            log = type(error).__name__
        return log == "ok", {"log": log, "lease": f"held, epoch {self._lease.epoch}" if self._learner else "waiting"}

    async def observe(self) -> None:
        """Update the learner's gauges, if it learns and Redis answers."""
        if self._learner is not None:
            with suppress(StorageFailed, TimeoutError):
                async with asyncio.timeout(OBSERVE_SECONDS):
                    await self._learner.observe()

    async def run(self, stop: asyncio.Event) -> None:
        """Acquire the lease, learn while it is held, and start over, until `stop` is set."""
        stopping = asyncio.create_task(stop.wait())

        async def hold_lease() -> float:
            try:
                if await self._acquired(stopping):
                    await self._learn(stop, stopping)
            finally:
                self._learner = None
                await self._lease.release()
            return 0.0

        try:
            await poll(hold_lease, stop, interval=RETRY_SECONDS, on_failure=_report)
        finally:
            stopping.cancel()

    async def _acquired(self, stopping: asyncio.Task[bool]) -> bool:
        """Wait for the lease; returns whether it is held, False when stopped before that."""
        acquiring = asyncio.create_task(self._lease.acquire())
        done, _ = await asyncio.wait([acquiring, stopping], timeout=RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            logger.info("waiting for the lease: another learner holds it")
            await asyncio.wait([acquiring, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not acquiring.done():
            acquiring.cancel()
            with suppress(asyncio.CancelledError):
                await acquiring
            return False
        logger.info("learning (lease held, epoch %d)", acquiring.result())
        return True

    async def _learn(self, stop: asyncio.Event, stopping: asyncio.Task[bool]) -> None:
        """Learn until stopped, or until the lease is lost: from then on this learner writes nothing."""
        learner = new_learner(self._settings, self._stores, guard=self._lease.verify)
        await learner.restore()
        self._learner = learner
        attending = background(lambda until: attend(learner, self._stores.state, until))
        async with background(learner.run), attending, background(self._mirror):
            lost = asyncio.create_task(self._lease.wait_lost())
            await asyncio.wait([stopping, lost], return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not stop.is_set():
                logger.warning("lease_lost epoch=%d", self._lease.epoch)
            lost.cancel()


def _report(error: Exception) -> None:
    """Log an error: our own with their message, which says what to do; others by type, as their text may quote
    input."""
    logger.warning("learner_waits error=%s", str(error) if isinstance(error, LtrrError) else type(error).__name__)


@asynccontextmanager
async def learning(settings: Settings) -> AsyncIterator[LearnerSystem]:
    """The learner process: it learns in the background for as long as the context lasts.

    Raises StorageFailed when Redis cannot be reached at the start."""
    async with open_stores(settings, warn=True) as stores:
        if stores.redis is None:
            raise StorageFailed("the event log is a file: its learner runs inside `ltrr serve`")
        lease = Lease(stores.redis, LEASE)
        async with mirroring(settings, stores, lease.verify) as mirror:
            system = LearnerSystem(settings, stores, lease, mirror)
            async with background(system.run):
                yield system

"""The parts of an open service, and the few operations that concern several of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from app.settings import Settings
from app.system.admission import Admission
from app.system.registry import Registry
from app.system.stored_mode import StoredMode
from app.system.stores import Stores
from services import metrics
from services.backends.base import EventLog, ItemStore, MemoryIndex, StateStore
from services.catalogue.index_sync import IndexSync
from services.catalogue.writing import Catalogue
from services.completion.suggest import Autocomplete
from services.errors import StorageFailed
from services.learning.feedback import EventResult, FeedbackService
from services.learning.learner_link import LearnerView
from services.learning.progress import Progress
from services.models.store import ModelStore
from services.offpolicy.activity import Activity
from services.policies.modes import PolicySwitch
from services.search.engine import SearchEngine
from services.search.explain import Explainer
from services.search.survey import Surveyor
from services.types import Deadline, EventStatus

READY_SECONDS = 0.5
"""Seconds that a readiness probe waits for a part."""
OBSERVE_SECONDS = 1.0
"""Seconds that a scrape waits for counts and the learner."""


@dataclass(slots=True)
class System:
    """An open service, as routes and commands use it."""

    settings: Settings
    stores: Stores
    admission: Admission
    search: SearchEngine
    explain: Explainer
    autocomplete: Autocomplete
    surveyor: Surveyor
    feedback: FeedbackService
    catalogue: Catalogue
    index_sync: IndexSync
    models: Registry
    learner: LearnerView
    activity: Activity
    switch: PolicySwitch
    policy_mode: StoredMode
    pings: Mapping[str, Callable[[Deadline], Awaitable[Any]]] = field(default_factory=dict)
    """Per remote engine, a call that fails when it is unreachable."""

    @property
    def log(self) -> EventLog:
        """The event log."""
        return self.stores.log

    @property
    def items(self) -> ItemStore:
        """The catalogue's items."""
        return self.stores.items

    @property
    def memory(self) -> MemoryIndex:
        """Clicks by query, and users' histories."""
        return self.stores.memory

    @property
    def state(self) -> StateStore:
        """Small key-value state shared by processes."""
        return self.stores.state

    @property
    def store(self) -> ModelStore:
        """Versions of models."""
        return self.stores.models

    @property
    def admin_key(self) -> str | None:
        """The admin key; None when none is set."""
        return self.settings.admin_key.get_secret_value() if self.settings.admin_key else None

    async def mode(self) -> str:
        """The current mode, whichever process set it; the last known one while it cannot be read."""
        with suppress(StorageFailed, TimeoutError):
            await self.policy_mode.load()
        return self.policy_mode.value

    async def set_mode(self, mode: str) -> None:
        """Set the mode; it is durable and active when this returns. Raises StorageFailed when it could not be
        stored."""
        await self.policy_mode.set(mode)

    async def record(self, events: Sequence[object], admin: bool) -> list[EventResult]:
        """Record feedback, count it, and notify the learner; one result per event. Raises StorageFailed."""
        results = await self.feedback.record(events, admin)
        for result in results:
            metrics.FEEDBACK.labels(result.status).inc()
        if any(result.status is EventStatus.ACCEPTED for result in results):
            self.learner.notify()
        return results

    async def forget_user(self, user_id: str) -> int:
        """Forget a user; returns the number of blanked log records. Histories and memory are updated when this
        returns."""
        blanked = await self.log.forget(user_id, time.time())
        await self.learner.catch_up(policy=False)
        return blanked

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """(whether searches can be answered, "ok" or an error per part). Searches only need items, from one store or
        another: any other missing part degrades answers, and taking this process out of service would not help."""
        deadline = Deadline.after(READY_SECONDS)
        calls: dict[str, Awaitable[Any]] = {"log": self.log.end(), "items": self.items.count()}
        calls |= {name: ping(deadline) for name, ping in self.pings.items()}
        checks = dict(zip(calls, await asyncio.gather(*map(_state, calls.values())), strict=True))
        return "ok" in (checks["items"], checks.get("opensearch")), checks

    async def observe(self) -> Progress | None:
        """Update the gauges that are not updated elsewhere; returns the learner's progress, None while it is
        unknown."""
        try:
            async with asyncio.timeout(OBSERVE_SECONDS):
                metrics.ITEMS.set(await self.items.count())
                return await self.learner.observe()
        except (StorageFailed, TimeoutError):
            return None


async def _state(call: Awaitable[Any]) -> str:
    """ "ok", or the type of the error."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            await call
        return "ok"
    except Exception as error:
        return type(error).__name__

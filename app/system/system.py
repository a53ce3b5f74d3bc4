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
from services import metrics
from services.backends.base import EventLog, ItemStore, MemoryIndex, StateStore
from services.catalogue.index_sync import Upkeep
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

MODE = "policy_mode"
READY_SECONDS = 0.5
OBSERVE_SECONDS = 1.0


@dataclass(slots=True)
class System:
    """What routes and commands use."""

    settings: Settings
    admission: Admission
    search: SearchEngine
    feedback: FeedbackService
    autocomplete: Autocomplete
    catalogue: Catalogue
    explain: Explainer
    store: ModelStore
    models: Registry
    learner: LearnerView
    surveyor: Surveyor
    activity: Activity
    log: EventLog
    items: ItemStore
    memory: MemoryIndex
    state: StateStore
    switch: PolicySwitch
    upkeep: Upkeep
    pings: Mapping[str, Callable[[Deadline], Awaitable[Any]]] = field(default_factory=dict)
    """Per engine elsewhere, a call that fails when it is away."""

    @property
    def admin_key(self) -> str | None:
        return self.settings.admin_key.get_secret_value() if self.settings.admin_key else None

    async def mode(self) -> str:
        """The one in force by now, whichever process set it; the last one known while that cannot be asked."""
        with suppress(StorageFailed, TimeoutError):
            await follow_mode(self.state, self.switch)
        return self.switch.mode

    async def set_mode(self, mode: str) -> None:
        """Durable and in force when this returns."""
        await self.state.set(MODE, mode)
        self.switch.mode = mode

    async def record(self, events: Sequence[object], admin: bool) -> list[EventResult]:
        """Take feedback in, count it, and tell the learner; one result each. Raises StorageFailed."""
        results = await self.feedback.record(events, admin)
        for result in results:
            metrics.FEEDBACK.labels(result.status).inc()
        if any(result.status is EventStatus.ACCEPTED for result in results):
            self.learner.notify()
        return results

    async def forget_user(self, user_id: str) -> int:
        """How many log records were blanked; histories and memory have followed when this returns."""
        blanked = await self.log.forget(user_id, time.time())
        await self.learner.catch_up(policy=False)
        return blanked

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether searches can be answered, and the state of what they need: items, from one place or another. What
        else is away degrades answers, and taking this process out of service would help nobody."""
        deadline = Deadline.after(READY_SECONDS)
        asked: dict[str, Awaitable[Any]] = {"log": self.log.end(), "items": self.items.count()}
        asked |= {name: ping(deadline) for name, ping in self.pings.items()}
        checks = dict(zip(asked, await asyncio.gather(*map(_state, asked.values())), strict=True))
        return "ok" in (checks["items"], checks.get("opensearch")), checks

    async def observe(self) -> Progress | None:
        """Bring the gauges that nobody else keeps up to date; where the learner stands, None while that cannot be
        said."""
        try:
            async with asyncio.timeout(OBSERVE_SECONDS):
                metrics.ITEMS.set(await self.items.count())
                return await self.learner.observe()
        except (StorageFailed, TimeoutError):
            return None


async def follow_mode(state: StateStore, switch: PolicySwitch) -> None:
    """Go by the mode that is in force, whichever process set it."""
    mode = await state.get(MODE) or "learned"
    if mode != switch.mode:
        switch.mode = mode


async def _state(call: Awaitable[Any]) -> str:
    try:
        async with asyncio.timeout(READY_SECONDS):
            await call
        return "ok"
    except Exception as error:
        return type(error).__name__

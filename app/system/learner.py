"""The learner of this process, or the link to one in a process of its own; and the gate that policies pass."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from app.settings import Settings
from app.system.policies import load_policy, served_policy
from app.system.stores import Stores
from services.learning.learner import Learner
from services.learning.learner_link import LearnerLink
from services.offpolicy.gate import PolicyGate
from services.policies.modes import PolicySwitch


async def open_learner(
    settings: Settings, stores: Stores, switch: PolicySwitch, clock: Callable[[], float]
) -> Learner | LearnerLink:
    """A learner of this process, restored, where the event log is a file; where the log is shared, the link to the
    process that learns."""
    if stores.redis is not None:
        return LearnerLink(stores.log, stores.memory, stores.state)

    def publish(version: str, model: bytes) -> None:
        switch.learned = served_policy(settings, load_policy(settings, model, version))

    learner = new_learner(settings, stores, on_publish=publish, clock=clock)
    await learner.restore()
    return learner


def new_learner(
    settings: Settings,
    stores: Stores,
    on_publish: Callable[[str, bytes], None] = lambda version, model: None,
    guard: Callable[[], Awaitable[None]] | None = None,
    clock: Callable[[], float] = time.time,
) -> Learner:
    """A learner according to the settings, not yet restored.

    on_publish: called with the version and the bytes of every snapshot. guard: raises once it must not write any more.
    """
    return Learner(
        stores.log,
        stores.memory,
        stores.models,
        load_policy(settings),
        lambda model: load_policy(settings, model),
        attribution=settings.attribution_seconds,
        weights=settings.action_weights,
        principal_cap=settings.principal_cap,
        snapshot_seconds=settings.snapshot_seconds,
        on_publish=on_publish,
        guard=guard,
        clock=clock,
    )


def policy_gate(settings: Settings, stores: Stores) -> PolicyGate:
    """The gate that a policy passes before it is promoted by hand."""
    return PolicyGate(
        stores.log,
        stores.models,
        lambda model, version: load_policy(settings, model, version),
        attribution=settings.attribution_seconds,
        weights=settings.action_weights,
        price=settings.candidate_price,
        cap=settings.principal_cap,
    )

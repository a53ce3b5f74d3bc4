"""Assembles the service from the stores up: catalogue with indexes and arms, policies and learner, models, search; then
its background work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from app.settings import Settings
from app.system import model_kinds
from app.system.admission import Admission
from app.system.background import background, briefly
from app.system.catalogue import CatalogueParts, open_catalogue
from app.system.checks import check_settings
from app.system.indexes import Indexes
from app.system.learner import open_learner, policy_gate
from app.system.model_kinds import ModelSlots
from app.system.policies import fixed_policy, load_policy, served_policy
from app.system.registry import Registry
from app.system.reloading import Reloader
from app.system.searching import assemble_search
from app.system.stored_mode import StoredMode
from app.system.stores import Stores, open_stores
from app.system.surroundings import Surroundings
from app.system.system import System
from app.system.ubi import mirroring
from services.learning.feedback import FeedbackService
from services.learning.learner import Learner
from services.learning.learner_link import LearnerLink
from services.offpolicy.activity import Activity
from services.policies.modes import PolicySwitch
from services.query_ids import Signer, load_or_create_keys, parse_keys
from services.types import Deadline

START_SECONDS = 5.0
"""Seconds that a start waits for models to become active. Encoding a catalogue, or waiting for another process that
does, takes longer and must not delay serving."""
REMOTE_PARTS = 3
"""Number of engines that can be remote; with all of them embedded, no other process writes to the catalogue."""


@asynccontextmanager
async def opened(
    settings: Settings, learning: bool = True, surroundings: Surroundings | None = None
) -> AsyncIterator[System]:
    """The service, open and repaired, with its background work running (only if `learning`); closed in reverse order at
    the end. The learner runs in this process where the event log is a file, and in its own where the log is shared."""
    around = surroundings or Surroundings()
    check_settings(settings)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings, warn=True))
        parts = await open_catalogue(settings, stores, around, stack, serving=learning)
        fixed, learned = fixed_policy(settings), load_policy(settings)
        switch = PolicySwitch(served_policy(settings, learned), fixed, surveyed=settings.survey_share)
        mode = StoredMode(stores.state, switch, shared=stores.redis is not None)
        await mode.load()
        learner = await open_learner(settings, stores, switch, around.clock)
        reloader = _reloader(settings, stores, parts, switch, learner)
        signer = signer_of(settings)
        search = assemble_search(stores, parts, switch, mode, signer, around)
        system = System(
            settings=settings,
            stores=stores,
            admission=Admission(settings.max_concurrency),
            search=search.engine,
            explain=search.explainer,
            autocomplete=search.autocomplete,
            surveyor=search.surveyor,
            feedback=_feedback(settings, stores, signer, around),
            catalogue=parts.catalogue,
            index_sync=parts.sync,
            models=Registry(stores.models, learner, reloader, policy_gate(settings, stores)),
            learner=learner,
            activity=Activity(stores.log, fixed.decide, settings.action_weights, settings.candidate_price),
            switch=switch,
            policy_mode=mode,
            pings=_pings(parts.indexes),
        )
        if not learning:
            await reloader.reload_all()
        else:
            # Work that takes longer, or fails because an engine is away, continues in the background.
            await briefly(reloader.reload_all(), START_SECONDS)
            await _start(system, reloader, stack)
        yield system


def _reloader(
    settings: Settings, stores: Stores, parts: CatalogueParts, switch: PolicySwitch, learner: Learner | LearnerLink
) -> Reloader:
    """Reloader of every kind of model except those that a learner of this process activates itself."""
    updaters = parts.updaters
    slots = ModelSlots(settings, parts.active, updaters.texts, updaters.tastes, updaters.predictions, switch)
    elsewhere = isinstance(learner, LearnerLink)
    kinds = [kind for kind in model_kinds.MODEL_KINDS if elsewhere or not kind.by_learner]
    return Reloader(stores.models, model_kinds.loads(slots, stores.models, kinds))


async def _start(system: System, reloader: Reloader, stack: AsyncExitStack) -> None:
    """Start the background work, until `stack` is closed: learning, reloading, surveys, and following other writers."""
    settings = system.settings
    if isinstance(system.learner, Learner):
        mirror = await stack.enter_async_context(mirroring(settings, system.stores))
        await stack.enter_async_context(background(system.learner.run))
        await stack.enter_async_context(background(mirror))
    await stack.enter_async_context(background(reloader.run))
    await stack.enter_async_context(background(system.surveyor.run))
    if len(settings.embedded) < REMOTE_PARTS:
        await stack.enter_async_context(background(system.index_sync.follow))


def _feedback(settings: Settings, stores: Stores, signer: Signer, around: Surroundings) -> FeedbackService:
    return FeedbackService(stores.log, signer, settings.query_ttl_seconds, settings.attribution_seconds, around.clock)


def _pings(indexes: Indexes) -> dict[str, Callable[[Deadline], Awaitable[Any]]]:
    pings: dict[str, Callable[[Deadline], Awaitable[Any]]] = {}
    if indexes.opensearch is not None:
        pings["opensearch"] = indexes.opensearch.ping
    if indexes.qdrant is not None:
        pings["qdrant"] = indexes.qdrant.version
    return pings


def signer_of(settings: Settings) -> Signer:
    """Signer with the keys in the settings, or else those in the data folder, which are created when there are none."""
    if settings.signing_keys is not None:
        keys = parse_keys(settings.signing_keys.get_secret_value())
    else:
        keys = load_or_create_keys(settings.data_dir / "signing_keys")
    return Signer(keys, settings.query_ttl_seconds)

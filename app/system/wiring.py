"""Which parts make up the service: opened, connected with each other, and closed again."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.settings import Settings
from app.system.admission import Admission
from app.system.background import background, briefly
from app.system.encoders import TASTE, TEXT, current_taste, current_text_encoder
from app.system.indexes import Indexes, open_indexes
from app.system.policies import fixed_policy, load_policy, served_policy
from app.system.query_predictor import QUERY_PREDICTOR, current_query_predictor
from app.system.registry import Registry
from app.system.reloading import Reloader
from app.system.stores import Stores, open_stores
from app.system.system import System, follow_mode
from app.system.ubi import mirroring
from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.memory import MemoryArm
from services.arms.personal import PersonalArm
from services.arms.structured import StructuredArm
from services.arms.vector import VectorArm
from services.backends.base import ItemStore
from services.backends.fallback_items import FallbackItems
from services.catalogue.current_schema import SchemaInForce
from services.catalogue.index_sync import Building, DerivedIndex, SharedIndex, Upkeep, unwatched
from services.catalogue.index_updaters import LexicalDerived, PredictionDerived, UnderstandingDerived, VectorDerived
from services.catalogue.writing import Catalogue
from services.completion.suggest import Autocomplete
from services.errors import ModelInvalid, SettingsInvalid
from services.learning.feedback import FeedbackService
from services.learning.learner import Learner
from services.learning.learner_link import LearnerLink
from services.learning.snapshots import KIND as POLICY
from services.learning.snapshots import POLICY_FILE
from services.models.active import ActiveModels
from services.models.store import ModelStore
from services.offpolicy.activity import Activity
from services.offpolicy.gate import PolicyGate
from services.policies.features import features
from services.policies.modes import PolicySwitch
from services.query_ids import Signer, load_or_create_keys, parse_keys
from services.rankers.base import Ranker
from services.rankers.features import rows
from services.rankers.fusion import FUSION_WEIGHTS, fuse
from services.rankers.onnx import FILE as RANKER_FILE
from services.rankers.onnx import OnnxRanker
from services.rankers.passthrough import PassthroughRanker
from services.search.engine import Fused, Matching, Presented, SearchEngine, Tabled, Told
from services.search.explain import Explainer
from services.search.listing import Lister
from services.search.paging import Pager
from services.search.slate import slate
from services.search.survey import Surveyor
from services.types import Deadline

logger = logging.getLogger(__name__)

RANKER = "ranker"
ENCODER = "gateways_encoder"
"""Where gateways say which sentence encoder they were told to use."""
START_SECONDS = 5.0
"""How long a start waits for models to be taken up. Encoding a catalogue, or waiting for another process that does,
takes longer, and is no reason not to serve."""
ENGINES = 3
"""Engines that can be elsewhere; with all of them embedded, nobody else writes to the catalogue."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service takes from the world around it; a simulation brings its own."""

    clock: Callable[[], float] = time.time
    """Unix seconds, of everything that is dated."""
    stopwatch: Callable[[], float] = time.monotonic
    """Of the circuits of arms."""
    seeds: Callable[[], int] = lambda: secrets.randbits(63)
    """Of decisions."""
    arm: Callable[[Arm], Arm] = lambda arm: arm
    """What stands in for each arm."""
    index: Callable[[Matching], Matching] = lambda index: index
    """What stands in for the index where a search asks it for all that matches."""
    features: Told = features
    """What policies are told of a request."""
    fused: Fused = fuse
    """What puts the lists of the arms together."""
    tabled: Tabled = rows
    """What rankers are told of a pool."""
    presented: Presented = slate
    """What makes hits of the slate."""
    building: Building = unwatched
    """Told how far an index is that is built as a whole."""


@asynccontextmanager
async def opened(
    settings: Settings, learning: bool = True, surroundings: Surroundings | None = None
) -> AsyncIterator[System]:
    """Everything open and repaired, with what runs in the background running (unless not `learning`); closed in reverse
    at the end. The learner runs in here where the event log is a file, and is another process where it is shared."""
    around = surroundings or Surroundings()
    check(settings)
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings, tell=True))
        schema = SchemaInForce(stores.items, stores.locks)
        await schema.refresh()
        text_encoder = await asyncio.to_thread(current_text_encoder, settings.encoder, stores.models)
        taste = await asyncio.to_thread(current_taste, stores.models)
        await agree_on_encoder(settings, stores, text_encoder.version, serving=learning)
        indexes = await open_indexes(settings, schema.value, text_encoder, taste, stack)
        vector_arm = VectorArm(indexes.texts, text_encoder)
        personal_arm = PersonalArm(indexes.tastes, taste, look=settings.action_weights["click"])
        # The order of decisions: what is cheap and specific first, so that the budget reaches it; lexical last, because
        # it can always serve and so fills up to the floor.
        arms: tuple[Arm, ...] = tuple(
            around.arm(arm)
            for arm in (
                MemoryArm(),
                StructuredArm(indexes.lexical),
                personal_arm,
                vector_arm,
                ExploreArm(indexes.lexical),
                LexicalArm(indexes.lexical),
            )
        )
        knowledge = ActiveModels(schema.value, PassthroughRanker())
        predictor = await asyncio.to_thread(current_query_predictor, stores.models)
        predictions = PredictionDerived(stores.memory, stores.items, stores.state, knowledge, stores.locks, predictor)
        texts, tastes, upkeep = _upkeep(
            stores, indexes, schema, knowledge, vector_arm, personal_arm, predictions, around.building
        )
        catalogue = Catalogue(stores.items, schema, upkeep)
        stack.push_async_callback(upkeep.close)
        stack.push_async_callback(catalogue.close)
        await upkeep.recover()

        switch = PolicySwitch(
            served_policy(settings, load_policy(settings)), fixed_policy(settings), surveyed=settings.survey_share
        )
        await follow_mode(stores.state, switch)

        async def load_ranker() -> None:
            knowledge.ranker = await asyncio.to_thread(_ranker, stores.models)

        async def load_text_encoder() -> None:
            await texts.adopt(await asyncio.to_thread(current_text_encoder, settings.encoder, stores.models))

        async def load_taste() -> None:
            await tastes.adopt(await asyncio.to_thread(current_taste, stores.models))

        async def load_learned() -> None:
            switch.learned = served_policy(settings, await asyncio.to_thread(_policy, settings, stores.models))

        async def load_query_predictor() -> None:
            await predictions.adopt(await asyncio.to_thread(current_query_predictor, stores.models))

        loads = {
            RANKER: load_ranker,
            TEXT: load_text_encoder,
            TASTE: load_taste,
            QUERY_PREDICTOR: load_query_predictor,
        }
        learner: Learner | LearnerLink
        if stores.redis is None:
            learner = local_learner(settings, stores, switch, around.clock)
            await learner.restore()
        else:
            learner = LearnerLink(stores.log, stores.memory, stores.state)
            loads[POLICY] = load_learned
        reloader = Reloader(stores.models, loads)
        system = _system(
            settings, stores, indexes, knowledge, arms, switch, learner, catalogue, upkeep, reloader, around
        )
        # What takes longer, or fails because an engine is away, goes on in the background.
        if learning:
            await briefly(reloader.reload_all(), START_SECONDS)
        else:
            await reloader.reload_all()
        if learning:
            if isinstance(learner, Learner):
                mirror = await stack.enter_async_context(mirroring(settings, stores))
                await stack.enter_async_context(background(learner.run))
                await stack.enter_async_context(background(mirror))
            await stack.enter_async_context(background(reloader.run))
            await stack.enter_async_context(background(system.surveyor.run))
            if len(settings.embedded) < ENGINES:
                await stack.enter_async_context(background(upkeep.follow))
        yield system


async def agree_on_encoder(settings: Settings, stores: Stores, version: str, serving: bool) -> None:
    """Shared vectors are of one encoder. Gateways say which one they were told to use; a command that was told another
    one would take it away from them. Raises SettingsInvalid."""
    if stores.redis is None or settings.qdrant_url is None:
        return
    mine = None if settings.encoder is None else version
    if serving:
        await stores.state.set(ENCODER, {"version": mine})
        return
    told = await stores.state.get(ENCODER)
    if told is not None and told["version"] != mine:
        raise SettingsInvalid("LTRR_ENCODER: not the one that the gateways have; set it, or leave it out, as they do")


def _upkeep(
    stores: Stores,
    indexes: Indexes,
    schema: SchemaInForce,
    knowledge: ActiveModels,
    vector_arm: VectorArm,
    personal_arm: PersonalArm,
    predictions: PredictionDerived,
    building: Building,
) -> tuple[VectorDerived, VectorDerived, Upkeep]:
    """What must follow the catalogue, sorted into what is this process's own and what others share."""
    shared_vectors = indexes.qdrant is not None
    rest = (stores.items, stores.state, schema, stores.locks, shared_vectors)
    suffix = "" if shared_vectors else indexes.suffix
    texts = VectorDerived(f"vector{suffix}", indexes.texts, vector_arm, *rest)
    tastes = VectorDerived(f"taste{suffix}", indexes.tastes, personal_arm, *rest)
    lexical = LexicalDerived(indexes.lexical, f"lexical{indexes.suffix if indexes.opensearch is None else ''}")
    own: list[DerivedIndex] = [UnderstandingDerived(knowledge, stores.memory)]
    shared: list[SharedIndex] = []
    (own if indexes.opensearch is None else shared).append(lexical)
    (own if indexes.qdrant is None else shared).extend((texts, tastes))
    (own if stores.redis is None else shared).append(predictions)
    return texts, tastes, Upkeep(stores.items, schema, stores.locks, own, shared, building)


def _system(
    settings: Settings,
    stores: Stores,
    indexes: Indexes,
    knowledge: ActiveModels,
    arms: tuple[Arm, ...],
    switch: PolicySwitch,
    learner: Learner | LearnerLink,
    catalogue: Catalogue,
    upkeep: Upkeep,
    reloader: Reloader,
    around: Surroundings,
) -> System:
    clock = around.clock
    index, log, signer = indexes.lexical, stores.log, signer_of(settings)
    items: ItemStore = stores.items
    surveyor = Surveyor(arms, items, log, FUSION_WEIGHTS, switch.curious)
    pings: dict[str, Callable[[Deadline], Awaitable[Any]]] = {}
    if indexes.opensearch is not None:
        pings["opensearch"] = indexes.opensearch.ping
        if stores.redis is not None:
            items = FallbackItems(stores.items, indexes.opensearch.documents)
    if indexes.qdrant is not None:
        pings["qdrant"] = indexes.qdrant.version

    return System(
        settings=settings,
        admission=Admission(settings.max_concurrency),
        search=SearchEngine(
            knowledge=knowledge,
            arms=arms,
            decider=switch,
            index=around.index(index),
            items=items,
            memory=stores.memory,
            log=log,
            signer=signer,
            fusion_weights=FUSION_WEIGHTS,
            pager=Pager(index=index, items=items, log=log, signer=signer, clock=clock),
            lister=Lister(
                arm_names=[arm.name for arm in arms],
                mode=lambda: switch.mode,
                index=index,
                items=items,
                log=log,
                signer=signer,
                clock=clock,
            ),
            surveyor=surveyor,
            follow_mode=None if stores.redis is None else lambda: follow_mode(stores.state, switch),
            clock=clock,
            stopwatch=around.stopwatch,
            seeds=around.seeds,
            told=around.features,
            fused=around.fused,
            tabled=around.tabled,
            presented=around.presented,
        ),
        feedback=FeedbackService(log, signer, settings.query_ttl_seconds, settings.attribution_seconds, clock),
        autocomplete=Autocomplete(index, stores.memory),
        catalogue=catalogue,
        explain=Explainer(log, signer, lambda: knowledge.ranker, clock),
        store=stores.models,
        models=Registry(stores.models, learner, reloader, policy_gate(settings, stores)),
        learner=learner,
        surveyor=surveyor,
        activity=Activity(log, fixed_policy(settings).decide, settings.action_weights, settings.candidate_price),
        log=log,
        items=stores.items,
        memory=stores.memory,
        state=stores.state,
        switch=switch,
        upkeep=upkeep,
        pings=pings,
    )


def local_learner(
    settings: Settings, stores: Stores, switch: PolicySwitch, clock: Callable[[], float] = time.time
) -> Learner:
    """The learner of this process, whose snapshots `switch` decides by at once."""

    def publish(version: str, model: bytes) -> None:
        switch.learned = served_policy(settings, load_policy(settings, model, version))

    return new_learner(settings, stores, on_publish=publish, clock=clock)


def new_learner(
    settings: Settings,
    stores: Stores,
    on_publish: Callable[[str, bytes], None] = lambda version, model: None,
    guard: Callable[[], Awaitable[None]] | None = None,
    clock: Callable[[], float] = time.time,
) -> Learner:
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
    return PolicyGate(
        stores.log,
        stores.models,
        lambda model, version: load_policy(settings, model, version),
        attribution=settings.attribution_seconds,
        weights=settings.action_weights,
        price=settings.candidate_price,
        cap=settings.principal_cap,
    )


def _policy(settings: Settings, store: ModelStore) -> Any:
    """The learned policy in force by the store; untrained when there is none yet."""
    stored = store.current(POLICY)
    if stored is None:
        return load_policy(settings)
    try:
        return load_policy(settings, stored.files[POLICY_FILE], stored.version)
    except KeyError as error:
        raise ModelInvalid(f"{POLICY} {stored.version}: not a snapshot of a policy") from error


def _ranker(store: ModelStore) -> Ranker:
    stored = store.current(RANKER)
    if stored is None:
        return PassthroughRanker()
    return OnnxRanker(stored.files[RANKER_FILE], stored.meta, stored.version)


def signer_of(settings: Settings) -> Signer:
    """By the keys that are set, or else those of the data folder, which are made when there are none."""
    if settings.signing_keys is not None:
        keys = parse_keys(settings.signing_keys.get_secret_value())
    else:
        keys = load_or_create_keys(settings.data_dir / "signing_keys")
    return Signer(keys, settings.query_ttl_seconds)


def check(settings: Settings) -> None:
    """Refuse a folder that cannot be written and keys that cannot be, before anything is opened."""
    if settings.signing_keys is not None:
        parse_keys(settings.signing_keys.get_secret_value())
    if not settings.embedded:
        return
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir}: {error.strerror}") from error
    if not os.access(settings.data_dir, os.W_OK):
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir} cannot be written")

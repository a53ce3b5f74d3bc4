"""Which concrete classes make up the service: the only place that chooses backends, opens them and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from app.admission import Admission
from app.derived import LexicalDerived, PredictionDerived, UnderstandingDerived, VectorDerived
from app.encoders import TASTE, TEXT, current_taste, current_text_encoder
from app.policies import fixed_policy, load_policy, served_policy
from app.registry import Registry
from app.reloading import Reloader
from app.settings import Settings
from services import metrics
from services.activity import Activity
from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.memory import MemoryArm
from services.arms.personal import PersonalArm
from services.arms.structured import StructuredArm
from services.arms.vector import VectorArm
from services.autocomplete import Autocomplete
from services.backends.base import EventLog, ItemStore, MemoryIndex, StateStore
from services.backends.qdrant_edge import QdrantEdgeIndex
from services.backends.sqlite_items import SqliteItems
from services.backends.sqlite_log import SqliteLog
from services.backends.sqlite_memory import SqliteMemory
from services.backends.sqlite_state import SqliteState
from services.backends.tantivy import TantivyIndex
from services.catalogue import Catalogue
from services.errors import SettingsInvalid
from services.explain import Explainer
from services.feedback import FeedbackService
from services.fusion import FUSION_WEIGHTS
from services.learner import Learner, Progress
from services.listing import Lister
from services.models.store import ModelStore
from services.paging import Pager
from services.policies.modes import PolicySwitch
from services.query_ids import Signer, load_or_create_keys, parse_keys
from services.rankers.base import Ranker
from services.rankers.onnx import FILE as RANKER_FILE
from services.rankers.onnx import OnnxRanker
from services.rankers.passthrough import PassthroughRanker
from services.search import Knowledge, SearchEngine
from services.types import Schema

logger = logging.getLogger(__name__)

DAY = 86400.0
RANKER = "ranker"
MODE = "policy_mode"
READY_SECONDS = 1.0


@dataclass(slots=True)
class System:
    """The parts that routes and commands use, and the few operations that concern several of them."""

    settings: Settings
    admission: Admission
    search: SearchEngine
    feedback: FeedbackService
    autocomplete: Autocomplete
    catalogue: Catalogue
    explain: Explainer
    store: ModelStore
    models: Registry
    learner: Learner
    activity: Activity
    log: EventLog
    items: ItemStore
    memory: MemoryIndex
    state: StateStore
    switch: PolicySwitch

    @property
    def admin_key(self) -> str | None:
        return self.settings.admin_key.get_secret_value() if self.settings.admin_key else None

    @property
    def mode(self) -> str:
        return self.switch.mode

    async def set_mode(self, mode: str) -> None:
        """Durable and in force when this returns."""
        await self.state.set(MODE, mode)
        self.switch.mode = mode

    async def forget_user(self, user_id: str) -> int:
        """How many log records were blanked; histories and memory have followed when this returns."""
        blanked = await self.log.forget(user_id, time.time())
        await self.learner.catch_up(policy=False)
        return blanked

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether searches can be answered, and the state of what they need."""
        checks: dict[str, str] = {}
        needed: list[tuple[str, Coroutine[Any, Any, Any]]] = [("log", self.log.end()), ("items", self.items.count())]
        for name, check in needed:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    await check
                checks[name] = "ok"
            except Exception as error:
                checks[name] = type(error).__name__
        return all(state == "ok" for state in checks.values()), checks

    async def observe(self) -> Progress:
        """Bring the gauges that nobody else keeps up to date; where the learner stands."""
        metrics.ITEMS.set(await self.items.count())
        return await self.learner.observe()


@asynccontextmanager
async def opened(settings: Settings, learning: bool = True) -> AsyncIterator[System]:
    """Everything open and repaired, with the learner running (unless not `learning`); closed in reverse at the end."""
    check(settings)
    folder = settings.data_dir
    async with AsyncExitStack() as stack:
        log = SqliteLog(folder / "log.sqlite3")
        stack.push_async_callback(log.close)
        memory = SqliteMemory(folder / "memory.sqlite3", half_life=settings.memory_half_life_days * DAY)
        stack.push_async_callback(memory.close)
        items = SqliteItems(folder / "items.sqlite3")
        stack.push_async_callback(items.close)
        state = SqliteState(folder / "state.sqlite3")
        stack.push_async_callback(state.close)
        store = ModelStore(folder / "models")
        schema = await items.schema() or Schema()
        encoder = await asyncio.to_thread(current_text_encoder, settings.encoder, store)
        taste = await asyncio.to_thread(current_taste, store)
        lexical = TantivyIndex.open(folder / "lexical", schema)
        stack.push_async_callback(lexical.close)
        nearest = QdrantEdgeIndex.open(folder / "vectors", schema, encoder.size)
        stack.push_async_callback(nearest.close)
        liked = QdrantEdgeIndex.open(folder / "taste", schema, taste.size)
        stack.push_async_callback(liked.close)

        vector_arm = VectorArm(nearest, encoder)
        personal_arm = PersonalArm(liked, taste)
        # The order of decisions: what is cheap and specific first, so that the budget reaches it; lexical last, because
        # it can always serve and so fills up to the floor.
        arms: tuple[Arm, ...] = (
            MemoryArm(),
            StructuredArm(lexical),
            personal_arm,
            vector_arm,
            ExploreArm(lexical),
            LexicalArm(lexical),
        )
        knowledge = Knowledge(schema, PassthroughRanker())
        switch = PolicySwitch(
            served_policy(settings, load_policy(settings)),
            fixed_policy(settings),
            await state.get(MODE) or "learned",
        )
        texts = VectorDerived("vector", nearest, vector_arm, items, state, schema)
        tastes = VectorDerived("taste", liked, personal_arm, items, state, schema)
        catalogue = Catalogue(
            items,
            (
                UnderstandingDerived(knowledge, memory),
                LexicalDerived(lexical),
                texts,
                tastes,
                PredictionDerived(memory, knowledge),
            ),
        )
        stack.push_async_callback(catalogue.close)
        await catalogue.recover()
        signer = Signer(_keys(settings), settings.query_ttl_seconds)
        learner = _learner(settings, log, memory, store, switch)
        await learner.restore()

        async def load_ranker() -> None:
            knowledge.ranker = await asyncio.to_thread(_ranker, store)

        async def load_text_encoder() -> None:
            await texts.adopt(await asyncio.to_thread(current_text_encoder, settings.encoder, store))

        async def load_taste() -> None:
            await tastes.adopt(await asyncio.to_thread(current_taste, store))

        reloader = Reloader(store, {RANKER: load_ranker, TEXT: load_text_encoder, TASTE: load_taste})
        system = System(
            settings=settings,
            admission=Admission(settings.max_concurrency),
            search=SearchEngine(
                knowledge=knowledge,
                arms=arms,
                decider=switch,
                index=lexical,
                items=items,
                memory=memory,
                log=log,
                signer=signer,
                fusion_weights=FUSION_WEIGHTS,
                pager=Pager(index=lexical, items=items, log=log, signer=signer),
                lister=Lister(
                    arm_names=[arm.name for arm in arms],
                    mode=lambda: switch.mode,
                    index=lexical,
                    items=items,
                    log=log,
                    signer=signer,
                ),
            ),
            feedback=FeedbackService(log, signer, settings.query_ttl_seconds, settings.attribution_seconds),
            autocomplete=Autocomplete(lexical, memory),
            catalogue=catalogue,
            explain=Explainer(log, signer, lambda: knowledge.ranker),
            store=store,
            models=Registry(store, learner, reloader),
            learner=learner,
            activity=Activity(log, fixed_policy(settings).decide, settings.action_weights, settings.candidate_price),
            log=log,
            items=items,
            memory=memory,
            state=state,
            switch=switch,
        )
        await reloader.reload_all()
        if learning:
            await stack.enter_async_context(_background(learner.run))
            await stack.enter_async_context(_background(reloader.run))
        yield system


@asynccontextmanager
async def _background(work: Any) -> AsyncIterator[None]:
    """`work(stop)` runs beside everything else; at the end it is told to stop and waited for."""
    stop = asyncio.Event()
    task = asyncio.create_task(work(stop))
    try:
        yield
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _learner(
    settings: Settings, log: EventLog, memory: MemoryIndex, store: ModelStore, switch: PolicySwitch
) -> Learner:
    def publish(version: str, model: bytes) -> None:
        switch.learned = served_policy(settings, load_policy(settings, model, version))

    return Learner(
        log,
        memory,
        store,
        load_policy(settings),
        lambda model: load_policy(settings, model),
        attribution=settings.attribution_seconds,
        weights=settings.action_weights,
        price=settings.candidate_price,
        principal_cap=settings.principal_cap,
        snapshot_seconds=settings.snapshot_seconds,
        on_publish=publish,
    )


def _ranker(store: ModelStore) -> Ranker:
    stored = store.current(RANKER)
    if stored is None:
        return PassthroughRanker()
    return OnnxRanker(stored.files[RANKER_FILE], stored.meta, stored.version)


def _keys(settings: Settings) -> list[tuple[str, bytes]]:
    if settings.signing_keys is not None:
        return parse_keys(settings.signing_keys.get_secret_value())
    return load_or_create_keys(settings.data_dir / "signing_keys")


def check(settings: Settings) -> None:
    """Refuse what this version cannot do and a folder that cannot be written, before anything is opened."""
    for name in ("opensearch_url", "qdrant_url", "redis_url"):
        if getattr(settings, name) is not None:
            raise SettingsInvalid(f"LTRR_{name.upper()}: this version has the embedded backends only; unset it")
    if settings.signing_keys is not None:
        parse_keys(settings.signing_keys.get_secret_value())
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir}: {error.strerror}") from error
    if not os.access(settings.data_dir, os.W_OK):
        raise SettingsInvalid(f"LTRR_DATA_DIR: {settings.data_dir} cannot be written")

"""Which concrete classes make up the service: the only place that chooses backends, opens and closes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.admission import Admission
from app.derived import LexicalDerived, PredictionDerived, UnderstandingDerived, VectorDerived
from app.registry import Registry
from app.settings import Settings
from services import metrics
from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.memory import MemoryArm
from services.arms.personal import PersonalArm
from services.arms.structured import StructuredArm
from services.arms.vector import VectorArm
from services.autocomplete import Autocomplete
from services.backends.base import EventLog, LexicalIndex, MemoryIndex, StateStore, VectorIndex
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
from services.learner import Learner
from services.listing import Lister
from services.models.store import ModelStore
from services.models.text_encoder.model import HashingEncoder, TextEncoder
from services.paging import Pager
from services.policies.fixed import FixedPolicy, UniformPolicy
from services.policies.modes import PolicySwitch
from services.policies.vw import VWPolicy
from services.query_ids import Signer, load_or_create_keys, parse_keys
from services.rankers.passthrough import PassthroughRanker
from services.search import Knowledge, SearchEngine
from services.types import Deadline, Schema

logger = logging.getLogger(__name__)

DAY = 86400.0
MODE = "policy_mode"
START_SECONDS = 60.0


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
    models: Registry
    learner: Learner
    log: EventLog
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
        """How many log records were blanked; histories and memory follow before this returns."""
        blanked = await self.log.forget(user_id, time.time())
        self.learner.notify()
        return blanked

    async def ready(self) -> tuple[bool, dict[str, str]]:
        """Whether searches can be answered, and the state of what they need."""
        checks: dict[str, str] = {}
        for name, check in (("log", self.log.end()), ("items", self.catalogue.count())):
            try:
                async with asyncio.timeout(1.0):
                    await check
                checks[name] = "ok"
            except Exception as error:
                checks[name] = type(error).__name__
        return all(state == "ok" for state in checks.values()), checks

    async def observe(self) -> None:
        """Bring the gauges that nobody else keeps up to date."""
        metrics.ITEMS.set(await self.catalogue.count())
        await self.learner.observe()


@asynccontextmanager
async def opened(settings: Settings, learning: bool = True) -> AsyncIterator[System]:
    """Everything open and repaired, with the learner running (unless not `learning`); closed in reverse at the end."""
    _embedded_only(settings)
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
        encoder = _encoder(settings, store)
        lexical = TantivyIndex.open(folder / "lexical", schema)
        stack.push_async_callback(lexical.close)
        vectors = QdrantEdgeIndex.open(folder / "vectors", schema, encoder.size)
        stack.push_async_callback(vectors.close)

        signer = Signer(_keys(settings), settings.query_ttl_seconds)
        vector_arm = VectorArm(vectors, encoder)
        arms = _arms(lexical, vectors, vector_arm)
        knowledge = Knowledge(schema, _nothing_understood, PassthroughRanker())
        switch = PolicySwitch(_policy(settings), FixedPolicy(budget=settings.candidate_budget))
        switch.mode = await state.get(MODE) or "learned"
        catalogue = Catalogue(
            items,
            [
                UnderstandingDerived(knowledge),
                LexicalDerived(lexical),
                VectorDerived(vectors, vector_arm, schema),
                PredictionDerived(memory, knowledge),
            ],
        )
        await catalogue.recover()
        search = SearchEngine(
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
        )
        yield System()

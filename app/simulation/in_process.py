"""The real service in this process for a simulation: stores in a folder of its own, the simulation's clock and random
seeds, and recorded candidate lists of its arms."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from app.offline.rank_fusion import reciprocal_rank_fusion
from app.offline.sandbox import EMBEDDED, SEARCH_TIMEOUT
from app.operations.indexing import TrainEncoders, indexed
from app.settings import Settings
from app.system.surroundings import Surroundings
from app.system.system import System
from app.system.wiring import opened
from app.telemetry.progress import Progress
from services.arms.base import Arm
from services.backends.files import copy_sparse
from services.datasets.folder import Dataset, state
from services.errors import StorageFailed
from services.learning.learner import Learner
from services.policies.base import Policy
from services.policies.features import features
from services.rankers.base import Rows
from services.rankers.features import NAMES, rows
from services.rankers.fusion import fuse
from services.rankers.passthrough import PassthroughRanker
from services.search.slate import Entry
from services.search.steps import Steps
from services.simulation.loop import PAGE_SIZE, SearchOutcome
from services.simulation.recorded import Lists, RecordedArm, RecordedIndex
from services.simulation.traffic import Search, SearchBehaviour
from services.types import ArmOption, Candidate, Context, Document, Hit, Pooled, Query, Schema, Understanding

DAY = 86400.0
LISTS = "lists.sqlite3"
FUSED = NAMES.index("fused")


@dataclass(slots=True)
class World:
    """The state of the simulated world: virtual time, random seeds, and which parts of the service are
    disabled."""

    seed: int
    now: float = field(default_factory=lambda: SearchBehaviour().start - DAY)
    """Unix seconds of the virtual clock."""
    failed_arms: Collection[str] = ()
    """Arms that fail at the moment."""
    missing_arms: Collection[str] = ()
    """Arms that this service does not have."""
    hide_context: bool = False
    """Whether policies get no features of the request."""
    fuse_by_rank: bool = False
    """Whether lists are fused by rank alone."""
    has_ranker: bool = True
    """Whether there is a ranker that reads more than the fused score."""
    decisions: int = 0
    """Number of seeds drawn so far."""

    def draw(self) -> int:
        """The seed of the next decision."""
        self.decisions += 1
        return (self.seed << 40) + self.decisions


async def prepare(settings: Settings, data: Path, folder: Path, train: TrainEncoders, progress: Progress) -> None:
    """Index the data set and its history into `folder`, and train the models that need only a catalogue. Does nothing
    when the folder was prepared from the same data before."""
    done = folder / "prepared"
    now = state(data)
    if not (done.exists() and done.read_text() == now):
        await _prepare(settings, data, folder, train, progress)
        done.write_text(now)
    Lists(folder / LISTS).close()  # created before the runs that share it, which would find it locked


async def _prepare(settings: Settings, data: Path, folder: Path, train: TrainEncoders, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    sandbox_settings = _sandbox_settings(settings, folder)
    around = Surroundings(clock=lambda: World(0).now)
    async with indexed(sandbox_settings, data, Dataset.open(data).schema, progress, train, around=around) as (
        system,
        _,
    ):
        await system.learner.catch_up()
        await system.learner.publish()


def copy_prepared(prepared: Path, folder: Path) -> None:
    """Replace `folder` by a copy of `prepared`, without the recorded lists, which runs share."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(f"{LISTS}*"), copy_function=copy_sparse)


@asynccontextmanager
async def open_copy(
    settings: Settings, prepared: Path, folder: Path, world: World, policy: Policy | None = None
) -> AsyncIterator[tuple[System, InProcessService]]:
    """A service on a temporary copy, `folder`, of the folder `prepared`; recorded lists stay in `prepared` for other
    runs. `policy` replaces the learned policy."""
    copy_prepared(prepared, folder)
    try:
        async with open_existing(settings, prepared, folder, world, policy) as (system, service):
            world.has_ranker = not isinstance(system.search.active.ranker, PassthroughRanker)
            yield system, service
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def open_existing(
    settings: Settings, prepared: Path, folder: Path, world: World, policy: Policy | None = None
) -> AsyncIterator[tuple[System, InProcessService]]:
    """The same on an existing folder, which is kept."""
    lists = Lists(prepared / LISTS)
    try:
        async with opened(
            _sandbox_settings(settings, folder), learning=False, surroundings=_surroundings(world, lists)
        ) as system:
            yield system, InProcessService(system, world, lists, policy)
    finally:
        lists.close()


def _sandbox_settings(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"data_dir": folder, "admin_key": None} | EMBEDDED)


def _surroundings(world: World, lists: Lists) -> Surroundings:
    def recorded(arm: Arm) -> Arm:
        return RecordedArm(arm, lambda: world.failed_arms, lambda: world.missing_arms, lists)

    def build_rows(context: Context, pool: Sequence[Pooled], documents: Mapping[str, Document], schema: Schema) -> Rows:
        return rows(context, pool, documents, schema) if world.has_ranker else _fused_scores(pool)

    return Surroundings(
        clock=lambda: world.now,
        stopwatch=lambda: world.now,
        wrap_arm=recorded,
        wrap_index=lambda index: RecordedIndex(index, lists),
        steps=Steps(
            draw_seed=world.draw,
            featurize=_no_features if world.hide_context else features,
            fuse=_equal_rrf if world.fuse_by_rank else fuse,
            build_rows=build_rows,
            build_hits=_without_highlights,
        ),
    )


def _no_features(context: Context, options: Sequence[ArmOption], title: str | None) -> dict[str, float]:
    return {}


def _equal_rrf(lists: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[Pooled]:
    """Reciprocal rank fusion with equal weights."""
    return reciprocal_rank_fusion(lists)


def _fused_scores(pool: Sequence[Pooled]) -> Rows:
    """Feature rows, [items, FUSED + 1], with nothing but the fused score: all that the passthrough ranker reads."""
    table: Rows = np.zeros((len(pool), FUSED + 1), dtype=np.float32)
    table[:, FUSED] = [pooled.score for pooled in pool]
    return table


def _without_highlights(
    entries: Sequence[Entry],
    documents: Mapping[str, Document],
    offset: int,
    understanding: Understanding,
    schema: Schema,
) -> tuple[Hit, ...]:
    """Like services.search.slate.slate, but without highlights, which a simulation does not need."""
    return tuple(
        Hit(entry.object_id, offset + place, entry.score, documents[entry.object_id], entry.arms, {}, entry.tail)
        for place, entry in enumerate(entries, 1)
        if entry.object_id in documents
    )


class InProcessService:
    """The Service of a simulation in this process: the production search engine, feedback and learner without HTTP."""

    def __init__(self, system: System, world: World, lists: Lists, policy: Policy | None = None) -> None:
        self.system = system
        self._world = world
        self._lists = lists
        self._policy = policy
        self._cache_understanding()
        if policy is not None:
            system.switch.learned = policy

    def catalogue_changed(self) -> None:
        """Discard recorded lists and cached understandings."""
        self._lists.forget()
        self._cache_understanding()

    def _cache_understanding(self) -> None:
        """Cache the understanding of each query."""
        active = self.system.search.active
        active.understand = lru_cache(None)(getattr(active.understand, "__wrapped__", active.understand))

    async def search(self, search: Search) -> SearchOutcome:
        """Answer the search at its virtual time, and run its survey, if any."""
        self._world.now = max(self._world.now, search.at)
        answer = await self.system.search.search(
            Query(
                search.query.text,
                limit=PAGE_SIZE,
                user_id=search.user_id,
                session_id=search.session_id,
                context=search.context,
                timeout=SEARCH_TIMEOUT,
            )
        )
        surveyed = await self.system.surveyor.catch_up()
        return SearchOutcome(
            answer.query_id,
            tuple(hit.object_id for hit in answer.hits),
            {name: choice.count for name, choice in answer.decision.arms.items()},
            bool(answer.degraded),
            surveyed,
        )

    async def send_feedback(self, events: list[dict[str, Any]]) -> None:
        """Record feedback events. Raises StorageFailed unless all are accepted."""
        for result in await self.system.feedback.record(events, admin=False):
            if result.status != "accepted":
                raise StorageFailed(f"a simulated click was not accepted: {result.status} {result.detail}")

    async def learn(self, publish: bool = True) -> None:
        """Process the log so far, and, if `publish`, put the learned policy into use."""
        await self.system.learner.catch_up()
        if publish and self._policy is None and isinstance(self.system.learner, Learner):
            await self.system.learner.publish()

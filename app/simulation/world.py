"""The real service in a simulated world: its stores in a folder of their own, its clock and its luck those of the
simulation, its arms' lists kept."""

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
from app.offline.sandbox import EMBEDDED, PATIENCE, TrainEncoders
from app.operations.indexing import index_opened
from app.settings import Settings
from app.system.system import System
from app.system.wiring import Surroundings, opened
from app.telemetry.progress import Progress
from services.arms.base import Arm
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
from services.simulation.recorded import Lists, RecordedArm, RecordedIndex
from services.simulation.simulate import PAGE, Shown
from services.simulation.users import Habits, Search
from services.types import ArmOption, Candidate, Context, Document, Hit, Pooled, Query, Schema, Understanding

DAY = 86400.0
LISTS = "lists.sqlite3"
FUSED = NAMES.index("fused")


@dataclass(slots=True)
class World:
    """Where the simulation stands; what the service sees of the time and the chance in it."""

    seed: int
    now: float = field(default_factory=lambda: Habits().start - DAY)
    dead: Collection[str] = ()
    """Arms that fail at the moment."""
    absent: Collection[str] = ()
    """Arms that this service does not have."""
    blind: bool = False
    """Whether policies are told nothing of the request."""
    by_ranks: bool = False
    """Whether lists are put together by ranks alone."""
    ranked: bool = True
    """Whether there is a ranker that looks at more than the fused score."""
    decisions: int = 0

    def draw(self) -> int:
        """A seed for the next decision."""
        self.decisions += 1
        return (self.seed << 40) + self.decisions


async def prepare(settings: Settings, data: Path, folder: Path, train: TrainEncoders, progress: Progress) -> None:
    """Index the data set and its history into `folder`, and train what is trained on a catalogue. A folder that was
    prepared before of the same data is left as it is."""
    done = folder / "prepared"
    now = state(data)
    if not (done.exists() and done.read_text() == now):
        await _prepare(settings, data, folder, train, progress)
        done.write_text(now)
    Lists(folder / LISTS).close()  # runs share it, and two that make it at the same time lock each other out


async def _prepare(settings: Settings, data: Path, folder: Path, train: TrainEncoders, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    apart = _apart(settings, folder)
    async with opened(apart, learning=False, surroundings=Surroundings(clock=lambda: World(0).now)) as system:
        summary = await index_opened(system, data, Dataset.open(data).schema, progress.done)
        await train(apart, summary, progress)
        await system.models.take_up()
        await system.learner.catch_up()
        await system.learner.publish()


@asynccontextmanager
async def simulated(
    settings: Settings, prepared: Path, folder: Path, world: World, policy: Policy | None = None
) -> AsyncIterator[tuple[System, Simulated]]:
    """A service on a copy of the folder `prepared`, where lists are kept for other runs. `policy` decides in place of
    the one that learns."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(f"{LISTS}*"))
    try:
        async with lived(settings, prepared, folder, world, policy) as (system, service):
            world.ranked = not isinstance(system.search.knowledge.ranker, PassthroughRanker)
            yield system, service
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def lived(
    settings: Settings, prepared: Path, folder: Path, world: World, policy: Policy | None = None
) -> AsyncIterator[tuple[System, Simulated]]:
    """The same in a folder that is there, and stays."""
    lists = Lists(prepared / LISTS)
    try:
        async with opened(_apart(settings, folder), learning=False, surroundings=_surroundings(world, lists)) as system:
            yield system, Simulated(system, world, lists, policy)
    finally:
        lists.close()


def _apart(settings: Settings, folder: Path) -> Settings:
    return settings.model_copy(update={"data_dir": folder, "admin_key": None} | EMBEDDED)


def _surroundings(world: World, lists: Lists) -> Surroundings:
    def recorded(arm: Arm) -> Arm:
        return RecordedArm(arm, lambda: world.dead, lambda: world.absent, lists)

    def tabled(context: Context, pool: Sequence[Pooled], documents: Mapping[str, Document], schema: Schema) -> Rows:
        return rows(context, pool, documents, schema) if world.ranked else _fused(pool)

    return Surroundings(
        clock=lambda: world.now,
        stopwatch=lambda: world.now,
        seeds=world.draw,
        arm=recorded,
        index=lambda index: RecordedIndex(index, lists),
        features=_nothing if world.blind else features,
        fused=_by_ranks if world.by_ranks else fuse,
        tabled=tabled,
        presented=_plain,
    )


def _nothing(context: Context, options: Sequence[ArmOption], title: str | None) -> dict[str, float]:
    return {}


def _by_ranks(lists: Mapping[str, Sequence[Candidate]], weights: Mapping[str, float]) -> list[Pooled]:
    """Reciprocal rank fusion, every arm as good as any other."""
    return reciprocal_rank_fusion(lists)


def _fused(pool: Sequence[Pooled]) -> Rows:
    """Rows of which the passthrough ranker reads all that it reads of whole ones."""
    table: Rows = np.zeros((len(pool), FUSED + 1), dtype=np.float32)
    table[:, FUSED] = [pooled.score for pooled in pool]
    return table


def _plain(
    entries: Sequence[Entry],
    documents: Mapping[str, Document],
    offset: int,
    understanding: Understanding,
    schema: Schema,
) -> tuple[Hit, ...]:
    """As services.search.slate.slate, without highlights: nobody reads them."""
    return tuple(
        Hit(entry.object_id, offset + place, entry.score, documents[entry.object_id], entry.arms, {}, entry.tail)
        for place, entry in enumerate(entries, 1)
        if entry.object_id in documents
    )


class Simulated:
    """The Service of a simulation, in this process: the engine, the feedback and the learner that serve, without HTTP
    around them."""

    def __init__(self, system: System, world: World, lists: Lists, policy: Policy | None = None) -> None:
        self.system = system
        self._world = world
        self._lists = lists
        self._policy = policy
        self._understand_once()
        if policy is not None:
            system.switch.learned = policy

    def catalogue_changed(self) -> None:
        """What engines said before is forgotten."""
        self._lists.forget()
        self._understand_once()

    def _understand_once(self) -> None:
        """Every query."""
        knowledge = self.system.search.knowledge
        knowledge.understand = lru_cache(None)(getattr(knowledge.understand, "__wrapped__", knowledge.understand))

    async def search(self, search: Search) -> Shown:
        self._world.now = max(self._world.now, search.at)
        answer = await self.system.search.search(
            Query(
                search.query.text,
                limit=PAGE,
                user_id=search.user_id,
                session_id=search.session_id,
                context=search.context,
                timeout=PATIENCE,
            )
        )
        surveyed = await self.system.surveyor.catch_up()
        return Shown(
            answer.query_id,
            tuple(hit.object_id for hit in answer.hits),
            {name: choice.count for name, choice in answer.decision.arms.items()},
            bool(answer.degraded),
            surveyed,
        )

    async def act(self, events: list[dict[str, Any]]) -> None:
        for result in await self.system.feedback.record(events, admin=False):
            if result.status != "accepted":
                raise StorageFailed(f"a simulated click was not accepted: {result.status} {result.detail}")

    async def learn(self, publish: bool = True) -> None:
        await self.system.learner.catch_up()
        if publish and self._policy is None and isinstance(self.system.learner, Learner):
            await self.system.learner.publish()

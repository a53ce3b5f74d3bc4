"""A temporary service over a data set folder, separate from the one in production: training and evaluation on judged
queries use the same code path as live searches."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from app.operations.indexing import TrainEncoders, indexed
from app.settings import Settings
from app.system.system import System
from app.telemetry.progress import Progress
from services.datasets.folder import Dataset
from services.policies.base import Policy
from services.search.state import SearchState
from services.types import ArmOption, Context, Decision, Document, PolicyMode, Pooled, Query

RESULT_LIMIT = 10
SEARCH_TIMEOUT = 10.0
"""Seconds per query: generous, so that every arm's list is complete even on a busy machine."""
EMBEDDED = {"opensearch_url": None, "qdrant_url": None, "redis_url": None}


class UserQuery(Protocol):
    """A query with the user who issues it, such as those of a data set folder."""

    @property
    def text(self) -> str:
        """The query text."""
        ...

    @property
    def user_id(self) -> str | None:
        """The user; None: anonymous."""
        ...


@asynccontextmanager
async def open_sandbox(
    settings: Settings, data: Path, train_encoders: TrainEncoders, progress: Progress, purpose: str
) -> AsyncIterator[System]:
    """An embedded system with `settings`, the items and history of `data`, and encoders trained as by `ltrr index`.
    `purpose` is part of the name of its temporary folder."""
    with tempfile.TemporaryDirectory(prefix=f"ltrr-{purpose}-") as scratch:
        sandbox_settings = settings.model_copy(update={"data_dir": Path(scratch), "admin_key": None} | EMBEDDED)
        async with indexed(sandbox_settings, data, Dataset.open(data).schema, progress, train_encoders) as (system, _):
            await system.learner.catch_up()
            yield system


class PolicySearch:
    """The live search path up to the ranker, with counts decided by `policy` including its exploration, but with
    reproducible seeds: the same queries in the same order get the same decisions."""

    def __init__(self, system: System, policy: Policy, progress: Progress | None = None) -> None:
        self._engine = system.search
        self._policy = policy
        self._progress = progress
        self._done = 0

    async def __call__(self, query: UserQuery) -> tuple[Context, Sequence[Pooled], Mapping[str, Document]]:
        """Context, pool in fused order, and documents of the pool by id."""
        found = await self.collect(query)
        return found.context, found.pool, found.documents

    async def collect(self, query: UserQuery) -> SearchState:
        """State of the search before ranking."""
        request = Query(query.text, user_id=query.user_id, limit=RESULT_LIMIT, timeout=SEARCH_TIMEOUT)
        found = await self._engine.collect(request, self)
        self._done += 1
        if self._progress is not None:
            self._progress.done("queries", self._done)
        return found

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        """See Decider. A failing policy raises here: it must not be evaluated by its fallback."""
        choices = self._policy.decide(features, options, self._done)
        return Decision(self._policy.name, PolicyMode.STATIC, self._policy.version, self._done, choices)

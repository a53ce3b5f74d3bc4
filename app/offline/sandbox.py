"""A service of its own over a data set folder, beside the one that serves and gone when its work is done: what is
trained or measured on judged queries meets there what it would meet live."""

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

LIMIT = 10
PATIENCE = 10.0
"""Seconds for one query: every arm's list is wanted, however busy the machine."""
EMBEDDED = {"opensearch_url": None, "qdrant_url": None, "redis_url": None}


class Asked(Protocol):
    """A query of a data set folder."""

    @property
    def text(self) -> str: ...

    @property
    def user_id(self) -> str | None: ...


@asynccontextmanager
async def indexed_apart(
    settings: Settings, data: Path, train_encoders: TrainEncoders, progress: Progress, work: str
) -> AsyncIterator[System]:
    """An embedded system with `settings` that has the items and the history of `data`, with encoders trained as
    `ltrr index` trains them. `work` is in the name of its temporary folder."""
    with tempfile.TemporaryDirectory(prefix=f"ltrr-{work}-") as scratch:
        apart = settings.model_copy(update={"data_dir": Path(scratch), "admin_key": None} | EMBEDDED)
        async with indexed(apart, data, Dataset.open(data).schema, progress, train_encoders) as (system, _):
            await system.learner.catch_up()
            yield system


class Searched:
    """The live path up to the ranker, with counts by `policy`: as it serves, its exploration included, but drawn with
    the same seeds whenever the same queries are asked in the same order."""

    def __init__(self, system: System, policy: Policy, progress: Progress | None = None) -> None:
        self._engine = system.search
        self._policy = policy
        self._progress = progress
        self._done = 0

    async def __call__(self, asked: Asked) -> tuple[Context, Sequence[Pooled], Mapping[str, Document]]:
        found = await self.collect(asked)
        return found.context, found.pool, found.documents

    async def collect(self, asked: Asked) -> SearchState:
        query = Query(asked.text, user_id=asked.user_id, limit=LIMIT, timeout=PATIENCE)
        found = await self._engine.collect(query, self)
        self._done += 1
        if self._progress is not None:
            self._progress.done("queries", self._done)
        return found

    def decide(self, features: Mapping[str, float], options: Sequence[ArmOption], seed: int) -> Decision:
        """As a Decider. A policy that fails raises: it must not be judged by what stands in for it."""
        choices = self._policy.decide(features, options, self._done)
        return Decision(self._policy.name, PolicyMode.STATIC, self._policy.version, self._done, choices)

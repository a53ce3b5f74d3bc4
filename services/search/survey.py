"""Surveys: for some answers, after they have left, what every arm would have had in full.

A policy learns from them what counts that it did not choose would have found (services/policies/relevance.py). They
cost the arms' time, never the searcher's: one survey at a time, and while too many wait, new ones are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services import metrics
from services.arms.base import Arm
from services.arms.retrieval import retrieve
from services.backends.base import EventLog, ItemStore
from services.policies.base import FACTS, PLAN_ARMS, part
from services.rankers.features import NAMES, rows
from services.rankers.fusion import adapt, fuse, slot_coverage
from services.types import ArmOption, Context, Deadline, Schema, Survey

logger = logging.getLogger(__name__)

DIGITS = 3
MOST_WAITING = 16
SECONDS = 5.0
"""Most time for one survey: nobody waits for it."""
IDLE_SECONDS = 1.0

_COLUMNS = [NAMES.index(name) for name in FACTS]


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that is to be surveyed."""

    query_id: str
    context: Context
    options: tuple[ArmOption, ...]
    schema: Schema
    shown: tuple[str, ...]


class Surveyor:
    """Takes surveys down in the log, for the learner to find. `offer` is called by searches, `run` beside them."""

    def __init__(
        self,
        arms: Sequence[Arm],
        items: ItemStore,
        log: EventLog,
        fusion_weights: Mapping[str, float],
        curious: Callable[[int], bool],
    ) -> None:
        """`curious` says of a decision's seed whether its answer is to be surveyed."""
        self._arms = tuple(arms)
        self._items = items
        self._log = log
        self._fusion_weights = fusion_weights
        self._curious = curious
        self._waiting: deque[Answered] = deque()
        self._offered = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def offer(self, answered: Answered, seed: int) -> None:
        if not self._curious(seed):
            return
        if len(self._waiting) >= MOST_WAITING:
            metrics.SURVEYS.labels("dropped").inc()
            return
        self._waiting.append(answered)
        self._offered.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; what waits then is dropped."""
        while not stop.is_set():
            if self._waiting:
                await self._next()
                continue
            self._offered.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._offered.wait(), IDLE_SECONDS)

    async def catch_up(self) -> int:
        """Survey all that waits, and wait for the one under way; how many candidates were asked for. Failures are
        counted and said, never raised."""
        asked = 0
        while self._waiting:
            asked += await self._next()
        async with self._one_at_a_time:
            return asked

    async def _next(self) -> int:
        async with self._one_at_a_time:
            return await self._take_down(self._waiting.popleft()) if self._waiting else 0

    async def _take_down(self, answered: Answered) -> int:
        asked = 0
        try:
            survey = await self.survey(answered, Deadline.after(SECONDS))
            asked = sum(option.counts[-1] for option in answered.options)
            if survey is not None:
                await self._log.append(survey)
        except Exception as error:
            survey = None
            logger.warning("survey_failed error=%s", type(error).__name__)
        metrics.SURVEYS.labels("incomplete" if survey is None else "made").inc()
        return asked

    async def survey(self, answered: Answered, deadline: Deadline) -> Survey | None:
        """None when an arm that could be asked fails: half a survey would teach that it has nothing."""
        context = answered.context
        counts = {option.name: option.counts[-1] for option in answered.options}
        lists, failed = await retrieve(self._arms, counts, context, deadline)
        if failed:
            return None
        weights = adapt(self._fusion_weights, *slot_coverage(context.understanding, answered.schema.title))
        union = fuse(lists, weights)
        documents = await self._items.get([pooled.object_id for pooled in union], deadline)
        pool = [pooled for pooled in union if pooled.object_id in documents]
        table = rows(context, pool, documents, answered.schema)
        places = {pooled.object_id: place for place, pooled in enumerate(pool)}
        return Survey(
            query_id=answered.query_id,
            at=context.at,
            ranks={
                arm: tuple(pooled.arms[arm].rank if arm in pooled.arms else 0 for pooled in pool)
                for arm, count in counts.items()
                if count > 0
            },
            facts={name: _rounded(table[:, column]) for name, column in zip(FACTS, _COLUMNS, strict=True)}
            | {
                part(arm): _rounded(weights.get(arm, 0.0) * table[:, NAMES.index(f"{arm}_scaled")])
                for arm in PLAN_ARMS
                if counts.get(arm)
            },
            shown=tuple(places.get(object_id, -1) for object_id in answered.shown),
        )


def _rounded(column: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(round(value, DIGITS) for value in column.tolist())

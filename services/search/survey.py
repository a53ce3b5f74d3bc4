"""Surveys: for some answers, after they have been sent, every arm is queried at its full depth.

A policy learns from them what other counts would have found (services/policies/relevance.py). They cost the arms' time,
never the user's: one survey runs at a time, and while too many wait, new ones are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services import metrics
from services.backends.base import EventLog, ItemStore
from services.policies.base import FACTS, PLAN_ARMS, part
from services.rankers.features import NAMES, rows
from services.rankers.fusion import FUSION_WEIGHTS, adapt, fuse, slot_coverage
from services.resilience.polling import wait_for_any
from services.search.arm_pool import ArmPool
from services.types import ArmOption, Context, Deadline, Schema, Survey

logger = logging.getLogger(__name__)

DIGITS = 3
"""Decimals that facts are logged with."""
MAX_WAITING = 16
SURVEY_SECONDS = 5.0
"""Time limit of one survey: nobody waits for it."""

_COLUMNS = [NAMES.index(name) for name in FACTS]


@dataclass(frozen=True, slots=True)
class SurveyRequest:
    """An answer to be surveyed."""

    query_id: str
    context: Context
    options: tuple[ArmOption, ...]
    schema: Schema
    shown: tuple[str, ...]
    """Item ids, in the order shown."""


class Surveyor:
    """Makes surveys and appends them to the log, where the learner finds them. Searches call `offer`; `run` runs beside
    them."""

    def __init__(
        self,
        arms: ArmPool,
        items: ItemStore,
        log: EventLog,
        should_survey: Callable[[int], bool],
    ) -> None:
        """should_survey: seed of a decision -> whether to survey its answer."""
        self._arms = arms
        self._items = items
        self._log = log
        self._should_survey = should_survey
        self._waiting: deque[SurveyRequest] = deque()
        self._offered = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def offer(self, request: SurveyRequest, seed: int) -> None:
        """Queue the answer if the policy wants it surveyed; dropped, and counted, while MAX_WAITING wait."""
        if not self._should_survey(seed):
            return
        if len(self._waiting) >= MAX_WAITING:
            metrics.SURVEYS.labels("dropped").inc()
            return
        self._waiting.append(request)
        self._offered.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Make surveys until `stop` is set; those still waiting then are dropped."""
        while not stop.is_set():
            if self._waiting:
                await self._next()
                continue
            self._offered.clear()
            await wait_for_any(stop, self._offered)

    async def catch_up(self) -> int:
        """Make all waiting surveys and wait for the one in progress; returns the number of candidates requested.
        Failures are counted and logged, never raised."""
        candidates = 0
        while self._waiting:
            candidates += await self._next()
        async with self._one_at_a_time:
            return candidates

    async def _next(self) -> int:
        async with self._one_at_a_time:
            return await self._log_survey(self._waiting.popleft()) if self._waiting else 0

    async def _log_survey(self, request: SurveyRequest) -> int:
        """Survey and append to the log; returns the number of candidates requested."""
        candidates = 0
        try:
            survey = await self.survey(request, Deadline.after(SURVEY_SECONDS))
            candidates = sum(option.counts[-1] for option in request.options)
            if survey is not None:
                await self._log.append(survey)
        except Exception as error:
            survey = None
            logger.warning("survey_failed error=%s", type(error).__name__)
        metrics.SURVEYS.labels("incomplete" if survey is None else "made").inc()
        return candidates

    async def survey(self, request: SurveyRequest, deadline: Deadline) -> Survey | None:
        """Query every arm in full; None when one of them fails: half a survey would teach that it has nothing."""
        context = request.context
        counts = {option.name: option.counts[-1] for option in request.options}
        lists, failed = await self._arms.retrieve_unguarded(counts, context, deadline)
        if failed:
            return None
        weights = adapt(FUSION_WEIGHTS, *slot_coverage(context.understanding, request.schema.title))
        union = fuse(lists, weights)
        documents = await self._items.get([pooled.object_id for pooled in union], deadline)
        pool = [pooled for pooled in union if pooled.object_id in documents]
        table = rows(context, pool, documents, request.schema)
        places = {pooled.object_id: place for place, pooled in enumerate(pool)}
        return Survey(
            query_id=request.query_id,
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
            shown=tuple(places.get(object_id, -1) for object_id in request.shown),
        )


def _rounded(column: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    return tuple(round(value, DIGITS) for value in column.tolist())

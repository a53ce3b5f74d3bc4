"""A search, top to bottom: understand, recall, decide, retrieve, fuse, fetch documents, rank, log, answer.

Later pages of an answer are in services/search/paging.py; listings without a decision (browsing, sorting) in
services/search/listing.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from services import metrics
from services.arms.matching import index_query
from services.backends.base import IndexResult
from services.errors import StorageFailed, Unavailable
from services.models.active import ActiveModels
from services.policies.base import Decider
from services.query_ids import Signer
from services.rankers.base import Ranker, Rows
from services.rankers.cascade import pool_scores
from services.rankers.fusion import FUSION_WEIGHTS, adapt, order, slot_coverage
from services.resilience.log_throttle import LogThrottle
from services.search.arm_pool import ArmPool
from services.search.impressions import impression, record
from services.search.listing import Lister
from services.search.paging import Pager
from services.search.recall import recall
from services.search.slate import Entry
from services.search.state import Mode, SearchState, SearchStores
from services.search.steps import Steps
from services.search.survey import Surveyor, SurveyRequest
from services.text import normalize
from services.types import (
    Answer,
    Candidate,
    Context,
    Deadline,
    Decision,
    Degraded,
    DegradedReason,
    Document,
    Person,
    Pooled,
    Query,
    Schema,
    Understanding,
)

logger = logging.getLogger(__name__)

HISTORY_LIMIT = 100
"""Number of a user's newest actions that are recalled."""
RECALL_SHARE = 0.3
"""Share of the time limit for memory and histories: without them there is still an answer."""
RANKING_SHARE = 0.15
"""Share of the time limit reserved for ranking and logging after retrieval."""
TOP_UP_STEP = 1e-6
"""Difference in score between consecutive items that only fill up a page."""
_log_throttle = LogThrottle()


class SearchEngine:
    """Answers queries. One per process; holds no state of its own between requests."""

    def __init__(
        self,
        *,
        active: ActiveModels,
        arms: ArmPool,
        decider: Decider,
        mode: Mode,
        stores: SearchStores,
        signer: Signer,
        surveyor: Surveyor,
        clock: Callable[[], float] = time.time,
        steps: Steps | None = None,
    ) -> None:
        """clock: unix time in seconds, dates answers. steps: functions that a simulation may replace (default: those
        used in serving)."""
        self.active = active
        self.arms = arms
        self._decider = decider
        self._mode = mode
        self.stores = stores
        self._signer = signer
        self._surveyor = surveyor
        self._clock = clock
        self._steps = steps or Steps()
        self._pager = Pager(stores, signer, clock)
        self._lister = Lister(stores, signer, [arm.name for arm in arms.arms], mode, clock)

    async def answer(self, query: Query) -> Answer:
        """Any search: a first page under a decision, a later page of an earlier answer, or a listing.

        Raises InvalidRequest for a page of an answer that is not known, Overloaded where there is nothing to show
        without the index.
        """
        active = self.active
        if query.page_of is not None:
            return await self._pager.page(query, active.understand(query.text), active.schema)
        if query.sort is not None or not normalize(query.text):
            with suppress(StorageFailed, TimeoutError):
                await self._follow_mode(Deadline.after(RECALL_SHARE * query.timeout))
            return await self._lister.list(query, active.understand(query.text), active.schema)
        return await self.search(query)

    async def search(self, query: Query) -> Answer:
        """The first page of an answer, under a decision. Parts that fail are named in `degraded`, never raised."""
        start = time.perf_counter()
        state = await self.collect(query, self._decider)
        ranker = self.active.ranker
        with metrics.stage("rank"):
            pool, table = self.rank(state, ranker)
        page = slice(query.offset, query.offset + query.limit)
        shown, table = pool[page], table[page]
        query_id = self._signer.issue(state.context.at)
        with metrics.stage("log"):
            shown_record = impression(query_id, state, pool, shown, table, ranker.version)
            unlogged = await record(self.stores.log, shown_record, state.deadline)
        if not unlogged:
            self._offer_survey(query_id, state, shown)
        explanations = ranker.contributions(table) if query.explain else [None] * len(shown)
        entries = [Entry(p.object_id, p.score, p.arms, explanation=e) for p, e in zip(shown, explanations, strict=True)]
        with metrics.stage("present"):
            understanding = state.context.understanding
            hits = self._steps.build_hits(entries, state.documents, query.offset, understanding, state.schema)
        answer = Answer(
            query_id=query_id,
            took=time.perf_counter() - start,
            total=state.matched.total,
            hits=hits,
            facets=state.matched.facets,
            understanding=understanding,
            decision=state.decision,
            degraded=(*state.degraded, *unlogged),
        )
        _count(answer, state.lists)
        return answer

    async def collect(self, query: Query, decider: Decider) -> SearchState:
        """Run everything up to ranking: understand, recall, decide, and retrieve in time."""
        now = self._clock()
        deadline = Deadline.after(query.timeout)
        schema = self.active.schema
        with metrics.stage("understand"):
            understanding = self.active.understand(query.text)
        with metrics.stage("recall"):
            context, unrecalled = await self._recall(query, understanding, schema, now, deadline)
        with metrics.stage("decide"):
            options, tripped = self.arms.options(context)
            features = self._steps.featurize(context, options, schema.title)
            decision = decider.decide(features, options, self._steps.draw_seed())
        with metrics.stage("retrieve"):
            until = deadline.less(RANKING_SHARE * query.timeout)
            context, lists, matched, failed = await self._retrieve(context, decision, until)
        with metrics.stage("fuse"):
            weights = adapt(FUSION_WEIGHTS, *slot_coverage(understanding, schema.title))
            pool = _top_up(self._steps.fuse(lists, weights), matched.candidates, query.offset + query.limit)
        with metrics.stage("documents"):
            context, documents, unread = await self._documents(context, pool, deadline)
        return SearchState(
            context=context,
            deadline=deadline,
            schema=schema,
            features=features,
            options=options,
            decision=decision,
            lists=lists,
            matched=matched,
            # An item deleted since an arm listed it has no document any more.
            pool=[pooled for pooled in pool if pooled.object_id in documents],
            documents=documents,
            degraded=[*unrecalled, *tripped, *failed, *unread],
        )

    # --- the steps of `collect`, in their order ---------------------------------------------------------------------

    async def _recall(
        self, query: Query, understanding: Understanding, schema: Schema, now: float, deadline: Deadline
    ) -> tuple[Context, list[Degraded]]:
        """Recall click memory and user history; both are part of the context, because the policy decides with them."""
        deadline = deadline.less((1.0 - RECALL_SHARE) * query.timeout)
        remembered, person, _ = await asyncio.gather(
            recall(self.stores.memory, self.stores.items, query, understanding, schema, deadline),
            self._person(query, deadline),
            self._follow_mode(deadline),
            return_exceptions=True,
        )
        degraded: list[Degraded] = []
        if isinstance(remembered, BaseException):
            degraded.append(_unavailable("memory", remembered))
            remembered = ()
        if isinstance(person, BaseException):
            degraded.append(_unavailable("personal", person))
            person = Person()
        return Context(query, understanding, now, person, remembered), degraded

    async def _person(self, query: Query, deadline: Deadline) -> Person:
        person = query.actor.person
        if person is None:
            return Person()
        async with deadline.enforced():
            return await self.stores.memory.person(person, HISTORY_LIMIT, deadline)

    async def _follow_mode(self, deadline: Deadline) -> None:
        """Load the mode that is set now; if it cannot be read, the last known one stays."""
        async with deadline.enforced():
            await self._mode.follow()

    async def _retrieve(
        self, context: Context, decision: Decision, deadline: Deadline
    ) -> tuple[Context, dict[str, list[Candidate]], IndexResult, list[Degraded]]:
        """The context, the arms' lists, all matches (their count, facets, static order), and the parts that failed.
        When nothing was found because an engine was away, other arms are queried, and the context excludes the answer
        from learning.
        """
        (lists, failed), matched = await asyncio.gather(
            self.arms.retrieve(decision, context, deadline), self._match(context, deadline)
        )
        if isinstance(matched, Degraded):
            failed.append(matched)
            found = {candidate.object_id for listed in lists.values() for candidate in listed}
            matched = IndexResult((), len(found), dict.fromkeys(context.query.facets, ()))
        if failed and not matched.candidates and not any(lists.values()):
            context = _not_learned_from(context)
            lists |= await self.arms.retrieve_unchosen(decision, context, deadline)
        return context, lists, matched, failed

    async def _match(self, context: Context, deadline: Deadline) -> IndexResult | Degraded:
        try:
            query = index_query(context.query, context.understanding)
            async with deadline.enforced():
                return await self.stores.index.search(query, deadline)
        except Exception as error:
            return _unavailable("catalogue", error)

    async def _documents(
        self, context: Context, pool: Sequence[Pooled], deadline: Deadline
    ) -> tuple[Context, Mapping[str, Document], list[Degraded]]:
        """Documents of the pool by id. Without them nothing can be shown, which says nothing about what the arms found,
        so the context then excludes the answer from learning."""
        try:
            async with deadline.enforced():
                return context, await self.stores.items.get([pooled.object_id for pooled in pool], deadline), []
        except (TimeoutError, StorageFailed) as error:
            return _not_learned_from(context), {}, [_unavailable("catalogue", error)]

    # --- after `collect` --------------------------------------------------------------------------------------------

    def rank(self, state: SearchState, ranker: Ranker) -> tuple[list[Pooled], Rows]:
        """The pool in the ranker's order, and its feature rows in the same order."""
        with metrics.stage("features"):
            table = self._steps.build_rows(state.context, state.pool, state.documents, state.schema)
        for pooled, score in zip(state.pool, pool_scores(ranker, table).tolist(), strict=True):
            pooled.score = score
        best = order(state.pool)
        return [state.pool[i] for i in best], table[best]

    def _offer_survey(self, query_id: str, state: SearchState, shown: Sequence[Pooled]) -> None:
        """Offer the answer to the surveyor, if it may be learned from."""
        query = state.context.query
        if not query.learn or query.offset or state.degraded:
            return
        ids = tuple(pooled.object_id for pooled in shown)
        self._surveyor.offer(
            SurveyRequest(query_id, state.context, state.options, state.schema, ids), state.decision.seed
        )


def _not_learned_from(context: Context) -> Context:
    return replace(context, query=replace(context.query, learn=False))


def _top_up(pool: list[Pooled], matched: Sequence[Candidate], need: int) -> list[Pooled]:
    """Fill the pool up to `need` items where enough match: a page must not end early because the policy requested few
    candidates.

    The added items come from no arm's list; they follow the pool in static order unless the ranker moves them.
    """
    if len(pool) < need:
        known = {pooled.object_id for pooled in pool}
        extra = [c.object_id for c in matched if c.object_id not in known][: need - len(pool)]
        pool += [Pooled(object_id, {}, -TOP_UP_STEP * place) for place, object_id in enumerate(extra, 1)]
    return pool


def _unavailable(part: str, error: BaseException) -> Degraded:
    """The entry of `degraded` for a part that failed. Reraises a cancellation."""
    if isinstance(error, asyncio.CancelledError):
        raise error
    if isinstance(error, TimeoutError):
        return Degraded(part, DegradedReason.TIMEOUT)
    if isinstance(error, Unavailable):  # counted and logged where the engine is called
        return Degraded(part, error.reason)
    if _log_throttle.allow(part, type(error).__name__):
        logger.warning("part_failed part=%s error=%s", part, type(error).__name__)
    return Degraded(part, DegradedReason.UNAVAILABLE)


def _count(answer: Answer, lists: Mapping[str, Sequence[Candidate]]) -> None:
    metrics.STAGE_SECONDS.labels("total").observe(answer.took)
    if answer.degraded:
        metrics.DEGRADED.inc()
    metrics.CANDIDATES.observe(sum(len(found) for found in lists.values()))
    metrics.DECISIONS.labels(answer.decision.policy, answer.decision.mode).inc()
    for name, choice in answer.decision.arms.items():
        metrics.CHOICES.labels(name, str(choice.count)).inc()
        metrics.PROPENSITY.labels(name).observe(choice.propensity)
    for hit in answer.hits:
        for name in hit.arms:
            metrics.HITS_SHOWN.labels(name).inc()

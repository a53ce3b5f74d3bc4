"""A search, top to bottom: understand, recall, decide, retrieve, fuse, rank, log, answer.

Later pages of an answer are in services/search/paging.py; listings without a decision (browsing, sorting) in
services/search/listing.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from services import metrics
from services.arms.base import Arm
from services.arms.matching import index_query
from services.arms.retrieval import retrieve
from services.backends.base import EventLog, IndexQuery, IndexResult, ItemStore, MemoryIndex
from services.errors import StorageFailed, Unavailable
from services.memory.keys import memory_key
from services.models.active import ActiveModels
from services.policies.base import Decider
from services.policies.features import features
from services.query_ids import Signer
from services.rankers.base import Ranker, Rows
from services.rankers.cascade import pool_scores
from services.rankers.features import rows
from services.rankers.fusion import adapt, fuse, order, slot_coverage
from services.resilience.circuit import Circuit
from services.resilience.log_throttle import Seldom
from services.search import serializers as views
from services.search.impressions import record
from services.search.listing import Lister
from services.search.paging import Pager
from services.search.recall import recall
from services.search.signature import signature
from services.search.slate import Entry, slate
from services.search.survey import Answered, Surveyor
from services.text import normalize
from services.types import (
    Answer,
    ArmOption,
    Candidate,
    Context,
    Deadline,
    Decision,
    Degraded,
    Document,
    Hit,
    Impression,
    Person,
    Pooled,
    Query,
    Schema,
    Understanding,
)

logger = logging.getLogger(__name__)

HISTORY_LIMIT = 100
RECALL = 0.3
"""Share of the time that memory and histories may take: without them there is still an answer."""
RESERVE = 0.15
"""Share of the time that is kept for ranking and logging after the arms."""
RESCUED = 25
"""Candidates asked of each other arm when all that were chosen failed."""
TOP_UP_STEP = 1e-6
_seldom = Seldom()

Told = Callable[[Context, Sequence[ArmOption], str | None], dict[str, float]]
"""(context, options, title field) -> features, by name."""
Fused = Callable[[Mapping[str, Sequence[Candidate]], Mapping[str, float]], list[Pooled]]
"""As services.rankers.fusion.fuse."""
Tabled = Callable[[Context, Sequence[Pooled], Mapping[str, Document], Schema], Rows]
"""As services.rankers.features.rows."""
Presented = Callable[[Sequence[Entry], Mapping[str, Document], int, Understanding, Schema], tuple[Hit, ...]]
"""As services.search.slate.slate."""


class Matching(Protocol):
    """What an index offers to a search beside its arms (services.backends.base.LexicalIndex)."""

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult: ...


@dataclass(frozen=True, slots=True)
class Collected:
    """All that is known of a search when its candidates are to be ranked."""

    context: Context
    deadline: Deadline
    schema: Schema
    features: Mapping[str, float]
    options: tuple[ArmOption, ...]
    decision: Decision
    lists: Mapping[str, Sequence[Candidate]]
    matched: IndexResult
    pool: list[Pooled]
    documents: Mapping[str, Document]
    degraded: list[Degraded]


class SearchEngine:
    """Answers queries. One per process; holds no state of its own between requests."""

    def __init__(
        self,
        *,
        knowledge: ActiveModels,
        arms: Sequence[Arm],
        decider: Decider,
        index: Matching,
        items: ItemStore,
        memory: MemoryIndex,
        log: EventLog,
        signer: Signer,
        fusion_weights: Mapping[str, float],
        pager: Pager,
        lister: Lister,
        surveyor: Surveyor,
        follow_mode: Callable[[], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
        seeds: Callable[[], int] = lambda: secrets.randbits(63),
        told: Told = features,
        fused: Fused = fuse,
        tabled: Tabled = rows,
        presented: Presented = slate,
    ) -> None:
        """`clock` dates answers, `stopwatch` times the circuits of arms, `seeds` gives each decision its own, `told` is
        what policies are told of a request, `fused` makes the pool, `tabled` what the ranker is told of it, `presented`
        makes the hits.
        """
        self.knowledge = knowledge
        self._arms = tuple(arms)
        # The engine behind an arm has a circuit of its own, which is slower to trust it again.
        self._circuits = {arm.name: Circuit(stopwatch, successes=1, most_successes=2) for arm in self._arms}
        self._decider = decider
        self._index = index
        self._items = items
        self._memory = memory
        self._log = log
        self._signer = signer
        self._fusion_weights = fusion_weights
        self._pager = pager
        self._lister = lister
        self._surveyor = surveyor
        self._follow_mode = follow_mode
        self._clock = clock
        self._seeds = seeds
        self._told = told
        self._fused = fused
        self._tabled = tabled
        self._presented = presented

    async def answer(self, query: Query) -> Answer:
        """Any search: a first page under a decision, a later page of an earlier answer, or a listing."""
        knowledge = self.knowledge
        if query.page_of is not None:
            return await self._pager.page(query, knowledge.understand(query.text), knowledge.schema)
        if query.sort is not None or not normalize(query.text):
            with suppress(StorageFailed, TimeoutError):
                await self._mode(Deadline.after(RECALL * query.timeout))
            return await self._lister.list(query, knowledge.understand(query.text), knowledge.schema)
        return await self.search(query)

    async def search(self, query: Query) -> Answer:
        """The first page of an answer, under a decision. Parts that fail are named in `degraded`, never raised."""
        start = time.perf_counter()
        found = await self.collect(query, self._decider)
        ranker = self.knowledge.ranker
        with metrics.stage("rank"):
            pool, table = self.ranked(found, ranker)
        window = slice(query.offset, query.offset + query.limit)
        shown, table = pool[window], table[window]
        query_id = self._signer.issue(found.context.at)
        with metrics.stage("log"):
            unlogged = await record(
                self._log, _impression(query_id, found, pool, shown, table, ranker.version), found.deadline
            )
        if not unlogged:
            self._survey(query_id, found, shown)
        explanations = ranker.contributions(table) if query.explain else [None] * len(shown)
        entries = [Entry(p.object_id, p.score, p.arms, explanation=e) for p, e in zip(shown, explanations, strict=True)]
        with metrics.stage("present"):
            hits = self._presented(entries, found.documents, query.offset, found.context.understanding, found.schema)
        answer = Answer(
            query_id=query_id,
            took=time.perf_counter() - start,
            total=found.matched.total,
            hits=hits,
            facets=found.matched.facets,
            understanding=found.context.understanding,
            decision=found.decision,
            degraded=(*found.degraded, *unlogged),
        )
        _count(answer, found.lists)
        return answer

    def _survey(self, query_id: str, found: Collected, shown: Sequence[Pooled]) -> None:
        """Have the whole answer surveyed, if the policy is curious about it."""
        query = found.context.query
        if not query.learn or query.offset or found.degraded:
            return
        ids = tuple(pooled.object_id for pooled in shown)
        answered = Answered(query_id, found.context, found.options, found.schema, ids)
        self._surveyor.offer(answered, found.decision.seed)

    async def collect(self, query: Query, decider: Decider) -> Collected:
        """Everything up to the ranking: what was understood, remembered, decided, and found in time."""
        now = self._clock()
        deadline = Deadline.after(query.timeout)
        schema = self.knowledge.schema
        with metrics.stage("understand"):
            understanding = self.knowledge.understand(query.text)
        with metrics.stage("recall"):
            context, degraded = await self._recall(query, understanding, schema, now, deadline)
        with metrics.stage("decide"):
            options, left_out = self._options(context)
            seen = self._told(context, options, schema.title)
            decision = decider.decide(seen, options, self._seeds())
        with metrics.stage("retrieve"):
            until = deadline.less(RESERVE * query.timeout)
            lists, matched, failed = await self._retrieve(context, decision, until)
            if failed and not matched.candidates and not any(lists.values()):
                # Nothing was found for want of an engine: not to be learned from, and others may know something.
                context = replace(context, query=replace(query, learn=False))
                lists |= await self._rescue(context, decision, until)
        with metrics.stage("fuse"):
            weights = adapt(self._fusion_weights, *slot_coverage(understanding, schema.title))
            pool = _top_up(self._fused(lists, weights), matched.candidates, query.offset + query.limit)
        with metrics.stage("documents"):
            try:
                ids = [pooled.object_id for pooled in pool]
                async with deadline.enforced():
                    documents = await self._items.get(ids, deadline)
            except (TimeoutError, StorageFailed) as error:
                # Nothing can be shown, which says nothing about what the arms found: not to be learned from.
                context, documents = replace(context, query=replace(query, learn=False)), {}
                failed = [*failed, _unavailable("catalogue", error)]
        return Collected(
            context=context,
            deadline=deadline,
            schema=schema,
            features=seen,
            options=options,
            decision=decision,
            lists=lists,
            matched=matched,
            # An item deleted since an arm listed it has no document any more.
            pool=[pooled for pooled in pool if pooled.object_id in documents],
            documents=documents,
            degraded=[*degraded, *left_out, *failed],
        )

    def ranked(self, found: Collected, ranker: Ranker) -> tuple[list[Pooled], Rows]:
        """The pool in the ranker's order, and its feature rows in the same order."""
        with metrics.stage("features"):
            table = self._tabled(found.context, found.pool, found.documents, found.schema)
        for pooled, score in zip(found.pool, pool_scores(ranker, table).tolist(), strict=True):
            pooled.score = score
        best = order(found.pool)
        return [found.pool[i] for i in best], table[best]

    async def _recall(
        self, query: Query, understanding: Understanding, schema: Schema, now: float, deadline: Deadline
    ) -> tuple[Context, list[Degraded]]:
        """What memory and history know: part of the context, because the policy decides with it."""
        deadline = deadline.less((1.0 - RECALL) * query.timeout)
        remembered, person, _ = await asyncio.gather(
            recall(self._memory, self._items, query, understanding, schema, deadline),
            self._person(query, deadline),
            self._mode(deadline),
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
        if query.person is None:
            return Person()
        async with deadline.enforced():
            return await self._memory.person(query.person, HISTORY_LIMIT, deadline)

    async def _mode(self, deadline: Deadline) -> None:
        """Where others may change the policy's mode: the one in force now, or, if that cannot be had, the last."""
        if self._follow_mode is not None:
            async with deadline.enforced():
                await self._follow_mode()

    def _options(self, context: Context) -> tuple[tuple[ArmOption, ...], list[Degraded]]:
        """What may be chosen, and the arms that are left out because they keep failing: others are chosen instead."""
        able = [arm for arm in self._arms if arm.available(context)]
        tired = [arm.name for arm in able if not self._circuits[arm.name].willing]
        asked = {arm.name for arm in able if arm.name not in tired}
        options = tuple(ArmOption(arm.name, arm.counts if arm.name in asked else (0,)) for arm in self._arms)
        return options, [Degraded(name, "circuit_open") for name in tired]

    async def _retrieve(
        self, context: Context, decision: Decision, deadline: Deadline
    ) -> tuple[dict[str, list[Candidate]], IndexResult, list[Degraded]]:
        """The arms' lists, and everything that matches (its count, facets, static order), all at the same time."""
        counts = {name: choice.count for name, choice in decision.arms.items()}
        (lists, degraded), matched = await asyncio.gather(
            retrieve(self._arms, counts, context, deadline, self._circuits), self._matched(context, deadline)
        )
        if isinstance(matched, Degraded):
            degraded.append(matched)
            found = {candidate.object_id for listed in lists.values() for candidate in listed}
            matched = IndexResult((), len(found), dict.fromkeys(context.query.facets, ()))
        return lists, matched, degraded

    async def _rescue(self, context: Context, decision: Decision, deadline: Deadline) -> dict[str, list[Candidate]]:
        """Lists of the arms that the decision left out, RESCUED candidates each."""
        counts = {
            arm.name: RESCUED
            for arm in self._arms
            if decision.arms[arm.name].count == 0 and self._circuits[arm.name].willing and arm.available(context)
        }
        lists, _ = await retrieve(self._arms, counts, context, deadline, self._circuits)
        return lists

    async def _matched(self, context: Context, deadline: Deadline) -> IndexResult | Degraded:
        try:
            asked = index_query(context.query, context.understanding)
            async with deadline.enforced():
                return await self._index.search(asked, deadline)
        except Exception as error:
            return _unavailable("catalogue", error)


def _top_up(pool: list[Pooled], matched: Sequence[Candidate], need: int) -> list[Pooled]:
    """At least `need` items where the catalogue has them: a page must not end because the policy took few candidates.

    The added ones come from no arm's list; they follow the pool in static order unless the ranker thinks otherwise.
    """
    if len(pool) < need:
        known = {pooled.object_id for pooled in pool}
        extra = [c.object_id for c in matched if c.object_id not in known][: need - len(pool)]
        pool += [Pooled(object_id, {}, -TOP_UP_STEP * place) for place, object_id in enumerate(extra, 1)]
    return pool


def _impression(
    query_id: str, found: Collected, pool: Sequence[Pooled], shown: Sequence[Pooled], table: Rows, ranker: str
) -> Impression:
    query, understanding = found.context.query, found.context.understanding
    return Impression(
        query_id=query_id,
        root_id=query_id,
        at=found.context.at,
        text=query.text,
        normalized=understanding.normalized,
        memory_key=memory_key(understanding.normalized),
        signature=signature(query),
        user_id=query.user_id,
        session_id=query.session_id,
        client_id=query.client_id,
        learn=query.learn,
        understanding=views.understanding(understanding),
        features=found.features,
        options=found.options,
        decision=found.decision,
        lists={name: tuple((c.object_id, c.score) for c in listed) for name, listed in found.lists.items()},
        degraded=tuple(found.degraded),
        ranking=tuple(pooled.object_id for pooled in pool),
        scores=tuple(round(pooled.score, 6) for pooled in pool),
        offset=query.offset,
        shown=tuple(pooled.object_id for pooled in shown),
        total=found.matched.total,
        ranker=ranker,
        rows=tuple(tuple(row) for row in table.tolist()),
    )


def _unavailable(arm: str, error: BaseException) -> Degraded:
    if isinstance(error, asyncio.CancelledError):
        raise error
    if isinstance(error, TimeoutError):
        return Degraded(arm, "timeout")
    if isinstance(error, Unavailable):  # counted, and said, where the engine is called
        return Degraded(arm, error.reason)
    if _seldom.due(arm, type(error).__name__):
        logger.warning("part_failed part=%s error=%s", arm, type(error).__name__)
    return Degraded(arm, "unavailable")


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

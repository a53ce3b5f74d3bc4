"""Listings: answers that take no decision and are not learned from (browsing, and any sort but relevance)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services import metrics
from services.arms.matching import index_query
from services.backends.base import EventLog, ItemStore, LexicalIndex
from services.errors import Overloaded
from services.query_ids import Signer
from services.rewards.windows import NO_POLICY
from services.search import serializers as views
from services.search.impressions import record
from services.search.signature import signature
from services.search.slate import Entry, slate
from services.types import Answer, ArmChoice, Deadline, Decision, Impression, PolicyMode, Query, Schema, Understanding


class Lister:
    """Lists what matches: everything under the filters for an empty query, popular first; else in the asked order."""

    def __init__(
        self,
        *,
        arm_names: Sequence[str],
        mode: Callable[[], PolicyMode],
        index: LexicalIndex,
        items: ItemStore,
        log: EventLog,
        signer: Signer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._arm_names = tuple(arm_names)
        self._mode = mode
        self._index = index
        self._items = items
        self._log = log
        self._signer = signer
        self._clock = clock

    async def list(self, query: Query, understanding: Understanding, schema: Schema) -> Answer:
        """Raises Overloaded when the index does not answer in time: there is nothing else to show."""
        start = time.perf_counter()
        now = self._clock()
        deadline = Deadline.after(query.timeout)
        try:
            async with deadline.enforced():
                found = await self._index.search(index_query(query, understanding), deadline)
                ids = [candidate.object_id for candidate in found.candidates]
                documents = await self._items.get(ids[query.offset :], deadline)
        except TimeoutError as error:
            raise Overloaded("the catalogue did not answer in time; try again, or allow a longer timeout_ms") from error
        decision = self._no_decision()
        query_id = self._signer.issue(now)
        entries = [Entry(c.object_id, c.score) for c in found.candidates[query.offset :] if c.object_id in documents]
        unlogged = await record(
            self._log,
            Impression(
                query_id=query_id,
                root_id=query_id,
                at=now,
                text=query.text,
                normalized=understanding.normalized,
                memory_key="",
                signature=signature(query),
                user_id=query.user_id,
                session_id=query.session_id,
                client_id=query.client_id,
                learn=query.learn,
                understanding=views.understanding(understanding),
                features={},
                options=(),
                decision=decision,
                lists={},
                degraded=(),
                ranking=tuple(ids),
                scores=tuple(candidate.score for candidate in found.candidates),
                offset=query.offset,
                shown=tuple(entry.object_id for entry in entries),
                total=found.total,
                ranker=NO_POLICY,
            ),
            deadline,
        )
        took = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels("total").observe(took)
        metrics.DECISIONS.labels(decision.policy, decision.mode).inc()
        return Answer(
            query_id=query_id,
            took=took,
            total=found.total,
            hits=slate(entries, documents, query.offset, understanding, schema),
            facets=found.facets,
            understanding=understanding,
            decision=decision,
            degraded=unlogged,
        )

    def _no_decision(self) -> Decision:
        nothing = ArmChoice(0, 1.0, ((0, 1.0),))
        return Decision(NO_POLICY, self._mode(), None, 0, dict.fromkeys(self._arm_names, nothing))

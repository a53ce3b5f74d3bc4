"""Listings: answers that take no decision and are not learned from (browsing, and any sort but relevance)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services import metrics
from services.arms.matching import index_query
from services.backends.base import IndexResult
from services.errors import Overloaded
from services.query_ids import Signer
from services.rewards.windows import NO_POLICY
from services.search import serializers
from services.search.impressions import record
from services.search.signature import signature
from services.search.slate import Entry, slate
from services.search.state import Mode, SearchStores
from services.types import Answer, ArmChoice, Deadline, Decision, Impression, Query, Schema, Understanding


class Lister:
    """Lists matching items: for an empty query everything under the filters, popular first; else in the given order."""

    def __init__(
        self,
        stores: SearchStores,
        signer: Signer,
        arm_names: Sequence[str],
        mode: Mode,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._stores = stores
        self._signer = signer
        self._arm_names = tuple(arm_names)
        self._mode = mode
        self._clock = clock

    async def list(self, query: Query, understanding: Understanding, schema: Schema) -> Answer:
        """The page of the listing that `query` requests. Raises Overloaded when the index does not answer in time:
        there is nothing else to show."""
        start = time.perf_counter()
        now = self._clock()
        deadline = Deadline.after(query.timeout)
        try:
            async with deadline.enforced():
                found = await self._stores.index.search(index_query(query, understanding), deadline)
                ids = [candidate.object_id for candidate in found.candidates]
                documents = await self._stores.items.get(ids[query.offset :], deadline)
        except TimeoutError as error:
            raise Overloaded("the catalogue did not answer in time; try again, or allow a longer timeout_ms") from error
        decision = self._no_decision()
        query_id = self._signer.issue(now)
        entries = [Entry(c.object_id, c.score) for c in found.candidates[query.offset :] if c.object_id in documents]
        listed = _impression(query_id, now, query, understanding, decision, found, entries)
        unlogged = await record(self._stores.log, listed, deadline)
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
        return Decision(NO_POLICY, self._mode.value, None, 0, dict.fromkeys(self._arm_names, nothing))


def _impression(
    query_id: str,
    now: float,
    query: Query,
    understanding: Understanding,
    decision: Decision,
    found: IndexResult,
    shown: Sequence[Entry],
) -> Impression:
    """The record of a listing: an answer without a decision, excluded from learning."""
    return Impression(
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
        understanding=serializers.understanding(understanding),
        features={},
        options=(),
        decision=decision,
        lists={},
        degraded=(),
        ranking=tuple(candidate.object_id for candidate in found.candidates),
        scores=tuple(candidate.score for candidate in found.candidates),
        offset=query.offset,
        shown=tuple(entry.object_id for entry in shown),
        total=found.total,
        ranker=NO_POLICY,
    )

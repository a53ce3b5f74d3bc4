"""Later pages of an answer: the same frozen list under the same decision, no repeats and no gaps.

The list of a first answer is frozen in its Impression. What comes after it (the tail: everything else that matches, in
static order) is computed when a user first pages that far and is then frozen as well, under a name derived from the
first answer's id, so that catalogue writes between two pages shift nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from services import metrics
from services.arms.matching import index_query
from services.errors import InvalidRequest, Overloaded
from services.query_ids import Signer
from services.rewards.windows import NO_POLICY
from services.search.impressions import record
from services.search.signature import signature
from services.search.slate import Entry, slate
from services.search.state import SearchStores
from services.types import Answer, Deadline, FacetCount, Found, Impression, Query, Schema, Understanding

MAX_DEPTH = 1000
"""Longest frozen list: offset + limit never reaches further."""


class Pager:
    """Serves later pages of answers that are in the log."""

    def __init__(self, stores: SearchStores, signer: Signer, clock: Callable[[], float] = time.time) -> None:
        self._stores = stores
        self._signer = signer
        self._clock = clock

    async def page(self, query: Query, understanding: Understanding, schema: Schema) -> Answer:
        """The page of `query.page_of`'s list that `query` requests.

        Raises InvalidRequest when the id was not issued by this service, has expired, or belongs to another query,
        filters or sort; Overloaded when the page is not ready in time.
        """
        start = time.perf_counter()
        now = self._clock()
        deadline = Deadline.after(query.timeout)
        try:
            async with deadline.enforced():
                root = await self._root(query, now, deadline)
                entries = await self._entries(root, query, understanding, deadline)
                documents = await self._stores.items.get([entry.object_id for entry in entries], deadline)
                facets = await self._facets(query, understanding, deadline)
        except TimeoutError as error:
            raise Overloaded("the page could not be put together in time; allow a longer timeout_ms") from error
        query_id = self._signer.issue(now)
        unlogged = await record(self._stores.log, _impression(root, query_id, now, query, entries), deadline)
        took = time.perf_counter() - start
        metrics.STAGE_SECONDS.labels("page").observe(took)
        return Answer(
            query_id=query_id,
            took=took,
            total=root.total,
            hits=slate(entries, documents, query.offset, understanding, schema),
            facets=facets,
            understanding=understanding,
            decision=root.decision,
            degraded=(*root.degraded, *unlogged),
        )

    async def _root(self, query: Query, now: float, deadline: Deadline) -> Impression:
        """The record of the first answer that `query.page_of` goes back to."""
        page_of = query.page_of or ""
        verdict = self._signer.verify(page_of, now)
        earlier = await self._stores.log.impression(page_of, deadline) if verdict == "valid" else None
        if earlier is None:
            reason = "has expired" if verdict == "expired" else "is not the id of an answer of this service"
            raise InvalidRequest(f"query_id {reason}; search again without it", "query_id")
        root = earlier
        if earlier.root_id != earlier.query_id:
            found = await self._stores.log.impression(earlier.root_id, deadline)
            if found is None:
                raise InvalidRequest("query_id belongs to an answer that is gone; search again without it", "query_id")
            root = found
        if root.signature != signature(query):
            raise InvalidRequest("query_id belongs to another query, filters or sort; send the same ones", "query_id")
        return root

    async def _entries(
        self, root: Impression, query: Query, understanding: Understanding, deadline: Deadline
    ) -> list[Entry]:
        """The places of the page, from the frozen list and, beyond it, from the tail."""
        end = query.offset + query.limit
        provenance = _provenance(root)
        ranked = [
            Entry(object_id, score, provenance.get(object_id, {}))
            for object_id, score in zip(root.ranking, root.scores, strict=True)
        ]
        if end > len(ranked):
            tail = await self._tail(root, query, understanding, deadline)
            decided = root.decision.policy != NO_POLICY
            ranked += [Entry(object_id, 0.0, tail=decided) for object_id in tail]
        return ranked[query.offset : end]

    async def _tail(
        self, root: Impression, query: Query, understanding: Understanding, deadline: Deadline
    ) -> tuple[str, ...]:
        """Ids of everything that matches and is not in the frozen list, in static order; frozen by the first call."""
        name = f"{root.query_id}:tail"
        frozen = await self._stores.log.impression(name, deadline)
        if frozen is None:
            everything = replace(query, offset=0, limit=MAX_DEPTH, facets=())
            found = await self._stores.index.search(index_query(everything, understanding), deadline)
            ranked = set(root.ranking)
            rest = [c.object_id for c in found.candidates if c.object_id not in ranked]
            tail = replace(
                root, query_id=name, ranking=tuple(rest), scores=(), lists={}, shown=(), rows=(), learn=False
            )
            try:
                await self._stores.log.append(tail)
                return tail.ranking
            except ValueError:
                # Two requests raced to page this far, and the other one's list is in the log: both use that one.
                frozen = await self._stores.log.impression(name, deadline)
        return frozen.ranking if frozen is not None else ()

    async def _facets(
        self, query: Query, understanding: Understanding, deadline: Deadline
    ) -> Mapping[str, tuple[FacetCount, ...]]:
        if not query.facets:
            return {}
        found = await self._stores.index.search(index_query(replace(query, offset=0, limit=1), understanding), deadline)
        return found.facets


def _impression(root: Impression, query_id: str, now: float, query: Query, shown: Sequence[Entry]) -> Impression:
    """The record of a later page: that of its first answer, without the list, which is kept only there."""
    return replace(
        root,
        query_id=query_id,
        at=now,
        user_id=query.user_id,
        session_id=query.session_id,
        client_id=query.client_id,
        learn=root.learn and query.learn,
        lists={},
        ranking=(),
        scores=(),
        offset=query.offset,
        shown=tuple(entry.object_id for entry in shown),
        rows=(),
    )


def _provenance(root: Impression) -> dict[str, dict[str, Found]]:
    """Item id -> arm -> rank and score in that arm's list."""
    found: dict[str, dict[str, Found]] = {}
    for arm, candidates in root.lists.items():
        for rank, (object_id, score) in enumerate(candidates, 1):
            found.setdefault(object_id, {})[arm] = Found(rank, score)
    return found

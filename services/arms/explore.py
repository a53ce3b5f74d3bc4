"""The explore arm: new and popular items under the filters, whatever the query, so that both get exposure."""

from __future__ import annotations

import asyncio
from itertools import zip_longest

from services.backends.base import IndexQuery, LexicalIndex
from services.types import CANDIDATE_COUNTS, Candidate, Context, Deadline


class ExploreArm:
    """Retrieves new and popular items, whatever the query."""

    name = "explore"
    counts = CANDIDATE_COUNTS

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    def available(self, context: Context) -> bool:
        """Always."""
        return True

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """Newest and most popular items alternately, each once; the score falls from 1 with the rank."""
        if count <= 0:
            return []
        filters = context.query.filters
        newest, popular = await asyncio.gather(
            self._index.search(IndexQuery(filters=filters, limit=count, newest=True), deadline),
            self._index.search(IndexQuery(filters=filters, limit=count), deadline),
        )
        turns = zip_longest(newest.candidates, popular.candidates)
        ids = dict.fromkeys(c.object_id for turn in turns for c in turn if c is not None)
        return [Candidate(object_id, 1.0 / (1 + place)) for place, object_id in enumerate(list(ids)[:count])]

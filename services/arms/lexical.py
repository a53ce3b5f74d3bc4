"""The lexical arm: items that contain the query's words or similar spellings."""

from __future__ import annotations

from services.arms.matching import text_match
from services.backends.base import IndexQuery, LexicalIndex
from services.types import CANDIDATE_COUNTS, Candidate, Context, Deadline


class LexicalArm:
    """Retrieves items by the query's words in their likely spellings."""

    name = "lexical"
    counts = CANDIDATE_COUNTS

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    def available(self, context: Context) -> bool:
        """Whether the query has words."""
        return bool(context.understanding.tokens)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """Items by their BM25 score."""
        match = text_match(context.understanding)
        found = await self._index.search(IndexQuery(text=match, filters=context.query.filters, limit=count), deadline)
        return list(found.candidates)

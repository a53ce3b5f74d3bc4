"""The structured arm: items that have what the query names (a person, a genre, a decade), the best of them first."""

from __future__ import annotations

from services.arms.base import COUNTS
from services.backends.base import IndexQuery, LexicalIndex
from services.matching import slot_match
from services.types import Candidate, Context, Deadline

__all__ = ["StructuredArm", "slot_match"]


class StructuredArm:
    name = "structured"
    counts = COUNTS

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    def available(self, context: Context) -> bool:
        return slot_match(context.understanding) is not None

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        match = slot_match(context.understanding)
        if match is None:
            return []
        found = await self._index.search(IndexQuery(slots=match, filters=context.query.filters, limit=count), deadline)
        return list(found.candidates)

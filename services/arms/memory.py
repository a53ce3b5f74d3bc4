"""The memory arm: items that users clicked for the same or nearly the same query."""

from __future__ import annotations

from services.types import CANDIDATE_COUNTS, Candidate, Context, Deadline


class MemoryArm:
    """Returns what the search has already recalled: the memory's hits are part of the context of the decision."""

    name = "memory"
    counts = CANDIDATE_COUNTS

    def available(self, context: Context) -> bool:
        """Whether anything is remembered for the query."""
        return bool(context.memory)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The first `count` remembered items, their scores probabilities."""
        return [Candidate(entry.object_id, entry.score) for entry in context.memory[:count]]

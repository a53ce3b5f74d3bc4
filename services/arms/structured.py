"""The structured arm: items that have the values the query names (a person, a genre, a decade), best first."""

from __future__ import annotations

from services.arms.matching import slot_match
from services.backends.base import ANY_KEYWORD, Constraint, IndexQuery, LexicalIndex, SlotMatch
from services.types import CANDIDATE_COUNTS, Candidate, Context, Deadline

REFERENCE_SHARE = 0.5
"""Score of the best item that only refers to a named value, as a share of that of the last item that has one."""


class StructuredArm:
    """Items that meet all slots, then those that meet some (see SlotMatch), then those that refer in any keyword field
    to what a slot or a title names: the songs of the artist whose own page the query found."""

    name = "structured"
    counts = CANDIDATE_COUNTS

    def __init__(self, index: LexicalIndex) -> None:
        self._index = index

    def available(self, context: Context) -> bool:
        """Whether the query names any value."""
        return slot_match(context.understanding) is not None

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """Items that meet the slots, then items that refer to what they name."""
        match = slot_match(context.understanding)
        if match is None or count <= 0:
            return []
        found = await self._find(match, context, count, deadline)
        named = _references(match)
        if len(found) == count or named is None:
            return found
        known = {candidate.object_id for candidate in found}
        # Requests `count`: at most as many as were found above can be duplicates.
        referring = await self._find(named, context, count + len(found), deadline)
        new = [candidate for candidate in referring if candidate.object_id not in known][: count - len(found)]
        if not (found and new):
            return found + new
        scale = REFERENCE_SHARE * found[-1].score / new[0].score
        return found + [Candidate(candidate.object_id, candidate.score * scale) for candidate in new]

    async def _find(self, match: SlotMatch, context: Context, limit: int, deadline: Deadline) -> list[Candidate]:
        query = IndexQuery(slots=match, filters=context.query.filters, limit=limit)
        return list((await self._index.search(query, deadline)).candidates)


def _references(match: SlotMatch) -> SlotMatch | None:
    """The values that the constraints name, in whatever keyword field."""
    weights: dict[str, float] = {}
    for constraint in match.constraints:
        if constraint.value is not None:
            weights[constraint.value] = max(constraint.weight, weights.get(constraint.value, 0.0))
    if not weights:
        return None
    return SlotMatch(tuple(Constraint(ANY_KEYWORD, weight, value) for value, weight in weights.items()))

"""The personal arm: items near the user's taste among those that match what the query names."""

from __future__ import annotations

import numpy as np

from services.backends.base import VectorIndex
from services.errors import ArmFailed
from services.models.taste.model import TasteEncoder
from services.types import (
    CANDIDATE_COUNTS,
    Candidate,
    Condition,
    Context,
    Deadline,
    DegradedReason,
    Filters,
    Slot,
    Understanding,
)

READING_SHARE = 0.5
"""Readings of the query are also used when at least this likely relative to the likeliest one."""


class PersonalArm:
    """Retrieves the nearest neighbours of the weighted sum of the vectors of the user's recent items (dislikes are
    negative), without the items that were taken or disliked. One that was merely viewed may still be wanted."""

    name = "personal"
    counts = CANDIDATE_COUNTS

    def __init__(self, index: VectorIndex, encoder: TasteEncoder | None = None, look: float = 0.0) -> None:
        """`index` holds the vectors of `encoder`; without one, those of a text encoder (textual similarity). `look`:
        the largest weight of an action that is a mere view of an item."""
        self._index = index
        self._look = look
        self.encoder = encoder
        """Replaced together with the index's vectors, with no await in between."""

    def available(self, context: Context) -> bool:
        """Whether the user's recent history has an action of positive weight."""
        return any(weight > 0.0 for _, weight, _ in context.person.recent)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The nearest items to the user's taste among those that match the query's slots, best first. Raises ArmFailed
        when the encoder was replaced meanwhile."""
        if not self.available(context):
            return []
        weights: dict[str, float] = {}
        done: set[str] = set()
        for object_id, weight, _ in context.person.recent:
            weights[object_id] = weights.get(object_id, 0.0) + weight
            if not 0.0 < weight <= self._look:
                done.add(object_id)
        encoder = self.encoder
        vectors = await self._index.vectors(list(weights), deadline)
        if not vectors:
            return []
        known = list(vectors)
        stacked = np.asarray([vectors[object_id] for object_id in known], np.float32)
        liked = np.asarray([weights[object_id] for object_id in known], np.float32) @ stacked
        wanted = (liked if encoder is None else encoder.user_vector(liked)).tolist()
        # Slots are a preference, not a filter: search everything when no item that could still be wanted meets them.
        found: dict[str, Candidate] = {}
        for named in [*_readings(context.understanding), ()]:
            if not named and found:
                break
            if encoder is not self.encoder:
                raise ArmFailed(DegradedReason.UNAVAILABLE)
            near = await self._index.nearest(wanted, context.query.filters + named, count + len(done), deadline)
            found |= {candidate.object_id: candidate for candidate in near if candidate.object_id not in done}
        return sorted(found.values(), key=lambda candidate: (-candidate.score, candidate.object_id))[:count]


def _readings(understanding: Understanding) -> list[Filters]:
    """Filters from the slots of the likeliest reading and of those about as likely."""
    likely = understanding.interpretations[0].likelihood * READING_SHARE if understanding.interpretations else 0.0
    return [_named(i.slots) for i in understanding.interpretations if i.slots and i.likelihood >= likely]


def _named(slots: tuple[Slot, ...]) -> Filters:
    return tuple(
        Condition(slot.field, any_of=(slot.value,))
        if slot.low is None and slot.high is None
        else Condition(slot.field, gte=slot.low, lte=slot.high)
        for slot in slots
    )

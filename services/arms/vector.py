"""The vector arm: items whose text is semantically close to the query."""

from __future__ import annotations

import asyncio

from services.backends.base import VectorIndex
from services.errors import ArmFailed
from services.models.text_encoder.model import TextEncoder
from services.types import CANDIDATE_COUNTS, Candidate, Context, Deadline, DegradedReason


class VectorArm:
    """Retrieves the nearest neighbours of the query's vector."""

    name = "vector"
    counts = CANDIDATE_COUNTS

    def __init__(self, index: VectorIndex, encoder: TextEncoder) -> None:
        self._index = index
        self.encoder = encoder
        """Replaced together with the index's vectors, with no await in between."""

    def available(self, context: Context) -> bool:
        """Whether the query has words."""
        return bool(context.understanding.tokens)

    async def retrieve(self, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
        """The nearest items, their scores cosines. Raises ArmFailed when the encoder was replaced meanwhile."""
        text = context.understanding.corrected or context.understanding.normalized
        encoder = self.encoder
        if encoder.instant:
            vector = encoder.encode_query(text)
        else:
            async with asyncio.timeout(deadline.remaining()):
                vector = await asyncio.to_thread(encoder.encode_query, text)
            if encoder is not self.encoder:
                raise ArmFailed(DegradedReason.UNAVAILABLE)
        return await self._index.nearest(vector.tolist(), context.query.filters, count, deadline)

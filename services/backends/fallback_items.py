"""An ItemStore with a second copy of its documents, for when the first cannot be read."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.backends.base import ItemStore
from services.errors import StorageFailed
from services.types import Deadline, Document, Schema

logger = logging.getLogger(__name__)

Documents = Callable[[Sequence[str], Deadline], Awaitable[dict[str, Document]]]

_QUIET_SECONDS = 60.0
"""Seconds without a failure after which the next one counts as a new outage."""
_PRIMARY_SHARE = 0.5
"""Share of the time left that the primary may use before the second copy is read."""


class FallbackItems:
    """`primary`, and for reads of documents that it cannot answer, `documents`: a second copy that may lag behind it.
    Everything but `get` goes to the primary alone."""

    def __init__(self, primary: ItemStore, documents: Documents, clock: Callable[[], float] = time.monotonic) -> None:
        self._primary = primary
        self._documents = documents
        self._clock = clock
        self._last = -math.inf

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The items with these ids that exist, in the order given. Raises what the second copy raises when it is needed
        and fails as well."""
        share = deadline.remaining() * _PRIMARY_SHARE
        try:
            async with asyncio.timeout(share):
                return await self._primary.get(object_ids, Deadline.after(share))
        except (StorageFailed, TimeoutError) as error:
            self._report(error)
            second = await self._documents(object_ids, deadline)
            return {one: second[one] for one in dict.fromkeys(object_ids) if one in second}

    async def put(self, documents: Sequence[Document]) -> None:
        """See ItemStore.put; the primary alone."""
        await self._primary.put(documents)

    async def delete(self, object_ids: Sequence[str]) -> int:
        """See ItemStore.delete; the primary alone."""
        return await self._primary.delete(object_ids)

    async def count(self) -> int:
        """Number of items in the primary."""
        return await self._primary.count()

    def scan(self) -> AsyncIterator[Document]:
        """Every document of the primary, in id order."""
        return self._primary.scan()

    async def schema(self) -> Schema | None:
        """The schema stored in the primary."""
        return await self._primary.schema()

    async def set_schema(self, schema: Schema) -> None:
        """See ItemStore.set_schema; the primary alone."""
        await self._primary.set_schema(schema)

    async def sequence(self) -> int:
        """Number of the primary's last change."""
        return await self._primary.sequence()

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        """See ItemStore.changes; the primary alone."""
        return await self._primary.changes(after)

    async def confirmed(self, index: str) -> int | None:
        """The number that `index` last confirmed in the primary."""
        return await self._primary.confirmed(index)

    async def applied(self, index: str, sequence: int) -> None:
        """See ItemStore.applied; the primary alone."""
        await self._primary.applied(index, sequence)

    async def close(self) -> None:
        """Close the primary; the second copy belongs to the caller."""
        await self._primary.close()

    def _report(self, error: Exception) -> None:
        """Log one line per outage, not one per request. Reads that the primary answers from its cache do not end an
        outage."""
        now = self._clock()
        if now - self._last > _QUIET_SECONDS:
            logger.warning("items_from_second_copy error=%s", type(error).__name__)
        self._last = now

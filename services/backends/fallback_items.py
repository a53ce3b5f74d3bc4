"""An ItemStore with a second copy of its documents, for the time in which the first cannot be read."""

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
"""Without a failure for so long, the next one is another outage."""
_SHARE = 0.5
"""Of the time left, what the store itself may use before the second copy is asked."""


class FallbackItems:
    """`primary`, and where it cannot tell what documents hold, `documents`: a second copy that may lag behind it.
    Everything but `get` is for the primary alone."""

    def __init__(self, primary: ItemStore, documents: Documents, clock: Callable[[], float] = time.monotonic) -> None:
        self._primary = primary
        self._documents = documents
        self._clock = clock
        self._last = -math.inf

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """In the order asked. Raises what the second copy raises, when it is needed and fails as well."""
        share = deadline.remaining() * _SHARE
        try:
            async with asyncio.timeout(share):
                return await self._primary.get(object_ids, Deadline.after(share))
        except (StorageFailed, TimeoutError) as error:
            self._tell(error)
            second = await self._documents(object_ids, deadline)
            return {one: second[one] for one in dict.fromkeys(object_ids) if one in second}

    async def put(self, documents: Sequence[Document]) -> None:
        await self._primary.put(documents)

    async def delete(self, object_ids: Sequence[str]) -> int:
        return await self._primary.delete(object_ids)

    async def count(self) -> int:
        return await self._primary.count()

    def scan(self) -> AsyncIterator[Document]:
        return self._primary.scan()

    async def schema(self) -> Schema | None:
        return await self._primary.schema()

    async def set_schema(self, schema: Schema) -> None:
        await self._primary.set_schema(schema)

    async def sequence(self) -> int:
        return await self._primary.sequence()

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        return await self._primary.changes(after)

    async def confirmed(self, index: str) -> int | None:
        return await self._primary.confirmed(index)

    async def applied(self, index: str, sequence: int) -> None:
        await self._primary.applied(index, sequence)

    async def close(self) -> None:
        await self._primary.close()

    def _tell(self, error: Exception) -> None:
        """One line an outage, not one a request. Reads that the primary serves from its memory do not end an outage."""
        now = self._clock()
        if now - self._last > _QUIET_SECONDS:
            logger.warning("items_from_second_copy error=%s", type(error).__name__)
        self._last = now

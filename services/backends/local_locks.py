"""Locks within one process, for data that belongs to one process alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class LocalLocks:
    """Locks of one process, by name; see services.backends.base.Locks."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Wait until nobody else in this process holds `name`; held until the context ends."""
        async with self._locks[name]:
            yield

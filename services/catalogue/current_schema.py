"""The schema that a process goes by, and changing it where several processes may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.backends.base import ItemStore, Locks
from services.types import Schema

CHANGING = "schema"
"""Name of the lock under which the schema, and what indexes confirm under it, change."""


class SchemaInForce:
    """`value` is replaced whole, and only when the stored schema differs from it."""

    def __init__(self, items: ItemStore, locks: Locks) -> None:
        self._items = items
        self._locks = locks
        self.value = Schema()
        """Empty until the first items came."""

    async def refresh(self) -> None:
        """Take up what another process may have stored."""
        self._take(await self._items.schema())

    async def change(self, to: Callable[[Schema], Schema], slow: bool = False) -> Schema:
        """Store what `to` makes of the schema in force, unless that is the same; the one in force then. A `slow` one
        runs in a thread."""
        async with self._locks.hold(CHANGING):
            await self.refresh()
            changed = await asyncio.to_thread(to, self.value) if slow else to(self.value)
            if changed is not self.value:
                await self._items.set_schema(changed)
                self.value = changed
            return self.value

    async def while_in_force(self, schema: Schema, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work` if `schema` (the very object) is still in force, and keep it so meanwhile; whether it was done."""
        async with self._locks.hold(CHANGING):
            await self.refresh()
            if self.value is not schema:
                return False
            await work()
            return True

    def _take(self, stored: Schema | None) -> None:
        if stored is not None and stored != self.value:
            self.value = stored

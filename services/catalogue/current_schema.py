"""The schema that a process works with, and changing it where several processes may."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from services.backends.base import ItemStore, Locks
from services.schema.schema import infer, measure
from services.types import Document, Schema

CHANGING = "schema"
"""Name of the lock under which the schema and the indexes' confirmed progress change."""
GROWTH_FACTOR = 2.0
"""A catalogue this many times as large as when it was last measured is measured again ..."""
SETTLED_ITEMS = 20_000
"""... until it was measured on this many items: its constants hardly change any more."""
SAMPLE = 2_000
"""Items that a schema is inferred from. One that was inferred from fewer is revised as the catalogue grows."""


class CurrentSchema:
    """`value` is replaced as a whole, and only when the stored schema differs from it."""

    def __init__(self, items: ItemStore, locks: Locks) -> None:
        self._items = items
        self._locks = locks
        self.value = Schema()
        """Empty until the first items have come."""

    async def refresh(self) -> None:
        """Load the stored schema, which another process may have changed."""
        stored = await self._items.schema()
        if stored is not None and stored != self.value:
            self.value = stored

    async def change(self, to: Callable[[Schema], Schema], slow: bool = False) -> Schema:
        """Store what `to` makes of the current schema, unless that is the same object, and return the current one.

        slow: run `to` in a thread.
        """
        async with self._locks.hold(CHANGING):
            await self.refresh()
            changed = await asyncio.to_thread(to, self.value) if slow else to(self.value)
            if changed is not self.value:
                await self._items.set_schema(changed)
                self.value = changed
            return self.value

    async def if_current(self, schema: Schema, work: Callable[[], Awaitable[None]]) -> bool:
        """Do `work` if `schema` (the very object) is still current, and keep it current meanwhile; returns whether the
        work was done."""
        async with self._locks.hold(CHANGING):
            await self.refresh()
            if self.value is not schema:
                return False
            await work()
            return True

    def outgrown(self, count: int) -> bool:
        """Whether a catalogue of `count` items has outgrown what the schema's constants were measured on."""
        measured = self.value.stats.get("items", 0.0)
        return measured < SETTLED_ITEMS and count > GROWTH_FACTOR * measured

    async def revise(self, documents: Sequence[Document], infer_again: bool = False) -> None:
        """Measure the constants of the priors on `documents`, the whole catalogue. Fields' roles are inferred again if
        they were inferred from few items, or if `infer_again`; a given schema keeps its roles."""

        def revised(schema: Schema) -> Schema:
            if schema.inferred and (infer_again or schema.stats.get("items", 0.0) < SAMPLE):
                # Spread over the catalogue: ids that begin alike are often items that are alike.
                spread = documents[:: max(1, len(documents) // SAMPLE)]
                schema = replace(infer(spread), synonyms=schema.synonyms)
            return measure(schema, documents)

        await self.change(revised, slow=True)

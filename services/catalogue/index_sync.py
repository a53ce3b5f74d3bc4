"""Keeps every index in sync with the item store, which is the source of truth.

The item store records how far each index has come, so a crash at any moment is repaired by applying the pending
changes, and writers that wait together share one round. Indexes are rebuilt as a whole when the schema changes: by new
fields, or because the catalogue has outgrown what its schema was inferred from and its priors were measured on.

Where several processes share a store, the writer updates the shared indexes, one process at a time. Every process
keeps its own in-memory indexes in sync by itself, and finishes the work of a writer that died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from services.backends.base import ItemStore, Locks
from services.catalogue.base import INDEXING, IndexUpdater, SharedIndexUpdater
from services.catalogue.current_schema import CurrentSchema
from services.errors import StorageFailed
from services.resilience.polling import poll
from services.types import Document, Schema

logger = logging.getLogger(__name__)

START_SECONDS = 5.0
"""How long a start waits for shared indexes to be updated; after that the work continues in the background."""
FOLLOW_SECONDS = 0.25
REPAIR_SECONDS = 2.0
CHECK_EVERY = 5
"""Number of repair rounds between checks that the shared indexes still exist."""


PROGRESS_EVERY = 100
"""Number of items between progress reports of a rebuild."""

OnProgress = Callable[[str, int, int], None]
"""Called while an index is rebuilt: (its name, items done, items in all). Called from any thread."""


def ignore_progress(name: str, done: int, total: int) -> None:
    """An `OnProgress` that does nothing."""


class IndexSync:
    """`own` indexes belong to this process, `shared` ones to all processes that share the store; each is updated in the
    order given, the own ones first. `on_progress` is called during rebuilds. Call `recover` before anything else, and
    run `follow` where other processes write too."""

    def __init__(
        self,
        items: ItemStore,
        schema: CurrentSchema,
        locks: Locks,
        own: Sequence[IndexUpdater],
        shared: Sequence[SharedIndexUpdater] = (),
        on_progress: OnProgress = ignore_progress,
    ) -> None:
        self._items = items
        self._schema = schema
        self._locks = locks
        self._own = own
        self._shared = shared
        self._on_progress = on_progress
        self._updating = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._volatile: dict[str, tuple[int, Schema]] = {}
        """Per volatile index, the last change it has applied and the schema it did so under."""
        self._unchecked = {index.name for index in (*own, *shared) if not index.volatile}
        """Indexes still to be checked for staleness."""
        self._rebuilt: set[str] = set()
        """Indexes that this process has rebuilt."""
        self._to_rebuild: set[str] = set()
        """Indexes to be rebuilt whatever they report."""

    async def recover(self) -> None:
        """Repair at the start: rebuild the indexes that need it and apply missed changes to the others. A shared index
        that cannot be reached is left to `follow`: its old content can be searched meanwhile."""
        await self._schema.refresh()
        if not self._shared:
            await self.sync()
            return
        await self._sync_own()
        syncing = asyncio.create_task(self._sync_shared())
        self._running.add(syncing)
        syncing.add_done_callback(self._running.discard)
        await asyncio.wait([syncing], timeout=START_SECONDS)

    async def sync(self) -> None:
        """Bring every index in sync with the store, including changes that other writers left pending. Raises what an
        index raises, after the others had their turn."""
        async with self._locks.hold(INDEXING), self._updating:
            await self._sync_until_done()

    async def rebuild(self) -> None:
        """Rebuild every index while searches continue. An inferred schema is inferred again first."""
        async with self._locks.hold(INDEXING), self._updating:
            await self._schema.refresh()
            await self._schema.revise(await _read_all(self._items), infer_again=True)
            self._to_rebuild = {index.name for index in (*self._own, *self._shared)}
            await self._sync_until_done()

    async def rebuild_remaining(self) -> None:
        """Rebuild every index that this process has not rebuilt yet. Two rebuilds in a row would drop the generation of
        a shared index that other processes still search."""
        async with self._locks.hold(INDEXING), self._updating:
            self._to_rebuild = {index.name for index in (*self._own, *self._shared)} - self._rebuilt
            await self._sync_until_done()

    async def follow(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, apply what other processes write, and finish the work of a writer that died."""
        repair = _Repair(self)

        def report(error: Exception) -> None:
            logger.warning("upkeep_failed error=%s", type(error).__name__)

        await asyncio.gather(
            poll(self._follow_once, stop, interval=FOLLOW_SECONDS, on_failure=report),
            poll(repair.once, stop, interval=REPAIR_SECONDS, on_failure=report),
        )

    async def lagging(self) -> dict[str, int | None]:
        """Shared indexes that have not applied every change, with the last one that they have (None: nothing yet)."""
        newest = await self._items.sequence()
        confirmed = {index.name: await self._items.confirmed(index.name) for index in self._shared}
        return {name: applied for name, applied in confirmed.items() if applied is None or applied < newest}

    async def check_shared(self) -> bool:
        """Check that the shared indexes still exist; returns whether one does not, which `sync` repairs."""
        self._unchecked |= {index.name for index in self._shared if await index.stale()}
        return bool(self._unchecked)

    async def close(self) -> None:
        """Cancel the background work of a start."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # --- background calls of `sync` ---------------------------------------------------------------------------------

    async def _sync_shared(self) -> None:
        try:
            await self._refresh_shared()
            await self.sync()
        except (StorageFailed, TimeoutError) as error:
            logger.warning("index_behind error=%s", type(error).__name__)

    async def _follow_once(self) -> None:
        """Update this process's own indexes and its view of the shared ones."""
        await self._sync_own()
        await self._refresh_shared()

    async def _sync_own(self) -> None:
        await self._schema.refresh()
        async with self._updating:
            while not await self._update_all(self._own):
                await self._schema.refresh()

    async def _refresh_shared(self) -> None:
        """Refresh every shared index; one that is unreachable does not keep the others from being refreshed."""
        outcomes = await asyncio.gather(*(index.refresh() for index in self._shared), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    # --- one round over all indexes ---------------------------------------------------------------------------------

    async def _sync_until_done(self) -> None:
        while not await self._round():
            pass

    async def _round(self) -> bool:
        """Update every index; returns whether all are in sync under one schema (a writer may have changed it)."""
        await self._schema.refresh()
        if self._schema.outgrown(await self._items.count()):
            await self._schema.revise(await _read_all(self._items))
        failures: list[Exception] = []
        if not await self._update_all((*self._own, *self._shared), failures):
            return False
        if failures:
            raise failures[0]
        return True

    async def _update_all(self, indexes: Sequence[IndexUpdater], failures: list[Exception] | None = None) -> bool:
        """Update `indexes`; returns whether all are in sync under one schema. With `failures` given, the error of a
        shared index is added to them, and does not keep the others from being updated."""
        catalogue = _CatalogueOnce(self._items)
        for index in indexes:
            try:
                if not await self._update(index, catalogue):
                    return False
            except Exception as error:
                if failures is None or index in self._own:
                    raise
                failures.append(error)
        return True

    async def _update(self, index: IndexUpdater, catalogue: _CatalogueOnce) -> bool:
        """Update `index`; returns whether it is in sync under the schema that was current at the beginning."""
        schema = self._schema.value
        stale = index.name in self._unchecked and await index.stale()
        applied = None if stale or index.name in self._to_rebuild else await self._applied(index)
        if applied is None:
            if not index.volatile:
                await index.stale()  # raises while its engine is away, before the whole catalogue is read
            applied, documents = await catalogue.read()
            if documents or not index.volatile:
                logger.info("rebuilding %s: %d items", index.name, len(documents))
            await index.rebuild(schema, self._report(index.name, documents))
            if not await self._confirm(index, applied, schema):
                return False
            self._to_rebuild.discard(index.name)
            self._rebuilt.add(index.name)
        self._unchecked.discard(index.name)
        while True:
            applied, upserts, deletes = await self._items.changes(applied)
            if not upserts and not deletes:
                return True
            await index.apply(upserts, deletes)
            if not await self._confirm(index, applied, schema):
                return False

    def _report(self, name: str, documents: Sequence[Document]) -> Iterator[Document]:
        """`documents`, reporting how many of them were taken."""
        total = len(documents)
        for done, document in enumerate(documents):
            if done % PROGRESS_EVERY == 0:
                self._on_progress(name, done, total)
            yield document
        if total:
            self._on_progress(name, total, total)

    async def _applied(self, index: IndexUpdater) -> int | None:
        """The last change that `index` has applied; None when it needs a rebuild."""
        if not index.volatile:
            return await self._items.confirmed(index.name)
        applied, schema = self._volatile.get(index.name, (0, None))
        # A store whose newest change is older than one we have applied is another store: a restored backup.
        known = schema is self._schema.value and applied <= await self._items.sequence()
        return applied if known else None

    async def _confirm(self, index: IndexUpdater, applied: int, schema: Schema) -> bool:
        """Record what `index` has applied, unless it did so under a schema that is no longer current."""
        if index.volatile:
            self._volatile[index.name] = (applied, schema)
            return self._schema.value is schema
        return await self._schema.if_current(schema, lambda: self._items.applied(index.name, applied))


class _CatalogueOnce:
    """The whole catalogue, read at most once for all indexes of a round that need it."""

    def __init__(self, items: ItemStore) -> None:
        self._items = items
        self._found: tuple[int, list[Document]] | None = None

    async def read(self) -> tuple[int, list[Document]]:
        """(number of the last change before reading began, all items). What changes during the reading is pending
        after that number, so it is applied to the index again."""
        if self._found is None:
            sequence = await self._items.sequence()
            self._found = sequence, await _read_all(self._items)
        return self._found


class _Repair:
    """Finishes abandoned updates: of a shared index that lags and has not moved for a round."""

    def __init__(self, indexes: IndexSync) -> None:
        self._indexes = indexes
        self._lagged: dict[str, int | None] = {}
        self._rounds = 0

    async def once(self) -> None:
        lagging = await self._indexes.lagging()
        stuck = [name for name, applied in lagging.items() if self._lagged.get(name, -1) == applied]
        self._lagged = lagging
        self._rounds += 1
        if stuck or (self._rounds % CHECK_EVERY == 0 and await self._indexes.check_shared()):
            await self._indexes.sync()


async def _read_all(items: ItemStore) -> list[Document]:
    return [document async for document in items.scan()]

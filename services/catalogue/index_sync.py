"""Every index kept up with the item store, which is the one truth.

What each index has taken in is written down by the store, so a crash at any moment is repaired by doing what is still
pending, and writers that wait together share one round. Indexes are rebuilt as a whole when the schema changes: by new
fields, or because the catalogue has outgrown what its schema was guessed and its priors were measured on.

Where several processes share a store, the indexes that they share are brought up to date by whoever wrote, one process
at a time; every process follows by itself with what it keeps in memory, and finishes what a writer left behind that
died in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from services.backends.base import ItemStore, Locks
from services.catalogue.current_schema import SchemaInForce
from services.errors import StorageFailed
from services.schema.schema import infer, measure
from services.types import Document, Schema

logger = logging.getLogger(__name__)

GROWTH = 2.0
"""A catalogue this many times as large as when it was last measured is measured again ..."""
SETTLED = 20_000
"""... until it was measured on this many items: its constants hardly move any more."""
SAMPLE = 2_000
"""Items that a schema is guessed from. A guess from fewer is revised as the catalogue grows."""
INDEXING = "indexing"
"""Name of the lock under which shared indexes change."""
START_SECONDS = 5.0
"""How long a start waits for shared indexes to be brought up to date; it goes on beside the service."""
FOLLOW_SECONDS = 0.25
MEND_SECONDS = 2.0
CHECK_EVERY = 5
"""Rounds of mending after which the shared indexes are asked whether they are still there."""


TOLD_EVERY = 100
"""Items of a build after which it is told how far it is."""

Building = Callable[[str, int, int], None]
"""Told while an index is built as a whole: (its name, items taken in by now, items in all). Called from any thread."""


def unwatched(name: str, done: int, total: int) -> None:
    """A `Building` that tells nobody."""


class DerivedIndex(Protocol):
    """Whatever must follow the catalogue: a search index, a vocabulary, predicted queries."""

    @property
    def name(self) -> str:
        """Under which the item store keeps what the index has confirmed; never renamed."""
        ...

    @property
    def volatile(self) -> bool:
        """Whether it is kept in this process's memory alone, so that it is built anew at every start."""
        ...

    async def stale(self) -> bool:
        """Whether the index needs a rebuild whatever it had confirmed (its files are gone, it was made with another
        encoder). Not asked of volatile ones."""
        ...

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Searches see it when this returns. Idempotent."""
        ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None: ...


class SharedIndex(DerivedIndex, Protocol):
    """An index that several processes search and, under the lock INDEXING, change."""

    async def refresh(self) -> None:
        """Take up, in this process, what others have put in force."""
        ...


class Upkeep:
    """`own` indexes belong to this process, `shared` ones to all that share the store; each is brought up to date in
    the order given, the own ones first; `building` is told of builds. Call `recover` before anything else, and run
    `follow` where other processes write too."""

    def __init__(
        self,
        items: ItemStore,
        schema: SchemaInForce,
        locks: Locks,
        own: Sequence[DerivedIndex],
        shared: Sequence[SharedIndex] = (),
        building: Building = unwatched,
    ) -> None:
        self._items = items
        self._schema = schema
        self._locks = locks
        self._own = own
        self._shared = shared
        self._building = building
        self._working = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()
        self._places: dict[str, tuple[int, Schema]] = {}
        """Of volatile indexes: what they have taken in, and under which schema."""
        self._doubtful = {index.name for index in (*own, *shared) if not index.volatile}
        """Indexes to be asked whether they are stale."""
        self._forced: set[str] = set()
        """Indexes to be rebuilt whatever they say."""

    async def recover(self) -> None:
        """Repair at the start: rebuild the indexes that need it, give the others what they missed. A shared index that
        cannot be reached is left to `follow`: what is there can be searched meanwhile."""
        await self._schema.refresh()
        if not self._shared:
            await self.settle()
            return
        await self._catch_up_own()
        settling = asyncio.create_task(self._settle_shared())
        self._running.add(settling)
        settling.add_done_callback(self._running.discard)
        await asyncio.wait([settling], timeout=START_SECONDS)

    async def settle(self) -> None:
        """Bring every index up to date with the store. What writers before us left is done with ours. Raises what an
        index raises, after the others had their turn."""
        async with self._locks.hold(INDEXING), self._working:
            while not await self._round():
                pass

    async def close(self) -> None:
        """Break off what a start left to go on."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _settle_shared(self) -> None:
        try:
            await self._refresh()
            await self.settle()
        except (StorageFailed, TimeoutError) as error:
            logger.warning("index_behind error=%s", type(error).__name__)

    async def rebuild(self) -> None:
        """Build every index anew, under a new guess where the schema is a guess, while searches go on."""
        async with self._locks.hold(INDEXING), self._working:
            await self._schema.refresh()
            await self._measure(await self._scan(), again=True)
            self._forced = {index.name for index in (*self._own, *self._shared)}
            while not await self._round():
                pass

    async def follow(self, stop: asyncio.Event) -> None:
        """Until `stop` is set, take in what other processes write, and do what a writer that died left undone."""
        await asyncio.gather(
            _repeat(self._catch_up_alone, FOLLOW_SECONDS, stop), _repeat(_Mending(self).once, MEND_SECONDS, stop)
        )

    async def behind(self) -> dict[str, int | None]:
        """Shared indexes that have not taken in everything, with what they have confirmed."""
        sequence = await self._items.sequence()
        places = {index.name: await self._items.confirmed(index.name) for index in self._shared}
        return {name: place for name, place in places.items() if place is None or place < sequence}

    async def doubt(self) -> bool:
        """Look whether the shared indexes are still there; whether one is not, which `settle` will mend."""
        self._doubtful |= {index.name for index in self._shared if await index.stale()}
        return bool(self._doubtful)

    async def _catch_up_alone(self) -> None:
        """What concerns this process alone: its own indexes, and its view of the shared ones."""
        await self._catch_up_own()
        await self._refresh()

    async def _catch_up_own(self) -> None:
        await self._schema.refresh()
        async with self._working:
            while not await self._bring_all(self._own):
                await self._schema.refresh()

    async def _refresh(self) -> None:
        """Look at every shared index; one that is away does not keep the others from being looked at."""
        outcomes = await asyncio.gather(*(index.refresh() for index in self._shared), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _round(self) -> bool:
        """Whether every index got there under one schema; a writer may have changed it meanwhile."""
        await self._schema.refresh()
        count = await self._items.count()
        measured = self._schema.value.stats.get("items", 0.0)
        if measured < SETTLED and count > GROWTH * measured:
            await self._measure(await self._scan())
        failures: list[Exception] = []
        if not await self._bring_all((*self._own, *self._shared), failures):
            return False
        if failures:
            raise failures[0]
        return True

    async def _bring_all(self, indexes: Sequence[DerivedIndex], failures: list[Exception] | None = None) -> bool:
        """With `failures` given, one index that fails does not keep the others from being brought up to date."""
        scanned = _Scanned(self)
        for index in indexes:
            try:
                if not await self._bring(index, scanned):
                    return False
            except Exception as error:
                if failures is None or index in self._own:
                    raise
                failures.append(error)
        return True

    async def _bring(self, index: DerivedIndex, scanned: _Scanned) -> bool:
        """Whether `index` is up to date under the schema that was in force when it began."""
        schema = self._schema.value
        stale = index.name in self._doubtful and await index.stale()
        place = None if stale or index.name in self._forced else await self._place(index)
        if place is None:
            if not index.volatile:
                await index.stale()  # raises while its engine is away: before the whole catalogue is read for it
            # Before the scan: what changes while it goes on is pending after it, and told to the index again.
            sequence, documents = await scanned.documents()
            if documents or not index.volatile:
                logger.info("rebuilding %s: %d items", index.name, len(documents))
            await index.rebuild(schema, self._told(index.name, documents))
            place = sequence
            if not await self._confirm(index, place, schema):
                return False
            self._forced.discard(index.name)
        self._doubtful.discard(index.name)
        while True:
            place, upserts, deletes = await self._items.changes(place)
            if not upserts and not deletes:
                return True
            await index.apply(upserts, deletes)
            if not await self._confirm(index, place, schema):
                return False

    def _told(self, name: str, documents: Sequence[Document]) -> Iterator[Document]:
        """`documents`, while whoever watches is told how many of them were taken."""
        total = len(documents)
        for done, document in enumerate(documents):
            if done % TOLD_EVERY == 0:
                self._building(name, done, total)
            yield document
        if total:
            self._building(name, total, total)

    async def _place(self, index: DerivedIndex) -> int | None:
        if not index.volatile:
            return await self._items.confirmed(index.name)
        place, schema = self._places.get(index.name, (0, None))
        # A store that stands before what we have seen is not the one that we saw: it was restored from a backup.
        known = schema is self._schema.value and place <= await self._items.sequence()
        return place if known else None

    async def _confirm(self, index: DerivedIndex, sequence: int, schema: Schema) -> bool:
        """Note what `index` has, unless it has it under a schema that is no longer in force."""
        if index.volatile:
            self._places[index.name] = (sequence, schema)
            return self._schema.value is schema
        return await self._schema.while_in_force(schema, lambda: self._items.applied(index.name, sequence))

    async def _measure(self, documents: Sequence[Document], again: bool = False) -> None:
        """Measure the constants of the priors; guess the roles anew if they were guessed from few items, or `again`."""

        def measured(schema: Schema) -> Schema:
            if schema.inferred and (again or schema.stats.get("items", 0.0) < SAMPLE):
                # Spread over the catalogue: ids that begin alike are often items that are alike.
                spread = documents[:: max(1, len(documents) // SAMPLE)]
                schema = replace(infer(spread), synonyms=schema.synonyms)
            return measure(schema, documents)

        await self._schema.change(measured, slow=True)

    async def _scan(self) -> list[Document]:
        return [document async for document in self._items.scan()]


class _Scanned:
    """The whole catalogue, read at most once for all indexes of a round that need it, with the number of the last
    change before it was read."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        self._found: tuple[int, list[Document]] | None = None

    async def documents(self) -> tuple[int, list[Document]]:
        if self._found is None:
            sequence = await self._upkeep._items.sequence()
            self._found = sequence, await self._upkeep._scan()
        return self._found


class _Mending:
    """Finishes what nobody finishes: a shared index that is behind and has not moved for a while."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        self._before: dict[str, int | None] = {}
        self._rounds = 0

    async def once(self) -> None:
        behind = await self._upkeep.behind()
        stuck = [name for name, place in behind.items() if self._before.get(name, -1) == place]
        self._before = behind
        self._rounds += 1
        if stuck or (self._rounds % CHECK_EVERY == 0 and await self._upkeep.doubt()):
            await self._upkeep.settle()


async def _repeat(work: Callable[[], Awaitable[None]], seconds: float, stop: asyncio.Event) -> None:
    """Until `stop` is set. A failure is said once, when it begins: it may go on for as long as an engine is away."""
    failing = False
    while not stop.is_set():
        try:
            await work()
            failing = False
        except Exception as error:
            if not failing:
                logger.warning("upkeep_failed error=%s", type(error).__name__)
            failing = True
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except TimeoutError:
            continue

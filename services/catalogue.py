"""Writing to the catalogue: items are checked, stored, and taken in by every index before they are acknowledged.

The item store is the one truth. Everything that is derived from it follows by the store's own account of what each
index has confirmed, so a crash at any moment is repaired by doing what is still pending, and writers that wait together
share one round of indexing. Indexes are rebuilt as a whole when the schema changes: by new fields, or because the
catalogue has outgrown what its schema was guessed and its priors were measured on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

from services.backends.base import ItemStore
from services.errors import InvalidRequest
from services.lines import Line, stream
from services.schema import check, extend, infer, measure
from services.types import Deadline, Document, Schema

logger = logging.getLogger(__name__)
T = TypeVar("T")

BATCH = 500
"""Items that are checked and stored at a time."""
GROWTH = 2.0
"""A catalogue this many times as large as when it was last measured is measured again ..."""
SETTLED = 20_000
"""... until it was measured on this many items: its constants hardly move any more."""
SAMPLE = 2_000
"""Items that a schema is guessed from. A guess from fewer is revised as the catalogue grows."""
_GET_SECONDS = 5.0


class DerivedIndex(Protocol):
    """Whatever must follow the catalogue: a search index, a vocabulary, predicted queries."""

    @property
    def name(self) -> str:
        """Under which the item store keeps what the index has confirmed; never renamed."""
        ...

    async def stale(self) -> bool:
        """Asked at the start: whether the index needs a rebuild whatever it had confirmed (it is kept in memory alone,
        its files are gone, it was made with another encoder)."""
        ...

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """Searches see it when this returns. Idempotent."""
        ...

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None: ...


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item of a write."""

    line: int
    """From 1: its line, or its place in the array."""
    id: str | None
    status: str
    """accepted | invalid"""
    detail: str | None = None


class Catalogue:
    """`indexes` are brought up to date in the order given. Call `recover` before anything else."""

    def __init__(self, items: ItemStore, indexes: Sequence[DerivedIndex]) -> None:
        self._items = items
        self._indexes = indexes
        self._schema = Schema()
        self._schema_change = asyncio.Lock()
        self._indexing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def schema(self) -> Schema:
        """Empty until the first items came."""
        return self._schema

    async def recover(self) -> None:
        """Repair at the start: rebuild the indexes that need it, give the others what they missed."""
        self._schema = await self._items.schema() or Schema()
        await self._whole(self._settle({index.name for index in self._indexes if await index.stale()}))

    async def set_schema(self, schema: Schema) -> None:
        """Put a given schema in force: every index is rebuilt under it before this returns."""
        async with self._schema_change:
            if replace(schema, stats=self._schema.stats) != self._schema:
                await self._set_schema(schema)
        await self._whole(self._settle())

    async def get(self, object_id: str) -> Document | None:
        found = await self._items.get([object_id], Deadline.after(_GET_SECONDS))
        return found.get(object_id)

    async def put(self, documents: Iterable[Any]) -> list[ItemResult]:
        """Store the valid ones of `documents`, each whole or not at all; of two with one id the last stays. When this
        returns they are on disk and every search sees them. Raises StorageFailed, and what an index raises: then the
        items may be stored, and writing them again is safe."""
        results: list[ItemResult] = []
        lines = (Line(number, document) for number, document in enumerate(documents, 1))
        try:
            while batch := list(islice(lines, BATCH)):
                results += await self._store(batch)
        finally:
            await self._whole(self._settle())
        return results

    async def put_stream(self, chunks: AsyncIterable[bytes]) -> list[ItemResult]:
        """As `put`, from the bytes of an NDJSON or JSON array body: a line that is not JSON is an invalid item."""
        results: list[ItemResult] = []
        try:
            async for batch in _batches(stream(chunks)):
                results += await self._store(batch)
        finally:  # what was stored before the sender broke off is to be found as well
            await self._whole(self._settle())
        return results

    async def delete(self, object_ids: Sequence[str]) -> int:
        """How many were there. When this returns, no search that starts finds them."""
        deleted = await self._items.delete(object_ids)
        await self._whole(self._settle())
        return deleted

    async def close(self) -> None:
        """Wait for the writing that callers have turned away from."""
        await asyncio.gather(*self._running, return_exceptions=True)

    # --- storing --------------------------------------------------------------------------------------------------

    async def _store(self, lines: Sequence[Line]) -> list[ItemResult]:
        """Put the valid items of `lines` into the store; indexes do not know them yet."""
        results = [self._check(line, self._schema) for line in lines]
        schema = self._schema
        changed = await self._fit_schema([document for _, document in results if document is not None])
        if changed is not schema:  # fields that have a role only now
            results = [
                (result, document) if document is None else self._check(Line(result.line, document), changed)
                for result, document in results
            ]
        valid = [document for _, document in results if document is not None]
        if valid:
            await self._items.put(valid)
        return [result for result, _ in results]

    def _check(self, line: Line, schema: Schema) -> tuple[ItemResult, Document | None]:
        try:
            if line.problem is not None:
                raise InvalidRequest(line.problem)
            document = check(schema, line.value)
        except InvalidRequest as error:
            given = line.value.get("id") if isinstance(line.value, dict) else None
            object_id = str(given)[:128] if isinstance(given, (str, int)) else None
            detail = error.detail if object_id is not None else f"line {line.number}: {error.detail}"
            return ItemResult(line.number, object_id, "invalid", detail), None
        return ItemResult(line.number, document["id"], "accepted"), document

    async def _fit_schema(self, documents: Sequence[Document]) -> Schema:
        """The schema in force, grown by the fields that `documents` bring."""
        if not self._schema.inferred or not documents:
            return self._schema
        async with self._schema_change:
            first = not self._schema.fields
            grown = measure(infer(documents), documents) if first else extend(self._schema, documents)
            if grown is not self._schema:
                await self._set_schema(grown)
            return self._schema

    async def _set_schema(self, schema: Schema) -> None:
        await self._items.set_schema(schema)
        self._schema = schema

    # --- indexing -------------------------------------------------------------------------------------------------

    async def _settle(self, stale: Collection[str] = ()) -> None:
        """Bring every index up to date with the store. What writers before us left is done with ours."""
        rebuild = set(stale)
        async with self._indexing:
            while not await self._round(rebuild):
                pass

    async def _round(self, rebuild: set[str]) -> bool:
        """Whether every index got there under one schema; a writer may have changed it meanwhile."""
        # Before the scan: what changes while it goes on is pending after it, and told to the index again.
        sequence = await self._items.sequence()
        count = await self._items.count()
        measured = self._schema.stats.get("items", 0.0)
        documents: list[Document] | None = None
        if measured < SETTLED and count > GROWTH * measured:
            documents = await self._scan()
            await self._measure(documents)
        schema = self._schema
        for index in self._indexes:
            if index.name in rebuild or await self._items.confirmed(index.name) is None:
                documents = await self._scan() if documents is None else documents
                logger.info("rebuilding %s: %d items", index.name, len(documents))
                await index.rebuild(schema, documents)
                if not await self._confirm(index, sequence, schema):
                    return False
                rebuild.discard(index.name)
            if not await self._catch_up(index, schema):
                return False
        return True

    async def _catch_up(self, index: DerivedIndex, schema: Schema) -> bool:
        while True:
            sequence, upserts, deletes = await self._items.pending(index.name)
            if not upserts and not deletes:
                return True
            await index.apply(upserts, deletes)
            if not await self._confirm(index, sequence, schema):
                return False

    async def _confirm(self, index: DerivedIndex, sequence: int, schema: Schema) -> bool:
        """Note what `index` has, unless it has it under a schema that is no longer in force."""
        async with self._schema_change:
            if self._schema is not schema:
                return False
            await self._items.applied(index.name, sequence)
            return True

    async def _measure(self, documents: Sequence[Document]) -> None:
        """Measure the constants of the priors; guess the roles anew if they were guessed from few items."""
        async with self._schema_change:
            schema = self._schema
            if schema.inferred and schema.stats.get("items", 0.0) < SAMPLE:
                # Spread over the catalogue: ids that begin alike are often items that are alike.
                spread = documents[:: max(1, len(documents) // SAMPLE)]
                schema = replace(infer(spread), synonyms=schema.synonyms)
            await self._set_schema(await asyncio.to_thread(measure, schema, documents))

    async def _scan(self) -> list[Document]:
        return [document async for document in self._items.scan()]

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end also when the caller gives up: an index must not be left while its thread goes on."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


async def _batches(lines: AsyncIterable[Line]) -> AsyncIterator[list[Line]]:
    batch: list[Line] = []
    async for line in lines:
        batch.append(line)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

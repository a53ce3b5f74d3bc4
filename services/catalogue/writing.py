"""Catalogue writes: items are validated, stored and indexed before they are acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from services.backends.base import ItemStore
from services.catalogue.current_schema import CurrentSchema
from services.catalogue.index_sync import IndexSync
from services.errors import InvalidRequest, StorageFailed
from services.ndjson import Line, stream
from services.schema.schema import check, extend, infer, measure
from services.types import Deadline, Document, Schema

T = TypeVar("T")

BATCH = 500
"""Items that are checked and stored at a time."""
GET_SECONDS = 5.0
CLOSE_SECONDS = 5.0
STORED = "what was sent is stored, but an index does not answer: searches see it when that is back"


@dataclass(frozen=True, slots=True)
class ItemResult:
    """Outcome of one item of a write."""

    line: int
    """From 1: its line, or its place in the array."""
    id: str | None
    status: str
    """accepted | invalid"""
    detail: str | None = None


class Catalogue:
    """The items and their schema, for code that writes items or reads single ones."""

    def __init__(self, items: ItemStore, schema: CurrentSchema, indexes: IndexSync) -> None:
        self._items = items
        self._schema = schema
        self._indexes = indexes
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def schema(self) -> Schema:
        """The current schema; empty until the first items have been written."""
        return self._schema.value

    async def set_schema(self, schema: Schema) -> None:
        """Make a given schema the current one: every index is rebuilt under it before this returns."""
        await self._schema.change(lambda old: old if replace(schema, stats=old.stats) == old else schema)
        await self._to_the_end(self._sync())

    async def get(self, object_id: str) -> Document | None:
        """The item as stored, or None."""
        found = await self._items.get([object_id], Deadline.after(GET_SECONDS))
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
            await self._to_the_end(self._sync())
        return results

    async def put_stream(self, chunks: AsyncIterable[bytes]) -> list[ItemResult]:
        """Like `put`, for the bytes of an NDJSON or JSON array body; a line that is not JSON is an invalid item."""
        results: list[ItemResult] = []
        try:
            async for batch in _batches(stream(chunks)):
                results += await self._store(batch)
        finally:  # items stored before the sender broke off must be indexed as well
            await self._to_the_end(self._sync())
        return results

    async def delete(self, object_ids: Sequence[str]) -> int:
        """Delete items; returns how many existed. No search that starts after this returns finds them."""
        deleted = await self._items.delete(object_ids)
        await self._to_the_end(self._sync())
        return deleted

    async def close(self) -> None:
        """Wait for writes that their callers have abandoned. Those that still wait for other processes after
        CLOSE_SECONDS are cancelled: the items are stored, and the others will update the indexes."""
        if self._running:
            await asyncio.wait(self._running, timeout=CLOSE_SECONDS)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _sync(self) -> None:
        try:
            await self._indexes.sync()
        except (StorageFailed, TimeoutError) as error:
            raise StorageFailed(f"{STORED} ({error or 'no answer in time'})") from error

    # --- storing --------------------------------------------------------------------------------------------------

    async def _store(self, lines: Sequence[Line]) -> list[ItemResult]:
        """Put the valid items of `lines` into the store; the indexes do not have them yet."""
        schema = self._schema.value
        results = [self._check(line, schema) for line in lines]
        changed = await self._fit_schema([document for _, document in results if document is not None])
        if changed is not schema:  # new fields have got a role
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
        """The current schema, extended by new fields of `documents`."""

        def extended(schema: Schema) -> Schema:
            if not schema.inferred:
                return schema
            return extend(schema, documents) if schema.fields else measure(infer(documents), documents)

        # Checked without the lock first: hardly any write changes the schema.
        if not documents or extended(self._schema.value) is self._schema.value:
            return self._schema.value
        return await self._schema.change(extended)

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end even if the caller is cancelled: an index must not be abandoned while a thread still
        changes it."""
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

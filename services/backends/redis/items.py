"""The ItemStore on Redis: the catalogue as JSON, numbered changes, and which of them each index has applied.

Several processes write. Each caches the documents it used last, and drops those that `changes` reports; what it wrote
itself it drops at once. lua/items_put.lua describes the layout.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, cast

import orjson
from cachetools import LRUCache

from services.backends.redis.server import Redis
from services.schema.schema import from_json, to_json
from services.types import Deadline, Document, Schema

_BATCH_ITEMS = 500
"""Items per script call ..."""
_BATCH_BYTES = 4 * 2**20
"""... unless together they are larger than this: the server does nothing else meanwhile."""
_MIN_COMPRESSED_BYTES = 512
"""Bytes; a shorter body would hardly become any shorter."""
_COMPRESSION_LEVEL = 3
_KEEP_DELETIONS_SECONDS = 86400.0
"""Minimum time that deletions stay among the changes: processes that follow them confirm nothing."""


class RedisItems:
    """The catalogue on `redis`.

    `cached`: how many parsed documents are kept in memory (at least 1), those used last. They are as new as the last
    call of `changes`, which is to be made several times a second.
    """

    def __init__(self, redis: Redis, cached: int = 10_000, deletions_seconds: float = _KEEP_DELETIONS_SECONDS) -> None:
        self._redis = redis
        self._prefix = redis.key("i", "")
        self._deletions_seconds = deletions_seconds
        self._cache: LRUCache[str, Document] = LRUCache(cached)
        self._news = 0
        self._writing = asyncio.Lock()

    # --- documents ---

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The items with these ids that exist, in the order given. The documents are shared with other callers and must
        not be changed. A request that the cache can answer does not reach the server."""
        found: dict[str, Document | None] = {}
        missing = []
        for object_id in dict.fromkeys(object_ids):
            found[object_id] = document = self._cache.get(object_id)
            if (
                document is None and object_id.isprintable()
            ):  # no id holds control characters or halves of surrogate pairs
                missing.append(object_id)
        if missing:
            news = self._news
            # A read that began before the latest changes is not shared: it may return the state before them.
            bodies = await self._redis.read(
                lambda client: cast(Any, client.hmget(f"{self._prefix}bodies", missing)),
                deadline,
                ("items", news, *missing),
            )
            read = {one: _parsed(body) for one, body in zip(missing, bodies, strict=True) if body is not None}
            found.update(read)
            if news == self._news:  # else the read may be older than a write meanwhile
                self._cache.update(read)
        return {object_id: document for object_id, document in found.items() if document is not None}

    async def put(self, documents: Sequence[Document]) -> None:
        """Store items; durable when it returns. Of two documents with one id the last stays. Writing an unchanged item
        is not a change. Raises StorageFailed: then any of them may have been stored."""
        for start in range(0, len(documents), _BATCH_ITEMS):
            chunk = documents[start : start + _BATCH_ITEMS]
            rows = await asyncio.to_thread(_rows, chunk)
            for part in _parts(rows):
                await self._change("items_put", [value for row in part for value in row], [one for one, _ in part])

    async def delete(self, object_ids: Sequence[str]) -> int:
        """Delete items; returns the number that existed. Each script call removes up to 500 atomically."""
        ids = [object_id for object_id in dict.fromkeys(object_ids) if object_id.isprintable()]
        deleted = 0
        for start in range(0, len(ids), _BATCH_ITEMS):
            chunk = ids[start : start + _BATCH_ITEMS]
            deleted += await self._change("items_delete", chunk, chunk)
        return deleted

    async def count(self) -> int:
        """Number of items."""
        return int(await self._redis.read(lambda client: cast(Any, client.hlen(f"{self._prefix}bodies"))))

    async def scan(self) -> AsyncIterator[Document]:
        """Every document, read page by page: items written meanwhile may or may not be included. The cache is as new as
        the scan."""
        self._forget(list(self._cache))
        last = ""
        while page := await self._read_script("items_page", last, _BATCH_ITEMS, _BATCH_BYTES):
            last = page[-2].decode()
            for document in await asyncio.to_thread(_documents, page[1::2]):
                yield document

    # --- what changed ---

    async def sequence(self) -> int:
        """Number of the last change by any process; 0 when there never was one."""
        return int(await self._state("sequence") or 0)

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        """See ItemStore.changes; the items among them leave this process's cache."""
        number, rows = await self._read_script("items_changes", after, _BATCH_ITEMS, _BATCH_BYTES)
        ids = [object_id.decode() for object_id in rows[::2]]
        if ids:
            self._forget(ids)
        bodies = rows[1::2]
        deletes = [object_id for object_id, body in zip(ids, bodies, strict=True) if body is None]
        return int(number), await asyncio.to_thread(_documents, bodies), deletes

    async def confirmed(self, index: str) -> int | None:
        """The number that `index` last confirmed; None when it never did under the active schema."""
        value = await self._redis.read(lambda client: cast(Any, client.hget(f"{self._prefix}confirmed", index)))
        return None if value is None else int(value)

    async def applied(self, index: str, sequence: int) -> None:
        """Confirm; deletions that every index has confirmed are dropped after `deletions_seconds`."""
        await self._write("items_applied", [index, sequence, self._deletions_seconds])

    # --- schema ---

    async def schema(self) -> Schema | None:
        """The stored schema; None when none was."""
        value = await self._state("schema")
        return None if value is None else from_json(orjson.loads(value))

    async def set_schema(self, schema: Schema) -> None:
        """Store the schema. One that differs from the stored schema revokes all confirmations: all indexes need a
        rebuild."""
        await self._write("items_schema", [orjson.dumps(to_json(schema))])

    async def close(self) -> None:
        """Nothing to do: the caller that opened the connection closes it."""

    # --- within ---

    async def _change(self, script: str, arguments: Sequence[str | bytes], object_ids: Sequence[str]) -> Any:
        """Write, then drop what the cache had of these items, even for a caller that gives up in between. One write
        after another: what a caller gave up on must not come after what was written since."""

        async def change() -> Any:
            async with self._writing:
                try:
                    return await self._write(script, arguments)
                finally:
                    self._forget(object_ids)

        return await asyncio.shield(asyncio.ensure_future(change()))

    async def _write(self, script: str, arguments: Sequence[str | bytes | float]) -> Any:
        run = self._redis.script(script)
        return await self._redis.write(
            lambda client: cast(Any, run(keys=[self._prefix], args=arguments, client=client))
        )

    async def _read_script(self, script: str, *arguments: str | int) -> Any:
        run = self._redis.script(script)
        return await self._redis.read(lambda client: cast(Any, run(keys=[self._prefix], args=arguments, client=client)))

    async def _state(self, name: str) -> bytes | None:
        return cast(
            "bytes | None",
            await self._redis.read(lambda client: cast(Any, client.hget(f"{self._prefix}state", name))),
        )

    def _forget(self, object_ids: Sequence[str]) -> None:
        self._news += 1
        for object_id in object_ids:
            self._cache.pop(object_id, None)


def _body(document: Document) -> bytes:
    """JSON, compressed where that saves anything: JSON begins with a brace, and what zlib makes never does."""
    body = orjson.dumps(dict(document))
    if len(body) < _MIN_COMPRESSED_BYTES:
        return body
    return min(body, zlib.compress(body, _COMPRESSION_LEVEL), key=len)


def _rows(documents: Sequence[Document]) -> list[tuple[str, bytes]]:
    return [(str(document["id"]), _body(document)) for document in documents]


def _parsed(body: bytes) -> Document:
    return cast(Document, orjson.loads(body if body.startswith(b"{") else zlib.decompress(body)))


def _documents(bodies: Sequence[bytes | None]) -> list[Document]:
    return [_parsed(body) for body in bodies if body is not None]


def _parts(rows: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """`rows` in portions that one script may take."""
    part: list[tuple[str, bytes]] = []
    size = 0
    for row in rows:
        if part and size + len(row[1]) > _BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row[1])
    if part:
        yield part

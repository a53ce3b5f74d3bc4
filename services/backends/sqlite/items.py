"""The ItemStore in one SQLite file: the catalogue as JSON, and which changes each index has yet to apply.

Every put or delete that changes something gets the next sequence number; `changes` keeps the last one of each item, so
that an index which fell behind (a crash between the store and the index) gets each item once, in its latest state.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
from cachetools import LRUCache

from services.backends.sqlite.database import Database, Work
from services.schema.schema import from_json, to_json
from services.types import Deadline, Document, Schema

T = TypeVar("T")

_TABLES = """
CREATE TABLE IF NOT EXISTS items (id TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS changes (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, also after the last one is gone
    id TEXT NOT NULL UNIQUE,
    deleted INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS deletions ON changes (sequence) WHERE deleted = 1;
CREATE TABLE IF NOT EXISTS confirmed (name TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""
_DROP_OLD_DELETIONS = "DELETE FROM changes WHERE deleted = 1 AND sequence <= (SELECT min(sequence) FROM confirmed);"
"""Deletions that every index has applied are no longer needed. Only when the owner opens the file: while an index is
being rebuilt from an earlier scan, it has confirmed nothing and yet needs them."""
_PAGE_ITEMS = 500
"""Items per read of a scan or of the changes."""


class SqliteItems:
    """The catalogue in the SQLite file `path`; this process alone may write to it. Every method raises StorageFailed
    when the file fails.

    `owner`: whether this process keeps the indexes; a reader beside it is not. `cached`: how many parsed documents are
    kept in memory (at least 1), those used last.
    """

    def __init__(self, path: Path, cached: int = 10_000, owner: bool = True) -> None:
        self._database = Database(path, _TABLES + (_DROP_OLD_DELETIONS if owner else ""))
        self._cache: LRUCache[str, Document] = LRUCache(cached)
        self._writes = 0
        self._count: int | None = None

    async def get(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The items with these ids that exist, in the order given. The documents are shared with other callers and must
        not be changed."""
        found: dict[str, Document | None] = {}
        missing = []
        for object_id in dict.fromkeys(object_ids):
            found[object_id] = document = self._cache.get(object_id)
            if (
                document is None and object_id.isprintable()
            ):  # no id holds control characters or halves of surrogate pairs
                missing.append(object_id)
        if missing:
            writes = self._writes
            read = await self._database.read(lambda connection: _documents(connection, missing), deadline)
            found.update(read)
            if writes == self._writes:  # else the read may be older than a write meanwhile
                self._cache.update(read)
        return {object_id: document for object_id, document in found.items() if document is not None}

    async def put(self, documents: Sequence[Document]) -> None:
        """Store items; durable when it returns. Of two documents with one id the last stays. Writing an unchanged item
        is not a change."""
        rows = [(str(document["id"]), orjson.dumps(dict(document))) for document in documents]
        await self._change(lambda connection: _put(connection, rows), [object_id for object_id, _ in rows])

    async def delete(self, object_ids: Sequence[str]) -> int:
        """Delete items in one transaction; returns the number that existed."""
        ids = [object_id for object_id in dict.fromkeys(object_ids) if object_id.isprintable()]
        return await self._change(lambda connection: _delete(connection, ids), ids)

    async def count(self) -> int:
        """Number of items; counted once, then cached until the next write."""
        if self._count is None:
            writes = self._writes
            count = await self._database.read(lambda c: int(c.execute("SELECT count(*) FROM items").fetchone()[0]))
            if writes != self._writes:
                return count
            self._count = count
        return self._count

    async def scan(self) -> AsyncIterator[Document]:
        """Every document, read page by page: items written meanwhile may or may not be included."""
        last = ""
        while page := await self._database.read(lambda connection, after=last: _page(connection, after)):  # type: ignore[misc]
            for last, document in page:  # noqa: B007
                yield document

    async def schema(self) -> Schema | None:
        """The stored schema; None when none was."""
        value = await self._database.read(
            lambda connection: connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        )
        return None if value is None else from_json(orjson.loads(value[0]))

    async def set_schema(self, schema: Schema) -> None:
        """Store the schema. One that differs from the stored schema revokes all confirmations: all indexes need a
        rebuild."""
        body = orjson.dumps(to_json(schema))
        await self._database.write(lambda connection: _set_schema(connection, body))

    async def sequence(self) -> int:
        """Number of the last change; 0 when there never was one."""
        return await self._database.read(_sequence)

    async def confirmed(self, index: str) -> int | None:
        """The number that `index` last confirmed; None when it never did under the active schema."""
        return await self._database.read(lambda connection: _confirmed(connection, index))

    async def changes(self, after: int) -> tuple[int, list[Document], list[str]]:
        """See ItemStore.changes; up to 500 changes per call."""
        return await self._database.read(lambda connection: _changes(connection, after))

    async def applied(self, index: str, sequence: int) -> None:
        """Confirm that `index` holds every change up to number `sequence`."""
        await self._database.write(lambda connection: _applied(connection, index, sequence))

    async def close(self) -> None:
        """Finish queued reads and writes, then close the file."""
        await self._database.close()

    async def _change(self, work: Work[T], object_ids: Sequence[str]) -> T:
        """Write, then drop what the cache had of these items, even for a caller that gives up in between."""

        async def change() -> T:
            try:
                return await self._database.write(work)
            finally:
                self._writes += 1
                self._count = None
                for object_id in object_ids:
                    self._cache.pop(object_id, None)

        return await asyncio.shield(asyncio.ensure_future(change()))


def _documents(connection: sqlite3.Connection, object_ids: Sequence[str]) -> dict[str, Document]:
    query = "SELECT id, body FROM items WHERE id IN (SELECT value FROM json_each(?))"
    return {object_id: orjson.loads(body) for object_id, body in connection.execute(query, (_array(object_ids),))}


def _put(connection: sqlite3.Connection, rows: Sequence[tuple[str, bytes]]) -> None:
    for object_id, body in rows:
        stored = connection.execute(
            "INSERT INTO items VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body "
            "WHERE body <> excluded.body",
            (object_id, body),
        )
        if stored.rowcount:
            connection.execute("INSERT OR REPLACE INTO changes (id, deleted) VALUES (?, 0)", (object_id,))


def _delete(connection: sqlite3.Connection, object_ids: Sequence[str]) -> int:
    deleted = 0
    for object_id in object_ids:
        if connection.execute("DELETE FROM items WHERE id = ?", (object_id,)).rowcount:
            connection.execute("INSERT OR REPLACE INTO changes (id, deleted) VALUES (?, 1)", (object_id,))
            deleted += 1
    return deleted


def _page(connection: sqlite3.Connection, after: str) -> list[tuple[str, Any]]:
    rows = connection.execute("SELECT id, body FROM items WHERE id > ? ORDER BY id LIMIT ?", (after, _PAGE_ITEMS))
    return [(object_id, orjson.loads(body)) for object_id, body in rows]


def _set_schema(connection: sqlite3.Connection, body: bytes) -> None:
    stored = connection.execute(
        "INSERT INTO meta VALUES ('schema', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
        "WHERE value <> excluded.value",
        (body,),
    )
    if stored.rowcount:
        connection.execute("DELETE FROM confirmed")


def _sequence(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return 0 if row is None else int(row[0])


def _confirmed(connection: sqlite3.Connection, index: str) -> int | None:
    row = connection.execute("SELECT sequence FROM confirmed WHERE name = ?", (index,)).fetchone()
    return None if row is None else int(row[0])


def _changes(connection: sqlite3.Connection, after: int) -> tuple[int, list[Document], list[str]]:
    rows = connection.execute(
        "SELECT sequence, changes.id, body FROM changes LEFT JOIN items ON items.id = changes.id "
        "WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, _PAGE_ITEMS),
    ).fetchall()
    upserts = [orjson.loads(body) for _, _, body in rows if body is not None]
    return (rows[-1][0] if rows else after), upserts, [object_id for _, object_id, body in rows if body is None]


def _applied(connection: sqlite3.Connection, index: str, sequence: int) -> None:
    connection.execute("INSERT OR REPLACE INTO confirmed VALUES (?, ?)", (index, sequence))


def _array(texts: Sequence[str]) -> str:
    return orjson.dumps(texts).decode()

"""The MemoryIndex in one SQLite file: Q2E scores per query, predicted ones beside them, and users' histories.

Changes from the log are applied to the tables by memory_changes.py; this module reads them, and writes predictions.
"""
# ruff: noqa: S608 - names of tables and columns are literals of this file; values are always parameters

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path

from services.backends.base import MemoryChange, MemoryRow
from services.backends.sqlite.database import Database
from services.backends.sqlite.memory_changes import TABLES, Changes, link, marks, set_state, state, unlink
from services.backends.sqlite.memory_rows import READINGS, put
from services.errors import StorageFailed
from services.memory.keys import KEYS_PER_VARIANT, by_key, nearest, shared_variants
from services.memory.limits import DEFAULT_LIMITS, MemoryLimits
from services.memory.scores import decay, recollect
from services.types import Deadline, Person, Remembered

_MIN_SELECTIVE_CHARS = 3
_PREDICT_BATCH = 500
"""Items whose predictions share a transaction; the learner's writes get in between."""
_ROWS_BATCH = 1000


class SqliteMemory:
    """The memory in the SQLite file `path`; this process alone writes to it.

    half_life: seconds of log time after which a weight counts half.
    """

    def __init__(self, path: Path, half_life: float, limits: MemoryLimits = DEFAULT_LIMITS) -> None:
        self._path = path
        self._database = Database(path, TABLES)
        self._half_life = half_life
        self._limits = limits
        self._changes = Changes(half_life, limits)

    # --- reading ---

    async def remembered(self, key: str, limit: int, deadline: Deadline) -> list[Remembered]:
        """See MemoryIndex.remembered; all rows come from the same state of the file."""
        if not key or limit < 1:
            return []
        return await self._database.read(lambda connection: self._remembered(connection, key, limit), deadline)

    async def person(self, person: str, limit: int, deadline: Deadline) -> Person:
        """The latest `limit` entries of a user's or session's history, newest first."""

        def work(connection: sqlite3.Connection) -> Person:
            rows = connection.execute(
                "SELECT object_id, weight, at FROM histories WHERE person = ? ORDER BY used DESC LIMIT ?",
                (person, limit),
            )
            return Person(person, tuple(rows))

        return await self._database.read(work, deadline)

    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """Past queries (normalised text) that begin with `prefix`, most frequent first, with their decayed counts."""
        # A short prefix has many texts: walk down all texts by rank until enough begin with it. A long one has few:
        # go through those (the + keeps SQLite from using the rank index).
        order = "rank" if len(prefix) < _MIN_SELECTIVE_CHARS else "+rank"

        def work(connection: sqlite3.Connection) -> list[tuple[str, float]]:
            now = state(connection, "at")
            rows = connection.execute(
                f"SELECT text, asked, at FROM texts WHERE text >= ? AND text < ? ORDER BY {order} DESC, text LIMIT ?",
                (prefix, prefix + "\U0010ffff", limit),
            )
            return [(text, asked * decay(now - at, self._half_life)) for text, asked, at in rows]

        return await self._database.read(work, deadline)

    async def offset(self) -> int:
        """The committed offset of the event log; 0 at first."""
        return await self._database.read(lambda connection: int(state(connection, "offset")))

    def _remembered(self, connection: sqlite3.Connection, key: str, limit: int) -> list[Remembered]:
        near = _nearest(connection, key, self._limits.neighbours)
        now = state(connection, "at")
        places = marks(near)
        shown = {
            k: weight * decay(now - at, self._half_life)
            for k, weight, at in connection.execute(f"SELECT key, shown, at FROM queries WHERE key IN ({places})", near)
        }
        actual = (
            (k, object_id, clicks * decay(now - at, self._half_life))
            for k, object_id, clicks, at in connection.execute(
                f"SELECT key, object_id, clicks, at FROM scores WHERE key IN ({places})", near
            )
        )
        predicted = connection.execute(f"SELECT key, object_id, score FROM predictions WHERE key IN ({places})", near)
        return recollect(key, shown, actual, predicted, limit)

    # --- writing: what the log says ---

    async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
        """Apply in order and commit `offset`, in one transaction. Offsets up to the committed one are ignored."""

        def work(connection: sqlite3.Connection) -> None:
            if offset <= state(connection, "offset"):
                return
            for change in changes:
                self._changes.apply(connection, change)
            set_state(connection, "offset", offset)

        await self._database.write(work)

    # --- writing: what the catalogue says ---

    async def predict(self, predictions: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        """See MemoryIndex.predict; one transaction per 500 items."""
        items = list(predictions.items())
        for start in range(0, len(items), _PREDICT_BATCH):
            chunk = items[start : start + _PREDICT_BATCH]
            await self._database.write(partial(self._predict, chunk))

    def _predict(
        self, predictions: Sequence[tuple[str, Sequence[tuple[str, float]]]], connection: sqlite3.Connection
    ) -> None:
        for object_id, queries in predictions:
            keys = by_key(queries)
            before = connection.execute("SELECT key FROM predictions WHERE object_id = ?", (object_id,)).fetchall()
            connection.execute("DELETE FROM predictions WHERE object_id = ?", (object_id,))
            for (key,) in before:
                if key not in keys:
                    unlink(connection, key)
            for key, predicted in keys.items():
                connection.execute("INSERT INTO predictions VALUES (?, ?, ?)", (key, object_id, predicted))
                link(connection, key)
                connection.execute(
                    "DELETE FROM predictions WHERE key = ? AND object_id IN (SELECT object_id FROM predictions"
                    " WHERE key = ? ORDER BY score DESC, object_id LIMIT -1 OFFSET ?)",
                    (key, key, self._limits.items_per_query),
                )

    async def forget_items(self, object_ids: Sequence[str]) -> None:
        """See MemoryIndex.forget_items. Histories keep their entries, because deleted items often return."""

        def work(connection: sqlite3.Connection) -> None:
            for object_id in object_ids:
                keys = connection.execute(
                    "SELECT key FROM scores WHERE object_id = ? UNION SELECT key FROM predictions WHERE object_id = ?",
                    (object_id, object_id),
                ).fetchall()
                for table in ("scores", "predictions"):
                    connection.execute(f"DELETE FROM {table} WHERE object_id = ?", (object_id,))
                for (key,) in keys:
                    connection.execute("DELETE FROM contributions WHERE key = ? AND object_id = ?", (key, object_id))
                    unlink(connection, key)

        await self._database.write(work)

    # --- for backups ---

    async def rows(self) -> AsyncGenerator[list[MemoryRow], None]:
        """See MemoryIndex.rows. Reads on a connection of its own, with a snapshot of the file while others write."""
        connection: sqlite3.Connection | None = None
        try:
            connection = await asyncio.to_thread(
                sqlite3.connect, self._path, isolation_level=None, check_same_thread=False
            )
            connection.execute("BEGIN")
            for name, query in READINGS.items():
                cursor = await asyncio.to_thread(connection.execute, query)
                while found := await asyncio.to_thread(cursor.fetchmany, _ROWS_BATCH):
                    yield [(name, *row) for row in found]
        except sqlite3.Error as error:
            raise StorageFailed(f"{self._path.name}: {error}") from error
        finally:
            if connection is not None:
                connection.close()

    async def put_rows(self, rows: Sequence[MemoryRow]) -> None:
        """See MemoryIndex.put_rows; one transaction per call."""
        await self._database.write(lambda connection: put(connection, self._changes, rows))

    async def close(self) -> None:
        """Finish queued reads and writes, then close the file."""
        await self._database.close()


def _nearest(connection: sqlite3.Connection, key: str, most: int) -> list[str]:
    """`key`, then the keys nearest to it."""
    sharing: set[str] = set()
    for variant in (key, *shared_variants(key)) if most > 0 else ():
        rows = connection.execute("SELECT key FROM neighbours WHERE variant = ? LIMIT ?", (variant, KEYS_PER_VARIANT))
        sharing.update(row[0] for row in rows)
    return nearest(key, sharing, most)

"""The StateStore in one SQLite file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import orjson

from services.backends.sqlite.database import Database

_TABLES = "CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"


class SqliteState:
    """Switches in the SQLite file `path`. Reads and writes raise StorageFailed when the file fails."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _TABLES)

    async def get(self, key: str) -> Any | None:
        """The value of `key`; None when it was never set."""

        def work(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            return None if row is None else row[0]

        value = await self._database.read(work)
        return None if value is None else orjson.loads(value)

    async def set(self, key: str, value: Any) -> None:
        """Set a value; durable when this returns. Raises ValueError for a value that is not JSON."""
        try:
            body = orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise ValueError(f"the value of {key} is not JSON: {error}") from error
        await self._database.write(
            lambda connection: connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, body)).rowcount
        )

    async def all(self) -> dict[str, Any]:
        """Everything that was ever set."""
        rows = await self._database.read(lambda c: c.execute("SELECT key, value FROM state").fetchall())
        return {key: orjson.loads(value) for key, value in rows}

    async def close(self) -> None:
        """Finish queued reads and writes, then close the file."""
        await self._database.close()

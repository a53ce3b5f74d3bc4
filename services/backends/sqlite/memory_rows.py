"""The tables of the memory as rows that every MemoryIndex can take (see MemoryRow), and back."""
# ruff: noqa: S608 - names of tables and columns are literals of this file; values are always parameters

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from services.backends.base import MemoryRow
from services.backends.sqlite.memory_changes import Changes, count_rows, link, set_state

_TABLES = {
    "query": ("queries", "key, shown, at, used"),
    "text": ("texts", "text, key, asked, at"),
    "asker": ("askers", "text, principal, weight, at, used"),
    "score": ("scores", "key, object_id, clicks, at"),
    "contribution": ("contributions", "key, object_id, principal, weight, at, used"),
    "person": ("people", "person, used"),
    "history": ("histories", "person, used, object_id, weight, at"),
}
READINGS: dict[str, str] = {
    **{name: f"SELECT {columns} FROM {table} ORDER BY 1, 2" for name, (table, columns) in _TABLES.items()},
    "state": "SELECT coalesce(max(value) FILTER (WHERE name = 'offset'), 0), coalesce(max(value) FILTER"
    " (WHERE name = 'used'), 0), coalesce(max(value) FILTER (WHERE name = 'at'), 0.0) FROM state",
}
"""Name of the rows -> the query that reads them, in the order in which they are to be put back."""
_COUNTED = ("queries", "people")


def put(connection: sqlite3.Connection, changes: Changes, rows: Sequence[MemoryRow]) -> None:
    """Insert rows of another memory, in the order of READINGS, within the caller's transaction."""
    for name, *values in rows:
        if name == "state":
            for key, value in zip(("offset", "used", "at"), values, strict=True):
                set_state(connection, key, value)
        elif name == "text":
            changes.put_text(connection, *values)
        else:
            table, columns = _TABLES[name]
            places = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)
            if table in _COUNTED:
                count_rows(connection, table, 1)
            if name == "score":
                link(connection, values[0])

"""Applies one change to the tables of the memory: totals, contributions to them, and users' histories.

Every weight is stored with its time (`at`, log time) and decays from there when it is next touched or read, so nothing
has to be swept. The effect of a change depends on the stored state and the change alone, never on the clock or on how
changes were grouped: the same log gives the same tables, bit by bit.

Contributions of a principal are stored beside the totals, so that they can be capped and removed again. Where these
would grow without bound (very many users on one query), the oldest contribution loses its name and stays in the total.
"""
# ruff: noqa: S608 - names of tables and columns are literals of this file; values are always parameters

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.backends.base import MemoryChange
from services.memory.keys import variants
from services.memory.limits import NEGLIGIBLE_WEIGHT, MemoryLimits
from services.memory.scores import decay

TABLES = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value NUMERIC NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queries (key TEXT PRIMARY KEY, shown REAL NOT NULL, at REAL NOT NULL, used INTEGER NOT NULL)
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS queries_used ON queries (used);
CREATE TABLE IF NOT EXISTS texts (text TEXT PRIMARY KEY, key TEXT NOT NULL, asked REAL NOT NULL, at REAL NOT NULL,
    rank REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS texts_rank ON texts (rank);
CREATE INDEX IF NOT EXISTS texts_key ON texts (key);
CREATE TABLE IF NOT EXISTS askers (text TEXT, principal TEXT, weight REAL NOT NULL, at REAL NOT NULL,
    used INTEGER NOT NULL, PRIMARY KEY (text, principal)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS askers_principal ON askers (principal);
CREATE TABLE IF NOT EXISTS scores (key TEXT, object_id TEXT, clicks REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (key, object_id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS scores_object ON scores (object_id);
CREATE TABLE IF NOT EXISTS contributions (key TEXT, object_id TEXT, principal TEXT, weight REAL NOT NULL,
    at REAL NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (key, object_id, principal)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS contributions_principal ON contributions (principal);
CREATE TABLE IF NOT EXISTS predictions (key TEXT, object_id TEXT, score REAL NOT NULL, PRIMARY KEY (key, object_id))
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_object ON predictions (object_id);
CREATE TABLE IF NOT EXISTS neighbours (variant TEXT, key TEXT, PRIMARY KEY (variant, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS people (person TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS people_used ON people (used);
CREATE TABLE IF NOT EXISTS histories (person TEXT, used INTEGER, object_id TEXT NOT NULL, weight REAL NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (person, used)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """Applies changes within a transaction that the caller opened."""

    half_life: float
    limits: MemoryLimits

    def apply(self, connection: sqlite3.Connection, change: MemoryChange) -> None:
        """Apply one change of the log, within the caller's transaction."""
        used = int(state(connection, "used")) + 1
        set_state(connection, "used", used)
        set_state(connection, "at", max(state(connection, "at"), change.at))
        if change.shown is not None:
            self._shown(connection, *change.shown, change.shown_to, change.at, used)
        if change.action is not None:
            self._action(connection, *change.action, change.at, used)
        if change.history is not None:
            self._remember(connection, *change.history, change.at, used)
        if change.forget_user is not None:
            self._forget(connection, f"u:{change.forget_user}")

    def _shown(self, connection: sqlite3.Connection, key: str, text: str, principal: str, at: float, used: int) -> None:
        self._use(connection, key, at, used)
        added = self._contribute(connection, "askers", {"text": text}, principal, 1.0, at, used)
        row = connection.execute("SELECT asked, at FROM texts WHERE text = ?", (text,)).fetchone()
        self.put_text(connection, text, key, *self._add(row, added, at))
        if row is None:
            self._drop_least(connection, "texts", "text", "asked", key, text, self.limits.texts_per_query)
        row = connection.execute("SELECT shown, at FROM queries WHERE key = ?", (key,)).fetchone()
        connection.execute("UPDATE queries SET shown = ?, at = ? WHERE key = ?", (*self._add(row, added, at), key))

    def _action(
        self,
        connection: sqlite3.Connection,
        key: str,
        object_id: str,
        principal: str,
        weight: float,
        at: float,
        used: int,
    ) -> None:
        self._use(connection, key, at, used)
        pair = {"key": key, "object_id": object_id}
        added = self._contribute(connection, "contributions", pair, principal, weight, at, used)
        row = connection.execute(
            "SELECT clicks, at FROM scores WHERE key = ? AND object_id = ?", (key, object_id)
        ).fetchone()
        connection.execute(
            "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", (key, object_id, *self._add(row, added, at))
        )
        if row is None:
            link(connection, key)
            self._drop_least(connection, "scores", "object_id", "clicks", key, object_id, self.limits.items_per_query)

    def _remember(
        self, connection: sqlite3.Connection, person: str, object_id: str, weight: float, at: float, used: int
    ) -> None:
        if connection.execute("UPDATE people SET used = ? WHERE person = ?", (used, person)).rowcount == 0:
            connection.execute("INSERT INTO people VALUES (?, ?)", (person, used))
            if count_rows(connection, "people", 1) > self.limits.people:
                oldest = connection.execute("SELECT person FROM people ORDER BY used LIMIT 1").fetchone()[0]
                _forget_person(connection, oldest)
        connection.execute("INSERT INTO histories VALUES (?, ?, ?, ?, ?)", (person, used, object_id, weight, at))
        connection.execute(
            "DELETE FROM histories WHERE person = ? AND used <= (SELECT used FROM histories WHERE person = ?"
            " ORDER BY used DESC LIMIT 1 OFFSET ?)",
            (person, person, self.limits.history),
        )

    def _use(self, connection: sqlite3.Connection, key: str, at: float, used: int) -> None:
        """Mark `key` as just used, making room for it when it is new."""
        if connection.execute("UPDATE queries SET used = ? WHERE key = ?", (used, key)).rowcount:
            return
        connection.execute("INSERT INTO queries VALUES (?, 0.0, ?, ?)", (key, at, used))
        if count_rows(connection, "queries", 1) > self.limits.queries:
            oldest = connection.execute("SELECT key FROM queries ORDER BY used LIMIT 1").fetchone()[0]
            for text in connection.execute("SELECT text FROM texts WHERE key = ?", (oldest,)).fetchall():
                connection.execute("DELETE FROM askers WHERE text = ?", text)
            for table in ("texts", "scores", "contributions", "queries"):
                connection.execute(f"DELETE FROM {table} WHERE key = ?", (oldest,))
            count_rows(connection, "queries", -1)
            unlink(connection, oldest)

    def _contribute(
        self,
        connection: sqlite3.Connection,
        table: str,
        place: Mapping[str, str],
        principal: str,
        weight: float,
        at: float,
        used: int,
    ) -> float:
        """Add to the contribution of `principal` at `place`, up to the cap; returns the change of the total.

        Contributions of an unknown principal ("") are neither stored by name nor capped together.
        """
        if not principal:
            return max(-self.limits.principal_cap, min(self.limits.principal_cap, weight))
        where = " AND ".join(f"{column} = ?" for column in place)
        row = connection.execute(
            f"SELECT weight, at FROM {table} WHERE {where} AND principal = ?", (*place.values(), principal)
        ).fetchone()
        before, _ = self._add(row, 0.0, at)
        after, at = self._add(row, weight, at)
        after = max(-self.limits.principal_cap, min(self.limits.principal_cap, after))
        connection.execute(
            f"INSERT OR REPLACE INTO {table} VALUES ({marks(place)}, ?, ?, ?, ?)",
            (*place.values(), principal, after, at, used),
        )
        if row is None:
            connection.execute(
                f"DELETE FROM {table} WHERE {where} AND used <= (SELECT used FROM {table} WHERE {where}"
                " ORDER BY used DESC LIMIT 1 OFFSET ?)",
                (*place.values(), *place.values(), self.limits.names_per_total),
            )
        return after - before

    def _add(self, row: tuple[float, float] | None, weight: float, at: float) -> tuple[float, float]:
        """(weight, at) after adding `weight` of time `at` to a stored one; the later of both times counts."""
        if row is None:
            return weight, at
        stored, since = row
        if at >= since:
            return stored * decay(at - since, self.half_life) + weight, at
        return stored + weight * decay(since - at, self.half_life), since

    def put_text(self, connection: sqlite3.Connection, text: str, key: str, asked: float, at: float) -> None:
        """Store a text. `rank` orders texts by their weight at any moment: log2 of the weight plus time in
        half-lives."""
        rank = math.log2(max(asked, NEGLIGIBLE_WEIGHT)) + at / self.half_life
        connection.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?, ?, ?)", (text, key, asked, at, rank))

    def _drop_least(
        self, connection: sqlite3.Connection, table: str, column: str, weight: str, key: str, new: str, keep: int
    ) -> None:
        """Leave the `keep` rows of a query that weigh most now, and the new one, which had no time to gain weight."""
        rows = connection.execute(
            f"SELECT {column}, {weight}, at FROM {table} WHERE key = ? AND {column} <> ?", (key, new)
        ).fetchall()
        if len(rows) < keep:
            return
        now = max(at for _, _, at in rows)
        rows.sort(key=lambda row: (-row[1] * decay(now - row[2], self.half_life), row[0]))
        for name, _, _ in rows[keep - 1 :]:
            connection.execute(f"DELETE FROM {table} WHERE key = ? AND {column} = ?", (key, name))
            if table == "texts":
                connection.execute("DELETE FROM askers WHERE text = ?", (name,))
            else:
                connection.execute("DELETE FROM contributions WHERE key = ? AND object_id = ?", (key, name))

    def _forget(self, connection: sqlite3.Connection, principal: str) -> None:
        """Remove the contributions of `principal`; a query or score without any other contributor is deleted."""
        touched: set[str] = set()
        for key, object_id, weight, at in connection.execute(
            "SELECT key, object_id, weight, at FROM contributions WHERE principal = ?", (principal,)
        ).fetchall():
            touched.add(key)
            where = (key, object_id)
            row = connection.execute("SELECT clicks, at FROM scores WHERE key = ? AND object_id = ?", where).fetchone()
            clicks, since = self._add(row, -weight, at)
            others = connection.execute(
                "SELECT 1 FROM contributions WHERE key = ? AND object_id = ? AND principal <> ?", (*where, principal)
            ).fetchone()
            if others is None and abs(clicks) < NEGLIGIBLE_WEIGHT:
                connection.execute("DELETE FROM scores WHERE key = ? AND object_id = ?", where)
                unlink(connection, key)
            else:
                connection.execute(
                    "UPDATE scores SET clicks = ?, at = ? WHERE key = ? AND object_id = ?", (clicks, since, *where)
                )
        connection.execute("DELETE FROM contributions WHERE principal = ?", (principal,))
        for text, weight, at in connection.execute(
            "SELECT text, weight, at FROM askers WHERE principal = ?", (principal,)
        ).fetchall():
            found = connection.execute("SELECT key, asked, at FROM texts WHERE text = ?", (text,)).fetchone()
            if found is None:  # removed with another user, the only other contributor
                continue
            key, *row = found
            touched.add(key)
            asked, since = self._add((row[0], row[1]), -weight, at)
            if asked < NEGLIGIBLE_WEIGHT:
                connection.execute("DELETE FROM texts WHERE text = ?", (text,))
                connection.execute("DELETE FROM askers WHERE text = ?", (text,))
            else:
                self.put_text(connection, text, key, asked, since)
            row = connection.execute("SELECT shown, at FROM queries WHERE key = ?", (key,)).fetchone()
            shown, since = self._add((row[0], row[1]), -weight, at)
            connection.execute("UPDATE queries SET shown = ?, at = ? WHERE key = ?", (max(0.0, shown), since, key))
        connection.execute("DELETE FROM askers WHERE principal = ?", (principal,))
        for key in touched:
            kept = "SELECT 1 FROM texts WHERE key = ? UNION ALL SELECT 1 FROM scores WHERE key = ? LIMIT 1"
            if connection.execute(kept, (key, key)).fetchone() is None:
                connection.execute("DELETE FROM queries WHERE key = ?", (key,))
                count_rows(connection, "queries", -1)
        if connection.execute("SELECT 1 FROM people WHERE person = ?", (principal,)).fetchone():
            _forget_person(connection, principal)


def marks(values: Sequence[str] | Mapping[str, str]) -> str:
    """A parameter mark per value, for SQL lists: `?, ?, ?`."""
    return ", ".join("?" * len(values))


def state(connection: sqlite3.Connection, name: str) -> float:
    """The number kept under `name`; 0 when there is none."""
    row = connection.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return 0.0 if row is None else row[0]


def set_state(connection: sqlite3.Connection, name: str, value: float) -> None:
    """Keep `value` under `name`."""
    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))


def count_rows(connection: sqlite3.Connection, table: str, change: int) -> int:
    """Rows of a table, kept as a number because SQLite would count them one by one."""
    count = int(state(connection, table)) + change
    set_state(connection, table, count)
    return count


def link(connection: sqlite3.Connection, key: str) -> None:
    """Make `key` findable from its neighbours, because it has an item."""
    connection.executemany("INSERT OR IGNORE INTO neighbours VALUES (?, ?)", [(v, key) for v in variants(key)])


def unlink(connection: sqlite3.Connection, key: str) -> None:
    """Undo `link` when `key` has no item any more."""
    for table in ("scores", "predictions"):
        if connection.execute(f"SELECT 1 FROM {table} WHERE key = ? LIMIT 1", (key,)).fetchone():
            return
    connection.executemany("DELETE FROM neighbours WHERE variant = ? AND key = ?", [(v, key) for v in variants(key)])


def _forget_person(connection: sqlite3.Connection, person: str) -> None:
    connection.execute("DELETE FROM histories WHERE person = ?", (person,))
    connection.execute("DELETE FROM people WHERE person = ?", (person,))
    count_rows(connection, "people", -1)

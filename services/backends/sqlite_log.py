"""The EventLog in one SQLite file: the log itself, and what is needed to count every event once.

All writing happens on the one writer thread of `Database`, a transaction a call, so offsets have no gaps and the
duplicate check and the append are one step. Times in the log never decrease: a record's `at` is raised to that of the
record before it when a clock went back, so that windows measured in log time close in log order.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from services.backends.base import Forget, Record
from services.backends.sqlite import Database
from services.codec import decode, encode, forgotten, kind_of
from services.errors import RecordDamaged
from services.types import Deadline, EventStatus, Impression, Interaction

REMEMBER = 25 * 3600.0
"""Seconds of log time for which event ids are remembered: 24 h as promised, and an hour for clocks that disagree. The
longest life of a query id that the settings allow is 24 h, so an id outlives no event of its answer."""

_TABLES = """
CREATE TABLE IF NOT EXISTS log (
    offset INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    at REAL NOT NULL,
    query_id TEXT,
    user_id TEXT,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS impressions ON log (query_id) WHERE kind = 1;
CREATE INDEX IF NOT EXISTS answers ON log (query_id) WHERE kind = 2;
CREATE INDEX IF NOT EXISTS people ON log (user_id) WHERE user_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS counted (
    number INTEGER PRIMARY KEY,
    query_id TEXT NOT NULL,
    object_id TEXT NOT NULL, -- '' for actions without an object: NULLs would never be equal to each other
    action_name TEXT NOT NULL,
    at REAL NOT NULL,
    UNIQUE (query_id, object_id, action_name)
);
"""
_STORED = (EventStatus.ACCEPTED, EventStatus.LATE)
_FORGET_AT_ONCE = 200
"""Records blanked in one transaction: other writers wait for no more than these."""


class SqliteLog:
    """The log in the SQLite file `path`; this process alone may write to it.

    `recent`: how many impressions just appended are kept in memory, for the feedback and the pages that follow at once.
    """

    def __init__(self, path: Path, remember: float = REMEMBER, recent: int = 256) -> None:
        self._database = Database(path, _TABLES)
        self._remember = remember
        self._capacity = recent
        self._recent: OrderedDict[str, Impression] = OrderedDict()

    async def append(self, record: Record) -> int:
        """Raises ValueError when the record cannot be encoded or its query_id was logged before. Feedback appended here
        rather than by `accept` is not checked for duplicates."""
        try:
            offset, stored = await self._database.write(lambda connection: _append(connection, record))
        except sqlite3.IntegrityError as error:
            raise ValueError("an impression of this query_id is in the log already") from error
        if isinstance(stored, Impression):
            self._recent[stored.query_id] = stored
            if len(self._recent) > self._capacity:
                self._recent.popitem(last=False)
        return offset

    async def accept(self, interactions: Sequence[tuple[Interaction, str]]) -> list[str]:
        if not interactions:
            return []

        def work(connection: sqlite3.Connection) -> list[str]:
            statuses = [_accept(connection, interaction, digest) for interaction, digest in interactions]
            _prune(connection, self._remember, 2 * len(interactions))
            return statuses

        return await self._database.write(work)

    async def impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        """Raises TimeoutError, RecordDamaged, StorageFailed."""
        known = self._recent.get(query_id)
        if known is not None:
            return known

        def work(connection: sqlite3.Connection) -> Impression | None:
            row = connection.execute(
                "SELECT offset, body FROM log WHERE kind = 1 AND query_id = ?", (query_id,)
            ).fetchone()
            found = None if row is None else _decode(*row)
            return found if isinstance(found, Impression) else None

        return await self._database.read(work, deadline)

    async def interactions(self, query_id: str, deadline: Deadline) -> list[Interaction]:
        """Raises TimeoutError, RecordDamaged, StorageFailed."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, body FROM log WHERE kind = 2 AND query_id = ? ORDER BY offset", (query_id,)
            ).fetchall(),
            deadline,
        )
        return [record for record in (_decode(*row) for row in rows) if isinstance(record, Interaction)]

    async def read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        """Records with offset > after, in order, up to a damaged one; RecordDamaged (its `offset` says which) when the
        first of them is damaged, so that a reader can count it and go on behind it."""

        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, body FROM log WHERE offset > ? ORDER BY offset LIMIT ?", (after, limit)
            ).fetchall()
        )
        # Not on the reading thread: a long batch would hold up the look-ups of searches and feedback.
        return await asyncio.to_thread(_decode_all, rows)

    async def end(self) -> tuple[int, float]:
        return await self._database.read(_end)

    async def forget(self, user_id: str, at: float) -> int:
        """Blank the person in past records (see services.codec.forgotten) and append a Forget; how many were blanked.

        Works in short transactions, so that others can write in between; after a crash half-way, call it again.
        """
        pseudonym = f"forgotten-{secrets.token_hex(8)}"
        blanked = 0
        while True:
            count, last = await self._database.write(lambda c: _forget(c, user_id, pseudonym, at))
            blanked += count
            for query_id in [q for q, impression in self._recent.items() if impression.user_id == user_id]:
                del self._recent[query_id]
            if last:
                break
        # What was blanked also leaves the write-ahead log.
        await self._database.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        return blanked

    async def close(self) -> None:
        await self._database.close()


def _end(connection: sqlite3.Connection) -> tuple[int, float]:
    row = connection.execute("SELECT offset, at FROM log ORDER BY offset DESC LIMIT 1").fetchone()
    return (0, 0.0) if row is None else (row[0], row[1])


def _append(connection: sqlite3.Connection, record: Record) -> tuple[int, Record]:
    last, at = _end(connection)
    if record.at < at:
        record = replace(record, at=at)
    offset = last + 1
    connection.execute(
        "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)",
        (
            offset,
            kind_of(record),
            record.at,
            record.query_id if isinstance(record, Impression | Interaction) else None,
            record.user_id if isinstance(record, Impression | Interaction) else None,
            encode(record),
        ),
    )
    return offset, record


def _accept(connection: sqlite3.Connection, interaction: Interaction, digest: str) -> str:
    known = connection.execute("SELECT digest FROM events WHERE event_id = ?", (interaction.event_id,)).fetchone()
    if known is not None:
        return EventStatus.DUPLICATE if known[0] == digest else EventStatus.INVALID
    if interaction.status not in _STORED:
        return interaction.status
    at = max(interaction.at, _end(connection)[1])
    connection.execute("INSERT INTO events (event_id, digest, at) VALUES (?, ?, ?)", (interaction.event_id, digest, at))
    if interaction.query_id is not None:
        key = (interaction.query_id, interaction.object_id or "", interaction.action_name)
        taken = "SELECT 1 FROM counted WHERE query_id = ? AND object_id = ? AND action_name = ?"
        if connection.execute(taken, key).fetchone() is not None:
            return EventStatus.DUPLICATE
        if interaction.status == EventStatus.ACCEPTED:
            connection.execute(
                "INSERT INTO counted (query_id, object_id, action_name, at) VALUES (?, ?, ?, ?)", (*key, at)
            )
    _append(connection, interaction)
    return interaction.status


def _prune(connection: sqlite3.Connection, remember: float, most: int) -> None:
    """Drop what is older than `remember`, a few rows a call. Rows are in the order of time: the oldest come first."""
    until = _end(connection)[1] - remember
    for table in ("events", "counted"):
        connection.execute(
            f"DELETE FROM {table} WHERE number < (SELECT min(number) FROM {table}) + ? AND at < ?",  # noqa: S608
            (most, until),
        )


def _forget(connection: sqlite3.Connection, user_id: str, pseudonym: str, at: float) -> tuple[int, bool]:
    """Blank some records of the user; (how many, whether these were the last, so that the Forget was appended)."""
    rows = connection.execute(
        "SELECT offset, body FROM log WHERE user_id = ? LIMIT ?", (user_id, _FORGET_AT_ONCE)
    ).fetchall()
    for offset, body in rows:
        try:
            blank = encode(forgotten(decode(body), pseudonym))
        except RecordDamaged:
            blank = b""  # Nothing in it can be told apart any more, so all of it goes.
        connection.execute("UPDATE log SET user_id = NULL, body = ? WHERE offset = ?", (blank, offset))
    last = len(rows) < _FORGET_AT_ONCE
    if last:
        _append(connection, Forget(user_id, at))
    return len(rows), last


def _decode(offset: int, body: bytes) -> Record:
    try:
        return decode(body)
    except RecordDamaged as error:
        error.offset = offset
        raise


def _decode_all(rows: Sequence[tuple[int, bytes]]) -> list[tuple[int, Record]]:
    records: list[tuple[int, Record]] = []
    for offset, body in rows:
        try:
            records.append((offset, _decode(offset, body)))
        except RecordDamaged:
            if not records:
                raise
            break
    return records

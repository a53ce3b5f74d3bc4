"""The EventLog in one SQLite file: the log itself, and the data needed to count every event once.

All writing happens on the one writer thread of `Database`, a transaction a call, so offsets have no gaps and the
duplicate check and the append are one step. Times in the log never decrease: a record's `at` is raised to that of the
record before it when a clock went back, so that windows measured in log time close in log order.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from services.backends.base import Counted, Entry, Forget, Known, Record
from services.backends.log_codec import decode, encode, forgotten, kind_of
from services.backends.log_records import (
    COPY_BATCH,
    KNOWN_BATCH,
    MAX_DEAD_LETTERS,
    MAX_TRIM_STEPS,
    REMEMBER_SECONDS,
    STORED_STATUSES,
    TRIM_BATCH,
    RecentImpressions,
    Row,
    decode_row,
    decode_rows,
)
from services.backends.sqlite.database import Database
from services.errors import RecordDamaged
from services.types import Deadline, EventStatus, Impression, Interaction

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
CREATE TABLE IF NOT EXISTS dead (
    number INTEGER PRIMARY KEY,
    offset INTEGER NOT NULL UNIQUE,
    reason TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS consumers (name TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
"""
_FORGET_BATCH = 200
"""Records blanked in one transaction, for which other writers have to wait."""


class SqliteLog:
    """The log in the SQLite file `path`; this process alone may write to it.

    `retention`: seconds of log time after which records that every consumer is done with may go; None keeps them for
    ever. `remember`: seconds of log time for which event ids are known. `recent`: how many impressions just appended
    are kept in memory.
    """

    def __init__(
        self, path: Path, remember: float = REMEMBER_SECONDS, recent: int = 256, retention: float | None = None
    ) -> None:
        self._database = Database(path, _TABLES)
        self._remember = remember
        self._recent = RecentImpressions(recent)
        self._retention = retention

    async def append(self, record: Record) -> int:
        """Append a record. Raises ValueError when it cannot be encoded or its query_id was logged before. Feedback
        appended here rather than by `accept` is not checked for duplicates."""
        try:
            offset, stored = await self._database.write(lambda connection: _append(connection, record))
        except sqlite3.IntegrityError as error:
            raise ValueError("an impression of this query_id is in the log already") from error
        if isinstance(stored, Impression):
            self._recent.add(stored)
        return offset

    async def accept(self, interactions: Sequence[tuple[Interaction, str]]) -> list[EventStatus]:
        """See EventLog.accept; the duplicate check and the append are one transaction."""
        if not interactions:
            return []

        def work(connection: sqlite3.Connection) -> list[EventStatus]:
            statuses = [_accept(connection, interaction, digest) for interaction, digest in interactions]
            _prune(connection, self._remember, 2 * len(interactions))
            return statuses

        return await self._database.write(work)

    async def impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        """See EventLog.impression. Raises TimeoutError, RecordDamaged, StorageFailed."""
        known = self._recent.get(query_id)
        if known is not None:
            return known

        def work(connection: sqlite3.Connection) -> Impression | None:
            row = connection.execute(
                "SELECT offset, body, at FROM log WHERE kind = 1 AND query_id = ?", (query_id,)
            ).fetchone()
            found = None if row is None else decode_row(Row(*row))
            return found if isinstance(found, Impression) else None

        return await self._database.read(work, deadline)

    async def interactions(self, query_id: str, deadline: Deadline) -> list[Interaction]:
        """See EventLog.interactions. Raises TimeoutError, RecordDamaged, StorageFailed."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, body, at FROM log WHERE kind = 2 AND query_id = ? ORDER BY offset", (query_id,)
            ).fetchall(),
            deadline,
        )
        return [record for record in (decode_row(Row(*row)) for row in rows) if isinstance(record, Interaction)]

    async def read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        """Records with offset > after, in order, up to a damaged one; RecordDamaged (its `offset` says which) when the
        first of them is damaged, so that a reader can count it and continue after it."""

        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, body, at FROM log WHERE offset > ? ORDER BY offset LIMIT ?", (after, limit)
            ).fetchall()
        )
        # Not on the reading thread: a long batch would hold up the look-ups of searches and feedback.
        return await asyncio.to_thread(decode_rows, [Row(*row) for row in rows])

    async def end(self) -> tuple[int, float]:
        """Offset and time of the last record; (0, 0.0) when empty."""
        return await self._database.read(_end)

    async def dead_letter(self, offset: int, reason: str) -> None:
        """Add a dead letter, once per offset; only the newest MAX_DEAD_LETTERS are kept."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR IGNORE INTO dead (offset, reason) VALUES (?, ?)", (offset, reason))
            connection.execute(
                "DELETE FROM dead WHERE number <= (SELECT max(number) FROM dead) - ?", (MAX_DEAD_LETTERS,)
            )

        await self._database.write(work)

    async def dead_letters(self, limit: int) -> list[tuple[int, str]]:
        """The newest dead letters as (offset, reason), newest first."""
        return await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, reason FROM dead ORDER BY number DESC LIMIT ?", (limit,)
            ).fetchall()
        )

    async def consumed(self, consumer: str, offset: int) -> None:
        """See EventLog.consumed; drops old records in short transactions."""
        retention = self._retention
        await self._database.write(lambda connection: _note(connection, consumer, offset))
        for _ in range(MAX_TRIM_STEPS):
            if retention is None or await self._database.write(lambda c: _trim(c, retention)) < TRIM_BATCH:
                return

    async def forget_consumer(self, consumer: str) -> None:
        """Stop retaining records for `consumer`."""
        await self._database.write(lambda c: c.execute("DELETE FROM consumers WHERE name = ?", (consumer,)))

    async def forget(self, user_id: str, at: float) -> int:
        """Blank the user in past records (see services.backends.log_codec.forgotten) and append a Forget; returns the
        number of blanked records.

        Works in short transactions, so that others can write in between; after a crash half-way, call it again.
        """
        pseudonym = f"forgotten-{secrets.token_hex(8)}"
        blanked = 0
        while True:
            count, last = await self._database.write(lambda c: _forget(c, user_id, pseudonym, at))
            blanked += count
            self._recent.forget(user_id)
            if last:
                break
        # Blanked data is also removed from the write-ahead log.
        await self._database.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
        return blanked

    async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
        """See EventLog.known. Short reads up to a mark: a long one would keep blanked data in the write-ahead log."""
        end, at, last_event, last_counted = await self._database.read(_mark)
        since = at - self._remember
        kinds: dict[str, Callable[..., Known | Counted]] = {"events": Known, "counted": Counted}
        for (table, kind), last in zip(kinds.items(), (last_event, last_counted), strict=True):
            number = 0
            while rows := await self._database.read(partial(_known, table, number, last)):
                number = rows[-1][0]
                take([kind(*row[1:-1], row[-1] - since) for row in rows])
        return end

    async def entries(self, after: int, until: int) -> list[Entry]:
        """Some of the records with after < offset <= until, in order; none when there are none."""
        rows = await self._database.read(
            lambda connection: connection.execute(
                "SELECT offset, at, kind, coalesce(query_id, ''), coalesce(user_id, ''), body FROM log"
                " WHERE offset > ? AND offset <= ? ORDER BY offset LIMIT ?",
                (after, until, COPY_BATCH),
            ).fetchall()
        )
        return [Entry(*row) for row in rows]

    async def consumers(self) -> dict[str, int]:
        """Consumer -> the offset up to which it has read."""
        return dict(await self._database.read(lambda c: c.execute("SELECT name, offset FROM consumers").fetchall()))

    async def put_known(self, known: Sequence[Known | Counted]) -> None:
        """Store what `known` of another log returned; existing entries stay."""
        since = time.time() - self._remember
        events = [(one.event_id, one.digest, since + one.left) for one in known if isinstance(one, Known)]
        counted = [
            (one.query_id, one.object_id, one.action_name, since + one.left)
            for one in known
            if isinstance(one, Counted)
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO events (event_id, digest, at) VALUES (?, ?, ?)", events)
            connection.executemany(
                "INSERT OR IGNORE INTO counted (query_id, object_id, action_name, at) VALUES (?, ?, ?, ?)", counted
            )

        await self._database.write(work)

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """Append records with their offsets; one transaction. The log must end before the first of them."""
        rows = [(e.offset, e.kind, e.at, e.query_id or None, e.user_id or None, e.body) for e in entries]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", rows)

        await self._database.write(work)

    async def close(self) -> None:
        """Finish queued reads and writes, then close the file."""
        await self._database.close()


def _mark(connection: sqlite3.Connection) -> tuple[int, float, int, int]:
    """Ends of the log and of its deduplication tables at one moment: (offset, time, last event, last counted)."""
    return cast(
        "tuple[int, float, int, int]",
        connection.execute(
            "SELECT coalesce(max(offset), 0), coalesce((SELECT at FROM log ORDER BY offset DESC LIMIT 1), 0.0),"
            " (SELECT coalesce(max(number), 0) FROM events), (SELECT coalesce(max(number), 0) FROM counted) FROM log"
        ).fetchone(),
    )


def _known(table: str, after: int, last: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    columns = "event_id, digest" if table == "events" else "query_id, object_id, action_name"
    return connection.execute(
        f"SELECT number, {columns}, at FROM {table}"  # noqa: S608
        " WHERE number > ? AND number <= ? ORDER BY number LIMIT ?",
        (after, last, KNOWN_BATCH),
    ).fetchall()


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


def _accept(connection: sqlite3.Connection, interaction: Interaction, digest: str) -> EventStatus:
    known = connection.execute("SELECT digest FROM events WHERE event_id = ?", (interaction.event_id,)).fetchone()
    if known is not None:
        return EventStatus.DUPLICATE if known[0] == digest else EventStatus.INVALID
    if interaction.status not in STORED_STATUSES:
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
    """Drop entries older than `remember`, a few rows per call. Rows are in time order: the oldest come first."""
    until = _end(connection)[1] - remember
    for table in ("events", "counted"):
        connection.execute(
            f"DELETE FROM {table} WHERE number < (SELECT min(number) FROM {table}) + ? AND at < ?",  # noqa: S608
            (most, until),
        )


def _forget(connection: sqlite3.Connection, user_id: str, pseudonym: str, at: float) -> tuple[int, bool]:
    """Blank some records of the user; returns (their number, whether these were the last, so that the Forget was
    appended)."""
    rows = connection.execute(
        "SELECT offset, body FROM log WHERE user_id = ? LIMIT ?", (user_id, _FORGET_BATCH)
    ).fetchall()
    for offset, body in rows:
        try:
            blank = encode(forgotten(decode(body), pseudonym))
        except RecordDamaged:
            blank = b""  # No part of it can be recognised any more, so all of it goes.
        connection.execute("UPDATE log SET user_id = NULL, body = ? WHERE offset = ?", (blank, offset))
    last = len(rows) < _FORGET_BATCH
    if last:
        _append(connection, Forget(user_id, at))
    return len(rows), last


def _note(connection: sqlite3.Connection, consumer: str, offset: int) -> None:
    connection.execute(
        "INSERT INTO consumers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET offset = max(offset, excluded.offset)",
        (consumer, offset),
    )


def _trim(connection: sqlite3.Connection, retention: float) -> int:
    """Drop some of the oldest records that no consumer needs any more; returns their number. The last one stays."""
    _, at = _end(connection)
    (done,) = connection.execute("SELECT min(offset) FROM consumers").fetchone()
    oldest = connection.execute(
        "SELECT offset, at FROM log WHERE offset <= ? ORDER BY offset LIMIT ?", (done, TRIM_BATCH)
    )
    old = [offset for offset, recorded in oldest if recorded < at - retention]
    if old:
        connection.execute("DELETE FROM log WHERE offset <= ?", (old[-1],))
    return len(old)

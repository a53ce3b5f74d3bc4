"""The EventLog in Redis: the order is a Stream, one entry a record, with the id `<offset>-0`.

An entry holds the record's kind, its time and its query id; the record itself (services/backends/log_codec.py) is in
the hash `…log:records` under its offset. So a user's records are blanked in place: an entry deleted inside a stream
stays in its memory and its files until everything around it is gone. Another reader of the stream finds the
record of an entry by `HGET …log:records <offset>`, and as long as its consumer group has not read an entry, it is not
dropped.

Everything that belongs together is one script, which Redis carries out and writes to its append-only file as a whole.
With `appendfsync always` it is on disk before we get the reply; several writes that arrive together share one fsync.

Processes keep answers in memory, and one of them may forget a user while another holds an answer to that user, or is
about to log an event on it. So the script that appends checks whether the answer that a record belongs to was blanked.
If it was, nothing is appended; the process blanks the record as well and sends it again.

Keys, all under `{namespace}:log`: the stream itself, `:end` (offset and time of the last record, offset of the last
Forget), `:records`, `:users` (offset -> user), `:people:<user>` (their offsets), `:blanked` (offset -> pseudonym),
`:impressions` (query id -> offset), `:answers:<query id>` (offsets of its feedback), `:event:<event id>` (digest) and
`:counted:<query id>` (actions on objects), which expire, and the dead letters `:dead` with their offsets `:buried`.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.backends.base import Counted, Entry, Forget, Known, Record
from services.backends.log_codec import IMPRESSION, INTERACTION, encode, forgotten, kind_of
from services.backends.log_records import (
    MAX_DEAD_LETTERS,
    MAX_TRIM_STEPS,
    REMEMBER_SECONDS,
    TRIM_BATCH,
    RecentImpressions,
    Row,
    decode_row,
    decode_rows,
)
from services.backends.redis.log_copy import LogCopy, action_text, offset_of
from services.backends.redis.server import Redis
from services.errors import RecordDamaged
from services.types import Deadline, EventStatus, Impression, Interaction

RECENT_SECONDS = 60.0
"""Maximum time that an impression is served from memory: another process may have blanked it meanwhile, which this one
notices at its next append."""
_FORGET_BATCH = 200
"""Records blanked in one step, for which other writers have to wait."""
_READ_BATCH = 1000


class RedisLog:
    """The log in `redis`, shared by any number of processes.

    `retention`: seconds of log time after which records that every consumer is done with may go; None keeps them for
    ever. `remember`: seconds for which event ids are known, by the server's clock. `recent`: how many impressions just
    appended are kept in memory.

    What `forget` blanked leaves the log at once, and the server's files when its append-only file is next
    rewritten (BGREWRITEAOF).
    """

    def __init__(
        self, redis: Redis, *, retention: float | None = None, remember: float = REMEMBER_SECONDS, recent: int = 256
    ) -> None:
        self._redis = redis
        self._retention = retention
        self._remember = math.ceil(remember)
        self._recent = RecentImpressions(recent, RECENT_SECONDS)
        self._last_forget = 0  # Offset of the last Forget this process knows of: nothing older is in `_recent`.
        self._log = redis.key("log")
        self._copy = LogCopy(redis, self._log, self._remember)

    async def append(self, record: Record) -> int:
        """Append a record. Raises ValueError when it cannot be encoded or its query_id was logged before,
        StorageFailed.

        After StorageFailed the record may be in the log all the same. An Impression may be appended again: ValueError
        then says that it was. Anything else that is appended again may be there twice: harmless for Tick and Forget.
        Feedback appended here rather than by `accept` is not checked for duplicates. What was made from an answer that
        was blanked meanwhile (the rest of its list) is blanked, too.
        """
        return await self._append(record)

    async def accept(self, interactions: Sequence[tuple[Interaction, str]]) -> list[EventStatus]:
        """See EventLog.accept. After StorageFailed some or all may have been accepted all the same, if the connection
        was lost; sending them again is safe, as their event ids are known.

        Feedback on an answer whose user was forgotten since it was looked up is stored without the user."""
        if not interactions:
            return []
        _, results = await self._send([_Outgoing(event, encode(event), digest) for event, digest in interactions])
        return [
            interaction.status if isinstance(result, list) else EventStatus(result.decode())
            for (interaction, _), result in zip(interactions, results, strict=True)
        ]

    async def impression(self, query_id: str, deadline: Deadline) -> Impression | None:
        """See EventLog.impression. A cached one is as new as the last append or accept of this process, and at most
        RECENT_SECONDS old: a user forgotten through another process since then may still be in it. Raises TimeoutError,
        RecordDamaged, StorageFailed."""
        known = self._recent.get(query_id)
        if known is not None:
            return known
        found = await self._find(IMPRESSION, query_id, deadline)
        return next((record for record in found if isinstance(record, Impression)), None)

    async def interactions(self, query_id: str, deadline: Deadline) -> list[Interaction]:
        """See EventLog.interactions. Raises TimeoutError, RecordDamaged, StorageFailed."""
        found = await self._find(INTERACTION, query_id, deadline)
        return [record for record in found if isinstance(record, Interaction)]

    async def read(self, after: int, limit: int) -> list[tuple[int, Record]]:
        """Records with offset > after, in order, up to a damaged one; RecordDamaged (its `offset` says which) when the
        first of them is damaged, so that a reader can count it and continue after it."""
        rows: list[Row] = []
        more = True
        while more and len(rows) < limit:
            some, after, more = await self._rows(after, min(limit - len(rows), _READ_BATCH))
            rows.extend(some)
        # Not on the event loop: a long batch would hold up everything else.
        return await asyncio.to_thread(decode_rows, rows)

    async def end(self) -> tuple[int, float]:
        """Offset and time of the last record; (0, 0.0) when empty."""
        end: Any = await self._redis.read(lambda c: c.hmget(f"{self._log}:end", ["offset", "at"]))
        offset, at = end
        return (0, 0.0) if offset is None else (int(offset), float(at))

    async def dead_letter(self, offset: int, reason: str) -> None:
        """Add a dead letter, once per offset; only the newest MAX_DEAD_LETTERS are kept."""
        await self._run("log_bury", [offset, reason, MAX_DEAD_LETTERS])

    async def dead_letters(self, limit: int) -> list[tuple[int, str]]:
        """The newest dead letters as (offset, reason), newest first."""
        entries: Any = await self._redis.read(lambda c: c.xrevrange(f"{self._log}:dead", count=limit))
        return [(int(fields[b"offset"]), fields[b"reason"].decode()) for _, fields in entries]

    async def consumed(self, consumer: str, offset: int) -> None:
        """See EventLog.consumed. `consumer` is the name of a consumer group of the stream, so that `XINFO GROUPS` shows
        its lag. Records stay as long as any group on the stream, ours or not, has yet to read or acknowledge them."""
        retention = "" if self._retention is None else repr(self._retention)
        for _ in range(MAX_TRIM_STEPS):
            if await self._run("log_consumed", [consumer, offset, retention, TRIM_BATCH]) < TRIM_BATCH:
                return

    async def forget_consumer(self, consumer: str) -> None:
        """Destroy the consumer group, so that trimming no longer waits for it."""

        async def destroy(c: Any) -> None:
            if await c.exists(self._log):
                await c.xgroup_destroy(self._log, consumer)

        await self._redis.write(destroy)

    async def forget(self, user_id: str, at: float) -> int:
        """Blank the user in past records (see services.backends.log_codec.forgotten) and append a Forget; returns the
        number of blanked records.

        Works in short steps, so that others can write in between; after a failure half-way, call it again. Raises
        StorageFailed.
        """
        pseudonym = f"forgotten-{secrets.token_hex(8)}"
        blanked = 0
        while True:
            blanked += await self._blank(user_id, pseudonym)
            self._recent.forget(user_id)
            try:
                await self._append(Forget(user_id, at), alone=user_id)
            except _Left:
                continue
            return blanked

    async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
        """See EventLog.known. Scans the keys of the whole server (SCAN), a thousand at a time."""
        return await self._copy.known(take)

    async def entries(self, after: int, until: int) -> list[Entry]:
        """Some of the records with after < offset <= until, in order; none when there are none."""
        return await self._copy.entries(after, until)

    async def consumers(self) -> dict[str, int]:
        """Consumer -> the offset up to which it has read."""
        return await self._copy.consumers()

    async def put_known(self, known: Sequence[Known | Counted]) -> None:
        """Store what `known` of another log returned."""
        await self._copy.put_known(known)

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """See EventLog.put_entries. Existing records stay as they are, so that a call may be repeated."""
        await self._copy.put_entries(entries)

    async def close(self) -> None:
        """Nothing to do: the caller that opened the connection closes it."""

    async def _append(self, record: Record, alone: str = "") -> int:
        """Append; returns the offset. With `alone`, raises _Left when records of that user are left."""
        (sent,), (result,) = await self._send([_Outgoing(record, encode(record))], alone)
        if result == b"known":
            raise ValueError("an impression of this query_id is in the log already")
        offset, at = int(result[0]), float(result[1])
        if isinstance(record, Impression) and offset > self._last_forget:
            self._recent.add(decode_row(Row(offset, sent.body, at)))  # type: ignore[arg-type]
        return offset

    async def _send(self, records: Sequence[_Outgoing], alone: str = "") -> tuple[Sequence[_Outgoing], list[Any]]:
        """The records as finally appended, and the reply of log_append.lua for each."""
        while True:
            arguments = [argument for record in records for argument in record.arguments()]
            word, last_forget, *results = await self._run("log_append", [self._remember, alone, *arguments])
            if int(last_forget) > self._last_forget:
                self._last_forget = int(last_forget)
                self._recent.clear()
            if word == b"left":
                raise _Left
            if word == b"done":
                return records, results
            self._recent.clear()  # A user is being forgotten just now.
            records = [
                record.blanked(pseudonym.decode()) if pseudonym else record
                for record, pseudonym in zip(records, results, strict=True)
            ]

    async def _blank(self, user_id: str, pseudonym: str) -> int:
        key = f"{self._log}:people:{user_id}"
        blanked = 0
        while True:
            offsets: Any = await self._redis.read(lambda c: c.zrange(key, 0, _FORGET_BATCH - 1))
            if not offsets:
                return blanked
            bodies = await self._redis.read(lambda c, of=offsets: c.hmget(f"{self._log}:records", of))  # type: ignore[misc]
            arguments: list[str | bytes] = [user_id, pseudonym]
            for offset, body in zip(offsets, bodies, strict=True):
                arguments += [offset, _blank(body or b"", pseudonym)]
            blanked += await self._run("log_blank", arguments)

    async def _find(self, kind: int, query_id: str, deadline: Deadline) -> list[Record]:
        script = self._redis.script("log_find")
        found = await self._redis.read(lambda c: script(keys=[self._log], args=[kind, query_id], client=c), deadline)
        return [decode_row(Row(int(offset), body or b"", float(at))) for offset, at, body in found]

    async def _rows(self, after: int, limit: int) -> tuple[list[Row], int, bool]:
        """Some of the records after `after`, where to go on, and whether there may be more."""
        entries: Any = await self._redis.read(lambda c: c.xrange(self._log, f"{after + 1}-0", "+", limit))
        if not entries:
            return [], after, False
        offsets = [offset_of(name) for name, _ in entries]
        bodies: Any = await self._redis.read(lambda c: c.hmget(f"{self._log}:records", offsets))
        first = offsets[0]
        if None in bodies:
            # Dropped by retention since the first look, or lost: entries still in the stream are lost records.
            oldest: Any = await self._redis.read(lambda c: c.xrange(self._log, count=1))
            first = offset_of(oldest[0][0])
        rows = [
            Row(offset, body or b"", float(fields[b"at"]))
            for offset, body, (_, fields) in zip(offsets, bodies, entries, strict=True)
            if offset >= first
        ]
        return rows, offsets[-1], len(entries) == limit

    async def _run(self, name: str, arguments: Sequence[str | bytes | int]) -> Any:
        script = self._redis.script(name)
        return await self._redis.write(lambda c: script(keys=[self._log], args=arguments, client=c))


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A record on its way into the log."""

    record: Record
    body: bytes
    digest: str | None = None
    """Digest of an event that must not count twice."""
    blank: bool = False
    """Whether the record holds no data of a user any more."""

    def arguments(self) -> list[str | bytes | int]:
        """Arguments of log_append.lua."""
        record, query_id, user_id = self.record, None, None
        if isinstance(record, Impression | Interaction):
            query_id, user_id = record.query_id, record.user_id
        event = ("", "", "", "")
        if isinstance(record, Interaction) and self.digest is not None:
            event = (
                record.event_id,
                self.digest,
                record.status,
                action_text(record.object_id or "", record.action_name),
            )
        described = (kind_of(record), repr(float(record.at)), query_id or "", user_id or "", self.body)
        return [*described, *event, "" if self.blank else _answer(record)]

    def blanked(self, pseudonym: str) -> _Outgoing:
        """The same record without the user."""
        record = forgotten(self.record, pseudonym)
        return replace(self, record=record, body=encode(record), blank=True)


class _Left(Exception):
    """Records of the user were appended in between."""


def _answer(record: Record) -> str:
    """The query id of the answer from which `record` has data of a user; "" when it has none."""
    if isinstance(record, Interaction) and record.user_id is not None:  # Of a blanked answer it has none.
        return record.query_id or ""
    if isinstance(record, Impression) and record.root_id != record.query_id:
        return record.root_id
    return ""


def _blank(body: bytes, pseudonym: str) -> bytes:
    try:
        return encode(forgotten(decode_row(Row(0, body)), pseudonym))
    except RecordDamaged:
        return b""  # No part of it can be recognised any more, so all of it goes.

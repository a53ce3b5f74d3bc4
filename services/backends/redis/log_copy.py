"""Copying the log on Redis for backups: out of one log and into an empty one (see EventLog).

log.py describes the keys.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from services.backends.base import Counted, Entry, Known
from services.backends.log_codec import INTERACTION, decode
from services.backends.log_records import COPY_BATCH, KNOWN_BATCH
from services.backends.redis.server import Redis
from services.errors import RecordDamaged
from services.types import EventStatus, Interaction


class LogCopy:
    """Copies the log under the key `log`. `remember`: seconds for which event ids are known."""

    def __init__(self, redis: Redis, log: str, remember: int) -> None:
        self._redis = redis
        self._log = log
        self._remember = remember

    async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
        """See EventLog.known."""
        before = await self._last()
        cursor = 0
        while True:
            cursor, some = await self._known_at(cursor)
            take(some)
            if cursor == 0:
                break
        # SCAN may have missed a key that was added meanwhile; the log itself shows which these are.
        end = await self._last()
        after = before
        while entries := await self.entries(after, end):
            after = entries[-1].offset
            events = [e for e in await asyncio.to_thread(_interactions, entries) if e.event_id]
            take(await self._known_of([f"{self._log}:event:{event.event_id}" for event in events]))
            take(
                [
                    Counted(event.query_id, event.object_id or "", event.action_name, self._remember)
                    for event in events
                    if event.query_id is not None and event.status == EventStatus.ACCEPTED
                ]
            )
        return end

    async def entries(self, after: int, until: int) -> list[Entry]:
        """See EventLog.entries."""
        while after < until:
            found: Any = await self._redis.read(
                lambda c, of=after: c.xrange(self._log, f"{of + 1}-0", f"{until}-0", COPY_BATCH)  # type: ignore[misc]
            )
            if not found:
                break
            offsets = [offset_of(name) for name, _ in found]
            bodies, users = await self._redis.read(lambda c, of=offsets: self._bodies(c, of))  # type: ignore[misc]
            first = offsets[0]
            if None in bodies:  # dropped by retention since the first look, or lost: entries in the stream are lost
                oldest: Any = await self._redis.read(lambda c: c.xrange(self._log, count=1))
                first = offset_of(oldest[0][0])
            rows = [
                Entry(
                    offset,
                    float(fields[b"at"]),
                    int(fields[b"kind"]),
                    fields[b"query"].decode(),
                    (user or b"").decode(),
                    body or b"",
                )
                for offset, (_, fields), user, body in zip(offsets, found, users, bodies, strict=True)
                if offset >= first
            ]
            if rows:
                return rows
            after = offsets[-1]
        return []

    async def consumers(self) -> dict[str, int]:
        """Consumer -> the offset up to which it has read, from the stream's groups."""
        groups: Any = await self._redis.read(self._groups)
        return {group["name"].decode(): offset_of(group["last-delivered-id"]) for group in groups}

    async def put_known(self, known: Sequence[Known | Counted]) -> None:
        """See EventLog.put_known."""
        arguments: list[str | bytes | int] = []
        for one in known:
            left = math.ceil(one.left)
            if left > 0 and isinstance(one, Known):
                arguments += ["event", one.event_id, one.digest, left]
            elif left > 0 and isinstance(one, Counted):
                arguments += ["counted", one.query_id, action_text(one.object_id, one.action_name), left]
        if arguments:
            await self._run("log_put_known", arguments)

    async def put_entries(self, entries: Sequence[Entry]) -> None:
        """See EventLog.put_entries."""
        arguments: list[str | bytes | int] = []
        for entry in entries:
            arguments += [entry.offset, entry.kind, repr(entry.at), entry.query_id, entry.user_id, entry.body]
        if arguments:
            await self._run("log_put_entries", arguments)

    async def _last(self) -> int:
        """Offset of the last record."""
        return int(await self._redis.read(lambda c: c.hget(f"{self._log}:end", "offset")) or 0)

    async def _known_at(self, cursor: int) -> tuple[int, list[Known | Counted]]:
        """(next cursor, entries found from `cursor` on)."""
        pattern = f"{self._log}:[ec]*"
        found: Any = await self._redis.read(lambda c: c.scan(cursor, match=pattern, count=KNOWN_BATCH))
        cursor, keys = found
        names = [key.decode() for key in keys]
        events = [name for name in names if name.startswith(f"{self._log}:event:")]
        some: list[Known | Counted] = [*await self._known_of(events)]
        some += await self._counted_of([name for name in names if name.startswith(f"{self._log}:counted:")])
        return int(cursor), some

    async def _known_of(self, keys: Sequence[str]) -> list[Known]:
        begins = len(f"{self._log}:event:")
        return [
            Known(key[begins:], digest.decode(), left / 1000.0)
            for key, digest, left in await self._values_with_expiry("get", keys)
            if digest is not None and left > 0
        ]

    async def _counted_of(self, keys: Sequence[str]) -> list[Counted]:
        begins = len(f"{self._log}:counted:")
        return [
            Counted(key[begins:], *_parted(action.decode()), left / 1000.0)
            for key, actions, left in await self._values_with_expiry("smembers", keys)
            for action in actions
            if left > 0
        ]

    async def _values_with_expiry(self, command: str, keys: Sequence[str]) -> list[tuple[str, Any, int]]:
        """(key, reply to `command`, milliseconds to live) of each key."""
        if not keys:
            return []

        async def ask(c: Any) -> Any:
            async with c.pipeline(transaction=False) as pipeline:
                for key in keys:
                    getattr(pipeline, command)(key).pttl(key)
                return await pipeline.execute()

        found: Any = await self._redis.read(ask)
        return list(zip(keys, found[::2], found[1::2], strict=True))

    async def _bodies(self, c: Any, offsets: Sequence[int]) -> Any:
        async with c.pipeline(transaction=True) as pipeline:
            return await pipeline.hmget(f"{self._log}:records", offsets).hmget(f"{self._log}:users", offsets).execute()

    async def _groups(self, c: Any) -> Any:
        return await c.xinfo_groups(self._log) if await c.exists(self._log) else []

    async def _run(self, name: str, arguments: Sequence[str | bytes | int]) -> None:
        script = self._redis.script(name)
        await self._redis.write(lambda c: script(keys=[self._log], args=arguments, client=c))


def offset_of(name: bytes) -> int:
    """The offset in the id of a stream entry."""
    return int(name.partition(b"-")[0])


def action_text(object_id: str, action_name: str) -> str:
    """An action on an object as one text."""
    return f"{len(object_id)}:{object_id}{action_name}"


def _parted(action: str) -> tuple[str, str]:
    """The object and the action."""
    length, _, rest = action.partition(":")
    return rest[: int(length)], rest[int(length) :]


def _interactions(entries: Sequence[Entry]) -> list[Interaction]:
    """The interactions among the entries that can be decoded."""
    found = []
    for entry in entries:
        if entry.kind == INTERACTION:
            with suppress(RecordDamaged):
                record = decode(entry.body)
                if isinstance(record, Interaction):
                    found.append(record)
    return found

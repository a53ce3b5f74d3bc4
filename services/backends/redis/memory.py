"""The MemoryIndex on Redis: the content of SqliteMemory's tables in sorted sets and hashes.

Every change is one run of a Lua script (lua/memory_*.lua; memory_common.lua describes the layout): changes and the
offset of the log that they bring are one step for every reader, and in the append-only file. The server does nothing
else meanwhile, so a batch should not have many more than a thousand changes.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import struct
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, cast

import orjson

from services.backends.base import MemoryChange, MemoryRow
from services.backends.redis.memory_rows import read
from services.backends.redis.server import Redis
from services.errors import StorageFailed
from services.memory.keys import KEYS_PER_VARIANT, TWO_DELETIONS, by_key, nearest, shared_variants
from services.memory.limits import DEFAULT_LIMITS, NEGLIGIBLE_WEIGHT, MemoryLimits
from services.memory.scores import decay, recollect
from services.types import Deadline, Person, Remembered

_BATCH_ITEMS = 100
"""Items per run of a script: reads get in between."""
_HOLD_MILLISECONDS = 10_000
"""Time after which the learner continues when the process that copied the memory has died."""
_COPYING = -2
"""Reply of the script while the memory is being copied."""
_SHARED = ("memory_common", "memory_neighbours", "memory_totals")
_APPLY = (*_SHARED, "memory_forget_user", "memory_apply")
_PREDICT = (*_SHARED, "memory_predict")
_FORGET_ITEMS = (*_SHARED, "memory_forget_items")
_PUT_ROWS = (*_SHARED, "memory_put_rows")
_PAIR = struct.Struct("<dd")
_SCORE = struct.Struct("<d")


class RedisMemory:
    """The memory on `redis`. half_life: seconds of log time after which a weight counts half.

    One process at a time applies the log: `apply` raises StorageFailed when another one has applied something since
    this one last knew the committed offset. `offset` then returns the current one.
    """

    def __init__(self, redis: Redis, half_life: float, limits: MemoryLimits = DEFAULT_LIMITS) -> None:
        self._redis = redis
        self._prefix = redis.key("m", "")
        self._copying = redis.key("lock", "memory")
        self._half_life = half_life
        self._neighbours = limits.neighbours
        self._script_limits = {
            **asdict(limits),
            "half_life": half_life,
            "negligible": NEGLIGIBLE_WEIGHT,
            "two_deletions": (TWO_DELETIONS[0], TWO_DELETIONS[-1]),
        }
        self._seen: int | None = None

    # --- reading ---

    async def remembered(self, key: str, limit: int, deadline: Deadline) -> list[Remembered]:
        """See MemoryIndex.remembered; one script finds the neighbours, a second reads all their rows."""
        if not key or limit < 1:
            return []
        near = [key]
        if self._neighbours > 0:
            found = await self._read_script("memory_near", (KEYS_PER_VARIANT, key, *shared_variants(key)), deadline)
            near = nearest(key, (other.decode() for other in found), self._neighbours)
        at, times, clicked, predicted = await self._read_script("memory_remembered", near, deadline)
        now = float(at or 0.0)
        return recollect(
            key,
            {k: self._now(value, now) for k, value in zip(near, times, strict=True) if value is not None},
            [
                (k, one.decode(), self._now(value, now))
                for k, row in zip(near, clicked, strict=True)
                for one, value in _pairs(row)
            ],
            [
                (k, one.decode(), _SCORE.unpack(value)[0])
                for k, row in zip(near, predicted, strict=True)
                for one, value in _pairs(row)
            ],
            limit,
        )

    async def person(self, person: str, limit: int, deadline: Deadline) -> Person:
        """The latest `limit` entries of a user's or session's history, newest first."""
        if limit < 1:
            return Person(person)
        rows = await self._redis.read(
            lambda client: cast(Any, client.lrange(f"{self._prefix}h:{person}", 0, limit - 1)), deadline
        )
        return Person(person, tuple((row[_PAIR.size :].decode(), *_PAIR.unpack_from(row)) for row in rows))

    async def popular_queries(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """See MemoryIndex.popular_queries. For a prefix of thousands of texts, only the most frequent texts of all are
        searched."""
        at, found = await self._read_script("memory_popular", (prefix, limit), deadline)
        return [(text.decode(), self._now(row, float(at))) for text, row in _pairs(found)]

    async def offset(self) -> int:
        """The committed offset; from now on `apply` continues from there."""
        value = await self._redis.read(lambda client: cast(Any, client.hget(f"{self._prefix}state", "offset")))
        self._seen = int(value or 0)
        return self._seen

    async def _read_script(self, script: str, arguments: Sequence[str | int], deadline: Deadline) -> Any:
        run = self._redis.script(script)
        return await self._redis.read(
            lambda client: cast(Any, run(keys=[self._prefix], args=arguments, client=client)), deadline
        )

    def _now(self, row: bytes, now: float) -> float:
        """A stored weight decayed to `now`."""
        weight, at = _PAIR.unpack_from(row)
        return float(weight * decay(now - at, self._half_life))

    # --- writing: what the log says ---

    async def apply(self, changes: Sequence[MemoryChange], offset: int) -> None:
        """See MemoryIndex.apply. Raises TypeError or ValueError, having applied nothing, when a change holds anything
        but valid UTF-8 texts and finite numbers."""
        seen = -1 if self._seen is None else self._seen
        encoded = [_encoded(change) for change in changes]
        state, committed = await self._change(_APPLY, offset=offset, seen=seen, changes=encoded)
        if state == _COPYING:
            raise StorageFailed("the memory is being copied for a backup and takes nothing in meanwhile")
        if state < 0:
            raise StorageFailed(f"the memory stands at {committed}: another process has applied the log as well")
        self._seen = max(offset, self._seen or 0)

    # --- writing: what the catalogue says ---

    async def predict(self, predictions: Mapping[str, Sequence[tuple[str, float]]]) -> None:
        """See MemoryIndex.predict; atomic for up to 100 items at a time."""
        object_ids = list(predictions)
        for start in range(0, len(object_ids), _BATCH_ITEMS):
            items = [(one, list(by_key(predictions[one]).items())) for one in object_ids[start : start + _BATCH_ITEMS]]
            await self._change(_PREDICT, items=items)

    async def forget_items(self, object_ids: Sequence[str]) -> None:
        """See MemoryIndex.forget_items. Histories keep their entries, because deleted items often return."""
        for start in range(0, len(object_ids), _BATCH_ITEMS):
            left = object_ids[start : start + _BATCH_ITEMS]
            while left:
                left = left[await self._change(_FORGET_ITEMS, items=left) :]

    # --- for backups ---

    async def rows(self) -> AsyncGenerator[list[MemoryRow], None]:
        """See MemoryIndex.rows. While they are read, `apply` raises StorageFailed: only the learner waits."""
        key, token = self._copying, secrets.token_hex(8)
        if not await self._redis.write(lambda c: c.set(key, token, nx=True, px=_HOLD_MILLISECONDS)):
            raise StorageFailed("the memory is being copied for another backup")
        holding = asyncio.create_task(self._hold(token))
        try:
            before = await self.offset()
            last: list[MemoryRow] = []
            async for rows in read(self._redis, self._prefix):
                if last:
                    yield last
                last = rows
            # Before the last row, which makes the whole valid.
            if not await self._keep(token) or before != await self.offset():
                raise StorageFailed("the memory changed while it was copied")
            yield last
        finally:
            holding.cancel()
            await asyncio.wait([holding])
            release = self._redis.script("lock_release")
            await self._redis.write(lambda c: cast(Any, release(keys=[key], args=[token], client=c)))

    async def put_rows(self, rows: Sequence[MemoryRow]) -> None:
        """See MemoryIndex.put_rows; each call is one atomic step."""
        await self._change(_PUT_ROWS, rows=rows)

    async def close(self) -> None:
        """Nothing to do: the caller that opened the connection closes it."""

    async def _change(self, script: tuple[str, ...], **request: object) -> Any:
        """Run the script with the limits and `request` as one atomic step; returns its reply."""
        run, body = self._redis.script(*script), orjson.dumps({"limits": self._script_limits, **request})
        return await self._redis.write(
            lambda client: cast(Any, run(keys=[self._prefix, self._copying], args=[body], client=client))
        )

    async def _hold(self, token: str) -> None:
        while True:
            await asyncio.sleep(_HOLD_MILLISECONDS / 1000.0 / 4)
            with suppress(StorageFailed):
                await self._keep(token)

    async def _keep(self, token: str) -> bool:
        """Extend our hold on the memory; False when it was lost."""
        renew = self._redis.script("lock_renew")
        arguments: list[str | int] = [token, _HOLD_MILLISECONDS]
        return bool(await self._redis.write(lambda c: cast(Any, renew(keys=[self._copying], args=arguments, client=c))))


def _pairs(row: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The fields and values of a hash."""
    return zip(row[::2], row[1::2], strict=True)


def _encoded(change: MemoryChange) -> dict[str, Any]:
    """A change in the script's format. Checked here, because a script that fails half-way is not rolled back."""
    encoded: dict[str, Any] = {"at": _number(change.at)}
    if change.shown is not None:
        key, text = change.shown
        encoded["shown"] = (_text(key), _text(text), _text(change.shown_to))
    if change.action is not None:
        key, object_id, principal, weight = change.action
        encoded["action"] = (_text(key), _text(object_id), _text(principal), _number(weight))
    if change.history is not None:
        person, object_id, weight = change.history
        encoded["history"] = (_text(person), _text(object_id), _number(weight))
    if change.forget_user is not None:
        encoded["forget"] = _text(change.forget_user)
    return encoded


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {type(value).__name__}")
    return value


def _number(value: float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a finite number was expected")
    return number

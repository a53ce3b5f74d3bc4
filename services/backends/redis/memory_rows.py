"""The contents of the memory on Redis as rows that every MemoryIndex can take (see MemoryRow), while nothing changes
it."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from services.backends.base import MemoryRow
from services.backends.redis.server import Redis

_BATCH_QUERIES = 50
_BATCH_PEOPLE = 200
_PAIR = struct.Struct("<dd")
_NAME = struct.Struct("<ddd")


async def read(redis: Redis, prefix: str) -> AsyncIterator[list[MemoryRow]]:
    """The rows under the keys that begin with `prefix`; lua/memory_common.lua describes them."""
    async for keys, used in _members(redis, f"{prefix}queries", _BATCH_QUERIES):
        yield await _queries(redis, prefix, keys, used)
    async for people, used in _members(redis, f"{prefix}people", _BATCH_PEOPLE):
        yield await _people(redis, prefix, people, used)
    offset, changes, at = await _pipelined(
        redis, lambda p: p.hmget(f"{prefix}state", ["offset", "used", "at"]), one=True
    )
    yield [("state", int(offset or 0), int(changes or 0), float(at or 0.0))]


async def _members(redis: Redis, key: str, batch: int) -> AsyncIterator[tuple[list[str], list[int]]]:
    """The members of a sorted set with their scores, `batch` at a time."""
    start = 0
    while True:
        found: Any = await redis.read(lambda c, of=start: c.zrange(key, of, of + batch - 1, withscores=True))  # type: ignore[misc]
        if not found:
            return
        yield [member.decode() for member, _ in found], [int(score) for _, score in found]
        start += batch


async def _queries(redis: Redis, prefix: str, keys: Sequence[str], used: Sequence[int]) -> list[MemoryRow]:
    def ask(pipeline: Any) -> None:
        pipeline.hmget(f"{prefix}shown", keys)
        for key in keys:
            pipeline.zrange(f"{prefix}t:{key}", 0, -1).hgetall(f"{prefix}s:{key}")

    shown, *of_keys = await _pipelined(redis, ask)
    texts = [text.decode() for found in of_keys[::2] for text in found]
    pairs = [(key, object_id.decode()) for key, found in zip(keys, of_keys[1::2], strict=True) for object_id in found]
    rows: list[MemoryRow] = [
        ("query", key, *_PAIR.unpack(weight), number) for key, weight, number in zip(keys, shown, used, strict=True)
    ]
    if texts:
        rows += await _texts(redis, prefix, texts)
    for key, scores in zip(keys, of_keys[1::2], strict=True):
        rows += [("score", key, object_id.decode(), *_PAIR.unpack(clicks)) for object_id, clicks in scores.items()]
    names = await _pipelined(redis, lambda p: [p.hgetall(f"{prefix}c:{len(k.encode())}:{k}{o}") for k, o in pairs])
    for pair, found in zip(pairs, names, strict=True):
        rows += [("contribution", *pair, *_name(principal, row)) for principal, row in found.items()]
    return rows


async def _texts(redis: Redis, prefix: str, texts: Sequence[str]) -> list[MemoryRow]:
    def ask(pipeline: Any) -> None:
        pipeline.hmget(f"{prefix}texts", texts)
        for text in texts:
            pipeline.hgetall(f"{prefix}a:{text}")

    stored, *names = await _pipelined(redis, ask)
    rows: list[MemoryRow] = [
        ("text", text, row[_PAIR.size :].decode(), *_PAIR.unpack_from(row))
        for text, row in zip(texts, stored, strict=True)
    ]
    for text, found in zip(texts, names, strict=True):
        rows += [("asker", text, *_name(principal, row)) for principal, row in found.items()]
    return rows


async def _people(redis: Redis, prefix: str, people: Sequence[str], used: Sequence[int]) -> list[MemoryRow]:
    rows: list[MemoryRow] = []
    histories = await _pipelined(redis, lambda p: [p.lrange(f"{prefix}h:{person}", 0, -1) for person in people])
    for person, number, entries in zip(people, used, histories, strict=True):
        rows.append(("person", person, number))
        # Only the order of entries is kept, not their numbers: each change has one number, so these are unused.
        for place in range(len(entries) - 1, -1, -1):
            weight, at = _PAIR.unpack_from(entries[place])
            rows.append(("history", person, number - place, entries[place][_PAIR.size :].decode(), weight, at))
    return rows


async def _pipelined(redis: Redis, ask: Callable[[Any], object], one: bool = False) -> Any:
    """The replies to a pipeline of reads; with `one`, the only reply."""

    async def work(c: Any) -> Any:
        async with c.pipeline(transaction=False) as pipeline:
            ask(pipeline)
            return await pipeline.execute()

    answers: Any = await redis.read(work)
    return answers[0] if one else answers


def _name(principal: bytes, row: bytes) -> tuple[str, float, float, int]:
    weight, at, used = _NAME.unpack(row)
    return principal.decode(), weight, at, int(used)

"""The memory on a real Redis: the contract, the same answers as SqliteMemory, and nothing lost or counted twice."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from services.backends.base import MemoryChange, MemoryIndex
from services.backends.redis.memory import RedisMemory
from services.backends.redis.server import Redis
from services.backends.sqlite.memory import SqliteMemory
from services.errors import StorageFailed
from services.memory.keys import memory_key, variants
from services.memory.limits import MemoryLimits
from tests.contracts.memory_index import (
    HALF_LIFE,
    TOY,
    MemoryIndexContract,
    asked,
    did,
    forget,
    ids,
    random_changes,
    soon,
    took,
)
from tests.servers.redis import RedisServer

SMALL = {"principal_cap": 2.0, "items_per_query": 3, "history": 5}
TINY = {**SMALL, "texts_per_query": 2, "names_per_total": 2, "queries": 6, "people": 3}


class Opened(RedisMemory):
    """A memory that closes its connections too, as whoever made them would."""

    def __init__(self, redis: Redis, **caps: Any) -> None:
        super().__init__(redis, HALF_LIFE, MemoryLimits(**caps))
        self.redis = redis

    async def close(self) -> None:
        await super().close()
        await self.redis.close()


def opened(server: RedisServer, place: object, **caps: Any) -> Opened:
    return Opened(Redis(server.url, f"t{zlib.crc32(str(place).encode())}"), **caps)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class TestRedisMemory(MemoryIndexContract):
    @pytest.fixture(autouse=True)
    def started(self, server: RedisServer) -> None:
        self.server = server

    def open(self, folder: Path) -> MemoryIndex:
        return opened(self.server, folder, **SMALL)


# --- what is in the server ---


async def contents(redis: Redis) -> dict[str, Any]:
    """Everything under the memory's keys, by what follows `{namespace}:m:`; sorted sets as lists of members."""
    start = redis.key("m", "")

    async def work(client: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        async for key in client.scan_iter(match="*", count=1000):
            name = key.decode()
            if not name.startswith(start):
                continue
            kind = await client.type(key)
            if kind == b"zset":
                found[name.removeprefix(start)] = [m.decode() for m in await client.zrange(key, 0, -1)]
            elif kind == b"hash":
                found[name.removeprefix(start)] = {f.decode(): v for f, v in (await client.hgetall(key)).items()}
            else:
                found[name.removeprefix(start)] = await client.lrange(key, 0, -1)
        return found

    return await redis.read(work)


def of_kind(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): value for name, value in found.items() if name.startswith(kind)}


def by_member(found: dict[str, Any]) -> dict[str, list[str]]:
    """member -> names, from name -> members."""
    turned: dict[str, list[str]] = {}
    for name in sorted(found):
        for member in found[name]:
            turned.setdefault(member, []).append(name)
    return turned


def pair(key: str, object_id: str) -> str:
    return f"{len(key.encode())}:{key}{object_id}"


async def check(redis: Redis) -> dict[str, Any]:
    """Check that every index of the memory agrees with its data; returns all contents."""
    found = await contents(redis)
    scores, predictions = of_kind(found, "s:"), of_kind(found, "p:")
    assert by_member(scores) == of_kind(found, "o:")
    assert by_member(predictions) == of_kind(found, "f:")
    names = {f"a{text}": who for text, who in of_kind(found, "a:").items()}
    names |= {f"c{place}": who for place, who in of_kind(found, "c:").items()}
    assert by_member(names) == of_kind(found, "b:")
    assert set(of_kind(found, "c:")) <= {pair(key, object_id) for key, row in scores.items() for object_id in row}
    texts = {text: row[16:].decode() for text, row in found.get("texts", {}).items()}
    assert set(of_kind(found, "a:")) <= set(texts)
    assert {text: [key] for text, key in texts.items()} == by_member(of_kind(found, "t:"))
    assert sorted(texts) == found.get("lex", []) == sorted(found.get("rank", []))
    assert set(of_kind(found, "n:")) == {v for key in {*scores, *predictions} for v in variants(key)}
    assert by_member(of_kind(found, "n:")) == {
        key: sorted(set(variants(key))) for key in {*scores, *predictions} if variants(key)
    }
    assert sorted(found.get("queries", [])) == sorted(found.get("shown", {}))
    assert {*scores, *texts.values()} <= set(found.get("queries", []))
    assert set(of_kind(found, "h:")) == set(found.get("people", []))
    return found


# --- the same as SqliteMemory ---

WORDS = ["toy", "story", "andy", "heat", "pacino", "die", "hard", "3", "woody", "the", "ß", "Zürich"]


def wild_changes(count: int, seed: int) -> list[MemoryChange]:
    """Traffic of many kinds at once: long and short queries, nobody, late records, people who are forgotten."""
    rng = random.Random(seed)
    at, changes = 0.0, []
    texts = [" ".join(rng.sample(WORDS, rng.choice((1, 2, 2, 3, 4, 5, 7)))) for _ in range(25)]
    for _ in range(count):
        at += rng.expovariate(1 / (HALF_LIFE / 200))
        text, who = rng.choice(texts), rng.choice(["", *(f"u:{n}" for n in range(7))])
        when = at - (rng.random() * HALF_LIFE if rng.random() < 0.1 else 0.0)
        change = MemoryChange(at=when)
        if rng.random() < 0.5:
            change = replace(change, shown=(memory_key(text), text), shown_to=who)
        if rng.random() < 0.5:
            weight = rng.choice((1.0, 2.5, 0.3, -1.0))
            change = replace(change, action=(memory_key(text), str(rng.randrange(12)), who, weight))
        if rng.random() < 0.3:
            change = replace(change, history=(who or "s:1", str(rng.randrange(12)), rng.choice((1.0, -1.0))))
        if rng.random() < 0.02:
            change = replace(change, forget_user=str(rng.randrange(7)))
        changes.append(change)
    return changes


async def answers(memory: MemoryIndex, texts: Sequence[str]) -> list[Any]:
    """All that can be asked of a memory, in a form that pytest.approx compares."""
    told: list[Any] = [await memory.offset()]
    for text in texts:
        found = await memory.remembered(memory_key(text), 40, soon())
        told.append({(e.object_id, e.predicted): (e.score, e.clicks, e.similarity) for e in found})
    for prefix in ("", "t", "to", "toy", "toy s", "ß", "Z", "nothing"):
        told += await memory.popular_queries(prefix, 12, soon())
    for person in ("s:1", *(f"u:{n}" for n in range(7))):
        told += (await memory.person(person, 9, soon())).recent
    return told


def assert_alike(one: Any, other: Any) -> None:
    """Equal, numbers within 1e-9."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_alike(left, right)
    else:
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9) if isinstance(one, float) else one == other


@pytest.mark.parametrize("caps", [SMALL, TINY, {}], ids=["small", "tiny", "usual"])
@pytest.mark.parametrize("make", [random_changes, wild_changes])
async def test_the_same_changes_give_the_same_answers_as_sqlite(
    make: Any, caps: dict[str, Any], server: RedisServer, tmp_path: Path
) -> None:
    changes = make(2000, 11)
    texts = sorted({c.shown[1] for c in changes if c.shown is not None} | {"toy", "andy toy story 3 woody"})
    rng = random.Random(5)
    cuts = [0, *sorted(rng.sample(range(2000), 9)), 2000]
    ours = opened(server, tmp_path, **caps)
    theirs = SqliteMemory(tmp_path / "memory.db", HALF_LIFE, MemoryLimits(**caps))
    for start, end in pairwise(cuts):
        predictions = {
            str(rng.randrange(14)): [(rng.choice(texts), rng.choice((0.0, 0.2, 0.25))) for _ in range(3)]
            for _ in range(6)
        }
        gone = [str(rng.randrange(14))]
        for memory in (ours, theirs):
            await memory.predict(predictions)
            await memory.apply(changes[start:end], end)
            await memory.forget_items(gone)
        assert_alike(await answers(ours, texts), await answers(theirs, texts))
        await check(ours.redis)
    await ours.close()
    await theirs.close()


async def test_the_same_log_gives_the_same_contents_however_it_is_cut(server: RedisServer, tmp_path: Path) -> None:
    changes = wild_changes(400, 3)

    async def replay(place: str, cuts: list[int]) -> dict[str, Any]:
        memory = opened(server, tmp_path / place, **TINY)
        for start, end in zip([0, *cuts], [*cuts, 400], strict=True):
            await memory.apply(changes[start:end], end)
        found = await check(memory.redis)
        await memory.close()
        return found

    expected = await replay("one", [])
    assert all(of_kind(expected, kind) for kind in ("s:", "c:", "a:", "h:", "n:", "b:"))
    assert await replay("many", list(range(1, 400))) == expected
    assert await replay("some", sorted(random.Random(4).sample(range(400), 7))) == expected


async def test_a_beginning_that_thousands_of_texts_have(server: RedisServer, tmp_path: Path) -> None:
    """Few texts are sorted, of many the most asked are found by walking: with the same result."""
    rng = random.Random(1)
    texts = [f"film {n}" for n in range(1500)] + [f"{n} film" for n in range(1500)]
    changes = [asked(rng.choice(texts), f"u:{n}", at=float(rng.randrange(10**6))) for n in range(6000)]
    ours, theirs = opened(server, tmp_path), SqliteMemory(tmp_path / "memory.db", HALF_LIFE)
    for memory in (ours, theirs):
        for start in range(0, 6000, 1000):
            await memory.apply(changes[start : start + 1000], start + 1000)
    for prefix in ("", "f", "film", "film 1", "1", "99", "zz"):
        for limit in (20, 1200):
            assert_alike(*[await memory.popular_queries(prefix, limit, soon()) for memory in (ours, theirs)])
    await ours.close()
    await theirs.close()


# --- forgetting ---


async def test_forgetting_everybody_leaves_only_counters(server: RedisServer, tmp_path: Path) -> None:
    changes = [c for c in random_changes(300, seed=5) if c.forget_user is None]
    memory = opened(server, tmp_path, **SMALL)
    await memory.apply([*changes, *(forget(str(n), at=changes[-1].at) for n in range(6))], 1)
    found = await check(memory.redis)
    assert set(found) <= {"state", "queries", "shown"}
    for row in found.get("shown", {}).values():
        assert struct.unpack("<dd", row)[0] == pytest.approx(0.0, abs=1e-9)
    await memory.close()


async def test_an_item_that_thousands_of_queries_have_is_forgotten_in_several_runs(
    server: RedisServer, tmp_path: Path
) -> None:
    memory = opened(server, tmp_path)
    for start in range(0, 6000, 1000):
        await memory.apply([took(f"query{n}", "1") for n in range(start, start + 1000)], start + 1000)
    await memory.predict({"1": [("query7", 0.2)], "2": [("query7", 0.2)]})
    await memory.forget_items(["nobody", "1", "2", "1"])
    found = await check(memory.redis)
    assert not of_kind(found, "s:")
    assert not of_kind(found, "p:")
    assert not of_kind(found, "b:")
    await memory.close()


async def test_parts_of_keys_are_never_mistaken_for_each_other(server: RedisServer, tmp_path: Path) -> None:
    """(key "a", item "1:b") is not (key "a1:", item "b"), whatever they are written behind one another as."""
    memory = opened(server, tmp_path)
    pairs = [("a", "1:b"), ("a1:", "b"), ("1:a", "b"), ("a", "}{b"), ("{x}", "b"), ("a b*", "?[b]")]
    await memory.apply([MemoryChange(action=(key, item, "u:ann", 1.0)) for key, item in pairs], 1)
    await memory.apply([MemoryChange(action=(key, item, "u:bob", 1.0)) for key, item in pairs[1:]], 2)
    await memory.apply([forget("bob")], 3)
    for key, item in pairs:
        assert {e.object_id: e.clicks for e in await memory.remembered(key, 9, soon())}[item] == 1.0
    await check(memory.redis)
    await memory.close()


# --- once, and for ever ---


async def test_what_was_applied_survives_a_crash_with_its_offset(tmp_path: Path) -> None:
    changes = wild_changes(600, 9)
    texts = sorted({c.shown[1] for c in changes if c.shown is not None})
    theirs = SqliteMemory(tmp_path / "memory.db", HALF_LIFE)
    with RedisServer() as server:
        for start in range(0, 600, 200):
            ours = opened(server, tmp_path)
            assert await ours.offset() == start
            for n in range(start, start + 100, 20):
                await ours.apply(changes[n : n + 20], n + 20)
            dying = asyncio.ensure_future(ours.apply(changes[start + 100 : start + 120], start + 120))
            await asyncio.sleep(0)
            server.kill()
            await asyncio.gather(dying, return_exceptions=True)
            await ours.close()
            server.restart()
            ours = opened(server, tmp_path)
            stands = await ours.offset()  # what was acknowledged, and perhaps the batch under way
            assert stands in ((start + 120,) if dying.exception() is None else (start + 100, start + 120))
            for n in range(stands, start + 200, 20):
                await ours.apply(changes[n : n + 20], n + 20)
            await ours.close()
        ours = opened(server, tmp_path)
        for n in range(0, 600, 20):
            await theirs.apply(changes[n : n + 20], n + 20)
        assert_alike(await answers(ours, texts), await answers(theirs, texts))
        await check(ours.redis)
        await ours.close()
    await theirs.close()


async def test_two_writers_of_one_log_count_everything_once(server: RedisServer, tmp_path: Path) -> None:
    """Both read on from what the memory says, in batches that overlap; who was overtaken asks again."""
    changes = [took("toy story", "1", f"u:{n}") for n in range(300)]

    async def writer(memory: Opened, seed: int) -> None:
        rng = random.Random(seed)
        stands = await memory.offset()
        while stands < 300:
            end = min(300, stands + rng.randrange(1, 20))
            try:
                await memory.apply(changes[stands:end], end)
                stands = end
            except StorageFailed:
                stands = await memory.offset()

    memories = [opened(server, tmp_path) for _ in range(3)]
    await asyncio.gather(*(writer(memory, n) for n, memory in enumerate(memories)))
    (entry,) = await memories[0].remembered(TOY, 9, soon())
    assert entry.clicks == 300.0
    assert await memories[0].offset() == 300
    await check(memories[0].redis)
    for memory in memories:
        await memory.close()


async def test_a_writer_that_was_overtaken_without_knowing_is_told(server: RedisServer, tmp_path: Path) -> None:
    old, new = opened(server, tmp_path), opened(server, tmp_path)
    await old.apply([took("toy story", "1", "u:1")], 1)
    assert await new.offset() == 1
    await new.apply([took("toy story", "1", "u:2"), took("toy story", "1", "u:3")], 3)
    await old.apply([took("toy story", "1", "u:2")], 2)  # already counted
    with pytest.raises(StorageFailed):
        await old.apply([took("toy story", "1", "u:3"), took("toy story", "1", "u:4")], 4)
    assert await old.offset() == 3
    await old.apply([took("toy story", "1", "u:4")], 4)
    (entry,) = await old.remembered(TOY, 9, soon())
    assert entry.clicks == 4.0
    await old.close()
    await new.close()


async def test_a_memory_that_lost_its_end_is_not_written_on(server: RedisServer, tmp_path: Path) -> None:
    """Restored from yesterday's backup, say: what is missing has to be read again from the log."""
    memory = opened(server, tmp_path)
    await memory.apply([took("toy story", "1", "u:1")], 5)
    state = memory.redis.key("m", "state")
    await memory.redis.write(lambda client: cast(Any, client.hset(state, "offset", 4)))
    with pytest.raises(StorageFailed):
        await memory.apply([], 6)
    assert await memory.offset() == 4
    await memory.apply([], 6)
    await memory.close()


async def test_the_catalogue_and_the_log_may_write_at_once(server: RedisServer, tmp_path: Path) -> None:
    changes = wild_changes(1000, 21)
    texts = sorted({c.shown[1] for c in changes if c.shown is not None})
    learner, gateway, reader = (opened(server, tmp_path, **TINY) for _ in range(3))
    done = asyncio.Event()

    async def learn() -> None:
        for end in range(25, 1001, 25):
            await learner.apply(changes[end - 25 : end], end)
        done.set()

    async def index() -> None:
        rng = random.Random(2)
        while not done.is_set():
            items = [str(rng.randrange(14)) for _ in range(4)]
            await gateway.predict({item: [(rng.choice(texts), 0.2)] for item in items})
            await gateway.forget_items(items[:1])

    async def read() -> None:
        rng = random.Random(3)
        while not done.is_set():
            found = await reader.remembered(memory_key(rng.choice(texts)), 40, soon())
            assert all(0.0 < entry.score < 1.0 for entry in found)

    await asyncio.gather(learn(), index(), read())
    assert await reader.offset() == 1000
    await check(reader.redis)
    for memory in (learner, gateway, reader):
        await memory.close()


@pytest.mark.parametrize(
    "broken",
    [
        MemoryChange(shown=("a", "\ud800")),
        MemoryChange(action=("a", "b", "c", float("nan"))),
        MemoryChange(action=("a", "b", None, 1.0)),  # type: ignore[arg-type]
        MemoryChange(history=("a", "b", float("inf"))),
        MemoryChange(forget_user=7),  # type: ignore[arg-type]
        MemoryChange(at=float("nan")),
    ],
    ids=["half a character", "no number", "no text", "infinity", "no user", "no time"],
)
async def test_a_change_that_cannot_be_is_refused_before_anything_is_written(
    broken: MemoryChange, server: RedisServer, tmp_path: Path
) -> None:
    memory = opened(server, tmp_path)
    with pytest.raises((TypeError, ValueError)):
        await memory.apply([took("toy story", "1"), broken], 5)
    assert await memory.offset() == 0
    assert await contents(memory.redis) == {}
    await memory.close()


async def test_a_full_server_takes_nothing_of_a_batch(tmp_path: Path) -> None:
    with RedisServer() as server:
        memory = opened(server, tmp_path)
        await memory.apply([took("toy story", "1"), did("u:ann", "1")], 1)
        before = await contents(memory.redis)
        await memory.redis.write(lambda client: cast(Any, client.config_set("maxmemory", 1)))
        with pytest.raises(StorageFailed):
            await memory.apply([forget("ann"), *(took(f"film {n}", "1", f"u:{n}") for n in range(100))], 2)
        assert await contents(memory.redis) == before
        assert ids(await memory.remembered(TOY, 9, soon())) == ["1"]
        await memory.redis.write(lambda client: cast(Any, client.config_set("maxmemory", 0)))
        await memory.apply([forget("ann")], 2)
        assert await memory.remembered(TOY, 9, soon()) == []
        await memory.close()

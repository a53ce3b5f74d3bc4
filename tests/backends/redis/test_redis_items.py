"""The catalogue on a real Redis: the contract, several processes, crashes, and the second copy of the documents."""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from services.backends.base import ItemStore
from services.backends.fallback_items import FallbackItems
from services.backends.redis.items import RedisItems
from services.backends.redis.server import Redis
from services.errors import StorageFailed, Unavailable
from services.types import Deadline, Document, Schema
from tests.contracts.item_store import SCHEMA, ItemStoreContract, item, soon
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def connected(server: RedisServer, place: object) -> Redis:
    return Redis(server.url, f"t{zlib.crc32(str(place).encode())}")


@asynccontextmanager
async def opened(server: RedisServer, place: object, **options: Any) -> AsyncIterator[RedisItems]:
    redis = connected(server, place)
    store = RedisItems(redis, **options)
    try:
        yield store
    finally:
        await store.close()
        await redis.close()


class TestRedisItems(ItemStoreContract):
    options: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def place(self, server: RedisServer, tmp_path: Path) -> None:
        self.server, self.folder = server, tmp_path

    def store(self) -> AbstractAsyncContextManager[ItemStore]:
        return opened(self.server, self.folder, **self.options)


class TestRedisItemsWithATinyCache(TestRedisItems):
    options = {"cached": 1}  # noqa: RUF012


class TestFallbackItems(TestRedisItems):
    """With a healthy primary, it behaves like that primary."""

    @asynccontextmanager
    async def store(self) -> AsyncIterator[ItemStore]:  # type: ignore[override]
        async with opened(self.server, self.folder) as store:
            yield FallbackItems(store, never)


async def never(object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
    if deadline.remaining() <= 0:
        raise TimeoutError
    raise AssertionError("the second copy was asked")


# --- documents ---


async def test_documents_asked_for_again_come_from_memory_within_its_bound(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path, cached=2) as store:
        await store.put([item("a"), item("b"), item("c")])
        first = await store.get(["a", "b"], soon())
        assert (await store.get(["a", "b"], Deadline.after(-1)))["a"] is first["a"]
        await store.get(["b"], soon())
        await store.get(["c"], soon())  # "a" was asked for least lately
        assert (await store.get(["b"], soon()))["b"] is first["b"]
        assert (await store.get(["a"], soon()))["a"] is not first["a"]


async def test_long_documents_are_compressed_and_come_back_whole(server: RedisServer, tmp_path: Path) -> None:
    rng = random.Random(1)
    documents = [
        item("words", text="once upon a time " * 500),
        item("noise", text="".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(2000))),
        item("short"),
        item("1", text="\x00\u2028🍿" * 300),
    ]
    async with opened(server, tmp_path) as store:
        await store.put(documents)
        assert await store.get([str(d["id"]) for d in documents], soon()) == {d["id"]: d for d in documents}
        assert [d async for d in store.scan()] == sorted(documents, key=lambda d: str(d["id"]))
        assert (await store.changes(0))[1] == documents
        await store.put(documents)
        assert await store.sequence() == 4
        redis = connected(server, tmp_path)
        bodies = redis.key("i", "bodies")
        body = await redis.read(lambda client: cast(Any, client.hget(bodies, "words")))
        assert len(body) < 200
        await redis.close()


async def test_large_documents_are_moved_in_bounded_portions(server: RedisServer, tmp_path: Path) -> None:
    rng = random.Random(2)
    documents = [item(f"{n:03}", text=rng.randbytes(90_000).hex()) for n in range(100)]  # 9 MB even when compressed
    async with opened(server, tmp_path) as store:
        await store.put(documents)
        portions, number = [], 0
        while True:
            number, upserts, _ = await store.changes(number)
            if not upserts:
                break
            portions.append(len(upserts))
        assert sum(portions) == 100
        assert len(portions) > 1
        assert [d["id"] async for d in store.scan()] == [d["id"] for d in documents]


# --- several processes ---


async def test_a_cached_document_is_as_new_as_the_changes_that_were_heard(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path) as one, opened(server, tmp_path) as other:
        await one.put([item("a", v=1), item("b", v=1), item("c")])
        number, _, _ = await other.changes(0)
        first = await other.get(["a", "b", "c"], soon())
        await one.put([item("a", v=2)])
        await one.delete(["b"])
        assert await one.get(["a", "b"], soon()) == {"a": item("a", v=2)}
        assert await other.changes(number) == (5, [item("a", v=2)], ["b"])
        found = await other.get(["a", "b", "c"], soon())
        assert found == {"a": item("a", v=2), "c": item("c")}
        assert found["c"] is first["c"]


async def test_what_a_follower_heard_of_is_never_got_older_again(server: RedisServer, tmp_path: Path) -> None:
    """Two write, a third follows and reads: no answer is older than the changes it had heard of before it asked."""
    async with opened(server, tmp_path) as one, opened(server, tmp_path) as two, opened(server, tmp_path) as third:
        names = [f"i{n}" for n in range(8)]
        heard = dict.fromkeys(names, 0)
        await one.put([item(name, v=0) for name in names])
        writing = True

        async def write(store: RedisItems, mine: Sequence[str]) -> None:
            for version in range(1, 60):
                await store.put([item(name, v=version) for name in mine])

        async def follow() -> None:
            number = 0
            while writing or number < await third.sequence():
                number, upserts, _ = await third.changes(number)
                heard.update({str(d["id"]): d["v"] for d in upserts})

        async def read() -> None:
            rng = random.Random(1)
            while writing:
                asked = rng.sample(names, 3)
                least = {name: heard[name] for name in asked}
                found = await third.get(asked, soon())
                assert all(found[name]["v"] >= least[name] for name in asked)
                await asyncio.sleep(0)

        others = asyncio.gather(follow(), read(), read(), read())
        await asyncio.gather(write(one, names[:4]), write(two, names[4:]))
        writing = False
        await others
        assert heard == dict.fromkeys(names, 59)
        assert {d["v"] for d in (await third.get(names, soon())).values()} == {59}


async def test_numbers_are_given_once_whoever_writes(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path) as one, opened(server, tmp_path) as two:
        parts = [[item(f"{who}{n}") for n in range(40)] for who in "abcdef"]
        await asyncio.gather(*(store.put(part) for store, part in zip([one, two] * 3, parts, strict=True)))
        assert await one.sequence() == 240
        _, upserts, deletes = await two.changes(0)
        assert (len({d["id"] for d in upserts}), deletes) == (240, [])


class Gated(Redis):
    """A server whose replies to reads come late, and to which writes come late, where they were begun behind a gate."""

    def __init__(self, server: RedisServer, place: object) -> None:
        super().__init__(server.url, f"t{zlib.crc32(str(place).encode())}")
        self.gate: asyncio.Event | None = None

    async def read(self, work: Any, deadline: Deadline | None = None, key: Any = None) -> Any:
        gate = self.gate

        async def late(client: Any) -> Any:
            result = await work(client)
            if gate is not None:
                await gate.wait()
            return result

        return await super().read(late, deadline, key)

    async def write(self, work: Any, seconds: float = 5.0) -> Any:
        if self.gate is not None:
            await self.gate.wait()
        return await super().write(work, seconds)

    async def behind(self, gate: asyncio.Event, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """`call`, as far as it gets before `gate`; others go on without it."""
        self.gate = gate
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0.05)
        self.gate = None
        return task


@pytest.mark.parametrize("own", [True, False], ids=["own write", "heard of"])
async def test_a_read_that_began_earlier_tells_nobody_what_was_before(
    own: bool, server: RedisServer, tmp_path: Path
) -> None:
    """The reply to it comes only after the news: who asks after them neither shares it nor finds it in memory."""
    redis, gate = Gated(server, tmp_path), asyncio.Event()
    store = RedisItems(redis)
    async with opened(server, tmp_path) as other:
        await store.put([item("a", v=1)])
        early = await redis.behind(gate, store.get(["a"], soon()))
        if own:
            await store.put([item("a", v=2)])
        else:
            await other.put([item("a", v=2)])
            assert await store.changes(1) == (2, [item("a", v=2)], [])
        late = asyncio.ensure_future(store.get(["a"], soon()))
        await asyncio.sleep(0.05)
        gate.set()
        assert await late == {"a": item("a", v=2)}
        assert await early == {"a": item("a", v=1)}
        assert await store.get(["a"], soon()) == {"a": item("a", v=2)}
    await redis.close()


async def test_a_write_that_was_given_up_does_not_come_after_a_later_one(server: RedisServer, tmp_path: Path) -> None:
    redis, gate = Gated(server, tmp_path), asyncio.Event()
    store = RedisItems(redis)
    given_up = await redis.behind(gate, store.put([item("a", v=1)]))
    given_up.cancel()
    await asyncio.wait([given_up])
    later = asyncio.ensure_future(store.put([item("a", v=2)]))
    await asyncio.sleep(0.05)
    gate.set()
    await later
    await store.put([item("b")])
    assert (await store.get(["a"], soon()))["a"]["v"] == 2
    assert await store.sequence() == 3
    await redis.close()


# --- what is kept ---


async def test_old_deletions_go_once_every_index_has_them(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path, deletions_seconds=-1.0) as store:
        await store.put([item("a"), item("b"), item("c")])
        await store.delete(["a", "b"])
        await store.applied("lexical", 5)
        assert await store.changes(3) == (3, [], [])
        await store.delete(["c"])
        await store.applied("vector", 5)
        await store.applied("lexical", 6)
        assert await store.changes(3) == (6, [], ["c"])  # "vector" has yet to hear of it
        await store.put([item("a")])
        await store.applied("vector", 7)
        assert await store.changes(0) == (7, [item("a")], [])
        assert await store.sequence() == 7


async def test_an_item_that_came_back_is_not_taken_for_a_deletion(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path, deletions_seconds=-1.0) as store:
        await store.put([item("a")])
        await store.delete(["a"])
        await store.put([item("a")])
        await store.applied("lexical", 3)
        assert await store.changes(0) == (3, [item("a")], [])


async def test_young_deletions_stay_for_those_who_confirm_nothing(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path) as store:
        await store.put([item("a")])
        await store.delete(["a"])
        await store.applied("lexical", 2)
        assert await store.changes(0) == (2, [], ["a"])


async def test_what_was_acknowledged_survives_a_crash(tmp_path: Path) -> None:
    with RedisServer() as server:
        acknowledged: dict[str, int] = {}
        for crash in range(3):
            async with opened(server, tmp_path) as store:
                for n in range(20):
                    await store.put([item(f"{crash}.{n}", v=n), item("last", v=100 * crash + n)])
                    acknowledged |= {f"{crash}.{n}": n, "last": 100 * crash + n}
                dying = asyncio.ensure_future(store.put([item(f"lost{crash}"), item(f"with{crash}")]))
                await asyncio.sleep(0.002)
                server.kill()
                await asyncio.gather(dying, return_exceptions=True)
                server.restart()
        async with opened(server, tmp_path) as store:
            stored = {d["id"]: d.get("v") async for d in store.scan()}
            assert {one: v for one, v in stored.items() if one in acknowledged} == acknowledged
            for crash in range(3):
                assert (f"lost{crash}" in stored) == (f"with{crash}" in stored)
            assert await store.count() == len(stored)
            assert {d["id"] for d in (await store.changes(0))[1]} == set(stored)


async def test_a_full_server_refuses_writes_and_keeps_what_it_has(tmp_path: Path) -> None:
    with RedisServer() as server:
        redis = connected(server, tmp_path)
        store = RedisItems(redis)
        await store.put([item("a", v=1)])
        await redis.write(lambda client: cast(Any, client.config_set("maxmemory", 1)))
        with pytest.raises(StorageFailed):
            await store.put([item("a", v=2), item("b")])
        with pytest.raises(StorageFailed):
            await store.delete(["a"])
        with pytest.raises(StorageFailed):
            await store.set_schema(SCHEMA)
        assert await store.get(["a", "b"], soon()) == {"a": item("a", v=1)}
        assert (await store.count(), await store.sequence()) == (1, 1)
        assert await store.schema() is None
        await redis.close()


async def test_another_schema_is_one_for_every_process(server: RedisServer, tmp_path: Path) -> None:
    async with opened(server, tmp_path) as one, opened(server, tmp_path) as other:
        await one.set_schema(SCHEMA)
        await one.applied("lexical", 3)
        assert (await other.schema(), await other.confirmed("lexical")) == (SCHEMA, 3)
        await other.set_schema(Schema(inferred=False))
        assert (await one.schema(), await one.confirmed("lexical")) == (Schema(inferred=False), None)


# --- away ---


async def test_a_server_that_is_away_is_unavailable_but_for_what_is_in_memory(tmp_path: Path) -> None:
    with RedisServer() as server:
        async with opened(server, tmp_path) as store:
            await store.put([item("a"), item("b")])
            await store.get(["a"], soon())
            server.kill()
            assert await store.get(["a"], soon()) == {"a": item("a")}
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await store.get(["a", "b"], soon())
            with pytest.raises(StorageFailed):
                await store.put([item("c")])
            with pytest.raises(StorageFailed):
                await store.changes(0)


async def test_documents_come_from_the_second_copy_while_the_server_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="services.backends.fallback_items")
    now, asked = 0.0, []

    async def second(object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        assert deadline.remaining() > 0
        asked.append(list(object_ids))
        return {one: item(one, copy=True) for one in sorted(object_ids) if one != "nobody"}

    with RedisServer() as server:
        async with opened(server, tmp_path, cached=1) as primary:
            store = FallbackItems(primary, second, clock=lambda: now)
            await store.put([item("a"), item("b")])
            assert await store.get(["b", "a", "nobody"], soon()) == {"b": item("b"), "a": item("a")}
            assert asked == []
            server.kill()
            for _ in range(20):
                found = await store.get(["b", "nobody", "a", "b"], soon())
                assert list(found.items()) == [("b", item("b", copy=True)), ("a", item("a", copy=True))]
                assert await store.get(["a"], soon()) == {"a": item("a")}  # still in memory
            assert len(asked) == 20
            with pytest.raises(StorageFailed):
                await store.put([item("c")])
            with pytest.raises(StorageFailed):
                await store.count()
            assert len(asked) == 20
            assert len(caplog.records) == 1
            server.restart()
            async with asyncio.timeout(10):
                while (await store.get(["b"], soon()))["b"].get("copy"):  # noqa: ASYNC110 # circuit open
                    await asyncio.sleep(0.05)
            server.kill()
            now += 1000.0
            await store.get(["a", "b"], soon())
            assert len(caplog.records) == 2
    assert all("Unavailable" in record.getMessage() for record in caplog.records)


async def test_a_server_that_hangs_leaves_half_the_time_to_the_second_copy(tmp_path: Path) -> None:
    left = 0.0

    async def second(object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        nonlocal left
        left = deadline.remaining()
        return {one: item(one) for one in object_ids}

    hung: list[asyncio.StreamWriter] = []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hung.append(writer)

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    redis = Redis(f"redis://127.0.0.1:{port}/0")
    store = FallbackItems(RedisItems(redis), second)
    assert await store.get(["a"], Deadline.after(0.4)) == {"a": item("a")}
    assert 0.1 < left <= 0.2
    with pytest.raises(TimeoutError):
        await FallbackItems(RedisItems(redis), slow).get(["a"], Deadline.after(0.1))
    await redis.close()
    for writer in hung:
        writer.close()
    listener.close()
    await listener.wait_closed()


async def slow(object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
    async with deadline.enforced():
        await asyncio.Event().wait()
    raise AssertionError


async def test_what_another_process_deleted_is_gone_from_memory_after_a_scan(
    server: RedisServer, tmp_path: Path
) -> None:
    async with opened(server, tmp_path) as one, opened(server, tmp_path) as other:
        await one.put([item("a"), item("b")])
        await other.get(["a", "b"], soon())
        await one.delete(["a"])
        assert [d["id"] async for d in other.scan()] == ["b"]
        assert list(await other.get(["a", "b"], soon())) == ["b"]

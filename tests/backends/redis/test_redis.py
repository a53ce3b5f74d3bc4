"""Connections to a real Redis: deadlines, cancellation, restarts, scripts, and what is unsafe about a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.backends.redis import server as module
from services.backends.redis.server import Redis
from services.errors import StorageFailed, Unavailable
from services.types import Deadline
from tests.servers.redis import RedisServer, free_port


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def connected(url: str, namespace: str = "ltrr") -> AsyncIterator[Redis]:
    redis = Redis(url, namespace)
    try:
        yield redis
    finally:
        await redis.close()


class BlackHole:
    """Accepts and never answers; counts connections."""

    connections = 0

    async def __aenter__(self) -> BlackHole:
        self._open: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        while await reader.read(65536):
            pass
        writer.close()


async def connections(redis: Redis) -> int:
    """How many connections of clients the server ever took."""
    found: Any = await redis.read(lambda c: c.info("stats"))
    return int(found["total_connections_received"])


# --- names ---


def test_keys_share_one_slot() -> None:
    redis = Redis("redis://127.0.0.1:1", "shop-1")
    assert redis.key("log") == "{shop-1}:log"
    assert redis.key("log", "end", 3) == "{shop-1}:log:end:3"


@pytest.mark.parametrize("namespace", ["", "a{b}", "a b", "é", "x" * 65])
def test_a_namespace_that_cannot_be_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Redis("redis://127.0.0.1:1", namespace)


def test_a_url_that_cannot_be_is_refused() -> None:
    for url in ("http://127.0.0.1", "127.0.0.1:6379", "redis://127.0.0.1:port"):
        with pytest.raises(ValueError):  # noqa: PT011 - the client's own words
            Redis(url)


async def test_options_of_the_url_do_not_undo_ours(server: RedisServer) -> None:
    async with connected(f"{server.url}?decode_responses=true&socket_timeout=0.000001") as redis:
        await redis.write(lambda c: c.set(redis.key("a"), b"\xff"))
        assert await redis.read(lambda c: c.get(redis.key("a"))) == b"\xff"


# --- deadlines ---


@pytest.mark.parametrize("seconds", [0.05, 0.6])
async def test_a_server_that_never_answers_costs_the_deadline_and_one_connection(seconds: float) -> None:
    async def late(call: Awaitable[object]) -> float:
        """Seconds by which `call` ends later than a timer of `seconds` that was set when it began."""
        rung = 0.0

        async def ring() -> None:
            nonlocal rung
            await asyncio.sleep(seconds)
            rung = time.perf_counter()

        timer = asyncio.create_task(ring())
        await asyncio.sleep(0)
        with pytest.raises((TimeoutError, StorageFailed)):
            await call
        ended = time.perf_counter()
        await timer
        return ended - rung if rung <= ended else 0.0

    async with BlackHole() as hole, connected(hole.url) as redis:
        for calls in range(1, 4):
            assert await late(redis.read(lambda c: c.get("a"), Deadline.after(seconds))) < 0.02
            assert hole.connections == calls
        with pytest.raises(TimeoutError):
            await redis.read(lambda c: c.get("a"), Deadline.after(seconds))
        assert await late(redis.write(lambda c: c.set("a", "b"), seconds)) < 0.02
        assert hole.connections == 5


async def test_the_same_read_asked_at_once_by_many_goes_out_once(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        await redis.write(lambda c: c.set("same", "value"))
        await redis.write(lambda c: c.config_resetstat())
        values = await asyncio.gather(
            *(redis.read(lambda c: c.get("same"), Deadline.after(5), key="same") for _ in range(50))
        )
        assert values == [b"value"] * 50
        told: Any = await redis.read(lambda c: c.info("commandstats"))
        assert told["cmdstat_get"]["calls"] == 1


async def test_the_password_of_the_url_is_used_and_never_told() -> None:
    with RedisServer(requirepass="right") as server:
        for password in ("right", "wrong"):
            async with connected(server.url.replace("//", f"//:{password}@")) as redis:
                if password == "right":
                    await redis.write(lambda c: c.set("a", "b"))
                    continue
                with pytest.raises(StorageFailed, match="refuses the user or the password") as caught:
                    await redis.write(lambda c: c.set("a", "b"))
                assert password not in str(caught.value)


async def test_nothing_begins_after_its_deadline(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        with pytest.raises(TimeoutError):
            await redis.read(lambda c: pytest.fail("begun"), Deadline.after(-1.0))


async def test_an_absent_server_is_said_at_once() -> None:
    async with connected("redis://user:secret@127.0.0.1:1") as redis:
        start = time.perf_counter()
        with pytest.raises(Unavailable) as caught:
            await redis.read(lambda c: c.get("a"))
        with pytest.raises(StorageFailed):
            await redis.write(lambda c: c.set("a", "b"))
        assert time.perf_counter() - start < 0.5
        assert "secret" not in str(caught.value)


async def test_who_waits_for_a_free_connection_waits_no_longer_than_the_deadline(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 4)
    async with connected(server.url) as redis:
        before = await connections(redis)
        free = asyncio.Event()

        async def hold() -> None:
            await redis.read(lambda c: free.wait())

        holders = [asyncio.create_task(hold()) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await redis.read(lambda c: c.get("a"), Deadline.after(0.05))
        with pytest.raises(StorageFailed, match="busy"):
            await redis.write(lambda c: c.set("a", "b"), 0.05)
        waiting = [asyncio.create_task(redis.read(lambda c: c.get("a"))) for _ in range(20)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        free.set()
        await asyncio.gather(*holders, *waiting[1::2])
        # Our own crowd says nothing about the server: its circuit stays closed, and so does the number of sockets.
        await asyncio.gather(*(redis.read(lambda c: c.get("a")) for _ in range(200)))
        assert await connections(redis) - before <= 4


# --- cancellation ---


async def test_no_reply_ever_goes_to_another_request() -> None:
    """2,000 reads given up at every possible moment, beside reads that are not: each gets its own key's value."""
    with RedisServer() as server:
        async with connected(server.url) as redis:
            await redis.write(lambda c: c.mset({f"k{n}": f"v{n}" for n in range(100)}))
            wrong = cancelled = 0

            async def read(number: int) -> None:
                nonlocal wrong
                value = await redis.read(lambda c: c.get(f"k{number % 100}"))
                wrong += value != f"v{number % 100}".encode()

            async def broken_off(number: int) -> None:
                nonlocal cancelled
                task = asyncio.create_task(read(number))
                for _ in range(number % 12):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                cancelled += task.cancelled()

            while cancelled < 2000:
                await asyncio.gather(*(f(n) for n in range(60) for f in (broken_off, read)))
            assert wrong == 0
            assert not redis._client.connection_pool._in_use_connections


# --- lost connections ---


async def test_connections_that_died_while_idle_fail_no_call() -> None:
    with RedisServer() as server:
        async with connected(server.url) as redis:
            count = 0

            async def write(number: int) -> None:
                nonlocal count
                await redis.write(lambda c: c.sadd("seen", number))
                count += 1

            for turn in range(5):
                # Several pooled connections, all of them dead without the event loop having been told.
                await asyncio.gather(*(write(100 * turn + n) for n in range(8)))
                if turn % 2:
                    server.kill()
                server.restart()
            await asyncio.gather(*(write(1000 + n) for n in range(8)))
            assert await redis.read(lambda c: c.scard("seen")) == count == 48


async def test_a_connection_that_was_dropped_unheard_is_replaced_before_it_is_used(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection dropped by a firewall: open on our side, but nobody answers."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    silent = False
    passed = 0

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not silent:
                writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal passed, silent
        passed += 1
        silent = False
        behind = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(forward(reader, behind[1]), forward(behind[0], writer))

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with connected(f"redis://127.0.0.1:{proxy.sockets[0].getsockname()[1]}") as redis:
        await redis.write(lambda c: c.set("a", "1"))
        await asyncio.sleep(0.06)
        await redis.write(lambda c: c.set("a", "2"))  # Idle, but alive: asked and used.
        assert passed == 1
        silent = True
        await asyncio.sleep(0.06)
        await redis.write(lambda c: c.set("a", "3"))
        assert passed == 2
        assert await redis.read(lambda c: c.get("a")) == b"3"
    proxy.close()
    await proxy.wait_closed()


async def test_a_write_whose_connection_breaks_on_the_way_is_not_sent_again() -> None:
    received = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.readuntil(b"value\r\n")
        received += 1
        writer.close()

    broken = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with connected(f"redis://127.0.0.1:{broken.sockets[0].getsockname()[1]}") as redis:
        for call in range(1, 4):
            with pytest.raises(StorageFailed):
                await redis.write(lambda c: c.set("a", "value"))
            assert received == call
    broken.close()
    await broken.wait_closed()


# --- scripts ---


async def test_a_server_that_forgot_a_script_is_given_it_again() -> None:
    with RedisServer() as server:
        async with connected(server.url) as redis:
            script = redis.script("lock_release")
            assert redis.script("lock_release") is script

            async def release() -> Any:
                return await redis.write(lambda c: script(keys=["a"], args=["mine"], client=c))

            await redis.write(lambda c: c.set("a", "mine"))
            assert await release() == 1
            await redis.write(lambda c: c.script_flush())
            assert await release() == 0
            server.restart()
            assert await release() == 0


async def test_what_the_server_refuses_is_said_by_name_alone(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        await redis.write(lambda c: c.set("text", "secret"))
        for work in (redis.write, redis.read):
            with pytest.raises(StorageFailed) as caught:
                await work(lambda c: c.execute_command("LPUSH", "text", "secret"))  # type: ignore[no-untyped-call]
            assert "secret" not in str(caught.value)
            assert caught.value.__suppress_context__
        # It is nobody's outage: the circuit stays closed.
        for _ in range(100):
            with pytest.raises(StorageFailed):
                await redis.read(lambda c: c.lrange("text", 0, 1))
        assert await redis.read(lambda c: c.get("text")) == b"secret"


# --- what is unsafe ---


async def checked(**options: str | int) -> list[str]:
    with RedisServer(**options) as server:
        async with connected(server.url) as redis:
            return await redis.check()


async def test_a_safe_server_is_said_to_be_safe(server: RedisServer) -> None:
    async with connected(server.url) as redis:
        assert await redis.check() == []
        assert await redis.version() >= "7"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"appendonly": "no"}, "appendonly is off"),
        ({"appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"replicaof": "127.0.0.1 1"}, "replica"),
        ({"cluster_enabled": "yes", "cluster_port": free_port()}, "cluster"),
    ],
)
async def test_what_may_lose_data_is_said(options: dict[str, str | int], said: str) -> None:
    (problem,) = await checked(**options)
    assert said in problem


async def test_a_server_that_tells_nothing_of_its_configuration_can_be_checked() -> None:
    assert await checked(rename_command="CONFIG forbidden") == []


async def test_an_old_server_is_said_to_be_old(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_VERSION", (99, 0))
    async with connected(server.url) as redis:
        (problem,) = await redis.check()
        assert "99.0" in problem

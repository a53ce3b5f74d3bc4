"""Switches, in Redis and in a file."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from services.backends.base import StateStore
from services.backends.redis.server import Redis
from services.backends.redis.state import RedisState
from services.backends.sqlite.state import SqliteState
from services.errors import StorageFailed
from tests.contracts.state_store import StateStoreContract
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def opened(server: RedisServer, namespace: str) -> AsyncIterator[RedisState]:
    redis = Redis(server.url, namespace)
    state = RedisState(redis)
    try:
        yield state
        await state.close()
    finally:
        await redis.close()


class TestRedisState(StateStoreContract):
    @pytest.fixture(autouse=True)
    def on(self, server: RedisServer) -> None:
        self.server = server

    def open(self, folder: Path) -> AbstractAsyncContextManager[StateStore]:
        return opened(self.server, hashlib.sha256(str(folder).encode()).hexdigest()[:16])


class TestSqliteState(StateStoreContract):
    @asynccontextmanager
    async def open(self, folder: Path) -> AsyncIterator[StateStore]:
        state = SqliteState(folder / "state.db")
        try:
            yield state
        finally:
            await state.close()


async def test_many_switches_are_read_at_one_moment(server: RedisServer) -> None:
    async with opened(server, "many") as state:
        await state.set("a", 1)
        await state.set("b", None)
        assert await state.get_many(["b", "c", "a"]) == {"b": None, "c": None, "a": 1}
        assert await state.get_many([]) == {}


async def test_a_switch_survives_kill_9_and_an_absent_server_is_said_so() -> None:
    with RedisServer() as server:
        async with opened(server, "ltrr") as state:
            await state.set("mode", "static")
            server.kill()
            with pytest.raises(StorageFailed):
                await state.set("mode", "learned")
            with pytest.raises(StorageFailed):
                await state.get("mode")
            server.restart()
            assert await state.get("mode") == "static"

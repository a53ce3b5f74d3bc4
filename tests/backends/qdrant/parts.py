"""Shared parts of the tests of the vector index on a Qdrant server."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from services.backends.qdrant.index import QdrantIndex
from services.backends.qdrant.server import QdrantServer
from services.types import Deadline
from tests.contracts.vector_index import SCHEMA, SIZE, items
from tests.servers.qdrant import QdrantStub

ONES = [1.0] * SIZE
namespaces = (f"n{number}" for number in itertools.count())


@asynccontextmanager
async def serving(stub: QdrantStub, key: str | None = None, connections: int = 64) -> AsyncIterator[QdrantServer]:
    server = QdrantServer(stub.url, key, connections)
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def filled(stub: QdrantStub, key: str | None = None) -> AsyncIterator[QdrantIndex]:
    """An index of its own with the items, whose calls are counted from here on."""
    async with serving(stub, key) as server:
        index = QdrantIndex(server, next(namespaces), "text", SCHEMA, SIZE, "v1")
        await index.rebuild(SCHEMA, SIZE, items())
        stub.forget_calls()
        yield index
        await index.close()


def eventually(look: Callable[[], Any]) -> None:
    until = time.monotonic() + 10.0
    while not look():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


async def collections(stub: QdrantStub, index: QdrantIndex) -> set[str]:
    async with serving(stub) as server:
        known = await server.read(lambda client, _: client.get_collections(), Deadline.after(5))
        return {held.name for held in known.collections if held.name.startswith(f"{index._alias}-")}


async def in_force(stub: QdrantStub, index: QdrantIndex) -> str:
    async with serving(stub) as server:
        known = await server.read(lambda client, _: client.get_aliases(), Deadline.after(5))
        return {alias.alias_name: alias.collection_name for alias in known.aliases}[index._alias]

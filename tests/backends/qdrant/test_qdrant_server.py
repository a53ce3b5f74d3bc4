"""A Qdrant server in trouble, or not for us: what the vector index says, when, and how often it asks."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from services.backends.qdrant import index as qdrant
from services.backends.qdrant.index import OutOfStep, QdrantIndex
from services.backends.qdrant.server import QdrantServer, Refused, unsuitable
from services.errors import StorageFailed, Unavailable
from services.types import Deadline
from tests.backends.qdrant.parts import ONES, eventually, filled, namespaces, serving
from tests.contracts.vector_index import SCHEMA, SIZE, expected, ids, items
from tests.servers.qdrant import QdrantStub

KEY = "hush-hush-123"
TROUBLE = ["503", "429", "500", "reset", "cut", "garbage", "nonsense"]


@pytest.fixture(scope="module")
def stub() -> Iterator[QdrantStub]:
    with QdrantStub() as server:
        yield server


async def error_of(work: Awaitable[Any], kind: type[BaseException]) -> tuple[BaseException, float]:
    """How it failed, as it must, and after how many seconds; without a word of what the client or server said."""
    start = time.monotonic()
    with pytest.raises(kind) as raised:
        await work
    told = "".join(traceback.format_exception(raised.value))
    assert KEY not in told
    assert "the secret is out" not in told
    return raised.value, time.monotonic() - start


@pytest.mark.parametrize("kind", TROUBLE)
async def test_trouble_is_told_at_once_and_asked_for_no_more_than_the_budget_allows(
    stub: QdrantStub, kind: str
) -> None:
    async with filled(stub) as index:
        with stub.fault(kind, "points"):
            for _ in range(4):
                error, took = await error_of(index.nearest(ONES, (), 5, Deadline.after(2)), Unavailable)
                assert not isinstance(error, OutOfStep)
                assert took < 1.0
            # Four calls, and the one more that the budget has at the start.
            assert 4 <= await asyncio.to_thread(stub.calls, "points/query") <= 5
            for _ in range(20):
                await error_of(index.nearest(ONES, (), 5, Deadline.after(2)), Unavailable)
            assert await asyncio.to_thread(stub.calls, "points/query") <= 12  # the circuit is open
        with pytest.raises(Unavailable) as raised:
            await index.vectors(["i1"], Deadline.after(2))
        assert raised.value.reason == "circuit_open"


@pytest.mark.parametrize("kind", [*TROUBLE, "unfinished", "408"])
async def test_a_write_in_trouble_is_sent_once_and_fails(stub: QdrantStub, kind: str) -> None:
    async with filled(stub) as index:
        with stub.fault(kind, "points"):
            await error_of(index.apply(items()[:1], []), StorageFailed)
            await error_of(index.apply([], ["i1"]), StorageFailed)
            assert await asyncio.to_thread(stub.calls, "points") == 2


@pytest.mark.parametrize("kind", ["blackhole", "slow", "408"])
async def test_the_deadline_holds_though_the_client_counts_in_seconds(stub: QdrantStub, kind: str) -> None:
    async with filled(stub) as index:
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: index.nearest(ONES, (), 5, Deadline.after(0.2)),
            lambda: index.vectors(["i1"], Deadline.after(0.2)),
        ]
        with stub.fault(kind, "points", 3.0):
            for call in calls:
                _, took = await error_of(call(), TimeoutError)
                assert took < 0.8
            assert await asyncio.to_thread(stub.calls, "points.*timeout=1$") == 2
        assert len(await index.nearest(ONES, (), 5, Deadline.after(5))) == 5


async def test_a_write_ends_in_time(stub: QdrantStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "WRITE_SECONDS", 0.2)
    async with filled(stub) as index:
        with stub.fault("blackhole", "points"):
            _, took = await error_of(index.apply(items()[:1], []), StorageFailed)
            assert took < 0.8


async def test_a_server_that_is_not_there_is_told_at_once() -> None:
    server = QdrantServer("http://127.0.0.1:9")
    index = QdrantIndex(server, "n", "text", SCHEMA, SIZE, "v1")
    _, took = await error_of(index.nearest(ONES, (), 5, Deadline.after(2)), Unavailable)
    assert took < 0.5
    await error_of(index.apply(items()[:1], []), Unavailable)
    await error_of(index.rebuild(SCHEMA, SIZE, items()), Unavailable)
    await error_of(index.stale(), Unavailable)
    await error_of(server.problems(Deadline.after(2)), Unavailable)
    await index.close()
    await server.close()


async def test_connections_are_kept_and_given_back(stub: QdrantStub) -> None:
    async with serving(stub, connections=4) as server:
        index = QdrantIndex(server, next(namespaces), "text", SCHEMA, SIZE, "v1")
        await index.rebuild(SCHEMA, SIZE, items())
        stub.forget_calls()
        for i in range(30):
            await index.nearest(items()[i][1], (), 5, Deadline.after(5))
        assert stub.connections() == 1
        # Searches that are given up in the middle take no connection with them: there are only four.
        vectors = np.random.default_rng(3).normal(size=(150, SIZE)).tolist()
        with stub.fault("slow", "points", 0.01):
            for _ in range(4):
                given_up = [asyncio.ensure_future(index.nearest(v, (), 5, Deadline.after(5))) for v in vectors]
                for number in range(len(given_up)):
                    await asyncio.sleep(0.001)
                    given_up[number - 20].cancel()
                await asyncio.gather(*given_up, return_exceptions=True)
        found = await asyncio.gather(*(index.nearest(v, (), 5, Deadline.after(10)) for v in vectors[:40]))
        assert [ids(each) for each in found] == [expected(items(), v, (), 5) for v in vectors[:40]]
        await index.close()


async def test_equal_questions_at_once_are_asked_once_but_never_across_a_write(stub: QdrantStub) -> None:
    async with filled(stub) as index:
        with stub.fault("late", "points/query", 1.0):
            found = await asyncio.gather(*(index.nearest(ONES, (), 5, Deadline.after(5)) for _ in range(50)))
            assert len({tuple(each) for each in found}) == 1
            assert await asyncio.to_thread(stub.calls, "points/query") == 1
            before = asyncio.ensure_future(index.nearest(ONES, (), 1, Deadline.after(5)))
            await asyncio.to_thread(eventually, lambda: stub.calls("points/query") == 2)
            await index.apply([({"id": "0new"}, ONES)], [])
            assert not before.done()
            assert ids(await index.nearest(ONES, (), 1, Deadline.after(5))) == ["0new"]
            await before


# --- keys and versions ------------------------------------------------------------------------------------------------


async def test_the_key_is_sent_and_never_told() -> None:
    with QdrantStub(api_key=KEY) as stub:
        async with filled(stub, KEY) as index:
            assert len(await index.nearest(ONES, (), 5, Deadline.after(5))) == 5
            for kind in ("503", "reset", "garbage"):
                with stub.fault(kind):
                    await error_of(index.apply([], ["i1"]), StorageFailed)
        for key in (None, f"not-{KEY}"):
            async with serving(stub, key) as server:
                other = QdrantIndex(server, "n", "text", SCHEMA, SIZE, "v1")
                error, _ = await error_of(other.nearest(ONES, (), 5, Deadline.after(5)), Refused)
                assert "403" in str(error)
                await error_of(other.stale(), Refused)
                await error_of(other.apply([], ["i1"]), Refused)


async def test_an_old_server_is_told_and_stops_nothing() -> None:
    with QdrantStub(version="1.9.2") as stub:
        async with filled(stub) as index, serving(stub) as server:
            (problem,) = await server.problems(Deadline.after(5))
            assert problem == "Qdrant 1.9 will not do: 1.14 or a later 1.x is needed"
            assert await server.version(Deadline.after(5)) == "1.9.2"
            assert len(await index.nearest(ONES, (), 5, Deadline.after(5))) == 5


def test_which_versions_will_do() -> None:
    assert unsuitable("1.14.0") is None
    assert unsuitable("1.20.3-dev") is None
    assert unsuitable("1.13.6") is not None
    assert unsuitable("2.0.0") is not None
    assert unsuitable("0.15.0") is not None
    assert unsuitable("dev") == "the version of the Qdrant server cannot be read"


async def test_a_key_over_an_unencrypted_connection_is_a_problem(
    stub: QdrantStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(stub, KEY) as server:
        assert await server.problems(Deadline.after(5)) == []  # it stays on this machine
    monkeypatch.setattr("services.backends.qdrant.server.LOOPBACK_HOSTS", ())
    async with serving(stub, KEY) as server:
        (problem,) = await server.problems(Deadline.after(5))
        assert "unencrypted" in problem
        assert KEY not in problem

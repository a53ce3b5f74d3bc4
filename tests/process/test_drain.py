"""Leaving under load: whoever could send a request gets its answer."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.plain_gateway import free, plain

CLIENTS = 16
REQUEST = b"GET /answer?seconds=0.01 HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(slots=True)
class Load:
    """Clients of one port, half of which open a connection for every request, and half when theirs was closed."""

    port: int
    answered: int = 0
    turned_away: int = 0
    """Nobody listened: nothing was sent, so nothing was lost."""
    failed: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(keep=number % 2 == 0))

    async def _client(self, keep: bool) -> None:
        while not self.stopped:
            try:
                async with asyncio.timeout(0.5):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except (ConnectionRefusedError, TimeoutError):
                self.turned_away += 1
                await asyncio.sleep(0.01)
                continue
            except OSError as error:
                self.failed.append(f"connecting: {type(error).__name__}")
                continue
            try:
                while await self._ask(reader, writer) and keep and not self.stopped:
                    pass
            except (OSError, EOFError) as error:
                self.failed.append(type(error).__name__)
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
        self.answered += 1
        return b"connection: close" not in head


async def ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return b" 200 OK" in answer


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - what is looked at is in another process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
class TestUnderLoad:
    async def test_without_a_balancer_no_request_that_was_accepted_fails(self, tmp_path: Path, workers: int) -> None:
        with plain(tmp_path, workers) as gateway:
            load = Load(gateway.port)
            clients = asyncio.create_task(load.run())
            await until(lambda: load.answered >= 500)
            gateway.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0
            load.stopped = True
            await clients
            assert load.failed == []
            assert load.turned_away, "they went on asking after it had left"
            assert free(gateway.port)

    async def test_behind_a_balancer_that_heeds_readiness_nobody_is_even_turned_away(
        self, tmp_path: Path, workers: int
    ) -> None:
        with plain(tmp_path, workers, drain=1.5) as gateway:
            load = Load(gateway.port)
            clients = asyncio.create_task(load.run())
            await until(lambda: load.answered >= 500)
            start = load.answered
            gateway.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(1):
                while await ready(gateway.port):
                    pass
            noticed = load.answered
            await asyncio.sleep(0.5)  # a balancer is slower than that
            load.stopped = True
            await clients
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0
            before, after = noticed - start, load.answered - noticed
            assert load.failed == []
            assert load.turned_away == 0
            assert before < after, "it says at once that it leaves, and goes on answering"


async def test_draining_is_said_at_once_and_takes_as_long_as_set(tmp_path: Path) -> None:
    with plain(tmp_path, 2, drain=1.0) as gateway:
        start = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while await ready(gateway.port):
                pass
        assert time.monotonic() - start < 0.5
        assert json.loads(gateway.get("/answer"))["pid"], "still answering"
        assert gateway.process.wait(10) == 0
        assert 1.0 < time.monotonic() - start < 4.0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_request_that_comes_late_in_an_idle_connection_is_answered(tmp_path: Path, workers: int) -> None:
    with plain(tmp_path, workers) as gateway:
        load = Load(gateway.port)
        idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(10)]
        for reader, writer in idle[:5]:
            assert await load._ask(reader, writer)
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: free(gateway.port))
        for reader, writer in idle:
            assert not await load._ask(reader, writer), "and told that it was the last one"
            writer.close()
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0

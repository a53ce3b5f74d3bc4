"""An HTTP load generator with client-side timing, in a closed or an open loop.

A closed loop sends the next request when the previous response has arrived, so a slow service gets less load. An open
loop sends at times drawn in advance and measures from them, so a stall also shows in the requests queued behind it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson

from services.datasets.folder import DatasetQuery
from services.simulation.traffic import FILMS_MIX

T = TypeVar("T")

SPIN_SECONDS = 0.002
"""Busy wait before each send: the event loop's timers have a resolution of about a millisecond."""


def traffic(queries: Sequence[DatasetQuery], count: int, seed: int) -> list[DatasetQuery]:
    """`count` queries drawn like real traffic: a slice by FILMS_MIX (uniformly for other slices), then one of its
    queries by weight, with repetition. Raises ValueError without queries."""
    slices: dict[str, list[DatasetQuery]] = {}
    for query in queries:
        slices.setdefault(query.slice, []).append(query)
    if not slices:
        raise ValueError("no queries to send")
    names = sorted(slices)
    shares = [FILMS_MIX.get(name, 0.0) for name in names]
    rng = random.Random(seed)
    drawn = rng.choices(names, shares if any(shares) else None, k=count)
    return [rng.choices(slices[name], [query.weight for query in slices[name]])[0] for name in drawn]


def body(query: DatasetQuery) -> bytes:
    """The JSON body of a search request."""
    fields: dict[str, Any] = {"query": query.text, "limit": 10}
    return orjson.dumps(fields | ({"user_id": query.user_id} if query.user_id else {}))


_HEAD = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@dataclass(slots=True)
class Load:
    """Measurements of one run. Times are in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Of all requests including errors: from the scheduled send in an open loop, from the actual send in a closed
    loop."""
    late: list[float] = field(default_factory=list)
    """Delay of each send after its scheduled time: the loader's own contribution."""
    errors: int = 0
    """Responses other than 200, and broken connections."""
    degraded: int = 0
    """Responses that report a failed or late part."""
    server_cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    def note(self, start: float, status: int, answer: bytes) -> None:
        """Count a response that has just arrived."""
        self.latencies.append(time.perf_counter() - start)
        self.errors += status != 200
        self.degraded += b'"degraded":[{' in answer


class Connection:
    """One keep-alive connection. Much cheaper than a full HTTP client, whose cost would distort the measurement."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        """A connection to this port on the loopback address."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(self, sent: bytes) -> tuple[int, bytes]:
        """(status, body); status 0 when the connection broke."""
        try:
            self._writer.write(_HEAD % len(sent) + sent)
            lines = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            return int(lines[0].split()[1]), await self._reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            return 0, b""

    async def close(self) -> None:
        """Close it, ignoring errors."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


async def closed_loop(port: int, bodies: Sequence[bytes], concurrency: int) -> Load:
    """Send all `bodies` in a closed loop, `concurrency` at a time."""
    load, waiting = Load(), iter(bodies)
    connections = [await Connection.open(port) for _ in range(concurrency)]

    async def client(connection: Connection) -> None:
        for sent in waiting:
            start = time.perf_counter()
            load.note(start, *await connection.post(sent))

    start = time.perf_counter()
    await asyncio.gather(*[client(connection) for connection in connections])
    load.seconds = time.perf_counter() - start
    for connection in connections:
        await connection.close()
    return load


async def open_loop(port: int, bodies: Sequence[bytes], rate: float, seed: int) -> Load:
    """Send all `bodies` in an open loop with Poisson arrivals at `rate` per second; each request has its own connection
    while it runs, and is timed from its scheduled send."""
    load, rng = Load(), random.Random(seed)
    free: list[Connection] = []
    running: set[asyncio.Task[None]] = set()

    async def ask(sent: bytes, scheduled: float) -> None:
        connection = free.pop() if free else await Connection.open(port)
        load.late.append(time.perf_counter() - scheduled)
        load.note(scheduled, *await connection.post(sent))
        free.append(connection)

    start = scheduled = time.perf_counter()
    for sent in bodies:
        scheduled += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, scheduled - time.perf_counter() - SPIN_SECONDS))
        # Busy wait on purpose; responses are still read meanwhile.
        while time.perf_counter() < scheduled:  # noqa: ASYNC110
            await asyncio.sleep(0)
        task = asyncio.create_task(ask(sent, scheduled))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - start
    for connection in free:
        await connection.close()
    return load


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all threads so far (proc(5): fields 14 and 15 of /proc/PID/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Busy time of all cores of the machine so far, for any process (proc(5): /proc/stat)."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text("utf-8").split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


_NULL = b'{"hits":[' + b",".join([b'{"object_id":"0","document":{"title":"' + b"x" * 600 + b'"}}'] * 10) + b"]}"


async def null_service(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """The null control, an ASGI application: reads the request and always returns the same 6 kB."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_NULL)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _NULL})


def chunks(items: Sequence[T], sizes: Sequence[int]) -> Iterator[Sequence[T]]:
    """`items` cut into consecutive chunks of these sizes, so that no run repeats the queries of the previous one."""
    start = 0
    for size in sizes:
        yield items[start : start + size]
        start += size

"""A Qdrant server over REST: one connection pool and one circuit for all indexes of a process that are kept there.

The client rounds timeouts up to whole seconds, so deadlines are kept from outside (services.resilience.remote) and the
server is told the next whole second. No error of the client leaves this file: their texts may quote what was asked.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from services.errors import StorageFailed
from services.resilience.remote import Remote
from services.tracing import outgoing_headers
from services.types import Deadline

T = TypeVar("T")
Call = Callable[[AsyncQdrantClient, int], Coroutine[Any, Any, T]]
"""One request, given the client and the whole seconds to tell the server."""

NAME = "qdrant"
OLDEST = (1, 14)
CONNECTIONS = 64
IDLE_SECONDS = 4.0
"""How long an idle connection is kept; the server closes its own after five."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_TIMED_OUT = 408
_TROUBLE = (429, 500)
"""This status, and those from this one on, tell of an engine in trouble."""


class EngineFailed(Exception):
    """The server cannot be reached, is in trouble, or answers what cannot be read."""


class Refused(StorageFailed):
    """The server does not take the request, or not from us."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{NAME}: the request was refused with status {status}")
        self.status = status


class QdrantServer:
    """Connects when it is first asked. Without a port, `url` means 6333."""

    def __init__(self, url: str, api_key: str | None = None, connections: int = CONNECTIONS) -> None:
        secure = urlsplit(url).scheme == "https"
        self._plain_key = api_key is not None and not secure and urlsplit(url).hostname not in LOOPBACK
        # The client's own argument for the key would warn on standard error; an answer that is not compressed cannot
        # grow while it is read.
        headers = {"Accept-Encoding": "identity"} | ({"api-key": api_key} if api_key is not None else {})
        self._client = AsyncQdrantClient(
            url=url,
            headers=headers,
            check_compatibility=False,
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=IDLE_SECONDS
            ),
            trust_env=False,
            event_hooks={"request": [_traced]},
            verify=ssl.create_default_context(),
        )
        self._remote = Remote(NAME, retryable=(EngineFailed,))
        self._free = asyncio.Semaphore(connections)
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def state(self) -> str:
        """State of the circuit: closed | open | half_open."""
        return self._remote.state

    async def read(self, call: Call[T], deadline: Deadline, key: Hashable | None = None) -> T:
        """As Remote.read. Raises TimeoutError, Unavailable, Refused."""
        return await self._remote.read(lambda seconds: self._sent(call, seconds), deadline, key)

    async def write(self, call: Call[T], seconds: float) -> T:
        """As Remote.write. Raises StorageFailed, of which Unavailable and Refused are kinds."""
        return await self._remote.write(lambda given: self._sent(call, given), seconds)

    async def version(self, deadline: Deadline) -> str:
        """Raises TimeoutError, StorageFailed."""
        return (await self.read(lambda client, _: client.info(), deadline)).version

    async def problems(self, deadline: Deadline) -> list[str]:
        """What an operator should know before trusting this server, one sentence each. Raises as `version`."""
        found = [unsuitable(await self.version(deadline))]
        if self._plain_key:
            found.append("the API key of Qdrant is sent over an unencrypted connection: use an https URL")
        return [problem for problem in found if problem is not None]

    async def close(self) -> None:
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    async def _sent(self, call: Call[T], seconds: float) -> T:
        # A call that is cancelled may keep its place in the client's connection pool for good. So a caller that gives
        # up leaves the call alone, and it ends by the client's own timeout, within the second; who still waits for a
        # connection sends nothing.
        await self._free.acquire()
        task = asyncio.ensure_future(call(self._client, max(1, math.ceil(seconds))))
        self._calls.add(task)
        task.add_done_callback(self._ended)
        try:
            return await asyncio.shield(task)
        except (ApiException, QdrantException, AssertionError, ValueError) as error:
            raise _told(error) from None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        self._free.release()
        task.cancelled() or task.exception()  # seen, even if nobody waits


def unsuitable(version: str) -> str | None:
    """Why a server of this version will not do; None when it will."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return "the version of the Qdrant server cannot be read"
    if major == OLDEST[0] and minor >= OLDEST[1]:
        return None
    return f"Qdrant {major}.{minor} will not do: {OLDEST[0]}.{OLDEST[1]} or a later {OLDEST[0]}.x is needed"


def _told(error: Exception) -> Exception:
    """The error of a call in our own words. What cannot be made sense of is an answer that cannot be read."""
    if isinstance(error, UnexpectedResponse) and error.status_code is not None:
        if error.status_code == _TIMED_OUT:
            return TimeoutError()
        busy, broken = _TROUBLE
        if error.status_code == busy or error.status_code >= broken:
            return EngineFailed(f"status {error.status_code}")
        return Refused(error.status_code)
    cause = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(cause, httpx.PoolTimeout):
        return StorageFailed(f"{NAME}: no free connection")
    if isinstance(cause, httpx.TimeoutException):
        return TimeoutError()
    return EngineFailed(type(cause).__name__)


async def _traced(request: httpx.Request) -> None:
    """The engine's part of a trace goes by the same name as ours."""
    request.headers.update(outgoing_headers())

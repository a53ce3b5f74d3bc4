"""A Qdrant server over REST: one connection pool and one circuit for all indexes of a process that are kept there.

The client rounds timeouts up to whole seconds, so deadlines are kept from outside (services.resilience.remote) and the
server gets the next whole second. No error of the client leaves this file: their texts may quote the request.
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
"""One request, given the client and the timeout for the server in whole seconds."""

NAME = "qdrant"
MIN_VERSION = (1, 14)
MAX_CONNECTIONS = 64
IDLE_SECONDS = 4.0
"""Seconds that an idle connection is kept; the server closes its own after five."""
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_TIMEOUT_STATUS = 408
_FAILURE_STATUSES = (429, 500)
"""Overloaded; and the first of the statuses of a server error."""


class EngineFailed(Exception):
    """The server cannot be reached, failed, or sent an unreadable answer."""


class Refused(StorageFailed):
    """The server refused the request."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{NAME}: the request was refused with status {status}")
        self.status = status


class QdrantServer:
    """Connects at the first call. Without a port, `url` means 6333."""

    def __init__(self, url: str, api_key: str | None = None, connections: int = MAX_CONNECTIONS) -> None:
        secure = urlsplit(url).scheme == "https"
        self._plain_key = api_key is not None and not secure and urlsplit(url).hostname not in LOOPBACK_HOSTS
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
        """See Remote.read. Raises TimeoutError, Unavailable, Refused."""
        return await self._remote.read(lambda seconds: self._send(call, seconds), deadline, key)

    async def write(self, call: Call[T], seconds: float) -> T:
        """See Remote.write. Raises StorageFailed, of which Unavailable and Refused are kinds."""
        return await self._remote.write(lambda given: self._send(call, given), seconds)

    async def version(self, deadline: Deadline) -> str:
        """The server's version. Raises TimeoutError, StorageFailed."""
        return (await self.read(lambda client, _: client.info(), deadline)).version

    async def problems(self, deadline: Deadline) -> list[str]:
        """Problems of this server that its operator should know about, one sentence each. Raises as `version`."""
        found = [unsuitable(await self.version(deadline))]
        if self._plain_key:
            found.append("the API key of Qdrant is sent over an unencrypted connection: use an https URL")
        return [problem for problem in found if problem is not None]

    async def close(self) -> None:
        """Cancel calls under way and close all connections."""
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    async def _send(self, call: Call[T], seconds: float) -> T:
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
            raise _translated(error) from None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        self._free.release()
        task.cancelled() or task.exception()  # retrieved, even if no caller waits


def unsuitable(version: str) -> str | None:
    """Why a server of this version is unsuitable; None when it is suitable."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return "the version of the Qdrant server cannot be read"
    if major == MIN_VERSION[0] and minor >= MIN_VERSION[1]:
        return None
    return (
        f"Qdrant {major}.{minor} will not do: {MIN_VERSION[0]}.{MIN_VERSION[1]} or a later {MIN_VERSION[0]}.x is needed"
    )


def _translated(error: Exception) -> Exception:
    """The error of a call as one of this service. Anything unexpected counts as an unreadable answer."""
    if isinstance(error, UnexpectedResponse) and error.status_code is not None:
        if error.status_code == _TIMEOUT_STATUS:
            return TimeoutError()
        busy, broken = _FAILURE_STATUSES
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
    """Pass the trace on to the engine."""
    request.headers.update(outgoing_headers())

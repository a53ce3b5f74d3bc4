"""One Redis server: connections, deadlines, scripts, and whether its settings keep data safe.

Every call goes through `Redis.read` or `Redis.write`, which set its deadline; the client itself neither retries nor
times out. A connection that died while idle is replaced before anything is sent on it, so that a restart of the server
fails only calls under way. A caller that is cancelled closes its connection, so no reply is left for the next one.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Awaitable, Callable, Hashable
from importlib.resources import files
from typing import Any, TypeVar, cast

import redis.asyncio as client
from redis.asyncio.connection import AbstractConnection, ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import AuthenticationError, NoPermissionError, OutOfMemoryError, RedisError
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

from services.errors import StorageFailed
from services.resilience.remote import Remote
from services.types import Deadline

T = TypeVar("T")
Work = Callable[["client.Redis"], Awaitable[T]]

READ_SECONDS = 5.0
WRITE_SECONDS = 5.0
CONNECT_SECONDS = 1.0
MAX_CONNECTIONS = 64
IDLE_SECONDS = 15.0
"""A connection idle for so long is pinged before use: a firewall may have dropped it silently."""
PING_SECONDS = 0.25
MIN_VERSION = (7, 0)
_CONNECTION_ERRORS = (Disconnected, TimedOut)
_NAMESPACE_PATTERN = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class Redis:
    """The server at `url` (redis:// or rediss://; ssl_ options may follow as a query string), with all keys under
    `namespace`. Raises ValueError for an invalid URL or namespace."""

    def __init__(self, url: str, namespace: str = "ltrr") -> None:
        if not _NAMESPACE_PATTERN.fullmatch(namespace):
            raise ValueError("a namespace is 1 to 64 letters, digits and any of _ . : -")
        self._prefix = f"{{{namespace}}}"  # One hash slot: scripts may touch all of it.
        options: dict[str, Any] = {
            **parse_url(url),
            "protocol": 2,
            "decode_responses": False,
            "driver_info": None,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_SECONDS,
            "health_check_interval": IDLE_SECONDS,
        }
        self._client = client.Redis(connection_pool=_Pool(**options))
        # Callers wait here for a connection, outside of what counts as the server's own failure.
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._remote = Remote("redis", _CONNECTION_ERRORS)
        self._scripts: dict[tuple[str, ...], AsyncScript] = {}

    def key(self, *parts: str | int) -> str:
        """The key of these parts in the namespace: `{namespace}:a:b`."""
        return ":".join((self._prefix, *map(str, parts)))

    async def read(self, work: Work[T], deadline: Deadline | None = None, key: Hashable | None = None) -> T:
        """Run `work`, which must change nothing: it may be run a second time when the connection is lost, and calls of
        the same `key` that are under way share one run.

        Raises TimeoutError when the deadline passes (StorageFailed after READ_SECONDS where none is given), Unavailable
        when the server is away, StorageFailed when it refuses.
        """
        if deadline is None:
            try:
                return await self.read(work, Deadline.after(READ_SECONDS), key)
            except TimeoutError as error:
                raise StorageFailed("redis: timeout") from error
        if deadline.remaining() <= 0:
            raise TimeoutError
        async with deadline.enforced():
            await self._slots.acquire()
        try:
            return await self._remote.read(lambda _: self._run(work), deadline, key)
        finally:
            self._slots.release()

    async def write(self, work: Work[T], seconds: float = WRITE_SECONDS) -> T:
        """Run `work` once. Raises StorageFailed when the server refuses it, is away or does not answer in time; in the
        last case, and when the connection is lost on the way, it may have been carried out all the same."""
        deadline = Deadline.after(seconds)
        try:
            async with deadline.enforced():
                await self._slots.acquire()
        except TimeoutError:
            raise StorageFailed("redis: every connection is busy") from None
        try:
            return await self._remote.write(lambda _: self._run(work), deadline.remaining())
        finally:
            self._slots.release()

    def script(self, *names: str) -> AsyncScript:
        """The script made of these files of services/backends/redis/lua, joined in this order: scripts can share
        functions, and each runs as one atomic step.

        Call it inside of `work` as `await script(keys=…, args=…, client=client)`; a server that does not have it (any
        more) is sent it again.
        """
        if names not in self._scripts:
            folder = files("services.backends.redis").joinpath("lua")
            text = "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names)
            self._scripts[names] = self._client.register_script(text)
        return self._scripts[names]

    async def version(self) -> str:
        """The server's version, as "7.4.1"."""
        return str((await self._info())["redis_version"])

    async def check(self) -> list[str]:
        """Settings of this server that may lose data, as sentences for its operator; empty when there are none."""
        info, config = await self._info(), await self._config()
        found = []
        version = str(info["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
            found.append(
                f"Redis {version} is older than {MIN_VERSION[0]}.{MIN_VERSION[1]}, the oldest that is supported"
            )
        if info.get("role") != "master":
            found.append("the server is a replica: it takes no writes")
        if info.get("cluster_enabled"):
            found.append("the server is a node of a cluster: only single servers and their replicas are supported")
        if not info.get("aof_enabled"):
            found.append("appendonly is off: accepted events and item writes since the last dump are lost in a crash")
        elif config.get("appendfsync", "always") != "always":
            found.append(f"appendfsync is {config['appendfsync']}: a crash may lose the last second or more")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            found.append(f"maxmemory-policy is {policy}: under memory pressure the event log or items may be evicted")
        return found

    async def close(self) -> None:
        """Close all connections."""
        await self._client.connection_pool.aclose()

    async def _run(self, work: Work[T]) -> T:
        try:
            return await work(self._client)
        except (AuthenticationError, NoPermissionError):
            raise StorageFailed("redis refuses the user or the password") from None
        except OutOfMemoryError:
            raise StorageFailed("redis is full (maxmemory)") from None
        except _CONNECTION_ERRORS:
            raise
        except RedisError as error:
            # By its type alone: its text may quote the request.
            raise StorageFailed(f"redis: {type(error).__name__}") from None

    async def _info(self) -> dict[str, Any]:
        return cast(dict[str, Any], await self.read(lambda c: c.info()))

    async def _config(self) -> dict[str, str]:
        """Settings that only CONFIG shows; empty where the operator forbids that command."""
        try:
            found = await self.read(lambda c: c.config_get("appendfsync"))
        except StorageFailed:
            return {}
        return {_text(name): _text(value) for name, value in found.items()}


class _Pool(ConnectionPool):
    """A pool without a limit: waiting in a queue of the pool loses wake-ups when waiters are cancelled."""

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Connect `connection`, or connect it again when it died while it was idle."""
        fresh = not connection.is_connected
        await connection.connect()  # type: ignore[no-untyped-call]
        if fresh:
            connection.next_health_check = asyncio.get_running_loop().time() + IDLE_SECONDS
        elif not await _alive(connection):
            await connection.disconnect(nowait=True)
            await connection.connect()  # type: ignore[no-untyped-call]
            connection.next_health_check = asyncio.get_running_loop().time() + IDLE_SECONDS


async def _alive(connection: AbstractConnection) -> bool:
    """Whether a connection from the pool can carry a command: not closed by the other side, not with leftovers of an
    earlier reply, and if it was idle for long, answering."""
    try:
        if await connection.can_read() or _readable(connection):
            return False
        async with asyncio.timeout(PING_SECONDS):
            await connection.check_health()  # type: ignore[no-untyped-call]
    except (*_CONNECTION_ERRORS, OSError):
        return False
    return True


def _readable(connection: AbstractConnection) -> bool:
    """Whether the socket has data or was closed, even if the event loop has not noticed yet."""
    writer = connection._writer
    if writer is None:
        return True
    waiting = select.poll()
    waiting.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

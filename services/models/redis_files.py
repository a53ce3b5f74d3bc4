"""Model versions in Redis, for any number of processes that read and write.

    {namespace}:models:kinds                        set of kinds
    {namespace}:models:versions:<kind>              set of versions
    {namespace}:models:version:<kind>:<version>     hash: file name -> bytes
    {namespace}:models:promotions:<kind>            hash: number -> record

Every change is one transaction. The client blocks, so call it off the event loop; it does not retry failed calls.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import RedisError, WatchError
from redis.exceptions import TimeoutError as TimedOut
from redis.retry import Retry

from services.errors import StorageFailed, Unavailable
from services.models.files import Guard

REPLY_SECONDS = 5.0
"""Timeout of one reply; models can be some hundred megabytes large."""
CONNECT_SECONDS = 1.0
IDLE_SECONDS = 15.0
"""A connection idle for longer is checked before it is used."""
MAX_ATTEMPTS = 20
"""Attempts at a transaction that conflicts with other writers."""
MAX_PAUSE = 0.002
"""Largest pause in seconds before the next attempt, per attempt made so far."""

Pipeline = Any
"""The client's type hints do not know that every reply is bytes."""
Fence = Callable[[], tuple[str, int]]
"""() -> (key under which Redis keeps the newest epoch, the writer's own epoch)."""


class RedisFiles:
    """Files (services/models/files.py) on the server at `url`, keys under `namespace`. With a `fence`, each
    transaction checks the writer's epoch and raises StorageFailed when a newer one has begun. Raises Unavailable when
    Redis cannot be reached."""

    def __init__(self, url: str, namespace: str = "ltrr", fence: Fence | None = None) -> None:
        self._prefix = f"{{{namespace}}}:models"
        self._fence = fence
        self._client: Any = redis.Redis.from_url(
            url,
            protocol=2,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=REPLY_SECONDS,
            socket_connect_timeout=CONNECT_SECONDS,
            health_check_interval=IDLE_SECONDS,
        )

    def kinds(self) -> list[str]:
        """Kinds that ever had a version, in order."""
        return self._set("kinds")

    def versions(self, kind: str) -> list[str]:
        """Names of the versions, in order."""
        return self._set("versions", kind)

    def has(self, kind: str, version: str) -> bool:
        """Whether there is such a version."""
        with _named():
            return bool(self._client.exists(self._key("version", kind, version)))

    def read(self, kind: str, version: str, name: str) -> bytes:
        """A file of a version. Raises FileNotFoundError."""
        return self._field(self._key("version", kind, version), name)

    def write(
        self, kind: str, version: str, files: Mapping[str, bytes], replace: bool, guard: Guard | None = None
    ) -> None:
        """Write a version in one transaction. Raises FileExistsError unless `replace` is set."""
        key = self._key("version", kind, version)

        def check(pipeline: Pipeline) -> None:
            if not replace and pipeline.exists(key):
                raise FileExistsError(errno.EEXIST, "such a version exists", version)

        def change(pipeline: Pipeline) -> None:
            pipeline.delete(key)
            pipeline.hset(key, mapping=dict(files))
            pipeline.sadd(self._key("versions", kind), version)
            pipeline.sadd(self._key("kinds"), kind)

        self._transaction([key], check, change, guard)

    def promotions(self, kind: str) -> list[int]:
        """Numbers of the promotion records, highest first."""
        with _named():
            return _numbers(self._client.hkeys(self._key("promotions", kind)))

    def promotion(self, kind: str, number: int) -> bytes:
        """The promotion record of that number. Raises FileNotFoundError."""
        return self._field(self._key("promotions", kind), str(number))

    def promote(self, kind: str, version: str, number: int, record: bytes, guard: Guard | None = None) -> None:
        """Add a promotion record. Raises FileNotFoundError when the version does not exist, FileExistsError when the
        number is taken."""
        key, target = self._key("promotions", kind), self._key("version", kind, version)

        def check(pipeline: Pipeline) -> None:
            if not pipeline.exists(target):
                raise FileNotFoundError(errno.ENOENT, "no such version", version)
            if pipeline.hexists(key, str(number)):
                raise FileExistsError(errno.EEXIST, "such a promotion exists", str(number))

        self._transaction([key, target], check, lambda pipeline: pipeline.hsetnx(key, str(number), record), guard)

    def remove(self, kind: str, versions: Sequence[str], promotions: Sequence[int], newest: int) -> None:
        """Remove versions and promotion records in one transaction. Raises FileExistsError when there is a promotion
        after `newest`."""
        key = self._key("promotions", kind)

        def check(pipeline: Pipeline) -> None:
            if max(_numbers(pipeline.hkeys(key)), default=0) > newest:
                raise FileExistsError(errno.EEXIST, "a later promotion exists", kind)

        def change(pipeline: Pipeline) -> None:
            if versions:
                pipeline.delete(*(self._key("version", kind, version) for version in versions))
                pipeline.srem(self._key("versions", kind), *versions)
            if promotions:
                pipeline.hdel(key, *map(str, promotions))

        if versions or promotions:
            self._transaction([key], check, change)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _set(self, *parts: str) -> list[str]:
        with _named():
            return sorted(name.decode() for name in self._client.smembers(self._key(*parts)))

    def _field(self, key: str, name: str) -> bytes:
        with _named():
            data: bytes | None = self._client.hget(key, name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return data

    def _transaction(
        self,
        watched: list[str],
        check: Callable[[Pipeline], None],
        change: Callable[[Pipeline], Any],
        guard: Guard | None = None,
    ) -> None:
        """Make the change unless `check` raises or the epoch is over; repeated when a key in `watched` changed
        meanwhile."""
        with _named():
            for attempt in range(MAX_ATTEMPTS):
                time.sleep(random.uniform(0.0, MAX_PAUSE * attempt))  # noqa: S311 - jitter
                with self._client.pipeline(transaction=True) as pipeline, suppress(WatchError):
                    fence = self._fence() if self._fence is not None else None
                    pipeline.watch(*watched, *([fence[0]] if fence else []))
                    if fence and int(pipeline.get(fence[0]) or 0) != fence[1]:
                        raise StorageFailed("redis: another process writes models now")
                    check(pipeline)
                    pipeline.multi()
                    change(pipeline)
                    if guard is not None:
                        guard()
                    pipeline.execute()
                    return
        raise StorageFailed("redis: others change the same models all the time")


def _numbers(fields: Sequence[bytes]) -> list[int]:
    """The numbers as integers, highest first."""
    return sorted((int(field) for field in fields), reverse=True)


@contextmanager
def _named() -> Iterator[None]:
    """Translate the client's errors, leaving out its messages: they may quote what was sent."""
    try:
        yield
    except (Disconnected, TimedOut) as error:
        raise Unavailable("redis") from error
    except RedisError as error:
        raise StorageFailed(f"redis: {type(error).__name__}") from error

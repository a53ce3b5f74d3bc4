"""The StateStore in Redis: one hash of JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from services.backends.redis.server import Redis


class RedisState:
    """Switches in `redis`, shared by every process. Reads and writes raise StorageFailed."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._key = redis.key("state")

    async def get(self, key: str) -> Any | None:
        """The value of `key`; None when it was never set."""
        return (await self.get_many([key]))[key]

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any | None]:
        """The values of all `keys` at one moment; None for those that were never set."""
        if not keys:
            return {}
        values: Any = await self._redis.read(lambda c: c.hmget(self._key, list(keys)))
        return {key: None if value is None else orjson.loads(value) for key, value in zip(keys, values, strict=True)}

    async def set(self, key: str, value: Any) -> None:
        """Set a value, visible to every process when this returns. Raises ValueError for a value that is not JSON."""
        try:
            body = orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise ValueError(f"the value of {key} is not JSON: {error}") from error
        await self._redis.write(lambda c: c.hset(self._key, key, body))

    async def all(self) -> dict[str, Any]:
        """Everything that was ever set."""
        values: Any = await self._redis.read(lambda c: c.hgetall(self._key))
        return {key.decode(): orjson.loads(value) for key, value in values.items()}

    async def close(self) -> None:
        """Nothing to do: the caller that opened the connection closes it."""

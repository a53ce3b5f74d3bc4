"""A restore that was interrupted leaves a marker, and a folder or Redis with the marker is not served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import StorageFailed

if TYPE_CHECKING:
    from services.backends.redis.server import Redis

FOLDER = "restoring"
"""Name of the subfolder that exists in a data folder while a backup replaces its stores."""


def mark(redis: Redis) -> str:
    """The key that exists while a backup is being restored into Redis."""
    return redis.key("restoring")


def refuse_folder(folder: Path) -> None:
    """Raises StorageFailed when a restore into the data folder was interrupted."""
    if (folder / FOLDER).exists():
        raise _interrupted(str(folder))


async def refuse_redis(redis: Redis) -> None:
    """Raises StorageFailed while a backup is being restored into this Redis, or when that was interrupted."""
    if await redis.read(lambda c: c.exists(mark(redis))):
        raise _interrupted("Redis")


def _interrupted(where: str) -> StorageFailed:
    return StorageFailed(
        f"a restore into {where} is under way or was broken off; run `ltrr restore FILE --force` to the end"
    )

"""A restore that was broken off leaves a mark, and what bears it is not served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import StorageFailed

if TYPE_CHECKING:
    from services.backends.redis.server import Redis

FOLDER = "restoring"
"""In a data folder, while the stores of a backup take the places of those before."""


def mark(redis: Redis) -> str:
    """The key that is there while a backup is being put into Redis."""
    return redis.key("restoring")


def refuse_folder(folder: Path) -> None:
    """Raises StorageFailed when a restore into the data folder was broken off."""
    if (folder / FOLDER).exists():
        raise _broken_off(str(folder))


async def refuse_redis(redis: Redis) -> None:
    """Raises StorageFailed while a backup is being put into this Redis, or when that was broken off."""
    if await redis.read(lambda c: c.exists(mark(redis))):
        raise _broken_off("Redis")


def _broken_off(where: str) -> StorageFailed:
    return StorageFailed(
        f"a restore into {where} is under way or was broken off; run `ltrr restore FILE --force` to the end"
    )

"""The durable stores: in files of the data folder, or in Redis. The client of Redis is imported only where the settings
name it: an embedded service starts without it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.settings import Settings
from app.system.restore_marker import refuse_folder, refuse_redis
from services.backends.base import EventLog, ItemStore, Locks, MemoryIndex, StateStore
from services.backends.local_locks import LocalLocks
from services.backends.sqlite.items import SqliteItems
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.memory import SqliteMemory
from services.backends.sqlite.state import SqliteState
from services.errors import NotFound, SettingsInvalid, StorageFailed
from services.memory.limits import MemoryLimits
from services.models.store import ModelStore

if TYPE_CHECKING:
    from services.backends.redis.server import Redis
    from services.models.redis_files import Fence

logger = logging.getLogger(__name__)

DAY = 86400.0
"""Seconds per day."""
LOG_FILE = "log.sqlite3"
ITEMS_FILE = "items.sqlite3"
MEMORY_FILE = "memory.sqlite3"
STATE_FILE = "state.sqlite3"
MODELS_FOLDER = "models"


@dataclass(frozen=True, slots=True)
class Stores:
    """All durable stores except the indexes, which can be rebuilt."""

    log: EventLog
    items: ItemStore
    memory: MemoryIndex
    state: StateStore
    locks: Locks
    models: ModelStore
    redis: Redis | None
    """The server behind them; None when they are files."""


@asynccontextmanager
async def open_stores(settings: Settings, warn: bool = False) -> AsyncIterator[Stores]:
    """The stores, open for as long as the context lasts. With `warn`, settings of Redis that may lose data are logged.

    Raises StorageFailed when a file does not open, Redis cannot be reached, or a restore was interrupted.
    """
    async with AsyncExitStack() as stack:
        if settings.redis_url is None:
            refuse_folder(settings.data_dir)
            yield _files(settings, stack)
        else:
            redis = await stack.enter_async_context(open_redis(settings, warn))
            await refuse_redis(redis)
            yield _shared(settings, redis)


@asynccontextmanager
async def open_redis(settings: Settings, warn: bool = False) -> AsyncIterator[Redis]:
    """Redis, connected for as long as the context lasts. With `warn`, its settings that may lose data are logged.

    Raises StorageFailed when it cannot be reached, SettingsInvalid when no URL is set.
    """
    from services.backends.redis.server import Redis

    if settings.redis_url is None:
        raise SettingsInvalid("LTRR_REDIS_URL is not set")
    redis = Redis(settings.redis_url.get_secret_value(), settings.namespace)
    try:
        try:
            unsafe = await redis.check()
        except (StorageFailed, TimeoutError) as error:
            raise StorageFailed(f"LTRR_REDIS_URL: Redis cannot be reached ({error}); see `ltrr doctor`") from error
        if warn:
            for problem in unsafe:
                logger.warning("redis_unsafe: %s", problem)
        yield redis
    finally:
        await redis.close()


@asynccontextmanager
async def open_log(settings: Settings) -> AsyncIterator[EventLog]:
    """The event log for commands that only read it, beside a running service or without. Raises NotFound when there is
    none."""
    if settings.redis_url is not None:
        from services.backends.redis.log import RedisLog

        async with open_redis(settings) as redis:
            yield RedisLog(redis, retention=settings.retention_days * DAY)
        return
    path = settings.data_dir / LOG_FILE
    if not path.exists():
        raise NotFound(f"there is no event log in {settings.data_dir}; LTRR_DATA_DIR names the folder of the service")
    log = SqliteLog(path)
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def open_items(settings: Settings) -> AsyncIterator[ItemStore]:
    """The catalogue for commands that only read it. Raises NotFound when there is none."""
    if settings.redis_url is not None:
        from services.backends.redis.items import RedisItems

        async with open_redis(settings) as redis:
            yield RedisItems(redis)
        return
    path = settings.data_dir / ITEMS_FILE
    if not path.exists():
        raise NotFound(f"there are no items in {settings.data_dir}; see `ltrr index --help`")
    items = SqliteItems(path, owner=False)
    try:
        yield items
    finally:
        await items.close()


def model_store(settings: Settings, fence: Fence | None = None) -> ModelStore:
    """The store of model versions. With a `fence` (key and number of a lease's epoch), nothing is written to Redis once
    that epoch is over."""
    if settings.redis_url is None:
        return ModelStore(settings.data_dir / MODELS_FOLDER)
    from services.models.redis_files import RedisFiles

    return ModelStore(RedisFiles(settings.redis_url.get_secret_value(), settings.namespace, fence))


def _files(settings: Settings, stack: AsyncExitStack) -> Stores:
    folder = settings.data_dir
    log = SqliteLog(folder / LOG_FILE, retention=settings.retention_days * DAY)
    stack.push_async_callback(log.close)
    memory = SqliteMemory(
        folder / MEMORY_FILE,
        half_life=settings.memory_half_life_days * DAY,
        limits=MemoryLimits(neighbours=settings.memory_neighbours),
    )
    stack.push_async_callback(memory.close)
    items = SqliteItems(folder / ITEMS_FILE)
    stack.push_async_callback(items.close)
    state = SqliteState(folder / STATE_FILE)
    stack.push_async_callback(state.close)
    return Stores(log, items, memory, state, LocalLocks(), model_store(settings), None)


def _shared(settings: Settings, redis: Redis) -> Stores:
    from services.backends.redis.items import RedisItems
    from services.backends.redis.locks import RedisLocks
    from services.backends.redis.log import RedisLog
    from services.backends.redis.memory import RedisMemory
    from services.backends.redis.state import RedisState

    return Stores(
        log=RedisLog(redis, retention=settings.retention_days * DAY),
        items=RedisItems(redis),
        memory=RedisMemory(
            redis,
            half_life=settings.memory_half_life_days * DAY,
            limits=MemoryLimits(neighbours=settings.memory_neighbours),
        ),
        state=RedisState(redis),
        locks=RedisLocks(redis),
        models=model_store(settings),
        redis=redis,
    )

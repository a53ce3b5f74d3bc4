"""Whether queries and events are mirrored into OpenSearch by the UBI schema (LTRR_UBI)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from app.settings import Settings
from app.system.stores import Stores
from services.backends.base import EventLog
from services.errors import StorageFailed
from services.learning.ubi_consumer import CONSUMER, UbiConsumer

logger = logging.getLogger(__name__)

Work = Callable[[asyncio.Event], Awaitable[None]]


@asynccontextmanager
async def mirroring(
    settings: Settings, stores: Stores, guard: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Work]:
    """Yields `work(stop)`, which mirrors until stopped, and may be started again. Without LTRR_UBI it only ensures that
    the log retains nothing for an earlier mirror. Raises SettingsInvalid for malformed certificates."""
    if not settings.ubi or settings.opensearch_url is None:
        yield lambda stop: _forget_mirror(stores.log)
        return
    from services.backends.opensearch.ubi import OpenSearchUbi

    sink = OpenSearchUbi(settings.opensearch_url.get_secret_value(), ca=settings.opensearch_ca)
    try:
        yield UbiConsumer(stores.log, stores.state, sink, settings.namespace, guard).run
    finally:
        await sink.close()


async def _forget_mirror(log: EventLog) -> None:
    try:
        await log.forget_consumer(CONSUMER)
    except StorageFailed as error:  # the next start does it
        logger.warning("ubi_consumer_stays error=%s", type(error).__name__)

"""Work beside everything else: begun, watched, and ended in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""How long work may take to end once it is told to: what waits for another process is broken off then."""


@asynccontextmanager
async def background(work: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """`work(stop)` runs beside everything else; at the end it is told to stop, and waited for."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))
    task.add_done_callback(lambda done: _look(done, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait([task], timeout=STOP_SECONDS)
        if not task.done():
            logger.warning("background_broken_off")
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


async def briefly(work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Wait for `work` no longer than that; it goes on. A failure is said, not raised."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: _look(done, None))
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    await asyncio.wait([task], timeout=seconds)


_going_on: set[asyncio.Task[None]] = set()
"""A task that nobody holds could be collected as garbage."""


def _look(task: asyncio.Future[None], stop: asyncio.Event | None) -> None:
    """Say why work ended that should have gone on."""
    if task.cancelled() or (stop is not None and stop.is_set()):
        return
    error = task.exception()
    if error is not None:
        logger.error("background_failed error=%s", type(error).__name__)

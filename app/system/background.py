"""Background work: started, watched, and ended in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""Time that work has to end after `stop` is set; then it is cancelled: it may wait for another process."""


@asynccontextmanager
async def background(work: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[None]:
    """Run `work(stop)` in the background for as long as the context lasts; at the end `stop` is set and the work waited
    for."""
    stop = asyncio.Event()
    task = asyncio.ensure_future(work(stop))
    task.add_done_callback(lambda done: _report(done, stop))
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
    """Wait for `work`, but at most `seconds`; then it continues in the background. A failure is logged, not raised."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: _report(done, None))
    _running.add(task)
    task.add_done_callback(_running.discard)
    await asyncio.wait([task], timeout=seconds)


_running: set[asyncio.Task[None]] = set()
"""A task without a reference could be garbage collected."""


def _report(task: asyncio.Future[None], stop: asyncio.Event | None) -> None:
    """Log the error of work that should not have ended."""
    if task.cancelled() or (stop is not None and stop.is_set()):
        return
    error = task.exception()
    if error is not None:
        logger.error("background_failed error=%s", type(error).__name__)

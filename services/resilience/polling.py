"""The loop for work that repeats until the process stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable


def type_and_text(error: Exception) -> Hashable:
    """Identity of a failure: its type and message."""
    return type(error), str(error)


async def poll(
    step: Callable[[], Awaitable[float | None]],
    stop: asyncio.Event,
    *,
    interval: float,
    retry_interval: float | None = None,
    on_failure: Callable[[Exception], None],
    identity: Callable[[Exception], Hashable] = type_and_text,
    wake: asyncio.Event | None = None,
) -> None:
    """Call `step` until `stop` is set; a failure never ends the loop.

    interval: seconds between two calls, unless `step` returned how many seconds to wait this time (0: go on at once).
    retry_interval: seconds to wait after a failure (default: `interval`).
    on_failure: called with the first failure of a row, and with a later one whose `identity` differs from the one
    before (default: type or message): what is polled may be away for long, and one log line is enough.
    wake: ends a wait early when set, except after a failure; cleared before each call of `step`.
    """
    reported: Hashable = None
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        failed = False
        try:
            requested = await step()
            pause = interval if requested is None else requested
            reported = None
        except Exception as error:
            failed, pause = True, interval if retry_interval is None else retry_interval
            if identity(error) != reported:
                on_failure(error)
            reported = identity(error)
        if pause > 0:
            events = [stop] if failed or wake is None else [stop, wake]
            await wait_for_any(*events, seconds=pause)


async def wait_for_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of `events` is set, at most `seconds`."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()

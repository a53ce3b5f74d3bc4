"""Identical concurrent calls are made once, and every caller gets the result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from services.types import Deadline

T = TypeVar("T")

MAX_EARLIER_SHARE = 0.1
"""A call in progress is joined when its deadline is at most this share of one's own remaining time earlier."""


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Any]
    deadline: Deadline
    waiting: int = 0


class SingleFlight:
    """Shares calls by key. Each runs in a task of its own, so the caller that started it may leave without failing
    those that joined; it is cancelled when the last caller has left."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def run(self, key: Hashable, work: Callable[[Deadline], Awaitable[T]], deadline: Deadline) -> T:
        """Return or raise the outcome of `work`, which gets the deadline of the first caller and keeps it.

        Raises TimeoutError at one's own deadline, or up to a tenth of one's time before it when the call that was
        joined ran out of time by then.
        """
        flight = self._flights.get(key)
        if flight is None or flight.deadline.at < deadline.at - MAX_EARLIER_SHARE * deadline.remaining():
            flight = self._start(key, work, deadline)
        flight.waiting += 1
        try:
            await asyncio.wait((flight.task,), timeout=deadline.remaining())
            if not flight.task.done():
                raise TimeoutError
            result: T = flight.task.result()
            return result
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()

    def _start(self, key: Hashable, work: Callable[[Deadline], Awaitable[T]], deadline: Deadline) -> _Flight:
        async def fly() -> T:
            return await work(deadline)

        flight = _Flight(asyncio.create_task(fly(), name="single-flight"), deadline)
        self._flights[key] = flight

        def landed(task: asyncio.Task[Any]) -> None:
            self._forget(key, flight)
            if not task.cancelled():
                task.exception()  # retrieved, or asyncio would log its message when every caller has left

        flight.task.add_done_callback(landed)
        return flight

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        """Remove the flight, unless a later call has taken its place."""
        if self._flights.get(key) is flight:
            del self._flights[key]

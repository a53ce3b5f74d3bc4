"""Identical calls at the same time are made once, and everybody who asked gets the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from services.types import Deadline

T = TypeVar("T")

EARLIER = 0.1
"""Share of one's own time that a call under way may end earlier and still be joined."""


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Any]
    deadline: Deadline
    waiting: int = 0


class SingleFlight:
    """The call runs in a task of its own: whoever started it may leave without failing those who joined. It is
    cancelled when the last one has left."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def run(self, key: Hashable, work: Callable[[Deadline], Awaitable[T]], deadline: Deadline) -> T:
        """What `work` returns or raises; `work` keeps the deadline it is given, that of who started the call.

        Raises TimeoutError at one's own deadline, or up to a tenth of one's time before it when the call that was
        joined ran out of time by then.
        """
        flight = self._flights.get(key)
        if flight is None or flight.deadline.at < deadline.at - EARLIER * deadline.remaining():
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
                task.exception()  # noticed, though everybody may have left: nobody is to log its message

        flight.task.add_done_callback(landed)
        return flight

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        """A later call may have taken the place."""
        if self._flights.get(key) is flight:
            del self._flights[key]

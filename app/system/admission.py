"""Load shedding: searches that cannot be answered in time are rejected cheaply, at once, before any work is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services import metrics
from services.errors import Overloaded


class Admission:
    """At most `limit` searches in flight. Not uvicorn's --limit-concurrency: that counts idle connections too."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0

    @contextmanager
    def admit(self, route: str) -> Iterator[None]:
        """Count a search as in flight for as long as the context lasts. Raises Overloaded when `limit` are in
        flight."""
        if self._in_flight >= self._limit:
            metrics.SHED.labels(route).inc()
            raise Overloaded("too many searches at once; try again shortly")
        self._in_flight += 1
        metrics.IN_FLIGHT.set(self._in_flight)
        try:
            yield
        finally:
            self._in_flight -= 1
            metrics.IN_FLIGHT.set(self._in_flight)

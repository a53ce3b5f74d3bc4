"""Log lines about what may happen at every request: said now and then, counted in the metrics always."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 30.0
MOST = 256
"""Things that are told apart."""


class Seldom:
    def __init__(self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._said: dict[tuple[str, ...], float] = {}

    def due(self, *what: str) -> bool:
        """Whether to say this now: not said within the last `seconds`."""
        now = self._clock()
        if now - self._said.get(what, float("-inf")) < self._seconds:
            return False
        if len(self._said) >= MOST:
            self._said.clear()
        self._said[what] = now
        return True

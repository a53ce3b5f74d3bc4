"""Throttles log lines about events that may occur at every request, while the metrics count each of them."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_SECONDS = 30.0
MAX_SUBJECTS = 256
"""Number of subjects that are throttled separately; one more resets all of them."""


class LogThrottle:
    """Lets a log line about one subject through at most once in `seconds`."""

    def __init__(self, seconds: float = INTERVAL_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._logged: dict[tuple[str, ...], float] = {}

    def allow(self, *subject: str) -> bool:
        """Whether to log this now: nothing was allowed for `subject` within the last `seconds`."""
        now = self._clock()
        if now - self._logged.get(subject, float("-inf")) < self._seconds:
            return False
        if len(self._logged) >= MAX_SUBJECTS:
            self._logged.clear()
        self._logged[subject] = now
        return True

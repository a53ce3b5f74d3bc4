"""A retry budget, so that retries do not multiply the load of an engine that is in trouble. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

RETRIES_PER_CALL = 0.1
"""A call earns this much of a retry."""
SECONDS_PER_RETRY = 10.0
"""This much time earns one retry, so that rare calls have some too."""
MAX_SAVED_RETRIES = 10.0


class RetryBudget:
    """The retries of one process for one engine: N workers have N budgets, each a share of its own calls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 1.0
        self._earned = clock()

    def record_call(self) -> None:
        """A first try was made."""
        self._tokens = min(MAX_SAVED_RETRIES, self._tokens + RETRIES_PER_CALL)

    def spend(self) -> bool:
        """Whether there may be a retry, which is then taken from the budget."""
        now = self._clock()
        self._tokens = min(MAX_SAVED_RETRIES, self._tokens + (now - self._earned) / SECONDS_PER_RETRY)
        self._earned = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

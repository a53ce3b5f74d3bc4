"""A retry budget, so that retries do not multiply the load of an engine that is in trouble. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

RETRIES_PER_CALL = 0.1
"""Share of a retry that each call earns."""
SECONDS_PER_RETRY = 10.0
"""Seconds that earn one retry, so that rare calls get some too."""
MAX_SAVED_RETRIES = 10.0


class RetryBudget:
    """The retries of one process for one engine: N workers have N budgets, each a share of its own calls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 1.0
        self._earned = clock()

    def record_call(self) -> None:
        """Record a first attempt."""
        self._tokens = min(MAX_SAVED_RETRIES, self._tokens + RETRIES_PER_CALL)

    def spend(self) -> bool:
        """Take a retry from the budget; returns whether there was one."""
        now = self._clock()
        self._tokens = min(MAX_SAVED_RETRIES, self._tokens + (now - self._earned) / SECONDS_PER_RETRY)
        self._earned = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

"""A budget for second tries, so that retries do not multiply the load of something that is in trouble. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.1
"""Second tries that one call earns."""
FLOOR_SECONDS = 10.0
"""Time that earns one second try, so that rare calls have some too."""
MOST = 10.0
"""Second tries that can be saved up."""


class RetryBudget:
    """Of one process and one thing asked: N workers have N budgets, each a share of its own calls."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = 1.0
        self._earned = clock()

    def called(self) -> None:
        """A first try was made."""
        self._tokens = min(MOST, self._tokens + SHARE)

    def spend(self) -> bool:
        """Whether there may be a second try, which is then taken from the budget."""
        now = self._clock()
        self._tokens = min(MOST, self._tokens + (now - self._earned) / FLOOR_SECONDS)
        self._earned = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

"""A circuit breaker: whether to ask something that has been failing. Pure; one per process and thing asked.

closed      everything goes through; opens when at least half of at least 10 calls within 10 s failed, or when some
            calls in a row did (5, or 10 where calls are many: among many a few failures in a row are chance)
open        nothing goes through for a second
half_open   one call a second goes through as a probe; closes after some successes in a row, opens again on a failure

Something that fails again soon after the circuit closed must prove itself for longer the next time, so that it does not
flap. Every worker process has its own: N workers send up to N probes a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 10.0
"""Seconds over which outcomes count."""
CALLS = 10
"""Calls within the window before their failures count as a share."""
SHARE = 0.5
"""Share of failed calls that opens."""
ROW, LONG_ROW = 5, 10
"""Failures in a row that open when there are fewer than CALLS calls within the window, and when there are more."""
PROBE_SECONDS = 1.0
SUCCESSES, MOST_SUCCESSES = 3, 8
"""Probes in a row that must succeed: at first, and at most after falling back again and again."""
STEADY = 60.0
"""Seconds closed after which earlier openings are forgotten."""

FAIR = 0.05
"""A call that was given fewer seconds than this and ran out of them says nothing about what was asked."""


class Circuit:
    """Ask `admit` before a call and tell `settle` how it went."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        successes: int = SUCCESSES,
        most_successes: int = MOST_SUCCESSES,
    ) -> None:
        self._clock = clock
        self._successes = successes
        self._most_successes = most_successes
        self._state = "closed"
        self._generation = 0
        """Grows with every change of state: outcomes of calls that began before it do not count."""
        self._window: deque[list[int]] = deque()
        """[second, calls, failures], oldest first."""
        self._row = 0
        self._probed = 0.0
        self._closed = float("-inf")
        self._needed = successes
        self._proven = 0

    @property
    def state(self) -> str:
        """closed | open | half_open"""
        return self._state

    @property
    def willing(self) -> bool:
        """Whether `admit` would let a call through now."""
        return self._state == "closed" or self._clock() - self._probed >= PROBE_SECONDS

    def admit(self) -> int | None:
        """A token for `settle` when the call may go through, else None. A token need not be settled."""
        if self._state == "closed":
            return self._generation
        now = self._clock()
        if now - self._probed < PROBE_SECONDS:
            return None
        self._probed = now
        if self._state == "open":
            self._turn("half_open")
            self._proven = 0
        return self._generation

    def settle(self, token: int, succeeded: bool) -> None:
        """Count the outcome of a call that was admitted. Calls that tell nothing (the client left) are not settled."""
        if token != self._generation:
            return
        if self._state == "closed":
            self._count(succeeded)
        elif not succeeded:
            self._open()
        else:
            self._proven += 1
            if self._proven >= self._needed:
                self._close()

    def _count(self, succeeded: bool) -> None:
        second = int(self._clock())
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0])
            while self._window[0][0] <= second - WINDOW:
                self._window.popleft()
        bucket = self._window[-1]
        bucket[1] += 1
        if succeeded:
            self._row = 0
            return
        bucket[2] += 1
        self._row += 1
        calls = sum(entry[1] for entry in self._window)
        failures = sum(entry[2] for entry in self._window)
        many = calls >= CALLS
        if self._row >= (LONG_ROW if many else ROW) or (many and failures >= SHARE * calls):
            relapsed = self._clock() - self._closed < STEADY
            self._needed = min(2 * self._needed, self._most_successes) if relapsed else self._successes
            self._open()

    def _open(self) -> None:
        if self._state == "closed":
            self._probed = self._clock()
        self._turn("open")

    def _close(self) -> None:
        self._turn("closed")
        self._closed = self._clock()
        self._window.clear()
        self._row = 0

    def _turn(self, state: str) -> None:
        self._state = state
        self._generation += 1

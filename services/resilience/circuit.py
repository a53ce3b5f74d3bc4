"""A circuit breaker: whether to call something that has been failing. Pure; one per process and callee.

closed      every call goes through; opens when at least half of at least 10 calls within 10 s failed, or when some
            calls in a row did (5, or 10 where calls are many: among many a few failures in a row are chance)
open        no call goes through for a second
half_open   one call a second goes through as a probe; closes after some successes in a row, opens again on a failure

A callee that fails again soon after the circuit closed needs more successful probes the next time, so that the circuit
does not flap. Every worker process has its own: N workers send up to N probes a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 10.0
"""Seconds over which outcomes count."""
MIN_CALLS = 10
"""Minimum number of calls within the window before the share of failures counts."""
FAILURE_SHARE = 0.5
"""Share of failed calls that opens the circuit."""
FAILURES_IN_A_ROW, FAILURES_IN_A_ROW_WHEN_BUSY = 5, 10
"""Failures in a row that open the circuit: with fewer than MIN_CALLS calls within the window, and with at least so
many."""
PROBE_SECONDS = 1.0
PROBE_SUCCESSES, MAX_PROBE_SUCCESSES = 3, 8
"""Probes in a row that must succeed before the circuit closes: the first time, and at most after relapses."""
STEADY_SECONDS = 60.0
"""Seconds after closing from which another opening no longer counts as a relapse."""

MIN_CONCLUSIVE_SECONDS = 0.05
"""A timeout after fewer seconds than this says nothing about the callee."""


class Circuit:
    """Call `admit` before a call, and `settle` with its outcome after it."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        successes: int = PROBE_SUCCESSES,
        max_successes: int = MAX_PROBE_SUCCESSES,
    ) -> None:
        self._clock = clock
        self._successes = successes
        self._max_successes = max_successes
        self._state = "closed"
        self._generation = 0
        """Grows with every change of state: outcomes of calls that began before it do not count."""
        self._window: deque[list[int]] = deque()
        """[second, calls, failures], oldest first."""
        self._failed_in_a_row = 0
        self._probed_at = 0.0
        self._closed_at = float("-inf")
        self._successes_needed = successes
        self._successes_seen = 0

    @property
    def state(self) -> str:
        """closed | open | half_open"""
        return self._state

    @property
    def would_admit(self) -> bool:
        """Whether `admit` would let a call through now."""
        return self._state == "closed" or self._clock() - self._probed_at >= PROBE_SECONDS

    def admit(self) -> int | None:
        """A token for `settle` when the call may go through, else None. A token need not be settled."""
        if self._state == "closed":
            return self._generation
        now = self._clock()
        if now - self._probed_at < PROBE_SECONDS:
            return None
        self._probed_at = now
        if self._state == "open":
            self._enter("half_open")
            self._successes_seen = 0
        return self._generation

    def settle(self, token: int, succeeded: bool) -> None:
        """Count the outcome of a call that was admitted. Inconclusive calls (the client left) are not settled."""
        if token != self._generation:
            return
        if self._state == "closed":
            self._count(succeeded)
        elif not succeeded:
            self._open()
        else:
            self._successes_seen += 1
            if self._successes_seen >= self._successes_needed:
                self._close()

    def _count(self, succeeded: bool) -> None:
        second = int(self._clock())
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0])
            while self._window[0][0] <= second - WINDOW_SECONDS:
                self._window.popleft()
        bucket = self._window[-1]
        bucket[1] += 1
        if succeeded:
            self._failed_in_a_row = 0
            return
        bucket[2] += 1
        self._failed_in_a_row += 1
        calls = sum(entry[1] for entry in self._window)
        failures = sum(entry[2] for entry in self._window)
        many = calls >= MIN_CALLS
        if self._failed_in_a_row >= (FAILURES_IN_A_ROW_WHEN_BUSY if many else FAILURES_IN_A_ROW) or (
            many and failures >= FAILURE_SHARE * calls
        ):
            relapsed = self._clock() - self._closed_at < STEADY_SECONDS
            self._successes_needed = (
                min(2 * self._successes_needed, self._max_successes) if relapsed else self._successes
            )
            self._open()

    def _open(self) -> None:
        if self._state == "closed":
            self._probed_at = self._clock()
        self._enter("open")

    def _close(self) -> None:
        self._enter("closed")
        self._closed_at = self._clock()
        self._window.clear()
        self._failed_in_a_row = 0

    def _enter(self, state: str) -> None:
        self._state = state
        self._generation += 1

"""Calls to one engine over the network: deadline, circuit breaker, retry budget, shared calls.

An error in `retryable` means that the engine is in trouble (connection refused or reset, 502, 503): it counts against
the engine's circuit, as a timeout does. Any other error of a call is the response of a healthy engine (a bad request,
no such index): it counts as a success, and is passed on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from services import metrics, tracing
from services.errors import StorageFailed, Unavailable
from services.resilience.circuit import MIN_CONCLUSIVE_SECONDS, Circuit
from services.resilience.retries import RetryBudget
from services.resilience.single_flight import SingleFlight
from services.types import Deadline, DegradedReason

T = TypeVar("T")

MAX_PAUSE_SECONDS = 0.02
"""Maximum pause before a retry; the pause is random up to this, so that retries do not come in waves."""
MAX_PAUSE_SHARE = 0.25
"""Maximum share of the remaining time that the pause may take."""
TIMER_SLACK_SECONDS = 0.005
"""Timers may fire this early: a caller's own timer for the same deadline may cancel us before ours fires."""
PROBE_TIME_SHARE, MIN_PROBE_SECONDS = 0.25, 0.1
"""Share of its time that a probe of an engine may take, and the minimum in seconds."""
CIRCUIT_GAUGE = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Remote:
    """Calls to the engine `name`, each under its circuit breaker; an error in `retryable` counts against the engine."""

    def __init__(
        self,
        name: str,
        retryable: tuple[type[BaseException], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._retryable = retryable
        self._circuit = Circuit(clock)
        self._retries = RetryBudget(clock)
        self._flights = SingleFlight()
        self._published = ""
        self._publish_state()

    @property
    def state(self) -> str:
        """State of the circuit: closed | open | half_open."""
        return self._circuit.state

    async def read(self, work: Callable[[float], Awaitable[T]], deadline: Deadline, key: Hashable | None = None) -> T:
        """Run `work(seconds left)` and return its result. It must be safe to run twice. With `key`, concurrent calls of
        the same key share one result, which callers must not change.

        Raises TimeoutError at the deadline, Unavailable when the engine failed or its circuit is open, and whatever
        else `work` raises.
        """
        if deadline.remaining() <= 0.0:
            raise TimeoutError
        if key is None:
            return await self._read(work, deadline)
        return await self._flights.run(key, lambda given: self._read(work, given), deadline)

    async def write(self, work: Callable[[float], Awaitable[T]], seconds: float) -> T:
        """Run `work(seconds)` once and return its result. Raises StorageFailed when time is up (whether it was written
        is then unknown), Unavailable when the engine failed or its circuit is open, and whatever else `work` raises."""
        try:
            return await self._attempt(work, Deadline.after(seconds))
        except self._retryable as error:
            raise Unavailable(self._name) from error
        except TimeoutError as error:
            raise StorageFailed(f"{self._name}: timeout") from error

    async def _read(self, work: Callable[[float], Awaitable[T]], deadline: Deadline) -> T:
        self._retries.record_call()
        try:
            return await self._attempt(work, deadline)
        except self._retryable as error:
            if deadline.remaining() <= TIMER_SLACK_SECONDS:
                raise TimeoutError from error
            if self._circuit.state != "closed" or not self._retries.spend():
                raise Unavailable(self._name) from error
        metrics.ENGINE_RETRIES.labels(self._name).inc()
        await asyncio.sleep(random.uniform(0.0, min(MAX_PAUSE_SECONDS, MAX_PAUSE_SHARE * deadline.remaining())))  # noqa: S311
        try:
            return await self._attempt(work, deadline)
        except self._retryable as error:
            if deadline.remaining() <= TIMER_SLACK_SECONDS:
                raise TimeoutError from error
            raise Unavailable(self._name) from error

    async def _attempt(self, work: Callable[[float], Awaitable[T]], deadline: Deadline) -> T:
        token = self._circuit.admit()
        if token is None:
            metrics.ENGINE_REQUESTS.labels(self._name, "circuit_open").inc()
            raise Unavailable(self._name, DegradedReason.CIRCUIT_OPEN)
        self._publish_state()
        given = deadline.remaining()
        if self._circuit.state != "closed":  # a caller waits for this probe, and it will most likely fail
            given = max(PROBE_TIME_SHARE * given, min(given, MIN_PROBE_SECONDS))
        start = time.perf_counter()
        outcome = "error"
        with tracing.span(self._name, engine=self._name, deadline_ms=round(1000 * given)) as span:
            try:
                async with asyncio.timeout(given):
                    result = await work(given)
                outcome = "ok"
                return result
            except asyncio.CancelledError:
                # A caller may give up at the same deadline; one that leaves before it says nothing about the engine.
                outcome = "timeout" if deadline.remaining() <= TIMER_SLACK_SECONDS else "cancelled"
                raise
            except self._retryable:
                outcome = "timeout" if deadline.remaining() <= TIMER_SLACK_SECONDS else "unavailable"
                raise
            except TimeoutError:
                outcome = "timeout"
                raise
            finally:
                span.set("outcome", outcome)
                self._settle(token, outcome, given, time.perf_counter() - start)

    def _settle(self, token: int, outcome: str, given: float, took: float) -> None:
        if outcome in ("ok", "error"):  # an engine that rejects a request is up
            self._circuit.settle(token, True)
        elif outcome == "unavailable" or (outcome == "timeout" and given >= MIN_CONCLUSIVE_SECONDS):
            self._circuit.settle(token, False)
        self._publish_state()
        metrics.ENGINE_REQUESTS.labels(self._name, outcome).inc()
        metrics.ENGINE_SECONDS.labels(self._name).observe(took)

    def _publish_state(self) -> None:
        state = self._circuit.state
        if state != self._published:
            self._published = state
            metrics.CIRCUIT_STATE.labels(self._name).set(CIRCUIT_GAUGE[state])

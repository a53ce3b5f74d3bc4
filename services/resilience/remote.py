"""Calls to one engine over the network: deadline, circuit breaker, retry budget, shared calls.

An error in `retryable` means that the engine is in trouble (connection refused or reset, 502, 503): it counts against
the engine's circuit, as a timeout does. Any other error of a call is the answer of an engine that is well (a bad
request, no such index): it counts for it, and is passed on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from services import metrics, tracing
from services.errors import StorageFailed, Unavailable
from services.resilience.circuit import FAIR, Circuit
from services.resilience.retries import RetryBudget
from services.resilience.single_flight import SingleFlight
from services.types import Deadline, DegradedReason

T = TypeVar("T")

PAUSE = 0.02
"""Most seconds before a second try; how many is random, so that tries do not come in waves."""
PAUSE_SHARE = 0.25
"""Most of the time left that the pause may take."""
SLACK = 0.005
"""Seconds by which timers may run early: a caller's own timer for the same deadline may cancel us before ours rings."""
PROBE_SHARE, LEAST_PROBE = 0.25, 0.1
"""What a call that tries whether the engine is back may take of its time, and seconds that it has in any case."""
OPENNESS = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class Remote:
    """Calls to one engine."""

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
        self._shown = ""
        self._show()

    @property
    def state(self) -> str:
        """State of the circuit: closed | open | half_open."""
        return self._circuit.state

    async def read(self, work: Callable[[float], Awaitable[T]], deadline: Deadline, key: Hashable | None = None) -> T:
        """What `work(seconds left)` returns. It must be safe to run twice; with `key`, identical calls under way are
        shared, so that the result must not be changed by who gets it.

        Raises TimeoutError at the deadline, Unavailable when the engine failed or its circuit is open, and what else
        `work` raises.
        """
        if deadline.remaining() <= 0.0:
            raise TimeoutError
        if key is None:
            return await self._read(work, deadline)
        return await self._flights.run(key, lambda given: self._read(work, given), deadline)

    async def write(self, work: Callable[[float], Awaitable[T]], seconds: float) -> T:
        """What `work(seconds)` returns; it runs once. Raises StorageFailed when time is up (whether it was written is
        then unknown), Unavailable when the engine failed or its circuit is open, and what else `work` raises."""
        try:
            return await self._attempt(work, Deadline.after(seconds))
        except self._retryable as error:
            raise Unavailable(self._name) from error
        except TimeoutError as error:
            raise StorageFailed(f"{self._name}: timeout") from error

    async def _read(self, work: Callable[[float], Awaitable[T]], deadline: Deadline) -> T:
        self._retries.called()
        try:
            return await self._attempt(work, deadline)
        except self._retryable as error:
            if deadline.remaining() <= SLACK:
                raise TimeoutError from error
            if self._circuit.state != "closed" or not self._retries.spend():
                raise Unavailable(self._name) from error
        metrics.ENGINE_RETRIES.labels(self._name).inc()
        await asyncio.sleep(random.uniform(0.0, min(PAUSE, PAUSE_SHARE * deadline.remaining())))  # noqa: S311
        try:
            return await self._attempt(work, deadline)
        except self._retryable as error:
            if deadline.remaining() <= SLACK:
                raise TimeoutError from error
            raise Unavailable(self._name) from error

    async def _attempt(self, work: Callable[[float], Awaitable[T]], deadline: Deadline) -> T:
        token = self._circuit.admit()
        if token is None:
            metrics.ENGINE_REQUESTS.labels(self._name, "circuit_open").inc()
            raise Unavailable(self._name, DegradedReason.CIRCUIT_OPEN)
        self._show()
        given = deadline.remaining()
        if self._circuit.state != "closed":  # somebody waits for this probe, and it will most likely fail
            given = max(PROBE_SHARE * given, min(given, LEAST_PROBE))
        start = time.perf_counter()
        outcome = "error"
        with tracing.span(self._name, engine=self._name, deadline_ms=round(1000 * given)) as span:
            try:
                async with asyncio.timeout(given):
                    result = await work(given)
                outcome = "ok"
                return result
            except asyncio.CancelledError:
                # Who waits for us may end at the same deadline; who goes away before it says nothing of the engine.
                outcome = "timeout" if deadline.remaining() <= SLACK else "cancelled"
                raise
            except self._retryable:
                outcome = "timeout" if deadline.remaining() <= SLACK else "unavailable"
                raise
            except TimeoutError:
                outcome = "timeout"
                raise
            finally:
                span.set("outcome", outcome)
                self._settle(token, outcome, given, time.perf_counter() - start)

    def _settle(self, token: int, outcome: str, given: float, took: float) -> None:
        if outcome in ("ok", "error"):  # an engine that refuses a request is there
            self._circuit.settle(token, True)
        elif outcome == "unavailable" or (outcome == "timeout" and given >= FAIR):
            self._circuit.settle(token, False)
        self._show()
        metrics.ENGINE_REQUESTS.labels(self._name, outcome).inc()
        metrics.ENGINE_SECONDS.labels(self._name).observe(took)

    def _show(self) -> None:
        state = self._circuit.state
        if state != self._shown:
            self._shown = state
            metrics.CIRCUIT_STATE.labels(self._name).set(OPENNESS[state])

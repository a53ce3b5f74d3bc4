"""Concurrent retrieval from the chosen arms: keeps the lists that arrive in time and names the arms that fail."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from services import metrics, tracing
from services.arms.base import Arm
from services.errors import ArmFailed, Unavailable
from services.rankers.fusion import clean
from services.resilience.circuit import MIN_CONCLUSIVE_SECONDS, Circuit
from services.resilience.log_throttle import LogThrottle
from services.types import Candidate, Context, Deadline, Degraded, DegradedReason

logger = logging.getLogger(__name__)

_log_throttle = LogThrottle()
_CANCEL_SECONDS = 0.01
"""Seconds that a cancelled arm has to stop."""


async def retrieve(
    arms: Sequence[Arm],
    counts: Mapping[str, int],
    context: Context,
    deadline: Deadline,
    circuits: Mapping[str, Circuit] | None = None,
) -> tuple[dict[str, list[Candidate]], list[Degraded]]:
    """Lists of the arms that answered (in arm order), and why the others did not. Never raises for a failing arm.

    An arm with a circuit in `circuits` (by arm name) that keeps failing is not called for a while ("circuit_open").

    Not a TaskGroup or `gather`: there one failure or the deadline would throw away what the other arms found.
    """
    chosen = [arm for arm in arms if counts.get(arm.name, 0) > 0]
    tokens = {arm.name: circuits[arm.name].admit() for arm in chosen if circuits and arm.name in circuits}
    refused = [name for name, token in tokens.items() if token is None]
    seconds = deadline.remaining()
    tasks = {
        arm.name: asyncio.create_task(_ask(arm, context, counts[arm.name], deadline), name=f"arm-{arm.name}")
        for arm in chosen
        if arm.name not in refused
    }
    if tasks:
        try:
            _, late = await asyncio.wait(tasks.values(), timeout=seconds)
        except asyncio.CancelledError:
            await _abandon(tasks.values())
            raise
        await _abandon(late)
    lists: dict[str, list[Candidate]] = {}
    degraded = [Degraded(name, DegradedReason.CIRCUIT_OPEN) for name in refused]
    for name, task in tasks.items():
        reason = _failure(name, task)
        token = tokens.get(name)
        if circuits and token is not None:
            _settle(circuits[name], token, task, reason, seconds)
        if reason is None:
            lists[name] = task.result()
            metrics.ARM_CANDIDATES.labels(name).inc(len(lists[name]))
        else:
            degraded.append(Degraded(name, reason))
        metrics.ARM_REQUESTS.labels(name, reason or "ok").inc()
    for name in refused:
        metrics.ARM_REQUESTS.labels(name, "circuit_open").inc()
    return lists, degraded


def _settle(
    circuit: Circuit, token: int, task: asyncio.Task[list[Candidate]], reason: str | None, seconds: float
) -> None:
    """Report the outcome to the arm's circuit. Failures of an engine with a circuit of its own, and timeouts after too
    short a time, say nothing about the arm."""
    of_engine = task.done() and not task.cancelled() and isinstance(task.exception(), Unavailable)
    if not of_engine and not (reason == "timeout" and seconds < MIN_CONCLUSIVE_SECONDS):
        circuit.settle(token, reason is None)


async def _ask(arm: Arm, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
    start = time.perf_counter()
    outcome = "error"
    with tracing.span(f"arm {arm.name}", count=count, deadline_ms=round(1000 * deadline.remaining())) as span:
        try:
            found = clean(await arm.retrieve(context, count, deadline), count)
            outcome = "ok"
            span.set("found", len(found))
            return found
        except asyncio.CancelledError:
            outcome = "timeout" if deadline.remaining() <= _CANCEL_SECONDS else "cancelled"
            raise
        except TimeoutError:
            outcome = "timeout"
            raise
        except (ArmFailed, Unavailable) as error:
            outcome = error.reason
            raise
        finally:
            span.set("outcome", outcome)
            metrics.ARM_SECONDS.labels(arm.name).observe(time.perf_counter() - start)


async def _abandon(tasks: Iterable[asyncio.Task[list[Candidate]]]) -> None:
    """Cancel the tasks and give them a moment to stop; one that does not is left running rather than waited for."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
        task.add_done_callback(_let_go)
    if pending:
        await asyncio.wait(pending, timeout=_CANCEL_SECONDS)


def _let_go(task: asyncio.Task[list[Candidate]]) -> None:
    """Retrieve the task's exception, so that asyncio does not log it (with a message that may quote the user)."""
    if not task.cancelled():
        task.exception()


def _failure(name: str, task: asyncio.Task[list[Candidate]]) -> DegradedReason | None:
    if not task.done() or task.cancelled():
        return DegradedReason.TIMEOUT
    error = task.exception()
    if error is None:
        return None
    if isinstance(error, TimeoutError):
        return DegradedReason.TIMEOUT
    if isinstance(error, ArmFailed | Unavailable):
        return error.reason
    # The error's type only: its message may quote the user's text.
    if _log_throttle.allow(name, type(error).__name__):
        logger.warning("arm_failed arm=%s error=%s", name, type(error).__name__)
    return DegradedReason.ERROR

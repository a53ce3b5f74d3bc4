"""Ask the chosen arms at once; keep what arrives in time, name what does not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

from services import metrics
from services.arms.base import Arm
from services.errors import ArmFailed
from services.fusion import clean
from services.types import Candidate, Context, Deadline, Degraded

logger = logging.getLogger(__name__)

_LET_GO = 0.01
"""Seconds that a cancelled arm has to stop."""


async def retrieve(
    arms: Sequence[Arm], counts: Mapping[str, int], context: Context, deadline: Deadline
) -> tuple[dict[str, list[Candidate]], list[Degraded]]:
    """Lists of the arms that answered (in arm order), and why the others did not. Never raises for a failing arm.

    Not a TaskGroup or `gather`: there one failure or the deadline would throw away what the other arms found.
    """
    tasks = {
        arm.name: asyncio.create_task(_ask(arm, context, counts[arm.name], deadline), name=f"arm-{arm.name}")
        for arm in arms
        if counts.get(arm.name, 0) > 0
    }
    if not tasks:
        return {}, []
    try:
        _, late = await asyncio.wait(tasks.values(), timeout=deadline.remaining())
    except asyncio.CancelledError:
        await _abandon(tasks.values())
        raise
    await _abandon(late)
    lists: dict[str, list[Candidate]] = {}
    degraded: list[Degraded] = []
    for name, task in tasks.items():
        reason = _failure(name, task)
        if reason is None:
            lists[name] = task.result()
            metrics.ARM_CANDIDATES.labels(name).inc(len(lists[name]))
        else:
            degraded.append(Degraded(name, reason))
        metrics.ARM_REQUESTS.labels(name, reason or "ok").inc()
    return lists, degraded


async def _ask(arm: Arm, context: Context, count: int, deadline: Deadline) -> list[Candidate]:
    start = time.perf_counter()
    try:
        return clean(await arm.retrieve(context, count, deadline), count)
    finally:
        metrics.ARM_SECONDS.labels(arm.name).observe(time.perf_counter() - start)


async def _abandon(tasks: Iterable[asyncio.Task[list[Candidate]]]) -> None:
    """Cancel, and give the tasks a moment to let go; one that clings on is left behind rather than waited for."""
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
        task.add_done_callback(_let_go)
    if pending:
        await asyncio.wait(pending, timeout=_LET_GO)


def _let_go(task: asyncio.Task[list[Candidate]]) -> None:
    """Take note of how it ended, so that nobody reports it as unnoticed (with a message that may quote the user)."""
    if not task.cancelled():
        task.exception()


def _failure(name: str, task: asyncio.Task[list[Candidate]]) -> str | None:
    if not task.done() or task.cancelled():
        return "timeout"
    error = task.exception()
    if error is None:
        return None
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ArmFailed):
        return error.reason
    # The error's type only: its message may quote the user's text.
    logger.warning("arm_failed arm=%s error=%s", name, type(error).__name__)
    return "error"

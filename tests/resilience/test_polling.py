"""The loop under everything that polls: its pauses, what it reports, and how it ends."""

from __future__ import annotations

import asyncio
import time

from services.resilience.polling import poll


async def run(outcomes: list[float | Exception | None], interval: float = 0.0) -> tuple[int, list[str]]:
    """Polls until the outcomes are used up; (calls, what was reported)."""
    reported: list[str] = []
    stop = asyncio.Event()
    left = list(outcomes)

    async def step() -> float | None:
        outcome = left.pop(0)
        if not left:
            stop.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    await poll(step, stop, interval=interval, on_failure=lambda error: reported.append(str(error)))
    return len(outcomes) - len(left), reported


async def test_a_failure_is_reported_once_a_row_and_ends_nothing() -> None:
    failures = [OSError("away"), OSError("away"), None, OSError("away"), OSError("other"), ValueError("other"), None]
    assert await run([*failures]) == (7, ["away", "away", "other", "other"])


async def test_what_makes_failures_the_same_may_be_given() -> None:
    stop, texts, reported = asyncio.Event(), ["away", "circuit open", "away"], list[str]()

    async def step() -> None:
        if not texts:
            stop.set()
            return
        raise OSError(texts.pop())

    await poll(step, stop, interval=0.0, on_failure=lambda error: reported.append(str(error)), identity=type)
    assert reported == ["away"]


async def test_step_may_choose_the_pause() -> None:
    start = time.monotonic()
    calls, _ = await run([0.0] * 50, interval=60.0)
    assert calls == 50
    assert time.monotonic() - start < 10


async def test_stop_ends_a_wait_at_once_and_wake_does_too_but_not_after_a_failure() -> None:
    stop, wake = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def step() -> None:
        seen.append("called")
        if len(seen) == 2:
            raise OSError("away")

    task = asyncio.create_task(poll(step, stop, interval=60.0, on_failure=lambda e: None, wake=wake))
    await asyncio.sleep(0.05)
    wake.set()  # ends the first wait
    await asyncio.sleep(0.05)
    wake.set()  # the second call failed: this one waits its retry interval
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(task, 5)
    assert seen == ["called", "called"]

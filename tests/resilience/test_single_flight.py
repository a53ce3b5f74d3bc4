"""Identical calls under way are made once; nobody's leaving or deadline is another's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.resilience.single_flight import SingleFlight
from services.types import Deadline


class Calls:
    """A call that ends when the test says so."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.running = asyncio.Event()
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, deadline: Deadline) -> int:
        self.started += 1
        number = self.started
        self.running.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return number


@asynccontextmanager
async def play() -> AsyncIterator[tuple[SingleFlight, Calls]]:
    flights = SingleFlight()
    before = asyncio.all_tasks()
    yield flights, Calls()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "a task was left behind"
    assert not flights._flights


def long() -> Deadline:
    return Deadline.after(30.0)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_two_hundred_at_once_are_one_call() -> None:
    async with play() as (flights, calls):
        asked = [asyncio.create_task(flights.run("key", calls, long())) for _ in range(200)]
        await calls.running.wait()
        await settle()
        calls.release.set()
        assert await asyncio.gather(*asked) == [1] * 200
        assert await flights.run("key", calls, long()) == 2, "what is over is not shared"


async def test_other_keys_are_other_calls() -> None:
    async with play() as (flights, calls):
        calls.release.set()
        found = await asyncio.gather(*(flights.run(key, calls, long()) for key in ("a", "b", ("a", 1))))
        assert sorted(found) == [1, 2, 3]


async def test_the_first_may_leave_without_failing_the_others() -> None:
    async with play() as (flights, calls):
        first = asyncio.create_task(flights.run("key", calls, long()))
        await calls.running.wait()
        others = [asyncio.create_task(flights.run("key", calls, long())) for _ in range(3)]
        await settle()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        calls.release.set()
        assert await asyncio.gather(*others) == [1, 1, 1]
        assert calls.cancelled == 0


async def test_the_call_is_cancelled_when_the_last_one_left() -> None:
    async with play() as (flights, calls):
        asked = [asyncio.create_task(flights.run("key", calls, long())) for _ in range(3)]
        await calls.running.wait()
        await settle()
        for task in asked:
            assert calls.cancelled == 0
            task.cancel()
            await settle()
        assert calls.cancelled == 1
        calls.release.set()
        assert await flights.run("key", calls, long()) == 2, "nobody joins what is being cancelled"


async def test_nobody_joins_a_call_that_takes_its_time_to_be_cancelled() -> None:
    async with play() as (flights, calls):
        letting_go = asyncio.Event()

        async def clings(deadline: Deadline) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.wait_for(letting_go.wait(), 5.0)
            return 0

        deadline = long()
        asked = asyncio.create_task(flights.run("key", clings, deadline))
        await settle()
        asked.cancel()
        await asyncio.wait([asked])
        calls.release.set()
        assert await flights.run("key", calls, deadline) == 1
        letting_go.set()
        await settle()


async def test_everybody_keeps_their_own_deadline() -> None:
    async with play() as (flights, calls):
        patient = asyncio.create_task(flights.run("key", calls, long()))
        await calls.running.wait()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await flights.run("key", calls, Deadline.after(0.05))
        assert 0.04 < time.monotonic() - began < 5.0
        calls.release.set()
        assert await patient == 1
        assert calls.started == 1


async def test_who_has_much_more_time_does_not_join_a_hurried_call() -> None:
    async with play() as (flights, calls):
        hurried = asyncio.create_task(flights.run("key", calls, Deadline.after(0.1)))
        await calls.running.wait()
        patient = [asyncio.create_task(flights.run("key", calls, long())) for _ in range(5)]
        with pytest.raises(TimeoutError):
            await hurried
        calls.release.set()
        assert await asyncio.gather(*patient) == [2] * 5, "they share one of their own"


async def test_an_error_reaches_everybody_and_is_forgotten() -> None:
    async with play() as (flights, calls):
        calls.error = ValueError("bad request")
        calls.release.set()
        found = await asyncio.gather(*(flights.run("key", calls, long()) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in found] == [ValueError] * 3
        calls.error = None
        assert await flights.run("key", calls, long()) == 2


async def test_an_error_that_nobody_waits_for_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """The loop would log it, with a message that may quote the user."""
    async with play() as (flights, _):

        async def stubborn(deadline: Deadline) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("winter song") from None

        with pytest.raises(TimeoutError):
            await flights.run("key", stubborn, Deadline.after(0.01))
        await settle()
    assert not caplog.records

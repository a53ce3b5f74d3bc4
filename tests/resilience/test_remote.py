"""Calls to an engine that answers, hangs, resets or refuses, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services import metrics
from services.errors import StorageFailed, Unavailable
from services.resilience.circuit import FAILURES_IN_A_ROW, PROBE_SECONDS, PROBE_SUCCESSES
from services.resilience.remote import Remote
from services.types import Deadline
from tests.metric_values import value_of

SLACK = 3.0
"""Seconds that a busy machine may add: the tests only distinguish an answer from none."""


class Engine:
    """Speaks one line a connection, and behaves as the test wants: answer | refuse_request | hang | reset."""

    def __init__(self, *behaviour: str) -> None:
        self.behaviour = list(behaviour)
        """Behaviour in the next calls; the last one repeats."""
        self.calls = 0
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        """Set when a client closed its end."""

    async def __aenter__(self) -> Engine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        self.calls += 1
        self.asked.set()
        behaviour = self.behaviour.pop(0) if len(self.behaviour) > 1 else self.behaviour[0]
        if behaviour == "hang":
            await reader.read()
            self.gone.set()
        elif behaviour == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            writer.write(b"400\n" if behaviour == "refuse_request" else b"200\n")
            await writer.drain()
        writer.close()

    async def ask(self, seconds: float) -> int:
        """A client of the engine; returns the number of the call, raises ConnectionError or ValueError."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(b"ask\n")
            answer = await reader.readline()
            if not answer:
                raise ConnectionResetError
            if answer == b"400\n":
                raise ValueError("bad request")
            return self.calls
        finally:
            writer.close()


@asynccontextmanager
async def play() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    for _ in range(200):
        if asyncio.all_tasks() == before:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"left behind: {asyncio.all_tasks() - before}")


def counted(name: str, outcome: str) -> float:
    return value_of(metrics.ENGINE_REQUESTS.labels(name, outcome))


def gauge(name: str) -> float:
    return value_of(metrics.CIRCUIT_STATE.labels(name))


def remote(name: str, **options: Any) -> Remote:
    return Remote(name, (ConnectionError,), **options)


def long() -> Deadline:
    return Deadline.after(30.0)


async def failing(remote: Remote, engine: Engine, calls: int) -> list[str]:
    """Reasons that reads were refused for."""
    reasons = []
    for _ in range(calls):
        try:
            await remote.read(engine.ask, long())
        except Unavailable as error:
            reasons.append(error.reason)
    return reasons


async def test_an_answer_comes_back_and_is_counted() -> None:
    async with play(), Engine("answer") as engine:
        calm = remote("calm")
        assert await calm.read(engine.ask, long()) == 1
        assert await calm.write(engine.ask, 30.0) == 2
        assert counted("calm", "ok") == 2
        assert calm.state == "closed"
        assert gauge("calm") == 0.0


async def test_work_is_told_the_time_that_is_left() -> None:
    async with play():

        async def told(seconds: float) -> float:
            return seconds

        assert 0.0 < await remote("told").read(told, Deadline.after(5.0)) <= 5.0
        assert 0.0 < await remote("told").write(told, 7.0) <= 7.0


@pytest.mark.parametrize("key", [None, "key"])
async def test_a_black_hole_costs_the_deadline_then_nothing(key: str | None) -> None:
    async with play(), Engine("hang") as engine:
        hole = remote(f"hole-{key}")
        for _ in range(FAILURES_IN_A_ROW):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await hole.read(engine.ask, Deadline.after(0.1), key)
            assert 0.08 <= time.monotonic() - began < 0.1 + SLACK
        assert engine.calls == FAILURES_IN_A_ROW, "timeouts are not tried again"
        assert hole.state == "open"
        assert gauge(f"hole-{key}") == 1.0
        with pytest.raises(Unavailable) as caught:
            await hole.read(engine.ask, Deadline.after(0.1), key)
        assert caught.value.reason == "circuit_open"
        assert engine.calls == FAILURES_IN_A_ROW
        assert counted(f"hole-{key}", "timeout") == FAILURES_IN_A_ROW
        assert counted(f"hole-{key}", "circuit_open") == 1


@pytest.mark.parametrize("key", [None, "key"])
async def test_callers_who_enforce_the_same_deadline_themselves_count_as_timeouts(key: str | None) -> None:
    """Their timer may ring first and cancel the call; the engine was slow all the same."""
    async with play(), Engine("hang") as engine:
        outer = remote(f"outer-{key}")
        for _ in range(FAILURES_IN_A_ROW):
            deadline = Deadline.after(0.1)
            with pytest.raises(TimeoutError):
                async with deadline.enforced():
                    await outer.read(engine.ask, deadline, key)
        for _ in range(100):  # the shared call ends on its own, right after
            if outer.state == "open":
                break
            await asyncio.sleep(0.01)
        assert outer.state == "open"


@pytest.mark.parametrize("key", [None, "key"])
async def test_clients_that_go_away_early_say_nothing(key: str | None) -> None:
    async with play():
        left = remote(f"left-{key}")
        for _ in range(3 * FAILURES_IN_A_ROW):
            async with Engine("hang") as engine:
                task = asyncio.create_task(left.read(engine.ask, long(), key))
                await asyncio.wait_for(engine.asked.wait(), 5.0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.wait_for(engine.gone.wait(), 5.0)  # its connection was closed, too
        assert left.state == "closed"
        assert counted(f"left-{key}", "cancelled") == 3 * FAILURES_IN_A_ROW


async def test_too_little_time_is_not_the_engines_fault() -> None:
    async with play(), Engine("hang") as engine:
        hurried = remote("hurried")
        for _ in range(3 * FAILURES_IN_A_ROW):
            with pytest.raises(TimeoutError):
                await hurried.read(engine.ask, Deadline.after(0.01))
        assert hurried.state == "closed"
        calls = engine.calls
        with pytest.raises(TimeoutError):
            await hurried.read(engine.ask, Deadline.after(-1.0))
        assert engine.calls == calls, "no work starts after its deadline"


async def test_a_reset_read_is_tried_once_more() -> None:
    async with play(), Engine("reset", "answer") as engine:
        assert await remote("reset").read(engine.ask, long()) == 2
        assert value_of(metrics.ENGINE_RETRIES.labels("reset")) == 1


async def test_resets_without_end_open_the_circuit_within_the_budget() -> None:
    async with play(), Engine("reset") as engine:
        broken = remote("broken")
        reasons = await failing(broken, engine, 50)
        assert engine.calls == FAILURES_IN_A_ROW, "one of them a second try"
        assert reasons == ["unavailable"] * (FAILURES_IN_A_ROW - 1) + ["circuit_open"] * (50 - FAILURES_IN_A_ROW + 1)


async def test_a_write_is_never_tried_twice() -> None:
    async with play():
        async with Engine("reset", "answer") as engine:
            with pytest.raises(Unavailable):
                await remote("write").write(engine.ask, 30.0)
            assert engine.calls == 1
        async with Engine("hang") as engine:
            with pytest.raises(StorageFailed) as caught:
                await remote("write").write(engine.ask, 0.1)
            assert not isinstance(caught.value, Unavailable), "whether it was written is unknown"
            assert engine.calls == 1


async def test_a_refused_connection_fails_at_once() -> None:
    async with play():
        async with Engine("answer") as engine:
            pass
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            await remote("refused").read(engine.ask, long())
        assert caught.value.reason == "unavailable"
        assert time.monotonic() - began < SLACK


async def test_the_callers_own_mistakes_pass_through_and_open_nothing() -> None:
    async with play(), Engine("refuse_request") as engine:
        wrong = remote("wrong")
        for _ in range(5 * FAILURES_IN_A_ROW):
            with pytest.raises(ValueError, match="bad request"):
                await wrong.read(engine.ask, long())
            with pytest.raises(ValueError, match="bad request"):
                await wrong.write(engine.ask, 30.0)
        assert wrong.state == "closed"
        assert engine.calls == 10 * FAILURES_IN_A_ROW, "nor are they tried again"
        assert counted("wrong", "error") == 10 * FAILURES_IN_A_ROW


async def test_identical_reads_are_one_call_and_each_keeps_its_deadline() -> None:
    async with play():
        async with Engine("answer") as engine:
            shared = remote("shared")
            assert set(await asyncio.gather(*(shared.read(engine.ask, long(), "q") for _ in range(200)))) == {1}
            assert engine.calls == 1
        async with Engine("hang") as engine:
            first = asyncio.create_task(shared.read(engine.ask, long(), "q"))
            await asyncio.wait_for(engine.asked.wait(), 5.0)
            with pytest.raises(TimeoutError):
                await shared.read(engine.ask, Deadline.after(0.1), "q")
            assert not first.done()
            assert engine.calls == 1
            first.cancel()
            await asyncio.wait([first])


async def test_the_circuit_closes_after_the_engine_is_back() -> None:
    """Uses a clock that the test advances."""
    async with play():
        now = [0.0]
        async with Engine(*["reset"] * FAILURES_IN_A_ROW, "answer") as engine:
            back = remote("back", clock=lambda: now[0])
            while back.state == "closed":
                await failing(back, engine, 1)
            calls = engine.calls
            for probe in range(1, PROBE_SUCCESSES + 1):
                assert await failing(back, engine, 3) == ["circuit_open"] * 3
                assert engine.calls == calls
                now[0] += PROBE_SECONDS
                calls = await back.read(engine.ask, long())
                assert gauge("back") == (0.5 if probe < PROBE_SUCCESSES else 0.0)
            assert back.state == "closed"
            assert await failing(back, engine, 10) == []


async def test_an_engine_that_refuses_requests_is_there() -> None:
    """An empty engine that came back answers "no such index" until its index is built: so it can be built."""

    async def refused(_: float) -> None:
        raise ValueError

    async with play():
        now = [0.0]
        async with Engine(*["reset"] * FAILURES_IN_A_ROW) as engine:
            back = remote("refusing", clock=lambda: now[0])
            while back.state == "closed":
                await failing(back, engine, 1)
            for _ in range(PROBE_SUCCESSES):
                now[0] += PROBE_SECONDS
                with pytest.raises(ValueError):  # noqa: PT011
                    await back.read(refused, long())
            assert back.state == "closed"

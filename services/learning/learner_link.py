"""Access to the learner from other processes: its progress, and requests to it.

Both go through the shared StateStore: the learner reports its progress every second, and checks for requests several
times a second.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from services.backends.base import EventLog, MemoryIndex, StateStore
from services.errors import ModelInvalid, NotFound, Unavailable
from services.learning.learner import Learner
from services.learning.progress import Progress, set_gauges
from services.resilience.polling import poll

logger = logging.getLogger(__name__)

STATUS = "learner_status"
REQUEST = "learner_request"
ANSWER = "learner_answer"
POLL_SECONDS = 0.2
STATUS_SECONDS = 1.0
ANSWER_SECONDS = 10.0
"""Seconds that a caller waits for the learner."""


class LearnerView(Protocol):
    """The learner as seen by routes and commands, wherever it runs."""

    def notify(self) -> None:
        """Wake the learner, because the log has new records."""
        ...

    async def catch_up(self, policy: bool = True) -> None:
        """See Learner.catch_up."""
        ...

    async def publish(self) -> str | None:
        """See Learner.publish."""
        ...

    async def adopt(self, version: str) -> str:
        """See Learner.adopt."""
        ...

    async def observe(self) -> Progress:
        """The learner's progress."""
        ...


class LearnerLink:
    """The learner in another process."""

    def __init__(self, log: EventLog, memory: MemoryIndex, state: StateStore) -> None:
        self._log = log
        self._memory = memory
        self._state = state

    def notify(self) -> None:
        """Nothing to do: the learner polls the log by itself."""

    async def catch_up(self, policy: bool = True) -> None:
        """Wait until memory and histories (and the policy) have processed all current records of the log, as long as
        the learner makes progress. Raises Unavailable when it makes none for ANSWER_SECONDS seconds."""
        end, _ = await self._log.end()
        reached = (-1, -1)
        while True:
            place = await self._memory.offset(), int((await self._status()).get("offset", 0))
            if place[0] >= end and (not policy or place[1] >= end):
                return
            if place == reached:
                raise Unavailable("the learner process (ltrr learn)")
            reached = place
            await self._until(partial(self._moved, place, end, policy))

    async def publish(self) -> str | None:
        """The newest snapshot that the learner reported. It writes its snapshots by itself."""
        return (await self._status()).get("snapshot")

    async def adopt(self, version: str) -> str:
        """See Learner.adopt. Raises what that raises, and Unavailable when no learner answers in time."""
        number = secrets.token_hex(8)
        await self._state.set(REQUEST, {"number": number, "adopt": version, "until": time.time() + ANSWER_SECONDS})
        answer: dict[str, Any] = {}

        async def answered() -> bool:
            answer.update(await self._state.get(ANSWER) or {})
            return answer.get("number") == number

        await self._until(answered)
        if "error" in answer:
            raise (NotFound if answer["error"] == "NotFound" else ModelInvalid)(answer["detail"])
        return str(answer["version"])

    async def observe(self) -> Progress:
        """The progress that the learner last reported; also updates the gauges."""
        end, _ = await self._log.end()
        status = await self._status()
        written = status.get("snapshot_at")
        progress = Progress(
            lag={
                "memory": max(0, end - await self._memory.offset()),
                "policy": max(0, end - int(status.get("offset", 0))),
            },
            open=int(status.get("open", 0)),
            learned=int(status.get("learned", 0)),
            skipped=int(status.get("skipped", 0)),
            snapshot=status.get("snapshot"),
            snapshot_age=None if written is None else max(0.0, time.time() - float(written)),
        )
        set_gauges(progress)
        return progress

    async def status_age(self) -> float | None:
        """Seconds since the learner last reported its progress; None when it never did."""
        at = (await self._status()).get("at")
        return None if at is None else max(0.0, time.time() - float(at))

    async def _moved(self, before: tuple[int, int], end: int, policy: bool) -> bool:
        memory, learned = await self._memory.offset(), int((await self._status()).get("offset", 0))
        return (memory, learned) != before or (memory >= end and (not policy or learned >= end))

    async def _status(self) -> dict[str, Any]:
        return dict(await self._state.get(STATUS) or {})

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not await holds():  # noqa: ASYNC110 - what is waited for happens in another process
                    await asyncio.sleep(POLL_SECONDS / 4)
        except TimeoutError as error:
            raise Unavailable("the learner process (ltrr learn)") from error


async def attend(learner: Learner, state: StateStore, stop: asyncio.Event) -> None:
    """In the learner's process: report its progress and serve requests until `stop` is set."""
    reported = -STATUS_SECONDS

    async def attend_once() -> None:
        nonlocal reported
        request = await state.get(REQUEST) or {}
        answered = (await state.get(ANSWER) or {}).get("number")
        # After `until` the caller has already got an error: the request must not be served later.
        if request.get("number") not in (None, answered) and time.time() <= float(request["until"]):
            outcome = await _adopted(learner, str(request["adopt"]))
            await state.set(ANSWER, {"number": request["number"]} | outcome)
        if time.monotonic() - reported >= STATUS_SECONDS:
            await state.set(STATUS, await _status(learner, time.time()))
            reported = time.monotonic()

    await poll(attend_once, stop, interval=POLL_SECONDS, on_failure=_failed, identity=lambda error: "failed")


def _failed(error: Exception) -> None:
    logger.warning("learner_status_failed error=%s", type(error).__name__)


async def _adopted(learner: Learner, version: str) -> dict[str, str]:
    try:
        return {"version": await learner.adopt(version)}
    except (NotFound, ModelInvalid) as error:
        return {"error": type(error).__name__, "detail": str(error)}


async def _status(learner: Learner, now: float) -> dict[str, Any]:
    progress = await learner.observe()
    return {
        "at": now,
        "offset": learner.offset,
        "open": progress.open,
        "learned": progress.learned,
        "skipped": progress.skipped,
        "snapshot": progress.snapshot,
        "snapshot_at": None if progress.snapshot_age is None else now - progress.snapshot_age,
    }

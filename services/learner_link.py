"""The learner as the other processes see it: where it stands, and what may be asked of it.

Both go through the shared StateStore: the learner writes down where it stands every second, and looks several times a
second whether something was asked.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from services.backends.base import EventLog, MemoryIndex, StateStore
from services.errors import LtrrError, ModelInvalid, NotFound, Unavailable
from services.learner import Learner
from services.progress import Progress, gauges

logger = logging.getLogger(__name__)

STATUS = "learner_status"
REQUEST = "learner_request"
ANSWER = "learner_answer"
LOOK_SECONDS = 0.2
STATUS_SECONDS = 1.0
PATIENCE = 10.0
"""Seconds that a caller waits for the learner."""


class LearnerView(Protocol):
    """What routes and commands need of the learner, wherever it runs."""

    def notify(self) -> None: ...

    async def catch_up(self, policy: bool = True) -> None: ...

    async def publish(self) -> str | None: ...

    async def adopt(self, version: str) -> str: ...

    async def observe(self) -> Progress: ...


class LearnerLink:
    """The learner in another process."""

    def __init__(
        self, log: EventLog, memory: MemoryIndex, state: StateStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._log = log
        self._memory = memory
        self._state = state
        self._clock = clock

    def notify(self) -> None:
        """The learner looks at the log by itself."""

    async def catch_up(self, policy: bool = True) -> None:
        """Wait until memory and histories (and the policy) have what is in the log by now. Raises Unavailable when the
        learner does not get there in time: it will when it runs."""
        end, _ = await self._log.end()

        async def there() -> bool:
            if await self._memory.offset() < end:
                return False
            return not policy or int((await self._status()).get("offset", 0)) >= end

        await self._until(there)

    async def publish(self) -> str | None:
        """Nothing to do here: the learner writes its snapshots by itself. The newest one it told of."""
        return (await self._status()).get("snapshot")

    async def adopt(self, version: str) -> str:
        """See Learner.adopt. Raises what that raises, and Unavailable when no learner answers in time."""
        number = secrets.token_hex(8)
        await self._state.set(REQUEST, {"number": number, "adopt": version})
        answer: dict[str, Any] = {}

        async def answered() -> bool:
            answer.update(await self._state.get(ANSWER) or {})
            return answer.get("number") == number

        await self._until(answered)
        if "error" in answer:
            raise (NotFound if answer["error"] == "NotFound" else ModelInvalid)(answer["detail"])
        return str(answer["version"])

    async def observe(self) -> Progress:
        """Where the learner stood when it last said so; brings the gauges up to date."""
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
            snapshot_age=None if written is None else max(0.0, self._clock() - float(written)),
        )
        gauges(progress)
        return progress

    async def seen(self) -> float | None:
        """Seconds since the learner last said where it stands; None when it never did."""
        at = (await self._status()).get("at")
        return None if at is None else max(0.0, self._clock() - float(at))

    async def _status(self) -> dict[str, Any]:
        return dict(await self._state.get(STATUS) or {})

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not await holds():  # noqa: ASYNC110 - what is waited for happens in another process
                    await asyncio.sleep(LOOK_SECONDS / 4)
        except TimeoutError as error:
            raise Unavailable("the learner process (ltrr learn)") from error


async def attend(
    learner: Learner, state: StateStore, stop: asyncio.Event, clock: Callable[[], float] = time.time
) -> None:
    """In the learner's process: say where it stands and do what is asked, until `stop` is set."""
    said = -STATUS_SECONDS
    last = ((await state.get(ANSWER)) or {}).get("number")
    while not stop.is_set():
        try:
            request = await state.get(REQUEST) or {}
            if request.get("number") not in (None, last):
                last = request["number"]
                await state.set(ANSWER, {"number": last} | await _adopted(learner, str(request["adopt"])))
            if time.monotonic() - said >= STATUS_SECONDS:
                await state.set(STATUS, await _standing(learner, clock()))
                said = time.monotonic()
        except LtrrError as error:
            logger.warning("learner_status_failed error=%s", type(error).__name__)
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


async def _adopted(learner: Learner, version: str) -> dict[str, str]:
    try:
        return {"version": await learner.adopt(version)}
    except (NotFound, ModelInvalid) as error:
        return {"error": type(error).__name__, "detail": str(error)}


async def _standing(learner: Learner, now: float) -> dict[str, Any]:
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

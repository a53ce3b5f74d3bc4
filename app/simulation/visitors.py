"""Simulated visitors of a demo: they search and click in the running service, at a pace that a spectator can follow.

Their searches and clicks take the same path as everyone's, below HTTP: admission, the search engine, the feedback
service, the event log. The service learns from them as from real users, so only `ltrr demo` has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.system.system import System
from services.datasets.folder import Dataset
from services.errors import LtrrError
from services.simulation.loop import PAGE_SIZE
from services.simulation.traffic import Search
from services.simulation.visitors import VisitorTraffic, visitor_traffic
from services.types import Query

logger = logging.getLogger(__name__)

RATE = 3.0
"""Searches per second after the initial rush."""
RUSH, RUSH_SECONDS = 8.0, 100.0
"""Searches per second at first, and for how many seconds: a policy needs hundreds of answers before it leaves the
static mix, and the more the smaller the gain is (services/policies/vw.py)."""
LONGEST_SECONDS = 1800.0
"""Seconds after which the visitors stop, so that a forgotten demo does not fill the disk."""
THINK_SECONDS = 0.6
"""Seconds from an answer to the clicks on it."""
PATIENCE = 2.0
"""Timeout of a search in seconds."""
MEASURED_SECONDS = 10.0
"""Seconds over which the rate is measured."""
MAX_FAILURES = 50
"""Consecutive failed searches after which the visitors give up."""


class Visitors:
    """Starts and stops the visitors and reports their activity. One visitor searches at a time, on the service's event
    loop."""

    def __init__(
        self, system: System, load: Callable[[], VisitorTraffic], rate: float = RATE, rush: float = RUSH
    ) -> None:
        """`load`: returns the visitors' traffic; blocking, called once, by the first start. `rate`: searches per
        second; `rush`: the same in the first RUSH_SECONDS."""
        self._system = system
        self._load = load
        self._rate = rate
        self._rush = rush
        self._visited = 0.0
        """Seconds that the visitors have been running in total."""
        self._traffic: VisitorTraffic | None = None
        self._task: asyncio.Task[None] | None = None
        self._run = secrets.token_hex(4)
        self._recent: deque[float] = deque()
        self._searches = self._clicks = self._failures = 0
        self._trouble: str | None = None

    @property
    def running(self) -> bool:
        """Whether the visitors are searching now."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Start the visitors, unless they are running. Raises InvalidRequest when the catalogue has nothing to search
        for."""
        if self._traffic is None:
            self._traffic = await asyncio.to_thread(self._load)
        if not self.running:
            self._trouble = None
            self._task = asyncio.create_task(self._visit(self._traffic))

    async def stop(self) -> None:
        """Stop the visitors; they have stopped when this returns."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._recent.clear()

    def state(self) -> dict[str, Any]:
        """State as JSON values: whether they are running, recent searches per second, totals since the service
        started."""
        now = time.monotonic()
        while self._recent and self._recent[0] < now - MEASURED_SECONDS:
            self._recent.popleft()
        span = min(MEASURED_SECONDS, now - self._recent[0]) if len(self._recent) > 1 else 0.0
        return {
            "running": self.running,
            "rate": round(len(self._recent) / span, 1) if self.running and span > 0.0 else 0.0,
            "searches": self._searches,
            "clicks": self._clicks,
            "failures": self._failures,
            "trouble": self._trouble,
        }

    async def _visit(self, traffic: VisitorTraffic) -> None:
        began, in_a_row, clicks = time.monotonic(), 0, deque[tuple[float, list[dict[str, Any]]]]()
        following = began
        for search in traffic.searches:
            await asyncio.sleep(max(0.0, following - time.monotonic()))
            pause = 1.0 / (self._rush if self._visited < RUSH_SECONDS else self._rate)
            self._visited += pause
            # Where searches take longer than the pause, delayed ones are dropped and not made up for.
            following = max(following, time.monotonic() - pause) + pause
            try:
                while clicks and clicks[0][0] <= time.monotonic():
                    await self._act(clicks.popleft()[1])
                events = await self._search(search, traffic)
            except (LtrrError, TimeoutError) as error:
                in_a_row += 1
                self._failures += 1
                self._trouble = type(error).__name__
                if in_a_row >= MAX_FAILURES:
                    logger.warning("visitors_gave_up error=%s", self._trouble)
                    return
                continue
            in_a_row, self._trouble = 0, None
            if events:
                clicks.append((time.monotonic() + THINK_SECONDS, events))
            if time.monotonic() - began >= LONGEST_SECONDS:
                logger.info("visitors_went_home after=%.0f", LONGEST_SECONDS)
                return

    async def _search(self, search: Search, traffic: VisitorTraffic) -> list[dict[str, Any]]:
        """Search; returns the clicks on the answer, in the form of POST /v1/feedback."""
        query = Query(
            search.query.text,
            limit=PAGE_SIZE,
            user_id=search.user_id,
            session_id=search.session_id,
            context=search.context,
            timeout=PATIENCE,
        )
        with self._system.admission.admit("/v1/search"):
            answer = await self._system.search.answer(query)
        self._searches += 1
        self._recent.append(time.monotonic())
        slate = [hit.object_id for hit in answer.hits]
        return [
            {
                "event_id": f"visitor-{self._run}-{search.index}-{place}",
                "query_id": answer.query_id,
                "object_id": slate[place],
                "action_name": "click",
                "position": place + 1,
            }
            for place in traffic.judge.clicks(slate, search.query.query_id, search.index)
        ]

    async def _act(self, events: list[dict[str, Any]]) -> None:
        results = await self._system.record(events, admin=False)
        accepted = sum(result.status == "accepted" for result in results)
        self._clicks += accepted
        self._failures += len(results) - accepted


@asynccontextmanager
async def visitors(system: System, source: Path, running: bool) -> AsyncIterator[Visitors]:
    """Visitors of the catalogue in `source`, started at once when `running`; stopped at the end."""

    def load() -> VisitorTraffic:
        return visitor_traffic(Dataset.open(source), system.catalogue.schema.title, secrets.randbits(32))

    demo_visitors = Visitors(system, load)
    if running:
        await demo_visitors.start()
    try:
        yield demo_visitors
    finally:
        await demo_visitors.stop()

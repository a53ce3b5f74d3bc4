"""Engine outages under load: no search fails that another engine could answer, no acknowledged event is lost or counted
twice, and the service recovers within seconds of the engine's return.

Runs the service with two gateway workers and a separate learner on real engines (Qdrant is a stand-in), searches and
sends feedback continuously, kills and restarts OpenSearch, then Redis.

    python -m load_tests.outage [--port 8138] [--clients 6] [--away 6]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from load_tests.loop import NAMES, Broken, Service, check, send_feedback, service
from tests.servers.stack import Stack, stack

SUBJECTS = ("river", "winter", "lantern", "harbour", "garden", "signal", "orchard", "marble", "comet", "meadow")
STEADY_SECONDS = 4.0
RECOVERY_SECONDS = 30.0
CLEAN_SECONDS = 1.0
"""How long all answers must be complete before the service counts as recovered."""
THINK_SECONDS = 0.05
TIMEOUT_MS = 2000


def catalogue() -> list[dict[str, Any]]:
    """One song per subject and name."""
    return [
        {
            "id": f"{subject}-{name}-{i}".lower(),
            "title": f"{name} and the {subject} {i}",
            "artist": f"The {name}s",
            "genres": [("folk", "soul", "rock")[i % 3]],
            "plays": 1000 - i,
        }
        for subject in SUBJECTS
        for i, name in enumerate(NAMES)
    ]


@dataclass
class Observations:
    """Observations of clients in one phase."""

    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    degraded: Counter[str] = field(default_factory=Counter)
    feedback: Counter[str] = field(default_factory=Counter)
    complete_since: float | None = None
    """Monotonic time since which all answers are complete and all events accepted; None while they are not."""

    def line(self, phase: str) -> str:
        """The phase in one line."""
        ordered = sorted(self.seconds) or [0.0]
        p50, p99 = (1000 * ordered[int(q * (len(ordered) - 1))] for q in (0.5, 0.99))
        parts = ", ".join(f"{name} {n}" for name, n in self.degraded.most_common(6)) or "nothing"
        statuses = ", ".join(f"{name} {n}" for name, n in self.feedback.most_common())
        return (
            f"      {phase:22} {len(self.seconds):5} searches, p50 {p50:.0f} ms, p99 {p99:.0f} ms; "
            f"degraded: {parts}; feedback: {statuses}"
        )


class Load:
    """Clients that search and click results until stopped."""

    def __init__(self, url: str, clients: int, seed: int) -> None:
        self._url = url
        self._clients = clients
        self._rng = random.Random(seed)
        self.seen = Observations()
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Run all clients until `stop`."""
        # Each client has its own connection, so that the kernel distributes them over the workers.
        await asyncio.gather(*[self._client(number) for number in range(self._clients)])

    def stop(self) -> None:
        """Let every client finish its request and end."""
        self._stop.set()

    async def _client(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=15.0) as client:
            while not self._stop.is_set():
                answer = await self._search(client, number)
                if answer is not None and answer["hits"]:
                    await self._click(client, answer)
                await asyncio.sleep(THINK_SECONDS)

    async def _search(self, client: httpx.AsyncClient, number: int) -> dict[str, Any] | None:
        seen = self.seen
        query = f"{self._rng.choice(NAMES)} {self._rng.choice(SUBJECTS)}"
        request = {"query": query, "timeout_ms": TIMEOUT_MS, "client_id": f"c{number}"}
        began = time.perf_counter()
        try:
            response = await client.post("/v1/search", json=request)
        except httpx.TransportError as error:
            seen.failed[type(error).__name__] += 1
            return None
        seen.seconds.append(time.perf_counter() - began)
        if response.status_code != 200:
            seen.failed[str(response.status_code)] += 1
            return None
        answer: dict[str, Any] = response.json()
        seen.empty += not answer["hits"]
        for degraded in answer["degraded"]:
            seen.degraded[f"{degraded['arm']} {degraded['reason']}"] += 1
        _note_complete(seen, not answer["degraded"])
        return answer

    async def _click(self, client: httpx.AsyncClient, answer: dict[str, Any]) -> None:
        seen = self.seen  # a request sent before an outage may be answered after it
        event = {
            "event_id": str(uuid.uuid4()),
            "query_id": answer["query_id"],
            "object_id": self._rng.choice(answer["hits"][:5])["object_id"],
            "action_name": "click",
        }
        try:
            response = await client.post("/v1/feedback", json=event)
        except httpx.TransportError as error:
            seen.failed[type(error).__name__] += 1
            return
        if response.status_code == 202:
            status = response.json()["results"][0]["status"]
            if status == "accepted":
                self.acknowledged[event["event_id"]] = event
        else:
            status = str(response.status_code)
        seen.feedback[status] += 1
        _note_complete(seen, status == "accepted")


def _note_complete(seen: Observations, complete: bool) -> None:
    if not complete:
        seen.complete_since = None
    elif seen.complete_since is None:
        seen.complete_since = time.monotonic()


class Phases:
    """Measured phases, one after the other, while the load continues."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._all: list[Observations] = []

    @property
    def failed(self) -> Counter[str]:
        """Failed requests of all phases by status or error."""
        return sum((seen.failed for seen in self._all), Counter())

    @property
    def empty(self) -> int:
        """Searches without hits in all phases."""
        return sum(seen.empty for seen in self._all)

    async def steady(self, name: str, seconds: float) -> Observations:
        """Observe for so many seconds."""
        self._load.seen = Observations()
        await asyncio.sleep(seconds)
        return self._end(name)

    async def recovering(self, name: str) -> float:
        """Seconds until all answers are complete and all events accepted again. Raises Broken if that takes too
        long."""
        began = time.monotonic()
        seen = self._load.seen = Observations()
        while time.monotonic() - began < RECOVERY_SECONDS:
            await asyncio.sleep(0.05)
            if seen.complete_since is not None and time.monotonic() - seen.complete_since >= CLEAN_SECONDS:
                self._end(name)
                return max(0.0, seen.complete_since - began)
        self._end(name)
        raise Broken(f"{name}: answers are complete again within {RECOVERY_SECONDS:.0f} s")

    def _end(self, name: str) -> Observations:
        seen = self._load.seen
        print(seen.line(name), flush=True)
        self._all.append(seen)  # responses to its requests may still arrive
        return seen


async def outages(engines: Stack, load: Load, away: float) -> None:
    """Kill and restart each engine for `away` seconds. Raises Broken."""
    phases = Phases(load)
    running = asyncio.create_task(load.run())
    try:
        await phases.recovering("warming up")
        seen = await phases.steady("all engines", STEADY_SECONDS)
        check(not seen.degraded and set(seen.feedback) == {"accepted"}, "with all engines, every answer is complete")
        for name, kill, start in (
            ("OpenSearch", engines.opensearch.kill, engines.opensearch.start),
            ("Redis", engines.redis.kill, engines.redis.restart),
        ):
            await _outage(name, kill, start, phases, away)
    finally:
        load.stop()
        await running
    check(not phases.failed, f"no search failed ({dict(phases.failed) or 'none'})")
    check(phases.empty == 0, f"no search returned an empty result ({phases.empty})")


async def _outage(name: str, kill: Callable[[], None], start: Callable[[], None], phases: Phases, away: float) -> None:
    await asyncio.to_thread(kill)
    seen = await phases.steady(f"{name} is down", away)
    check(bool(seen.degraded), f"while {name} is down, answers report it")
    if name == "Redis":
        check("accepted" not in seen.feedback, "and no event is acknowledged that would not be stored")
    starting = asyncio.create_task(asyncio.to_thread(start))
    await phases.steady(f"{name} is starting", 0.1)
    await starting
    took = await phases.recovering(f"{name} is back")
    check(True, f"{took:.1f} s after {name} is back, every answer is complete and every event accepted")


def check_durability(client: httpx.Client, load: Load) -> None:
    """Check that every acknowledged event is stored exactly once. Raises Broken."""
    events = list(load.acknowledged.values())
    on_record: Counter[tuple[str, str]] = Counter()
    for query_id in {event["query_id"] for event in events}:
        for happened in client.get(f"/v1/explain/{query_id}").raise_for_status().json()["events"]:
            on_record[query_id, happened["object_id"]] += 1
    lost = [event for event in events if not on_record[event["query_id"], event["object_id"]]]
    check(not lost, f"every acknowledged event is there ({len(events) - len(lost)} of {len(events)})")
    check(max(on_record.values()) == 1, f"and each exactly once ({len(on_record)} on record)")
    again = Counter(
        result["status"]
        for start in range(0, len(events), 500)
        for result in send_feedback(client, events[start : start + 500])
    )
    check(set(again) == {"duplicate"}, f"when sent again, all of them are duplicates ({dict(again)})")


def main() -> int:
    """Check every guarantee; 0 if all hold, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8138)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--away", type=float, default=6.0, help="seconds that an engine is down")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with stack(workers=2) as engines:
        os.environ |= engines.settings | {"LTRR_LOG_LEVEL": "warning"}
        try:
            with service(args.port, None) as running:
                _run(engines, running, args)
        except Broken as broken:
            print(f"FAIL  {broken}", flush=True)
            return 1
    print("the service survives the loss of its engines")
    return 0


def _run(engines: Stack, running: Service, args: argparse.Namespace) -> None:
    client = running.start()
    items = catalogue()
    accepted = client.put("/v1/items", json=items, timeout=60.0).raise_for_status().json()["accepted"]
    check(accepted == len(items), f"{accepted} items are accepted")
    load = Load(running.url, args.clients, args.seed)
    asyncio.run(outages(engines, load, args.away))
    check_durability(client, load)
    client.close()
    running.stop(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

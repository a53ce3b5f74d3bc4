"""The complete loop over HTTP: search, click, remember, deduplicate, reject, and lose nothing to `kill -9`.

Starts the service itself (`ltrr serve`, with the LTRR_* settings of the environment, so that the same script checks all
backends), writes a small catalogue, and stops at the first broken guarantee.

    python -m load_tests.loop [--port 8137] [--data-dir DIR] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson

QUERY = "midnight river song"
NAMES = ("Aster", "Birch", "Cedar", "Daisy", "Elder", "Fern", "Gorse", "Hazel", "Iris", "Juniper", "Kelp", "Linden")
START_SECONDS = 60.0
MEMORY_SECONDS = 1.0
COPIES = 50
POSTS = 200


class Broken(AssertionError):
    """A guarantee that was broken."""


def check(holds: bool, guarantee: str) -> None:
    """Print the guarantee if it holds. Raises Broken otherwise."""
    if not holds:
        raise Broken(guarantee)
    print(f"ok    {guarantee}", flush=True)


class Service:
    """The service under test as a separate process."""

    def __init__(self, port: int, data_dir: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._environ = os.environ | {"LTRR_PORT": str(port), "LTRR_DATA_DIR": data_dir}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, **settings: str) -> httpx.Client:
        """Start it with further LTRR_* settings; a client once it is ready. Raises Broken if it does not start."""
        command = [sys.executable, "-m", "app", "serve"]
        self._process = subprocess.Popen(command, env=self._environ | settings)
        client = httpx.Client(base_url=self.url, timeout=10.0, headers=self.headers)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Broken(f"the service exited at start with code {self._process.returncode}")
            try:
                if client.get("/readyz").status_code == 200:
                    return client
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise Broken(f"the service is ready within {START_SECONDS:.0f} s")

    @property
    def headers(self) -> dict[str, str]:
        """Authorization with the admin key, if there is one."""
        key = self._environ.get("LTRR_ADMIN_KEY")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def stop(self, how: signal.Signals) -> None:
        """Send the signal and wait for the process to end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


@contextmanager
def service(port: int, data_dir: str | None) -> Iterator[Service]:
    """A service that is not started yet, by default on a temporary folder; killed at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        running = Service(port, data_dir or scratch)
        try:
            yield running
        finally:
            running.stop(signal.SIGKILL)


def catalogue() -> list[dict[str, Any]]:
    """Sixty songs, twelve of them about a midnight river and hard to distinguish."""
    rng = random.Random(7)
    genres = ["folk", "soul", "ambient", "rock"]
    songs = [
        {"id": f"river-{i}", "title": f"Midnight River {name}", "artist": f"The {name}s", "genres": [genres[i % 4]]}
        for i, name in enumerate(NAMES)
    ]
    songs += [
        {"id": f"other-{i}", "title": f"Song number {i} of the morning", "artist": "Plain Choir", "genres": ["choral"]}
        for i in range(48)
    ]
    return [song | {"plays": rng.randrange(1000), "year": 1980 + i % 40} for i, song in enumerate(songs)]


def search(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    """The response to QUERY with further request fields. Raises HTTPStatusError."""
    answer = client.post("/v1/search", json={"query": QUERY, "timeout_ms": 2000} | fields)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def event(answer: dict[str, Any], object_id: str, **fields: Any) -> dict[str, Any]:
    """A click on an item of the answer, with other fields as given."""
    return {
        "event_id": str(uuid.uuid4()),
        "query_id": answer["query_id"],
        "object_id": object_id,
        "action_name": "click",
    } | fields


def send_feedback(client: httpx.Client, events: Any) -> list[dict[str, Any]]:
    """Send feedback; the results per event. Raises HTTPStatusError."""
    answer = client.post("/v1/feedback", json=events)
    answer.raise_for_status()
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def check_learning(client: httpx.Client) -> None:
    """A click moves an item up within MEMORY_SECONDS, and copies of an event count once."""
    first = search(client)
    fifth = first["hits"][4]
    clicked = event(first, fifth["object_id"], position=5)
    start = time.monotonic()
    check(send_feedback(client, clicked)[0]["status"] == "accepted", "a click at position 5 is accepted")
    place, arms = 5, []
    while time.monotonic() - start < MEMORY_SECONDS and not (place < 5 and "memory" in arms):
        again = search(client, learn=False)
        # A single answer may lack it: the decision may explore, or an arm may be late on a busy machine.
        for hit in again["hits"]:
            if hit["object_id"] == fifth["object_id"]:
                place, arms = hit["position"], sorted(hit["arms"])
    took = time.monotonic() - start
    check(
        place < 5 and "memory" in arms,
        f"within {MEMORY_SECONDS:.0f} s the same query ranks it higher and names the memory arm "
        f"(position {place}, arms {', '.join(arms)}, after {took * 1000:.0f} ms)",
    )

    again = search(client)
    copied = event(again, again["hits"][2]["object_id"])
    statuses = asyncio.run(_at_once(client, [copied] * COPIES))
    counted = statuses.count("accepted")
    check(
        counted == 1 and statuses.count("duplicate") == COPIES - 1,
        f"{COPIES} concurrent copies of an event count once "
        f"({counted} accepted, {statuses.count('duplicate')} duplicate)",
    )
    changed = send_feedback(client, copied | {"object_id": again["hits"][3]["object_id"]})[0]["status"]
    check(changed == "invalid", f"the same event id with another body is invalid ({changed})")


async def _at_once(client: httpx.Client, events: list[dict[str, Any]]) -> list[str]:
    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=10.0) as shared_client:
        answers = await asyncio.gather(*[shared_client.post("/v1/feedback", json=e) for e in events])
    return [answer.json()["results"][0]["status"] for answer in answers]


def check_rejections(client: httpx.Client) -> None:
    """Invalid events get the right status."""
    answer = search(client)
    shown = answer["hits"][0]["object_id"]
    forged = answer["query_id"][:-2] + ("AA" if not answer["query_id"].endswith("AA") else "BB")
    for events, status, guarantee in (
        (event(answer, shown, query_id=forged), "unknown_query", "a forged id"),
        (event(answer, shown, query_id="made up"), "unknown_query", "an invented id"),
        (event(answer, "not-there"), "not_shown", "an object that was not shown"),
        (event(answer, shown, action_name="stare"), "invalid", "an unknown action"),
    ):
        got = send_feedback(client, events)[0]["status"]
        check(got == status, f"{guarantee} is rejected ({got})")


def check_expiry(running: Service) -> None:
    """Feedback on an expired answer is `late`."""
    client = running.start(LTRR_QUERY_TTL_SECONDS="1")
    answer = search(client)
    time.sleep(1.5)
    got = send_feedback(client, event(answer, answer["hits"][0]["object_id"]))[0]["status"]
    check(got == "late", f"an expired id is kept for audit and not learned from ({got})")
    client.close()
    running.stop(signal.SIGTERM)


def check_durability(running: Service, client: httpx.Client, seed: int) -> None:
    """After `kill -9` during feedback every acknowledged event is there exactly once."""
    rng = random.Random(seed)
    answers = [search(client, limit=10) for _ in range(POSTS // 10)]
    events = [event(answer, hit["object_id"]) for answer in answers for hit in answer["hits"]][:POSTS]
    kill_after = rng.randrange(POSTS // 4, 3 * POSTS // 4)
    acknowledged = asyncio.run(_post_until_killed(running, client, events, kill_after))
    check(
        len(acknowledged) < len(events),
        f"the service was killed midway ({len(acknowledged)} of {len(events)} acknowledged)",
    )

    client = running.start()
    kept: dict[tuple[str, str], int] = {}
    for answer in answers:
        for happened in client.get(f"/v1/explain/{answer['query_id']}").json()["events"]:
            place = (answer["query_id"], happened["object_id"])
            kept[place] = kept.get(place, 0) + 1
    lost = [e for e in events if e["event_id"] in acknowledged and (e["query_id"], e["object_id"]) not in kept]
    check(not lost, f"after the restart every acknowledged event is there ({len(acknowledged)} of {len(acknowledged)})")
    check(max(kept.values()) == 1, f"and each exactly once ({len(kept)} events on record)")
    again = {result["event_id"]: result["status"] for result in send_feedback(client, events)}
    wrong = [i for i in acknowledged if again[i] != "duplicate"]
    check(not wrong, "when all are sent again, the acknowledged ones are duplicates")
    check(
        all(status in ("duplicate", "accepted") for status in again.values()),
        f"and the others count now ({list(again.values()).count('accepted')} accepted)",
    )
    client.close()
    running.stop(signal.SIGTERM)


async def _post_until_killed(
    running: Service, client: httpx.Client, events: list[dict[str, Any]], kill_after: int
) -> set[str]:
    """Ids of the events that were acknowledged before the kill, posted eight at a time."""
    acknowledged: set[str] = set()
    waiting = list(reversed(events))

    async def poster(shared_client: httpx.AsyncClient) -> None:
        while waiting:
            one = waiting.pop()
            try:
                answer = await shared_client.post("/v1/feedback", json=one)
            except httpx.TransportError:
                return
            if answer.status_code == 202 and answer.json()["results"][0]["status"] == "accepted":
                acknowledged.add(one["event_id"])
            if len(acknowledged) == kill_after:
                running.stop(signal.SIGKILL)

    async with httpx.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=10.0) as shared_client:
        await asyncio.gather(*[poster(shared_client) for _ in range(8)])
    return acknowledged


def main() -> int:
    """Check every guarantee; 0 if all hold, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8137)
    parser.add_argument("--data-dir", help="data folder of the service (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the time of the kill")
    args = parser.parse_args()
    try:
        with service(args.port, args.data_dir) as running:
            client = running.start()
            body = b"\n".join(orjson.dumps(item) for item in catalogue())
            answer = client.put("/v1/items", content=body, headers={"Content-Type": "application/x-ndjson"})
            check(answer.json()["accepted"] == 60, "sixty items are accepted")
            check_learning(client)
            check_rejections(client)
            check_durability(running, client, args.seed)
            check_expiry(running)
    except Broken as broken:
        print(f"FAIL  {broken}", flush=True)
        return 1
    print("all guarantees hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())

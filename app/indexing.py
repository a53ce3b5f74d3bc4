"""Putting a catalogue into the service: into an opened system, or through the API of the service that owns the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
from services.datasets.folder import Dataset, HistoryEvent

from app.client import Client
from app.wiring import System
from services.types import Document, EventStatus

T = TypeVar("T")

ITEMS_AT_ONCE = 2000
EVENTS_AT_ONCE = 1000

OnProgress = Callable[[str, int], None]
"""(what, how many more are done)."""


@dataclass(slots=True)
class Summary:
    """What became of a catalogue."""

    accepted: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """One line each, with the line number in its file where there is one."""


class Target(Protocol):
    """Where items and history go."""

    async def put(self, documents: Sequence[Document]) -> list[tuple[str | None, str | None]]:
        """Per document its id, and why it was refused (None: it was accepted)."""
        ...

    async def record(self, events: Sequence[dict[str, Any]]) -> int:
        """How many were accepted or known already."""
        ...


class OpenedTarget:
    """A system that this process has opened."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def put(self, documents: Sequence[Document]) -> list[tuple[str | None, str | None]]:
        return [(r.id, r.detail) for r in await self._system.catalogue.put(documents)]

    async def record(self, events: Sequence[dict[str, Any]]) -> int:
        results = await self._system.feedback.record(events, admin=True)
        return sum(result.status in (EventStatus.ACCEPTED, EventStatus.DUPLICATE) for result in results)


class ServedTarget:
    """The running service that owns the data folder."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def put(self, documents: Sequence[Document]) -> list[tuple[str | None, str | None]]:
        answer = self._client.send("PUT", "/v1/items", orjson.dumps(list(documents)))
        return [(result["id"], result["detail"]) for result in answer["results"]]

    async def record(self, events: Sequence[dict[str, Any]]) -> int:
        answer = self._client.send("POST", "/v1/feedback", orjson.dumps(list(events)))
        return sum(result["status"] in ("accepted", "duplicate") for result in answer["results"])


async def index(target: Target, source: Path, on_progress: OnProgress = lambda what, more: None) -> Summary:
    """Items of `source` (a JSONL file or a data set folder), then the folder's history."""
    dataset = Dataset.open(source)
    summary = Summary()
    for batch in batches(dataset.documents(), ITEMS_AT_ONCE):
        for object_id, refusal in await target.put(batch):
            if refusal is None:
                summary.accepted += 1
            else:
                summary.problems.append(f"item {object_id}: {refusal}")
        on_progress("items", len(batch))
    for events in batches(map(event, dataset.history()), EVENTS_AT_ONCE):
        summary.events += await target.record(events)
        on_progress("history", len(events))
    summary.problems = [*map(str, dataset.problems), *summary.problems]
    return summary


def event(happened: HistoryEvent) -> dict[str, Any]:
    """A line of history as a feedback event. Its id is its content: indexing the same folder again counts nothing twice."""
    content = f"{happened.user_id}\x1f{happened.object_id}\x1f{happened.action_name}\x1f{happened.timestamp}"
    return {
        "event_id": "history-" + hashlib.sha256(content.encode()).hexdigest()[:32],
        "user_id": happened.user_id,
        "object_id": happened.object_id,
        "action_name": happened.action_name,
        "timestamp": happened.timestamp,
    }


def batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for thing in things:
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

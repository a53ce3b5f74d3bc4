"""Putting a catalogue into the service: into an opened system, or through the API of the one that owns the folder."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from app.client import Client
from app.wiring import System
from services.datasets.folder import HISTORY, Dataset, HistoryEvent, catalogue_lines
from services.types import EventStatus, Schema

T = TypeVar("T")

ITEMS_AT_ONCE = 2000
EVENTS_AT_ONCE = 1000
CHUNK = 1_000_000

Progress = Callable[[str, int], None]
"""(what, how many are done)."""


@dataclass(slots=True)
class Summary:
    """What became of a catalogue and its history."""

    accepted: int = 0
    invalid: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """One line each, with the line number in its file."""


async def index_opened(system: System, source: Path, schema: Schema | None, progress: Progress) -> Summary:
    """Into a system that this process has opened; `schema` is one that was given."""
    dataset = Dataset.open(source)
    if schema is not None:
        await system.catalogue.set_schema(schema)
    summary = Summary()
    for result in await system.catalogue.put_stream(_chunks(dataset.catalogue, progress)):
        if result.status == "accepted":
            summary.accepted += 1
        else:
            summary.invalid += 1
            summary.problems.append(f"line {result.line}: {result.detail}")
    for events in _batches(history(dataset), EVENTS_AT_ONCE):
        results = await system.feedback.record(events, admin=True)
        summary.events += sum(r.status in (EventStatus.ACCEPTED, EventStatus.DUPLICATE) for r in results)
        progress("history", summary.events)
    summary.problems += map(str, dataset.problems)
    return summary


def index_served(client: Client, source: Path, progress: Progress) -> Summary:
    """Through the API of a running service. Raises ServiceRefused."""
    dataset = Dataset.open(source)
    summary = Summary()
    for lines in _batches(catalogue_lines(dataset.catalogue), ITEMS_AT_ONCE):
        readable = [line for line in lines if line.problem is None]
        summary.problems += [f"line {line.number}: {line.problem}" for line in lines if line.problem is not None]
        summary.invalid += len(lines) - len(readable)
        answer = client.send("PUT", "/v1/items", orjson.dumps([line.value for line in readable]))
        for line, result in zip(readable, answer["results"], strict=True):
            if result["status"] == "accepted":
                summary.accepted += 1
            else:
                summary.invalid += 1
                summary.problems.append(f"line {line.number}: {result['detail']}")
        progress("items", summary.accepted)
    for events in _batches(history(dataset), EVENTS_AT_ONCE):
        answer = client.send("POST", "/v1/feedback", orjson.dumps(events))
        summary.events += sum(result["status"] in ("accepted", "duplicate") for result in answer["results"])
        progress("history", summary.events)
    summary.problems += map(str, dataset.problems)
    return summary


def history(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The data set's history as feedback events; nothing when it has none."""
    if dataset.has(HISTORY):
        yield from map(_event, dataset.history())


async def _chunks(path: Path, progress: Progress) -> AsyncIterator[bytes]:
    """The file's bytes, decompressed; progress is told in items, which are lines."""
    lines = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
            lines += chunk.count(b"\n")
            progress("items", lines)


def _event(happened: HistoryEvent) -> dict[str, Any]:
    """Its id is its content, so that indexing the same folder again counts nothing twice."""
    content = f"{happened.user_id}\x1f{happened.object_id}\x1f{happened.action_name}\x1f{happened.timestamp}"
    return {
        "event_id": "history-" + hashlib.sha256(content.encode()).hexdigest()[:32],
        "user_id": happened.user_id,
        "object_id": happened.object_id,
        "action_name": happened.action_name,
        "timestamp": datetime.fromtimestamp(happened.timestamp, UTC).isoformat(),
    }


def _batches(things: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for thing in things:
        batch.append(thing)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

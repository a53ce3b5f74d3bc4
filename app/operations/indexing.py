"""Indexing a catalogue: into the stores first and then the indexes, or through the API of the service that owns the
data folder.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from app.operations.client import Client
from app.settings import Settings
from app.system.intake import intake
from app.system.surroundings import Surroundings
from app.system.system import System
from app.system.wiring import opened
from app.telemetry.progress import Progress
from services.backends.base import ItemStore
from services.datasets.folder import HISTORY, Dataset, HistoryEvent
from services.errors import InvalidRequest
from services.ndjson import Line, stream
from services.schema.schema import describe
from services.types import EventStatus, Schema

ITEMS_AT_ONCE = 2000
EVENTS_AT_ONCE = 1000
CHUNK = 1_000_000

STAGES = {
    "lexical": "words",
    "vector": "vectors",
    "taste": "tastes",
    "understanding": "vocabulary",
    "predictions": "predicted queries",
}
"""Index -> name of its rebuild in progress output."""


@dataclass(slots=True)
class Summary:
    """Outcome of indexing a catalogue and its history."""

    accepted: int = 0
    invalid: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)
    """One line per problem, with the line number in its file."""


TrainEncoders = Callable[[Settings, Summary, Progress], Awaitable[None]]
"""Trains the encoders that a catalogue needs on the stored data, and activates them."""


@asynccontextmanager
async def indexed(
    settings: Settings,
    source: Path,
    schema: Schema | None,
    progress: Progress,
    train: TrainEncoders | None = None,
    replace: bool = False,
    around: Surroundings | None = None,
) -> AsyncIterator[tuple[System, Summary]]:
    """A system that has the items and the history of `source`, opened without background work; `schema`: one set by the
    operator. With `replace`, items that are not in the source are deleted, and every index is rebuilt.

    Items and history are stored first, encoders are trained on the stored data, and only then are the indexes opened,
    which apply missing changes as after a crash: so each is built once, with the models that will be active. If it is
    interrupted, the next start does the rest.
    """
    around = around or Surroundings()
    summary = await _store(settings, source, schema, progress, replace, around.clock)
    if train is not None:
        await train(settings, summary, progress)

    def report(index: str, done: int, total: int) -> None:
        progress.done(STAGES.get(index.partition("@")[0], index), done, total)

    async with opened(settings, learning=False, surroundings=dataclasses.replace(around, on_progress=report)) as system:
        if replace and settings.redis_url is not None:
            await system.index_sync.rebuild_remaining()  # others search the old ones meanwhile
        else:
            await system.index_sync.sync()  # opening does not wait for remote engines
        yield system, summary


async def _store(
    settings: Settings,
    source: Path,
    schema: Schema | None,
    progress: Progress,
    replace: bool,
    clock: Callable[[], float],
) -> Summary:
    """Store items and history; the indexes do not have them yet."""
    dataset = Dataset.open(source)
    summary = Summary()
    async with intake(settings, clock) as stored:
        if schema is not None:
            await stored.catalogue.set_schema(schema)
        kept: set[str | None] = set()
        began = await stored.items.sequence()
        for result in await stored.catalogue.put_stream(_chunks(dataset.catalogue, progress)):
            if result.status == "accepted":
                summary.accepted += 1
                kept.add(result.id)
            else:
                summary.invalid += 1
                summary.problems.append(_problem(result.line, result.line, str(result.detail)))
        if replace:
            kept |= await _written_since(stored.items, began)  # by other writers too: items acknowledged meanwhile stay
            await stored.catalogue.delete([d["id"] async for d in stored.items.scan() if d["id"] not in kept])
            await stored.sync.rebuild()
        progress.note(f"schema ({'inferred' if schema is None else 'given'}):")
        progress.note(describe(stored.catalogue.schema))

        async def record(events: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
            return [(result.status, result.detail) for result in await stored.feedback.record(events, admin=True)]

        await _index_history(dataset, record, summary, progress)
    return summary


async def _written_since(items: ItemStore, sequence: int) -> set[str]:
    written: set[str] = set()
    while True:
        sequence, upserts, deletes = await items.changes(sequence)
        if not upserts and not deletes:
            return written
        written |= {document["id"] for document in upserts}


async def index_served(client: Client, source: Path, progress: Progress) -> Summary:
    """Index through the API of a running service. Raises ServiceRefused."""
    dataset = Dataset.open(source)
    summary = Summary()
    async for lines in _batches(stream(_chunks(dataset.catalogue, progress)), ITEMS_AT_ONCE):
        readable = [line for line in lines if line.problem is None]
        summary.problems += [f"line {line.number}: {line.problem}" for line in lines if line.problem is not None]
        summary.invalid += len(lines) - len(readable)
        answer = client.send("PUT", "/v1/items", orjson.dumps([line.value for line in readable]))
        for place, (line, result) in enumerate(zip(readable, answer["results"], strict=True), 1):
            if result["status"] == "accepted":
                summary.accepted += 1
            else:
                summary.invalid += 1
                summary.problems.append(_problem(line.number, place, result["detail"]))

    async def record(events: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
        answer = client.send("POST", "/v1/feedback", orjson.dumps(events))
        return [(result["status"], result["detail"]) for result in answer["results"]]

    await _index_history(dataset, record, summary, progress)
    return summary


def _problem(line: int, place: int, detail: str) -> str:
    """The problem of an item, with its line in the file. An item without an id is already named by its position."""
    return f"line {line}: {detail.removeprefix(f'line {place}: ')}"


async def _index_history(
    dataset: Dataset,
    record: Callable[[list[dict[str, Any]]], Awaitable[list[tuple[str, str | None]]]],
    summary: Summary,
    progress: Progress,
) -> None:
    """Record the data set's history. `record`: records events and returns the status and detail of each."""
    events = _events(dataset, summary)
    while part := list(islice(events, EVENTS_AT_ONCE)):
        for event, (status, detail) in zip(part, await record(part), strict=True):
            if status in (EventStatus.ACCEPTED, EventStatus.DUPLICATE):
                summary.events += 1
            else:
                summary.problems.append(f"{HISTORY}, {event['action_name']} {event['object_id']}: {detail}")
        progress.done("history", summary.events)
    if summary.events:
        progress.end("history", summary.events)
    summary.problems += map(str, dataset.problems)


async def _chunks(path: Path, progress: Progress) -> AsyncIterator[bytes]:
    """The file's bytes, decompressed; progress is reported in items, which are lines. Raises InvalidRequest for a file
    that cannot be read to its end."""
    lines = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk
                lines += chunk.count(b"\n")
                progress.done("items read", lines)
        progress.end("items read", lines)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _events(dataset: Dataset, summary: Summary) -> Iterator[dict[str, Any]]:
    """The data set's history as feedback events; empty when it has none."""
    for happened in dataset.history():
        try:
            yield _event(happened)
        except (ValueError, OverflowError, OSError):
            summary.problems.append(f"{HISTORY}, timestamp {happened.timestamp:g}: no date that a calendar has")


def _event(happened: HistoryEvent) -> dict[str, Any]:
    """The feedback event. Its id is derived from its content, so that indexing the same folder again counts nothing
    twice."""
    content = f"{happened.user_id}\x1f{happened.object_id}\x1f{happened.action_name}\x1f{happened.timestamp}"
    return {
        "event_id": "history-" + hashlib.sha256(content.encode()).hexdigest()[:32],
        "user_id": happened.user_id,
        "object_id": happened.object_id,
        "action_name": happened.action_name,
        "timestamp": datetime.fromtimestamp(happened.timestamp, UTC).isoformat(),
    }


async def _batches(lines: AsyncIterator[Line], size: int) -> AsyncIterator[list[Line]]:
    batch: list[Line] = []
    async for line in lines:
        batch.append(line)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

"""Restores a backup into empty stores, the log last: until it is complete, no learner continues from the rest."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import orjson

from services.backends.base import Entry
from services.backup.archive import Archive
from services.backup.contents import (
    CONSUMERS,
    DEAD_LETTERS,
    ITEMS,
    KNOWN,
    LOG,
    MEMORY,
    MODELS,
    SCHEMA,
    STATE,
    Parts,
    Progress,
    decode_entries,
    decode_known,
    lines,
)
from services.models.files import Files
from services.schema.schema import from_json

T = TypeVar("T")

OWN_CONSUMERS = ("memory", "policy")
"""Consumers that every log has; there are others only where other programs can read the log."""
BATCH = 500
BATCH_BYTES = 4 * 2**20
_PROMOTION = re.compile(rf"{MODELS}/([^/]+)/promotions/(\d+)\.json")
_VERSION = re.compile(rf"{MODELS}/([^/]+)/versions/([^/]+)/([^/]+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


async def describe_contents(parts: Parts) -> str | None:
    """Description of existing data in the stores; None when they are empty. Snapshots of an untrained policy do not
    count."""
    items, (records, _) = await parts.items.count(), await parts.log.end()
    kinds = [kind for kind in await asyncio.to_thread(parts.files.kinds) if kind != "policy"]
    if items or records or await parts.memory.offset() or kinds:
        return f"{items} items, {records} log records, models of {len(kinds)} kinds"
    return None


async def restore(parts: Parts, archive: Archive, progress: Progress) -> None:
    """Restore a checked `archive` into empty stores. Raises StorageFailed."""
    await _memory(parts, archive, progress)
    for key, value in orjson.loads(archive.read(STATE)).items():
        await parts.state.set(key, value)
    await asyncio.to_thread(_models, parts.files, archive, progress)
    await _items(parts, archive, progress)
    await _log(parts, archive, progress)


async def _memory(parts: Parts, archive: Archive, progress: Progress) -> None:
    done = 0
    with archive.open(MEMORY) as file:
        for rows in _batches(lines(file)):
            await parts.memory.put_rows(rows)
            done += len(rows)
            progress("memory", done)
    await parts.memory.forget_items(archive.manifest["deleted"])


def _models(files: Files, archive: Archive, progress: Progress) -> None:
    versions: dict[tuple[str, str], list[str]] = {}
    records: list[tuple[str, int]] = []
    for name in archive.names():
        if match := _VERSION.fullmatch(name):
            if all(map(_NAME.fullmatch, match.groups())):
                versions.setdefault((match[1], match[2]), []).append(match[3])
        elif match := _PROMOTION.fullmatch(name):
            records.append((match[1], int(match[2])))
    for done, ((kind, version), names) in enumerate(versions.items(), 1):
        folder = f"{MODELS}/{kind}/versions/{version}"
        files.write(kind, version, {name: archive.read(f"{folder}/{name}") for name in names}, replace=False)
        progress("model versions", done)
    for kind, number in sorted(records):
        # The version of an older record may be gone; any that is there shows that the kind is.
        there = next((version for of, version in versions if of == kind), None)
        if there is not None:
            files.promote(kind, there, number, archive.read(f"{MODELS}/{kind}/promotions/{number}.json"))


async def _items(parts: Parts, archive: Archive, progress: Progress) -> None:
    schema = orjson.loads(archive.read(SCHEMA))
    if schema is not None:
        await parts.items.set_schema(from_json(schema))
    done = 0
    with archive.open(ITEMS) as file:
        for documents in _batches(lines(file)):
            await parts.items.put(documents)
            done += len(documents)
            progress("items", done)


async def _log(parts: Parts, archive: Archive, progress: Progress) -> None:
    done = 0
    with archive.open(KNOWN) as file:
        for some in _batches(map(decode_known, lines(file))):
            await parts.log.put_known(some)
            done += len(some)
            progress("event ids", done)
    done = 0
    with archive.open(LOG) as file:
        for found in _records(decode_entries(file)):
            await parts.log.put_entries(found)
            done += len(found)
            progress("records", done)
    with archive.open(DEAD_LETTERS) as file:
        for offset, reason in lines(file):
            await parts.log.dead_letter(offset, reason)
    consumers: dict[str, Any] = orjson.loads(archive.read(CONSUMERS))
    # The one that is furthest behind first: records that it still needs must not be dropped.
    for name, offset in sorted(consumers.items(), key=lambda item: int(item[1])):
        if parts.shared or name in OWN_CONSUMERS:
            await parts.log.consumed(name, offset)


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    for value in values:
        batch.append(value)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _records(found: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Batches of records, limited by size too: one call must not keep a server busy for long."""
    batch: list[Entry] = []
    size = 0
    for entry in found:
        batch.append(entry)
        size += len(entry.body)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

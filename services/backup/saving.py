"""Saves a backup of stores that are in use.

Consistency follows from the order. Positions of the log's readers are saved before the log: a memory or a policy that
is behind its log catches up, one that is ahead of it could not. Positions of consumers are saved before their state, so
that retention keeps the records that the state needs. Deduplication entries and the log are saved up to the same
offset: an event is in both or in neither. Items come after the memory; items deleted in between are recorded, so that
the memory can forget them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from services.backends.base import Counted, Known
from services.backup.archive import ArchiveWriter, Member
from services.backup.contents import (
    CONSUMERS,
    DEAD_LETTERS,
    ITEMS,
    KEYS,
    KNOWN,
    LOG,
    MEMORY,
    MODELS,
    SCHEMA,
    SETTINGS,
    STATE,
    Parts,
    Progress,
    encode_entry,
    encode_known,
    line,
)
from services.errors import ModelInvalid, NotFound, StorageFailed
from services.learning.learner_link import ANSWER, REQUEST, STATUS
from services.models.files import Files
from services.models.store import META, ModelStore
from services.schema.schema import to_json

PREDICTIONS = "predictions"
"""Name under which the memory confirms the catalogue changes that it has applied."""
TRANSIENT_STATE = (STATUS, REQUEST, ANSWER)
ENCODER_SUFFIX = "_encoded_by"
"""Suffix of state keys that name the encoder of an index; left out, because the indexes are rebuilt."""
MAX_DEAD_LETTERS = 10_000
MAX_TRIES = 3


async def save(
    parts: Parts,
    archive: ArchiveWriter,
    settings: Mapping[str, Any],
    keys: bytes | None,
    manifest: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Write all parts; returns the manifest without the archive's own entries. Raises StorageFailed when a store fails,
    or changes in a way that needs another attempt."""
    consumers = await parts.log.consumers()
    archive.add(CONSUMERS, line(consumers))
    sequence = await parts.items.confirmed(PREDICTIONS)
    if sequence is None:
        sequence = await parts.items.sequence()
    memory = await _memory(parts, archive, progress)
    models, damaged = await _models(parts.files, archive, progress)
    state = {
        key: value
        for key, value in (await parts.state.all()).items()
        if key not in TRANSIENT_STATE and not key.endswith(ENCODER_SUFFIX)
    }
    archive.add(STATE, line(state))
    items = await _items(parts, archive, progress)
    deleted = await _deleted(parts, sequence)
    counts, end = await _known(parts, archive, progress)
    log = await _log(parts, archive, end, progress)
    dead_letters = [
        (offset, reason) for offset, reason in reversed(await parts.log.dead_letters(MAX_DEAD_LETTERS)) if offset <= end
    ]
    archive.add(DEAD_LETTERS, b"".join(map(line, dead_letters)))
    archive.add(SETTINGS, json.dumps(settings, indent=1).encode())
    if keys is not None:
        archive.add(KEYS, keys)
    warnings = _warnings(log["whole_from"], memory["offset"], damaged)
    counts = {"items": items, "records": log.pop("records"), **counts, "dead": len(dead_letters), **models}
    return {**manifest, "counts": counts, "log": log, "memory": memory, "deleted": deleted, "warnings": warnings}


async def _memory(parts: Parts, archive: ArchiveWriter, progress: Progress) -> dict[str, Any]:
    count, state = 0, (0, 0, 0.0)
    # Closed at once when something fails: until then, a learner may have to wait.
    with archive.member(MEMORY) as member:
        async with aclosing(parts.memory.rows()) as portions:
            async for rows in portions:
                member.write(b"".join(map(line, rows)))
                count += len(rows)
                progress("memory", count)
                if rows[-1][0] == "state":
                    state = rows[-1][1:]
    return {"rows": count, "offset": state[0]}


async def _items(parts: Parts, archive: ArchiveWriter, progress: Progress) -> int:
    """Save items, then the schema: saved later, it has all their fields. Returns the number of items."""
    count = 0
    with archive.member(ITEMS) as member:
        async for document in parts.items.scan():
            member.write(line(dict(document)))
            count += 1
            if count % 1000 == 0:
                progress("items", count)
    progress("items", count)
    schema = await parts.items.schema()
    archive.add(SCHEMA, line(None if schema is None else to_json(schema)))
    return count


async def _deleted(parts: Parts, sequence: int) -> list[str]:
    """Ids of items deleted after the change `sequence`, which the memory has applied."""
    found: list[str] = []
    while True:
        after, upserts, deletes = await parts.items.changes(sequence)
        if not upserts and not deletes:
            return found
        found += deletes
        sequence = after


async def _known(parts: Parts, archive: ArchiveWriter, progress: Progress) -> tuple[dict[str, int], int]:
    counts = {"events": 0, "counted": 0}

    def take(some: Sequence[Known | Counted], member: Member) -> None:
        for one in some:
            member.write(encode_known(one))
            counts["events" if isinstance(one, Known) else "counted"] += 1
        progress("event ids", counts["events"])

    with archive.member(KNOWN) as member:
        end = await parts.log.known(lambda some: take(some, member))
    return counts, end


async def _log(parts: Parts, archive: ArchiveWriter, end: int, progress: Progress) -> dict[str, Any]:
    count, first, last, whole_from = 0, 0, 0, 1
    with archive.member(LOG) as member:
        while found := await parts.log.entries(last, end):
            for entry in found:
                first = first or entry.offset
                if entry.offset != last + 1:  # retention cut the beginning, before or meanwhile
                    whole_from = entry.offset
                last = entry.offset
                member.write(encode_entry(entry))
            count += len(found)
            progress("records", count)
    if last != end:
        raise StorageFailed("the log was cut by retention faster than it could be copied; try again")
    return {"records": count, "first": first, "last": last, "whole_from": whole_from}


async def _models(files: Files, archive: ArchiveWriter, progress: Progress) -> tuple[dict[str, int], list[str]]:
    """Save models; returns the number saved per kind and the damaged ones that were left out."""
    store = ModelStore(files)
    versions = promotions = 0
    damaged: list[str] = []
    for kind in await asyncio.to_thread(files.kinds):
        # Records first: the versions they activate are then saved too, unless pruned meanwhile.
        for tries in range(1, MAX_TRIES + 1):
            records = await asyncio.to_thread(_records, files, kind)
            active = await asyncio.to_thread(store.current_version, kind)
            names = await asyncio.to_thread(files.versions, kind)
            if active is None or active in names or tries == MAX_TRIES:
                break
        for number, record in records.items():
            archive.add(f"{MODELS}/{kind}/promotions/{number}.json", record)
        promotions += len(records)
        # The active one first: it must not be pruned meanwhile.
        for name in sorted(names, key=lambda name: name != active):
            try:
                model = await asyncio.to_thread(store.load, kind, name)
                meta = await asyncio.to_thread(files.read, kind, name, META)
            except (NotFound, FileNotFoundError):
                continue  # pruned meanwhile
            except ModelInvalid:
                damaged.append(f"{kind} {name}")
                continue
            for file, data in {**model.files, META: meta}.items():
                archive.add(f"{MODELS}/{kind}/versions/{name}/{file}", data)
            versions += 1
            progress("model versions", versions)
    return {"model_versions": versions, "promotions": promotions}, damaged


def _records(files: Files, kind: str) -> dict[int, bytes]:
    found = {}
    for number in files.promotions(kind):
        try:
            found[number] = files.promotion(kind, number)
        except FileNotFoundError:
            continue  # pruned meanwhile
    return found


def _warnings(whole_from: int, memory: int, damaged: Sequence[str]) -> list[str]:
    warnings = [f"model {name} is damaged and was left out" for name in damaged]
    if whole_from > memory + 1:
        warnings.append(
            f"the memory stands at record {memory}, but the log begins at {whole_from}: what is in between was lost"
            " before this backup"
        )
    return warnings

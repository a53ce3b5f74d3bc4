"""The contents of a backup and their encoding.

consumers.json          positions of the log's consumers
memory.jsonl            the rows of the memory (MemoryRow), one array a line
models/<kind>/versions/<version>/<file>, models/<kind>/promotions/<number>.json
state.json              the switches
items.jsonl, schema.json
known.jsonl             deduplication of events: ["event", id, digest, seconds left] or
                        ["counted", query id, object id, action, seconds left]
log.bin                 the event log: per record a header (see HEADER), query id, user id and the record's own bytes
dead.jsonl              dead letters, [offset, reason], oldest first
settings.json           for information only: the settings, without secrets
signing_keys            the keys of an embedded service, only when requested
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from services.backends.base import Counted, Entry, EventLog, ItemStore, Known, MemoryIndex, StateStore
from services.models.files import Files

CONSUMERS = "consumers.json"
MEMORY = "memory.jsonl"
MODELS = "models"
STATE = "state.json"
ITEMS = "items.jsonl"
SCHEMA = "schema.json"
KNOWN = "known.jsonl"
LOG = "log.bin"
DEAD_LETTERS = "dead.jsonl"
SETTINGS = "settings.json"
KEYS = "signing_keys"

HEADER = struct.Struct(">QdBHHI")
"""Offset, time, kind, and the lengths of query id, user id and body."""

Progress = Callable[[str, int], None]
"""Called with (part, number of entries done)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The stores that a backup is saved from or restored into."""

    log: EventLog
    items: ItemStore
    memory: MemoryIndex
    state: StateStore
    files: Files
    shared: bool
    """Whether other processes may use the stores too, including foreign consumers of the log."""


def encode_entry(entry: Entry) -> bytes:
    """A log record as an entry of LOG."""
    query, user = entry.query_id.encode(), entry.user_id.encode()
    sizes = len(query), len(user), len(entry.body)
    return HEADER.pack(entry.offset, entry.at, entry.kind, *sizes) + query + user + entry.body


def decode_entries(file: IO[bytes]) -> Iterator[Entry]:
    """The log records of LOG, in order."""
    while header := file.read(HEADER.size):
        offset, at, kind, query, user, body = HEADER.unpack(header)
        yield Entry(offset, at, kind, file.read(query).decode(), file.read(user).decode(), file.read(body))


def encode_known(one: Known | Counted) -> bytes:
    """A line of KNOWN."""
    if isinstance(one, Known):
        return line(["event", one.event_id, one.digest, one.left])
    return line(["counted", one.query_id, one.object_id, one.action_name, one.left])


def decode_known(values: list[Any]) -> Known | Counted:
    """The entry of a parsed line of KNOWN."""
    kind, *rest = values
    return Known(*rest) if kind == "event" else Counted(*rest)


def line(value: Any) -> bytes:
    """A value as one line of JSON."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def lines(file: IO[bytes]) -> Iterator[Any]:
    """The values of a file of such lines."""
    return map(orjson.loads, file)

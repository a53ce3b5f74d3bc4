"""What stands in a backup, and how its parts are written down.

consumers.json          places of the log's consumers
memory.jsonl            the rows of the memory (MemoryRow), one array a line
models/<kind>/versions/<version>/<file>, models/<kind>/promotions/<number>.json
state.json              the switches
items.jsonl, schema.json
known.jsonl             what counts every event once: ["event", id, digest, seconds left] or
                        ["counted", query id, object id, action, seconds left]
log.bin                 the event log: per record a header (see HEADER), query id, user id and the record's own bytes
dead.jsonl              dead letters, [offset, reason], oldest first
settings.json           for people: the settings, without secrets
signing_keys            the keys of an embedded service, only when they were asked for
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
"""(what, how many are done)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The stores that a backup is made of, or goes into."""

    log: EventLog
    items: ItemStore
    memory: MemoryIndex
    state: StateStore
    files: Files
    shared: bool
    """Whether other processes may use them, too, and consumers of the log that are not ours."""


def encode_entry(entry: Entry) -> bytes:
    """A log record as it stands in LOG."""
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
    """What a parsed line of KNOWN stands for."""
    kind, *rest = values
    return Known(*rest) if kind == "event" else Counted(*rest)


def line(value: Any) -> bytes:
    """A value as one line of JSON."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def lines(file: IO[bytes]) -> Iterator[Any]:
    """The values of a file of such lines."""
    return map(orjson.loads, file)

"""The mirror of queries and events in OpenSearch: the indexes `ubi_queries` and `ubi_events`.

Their names and mappings are those of User Behavior Insights 1.3, so that tools made for it work. The indexes may
already exist, made by a plugin or a shop that writes to them too: then they stay as they are, except for fields that
are needed to find a user again.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from services.backends.opensearch.client import Body, EngineTrouble, IndexMissing, OpenSearchClient
from services.backends.opensearch.reading import Garbage, written
from services.errors import StorageFailed
from services.resilience.remote import Remote
from services.types import Deadline

T = TypeVar("T")
Entry = tuple[str, Mapping[str, Any]]
"""(id, document)."""

QUERIES, EVENTS = "ubi_queries", "ubi_events"
APPLICATION = "application"
USER_FIELDS = {QUERIES: "query_attributes.user_id", EVENTS: "user_id"}
MAX_USER_ID_CHARS = 256

MAX_CONNECTIONS = 2
READ_SECONDS = 10.0
WRITE_SECONDS = 30.0
BULK_DOCUMENTS = 500
BULK_BYTES = 1_000_000
"""Maximum size of a bulk request, unless a single document is larger."""
REMOVE_BATCH = 1000

_KEYWORD = {"type": "keyword"}
_SHARED = {
    APPLICATION: _KEYWORD,
    "query_id": _KEYWORD,
    "client_id": _KEYWORD,
    "user_query": _KEYWORD | {"fields": {"text": {"type": "text"}}},
    "timestamp": {"type": "date"},
}
MAPPINGS: dict[str, dict[str, Any]] = {
    QUERIES: {
        "dynamic": False,
        "properties": _SHARED
        | {
            "query": {"type": "text"},
            "query_attributes": {"type": "flat_object"},
            "query_response_id": _KEYWORD,
            "query_response_hit_ids": _KEYWORD,
            "object_id_field": _KEYWORD,
        },
    },
    EVENTS: {
        "properties": _SHARED
        | {
            "action_name": _KEYWORD,
            "session_id": _KEYWORD,
            "user_id": _KEYWORD,
            "message_type": _KEYWORD,
            "message": _KEYWORD | {"ignore_above": 1024},
            "event_attributes": {
                "properties": {
                    "object": {"properties": {"object_id": _KEYWORD, "object_id_field": _KEYWORD}},
                    "position": {"properties": {"ordinal": {"type": "integer"}}},
                    "value": {"type": "double"},
                    "answer_id": _KEYWORD,
                }
            },
        },
    },
}
_SETTINGS = {"index": {"number_of_shards": 1, "auto_expand_replicas": "0-1"}}


class MappingUnfit(StorageFailed):
    """An existing index maps a field so that users could not be found in it, and hence not be forgotten."""

    def __init__(self, index: str, field: str) -> None:
        super().__init__(f"{index} maps {field} so that its values cannot be found; reindex it as a keyword")


class OpenSearchUbi:
    """`url` and `ca` as for the lexical index; SettingsInvalid when `ca` is no file of certificates."""

    def __init__(self, url: str, *, ca: Path | None = None) -> None:
        self._client = OpenSearchClient(url, ca, MAX_CONNECTIONS)
        # A circuit of its own: failures of the mirror must not stop searches.
        self._remote = Remote("opensearch_ubi", (EngineTrouble,))

    async def put(self, queries: Sequence[Entry], events: Sequence[Entry]) -> Counter[str]:
        """Write documents, replacing those with the same id; returns how many were permanently rejected, per type of
        error. Raises StorageFailed: then some may have been written; put all of them again."""
        for index in (QUERIES, EVENTS):
            await self._prepared(index)
        bodies = await asyncio.to_thread(lambda: list(_bulks(_puts({QUERIES: queries, EVENTS: events}))))
        refused: Counter[str] = Counter()
        for body, count in bodies:
            refused.update(_refused(await self._write("POST", "/_bulk", body), count))
        return refused

    async def forget(self, application: str, user_id: str) -> int:
        """Remove the documents of a user; returns their number. Raises StorageFailed: then some may be left; call it
        again."""
        removed = 0
        for index in (QUERIES, EVENTS):
            fields = await self._prepared(index)
            filters = [{"term": {fields[APPLICATION]: application}}, {"term": {fields[USER_FIELDS[index]]: user_id}}]
            body = {"query": {"bool": {"filter": filters}}, "size": REMOVE_BATCH, "_source": False}
            await self._write("POST", f"/{index}/_refresh")
            while hits := await self._found(index, body):
                lines = [_line({"delete": {"_index": hit["_index"], "_id": hit["_id"]}}) for hit in hits]
                written(await self._write("POST", "/_bulk", b"".join(lines), {"refresh": "true"}), len(lines))
                removed += len(lines)
        return removed

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _prepared(self, index: str) -> dict[str, str]:
        """Create the index, or the fields that it lacks; field -> the name under which its exact values are found."""
        found = await self._mappings(index)
        if found is None:
            await self._write("PUT", f"/{index}", {"settings": _SETTINGS, "mappings": MAPPINGS[index]})
            found = await self._mappings(index)
        elif missing := [path for path in (APPLICATION, USER_FIELDS[index]) if None in _names(index, found, path)]:
            properties = {(top := path.split(".")[0]): MAPPINGS[index]["properties"][top] for path in missing}
            await self._write("PUT", f"/{index}/_mapping", {"properties": properties})
            found = await self._mappings(index)
        names = {path: _names(index, found or [], path) for path in (APPLICATION, USER_FIELDS[index])}
        for path, several in names.items():
            if len(several) != 1 or None in several:
                raise MappingUnfit(index, path)
        return {path: str(*several) for path, several in names.items()}

    async def _mappings(self, index: str) -> list[Any] | None:
        """Fields of every index behind the name; None when there is none."""

        async def ask(seconds: float) -> Any:
            try:
                return await self._client.call("GET", f"/{index}/_mapping", seconds)
            except IndexMissing:
                return None

        answer = await self._read(ask)
        if answer is None:
            return None
        try:
            return [behind["mappings"].get("properties", {}) for behind in answer.values()]
        except (KeyError, TypeError, AttributeError):
            raise Garbage("mappings") from None

    async def _found(self, index: str, body: Body) -> list[dict[str, str]]:
        async def ask(seconds: float) -> Any:
            options = {"allow_partial_search_results": "false"}
            return await self._client.call("POST", f"/{index}/_search", seconds, body, options)

        answer = await self._read(ask)
        try:
            complete = answer["timed_out"] is False and answer["_shards"]["failed"] == 0
            hits = [{"_index": hit["_index"], "_id": hit["_id"]} for hit in answer["hits"]["hits"]]
        except (KeyError, TypeError):
            raise Garbage("hits") from None
        if not complete:
            raise StorageFailed("OpenSearch did not search all of its shards")
        return hits

    async def _read(self, work: Callable[[float], Awaitable[T]]) -> T:
        try:
            return await self._remote.read(work, Deadline.after(READ_SECONDS))
        except TimeoutError as error:
            raise StorageFailed("OpenSearch does not answer") from error

    async def _write(self, method: str, path: str, body: Body | None = None, options: Any = None) -> Any:
        return await self._remote.write(lambda s: self._client.call(method, path, s, body, options), WRITE_SECONDS)


def _names(index: str, mappings: Iterable[Any], path: str) -> set[str | None]:
    return {_exact(index, fields, path) for fields in mappings}


def _exact(index: str, fields: Any, path: str) -> str | None:
    """Name of the field with the exact values of `path`; None when it is not mapped. Raises MappingUnfit."""
    field: Any = {"properties": fields}
    for part in path.split("."):
        if field.get("type") == "flat_object":
            return path
        field = field.get("properties", {}).get(part)
        if field is None:
            return None
    if _findable(path, field):
        return path
    for name, other in field.get("fields", {}).items():
        if _findable(path, other):
            return f"{path}.{name}"
    raise MappingUnfit(index, path)


def _findable(path: str, field: Mapping[str, Any]) -> bool:
    longest = 0 if path == APPLICATION else MAX_USER_ID_CHARS
    return field.get("type") == "keyword" and field.get("ignore_above", MAX_USER_ID_CHARS) >= longest


def _puts(documents: Mapping[str, Iterable[Entry]]) -> Iterator[bytes]:
    for index, entries in documents.items():
        for name, document in entries:
            yield _line({"index": {"_index": index, "_id": name}}) + _line(document)


def _bulks(actions: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """Bodies of bulk requests, each with its number of writes."""
    body = bytearray()
    count = 0
    for lines in actions:
        if count and (count == BULK_DOCUMENTS or len(body) + len(lines) > BULK_BYTES):
            yield bytes(body), count
            body, count = bytearray(), 0
        body += lines
        count += 1
    if count:
        yield bytes(body), count


def _line(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _refused(answer: Any, wanted: int) -> Counter[str]:
    """Types of errors for which documents were permanently rejected. Raises StorageFailed when one may be accepted
    later, as when a disk or a queue is full."""
    items = answer.get("items")
    if not isinstance(items, list) or len(items) != wanted:
        raise Garbage("the outcome of writes")
    refused: Counter[str] = Counter()
    for item in items:
        outcome = item.get("index") if isinstance(item, dict) else None
        status = outcome.get("status") if isinstance(outcome, dict) else None
        if status == 400 and isinstance(outcome, dict):
            refused[_type(outcome.get("error"))] += 1
        elif status not in (200, 201):
            raise StorageFailed(f"OpenSearch did not take a document (status {status})")
    return refused


def _type(error: Any) -> str:
    name = error.get("type") if isinstance(error, dict) else None
    return name if isinstance(name, str) and re.fullmatch("[a-z_]{1,64}", name) else "unknown"

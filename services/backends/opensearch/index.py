"""The lexical index of many processes: OpenSearch.

    <namespace>-items-g<generation>     an index, built whole for one schema; its mappings' _meta says which
    <namespace>-items                   alias of the active one
    <namespace>-items-into-<fingerprint> and
    <namespace>-items-of-<fingerprint>  aliases of the same for writes and searches, named after what it was built from

All aliases move to another index in one step, except the last one: a process that still has the previous schema finds
the previous index for a moment, and then none, rather than an index that it would misread. It cannot write anywhere.

The whole item is stored beside its indexed fields, so this is a second copy of the catalogue.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson

from services.backends.base import IndexQuery, IndexResult
from services.backends.lexical_rules import clean, prefix_key
from services.backends.opensearch import reading as reading
from services.backends.opensearch.client import Body, EngineTrouble, IndexMissing, OpenSearchClient
from services.backends.opensearch.layout import ITEM, K1, B, Layout
from services.backends.opensearch.query import Translator
from services.errors import StorageFailed, Unavailable
from services.resilience.remote import Remote
from services.schema.schema import from_json
from services.types import Deadline, Document, Schema

T = TypeVar("T")

MAX_CONNECTIONS = 32
"""Maximum number of connections of one process; further calls wait, within their deadline."""
WRITE_SECONDS = 30.0
"""Timeout of one write request."""
MAINTENANCE_SECONDS = 5.0
"""Timeout of one request that manages indexes."""
BULK_ITEMS = 500
BULK_BYTES = 1_000_000
"""At most this much in one bulk request, but for a single item that is larger: more would hold up the event loop."""
REFRESH_INTERVAL = "500ms"
"""Given explicitly: an index without it stops refreshing when no searches arrive for a while."""
GRACE_SECONDS = 1.0
"""A replaced index stays this much longer for the searches that already use it."""


class NoSuchIndex(Unavailable):
    """No index was built from the schema that this process uses."""

    def __init__(self) -> None:
        super().__init__("OpenSearch")
        self.args = ("OpenSearch has no index of this schema: it is to be built, or another process has built another",)


class OpenSearchIndex:
    """See services.backends.base.LexicalIndex. `url` may carry a user and password; `ca` is a file of certificates to
    trust, and raises SettingsInvalid when it is none. Opens nothing: an engine that is away fails the calls made
    meanwhile, and no others.

    With several `shards`, facets with very many values are counted approximately; everything else is exact. `replicas`
    None: one where there are nodes for it. Both hold from the next rebuild on.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        schema: Schema,
        *,
        ca: Path | None = None,
        shards: int = 1,
        replicas: int | None = None,
    ) -> None:
        self._layout = Layout(schema)
        self._alias = f"{namespace}-items"
        self._index_pattern = re.compile(rf"{re.escape(self._alias)}-g[0-9a-f]+")
        self._shards = shards
        self._replicas = replicas
        self._client = OpenSearchClient(url, ca, MAX_CONNECTIONS)
        self._remote = Remote("opensearch", (EngineTrouble,))
        self._writing = asyncio.Lock()
        self._cleaning: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def schema(self) -> Schema:
        """The schema of searches and writes: that of the last rebuild, refresh or follow."""
        return self._layout.schema

    def follow(self, schema: Schema) -> None:
        """Use this schema, under which another process has rebuilt the index or is about to."""
        if schema != self._layout.schema:
            self._layout = Layout(schema)

    async def refresh(self) -> None:
        """Adopt the schema of the active index, whichever process built it."""
        fingerprint, schema = await self._active_mapping()
        if schema is None or fingerprint == self._layout.fingerprint:
            return
        try:
            self._layout = Layout(from_json(schema))
        except (KeyError, TypeError, ValueError):
            raise reading.Garbage("a schema") from None

    async def stale(self) -> bool:
        """Whether there is no index, or one of another schema or layout than ours: then it must be rebuilt."""
        fingerprint, _ = await self._active_mapping()
        return fingerprint != self._layout.fingerprint

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """See LexicalIndex.search. Raises TimeoutError, StorageFailed."""
        layout = self._layout
        body = Translator(layout).search(query)
        return await self._search(layout, body, deadline, lambda answer: reading.result(query, layout, answer))

    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """See LexicalIndex.titles. Raises TimeoutError, StorageFailed."""
        key = prefix_key(prefix)
        if deadline.remaining() <= 0:
            raise TimeoutError
        if not key or limit <= 0:
            return []
        layout = self._layout
        body = Translator(layout).titles(key, 3 * limit)
        return await self._search(layout, body, deadline, lambda answer: reading.titles(key, limit, answer))

    async def documents(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, Document]:
        """The documents of the given items that exist, whatever schema the active index has."""
        if not object_ids:
            return {}
        body = {"ids": [clean(object_id) for object_id in dict.fromkeys(object_ids)]}
        options = {"_source_includes": ITEM, "realtime": "false"}

        async def ask(seconds: float) -> dict[str, Document]:
            answer = await self._call("POST", f"/{self._alias}/_mget", seconds, body, options)
            return reading.documents(answer)

        return await self._remote.read(ask, deadline)

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """See LexicalIndex.apply. Raises StorageFailed; then a part may have been applied: apply it again."""
        layout = self._layout
        async with self._writing:
            # All before any is sent: an item that cannot be indexed stops the whole.
            parts = await asyncio.to_thread(lambda: list(_bulks(layout, upserts, deletes)))
            for i, (body, count) in enumerate(parts):
                # At once rather than at the next turn: writes come one after the other under a lock.
                refresh = "true" if i == len(parts) - 1 else "false"
                await self._bulk(self._write_alias(layout), body, count, {"refresh": refresh, "require_alias": "true"})

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """See LexicalIndex.rebuild. Raises StorageFailed; then the old index stays active."""
        layout = Layout(schema)
        async with self._writing:
            await self._finish_cleaning()
            known = await self._indexes()
            # Left by rebuilds that broke off, or replaced by one that died before it removed them.
            await self._remove([name for name, aliases in known.items() if self._alias not in aliases])
            known = {name: aliases for name, aliases in known.items() if self._alias in aliases}
            fresh = f"{self._alias}-g{time.time_ns() // 1_000_000:x}{secrets.token_hex(2)}"
            try:
                await self._write("PUT", f"/{fresh}", {"settings": self._settings(), "mappings": layout.mappings()})
                parts = _bulks(layout, documents, ())
                while part := await asyncio.to_thread(next, parts, None):
                    await self._bulk(fresh, *part, {})
                await self._write("POST", f"/{fresh}/_refresh")
            except BaseException:
                with suppress(StorageFailed):
                    await self._remove([fresh])
                raise
            old = list(known)
            # Should the answer be lost, either index may be active; the next rebuild removes the other.
            await self._write("POST", "/_aliases", {"actions": self._switch(layout, fresh, known)})
            self._layout = layout
            if old:
                self._cleaning = asyncio.create_task(self._clean(old))

    async def ping(self, deadline: Deadline) -> None:
        """Check that the engine answers. Raises TimeoutError or StorageFailed when it does not."""
        await self.version(deadline)

    async def version(self, deadline: Deadline) -> str:
        """The server's version. Raises TimeoutError, StorageFailed, also when the server is not an OpenSearch."""

        async def ask(seconds: float) -> str:
            answer = await self._call("GET", "/", seconds)
            version = answer.get("version")
            number = version.get("number") if isinstance(version, dict) else None
            if not isinstance(number, str) or version.get("distribution") != "opensearch":
                raise reading.Garbage("an OpenSearch version")
            return number

        return await self._remote.read(ask, deadline)

    async def close(self) -> None:
        """Finish removing replaced indexes, then close all connections."""
        if self._closed:
            return
        await self._finish_cleaning()
        self._closed = True
        await self._client.close()

    def _read_alias(self, layout: Layout) -> str:
        return f"{self._alias}-of-{layout.fingerprint[:16]}"

    def _write_alias(self, layout: Layout) -> str:
        return f"{self._alias}-into-{layout.fingerprint[:16]}"

    def _settings(self) -> dict[str, Any]:
        replicas = {"auto_expand_replicas": "0-1"} if self._replicas is None else {"number_of_replicas": self._replicas}
        return {
            "index": {
                "number_of_shards": self._shards,
                "refresh_interval": REFRESH_INTERVAL,
                "similarity": {"default": {"type": "BM25", "k1": K1, "b": B}},
                **replicas,
            }
        }

    def _switch(self, layout: Layout, fresh: str, known: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        # Processes that still have the previous schema can read its index until they refresh.
        ours = (self._alias, self._read_alias(layout), self._write_alias(layout))
        staying = f"{self._alias}-of-"
        existing = [(name, alias) for name, aliases in known.items() for alias in aliases]
        gone = [(name, alias) for name, alias in existing if alias in ours or not alias.startswith(staying)]
        return [
            *({"remove": {"index": name, "alias": alias}} for name, alias in gone),
            *({"add": {"index": fresh, "alias": alias}} for alias in ours),
        ]

    async def _search(self, layout: Layout, body: dict[str, Any], deadline: Deadline, read: Callable[[Any], T]) -> T:
        async def ask(seconds: float) -> T:
            limit = f"{max(1, int(seconds * 1000))}ms"
            options = {
                "allow_partial_search_results": "false",
                "cancel_after_time_interval": limit,
                # Word statistics of all shards together; costs nothing where there is one.
                "search_type": "dfs_query_then_fetch",
            }
            path = f"/{self._read_alias(layout)}/_search"
            answer = await self._call("POST", path, seconds, body | {"timeout": limit}, options)
            try:
                return read(answer)
            except reading.Incomplete:
                raise EngineTrouble("incomplete") from None

        return await self._remote.read(ask, deadline)

    async def _active_mapping(self) -> tuple[str | None, Mapping[str, Any] | None]:
        async def ask(seconds: float) -> Any:
            try:
                return await self._call("GET", f"/{self._alias}/_mapping", seconds)
            except NoSuchIndex:
                return None

        return reading.built_from(await self._read(ask))

    async def _indexes(self) -> dict[str, list[str]]:
        """Every index of ours with the aliases it has."""
        answer = await self._read(lambda seconds: self._call("GET", f"/{self._alias}-g*/_alias", seconds))
        indexes = {name: index for name, index in answer.items() if self._index_pattern.fullmatch(name)}
        if not all(isinstance(index, dict) and isinstance(index.get("aliases"), dict) for index in indexes.values()):
            raise reading.Garbage("indexes")
        return {name: list(index["aliases"]) for name, index in indexes.items()}

    async def _read(self, work: Callable[[float], Awaitable[T]]) -> T:
        """A read for the maintenance of the index."""
        try:
            return await self._remote.read(work, Deadline.after(MAINTENANCE_SECONDS))
        except TimeoutError as error:
            raise StorageFailed("OpenSearch does not answer") from error

    async def _write(self, method: str, path: str, body: Body | None = None, options: Any = None) -> Any:
        return await self._remote.write(lambda seconds: self._call(method, path, seconds, body, options), WRITE_SECONDS)

    async def _bulk(self, index: str, body: bytes, count: int, options: Mapping[str, str]) -> None:
        reading.written(await self._write("POST", f"/{index}/_bulk", body, options), count)

    async def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(NoSuchIndex):
                await self._write("DELETE", f"/{name}")

    async def _clean(self, names: Sequence[str]) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        with suppress(StorageFailed):  # the next rebuild does it
            await self._remove(names)

    async def _finish_cleaning(self) -> None:
        if self._cleaning is not None:
            await self._cleaning
            self._cleaning = None

    async def _call(
        self,
        method: str,
        path: str,
        seconds: float,
        body: Body | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Any:
        if self._closed:
            raise StorageFailed("the lexical index is closed")
        try:
            return await self._client.call(method, path, seconds, body, options)
        except IndexMissing:
            raise NoSuchIndex from None


def _bulks(layout: Layout, upserts: Iterable[Document], deletes: Iterable[str]) -> Iterator[tuple[bytes, int]]:
    """Bodies of bulk requests, each with its number of writes."""
    body = bytearray()
    count = 0
    for lines in _actions(layout, upserts, deletes):
        if count and (count == BULK_ITEMS or len(body) + len(lines) > BULK_BYTES):
            yield bytes(body), count
            body, count = bytearray(), 0
        body += lines
        count += 1
    if count:
        yield bytes(body), count


def _actions(layout: Layout, upserts: Iterable[Document], deletes: Iterable[str]) -> Iterator[bytes]:
    for document in upserts:
        entry = layout.entry(document)
        yield _line({"index": {"_id": clean(str(document["id"]))}}) + _line(entry)
    for object_id in deletes:
        yield _line({"delete": {"_id": clean(object_id)}})


def _line(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        raise StorageFailed("an item that is not JSON cannot be indexed") from None

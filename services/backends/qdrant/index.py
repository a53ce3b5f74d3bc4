"""The vector index on a Qdrant server, shared by every process.

    <namespace>-<name>             alias of the active generation: every read and write goes to it
    <namespace>-<name>-former      alias of the last generation of the encoder before, for a minute after a rebuild
    <namespace>-<name>-<hex>       a generation: a collection with one vector, named after its encoder

A rebuild fills a new generation and moves both aliases in one step. Because the vector bears its encoder's name, a
process that still has the previous encoder never gets neighbours from the wrong space: the previous generation answers
its searches, and its writes are refused with OutOfStep. Callers must serialise rebuilds and writes of several processes
with a lock; a rebuild removes what crashed ones left behind.

Small catalogues are searched exactly; from about INDEXED_BYTES of vectors on, the server keeps an HNSW graph by itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from array import array
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from qdrant_client import AsyncQdrantClient, models

from services.backends.qdrant.points import INDEXED_BYTES, Point, checked, clauses, key, point_id
from services.backends.qdrant.requests import (
    MISMATCH_STATUS,
    MISSING_STATUS,
    Layout,
    Nearest,
    Quantization,
    Stored,
    built_for,
    completed,
    configuration,
    kind_of,
    prepared,
    restriction,
    search_params,
    vectors_of,
)
from services.backends.qdrant.server import NAME, QdrantServer, Refused
from services.errors import StorageFailed, Unavailable
from services.types import Candidate, Deadline, Filters, Schema

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ask = Callable[[AsyncQdrantClient, int, str], Coroutine[Any, Any, T]]
"""A read of a collection, given the client, the timeout for the server in whole seconds, and the collection's name."""

PREVIOUS = "former"
PREVIOUS_SECONDS = 60.0
"""Seconds that the previous generation stays after a rebuild, until every process has the new encoder."""
WRITE_SECONDS = 10.0
READ_SECONDS = 5.0
SWITCH_SECONDS = 10.0
BUILD_SECONDS = 60.0
"""Timeout of one request of a rebuild."""
OPTIMIZE_SECONDS = 600.0
"""Seconds that a rebuild waits for the graph; after that the index becomes active without it, and searches are slow
until it is built."""
POLL_SECONDS = 0.5
COUNT_SECONDS = 60.0
"""Seconds that a count of points is used; it decides whether searches are exact."""


class OutOfStep(Unavailable):
    """The server has no such index, or one of another encoder than this process; `stale` detects it, `rebuild` repairs
    it."""

    def __init__(self, index: str, found: str) -> None:
        super().__init__(NAME)
        self.args = (f"{index}: {found}",)


class QdrantIndex:
    """`version` names the encoder of the vectors; vectors of different versions are never compared. Use `stale` at the
    start: until the first `rebuild` there is nothing on the server, and every call raises OutOfStep."""

    def __init__(
        self,
        server: QdrantServer,
        namespace: str,
        name: str,
        schema: Schema,
        size: int,
        version: str,
        quantization: Quantization = "none",
    ) -> None:
        self._server = server
        self._alias = f"{namespace}-{name}"
        self._previous = f"{self._alias}-{PREVIOUS}"
        self._generation = re.compile(re.escape(self._alias) + "-[0-9a-f]{8}")
        self._quantization = quantization
        self._layout = Layout.of(schema, size, version)
        self._changing = asyncio.Lock()
        self._changes = 0
        self._count: int | None = None
        self._counted = float("-inf")
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def size(self) -> int:
        """Dimensions of its vectors."""
        return self._layout.size

    def adopt(self, schema: Schema, size: int, version: str) -> None:
        """Use the index as another process has rebuilt it. Activate its encoder with no await in between."""
        self._layout = Layout.of(schema, size, version)
        self._counted = float("-inf")
        self._changes += 1

    async def stale(self) -> bool:
        """Whether the server has no index for this encoder, schema and quantization. Raises TimeoutError,
        StorageFailed."""
        layout = self._layout
        try:
            info = await self._info(self._alias, Deadline.after(READ_SECONDS))
        except Refused as refused:
            if refused.status == MISSING_STATUS:
                return True
            raise
        self._set_count(info.points_count)
        return not built_for(info, layout, self._quantization)

    async def nearest(
        self, vector: Sequence[float], filters: Filters, limit: int, deadline: Deadline
    ) -> list[Candidate]:
        """Nearest neighbours by cosine, ties by object id; none for a zero vector. Raises TimeoutError, StorageFailed
        (Unavailable, OutOfStep), and ValueError for a vector of another size."""
        layout = self._open()  # taken before the first await: a vector and the layout it was made for stay together
        wanted = checked(vector, layout.size)
        under = clauses(filters, layout.fields)
        if limit <= 0 or not any(wanted) or under is None:
            return []
        search = Nearest(
            layout.vector,
            wanted,
            restriction(under),
            limit,
            search_params(self._count, layout.size, self._quantization),
        )
        question = ("nearest", self._alias, self._changes, layout.vector, array("d", wanted).tobytes(), filters, limit)
        self._count_now_and_then()
        return list(await self._read(search, layout, deadline, question))

    async def vectors(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, list[float]]:
        """See VectorIndex.vectors. Raises as `nearest`."""
        layout = self._open()
        if deadline.remaining() <= 0:
            raise TimeoutError
        points = [point_id(object_id) for object_id in dict.fromkeys(object_ids)]
        if not points:
            return {}

        return await self._read(Stored(layout.vector, points), layout, deadline)

    async def apply(self, upserts: Sequence[Point], deletes: Sequence[str]) -> None:
        """Write vectors; visible to searches and in the server's log when it returns. An item with a zero vector has
        none. Raises StorageFailed (OutOfStep when the server has another encoder's vectors), and ValueError for a
        vector of another size."""
        async with self._changing:
            layout = self._open()
            try:
                await self._put(self._alias, layout, upserts, deletes, WRITE_SECONDS)
            except Refused as refused:
                raise await self._explain(refused, layout, Deadline.after(READ_SECONDS)) from None
            finally:
                self._changes += 1
            self._set_count(None if self._count is None else self._count + len(upserts))

    async def rebuild(self, schema: Schema, size: int, points: Iterable[Point], version: str | None = None) -> None:
        """Fill a new generation with vectors of the encoder `version` (by default the active one) and make it
        active. The caller activates the encoder with no await in between. Raises StorageFailed; then, and when
        cancelled, the old one stays active for this process. `apply` waits meanwhile."""
        async with self._changing:
            old = self._open()
            layout = Layout.of(schema, size, old.version if version is None else version)
            current, previous = await self._sweep()
            fresh = f"{self._alias}-{secrets.token_hex(4)}"
            try:
                count = await self._fill(fresh, layout, points)
            except BaseException:
                self._spawn(self._remove(fresh))
                raise
            moves = [(self._alias, current, fresh)]
            # One of the same encoder as the active one leaves the previous one, of another encoder, in its place: some
            # process may not have the new encoder yet.
            if current is not None and not await self._same_encoder(current, layout):
                moves.append((self._previous, previous, current))
            # Nothing is removed for a switch that failed: it may have happened all the same.
            await _uncancelled(self._switch(moves))
            self._layout = layout
            self._changes += 1
            self._set_count(count)
            for outgoing in filter(None, (current, previous)):
                self._spawn(self._retire(outgoing))

    async def close(self) -> None:
        """Finish background work. The server stays open: it is shared."""
        self._closed = True
        async with self._changing:
            behind = list(self._background)
            for task in behind:
                task.cancel()
            await asyncio.gather(*behind, return_exceptions=True)

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read(
        self, ask: Ask[T], layout: Layout, deadline: Deadline, question: tuple[Hashable, ...] | None = None
    ) -> T:
        """The answer of the active generation, or of the previous one to a process that still has its encoder."""
        try:
            return await self._server.read(lambda c, s: ask(c, s, self._alias), deadline, question)
        except Refused as refused:
            explained = await self._explain(refused, layout, deadline)
        if isinstance(explained, OutOfStep):
            try:
                previous = None if question is None else (*question, PREVIOUS)
                return await self._server.read(lambda c, s: ask(c, s, self._previous), deadline, previous)
            except Refused:
                pass
        raise explained from None

    async def _explain(self, refused: Refused, layout: Layout, deadline: Deadline) -> StorageFailed:
        if refused.status not in (MISSING_STATUS, MISMATCH_STATUS):
            return refused
        try:
            info = await self._info(self._alias, deadline)
        except Refused as again:
            return OutOfStep(self._alias, "the server has no such index") if again.status == MISSING_STATUS else again
        return refused if layout.vector in vectors_of(info) else OutOfStep(self._alias, "not of this encoder")

    async def _same_encoder(self, collection: str, layout: Layout) -> bool:
        return layout.vector in vectors_of(await self._info(collection, Deadline.after(READ_SECONDS)))

    async def _info(self, collection: str, deadline: Deadline) -> models.CollectionInfo:
        return await self._server.read(lambda client, _: client.get_collection(collection), deadline)

    def _open(self) -> Layout:
        if self._closed:
            raise StorageFailed("the vector index is closed")
        return self._layout

    def _count_now_and_then(self) -> None:
        """Update the number of points from time to time: other processes write too."""
        if time.monotonic() - self._counted > COUNT_SECONDS:
            self._counted = time.monotonic()
            self._spawn(self._count_points())

    async def _count_points(self) -> None:
        deadline = Deadline.after(READ_SECONDS)
        found = await self._server.read(lambda c, s: c.count(self._alias, exact=False, timeout=s), deadline)
        self._set_count(found.count)

    def _set_count(self, count: int | None) -> None:
        self._count = count
        if count is not None:
            self._counted = time.monotonic()

    # --- writing --------------------------------------------------------------------------------------------------

    async def _put(
        self, collection: str, layout: Layout, upserts: Iterable[Point], deletes: Sequence[str], seconds: float
    ) -> int:
        """Send points and deletions; returns the number of points sent."""
        gone = [point_id(object_id) for object_id in deletes]
        waiting = iter(upserts)
        sent = 0
        # The catalogue's documents are read, and a reader of files may be behind them, on a thread.
        while batch := await asyncio.to_thread(prepared, waiting, layout):
            points, without = batch
            gone += without
            if points.ids:
                sent += len(points.ids)
                done = await self._server.write(
                    lambda c, s, points=points: c.upsert(  # type: ignore[misc]
                        collection, points, wait=True, ordering=models.WriteOrdering.MEDIUM, timeout=s
                    ),
                    seconds,
                )
                completed(done)
        if gone:
            selector = models.PointIdsList(points=list(gone))
            done = await self._server.write(
                lambda c, s: c.delete(collection, selector, wait=True, ordering=models.WriteOrdering.MEDIUM, timeout=s),
                seconds,
            )
            completed(done)
        return sent

    async def _fill(self, fresh: str, layout: Layout, points: Iterable[Point]) -> int:
        await self._server.write(
            lambda c, s: c.create_collection(fresh, **configuration(layout, self._quantization), timeout=s),
            BUILD_SECONDS,
        )
        for field in layout.fields.values():
            kind = kind_of(field)
            done = await self._server.write(
                lambda c, s, field=field, kind=kind: c.create_payload_index(  # type: ignore[misc]
                    fresh, key(field), kind, wait=True, timeout=s
                ),
                BUILD_SECONDS,
            )
            completed(done)
        count = await self._put(fresh, layout, points, (), BUILD_SECONDS)
        if count * layout.size * 4 > INDEXED_BYTES:
            await self._optimized(fresh)
        return count

    async def _optimized(self, collection: str) -> None:
        until = time.monotonic() + OPTIMIZE_SECONDS
        while time.monotonic() < until:
            info = await self._info(collection, Deadline.after(READ_SECONDS))
            if info.status is models.CollectionStatus.RED:
                raise StorageFailed(f"{collection}: the server could not build the index")
            if info.status is not models.CollectionStatus.YELLOW:
                return
            await asyncio.sleep(POLL_SECONDS)
        logger.warning("vector_index_unoptimized index=%s", self._alias)

    async def _switch(self, moves: Sequence[tuple[str, str | None, str]]) -> None:
        """Move aliases in one step: (alias, the collection that it points to, the one that it is to point to)."""
        steps: list[Any] = []
        for alias, old, new in moves:
            if old is not None:
                steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
            create = models.CreateAlias(collection_name=new, alias_name=alias)
            steps.append(models.CreateAliasOperation(create_alias=create))
        await self._server.write(lambda c, s: c.update_collection_aliases(steps, timeout=s), SWITCH_SECONDS)

    async def _sweep(self) -> tuple[str | None, str | None]:
        """Remove all generations but the active and the previous one; returns their names, None where there is none."""
        known = await self._server.read(lambda c, _: c.get_aliases(), Deadline.after(READ_SECONDS))
        aliases = {alias.alias_name: alias.collection_name for alias in known.aliases}
        current, previous = aliases.get(self._alias), aliases.get(self._previous)
        held = await self._server.read(lambda c, _: c.get_collections(), Deadline.after(READ_SECONDS))
        for collection in held.collections:
            if self._generation.fullmatch(collection.name) and collection.name not in (current, previous):
                await self._remove(collection.name)
        return current, previous

    async def _remove(self, collection: str) -> None:
        """Remove a collection with the aliases that point to it."""
        try:
            await self._server.write(lambda c, s: c.delete_collection(collection, timeout=s), BUILD_SECONDS)
        except Refused as refused:
            if refused.status != MISSING_STATUS:
                raise

    async def _retire(self, collection: str) -> None:
        await asyncio.sleep(PREVIOUS_SECONDS)
        await self._remove(collection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; a failure is logged, and the next rebuild's sweep makes up for it."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("vector_index_upkeep_failed index=%s error=%s", self._alias, type(error).__name__)


async def _uncancelled(work: Coroutine[Any, Any, None]) -> None:
    """Wait for the end of `work`, even when cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.cancelled() or task.exception()  # retrieved
        raise

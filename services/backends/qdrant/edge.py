"""The embedded vector index: Qdrant Edge in a folder.

    folder/CURRENT            name of the active sub-folder; replaced atomically
    folder/<name>/layout.json vector size and filterable fields it was built for
    folder/<name>/shard/      the engine's files

Exact search in small catalogues; from about INDEXED_BYTES of vectors on, a rebuild adds an HNSW graph, and an index
that grew by twice as much since wants a rebuild at the next start. The engine keeps the interpreter lock during its
calls: searches and writes take a millisecond or a few, but building a graph takes seconds to minutes, so that happens
in a process of its own, before the folder becomes active.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

import qdrant_edge as engine

from services.backends.files import replace_text
from services.backends.qdrant.points import (
    EF_CONSTRUCT,
    EXTRA_NEIGHBOURS,
    ID,
    INDEXED_BYTES,
    Clause,
    M,
    Point,
    checked,
    clauses,
    filterable,
    key,
    more,
    payload,
    point_id,
    ranked,
)
from services.errors import StorageFailed
from services.types import Candidate, Deadline, Filters, Role, Schema

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FORMAT = 1
_VECTOR_NAME = "text"
_BATCH_POINTS = 500
_OPTIMIZE_SCRIPT = """
import sys, qdrant_edge
shard = qdrant_edge.EdgeShard.load(sys.argv[1])
shard.optimize()
shard.flush()
shard.close()
"""


class QdrantEdgeIndex:
    """Opens the index in `path`. Where there is none that can be read, or one of another size or schema, it starts
    empty and `needs_rebuild` is true until `rebuild` has run. Raises StorageFailed when another process holds it."""

    def __init__(self, path: Path, schema: Schema, size: int) -> None:
        self._path = path
        self._closed = False
        self.needs_rebuild = False
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._shard = self._reopen(schema, size) or self._start(schema, size)
        except OSError as error:
            raise StorageFailed(f"{path}: {error}") from error
        # One thread each, so that a search never waits for a rebuild.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="vector-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vector-write")
        self._changing = asyncio.Lock()
        self._discarded: Future[None] | None = None

    @classmethod
    def open(cls, path: Path, schema: Schema, size: int) -> QdrantEdgeIndex:
        """The constructor, under the name that callers use."""
        return cls(path, schema, size)

    @property
    def size(self) -> int:
        """Dimensions of its vectors."""
        return self._shard.size

    async def nearest(
        self, vector: Sequence[float], filters: Filters, limit: int, deadline: Deadline
    ) -> list[Candidate]:
        """Nearest neighbours by cosine, ties by object id; none for a zero vector. Raises TimeoutError, StorageFailed,
        and ValueError for a vector of another size."""
        shard = self._shard  # taken before the first await: a vector and the shard it was made for stay together
        wanted = checked(vector, shard.size)
        if limit <= 0 or not any(wanted):
            return []
        return await self._read(lambda: shard.nearest(wanted, filters, limit), deadline)

    async def vectors(self, object_ids: Sequence[str], deadline: Deadline) -> dict[str, list[float]]:
        """See VectorIndex.vectors. Raises TimeoutError, StorageFailed."""
        shard = self._shard
        return await self._read(lambda: shard.vectors(object_ids), deadline)

    async def apply(self, upserts: Sequence[Point], deletes: Sequence[str]) -> None:
        """Write vectors; visible to searches and on disk when it returns. An item with a zero vector has none. Raises
        StorageFailed, and ValueError for a vector of another size."""
        async with self._changing:
            shard = self._shard
            await asyncio.shield(self._write(lambda: shard.apply(upserts, deletes)))

    async def rebuild(self, schema: Schema, size: int, points: Iterable[Point], version: str | None = None) -> None:
        """Rebuild the index; it becomes active exactly on return, so that the caller can switch the encoder with it.
        Raises StorageFailed; then, and when cancelled, the old one stays active. `apply` waits meanwhile."""
        async with self._changing:
            if self._discarded is not None:
                await asyncio.wrap_future(self._discarded)
            given_up = threading.Event()
            build = self._write(lambda: self._build(schema, size, points, given_up))
            try:
                fresh = await asyncio.shield(build)
            except asyncio.CancelledError:
                given_up.set()
                if build.done() and build.exception() is None:
                    self._writer.submit(build.result().close)
                raise
            old, self._shard = self._shard, fresh
            try:
                replace_text(self._path / "CURRENT", fresh.folder.name)
            except OSError as error:
                self._shard = old
                self._writer.submit(fresh.close)
                raise StorageFailed(f"{self._path}: {error}") from error
            self.needs_rebuild = False
            # Behind the searches that still wait for the old one.
            self._discarded = self._reader.submit(self._discard, old)

    async def stale(self) -> bool:
        """Whether it was opened empty or grew so much since its graph was built that it has to be rebuilt."""
        return self.needs_rebuild

    def adopt(self, schema: Schema, size: int, version: str) -> None:
        """Nothing to do: the folder belongs to this process."""

    async def close(self) -> None:
        """Finish queued reads and writes, then release the folder."""
        if self._closed:
            return
        self._closed = True
        async with self._changing:  # let a rebuild that has begun finish
            await asyncio.to_thread(self._writer.shutdown)
            await asyncio.to_thread(self._reader.shutdown)
            await asyncio.to_thread(self._shard.close)

    async def _read(self, work: Callable[[], T], deadline: Deadline) -> T:
        if self._closed:
            raise StorageFailed("the vector index is closed")
        remaining = deadline.remaining()
        if remaining <= 0:
            raise TimeoutError
        # Leaving the timeout cancels the future, which takes work that has not begun out of the queue.
        async with asyncio.timeout(remaining):
            return await asyncio.get_running_loop().run_in_executor(self._reader, _guarded, self._path, work)

    def _write(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue a write. Shield the future: a caller that gives up must not stop a write half-way."""
        if self._closed:
            raise StorageFailed("the vector index is closed")
        written = asyncio.get_running_loop().run_in_executor(self._writer, _guarded, self._path, work)
        written.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # retrieved, even if no caller waits
        return written

    def _reopen(self, schema: Schema, size: int) -> _Shard | None:
        """The index that CURRENT names, if it is whole and of this size and schema."""
        try:
            folder = self._path / (self._path / "CURRENT").read_text("utf-8").strip()
            if json.loads((folder / "layout.json").read_text("utf-8")) != _layout(schema, size):
                return None
            shard = _guarded(folder, lambda: _Shard.load(folder, schema, size))
            self.needs_rebuild = shard.unindexed_bytes > 2 * INDEXED_BYTES
            return shard
        except FileNotFoundError:
            return None
        except (OSError, ValueError, StorageFailed) as error:
            if "WouldBlock" in str(error):  # how the engine says that its lock is taken
                raise StorageFailed(f"{self._path} is in use by another process") from error
            logger.warning("vector_index_damaged error=%s", type(error).__name__)
            return None

    def _start(self, schema: Schema, size: int) -> _Shard:
        """An empty index that CURRENT does not name: a restart before the rebuild finds the need for it again."""
        self.needs_rebuild = True
        folder = self._fresh_folder()
        return _guarded(folder, lambda: _Shard.create(folder, schema, size))

    def _build(self, schema: Schema, size: int, points: Iterable[Point], given_up: threading.Event) -> _Shard:
        folder = self._fresh_folder()
        shard: _Shard | None = None
        try:
            shard = _Shard.create(folder, schema, size)
            shard.index_fields()
            shard.apply(takewhile(lambda _: not given_up.is_set(), points), ())
            if shard.unindexed_bytes > INDEXED_BYTES:
                shard.close()
                shard = None
                command = [sys.executable, "-c", _OPTIMIZE_SCRIPT, str(folder / "shard")]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603 - our own words
                shard = _Shard.load(folder, schema, size)
            if given_up.is_set():
                raise StorageFailed(f"{self._path}: the rebuild was given up")
        except BaseException:
            if shard is not None:
                shard.close()
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return shard

    def _discard(self, old: _Shard) -> None:
        old.close()
        for folder in self._path.glob("index-*"):
            if folder != self._shard.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _fresh_folder(self) -> Path:
        return self._path / f"index-{secrets.token_hex(4)}"


class _Shard:
    """One engine shard in a folder of its own. Blocking; raises what the engine raises."""

    def __init__(self, folder: Path, schema: Schema, size: int, shard: Any) -> None:
        self.folder = folder
        self.size = size
        self._fields = filterable(schema)
        self._shard = shard

    @classmethod
    def create(cls, folder: Path, schema: Schema, size: int) -> _Shard:
        """A new, empty shard in `folder`."""
        (folder / "shard").mkdir(parents=True)
        config = engine.EdgeConfig(
            vectors={_VECTOR_NAME: engine.EdgeVectorParams(size=size, distance=engine.Distance.Cosine)},
            hnsw_config=engine.HnswIndexConfig(
                m=M, ef_construct=EF_CONSTRUCT, full_scan_threshold=INDEXED_BYTES // 1000, max_indexing_threads=1
            ),
            optimizers=engine.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=INDEXED_BYTES // 1000),
            max_search_threads=1,
        )
        shard = engine.EdgeShard.create(str(folder / "shard"), config)
        (folder / "layout.json").write_text(json.dumps(_layout(schema, size)), "utf-8")
        return cls(folder, schema, size, shard)

    @classmethod
    def load(cls, folder: Path, schema: Schema, size: int) -> _Shard:
        """The shard in `folder`, checked by reading some of it."""
        shard = cls(folder, schema, size, engine.EdgeShard.load(str(folder / "shard")))
        try:
            shard.nearest([1.0] * size, (), 100)  # some damage shows only when vectors and payloads are read
        except BaseException:
            shard.close()
            raise
        return shard

    @property
    def unindexed_bytes(self) -> int:
        """Size of the vectors outside the graph, which every search reads one by one."""
        info = self._shard.info()
        return max(0, int(info.points_count) - int(info.indexed_vectors_count)) * self.size * 4

    def nearest(self, vector: list[float], filters: Filters, limit: int) -> list[Candidate]:
        """Nearest neighbours by cosine, best first, ties by object id."""
        wanted = clauses(filters, self._fields)
        if wanted is None:
            return []
        query = engine.Query.Nearest(vector, using=_VECTOR_NAME)
        under = engine.Filter(must=[_condition(clause) for clause in wanted]) if wanted else None
        requested = limit + EXTRA_NEIGHBOURS
        while True:
            found = self._shard.search(engine.SearchRequest(query, limit=requested, filter=under, with_payload=[ID]))
            if not more(found, requested, limit):
                return ranked(found, limit, lambda point: point.payload[ID])
            requested *= 2

    def vectors(self, object_ids: Sequence[str]) -> dict[str, list[float]]:
        """object_id -> stored vector (normalised), of those that have one."""
        if not object_ids:
            return {}
        points = [point_id(object_id) for object_id in dict.fromkeys(object_ids)]
        records = self._shard.retrieve(points, with_payload=[ID], with_vector=True)
        return {record.payload[ID]: list(record.vector[_VECTOR_NAME]) for record in records}

    def apply(self, upserts: Iterable[Point], deletes: Sequence[str]) -> None:
        """Write and flush, 500 points at a time."""
        gone = list(deletes)
        waiting = iter(upserts)
        while batch := list(islice(waiting, _BATCH_POINTS)):
            points = {}
            for document, vector in batch:
                numbers = checked(vector, self.size)
                held = payload(document, self._fields) if any(numbers) else None
                object_id = document["id"]
                points[object_id] = (
                    None if held is None else engine.Point(point_id(object_id), {_VECTOR_NAME: numbers}, held)
                )
            gone += [object_id for object_id, point in points.items() if point is None]
            kept = [point for point in points.values() if point is not None]
            if kept:
                self._shard.update(engine.UpdateOperation.upsert_points(kept))
        if gone:
            self._shard.update(engine.UpdateOperation.delete_points([point_id(object_id) for object_id in gone]))
        self._shard.flush()

    def index_fields(self) -> None:
        """Create payload indexes; without them filters read every item."""
        for field in self._fields.values():
            kind = engine.PayloadSchemaType.Keyword if field.role is Role.KEYWORD else engine.PayloadSchemaType.Float
            self._shard.update(engine.UpdateOperation.create_field_index(key(field), kind))

    def close(self) -> None:
        """Flush and release the engine's lock."""
        self._shard.close()


def _condition(clause: Clause) -> Any:
    if clause.texts:
        return engine.FieldCondition(clause.key, match=engine.MatchAny(list(clause.texts)))
    within: list[Any] = [
        engine.FieldCondition(clause.key, range=engine.RangeFloat(gte=r.gte, gt=r.gt, lte=r.lte, lt=r.lt))
        for r in clause.ranges
    ]
    return within[0] if len(within) == 1 else engine.Filter(should=within)


def _guarded(path: Path, work: Callable[[], T]) -> T:
    """Run `work`; failures of the engine, which have no class of their own, become StorageFailed."""
    try:
        return work()
    except (ValueError, StorageFailed, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the engine panics with exceptions that are no Exception
        raise StorageFailed(f"{path}: {error}") from error


def _layout(schema: Schema, size: int) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "size": size,
        "fields": {name: str(field.role) for name, field in filterable(schema).items()},
    }

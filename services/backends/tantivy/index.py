"""The embedded lexical index: tantivy in a folder.

    folder/CURRENT            name of the active sub-folder; replaced atomically
    folder/<name>/schema.json the schema it was built for
    folder/<name>/…           tantivy's files

The engine runs on threads of its own (it releases the GIL). All writes go through one thread, in order.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import tantivy

from services.backends.base import IndexQuery, IndexResult
from services.backends.files import replace_text
from services.backends.lexical_rules import ID, clean
from services.backends.tantivy.layout import LAYOUT_VERSION, Layout
from services.backends.tantivy.reading import Reading
from services.errors import StorageFailed
from services.schema.schema import to_json
from services.types import Deadline, Document, Schema

logger = logging.getLogger(__name__)
T = TypeVar("T")

READER_THREADS = 4
MAX_INLINE_ITEMS = 20_000
"""With up to this many items a search takes some tenths of a millisecond; handing it to a thread would double that."""
WRITER_HEAP_BYTES = 64_000_000
"""Bytes of documents gathered before they become a segment."""


class TantivyIndex:
    """Opens the index in `path`. Where there is none that can be read, or one for another schema, it starts empty and
    `needs_rebuild` is true until `rebuild` has run. Raises StorageFailed when another process holds the folder."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self._path = path
        self._closed = False
        self.needs_rebuild = False
        path.mkdir(parents=True, exist_ok=True)
        self._generation = self._reopen(schema) or self._start(schema)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="lexical-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="lexical-write")

    @classmethod
    def open(cls, path: Path, schema: Schema) -> TantivyIndex:
        """The constructor, under the name that callers use."""
        return cls(path, schema)

    async def search(self, query: IndexQuery, deadline: Deadline) -> IndexResult:
        """See services.backends.base.LexicalIndex. Matches of words (and slots) are weighted by the prior of
        items, those of slots alone by their quality. Raises TimeoutError."""
        return await self._read(lambda reading: reading.search(query), deadline)

    async def titles(self, prefix: str, limit: int, deadline: Deadline) -> list[tuple[str, float]]:
        """See LexicalIndex.titles. Raises TimeoutError, StorageFailed."""
        return await self._read(lambda reading: reading.titles(prefix, limit), deadline)

    async def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        """See LexicalIndex.apply. Raises StorageFailed; then nothing was changed."""
        await self._write(lambda: self._generation.apply(upserts, deletes))

    async def rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        """See LexicalIndex.rebuild. Raises StorageFailed; then the old index stays active."""
        await self._write(lambda: self._rebuild(schema, documents))

    async def stale(self) -> bool:
        """Whether it was opened empty because its files were missing, damaged or of another schema."""
        return self.needs_rebuild

    async def refresh(self) -> None:
        """Nothing to do: the folder belongs to this process."""

    async def close(self) -> None:
        """Finish queued reads and writes, then release the folder."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._generation.close)

    async def _read(self, work: Callable[[Reading], T], deadline: Deadline) -> T:
        if self._closed:
            raise StorageFailed("the lexical index is closed")
        remaining = deadline.remaining()
        if remaining <= 0:
            raise TimeoutError
        generation = self._generation

        def run() -> T:
            with _named_failures(self._path):
                return work(Reading(generation.searcher, generation.layout, deadline))

        if generation.searcher.num_docs <= MAX_INLINE_ITEMS:
            return run()
        # Leaving the timeout cancels the future, which takes work that has not begun out of the queue.
        async with asyncio.timeout(remaining):
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def _write(self, work: Callable[[], None]) -> None:
        if self._closed:
            raise StorageFailed("the lexical index is closed")

        def run() -> None:
            with _named_failures(self._path):
                work()

        # Shielded: a caller that gives up does not stop a write half way.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._writer, run))

    def _reopen(self, schema: Schema) -> _Generation | None:
        """The index that CURRENT names, if it is whole and of this schema."""
        try:
            folder = self._path / (self._path / "CURRENT").read_text("utf-8").strip()
            if (folder / "schema.json").read_text("utf-8") != fingerprint(schema):
                return None
            with _named_failures(self._path):
                return _Generation(folder, schema)
        except FileNotFoundError:
            return None
        except StorageFailed as error:
            if "LockBusy" in str(error):
                raise StorageFailed(f"{self._path} is in use by another process") from error
            logger.warning("lexical_index_damaged error=%s", error)
            return None

    def _start(self, schema: Schema) -> _Generation:
        """An empty index that CURRENT does not name: a restart before the rebuild finds the need for it again."""
        self.needs_rebuild = True
        return _Generation(self._path / f"index-{secrets.token_hex(4)}", schema)

    def _rebuild(self, schema: Schema, documents: Iterable[Document]) -> None:
        fresh = _Generation(self._path / f"index-{secrets.token_hex(4)}", schema)
        try:
            fresh.apply(documents, ())
            replace_text(self._path / "CURRENT", fresh.folder.name)
        except BaseException:
            fresh.close()
            shutil.rmtree(fresh.folder, ignore_errors=True)
            raise
        old, self._generation = self._generation, fresh
        self.needs_rebuild = False
        old.close()
        for folder in self._path.glob("index-*"):
            if folder != fresh.folder:
                shutil.rmtree(folder, ignore_errors=True)  # searches that still run hold its files open


class _Generation:
    """One index in a folder of its own, opened or made there."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        self.folder = folder
        self.layout = Layout(schema)
        if folder.is_dir():
            self.index = tantivy.Index.open(str(folder))
        else:
            folder.mkdir()
            (folder / "schema.json").write_text(fingerprint(schema), "utf-8")
            self.index = tantivy.Index(self.layout.engine, str(folder))
        self.layout.register(self.index)
        self.index.config_reader("manual")
        self._writer = self.index.writer(WRITER_HEAP_BYTES, 1)
        self.index.reload()
        # Kept open: creating one takes longer than most searches.
        self.searcher = self.index.searcher()

    def apply(self, upserts: Iterable[Document], deletes: Iterable[str]) -> None:
        """Apply everything in one commit, or nothing."""
        try:
            for document in upserts:
                entry = self.layout.document(document)
                self._writer.delete_documents_by_term(ID, clean(str(document["id"])))
                self._writer.add_document(entry)
            for object_id in deletes:
                self._writer.delete_documents_by_term(ID, clean(object_id))
            self._writer.commit()
        except BaseException:
            with suppress(ValueError, RuntimeError):
                self._writer.rollback()
            raise
        self.index.reload()
        self.searcher = self.index.searcher()

    def close(self) -> None:
        """Wait for merges and release the folder's lock."""
        self._writer.wait_merging_threads()


@contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """The engine's failures become StorageFailed; among them its panics, which are no Exception."""
    try:
        yield
    except TimeoutError:  # an OSError, but no failure of the engine
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise StorageFailed(f"{path}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise StorageFailed(f"{path}: {error}") from error


def fingerprint(schema: Schema) -> str:
    """The parts of a schema that the index was built from, as text; when it changes, the index must be rebuilt."""
    stats = dict(sorted(schema.stats.items()))
    return f"{LAYOUT_VERSION} {to_json(replace(schema, stats=stats, synonyms={}, inferred=True))}"

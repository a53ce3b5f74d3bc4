"""One SQLite file, safely shared by an event loop: durable group commits on one thread, reads on another.

WAL with synchronous=FULL: a write is on disk when its call returns (NORMAL would fsync only at checkpoints, see
https://www.sqlite.org/pragma.html#pragma_synchronous). Writes that wait together share one commit and one fsync.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from services.errors import StorageFailed
from services.types import Deadline

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_MAX_GROUP = 256
"""Writes that may share one commit."""


class Database:
    """`script` creates the tables and must be safe to run again. Raises StorageFailed when the file does not open."""

    def __init__(self, path: Path, script: str) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Open until the end: while the writer reopens the file, nothing needs to be created again (the disk may be
            # full).
            self._reading = self._connect()
            try:
                self._reading.executescript(script)
            except sqlite3.Error:
                self._reading.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StorageFailed(f"{path}: {error}") from error
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-read")
        self._writing: sqlite3.Connection | None = None
        self._queue: SimpleQueue[tuple[Work[Any], Future[Any]] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name=f"{path.stem}-write", daemon=True)
        self._writer.start()
        self._closed = False

    async def read(self, work: Work[T], deadline: Deadline | None = None) -> T:
        """Run `work` on the reading connection; it sees every write that has returned.

        Raises TimeoutError when the deadline passes first (work that has not begun by then never does), StorageFailed
        when the file cannot be read.
        """
        if self._closed:
            raise StorageFailed(f"{self._path.name} is closed")
        if deadline is None:
            return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, work)
        remaining = deadline.remaining()
        if remaining <= 0:
            raise TimeoutError
        # Leaving the timeout cancels the future, which takes work that has not begun out of the reader's queue.
        async with asyncio.timeout(remaining):
            return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, work)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; durable when this returns. An exception of `work` undoes its own part alone.

        Raises StorageFailed when the commit fails: then nothing of the group was stored.
        """
        if self._closed:
            raise StorageFailed(f"{self._path.name} is closed")
        future: Future[T] = Future()
        self._queue.put((work, future))
        # Shielded: a caller that gives up does not undo what the group is committing.
        return await asyncio.shield(asyncio.wrap_future(future))

    async def close(self) -> None:
        """Finish queued reads and writes, then close the file."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._reader.shutdown)
        # The last connection moves the log of writes into the file, which may take a moment.
        await asyncio.to_thread(self._reading.close)

    def _connect(self) -> sqlite3.Connection:
        # Autocommit: transactions are opened by hand, so that a group of writes is exactly one of them.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA busy_timeout=5000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            # Deleted and rewritten data is overwritten: forgotten users leave nothing in free pages.
            connection.execute("PRAGMA secure_delete=ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _read(self, work: Work[T]) -> T:
        try:
            return work(self._reading)
        except sqlite3.Error as error:
            raise StorageFailed(f"{self._path.name}: {error}") from error

    def _write_loop(self) -> None:
        open_ = True
        while open_:
            item = self._queue.get()
            group = []
            while item is not None:
                # A caller cancelled before its turn is dropped; the others can no longer cancel.
                if item[1].set_running_or_notify_cancel():
                    group.append(item)
                if len(group) == _MAX_GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            open_ = item is not None
            if group:
                self._commit(group)
        if self._writing is not None:
            self._writing.close()

    def _commit(self, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            if self._writing is None:
                self._writing = self._connect()
            connection = self._writing
            connection.execute("BEGIN IMMEDIATE")
            for work, future in group:
                connection.execute("SAVEPOINT part")
                try:
                    outcomes.append((future, work(connection), None))
                except Exception as error:
                    connection.execute("ROLLBACK TO part")
                    outcomes.append((future, None, self._named(error)))
                connection.execute("RELEASE part")
            connection.execute("COMMIT")
        except Exception as error:
            # After a failed write or fsync the content of the disk is unknown: the file is read again, the cache not
            # trusted.
            self._reopen()
            failed = StorageFailed(f"{self._path.name}: {error}")
            outcomes = [(future, None, failed) for _, future in group]
        for future, value, failure in outcomes:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)

    def _reopen(self) -> None:
        if self._writing is not None:
            with suppress(sqlite3.Error):
                self._writing.close()
            self._writing = None

    def _named(self, error: Exception) -> Exception:
        """Engine failures (disk full, input/output error) become StorageFailed; the rest stays what it is."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            return StorageFailed(f"{self._path.name}: {error}")
        return error

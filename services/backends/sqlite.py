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
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from services.errors import StorageFailed
from services.types import Deadline

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_GROUP = 256
"""Writes that may share one commit."""


class Database:
    """`script` creates the tables and must be safe to run again."""

    def __init__(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        connection = self._connect()
        connection.executescript(script)
        connection.close()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-read")
        self._local = threading.local()
        self._queue: SimpleQueue[tuple[Work[Any], Future[Any]] | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_loop, name=f"{path.stem}-write", daemon=True)
        self._writer.start()
        self._closed = False

    async def read(self, work: Work[T], deadline: Deadline | None = None) -> T:
        """Run `work` on the reading connection; TimeoutError when the deadline passes first."""
        future = asyncio.get_running_loop().run_in_executor(self._reader, self._read, work)
        if deadline is None:
            return await future
        async with asyncio.timeout(deadline.remaining()):
            return await future

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
        """Finish the writes that are queued, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join)
        self._reader.shutdown(wait=True)

    def _connect(self) -> sqlite3.Connection:
        # Autocommit: transactions are opened by hand, so that a group of writes is exactly one of them.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA busy_timeout=5000")
        return connection

    def _read(self, work: Work[T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return work(connection)

    def _write_loop(self) -> None:
        connection = self._connect()
        open_ = True
        while open_:
            item = self._queue.get()
            group = []
            while item is not None:
                group.append(item)
                if len(group) == _GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            open_ = item is not None
            if group:
                self._commit(connection, group)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, group: list[tuple[Work[Any], Future[Any]]]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work, future in group:
                connection.execute("SAVEPOINT part")
                try:
                    outcomes.append((future, work(connection), None))
                except Exception as error:
                    connection.execute("ROLLBACK TO part")
                    outcomes.append((future, None, _storage(error)))
                connection.execute("RELEASE part")
            connection.execute("COMMIT")
        except Exception as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            outcomes = [(future, None, _storage(error)) for _, future in group]
        for future, value, failure in outcomes:
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)


def _storage(error: Exception) -> Exception:
    """Engine failures (disk full, input/output error) become StorageFailed; the rest stays what it is."""
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
        return StorageFailed(str(error))
    return error

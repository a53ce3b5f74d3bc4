"""The shared SQLite file: what a write promises, alone and in a group."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.backends.sqlite.database import Database
from services.backends.sqlite.state import SqliteState
from services.errors import StorageFailed
from services.types import Deadline

TABLE = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY)"


@asynccontextmanager
async def use(path: Path) -> AsyncIterator[Database]:
    database = Database(path / "folder" / "x.db", TABLE)
    try:
        yield database
    finally:
        await database.close()


def insert(n: int) -> Callable[[sqlite3.Connection], int]:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (n,)).rowcount


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


async def test_a_write_is_seen_by_reads_that_follow_and_after_reopening(tmp_path: Path) -> None:
    async with use(tmp_path) as database:
        assert await database.write(insert(1)) == 1
        assert await database.read(numbers) == [1]
    async with use(tmp_path) as database:
        assert await database.read(numbers) == [1]


async def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    async with use(tmp_path) as database:
        for run in (database.read, database.write):
            assert await run(lambda c: c.execute("PRAGMA synchronous").fetchone()) == (2,)  # 2 is FULL
            assert await run(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


async def test_writes_that_wait_together_share_one_commit(tmp_path: Path) -> None:
    async with use(tmp_path) as database:
        release = threading.Event()
        commits: list[int] = []

        def slow(connection: sqlite3.Connection) -> None:
            release.wait()

        def note(n: int) -> Callable[[sqlite3.Connection], None]:
            def part(connection: sqlite3.Connection) -> None:
                insert(n)(connection)
                # What an outside reader sees while the group is open: nothing of it.
                other = sqlite3.connect(tmp_path / "folder" / "x.db")
                commits.append(len(numbers(other)))
                other.close()

            return part

        waiting = [asyncio.ensure_future(database.write(slow))]
        waiting += [asyncio.ensure_future(database.write(note(n))) for n in range(20)]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*waiting)
        assert commits == [0] * 20
        assert await database.read(numbers) == list(range(20))


async def test_an_error_undoes_its_own_part_alone(tmp_path: Path) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        insert(99)(connection)
        raise LookupError("mine")

    async with use(tmp_path) as database:
        parts = [
            database.write(insert(1)),
            database.write(broken),
            database.write(insert(1)),
            database.write(insert(2)),
        ]
        outcomes = await asyncio.gather(*parts, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, LookupError, sqlite3.IntegrityError, int]
        assert await database.read(numbers) == [1, 2]


async def test_a_caller_that_gives_up_does_not_stop_the_others(tmp_path: Path) -> None:
    async with use(tmp_path) as database:
        release = threading.Event()
        slow = asyncio.ensure_future(database.write(lambda connection: release.wait()))
        gone = asyncio.ensure_future(database.write(insert(1)))
        kept = asyncio.ensure_future(database.write(insert(2)))
        await asyncio.sleep(0)
        gone.cancel()
        release.set()
        await asyncio.gather(slow, kept)
        assert 2 in await database.read(numbers)


async def test_a_commit_that_fails_fails_all_of_its_group_and_the_next_one_works(tmp_path: Path) -> None:
    script = TABLE + "; CREATE TABLE IF NOT EXISTS child (n REFERENCES numbers (n) DEFERRABLE INITIALLY DEFERRED)"

    def orphan(connection: sqlite3.Connection) -> None:
        # Deferred constraints are checked by COMMIT itself: a commit that really fails, as on a full disk.
        connection.execute("PRAGMA defer_foreign_keys=ON")
        connection.execute("INSERT INTO child VALUES (5)")

    database = Database(tmp_path / "x.db", script)
    await database.write(lambda connection: connection.execute("SELECT 1").fetchone())
    database._writing.execute("PRAGMA foreign_keys=ON")  # type: ignore[union-attr]
    release = threading.Event()
    slow = asyncio.ensure_future(database.write(lambda connection: release.wait()))
    group = [asyncio.ensure_future(database.write(work)) for work in (insert(1), orphan, insert(2))]
    await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(slow, *group, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[1:]] == [StorageFailed] * 3
    assert await database.read(numbers) == []
    assert await database.write(insert(3)) == 1
    await database.close()


async def test_reads_keep_their_deadline(tmp_path: Path) -> None:
    async with use(tmp_path) as database:
        began: list[int] = []
        with pytest.raises(TimeoutError):
            await database.read(began.append, Deadline.after(-1.0))  # type: ignore[arg-type]
        release = threading.Event()
        slow = asyncio.ensure_future(database.read(lambda connection: release.wait()))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await database.read(began.append, Deadline.after(0.01))  # type: ignore[arg-type]
        release.set()
        await slow
        await database.read(numbers)
        assert began == []


async def test_engine_failures_have_the_name_of_a_storage_failure(tmp_path: Path) -> None:
    def wrong(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    async with use(tmp_path) as database:
        for run in (database.read, database.write):
            with pytest.raises(StorageFailed, match="nowhere"):
                await run(wrong)


async def test_a_closed_database_refuses_and_closes_again_quietly(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", TABLE)
    queued = asyncio.ensure_future(database.write(insert(1)))
    await asyncio.sleep(0)
    await database.close()
    assert await queued == 1
    await database.close()
    for run in (database.read, database.write):
        with pytest.raises(StorageFailed, match="closed"):
            await run(numbers)
    assert [file.name for file in tmp_path.iterdir()] == ["x.db"]


def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageFailed, match="file"):
        Database(tmp_path / "file" / "x.db", TABLE)


async def test_state_is_json_by_key_and_survives_a_restart(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.db")
    assert await state.get("mode") is None
    for value in ("shadow", {"mode": "static", "at": 1.5, "tags": [None, True]}, None, 0, "learned"):
        await state.set("mode", value)
        assert await state.get("mode") == value
    await state.set("note", "é")
    with pytest.raises(ValueError, match="note"):
        await state.set("note", object())
    await state.close()
    state = SqliteState(tmp_path / "state.db")
    assert [await state.get(key) for key in ("mode", "note", "other")] == ["learned", "é", None]
    await state.close()

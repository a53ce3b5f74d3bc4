"""The event log, its promises under concurrency, kill -9, full disks and damage."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from services.backends.base import EventLog, Tick
from services.backends.log_records import RecentImpressions
from services.backends.sqlite.log import SqliteLog
from services.errors import RecordDamaged, StorageFailed
from services.types import Impression, Interaction
from tests.builders.records import make_impression, make_interaction
from tests.contracts.event_log import DAY, EventLogContract, soon

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def opened(path: Path, recent: int = 256, retention: float | None = None) -> AsyncIterator[EventLog]:
    log = SqliteLog(path, recent=recent, retention=retention)
    try:
        yield log
    finally:
        await log.close()


class TestSqliteLog(EventLogContract):
    def open(self, folder: Path, retention: float | None = None) -> AbstractAsyncContextManager[EventLog]:
        return opened(folder / "log.db", retention=retention)


class TestSqliteLogWithoutRecent(EventLogContract):
    """Every look-up goes to the file."""

    def open(self, folder: Path, retention: float | None = None) -> AbstractAsyncContextManager[EventLog]:
        return opened(folder / "log.db", recent=0, retention=retention)


def child(script: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, text=True, **options)  # type: ignore[call-overload, no-any-return]


WRITE_FOREVER = """
import asyncio, sys
from pathlib import Path
from services.backends.sqlite.log import SqliteLog
from tests.builders.records import make_impression, make_interaction

async def writer(log, name):
    for n in range(10**9):
        key = f"{name}-{n}"
        await log.append(make_impression("q" + key, rows=()))
        print("q" + key, flush=True)
        events = [(make_interaction(f"e{key}-{k}", query_id="q" + key, object_id=str(k)), "d") for k in range(2)]
        assert await log.accept(events) == ["accepted", "accepted"]
        print(f"e{key}-0 e{key}-1", flush=True)

async def main():
    log = SqliteLog(Path(sys.argv[1]))
    await asyncio.gather(*(writer(log, f"{sys.argv[2]}-{n}") for n in range(4)))

asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(tmp_path: Path) -> None:
    seeded = random.Random(20)
    acknowledged: set[str] = set()
    for turn in range(6):
        writer = child(WRITE_FOREVER, str(tmp_path / "log.db"), str(turn), stdout=subprocess.PIPE)
        assert writer.stdout is not None
        with writer.stdout as lines:
            # Killed after a random number of acknowledgements: no clock decides what the test sees.
            for _ in range(seeded.randrange(1, 200)):
                acknowledged.update(lines.readline().split())
            writer.send_signal(signal.SIGKILL)
            acknowledged.update(word for line in lines if line.endswith("\n") for word in line.split())
        assert writer.wait() == -signal.SIGKILL
        log = SqliteLog(tmp_path / "log.db")
        records = await log.read(0, 10**6)
        again = sorted(a for a in acknowledged if a.startswith("e"))
        retried = await log.accept([(make_interaction(event_id), "d") for event_id in again])
        await log.close()
        assert retried == ["duplicate"] * len(again)
        assert [offset for offset, _ in records] == list(range(1, len(records) + 1))
        stored = Counter(r.event_id if isinstance(r, Interaction) else getattr(r, "query_id", "") for _, r in records)
        assert acknowledged <= set(stored)
        assert set(stored.values()) == {1}
    assert len(acknowledged) > 100


FILL_THE_DISK = """
import asyncio, resource, sys
from pathlib import Path
from services.backends.log_records import RecentImpressions
from services.backends.sqlite.log import SqliteLog
from services.errors import StorageFailed
from services.types import Deadline
from tests.builders.records import make_impression, make_interaction

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

async def main():
    path = Path(sys.argv[1])
    log = SqliteLog(path)
    await log.append(make_impression("before"))
    room(path.with_name(path.name + "-wal").stat().st_size)  # The file system takes not a byte more.
    for attempt in range(3):
        batch = [(make_interaction(f"full-{n}", query_id="before", object_id=str(n)), "d") for n in range(100)]
        try:
            await log.accept(batch)
            sys.exit("accepted without room")
        except StorageFailed:
            pass
        try:
            await log.append(make_impression("full"))
            sys.exit("appended without room")
        except StorageFailed:
            pass
        assert await log.end() == (1, 1000.0), await log.end()
        assert (await log.impression("before", Deadline.after(5))) is not None
        assert (await log.impression("full", Deadline.after(5))) is None
    room(resource.RLIM_INFINITY)
    assert await log.accept(batch) == ["accepted"] * 100
    assert await log.append(make_impression("full")) == 102
    await log.close()
    print("works again")

asyncio.run(main())
"""


async def test_a_full_disk_refuses_everything_and_the_log_works_again_when_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "log.db")], cwd=ROOT, text=True, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "works again\n", "")
    log = SqliteLog(tmp_path / "log.db")
    offset, _ = await log.end()
    await log.close()
    assert offset == 102


async def test_many_writes_share_commits_and_none_is_lost(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    offsets = await asyncio.gather(*(log.append(Tick(float(n))) for n in range(1000)))
    assert sorted(offsets) == list(range(1, 1001))
    await log.close()


async def test_event_ids_are_dropped_once_they_need_not_be_remembered(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    await log.accept([(make_interaction(f"old{n}", object_id=str(n), at=0.0), "d") for n in range(10)])
    for n in range(10):
        await log.accept([(make_interaction(f"new{n}", object_id=str(n), query_id="q2", at=2 * DAY), "d")])
    # Not known any more; whoever sends it again this late holds an expired query id.
    assert await log.accept([(make_interaction("old0", object_id="0", at=2 * DAY, status="late"), "d")]) == ["late"]
    assert await log.accept([(make_interaction("new0", object_id="0", query_id="q2"), "d")]) == ["duplicate"]
    await log.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT count(*) FROM events WHERE event_id LIKE 'old%' AND at = 0").fetchone() == (
            0,
        )
        assert connection.execute("SELECT count(*) FROM counted").fetchone() == (10,)
    connection.close()


async def test_the_same_impression_is_not_appended_twice(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    await log.append(make_impression())
    with pytest.raises(ValueError, match="query_id"):
        await log.append(make_impression())
    assert await log.append(Tick(1001.0)) == 2
    await log.close()


async def test_one_bad_record_fails_alone_in_its_group(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    good = [log.append(make_impression(f"q{n}")) for n in range(20)]
    bad = log.append(make_impression("bad", understanding={"x": object()}))
    outcomes = await asyncio.gather(*good, bad, return_exceptions=True)
    assert sorted(outcomes[:-1]) == list(range(1, 21))  # type: ignore[type-var]
    assert isinstance(outcomes[-1], ValueError)
    await log.close()


async def test_a_damaged_record_is_named_and_can_be_read_past(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    for n in range(1, 5):
        await log.append(make_impression(f"q{n}"))
    await log.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("UPDATE log SET body = substr(body, 1, 100) WHERE offset IN (2, 3)")
    connection.close()
    log = SqliteLog(tmp_path / "log.db")
    assert [offset for offset, _ in await log.read(0, 10)] == [1]
    for offset in (2, 3):
        with pytest.raises(RecordDamaged) as caught:
            await log.read(offset - 1, 10)
        assert caught.value.offset == offset
    assert [offset for offset, _ in await log.read(3, 10)] == [4]
    with pytest.raises(RecordDamaged):
        await log.impression("q2", soon())
    assert await log.forget("ann", 2000.0) == 4
    await log.close()


def everything(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_nothing_of_a_forgotten_person_stays_in_the_file(tmp_path: Path) -> None:
    secret = "kleptomania"
    log = SqliteLog(tmp_path / "log.db")
    texts = {"text": secret, "normalized": secret, "memory_key": secret, "understanding": {"tokens": [secret]}}
    for n in range(300):
        await log.append(make_impression(f"q{n}", user_id="ann", **texts))
        await log.append(make_impression(f"r{n}", user_id="bob"))
    await log.forget("ann", 2000.0)
    assert secret.encode() not in everything(tmp_path)
    await log.close()
    assert secret.encode() not in everything(tmp_path)


async def test_recent_impressions_do_not_touch_the_file_and_their_number_is_bounded(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", recent=3)
    for n in range(5):
        await log.append(make_impression(f"q{n}"))
    found: list[Impression | None] = [await log.impression(f"q{n}", soon()) for n in range(5)]
    assert found == [make_impression(f"q{n}") for n in range(5)]
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("DELETE FROM log")
    connection.close()
    found = [await log.impression(f"q{n}", soon()) for n in range(5)]
    assert found == [None, None, *(make_impression(f"q{n}") for n in range(2, 5))]
    await log.close()


async def test_dead_letters_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.backends.sqlite.log.MAX_DEAD_LETTERS", 3)
    async with opened(tmp_path / "log.db") as log:
        for offset in range(1, 6):
            await log.dead_letter(offset, "ValueError")
        assert [offset for offset, _ in await log.dead_letters(10)] == [5, 4, 3]
        await log.dead_letter(1, "ValueError")
        assert [offset for offset, _ in await log.dead_letters(10)] == [1, 5, 4]


def test_recent_impressions_are_believed_for_so_long_and_no_longer() -> None:
    now = 100.0
    recent = RecentImpressions(10, 60.0, lambda: now)
    recent.add(make_impression())
    now = 159.0
    assert recent.get("q1") == make_impression()
    now = 160.0
    assert recent.get("q1") is None


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StorageFailed, match=r"log\.db"):
        SqliteLog(tmp_path / "log.db")

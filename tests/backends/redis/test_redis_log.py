"""The event log in a real Redis: its promises under concurrency, kill -9, a full memory and restarts."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backends.base import EventLog, Forget, Tick
from services.backends.log_codec import FORGET
from services.backends.log_records import RecentImpressions
from services.backends.redis.log import RECENT_SECONDS, RedisLog
from services.backends.redis.server import Redis
from services.errors import RecordDamaged, StorageFailed
from services.learning.feedback import FeedbackService
from services.query_ids import Signer
from services.types import Interaction
from tests.builders.records import make_impression, make_interaction
from tests.contracts.event_log import EventLogContract, kept, soon
from tests.servers.redis import RedisServer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def connected(server: RedisServer, namespace: str = "ltrr") -> AsyncIterator[Redis]:
    redis = Redis(server.url, namespace)
    try:
        yield redis
    finally:
        await redis.close()


@asynccontextmanager
async def opened(server: RedisServer, namespace: str, **options: Any) -> AsyncIterator[RedisLog]:
    async with connected(server, namespace) as redis:
        log = RedisLog(redis, **options)
        yield log
        await log.close()


class TestRedisLog(EventLogContract):
    @pytest.fixture(autouse=True)
    def on(self, server: RedisServer) -> None:
        self.server = server

    def open(self, folder: Path, retention: float | None = None) -> AbstractAsyncContextManager[EventLog]:
        return opened(self.server, named(folder), retention=retention)


class TestRedisLogWithoutRecent(TestRedisLog):
    """Every look-up goes to the server."""

    def open(self, folder: Path, retention: float | None = None) -> AbstractAsyncContextManager[EventLog]:
        return opened(self.server, named(folder), retention=retention, recent=0)


def named(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def child(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, text=True, **options)


# --- kill -9 and restarts ---


async def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed() -> None:
    """500 events, each sent until it is acknowledged, while the server is killed and restarted five times."""
    with RedisServer() as server:
        redis = Redis(server.url)
        log = RedisLog(redis)
        acknowledged: set[str] = set()
        failures = 0
        progress = asyncio.Event()

        async def send(number: int) -> None:
            nonlocal failures
            event = make_interaction(f"e{number}", query_id=f"q{number % 50}", object_id=str(number))
            while True:
                try:
                    (status,) = await log.accept([(event, "d")])
                except StorageFailed:
                    failures += 1
                    await asyncio.sleep(0.02)
                    continue
                # A duplicate: it had been accepted before the connection broke.
                assert status in ("accepted", "duplicate")
                acknowledged.add(event.event_id)
                progress.set()
                return

        async def sender(first: int) -> None:
            for number in range(first, 500, 8):
                await send(number)

        async def kill() -> None:
            for more in (60, 130, 200, 270, 340):
                while len(acknowledged) < more:
                    progress.clear()
                    await progress.wait()
                before = set(acknowledged)
                server.kill()
                server.restart()
                stored = await ids(RedisLog(redis))
                assert before <= set(stored)

        async def ids(log: RedisLog) -> Counter[str]:
            while True:
                try:
                    records = await log.read(0, 10**6)
                except StorageFailed:
                    await asyncio.sleep(0.02)
                    continue
                assert [offset for offset, _ in records] == list(range(1, len(records) + 1))
                return Counter(record.event_id for _, record in records if isinstance(record, Interaction))

        await asyncio.gather(kill(), *(sender(first) for first in range(8)))
        assert failures > 0
        server.kill()
        server.restart()
        stored = await ids(log)
        assert stored == Counter({f"e{n}": 1 for n in range(500)})
        again = [(make_interaction(f"e{n}", query_id=f"q{n % 50}", object_id=str(n)), "d") for n in range(500)]
        assert await log.accept(again) == ["duplicate"] * 500
        await redis.close()


async def test_a_restart_in_between_fails_no_call() -> None:
    with RedisServer() as server:
        async with opened(server, "ltrr", recent=0) as log:
            await asyncio.gather(*(log.append(make_impression(f"q{n}")) for n in range(20)))
            for turn in range(3):
                if turn % 2:
                    server.kill()
                server.restart()
                assert await log.append(Tick(2000.0)) == 21 + turn  # A script that the server must be given again.
                assert await log.impression("q7", soon()) == make_impression("q7")
                assert len(await log.read(0, 100)) == 21 + turn


# --- many at once ---


ACCEPT = """
import asyncio, sys
from services.backends.redis.server import Redis
from services.backends.redis.log import RedisLog
from tests.builders.records import make_interaction

async def main():
    redis = Redis(sys.argv[1], sys.argv[2])
    log = RedisLog(redis)
    await log.end()
    print("ready", flush=True)
    sys.stdin.readline()
    same = await asyncio.gather(*(log.accept([(make_interaction(), "d")]) for _ in range(25)))
    other = await asyncio.gather(
        *(log.accept([(make_interaction(f"{sys.argv[3]}{n}", object_id="2"), "d")]) for n in range(25))
    )
    print(*(status for (status,) in same), "/", *(status for (status,) in other))
    await redis.close()

asyncio.run(main())
"""


async def test_the_same_event_sent_at_once_by_two_processes_counts_once(server: RedisServer) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = [child(ACCEPT, server.url, "twins", name, **pipes) for name in ("a", "b")]
    for process in children:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in children:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0].partition("/") for process in children]
    for part in (0, 2):
        statuses = Counter(status for words in said for status in words[part].split())
        assert statuses == {"accepted": 1, "duplicate": 49}
    async with opened(server, "twins") as log:
        assert len(await log.read(0, 100)) == 2


async def test_two_connections_append_without_gaps(server: RedisServer) -> None:
    async with opened(server, "two") as one, opened(server, "two") as other:
        both = [log.append(Tick(float(n))) for n in range(200) for log in (one, other)]
        assert sorted(await asyncio.gather(*both)) == list(range(1, 401))
        times = [record.at for _, record in await one.read(0, 1000)]
        assert times == sorted(times)


async def test_the_same_impression_is_not_appended_twice(server: RedisServer) -> None:
    async with opened(server, "once") as log, opened(server, "once") as other:
        await log.append(make_impression())
        for again in (log, other):
            with pytest.raises(ValueError, match="query_id"):
                await again.append(make_impression())
        assert await log.append(Tick(1001.0)) == 2
        with pytest.raises(ValueError, match="JSON"):
            await log.append(make_impression("bad", understanding={"x": object()}))
        assert await log.end() == (2, 1001.0)


async def test_a_cancelled_append_or_accept_leaves_the_log_whole(server: RedisServer) -> None:
    async with opened(server, "cancelled") as log:
        await log.end()
        for n in range(100):
            task = asyncio.create_task(log.accept([(make_interaction(f"e{n}", object_id=str(n)), "d")]))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        statuses = await log.accept([(make_interaction(f"e{n}", object_id=str(n)), "d") for n in range(100)])
        assert set(statuses) <= {"accepted", "duplicate"}
        records = await log.read(0, 1000)
        assert sorted(record.event_id for _, record in records) == sorted(f"e{n}" for n in range(100))  # type: ignore[union-attr]


# --- memory ---


async def test_without_memory_nothing_is_half_done_and_the_log_goes_on_when_there_is_some() -> None:
    with RedisServer() as server:
        async with opened(server, "ltrr", retention=0.0) as log, connected(server) as redis:
            await log.append(make_impression("before"))
            await log.accept([(make_interaction("e0", query_id="before"), "d")])
            await log.consumed("memory", 0)
            before = await redis.read(lambda c: c.dbsize())
            await redis.write(lambda c: c.config_set("maxmemory", 1))
            batch = [(make_interaction(f"full-{n}", query_id="before", object_id=str(n)), "d") for n in range(2, 100)]
            for _ in range(3):
                with pytest.raises(StorageFailed):
                    await log.accept(batch)
                with pytest.raises(StorageFailed):
                    await log.append(make_impression("full"))
            assert await redis.read(lambda c: c.dbsize()) == before
            assert await log.end() == (2, 1001.0)
            assert await log.interactions("before", soon()) == [make_interaction("e0", query_id="before")]
            assert await log.impression("full", soon()) is None
            # What makes room, or must not wait for any, works.
            await log.consumed("memory", 2)
            assert await kept(log) == [2]
            await log.dead_letter(1, "ValueError")
            assert await log.dead_letters(1) == [(1, "ValueError")]
            await redis.write(lambda c: c.config_set("maxmemory", 0))
            assert await log.accept(batch) == ["accepted"] * 98
            assert await log.append(make_impression("full")) == 101


# --- retention ---


async def test_a_slow_foreign_group_and_its_pending_entries_hold_records_back(server: RedisServer) -> None:
    async with opened(server, "foreign", retention=10.0) as log, connected(server, "foreign") as redis:
        stream = redis.key("log")
        for n in range(1, 11):
            await log.append(Tick(100.0 * n))
        await redis.write(lambda c: c.xgroup_create(stream, "theirs", "0"))
        await log.consumed("memory", 10)
        assert await kept(log) == list(range(1, 11))
        # They are given six and have done the first two and the fourth.
        taken: Any = await redis.write(lambda c: c.xreadgroup("theirs", "one", {stream: ">"}, count=6))
        names = [name for name, _ in taken[0][1]]
        assert names == [f"{n}-0".encode() for n in range(1, 7)]
        await redis.write(lambda c: c.xack(stream, "theirs", names[0], names[1], names[3]))
        await log.consumed("memory", 10)
        assert await kept(log) == list(range(3, 11))
        await redis.write(lambda c: c.xack(stream, "theirs", *names))
        await log.consumed("memory", 10)
        assert await kept(log) == list(range(7, 11))
        await redis.write(lambda c: c.xgroup_destroy(stream, "theirs"))
        await log.consumed("memory", 10)
        assert await kept(log) == [10]


async def test_the_lag_of_consumers_shows_in_the_groups_of_the_stream(server: RedisServer) -> None:
    async with opened(server, "lag", retention=0.0) as log, connected(server, "lag") as redis:
        for n in range(20):
            await log.append(Tick(float(n)))
        for consumer, offset in (("policy", 5), ("memory", 15), ("policy", 8), ("policy", 3)):
            await log.consumed(consumer, offset)
        groups: Any = await redis.read(lambda c: c.xinfo_groups(redis.key("log")))
        assert {group["name"]: group["lag"] for group in groups} == {b"memory": 5, b"policy": 12}
        assert await kept(log) == list(range(9, 21))


async def test_nothing_is_left_of_records_that_are_gone(server: RedisServer) -> None:
    async with opened(server, "gone", retention=0.0) as log, connected(server, "gone") as redis:
        for n in range(50):
            user_id = "ann" if n % 2 else "bob"
            await log.append(make_impression(f"q{n}", user_id=user_id))
            await log.accept([(make_interaction(f"e{n}", query_id=f"q{n}", user_id=user_id), "d")])
        await log.forget("ann", 1002.0)
        await log.append(Tick(3000.0))
        await log.consumed("memory", 1000)
        names: Any = await redis.read(lambda c: c.keys(redis.key("*").replace("{", "[{]").replace("}", "[}]")))
        # Duplicates are known for longer; these keys expire.
        lasting = {name.decode() for name in names if await redis.read(lambda c, of=name: c.ttl(of)) < 0}  # type: ignore[misc]
        assert lasting == {redis.key("log"), redis.key("log", "end"), redis.key("log", "records")}
        assert len(names) == 3 + 50 + 50
        assert await redis.read(lambda c: c.hlen(redis.key("log", "records"))) == 1


async def test_reading_goes_on_at_the_first_record_that_is_kept_while_records_go(server: RedisServer) -> None:
    async with opened(server, "race", retention=0.0) as log, opened(server, "race", retention=0.0) as other:
        for n in range(1, 1501):
            await log.append(Tick(float(n)))
        done = asyncio.Event()

        async def look() -> None:
            while not done.is_set():
                offsets = await kept(log)
                assert offsets == list(range(offsets[0], 1501))

        looking = asyncio.create_task(look())
        for offset in range(30, 1501, 30):
            await other.consumed("memory", offset)
        done.set()
        await looking
        assert await kept(log) == [1500]


# --- forgetting and damage ---


async def test_nothing_of_a_forgotten_person_stays_in_the_files_once_they_are_rewritten() -> None:
    secret = "kleptomania"
    with RedisServer(rdbcompression="no") as server:
        async with opened(server, "ltrr") as log, connected(server) as redis:
            texts = {"text": secret, "normalized": secret, "memory_key": secret, "understanding": {"tokens": [secret]}}
            for n in range(300):
                await log.append(make_impression(f"q{n}", user_id="ann-otto", **texts))
                await log.append(make_impression(f"r{n}", user_id="bob"))
            assert await log.forget("ann-otto", 2000.0) == 300
            (_, last) = (await log.read(0, 1000))[-1]
            assert last == Forget("ann-otto", 2000.0)
            assert secret not in repr(await log.read(0, 1000))
            await redis.write(lambda c: c.bgrewriteaof())
            while (await redis.read(lambda c: c.info("persistence")))["aof_rewrite_in_progress"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        files = b"".join(file.read_bytes() for file in server.folder.rglob("*") if file.is_file())
        assert b"bob" in files
        assert secret.encode() not in files
        assert files.count(b"ann-otto") == 1  # The Forget itself.


async def test_what_a_person_does_while_being_forgotten_is_blanked_too(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server, "meanwhile") as log, opened(server, "meanwhile") as other:
        await log.append(make_impression())
        blank, more = log._blank, iter(("q2", "q3"))

        async def then_more(user_id: str, pseudonym: str) -> int:
            count = await blank(user_id, pseudonym)
            for query_id in more:
                await other.append(make_impression(query_id))
                break
            return count

        monkeypatch.setattr(log, "_blank", then_more)
        assert await log.forget("ann", 2000.0) == 3
        records = [record for _, record in await log.read(0, 10)]
        assert "ann" not in repr(records[:3])
        assert records[3:] == [Forget("ann", 2000.0)]


async def test_a_record_that_is_dropped_while_its_person_is_forgotten_does_not_come_back(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server, "dropped", retention=0.0) as log, opened(server, "dropped", retention=0.0) as other:
        await log.append(make_impression())
        await log.append(Tick(1500.0))
        run = log._run

        async def after_dropping(name: str, arguments: Any) -> Any:
            if name == "log_blank":
                await other.consumed("memory", 2)
            return await run(name, arguments)

        monkeypatch.setattr(log, "_run", after_dropping)
        assert await log.forget("ann", 2000.0) == 0
        assert [record for _, record in await log.read(0, 10)] == [Tick(1500.0), Forget("ann", 2000.0)]
        async with connected(server, "dropped") as redis:
            assert await redis.read(lambda c: c.hlen(redis.key("log", "records"))) == 2


async def test_another_process_believes_its_memory_of_an_answer_for_a_minute_at_most(server: RedisServer) -> None:
    now = 0.0
    async with opened(server, "minute") as log, opened(server, "minute") as other:
        log._recent = RecentImpressions(256, RECENT_SECONDS, lambda: now)
        await log.append(make_impression())
        await other.forget("ann", 2000.0)
        now = 61.0
        found = await log.impression("q1", soon())
        assert found is not None
        assert found.user_id is None


async def test_a_damaged_or_lost_record_is_named_and_can_be_read_past(server: RedisServer) -> None:
    async with opened(server, "damaged", recent=0) as log, connected(server, "damaged") as redis:
        for n in range(1, 5):
            await log.append(make_impression(f"q{n}"))
        records = redis.key("log", "records")
        body: Any = await redis.read(lambda c: c.hget(records, "2"))
        await redis.write(lambda c: c.hset(records, "2", body[:100]))
        await redis.write(lambda c: c.hdel(records, "3"))
        assert await kept(log) == [1]
        for offset in (2, 3):
            with pytest.raises(RecordDamaged) as caught:
                await log.read(offset - 1, 10)
            assert caught.value.offset == offset
        assert [offset for offset, _ in await log.read(3, 10)] == [4]
        for query_id in ("q2", "q3"):
            with pytest.raises(RecordDamaged):
                await log.impression(query_id, soon())
        assert await log.forget("ann", 2000.0) == 4


async def test_event_ids_expire_after_they_need_not_be_remembered(server: RedisServer) -> None:
    async with opened(server, "expiry") as log, connected(server, "expiry") as redis:
        await log.accept([(make_interaction(), "d")])
        for key in (redis.key("log", "event", "e1"), redis.key("log", "counted", "q1")):
            left = await redis.read(lambda c, of=key: c.ttl(of))  # type: ignore[misc]
            assert 24.9 * 3600 < left <= 25 * 3600


async def test_dead_letters_are_bounded(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.backends.redis.log.MAX_DEAD_LETTERS", 3)
    async with opened(server, "dead") as log:
        for offset in range(1, 6):
            await log.dead_letter(offset, "ValueError")
        assert [offset for offset, _ in await log.dead_letters(10)] == [5, 4, 3]
        await log.dead_letter(1, "ValueError")
        assert [offset for offset, _ in await log.dead_letters(10)] == [1, 5, 4]


async def test_awkward_ids_are_only_ever_values(server: RedisServer) -> None:
    awkward = "a:b {x} \r\n\x00*]'\"é"
    async with opened(server, "awkward", recent=0) as log:
        await log.append(make_impression(awkward, user_id=awkward))
        events = [
            make_interaction(awkward, query_id=awkward, object_id="1:a", action_name="b"),
            make_interaction("2", query_id=awkward, object_id="1:", action_name="ab"),
            make_interaction("3", query_id=awkward, object_id=awkward, user_id=awkward),
        ]
        assert await log.accept([(event, "d") for event in events]) == ["accepted"] * 3
        assert await log.interactions(awkward, soon()) == events
        assert await log.impression(awkward, soon()) == make_impression(awkward, user_id=awkward)
        assert await log.forget(awkward, 2000.0) == 2


# --- a person whom another process forgot ---

PERSON: dict[str, Any] = {
    "user_id": "ann-otto",
    "session_id": "sitting-of-hers",
    "client_id": "phone-of-hers",
    "text": "kleptomania",
    "normalized": "kleptomania",
    "memory_key": "kleptomania",
    "understanding": {"tokens": ["kleptomania"]},
}
TRACES = (b"ann-otto", b"sitting-of-hers", b"phone-of-hers", b"kleptomania")
HERS = {name: PERSON[name] for name in ("user_id", "session_id", "client_id")}


async def traces(redis: Redis) -> list[tuple[str, bytes]]:
    """Remaining data of the user on the server, apart from the records of whom to forget: (key, value)."""

    async def dump(c: Any) -> list[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        async for key in c.scan_iter(match=redis.key("*")):
            match await c.type(key):
                case b"string":
                    values = [await c.get(key)]
                case b"hash":
                    values = [part for pair in (await c.hgetall(key)).items() for part in pair]
                case b"set":
                    values = list(await c.smembers(key))
                case b"zset":
                    values = await c.zrange(key, 0, -1)
                case b"list":
                    values = await c.lrange(key, 0, -1)
                case b"stream":
                    values = [part for _, fields in await c.xrange(key) for pair in fields.items() for part in pair]
                case other:
                    raise AssertionError(other)
            kept = [v for v in values if not (key.endswith(b":records") and len(v) > 6 and v[1] == FORGET)]
            found += [(key.decode(), value) for value in (key, *kept)]
        return found

    everything = await redis.read(dump)
    assert everything
    return [(key, value) for key, value in everything if any(trace in value for trace in TRACES)]


class Trips(Redis):
    """Counts the calls to the server."""

    count = 0

    async def read(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        return await super().read(*arguments, **options)

    async def write(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        return await super().write(*arguments, **options)


@asynccontextmanager
async def two(server: RedisServer, namespace: str) -> AsyncIterator[tuple[RedisLog, RedisLog, Trips]]:
    """The log in a process that forgets, the log in another, and the connection of the other."""
    connection = Trips(server.url, namespace)
    async with opened(server, namespace) as forgetting:
        yield forgetting, RedisLog(connection), connection
        await connection.close()


async def test_ordinary_writes_make_one_trip_each(server: RedisServer) -> None:
    async with two(server, "trips") as (forgetting, log, connection):
        for before in (0, 1):  # Also after somebody was forgotten.
            connection.count = 0
            await log.append(make_impression(f"q{before}", **PERSON))
            page = make_impression(f"page{before}", root_id=f"q{before}", **PERSON)
            await log.append(page)
            assert await log.impression(f"q{before}", soon()) is not None
            events = [
                make_interaction(f"e{before}-{n}", query_id=f"q{before}", object_id=str(n), **HERS) for n in range(20)
            ]
            assert await log.accept([(event, "d") for event in events]) == ["accepted"] * 20
            assert connection.count == 3
            if not before:
                await forgetting.forget("bob", 2000.0)
                await forgetting.append(make_impression("q-bob", user_id="bob"))
                await forgetting.forget("bob", 2001.0)
        assert (await log.impression("q1", soon())) == make_impression("q1", at=2001.0, **PERSON)
        assert {event.user_id for event in await log.interactions("q1", soon())} == {"ann-otto"}


async def test_feedback_on_an_answer_that_another_process_still_remembers_brings_nobody_back(
    server: RedisServer,
) -> None:
    signer = Signer([("k1", b"a secret of fair length")], 3600.0)
    hers, again, his = (signer.issue(1000.0) for _ in range(3))
    async with two(server, "click") as (forgetting, log, connection):
        feedback = FeedbackService(log, signer, 3600.0, 3600.0, clock=lambda: 1005.0)
        for query_id in (hers, again):
            await log.append(make_impression(query_id, **PERSON))
        await log.append(make_impression(his, user_id="bob"))
        page = signer.issue(1000.0)
        await log.append(make_impression(page, root_id=hers, offset=10, shown=("11",), **PERSON))
        assert await forgetting.forget("ann-otto", 1004.0) == 3
        remembered = await log.impression(hers, soon())
        assert remembered is not None
        assert remembered.user_id == "ann-otto", "or this test shows nothing"

        def event(event_id: str, query_id: str, object_id: str = "2", **fields: str) -> dict[str, str]:
            return {
                "event_id": event_id,
                "query_id": query_id,
                "object_id": object_id,
                "action_name": "click",
                **fields,
            }

        events = [
            event("e1", hers),
            event("e2", his),
            event("e3", again, user_id="ann-otto"),
            event("e4", page, "11"),
            event("e5", hers, "1"),
            event("e6", hers, "404"),
            event("e1", hers),
        ]
        connection.count = 0
        results = await feedback.record(events, admin=False)
        assert connection.count == 2
        expected = [*["accepted"] * 5, "not_shown", "duplicate"]
        assert [result.status for result in results] == expected
        assert await traces(connection) == []
        # It counts all the same, as that of the one whom nobody knows any more.
        first = await log.impression(hers, soon())
        assert first is not None
        stored = [r for _, r in await log.read(5, 100) if isinstance(r, Interaction)]
        assert [(r.event_id, r.user_id, r.session_id, r.position) for r in stored] == [
            ("e1", None, None, 2),
            ("e2", "bob", "s1", 2),
            ("e3", None, None, 2),
            ("e4", None, None, 11),
            ("e5", None, None, 1),
        ]
        assert {r.client_id for r in stored if r.user_id is None} == {first.client_id}
        connection.count = 0
        assert [r.status for r in await feedback.record(events[:5], admin=False)] == ["duplicate"] * 5
        assert await forgetting.forget("ann-otto", 1006.0) == 0


async def test_feedback_that_was_judged_before_the_process_heard_brings_nobody_back(server: RedisServer) -> None:
    """One request hears that somebody was forgotten while another, judged by the old answer, is still under way."""
    async with two(server, "judged") as (forgetting, log, connection):
        await log.append(make_impression(**PERSON))
        judged = make_interaction(**HERS)
        late = make_interaction("e2", object_id="2", status="late", **HERS)
        await forgetting.forget("ann-otto", 2000.0)
        await log.append(Tick(2001.0))
        assert await log.accept([(judged, "d"), (late, "d")]) == ["accepted", "late"]
        assert await log.append(make_interaction("e3", **HERS)) == 6
        assert await traces(connection) == []


async def test_pages_of_an_answer_that_another_process_still_remembers_bring_nobody_back(server: RedisServer) -> None:
    async with two(server, "pages") as (forgetting, log, connection):
        await log.append(make_impression(**PERSON))
        await forgetting.forget("ann-otto", 2000.0)
        root = await log.impression("q1", soon())
        assert root is not None
        assert root.user_id == "ann-otto", "or this test shows nothing"
        anonymous: dict[str, Any] = {"user_id": None, "session_id": None, "client_id": None}
        for name, changes in (("q1:tail", {}), ("page", anonymous)):
            await log.append(replace(root, query_id=name, ranking=("8", "9"), scores=(), rows=(), **changes))
        assert await traces(connection) == []
        blanked = await forgetting.impression("q1", soon())
        for name in ("q1:tail", "page"):
            kept = await log.impression(name, soon())
            assert kept is not None
            assert blanked is not None
            assert (kept.ranking, kept.text, kept.signature) == (("8", "9"), "", "")
            assert kept.client_id == blanked.client_id
            assert await forgetting.impression(name, soon()) == kept


async def test_nobody_comes_back_while_many_are_forgotten_and_click(server: RedisServer) -> None:
    async with two(server, "crowd") as (forgetting, log, connection):
        people = [PERSON | {"user_id": f"ann-otto-{n}"} for n in range(8)]
        for n, person in enumerate(people):
            for answer in range(4):
                await log.append(make_impression(f"q{n}-{answer}", **person))
        gone = asyncio.Event()

        async def click(n: int) -> None:
            turn, last = 0, False
            while not last:
                last = gone.is_set()
                query_id = f"q{n}-{turn % 4}"
                # Who it was is known from before, as in a request that is slow.
                found = make_impression(query_id, **people[n])
                who = {name: people[n][name] for name in HERS}
                events = [
                    make_interaction(f"{query_id}-{turn}-{o}", query_id=query_id, object_id=f"{turn}-{o}", **who)
                    for o in range(3)
                ]
                assert await log.accept([(event, "d") for event in events]) == ["accepted"] * 3
                await log.append(replace(found, query_id=f"{query_id}:{turn}", rows=()))
                turn += 1

        async def forget() -> None:
            await asyncio.gather(*(forgetting.forget(p["user_id"], 2000.0) for p in people for _ in range(2)))
            gone.set()

        async with asyncio.timeout(20):  # Without end where every click brings somebody back.
            await asyncio.gather(forget(), *(click(n) for n in range(len(people))))
        assert await traces(connection) == []
        records = [record for _, record in await log.read(0, 10_000)]
        assert sum(isinstance(record, Interaction) for record in records) >= 8 * 2 * 3


async def test_a_process_that_hears_of_somebody_forgotten_remembers_no_older_answer(server: RedisServer) -> None:
    async with two(server, "heard") as (forgetting, log, connection):
        await log.append(make_impression("q1", **PERSON))
        await log.append(make_impression("q2", user_id="bob"))
        await forgetting.forget("ann-otto", 2000.0)
        await log.append(make_impression("q3", user_id="bob"))
        connection.count = 0
        assert await log.impression("q3", soon()) is not None
        assert connection.count == 0
        found = await log.impression("q1", soon())
        assert found is not None
        assert found.user_id is None
        assert connection.count == 1


async def test_an_answer_that_is_forgotten_before_its_append_was_heard_of_is_not_remembered(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server, "unheard") as log:
        run = log._run

        async def forgotten_meanwhile(name: str, arguments: Any) -> Any:
            result = await run(name, arguments)
            monkeypatch.setattr(log, "_run", run)
            await log.forget("ann-otto", 2000.0)
            return result

        monkeypatch.setattr(log, "_run", forgotten_meanwhile)
        await log.append(make_impression(**PERSON))
        found = await log.impression("q1", soon())
        assert found is not None
        assert found.user_id is None

"""Backups: what is put back is what was there, from files or Redis into files or Redis; damage changes nothing."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.operations import backups
from app.settings import Settings
from app.system.learner import new_learner
from app.system.ownership import owned
from app.system.restore_marker import refuse_folder, refuse_redis
from app.system.stores import Stores, open_stores
from services.backends.base import Counted, Known, MemoryChange, MemoryRow, Tick
from services.backends.log_codec import decode
from services.backends.redis.locks import Lease
from services.backends.redis.memory import RedisMemory
from services.backends.redis.server import Redis
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.memory import SqliteMemory
from services.backup.archive import FORMAT_MEMBER, Archive, ArchiveWriter, BackupInvalid
from services.backup.contents import CONSUMERS, KNOWN, LOG, SETTINGS, Parts, decode_entries, decode_known, lines
from services.backup.saving import save
from services.errors import StorageFailed
from services.models.folder_files import FolderFiles
from services.types import Deadline, Interaction
from tests.builders.catalogue import TRACKS
from tests.builders.records import make_impression, make_interaction
from tests.commands import ROOT, done, environment, eventually, failed
from tests.servers.redis import RedisServer
from tests.service import Service, running, with_tracks

T = TypeVar("T")

KEYS = "k1:" + "0123456789abcdef" * 4
LATER = time.time() + 7200.0
"""Time at which every reward window of these tests has closed."""
QUERIES = ("river", "winter lantern", "garden song", "mira holt folk")
PEOPLE = ("ann", "bob", "cleo")
FORGOTTEN = "dora"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running_server:
        yield running_server


@dataclass
class Place:
    """Stores of one kind: a data folder, or Redis beside one."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Settings:
        return Settings.load({}, data_dir=self.folder, **self.settings)

    def done(self, *arguments: str | Path) -> str:
        return done(self.folder, *arguments, **self.settings)

    def failed(self, code: int, *arguments: str | Path) -> str:
        return failed(code, self.folder, *arguments, **self.settings)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Stores]:
        """Do something with the stores, which nobody serves at the moment."""
        async with open_stores(self.load()) as stores:
            yield stores

    async def run(self, work: Callable[[Stores], Awaitable[T]]) -> T:
        """Run `work` with the open stores; returns its result."""
        async with self.use() as stores:
            return await work(stores)


Make = Callable[[Path], Place]


def in_folder(folder: Path) -> Place:
    return Place(folder)


@pytest.fixture
def in_redis(server: RedisServer) -> Make:
    def make(folder: Path) -> Place:
        namespace = f"n{zlib.crc32(str(folder).encode())}"
        return Place(folder, {"redis_url": server.url, "signing_keys": KEYS, "namespace": namespace})

    return make


@dataclass
class Past:
    """A service that has seen something, and what it said."""

    place: Place
    answers: list[dict[str, Any]]
    event: dict[str, Any]
    file: Path
    before: dict[str, Any]
    """The contents at the time of the backup."""


async def live(place: Place) -> list[dict[str, Any]]:
    """Searches, clicks, a learner that is behind, a person who is forgotten, models of two kinds, a switch; the
    answers."""
    answers = []
    with with_tracks(place.folder, **place.settings) as service:
        for number in range(24):
            who = (*PEOPLE, FORGOTTEN)[number % 4]
            answer = service.search(QUERIES[number % len(QUERIES)], user_id=who, session_id=f"s-{who}")
            answers.append(answer)
            if number % 3:
                assert service.feedback(event_on(answer, place=number % 4)) == ["accepted"]
            if number == 12 and not place.settings:
                service.run(service.system.learner.catch_up())
                service.run(service.system.learner.publish())
        play = {"event_id": "play-1", "user_id": "ann", "object_id": "t005", "action_name": "play"}
        assert service.feedback(play) == ["accepted"]
    if place.settings:
        async with place.use() as stores:
            await stores.log.forget(FORGOTTEN, time.time())
        await learned(place)
    with running(place.folder, **place.settings) as service:
        assert service.request("PUT", "/v1/policy", json={"mode": "static"}).status_code == 200
        if not place.settings:
            assert service.request("DELETE", f"/v1/users/{FORGOTTEN}").status_code == 200
        store = service.system.store
        first = store.publish("notes", {"text": b"first" * 1000}, {"by": "hand"})
        store.promote("notes", first, "to begin with")
        second = store.publish("notes", {"text": b"\x00second", "more": b""}, {})
        store.promote("notes", second, "better")
        store.rollback("notes", "not better")
        answers.append(service.search(QUERIES[0], user_id="ann"))
    return answers


def event_on(answer: dict[str, Any], place: int = 0, action: str = "click") -> dict[str, Any]:
    return {
        "event_id": f"{answer['query_id'][-40:]}-{action}",
        "query_id": answer["query_id"],
        "object_id": answer["hits"][place]["object_id"],
        "action_name": action,
    }


async def learned(place: Place, until: float | None = None) -> tuple[int, bytes]:
    """Let the learner take in what is there, at the time `until` if given; how many decisions it has learned then, and
    the bytes of the policy."""
    async with place.use() as stores:
        learner = new_learner(place.load(), stores)
        await learner.restore()
        if until is not None:
            await stores.log.append(Tick(until))
        await learner.catch_up()
        await learner.publish()
        stored = stores.models.current("policy")
        assert stored is not None
        return stored.meta["learned"], b"".join(stored.files[name] for name in sorted(stored.files))


async def contents(place: Place, derived: bool = True) -> dict[str, Any]:
    """All that has to be the same after a restore."""
    soon = Deadline.after(60.0)
    async with place.use() as stores:
        end, at = await stores.log.end()
        popular = await stores.memory.popular_queries("", 100, soon)
        portions: list[Any] = []
        await stores.log.known(portions.extend)
        kinds = stores.models.kinds()
        return {
            "items": [document async for document in stores.items.scan()],
            "schema": await stores.items.schema(),
            "end": (end, at),
            "entries": await stores.log.entries(0, end),
            "known": {(one.event_id, one.digest) for one in portions if isinstance(one, Known)},
            "counted": {(c.query_id, c.object_id, c.action_name) for c in portions if not isinstance(c, Known)},
            "buried": await stores.log.dead_letters(100),
            "memory": await stores.memory.offset(),
            "popular": popular,
            "people": [await stores.memory.person(f"u:{person}", 100, soon) for person in (*PEOPLE, FORGOTTEN)],
            "rows": sorted([values_of(row) async for rows in stores.memory.rows() for row in rows], key=repr),
            "mode": await stores.state.get("policy_mode"),
            "versions": {kind: stores.models.versions(kind) for kind in kinds},
            "models": {kind: stores.models.current(kind) for kind in kinds},
        }


def values_of(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without the numbers that Redis does not keep: those of the entries of histories."""
    return (row[0], row[1], *row[3:]) if row[0] == "history" else row


async def made(make: Make, folder: Path) -> Past:
    place = make(folder / "one")
    answers = await live(place)
    file = folder / "backup.tar"
    place.done("backup", file, "--with-keys")
    return Past(place, answers, event_on(answers[1], place=1), file, await contents(place))


@pytest.fixture(scope="module")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> Past:
    return await made(in_folder, tmp_path_factory.mktemp("embedded"))


async def check_round(past: Past, other: Place) -> None:
    """Restore into `other`, and it is the same service that goes on in the same way."""
    if not past.place.settings and other.settings:  # people move, and keep their keys
        other.settings["signing_keys"] = (past.place.folder / "signing_keys").read_text().strip()
    other.done("restore", past.file)
    before = past.before
    assert await contents(other) == before
    assert before["entries"]
    assert before["counted"]
    assert before["people"][0].recent
    assert not before["people"][3].recent
    assert {"notes", "policy"} <= set(before["models"])

    with running(other.folder, **other.settings) as service:
        with running(past.place.folder, **past.place.settings) as original:
            for query in QUERIES:
                assert hits(service, query) == hits(original, query)
        assert service.request("GET", "/v1/policy").json()["mode"] == "static"
        explained = service.request("GET", f"/v1/explain/{past.answers[1]['query_id']}")
        assert explained.status_code == 200
        assert service.feedback(past.event) == ["duplicate"]
        assert service.feedback(past.event | {"event_id": "another"}) == ["duplicate"]
        assert service.feedback(event_on(past.answers[-1], action="like")) == ["accepted"]


def hits(service: Service, query: str) -> list[str]:
    return [hit["object_id"] for hit in service.search(query, user_id="ann", learn=False)["hits"]]


class TestRound:
    async def test_from_files_into_files(self, embedded: Past, tmp_path: Path) -> None:
        await check_round(embedded, in_folder(tmp_path / "other"))

    async def test_from_files_into_redis(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        await check_round(embedded, in_redis(tmp_path / "other"))

    async def test_from_redis_into_redis_and_into_files(self, in_redis: Make, tmp_path: Path) -> None:
        past = await made(in_redis, tmp_path)
        await check_round(past, in_redis(tmp_path / "other"))
        await check_round(past, Place(tmp_path / "files", {"signing_keys": KEYS}))

    def test_replay_says_the_same(self, embedded: Past, tmp_path: Path) -> None:
        # Of the file alone, since the service has gone on.
        one, other = in_folder(tmp_path / "one"), in_folder(tmp_path / "other")
        for place in (one, other):
            place.done("restore", embedded.file)
        again = tmp_path / "again.tar"
        one.done("backup", again)
        other.done("restore", again, "--force")
        report = json.loads(one.done("replay", "--json"))
        assert report == json.loads(other.done("replay", "--json"))
        assert report["checked"] > 20
        assert report["recomputed"] > 0
        assert not report["mismatches"]

    async def test_the_learner_goes_on_to_the_same_bytes(self, tmp_path: Path, in_redis: Make) -> None:
        """A backup from a snapshot in the middle, with open windows and a memory that is ahead of the policy."""
        place, others = in_folder(tmp_path / "one"), [in_folder(tmp_path / "other"), in_redis(tmp_path / "redis")]
        await live(place)
        place.done("backup", tmp_path / "file", "--with-keys")
        for other in others:
            other.done("restore", tmp_path / "file")
        results = {await learned(where, LATER) for where in (place, *others)}
        assert len(results) == 1
        assert results.pop()[0] > 20
        rows = [(await contents(where))["rows"] for where in (place, *others)]
        assert rows[0] == rows[1] == rows[2]

    async def test_whatever_is_in_a_log_arrives(self, tmp_path: Path, in_redis: Make) -> None:
        """Without its beginning, with clocks that went back, blanked, damaged and buried records, and the places of
        consumers, also of programs that are not ours; from Redis into files and from there back into Redis."""
        one, files, other = in_redis(tmp_path / "one"), in_folder(tmp_path / "files"), in_redis(tmp_path / "other")
        for place in (one, files, other):
            place.settings |= {"retention_days": 1.0}

        async def fill(stores: Stores) -> None:
            log, day = stores.log, 86400.0
            for number in range(1, 9):
                await log.append(make_impression(f"q{number}", at=number * day, user_id="ann" if number % 2 else "bob"))
            await log.append(Tick(1.0))
            await log.accept([(make_interaction("e1", query_id="q8", user_id="ann", object_id=None), "d1")])
            await stores.memory.apply([], 6)
            for consumer in ("memory", "policy"):
                await log.consumed(consumer, 6)
            await log.forget("ann", 8 * day)
            await log.dead_letter(3, "ValueError")
            await log.dead_letter(8, "RecordDamaged")
            redis = stores.redis
            assert redis is not None
            await redis.write(lambda c: c.hset(redis.key("log", "records"), "8", b"\x00broken"))
            await redis.write(lambda c: c.xgroup_create(redis.key("log"), "mirror", "7-0"))

        async def told(stores: Stores) -> list[Any]:
            end, at = await stores.log.end()
            records: list[Any] = [await stores.log.read(0, 10), await stores.log.read(8, 10)]
            again = await stores.log.accept([(make_interaction("e1"), "d1"), (make_interaction("e1"), "d2")])
            found = await stores.log.interactions("q8", Deadline.after(60.0))
            return [end, at, await stores.log.entries(0, end), records, again, found, await stores.log.dead_letters(9)]

        async def consumers(stores: Stores) -> dict[str, int]:
            return await stores.log.consumers()

        await one.run(fill)
        one.done("backup", tmp_path / "1.tar")
        files.done("restore", tmp_path / "1.tar")
        files.done("backup", tmp_path / "2.tar")
        other.done("restore", tmp_path / "2.tar")
        expected = await one.run(told)
        assert [entry.offset for entry in expected[2]] == [7, 8, 9, 10, 11]
        assert [record.at for _, record in expected[3][1]] == [8 * 86400.0] * 3
        assert await files.run(told) == await other.run(told) == expected
        assert await files.run(consumers) == await other.run(consumers) == {"memory": 6, "policy": 6}
        assert await one.run(consumers) == {"memory": 6, "policy": 6, "mirror": 7}

    async def test_what_the_log_has_lost_before_is_said(self, tmp_path: Path) -> None:
        place = in_folder(tmp_path / "one")
        async with place.use() as stores:
            for number in range(1, 6):
                await stores.log.append(Tick(number * 40 * 86400.0))
            await stores.log.consumed("policy", 5)
        assert "memory stands at record 0, but the log begins at 5" in place.done("backup", tmp_path / "1.tar")
        other = in_folder(tmp_path / "other")
        assert "memory stands at record 0" in other.done("restore", tmp_path / "1.tar")

    async def test_nothing_is_saved_that_is_ahead_of_the_log(self, tmp_path: Path) -> None:
        """A learner that goes on while the log is copied; it would find that this is not its log."""
        place, file = in_folder(tmp_path / "one"), tmp_path / "1.tar"

        async def make(stores: Stores) -> None:
            class Busy(SqliteLog):
                async def known(self, take: Callable[[Sequence[Known | Counted]], None]) -> int:
                    end = await super().known(take)
                    await self.append(Tick(2.0))
                    await stores.memory.apply([], end + 1)
                    stores.models.publish("policy", {"policy.bin": b"ahead"}, {}, "ahead")
                    await self.consumed("policy", end + 1)
                    return end

            await stores.log.append(Tick(1.0))
            await stores.log.consumed("policy", 1)
            await stores.items.put(TRACKS)
            log, files = Busy(place.folder / "log.sqlite3"), FolderFiles(place.folder / "models")
            parts = Parts(log, stores.items, stores.memory, stores.state, files, shared=False)
            with ArchiveWriter(file, "1.0", 1.0) as archive:
                archive.finish(await save(parts, archive, {}, None, {}, lambda *_: None))
            await log.close()

        async with place.use() as stores:
            await make(stores)
        with Archive(file) as archive:
            archive.check(lambda _: None)
            assert (archive.manifest["log"]["last"], archive.manifest["memory"]["offset"]) == (1, 0)
            assert not [name for name in archive.names() if "ahead" in name]
            assert json.loads(archive.read(CONSUMERS)) == {"policy": 1}

    async def test_items_that_go_while_it_is_made_are_forgotten(self, tmp_path: Path) -> None:
        """Between the copy of the memory and that of the items."""
        place, file = in_folder(tmp_path / "one"), tmp_path / "1.tar"
        changes = [MemoryChange(action=("river", item, "u:ann", 1.0), at=1.0) for item in ("t000", "t010")]

        async def remembered(stores: Stores) -> list[str]:
            return [one.object_id for one in await stores.memory.remembered("river", 9, Deadline.after(60.0))]

        async with place.use() as stores:

            class Slow(SqliteMemory):
                async def rows(self) -> AsyncGenerator[list[MemoryRow], None]:
                    async for rows in super().rows():
                        yield rows
                    await stores.items.delete(["t000"])

            await stores.items.put(TRACKS)
            await stores.memory.apply(changes, 1)
            await stores.log.append(Tick(1.0))
            memory = Slow(place.folder / "memory.sqlite3", 86400.0)
            files = FolderFiles(place.folder / "models")
            parts = Parts(stores.log, stores.items, memory, stores.state, files, shared=False)
            with ArchiveWriter(file, "1.0", 1.0) as archive:
                told = {"source": {}, "keys": {"where": "settings", "included": False, "fingerprint": None}}
                archive.finish(await save(parts, archive, {}, None, told, lambda *_: None))
            await memory.close()
        other = in_folder(tmp_path / "other")
        other.done("restore", file)
        assert await other.run(remembered) == ["t010"]


# --- beside a service at work ---


@contextmanager
def clicking(service: Service) -> Iterator[list[dict[str, Any]]]:
    """People search and click as fast as they can; the events that were acknowledged, growing."""
    acknowledged: list[dict[str, Any]] = []
    stop = threading.Event()

    def person(name: str) -> None:
        while not stop.is_set():
            answer = service.search(random.choice(QUERIES), user_id=name)
            events = [event_on(answer, place, action) for place, action in ((0, "click"), (1, "play"))]
            assert service.feedback(*events) == ["accepted"] * 2
            acknowledged.extend(events)

    threads = [threading.Thread(target=person, args=(name,)) for name in PEOPLE]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def check_under_load(place: Place, other: Place, folder: Path) -> None:
    with with_tracks(place.folder, **place.settings) as service, clicking(service) as acknowledged:
        for number in range(3):
            have = len(acknowledged)
            eventually(lambda have=have: len(acknowledged) >= have + 20 or None)  # type: ignore[misc]
            sure = list(acknowledged)
            place.done("backup", folder / f"{number}.tar")
            assert len(acknowledged) > len(sure)
    for number in range(3):
        with Archive(folder / f"{number}.tar") as archive:
            archive.check(lambda _: None)
            records = list(decode_entries(archive.open(LOG)))
            ids = [r.event_id for r in (decode(e.body) for e in records) if isinstance(r, Interaction)]
            assert [entry.offset for entry in records] == list(range(1, len(records) + 1))
            assert len(ids) == len(set(ids))
            assert archive.manifest["memory"]["offset"] <= len(records)
            remembered = [
                one.event_id for one in map(decode_known, lines(archive.open(KNOWN))) if isinstance(one, Known)
            ]
            assert set(remembered) == set(ids)
    assert {event["event_id"] for event in sure} <= set(ids)
    assert len(ids) < len(acknowledged)

    keys = place.settings.get("signing_keys") or (place.folder / "signing_keys").read_text().strip()
    other.settings["signing_keys"] = keys
    other.done("restore", folder / "2.tar")
    with running(other.folder, **other.settings) as service:
        for at in range(0, len(acknowledged), 500):
            again = service.feedback(*acknowledged[at : at + 500])
            expected = ["duplicate" if e["event_id"] in set(ids) else None for e in acknowledged[at : at + 500]]
            for status, wanted in zip(again, expected, strict=True):
                # What came after the backup is not there, nor the answers that it was about in part.
                assert status == wanted if wanted else status in ("accepted", "unknown_query", "not_shown", "late")


class TestBesideAService:
    def test_files(self, tmp_path: Path) -> None:
        check_under_load(in_folder(tmp_path / "one"), in_folder(tmp_path / "other"), tmp_path)

    def test_redis(self, tmp_path: Path, in_redis: Make) -> None:
        check_under_load(in_redis(tmp_path / "one"), in_redis(tmp_path / "other"), tmp_path)

    async def test_the_learner_waits_while_the_memory_in_redis_is_copied(self, server: RedisServer) -> None:
        """Only the learner waits; when the copy is interrupted, or its process has died, it continues."""
        redis = Redis(server.url, "held")
        memory, learners = RedisMemory(redis, 86400.0), RedisMemory(redis, 86400.0)
        changes = [MemoryChange(shown=(f"k{n}", f"k{n}"), at=float(n)) for n in range(120)]
        await learners.apply(changes, 1)
        rows = memory.rows()
        assert await anext(rows)
        with pytest.raises(StorageFailed, match="copied"):
            await learners.apply(changes, 2)
        with pytest.raises(StorageFailed, match="another backup"):
            await anext(RedisMemory(redis, 86400.0).rows())
        await learners.predict({"1": [("river", 0.5)]})
        await learners.forget_items(["1"])
        assert [row async for found in rows for row in found][-1] == ("state", 1, 120, 119.0)
        await learners.apply(changes, 2)
        rows = memory.rows()
        await anext(rows)
        await rows.aclose()
        await learners.apply(changes, 3)

        rows = memory.rows()
        await anext(rows)
        await redis.write(lambda c: c.delete(redis.key("lock", "memory")))  # as if it had expired
        await learners.apply(changes, 4)
        with pytest.raises(StorageFailed, match="changed while it was copied"):
            async for _ in rows:
                pass
        await redis.close()


# --- the file ---


class TestFile:
    def test_is_for_its_owner_alone_and_tells_no_secret(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        assert embedded.file.stat().st_mode & 0o777 == 0o600
        place = in_redis(tmp_path / "one")
        place.settings["admin_key"] = "letmein-letmein"
        with with_tracks(place.folder, **place.settings):
            place.done("backup", tmp_path)
        (file,) = tmp_path.glob("ltrr-*.tar")
        data = file.read_bytes()
        assert b"letmein" not in data
        assert KEYS.encode() not in data
        assert place.settings["redis_url"].encode() not in data
        with tarfile.open(file) as tar:  # people can look into it
            settings = json.load(tar.extractfile(SETTINGS))  # type: ignore[arg-type]
            assert settings["namespace"] == place.settings["namespace"]
            assert "signing_keys" not in tar.getnames()

    def test_what_is_cut_or_damaged_at_any_byte_is_refused(self, embedded: Past, tmp_path: Path) -> None:
        file, data = tmp_path / "small.tar", b""
        with ArchiveWriter(file, "1.0", 5.0) as writer:
            writer.add("models/" + "long/" * 40 + "name", b"abc" * 100)
            writer.add("empty", b"")
            writer.finish({"counts": {}})
        data = file.read_bytes()
        bad = tmp_path / "bad.tar"

        def refused(content: bytes) -> bool:
            bad.write_bytes(content)
            try:
                with Archive(bad) as archive:
                    archive.check(lambda _: None)
            except BackupInvalid as error:
                return "bad.tar" in str(error)
            return False

        assert not refused(data)
        for length in (*range(0, len(data), 7), len(data) - 1):
            assert refused(data[:length]), length
        assert refused(data + b"x")
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            assert refused(bytes(damaged)), place

    async def test_a_damaged_file_changes_nothing(self, embedded: Past, tmp_path: Path) -> None:
        place, bad = in_folder(tmp_path / "one"), tmp_path / "bad.tar"
        place.done("restore", embedded.file)
        before = await contents(place)
        data = bytearray(embedded.file.read_bytes())
        data[len(data) // 2] ^= 4
        for content in (bytes(data), bytes(data[: len(data) // 2]), b"", b"not a backup" * 1000):
            bad.write_bytes(content)
            assert "bad.tar" in place.failed(1, "restore", bad, "--force")
        assert await contents(place) == before

    def test_a_newer_format_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        file = tmp_path / "newer.tar"
        newer = json.dumps({"format": 2, "product": "ltrr", "version": "7.1", "created": 1.0, "extra": []}).encode()
        with tarfile.open(file, "w") as tar:
            for name, body in ((FORMAT_MEMBER, newer), ("something", b"else")):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                path = tmp_path / "part"
                path.write_bytes(body)
                with path.open("rb") as part:
                    tar.addfile(info, part)
        place = in_folder(tmp_path / "data")
        assert "restore it with LTRR 7.1 or newer" in place.failed(1, "restore", file)

    def test_a_backup_that_fails_leaves_nothing(self, embedded: Past, tmp_path: Path) -> None:
        place = in_folder(tmp_path / "none")
        assert "nothing to back up" in place.failed(1, "backup", tmp_path / "x.tar")
        assert "no folder" in place.failed(2, "backup", tmp_path / "absent" / "x.tar")
        shutil.copytree(embedded.place.folder, tmp_path / "torn")
        for name in ("log.sqlite3", "memory.sqlite3"):
            with (tmp_path / "torn" / name).open("r+b") as file:
                file.seek(8192)
                file.write(b"\xff" * 30_000)
        in_folder(tmp_path / "torn").failed(1, "backup", tmp_path / "x.tar")
        assert {path.name for path in tmp_path.iterdir()} <= {"torn", "none"}

    def test_an_existing_file_is_never_written_over(self, embedded: Past, tmp_path: Path) -> None:
        there = tmp_path / "there.tar"
        there.write_text("mine")
        assert "already exists" in embedded.place.failed(2, "backup", there)
        assert there.read_text() == "mine"

    def test_what_was_done_is_printed(self, embedded: Past, tmp_path: Path) -> None:
        told = json.loads(embedded.place.done("backup", tmp_path, "--json"))
        assert Path(told["file"]).stat().st_size == told["bytes"]
        assert told["counts"]["items"] == 120
        assert told["log"]["first"] == 1
        assert any("signing keys are not in the backup" in note for note in told["notes"])
        other = in_folder(tmp_path / "other")
        told_again = json.loads(other.done("restore", told["file"], "--json"))
        assert told_again["counts"] == told["counts"]
        assert any("take no feedback" in note for note in told_again["notes"])
        with running(other.folder) as service:
            assert service.feedback(embedded.event | {"event_id": "new"}) == ["unknown_query"]
        spoken = other.done("restore", told["file"], "--force")
        assert "120 items" in spoken
        assert "delete them again" in spoken


# --- the place ---


class TestPlace:
    async def test_only_an_empty_one_is_filled(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        for place in (in_folder(tmp_path / "files"), in_redis(tmp_path / "redis")):
            with running(place.folder, **place.settings):
                pass  # what has started and seen nothing is empty
            place.done("restore", embedded.file)
            assert "120 items" in place.failed(2, "restore", embedded.file)
            with running(place.folder, **place.settings) as service:
                service.put({"id": "new", "title": "A new one"})
            assert "121 items" in place.failed(2, "restore", embedded.file)
            place.done("restore", embedded.file, "--force")
            assert await contents(place) == embedded.before

    async def test_neighbours_in_the_same_redis_stay(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        one, other = in_redis(tmp_path / "one"), in_redis(tmp_path / "other")
        other.settings["namespace"] = one.settings["namespace"] + "2"
        for place in (one, other):
            place.done("restore", embedded.file)
        one.done("restore", embedded.file, "--force")
        assert await contents(other) == await contents(one) == embedded.before

    def test_one_that_is_in_use_is_left_alone(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        place = in_folder(tmp_path / "files")
        with owned(place.folder, "http://127.0.0.1:1"):
            assert "in use by process" in place.failed(2, "restore", embedded.file, "--force")
        assert [path.name for path in place.folder.iterdir()] == ["owner.lock"]

    async def test_beside_a_learner_nothing_is_put_into_redis(
        self, embedded: Past, in_redis: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = in_redis(tmp_path / "one")
        monkeypatch.setattr(backups, "LEASE_WAIT_SECONDS", 0.3)

        async def beside(stores: Stores) -> str:
            assert stores.redis is not None
            lease = Lease(stores.redis, "learner")
            await lease.acquire()
            try:
                return await asyncio.to_thread(place.failed, 2, "restore", embedded.file, "--force")
            finally:
                await lease.release()

        async with place.use() as stores:
            assert "a learner is running" in await beside(stores)
        async with place.use() as stores:
            assert await stores.items.count() == 0

    async def test_kill_9_on_the_way_and_once_more(self, embedded: Past, in_redis: Make, tmp_path: Path) -> None:
        """Interrupted while the new data replaces the old; in Redis, with half of it written."""
        at = {
            "files": ("app.operations.backups", "_remove"),
            "redis": ("services.backends.redis.items", "RedisItems.set_schema"),
        }
        for kind, make in (("files", in_folder), ("redis", in_redis)):
            place = make(tmp_path / kind)
            place.done("restore", embedded.file)
            child = killed(place, *at[kind], embedded.file)
            assert child.returncode == -signal.SIGKILL, child.stderr
            with pytest.raises(StorageFailed, match="broken off"):
                await look(place)
            assert "broken off" in place.failed(1, "restore", embedded.file)
            assert "broken off" in place.failed(1, "backup", tmp_path / "never.tar")
            place.done("restore", embedded.file, "--force")
            await look(place)
            assert await contents(place) == embedded.before

    async def test_kill_9_while_it_is_unpacked_leaves_what_was_there(self, embedded: Past, tmp_path: Path) -> None:
        place = in_folder(tmp_path / "files")
        place.done("restore", embedded.file)
        child = killed(place, "services.backends.sqlite.log", "SqliteLog.put_entries", embedded.file)
        assert child.returncode == -signal.SIGKILL
        assert await contents(place) == embedded.before
        with running(place.folder) as service:
            assert hits(service, QUERIES[0])
        place.done("restore", embedded.file, "--force")
        assert not list(place.folder.glob("restoring*"))


KILLED = """
import importlib, os, signal, sys
owner = importlib.import_module(sys.argv[1])
*holders, name = sys.argv[2].split(".")
for holder in holders:
    owner = getattr(owner, holder)
setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
from app.__main__ import main
main(sys.argv[3:])
"""


def killed(place: Place, module: str, function: str, file: Path) -> subprocess.CompletedProcess[str]:
    """`ltrr restore --force`, killed as soon as it calls the function."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, module, function, "restore", str(file), "--force"],
        cwd=ROOT,
        env=environment(place.folder, **place.settings),
        capture_output=True,
        text=True,
    )


async def look(place: Place) -> None:
    """Raises when a restore into the place was broken off."""
    if "redis_url" not in place.settings:
        refuse_folder(place.folder)
        return
    redis = Redis(place.settings["redis_url"], place.settings["namespace"])
    try:
        await refuse_redis(redis)
    finally:
        await redis.close()

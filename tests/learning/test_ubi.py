"""The UBI mirror: what it writes, on a real OpenSearch node, from both real event logs, whatever fails meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from app.settings import Settings
from app.system.learner_process import learning
from services import metrics
from services.backends.base import EventLog, Forget, Record, StateStore, Tick
from services.backends.opensearch.ubi import EVENTS, QUERIES, MappingUnfit, OpenSearchUbi
from services.backends.redis.log import RedisLog
from services.backends.redis.server import Redis
from services.backends.redis.state import RedisState
from services.backends.sqlite.log import SqliteLog
from services.backends.sqlite.state import SqliteState
from services.errors import StorageFailed, Unavailable
from services.learning import ubi_consumer
from services.learning.ubi_consumer import CONSUMER, PLACE, UbiConsumer
from services.learning.ubi_documents import Entry, event, impressions, logged_answer, query
from tests.builders.records import make_impression, make_interaction
from tests.commands import eventually
from tests.contracts.event_log import kept
from tests.metric_values import value_of
from tests.servers.opensearch import shared_node
from tests.servers.opensearch_stub import RESET, Answer, Stub
from tests.servers.redis import RedisServer
from tests.service import with_tracks

APP = "shop"
BLANK = replace(
    make_impression(), text="", normalized="", user_id=None, session_id=None, client_id="forgotten-1", understanding={}
)


# --- the documents (pure) ---------------------------------------------------------------------------------------------


def test_a_first_page_is_a_query_and_an_impression_of_every_item_shown() -> None:
    shown = make_impression("q1", at=1700000000.25)
    assert query(APP, shown) == (
        "q1",
        {
            "application": APP,
            "query_id": "q1",
            "client_id": "c1",
            "user_query": "Toy Story",
            "query_attributes": {
                "user_id": "ann",
                "session_id": "s1",
                "total": 4,
                "policy": "vw",
                "mode": "learned",
                "model_version": "v1",
                "ranker": "r1",
                "degraded": ["vector timeout"],
            },
            "object_id_field": "_id",
            "query_response_id": "q1",
            "query_response_hit_ids": ["1", "2", "3"],
            "timestamp": "2023-11-14T22:13:20.250Z",
        },
    )
    events = impressions(APP, shown)
    assert [key for key, _ in events] == ["q1:1", "q1:2", "q1:3"]
    assert events[1][1] == {
        "application": APP,
        "action_name": "impression",
        "query_id": "q1",
        "user_query": "Toy Story",
        "session_id": "s1",
        "client_id": "c1",
        "user_id": "ann",
        "timestamp": "2023-11-14T22:13:20.250Z",
        "message_type": "IMPRESSION",
        "event_attributes": {"object": {"object_id": "2", "object_id_field": "_id"}, "position": {"ordinal": 2}},
    }


def test_what_is_not_known_is_left_out_rather_than_null() -> None:
    stranger = make_impression("q1", user_id=None, session_id=None, client_id=None, degraded=(), offset=20, shown=())
    _, document = query(APP, stranger)
    assert document["query_response_hit_ids"] == []
    assert document["query_attributes"]["offset"] == 20
    assert not {"client_id"} & set(document)
    assert not {"user_id", "session_id", "degraded"} & set(document["query_attributes"])
    assert None not in [*document.values(), *document["query_attributes"].values()]


def test_an_event_says_what_was_done_on_what_and_where_it_stood() -> None:
    done = make_interaction("e1", action_name="purchase", object_id="2", position=2, at=1001.5, value=9.5)
    assert event(APP, done, logged_answer(make_impression())) == (
        "shop:e1",
        {
            "application": APP,
            "action_name": "purchase",
            "query_id": "q1",
            "user_query": "Toy Story",
            "session_id": "s1",
            "client_id": "c1",
            "user_id": "ann",
            "timestamp": "1970-01-01T00:16:41.500Z",
            "message_type": "CONVERSION",
            "event_attributes": {
                "object": {"object_id": "2", "object_id_field": "_id"},
                "position": {"ordinal": 2},
                "value": 9.5,
            },
        },
    )


def told(done: Any, answer: Any) -> dict[str, Any]:
    entry = event(APP, done, None if answer is None else logged_answer(answer))
    assert entry is not None
    return dict(entry[1])


def test_what_happens_on_a_later_page_belongs_to_the_search_and_names_the_page() -> None:
    page = make_impression("q2", root_id="q1", offset=10, shown=("8", "9"), ranking=(), scores=())
    (_, first), (key, second) = impressions(APP, page)
    assert key == "q2:12"
    for document in (second, told(make_interaction(query_id="q2", object_id="9", position=12), page)):
        assert document["query_id"] == "q1"
        assert document["event_attributes"]["position"] == {"ordinal": 12}
        assert document["event_attributes"]["answer_id"] == "q2"
    assert first["event_attributes"]["position"] == {"ordinal": 11}


def test_what_happens_without_a_query_counts_at_no_position() -> None:
    listing = make_impression(text="", normalized="")
    for document in (
        told(make_interaction(), listing),
        told(make_interaction(query_id=None, position=None), None),
    ):
        assert not {"query_id", "user_query"} & set(document)
        assert document["event_attributes"] == {"object": {"object_id": "1", "object_id_field": "_id"}}
    abandoned = told(make_interaction(action_name="abandon", object_id=None, position=None), make_impression())
    assert abandoned["query_id"] == "q1"
    assert "event_attributes" not in abandoned


def test_late_events_say_so() -> None:
    late = make_interaction(status="late", user_id=None, client_id=None, session_id=None, position=None)
    assert told(late, None)["message"] == "late: not learned from"
    assert told(late, None)["query_id"] == "q1"  # Its answer is older than the log.
    assert "message" not in told(make_interaction(), make_impression())


def test_the_forgotten_and_what_is_not_learned_from_are_left_out() -> None:
    assert not logged_answer(BLANK).mirrored
    assert not logged_answer(make_impression(learn=False)).mirrored
    blanked = make_interaction(user_id=None, session_id=None, client_id="forgotten-1")
    for done, answer in (
        (make_interaction(), make_impression(learn=False)),
        (blanked, BLANK),
        (make_interaction(), BLANK),  # While the log is being blanked, one of both is first,
        (blanked, make_impression()),  # and an answer may be kept at hand from before.
    ):
        assert event(APP, done, logged_answer(answer)) is None
    assert event(APP, replace(blanked, query_id=None), None) is None


def test_ids_fit_whatever_was_sent() -> None:
    entries = [event("a" * 32, make_interaction(char * 128), logged_answer(make_impression())) for char in "x🎵🎷"]
    keys = [entry[0] for entry in entries if entry is not None]
    assert len(set(keys)) == 3
    assert max(len(key.encode()) for key in keys) <= 512


# --- a real node and real logs ----------------------------------------------------------------------------------------


def node(method: str, path: str, body: Any = None) -> Any:
    """The node itself, without the code that is tested."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{shared_node().url}{path}", data, {"content-type": "application/json"}, method=method)
    with urlopen(request) as response:
        return json.load(response)


def found(index: str, **terms: Any) -> dict[str, dict[str, Any]]:
    """Documents by id, those that have these exact values."""
    node("POST", f"/{index}/_refresh")
    filters = [{"term": {name.replace("__", "."): value}} for name, value in terms.items()]
    hits = node("POST", f"/{index}/_search", {"query": {"bool": {"filter": filters}}, "size": 1000})["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.fixture
def empty() -> None:
    """No mirror is there yet."""
    for index in (QUERIES, EVENTS):
        with suppress(HTTPError):
            node("DELETE", f"/{index}")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


Opened = Callable[..., AbstractAsyncContextManager[tuple[EventLog, StateStore]]]


@asynccontextmanager
async def in_files(folder: Path, retention: float | None = None) -> AsyncIterator[tuple[EventLog, StateStore]]:
    log, state = SqliteLog(folder / "log.sqlite3", retention=retention), SqliteState(folder / "state.sqlite3")
    try:
        yield log, state
    finally:
        await log.close()
        await state.close()


@asynccontextmanager
async def in_redis(
    url: str, namespace: str, retention: float | None = None
) -> AsyncIterator[tuple[EventLog, StateStore]]:
    connection = Redis(url, namespace)
    try:
        yield RedisLog(connection, retention=retention), RedisState(connection)
    finally:
        await connection.close()


@pytest.fixture(params=["files", "redis"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Log and state, of either kind; opened again they are the same."""
    if request.param == "files":
        return partial(in_files, tmp_path)
    return partial(in_redis, request.getfixturevalue("redis").url, tmp_path.name.replace("_", "-"))


class Recording(OpenSearchUbi):
    """The real thing, which notes what it was given."""

    def __init__(self) -> None:
        super().__init__(shared_node().url)
        self.given: list[str] = []

    async def put(self, queries: Sequence[Entry], events: Sequence[Entry]) -> Counter[str]:
        self.given += [key for key, _ in (*queries, *events)]
        return await super().put(queries, events)


@asynccontextmanager
async def mirror(
    log: EventLog, state: StateStore, guard: Callable[[], Awaitable[None]] | None = None, application: str = APP
) -> AsyncIterator[tuple[UbiConsumer, Recording]]:
    sink = Recording()
    try:
        yield UbiConsumer(log, state, sink, application, guard), sink
    finally:
        await sink.close()


async def written(log: EventLog, *records: Record) -> None:
    for record in records:
        await log.append(record)


async def mirrored(log: EventLog, state: StateStore, application: str = APP) -> list[str]:
    """Ids of all that a new mirror has to write to be where the log ends."""
    async with mirror(log, state, application=application) as (consumer, sink):
        while await consumer.step(3):
            pass
        return sink.given


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30.0):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in another task or process
            await asyncio.sleep(0.05)


async def look(condition: Callable[[], bool]) -> None:
    await until(lambda: asyncio.to_thread(condition))


async def waits(log: EventLog) -> bool:
    """Whether retention waits for a mirror."""
    return CONSUMER in await log.consumers()


async def gone(log: EventLog) -> bool:
    return not await waits(log)


async def arrived(state: StateStore, offset: int) -> bool:
    return bool(await state.get(PLACE) == offset)


STORY: tuple[Record, ...] = (
    make_impression("q1"),
    make_interaction("e1", query_id="q1"),
    Tick(1002.0),
    make_impression("q1:tail", root_id="q1", shown=(), learn=False),
    make_impression("q2", root_id="q1", offset=3, shown=("4",), ranking=(), scores=()),
    make_interaction("e2", query_id="q2", object_id="4", position=4),
    make_impression("q3", text="", normalized="", shown=("5",)),
    make_interaction("e3", query_id="q3", object_id="5"),
    make_impression("q4", learn=False),
    make_interaction("e4", query_id="q4"),
    make_impression("q5", text='Zoé\'s 🎵 "film"\n', normalized="zoe's film", shown=(), total=0),
)


@pytest.mark.usefixtures("empty")
async def test_a_log_is_mirrored_once_however_often_it_is_gone_through(stores: Opened) -> None:
    events = {"q1:1", "q1:2", "q1:3", "shop:e1", "q2:4", "shop:e2", "shop:e3"}
    async with stores() as (log, state):
        await written(log, *STORY)
        assert sorted(await mirrored(log, state)) == sorted({"q1", "q5"} | events)
        assert await state.get(PLACE) == len(STORY)
        assert await log.consumers() == {CONSUMER: len(STORY)}
    assert set(found(QUERIES)) == {"q1", "q5"}
    assert set(found(EVENTS)) == events
    async with stores() as (log, state):
        assert await mirrored(log, state) == []  # A restart goes on where it was,
        await state.set(PLACE, 0)  # and should its place be lost, everything comes again,
        await written(log, make_interaction("e5", query_id="q1", object_id="2", position=2))
        assert sorted(await mirrored(log, state)) == sorted({"q1", "q5", "shop:e5"} | events)
    assert set(found(QUERIES)) == {"q1", "q5"}
    assert set(found(EVENTS)) == events | {"shop:e5"}
    # What the tools of OpenSearch ask.
    assert set(found(QUERIES, user_query='Zoé\'s 🎵 "film"\n')) == {"q5"}
    assert set(found(QUERIES, query_attributes__policy="vw", query_response_hit_ids="2")) == {"q1"}
    clicks = found(EVENTS, action_name="click", query_id="q1", user_query="Toy Story")
    assert set(clicks) == {"shop:e1", "shop:e2", "shop:e5"}
    assert set(found(EVENTS, user_query__text="story", event_attributes__object__object_id="4")) == {"q2:4", "shop:e2"}
    by = {"terms": {"field": "event_attributes.position.ordinal"}}
    body = {"size": 0, "aggs": {"actions": {"terms": {"field": "action_name"}, "aggs": {"at": by}}}}
    body |= {"query": {"range": {"event_attributes.position.ordinal": {"lte": 20}}}}
    actions = node("POST", f"/{EVENTS}/_search", body)["aggregations"]["actions"]["buckets"]
    assert {a["key"]: {b["key"]: b["doc_count"] for b in a["at"]["buckets"]} for a in actions} == {
        "impression": {1: 1, 2: 1, 3: 1, 4: 1},
        "click": {1: 1, 2: 1, 4: 1},
    }
    hours = {"date_histogram": {"field": "timestamp", "calendar_interval": "hour"}}
    top = {"terms": {"field": "user_query"}}
    told = node("POST", f"/{QUERIES}/_search", {"size": 0, "aggs": {"hours": hours, "top": top}})["aggregations"]
    assert [b["doc_count"] for b in told["hours"]["buckets"]] == [2]
    assert len(told["top"]["buckets"]) == 2


@pytest.mark.usefixtures("empty")
async def test_a_node_that_is_killed_and_comes_back_loses_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ubi_consumer, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(ubi_consumer, "RETRY_SECONDS", 0.1)
    lag = metrics.LEARNER_LAG.labels(CONSUMER)
    async with in_redis(redis.url, "killed") as (log, state), mirror(log, state) as (consumer, _):
        stop = asyncio.Event()
        running = asyncio.create_task(consumer.run(stop))
        try:
            await written(log, *(make_impression(f"a{n}") for n in range(20)))
            await look(lambda: value_of(lag) == 0 and len(found_if_there(QUERIES)) == 20)
            shared_node().kill()
            await written(log, *(make_impression(f"b{n}") for n in range(20)))
            await look(lambda: value_of(lag) == 20)
            await asyncio.to_thread(shared_node().start)
            await written(log, *(make_impression(f"c{n}") for n in range(20)))
            end = (await log.end())[0]
            await look(lambda: value_of(lag) == 0)
            await until(lambda: arrived(state, end))
        finally:
            stop.set()
            await running
    assert set(found(QUERIES)) == {f"{letter}{n}" for letter in "abc" for n in range(20)}
    assert len(found(EVENTS)) == 180
    assert 1 <= sum("ubi_waits" in line.message for line in caplog.records) <= 2


@pytest.mark.usefixtures("empty")
async def test_a_person_is_forgotten_in_what_was_mirrored_and_in_what_comes_late(stores: Opened) -> None:
    name = 'ann=x.y "z" ü'

    def of(user_id: str, key: str) -> list[Record]:
        done = make_interaction(f"e-{key}", query_id=key, user_id=user_id)
        alone = replace(done, event_id=f"alone-{key}", query_id=None, position=None)
        return [make_impression(key, user_id=user_id), done, alone]

    async with stores() as (log, state), mirror(log, state) as (_, sink):
        elsewhere = make_impression("elsewhere", user_id=name)
        await sink.put([query("other", elsewhere)], impressions("other", elsewhere))
        await written(log, *of(name, "n1"), *of("bob", "b1"), *of("ann", "a1"))
        await mirrored(log, state)
        assert found(QUERIES, application=APP, query_attributes__user_id=name).keys() == {"n1"}
        await written(log, *of(name, "n2"), *of("bob", "b2"))
        await log.forget(name, 1100.0)
        await written(log, *of(name, "n3"))  # Who comes back is there again.
        given = await mirrored(log, state)
        assert {"b2", "n3"} <= set(given)
        assert not [key for key in given if "n2" in key]
    assert set(found(QUERIES)) == {"elsewhere", "b1", "a1", "b2", "n3"}
    assert set(found(EVENTS, user_id=name, application=APP)) == {
        *("n3:1", "n3:2", "n3:3", "shop:e-n3", "shop:alone-n3"),
    }
    assert len(found(EVENTS)) == 3 + 4 * 5
    assert not [document for document in found(EVENTS).values() if "forgotten" in document["client_id"]]


@pytest.mark.usefixtures("empty")
async def test_a_person_of_many_documents_is_forgotten_whole() -> None:
    sink = OpenSearchUbi(shared_node().url)
    shown = make_impression("q1", shown=tuple(map(str, range(2500))))
    await sink.put([query(APP, shown)], impressions(APP, shown))
    assert await sink.forget(APP, "ann") == 2501
    assert await sink.forget(APP, "ann") == 0
    await sink.close()
    assert not found(EVENTS)


PLUGIN = {
    "dynamic": False,
    "properties": {"query_id": {"type": "keyword"}, "query_attributes": {"type": "flat_object"}},
}
GUESSED = {"properties": {"user_id": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}}}


@pytest.mark.usefixtures("empty")
async def test_indexes_that_others_made_are_used_as_they_are_and_people_found_in_them() -> None:
    node("PUT", f"/{QUERIES}", {"mappings": PLUGIN})
    node("PUT", "/ubi_events-000001", {"mappings": GUESSED, "aliases": {EVENTS: {"is_write_index": True}}})
    try:
        sink = OpenSearchUbi(shared_node().url)
        for key, who in (("q1", "Ann Lee"), ("q2", "ann"), ("q3", "lee")):
            shown = make_impression(key, user_id=who)
            assert not await sink.put([query(APP, shown)], impressions(APP, shown))
        assert await sink.forget(APP, "Ann Lee") == 4
        await sink.close()
        assert set(found(QUERIES)) == {"q2", "q3"}
        assert {document["user_id"] for document in found(EVENTS).values()} == {"ann", "lee"}
    finally:
        node("DELETE", "/ubi_events-000001")


@pytest.mark.parametrize(
    ("index", "field"),
    [
        (EVENTS, {"user_id": {"type": "text"}}),
        (EVENTS, {"user_id": {"type": "keyword", "ignore_above": 100}}),
        (QUERIES, {"query_attributes": {"type": "keyword"}}),
        (QUERIES, {"application": {"type": "text"}}),
    ],
)
@pytest.mark.usefixtures("empty")
async def test_nothing_is_written_where_nobody_could_be_found_again(index: str, field: dict[str, Any]) -> None:
    node("PUT", f"/{index}", {"mappings": {"properties": field}})
    sink = OpenSearchUbi(shared_node().url)
    with pytest.raises(StorageFailed):
        await sink.put([query(APP, make_impression())], impressions(APP, make_impression()))
    await sink.close()
    assert not found(index)


@pytest.mark.usefixtures("empty")
async def test_what_can_never_be_written_is_passed_over_and_told(
    stores: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    node("PUT", f"/{EVENTS}", {"mappings": {"properties": {"event_attributes": {"properties": {
        "value": {"type": "byte"}}}}}})  # fmt: skip
    before = value_of(metrics.LEARNER_ERRORS)
    async with stores() as (log, state):
        wide = make_interaction("wide", value=1e9)
        await written(log, make_impression("q1"), wide, make_interaction("e1", value=1.0))
        await written(log, make_impression("odd", at=1e15), make_interaction("e2", at=1e15, query_id=None))
        await mirrored(log, state)
        assert await state.get(PLACE) == 5
    assert set(found(EVENTS)) == {"q1:1", "q1:2", "q1:3", "shop:e1"}
    assert value_of(metrics.LEARNER_ERRORS) == before + 3
    lines = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert len([line for line in lines if line.startswith("ubi_refused documents=1 error=mapper_parsing")]) == 1
    assert [line.split()[1] for line in lines if line.startswith("ubi_passed_over")] == ["offset=4", "offset=5"]
    assert not [line for line in lines if "Toy" in line or "1e9" in line or "1000000000" in line]


@pytest.mark.usefixtures("empty")
async def test_what_may_be_written_later_is_waited_for(stores: Opened) -> None:
    async with stores() as (log, state):
        await written(log, make_impression("q1"))
        await mirrored(log, state)
        node("PUT", f"/{EVENTS}/_settings", {"index.blocks.write": True})  # As of a disk that is full.
        await written(log, make_impression("q2"))
        with pytest.raises(StorageFailed):
            await mirrored(log, state)
        assert await state.get(PLACE) == 1
        node("PUT", f"/{EVENTS}/_settings", {"index.blocks.write": False})
        await mirrored(log, state)
    assert set(found(EVENTS)) == {f"q{n}:{position}" for n in (1, 2) for position in (1, 2, 3)}


@pytest.mark.usefixtures("empty")
async def test_damaged_records_are_passed_over(tmp_path: Path, redis: RedisServer) -> None:
    async def damage(log: EventLog) -> None:
        if isinstance(log, SqliteLog):
            with sqlite3.connect(tmp_path / "log.sqlite3") as file:
                file.execute("UPDATE log SET body = x'00' WHERE offset IN (1, 2, 4)")
            file.close()
        else:
            connection = Redis(redis.url, "damaged")
            key = f"{connection.key('log')}:records"
            await connection.write(lambda c: c.hset(key, mapping={"1": b"x", "2": b"x", "4": b"x"}))
            await connection.close()

    async def passed_over(opened: Opened) -> None:
        async with opened() as (log, _):
            await written(log, *(make_impression(f"q{n}") for n in range(1, 5)), make_interaction("e1", query_id="q4"))
            await damage(log)
        async with opened() as (log, state):
            given = await mirrored(log, state)
            assert given == ["q3", "q3:1", "q3:2", "q3:3", "shop:e1"]
            assert await state.get(PLACE) == 5
        assert "user_query" not in found(EVENTS)["shop:e1"]  # What it was done on cannot be read any more.

    await passed_over(partial(in_files, tmp_path))
    await passed_over(partial(in_redis, redis.url, "damaged"))


@pytest.mark.usefixtures("empty")
async def test_retention_waits_for_the_mirror(stores: Opened) -> None:
    async def from_the_start() -> None:
        """Also for one that has not got anywhere yet."""
        async with stores(retention=0.0) as (log, state), Stub([RESET]) as stub:
            sink = OpenSearchUbi(stub.url)
            await log.forget_consumer(CONSUMER)
            await state.set(PLACE, 4)
            await written(log, *(make_impression(f"q{n}", at=100.0 * n) for n in range(5, 9)))
            with pytest.raises(StorageFailed):
                await UbiConsumer(log, state, sink, APP).step()
            await log.consumed("memory", 8)
            assert await kept(log) == [5, 6, 7, 8]
            await sink.close()

    async with stores(retention=0.0) as (log, state), mirror(log, state) as (consumer, _):
        await written(log, *(make_impression(f"q{n}", at=100.0 * n) for n in range(1, 5)))
        await consumer.step(2)
        await log.consumed("memory", 4)
        assert await kept(log) == [3, 4]
        await consumer.step()
        assert await kept(log) == [4]
    await from_the_start()


@pytest.mark.usefixtures("empty")
async def test_another_log_than_before_is_mirrored_from_its_beginning(stores: Opened) -> None:
    async with stores() as (log, state):
        await state.set(PLACE, 1000)
        await written(log, make_impression("q1"))
        assert "q1" in await mirrored(log, state)
        assert await state.get(PLACE) == 1


@pytest.mark.usefixtures("empty")
async def test_a_process_that_was_taken_over_from_writes_nothing(stores: Opened) -> None:
    async def lost() -> None:
        raise StorageFailed("the lease was lost")

    async with stores() as (log, state), mirror(log, state, lost) as (consumer, sink):
        for record in (make_impression("q1"), Tick(2000.0), Forget("ann", 2001.0)):
            await log.append(record)
            with pytest.raises(StorageFailed):
                await consumer.step()
        assert await state.get(PLACE) is None
        assert not sink.given


async def test_it_ends_at_once_also_when_the_node_hangs(stores: Opened) -> None:
    async with stores() as (log, state), mirror(log, state) as (consumer, sink):
        await written(log, make_impression("q1"))
        shared_node().pause()
        try:
            stop = asyncio.Event()
            running = asyncio.create_task(consumer.run(stop))
            await look(lambda: bool(sink.given))
            stop.set()
            async with asyncio.timeout(2.0):
                await running
        finally:
            shared_node().resume()


# --- answers that are none --------------------------------------------------------------------------------------------

FIT = {
    "one": {"mappings": {"properties": {"application": {"type": "keyword"}, "user_id": {"type": "keyword"},
    "query_attributes": {"type": "flat_object"}}}}
}  # fmt: skip


def outcome(status: int, **more: Any) -> Answer:
    return Answer({"errors": status >= 300, "items": [{"index": {"status": status, **more}}]})


@pytest.mark.parametrize(
    "answers",
    [
        [Answer({"one": {}})],
        [Answer({"one": {"mappings": []}})],
        [Answer(FIT), Answer(FIT), Answer({"items": []})],
        [Answer(FIT), Answer(FIT), Answer({})],
        [Answer(FIT), Answer(FIT), Answer({"items": [None]})],
        [Answer(FIT), Answer(FIT), Answer({"items": [{"index": None}]})],
        [Answer(FIT), Answer(FIT), outcome(429, error={"type": "rejected_execution_exception"})],
        [Answer(FIT), Answer(FIT), outcome(403, error={"type": "cluster_block_exception"})],
        [Answer(FIT), Answer(FIT), Answer(b"<html>")],
        [Answer(FIT), Answer(FIT), Answer({"error": "user:password"}, 401)],
        [Answer(FIT), Answer(FIT), Answer({"error": "user:password"}, 503)],
        [Answer(FIT), Answer(FIT), RESET],
    ],
)
async def test_what_was_not_surely_taken_is_put_again(answers: list[Answer]) -> None:
    async with Stub(answers) as stub:
        sink = OpenSearchUbi(stub.url)
        with pytest.raises(StorageFailed) as raised:
            await sink.put([], [("e1", {"a": 1})])
        assert "password" not in str(raised.value)
        await sink.close()


async def test_refusals_are_counted_by_type_and_nothing_else_of_them_is_told() -> None:
    for error, kind in (({"type": "mapper_parsing_exception", "reason": "secret"}, "mapper_parsing_exception"),
                        ({"type": "se cret"}, "unknown"), ("secret", "unknown")):  # fmt: skip
        async with Stub([Answer(FIT), Answer(FIT), outcome(400, error=error)]) as stub:
            sink = OpenSearchUbi(stub.url)
            assert await sink.put([], [("e1", {"a": 1})]) == {kind: 1}
            await sink.close()


@pytest.mark.parametrize(
    "hits",
    [
        {"timed_out": True, "_shards": {"failed": 0}, "hits": {"hits": []}},
        {"timed_out": False, "_shards": {"failed": 1}, "hits": {"hits": []}},
        {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": [{"_index": "one"}]}},
        {"timed_out": False, "_shards": {"failed": 0}},
        {},
    ],
)
async def test_nobody_counts_as_forgotten_by_half_an_answer(hits: dict[str, Any]) -> None:
    nothing = {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": []}}
    rest = [Answer(FIT), Answer({}), Answer(nothing)]
    async with Stub([Answer(FIT), Answer({}), Answer(hits), *rest]) as stub:
        sink = OpenSearchUbi(stub.url)
        with pytest.raises(StorageFailed):
            await sink.forget(APP, "ann")
        await sink.close()


async def test_an_engine_that_is_away_is_not_asked_all_the_time() -> None:
    async with Stub([RESET]) as stub:
        sink = OpenSearchUbi(stub.url)
        reasons = []
        for _ in range(20):
            with pytest.raises(Unavailable) as raised:
                await sink.put([], [("e1", {})])
            reasons.append(raised.value.reason)
        assert reasons[-1] == "circuit_open"
        assert len(stub.requests) < 20
        await sink.close()


# --- as people run it -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("empty")
def test_a_service_mirrors_what_it_answers_and_what_people_do(tmp_path: Path) -> None:
    engine = {"opensearch_url": shared_node().url, "namespace": "ubi-test"}
    with with_tracks(tmp_path, ubi=True, **engine) as service:
        answer = service.search("river song", user_id="ann", client_id="c1", limit=3)
        second = service.search("river song", user_id="ann", limit=3, offset=3, query_id=answer["query_id"])
        service.search("")
        hit, later = answer["hits"][0]["object_id"], second["hits"][0]["object_id"]
        assert service.feedback(
            {"event_id": "e1", "query_id": answer["query_id"], "object_id": hit, "action_name": "click"},
            {"event_id": "e2", "query_id": second["query_id"], "object_id": later, "action_name": "purchase"},
        ) == ["accepted", "accepted"]
        clicks = eventually(lambda: found_if_there(EVENTS, action_name="click"))
        assert clicks["ubi-test:e1"]["user_query"] == "river song"
        assert found(EVENTS, action_name="purchase")["ubi-test:e2"]["event_attributes"] == {
            "object": {"object_id": later, "object_id_field": "_id"},
            "position": {"ordinal": 4},
            "answer_id": second["query_id"],
        }
        queries = found(QUERIES)
        assert queries.keys() == {answer["query_id"]}
        assert queries[answer["query_id"]]["query_response_hit_ids"] == [h["object_id"] for h in answer["hits"]]
        assert len(found(EVENTS, action_name="impression", query_id=answer["query_id"])) == 6
        service.run(service.system.forget_user("ann"))
        assert eventually(lambda: not found(EVENTS) and not found(QUERIES))
        assert CONSUMER in service.run(service.system.log.consumers())
    with with_tracks(tmp_path, **engine) as service:  # Switched off, nothing is kept for it any longer.
        assert eventually(lambda: CONSUMER not in service.run(service.system.log.consumers()))


def found_if_there(index: str, **terms: Any) -> dict[str, dict[str, Any]]:
    try:
        return found(index, **terms)
    except HTTPError:
        return {}


@pytest.mark.usefixtures("empty")
async def test_the_learner_process_mirrors_while_it_holds_the_lease(redis: RedisServer) -> None:
    common: dict[str, Any] = {"redis_url": redis.url, "signing_keys": "k1:" + "0123456789abcdef" * 4}
    common |= {"opensearch_url": shared_node().url, "namespace": "lease"}
    async with in_redis(redis.url, "lease") as (log, state):
        await written(log, make_impression("q1"))
        async with learning(Settings.load({}, ubi=True, **common)):
            await look(lambda: bool(found_if_there(QUERIES)))
            await until(lambda: waits(log))
        async with learning(Settings.load({}, **common)):
            await until(lambda: gone(log))
        assert int(await state.get(PLACE) or 0) >= 1


def test_why_nothing_is_mirrored_is_told_without_the_data() -> None:
    assert str(MappingUnfit(EVENTS, "user_id")) == (
        "ubi_events maps user_id so that its values cannot be found; reindex it as a keyword"
    )

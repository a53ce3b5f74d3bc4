"""The lexical index in OpenSearch: on a real node, and against a server that misbehaves."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.request import Request, urlopen

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backends.base import ANY_KEYWORD, Constraint, IndexQuery, LexicalIndex, SlotMatch, TextMatch
from services.backends.lexical_rules import MAX_TERM_BYTES, PRIOR_WEIGHT, QUALITY_WEIGHT
from services.backends.opensearch.index import OpenSearchIndex
from services.backends.opensearch.layout import ITEM, Layout
from services.backends.opensearch.query import Translator
from services.errors import SettingsInvalid, StorageFailed, Unavailable
from services.text import tokenize
from services.types import Alternative, Condition, Deadline, Document, Field, Role, Schema, Sort
from tests.contracts.lexical_index import FILMS, SCHEMA, LexicalIndexContract, film, ids, soon, words
from tests.servers.opensearch import shared_node
from tests.servers.opensearch_stub import HANG, RESET, Answer, Stub

T = TypeVar("T")
OTHER = replace(SCHEMA, fields=(*SCHEMA.fields, Field("more", Role.KEYWORD)))
NOT_TAKEN = {"secret" * 10_000: 1}
"""The engine's parser refuses names of 50,000 characters, in that item alone."""
_numbers = itertools.count()


@pytest.fixture
def namespace() -> str:
    return f"test{next(_numbers)}"


def opened(namespace: str, schema: Schema = SCHEMA, **options: Any) -> OpenSearchIndex:
    return OpenSearchIndex(shared_node().url, namespace, schema, **options)


@asynccontextmanager
async def on_node(
    namespace: str, documents: list[Document] | None = None, **options: Any
) -> AsyncIterator[OpenSearchIndex]:
    """An index of `documents` (the contract's films when None)."""
    index = opened(namespace, **options)
    try:
        await index.rebuild(SCHEMA, FILMS if documents is None else documents)
        yield index
    finally:
        await index.close()


def asked(method: str, path: str, body: Any = None) -> Any:
    """The node itself, without the code that is tested."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{shared_node().url}{path}", data, {"content-type": "application/json"}, method=method)
    with urlopen(request) as response:
        return json.load(response)


def indexes(namespace: str) -> dict[str, set[str]]:
    """Indexes of the namespace and their aliases."""
    found = asked("GET", f"/{namespace}-*/_alias")
    return {name: set(entry["aliases"]) for name, entry in found.items()}


# --- faults of a real node (first, while it has few indexes to recover) -----------------------------------------------


async def test_a_node_that_dies_fails_calls_and_works_again_when_it_is_back(namespace: str) -> None:
    node = shared_node()
    async with on_node(namespace) as index:
        await index.apply([film("new", "Zodiac", 2007, 5, 7.7)], [])
        node.kill()
        try:
            for _ in range(3):
                with pytest.raises(Unavailable):
                    await index.search(IndexQuery(), Deadline.after(2.0))
            with pytest.raises(StorageFailed):
                await index.apply([film("lost", "Lost", 2007, 5, 7.7)], [])
        finally:
            await asyncio.to_thread(node.start)
        found = await until(lambda: index.search(IndexQuery(text=words("zodiac")), soon()))
        assert ids(found) == ["new"]
        await until(lambda: index.apply([film("newer", "Zodiac", 2007, 4, 7.7)], []))
        assert set(ids(await index.search(IndexQuery(text=words("zodiac")), soon()))) == {"new", "newer"}


async def test_a_node_that_hangs_costs_no_more_than_the_deadline(namespace: str) -> None:
    node = shared_node()
    async with on_node(namespace) as index:
        node.pause()
        try:
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                await index.search(IndexQuery(), Deadline.after(0.3))
            assert time.monotonic() - start < 4.0  # by itself the client would wait 10 s
        finally:
            node.resume()
        assert (await until(lambda: index.search(IndexQuery(), soon()))).total == len(FILMS)


async def until(work: Callable[[], Awaitable[T]]) -> T:
    """Result of `work` once the circuit admits it again."""
    last = Deadline.after(30.0)
    while True:
        try:
            return await work()
        except (StorageFailed, TimeoutError):
            assert last.remaining() > 0, "it did not come back"
            await asyncio.sleep(0.05)


class TestOpenSearchIndex(LexicalIndexContract):
    @pytest.fixture(autouse=True)
    def _own_namespace(self, namespace: str) -> None:
        self._namespace = namespace

    def open(self, folder: Path, schema: Schema) -> LexicalIndex:
        return opened(self._namespace, schema)


# --- whose index it is ------------------------------------------------------------------------------------------------


async def test_it_is_stale_until_built_and_under_another_schema_but_not_other_synonyms(namespace: str) -> None:
    first = opened(namespace)
    assert await first.stale()
    await first.rebuild(SCHEMA, FILMS)
    assert not await first.stale()
    await first.close()
    for schema, expected in (
        (SCHEMA, False),
        (replace(SCHEMA, synonyms={"scary": ("Horror",)}), False),
        (OTHER, True),
    ):
        second = opened(namespace, schema)
        assert await second.stale() is expected
        await second.close()


async def test_before_it_is_built_nothing_is_found_or_written_and_no_index_appears(namespace: str) -> None:
    index = opened(namespace)
    for work in (
        index.search(IndexQuery(), soon()),
        index.titles("the", 5, soon()),
        index.apply(FILMS[:1], []),
        index.documents(["f1"], soon()),
    ):
        with pytest.raises(StorageFailed):
            await work
    await index.close()
    assert indexes(namespace) == {}


async def test_who_has_another_schema_in_mind_is_refused_until_it_follows(namespace: str) -> None:
    async with on_node(namespace) as index:
        behind = opened(namespace, SCHEMA)
        await behind.search(IndexQuery(), soon())
        await index.rebuild(OTHER, [{**document, "more": "yes"} for document in FILMS])
        assert index.schema == OTHER
        with pytest.raises(StorageFailed):
            await behind.apply(FILMS[:1], [])
        found = await behind.search(IndexQuery(), soon())
        assert found.total == len(FILMS), "the index of before is there for a moment"
        await index._finish_cleaning()
        with pytest.raises(StorageFailed):
            await behind.search(IndexQuery(), soon())
        assert set(await behind.documents(["f1", "f2"], soon())) == {"f1", "f2"}
        assert await behind.stale()
        await behind.refresh()
        assert behind.schema == OTHER
        assert not await behind.stale()
        found = await behind.search(IndexQuery(facets=("more",)), soon())
        assert found.facets["more"][0].count == len(FILMS)
        behind.follow(SCHEMA)
        with pytest.raises(StorageFailed):
            await behind.search(IndexQuery(), soon())
        await behind.close()


async def test_one_index_remains_of_many_rebuilds_and_left_overs_of_broken_ones_go(namespace: str) -> None:
    asked("PUT", f"/{namespace}-items-g0badbad")  # a rebuild that broke off
    asked("PUT", f"/{namespace}-items-g1-items-g0")  # of a namespace that is called so
    asked("PUT", f"/{namespace}-ubi")
    async with on_node(namespace) as index:
        await index.rebuild(OTHER, FILMS)
        await index.rebuild(SCHEMA, FILMS)
    found = indexes(namespace)
    assert {f"{namespace}-items-g1-items-g0", f"{namespace}-ubi"} < set(found)
    (mine,) = set(found) - {f"{namespace}-items-g1-items-g0", f"{namespace}-ubi"}
    built = Layout(SCHEMA).fingerprint[:16]
    assert found[mine] == {f"{namespace}-items{suffix}" for suffix in ("", f"-of-{built}", f"-into-{built}")}


async def test_a_rebuild_that_breaks_off_leaves_no_index_behind(namespace: str) -> None:
    async with on_node(namespace) as index:
        before = indexes(namespace)
        with pytest.raises(KeyError):
            await index.rebuild(SCHEMA, [FILMS[0], {"title": "no id"}])
        with pytest.raises(StorageFailed, match="1 of 2"):
            await index.rebuild(SCHEMA, [FILMS[0], film("x", "Not Taken", 2000, 1, 5) | NOT_TAKEN])
        assert indexes(namespace) == before


async def test_no_search_fails_while_it_is_rebuilt_again_and_again(namespace: str) -> None:
    async with on_node(namespace) as index:
        rebuilt = asyncio.Event()
        answered = 0

        async def look() -> None:
            nonlocal answered
            while not rebuilt.is_set():
                assert (await index.search(IndexQuery(text=words("knight")), soon())).total == 4
                answered += 1

        looking = [asyncio.create_task(look()) for _ in range(4)]
        for _ in range(3):
            await index.rebuild(SCHEMA, iter(FILMS))
        rebuilt.set()
        await asyncio.gather(*looking)
        assert answered > 20


# --- items ------------------------------------------------------------------------------------------------------------


async def test_items_come_back_as_they_were_whatever_they_hold(namespace: str) -> None:
    odd: list[Document] = [
        {"id": "1", "title": "Dots", "a.b": {"": [1, {".": "", "*": None}]}, "_id": 7, "n0": [], "item": {"item": 1}},
        {"id": "2", "title": 5, "big": 2**63 - 1, "small": -5e-324, "huge": 1.7e308, "float": 2.0, "nested": [[[1]]]},
        {"id": "𝕏" * 128, "title": '\x00\x1f\u2028 "\\{}', "words": {"title": True}},
        {"id": "../_all,*?#%20&_source=x", "title": "", "genres": "not a list"},
    ]
    async with on_node(namespace, odd) as index:
        assert (await index.search(IndexQuery(), soon())).total == len(odd)
        wanted = [document["id"] for document in odd]
        assert list((await index.documents([*wanted, *wanted, "not there"], soon())).values()) == odd
        assert await index.documents([], soon()) == {}
        await index.apply([], wanted[2:])
        assert set(await index.documents(wanted, soon())) == {"1", "2"}


async def test_one_item_that_fails_fails_the_write_by_number_alone(namespace: str) -> None:
    async with on_node(namespace) as index:
        good, bad = film("new", "Zodiac", 2007, 5, 7.7), film("secret", "Not Taken", 2000, 1, 5) | NOT_TAKEN
        with pytest.raises(StorageFailed, match="1 of 3") as caught:
            await index.apply([good, bad], ["f1"])
        assert "secret" not in str(caught.value)
        await index.apply([good], ["f1"])
        assert ids(await index.search(IndexQuery(text=words("zodiac")), soon())) == ["new"]


async def test_an_item_that_cannot_be_indexed_stops_the_write_before_it_begins(namespace: str) -> None:
    async with on_node(namespace) as index:
        for broken, error in (({"title": "no id"}, KeyError), ({"id": "x", "title": object()}, StorageFailed)):
            with pytest.raises(error):
                await index.apply([{"id": "new", "title": "Zodiac"}, broken], ["f1"])
        assert (await index.search(IndexQuery(), soon())).total == len(FILMS)


async def test_many_items_go_in_several_requests(namespace: str) -> None:
    large = [film(f"n{i}", "Large", 2000, i, 5, note="x" * 50_000) for i in range(50)]
    many = [film(f"m{i}", "Many", 2000, i, 5) for i in range(600)]
    async with on_node(namespace, [*large, *FILMS]) as index:
        assert (await index.search(IndexQuery(), soon())).total == len(large) + 10
        await index.apply(many, [document["id"] for document in large])
        assert (await index.search(IndexQuery(), soon())).total == len(many) + 10


async def test_very_long_values(namespace: str) -> None:
    long = "x" * (MAX_TERM_BYTES * 70)
    items: list[Document] = [
        {"id": "a", "title": f"{long} tale", "genres": [long, "short"]},
        {"id": "b", "title": f"{long}y", "genres": ["short"]},
    ]
    async with on_node(namespace, items) as index:
        for value, expected in ((long, ["a"]), (f"{long}x", [])):
            query = IndexQuery(filters=(Condition("genres", any_of=(value,)),), sort=Sort("genres"))
            assert ids(await index.search(query, soon())) == expected
        found = await index.search(IndexQuery(text=words(f"{long} tale"), facets=("genres",)), soon())
        assert found.candidates[0].object_id == "a"
        assert [(facet.value, facet.count) for facet in found.facets["genres"]] == [("short", 2)]


async def test_several_shards_rank_and_count_as_one(namespace: str) -> None:
    queries = [
        IndexQuery(text=words("dark knight", 1.0, True), facets=("genres",)),
        IndexQuery(slots=SlotMatch((Constraint("director", 0.9, "christopher nolan"),))),
        IndexQuery(sort=Sort("votes"), limit=4),
    ]

    async with on_node(namespace) as whole, on_node(f"{namespace}several", shards=3, replicas=0) as split:
        for query in queries:
            one, several = await whole.search(query, soon()), await split.search(query, soon())
            assert ids(one) == ids(several)
            assert [c.score for c in one.candidates] == pytest.approx([c.score for c in several.candidates], rel=1e-5)
            assert (one.total, one.facets) == (several.total, several.facets)


async def test_long_queries_stay_within_what_the_engine_takes(namespace: str) -> None:
    many = tuple(tuple(Alternative(f"word{i} {j} more words", 1.0 / (j + 1)) for j in range(9)) for i in range(60))
    constraints = tuple(Constraint("director", 0.1, f"name {i}", group=i // 3) for i in range(9))
    filters = tuple(Condition("genres", any_of=tuple(f"g{i}" for i in range(100))) for _ in range(20))
    raw = " ".join(f"some{i}thing" for i in range(60))
    async with on_node(namespace) as index:
        query = IndexQuery(TextMatch(many, raw, 1.0, True), SlotMatch(constraints), filters)
        assert (await index.search(query, soon())).total == 0


# --- answers that are none --------------------------------------------------------------------------------------------


@asynccontextmanager
async def against(*answers: Answer, **options: Any) -> Any:
    async with Stub(list(answers)) as stub:
        index = OpenSearchIndex(stub.url, "test", SCHEMA, **options)
        try:
            yield index, stub
        finally:
            await index.close()


def told(error: BaseException) -> str:
    """All that a log could say of it, what it came from included."""
    return "".join(traceback.format_exception(error))


def hit(object_id: Any = "f1", score: Any = 1.0, **more: Any) -> dict[str, Any]:
    return {"_id": object_id, "sort": [score, object_id], **more}


def hits(*found: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    total = {"value": len(found), "relation": "eq"} if total is None else total
    return {
        "timed_out": False,
        "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
        "hits": {"total": total, "hits": list(found)},
        **more,
    }


KNIGHT = IndexQuery(text=words("knight"), facets=("genres",), limit=3)
COUNTED = {"aggregations": {"f0": {"buckets": [{"key": "Action", "doc_count": 1}]}}}


async def test_a_sound_answer_of_the_stub_is_taken() -> None:
    async with against(Answer(hits(hit(), **COUNTED))) as (index, stub):
        found = await index.search(KNIGHT, soon())
        assert ids(found) == ["f1"]
        assert found.facets["genres"][0].value == "Action"
        ((line, _, body),) = stub.requests
        assert line.startswith("POST /test-items-of-")
        assert "allow_partial_search_results=false" in line
        assert "cancel_after_time_interval=" in line
        assert 0 < int(json.loads(body)["timeout"].removesuffix("ms")) <= 10_000


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"{nonsense"),
        Answer(b'{"hits": NaN}'),
        Answer(b""),
        Answer([]),
        Answer("text", content_type="text/plain"),
        Answer(b"<html>", content_type="text/html"),
        Answer(b"\xff\xfe"),
        Answer({}),
        Answer(hits(hit(), **COUNTED) | {"hits": {}}),
        Answer(hits(hit(), **COUNTED) | {"hits": {"hits": [hit()]}}),
        Answer(hits(hit(), total={"value": 10_000, "relation": "gte"}, **COUNTED)),
        Answer(hits(hit(), total={"value": 0, "relation": "eq"}, **COUNTED)),
        Answer(hits(hit(), total={"value": "1", "relation": "eq"}, **COUNTED)),
        Answer(hits(hit(score=None), **COUNTED)),
        Answer(hits(hit(score="NaN"), **COUNTED)),
        Answer(orjson.dumps(hits(hit(score=12345), **COUNTED)).replace(b"12345", b"1e999")),
        Answer(hits(hit(score=True), **COUNTED)),
        Answer(hits(hit(object_id=5), **COUNTED)),
        Answer(hits(hit(object_id=""), **COUNTED)),
        Answer(hits({"_id": "f1"}, **COUNTED)),
        Answer(hits("f1", **COUNTED)),
        Answer(hits(hit(), hit(), **COUNTED)),
        Answer(hits(*(hit(f"f{i}") for i in range(4)), **COUNTED)),
        Answer(hits(hit())),
        Answer(hits(hit(), aggregations={"f0": {"buckets": [{"key": 5, "doc_count": 1}]}})),
        Answer(hits(hit(), aggregations={"f0": {"buckets": [{"key": "x"}]}})),
    ],
)
async def test_garbage_is_a_failure_and_never_a_list(answer: Answer) -> None:
    async with against(answer) as (index, stub):
        with pytest.raises(StorageFailed) as caught:
            await index.search(KNIGHT, soon())
        assert "nonsense" not in str(caught.value)
        assert len(stub.requests) <= 2


@pytest.mark.parametrize(
    ("answer", "error", "calls"),
    [
        (Answer({"error": "user:password"}, 503), Unavailable, 2),
        (Answer({"error": "user:password"}, 502), Unavailable, 2),
        (RESET, Unavailable, 2),
        (Answer(hits(_shards={"total": 2, "successful": 1, "failed": 1})), Unavailable, 2),
        (Answer(hits(timed_out=True)), TimeoutError, 1),
        (HANG, TimeoutError, 1),
        (Answer({"error": "user:password"}, 429), StorageFailed, 1),
        (Answer({"error": {"type": "parsing_exception"}}, 400), StorageFailed, 1),
        (Answer({"error": "user:password"}, 401), StorageFailed, 1),
        (Answer(b"user:password", 500), StorageFailed, 1),
        (Answer({"error": "user:password"}, 404), StorageFailed, 1),
    ],
)
async def test_failures_have_names_and_are_tried_again_once_at_most(
    answer: Answer, error: type[Exception], calls: int
) -> None:
    async with against(answer) as (index, stub):
        start = time.monotonic()
        with pytest.raises(error) as caught:
            await index.search(IndexQuery(), Deadline.after(0.3 if answer is HANG else 3.0))
        assert time.monotonic() - start < 4.0
        assert "password" not in told(caught.value)
        assert len(stub.requests) == calls
        # Further ones have no budget for second tries.
        for _ in range(3):
            with pytest.raises(error):
                await index.search(IndexQuery(), Deadline.after(0.2 if answer is HANG else 3.0))
        assert len(stub.requests) == calls + 3


@pytest.mark.parametrize("answer", [RESET, Answer({}, 503), Answer({}, 429), Answer({}), Answer({"items": []})])
async def test_a_write_is_sent_once(answer: Answer) -> None:
    async with against(answer) as (index, stub):
        with pytest.raises(StorageFailed):
            await index.apply(FILMS[:1], [])
        assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("items", "sound"),
    [
        ([{"index": {"status": 201}}, {"delete": {"status": 200}}], True),
        ([{"index": {"status": 200}}, {"delete": {"status": 404, "result": "not_found"}}], True),
        (
            [
                {"index": {"status": 429, "error": {"type": "rejected", "reason": "secret"}}},
                {"delete": {"status": 200}},
            ],
            False,
        ),
        ([{"index": {"status": 404, "error": {}}}, {"delete": {"status": 404, "error": {}}}], False),
        ([{"index": {"status": 404}}, {"delete": {"status": 200}}], False),
        ([{"index": {}}, {"delete": {"status": 200}}], False),
        ([{"index": {"status": 201}}], False),
        ([None, None], False),
    ],
)
async def test_every_item_of_a_bulk_request_is_looked_at(items: list[Any], sound: bool) -> None:
    # Whatever it says of errors as a whole.
    async with against(Answer({"errors": False, "items": items})) as (index, _):
        if sound:
            await index.apply(FILMS[:1], ["f2"])
            return
        with pytest.raises(StorageFailed) as caught:
            await index.apply(FILMS[:1], ["f2"])
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"docs": [{"_id": "f1", "found": True}]},
        {"docs": [{"_id": "f1", "found": True, "_source": {ITEM: {"title": "no id"}}}]},
        {"docs": [{"_id": "f1", "error": {"type": "index_not_found"}}]},
        {"docs": [None]},
    ],
)
async def test_items_that_are_none(answer: Any) -> None:
    async with against(Answer(answer)) as (index, _):
        with pytest.raises(StorageFailed):
            await index.documents(["f1"], soon())


async def test_user_and_password_are_sent_and_in_no_error() -> None:
    async with Stub([Answer({}, 401)]) as stub:
        url = stub.url.replace("://", "://ltrr:p%40ss@")
        index = OpenSearchIndex(url, "test", SCHEMA)
        with pytest.raises(StorageFailed) as caught:
            await index.ping(soon())
        assert stub.requests[0][1]["authorization"] == "Basic bHRycjpwQHNz"
        assert "p@ss" not in told(caught.value)
        await index.close()


async def test_certificates_are_checked_against_the_given_ones(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with Stub([Answer(hits())], secure=context) as stub:
        trusting, wary = (OpenSearchIndex(stub.url, "test", SCHEMA, ca=ca) for ca in (certificate, None))
        assert (await trusting.search(IndexQuery(), soon())).total == 0
        with pytest.raises(Unavailable):
            await wary.search(IndexQuery(), soon())
        await trusting.close()
        await wary.close()
    for broken in (key, tmp_path / "absent.pem"):
        with pytest.raises(SettingsInvalid):
            OpenSearchIndex(stub.url, "test", SCHEMA, ca=broken)


async def test_versions(namespace: str) -> None:
    index = opened(namespace)
    await index.ping(soon())
    assert (await index.version(soon())).startswith("3.")
    await index.close()
    await index.close()
    with pytest.raises(StorageFailed):
        await index.search(IndexQuery(), soon())
    async with against(Answer({"version": {"number": "8.1.0", "build_flavor": "default"}})) as (index, _):
        with pytest.raises(StorageFailed):
            await index.version(soon())


# --- values are never syntax ------------------------------------------------------------------------------------------

QUERIES = {"bool", "dis_max", "constant_score", "term", "terms", "range", "exists", "match_all", "match_none"}
STRUCTURE = {"must", "should", "filter", "queries", "query", "boost", "value", "minimum_should_match", "boost_mode"}
STRUCTURE |= {"field_value_factor", "field", "missing", "gte", "gt", "lte", "lt", "function_score"}
TRANSLATOR = Translator(Layout(SCHEMA))
KEYS = QUERIES | STRUCTURE | set(Layout(SCHEMA).mappings()["properties"])
WITH_VALUES = ("term", "terms", "range")


def shape(query: Any) -> Any:
    """A query with every value left out."""
    if isinstance(query, dict):
        for kind in WITH_VALUES:
            if kind in query and "field" not in query[kind]:  # those with one are facets
                ((place, value),) = query[kind].items()
                kept = sorted(value) if isinstance(value, dict) else len(value)
                return (kind, place, kept)
        return {key: shape(part) for key, part in query.items()}
    if isinstance(query, list):
        return [shape(part) for part in query]
    return query if isinstance(query, str) else "number"


def keys(query: Any) -> Iterator[str]:
    if isinstance(query, dict):
        for key, part in query.items():
            yield key
            yield from keys(part)
    elif isinstance(query, list):
        for part in query:
            yield from keys(part)


def asking(texts: list[str]) -> IndexQuery:
    return IndexQuery(
        text=TextMatch(tuple((Alternative(text, 1.0), Alternative("other", 0.5)) for text in texts), "raw", 0.1),
        slots=SlotMatch(
            (
                *(Constraint("director", 0.5 + i / 10, text, group=i) for i, text in enumerate(texts)),
                Constraint(ANY_KEYWORD, 0.2, texts[0]),
            )
        ),
        filters=(Condition("genres", any_of=tuple(texts)), Condition("year", gte=1990.0, lt=2000.0)),
        facets=("genres",),
    )


HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            '{"match_all": {}}',
            "* OR _exists_:id",
            "title:(a AND b)~2^5",
            "/.*/",
            '"} } , "script": {"source": "ctx"}',
            '\n{"delete": {"_id": "1"}}\n',
            "\ud800",
            "a\x00b",
            "<script>",
            "${jndi:ldap://x}",
            "NaN",
            "-1e999",
            "_all",
            "f1*?",
        ]
    ),
)


@settings(max_examples=1000, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=2, max_size=3))
def test_text_becomes_values_and_nothing_else(texts: list[str]) -> None:
    """The query for any texts is that for plain words with the same numbers of tokens, but for the values."""
    plain: dict[str, str] = {}
    # Marks that are no tokens keep apart what is not the same text.
    like = [
        " ".join(plain.setdefault(token, f"plain{len(plain)}") for token in tokenize(text)) + "!" * texts.index(text)
        for text in texts
    ]
    written, expected = TRANSLATOR.search(asking(texts)), TRANSLATOR.search(asking(like))
    assert shape(written) == shape(expected)
    assert set(keys(written["query"])) <= KEYS
    orjson.dumps(written)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=3), ngrams_match=st.booleans())
def test_ngrams_of_any_text_are_values_too(texts: list[str], ngrams_match: bool) -> None:
    match = TextMatch(tuple((Alternative(text, 1.0),) for text in texts), " ".join(texts), 1.0, ngrams_match)
    assert set(keys(TRANSLATOR.query(IndexQuery(text=match)))) <= KEYS


@settings(max_examples=200, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=5))
def test_fields_of_the_catalogue_never_name_fields_of_the_engine(names: list[str]) -> None:
    schema = Schema(tuple(Field(name, Role.KEYWORD) for name in names))
    held = set(Layout(schema).mappings()["properties"])
    again = set(Layout(Schema(tuple(Field(f"f{i}", Role.KEYWORD) for i in range(len(names))))).mappings()["properties"])
    assert held == again
    document = {"id": "1"} | dict.fromkeys(names, "x")
    assert set(Layout(schema).entry(document)) <= held


def test_no_bound_is_ever_lost() -> None:
    for condition, expected in (
        (Condition("year", gt=5.0, gte=5.0, lt=9.0, lte=9.0), {"gt": 5.0, "lt": 9.0}),
        (Condition("year", gt=4.0, gte=5.0), {"gte": 5.0}),
        (Condition("year", gte=-0.0), {"gte": 0.0}),
    ):
        (bounds,) = TRANSLATOR.condition(condition)["range"].values()
        assert bounds == expected
        assert all(math.copysign(1.0, bound) == 1.0 for bound in bounds.values())
    assert TRANSLATOR.condition(Condition("year", gte=math.inf)) == {"match_none": {}}


def test_weights_are_factors() -> None:
    entry = Layout(SCHEMA).entry(FILMS[0])
    assert entry[PRIOR_WEIGHT] > 1.0
    assert entry[QUALITY_WEIGHT] > 1.0

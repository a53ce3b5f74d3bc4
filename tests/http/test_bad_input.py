"""Whatever is sent: refused with a problem document that says what to change, or answered. Never a failure of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.http.middleware import LimitBody
from tests.builders.catalogue import TRACKS
from tests.service import Service, problem, with_tracks

EXAMPLES = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ARMS = {"lexical", "structured", "vector", "memory", "personal", "explore"}
HOSTILE = [
    "*",
    "*:*",
    "/.*a{1000}/",
    "title:(winter AND song)~10^1e9",
    '"unclosed',
    "winter OR " * 99,
    "x~2 " * 200,
    "'; DROP TABLE items; --",
    "' OR 1=1 --",
    "foo | A evil:1e30",
    "foo\n0:0:1 |A x\n\n1:1:1 |B y",
    "shared |s a\n|a b=1",
    '{"query": {"match_all": {}}}',
    "{{7*7}}${7*7}<%= 7*7 %>",
    "../../etc/passwd\x00.png",
    "http://169.254.169.254/latest/meta-data",
    "(a+)+$" * 100,
    "\x00\x01\x1b[31mred\x1b[0m\r\nSet-Cookie: a=b",
    "\u202egnos retniw\u202c",
    "w" + "\u0301" * 900,
    "x" * 1000,
    "1e999 NaN Infinity -Infinity",
    "9" * 1000,
    "東京" * 400,
    "\ufeff\u200b\u2028",
    "𝔴𝔦𝔫𝔱𝔢𝔯 ｓｏｎｇ",
    "-" * 1000,
    "1980..1990 80s 90s 1e5 0x10 1/0",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with with_tracks(tmp_path_factory.mktemp("input") / "data") as service:
        yield service


def send(service: Service, body: bytes | str) -> httpx.Response:
    content = body if isinstance(body, bytes) else body.encode()
    return service.request("POST", "/v1/search", content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("field", ["limit", "offset", "timeout_ms"])
@pytest.mark.parametrize(
    "value",
    ['"10"', "true", "10.0", "1e1", "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 23, "-1", "null", "[1]", "{}"],
)
def test_numbers_are_strict(service: Service, field: str, value: str) -> None:
    document = problem(send(service, f'{{"{field}": {value}}}'), 422, "invalid-request")
    assert [error["field"] for error in document["errors"]] == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"limit": 0}', "limit"),
        ('{"limit": 101}', "limit"),
        ('{"offset": 1000}', "offset"),
        ('{"offset": 901, "limit": 100}', ""),
        ('{"timeout_ms": 0}', "timeout_ms"),
        ('{"query": null}', "query"),
        ('{"query": 5}', "query"),
        ('{"query": ["a"]}', "query"),
        (json.dumps({"query": "x" * 1001}), "query"),
        (json.dumps({"query": "ﷺ" * 100}), "query"),
        (json.dumps({"query": "x" * 1_000_000}), "query"),
        ('{"learn": "no"}', "learn"),
        ('{"learn": 0}', "learn"),
        ('{"explain": 1}', "explain"),
        ('{"user_id": ""}', "user_id"),
        ('{"user_id": 7}', "user_id"),
        (json.dumps({"user_id": "x" * 257}), "user_id"),
        ('{"query_id": 5}', "query_id"),
        ('{"facets": "genres"}', "facets"),
        ('{"facets": [1]}', "facets.0"),
        (json.dumps({"facets": ["genres"] * 21}), "facets"),
        ('{"filters": []}', "filters"),
        ('{"context": []}', "context"),
        (json.dumps({"context": {str(n): n for n in range(17)}}), "context"),
        (json.dumps({"context": {"place": "x" * 65}}), "context.place"),
        (json.dumps({"context": {"x" * 65: 1}}), None),
        ('{"context": {"place": null}}', "context.place"),
        ('{"context": {"place": [1]}}', "context.place"),
        ('{"context": {"place": NaN}}', "context.place"),
        ('{"context": {"place": 1e999}}', "context.place"),
    ],
)
def test_bounds_and_types(service: Service, body: str, field: str | None) -> None:
    document = problem(send(service, body), 422, "invalid-request")
    assert len(json.dumps(document)) < 2000
    if field is not None:
        assert document["errors"][0]["field"] == field


@pytest.mark.parametrize("length", [16])
def test_largest_context_is_taken(service: Service, length: int) -> None:
    context = {f"k{n}": value for n, value in enumerate(["x" * 64, 1, 1.5, True, False, 10**23, -1, 10**400] * 2)}
    assert len(context) == length
    assert send(service, json.dumps({"query": "winter", "context": context})).status_code == 200


@pytest.mark.parametrize(
    ("body", "near"),
    [
        ('{"qury": "x"}', "query"),
        ('{"filter": {}}', "filters"),
        ('{"time_out_ms": 5}', "timeout_ms"),
        ('{"filters": {"genre": "Jazz"}}', "genres"),
        ('{"filters": {"artst": "x"}}', "artist"),
        ('{"facets": ["genrs"]}', "genres"),
        ('{"sort": "-yaer"}', "year"),
        ('{"sort": "popularty"}', "popularity"),
    ],
)
def test_unknown_names_come_with_the_nearest_known(service: Service, body: str, near: str) -> None:
    document = problem(send(service, body), 422, "invalid-request")
    assert f"did you mean '{near}'?" in document["detail"]


@pytest.mark.parametrize(
    "name", ["_id", "__proto__", "id", "title", "", "x" * 100_000, "genres.raw", "$where", "\u0000"]
)
def test_other_fields_than_the_catalogues_are_refused(service: Service, name: str) -> None:
    document = problem(send(service, json.dumps({"filters": {name: "x"}})), 422, "invalid-request")
    assert len(json.dumps(document)) < 2000, "what was sent is not sent back"


@pytest.mark.parametrize(
    "filters",
    [
        {"genres": []},
        {"genres": None},
        {"genres": {"gte": 1}},
        {"genres": [["Jazz"]]},
        {"genres": ["Jazz"] * 101},
        {"genres": "x" * 1001},
        {"year": "1990"},
        {"year": True},
        {"year": {"gte": None}},
        {"year": {"gte": "1990"}},
        {"year": {"from": 1990}},
        {"year": {}},
        {"year": {"gte": {"gte": 1}}},
        {"released": "2010-13-45"},
        {"released": "yesterday"},
        {"released": {"gte": True}},
    ],
)
def test_filters_that_cannot_be(service: Service, filters: Any) -> None:
    document = problem(send(service, json.dumps({"filters": filters})), 422, "invalid-request")
    assert document["errors"][0]["field"] == "filters"
    assert next(iter(filters)) in document["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nope",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"query": "\xff\xfe"}',
        b'{"query": "\xed\xa0\x80"}',
        b'{"query": "\\ud800"}',
        b'{"user_id": "\\udfff"}',
        b'{"filters": {"genres": "\\ud800"}}',
        b"[" * 100_000,
        b'{"filters":' * 20_000,
        b'{"filters": {"year": ' + b"[" * 3000 + b"]" * 3000 + b"}}",
        b'{"filters": {"year": ' + b"9" * 5000 + b"}}",
        b"\x00" * 1000,
        b"\xef\xbb\xbf{}",
    ],
)
def test_bodies_that_are_no_request(service: Service, body: bytes) -> None:
    problem(send(service, body), 422, "invalid-request")


@pytest.mark.parametrize(
    "parameters",
    ["qq=x", "limit=1.0", "limit=x", "limit=%201", "limit=1_0", "limit=", "offset=-1", "explain=yes", "learn=1",
     "filters=[", "filters=[]", "filters={%22genre%22:1}", "context=5", "context={%22a%22:null}", "facets=genrs",
     "offset=999&limit=100", "user_id=", "sort=nope", "query_id=x"],
)  # fmt: skip
def test_addresses_that_are_no_request(service: Service, parameters: str) -> None:
    problem(service.request("GET", f"/v1/search?{parameters}"), 422, "invalid-request")


@pytest.mark.parametrize("path", ["/v1/search/", "/v1/nope", "/v1", "/v1/search/more", "//v1/search"])
def test_unknown_addresses(service: Service, path: str) -> None:
    problem(service.request("GET", path), 404, "not-found")


@pytest.mark.parametrize(("method", "path", "allow"), [
    ("DELETE", "/v1/search", "GET, POST"),
    ("PATCH", "/v1/items/t001", "DELETE, GET, PUT"),
    ("POST", "/v1/policy", "GET, PUT"),
    ("GET", "/v1/feedback", "POST"),
])  # fmt: skip
def test_other_methods(service: Service, method: str, path: str, allow: str) -> None:
    response = service.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == allow


@pytest.mark.parametrize("query", HOSTILE)
def test_query_text_is_only_ever_text(service: Service, query: str) -> None:
    answer = service.search(query)
    assert set(answer["decision"]["arms"]) == ARMS
    assert all(choice["count"] in (0, 5, 10, 25, 50, 100) for choice in answer["decision"]["arms"].values())
    assert len(answer["hits"]) <= 10
    assert answer["total"] <= len(TRACKS)
    assert len({hit["object_id"] for hit in answer["hits"]}) == len(answer["hits"])
    assert answer["degraded"] == []


@EXAMPLES
@given(query=st.text(max_size=80) | st.sampled_from(HOSTILE), limit=st.integers(1, 100), offset=st.integers(0, 900))
def test_any_text_is_answered(service: Service, query: str, limit: int, offset: int) -> None:
    body = {"query": query, "limit": limit, "offset": offset, "timeout_ms": 10_000}
    response = service.request("POST", "/v1/search", content=json.dumps(body))
    assert response.status_code == (422 if len(query) > 1000 else 200), response.text
    answer = response.json()
    assert set(answer["decision"]["arms"]) == ARMS
    assert len(answer["hits"]) <= limit
    assert [hit["position"] for hit in answer["hits"]] == [offset + 1 + n for n in range(len(answer["hits"]))]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "query": st.text(max_size=50) | ANYTHING,
        "filters": st.dictionaries(st.sampled_from(["genres", "year", "released", "artist", "nope"]), ANYTHING)
        | ANYTHING,
        "facets": st.lists(st.sampled_from(["genres", "year", "title", "nope"]), max_size=3) | ANYTHING,
        "sort": st.sampled_from(["relevance", "year", "-year", "-bpm", "title", "-", ""]) | ANYTHING,
        "limit": st.integers(-5, 200) | ANYTHING,
        "offset": st.integers(-5, 2000) | ANYTHING,
        "user_id": st.text(max_size=300) | ANYTHING,
        "session_id": ANYTHING,
        "client_id": ANYTHING,
        "context": st.dictionaries(st.text(max_size=70), SCALARS, max_size=18) | ANYTHING,
        "timeout_ms": st.integers(-1, 20_000) | ANYTHING,
        "explain": ANYTHING,
        "learn": ANYTHING,
        "query_id": ANYTHING,
        "other": ANYTHING,
    },
)


@settings(EXAMPLES, max_examples=400)
@given(request=REQUESTS)
def test_any_request_is_answered_or_refused(service: Service, request: dict[str, Any]) -> None:
    response = send(service, json.dumps(request))
    assert response.status_code in (200, 422, 503), response.text
    if response.status_code == 422:
        problem(response, 422, "invalid-request")
    elif response.status_code == 503:
        problem(response, 503, "unavailable")
        assert request["timeout_ms"] < 1000, "only for want of time"


@settings(EXAMPLES, max_examples=200)
@given(body=ANYTHING | st.lists(st.fixed_dictionaries({}, optional={
    "event_id": st.text(max_size=130) | ANYTHING,
    "query_id": ANYTHING,
    "object_id": ANYTHING,
    "action_name": st.sampled_from(["click", "dwell", "abandon", "nope"]) | ANYTHING,
    "timestamp": st.sampled_from(["2026-11-20T20:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31", ""]) | ANYTHING,
    "position": ANYTHING,
    "value": ANYTHING,
    "user_id": st.just("u") | ANYTHING,
    "event_attributes": ANYTHING,
    "other": ANYTHING,
}), max_size=4))  # fmt: skip
def test_any_feedback_is_judged(service: Service, body: Any) -> None:
    response = service.request("POST", "/v1/feedback", content=json.dumps(body))
    assert response.status_code in (202, 422), response.text
    if response.status_code == 202:
        assert len(response.json()["results"]) == (len(body) if isinstance(body, list) else 1)
    else:
        problem(response, 422, "invalid-request")


@settings(EXAMPLES, max_examples=100)
@given(item=st.dictionaries(st.text(max_size=12), ANYTHING, max_size=5) | ANYTHING, object_id=st.text(max_size=8))
def test_any_item_is_taken_or_refused(service: Service, item: Any, object_id: str) -> None:
    """Under one field that is never given a role, so that the catalogue of the other tests stays what it is."""
    body = {"id": f"any-{object_id}", "junk": item} if isinstance(item, dict) else item
    response = service.request("PUT", "/v1/items", content=json.dumps([body]))
    assert response.status_code in (200, 422), response.text
    if response.status_code == 200:
        (result,) = response.json()["results"]
        assert result["status"] in ("accepted", "invalid")
        if result["status"] == "accepted":
            assert service.system.catalogue is not None
            service.run(service.system.catalogue.delete([result["id"]]))


class TestSize:
    """Bodies over their limit are refused without being held."""

    def test_announced(self, service: Service) -> None:
        response = send(service, b'{"query": "' + b"x" * 2_000_000 + b'"}')
        problem(response, 413, "too-large")

    def test_in_chunks_without_an_end(self, service: Service) -> None:
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            while True:
                sent += 65_536
                yield b"x" * 65_536

        response = service.request("POST", "/v1/feedback", content=endless())
        problem(response, 413, "too-large")
        assert sent < 3_000_000

    def test_of_a_thousand_events(self, service: Service) -> None:
        events = [{"event_id": str(n)} for n in range(1001)]
        problem(service.request("POST", "/v1/feedback", json=events), 413, "too-large")
        assert service.feedback(*events[:1000]) == ["invalid"] * 1000

    def test_an_announcement_is_enough(self, service: Service) -> None:
        """Nothing is read of a body that says that it is too large."""
        sent: list[Any] = []

        async def receive() -> Any:
            raise AssertionError("read")

        async def send(message: Any) -> None:
            sent.append(message)

        async def app(*_: Any) -> None:
            raise AssertionError("answered")

        scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": [(b"content-length", b"300000000")]}
        service.run(LimitBody(app, 2_000_000)(scope, receive, send))
        assert sent[0]["status"] == 413

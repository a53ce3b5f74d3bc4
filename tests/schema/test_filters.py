"""Filters: what a request may say, and that the index finds exactly what `matches` accepts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.backends.base import IndexQuery
from services.backends.tantivy.index import TantivyIndex
from services.errors import InvalidRequest, UnknownField
from services.schema.filters import check_facets, matches, parse, parse_sort
from services.types import Condition, Deadline, Field, Role, Schema, Sort

SCHEMA = Schema(
    fields=(
        Field("title", Role.TEXT),
        Field("genres", Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("released", Role.DATE),
        Field("popularity", Role.POPULARITY),
        Field("url", Role.STORED),
    ),
    title="title",
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, ()),
        ({"genres": "Drama"}, (Condition("genres", ("Drama",)),)),
        ({"genres": ["Drama", "War", "Drama"]}, (Condition("genres", ("Drama", "War")),)),
        ({"genres": [True, 7, 7.5]}, (Condition("genres", ("true", "7", "7.5")),)),
        ({"year": 1999}, (Condition("year", (1999.0,)),)),
        ({"year": {"gte": 1990, "lt": 2000.5}}, (Condition("year", gte=1990.0, lt=2000.5),)),
        ({"popularity": {"gt": 0, "lte": 1}}, (Condition("popularity", gt=0.0, lte=1.0),)),
        ({"released": {"gte": "1970-01-02"}}, (Condition("released", gte=86400.0),)),
        ({"released": ["1970-01-01T00:00:10Z"]}, (Condition("released", (10.0,)),)),
    ],
)
def test_what_a_request_may_say(raw: dict[str, Any], expected: tuple[Condition, ...]) -> None:
    assert parse(raw, SCHEMA) == expected


@pytest.mark.parametrize(
    "raw",
    [
        {"year": "1999"},
        {"year": True},
        {"year": None},
        {"year": float("nan")},
        {"year": {"gte": float("inf")}},
        {"year": {"gte": 10**400}},
        {"year": {"gte": "1990"}},
        {"year": {}},
        {"year": {"from": 1990}},
        {"year": [[1999]]},
        {"genres": {"gte": 1}},
        {"genres": []},
        {"genres": None},
        {"genres": [None]},
        {"genres": [{"a": 1}]},
        {"genres": ["x"] * 101},
        {"genres": "x" * 1001},
        {"released": "yesterday"},
    ],
)
def test_what_it_may_not(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(raw, SCHEMA)
    assert next(iter(raw)) in caught.value.detail


def test_too_many_filters_and_no_object() -> None:
    with pytest.raises(InvalidRequest, match="at most 20"):
        parse({f"f{i}": 1 for i in range(21)}, SCHEMA)
    with pytest.raises(InvalidRequest):
        parse(["genres"], SCHEMA)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["genre", "title", "url", "", "__proto__", "genres ", "_id"])
def test_fields_that_cannot_be_used(name: str) -> None:
    for use in (
        lambda: parse({name: "x"}, SCHEMA),
        lambda: parse_sort(name, SCHEMA),
        lambda: parse_sort(f"-{name}", SCHEMA),
        lambda: check_facets([name], SCHEMA),
    ):
        with pytest.raises(UnknownField) as caught:
            use()
        assert "genres" in caught.value.detail


def test_sorts() -> None:
    assert parse_sort("relevance", SCHEMA) is None
    assert parse_sort("year", SCHEMA) == Sort("year")
    assert parse_sort("-year", SCHEMA) == Sort("year", descending=True)


def test_facets() -> None:
    assert check_facets(["year", "genres", "year"], SCHEMA) == ("year", "genres")
    with pytest.raises(InvalidRequest, match="at most 20"):
        check_facets([f"f{i}" for i in range(21)], SCHEMA)


NUMBERS = st.sampled_from([-2.5, -0.0, 0.0, 1.0, 2.0, 1e300, -1e-300, 2**53 + 1.0])
WORDS = st.sampled_from(["Drama", "drama", "Dra ma", "dráma", " x ", "1", "true", "a,b", 'q"uote', "\x00", "é" * 600])
SCALARS: st.SearchStrategy[Any] = st.one_of(WORDS, st.booleans(), st.integers(-2, 2), NUMBERS, st.none())
DATES = st.sampled_from(["1969-12-31", "1970-01-01T00:00:01Z", "2001", "2001-02-03T04:05:06.789+02:00", "never", 0, 5])


def one_or_more(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(values, st.lists(values, max_size=3))


DOCUMENTS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "title": WORDS,
            "genres": one_or_more(SCALARS),
            "year": one_or_more(SCALARS),
            "popularity": one_or_more(NUMBERS),
            "released": one_or_more(DATES),
        },
    ),
    max_size=6,
)
BOUNDS = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), NUMBERS, min_size=1, max_size=4)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "genres": one_or_more(st.one_of(WORDS, st.booleans(), st.integers(-2, 2))).filter(lambda v: v != []),
        "year": st.one_of(NUMBERS, BOUNDS, st.lists(NUMBERS, min_size=1, max_size=3)),
        "popularity": BOUNDS,
        "released": st.one_of(st.just("2001"), st.just({"gt": 0, "lte": "2001-02-03"}), st.just({"lt": 0})),
    },
)


@pytest.fixture
def index(tmp_path: Path) -> Any:
    with asyncio.Runner() as runner:
        opened = TantivyIndex(tmp_path, SCHEMA)
        yield runner, opened
        runner.run(opened.close())


def test_zero_has_no_sign(index: Any) -> None:
    runner, lexical = index
    items = [{"id": "plus", "year": 0.0}, {"id": "minus", "year": -0.0}]
    runner.run(lexical.apply(items, []))
    for raw in ({"year": -0.0}, {"year": 0}, {"year": {"lte": -0.0}}, {"year": {"gte": 0.0}}):
        found = runner.run(lexical.search(IndexQuery(filters=parse(raw, SCHEMA)), Deadline.after(10)))
        assert {candidate.object_id for candidate in found.candidates} == {"plus", "minus"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=DOCUMENTS, filters=st.lists(FILTERS, min_size=1, max_size=5))
def test_the_index_finds_exactly_what_matches_accepts(
    index: Any, documents: list[dict[str, Any]], filters: list[dict[str, Any]]
) -> None:
    runner, lexical = index
    items = [{"id": f"d{i}"} | document for i, document in enumerate(documents)]
    present = {c.object_id for c in runner.run(lexical.search(IndexQuery(), Deadline.after(10))).candidates}
    runner.run(lexical.apply(items, sorted(present - {item["id"] for item in items})))
    for raw in filters:
        asked = parse(raw, SCHEMA)
        found = runner.run(lexical.search(IndexQuery(filters=asked), Deadline.after(10)))
        expected = {item["id"] for item in items if matches(asked, item, SCHEMA)}
        assert {candidate.object_id for candidate in found.candidates} == expected
        assert found.total == len(expected)

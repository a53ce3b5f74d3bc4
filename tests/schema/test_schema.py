"""Schemas are guessed, given and grown; items are checked against them; priors stay within 0..1 for any values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.datasets.folder import Dataset
from services.errors import InvalidRequest, SettingsInvalid
from services.schema.inference import MAX_FIELDS, words_of
from services.schema.priors import UNKNOWN_PRIOR
from services.schema.schema import (
    MAX_DOCUMENT_BYTES,
    check,
    date_seconds,
    describe,
    extend,
    first_number,
    from_json,
    infer,
    load_schema,
    measure,
    newness,
    prior,
    quality,
    to_json,
    values,
)
from services.types import Document, Field, Role, Schema

TEXT, KEYWORD, NUMBER, DATE = Role.TEXT, Role.KEYWORD, Role.NUMBER, Role.DATE
POPULARITY, STORED = Role.POPULARITY, Role.STORED

PROSE = "a long description that goes on and on about what the thing is good for and how it was made"


def roles(schema: Schema) -> dict[str, Role]:
    return {f.name: f.role for f in schema.fields}


def many(count: int = 40, **fields: Any) -> Iterator[Document]:
    """`count` documents; a callable field gets the document's number."""
    for n in range(count):
        yield {"id": str(n), **{name: value(n) if callable(value) else value for name, value in fields.items()}}


class TestInfer:
    def test_films(self, shared: Path) -> None:
        schema = infer(Dataset.open(shared / "data" / "msrd").documents())
        assert roles(schema) == {
            "id": STORED,
            "title": TEXT,
            "overview": TEXT,
            "tags": KEYWORD,
            "genres": KEYWORD,
            "director": KEYWORD,
            "actors": KEYWORD,
            "characters": KEYWORD,
            "year": NUMBER,
            "votes": NUMBER,
            "rating": NUMBER,
            "popularity": POPULARITY,
            "budget": NUMBER,
            "url": STORED,
        }
        assert (schema.title, schema.popularity, schema.rating) == ("title", "popularity", "rating")
        assert (schema.votes, schema.created, schema.inferred) == ("votes", "year", True)
        weights = {f.name: f.weight for f in schema.fields}
        assert (weights["title"], weights["overview"], weights["actors"]) == (3.0, 1.0, 1.5)

    def test_music(self) -> None:
        schema = infer(
            many(
                type=lambda n: "track" if n % 2 else "artist",
                name=lambda n: f"Song number {n}",
                artist=lambda n: f"Artist {n}",
                artist_id=lambda n: f"artist-{n}",
                plays=lambda n: n * 100,
                rating=4.5,
                explicit=False,
                release_date=lambda n: f"19{50 + n}-06-01",
                cover="https://example.org/cover.jpg",
                description=PROSE,
                links={"artist": "1"},
                nothing=None,
                blank="",
            )
        )
        assert roles(schema) == {
            "id": STORED,
            "type": KEYWORD,
            "name": TEXT,
            "artist": KEYWORD,
            "artist_id": STORED,
            "plays": POPULARITY,
            "rating": NUMBER,
            "explicit": KEYWORD,
            "release_date": DATE,
            "cover": STORED,
            "description": TEXT,
            "links": STORED,
        }
        assert (schema.title, schema.popularity, schema.created) == ("name", "plays", "release_date")

    def test_products(self) -> None:
        schema = infer(
            many(
                product_id=lambda n: n,
                product_name=lambda n: f"Sofa {n}",
                product_class=["Sofas"],
                product_description=PROSE,
                brand=lambda n: f"Brand {n}",
                price=lambda n: 9.99 + n,
                average_rating=4.5,
                rating_count=lambda n: n,
                review_count=lambda n: n,
            )
        )
        assert (schema.title, schema.rating, schema.votes) == ("product_name", "average_rating", "rating_count")
        assert schema.popularity == "rating_count"  # nothing better says what is popular
        found = roles(schema)
        assert found["product_id"] is STORED
        assert found["product_class"] is found["brand"] is KEYWORD
        assert found["price"] is found["review_count"] is NUMBER
        assert found["rating_count"] is POPULARITY

    def test_documents_of_a_text_collection(self) -> None:
        schema = infer(many(title=lambda n: f"On the {n}th question", text=PROSE))
        assert (roles(schema), schema.title) == ({"id": STORED, "title": TEXT, "text": TEXT}, "title")
        assert schema.popularity is schema.created is schema.rating is None

    def test_one_document_is_enough_for_a_guess(self) -> None:
        schema = infer([{"id": "1", "productName": "Lamp", "tags": ["red"], "createdAt": 1700000000, "inStock": True}])
        assert roles(schema) == {
            "id": STORED,
            "productName": TEXT,
            "tags": KEYWORD,
            "createdAt": DATE,
            "inStock": KEYWORD,
        }
        assert (schema.title, schema.created) == ("productName", "createdAt")

    def test_values_decide_where_names_do_not(self) -> None:
        schema = infer(
            many(
                note=lambda n: f"remark {n}",
                shelf=lambda n: f"shelf {n % 4}",
                many_words=["one two three", "four"],
                coordinates=[[1, 2], [3, 4]],
                sizes=[38, 40],
                signal=[0.1] * 300,
                mixed=lambda n: n if n % 2 else "n/a",
                picture=lambda n: f"images/{n}.png",
                when=lambda n: "2020-01-01T10:00:00Z",
            )
        )
        assert roles(schema) == {
            "id": STORED,
            "note": TEXT,
            "shelf": KEYWORD,
            "many_words": KEYWORD,
            "coordinates": STORED,
            "sizes": NUMBER,
            "signal": STORED,
            "mixed": KEYWORD,
            "picture": STORED,
            "when": DATE,
        }

    def test_a_few_odd_values_do_not_change_a_role(self) -> None:
        schema = infer(
            many(year=lambda n: "unknown" if n == 3 else 1990 + n, seen=lambda n: "?" if n == 3 else "2020-01-01")
        )
        assert roles(schema) == {"id": STORED, "year": NUMBER, "seen": DATE}

    def test_field_names_are_read_as_words(self) -> None:
        assert words_of("productName") == words_of("product-name") == words_of("Product Name") == ("product", "name")

    def test_nothing_gives_nothing(self) -> None:
        assert infer([]) == Schema()

    def test_names_of_the_items_own_are_not_taken_for_fields_without_end(self) -> None:
        schema = infer({"id": str(n), f"x{n}": n} for n in range(1000))
        assert len(schema.fields) == MAX_FIELDS
        assert extend(schema, [{"id": "1", "another": 1}]) is schema
        small = infer([{"id": "1", "title": "x"}])
        assert len(extend(small, ({"id": str(n), f"x{n}": n} for n in range(1000))).fields) == MAX_FIELDS


class TestExtend:
    def test_new_fields_get_a_role_and_old_ones_keep_theirs(self) -> None:
        schema = infer([{"id": "1", "title": "a", "year": 1990}])
        grown = extend(schema, [{"id": "2", "title": "b", "year": "no", "plays": 3, "genres": ["x"]}])
        assert roles(grown) == {**roles(schema), "plays": POPULARITY, "genres": KEYWORD}
        assert (grown.popularity, grown.title, grown.created) == ("plays", "title", "year")

    def test_the_same_schema_comes_back_when_nothing_is_new(self) -> None:
        schema = infer([{"id": "1", "title": "a"}])
        assert extend(schema, [{"id": "2", "title": "b", "later": None, "empty": []}]) is schema
        assert extend(schema, []) is schema

    def test_a_given_schema_stays(self) -> None:
        schema = Schema(fields=(Field("title", TEXT),), title="title", inferred=False)
        assert extend(schema, [{"id": "2", "plays": 3}]) is schema

    def test_a_title_that_comes_later_is_the_title(self) -> None:
        grown = extend(infer([{"id": "1", "year": 1990}]), [{"id": "2", "title": "b"}])
        assert grown.title == "title"
        assert grown.get("title") == Field("title", TEXT, 3.0)


class TestPriors:
    def films(self) -> tuple[Schema, list[Document]]:
        documents = [
            {"id": str(n), "popularity": float(n), "votes": n * 10, "rating": 5.0 + n / 50, "year": 1900 + n}
            for n in range(1, 101)
        ]
        return measure(infer(documents), documents), documents

    def test_measured_constants(self) -> None:
        schema, _ = self.films()
        assert schema.stats == pytest.approx(
            {
                "items": 100,
                "popularity_scale": 99,
                "votes_scale": 990,
                "votes_median": 510,
                "rating_mean": 6.01,
                "rating_max": 7,
                "created_min": 1902,
                "created_max": 1999,
            }
        )

    def test_priors_by_hand(self) -> None:
        schema, _ = self.films()
        item = {"id": "x", "popularity": 9.0, "votes": 510, "rating": 7.0, "year": 1950}
        expected = 0.25 * math.log(10) / math.log(100) + 0.75 * math.log(511) / math.log(991)
        assert prior(schema, item) == pytest.approx(expected)
        assert quality(schema, item) == pytest.approx((510 * 7.0 + 510 * 6.01) / 1020 / 7)
        assert newness(schema, item) == pytest.approx((1950 - 1902) / 97)

    def test_they_grow_with_what_they_measure(self) -> None:
        schema, documents = self.films()
        as_sure = [{**document, "votes": 500} for document in documents]
        for measured, items in ((prior, documents), (quality, as_sure), (newness, documents)):
            found = [measured(schema, item) for item in items]
            assert found == sorted(found)
            assert 0 <= found[0] < found[50] < found[98] <= 1

    def test_few_votes_count_little(self) -> None:
        schema, _ = self.films()
        praised_by_two = {"id": "a", "rating": 10, "votes": 2}
        praised_by_many = {"id": "b", "rating": 7, "votes": 9000}
        assert quality(schema, praised_by_two) < quality(schema, praised_by_many)

    def test_a_catalogue_that_says_nothing(self) -> None:
        documents = [{"id": "1", "title": "x"}]
        schema = measure(infer(documents), documents)
        assert (prior(schema, documents[0]), quality(schema, documents[0])) == (UNKNOWN_PRIOR, UNKNOWN_PRIOR)
        assert newness(schema, documents[0]) == 0

    def test_an_item_that_says_nothing_in_a_catalogue_that_does(self) -> None:
        schema, _ = self.films()
        assert (prior(schema, {"id": "x"}), newness(schema, {"id": "x"})) == (0, 0)
        assert quality(schema, {"id": "x"}) == pytest.approx(6.01 / 7)

    def test_votes_stand_in_for_popularity_and_count_once(self) -> None:
        documents = [{"id": str(n), "title": "x", "votes": n} for n in range(101)]
        schema = measure(infer(documents), documents)
        assert schema.popularity == schema.votes == "votes"
        assert prior(schema, documents[9]) == pytest.approx(math.log(10) / math.log(100))

    def test_ratings_by_nobody_are_no_part_of_the_mean(self) -> None:
        documents = [{"id": "1", "rating": 8, "votes": 3}, {"id": "2", "rating": 0, "votes": 0}]
        assert measure(infer(documents), documents).stats["rating_mean"] == 8

    def test_dates_say_how_new(self) -> None:
        documents = [{"id": str(n), "title": "x", "published": f"{2000 + n}-01-01"} for n in range(21)]
        schema = measure(infer(documents), documents)
        assert newness(schema, documents[0]) == 0
        assert newness(schema, documents[10]) == pytest.approx(0.5, abs=0.01)
        assert newness(schema, documents[20]) == 1

    @given(
        st.dictionaries(
            st.sampled_from(["popularity", "votes", "rating", "year"]),
            st.one_of(
                st.none(),
                st.booleans(),
                st.floats(),
                st.integers(),
                st.text(),
                st.lists(st.floats()),
                st.just({"a": 1}),
            ),
        )
    )
    def test_no_value_is_too_odd(self, odd: dict[str, Any]) -> None:
        schema, documents = self.films()
        for measured in (prior, quality, newness):
            assert 0 <= measured(schema, {"id": "x", **odd}) <= 1
        again = measure(schema, [*documents, {"id": "x", **odd}])
        assert all(math.isfinite(value) for value in again.stats.values())


class TestValues:
    @pytest.mark.parametrize(
        ("role", "value", "expected"),
        [
            (KEYWORD, "  Rock ", ["Rock"]),
            (KEYWORD, ["Rock", "Pop", "Rock", "", None, " "], ["Rock", "Pop"]),
            (KEYWORD, True, ["true"]),
            (KEYWORD, [3.0, 2.5, 7], ["3", "2.5", "7"]),
            (TEXT, ["a", "a"], ["a", "a"]),
            (NUMBER, "7", []),
            (NUMBER, [1, 2.5, True, None, math.inf, 10**400], [1.0, 2.5]),
            (POPULARITY, 3, [3.0]),
            (DATE, ["1970-01-02", "then"], [86400.0]),
            (STORED, "x", []),
            (KEYWORD, {"a": 1}, []),
            (KEYWORD, None, []),
        ],
    )
    def test_by_role(self, role: Role, value: Any, expected: list[Any]) -> None:
        assert values({"id": "1", "f": value}, Field("f", role)) == expected

    def test_the_first_number(self) -> None:
        assert first_number({"id": "1", "f": [None, "x", 4, 5]}, Field("f", NUMBER)) == 4.0
        assert first_number({"id": "1"}, Field("f", NUMBER)) is None
        assert first_number({"id": "1"}, None) is None

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2010-06-18", 1276819200.0),
            ("2010-06-18T12:00:00Z", 1276862400.0),
            ("2010-06-18T12:00:00+02:00", 1276855200.0),
            ("2010-06", 1275350400.0),
            ("2010", 1262304000.0),
            (2010, 1262304000.0),
            (1276819200, 1276819200.0),
            (1276819200000, 1276819200.0),
            ("18 June 2010", None),
            ("", None),
            (True, None),
            (math.nan, None),
            (None, None),
            ([], None),
        ],
    )
    def test_dates(self, value: Any, expected: float | None) -> None:
        assert date_seconds(value) == expected


class TestCheck:
    SCHEMA = Schema(
        fields=(
            Field("title", TEXT),
            Field("genres", KEYWORD),
            Field("year", NUMBER),
            Field("plays", POPULARITY),
            Field("released", DATE),
            Field("extra", STORED),
        )
    )

    def test_an_item_as_it_should_be(self) -> None:
        item = {
            "id": "film/862 ü",
            "title": "Toy Story",
            "genres": ["Animation", "Comedy"],
            "year": 1995,
            "plays": [1, 2.5],
            "released": "1995-11-22",
            "extra": {"deep": [{"er": None}]},
            "unheard of": 7,
        }
        assert check(self.SCHEMA, item) == item
        assert check(self.SCHEMA, {"id": 862, "year": None, "genres": []}) == {"id": "862", "year": None, "genres": []}

    @pytest.mark.parametrize(
        ("item", "field", "said"),
        [
            ([1], None, "JSON object"),
            ({}, "id", "needs an id"),
            *[
                ({"id": bad}, "id", "1 to 128")
                for bad in ("", "x" * 129, "a\nb", "a\0", "\ud800", True, 1.5, None, ["a"], 2**63)
            ],
            ({"id": "1", "year": "1995"}, "year", "a number"),
            ({"id": "1", "year": True}, "year", "a number"),
            ({"id": "1", "plays": [1, "2"]}, "plays", "a number"),
            ({"id": "1", "released": "soon"}, "released", "a date"),
            ({"id": "1", "genres": {"a": 1}}, "genres", "a string"),
            ({"id": "1", "title": [["a"]]}, "title", "a string"),
            ({"id": "1", "score": math.nan}, "score", "not numbers"),
            ({"id": "1", "extra": {"a": [math.inf]}}, "extra", "not numbers"),
            ({"id": "1", "extra": 2**63}, "extra", "64 bits"),
            ({"id": "1", "title": "x" * 100_001}, "title", "100001 characters"),
            ({"id": "1", "extra": [[[[[[[[["deep"]]]]]]]]]}, "extra", "8 levels"),
            ({"id": "1", "extra": {str(n): "x" * 90_000 for n in range(3)}}, None, f"at most {MAX_DOCUMENT_BYTES}"),
            ({"id": "1", "extra": "\ud800"}, None, "not JSON"),
            ({"id": "1", "": 1}, None, "field name"),
            ({"id": "1", "a\nb": 1}, None, "field name"),
            ({"id": "1", **{f"f{n}": n for n in range(256)}}, None, "256 fields"),
        ],
    )
    def test_what_is_refused_and_which_field_is_named(self, item: Any, field: str | None, said: str) -> None:
        with pytest.raises(InvalidRequest, match=said) as refused:
            check(self.SCHEMA, item)
        assert refused.value.field == field
        if field is not None:
            assert field in refused.value.detail

    @given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=20))
    def test_what_passes_can_be_written_as_json(self, value: Any) -> None:
        try:
            item = check(self.SCHEMA, {"id": "1", "title": value, "other": value})
        except InvalidRequest:
            return
        assert json.loads(json.dumps(item, allow_nan=False)) == item


class TestForms:
    def test_json_there_and_back(self) -> None:
        schema = Schema(
            fields=(Field("title", TEXT, 3.0), Field("plays", POPULARITY)),
            title="title",
            popularity="plays",
            synonyms={"scary": ("Horror",)},
            inferred=False,
            stats={"items": 3.0},
        )
        assert from_json(json.loads(json.dumps(to_json(schema)))) == schema
        assert from_json(to_json(Schema())) == Schema()

    def test_a_schema_file(self, tmp_path: Path) -> None:
        path = tmp_path / "schema.toml"
        path.write_text(
            """
            title = "name"
            rating = "stars"
            created = "year"
            [fields]
            name = { role = "text", weight = 3 }
            about = "text"
            genres = { role = "keyword", weight = 0.5 }
            stars = "number"
            year = "number"
            plays = "popularity"
            seen = "date"
            url = "stored"
            [synonyms]
            scary = ["Horror", "Thriller"]
            funny = "Comedy"
            """
        )
        assert load_schema(path) == Schema(
            fields=(
                Field("name", TEXT, 3.0),
                Field("about", TEXT),
                Field("genres", KEYWORD, 0.5),
                Field("stars", NUMBER),
                Field("year", NUMBER),
                Field("plays", POPULARITY),
                Field("seen", DATE),
                Field("url", STORED),
            ),
            title="name",
            popularity="plays",
            rating="stars",
            created="year",
            synonyms={"scary": ("Horror", "Thriller"), "funny": ("Comedy",)},
            inferred=False,
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[fields", "schema.toml"),
            ("titel = 'x'\n[fields]\nx = 'text'", "unknown titel; known are fields"),
            ("", r"\[fields\] is missing"),
            ("fields = 3", "fields is a table"),
            ("[fields]\nx = 'txt'", "no role 'txt'; roles are text, keyword"),
            ("[fields]\nx = 3", "fields.x is a role"),
            ("[fields]\nx = { weight = 3 }", "fields.x is a role"),
            ("[fields]\nx = { role = 'text', wieght = 3 }", "fields.x is a role"),
            ("[fields]\nx = { role = 'text', weight = -1 }", "from 0 to 100"),
            ("[fields]\nx = { role = 'text', weight = 'big' }", "from 0 to 100"),
            ("title = 'y'\n[fields]\nx = 'text'", "title names no field"),
            ("rating = 'x'\n[fields]\nx = 'text'", "x must have the role number"),
            ("[fields]\nx = 'text'\n[synonyms]\na = 3", "synonyms.a is a list"),
        ],
    )
    def test_what_a_schema_file_says_wrong_is_named(self, tmp_path: Path, text: str, said: str) -> None:
        path = tmp_path / "schema.toml"
        path.write_text(text)
        with pytest.raises(SettingsInvalid, match=said):
            load_schema(path)

    def test_a_schema_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsInvalid, match=r"schema\.toml"):
            load_schema(tmp_path / "schema.toml")

    def test_the_table_for_people(self) -> None:
        schema = Schema(
            fields=(Field("title", TEXT, 3.0), Field("votes", POPULARITY)),
            title="title",
            votes="votes",
            popularity="votes",
        )
        assert describe(schema).splitlines() == [
            "field  role        weight  used as",
            "title  text        3       title",
            "votes  popularity          popularity, votes",
        ]

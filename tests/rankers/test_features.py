from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rankers.features import ARMS, NAMES, rows
from services.rankers.fusion import FUSION_WEIGHTS, fuse
from services.types import (
    Alternative,
    Candidate,
    Context,
    Document,
    Field,
    Interpretation,
    Person,
    Pooled,
    Query,
    Remembered,
    Role,
    Schema,
    Slot,
    Understanding,
)

SCHEMA = Schema(
    fields=(
        Field("title", Role.TEXT),
        Field("genres", Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("popularity", Role.POPULARITY),
        Field("released", Role.DATE),
        Field("overview", Role.TEXT),
    ),
    title="title",
    popularity="popularity",
    created="year",
    stats={"popularity_scale": 100.0, "created_min": 1990.0, "created_max": 2020.0},
)
DOCUMENTS: dict[str, Document] = {
    "1": {"id": "1", "title": "Toy Story", "genres": ["Animation", "Comedy"], "year": 1995, "popularity": 100.0},
    "2": {"id": "2", "title": "Toy Story 3", "genres": ["Animation"], "year": 2010, "popularity": 50.0},
    "3": {"id": "3", "title": "The Matrix", "genres": ["Action"], "year": 1999, "popularity": 10.0},
}


def understood(
    text: str, *interpretations: Interpretation, words: tuple[tuple[Alternative, ...], ...] | None = None
) -> Understanding:
    tokens = tuple(text.split())
    return Understanding(
        normalized=text,
        tokens=tokens,
        words=words if words is not None else tuple((Alternative(token, 1.0),) for token in tokens),
        corrected=None,
        language="en",
        interpretations=interpretations or (Interpretation(1.0, (), tokens),),
        rarity=tuple(0.0 if token == "the" else 1.0 for token in tokens),
    )


def context(understanding: Understanding, **more: Any) -> Context:
    return Context(Query(understanding.normalized), understanding, 0.0, **more)


def table(seen: Context, pool: list[Pooled], documents: dict[str, Document] = DOCUMENTS) -> list[dict[str, float]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows(seen, pool, documents, SCHEMA).tolist()]


def pooled(*ids: str) -> list[Pooled]:
    return [Pooled(object_id, {}) for object_id in ids]


class TestForm:
    def test_names_are_unique_and_begin_as_trained_models_know_them(self) -> None:
        """NAMES only grows at its end; a changed beginning would silently feed a stored model other columns."""
        assert len(set(NAMES)) == len(NAMES)
        assert NAMES[:4] == ("lexical_scaled", "lexical_raw", "lexical_rank", "lexical_has")
        assert NAMES[24:27] == ("arms", "fused", "remembered_score")
        assert NAMES[52] == "person_known"
        assert NAMES[55:58] == ("keywords_query_rarity", "texts_query_rarity", "words_query_rarity")

    def test_an_empty_pool_has_no_rows(self) -> None:
        empty = rows(context(understood("x")), [], {}, SCHEMA)
        assert empty.shape == (0, len(NAMES))
        assert empty.dtype == np.float32

    def test_rows_follow_the_pool(self) -> None:
        seen = context(understood("toy story 3"))
        there = rows(seen, pooled("1", "2", "3"), DOCUMENTS, SCHEMA)
        back = rows(seen, pooled("3", "2", "1"), DOCUMENTS, SCHEMA)
        assert there.dtype == np.float32
        assert (there == back[::-1]).all()

    def test_rows_survive_the_log(self) -> None:
        """Rows are logged as JSON and trained on: they must come back bit for bit."""
        served = rows(context(understood("toy story 3")), pooled("1", "2", "3"), DOCUMENTS, SCHEMA)
        logged = json.loads(json.dumps(served.tolist(), allow_nan=False))
        assert (np.array(logged, dtype=np.float32) == served).all()


class TestArms:
    def test_what_each_arm_says(self) -> None:
        lists = {
            "lexical": [Candidate("1", 9.0), Candidate("2", 6.0), Candidate("3", 3.0)],
            "vector": [Candidate("3", -0.5)],
        }
        pool = fuse(lists, FUSION_WEIGHTS)
        by_id = {p.object_id: row for p, row in zip(pool, table(context(understood("x")), pool), strict=True)}
        two, three = by_id["2"], by_id["3"]
        assert [two[f"lexical_{what}"] for what in ("scaled", "raw", "rank", "has")] == pytest.approx(
            [0.6, math.log1p(6.0), 0.5, 1.0]
        )
        assert [two[f"vector_{what}"] for what in ("scaled", "raw", "rank", "has")] == [0.0, 0.0, 0.0, 0.0]
        assert [three[f"vector_{what}"] for what in ("scaled", "raw", "rank", "has")] == pytest.approx(
            [0.0, -math.log1p(0.5), 1.0, 1.0]
        )
        assert (two["arms"], three["arms"]) == (1.0, 2.0)
        for p in pool:
            assert by_id[p.object_id]["fused"] == pytest.approx(p.score)

    def test_scaled_scores_are_those_of_fusion(self) -> None:
        generator = np.random.default_rng(3)
        lists = {
            arm: [Candidate(str(i), float(s)) for i, s in zip(generator.permutation(30)[:12], scores, strict=True)]
            for arm in ARMS
            for scores in [np.sort(generator.normal(size=12))[::-1]]
        }
        pool = fuse(lists, FUSION_WEIGHTS)
        for p, row in zip(pool, table(context(understood("x")), pool, {}), strict=True):
            assert sum(FUSION_WEIGHTS[arm] * row[f"{arm}_scaled"] for arm in ARMS) == pytest.approx(p.score, abs=1e-6)


class TestItem:
    def test_title_and_query_share_words(self) -> None:
        one, two, three = table(context(understood("toy story 3")), pooled("1", "2", "3"))
        assert (one["title_query_share"], two["title_query_share"], three["title_query_share"]) == pytest.approx(
            (2 / 3, 1.0, 0.0)
        )
        assert (one["title_share"], two["title_share"], three["title_share"]) == (1.0, 1.0, 0.0)
        assert (one["title_exact"], two["title_exact"], three["title_exact"]) == (0.0, 1.0, 0.0)
        assert two["title_trigrams"] == 1.0 > one["title_trigrams"] > three["title_trigrams"]
        started = table(context(understood("toy")), pooled("1", "3"))
        assert [row["title_prefix"] for row in started] == [1.0, 0.0]

    def test_common_words_weigh_little(self) -> None:
        (row,) = table(context(understood("the matrix reloaded")), pooled("3"))
        assert row["title_query_share"] == pytest.approx(2 / 3)
        assert row["title_query_rarity"] == pytest.approx(1 / 2)

    def test_a_likely_spelling_counts_with_its_weight(self) -> None:
        words = ((Alternative("matrix", 0.9), Alternative("matirx", 0.1)),)
        (row,) = table(context(understood("matirx", words=words)), pooled("3"))
        assert row["title_query_share"] == pytest.approx(0.9)
        (whole,) = table(context(understood("teh matrix", words=((Alternative("the", 0.9),), ()))), pooled("3"))
        assert whole["title_exact"] == 0.0
        words = ((Alternative("the", 0.9),), (Alternative("matrix", 1.0),))
        (whole,) = table(context(understood("teh matrix", words=words)), pooled("3"))
        assert whole["title_exact"] == 1.0

    def test_words_beside_the_title_are_told_apart_by_what_they_are(self) -> None:
        documents = {
            "a": {"id": "a", "title": "Toys", "genres": ["Dark Comedy", 7], "overview": "A cowboy in space"},
            "b": {"id": "b", "title": "The Cowboy", "genres": "Comedy", "overview": ["Dark", None, {"x": "space"}]},
        }
        names = ("keywords_query_rarity", "texts_query_rarity", "words_query_rarity")
        found = table(context(understood("the dark cowboy 7 space")), pooled("a", "b", "c"), documents)
        assert [[row[name] for name in names] for row in found] == [
            pytest.approx([0.5, 0.5, 1.0]),
            pytest.approx([0.0, 0.25, 0.5]),
            [0.0, 0.0, 0.0],
        ]

    def test_of_a_long_text_the_beginning_is_read(self) -> None:
        documents = {"a": {"id": "a", "title": "Toys", "overview": "cowboy " + "word " * 10_000 + "space"}}
        (row,) = table(context(understood("cowboy space")), pooled("a"), documents)
        assert row["texts_query_rarity"] == pytest.approx(0.5)

    def test_priors(self) -> None:
        one, _, three = table(context(understood("x")), pooled("1", "2", "3"))
        assert one["prior"] == 1.0 > three["prior"] > 0.0
        assert three["newness"] == pytest.approx(0.3)

    def test_slots_of_the_first_and_of_the_other_readings(self) -> None:
        genre = Slot("genres", "animation", 0, 1, 0.75)
        years = Slot("year", "90s", 0, 1, 0.25, low=1995.0, high=1999.0)
        title = Slot("title", "Toy Story", 0, 1, 1.0)
        readings = Interpretation(0.5, (genre, years), ()), Interpretation(0.4, (title,), ())
        one, two, three = table(context(understood("x", *readings)), pooled("1", "2", "3"))
        assert [one["slots_first"], two["slots_first"], three["slots_first"]] == pytest.approx([1.0, 0.75, 0.25])
        assert [one["slots_best"], two["slots_best"], three["slots_best"]] == pytest.approx([0.5, 0.375, 0.125])
        assert [one["slots_expected"], two["slots_expected"]] == pytest.approx([0.9, 0.375])
        assert [one["slots_range"], two["slots_range"], three["slots_range"]] == [1.0, 0.0, 1.0]
        assert one["slots_title"] == 0.0
        (named,) = table(context(understood("x", readings[1])), pooled("1"))
        assert named["slots_title"] == 1.0

    def test_dates_are_within_bounds_in_seconds(self) -> None:
        slot = Slot("released", "2010", 0, 1, 1.0, low=1262304000.0, high=1293839999.0)
        documents = {"a": {"id": "a", "released": "2010-06-18"}, "b": {"id": "b", "released": "2011-01-01"}}
        seen = context(understood("x", Interpretation(1.0, (slot,), ())))
        assert [row["slots_range"] for row in table(seen, pooled("a", "b"), documents)] == [1.0, 0.0]

    def test_memory_and_history(self) -> None:
        remembered = (Remembered("2", 0.8, math.e - 1, False, 0.5), Remembered("3", 0.2, 0.0, True, 1.0))
        person = Person("u:1", (("2", -1.0, 5.0), ("2", 1.0, 1.0)))
        one, two, three = table(context(understood("x"), memory=remembered, person=person), pooled("1", "2", "3"))
        names = ("remembered_score", "remembered_clicks", "remembered_predicted", "remembered_similarity", "seen")
        assert [two[name] for name in names] == pytest.approx([0.8, 1.0, 0.0, 0.5, -1.0])
        assert [three[name] for name in names] == pytest.approx([0.2, 0.0, 1.0, 1.0, 0.0])
        assert [one[name] for name in names] == [0.0] * 5
        assert one["person_known"] == 1.0

    def test_how_much_is_known_of_the_query_and_of_who_asks(self) -> None:
        """The column is in every row, so that an item without data differs from a query without data."""
        remembered = (
            Remembered("2", 0.8, 3.0, False, 1.0),
            Remembered("9", 0.8, 4.0, False, 1.0),
            Remembered("1", 0.8, 5.0, False, 0.7),
        )
        person = Person("u:1", (("2", -1.0, 5.0), ("2", 1.0, 1.0), ("3", 2.0, 1.0), ("8", 2.0, 1.0)))
        for row in table(context(understood("x"), memory=remembered, person=person), pooled("1", "2", "3")):
            assert [row[name] for name in ("query_clicks", "person_actions", "person_seen")] == pytest.approx(
                [math.log1p(7.0), math.log1p(4.0), math.log1p(2.0)]
            )

    def test_a_changed_document_is_read_anew(self) -> None:
        seen = context(understood("toy story"))
        assert table(seen, pooled("1"))[0]["title_exact"] == 1.0
        changed = {"1": {**DOCUMENTS["1"], "title": "Woody"}}
        assert table(seen, pooled("1"), changed)[0]["title_exact"] == 0.0
        other = replace(SCHEMA, title=None)
        assert rows(seen, pooled("1"), DOCUMENTS, other)[0, NAMES.index("title_exact")] == 0.0


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


class TestStrangers:
    @given(st.dictionaries(st.sampled_from(["title", "genres", "year", "popularity", "released"]), json_values))
    def test_no_document_breaks_a_search(self, document: dict[str, Any]) -> None:
        slots = (Slot("genres", "x", 0, 1, 0.0), Slot("year", "1", 0, 1, 1.0, low=1.0), Slot("nowhere", "x", 0, 1, 1.0))
        seen = context(understood("toy story", Interpretation(1.0, slots, ())))
        found = rows(seen, pooled("odd", "absent"), {"odd": {**document, "id": "odd"}}, SCHEMA)
        assert np.isfinite(found).all()

    @given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
    def test_no_number_leaves_the_bounds(self, score: float, memory: float) -> None:
        pool = fuse({"lexical": [Candidate("1", 1e299), Candidate("2", -1e299)]}, FUSION_WEIGHTS)
        pool[0].score = score
        seen = context(understood("x"), memory=(Remembered("1", memory, memory, False, memory),))
        found = rows(seen, pool, DOCUMENTS, SCHEMA)
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= 1e6

    def test_a_query_without_words(self) -> None:
        nothing = Understanding("", (), (), None, "und", ())
        for row in table(context(nothing), pooled("1", "2")):
            assert (row["title_exact"], row["title_prefix"], row["query_tokens"]) == (0.0, 0.0, 0.0)

    def test_a_page_of_text(self) -> None:
        (row,) = table(context(understood("toy story " * 2000)), pooled("1"))
        assert row["query_tokens"] == 4000.0
        assert row["title_share"] == 1.0

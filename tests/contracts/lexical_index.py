"""Contract of every lexical index: assertions once, a subclass of LexicalIndexContract per implementation."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.backends.base import ANY_KEYWORD, Constraint, IndexQuery, IndexResult, LexicalIndex, SlotMatch, TextMatch
from services.schema.filters import matches
from services.schema.priors import measure
from services.text import normalize, tokenize
from services.types import Alternative, Condition, Deadline, Document, Field, Role, Schema, Sort

T = TypeVar("T")

FIELDS = Schema(
    fields=(
        Field("title", Role.TEXT, 3.0),
        Field("plot", Role.TEXT),
        Field("genres", Role.KEYWORD, 1.5),
        Field("director", Role.KEYWORD, 1.5),
        Field("odd name: [x] AND *", Role.KEYWORD),
        Field("year", Role.NUMBER),
        Field("released", Role.DATE),
        Field("votes", Role.NUMBER),
        Field("rating", Role.NUMBER),
        Field("popularity", Role.POPULARITY),
        Field("note", Role.STORED),
    ),
    title="title",
    popularity="popularity",
    rating="rating",
    votes="votes",
    created="year",
)


def film(object_id: str, title: str, year: int | None, popularity: float, rating: float, **more: Any) -> Document:
    return {
        "id": object_id,
        "title": title,
        "year": year,
        "popularity": popularity,
        "rating": rating,
        "votes": 100,
    } | more


FILMS: list[Document] = [
    film("f1", "The Dark Knight", 2008, 95, 9.0, genres=["Action", "Crime"], director="Christopher Nolan"),
    film("f2", "The Dark Knight Rises", 2012, 80, 8.4, genres=["Action"], director="Christopher Nolan"),
    film("f3", "A Knight's Tale", 2001, 30, 7.0, genres=["Adventure", "Comedy"], director="Brian Helgeland"),
    film("f4", "Dark City", 1998, 20, 7.6, genres=["Mystery"], director="Alex Proyas", released="1998-02-27"),
    film("f5", "Brokeback Mountain", 2005, 40, 7.7, genres=["Drama", "Romance"], director="Ang Lee"),
    film("f6", "Amélie", 2001, 60, 8.3, genres=["Comedy", "Romance"], director="Jean-Pierre Jeunet"),
    film("f7", "Memento", 2000, 50, 8.4, genres=["Mystery"], director="Christopher Nolan", released="2000-10-11"),
    film("f8", "Untitled", None, 1, 5.0, plot="A knight without a film", note="dark"),
    film("f9", "Stanley Kubrick", None, 10, 6.0, plot="about the director"),
    film("f10", "The Shining", 1980, 70, 8.2, genres=["Horror"], director="Stanley Kubrick"),
]
SCHEMA = measure(FIELDS, FILMS)
SHARED = (HealthCheck.function_scoped_fixture, HealthCheck.differing_executors)
"""One index for all examples, and one test body, a class per index."""


def soon() -> Deadline:
    return Deadline.after(10.0)


def words(text: str, ngram_weight: float = 0.0, ngrams_match: bool = False) -> TextMatch:
    alternatives = tuple((Alternative(token, 1.0),) for token in tokenize(text))
    return TextMatch(alternatives, normalize(text), ngram_weight, ngrams_match)


def ids(result: IndexResult) -> list[str]:
    return [candidate.object_id for candidate in result.candidates]


class LexicalIndexContract:
    def open(self, folder: Path, schema: Schema) -> LexicalIndex:
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "index"

    @asynccontextmanager
    async def filled(self, folder: Path, documents: list[Document] | None = None) -> AsyncIterator[LexicalIndex]:
        """An index of `documents` (the films above when None)."""
        index = self.open(folder, SCHEMA)
        try:
            await index.rebuild(SCHEMA, FILMS if documents is None else documents)
            yield index
        finally:
            await index.close()

    async def search(self, folder: Path, query: IndexQuery) -> IndexResult:
        async with self.filled(folder) as index:
            return await index.search(query, soon())

    # --- words --------------------------------------------------------------------------------------------------------

    async def test_at_least_one_word_must_be_there(self, folder: Path) -> None:
        found = await self.search(folder, IndexQuery(text=words("dark knight")))
        assert set(ids(found)) == {"f1", "f2", "f3", "f4", "f8"}
        assert found.total == 5
        assert ids(found)[:2] == ["f1", "f2"]
        scores = [candidate.score for candidate in found.candidates]
        assert scores == sorted(scores, reverse=True)

    async def test_accents_case_and_inflection_do_not_matter(self, folder: Path) -> None:
        assert ids(await self.search(folder, IndexQuery(text=words("AMELIE")))) == ["f6"]
        assert "f3" in ids(await self.search(folder, IndexQuery(text=words("knights"))))

    async def test_alternatives_are_looked_for_and_the_likelier_one_counts_more(self, folder: Path) -> None:
        match = TextMatch(((Alternative("memento", 0.9), Alternative("shining", 0.1)),), "mementi")
        assert ids(await self.search(folder, IndexQuery(text=match))) == ["f7", "f10"]

    async def test_an_alternative_of_two_words_needs_both(self, folder: Path) -> None:
        match = TextMatch(((Alternative("dark city", 1.0),),), "darkcity")
        assert ids(await self.search(folder, IndexQuery(text=match))) == ["f4"]

    async def test_ngrams_find_titles_that_no_word_finds(self, folder: Path) -> None:
        assert "f5" not in ids(await self.search(folder, IndexQuery(text=words("brokebac montain"))))
        assert "f5" not in ids(await self.search(folder, IndexQuery(text=words("brokebac montain", 1.0))))
        assert ids(await self.search(folder, IndexQuery(text=words("brokebac montain", 1.0, True))))[0] == "f5"

    async def test_ngrams_prefer_titles_like_the_whole_query_and_add_no_match(self, folder: Path) -> None:
        plain = await self.search(folder, IndexQuery(text=words("knight s tales")))
        found = await self.search(folder, IndexQuery(text=words("knight s tales", 1.0)))
        assert set(ids(found)) == set(ids(plain))
        assert found.total == plain.total
        assert ids(found)[0] == "f3"

    async def test_no_words_match_nothing(self, folder: Path) -> None:
        assert await self.search(folder, IndexQuery(text=words("!?"))) == IndexResult((), 0, {})

    @settings(max_examples=60, deadline=None, suppress_health_check=SHARED)
    @given(hostile=st.lists(st.text(max_size=60), max_size=12))
    def test_hostile_text_is_only_ever_a_value(self, shared_index: tuple[Any, Any], hostile: list[str]) -> None:
        """Raw alternatives, values and prefixes: nothing raises, and `OR` adds no match that it does not name."""
        runner, index = shared_index
        junk = [f"{text} zqx" for text in hostile]  # an alternative of several words needs all of them: matches none
        alternatives = [(Alternative(text, 1.0),) for text in ("memento", *junk)]
        match = TextMatch(tuple(alternatives), " ".join(hostile), 0.5)
        assert ids(runner.run(index.search(IndexQuery(text=match), soon()))) == ["f7"]
        for text in hostile:
            raw = TextMatch(((Alternative(text, 1.0),),), text, 1.0, True)
            slots = SlotMatch((Constraint("director", 1.0, text), Constraint(text, 1.0, "x")))
            filters = (Condition("genres", any_of=(text,)),)
            runner.run(index.search(IndexQuery(text=raw), soon()))
            assert ids(runner.run(index.search(IndexQuery(text=raw, slots=slots, filters=filters), soon()))) == []
            runner.run(index.titles(text, 5, soon()))

    @pytest.fixture
    def shared_index(self, folder: Path) -> Any:
        """One index for many examples, on one event loop."""
        with asyncio.Runner() as runner:
            index = self.open(folder, SCHEMA)
            runner.run(index.rebuild(SCHEMA, FILMS))
            yield runner, index
            runner.run(index.close())

    # --- structure ----------------------------------------------------------------------------------------------------

    async def test_items_that_meet_more_come_first_and_quality_orders_the_rest(self, folder: Path) -> None:
        slots = SlotMatch((Constraint("director", 0.9, "christopher NOLAN"), Constraint("genres", 0.8, "mystery")))
        found = await self.search(folder, IndexQuery(slots=slots))
        assert ids(found) == ["f7", "f1", "f2", "f4"]  # both; the director (heavier), better rated first; the genre

    async def test_quality_never_lifts_an_item_over_one_that_meets_more(self, folder: Path) -> None:
        items = [
            film("bad", "Bad", 2000, 1, 1.0, director="Ang Lee") | {"votes": 10**6},
            film("good", "Good", 2000, 1, 9.0, director="Brian Helgeland") | {"votes": 10**6},
        ]
        slots = SlotMatch((Constraint("director", 0.501, "Ang Lee"), Constraint("director", 0.5, "Brian Helgeland")))
        async with self.filled(folder, items) as index:
            found = await index.search(IndexQuery(slots=slots), soon())
        assert ids(found) == ["bad", "good"]

    async def test_need(self, folder: Path) -> None:
        both = SlotMatch((Constraint("genres", 0.5, "Action"), Constraint("year", 0.5, None, 2010, 2019)), need=2)
        assert ids(await self.search(folder, IndexQuery(slots=both))) == ["f2"]
        never = SlotMatch((Constraint("genres", 0.5, "Action"),), need=2)
        assert (await self.search(folder, IndexQuery(slots=never))).total == 0

    async def test_readings_of_the_same_words_count_once(self, folder: Path) -> None:
        readings = (
            Constraint("director", 0.6, "Christopher Nolan", group=0),
            Constraint("genres", 0.5, "Mystery", group=0),
        )
        slots = SlotMatch((*readings, Constraint("year", 0.2, None, 2012, 2012, group=1)))
        assert ids(await self.search(folder, IndexQuery(slots=slots))) == ["f2", "f1", "f7", "f4"]

    async def test_many_constraints(self, folder: Path) -> None:
        many = tuple(Constraint("year", 0.1, None, year, year) for year in range(1990, 2010))
        found = await self.search(folder, IndexQuery(slots=SlotMatch((*many, Constraint("director", 1.0, "Ang Lee")))))
        assert ids(found)[0] == "f5"
        assert found.total == 6

    async def test_titles_and_any_keyword_field(self, folder: Path) -> None:
        slots = SlotMatch((Constraint("title", 1.0, "stanley kubrick"),))
        assert ids(await self.search(folder, IndexQuery(slots=slots))) == ["f9"]
        slots = SlotMatch((Constraint(ANY_KEYWORD, 1.0, "Stanley Kubrick"),))
        assert ids(await self.search(folder, IndexQuery(slots=slots))) == ["f10"]

    async def test_text_or_slots(self, folder: Path) -> None:
        slots = SlotMatch((Constraint("genres", 1.0, "Romance"),))
        found = await self.search(folder, IndexQuery(text=words("memento"), slots=slots))
        assert set(ids(found)) == {"f5", "f6", "f7"}
        assert found.total == 3

    # --- filters, facets, order ---------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ((Condition("genres", any_of=("Action", "Horror")),), {"f1", "f2", "f10"}),
            ((Condition("genres", any_of=("action",)),), set()),
            ((Condition("genres", any_of=("Comedy",)), Condition("genres", any_of=("Romance",))), {"f6"}),
            ((Condition("year", any_of=(2001.0,)),), {"f3", "f6"}),
            ((Condition("year", gte=2001, lt=2008),), {"f3", "f5", "f6"}),
            ((Condition("year", gt=2001, lte=2008),), {"f1", "f5"}),
            ((Condition("year", gt=2001, gte=2001, lt=2005, lte=2005),), set()),
            ((Condition("released", gte=946684800.0),), {"f7"}),
            ((Condition("popularity", lt=20),), {"f8", "f9"}),
            ((Condition("gone", any_of=("x",)),), set()),
            ((Condition("title", any_of=("Memento",)),), set()),
        ],
    )
    async def test_filters(self, folder: Path, filters: tuple[Condition, ...], expected: set[str]) -> None:
        found = await self.search(folder, IndexQuery(filters=filters))
        assert set(ids(found)) == expected
        assert found.total == len(expected)
        assert {d["id"] for d in FILMS if matches(filters, d, SCHEMA)} == expected

    async def test_filters_hold_for_every_way_to_match_and_do_not_change_scores(self, folder: Path) -> None:
        only = (Condition("year", gte=2010),)
        plain = await self.search(folder, IndexQuery(text=words("knight")))
        narrowed = await self.search(folder, IndexQuery(text=words("knight"), filters=only))
        assert ids(narrowed) == ["f2"]
        assert narrowed.candidates[0] in plain.candidates

    async def test_facets_count_all_matches_not_only_those_returned(self, folder: Path) -> None:
        found = await self.search(folder, IndexQuery(facets=("genres", "year", "released"), limit=1))
        genres = Counter(genre for d in FILMS for genre in d.get("genres", ()))
        expected = sorted(genres.items(), key=lambda entry: (-entry[1], entry[0]))
        assert [(f.value, f.count) for f in found.facets["genres"]] == expected
        assert found.facets["year"][0].value == 2001
        assert found.facets["year"][0].count == 2
        assert {f.value for f in found.facets["released"]} == {"1998-02-27", "2000-10-11"}
        under = await self.search(
            folder, IndexQuery(facets=("genres",), filters=(Condition("year", any_of=(2008.0,)),))
        )
        assert [(f.value, f.count) for f in under.facets["genres"]] == [("Action", 1), ("Crime", 1)]

    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            (Sort("year"), ["f10", "f4", "f7", "f3", "f6", "f5", "f1", "f2", "f8", "f9"]),
            (Sort("year", True), ["f2", "f1", "f5", "f3", "f6", "f7", "f4", "f10", "f8", "f9"]),
            (Sort("director"), ["f4", "f5", "f3", "f1", "f2", "f7", "f6", "f10", "f8", "f9"]),
            (Sort("director", True), ["f10", "f6", "f1", "f2", "f7", "f3", "f5", "f4", "f8", "f9"]),
            (Sort("released"), ["f4", "f7", "f1", "f10", "f2", "f3", "f5", "f6", "f8", "f9"]),
            (Sort("popularity", True), ["f1", "f2", "f10", "f6", "f7", "f5", "f3", "f4", "f9", "f8"]),
            (Sort("votes"), ["f1", "f10", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"]),
        ],
    )
    async def test_sorted_with_missing_values_last_and_ties_by_id(
        self, folder: Path, sort: Sort, expected: list[str]
    ) -> None:
        async with self.filled(folder) as index:
            whole = await index.search(IndexQuery(sort=sort, limit=10), soon())
            assert whole.total == 10
            scores = [candidate.score for candidate in whole.candidates]
            assert scores == sorted(scores, reverse=True)
            parts = [await index.search(IndexQuery(sort=sort, limit=2, offset=i), soon()) for i in range(0, 10, 2)]
            assert [ids(whole), [object_id for part in parts for object_id in ids(part)]] == [expected, expected]

    async def test_browsing_by_popularity_or_newness(self, folder: Path) -> None:
        assert ids(await self.search(folder, IndexQuery(limit=3)))[0] == "f1"
        popular = await self.search(folder, IndexQuery(limit=10))
        assert ids(popular) == ["f1", "f2", "f10", "f6", "f7", "f5", "f3", "f4", "f9", "f8"]
        assert ids(await self.search(folder, IndexQuery(limit=3, newest=True))) == ["f2", "f1", "f5"]
        voted = [film("more votes", "A", 2000, 40, 5), film("more popular", "B", 2000, 41, 5) | {"votes": 1}]
        async with self.filled(folder, voted) as index:
            found = await index.search(IndexQuery(), soon())
        assert ids(found) == ["more popular", "more votes"]

    async def test_equal_scores_stand_in_the_order_of_their_ids_on_every_page(self, folder: Path) -> None:
        twins = [{"id": f"t{i}", "title": "Same Thing", "genres": ["X"]} for i in (5, 3, 9, 1, 7, 4, 2, 8, 6)]
        async with self.filled(folder, twins) as index:
            # Changed one by one: engines spread such writes over several segments.
            for twin in twins[3:6]:
                await index.apply([twin], [])
            for query in (
                IndexQuery(text=words("same thing"), limit=3),
                IndexQuery(slots=SlotMatch((Constraint("genres", 1.0, "x"),)), limit=3),
                IndexQuery(limit=3),
                IndexQuery(sort=Sort("genres", True), limit=3),
            ):
                seen: list[str] = []
                for offset in (0, 3, 6):
                    page = IndexQuery(query.text, query.slots, sort=query.sort, limit=3, offset=offset)
                    seen += ids(await index.search(page, soon()))
                assert seen == [f"t{i}" for i in range(1, 10)]
                beyond = IndexQuery(query.text, query.slots, sort=query.sort, limit=3, offset=9)
                assert await index.search(beyond, soon()) == IndexResult((), 9, {})

    # --- titles -------------------------------------------------------------------------------------------------------

    async def test_titles_by_any_word_sequence_most_popular_first(self, folder: Path) -> None:
        async with self.filled(folder) as index:
            for prefix, expected in {
                "dark kn": ["The Dark Knight", "The Dark Knight Rises"],
                "the": ["The Dark Knight", "The Dark Knight Rises", "The Shining"],
                "DARK": ["The Dark Knight", "The Dark Knight Rises", "Dark City"],
                "the dark knight rise": ["The Dark Knight Rises"],
                "ame": ["Amélie"],
                "kni": ["The Dark Knight", "The Dark Knight Rises", "A Knight's Tale"],
                "knight ": ["The Dark Knight", "The Dark Knight Rises"],  # a complete word: no "Knight's"
                "the dark knight rises ": ["The Dark Knight Rises"],
                "zz": [],
                "": [],
                "  ": [],
            }.items():
                found = await index.titles(prefix, 5, soon())
                assert [title for title, _ in found] == expected, prefix
            assert len(await index.titles("the", 1, soon())) == 1
            (_, prior), *_rest = await index.titles("dark", 5, soon())
            assert 0.0 <= prior <= 1.0

    # --- writes -------------------------------------------------------------------------------------------------------

    async def test_writes_are_seen_by_the_next_search(self, folder: Path) -> None:
        async with self.filled(folder) as index:

            async def named(text: str) -> list[str]:
                return ids(await index.search(IndexQuery(text=words(text)), soon()))

            await index.apply([film("new", "Zodiac", 2007, 5, 7.7)], [])
            assert await named("zodiac") == ["new"]
            await index.apply([film("new", "Zombieland", 2009, 5, 7.6)], [])
            assert await named("zodiac") == []
            assert await named("zombieland") == ["new"]
            await index.apply([], ["new", "never there"])
            assert await named("zombieland") == []
            assert (await index.search(IndexQuery(), soon())).total == len(FILMS)

    async def test_applying_again_changes_nothing(self, folder: Path) -> None:
        async with self.filled(folder) as index:
            before = await index.search(IndexQuery(text=words("dark knight")), soon())
            for _ in range(2):
                await index.apply([FILMS[0], FILMS[0]], ["gone"])
            after = await index.search(IndexQuery(text=words("dark knight")), soon())
            assert ids(after) == ids(before)
            assert after.total == before.total

    async def test_concurrent_writes_all_arrive(self, folder: Path) -> None:
        async with self.filled(folder) as index:
            await asyncio.gather(*(index.apply([film(f"n{i}", "Flood", 2000, 1, 5)], []) for i in range(20)))
            assert (await index.search(IndexQuery(text=words("flood")), soon())).total == 20

    async def test_searches_go_on_while_it_is_rebuilt(self, folder: Path) -> None:
        fresh = [film(f"r{i}", "Rebuilt", 2000, i, 5) for i in range(1500)]
        async with self.filled(folder) as index:
            rebuilding = asyncio.create_task(index.rebuild(SCHEMA, iter(fresh)))
            seen = set()
            while not rebuilding.done():
                found = await index.search(IndexQuery(limit=5), soon())
                assert len(found.candidates) == 5
                seen.add(found.total)
                await asyncio.sleep(0)  # a search may answer without giving way
            await rebuilding
            assert seen <= {len(FILMS), len(fresh)}
            assert len(FILMS) in seen
            assert (await index.search(IndexQuery(), soon())).total == len(fresh)

    async def test_a_rebuild_that_fails_leaves_the_old_index(self, folder: Path) -> None:
        async with self.filled(folder) as index:

            def broken() -> Any:
                yield FILMS[0]
                raise KeyError("the source broke")

            with pytest.raises(KeyError):
                await index.rebuild(SCHEMA, broken())
            assert (await index.search(IndexQuery(), soon())).total == len(FILMS)

    async def test_a_passed_deadline_raises(self, folder: Path) -> None:
        async with self.filled(folder) as index:
            passed = Deadline(time.monotonic() - 1.0)
            with pytest.raises(TimeoutError):
                await index.search(IndexQuery(), passed)
            with pytest.raises(TimeoutError):
                await index.titles("the", 5, passed)

"""The arms that read the lexical index, and what they make of a query's meaning."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.arms.base import Arm
from services.arms.explore import ExploreArm
from services.arms.lexical import LexicalArm
from services.arms.matching import DOUBTFUL_NGRAM_WEIGHT, NGRAM_WEIGHT, index_query, slot_match, text_match
from services.arms.structured import StructuredArm
from services.backends.base import LexicalIndex
from services.backends.tantivy.index import TantivyIndex
from services.types import (
    Alternative,
    Condition,
    Context,
    Deadline,
    Interpretation,
    Query,
    Slot,
    Sort,
    Understanding,
)
from services.understanding.pipeline import Understander
from tests.contracts.arm import ArmContract, Case, asking, context_of
from tests.contracts.lexical_index import FILMS, SCHEMA

T = TypeVar("T")


def understander() -> Understander:
    made = Understander(SCHEMA)
    made.add(FILMS)
    return made


class IndexArmContract(ArmContract):
    """Over the films of the lexical index's contract."""

    filters: tuple[Condition, ...]
    texts: tuple[str, ...]
    silent: tuple[str, ...] = ()

    def arm(self, index: LexicalIndex) -> Arm:
        raise NotImplementedError

    async def case(self, folder: Path) -> Case:
        index = TantivyIndex(folder, SCHEMA)
        await index.rebuild(SCHEMA, FILMS)
        meaning = understander()
        return Case(
            arm=self.arm(index),
            documents={item["id"]: item for item in FILMS},
            schema=SCHEMA,
            contexts=[asking(text, meaning) for text in self.texts],
            filters=self.filters,
            silent=[asking(text, meaning) for text in self.silent],
            close=index.close,
        )


class TestLexicalArm(IndexArmContract):
    texts = ("dark knight", "the knight", "darc nknight")
    filters = (Condition("year", gte=2005),)
    silent = ("", "?!")

    def arm(self, index: LexicalIndex) -> Arm:
        return LexicalArm(index)


class TestStructuredArm(IndexArmContract):
    texts = ("christopher nolan", "romance or action", "2001")
    filters = (Condition("director", any_of=("Christopher Nolan", "Brian Helgeland")), Condition("year", lt=2012))
    silent = ("", "zzz")

    def arm(self, index: LexicalIndex) -> Arm:
        return StructuredArm(index)


class TestExploreArm(IndexArmContract):
    texts = ("anything", "", "dark knight")
    filters = (Condition("year", lt=2001),)

    def arm(self, index: LexicalIndex) -> Arm:
        return ExploreArm(index)


@asynccontextmanager
async def with_index(folder: Path, items: Any = FILMS) -> AsyncIterator[LexicalIndex]:
    index = TantivyIndex(folder, SCHEMA)
    try:
        await index.rebuild(SCHEMA, items)
        yield index
    finally:
        await index.close()


async def found(arm: Arm, context: Context, count: int = 10) -> list[str]:
    return [candidate.object_id for candidate in await arm.retrieve(context, count, Deadline.after(10))]


def understood(
    text: str,
    *interpretations: Interpretation,
    words: tuple[tuple[Alternative, ...], ...] | None = None,
    corrected: str | None = None,
    unknown: float = 0.0,
) -> Understanding:
    tokens = tuple(text.split())
    plain = Interpretation(0.1, (), tuple(token for token in tokens if token != "the"))
    return Understanding(
        normalized=text,
        tokens=tokens,
        words=words or tuple((Alternative(token, 1.0),) for token in tokens),
        corrected=corrected,
        language="en",
        interpretations=(*interpretations, plain),
        unknown=unknown,
    )


# --- text_match -------------------------------------------------------------------------------------------------------


def test_stopwords_are_left_out_when_other_words_remain() -> None:
    assert [word[0].text for word in text_match(understood("the dark knight")).words] == ["dark", "knight"]
    assert [word[0].text for word in text_match(understood("the the")).words] == ["the", "the"]


def test_ngrams_find_items_by_themselves_only_when_the_spelling_is_in_doubt() -> None:
    sure = text_match(understood("dark knight"))
    assert (sure.ngram_weight, sure.ngrams_match) == (NGRAM_WEIGHT, False)
    for doubtful in (understood("darc knight", unknown=0.5), understood("darc knight", corrected="dark knight")):
        match = text_match(doubtful)
        assert (match.ngram_weight, match.ngrams_match) == (DOUBTFUL_NGRAM_WEIGHT, True)


async def test_a_slip_of_the_finger_finds_the_title(tmp_path: Path) -> None:
    async with with_index(tmp_path) as index:
        meaning = understander()
        for text, expected in (("brokeback montain", "f5"), ("broke back mountian", "f5"), ("mementto", "f7")):
            assert (await found(LexicalArm(index), asking(text, meaning)))[0] == expected


# --- slot_match -------------------------------------------------------------------------------------------------------


def test_readings_of_the_same_words_share_a_group_and_weigh_as_likely_as_they_are() -> None:
    actor = Slot("director", "ang lee", 0, 7, 0.8)
    title = Slot("title", "ang lee", 0, 7, 0.5)
    year = Slot("year", "90s", 8, 11, 0.9, 1990, 1999)
    match = slot_match(
        understood("ang lee 90s", Interpretation(0.6, (actor, year), ()), Interpretation(0.3, (title, year), ()))
    )
    assert match is not None
    assert match.need == 1
    by_field = {constraint.field: constraint for constraint in match.constraints}
    assert by_field["director"].weight == pytest.approx(0.48)
    assert by_field["title"].weight == pytest.approx(0.15)
    assert by_field["year"].weight == pytest.approx(0.81)
    assert by_field["director"].group == by_field["title"].group != by_field["year"].group
    assert (by_field["year"].value, by_field["year"].low, by_field["year"].high) == (None, 1990, 1999)


def test_no_slots_no_match() -> None:
    assert slot_match(understood("dark knight")) is None


# --- index_query ------------------------------------------------------------------------------------------------------


def test_a_page_asks_for_everything_up_to_its_end() -> None:
    query = Query(
        "dark", filters=(Condition("year", gte=1.0),), facets=("genres",), sort=Sort("year"), limit=5, offset=20
    )
    asked = index_query(query, understood("dark"))
    assert (asked.limit, asked.offset) == (25, 0)
    assert (asked.filters, asked.facets, asked.sort) == (query.filters, query.facets, query.sort)
    assert asked.text is not None


async def test_an_empty_query_browses_and_one_without_words_matches_nothing(tmp_path: Path) -> None:
    meaning = understander()
    async with with_index(tmp_path) as index:
        queries = [index_query(Query(text), meaning.understand(text)) for text in ("", "  ", "?!")]
        assert [(await index.search(query, Deadline.after(10))).total for query in queries] == [
            len(FILMS),
            len(FILMS),
            0,
        ]


# --- structured -------------------------------------------------------------------------------------------------------


async def test_all_slots_first_then_relaxations(tmp_path: Path) -> None:
    async with with_index(tmp_path) as index:
        assert (await found(StructuredArm(index), asking("christopher nolan mystery", understander()))) == [
            "f7",
            "f1",
            "f2",
            "f4",
        ]


async def test_items_that_refer_to_what_a_title_names_follow(tmp_path: Path) -> None:
    context = context_of(
        Query("stanley kubrick"),
        understood(
            "stanley kubrick", Interpretation(0.9, (Slot("title", "Stanley Kubrick", 0, 15, 0.9),), ("stanley",))
        ),
    )
    async with with_index(tmp_path) as index:
        arm = StructuredArm(index)
        assert await found(arm, context) == ["f9", "f10"]
        assert await found(arm, context, 1) == ["f9"]
        direct, follower = await arm.retrieve(context, 2, Deadline.after(10))
        assert direct.score > follower.score > 0


# --- explore ----------------------------------------------------------------------------------------------------------


async def test_newest_and_most_popular_in_turn(tmp_path: Path) -> None:
    async with with_index(tmp_path) as index:
        assert (await found(ExploreArm(index), context_of(Query(""), understood("")), 4)) == ["f2", "f1", "f5", "f10"]
